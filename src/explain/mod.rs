//! What became of one call, for somebody who was not there: a story by time, the leg at fault and the likely cause.
//!
//! ```text
//!   records.jsonl --+
//!   event log ------+--> Case (figures and texts by the record's names) --> rules --> Diagnosis --> text, JSON
//!   journal --------+      \-----------------------------------------------> story --/
//! ```
//!
//! Pure: whoever calls brings what was read. The journal alone is enough: the closing line of a call has the figures that
//! the rules ask for. Nothing here guesses by a model: each rule is a few lines that name the figures they go by.

use core::fmt;

use serde::{Serialize, Serializer};

mod case;
mod line;
mod rules;
mod story;

pub(crate) use self::case::ALIASES;
pub use self::{
    case::{Case, Kind, Material, calls_named},
    line::LogLine,
    rules::{AROUND, diagnose},
    story::{Step, story, time_of},
};

/// Which side is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The line leg: the PBX, the vendor or the card that has the caller, or the way to it.
    Line,
    /// The trunk leg: the agent, or the way to it.
    Trunk,
    /// This machine, or Trunkline itself.
    Daemon,
    /// Somebody at the box wanted it so.
    Operator,
    /// Nobody: nothing is wrong.
    Nobody,
}

impl Fault {
    /// As it is spelled everywhere.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Line => "line",
            Self::Trunk => "trunk",
            Self::Daemon => "daemon",
            Self::Operator => "operator",
            Self::Nobody => "nobody",
        }
    }
}

/// What people on the phone would have said about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Symptom {
    /// Nobody heard anybody.
    NoSound,
    /// One heard the other, who heard nothing.
    OneWay,
    /// Speech had holes.
    Choppy,
    /// It was over before anybody wanted that.
    Dropped,
    /// It never came about.
    Refused,
    /// Answers took long.
    Slow,
}

impl Symptom {
    /// As it is spelled everywhere.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoSound => "no-sound",
            Self::OneWay => "one-way",
            Self::Choppy => "choppy",
            Self::Dropped => "dropped",
            Self::Refused => "refused",
            Self::Slow => "slow",
        }
    }
}

/// How sure that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confidence {
    /// The figures leave nothing else.
    Certain,
    /// Mostly it is that.
    Likely,
    /// It may be that, or as it should be.
    Possible,
}

impl Confidence {
    /// As it is spelled everywhere.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Certain => "certain",
            Self::Likely => "likely",
            Self::Possible => "possible",
        }
    }
}

macro_rules! causes {
    ($($name:ident = $spelled:literal, $meaning:literal;)*) => {
        /// The causes there are; each one's meaning is its row in docs/explain.md.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each has its meaning beside its spelling, below")]
        pub enum Cause { $($name),* }

        impl Cause {
            /// Every cause, with what it means.
            pub const ALL: &[(Self, &str)] = &[$((Self::$name, $meaning)),*];

            /// As it is spelled everywhere; scripts go by it, so it stays.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $spelled),* }
            }
        }
    };
}

causes! {
    Bug = "bug", "A fault of Trunkline";
    Cut = "cut", "The daemon was killed, or the power failed";
    Overload = "overload", "There was no room for the call, or the machine did not keep up with those it had";
    BadToken = "bad-token", "The agent's side does not take the token, the user or the password";
    Certificate = "certificate", "The TLS handshake with the agent failed: certificate, name or date";
    NameNotFound = "name-not-found", "The agent's host name has no address";
    Unreachable = "unreachable", "Nobody takes connections at the agent's address and port";
    WrongPath = "wrong-path", "The agent's server knows no such path";
    TrunkBusy = "trunk-busy", "The agent's server had no room, or a fault of its own";
    TrunkTimeout = "trunk-timeout", "The agent's server took the connection and did not answer in time";
    TrunkRefused = "trunk-refused", "The agent's server refused for another reason, in its own words";
    WrongCodec = "wrong-codec", "The line sends audio in a codec that was not agreed on or cannot be read";
    TrunkLost = "trunk-lost", "The agent's connection broke off, or was closed with an error";
    TrunkClosedAtOnce = "trunk-closed-at-once", "The agent took the call and closed it before it said anything";
    LineProtocol = "line-protocol", "The line broke its protocol";
    TrunkProtocol = "trunk-protocol", "The agent broke its protocol";
    LineLost = "line-lost", "The line's connection broke off";
    LineSilent = "line-silent", "The line stopped sending audio without hanging up";
    AudioFromElsewhere = "audio-from-elsewhere", "RTP came from another address than the PBX named";
    OnHold = "on-hold", "The PBX had the caller on hold all the time";
    NoAudioFromLine = "no-audio-from-line", "The line sent no audio";
    SilenceFromLine = "silence-from-line", "The line sent nothing but silence";
    WrongDialect = "wrong-dialect", "The agent sent messages, and none of them was audio of its dialect";
    NoAudioFromTrunk = "no-audio-from-trunk", "The agent sent no audio";
    AllTakenBack = "all-taken-back", "The agent's audio was flushed before anybody heard it";
    AgentDidNotAnswer = "agent-did-not-answer", "The caller spoke, and the agent never answered";
    MachineLate = "machine-late", "This machine sent frames too late, or not at all";
    RtpLoss = "rtp-loss", "Packets of the PBX were lost on the way to us";
    RtpLate = "rtp-late", "Packets of the PBX came too late to be heard";
    RtpLossToLine = "rtp-loss-to-line", "Packets of ours were lost on the way to the PBX";
    TrunkStutters = "trunk-stutters", "The agent's speech came slower than it is spoken";
    TrunkTakesTooLittle = "trunk-takes-too-little", "The agent's side read slower than the caller spoke";
    TrunkInterrupted = "trunk-interrupted", "The agent's connection was lost and dialled again in mid-call";
    SlowSetup = "slow-setup", "It took long until a trunk had taken the call";
    SlowAnswers = "slow-answers", "The agent took long to speak";
    CutOffAnswers = "cut-off-answers", "The agent took back what it had begun to say";
    Abandoned = "abandoned", "The caller hung up before a trunk had answered";
    Stopped = "stopped", "The daemon was stopped while the call was live";
    EndedByHand = "ended-by-hand", "Somebody ended it by `trunkline hangup`";
    NeverCame = "never-came", "The call was announced, and its audio never came";
    NothingWrong = "nothing-wrong", "One side hung up, and no figure stands out";
    NotOver = "not-over", "The call is live, or its end was not logged";
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One thing that a rule has found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Whose it is.
    pub fault: Fault,
    /// What it was like on the phone; `None`: nobody would have noticed.
    pub symptom: Option<Symptom>,
    /// What it is.
    pub cause: Cause,
    /// How sure that is.
    pub confidence: Confidence,
    /// The same in a sentence.
    pub says: String,
    /// What it goes by.
    pub evidence: Vec<Evidence>,
    /// What to do.
    pub next: String,
}

/// A figure or text of the call, by its name in docs/records.md.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evidence {
    /// The name.
    pub what: &'static str,
    /// The value, as it is printed.
    pub value: String,
}

/// All that is to be told of a call.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diagnosis {
    /// What most likely was the matter.
    #[serde(flatten)]
    pub main: Finding,
    /// What else was found.
    pub also: Vec<Finding>,
}
