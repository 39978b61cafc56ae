//! When the agent's audio is played: cushion, utterances, fades, and delay given back.
//!
//! One call of [`Playout::frame`] on every tick of a call fills one frame, always. What the queue cannot give is silence.
//!
//! ```text
//!            first samples            cushion over, frame there
//!   Dry ------------------> Waiting -----------------------------> Playing
//!    ^                                                                |
//!    +------- no whole frame left: the rest is played, padded --------+
//! ```

use crate::media::{
    clock::{Now, PTIME},
    debt::Debt,
    frame::{MAX_SAMPLES, Rate},
    level::{Quiet, SILENCE_DBOV, fade_out, level_dbov},
    overlap,
    pool::{Account, Pool},
    ring::Ring,
};

/// The queue that is played, with what it needs to be read.
pub struct Queue<'q> {
    /// The downlink ring.
    pub ring: &'q mut Ring,
    /// Its thread's blocks.
    pub pool: &'q mut Pool,
    /// Its call's right to them.
    pub account: &'q mut Account,
}

impl Queue<'_> {
    fn pop(&mut self, out: &mut [i16]) -> usize {
        self.ring.pop(self.pool, self.account, out)
    }

    fn skip(&mut self, count: usize) -> usize {
        self.ring.skip(self.pool, self.account, count)
    }

    fn peek(&self, out: &mut [i16]) -> usize {
        self.ring.peek(self.pool, out)
    }
}

/// What one call's playout met, in events or samples as the glossary has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// Frames given to the line.
    pub frames: u64,
    /// Samples of the agent that were given to the line.
    pub heard: u64,
    /// The ring ran dry and more of the same utterance came within 200 ms (events).
    pub underruns: u64,
    /// A frame left its tick more than 5 ms after it was due (events).
    pub late: u64,
    /// Frames that were never made because their tick had passed.
    pub missed: u64,
    /// Samples thrown away by clear, barge-in or hang-up.
    pub flushed: u64,
    /// Samples removed to give delay back.
    pub repaid: u64,
}

/// One tick of a call.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    /// When the frame is made.
    pub now: Now,
    /// How long ago it was due.
    pub late: Now,
    /// Frames of this call whose ticks passed without being served, before this one.
    pub missed: usize,
}

/// The playout of one call's downlink.
pub struct Playout {
    rate: Rate,
    state: State,
    /// How long an utterance's first samples wait at least.
    cushion: Now,
    least_cushion: Now,
    last_trouble: Now,
    last_arrival: Now,
    debt: Debt,
    levels: Quiet,
    last_level: i8,
    /// The loudest frame since somebody asked (dBov).
    loudest: i8,
    /// What may still be left out of loud frames at no more than 25 % faster (samples).
    haste: usize,
    /// The fading rest of what a clear cut off.
    fade: heapless::Vec<i16, MAX_FADE>,
    fill_before: usize,
    /// The last frame held the agent's voice.
    voiced: bool,
    round_trip: Now,
    weather: Weather,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing to play since then; `None`: nothing ever, or a clear ended it.
    Dry { since: Option<Now> },
    /// The first samples came then and wait for the cushion.
    Waiting { since: Now },
    /// Frames are played.
    Playing,
}

impl Playout {
    /// A playout at this rate with this least cushion.
    #[must_use]
    pub fn new(rate: Rate, cushion: Now) -> Self {
        Self {
            rate,
            state: State::Dry { since: None },
            cushion,
            least_cushion: cushion,
            last_trouble: Now::ZERO,
            last_arrival: Now::ZERO,
            debt: Debt::new(rate),
            levels: Quiet::new(),
            last_level: 0,
            loudest: SILENCE_DBOV,
            haste: 0,
            fade: heapless::Vec::new(),
            fill_before: 0,
            voiced: false,
            round_trip: Now::ZERO,
            weather: Weather::default(),
        }
    }

    /// The rate of the frames.
    #[must_use]
    pub const fn rate(&self) -> Rate {
        self.rate
    }

    /// What was met so far.
    #[must_use]
    pub const fn weather(&self) -> Weather {
        self.weather
    }

    /// The cushion as it is now.
    #[must_use]
    pub const fn cushion(&self) -> Now {
        self.cushion
    }

    /// The loudest frame of the agent since this was last asked (dBov).
    pub const fn take_loudest(&mut self) -> i8 {
        core::mem::replace(&mut self.loudest, SILENCE_DBOV)
    }

    /// The trunk's last ping time.
    pub const fn set_round_trip(&mut self, round_trip: Now) {
        self.round_trip = round_trip;
    }

    /// The frames have another rate from now on. Nothing may be queued.
    pub const fn set_rate(&mut self, rate: Rate) {
        self.rate = rate;
        self.debt = Debt::new(rate);
        self.fill_before = 0;
    }

    /// The call is over: so many samples that waited, and a fade that had not begun, will never be heard.
    pub fn count_flushed(&mut self, samples: usize) {
        self.weather.flushed += (samples + self.fade.len()) as u64;
        self.fade.clear();
    }

    /// Frames that were never made, found out when the call is over.
    pub const fn count_missed(&mut self, frames: usize) {
        self.weather.missed += frames as u64;
    }

    /// Whether there is nothing of the agent to be heard.
    #[must_use]
    pub fn is_dry(&self) -> bool {
        matches!(self.state, State::Dry { .. }) && self.fade.is_empty()
    }

    /// Samples were published.
    pub fn on_arrival(&mut self, now: Now, samples: usize) {
        if samples == 0 {
            return;
        }
        self.debt.on_arrival(now, samples);
        self.last_arrival = now;
        if let State::Dry { since } = self.state {
            match since {
                Some(since) if now.saturating_sub(since) < SAME_UTTERANCE => {
                    self.weather.underruns += 1;
                    self.cushion = (self.cushion + CUSHION_STEP).min(CUSHION_MOST).max(self.least_cushion);
                    self.last_trouble = now;
                    self.debt.on_underrun();
                }
                _ => self.debt.on_utterance(now),
            }
            self.state = State::Waiting { since: now };
        }
    }

    /// Flushes the queue; what is being heard fades out in 5 ms. Says how many samples were flushed.
    pub fn clear(&mut self, queue: &mut Queue<'_>) -> usize {
        if self.state == State::Playing {
            let mut tail = [0; MAX_FADE];
            let n = queue.pop(&mut tail[..self.rate.samples(FADE_MS)]);
            fade_out(&mut tail[..n]);
            self.fade.clear();
            // Fits: both are MAX_FADE long.
            let _ = self.fade.extend_from_slice(&tail[..n]);
        }
        let flushed = queue.ring.clear(queue.pool, queue.account);
        self.weather.flushed += flushed as u64;
        self.state = State::Dry { since: None };
        flushed
    }

    /// Fills one frame. Returns how many of its samples are the agent's.
    pub fn frame(&mut self, tick: Tick, queue: &mut Queue<'_>, out: &mut [i16]) -> usize {
        let now = tick.now;
        if self.weather.frames > 0 {
            self.weather.late += u64::from(tick.late > LATE);
            if tick.missed > 0 {
                self.weather.missed += tick.missed as u64;
                // While nobody spoke nothing was delayed.
                if self.voiced {
                    let missed = tick.missed * self.rate.frame();
                    self.debt.on_missed(now, missed, self.fill_before, self.cushion_samples(), self.round_trip);
                }
            }
        }
        self.weather.frames += 1;
        if self.cushion > self.least_cushion && now.saturating_sub(self.last_trouble) > CALM {
            self.cushion = self.cushion.saturating_sub(CUSHION_STEP).max(self.least_cushion);
            self.last_trouble = now;
        }

        let heard = self.play(now, queue, out);
        out[heard..].fill(0);
        self.fill_before = queue.ring.len();
        self.voiced = heard > 0;
        self.weather.heard += heard as u64;
        heard
    }

    fn play(&mut self, now: Now, queue: &mut Queue<'_>, out: &mut [i16]) -> usize {
        if !self.fade.is_empty() {
            let n = self.fade.len().min(out.len());
            out[..n].copy_from_slice(&self.fade[..n]);
            self.fade.clear();
            return n;
        }
        let frame = out.len();
        let fill = queue.ring.len();
        if let State::Waiting { since } = self.state {
            let whole = fill >= frame || now.saturating_sub(self.last_arrival) >= PTIME;
            if whole && now.saturating_sub(since) >= self.cushion {
                self.state = State::Playing;
            }
        }
        if self.state != State::Playing {
            return 0;
        }
        if fill < frame {
            self.state = State::Dry { since: Some(now) };
            self.haste = 0;
            self.debt.owed(now, 0, self.cushion_samples());
            return queue.pop(out);
        }
        self.repay(now, queue, out);
        self.last_level = level_dbov(out);
        self.levels.push(self.last_level);
        self.loudest = self.loudest.max(self.last_level);
        frame
    }

    /// Fills a whole frame and leaves out what is owed, as far as this frame allows it.
    fn repay(&mut self, now: Now, queue: &mut Queue<'_>, out: &mut [i16]) {
        let frame = out.len();
        let owed = self.debt.owed(now, queue.ring.len() - frame, self.cushion_samples());
        if owed.quiet == 0 {
            self.haste = 0;
            queue.pop(out);
            return;
        }
        let left_out = self.leave_out_quiet_frame(owed.quiet, queue, out);
        let left_out = if left_out > 0 { left_out } else { self.leave_out_period(owed.any, queue, out) };
        queue.skip(frame + left_out);
        self.debt.on_repaid(left_out);
        self.weather.repaid += left_out as u64;
    }

    /// A quiet frame between quiet neighbours is left out whole.
    fn leave_out_quiet_frame(&self, owed: usize, queue: &Queue<'_>, out: &mut [i16]) -> usize {
        let frame = out.len();
        if owed < frame || !self.levels.is_low(self.last_level) {
            return 0;
        }
        let mut ahead = [0; 2 * MAX_SAMPLES];
        let ahead = &mut ahead[..2 * frame];
        if queue.peek(ahead) < 2 * frame || !ahead.chunks(frame).all(|frame| self.levels.is_low(level_dbov(frame))) {
            return 0;
        }
        overlap::splice(&ahead[..frame], &ahead[frame..], self.rate.samples(FADE_MS), out);
        frame
    }

    /// One pitch period is left out of any frame, at most 25 % faster on average. Fills `out` in any case.
    fn leave_out_period(&mut self, owed: usize, queue: &Queue<'_>, out: &mut [i16]) -> usize {
        let frame = out.len();
        let mut ahead = [0; overlap::MAX_WANTED];
        let n = queue.peek(&mut ahead[..overlap::wanted(self.rate)]);
        self.haste = if owed == 0 { 0 } else { (self.haste + frame / 4).min(frame) };
        // A deep voice's period is longer than one frame's share: wait until any period may be chosen.
        let limit = if self.haste >= overlap::longest(self.rate) { owed } else { 0 };
        let left_out = overlap::shorten(self.rate, &ahead[..n], limit, out);
        self.haste -= left_out;
        left_out
    }

    fn cushion_samples(&self) -> usize {
        self.rate.samples(self.cushion.as_millis() as usize)
    }
}

/// An utterance ends when the ring was dry for so long.
const SAME_UTTERANCE: Now = Now::from_millis(200);
/// A frame that leaves its tick later than this is late.
const LATE: Now = Now::from_millis(5);
/// What an underrun adds to the cushion, and calm takes away.
const CUSHION_STEP: Now = Now::from_millis(10);
const CUSHION_MOST: Now = Now::from_millis(60);
/// So long without an underrun the cushion falls by a step.
const CALM: Now = Now::from_secs(30);
/// How long a cut utterance fades.
const FADE_MS: usize = 5;
const MAX_FADE: usize = Rate::Hz48000.samples(FADE_MS);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::media::pool::tests::pool;

    /// A call's downlink in virtual time: frames are played every 20 ms from 0 on.
    struct Bench {
        pool: Pool,
        account: Account,
        ring: Ring,
        playout: Playout,
        now_ms: u64,
        heard: Vec<i16>,
        line: Vec<i16>,
    }

    impl Bench {
        fn new() -> Self {
            let mut pool = pool(1500);
            let account = pool.open(0, 1500).unwrap();
            let playout = Playout::new(Rate::Hz8000, Now::from_millis(10));
            Self { pool, account, ring: Ring::new(usize::MAX), playout, now_ms: 0, heard: vec![], line: vec![] }
        }

        fn arrive(&mut self, samples: &[i16]) {
            self.ring.push(&mut self.pool, &mut self.account, samples).unwrap();
            self.playout.on_arrival(Now::from_millis(self.now_ms), samples.len());
        }

        fn clear(&mut self) -> usize {
            self.playout.clear(&mut Queue { ring: &mut self.ring, pool: &mut self.pool, account: &mut self.account })
        }

        /// One tick, after so many missed ones; gives the number of the agent's samples in the frame.
        fn tick(&mut self, missed: usize) -> usize {
            self.now_ms += 20 * (missed as u64 + 1);
            let tick = Tick { now: Now::from_millis(self.now_ms), late: Now::from_millis(20 * missed as u64), missed };
            let mut out = [7; 160];
            let mut queue = Queue { ring: &mut self.ring, pool: &mut self.pool, account: &mut self.account };
            let n = self.playout.frame(tick, &mut queue, &mut out);
            self.heard.extend(&out[..n]);
            self.line.extend(out);
            n
        }
    }

    fn speech(from: usize, n: usize) -> Vec<i16> {
        (from..from + n).map(|i| ((i * 37) % 9000) as i16 - 4000).collect()
    }

    fn music(from: usize, n: usize) -> Vec<i16> {
        let wave = |i: usize, hz: f64| f64::sin(i as f64 * hz * core::f64::consts::TAU / 8000.0) * 6000.0;
        (from..from + n).map(|i| (wave(i, 220.0) + wave(i, 277.2) + wave(i, 329.6) * 0.5) as i16).collect()
    }

    #[test]
    fn a_burst_is_played_once_in_order_and_without_a_gap() {
        let mut bench = Bench::new();
        bench.arrive(&speech(0, 80_000));
        let frames: Vec<_> = (0..520).map(|_| bench.tick(0)).collect();
        assert_eq!(bench.heard, speech(0, 80_000));
        assert!(frames[..500].iter().all(|&n| n == 160), "the first frame leaves on the first tick after the cushion");
        assert_eq!(bench.playout.weather().underruns, 0);
    }

    #[test]
    fn the_rest_of_an_utterance_is_played_and_padded() {
        let mut bench = Bench::new();
        bench.arrive(&speech(0, 200));
        assert_eq!((bench.tick(0), bench.tick(0), bench.tick(0)), (160, 40, 0));
        assert_eq!(bench.line[200..], [0; 280]);
    }

    #[test]
    fn half_a_frame_waits_for_its_other_half() {
        let mut bench = Bench::new();
        bench.now_ms = 5;
        bench.arrive(&speech(0, 80));
        bench.now_ms = 0;
        assert_eq!(bench.tick(0), 0);
        bench.now_ms = 25;
        bench.arrive(&speech(80, 80));
        bench.now_ms = 20;
        assert_eq!(bench.tick(0), 160);
    }

    #[test]
    fn an_underrun_makes_the_cushion_grow_and_calm_makes_it_fall() {
        let mut bench = Bench::new();
        bench.arrive(&speech(0, 160));
        for _ in 0..5 {
            bench.tick(0);
        }
        bench.arrive(&speech(160, 160));
        assert_eq!(bench.playout.weather().underruns, 1);
        assert_eq!(bench.playout.cushion(), Now::from_millis(20));
        for _ in 0..1600 {
            bench.tick(0);
        }
        assert_eq!(bench.playout.cushion(), Now::from_millis(10));
        bench.arrive(&speech(0, 160));
        assert_eq!(bench.playout.weather().underruns, 1, "a new utterance is no underrun");
    }

    #[test]
    fn a_clear_silences_the_line_within_one_frame_and_fades() {
        let mut bench = Bench::new();
        bench.arrive(&[12_000; 80_000]);
        for _ in 0..10 {
            bench.tick(0);
        }
        let before = bench.line.len();
        assert_eq!(bench.clear(), 80_000 - 10 * 160 - 40);
        assert_eq!((bench.tick(0), bench.tick(0)), (40, 0));
        let after = &bench.line[before..];
        assert!(after[..40].windows(2).all(|pair| pair[1] <= pair[0]), "it only gets quieter");
        assert!(after[39] < 400);
        assert_eq!(after[40..], [0; 280]);
    }

    #[test]
    fn what_was_flushed_before_it_was_heard_is_not_faded_in() {
        let mut bench = Bench::new();
        bench.arrive(&[12_000; 800]);
        assert_eq!(bench.clear(), 800);
        assert_eq!(bench.tick(0), 0);
    }

    /// An echo that is live until the process stops for 500 ms: then 500 ms arrive at once and it goes on live.
    fn stalled_echo(signal: fn(usize, usize) -> Vec<i16>) -> (Bench, Vec<usize>) {
        let mut bench = Bench::new();
        let mut at = 0;
        let mut fills = vec![];
        for i in 0..400 {
            let frames = if i == 100 { 26 } else { 1 };
            let missed = if i == 100 { 25 } else { 0 };
            bench.tick(missed);
            fills.push(bench.ring.len());
            bench.arrive(&signal(at, 160 * frames));
            at += 160 * frames;
        }
        (bench, fills)
    }

    #[test]
    fn a_stall_of_a_live_stream_is_repaid_within_three_seconds() {
        for signal in [speech, music] {
            let (bench, fills) = stalled_echo(signal);
            assert!(fills[102] > 3500, "{fills:?}");
            assert!(fills[250] <= fills[99] + 160, "before {}, 3 s after {}", fills[99], fills[250]);
            assert_eq!(bench.playout.weather().missed, 25);
            assert!(bench.playout.weather().repaid >= 3700);
        }
    }

    #[test]
    fn repaying_does_not_click() {
        let (bench, _) = stalled_echo(music);
        let step =
            |samples: &[i16]| samples.windows(2).map(|w| (i32::from(w[1]) - i32::from(w[0])).abs()).max().unwrap_or(0);
        let played = &bench.line[160 * 110..160 * 300];
        assert!(step(played) <= step(&music(0, 8000)) * 3, "{} {}", step(played), step(&music(0, 8000)));
    }

    #[test]
    fn a_stall_while_nobody_speaks_costs_no_sample_of_the_next_utterance() {
        let mut bench = Bench::new();
        for i in 0..100 {
            bench.tick(if i == 90 { 25 } else { 0 });
        }
        bench.arrive(&speech(0, 80_000));
        for _ in 0..520 {
            bench.tick(0);
        }
        assert_eq!(bench.heard, speech(0, 80_000));
    }

    #[test]
    fn a_stall_during_a_burst_costs_no_sample() {
        let mut bench = Bench::new();
        bench.arrive(&speech(0, 80_000));
        for i in 0..520 {
            bench.tick(if i == 100 { 25 } else { 0 });
        }
        assert_eq!(bench.heard, speech(0, 80_000));
        assert_eq!(bench.playout.weather().repaid, 0);
    }
}
