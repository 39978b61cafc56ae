//! How loud a frame is, which frames are quiet, and short fades.
//!
//! Levels are whole dBov as RFC 6464 has them: 0 is overload, -127 digital silence. Nothing here needs floating
//! point.

use crate::media::clock::PTIME_MS;

/// The level of no sound at all (dBov).
pub const SILENCE_DBOV: i8 = -127;

/// The RMS level of these samples in dBov, rounded: 0 for a full-scale square wave, -3 for a full-scale sine,
/// [`SILENCE_DBOV`] for silence and for no samples. RFC 6464 section 3, RFC 6465 appendix A.
#[must_use]
pub fn level_dbov(samples: &[i16]) -> i8 {
    level_of(energy_of(samples), samples.len())
}

/// The sum of the squares of these samples.
#[must_use]
pub fn energy_of(samples: &[i16]) -> u64 {
    let square = |sample: i16| i32::from(sample).pow(2) as u32; // at most 2^30
    // Two at a time, because every x86-64 has an instruction that multiplies and adds pairs: a third of the work.
    let (pairs, last) = samples.as_chunks::<2>();
    let pairs: u64 = pairs.iter().map(|&[one, other]| u64::from(square(one) + square(other))).sum();
    pairs + last.iter().map(|&sample| u64::from(square(sample))).sum::<u64>()
}

/// The same of samples whose squares sum up to `energy`.
#[must_use]
pub fn level_of(energy: u64, samples: usize) -> i8 {
    if energy == 0 {
        return SILENCE_DBOV;
    }
    // Overload is 32768, squared.
    let log2 = log2(energy) - log2(samples as u64) - (30 << LOG2_FRACTION);
    // 10 lg 2 = 3.0103 dB for each doubling; half a decibel is added to round.
    let centibels = i64::from(log2) * 30_103 / (100 << LOG2_FRACTION);
    (centibels - 50).div_euclid(100).saturating_add(1).clamp(SILENCE_DBOV.into(), 0) as i8
}

/// Finds quiet frames: those that can be left out without anyone hearing it.
///
/// A frame is low when it is under -50 dBov or 25 dB under the loudest of the last 2 s, and quiet when it and the
/// frames on both sides of it are low. So the answer comes one frame late.
#[derive(Clone, Debug)]
pub struct Quiet {
    /// The levels of the last 2 s, oldest at `next` (dBov).
    levels: [i8; WINDOW],
    next: usize,
    /// The loudest of them.
    loudest: i8,
    /// Whether the last two frames were low, the newest last. What was before the first frame is not known to be.
    low: [bool; 2],
    started: bool,
}

impl Quiet {
    /// Before the first frame.
    #[must_use]
    pub const fn new() -> Self {
        Self { levels: [SILENCE_DBOV; WINDOW], next: 0, loudest: SILENCE_DBOV, low: [false; 2], started: false }
    }

    /// Takes the level of the next 20 ms frame (dBov) and answers whether the frame before it was quiet. `None`: there
    /// was no frame before it.
    pub fn push(&mut self, level_dbov: i8) -> Option<bool> {
        if let Some(oldest) = self.levels.get_mut(self.next) {
            *oldest = level_dbov;
        }
        self.next = (self.next + 1) % WINDOW;
        self.loudest = self.levels.iter().copied().fold(SILENCE_DBOV, i8::max);

        let low = self.is_low(level_dbov);
        let quiet = self.started.then_some(self.low[0] && self.low[1] && low);
        self.low = [self.low[1], low];
        self.started = true;
        quiet
    }

    /// Whether a frame of this level (dBov) would be low beside the last 2 s, for those who can look ahead.
    #[must_use]
    pub fn is_low(&self, level_dbov: i8) -> bool {
        level_dbov < LOW_DBOV || i16::from(level_dbov) <= i16::from(self.loudest) - LOW_BELOW_LOUDEST_DB
    }
}

impl Default for Quiet {
    fn default() -> Self {
        Self::new()
    }
}

/// Takes the sound down to nothing, in a straight line over the whole slice. The last sample becomes 0.
pub fn fade_out(samples: &mut [i16]) {
    let len = samples.len() as i64;
    for (gain, sample) in (0..len).rev().zip(samples) {
        *sample = (i64::from(*sample) * gain / len) as i16;
    }
}

/// Brings the sound up from nothing, in a straight line over the whole slice. The last sample stays whole, and with
/// [`fade_out`] of the same samples the two add up to them.
pub fn fade_in(samples: &mut [i16]) {
    let len = samples.len() as i64;
    for (gain, sample) in (1..=len).zip(samples) {
        *sample = (i64::from(*sample) * gain / len) as i16;
    }
}

/// The logarithm to the base 2 of a number above 0, with [`LOG2_FRACTION`] bits after the point. Each squaring of the
/// mantissa yields one of them.
const fn log2(number: u64) -> i32 {
    let whole = number.ilog2();
    // The mantissa, 1 to 2, with 31 bits after the point.
    let mut mantissa = if whole > 31 { number >> (whole - 31) } else { number << (31 - whole) };
    let mut log2 = whole as i32;
    let mut bit = 0;
    while bit < LOG2_FRACTION {
        mantissa = (mantissa * mantissa) >> 31;
        let carry = mantissa >> 32;
        mantissa >>= carry;
        log2 = log2 << 1 | carry as i32;
        bit += 1;
    }
    log2
}

/// Bits after the point of a logarithm: 2^-12 of a doubling is under 0.001 dB.
const LOG2_FRACTION: u32 = 12;

/// Frames in the 2 s over which the loudest is sought.
const WINDOW: usize = 2_000 / PTIME_MS;

/// Under this a frame is low whatever was before it (dBov).
const LOW_DBOV: i8 = -50;

/// So far under the loudest of the last 2 s a frame is low (dB).
const LOW_BELOW_LOUDEST_DB: i16 = 25;

#[cfg(test)]
mod tests {
    use super::*;

    fn sine(amplitude: f64) -> Vec<i16> {
        let step = core::f64::consts::TAU * 500.0 / 8000.0;
        (0..160).map(|i| ((f64::from(i) * step).sin() * amplitude).round() as i16).collect()
    }

    #[test]
    fn full_scale_and_silence_are_the_ends_of_the_scale() {
        assert_eq!(level_dbov(&[i16::MAX; 160]), 0);
        assert_eq!(level_dbov(&[i16::MIN; 960]), 0);
        assert_eq!(level_dbov(&sine(32_767.0)), -3);
        assert_eq!(level_dbov(&[0; 160]), SILENCE_DBOV);
        assert_eq!(level_dbov(&[]), SILENCE_DBOV);
    }

    #[test]
    fn energy_is_the_sum_of_squares_of_any_number_of_samples() {
        let samples: Vec<i16> =
            [i16::MIN, i16::MIN, i16::MAX, -1, 0, 300].into_iter().cycle().take(1000).chain([i16::MIN; 9]).collect();
        for from in 0..9 {
            for until in from..samples.len() {
                let squares = samples[from..until].iter().map(|&sample| i64::from(sample).pow(2) as u64);
                assert_eq!(energy_of(&samples[from..until]), squares.sum::<u64>());
            }
        }
    }

    #[test]
    fn a_level_is_the_nearest_whole_decibel_at_every_loudness() {
        let mut amplitude = 32_768.0;
        while amplitude > 1.0 {
            for samples in [sine(amplitude), vec![amplitude.min(32_767.0) as i16; 77]] {
                let energy: f64 = samples.iter().map(|sample| f64::from(*sample).powi(2)).sum();
                let exact = 10.0 * (energy / samples.len() as f64 / 32_768_f64.powi(2)).log10();
                let error = f64::from(level_dbov(&samples)) - exact;
                assert!(error.abs() < 0.51, "{exact} dBov is off by {error}");
            }
            amplitude *= 0.97;
        }
    }

    #[test]
    fn one_bit_in_a_long_frame_is_above_silence() {
        let mut samples = [0; 960];
        samples[480] = -1;
        assert_eq!(level_dbov(&samples), -120);
    }

    #[test]
    fn a_frame_is_quiet_only_between_two_low_ones() {
        let mut quiet = Quiet::new();
        let answers = [-20, -60, -60, -60, -20, -60, -20, -60, -60].map(|level| quiet.push(level));
        let expected = [false, false, true, false, false, false, false, false].map(Some);
        assert_eq!(answers[0], None);
        assert_eq!(answers[1..], expected);
    }

    #[test]
    fn the_first_frame_of_a_call_is_never_quiet() {
        let mut quiet = Quiet::new();
        assert_eq!([-90, -90, -90, -90].map(|level| quiet.push(level)), [None, Some(false), Some(true), Some(true)]);
    }

    #[test]
    fn low_is_under_minus_fifty_or_25_under_the_loudest_of_two_seconds() {
        let mut quiet = Quiet::new();
        assert!(quiet.is_low(-51));
        assert!(!quiet.is_low(-50));
        quiet.push(-10);
        assert!(quiet.is_low(-35));
        assert!(!quiet.is_low(-34));
        for _ in 0..99 {
            quiet.push(-30);
            assert!(quiet.is_low(-35));
        }
        quiet.push(-30); // 2 s after the loud one
        assert!(!quiet.is_low(-35));
        assert!(!quiet.is_low(-50));
    }

    #[test]
    fn loudness_beyond_the_scale_does_no_harm() {
        let mut quiet = Quiet::new();
        for level in [i8::MIN, i8::MAX, i8::MIN, i8::MIN] {
            quiet.push(level);
        }
        assert!(!quiet.is_low(i8::MAX));
        assert_eq!(quiet.push(i8::MIN), Some(true));
    }

    #[test]
    fn a_fade_out_starts_near_full_and_ends_at_nothing() {
        let mut samples = [i16::MIN; 40];
        fade_out(&mut samples);
        assert_eq!((samples[0], samples[19], samples[39]), (-31_948, -16_384, 0));
        assert!(samples.is_sorted());
    }

    #[test]
    fn a_fade_in_and_a_fade_out_of_one_sound_add_up_to_it() {
        let whole = sine(32_767.0);
        let (mut down, mut up) = (whole.clone(), whole.clone());
        fade_out(&mut down);
        fade_in(&mut up);
        assert_eq!(up[159], whole[159]);
        for ((down, up), whole) in down.iter().zip(&up).zip(&whole) {
            assert!((i32::from(*down) + i32::from(*up) - i32::from(*whole)).abs() <= 1);
        }
        fade_out(&mut []);
        fade_in(&mut []);
    }
}
