//! Where a call stands. Pure: events in, the next state out.

use crate::{call::EndReason, media::Now};

/// The states of a call, each with what exists only in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The line is up and a trunk is being dialled.
    Dialing {
        /// When we stop waiting for an answer.
        give_up_at: Now,
        /// The line has said all it will say, and waits for what the agent has to say to it.
        line_done: bool,
    },
    /// Audio flows both ways.
    Bridged,
    /// One side is done; what the agent has sent is still being heard.
    Finishing {
        /// Why the call will have ended.
        reason: EndReason,
        /// How long the line must have been without the agent's voice.
        linger: Now,
        /// When the last of it was heard.
        dry_since: Option<Now>,
        /// When we stop waiting for a line that takes no frames.
        stuck_at: Now,
    },
    /// The line is over; the trunk was told and closes in order.
    Closing {
        /// Why the call ended.
        reason: EndReason,
        /// When we stop waiting for the trunk's goodbye.
        until: Now,
    },
    /// Over.
    Ended(EndReason),
}

/// What moves a call from state to state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A trunk took the call.
    TrunkAnswered,
    /// No trunk took the call, or the trunk is gone.
    TrunkEnded(EndReason),
    /// The agent is done: what it sent before is to be heard, then the call ends.
    AgentDone(EndReason),
    /// The line is gone.
    LineEnded(EndReason),
    /// The line will send no more, but still listens.
    LineDone,
    /// The daemon ends the call.
    Ordered(EndReason),
    /// Nothing of the agent is left to be heard.
    Dry,
    /// The agent is being heard.
    Heard,
    /// The trunk's connection is closed.
    TrunkClosed,
    /// Time has passed.
    Tick,
}

impl State {
    /// The state after this event at this time.
    #[must_use]
    pub fn handle_event(self, now: Now, event: Event) -> Self {
        match self {
            Self::Dialing { give_up_at, line_done } => match event {
                Event::TrunkAnswered if line_done => finishing(now, EndReason::LineHungUp, LINGER, Some(now)),
                Event::TrunkAnswered => Self::Bridged,
                Event::TrunkEnded(reason) | Event::AgentDone(reason) | Event::Ordered(reason) => Self::Ended(reason),
                // The caller gave up first; only a fault of the line itself is told apart from that.
                Event::LineEnded(EndReason::LineHungUp) => Self::Ended(EndReason::Abandoned),
                Event::LineEnded(reason) => Self::Ended(reason),
                Event::LineDone => Self::Dialing { give_up_at, line_done: true },
                Event::Tick if now >= give_up_at => Self::Ended(EndReason::TrunkTimeout),
                Event::Tick | Event::Dry | Event::Heard | Event::TrunkClosed => self,
            },
            Self::Bridged => match event {
                Event::TrunkEnded(reason) => Self::Ended(reason),
                Event::AgentDone(reason) => finishing(now, reason, Now::ZERO, None),
                Event::LineDone => finishing(now, EndReason::LineHungUp, LINGER, Some(now)),
                Event::LineEnded(reason) | Event::Ordered(reason) => Self::Closing { reason, until: now + GOODBYE },
                Event::TrunkClosed => Self::Ended(EndReason::TrunkLost),
                Event::TrunkAnswered | Event::Dry | Event::Heard | Event::Tick => self,
            },
            Self::Finishing { reason, linger, dry_since, stuck_at } => match event {
                Event::Dry => {
                    let since = dry_since.unwrap_or(now);
                    if now.saturating_sub(since) >= linger {
                        Self::Closing { reason, until: now + GOODBYE }
                    } else {
                        finishing(now, reason, linger, Some(since))
                    }
                }
                Event::Heard => finishing(now, reason, linger, None),
                // The first reason is the one on the record.
                Event::LineEnded(_) | Event::Ordered(_) => Self::Closing { reason, until: now + GOODBYE },
                // It has said what it had to say; the rest is still heard.
                Event::TrunkEnded(_) | Event::AgentDone(_) | Event::TrunkClosed => {
                    Self::Finishing { reason, linger: Now::ZERO, dry_since, stuck_at }
                }
                Event::Tick if now >= stuck_at => Self::Closing { reason, until: now + GOODBYE },
                Event::TrunkAnswered | Event::LineDone | Event::Tick => self,
            },
            Self::Closing { reason, until } => match event {
                Event::TrunkClosed | Event::TrunkEnded(_) => Self::Ended(reason),
                Event::Tick if now >= until => Self::Ended(reason),
                Event::Tick
                | Event::TrunkAnswered
                | Event::AgentDone(_)
                | Event::LineEnded(_)
                | Event::LineDone
                | Event::Ordered(_)
                | Event::Dry
                | Event::Heard => self,
            },
            Self::Ended(_) => self,
        }
    }

    /// Whether the line may still be sent to.
    #[must_use]
    pub const fn has_line(&self) -> bool {
        matches!(self, Self::Dialing { .. } | Self::Bridged | Self::Finishing { .. })
    }

    /// Why it ended, once that is certain.
    #[must_use]
    pub const fn reason(&self) -> Option<EndReason> {
        match *self {
            Self::Dialing { .. } | Self::Bridged => None,
            Self::Finishing { reason, .. } | Self::Closing { reason, .. } | Self::Ended(reason) => Some(reason),
        }
    }
}

/// A frame was just written, or this is where it begins.
fn finishing(now: Now, reason: EndReason, linger: Now, dry_since: Option<Now>) -> State {
    State::Finishing { reason, linger, dry_since, stuck_at: now + STUCK }
}

/// A line that takes no frame for so long will not be waited for.
const STUCK: Now = Now::from_secs(5);

/// How long the trunk has to say goodbye after our stop.
const GOODBYE: Now = Now::from_secs(5);

/// How long we listen for the agent's last words after the line's input has ended.
const LINGER: Now = Now::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    const DIALING: State = State::Dialing { give_up_at: Now::from_secs(5), line_done: false };

    fn at(ms: u64) -> Now {
        Now::from_millis(ms)
    }

    #[test]
    fn an_abandoned_call_does_not_become_a_trunk_refusal() {
        let ended = DIALING
            .handle_event(at(10), Event::LineEnded(EndReason::LineHungUp))
            .handle_event(at(20), Event::TrunkEnded(EndReason::TrunkRefused));
        assert_eq!(ended, State::Ended(EndReason::Abandoned));
    }

    #[test]
    fn a_trunk_that_never_answers_is_given_up() {
        assert_eq!(DIALING.handle_event(at(4999), Event::Tick), DIALING);
        assert_eq!(DIALING.handle_event(at(5000), Event::Tick), State::Ended(EndReason::TrunkTimeout));
    }

    #[test]
    fn what_the_agent_said_before_it_hung_up_is_heard() {
        let state = State::Bridged.handle_event(at(0), Event::AgentDone(EndReason::TrunkHungUp));
        let state = state.handle_event(at(20), Event::Heard).handle_event(at(40), Event::TrunkClosed);
        assert!(state.has_line());
        let state = state.handle_event(at(60), Event::Dry);
        assert_eq!(state, State::Closing { reason: EndReason::TrunkHungUp, until: at(5060) });
    }

    #[test]
    fn after_the_lines_input_has_ended_the_agent_has_half_a_second_to_answer() {
        let mut state = State::Bridged.handle_event(at(0), Event::LineDone);
        for ms in (20..400).step_by(20) {
            state = state.handle_event(at(ms), Event::Dry);
        }
        state = state.handle_event(at(400), Event::Heard).handle_event(at(420), Event::Dry);
        assert!(state.handle_event(at(919), Event::Dry).has_line());
        assert!(!state.handle_event(at(920), Event::Dry).has_line());
    }

    #[test]
    fn an_input_that_ends_before_a_trunk_has_answered_is_still_sent() {
        let state = DIALING.handle_event(at(10), Event::LineDone).handle_event(at(600), Event::TrunkAnswered);
        assert!(matches!(state, State::Finishing { reason: EndReason::LineHungUp, .. }));
        assert!(state.handle_event(at(1099), Event::Dry).has_line());
        assert!(!state.handle_event(at(1100), Event::Dry).has_line());
    }

    #[test]
    fn a_line_that_takes_no_frames_is_not_waited_for() {
        let state = State::Bridged.handle_event(at(0), Event::AgentDone(EndReason::TrunkHungUp));
        let state = state.handle_event(at(4000), Event::Heard).handle_event(at(8999), Event::Tick);
        assert!(state.has_line());
        assert!(!state.handle_event(at(9000), Event::Tick).has_line());
    }

    #[test]
    fn a_trunk_that_does_not_say_goodbye_is_left_after_five_seconds() {
        let state = State::Bridged.handle_event(at(0), Event::LineEnded(EndReason::LineHungUp));
        assert!(!state.has_line());
        assert_eq!(state.handle_event(at(4999), Event::Tick), state);
        assert_eq!(state.handle_event(at(5000), Event::Tick), State::Ended(EndReason::LineHungUp));
    }

    #[test]
    fn a_lost_trunk_gives_the_caller_back_at_once() {
        let state = State::Bridged.handle_event(at(0), Event::TrunkEnded(EndReason::TrunkLost));
        assert_eq!(state, State::Ended(EndReason::TrunkLost));
    }

    #[test]
    fn the_first_reason_is_the_one_on_the_record() {
        let state = State::Bridged
            .handle_event(at(0), Event::AgentDone(EndReason::TrunkHungUp))
            .handle_event(at(1), Event::LineEnded(EndReason::LineLost))
            .handle_event(at(2), Event::TrunkEnded(EndReason::TrunkLost));
        assert_eq!(state, State::Ended(EndReason::TrunkHungUp));
    }
}
