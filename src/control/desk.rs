//! What whoever watches or steers the daemon may ask of it, and what they are told.
//!
//! The daemon sits at the desk; the control port and the control socket are its counters; `trunkline status` and its like
//! read the same structures at the other end.

use serde::{Deserialize, Serialize};

use crate::{control::call_info::CallInfo, leg::audiosocket::Uuid};

/// The daemon, as its control port and socket see it. Everything answers at once.
pub trait Desk {
    /// Everything there is to know now.
    fn status(&self) -> Status;

    /// Why new calls would not be served well now, each in a sentence; none: all is well.
    fn problems(&self) -> Vec<String>;

    /// The counters, as Prometheus reads them.
    fn metrics(&self) -> String;

    /// Ends a call. `false`: there is none of that id.
    fn hang_up(&self, call_id: &str) -> bool;

    /// Takes no new calls from now on, and ends when the live ones have. Says how many are live.
    fn drain(&self) -> usize;

    /// Who will call, by the UUID that the line will name.
    ///
    /// # Errors
    /// [`Busy`] when it cannot be kept.
    fn tell_of_call(&self, uuid: Uuid, info: CallInfo) -> Result<(), Busy>;
}

/// Why the daemon does not want to hear of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// It is going down.
    Draining,
    /// Too many calls were told of and have not come.
    Full,
}

/// The daemon's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of the daemon.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Since it started (s).
    pub uptime_s: u64,
    /// It takes no new calls and will end.
    pub draining: bool,
    /// See [`Desk::problems`].
    pub problems: Vec<String>,
    /// Live calls at once, at most.
    pub max_calls: usize,
    /// Calls that were refused.
    pub refused: u64,
    /// In the config's order.
    pub lines: Vec<Line>,
    /// In the config's order.
    pub trunks: Vec<Trunk>,
    /// Live ones, the oldest first.
    pub calls: Vec<Call>,
    /// Records that are kept in memory because the disk does not take them.
    pub records_waiting: u64,
    /// Records that were lost.
    pub records_lost: u64,
    /// Log lines that were lost.
    pub log_lines_lost: u64,
}

/// A line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Its name in the config.
    pub name: String,
    /// `audiosocket` or `pipe`.
    pub kind: String,
    /// Where it listens.
    pub listens_on: Option<String>,
    /// Its live calls.
    pub calls: usize,
    /// Its calls so far.
    pub calls_so_far: u64,
}

/// A trunk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trunk {
    /// Its name in the config.
    pub name: String,
    /// Where it is, without its query.
    pub url: String,
    /// What it speaks.
    pub dialect: String,
    /// Its live calls.
    pub calls: usize,
    /// The last time that it took a call.
    pub last_handshake: Option<Handshake>,
    /// The last time that it did not.
    pub last_refusal: Option<Refusal>,
}

/// How a trunk answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Handshake {
    /// When (ms since 1970).
    pub at_ms: u64,
    /// Who.
    pub peer: String,
    /// What TLS agreed on; `None`: no TLS.
    pub cipher: Option<String>,
    /// The name's lookup (ms).
    pub dns_ms: u64,
    /// TCP (ms).
    pub connect_ms: u64,
    /// TLS (ms).
    pub tls_ms: u64,
    /// WebSocket (ms).
    pub upgrade_ms: u64,
}

/// Why a trunk did not take a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// When (ms since 1970).
    pub at_ms: u64,
    /// At which stage, why, and what would help.
    pub words: String,
}

/// A live call. Its figures are at most a second old.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Our id.
    pub call_id: String,
    /// Its line.
    pub line: String,
    /// The trunk that took it.
    pub trunk: Option<String>,
    /// `dialing`, `bridged`, `finishing` or `closing`.
    pub stage: String,
    /// Since it came (s).
    pub seconds: u64,
    /// The loudest of the caller in the last second (dBov, -127 is silence).
    pub level_up_dbov: i8,
    /// The loudest of the agent in the last second (dBov).
    pub level_down_dbov: i8,
    /// The agent's speech that waits to be heard (ms).
    pub delay_ms: u64,
    /// The caller's speech that waits to be sent (ms).
    pub backlog_ms: u64,
    /// Frames from the line.
    pub frames_up: u64,
    /// Frames to the line.
    pub frames_down: u64,
    /// Samples of the agent that were heard.
    pub heard_samples: u64,
    /// Samples of the caller that were skipped.
    pub dropped_samples: u64,
    /// Times that the agent's speech ran dry.
    pub underruns: u64,
    /// Frames that left late.
    pub late: u64,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    /// A daemon with two calls, for the tests of those who show it.
    pub(crate) fn status() -> Status {
        let call = |call_id: &str, stage: &str, trunk: Option<&str>| Call {
            call_id: call_id.to_owned(),
            line: "pbx".to_owned(),
            trunk: trunk.map(str::to_owned),
            stage: stage.to_owned(),
            seconds: 83,
            level_up_dbov: -24,
            level_down_dbov: -127,
            delay_ms: 20,
            backlog_ms: 0,
            frames_up: 4150,
            frames_down: 4149,
            heard_samples: 120_000,
            dropped_samples: 0,
            underruns: 1,
            late: 0,
        };
        let trunk = |name: &str| Trunk {
            name: name.to_owned(),
            url: "wss://agent.example.com/ws?...".to_owned(),
            dialect: "ozonetel".to_owned(),
            calls: 0,
            last_handshake: None,
            last_refusal: None,
        };
        Status {
            version: "0.1.0".to_owned(),
            pid: 412,
            uptime_s: 93_784,
            draining: false,
            problems: vec!["records cannot be written: No space left on device".to_owned()],
            max_calls: 8,
            refused: 4,
            lines: vec![Line {
                name: "pbx".to_owned(),
                kind: "audiosocket".to_owned(),
                listens_on: Some("127.0.0.1:9092".to_owned()),
                calls: 2,
                calls_so_far: 117,
            }],
            trunks: vec![
                Trunk {
                    calls: 1,
                    last_handshake: Some(Handshake {
                        at_ms: 1_767_225_600_123,
                        peer: "192.0.2.7:443".to_owned(),
                        cipher: Some("TLS13_AES_128_GCM_SHA256".to_owned()),
                        dns_ms: 3,
                        connect_ms: 18,
                        tls_ms: 40,
                        upgrade_ms: 21,
                    }),
                    ..trunk("agent")
                },
                Trunk {
                    last_refusal: Some(Refusal {
                        at_ms: 1_767_225_500_000,
                        words: "spare.example.com:443: the server said 401 Unauthorized".to_owned(),
                    }),
                    ..trunk("spare")
                },
            ],
            calls: vec![call("abcdefgh2345", "bridged", Some("agent")), call("zyxwvuts7654", "dialing", None)],
            records_waiting: 12,
            records_lost: 0,
            log_lines_lost: 0,
        }
    }

    #[test]
    fn what_is_said_at_one_end_is_read_at_the_other() {
        let text = serde_json::to_string(&status()).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status());
    }
}
