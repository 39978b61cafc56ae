//! From one of our rates to another.
//!
//! A polyphase FIR with a Kaiser window: 24 taps a phase at the lower rate, so the delay is under 1.5 ms where 8 kHz
//! is one of the two, and half of that between 16 kHz and more. The transition straddles the lower rate's Nyquist
//! frequency on purpose: telephone audio ends at 3.4 kHz, and a steeper filter would cost delay. What lies between
//! 3.4 and 4.6 kHz is not cleanly kept apart.
//!
//! ```text
//!  input --> [ what is still under the taps | a block ] --> window . taps[phase] --> output
//!                                             ^ next: where the next output's window begins; phase: which taps
//! ```

use core::{f64::consts::PI, time::Duration};

use crate::media::frame::Rate;

/// Turns a stream of samples of one rate into another, in pieces of any length.
///
/// The same samples come out however the input is cut.
#[derive(Clone, Debug)]
pub struct Resampler {
    from: Rate,
    to: Rate,
    /// Input that some output still needs, contiguous.
    held: [i16; HELD],
    len: usize,
    /// Where the window of the next output begins in `held`.
    next: usize,
    /// Where the next output lies between two inputs, in parts of `up`.
    phase: usize,
}

/// What one call of [`Resampler::process`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Input samples taken. Fewer than given only when the output was full.
    pub consumed: usize,
    /// Output samples written.
    pub produced: usize,
}

impl Resampler {
    /// A resampler that has heard nothing but silence. Equal rates make it a copy.
    #[must_use]
    pub const fn new(from: Rate, to: Rate) -> Self {
        let mut this = Self { from, to, held: [0; HELD], len: 0, next: 0, phase: 0 };
        this.len = this.taps() - 1;
        this
    }

    /// The rate of the input.
    #[must_use]
    pub const fn from(&self) -> Rate {
        self.from
    }

    /// The rate of the output.
    #[must_use]
    pub const fn to(&self) -> Rate {
        self.to
    }

    /// How much later a sound comes out than it went in, at every frequency.
    #[must_use]
    pub const fn delay(&self) -> Duration {
        let prototype = self.taps() * self.up();
        let common_hz = self.from.hz() as u64 * self.up() as u64;
        // An even-length symmetric filter is centred between two samples, hence halves of them.
        Duration::from_nanos((prototype as u64 - 1) * 500_000_000 / common_hz)
    }

    /// Forgets what it heard, as if new.
    pub const fn reset(&mut self) {
        *self = Self::new(self.from, self.to);
    }

    /// How many samples this many more of input will make: exactly, and so the room that [`process`](Self::process)
    /// needs to consume them all. From frame to frame, and always without a remainder in the ratio, it is
    /// `input * to / from`.
    #[must_use]
    pub const fn max_output(&self, input: usize) -> usize {
        let windows = (self.len - self.next).saturating_add(input).saturating_sub(self.taps() - 1);
        // The outputs n with (phase + n * down) / up < windows.
        windows.saturating_mul(self.up()).saturating_sub(self.phase).div_ceil(self.down())
    }

    /// Takes input and writes what it makes, until there is no more of the one or no room for the other. An output
    /// with room for [`max_output`](Self::max_output) takes it all. Otherwise come again with the rest, which may be
    /// empty: input that was consumed may still owe output.
    pub fn process(&mut self, input: &[i16], output: &mut [i16]) -> Progress {
        use Rate::{Hz8000, Hz16000, Hz24000, Hz48000};
        match (self.from, self.to) {
            (Hz8000, Hz8000) | (Hz16000, Hz16000) | (Hz24000, Hz24000) | (Hz48000, Hz48000) => {
                let len = input.len().min(output.len());
                output[..len].copy_from_slice(&input[..len]);
                Progress { consumed: len, produced: len }
            }
            (Hz8000, Hz16000) | (Hz24000, Hz48000) => self.run(&UP_2, input, output),
            (Hz8000, Hz24000) | (Hz16000, Hz24000 | Hz48000) => self.run(&UP_3, input, output),
            (Hz8000, Hz48000) => self.run(&UP_6, input, output),
            (Hz16000, Hz8000) | (Hz48000, Hz24000) => self.run(&DOWN_2, input, output),
            (Hz24000, Hz8000) | (Hz48000, Hz16000) => self.run(&DOWN_3, input, output),
            (Hz48000, Hz8000) => self.run(&DOWN_6, input, output),
            (Hz24000, Hz16000) => self.run(&DOWN_3_UP_2, input, output),
        }
    }

    fn run<const T: usize, const L: usize>(
        &mut self,
        bank: &Bank<T, L>,
        input: &[i16],
        output: &mut [i16],
    ) -> Progress {
        let down = self.down();
        let mut progress = Progress { consumed: 0, produced: 0 };
        loop {
            let ready = self.max_output(0).min(output.len() - progress.produced);
            let (mut next, mut phase) = (self.next, self.phase);
            for sample in &mut output[progress.produced..progress.produced + ready] {
                let Some(window) = self.held.get(next..next + T).and_then(<[i16]>::first_chunk) else {
                    break; // never: `max_output` has counted the windows
                };
                *sample = bank.filter(phase, window);
                next += (phase + down) / L;
                phase = (phase + down) % L;
            }
            (self.next, self.phase) = (next, phase);
            progress.produced += ready;

            // With room left for output, fewer than `T` are under the next window, and a block fits behind them.
            // Without, only what makes no further output is taken.
            let waiting = self.len - self.next;
            let full = progress.produced == output.len();
            let space = if full { (T - 1).saturating_sub(waiting) } else { HELD - waiting };
            let rest = &input[progress.consumed..];
            let block = &rest[..rest.len().min(space)];
            if block.is_empty() {
                return progress;
            }
            self.held.copy_within(self.next..self.len, 0);
            self.held[waiting..waiting + block.len()].copy_from_slice(block);
            (self.next, self.len) = (0, waiting + block.len());
            progress.consumed += block.len();
        }
    }

    /// Interpolation: how many outputs `down` inputs make.
    const fn up(&self) -> usize {
        (self.to.hz() / gcd(self.to.hz(), self.from.hz())) as usize
    }

    /// Decimation: how many inputs make `up` outputs.
    const fn down(&self) -> usize {
        (self.from.hz() / gcd(self.to.hz(), self.from.hz())) as usize
    }

    /// The inputs under one output's window.
    const fn taps(&self) -> usize {
        let (up, down) = (self.up(), self.down());
        match (up, down) {
            (1, 1) => 1,
            // The common rate is `max(up, down)` times the lower one.
            _ => TAPS * if up > down { up } else { down } / up,
        }
    }
}

/// The taps of every phase, oldest sample's first.
struct Bank<const T: usize, const L: usize> {
    taps: [[i16; T]; L],
    /// Bits after the point. Chosen so that no input whatever overflows an `i32`: 15, or 14 where a phase half-way
    /// between two samples adds up to more than twice full scale.
    fraction: u32,
}

impl<const T: usize, const L: usize> Bank<T, L> {
    /// A Kaiser-windowed sinc of `T * L` taps, each phase scaled to pass a constant unchanged.
    const fn design() -> Self {
        let mut exact = [[0.0; T]; L];
        let mut fraction = 15;
        let mut phase = 0;
        while phase < L {
            let mut sum = 0.0;
            let mut tap = 0;
            while tap < T {
                exact[phase][T - 1 - tap] = prototype(phase + tap * L, T * L);
                sum += exact[phase][T - 1 - tap];
                tap += 1;
            }
            let mut largest_output = 0.0;
            let mut tap = 0;
            while tap < T {
                exact[phase][tap] /= sum;
                largest_output += exact[phase][tap].abs();
                tap += 1;
            }
            // One part in a hundred is left for rounding the taps and the output.
            if largest_output > 1.98 {
                fraction = 14;
            }
            assert!(largest_output < 3.96, "Q14 taps would overflow the accumulator too");
            phase += 1;
        }

        let mut taps = [[0; T]; L];
        let mut phase = 0;
        while phase < L {
            let (mut rest, mut largest) = (1 << fraction, 0);
            let mut tap = 0;
            while tap < T {
                let scaled = exact[phase][tap] * (1 << fraction) as f64;
                let rounded = (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32;
                assert!(rounded.abs() < i16::MAX as i32, "a tap needs more than 16 bits");
                taps[phase][tap] = rounded as i16;
                rest -= rounded;
                if taps[phase][tap] > taps[phase][largest] {
                    largest = tap;
                }
                tap += 1;
            }
            // What rounding left over goes where it is the smallest part.
            taps[phase][largest] += rest as i16;
            phase += 1;
        }
        Self { taps, fraction }
    }

    #[inline]
    fn filter(&self, phase: usize, window: &[i16; T]) -> i16 {
        let mut sum = 1 << (self.fraction - 1); // rounds
        for (sample, tap) in window.iter().zip(&self.taps[phase]) {
            sum += i32::from(*sample) * i32::from(*tap);
        }
        (sum >> self.fraction).clamp(i16::MIN.into(), i16::MAX.into()) as i16
    }
}

/// One tap of a Kaiser-windowed sinc of this length, not scaled. The longer it is, the lower the cut, so that it
/// always lies at the same part of the lower rate.
const fn prototype(tap: usize, len: usize) -> f64 {
    let from_centre = tap as f64 - (len as f64 - 1.0) / 2.0;
    let samples = from_centre * TAPS as f64 / len as f64; // at the lower rate
    let part = from_centre / (len as f64 / 2.0);
    sin(PI * CUT * samples) / samples * bessel_i0_of_root(KAISER_BETA * KAISER_BETA * (1.0 - part * part))
}

/// The sine by its power series. `core` has none, and this only designs filters.
pub(super) const fn sin(x: f64) -> f64 {
    let turns = (x / (2.0 * PI)) as i64 as f64;
    let x = x - turns * 2.0 * PI;
    let (mut term, mut sum, mut n) = (x, x, 1.0);
    while n < 40.0 {
        term *= -x * x / ((n + 1.0) * (n + 2.0));
        sum += term;
        n += 2.0;
    }
    sum
}

/// The modified Bessel function of order 0, of the square root of its argument, by its power series.
pub(super) const fn bessel_i0_of_root(x: f64) -> f64 {
    let (mut term, mut sum, mut n) = (1.0, 1.0, 1.0);
    while n < 40.0 {
        term *= x / (4.0 * n * n);
        sum += term;
        n += 1.0;
    }
    sum
}

const fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Taps of a phase when the input is at the lower rate.
const TAPS: usize = 24;

/// The longest window: 48 to 8 kHz.
const MAX_TAPS: usize = TAPS * 6;

/// Room for the longest window and 20 ms at 16 kHz behind it.
const HELD: usize = MAX_TAPS + 320;

/// Where the filter has fallen to -6 dB, in parts of the lower rate's Nyquist frequency. With [`KAISER_BETA`] found by
/// trying both over all six ratios with rounded taps: at 0.85 (3.4 kHz) 0.24 dB are lost, from 1.15 (4.6 kHz, its
/// image) on 64 dB and more. At 1.0 and 5.65 (60 dB by Kaiser's formula) it is 0.01 dB and 58 dB.
const CUT: f64 = 0.97;

/// The shape of the window.
const KAISER_BETA: f64 = 6.2;

static UP_2: Bank<TAPS, 2> = Bank::design();
static UP_3: Bank<TAPS, 3> = Bank::design();
static UP_6: Bank<TAPS, 6> = Bank::design();
static DOWN_2: Bank<{ TAPS * 2 }, 1> = Bank::design();
static DOWN_3: Bank<{ TAPS * 3 }, 1> = Bank::design();
static DOWN_6: Bank<MAX_TAPS, 1> = Bank::design();
static DOWN_3_UP_2: Bank<{ TAPS * 3 / 2 }, 2> = Bank::design();

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use core::f64::consts::TAU;

    use super::*;

    const AMPLITUDE: f64 = 30_000.0;

    fn pairs() -> impl Iterator<Item = (Rate, Rate)> {
        Rate::ALL.into_iter().flat_map(|from| Rate::ALL.into_iter().map(move |to| (from, to)))
    }

    fn tone(rate: Rate, hz: f64, seconds: f64) -> Vec<i16> {
        let len = (f64::from(rate.hz()) * seconds) as usize;
        (0..len).map(|i| (AMPLITUDE * (TAU * hz * i as f64 / f64::from(rate.hz())).sin()).round() as i16).collect()
    }

    fn resample(from: Rate, to: Rate, input: &[i16]) -> Vec<i16> {
        let mut resampler = Resampler::new(from, to);
        let mut output = vec![0; resampler.max_output(input.len())];
        let progress = resampler.process(input, &mut output);
        assert_eq!(progress, Progress { consumed: input.len(), produced: output.len() });
        output
    }

    /// The amplitude of a tone and its phase at the first sample (radians), by Goertzel's recurrence over whole periods.
    fn correlate(rate: Rate, samples: &[i16], hz: f64) -> (f64, f64) {
        let step = TAU * hz / f64::from(rate.hz());
        let (mut s1, mut s2) = (0.0, 0.0);
        for sample in samples {
            (s1, s2) = (f64::from(*sample) + 2.0 * step.cos() * s1 - s2, s1);
        }
        let (re, im) = (s1 * step.cos() - s2, s1 * step.sin());
        let scale = if hz == 0.0 || hz * 2.0 == f64::from(rate.hz()) { 1.0 } else { 2.0 };
        (scale * re.hypot(im) / samples.len() as f64, im.atan2(re))
    }

    /// 0.2 s of steady state: whole periods of every multiple of 5 Hz.
    fn steady(rate: Rate, samples: &[i16]) -> &[i16] {
        &samples[rate.samples(100)..rate.samples(300)]
    }

    fn level_db(amplitude: f64) -> f64 {
        20.0 * (amplitude / AMPLITUDE).max(1e-9).log10()
    }

    /// The level (dB of what went in) at which a tone comes out at `heard_hz`.
    fn response(from: Rate, to: Rate, hz: f64, heard_hz: f64) -> f64 {
        let output = resample(from, to, &tone(from, hz, 0.31));
        level_db(correlate(to, steady(to, &output), heard_hz).0)
    }

    #[test]
    fn speech_up_to_3400_hz_keeps_its_level() {
        for (from, to) in pairs() {
            for hz in [50.0, 300.0, 1000.0, 2000.0, 3000.0, 3300.0, 3400.0] {
                let db = response(from, to, hz, hz);
                assert!(db.abs() < 0.3, "{hz} Hz from {from} to {to} comes at {db:.2} dB");
            }
        }
    }

    #[test]
    fn going_up_leaves_every_image_of_the_band_edge_60_db_down() {
        for (from, to) in pairs().filter(|(from, to)| from < to) {
            let edge = 0.85 * f64::from(from.hz()) / 2.0;
            let (from_hz, nyquist) = (f64::from(from.hz()), f64::from(to.hz()) / 2.0);
            let images = (1..6).flat_map(|n| [n as f64 * from_hz - edge, n as f64 * from_hz + edge]);
            for image in images.filter(|hz| *hz <= nyquist) {
                let db = response(from, to, edge, image);
                assert!(db < -62.0, "{from} to {to} has an image at {image} Hz, {db:.1} dB");
            }
        }
    }

    #[test]
    fn going_down_leaves_nothing_60_db_down_that_could_fold_into_speech() {
        for (from, to) in pairs().filter(|(from, to)| from > to) {
            let (to_hz, nyquist) = (f64::from(to.hz()), f64::from(from.hz()) / 2.0);
            let mut hz = 1.15 * to_hz / 2.0;
            while hz < nyquist {
                let alias = (hz - (hz / to_hz).round() * to_hz).abs();
                let db = response(from, to, hz, alias);
                assert!(db < -62.0, "{from} to {to} folds {hz} Hz to {alias} Hz, {db:.1} dB");
                hz += 125.0;
            }
        }
    }

    #[test]
    fn a_tone_of_1_khz_comes_out_70_db_above_everything_else() {
        for (from, to) in pairs() {
            let output = resample(from, to, &tone(from, 1000.0, 0.31));
            let output = steady(to, &output);
            let (amplitude, _) = correlate(to, output, 1000.0);
            let signal = amplitude * amplitude / 2.0;
            let all = output.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / output.len() as f64;
            let snr = 10.0 * (signal / (all - signal)).log10();
            assert!(snr > 70.0, "{from} to {to}: {snr:.1} dB");
        }
    }

    #[test]
    fn the_delay_is_what_it_says_and_under_2_ms() {
        for (from, to) in pairs() {
            let resampler = Resampler::new(from, to);
            let input = tone(from, 100.0, 0.31);
            let output = resample(from, to, &input);
            let (_, phase_in) = correlate(from, steady(from, &input), 100.0);
            let (_, phase_out) = correlate(to, steady(to, &output), 100.0);
            let measured = (phase_in - phase_out).rem_euclid(TAU) / TAU / 100.0;
            let measured = if measured > 0.005 { measured - 0.01 } else { measured };
            assert!((measured - resampler.delay().as_secs_f64()).abs() < 5e-6, "{from} to {to}: {measured} s");
            assert!(resampler.delay() < Duration::from_micros(1500));
            assert_eq!(resampler.delay().is_zero(), from == to);
        }
    }

    #[test]
    fn the_same_samples_come_out_however_the_input_is_cut() {
        for (from, to) in pairs() {
            let input = tone(from, 987.0, 0.2);
            let whole = resample(from, to, &input);
            for sizes in [&[1][..], &[7, 1, 0, 320, 13], &[160], &[143, 144, 145], &[463, 464, 465, 3]] {
                let mut resampler = Resampler::new(from, to);
                let (mut rest, mut pieces) = (&input[..], Vec::new());
                for size in sizes.iter().cycle() {
                    let (piece, after) = rest.split_at(rest.len().min(*size));
                    let mut output = vec![0; resampler.max_output(piece.len())];
                    let progress = resampler.process(piece, &mut output);
                    assert_eq!(progress, Progress { consumed: piece.len(), produced: output.len() });
                    pieces.extend_from_slice(&output);
                    rest = after;
                    if rest.is_empty() {
                        break;
                    }
                }
                assert_eq!(pieces, whole, "{from} to {to} in pieces of {sizes:?}");
            }
        }
    }

    #[test]
    fn a_small_output_delays_samples_but_loses_none() {
        for (from, to) in pairs() {
            let input = tone(from, 987.0, 0.1);
            let whole = resample(from, to, &input);
            for room in [1, 5, 77] {
                let mut resampler = Resampler::new(from, to);
                let (mut rest, mut pieces) = (&input[..], Vec::new());
                loop {
                    let mut output = vec![0; room];
                    let promised = resampler.max_output(rest.len());
                    let Progress { consumed, produced } = resampler.process(rest, &mut output);
                    assert_eq!(produced, promised.min(room));
                    rest = &rest[consumed..];
                    pieces.extend_from_slice(&output[..produced]);
                    if produced == 0 {
                        break;
                    }
                }
                assert!(rest.is_empty());
                assert_eq!(pieces, whole, "{from} to {to} into rooms of {room}");
                assert_eq!(resampler.process(&input, &mut []).produced, 0);
            }
        }
    }

    #[test]
    fn a_second_is_a_second_and_a_frame_is_a_frame() {
        for (from, to) in pairs() {
            let mut resampler = Resampler::new(from, to);
            let mut output = vec![0; to.frame()];
            for _ in 0..50 {
                assert_eq!(resampler.max_output(from.frame()), to.frame());
                let progress = resampler.process(&vec![0; from.frame()], &mut output);
                assert_eq!(progress, Progress { consumed: from.frame(), produced: to.frame() });
            }
            let odd = resample(from, to, &vec![0; from.hz() as usize + 7]).len() as f64;
            let exact = (f64::from(from.hz()) + 7.0) * f64::from(to.hz()) / f64::from(from.hz());
            assert!((odd - exact).abs() < 1.0);
        }
    }

    #[test]
    fn a_constant_comes_out_unchanged_to_the_last_bit() {
        for (from, to) in pairs() {
            for value in [i16::MIN, -1, 1, 12_345, i16::MAX] {
                let output = resample(from, to, &vec![value; from.samples(40)]);
                assert!(output[to.samples(4)..].iter().all(|sample| *sample == value), "{value} from {from} to {to}");
            }
        }
    }

    #[test]
    fn a_full_scale_square_wave_is_clipped_and_never_wraps() {
        for (from, to) in pairs() {
            let half = from.samples(5);
            let square: Vec<i16> =
                (0..from.samples(200)).map(|i| if i / half % 2 == 0 { i16::MAX } else { i16::MIN }).collect();
            let output = resample(from, to, &square);
            let (delay, half) = (Resampler::new(from, to).delay().as_secs_f64(), half as f64 / f64::from(from.hz()));
            let mut clipped = 0;
            for (i, sample) in output.iter().enumerate() {
                let at = i as f64 / f64::from(to.hz()) - delay;
                if at < 0.001 || (at / half - (at / half).round()).abs() * half < 0.0002 {
                    continue; // on an edge
                }
                let high = ((at / half) as usize).is_multiple_of(2);
                assert!(if high { *sample > 28_000 } else { *sample < -28_000 }, "{from} to {to}: {sample} at {at} s");
                clipped += usize::from(*sample == i16::MIN || *sample == i16::MAX);
            }
            assert!(clipped > output.len() / 4, "the overshoot was not clipped from {from} to {to}");
        }
    }

    #[test]
    fn the_worst_input_there_is_does_not_overflow() {
        fn try_all<const T: usize, const L: usize>(bank: &Bank<T, L>) {
            for phase in 0..L {
                let worst = bank.taps[phase].map(|tap| if tap < 0 { i16::MIN } else { i16::MAX });
                // Sums in `filter` are checked in this build, so an overflow would panic.
                assert_eq!(bank.filter(phase, &worst), i16::MAX);
                assert_eq!(bank.filter(phase, &worst.map(|sample| !sample)), i16::MIN);
                assert_eq!(bank.taps[phase].iter().map(|tap| i32::from(*tap)).sum::<i32>(), 1 << bank.fraction);
            }
        }
        try_all(&UP_2);
        try_all(&UP_3);
        try_all(&UP_6);
        try_all(&DOWN_2);
        try_all(&DOWN_3);
        try_all(&DOWN_6);
        try_all(&DOWN_3_UP_2);
    }

    #[test]
    fn after_a_reset_nothing_of_the_last_call_is_heard() {
        for (from, to) in pairs() {
            let mut resampler = Resampler::new(from, to);
            let mut output = vec![0; to.samples(100)];
            resampler.process(&tone(from, 440.0, 0.05), &mut output[..3]);
            resampler.reset();
            assert_eq!(resampler.max_output(from.frame()), to.frame());
            let progress = resampler.process(&vec![0; from.frame()], &mut output);
            assert!(output[..progress.produced].iter().all(|sample| *sample == 0));
            assert_eq!((resampler.from(), resampler.to()), (from, to));
        }
    }
}
