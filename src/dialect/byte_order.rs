//! Which byte of L16 comes first, told by ear.
//!
//! RFC 3551 4.5.11 has the most significant byte first. Most who carry L16 in JSON send the other, some do not, and no
//! `start` says which. Speech read in the wrong order is noise: its neighbours have nothing to do with one another. So
//! each sample is foretold from the two before it, as well as that can be done (linear prediction), in both orders; the
//! one in which far less remains unforetold is the right one.
//!
//! ```text
//!   energy that remains, of 1:     speech 0.01 to 0.7     a tone 0.0001     hiss 0.9 to 1     bytes swapped 0.9 to 1
//! ```
//!
//! The mean step from sample to sample is a simpler measure, but a tone at a third of the rate has larger steps than its
//! swapped self. What is quiet in either order says nothing and is left out: the noise of a line, one or two steps high,
//! is loud when its bytes are swapped.

use crate::{
    dialect::{Coding, OptionError, OptionValue},
    media::Rate,
};

/// What `l16-byte-order` can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ByteOrder {
    /// Least significant first, until what is heard is clearly the other.
    #[default]
    Auto,
    /// Least significant first.
    Le,
    /// Most significant first.
    Be,
}

impl ByteOrder {
    /// Reads the option's value.
    ///
    /// # Errors
    /// [`OptionError::Expected`] with what would do.
    pub fn parse(value: OptionValue<'_>) -> Result<Self, OptionError> {
        match value {
            OptionValue::Str("auto") => Ok(Self::Auto),
            OptionValue::Str("le") => Ok(Self::Le),
            OptionValue::Str("be") => Ok(Self::Be),
            OptionValue::Str(_) | OptionValue::Bool(_) | OptionValue::Int(_) => {
                Err(OptionError::Expected("\"auto\", \"le\" or \"be\""))
            }
        }
    }
}

/// Listens until it knows.
#[derive(Clone, Debug)]
pub struct Detector {
    big_endian: bool,
    settled: bool,
    rate: Rate,
    /// Samples that count so far.
    heard: usize,
    /// What they are in the order that holds now.
    ours: Sums,
    /// And in the other.
    other: Sums,
}

impl Detector {
    /// A detector that has heard nothing yet of a stream at this rate.
    #[must_use]
    pub fn new(order: ByteOrder, rate: Rate) -> Self {
        Self {
            big_endian: order == ByteOrder::Be,
            settled: order != ByteOrder::Auto,
            rate,
            heard: 0,
            ours: Sums::default(),
            other: Sums::default(),
        }
    }

    /// The order that holds now, for both ways.
    #[must_use]
    pub const fn coding(&self) -> Coding {
        if self.big_endian { Coding::Pcm16Be } else { Coding::Pcm16Le }
    }

    /// Hears samples that were decoded in the order that holds. `true`: it is the other one, from these samples on.
    pub fn hear(&mut self, samples: &[i16]) -> bool {
        if self.settled {
            return false;
        }
        for frame in samples.chunks(self.rate.frame()) {
            let (ours, other) = (Sums::of(frame, |sample| sample), Sums::of(frame, i16::swap_bytes));
            if ours.peak.min(other.peak) > QUIET {
                self.heard += frame.len();
                self.ours.add(ours);
                self.other.add(other);
            }
        }
        if self.heard < self.rate.samples(LISTEN_MS) {
            return false;
        }
        let (ours, other) = (self.ours.unforetold(), self.other.unforetold());
        let switch = other < ours * CLEARLY;
        self.settled = switch || ours < other * CLEARLY;
        self.big_endian ^= switch;
        // A hiss, a whistle: what comes next may tell more.
        (self.heard, self.ours, self.other) = (0, Sums::default(), Sums::default());
        switch
    }
}

/// What is added up over frames: products of samples with themselves and the two before them.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    r0: i64,
    r1: i64,
    r2: i64,
    peak: u16,
}

impl Sums {
    fn of(samples: &[i16], read: impl Fn(i16) -> i16) -> Self {
        let mut sums = Self::default();
        let (mut before, mut first) = (0, 0);
        for &sample in samples {
            let sample = read(sample);
            let x = i64::from(sample);
            sums.r0 += x * x;
            sums.r1 += x * before;
            sums.r2 += x * first;
            sums.peak = sums.peak.max(sample.unsigned_abs());
            (before, first) = (x, before);
        }
        sums
    }

    fn add(&mut self, more: Self) {
        self.r0 += more.r0;
        self.r1 += more.r1;
        self.r2 += more.r2;
    }

    /// What remains of an energy of 1 when each sample is foretold from the two before it: two steps of the
    /// Levinson-Durbin recursion.
    fn unforetold(&self) -> f64 {
        let energy = self.r0.max(1) as f64;
        let (r1, r2) = (self.r1 as f64 / energy, self.r2 as f64 / energy);
        let one = 1.0 - r1 * r1;
        // Frames are cut out, so that less than this cannot be told from nothing.
        if one <= LEAST {
            return LEAST;
        }
        let second = (r2 - r1 * r1) / one;
        (one * (1.0 - second * second)).max(LEAST)
    }
}

/// No more than so much of what the other leaves. (Half a second of speech at 8 kHz left 0.69 at most where the other
/// left 0.96 at least; white noise leaves 0.999 both ways.)
const CLEARLY: f64 = 0.75;
/// The least that counts as unforetold.
const LEAST: f64 = 1e-6;
/// A frame that is no louder than this (in either order) is silence.
const QUIET: u16 = 200;
/// So much that is not silence is listened to before anything is said.
const LISTEN_MS: usize = 500;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]
mod tests {
    use core::f64::consts::TAU;

    use super::*;
    use crate::dialect::ozonetel::tests::noise;

    /// What is heard of a stream in this order: whether it switched, and after how many frames.
    fn verdict(rate: Rate, big_endian: bool, samples: &[i16]) -> (Coding, Option<usize>) {
        let mut detector = Detector::new(ByteOrder::Auto, rate);
        let mut switched = None;
        for (n, frame) in samples.chunks(rate.frame()).enumerate() {
            let be = detector.coding() == Coding::Pcm16Be;
            let read = |sample: &i16| if be == big_endian { *sample } else { sample.swap_bytes() };
            if detector.hear(&frame.iter().map(read).collect::<Vec<_>>()) {
                assert_eq!(switched.replace(n + 1), None, "once");
            }
        }
        (detector.coding(), switched)
    }

    fn tone(rate: Rate, hz: f64, peak: f64, ms: usize) -> Vec<i16> {
        (0..rate.samples(ms)).map(|n| (peak * (TAU * hz * n as f64 / f64::from(rate.hz())).sin()) as i16).collect()
    }

    /// Pulses of a voice and some breath through three formants, in syllables with pauses between them.
    fn speech(rate: Rate, peak: f64, ms: usize) -> Vec<i16> {
        let hz = f64::from(rate.hz());
        let breath = noise(rate.samples(ms));
        let mut formants = [(500.0, 80.0), (1_500.0, 120.0), (2_500.0, 160.0)].map(|(centre, width)| {
            let radius = (-TAU / 2.0 * width / hz).exp();
            (2.0 * radius * (TAU * centre / hz).cos(), -radius * radius, 0.0, 0.0)
        });
        let mut phase = 0.0;
        let raw: Vec<f64> = breath
            .iter()
            .enumerate()
            .map(|(n, breath)| {
                let syllable = (TAU * 3.0 * n as f64 / hz).sin().max(0.0);
                phase += (110.0 + 30.0 * syllable) / hz;
                let pulse = if phase >= 1.0 { 1.0 } else { 0.0 };
                phase %= 1.0;
                let source = pulse * 30.0 + f64::from(*breath) / 32_768.0;
                let mut sum = 0.0;
                for (index, (a, b, first, second)) in formants.iter_mut().enumerate() {
                    let out = source + *a * *first + *b * *second;
                    (*second, *first) = (*first, out);
                    sum += out / (1 << (2 * index)) as f64;
                }
                sum * syllable
            })
            .collect();
        let loudest = raw.iter().fold(0.0, |most: f64, sample| most.max(sample.abs()));
        raw.iter().map(|sample| (sample / loudest * peak) as i16).collect()
    }

    #[test]
    fn speech_is_told_in_both_orders_at_every_rate_loud_and_soft() {
        for rate in Rate::ALL {
            for peak in [600.0, 3_000.0, 20_000.0] {
                let speech = speech(rate, peak, 6_000);
                assert_eq!(verdict(rate, false, &speech), (Coding::Pcm16Le, None), "{rate} {peak}");
                let (coding, after) = verdict(rate, true, &speech);
                assert_eq!(coding, Coding::Pcm16Be, "{rate} {peak}");
                assert!(after.unwrap() >= 25, "half a second that is not silence");
            }
        }
    }

    #[test]
    fn a_tone_of_1_khz_is_told_in_both_orders_after_half_a_second() {
        for rate in Rate::ALL {
            let tone = tone(rate, 1_000.0, 16_000.0, 2_000);
            assert_eq!(verdict(rate, false, &tone), (Coding::Pcm16Le, None), "{rate}");
            assert_eq!(verdict(rate, true, &tone), (Coding::Pcm16Be, Some(25)), "{rate}");
        }
    }

    #[test]
    fn no_tone_of_a_telephone_is_told_wrong() {
        for rate in Rate::ALL {
            for hz in (100..3_950).step_by(50) {
                for peak in [300.0, 1_000.0, 8_000.0, 32_000.0] {
                    let tone = tone(rate, f64::from(hz), peak, 1_500);
                    assert_eq!(verdict(rate, false, &tone).0, Coding::Pcm16Le, "{rate} {hz} Hz {peak}");
                    let (coding, switched) = verdict(rate, true, &tone);
                    assert!(coding == Coding::Pcm16Be || switched.is_none(), "{rate} {hz} Hz {peak}");
                }
            }
        }
    }

    #[test]
    fn silence_and_a_lines_own_noise_do_not_switch() {
        let rate = Rate::Hz8000;
        let hiss = |peak: i16| noise(80_000).iter().map(|sample| sample % (peak + 1)).collect::<Vec<_>>();
        for quiet in [vec![0; 80_000], hiss(1), hiss(2), hiss(20), hiss(150)] {
            for big_endian in [false, true] {
                assert_eq!(verdict(rate, big_endian, &quiet), (Coding::Pcm16Le, None));
            }
        }
    }

    #[test]
    fn white_noise_says_nothing_and_speech_after_it_does() {
        let rate = Rate::Hz16000;
        let mut state = 1_u32;
        let mut white: Vec<i16> = (0..rate.samples(2_000))
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 16) as i16
            })
            .collect();
        for big_endian in [false, true] {
            assert_eq!(verdict(rate, big_endian, &white), (Coding::Pcm16Le, None));
        }
        white.extend(speech(rate, 8_000.0, 4_000));
        assert_eq!(verdict(rate, false, &white).0, Coding::Pcm16Le);
        let (coding, after) = verdict(rate, true, &white);
        assert!(coding == Coding::Pcm16Be && after.unwrap() > 100);
    }

    #[test]
    fn an_operator_who_knows_is_believed() {
        let tone = tone(Rate::Hz8000, 1_000.0, 16_000.0, 2_000);
        let swapped: Vec<i16> = tone.iter().map(|sample| sample.swap_bytes()).collect();
        for (word, coding) in [("le", Coding::Pcm16Le), ("be", Coding::Pcm16Be)] {
            let order = ByteOrder::parse(OptionValue::Str(word)).unwrap();
            let mut detector = Detector::new(order, Rate::Hz8000);
            assert!(!detector.hear(&swapped));
            assert_eq!(detector.coding(), coding);
        }
        assert_eq!(ByteOrder::parse(OptionValue::Str("auto")), Ok(ByteOrder::Auto));
        for odd in [OptionValue::Str("LE"), OptionValue::Str(""), OptionValue::Bool(true), OptionValue::Int(1)] {
            assert!(ByteOrder::parse(odd).is_err());
        }
    }

    #[test]
    fn pieces_of_any_size_are_heard() {
        let tone = tone(Rate::Hz8000, 1_000.0, 16_000.0, 1_000);
        for len in [7, 100, 512, 8_000] {
            let mut detector = Detector::new(ByteOrder::Auto, Rate::Hz8000);
            let swapped: Vec<i16> = tone.iter().map(|sample| sample.swap_bytes()).collect();
            assert_eq!(swapped.chunks(len).filter(|piece| detector.hear(piece)).count(), 1, "{len}");
            assert!(!detector.hear(&[]));
        }
    }
}
