//! Who spoke when: what operators bill and tune by.
//!
//! A turn is the agent's answer: its first sample on the line after the caller had stopped speaking. The *response delay*
//! is what lies between. The detector knows that the caller has stopped only when its hang-over is over, and a quick
//! agent answers before that, so an answer is certain a moment after it was heard.
//!
//! ```text
//!   caller  ~~~~~~~~~~~~~~~~|........hang-over........|Stopped
//!   agent                       ======================
//!                           |<->| response delay
//! ```

use crate::media::Now;

/// The turns of one call.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    caller: Caller,
    /// The answer that was heard while the caller may still have been speaking, and until when it was known to.
    unsure: Option<(Now, Now)>,
    /// When the agent was last heard.
    agent_until: Option<Now>,
    count: u32,
    caller_spoke: Now,
    /// Response delays (ms), the latest ones where there are many.
    delays_ms: heapless::Vec<u16, MAX_DELAYS>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Caller {
    /// Nothing was said that waits for an answer.
    #[default]
    Silent,
    /// Since then, and last heard at the second.
    Speaking { since: Now, until: Now },
    /// Speech that ended then was not answered yet.
    Waits { since: Now },
}

impl Turns {
    /// The caller has begun to speak, at `from`.
    pub fn on_caller_started(&mut self, from: Now) {
        self.caller = Caller::Speaking { since: from, until: from };
        self.unsure = None;
    }

    /// The caller's voice was last heard at `until`.
    pub fn on_caller_heard(&mut self, until: Now) {
        if let Caller::Speaking { until: last, .. } = &mut self.caller {
            *last = until;
        }
    }

    /// The caller has stopped, at `until`. Gives the response delay where the agent has answered already.
    pub fn on_caller_stopped(&mut self, until: Now) -> Option<Now> {
        let Caller::Speaking { since, .. } = self.caller else { return None };
        self.caller_spoke += until.saturating_sub(since);
        match self.unsure.take() {
            // Nothing more of the caller was heard after the agent had begun.
            Some((answered, _)) if until <= answered => {
                self.caller = Caller::Silent;
                Some(self.add(answered.saturating_sub(until)))
            }
            // Both spoke at once: that was no answer to all of it.
            Some(_) | None => {
                self.caller = Caller::Waits { since: until };
                None
            }
        }
    }

    /// Audio of the agent left for the line, to be heard at `at`. Gives the response delay where this is an answer.
    pub fn on_agent_heard(&mut self, at: Now, until: Now) -> Option<Now> {
        let begins = self.agent_until.is_none_or(|last| at.saturating_sub(last) >= PAUSE);
        self.agent_until = Some(until);
        if !begins {
            return None;
        }
        match self.caller {
            Caller::Silent => None,
            Caller::Speaking { until, .. } => {
                self.unsure.get_or_insert((at, until));
                None
            }
            Caller::Waits { since } => {
                self.caller = Caller::Silent;
                Some(self.add(at.saturating_sub(since)))
            }
        }
    }

    /// What the agent said and was not heard by `now` will not be.
    pub fn on_agent_flushed(&mut self, now: Now) {
        self.agent_until = self.agent_until.map(|until| until.min(now));
    }

    /// Whether the agent is being heard, or was a moment ago.
    #[must_use]
    pub fn is_agent_heard(&self, now: Now) -> bool {
        self.agent_until.is_some_and(|until| now < until)
    }

    fn add(&mut self, delay: Now) -> Now {
        let ms = u16::try_from(delay.as_millis()).unwrap_or(u16::MAX);
        if self.delays_ms.push(ms).is_err()
            && let Some(oldest) = self.delays_ms.get_mut(self.count as usize % MAX_DELAYS)
        {
            *oldest = ms;
        }
        self.count += 1;
        delay
    }

    /// Answers of the agent.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// How long the caller spoke, pauses within speech included.
    #[must_use]
    pub fn caller_spoke(&self) -> Now {
        match self.caller {
            Caller::Speaking { since, until } => self.caller_spoke + until.saturating_sub(since),
            Caller::Silent | Caller::Waits { .. } => self.caller_spoke,
        }
    }

    /// What so many percent of the response delays did not exceed (ms); `None`: there was no answer.
    #[must_use]
    pub fn delay_ms(&self, percent: usize) -> Option<u64> {
        let mut sorted = self.delays_ms.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).map(|&ms| ms.into())
    }
}

/// After so much silence of the agent its next word begins a turn.
const PAUSE: Now = Now::from_millis(200);
/// Response delays that are kept.
const MAX_DELAYS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Now {
        Now::from_millis(ms)
    }

    fn speech(turns: &mut Turns, from: u64, until: u64) -> Option<Now> {
        turns.on_caller_started(at(from));
        turns.on_caller_heard(at(until));
        turns.on_caller_stopped(at(until))
    }

    #[test]
    fn an_agent_that_was_flushed_is_not_heard_and_answers_anew() {
        let at = Now::from_millis;
        let mut turns = Turns::default();
        // 400 ms lie in the vendor's queue.
        turns.on_agent_heard(at(1000), at(1400));
        turns.on_agent_flushed(at(1050));
        assert!(!turns.is_agent_heard(at(1100)));
        turns.on_caller_started(at(1040));
        assert_eq!(turns.on_caller_stopped(at(1200)), None);
        let later = at(1050) + PAUSE;
        assert_eq!(turns.on_agent_heard(later, later + at(20)), Some(later - at(1200)));
    }

    #[test]
    fn an_answer_is_measured_from_the_callers_last_word() {
        let mut turns = Turns::default();
        assert_eq!(turns.on_agent_heard(at(0), at(1500)), None, "a greeting answers nothing");
        assert_eq!(speech(&mut turns, 2000, 3000), None);
        assert_eq!(turns.on_agent_heard(at(3800), at(3820)), Some(at(800)));
        assert_eq!(turns.on_agent_heard(at(3820), at(3840)), None, "the same turn");
        assert_eq!(turns.on_agent_heard(at(9000), at(9020)), None, "more of the agent is no answer");
        assert_eq!((turns.count(), turns.caller_spoke(), turns.delay_ms(50)), (1, at(1000), Some(800)));
    }

    #[test]
    fn an_answer_within_the_hang_over_counts_once_the_caller_is_known_to_have_stopped() {
        let mut turns = Turns::default();
        turns.on_caller_started(at(1000));
        turns.on_caller_heard(at(2000));
        assert_eq!(turns.on_agent_heard(at(2300), at(2320)), None);
        assert_eq!(turns.on_caller_stopped(at(2000)), Some(at(300)));
        assert_eq!(turns.count(), 1);
    }

    #[test]
    fn who_speaks_into_the_agents_words_was_not_answered_by_them() {
        let mut turns = Turns::default();
        turns.on_caller_started(at(1000));
        turns.on_caller_heard(at(2000));
        turns.on_agent_heard(at(2300), at(2320));
        turns.on_caller_heard(at(2600));
        assert_eq!(turns.on_caller_stopped(at(2600)), None);
        assert_eq!(turns.on_agent_heard(at(3600), at(3620)), Some(at(1000)));
    }

    #[test]
    fn percentiles_are_taken_by_nearest_rank_and_old_delays_make_room() {
        let mut turns = Turns::default();
        assert_eq!(turns.delay_ms(50), None);
        for i in 1..=300 {
            speech(&mut turns, i * 10_000, i * 10_000 + 1000);
            turns.on_agent_heard(at(i * 10_000 + 1000 + i), at(i * 10_000 + 1500));
        }
        assert_eq!(turns.count(), 300);
        // 45 to 300 are left.
        assert_eq!((turns.delay_ms(50), turns.delay_ms(95)), (Some(172), Some(288)));
    }
}
