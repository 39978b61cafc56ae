//! The three grammars, as cheaply as they can be written and read.
//!
//! Nothing is checked: the audio of a message is found by the key in front of it. Samples are still coded and decoded,
//! because that is the work that a relay cannot leave out.

use std::{io::Write, str::FromStr};

use memchr::{memchr, memmem};

use crate::line;

/// What is spoken over the WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Bare PCM16 in binary messages.
    Binary,
    /// Numbers in JSON, 80 samples a message.
    Ozonetel,
    /// Base64 in JSON, 160 samples a message.
    Exotel,
}

impl FromStr for Dialect {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "binary" => Ok(Self::Binary),
            "ozonetel" => Ok(Self::Ozonetel),
            "exotel" => Ok(Self::Exotel),
            _ => Err(()),
        }
    }
}

impl Dialect {
    /// Samples in a message that a vendor sends.
    #[must_use]
    pub const fn chunk(self) -> usize {
        match self {
            Self::Ozonetel => 80,
            Self::Binary | Self::Exotel => line::FRAME,
        }
    }

    /// The opcode of its messages.
    #[must_use]
    pub const fn opcode(self) -> u8 {
        match self {
            Self::Binary => super::websocket::BINARY,
            Self::Ozonetel | Self::Exotel => super::websocket::TEXT,
        }
    }

    /// What a vendor says first.
    #[must_use]
    pub const fn opening(self) -> &'static [&'static str] {
        match self {
            Self::Binary => &[],
            Self::Ozonetel => {
                &[r#"{"event":"start","type":"text","ucid":"17000000000000001","did":"100","call_id":"200"}"#]
            }
            Self::Exotel => &[
                r#"{"event":"connected"}"#,
                concat!(
                    r#"{"event":"start","sequence_number":"1","stream_sid":"rig","start":{"stream_sid":"rig","#,
                    r#""call_sid":"rig","account_sid":"rig","from":"200","to":"100","#,
                    r#""media_format":{"encoding":"base64","sample_rate":"8000","bit_rate":"128kbps"}}}"#
                ),
            ],
        }
    }

    /// Writes a vendor's message of audio. `number` counts its messages from 1.
    pub fn write_audio(self, number: u64, samples: &[i16], out: &mut Vec<u8>) {
        // Writing to a Vec does not fail.
        match self {
            Self::Binary => out.extend(samples.iter().flat_map(|sample| sample.to_le_bytes())),
            Self::Ozonetel => {
                out.extend_from_slice(
                    br#"{"event":"media","type":"media","ucid":"17000000000000001","data":{"samples":["#,
                );
                write_decimals(samples, out);
                let _ = write!(
                    out,
                    r#"],"bitsPerSample":16,"sampleRate":8000,"channelCount":1,"numberOfFrames":{},"type":"data"}}}}"#,
                    samples.len()
                );
            }
            Self::Exotel => {
                let _ = write!(
                    out,
                    concat!(
                        r#"{{"event":"media","sequence_number":"{}","stream_sid":"rig","#,
                        r#""media":{{"chunk":"{}","timestamp":"{}","payload":""#
                    ),
                    number + 1,
                    number,
                    number.saturating_sub(1) * 20
                );
                let mut pcm = [0; line::FRAME * 2];
                for (bytes, sample) in pcm.as_chunks_mut::<2>().0.iter_mut().zip(samples) {
                    *bytes = sample.to_le_bytes();
                }
                base64_simd::STANDARD.encode_append(&pcm[..samples.len().min(line::FRAME) * 2], out);
                out.extend_from_slice(br#""}}"#);
            }
        }
    }

    /// The audio of a message as it is spelled there; `None` when it has none that is meant to be heard.
    #[must_use]
    pub fn audio(self, message: &[u8]) -> Option<&[u8]> {
        match self {
            Self::Binary => Some(message),
            Self::Ozonetel => {
                let audio = between(message, b"\"samples\":[", b']')?;
                // The first packet of a vendor says 16 kHz and is to be dropped.
                memmem::find(message, b"\"sampleRate\":16000").is_none().then_some(audio)
            }
            Self::Exotel => between(message, b"\"payload\":\"", b'"'),
        }
    }

    /// Decodes what [`audio`](Self::audio) found. `samples` is emptied first.
    pub fn decode(self, audio: &[u8], samples: &mut Vec<i16>) {
        samples.clear();
        match self {
            Self::Binary => samples.extend(line::samples(audio)),
            Self::Ozonetel => read_decimals(audio, samples),
            Self::Exotel => {
                let mut pcm = [0; 8 * 1024];
                let out = base64_simd::Out::from_slice(&mut pcm);
                if audio.len() <= 8 * 1024
                    && let Ok(pcm) = base64_simd::STANDARD.decode(audio, out)
                {
                    samples.extend(line::samples(pcm));
                }
            }
        }
    }

    /// Writes an agent's message with the very audio of `message`.
    pub fn write_reply(self, message: &[u8], audio: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Binary => out.extend_from_slice(audio),
            Self::Ozonetel => {
                out.extend_from_slice(br#"{"event":"media","type":"media","data":{"samples":["#);
                out.extend_from_slice(audio);
                out.extend_from_slice(
                    br#"],"bitsPerSample":16,"sampleRate":8000,"channelCount":1,"numberOfFrames":80,"type":"data"}}"#,
                );
            }
            Self::Exotel => {
                out.extend_from_slice(br#"{"event":"media","stream_sid":""#);
                out.extend_from_slice(between(message, b"\"stream_sid\":\"", b'"').unwrap_or_default());
                out.extend_from_slice(br#"","media":{"payload":""#);
                out.extend_from_slice(audio);
                out.extend_from_slice(br#""}}"#);
            }
        }
    }
}

fn between<'m>(message: &'m [u8], before: &[u8], end: u8) -> Option<&'m [u8]> {
    let rest = &message[memmem::find(message, before)? + before.len()..];
    memchr(end, rest).map(|end| &rest[..end])
}

fn write_decimals(samples: &[i16], out: &mut Vec<u8>) {
    for (i, &sample) in samples.iter().enumerate() {
        let mut text = [0; 7];
        let mut at = text.len();
        let mut left = sample.unsigned_abs();
        loop {
            at -= 1;
            text[at] = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        if sample < 0 {
            at -= 1;
            text[at] = b'-';
        }
        if i > 0 {
            at -= 1;
            text[at] = b',';
        }
        out.extend_from_slice(&text[at..]);
    }
}

fn read_decimals(text: &[u8], samples: &mut Vec<i16>) {
    let (mut value, mut negative, mut any) = (0_i32, false, false);
    let mut push = |value: i32, negative: bool| samples.push(if negative { -value } else { value } as i16);
    for &byte in text {
        match byte {
            b'0'..=b'9' => {
                value = value.wrapping_mul(10).wrapping_add(i32::from(byte - b'0'));
                any = true;
            }
            b'-' => negative = true,
            b',' => {
                push(value, negative);
                (value, negative) = (0, false);
            }
            _ => {}
        }
    }
    if any {
        push(value, negative);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SAMPLES: [i16; 6] = [0, -1, 32_767, -32_768, 10, -900];

    #[test]
    fn every_dialect_reads_what_it_writes_and_what_it_replies() {
        for dialect in [Dialect::Binary, Dialect::Ozonetel, Dialect::Exotel] {
            let (mut message, mut reply, mut samples) = (Vec::new(), Vec::new(), Vec::new());
            dialect.write_audio(1, &SAMPLES, &mut message);
            let audio = dialect.audio(&message).unwrap();
            dialect.decode(audio, &mut samples);
            assert_eq!(samples, SAMPLES);
            dialect.write_reply(&message, audio, &mut reply);
            dialect.decode(dialect.audio(&reply).unwrap(), &mut samples);
            assert_eq!(samples, SAMPLES);
            if dialect != Dialect::Binary {
                for json in [&message, &reply] {
                    serde_json::from_slice::<serde_json::Value>(json).unwrap();
                }
            }
        }
    }

    #[test]
    fn the_first_packet_of_a_vendor_is_not_echoed() {
        let stray = br#"{"event":"media","type":"media","ucid":"1","data":{"samples":[0,0],"bitsPerSample":16,"sampleRate":16000,"channelCount":1,"numberOfFrames":2,"type":"data"}}"#;
        assert_eq!(Dialect::Ozonetel.audio(stray), None);
        for opening in Dialect::Ozonetel.opening() {
            assert_eq!(Dialect::Ozonetel.audio(opening.as_bytes()), None);
        }
        for opening in Dialect::Exotel.opening() {
            serde_json::from_str::<serde_json::Value>(opening).unwrap();
            assert_eq!(Dialect::Exotel.audio(opening.as_bytes()), None);
        }
    }
}
