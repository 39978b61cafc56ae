//! What the bytes of an RTP payload stand for.
//!
//! Slices in, slices out, one state a stream. The clock of RTP and the rate of the audio are two things: G.722 counts 8000 a
//! second and has 16,000 samples (RFC 3551 4.5.2, a mistake that had to stay).

use crate::media::{frame::Rate, g711::Law, g722};

/// An encoding of audio in RTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// G.711 mu-law.
    Pcmu,
    /// G.711 A-law.
    Pcma,
    /// G.722 at 64 kbit/s.
    G722,
    /// 16-bit samples of this rate, the high byte first.
    L16(Rate),
}

impl Codec {
    /// The encoding of an `a=rtpmap` line, as far as it is one of ours with one channel. Names are compared without
    /// case (RFC 4855 3).
    #[must_use]
    pub fn from_rtpmap(name: &str, clock: u32) -> Option<Self> {
        let is = |other: Self| name.eq_ignore_ascii_case(other.name()) && clock == other.clock();
        let named = [Self::Pcmu, Self::Pcma, Self::G722].into_iter().find(|&codec| is(codec));
        named.or_else(|| Rate::from_hz(clock).map(Self::L16).filter(|&codec| is(codec)))
    }

    /// The encoding of a payload type that needs no `a=rtpmap` (RFC 3551 6).
    #[must_use]
    pub const fn from_payload_type(payload_type: u8) -> Option<Self> {
        match payload_type {
            0 => Some(Self::Pcmu),
            8 => Some(Self::Pcma),
            9 => Some(Self::G722),
            _ => None,
        }
    }

    /// Its payload type, if it has one for good. L16's own two (10 and 11) are for 44.1 kHz, which we do not speak.
    #[must_use]
    pub const fn payload_type(self) -> Option<u8> {
        match self {
            Self::Pcmu => Some(0),
            Self::Pcma => Some(8),
            Self::G722 => Some(9),
            Self::L16(_) => None,
        }
    }

    /// Its encoding name in SDP.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pcmu => "PCMU",
            Self::Pcma => "PCMA",
            Self::G722 => "G722",
            Self::L16(_) => "L16",
        }
    }

    /// What an RTP timestamp counts in a second.
    #[must_use]
    pub const fn clock(self) -> u32 {
        match self {
            Self::Pcmu | Self::Pcma | Self::G722 => 8000,
            Self::L16(rate) => rate.hz(),
        }
    }

    /// The rate of the audio.
    #[must_use]
    pub const fn rate(self) -> Rate {
        match self {
            Self::Pcmu | Self::Pcma => Rate::Hz8000,
            Self::G722 => Rate::Hz16000,
            Self::L16(rate) => rate,
        }
    }

    /// Bytes of a payload of this many milliseconds.
    #[must_use]
    pub const fn bytes(self, ms: usize) -> usize {
        self.clock() as usize / 1000 * ms * self.bytes_per_tick()
    }

    /// Bytes for one count of an RTP timestamp.
    #[must_use]
    pub const fn bytes_per_tick(self) -> usize {
        match self {
            Self::Pcmu | Self::Pcma | Self::G722 => 1,
            Self::L16(_) => 2,
        }
    }

    /// Samples for one count of an RTP timestamp.
    #[must_use]
    pub const fn samples_per_tick(self) -> usize {
        match self {
            Self::Pcmu | Self::Pcma | Self::L16(_) => 1,
            Self::G722 => 2,
        }
    }
}

/// One stream's way from bytes to samples.
#[derive(Clone, Debug)]
pub struct Decoder(Decoding);

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one a call, and a box would take the heap for each of them")]
enum Decoding {
    G711(Law),
    G722(g722::Decoder),
    L16,
}

impl Decoder {
    /// At the start of a stream.
    #[must_use]
    pub const fn new(codec: Codec) -> Self {
        Self(match codec {
            Codec::Pcmu => Decoding::G711(Law::Mu),
            Codec::Pcma => Decoding::G711(Law::A),
            Codec::G722 => Decoding::G722(g722::Decoder::new()),
            Codec::L16(_) => Decoding::L16,
        })
    }

    /// Decodes as much as both slices have room for and says how many samples that were.
    pub fn decode(&mut self, bytes: &[u8], samples: &mut [i16]) -> usize {
        match &mut self.0 {
            Decoding::G711(law) => law.decode_slice(bytes, samples),
            Decoding::G722(decoder) => decoder.decode(bytes, samples),
            Decoding::L16 => {
                // RFC 3551 4.5.11: network byte order.
                let (pairs, _) = bytes.as_chunks::<2>();
                for (sample, pair) in samples.iter_mut().zip(pairs) {
                    *sample = i16::from_be_bytes(*pair);
                }
                pairs.len().min(samples.len())
            }
        }
    }
}

/// One stream's way from samples to bytes.
#[derive(Clone, Debug)]
pub struct Encoder(Encoding);

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one a call, and a box would take the heap for each of them")]
enum Encoding {
    G711(Law),
    G722(g722::Encoder),
    L16,
}

impl Encoder {
    /// At the start of a stream.
    #[must_use]
    pub const fn new(codec: Codec) -> Self {
        Self(match codec {
            Codec::Pcmu => Encoding::G711(Law::Mu),
            Codec::Pcma => Encoding::G711(Law::A),
            Codec::G722 => Encoding::G722(g722::Encoder::new()),
            Codec::L16(_) => Encoding::L16,
        })
    }

    /// Encodes as much as both slices have room for and says how many bytes that were. G.722 takes pairs of samples: an
    /// odd last one is left out.
    pub fn encode(&mut self, samples: &[i16], bytes: &mut [u8]) -> usize {
        match &mut self.0 {
            Encoding::G711(law) => law.encode_slice(samples, bytes),
            Encoding::G722(encoder) => encoder.encode(samples, bytes),
            Encoding::L16 => {
                let (pairs, _) = bytes.as_chunks_mut::<2>();
                for (pair, sample) in pairs.iter_mut().zip(samples) {
                    *pair = sample.to_be_bytes();
                }
                2 * pairs.len().min(samples.len())
            }
        }
    }
}
