//! `telnyx`: Telnyx's media streaming over WebSocket, G.711 or L16 in base64 in JSON.
//!
//! `start` says what the audio is, and nothing else does: what was asked for over REST may not be what comes. It does not
//! say which byte of L16 comes first; [`byte_order`](super::byte_order) finds out. A stream of `both_tracks` brings back
//! what the agent said, so only the track `inbound` is heard.
//!
//! ```text
//!  vendor                                                      agent
//!    | connected {version}                                ------> |
//!    | start {stream_id, start: {ids, media_format}}      ------> |
//!    | media {track, chunk, timestamp, payload: 20 ms}    ------> |
//!    | <-------------------------  media {payload: 20 ms - 30 s}  |
//!    | <-----------------------------------------  mark {name}    |
//!    | mark {name}, once it was heard or cleared          ------> |
//!    | <------------------------------------------------  clear   |
//!    | error {code, title, detail}, and the call goes on  ------> |
//!    | dtmf, stop                                         ------> |
//! ```
//!
//! No message asks to hang up: that is a REST command, and closing the socket ends only the stream. Payloads are the
//! codec's bytes alone, although the pages speak of an RTP stream. Sources: Telnyx, "Media Streaming over Websockets"
//! and its AsyncAPI page; the types of its Python SDK; `call_control.py` of team-telnyx/eva.

use core::{fmt, str};

use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::{
    dialect::{
        Audio, Carrier, Coding, Dialect, Direction, Event, Facts, Format, Full, Incoming, Malformed, MarksOnClear,
        Message, OptionError, OptionInfo, OptionValue, Role, Say, Stamp, Text,
        byte_order::{ByteOrder, Detector},
        dtmf::digit,
        json::{Members, Value},
        mark::{Name, cut_name, name},
        wish::{self, Words},
    },
    media::{Rate, g711::Law},
};

/// What can be chosen about the dialect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    encoding: Encoding,
    byte_order: ByteOrder,
    direction: Direction,
    rtp_header: bool,
}

/// What the audio is, as `media_format` names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Encoding {
    #[default]
    Pcmu,
    Pcma,
    L16,
}

impl Encoding {
    const ALL: [Self; 3] = [Self::Pcmu, Self::Pcma, Self::L16];

    const fn name(self) -> &'static str {
        match self {
            Self::Pcmu => "PCMU",
            Self::Pcma => "PCMA",
            Self::L16 => "L16",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|encoding| encoding.name().eq_ignore_ascii_case(name))
    }

    /// What is spoken when nothing is said of it. The pages have L16 at 16 kHz only.
    const fn rate(self) -> Rate {
        match self {
            Self::Pcmu | Self::Pcma => Rate::Hz8000,
            Self::L16 => Rate::Hz16000,
        }
    }
}

impl Options {
    /// The keys of `[trunk.NAME.telnyx]`.
    pub const KNOWN: &'static [OptionInfo] = &[
        OptionInfo {
            key: "encoding",
            default: "\"pcmu\"",
            help: "As vendor: speak `pcmu`, `pcma` or `l16`; an agent obeys `start`.",
            role: Some(Role::Vendor),
        },
        OptionInfo {
            key: "l16-byte-order",
            default: "\"auto\"",
            help: "Which byte of L16 comes first: the least (`le`) or most (`be`) significant; `auto` begins with `le` and listens.",
            role: None,
        },
        OptionInfo {
            key: "direction",
            default: "\"both\"",
            help: "`uplink` where the stream is not bidirectional: nobody hears an agent.",
            role: None,
        },
        OptionInfo {
            key: "rtp-header",
            default: "false",
            help: "Drop 12 bytes at the head of each payload, for peers that leave the header of RTP there.",
            role: None,
        },
    ];

    /// Sets one of [`KNOWN`](Self::KNOWN).
    ///
    /// # Errors
    /// [`OptionError`] says whether the key or the value is at fault.
    pub fn set(&mut self, key: &str, value: OptionValue<'_>) -> Result<(), OptionError> {
        match (key, value) {
            ("encoding", OptionValue::Str("pcmu")) => self.encoding = Encoding::Pcmu,
            ("encoding", OptionValue::Str("pcma")) => self.encoding = Encoding::Pcma,
            ("encoding", OptionValue::Str("l16")) => self.encoding = Encoding::L16,
            ("encoding", _) => return Err(OptionError::Expected("\"pcmu\", \"pcma\" or \"l16\"")),
            ("l16-byte-order", value) => self.byte_order = ByteOrder::parse(value)?,
            ("direction", value) => self.direction = Direction::option(value)?,
            ("rtp-header", OptionValue::Bool(flag)) => self.rtp_header = flag,
            ("rtp-header", _) => return Err(OptionError::Expected("true or false")),
            _ => return Err(OptionError::Unknown),
        }
        Ok(())
    }
}

/// One call in Telnyx's grammar.
///
/// The names of marks are kept as a message spells them between its quotes, escapes included.
#[derive(Debug)]
pub struct Telnyx {
    role: Role,
    options: Options,
    encoding: Encoding,
    rate: Rate,
    order: Detector,
    /// Agent role: the vendor's format is one that we have.
    playable: bool,
    /// Messages sent so far, of those that are numbered.
    sequence: u64,
    /// Media messages sent so far.
    chunks: u64,
    /// Samples sent so far.
    samples: u64,
    /// Vendor role: what is wrong with the agent's last message, until it was told.
    complaint: Option<Complaint>,
    /// Agent role: what `start` told.
    facts: Option<Facts>,
}

impl Telnyx {
    /// A call that has not begun. As agent, encoding and rate are what `start` names, once it came.
    #[must_use]
    pub fn new(role: Role, rate: Option<Rate>, options: &Options) -> Self {
        let encoding = options.encoding;
        let rate = rate.unwrap_or(encoding.rate());
        Self {
            role,
            options: options.clone(),
            encoding,
            rate,
            order: Detector::new(options.byte_order, rate),
            playable: true,
            sequence: 0,
            chunks: 0,
            samples: 0,
            complaint: None,
            facts: None,
        }
    }

    const fn coding(&self) -> Coding {
        match self.encoding {
            Encoding::Pcmu => Coding::Mulaw,
            Encoding::Pcma => Coding::Alaw,
            Encoding::L16 => self.order.coding(),
        }
    }

    /// Writes a vendor's message that is numbered, and counts it once it stands.
    fn write_event<B: Serialize>(
        &mut self,
        event: &'static str,
        occurred_at: Option<u64>,
        body: B,
        facts: &Facts,
        out: &mut Message<'_>,
    ) -> Result<(), Full> {
        out.json(&Envelope {
            event,
            stream_id: &facts.stream_sid,
            sequence: Some(self.sequence + 1),
            occurred_at,
            body: (event, body),
        })?;
        self.sequence += 1;
        Ok(())
    }

    fn read<'m>(&mut self, text: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        let (mut event, mut about, mut stream_id) = (None, None, None);
        let mut members = Members::object(text)?;
        while let Some((key, value)) = members.next()? {
            if key.is(b"event") {
                event = Some(value);
            } else if key.is_either(b"stream_id", b"streamId") {
                stream_id = Some(value);
            } else if [b"media".as_slice(), b"start", b"mark", b"dtmf", b"payload"].iter().any(|body| key.is(body)) {
                about = Some(value);
            }
        }
        let says = |word: &[u8]| event.is_some_and(|event| event.is(word));
        let member = |name: &[u8]| about.map_or(Ok(None), |about| about.member(name));
        if says(b"media") {
            return self.on_media(about.and_then(|media| media.object()));
        }
        let agent = self.role == Role::Agent;
        let event = if agent && says(b"start") {
            self.on_start(stream_id, about.and_then(|start| start.object()))?
        } else if says(b"mark") {
            match (self.role, member(b"name")?.as_ref().and_then(name)) {
                (Role::Vendor, Some(name)) => Event::Mark(name),
                (Role::Agent, Some(name)) => Event::Heard(name),
                (Role::Vendor | Role::Agent, None) => Event::Unknown,
            }
        } else if !agent && says(b"clear") {
            Event::Clear
        } else if agent && says(b"dtmf") {
            member(b"digit")?.as_ref().and_then(digit).map_or(Event::Unknown, Event::Dtmf)
        } else if agent && says(b"error") {
            // The page has `payload {code, title, detail}`; the most telling of what is there is told.
            let words = [member(b"detail")?, member(b"title")?, member(b"code")?];
            Event::Fault(words.iter().flatten().find_map(words_of).unwrap_or("an error without words"))
        } else if agent && says(b"stop") {
            Event::Stop
        } else if event.is_none() || agent && says(b"connected") {
            Event::None
        } else {
            wish::read(self.role, text)
        };
        Ok(Incoming { audio: Audio::None, event })
    }

    fn on_media<'m>(&self, media: Option<Members<'m>>) -> Result<Incoming<'m>, Malformed> {
        let (mut track, mut payload) = (None, None);
        if let Some(mut members) = media {
            while let Some((key, value)) = members.next()? {
                if key.is(b"payload") {
                    payload = Some(value);
                } else if key.is(b"track") {
                    track = Some(value);
                }
            }
        }
        let Some(payload) = payload else { return Ok(Incoming { audio: Audio::None, event: Event::Unknown }) };
        let Value::Str(bytes) = payload else { return Err(Malformed::Base64) };
        // What an agent calls its track does not matter.
        let inbound = |track: Value<'_>| track.is(b"inbound") || track.is(b"inbound_track");
        let ours = self.role == Role::Agent && track.is_some_and(|track| !inbound(track));
        let unheard = self.role == Role::Vendor && self.options.direction == Direction::Uplink;
        let audio = if ours || unheard || !self.playable {
            Audio::Skip
        } else {
            let bytes = if self.options.rtp_header { behind_header(bytes) } else { bytes };
            Audio::Take { format: self.expected(), bytes }
        };
        Ok(Incoming { audio, event: Event::None })
    }

    fn on_start(
        &mut self,
        stream_id: Option<Value<'_>>,
        start: Option<Members<'_>>,
    ) -> Result<Event<'static>, Malformed> {
        let mut facts = Facts::default();
        if let Some(id) = stream_id {
            id.text(&mut facts.stream_sid);
        }
        let mut format = None;
        if let Some(mut members) = start {
            while let Some((key, value)) = members.next()? {
                let slot: &mut Text = if key.is_either(b"call_control_id", b"callControlId") {
                    &mut facts.call_sid
                } else if key.is_either(b"user_id", b"userId") {
                    &mut facts.account
                } else if key.is(b"from") {
                    &mut facts.from
                } else if key.is(b"to") {
                    &mut facts.to
                } else {
                    if key.is_either(b"media_format", b"mediaFormat") {
                        format = value.object();
                    }
                    continue;
                };
                value.text(slot);
            }
        }
        self.facts = Some(facts);
        let refusal = format.map_or(Ok(None), |format| self.on_format(format))?;
        self.playable = refusal.is_none();
        // A call that nobody could hear is better refused at its start than silent to its end.
        Ok(refusal.map_or(Event::Start, Event::Broken))
    }

    /// Obeys the format, or says why that cannot be.
    fn on_format(&mut self, mut members: Members<'_>) -> Result<Option<&'static str>, Malformed> {
        let (mut encoding, mut hz, mut channels) = (heapless::String::<16>::new(), None, None);
        while let Some((key, value)) = members.next()? {
            if key.is(b"encoding") {
                value.text(&mut encoding);
            } else if key.is_either(b"sample_rate", b"sampleRate") {
                hz = Some(value.uint());
            } else if key.is(b"channels") {
                channels = value.uint();
            }
        }
        if !encoding.is_empty() {
            let Some(known) = Encoding::from_name(&encoding) else {
                return Ok(Some("media_format.encoding is none of PCMU, PCMA and L16"));
            };
            (self.encoding, self.rate) = (known, known.rate());
        }
        if let Some(hz) = hz {
            let rate = hz.and_then(|hz| u32::try_from(hz).ok()).and_then(Rate::from_hz);
            let Some(rate) = rate else {
                return Ok(Some("media_format.sample_rate is none of 8000, 16000, 24000 and 48000"));
            };
            self.rate = rate;
        }
        if channels.is_some_and(|channels| channels != 1) {
            return Ok(Some("media_format.channels is not 1"));
        }
        self.order = Detector::new(self.options.byte_order, self.rate);
        Ok(None)
    }
}

impl Dialect for Telnyx {
    fn name(&self) -> &'static str {
        "telnyx"
    }

    /// Agent role: what `start` named, once it did.
    fn rate(&self) -> Rate {
        self.rate
    }

    /// 20 ms, the least that a vendor takes; it takes up to 30 s.
    fn chunk(&self) -> usize {
        self.rate.frame()
    }

    fn lead_ms(&self) -> u64 {
        60
    }

    fn expected(&self) -> Format {
        Format { carrier: Carrier::Base64, coding: self.coding(), rate: self.rate }
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

    fn direction(&self) -> Direction {
        self.options.direction
    }

    /// Only the stream ends; its call goes on (Telnyx, "Media Streaming over Websockets").
    fn close_hands_back(&self) -> bool {
        true
    }

    /// 30 s of L16 at 16 kHz are 1.3 MB of base64.
    fn max_message(&self) -> u64 {
        2 << 20
    }

    /// An agent whose message makes no sense is told so.
    fn write_due(&mut self, facts: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        let Some(complaint) = self.complaint else { return Ok(false) };
        out.json(&Envelope {
            event: "error",
            stream_id: &facts.stream_sid,
            sequence: None,
            occurred_at: None,
            body: ("payload", complaint),
        })?;
        self.complaint = None;
        Ok(true)
    }

    /// All that were queued come back at once.
    fn marks_on_clear(&self) -> MarksOnClear {
        MarksOnClear::Tell
    }

    fn facts(&self) -> Option<&Facts> {
        self.facts.as_ref()
    }

    fn write_opening(&mut self, step: usize, facts: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        match (self.role, step) {
            (Role::Vendor, 0) => out.json(&Connected { event: "connected", version: "1.0.0" })?,
            (Role::Vendor, 1) => {
                let start = Start {
                    user_id: &facts.account,
                    call_control_id: facts.call_sid_or_ours(),
                    call_session_id: &facts.call_id,
                    from: &facts.from,
                    to: &facts.to,
                    tags: [],
                    client_state: "",
                    media_format: MediaFormat {
                        encoding: self.encoding.name(),
                        sample_rate: self.rate.hz(),
                        channels: 1,
                    },
                };
                self.write_event("start", None, start, facts, out)?;
            }
            (Role::Vendor | Role::Agent, _) => return Ok(false),
        }
        Ok(true)
    }

    fn write_audio(&mut self, samples: &[i16], facts: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<(), Full> {
        if self.role == Role::Agent && self.options.direction == Direction::Uplink {
            return Ok(()); // nobody would hear it
        }
        out.raw(b"{\"event\":\"media\",")?;
        if self.role == Role::Vendor {
            out.raw(b"\"stream_id\":")?;
            out.json_str(&facts.stream_sid)?;
            out.raw(b",\"sequence_number\":\"")?;
            out.uint(self.sequence + 1)?;
            out.raw(b"\",\"media\":{\"track\":\"inbound\",\"chunk\":\"")?;
            out.uint(self.chunks + 1)?;
            out.raw(b"\",\"timestamp\":\"")?;
            out.uint(self.samples * 1000 / u64::from(self.rate.hz()))?;
            out.raw(b"\",")?;
        } else {
            out.raw(b"\"media\":{")?;
        }
        out.raw(b"\"payload\":\"")?;
        match self.coding() {
            Coding::Mulaw => out.base64_g711(Law::Mu, samples)?,
            Coding::Alaw => out.base64_g711(Law::A, samples)?,
            Coding::Pcm16Be => out.base64_pcm16be(samples)?,
            Coding::Pcm16Le | Coding::Decimal => out.base64_pcm16le(samples)?,
        }
        out.raw(b"\"}}")?;
        self.sequence += 1;
        self.chunks += 1;
        self.samples += samples.len() as u64;
        Ok(())
    }

    fn write(&mut self, say: Say<'_>, facts: &Facts, stamp: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        match (self.role, say) {
            (Role::Agent, Say::Clear) => out.raw(b"{\"event\":\"clear\"}")?,
            (Role::Agent, Say::Mark(name)) => {
                out.json(&AgentMark { event: "mark", mark: Mark { name: Name(cut_name(name)) } })?;
            }
            (Role::Vendor, Say::Heard(name)) => {
                let mark = Mark { name: Name(cut_name(name)) };
                self.write_event("mark", None, mark, facts, out)?;
            }
            (Role::Vendor, Say::Dtmf(digit)) => {
                let mut utf8 = [0; 4];
                let digit = Dtmf { digit: char::from(digit).encode_utf8(&mut utf8) };
                self.write_event("dtmf", Some(stamp.epoch_ms), digit, facts, out)?;
            }
            (Role::Vendor, Say::Stop(_)) => {
                let stop = Stop { user_id: &facts.account, call_control_id: facts.call_sid_or_ours() };
                self.write_event("stop", None, stop, facts, out)?;
            }
            (Role::Agent, Say::HangUp | Say::Heard(_) | Say::Dtmf(_) | Say::Stop(_))
            | (Role::Vendor, Say::Clear | Say::Mark(_) | Say::HangUp)
            | (_, Say::Cleared { .. } | Say::BargeIn) => return Ok(false),
            (_, Say::Wish(_) | Say::Held(_) | Say::Transfer(_)) => {
                return Words::of("stream_id", &facts.stream_sid).write(self.role, say, out);
            }
        }
        Ok(true)
    }

    fn observe(&mut self, samples: &[i16]) -> bool {
        self.encoding == Encoding::L16 && self.order.hear(samples)
    }

    fn handle_text<'m>(&mut self, text: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        let read = self.read(text);
        if self.role == Role::Vendor
            && let Err(malformed) = read
        {
            self.complaint = Some(match malformed {
                Malformed::Base64 => Complaint::Media,
                Malformed::Json | Malformed::TooDeep | Malformed::Samples | Malformed::Binary | Malformed::TooLong => {
                    Complaint::Frame
                }
            });
        }
        read
    }

    fn handle_binary<'m>(&mut self, _: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        Err(Malformed::Binary)
    }
}

/// A text or number as it stands, escapes included.
fn words_of<'m>(value: &Value<'m>) -> Option<&'m str> {
    let (Value::Str(raw) | Value::Num(raw)) = *value else { return None };
    str::from_utf8(raw).ok().filter(|words| !words.is_empty())
}

/// What is left of a payload behind 12 bytes, which are 16 characters of base64. (RFC 3550 5.1; the few who leave it
/// there have no extensions.) JSON may spell `/` as `\/`.
fn behind_header(mut payload: &[u8]) -> &[u8] {
    for _ in 0..16 {
        payload = match payload {
            [b'\\', b'/', rest @ ..] | [_, rest @ ..] => rest,
            [] => return payload,
        };
    }
    payload
}

/// What a vendor's messages look like from outside, but for `connected` and `media`.
struct Envelope<'a, B> {
    event: &'static str,
    stream_id: &'a str,
    sequence: Option<u64>,
    /// Milliseconds since 1970.
    occurred_at: Option<u64>,
    /// What the event is about, under its key.
    body: (&'static str, B),
}

impl<B: Serialize> Serialize for Envelope<'_, B> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("", 5)?;
        fields.serialize_field("event", self.event)?;
        fields.serialize_field("stream_id", self.stream_id)?;
        if let Some(sequence) = self.sequence {
            fields.serialize_field("sequence_number", &Quoted(sequence))?;
        }
        if let Some(epoch_ms) = self.occurred_at {
            fields.serialize_field("occurred_at", &Utc(epoch_ms))?;
        }
        fields.serialize_field(self.body.0, &self.body.1)?;
        fields.end()
    }
}

/// A number as a string.
struct Quoted(u64);

impl Serialize for Quoted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A time as ISO 8601 has it, from milliseconds since 1970.
struct Utc(u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, ms) = (self.0 / DAY_MS, self.0 % DAY_MS);
        // Years begin in March here, so that the odd day is a year's last; eras are of 400 years. 1970-01-01 is day
        // 719,468 of the era that began on 0000-03-01.
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        let year = era * 400 + year + next_year;
        let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{:03}Z", ms % 1_000)
    }
}

impl Serialize for Utc {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a vendor finds wrong with an agent's message, as the page numbers and names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Complaint {
    Frame,
    Media,
}

impl Serialize for Complaint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (code, title, detail) = match self {
            Self::Frame => (100_003, "malformed_frame", "the message is not JSON"),
            Self::Media => (100_004, "invalid_media", "the payload is not base64"),
        };
        let mut fields = serializer.serialize_struct("", 3)?;
        fields.serialize_field("code", &code)?;
        fields.serialize_field("title", title)?;
        fields.serialize_field("detail", detail)?;
        fields.end()
    }
}

#[derive(Serialize)]
struct Connected {
    event: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
struct Start<'a> {
    user_id: &'a str,
    call_control_id: &'a str,
    call_session_id: &'a str,
    from: &'a str,
    to: &'a str,
    tags: [&'a str; 0],
    client_state: &'a str,
    media_format: MediaFormat,
}

#[derive(Serialize)]
struct MediaFormat {
    encoding: &'static str,
    sample_rate: u32,
    channels: u32,
}

#[derive(Serialize)]
struct Mark<'a> {
    name: Name<'a>,
}

#[derive(Serialize)]
struct AgentMark<'a> {
    event: &'static str,
    mark: Mark<'a>,
}

#[derive(Serialize)]
struct Dtmf<'a> {
    digit: &'a str,
}

#[derive(Serialize)]
struct Stop<'a> {
    user_id: &'a str,
    call_control_id: &'a str,
}

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]
mod tests {
    use super::*;
    use crate::dialect::{
        MAX_MARK, StopReason,
        ozonetel::tests::{STAMP, audio, event, facts, in_pieces, noise, opening, said, samples, written},
    };

    /// A start as the page has it: the counter is a string, rate and channels are numbers.
    const START: &str = concat!(
        r#"{"event":"start","sequence_number":"1","start":{"user_id":"u-7","call_control_id":"v2:abc","#,
        r#""call_session_id":"cs-1","from":"+15550100011","to":"+15550100022","tags":["night"],"#,
        r#""client_state":"bmlnaHQ=","media_format":{"encoding":"PCMU","sample_rate":8000,"channels":1}},"#,
        r#""stream_id":"32de0dea"}"#
    );

    /// What an agent answers with, as the page has it: no id.
    const ANSWER: &str = r#"{"event":"media","media":{"payload":"/4AA"}}"#;

    /// What `ANSWER` is in mu-law. ITU-T G.711: 0xff is zero, 0x80 and 0x00 are the loudest.
    const LOUD: [i16; 3] = [0, 32_124, -32_124];

    fn open(role: Role, rate: Option<Rate>, options: &[(&str, OptionValue<'_>)]) -> Telnyx {
        let mut set = Options::default();
        for &(key, value) in options {
            set.set(key, value).unwrap();
        }
        Telnyx::new(role, rate, &set)
    }

    fn vendor() -> Telnyx {
        open(Role::Vendor, None, &[])
    }

    fn agent() -> Telnyx {
        open(Role::Agent, None, &[])
    }

    fn l16(role: Role, order: &str) -> Telnyx {
        open(role, None, &[("encoding", OptionValue::Str("l16")), ("l16-byte-order", OptionValue::Str(order))])
    }

    fn start_with(format: &str) -> String {
        format!(r#"{{"event":"start","stream_id":"s","start":{{"media_format":{format}}}}}"#)
    }

    fn take(dialect: &mut Telnyx, text: &str) -> Option<Vec<i16>> {
        let incoming = dialect.handle_text(text.as_bytes()).unwrap();
        assert_eq!(incoming.event, Event::None);
        samples(incoming.audio)
    }

    fn due(dialect: &mut Telnyx) -> Option<String> {
        let (there, text) = written(|out| dialect.write_due(&facts(), STAMP, out));
        there.then_some(text)
    }

    // As vendor.

    #[test]
    fn a_vendor_opens_with_connected_and_start() {
        let mut vendor = vendor();
        assert_eq!(opening(&mut vendor, 0).unwrap(), r#"{"event":"connected","version":"1.0.0"}"#);
        assert_eq!(
            opening(&mut vendor, 1).unwrap(),
            concat!(
                r#"{"event":"start","stream_id":"abcdefgh2345","sequence_number":"1","start":{"user_id":"harbour","#,
                r#""call_control_id":"0f8b2c6e-51d4-4f0a-9e37-62a1c4d97b80","call_session_id":"abcdefgh2345","#,
                r#""from":"+15550100011","to":"+15550100022","tags":[],"client_state":"","#,
                r#""media_format":{"encoding":"PCMU","sample_rate":8000,"channels":1}}}"#
            )
        );
        assert_eq!(opening(&mut vendor, 2), None);
    }

    #[test]
    fn a_line_that_has_no_id_of_its_own_is_called_by_ours() {
        let mut facts = facts();
        facts.call_sid.clear();
        let (_, text) = written(|out| vendor().write_opening(1, &facts, STAMP, out));
        assert!(text.contains(r#""call_control_id":"abcdefgh2345""#), "{text}");
    }

    #[test]
    fn a_vendor_counts_messages_chunks_and_milliseconds_in_strings() {
        let mut vendor = vendor();
        opening(&mut vendor, 0).unwrap();
        opening(&mut vendor, 1).unwrap();
        let id = r#""stream_id":"abcdefgh2345""#;
        assert_eq!(
            audio(&mut vendor, &LOUD),
            format!(
                concat!(
                    r#"{{"event":"media",{},"sequence_number":"2","media":{{"track":"inbound","chunk":"1","#,
                    r#""timestamp":"0","payload":"/4AA"}}}}"#
                ),
                id
            )
        );
        audio(&mut vendor, &[0; 157]);
        let third = audio(&mut vendor, &[0; 160]);
        assert!(third.contains(r#""sequence_number":"4","media":{"track":"inbound","chunk":"3","timestamp":"20","#));
        assert_eq!(
            said(&mut vendor, Say::Dtmf(b'#')).unwrap(),
            format!(
                concat!(
                    r#"{{"event":"dtmf",{},"sequence_number":"5","occurred_at":"2026-01-01T00:00:00.123Z","#,
                    r##""dtmf":{{"digit":"#"}}}}"##
                ),
                id
            )
        );
        assert_eq!(
            said(&mut vendor, Say::Heard("m1")).unwrap(),
            format!(r#"{{"event":"mark",{id},"sequence_number":"6","mark":{{"name":"m1"}}}}"#)
        );
        assert_eq!(
            said(&mut vendor, Say::Stop(StopReason::CallerHungUp)).unwrap(),
            format!(
                concat!(
                    r#"{{"event":"stop",{},"sequence_number":"7","stop":{{"user_id":"harbour","#,
                    r#""call_control_id":"0f8b2c6e-51d4-4f0a-9e37-62a1c4d97b80"}}}}"#
                ),
                id
            )
        );
        for say in [Say::Clear, Say::Mark("m"), Say::HangUp, Say::BargeIn, Say::Cleared { unheard_ms: 1 }] {
            assert_eq!(said(&mut vendor, say), None, "{say:?}");
        }
    }

    #[test]
    fn a_message_that_did_not_fit_is_not_counted() {
        let mut vendor = vendor();
        let mut space = [0; 100];
        assert_eq!(vendor.write_audio(&[0; 160], &facts(), STAMP, &mut Message::new(&mut space)), Err(Full));
        assert_eq!(vendor.write(Say::Dtmf(b'1'), &facts(), STAMP, &mut Message::new(&mut space)), Err(Full));
        let first = audio(&mut vendor, &[0; 160]);
        assert!(first.contains(r#""sequence_number":"1","media":{"track":"inbound","chunk":"1","timestamp":"0""#));
    }

    #[test]
    fn a_day_is_told_right_at_the_ends_of_months_and_years() {
        for (epoch_ms, told) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_767_225_599_001, "2025-12-31T23:59:59.001Z"),
            (1_772_323_199_000, "2026-02-28T23:59:59.000Z"),
            (1_772_323_200_000, "2026-03-01T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Utc(epoch_ms).to_string(), told);
        }
    }

    #[test]
    fn an_agents_answers_are_understood() {
        let mut vendor = vendor();
        assert_eq!(take(&mut vendor, ANSWER).unwrap(), LOUD);
        // Harmless, and some send it; some escape slashes, leave out padding or break lines.
        let odd = r#"{"event":"media","stream_id":"x","media":{"track":"outbound","payload":"\/4A\nA","chunk":7}}"#;
        assert_eq!(take(&mut vendor, odd).unwrap(), LOUD);
        assert_eq!(take(&mut vendor, r#"{"event":"media","media":{"payload":""}}"#).unwrap(), [0_i16; 0]);
        assert_eq!(event(&mut vendor, r#"{"event":"mark","mark":{"name":"m1"}}"#), Event::Mark("m1"));
        assert_eq!(event(&mut vendor, r#"{"event":"mark","mark":{}}"#), Event::Unknown);
        assert_eq!(event(&mut vendor, r#"{"event":"clear"}"#), Event::Clear);
        assert_eq!(vendor.marks_on_clear(), MarksOnClear::Tell);
    }

    #[test]
    fn what_an_agent_has_no_word_for_is_counted_and_means_nothing() {
        let mut vendor = vendor();
        for text in [
            START,
            r#"{"event":"stop"}"#,
            r#"{"event":"dtmf","dtmf":{"digit":"5"}}"#,
            r#"{"event":"connected"}"#,
            r#"{"event":"error","payload":{"code":1}}"#,
            r#"{"event":"hangup"}"#,
            r#"{"event":"media"}"#,
            r#"{"event":"media","media":{}}"#,
        ] {
            assert_eq!(event(&mut vendor, text), Event::Unknown, "{text}");
        }
        assert_eq!(event(&mut vendor, r#"{"type":"connected"}"#), Event::None);
        assert_eq!(due(&mut vendor), None);
    }

    #[test]
    fn an_agent_is_told_once_what_was_wrong_with_its_message() {
        let mut vendor = vendor();
        for (bad, malformed, told) in [
            (
                r#"{"event":"media","media":{"payload":[1]}}"#,
                Malformed::Base64,
                r#""payload":{"code":100004,"title":"invalid_media","detail":"the payload is not base64"}}"#,
            ),
            (
                "not JSON",
                Malformed::Json,
                r#""payload":{"code":100003,"title":"malformed_frame","detail":"the message is not JSON"}}"#,
            ),
        ] {
            assert_eq!(vendor.handle_text(bad.as_bytes()), Err(malformed));
            let error = due(&mut vendor).unwrap();
            assert_eq!(error, format!(r#"{{"event":"error","stream_id":"abcdefgh2345",{told}"#));
            assert!(matches!(event(&mut agent(), &error), Event::Fault(words) if told.contains(words)));
            assert_eq!(due(&mut vendor), None);
        }
        assert!(agent().handle_text(b"not JSON").is_err());
        assert_eq!(due(&mut agent()), None, "an agent has no such word");
        for end in 0..ANSWER.len() {
            assert!(vendor.handle_text(&ANSWER.as_bytes()[..end]).is_err(), "{end}");
        }
        assert_eq!(vendor.handle_binary(b"\0\0"), Err(Malformed::Binary));
    }

    #[test]
    fn a_vendor_speaks_what_it_announced() {
        for (word, name, hz, rate) in [
            ("pcmu", "PCMU", 8_000, None),
            ("pcma", "PCMA", 8_000, None),
            ("l16", "L16", 16_000, None),
            ("l16", "L16", 24_000, Some(Rate::Hz24000)),
            ("l16", "L16", 48_000, Some(Rate::Hz48000)),
        ] {
            let mut vendor = open(Role::Vendor, rate, &[("encoding", OptionValue::Str(word))]);
            let start = opening(&mut vendor, 1).unwrap();
            let told = format!(r#""media_format":{{"encoding":"{name}","sample_rate":{hz},"channels":1}}"#);
            assert!(start.contains(&told), "{start}");
            assert_eq!((vendor.rate().hz(), vendor.chunk(), vendor.unit()), (hz, hz as usize / 50, hz as usize / 50));
            let mut agent = agent();
            assert_eq!(event(&mut agent, &start), Event::Start);
            assert_eq!(agent.expected(), vendor.expected());
        }
    }

    // As agent.

    #[test]
    fn a_start_tells_who_calls_and_in_what() {
        let mut agent = agent();
        assert_eq!(event(&mut agent, r#"{"event":"connected","version":"1.0.0"}"#), Event::None);
        assert_eq!(agent.facts(), None);
        assert_eq!(event(&mut agent, START), Event::Start);
        let facts = agent.facts().unwrap();
        assert_eq!((facts.stream_sid.as_str(), facts.call_sid.as_str()), ("32de0dea", "v2:abc"));
        assert_eq!((facts.from.as_str(), facts.to.as_str()), ("+15550100011", "+15550100022"));
        assert_eq!(facts.account, "u-7");
        assert_eq!(agent.expected(), Format { carrier: Carrier::Base64, coding: Coding::Mulaw, rate: Rate::Hz8000 });
    }

    #[test]
    fn the_declared_format_is_obeyed_whatever_was_asked_for() {
        for (format, coding, hz) in [
            (r#"{"encoding":"PCMA","sample_rate":8000,"channels":1}"#, Coding::Alaw, 8_000),
            (r#"{"encoding":"L16","sample_rate":24000,"channels":1}"#, Coding::Pcm16Le, 24_000),
            (r#"{"encoding":"L16","sample_rate":"8000"}"#, Coding::Pcm16Le, 8_000),
            (r#"{"encoding":"l16","sampleRate":48000}"#, Coding::Pcm16Le, 48_000),
            (r#"{"encoding":"L16"}"#, Coding::Pcm16Le, 16_000),
            (r#"{}"#, Coding::Mulaw, 8_000),
        ] {
            let mut agent = agent();
            assert_eq!(event(&mut agent, &start_with(format)), Event::Start);
            assert_eq!((agent.expected().coding, agent.rate().hz()), (coding, hz), "{format}");
        }
    }

    #[test]
    fn a_format_that_is_not_ours_ends_the_call_at_its_start_and_nothing_of_it_is_heard() {
        for (format, words) in [
            (r#"{"encoding":"OPUS","sample_rate":16000}"#, "media_format.encoding is none of PCMU, PCMA and L16"),
            (r#"{"encoding":"G722","sample_rate":8000}"#, "media_format.encoding is none of PCMU, PCMA and L16"),
            (r#"{"encoding":"AMR-WB"}"#, "media_format.encoding is none of PCMU, PCMA and L16"),
            (
                r#"{"encoding":"L16","sample_rate":22050}"#,
                "media_format.sample_rate is none of 8000, 16000, 24000 and 48000",
            ),
            (r#"{"sample_rate":0}"#, "media_format.sample_rate is none of 8000, 16000, 24000 and 48000"),
            (r#"{"sample_rate":1000000000}"#, "media_format.sample_rate is none of 8000, 16000, 24000 and 48000"),
            (r#"{"encoding":"PCMU","channels":2}"#, "media_format.channels is not 1"),
        ] {
            let mut agent = agent();
            assert_eq!(event(&mut agent, &start_with(format)), Event::Broken(words), "{format}");
            assert_eq!(agent.handle_text(ANSWER.as_bytes()).unwrap().audio, Audio::Skip);
            event(&mut agent, START);
            assert_eq!(take(&mut agent, ANSWER).unwrap(), LOUD);
        }
    }

    #[test]
    fn an_agent_does_not_hear_itself() {
        let media = |track: &str| {
            format!(r#"{{"event":"media","stream_id":"s","media":{{"track":"{track}","payload":"/4AA"}}}}"#)
        };
        assert_eq!(agent().handle_text(media("outbound").as_bytes()).unwrap().audio, Audio::Skip);
        assert_eq!(take(&mut agent(), &media("inbound")).unwrap(), LOUD);
        assert_eq!(take(&mut agent(), ANSWER).unwrap(), LOUD);
    }

    #[test]
    fn an_agent_hears_digits_marks_faults_and_the_end() {
        let mut agent = agent();
        let dtmf = concat!(
            r##"{"event":"dtmf","stream_id":"s","occurred_at":"2026-01-01T00:00:00.000000Z","sequence_number":"9","##,
            r##""dtmf":{"digit":"#"}}"##
        );
        assert_eq!(event(&mut agent, dtmf), Event::Dtmf(b'#'));
        assert_eq!(event(&mut agent, r#"{"event":"dtmf","dtmf":{"digit":"12"}}"#), Event::Unknown);
        let mark = r#"{"event":"mark","stream_id":"s","sequence_number":"8","mark":{"name":"m1"}}"#;
        assert_eq!(event(&mut agent, mark), Event::Heard("m1"));
        for (payload, words) in [
            (r#"{"code":100005,"title":"rate_limit_reached","detail":"too many \"media\""}"#, r#"too many \"media\""#),
            (r#"{"code":100002,"title":"unknown_error"}"#, "unknown_error"),
            (r#"{"code":100002}"#, "100002"),
            ("{}", "an error without words"),
            ("null", "an error without words"),
        ] {
            let error = format!(r#"{{"event":"error","stream_id":"s","payload":{payload}}}"#);
            assert_eq!(event(&mut agent, &error), Event::Fault(words));
        }
        assert_eq!(event(&mut agent, r#"{"event":"clear"}"#), Event::Unknown);
        let stop = concat!(
            r#"{"event":"stop","sequence_number":"5","stop":{"user_id":"u-7","call_control_id":"v2:abc"},"#,
            r#""stream_id":"32de0dea"}"#
        );
        assert_eq!(event(&mut agent, stop), Event::Stop);
    }

    #[test]
    fn an_agent_answers_as_the_page_shows() {
        let mut agent = agent();
        assert_eq!(opening(&mut agent, 0), None);
        event(&mut agent, START);
        assert_eq!(audio(&mut agent, &LOUD), ANSWER);
        assert_eq!(said(&mut agent, Say::Mark("m1")).unwrap(), r#"{"event":"mark","mark":{"name":"m1"}}"#);
        assert_eq!(said(&mut agent, Say::Clear).unwrap(), r#"{"event":"clear"}"#);
        for say in [Say::HangUp, Say::Heard("m"), Say::Dtmf(b'1'), Say::Stop(StopReason::Ended)] {
            assert_eq!(said(&mut agent, say), None, "{say:?}");
        }
    }

    // L16.

    #[test]
    fn l16_is_spelled_and_read_in_the_order_that_was_chosen() {
        for (order, payload) in [("auto", "AgH+/w=="), ("le", "AgH+/w=="), ("be", "AQL//g==")] {
            for role in [Role::Vendor, Role::Agent] {
                let mut dialect = l16(role, order);
                let text = audio(&mut dialect, &[0x0102, -2]);
                assert!(text.contains(&format!(r#""payload":"{payload}""#)), "{text}");
                assert_eq!(take(&mut dialect, &text).unwrap(), [0x0102, -2]);
            }
        }
    }

    #[test]
    fn a_peer_that_is_heard_to_have_the_other_order_is_answered_in_it() {
        let tone: Vec<i16> = (0..16_000)
            .map(|n| (f64::from(n) * core::f64::consts::FRAC_PI_8).sin() * 16_000.0)
            .map(|sample| sample as i16)
            .collect();
        for role in [Role::Vendor, Role::Agent] {
            let mut dialect = l16(role, "auto");
            if role == Role::Agent {
                event(&mut dialect, &start_with(r#"{"encoding":"L16","sample_rate":16000,"channels":1}"#));
            }
            let mut peer = l16(Role::Agent, "be");
            let mut switched = 0;
            for frame in tone.chunks(320) {
                let text = audio(&mut peer, frame);
                let heard = take(&mut dialect, &text).unwrap();
                switched += usize::from(dialect.observe(&heard));
            }
            assert_eq!(switched, 1);
            assert_eq!(dialect.expected().coding, Coding::Pcm16Be);
            assert!(audio(&mut dialect, &[0x0102]).contains(r#""payload":"AQI=""#));
        }
    }

    #[test]
    fn g711_is_not_listened_to() {
        let mut agent = agent();
        let step = [i16::MIN, 255, -256, 1].repeat(4_000);
        assert!(!agent.observe(&step) && !agent.observe(&step));
        assert_eq!(agent.expected().coding, Coding::Mulaw);
    }

    #[test]
    fn a_header_of_rtp_can_be_dropped() {
        let header = [0x80, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 1, 2, 3, 4];
        let packet = [&header[..], &[0xff, 0x80, 0x00]].concat();
        let payload = base64_simd::STANDARD.encode_to_string(packet);
        assert!(payload.contains('/'));
        for payload in [payload.clone(), payload.replace('/', "\\/")] {
            let text = format!(r#"{{"event":"media","media":{{"payload":"{payload}"}}}}"#);
            let mut vendor = open(Role::Vendor, None, &[("rtp-header", OptionValue::Bool(true))]);
            assert_eq!(take(&mut vendor, &text).unwrap(), LOUD);
        }
        let mut short = open(Role::Vendor, None, &[("rtp-header", OptionValue::Bool(true))]);
        assert_eq!(take(&mut short, ANSWER).unwrap(), [0_i16; 0]);
    }

    // Both.

    #[test]
    fn two_sides_understand_each_other_for_a_whole_call() {
        for (encoding, order) in [("pcmu", "auto"), ("pcma", "auto"), ("l16", "auto"), ("l16", "le"), ("l16", "be")] {
            let options = [("encoding", OptionValue::Str(encoding)), ("l16-byte-order", OptionValue::Str(order))];
            let (mut vendor, mut agent) = (open(Role::Vendor, None, &options), open(Role::Agent, None, &options[1..]));
            assert_eq!(event(&mut agent, &opening(&mut vendor, 0).unwrap()), Event::None);
            assert_eq!(event(&mut agent, &opening(&mut vendor, 1).unwrap()), Event::Start);
            let told = agent.facts().unwrap();
            assert_eq!((&told.stream_sid, &told.call_sid), (&facts().stream_sid, &facts().call_sid));
            assert_eq!((&told.account, &told.from, &told.to), (&facts().account, &facts().from, &facts().to));

            let spoken = noise(1_600);
            let kept: Vec<i16> = match encoding {
                "pcmu" => spoken.iter().map(|&sample| Law::Mu.decode(Law::Mu.encode(sample))).collect(),
                "pcma" => spoken.iter().map(|&sample| Law::A.decode(Law::A.encode(sample))).collect(),
                _ => spoken.clone(),
            };
            let mut heard = Vec::new();
            for chunk in spoken.chunks(vendor.chunk()) {
                heard.extend(take(&mut agent, &audio(&mut vendor, chunk)).unwrap());
            }
            assert_eq!(heard, kept);
            assert_eq!(take(&mut vendor, &audio(&mut agent, &spoken)).unwrap(), kept);

            assert_eq!(event(&mut agent, &said(&mut vendor, Say::Dtmf(b'*')).unwrap()), Event::Dtmf(b'*'));
            let mark = said(&mut agent, Say::Mark("greeting")).unwrap();
            let Event::Mark(name) = event(&mut vendor, &mark) else { panic!("no mark") };
            let heard = said(&mut vendor, Say::Heard(name)).unwrap();
            assert_eq!(event(&mut agent, &heard), Event::Heard("greeting"));
            assert_eq!(event(&mut vendor, &said(&mut agent, Say::Clear).unwrap()), Event::Clear);
            let stop = said(&mut vendor, Say::Stop(StopReason::CallerHungUp)).unwrap();
            assert_eq!(event(&mut agent, &stop), Event::Stop);
        }
    }

    #[test]
    fn a_message_in_single_bytes_says_what_it_says_whole() {
        let sent = noise(500);
        for order in ["le", "be"] {
            let text = audio(&mut l16(Role::Agent, order), &sent);
            for len in [1, 2, 7, 100, text.len()] {
                let heard = in_pieces(&mut l16(Role::Vendor, order), &text, len, |incoming| {
                    assert!(matches!(incoming.audio, Audio::Take { bytes: b"", .. }));
                });
                assert_eq!(heard, sent);
            }
        }
        in_pieces(&mut agent(), START, 1, |incoming| assert_eq!(incoming.event, Event::Start));
        // Its `payload` is no audio.
        let error = r#"{"event":"error","payload":{"code":1,"detail":"a"}}"#;
        in_pieces(&mut agent(), error, 1, |incoming| assert_eq!(incoming.event, Event::Fault("a")));
    }

    #[test]
    fn thirty_seconds_in_one_message_are_understood_in_pieces() {
        let mut sender = l16(Role::Agent, "le");
        let sent = noise(30 * 16_000);
        let mut space = vec![0; 2 << 20];
        let mut out = Message::new(&mut space);
        sender.write_audio(&sent, &facts(), STAMP, &mut out).unwrap();
        assert!(out.len() as u64 <= sender.max_message());
        let text = str::from_utf8(out.bytes()).unwrap();
        let heard = in_pieces(&mut l16(Role::Vendor, "le"), text, 4_096, |incoming| {
            assert_eq!(incoming.event, Event::None);
        });
        assert!(heard == sent);
    }

    #[test]
    fn the_longest_message_of_ours_fits_eight_kilobytes() {
        let mut vendor = open(Role::Vendor, Some(Rate::Hz48000), &[("encoding", OptionValue::Str("l16"))]);
        let loudest = vec![i16::MIN; vendor.chunk()];
        assert!(audio(&mut vendor, &loudest).len() < 8_192 - 128);
    }

    #[test]
    fn ids_that_are_too_long_are_cut_and_odd_ones_survive() {
        let mut agent = agent();
        let long = "9".repeat(5_000);
        event(&mut agent, &format!(r#"{{"event":"start","stream_id":"{long}","start":{{"from":"a\"b\\\u0007"}}}}"#));
        assert_eq!(agent.facts().unwrap().stream_sid, "9".repeat(128).as_str());
        assert_eq!(agent.facts().unwrap().from, "a\"b\\");
        let mark = format!(r#"{{"event":"mark","mark":{{"name":"{long}"}}}}"#);
        assert_eq!(event(&mut vendor(), &mark), Event::Mark("9".repeat(MAX_MARK).leak()));

        let mut odd = facts();
        odd.stream_sid = "12\"},{\n\u{1}é".try_into().unwrap();
        let mut vendor = vendor();
        for text in [
            written(|out| vendor.write_opening(1, &odd, STAMP, out)).1,
            written(|out| vendor.write_audio(&[1, 2], &odd, STAMP, out)).1,
            written(|out| vendor.write(Say::Heard("m"), &odd, STAMP, out)).1,
            written(|out| vendor.write(Say::Dtmf(b'"'), &odd, STAMP, out)).1,
            written(|out| vendor.write(Say::Stop(StopReason::Ended), &odd, STAMP, out)).1,
        ] {
            assert_ne!(agent.handle_text(text.as_bytes()).unwrap(), Incoming::NOTHING, "{text}");
            assert!(text.contains(r#""stream_id":"12\"},{\n\u0001é""#), "{text}");
        }
        assert_eq!(agent.facts().unwrap().stream_sid, "12\"},{é");
    }

    #[test]
    fn options_take_what_they_say_and_nothing_else() {
        let mut options = Options::default();
        for info in Options::KNOWN {
            let value = match info.default.parse() {
                Ok(flag) => OptionValue::Bool(flag),
                Err(_) => OptionValue::Str(info.default.trim_matches('"')),
            };
            assert_eq!(options.set(info.key, value), Ok(()), "{}", info.key);
            assert_eq!(options, Options::default());
            for odd in [OptionValue::Str(""), OptionValue::Str("PCMU"), OptionValue::Int(1)] {
                assert!(matches!(options.set(info.key, odd), Err(OptionError::Expected(_))), "{}", info.key);
            }
        }
        assert_eq!(options.set("byte-order", OptionValue::Str("le")), Err(OptionError::Unknown));
        let uplink = open(Role::Vendor, None, &[("direction", OptionValue::Str("uplink"))]);
        assert_eq!((uplink.direction(), vendor().direction()), (Direction::Uplink, Direction::Both));
    }

    #[test]
    fn on_a_stream_that_nobody_hears_an_agent_on_nothing_is_said_and_nothing_heard_of_one() {
        let uplink = [("direction", OptionValue::Str("uplink"))];
        let mut space = [0; 1024];
        let mut out = Message::new(&mut space);
        open(Role::Agent, None, &uplink).write_audio(&[1; 160], &Facts::default(), Stamp::default(), &mut out).unwrap();
        assert!(out.bytes().is_empty());
        let said = br#"{"event":"media","media":{"payload":"AAAA"}}"#;
        assert_eq!(open(Role::Vendor, None, &uplink).handle_text(said).unwrap().audio, Audio::Skip);
    }
}
