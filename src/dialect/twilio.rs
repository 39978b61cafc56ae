//! `twilio`: Twilio Media Streams, base64 mu-law in JSON. Most agent frameworks speak it, and several platforms do.
//!
//! The audio is mu-law at 8 kHz whatever happens, and it says so in every `start`. A start that says otherwise is of a
//! platform that only resembles this one: nothing of it is heard and nothing is said to it, because linear samples
//! played as mu-law, or the other way round, are loud noise.
//!
//! ```text
//!  vendor                                                      agent
//!    | connected {protocol: "Call"}                       ------> |
//!    | start {streamSid, start: {ids, customParameters}}  ------> |
//!    | media {track: "inbound", payload: 160 bytes} ...   ------> |
//!    | <-----------------------  media {payload: 160 bytes each}  |
//!    | <-----------------------------------------  mark {name}    |
//!    | mark {name}, once it was heard or cleared          ------> |
//!    | <------------------------------------------------  clear   |
//!    | dtmf, stop                                         ------> |
//! ```
//!
//! No message asks to hang up: an agent closes the socket. A stream that was begun by `<Start>` rather than `<Connect>`
//! flows one way and has no marks and no keys. Counters are strings, rates are numbers, and an agent library exists
//! that checks both. Sources: Twilio, "Media Streams - WebSocket Messages" and "Media Streams Overview".

use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::{
    dialect::{
        Audio, Carrier, Coding, Dialect, Direction, Event, Facts, Format, Full, Incoming, Malformed, MarksOnClear,
        Message, OptionError, OptionInfo, OptionValue, Role, Say, Stamp, Text,
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
    chunk_ms: Option<usize>,
    direction: Direction,
}

impl Options {
    /// The keys of `[trunk.NAME.twilio]`.
    pub const KNOWN: &'static [OptionInfo] = &[
        OptionInfo {
            key: "chunk-ms",
            default: "20",
            help: "Milliseconds of audio in a media message, a multiple of 20 up to 100.",
            role: None,
        },
        OptionInfo {
            key: "direction",
            default: "\"both\"",
            help: "`both` as <Connect> opens a stream; `uplink` as <Start> does, where nothing of an agent is played.",
            role: None,
        },
    ];

    /// Sets one of [`KNOWN`](Self::KNOWN).
    ///
    /// # Errors
    /// [`OptionError`] says whether the key or the value is at fault.
    pub fn set(&mut self, key: &str, value: OptionValue<'_>) -> Result<(), OptionError> {
        match (key, value) {
            ("chunk-ms", OptionValue::Int(ms @ 20..=100)) if ms % 20 == 0 => self.chunk_ms = Some(ms as usize),
            ("chunk-ms", _) => return Err(OptionError::Expected("a multiple of 20 from 20 to 100")),
            ("direction", value) => self.direction = Direction::option(value)?,
            _ => return Err(OptionError::Unknown),
        }
        Ok(())
    }
}

/// One call in Twilio's grammar.
///
/// The names of marks are kept as a message spells them between its quotes, escapes included.
#[derive(Debug)]
pub struct Twilio {
    role: Role,
    options: Options,
    law: Law,
    /// Agent role: the vendor's format is one that we have.
    playable: bool,
    /// Vendor role: messages sent so far, of those that are numbered.
    sequence: u64,
    /// Vendor role: media messages sent so far.
    chunks: u64,
    /// Vendor role: samples sent so far.
    samples: u64,
    /// Agent role: what `start` told.
    facts: Option<Facts>,
}

impl Twilio {
    /// A call that has not begun.
    #[must_use]
    pub fn new(role: Role, options: &Options) -> Self {
        Self {
            role,
            options: options.clone(),
            law: Law::Mu,
            playable: true,
            sequence: 0,
            chunks: 0,
            samples: 0,
            facts: None,
        }
    }

    /// The id that the vendor gave, where it did: on its own socket it knows best.
    fn stream_sid<'a>(&'a self, facts: &'a Facts) -> &'a str {
        match &self.facts {
            Some(own) if !own.stream_sid.is_empty() => &own.stream_sid,
            Some(_) | None => &facts.stream_sid,
        }
    }

    fn is_uplink(&self) -> bool {
        self.options.direction == Direction::Uplink
    }

    /// Writes a message beside `media`, and counts it once it stands.
    fn write_event<B: Serialize>(
        &mut self,
        event: &'static str,
        body: Option<B>,
        facts: &Facts,
        out: &mut Message<'_>,
    ) -> Result<(), Full> {
        let sequence = (self.role == Role::Vendor).then_some(Counter(self.sequence + 1));
        out.json(&Envelope { event, sequence, stream_sid: self.stream_sid(facts), body })?;
        self.sequence += 1;
        Ok(())
    }

    /// What the nested object of a `media` holds.
    fn on_media<'m>(&self, mut media: Members<'m>) -> Result<Audio<'m>, Malformed> {
        let (mut payload, mut track) = (None, None);
        while let Some((key, value)) = media.next()? {
            if key.is(b"payload") {
                payload = Some(value);
            } else if key.is(b"track") {
                track = Some(value);
            }
        }
        let bytes = match payload {
            None => return Ok(Audio::None),
            Some(Value::Str(bytes)) => bytes,
            Some(_) => return Err(Malformed::Base64),
        };
        let unheard = match self.role {
            Role::Vendor => self.is_uplink(),
            // The agent's own speech, where both tracks are streamed.
            Role::Agent => track.is_some_and(|track| track.is(b"outbound")) || !self.playable,
        };
        Ok(if unheard { Audio::Skip } else { Audio::Take { format: self.expected(), bytes } })
    }

    fn on_start(&mut self, text: &[u8], start: Option<Members<'_>>) -> Result<(), Malformed> {
        let mut facts = Facts::default();
        let mut format = None;
        // What stands beside the nested object counts only where that is silent.
        for members in [Some(Members::object(text)?), start].into_iter().flatten() {
            if let Some(found) = read_start(members, &mut facts)? {
                format = Some(found);
            }
        }
        self.facts = Some(facts);
        if let Some(format) = format {
            self.on_format(format)?;
        }
        Ok(())
    }

    fn on_format(&mut self, mut members: Members<'_>) -> Result<(), Malformed> {
        let mut encoding = heapless::String::<64>::new();
        let mut hz = None;
        while let Some((key, value)) = members.next()? {
            if key.is(b"encoding") {
                value.text(&mut encoding);
                encoding.make_ascii_lowercase();
            } else if key.is_either(b"sampleRate", b"sample_rate") {
                hz = value.uint();
            }
        }
        let names = |laws: &[&str]| laws.iter().any(|law| encoding.contains(law));
        let a_law = names(&["alaw", "pcma"]);
        self.law = if a_law { Law::A } else { Law::Mu };
        let known = encoding.is_empty() || a_law || names(&["mulaw", "ulaw", "pcmu"]);
        self.playable = known && hz.is_none_or(|hz| hz == u64::from(RATE.hz()));
        Ok(())
    }
}

impl Dialect for Twilio {
    fn name(&self) -> &'static str {
        "twilio"
    }

    fn rate(&self) -> Rate {
        RATE
    }

    fn chunk(&self) -> usize {
        RATE.samples(self.options.chunk_ms.unwrap_or(20))
    }

    fn lead_ms(&self) -> u64 {
        60
    }

    fn expected(&self) -> Format {
        let coding = match self.law {
            Law::Mu => Coding::Mulaw,
            Law::A => Coding::Alaw,
        };
        Format { carrier: Carrier::Base64, coding, rate: RATE }
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

    /// The next verb of its TwiML runs (Twilio, "TwiML Voice: Stream").
    fn close_hands_back(&self) -> bool {
        true
    }

    fn direction(&self) -> Direction {
        self.options.direction
    }

    fn marks_on_clear(&self) -> MarksOnClear {
        MarksOnClear::Tell
    }

    fn facts(&self) -> Option<&Facts> {
        self.facts.as_ref()
    }

    fn write_opening(&mut self, step: usize, facts: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        match (self.role, step) {
            (Role::Vendor, 0) => out.json(&Connected { event: "connected", protocol: "Call", version: "1.0.0" })?,
            (Role::Vendor, 1) => self.write_event("start", Some(Start(facts)), facts, out)?,
            (Role::Vendor | Role::Agent, _) => return Ok(false),
        }
        Ok(true)
    }

    fn write_audio(&mut self, samples: &[i16], facts: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<(), Full> {
        if self.role == Role::Agent && (self.is_uplink() || !self.playable) {
            return Ok(());
        }
        out.raw(b"{\"event\":\"media\",")?;
        if self.role == Role::Vendor {
            out.raw(b"\"sequenceNumber\":\"")?;
            out.uint(self.sequence + 1)?;
            out.raw(b"\",")?;
        }
        out.raw(b"\"streamSid\":")?;
        out.json_str(self.stream_sid(facts))?;
        out.raw(b",\"media\":{")?;
        if self.role == Role::Vendor {
            out.raw(b"\"track\":\"inbound\",\"chunk\":\"")?;
            out.uint(self.chunks + 1)?;
            out.raw(b"\",\"timestamp\":\"")?;
            out.uint(self.samples * 1000 / u64::from(RATE.hz()))?;
            out.raw(b"\",")?;
        }
        out.raw(b"\"payload\":\"")?;
        out.base64_g711(self.law, samples)?;
        out.raw(b"\"}}")?;
        self.sequence += 1;
        self.chunks += 1;
        self.samples += samples.len() as u64;
        Ok(())
    }

    fn write(&mut self, say: Say<'_>, facts: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        match (self.role, say) {
            // Twilio's overview has keys on streams of both ways only, and marks are of what an agent sends.
            (_, Say::Clear | Say::Mark(_) | Say::Heard(_) | Say::Dtmf(_)) if self.is_uplink() => return Ok(false),
            (Role::Agent, Say::Clear) => self.write_event("clear", None::<()>, facts, out)?,
            (Role::Agent, Say::Mark(name)) | (Role::Vendor, Say::Heard(name)) => {
                self.write_event("mark", Some(Mark { name: Name(cut_name(name)) }), facts, out)?;
            }
            (Role::Vendor, Say::Dtmf(digit)) => {
                let mut utf8 = [0; 4];
                let digit = &*char::from(digit).encode_utf8(&mut utf8);
                self.write_event("dtmf", Some(Dtmf { track: "inbound_track", digit }), facts, out)?;
            }
            (Role::Vendor, Say::Stop(_)) => {
                let stop = Stop { account_sid: &facts.account, call_sid: &facts.call_sid };
                self.write_event("stop", Some(stop), facts, out)?;
            }
            (Role::Agent, Say::HangUp | Say::Heard(_) | Say::Dtmf(_) | Say::Stop(_))
            | (Role::Vendor, Say::Clear | Say::Mark(_) | Say::HangUp)
            | (_, Say::Cleared { .. } | Say::BargeIn) => return Ok(false),
            (_, Say::Wish(_) | Say::Held(_) | Say::Transfer(_)) => {
                return Words::of("streamSid", self.stream_sid(facts)).write(self.role, say, out);
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
            } else if key.is(b"mark") {
                mark = value.member(b"name")?;
            } else if key.is(b"dtmf") {
                dtmf = value.member(b"digit")?;
            }
        }

        let Some(event) = event else { return Ok(Incoming::NOTHING) };
        let vendor = self.role == Role::Vendor;
        let event = if event.is(b"media") {
            let audio = match media {
                Some(media) => self.on_media(media)?,
                None => Audio::None,
            };
            let event = if audio == Audio::None { Event::Unknown } else { Event::None };
            return Ok(Incoming { audio, event });
        } else if self.is_uplink() && (event.is(b"mark") || event.is(b"clear") || event.is(b"dtmf")) {
            Event::Unknown
        } else if event.is(b"mark") {
            let told = if vendor { Event::Mark } else { Event::Heard };
            mark.as_ref().and_then(name).map_or(Event::Unknown, told)
        } else if vendor && event.is(b"clear") {
            Event::Clear
        } else if event.is(b"stop") {
            if vendor { Event::HangUp } else { Event::Stop }
        } else if !vendor && event.is(b"start") {
            self.on_start(text, start)?;
            Event::Start
        } else if !vendor && event.is(b"dtmf") {
            dtmf.as_ref().and_then(digit).map_or(Event::Unknown, Event::Dtmf)
        } else if event.is(b"connected") {
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

/// Reads what an object tells about a call; returns its media format, if it has one.
///
/// Numbers are no part of a `start` but for some of the platforms that copied it: who wants them passes them as
/// parameters.
fn read_start<'m>(mut members: Members<'m>, facts: &mut Facts) -> Result<Option<Members<'m>>, Malformed> {
    let mut format = None;
    while let Some((key, value)) = members.next()? {
        let slot: &mut Text = if key.is_either(b"streamSid", b"stream_sid") {
            &mut facts.stream_sid
        } else if key.is_either(b"callSid", b"call_sid") {
            &mut facts.call_sid
        } else if key.is_either(b"accountSid", b"account_sid") {
            &mut facts.account
        } else if key.is_either(b"from", b"From") {
            &mut facts.from
        } else if key.is_either(b"to", b"To") {
            &mut facts.to
        } else {
            if key.is_either(b"mediaFormat", b"media_format") {
                format = value.object();
            } else if key.is_either(b"customParameters", b"custom_parameters")
                && let Some(members) = value.object()
            {
                facts.take_parameters(members)?;
            }
            continue;
        };
        value.text(slot);
    }
    Ok(format)
}

/// What every message but `connected` and `media` looks like from outside.
struct Envelope<'a, B> {
    event: &'static str,
    sequence: Option<Counter>,
    stream_sid: &'a str,
    /// What the event is about, in an object of the event's own name.
    body: Option<B>,
}

impl<B: Serialize> Serialize for Envelope<'_, B> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("", 4)?;
        fields.serialize_field("event", self.event)?;
        if let Some(counter) = &self.sequence {
            fields.serialize_field("sequenceNumber", counter)?;
        }
        fields.serialize_field("streamSid", self.stream_sid)?;
        if let Some(body) = &self.body {
            fields.serialize_field(self.event, body)?;
        }
        fields.end()
    }
}

/// A number as a string.
struct Counter(u64);

impl Serialize for Counter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

struct Start<'a>(&'a Facts);

impl Serialize for Start<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let format = MediaFormat { encoding: "audio/x-mulaw", sample_rate: RATE.hz(), channels: 1 };
        let mut fields = serializer.serialize_struct("", 6)?;
        fields.serialize_field("streamSid", self.0.stream_sid.as_str())?;
        fields.serialize_field("accountSid", self.0.account.as_str())?;
        fields.serialize_field("callSid", self.0.call_sid.as_str())?;
        fields.serialize_field("tracks", &["inbound"])?;
        fields.serialize_field("customParameters", &CustomParameters(self.0))?;
        fields.serialize_field("mediaFormat", &format)?;
        fields.end()
    }
}

/// What was told of the call, and its two numbers.
struct CustomParameters<'a>(&'a Facts);

impl Serialize for CustomParameters<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.parameters())
    }
}

#[derive(Serialize)]
struct MediaFormat {
    encoding: &'static str,
    #[serde(rename = "sampleRate")]
    sample_rate: u32,
    channels: u32,
}

#[derive(Serialize)]
struct Connected {
    event: &'static str,
    protocol: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
struct Mark<'a> {
    name: Name<'a>,
}

#[derive(Serialize)]
struct Dtmf<'a> {
    track: &'static str,
    digit: &'a str,
}

#[derive(Serialize)]
struct Stop<'a> {
    #[serde(rename = "accountSid")]
    account_sid: &'a str,
    #[serde(rename = "callSid")]
    call_sid: &'a str,
}

/// The only rate there is.
const RATE: Rate = Rate::Hz8000;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]
mod tests {
    use super::*;
    use crate::dialect::{
        StopReason,
        ozonetel::tests::{STAMP, audio, event, facts, in_pieces, noise, opening, said, samples, written},
    };

    /// A start as Twilio's page on WebSocket messages shows it, with two parameters of the stream's TwiML.
    const START: &str = concat!(
        r#"{"event":"start","sequenceNumber":"1","start":{"accountSid":"AC3f","streamSid":"MZ18","callSid":"CA94","#,
        r#""tracks":["inbound"],"mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1},"#,
        r#""customParameters":{"lane":"sales","From":"+15550100011"}},"streamSid":"MZ18"}"#
    );

    /// A message of audio as the same page shows it. ITU-T G.711: 0xff is zero, 0x80 and 0x00 are the loudest.
    const MEDIA: &str = concat!(
        r#"{"event":"media","sequenceNumber":"4","media":{"track":"inbound","chunk":"2","timestamp":"5","#,
        r#""payload":"/4AA"},"streamSid":"MZ18"}"#
    );

    fn open(role: Role, options: &[(&str, OptionValue<'_>)]) -> Twilio {
        let mut set = Options::default();
        for &(key, value) in options {
            set.set(key, value).unwrap();
        }
        Twilio::new(role, &set)
    }

    fn vendor() -> Twilio {
        open(Role::Vendor, &[])
    }

    fn agent() -> Twilio {
        open(Role::Agent, &[])
    }

    fn take(dialect: &mut Twilio, text: &str) -> Option<Vec<i16>> {
        let incoming = dialect.handle_text(text.as_bytes()).unwrap();
        assert_eq!(incoming.event, Event::None);
        samples(incoming.audio)
    }

    #[test]
    fn a_vendor_opens_as_the_documents_show() {
        let mut vendor = vendor();
        assert_eq!(opening(&mut vendor, 0).unwrap(), r#"{"event":"connected","protocol":"Call","version":"1.0.0"}"#);
        assert_eq!(
            opening(&mut vendor, 1).unwrap(),
            concat!(
                r#"{"event":"start","sequenceNumber":"1","streamSid":"abcdefgh2345","start":{"#,
                r#""streamSid":"abcdefgh2345","accountSid":"harbour","#,
                r#""callSid":"0f8b2c6e-51d4-4f0a-9e37-62a1c4d97b80","tracks":["inbound"],"#,
                r#""customParameters":{"from":"+15550100011","to":"+15550100022"},"#,
                r#""mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1}}}"#
            )
        );
        assert_eq!(opening(&mut vendor, 2), None);
        assert_eq!(opening(&mut agent(), 0), None);
    }

    #[test]
    fn a_vendor_counts_in_strings() {
        let mut vendor = vendor();
        opening(&mut vendor, 1).unwrap();
        let sid = r#""streamSid":"abcdefgh2345""#;
        assert_eq!(
            audio(&mut vendor, &[0, 32_124, -32_124]),
            format!(
                concat!(
                    r#"{{"event":"media","sequenceNumber":"2",{},"media":{{"track":"inbound","chunk":"1","#,
                    r#""timestamp":"0","payload":"/4AA"}}}}"#
                ),
                sid
            )
        );
        audio(&mut vendor, &[0; 157]);
        assert!(audio(&mut vendor, &[0; 160]).contains(r#""sequenceNumber":"4","streamSid":"abcdefgh2345","media":{"track":"inbound","chunk":"3","timestamp":"20","#));
        assert_eq!(
            said(&mut vendor, Say::Dtmf(b'#')).unwrap(),
            format!(
                r##"{{"event":"dtmf","sequenceNumber":"5",{sid},"dtmf":{{"track":"inbound_track","digit":"#"}}}}"##
            )
        );
        assert_eq!(
            said(&mut vendor, Say::Heard("m1")).unwrap(),
            format!(r#"{{"event":"mark","sequenceNumber":"6",{sid},"mark":{{"name":"m1"}}}}"#)
        );
        assert_eq!(
            said(&mut vendor, Say::Stop(StopReason::Ended)).unwrap(),
            concat!(
                r#"{"event":"stop","sequenceNumber":"7","streamSid":"abcdefgh2345","stop":{"accountSid":"harbour","#,
                r#""callSid":"0f8b2c6e-51d4-4f0a-9e37-62a1c4d97b80"}}"#
            )
        );
        for say in [Say::Clear, Say::Mark("m"), Say::HangUp, Say::Cleared { unheard_ms: 1 }, Say::BargeIn] {
            assert_eq!(said(&mut vendor, say), None, "{say:?}");
        }
    }

    #[test]
    fn a_message_that_did_not_fit_is_not_counted() {
        let mut vendor = vendor();
        let mut space = [0; 120];
        assert_eq!(vendor.write_audio(&[0; 160], &facts(), STAMP, &mut Message::new(&mut space)), Err(Full));
        let text = audio(&mut vendor, &[0; 160]);
        assert!(text.contains(r#""sequenceNumber":"1""#) && text.contains(r#""chunk":"1","timestamp":"0""#), "{text}");
    }

    #[test]
    fn a_vendor_obeys_what_agents_send() {
        let mut vendor = vendor();
        // As the page on WebSocket messages has them.
        let media = r#"{"event":"media","streamSid":"MZ18","media":{"payload":"/4AA"}}"#;
        assert_eq!(take(&mut vendor, media).unwrap(), [0, 32_124, -32_124]);
        let mark = r#"{"event":"mark","streamSid":"MZ18","mark":{"name":"my label"}}"#;
        assert_eq!(event(&mut vendor, mark), Event::Mark("my label"));
        assert_eq!(event(&mut vendor, r#"{"event":"clear","streamSid":"MZ18"}"#), Event::Clear);
        assert_eq!(vendor.marks_on_clear(), MarksOnClear::Tell);
        assert_eq!(event(&mut vendor, r#"{"event":"stop","streamSid":"MZ18"}"#), Event::HangUp);
        for unknown in
            [START, r#"{"event":"dtmf","dtmf":{"digit":"1"}}"#, r#"{"event":"mark"}"#, r#"{"event":"media"}"#]
        {
            assert_eq!(event(&mut vendor, unknown), Event::Unknown, "{unknown}");
        }
        assert_eq!(event(&mut vendor, r#"{"type":"connected"}"#), Event::None);
        assert_eq!(vendor.handle_text(br#"{"event":"media","media":{"payload":7}}"#), Err(Malformed::Base64));
        assert_eq!(vendor.handle_binary(b"\0\0"), Err(Malformed::Binary));
    }

    #[test]
    fn an_agent_learns_the_call_from_its_start() {
        let mut agent = agent();
        assert_eq!(event(&mut agent, r#"{"event":"connected","protocol":"Call","version":"1.0.0"}"#), Event::None);
        assert_eq!(event(&mut agent, START), Event::Start);
        let facts = agent.facts().unwrap();
        assert_eq!((facts.stream_sid.as_str(), facts.call_sid.as_str()), ("MZ18", "CA94"));
        assert_eq!((facts.account.as_str(), facts.from.as_str()), ("AC3f", "+15550100011"));
        assert!(facts.custom.iter().eq([("lane", "sales")]));
        assert_eq!(take(&mut agent, MEDIA).unwrap(), [0, 32_124, -32_124]);
        let dtmf =
            r#"{"event":"dtmf","streamSid":"MZ18","sequenceNumber":"5","dtmf":{"track":"inbound_track","digit":"1"}}"#;
        assert_eq!(event(&mut agent, dtmf), Event::Dtmf(b'1'));
        assert_eq!(
            event(&mut agent, r#"{"event":"mark","sequenceNumber":"4","mark":{"name":"m"}}"#),
            Event::Heard("m")
        );
        let stop = r#"{"event":"stop","sequenceNumber":"5","stop":{"accountSid":"AC3f","callSid":"CA94"}}"#;
        assert_eq!(event(&mut agent, stop), Event::Stop);
    }

    #[test]
    fn an_agent_answers_as_the_documents_show() {
        let mut agent = agent();
        event(&mut agent, START);
        assert_eq!(
            audio(&mut agent, &[0, 32_124, -32_124]),
            r#"{"event":"media","streamSid":"MZ18","media":{"payload":"/4AA"}}"#
        );
        assert_eq!(
            said(&mut agent, Say::Mark("m1")).unwrap(),
            r#"{"event":"mark","streamSid":"MZ18","mark":{"name":"m1"}}"#
        );
        assert_eq!(said(&mut agent, Say::Clear).unwrap(), r#"{"event":"clear","streamSid":"MZ18"}"#);
        assert_eq!(said(&mut agent, Say::HangUp), None, "it closes");
    }

    #[test]
    fn an_agent_does_not_hear_itself() {
        let both = MEDIA.replace("inbound", "outbound");
        assert_eq!(agent().handle_text(both.as_bytes()).unwrap().audio, Audio::Skip);
    }

    #[test]
    fn a_stream_that_is_not_g711_is_neither_heard_nor_answered() {
        for format in [
            r#"{"encoding":"audio/x-l16","sampleRate":8000}"#,
            r#"{"encoding":"raw"}"#,
            r#"{"encoding":"audio/x-mulaw","sampleRate":16000}"#,
        ] {
            let mut agent = agent();
            event(&mut agent, &format!(r#"{{"event":"start","start":{{"mediaFormat":{format}}}}}"#));
            assert_eq!(agent.handle_text(MEDIA.as_bytes()).unwrap().audio, Audio::Skip, "{format}");
            assert_eq!(audio(&mut agent, &[1, 2]), "", "{format}");
        }
        let mut agent = agent();
        event(&mut agent, r#"{"event":"start","start":{"media_format":{"encoding":"PCMA","sample_rate":"8000"}}}"#);
        assert_eq!(take(&mut agent, r#"{"event":"media","media":{"payload":"1Q=="}}"#).unwrap(), [8]);
        assert!(audio(&mut agent, &[8]).contains(r#""payload":"1Q==""#));
    }

    #[test]
    fn a_stream_begun_by_start_flows_one_way() {
        let uplink = [("direction", OptionValue::Str("uplink"))];
        let (mut vendor, mut agent) = (open(Role::Vendor, &uplink), open(Role::Agent, &uplink));
        assert_eq!((vendor.direction(), agent.direction()), (Direction::Uplink, Direction::Uplink));
        event(&mut agent, &opening(&mut vendor, 1).unwrap());
        assert_eq!(take(&mut agent, &audio(&mut vendor, &[0; 160])).unwrap(), [0; 160]);
        assert_eq!(audio(&mut agent, &[0; 160]), "");
        for say in [Say::Clear, Say::Mark("m"), Say::Heard("m"), Say::Dtmf(b'1')] {
            assert_eq!((said(&mut agent, say), said(&mut vendor, say)), (None, None), "{say:?}");
        }
        assert_eq!(vendor.handle_text(MEDIA.as_bytes()).unwrap().audio, Audio::Skip);
        assert_eq!(event(&mut vendor, r#"{"event":"clear"}"#), Event::Unknown);
        let stop = said(&mut vendor, Say::Stop(StopReason::CallerHungUp)).unwrap();
        assert_eq!(event(&mut agent, &stop), Event::Stop);
    }

    #[test]
    fn messages_are_multiples_of_160_bytes() {
        for ms in [20, 40, 60, 80, 100] {
            let chunk = open(Role::Agent, &[("chunk-ms", OptionValue::Int(ms))]).chunk();
            assert_eq!((chunk % 160, chunk as i64), (0, ms * 8));
        }
        let mut options = Options::default();
        for ms in [0, 10, 30, 120, i64::MIN] {
            assert!(options.set("chunk-ms", OptionValue::Int(ms)).is_err(), "{ms}");
        }
        assert_eq!(options.set("chunk_ms", OptionValue::Int(20)), Err(OptionError::Unknown));
        assert!(matches!(options.set("direction", OptionValue::Bool(true)), Err(OptionError::Expected(_))));
        assert!(matches!(options.set("direction", OptionValue::Str("downlink")), Err(OptionError::Expected(_))));
    }

    #[test]
    fn odd_ids_and_parameters_survive() {
        let mut odd = facts();
        odd.stream_sid = "MZ\"},{\n\u{1}é".try_into().unwrap();
        assert!(odd.custom.add("la\"ne", "sa\\les"));
        let mut agent = agent();
        let (_, text) = written(|out| vendor().write_opening(1, &odd, STAMP, out));
        assert_eq!(event(&mut agent, &text), Event::Start);
        assert_eq!(agent.facts().unwrap().stream_sid, "MZ\"},{é");
        assert!(agent.facts().unwrap().custom.iter().eq([("la\"ne", "sa\\les")]));
        assert_eq!(agent.facts().unwrap().to, "+15550100022");
    }

    #[test]
    fn a_burst_in_single_bytes_says_what_it_says_whole() {
        let sent: Vec<i16> = noise(30_000).into_iter().map(|sample| Law::Mu.decode(Law::Mu.encode(sample))).collect();
        let text = audio(&mut agent(), &sent);
        for len in [1, 7, 4_096] {
            let heard = in_pieces(&mut vendor(), &text, len, |incoming| assert_eq!(incoming.event, Event::None));
            assert!(heard == sent, "{len}");
        }
    }
}
