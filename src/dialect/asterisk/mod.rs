//! `asterisk`: Asterisk's channel driver `chan_websocket`. Binary messages are bare audio in one of its formats, text
//! messages are events of the PBX and commands of ours, in one of two spellings that its dial string chooses.
//!
//! Binary is audio whatever it looks like, also before the first text: a loaded PBX starts to send before it has said
//! how. What it is given it cuts into frames and plays by a timer of its own, from a queue of 1,000 frames.
//!
//! ```text
//!  the PBX                                                                       we
//!    | MEDIA_START connection_id:ID channel:NAME channel_id:ID format:slin16 ... ---> |
//!    | a frame of samples ...                                                    ---> |
//!    | <---------------------------------------------------------  frames of samples  |
//!    | <-------------------------------------------------------------  MARK_MEDIA ID  |
//!    | MEDIA_MARK_PROCESSED ID, once it is played                                ---> |
//!    | <----------------  FLUSH_MEDIA: the queue is empty, its marks are forgotten    |
//!    | <---------------------------------------------  CONTINUE_MEDIA, whatever was   |
//!    | MEDIA_XOFF at 900 frames, MEDIA_XON below 800                             ---> |
//!    | DTMF_END digit:5 channel_id:ID                                            ---> |
//!    | <---------------------------------------------------------------------  HANGUP |
//! ```
//!
//! In the other spelling they are `{"event":"MEDIA_START","channel_id":...}` and `{"command":"MARK_MEDIA",
//! "correlation_id":...}`. A command of more than 128 bytes is ignored, and nobody but the PBX's log is told. There is no
//! message for the end: the socket's is the call's. Sources: Asterisk, "WebSocket Channel Driver" (documentation) and
//! `channels/chan_websocket.c`.

mod agent;
mod vendor;
mod words;

use crate::{
    dialect::{Carrier, Coding, Format, Full, Message, OptionError, OptionInfo, OptionValue},
    media::{Rate, g711::Law},
};

pub use self::{agent::Agent, vendor::Vendor};

/// The subprotocol that the PBX offers as a client and wants as a server.
pub const SUBPROTOCOL: &str = "media";

/// What can be set in `[line.NAME.asterisk]` and `[line.NAME.path.asterisk]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    control: Control,
    encoding: Encoding,
    ping: Ping,
    answer: bool,
    silence: bool,
}

/// How control messages are spelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Control {
    #[default]
    Plain,
    Json,
}

/// Whether the PBX is pinged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ping {
    /// Once it has shown that its release bears it.
    #[default]
    Auto,
    Always,
    Never,
}

/// How a sample is coded: a format's name less its rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Encoding {
    #[default]
    Slin,
    Ulaw,
    Alaw,
}

impl Options {
    /// The options.
    pub const KNOWN: &'static [OptionInfo] = &[
        OptionInfo {
            key: "control",
            default: "\"plain-text\"",
            help: "How control messages are spelled until the PBX has shown it: `plain-text` or `json`.",
            role: None,
        },
        OptionInfo {
            key: "encoding",
            default: "\"slin\"",
            help: "How audio is coded until the PBX has said it: `slin`, `ulaw` or `alaw`.",
            role: None,
        },
        OptionInfo {
            key: "ping",
            default: "\"auto\"",
            help: "Whether the PBX is pinged: `always`, `never`, or `auto`, once it has shown that its release bears it.",
            role: Some(crate::dialect::Role::Agent),
        },
        OptionInfo {
            key: "answer",
            default: "false",
            help: "Answer the channel when the agent first speaks, for a dial string with the option `n`.",
            role: Some(crate::dialect::Role::Agent),
        },
        OptionInfo {
            key: "silence",
            default: "false",
            help: "Send silence while the agent says nothing, where the PBX would send its caller no RTP at all.",
            role: Some(crate::dialect::Role::Agent),
        },
    ];

    /// Sets one.
    ///
    /// # Errors
    /// [`OptionError`] says whether the key or the value is at fault.
    pub fn set(&mut self, key: &str, value: OptionValue<'_>) -> Result<(), OptionError> {
        let flag = |value| match value {
            OptionValue::Bool(flag) => Ok(flag),
            OptionValue::Int(_) | OptionValue::Str(_) => Err(OptionError::Expected("true or false")),
        };
        let word = match value {
            OptionValue::Str(word) => word,
            OptionValue::Bool(_) | OptionValue::Int(_) => "",
        };
        match (key, word) {
            ("control", "plain-text") => self.control = Control::Plain,
            ("control", "json") => self.control = Control::Json,
            ("control", _) => return Err(OptionError::Expected("\"plain-text\" or \"json\"")),
            ("encoding", "slin") => self.encoding = Encoding::Slin,
            ("encoding", "ulaw") => self.encoding = Encoding::Ulaw,
            ("encoding", "alaw") => self.encoding = Encoding::Alaw,
            ("encoding", _) => return Err(OptionError::Expected("\"slin\", \"ulaw\" or \"alaw\"")),
            ("ping", "auto") => self.ping = Ping::Auto,
            ("ping", "always") => self.ping = Ping::Always,
            ("ping", "never") => self.ping = Ping::Never,
            ("ping", _) => return Err(OptionError::Expected("\"auto\", \"always\" or \"never\"")),
            ("answer", _) => self.answer = flag(value)?,
            ("silence", _) => self.silence = flag(value)?,
            _ => return Err(OptionError::Unknown),
        }
        Ok(())
    }
}

/// One of Asterisk's formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sound {
    encoding: Encoding,
    rate: Rate,
}

impl Sound {
    const fn new(encoding: Encoding, rate: Rate) -> Self {
        let rate = match encoding {
            Encoding::Slin => rate,
            Encoding::Ulaw | Encoding::Alaw => Rate::Hz8000,
        };
        Self { encoding, rate }
    }

    /// `None`: a format that is not spoken here, with its samples spelled in another way or at a rate that we do not
    /// have.
    fn named(name: &str) -> Option<Self> {
        let (encoding, rate) = match name {
            "slin" => (Encoding::Slin, Rate::Hz8000),
            "slin16" => (Encoding::Slin, Rate::Hz16000),
            "slin24" => (Encoding::Slin, Rate::Hz24000),
            "slin48" => (Encoding::Slin, Rate::Hz48000),
            "ulaw" => (Encoding::Ulaw, Rate::Hz8000),
            "alaw" => (Encoding::Alaw, Rate::Hz8000),
            _ => return None,
        };
        Some(Self { encoding, rate })
    }

    const fn name(self) -> &'static str {
        match (self.encoding, self.rate) {
            (Encoding::Slin, Rate::Hz8000) => "slin",
            (Encoding::Slin, Rate::Hz16000) => "slin16",
            (Encoding::Slin, Rate::Hz24000) => "slin24",
            (Encoding::Slin, Rate::Hz48000) => "slin48",
            (Encoding::Ulaw, _) => "ulaw",
            (Encoding::Alaw, _) => "alaw",
        }
    }

    const fn format(self) -> Format {
        let coding = match self.encoding {
            Encoding::Slin => Coding::Pcm16Le,
            Encoding::Ulaw => Coding::Mulaw,
            Encoding::Alaw => Coding::Alaw,
        };
        Format { carrier: Carrier::Raw, coding, rate: self.rate }
    }

    const fn bytes_a_sample(self) -> usize {
        match self.encoding {
            Encoding::Slin => 2,
            Encoding::Ulaw | Encoding::Alaw => 1,
        }
    }

    fn write(self, samples: &[i16], out: &mut Message<'_>) -> Result<(), Full> {
        out.set_binary();
        match self.encoding {
            Encoding::Slin => out.raw_pcm16le(samples),
            Encoding::Ulaw => out.raw_g711(Law::Mu, samples),
            Encoding::Alaw => out.raw_g711(Law::A, samples),
        }
    }
}

/// The longest text that the PBX reads (bytes).
const MAX_COMMAND: usize = 128;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn options_take_what_they_say_and_nothing_else() {
        let mut options = Options::default();
        for info in Options::KNOWN {
            let default = match info.default {
                "false" => OptionValue::Bool(false),
                word => OptionValue::Str(word.trim_matches('"')),
            };
            assert_eq!(options.set(info.key, default), Ok(()), "{}", info.key);
            for bad in [OptionValue::Str(""), OptionValue::Str("sometimes"), OptionValue::Int(1)] {
                assert!(matches!(options.set(info.key, bad), Err(OptionError::Expected(_))), "{}", info.key);
            }
        }
        assert_eq!(options.set("codec", OptionValue::Str("slin")), Err(OptionError::Unknown));
    }

    #[test]
    fn formats_have_asterisks_names_and_g711_has_one_rate() {
        for name in ["slin", "slin16", "slin24", "slin48", "ulaw", "alaw"] {
            assert_eq!(Sound::named(name).unwrap().name(), name);
        }
        for odd in ["", "slin12", "slin192", "g722", "opus", "SLIN", "slin16 "] {
            assert_eq!(Sound::named(odd), None, "{odd:?}");
        }
        assert_eq!(Sound::new(Encoding::Alaw, Rate::Hz16000).rate, Rate::Hz8000);
    }
}
