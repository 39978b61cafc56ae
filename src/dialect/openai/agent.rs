//! The server: stands in for the model.
//!
//! A response is opened by the client's `response.create` or by the first samples that are said, and is over when
//! nothing was said for a while, when the client cancels it, or when the caller is heard over it. Its messages are those
//! of the real server in its order, less the transcript, which nobody here knows.

use core::fmt::Write as _;

use heapless::Deque;

use crate::{
    dialect::{
        Audio, Carrier, Dialect, Event, Facts, Format, Full, Incoming, Malformed, MarksOnClear, Message, Say, Stamp,
        Text,
        json::{Members, Value},
        openai::{Options, Shape, Sound, session::Told},
        wish::{self, MAX_TARGET, Wish},
    },
    media::Rate,
};

/// One call as the server of a session.
#[derive(Debug)]
pub struct Agent {
    /// `None`: until the client's first `session.update` shows its own.
    chosen: Option<Shape>,
    shape: Shape,
    hears: Sound,
    speaks: Sound,
    started: bool,
    /// The caller's samples so far.
    heard: u64,
    /// The stream's time, as last told (ms).
    now_ms: u64,
    /// Numbers of messages, of items and of responses so far.
    events: u64,
    items: u64,
    responses: u64,
    response: Option<Response>,
    answers: Deque<Answer, 8>,
}

/// A response that was not told to its end.
#[derive(Clone, Copy, Debug)]
struct Response {
    number: u64,
    item: u64,
    step: Step,
    /// When it was opened or last had samples (ms).
    spoke_ms: u64,
    end: Option<End>,
}

/// Which message of a response is next. They are told in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Created,
    ItemAdded,
    InConversation,
    PartAdded,
    /// Samples, and behind them that they are all.
    Speaking,
    PartDone,
    ItemDone,
    Done,
}

/// Why a response ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Completed,
    /// The caller was heard.
    TurnDetected,
    ClientCancelled,
}

/// What a client's message is answered with.
#[derive(Debug)]
enum Answer {
    Updated,
    Cleared,
    Committed,
    Added,
    Truncated { item_id: Text, content_index: u64, audio_end_ms: u64 },
    Error { code: &'static str, message: &'static str, event_id: Text },
}

impl Agent {
    /// A call whose connection is open.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        Self {
            chosen: options.shape,
            shape: options.shape.unwrap_or(Shape::Ga),
            hears: options.sound,
            speaks: options.sound,
            started: false,
            heard: 0,
            now_ms: 0,
            events: 0,
            items: 0,
            responses: 0,
            response: None,
            answers: Deque::new(),
        }
    }

    fn answer(&mut self, answer: Answer) {
        // They are asked for after every message, and while one does not fit no further message is read.
        let _ = self.answers.push_back(answer);
    }

    fn start<'m>(&mut self) -> Event<'m> {
        if core::mem::replace(&mut self.started, true) { Event::None } else { Event::Start }
    }

    /// Obeys the formats of a session, as long as nobody has spoken.
    fn on_update<'m>(&mut self, seen: &Seen<'m>) -> Result<Event<'m>, Malformed> {
        let told = Told::of(seen.session)?;
        let (input, output) = (told.input.unwrap_or(self.hears), told.output.unwrap_or(self.speaks));
        if self.started && (input, output) != (self.hears, self.speaks) {
            self.answer(error("invalid_value", "the formats of a session that has begun cannot be changed", seen));
            return Ok(Event::None);
        }
        (self.hears, self.speaks) = (input, output);
        if self.chosen.is_none() {
            let shape = if told.is_beta && !told.is_ga { Shape::Beta } else { Shape::Ga };
            (self.chosen, self.shape) = (Some(shape), shape);
        }
        self.answer(Answer::Updated);
        Ok(self.start())
    }

    fn on_create_response(&mut self, seen: &Seen<'_>) {
        if self.response.is_some_and(|response| response.end.is_none()) {
            let message = "a response is being said already";
            self.answer(error("conversation_already_has_active_response", message, seen));
        } else if self.response.is_none() {
            self.open_response();
        }
    }

    fn open_response(&mut self) {
        self.responses += 1;
        self.items += 1;
        let (number, item) = (self.responses, self.items);
        self.response = Some(Response { number, item, step: Step::Created, spoke_ms: self.now_ms, end: None });
    }

    /// Ends the response, if there is one that has not ended; says whether.
    fn end_response(&mut self, end: End) -> bool {
        let Some(response) = self.response.as_mut().filter(|response| response.end.is_none()) else { return false };
        response.end = Some(end);
        true
    }

    fn on_cancel<'m>(&mut self, seen: &Seen<'m>) -> Event<'m> {
        if self.end_response(End::ClientCancelled) {
            return Event::Clear;
        }
        self.answer(error("response_cancel_not_active", "there is no response to cancel", seen));
        Event::None
    }

    /// Our own vendors tell of a key in the text of an item, and of a transfer in the output of a function.
    fn on_item<'m>(&mut self, item: Option<Value<'m>>) -> Result<Event<'m>, Malformed> {
        self.items += 1;
        self.answer(Answer::Added);
        let Some(mut item) = item.and_then(|item| item.object()) else { return Ok(Event::None) };
        while let Some((key, value)) = item.next()? {
            if let Some(transfer) = wish::output(&value).filter(|_| key.is(b"output")) {
                return Ok(Event::Transfer(transfer));
            }
            // A list of one part reads like the part itself, once it is without its brackets.
            let Some(Ok(mut part)) = value.array().filter(|_| key.is(b"content")).map(Members::object) else {
                continue;
            };
            while let Ok(Some((key, value))) = part.next() {
                if let (true, Value::Str([b'D', b'T', b'M', b'F', b':', b' ', digit])) = (key.is(b"text"), value) {
                    return Ok(Event::Dtmf(*digit));
                }
            }
        }
        Ok(Event::None)
    }

    /// Begins a message of this type.
    fn head(&self, kind: &str, out: &mut Message<'_>) -> Result<(), Full> {
        out.raw(br#"{"type":""#)?;
        out.raw(kind.as_bytes())?;
        out.raw(br#"","event_id":"event_"#)?;
        out.uint(self.events + 1)?;
        out.raw(b"\"")
    }

    /// Writes a message of a response with what all of them have, and `more` behind that.
    fn part(
        &self,
        response: Response,
        kind: &str,
        more: impl FnOnce(&mut Message<'_>) -> Result<(), Full>,
        out: &mut Message<'_>,
    ) -> Result<(), Full> {
        self.head(kind, out)?;
        out.raw(br#","response_id":"resp_"#)?;
        out.uint(response.number)?;
        out.raw(br#"","item_id":"item_"#)?;
        out.uint(response.item)?;
        out.raw(br#"","output_index":0,"content_index":0"#)?;
        more(out)?;
        out.raw(b"}")
    }

    fn write_session(&self, kind: &str, out: &mut Message<'_>) -> Result<(), Full> {
        self.head(kind, out)?;
        out.raw(br#","session":{"id":"sess_1","object":"realtime.session","#)?;
        match self.shape {
            Shape::Ga => {
                out.raw(br#""type":"realtime","model":"trunkline","output_modalities":["audio"],"audio":{"input":{"format":"#)?;
                out.raw(self.hears.ga().as_bytes())?;
                out.raw(br#"},"output":{"format":"#)?;
                out.raw(self.speaks.ga().as_bytes())?;
                out.raw(b"}}}}")
            }
            Shape::Beta => {
                out.raw(br#""modalities":["audio","text"],"input_audio_format":""#)?;
                out.raw(self.hears.beta().as_bytes())?;
                out.raw(br#"","output_audio_format":""#)?;
                out.raw(self.speaks.beta().as_bytes())?;
                out.raw(br#""}}"#)
            }
        }
    }

    fn write_answer(&self, answer: &Answer, out: &mut Message<'_>) -> Result<(), Full> {
        match answer {
            Answer::Updated => return self.write_session("session.updated", out),
            Answer::Cleared => self.head("input_audio_buffer.cleared", out)?,
            Answer::Committed => {
                self.head("input_audio_buffer.committed", out)?;
                out.raw(br#","previous_item_id":null,"item_id":"item_"#)?;
                out.uint(self.items)?;
                out.raw(b"\"")?;
            }
            Answer::Added => {
                self.head(self.in_conversation(), out)?;
                out.raw(br#","previous_item_id":null,"item":{"id":"item_"#)?;
                out.uint(self.items)?;
                out.raw(br#"","object":"realtime.item","type":"message","status":"completed","role":"user","#)?;
                out.raw(br#""content":[]}"#)?;
            }
            Answer::Truncated { item_id, content_index, audio_end_ms } => {
                self.head("conversation.item.truncated", out)?;
                out.raw(br#","item_id":"#)?;
                out.json_str(item_id)?;
                out.raw(br#","content_index":"#)?;
                out.uint(*content_index)?;
                out.raw(br#","audio_end_ms":"#)?;
                out.uint(*audio_end_ms)?;
            }
            Answer::Error { code, message, event_id } => {
                self.head("error", out)?;
                out.raw(br#","error":{"type":"invalid_request_error","param":null,"code":"#)?;
                out.json_str(code)?;
                out.raw(br#","message":"#)?;
                out.json_str(message)?;
                out.raw(br#","event_id":"#)?;
                if event_id.is_empty() {
                    out.raw(b"null")?;
                } else {
                    out.json_str(event_id)?;
                }
                out.raw(b"}")?;
            }
        }
        out.raw(b"}")
    }

    const fn in_conversation(&self) -> &'static str {
        match self.shape {
            Shape::Ga => "conversation.item.added",
            Shape::Beta => "conversation.item.created",
        }
    }

    /// Writes the next message of a response and moves it on; `None`: it is told to its end.
    fn write_step(&self, response: Response, out: &mut Message<'_>) -> Result<Option<Response>, Full> {
        let (ga, Response { number, item, end, .. }) = (self.shape == Shape::Ga, response);
        let next = match response.step {
            Step::Created | Step::Done => {
                let done = response.step == Step::Done;
                self.head(if done { "response.done" } else { "response.created" }, out)?;
                out.raw(br#","response":{"id":"resp_"#)?;
                out.uint(number)?;
                out.raw(br#"","object":"realtime.response","status":"#)?;
                out.raw(match end.filter(|_| done) {
                    None => br#""in_progress","status_details":null"#,
                    Some(End::Completed) => br#""completed","status_details":{"type":"completed"}"#,
                    Some(End::TurnDetected) => {
                        br#""cancelled","status_details":{"type":"cancelled","reason":"turn_detected"}"#
                    }
                    Some(End::ClientCancelled) => {
                        br#""cancelled","status_details":{"type":"cancelled","reason":"client_cancelled"}"#
                    }
                })?;
                out.raw(br#","output":[]}}"#)?;
                if done {
                    return Ok(None);
                }
                Step::ItemAdded
            }
            Step::ItemAdded | Step::ItemDone => {
                let done = response.step == Step::ItemDone;
                self.head(if done { "response.output_item.done" } else { "response.output_item.added" }, out)?;
                out.raw(br#","response_id":"resp_"#)?;
                out.uint(number)?;
                out.raw(br#"","output_index":0,"#)?;
                write_item(item, if done { end } else { None }, out)?;
                out.raw(b"}")?;
                if done { Step::Done } else { Step::InConversation }
            }
            Step::InConversation => {
                self.head(self.in_conversation(), out)?;
                out.raw(br#","previous_item_id":null,"#)?;
                write_item(item, None, out)?;
                out.raw(b"}")?;
                Step::PartAdded
            }
            Step::PartAdded | Step::PartDone => {
                let done = response.step == Step::PartDone;
                let kind = if done { "response.content_part.done" } else { "response.content_part.added" };
                self.part(response, kind, |out| out.raw(br#","part":{"type":"audio","transcript":""}"#), out)?;
                if done { Step::ItemDone } else { Step::Speaking }
            }
            Step::Speaking => {
                let kind = if ga { "response.output_audio.done" } else { "response.audio.done" };
                self.part(response, kind, |_| Ok(()), out)?;
                Step::PartDone
            }
        };
        Ok(Some(Response { step: next, ..response }))
    }

    /// Writes the next message of the response, unless it is samples that come next.
    fn write_response(&mut self, out: &mut Message<'_>) -> Result<bool, Full> {
        let Some(mut response) = self.response else { return Ok(false) };
        match (response.step, response.end) {
            // Nothing was said of it yet but that it is there.
            (Step::ItemAdded, Some(_)) => response.step = Step::Done,
            (Step::ItemAdded | Step::Speaking, None) => return Ok(false),
            _ => {}
        }
        self.response = self.write_step(response, out)?;
        self.events += 1;
        Ok(true)
    }
}

impl Dialect for Agent {
    fn name(&self) -> &'static str {
        "openai"
    }

    fn rate(&self) -> Rate {
        self.speaks.rate()
    }

    fn chunk(&self) -> usize {
        self.speaks.rate().samples(100)
    }

    fn lead_ms(&self) -> u64 {
        400
    }

    fn expected(&self) -> Format {
        Format { carrier: Carrier::Base64, coding: self.hears.coding(), rate: self.hears.rate() }
    }

    fn carrier(&self, key: &[u8], depth: usize) -> Option<Carrier> {
        (depth == 1 && key == b"audio").then_some(Carrier::Base64)
    }

    fn binary_is_audio(&self) -> bool {
        false
    }

    fn marks_ride_on_audio(&self) -> bool {
        false
    }

    /// 15 MiB of audio in base64, which is what the real server takes, and some.
    fn max_message(&self) -> u64 {
        24 << 20
    }

    fn max_text(&self) -> usize {
        1 << 20
    }

    fn handle_taken(&mut self, samples: u64) {
        self.heard += samples;
    }

    fn write_due(&mut self, _: &Facts, stamp: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        self.now_ms = stamp.stream_ms;
        if let Some(answer) = self.answers.front() {
            self.write_answer(answer, out)?;
            self.answers.pop_front();
            self.events += 1;
            return Ok(true);
        }
        if let Some(response) = &mut self.response
            && response.end.is_none()
            && stamp.stream_ms >= response.spoke_ms + SILENT_MS
        {
            response.end = Some(End::Completed);
        }
        self.write_response(out)
    }

    fn write_ahead(&mut self, _: &Facts, stamp: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        self.now_ms = stamp.stream_ms;
        match self.response {
            None => self.open_response(),
            // It was only there so far; now there is something to say.
            Some(response @ Response { step: Step::ItemAdded, end: None, .. }) => {
                self.response = self.write_step(response, out)?;
                self.events += 1;
                return Ok(true);
            }
            Some(_) => {}
        }
        self.write_response(out)
    }

    fn marks_on_clear(&self) -> MarksOnClear {
        MarksOnClear::Forget
    }

    /// A client tells nothing of whom it serves.
    fn facts(&self) -> Option<&Facts> {
        None
    }

    fn write_opening(&mut self, step: usize, _: &Facts, stamp: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        self.now_ms = stamp.stream_ms;
        if step > 0 {
            return Ok(false);
        }
        self.write_session("session.created", out)?;
        self.events += 1;
        Ok(true)
    }

    fn write_audio(&mut self, samples: &[i16], _: &Facts, stamp: Stamp, out: &mut Message<'_>) -> Result<(), Full> {
        // Whoever wrote what goes ahead has opened one.
        let Some(response) = self.response else { return Ok(()) };
        let kind = if self.shape == Shape::Ga { "response.output_audio.delta" } else { "response.audio.delta" };
        let law = self.speaks.law();
        let delta = |out: &mut Message<'_>| {
            out.raw(br#","delta":""#)?;
            match law {
                Some(law) => out.base64_g711(law, samples)?,
                None => out.base64_pcm16le(samples)?,
            }
            out.raw(b"\"")
        };
        self.part(response, kind, delta, out)?;
        self.events += 1;
        self.response = Some(Response { spoke_ms: stamp.stream_ms, ..response });
        Ok(())
    }

    fn write(&mut self, say: Say<'_>, _: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        match say {
            Say::Clear => {
                self.head("input_audio_buffer.speech_started", out)?;
                out.raw(br#","audio_start_ms":"#)?;
                out.uint(self.heard * 1000 / u64::from(self.hears.rate().hz()))?;
                out.raw(br#","item_id":"item_"#)?;
                out.uint(self.items + 1)?;
                out.raw(b"\"}")?;
                self.events += 1;
                self.items += 1;
                self.end_response(End::TurnDetected);
                Ok(true)
            }
            // A function call is an item of a response; that it is whole is all that a client has to see.
            Say::Wish(wish) => {
                let (name, key, value) = match wish {
                    Wish::Transfer(target) => ("transfer_call", "target", target.as_str()),
                    Wish::Digits(digits) => ("send_digits", "digits", digits.as_str()),
                };
                let mut arguments = heapless::String::<{ MAX_TARGET + 32 }>::new();
                // Fits, and has nothing in it that JSON escapes.
                let _ = write!(arguments, "{{\"{key}\":\"{value}\"}}");
                self.head("response.output_item.done", out)?;
                out.raw(br#","response_id":"resp_"#)?;
                out.uint(self.responses.max(1))?;
                out.raw(br#"","output_index":0,"item":{"id":"item_"#)?;
                out.uint(self.items + 1)?;
                out.raw(br#"","object":"realtime.item","type":"function_call","status":"completed","call_id":"call_"#)?;
                out.uint(self.items + 1)?;
                out.raw(br#"","name":"#)?;
                out.json_str(name)?;
                out.raw(br#","arguments":"#)?;
                out.json_str(&arguments)?;
                out.raw(b"}}")?;
                self.events += 1;
                self.items += 1;
                Ok(true)
            }
            Say::Mark(_)
            | Say::Heard(_)
            | Say::Dtmf(_)
            | Say::HangUp
            | Say::Stop(_)
            | Say::Cleared { .. }
            | Say::BargeIn
            | Say::Held(_)
            | Say::Transfer(_) => Ok(false),
        }
    }

    fn handle_text<'m>(&mut self, text: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        let seen = Seen::read(text)?;
        let event = match seen.kind.and_then(|kind| kind.plain()).unwrap_or_default() {
            "input_audio_buffer.append" => {
                let Some(Value::Str(bytes)) = seen.audio else { return Err(Malformed::Base64) };
                let audio = Audio::Take { format: self.expected(), bytes };
                return Ok(Incoming { audio, event: self.start() });
            }
            "session.update" => self.on_update(&seen)?,
            "input_audio_buffer.clear" => {
                self.answer(Answer::Cleared);
                Event::None
            }
            "input_audio_buffer.commit" => {
                self.items += 1;
                self.answer(Answer::Committed);
                Event::None
            }
            "response.create" => {
                self.on_create_response(&seen);
                Event::None
            }
            "response.cancel" => self.on_cancel(&seen),
            "conversation.item.create" => self.on_item(seen.item)?,
            "conversation.item.truncate" => {
                let mut item_id = Text::new();
                if let Some(id) = seen.item_id {
                    id.text(&mut item_id);
                }
                let number = |value: Option<Value<'_>>| value.and_then(|value| value.uint()).unwrap_or(0);
                let (content_index, audio_end_ms) = (number(seen.content_index), number(seen.audio_end_ms));
                self.answer(Answer::Truncated { item_id, content_index, audio_end_ms });
                Event::None
            }
            // WebRTC's, and what a stand-in has no memory for.
            "output_audio_buffer.clear" | "conversation.item.delete" | "conversation.item.retrieve" => Event::None,
            _ => Event::Unknown,
        };
        Ok(Incoming { audio: Audio::None, event })
    }

    fn handle_binary<'m>(&mut self, _: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        Err(Malformed::Binary)
    }
}

/// The item of a response, which ended like this if it did.
fn write_item(number: u64, end: Option<End>, out: &mut Message<'_>) -> Result<(), Full> {
    out.raw(br#""item":{"id":"item_"#)?;
    out.uint(number)?;
    out.raw(br#"","object":"realtime.item","type":"message","role":"assistant","content":[],"status":"#)?;
    out.raw(match end {
        None => br#""in_progress"}"#,
        Some(End::Completed) => br#""completed"}"#,
        Some(End::TurnDetected | End::ClientCancelled) => br#""incomplete"}"#,
    })
}

fn error(code: &'static str, message: &'static str, about: &Seen<'_>) -> Answer {
    let mut event_id = Text::new();
    if let Some(id) = about.event_id {
        id.text(&mut event_id);
    }
    Answer::Error { code, message, event_id }
}

/// The members of a message that matter, in whichever order they came.
#[derive(Default)]
struct Seen<'m> {
    kind: Option<Value<'m>>,
    audio: Option<Value<'m>>,
    event_id: Option<Value<'m>>,
    session: Option<Value<'m>>,
    item: Option<Value<'m>>,
    item_id: Option<Value<'m>>,
    content_index: Option<Value<'m>>,
    audio_end_ms: Option<Value<'m>>,
}

impl<'m> Seen<'m> {
    fn read(text: &'m [u8]) -> Result<Self, Malformed> {
        let mut seen = Self::default();
        let mut members = Members::object(text)?;
        while let Some((key, value)) = members.next()? {
            let slots = [
                (&b"type"[..], &mut seen.kind),
                (b"audio", &mut seen.audio),
                (b"event_id", &mut seen.event_id),
                (b"session", &mut seen.session),
                (b"item", &mut seen.item),
                (b"item_id", &mut seen.item_id),
                (b"content_index", &mut seen.content_index),
                (b"audio_end_ms", &mut seen.audio_end_ms),
            ];
            if let Some((_, slot)) = slots.into_iter().find(|(name, _)| key.is(name)) {
                *slot = Some(value);
            }
        }
        Ok(seen)
    }
}

/// A response to which nothing was added for so long is complete (ms).
const SILENT_MS: u64 = 500;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]
mod tests {
    use super::*;
    use crate::dialect::{
        OptionError, OptionValue, Speaker, StopReason,
        openai::Vendor,
        ozonetel::tests::{STAMP, event, facts, in_pieces, noise, opening, said, samples, written},
    };

    fn open(options: &[(&str, OptionValue<'_>)]) -> Agent {
        Agent::new(&set(options))
    }

    fn set(options: &[(&str, OptionValue<'_>)]) -> Options {
        let mut set = Options::default();
        for &(key, value) in options {
            set.set(key, value).unwrap();
        }
        set
    }

    fn due_at(dialect: &mut dyn Dialect, stream_ms: u64) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let stamp = Stamp { stream_ms, ..STAMP };
            let (there, text) = written(|out| dialect.write_due(&facts(), stamp, out));
            if !there {
                return all;
            }
            all.push(text);
        }
    }

    fn due(dialect: &mut dyn Dialect) -> Vec<String> {
        due_at(dialect, STAMP.stream_ms)
    }

    /// What goes out when this is said, as a leg does it.
    fn speak(agent: &mut Agent, samples: &[i16]) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let (there, text) = written(|out| agent.write_ahead(&facts(), STAMP, out));
            if !there {
                break;
            }
            all.push(text);
        }
        all.push(written(|out| agent.write_audio(samples, &facts(), STAMP, out)).1);
        all
    }

    fn kinds(texts: &[String]) -> Vec<&str> {
        texts.iter().map(|text| text.split('"').nth(3).unwrap()).collect()
    }

    // A session.update as the Python SDK's client sends it, and one of the beta's.
    const UPDATE: &str = concat!(
        r#"{"session":{"type":"realtime","audio":{"input":{"format":{"type":"audio/pcmu"}},"#,
        r#""output":{"format":{"type":"audio/pcm","rate":24000},"voice":"marin"}}},"type":"session.update"}"#
    );
    const BETA_UPDATE: &str = concat!(
        r#"{"type":"session.update","event_id":"event_123","session":{"modalities":["text","audio"],"#,
        r#""voice":"sage","input_audio_format":"g711_ulaw","output_audio_format":"g711_ulaw","#,
        r#""turn_detection":{"type":"server_vad"}}}"#
    );

    #[test]
    fn a_session_is_there_before_the_client_says_a_word_and_takes_on_its_formats() {
        let mut agent = open(&[]);
        let created = opening(&mut agent, 0).unwrap();
        let expected = concat!(
            r#"{"type":"session.created","event_id":"event_1","session":{"id":"sess_1","object":"realtime.session","#,
            r#""type":"realtime","model":"trunkline","output_modalities":["audio"],"audio":{"#,
            r#""input":{"format":{"type":"audio/pcm","rate":24000}},"output":{"format":{"type":"audio/pcm","rate":24000}}}}}"#
        );
        assert_eq!(created, expected);
        assert_eq!((opening(&mut agent, 1), due(&mut agent)), (None, vec![]));
        assert_eq!(event(&mut agent, UPDATE), Event::Start);
        let updated = due(&mut agent);
        assert_eq!(kinds(&updated), ["session.updated"]);
        assert!(updated[0].contains(r#""audio":{"input":{"format":{"type":"audio/pcmu"}},"output":{"format":{"type":"audio/pcm","rate":24000}}}"#));
        assert_eq!((agent.expected().coding, agent.expected().rate), (crate::dialect::Coding::Mulaw, Rate::Hz8000));
        assert_eq!((agent.rate(), agent.chunk()), (Rate::Hz24000, 2_400));
        assert_eq!(event(&mut agent, r#"{"type":"session.update","session":{"tools":[]}}"#), Event::None, "once");
        assert_eq!(kinds(&due(&mut agent)), ["session.updated"]);
        assert_eq!(event(&mut agent, BETA_UPDATE), Event::None);
        let refused = due(&mut agent);
        assert!(refused[0].starts_with(r#"{"type":"error","#) && refused[0].ends_with(r#""event_id":"event_123"}}"#));
        assert_eq!(agent.rate(), Rate::Hz24000, "a session that has begun");
    }

    #[test]
    fn a_client_of_the_beta_is_answered_in_its_shape() {
        let mut agent = open(&[]);
        event(&mut agent, BETA_UPDATE);
        let updated = due(&mut agent);
        assert!(
            updated[0].contains(r#""input_audio_format":"g711_ulaw","output_audio_format":"g711_ulaw""#),
            "{updated:?}"
        );
        assert_eq!(agent.rate(), Rate::Hz8000);
        let said = speak(&mut agent, &[0, 32_124]);
        let expected = [
            "response.created",
            "response.output_item.added",
            "conversation.item.created",
            "response.content_part.added",
            "response.audio.delta",
        ];
        assert_eq!(kinds(&said), expected);
        assert!(said[4].ends_with(r#""delta":"/4A="}"#), "{said:?}");
        let mut beta = open(&[("api", OptionValue::Str("beta")), ("audio", OptionValue::Str("pcma"))]);
        assert!(opening(&mut beta, 0).unwrap().contains(r#""input_audio_format":"g711_alaw""#));
        event(&mut beta, UPDATE);
        assert!(due(&mut beta)[0].contains(r#""input_audio_format":"g711_ulaw""#), "the shape was chosen");
    }

    #[test]
    fn a_response_is_told_in_the_servers_order_from_its_first_samples_to_half_a_second_after_its_last() {
        let mut agent = open(&[]);
        event(&mut agent, UPDATE);
        due(&mut agent);
        let said = speak(&mut agent, &[1, -1]);
        let expected = [
            "response.created",
            "response.output_item.added",
            "conversation.item.added",
            "response.content_part.added",
            "response.output_audio.delta",
        ];
        assert_eq!(kinds(&said), expected);
        let delta = concat!(
            r#"{"type":"response.output_audio.delta","event_id":"event_6","response_id":"resp_1","item_id":"item_1","#,
            r#""output_index":0,"content_index":0,"delta":"AQD//w=="}"#
        );
        assert_eq!(said[4], delta);
        assert_eq!(kinds(&speak(&mut agent, &[2])), ["response.output_audio.delta"]);
        assert_eq!(due_at(&mut agent, STAMP.stream_ms + 499), [""; 0]);
        let done = due_at(&mut agent, STAMP.stream_ms + 500);
        let expected =
            ["response.output_audio.done", "response.content_part.done", "response.output_item.done", "response.done"];
        assert_eq!(kinds(&done), expected);
        assert!(done[3].contains(r#""id":"resp_1","object":"realtime.response","status":"completed""#), "{done:?}");
        assert!(speak(&mut agent, &[3])[4].contains(r#""response_id":"resp_2","item_id":"item_2""#));
    }

    #[test]
    fn a_caller_that_is_heard_over_a_response_ends_it() {
        let mut agent = open(&[]);
        event(&mut agent, UPDATE);
        agent.handle_taken(8_000);
        speak(&mut agent, &[1]);
        due(&mut agent);
        let started = said(&mut agent, Say::Clear).unwrap();
        assert!(started.starts_with(r#"{"type":"input_audio_buffer.speech_started","event_id":"#), "{started}");
        assert!(started.ends_with(r#""audio_start_ms":1000,"item_id":"item_2"}"#), "{started}");
        // The next words come before anything was read: the old response is told to its end first.
        let said = speak(&mut agent, &[1]);
        assert_eq!(
            kinds(&said)[..5],
            [
                "response.output_audio.done",
                "response.content_part.done",
                "response.output_item.done",
                "response.done",
                "response.created"
            ]
        );
        assert!(
            said[3].contains(r#""status":"cancelled","status_details":{"type":"cancelled","reason":"turn_detected"}"#)
        );
    }

    #[test]
    fn a_client_can_ask_for_a_response_and_take_it_back() {
        let mut agent = open(&[]);
        event(&mut agent, UPDATE);
        due(&mut agent);
        let cancel = r#"{"type":"response.cancel","event_id":"mine"}"#;
        assert_eq!(event(&mut agent, cancel), Event::None);
        let refused = due(&mut agent);
        assert!(refused[0].contains(r#""code":"response_cancel_not_active""#), "{refused:?}");
        assert!(refused[0].ends_with(r#""event_id":"mine"}}"#), "{refused:?}");

        let create = r#"{"type":"response.create"}"#;
        assert_eq!(event(&mut agent, create), Event::None);
        assert_eq!(kinds(&due(&mut agent)), ["response.created"]);
        event(&mut agent, create);
        assert!(due(&mut agent)[0].contains(r#""code":"conversation_already_has_active_response""#));
        assert_eq!(kinds(&speak(&mut agent, &[1]))[0], "response.output_item.added", "in the response that is there");
        assert_eq!(event(&mut agent, cancel), Event::Clear);
        let done = due(&mut agent);
        assert!(done[3].contains(r#""reason":"client_cancelled""#), "{done:?}");

        event(&mut agent, create);
        due(&mut agent);
        let silent = due_at(&mut agent, STAMP.stream_ms + 500);
        assert_eq!(kinds(&silent), ["response.done"], "nothing was said in it");
    }

    #[test]
    fn what_a_client_sends_is_acknowledged() {
        let mut agent = open(&[]);
        for (text, answer) in [
            (r#"{"type":"input_audio_buffer.clear"}"#, "input_audio_buffer.cleared"),
            (r#"{"type":"input_audio_buffer.commit"}"#, "input_audio_buffer.committed"),
            (
                r#"{"type":"conversation.item.truncate","item_id":"i\"1","content_index":0,"audio_end_ms":1460}"#,
                "conversation.item.truncated",
            ),
            (
                r#"{"type":"conversation.item.create","item":{"type":"message","role":"user","content":[{"type":"input_text","text":"hi"}]}}"#,
                "conversation.item.added",
            ),
        ] {
            assert_eq!(event(&mut agent, text), Event::None);
            let answers = due(&mut agent);
            assert_eq!(kinds(&answers), [answer]);
            assert!(
                answer != "conversation.item.truncated"
                    || answers[0].ends_with(r#""item_id":"i\"1","content_index":0,"audio_end_ms":1460}"#)
            );
        }
        for text in ["{}", r#"{"type":"session.created"}"#, r#"{"type":7}"#] {
            assert_eq!(event(&mut agent, text), Event::Unknown, "{text}");
        }
        let no_audio = r#"{"type":"input_audio_buffer.append"}"#;
        assert_eq!(agent.handle_text(no_audio.as_bytes()), Err(Malformed::Base64));
        assert_eq!(agent.handle_binary(b"\0\0"), Err(Malformed::Binary));
        for say in [Say::Mark("m"), Say::Heard("m"), Say::Dtmf(b'1'), Say::HangUp, Say::Stop(StopReason::Ended)] {
            assert_eq!(said(&mut agent, say), None, "{say:?}");
        }
    }

    #[test]
    fn a_client_that_only_talks_begins_the_call_with_its_first_words() {
        let mut agent = open(&[]);
        let append = r#"{"event_id":"event_456","type":"input_audio_buffer.append","audio":"AQD//w=="}"#;
        let incoming = agent.handle_text(append.as_bytes()).unwrap();
        assert_eq!((samples(incoming.audio).unwrap(), incoming.event), (vec![1, -1], Event::Start));
        assert_eq!(agent.handle_text(append.as_bytes()).unwrap().event, Event::None);
    }

    #[test]
    fn fifteen_mebibytes_of_audio_fit_one_message() {
        let bytes = vec![0; 15 << 20];
        let text = format!(
            r#"{{"audio":"{}","type":"input_audio_buffer.append"}}"#,
            base64_simd::STANDARD.encode_to_string(bytes)
        );
        let mut agent = open(&[]);
        assert!((text.len() as u64) < agent.max_message());
        let heard = in_pieces(&mut agent, &text, 16_384, |incoming| assert_eq!(incoming.event, Event::Start));
        assert_eq!(heard.len(), 15 << 19);
    }

    /// All that is due on either side, until neither has a word to say.
    fn settle(vendor: &mut Vendor, agent: &mut Agent) -> Vec<Event<'static>> {
        let mut events = Vec::new();
        loop {
            let (ours, theirs) = (due(vendor), due(agent));
            if ours.is_empty() && theirs.is_empty() {
                return events;
            }
            events.extend(ours.into_iter().map(|text| event(agent, text.leak())));
            events.extend(theirs.into_iter().map(|text| event(vendor, text.leak())));
        }
    }

    #[test]
    fn two_sides_understand_each_other_for_a_whole_call() {
        for api in ["auto", "ga", "beta"] {
            for sound in ["pcm", "pcmu", "pcma"] {
                let options = set(&[("api", OptionValue::Str(api)), ("audio", OptionValue::Str(sound))]);
                // The agent learns the format from the session, and the shape where it may.
                let agent = if api == "auto" { Options::default() } else { set(&[("api", OptionValue::Str(api))]) };
                whole_call(Vendor::new(&options), Agent::new(&agent), sound == "pcm");
            }
        }
    }

    fn whole_call(mut vendor: Vendor, mut agent: Agent, exact: bool) {
        let created = opening(&mut agent, 0).unwrap();
        event(&mut vendor, &created);
        assert_eq!(settle(&mut vendor, &mut agent)[0], Event::Start);
        assert!(vendor.takes_audio());
        assert_eq!((vendor.rate(), vendor.expected()), (agent.rate(), agent.expected()));

        let caller = noise(vendor.chunk());
        let text = crate::dialect::ozonetel::tests::audio(&mut vendor, &caller);
        let heard = samples(agent.handle_text(text.as_bytes()).unwrap().audio).unwrap();
        assert!(if exact { heard == caller } else { heard.len() == caller.len() });

        let mut heard = Vec::new();
        for text in speak(&mut agent, &caller) {
            let incoming = vendor.handle_text(text.as_bytes()).unwrap();
            if let Some(samples) = samples(incoming.audio) {
                vendor.handle_taken(samples.len() as u64);
                heard.extend(samples);
            }
        }
        assert!(if exact { heard == caller } else { heard.len() == caller.len() });
        assert_eq!(event(&mut agent, &said(&mut vendor, Say::Dtmf(b'*')).unwrap()), Event::Dtmf(b'*'));
        settle(&mut vendor, &mut agent);

        let started = said(&mut agent, Say::Clear).unwrap();
        assert_eq!(event(&mut vendor, &started), Event::Clear);
        assert_eq!(said(&mut vendor, Say::Cleared { unheard_ms: 10 }).unwrap(), "");
        let truncates = due(&mut vendor);
        assert!(truncates[0].contains(r#""audio_end_ms":10}"#), "{truncates:?}");
        assert_eq!(event(&mut agent, &truncates[0]), Event::None);
        let answers = due(&mut agent);
        assert_eq!(kinds(&answers)[0], "conversation.item.truncated");
        assert!(kinds(&answers).contains(&"response.done"), "{answers:?}");
        for text in &answers {
            assert_eq!(event(&mut vendor, text), Event::None);
        }
    }

    #[test]
    fn transcripts_of_a_real_server_are_the_vendors_alone() {
        let text = r#"{"type":"response.output_audio_transcript.done","transcript":"hi"}"#;
        assert_eq!(event(&mut open(&[]), text), Event::Unknown);
        let expected = Event::Transcript { speaker: Speaker::Agent, text: "hi", whole: true };
        assert_eq!(event(&mut Vendor::new(&Options::default()), text), expected);
    }

    #[test]
    fn options_take_what_they_say_and_nothing_else() {
        let mut options = Options::default();
        for info in Options::KNOWN {
            let value = match (info.default.parse(), info.default.parse()) {
                (Ok(number), _) => OptionValue::Int(number),
                (_, Ok(flag)) => OptionValue::Bool(flag),
                _ => OptionValue::Str(info.default.trim_matches('"')),
            };
            assert_eq!(options.set(info.key, value), Ok(()), "{}", info.key);
            assert!(matches!(options.set(info.key, OptionValue::Str("")), Err(OptionError::Expected(_))));
            assert!(matches!(options.set(info.key, OptionValue::Int(i64::MIN)), Err(OptionError::Expected(_))));
        }
        assert_eq!(options.set("rotate_minutes", OptionValue::Int(5)), Err(OptionError::Unknown));
        for n in [0, 10, 30, 120] {
            assert!(options.set("chunk-ms", OptionValue::Int(n)).is_err(), "{n}");
        }
        assert_eq!((options.model(), options.session_file()), (Some("gpt-realtime"), Some("session.json")));
    }
}
