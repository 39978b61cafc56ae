//! What became of a call: everything that its closing log line, the metrics and later its record say.

use crate::{
    call::{
        EndReason,
        bridge::{Bridge, Delays, Times, UplinkTally},
        turns::Turns,
        wishes::WishFigures,
    },
    dialect::Direction,
    leg::{rtp::session, websocket::leg::Tally},
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
    /// What RTP was like, where the line is that.
    pub rtp: Option<session::Tally>,
    /// What was asked of the line, and what became of it.
    pub wishes: WishFigures,
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
    pub fn of(bridge: &Bridge, line: LineTally, rtp: Option<session::Tally>) -> Self {
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
            rtp,
            wishes: bridge.wishes(),
        }
    }

    /// What counters know once these figures were added to them: what RTP lost was found again where it came late, and a
    /// counter takes nothing back.
    #[must_use]
    pub fn counted_after(self, before: &Self) -> Self {
        let lost_before = before.rtp.map_or(0, |rtp| rtp.lost);
        let rtp = self.rtp.map(|rtp| session::Tally { lost: rtp.lost.max(lost_before), ..rtp });
        Self { rtp, ..self }
    }
}

/// Who spoke how much, and how soon the agent answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnFigures {
    /// Answers of the agent.
    pub count: u32,
    /// How long the caller spoke.
    pub caller_spoke: Now,
    /// The median of the response delays (ms), and what 95 % of them did not exceed.
    pub response_ms: Option<(u64, u64)>,
}

impl TurnFigures {
    /// As they are now.
    #[must_use]
    pub fn of(turns: &Turns) -> Self {
        Self {
            count: turns.count(),
            caller_spoke: turns.caller_spoke(),
            response_ms: turns.delay_ms(50).zip(turns.delay_ms(95)),
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
    /// Who spoke how much, and how soon the agent answered; `None`: it moved nothing.
    pub turns: Option<TurnFigures>,
    /// The line's dialect, where the line is a WebSocket.
    pub line_dialect: Option<&'static str>,
    /// Whether the agent could be heard.
    pub direction: Direction,
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
            turns: None,
            line_dialect: None,
            direction: Direction::Both,
            trunk_violated: false,
            codec: None,
            words: None,
        }
    }
}
