//! Our side of a call that a PBX connects to us, or that we fetch from it.

use core::str;

use crate::{
    dialect::{
        Audio, Carrier, Dialect, Event, Facts, Format, Full, Incoming, Malformed, MarksOnClear, Message, Say, Stamp,
        Text,
        asterisk::{
            Control, Options, Ping, Sound,
            words::{Words, write_command},
        },
        dtmf::digit,
        json::{Members, Value},
    },
    media::Rate,
};

/// What we say and hear.
///
/// Whether the PBX knows marks cannot be read off what it says, because releases from 20.16 to 20.17, 22.6 to 22.7 and
/// 23.0 to 23.1 spell alike those that do. So one is asked for at the start, when nothing waits before it: it comes back
/// at the next tick, or never. Those that know marks are also those that bear a ping.
#[derive(Debug)]
pub struct Agent {
    sound: Sound,
    /// Samples in one of the PBX's frames.
    frame: usize,
    control: Control,
    ping: Ping,
    marks: Marks,
    /// What `MEDIA_START` told.
    facts: Option<Facts>,
    /// The PBX's queue is full.
    is_full: bool,
    owes_continue: bool,
    owes_answer: bool,
    /// When the PBX will have played what was sent (ms of the stream), where silence follows it.
    silent_from: Option<u64>,
}

/// Whether the PBX knows marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Marks {
    /// It has to be asked.
    Open,
    /// It was.
    Asked,
    Known,
    /// Its release has none.
    Unknown,
}

impl Agent {
    /// A call that has not begun. `rate` holds until `MEDIA_START` names another.
    #[must_use]
    pub const fn new(rate: Rate, options: &Options) -> Self {
        let sound = Sound::new(options.encoding, rate);
        Self {
            sound,
            frame: sound.rate.frame(),
            control: options.control,
            ping: options.ping,
            marks: Marks::Open,
            facts: None,
            is_full: false,
            owes_continue: false,
            owes_answer: options.answer,
            silent_from: if options.silence { Some(0) } else { None },
        }
    }

    fn on_start<'m>(&mut self, words: &Words<'m>) -> Event<'m> {
        let text = |name: &str, out: &mut Text| {
            if let Some(value) = words.field(name) {
                value.text(out);
            }
        };
        let mut facts = Facts::default();
        text("connection_id", &mut facts.stream_sid);
        text("channel_id", &mut facts.call_sid);
        if let Some(Value::Object(variables)) = words.field("channel_variables") {
            take_variables(variables, &mut facts);
        }
        self.marks = match self.control {
            // Both came with the same releases.
            Control::Json => Marks::Known,
            // The id of the channel came before marks did.
            Control::Plain if facts.call_sid.is_empty() => Marks::Unknown,
            Control::Plain => Marks::Open,
        };
        self.facts = Some(facts);
        let mut format = Text::new();
        text("format", &mut format);
        let Some(sound) = Sound::named(&format) else { return Event::Broken(NO_SUCH_FORMAT) };
        self.sound = sound;
        let told = words.field("optimal_frame_size").and_then(|size| size.uint()).unwrap_or_default();
        let frame = usize::try_from(told).unwrap_or_default() / sound.bytes_a_sample();
        // A frame of another length than that of every format here is some release's joke.
        self.frame = if (1..=2 * sound.rate.frame()).contains(&frame) { frame } else { sound.rate.frame() };
        Event::Start
    }

    fn command(&self, verb: &str, id: Option<&str>, out: &mut Message<'_>) -> Result<bool, Full> {
        write_command(verb, id, self.control, out)
    }
}

/// The variables of a channel that its dialplan chose: Asterisk's own are in capitals.
fn take_variables(variables: &[u8], facts: &mut Facts) {
    let Ok(mut members) = Members::object(variables) else { return };
    while let Ok(Some((key, value))) = members.next() {
        let mut name = Text::new();
        key.text(&mut name);
        if name.contains(|c: char| c.is_ascii_lowercase()) {
            facts.take_parameter(&key, &value);
        }
    }
}

impl Dialect for Agent {
    fn name(&self) -> &'static str {
        "asterisk"
    }

    /// What `MEDIA_START` named, once it did.
    fn rate(&self) -> Rate {
        self.sound.rate
    }

    fn chunk(&self) -> usize {
        self.frame
    }

    /// What is over a whole frame the PBX throws away.
    fn unit(&self) -> usize {
        self.frame
    }

    /// The PBX takes frames out by a timer: five of them bear its unrest, and a flush has no more to throw away.
    fn lead_ms(&self) -> u64 {
        100
    }

    fn expected(&self) -> Format {
        self.sound.format()
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

    fn pings(&self) -> bool {
        match self.ping {
            Ping::Auto => self.marks == Marks::Known,
            Ping::Always => true,
            Ping::Never => false,
        }
    }

    /// The PBX reads ids as JSON and writes them anew, and has little room for them.
    fn marks_are_ours(&self) -> bool {
        true
    }

    fn takes_audio(&self) -> bool {
        !self.is_full
    }

    /// They vanish from the queue.
    fn marks_on_clear(&self) -> MarksOnClear {
        MarksOnClear::Forget
    }

    fn facts(&self) -> Option<&Facts> {
        self.facts.as_ref()
    }

    fn write_opening(&mut self, _: usize, _: &Facts, _: Stamp, _: &mut Message<'_>) -> Result<bool, Full> {
        Ok(false)
    }

    fn write_ahead(&mut self, _: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        if self.owes_continue {
            self.command("CONTINUE_MEDIA", None, out)?;
            self.owes_continue = false;
            return Ok(true);
        }
        if self.owes_answer {
            self.command("ANSWER", None, out)?;
            self.owes_answer = false;
            return Ok(true);
        }
        Ok(false)
    }

    fn write_due(&mut self, _: &Facts, stamp: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        if self.owes_continue {
            self.command("CONTINUE_MEDIA", None, out)?;
            self.owes_continue = false;
            return Ok(true);
        }
        if self.facts.is_some() && self.marks == Marks::Open {
            self.command("MARK_MEDIA", Some(PROBE), out)?;
            self.marks = Marks::Asked;
            return Ok(true);
        }
        match self.silent_from {
            Some(from) if self.facts.is_some() && !self.is_full && stamp.stream_ms >= from => {
                let silence = [0; LONGEST_FRAME];
                self.sound.write(silence.get(..self.frame).unwrap_or_default(), out)?;
                self.silent_from = Some(stamp.stream_ms + self.sound.rate.duration(self.frame).as_millis() as u64);
                Ok(true)
            }
            Some(_) | None => Ok(false),
        }
    }

    fn write_audio(&mut self, samples: &[i16], _: &Facts, stamp: Stamp, out: &mut Message<'_>) -> Result<(), Full> {
        self.sound.write(samples, out)?;
        if let Some(from) = &mut self.silent_from {
            *from = (*from).max(stamp.stream_ms) + self.sound.rate.duration(samples.len()).as_millis() as u64;
        }
        Ok(())
    }

    fn write(&mut self, say: Say<'_>, _: &Facts, stamp: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        match say {
            Say::Clear => {
                self.command("FLUSH_MEDIA", None, out)?;
                // The documentation says that a flush ends a pause; the code says that it does not.
                self.owes_continue = true;
                self.silent_from = self.silent_from.map(|_| stamp.stream_ms);
                Ok(true)
            }
            Say::Mark(name) if self.marks == Marks::Known => self.command("MARK_MEDIA", Some(name), out),
            Say::HangUp => self.command("HANGUP", None, out),
            Say::Mark(_)
            | Say::Heard(_)
            | Say::Dtmf(_)
            | Say::Stop(_)
            | Say::Cleared { .. }
            | Say::BargeIn
            | Say::Wish(_)
            | Say::Held(_)
            | Say::Transfer(_) => Ok(false),
        }
    }

    fn handle_text<'m>(&mut self, text: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        let is_json = text.trim_ascii_start().starts_with(b"{");
        let control = if is_json { Control::Json } else { Control::Plain };
        let words = Words::read(text, control, b"event")?;
        let event = if words.is(b"MEDIA_START") {
            self.control = control;
            self.on_start(&words)
        } else if words.is(b"DTMF_END") {
            words.field("digit").as_ref().and_then(digit).map_or(Event::Unknown, Event::Dtmf)
        } else if words.is(b"MEDIA_MARK_PROCESSED") {
            self.marks = Marks::Known;
            match words.id() {
                Some(PROBE) => Event::None,
                Some(id) if id.len() <= crate::dialect::MAX_MARK => Event::Heard(id),
                Some(_) | None => Event::Unknown,
            }
        } else if words.is(b"MEDIA_XOFF") {
            self.is_full = true;
            Event::None
        } else if words.is(b"MEDIA_XON") {
            self.is_full = false;
            Event::None
        } else if words.is(b"QUEUE_DRAINED") || words.is(b"MEDIA_BUFFERING_COMPLETED") || words.is(b"STATUS") {
            Event::None
        } else if words.is(b"ERROR") {
            match words.field("error_text") {
                Some(Value::Str(told)) => Event::Fault(str::from_utf8(told).unwrap_or_default()),
                Some(_) | None => Event::Unknown,
            }
        } else {
            Event::Unknown
        };
        Ok(Incoming { audio: Audio::None, event })
    }

    fn handle_binary<'m>(&mut self, payload: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        Ok(Incoming { audio: Audio::Take { format: self.expected(), bytes: payload }, event: Event::None })
    }
}

/// The mark by which the PBX shows that it knows marks. No other of ours is called so.
const PROBE: &str = "trunkline";

/// 40 ms at 48 kHz (samples).
const LONGEST_FRAME: usize = 1_920;

const NO_SUCH_FORMAT: &str =
    "the PBX's format is none that is spoken here; write c(slin16), c(slin), c(ulaw) or c(alaw) into its dial string";

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]
mod tests {
    use super::*;
    use crate::dialect::{
        OptionValue, StopReason,
        ozonetel::tests::{STAMP, event, facts, said, samples, written},
    };

    /// As `chan_websocket.c` prints it since 20.17, 22.7 and 23.1.
    const START: &str = "MEDIA_START connection_id:trunkline channel:WebSocket/trunkline/0x7f1c04009a90 \
                         channel_id:1754500000.42 format:slin16 optimal_frame_size:640 ptime:20";
    /// As releases before them do.
    const OLD_START: &str = "MEDIA_START connection_id:trunkline channel:WebSocket/trunkline/0x7f1c04009a90 \
                             format:ulaw optimal_frame_size:160 ptime:20";
    const JSON_START: &str = concat!(
        r#"{"event":"MEDIA_START","connection_id":"trunkline","channel":"WebSocket/trunkline/0x7f1c04009a90","#,
        r#""channel_id":"1754500000.42","format":"slin24","optimal_frame_size":960,"ptime":20,"#,
        r#""channel_variables":{"MEDIA_WEBSOCKET_CONNECTION_ID":"trunkline","MEDIA_WEBSOCKET_OPTIMAL_FRAME_SIZE":"960","#,
        r#""from":"15550100011","to":"201","lane":"sales"}}"#
    );

    fn agent(options: &[(&str, OptionValue<'_>)]) -> Agent {
        let mut set = Options::default();
        for &(key, value) in options {
            set.set(key, value).unwrap();
        }
        Agent::new(Rate::Hz16000, &set)
    }

    fn begun(start: &str) -> Agent {
        let mut agent = agent(&[]);
        assert_eq!(event(&mut agent, start), Event::Start);
        agent
    }

    fn due(agent: &mut Agent) -> Option<String> {
        let (there, text) = written(|out| agent.write_due(&facts(), STAMP, out));
        there.then_some(text)
    }

    #[test]
    fn the_start_tells_the_call_and_its_format_in_both_spellings() {
        let plain = begun(START);
        assert_eq!((plain.rate(), plain.chunk(), plain.unit()), (Rate::Hz16000, 320, 320));
        let told = plain.facts().unwrap();
        assert_eq!((told.stream_sid.as_str(), told.call_sid.as_str()), ("trunkline", "1754500000.42"));
        let json = begun(JSON_START);
        assert_eq!((json.rate(), json.chunk()), (Rate::Hz24000, 480));
        let told = json.facts().unwrap();
        assert_eq!((told.stream_sid.as_str(), told.call_sid.as_str()), ("trunkline", "1754500000.42"));
        assert_eq!((told.from.as_str(), told.to.as_str()), ("15550100011", "201"));
        // The PBX's own variables are in capitals, and would leave no room.
        assert!(told.custom.iter().eq([("lane", "sales")]));
    }

    #[test]
    fn audio_that_overtakes_the_start_is_heard_in_the_format_of_the_config() {
        let mut early = agent(&[("encoding", OptionValue::Str("alaw"))]);
        assert_eq!(early.rate(), Rate::Hz8000);
        let incoming = early.handle_binary(&[0xd5, 0x2a]).unwrap();
        assert_eq!(samples(incoming.audio).unwrap(), [8, -32_256 + 4 * 128 - 512]);
        assert_eq!(early.facts(), None, "the call begins with its start");
        let mut early = agent(&[]);
        // The first byte is a brace: this is still audio.
        assert_eq!(samples(early.handle_binary(b"{\x01\xff\xff").unwrap().audio).unwrap(), [0x017b, -1]);
    }

    #[test]
    fn g711_is_coded_as_the_start_says() {
        let mut ulaw = begun(OLD_START);
        assert_eq!((ulaw.rate(), ulaw.chunk()), (Rate::Hz8000, 160));
        assert_eq!(samples(ulaw.handle_binary(&[0xff, 0x80, 0x00]).unwrap().audio).unwrap(), [0, 32_124, -32_124]);
        let mut space = [0; 8];
        let mut out = Message::new(&mut space);
        ulaw.write_audio(&[0, 32_124, -32_124], &facts(), STAMP, &mut out).unwrap();
        assert_eq!((out.bytes(), out.is_binary()), (&[0xff, 0x80, 0x00][..], true));
    }

    #[test]
    fn a_format_that_would_be_noise_ends_the_call_with_what_to_write() {
        // In passthrough the frames have no size.
        for format in ["opus", "g722", "slin12", "slin44"] {
            let text = START.replace("slin16", format).replace(":640", ":0");
            assert_eq!(event(&mut agent(&[]), &text), Event::Broken(NO_SUCH_FORMAT));
        }
    }

    #[test]
    fn a_release_shows_by_a_first_mark_that_it_knows_marks_and_bears_pings() {
        let mut agent = begun(START);
        assert!(!agent.pings(), "before 20.18 and 22.8 a ping ends the call");
        assert_eq!(said(&mut agent, Say::Mark("m1")), None);
        assert_eq!(due(&mut agent).unwrap(), "MARK_MEDIA trunkline");
        assert_eq!(due(&mut agent), None);
        assert_eq!(event(&mut agent, "MEDIA_MARK_PROCESSED trunkline"), Event::None);
        assert!(agent.pings());
        assert_eq!(said(&mut agent, Say::Mark("m1")).unwrap(), "MARK_MEDIA m1");
        assert_eq!(event(&mut agent, "MEDIA_MARK_PROCESSED m1"), Event::Heard("m1"));
    }

    #[test]
    fn a_release_without_the_channels_id_is_asked_nothing_that_it_would_log() {
        let mut old = begun(OLD_START);
        assert_eq!(due(&mut old), None);
        assert!(!old.pings());
        assert_eq!(said(&mut old, Say::Mark("m1")), None);
    }

    #[test]
    fn a_release_that_speaks_json_knows_marks_and_pings() {
        let mut json = begun(JSON_START);
        assert_eq!(due(&mut json), None);
        assert!(json.pings());
        assert_eq!(said(&mut json, Say::Mark("m1")).unwrap(), r#"{"command":"MARK_MEDIA","correlation_id":"m1"}"#);
        assert_eq!(
            event(&mut json, r#"{"event":"MEDIA_MARK_PROCESSED","channel_id":"1754500000.42","correlation_id":"m1"}"#),
            Event::Heard("m1")
        );
    }

    #[test]
    fn pings_are_sent_or_not_where_the_config_says_so() {
        let pings = |word, start| {
            let mut agent = agent(&[("ping", OptionValue::Str(word))]);
            event(&mut agent, start);
            agent.pings()
        };
        assert!(pings("always", OLD_START) && !pings("never", JSON_START));
    }

    #[test]
    fn a_mark_that_would_not_be_read_is_not_asked_for() {
        let mut json = begun(JSON_START);
        // Each byte needs six.
        assert_eq!(said(&mut json, Say::Mark(&"\u{1}".repeat(20))), None);
        let longest = "m".repeat(64);
        assert!(said(&mut json, Say::Mark(&longest)).unwrap().len() <= 128);
        assert!(json.marks_are_ours());
    }

    #[test]
    fn a_flush_is_followed_by_a_continue_before_new_speech() {
        let mut plain = begun(START);
        due(&mut plain);
        assert_eq!(said(&mut plain, Say::Clear).unwrap(), "FLUSH_MEDIA");
        let (_, ahead) = written(|out| plain.write_ahead(&facts(), STAMP, out));
        assert_eq!(ahead, "CONTINUE_MEDIA");
        assert_eq!(due(&mut plain), None, "once");
        assert_eq!(plain.marks_on_clear(), MarksOnClear::Forget);
        let mut json = begun(JSON_START);
        assert_eq!(said(&mut json, Say::Clear).unwrap(), r#"{"command":"FLUSH_MEDIA"}"#);
        assert_eq!(due(&mut json).unwrap(), r#"{"command":"CONTINUE_MEDIA"}"#);
    }

    #[test]
    fn a_full_queue_gets_nothing_until_it_has_room() {
        for (start, xoff, xon) in [
            (START, "MEDIA_XOFF", "MEDIA_XON"),
            (
                JSON_START,
                r#"{"event":"MEDIA_XOFF","channel_id":"1754500000.42"}"#,
                r#"{"event":"MEDIA_XON","channel_id":"1754500000.42"}"#,
            ),
        ] {
            let mut agent = begun(start);
            assert_eq!((event(&mut agent, xoff), agent.takes_audio()), (Event::None, false));
            assert!(said(&mut agent, Say::Clear).is_some(), "it can be emptied");
            assert_eq!((event(&mut agent, xon), agent.takes_audio()), (Event::None, true));
        }
    }

    #[test]
    fn keys_and_errors_are_heard_in_both_spellings() {
        let mut agent = begun(START);
        for (text, told) in [
            ("DTMF_END digit:5 channel_id:1754500000.42", Event::Dtmf(b'5')),
            ("DTMF_END digit:# channel_id:1754500000.42", Event::Dtmf(b'#')),
            ("DTMF_END digit:x channel_id:1", Event::Unknown),
            ("DTMF_END", Event::Unknown),
            (r#"{"event":"DTMF_END","channel_id":"1754500000.42","digit":"*"}"#, Event::Dtmf(b'*')),
            (
                "ERROR channel_id:1754500000.42 error_text:MARK_MEDIA not supported in passthrough mode: no",
                Event::Fault("MARK_MEDIA not supported in passthrough mode: no"),
            ),
            (
                r#"{"event":"ERROR","channel_id":"1","error_text":"Unable to parse JSON command"}"#,
                Event::Fault("Unable to parse JSON command"),
            ),
            ("QUEUE_DRAINED", Event::None),
            ("MEDIA_BUFFERING_COMPLETED", Event::None),
            ("MEDIA_BUFFERING_COMPLETED s1", Event::None),
            (
                "STATUS channel_id:1754500000.42 queue_length:43 xon_level:800 xoff_level:900 queue_full:false \
                 bulk_media:true media_paused:false",
                Event::None,
            ),
            ("MEDIA_MARK_PROCESSED", Event::Unknown),
            ("media_xoff", Event::Unknown),
            ("", Event::Unknown),
        ] {
            assert_eq!(event(&mut agent, text), told, "{text}");
        }
        assert!(agent.takes_audio());
        assert!(agent.handle_text(b"{").is_err());
    }

    #[test]
    fn an_agent_hangs_up_by_a_word_and_answers_when_it_first_speaks() {
        let mut agent = agent(&[("answer", OptionValue::Bool(true))]);
        event(&mut agent, JSON_START);
        assert_eq!(due(&mut agent), None);
        let (_, ahead) = written(|out| agent.write_ahead(&facts(), STAMP, out));
        assert_eq!(ahead, r#"{"command":"ANSWER"}"#);
        assert_eq!(written(|out| agent.write_ahead(&facts(), STAMP, out)), (false, String::new()));
        assert_eq!(said(&mut agent, Say::HangUp).unwrap(), r#"{"command":"HANGUP"}"#);
        for say in [Say::Heard("m"), Say::Dtmf(b'1'), Say::Stop(StopReason::Ended), Say::BargeIn] {
            assert_eq!(said(&mut agent, say), None, "{say:?}");
        }
    }

    #[test]
    fn silence_fills_what_the_agent_leaves_open_and_no_more() {
        let mut agent = agent(&[("silence", OptionValue::Bool(true))]);
        let mut space = [0; 2_048];
        let mut at = |agent: &mut Agent, stream_ms| {
            let mut out = Message::new(&mut space);
            let stamp = Stamp { stream_ms, epoch_ms: 0 };
            let there = agent.write_due(&facts(), stamp, &mut out).unwrap();
            assert!(out.bytes().iter().all(|&byte| byte == 0));
            (there, out.len(), out.is_binary())
        };
        assert_eq!(at(&mut agent, 0), (false, 0, false), "nothing before the start");
        event(&mut agent, JSON_START);
        assert_eq!(at(&mut agent, 0), (true, 960, true));
        assert_eq!(at(&mut agent, 0), (false, 0, false));
        assert_eq!(at(&mut agent, 20), (true, 960, true));
        let mut out = [0; 2_048];
        let stamp = Stamp { stream_ms: 40, epoch_ms: 0 };
        for _ in 0..3 {
            agent.write_audio(&[7; 480], &facts(), stamp, &mut Message::new(&mut out)).unwrap();
        }
        assert_eq!(at(&mut agent, 80), (false, 0, false));
        assert_eq!(at(&mut agent, 100), (true, 960, true));
    }
}
