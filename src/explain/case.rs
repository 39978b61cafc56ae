//! What is known of one call, put together from all that was kept of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{Evidence, LogLine};
use crate::{call::EndReason, control::messages};

/// All that was read, of this call and perhaps of others.
#[derive(Debug, Default)]
pub struct Material {
    /// Records, each a line of `records.jsonl`.
    pub records: Vec<Value>,
    /// Calls that are live or were when the daemon was killed, each a file of `open/`.
    pub open: Vec<Value>,
    /// Lines of the log.
    pub lines: Vec<LogLine>,
    /// Lines of the event log.
    pub events: Vec<Value>,
}

/// One call.
#[derive(Debug)]
pub struct Case<'m> {
    /// Our id of it.
    pub call_id: String,
    /// Numbers by the names of docs/records.md.
    figures: BTreeMap<String, f64>,
    /// Texts, likewise.
    texts: BTreeMap<String, String>,
    /// Whether there is a record.
    pub has_record: bool,
    /// Whether the end of it is known.
    pub is_over: bool,
    /// Its lines in the log, in order.
    pub lines: Vec<&'m LogLine>,
    /// What the log says of the whole daemon while it lasted.
    pub around: Vec<&'m LogLine>,
    /// Its lines in the event log.
    pub events: Vec<&'m Map<String, Value>>,
}

/// The kind of its line, as far as that shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Asterisk's AudioSocket.
    Audiosocket,
    /// A vendor's WebSocket.
    Websocket,
    /// SIP and RTP.
    Sip,
    /// Something without a peer: a card or a pipe.
    Local,
    /// It does not show.
    Unknown,
}

/// The calls that have this id, by our own ids of them, the oldest first. A platform may use an id again.
#[must_use]
pub fn calls_named(id: &str, material: &Material) -> Vec<String> {
    let is_it = |value: Option<&str>| value.is_some_and(|value| value.eq_ignore_ascii_case(id));
    let mut found = Vec::new();
    let mut add = |call_id: Option<&str>| {
        if let Some(call_id) = call_id
            && !found.iter().any(|known| known == call_id)
        {
            found.push(call_id.to_owned());
        }
    };
    let has = |object: &Value| RECORD_ALIASES.iter().any(|key| is_it(object[key].as_str()));
    for object in material.records.iter().chain(&material.open).filter(|object| has(object)) {
        add(object["call_id"].as_str());
    }
    for line in material.lines.iter().filter(|line| ALIASES.iter().any(|key| is_it(line.field(key)))) {
        add(line.field("call_id"));
    }
    for event in &material.events {
        if is_it(event["call_id"].as_str()) || has(&event["details"]) {
            add(event["call_id"].as_str());
        }
    }
    // A call that only its platform has told of.
    let is_known = material.lines.iter().any(|line| ALIASES.iter().any(|key| is_it(line.field(key))));
    if found.is_empty() && is_known {
        found.push(id.to_owned());
    }
    found
}

impl<'m> Case<'m> {
    /// What the material says of the call with this id of ours.
    #[must_use]
    pub fn of(call_id: &str, material: &'m Material) -> Self {
        let mut case = Self {
            call_id: call_id.to_owned(),
            figures: BTreeMap::new(),
            texts: BTreeMap::new(),
            has_record: false,
            is_over: false,
            lines: Vec::new(),
            around: Vec::new(),
            events: Vec::new(),
        };
        let of_call = |object: &&Value| object["call_id"] == call_id;
        // The last one: a daemon that was killed in the moment of a call's end may have told both.
        if let Some(record) = material.records.iter().rfind(of_call) {
            case.add("", record);
            (case.has_record, case.is_over) = (true, true);
        } else if let Some(open) = material.open.iter().rfind(of_call) {
            case.add("", open);
        }
        for event in material.events.iter().filter(of_call) {
            if let Value::Object(event) = event {
                case.add_event(event);
            }
        }
        let mut ids: BTreeSet<String> = BTreeSet::from([call_id.to_owned()]);
        ids.extend(case.text("call_sid").map(str::to_owned));
        let mut lines: Vec<_> = material.lines.iter().filter(|line| is_of(line, &ids)).collect();
        // A platform's id is often only in the first line that has ours too; what has no other is found by it then.
        ids.extend(lines.iter().filter_map(|line| line.field("call_control_id")).map(str::to_owned));
        lines = material.lines.iter().filter(|line| is_of(line, &ids)).collect();
        lines.sort_by_key(|line| line.at_ms);
        for line in &lines {
            case.add_line(line);
        }
        case.lines = lines;
        case.events.sort_by(|a, b| a.get("at").and_then(Value::as_str).cmp(&b.get("at").and_then(Value::as_str)));
        if let Some((from, to)) = case.window() {
            let is_around = |line: &&LogLine| {
                line.field("call_id").is_none()
                    // That it was started is told of every call, unless it was in mid-call.
                    && !(line.is(messages::STARTED) && line.at_ms < case.started_ms())
                    && line.at_ms.is_some_and(|at| (from..=to).contains(&at))
                    && super::AROUND.iter().any(|id| line.is(id))
            };
            case.around = material.lines.iter().filter(is_around).collect();
        }
        case
    }

    /// A figure by its name in docs/records.md.
    #[must_use]
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.figures.get(name).copied()
    }

    /// A figure, or 0 where it is not known.
    #[must_use]
    pub fn count(&self, name: &str) -> f64 {
        self.figure(name).unwrap_or(0.0)
    }

    /// Whether it is known to be nothing.
    #[must_use]
    pub fn is_zero(&self, name: &str) -> bool {
        self.figure(name) == Some(0.0)
    }

    /// A text by its name in docs/records.md.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(String::as_str)
    }

    /// These figures and texts, where they are known.
    #[must_use]
    pub fn evidence(&self, names: &[&'static str]) -> Vec<Evidence> {
        let value = |name: &str| {
            let figure = || self.figure(name).map(|figure| figure.to_string());
            self.text(name).map(str::to_owned).or_else(figure)
        };
        names.iter().filter_map(|&what| Some(Evidence { what, value: value(what)? })).collect()
    }

    /// Why it ended.
    #[must_use]
    pub fn reason(&self) -> Option<EndReason> {
        let said = self.text("end_reason")?;
        EndReason::ALL.into_iter().find(|reason| reason.as_str() == said)
    }

    /// How long it was (s).
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.count("seconds")
    }

    /// How long audio could flow (s). `None`: no trunk has taken it.
    #[must_use]
    pub fn bridged_seconds(&self) -> Option<f64> {
        Some((self.seconds() - self.figure("setup.total_ms")? / 1000.0).max(0.0))
    }

    /// Whether nobody could hear an agent, as the platform wanted it.
    #[must_use]
    pub fn listens_only(&self) -> bool {
        self.text("direction") == Some("uplink")
    }

    /// Whether nothing that could be heard came from the line. A SIP line gives the agent silence for packets that do not
    /// come, so there it goes by the packets.
    #[must_use]
    pub fn line_sent_nothing(&self) -> bool {
        match self.figure("rtp.packets") {
            Some(packets) => packets <= self.count("rtp.bad_packets"),
            None => self.is_zero("uplink.frames"),
        }
    }

    /// Its line's name, for words to people.
    #[must_use]
    pub fn line_name(&self) -> &str {
        self.text("line").unwrap_or("the line")
    }

    /// The trunk's name, or that of the last that was tried.
    #[must_use]
    pub fn trunk_name(&self) -> &str {
        let tried = || self.refusals().last().and_then(|line| line.field("trunk"));
        self.text("trunk").or_else(tried).unwrap_or("the trunk")
    }

    /// Trunks that did not take it, in order.
    pub fn refusals(&self) -> impl DoubleEndedIterator<Item = &'m LogLine> + '_ {
        self.lines.iter().copied().filter(|line| line.is(messages::TRUNK_REFUSED))
    }

    /// Why the last of them did not, in its own words.
    #[must_use]
    pub fn last_refusal(&self) -> Option<&str> {
        self.refusals().next_back()?.field("error")
    }

    /// How often the trunk was dialled again in mid-call.
    #[must_use]
    pub fn redials(&self) -> usize {
        self.lines.iter().filter(|line| line.sentence() == "the trunk is dialled again").count()
    }

    /// Events of this kind.
    pub fn events_of<'s>(&'s self, kind: &'s str) -> impl Iterator<Item = &'m Map<String, Value>> + 's {
        self.events.iter().copied().filter(move |event| event.get("event").and_then(Value::as_str) == Some(kind))
    }

    /// What kind of line brought it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        let started = self.lines.iter().find(|line| line.is(messages::CALL_STARTED));
        let said = |key| started.is_some_and(|line| line.field(key).is_some());
        let codec = self.text("codec").unwrap_or_default();
        if self.figure("rtp.packets").is_some() || said("codec") {
            Kind::Sip
        } else if self.text("line_dialect").is_some() || said("dialect") {
            Kind::Websocket
        } else if said("uuid") || (self.text("peer").is_some() && (codec.starts_with("slin") || codec.ends_with("law")))
        {
            Kind::Audiosocket
        } else if self.text("peer").is_none() && (started.is_some() || self.has_record) {
            Kind::Local
        } else {
            Kind::Unknown
        }
    }

    /// When it began (ms since 1970).
    #[must_use]
    pub fn started_ms(&self) -> Option<u64> {
        let first = || self.lines.iter().find_map(|line| line.at_ms);
        self.figure("started_ms").map(|ms| ms as u64).or_else(first)
    }

    /// When it ended.
    #[must_use]
    pub fn ended_ms(&self) -> Option<u64> {
        self.figure("ended_ms").map(|ms| ms as u64)
    }

    /// From its start to its end, and a little on both sides.
    #[must_use]
    pub fn window(&self) -> Option<(u64, u64)> {
        let from = self.started_ms()?;
        let last = self.lines.iter().filter_map(|line| line.at_ms).max();
        let to = self.ended_ms().into_iter().chain(last).max().unwrap_or(from);
        Some((from.saturating_sub(AROUND_MS), to + AROUND_MS))
    }

    fn add(&mut self, prefix: &str, value: &Value) {
        let Value::Object(members) = value else { return };
        for (name, value) in members {
            let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            match value {
                Value::Number(number) => drop(number.as_f64().map(|number| self.figures.insert(name, number))),
                Value::String(text) => drop(self.texts.insert(name, text.clone())),
                Value::Object(_) => self.add(&name, value),
                Value::Null | Value::Bool(_) | Value::Array(_) => {}
            }
        }
    }

    fn add_event(&mut self, event: &'m Map<String, Value>) {
        let details = &event["details"];
        match event.get("event").and_then(Value::as_str) {
            Some("call-started") => {
                for key in ["line", "peer", "call_sid", "ucid", "from", "to", "did", "direction"] {
                    self.text_if_new(key, details[key].as_str());
                }
                let at = event.get("at").and_then(Value::as_str).and_then(|at| at.parse::<jiff::Timestamp>().ok());
                self.figure_if_new("started_ms", at.map(|at| at.as_millisecond() as f64));
            }
            Some("call-ended") => {
                self.is_over = true;
                for key in ["end_reason", "ended_by", "words", "trunk", "dialect"] {
                    self.text_if_new(key, details[key].as_str());
                }
                self.figure_if_new("seconds", details["seconds"].as_f64());
            }
            Some(_) | None => {}
        }
        self.events.push(event);
    }

    /// Takes what a line of the log says, where nothing else has said it.
    fn add_line(&mut self, line: &LogLine) {
        if line.is(messages::CALL_STARTED) {
            self.figure_if_new("started_ms", line.at_ms.map(|ms| ms as f64));
            for key in ["line", "peer", "call_sid", "ucid", "stream_sid"] {
                self.text_if_new(key, line.field(key));
            }
            self.text_if_new("call_sid", line.field("uuid"));
            self.text_if_new("line_dialect", line.field("dialect"));
        } else if line.is(messages::TRUNK_ANSWERED) {
            self.text_if_new("trunk", line.field("trunk"));
            self.text_if_new("dialect", line.field("dialect"));
            self.text_if_new("cipher", line.field("cipher").filter(|cipher| *cipher != "none"));
            for (key, name) in STAGES {
                self.figure_if_new(name, line.number(key));
            }
        } else if line.is(messages::CALL_ENDED) {
            self.is_over = true;
            self.figure_if_new("ended_ms", line.at_ms.map(|ms| ms as f64));
            for key in ["line", "end_reason", "ended_by", "direction", "words"] {
                self.text_if_new(key, line.field(key));
            }
            for key in ["trunk", "dialect", "codec"] {
                self.text_if_new(key, line.field(key).filter(|value| *value != "none"));
            }
            let took_it = line.field("trunk").is_some_and(|trunk| trunk != "none");
            for (key, name, per) in CLOSING {
                // Where no trunk took it there is nothing to count of one, as in a record.
                if took_it || !name.starts_with("trunk_leg.") {
                    self.figure_if_new(name, line.number(key).map(|number| number / per));
                }
            }
        }
    }

    fn text_if_new(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.texts.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
    }

    fn figure_if_new(&mut self, name: &str, value: Option<f64>) {
        if let Some(value) = value {
            self.figures.entry(name.to_owned()).or_insert(value);
        }
    }
}

fn is_of(line: &LogLine, ids: &BTreeSet<String>) -> bool {
    match line.field("call_id") {
        Some(call_id) => ids.contains(call_id),
        None => line.field("call_control_id").is_some_and(|id| ids.contains(id)),
    }
}

/// Keys of a record, and of the event log, that name a call.
const RECORD_ALIASES: [&str; 3] = ["call_id", "call_sid", "ucid"];
/// Fields of the log that name a call.
pub(crate) const ALIASES: [&str; 6] = ["call_id", "call_sid", "uuid", "ucid", "stream_sid", "call_control_id"];
/// What may have to do with a call is logged so long before its start or after its end, at most.
const AROUND_MS: u64 = 2000;
/// Fields of `trunk answered`, and their names in a record.
const STAGES: [(&str, &str); 4] = [
    ("dns_ms", "setup.dns_ms"),
    ("connect_ms", "setup.connect_ms"),
    ("tls_ms", "setup.tls_ms"),
    ("upgrade_ms", "setup.upgrade_ms"),
];
/// Fields of `call ended`, their names in a record, and how many of the one are one of the other.
const CLOSING: [(&str, &str, f64); 37] = [
    ("seconds", "seconds", 1.0),
    ("bridged_ms", "setup.total_ms", 1.0),
    ("first_heard_ms", "downlink.first_ms", 1.0),
    ("rate", "rate_hz", 1.0),
    ("frames_up", "uplink.frames", 1.0),
    ("frames_down", "downlink.frames", 1.0),
    ("samples_up", "uplink.samples", 1.0),
    ("samples_heard", "downlink.heard_samples", 1.0),
    ("dropped", "uplink.dropped_samples", 1.0),
    ("underruns", "downlink.underruns", 1.0),
    ("late", "downlink.late_frames", 1.0),
    ("missed", "downlink.missed_frames", 1.0),
    ("flushed", "downlink.flushed_samples", 1.0),
    ("repaid", "downlink.repaid_samples", 1.0),
    ("clears", "downlink.clears", 1.0),
    ("marks", "downlink.marks", 1.0),
    ("digits", "uplink.digits", 1.0),
    ("messages_in", "trunk_leg.in_messages", 1.0),
    ("messages_out", "trunk_leg.out_messages", 1.0),
    ("samples_in", "trunk_leg.in_samples", 1.0),
    ("malformed", "trunk_leg.malformed_messages", 1.0),
    ("unknown", "trunk_leg.unknown_messages", 1.0),
    ("skipped", "trunk_leg.skipped_messages", 1.0),
    ("contradicted", "trunk_leg.contradicted_messages", 1.0),
    ("clamped", "trunk_leg.clamped_samples", 1.0),
    ("lost", "rtp.lost_packets", 1.0),
    ("concealed", "rtp.concealed_samples", 1.0),
    ("jitter_ms", "rtp.jitter_ms", 1.0),
    ("round_trip_ms", "rtp.round_trip_ms", 1.0),
    ("packets", "rtp.packets", 1.0),
    ("late_packets", "rtp.late_packets", 1.0),
    ("foreign", "rtp.foreign_packets", 1.0),
    ("bad_packets", "rtp.bad_packets", 1.0),
    ("remote_loss_percent", "rtp.remote_worst_loss_percent", 1.0),
    ("held_ms", "held_ms", 1.0),
    ("caller_ms", "turns.caller_seconds", 1000.0),
    ("turns", "turns.count", 1.0),
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    const DAEMON: &str = include_str!("../daemon/calls.rs");
    const RECORDS: &str = include_str!("../../docs/records.md");

    #[test]
    fn every_number_of_the_closing_line_is_known_by_its_name_in_a_record() {
        let (_, rest) = DAEMON.split_once("messages::CALL_ENDED,").unwrap();
        let (closing, _) = rest.split_once("\"call ended\"").unwrap();
        let code: String = closing.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let keys = code.split(',').map(|piece| piece.split(['=', ':', ';']).next().unwrap_or_default().trim());
        let is_key = |key: &&str| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let logged: Vec<_> = keys.filter(is_key).collect();
        for (key, name, _) in CLOSING {
            assert!(logged.contains(&key), "{key} is not logged: {logged:?}");
            assert!(RECORDS.contains(&format!("| `{name}` |")), "{name} is no key of a record");
        }
        let texts = ["call_id", "line", "trunk", "dialect", "end_reason", "ended_by", "direction", "codec", "words"];
        for key in logged.iter().filter(|key| !texts.contains(key)) {
            assert!(CLOSING.iter().any(|(known, ..)| known == key), "{key} is read by nobody");
        }
        assert_eq!(logged.last(), Some(&"words"), "the words of others come last");
    }

    fn material(lines: &[&str]) -> Material {
        let lines = lines.iter().filter_map(|line| LogLine::parse(line)).collect();
        Material { lines, ..Material::default() }
    }

    #[test]
    fn a_call_is_found_by_whatever_it_is_called() {
        let mut material = material(&[
            "[2025-07-25T07:21:45.631Z INFO ] call started call_id=k3vqd2mxa7re line=pbx \
             uuid=40325ec2-5efd-4bd3-805f-53576e581d13 peer=192.0.2.10:5 ucid=1753",
            "[2025-07-25T07:22:45.631Z INFO ] call started call_id=aaaaaaaaaaaa line=door stream_sid=MZ1 call_sid=CA1",
        ]);
        material.records.push(json!({ "call_id": "bbbbbbbbbbbb", "call_sid": "a84b4c76e66710@pc33", "ucid": null }));
        for (id, call_id) in [
            ("k3vqd2mxa7re", "k3vqd2mxa7re"),
            ("40325EC2-5EFD-4BD3-805F-53576E581D13", "k3vqd2mxa7re"),
            ("1753", "k3vqd2mxa7re"),
            ("MZ1", "aaaaaaaaaaaa"),
            ("CA1", "aaaaaaaaaaaa"),
            ("a84b4c76e66710@pc33", "bbbbbbbbbbbb"),
        ] {
            assert_eq!(calls_named(id, &material), [call_id], "{id}");
        }
        assert!(calls_named("nobody", &material).is_empty());
    }

    #[test]
    fn an_id_that_a_platform_uses_again_names_both_calls() {
        let records =
            vec![json!({ "call_id": "aaaaaaaaaaaa", "ucid": "7" }), json!({ "call_id": "bbbbbbbbbbbb", "ucid": "7" })];
        let material = Material { records, ..Material::default() };
        assert_eq!(calls_named("7", &material), ["aaaaaaaaaaaa", "bbbbbbbbbbbb"]);
    }

    #[test]
    fn the_record_goes_before_the_log_and_what_it_lacks_is_taken_from_there() {
        let mut material = material(&[
            "[2025-07-25T07:21:45.631Z INFO ] call started call_id=k3vqd2mxa7re line=pbx uuid=u peer=192.0.2.10:5",
            "[2025-07-25T07:21:50.631Z INFO ] call ended call_id=k3vqd2mxa7re line=pbx trunk=none dialect=none \
             end_reason=abandoned seconds=5 first_heard_ms=-1 frames_up=250 messages_in=0 caller_ms=1500 words=",
        ]);
        let case = Case::of("k3vqd2mxa7re", &material);
        assert_eq!((case.reason(), case.kind()), (Some(EndReason::Abandoned), Kind::Audiosocket));
        assert_eq!((case.figure("uplink.frames"), case.figure("downlink.first_ms")), (Some(250.0), None));
        assert_eq!((case.figure("trunk_leg.in_messages"), case.figure("turns.caller_seconds")), (None, Some(1.5)));
        assert_eq!((case.text("trunk"), case.bridged_seconds()), (None, None));
        assert!(case.is_over && !case.has_record);
        material.records.push(json!({ "call_id": "k3vqd2mxa7re", "uplink": { "frames": 251 }, "trunk": null }));
        let case = Case::of("k3vqd2mxa7re", &material);
        assert_eq!((case.figure("uplink.frames"), case.seconds()), (Some(251.0), 5.0));
        assert!(case.has_record);
    }
}
