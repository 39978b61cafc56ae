//! What a webhook tells, as far as it matters here. Read only after its signature was checked, and still bounded.
//!
//! Shapes: Telnyx, API reference, "Callbacks" (call.initiated, call.answered, call.hangup, streaming.started,
//! streaming.stopped, streaming.failed): all in `data`, the call's own facts in `data.payload`.

use core::fmt;

use serde::Deserialize;

/// One event of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The event's own id: the same however often it is sent.
    pub id: String,
    /// The call's id at Telnyx.
    pub call: String,
    /// What happened to it.
    pub kind: Kind,
}

/// What happened to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It rings: at us, or where somebody called by Telnyx.
    Initiated {
        /// Somebody calls a number of the account.
        incoming: bool,
    },
    /// It was answered.
    Answered,
    /// It is over.
    Hangup {
        /// Telnyx's word for why; may be empty.
        cause: String,
        /// Who ended it; may be empty.
        source: String,
    },
    /// Its stream runs.
    StreamingStarted,
    /// Its stream ended.
    StreamingStopped,
    /// Its stream could not be brought up, or broke.
    StreamingFailed {
        /// Telnyx's word for why; may be empty.
        reason: String,
    },
}

impl Event {
    /// Reads the body of a webhook. `None`: it is about nothing that matters here.
    ///
    /// # Errors
    /// [`EventError`] says what is wrong with it.
    pub fn parse(body: &[u8]) -> Result<Option<Self>, EventError> {
        let Envelope { data } = serde_json::from_slice(body).map_err(|_| EventError::NotAnEvent)?;
        let Payload { call_control_id, direction, hangup_cause, hangup_source, failure_reason } = data.payload;
        let cut = |text: Option<String>| text.unwrap_or_default().chars().take(MOST_WORDS).collect::<String>();
        let kind = match data.event_type.as_str() {
            "call.initiated" => Kind::Initiated { incoming: direction.as_deref() == Some("incoming") },
            "call.answered" => Kind::Answered,
            "call.hangup" => Kind::Hangup { cause: cut(hangup_cause), source: cut(hangup_source) },
            "streaming.started" => Kind::StreamingStarted,
            "streaming.stopped" => Kind::StreamingStopped,
            "streaming.failed" => Kind::StreamingFailed { reason: cut(failure_reason) },
            _ => return Ok(None),
        };
        let call = call_control_id.filter(|id| is_id(id)).ok_or(EventError::NoCall)?;
        let id = data.id.filter(|id| is_id(id)).ok_or(EventError::NoId)?;
        Ok(Some(Self { id, call, kind }))
    }
}

#[derive(Deserialize)]
struct Envelope {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    event_type: String,
    id: Option<String>,
    #[serde(default)]
    payload: Payload,
}

#[derive(Default, Deserialize)]
struct Payload {
    call_control_id: Option<String>,
    direction: Option<String>,
    hangup_cause: Option<String>,
    hangup_source: Option<String>,
    failure_reason: Option<String>,
}

/// Why a webhook cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventError {
    /// It is not JSON, or has no `data.event_type`.
    NotAnEvent,
    /// It is about a call and does not say which.
    NoCall,
    /// It has no id.
    NoId,
}

impl fmt::Display for EventError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAnEvent => "the body is no event: JSON with `data.event_type`",
            Self::NoCall => "data.payload.call_control_id is missing or no id",
            Self::NoId => "data.id is missing or no id",
        })
    }
}

impl core::error::Error for EventError {}

/// An id goes into URLs, the log and a table, so it is visible ASCII and not long. Those of calls begin with `v3:` today
/// and were plain base64 once.
fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= MOST_ID && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// An id of a call has 58 characters today.
const MOST_ID: usize = 256;
/// Characters of a reason.
const MOST_WORDS: usize = 128;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Telnyx, "Receiving Webhooks for Programmable Voice".
    const INITIATED: &str = r#"{
      "data": {
        "record_type": "event",
        "event_type": "call.initiated",
        "id": "0ccc7b54-4df3-4bca-a65a-3da1ecc777f0",
        "occurred_at": "2018-02-02T22:25:27.521992Z",
        "payload": {
          "call_control_id": "v3:XEPI2_Nk8h6e00-7oqhC96vnzrpZHp_2gcqbOG5gVrtr13QjnLouzg",
          "connection_id": "7267xxxxxxxxxxxxxx",
          "call_leg_id": "428c31b6-7af4-4bcb-b7f5-5013ef9657c1",
          "call_session_id": "428c31b6-abf3-3bc1-b7f4-5013ef9657c1",
          "client_state": null,
          "from": "+35319605860",
          "to": "+13129457420",
          "direction": "incoming",
          "state": "parked"
        }
      },
      "meta": {"attempt": 1, "delivered_to": "https://example.com/webhooks"}
    }"#;

    #[test]
    fn a_call_that_rings_is_read_with_its_direction() {
        let event = Event::parse(INITIATED.as_bytes()).unwrap().unwrap();
        assert_eq!(event.id, "0ccc7b54-4df3-4bca-a65a-3da1ecc777f0");
        assert_eq!(event.call, "v3:XEPI2_Nk8h6e00-7oqhC96vnzrpZHp_2gcqbOG5gVrtr13QjnLouzg");
        assert_eq!(event.kind, Kind::Initiated { incoming: true });
        let outgoing = INITIATED.replace("incoming", "outgoing");
        assert_eq!(Event::parse(outgoing.as_bytes()).unwrap().unwrap().kind, Kind::Initiated { incoming: false });
    }

    #[test]
    fn a_stream_that_failed_says_why() {
        // Telnyx, API reference, "Streaming failed".
        let failed = br#"{"data":{"record_type":"event","event_type":"streaming.failed","id":"25dc3731-e51e-4927-a50d-a61cc25984b1","occurred_at":"2021-12-15T14:11:24.613295Z","payload":{"call_control_id":"31f19208-5db0-11ec-9ea7-02420a0d3a69","connection_id":"7267xxxxxxxxxxxxxx","client_state":"aGF2ZSBhIG5pY2UgZGF5ID1d","failure_reason":"connection_failed","stream_id":"1edb94f9-7ef0-4150-b502-e0ebadfd9491","stream_params":{"stream_url":"wss://www.example.com/websocket","stream_track":"inbound_track"},"stream_type":"websocket"}}}"#;
        let event = Event::parse(failed).unwrap().unwrap();
        assert_eq!(event.kind, Kind::StreamingFailed { reason: "connection_failed".to_owned() });
        assert_eq!(event.call, "31f19208-5db0-11ec-9ea7-02420a0d3a69");
    }

    #[test]
    fn the_other_events_of_a_call_are_told_apart() {
        for (name, kind) in [
            ("call.answered", Kind::Answered),
            ("call.hangup", Kind::Hangup { cause: "normal_clearing".to_owned(), source: "caller".to_owned() }),
            ("streaming.started", Kind::StreamingStarted),
            ("streaming.stopped", Kind::StreamingStopped),
        ] {
            // Telnyx, API reference: the payloads differ, and all of them have these.
            let body = format!(
                r#"{{"data":{{"event_type":"{name}","id":"e1","payload":{{"call_control_id":"v3:a","hangup_cause":"normal_clearing","hangup_source":"caller","sip_hangup_cause":"200"}}}}}}"#
            );
            assert_eq!(Event::parse(body.as_bytes()).unwrap().unwrap().kind, kind);
        }
    }

    #[test]
    fn what_matters_elsewhere_is_no_error() {
        for body in [
            r#"{"data":{"event_type":"call.dtmf.received","id":"e1","payload":{"digit":"5"}}}"#,
            r#"{"data":{"event_type":"message.received","id":"e1"}}"#,
        ] {
            assert_eq!(Event::parse(body.as_bytes()), Ok(None), "{body}");
        }
    }

    #[test]
    fn what_names_no_call_or_a_call_that_is_none_is_refused() {
        let with_call = |id: &str| {
            format!(r#"{{"data":{{"event_type":"call.answered","id":"e1","payload":{{"call_control_id":{id}}}}}}}"#)
        };
        for id in ["null", r#""""#, r#""a b""#, r#""a\nb""#, &format!("\"{}\"", "x".repeat(257))] {
            assert_eq!(Event::parse(with_call(id).as_bytes()), Err(EventError::NoCall), "{id}");
        }
        let nameless = br#"{"data":{"event_type":"call.answered","payload":{"call_control_id":"v3:a"}}}"#;
        assert_eq!(Event::parse(nameless), Err(EventError::NoId));
        for body in ["", "{}", "[]", "null", r#"{"data":null}"#, r#"{"data":{"event_type":5}}"#, &"[".repeat(5000)] {
            assert_eq!(Event::parse(body.as_bytes()), Err(EventError::NotAnEvent), "{body:.40}");
        }
    }
}
