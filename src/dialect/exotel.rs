//! `exotel`: Exotel's AgentStream (Stream and Voicebot applets, Connect Voice AI), base64 PCM16 in JSON.
//!
//! The documents spell keys in snake case, the vendor's own samples partly in camel case, and two pages disagree on
//! whether counters are numbers or strings: everything is understood on the way in. On the way out a vendor must not
//! mix: a `streamSid` beside the `stream_sid` of a `start` makes at least one framework take the call for another
//! platform's and its PCM for mu-law.
//!
//! ```text
//!  vendor                                                      agent
//!    | connected                                          ------> |
//!    | start {stream_sid, start: {ids, media_format}}     ------> |
//!    | media {payload: 20 ms} ...                         ------> |
//!    | <----------------------------  media {payload: 3,200 B}    |  320 bytes or a multiple
//!    | <-----------------------------------------  mark {name}    |
//!    | mark {name}, once it was heard or cleared          ------> |
//!    | <------------------------------------------------  clear   |
//!    | dtmf, stop {reason}                                ------> |
//! ```
//!
//! No message asks to hang up: an agent closes the socket. The Stream applet only listens: its audio flows one way, and
//! there are no marks and no keys. Sources: the pages on the Stream and Voicebot applets and
//! on AgentStream of Exotel's developer and support sites, and its published sample servers.

use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::{
    dialect::{
        Audio, Carrier, Coding, Dialect, Direction, Event, Facts, Format, Full, Incoming, Malformed, MarksOnClear,
        Message, OptionError, OptionInfo, OptionValue, Parameters, Role, Say, Stamp, StopReason, Text,
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
    key_style: KeyStyle,
    numbers: Numbers,
    chunk_ms: Option<usize>,
    chunk_bytes: Option<usize>,
    agent_style: AgentStyle,
    direction: Direction,
    /// The URL's own query parameters, which reappear in `start`.
    parameters: Parameters,
}

/// How a vendor's keys are spelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum KeyStyle {
    #[default]
    Snake,
    Camel,
}

/// How counters are spelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Numbers {
    #[default]
    Strings,
    Numbers,
}

/// How much an agent says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum AgentStyle {
    /// Both spellings and the counters: some streams ended early without them, and unknown keys hurt nobody.
    #[default]
    Superset,
    /// What the documents show.
    Minimal,
}

impl Options {
    /// The keys of `[trunk.NAME.exotel]`.
    pub const KNOWN: &'static [OptionInfo] = &[
        OptionInfo {
            key: "key-style",
            default: "\"snake\"",
            help: "As vendor: spell keys in `snake` case, as documented, or in `camel` case.",
            role: Some(Role::Vendor),
        },
        OptionInfo {
            key: "numbers",
            default: "\"strings\"",
            help: "Send `sequence_number` and `chunk` as `strings` or as `numbers`.",
            role: None,
        },
        OptionInfo {
            key: "chunk-ms",
            default: "20",
            help: "As vendor: milliseconds of audio in a media message, a multiple of 20 up to 100.",
            role: Some(Role::Vendor),
        },
        OptionInfo {
            key: "chunk-bytes",
            default: "3200",
            help: "As agent: bytes of PCM in a media message, a multiple of 320 up to 4800; unset, 4800 at 24 kHz.",
            role: Some(Role::Agent),
        },
        OptionInfo {
            key: "agent-style",
            default: "\"superset\"",
            help: "As agent: send every key that any vendor asks for (`superset`) or only those documented (`minimal`).",
            role: Some(Role::Agent),
        },
        OptionInfo {
            key: "direction",
            default: "\"both\"",
            help: "`both` for the Voicebot applet; `uplink` for the Stream applet, which plays nothing of an agent's.",
            role: None,
        },
    ];

    /// Adds a query parameter of the URL, decoded, to what `start` tells as `custom_parameters`. `false`: it is one too
    /// many, or all of them have more than 256 characters together.
    pub fn add_parameter(&mut self, name: &str, value: &str) -> bool {
        self.parameters.add(name, value)
    }

    /// Sets one of [`KNOWN`](Self::KNOWN).
    ///
    /// # Errors
    /// [`OptionError`] says whether the key or the value is at fault.
    pub fn set(&mut self, key: &str, value: OptionValue<'_>) -> Result<(), OptionError> {
        match (key, value) {
            ("key-style", OptionValue::Str("snake")) => self.key_style = KeyStyle::Snake,
            ("key-style", OptionValue::Str("camel")) => self.key_style = KeyStyle::Camel,
            ("key-style", _) => return Err(OptionError::Expected("\"snake\" or \"camel\"")),
            ("numbers", OptionValue::Str("strings")) => self.numbers = Numbers::Strings,
            ("numbers", OptionValue::Str("numbers")) => self.numbers = Numbers::Numbers,
            ("numbers", _) => return Err(OptionError::Expected("\"strings\" or \"numbers\"")),
            ("chunk-ms", OptionValue::Int(ms @ 20..=100)) if ms % 20 == 0 => self.chunk_ms = Some(ms as usize),
            ("chunk-ms", _) => return Err(OptionError::Expected("a multiple of 20 from 20 to 100")),
            ("chunk-bytes", OptionValue::Int(n @ 320..=4_800)) if n % 320 == 0 => self.chunk_bytes = Some(n as usize),
            ("chunk-bytes", _) => return Err(OptionError::Expected("a multiple of 320 from 320 to 4800")),
            ("agent-style", OptionValue::Str("superset")) => self.agent_style = AgentStyle::Superset,
            ("agent-style", OptionValue::Str("minimal")) => self.agent_style = AgentStyle::Minimal,
            ("agent-style", _) => return Err(OptionError::Expected("\"superset\" or \"minimal\"")),
            ("direction", value) => self.direction = Direction::option(value)?,
            _ => return Err(OptionError::Unknown),
        }
        Ok(())
    }
}

/// One call in Exotel's grammar.
///
/// The names of marks are kept as a message spells them between its quotes, escapes included.
#[derive(Debug)]
pub struct Exotel {
    role: Role,
    options: Options,
    rate: Rate,
    coding: Coding,
    /// Agent role: the vendor's format is one that we have.
    playable: bool,
    /// Messages sent so far, of those that are numbered.
    sequence: u64,
    /// Media messages sent so far.
    chunks: u64,
    /// Samples sent so far.
    samples: u64,
    /// Agent role: what `start` told.
    facts: Option<Facts>,
}

impl Exotel {
    /// A call that has not begun. An agent's `rate` is that of the request target, until `start` names another.
    #[must_use]
    pub fn new(role: Role, rate: Rate, options: &Options) -> Self {
        Self {
            role,
            options: options.clone(),
            rate,
            coding: Coding::Pcm16Le,
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

    const fn keys(&self) -> &'static Keys {
        match (self.role, self.options.key_style) {
            (Role::Vendor, KeyStyle::Camel) => &CAMEL,
            (Role::Vendor, KeyStyle::Snake) | (Role::Agent, _) => &SNAKE,
        }
    }

    fn is_uplink(&self) -> bool {
        self.options.direction == Direction::Uplink
    }

    fn is_minimal(&self) -> bool {
        self.role == Role::Agent && self.options.agent_style == AgentStyle::Minimal
    }

    /// Writes a message that is numbered, and counts it once it stands.
    fn write_event<B: Serialize>(
        &mut self,
        event: &'static str,
        body: Option<B>,
        facts: &Facts,
        out: &mut Message<'_>,
    ) -> Result<(), Full> {
        let keys = self.keys();
        let superset = self.role == Role::Agent && !self.is_minimal();
        out.json(&Envelope {
            event,
            sequence: (!self.is_minimal())
                .then_some((keys.sequence_number, Counter { value: self.sequence + 1, spelled: self.options.numbers })),
            stream_sid: (keys.stream_sid, self.stream_sid(facts)),
            also: superset.then_some(CAMEL.stream_sid),
            body,
        })?;
        self.sequence += 1;
        Ok(())
    }

    fn write_counter(&self, value: u64, out: &mut Message<'_>) -> Result<(), Full> {
        let quote: &[u8] = match self.options.numbers {
            Numbers::Strings => b"\"",
            Numbers::Numbers => b"",
        };
        out.raw(quote)?;
        out.uint(value)?;
        out.raw(quote)
    }

    /// The counters that go with a payload.
    fn write_counters(&self, superset: bool, out: &mut Message<'_>) -> Result<(), Full> {
        out.raw(b"\"chunk\":")?;
        self.write_counter(self.chunks + 1, out)?;
        out.raw(b",\"timestamp\":\"")?;
        out.uint(self.samples * 1000 / u64::from(self.rate.hz()))?;
        out.raw(b"\",")?;
        if superset {
            out.raw(b"\"sequenceNumber\":")?;
            self.write_counter(self.sequence + 1, out)?;
            out.raw(b",")?;
        }
        Ok(())
    }

    fn on_start(&mut self, text: &[u8], start: Option<Members<'_>>) -> Result<(), Malformed> {
        let mut facts = self.facts.take().unwrap_or_default();
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

    /// The page on the extension of the Stream applet tells of the call in `connected` already.
    fn on_connected(&mut self, text: &[u8]) -> Result<(), Malformed> {
        let mut facts = Facts::default();
        let format = read_start(Members::object(text)?, &mut facts)?;
        if facts != Facts::default() {
            self.facts = Some(facts);
        }
        format.map_or(Ok(()), |format| self.on_format(format))
    }

    fn on_format(&mut self, mut members: Members<'_>) -> Result<(), Malformed> {
        let mut encoding = heapless::String::<64>::new();
        let mut hz = None;
        while let Some((key, value)) = members.next()? {
            if key.is(b"encoding") {
                value.text(&mut encoding);
                encoding.make_ascii_lowercase();
            } else if key.is_either(b"sample_rate", b"sampleRate") {
                hz = value.uint();
            }
        }
        // "audio/x-mulaw;rate=8000"
        let hz = hz.or_else(|| Value::Str(encoding.split_once("rate=")?.1.as_bytes()).uint());
        self.coding = if ["mulaw", "ulaw", "pcmu"].iter().any(|name| encoding.contains(name)) {
            Coding::Mulaw
        } else if ["alaw", "pcma"].iter().any(|name| encoding.contains(name)) {
            Coding::Alaw
        } else {
            Coding::Pcm16Le
        };
        if let Some(hz) = hz {
            let rate = u32::try_from(hz).ok().and_then(Rate::from_hz);
            self.playable = rate.is_some();
            self.rate = rate.unwrap_or(self.rate);
        }
        Ok(())
    }
}

impl Dialect for Exotel {
    fn name(&self) -> &'static str {
        "exotel"
    }

    /// Agent role: what `start` named, once it did.
    fn rate(&self) -> Rate {
        self.rate
    }

    fn chunk(&self) -> usize {
        let samples = match self.role {
            Role::Vendor => self.rate.samples(self.options.chunk_ms.unwrap_or(20)),
            Role::Agent => self.options.chunk_bytes.map_or(self.rate.samples(100).max(1_600), |bytes| bytes / 2),
        };
        samples.min(MAX_CHUNK)
    }

    fn lead_ms(&self) -> u64 {
        match self.role {
            Role::Agent => 400,
            Role::Vendor => 60,
        }
    }

    fn expected(&self) -> Format {
        Format { carrier: Carrier::Base64, coding: self.coding, rate: self.rate }
    }

    fn carrier(&self, key: &[u8], depth: usize) -> Option<Carrier> {
        (depth <= 2 && matches!(key, b"payload" | b"Payload")).then_some(Carrier::Base64)
    }

    fn binary_is_audio(&self) -> bool {
        false
    }

    fn marks_ride_on_audio(&self) -> bool {
        false
    }

    /// The next applet runs (Exotel, "Working with the Stream applet").
    fn close_hands_back(&self) -> bool {
        true
    }

    fn marks_on_clear(&self) -> MarksOnClear {
        MarksOnClear::Tell
    }

    fn direction(&self) -> Direction {
        self.options.direction
    }

    fn facts(&self) -> Option<&Facts> {
        self.facts.as_ref()
    }

    fn write_opening(&mut self, step: usize, facts: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        match (self.role, step) {
            (Role::Vendor, 0) => out.json(&Connected { event: "connected" })?,
            (Role::Vendor, 1) => {
                // On the stack, and once a call. What was told of this call goes before what the URL says of all.
                let mut parameters = facts.custom.clone();
                for (name, value) in self.options.parameters.iter() {
                    parameters.add(name, value);
                }
                let start = Start { keys: self.keys(), facts, rate: self.rate, parameters: &parameters };
                self.write_event("start", Some(start), facts, out)?;
            }
            (Role::Vendor | Role::Agent, _) => return Ok(false),
        }
        Ok(true)
    }

    fn write_audio(&mut self, samples: &[i16], facts: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<(), Full> {
        if self.role == Role::Agent && self.is_uplink() {
            return Ok(());
        }
        let keys = self.keys();
        let superset = self.role == Role::Agent && !self.is_minimal();
        out.raw(b"{\"event\":\"media\",")?;
        if !self.is_minimal() {
            out.raw(b"\"")?;
            out.raw(keys.sequence_number.as_bytes())?;
            out.raw(b"\":")?;
            self.write_counter(self.sequence + 1, out)?;
            out.raw(b",")?;
        }
        out.raw(b"\"")?;
        out.raw(keys.stream_sid.as_bytes())?;
        out.raw(b"\":")?;
        out.json_str(self.stream_sid(facts))?;
        if superset {
            out.raw(b",\"streamSid\":")?;
            out.json_str(self.stream_sid(facts))?;
        }
        out.raw(b",\"media\":{")?;
        if !self.is_minimal() {
            self.write_counters(superset, out)?;
        }
        out.raw(b"\"payload\":\"")?;
        match self.coding {
            Coding::Mulaw => out.base64_g711(Law::Mu, samples)?,
            Coding::Alaw => out.base64_g711(Law::A, samples)?,
            Coding::Pcm16Le | Coding::Pcm16Be | Coding::Decimal => out.base64_pcm16le(samples)?,
        }
        out.raw(b"\"}}")?;
        self.sequence += 1;
        self.chunks += 1;
        self.samples += samples.len() as u64;
        Ok(())
    }

    fn write(&mut self, say: Say<'_>, facts: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        match (self.role, say) {
            // The Stream applet knows connected, start, media and stop (Exotel, "Working with the Stream applet").
            (_, Say::Clear | Say::Mark(_) | Say::Heard(_) | Say::Dtmf(_)) if self.is_uplink() => return Ok(false),
            (Role::Agent, Say::Clear) => self.write_event("clear", None::<()>, facts, out)?,
            (Role::Agent, Say::Mark(name)) | (Role::Vendor, Say::Heard(name)) => {
                self.write_event("mark", Some(Mark { name: Name(cut_name(name)) }), facts, out)?;
            }
            (Role::Vendor, Say::Dtmf(digit)) => {
                let mut utf8 = [0; 4];
                let digit = &*char::from(digit).encode_utf8(&mut utf8);
                self.write_event("dtmf", Some(Dtmf { digit, duration: "100" }), facts, out)?;
            }
            (Role::Vendor, Say::Stop(reason)) => {
                self.write_event("stop", Some(Stop { keys: self.keys(), facts, reason }), facts, out)?;
            }
            (Role::Agent, Say::HangUp | Say::Heard(_) | Say::Dtmf(_) | Say::Stop(_))
            | (Role::Vendor, Say::Clear | Say::Mark(_) | Say::HangUp)
            | (_, Say::Cleared { .. } | Say::BargeIn) => return Ok(false),
            (_, Say::Wish(_) | Say::Held(_) | Say::Transfer(_)) => {
                return Words::of(self.keys().stream_sid, self.stream_sid(facts)).write(self.role, say, out);
            }
        }
        Ok(true)
    }

    fn handle_text<'m>(&mut self, text: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        let (mut event, mut media, mut start, mut mark, mut dtmf) = (None, None, None, None, None);
        let mut flat = Flat::default();
        let mut members = Members::object(text)?;
        while let Some((key, value)) = members.next()? {
            if key.is(b"media") {
                media = value.object();
            } else if key.is_either(b"event", b"Event") {
                event = matches!(value, Value::Str(word) if !word.is_empty()).then_some(value);
            } else if key.is(b"start") {
                start = value.object();
            } else if key.is(b"mark") {
                mark = value.object();
            } else if key.is(b"dtmf") {
                dtmf = value.object();
            } else {
                flat.take(&key, value);
            }
        }

        let says = |word: &[u8]| event.is_some_and(|event| event.is(word));
        // A sender without `event` is understood by what it carries.
        if says(b"media") || event.is_none() {
            if event.is_none() {
                flat.payload = None; // a lone member of that name is not enough
            }
            if let Some(members) = media {
                flat.take_all(members)?;
            }
            let Some(payload) = flat.payload else {
                let event = if event.is_none() { Event::None } else { Event::Unknown };
                return Ok(Incoming { audio: Audio::None, event });
            };
            let Value::Str(bytes) = payload else { return Err(Malformed::Base64) };
            // An agent's own speech, mixed back; what an agent calls its track does not matter.
            let unheard = match self.role {
                Role::Vendor => self.is_uplink(),
                Role::Agent => flat.track.is_some_and(|track| track.is(b"outbound")) || !self.playable,
            };
            let audio = if unheard { Audio::Skip } else { Audio::Take { format: self.expected(), bytes } };
            return Ok(Incoming { audio, event: Event::None });
        }

        let event = if self.is_uplink() && (says(b"mark") || says(b"clear") || says(b"dtmf")) {
            Event::Unknown
        } else if says(b"mark") {
            if let Some(members) = mark {
                flat.take_all(members)?;
            }
            match (self.role, flat.name) {
                (Role::Vendor, Some(name)) => Event::Mark(name),
                (Role::Agent, Some(name)) => Event::Heard(name),
                (Role::Vendor | Role::Agent, None) => Event::Unknown,
            }
        } else if says(b"clear") {
            Event::Clear
        } else if says(b"stop") {
            match self.role {
                Role::Vendor => Event::HangUp,
                Role::Agent => Event::Stop,
            }
        } else if self.role == Role::Agent && says(b"start") {
            self.on_start(text, start)?;
            Event::Start
        } else if self.role == Role::Agent && says(b"dtmf") {
            if let Some(members) = dtmf {
                flat.take_all(members)?;
            }
            flat.digit.map_or(Event::Unknown, Event::Dtmf)
        } else if says(b"connected") {
            if self.role == Role::Agent {
                self.on_connected(text)?;
            }
            Event::None
        } else if self.role == Role::Agent && says(b"silence") {
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

/// What stands in the nested object of its event, or flat beside `event`.
#[derive(Default)]
struct Flat<'m> {
    payload: Option<Value<'m>>,
    track: Option<Value<'m>>,
    name: Option<&'m str>,
    digit: Option<u8>,
}

impl<'m> Flat<'m> {
    fn take(&mut self, key: &Key<'m>, value: Value<'m>) {
        if key.is_either(b"payload", b"Payload") {
            self.payload = Some(value);
        } else if key.is(b"track") {
            self.track = Some(value);
        } else if key.is(b"name") {
            self.name = name(&value);
        } else if key.is(b"digit") {
            self.digit = digit(&value);
        }
    }

    fn take_all(&mut self, mut members: Members<'m>) -> Result<(), Malformed> {
        while let Some((key, value)) = members.next()? {
            self.take(&key, value);
        }
        Ok(())
    }
}

/// Reads what an object tells about a call; returns its media format, if it has one.
fn read_start<'m>(mut members: Members<'m>, facts: &mut Facts) -> Result<Option<Members<'m>>, Malformed> {
    let mut format = None;
    while let Some((key, value)) = members.next()? {
        let slot: &mut Text = if key.is_either(b"stream_sid", b"streamSid") {
            &mut facts.stream_sid
        } else if key.is_either(b"call_sid", b"callSid") {
            &mut facts.call_sid
        } else if key.is_either(b"account_sid", b"accountSid") {
            &mut facts.account
        } else if key.is(b"from") {
            &mut facts.from
        } else if key.is(b"to") {
            &mut facts.to
        } else {
            if key.is_either(b"media_format", b"mediaFormat") {
                format = value.object();
            } else if key.is_either(b"custom_parameters", b"customParameters")
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

/// The spelling of the keys that have two.
struct Keys {
    sequence_number: &'static str,
    stream_sid: &'static str,
    call_sid: &'static str,
    account_sid: &'static str,
    custom_parameters: &'static str,
    media_format: &'static str,
    sample_rate: &'static str,
    bit_rate: &'static str,
}

static SNAKE: Keys = Keys {
    sequence_number: "sequence_number",
    stream_sid: "stream_sid",
    call_sid: "call_sid",
    account_sid: "account_sid",
    custom_parameters: "custom_parameters",
    media_format: "media_format",
    sample_rate: "sample_rate",
    bit_rate: "bit_rate",
};

static CAMEL: Keys = Keys {
    sequence_number: "sequenceNumber",
    stream_sid: "streamSid",
    call_sid: "callSid",
    account_sid: "accountSid",
    custom_parameters: "customParameters",
    media_format: "mediaFormat",
    sample_rate: "sampleRate",
    bit_rate: "bitRate",
};

/// What every message but `connected` and `media` looks like from outside.
struct Envelope<'a, B> {
    event: &'static str,
    sequence: Option<(&'static str, Counter)>,
    stream_sid: (&'static str, &'a str),
    /// The key under which the stream's id is said a second time.
    also: Option<&'static str>,
    /// What the event is about, in an object of the event's own name.
    body: Option<B>,
}

impl<B: Serialize> Serialize for Envelope<'_, B> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("", 5)?;
        fields.serialize_field("event", self.event)?;
        if let Some((key, counter)) = &self.sequence {
            fields.serialize_field(key, counter)?;
        }
        fields.serialize_field(self.stream_sid.0, self.stream_sid.1)?;
        if let Some(key) = self.also {
            fields.serialize_field(key, self.stream_sid.1)?;
        }
        if let Some(body) = &self.body {
            fields.serialize_field(self.event, body)?;
        }
        fields.end()
    }
}

struct Counter {
    value: u64,
    spelled: Numbers,
}

impl Serialize for Counter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.spelled {
            Numbers::Strings => serializer.collect_str(&self.value),
            Numbers::Numbers => serializer.serialize_u64(self.value),
        }
    }
}

struct Start<'a> {
    keys: &'static Keys,
    facts: &'a Facts,
    rate: Rate,
    parameters: &'a Parameters,
}

impl Serialize for Start<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("", 7)?;
        fields.serialize_field(self.keys.stream_sid, self.facts.stream_sid.as_str())?;
        fields.serialize_field(self.keys.call_sid, self.facts.call_sid.as_str())?;
        fields.serialize_field(self.keys.account_sid, self.facts.account.as_str())?;
        fields.serialize_field("from", self.facts.from.as_str())?;
        fields.serialize_field("to", self.facts.to.as_str())?;
        fields.serialize_field(self.keys.custom_parameters, self.parameters)?;
        fields.serialize_field(self.keys.media_format, &MediaFormat { keys: self.keys, rate: self.rate })?;
        fields.end()
    }
}

struct MediaFormat {
    keys: &'static Keys,
    rate: Rate,
}

impl Serialize for MediaFormat {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rate = Counter { value: u64::from(self.rate.hz()), spelled: Numbers::Strings };
        let mut fields = serializer.serialize_struct("", 3)?;
        fields.serialize_field("encoding", "raw")?;
        fields.serialize_field(self.keys.sample_rate, &rate)?;
        fields.serialize_field(self.keys.bit_rate, "16")?;
        fields.end()
    }
}

struct Stop<'a> {
    keys: &'static Keys,
    facts: &'a Facts,
    reason: StopReason,
}

impl Serialize for Stop<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let reason = match self.reason {
            StopReason::CallerHungUp => "callended",
            StopReason::Ended => "stopped",
        };
        let mut fields = serializer.serialize_struct("", 3)?;
        fields.serialize_field(self.keys.call_sid, self.facts.call_sid.as_str())?;
        fields.serialize_field(self.keys.account_sid, self.facts.account.as_str())?;
        fields.serialize_field("reason", reason)?;
        fields.end()
    }
}

#[derive(Serialize)]
struct Connected {
    event: &'static str,
}

#[derive(Serialize)]
struct Mark<'a> {
    name: Name<'a>,
}

#[derive(Serialize)]
struct Dtmf<'a> {
    digit: &'a str,
    /// Milliseconds.
    duration: &'static str,
}

/// The most samples in a message, whatever the rate: 100 ms at 24 kHz are 6.4 kB of base64.
const MAX_CHUNK: usize = 2_400;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]
mod tests {
    use super::*;
    use crate::dialect::{
        MAX_MARK,
        ozonetel::tests::{STAMP, audio, event, facts, in_pieces, noise, opening, said, samples, written},
    };

    /// A start as the protocol page of Exotel's developer site has it: counters and rates are strings.
    const START: &str = concat!(
        r#"{"event":"start","sequence_number":"1","stream_sid":"s91","start":{"stream_sid":"s91","call_sid":"k5","#,
        r#""account_sid":"acme","from":"5550100011","to":"5550100022","custom_parameters":{"desk":"night"},"#,
        r#""media_format":{"encoding":"raw","sample_rate":"16000","bit_rate":"128kbps"}}}"#
    );

    /// The same as the older applet page has it, counters as numbers, and with the camel case of the vendor's own
    /// sample servers.
    const CAMEL_START: &str = concat!(
        r#"{"event":"start","sequenceNumber":1,"streamSid":"s91","start":{"streamSid":"s91","callSid":"k5","#,
        r#""accountSid":"acme","from":5550100011,"to":"5550100022","customParameters":"","#,
        r#""mediaFormat":{"encoding":"audio/x-raw","sampleRate":16000,"bitRate":16}}}"#
    );

    /// What one of the vendor's sample servers answers with: both spellings, counters inside of `media`.
    const ANSWER: &str = concat!(
        r#"{"event":"media","streamSid":"s91","media":{"payload":"AQD//wCA/38=","timestamp":"100","#,
        r#""sequenceNumber":"2","chunk":"2"}}"#
    );

    fn open(role: Role, rate: Rate, options: &[(&str, OptionValue<'_>)]) -> Exotel {
        let mut set = Options::default();
        for &(key, value) in options {
            set.set(key, value).unwrap();
        }
        Exotel::new(role, rate, &set)
    }

    fn vendor() -> Exotel {
        open(Role::Vendor, Rate::Hz8000, &[])
    }

    fn agent() -> Exotel {
        open(Role::Agent, Rate::Hz8000, &[])
    }

    fn take(dialect: &mut Exotel, text: &str) -> Option<Vec<i16>> {
        let incoming = dialect.handle_text(text.as_bytes()).unwrap();
        assert_eq!(incoming.event, Event::None);
        samples(incoming.audio)
    }

    // As vendor.

    #[test]
    fn parameters_of_the_url_reappear_in_the_start() {
        let mut options = Options::default();
        assert!(options.add_parameter("lane", "sa\"les"));
        assert!(options.add_parameter("desk", "night"));
        assert!(!options.add_parameter("long", &"x".repeat(250)), "256 characters together");
        assert!(options.add_parameter("third", ""));
        assert!(!options.add_parameter("fourth", ""));
        let mut vendor = Exotel::new(Role::Vendor, Rate::Hz8000, &options);
        let mut space = [0; 4096];
        let mut message = Message::new(&mut space);
        vendor.write_opening(1, &Facts::default(), Stamp::default(), &mut message).unwrap();
        let text = str::from_utf8(message.bytes()).unwrap();
        let expected = r#""custom_parameters":{"lane":"sa\"les","desk":"night","third":""}"#;
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn a_vendor_opens_with_connected_and_start() {
        let mut vendor = vendor();
        assert_eq!(opening(&mut vendor, 0).unwrap(), r#"{"event":"connected"}"#);
        assert_eq!(
            opening(&mut vendor, 1).unwrap(),
            concat!(
                r#"{"event":"start","sequence_number":"1","stream_sid":"abcdefgh2345","start":{"#,
                r#""stream_sid":"abcdefgh2345","call_sid":"0f8b2c6e-51d4-4f0a-9e37-62a1c4d97b80","#,
                r#""account_sid":"harbour","from":"+15550100011","to":"+15550100022","custom_parameters":{},"#,
                r#""media_format":{"encoding":"raw","sample_rate":"8000","bit_rate":"16"}}}"#
            )
        );
        assert_eq!(opening(&mut vendor, 2), None);
    }

    #[test]
    fn what_was_told_of_the_call_goes_before_what_the_url_says_of_all() {
        let mut vendor = vendor();
        assert!(vendor.options.add_parameter("lane", "any") && vendor.options.add_parameter("desk", "night"));
        let mut facts = facts();
        assert!(facts.custom.add("lane", "sales"));
        let (_, text) = written(|out| vendor.write_opening(1, &facts, STAMP, out));
        let expected = r#""custom_parameters":{"lane":"sales","desk":"night"}"#;
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn a_vendor_counts_messages_chunks_and_milliseconds() {
        let mut vendor = vendor();
        opening(&mut vendor, 0).unwrap();
        opening(&mut vendor, 1).unwrap();
        let head = r#"{"event":"media","sequence_number""#;
        let sid = r#""stream_sid":"abcdefgh2345""#;
        assert_eq!(
            audio(&mut vendor, &[1, -1]),
            format!(r#"{head}:"2",{sid},"media":{{"chunk":"1","timestamp":"0","payload":"AQD//w=="}}}}"#)
        );
        let second = audio(&mut vendor, &[0; 158]);
        assert!(second.starts_with(&format!(r#"{head}:"3",{sid},"media":{{"chunk":"2","timestamp":"0","#)), "{second}");
        assert_eq!(
            said(&mut vendor, Say::Dtmf(b'#')).unwrap(),
            format!(r##"{{"event":"dtmf","sequence_number":"4",{sid},"dtmf":{{"digit":"#","duration":"100"}}}}"##)
        );
        let third = audio(&mut vendor, &[0; 160]);
        assert!(third.starts_with(&format!(r#"{head}:"5",{sid},"media":{{"chunk":"3","timestamp":"20","#)), "{third}");
        assert_eq!(
            said(&mut vendor, Say::Heard("m1")).unwrap(),
            format!(r#"{{"event":"mark","sequence_number":"6",{sid},"mark":{{"name":"m1"}}}}"#)
        );
        assert_eq!(
            said(&mut vendor, Say::Stop(StopReason::CallerHungUp)).unwrap(),
            concat!(
                r#"{"event":"stop","sequence_number":"7","stream_sid":"abcdefgh2345","stop":{"#,
                r#""call_sid":"0f8b2c6e-51d4-4f0a-9e37-62a1c4d97b80","account_sid":"harbour","reason":"callended"}}"#
            )
        );
        let stop = said(&mut vendor, Say::Stop(StopReason::Ended)).unwrap();
        assert!(stop.ends_with(r#""reason":"stopped"}}"#), "{stop}");
    }

    #[test]
    fn a_message_that_did_not_fit_is_not_counted() {
        let mut vendor = vendor();
        let mut space = [0; 120];
        assert_eq!(vendor.write_audio(&[0; 160], &facts(), STAMP, &mut Message::new(&mut space)), Err(Full));
        assert_eq!(
            vendor.write(Say::Stop(StopReason::Ended), &facts(), STAMP, &mut Message::new(&mut space)),
            Err(Full)
        );
        let text = audio(&mut vendor, &[0; 160]);
        assert!(text.contains(r#""sequence_number":"1""#) && text.contains(r#""chunk":"1","timestamp":"0""#), "{text}");
    }

    #[test]
    fn a_vendor_never_mixes_snake_and_camel() {
        for (style, no) in [("snake", "Sid"), ("camel", "_")] {
            let mut vendor = open(Role::Vendor, Rate::Hz8000, &[("key-style", OptionValue::Str(style))]);
            for text in [
                opening(&mut vendor, 0).unwrap(),
                opening(&mut vendor, 1).unwrap(),
                audio(&mut vendor, &[0; 160]),
                said(&mut vendor, Say::Heard("m")).unwrap(),
                said(&mut vendor, Say::Dtmf(b'1')).unwrap(),
                said(&mut vendor, Say::Stop(StopReason::Ended)).unwrap(),
            ] {
                assert!(!text.contains(no), "{text}");
            }
        }
    }

    #[test]
    fn camel_starts_have_what_the_one_server_that_demands_them_looks_for() {
        let mut vendor = open(Role::Vendor, Rate::Hz24000, &[("key-style", OptionValue::Str("camel"))]);
        let start = opening(&mut vendor, 1).unwrap();
        assert!(start.starts_with(r#"{"event":"start","sequenceNumber":"1","streamSid":"abcdefgh2345","#), "{start}");
        assert!(start.contains(r#""start":{"streamSid":"abcdefgh2345","callSid":"0f8b2c6e"#), "{start}");
        assert!(
            start.ends_with(r#""mediaFormat":{"encoding":"raw","sampleRate":"24000","bitRate":"16"}}}"#),
            "{start}"
        );
    }

    #[test]
    fn counters_can_be_numbers() {
        let mut vendor = open(Role::Vendor, Rate::Hz8000, &[("numbers", OptionValue::Str("numbers"))]);
        let start = opening(&mut vendor, 1).unwrap();
        assert!(start.starts_with(r#"{"event":"start","sequence_number":1,"#), "{start}");
        let media = audio(&mut vendor, &[0; 2]);
        assert!(media.contains(r#""sequence_number":2,"#), "{media}");
        assert!(media.contains(r#""media":{"chunk":1,"timestamp":"0","payload":"AAAAAA=="}"#), "{media}");
    }

    #[test]
    fn an_agents_answer_is_understood_however_it_is_spelled() {
        let heard = [1, -1, i16::MIN, i16::MAX];
        let payload = "AQD//wCA/38=";
        for text in [
            ANSWER.to_owned(),
            // The documents' own shape.
            format!(r#"{{"event":"media","stream_sid":"s91","media":{{"payload":"{payload}"}}}}"#),
            format!(r#"{{"Event":"media","streamSid":"s91","sequenceNumber":7,"media":{{"Payload":"{payload}"}}}}"#),
            format!(r#"{{"event":"media","payload":"{payload}"}}"#),
            format!(r#"{{"stream_sid":"s91","media":{{"payload":"{payload}","chunk":1}}}}"#),
            format!(r#"{{"media":{{"payload":"{payload}","track":"outbound"}},"event":"media","x":[{{"y":"]}}"}}]}}"#),
            // Padding is optional and some encoders break lines.
            r#"{"event":"media","media":{"payload":"AQD\/\/wCA\n\/38"}}"#.to_owned(),
            "\u{feff}{ \"event\" : \"m\\u0065dia\" , \"m\\u0065dia\" : { \"payload\" : \"AQD//wCA/38=\" } }".to_owned(),
        ] {
            assert_eq!(take(&mut vendor(), &text).unwrap(), heard, "{text}");
        }
    }

    #[test]
    fn an_odd_byte_at_the_end_of_a_payload_is_dropped() {
        assert_eq!(take(&mut vendor(), r#"{"event":"media","media":{"payload":"AQAC"}}"#).unwrap(), [1]);
        assert_eq!(take(&mut vendor(), r#"{"event":"media","media":{"payload":""}}"#).unwrap(), [0_i16; 0]);
    }

    #[test]
    fn a_vendor_obeys_clear_and_marks() {
        let mut vendor = vendor();
        assert_eq!(
            event(&mut vendor, r#"{"event":"mark","stream_sid":"s91","mark":{"name":"m1"}}"#),
            Event::Mark("m1")
        );
        assert_eq!(event(&mut vendor, r#"{"event":"mark","streamSid":"s91","mark":{"name":12}}"#), Event::Mark("12"));
        assert_eq!(event(&mut vendor, r#"{"event":"mark","name":"flat"}"#), Event::Mark("flat"));
        assert_eq!(event(&mut vendor, r#"{"event":"mark"}"#), Event::Unknown);
        assert_eq!(event(&mut vendor, r#"{"event":"clear","stream_sid":"s91"}"#), Event::Clear);
        assert_eq!(event(&mut vendor, r#"{"event":"stop"}"#), Event::HangUp);
        assert_eq!(vendor.marks_on_clear(), MarksOnClear::Tell);
    }

    #[test]
    fn greetings_are_nothing_and_unknown_events_are_counted() {
        let mut vendor = vendor();
        assert_eq!(event(&mut vendor, r#"{"event":"connected","protocol":"x","version":"1.0.0"}"#), Event::None);
        assert_eq!(event(&mut vendor, r#"{"type":"connected"}"#), Event::None);
        assert_eq!(event(&mut vendor, r#"{"payload":"AAAA"}"#), Event::None);
        assert_eq!(event(&mut vendor, r#"{"event":"transcript","media":{"payload":"AAAA"}}"#), Event::Unknown);
        assert_eq!(event(&mut vendor, r#"{"event":"media","stream_sid":"s91"}"#), Event::Unknown);
        assert_eq!(event(&mut vendor, r#"{"event":"audio","payload":"AAAA"}"#), Event::Unknown);
        for only_a_vendor_says in [START, r#"{"event":"dtmf","digit":"5"}"#, r#"{"event":"silence"}"#] {
            assert_eq!(event(&mut vendor, only_a_vendor_says), Event::Unknown);
        }
    }

    #[test]
    fn what_is_not_json_or_not_base64_is_an_error() {
        let mut vendor = vendor();
        for end in 0..ANSWER.len() {
            assert!(vendor.handle_text(&ANSWER.as_bytes()[..end]).is_err(), "{end}");
        }
        let numbers = r#"{"event":"media","media":{"payload":[1,2]}}"#;
        assert_eq!(vendor.handle_text(numbers.as_bytes()), Err(Malformed::Base64));
        assert_eq!(vendor.handle_binary(b"\0\0"), Err(Malformed::Binary));
        assert!(!vendor.binary_is_audio());
    }

    // As agent.

    #[test]
    fn a_start_tells_who_calls_and_at_which_rate_in_either_spelling() {
        for start in [START, CAMEL_START] {
            let mut agent = agent();
            assert_eq!(event(&mut agent, r#"{"event":"connected"}"#), Event::None);
            assert_eq!(agent.facts(), None);
            assert_eq!(event(&mut agent, start), Event::Start);
            let facts = agent.facts().unwrap();
            assert_eq!((facts.stream_sid.as_str(), facts.call_sid.as_str()), ("s91", "k5"));
            assert_eq!(facts.account, "acme");
            assert_eq!((facts.from.as_str(), facts.to.as_str()), ("5550100011", "5550100022"));
            assert_eq!(agent.rate(), Rate::Hz16000);
            let expected = Format { carrier: Carrier::Base64, coding: Coding::Pcm16Le, rate: Rate::Hz16000 };
            assert_eq!(agent.expected(), expected);
        }
    }

    #[test]
    fn what_the_urls_parameters_say_reaches_the_agent() {
        let mut agent = agent();
        event(&mut agent, START);
        assert!(agent.facts().unwrap().custom.iter().eq([("desk", "night")]));
        // One framework is known to be sent an empty string where there are none.
        event(&mut agent, CAMEL_START);
    }

    /// The page on the extension of the Stream applet has the call's facts in `connected`.
    #[test]
    fn a_connected_may_tell_of_the_call_before_its_start() {
        let mut agent = agent();
        let connected = concat!(
            r#"{"event":"connected","stream_sid":"s91","call_sid":"k5","from":"5550100011","#,
            r#""media_format":{"encoding":"audio/x-mulaw;rate=8000"}}"#
        );
        assert_eq!(event(&mut agent, connected), Event::None);
        assert_eq!(agent.expected().coding, Coding::Mulaw);
        assert_eq!(
            event(&mut agent, r#"{"event":"start","stream_sid":"s92","start":{"to":"5550100022"}}"#),
            Event::Start
        );
        let facts = agent.facts().unwrap();
        assert_eq!((facts.stream_sid.as_str(), facts.call_sid.as_str()), ("s92", "k5"));
        assert_eq!((facts.from.as_str(), facts.to.as_str()), ("5550100011", "5550100022"));
        assert_eq!(agent.expected().coding, Coding::Mulaw);
    }

    #[test]
    fn what_a_start_leaves_out_is_as_it_was() {
        let mut agent = open(Role::Agent, Rate::Hz24000, &[]);
        assert_eq!(
            event(&mut agent, r#"{"event":"start","stream_sid":"top","start":{"call_sid":"k5"}}"#),
            Event::Start
        );
        assert_eq!(agent.facts().unwrap().stream_sid, "top");
        assert_eq!(agent.facts().unwrap().call_sid, "k5");
        assert_eq!(agent.rate(), Rate::Hz24000);
    }

    #[test]
    fn the_declared_format_is_obeyed() {
        for (format, coding, hz) in [
            (r#"{"encoding":"raw/slin","sample_rate":"8000Hz"}"#, Coding::Pcm16Le, 8_000),
            (r#"{"encoding":"pcm16","sample_rate":24000.0}"#, Coding::Pcm16Le, 24_000),
            (r#"{"encoding":"audio/x-mulaw","sample_rate":"8000"}"#, Coding::Mulaw, 8_000),
            (r#"{"encoding":"audio/x-mulaw;rate=8000"}"#, Coding::Mulaw, 8_000),
            (r#"{"encoding":"audio/L16;rate=16000"}"#, Coding::Pcm16Le, 16_000),
            (r#"{"encoding":"PCMU"}"#, Coding::Mulaw, 16_000),
            (r#"{"encoding":"PCMA","sampleRate":"fast"}"#, Coding::Alaw, 16_000),
            (r#"{"sample_rate":null}"#, Coding::Pcm16Le, 16_000),
        ] {
            let mut agent = open(Role::Agent, Rate::Hz16000, &[]);
            event(&mut agent, &format!(r#"{{"event":"start","start":{{"media_format":{format}}}}}"#));
            assert_eq!((agent.expected().coding, agent.rate().hz()), (coding, hz), "{format}");
        }
    }

    #[test]
    fn a_mu_law_stream_is_mu_law_both_ways() {
        let mut agent = agent();
        event(&mut agent, r#"{"event":"start","start":{"media_format":{"encoding":"mulaw","sample_rate":"8000"}}}"#);
        // ITU-T G.711: 0xff is zero, 0x80 and 0x00 are the loudest.
        assert_eq!(take(&mut agent, r#"{"event":"media","media":{"payload":"/4AA"}}"#).unwrap(), [0, 32_124, -32_124]);
        assert!(audio(&mut agent, &[0, 32_124, -32_124]).contains(r#""payload":"/4AA""#));
    }

    #[test]
    fn audio_at_an_impossible_rate_is_not_played() {
        let mut agent = agent();
        event(&mut agent, r#"{"event":"start","start":{"media_format":{"sample_rate":"44100"}}}"#);
        assert_eq!(agent.handle_text(ANSWER.as_bytes()).unwrap().audio, Audio::Skip);
        event(&mut agent, START);
        assert_eq!(take(&mut agent, ANSWER).unwrap().len(), 4);
    }

    #[test]
    fn an_agent_does_not_hear_itself() {
        let track = |name: &str| format!(r#"{{"event":"media","media":{{"track":"{name}","payload":"AQA="}}}}"#);
        assert_eq!(agent().handle_text(track("outbound").as_bytes()).unwrap().audio, Audio::Skip);
        assert_eq!(take(&mut agent(), &track("inbound")).unwrap(), [1]);
    }

    #[test]
    fn digits_come_nested_or_flat() {
        for (text, digit) in [
            (r##"{"event":"dtmf","stream_sid":"s91","dtmf":{"digit":"#","duration":"100"}}"##, Event::Dtmf(b'#')),
            // The page on the extension shows it flat.
            (r#"{"event":"dtmf","digit":"5"}"#, Event::Dtmf(b'5')),
            (r#"{"event":"dtmf","dtmf":{"digit":7}}"#, Event::Dtmf(b'7')),
            (r#"{"event":"dtmf","dtmf":{"digit":"a"}}"#, Event::Dtmf(b'A')),
            (r#"{"event":"dtmf","dtmf":{"digit":"12"}}"#, Event::Unknown),
            (r#"{"event":"dtmf","dtmf":{"digit":"x"}}"#, Event::Unknown),
            (r#"{"event":"dtmf"}"#, Event::Unknown),
        ] {
            assert_eq!(event(&mut agent(), text), digit, "{text}");
        }
    }

    #[test]
    fn an_agent_hears_marks_clears_and_the_end() {
        let mut agent = agent();
        assert_eq!(
            event(&mut agent, r#"{"event":"mark","stream_sid":"s91","mark":{"name":"m1"}}"#),
            Event::Heard("m1")
        );
        assert_eq!(event(&mut agent, r#"{"event":"clear","stream_sid":"s91"}"#), Event::Clear);
        assert_eq!(event(&mut agent, r#"{"event":"silence","duration":"2000"}"#), Event::None);
        let stop = r#"{"event":"stop","sequence_number":903,"stream_sid":"s91","stop":{"reason":"stopped"}}"#;
        assert_eq!(event(&mut agent, stop), Event::Stop);
    }

    #[test]
    fn an_agent_answers_with_every_key_that_a_vendor_may_want() {
        let mut agent = agent();
        assert_eq!(opening(&mut agent, 0), None);
        event(&mut agent, START);
        let ids = r#""stream_sid":"s91","streamSid":"s91""#;
        assert_eq!(
            audio(&mut agent, &[1, -1]),
            format!(
                concat!(
                    r#"{{"event":"media","sequence_number":"1",{},"media":{{"chunk":"1","timestamp":"0","#,
                    r#""sequenceNumber":"1","payload":"AQD//w=="}}}}"#
                ),
                ids
            )
        );
        assert_eq!(
            said(&mut agent, Say::Mark("m1")).unwrap(),
            format!(r#"{{"event":"mark","sequence_number":"2",{ids},"mark":{{"name":"m1"}}}}"#)
        );
        assert_eq!(
            said(&mut agent, Say::Clear).unwrap(),
            format!(r#"{{"event":"clear","sequence_number":"3",{ids}}}"#)
        );
        for say in [Say::HangUp, Say::Heard("m"), Say::Dtmf(b'1'), Say::Stop(StopReason::Ended)] {
            assert_eq!(said(&mut agent, say), None, "{say:?}");
        }
    }

    #[test]
    fn an_agent_can_answer_as_the_documents_show() {
        let mut agent = open(Role::Agent, Rate::Hz8000, &[("agent-style", OptionValue::Str("minimal"))]);
        event(&mut agent, START);
        assert_eq!(
            audio(&mut agent, &[1, -1]),
            r#"{"event":"media","stream_sid":"s91","media":{"payload":"AQD//w=="}}"#
        );
        assert_eq!(
            said(&mut agent, Say::Mark("m1")).unwrap(),
            r#"{"event":"mark","stream_sid":"s91","mark":{"name":"m1"}}"#
        );
        assert_eq!(said(&mut agent, Say::Clear).unwrap(), r#"{"event":"clear","stream_sid":"s91"}"#);
    }

    #[test]
    fn chunks_are_multiples_of_320_bytes_at_every_rate() {
        let chunk = |role, rate, options: &[_]| open(role, rate, options).chunk() * 2;
        assert_eq!(chunk(Role::Agent, Rate::Hz8000, &[]), 3_200);
        assert_eq!(chunk(Role::Agent, Rate::Hz16000, &[]), 3_200);
        assert_eq!(chunk(Role::Agent, Rate::Hz24000, &[]), 4_800);
        assert_eq!(chunk(Role::Agent, Rate::Hz24000, &[("chunk-bytes", OptionValue::Int(3_200))]), 3_200);
        assert_eq!(chunk(Role::Vendor, Rate::Hz8000, &[]), 320);
        assert_eq!(chunk(Role::Vendor, Rate::Hz8000, &[("chunk-ms", OptionValue::Int(100))]), 1_600);
        for rate in Rate::ALL {
            for role in [Role::Vendor, Role::Agent] {
                let longest = [("chunk-ms", OptionValue::Int(100)), ("chunk-bytes", OptionValue::Int(4_800))];
                let bytes = chunk(role, rate, &longest);
                assert!(bytes % 320 == 0 && bytes <= 4_800, "{bytes}");
            }
        }
        assert_eq!((agent().lead_ms(), vendor().lead_ms()), (400, 60));
    }

    #[test]
    fn the_longest_message_fits_eight_kilobytes() {
        let mut agent = open(Role::Agent, Rate::Hz24000, &[]);
        let loudest = vec![i16::MIN; agent.chunk()];
        let text = audio(&mut agent, &loudest);
        assert!(text.len() < 8_192 - 2 * 128, "{}", text.len());
    }

    // Both.

    #[test]
    fn two_sides_understand_each_other_for_a_whole_call() {
        for style in ["snake", "camel"] {
            for numbers in ["strings", "numbers"] {
                for answers in ["superset", "minimal"] {
                    let options = [
                        ("key-style", OptionValue::Str(style)),
                        ("numbers", OptionValue::Str(numbers)),
                        ("agent-style", OptionValue::Str(answers)),
                    ];
                    whole_call(open(Role::Vendor, Rate::Hz16000, &options), open(Role::Agent, Rate::Hz8000, &options));
                }
            }
        }
    }

    fn whole_call(mut vendor: Exotel, mut agent: Exotel) {
        assert_eq!(event(&mut agent, &opening(&mut vendor, 0).unwrap()), Event::None);
        assert_eq!(event(&mut agent, &opening(&mut vendor, 1).unwrap()), Event::Start);
        assert_eq!(agent.rate(), Rate::Hz16000);
        let told = agent.facts().unwrap();
        assert_eq!((&told.stream_sid, &told.call_sid), (&facts().stream_sid, &facts().call_sid));
        assert_eq!((&told.account, &told.from, &told.to), (&facts().account, &facts().from, &facts().to));

        let caller = noise(1_600);
        let mut heard = Vec::new();
        for chunk in caller.chunks(vendor.chunk()) {
            heard.extend(take(&mut agent, &audio(&mut vendor, chunk)).unwrap());
        }
        assert_eq!(heard, caller);
        assert_eq!(event(&mut agent, &said(&mut vendor, Say::Dtmf(b'*')).unwrap()), Event::Dtmf(b'*'));

        assert_eq!(take(&mut vendor, &audio(&mut agent, &caller)).unwrap(), caller);
        let mark = said(&mut agent, Say::Mark("greeting")).unwrap();
        let Event::Mark(name) = event(&mut vendor, &mark) else { panic!("no mark") };
        let heard = said(&mut vendor, Say::Heard(name)).unwrap();
        assert_eq!(event(&mut agent, &heard), Event::Heard("greeting"));
        assert_eq!(event(&mut vendor, &said(&mut agent, Say::Clear).unwrap()), Event::Clear);
        let stop = said(&mut vendor, Say::Stop(StopReason::CallerHungUp)).unwrap();
        assert_eq!(event(&mut agent, &stop), Event::Stop);
    }

    #[test]
    fn the_stream_applet_only_listens() {
        let uplink = [("direction", OptionValue::Str("uplink"))];
        let mut vendor = open(Role::Vendor, Rate::Hz8000, &uplink);
        let mut agent = open(Role::Agent, Rate::Hz8000, &uplink);
        assert_eq!((vendor.direction(), agent.direction()), (Direction::Uplink, Direction::Uplink));
        assert_eq!(event(&mut agent, &opening(&mut vendor, 1).unwrap()), Event::Start);
        assert_eq!(take(&mut agent, &audio(&mut vendor, &[1, -1])).unwrap(), [1, -1]);
        assert_eq!(audio(&mut agent, &[1, -1]), "");
        for say in [Say::Clear, Say::Mark("m")] {
            assert_eq!(said(&mut agent, say), None, "{say:?}");
        }
        for say in [Say::Heard("m"), Say::Dtmf(b'1')] {
            assert_eq!(said(&mut vendor, say), None, "{say:?}");
        }
        assert_eq!(vendor.handle_text(ANSWER.as_bytes()).unwrap().audio, Audio::Skip);
        for text in [r#"{"event":"clear"}"#, r#"{"event":"mark","mark":{"name":"m1"}}"#] {
            assert_eq!(event(&mut vendor, text), Event::Unknown, "{text}");
        }
        let stop = said(&mut vendor, Say::Stop(StopReason::Ended)).unwrap();
        assert_eq!(event(&mut agent, &stop), Event::Stop);
    }

    #[test]
    fn samples_arrive_as_they_were_sent_at_every_length_both_ways() {
        for len in [0, 1, 2, 3, 159, 160, 161, 800, 1_600, 2_400] {
            for (from, to) in [(Role::Vendor, Role::Agent), (Role::Agent, Role::Vendor)] {
                let sent = noise(len);
                let text = audio(&mut open(from, Rate::Hz8000, &[]), &sent);
                assert_eq!(take(&mut open(to, Rate::Hz8000, &[]), &text).unwrap(), sent);
            }
        }
    }

    #[test]
    fn a_message_in_single_bytes_says_what_it_says_whole() {
        let sent = noise(500);
        let text = audio(&mut agent(), &sent);
        for len in [1, 2, 7, 100, text.len()] {
            let heard = in_pieces(&mut vendor(), &text, len, |incoming| {
                assert!(matches!(incoming.audio, Audio::Take { bytes: b"", .. }));
            });
            assert_eq!(heard, sent);
        }
        in_pieces(&mut agent(), START, 1, |incoming| assert_eq!(incoming.event, Event::Start));
    }

    #[test]
    fn a_burst_of_100_kb_is_understood_in_pieces() {
        let sent = noise(50_000);
        let mut space = vec![0; 150_000];
        let mut out = Message::new(&mut space);
        agent().write_audio(&sent, &facts(), STAMP, &mut out).unwrap();
        let text = core::str::from_utf8(out.bytes()).unwrap();
        assert!(text.len() > 130_000);
        let heard = in_pieces(&mut vendor(), text, 4_096, |incoming| assert_eq!(incoming.event, Event::None));
        assert_eq!(heard, sent);
    }

    #[test]
    fn ids_that_are_too_long_are_cut_and_odd_ones_survive() {
        let mut agent = agent();
        let long = "9".repeat(5_000);
        event(&mut agent, &format!(r#"{{"event":"start","start":{{"stream_sid":"{long}","from":"a\"b\\\u0007"}}}}"#));
        assert_eq!(agent.facts().unwrap().stream_sid, "9".repeat(128).as_str());
        assert_eq!(agent.facts().unwrap().from, "a\"b\\");
        assert_eq!(event(&mut vendor(), &format!(r#"{{"event":"mark","name":"{long}"}}"#)), {
            Event::Mark("9".repeat(MAX_MARK).leak())
        });

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
            assert!(text.contains(r#""stream_sid":"12\"},{\n\u0001é""#), "{text}");
        }
        assert_eq!(agent.facts().unwrap().stream_sid, "12\"},{é");
    }

    #[test]
    fn options_take_what_they_say_and_nothing_else() {
        let mut options = Options::default();
        for info in Options::KNOWN {
            let value = match info.default.parse() {
                Ok(number) => OptionValue::Int(number),
                Err(_) => OptionValue::Str(info.default.trim_matches('"')),
            };
            assert_eq!(options.set(info.key, value), Ok(()), "{}", info.key);
            assert!(matches!(options.set(info.key, OptionValue::Bool(true)), Err(OptionError::Expected(_))));
            assert!(matches!(options.set(info.key, OptionValue::Str("")), Err(OptionError::Expected(_))));
            assert!(matches!(options.set(info.key, OptionValue::Int(i64::MIN)), Err(OptionError::Expected(_))));
        }
        assert_eq!(options.set("key_style", OptionValue::Str("snake")), Err(OptionError::Unknown));
        for n in [0, 160, 319, 321, 4_801, 5_120, i64::MAX] {
            assert!(options.set("chunk-bytes", OptionValue::Int(n)).is_err(), "{n}");
        }
        assert!(options.set("chunk-ms", OptionValue::Int(30)).is_err());
    }
}
