//! Keeps the ring between a card and a line as full as it should be: by how much to bend the resampler beside it.
//!
//! A card takes or gives a whole period at once, on a clock of its own, so a ring's fill is a saw. Its mean over half
//! a second is what counts: every common period goes into that a whole number of times. A mean that rises or falls
//! tells how much faster one clock is.
//!
//! ```text
//!  fill, every 10 ms --> [ mean of 50 ] -- minus target --> * P ------+--> ppm --> Elastic::bend
//!                                                  `--> * I, summed --'
//!                              `-- far off, twice --> drop or insert at once
//! ```
//!
//! # The loop
//!
//! Bent by b (parts of one), a ring changes by b + d seconds a second, where d is what the clocks differ by: it is an
//! integrator. With b = -P e - I (sum of e) the error e follows s^2 + P s + I, and P = 2 / T, I = 1 / T^2 put both
//! poles at -1 / T: as fast as can be without swinging. T is [`TIME`], a minute.
//! - It is stable by a wide margin: a mean is old by half a second when it is acted upon, and at the loop's crossover
//!   (2.06 / T) that is 1 degree of phase of the 76 that there are.
//! - Clocks that differ by 300 ppm at once pull the ring off by d T / e at most, 6.6 ms, a minute later. After five it
//!   is back.
//! - A tick and a period that are almost in step beat: the tick sees the saw a little earlier every time, and the
//!   mean wanders by up to half a tick, 5 ms, within half a minute at 300 ppm. P makes 167 ppm of that, which leaves
//!   room under [`MAX_BEND`]. A shorter T would run into that limit again and again.

use crate::media::elastic::MAX_BEND;

/// Watches the ring of one direction.
///
/// It is the same for both: bent by more, the resampler behind a microphone takes less out of its ring for the samples
/// that it has to make, and the one before a speaker puts more into its ring. More ppm always fill the ring.
#[derive(Clone, Debug)]
pub struct Drift {
    /// Samples a second, on the card's side of the resampler.
    hz: f32,
    target: usize,
    /// What is being summed up.
    sum: u64,
    ticks: u32,
    state: State,
    /// The mean before (samples).
    mean: f32,
    /// The sum of the loop: what the clocks differ by, as far as is known.
    learned_ppm: f32,
    ppm: f32,
}

/// What a ring needs.
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub enum Correction {
    /// The resampler bent by this many ppm: for [`Elastic::bend`](crate::media::elastic::Elastic::bend).
    Bend(f32),
    /// So many samples fewer in the ring, now and not again: behind a microphone they are read and not used, before a
    /// speaker they are not written. A cross-fade hides the seam.
    Drop(usize),
    /// So many samples more in the ring, now and not again: behind a microphone something else is heard for so long
    /// and nothing is read, before a speaker so many more are written.
    Insert(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A stream starts: its first mean says nothing yet, the second is put right at once if it has to be.
    Starting {
        means: u8,
    },
    /// It was put right: the next mean is of before and after. It is never done twice in a row, so a ring whose mean
    /// has no rest is not cut to pieces.
    Mended,
    Steady,
    /// The last mean was too high, or too low, for bending.
    Astray,
}

impl Drift {
    /// For a ring of samples of this rate that shall hold `target` samples in the mean, as they are counted before
    /// every tick's reading or writing.
    ///
    /// Right for a target is half a period of the card, as much as its callbacks and our ticks are late at worst, and
    /// for a microphone the 10 ms that a tick reads: with so much a ring does not run dry. 8 ms more are needed while
    /// it learns what the clocks differ by.
    #[must_use]
    pub const fn new(hz: u32, target: usize) -> Self {
        Self {
            hz: hz as f32,
            target,
            sum: 0,
            ticks: 0,
            state: State::Starting { means: 0 },
            mean: target as f32,
            learned_ppm: 0.0,
            ppm: 0.0,
        }
    }

    /// Takes the ring's fill (samples) as it is before this tick's reading or writing, every 10 ms, and answers what it
    /// needs. [`Drop`](Correction::Drop) and [`Insert`](Correction::Insert) are said once and believed to be done.
    pub fn update(&mut self, fill: usize) -> Correction {
        self.sum += fill as u64;
        self.ticks += 1;
        if self.ticks < TICKS {
            return Correction::Bend(self.ppm);
        }
        self.mean = self.sum as f32 / TICKS as f32;
        (self.sum, self.ticks) = (0, 0);
        let error = (self.mean - self.target as f32) / self.hz;
        match self.state {
            State::Starting { means: 0 } => self.state = State::Starting { means: 1 },
            State::Starting { .. } if error.abs() > SETTLED => return self.mend(),
            State::Astray if self.is_astray(error) => return self.mend(),
            State::Mended => self.state = State::Steady,
            State::Starting { .. } | State::Steady | State::Astray => {
                self.state = if self.is_astray(error) { State::Astray } else { State::Steady };
                self.steer(error);
            }
        }
        Correction::Bend(self.ppm)
    }

    /// The ring ran dry or over, or its stream was opened again: how full it was says nothing any more. It is looked at
    /// anew within a second and put right at once, since whoever listens has heard a break already. What is known of
    /// the clocks stays. Said again meanwhile, it changes nothing.
    pub const fn settle(&mut self) {
        if !matches!(self.state, State::Starting { .. }) {
            (self.sum, self.ticks, self.state) = (0, 0, State::Starting { means: 0 });
            self.ppm = self.learned_ppm;
        }
    }

    /// By how much the resampler is bent now.
    #[must_use]
    pub const fn ppm(&self) -> f32 {
        self.ppm
    }

    /// How full the ring was in the last half second, in the mean (samples).
    #[must_use]
    pub const fn fill(&self) -> usize {
        self.mean as usize
    }

    /// How full the ring shall be (samples).
    #[must_use]
    pub const fn target(&self) -> usize {
        self.target
    }

    /// One step of the loop.
    fn steer(&mut self, error: f32) {
        let step_ppm = -error * MILLION * STEP / (TIME * TIME);
        let wanted = self.learned_ppm - error * MILLION * 2.0 / TIME;
        // At its limit the loop learns nothing that would push it further: the sum would have to be unlearned later.
        if wanted.abs() < MAX_BEND || (wanted > 0.0) != (step_ppm > 0.0) {
            self.learned_ppm = (self.learned_ppm + step_ppm).clamp(-MAX_BEND, MAX_BEND);
        }
        self.ppm = wanted.clamp(-MAX_BEND, MAX_BEND);
    }

    fn is_astray(&self, error: f32) -> bool {
        let low = LOW * self.target as f32 / self.hz;
        error > HIGH || error < -low.min(HIGH)
    }

    /// Everything at once.
    fn mend(&mut self) -> Correction {
        let mean = (self.mean + 0.5) as usize;
        (self.state, self.ppm) = (State::Mended, self.learned_ppm);
        if mean > self.target { Correction::Drop(mean - self.target) } else { Correction::Insert(self.target - mean) }
    }
}

/// The loop's time (seconds).
const TIME: f32 = 60.0;

/// Ticks of 10 ms under one mean, a multiple of the 20, 25, 50 and 100 ms of common periods; and the same in seconds.
const TICKS: u32 = 50;
const STEP: f32 = 0.5;

/// A ring that is fuller than it should be by more is mended at once (seconds): to bend it back would take two
/// minutes or more, and so long everything would be heard late.
const HIGH: f32 = 0.06;

/// The same for a ring that is less full, in parts of its target: with a third left, a late callback finds it dry.
const LOW: f32 = 0.67;

/// How far off a stream may be that starts (seconds): nobody has heard it yet, so it is put right at once.
const SETTLED: f32 = 0.005;

const MILLION: f32 = 1e6;

#[cfg(test)]
mod tests {
    use core::f64::consts::TAU;
    use std::collections::VecDeque;

    use super::*;
    use crate::media::{
        elastic::{Elastic, Stride},
        resample::Progress,
    };

    const LINE_HZ: u32 = 16_000;
    const CARD_HZ: u32 = 48_000;
    const TICK: f64 = 0.01;
    /// How late a tick is at worst.
    const TICK_LATE: f64 = 0.002;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Way {
        /// The card writes, the line reads.
        Microphone,
        /// The line writes, the card reads.
        Speaker,
    }

    /// A card by its own clock.
    struct Card {
        hz: f64,
        period: usize,
        late: f64,
        callbacks: u64,
        due: f64,
        stopped: f64,
        seed: u64,
    }

    impl Card {
        fn new(hz: u32, ppm: f64, period: usize, late: f64) -> Self {
            let mut this = Self {
                hz: f64::from(hz) * (1.0 + ppm * 1e-6),
                period,
                late,
                callbacks: 0,
                due: 0.0,
                stopped: 0.0,
                seed: 7,
            };
            this.go_on();
            this
        }

        /// From 0 to 1.
        fn chance(&mut self) -> f64 {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.seed >> 40) as f64 / f64::from(1 << 24)
        }

        fn go_on(&mut self) {
            self.callbacks += 1;
            let late = self.late * self.chance();
            // Callbacks are late, but never out of order.
            let on_time = self.callbacks as f64 * self.period as f64 / self.hz + self.stopped;
            self.due = self.due.max(on_time + late);
        }

        /// Whether it calls back until then; come again.
        fn calls_back(&mut self, until: f64) -> bool {
            let calls = self.due <= until;
            if calls {
                self.go_on();
            }
            calls
        }
    }

    /// What a ring is to hold, as [`Drift::new`] says.
    fn target(way: Way, hz: u32, period: usize, late: f64) -> usize {
        let tick = if way == Way::Microphone { 0.01 } else { 0.0 };
        period / 2 + ((tick + late + TICK_LATE + 0.008) * f64::from(hz)) as usize
    }

    /// A ring between a card and a line, in samples that nobody made.
    struct Scene {
        way: Way,
        card: Card,
        drift: Drift,
        stride: Stride,
        ring: usize,
        ticks: u64,
        /// Samples not to be read (of an insertion), or not to be written (of a drop).
        withheld: usize,
        dry: usize,
        mended: Vec<(f64, Correction)>,
        /// The fills of the last second.
        fills: VecDeque<usize>,
        fill_sum: usize,
        largest_ppm: f32,
        /// The largest distance of a second's mean from the target (ms).
        farthest: f64,
    }

    impl Scene {
        fn new(way: Way, ppm: f64, period: usize, late: f64) -> Self {
            let (from, to) = if way == Way::Microphone { (CARD_HZ, LINE_HZ) } else { (LINE_HZ, CARD_HZ) };
            Self {
                way,
                card: Card::new(CARD_HZ, ppm, period, late),
                drift: Drift::new(CARD_HZ, target(way, CARD_HZ, period, late)),
                stride: Stride::new(from, to),
                ring: 0,
                ticks: 0,
                withheld: 0,
                dry: 0,
                mended: Vec::new(),
                fills: VecDeque::new(),
                fill_sum: 0,
                largest_ppm: 0.0,
                farthest: 0.0,
            }
        }

        fn now(&self) -> f64 {
            self.ticks as f64 * TICK
        }

        fn tick(&mut self) {
            self.ticks += 1;
            let now = self.now() + TICK_LATE * self.card.chance();
            while self.card.calls_back(now) {
                match self.way {
                    Way::Microphone => self.ring += self.card.period,
                    Way::Speaker => self.take(self.card.period),
                }
            }

            self.fills.push_back(self.ring);
            self.fill_sum += self.ring;
            if self.fills.len() > 100 {
                self.fill_sum -= self.fills.pop_front().unwrap_or(0);
            }
            let mean = self.fill_sum as f64 / self.fills.len() as f64;
            let off_ms = (mean - self.drift.target() as f64) * 1000.0 / f64::from(CARD_HZ);
            self.farthest = self.farthest.max(off_ms.abs());

            match self.drift.update(self.ring) {
                Correction::Bend(ppm) => {
                    self.stride.bend(ppm);
                    self.largest_ppm = self.largest_ppm.max(ppm.abs());
                }
                correction => {
                    self.mended.push((self.now(), correction));
                    match (correction, self.way) {
                        (Correction::Drop(samples), Way::Microphone) => self.take(samples),
                        (Correction::Insert(samples), Way::Speaker) => self.ring += samples,
                        (Correction::Drop(samples) | Correction::Insert(samples), _) => self.withheld += samples,
                        (Correction::Bend(_), _) => unreachable!(),
                    }
                }
            }

            let line = LINE_HZ as usize / 100;
            let samples = match self.way {
                Way::Microphone => self.stride.pass(line),
                Way::Speaker => {
                    let outputs = self.stride.outputs(line);
                    assert_eq!(self.stride.pass(outputs), line);
                    outputs
                }
            };
            let withheld = samples.min(self.withheld);
            self.withheld -= withheld;
            match self.way {
                Way::Microphone => self.take(samples - withheld),
                Way::Speaker => self.ring += samples - withheld,
            }
        }

        fn take(&mut self, samples: usize) {
            if self.ring < samples {
                self.dry += 1;
                self.drift.settle();
            }
            self.ring = self.ring.saturating_sub(samples);
        }

        fn run(&mut self, seconds: f64) {
            let until = self.now() + seconds;
            while self.now() < until {
                self.tick();
            }
        }

        /// What was seen so far is of no interest.
        fn forget(&mut self) {
            (self.dry, self.farthest, self.largest_ppm) = (0, 0.0, 0.0);
            self.mended.clear();
        }
    }

    #[test]
    fn for_an_hour_every_ring_stays_within_20_ms_whatever_the_clocks_differ_by() {
        for way in [Way::Microphone, Way::Speaker] {
            for ppm in [300.0, -300.0, 100.0, 0.0] {
                for (period, late) in [(960, 0.0), (213, 0.0), (960, 0.008), (240, 0.003)] {
                    let mut scene = Scene::new(way, ppm, period, late);
                    scene.run(10.0);
                    scene.forget();
                    scene.run(3590.0);
                    let named = format!("{way:?} at {ppm} ppm, period {period}, {late} s late");
                    assert!(scene.farthest < 20.0, "{named}: {:.1} ms off", scene.farthest);
                    assert_eq!((scene.dry, scene.mended.len()), (0, 0), "{named}");
                    assert!(scene.largest_ppm <= MAX_BEND, "{named}: {}", scene.largest_ppm);
                    // It knows the clocks by now. A fast microphone is read faster: less is made of the same.
                    let known = if way == Way::Microphone { -ppm } else { ppm };
                    let learned = f64::from(scene.drift.learned_ppm);
                    assert!((learned - known).abs() < 10.0, "{named}: learned {learned} ppm");
                }
            }
        }
    }

    #[test]
    fn a_card_that_stops_for_100_ms_and_goes_on_is_right_again_within_3_s() {
        for way in [Way::Microphone, Way::Speaker] {
            for (period, late) in [(960, 0.0), (213, 0.003)] {
                let mut scene = Scene::new(way, -100.0, period, late);
                scene.run(900.0);
                let learned = scene.drift.learned_ppm;
                scene.forget();
                scene.card.stopped += 0.1;
                scene.card.due += 0.1;
                scene.run(3.0);
                // One seam, of what is missing or too much; before a speaker that is all that was not played.
                let [(_, correction)] = scene.mended[..] else { panic!("{way:?}: {:?}", scene.mended) };
                match (way, correction) {
                    (Way::Speaker, Correction::Drop(samples)) => assert!(samples.abs_diff(4800) < 720, "{samples}"),
                    (Way::Microphone, Correction::Insert(samples)) => assert!(samples < scene.drift.target()),
                    _ => panic!("{way:?}: {correction:?}"),
                }
                scene.run(1.0);
                scene.forget();
                scene.run(300.0);
                assert!(scene.farthest < 20.0, "{way:?}: {} ms off", scene.farthest);
                assert_eq!((scene.dry, scene.mended.len()), (0, 0), "{way:?}");
                assert!((scene.drift.learned_ppm - learned).abs() < 50.0, "the clocks are still the same");
            }
        }
    }

    #[test]
    fn a_tone_through_ring_and_resampler_has_no_step_whatever_the_loop_does() {
        let (card_hz, line_hz) = (16_000, 8_000);
        let (period, late, hz, amplitude) = (320, 0.008, 440.0, 12_000.0);
        for (way, ppm) in [(Way::Microphone, 300.0), (Way::Speaker, 300.0), (Way::Microphone, -300.0)] {
            let mut card = Card::new(card_hz, ppm, period, late);
            let target = target(way, card_hz, period, late);
            let mut drift = Drift::new(card_hz, target);
            let (from, to) = if way == Way::Microphone { (card_hz, line_hz) } else { (line_hz, card_hz) };
            let mut elastic = Elastic::new(from, to);
            let mut ring = VecDeque::from(vec![0_i16; target]);
            let mut heard = Vec::new();
            let mut said = (0..).map(|n| (amplitude * f64::sin(TAU * hz * f64::from(n) / f64::from(from))) as i16);
            let (mut input, mut output) = ([0; 320], [0; 200]);
            for tick in 1..=12_000 {
                while card.calls_back(f64::from(tick) * TICK) {
                    match way {
                        Way::Microphone => ring.extend(said.by_ref().take(period)),
                        Way::Speaker => heard.extend(ring.drain(..period)),
                    }
                }
                match drift.update(ring.len()) {
                    Correction::Bend(ppm) => elastic.bend(ppm),
                    correction => panic!("{correction:?}"),
                }
                match way {
                    Way::Microphone => {
                        let input = &mut input[..ring.len().min(320)];
                        input.iter_mut().zip(&ring).for_each(|(slot, sample)| *slot = *sample);
                        let Progress { consumed, produced } = elastic.process(input, &mut output[..80]);
                        assert_eq!(produced, 80);
                        ring.drain(..consumed);
                        heard.extend(&output[..80]);
                    }
                    Way::Speaker => {
                        input[..80].fill_with(|| said.next().unwrap_or(0));
                        let Progress { consumed, produced } = elastic.process(&input[..80], &mut output);
                        assert_eq!(consumed, 80);
                        ring.extend(&output[..produced]);
                    }
                }
            }
            assert!(drift.ppm().abs() > 200.0, "it was bent");
            let heard = &heard[to as usize..];
            let step = heard.windows(2).map(|pair| (i32::from(pair[1]) - i32::from(pair[0])).abs()).max();
            let sine = amplitude * TAU * hz / f64::from(to);
            assert!(step.is_some_and(|step| f64::from(step) < sine * 1.02), "{way:?} {ppm}: {step:?} for {sine}");
        }
    }

    /// Half a second of the same fill, and what the last of it asks for.
    fn half_second(drift: &mut Drift, fill: usize) -> Correction {
        for _ in 1..TICKS {
            assert!(matches!(drift.update(fill), Correction::Bend(_)));
        }
        drift.update(fill)
    }

    #[test]
    fn a_stream_that_starts_is_put_right_once_and_at_once() {
        for (fill, correction) in [(1000, Correction::Insert(440)), (2000, Correction::Drop(560))] {
            let mut drift = Drift::new(48_000, 1440);
            assert_eq!(half_second(&mut drift, 0), Correction::Bend(0.0));
            assert_eq!(half_second(&mut drift, fill), correction);
            // As if it could not be done to the sample.
            assert_eq!(half_second(&mut drift, fill), Correction::Bend(0.0));
            assert!(matches!(half_second(&mut drift, 1800), Correction::Bend(ppm) if ppm < 0.0));
            assert_eq!(drift.fill(), 1800);

            drift.settle();
            assert!(matches!(half_second(&mut drift, fill), Correction::Bend(_)));
            assert_eq!(half_second(&mut drift, fill), correction);
        }
    }

    #[test]
    fn one_bad_half_second_is_bent_away_and_two_are_mended() {
        for (bad, correction) in [(1440 + 3000, Correction::Drop(3000)), (400, Correction::Insert(1040))] {
            let mut drift = Drift::new(48_000, 1440);
            for fill in [1440, 1440, bad, 1440, bad] {
                assert!(matches!(half_second(&mut drift, fill), Correction::Bend(_)), "{fill}");
            }
            assert_eq!(half_second(&mut drift, bad), correction);
        }
    }

    #[test]
    fn a_full_ring_is_bent_to_be_emptied_and_never_by_more_than_500_ppm() {
        let mut drift = Drift::new(48_000, 1440);
        for fill in [1440, 1440, 1920] {
            let _ = half_second(&mut drift, fill);
        }
        // 10 ms too much: 2 / 60 of it a second, and a little learned.
        assert!((drift.ppm() + 333.3).abs() < 5.0, "{}", drift.ppm());
        for _ in 0..100 {
            let _ = half_second(&mut drift, 4000);
        }
        assert_eq!(drift.ppm(), -500.0);
        // It has not learned what it could not do: back at its target the ring is left alone soon.
        assert!(drift.learned_ppm > -20.0, "{}", drift.learned_ppm);
    }
}
