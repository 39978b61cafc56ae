//! The PBX's side: what Asterisk says to an application, for whoever has one to be tried.
//!
//! Its queue is not here but where its audio is played. How full it is, is reckoned: what came in is played at real
//! time. A pause is not played, so it is not obeyed.

use core::fmt::Write;

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    dialect::{
        Audio, Carrier, Dialect, Event, Facts, Format, Full, Incoming, MAX_MARK, Malformed, MarksOnClear, Message, Say,
        Stamp,
        asterisk::{Control, MAX_COMMAND, Options, Sound, words::Words},
        mark::Name,
    },
    media::Rate,
};

/// What Asterisk says and hears.
#[derive(Debug)]
pub struct Vendor {
    sound: Sound,
    control: Control,
    /// What goes back when it was played, the oldest first.
    pending: heapless::Deque<Pending, MOST_PENDING>,
    /// Events that are due.
    due: heapless::Deque<Due, MOST_DUE>,
    /// Samples that were not played yet, at this time of the stream (ms).
    waiting: u64,
    at_ms: u64,
    is_full: bool,
    tells_drained: bool,
    is_buffering: bool,
}

#[derive(Debug)]
struct Pending {
    event: &'static str,
    /// By what it is known to whoever plays; also what goes back, if it has one.
    name: heapless::String<MAX_MARK>,
    is_named: bool,
}

#[derive(Clone, Copy, Debug)]
enum Due {
    Xoff,
    Xon,
    Drained,
    Status,
    NotJson,
}

impl Vendor {
    /// A call that has not begun.
    #[must_use]
    pub const fn new(rate: Rate, options: &Options) -> Self {
        Self {
            sound: Sound::new(options.encoding, rate),
            control: options.control,
            pending: heapless::Deque::new(),
            due: heapless::Deque::new(),
            waiting: 0,
            at_ms: 0,
            is_full: false,
            tells_drained: false,
            is_buffering: false,
        }
    }

    fn on_command<'m>(&mut self, words: &Words<'m>) -> Event<'m> {
        if words.is(b"HANGUP") {
            Event::HangUp
        } else if words.is(b"FLUSH_MEDIA") {
            self.pending.clear();
            (self.waiting, self.is_buffering) = (0, false);
            Event::Clear
        } else if words.is(b"MARK_MEDIA") {
            self.on_mark("MEDIA_MARK_PROCESSED", "MARK_MEDIA", words.id())
        } else if words.is(b"STOP_MEDIA_BUFFERING") {
            self.is_buffering = false;
            self.on_mark("MEDIA_BUFFERING_COMPLETED", "STOP_MEDIA_BUFFERING", words.id())
        } else if words.is(b"START_MEDIA_BUFFERING") {
            self.is_buffering = true;
            Event::None
        } else if words.is(b"REPORT_QUEUE_DRAINED") {
            self.tells_drained = true;
            Event::None
        } else if words.is(b"GET_STATUS") {
            self.say_soon(Due::Status);
            Event::None
        } else if words.is(b"ANSWER") || words.is(b"CONTINUE_MEDIA") {
            Event::None
        } else {
            Event::Unknown
        }
    }

    fn on_mark<'m>(&mut self, event: &'static str, unnamed: &'static str, id: Option<&'m str>) -> Event<'m> {
        let name = id.unwrap_or(unnamed);
        // What cannot be told back as it came is better not told at all.
        let Ok(kept) = name.try_into() else { return Event::Unknown };
        match self.pending.push_back(Pending { event, name: kept, is_named: id.is_some() }) {
            Ok(()) => Event::Mark(name),
            Err(_) => Event::Unknown,
        }
    }

    fn say_soon(&mut self, due: Due) {
        // As many as anybody asks for at once; one who asks for more is told once less.
        let _ = self.due.push_back(due);
    }

    /// Time passes for what waits.
    fn play(&mut self, stamp: Stamp) {
        let passed = stamp.stream_ms.saturating_sub(self.at_ms);
        self.at_ms = self.at_ms.max(stamp.stream_ms);
        self.waiting = self.waiting.saturating_sub(passed * u64::from(self.sound.rate.hz()) / 1000);
        if self.is_full && self.frames() < XON {
            self.is_full = false;
            self.say_soon(Due::Xon);
        }
        if self.tells_drained && self.waiting == 0 {
            self.tells_drained = false;
            self.say_soon(Due::Drained);
        }
    }

    fn frames(&self) -> u64 {
        self.waiting / self.sound.rate.frame() as u64
    }

    fn write_start(&self, facts: &Facts, out: &mut Message<'_>) -> Result<(), Full> {
        let (rate, format) = (self.sound.rate, self.sound.name());
        let size = rate.frame() * self.sound.bytes_a_sample();
        let channel = "WebSocket/trunkline/0x1";
        if self.control == Control::Json {
            return out.json(&Start { facts, channel, format, size: size as u64 });
        }
        let Facts { stream_sid, call_sid, .. } = facts;
        let mut text = heapless::String::<LONGEST_TEXT>::new();
        write!(
            text,
            "MEDIA_START connection_id:{stream_sid} channel:{channel} channel_id:{call_sid} format:{format} \
             optimal_frame_size:{size} ptime:20"
        )
        .map_err(|_| Full)?;
        out.raw(text.as_bytes())
    }

    /// Writes an event that has at most the channel's id.
    fn write_bare(&self, event: &'static str, facts: &Facts, out: &mut Message<'_>) -> Result<(), Full> {
        match self.control {
            Control::Plain => out.raw(event.as_bytes()),
            Control::Json => out.json(&Bare { event, channel_id: &facts.call_sid }),
        }
    }

    fn write_status(&self, facts: &Facts, out: &mut Message<'_>) -> Result<(), Full> {
        let status = Status {
            event: "STATUS",
            channel_id: &facts.call_sid,
            queue_length: self.frames(),
            xon_level: XON,
            xoff_level: XOFF,
            queue_full: self.is_full,
            bulk_media: self.is_buffering,
            media_paused: false,
        };
        if self.control == Control::Json {
            return out.json(&status);
        }
        let Status { channel_id, queue_length, queue_full, bulk_media, .. } = status;
        let mut text = heapless::String::<LONGEST_TEXT>::new();
        write!(
            text,
            "STATUS channel_id:{channel_id} queue_length:{queue_length} xon_level:{XON} xoff_level:{XOFF} \
             queue_full:{queue_full} bulk_media:{bulk_media} media_paused:false"
        )
        .map_err(|_| Full)?;
        out.raw(text.as_bytes())
    }

    /// Tells a mark back. `false`: it was flushed, or never asked for.
    fn write_heard(&mut self, name: &str, facts: &Facts, out: &mut Message<'_>) -> Result<bool, Full> {
        let Some(at) = self.pending.iter().position(|pending| pending.name == name) else { return Ok(false) };
        let Some(Pending { event, is_named, .. }) = self.pending.iter().nth(at) else { return Ok(false) };
        let id = if *is_named { name } else { "" };
        match self.control {
            Control::Plain => {
                out.raw(event.as_bytes())?;
                if *is_named {
                    out.raw(b" ")?;
                    out.raw(id.as_bytes())?;
                }
            }
            Control::Json => {
                out.json(&Told { event, channel_id: &facts.call_sid, correlation_id: Name(id) })?;
            }
        }
        // They are played in their order.
        for _ in 0..=at {
            self.pending.pop_front();
        }
        Ok(true)
    }
}

impl Dialect for Vendor {
    fn name(&self) -> &'static str {
        "asterisk"
    }

    fn rate(&self) -> Rate {
        self.sound.rate
    }

    fn chunk(&self) -> usize {
        self.sound.rate.frame()
    }

    fn lead_ms(&self) -> u64 {
        60
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

    /// Whoever sends more is closed with 1009 (`AST_WEBSOCKET_MAX_RX_PAYLOAD_SIZE`).
    fn max_message(&self) -> u64 {
        65_535
    }

    fn handle_taken(&mut self, samples: u64) {
        self.waiting = self.waiting.saturating_add(samples);
        if !self.is_full && self.frames() >= XOFF {
            self.is_full = true;
            self.say_soon(Due::Xoff);
        }
    }

    /// They vanish from the queue, and no event says so.
    fn marks_on_clear(&self) -> MarksOnClear {
        MarksOnClear::Forget
    }

    fn facts(&self) -> Option<&Facts> {
        None
    }

    fn write_opening(&mut self, step: usize, facts: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        if step > 0 {
            return Ok(false);
        }
        self.write_start(facts, out)?;
        Ok(true)
    }

    fn write_due(&mut self, facts: &Facts, stamp: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        self.play(stamp);
        let Some(due) = self.due.front() else { return Ok(false) };
        match due {
            Due::Xoff => self.write_bare("MEDIA_XOFF", facts, out)?,
            Due::Xon => self.write_bare("MEDIA_XON", facts, out)?,
            Due::Drained => self.write_bare("QUEUE_DRAINED", facts, out)?,
            Due::Status => self.write_status(facts, out)?,
            // Only where JSON is spoken.
            Due::NotJson => out.json(&Fault {
                event: "ERROR",
                channel_id: &facts.call_sid,
                error_text: "Unable to parse JSON command",
            })?,
        }
        self.due.pop_front();
        Ok(true)
    }

    fn write_audio(&mut self, samples: &[i16], _: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<(), Full> {
        self.sound.write(samples, out)
    }

    fn write(&mut self, say: Say<'_>, facts: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        match say {
            Say::Heard(name) => self.write_heard(name, facts, out),
            Say::Dtmf(digit) => {
                let (digit, channel_id) = (char::from(digit), &facts.call_sid);
                if self.control == Control::Json {
                    let mut utf8 = [0; 4];
                    let digit = &*digit.encode_utf8(&mut utf8);
                    out.json(&Key { event: "DTMF_END", channel_id, digit })?;
                    return Ok(true);
                }
                let mut text = heapless::String::<LONGEST_TEXT>::new();
                write!(text, "DTMF_END digit:{digit} channel_id:{channel_id}").map_err(|_| Full)?;
                out.raw(text.as_bytes())?;
                Ok(true)
            }
            // The socket's end is the call's.
            Say::Stop(_)
            | Say::Clear
            | Say::Mark(_)
            | Say::HangUp
            | Say::Cleared { .. }
            | Say::BargeIn
            | Say::Wish(_)
            | Say::Held(_)
            | Say::Transfer(_) => Ok(false),
        }
    }

    fn handle_text<'m>(&mut self, text: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        let event = if text.len() > MAX_COMMAND {
            Event::Unknown
        } else {
            match Words::read(text, self.control, b"command") {
                Ok(words) => self.on_command(&words),
                Err(malformed) => {
                    self.say_soon(Due::NotJson);
                    return Err(malformed);
                }
            }
        };
        Ok(Incoming { audio: Audio::None, event })
    }

    fn handle_binary<'m>(&mut self, payload: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        Ok(Incoming { audio: Audio::Take { format: self.expected(), bytes: payload }, event: Event::None })
    }
}

struct Start<'a> {
    facts: &'a Facts,
    channel: &'static str,
    format: &'static str,
    size: u64,
}

impl Serialize for Start<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = serializer.serialize_map(None)?;
        members.serialize_entry("event", "MEDIA_START")?;
        members.serialize_entry("connection_id", self.facts.stream_sid.as_str())?;
        members.serialize_entry("channel", self.channel)?;
        members.serialize_entry("channel_id", self.facts.call_sid.as_str())?;
        members.serialize_entry("format", self.format)?;
        members.serialize_entry("optimal_frame_size", &self.size)?;
        members.serialize_entry("ptime", &20)?;
        members.serialize_entry("channel_variables", &Variables(self.facts))?;
        members.end()
    }
}

struct Variables<'a>(&'a Facts);

impl Serialize for Variables<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.parameters())
    }
}

#[derive(Serialize)]
struct Bare<'a> {
    event: &'static str,
    channel_id: &'a str,
}

#[derive(Serialize)]
struct Told<'a> {
    event: &'static str,
    channel_id: &'a str,
    correlation_id: Name<'a>,
}

#[derive(Serialize)]
struct Key<'a> {
    event: &'static str,
    channel_id: &'a str,
    digit: &'a str,
}

#[derive(Serialize)]
struct Fault<'a> {
    event: &'static str,
    channel_id: &'a str,
    error_text: &'static str,
}

#[derive(Serialize)]
struct Status<'a> {
    event: &'static str,
    channel_id: &'a str,
    queue_length: u64,
    xon_level: u64,
    xoff_level: u64,
    queue_full: bool,
    bulk_media: bool,
    media_paused: bool,
}

/// Frames in the queue at which a PBX wants no more, and below which it wants more again.
const XOFF: u64 = 900;
const XON: u64 = 800;

const MOST_PENDING: usize = 64;
const MOST_DUE: usize = 8;
/// Two ids, and what stands around them (bytes).
const LONGEST_TEXT: usize = 512;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]
mod tests {
    use super::*;
    use crate::dialect::{
        OptionValue, StopReason,
        ozonetel::tests::{event, facts, opening, said, written},
    };

    fn vendor(control: &str) -> Vendor {
        let mut options = Options::default();
        options.set("control", OptionValue::Str(control)).unwrap();
        Vendor::new(Rate::Hz16000, &options)
    }

    fn due(vendor: &mut Vendor, stream_ms: u64) -> Option<String> {
        let stamp = Stamp { stream_ms, epoch_ms: 0 };
        let (there, text) = written(|out| vendor.write_due(&facts(), stamp, out));
        there.then_some(text)
    }

    const ID: &str = "0f8b2c6e-51d4-4f0a-9e37-62a1c4d97b80";

    #[test]
    fn a_vendor_opens_as_asterisk_does_in_both_spellings() {
        assert_eq!(
            opening(&mut vendor("plain-text"), 0).unwrap(),
            format!(
                "MEDIA_START connection_id:abcdefgh2345 channel:WebSocket/trunkline/0x1 channel_id:{ID} format:slin16 \
                 optimal_frame_size:640 ptime:20"
            )
        );
        assert_eq!(
            opening(&mut vendor("json"), 0).unwrap(),
            format!(
                concat!(
                    r#"{{"event":"MEDIA_START","connection_id":"abcdefgh2345","channel":"WebSocket/trunkline/0x1","#,
                    r#""channel_id":"{}","format":"slin16","optimal_frame_size":640,"ptime":20,"#,
                    r#""channel_variables":{{"from":"+15550100011","to":"+15550100022"}}}}"#
                ),
                ID
            )
        );
        assert_eq!(opening(&mut vendor("json"), 1), None);
    }

    #[test]
    fn commands_are_obeyed_in_the_spelling_of_the_call_only() {
        let mut plain = vendor("plain-text");
        let mut json = vendor("json");
        for (verb, told) in [
            ("HANGUP", Event::HangUp),
            ("FLUSH_MEDIA", Event::Clear),
            ("START_MEDIA_BUFFERING", Event::None),
            ("ANSWER", Event::None),
            ("CONTINUE_MEDIA", Event::None),
            ("PAUSE_MEDIA", Event::Unknown),
            ("hangup", Event::Unknown),
        ] {
            let spelled = format!(r#"{{"command":"{verb}"}}"#);
            assert_eq!(event(&mut plain, verb), told, "{verb}");
            assert_eq!(event(&mut plain, &format!("{verb}\n")), told, "{verb}");
            assert_eq!(event(&mut json, &spelled), told, "{verb}");
            assert_eq!(event(&mut plain, &spelled), Event::Unknown, "{verb}");
        }
        assert!(json.handle_text(b"HANGUP").is_err());
        assert_eq!(
            due(&mut json, 0).unwrap(),
            format!(r#"{{"event":"ERROR","channel_id":"{ID}","error_text":"Unable to parse JSON command"}}"#)
        );
        assert_eq!(due(&mut json, 0), None);
    }

    #[test]
    fn a_command_of_more_than_128_bytes_is_ignored() {
        let mut plain = vendor("plain-text");
        let longest = format!("HANGUP {}", "x".repeat(121));
        assert_eq!(event(&mut plain, &longest), Event::HangUp);
        assert_eq!(event(&mut plain, &format!("{longest}x")), Event::Unknown);
        // The name of a mark is longer than what can be told back.
        assert_eq!(event(&mut plain, &format!("MARK_MEDIA {}", "m".repeat(65))), Event::Unknown);
    }

    #[test]
    fn marks_and_the_end_of_a_buffer_come_back_in_order_and_vanish_with_a_flush() {
        let mut plain = vendor("plain-text");
        for (command, name) in [
            ("MARK_MEDIA a b:c", "a b:c"),
            ("STOP_MEDIA_BUFFERING s1", "s1"),
            ("STOP_MEDIA_BUFFERING", "STOP_MEDIA_BUFFERING"),
            ("MARK_MEDIA", "MARK_MEDIA"),
        ] {
            assert_eq!(event(&mut plain, command), Event::Mark(name));
        }
        assert_eq!(said(&mut plain, Say::Heard("a b:c")).unwrap(), "MEDIA_MARK_PROCESSED a b:c");
        assert_eq!(said(&mut plain, Say::Heard("s1")).unwrap(), "MEDIA_BUFFERING_COMPLETED s1");
        assert_eq!(said(&mut plain, Say::Heard("STOP_MEDIA_BUFFERING")).unwrap(), "MEDIA_BUFFERING_COMPLETED");
        assert_eq!(event(&mut plain, "FLUSH_MEDIA"), Event::Clear);
        assert_eq!(said(&mut plain, Say::Heard("MARK_MEDIA")), None);

        let mut json = vendor("json");
        let mark = r#"{"command":"MARK_MEDIA","correlation_id":"m\"1"}"#;
        assert_eq!(event(&mut json, mark), Event::Mark(r#"m\"1"#));
        assert_eq!(
            said(&mut json, Say::Heard(r#"m\"1"#)).unwrap(),
            format!(r#"{{"event":"MEDIA_MARK_PROCESSED","channel_id":"{ID}","correlation_id":"m\"1"}}"#)
        );
        assert_eq!(event(&mut json, r#"{"command":"STOP_MEDIA_BUFFERING"}"#), Event::Mark("STOP_MEDIA_BUFFERING"));
        assert_eq!(
            said(&mut json, Say::Heard("STOP_MEDIA_BUFFERING")).unwrap(),
            format!(r#"{{"event":"MEDIA_BUFFERING_COMPLETED","channel_id":"{ID}","correlation_id":""}}"#)
        );
    }

    #[test]
    fn a_queue_of_900_frames_stops_the_agent_until_it_has_less_than_800() {
        let mut plain = vendor("plain-text");
        plain.handle_taken(899 * 320);
        assert_eq!(due(&mut plain, 0), None);
        plain.handle_taken(320);
        assert_eq!(due(&mut plain, 0).unwrap(), "MEDIA_XOFF");
        assert_eq!(event(&mut plain, "GET_STATUS"), Event::None);
        assert_eq!(
            due(&mut plain, 0).unwrap(),
            format!(
                "STATUS channel_id:{ID} queue_length:900 xon_level:800 xoff_level:900 queue_full:true bulk_media:false \
                 media_paused:false"
            )
        );
        assert_eq!(due(&mut plain, 2_000), None, "800 are left");
        assert_eq!(due(&mut plain, 2_020).unwrap(), "MEDIA_XON");
        assert_eq!(event(&mut plain, "REPORT_QUEUE_DRAINED"), Event::None);
        assert_eq!(due(&mut plain, 17_980), None);
        assert_eq!(due(&mut plain, 18_000).unwrap(), "QUEUE_DRAINED");
        assert_eq!(due(&mut plain, 18_020), None, "once");
        let mut json = vendor("json");
        json.handle_taken(900 * 320);
        assert_eq!(due(&mut json, 0).unwrap(), format!(r#"{{"event":"MEDIA_XOFF","channel_id":"{ID}"}}"#));
        event(&mut json, r#"{"command":"GET_STATUS"}"#);
        assert_eq!(
            due(&mut json, 0).unwrap(),
            format!(
                concat!(
                    r#"{{"event":"STATUS","channel_id":"{}","queue_length":900,"xon_level":800,"xoff_level":900,"#,
                    r#""queue_full":true,"bulk_media":false,"media_paused":false}}"#
                ),
                ID
            )
        );
        event(&mut json, r#"{"command":"FLUSH_MEDIA"}"#);
        assert_eq!(due(&mut json, 20).unwrap(), format!(r#"{{"event":"MEDIA_XON","channel_id":"{ID}"}}"#));
    }

    #[test]
    fn keys_are_told_when_they_end_and_nothing_tells_the_end_of_the_call() {
        let mut plain = vendor("plain-text");
        assert_eq!(said(&mut plain, Say::Dtmf(b'#')).unwrap(), format!("DTMF_END digit:# channel_id:{ID}"));
        assert_eq!(
            said(&mut vendor("json"), Say::Dtmf(b'5')).unwrap(),
            format!(r#"{{"event":"DTMF_END","channel_id":"{ID}","digit":"5"}}"#)
        );
        for say in
            [Say::Clear, Say::Mark("m"), Say::HangUp, Say::Stop(StopReason::Ended), Say::Cleared { unheard_ms: 1 }]
        {
            assert_eq!(said(&mut plain, say), None, "{say:?}");
        }
    }
}
