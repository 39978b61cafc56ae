//! `rtaa`: the ingest of RTAA, which listens to a call and never speaks.
//!
//! JSON says what comes, bare PCM16 comes in binary messages, and the close is the end. The server counts aloud, so that
//! a client knows that it is heard. Where the grammar is broken the server closes with 1011 and says why.
//!
//! ```text
//!  vendor                                                                         agent
//!    | start {interaction_id, tenant_id, sample_rate, encoding: "pcm16"}   ------> |
//!    | <-------------------------------------------  started {interaction_id}      |  within 5 s
//!    | binary: 200 ms of PCM16 ...                                         ------> |
//!    | <-----------------------------------------------------------  ack {seq: 10} |  after every 10 of them
//!    | the close                                                           ------> |
//! ```
//!
//! `seq` begins anew on each connection, so nothing tells a server which audio it has: when a connection is lost, what it
//! was sent and has not acknowledged is not sent again; what the caller says from then on is kept, 5 s at most, and is the
//! first on the next one. The same grammar with all of it in text is
//! [`exostreamkit`](super::exostreamkit); a vendor that opened as one may go on as the other. Source: services/ingest in
//! the repository exkrishan/rtaafin, its server, its tests and its integration guide.

use serde::Serialize;

use crate::{
    dialect::{
        Audio, Carrier, Coding, Dialect, Direction, Event, Facts, Format, Full, Incoming, Malformed, MarksOnClear,
        Message, OptionError, OptionInfo, OptionValue, Role, Say, Stamp,
        json::{Members, Value},
        wish::{self, Words},
    },
    media::Rate,
};

/// What can be chosen about the dialect, in either shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    chunk_ms: usize,
    ack_interval: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { chunk_ms: 200, ack_interval: 10 }
    }
}

impl Options {
    /// The keys of `[trunk.NAME.rtaa]` and `[trunk.NAME.exostreamkit]`.
    pub const KNOWN: &'static [OptionInfo] = &[
        OptionInfo {
            key: "chunk-ms",
            default: "200",
            help: "As vendor: milliseconds of audio in a message, a multiple of 20 up to 200.",
            role: Some(Role::Vendor),
        },
        OptionInfo {
            key: "ack-interval",
            default: "10",
            help: "Messages of audio from one `ack` to the next; as vendor, without one for three times as many the agent is lost.",
            role: None,
        },
    ];

    /// Sets one of [`KNOWN`](Self::KNOWN).
    ///
    /// # Errors
    /// [`OptionError`] says whether the key or the value is at fault.
    pub fn set(&mut self, key: &str, value: OptionValue<'_>) -> Result<(), OptionError> {
        match (key, value) {
            ("chunk-ms", OptionValue::Int(ms @ 20..=200)) if ms % 20 == 0 => self.chunk_ms = ms as usize,
            ("chunk-ms", _) => return Err(OptionError::Expected("a multiple of 20 from 20 to 200")),
            ("ack-interval", OptionValue::Int(n @ 1..=1_000)) => self.ack_interval = n as u64,
            ("ack-interval", _) => return Err(OptionError::Expected("a whole number from 1 to 1000")),
            _ => return Err(OptionError::Unknown),
        }
        Ok(())
    }
}

/// How audio is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// In binary messages.
    Binary,
    /// In base64 in `audio` texts, with an `end` after the last.
    Text,
}

/// One call in RTAA's grammar, in either shape.
#[derive(Debug)]
pub struct Rtaa {
    role: Role,
    shape: Shape,
    options: Options,
    rate: Rate,
    /// Messages of audio: sent as vendor, heard as agent.
    frames: u64,
    /// As vendor: how many there were when the last `ack` came. As agent: how many of them were told of.
    acked: u64,
    stage: Stage,
    /// As vendor: when the answer that is missing was first missed (ms of the stream).
    missing_since: Option<u64>,
    /// As agent: what `start` told.
    facts: Option<Facts>,
}

/// How far the call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// There was no `start`.
    New,
    /// There was, and no `started` yet.
    Asked,
    /// Audio flows.
    Started,
    /// As agent: there was an `end`.
    Ended,
}

impl Rtaa {
    /// A call that has not begun. As agent, the rate is what `start` names, once it came.
    #[must_use]
    pub fn new(role: Role, rate: Rate, options: &Options) -> Self {
        Self::with_shape(Shape::Binary, role, rate, options)
    }

    /// The same in this shape.
    pub(super) fn with_shape(shape: Shape, role: Role, rate: Rate, options: &Options) -> Self {
        Self {
            role,
            shape,
            options: options.clone(),
            rate,
            frames: 0,
            acked: 0,
            stage: Stage::New,
            missing_since: None,
            facts: None,
        }
    }

    fn owes_an_ack(&self) -> bool {
        self.frames - self.acked > 3 * self.options.ack_interval
    }

    /// As agent: one message of audio.
    fn on_audio<'m>(&mut self, carrier: Carrier, bytes: &'m [u8]) -> Incoming<'m> {
        match self.stage {
            Stage::New => Incoming { audio: Audio::None, event: Event::Broken("audio before `start`") },
            Stage::Asked | Stage::Started => {
                self.frames += 1;
                let format = Format { carrier, coding: Coding::Pcm16Le, rate: self.rate };
                Incoming { audio: Audio::Take { format, bytes }, event: Event::None }
            }
            Stage::Ended => Incoming { audio: Audio::Skip, event: Event::None },
        }
    }

    fn on_start(&mut self, start: &Start<'_>) -> Event<'static> {
        if self.stage != Stage::New {
            return Event::Broken("a second `start`");
        }
        let mut facts = Facts::default();
        for (value, slot, missing) in [
            (start.interaction_id, &mut facts.call_sid, "`start` has no interaction_id"),
            (start.tenant_id, &mut facts.account, "`start` has no tenant_id"),
        ] {
            if let Some(value) = value {
                value.text(slot);
            }
            if slot.is_empty() {
                return Event::Broken(missing);
            }
        }
        let Some(rate) = start.sample_rate else { return Event::Broken("`start` has no sample_rate") };
        let Some(rate) = rate.uint().and_then(|hz| u32::try_from(hz).ok()).and_then(Rate::from_hz) else {
            return Event::Broken("sample_rate is none of 8000, 16000, 24000 and 48000");
        };
        match start.encoding {
            Some(encoding) if encoding.is(b"pcm16") => {}
            Some(_) => return Event::Broken("encoding is not pcm16"),
            None => return Event::Broken("`start` has no encoding"),
        }
        self.rate = rate;
        self.facts = Some(facts);
        self.stage = Stage::Asked;
        Event::Start
    }

    /// As agent: a text.
    fn hear<'m>(&mut self, text: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        let mut start = Start::default();
        let (mut event, mut data) = (None, None);
        let mut members = Members::object(text)?;
        while let Some((key, value)) = members.next()? {
            if key.is(b"event") {
                event = Some(value);
            } else if key.is(b"data") {
                data = Some(value);
            } else {
                for (name, slot) in [
                    (b"interaction_id".as_slice(), &mut start.interaction_id),
                    (b"tenant_id", &mut start.tenant_id),
                    (b"sample_rate", &mut start.sample_rate),
                    (b"encoding", &mut start.encoding),
                ] {
                    if key.is(name) {
                        *slot = (value != Value::Null).then_some(value);
                    }
                }
            }
        }
        let says = |word: &[u8]| event.is_some_and(|event| event.is(word));
        if says(b"start") {
            return Ok(Incoming { audio: Audio::None, event: self.on_start(&start) });
        }
        if says(b"audio") {
            self.shape = Shape::Text;
            let Some(Value::Str(bytes)) = data else { return Err(Malformed::Base64) };
            return Ok(self.on_audio(Carrier::Base64, bytes));
        }
        if says(b"end") && self.stage != Stage::New {
            self.shape = Shape::Text;
            self.stage = Stage::Ended;
            return Ok(Incoming { audio: Audio::None, event: Event::Stop });
        }
        Ok(Incoming { audio: Audio::None, event: wish::read(self.role, text) })
    }

    /// As vendor: a text.
    fn read<'m>(&mut self, text: &'m [u8]) -> Result<Event<'m>, Malformed> {
        let mut event = None;
        let mut members = Members::object(text)?;
        while let Some((key, value)) = members.next()? {
            if key.is(b"event") {
                event = Some(value);
            }
        }
        let says = |word: &[u8]| event.is_some_and(|event| event.is(word));
        if says(b"started") {
            self.stage = Stage::Started;
        } else if says(b"ack") {
            // Which it is does not matter: whoever counts is alive.
            self.acked = self.frames;
        } else {
            return Ok(if event.is_none() { Event::None } else { wish::read(self.role, text) });
        }
        self.missing_since = None;
        Ok(Event::None)
    }
}

impl Dialect for Rtaa {
    fn name(&self) -> &'static str {
        match self.shape {
            Shape::Binary => "rtaa",
            Shape::Text => "exostreamkit",
        }
    }

    /// As agent: what `start` named, once it did.
    fn rate(&self) -> Rate {
        self.rate
    }

    fn chunk(&self) -> usize {
        self.rate.samples(self.options.chunk_ms)
    }

    /// Any length will do.
    fn unit(&self) -> usize {
        1
    }

    fn lead_ms(&self) -> u64 {
        60
    }

    fn expected(&self) -> Format {
        let carrier = match self.shape {
            Shape::Binary => Carrier::Raw,
            Shape::Text => Carrier::Base64,
        };
        Format { carrier, coding: Coding::Pcm16Le, rate: self.rate }
    }

    fn carrier(&self, key: &[u8], depth: usize) -> Option<Carrier> {
        (depth == 1 && key == b"data").then_some(Carrier::Base64)
    }

    /// A vendor hears no audio, and some libraries send their JSON so.
    fn binary_is_audio(&self) -> bool {
        self.role == Role::Agent
    }

    fn marks_ride_on_audio(&self) -> bool {
        false
    }

    fn direction(&self) -> Direction {
        Direction::Uplink
    }

    /// 200 ms at 48 kHz are 19,200 bytes, a third more in base64.
    fn longest(&self) -> usize {
        self.chunk() * 8 / 3 + 1024
    }

    fn write_due(&mut self, facts: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        if self.role == Role::Vendor {
            return Ok(false);
        }
        if self.stage == Stage::Asked {
            let interaction_id = &self.facts.as_ref().unwrap_or(facts).call_sid;
            out.json(&Started { event: "started", interaction_id })?;
            self.stage = Stage::Started;
            return Ok(true);
        }
        let due = self.acked + self.options.ack_interval;
        if self.frames < due {
            return Ok(false);
        }
        out.json(&Ack { event: "ack", seq: due })?;
        self.acked = due;
        Ok(true)
    }

    /// Only servers of the binary shape are known to answer.
    fn overdue(&self, stamp: Stamp) -> Option<&'static str> {
        let since = self.missing_since.filter(|_| self.role == Role::Vendor && self.shape == Shape::Binary)?;
        (stamp.stream_ms >= since + ANSWER_MS).then_some(match self.stage {
            Stage::Started => "no `ack` came for three times its interval",
            Stage::New | Stage::Asked | Stage::Ended => "no `started` came within 5 s",
        })
    }

    /// The guide has clients dial again; that of the text shape says nothing of it.
    fn may_reconnect(&self) -> bool {
        self.role == Role::Vendor && self.shape == Shape::Binary
    }

    fn marks_on_clear(&self) -> MarksOnClear {
        MarksOnClear::Forget
    }

    fn facts(&self) -> Option<&Facts> {
        self.facts.as_ref()
    }

    fn write_opening(&mut self, step: usize, facts: &Facts, stamp: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        if self.role == Role::Agent || step > 0 {
            return Ok(false);
        }
        out.json(&Opening {
            event: "start",
            interaction_id: facts.call_sid_or_ours(),
            tenant_id: &facts.account,
            sample_rate: self.rate.hz(),
            encoding: "pcm16",
        })?;
        self.stage = Stage::Asked;
        self.missing_since = Some(stamp.stream_ms);
        Ok(true)
    }

    fn write_audio(&mut self, samples: &[i16], _: &Facts, stamp: Stamp, out: &mut Message<'_>) -> Result<(), Full> {
        if self.role == Role::Agent {
            return Ok(()); // nobody would hear it
        }
        match self.shape {
            Shape::Binary => {
                out.set_binary();
                out.raw_pcm16le(samples)?;
            }
            Shape::Text => {
                out.raw(b"{\"event\":\"audio\",\"data\":\"")?;
                out.base64_pcm16le(samples)?;
                out.raw(b"\",\"seq\":")?;
                out.uint(self.frames + 1)?;
                out.raw(b"}")?;
            }
        }
        self.frames += 1;
        if self.owes_an_ack() {
            // A backlog goes out faster than anybody counts, so the answer has its time all the same.
            self.missing_since.get_or_insert(stamp.stream_ms);
        }
        Ok(())
    }

    fn write(&mut self, say: Say<'_>, _: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        match (self.role, self.shape, say) {
            (Role::Vendor, Shape::Text, Say::Stop(_)) => out.raw(b"{\"event\":\"end\"}")?,
            (
                Role::Vendor | Role::Agent,
                Shape::Binary | Shape::Text,
                Say::Clear
                | Say::Mark(_)
                | Say::Heard(_)
                | Say::Dtmf(_)
                | Say::HangUp
                | Say::Stop(_)
                | Say::Cleared { .. }
                | Say::BargeIn,
            ) => return Ok(false),
            (role, Shape::Binary | Shape::Text, Say::Wish(_) | Say::Held(_) | Say::Transfer(_)) => {
                return Words::of("", "").write(role, say, out);
            }
        }
        Ok(true)
    }

    fn handle_text<'m>(&mut self, text: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        match self.role {
            Role::Vendor => Ok(Incoming { audio: Audio::None, event: self.read(text)? }),
            Role::Agent => Ok(match self.hear(text) {
                Ok(incoming) => incoming,
                // The server ends the call for it.
                Err(Malformed::Json | Malformed::TooDeep) => {
                    Incoming { audio: Audio::None, event: Event::Broken("a text that is not JSON") }
                }
                Err(malformed) => return Err(malformed),
            }),
        }
    }

    fn handle_binary<'m>(&mut self, payload: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        match self.role {
            Role::Vendor => Err(Malformed::Binary),
            Role::Agent => Ok(self.on_audio(Carrier::Raw, payload)),
        }
    }
}

/// What a vendor's `start` has; null is nothing.
#[derive(Default)]
struct Start<'m> {
    interaction_id: Option<Value<'m>>,
    tenant_id: Option<Value<'m>>,
    sample_rate: Option<Value<'m>>,
    encoding: Option<Value<'m>>,
}

#[derive(Serialize)]
struct Opening<'a> {
    event: &'static str,
    interaction_id: &'a str,
    tenant_id: &'a str,
    sample_rate: u32,
    encoding: &'static str,
}

#[derive(Serialize)]
struct Started<'a> {
    event: &'static str,
    interaction_id: &'a str,
}

#[derive(Serialize)]
struct Ack {
    event: &'static str,
    seq: u64,
}

/// How long an answer may take (ms).
const ANSWER_MS: u64 = 5_000;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]
pub(super) mod tests {
    use super::*;
    use crate::dialect::{
        StopReason,
        ozonetel::tests::{STAMP, event, facts, in_pieces, noise, opening, said, samples, written},
    };

    /// A start as the server's tests and the integration guide have it.
    pub(in crate::dialect) const START: &str =
        r#"{"event":"start","interaction_id":"int-9","tenant_id":"t-1","sample_rate":24000,"encoding":"pcm16"}"#;

    fn vendor() -> Rtaa {
        Rtaa::new(Role::Vendor, Rate::Hz24000, &Options::default())
    }

    fn agent() -> Rtaa {
        Rtaa::new(Role::Agent, Rate::Hz24000, &Options::default())
    }

    fn started() -> Rtaa {
        let mut agent = agent();
        assert_eq!(event(&mut agent, START), Event::Start);
        assert!(due(&mut agent).is_some());
        agent
    }

    /// What a dialect answers by itself.
    pub(in crate::dialect) fn due(dialect: &mut Rtaa) -> Option<String> {
        let (there, text) = written(|out| dialect.write_due(&facts(), STAMP, out));
        there.then_some(text)
    }

    fn at(stream_ms: u64) -> Stamp {
        Stamp { stream_ms, ..STAMP }
    }

    fn binary(vendor: &mut Rtaa, samples: &[i16], stream_ms: u64) -> Vec<u8> {
        let mut space = vec![0; vendor.longest()];
        let mut out = Message::new(&mut space);
        vendor.write_audio(samples, &facts(), at(stream_ms), &mut out).unwrap();
        assert!(out.is_binary());
        out.bytes().to_vec()
    }

    // As vendor.

    #[test]
    fn a_vendor_opens_with_a_start_of_the_four_fields() {
        let mut vendor = vendor();
        assert_eq!(
            opening(&mut vendor, 0).unwrap(),
            concat!(
                r#"{"event":"start","interaction_id":"0f8b2c6e-51d4-4f0a-9e37-62a1c4d97b80","#,
                r#""tenant_id":"harbour","sample_rate":24000,"encoding":"pcm16"}"#
            )
        );
        assert_eq!(opening(&mut vendor, 1), None);
        let mut nameless = facts();
        nameless.call_sid.clear();
        let (_, text) = written(|out| vendor.write_opening(0, &nameless, STAMP, out));
        assert!(text.contains(r#""interaction_id":"abcdefgh2345""#), "{text}");
    }

    #[test]
    fn a_vendors_audio_is_200_ms_of_bare_pcm_least_significant_byte_first() {
        for (rate, bytes) in
            [(Rate::Hz8000, 3_200), (Rate::Hz16000, 6_400), (Rate::Hz24000, 9_600), (Rate::Hz48000, 19_200)]
        {
            let mut vendor = Rtaa::new(Role::Vendor, rate, &Options::default());
            assert_eq!(vendor.chunk() * 2, bytes);
            let chunk = vec![0x0102; vendor.chunk()];
            let sent = binary(&mut vendor, &chunk, 0);
            assert_eq!((sent.len(), &sent[..2]), (bytes, &[2, 1][..]));
        }
        assert_eq!(vendor().direction(), Direction::Uplink);
        assert_eq!(vendor().unit(), 1);
    }

    #[test]
    fn a_vendor_has_no_word_for_anything_and_its_stop_is_the_close() {
        for say in [
            Say::Stop(StopReason::CallerHungUp),
            Say::Dtmf(b'1'),
            Say::Heard("m"),
            Say::Cleared { unheard_ms: 1 },
            Say::BargeIn,
        ] {
            assert_eq!(said(&mut vendor(), say), None, "{say:?}");
        }
        for say in [Say::Clear, Say::Mark("m"), Say::HangUp] {
            assert_eq!(said(&mut started(), say), None, "{say:?}");
        }
        assert_eq!(due(&mut vendor()), None);
    }

    #[test]
    fn an_agent_that_does_not_say_started_within_five_seconds_is_overdue() {
        let mut vendor = vendor();
        assert_eq!(vendor.overdue(at(60_000)), None, "it was not asked");
        written(|out| vendor.write_opening(0, &facts(), at(300), out));
        assert_eq!(vendor.overdue(at(5_299)), None);
        assert_eq!(vendor.overdue(at(5_300)), Some("no `started` came within 5 s"));
        assert_eq!(event(&mut vendor, r#"{"event":"started","interaction_id":"int-9"}"#), Event::None);
        assert_eq!(vendor.overdue(at(60_000)), None);
    }

    #[test]
    fn an_agent_that_stops_counting_is_overdue_and_a_backlog_alone_does_not_make_it_so() {
        let mut vendor = vendor();
        opening(&mut vendor, 0);
        event(&mut vendor, r#"{"event":"started","interaction_id":"int-9"}"#);
        for _ in 0..30 {
            binary(&mut vendor, &[0; 10], 1_000);
        }
        assert_eq!(vendor.overdue(at(60_000)), None);
        binary(&mut vendor, &[0; 10], 1_000);
        assert_eq!(vendor.overdue(at(5_999)), None, "the answer has its time");
        assert_eq!(vendor.overdue(at(6_000)), Some("no `ack` came for three times its interval"));
        assert_eq!(event(&mut vendor, r#"{"event":"ack","seq":10}"#), Event::None);
        assert_eq!(vendor.overdue(at(6_000)), None);
        for n in 0..31 {
            binary(&mut vendor, &[0; 10], 10_000 + n);
        }
        assert_eq!(vendor.overdue(at(15_030)), Some("no `ack` came for three times its interval"));
    }

    #[test]
    fn a_listener_that_had_begun_is_dialled_again_when_it_is_lost() {
        let mut vendor = vendor();
        opening(&mut vendor, 0);
        assert_eq!(event(&mut vendor, r#"{"event":"started","interaction_id":"i"}"#), Event::None);
        assert!(vendor.may_reconnect());
        assert!(!started().may_reconnect(), "an agent waits for its vendor");
    }

    #[test]
    fn what_else_a_server_says_is_counted_and_binary_json_is_json() {
        let mut vendor = vendor();
        assert_eq!(event(&mut vendor, r#"{"event":"transcript","text":"x"}"#), Event::Unknown);
        assert_eq!(event(&mut vendor, r#"{"status":"ok"}"#), Event::None);
        assert!(vendor.handle_text(b"not JSON").is_err());
        // A library that hands texts over as buffers may send them as binary messages.
        assert!(!vendor.binary_is_audio());
        assert_eq!(vendor.handle_binary(b"\0\0"), Err(Malformed::Binary));
    }

    // As agent.

    #[test]
    fn a_start_is_answered_and_tells_whose_call_it_is() {
        let mut agent = agent();
        assert_eq!(due(&mut agent), None);
        let start = START.replace("24000", "8000");
        assert_eq!(event(&mut agent, &start), Event::Start);
        let told = agent.facts().unwrap();
        assert_eq!((told.call_sid.as_str(), told.account.as_str()), ("int-9", "t-1"));
        assert_eq!(agent.rate(), Rate::Hz8000);
        assert_eq!(due(&mut agent).unwrap(), r#"{"event":"started","interaction_id":"int-9"}"#);
        assert_eq!(due(&mut agent), None);
        assert_eq!(opening(&mut agent, 0), None);
    }

    #[test]
    fn an_answer_that_does_not_fit_is_asked_for_again() {
        let mut agent = agent();
        event(&mut agent, START);
        assert_eq!(agent.write_due(&facts(), STAMP, &mut Message::new(&mut [0; 10])), Err(Full));
        assert!(due(&mut agent).is_some());
    }

    #[test]
    fn every_tenth_message_is_acknowledged_by_its_number_on_this_connection() {
        let mut agent = started();
        let mut told = Vec::new();
        for n in 1..=25 {
            assert!(matches!(agent.handle_binary(b"\0\0").unwrap().audio, Audio::Take { .. }));
            while let Some(ack) = due(&mut agent) {
                told.push((n, ack));
            }
        }
        assert_eq!(
            told,
            [(10, r#"{"event":"ack","seq":10}"#.to_owned()), (20, r#"{"event":"ack","seq":20}"#.to_owned())]
        );
        // Acknowledgements that waited for room come one by one.
        for _ in 0..20 {
            agent.handle_binary(b"\0\0").unwrap();
        }
        assert_eq!(due(&mut agent).unwrap(), r#"{"event":"ack","seq":30}"#);
        assert_eq!(due(&mut agent).unwrap(), r#"{"event":"ack","seq":40}"#);
        assert_eq!(due(&mut agent), None);
    }

    #[test]
    fn pcm_that_begins_with_a_brace_is_heard() {
        let mut agent = started();
        let incoming = agent.handle_binary(b"{\x01\xff\xff\x07").unwrap();
        assert_eq!(samples(incoming.audio).unwrap(), [0x017b, -1], "and an odd byte is dropped");
        assert!(agent.binary_is_audio());
    }

    #[test]
    fn a_broken_grammar_ends_the_connection_with_a_reason() {
        for (start, words) in [
            (START.replace(r#""interaction_id":"int-9","#, ""), "`start` has no interaction_id"),
            (START.replace("int-9", ""), "`start` has no interaction_id"),
            (START.replace(r#""t-1""#, "null"), "`start` has no tenant_id"),
            (START.replace(r#""tenant_id":"t-1","#, ""), "`start` has no tenant_id"),
            (START.replace(r#""sample_rate":24000,"#, ""), "`start` has no sample_rate"),
            (START.replace("24000", "0"), "sample_rate is none of 8000, 16000, 24000 and 48000"),
            (START.replace("24000", "1000000000"), "sample_rate is none of 8000, 16000, 24000 and 48000"),
            (START.replace("24000", "\"fast\""), "sample_rate is none of 8000, 16000, 24000 and 48000"),
            (START.replace("pcm16", "PCM16"), "encoding is not pcm16"),
            (START.replace("pcm16", "mulaw"), "encoding is not pcm16"),
            (START.replace(r#","encoding":"pcm16""#, ""), "`start` has no encoding"),
            // Nested, as on Exotel's shape of the same path.
            (r#"{"event":"start","start":{"stream_sid":"s"}}"#.to_owned(), "`start` has no interaction_id"),
        ] {
            let mut agent = agent();
            assert_eq!(event(&mut agent, &start), Event::Broken(words), "{start}");
            assert_eq!((due(&mut agent), agent.facts()), (None, None));
        }
        assert_eq!(event(&mut started(), START), Event::Broken("a second `start`"));
        let early = Incoming { audio: Audio::None, event: Event::Broken("audio before `start`") };
        assert_eq!(agent().handle_binary(b"\0\0"), Ok(early));
        for end in 0..START.len() {
            assert_eq!(event(&mut agent(), &START[..end]), Event::Broken("a text that is not JSON"), "{end}");
        }
        assert!(START.len() < 123, "what fits a start fits a close frame's reason");
    }

    #[test]
    fn other_events_are_counted_and_hurt_nobody() {
        let mut agent = started();
        for text in [
            r#"{"event":"media","media":{"payload":"AAA="}}"#,
            r#"{"event":"stop"}"#,
            r#"{"event":"ping"}"#,
            r#"{"hello":1}"#,
        ] {
            assert_eq!(event(&mut agent, text), Event::Unknown, "{text}");
        }
        assert!(matches!(agent.handle_binary(b"\0\0").unwrap().audio, Audio::Take { .. }));
    }

    #[test]
    fn numbers_may_be_strings() {
        let mut agent = agent();
        assert_eq!(event(&mut agent, &START.replace("24000", "\"16000\"")), Event::Start);
        assert_eq!(agent.rate(), Rate::Hz16000);
        let mut agent = Rtaa::new(Role::Agent, Rate::Hz8000, &Options::default());
        assert_eq!(event(&mut agent, &START.replace("\"int-9\"", "9")), Event::Start);
        assert_eq!(agent.facts().unwrap().call_sid, "9");
    }

    // Both.

    #[test]
    fn two_sides_understand_each_other_for_a_whole_call() {
        for rate in Rate::ALL {
            let (mut vendor, mut agent) = (Rtaa::new(Role::Vendor, rate, &Options::default()), agent());
            assert_eq!(event(&mut agent, &opening(&mut vendor, 0).unwrap()), Event::Start);
            assert_eq!(agent.rate(), rate);
            let told = agent.facts().unwrap();
            assert_eq!((&told.call_sid, &told.account), (&facts().call_sid, &facts().account));
            assert_eq!(event(&mut vendor, &due(&mut agent).unwrap()), Event::None);
            let spoken = noise(vendor.chunk() * 40 + 7);
            let (mut heard, mut acks) = (Vec::new(), 0);
            for chunk in spoken.chunks(vendor.chunk()) {
                let sent = binary(&mut vendor, chunk, 1_000);
                let incoming = agent.handle_binary(&sent).unwrap();
                assert_eq!(incoming.event, Event::None);
                heard.extend(samples(incoming.audio).unwrap());
                while let Some(ack) = due(&mut agent) {
                    assert_eq!(event(&mut vendor, &ack), Event::None);
                    acks += 1;
                }
            }
            assert_eq!((heard == spoken, acks), (true, 4));
            assert_eq!(vendor.overdue(at(60_000)), None);
            assert_eq!((vendor.name(), agent.name()), ("rtaa", "rtaa"));
        }
    }

    #[test]
    fn a_start_in_single_bytes_says_what_it_says_whole() {
        in_pieces(&mut agent(), START, 1, |incoming| assert_eq!(incoming.event, Event::Start));
    }

    #[test]
    fn options_take_what_they_say_and_nothing_else() {
        let mut options = Options::default();
        for info in Options::KNOWN {
            let value = OptionValue::Int(info.default.parse().unwrap());
            assert_eq!(options.set(info.key, value), Ok(()), "{}", info.key);
            assert_eq!(options, Options::default());
            for odd in [OptionValue::Int(0), OptionValue::Int(i64::MAX), OptionValue::Int(-1), OptionValue::Str("200")]
            {
                assert!(matches!(options.set(info.key, odd), Err(OptionError::Expected(_))), "{}", info.key);
            }
        }
        assert!(options.set("chunk-ms", OptionValue::Int(30)).is_err());
        assert_eq!(options.set("chunk-bytes", OptionValue::Int(320)), Err(OptionError::Unknown));
    }
}
