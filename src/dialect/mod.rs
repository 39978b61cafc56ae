//! What is said over a WebSocket: one file a grammar, both roles, all pure.
//!
//! A dialect reads one message at a time and writes one message at a time, into storage that the caller lends. It
//! never sees a socket, a clock or a frame header. Adding a dialect is adding one file and one line to [`NAMES`] and
//! [`open`].
//!
//! ```text
//!  a message that fits the leg's buffer          a longer one, or one in fragments
//!        |                                              |
//!        |                                        json::Splitter ---- bulk audio, piece by piece
//!        |                                              |                     |
//!        |                                        the text without it         |
//!        v                                              v                     v
//!   handle_text / handle_binary  <----------------------+              decode::Decoder -> staged in the ring
//!        |
//!   Incoming { audio, event } ----- audio bytes -----> decode::Decoder -> the ring
//! ```

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros))]

extern crate alloc;

use alloc::boxed::Box;
use core::fmt;

use crate::media::Rate;

pub mod asterisk;
pub mod audiofork;
pub mod binary;
pub mod byte_order;
#[cfg(test)]
mod contract;
pub mod decode;
pub mod detect;
mod dtmf;
pub mod exostreamkit;
pub mod exotel;
pub mod json;
mod mark;
pub mod message;
pub mod openai;
pub mod ozonetel;
mod parameters;
pub mod plivo;
pub mod rtaa;
pub mod telnyx;
pub mod twilio;
pub mod vonage;
pub mod wish;

pub use self::{
    message::Message,
    parameters::Parameters,
    wish::{Transfer, Wish},
};

/// A short text of a call: an id, a number. Longer ones are cut, never refused.
pub type Text = heapless::String<128>;

/// The name of a mark, at most 64 bytes (the ring stores it with the samples).
pub const MAX_MARK: usize = 64;

/// Which side of the grammar we play.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The telephony platform: has the caller, plays the agent's audio.
    Vendor,
    /// The voice agent: hears the caller, returns speech.
    Agent,
}

/// How one sample is spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// Signed 16-bit integers as decimal text in a JSON array.
    Decimal,
    /// Signed 16-bit, least significant byte first.
    Pcm16Le,
    /// Signed 16-bit, most significant byte first: L16 as RFC 3551 4.5.11 has it.
    Pcm16Be,
    /// G.711 mu-law, one byte a sample.
    Mulaw,
    /// G.711 A-law, one byte a sample.
    Alaw,
}

/// Where a message keeps its audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A JSON array of numbers.
    Array,
    /// A JSON string of base64.
    Base64,
    /// The whole payload of a binary message.
    Raw,
}

/// What one needs to know to turn bytes into samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Where the samples stand.
    pub carrier: Carrier,
    /// How they are spelled.
    pub coding: Coding,
    /// How many of them make a second.
    pub rate: Rate,
}

/// What a message holds by way of audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audio<'m> {
    /// Nothing.
    None,
    /// Samples to be played or heard. The bytes stand between the array's brackets or the string's quotes (escapes
    /// included), or are the whole payload; empty when the message was long and its audio went ahead piece by piece.
    Take {
        /// How they are coded.
        format: Format,
        /// Where they stand in the message.
        bytes: &'m [u8],
    },
    /// Samples that the dialect says to ignore: a sacrificial first packet, the wrong track, an impossible rate.
    Skip,
}

/// What a message says beside its audio. It takes effect after the audio of the same message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'m> {
    /// Nothing that matters to a call: greetings, acknowledgements.
    None,
    /// An event we do not know. Counted, never fatal.
    Unknown,
    /// Agent role: the call begins; [`Dialect::facts`] holds what the vendor told.
    Start,
    /// Flush what you queued. (Vendor role: the agent's speech; agent role: what was heard so far.)
    Clear,
    /// Tell me when the audio up to here was heard (vendor role).
    Mark(&'m str),
    /// The audio up to that mark was heard (agent role).
    Heard(&'m str),
    /// A key was pressed: one of `0-9*#A-D`.
    Dtmf(u8),
    /// The agent asks to end the call (vendor role).
    HangUp,
    /// The call is over (agent role).
    Stop,
    /// What somebody said, as text.
    Transcript {
        /// Who said it.
        speaker: Speaker,
        /// The words as they stand between the quotes of a JSON string, escapes included.
        text: &'m str,
        /// The whole of it, in place of all pieces before; otherwise the next piece.
        whole: bool,
    },
    /// The peer tells of a fault, in its own words (escapes included). The call goes on.
    Fault(&'m str),
    /// The peer broke the grammar where its platform ends the call for it: the WebSocket is closed with 1011 and these
    /// words.
    Broken(&'static str),
    /// Vendor role: the agent's side will not go on for long. Another connection has to take its place, between turns.
    Expiring,
    /// The agent asks something of the line (vendor role). One that makes no sense is [`Unknown`](Self::Unknown).
    Wish(wish::Asked<'m>),
    /// The caller is on hold, or is back (agent role).
    Held(bool),
    /// How the transfer stands that we asked for (agent role).
    Transfer(Transfer),
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// The one with the telephone.
    Caller,
    /// The cloud's voice.
    Agent,
}

impl Direction {
    /// As it is spelled everywhere.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Uplink => "uplink",
        }
    }
}

/// Which way the audio of a connection flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Both ways.
    #[default]
    Both,
    /// From the caller only: nobody would hear an agent.
    Uplink,
}

impl Direction {
    /// The value of an option that chooses it.
    fn option(value: OptionValue<'_>) -> Result<Self, OptionError> {
        match value {
            OptionValue::Str("both") => Ok(Self::Both),
            OptionValue::Str("uplink") => Ok(Self::Uplink),
            OptionValue::Str(_) | OptionValue::Int(_) | OptionValue::Bool(_) => {
                Err(OptionError::Expected("\"both\" or \"uplink\""))
            }
        }
    }
}

/// One message, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incoming<'m> {
    /// Its audio.
    pub audio: Audio<'m>,
    /// What it says beside that.
    pub event: Event<'m>,
}

impl Incoming<'_> {
    /// A message without meaning for a call.
    pub const NOTHING: Self = Self { audio: Audio::None, event: Event::None };
}

/// Why a message was not understood. It is dropped and counted; the call goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Not JSON, or cut short.
    Json,
    /// Nested deeper than any dialect needs.
    TooDeep,
    /// Samples that are not numbers.
    Samples,
    /// A payload that is not base64.
    Base64,
    /// A binary message where the dialect has none.
    Binary,
    /// The skeleton of a long message is larger than any control message.
    TooLong,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "the message is not JSON",
            Self::TooDeep => "the message is nested too deeply",
            Self::Samples => "the samples are not numbers",
            Self::Base64 => "the payload is not base64",
            Self::Binary => "a binary message where the dialect has none",
            Self::TooLong => "a control message beyond its limit",
        })
    }
}

/// A message that did not fit into the space lent for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// What one side tells the other beside audio. What a dialect cannot say is left unsaid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Say<'a> {
    /// Agent role: flush what you queued.
    Clear,
    /// Agent role: tell me when the audio up to here was heard.
    Mark(&'a str),
    /// Vendor role: the audio up to that mark was heard (or dropped, where the dialect's rule says so).
    Heard(&'a str),
    /// Vendor role: the caller pressed a key.
    Dtmf(u8),
    /// Agent role: end the call.
    HangUp,
    /// Vendor role: the call is over.
    Stop(StopReason),
    /// Vendor role: the agent's speech was flushed, as it wished or because the caller speaks, and so much of what had
    /// come was not heard.
    Cleared {
        /// What was flushed (ms of audio).
        unheard_ms: u64,
    },
    /// Vendor role: the caller began to speak while the agent did, as our own ears tell.
    BargeIn,
    /// Agent role: what the line is to do.
    Wish(&'a Wish),
    /// Vendor role: the caller is on hold, or is back.
    Held(bool),
    /// Vendor role: how the transfer stands that the agent asked for.
    Transfer(Transfer),
}

/// Why a vendor stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The caller hung up.
    CallerHungUp,
    /// We end it: drain, an agent's hang-up, a limit.
    Ended,
}

/// When something is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Milliseconds since the stream started.
    pub stream_ms: u64,
    /// Milliseconds since 1970, UTC.
    pub epoch_ms: u64,
}

/// What happens to marks whose audio a clear flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarksOnClear {
    /// They are told as heard at once.
    Tell,
    /// They are forgotten.
    Forget,
}

/// Who and what a call is. Unknown ones are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Our id: 12 characters of `a-z2-7`.
    pub call_id: Text,
    /// Ozonetel's id of the call: decimal digits.
    pub ucid: Text,
    /// The id of the stream.
    pub stream_sid: Text,
    /// The id of the call at the platform; on AudioSocket the UUID.
    pub call_sid: Text,
    /// Whose call it is: `account_sid`, `tenant_id`.
    pub account: Text,
    /// The caller's number.
    pub from: Text,
    /// The number called.
    pub to: Text,
    /// The number dialled in, where it differs from `to`.
    pub did: Text,
    /// What else was told of the call.
    pub custom: Parameters,
}

impl Facts {
    /// The id of the call at the platform; a line that has none is told apart by ours.
    #[must_use]
    pub fn call_sid_or_ours(&self) -> &str {
        if self.call_sid.is_empty() { &self.call_id } else { &self.call_sid }
    }
}

/// The grammar of one call on one WebSocket, in one role.
///
/// Nothing here allocates once `open` has returned.
pub trait Dialect: Send {
    /// The dialect's name in config, logs and records.
    fn name(&self) -> &'static str;

    /// The rate of the audio that we send, and that we expect until the peer says otherwise.
    fn rate(&self) -> Rate;

    /// Samples in one message of audio that we send, at [`rate`](Self::rate).
    fn chunk(&self) -> usize;

    /// How far ahead of real time audio is sent at most when it is paced (ms).
    fn lead_ms(&self) -> u64;

    /// How the audio of the next message is most likely coded: how a long message is decoded before its end is known.
    fn expected(&self) -> Format;

    /// Whether the value of this key, at this depth (1 = a member of the top-level object), is audio.
    fn carrier(&self, key: &[u8], depth: usize) -> Option<Carrier>;

    /// Whether a binary message is audio. (If not, it is taken for JSON when it begins with `{`.)
    fn binary_is_audio(&self) -> bool;

    /// Whether a mark is part of the message of audio whose end it names, so that [`Say::Mark`] has to come before that
    /// [`write_audio`](Self::write_audio). Elsewhere a mark is a message of its own, after the audio.
    fn marks_ride_on_audio(&self) -> bool;

    /// Samples of which a message of audio that we send is a multiple, at [`rate`](Self::rate); silence fills up the
    /// last.
    fn unit(&self) -> usize {
        self.rate().frame()
    }

    /// Which way audio flows. Where nobody hears an agent, nothing is written by [`write_audio`](Self::write_audio) in
    /// the agent's role and nothing of what comes is played in the vendor's.
    fn direction(&self) -> Direction {
        Direction::Both
    }

    /// The most that one message of the peer may have (bytes).
    fn max_message(&self) -> u64 {
        1 << 20
    }

    /// The most that the text of one message, without its audio, may have (bytes).
    fn max_text(&self) -> usize {
        64 * 1024
    }

    /// The longest message that we write (bytes).
    fn longest(&self) -> usize {
        8 * 1024
    }

    /// Writes one message that is due by itself: an answer to what was read, or something whose time has come. Asked
    /// after every message that was read and every 20 ms, until it says `false`.
    ///
    /// # Errors
    /// [`Full`] when the message does not fit now; it is asked for again.
    fn write_due(&mut self, _facts: &Facts, _stamp: Stamp, _out: &mut Message<'_>) -> Result<bool, Full> {
        Ok(false)
    }

    /// Why this peer is not what it should be by now, if so: an answer that its platform promises did not come. Ends
    /// the leg.
    fn overdue(&self, _stamp: Stamp) -> Option<&'static str> {
        None
    }

    /// Vendor role: whether what still comes of speech that was flushed is told from what is new, and skipped here. Else
    /// the bridge throws away what comes until there is a pause.
    fn skips_flushed_speech(&self) -> bool {
        false
    }

    /// Vendor role: whether a call goes on over another connection when this one is lost, as its platform's guide has it.
    fn may_reconnect(&self) -> bool {
        false
    }

    /// Agent role: whether the vendor goes on with a flow of its own when we close without a word, so that its caller is
    /// handed back rather than hung up on.
    fn close_hands_back(&self) -> bool {
        false
    }

    /// Whether the peer may be pinged. One that may not is not asked whether it lives: what it sends has to show it.
    fn pings(&self) -> bool {
        true
    }

    /// Agent role: whether marks are to have short names of our own, because the vendor does not give every name back as
    /// it came.
    fn marks_are_ours(&self) -> bool {
        false
    }

    /// Whether the peer takes audio already. While it does not, the caller's speech waits.
    fn takes_audio(&self) -> bool {
        true
    }

    /// Writes one message that has to go before the next message of audio. Asked before every
    /// [`write_audio`](Self::write_audio), until it says `false`.
    ///
    /// # Errors
    /// [`Full`] when the message does not fit now; it is asked for again.
    fn write_ahead(&mut self, _facts: &Facts, _stamp: Stamp, _out: &mut Message<'_>) -> Result<bool, Full> {
        Ok(false)
    }

    /// So many samples came of the message whose audio was taken last, at the rate that the message has. Where it was
    /// long only the leg knows.
    fn handle_taken(&mut self, _samples: u64) {}

    /// What becomes of marks whose audio was flushed.
    fn marks_on_clear(&self) -> MarksOnClear;

    /// What the vendor told at the start (agent role), once it did.
    fn facts(&self) -> Option<&Facts>;

    /// Writes the `step`-th message that opens the stream, from 0. `false`: there is no such step.
    ///
    /// # Errors
    /// [`Full`] when the message does not fit.
    fn write_opening(&mut self, step: usize, facts: &Facts, stamp: Stamp, out: &mut Message<'_>) -> Result<bool, Full>;

    /// Writes one message of audio, of [`chunk`](Self::chunk) samples or fewer.
    ///
    /// # Errors
    /// [`Full`] when the message does not fit.
    fn write_audio(&mut self, samples: &[i16], facts: &Facts, stamp: Stamp, out: &mut Message<'_>) -> Result<(), Full>;

    /// Writes one control message. `false`: this dialect cannot say it.
    ///
    /// # Errors
    /// [`Full`] when the message does not fit.
    fn write(&mut self, say: Say<'_>, facts: &Facts, stamp: Stamp, out: &mut Message<'_>) -> Result<bool, Full>;

    /// Hears samples of the peer as they were decoded, before anything else is done to them. `true`: their bytes stand
    /// the other way round than [`expected`](Self::expected) said until now, and so do those of what follows.
    fn observe(&mut self, _samples: &[i16]) -> bool {
        false
    }

    /// Understands a text message, or a long one's text without its audio (`long`: then an audio member is empty).
    ///
    /// # Errors
    /// [`Malformed`] when it is not JSON. Unknown events and members are not errors.
    fn handle_text<'m>(&mut self, text: &'m [u8]) -> Result<Incoming<'m>, Malformed>;

    /// Understands a binary message. Called only where [`binary_is_audio`](Self::binary_is_audio).
    ///
    /// # Errors
    /// [`Malformed`] when it makes no sense.
    fn handle_binary<'m>(&mut self, payload: &'m [u8]) -> Result<Incoming<'m>, Malformed>;
}

/// A value of a dialect's option, as the config file spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionValue<'a> {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A word.
    Str(&'a str),
}

/// What is wrong with a dialect's option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionError {
    /// There is no such key in this dialect.
    Unknown,
    /// The value does not fit; says what would, e.g. `true or false`.
    Expected(&'static str),
}

/// A dialect's option, for docs and near misses.
#[derive(Clone, Copy, Debug)]
pub struct OptionInfo {
    /// The key in `[trunk.NAME.DIALECT]`, kebab-case.
    pub key: &'static str,
    /// What it takes and its default, e.g. `true`.
    pub default: &'static str,
    /// What it does, in one sentence.
    pub help: &'static str,
    /// The only role in which it does anything; `None`: it does in both.
    pub role: Option<Role>,
}

/// The options of all dialects, each at its default until set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Ozonetel's.
    pub ozonetel: ozonetel::Options,
    /// Exotel's.
    pub exotel: exotel::Options,
    /// Twilio's.
    pub twilio: twilio::Options,
    /// Plivo's.
    pub plivo: plivo::Options,
    /// OpenAI's.
    pub openai: openai::Options,
    /// RTAA's.
    pub rtaa: rtaa::Options,
    /// ExoStreamKit's.
    pub exostreamkit: exostreamkit::Options,
    /// Telnyx's.
    pub telnyx: telnyx::Options,
    /// Asterisk's.
    pub asterisk: asterisk::Options,
    /// `mod_audio_fork`'s.
    pub audiofork: audiofork::Options,
}

impl Options {
    /// The options that a dialect has.
    #[must_use]
    pub fn known(dialect: &str) -> &'static [OptionInfo] {
        match dialect {
            "ozonetel" => ozonetel::Options::KNOWN,
            "exotel" => exotel::Options::KNOWN,
            "twilio" => twilio::Options::KNOWN,
            "plivo" => plivo::Options::KNOWN,
            "openai" => openai::Options::KNOWN,
            "rtaa" | "exostreamkit" => rtaa::Options::KNOWN,
            "telnyx" => telnyx::Options::KNOWN,
            "asterisk" => asterisk::Options::KNOWN,
            "audiofork" => audiofork::Options::KNOWN,
            _ => &[],
        }
    }

    /// Sets one.
    ///
    /// # Errors
    /// [`OptionError`] says whether the key or the value is at fault.
    pub fn set(&mut self, dialect: &str, key: &str, value: OptionValue<'_>) -> Result<(), OptionError> {
        match dialect {
            "ozonetel" => self.ozonetel.set(key, value),
            "exotel" => self.exotel.set(key, value),
            "twilio" => self.twilio.set(key, value),
            "plivo" => self.plivo.set(key, value),
            "openai" => self.openai.set(key, value),
            "rtaa" => self.rtaa.set(key, value),
            "exostreamkit" => self.exostreamkit.set(key, value),
            "telnyx" => self.telnyx.set(key, value),
            "asterisk" => self.asterisk.set(key, value),
            "audiofork" => self.audiofork.set(key, value),
            _ => Err(OptionError::Unknown),
        }
    }
}

/// The dialects by name, in the order that help shows them.
pub const NAMES: &[&str] = &[
    "binary",
    "ozonetel",
    "exotel",
    "exostreamkit",
    "rtaa",
    "telnyx",
    "twilio",
    "plivo",
    "vonage",
    "openai",
    "asterisk",
    "audiofork",
];

/// The rates that a dialect's platforms have.
#[must_use]
pub fn rates(name: &str) -> &'static [Rate] {
    match name {
        "ozonetel" => &[Rate::Hz8000],
        "exotel" => &[Rate::Hz8000, Rate::Hz16000, Rate::Hz24000],
        "twilio" => &[Rate::Hz8000],
        "plivo" => &[Rate::Hz8000, Rate::Hz16000],
        "vonage" => &[Rate::Hz8000, Rate::Hz16000, Rate::Hz24000],
        "openai" => &[Rate::Hz8000, Rate::Hz24000],
        _ => &Rate::ALL,
    }
}

/// Whether its vendor says something before its audio by which a call begins.
#[must_use]
pub fn has_start(name: &str) -> bool {
    // OpenAI's server is the one who speaks first.
    !matches!(name, "binary" | "openai")
}

/// The WebSocket subprotocol by which a dialect's platform connects, where it has one. It hangs up where another is
/// chosen, or none.
#[must_use]
pub fn subprotocol<'o>(name: &str, options: &'o Options) -> Option<&'o str> {
    match name {
        "asterisk" => Some(asterisk::SUBPROTOCOL),
        "audiofork" => Some(options.audiofork.subprotocol()),
        _ => None,
    }
}

/// A dialect for one call. `rate` is the configured one, else the dialect's own; `line` the rate of the line, which
/// `binary` takes for its own. `None`: there is no dialect of that name.
#[must_use]
pub fn open(name: &str, role: Role, rate: Option<Rate>, line: Rate, options: &Options) -> Option<Box<dyn Dialect>> {
    Some(match name {
        "binary" => Box::new(binary::Binary::new(role, rate.unwrap_or(line))),
        "ozonetel" => Box::new(ozonetel::Ozonetel::new(role, rate.unwrap_or(Rate::Hz8000), &options.ozonetel)),
        "exotel" => Box::new(exotel::Exotel::new(role, rate.unwrap_or(Rate::Hz8000), &options.exotel)),
        "twilio" => Box::new(twilio::Twilio::new(role, &options.twilio)),
        "plivo" => Box::new(plivo::Plivo::new(role, rate.unwrap_or(Rate::Hz8000), &options.plivo)),
        "vonage" => Box::new(vonage::Vonage::new(role, rate.unwrap_or(Rate::Hz16000))),
        // Its rate is that of its option `audio`.
        "openai" => match role {
            Role::Vendor => Box::new(openai::Vendor::new(&options.openai)),
            Role::Agent => Box::new(openai::Agent::new(&options.openai)),
        },
        "rtaa" => Box::new(rtaa::Rtaa::new(role, rate.unwrap_or(Rate::Hz24000), &options.rtaa)),
        "exostreamkit" => Box::new(exostreamkit::open(role, rate.unwrap_or(Rate::Hz24000), &options.exostreamkit)),
        "telnyx" => Box::new(telnyx::Telnyx::new(role, rate, &options.telnyx)),
        "asterisk" => match role {
            Role::Vendor => Box::new(asterisk::Vendor::new(rate.unwrap_or(Rate::Hz16000), &options.asterisk)),
            Role::Agent => Box::new(asterisk::Agent::new(rate.unwrap_or(Rate::Hz16000), &options.asterisk)),
        },
        "audiofork" => Box::new(audiofork::Audiofork::new(role, rate.unwrap_or(Rate::Hz16000))),
        _ => return None,
    })
}
