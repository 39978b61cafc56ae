//! Which dialect a peer speaks, told from the first messages that it sends to us.
//!
//! The grammars resemble one another: several platforms open with `connected`, and most say `start` with a nested
//! `start`. Only ids tell them apart, so the order of the tests matters, and what looks like a dialect that we do
//! not have is [`Detected::Unknown`] rather than the nearest that we do: PCM played as mu-law is loud noise.

use crate::dialect::{
    Malformed,
    json::{Key, Members, Value},
};

/// What a first text message tells. (A first message that is binary and not JSON means `binary`; the caller sees
/// that before it asks.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// It is this dialect, by its name in [`NAMES`](super::NAMES).
    Dialect(&'static str),
    /// It may be any: a greeting, an event that nobody knows. Ask again with the next message.
    Wait,
    /// It is none of ours, or not JSON.
    Unknown,
}

/// Tells a dialect from one message.
#[must_use]
pub fn detect(text: &[u8]) -> Detected {
    Seen::read(text).map_or(Detected::Unknown, |seen| seen.verdict())
}

/// What tells one dialect from another.
#[derive(Default)]
struct Seen<'m> {
    event: Option<Value<'m>>,
    kind: Option<Value<'m>>,
    ucid: bool,
    samples: bool,
    payload: bool,
    interaction_id: bool,
    /// Telnyx says `stream_id`, in whatever message.
    stream_id: bool,
    stream_sid: bool,
    start: Start,
}

/// What the nested object of a `start` has.
#[derive(Default)]
struct Start {
    call_control_id: bool,
    /// Plivo's.
    stream_id: bool,
    stream_sid: bool,
    camel_stream_sid: bool,
    account_sid: bool,
    media_format: bool,
    linear: bool,
}

impl<'m> Seen<'m> {
    fn read(text: &'m [u8]) -> Result<Self, Malformed> {
        let mut seen = Self::default();
        let mut members = Members::object(text)?;
        while let Some((key, value)) = members.next()? {
            if key.is(b"start")
                && let Some(start) = value.object()
            {
                seen.start = Start::read(start)?;
            } else if key.is(b"data") {
                seen.samples = has(&value, |key| key.is(b"samples"))?;
            } else if key.is(b"media") {
                seen.payload = has(&value, |key| key.is(b"payload") || key.is(b"Payload"))?;
            } else if value != Value::Null {
                seen.take(&key, value);
            }
        }
        Ok(seen)
    }

    fn take(&mut self, key: &Key<'m>, value: Value<'m>) {
        if key.is(b"event") || key.is(b"Event") {
            self.event = Some(value);
        } else if key.is(b"type") {
            self.kind = Some(value);
        } else if key.is(b"ucid") {
            self.ucid = true;
        } else if key.is(b"interaction_id") {
            self.interaction_id = true;
        } else if key.is(b"stream_id") {
            self.stream_id = true;
        } else if key.is(b"stream_sid") {
            self.stream_sid = true;
        }
    }

    fn verdict(&self) -> Detected {
        let says = |word: &[u8]| self.event.is_some_and(|event| event.is(word));
        if says(b"websocket:connected") {
            return Detected::Unknown; // Vonage
        }
        if self.event.is_none() && self.kind.is_some_and(|kind| is_realtime(&kind)) {
            return Detected::Unknown; // OpenAI Realtime
        }
        if says(b"start") {
            return self.on_start();
        }
        // A vendor whose `start` was lost on the way to us, or an agent that dialled us and has nothing to announce.
        let media = says(b"media") || self.event.is_none();
        if media && self.samples {
            return Detected::Dialect("ozonetel");
        }
        if media && self.payload {
            let ours = self.stream_sid && !self.stream_id;
            return if ours { Detected::Dialect("exotel") } else { Detected::Unknown };
        }
        Detected::Wait
    }

    fn on_start(&self) -> Detected {
        let start = &self.start;
        if self.ucid {
            return Detected::Dialect("ozonetel");
        }
        let rtaa = self.interaction_id;
        let telnyx = start.call_control_id || self.stream_id;
        let plivo = start.stream_id;
        if rtaa || telnyx || plivo {
            return Detected::Unknown;
        }
        let camel = start.camel_stream_sid && (start.account_sid || start.media_format || start.linear);
        // Otherwise a nested `streamSid` is Twilio's.
        if start.stream_sid || camel { Detected::Dialect("exotel") } else { Detected::Unknown }
    }
}

impl Start {
    fn read(mut members: Members<'_>) -> Result<Self, Malformed> {
        let mut seen = Self::default();
        while let Some((key, value)) = members.next()? {
            if value == Value::Null {
                continue;
            }
            if key.is(b"call_control_id") {
                seen.call_control_id = true;
            } else if key.is(b"streamId") {
                seen.stream_id = true;
            } else if key.is(b"stream_sid") {
                seen.stream_sid = true;
            } else if key.is(b"streamSid") {
                seen.camel_stream_sid = true;
            } else if key.is(b"account_sid") {
                seen.account_sid = true;
            } else if key.is(b"media_format") {
                seen.media_format = true;
            } else if key.is(b"mediaFormat") {
                seen.linear = is_linear(&value)?;
            }
        }
        Ok(seen)
    }
}

/// Whether an object has such a member. Any other value has none.
fn has(value: &Value<'_>, is: impl Fn(&Key<'_>) -> bool) -> Result<bool, Malformed> {
    let mut found = false;
    if let Some(mut members) = value.object() {
        while let Some((key, _)) = members.next()? {
            found |= is(&key);
        }
    }
    Ok(found)
}

/// Whether a camel-case media format names linear samples, which Twilio never does.
fn is_linear(value: &Value<'_>) -> Result<bool, Malformed> {
    let mut encoding = heapless::String::<64>::new();
    if let Some(mut members) = value.object() {
        while let Some((key, value)) = members.next()? {
            if key.is(b"encoding") {
                value.text(&mut encoding);
                encoding.make_ascii_lowercase();
            }
        }
    }
    Ok(["raw", "slin", "pcm", "l16"].iter().any(|name| encoding.contains(name))
        && !encoding.contains("pcmu")
        && !encoding.contains("pcma"))
}

fn is_realtime(kind: &Value<'_>) -> bool {
    const FAMILIES: [&[u8]; 4] = [b"session.", b"input_audio_buffer.", b"response.", b"conversation."];
    matches!(kind, Value::Str(kind) if FAMILIES.iter().any(|family| kind.starts_with(family)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]
mod tests {
    use super::*;
    use crate::{
        dialect::{
            Dialect, OptionValue, Role, exotel, ozonetel,
            ozonetel::tests::{audio, opening},
        },
        media::Rate,
    };

    const OZONETEL: Detected = Detected::Dialect("ozonetel");
    const EXOTEL: Detected = Detected::Dialect("exotel");

    #[track_caller]
    fn detects(text: &str, detected: Detected) {
        assert_eq!(detect(text.as_bytes()), detected, "{text}");
    }

    #[test]
    fn what_our_vendors_open_with_is_recognised() {
        let mut vendor = ozonetel::Ozonetel::new(Role::Vendor, Rate::Hz8000, &ozonetel::Options::default());
        detects(&opening(&mut vendor, 0).unwrap(), OZONETEL);
        detects(&opening(&mut vendor, 1).unwrap(), OZONETEL);
        for style in ["snake", "camel"] {
            let mut options = exotel::Options::default();
            options.set("key-style", OptionValue::Str(style)).unwrap();
            let mut vendor = exotel::Exotel::new(Role::Vendor, Rate::Hz8000, &options);
            detects(&opening(&mut vendor, 0).unwrap(), Detected::Wait);
            detects(&opening(&mut vendor, 1).unwrap(), EXOTEL);
        }
    }

    #[test]
    fn what_our_agents_say_first_is_recognised() {
        let agents: [(Box<dyn Dialect>, Detected); 2] = [
            (Box::new(ozonetel::Ozonetel::new(Role::Agent, Rate::Hz8000, &ozonetel::Options::default())), OZONETEL),
            (Box::new(exotel::Exotel::new(Role::Agent, Rate::Hz8000, &exotel::Options::default())), EXOTEL),
        ];
        for (mut agent, detected) in agents {
            detects(&audio(&mut *agent, &[1, 2]), detected);
        }
    }

    #[test]
    fn ozonetel_starts_with_a_ucid_of_any_kind() {
        detects(r#"{"event":"start","type":"text","ucid":"24680135791113150","did":"1"}"#, OZONETEL);
        detects(r#"{"event":"start","ucid":24680135791113150}"#, OZONETEL);
        detects(r#"{"type":"media","data":{"samples":[1,2]}}"#, OZONETEL);
        detects(r#"{"event":"start","ucid":null}"#, Detected::Unknown);
    }

    #[test]
    fn exotel_starts_with_a_snake_case_stream_sid() {
        detects(r#"{"event":"start","stream_sid":"s","start":{"stream_sid":"s","call_sid":"c"}}"#, EXOTEL);
        detects(r#"{"event":"start","start":{"streamSid":"s","account_sid":"a"}}"#, EXOTEL);
        detects(r#"{"event":"start","start":{"streamSid":"s","media_format":{"sample_rate":"8000"}}}"#, EXOTEL);
        detects(r#"{"event":"start","start":{"streamSid":"s","mediaFormat":{"encoding":"audio/x-RAW"}}}"#, EXOTEL);
        detects(r#"{"event":"media","stream_sid":"s","media":{"payload":"AAAA"}}"#, EXOTEL);
    }

    #[test]
    fn a_greeting_is_no_answer_yet() {
        for text in [
            r#"{"event":"connected"}"#,
            r#"{"event":"connected","protocol":"Call","version":"1.0.0"}"#,
            r#"{"type":"connected"}"#,
            r#"{"event":"hello"}"#,
            "{}",
        ] {
            detects(text, Detected::Wait);
        }
    }

    /// Twilio's, Telnyx's and Plivo's documents on media streams, Vonage's on WebSockets, OpenAI's on Realtime.
    #[test]
    fn other_platforms_are_not_taken_for_ours() {
        for text in [
            concat!(
                r#"{"event":"start","sequenceNumber":"1","streamSid":"MZ1","start":{"streamSid":"MZ1","#,
                r#""accountSid":"AC1","callSid":"CA1","tracks":["inbound"],"#,
                r#""mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1}}}"#
            ),
            concat!(
                r#"{"event":"start","stream_id":"32de","sequence_number":"1","start":{"call_control_id":"v3:x","#,
                r#""media_format":{"encoding":"PCMU","sample_rate":8000}}}"#
            ),
            r#"{"event":"start","start":{"call_control_id":"v3:x","stream_sid":"odd"}}"#,
            r#"{"event":"start","start":{"streamId":"20170ada","callId":"1","mediaFormat":{"encoding":"audio/x-l16"}}}"#,
            r#"{"event":"start","start":{"streamSid":"MZ1","mediaFormat":{"encoding":"PCMU"}}}"#,
            r#"{"event":"start","interaction_id":"i","stream_sid":"s"}"#,
            r#"{"event":"start"}"#,
            r#"{"event":"websocket:connected","content-type":"audio/l16;rate=16000"}"#,
            r#"{"type":"session.update","session":{}}"#,
            r#"{"type":"input_audio_buffer.append","audio":"AAAA"}"#,
            r#"{"event":"media","stream_id":"32de","stream_sid":"s","media":{"payload":"AAAA"}}"#,
            r#"{"event":"media","streamSid":"MZ1","media":{"payload":"AAAA"}}"#,
        ] {
            detects(text, Detected::Unknown);
        }
    }

    #[test]
    fn what_is_not_json_is_nobodys() {
        let text = r#"{"event":"start","start":{"stream_sid":"s"}}"#;
        for end in 0..text.len() {
            detects(&text[..end], Detected::Unknown);
        }
        detects("hello", Detected::Unknown);
        detects(&"[".repeat(100_000), Detected::Unknown);
        detects(&format!("{{\"event\":{}", "[".repeat(100_000)), Detected::Unknown);
    }

    #[test]
    fn damaged_messages_hurt_nobody() {
        let seeds = [
            r#"{"event":"start","ucid":"1","did":2,"x_headers":"{\"a\":\"b\"}","media":{"encoding":"PCMU"}}"#,
            r#"{"event":"media","type":"media","seqid":"\u00e9","data":{"samples":[1,-2,3],"sampleRate":"8000Hz"}}"#,
            r#"{"event":"start","start":{"streamSid":"s","media_format":{"encoding":"mulaw;rate=8","sample_rate":1}}}"#,
            r#"{"event":"media","media":{"track":"inbound","chunk":"1","payload":"AQD//wCA/38="}}"#,
            r#"{"event":"mark","type":"ack","seqid":"m","mark":{"name":"\"x\""}}"#,
            r#"{"event":"dtmf","dtmf":{"digit":"5"},"command":"clearBuffer"}"#,
        ];
        let mut dialects: Vec<Box<dyn Dialect>> = Vec::new();
        for role in [Role::Vendor, Role::Agent] {
            for name in crate::dialect::NAMES {
                dialects.push(crate::dialect::open(name, role, None, Rate::Hz8000, &Default::default()).unwrap());
            }
        }
        let mut state = 0x9e37_79b9_u32;
        let mut below = |end: usize| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as usize % end
        };
        let mut understood = 0;
        for _ in 0..20_000 {
            let mut text = seeds[below(seeds.len())].as_bytes().to_vec();
            for _ in 0..=below(3) {
                let at = below(text.len());
                match below(4) {
                    0 => text[at] = below(256) as u8,
                    1 => text[at] = b"\"\\{}[],:0n"[below(10)],
                    2 => drop(text.remove(at)),
                    _ => text.extend_from_within(at..),
                }
            }
            let _ = detect(&text);
            for dialect in &mut dialects {
                understood += usize::from(dialect.handle_text(&text).is_ok());
            }
        }
        assert!(understood > 20_000, "{understood}");
    }
}
