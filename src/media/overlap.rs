//! Takes a little time out of a signal, or puts some in, without a click.
//!
//! One period of the voice's pitch is left out or said twice, and the two sides are cross-faded where they are most alike
//! (the overlap-add of time-domain pitch methods). On music or noise the best lag is merely the least bad one.

use crate::media::frame::{MAX_SAMPLES, Rate};

/// Samples that [`shorten`] wants to look at for one frame: the frame and the longest period.
#[must_use]
pub const fn wanted(rate: Rate) -> usize {
    rate.frame() + longest(rate)
}

/// The most that [`wanted`] can be.
pub const MAX_WANTED: usize = MAX_SAMPLES + longest(Rate::Hz48000);

/// Fills `out` (one frame) from `input` with one period left out; returns how long the period was (samples), 0 when
/// `input` is too short or no period of at most `limit` samples exists. Then `out` is the input unchanged.
pub fn shorten(rate: Rate, input: &[i16], limit: usize, out: &mut [i16]) -> usize {
    let frame = out.len().min(input.len());
    let longest = longest(rate).min(limit).min(input.len() - frame);
    let lag = if longest >= shortest(rate) { best_lag(rate, input, longest, frame) } else { 0 };
    if lag == 0 {
        out[..frame].copy_from_slice(&input[..frame]);
        return 0;
    }
    splice(&input[..frame], &input[lag..lag + frame], frame / 2, out);
    lag
}

/// Fills `out` (one frame) from `input` (as long) with one period said twice; returns how long the period was (samples):
/// so many of `input` were not used. 0 when `input` is too short or no period of at most `limit` samples exists. Then
/// `out` is the input unchanged.
pub fn lengthen(rate: Rate, input: &[i16], limit: usize, out: &mut [i16]) -> usize {
    let frame = out.len().min(input.len());
    // Half of the frame is left for the search and for the fade.
    let longest = longest(rate).min(limit).min(frame * 5 / 8);
    let lag = if longest >= shortest(rate) { best_lag(rate, input, longest, frame) } else { 0 };
    out[..lag].copy_from_slice(&input[..lag]);
    splice(&input[lag..frame], &input[..frame - lag], frame - lag, &mut out[lag..frame]);
    lag
}

/// Fills `out` with `old` fading into `new` over the first `over` samples, and `new` after that.
pub fn splice(old: &[i16], new: &[i16], over: usize, out: &mut [i16]) {
    let over = over.max(1) as i32;
    for (i, (slot, (&old, &new))) in out.iter_mut().zip(old.iter().zip(new)).enumerate() {
        let weight = (i as i32).min(over);
        *slot = ((i32::from(old) * (over - weight) + i32::from(new) * weight) / over) as i16;
    }
}

/// The lag at which the signal is most like itself, by normalised correlation; looked for at 8 kHz resolution.
fn best_lag(rate: Rate, input: &[i16], longest: usize, frame: usize) -> usize {
    let step = (rate.hz() / 8000) as usize;
    let span = (frame / 2).min(input.len() - longest);
    let (mut best, mut best_score) = (0, f32::MIN);
    // Every pitch has a multiple of its period in the upper half: with that the most is gained for one seam.
    let mut lag = shortest(rate).max(longest / 2);
    while lag <= longest {
        let (mut product, mut energy) = (0.0_f32, 1.0_f32);
        let mut i = 0;
        while i < span {
            let (a, b) = (f32::from(input[i]), f32::from(input[i + lag]));
            product += a * b;
            energy += b * b;
            i += step;
        }
        // Squares keep the square root out; the sign keeps opposite phases out.
        let score = if product > 0.0 { product / energy * product } else { product };
        if score > best_score {
            (best, best_score) = (lag, score);
        }
        lag += step;
    }
    best
}

/// 2.5 ms: 400 Hz, above any speaking pitch.
const fn shortest(rate: Rate) -> usize {
    rate.hz() as usize / 400
}

/// The longest period, in samples: 12.5 ms, 80 Hz, a deep male voice.
#[must_use]
pub const fn longest(rate: Rate) -> usize {
    rate.hz() as usize / 80
}

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

    #[test]
    fn a_period_of_a_voice_is_left_out_without_a_click() {
        for rate in Rate::ALL {
            for hz in [90.0, 120.0, 200.0, 310.0] {
                let signal = tone(hz, rate, rate.frame() * 4);
                let mut heard = signal[..rate.frame()].to_vec();
                let mut out = vec![0; rate.frame()];
                let lag = shorten(rate, &signal[rate.frame()..], usize::MAX, &mut out);
                assert!(lag > 0);
                heard.extend(&out);
                heard.extend(&signal[2 * rate.frame() + lag..]);
                assert!(largest_step(&heard) <= largest_step(&signal) * 3 / 2, "{rate} {hz}");
            }
        }
    }

    #[test]
    fn a_period_of_a_voice_is_said_twice_without_a_click() {
        for rate in Rate::ALL {
            for hz in [90.0, 120.0, 200.0, 310.0] {
                let signal = tone(hz, rate, rate.frame() * 4);
                let mut heard = signal[..rate.frame()].to_vec();
                let mut out = vec![0; rate.frame()];
                let lag = lengthen(rate, &signal[rate.frame()..2 * rate.frame()], usize::MAX, &mut out);
                assert!(lag > 0);
                heard.extend(&out);
                heard.extend(&signal[2 * rate.frame() - lag..]);
                assert_eq!(heard.len(), signal.len() + lag);
                assert!(largest_step(&heard) <= largest_step(&signal) * 3 / 2, "{rate} {hz}");
            }
        }
    }

    #[test]
    fn no_more_is_left_out_or_put_in_than_allowed() {
        let signal = tone(100.0, Rate::Hz8000, 400);
        let mut out = [0; 160];
        assert!(shorten(Rate::Hz8000, &signal, 30, &mut out) <= 30);
        assert_eq!(shorten(Rate::Hz8000, &signal, 19, &mut out), 0);
        assert_eq!(out, signal[..160]);
        assert_eq!(shorten(Rate::Hz8000, &signal[..100], usize::MAX, &mut out), 0);
        assert!(lengthen(Rate::Hz8000, &signal[..160], 30, &mut out) <= 30);
        assert_eq!(lengthen(Rate::Hz8000, &signal[..160], 19, &mut out), 0);
        assert_eq!(out, signal[..160]);
        assert_eq!(lengthen(Rate::Hz8000, &signal[..20], usize::MAX, &mut out), 0);
    }
}
