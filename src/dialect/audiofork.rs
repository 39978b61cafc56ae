//! `audiofork`: FreeSWITCH's module `mod_audio_fork`, in its streaming mode. Binary messages are L16 both ways, least
//! significant byte first, text messages are JSON.
//!
//! Whatever text comes first is the metadata that the dialplan gave the fork, and it may give none: then the first
//! audio is where the call begins. Keys are not told by the module; a dialplan that sends them by `send_text` is
//! understood when it spells them as jambonz does.
//!
//! ```text
//!  FreeSWITCH                                                     we
//!    | the metadata, if there is any                       ------> |
//!    | a period of samples ...                             ------> |
//!    | <--------------------------------------------------  samples|
//!    | <--------------  {"type":"mark","data":{"name":"m1"}}        |
//!    | {"type":"mark","data":{"name":"m1","event":"playout"}} ---> |
//!    | <--------------------------------  {"type":"killAudio"}     |
//!    | <-------------------------------  {"type":"clearMarks"}     |
//!    | {"type":"mark","data":{"name":"m2","event":"cleared"}} ---> |
//!    | <-------------------------------  {"type":"disconnect"}     |
//! ```
//!
//! There is no message for the end: the socket's is the fork's, and the channel goes on as its dialplan says. A
//! `disconnect` or a `transfer` is an event on the event socket, for whoever controls the channel to act upon. Of two channels in one
//! stream (`stereo`) none is taken: they would be one voice at half its speed. `mixed` has the agent's own voice in it.
//! Sources: jambonz, `freeswitch-modules/mod_audio_fork` and "WebSocket audio streaming" (`listen`).

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    dialect::{
        Audio, Carrier, Coding, Dialect, Event, Facts, Format, Full, Incoming, MAX_MARK, Malformed, MarksOnClear,
        Message, OptionError, OptionInfo, OptionValue, Role, Say, Stamp, Wish,
        dtmf::digit,
        json::{Members, Value},
        mark::{Name, cut_name, name},
        wish::{self, Words},
    },
    media::Rate,
};

/// What can be set in `[line.NAME.path.audiofork]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    subprotocol: heapless::String<MAX_SUBPROTOCOL>,
}

impl Options {
    /// The options.
    pub const KNOWN: &'static [OptionInfo] = &[OptionInfo {
        key: "subprotocol",
        default: "\"audio.drachtio.org\"",
        help: "The WebSocket subprotocol, where MOD_AUDIO_FORK_SUBPROTOCOL_NAME names another.",
        role: None,
    }];

    /// Sets one.
    ///
    /// # Errors
    /// [`OptionError`] says whether the key or the value is at fault.
    pub fn set(&mut self, key: &str, value: OptionValue<'_>) -> Result<(), OptionError> {
        let OptionValue::Str(word) = value else {
            return Err(if key == "subprotocol" { OptionError::Expected(WANTED) } else { OptionError::Unknown });
        };
        if key != "subprotocol" {
            return Err(OptionError::Unknown);
        }
        // RFC 6455 4.1: a token, RFC 9110 5.6.2.
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if word.is_empty() || !word.bytes().all(is_token) {
            return Err(OptionError::Expected(WANTED));
        }
        self.subprotocol = word.try_into().map_err(|_| OptionError::Expected(WANTED))?;
        Ok(())
    }

    /// The subprotocol that the module offers, and that has to be chosen.
    #[must_use]
    pub fn subprotocol(&self) -> &str {
        &self.subprotocol
    }
}

impl Default for Options {
    fn default() -> Self {
        // Fits: it is much shorter.
        Self { subprotocol: SUBPROTOCOL.try_into().unwrap_or_default() }
    }
}

/// One call in the module's grammar.
#[derive(Debug)]
pub struct Audiofork {
    role: Role,
    rate: Rate,
    /// Agent role: what the metadata told, or that there was none.
    facts: Option<Facts>,
    /// Agent role: marks that were asked for and did not come back.
    asked: usize,
    /// Agent role: they are to be forgotten.
    owes_clear_marks: bool,
    /// Vendor role: marks that were not reached, the oldest first.
    pending: heapless::Deque<heapless::String<MAX_MARK>, MOST_MARKS>,
    /// Vendor role: so many of the oldest of them were cleared, and that is to be told.
    cleared: usize,
}

impl Audiofork {
    /// A call that has not begun. An agent's `rate` holds until the metadata names another.
    #[must_use]
    pub const fn new(role: Role, rate: Rate) -> Self {
        Self { role, rate, facts: None, asked: 0, owes_clear_marks: false, pending: heapless::Deque::new(), cleared: 0 }
    }

    /// The first text, whatever it is.
    fn on_metadata<'m>(&mut self, text: &[u8]) -> Event<'m> {
        let facts = self.facts.insert(Facts::default());
        let Ok(mut members) = Members::object(text) else { return Event::Start };
        let mut is_stereo = false;
        // One that breaks off has told what it has told.
        while let Ok(Some((key, value))) = members.next() {
            if key.is_either(b"callSid", b"call_sid") || key.is(b"uuid") {
                value.text(&mut facts.call_sid);
            } else if key.is_either(b"accountSid", b"account_sid") {
                value.text(&mut facts.account);
            } else if key.is_either(b"sampleRate", b"sample_rate") {
                let rate = value.uint().and_then(|hz| u32::try_from(hz).ok()).and_then(Rate::from_hz);
                let Some(rate) = rate else { return Event::Broken(NO_SUCH_RATE) };
                self.rate = rate;
            } else if key.is(b"mixType") {
                is_stereo = value.is(b"stereo");
            } else {
                facts.take_parameter(&key, &value);
            }
        }
        if is_stereo { Event::Broken(STEREO) } else { Event::Start }
    }

    fn on_text_of_vendor<'m>(&mut self, text: &'m [u8]) -> Result<Event<'m>, Malformed> {
        if self.facts.is_none() {
            return Ok(self.on_metadata(text));
        }
        let (mut kind, mut event, mut data, mut pressed) = (None, None, Value::Null, None);
        let mut members = Members::object(text)?;
        while let Some((key, value)) = members.next()? {
            if key.is(b"type") {
                kind = Some(value);
            } else if key.is(b"event") {
                event = Some(value);
            } else if key.is(b"data") {
                data = value;
            } else if key.is_either(b"dtmf", b"digit") {
                pressed = digit(&value);
            }
        }
        let says = |word: &[u8]| kind.is_some_and(|kind| kind.is(word));
        if says(b"mark") {
            let told = data.member(b"name")?;
            let is_heard = data.member(b"event")?.is_some_and(|event| event.is(b"playout"));
            self.asked = self.asked.saturating_sub(1);
            // What was cleared was not heard.
            return Ok(match told.as_ref().and_then(name) {
                Some(name) if is_heard => Event::Heard(name),
                Some(_) => Event::None,
                None => Event::Unknown,
            });
        }
        if event.is_some_and(|event| event.is(b"dtmf")) {
            return Ok(pressed.map_or(Event::Unknown, Event::Dtmf));
        }
        Ok(wish::read(self.role, text))
    }

    fn on_text_of_agent<'m>(&mut self, text: &'m [u8]) -> Result<Event<'m>, Malformed> {
        let (mut kind, mut data) = (None, Value::Null);
        let mut members = Members::object(text)?;
        while let Some((key, value)) = members.next()? {
            if key.is(b"type") {
                kind = Some(value);
            } else if key.is(b"data") {
                data = value;
            }
        }
        let says = |word: &[u8]| kind.is_some_and(|kind| kind.is(word));
        if says(b"killAudio") {
            // Their audio is gone, and they wait for what comes next until they are cleared.
            return Ok(Event::Clear);
        }
        if says(b"disconnect") {
            return Ok(Event::HangUp);
        }
        if says(b"clearMarks") {
            self.cleared = self.pending.len();
            return Ok(Event::None);
        }
        if says(b"mark")
            && let Some(told) = data.member(b"name")?
            && let Value::Str(spelled) = told
            // What cannot be told back as it came is better not told at all.
            && spelled.len() <= MAX_MARK
            && let Some(name) = name(&told)
            && let Ok(kept) = name.try_into()
            && self.pending.push_back(kept).is_ok()
        {
            return Ok(Event::Mark(name));
        }
        // `playAudio` is for those who do not stream, `transcription` for the event socket.
        Ok(wish::read(self.role, text))
    }

    /// Tells a mark back. `false`: it was cleared, or never asked for.
    fn write_heard(&mut self, mark: &str, out: &mut Message<'_>) -> Result<bool, Full> {
        // One that was cleared may have had the same name.
        let after = self.pending.iter().skip(self.cleared).position(|kept| kept == mark);
        let Some(after) = after else { return Ok(false) };
        write_mark(mark, Some("playout"), out)?;
        for _ in 0..=self.cleared + after {
            self.pending.pop_front();
        }
        self.cleared = 0;
        Ok(true)
    }
}

impl Dialect for Audiofork {
    fn name(&self) -> &'static str {
        "audiofork"
    }

    /// Agent role: what the metadata named, if it did.
    fn rate(&self) -> Rate {
        self.rate
    }

    fn chunk(&self) -> usize {
        self.rate.frame()
    }

    fn unit(&self) -> usize {
        1
    }

    /// The module plays nothing before it has 80 ms, and 40 ms after a gap.
    fn lead_ms(&self) -> u64 {
        120
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

    /// The module reads names as JSON and writes them anew.
    fn marks_are_ours(&self) -> bool {
        self.role == Role::Agent
    }

    /// The fork ends, and the channel goes on.
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
        if self.role == Role::Agent || step > 0 {
            return Ok(false);
        }
        out.json(&Metadata { facts, rate: self.rate })?;
        Ok(true)
    }

    fn write_due(&mut self, _: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        if self.owes_clear_marks {
            out.json(&Bare { kind: "clearMarks" })?;
            (self.owes_clear_marks, self.asked) = (false, 0);
            return Ok(true);
        }
        if self.cleared > 0
            && let Some(name) = self.pending.front()
        {
            write_mark(name, Some("cleared"), out)?;
            self.pending.pop_front();
            self.cleared -= 1;
            return Ok(true);
        }
        Ok(false)
    }

    /// Marks of speech that is still to come are not to be cleared with those before.
    fn write_ahead(&mut self, facts: &Facts, stamp: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        if self.owes_clear_marks { self.write_due(facts, stamp, out) } else { Ok(false) }
    }

    fn write_audio(&mut self, samples: &[i16], _: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<(), Full> {
        out.set_binary();
        out.raw_pcm16le(samples)
    }

    fn write(&mut self, say: Say<'_>, _: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        match (self.role, say) {
            (Role::Agent, Say::Clear) => {
                out.json(&Bare { kind: "killAudio" })?;
                self.owes_clear_marks = self.asked > 0;
            }
            (Role::Agent, Say::Mark(name)) => {
                if self.owes_clear_marks {
                    return Ok(false);
                }
                write_mark(cut_name(name), None, out)?;
                self.asked += 1;
            }
            (Role::Agent, Say::HangUp) => out.json(&Disconnect { kind: "disconnect", data: Empty {} })?,
            (Role::Agent, Say::Wish(Wish::Transfer(target))) => {
                out.json(&Transfer { kind: "transfer", data: TransferData { target } })?;
            }
            // The module has no word for keys, but passes on what is called so.
            (Role::Agent, Say::Wish(Wish::Digits(digits))) => {
                out.json(&SendDigits { kind: "json", event: "send_digits", digits })?;
            }
            (Role::Vendor, Say::Held(_) | Say::Transfer(_)) => return Words::of("", "").write(self.role, say, out),
            (Role::Vendor, Say::Heard(name)) => return self.write_heard(name, out),
            (Role::Vendor, Say::Dtmf(digit)) => {
                let mut utf8 = [0; 4];
                let digit = &*char::from(digit).encode_utf8(&mut utf8);
                out.json(&Dtmf { event: "dtmf", dtmf: digit, duration: "100" })?;
            }
            // The socket's end is the fork's.
            (
                Role::Agent,
                Say::Heard(_) | Say::Dtmf(_) | Say::Stop(_) | Say::Cleared { .. } | Say::Held(_) | Say::Transfer(_),
            )
            | (
                Role::Vendor,
                Say::Clear | Say::Mark(_) | Say::HangUp | Say::Stop(_) | Say::Cleared { .. } | Say::Wish(_),
            )
            | (_, Say::BargeIn) => return Ok(false),
        }
        Ok(true)
    }

    fn handle_text<'m>(&mut self, text: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        let event = match self.role {
            Role::Vendor => self.on_text_of_agent(text)?,
            Role::Agent => self.on_text_of_vendor(text)?,
        };
        Ok(Incoming { audio: Audio::None, event })
    }

    fn handle_binary<'m>(&mut self, payload: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        if self.role == Role::Agent {
            // Metadata would have come before.
            self.facts.get_or_insert_default();
        }
        Ok(Incoming { audio: Audio::Take { format: self.expected(), bytes: payload }, event: Event::None })
    }
}

fn write_mark(mark: &str, event: Option<&'static str>, out: &mut Message<'_>) -> Result<(), Full> {
    out.json(&Mark { kind: "mark", data: MarkData { name: Name(mark), event } })
}

/// As jambonz gives it.
struct Metadata<'a> {
    facts: &'a Facts,
    rate: Rate,
}

impl Serialize for Metadata<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Facts { call_sid, account, .. } = self.facts;
        let mut members = serializer.serialize_map(None)?;
        members.serialize_entry("callSid", call_sid.as_str())?;
        members.serialize_entry("accountSid", account.as_str())?;
        members.serialize_entry("sampleRate", &self.rate.hz())?;
        members.serialize_entry("mixType", "mono")?;
        for (name, value) in self.facts.parameters().filter(|(name, _)| !OURS.contains(name)) {
            members.serialize_entry(name, value)?;
        }
        members.end()
    }
}

#[derive(Serialize)]
struct Bare {
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
struct Disconnect {
    #[serde(rename = "type")]
    kind: &'static str,
    data: Empty,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Transfer<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    data: TransferData<'a>,
}

#[derive(Serialize)]
struct TransferData<'a> {
    target: &'a str,
}

#[derive(Serialize)]
struct SendDigits<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    event: &'static str,
    digits: &'a str,
}

#[derive(Serialize)]
struct Mark<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    data: MarkData<'a>,
}

#[derive(Serialize)]
struct MarkData<'a> {
    name: Name<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'static str>,
}

#[derive(Serialize)]
struct Dtmf<'a> {
    event: &'static str,
    dtmf: &'a str,
    /// Milliseconds.
    duration: &'static str,
}

/// The module's, unless its environment names another.
pub const SUBPROTOCOL: &str = "audio.drachtio.org";

const WANTED: &str = "a subprotocol's name such as \"audio.drachtio.org\"";
/// What a parameter may not be called.
const OURS: [&str; 9] =
    ["callSid", "call_sid", "uuid", "accountSid", "account_sid", "sampleRate", "sample_rate", "mixType", "event"];
const MAX_SUBPROTOCOL: usize = 64;
const MOST_MARKS: usize = 64;

const NO_SUCH_RATE: &str =
    "the sampleRate in the metadata is none that is spoken here; fork at 8000, 16000, 24000 or 48000";
const STEREO: &str = "two channels in one stream are not taken; fork `mono`";

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]
mod tests {
    use super::*;
    use crate::dialect::{
        StopReason,
        ozonetel::tests::{STAMP, event, facts, opening, said, samples, written},
    };

    /// What jambonz gives a fork, as its documentation of `listen` shows it.
    const METADATA: &str = concat!(
        r#"{"callSid":"7b59eac0","accountSid":"MA77","direction":"inbound","from":"15550100011","to":"15550100022","#,
        r#""callId":"ff39b1f4","sampleRate":16000,"mixType":"mono","lane":"sales"}"#
    );

    fn vendor() -> Audiofork {
        Audiofork::new(Role::Vendor, Rate::Hz16000)
    }

    fn agent() -> Audiofork {
        Audiofork::new(Role::Agent, Rate::Hz8000)
    }

    fn due(dialect: &mut Audiofork) -> Option<String> {
        let (there, text) = written(|out| dialect.write_due(&facts(), STAMP, out));
        there.then_some(text)
    }

    #[test]
    fn metadata_tells_the_call_and_its_rate() {
        let mut agent = agent();
        assert_eq!(event(&mut agent, METADATA), Event::Start);
        assert_eq!(agent.rate(), Rate::Hz16000);
        let told = agent.facts().unwrap();
        assert_eq!((told.call_sid.as_str(), told.account.as_str()), ("7b59eac0", "MA77"));
        assert_eq!((told.from.as_str(), told.to.as_str()), ("15550100011", "15550100022"));
        assert!(told.custom.iter().eq([("direction", "inbound"), ("callId", "ff39b1f4"), ("lane", "sales")]));
    }

    #[test]
    fn metadata_may_be_anything_and_may_be_missing() {
        for metadata in ["hello", "[1,2]", "{\"cut\":", "7", r#"{"type":"mark","data":{"name":"m"}}"#, "{}"] {
            let mut agent = agent();
            assert_eq!(event(&mut agent, metadata), Event::Start, "{metadata}");
            assert_eq!(agent.rate(), Rate::Hz8000);
        }
        let mut agent = agent();
        assert_eq!(agent.facts(), None);
        // The first byte is a brace: this is still audio.
        let incoming = agent.handle_binary(b"{\x01\xff\xff").unwrap();
        assert_eq!(samples(incoming.audio).unwrap(), [0x017b, -1]);
        assert!(agent.facts().is_some(), "the call begins");
        assert_eq!(event(&mut agent, METADATA), Event::Unknown, "it came too late");
    }

    #[test]
    fn what_would_be_noise_is_refused_with_what_to_do() {
        for (metadata, words) in [(r#"{"mixType":"stereo"}"#, STEREO), (r#"{"sampleRate":11025}"#, NO_SUCH_RATE)] {
            assert_eq!(event(&mut agent(), metadata), Event::Broken(words));
        }
    }

    #[test]
    fn an_agent_hears_keys_that_were_sent_as_text_and_marks() {
        let mut agent = agent();
        event(&mut agent, METADATA);
        for (text, told) in [
            (r#"{"event":"dtmf","dtmf":"2","duration":"1600"}"#, Event::Dtmf(b'2')),
            (r#"{"event":"dtmf","digit":"*"}"#, Event::Dtmf(b'*')),
            (r#"{"event":"dtmf"}"#, Event::Unknown),
            (r#"{"type":"mark","data":{"name":"m1","event":"playout"}}"#, Event::Heard("m1")),
            (r#"{"type":"mark","data":{"name":"m1","event":"cleared"}}"#, Event::None),
            (r#"{"type":"mark","data":{}}"#, Event::Unknown),
            (r#"{"hello":1}"#, Event::Unknown),
        ] {
            assert_eq!(event(&mut agent, text), told, "{text}");
        }
    }

    #[test]
    fn a_clear_kills_the_audio_and_then_the_marks_before_anything_new_is_marked() {
        let mut agent = agent();
        assert_eq!(said(&mut agent, Say::Clear).unwrap(), r#"{"type":"killAudio"}"#);
        assert_eq!(due(&mut agent), None, "no mark is pending");
        assert_eq!(said(&mut agent, Say::Mark("m1")).unwrap(), r#"{"type":"mark","data":{"name":"m1"}}"#);
        said(&mut agent, Say::Clear).unwrap();
        assert_eq!(said(&mut agent, Say::Mark("m2")), None, "it would be cleared, too");
        let (_, ahead) = written(|out| agent.write_ahead(&facts(), STAMP, out));
        assert_eq!(ahead, r#"{"type":"clearMarks"}"#);
        assert_eq!(due(&mut agent), None);
        assert!(said(&mut agent, Say::Mark("m2")).is_some());
        assert_eq!(said(&mut agent, Say::HangUp).unwrap(), r#"{"type":"disconnect","data":{}}"#);
        for say in [Say::Heard("m"), Say::Dtmf(b'1'), Say::Stop(StopReason::Ended)] {
            assert_eq!(said(&mut agent, say), None, "{say:?}");
        }
    }

    #[test]
    fn a_mark_of_the_same_name_as_one_that_was_cleared_is_told_when_it_was_played() {
        let mut vendor = vendor();
        let mark = r#"{"type":"mark","data":{"name":"again"}}"#;
        assert_eq!(event(&mut vendor, mark), Event::Mark("again"));
        assert_eq!(event(&mut vendor, r#"{"type":"clearMarks"}"#), Event::None);
        assert_eq!(event(&mut vendor, mark), Event::Mark("again"));
        let told = said(&mut vendor, Say::Heard("again")).unwrap();
        assert_eq!(told, r#"{"type":"mark","data":{"name":"again","event":"playout"}}"#);
    }

    #[test]
    fn a_vendor_tells_what_was_played_and_what_was_cleared() {
        let mut vendor = vendor();
        assert_eq!(
            opening(&mut vendor, 0).unwrap(),
            concat!(
                r#"{"callSid":"0f8b2c6e-51d4-4f0a-9e37-62a1c4d97b80","accountSid":"harbour","sampleRate":16000,"#,
                r#""mixType":"mono","from":"+15550100011","to":"+15550100022"}"#
            )
        );
        for name in ["m1", "m2", "m3"] {
            let text = format!(r#"{{"type":"mark","data":{{"name":"{name}"}}}}"#);
            assert_eq!(event(&mut vendor, &text), Event::Mark(name));
        }
        assert_eq!(
            said(&mut vendor, Say::Heard("m1")).unwrap(),
            r#"{"type":"mark","data":{"name":"m1","event":"playout"}}"#
        );
        assert_eq!(event(&mut vendor, r#"{"type":"killAudio"}"#), Event::Clear);
        assert_eq!(event(&mut vendor, r#"{"type":"clearMarks"}"#), Event::None);
        assert_eq!(said(&mut vendor, Say::Heard("m2")), None);
        for name in ["m2", "m3"] {
            assert_eq!(
                due(&mut vendor).unwrap(),
                format!(r#"{{"type":"mark","data":{{"name":"{name}","event":"cleared"}}}}"#)
            );
        }
        assert_eq!(due(&mut vendor), None);
        assert_eq!(event(&mut vendor, r#"{"type":"disconnect"}"#), Event::HangUp);
        for unknown in [
            r#"{"type":"playAudio","data":{"audioContentType":"raw","sampleRate":8000,"audioContent":"AAAA"}}"#,
            r#"{"type":"transfer","data":{}}"#,
            r#"{"type":"transcription","data":{"x":1}}"#,
            r#"{"type":"mark","data":{}}"#,
            r#"{}"#,
        ] {
            assert_eq!(event(&mut vendor, unknown), Event::Unknown, "{unknown}");
        }
        assert!(vendor.handle_text(b"hello").is_err());
        let transfer = Wish::transfer("sip:300@pbx.example.com").unwrap();
        let asked = said(&mut agent(), Say::Wish(&transfer)).unwrap();
        assert_eq!(asked, r#"{"type":"transfer","data":{"target":"sip:300@pbx.example.com"}}"#);
        let Event::Wish(heard) = event(&mut vendor, &asked) else { panic!("{asked}") };
        assert_eq!(heard.wish(), Some(transfer));
        let digits = Wish::digits("12#").unwrap();
        let asked = said(&mut agent(), Say::Wish(&digits)).unwrap();
        assert_eq!(asked, r#"{"type":"json","event":"send_digits","digits":"12#"}"#);
    }

    #[test]
    fn a_subprotocol_is_a_token() {
        let mut options = Options::default();
        assert_eq!(options.subprotocol(), "audio.drachtio.org");
        assert_eq!(options.set("subprotocol", OptionValue::Str("audio.example.org")), Ok(()));
        assert_eq!(options.subprotocol(), "audio.example.org");
        for bad in ["", "a b", "a,b", "\u{e9}", &"x".repeat(65)] {
            assert_eq!(options.set("subprotocol", OptionValue::Str(bad)), Err(OptionError::Expected(WANTED)));
        }
        assert_eq!(options.set("subprotocol", OptionValue::Int(1)), Err(OptionError::Expected(WANTED)));
        assert_eq!(options.set("protocol", OptionValue::Str("x")), Err(OptionError::Unknown));
    }
}
