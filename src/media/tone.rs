//! The tone that a caller hears while the phone at the other end rings.

use crate::media::frame::Rate;

/// Ringing as most of Europe knows it: 425 Hz, one second on and four off (ITU-T E.180, ETSI TR 101 041-1).
#[derive(Clone, Debug)]
pub struct Ringing {
    rate: Rate,
    /// Samples since the last burst began.
    position: usize,
    /// The two samples before the next, in 1/256.
    past: [i64; 2],
}

impl Ringing {
    /// At the start of a burst.
    #[must_use]
    pub const fn new(rate: Rate) -> Self {
        Self { rate, position: 0, past: [0; 2] }
    }

    /// The next samples.
    pub fn fill(&mut self, out: &mut [i16]) {
        let (on, cycle) = (self.rate.samples(ON_MS), self.rate.samples(ON_MS + OFF_MS));
        let fade = self.rate.samples(FADE_MS);
        let (turn, step) = oscillator(self.rate);
        for sample in out {
            if self.position == 0 {
                self.past = [-step, 0];
            }
            *sample = 0;
            if self.position < on {
                // Two samples of a sine give the third.
                let next = ((turn * self.past[1]) >> 30) - self.past[0];
                self.past = [self.past[1], next];
                let edge = self.position.min(on - self.position).min(fade);
                *sample = ((next >> 8) * edge as i64 / fade as i64) as i16;
            }
            self.position = (self.position + 1) % cycle;
        }
    }
}

/// `2 cos w` in 1/2^30, and the sine's first step at the tone's level in 1/256.
const fn oscillator(rate: Rate) -> (i64, i64) {
    match rate {
        Rate::Hz8000 => (OSCILLATORS[0].0, OSCILLATORS[0].1),
        Rate::Hz16000 => (OSCILLATORS[1].0, OSCILLATORS[1].1),
        Rate::Hz24000 => (OSCILLATORS[2].0, OSCILLATORS[2].1),
        Rate::Hz48000 => (OSCILLATORS[3].0, OSCILLATORS[3].1),
    }
}

/// Of 425 Hz at a peak of 2600, 22 dB below the loudest, by rate.
const OSCILLATORS: [(i64, i64); 4] =
    [(2_028_955_535, 218_071), (2_117_644_311, 110_572), (2_134_204_601, 73_905), (2_144_161_316, 37_010)];
const ON_MS: usize = 1_000;
const OFF_MS: usize = 4_000;
/// How softly a burst begins and ends.
const FADE_MS: usize = 5;

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
}
