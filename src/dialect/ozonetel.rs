//! `ozonetel`: the bidirectional stream of Ozonetel and KooKoo, samples as numbers in JSON.
//!
//! The first packet of a vendor says 16 kHz and is not meant to be heard: it is the audio sink of a WebRTC library
//! that reports before it knows its format. An agent drops it; a vendor sends it, because there are agents that drop
//! their first packet whatever it is.
//!
//! ```text
//!  vendor                                                      agent
//!    | start {ucid, did, call_id = the caller's number}  ------> |
//!    | media {samples, sampleRate: 16000}                 ------> |  dropped
//!    | media {80 samples, sampleRate: 8000} ...           ------> |
//!    | <-------------------------  media {samples, 8000} + seqid  |  any length, as fast as it likes
//!    | mark {seqid}, once its last sample was heard       ------> |
//!    | <-----------------------------  {"command":"clearBuffer"}  |
//!    | <--------------------------  {"command":"callDisconnect"}  |
//!    | stop                                               ------> |
//! ```
//!
//! The shapes are those of the KooKoo voicebot SDK and its notes. The `media` object of a `start` (`PCMU`) describes
//! the SIP leg behind the vendor; samples on the socket are linear whatever it says.

use serde::Serialize;

use crate::{
    dialect::{
        Audio, Carrier, Coding, Dialect, Event, Facts, Format, Full, Incoming, MAX_MARK, Malformed, MarksOnClear,
        Message, OptionError, OptionInfo, OptionValue, Role, Say, Stamp,
        json::{Members, Value},
        mark::{Name, cut_name, name, write_name},
        wish::{self, Words},
    },
    media::Rate,
};

/// What can be chosen about the dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    first_packet_16k: bool,
    omit_event: bool,
    seqid: bool,
    chunk_samples: usize,
}

impl Options {
    /// The keys of `[trunk.NAME.ozonetel]`.
    pub const KNOWN: &'static [OptionInfo] = &[
        OptionInfo {
            key: "first-packet-16k",
            default: "true",
            help: "As vendor: send one packet of silence at 16 kHz first, which agents expect to drop.",
            role: Some(Role::Vendor),
        },
        OptionInfo {
            key: "omit-event",
            default: "false",
            help: "Leave `event` out of media messages and say only `type`.",
            role: None,
        },
        OptionInfo {
            key: "seqid",
            default: "true",
            help: "As agent: put a `seqid` on packets whose playback is to be acknowledged.",
            role: Some(Role::Agent),
        },
        OptionInfo {
            key: "chunk-samples",
            default: "80",
            help: "Samples in a media message at 8 kHz, a multiple of 80 up to 800; in proportion at higher rates.",
            role: None,
        },
    ];

    /// Sets one of [`KNOWN`](Self::KNOWN).
    ///
    /// # Errors
    /// [`OptionError`] says whether the key or the value is at fault.
    pub fn set(&mut self, key: &str, value: OptionValue<'_>) -> Result<(), OptionError> {
        let flag = match key {
            "first-packet-16k" => &mut self.first_packet_16k,
            "omit-event" => &mut self.omit_event,
            "seqid" => &mut self.seqid,
            "chunk-samples" => {
                self.chunk_samples = match value {
                    OptionValue::Int(n @ 80..=800) if n % 80 == 0 => n as usize,
                    OptionValue::Int(_) | OptionValue::Bool(_) | OptionValue::Str(_) => {
                        return Err(OptionError::Expected("a multiple of 80 from 80 to 800"));
                    }
                };
                return Ok(());
            }
            _ => return Err(OptionError::Unknown),
        };
        match value {
            OptionValue::Bool(on) => *flag = on,
            OptionValue::Int(_) | OptionValue::Str(_) => return Err(OptionError::Expected("true or false")),
        }
        Ok(())
    }
}

impl Default for Options {
    fn default() -> Self {
        Self { first_packet_16k: true, omit_event: false, seqid: true, chunk_samples: 80 }
    }
}

/// One call in Ozonetel's grammar.
///
/// An agent asks for a mark with a `seqid` *on* the packet whose end is meant, so [`Say::Mark`] has to come before
/// the [`write_audio`](Dialect::write_audio) of that packet: it writes nothing, answers `true` and leaves an empty
/// message, which means that there is nothing to send yet. A second mark before the next packet is answered `false`:
/// a packet has room for one.
///
/// Samples in two channels are refused ([`Audio::Skip`]): they are interleaved, which nothing downstream expects, and
/// no peer has been seen to send them.
#[derive(Debug)]
pub struct Ozonetel {
    role: Role,
    rate: Rate,
    options: Options,
    /// The rate of the last audio that was accepted.
    heard: Rate,
    /// Agent role: packets in a row that claimed to be 16 kHz on a narrow-band call.
    wide_run: u32,
    /// Agent role: the name that goes on the next packet.
    asked: Option<heapless::String<MAX_MARK>>,
    /// Agent role: what `start` told.
    facts: Option<Facts>,
}

impl Ozonetel {
    /// A call that has not begun. `rate` is 8 kHz unless both ends were told otherwise.
    #[must_use]
    pub fn new(role: Role, rate: Rate, options: &Options) -> Self {
        Self { role, rate, options: options.clone(), heard: rate, wide_run: 0, asked: None, facts: None }
    }

    /// The id that the vendor gave, where it did: on its own socket it knows best.
    fn ucid<'a>(&'a self, facts: &'a Facts) -> &'a str {
        match &self.facts {
            Some(own) if !own.ucid.is_empty() => &own.ucid,
            Some(_) | None => &facts.ucid,
        }
    }

    fn write_media(&self, samples: &[i16], rate: Rate, facts: &Facts, out: &mut Message<'_>) -> Result<(), Full> {
        out.raw(if self.options.omit_event { b"{" } else { b"{\"event\":\"media\"," })?;
        out.raw(b"\"type\":\"media\",\"ucid\":")?;
        out.json_str(self.ucid(facts))?;
        if let Some(name) = &self.asked {
            out.raw(b",\"seqid\":")?;
            write_name(name, out)?;
        }
        out.raw(b",\"data\":{\"samples\":[")?;
        out.decimals(samples)?;
        out.raw(b"],\"bitsPerSample\":16,\"sampleRate\":")?;
        out.uint(u64::from(rate.hz()))?;
        out.raw(b",\"channelCount\":1,\"numberOfFrames\":")?;
        out.uint(samples.len() as u64)?;
        out.raw(b",\"type\":\"data\"}}")
    }

    /// What the `data` of a message holds.
    fn on_data<'m>(&mut self, mut data: Members<'m>) -> Result<Audio<'m>, Malformed> {
        let (mut samples, mut named, mut channels) = (None, None, None);
        while let Some((key, value)) = data.next()? {
            if key.is(b"samples") {
                samples = Some(value.array().ok_or(Malformed::Samples)?);
            } else if key.is(b"sampleRate") {
                named = value.uint();
            } else if key.is(b"channelCount") {
                channels = value.uint();
            }
        }
        let Some(bytes) = samples else { return Ok(Audio::None) };
        let rate = match named {
            None => Some(self.heard),
            Some(hz) => u32::try_from(hz).ok().and_then(Rate::from_hz),
        };
        let Some(rate) = rate else { return Ok(Audio::Skip) };
        if channels.is_some_and(|channels| channels > 1) || self.is_stray(rate) {
            return Ok(Audio::Skip);
        }
        self.heard = rate;
        Ok(Audio::Take { format: self.expected(), bytes })
    }

    /// Whether a packet of this rate is the vendor's false start. A vendor that goes on and on at 16 kHz means it.
    fn is_stray(&mut self, rate: Rate) -> bool {
        if self.role == Role::Vendor || rate != Rate::Hz16000 || self.rate == Rate::Hz16000 {
            self.wide_run = 0;
            return false;
        }
        self.wide_run = self.wide_run.saturating_add(1);
        self.wide_run <= MOST_STRAYS
    }

    fn on_start(&mut self, text: &[u8]) -> Result<(), Malformed> {
        let facts = self.facts.insert(Facts::default());
        let mut headers = None;
        let mut members = Members::object(text)?;
        while let Some((key, value)) = members.next()? {
            if key.is(b"ucid") || key.is(b"sid") && facts.ucid.is_empty() {
                value.text(&mut facts.ucid);
            } else if key.is(b"did") {
                value.text(&mut facts.did);
            } else if key.is(b"call_id") {
                value.text(&mut facts.from);
            } else if key.is(b"x_account") {
                value.text(&mut facts.account);
            } else if key.is(b"x_headers") {
                headers = Some(value);
            }
        }
        if let Some(headers) = headers {
            read_headers(&headers, facts);
        }
        facts.to = facts.did.clone();
        Ok(())
    }

    fn on_command<'m>(&self, command: &Value<'m>) -> Event<'m> {
        if command.is(b"clearBuffer") {
            Event::Clear
        } else if command.is(b"callDisconnect") {
            match self.role {
                Role::Vendor => Event::HangUp,
                Role::Agent => Event::Stop,
            }
        } else {
            Event::Unknown
        }
    }
}

impl Dialect for Ozonetel {
    fn name(&self) -> &'static str {
        "ozonetel"
    }

    fn rate(&self) -> Rate {
        self.rate
    }

    fn chunk(&self) -> usize {
        (self.options.chunk_samples * self.rate.samples(1) / Rate::Hz8000.samples(1)).min(MAX_CHUNK)
    }

    /// 10 ms: what KooKoo's own packets have.
    fn unit(&self) -> usize {
        self.rate().samples(10)
    }

    fn lead_ms(&self) -> u64 {
        match self.role {
            Role::Agent => 200,
            Role::Vendor => 60,
        }
    }

    fn expected(&self) -> Format {
        Format { carrier: Carrier::Array, coding: Coding::Decimal, rate: self.heard }
    }

    fn carrier(&self, key: &[u8], depth: usize) -> Option<Carrier> {
        (depth == 2 && key == b"samples").then_some(Carrier::Array)
    }

    fn binary_is_audio(&self) -> bool {
        false
    }

    fn marks_ride_on_audio(&self) -> bool {
        true
    }

    /// KooKoo asks its application what comes next, while the caller waits.
    fn close_hands_back(&self) -> bool {
        true
    }

    fn marks_on_clear(&self) -> MarksOnClear {
        MarksOnClear::Forget
    }

    fn facts(&self) -> Option<&Facts> {
        self.facts.as_ref()
    }

    fn write_opening(&mut self, step: usize, facts: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        if self.role == Role::Agent {
            return Ok(false);
        }
        match step {
            0 => {
                let did = if facts.did.is_empty() { &facts.to } else { &facts.did };
                let start = Start { event: "start", kind: "text", ucid: &facts.ucid, did, call_id: &facts.from };
                out.json(&start)?;
            }
            1 if self.options.first_packet_16k => self.write_media(&[0; 160], Rate::Hz16000, facts, out)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn write_audio(&mut self, samples: &[i16], facts: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<(), Full> {
        self.write_media(samples, self.rate, facts, out)?;
        self.asked = None;
        Ok(())
    }

    fn write(&mut self, say: Say<'_>, facts: &Facts, stamp: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        match (self.role, say) {
            (Role::Agent, Say::Clear) => {
                out.json(&Command { command: "clearBuffer" })?;
                self.asked = None; // its packet would have been part of what is flushed
            }
            (Role::Agent, Say::Mark(name)) => {
                if !self.options.seqid || self.asked.is_some() || name.is_empty() {
                    return Ok(false);
                }
                self.asked = heapless::String::try_from(cut_name(name)).ok();
            }
            (Role::Agent, Say::HangUp) => out.json(&Command { command: "callDisconnect" })?,
            (Role::Vendor, Say::Heard(name)) => {
                let ack =
                    Ack { event: "mark", kind: "ack", ucid: &facts.ucid, seqid: Name(name), timestamp: stamp.epoch_ms };
                out.json(&ack)?;
            }
            (Role::Vendor, Say::Stop(_)) => {
                let did = if facts.did.is_empty() { &facts.to } else { &facts.did };
                out.json(&Stop { event: "stop", kind: "text", ucid: &facts.ucid, did })?;
            }
            (Role::Agent, Say::Heard(_) | Say::Dtmf(_) | Say::Stop(_))
            | (Role::Vendor, Say::Clear | Say::Mark(_) | Say::Dtmf(_) | Say::HangUp)
            | (_, Say::Cleared { .. } | Say::BargeIn) => return Ok(false),
            (_, Say::Wish(_) | Say::Held(_) | Say::Transfer(_)) => {
                let key = if self.role == Role::Agent { "command" } else { "event" };
                return Words { key, ..Words::of("ucid", &facts.ucid) }.write(self.role, say, out);
            }
        }
        Ok(true)
    }

    fn handle_text<'m>(&mut self, text: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        let (mut event, mut kind, mut data, mut seqid, mut command) = (None, None, None, None, None);
        let mut members = Members::object(text)?;
        while let Some((key, value)) = members.next()? {
            if key.is(b"data") {
                data = value.object();
            } else if key.is(b"event") {
                event = is_word(&value).then_some(value);
            } else if key.is(b"type") {
                kind = is_word(&value).then_some(value);
            } else if key.is(b"seqid") {
                seqid = name(&value);
            } else if key.is(b"command") {
                command = is_word(&value).then_some(value);
            }
        }

        // Senders exist that say only `event`, only `type`, or neither.
        let says = |word: &[u8]| event.is_some_and(|event| event.is(word));
        let is = |word: &[u8]| kind.is_some_and(|kind| kind.is(word));
        let known = || says(b"start") || says(b"stop") || says(b"mark") || says(b"control");
        let audio = match data {
            Some(data) if says(b"media") || !known() && (is(b"media") || event.is_none()) => self.on_data(data)?,
            Some(_) | None => Audio::None,
        };
        if audio != Audio::None {
            let event = match (self.role, seqid) {
                (Role::Vendor, Some(name)) => Event::Mark(name),
                (Role::Vendor | Role::Agent, _) => Event::None,
            };
            return Ok(Incoming { audio, event });
        }

        let event = if let Some(command) = command
            && (event.is_none() || says(b"control"))
        {
            self.on_command(&command)
        } else if self.role == Role::Agent && says(b"start") {
            self.on_start(text)?;
            Event::Start
        } else if self.role == Role::Agent && says(b"stop") {
            Event::Stop
        } else if self.role == Role::Agent && (says(b"mark") || event.is_none() && is(b"ack")) {
            seqid.map_or(Event::None, Event::Heard)
        } else if event.is_none() && !is(b"media") {
            Event::None // greetings such as {"type":"connected"}
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

/// Reads what the call's start request told, a string of JSON or an object: the numbers where the `start` itself has none,
/// and the text that the operator put in. What is wrong in there is no fault of the message's.
fn read_headers(headers: &Value<'_>, facts: &mut Facts) {
    let mut text = heapless::String::<MAX_HEADERS>::new();
    headers.text(&mut text);
    let Some(mut members) = headers.object().or_else(|| Members::object(text.as_bytes()).ok()) else { return };
    while let Ok(Some((key, value))) = members.next() {
        if key.is(b"cid") && facts.from.is_empty() {
            value.text(&mut facts.from);
        } else if key.is(b"called_number") && facts.did.is_empty() {
            value.text(&mut facts.did);
        } else if key.is(b"x-uui") {
            facts.custom.take(&key, &value);
        }
    }
}

/// Whether a value can name an event: a string that is not empty.
fn is_word(value: &Value<'_>) -> bool {
    matches!(value, Value::Str(word) if !word.is_empty())
}

#[derive(Serialize)]
struct Start<'a> {
    event: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    ucid: &'a str,
    did: &'a str,
    /// The caller's number, whatever its name says.
    call_id: &'a str,
}

#[derive(Serialize)]
struct Stop<'a> {
    event: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    ucid: &'a str,
    did: &'a str,
}

#[derive(Serialize)]
struct Ack<'a> {
    event: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    ucid: &'a str,
    seqid: Name<'a>,
    timestamp: u64,
}

#[derive(Serialize)]
struct Command {
    command: &'static str,
}

/// As much of `x_headers` is read (bytes).
const MAX_HEADERS: usize = 1024;

/// As many packets in a row may falsely claim 16 kHz before they are believed: a false start is one packet, and some
/// agents are known to drop every one.
const MOST_STRAYS: u32 = 5;

/// The most samples in a message, whatever the rate: 20 ms at 48 kHz are 7 kB of text at their loudest.
const MAX_CHUNK: usize = 960;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]
pub(super) mod tests {
    use super::*;
    use crate::dialect::{
        Parameters, StopReason,
        decode::{Decoder, most_samples},
        json::{Run, Splitter},
    };

    // What the tests of every dialect need.

    pub(in crate::dialect) const STAMP: Stamp = Stamp { stream_ms: 1_500, epoch_ms: 1_767_225_600_123 };

    pub(in crate::dialect) fn facts() -> Facts {
        Facts {
            call_id: "abcdefgh2345".try_into().unwrap(),
            ucid: "17672256001231234".try_into().unwrap(),
            stream_sid: "abcdefgh2345".try_into().unwrap(),
            call_sid: "0f8b2c6e-51d4-4f0a-9e37-62a1c4d97b80".try_into().unwrap(),
            account: "harbour".try_into().unwrap(),
            from: "+15550100011".try_into().unwrap(),
            to: "+15550100022".try_into().unwrap(),
            did: "".try_into().unwrap(),
            custom: Parameters::default(),
        }
    }

    /// What `write` wrote, as text.
    pub(in crate::dialect) fn written<T>(write: impl FnOnce(&mut Message<'_>) -> Result<T, Full>) -> (T, String) {
        let mut space = vec![0; 65_536];
        let mut out = Message::new(&mut space);
        let answer = write(&mut out).unwrap();
        (answer, String::from_utf8(out.bytes().to_vec()).unwrap())
    }

    pub(in crate::dialect) fn opening(dialect: &mut dyn Dialect, step: usize) -> Option<String> {
        let (there, text) = written(|out| dialect.write_opening(step, &facts(), STAMP, out));
        there.then_some(text)
    }

    pub(in crate::dialect) fn audio(dialect: &mut dyn Dialect, samples: &[i16]) -> String {
        written(|out| dialect.write_audio(samples, &facts(), STAMP, out)).1
    }

    pub(in crate::dialect) fn said(dialect: &mut dyn Dialect, say: Say<'_>) -> Option<String> {
        let (there, text) = written(|out| dialect.write(say, &facts(), STAMP, out));
        there.then_some(text)
    }

    pub(in crate::dialect) fn samples(audio: Audio<'_>) -> Option<Vec<i16>> {
        let Audio::Take { format, bytes } = audio else { return None };
        let mut decoder = Decoder::new(format);
        let mut out = vec![0; most_samples(format, bytes.len()) + 1];
        let (consumed, mut produced) = decoder.decode(bytes, &mut out).unwrap();
        assert_eq!(consumed, bytes.len());
        produced += decoder.finish(&mut out[produced..]).unwrap();
        out.truncate(produced);
        Some(out)
    }

    pub(in crate::dialect) fn event<'m>(dialect: &mut dyn Dialect, text: &'m str) -> Event<'m> {
        let incoming = dialect.handle_text(text.as_bytes()).unwrap();
        assert_eq!(incoming.audio, Audio::None, "{text}");
        incoming.event
    }

    /// A message in pieces of this many bytes, as a leg reads one that its buffer is too small for.
    pub(in crate::dialect) fn in_pieces(
        dialect: &mut dyn Dialect,
        text: &str,
        len: usize,
        then: impl FnOnce(Incoming<'_>),
    ) -> Vec<i16> {
        let mut splitter = Splitter::new();
        let mut decoder = Decoder::new(dialect.expected());
        let (mut skeleton, mut staged, mut space) = (Vec::new(), Vec::new(), [0; 64]);
        for mut piece in text.as_bytes().chunks(len) {
            while !piece.is_empty() {
                let step = splitter.split(piece, |key, depth| dialect.carrier(key, depth)).unwrap();
                let (mut run, rest) = piece.split_at(step.consumed);
                piece = rest;
                match step.run {
                    Run::Text => skeleton.extend_from_slice(run),
                    Run::AudioEnd => {
                        let produced = decoder.finish(&mut space).unwrap();
                        staged.extend_from_slice(&space[..produced]);
                    }
                    Run::Audio(_) => {
                        while !run.is_empty() {
                            let (consumed, produced) = decoder.decode(run, &mut space).unwrap();
                            staged.extend_from_slice(&space[..produced]);
                            run = &run[consumed..];
                        }
                    }
                }
            }
        }
        splitter.finish().unwrap();
        then(dialect.handle_text(&skeleton).unwrap());
        staged
    }

    pub(in crate::dialect) fn noise(len: usize) -> Vec<i16> {
        let mut state = 0x2545_f491_u32;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as i16
        };
        (0..len).map(|_| next() >> (next() & 15)).collect()
    }

    // Fixtures.

    /// A start as the notes to the KooKoo voicebot SDK show it: headers as a string of JSON, and the format of the SIP
    /// leg, which is not that of the socket.
    const START: &str = concat!(
        r#"{"event":"start","type":"text","ucid":"24680135791113150","did":"15550100000","call_id":"5550100011","#,
        r#""x_account":"acc7","x_headers":"{\"cid\":\"5550100011\",\"x-uui\":\"lane=\\\"sales\\\"\"}","#,
        r#""media":{"encoding":"PCMU","sampleRate":8000,"channels":1,"bitsPerSample":8,"payloadType":0}}"#
    );

    /// An agent's packet with everything that is known to stand in one (KooKoo voicebot SDK).
    const PACKET: &str = concat!(
        r#"{"event":"media","type":"media","ucid":"24680135791113150","seqid":"8c2f4e10-77ab-4d05-b1e9-3a6cd0f2b794","#,
        r#""data":{"samples":[21,-8,0,-300],"bitsPerSample":16,"sampleRate":8000,"channelCount":1,"numberOfFrames":4,"#,
        r#""type":"data"}}"#
    );

    fn vendor() -> Ozonetel {
        Ozonetel::new(Role::Vendor, Rate::Hz8000, &Options::default())
    }

    fn agent() -> Ozonetel {
        Ozonetel::new(Role::Agent, Rate::Hz8000, &Options::default())
    }

    fn with(key: &str, value: OptionValue<'_>) -> Options {
        let mut options = Options::default();
        options.set(key, value).unwrap();
        options
    }

    fn packet_at(rate: &str) -> String {
        format!(r#"{{"event":"media","type":"media","ucid":"1","data":{{"samples":[5],"sampleRate":{rate}}}}}"#)
    }

    fn rate_of(agent: &mut Ozonetel, text: &str) -> Option<u32> {
        match agent.handle_text(text.as_bytes()).unwrap().audio {
            Audio::Take { format, .. } => Some(format.rate.hz()),
            Audio::None | Audio::Skip => None,
        }
    }

    // As vendor.

    #[test]
    fn a_vendor_opens_with_start_and_a_packet_of_silence_at_16_khz() {
        let mut vendor = vendor();
        assert_eq!(
            opening(&mut vendor, 0).unwrap(),
            concat!(
                r#"{"event":"start","type":"text","ucid":"17672256001231234","did":"+15550100022","#,
                r#""call_id":"+15550100011"}"#
            )
        );
        let zeros = vec!["0"; 160].join(",");
        assert_eq!(
            opening(&mut vendor, 1).unwrap(),
            format!(
                concat!(
                    r#"{{"event":"media","type":"media","ucid":"17672256001231234","data":{{"samples":[{}],"#,
                    r#""bitsPerSample":16,"sampleRate":16000,"channelCount":1,"numberOfFrames":160,"type":"data"}}}}"#
                ),
                zeros
            )
        );
        assert_eq!(opening(&mut vendor, 2), None);
        assert_eq!(vendor.chunk(), 80);
    }

    #[test]
    fn the_packet_at_16_khz_can_be_left_out() {
        let options = with("first-packet-16k", OptionValue::Bool(false));
        let mut vendor = Ozonetel::new(Role::Vendor, Rate::Hz8000, &options);
        assert!(opening(&mut vendor, 0).is_some());
        assert_eq!(opening(&mut vendor, 1), None);
    }

    #[test]
    fn a_vendors_audio_is_spelled_as_vendors_spell_it() {
        assert_eq!(
            audio(&mut vendor(), &[21, -8, 0, -32768]),
            concat!(
                r#"{"event":"media","type":"media","ucid":"17672256001231234","data":{"samples":[21,-8,0,-32768],"#,
                r#""bitsPerSample":16,"sampleRate":8000,"channelCount":1,"numberOfFrames":4,"type":"data"}}"#
            )
        );
    }

    #[test]
    fn the_event_can_be_left_out_of_media() {
        let options = with("omit-event", OptionValue::Bool(true));
        let mut vendor = Ozonetel::new(Role::Vendor, Rate::Hz8000, &options);
        assert!(audio(&mut vendor, &[1]).starts_with(r#"{"type":"media","ucid":"#));
        assert!(opening(&mut vendor, 0).unwrap().starts_with(r#"{"event":"start","#));
    }

    #[test]
    fn a_vendor_tells_what_was_heard_and_when_it_stops() {
        let mut vendor = vendor();
        assert_eq!(
            said(&mut vendor, Say::Heard("8c2f")).unwrap(),
            r#"{"event":"mark","type":"ack","ucid":"17672256001231234","seqid":"8c2f","timestamp":1767225600123}"#
        );
        assert_eq!(
            said(&mut vendor, Say::Stop(StopReason::CallerHungUp)).unwrap(),
            r#"{"event":"stop","type":"text","ucid":"17672256001231234","did":"+15550100022"}"#
        );
        for say in [Say::Dtmf(b'5'), Say::Clear, Say::Mark("a"), Say::HangUp] {
            assert_eq!(said(&mut vendor, say), None, "{say:?}");
        }
    }

    #[test]
    fn a_seqid_asks_for_a_mark_behind_its_packet() {
        let mut vendor = vendor();
        let incoming = vendor.handle_text(PACKET.as_bytes()).unwrap();
        assert_eq!(incoming.event, Event::Mark("8c2f4e10-77ab-4d05-b1e9-3a6cd0f2b794"));
        assert_eq!(samples(incoming.audio).unwrap(), [21, -8, 0, -300]);
        assert_eq!(vendor.marks_on_clear(), MarksOnClear::Forget);
    }

    #[test]
    fn a_seqid_may_be_a_number_or_nothing() {
        let mut vendor = vendor();
        for (seqid, event) in
            [("17", Event::Mark("17")), (r#""""#, Event::None), ("null", Event::None), ("{}", Event::None)]
        {
            let text = format!(r#"{{"event":"media","seqid":{seqid},"data":{{"samples":[1]}}}}"#);
            assert_eq!(vendor.handle_text(text.as_bytes()).unwrap().event, event, "{seqid}");
        }
    }

    #[test]
    fn a_mark_on_a_packet_that_cannot_be_played_is_still_answered() {
        let text = r#"{"event":"media","seqid":"m","data":{"samples":[1],"sampleRate":11025}}"#;
        let incoming = vendor().handle_text(text.as_bytes()).unwrap();
        assert_eq!(incoming, Incoming { audio: Audio::Skip, event: Event::Mark("m") });
    }

    #[test]
    fn a_marks_name_goes_back_as_it_was_spelled() {
        let mut vendor = vendor();
        let text = r#"{"event":"media","seqid":"say \"hi\"\u00e9","data":{"samples":[1]}}"#;
        let Event::Mark(name) = vendor.handle_text(text.as_bytes()).unwrap().event else { panic!("no mark") };
        let ack = said(&mut vendor, Say::Heard(name)).unwrap();
        assert!(ack.contains(r#""seqid":"say \"hi\"\u00e9","#), "{ack}");
        assert_eq!(event(&mut agent(), &ack), Event::Heard(name));
    }

    #[test]
    fn a_name_that_is_not_spelled_for_json_is_escaped() {
        for (name, spelled) in [
            ("a\"b", r#""a\"b""#),
            (r"end\", r#""end\\""#),
            (r"half\u12", r#""half\\u12""#),
            (r"\x", r#""\\x""#),
            ("two\nlines", r#""two\nlines""#),
        ] {
            let ack = said(&mut vendor(), Say::Heard(name)).unwrap();
            assert!(ack.contains(&format!(r#""seqid":{spelled},"#)), "{ack}");
        }
    }

    #[test]
    fn a_long_name_that_breaks_jsons_rules_is_cut_but_never_to_nothing() {
        for bad in ["\u{1}", "\\x"] {
            let text = format!(r#"{{"event":"media","seqid":"{}","data":{{"samples":[1]}}}}"#, bad.repeat(70));
            let mut vendor = vendor();
            let Event::Mark(name) = vendor.handle_text(text.as_bytes()).unwrap().event else { panic!("no mark") };
            assert_eq!(name, &bad.repeat(70)[..MAX_MARK]);
            assert!(said(&mut vendor, Say::Heard(name)).is_some());
        }
    }

    #[test]
    fn a_name_of_any_length_is_cut_without_breaking_it() {
        let mut vendor = vendor();
        for pad in 50..80 {
            for tail in ["\\u00e9tail", "\\\"tail", "étail", "€€€€€€€€"] {
                let text =
                    format!(r#"{{"event":"media","seqid":"{}{tail}","data":{{"samples":[1]}}}}"#, "a".repeat(pad));
                let Event::Mark(name) = vendor.handle_text(text.as_bytes()).unwrap().event else { panic!("no mark") };
                assert!(name.len() <= MAX_MARK, "{name}");
                assert!(name.len() > MAX_MARK - 6 || name.ends_with(tail), "{name}");
                let ack = said(&mut vendor, Say::Heard(name)).unwrap();
                assert_eq!(event(&mut agent(), &ack), Event::Heard(name));
            }
        }
    }

    #[test]
    fn an_agents_commands_are_obeyed_with_and_without_an_event() {
        let mut vendor = vendor();
        assert_eq!(event(&mut vendor, r#"{"command":"clearBuffer"}"#), Event::Clear);
        assert_eq!(event(&mut vendor, r#"{"command":"callDisconnect"}"#), Event::HangUp);
        // Written by a helper of a public agent portal for KooKoo.
        assert_eq!(event(&mut vendor, r#"{"event":"control","ucid":"1","command":"clearBuffer"}"#), Event::Clear);
        assert_eq!(event(&mut vendor, r#"{"event":"control","ucid":"1","command":"callDisconnect"}"#), Event::HangUp);
        assert_eq!(event(&mut vendor, r#"{"command":"selfDestruct"}"#), Event::Unknown);
        assert_eq!(event(&mut vendor, r#"{"command":7}"#), Event::None);
    }

    #[test]
    fn greetings_are_nothing_and_unknown_events_are_counted() {
        let mut vendor = vendor();
        assert_eq!(event(&mut vendor, r#"{"type":"connected","message":"ready"}"#), Event::None);
        assert_eq!(event(&mut vendor, "{}"), Event::None);
        assert_eq!(event(&mut vendor, r#"{"event":"transfer","data":{"to":"1"}}"#), Event::Unknown);
        assert_eq!(event(&mut vendor, r#"{"event":"media","type":"media"}"#), Event::Unknown);
        assert_eq!(event(&mut vendor, r#"{"type":"media","data":{}}"#), Event::Unknown);
        // What only a vendor says.
        assert_eq!(event(&mut vendor, START), Event::Unknown);
    }

    #[test]
    fn media_needs_only_one_of_event_and_type_or_neither() {
        for head in
            [r#""event":"media","#, r#""type":"media","#, r#""event":"audio","type":"media","#, r#""event":null,"#, ""]
        {
            let text = format!(r#"{{{head}"ucid":"1","data":{{"samples":[1,2,3],"sampleRate":8000}}}}"#);
            let incoming = vendor().handle_text(text.as_bytes()).unwrap();
            assert_eq!(samples(incoming.audio).unwrap(), [1, 2, 3], "{text}");
        }
        let odd = r#"{"event":"stats","type":"text","data":{"samples":[1,2,3]}}"#;
        assert_eq!(event(&mut vendor(), odd), Event::Unknown);
    }

    #[test]
    fn a_vendor_believes_every_rate_that_an_agent_names() {
        let mut vendor = vendor();
        for (rate, hz) in [
            ("16000", Some(16_000)),
            (r#""24000""#, Some(24_000)),
            (r#""48000Hz""#, Some(48_000)),
            ("44100", None),
            ("null", Some(48_000)), // as before
            ("8000.0", Some(8_000)),
            ("0", None),
            ("99999999999999999999", Some(8_000)),
            (r#""fast""#, Some(8_000)),
            ("-8000", Some(8_000)),
        ] {
            assert_eq!(rate_of(&mut vendor, &packet_at(rate)), hz, "{rate}");
        }
        assert_eq!(vendor.rate(), Rate::Hz8000);
    }

    #[test]
    fn two_channels_are_not_played_as_one() {
        let text = r#"{"event":"media","data":{"samples":[1,-1,2,-2],"sampleRate":8000,"channelCount":2}}"#;
        assert_eq!(vendor().handle_text(text.as_bytes()).unwrap().audio, Audio::Skip);
        let text = r#"{"event":"media","data":{"samples":[1,2],"sampleRate":8000,"channelCount":"1"}}"#;
        assert_eq!(samples(vendor().handle_text(text.as_bytes()).unwrap().audio).unwrap(), [1, 2]);
    }

    #[test]
    fn the_array_is_trusted_and_the_number_of_frames_is_not() {
        let text = r#"{"event":"media","data":{"samples":[1,2,3],"sampleRate":8000,"numberOfFrames":160}}"#;
        assert_eq!(samples(vendor().handle_text(text.as_bytes()).unwrap().audio).unwrap(), [1, 2, 3]);
    }

    #[test]
    fn no_samples_are_no_samples() {
        let text = r#"{"event":"media","seqid":"end","data":{"samples":[],"sampleRate":8000}}"#;
        let incoming = vendor().handle_text(text.as_bytes()).unwrap();
        assert_eq!(incoming.event, Event::Mark("end"));
        assert_eq!(samples(incoming.audio).unwrap(), [0_i16; 0]);
        let mut vendor = vendor();
        let text = audio(&mut vendor, &[]);
        assert!(text.contains(r#""samples":[],"#) && text.contains(r#""numberOfFrames":0,"#), "{text}");
    }

    #[test]
    fn what_is_not_json_or_not_samples_is_an_error() {
        let mut vendor = vendor();
        for end in 0..PACKET.len() {
            assert!(vendor.handle_text(&PACKET.as_bytes()[..end]).is_err(), "{end}");
        }
        for text in ["[]", "null", "start", "\u{0}", "{\"event\":\"media\"} {}"] {
            assert_eq!(vendor.handle_text(text.as_bytes()), Err(Malformed::Json), "{text}");
        }
        let text = r#"{"event":"media","data":{"samples":"AAAA"}}"#;
        assert_eq!(vendor.handle_text(text.as_bytes()), Err(Malformed::Samples));
        assert_eq!(vendor.handle_binary(&[0; 160]), Err(Malformed::Binary));
        assert!(!vendor.binary_is_audio());
    }

    #[test]
    fn escapes_white_space_and_a_byte_order_mark_change_nothing() {
        let text =
            "\u{feff} { \"ev\\u0065nt\" : \"medi\\u0061\" ,\n\"d\\u0061ta\" : { \"s\\u0061mples\" : [ 1 , 2 ] } } \r\n";
        assert_eq!(samples(vendor().handle_text(text.as_bytes()).unwrap().audio).unwrap(), [1, 2]);
    }

    // As agent.

    #[test]
    fn what_the_call_was_asked_for_with_fills_the_gaps() {
        let mut agent = agent();
        event(&mut agent, START);
        let facts = agent.facts().unwrap();
        assert_eq!((facts.from.as_str(), facts.did.as_str()), ("5550100011", "15550100000"));
        assert!(facts.custom.iter().eq([("x-uui", "lane=\"sales\"")]));

        let bare = r#"{"event":"start","ucid":"1","x_headers":{"cid":"5550100033","called_number":15550100044,"cid_type":"m"}}"#;
        event(&mut agent, bare);
        let facts = agent.facts().unwrap();
        assert_eq!((facts.from.as_str(), facts.to.as_str()), ("5550100033", "15550100044"));
        for odd in [r#""""#, r#""{\"cid\":""#, "7", "null", r#""x-uui""#] {
            let text = format!(r#"{{"event":"start","ucid":"1","x_headers":{odd}}}"#);
            assert_eq!(event(&mut agent, &text), Event::Start);
            assert_eq!(agent.facts().unwrap().from, "");
        }
    }

    #[test]
    fn a_start_tells_who_calls_whatever_else_it_holds() {
        let mut agent = agent();
        assert_eq!(agent.facts(), None);
        assert_eq!(event(&mut agent, START), Event::Start);
        let facts = agent.facts().unwrap();
        assert_eq!(facts.ucid, "24680135791113150");
        assert_eq!(facts.from, "5550100011");
        assert_eq!(facts.did, "15550100000");
        assert_eq!(facts.to, "15550100000");
        assert_eq!(facts.account, "acc7");
        // The media object is about another leg.
        assert_eq!(agent.rate(), Rate::Hz8000);
        assert_eq!(agent.expected().coding, Coding::Decimal);
    }

    #[test]
    fn a_start_may_be_bare_number_its_ids_or_call_them_otherwise() {
        for (text, ucid) in [
            (r#"{"event":"start","ucid":24680135791113150}"#, "24680135791113150"),
            (r#"{"event":"start","type":"text","sid":"77"}"#, "77"),
            (r#"{"event":"start","sid":"77","ucid":"88","x_headers":{"cid":"1","x-uui":null}}"#, "88"),
            (r#"{"event":"start"}"#, ""),
        ] {
            let mut agent = agent();
            assert_eq!(event(&mut agent, text), Event::Start);
            assert_eq!(agent.facts().unwrap().ucid, ucid);
            assert_eq!(agent.facts().unwrap().did, "");
        }
    }

    #[test]
    fn ids_that_are_too_long_are_cut_and_odd_ones_survive() {
        let mut agent = agent();
        let text = format!(r#"{{"event":"start","ucid":"{}","did":"a\"b\\c\u0007d"}}"#, "9".repeat(5_000));
        assert_eq!(event(&mut agent, &text), Event::Start);
        assert_eq!(agent.facts().unwrap().ucid, "9".repeat(128).as_str());
        assert_eq!(agent.facts().unwrap().did, "a\"b\\cd");

        let mut odd = facts();
        odd.ucid = "12\"},{\n\u{1}é".try_into().unwrap();
        let mut vendor = vendor();
        for text in [
            written(|out| vendor.write_opening(0, &odd, STAMP, out)).1,
            written(|out| vendor.write_audio(&[1, 2], &odd, STAMP, out)).1,
            written(|out| vendor.write(Say::Heard("m"), &odd, STAMP, out)).1,
            written(|out| vendor.write(Say::Stop(StopReason::Ended), &odd, STAMP, out)).1,
        ] {
            assert_ne!(agent.handle_text(text.as_bytes()).unwrap(), Incoming::NOTHING, "{text}");
            assert!(text.contains(r#""ucid":"12\"},{\n\u0001é""#), "{text}");
        }
    }

    #[test]
    fn the_first_packet_at_16_khz_is_not_heard() {
        let (mut vendor, mut agent) = (vendor(), agent());
        let false_start = opening(&mut vendor, 1).unwrap();
        assert_eq!(
            agent.handle_text(false_start.as_bytes()).unwrap(),
            Incoming { audio: Audio::Skip, event: Event::None }
        );
        let first = audio(&mut vendor, &[9; 80]);
        assert_eq!(samples(agent.handle_text(first.as_bytes()).unwrap().audio).unwrap(), [9; 80]);
        assert_eq!(agent.expected().rate, Rate::Hz8000);
    }

    #[test]
    fn a_first_packet_at_8_khz_is_heard() {
        assert_eq!(rate_of(&mut agent(), &packet_at("8000")), Some(8_000));
    }

    #[test]
    fn a_vendor_that_stays_at_16_khz_is_believed_after_five_packets() {
        let mut agent = agent();
        let heard: Vec<_> = (0..7).map(|_| rate_of(&mut agent, &packet_at("16000"))).collect();
        assert_eq!(heard, [None, None, None, None, None, Some(16_000), Some(16_000)]);
        assert_eq!(agent.expected().rate, Rate::Hz16000);
        assert_eq!(rate_of(&mut agent, r#"{"event":"media","data":{"samples":[5]}}"#), Some(16_000));
    }

    #[test]
    fn a_stray_packet_at_16_khz_is_dropped_in_mid_call_too() {
        let mut agent = agent();
        let rates = ["8000", "16000", "8000", "\"16000\"", "24000", "8000"];
        let heard: Vec<_> = rates.iter().map(|rate| rate_of(&mut agent, &packet_at(rate))).collect();
        assert_eq!(heard, [Some(8_000), None, Some(8_000), None, Some(24_000), Some(8_000)]);
    }

    #[test]
    fn a_call_at_16_khz_has_no_false_start() {
        let mut agent = Ozonetel::new(Role::Agent, Rate::Hz16000, &Options::default());
        assert_eq!(rate_of(&mut agent, &packet_at("16000")), Some(16_000));
        assert_eq!(agent.chunk(), 160);
        assert!(audio(&mut agent, &[1]).contains(r#""sampleRate":16000"#));
    }

    #[test]
    fn an_agent_hears_marks_commands_and_the_end() {
        let mut agent = agent();
        let ack = r#"{"event":"mark","type":"ack","ucid":"1","seqid":"8c2f","timestamp":1767225600123}"#;
        assert_eq!(event(&mut agent, ack), Event::Heard("8c2f"));
        assert_eq!(event(&mut agent, r#"{"type":"ack","ucid":1,"seqid":5}"#), Event::Heard("5"));
        assert_eq!(event(&mut agent, r#"{"event":"stop","type":"text","ucid":"1","did":"2"}"#), Event::Stop);
        // Sent by a public agent's own tests, understood by it too.
        assert_eq!(event(&mut agent, r#"{"command":"clearBuffer"}"#), Event::Clear);
        assert_eq!(event(&mut agent, r#"{"command":"callDisconnect"}"#), Event::Stop);
        assert_eq!(event(&mut agent, r#"{"event":"hold"}"#), Event::Unknown);
    }

    #[test]
    fn a_mark_rides_on_the_packet_whose_end_it_is_about() {
        let mut agent = agent();
        assert_eq!(said(&mut agent, Say::Mark("m1")).unwrap(), "");
        assert_eq!(said(&mut agent, Say::Mark("m2")), None);
        let mut space = [0; 100];
        assert_eq!(agent.write_audio(&[1; 80], &facts(), STAMP, &mut Message::new(&mut space)), Err(Full));
        let first = audio(&mut agent, &[1]);
        assert!(first.contains(r#","seqid":"m1","data":"#), "{first}");
        assert!(!audio(&mut agent, &[1]).contains("seqid"));
        assert_eq!(vendor().handle_text(first.as_bytes()).unwrap().event, Event::Mark("m1"));
    }

    #[test]
    fn a_clear_forgets_the_mark_that_was_not_sent_yet() {
        let mut agent = agent();
        said(&mut agent, Say::Mark("m1")).unwrap();
        assert_eq!(said(&mut agent, Say::Clear).unwrap(), r#"{"command":"clearBuffer"}"#);
        assert!(!audio(&mut agent, &[1]).contains("seqid"));
        assert_eq!(said(&mut agent, Say::HangUp).unwrap(), r#"{"command":"callDisconnect"}"#);
    }

    #[test]
    fn an_agent_without_seqid_cannot_ask_for_marks() {
        let mut agent = Ozonetel::new(Role::Agent, Rate::Hz8000, &with("seqid", OptionValue::Bool(false)));
        assert_eq!(said(&mut agent, Say::Mark("m1")), None);
        assert!(!audio(&mut agent, &[1]).contains("seqid"));
    }

    #[test]
    fn an_agent_opens_with_nothing_and_answers_under_the_vendors_id() {
        let mut agent = agent();
        assert_eq!(opening(&mut agent, 0), None);
        assert!(audio(&mut agent, &[1]).contains(r#""ucid":"17672256001231234""#));
        event(&mut agent, START);
        assert!(audio(&mut agent, &[1]).contains(r#""ucid":"24680135791113150""#));
        assert_eq!(agent.lead_ms(), 200);
    }

    // Both.

    #[test]
    fn two_sides_understand_each_other_for_a_whole_call() {
        let (mut vendor, mut agent) = (vendor(), agent());
        assert_eq!(event(&mut agent, &opening(&mut vendor, 0).unwrap()), Event::Start);
        assert_eq!(agent.facts().unwrap().from, "+15550100011");
        assert_eq!(agent.handle_text(opening(&mut vendor, 1).unwrap().as_bytes()).unwrap().audio, Audio::Skip);

        let caller = noise(400);
        let mut heard = Vec::new();
        for chunk in caller.chunks(vendor.chunk()) {
            let text = audio(&mut vendor, chunk);
            heard.extend(samples(agent.handle_text(text.as_bytes()).unwrap().audio).unwrap());
        }
        assert_eq!(heard, caller);

        said(&mut agent, Say::Mark("greeting")).unwrap();
        let speech = audio(&mut agent, &caller);
        let incoming = vendor.handle_text(speech.as_bytes()).unwrap();
        assert_eq!(samples(incoming.audio).unwrap(), caller);
        let Event::Mark(name) = incoming.event else { panic!("no mark") };
        let ack = said(&mut vendor, Say::Heard(name)).unwrap();
        assert_eq!(event(&mut agent, &ack), Event::Heard("greeting"));

        assert_eq!(event(&mut vendor, &said(&mut agent, Say::Clear).unwrap()), Event::Clear);
        assert_eq!(event(&mut vendor, &said(&mut agent, Say::HangUp).unwrap()), Event::HangUp);
        let stop = said(&mut vendor, Say::Stop(StopReason::Ended)).unwrap();
        assert_eq!(event(&mut agent, &stop), Event::Stop);
    }

    #[test]
    fn samples_arrive_as_they_were_sent_at_every_length_both_ways() {
        for len in [0, 1, 2, 3, 79, 80, 81, 160, 400, 800, 960] {
            for (from, to) in [(Role::Vendor, Role::Agent), (Role::Agent, Role::Vendor)] {
                for rate in [Rate::Hz8000, Rate::Hz24000] {
                    let sent = noise(len);
                    let mut to = Ozonetel::new(to, rate, &Options::default());
                    let text = audio(&mut Ozonetel::new(from, rate, &Options::default()), &sent);
                    let incoming = to.handle_text(text.as_bytes()).unwrap();
                    assert_eq!(samples(incoming.audio).unwrap(), sent);
                    assert_eq!(to.expected().rate, rate);
                }
            }
        }
    }

    #[test]
    fn a_message_in_single_bytes_says_what_it_says_whole() {
        let sent = noise(300);
        let mut vendor = vendor();
        let text = audio(&mut agent(), &sent);
        for len in [1, 2, 7, 100, text.len()] {
            let heard = in_pieces(&mut vendor, &text, len, |incoming| {
                let Audio::Take { bytes, .. } = incoming.audio else { panic!("no audio") };
                assert!(bytes.is_empty());
            });
            assert_eq!(heard, sent);
        }
        in_pieces(&mut vendor, PACKET, 1, |incoming| {
            assert_eq!(incoming.event, Event::Mark("8c2f4e10-77ab-4d05-b1e9-3a6cd0f2b794"));
        });
        in_pieces(&mut agent(), START, 1, |incoming| assert_eq!(incoming.event, Event::Start));
    }

    #[test]
    fn a_burst_of_100_kb_names_its_rate_at_the_end() {
        let sent = noise(25_000);
        let list = sent.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let text = format!(r#"{{"type":"media","data":{{"samples":[{list}],"sampleRate":"16000"}},"seqid":"z"}}"#);
        assert!(text.len() > 100_000);
        let mut vendor = vendor();
        let heard = in_pieces(&mut vendor, &text, 4_096, |incoming| {
            let Audio::Take { format, .. } = incoming.audio else { panic!("no audio") };
            assert_eq!(format.rate, Rate::Hz16000); // other than expected: the leg rolls back or resamples
            assert_eq!(incoming.event, Event::Mark("z"));
        });
        assert_eq!(heard, sent);
        assert_eq!(vendor.expected().rate, Rate::Hz16000);
    }

    #[test]
    fn options_take_what_they_say_and_nothing_else() {
        let mut options = Options::default();
        for info in Options::KNOWN {
            let value = match info.default {
                "true" => OptionValue::Bool(true),
                "false" => OptionValue::Bool(false),
                number => OptionValue::Int(number.parse().unwrap()),
            };
            assert_eq!(options.set(info.key, value), Ok(()), "{}", info.key);
        }
        assert_eq!(options, Options::default());
        assert_eq!(options.set("first-packet", OptionValue::Bool(true)), Err(OptionError::Unknown));
        assert_eq!(options.set("seqid", OptionValue::Int(1)), Err(OptionError::Expected("true or false")));
        for n in [i64::MIN, -80, 0, 79, 81, 880, i64::MAX] {
            assert!(options.set("chunk-samples", OptionValue::Int(n)).is_err(), "{n}");
        }
        let options = with("chunk-samples", OptionValue::Int(800));
        assert_eq!(Ozonetel::new(Role::Agent, Rate::Hz8000, &options).chunk(), 800);
        assert_eq!(Ozonetel::new(Role::Agent, Rate::Hz48000, &options).chunk(), 960);
    }
}
