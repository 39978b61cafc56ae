//! From any rate to any other, by a ratio that can be bent while it runs: between a sound card and a line.
//!
//! A card's clock is never ours. One filter converts the rate and takes up what the clocks differ by, so nothing is
//! slipped. It is a windowed sinc as in `resample`, worked out for a grid of fractions of a sample when it is opened,
//! with a straight line between two neighbours of the grid. The transition straddles the lower rate's Nyquist frequency
//! here, too: from 0.85 to 1.15 of it sounds are not cleanly kept apart. The delay is 12 samples of the lower rate or a
//! few more, under 2 ms.
//!
//! ```text
//!              the next output lies here: whole samples, and a fraction as an integer
//!                        v
//!  input --> [ . . . . .|. . . . . | a block ] --> window . (row * (1 - weight) + next row * weight) --> output
//! ```

extern crate alloc;

use alloc::boxed::Box;
use core::{f64::consts::PI, ops::RangeInclusive};

use crate::media::resample::{Progress, bessel_i0_of_root, sin};

/// The rates that it knows.
pub const RATES: RangeInclusive<u32> = 8_000..=96_000;

/// How far a ratio can be bent (ppm): one sample in 2,000, less than a hundredth of a semitone, which nobody hears.
pub const MAX_BEND: f32 = 500.0;

/// Turns a stream of samples of one rate into another, a little faster or slower as told, in pieces of any length.
///
/// As long as it is not bent otherwise, the same samples come out however the input is cut. A frame of 20 ms costs
/// 200,000 instructions from 48 to 16 kHz, 260,000 the other way and 360,000 from 96 to 8 kHz, by callgrind on x86-64.
#[derive(Clone, Debug)]
pub struct Elastic {
    to_hz: u32,
    stride: Stride,
    /// The inputs under one output's window.
    taps: usize,
    /// Into how many parts the grid cuts a sample.
    grid: usize,
    /// A row of taps for every point of the grid from 0 to 1, both included; oldest sample's tap first.
    rows: Box<[f32]>,
    /// Input that some output still needs, contiguous.
    held: Box<[f32]>,
    len: usize,
    /// Where the window of the next output begins in `held`.
    next: usize,
}

impl Elastic {
    /// A resampler that has heard nothing but silence, not bent. Takes 16 to 30 kB of the heap, once. Equal rates that
    /// are not bent make it a copy, only later.
    ///
    /// # Panics
    /// If a rate is not one of [`RATES`]: whoever opens a card looks at that first.
    #[must_use]
    pub fn new(from_hz: u32, to_hz: u32) -> Self {
        assert!(RATES.contains(&from_hz) && RATES.contains(&to_hz), "a card's rate is checked when it is opened");
        let (from, to) = (from_hz as usize, to_hz as usize);
        let lower = from.min(to);
        let taps = (TAPS * from).div_ceil(lower).next_multiple_of(LANES);
        // A wide filter changes less from input to input, and needs as many points in all.
        let grid = (GRID * lower).div_ceil(from).next_power_of_two();
        Self {
            to_hz,
            stride: Stride::new(from_hz, to_hz),
            taps,
            grid,
            rows: design(taps, grid, from_hz, to_hz),
            held: core::iter::repeat_n(0.0, taps + BLOCK).collect(),
            len: taps - 1,
            next: 0,
        }
    }

    /// The rate of the output.
    #[must_use]
    pub const fn to_hz(&self) -> u32 {
        self.to_hz
    }

    /// From now on makes this much more (or less, where negative) output of the same input, in parts of a million and
    /// at most [`MAX_BEND`]. The sound goes on without a step.
    pub fn bend(&mut self, ppm: f32) {
        self.stride.bend(ppm);
    }

    /// How many samples this many more of input will make as it is bent now: exactly, and so the room that
    /// [`process`](Self::process) needs to consume them all.
    #[must_use]
    pub const fn max_output(&self, input: usize) -> usize {
        let windows = (self.len - self.next).saturating_add(input).saturating_sub(self.taps - 1);
        self.stride.outputs(windows)
    }

    /// Takes input and writes what it makes, until there is no more of the one or no room for the other. An output
    /// with room for [`max_output`](Self::max_output) takes it all. One without leaves all input that it does not need:
    /// it takes what the time of its samples is worth, and what is left to a card's ring is still its fill. Then come
    /// again with the rest, which may be empty.
    pub fn process(&mut self, input: &[i16], output: &mut [i16]) -> Progress {
        let mut progress = Progress { consumed: 0, produced: 0 };
        loop {
            let ready = self.max_output(0).min(output.len() - progress.produced);
            for sample in &mut output[progress.produced..progress.produced + ready] {
                *sample = self.filter();
                self.next += self.stride.advance();
            }
            progress.produced += ready;

            // With room left for output, fewer than `taps` are under the next window, and a block fits behind them.
            // What makes no further output is taken in any case.
            let waiting = self.len - self.next;
            let wanted = self.stride.inputs(output.len() - progress.produced) + self.taps - 1;
            let space = wanted.min(self.held.len()).saturating_sub(waiting);
            let rest = &input[progress.consumed..];
            let block = &rest[..rest.len().min(space)];
            if block.is_empty() {
                return progress;
            }
            self.held.copy_within(self.next..self.len, 0);
            for (held, sample) in self.held[waiting..].iter_mut().zip(block) {
                *held = f32::from(*sample);
            }
            (self.next, self.len) = (0, waiting + block.len());
            progress.consumed += block.len();
        }
    }

    /// The output whose window lies at `next`.
    #[inline]
    fn filter(&self) -> i16 {
        let at = self.stride.fraction() * self.grid as f32;
        let row = (at as usize).min(self.grid - 1); // rounding may have made it 1
        let weight = at - row as f32;
        let (near, far) = self.rows[row * self.taps..(row + 2) * self.taps].split_at(self.taps);
        let window = &self.held[self.next..self.next + self.taps];

        // Sums side by side, because the compiler may not reorder one.
        let (mut near_sums, mut far_sums) = ([0.0; LANES], [0.0; LANES]);
        let taps = near.as_chunks::<LANES>().0.iter().zip(far.as_chunks::<LANES>().0);
        for (samples, (near, far)) in window.as_chunks::<LANES>().0.iter().zip(taps) {
            for lane in 0..LANES {
                near_sums[lane] += samples[lane] * near[lane];
                far_sums[lane] += samples[lane] * far[lane];
            }
        }
        let (near, far): (f32, f32) = (near_sums.iter().sum(), far_sums.iter().sum());
        let sum = near + (far - near) * weight;
        (sum + 0.5_f32.copysign(sum)) as i16 // rounds and saturates
    }
}

/// Where the next output lies between two inputs, and how far it is to the one after: integers, so that a day adds up
/// to what it should.
#[derive(Clone, Debug)]
pub(super) struct Stride {
    /// The parts of one input.
    unit: u64,
    /// The parts from one output to the next when nothing is bent: the ratio of the rates, exactly.
    straight: u64,
    /// The same as it is bent: whole inputs, and parts.
    whole: usize,
    parts: u64,
    /// Where the next output lies, less than `unit`.
    at: u64,
    /// One part in inputs.
    part: f32,
}

impl Stride {
    pub(super) const fn new(from_hz: u32, to_hz: u32) -> Self {
        let unit = (to_hz as u64) << FINENESS;
        let straight = (from_hz as u64) << FINENESS;
        let (whole, parts) = ((straight / unit) as usize, straight % unit);
        Self { unit, straight, whole, parts, at: 0, part: 1.0 / unit as f32 }
    }

    pub(super) fn bend(&mut self, ppm: f32) {
        let ppm = if ppm.is_nan() { 0.0 } else { f64::from(ppm.clamp(-MAX_BEND, MAX_BEND)) };
        let step = (self.straight as f64 / (1.0 + ppm * 1e-6) + 0.5) as u64;
        (self.whole, self.parts) = ((step / self.unit) as usize, step % self.unit);
    }

    /// The outputs that lie in this many inputs from here.
    pub(super) const fn outputs(&self, inputs: usize) -> usize {
        let parts = (inputs as u64).saturating_mul(self.unit).saturating_sub(self.at);
        parts.div_ceil(self.whole as u64 * self.unit + self.parts) as usize
    }

    /// The inputs in which this many outputs from here lie.
    pub(super) const fn inputs(&self, outputs: usize) -> usize {
        match (outputs as u64).checked_sub(1) {
            Some(steps) => {
                let parts = steps.saturating_mul(self.whole as u64 * self.unit + self.parts).saturating_add(self.at);
                (parts / self.unit) as usize + 1
            }
            None => 0,
        }
    }

    /// On to the next output: by how many whole inputs.
    #[inline]
    pub(super) const fn advance(&mut self) -> usize {
        self.at += self.parts;
        if self.at < self.unit {
            self.whole
        } else {
            self.at -= self.unit;
            self.whole + 1
        }
    }

    /// On by so many outputs at once, as [`advance`](Self::advance) goes.
    #[cfg(test)]
    pub(super) const fn pass(&mut self, outputs: usize) -> usize {
        let parts = self.at + outputs as u64 * (self.whole as u64 * self.unit + self.parts);
        self.at = parts % self.unit;
        (parts / self.unit) as usize
    }

    /// Where the next output lies between two inputs, from 0 to 1.
    #[inline]
    const fn fraction(&self) -> f32 {
        self.at as i64 as f32 * self.part
    }
}

/// The rows of a Kaiser-windowed sinc, each scaled to pass a constant unchanged.
fn design(taps: usize, grid: usize, from_hz: u32, to_hz: u32) -> Box<[f32]> {
    let lower_rate = (f64::from(to_hz) / f64::from(from_hz)).min(1.0);
    // Equal rates have nothing to keep apart: cut at Nyquist, a whole sample's row is one 1 among zeros.
    let cut = if from_hz == to_hz { 1.0 } else { CUT };
    let half = taps as f64 / 2.0;
    let tap = |row: usize, tap: usize| {
        let from_centre = tap as f64 - (half - 1.0) - row as f64 / grid as f64;
        let angle = PI * cut * lower_rate * from_centre;
        let sinc = if angle == 0.0 { 1.0 } else { sin(angle) / angle };
        let part = from_centre / half;
        // Less 1, so that it ends at zero: where a window goes on by one sample, no tap comes or goes with a step.
        sinc * (bessel_i0_of_root(KAISER_BETA * KAISER_BETA * (1.0 - part * part)) - 1.0)
    };
    let mut rows: Box<[f32]> = core::iter::repeat_n(0.0, taps * (grid + 1)).collect();
    for (row, scaled) in rows.chunks_exact_mut(taps).enumerate() {
        let sum: f64 = (0..taps).map(|i| tap(row, i)).sum();
        for (i, scaled) in scaled.iter_mut().enumerate() {
            *scaled = (tap(row, i) / sum) as f32;
        }
    }
    rows
}

/// Taps where the input is at the lower rate.
const TAPS: usize = 24;

/// Sums that run side by side; every number of taps is a multiple.
const LANES: usize = 8;

/// Points of the grid in a sample of the lower rate. A straight line between two points is off by (w / 128)^2 / 8 of a
/// tone of w radians a sample: 85 dB down at 0.85 of Nyquist, 106 dB at 1 kHz and 8 kHz.
const GRID: usize = 128;

/// Bits of a fraction beyond what the ratio of the rates needs: steps of 0.002 ppm.
const FINENESS: u32 = 16;

/// Input taken at a time.
const BLOCK: usize = 480;

/// Where the filter has fallen to -6 dB, in parts of the lower rate's Nyquist frequency. With [`KAISER_BETA`] found by
/// trying both: at 0.85 of it 0.31 dB are lost, from 1.15 on 68 dB, from 1.7 on 85 dB.
const CUT: f64 = 0.97;

/// The shape of the window.
const KAISER_BETA: f64 = 6.8;

#[cfg(test)]
mod tests {
    use core::f64::consts::TAU;

    use super::*;

    const AMPLITUDE: f64 = 30_000.0;

    const CARD_RATES: [u32; 10] = [8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000];

    /// Both ways between every rate of a card and every rate of ours.
    fn pairs() -> impl Iterator<Item = (u32, u32)> {
        let ours = [8_000, 16_000, 24_000, 48_000];
        ours.into_iter().flat_map(|line| CARD_RATES.into_iter().flat_map(move |card| [(card, line), (line, card)]))
    }

    fn tone(rate: u32, hz: f64, seconds: f64) -> Vec<i16> {
        let len = (f64::from(rate) * seconds) as usize;
        (0..len).map(|i| (AMPLITUDE * (TAU * hz * i as f64 / f64::from(rate)).sin()).round() as i16).collect()
    }

    fn run(elastic: &mut Elastic, input: &[i16]) -> Vec<i16> {
        let mut output = vec![0; elastic.max_output(input.len())];
        let progress = elastic.process(input, &mut output);
        assert_eq!(progress, Progress { consumed: input.len(), produced: output.len() });
        output
    }

    fn resample(from: u32, to: u32, input: &[i16]) -> Vec<i16> {
        run(&mut Elastic::new(from, to), input)
    }

    /// The amplitude of a tone, its phase (radians), and the power of everything else: the sine is fitted by least
    /// squares, because few tones have whole periods at 11,025 Hz.
    fn fit(rate: f64, samples: &[i16], hz: f64) -> (f64, f64, f64) {
        let (mut ss, mut cc, mut sc, mut ys, mut yc, mut yy) = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
        for (i, sample) in samples.iter().enumerate() {
            let (s, c) = (TAU * hz * i as f64 / rate).sin_cos();
            let y = f64::from(*sample);
            (ss, cc, sc) = (ss + s * s, cc + c * c, sc + s * c);
            (ys, yc, yy) = (ys + y * s, yc + y * c, yy + y * y);
        }
        let determinant = ss * cc - sc * sc;
        let (a, b) = ((ys * cc - yc * sc) / determinant, (yc * ss - ys * sc) / determinant);
        (a.hypot(b), b.atan2(a), (yy - a * ys - b * yc).max(0.0) / samples.len() as f64)
    }

    /// 0.2 s of steady state.
    fn steady(rate: u32, samples: &[i16]) -> &[i16] {
        &samples[rate as usize / 50..rate as usize * 11 / 50]
    }

    fn level_db(amplitude: f64) -> f64 {
        20.0 * (amplitude / AMPLITUDE).max(1e-9).log10()
    }

    fn largest_step(samples: &[i16]) -> i32 {
        samples.windows(2).map(|pair| (i32::from(pair[1]) - i32::from(pair[0])).abs()).max().unwrap_or(0)
    }

    #[test]
    fn a_tone_of_1_khz_comes_out_70_db_above_everything_else() {
        for (from, to) in pairs() {
            let output = resample(from, to, &tone(from, 1000.0, 0.25));
            let (amplitude, _, rest) = fit(f64::from(to), steady(to, &output), 1000.0);
            let snr = 10.0 * (amplitude * amplitude / 2.0 / rest).log10();
            assert!(snr > 70.0, "{from} to {to}: {snr:.1} dB");
        }
    }

    #[test]
    fn the_level_is_kept_up_to_the_band_edge() {
        for (from, to) in pairs() {
            for part in [0.01, 0.1, 0.3, 0.5, 0.7, 0.8, 0.85] {
                let hz = part * f64::from(from.min(to)) / 2.0;
                let output = resample(from, to, &tone(from, hz, 0.25));
                let db = level_db(fit(f64::from(to), steady(to, &output), hz).0);
                assert!(db.abs() < 0.4, "{hz} Hz from {from} to {to} comes at {db:.2} dB");
            }
        }
    }

    #[test]
    fn images_and_aliases_of_the_band_edge_are_60_db_down() {
        for (from, to) in pairs() {
            let (from_hz, to_hz) = (f64::from(from), f64::from(to));
            let edge = 0.85 * from_hz.min(to_hz) / 2.0;
            if from <= to {
                // All that is not the tone: the images, and what they fold to.
                let output = resample(from, to, &tone(from, edge, 0.25));
                let (amplitude, _, rest) = fit(to_hz, steady(to, &output), edge);
                let db = 10.0 * (rest * 2.0 / (amplitude * amplitude)).log10();
                assert!(db < -60.0, "{from} to {to} has images of {edge} Hz, {db:.1} dB");
                continue;
            }
            // What folds onto the edge and below it.
            let mut hz = to_hz - edge;
            while hz < from_hz / 2.0 {
                let output = resample(from, to, &tone(from, hz, 0.25));
                let output = steady(to, &output);
                let power = output.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / output.len() as f64;
                let db = level_db((power * 2.0).sqrt());
                assert!(db < -60.0, "{from} to {to} folds {hz} Hz, {db:.1} dB");
                hz += from_hz / 48.7;
            }
        }
    }

    #[test]
    fn a_constant_comes_out_unchanged_to_the_last_bit_and_a_square_never_wraps() {
        for (from, to) in pairs() {
            for value in [i16::MIN, -1, 1, 12_345, i16::MAX] {
                let mut elastic = Elastic::new(from, to);
                elastic.bend(123.0);
                let output = run(&mut elastic, &vec![value; from as usize / 10]);
                assert!(
                    output[to as usize / 250..].iter().all(|sample| *sample == value),
                    "{value} from {from} to {to}"
                );
            }
            let half = from as usize / 200;
            let square: Vec<i16> = (0..from as usize / 10)
                .map(|i| if (i / half).is_multiple_of(2) { i16::MAX } else { i16::MIN })
                .collect();
            let output = resample(from, to, &square);
            let middle = |n: usize| output[(to as usize * (2 * n + 1) / 400) + to as usize / 600];
            assert!(
                (0..19).all(|n| if n % 2 == 0 { middle(n) > 28_000 } else { middle(n) < -28_000 }),
                "{from} to {to}"
            );
        }
    }

    #[test]
    fn equal_rates_are_a_copy_1500_us_later_or_less_and_stay_clear_when_bent() {
        for rate in CARD_RATES {
            let input = tone(rate, 987.0, 0.25);
            let output = resample(rate, rate, &input);
            let delay = TAPS / 2;
            assert_eq!(output[delay..], input[..input.len() - delay]);
            assert!(delay_seconds(&Elastic::new(rate, rate), rate) <= 1.5e-3);

            for ppm in [-500.0, 77.0, 500.0] {
                let mut elastic = Elastic::new(rate, rate);
                elastic.bend(ppm);
                let output = run(&mut elastic, &input);
                let bent_rate = f64::from(rate) * (1.0 + f64::from(ppm) * 1e-6);
                let (amplitude, _, rest) = fit(bent_rate, steady(rate, &output), 987.0);
                let snr = 10.0 * (amplitude * amplitude / 2.0 / rest).log10();
                assert!(snr > 75.0, "{rate} Hz bent by {ppm} ppm: {snr:.1} dB");
            }
        }
    }

    /// How much later a sound comes out than it went in: half of the filter.
    fn delay_seconds(elastic: &Elastic, from: u32) -> f64 {
        elastic.taps as f64 / 2.0 / f64::from(from)
    }

    #[test]
    fn the_delay_is_half_of_the_filter_and_under_2_ms() {
        for (from, to) in pairs() {
            let delay = delay_seconds(&Elastic::new(from, to), from);
            let output = resample(from, to, &tone(from, 100.0, 0.25));
            let output = &output[to as usize / 50..];
            let (_, phase, _) = fit(f64::from(to), output, 100.0);
            // It was cut after two whole periods.
            let cut = f64::from(to / 50) / f64::from(to);
            let measured = (TAU * 100.0 * cut - phase).rem_euclid(TAU) / TAU / 100.0;
            assert!((measured - delay).abs() < 5e-6, "{from} to {to}: {measured} s");
            assert!(delay < 2e-3);
        }
    }

    #[test]
    fn the_same_samples_come_out_however_the_input_is_cut() {
        for (from, to) in pairs() {
            let bent = || {
                let mut elastic = Elastic::new(from, to);
                elastic.bend(-321.0);
                elastic
            };
            let input = tone(from, 987.0, 0.1);
            let whole = run(&mut bent(), &input);
            for sizes in [&[1][..], &[7, 1, 0, 320, 13], &[213], &[479, 480, 481, 3]] {
                let mut elastic = bent();
                let (mut rest, mut pieces) = (&input[..], Vec::new());
                for size in sizes.iter().cycle() {
                    let (piece, after) = rest.split_at(rest.len().min(*size));
                    pieces.extend(run(&mut elastic, piece));
                    rest = after;
                    if rest.is_empty() {
                        break;
                    }
                }
                assert_eq!(pieces, whole, "{from} to {to} in pieces of {sizes:?}");
            }
            for room in [1, 5, 160] {
                let (mut elastic, mut rest, mut pieces) = (bent(), &input[..], Vec::<i16>::new());
                loop {
                    let mut output = vec![0; room];
                    let promised = elastic.max_output(rest.len());
                    let Progress { consumed, produced } = elastic.process(rest, &mut output);
                    assert_eq!(produced, promised.min(room));
                    rest = &rest[consumed..];
                    pieces.extend(&output[..produced]);
                    if produced == 0 {
                        break;
                    }
                }
                assert!(rest.is_empty());
                assert_eq!(pieces, whole, "{from} to {to} into rooms of {room}");
            }
        }
    }

    #[test]
    fn a_full_output_leaves_the_card_its_samples() {
        // A reader of a ring takes 10 ms a time: what it does not need yet stays where its fill is measured.
        let mut elastic = Elastic::new(48_000, 16_000);
        let mut consumed = 0;
        for tick in 1..=100 {
            let progress = elastic.process(&[0; 960], &mut [0; 160]);
            assert_eq!(progress.produced, 160);
            consumed += progress.consumed;
            assert!((tick * 480..tick * 480 + 3).contains(&consumed), "{consumed} after {tick}");
        }
    }

    #[test]
    fn an_hour_is_an_hour_at_every_rate() {
        for (from, to) in pairs() {
            let mut stride = Stride::new(from, to);
            let (hour_in, hour_out) = (from as usize * 3_600, to as usize * 3_600);
            assert_eq!(stride.outputs(hour_in), hour_out);
            // And every second of it: no remainder is left behind.
            let second: usize = (0..to).map(|_| stride.advance()).sum();
            assert_eq!((second, stride.at), (from as usize, 0));

            for ppm in [-500.0, -0.1, 300.0] {
                stride.bend(ppm);
                let exact = hour_out as f64 * (1.0 + f64::from(ppm) * 1e-6);
                let off = stride.outputs(hour_in) as f64 - exact;
                assert!(off.abs() < 1.1, "{from} to {to} bent by {ppm} ppm is {off} samples off");
            }
            for (asked, got) in [(1e9, 500.0), (-1e9, -500.0), (f32::NAN, 0.0), (f32::INFINITY, 500.0)] {
                stride.bend(asked);
                let exact = hour_out as f64 * (1.0 + got * 1e-6);
                assert!((stride.outputs(hour_in) as f64 - exact).abs() < 1.1);
            }
        }
    }

    #[test]
    fn bending_back_and_forth_makes_no_step_in_a_sine() {
        for (from, to) in pairs() {
            let hz = 440.0;
            let input = tone(from, hz, 0.5);
            let mut elastic = Elastic::new(from, to);
            let mut bent = Vec::new();
            for (n, piece) in input.chunks(from as usize / 100).enumerate() {
                elastic.bend([0.0, 500.0, -500.0, 300.0][n % 4]);
                bent.extend(run(&mut elastic, piece));
            }
            let (bent, straight) = (&bent[to as usize / 100..], &resample(from, to, &input)[to as usize / 100..]);
            let sine = AMPLITUDE * TAU * hz / f64::from(to);
            assert!(f64::from(largest_step(bent)) < sine * 1.01 + 2.0, "{from} to {to}");
            // A click is a jump of the slope, too.
            let sharpest = |samples: &[i16]| {
                let bends = samples.windows(3).map(|w| i32::from(w[2]) - 2 * i32::from(w[1]) + i32::from(w[0]));
                bends.map(i32::abs).max().unwrap_or(0)
            };
            let (bent, straight) = (sharpest(bent), sharpest(straight));
            assert!(bent <= straight + straight / 10 + 2, "{from} to {to}: {bent}, not {straight}");
        }
    }

    #[test]
    fn its_table_is_small_at_every_ratio() {
        for from in CARD_RATES {
            for to in CARD_RATES {
                let elastic = Elastic::new(from, to);
                let bytes = (elastic.rows.len() + elastic.held.len()) * size_of::<f32>();
                assert!(bytes < 32 << 10, "{from} to {to}: {bytes}");
            }
        }
    }
}
