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
