//! `plivo`: Plivo's audio streams, base64 mu-law or L16 in JSON.
//!
//! Every `playAudio` says its own format, so an agent may answer in another than it hears. Which byte of an L16 sample
//! comes first, no page says: peers have been seen to read the least significant one first, against RFC 3551 4.5.11,
//! and an option turns it round.
//!
//! ```text
//!  vendor                                                      agent
//!    | start {ids, mediaFormat, extra_headers: "k=v;..."} ------> |
//!    | media {track: "inbound", payload: 20 ms} ...       ------> |
//!    | <---------------  playAudio {contentType, rate, payload}   |
//!    | <-----------------------------------  checkpoint {name}    |
//!    | playedStream {name}, once it was heard             ------> |
//!    | <-------------------------------------------  clearAudio   |
//!    | clearedAudio; checkpoints before it are forgotten  ------> |
//!    | dtmf {digit}                                       ------> |
//! ```
//!
//! A call ends with its socket: there is no message for it either way, though some code knows a `stop`. An agent may
//! also ask for keys to be pressed (`sendDTMF`), which is a [`wish`]. Source: Plivo, "Audio Streaming Protocol
//! Reference".

use core::fmt::Write;

use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::{
    dialect::{
        Audio, Carrier, Coding, Dialect, Event, Facts, Format, Full, Incoming, Malformed, MarksOnClear, Message,
        OptionError, OptionInfo, OptionValue, Role, Say, Stamp, Text,
        dtmf::digit,
        json::{Key, Members, Value},
        mark::{Name, cut_name, name},
        wish::{self, Words},
    },
    media::{Rate, g711::Law},
};

/// What can be chosen about the dialect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    encoding: Option<Encoding>,
    big_endian: bool,
}

/// What a `start` may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Mulaw,
    L16,
}

impl Options {
    /// The keys of `[trunk.NAME.plivo]`.
    pub const KNOWN: &'static [OptionInfo] = &[
        OptionInfo {
            key: "encoding",
            default: "\"mulaw\"",
            help: "Audio as `mulaw`, which has 8 kHz only, or as `l16`; unset, `l16` at 16 kHz.",
            role: None,
        },
        OptionInfo {
            key: "l16-byte-order",
            default: "\"le\"",
            help: "Which byte of an L16 sample comes first: the least significant (`le`) or the most (`be`).",
            role: None,
        },
    ];

    /// Sets one of [`KNOWN`](Self::KNOWN).
    ///
    /// # Errors
    /// [`OptionError`] says whether the key or the value is at fault.
    pub fn set(&mut self, key: &str, value: OptionValue<'_>) -> Result<(), OptionError> {
        match (key, value) {
            ("encoding", OptionValue::Str("mulaw")) => self.encoding = Some(Encoding::Mulaw),
            ("encoding", OptionValue::Str("l16")) => self.encoding = Some(Encoding::L16),
            ("encoding", _) => return Err(OptionError::Expected("\"mulaw\" or \"l16\"")),
            ("l16-byte-order", OptionValue::Str("le")) => self.big_endian = false,
            ("l16-byte-order", OptionValue::Str("be")) => self.big_endian = true,
            ("l16-byte-order", _) => return Err(OptionError::Expected("\"le\" or \"be\"")),
            _ => return Err(OptionError::Unknown),
        }
        Ok(())
    }

    const fn coding(&self, encoding: Encoding) -> Coding {
        match (encoding, self.big_endian) {
            (Encoding::Mulaw, _) => Coding::Mulaw,
            (Encoding::L16, false) => Coding::Pcm16Le,
            (Encoding::L16, true) => Coding::Pcm16Be,
        }
    }
}

/// One call in Plivo's grammar.
///
/// The names of checkpoints are kept as a message spells them between its quotes, escapes included.
#[derive(Debug)]
pub struct Plivo {
    role: Role,
    options: Options,
    /// What we send: as vendor the configured one, as agent what `start` named.
    encoding: Encoding,
    rate: Rate,
    /// The format of the last audio that was accepted.
    heard: Format,
    /// Agent role: the vendor's format is one that we have.
    playable: bool,
    /// Vendor role: messages sent so far.
    sequence: u64,
    /// Vendor role: media messages sent so far.
    chunks: u64,
    /// Agent role: what `start` told.
    facts: Option<Facts>,
}

impl Plivo {
    /// A call that has not begun. What is mu-law is 8 kHz, whatever `rate` says.
    #[must_use]
    pub fn new(role: Role, rate: Rate, options: &Options) -> Self {
        let usual = if rate == Rate::Hz8000 { Encoding::Mulaw } else { Encoding::L16 };
        let encoding = options.encoding.unwrap_or(usual);
        let rate = if encoding == Encoding::Mulaw { Rate::Hz8000 } else { rate };
        Self {
            role,
            options: options.clone(),
            encoding,
            rate,
            heard: Format { carrier: Carrier::Base64, coding: options.coding(encoding), rate },
            playable: true,
            sequence: 0,
            chunks: 0,
            facts: None,
        }
    }

    /// The id that the vendor gave, where it did: on its own socket it knows best.
    fn stream_id<'a>(&'a self, facts: &'a Facts) -> &'a str {
        match &self.facts {
            Some(own) if !own.stream_sid.is_empty() => &own.stream_sid,
            Some(_) | None => &facts.stream_sid,
        }
    }

    /// Writes a message beside audio, and counts it once it stands.
    fn write_event(
        &mut self,
        event: &'static str,
        body: Body<'_>,
        facts: &Facts,
        out: &mut Message<'_>,
    ) -> Result<(), Full> {
        let sequence = (self.role == Role::Vendor).then_some(self.sequence + 1);
        out.json(&Envelope { event, sequence, stream_id: self.stream_id(facts), body })?;
        self.sequence += 1;
        Ok(())
    }

    /// A format by its names. `None`: we do not have it.
    fn format(&self, names: Names) -> Option<Format> {
        let rate = match names.hz {
            None => self.heard.rate,
            Some(hz) => u32::try_from(hz).ok().and_then(Rate::from_hz)?,
        };
        let coding = match names.encoding.as_str() {
            "" => self.heard.coding,
            name if name.contains("mulaw") => Coding::Mulaw,
            name if name.contains("l16") => self.options.coding(Encoding::L16),
            _ => return None,
        };
        Some(Format { carrier: Carrier::Base64, coding, rate })
    }

    /// What the nested object of a `media` or a `playAudio` holds.
    fn on_media<'m>(&mut self, mut media: Members<'m>) -> Result<Audio<'m>, Malformed> {
        let (mut payload, mut track, mut names) = (None, None, Names::default());
        while let Some((key, value)) = media.next()? {
            if key.is(b"payload") {
                payload = Some(value);
            } else if key.is(b"track") {
                track = Some(value);
            } else if self.role == Role::Vendor {
                names.take(&key, &value);
            }
        }
        let bytes = match payload {
            None => return Ok(Audio::None),
            Some(Value::Str(bytes)) => bytes,
            Some(_) => return Err(Malformed::Base64),
        };
        // The agent's own speech, where both tracks are streamed.
        let own = self.role == Role::Agent && track.is_some_and(|track| track.is(b"outbound"));
        let Some(format) = self.format(names).filter(|_| !own && self.playable) else { return Ok(Audio::Skip) };
        self.heard = format;
        Ok(Audio::Take { format, bytes })
    }

    fn on_start(&mut self, text: &[u8], start: Option<Members<'_>>) -> Result<(), Malformed> {
        let mut facts = Facts::default();
        let mut format = None;
        for mut members in [Some(Members::object(text)?), start].into_iter().flatten() {
            while let Some((key, value)) = members.next()? {
                let slot: &mut Text = if key.is(b"streamId") {
                    &mut facts.stream_sid
                } else if key.is(b"callId") {
                    &mut facts.call_sid
                } else if key.is(b"accountId") {
                    &mut facts.account
                } else {
                    if key.is(b"mediaFormat") {
                        format = value.object();
                    } else if key.is_either(b"extra_headers", b"extraHeaders") {
                        read_headers(&value, &mut facts)?;
                    }
                    continue;
                };
                value.text(slot);
            }
        }
        self.facts = Some(facts);
        let Some(mut members) = format else { return Ok(()) };
        let mut names = Names::default();
        while let Some((key, value)) = members.next()? {
            names.take(&key, &value);
        }
        let format = self.format(names);
        self.playable = format.is_some();
        if let Some(format) = format {
            self.heard = format;
            self.rate = format.rate;
            self.encoding = if format.coding == Coding::Mulaw { Encoding::Mulaw } else { Encoding::L16 };
        }
        Ok(())
    }
}

impl Dialect for Plivo {
    fn name(&self) -> &'static str {
        "plivo"
    }

    /// Agent role: what `start` named, once it did.
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
        self.heard
    }

    fn carrier(&self, key: &[u8], depth: usize) -> Option<Carrier> {
        (depth == 2 && key == b"payload").then_some(Carrier::Base64)
    }

    fn binary_is_audio(&self) -> bool {
        false
    }

    fn marks_ride_on_audio(&self) -> bool {
        false
    }

    /// The next element of its XML runs (Plivo, "The Stream element").
    fn close_hands_back(&self) -> bool {
        true
    }

    /// `playedStream` says that everything before was played (the same reference); what was not, `clearedAudio` tells.
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
        let start =
            Start { facts, format: MediaFormat { encoding: self.encoding.name(), sample_rate: self.rate.hz() } };
        let headers = headers(facts);
        out.json(&Opening { event: "start", sequence_number: self.sequence + 1, start, extra_headers: &headers })?;
        self.sequence += 1;
        Ok(true)
    }

    fn write_audio(&mut self, samples: &[i16], facts: &Facts, stamp: Stamp, out: &mut Message<'_>) -> Result<(), Full> {
        match self.role {
            Role::Agent if !self.playable => return Ok(()),
            Role::Agent => {
                out.raw(b"{\"event\":\"playAudio\",\"streamId\":")?;
                out.json_str(self.stream_id(facts))?;
                out.raw(b",\"media\":{\"contentType\":\"")?;
                out.raw(self.encoding.name().as_bytes())?;
                out.raw(b"\",\"sampleRate\":")?;
                out.uint(u64::from(self.rate.hz()))?;
                out.raw(b",")?;
            }
            Role::Vendor => {
                out.raw(b"{\"event\":\"media\",\"sequenceNumber\":")?;
                out.uint(self.sequence + 1)?;
                out.raw(b",\"streamId\":")?;
                out.json_str(&facts.stream_sid)?;
                out.raw(b",\"media\":{\"track\":\"inbound\",\"timestamp\":\"")?;
                out.uint(stamp.epoch_ms)?;
                out.raw(b"\",\"chunk\":")?;
                out.uint(self.chunks + 1)?;
                out.raw(b",")?;
            }
        }
        out.raw(b"\"payload\":\"")?;
        match (self.encoding, self.options.big_endian) {
            (Encoding::Mulaw, _) => out.base64_g711(Law::Mu, samples)?,
            (Encoding::L16, false) => out.base64_pcm16le(samples)?,
            (Encoding::L16, true) => out.base64_pcm16be(samples)?,
        }
        out.raw(b"\"}}")?;
        self.sequence += 1;
        self.chunks += 1;
        Ok(())
    }

    fn write(&mut self, say: Say<'_>, facts: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        match (self.role, say) {
            (Role::Agent, Say::Clear) => self.write_event("clearAudio", Body::None, facts, out)?,
            (Role::Agent, Say::Mark(name)) => self.write_event("checkpoint", Body::Name(cut_name(name)), facts, out)?,
            (Role::Vendor, Say::Heard(name)) => {
                self.write_event("playedStream", Body::Name(cut_name(name)), facts, out)?;
            }
            (Role::Vendor, Say::Cleared { .. }) => self.write_event("clearedAudio", Body::None, facts, out)?,
            (Role::Vendor, Say::Dtmf(digit)) => self.write_event("dtmf", Body::Digit(digit), facts, out)?,
            // The socket's end is the call's.
            (Role::Agent, Say::HangUp | Say::Heard(_) | Say::Dtmf(_) | Say::Stop(_) | Say::Cleared { .. })
            | (Role::Vendor, Say::Clear | Say::Mark(_) | Say::HangUp | Say::Stop(_))
            | (_, Say::BargeIn) => return Ok(false),
            (_, Say::Wish(_) | Say::Held(_) | Say::Transfer(_)) => {
                // An agent has keys pressed by its own word.
                let digits = ("sendDTMF", "dtmf");
                let words = Words { digits, ..Words::of("streamId", self.stream_id(facts)) };
                return words.write(self.role, say, out);
            }
        }
        Ok(true)
    }

    fn handle_text<'m>(&mut self, text: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        let (mut event, mut media, mut start, mut mark, mut dtmf) = (None, None, None, None, None);
        let mut members = Members::object(text)?;
        while let Some((key, value)) = members.next()? {
            if key.is(b"media") {
                media = value.object();
            } else if key.is(b"event") {
                event = matches!(value, Value::Str(word) if !word.is_empty()).then_some(value);
            } else if key.is(b"start") {
                start = value.object();
            } else if key.is(b"name") {
                mark = name(&value);
            } else if key.is(b"dtmf") {
                dtmf = value.member(b"digit")?;
            }
        }

        let Some(event) = event else { return Ok(Incoming::NOTHING) };
        let vendor = self.role == Role::Vendor;
        if event.is(if vendor { b"playAudio".as_slice() } else { b"media" }) {
            let audio = match media {
                Some(media) => self.on_media(media)?,
                None => Audio::None,
            };
            let event = if audio == Audio::None { Event::Unknown } else { Event::None };
            return Ok(Incoming { audio, event });
        }
        let event = if vendor {
            if event.is(b"clearAudio") {
                Event::Clear
            } else if event.is(b"checkpoint") {
                mark.map_or(Event::Unknown, Event::Mark)
            } else if event.is(b"stop") {
                Event::HangUp
            } else {
                Event::Unknown
            }
        } else if event.is(b"start") {
            self.on_start(text, start)?;
            Event::Start
        } else if event.is(b"playedStream") || event.is(b"played") {
            mark.map_or(Event::Unknown, Event::Heard)
        } else if event.is(b"dtmf") {
            dtmf.as_ref().and_then(digit).map_or(Event::Unknown, Event::Dtmf)
        } else if event.is(b"stop") {
            Event::Stop
        } else if event.is(b"clearedAudio") {
            Event::None
        } else {
            Event::Unknown
        };
        let event = if event == Event::Unknown { wish::read(self.role, text) } else { event };
        Ok(Incoming { audio: Audio::None, event })
    }

    fn handle_binary<'m>(&mut self, _: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        Err(Malformed::Binary)
    }
}

impl Encoding {
    const fn name(self) -> &'static str {
        match self {
            Self::Mulaw => "audio/x-mulaw",
            Self::L16 => "audio/x-l16",
        }
    }
}

/// The names of a format.
#[derive(Default)]
struct Names {
    /// In lower case.
    encoding: heapless::String<64>,
    hz: Option<u64>,
}

impl Names {
    fn take(&mut self, key: &Key<'_>, value: &Value<'_>) {
        if key.is_either(b"encoding", b"contentType") {
            value.text(&mut self.encoding);
            self.encoding.make_ascii_lowercase();
            // "audio/x-l16;rate=16000", as the stream's XML has it
            let rate = self.encoding.split_once("rate=").map(|(_, rate)| Value::Str(rate.as_bytes()).uint());
            self.hz = self.hz.or(rate.flatten());
        } else if key.is_either(b"sampleRate", b"sample_rate") {
            self.hz = value.uint().or(self.hz);
        }
    }
}

/// Reads `k=v;k2=v2`. Its XML separates by commas, and a platform that copied it sends an object, or a string of one.
fn read_headers(value: &Value<'_>, facts: &mut Facts) -> Result<(), Malformed> {
    if let Some(members) = value.object() {
        return facts.take_parameters(members);
    }
    let mut text = heapless::String::<MAX_HEADERS>::new();
    value.text(&mut text);
    if let Ok(members) = Members::object(text.as_bytes()) {
        // What is wrong in there is no fault of the message's.
        let _ = facts.take_parameters(members);
        return Ok(());
    }
    for (name, value) in text.split([';', ',']).filter_map(|pair| pair.split_once('=')) {
        facts.take_parameter(&Key::new(name.trim().as_bytes()), &Value::Str(value.trim().as_bytes()));
    }
    Ok(())
}

/// Writes `k=v;k2=v2`, less what cannot be said so.
fn headers(facts: &Facts) -> heapless::String<MAX_HEADERS> {
    let mut text = heapless::String::new();
    for (name, value) in facts.parameters() {
        let fits = text.len() + name.len() + value.len() + 2 <= MAX_HEADERS;
        if fits && !name.contains([';', ',', '=']) && !value.contains([';', ',']) {
            let comma = if text.is_empty() { "" } else { ";" };
            let _ = write!(text, "{comma}{name}={value}");
        }
    }
    text
}

struct Envelope<'a> {
    event: &'static str,
    sequence: Option<u64>,
    stream_id: &'a str,
    body: Body<'a>,
}

/// What an event is about.
enum Body<'a> {
    None,
    Name(&'a str),
    Digit(u8),
}

impl Serialize for Envelope<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("", 4)?;
        fields.serialize_field("event", self.event)?;
        if let Some(sequence) = self.sequence {
            fields.serialize_field("sequenceNumber", &sequence)?;
        }
        fields.serialize_field("streamId", self.stream_id)?;
        match self.body {
            Body::None => {}
            Body::Name(name) => fields.serialize_field("name", &Name(name))?,
            Body::Digit(digit) => {
                let mut utf8 = [0; 4];
                let digit = &*char::from(digit).encode_utf8(&mut utf8);
                fields.serialize_field("dtmf", &Dtmf { track: "inbound", digit })?;
            }
        }
        fields.end()
    }
}

#[derive(Serialize)]
struct Dtmf<'a> {
    track: &'static str,
    digit: &'a str,
}

#[derive(Serialize)]
struct Opening<'a> {
    event: &'static str,
    #[serde(rename = "sequenceNumber")]
    sequence_number: u64,
    start: Start<'a>,
    extra_headers: &'a str,
}

struct Start<'a> {
    facts: &'a Facts,
    format: MediaFormat,
}

impl Serialize for Start<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("", 5)?;
        fields.serialize_field("callId", self.facts.call_sid.as_str())?;
        fields.serialize_field("streamId", self.facts.stream_sid.as_str())?;
        fields.serialize_field("accountId", self.facts.account.as_str())?;
        fields.serialize_field("tracks", &["inbound"])?;
        fields.serialize_field("mediaFormat", &self.format)?;
        fields.end()
    }
}

#[derive(Serialize)]
struct MediaFormat {
    encoding: &'static str,
    #[serde(rename = "sampleRate")]
    sample_rate: u32,
}

/// As much as `extraHeaders` may have (bytes; Plivo, "The Stream element").
const MAX_HEADERS: usize = 512;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]
mod tests {
    use super::*;
    use crate::dialect::{
        StopReason, Wish,
        ozonetel::tests::{audio, event, facts, in_pieces, noise, opening, said, samples},
    };

    /// A start as Plivo's protocol reference shows it.
    const START: &str = concat!(
        r#"{"event":"start","sequenceNumber":1,"start":{"callId":"ca-1","streamId":"st-9","accountId":"MA77","#,
        r#""tracks":["inbound"],"mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000}},"#,
        r#""extra_headers":"lane=sales;from=15550100011"}"#
    );

    /// A message of audio as the same page shows it.
    const MEDIA: &str = concat!(
        r#"{"event":"media","sequenceNumber":42,"streamId":"st-9","media":{"track":"inbound","#,
        r#""timestamp":"1705312200000","chunk":41,"payload":"/4AA"},"extra_headers":"lane=sales"}"#
    );

    /// An agent's L16, with its format before the samples.
    const ANSWER: &str = concat!(
        r#"{"event":"playAudio","media":{"contentType":"audio/x-l16","sampleRate":16000,"payload":"AQD//wCA"},"#,
        r#""streamId":"st-9"}"#
    );

    fn open(role: Role, rate: Rate, options: &[(&str, OptionValue<'_>)]) -> Plivo {
        let mut set = Options::default();
        for &(key, value) in options {
            set.set(key, value).unwrap();
        }
        Plivo::new(role, rate, &set)
    }

    fn vendor() -> Plivo {
        open(Role::Vendor, Rate::Hz8000, &[])
    }

    fn agent() -> Plivo {
        open(Role::Agent, Rate::Hz8000, &[])
    }

    fn take(dialect: &mut Plivo, text: &str) -> Option<Vec<i16>> {
        let incoming = dialect.handle_text(text.as_bytes()).unwrap();
        assert_eq!(incoming.event, Event::None);
        samples(incoming.audio)
    }

    #[test]
    fn a_vendor_counts_in_numbers_and_tells_the_time_of_day() {
        let mut vendor = vendor();
        let mut known = facts();
        assert!(known.custom.add("lane", "sales") && known.custom.add("odd", "a;b"));
        let mut space = [0; 1024];
        let mut out = Message::new(&mut space);
        assert_eq!(vendor.write_opening(0, &known, Stamp::default(), &mut out), Ok(true));
        assert_eq!(
            str::from_utf8(out.bytes()).unwrap(),
            concat!(
                r#"{"event":"start","sequenceNumber":1,"start":{"callId":"0f8b2c6e-51d4-4f0a-9e37-62a1c4d97b80","#,
                r#""streamId":"abcdefgh2345","accountId":"harbour","tracks":["inbound"],"#,
                r#""mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000}},"#,
                r#""extra_headers":"lane=sales;from=+15550100011;to=+15550100022"}"#
            )
        );
        assert_eq!(opening(&mut vendor, 1), None);
        assert_eq!(
            audio(&mut vendor, &[0, 32_124, -32_124]),
            concat!(
                r#"{"event":"media","sequenceNumber":2,"streamId":"abcdefgh2345","media":{"track":"inbound","#,
                r#""timestamp":"1767225600123","chunk":1,"payload":"/4AA"}}"#
            )
        );
        let id = r#""streamId":"abcdefgh2345""#;
        assert_eq!(
            said(&mut vendor, Say::Dtmf(b'5')).unwrap(),
            format!(r#"{{"event":"dtmf","sequenceNumber":3,{id},"dtmf":{{"track":"inbound","digit":"5"}}}}"#)
        );
        assert_eq!(
            said(&mut vendor, Say::Heard("m1")).unwrap(),
            format!(r#"{{"event":"playedStream","sequenceNumber":4,{id},"name":"m1"}}"#)
        );
        assert_eq!(
            said(&mut vendor, Say::Cleared { unheard_ms: 40 }).unwrap(),
            format!(r#"{{"event":"clearedAudio","sequenceNumber":5,{id}}}"#)
        );
        for say in [Say::Clear, Say::Mark("m"), Say::HangUp, Say::Stop(StopReason::Ended), Say::BargeIn] {
            assert_eq!(said(&mut vendor, say), None, "{say:?}");
        }
    }

    #[test]
    fn a_vendor_obeys_what_agents_send() {
        let mut vendor = vendor();
        assert_eq!(take(&mut vendor, ANSWER).unwrap(), [1, -1, i16::MIN]);
        assert_eq!(vendor.expected().rate, Rate::Hz16000);
        let checkpoint = r#"{"event":"checkpoint","streamId":"st-9","name":"customer greeting audio"}"#;
        assert_eq!(event(&mut vendor, checkpoint), Event::Mark("customer greeting audio"));
        assert_eq!(event(&mut vendor, r#"{"event":"clearAudio","streamId":"st-9"}"#), Event::Clear);
        assert_eq!(vendor.marks_on_clear(), MarksOnClear::Forget);
        assert_eq!(event(&mut vendor, r#"{"event":"stop","streamId":"st-9"}"#), Event::HangUp);
        let Event::Wish(asked) = event(&mut vendor, r#"{"event":"sendDTMF","dtmf":"5"}"#) else { panic!("no wish") };
        assert_eq!(asked.wish(), Wish::digits("5"));
        for unknown in
            [r#"{"event":"sendDTMF"}"#, r#"{"event":"checkpoint"}"#, r#"{"event":"playAudio"}"#, START, MEDIA]
        {
            assert_eq!(event(&mut vendor, unknown), Event::Unknown, "{unknown}");
        }
        assert_eq!(vendor.handle_binary(b"\0\0"), Err(Malformed::Binary));
    }

    #[test]
    fn every_answer_is_taken_in_the_format_that_it_names() {
        let mut vendor = vendor();
        for (format, payload, heard) in [
            (r#""contentType":"audio/x-mulaw","sampleRate":8000"#, "/4AA", Some(vec![0, 32_124, -32_124])),
            (r#""contentType":"audio/x-l16","sampleRate":"16000""#, "AQD//w==", Some(vec![1, -1])),
            (r#""contentType":"audio/x-l16;rate=8000""#, "AQD//w==", Some(vec![1, -1])),
            // As the one before.
            (r#""x":1"#, "AQD//w==", Some(vec![1, -1])),
            (r#""contentType":"audio/x-l16","sampleRate":11025"#, "AQD//w==", None),
            (r#""contentType":"audio/mpeg","sampleRate":8000"#, "AQD//w==", None),
        ] {
            let text = format!(r#"{{"event":"playAudio","media":{{{format},"payload":"{payload}"}}}}"#);
            assert_eq!(take(&mut vendor, &text), heard, "{format}");
        }
    }

    #[test]
    fn an_agent_learns_the_call_from_its_start() {
        let mut agent = agent();
        assert_eq!(event(&mut agent, START), Event::Start);
        let facts = agent.facts().unwrap();
        assert_eq!((facts.stream_sid.as_str(), facts.call_sid.as_str()), ("st-9", "ca-1"));
        assert_eq!((facts.account.as_str(), facts.from.as_str()), ("MA77", "15550100011"));
        assert!(facts.custom.iter().eq([("lane", "sales")]));
        assert_eq!(take(&mut agent, MEDIA).unwrap(), [0, 32_124, -32_124]);
        let outbound = MEDIA.replace("inbound", "outbound");
        assert_eq!(agent.handle_text(outbound.as_bytes()).unwrap().audio, Audio::Skip);
        assert_eq!(event(&mut agent, r#"{"event":"dtmf","sequenceNumber":7,"dtmf":{"digit":"*"}}"#), Event::Dtmf(b'*'));
        assert_eq!(event(&mut agent, r#"{"event":"playedStream","name":"m1"}"#), Event::Heard("m1"));
        // As a page of Plivo's support site calls it.
        assert_eq!(event(&mut agent, r#"{"event":"played","streamId":"st-9","name":"m1"}"#), Event::Heard("m1"));
        assert_eq!(event(&mut agent, r#"{"event":"clearedAudio","streamId":"st-9"}"#), Event::None);
        assert_eq!(event(&mut agent, r#"{"event":"stop"}"#), Event::Stop);
    }

    #[test]
    fn headers_are_understood_however_they_are_written() {
        for headers in [
            r#""lane=sales;to=7""#,
            r#""lane=sales,to=7""#,
            r#"" lane = sales ; to=7;odd""#,
            // A platform that copied the grammar sends JSON, mostly empty.
            r#""{\"lane\":\"sales\",\"to\":7}""#,
            r#"{"lane":"sales","to":"7"}"#,
        ] {
            let mut agent = agent();
            event(&mut agent, &format!(r#"{{"event":"start","extra_headers":{headers},"start":{{"streamId":"s"}}}}"#));
            let facts = agent.facts().unwrap();
            assert!(facts.custom.iter().eq([("lane", "sales")]), "{headers}");
            assert_eq!(facts.to, "7", "{headers}");
        }
        let mut agent = agent();
        for empty in [r#""{}""#, r#""""#, "null", "7", r#""{\"lane\"""#] {
            assert_eq!(event(&mut agent, &format!(r#"{{"event":"start","extra_headers":{empty}}}"#)), Event::Start);
            assert_eq!(agent.facts().unwrap().custom.iter().count(), 0, "{empty}");
        }
    }

    #[test]
    fn an_agent_answers_in_the_format_of_the_start() {
        let mut agent = agent();
        event(&mut agent, START);
        assert_eq!(
            audio(&mut agent, &[0, 32_124, -32_124]),
            concat!(
                r#"{"event":"playAudio","streamId":"st-9","media":{"contentType":"audio/x-mulaw","sampleRate":8000,"#,
                r#""payload":"/4AA"}}"#
            )
        );
        event(&mut agent, &START.replace("audio/x-mulaw\",\"sampleRate\":8000", "audio/x-l16\",\"sampleRate\":16000"));
        assert_eq!((agent.rate(), agent.chunk()), (Rate::Hz16000, 320));
        assert!(
            audio(&mut agent, &[1, -1])
                .ends_with(r#""media":{"contentType":"audio/x-l16","sampleRate":16000,"payload":"AQD//w=="}}"#)
        );
        assert_eq!(said(&mut agent, Say::Clear).unwrap(), r#"{"event":"clearAudio","streamId":"st-9"}"#);
        assert_eq!(
            said(&mut agent, Say::Mark("m1")).unwrap(),
            r#"{"event":"checkpoint","streamId":"st-9","name":"m1"}"#
        );
        assert_eq!(said(&mut agent, Say::HangUp), None, "it closes");
        event(&mut agent, &START.replace("audio/x-mulaw", "audio/opus"));
        assert_eq!(audio(&mut agent, &[1, -1]), "");
        assert_eq!(agent.handle_text(MEDIA.as_bytes()).unwrap().audio, Audio::Skip);
    }

    #[test]
    fn what_is_mu_law_is_8_khz_and_what_is_more_is_linear() {
        let format = |rate, options: &[_]| open(Role::Vendor, rate, options).expected();
        let mu_law = [("encoding", OptionValue::Str("mulaw"))];
        let be = [("encoding", OptionValue::Str("l16")), ("l16-byte-order", OptionValue::Str("be"))];
        for (rate, options, coding, hz) in [
            (Rate::Hz8000, &[][..], Coding::Mulaw, 8_000),
            (Rate::Hz16000, &[], Coding::Pcm16Le, 16_000),
            (Rate::Hz16000, &mu_law, Coding::Mulaw, 8_000),
            (Rate::Hz8000, &be, Coding::Pcm16Be, 8_000),
        ] {
            let format = format(rate, options);
            assert_eq!((format.coding, format.rate.hz()), (coding, hz));
        }
    }

    #[test]
    fn both_byte_orders_arrive_as_they_were_sent_both_ways() {
        for order in ["le", "be"] {
            let options = [("l16-byte-order", OptionValue::Str(order))];
            let mut vendor = open(Role::Vendor, Rate::Hz16000, &options);
            let mut agent = open(Role::Agent, Rate::Hz8000, &options);
            event(&mut agent, &opening(&mut vendor, 0).unwrap());
            let sent = noise(2_000);
            assert_eq!(take(&mut agent, &audio(&mut vendor, &sent)).unwrap(), sent);
            assert_eq!(take(&mut vendor, &audio(&mut agent, &sent)).unwrap(), sent);
            let text = audio(&mut agent, &sent);
            let heard = in_pieces(&mut vendor, &text, 7, |incoming| {
                assert!(matches!(incoming.audio, Audio::Take { bytes: b"", .. }));
            });
            assert_eq!(heard, sent);
        }
        let mut big = open(Role::Vendor, Rate::Hz16000, &[("l16-byte-order", OptionValue::Str("be"))]);
        assert!(audio(&mut big, &[1, -2]).contains(r#""payload":"AAH//g==""#));
    }

    #[test]
    fn options_take_what_they_say_and_nothing_else() {
        let mut options = Options::default();
        for info in Options::KNOWN {
            assert_eq!(options.set(info.key, OptionValue::Str(info.default.trim_matches('"'))), Ok(()));
            for bad in [OptionValue::Str(""), OptionValue::Bool(true), OptionValue::Int(1)] {
                assert!(matches!(options.set(info.key, bad), Err(OptionError::Expected(_))), "{}", info.key);
            }
        }
        assert_eq!(options.set("byte-order", OptionValue::Str("le")), Err(OptionError::Unknown));
    }
}
