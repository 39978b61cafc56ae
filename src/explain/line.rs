//! A line of the log, from wherever it was kept: journald's JSON, or text as a terminal shows it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::control::messages;

/// A line of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogLine {
    /// When it happened, in ms since 1970. `None`: it does not say in a way that is understood.
    pub at_ms: Option<u64>,
    /// 3 error, 4 warning, 6 info, 7 debug.
    pub priority: u8,
    /// The sentence and its fields.
    pub text: String,
    /// By the names that log macros have: `call_id`, not `CALL_ID`.
    fields: BTreeMap<String, String>,
}

impl LogLine {
    /// Reads one line of `journalctl -o json`, of a daemon's stderr, or of `journalctl` as it is printed.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let line = line.trim();
        if line.is_empty() {
            return None;
        }
        if line.starts_with('{') { Self::of_json(line) } else { Some(Self::of_text(line)) }
    }

    /// systemd.journal-fields(7), and the text that journalctl(1) makes of them: a value that is no text is an array of
    /// bytes, one that is very long is null, a field that is there twice is an array of values.
    fn of_json(line: &str) -> Option<Self> {
        let Value::Object(entry) = serde_json::from_str(line).ok()? else { return None };
        let mut fields = BTreeMap::new();
        for (name, value) in &entry {
            if !name.starts_with('_')
                && let Some(value) = text_of(value)
            {
                fields.insert(name.to_ascii_lowercase(), value);
            }
        }
        let text = fields.remove("message")?;
        let received = entry.get("__REALTIME_TIMESTAMP").and_then(Value::as_str).and_then(|us| us.parse::<u64>().ok());
        let at_ms = fields.get("event_time").and_then(|at| ms_of(at)).or(received.map(|us| us / 1000));
        let priority = fields.get("priority").and_then(|priority| priority.parse().ok()).unwrap_or(6);
        // A build without libsystemd has them only in the text. What is a field of its own was not made up by a peer.
        for (key, value) in fields_of(&text) {
            fields.entry(key).or_insert(value);
        }
        Some(Self { at_ms, priority, text, fields })
    }

    /// `[2025-07-25T07:21:45.631Z INFO ] call ended call_id=...`, or `DATE HOST trunkline[PID]: call ended ...`.
    fn of_text(line: &str) -> Self {
        let (head, text) = match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
            Some((head, text)) => (head, text),
            None => match line.find("trunkline[").and_then(|at| Some((at, line[at..].find("]: ")?))) {
                Some((at, len)) => (&line[..at], &line[at + len + 3..]),
                None => ("", line),
            },
        };
        let mut words = head.split_whitespace();
        let at_ms = words.next().and_then(ms_of);
        let priority = match words.next() {
            Some("ERROR") => 3,
            Some("WARN") => 4,
            Some("DEBUG" | "TRACE") => 7,
            _ => 6,
        };
        Self { at_ms, priority, text: text.to_owned(), fields: fields_of(text).into_iter().collect() }
    }

    /// What it says by this key.
    #[must_use]
    pub fn field(&self, key: &str) -> Option<&str> {
        self.fields.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The same as a number. What never happened is logged as -1.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<f64> {
        self.field(key)?.parse().ok().filter(|&number| number >= 0.0)
    }

    /// Whether it is this message of [`messages`]: by its id, or by its sentence where it has none.
    #[must_use]
    pub fn is(&self, id: &str) -> bool {
        match self.field("message_id") {
            Some(said) => said == id,
            None => messages::TABLE.iter().any(|(_, known, sentence)| *known == id && self.text.starts_with(sentence)),
        }
    }

    /// The sentence without its fields.
    #[must_use]
    pub fn sentence(&self) -> &str {
        let end = keys_in(&self.text).next().map_or(self.text.len(), |(start, _)| start);
        self.text[..end].trim_end()
    }
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) if parts.iter().all(Value::is_u64) => {
            let bytes: Option<Vec<u8>> = parts.iter().map(|part| u8::try_from(part.as_u64()?).ok()).collect();
            Some(String::from_utf8_lossy(&bytes?).into_owned())
        }
        // Several values: the first is the one that was sent first.
        Value::Array(parts) => text_of(parts.first()?),
        _ => None,
    }
}

fn ms_of(text: &str) -> Option<u64> {
    let at = text.parse::<Timestamp>().ok()?;
    u64::try_from(at.as_millisecond()).ok()
}

/// The fields in a line of text, each up to the next. Where a key is there twice the first counts: our closing line has
/// the words of others last, so that they cannot say otherwise.
fn fields_of(text: &str) -> Vec<(String, String)> {
    let keys: Vec<_> = keys_in(text).collect();
    let mut fields: Vec<(String, String)> = Vec::with_capacity(keys.len());
    for (index, &(start, equals)) in keys.iter().enumerate() {
        let end = keys.get(index + 1).map_or(text.len(), |&(next, _)| next);
        let (key, value) = (text[start..equals].trim_start(), text[equals + 1..end].trim_end());
        if fields.iter().all(|(known, _)| known != key) {
            fields.push((key.to_owned(), value.to_owned()));
        }
    }
    fields
}

/// Where ` key=` begins, with its blank, and where its `=` is.
fn keys_in(text: &str) -> impl Iterator<Item = (usize, usize)> + '_ {
    text.match_indices(' ').filter_map(|(start, _)| {
        let word = &text[start + 1..];
        let len = word.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))?;
        let is_key = word.starts_with(|c: char| c.is_ascii_lowercase()) && word[len..].starts_with('=');
        is_key.then_some((start, start + 1 + len))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    // As `journalctl -o json` printed it, less the fields of journald's own.
    const JSON: &str = r#"{"MESSAGE":"call ended call_id=k3vqd2mxa7re end_reason=trunk-lost words=gone","MESSAGE_ID":"b5450a14d67944139587dc83c18ea134","PRIORITY":"6","CALL_ID":"k3vqd2mxa7re","END_REASON":"trunk-lost","WORDS":[103,111,110,101,10,120],"EVENT_TIME":"2025-07-25T07:21:45.631Z","__REALTIME_TIMESTAMP":"1753428105999000","_SYSTEMD_UNIT":"trunkline.service"}"#;

    #[test]
    fn an_entry_of_the_journal_has_its_fields_and_the_time_of_the_event() {
        let line = LogLine::parse(JSON).unwrap();
        assert_eq!((line.at_ms, line.priority), (Some(1_753_428_105_631), 6));
        assert_eq!(line.field("call_id"), Some("k3vqd2mxa7re"));
        assert_eq!(line.field("words"), Some("gone\nx"), "what is no text comes as its bytes");
        assert_eq!((line.field("systemd_unit"), line.field("_systemd_unit")), (None, None));
        assert!(line.is(messages::CALL_ENDED) && !line.is(messages::CALL_STARTED));
    }

    #[test]
    fn a_line_of_text_has_the_same_fields() {
        for line in [
            "[2025-07-25T07:21:45.631Z INFO ] call ended call_id=k3vqd2mxa7re seconds=92.4 first_heard_ms=-1 words=",
            "2025-07-25T07:21:45.631Z pi trunkline[812]: call ended call_id=k3vqd2mxa7re seconds=92.4 words=",
        ] {
            let line = LogLine::parse(line).unwrap();
            assert_eq!((line.at_ms, line.field("call_id")), (Some(1_753_428_105_631), Some("k3vqd2mxa7re")));
            assert_eq!((line.number("seconds"), line.number("first_heard_ms")), (Some(92.4), None));
            assert_eq!((line.field("words"), line.sentence()), (None, "call ended"));
            assert!(line.is(messages::CALL_ENDED));
        }
        let warned =
            LogLine::parse("[2025-07-25T07:21:45.631Z WARN ] trunk did not take the call error=no; a b").unwrap();
        assert_eq!((warned.priority, warned.field("error")), (4, Some("no; a b")));
        let short = LogLine::parse("Jul 25 07:21:45 pi trunkline[812]: call started call_id=k3vqd2mxa7re").unwrap();
        assert_eq!((short.at_ms, short.field("call_id")), (None, Some("k3vqd2mxa7re")));
    }

    #[test]
    fn the_words_of_a_peer_do_not_take_the_place_of_a_field() {
        let line = LogLine::parse("[x] call ended end_reason=trunk-lost words=bye end_reason=bug seconds=0").unwrap();
        assert_eq!(line.field("end_reason"), Some("trunk-lost"));
        let json = JSON.replace("words=gone", "words=gone end_reason=bug");
        assert_eq!(LogLine::parse(&json).unwrap().field("end_reason"), Some("trunk-lost"));
    }

    #[test]
    fn what_is_no_line_is_none() {
        for text in ["", "  ", "{", "{}", "[1]x{", "{\"MESSAGE\":null}"] {
            let line = LogLine::parse(text);
            assert!(line.is_none_or(|line| line.field("call_id").is_none()), "{text}");
        }
    }
}
