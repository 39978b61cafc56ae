//! What of the caller's side may be our own agent, come back: by level alone.
//!
//! A hybrid, a loudspeaker beside a microphone or a phone on a table gives back what we play, some decibels quieter and up
//! to 400 ms later, and a detector of voice takes it for the caller. What is louder than that can only be somebody else.
//!
//! ```text
//!   played  ......-15 -14 -16..............      held for 400 ms, less the loss, and 3 dB for safety: the bound
//!   heard   ..........-27 -26 -28....-20...      <- under it may be an echo, over it is the caller
//!                      echo, 12 dB    caller
//! ```
//!
//! The loss is learnt per call: how far the loudest of what came back was under the loudest of what was played. Someone
//! who speaks meanwhile can only make it look smaller, so of several answers the largest is nearest to the truth. It begins
//! at 3 dB, less than any hybrid loses (ITU-T G.168 counts on 6), so until the agent was alone on the line for half a second
//! only a caller who is as loud as the agent is believed.

use crate::media::{
    Now, Rate,
    clock::PTIME_MS,
    level::{SILENCE_DBOV, energy_of, level_of},
};

/// Compares what we play with what we hear. It is under 256 bytes and allocates nothing.
#[derive(Clone, Debug)]
pub(super) struct EchoGuard {
    frame: usize,
    rate: Rate,
    /// The energy of the frame of the caller's side that is being gathered, and its samples.
    energy: u64,
    len: usize,
    played: Played,
    /// Levels of the caller's side in the last [`LATEST`], oldest at `next` (dBov).
    heard: [i8; LATEST],
    next: usize,
    /// What the way there and back takes away, as far as is known (1/100 dB).
    loss: i32,
    /// Which of the last frames were over the bound, the newest in the lowest bit.
    over: u32,
    /// The agent is heard, or was so lately that its echo may be.
    agent_heard: bool,
}

impl EchoGuard {
    /// For a caller's side at this rate; nothing was played yet.
    pub(super) const fn new(rate: Rate) -> Self {
        Self {
            frame: rate.frame(),
            rate,
            energy: 0,
            len: 0,
            played: Played::new(),
            heard: [SILENCE_DBOV; LATEST],
            next: 0,
            loss: FIRST_LOSS,
            over: 0,
            agent_heard: false,
        }
    }

    /// The caller's side has another rate from now on. What was learnt stays.
    pub(super) const fn set_rate(&mut self, rate: Rate) {
        (self.rate, self.frame, self.energy, self.len) = (rate, rate.frame(), 0, 0);
    }

    /// 20 ms of the agent of this level (dBov) are heard from `at` on, which may lie ahead.
    pub(super) fn on_agent(&mut self, at: Now, level_dbov: i8) {
        self.played.put(slot(at), level_dbov);
        if !at.as_millis().is_multiple_of(PTIME_MS as u128) {
            self.played.put(slot(at) + 1, level_dbov);
        }
    }

    /// What was to be heard after `now` will not be.
    pub(super) fn on_agent_flushed(&mut self, now: Now) {
        self.played.cut(slot(now));
    }

    /// Any number of samples of the caller's side, of which the last was heard at `now`.
    pub(super) fn on_caller(&mut self, now: Now, samples: &[i16]) {
        let mut rest = samples;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(self.frame - self.len));
            self.energy += energy_of(piece);
            self.len += piece.len();
            rest = after;
            if self.len == self.frame {
                let level = level_of(self.energy, self.len);
                (self.energy, self.len) = (0, 0);
                self.on_frame(now.saturating_sub(self.rate.duration(rest.len())), level);
            }
        }
    }

    /// Whether somebody was louder than an echo could be, for 60 of the last 200 ms: that long a detector of voice takes at
    /// most to be sure that it is one.
    pub(super) const fn is_caller(&self) -> bool {
        self.over.count_ones() >= OVER
    }

    /// 20 ms of the caller's side that end at `now`.
    fn on_frame(&mut self, now: Now, level: i8) {
        self.heard[self.next] = level;
        self.next = (self.next + 1) % LATEST;
        // The frame that ends with a slot lies in it.
        let slot = slot(now.saturating_sub(Now::from_nanos(1)));
        self.learn(slot);
        let held = self.played.loudest(slot.saturating_sub(LATEST as u64 - 1), slot);
        let bound = i32::from(held) * 100 - self.loss + MARGIN;
        if held >= LOUD_DBOV && !self.agent_heard {
            // Silence before the agent spoke was over no bound: its first words may come back at once.
            self.over = 0;
        }
        self.agent_heard = held >= LOUD_DBOV;
        let is_over = held < LOUD_DBOV || i32::from(level) * 100 > bound;
        self.over = (self.over << 1 | u32::from(is_over)) & ((1 << OVER_WINDOW) - 1);
    }

    /// The echo of what was played [`LATEST`] ago has been heard by now, however long its way.
    fn learn(&mut self, slot: u64) {
        let latest = LATEST as u64 - 1;
        let Some(then) = slot.checked_sub(latest) else { return };
        let played = self.played.at(then);
        // Only the loudest tells: beside it the echo of something else would be taken for its own.
        let loudest = self.played.loudest(then.saturating_sub(latest), slot);
        if played < LOUD_DBOV || i16::from(played) < i16::from(loudest) - AMONG_LOUDEST_DB {
            return;
        }
        let heard = self.heard.iter().copied().fold(SILENCE_DBOV, i8::max);
        let loss = ((i32::from(played) - i32::from(heard)) * 100).clamp(0, MOST_LOSS);
        self.loss = if loss > self.loss {
            // Not all at once: one loud frame may have been lost on its way.
            self.loss + (loss - self.loss + 3) / 4
        } else {
            (self.loss - LESS_LOSS).max(loss)
        };
    }
}

/// Levels of what was played and of what will be, by the 20 ms of the clock in which it is heard (dBov).
#[derive(Clone, Debug)]
struct Played {
    levels: [i8; SLOTS as usize],
    /// The slot after the last one that is known.
    end: u64,
}

impl Played {
    const fn new() -> Self {
        Self { levels: [SILENCE_DBOV; SLOTS as usize], end: 0 }
    }

    fn put(&mut self, slot: u64, level: i8) {
        if slot + SLOTS < self.end {
            return;
        }
        // Nothing was played between.
        for silent in self.end.max((slot + 1).saturating_sub(SLOTS))..=slot {
            self.levels[(silent % SLOTS) as usize] = SILENCE_DBOV;
        }
        self.end = self.end.max(slot + 1);
        let known = &mut self.levels[(slot % SLOTS) as usize];
        *known = level.max(*known);
    }

    /// Nothing is played after this slot.
    fn cut(&mut self, slot: u64) {
        self.end = self.end.min(slot + 1);
    }

    fn at(&self, slot: u64) -> i8 {
        let known = slot < self.end && slot + SLOTS >= self.end;
        if known { self.levels[(slot % SLOTS) as usize] } else { SILENCE_DBOV }
    }

    fn loudest(&self, from: u64, to: u64) -> i8 {
        (from..=to).map(|slot| self.at(slot)).fold(SILENCE_DBOV, i8::max)
    }
}

/// The 20 ms of the clock in which this moment lies.
const fn slot(at: Now) -> u64 {
    at.as_millis() as u64 / PTIME_MS as u64
}

/// Frames within which an echo comes back: 400 ms, of which a mobile network takes up to 250 there and back, and the
/// jitter buffers between it and us the rest. (One more, as frames and slots do not begin together.)
const LATEST: usize = 400 / PTIME_MS + 1;
/// Slots that are remembered: 2.5 s, of which twice [`LATEST`] are past, a message to the line's far side (200 ms) is heard
/// late, and what it has in its queue (600 ms) lies ahead.
const SLOTS: u64 = 128;
/// What is played quieter than this does not come back as anything that a detector would take for a voice (dBov).
const LOUD_DBOV: i8 = -50;
/// Before anything was learnt (1/100 dB).
const FIRST_LOSS: i32 = 300;
/// No more is believed: so quiet an echo is none that a detector hears, and a phone may be put on its loudspeaker at any
/// time (1/100 dB).
const MOST_LOSS: i32 = 4000;
/// How fast a loss that seems to have become smaller is given up, for each frame that tells: 5 dB in a second (1/100 dB).
const LESS_LOSS: i32 = 10;
/// Frames that are cut elsewhere than those that were played differ by 3 dB either way; with 1 dB no voice that was measured
/// was taken for another, with 6 dB a caller who is 7 dB louder than the echo is often not heard (1/100 dB).
const MARGIN: i32 = 300;
/// How far under the loudest of its neighbours a frame may be for its echo to be told from theirs (dB).
const AMONG_LOUDEST_DB: i16 = 3;
/// So many frames of so many have to be over the bound.
const OVER: u32 = 3;
const OVER_WINDOW: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(frame: u64) -> Now {
        Now::from_millis(frame * PTIME_MS as u64)
    }

    /// A frame whose level is this (dBov).
    fn sound(dbov: i8) -> [i16; 160] {
        [(32_768.0 * 10_f64.powf(f64::from(dbov) / 20.0)) as i16; 160]
    }

    /// A second of the agent alone at -15 dBov, of which so much comes back after so many frames.
    fn after_a_second(echo_dbov: i8, frames: u64) -> EchoGuard {
        let mut guard = EchoGuard::new(Rate::Hz8000);
        for frame in 0..50 {
            guard.on_agent(at(frame), -15);
            let heard = if frame >= frames { echo_dbov } else { -70 };
            guard.on_caller(at(frame + 1), &sound(heard));
        }
        guard
    }

    /// Whether a caller of this level is believed over the agent.
    fn believes(guard: &EchoGuard, dbov: i8) -> bool {
        let mut guard = guard.clone();
        for frame in 50..54 {
            guard.on_agent(at(frame), -15);
            guard.on_caller(at(frame + 1), &sound(dbov));
        }
        guard.is_caller()
    }

    #[test]
    fn the_quietest_caller_who_is_believed_is_3_db_over_the_echo() {
        for frames in [3, 8, 19] {
            for echo in [-21, -27, -35] {
                let guard = after_a_second(echo, frames);
                assert!(!believes(&guard, echo + 2), "{echo} dBov after {frames} frames");
                assert!(believes(&guard, echo + 5), "{echo} dBov after {frames} frames");
            }
        }
        assert!(believes(&after_a_second(-70, 0), -45), "a line without an echo");
    }

    #[test]
    fn before_anything_is_known_only_who_is_as_loud_as_the_agent_is_believed() {
        let mut guard = EchoGuard::new(Rate::Hz8000);
        for frame in 0..8 {
            guard.on_agent(at(frame), -15);
            guard.on_caller(at(frame + 1), &sound(-16));
        }
        assert!(!guard.is_caller());
        for frame in 8..12 {
            guard.on_agent(at(frame), -15);
            guard.on_caller(at(frame + 1), &sound(-13));
        }
        assert!(guard.is_caller());
    }

    #[test]
    fn an_agents_first_words_that_come_back_at_once_are_no_caller() {
        let mut guard = EchoGuard::new(Rate::Hz8000);
        for frame in 0..50 {
            guard.on_caller(at(frame + 1), &sound(-70));
        }
        for frame in 50..60 {
            guard.on_agent(at(frame), -15);
            guard.on_caller(at(frame + 1), &sound(-21));
            assert!(!guard.is_caller(), "{frame}");
        }
    }

    #[test]
    fn while_nothing_is_played_everybody_is_the_caller() {
        let mut guard = after_a_second(-27, 3);
        assert!(!guard.is_caller());
        let mut believed_at = None;
        for frame in 50..100 {
            guard.on_caller(at(frame + 1), &sound(-60));
            if guard.is_caller() {
                believed_at.get_or_insert((frame - 50) * 20);
            }
        }
        assert_eq!(believed_at, Some(440), "the echo may take 400 ms, and it takes 60 to be sure");
    }

    #[test]
    fn a_caller_who_speaks_over_the_agent_for_seconds_is_not_taken_for_its_echo() {
        let mut guard = after_a_second(-70, 0);
        for frame in 50..150 {
            guard.on_agent(at(frame), -15);
            guard.on_caller(at(frame + 1), &sound(-25));
            assert!(frame < 53 || guard.is_caller(), "{frame}");
        }
    }

    #[test]
    fn a_phone_that_is_put_on_its_loudspeaker_is_known_within_seconds() {
        let mut guard = after_a_second(-55, 3);
        assert!(believes(&guard, -27));
        for frame in 50..400 {
            guard.on_agent(at(frame), -15);
            guard.on_caller(at(frame + 1), &sound(-27));
        }
        assert!(!guard.is_caller());
    }

    #[test]
    fn what_was_flushed_is_not_waited_for() {
        let mut guard = after_a_second(-27, 3);
        // The far side has another 600 ms.
        (50..80).for_each(|frame| guard.on_agent(at(frame), -15));
        guard.on_agent_flushed(at(50));
        let loss = guard.loss;
        for frame in 50..80 {
            guard.on_caller(at(frame + 1), &sound(if frame < 54 { -27 } else { -60 }));
        }
        assert!(guard.is_caller());
        assert!(
            guard.loss <= loss + 100,
            "{} dB/100, and {loss} before: there was no echo of what was not played",
            guard.loss
        );
    }

    #[test]
    fn levels_are_kept_by_the_clock_and_forgotten_after_two_seconds_and_a_half() {
        let mut played = Played::new();
        played.put(1000, -20);
        played.put(1000, -30);
        played.put(1010, -10);
        played.put(1005, -15);
        assert_eq!([1000, 1001, 1005, 1010, 1011].map(|slot| played.at(slot)), [-20, -127, -15, -10, -127]);
        assert_eq!(played.loudest(1001, 1009), -15);
        played.put(1000 + SLOTS, -40);
        assert_eq!((played.at(1000), played.at(1000 + SLOTS), played.at(1010)), (SILENCE_DBOV, -40, -10));
        played.put(999, -1);
        assert_eq!(played.loudest(0, 1000 + SLOTS), -10, "too late to count");
        played.cut(1005);
        assert_eq!((played.at(1005), played.at(1010)), (-15, SILENCE_DBOV));
        played.put(u64::MAX / 2, -5);
        assert_eq!(played.loudest(u64::MAX / 2 - 200, u64::MAX / 2), -5);
    }

    #[test]
    fn it_is_small() {
        assert!(size_of::<EchoGuard>() <= 256, "{}", size_of::<EchoGuard>());
    }
}
