//! One call: two legs, two rings, one state machine. The only place that knows both legs.
//!
//! ```text
//!   line leg                      bridge                        trunk leg
//!   samples ----> uplink ring (5 s) -----------------------> messages
//!   frames <----- playout <----- downlink ring (minutes) <--- messages
//! ```

use core::fmt;

pub mod attention;
pub mod bridge;
mod counting;
mod echo_guard;
mod ends;
pub mod gauges;
pub mod outcome;
mod overheard;
pub mod record;
pub mod redact;
pub mod rtp_io;
pub mod shard;
pub mod state;
pub mod tap;
pub mod turns;
pub mod vitals;
pub mod websocket_line;
pub mod wishes;

pub use self::{bridge::Bridge, outcome::Outcome, state::State};

/// Why a call ended; spelled alike in the log, in metrics and in records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// The caller hung up, or the line's input ended.
    LineHungUp,
    /// The agent hung up or closed its side in order.
    TrunkHungUp,
    /// The agent closed its side, and the vendor of the line went on with a flow of its own.
    HandedBack,
    /// The caller hung up before a trunk had answered.
    Abandoned,
    /// No trunk took the call.
    TrunkRefused,
    /// No trunk answered in time.
    TrunkTimeout,
    /// The trunk broke off: a reset, an error code, two pings without an answer.
    TrunkLost,
    /// The line's connection broke off.
    LineLost,
    /// The line connected and then said nothing.
    LineSilent,
    /// The line sends audio that we cannot read.
    BadCodec,
    /// A peer broke its protocol.
    Protocol,
    /// There was no room for the call.
    Overload,
    /// The daemon is going down.
    Drained,
    /// Somebody ended it by `trunkline hangup`.
    Operator,
    /// The daemon was killed, or the power failed, while the call was live. Found out at the next start.
    Cut,
    /// A fault of ours. The other calls go on.
    Bug,
}

impl EndReason {
    /// Every reason, for metrics.
    pub const ALL: [Self; 16] = [
        Self::LineHungUp,
        Self::TrunkHungUp,
        Self::HandedBack,
        Self::Abandoned,
        Self::TrunkRefused,
        Self::TrunkTimeout,
        Self::TrunkLost,
        Self::LineLost,
        Self::LineSilent,
        Self::BadCodec,
        Self::Protocol,
        Self::Overload,
        Self::Drained,
        Self::Operator,
        Self::Cut,
        Self::Bug,
    ];

    /// As it is spelled everywhere.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LineHungUp => "line-hung-up",
            Self::TrunkHungUp => "trunk-hung-up",
            Self::HandedBack => "handed-back",
            Self::Abandoned => "abandoned",
            Self::TrunkRefused => "trunk-refused",
            Self::TrunkTimeout => "trunk-timeout",
            Self::TrunkLost => "trunk-lost",
            Self::LineLost => "line-lost",
            Self::LineSilent => "line-silent",
            Self::BadCodec => "bad-codec",
            Self::Protocol => "protocol",
            Self::Overload => "overload",
            Self::Drained => "drained",
            Self::Operator => "operator",
            Self::Cut => "cut",
            Self::Bug => "bug",
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
