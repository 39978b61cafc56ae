//! G.711: one byte a sample, logarithmic, in its two laws.
//!
//! Plain arithmetic, no tables: a 16 kB encoding table would cost a Cortex-A72 half of its first-level cache to save
//! what the leading-zero count does in one instruction.

/// The two companding laws of ITU-T G.711.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Law {
    /// North America and Japan. RTP payload type 0.
    Mu,
    /// Everywhere else. RTP payload type 8.
    A,
}

impl Law {
    /// The code of silence: positive zero. (A-law has no zero; its 0xd5 decodes to 8.)
    #[must_use]
    pub const fn silence(self) -> u8 {
        match self {
            Self::Mu => MU_SILENCE,
            Self::A => A_SILENCE,
        }
    }

    /// The sample that this code stands for: the middle of its interval (G.711 tables 1 and 2), scaled to 16 bits.
    #[must_use]
    pub const fn decode(self, code: u8) -> i16 {
        match self {
            Self::Mu => {
                let code = !code;
                let magnitude = ((((code & 0x0f) as i16) << 3) + MU_BIAS) << segment(code);
                if code & SIGN == 0 { magnitude - MU_BIAS } else { MU_BIAS - magnitude }
            }
            Self::A => {
                let code = code ^ A_TOGGLE;
                let interval = ((code & 0x0f) as i16) << 4;
                let magnitude = match segment(code) {
                    0 => interval + 8,
                    segment => (interval + 0x108) << (segment - 1),
                };
                if code & SIGN == 0 { -magnitude } else { magnitude }
            }
        }
    }

    /// The code of this sample. Negative samples are classed by their ones' complement, as in the reference software
    /// of ITU-T G.191, so -1 is negative zero and not positive zero.
    #[must_use]
    pub const fn encode(self, sample: i16) -> u8 {
        let sign = if sample < 0 { 0 } else { SIGN };
        let magnitude = (sample ^ (sample >> 15)) as u16;
        match self {
            Self::Mu => {
                // 14 bits and the bias of 33; what lies beyond the last decision value is clipped to it.
                let biased = (magnitude >> 2) + 33;
                let biased = if biased > MU_CLIP { MU_CLIP } else { biased };
                let segment = 10 - biased.leading_zeros();
                let interval = (biased >> (segment + 1)) as u8 & 0x0f;
                sign | (0x7f - ((segment as u8) << 4 | interval))
            }
            Self::A => {
                let magnitude = magnitude >> 4; // 12 bits
                let segment = 12_u32.saturating_sub(magnitude.leading_zeros());
                let interval = (magnitude >> segment.saturating_sub(1)) as u8 & 0x0f;
                (sign | (segment as u8) << 4 | interval) ^ A_TOGGLE
            }
        }
    }

    /// Decodes as many codes as both slices hold and says how many.
    pub fn decode_slice(self, codes: &[u8], samples: &mut [i16]) -> usize {
        // The law is matched once, so that each loop can be vectorised.
        match self {
            Self::Mu => each(codes, samples, |code| Self::Mu.decode(code)),
            Self::A => each(codes, samples, |code| Self::A.decode(code)),
        }
    }

    /// Encodes as many samples as both slices hold and says how many.
    pub fn encode_slice(self, samples: &[i16], codes: &mut [u8]) -> usize {
        match self {
            Self::Mu => each(samples, codes, |sample| Self::Mu.encode(sample)),
            Self::A => each(samples, codes, |sample| Self::A.encode(sample)),
        }
    }
}

#[inline]
fn each<T: Copy, U>(from: &[T], to: &mut [U], turn: impl Fn(T) -> U) -> usize {
    for (to, from) in to.iter_mut().zip(from) {
        *to = turn(*from);
    }
    from.len().min(to.len())
}

/// Bits 6 to 4: the segment of the curve, once the inversions of the line are undone.
const fn segment(code: u8) -> u32 {
    (code as u32 & 0x70) >> 4
}

/// Mu-law silence, positive zero: decodes to 0.
pub const MU_SILENCE: u8 = 0xff;

/// A-law silence, positive zero: decodes to 8.
pub const A_SILENCE: u8 = 0xd5;

/// Bit 7: positive as it stands on the line.
const SIGN: u8 = 0x80;

/// A-law inverts its even bits on the line (G.711, table 1a, note 2).
const A_TOGGLE: u8 = 0x55;

/// 33 in the 14-bit scale of G.711's mu-law, which is what makes its segments powers of two.
const MU_BIAS: i16 = 33 << 2;

/// The largest biased 14-bit magnitude.
const MU_CLIP: u16 = 0x1fff;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// One interval of the positive half of a law, in 16-bit units, from the segment definition.
    struct Interval {
        lowest: i32,
        step: i32,
        code: u8,
    }

    /// 8 segments of 16 equal steps, the step doubling from each to the next. A-law: the first two segments have the
    /// same step, of 2 in 13 bits. Mu-law: the first step is 2 in 14 bits, and the first interval straddles zero.
    fn intervals(law: Law) -> Vec<Interval> {
        let mut intervals = Vec::new();
        let mut lowest = match law {
            Law::Mu => -4,
            Law::A => 0,
        };
        for segment in 0..8_u8 {
            let step = match law {
                Law::Mu => 8 << segment,
                Law::A => 16 << segment.saturating_sub(1),
            };
            for interval in 0..16 {
                let plain = 0x80 | segment << 4 | interval;
                let code = match law {
                    Law::Mu => plain ^ 0x7f,
                    Law::A => plain ^ 0x55,
                };
                intervals.push(Interval { lowest, step, code });
                lowest += step;
            }
        }
        intervals
    }

    #[test]
    fn every_code_decodes_to_the_middle_of_its_interval() {
        for law in [Law::Mu, Law::A] {
            for interval in intervals(law) {
                let middle = interval.lowest + interval.step / 2;
                assert_eq!(i32::from(law.decode(interval.code)), middle, "{law:?} {:#04x}", interval.code);
                assert_eq!(i32::from(law.decode(interval.code ^ 0x80)), -middle, "{law:?} {:#04x}", interval.code);
            }
        }
    }

    #[test]
    fn every_sample_encodes_to_the_interval_that_holds_it() {
        for law in [Law::Mu, Law::A] {
            let intervals = intervals(law);
            for sample in i16::MIN..=i16::MAX {
                let magnitude = if sample < 0 { !i32::from(sample) } else { i32::from(sample) };
                let positive = intervals.iter().rev().find(|interval| interval.lowest <= magnitude).unwrap().code;
                let expected = if sample < 0 { positive ^ 0x80 } else { positive };
                assert_eq!(law.encode(sample), expected, "{law:?} {sample}");
            }
        }
    }

    #[test]
    fn the_ends_of_both_laws_are_those_of_the_recommendation() {
        assert_eq!([0x00, 0x80, 0x7f, 0xff].map(|code| Law::Mu.decode(code)), [-32124, 32124, 0, 0]);
        assert_eq!([0x2a, 0xaa, 0x55, 0xd5].map(|code| Law::A.decode(code)), [-32256, 32256, -8, 8]);
        assert_eq!([i16::MIN, -1, 0, i16::MAX].map(|sample| Law::Mu.encode(sample)), [0x00, 0x7f, 0xff, 0x80]);
        assert_eq!([i16::MIN, -1, 0, i16::MAX].map(|sample| Law::A.encode(sample)), [0x2a, 0x55, 0xd5, 0xaa]);
        assert_eq!([Law::Mu, Law::A].map(|law| law.encode(0)), [Law::Mu, Law::A].map(Law::silence));
    }

    #[test]
    fn a_code_survives_decoding_and_encoding_but_for_negative_zero() {
        for code in 0..=u8::MAX {
            let expected = if code == 0x7f { MU_SILENCE } else { code };
            assert_eq!(Law::Mu.encode(Law::Mu.decode(code)), expected);
            assert_eq!(Law::A.encode(Law::A.decode(code)), code);
        }
    }

    #[test]
    fn slices_stop_at_the_shorter_one_and_leave_the_rest_alone() {
        let codes = [0x00, 0xff, 0x80, 0x7f];
        for law in [Law::Mu, Law::A] {
            let mut samples = [7; 6];
            assert_eq!(law.decode_slice(&codes, &mut samples), 4);
            assert_eq!(samples[..4], codes.map(|code| law.decode(code)));
            assert_eq!(samples[4..], [7, 7]);
            let mut back = [9; 3];
            assert_eq!(law.encode_slice(&samples, &mut back), 3);
            assert_eq!(back, codes[..3]);
        }
    }
}
