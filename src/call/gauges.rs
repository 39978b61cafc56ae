//! What a live call looks like from outside: its media thread writes it once a second, whoever watches reads it.

use std::sync::atomic::{AtomicI8, AtomicU8, AtomicU64, Ordering::Relaxed};

use crate::{
    call::Bridge,
    control::desk::CallState,
    leg::rtp::session,
    media::{Now, level::SILENCE_DBOV},
};

/// The gauges of one call. Each is whole by itself; two of them may be of different seconds.
#[derive(Debug)]
pub struct Gauges {
    state: AtomicU8,
    /// The loudest frame of the last second (dBov).
    level_up: AtomicI8,
    level_down: AtomicI8,
    numbers: [AtomicU64; 7],
    /// What RTP is like; a delay of `NONE`: the line is not RTP.
    rtp: [AtomicU64; 6],
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
    /// What RTP is like, where the line is that.
    pub rtp: Option<RtpReading>,
}

/// What a call's RTP is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtpReading {
    /// Packets of the peer.
    pub packets: u64,
    /// Packets of the peer that never came.
    pub lost: u64,
    /// Samples made up for what did not come in time.
    pub concealed: u64,
    /// Interarrival jitter.
    pub jitter: Now,
    /// How long the last report and its answer were on the way together, once that is known.
    pub round_trip: Option<Now>,
    /// How much later than the fastest packet would allow the caller is heard.
    pub delay: Now,
}

impl Default for Gauges {
    fn default() -> Self {
        Self {
            state: AtomicU8::new(0),
            level_up: AtomicI8::new(SILENCE_DBOV),
            level_down: AtomicI8::new(SILENCE_DBOV),
            numbers: Default::default(),
            rtp: [(); 6].map(|()| AtomicU64::new(NONE)),
        }
    }
}

impl Gauges {
    /// Takes the figures of the bridge, and of RTP where the line is that, as they are now.
    pub fn set(&self, bridge: &mut Bridge, rtp: Option<&session::Tally>) {
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
        if let Some(rtp) = rtp {
            let [jitter, round_trip, delay] = [Some(rtp.jitter), rtp.round_trip, Some(rtp.delay)].map(micros);
            let numbers = [rtp.packets, rtp.lost, rtp.concealed, jitter, round_trip, delay];
            for (gauge, number) in self.rtp.iter().zip(numbers) {
                gauge.store(number, Relaxed);
            }
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
            rtp: self.get_rtp(),
        }
    }

    fn get_rtp(&self) -> Option<RtpReading> {
        let [packets, lost, concealed, jitter, round_trip, delay] =
            core::array::from_fn(|index| self.rtp[index].load(Relaxed));
        let known = |us: u64| (us != NONE).then(|| Now::from_micros(us));
        Some(RtpReading {
            packets,
            lost,
            concealed,
            jitter: known(jitter)?,
            round_trip: known(round_trip),
            delay: known(delay)?,
        })
    }
}

fn micros(time: Option<Now>) -> u64 {
    time.and_then(|time| u64::try_from(time.as_micros()).ok()).unwrap_or(NONE)
}

fn level(gauge: &AtomicI8) -> Option<i8> {
    Some(gauge.load(Relaxed)).filter(|&level| level != SILENCE_DBOV)
}

/// There is no such time.
const NONE: u64 = u64::MAX;

/// In the order of their numbers.
const STATES: [CallState; 4] = [CallState::Dialing, CallState::Bridged, CallState::Finishing, CallState::Closing];
