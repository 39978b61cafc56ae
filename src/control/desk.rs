//! The desk: what whoever watches may ask and whoever steers may order, whichever way they come in.
//!
//! The control port and the control socket ask here and the daemon sits behind it, all on the control thread. The answers
//! go out as JSON, and `trunkline status` reads them back.

use core::fmt;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::{
    call,
    control::{call_info::CallInfo, metrics::Metrics},
    leg::audiosocket::Uuid,
};

/// What came of reading the config again: what changed, or why nothing did.
pub type CameOf = Result<String, String>;

/// What the daemon answers for. No method waits.
pub trait Desk {
    /// Everything there is to see.
    fn status(&self) -> Status;

    /// Each reason why this daemon should get no calls, in plain words; empty: it is healthy.
    fn problems(&self) -> Vec<String>;

    /// The counters and gauges.
    fn metrics(&self) -> &Metrics;

    /// Ends a call. `false`: there is no such live call.
    fn hang_up(&self, call_id: &str) -> bool;

    /// Calls somebody through a line of the kind `sip`, as far as its dial plan allows, and puts them on the line's trunk.
    /// Gives the id of the call. It takes a handle, because a call is begun by tasks that outlive the asking.
    ///
    /// # Errors
    /// Says in plain words why not, and what would do.
    fn dial(self: Rc<Self>, line: &str, target: &str) -> Result<String, String>;

    /// Passes the caller of a live call on to somebody whom the dial plan of its line allows.
    ///
    /// # Errors
    /// Says in plain words why not, and what would do.
    fn transfer(&self, call_id: &str, target: &str) -> Result<(), String>;

    /// Presses keys in a live call: 0 to 9, `*`, `#` and A to D.
    ///
    /// # Errors
    /// Says in plain words why not, and what would do.
    fn send_digits(self: Rc<Self>, call_id: &str, digits: &str) -> Result<(), String>;

    /// Presses or releases the key of a line of the kind `sound`; says what comes of it.
    ///
    /// # Errors
    /// Says in plain words why nothing does.
    fn key(self: Rc<Self>, line: &str, pressed: bool) -> Result<String, String>;

    /// Has the config read again. What is given tells what changes by it, or why nothing does.
    ///
    /// # Errors
    /// Says in plain words why it is not read.
    fn reload(&self) -> Result<oneshot::Receiver<CameOf>, String>;

    /// Takes no new calls, lets the live ones end, and then ends the daemon. Again is as good as once.
    fn drain(&self);

    /// Keeps what was told of a call until its line names this UUID.
    ///
    /// # Errors
    /// When it cannot be of use, or too many wait already.
    fn tell_of_call(&self, uuid: Uuid, info: CallInfo) -> Result<(), TellError>;
}

/// Why a call to come could not be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TellError {
    /// So many are waiting for their calls that there is no room.
    Full,
    /// The daemon takes no more calls.
    Draining,
}

impl fmt::Display for TellError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "too many calls were told of that have not come; try again in a few seconds",
            Self::Draining => "the daemon is draining and takes no more calls",
        })
    }
}

impl core::error::Error for TellError {}

/// The daemon and everything in it. Moments are milliseconds since 1970; no secret is in it, and no phone number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// How long it has run.
    pub uptime_seconds: u64,
    /// Whether it takes calls.
    pub state: Readiness,
    /// What [`Desk::problems`] says.
    pub problems: Vec<String>,
    /// Live calls at once, by the config.
    pub max_calls: usize,
    /// How long live calls may go on once it drains, by the config.
    pub drain_seconds: u64,
    /// The most of the sample pool that was ever in use.
    pub pool_high_water_bytes: u64,
    /// The lines, in the config's order.
    pub lines: Vec<LineStatus>,
    /// The trunks, in the config's order.
    pub trunks: Vec<TrunkStatus>,
    /// The live calls, the oldest first.
    pub calls: Vec<CallStatus>,
    /// What became of records.
    pub records: RecordsStatus,
    /// What became of what is meant for sinks.
    pub sinks: SinksStatus,
    /// Log lines that found their queue full.
    pub journal_dropped: u64,
}

/// Whether a daemon takes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Readiness {
    /// It does.
    Ready,
    /// It finishes the live ones and then ends.
    Draining,
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineStatus {
    /// Its name in the config.
    pub name: String,
    /// As the config spells it: `audiosocket`, `websocket`, `sip`, `sound` or `pipe`.
    pub kind: String,
    /// Where it listens, if it does.
    pub listen: Option<String>,
    /// Its live calls.
    pub calls: usize,
    /// How long ago its last call began.
    pub last_call_ms_ago: Option<u64>,
    /// How its registration with a PBX stands: `registered`, `trying`, `failing`, `refused` or `unregistered`; none: it
    /// is not one that registers.
    pub registration: Option<String>,
    /// How its sound card is: `out`, `begins`, or `there` with what it adds; none: it has none.
    pub card: Option<String>,
}

/// A trunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrunkStatus {
    /// Its name in the config.
    pub name: String,
    /// Where it leads, without the query.
    pub url: String,
    /// What is spoken there.
    pub dialect: String,
    /// The last time that it took a call.
    pub last_handshake: Option<Handshake>,
    /// The last time that it did not.
    pub last_refusal: Option<Refusal>,
    /// Live calls on it.
    pub calls: usize,
}

/// A trunk took a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handshake {
    /// When.
    pub at_ms: u64,
    /// The address and port that answered.
    pub peer: String,
    /// The cipher suite; none on `ws`.
    pub cipher: Option<String>,
    /// What the name took.
    pub dns_ms: u64,
    /// What TCP took.
    pub connect_ms: u64,
    /// What TLS took.
    pub tls_ms: u64,
    /// What the WebSocket handshake took.
    pub upgrade_ms: u64,
}

/// A trunk did not take a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// When.
    pub at_ms: u64,
    /// Why, in its own words or the network's.
    pub words: String,
}

/// A live call. Levels and waiting times are those of the last second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallStatus {
    /// Our id of it.
    pub call_id: String,
    /// The name of its line.
    pub line: String,
    /// The name of its trunk, once one took it.
    pub trunk: Option<String>,
    /// Where it stands.
    pub state: CallState,
    /// How long it has lasted.
    pub seconds: u64,
    /// How loud the caller is (dBov); none without audio.
    pub level_up_dbov: Option<i8>,
    /// How loud the agent is (dBov); none without audio.
    pub level_down_dbov: Option<i8>,
    /// How much of the agent's speech waits to be heard.
    pub delay_ms: u64,
    /// How much of the caller's speech waits to be sent.
    pub uplink_backlog_ms: u64,
    /// Frames that the line sent.
    pub frames_up: u64,
    /// Frames sent to the line.
    pub frames_down: u64,
    /// Samples of the caller skipped because the trunk is slow.
    pub dropped: u64,
    /// Times that the agent's speech ran dry in mid-utterance.
    pub underruns: u64,
    /// Frames that left more than 5 ms after they were due.
    pub late: u64,
    /// What the line's RTP is like; none: it is not that, or not yet.
    pub rtp: Option<RtpStatus>,
}

/// What the RTP of a live call is like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtpStatus {
    /// Packets that came.
    pub packets: u64,
    /// Packets that did not.
    pub lost: u64,
    /// Samples made up for them, and for those that came too late.
    pub concealed_samples: u64,
    /// Interarrival jitter.
    pub jitter_ms: u64,
    /// To the peer and back, once a report of it told.
    pub round_trip_ms: Option<u64>,
    /// How long packets wait for late ones.
    pub delay_ms: u64,
}

/// Where a live call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CallState {
    /// A trunk is being dialled.
    Dialing,
    /// Audio flows both ways.
    Bridged,
    /// One side is done; what the agent has sent is still being heard.
    Finishing,
    /// The line is over; the trunk closes in order.
    Closing,
}

impl CallState {
    /// As it is spelled everywhere.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dialing => "dialing",
            Self::Bridged => "bridged",
            Self::Finishing => "finishing",
            Self::Closing => "closing",
        }
    }
}

impl From<call::State> for CallState {
    fn from(state: call::State) -> Self {
        match state {
            call::State::Dialing { .. } => Self::Dialing,
            call::State::Bridged => Self::Bridged,
            call::State::Finishing { .. } => Self::Finishing,
            // An ended one is live until its end was reported.
            call::State::Closing { .. } | call::State::Ended(_) => Self::Closing,
        }
    }
}

/// What became of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordsStatus {
    /// How many wait to be written.
    pub waiting: u64,
    /// How many were given up because too many waited.
    pub lost: u64,
}

/// What became of what is meant for sinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinksStatus {
    /// How many items wait, on disk or on their way there.
    pub waiting: u64,
    /// How many a sink will never take; they were put aside.
    pub refused: u64,
    /// How many found no room.
    pub lost: u64,
}

#[cfg(test)]
pub(crate) mod tests {
    use core::cell::{Cell, RefCell};

    use super::*;

    /// A daemon with one line, two trunks and two calls, that remembers what it was told to do.
    #[derive(Default)]
    pub(crate) struct FakeDesk {
        pub(crate) metrics: Metrics,
        pub(crate) problems: RefCell<Vec<String>>,
        pub(crate) hung_up: RefCell<Vec<String>>,
        /// Line, or call, and what was asked of it.
        pub(crate) ordered: RefCell<Vec<(String, String)>>,
        pub(crate) drained: Cell<bool>,
        pub(crate) told: RefCell<Vec<(Uuid, CallInfo)>>,
        pub(crate) refuses: Cell<Option<TellError>>,
        pub(crate) reload: RefCell<Option<CameOf>>,
    }

    impl Desk for FakeDesk {
        fn status(&self) -> Status {
            let mut status = busy_status();
            status.problems = self.problems();
            if self.drained.get() {
                status.state = Readiness::Draining;
            }
            status
        }

        fn problems(&self) -> Vec<String> {
            self.problems.borrow().clone()
        }

        fn metrics(&self) -> &Metrics {
            &self.metrics
        }

        fn hang_up(&self, call_id: &str) -> bool {
            let live = busy_status().calls.iter().any(|call| call.call_id == call_id);
            if live {
                self.hung_up.borrow_mut().push(call_id.to_owned());
            }
            live
        }

        fn dial(self: Rc<Self>, line: &str, target: &str) -> Result<String, String> {
            if line != "pbx" {
                return Err(format!("no such line; there are: pbx, tape (not {line})"));
            }
            self.ordered.borrow_mut().push((line.to_owned(), target.to_owned()));
            Ok("newcall23abc".to_owned())
        }

        fn transfer(&self, call_id: &str, target: &str) -> Result<(), String> {
            self.ordered.borrow_mut().push((call_id.to_owned(), target.to_owned()));
            Ok(())
        }

        fn send_digits(self: Rc<Self>, call_id: &str, digits: &str) -> Result<(), String> {
            self.ordered.borrow_mut().push((call_id.to_owned(), digits.to_owned()));
            Ok(())
        }

        fn reload(&self) -> Result<oneshot::Receiver<CameOf>, String> {
            let (answer, came_of_it) = oneshot::channel();
            let _ = answer.send(self.reload.borrow().clone().unwrap_or(Ok("nothing changes".to_owned())));
            Ok(came_of_it)
        }

        fn key(self: Rc<Self>, line: &str, pressed: bool) -> Result<String, String> {
            if line != "desk" {
                return Err(format!("the line {line} is not of the kind sound, and has no key"));
            }
            self.ordered.borrow_mut().push((line.to_owned(), if pressed { "press" } else { "release" }.to_owned()));
            Ok(if pressed { "a call begins" } else { "the call ends" }.to_owned())
        }

        fn drain(&self) {
            self.drained.set(true);
        }

        fn tell_of_call(&self, uuid: Uuid, info: CallInfo) -> Result<(), TellError> {
            self.told.borrow_mut().push((uuid, info));
            self.refuses.get().map_or(Ok(()), Err)
        }
    }

    /// What a daemon in the middle of its day says of itself, at 1,000,000,000 ms.
    pub(crate) fn busy_status() -> Status {
        Status {
            version: "0.1.0".to_owned(),
            pid: 812,
            uptime_seconds: 3 * 86_400 + 4 * 3600,
            state: Readiness::Ready,
            problems: Vec::new(),
            max_calls: 8,
            drain_seconds: 30,
            pool_high_water_bytes: 1_300_000,
            lines: vec![
                LineStatus {
                    name: "pbx".to_owned(),
                    kind: "audiosocket".to_owned(),
                    listen: Some("127.0.0.1:9092".to_owned()),
                    calls: 2,
                    last_call_ms_ago: Some(3400),
                    registration: None,
                    card: None,
                },
                LineStatus {
                    name: "tape".to_owned(),
                    kind: "pipe".to_owned(),
                    listen: None,
                    calls: 0,
                    last_call_ms_ago: None,
                    registration: None,
                    card: None,
                },
            ],
            trunks: vec![
                TrunkStatus {
                    name: "agent".to_owned(),
                    url: "wss://agent.example.com/ws?...".to_owned(),
                    dialect: "ozonetel".to_owned(),
                    last_handshake: Some(Handshake {
                        at_ms: 999_998_000,
                        peer: "10.0.0.5:443".to_owned(),
                        cipher: Some("TLS13_AES_256_GCM_SHA384".to_owned()),
                        dns_ms: 1,
                        connect_ms: 12,
                        tls_ms: 50,
                        upgrade_ms: 21,
                    }),
                    last_refusal: Some(Refusal {
                        at_ms: 999_700_000,
                        words: "agent.example.com:443: \u{1b}[31mconnection refused".to_owned(),
                    }),
                    calls: 1,
                },
                TrunkStatus {
                    name: "spare".to_owned(),
                    url: "ws://127.0.0.1:8765/".to_owned(),
                    dialect: "binary".to_owned(),
                    last_handshake: None,
                    last_refusal: None,
                    calls: 0,
                },
            ],
            calls: vec![
                CallStatus {
                    call_id: "k3vqhm2xw7ab".to_owned(),
                    line: "pbx".to_owned(),
                    trunk: Some("agent".to_owned()),
                    state: CallState::Bridged,
                    seconds: 83,
                    level_up_dbov: Some(-23),
                    level_down_dbov: Some(-60),
                    delay_ms: 40,
                    uplink_backlog_ms: 0,
                    frames_up: 4150,
                    frames_down: 4149,
                    dropped: 160,
                    underruns: 1,
                    late: 0,
                    rtp: None,
                },
                CallStatus {
                    call_id: "zz5dlo2c3qqe".to_owned(),
                    line: "pbx".to_owned(),
                    trunk: None,
                    state: CallState::Dialing,
                    seconds: 3,
                    level_up_dbov: None,
                    level_down_dbov: None,
                    delay_ms: 0,
                    uplink_backlog_ms: 2980,
                    frames_up: 150,
                    frames_down: 149,
                    dropped: 0,
                    underruns: 0,
                    late: 0,
                    rtp: None,
                },
            ],
            records: RecordsStatus::default(),
            sinks: SinksStatus::default(),
            journal_dropped: 0,
        }
    }

    #[test]
    fn a_status_reads_back_as_it_was_written() {
        let status = busy_status();
        let json = serde_json::to_string(&status).expect("a status has no map with odd keys");
        assert!(json.contains(r#""state":"ready""#) && json.contains(r#""state":"dialing""#), "{json}");
        assert_eq!(serde_json::from_str::<Status>(&json).expect("it was just written"), status);
    }

    #[test]
    fn a_call_state_is_spelled_alike_in_json_and_in_words() {
        for state in [CallState::Dialing, CallState::Bridged, CallState::Finishing, CallState::Closing] {
            let json = serde_json::to_string(&state).expect("a word");
            assert_eq!(json, format!("\"{}\"", state.as_str()));
        }
    }
}
