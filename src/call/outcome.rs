//! What became of a call: everything that its closing log line, the metrics and later its record say.

use crate::{
    call::{
        EndReason,
        bridge::{Bridge, Times, UplinkTally},
    },
    leg::websocket::leg::Tally,
    media::{Now, playout::Weather},
};

/// The figures of one call, so far or at its end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// What the uplink met.
    pub uplink: UplinkTally,
    /// What the downlink met.
    pub downlink: Weather,
    /// What the trunk's leg met.
    pub trunk: Tally,
    /// Clears obeyed.
    pub clears: u64,
    /// Marks told as heard.
    pub marks: u64,
    /// When things happened.
    pub times: Times,
}

impl Figures {
    /// The bridge's figures as they are now.
    #[must_use]
    pub fn of(bridge: &Bridge) -> Self {
        let (clears, marks) = bridge.clears_and_marks();
        Self {
            uplink: bridge.uplink(),
            downlink: bridge.weather(),
            trunk: bridge.trunk_tally(),
            clears,
            marks,
            times: bridge.times(),
        }
    }
}

/// The end of a call.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The call's number in this process.
    pub seq: u64,
    /// Why it ended.
    pub reason: EndReason,
    /// When the last of it was over.
    pub ended: Now,
    /// Its figures.
    pub figures: Figures,
    /// The network's words, where it was the network.
    pub words: Option<String>,
}
