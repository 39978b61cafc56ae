//! How much of what was played came back, and how long after.

use crate::{
    cli::call::{
        heard::{Heard, Sent},
        millis,
        score::{IN_FLIGHT, MARK, Score, mark},
    },
    media::{Now, frame::MAX_SAMPLES},
};

/// What of the score came back.
pub(super) struct Echo {
    pub(super) frames: u64,
    pub(super) lost: u64,
    pub(super) bit_exact: bool,
    /// From sending to hearing, in order of size (ms).
    pub(super) delays: Vec<f64>,
}

impl Echo {
    pub(super) fn find(score: &Score, sent: &Sent, heard: &Heard) -> Self {
        let mut samples = Vec::new();
        let mut arrivals = Vec::new();
        for stretch in heard.stretches.iter().filter(|stretch| stretch.rate == score.rate) {
            arrivals.extend(stretch.arrivals.iter().map(|&(place, when)| (samples.len() + place, when)));
            samples.extend_from_slice(&stretch.samples);
        }
        let frame = score.rate.frame();
        let count = sent.at.len();
        // What was sent in the last second may still be under way.
        let settled = sent.at.iter().filter(|&&at| sent.ended.saturating_sub(at) > IN_FLIGHT).count();
        let mut buffer = [0; MAX_SAMPLES];
        let mut played = Vec::with_capacity(count * frame);
        for n in 0..count {
            played.extend_from_slice(score.frame(n, &mut buffer));
        }
        let (same, nothing_else) = less_silence(&samples, &played);
        let bit_exact = nothing_else && same > 0 && same >= settled * frame;

        let mut delays = Vec::new();
        let (frames, lost) = if score.marks {
            let mut at: Vec<Option<Now>> = vec![None; count];
            for (place, n) in marks(&samples) {
                if let Some(slot @ None) = at.get_mut(n as usize) {
                    let after = arrivals.partition_point(|&(start, _)| start <= place);
                    *slot = after.checked_sub(1).and_then(|n| arrivals.get(n)).map(|&(_, when)| when);
                }
            }
            let way = |(heard, sent): (&Option<Now>, &Now)| heard.map(|h| millis(h.saturating_sub(*sent)));
            delays = at.iter().zip(&sent.at).filter_map(way).collect();
            delays.sort_unstable_by(f64::total_cmp);
            let last = at.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
            (delays.len(), at[..last.max(settled)].iter().filter(|heard| heard.is_none()).count())
        } else {
            (same / frame, settled.saturating_sub(same / frame))
        };
        Self { frames: frames as u64, lost: lost as u64, bit_exact, delays }
    }
}

/// How many of the played samples were heard in order with nothing but silence put in between, and if that is all
/// that was heard.
pub(super) fn less_silence(heard: &[i16], played: &[i16]) -> (usize, bool) {
    let mut same = 0;
    for &sample in heard {
        if played.get(same) == Some(&sample) {
            same += 1;
        } else if sample != 0 {
            return (same, false);
        }
    }
    (same, true)
}

/// Every mark in these samples, wherever it begins: its place and its number.
pub(super) fn marks(samples: &[i16]) -> impl Iterator<Item = (usize, u32)> {
    samples.windows(MARK).enumerate().filter_map(|(place, window)| {
        let &[_, _, low, high, ..] = window else { return None };
        let n = u32::from(high as u16) << 16 | u32::from(low as u16);
        (mark(n) == *window).then_some((place, n))
    })
}

/// By nearest rank, of figures in order.
pub(super) fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_wherever_it_begins_and_nowhere_else() {
        let mut samples: Vec<i16> = (0..5000_i32).map(|n| (n * n % 30_011) as i16).collect();
        assert_eq!(marks(&samples).count(), 0);
        let numbers = [0, 1, 65_535, 65_536, 0x8000_7fff, u32::MAX];
        for (k, &n) in numbers.iter().enumerate() {
            let at = 17 + k * 333;
            samples[at..at + MARK].copy_from_slice(&mark(n));
        }
        let expected: Vec<(usize, u32)> = numbers.iter().enumerate().map(|(k, &n)| (17 + k * 333, n)).collect();
        assert_eq!(marks(&samples).collect::<Vec<_>>(), expected);
        samples[17 + 3] ^= 1;
        assert_eq!(marks(&samples).count(), numbers.len() - 1);
    }

    #[test]
    fn only_silence_may_stand_between_the_samples_that_were_played() {
        let played = [5, 0, 0, -6, 7];
        assert_eq!(less_silence(&[0, 0, 5, 0, 0, 0, -6, 0, 7, 0], &played), (5, true));
        assert_eq!(less_silence(&[5, 0, -6, 7], &played), (2, false)); // a silent sample is missing
        assert_eq!(less_silence(&[5, 0, 0, 1, -6, 7], &played), (3, false));
        assert_eq!(less_silence(&[5, 0, 0, -6], &played), (4, true));
        assert_eq!(less_silence(&[5, 0, 0, -6, 7, 7], &played), (5, false));
    }

    #[test]
    fn percentiles_are_taken_by_nearest_rank() {
        let figures: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!((percentile(&figures, 50), percentile(&figures, 99)), (Some(100.0), Some(198.0)));
        assert_eq!((percentile(&[3.0], 99), percentile(&[], 50)), (Some(3.0), None));
    }
}
