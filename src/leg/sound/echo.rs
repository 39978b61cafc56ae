//! The agent's own voice, taken out of what the microphone hears.
//!
//! The work is done by the crate `aec3`, a port of WebRTC's echo canceller: it finds how late the echo comes (up to
//! half a second after it was played, and never before), learns the way through the room, and suppresses what is left
//! while nobody in the room speaks. It was chosen by what benches/RESULTS.md shows.
//!
//! ```text
//!  to the loudspeaker ----- played --> 16 or 48 kHz --> [ aec3 ]
//!  from the microphone ---- clean ---> 16 or 48 kHz --> [ aec3 ] --> the line's rate
//! ```
//!
//! It allocates as it works, 50 times in 10 ms, so its place is a thread of its own and no audio callback. It is not
//! [`Send`]: the thread that uses it makes it.

use aec3::{
    api::{config::EchoCanceller3Config, control::EchoControl},
    audio_processing::{aec3::echo_canceller3::EchoCanceller3, audio_buffer::AudioBuffer},
};

use crate::media::{
    frame::{MAX_SAMPLES, Rate},
    resample::Resampler,
};

/// Takes the echo of a loudspeaker out of what a microphone hears.
///
/// For each 10 ms, first [`played`](Self::played), then [`clean`](Self::clean). What is cleaned comes out 8 ms later at
/// 16 kHz, 9 to 11 ms at the other rates.
pub struct Canceller {
    aec: EchoCanceller3,
    loudspeaker: Way,
    microphone: Way,
    back: Resampler,
}

impl Canceller {
    /// A canceller for a line of this rate that knows nothing of its room.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        // It knows 16 and 48 kHz. 24 kHz go up, so that what the line has above 8 kHz stays.
        let inside = match rate {
            Rate::Hz8000 | Rate::Hz16000 => Rate::Hz16000,
            Rate::Hz24000 | Rate::Hz48000 => Rate::Hz48000,
        };
        Self {
            aec: EchoCanceller3::new(config(), inside.hz() as i32, 1, 1),
            loudspeaker: Way::new(rate, inside),
            microphone: Way::new(rate, inside),
            back: Resampler::new(inside, rate),
        }
    }

    /// Takes 10 ms of what goes to the loudspeaker.
    pub fn played(&mut self, samples: &[i16]) {
        self.loudspeaker.take(samples);
        self.loudspeaker.split();
        self.aec.analyze_render(&mut self.loudspeaker.buffer);
    }

    /// Takes 10 ms of what the microphone hears, and puts what of that is no echo in its place.
    pub fn clean(&mut self, samples: &mut [i16]) {
        self.microphone.take(samples);
        self.aec.analyze_capture(&mut self.microphone.buffer);
        self.microphone.split();
        self.aec.process_capture(&mut self.microphone.buffer, false);
        self.microphone.merge();
        self.microphone.give(&mut self.back, samples);
    }
}

/// The way of one signal into the canceller's own rate and format.
struct Way {
    resampler: Resampler,
    samples: [i16; MAX_SAMPLES],
    len: usize,
    buffer: AudioBuffer,
}

impl Way {
    fn new(rate: Rate, inside: Rate) -> Self {
        let hz = inside.hz() as usize;
        Self {
            resampler: Resampler::new(rate, inside),
            samples: [0; MAX_SAMPLES],
            len: inside.samples(10),
            buffer: AudioBuffer::from_sample_rates(hz, 1, hz, 1, hz),
        }
    }

    /// 10 ms make 10 ms at every two of our rates: there is no remainder.
    fn take(&mut self, samples: &[i16]) {
        let inside = &mut self.samples[..self.len];
        let progress = self.resampler.process(samples, inside);
        debug_assert_eq!((progress.consumed, progress.produced), (samples.len(), self.len), "pieces are 10 ms");
        // Its samples are floats, but as large as ours.
        for (float, sample) in self.buffer.channel_mut(0).iter_mut().zip(inside) {
            *float = f32::from(*sample);
        }
    }

    /// Above 16 kHz it works in bands.
    fn split(&mut self) {
        if self.buffer.num_bands() > 1 {
            self.buffer.split_into_frequency_bands();
        }
    }

    fn merge(&mut self) {
        if self.buffer.num_bands() > 1 {
            self.buffer.merge_frequency_bands();
        }
    }

    fn give(&mut self, back: &mut Resampler, samples: &mut [i16]) {
        let inside = &mut self.samples[..self.len];
        for (sample, float) in inside.iter_mut().zip(self.buffer.channel(0)) {
            *sample = float.round() as i16; // which ends where i16 does
        }
        back.process(inside, samples);
    }
}

/// WebRTC's own settings make sure that nobody hears an echo, and cut off words of whoever speaks at the same time. An
/// agent is to be interrupted, so here the person comes first; the echo has decibels to spare (benches/RESULTS.md).
fn config() -> EchoCanceller3Config {
    let mut config = EchoCanceller3Config::default();
    // 80 ms of room instead of 52.
    config.filter.main.length_blocks = 20;
    config.filter.shadow.length_blocks = 20;
    // Somebody in the room is believed after 16 ms instead of 48, and heard again at once: 18 dB in 4 ms instead of 6.
    config.suppressor.dominant_nearend_detection.trigger_threshold = 4;
    config.suppressor.nearend_tuning.max_inc_factor = 8.0;
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Noise that is the same each time.
    fn noise(seed: u32, amplitude: i32) -> impl FnMut() -> i16 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 16) as i32 % (2 * amplitude) - amplitude) as i16
        }
    }

    fn energy(samples: &[i16]) -> f64 {
        samples.iter().map(|&sample| f64::from(sample).powi(2)).sum()
    }

    #[test]
    fn an_echo_is_gone_within_3_s_at_every_rate() {
        for rate in Rate::ALL {
            let mut canceller = Canceller::new(rate);
            let piece = rate.samples(10);
            let mut agent = noise(1, 4000);
            let mut air: Vec<i16> = vec![0; rate.samples(40)];
            let (mut heard, mut left) = (0.0, 0.0);
            for n in 0..400 {
                let played: Vec<i16> = (0..piece).map(|_| agent()).collect();
                air.extend(&played);
                let mut samples: Vec<i16> = air.drain(..piece).map(|sample| sample / 2).collect();
                let echo = energy(&samples);
                canceller.played(&played);
                canceller.clean(&mut samples);
                if n >= 300 {
                    heard += echo;
                    left += energy(&samples);
                }
            }
            assert!(left < heard / 1000.0, "{rate}: {left} of {heard}");
        }
    }

    #[test]
    fn who_speaks_while_nothing_is_played_is_not_touched() {
        for rate in Rate::ALL {
            let mut canceller = Canceller::new(rate);
            let piece = rate.samples(10);
            let (mut heard, mut left) = (0.0, 0.0);
            for n in 0..200 {
                // A buzz of 200 Hz and its overtones, in words of 300 ms.
                let said =
                    |i: usize| if n % 50 < 30 { (i % rate.samples(5)) as i32 * 8000 / piece as i32 - 2000 } else { 0 };
                let mut samples: Vec<i16> = (0..piece).map(|i| said(n * piece + i) as i16).collect();
                heard += energy(&samples);
                canceller.played(&vec![0; piece]);
                canceller.clean(&mut samples);
                left += energy(&samples);
            }
            let ratio = left / heard;
            assert!((0.85..1.1).contains(&ratio), "{rate}: {ratio}");
        }
    }

    #[test]
    fn samples_at_the_ends_of_the_scale_do_no_harm() {
        for rate in Rate::ALL {
            let mut canceller = Canceller::new(rate);
            for n in 0..100 {
                let mut samples = vec![if n % 2 == 0 { i16::MIN } else { i16::MAX }; rate.samples(10)];
                canceller.played(&samples);
                canceller.clean(&mut samples);
            }
        }
    }

    #[test]
    fn a_loudspeaker_that_stops_for_seconds_does_no_harm() {
        let mut canceller = Canceller::new(Rate::Hz16000);
        let mut agent = noise(1, 4000);
        for n in 0..1000 {
            let played: Vec<i16> = (0..160).map(|_| agent()).collect();
            if !(200..500).contains(&n) {
                canceller.played(&played);
            }
            if !(600..900).contains(&n) {
                canceller.clean(&mut played.clone());
            }
        }
    }
}
