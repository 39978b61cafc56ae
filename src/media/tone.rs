//! Tones: any frequency, and what a caller hears while the phone at the other end rings.

use core::f64::consts::PI;

use crate::media::{frame::Rate, resample::sin};

/// A steady tone. It is made with integers, so it is the same on every machine.
#[derive(Clone, Debug)]
pub struct Sine {
    /// `2 cos w` in 1/2^30.
    turn: i64,
    /// The first step, in 1/256.
    step: i64,
    /// The two samples before the next, in 1/256.
    past: [i64; 2],
}

impl Sine {
    /// From its zero, rising. A frequency that the rate cannot carry is not for it.
    #[must_use]
    pub const fn new(rate: Rate, hz: u32, peak: i16) -> Self {
        let w = 2.0 * PI * hz as f64 / rate.hz() as f64;
        // 2 cos w, as exact for the low tones whose cosine is almost 1.
        let turn = 2.0 - 4.0 * sin(w / 2.0) * sin(w / 2.0);
        let step = peak as f64 * 256.0 * sin(w);
        let mut this = Self { turn: rounded(turn * (1 << 30) as f64), step: rounded(step), past: [0; 2] };
        this.restart();
        this
    }

    /// From its zero again.
    pub const fn restart(&mut self) {
        self.past = [-self.step, 0];
    }

    /// The next sample, at `part` of `whole` of its level.
    pub const fn sample(&mut self, part: usize, whole: usize) -> i16 {
        // Two samples of a sine give the third.
        let next = ((self.turn * self.past[1]) >> 30) - self.past[0];
        self.past = [self.past[1], next];
        ((next >> 8) * part as i64 / whole as i64) as i16
    }
}

/// Ringing as most of Europe knows it: 425 Hz, one second on and four off (ITU-T E.180, ETSI TR 101 041-1).
#[derive(Clone, Debug)]
pub struct Ringing {
    rate: Rate,
    /// Samples since the last burst began.
    position: usize,
    sine: Sine,
}

impl Ringing {
    /// At the start of a burst.
    #[must_use]
    pub const fn new(rate: Rate) -> Self {
        Self { rate, position: 0, sine: Sine::new(rate, HZ, PEAK) }
    }

    /// The next samples.
    pub fn fill(&mut self, out: &mut [i16]) {
        let (on, cycle) = (self.rate.samples(ON_MS), self.rate.samples(ON_MS + OFF_MS));
        let fade = self.rate.samples(FADE_MS);
        for sample in out {
            if self.position == 0 {
                self.sine.restart();
            }
            *sample = 0;
            if self.position < on {
                let edge = self.position.min(on - self.position).min(fade);
                *sample = self.sine.sample(edge, fade);
            }
            self.position = (self.position + 1) % cycle;
        }
    }
}

const fn rounded(x: f64) -> i64 {
    (if x < 0.0 { x - 0.5 } else { x + 0.5 }) as i64
}

const HZ: u32 = 425;
/// 22 dB below the loudest.
const PEAK: i16 = 2_600;
const ON_MS: usize = 1_000;
const OFF_MS: usize = 4_000;
/// How softly a burst begins and ends.
pub const FADE_MS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rings_for_a_second_in_five_and_stays_in_tune_and_level() {
        for rate in Rate::ALL {
            let mut ringing = Ringing::new(rate);
            let mut all = vec![0; rate.samples(10_000)];
            // In frames, as it is sent.
            all.chunks_mut(rate.frame()).for_each(|frame| ringing.fill(frame));
            let on = &all[..rate.samples(ON_MS)];
            let rising = on.windows(2).filter(|pair| pair[0] < 0 && pair[1] >= 0).count();
            assert!((424..=425).contains(&rising), "{rising} at {rate}");
            let peak = |part: &[i16]| part.iter().map(|sample| sample.unsigned_abs()).max();
            assert!(peak(on).is_some_and(|peak| (2_550..2_660).contains(&peak)), "{:?} at {rate}", peak(on));
            assert_eq!(peak(&all[rate.samples(1_000)..rate.samples(5_000)]), Some(0));
            assert_eq!(on, &all[rate.samples(5_000)..rate.samples(6_000)]);
        }
    }

    #[test]
    fn any_tone_is_in_tune_and_level_at_every_rate() {
        for rate in Rate::ALL {
            for hz in [100, 425, 523, 1_000, 3_400] {
                let mut sine = Sine::new(rate, hz, 4_000);
                let all: [i16; 48_000] = core::array::from_fn(|_| sine.sample(1, 1));
                let second = &all[..rate.samples(1_000)];
                let rising = second.windows(2).filter(|pair| pair[0] < 0 && pair[1] >= 0).count() as u32;
                assert!((hz - 1..=hz).contains(&rising), "{rising} instead of {hz} at {rate}");
                let peak = second.iter().map(|sample| sample.unsigned_abs()).max().unwrap_or(0);
                assert!((3_600..4_040).contains(&peak), "{peak} of {hz} Hz at {rate}");
            }
        }
    }
}
