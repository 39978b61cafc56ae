//! What became of a call: everything that its closing log line, the metrics and later its record say.

use crate::{
    call::{
        EndReason,
        bridge::{Bridge, Delays, Times, UplinkTally},
    },
    leg::websocket::leg::Tally,
    media::{Now, Rate, playout::Weather},
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
    /// How long things took.
    pub delays: Delays,
    /// What went over the line's connection.
    pub line: LineTally,
}

/// What went over a line's connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineTally {
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
}

impl Figures {
    /// The figures as they are now.
    #[must_use]
    pub fn of(bridge: &Bridge, line: LineTally) -> Self {
        let (clears, marks) = bridge.clears_and_marks();
        Self {
            uplink: bridge.uplink(),
            downlink: bridge.weather(),
            trunk: bridge.trunk_tally(),
            clears,
            marks,
            times: bridge.times(),
            delays: bridge.delays(),
            line,
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
    /// The rate of its line: what [`Figures::uplink`] and [`Figures::downlink`] count is by it.
    pub rate: Rate,
    /// It was the trunk that broke its protocol.
    pub trunk_violated: bool,
    /// What the line spoke, by its name in Asterisk; `None`: it never said enough to tell.
    pub codec: Option<&'static str>,
    /// The network's words, where it was the network.
    pub words: Option<String>,
}

impl Outcome {
    /// A call that ended before it moved anything.
    #[must_use]
    pub fn stillborn(seq: u64, reason: EndReason, ended: Now) -> Self {
        Self {
            seq,
            reason,
            ended,
            figures: Figures::default(),
            rate: Rate::Hz8000,
            trunk_violated: false,
            codec: None,
            words: None,
        }
    }
}
