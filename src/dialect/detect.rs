//! Which dialect a peer speaks, told from the first messages that it sends to us.
//!
//! The grammars resemble one another: several platforms open with `connected`, and most say `start` with a nested
//! `start`. Only ids tell them apart, so the order of the tests matters. What names a format that its likely dialect
//! does not have is [`Detected::Unknown`] rather than the nearest that we have: PCM played as mu-law is loud noise.

use crate::dialect::{
    Malformed,
    json::{Key, Members, Value},
};

/// What a first text message tells. (A first message that is binary and not JSON means `binary`; the caller sees
/// that before it asks.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// It is the dialect of this name. Whoever has no dialect of that name in [`NAMES`](super::NAMES) has nobody to
    /// hear it.
    Dialect(&'static str),
    /// It may be any: a greeting, an event that nobody knows. Ask again with the next message.
    Wait,
    /// It is none of ours, or not JSON.
    Unknown,
}

/// Tells a dialect from one message.
#[must_use]
pub fn detect(text: &[u8]) -> Detected {
    // Asterisk's, in the spelling that is no JSON.
    let plain = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text).trim_ascii_start();
    if plain.split(u8::is_ascii_whitespace).next() == Some(b"MEDIA_START") {
        return Detected::Dialect("asterisk");
    }
    Seen::read(text).map_or(Detected::Unknown, |seen| seen.verdict())
}

/// What tells one dialect from another.
#[derive(Default)]
struct Seen<'m> {
    event: Option<Value<'m>>,
    kind: Option<Value<'m>>,
    ucid: bool,
    samples: bool,
    interaction_id: bool,
    /// Telnyx says `stream_id`, in whatever message.
    stream_id: bool,
    stream_sid: bool,
    camel_stream_sid: bool,
    media: Media,
    /// There is a nested object of this name.
    start: Option<Start>,
}

/// What the nested object of a `media` or a `playAudio` has.
#[derive(Default)]
struct Media {
    payload: bool,
    track: bool,
    /// `chunk`, `timestamp` or a sequence number.
    counters: bool,
}

/// What the nested object of a `start` has.
#[derive(Default)]
struct Start {
    call_control_id: bool,
    /// Plivo's.
    stream_id: bool,
    call_id: bool,
    stream_sid: bool,
    camel_stream_sid: bool,
    camel_call_sid: bool,
    account_sid: bool,
    media_format: bool,
    camel_format: Format,
}

/// What a camel-case media format says of its samples.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Format {
    #[default]
    Unsaid,
    G711,
    Linear,
    /// Something that we do not know.
    Other,
}

impl<'m> Seen<'m> {
    fn read(text: &'m [u8]) -> Result<Self, Malformed> {
        let mut seen = Self::default();
        let mut members = Members::object(text)?;
        while let Some((key, value)) = members.next()? {
            if key.is(b"start")
                && let Some(start) = value.object()
            {
                seen.start = Some(Start::read(start)?);
            } else if key.is(b"data") {
                seen.samples = value.member(b"samples")?.is_some();
            } else if key.is(b"media") {
                seen.media = Media::read(&value)?;
            } else if value != Value::Null {
                seen.take(&key, value);
            }
        }
        Ok(seen)
    }

    fn take(&mut self, key: &Key<'m>, value: Value<'m>) {
        if key.is_either(b"event", b"Event") {
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
        } else if key.is(b"streamSid") {
            self.camel_stream_sid = true;
        }
    }

    fn verdict(&self) -> Detected {
        let says = |word: &[u8]| self.event.is_some_and(|event| event.is(word));
        if says(b"websocket:connected") {
            return Detected::Dialect("vonage");
        }
        if says(b"MEDIA_START") {
            return Detected::Dialect("asterisk");
        }
        if self.event.is_none() && self.kind.is_some_and(|kind| is_realtime(&kind)) {
            return Detected::Dialect("openai");
        }
        if says(b"start") {
            return self.on_start();
        }
        if self.stream_id {
            return Detected::Dialect("telnyx");
        }
        // A vendor whose `start` was lost on the way to us, or an agent that dialled us and has nothing to announce.
        let media = says(b"media") || self.event.is_none();
        if media && self.samples {
            return Detected::Dialect("ozonetel");
        }
        if media && self.media.payload {
            return self.on_media();
        }
        if says(b"playAudio") && self.media.payload {
            return Detected::Dialect("plivo"); // each says its own format
        }
        Detected::Wait
    }

    fn on_start(&self) -> Detected {
        if self.ucid {
            return Detected::Dialect("ozonetel");
        }
        if self.interaction_id && self.start.is_none() {
            return Detected::Dialect("rtaa");
        }
        let nothing = Start::default();
        let start = self.start.as_ref().unwrap_or(&nothing);
        if start.call_control_id || self.stream_id {
            return Detected::Dialect("telnyx");
        }
        if start.stream_id && start.call_id {
            return Detected::Dialect("plivo");
        }
        if start.stream_sid {
            return Detected::Dialect("exotel");
        }
        if start.camel_stream_sid {
            if start.account_sid || start.media_format || start.camel_format == Format::Linear {
                return Detected::Dialect("exotel");
            }
            if start.camel_call_sid && matches!(start.camel_format, Format::Unsaid | Format::G711) {
                return Detected::Dialect("twilio");
            }
        }
        Detected::Unknown
    }

    fn on_media(&self) -> Detected {
        if self.stream_sid {
            return Detected::Dialect("exotel");
        }
        if !self.camel_stream_sid {
            return Detected::Unknown; // Plivo's do not say whether they are linear
        }
        // Twilio names a track where it counts, and its agents do not count. Exotel's sample servers, and a vendor of
        // theirs that spells in camel case, count PCM.
        let counts_pcm = self.media.counters && !self.media.track;
        Detected::Dialect(if counts_pcm { "exotel" } else { "twilio" })
    }
}

impl Media {
    fn read(value: &Value<'_>) -> Result<Self, Malformed> {
        let mut seen = Self::default();
        let Some(mut members) = value.object() else { return Ok(seen) };
        while let Some((key, _)) = members.next()? {
            seen.payload |= key.is_either(b"payload", b"Payload");
            seen.track |= key.is(b"track");
            seen.counters |=
                key.is_either(b"chunk", b"timestamp") || key.is_either(b"sequence_number", b"sequenceNumber");
        }
        Ok(seen)
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
            } else if key.is(b"callId") {
                seen.call_id = true;
            } else if key.is(b"stream_sid") {
                seen.stream_sid = true;
            } else if key.is(b"streamSid") {
                seen.camel_stream_sid = true;
            } else if key.is(b"callSid") {
                seen.camel_call_sid = true;
            } else if key.is(b"account_sid") {
                seen.account_sid = true;
            } else if key.is(b"media_format") {
                seen.media_format = true;
            } else if key.is(b"mediaFormat") {
                seen.camel_format = Format::read(&value)?;
            }
        }
        Ok(seen)
    }
}

impl Format {
    fn read(value: &Value<'_>) -> Result<Self, Malformed> {
        let mut encoding = heapless::String::<64>::new();
        let Some(named) = value.member(b"encoding")? else { return Ok(Self::Unsaid) };
        named.text(&mut encoding);
        encoding.make_ascii_lowercase();
        let names = |words: &[&str]| words.iter().any(|word| encoding.contains(word));
        Ok(if names(&["mulaw", "ulaw", "pcmu", "alaw", "pcma"]) {
            Self::G711
        } else if names(&["raw", "slin", "pcm", "l16"]) {
            Self::Linear
        } else {
            Self::Other
        })
    }
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
            Dialect, OptionValue, Options, Role, exotel, open, ozonetel,
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
    fn what_the_younger_of_our_vendors_open_with_is_recognised() {
        for (name, step) in [("twilio", 1), ("plivo", 0), ("vonage", 0)] {
            let mut vendor = open(name, Role::Vendor, None, Rate::Hz8000, &Options::default()).unwrap();
            for greeting in 0..step {
                detects(&opening(&mut *vendor, greeting).unwrap(), Detected::Wait);
            }
            detects(&opening(&mut *vendor, step).unwrap(), Detected::Dialect(name));
        }
    }

    #[test]
    fn what_our_agents_say_first_is_recognised() {
        for name in ["ozonetel", "exotel", "twilio", "plivo"] {
            let mut agent = open(name, Role::Agent, None, Rate::Hz8000, &Options::default()).unwrap();
            detects(&audio(&mut *agent, &[1, 2]), Detected::Dialect(name));
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
            r#"{"event":"connected","version":"1.0.0"}"#,
            r#"{"type":"connected"}"#,
            r#"{"event":"hello"}"#,
            r#"{"action":"clear"}"#,
            "{}",
        ] {
            detects(text, Detected::Wait);
        }
    }

    /// Twilio's, Telnyx's and Plivo's documents on media streams, Vonage's on WebSockets, OpenAI's on Realtime.
    #[test]
    fn every_platform_is_told_by_what_its_documents_show() {
        for (text, name) in [
            (
                concat!(
                    r#"{"event":"start","sequenceNumber":"1","streamSid":"MZ1","start":{"streamSid":"MZ1","#,
                    r#""accountSid":"AC1","callSid":"CA1","tracks":["inbound"],"#,
                    r#""mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1}}}"#
                ),
                "twilio",
            ),
            (
                concat!(
                    r#"{"event":"start","stream_id":"32de","sequence_number":"1","start":{"call_control_id":"v3:x","#,
                    r#""media_format":{"encoding":"PCMU","sample_rate":8000}}}"#
                ),
                "telnyx",
            ),
            (r#"{"event":"start","start":{"call_control_id":"v3:x","stream_sid":"odd"}}"#, "telnyx"),
            (
                concat!(
                    r#"{"event":"start","sequenceNumber":1,"start":{"callId":"1","streamId":"20170ada","accountId":"MA","#,
                    r#""tracks":["inbound"],"mediaFormat":{"encoding":"audio/x-l16","sampleRate":16000}},"#,
                    r#""extra_headers":"userId=12345"}"#
                ),
                "plivo",
            ),
            (
                concat!(
                    r#"{"event":"start","interaction_id":"int-9","tenant_id":"t-1","sample_rate":24000,"#,
                    r#""encoding":"pcm16"}"#
                ),
                "rtaa",
            ),
            (r#"{"event":"websocket:connected","content-type":"audio/l16;rate=16000"}"#, "vonage"),
            (r#"{"type":"session.update","session":{}}"#, "openai"),
            (r#"{"type":"input_audio_buffer.append","audio":"AAAA"}"#, "openai"),
        ] {
            detects(text, Detected::Dialect(name));
        }
    }

    #[test]
    fn media_without_a_start_tell_by_their_ids() {
        let telnyx = Detected::Dialect("telnyx");
        detects(r#"{"event":"media","stream_id":"32de","stream_sid":"s","media":{"payload":"AAAA"}}"#, telnyx);
        let twilio = Detected::Dialect("twilio");
        detects(r#"{"event":"media","streamSid":"MZ1","media":{"payload":"AAAA"}}"#, twilio);
        let counted = r#"{"event":"media","streamSid":"MZ1","media":{"track":"inbound","chunk":"2","payload":"AAAA"}}"#;
        detects(counted, twilio);
    }

    #[test]
    fn linear_samples_are_never_taken_for_mu_law() {
        // The answer of one of Exotel's sample servers.
        let answer = r#"{"event":"media","streamSid":"s91","media":{"payload":"AQD/","timestamp":"100","chunk":"2"}}"#;
        detects(answer, EXOTEL);
        let start = |encoding: &str| {
            let ids = r#""streamSid":"s","callSid":"c","accountSid":"a""#;
            format!(r#"{{"event":"start","start":{{{ids},"mediaFormat":{{"encoding":"{encoding}"}}}}}}"#)
        };
        for linear in ["raw", "raw/slin", "audio/x-raw", "pcm16", "pcm_s16le", "audio/x-l16;rate=16000", "LINEAR_PCM"] {
            detects(&start(linear), EXOTEL);
        }
        for nobodys in ["opus", "base64", ""] {
            detects(&start(nobodys), Detected::Unknown);
        }
        for mu_law in ["audio/x-mulaw", "PCMU", "ulaw"] {
            detects(&start(mu_law), Detected::Dialect("twilio"));
        }
        // Plivo's media do not name their format.
        detects(r#"{"event":"media","streamId":"1","media":{"payload":"AAAA"}}"#, Detected::Unknown);
    }

    #[test]
    fn other_platforms_are_not_taken_for_ours() {
        for text in [
            r#"{"event":"start"}"#,
            r#"{"event":"start","start":{}}"#,
            r#"{"event":"start","start":{"streamId":"20170ada"}}"#,
            r#"{"event":"start","start":{"streamSid":"MZ1","mediaFormat":{"encoding":"PCMU"}}}"#,
            r#"{"event":"start","start":{"callSid":"CA1","mediaFormat":{"encoding":"PCMU"}}}"#,
            r#"{"event":"media","media":{"payload":"AAAA"}}"#,
        ] {
            detects(text, Detected::Unknown);
        }
        detects(r#"{"event":"start","interaction_id":"i","start":{"stream_sid":"s"}}"#, EXOTEL);
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
                dialects.push(open(name, role, None, Rate::Hz8000, &Default::default()).unwrap());
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
