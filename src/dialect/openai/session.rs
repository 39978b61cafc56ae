//! What a session object tells, in both of its shapes.

use crate::{
    dialect::{
        Coding, Malformed,
        json::{Members, Value},
    },
    media::{Rate, g711::Law},
};

/// Which of its two spellings the grammar has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The general one: `session.type`, `session.audio`, `response.output_audio.*`.
    Ga,
    /// The older one: `session.input_audio_format`, `response.audio.*`.
    Beta,
}

/// How audio is coded. There is no other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sound {
    /// Signed 16-bit, least significant byte first, 24 kHz.
    #[default]
    Pcm,
    /// G.711 mu-law, 8 kHz.
    Mulaw,
    /// G.711 A-law, 8 kHz.
    Alaw,
}

impl Sound {
    /// How many samples make a second.
    #[must_use]
    pub const fn rate(self) -> Rate {
        match self {
            Self::Pcm => Rate::Hz24000,
            Self::Mulaw | Self::Alaw => Rate::Hz8000,
        }
    }

    /// The `format` of a GA session, as JSON.
    #[must_use]
    pub const fn ga(self) -> &'static str {
        match self {
            Self::Pcm => r#"{"type":"audio/pcm","rate":24000}"#,
            Self::Mulaw => r#"{"type":"audio/pcmu"}"#,
            Self::Alaw => r#"{"type":"audio/pcma"}"#,
        }
    }

    /// The name of the format in a beta session.
    #[must_use]
    pub const fn beta(self) -> &'static str {
        match self {
            Self::Pcm => "pcm16",
            Self::Mulaw => "g711_ulaw",
            Self::Alaw => "g711_alaw",
        }
    }

    pub(super) const fn coding(self) -> Coding {
        match self {
            Self::Pcm => Coding::Pcm16Le,
            Self::Mulaw => Coding::Mulaw,
            Self::Alaw => Coding::Alaw,
        }
    }

    pub(super) const fn law(self) -> Option<Law> {
        match self {
            Self::Pcm => None,
            Self::Mulaw => Some(Law::Mu),
            Self::Alaw => Some(Law::A),
        }
    }

    fn named(name: &str) -> Option<Self> {
        match name {
            "audio/pcm" | "pcm16" => Some(Self::Pcm),
            "audio/pcmu" | "g711_ulaw" => Some(Self::Mulaw),
            "audio/pcma" | "g711_alaw" => Some(Self::Alaw),
            _ => None,
        }
    }
}

/// What a session object says of what matters to a call. What it leaves out is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// It has what only a GA session has.
    pub(super) is_ga: bool,
    /// It has what only a beta session has.
    pub(super) is_beta: bool,
    /// How the caller is coded.
    pub(super) input: Option<Sound>,
    /// How the agent is coded.
    pub(super) output: Option<Sound>,
    /// Whether the server stops its response by itself when the caller speaks.
    pub(super) interrupts: Option<bool>,
}

impl Told {
    /// Reads the value of `session`.
    pub(super) fn of(session: Option<Value<'_>>) -> Result<Self, Malformed> {
        let mut told = Self::default();
        let Some(mut session) = session.and_then(|session| session.object()) else { return Ok(told) };
        while let Some((key, value)) = session.next()? {
            if key.is(b"type") {
                told.is_ga = true;
            } else if key.is(b"audio") {
                told.is_ga = true;
                if let Some(audio) = value.object() {
                    told.read_audio(audio)?;
                }
            } else if key.is(b"input_audio_format") {
                told.is_beta = true;
                told.input = value.plain().and_then(Sound::named);
            } else if key.is(b"output_audio_format") {
                told.is_beta = true;
                told.output = value.plain().and_then(Sound::named);
            } else if key.is(b"turn_detection")
                && let Some(detection) = value.object()
            {
                told.read_detection(detection)?;
            }
        }
        Ok(told)
    }

    fn read_audio(&mut self, mut audio: Members<'_>) -> Result<(), Malformed> {
        while let Some((key, value)) = audio.next()? {
            let Some(mut way) = value.object() else { continue };
            let is_input = key.is(b"input");
            if !is_input && !key.is(b"output") {
                continue;
            }
            while let Some((key, value)) = way.next()? {
                let Some(inner) = value.object() else { continue };
                if key.is(b"format") {
                    let sound = read_format(inner)?;
                    *(if is_input { &mut self.input } else { &mut self.output }) = sound;
                } else if is_input && key.is(b"turn_detection") {
                    self.read_detection(inner)?;
                }
            }
        }
        Ok(())
    }

    fn read_detection(&mut self, mut detection: Members<'_>) -> Result<(), Malformed> {
        while let Some((key, value)) = detection.next()? {
            if let (true, Value::Bool(interrupts)) = (key.is(b"interrupt_response"), value) {
                self.interrupts = Some(interrupts);
            }
        }
        Ok(())
    }
}

fn read_format(mut format: Members<'_>) -> Result<Option<Sound>, Malformed> {
    let mut sound = None;
    while let Some((key, value)) = format.next()? {
        if key.is(b"type") {
            sound = value.plain().and_then(Sound::named);
        }
    }
    Ok(sound)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn told(session: &str) -> Told {
        Told::of(Some(Value::Object(session.as_bytes()))).unwrap()
    }

    #[test]
    fn formats_are_read_in_both_shapes() {
        // As the reference of `session.created` shows it.
        let ga = concat!(
            r#"{"type":"realtime","object":"realtime.session","id":"sess_1","output_modalities":["audio"],"tools":[],"#,
            r#""audio":{"input":{"format":{"type":"audio/pcmu"},"transcription":null,"turn_detection":{"#,
            r#""type":"server_vad","threshold":0.5,"create_response":true,"interrupt_response":false}},"#,
            r#""output":{"format":{"type":"audio/pcm","rate":24000},"voice":"marin","speed":1}}}"#
        );
        let expected = Told {
            is_ga: true,
            is_beta: false,
            input: Some(Sound::Mulaw),
            output: Some(Sound::Pcm),
            interrupts: Some(false),
        };
        assert_eq!(told(ga), expected);
        let beta = concat!(
            r#"{"id":"sess_1","object":"realtime.session","modalities":["text","audio"],"voice":"alloy","#,
            r#""input_audio_format":"g711_alaw","output_audio_format":"pcm16","turn_detection":{"#,
            r#""type":"server_vad","interrupt_response":true},"temperature":0.8}"#
        );
        let expected = Told {
            is_ga: false,
            is_beta: true,
            input: Some(Sound::Alaw),
            output: Some(Sound::Pcm),
            interrupts: Some(true),
        };
        assert_eq!(told(beta), expected);
    }

    #[test]
    fn what_is_not_there_or_unknown_tells_nothing() {
        for session in [
            "{}",
            r#"{"instructions":"hi","turn_detection":null}"#,
            r#"{"turn_detection":{"interrupt_response":"yes"}}"#,
        ] {
            assert_eq!(told(session), Told::default(), "{session}");
        }
        let odd =
            r#"{"audio":{"input":7,"output":{"format":{"type":"audio/opus"}},"more":{"format":{"type":"audio/pcm"}}}}"#;
        assert_eq!(told(odd), Told { is_ga: true, ..Told::default() });
        assert_eq!(told(r#"{"input_audio_format":16}"#), Told { is_beta: true, ..Told::default() });
    }

    #[test]
    fn every_sound_is_named_alike_both_ways() {
        for sound in [Sound::Pcm, Sound::Mulaw, Sound::Alaw] {
            assert_eq!(Sound::named(sound.beta()), Some(sound));
            assert_eq!(read_format(Members::object(sound.ga().as_bytes()).unwrap()), Ok(Some(sound)));
        }
    }
}
