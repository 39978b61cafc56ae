//! `openai`: OpenAI's Realtime API over a WebSocket, base64 in JSON.
//!
//! The caller's side is the client here: as vendor we dial and configure the model's session, as agent we stand in for
//! the server. There are two shapes of the same grammar. The general one (GA) nests formats under `session.audio` and
//! says `response.output_audio.*`; the older beta has flat keys and `response.audio.*`. What comes in is understood in
//! both, what goes out keeps to one: a session that mixes them is refused or half ignored.
//!
//! ```text
//!  vendor (client)                                          agent (server)
//!    | <---------------------------------------- session.created  |  tells the shape
//!    | session.update {formats, the operator's session}   ------> |
//!    | <---------------------------------------- session.updated  |  from here on the caller is sent
//!    | response.create (the greeting)                     ------> |
//!    | input_audio_buffer.append {audio: 20 ms} ...       ------> |
//!    | <------------  response.output_audio.delta {delta: burst}  |  much faster than it is heard
//!    | <--------------------- input_audio_buffer.speech_started   |  flush now; later deltas are not heard
//!    | conversation.item.truncate {audio_end_ms: heard}   ------> |  for each item that was not heard to its end
//! ```
//!
//! No message ends a call: either side closes. Sources: OpenAI, "Realtime API reference" (client events, server events)
//! and the event types of its Python SDK, `openai.types.realtime` and `openai.types.beta.realtime`.

extern crate alloc;

use alloc::sync::Arc;

use crate::dialect::{OptionError, OptionInfo, OptionValue, Role};

mod agent;
mod session;
mod spoken;
mod vendor;

pub use self::{
    agent::Agent,
    session::{Shape, Sound},
    vendor::Vendor,
};

/// What can be chosen about the dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    sound: Sound,
    /// `None`: as the session or its file has it.
    shape: Option<Shape>,
    chunk_ms: usize,
    greeting: bool,
    dtmf: bool,
    rotate_minutes: u64,
    model: Option<Arc<str>>,
    session_file: Option<Arc<str>>,
    update: Update,
}

/// The `session.update` of an operator's own session, ready for the wire, in each shape that it can have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// For a GA session.
    pub ga: Option<Arc<str>>,
    /// For a beta session.
    pub beta: Option<Arc<str>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sound: Sound::default(),
            shape: None,
            chunk_ms: 20,
            greeting: true,
            dtmf: true,
            rotate_minutes: 55,
            model: None,
            session_file: None,
            update: Update::default(),
        }
    }
}

impl Options {
    /// The keys of `[trunk.NAME.openai]`.
    pub const KNOWN: &'static [OptionInfo] = &[
        OptionInfo {
            key: "audio",
            default: "\"pcm\"",
            help: "Both ways `pcm` at 24 kHz, or G.711 at 8 kHz as `pcmu` (mu-law) or `pcma` (A-law). As agent: until \
                   the client names others.",
            role: None,
        },
        OptionInfo {
            key: "api",
            default: "\"auto\"",
            help: "The shape of what is sent: `ga`, `beta`, or `auto`, which is that of the peer.",
            role: None,
        },
        OptionInfo {
            key: "chunk-ms",
            default: "20",
            help: "As vendor: milliseconds of audio in a message, a multiple of 20 up to 100.",
            role: Some(Role::Vendor),
        },
        OptionInfo {
            key: "greeting",
            default: "true",
            help: "As vendor: ask for a response as soon as the session is set up, so that the agent speaks first.",
            role: Some(Role::Vendor),
        },
        OptionInfo {
            key: "dtmf",
            default: "true",
            help: "As vendor: tell the agent of each key in a text item of the user, `DTMF: 5`, and ask for a response \
                   when no other key follows.",
            role: Some(Role::Vendor),
        },
        OptionInfo {
            key: "rotate-minutes",
            default: "55",
            help: "As vendor: the age at which a session is to be replaced, between turns, 1 to 1440; 0: never.",
            role: Some(Role::Vendor),
        },
        OptionInfo {
            key: "model",
            default: "\"gpt-realtime\"",
            help: "As vendor: the model, which goes into the URL unless that names one. No default.",
            role: Some(Role::Vendor),
        },
        OptionInfo {
            key: "session-file",
            default: "\"session.json\"",
            help: "As vendor: a file with the `session` of a `session.update`, a JSON object. Its formats are replaced \
                   by those of `audio`. No default.",
            role: Some(Role::Vendor),
        },
    ];

    /// Sets one of [`KNOWN`](Self::KNOWN).
    ///
    /// # Errors
    /// [`OptionError`] says whether the key or the value is at fault.
    pub fn set(&mut self, key: &str, value: OptionValue<'_>) -> Result<(), OptionError> {
        match (key, value) {
            ("audio", OptionValue::Str("pcm")) => self.sound = Sound::Pcm,
            ("audio", OptionValue::Str("pcmu")) => self.sound = Sound::Mulaw,
            ("audio", OptionValue::Str("pcma")) => self.sound = Sound::Alaw,
            ("audio", _) => return Err(OptionError::Expected("\"pcm\", \"pcmu\" or \"pcma\"")),
            ("api", OptionValue::Str("auto")) => self.shape = None,
            ("api", OptionValue::Str("ga")) => self.shape = Some(Shape::Ga),
            ("api", OptionValue::Str("beta")) => self.shape = Some(Shape::Beta),
            ("api", _) => return Err(OptionError::Expected("\"auto\", \"ga\" or \"beta\"")),
            ("chunk-ms", OptionValue::Int(ms @ 20..=100)) if ms % 20 == 0 => self.chunk_ms = ms as usize,
            ("chunk-ms", _) => return Err(OptionError::Expected("a multiple of 20 from 20 to 100")),
            ("greeting", OptionValue::Bool(greeting)) => self.greeting = greeting,
            ("dtmf", OptionValue::Bool(dtmf)) => self.dtmf = dtmf,
            ("greeting" | "dtmf", _) => return Err(OptionError::Expected("true or false")),
            ("rotate-minutes", OptionValue::Int(minutes @ 0..=1440)) => self.rotate_minutes = minutes as u64,
            ("rotate-minutes", _) => return Err(OptionError::Expected("minutes from 1 to 1440, or 0 for never")),
            ("model", OptionValue::Str(model)) if !model.is_empty() => self.model = Some(model.into()),
            ("model", _) => return Err(OptionError::Expected("the name of a model")),
            ("session-file", OptionValue::Str(path)) if !path.is_empty() => self.session_file = Some(path.into()),
            ("session-file", _) => return Err(OptionError::Expected("the path of a JSON file")),
            _ => return Err(OptionError::Unknown),
        }
        Ok(())
    }

    /// How audio is coded.
    #[must_use]
    pub const fn sound(&self) -> Sound {
        self.sound
    }

    /// The shape that `api` names, unless that is `auto`.
    #[must_use]
    pub const fn shape(&self) -> Option<Shape> {
        self.shape
    }

    /// The model that the URL is to name.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// Where the operator's session is, for whoever reads files.
    #[must_use]
    pub fn session_file(&self) -> Option<&str> {
        self.session_file.as_deref()
    }

    /// What the operator's session came to.
    pub fn set_update(&mut self, update: Update) {
        self.update = update;
    }
}
