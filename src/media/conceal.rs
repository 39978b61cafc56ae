//! Makes up for audio that did not come, so that it does not click.
//!
//! After the manner of ITU-T G.711 appendix I: the last period of the voice's pitch is said again, later the last two and
//! three, and fades away. Where appendix I delays all audio by 3.75 ms to be able to fade into what it makes up, here what is
//! made up begins where the last sample was and bends back to its own within a period: no delay.
//!
//! ```text
//!   heard          | made up: the last period again, fading  | faded into what is heard
//!   ...../\../\../\|/\../\../\../\..~.~.~.                   |
//! ```

extern crate alloc;

use alloc::boxed::Box;

use crate::media::frame::Rate;

/// One stream's concealment.
#[derive(Clone, Debug)]
pub struct Concealer {
    rate: Rate,
    /// The last of what was given out, made up or not.
    history: Box<[i16]>,
    /// What history was when audio was lost: the material.
    source: Box<[i16]>,
    state: State,
    /// The pitch period.
    period: usize,
    /// Where in the source the next sample comes from, and how far its end is faded into what lies before.
    at: usize,
    back: usize,
    /// What the first sample is off, to be bent back within a period.
    offset: i32,
    /// Samples made up since audio was lost.
    made: usize,
    gain: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Hearing,
    MakingUp,
    /// Audio is back, and what would have been made up fades into it.
    Merging {
        over: usize,
        done: usize,
    },
}

impl Concealer {
    /// Takes what it needs of the heap, about 100 ms of samples.
    #[must_use]
    pub fn open(rate: Rate) -> Self {
        let silence = || core::iter::repeat_n(0, longest(rate) * 3 + longest(rate) / 4).collect();
        Self {
            rate,
            history: silence(),
            source: silence(),
            state: State::Hearing,
            period: longest(rate),
            at: 0,
            back: 0,
            offset: 0,
            made: 0,
            gain: 0,
        }
    }

    /// These samples came; after a loss their beginning is changed.
    pub fn heard(&mut self, samples: &mut [i16]) {
        if self.state == State::MakingUp {
            // Appendix I: the longer the loss, the longer the fade, up to 10 ms.
            let over = (self.rate.samples(4) + self.made * 2 / 5).min(self.rate.samples(10));
            self.state = State::Merging { over, done: 0 };
        }
        if let State::Merging { over, mut done } = self.state {
            let (over_i, n) = (over as i32 + 1, samples.len().min(over - done));
            for sample in &mut samples[..n] {
                done += 1;
                let made_up = i32::from(self.make_up(self.fade_step()));
                let weight = done as i32;
                *sample = ((made_up * (over_i - weight) + i32::from(*sample) * weight) / over_i) as i16;
            }
            self.state = if done == over { State::Hearing } else { State::Merging { over, done } };
        }
        self.remember(samples);
    }

    /// These samples were lost. Gives how many of them were made up before the sound had faded away.
    pub fn lost(&mut self, samples: &mut [i16]) -> usize {
        self.fill(samples, self.rate.samples(HOLD_MS), self.fade_step())
    }

    /// There is nothing to be heard here: what was is let go within a few milliseconds.
    pub fn rest(&mut self, samples: &mut [i16]) {
        self.fill(samples, 0, FULL / self.rate.samples(REST_MS) as i32);
    }

    fn fill(&mut self, samples: &mut [i16], hold: usize, step: i32) -> usize {
        if self.state != State::MakingUp {
            self.begin();
        }
        let mut audible = 0;
        for sample in samples.iter_mut() {
            if self.gain == 0 {
                *sample = 0;
                continue;
            }
            audible += 1;
            *sample = self.make_up(if self.made < hold { 0 } else { step });
        }
        self.remember(samples);
        audible
    }

    /// Audio is lost from here on.
    fn begin(&mut self) {
        self.source.copy_from_slice(&self.history);
        self.state = State::MakingUp;
        self.made = 0;
        let end = self.source.len();
        if self.source[end - longest(self.rate)..].iter().all(|&sample| sample == 0) {
            self.gain = 0;
            return;
        }
        self.gain = FULL;
        self.period = pitch(self.rate, &self.source);
        self.at = end - self.period;
        self.back = self.period;
        self.offset = i32::from(self.source[end - 1]) - i32::from(self.source[self.at - 1]);
    }

    /// The next sample, and `step` off the gain.
    fn make_up(&mut self, step: i32) -> i16 {
        if self.gain == 0 {
            return 0;
        }
        let end = self.source.len();
        // The end of the material fades into what lies before its beginning, so that it can begin again.
        let seam = (self.period / 4).max(self.rate.samples(5) / 2);
        let mut sample = i32::from(self.source[self.at]);
        if self.at >= end - seam {
            let weight = (self.at - (end - seam) + 1) as i32;
            let before = i32::from(self.source[self.at - self.back]);
            sample += (before - sample) * weight / (seam as i32 + 1);
        }
        if self.made < self.period {
            sample += self.offset * (self.period - self.made) as i32 / self.period as i32;
        }
        let sample = (i64::from(sample) * i64::from(self.gain) / i64::from(FULL)) as i32;

        self.made += 1;
        self.gain = (self.gain - step).max(0);
        self.at += 1;
        if self.at == end {
            self.at = end - self.back;
            // One period over and over sounds like a machine: appendix I takes one more after each 10 ms.
            self.back = self.period * (self.made / self.rate.samples(10) + 1).min(3);
        }
        sample.clamp(i16::MIN.into(), i16::MAX.into()) as i16
    }

    const fn fade_step(&self) -> i32 {
        FULL / self.rate.samples(FADE_MS) as i32
    }

    fn remember(&mut self, samples: &[i16]) {
        let len = self.history.len();
        let samples = &samples[samples.len().saturating_sub(len)..];
        self.history.copy_within(samples.len().., 0);
        self.history[len - samples.len()..].copy_from_slice(samples);
    }
}

/// The lag between 5 and 15 ms at which the end of this signal is most like itself; looked for at 8 kHz and then around the
/// best.
fn pitch(rate: Rate, signal: &[i16]) -> usize {
    let step = (rate.hz() / 8000) as usize;
    let coarse = best((shortest(rate)..=longest(rate)).step_by(step), rate, signal, step);
    let around = (coarse + 1).saturating_sub(step).max(shortest(rate))..=(coarse + step - 1).min(longest(rate));
    if step == 1 { coarse } else { best(around, rate, signal, 1) }
}

fn best(lags: impl Iterator<Item = usize>, rate: Rate, signal: &[i16], step: usize) -> usize {
    let recent = &signal[signal.len() - rate.samples(20)..];
    let (mut best, mut best_score) = (longest(rate), f32::MIN);
    for lag in lags {
        let earlier = &signal[signal.len() - rate.samples(20) - lag..];
        let (mut product, mut energy) = (0.0_f32, 1.0_f32);
        for (a, b) in recent.iter().zip(earlier).step_by(step) {
            let (a, b) = (f32::from(*a), f32::from(*b));
            product += a * b;
            energy += b * b;
        }
        // Squares keep the square root out; the sign keeps opposite phases out.
        let score = if product > 0.0 { product / energy * product } else { product };
        if score > best_score {
            (best, best_score) = (lag, score);
        }
    }
    best
}

/// 200 Hz; a higher voice is found by two or more of its periods.
const fn shortest(rate: Rate) -> usize {
    rate.hz() as usize / 200
}

/// 66 Hz.
const fn longest(rate: Rate) -> usize {
    rate.samples(15)
}

/// Full loudness, and how it goes: held, then in a straight line to nothing. Speech is alike itself for about 20 ms; after 60
/// to 80 it is better not to go on.
const FULL: i32 = 1 << 20;
const HOLD_MS: usize = 20;
const FADE_MS: usize = 60;
const REST_MS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(hz: f64, rate: Rate, n: usize) -> Vec<i16> {
        (0..n)
            .map(|i| (f64::sin(i as f64 * hz * core::f64::consts::TAU / f64::from(rate.hz())) * 12_000.0) as i16)
            .collect()
    }

    fn largest_step(samples: &[i16]) -> i32 {
        samples.windows(2).map(|pair| (i32::from(pair[1]) - i32::from(pair[0])).abs()).max().unwrap_or(0)
    }

    /// What is heard of this signal when `lost` of it is.
    fn with_loss(rate: Rate, signal: &[i16], lost: core::ops::Range<usize>) -> Vec<i16> {
        let mut concealer = Concealer::open(rate);
        let mut heard = signal.to_vec();
        // Odd pieces, as a cursor between packets makes them.
        concealer.heard(&mut heard[..lost.start]);
        for piece in heard[lost.clone()].chunks_mut(37) {
            concealer.lost(piece);
        }
        for piece in heard[lost.end..].chunks_mut(23) {
            concealer.heard(piece);
        }
        heard
    }

    #[test]
    fn a_lost_frame_of_a_voice_goes_on_as_if_it_were_there() {
        for rate in Rate::ALL {
            for hz in [100.0, 133.0, 250.0, 400.0] {
                let signal = tone(hz, rate, rate.samples(200));
                let (from, until) = (rate.samples(100), rate.samples(120));
                let heard = with_loss(rate, &signal, from..until);
                assert!(largest_step(&heard) * 10 <= largest_step(&signal) * 13, "{rate} {hz}");
                let error: f64 = heard.iter().zip(&signal).map(|(a, b)| f64::from(a - b).powi(2)).sum();
                let power: f64 = signal[from..until].iter().map(|&sample| f64::from(sample).powi(2)).sum();
                assert!(error < power / 20.0, "{rate} {hz}: {error:.0} of {power:.0}");
                assert_eq!(heard[until + rate.samples(12)..], signal[until + rate.samples(12)..]);
            }
        }
    }

    #[test]
    fn what_is_made_up_fades_away_within_a_tenth_of_a_second() {
        for rate in Rate::ALL {
            let mut concealer = Concealer::open(rate);
            concealer.heard(&mut tone(200.0, rate, rate.samples(60)));
            let mut out = vec![1; rate.samples(200)];
            let audible = concealer.lost(&mut out);
            assert!((rate.samples(60)..=rate.samples(100)).contains(&audible));
            assert!(out[audible..].iter().all(|&sample| sample == 0));
            assert!(largest_step(&out) <= largest_step(&tone(200.0, rate, 4000)) * 13 / 10);
        }
    }

    #[test]
    fn a_rest_lets_go_within_milliseconds_and_silence_stays_silence() {
        let rate = Rate::Hz8000;
        let mut concealer = Concealer::open(rate);
        let mut out = [1; 160];
        assert_eq!(concealer.lost(&mut out), 0);
        assert_eq!(out, [0; 160]);
        concealer.heard(&mut tone(200.0, rate, 480));
        concealer.rest(&mut out);
        assert!(out[41..].iter().all(|&sample| sample == 0));
        assert!(out[..20].iter().any(|&sample| sample != 0));
    }

    #[test]
    fn full_scale_noise_and_steps_stay_within_the_scale() {
        let mut state = 1_u32;
        let signal: Vec<i16> = (0..4800)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if state >> 31 == 0 { i16::MAX } else { i16::MIN }
            })
            .collect();
        for from in [0, 1, 100, 1000, 2000] {
            with_loss(Rate::Hz8000, &signal, from..from + 2000);
            with_loss(Rate::Hz48000, &signal, from..from + 2000);
        }
    }
}
