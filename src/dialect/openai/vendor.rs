//! The client: has the caller, and configures the session.

use heapless::Deque;
use serde::Serialize;

use crate::{
    dialect::{
        Audio, Carrier, Dialect, Event, Facts, Format, Full, Incoming, Malformed, MarksOnClear, Message, Say, Speaker,
        Stamp, Text,
        json::{Members, Value},
        openai::{
            Options, Shape, Sound,
            session::Told,
            spoken::{MOST, Spoken, Truncate},
        },
        wish::{Asked, Transfer},
    },
    media::Rate,
};

/// One call as the client of a session.
#[derive(Debug)]
pub struct Vendor {
    options: Options,
    stage: Stage,
    /// How the agent is coded: as we asked, unless the session says otherwise.
    hears: Sound,
    /// The stream's time, as last told (ms).
    now_ms: u64,
    created_ms: u64,
    /// The session's age was told of.
    is_told: bool,
    greeting: bool,
    /// The response that the server is at.
    active: Option<Text>,
    /// The response that audio came of last.
    latest: Text,
    /// What still comes of this response is not heard.
    interrupted: Text,
    /// The server stops its response by itself when the caller speaks.
    interrupts: bool,
    /// Since the caller began to speak there was no response.
    caller_speaks: bool,
    spoken: Spoken,
    truncates: Deque<Truncate, MOST>,
    cancel: Option<Text>,
    /// When what the model hears without a voice is to be answered (ms): keys that the caller pressed, a transfer that failed.
    respond_at: Option<u64>,
    /// The function call of the transfer that is under way, by its id.
    transfer: Option<Text>,
    /// Function calls that are to be answered at once, and how.
    outputs: Deque<(Text, Output), MAX_CALLS>,
}

/// What a function call of the model's came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Accepted,
    /// Its arguments make no sense.
    Refused,
    /// The transfer failed, for this SIP status.
    Failed {
        status: u16,
    },
}

/// How far the session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// `session.created` is to come.
    Opening,
    /// Our `session.update` is due.
    Created(Shape),
    /// `session.updated` is to come.
    Asked {
        since_ms: u64,
    },
    Ready,
}

impl Vendor {
    /// A call whose connection is open.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        Self {
            options: options.clone(),
            stage: Stage::Opening,
            hears: options.sound,
            now_ms: 0,
            created_ms: 0,
            is_told: false,
            greeting: false,
            active: None,
            latest: Text::new(),
            interrupted: Text::new(),
            interrupts: true,
            caller_speaks: false,
            spoken: Spoken::default(),
            truncates: Deque::new(),
            cancel: None,
            respond_at: None,
            transfer: None,
            outputs: Deque::new(),
        }
    }

    /// The shape of what we send, to a session that looks like this.
    fn shape(&self, told: Told) -> Shape {
        let update = &self.options.update;
        match (self.options.shape, &update.ga, &update.beta) {
            (Some(shape), ..) => shape,
            (None, Some(_), None) => Shape::Ga,
            (None, None, Some(_)) => Shape::Beta,
            (None, ..) if told.is_ga => Shape::Ga,
            (None, ..) => Shape::Beta,
        }
    }

    fn on_updated<'m>(&mut self, session: Option<Value<'m>>) -> Result<Event<'m>, Malformed> {
        let told = Told::of(session)?;
        self.hears = told.output.unwrap_or(self.hears);
        self.interrupts = told.interrupts.unwrap_or(self.interrupts);
        if matches!(self.stage, Stage::Asked { .. }) {
            self.stage = Stage::Ready;
            self.greeting = self.options.greeting;
        }
        Ok(match told.input {
            Some(input) if input != self.options.sound => {
                Event::Fault("the session has another input format than ours")
            }
            Some(_) | None => Event::None,
        })
    }

    fn on_audio<'m>(&mut self, seen: &Seen<'m>) -> Result<Incoming<'m>, Malformed> {
        let bytes = match seen.delta {
            Some(Value::Str(bytes)) => bytes,
            Some(_) => return Err(Malformed::Base64),
            None => return Ok(Incoming { audio: Audio::None, event: Event::Unknown }),
        };
        if self.is_interrupted(seen) {
            return Ok(Incoming { audio: Audio::Skip, event: Event::None });
        }
        if let Some(id) = seen.response_id.filter(|id| !id.is(self.latest.as_bytes())) {
            id.text(&mut self.latest);
        }
        self.spoken.on_item(seen.item_id, seen.content_index.and_then(|index| index.uint()).unwrap_or(0));
        Ok(Incoming { audio: Audio::Take { format: self.expected(), bytes }, event: Event::None })
    }

    fn is_interrupted(&self, seen: &Seen<'_>) -> bool {
        !self.interrupted.is_empty() && seen.response_id.is_some_and(|id| id.is(self.interrupted.as_bytes()))
    }

    /// What is being said, or was last, is not to be heard any more.
    fn interrupt(&mut self) {
        self.spoken.interrupt(self.active.is_some());
        self.interrupted.clone_from(self.active.as_ref().unwrap_or(&self.latest));
    }

    fn on_response_done<'m>(&mut self, response: Option<Value<'m>>) -> Result<Event<'m>, Malformed> {
        let done = Response::read(response)?;
        if self.active.as_ref().is_some_and(|active| done.id.is_none_or(|id| id.is(active.as_bytes()))) {
            self.active = None;
        }
        self.caller_speaks = false;
        Ok(match done.status {
            Some(status) if status.is(b"failed") => Event::Fault(done.error.unwrap_or("a response failed")),
            Some(_) | None => Event::None,
        })
    }

    /// A response has an item more. Of functions that are none of ours somebody else knows.
    fn on_item<'m>(&mut self, item: Option<Value<'m>>) -> Result<Event<'m>, Malformed> {
        let call = Call::read(item)?;
        let (Some(name), Some(arguments)) = (call.name, call.arguments) else { return Ok(Event::None) };
        // One that was interrupted has half of its arguments.
        let is_whole = call.status.is_none_or(|status| status.is(b"completed"));
        let Some(asked) = Asked::function(&name, arguments).filter(|_| is_whole) else { return Ok(Event::None) };
        let mut id = Text::new();
        if let Some(value) = call.call_id {
            value.text(&mut id);
        }
        if asked.wish().is_none() {
            self.answer(id, Output::Refused);
            return Ok(Event::Fault("a function was called with arguments that make no sense"));
        }
        if asked.is_transfer() {
            self.transfer = Some(id);
        } else {
            self.answer(id, Output::Accepted);
        }
        Ok(Event::Wish(asked))
    }

    fn answer(&mut self, id: Text, output: Output) {
        // Asked for after every message; a model that calls more at once is told of the first.
        let _ = self.outputs.push_back((id, output));
    }

    /// An error is most often of our own making and the session goes on.
    fn on_error<'m>(&mut self, error: Option<Value<'m>>) -> Result<Event<'m>, Malformed> {
        let Some(error) = error.and_then(|error| error.object()) else {
            return Ok(Event::Fault("an error without words"));
        };
        let error = Fault::read(error)?;
        let says = |value: Option<Value<'_>>, words: &[&str]| {
            value.and_then(|value| value.plain()).is_some_and(|value| words.contains(&value))
        };
        if says(error.code, &["session_expired"]) {
            self.is_told = true;
            return Ok(Event::Expiring);
        }
        // A response that ended or began, or an item that went, while our word of it was on its way.
        let is_crossed = says(error.event_id, &[TRUNCATE, CANCEL]) || says(error.code, CROSSED);
        Ok(if is_crossed { Event::None } else { Event::Fault(error.words().unwrap_or("an error without words")) })
    }

    /// Whether the session's age is to be told of now: once, and between turns.
    fn is_expiring(&self) -> bool {
        let minutes = self.options.rotate_minutes;
        let is_old = minutes > 0 && self.stage == Stage::Ready && self.now_ms >= self.created_ms + minutes * 60_000;
        is_old && !self.is_told && self.active.is_none() && !self.caller_speaks
    }

    fn write_update(&self, shape: Shape, out: &mut Message<'_>) -> Result<(), Full> {
        let (own, sound) = (&self.options.update, self.options.sound);
        match (shape, &own.ga, &own.beta) {
            (Shape::Ga, Some(text), _) | (Shape::Beta, _, Some(text)) => out.raw(text.as_bytes()),
            (Shape::Ga, None, _) => {
                out.raw(br#"{"type":"session.update","session":{"type":"realtime","audio":{"input":{"format":"#)?;
                out.raw(sound.ga().as_bytes())?;
                out.raw(br#"},"output":{"format":"#)?;
                out.raw(sound.ga().as_bytes())?;
                out.raw(b"}}}}")
            }
            (Shape::Beta, _, None) => out.json(&Update {
                kind: "session.update",
                session: Formats { input_audio_format: sound.beta(), output_audio_format: sound.beta() },
            }),
        }
    }

    fn is_idle(&self) -> bool {
        self.active.is_none() && !self.caller_speaks
    }
}

impl Dialect for Vendor {
    fn name(&self) -> &'static str {
        "openai"
    }

    fn rate(&self) -> Rate {
        self.options.sound.rate()
    }

    fn chunk(&self) -> usize {
        self.rate().samples(self.options.chunk_ms)
    }

    fn lead_ms(&self) -> u64 {
        60
    }

    fn expected(&self) -> Format {
        Format { carrier: Carrier::Base64, coding: self.hears.coding(), rate: self.hears.rate() }
    }

    /// `delta` is text in some messages. Those are short, and only one that is long or in fragments is asked for here:
    /// then a piece of a transcript is lost, which its end has again under another key.
    fn carrier(&self, key: &[u8], depth: usize) -> Option<Carrier> {
        (depth == 1 && key == b"delta").then_some(Carrier::Base64)
    }

    fn binary_is_audio(&self) -> bool {
        false
    }

    fn marks_ride_on_audio(&self) -> bool {
        false
    }

    /// OpenAI's own clients set no limit, and its agents' SDK one of half of this.
    fn max_message(&self) -> u64 {
        16 << 20
    }

    fn max_text(&self) -> usize {
        1 << 20
    }

    fn longest(&self) -> usize {
        let update = &self.options.update;
        [&update.ga, &update.beta].into_iter().flatten().map(|text| text.len()).max().unwrap_or(0).max(8 * 1024)
    }

    /// Before the session has our formats, what we send would be taken for something else.
    fn takes_audio(&self) -> bool {
        self.stage == Stage::Ready
    }

    fn handle_taken(&mut self, samples: u64) {
        self.spoken.on_samples(samples);
    }

    fn write_due(&mut self, _: &Facts, stamp: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        self.now_ms = stamp.stream_ms;
        if let Stage::Created(shape) = self.stage {
            self.write_update(shape, out)?;
            self.stage = Stage::Asked { since_ms: stamp.stream_ms };
        } else if let Some(response_id) = &self.cancel {
            out.json(&Cancel { kind: "response.cancel", event_id: CANCEL, response_id })?;
            self.cancel = None;
        } else if let Some(truncate) = self.truncates.front() {
            out.json(&Truncation {
                kind: "conversation.item.truncate",
                event_id: TRUNCATE,
                item_id: &truncate.item_id,
                content_index: truncate.content_index,
                audio_end_ms: truncate.audio_end_ms,
            })?;
            self.truncates.pop_front();
        } else if let Some((id, output)) = self.outputs.front() {
            write_output(id, *output, out)?;
            if *output == Output::Refused {
                self.respond_at = Some(stamp.stream_ms);
            }
            self.outputs.pop_front();
        } else if self.greeting {
            out.raw(RESPOND)?;
            self.greeting = false;
        } else if self.is_idle() && self.respond_at.is_some_and(|at| stamp.stream_ms >= at) {
            out.raw(RESPOND)?;
            self.respond_at = None;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn overdue(&self, stamp: Stamp) -> Option<&'static str> {
        match self.stage {
            Stage::Opening if stamp.stream_ms >= PATIENCE_MS => Some("no session.created came"),
            Stage::Asked { since_ms } if stamp.stream_ms >= since_ms + PATIENCE_MS => {
                Some("session.update was not answered by session.updated")
            }
            Stage::Opening | Stage::Created(_) | Stage::Asked { .. } | Stage::Ready => None,
        }
    }

    /// By the id of its response.
    fn skips_flushed_speech(&self) -> bool {
        true
    }

    fn marks_on_clear(&self) -> MarksOnClear {
        MarksOnClear::Forget
    }

    fn facts(&self) -> Option<&Facts> {
        None
    }

    /// The server speaks first.
    fn write_opening(&mut self, _: usize, _: &Facts, stamp: Stamp, _: &mut Message<'_>) -> Result<bool, Full> {
        self.now_ms = stamp.stream_ms;
        Ok(false)
    }

    fn write_audio(&mut self, samples: &[i16], _: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<(), Full> {
        out.raw(br#"{"type":"input_audio_buffer.append","audio":""#)?;
        match self.options.sound.law() {
            Some(law) => out.base64_g711(law, samples)?,
            None => out.base64_pcm16le(samples)?,
        }
        out.raw(br#""}"#)
    }

    fn write(&mut self, say: Say<'_>, _: &Facts, stamp: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        match say {
            // On a plain socket there is no event for a key; `input_audio_buffer.dtmf_event_received` is SIP's.
            Say::Dtmf(digit) if self.options.dtmf => {
                let mut utf8 = [0; 4];
                out.raw(br#"{"type":"conversation.item.create","item":{"type":"message","role":"user","#)?;
                out.raw(br#""content":[{"type":"input_text","text":"DTMF: "#)?;
                // One of 0-9, *, #, A-D: nothing that JSON escapes.
                out.raw(char::from(digit).encode_utf8(&mut utf8).as_bytes())?;
                out.raw(br#""}]}}"#)?;
                self.respond_at = Some(stamp.stream_ms + KEYS_PAUSE_MS);
            }
            Say::BargeIn => {
                self.interrupt();
                self.cancel.clone_from(&self.active);
            }
            Say::Cleared { unheard_ms } => {
                let Self { spoken, truncates, .. } = self;
                spoken.cleared(unheard_ms, self.hears.rate(), self.active.is_some(), |truncate| {
                    // As many as there are items; a second clear before the first was told of is beyond that.
                    let _ = truncates.push_back(truncate);
                });
            }
            // What comes of its function the model has to be told before it can tell the caller.
            Say::Transfer(Transfer::Failed { status }) => {
                let Some(id) = &self.transfer else { return Ok(false) };
                write_output(id, Output::Failed { status }, out)?;
                self.transfer = None;
                self.respond_at = Some(stamp.stream_ms);
            }
            // To the server an event that it does not know is an error.
            Say::Held(_) | Say::Transfer(Transfer::Trying | Transfer::Done) => return Ok(false),
            Say::Dtmf(_) | Say::Clear | Say::Mark(_) | Say::Heard(_) | Say::HangUp | Say::Stop(_) | Say::Wish(_) => {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn handle_text<'m>(&mut self, text: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        let seen = Seen::read(text)?;
        let kind = seen.kind.and_then(|kind| kind.plain()).unwrap_or_default();
        let event = match kind {
            "response.output_audio.delta" | "response.audio.delta" => return self.on_audio(&seen),
            "response.output_audio_transcript.delta" | "response.audio_transcript.delta"
                if !self.is_interrupted(&seen) =>
            {
                words(Speaker::Agent, seen.delta, false)
            }
            "response.output_audio_transcript.done" | "response.audio_transcript.done"
                if !self.is_interrupted(&seen) =>
            {
                words(Speaker::Agent, seen.transcript, true)
            }
            "conversation.item.input_audio_transcription.delta" => words(Speaker::Caller, seen.delta, false),
            "conversation.item.input_audio_transcription.completed" => words(Speaker::Caller, seen.transcript, true),
            "conversation.item.input_audio_transcription.failed" | "error" => self.on_error(seen.error)?,
            "input_audio_buffer.speech_started" => {
                self.interrupt();
                if !self.interrupts {
                    self.cancel.clone_from(&self.active);
                }
                self.caller_speaks = true;
                Event::Clear
            }
            "response.created" => {
                let mut id = Text::new();
                if let Some(value) = Response::read(seen.response)?.id {
                    value.text(&mut id);
                }
                self.active = Some(id);
                self.caller_speaks = false;
                self.respond_at = None;
                Event::None
            }
            "response.output_item.done" => self.on_item(seen.item)?,
            "response.done" => self.on_response_done(seen.response)?,
            "session.created" => {
                let told = Told::of(seen.session)?;
                if self.stage == Stage::Opening {
                    self.stage = Stage::Created(self.shape(told));
                    self.created_ms = self.now_ms;
                }
                Event::None
            }
            "session.updated" => self.on_updated(seen.session)?,
            _ if is_known(kind) => Event::None,
            _ => Event::Unknown,
        };
        let event = if event == Event::None && self.is_expiring() {
            self.is_told = true;
            Event::Expiring
        } else {
            event
        };
        Ok(Incoming { audio: Audio::None, event })
    }

    fn handle_binary<'m>(&mut self, _: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        Err(Malformed::Binary)
    }
}

/// Whether an event is of a family that we know: these grow a member every few months, none of which matters to a call.
fn is_known(kind: &str) -> bool {
    let family = kind.split('.').next().unwrap_or_default();
    matches!(
        family,
        "conversation"
            | "input_audio_buffer"
            | "mcp_list_tools"
            | "output_audio_buffer"
            | "rate_limits"
            | "response"
            | "session"
            | "transcription_session"
    )
}

/// What somebody said; nothing, if it is empty.
fn words(speaker: Speaker, value: Option<Value<'_>>, whole: bool) -> Event<'_> {
    spelled(value).map_or(Event::None, |text| Event::Transcript { speaker, text, whole })
}

/// A string as it stands between its quotes, if there is anything in it.
fn spelled(value: Option<Value<'_>>) -> Option<&str> {
    let Some(Value::Str(raw)) = value else { return None };
    core::str::from_utf8(raw).ok().filter(|text| !text.is_empty())
}

/// The members of a message that matter, in whichever order they came.
#[derive(Default)]
struct Seen<'m> {
    kind: Option<Value<'m>>,
    delta: Option<Value<'m>>,
    response_id: Option<Value<'m>>,
    item_id: Option<Value<'m>>,
    content_index: Option<Value<'m>>,
    transcript: Option<Value<'m>>,
    session: Option<Value<'m>>,
    response: Option<Value<'m>>,
    item: Option<Value<'m>>,
    error: Option<Value<'m>>,
}

impl<'m> Seen<'m> {
    fn read(text: &'m [u8]) -> Result<Self, Malformed> {
        let mut seen = Self::default();
        let mut members = Members::object(text)?;
        while let Some((key, value)) = members.next()? {
            let slots = [
                (&b"type"[..], &mut seen.kind),
                (b"delta", &mut seen.delta),
                (b"response_id", &mut seen.response_id),
                (b"item_id", &mut seen.item_id),
                (b"content_index", &mut seen.content_index),
                (b"transcript", &mut seen.transcript),
                (b"session", &mut seen.session),
                (b"response", &mut seen.response),
                (b"item", &mut seen.item),
                (b"error", &mut seen.error),
            ];
            if let Some((_, slot)) = slots.into_iter().find(|(name, _)| key.is(name)) {
                *slot = Some(value);
            }
        }
        Ok(seen)
    }
}

/// What a response object tells.
#[derive(Default)]
struct Response<'m> {
    id: Option<Value<'m>>,
    status: Option<Value<'m>>,
    /// Why it failed.
    error: Option<&'m str>,
}

impl<'m> Response<'m> {
    fn read(response: Option<Value<'m>>) -> Result<Self, Malformed> {
        let mut read = Self::default();
        let Some(mut members) = response.and_then(|response| response.object()) else { return Ok(read) };
        while let Some((key, value)) = members.next()? {
            if key.is(b"id") {
                read.id = Some(value);
            } else if key.is(b"status") {
                read.status = Some(value);
            } else if key.is(b"status_details")
                && let Some(mut details) = value.object()
            {
                while let Some((key, value)) = details.next()? {
                    if let (true, Some(error)) = (key.is(b"error"), value.object()) {
                        read.error = Fault::read(error)?.words();
                    }
                }
            }
        }
        Ok(read)
    }
}

/// What an item tells that is a function call.
#[derive(Default)]
struct Call<'m> {
    name: Option<Value<'m>>,
    call_id: Option<Value<'m>>,
    arguments: Option<Value<'m>>,
    status: Option<Value<'m>>,
}

impl<'m> Call<'m> {
    fn read(item: Option<Value<'m>>) -> Result<Self, Malformed> {
        let mut call = Self::default();
        let Some(mut members) = item.and_then(|item| item.object()) else { return Ok(call) };
        while let Some((key, value)) = members.next()? {
            let slots = [
                (&b"name"[..], &mut call.name),
                (b"call_id", &mut call.call_id),
                (b"arguments", &mut call.arguments),
                (b"status", &mut call.status),
            ];
            if let Some((_, slot)) = slots.into_iter().find(|(name, _)| key.is(name)) {
                *slot = Some(value);
            }
        }
        Ok(call)
    }
}

/// Tells the model what came of its function call.
fn write_output(id: &str, output: Output, out: &mut Message<'_>) -> Result<(), Full> {
    out.raw(br#"{"type":"conversation.item.create","item":{"type":"function_call_output","call_id":"#)?;
    out.json_str(id)?;
    out.raw(match output {
        Output::Accepted => br#","output":"{\"state\":\"accepted\""#.as_slice(),
        Output::Refused => br#","output":"{\"state\":\"failed\",\"reason\":\"the argument makes no sense\""#,
        Output::Failed { .. } => br#","output":"{\"state\":\"failed\",\"status\":"#,
    })?;
    if let Output::Failed { status } = output {
        out.uint(status.into())?;
    }
    out.raw(br#"}"}}"#)
}

/// What an error object tells.
#[derive(Default)]
struct Fault<'m> {
    kind: Option<Value<'m>>,
    code: Option<Value<'m>>,
    message: Option<Value<'m>>,
    /// The id of the message of ours that it is about.
    event_id: Option<Value<'m>>,
}

impl<'m> Fault<'m> {
    fn read(mut members: Members<'m>) -> Result<Self, Malformed> {
        let mut fault = Self::default();
        while let Some((key, value)) = members.next()? {
            if key.is(b"type") {
                fault.kind = Some(value);
            } else if key.is(b"code") {
                fault.code = Some(value);
            } else if key.is(b"message") {
                fault.message = Some(value);
            } else if key.is(b"event_id") {
                fault.event_id = Some(value);
            }
        }
        Ok(fault)
    }

    fn words(&self) -> Option<&'m str> {
        spelled(self.message).or(spelled(self.code)).or(spelled(self.kind))
    }
}

#[derive(Serialize)]
struct Update {
    #[serde(rename = "type")]
    kind: &'static str,
    session: Formats,
}

#[derive(Serialize)]
struct Formats {
    input_audio_format: &'static str,
    output_audio_format: &'static str,
}

#[derive(Serialize)]
struct Cancel<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    event_id: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    response_id: &'a str,
}

#[derive(Serialize)]
struct Truncation<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    event_id: &'static str,
    item_id: &'a str,
    content_index: u64,
    audio_end_ms: u64,
}

/// Function calls that one response may have, to be answered.
const MAX_CALLS: usize = 4;
/// Asks for a response.
const RESPOND: &[u8] = br#"{"type":"response.create"}"#;
/// The ids of our messages that an error may be about without any harm; a server repeats them in `error.event_id`.
const TRUNCATE: &str = "trunkline_truncate";
const CANCEL: &str = "trunkline_cancel";
/// What an error that is about such a message has for a code, where a server does not repeat ids.
const CROSSED: &[&str] =
    &["response_cancel_not_active", "conversation_already_has_active_response", "item_truncate_invalid_item_id"];
/// How long the server has for the answers that it owes (ms).
const PATIENCE_MS: u64 = 10_000;
/// How long after a key the next may come before they are answered (ms): a digit of a number is not yet a number.
const KEYS_PAUSE_MS: u64 = 1_500;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]
mod tests {
    use super::*;
    use crate::dialect::{
        Coding, OptionValue, StopReason, Wish,
        openai::Update as OwnUpdate,
        ozonetel::tests::{STAMP, audio, event, facts, in_pieces, noise, opening, said, samples, written},
    };

    /// The first event of a GA session, as the reference shows it.
    const CREATED: &str = concat!(
        r#"{"type":"session.created","event_id":"event_C9G5RJeJ2gF77mV7f2B1j","session":{"type":"realtime","#,
        r#""object":"realtime.session","id":"sess_C9G5QPteg4UIbotdKLoYQ","model":"gpt-realtime-2025-08-28","#,
        r#""output_modalities":["audio"],"instructions":"Be kind.","tools":[],"tool_choice":"auto","#,
        r#""max_output_tokens":"inf","tracing":null,"prompt":null,"expires_at":1756324625,"audio":{"input":{"#,
        r#""format":{"type":"audio/pcm","rate":24000},"transcription":null,"noise_reduction":null,"#,
        r#""turn_detection":{"type":"server_vad","threshold":0.5,"prefix_padding_ms":300,"#,
        r#""silence_duration_ms":200,"idle_timeout_ms":null,"create_response":true,"interrupt_response":true}},"#,
        r#""output":{"format":{"type":"audio/pcm","rate":24000},"voice":"marin","speed":1}},"include":null}}"#
    );

    /// The same of the beta.
    const BETA_CREATED: &str = concat!(
        r#"{"event_id":"event_1234","type":"session.created","session":{"id":"sess_001","object":"realtime.session","#,
        r#""model":"gpt-4o-realtime-preview","modalities":["text","audio"],"instructions":"...","voice":"alloy","#,
        r#""input_audio_format":"pcm16","output_audio_format":"pcm16","input_audio_transcription":null,"#,
        r#""turn_detection":{"type":"server_vad","threshold":0.5,"prefix_padding_ms":300,"#,
        r#""silence_duration_ms":500},"tools":[],"tool_choice":"auto","temperature":0.8}}"#
    );

    /// A function call as a response has it, of either shape of the API.
    fn calls(vendor: &mut Vendor, name: &str, status: &str, arguments: &str) -> Option<Wish> {
        let text = format!(
            r#"{{"type":"response.output_item.done","event_id":"event_1","response_id":"resp_1","output_index":1,"item":{{"id":"item_2","object":"realtime.item","type":"function_call","status":"{status}","name":"{name}","call_id":"call_7","arguments":"{arguments}"}}}}"#
        );
        match event(vendor, &text) {
            Event::Wish(asked) => asked.wish(),
            Event::None => None,
            other => panic!("{other:?}"),
        }
    }

    fn open(options: &[(&str, OptionValue<'_>)]) -> Vendor {
        let mut set = Options::default();
        for &(key, value) in options {
            set.set(key, value).unwrap();
        }
        Vendor::new(&set)
    }

    fn due_at(vendor: &mut Vendor, stream_ms: u64) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let stamp = Stamp { stream_ms, ..STAMP };
            let (there, text) = written(|out| vendor.write_due(&facts(), stamp, out));
            if !there {
                return all;
            }
            all.push(text);
        }
    }

    fn due(vendor: &mut Vendor) -> Vec<String> {
        due_at(vendor, STAMP.stream_ms)
    }

    /// A session that is set up, greeting and all.
    fn ready(options: &[(&str, OptionValue<'_>)]) -> Vendor {
        let mut vendor = open(options);
        due(&mut vendor);
        assert_eq!(event(&mut vendor, CREATED), Event::None);
        assert_eq!(due(&mut vendor).len(), 1);
        assert_eq!(event(&mut vendor, r#"{"type":"session.updated","event_id":"e","session":{}}"#), Event::None);
        due(&mut vendor);
        vendor
    }

    #[test]
    fn a_function_call_of_the_models_is_a_wish_and_is_answered() {
        let mut vendor = ready(&[]);
        created(&mut vendor, "resp_1");
        let target = r#"{\"target\": \"+49 30 123456\", \"why\": \"billing\"}"#;
        assert_eq!(calls(&mut vendor, "transfer_call", "completed", target), Wish::transfer("+49 30 123456"));
        assert_eq!(calls(&mut vendor, "send_digits", "completed", r#"{\"digits\":\"12#\"}"#), Wish::digits("12#"));
        assert_eq!(
            due(&mut vendor),
            [concat!(
                r#"{"type":"conversation.item.create","item":{"type":"function_call_output","call_id":"call_7","#,
                r#""output":"{\"state\":\"accepted\"}"}}"#
            )]
        );
        // Of another's functions, and of one that the caller interrupted, there is nothing to do.
        assert_eq!(calls(&mut vendor, "book_table", "completed", r"{}"), None);
        assert_eq!(calls(&mut vendor, "transfer_call", "incomplete", r#"{\"target\":\"+49"#), None);
        done(&mut vendor, "resp_1", "completed");
        assert_eq!(due(&mut vendor), Vec::<String>::new());

        // Nobody answers there: the model hears why, and speaks.
        assert_eq!(said(&mut vendor, Say::Transfer(Transfer::Trying)), None);
        assert_eq!(said(&mut vendor, Say::Held(true)), None);
        let failed = Say::Transfer(Transfer::Failed { status: 480 });
        assert_eq!(
            said(&mut vendor, failed).unwrap(),
            concat!(
                r#"{"type":"conversation.item.create","item":{"type":"function_call_output","call_id":"call_7","#,
                r#""output":"{\"state\":\"failed\",\"status\":480}"}}"#
            )
        );
        assert_eq!(due(&mut vendor), [r#"{"type":"response.create"}"#]);
        assert_eq!(said(&mut vendor, failed), None, "it was told");
    }

    #[test]
    fn a_function_call_that_makes_no_sense_is_told_so_and_the_model_speaks() {
        let mut vendor = ready(&[]);
        let text = r#"{"type":"response.output_item.done","item":{"type":"function_call","status":"completed","name":"transfer_call","call_id":"call_9","arguments":"{\"to\":\"sales\"}"}}"#;
        let Event::Fault(_) = event(&mut vendor, text) else { panic!("no fault") };
        assert_eq!(
            due(&mut vendor),
            [
                concat!(
                    r#"{"type":"conversation.item.create","item":{"type":"function_call_output","call_id":"call_9","#,
                    r#""output":"{\"state\":\"failed\",\"reason\":\"the argument makes no sense\"}"}}"#
                ),
                r#"{"type":"response.create"}"#
            ]
        );
    }

    fn created(vendor: &mut Vendor, response: &str) {
        let text = format!(
            r#"{{"type":"response.created","event_id":"e","response":{{"object":"realtime.response","id":"{response}","status":"in_progress","status_details":null,"output":[]}}}}"#
        );
        assert_eq!(event(vendor, &text), Event::None);
    }

    fn done(vendor: &mut Vendor, response: &str, status: &str) {
        let text = format!(
            r#"{{"type":"response.done","event_id":"e","response":{{"object":"realtime.response","id":"{response}","status":"{status}","status_details":null,"output":[]}}}}"#
        );
        assert_eq!(event(vendor, &text), Event::None);
    }

    fn delta(response: &str, item: &str, payload: &str) -> String {
        format!(
            r#"{{"type":"response.output_audio.delta","event_id":"event_1","response_id":"{response}","item_id":"{item}","output_index":0,"content_index":0,"delta":"{payload}"}}"#
        )
    }

    /// So many ms of the agent's speech, as a leg takes them; `false`: they are skipped.
    fn speaks(vendor: &mut Vendor, response: &str, item: &str, ms: usize) -> bool {
        let payload = base64_simd::STANDARD.encode_to_string(vec![0; ms * 48]);
        let text = delta(response, item, &payload);
        let incoming = vendor.handle_text(text.as_bytes()).unwrap();
        assert_eq!(incoming.event, Event::None);
        let Some(samples) = samples(incoming.audio) else { return false };
        vendor.handle_taken(samples.len() as u64);
        true
    }

    const SPEECH_STARTED: &str = concat!(
        r#"{"type":"input_audio_buffer.speech_started","event_id":"event_1516","audio_start_ms":1000,"#,
        r#""item_id":"msg_003"}"#
    );

    // The session.

    #[test]
    fn the_server_speaks_first_and_is_answered_in_its_own_shape() {
        for (text, update) in [
            (
                CREATED,
                concat!(
                    r#"{"type":"session.update","session":{"type":"realtime","audio":{"#,
                    r#""input":{"format":{"type":"audio/pcm","rate":24000}},"#,
                    r#""output":{"format":{"type":"audio/pcm","rate":24000}}}}}"#
                ),
            ),
            (
                BETA_CREATED,
                concat!(
                    r#"{"type":"session.update","session":{"input_audio_format":"pcm16","#,
                    r#""output_audio_format":"pcm16"}}"#
                ),
            ),
        ] {
            let mut vendor = open(&[]);
            assert_eq!((opening(&mut vendor, 0), due(&mut vendor)), (None, vec![]));
            assert!(!vendor.takes_audio());
            assert_eq!(event(&mut vendor, text), Event::None);
            assert_eq!(due(&mut vendor), [update]);
            assert!(!vendor.takes_audio(), "the formats are not agreed on yet");
            let updated = text.replace("session.created", "session.updated");
            assert_eq!(event(&mut vendor, &updated), Event::None);
            assert!(vendor.takes_audio());
            assert_eq!(due(&mut vendor), [r#"{"type":"response.create"}"#], "the greeting");
            // A second one is the answer to nobody.
            assert_eq!(event(&mut vendor, &updated), Event::None);
            assert_eq!(event(&mut vendor, text), Event::None);
            assert_eq!(due(&mut vendor), [""; 0]);
        }
    }

    #[test]
    fn the_shape_can_be_chosen_and_the_greeting_left_to_the_caller() {
        let mut vendor = open(&[
            ("api", OptionValue::Str("beta")),
            ("audio", OptionValue::Str("pcmu")),
            ("greeting", OptionValue::Bool(false)),
        ]);
        event(&mut vendor, CREATED);
        let update = r#"{"type":"session.update","session":{"input_audio_format":"g711_ulaw","output_audio_format":"g711_ulaw"}}"#;
        assert_eq!(due(&mut vendor), [update]);
        event(&mut vendor, r#"{"type":"session.updated"}"#);
        assert_eq!((due(&mut vendor), vendor.takes_audio()), (vec![], true));
        let mut vendor = open(&[("api", OptionValue::Str("ga")), ("audio", OptionValue::Str("pcma"))]);
        event(&mut vendor, BETA_CREATED);
        let update = due(&mut vendor);
        let formats = r#""audio":{"input":{"format":{"type":"audio/pcma"}},"output":{"format":{"type":"audio/pcma"}}}"#;
        assert!(update[0].contains(formats), "{update:?}");
    }

    #[test]
    fn an_operators_session_goes_out_as_it_is_and_its_shape_is_ours() {
        let own = format!(r#"{{"type":"session.update","session":{{"instructions":"{}"}}}}"#, "x".repeat(100_000));
        let mut options = Options::default();
        options.set_update(OwnUpdate { ga: Some(own.as_str().into()), beta: None });
        let mut vendor = Vendor::new(&options);
        assert_eq!(vendor.longest(), own.len());
        event(&mut vendor, BETA_CREATED);
        let mut space = vec![0; own.len()];
        let mut short = Message::new(&mut space[1..]);
        assert_eq!(vendor.write_due(&facts(), STAMP, &mut short), Err(Full), "it is asked for again");
        let mut out = Message::new(&mut space);
        assert_eq!(vendor.write_due(&facts(), STAMP, &mut out), Ok(true));
        assert_eq!(out.bytes(), own.as_bytes());
        assert_eq!(open(&[]).longest(), 8 * 1024);
    }

    #[test]
    fn a_server_that_owes_an_answer_is_overdue_after_ten_seconds() {
        let at = |stream_ms| Stamp { stream_ms, ..STAMP };
        let mut vendor = open(&[]);
        assert_eq!((vendor.overdue(at(9_999)), vendor.overdue(at(10_000))), (None, Some("no session.created came")));
        due_at(&mut vendor, 9_000);
        event(&mut vendor, CREATED);
        due_at(&mut vendor, 9_000);
        assert_eq!(vendor.overdue(at(18_999)), None);
        assert_eq!(vendor.overdue(at(19_000)), Some("session.update was not answered by session.updated"));
        event(&mut vendor, r#"{"type":"session.updated","session":{}}"#);
        assert_eq!(vendor.overdue(at(u64::MAX)), None);
    }

    #[test]
    fn the_agent_is_decoded_as_the_session_says_and_another_input_is_a_fault() {
        let mut vendor = open(&[]);
        event(&mut vendor, CREATED);
        due(&mut vendor);
        let updated = concat!(
            r#"{"type":"session.updated","session":{"type":"realtime","audio":{"input":{"format":{"type":"audio/pcmu"}},"#,
            r#""output":{"format":{"type":"audio/pcmu"}}}}}"#
        );
        assert_eq!(event(&mut vendor, updated), Event::Fault("the session has another input format than ours"));
        assert_eq!((vendor.expected().coding, vendor.expected().rate), (Coding::Mulaw, Rate::Hz8000));
        assert_eq!(vendor.rate(), Rate::Hz24000);
        // ITU-T G.711: 0xff is zero, 0x80 and 0x00 are the loudest.
        let incoming = delta("r", "i", "/4AA");
        assert_eq!(samples(vendor.handle_text(incoming.as_bytes()).unwrap().audio).unwrap(), [0, 32_124, -32_124]);
    }

    // Audio.

    #[test]
    fn the_caller_is_appended_in_frames() {
        let mut vendor = ready(&[]);
        assert_eq!((vendor.rate(), vendor.chunk(), vendor.unit()), (Rate::Hz24000, 480, 480));
        assert_eq!(audio(&mut vendor, &[1, -1]), r#"{"type":"input_audio_buffer.append","audio":"AQD//w=="}"#);
        let mut vendor = ready(&[("audio", OptionValue::Str("pcmu")), ("chunk-ms", OptionValue::Int(40))]);
        assert_eq!((vendor.rate(), vendor.chunk()), (Rate::Hz8000, 320));
        assert_eq!(audio(&mut vendor, &[0, 32_124, -32_124]), r#"{"type":"input_audio_buffer.append","audio":"/4AA"}"#);
        let mut vendor = ready(&[("chunk-ms", OptionValue::Int(100))]);
        assert!(audio(&mut vendor, &vec![i16::MIN; 2_400]).len() < 8_192 - 1_024);
    }

    #[test]
    fn the_agents_speech_comes_under_either_name_and_its_other_deltas_are_text() {
        for kind in ["response.output_audio.delta", "response.audio.delta"] {
            let text = delta("resp_1", "item_1", "AQD//wCA/38=").replace("response.output_audio.delta", kind);
            let incoming = ready(&[]).handle_text(text.as_bytes()).map(|incoming| samples(incoming.audio)).unwrap();
            assert_eq!(incoming.unwrap(), [1, -1, i16::MIN, i16::MAX]);
        }
        let mut vendor = ready(&[]);
        for kind in ["response.output_text.delta", "response.text.delta", "response.function_call_arguments.delta"] {
            let text = delta("resp_1", "item_1", "AQD//wCA").replace("response.output_audio.delta", kind);
            assert_eq!(event(&mut vendor, &text), Event::None, "{kind}");
        }
        let no_delta = r#"{"type":"response.output_audio.delta","response_id":"r"}"#;
        assert_eq!(event(&mut vendor, no_delta), Event::Unknown);
        let number = r#"{"type":"response.output_audio.delta","delta":7}"#;
        assert_eq!(vendor.handle_text(number.as_bytes()), Err(Malformed::Base64));
        assert_eq!(vendor.handle_binary(b"\0\0"), Err(Malformed::Binary));
        assert!(!vendor.binary_is_audio());
    }

    #[test]
    fn a_burst_of_a_minute_is_understood_in_pieces_with_its_type_at_either_end() {
        let sent = noise(24_000 * 60);
        let bytes: Vec<u8> = sent.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        let text = delta("resp_1", "item_1", &base64_simd::STANDARD.encode_to_string(bytes));
        let behind = format!(
            r#"{{{},"type":"response.output_audio.delta"}}"#,
            text.split_once(',').unwrap().1.strip_suffix('}').unwrap()
        );
        for text in [&text, &behind] {
            let mut vendor = ready(&[]);
            assert!((text.len() as u64) < vendor.max_message());
            let heard = in_pieces(&mut vendor, text, 16_384, |incoming| {
                assert!(matches!(incoming, Incoming { audio: Audio::Take { bytes: b"", .. }, event: Event::None }));
            });
            assert!(heard == sent);
            vendor.handle_taken(heard.len() as u64);
            event(&mut vendor, SPEECH_STARTED);
            said(&mut vendor, Say::Cleared { unheard_ms: 59_000 }).unwrap();
            assert!(due(&mut vendor)[0].ends_with(r#""item_id":"item_1","content_index":0,"audio_end_ms":1000}"#));
        }
    }

    #[test]
    fn a_long_transcript_in_pieces_is_no_audio() {
        let text = format!(
            r#"{{"type":"response.output_audio_transcript.delta","response_id":"r","item_id":"i","delta":"{}"}}"#,
            "AAAA".repeat(4_000)
        );
        in_pieces(&mut ready(&[]), &text, 512, |incoming| assert_eq!(incoming, Incoming::NOTHING));
    }

    // Barge-in.

    #[test]
    fn speech_flushes_at_once_and_the_item_ends_where_it_was_heard_to() {
        let mut vendor = ready(&[]);
        created(&mut vendor, "resp_1");
        for _ in 0..10 {
            assert!(speaks(&mut vendor, "resp_1", "item_1", 200));
        }
        assert_eq!(event(&mut vendor, SPEECH_STARTED), Event::Clear);
        assert_eq!(said(&mut vendor, Say::Cleared { unheard_ms: 540 }).unwrap(), "");
        let truncate = concat!(
            r#"{"type":"conversation.item.truncate","event_id":"trunkline_truncate","item_id":"item_1","#,
            r#""content_index":0,"audio_end_ms":1460}"#
        );
        assert_eq!(due(&mut vendor), [truncate], "the server cancels by itself");

        assert!(!speaks(&mut vendor, "resp_1", "item_1", 200), "a late delta");
        done(&mut vendor, "resp_1", "cancelled");
        assert!(!speaks(&mut vendor, "resp_1", "item_1", 200), "a later one");
        created(&mut vendor, "resp_2");
        assert!(speaks(&mut vendor, "resp_2", "item_2", 200));
    }

    #[test]
    fn what_was_not_heard_is_clamped_to_what_came_and_later_items_end_at_nothing() {
        let mut vendor = ready(&[]);
        created(&mut vendor, "resp_1");
        speaks(&mut vendor, "resp_1", "item_1", 1_000);
        speaks(&mut vendor, "resp_1", "item_2", 400);
        done(&mut vendor, "resp_1", "completed");
        event(&mut vendor, SPEECH_STARTED);
        said(&mut vendor, Say::Cleared { unheard_ms: 5_000 }).unwrap();
        let due = due(&mut vendor);
        assert_eq!(due.len(), 2);
        assert!(due[0].contains(r#""item_id":"item_2","content_index":0,"audio_end_ms":0}"#), "{due:?}");
        assert!(due[1].contains(r#""item_id":"item_1","content_index":0,"audio_end_ms":0}"#), "{due:?}");
    }

    #[test]
    fn speech_over_an_agent_that_was_heard_to_its_end_truncates_nothing() {
        let mut vendor = ready(&[]);
        created(&mut vendor, "resp_1");
        speaks(&mut vendor, "resp_1", "item_1", 1_000);
        done(&mut vendor, "resp_1", "completed");
        assert_eq!(event(&mut vendor, SPEECH_STARTED), Event::Clear);
        said(&mut vendor, Say::Cleared { unheard_ms: 0 }).unwrap();
        assert_eq!(due(&mut vendor), [""; 0]);
    }

    #[test]
    fn a_server_that_does_not_interrupt_itself_is_told_to() {
        let mut vendor = ready(&[]);
        let updated = r#"{"type":"session.updated","session":{"type":"realtime","audio":{"input":{"turn_detection":{"type":"semantic_vad","interrupt_response":false}}}}}"#;
        event(&mut vendor, updated);
        created(&mut vendor, "resp_1");
        event(&mut vendor, SPEECH_STARTED);
        let cancel = r#"{"type":"response.cancel","event_id":"trunkline_cancel","response_id":"resp_1"}"#;
        assert_eq!(due(&mut vendor), [cancel]);
    }

    #[test]
    fn our_own_ears_cancel_the_response_that_is_being_said() {
        let mut vendor = ready(&[]);
        created(&mut vendor, "resp_1");
        speaks(&mut vendor, "resp_1", "item_1", 1_000);
        said(&mut vendor, Say::BargeIn).unwrap();
        said(&mut vendor, Say::Cleared { unheard_ms: 900 }).unwrap();
        let said_then = due(&mut vendor);
        let cancel = r#"{"type":"response.cancel","event_id":"trunkline_cancel","response_id":"resp_1"}"#;
        assert_eq!((said_then.len(), said_then[0].as_str()), (2, cancel));
        assert!(said_then[1].ends_with(r#""audio_end_ms":100}"#), "{said_then:?}");
        assert!(!speaks(&mut vendor, "resp_1", "item_1", 20));
        done(&mut vendor, "resp_1", "cancelled");
        said(&mut vendor, Say::BargeIn).unwrap();
        assert_eq!(due(&mut vendor), [""; 0], "there is nothing to cancel");
    }

    // What is said, and what goes wrong.

    #[test]
    fn both_sides_transcripts_are_told_piece_by_piece_and_whole() {
        let mut vendor = ready(&[]);
        let (caller, agent) = (Speaker::Caller, Speaker::Agent);
        for (kind, key, speaker, whole) in [
            ("response.output_audio_transcript.delta", "delta", agent, false),
            ("response.audio_transcript.delta", "delta", agent, false),
            ("response.output_audio_transcript.done", "transcript", agent, true),
            ("response.audio_transcript.done", "transcript", agent, true),
            ("conversation.item.input_audio_transcription.delta", "delta", caller, false),
            ("conversation.item.input_audio_transcription.completed", "transcript", caller, true),
        ] {
            let text = format!(
                r#"{{"event_id":"e","type":"{kind}","item_id":"item_1","content_index":0,"{key}":"Say \"hi\"\n"}}"#
            );
            let expected = Event::Transcript { speaker, text: r#"Say \"hi\"\n"#, whole };
            assert_eq!(event(&mut vendor, &text), expected, "{kind}");
            let empty = format!(r#"{{"type":"{kind}","{key}":""}}"#);
            assert_eq!(event(&mut vendor, &empty), Event::None, "{kind}");
        }
    }

    #[test]
    fn the_words_of_an_interrupted_response_are_not_told() {
        let mut vendor = ready(&[]);
        created(&mut vendor, "resp_1");
        speaks(&mut vendor, "resp_1", "item_1", 1_000);
        event(&mut vendor, SPEECH_STARTED);
        let text = r#"{"type":"response.output_audio_transcript.delta","response_id":"resp_1","delta":" and so"}"#;
        assert_eq!(event(&mut vendor, text), Event::None);
    }

    #[test]
    fn faults_are_told_in_the_servers_words_but_not_those_that_crossed_with_ours() {
        let mut vendor = ready(&[]);
        for (error, expected) in [
            (
                r#"{"type":"invalid_request_error","code":"invalid_value","message":"Invalid voice: \"x\"","param":"session.audio.output.voice","event_id":null}"#,
                Event::Fault(r#"Invalid voice: \"x\""#),
            ),
            (
                r#"{"type":"invalid_request_error","code":"response_cancel_not_active","message":"Cancellation failed: no active response found","param":null,"event_id":"trunkline_cancel"}"#,
                Event::None,
            ),
            (
                r#"{"type":"invalid_request_error","code":"invalid_value","message":"Audio content of 1200ms is already shorter than 1460ms","param":"audio_end_ms","event_id":"trunkline_truncate"}"#,
                Event::None,
            ),
            (
                r#"{"type":"invalid_request_error","code":"conversation_already_has_active_response","message":"Conversation already has an active response"}"#,
                Event::None,
            ),
            (r#"{"type":"server_error"}"#, Event::Fault("server_error")),
            (
                r#"{"type":"invalid_request_error","code":"session_expired","message":"Your session hit the maximum duration of 60 minutes.","param":null,"event_id":null}"#,
                Event::Expiring,
            ),
        ] {
            let text = format!(r#"{{"type":"error","event_id":"event_890","error":{error}}}"#);
            assert_eq!(event(&mut vendor, &text), expected, "{error}");
        }
        assert_eq!(event(&mut vendor, r#"{"type":"error"}"#), Event::Fault("an error without words"));
        let failed = concat!(
            r#"{"type":"response.done","event_id":"e","response":{"id":"resp_1","status":"failed","status_details":{"#,
            r#""type":"failed","error":{"type":"insufficient_quota","code":"insufficient_quota","message":"No more."}}}}"#
        );
        assert_eq!(event(&mut vendor, failed), Event::Fault("No more."));
        let failed = concat!(
            r#"{"type":"conversation.item.input_audio_transcription.failed","item_id":"i","content_index":0,"#,
            r#""error":{"type":"transcription_error","message":"The audio could not be transcribed."}}"#
        );
        assert_eq!(event(&mut vendor, failed), Event::Fault("The audio could not be transcribed."));
    }

    #[test]
    fn events_that_no_call_needs_are_known_and_others_are_counted() {
        let mut vendor = ready(&[]);
        for kind in [
            "conversation.item.added",
            "conversation.item.created",
            "conversation.item.truncated",
            "input_audio_buffer.committed",
            "input_audio_buffer.speech_stopped",
            "rate_limits.updated",
            "response.content_part.added",
            "response.function_call_arguments.done",
            "response.output_audio.done",
            "response.output_item.added",
        ] {
            assert_eq!(event(&mut vendor, &format!(r#"{{"type":"{kind}"}}"#)), Event::None, "{kind}");
        }
        for text in ["{}", r#"{"type":"weather"}"#, r#"{"type":7}"#, r#"{"event":"media","media":{"payload":"AAAA"}}"#]
        {
            assert_eq!(event(&mut vendor, text), Event::Unknown, "{text}");
        }
        for end in 0..CREATED.len() {
            assert!(vendor.handle_text(&CREATED.as_bytes()[..end]).is_err(), "{end}");
        }
    }

    // Keys, and the session's end.

    #[test]
    fn keys_are_text_items_and_are_answered_when_no_other_follows() {
        let mut vendor = ready(&[]);
        let item = concat!(
            r#"{"type":"conversation.item.create","item":{"type":"message","role":"user","#,
            r##""content":[{"type":"input_text","text":"DTMF: #"}]}}"##
        );
        assert_eq!(said(&mut vendor, Say::Dtmf(b'#')).unwrap(), item);
        let at = STAMP.stream_ms;
        assert_eq!(due_at(&mut vendor, at + 1_499), [""; 0]);
        assert_eq!(due_at(&mut vendor, at + 1_500), [r#"{"type":"response.create"}"#]);
        assert_eq!(due_at(&mut vendor, at + 9_000), [""; 0]);

        created(&mut vendor, "resp_1");
        said(&mut vendor, Say::Dtmf(b'1')).unwrap();
        assert_eq!(due_at(&mut vendor, at + 9_000), [""; 0], "not while a response is being said");
        done(&mut vendor, "resp_1", "completed");
        assert_eq!(due_at(&mut vendor, at + 9_000).len(), 1);
        said(&mut vendor, Say::Dtmf(b'2')).unwrap();
        created(&mut vendor, "resp_2");
        done(&mut vendor, "resp_2", "completed");
        assert_eq!(due_at(&mut vendor, at + 9_000), [""; 0], "the caller's own words were answered, with the key");

        let mut silent = ready(&[("dtmf", OptionValue::Bool(false))]);
        assert_eq!(said(&mut silent, Say::Dtmf(b'1')), None);
        for say in [Say::Clear, Say::Mark("m"), Say::Heard("m"), Say::HangUp, Say::Stop(StopReason::Ended)] {
            assert_eq!(said(&mut silent, say), None, "{say:?}");
        }
    }

    #[test]
    fn an_old_session_is_told_of_once_between_turns() {
        let minutes = 60_000;
        let mut vendor = ready(&[]);
        created(&mut vendor, "resp_1");
        due_at(&mut vendor, STAMP.stream_ms + 55 * minutes);
        let idle = r#"{"type":"rate_limits.updated","event_id":"e","rate_limits":[]}"#;
        assert_eq!(event(&mut vendor, idle), Event::None, "while a response is being said");
        let done = r#"{"type":"response.done","response":{"id":"resp_1","status":"completed"}}"#;
        assert_eq!(event(&mut vendor, done), Event::Expiring);
        assert_eq!(event(&mut vendor, idle), Event::None);

        let mut vendor = ready(&[("rotate-minutes", OptionValue::Int(1))]);
        due_at(&mut vendor, STAMP.stream_ms + minutes - 1);
        assert_eq!(event(&mut vendor, idle), Event::None);
        due_at(&mut vendor, STAMP.stream_ms + minutes);
        assert_eq!(event(&mut vendor, SPEECH_STARTED), Event::Clear);
        assert_eq!(event(&mut vendor, idle), Event::None, "while the caller speaks");

        let mut vendor = ready(&[("rotate-minutes", OptionValue::Int(0))]);
        due_at(&mut vendor, 10_000 * minutes);
        assert_eq!(event(&mut vendor, idle), Event::None);
    }

    #[test]
    fn ids_of_any_length_and_spelling_survive() {
        let mut vendor = ready(&[]);
        let long = "9".repeat(5_000);
        created(&mut vendor, &long);
        speaks(&mut vendor, &long, r#"a\"b"#, 100);
        event(&mut vendor, SPEECH_STARTED);
        said(&mut vendor, Say::Cleared { unheard_ms: 50 }).unwrap();
        let due = due(&mut vendor);
        assert!(due[0].contains(r#""item_id":"a\"b","#), "{due:?}");
    }
}
