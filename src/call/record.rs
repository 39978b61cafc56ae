//! The record of one call: what somebody reads a week later to know what happened to it. One JSON object on one line.
//!
//! Every key is in every record, and what is not known is null. `docs/records.md` explains each; a test holds it to that.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize, Serializer};

use crate::{
    call::{EndReason, Outcome, redact::Numbers},
    dialect::{Direction, Facts, Transfer},
    leg::{rtp::session, websocket::dial::Stages},
    media::{Now, Rate, histogram::Histogram},
};

/// What is known when a call starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Our id. It is the first key of a record: that is how a record is found in the file.
    pub call_id: String,
    /// Ozonetel's id.
    pub ucid: Option<String>,
    /// The platform's id; on AudioSocket the UUID.
    pub call_sid: Option<String>,
    /// The line's name.
    pub line: Option<String>,
    /// Who connected.
    pub peer: Option<String>,
    /// When, since 1970, UTC.
    pub started_ms: Option<u64>,
    /// The caller's number.
    pub from: Option<String>,
    /// The number called.
    pub to: Option<String>,
    /// The number dialled in.
    pub did: Option<String>,
}

impl Started {
    /// A call that starts now, `started_ms` after 1970, UTC.
    #[must_use]
    pub fn of(facts: &Facts, line: &str, peer: Option<SocketAddr>, started_ms: u64, numbers: Numbers) -> Self {
        let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Self {
            call_id: facts.call_id.to_string(),
            ucid: known(&facts.ucid),
            call_sid: known(&facts.call_sid),
            line: known(line),
            peer: peer.map(|peer| peer.to_string()),
            started_ms: Some(started_ms),
            from: numbers.keep(&facts.from),
            to: numbers.keep(&facts.to),
            did: numbers.keep(&facts.did),
        }
    }

    /// As the file of a live call has it.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        line(self)
    }
}

/// The trunk that took a call.
#[derive(Clone, Copy, Debug)]
pub struct Taken<'a> {
    /// Its name.
    pub trunk: &'a str,
    /// Its dialect.
    pub dialect: &'a str,
    /// What its TLS agreed on.
    pub cipher: Option<&'a str>,
    /// What took how long.
    pub stages: Stages,
}

/// What is known when a call has ended, beside what its [`Outcome`] says.
#[derive(Clone, Copy, Debug)]
pub struct Ending<'a> {
    /// When, since 1970, UTC.
    pub ended_ms: u64,
    /// How long it was, by a clock that does not jump.
    pub lasted: Now,
    /// What became of it.
    pub outcome: &'a Outcome,
    /// Who took it.
    pub taken: Option<Taken<'a>>,
    /// By which SIP status it was not taken.
    pub refused_by: Option<u16>,
}

/// The record.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "each one's meaning is its row in docs/records.md")]
pub struct Record {
    #[serde(flatten)]
    pub started: Started,
    pub ended_ms: u64,
    pub seconds: Option<f64>,
    #[serde(serialize_with = "spelled")]
    pub end_reason: EndReason,
    pub ended_by: EndedBy,
    pub words: Option<String>,
    pub sip_status: Option<u16>,
    pub trunk: Option<String>,
    pub dialect: Option<String>,
    pub cipher: Option<String>,
    pub codec: Option<String>,
    pub line_dialect: Option<String>,
    pub direction: Direction,
    pub turns: Option<Turns>,
    pub holds: Option<u32>,
    pub held_ms: Option<u64>,
    pub transfer: Option<&'static str>,
    pub transfer_status: Option<u16>,
    pub rate_hz: Option<u32>,
    pub setup: Setup,
    pub uplink: Option<Uplink>,
    pub downlink: Option<Downlink>,
    pub line_leg: Option<LineLeg>,
    pub rtp: Option<Rtp>,
    pub trunk_leg: Option<TrunkLeg>,
}

/// Who spoke how much, and how soon the agent answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "each one's meaning is its row in docs/records.md")]
pub struct Turns {
    pub count: u32,
    pub caller_seconds: f64,
    pub response_p50_ms: Option<u64>,
    pub response_p95_ms: Option<u64>,
}

/// Who ended a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EndedBy {
    /// The caller, or whatever carries the caller.
    Line,
    /// The agent, or whatever carries the agent.
    Trunk,
    /// Somebody at the box.
    Operator,
    /// We did.
    Daemon,
}

/// How long it took until the caller was through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "each one's meaning is its row in docs/records.md")]
pub struct Setup {
    pub dns_ms: Option<u64>,
    pub connect_ms: Option<u64>,
    pub tls_ms: Option<u64>,
    pub upgrade_ms: Option<u64>,
    pub total_ms: Option<u64>,
}

/// Line to trunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "each one's meaning is its row in docs/records.md")]
pub struct Uplink {
    pub first_ms: Option<u64>,
    pub heard_seconds: f64,
    pub frames: u64,
    pub samples: u64,
    pub sent_samples: u64,
    pub dropped_samples: u64,
    pub digits: u64,
    pub delay: Option<Delay>,
}

/// Trunk to line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "each one's meaning is its row in docs/records.md")]
pub struct Downlink {
    pub first_ms: Option<u64>,
    pub heard_seconds: f64,
    pub frames: u64,
    pub heard_samples: u64,
    pub flushed_samples: u64,
    pub repaid_samples: u64,
    pub underruns: u64,
    pub late_frames: u64,
    pub missed_frames: u64,
    pub clears: u64,
    pub marks: u64,
    pub lateness: Option<Delay>,
}

/// The line's connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "each one's meaning is its row in docs/records.md")]
pub struct LineLeg {
    pub in_bytes: u64,
    pub out_bytes: u64,
}

/// The RTP of a SIP call.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "each one's meaning is its row in docs/records.md")]
pub struct Rtp {
    pub peer: Option<String>,
    pub packets: u64,
    pub sent_packets: u64,
    pub lost_packets: u64,
    pub late_packets: u64,
    pub duplicate_packets: u64,
    pub foreign_packets: u64,
    pub bad_packets: u64,
    pub concealed_samples: u64,
    pub jitter_ms: f64,
    pub target_ms: u64,
    pub delay_ms: u64,
    pub max_delay_ms: u64,
    pub round_trip_ms: Option<f64>,
    pub holds: u32,
    pub held_seconds: f64,
    pub remote_lost_packets: i32,
    pub remote_worst_loss_percent: f64,
    pub remote_jitter_ms: f64,
}

/// The trunk's connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "each one's meaning is its row in docs/records.md")]
pub struct TrunkLeg {
    pub in_bytes: u64,
    pub out_bytes: u64,
    pub in_messages: u64,
    pub out_messages: u64,
    pub in_samples: u64,
    pub malformed_messages: u64,
    pub unknown_messages: u64,
    pub skipped_messages: u64,
    pub contradicted_messages: u64,
    pub gathered_messages: u64,
    pub clamped_samples: u64,
}

/// How a delay was spread over a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "each one's meaning is its row in docs/records.md")]
pub struct Delay {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Record {
    /// The record of a call that has ended.
    #[must_use]
    pub fn of(started: Started, ending: &Ending<'_>) -> Self {
        let Ending { outcome, taken, .. } = *ending;
        let (reason, figures, rate) = (outcome.reason, &outcome.figures, outcome.rate);
        let (up, down, trunk, times) = (figures.uplink, figures.downlink, figures.trunk, figures.times);
        let wishes = figures.wishes;
        let after_start = |at: Now| millis(at.saturating_sub(times.started));
        let stage = |of: fn(&Stages) -> Now| taken.as_ref().map(|taken| millis(of(&taken.stages)));
        Self {
            started,
            ended_ms: ending.ended_ms,
            seconds: Some(millis(ending.lasted) as f64 / 1000.0),
            end_reason: reason,
            ended_by: EndedBy::of(reason, outcome.trunk_violated),
            words: outcome.words.clone(),
            sip_status: ending.refused_by,
            trunk: taken.map(|taken| taken.trunk.to_owned()),
            dialect: taken.map(|taken| taken.dialect.to_owned()),
            cipher: taken.and_then(|taken| taken.cipher).map(str::to_owned),
            codec: outcome.codec.map(str::to_owned),
            line_dialect: outcome.line_dialect.map(str::to_owned),
            direction: outcome.direction,
            turns: outcome.turns.map(|turns| Turns {
                count: turns.count,
                caller_seconds: millis(turns.caller_spoke) as f64 / 1000.0,
                response_p50_ms: turns.response_ms.map(|(median, _)| median),
                response_p95_ms: turns.response_ms.map(|(_, most)| most),
            }),
            holds: Some(wishes.holds),
            held_ms: Some(millis(wishes.held)),
            transfer: wishes.transfer.map(Transfer::as_str),
            transfer_status: wishes.transfer.and_then(Transfer::status),
            rate_hz: Some(rate.hz()),
            setup: Setup {
                dns_ms: stage(|stages| stages.dns),
                connect_ms: stage(|stages| stages.connect),
                tls_ms: stage(|stages| stages.tls),
                upgrade_ms: stage(|stages| stages.upgrade),
                total_ms: times.bridged.map(after_start),
            },
            uplink: Some(Uplink {
                first_ms: times.first_spoken.map(after_start),
                heard_seconds: seconds(up.sent, rate),
                frames: up.frames,
                samples: up.samples,
                sent_samples: up.sent,
                dropped_samples: up.dropped,
                digits: up.digits,
                delay: Delay::of(&figures.delays.uplink),
            }),
            downlink: Some(Downlink {
                first_ms: times.first_heard.map(after_start),
                heard_seconds: seconds(down.heard, rate),
                frames: down.frames,
                heard_samples: down.heard,
                flushed_samples: down.flushed,
                repaid_samples: down.repaid,
                underruns: down.underruns,
                late_frames: down.late,
                missed_frames: down.missed,
                clears: figures.clears,
                marks: figures.marks,
                lateness: Delay::of(&figures.delays.playout),
            }),
            line_leg: Some(LineLeg { in_bytes: figures.line.bytes_in, out_bytes: figures.line.bytes_out }),
            rtp: figures.rtp.as_ref().map(Rtp::of),
            trunk_leg: taken.map(|_| TrunkLeg {
                in_bytes: trunk.bytes_in,
                out_bytes: trunk.bytes_out,
                in_messages: trunk.messages_in,
                out_messages: trunk.messages_out,
                in_samples: trunk.samples_in,
                malformed_messages: trunk.malformed,
                unknown_messages: trunk.unknown,
                skipped_messages: trunk.skipped,
                contradicted_messages: trunk.contradicted,
                gathered_messages: trunk.gathered,
                clamped_samples: trunk.clamped,
            }),
        }
    }

    /// The record of a call that was live when the daemon was killed or the power failed, which was found out
    /// `found_ms` after 1970, UTC. What its file did not tell stays unknown.
    #[must_use]
    pub fn cut(started: Started, found_ms: u64) -> Self {
        Self {
            started,
            ended_ms: found_ms,
            seconds: None,
            end_reason: EndReason::Cut,
            ended_by: EndedBy::of(EndReason::Cut, false),
            words: None,
            sip_status: None,
            trunk: None,
            dialect: None,
            cipher: None,
            codec: None,
            line_dialect: None,
            direction: Direction::Both,
            turns: None,
            holds: None,
            held_ms: None,
            transfer: None,
            transfer_status: None,
            rate_hz: None,
            setup: Setup::default(),
            uplink: None,
            downlink: None,
            line_leg: None,
            rtp: None,
            trunk_leg: None,
        }
    }

    /// As `records.jsonl` has it, with the line's end.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        line(self)
    }
}

impl EndedBy {
    /// As it is spelled everywhere.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Line => "line",
            Self::Trunk => "trunk",
            Self::Operator => "operator",
            Self::Daemon => "daemon",
        }
    }

    /// Who ends a call for this reason.
    #[must_use]
    pub const fn of(reason: EndReason, trunk_violated: bool) -> Self {
        match reason {
            EndReason::LineHungUp
            | EndReason::Abandoned
            | EndReason::LineLost
            | EndReason::LineSilent
            | EndReason::BadCodec => Self::Line,
            EndReason::TrunkHungUp
            | EndReason::HandedBack
            | EndReason::TrunkRefused
            | EndReason::TrunkTimeout
            | EndReason::TrunkLost => Self::Trunk,
            EndReason::Protocol if trunk_violated => Self::Trunk,
            EndReason::Protocol => Self::Line,
            EndReason::Operator => Self::Operator,
            EndReason::Overload | EndReason::Drained | EndReason::Cut | EndReason::Bug => Self::Daemon,
        }
    }
}

impl Rtp {
    /// What RTP was like.
    #[must_use]
    pub fn of(tally: &session::Tally) -> Self {
        let ms = |time: Now| hundredths(time.as_micros() as u64);
        Self {
            peer: tally.peer.map(|peer| peer.to_string()),
            packets: tally.packets,
            sent_packets: tally.sent,
            lost_packets: tally.lost,
            late_packets: tally.late,
            duplicate_packets: tally.duplicates,
            foreign_packets: tally.foreign,
            bad_packets: tally.bad,
            concealed_samples: tally.concealed,
            jitter_ms: ms(tally.jitter),
            target_ms: millis(tally.target),
            delay_ms: millis(tally.delay),
            max_delay_ms: millis(tally.most_delay),
            round_trip_ms: tally.round_trip.map(ms),
            holds: tally.holds,
            held_seconds: millis(tally.held) as f64 / 1000.0,
            remote_lost_packets: tally.remote_lost,
            remote_worst_loss_percent: (f64::from(tally.remote_worst_fraction) / 256.0 * 1000.0).round() / 10.0,
            remote_jitter_ms: ms(tally.remote_jitter),
        }
    }
}

impl Delay {
    /// The spread of what was measured, to a hundredth of a millisecond; `None`: nothing was.
    #[must_use]
    pub fn of(measured: &Histogram) -> Option<Self> {
        let ms = hundredths;
        Some(Self {
            p50_ms: ms(measured.permille_us(500)?),
            p99_ms: ms(measured.permille_us(990)?),
            max_ms: ms(measured.most_us),
        })
    }
}

fn line(of: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(of).expect("numbers, texts and names of fields are what JSON has");
    line.push(b'\n');
    line
}

fn spelled<S: Serializer>(reason: &EndReason, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(reason.as_str())
}

/// Microseconds as milliseconds, to a hundredth.
fn hundredths(us: u64) -> f64 {
    (us as f64 / 10.0).round() / 100.0
}

fn millis(time: Now) -> u64 {
    time.as_millis() as u64
}

/// To a millisecond.
fn seconds(samples: u64, rate: Rate) -> f64 {
    (samples * 1000 / u64::from(rate.hz())) as f64 / 1000.0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::{
        call::{
            bridge::{Delays, Times, UplinkTally},
            outcome::{Figures, LineTally, TurnFigures},
            wishes::WishFigures,
        },
        dialect::Text,
        leg::websocket::leg::Tally,
        media::playout::Weather,
    };

    const PAGE: &str = include_str!("../../docs/records.md");

    fn started(numbers: Numbers) -> Started {
        let text = |text: &str| Text::try_from(text).unwrap();
        let facts = Facts {
            call_id: text("k3vqd2mxa7re"),
            ucid: text("17534281056310427"),
            call_sid: text("40325ec2-5efd-4bd3-805f-53576e581d13"),
            from: text("+4930123456"),
            to: text("+4989654321"),
            ..Facts::default()
        };
        Started::of(&facts, "pbx", Some("192.0.2.10:51122".parse().unwrap()), 1_753_428_105_631, numbers)
    }

    /// So many of so many microseconds each.
    fn spread(of: [(u64, u32); 3]) -> Histogram {
        let mut histogram = Histogram::default();
        of.iter().for_each(|&(us, count)| histogram.record_many(Now::from_micros(us), count));
        histogram
    }

    fn outcome() -> Outcome {
        let ms = Now::from_millis;
        let figures = Figures {
            uplink: UplinkTally { frames: 4620, samples: 739_200, sent: 737_600, dropped: 1600, digits: 1 },
            downlink: Weather {
                frames: 4588,
                heard: 409_600,
                underruns: 1,
                late: 2,
                missed: 0,
                flushed: 24_000,
                repaid: 480,
            },
            trunk: Tally {
                messages_in: 160,
                messages_out: 9225,
                bytes_in: 3_072_440,
                bytes_out: 5_218_306,
                samples_in: 434_080,
                unknown: 1,
                ..Tally::default()
            },
            clears: 1,
            marks: 12,
            times: Times {
                started: ms(60_000),
                bridged: Some(ms(60_212)),
                first_spoken: Some(ms(60_019)),
                first_heard: Some(ms(60_871)),
                ended: Some(ms(152_400)),
                ..Times::default()
            },
            delays: Delays {
                uplink: spread([(90, 4500), (700, 100), (8060, 20)]),
                playout: spread([(60, 4500), (410, 80), (5730, 8)]),
                response: spread([(640_000, 4), (700_000, 1), (1_200_000, 1)]),
            },
            line: LineTally { bytes_in: 1_492_271, bytes_out: 1_481_927 },
            rtp: None,
            wishes: WishFigures {
                wishes: 1,
                holds: 1,
                held: ms(12_400),
                transfer: Some(Transfer::Failed { status: 486 }),
                ..WishFigures::default()
            },
        };
        Outcome {
            figures,
            codec: Some("slin"),
            rate: Rate::Hz8000,
            turns: Some(TurnFigures { count: 6, caller_spoke: ms(31_540), response_ms: Some((640, 1200)) }),
            ..Outcome::stillborn(7, EndReason::LineHungUp, ms(152_418))
        }
    }

    /// RTP of a call whose network was rough for a while.
    fn rough() -> session::Tally {
        let us = Now::from_micros;
        session::Tally {
            packets: 4588,
            lost: 32,
            late: 3,
            duplicates: 1,
            concealed: 5280,
            jitter: us(4_375),
            target: us(41_000),
            delay: us(43_000),
            most_delay: us(96_000),
            holds: 1,
            held: us(12_340_000),
            reports: 18,
            round_trips: 17,
            round_trip: Some(us(23_480)),
            peer: Some("192.0.2.10:17204".parse().unwrap()),
            foreign: 2,
            bad: 0,
            sent: 4003,
            remote_lost: 5,
            remote_worst_fraction: 7,
            remote_jitter: us(1_250),
        }
    }

    fn ending(outcome: &Outcome) -> Ending<'_> {
        let ms = Now::from_millis;
        Ending {
            ended_ms: 1_753_428_198_049,
            lasted: ms(92_418),
            outcome,
            taken: Some(Taken {
                trunk: "agent",
                dialect: "ozonetel",
                cipher: Some("TLS13_AES_256_GCM_SHA384"),
                stages: Stages { dns: ms(18), connect: ms(41), tls: ms(87), upgrade: ms(63) },
            }),
            refused_by: None,
        }
    }

    /// Every key, with the groups that it is in: `uplink.digits`.
    fn keys(value: &Value, group: &str, into: &mut BTreeSet<String>) {
        for (key, value) in value.as_object().unwrap() {
            let key = format!("{group}{key}");
            if value.is_object() {
                keys(value, &format!("{key}."), into);
            } else {
                into.insert(key);
            }
        }
    }

    #[test]
    fn the_example_of_the_page_is_this_record() {
        let outcome = outcome();
        let record = Record::of(started(Numbers::Redacted), &ending(&outcome));
        let example = PAGE.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
        let example: Value = serde_json::from_str(example).unwrap();
        assert_eq!(example, serde_json::from_slice::<Value>(&record.line()).unwrap());
    }

    #[test]
    fn the_example_of_rtp_is_that_of_a_rough_call() {
        let example = PAGE.split("```json\n").nth(2).unwrap().split("```").next().unwrap();
        let example: Value = serde_json::from_str(&format!("{{{example}}}")).unwrap();
        assert_eq!(example["rtp"], serde_json::to_value(Rtp::of(&rough())).unwrap());
    }

    #[test]
    fn every_key_has_its_row_on_the_page_and_no_row_is_left_over() {
        let mut outcome = outcome();
        outcome.figures.rtp = Some(rough());
        let record = Record::of(started(Numbers::Redacted), &ending(&outcome));
        let mut there = BTreeSet::new();
        keys(&serde_json::to_value(record).unwrap(), "", &mut there);
        let rows = PAGE.lines().filter_map(|row| row.strip_prefix("| `")?.split('`').next()).map(str::to_owned);
        assert_eq!(rows.collect::<BTreeSet<_>>(), there);
    }

    #[test]
    fn a_record_is_one_line_that_begins_with_its_id() {
        let mut outcome = outcome();
        outcome.words = Some("first\nsecond \"quoted\"".to_owned());
        let line = Record::of(started(Numbers::Redacted), &ending(&outcome)).line();
        assert!(line.starts_with(b"{\"call_id\":\"k3vqd2mxa7re\","));
        assert_eq!(line.iter().position(|&byte| byte == b'\n'), Some(line.len() - 1));
    }

    #[test]
    fn a_cut_call_has_every_key_and_claims_no_figures() {
        let outcome = outcome();
        let whole = serde_json::to_value(Record::of(started(Numbers::Redacted), &ending(&outcome))).unwrap();
        let cut = serde_json::to_value(Record::cut(started(Numbers::Redacted), 1_753_428_300_000)).unwrap();
        assert!(whole.as_object().unwrap().keys().eq(cut.as_object().unwrap().keys()));
        assert_eq!((&cut["end_reason"], &cut["ended_by"]), (&"cut".into(), &"daemon".into()));
        assert_eq!((&cut["seconds"], &cut["uplink"], &cut["line"]), (&Value::Null, &Value::Null, &"pbx".into()));
    }

    #[test]
    fn a_number_is_whole_only_where_that_was_asked_for() {
        let line = |numbers| String::from_utf8(started(numbers).line()).unwrap();
        assert!(!line(Numbers::Redacted).contains("493012"));
        assert!(line(Numbers::Full).contains("\"from\":\"+4930123456\""));
    }

    #[test]
    fn a_start_survives_its_file() {
        let started = started(Numbers::Redacted);
        assert_eq!(serde_json::from_slice::<Started>(&started.line()).unwrap(), started);
    }

    #[test]
    fn the_side_that_broke_its_protocol_ended_the_call() {
        assert_eq!(EndedBy::of(EndReason::Protocol, true), EndedBy::Trunk);
        assert_eq!(EndedBy::of(EndReason::Protocol, false), EndedBy::Line);
        assert_eq!(EndedBy::of(EndReason::Abandoned, false), EndedBy::Line);
        assert_eq!(EndedBy::of(EndReason::Drained, false), EndedBy::Daemon);
    }
}
