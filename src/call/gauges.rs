//! What a live call looks like from outside: its media thread writes it once a second, whoever watches reads it.

use std::sync::atomic::{AtomicI8, AtomicU8, AtomicU64, Ordering::Relaxed};

use crate::{call::Bridge, control::desk::CallState, media::level::SILENCE_DBOV};

/// The gauges of one call. Each is whole by itself; two of them may be of different seconds.
#[derive(Debug)]
pub struct Gauges {
    state: AtomicU8,
    /// The loudest frame of the last second (dBov).
    level_up: AtomicI8,
    level_down: AtomicI8,
    numbers: [AtomicU64; 7],
}

/// A reading of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Where the call stands.
    pub state: CallState,
    /// The loudest frame of the caller in the last second (dBov); `None`: there was no sound.
    pub level_up: Option<i8>,
    /// The loudest frame of the agent in the last second (dBov); `None`: there was no sound.
    pub level_down: Option<i8>,
    /// What of the agent's speech waits to be heard (ms).
    pub delay_ms: u64,
    /// What of the caller's speech waits to be sent (ms).
    pub backlog_ms: u64,
    /// Frames that the line sent.
    pub frames_up: u64,
    /// Frames sent to the line.
    pub frames_down: u64,
    /// Samples of the caller that were skipped.
    pub dropped: u64,
    /// Times that the agent's speech ran dry.
    pub underruns: u64,
    /// Frames that left late.
    pub late: u64,
}

impl Default for Gauges {
    fn default() -> Self {
        Self {
            state: AtomicU8::new(0),
            level_up: AtomicI8::new(SILENCE_DBOV),
            level_down: AtomicI8::new(SILENCE_DBOV),
            numbers: Default::default(),
        }
    }
}

impl Gauges {
    /// Takes the bridge's figures as they are now.
    pub fn set(&self, bridge: &mut Bridge) {
        let (level_up, level_down) = bridge.take_levels();
        let (up, down) = (bridge.uplink(), bridge.weather());
        self.state.store(CallState::from(bridge.state()) as u8, Relaxed);
        self.level_up.store(level_up, Relaxed);
        self.level_down.store(level_down, Relaxed);
        let numbers =
            [bridge.delay_ms(), bridge.backlog_ms(), up.frames, down.frames, up.dropped, down.underruns, down.late];
        for (gauge, number) in self.numbers.iter().zip(numbers) {
            gauge.store(number, Relaxed);
        }
    }

    /// What they stand at.
    #[must_use]
    pub fn get(&self) -> Reading {
        let [delay_ms, backlog_ms, frames_up, frames_down, dropped, underruns, late] =
            core::array::from_fn(|index| self.numbers[index].load(Relaxed));
        Reading {
            state: STATES[usize::from(self.state.load(Relaxed)) % STATES.len()],
            level_up: level(&self.level_up),
            level_down: level(&self.level_down),
            delay_ms,
            backlog_ms,
            frames_up,
            frames_down,
            dropped,
            underruns,
            late,
        }
    }
}

fn level(gauge: &AtomicI8) -> Option<i8> {
    Some(gauge.load(Relaxed)).filter(|&level| level != SILENCE_DBOV)
}

/// In the order of their numbers.
const STATES: [CallState; 4] = [CallState::Dialing, CallState::Bridged, CallState::Finishing, CallState::Closing];
