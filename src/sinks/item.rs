//! What a sink is told: one JSON text with an id that stays the same however often it is sent.

use serde::{Deserialize, Serialize};

use crate::{
    call::record::{Record, Started},
    dialect::{Facts, Speaker},
};

/// Who a call is, to a sink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Our id of it.
    pub call_id: String,
    /// The platform's id of it, else ours.
    pub interaction_id: String,
    /// Whose call it is.
    pub tenant_id: String,
    /// The platform's id of it.
    pub call_sid: Option<String>,
    /// The id of its stream.
    pub stream_sid: Option<String>,
}

impl Subject {
    /// Of a call that starts. What a peer called it becomes part of a key at a sink, and so control characters go.
    #[must_use]
    pub fn of(facts: &Facts) -> Self {
        let known = |text: &str| Some(clean(text)).filter(|text| !text.is_empty());
        let call_id = facts.call_id.to_string();
        let call_sid = known(&facts.call_sid);
        Self {
            interaction_id: call_sid.clone().unwrap_or_else(|| call_id.clone()),
            call_id,
            tenant_id: clean(&facts.account),
            call_sid,
            stream_sid: known(&facts.stream_sid),
        }
    }

    /// Of a call that an earlier daemon did not finish, as its record knows it.
    #[must_use]
    pub fn of_cut(started: &Started, account: &str) -> Self {
        let call_sid = started.call_sid.as_deref().map(clean);
        Self {
            call_id: started.call_id.clone(),
            interaction_id: call_sid.clone().unwrap_or_else(|| started.call_id.clone()),
            tenant_id: clean(account),
            call_sid,
            stream_sid: None,
        }
    }
}

/// Without the characters that have no place in a key.
fn clean(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).collect()
}

/// One thing that a sink is told, as it waits in a spool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// What it is known by, wherever it goes and however often.
    pub id: String,
    /// The Redis stream that it belongs into.
    pub topic: String,
    /// The JSON text that is sent.
    pub body: String,
}

#[derive(Serialize)]
struct CallEnd<'a> {
    id: &'a str,
    kind: &'a str,
    interaction_id: &'a str,
    tenant_id: &'a str,
    call_sid: Option<&'a str>,
    stream_sid: Option<&'a str>,
    reason: &'a str,
    timestamp_ms: u64,
    record: &'a Record,
}

#[derive(Serialize)]
struct Said<'a> {
    id: &'a str,
    kind: &'a str,
    interaction_id: &'a str,
    tenant_id: &'a str,
    call_id: &'a str,
    seq: u64,
    who: &'a str,
    text: &'a str,
    timestamp_ms: u64,
}

impl Item {
    /// A call is over.
    #[must_use]
    pub fn call_end(subject: &Subject, record: &Record) -> Self {
        let id = format!("{}-call_end-1", record.started.call_id);
        let body = json(&CallEnd {
            id: &id,
            kind: CALL_END,
            interaction_id: &subject.interaction_id,
            tenant_id: &subject.tenant_id,
            call_sid: subject.call_sid.as_deref(),
            stream_sid: subject.stream_sid.as_deref(),
            reason: record.end_reason.as_str(),
            timestamp_ms: record.ended_ms,
            record,
        });
        Self { id, topic: CALL_END.to_owned(), body }
    }

    /// Somebody said something; the `seq`th turn of its call, from 1.
    #[must_use]
    pub fn said(subject: &Subject, seq: u64, who: Speaker, text: &str, timestamp_ms: u64) -> Self {
        let id = format!("{}-transcript-{seq}", subject.call_id);
        let body = json(&Said {
            id: &id,
            kind: "transcript",
            interaction_id: &subject.interaction_id,
            tenant_id: &subject.tenant_id,
            call_id: &subject.call_id,
            seq,
            who: spelled(who),
            text,
            timestamp_ms,
        });
        Self { id, topic: format!("transcript.{}", subject.interaction_id), body }
    }

    /// As a spool has it, with the line's end.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        let mut line = json(self).into_bytes();
        line.push(b'\n');
        line
    }

    /// Reads such a line; `None`: it is none.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }
}

/// Who speaks, as every file and sink has it.
#[must_use]
pub const fn spelled(who: Speaker) -> &'static str {
    match who {
        Speaker::Caller => "caller",
        Speaker::Agent => "agent",
    }
}

pub(super) fn json(of: &impl Serialize) -> String {
    serde_json::to_string(of).expect("numbers, texts and names of fields are what JSON has")
}

const CALL_END: &str = "call_end";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::dialect::Text;

    fn subject() -> Subject {
        let text = |text: &str| Text::try_from(text).unwrap();
        let facts = Facts {
            call_id: text("k3vqd2mxa7re"),
            call_sid: text("CA-1\r\n../x"),
            account: text("depot"),
            ..Facts::default()
        };
        Subject::of(&facts)
    }

    #[test]
    fn the_end_of_a_call_has_the_fields_that_the_ingest_of_old_had_and_its_record() {
        let record = Record::cut(Started { call_id: "k3vqd2mxa7re".to_owned(), ..Started::default() }, 77);
        let item = Item::call_end(&subject(), &record);
        assert_eq!((item.id.as_str(), item.topic.as_str()), ("k3vqd2mxa7re-call_end-1", "call_end"));
        let body: Value = serde_json::from_str(&item.body).unwrap();
        assert_eq!((&body["interaction_id"], &body["tenant_id"]), (&"CA-1../x".into(), &"depot".into()));
        assert_eq!((&body["reason"], &body["timestamp_ms"]), (&"cut".into(), &77.into()));
        assert_eq!((&body["stream_sid"], &body["record"]["call_id"]), (&Value::Null, &"k3vqd2mxa7re".into()));
        assert_eq!(Item::parse(item.line().strip_suffix(b"\n").unwrap()), Some(item));
    }

    #[test]
    fn what_was_said_goes_to_the_stream_of_its_call() {
        let item = Item::said(&subject(), 3, Speaker::Agent, "Good \"day\"\n", 5);
        assert_eq!((item.id.as_str(), item.topic.as_str()), ("k3vqd2mxa7re-transcript-3", "transcript.CA-1../x"));
        let body: Value = serde_json::from_str(&item.body).unwrap();
        assert_eq!((&body["who"], &body["text"], &body["seq"]), (&"agent".into(), &"Good \"day\"\n".into(), &3.into()));
        assert_eq!(item.line().iter().filter(|&&byte| byte == b'\n').count(), 1);
    }
}
