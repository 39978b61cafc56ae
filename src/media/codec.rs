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

#[cfg(test)]
mod tests {
    use super::*;

    const CODECS: [Codec; 7] = [
        Codec::Pcmu,
        Codec::Pcma,
        Codec::G722,
        Codec::L16(Rate::Hz8000),
        Codec::L16(Rate::Hz16000),
        Codec::L16(Rate::Hz24000),
        Codec::L16(Rate::Hz48000),
    ];

    #[test]
    fn an_rtpmap_names_its_codec_and_a_payload_type_of_old_needs_none() {
        for codec in CODECS {
            assert_eq!(Codec::from_rtpmap(codec.name(), codec.clock()), Some(codec));
            assert_eq!(Codec::from_rtpmap(&codec.name().to_lowercase(), codec.clock()), Some(codec));
            if let Some(payload_type) = codec.payload_type() {
                assert_eq!(Codec::from_payload_type(payload_type), Some(codec));
            }
        }
        assert_eq!(Codec::from_rtpmap("G722", 16_000), None);
        assert_eq!(Codec::from_rtpmap("PCMU", 16_000), None);
        assert_eq!(Codec::from_rtpmap("L16", 44_100), None);
        assert_eq!(Codec::from_rtpmap("opus", 48_000), None);
        assert_eq!(Codec::from_payload_type(13), None);
    }

    #[test]
    fn twenty_milliseconds_are_a_frame_in_as_many_bytes_as_they_say() {
        for codec in CODECS {
            let frame = codec.rate().frame();
            let (samples, mut bytes, mut back) = (vec![1000; frame], vec![0; 4000], vec![0; 4000]);
            let n = Encoder::new(codec).encode(&samples, &mut bytes);
            assert_eq!(n, codec.bytes(20));
            assert_eq!(n / codec.bytes_per_tick() * codec.samples_per_tick(), frame);
            assert_eq!(Decoder::new(codec).decode(&bytes[..n], &mut back), frame);
        }
    }

    #[test]
    fn l16_has_its_high_byte_first() {
        let mut bytes = [0; 5];
        assert_eq!(Encoder::new(Codec::L16(Rate::Hz8000)).encode(&[0x1234, -2, 7], &mut bytes), 4);
        assert_eq!(bytes, [0x12, 0x34, 0xff, 0xfe, 0]);
        let mut samples = [0; 3];
        assert_eq!(Decoder::new(Codec::L16(Rate::Hz8000)).decode(&bytes, &mut samples), 2);
        assert_eq!(samples, [0x1234, -2, 0]);
    }

    /// How far (dB) the sound is above what the way through the codec has added, at the best delay.
    fn snr(said: &[i16], heard: &[i16]) -> f64 {
        let at = |delay: usize| {
            let pairs = said[1000..8000].iter().zip(&heard[1000 + delay..]);
            let (mut power, mut noise) = (0.0, 1.0);
            for (&said, &heard) in pairs {
                power += f64::from(said).powi(2);
                noise += (f64::from(said) - f64::from(heard)).powi(2);
            }
            10.0 * (power / noise).log10()
        };
        (0..50).map(at).fold(f64::MIN, f64::max)
    }

    #[test]
    fn tones_and_voices_survive_the_way_there_and_back() {
        let mut noise = 1_u32;
        for codec in CODECS {
            let hz = f64::from(codec.rate().hz());
            let tone: Vec<i16> = (0..9000)
                .map(|i| (f64::sin(f64::from(i) * 1000.0 * core::f64::consts::TAU / hz) * 12_000.0) as i16)
                .collect();
            // Harmonics of a gliding pitch, falling, and breath.
            let mut phase = 0.0;
            let voice: Vec<i16> = (0..9000)
                .map(|i| {
                    phase += (120.0 + f64::from(i) / hz * 60.0) / hz * core::f64::consts::TAU;
                    noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let voice: f64 = (1..20).map(|n| (phase * f64::from(n)).sin() / f64::from(n)).sum();
                    (voice * 6000.0) as i16 + (noise >> 24) as i16
                })
                .collect();
            for (what, said) in [("tone", tone), ("voice", voice)] {
                let (mut bytes, mut heard) = (vec![0; 18_000], vec![0; 9000]);
                let n = Encoder::new(codec).encode(&said, &mut bytes);
                Decoder::new(codec).decode(&bytes[..n], &mut heard);
                let snr = snr(&said, &heard);
                println!("{codec:?} {what}: {snr:.1} dB");
                let least = match codec {
                    Codec::Pcmu | Codec::Pcma => 34.0,
                    Codec::G722 => 25.0,
                    Codec::L16(_) => 90.0,
                };
                assert!(snr >= least, "{codec:?} {what}: {snr:.1} dB");
            }
        }
    }
}
