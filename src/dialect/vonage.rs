//! `vonage`: Vonage's Voice API over WebSockets. Binary messages are PCM16, text messages are JSON.
//!
//! Binary is audio whatever it looks like, also before the first text: a sample may begin with the byte of a brace. An
//! agent has to send frames of exactly 20 ms, which the platform buffers, 3,072 of them.
//!
//! ```text
//!  vendor                                                      agent
//!    | websocket:connected {content-type, headers ...}    ------> |
//!    | 20 ms of samples ...                               ------> |
//!    | <------------------------------------  20 ms of samples    |
//!    | <---------------------  {"action":"notify", payload: {..}} |
//!    | websocket:notify {the same payload}, once heard    ------> |
//!    | <---------------------------------  {"action":"clear"}     |
//!    | websocket:cleared; notifications are forgotten     ------> |
//!    | websocket:dtmf {digit, duration}                   ------> |
//! ```
//!
//! There is no message for the end, either way: the socket's is the call's. The ids and numbers of a call come only as
//! headers that the vendor's user chose, flattened into the first message; we look for the names that its answer webhook
//! gives them (`uuid`, `from`, `to`) and send those. Sources: Vonage, "WebSockets in the Vonage Voice API"; Pipecat's
//! Vonage serializer for the shapes of a key.

use core::str;

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    dialect::{
        Audio, Carrier, Coding, Dialect, Event, Facts, Format, Full, Incoming, MAX_MARK, Malformed, MarksOnClear,
        Message, Role, Say, Stamp,
        dtmf::digit,
        json::{Members, Value},
        mark::{Name, cut_name, name},
        wish::{self, Words},
    },
    media::Rate,
};

/// One call in Vonage's grammar.
///
/// As vendor, the name of a mark is the payload of its `notify`, braces included, because that is what goes back. One
/// that is longer than a mark's name may be is kept here, and its first bytes are the name.
#[derive(Debug)]
pub struct Vonage {
    role: Role,
    rate: Rate,
    /// Agent role: the vendor's format is one that we have.
    playable: bool,
    /// Vendor role: payloads that are longer than a name, the oldest first.
    payloads: heapless::Deque<heapless::String<MAX_PAYLOAD>, MOST_PAYLOADS>,
    /// Agent role: what `websocket:connected` told.
    facts: Option<Facts>,
}

impl Vonage {
    /// A call that has not begun. An agent's `rate` holds until `websocket:connected` names another.
    #[must_use]
    pub const fn new(role: Role, rate: Rate) -> Self {
        Self { role, rate, playable: true, payloads: heapless::Deque::new(), facts: None }
    }

    fn on_connected(&mut self, text: &[u8]) -> Result<(), Malformed> {
        let facts = self.facts.insert(Facts::default());
        let mut members = Members::object(text)?;
        while let Some((key, value)) = members.next()? {
            if key.is(b"uuid") {
                value.text(&mut facts.call_sid);
            } else if key.is(b"content-type") {
                let mut format = heapless::String::<64>::new();
                value.text(&mut format);
                let hz = format.split_once("rate=").and_then(|(_, hz)| Value::Str(hz.as_bytes()).uint());
                let Some(hz) = hz else { continue };
                let rate = u32::try_from(hz).ok().and_then(Rate::from_hz);
                self.playable = rate.is_some();
                self.rate = rate.unwrap_or(self.rate);
            } else if !key.is(b"event") {
                facts.take_parameter(&key, &value);
            }
        }
        Ok(())
    }

    /// The mark that a `notify` asks for.
    fn on_notify<'m>(&mut self, payload: Option<Value<'m>>) -> Event<'m> {
        let payload = match payload {
            None => "{}",
            Some(Value::Object(payload)) => str::from_utf8(payload).unwrap_or_default(),
            Some(_) => return Event::Unknown,
        };
        if payload.len() > MAX_MARK {
            // What cannot be told back as it came is better not told at all.
            let Ok(kept) = heapless::String::try_from(payload) else { return Event::Unknown };
            if self.payloads.push_back(kept).is_err() {
                return Event::Unknown;
            }
        }
        match head(payload) {
            "" => Event::Unknown,
            head => Event::Mark(head),
        }
    }

    /// Tells a payload back. `false`: it was cut, and the rest of it is gone.
    fn write_notify(&mut self, mark: &str, out: &mut Message<'_>) -> Result<bool, Full> {
        // Marks are heard in the order in which they came; what a flush took away was not heard.
        let at = self.payloads.iter().position(|kept| head(kept) == mark);
        let payload = match at.and_then(|at| self.payloads.iter().nth(at)) {
            Some(kept) => kept.as_str(),
            None if mark.ends_with('}') => mark,
            None => return Ok(false),
        };
        out.raw(b"{\"event\":\"websocket:notify\",\"payload\":")?;
        out.raw(payload.as_bytes())?;
        out.raw(b"}")?;
        for _ in 0..at.map_or(0, |at| at + 1) {
            self.payloads.pop_front();
        }
        Ok(true)
    }
}

impl Dialect for Vonage {
    fn name(&self) -> &'static str {
        "vonage"
    }

    /// Agent role: what `websocket:connected` named, once it did.
    fn rate(&self) -> Rate {
        self.rate
    }

    fn chunk(&self) -> usize {
        self.rate.frame()
    }

    fn lead_ms(&self) -> u64 {
        60
    }

    fn expected(&self) -> Format {
        Format { carrier: Carrier::Raw, coding: Coding::Pcm16Le, rate: self.rate }
    }

    fn carrier(&self, _key: &[u8], _depth: usize) -> Option<Carrier> {
        None
    }

    fn binary_is_audio(&self) -> bool {
        true
    }

    fn marks_ride_on_audio(&self) -> bool {
        false
    }

    /// The next action of its NCCO runs (the same guide).
    fn close_hands_back(&self) -> bool {
        true
    }

    /// A clear takes back the notifications that are pending.
    fn marks_on_clear(&self) -> MarksOnClear {
        MarksOnClear::Forget
    }

    fn facts(&self) -> Option<&Facts> {
        self.facts.as_ref()
    }

    fn write_opening(&mut self, step: usize, facts: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        if self.role == Role::Agent || step > 0 {
            return Ok(false);
        }
        out.json(&Connected { facts, rate: self.rate })?;
        Ok(true)
    }

    fn write_audio(&mut self, samples: &[i16], _: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<(), Full> {
        out.set_binary();
        out.raw_pcm16le(samples)
    }

    fn write(&mut self, say: Say<'_>, _: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        match (self.role, say) {
            (Role::Agent, Say::Clear) => out.json(&Clear { action: "clear" })?,
            (Role::Agent, Say::Mark(name)) => {
                out.json(&Notify { action: "notify", payload: Payload { name: Name(cut_name(name)) } })?;
            }
            (Role::Vendor, Say::Heard(name)) => return self.write_notify(name, out),
            (Role::Vendor, Say::Cleared { .. }) => out.json(&Cleared { event: "websocket:cleared" })?,
            (Role::Vendor, Say::Dtmf(digit)) => {
                let mut utf8 = [0; 4];
                let digit = &*char::from(digit).encode_utf8(&mut utf8);
                out.json(&Dtmf { event: "websocket:dtmf", digit, duration: 100 })?;
            }
            // The socket's end is the call's.
            (Role::Agent, Say::HangUp | Say::Heard(_) | Say::Dtmf(_) | Say::Stop(_) | Say::Cleared { .. })
            | (Role::Vendor, Say::Clear | Say::Mark(_) | Say::HangUp | Say::Stop(_))
            | (_, Say::BargeIn) => return Ok(false),
            (_, Say::Wish(_) | Say::Held(_) | Say::Transfer(_)) => {
                let (key, prefix) = match self.role {
                    Role::Vendor => ("event", "websocket:"),
                    Role::Agent => ("action", ""),
                };
                return Words { key, prefix, ..Words::of("", "") }.write(self.role, say, out);
            }
        }
        Ok(true)
    }

    fn handle_text<'m>(&mut self, text: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        let (mut event, mut action, mut payload, mut pressed) = (None, None, None, None);
        let mut members = Members::object(text)?;
        while let Some((key, value)) = members.next()? {
            let word = || matches!(value, Value::Str(word) if !word.is_empty()).then_some(value);
            if key.is(b"event") {
                event = word();
            } else if key.is(b"action") {
                action = word();
            } else if key.is(b"payload") {
                payload = Some(value);
            } else if key.is(b"digit") {
                pressed = digit(&value);
            } else if key.is(b"dtmf")
                && let Some(nested) = value.member(b"digit")?
            {
                pressed = digit(&nested);
            }
        }
        let event = match self.role {
            Role::Vendor => match action {
                Some(action) if action.is(b"clear") => {
                    self.payloads.clear();
                    Event::Clear
                }
                Some(action) if action.is(b"notify") => self.on_notify(payload),
                Some(_) => Event::Unknown,
                None if event.is_some() => Event::Unknown,
                None => Event::None,
            },
            Role::Agent => match event {
                Some(event) if event.is(b"websocket:connected") => {
                    self.on_connected(text)?;
                    Event::Start
                }
                Some(event) if event.is(b"websocket:notify") => {
                    let told = payload.map(|payload| payload.member(b"name")).transpose()?.flatten();
                    told.as_ref().and_then(name).map_or(Event::Unknown, Event::Heard)
                }
                Some(event) if event.is(b"websocket:dtmf") => pressed.map_or(Event::Unknown, Event::Dtmf),
                Some(event) if event.is(b"websocket:cleared") => Event::None,
                Some(_) => Event::Unknown,
                None => Event::None,
            },
        };
        let event = if event == Event::Unknown { wish::read(self.role, text) } else { event };
        Ok(Incoming { audio: Audio::None, event })
    }

    fn handle_binary<'m>(&mut self, payload: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        let audio = if self.playable { Audio::Take { format: self.expected(), bytes: payload } } else { Audio::Skip };
        Ok(Incoming { audio, event: Event::None })
    }
}

/// As much of a payload as a mark's name has room for.
fn head(payload: &str) -> &str {
    (0..=MAX_MARK.min(payload.len())).rev().find_map(|end| payload.get(..end)).unwrap_or_default()
}

/// The user's headers stand beside `event`.
struct Connected<'a> {
    facts: &'a Facts,
    rate: Rate,
}

impl Serialize for Connected<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let content_type = match self.rate {
            Rate::Hz8000 => "audio/l16;rate=8000",
            Rate::Hz16000 => "audio/l16;rate=16000",
            Rate::Hz24000 => "audio/l16;rate=24000",
            Rate::Hz48000 => "audio/l16;rate=48000",
        };
        let mut members = serializer.serialize_map(None)?;
        members.serialize_entry("event", "websocket:connected")?;
        members.serialize_entry("content-type", content_type)?;
        if !self.facts.call_sid.is_empty() {
            members.serialize_entry("uuid", self.facts.call_sid.as_str())?;
        }
        for (name, value) in self.facts.parameters().filter(|(name, _)| !OURS.contains(name)) {
            members.serialize_entry(name, value)?;
        }
        members.end()
    }
}

#[derive(Serialize)]
struct Clear {
    action: &'static str,
}

#[derive(Serialize)]
struct Notify<'a> {
    action: &'static str,
    payload: Payload<'a>,
}

#[derive(Serialize)]
struct Payload<'a> {
    name: Name<'a>,
}

#[derive(Serialize)]
struct Cleared {
    event: &'static str,
}

#[derive(Serialize)]
struct Dtmf<'a> {
    event: &'static str,
    digit: &'a str,
    /// Milliseconds.
    duration: u32,
}

/// What a header may not be called.
const OURS: [&str; 3] = ["event", "content-type", "uuid"];
/// The longest payload of a `notify` that is told back (bytes); as much as the headers of a call may have.
const MAX_PAYLOAD: usize = 512;
/// So many of them that are longer than a mark's name may be pending.
const MOST_PAYLOADS: usize = 8;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]
mod tests {
    use super::*;
    use crate::dialect::{
        StopReason,
        ozonetel::tests::{STAMP, event, facts, noise, opening, said, samples, written},
    };

    /// The first message as Vonage's guide shows it, with headers of a call's own.
    const CONNECTED: &str = concat!(
        r#"{"event":"websocket:connected","content-type":"audio/l16;rate=24000","uuid":"63f6","from":"447700900123","#,
        r#""language":"en-GB","enable_auditing":false,"address":{"line_1":"Apartment 14"}}"#
    );

    fn vendor() -> Vonage {
        Vonage::new(Role::Vendor, Rate::Hz16000)
    }

    fn agent() -> Vonage {
        Vonage::new(Role::Agent, Rate::Hz16000)
    }

    fn frame(dialect: &mut Vonage, samples: &[i16]) -> Vec<u8> {
        let mut space = [0; 2_048];
        let mut out = Message::new(&mut space);
        dialect.write_audio(samples, &facts(), STAMP, &mut out).unwrap();
        assert!(out.is_binary());
        out.bytes().to_vec()
    }

    #[test]
    fn a_vendor_opens_with_its_format_and_the_calls_headers() {
        let mut known = facts();
        assert!(known.custom.add("lane", "sales") && known.custom.add("event", "mine"));
        let (_, text) = written(|out| vendor().write_opening(0, &known, STAMP, out));
        assert_eq!(
            text,
            concat!(
                r#"{"event":"websocket:connected","content-type":"audio/l16;rate=16000","#,
                r#""uuid":"0f8b2c6e-51d4-4f0a-9e37-62a1c4d97b80","lane":"sales","from":"+15550100011","#,
                r#""to":"+15550100022"}"#
            )
        );
        assert_eq!(opening(&mut vendor(), 1), None);
        assert_eq!(opening(&mut agent(), 0), None);
    }

    #[test]
    fn frames_have_20_ms_at_every_rate_and_the_least_significant_byte_first() {
        for (rate, bytes) in [(Rate::Hz8000, 320), (Rate::Hz16000, 640), (Rate::Hz24000, 960)] {
            for role in [Role::Vendor, Role::Agent] {
                let mut dialect = Vonage::new(role, rate);
                assert_eq!(dialect.unit(), dialect.chunk());
                let sent = noise(dialect.chunk());
                let frame = frame(&mut dialect, &sent);
                assert_eq!(frame.len(), bytes);
                assert_eq!(samples(dialect.handle_binary(&frame).unwrap().audio).unwrap(), sent);
            }
        }
        assert_eq!(frame(&mut agent(), &[1, -2]), [1, 0, 0xfe, 0xff]);
    }

    #[test]
    fn binary_is_audio_before_the_first_text_and_when_it_looks_like_json() {
        let mut agent = agent();
        let incoming = agent.handle_binary(br#"{"event":"websocket:connected"}."#).unwrap();
        assert_eq!((samples(incoming.audio).unwrap().len(), incoming.event), (16, Event::None));
        assert!(agent.binary_is_audio());
        assert_eq!(agent.facts(), None);
    }

    #[test]
    fn an_agent_learns_the_rate_and_the_headers() {
        let mut agent = agent();
        assert_eq!(event(&mut agent, CONNECTED), Event::Start);
        assert_eq!(agent.rate(), Rate::Hz24000);
        let facts = agent.facts().unwrap();
        assert_eq!((facts.call_sid.as_str(), facts.from.as_str()), ("63f6", "447700900123"));
        assert!(facts.custom.iter().eq([("language", "en-GB"), ("enable_auditing", "false")]));
        let odd = r#"{"event":"websocket:connected","content-type":"audio/l16;rate=44100"}"#;
        assert_eq!(event(&mut agent, odd), Event::Start);
        assert_eq!(agent.handle_binary(&[0; 4]).unwrap().audio, Audio::Skip);
    }

    #[test]
    fn an_agent_hears_keys_marks_and_clears() {
        let mut agent = agent();
        for (text, told) in [
            // As the guide has it.
            (r#"{"event":"websocket:dtmf","digit":"5","duration":260}"#, Event::Dtmf(b'5')),
            // The other shape that Pipecat's serializer looks for.
            (r#"{"event":"websocket:dtmf","dtmf":{"digit":"*"}}"#, Event::Dtmf(b'*')),
            (r#"{"event":"websocket:dtmf"}"#, Event::Unknown),
            (r#"{"event":"websocket:notify","payload":{"name":"m1"}}"#, Event::Heard("m1")),
            (r#"{"event":"websocket:notify","payload":{}}"#, Event::Unknown),
            (r#"{"event":"websocket:notify"}"#, Event::Unknown),
            (r#"{"event":"websocket:cleared"}"#, Event::None),
            (r#"{"event":"websocket:media:update"}"#, Event::Unknown),
            (r#"{"action":"clear"}"#, Event::None),
        ] {
            assert_eq!(event(&mut agent, text), told, "{text}");
        }
    }

    #[test]
    fn an_agent_commands_as_the_guide_shows() {
        let mut agent = agent();
        assert_eq!(said(&mut agent, Say::Clear).unwrap(), r#"{"action":"clear"}"#);
        assert_eq!(said(&mut agent, Say::Mark("m1")).unwrap(), r#"{"action":"notify","payload":{"name":"m1"}}"#);
        for say in [Say::HangUp, Say::Heard("m"), Say::Dtmf(b'1'), Say::Stop(StopReason::Ended)] {
            assert_eq!(said(&mut agent, say), None, "{say:?}");
        }
    }

    #[test]
    fn a_notify_comes_back_with_the_payload_that_it_had() {
        let mut vendor = vendor();
        let long = format!(r#"{{"reply_id":"{}","é":[1,{{"x":"}}"}}]}}"#, "7".repeat(60));
        for payload in [r#"{"name":"m1"}"#, r#"{}"#, r#"{ "reply_id" : "a\"b\u00e9" }"#, &long, &long] {
            let text = format!(r#"{{"action":"notify","payload":{payload}}}"#);
            let Event::Mark(name) = event(&mut vendor, &text) else { panic!("no mark in {text}") };
            assert!(name.len() <= MAX_MARK);
            assert_eq!(
                said(&mut vendor, Say::Heard(name)).unwrap(),
                format!(r#"{{"event":"websocket:notify","payload":{payload}}}"#)
            );
        }
        let Event::Mark(name) = event(&mut vendor, r#"{"action":"notify"}"#) else { panic!("no mark") };
        assert_eq!(said(&mut vendor, Say::Heard(name)).unwrap(), r#"{"event":"websocket:notify","payload":{}}"#);
        for odd in [r#""text""#, "7", "[]", "null"] {
            let text = format!(r#"{{"action":"notify","payload":{odd}}}"#);
            assert_eq!(event(&mut vendor, &text), Event::Unknown, "{odd}");
        }
    }

    #[test]
    fn long_payloads_are_told_in_their_order_and_gone_with_a_clear() {
        let mut vendor = vendor();
        let notify = |i: usize| format!(r#"{{"action":"notify","payload":{{"n":{i},"{}":1}}}}"#, "x".repeat(80));
        let marks: Vec<String> = (0..MOST_PAYLOADS)
            .map(|i| match event(&mut vendor, &notify(i)) {
                Event::Mark(name) => name.to_owned(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(event(&mut vendor, &notify(9)), Event::Unknown, "one too many");
        // The third was heard, so the first two were flushed.
        assert!(said(&mut vendor, Say::Heard(&marks[2])).unwrap().contains(r#""n":2,"#));
        assert_eq!(said(&mut vendor, Say::Heard(&marks[1])), None);
        assert_eq!(event(&mut vendor, r#"{"action":"clear"}"#), Event::Clear);
        assert_eq!(vendor.marks_on_clear(), MarksOnClear::Forget);
        assert_eq!(said(&mut vendor, Say::Heard(&marks[5])), None);
        let endless = format!(r#"{{"action":"notify","payload":{{"{}":1}}}}"#, "x".repeat(MAX_PAYLOAD));
        assert_eq!(event(&mut vendor, &endless), Event::Unknown);
    }

    #[test]
    fn a_vendor_tells_of_keys_and_clears() {
        let mut vendor = vendor();
        assert_eq!(
            said(&mut vendor, Say::Dtmf(b'5')).unwrap(),
            r#"{"event":"websocket:dtmf","digit":"5","duration":100}"#
        );
        assert_eq!(said(&mut vendor, Say::Cleared { unheard_ms: 9 }).unwrap(), r#"{"event":"websocket:cleared"}"#);
        for say in [Say::Clear, Say::Mark("m"), Say::HangUp, Say::Stop(StopReason::Ended), Say::BargeIn] {
            assert_eq!(said(&mut vendor, say), None, "{say:?}");
        }
        for unknown in [r#"{"action":"fly"}"#, r#"{"event":"transcript"}"#, CONNECTED] {
            assert_eq!(event(&mut vendor, unknown), Event::Unknown, "{unknown}");
        }
        assert_eq!(event(&mut vendor, r#"{"hello":1}"#), Event::None);
    }
}
