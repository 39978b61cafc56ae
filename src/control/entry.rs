//! One event on its way to the journal or a terminal: a sentence, and everything in it that varies.

use core::fmt::Write;

use jiff::Timestamp;
use log::{
    Level, Record,
    kv::{self, Key, Value, VisitSource},
};

/// One event. It owns what it says, so that it can wait for its turn.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) level: Level,
    at_ms: u64,
    sentence: String,
    fields: Vec<(String, String)>,
    source: Option<(&'static str, u32)>,
}

impl Entry {
    /// What this record says, which happened at that time (ms since 1970).
    pub(super) fn of(record: &Record<'_>, at_ms: u64) -> Self {
        let mut fields = Fields(Vec::new());
        // Only a visitor can fail, and this one does not.
        let _ = record.key_values().visit(&mut fields);
        let source = record.file_static().zip(record.line());
        Self { level: record.level(), at_ms, sentence: record.args().to_string(), fields: fields.0, source }
    }

    /// When it happened, in UTC by RFC 3339.
    pub(super) fn time(&self) -> String {
        let at = i64::try_from(self.at_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        format!("{:.3}", at.unwrap_or(Timestamp::UNIX_EPOCH))
    }

    /// What a person reads: the sentence and its fields, as `key=value`. No control character is left, so that nobody
    /// whose words are in it can move the cursor or make up a line; only the sentence may have several lines.
    pub(super) fn text(&self) -> String {
        let mut text = String::with_capacity(256);
        for (number, line) in self.sentence.split('\n').enumerate() {
            if number > 0 {
                text.push('\n');
            }
            push_visible(&mut text, line);
        }
        for (key, value) in self.fields.iter().filter(|(key, _)| key != MESSAGE_ID) {
            // Writing to a String does not fail.
            let _ = write!(text, " {key}=");
            push_visible(&mut text, value);
        }
        text
    }

    /// What the journal gets: `NAME=value`, the values as they are.
    pub(super) fn journal_fields(&self) -> Vec<String> {
        let mut fields = vec![
            format!("MESSAGE={}", self.text()),
            format!("PRIORITY={}", self.priority()),
            "SYSLOG_IDENTIFIER=trunkline".to_owned(),
            format!("EVENT_TIME={}", self.time()),
        ];
        if let Some((file, line)) = self.source {
            fields.extend([format!("CODE_FILE={file}"), format!("CODE_LINE={line}")]);
        }
        let own = self.fields.iter().filter_map(|(key, value)| Some(format!("{}={value}", field_name(key)?)));
        fields.extend(own);
        fields
    }

    /// Lines for a stderr that the journal reads, sd-daemon(3): each becomes an entry there, so each has the priority.
    pub(super) fn prefixed(&self) -> String {
        let priority = self.priority();
        self.text().split('\n').map(|line| format!("<{priority}>{line}\n")).collect()
    }

    /// syslog(3).
    fn priority(&self) -> u8 {
        match self.level {
            Level::Error => 3,
            Level::Warn => 4,
            Level::Info => 6,
            Level::Debug | Level::Trace => 7,
        }
    }
}

struct Fields(Vec<(String, String)>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        self.0.push((key.to_string(), value.to_string()));
        Ok(())
    }
}

/// The journal's name of a key: `call_id` is `CALL_ID`. `None`: journald would drop it (systemd.journal-fields(7)).
pub(super) fn field_name(key: &str) -> Option<String> {
    let starts_well = key.bytes().next().is_some_and(|first| first.is_ascii_alphabetic());
    let is_clean = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (starts_well && is_clean && key.len() <= MAX_NAME).then(|| key.to_ascii_uppercase())
}

fn push_visible(text: &mut String, words: &str) {
    for character in words.chars() {
        if character.is_control() { text.extend(character.escape_default()) } else { text.push(character) }
    }
}

/// The key that a terminal does not show.
const MESSAGE_ID: &str = "message_id";
/// journald ignores longer names.
const MAX_NAME: usize = 64;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const AT_MS: u64 = 1_763_700_000_007;

    fn entry(level: Level, sentence: &str, fields: &[(&str, &str)]) -> Entry {
        let fields = fields.to_vec();
        let args = format_args!("{sentence}");
        Entry::of(&Record::builder().args(args).level(level).key_values(&fields).build(), AT_MS)
    }

    #[test]
    fn keys_become_fields_in_capitals_beside_what_a_person_reads() {
        let fields = [("message_id", "0123"), ("call_id", "abc"), ("end_reason", "line-hung-up"), ("log.target", "x")];
        let entry = entry(Level::Warn, "call ended", &fields);
        assert_eq!(
            entry.journal_fields(),
            [
                "MESSAGE=call ended call_id=abc end_reason=line-hung-up log.target=x",
                "PRIORITY=4",
                "SYSLOG_IDENTIFIER=trunkline",
                "EVENT_TIME=2025-11-21T04:40:00.007Z",
                "MESSAGE_ID=0123",
                "CALL_ID=abc",
                "END_REASON=line-hung-up",
            ]
        );
    }

    #[test]
    fn the_place_in_the_code_is_a_field() {
        let args = format_args!("x");
        let record = Record::builder().args(args).file_static(Some("src/daemon.rs")).line(Some(7)).build();
        let fields = Entry::of(&record, AT_MS).journal_fields();
        assert!(fields.iter().any(|field| field == "CODE_FILE=src/daemon.rs"), "{fields:?}");
        assert!(fields.iter().any(|field| field == "CODE_LINE=7"));
    }

    #[test]
    fn a_name_that_journald_would_drop_is_not_sent() {
        for (key, name) in [("call_id", Some("CALL_ID")), ("h2", Some("H2")), ("Peer", Some("PEER"))] {
            assert_eq!(field_name(key).as_deref(), name);
        }
        for key in ["", "_pid", "2nd", "a-b", "a b", "a=b", "ümlaut", "log.target", &"k".repeat(65)] {
            assert_eq!(field_name(key), None, "{key}");
        }
        assert!(field_name(&"k".repeat(64)).is_some());
    }

    #[test]
    fn words_of_others_stay_in_their_line_and_the_journal_has_them_as_they_were() {
        let entry = entry(Level::Info, "call ended", &[("words", "no\r\nERROR all is lost\x1b[2J"), ("late", "2")]);
        assert_eq!(entry.text(), r"call ended words=no\r\nERROR all is lost\u{1b}[2J late=2");
        assert!(entry.journal_fields().contains(&"WORDS=no\r\nERROR all is lost\x1b[2J".to_owned()));
    }

    #[test]
    fn a_sentence_may_have_lines_and_each_has_its_priority() {
        let entry = entry(Level::Error, "mend this:\na.toml:3: \tno", &[("n", "1")]);
        assert_eq!(entry.text(), "mend this:\na.toml:3: \\tno n=1");
        assert_eq!(entry.prefixed(), "<3>mend this:\n<3>a.toml:3: \\tno n=1\n");
    }

    #[test]
    fn priorities_are_those_of_syslog() {
        let priorities = Level::iter().map(|level| entry(level, "", &[]).priority()).collect::<Vec<_>>();
        assert_eq!(priorities, [3, 4, 6, 7, 7]);
    }
}
