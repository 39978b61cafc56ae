//! G.722 at 64 kbit/s: 16 kHz audio in one byte for each two samples.
//!
//! A pair of quadrature mirror filters splits the sound at 4 kHz; the lower band is coded in 6 bits and the upper in 2,
//! each as what a predictor did not foresee (ITU-T G.722). Both sides keep a predictor that learns from the codes, so
//! codes must be decoded in the order in which they were made. What was lost need not be replaced: the predictors leak,
//! and find each other again.
//!
//! ```text
//!   2 samples -> QMF -> lower band  --> 6 bits --+--> byte
//!                  `--> upper band  --> 2 bits --'
//! ```

/// Turns samples into codes.
#[derive(Clone, Debug)]
pub struct Encoder {
    split: Mirror,
    lower: Band,
    upper: Band,
}

/// Turns codes into samples.
#[derive(Clone, Debug)]
pub struct Decoder {
    join: Mirror,
    lower: Band,
    upper: Band,
}

impl Encoder {
    /// At the start of a stream.
    #[must_use]
    pub const fn new() -> Self {
        Self { split: Mirror::new(), lower: Band::new(LOWER_STEP), upper: Band::new(UPPER_STEP) }
    }

    /// Encodes as many pairs of samples as both slices have room for and says how many codes that were.
    pub fn encode(&mut self, samples: &[i16], codes: &mut [u8]) -> usize {
        let (pairs, _) = samples.as_chunks::<2>();
        for (&[first, second], code) in pairs.iter().zip(codes.iter_mut()) {
            let (odd, even) = self.split.turn(first.into(), second.into());
            let (low, high) = ((even + odd) >> 14, (even - odd) >> 14);
            *code = (self.encode_upper(high) << 6 | self.encode_lower(low)) as u8;
        }
        pairs.len().min(codes.len())
    }

    /// Clause 3, blocks 1L to 4L.
    fn encode_lower(&mut self, sample: i32) -> usize {
        let band = &mut self.lower;
        let surprise = clip(sample - band.estimate);
        let magnitude = if surprise < 0 { !surprise } else { surprise };
        let interval = DECISIONS.partition_point(|&decision| (decision * band.step) >> 12 <= magnitude);
        // The codes fall as the magnitude grows; positive ones have bit 5, but for the two smallest of each sign
        // (table 5).
        let code = match (surprise < 0, interval) {
            (true, 0 | 1) => 63 - interval,
            (true, _) => 33 - interval,
            (false, _) => 61 - interval,
        };
        band.learn_lower(code);
        code
    }

    /// Clause 3, blocks 1H to 4H.
    fn encode_upper(&mut self, sample: i32) -> usize {
        let band = &mut self.upper;
        let surprise = clip(sample - band.estimate);
        let magnitude = if surprise < 0 { !surprise } else { surprise };
        let outer = magnitude >= (UPPER_DECISION * band.step) >> 12;
        let code = usize::from(!outer) | if surprise < 0 { 0 } else { 2 };
        band.learn_upper(code);
        code
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// At the start of a stream.
    #[must_use]
    pub const fn new() -> Self {
        Self { join: Mirror::new(), lower: Band::new(LOWER_STEP), upper: Band::new(UPPER_STEP) }
    }

    /// Decodes as many codes as both slices have room for, two samples each, and says how many samples that were.
    pub fn decode(&mut self, codes: &[u8], samples: &mut [i16]) -> usize {
        let (pairs, _) = samples.as_chunks_mut::<2>();
        for (&code, pair) in codes.iter().zip(pairs.iter_mut()) {
            let (low_code, high_code) = (usize::from(code & 0x3f), usize::from(code >> 6));
            // The listener gets all six bits of the lower band, its predictor learns from four (clause 4).
            let low = (self.lower.estimate + ((self.lower.step * SIX_BITS[low_code]) >> 15)).clamp(-16_384, 16_383);
            self.lower.learn_lower(low_code);
            let surprise = self.upper.learn_upper(high_code);
            let high = surprise.clamp(-16_384, 16_383);
            let (odd, even) = self.join.turn(low + high, low - high);
            *pair = [clip(even >> 11) as i16, clip(odd >> 11) as i16];
        }
        2 * codes.len().min(pairs.len())
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

/// The delay line of the quadrature mirror filters.
#[derive(Clone, Debug)]
struct Mirror {
    /// The last 12 pairs, twice, so that the newest 12 are always in one piece.
    first: [i32; 24],
    second: [i32; 24],
    next: usize,
}

impl Mirror {
    const fn new() -> Self {
        Self { first: [0; 24], second: [0; 24], next: 0 }
    }

    /// Takes a pair in and gives the two filters' sums.
    fn turn(&mut self, first: i32, second: i32) -> (i32, i32) {
        for at in [self.next, self.next + 12] {
            self.first[at] = first;
            self.second[at] = second;
        }
        self.next = (self.next + 1) % 12;
        let window = self.next..self.next + 12;
        let odd = self.first[window.clone()].iter().zip(&TAPS).map(|(sample, tap)| sample * tap).sum();
        let even = self.second[window].iter().zip(TAPS.iter().rev()).map(|(sample, tap)| sample * tap).sum();
        (odd, even)
    }
}

/// One band's quantizer and predictor: clause 3.6.
#[derive(Clone, Debug)]
struct Band {
    /// The quantizer's scale factor, and its logarithm.
    step: i32,
    log_step: i32,
    /// What the predictor expects next, and the part of it that comes from the zeros.
    estimate: i32,
    from_zeros: i32,
    poles: [i32; 2],
    zeros: [i32; 6],
    /// The last differences, newest first.
    differences: [i32; 6],
    /// The last reconstructed samples.
    reconstructed: [i32; 2],
    /// The last two of what the zeros alone would have reconstructed.
    partial: [i32; 2],
}

impl Band {
    const fn new(step: i32) -> Self {
        Self {
            step,
            log_step: 0,
            estimate: 0,
            from_zeros: 0,
            poles: [0; 2],
            zeros: [0; 6],
            differences: [0; 6],
            reconstructed: [0; 2],
            partial: [0; 2],
        }
    }

    fn learn_lower(&mut self, code: usize) {
        let four_bits = code >> 2;
        let difference = (self.step * FOUR_BITS[four_bits]) >> 15;
        self.log_step = (((self.log_step * 127) >> 7) + LOWER_LOG_STEPS[four_bits]).clamp(0, 18_432);
        self.step = linear(self.log_step, 8);
        self.predict(difference);
    }

    /// Gives the sample that the code stands for.
    fn learn_upper(&mut self, code: usize) -> i32 {
        let difference = (self.step * TWO_BITS[code]) >> 15;
        let sample = self.estimate + difference;
        self.log_step = (((self.log_step * 127) >> 7) + UPPER_LOG_STEPS[code]).clamp(0, 22_528);
        self.step = linear(self.log_step, 10);
        self.predict(difference);
        sample
    }

    /// Block 4: the predictor learns from the difference and makes its next guess.
    fn predict(&mut self, difference: i32) {
        let reconstructed = clip(self.estimate + difference);
        let partial = clip(self.from_zeros + difference);
        let same = self.partial.map(|before| (before < 0) == (partial < 0));

        // UPPOL2
        let first = clip(self.poles[0] << 2);
        let first = if same[0] { (-first).min(32_767) } else { first };
        let leak = if same[1] { 128 } else { -128 };
        let second = ((first >> 7) + leak + ((self.poles[1] * 32_512) >> 15)).clamp(-12_288, 12_288);
        // UPPOL1
        let limit = 15_360 - second;
        let turn = if same[0] { 192 } else { -192 };
        self.poles = [(turn + ((self.poles[0] * 32_640) >> 15)).clamp(-limit, limit), second];
        // UPZERO, and FILTEZ with what it gives
        let turn = if difference == 0 { 0 } else { 128 };
        let mut from_zeros = 0;
        let mut newer = difference;
        for (zero, before) in self.zeros.iter_mut().zip(&mut self.differences) {
            let turn = if (*before < 0) == (difference < 0) { turn } else { -turn };
            *zero = clip(turn + ((*zero * 32_640) >> 15));
            *before = core::mem::replace(&mut newer, *before);
            from_zeros += (*zero * clip(*before << 1)) >> 15;
        }
        self.from_zeros = clip(from_zeros);
        // FILTEP
        self.reconstructed = [reconstructed, self.reconstructed[0]];
        self.partial = [partial, self.partial[0]];
        let mut from_poles = 0;
        for (pole, reconstructed) in self.poles.iter().zip(&self.reconstructed) {
            from_poles += (pole * clip(reconstructed << 1)) >> 15;
        }
        self.estimate = clip(clip(from_poles) + self.from_zeros);
    }
}

/// SCALEL and SCALEH: the scale factor of this logarithm.
const fn linear(log_step: i32, shift: i32) -> i32 {
    let mantissa = INVERSE_LOG[(log_step >> 6 & 31) as usize];
    let shift = shift - (log_step >> 11);
    (if shift < 0 { mantissa << -shift } else { mantissa >> shift }) << 2
}

fn clip(sample: i32) -> i32 {
    sample.clamp(i16::MIN.into(), i16::MAX.into())
}

/// The scale factors at the start (tables of clause 3.7).
const LOWER_STEP: i32 = 32;
const UPPER_STEP: i32 = 8;

/// Every other tap of the 24 of the filters (table 11).
const TAPS: [i32; 12] = [3, -11, 12, 32, -210, 951, 3876, -805, 362, -156, 53, -11];

/// Table 14, Q6: where one interval of the lower band ends and the next begins.
const DECISIONS: [i32; 29] = [
    35, 72, 110, 150, 190, 233, 276, 323, 370, 422, 473, 530, 587, 650, 714, 786, 858, 940, 1023, 1121, 1219, 1339,
    1458, 1612, 1765, 1980, 2195, 2557, 2919,
];

/// The one decision of the upper band.
const UPPER_DECISION: i32 = 564;

/// QQ6: what a code of six bits stands for. The first four are not sent.
const SIX_BITS: [i32; 64] = [
    -136, -136, -136, -136, -24808, -21904, -19008, -16704, -14984, -13512, -12280, -11192, -10232, -9360, -8576,
    -7856, -7192, -6576, -6000, -5456, -4944, -4464, -4008, -3576, -3168, -2776, -2400, -2032, -1688, -1360, -1040,
    -728, 24808, 21904, 19008, 16704, 14984, 13512, 12280, 11192, 10232, 9360, 8576, 7856, 7192, 6576, 6000, 5456,
    4944, 4464, 4008, 3576, 3168, 2776, 2400, 2032, 1688, 1360, 1040, 728, 432, 136, -432, -136,
];

/// QQ4: what its first four bits stand for.
const FOUR_BITS: [i32; 16] =
    [0, -20456, -12896, -8968, -6288, -4240, -2584, -1200, 20456, 12896, 8968, 6288, 4240, 2584, 1200, 0];

/// QQ2: what a code of the upper band stands for.
const TWO_BITS: [i32; 4] = [-7408, -1616, 7408, 1616];

/// WL: what each code adds to the logarithm of the scale factor.
const LOWER_LOG_STEPS: [i32; 16] = [-60, 3042, 1198, 538, 334, 172, 58, -30, 3042, 1198, 538, 334, 172, 58, -30, -60];

/// WH: the same of the upper band.
const UPPER_LOG_STEPS: [i32; 4] = [798, -214, 798, -214];

/// ILB: 2^(i/32), with 11 bits after the point.
const INVERSE_LOG: [i32; 32] = [
    2048, 2093, 2139, 2186, 2233, 2282, 2332, 2383, 2435, 2489, 2543, 2599, 2656, 2714, 2774, 2834, 2896, 2960, 3025,
    3091, 3158, 3228, 3298, 3371, 3444, 3520, 3597, 3676, 3756, 3838, 3922, 4008,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Integers only, so that any other implementation can be given the same: a triangle and noise, in eight loudnesses.
    fn signal(samples: usize) -> Vec<i16> {
        let mut noise = 0x0123_4567_u32;
        (0..samples as i32)
            .map(|i| {
                let triangle = (i * 37).rem_euclid(256) - 128;
                let noise = (xorshift(&mut noise) & 0x7ff).cast_signed() - 1024;
                ((triangle * 120 + noise) * (i / 160 % 8)).div_euclid(4).clamp(-32_768, 32_767) as i16
            })
            .collect()
    }

    fn xorshift(state: &mut u32) -> u32 {
        *state ^= *state << 13;
        *state ^= *state >> 17;
        *state ^= *state << 5;
        *state
    }

    /// FNV-1a.
    fn digest(bytes: impl IntoIterator<Item = u8>) -> u64 {
        bytes
            .into_iter()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }

    // What libg722 makes of the same input (Python package G722 1.2.8).

    #[test]
    fn a_second_of_sound_has_the_codes_that_libg722_gives_it() {
        let mut codes = [0; 8000];
        assert_eq!(Encoder::new().encode(&signal(16_000), &mut codes), 8000);
        assert_eq!(codes[..4], [0xfa; 4]);
        assert_eq!(codes[400..408], [0x10, 0xfc, 0x78, 0x9e, 0xd4, 0xdc, 0x28, 0x0d]);
        assert_eq!(digest(codes), 0x4d60_3ae8_d4d5_7e26);

        let mut samples = [0; 16_000];
        assert_eq!(Decoder::new().decode(&codes, &mut samples), 16_000);
        assert_eq!(samples[800..804], [-2705, 4368, 7649, 8803]);
        assert_eq!(digest(samples.iter().flat_map(|sample| sample.to_le_bytes())), 0xb475_61a0_1f8d_7cb7);
    }

    #[test]
    fn codes_that_no_encoder_makes_are_decoded_as_libg722_decodes_them() {
        let mut state = 99;
        let codes: Vec<u8> = (0..8000).map(|_| xorshift(&mut state) as u8).collect();
        let mut samples = [0; 16_000];
        Decoder::new().decode(&codes, &mut samples);
        assert_eq!(samples[1000..1004], [-9193, -13_866, 3505, 27_017]);
        assert_eq!(digest(samples.iter().flat_map(|sample| sample.to_le_bytes())), 0xb325_444d_f16f_dc4a);
    }

    #[test]
    fn a_stream_may_be_cut_anywhere_between_two_codes() {
        let signal = signal(3200);
        let mut whole = [0; 1600];
        Encoder::new().encode(&signal, &mut whole);
        let (mut encoder, mut pieces) = (Encoder::new(), Vec::<u8>::new());
        for piece in signal.chunks(22) {
            let mut codes = [0; 11];
            let n = encoder.encode(piece, &mut codes);
            pieces.extend(&codes[..n]);
        }
        assert_eq!(pieces, whole);
    }

    #[test]
    fn slices_stop_at_the_shorter_one() {
        let mut samples = [7; 5];
        assert_eq!(Decoder::new().decode(&[0xfa; 9], &mut samples), 4);
        assert_eq!(samples[4], 7);
        let mut codes = [7; 3];
        assert_eq!(Encoder::new().encode(&[0; 5], &mut codes), 2);
        assert_eq!(codes[2], 7);
        assert_eq!(Encoder::new().encode(&[0; 50], &mut codes), 3);
    }

    #[test]
    fn the_decoder_finds_its_way_back_after_a_gap() {
        let signal = signal(32_000);
        let mut codes = [0; 16_000];
        Encoder::new().encode(&signal, &mut codes);
        let (mut whole, mut gapped) = (vec![0; 32_000], vec![0; 32_000]);
        Decoder::new().decode(&codes, &mut whole);
        let mut decoder = Decoder::new();
        decoder.decode(&codes[..4000], &mut gapped);
        decoder.decode(&codes[4480..], &mut gapped[8960..]);
        let off = |range: core::ops::Range<usize>| {
            let pairs = whole[range.clone()].iter().zip(&gapped[range.clone()]);
            pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / range.len() as f64
        };
        let power = whole.iter().map(|&sample| f64::from(sample).powi(2)).sum::<f64>() / 32_000.0;
        assert!(off(16_000..32_000) < power / 1e6, "{} of {power}", off(16_000..32_000));
    }
}
