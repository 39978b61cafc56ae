//! What is done to sound between a card and a call. Pure: samples and ticks in, samples out.
//!
//! ```text
//!  heard --> Elastic (bent) --> 10 ms --> canceller or gate --> silence under a tone --> the call, and the detector
//!  to_play <-- Elastic (bent) <-- canceller's reference <-- tone in place of --- the call's frames, or silence
//! ```
//!
//! Whatever the microphone's callback left is taken on the next tick, so that it waits 5 ms on average, and the rate is
//! bent so that as much leaves as our clock wants. The speaker's ring gets 10 ms on each tick. Its callback takes a
//! whole period at once, so how full it is says little; what counts is what would be left if it were taken sample by
//! sample since the last callback, and that is kept at a margin for callbacks that come early and ticks that come late.

use crate::{
    config::Echo,
    leg::sound::{
        duplex::HalfDuplex,
        tones::{Player, Tone, Tones},
    },
    media::{
        Now, Rate,
        drift::{Correction, Drift},
        elastic::Elastic,
        frame::MAX_SAMPLES,
        level::level_dbov,
        vad::{Change, Vad},
    },
};

/// What an engine is made of.
pub struct EngineSetup {
    /// The rate of the line.
    pub rate: Rate,
    /// What is done about the speaker beside the microphone.
    pub echo: Echo,
    /// What the person in the room hears beside the agent.
    pub tones: Tones,
    /// Somebody wants to know when speech begins.
    pub wants_speech: bool,
}

/// What is done about the speaker beside the microphone, at work.
enum EchoPath {
    Open,
    HalfDuplex(HalfDuplex),
    #[cfg(feature = "aec")]
    Cancelled(Box<crate::leg::sound::echo::Canceller>),
}

impl EchoPath {
    fn new(echo: Echo, rate: Rate) -> Self {
        match echo {
            Echo::HalfDuplex => Self::HalfDuplex(HalfDuplex::new(rate)),
            #[cfg(feature = "aec")]
            Echo::Cancel => Self::Cancelled(Box::new(crate::leg::sound::echo::Canceller::new(rate))),
            #[cfg(not(feature = "aec"))]
            Echo::Cancel => Self::Open, // never: the config refuses it
            Echo::Nothing => Self::Open,
        }
    }
}

/// The sound of one line.
pub struct Engine {
    rate: Rate,
    ear: Option<Ear>,
    mouth: Option<Mouth>,
    echo: EchoPath,
    player: Player,
    detector: Option<Box<Vad>>,
    /// What the call has said and the speaker has not got yet.
    pending: Pending,
    /// When the speaker was last fed by the call.
    fed_at: Now,
    /// How long what it gets is under way to the microphone.
    tail: Now,
    /// When a tone was last heard from it.
    toned_at: Option<Now>,
    /// When the caller was last heard to speak, and the agent.
    spoke: Lives,
}

/// Two frames at the highest rate.
type Pending = heapless::Deque<i16, { 2 * MAX_SAMPLES }>;

/// When the two sides were last heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lives {
    /// The caller, where somebody wants to know.
    pub caller: Option<Now>,
    /// The agent.
    pub agent: Option<Now>,
}

/// The microphone's side.
struct Ear {
    ring: rtrb::Consumer<i16>,
    elastic: Elastic,
    drift: Drift,
    /// 10 ms in the making.
    piece: [i16; MAX_PIECE],
    len: usize,
    /// Samples made since `since`, at the line's rate.
    made: u64,
    since: Option<Now>,
    /// What of that no clock explains.
    left_out: i64,
    /// Until so many were made a card has only begun, and what it does counts for nothing.
    settled: u64,
    jumps: u64,
}

/// The speaker's side.
struct Mouth {
    ring: rtrb::Producer<i16>,
    elastic: Elastic,
    drift: Drift,
    /// Samples that a callback takes.
    period: usize,
    /// Samples that are to be left out, as soon as nobody speaks.
    surplus: usize,
    /// The mean fill that was looked at last.
    seen: usize,
    /// Ticks until a card has more than begun: before, what it does counts for nothing.
    settling: u32,
    jumps: u64,
}

impl Engine {
    /// An engine without a card. It stays on the thread that made it.
    #[must_use]
    pub fn new(setup: EngineSetup) -> Self {
        let EngineSetup { rate, echo, tones, wants_speech } = setup;
        Self {
            rate,
            ear: None,
            mouth: None,
            echo: EchoPath::new(echo, rate),
            player: Player::new(tones),
            detector: wants_speech.then(|| Box::new(Vad::new(rate, HANG_OVER))),
            pending: Pending::new(),
            fed_at: Now::ZERO,
            tail: TAIL,
            toned_at: None,
            spoke: Lives::default(),
        }
    }

    /// A card is there: its rings, the rates of its two sides, how much sound a callback of the speaker takes, and how much
    /// earlier than it should one may come.
    pub fn set_card(
        &mut self,
        input: (rtrb::Consumer<i16>, u32),
        output: (rtrb::Producer<i16>, u32),
        period: usize,
        early: Now,
    ) {
        // Its ring, its own two periods, and the microphone's.
        let period_ms = period as u32 * 1000 / output.1.max(1);
        self.tail = TAIL + Now::from_millis(u64::from(4 * period_ms));
        if let EchoPath::HalfDuplex(gate) = &mut self.echo {
            gate.set_hang_over(self.tail.as_millis() as u32);
        }
        self.ear = Some(Ear::new(input.0, input.1, self.rate));
        self.mouth = Some(Mouth::new(output.0, output.1, self.rate, period, early));
    }

    /// The card is gone.
    pub fn drop_card(&mut self) {
        (self.ear, self.mouth) = (None, None);
    }

    /// A tone, in place of whatever plays.
    pub fn play(&mut self, tone: Tone) {
        self.player.start(tone);
    }

    /// No more tones.
    pub fn hush(&mut self) {
        self.player.stop();
    }

    /// When both sides were last heard.
    #[must_use]
    pub const fn lives(&self) -> Lives {
        self.spoke
    }

    /// Times that sound was left out or silence put in, because a card stood still or ran away.
    #[must_use]
    pub fn jumps(&self) -> u64 {
        self.ear.as_ref().map_or(0, |ear| ear.jumps) + self.mouth.as_ref().map_or(0, |mouth| mouth.jumps)
    }

    /// 10 ms went by: gives what the microphone heard, in pieces of 10 ms; without a card, silence. Says whether speech
    /// began.
    pub fn hear(&mut self, now: Now, mut give: impl FnMut(&[i16])) -> bool {
        let mut began = false;
        let piece = self.rate.samples(PIECE_MS);
        let muted = self.toned_at.is_some_and(|at| now.saturating_sub(at) < self.tail);
        let Some(ear) = &mut self.ear else {
            give(&[0; MAX_PIECE][..piece]);
            return false;
        };
        ear.take(now, self.rate, |samples| {
            match &mut self.echo {
                EchoPath::Open => {}
                EchoPath::HalfDuplex(gate) => gate.gate(samples),
                #[cfg(feature = "aec")]
                EchoPath::Cancelled(canceller) => canceller.clean(samples),
            }
            if muted {
                // The card's echo of a tone is nothing to be heard.
                samples.fill(0);
            }
            if let Some(detector) = &mut self.detector {
                began |= detector.push(samples) == Some(Change::Started);
                if detector.is_speech() {
                    self.spoke.caller = Some(now);
                }
            }
            give(samples);
        });
        began
    }

    /// Whether the speaker has room for the call's next frame. A card that stands still leaves what the agent says where
    /// it is, and the delay is the call's to give back.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.pending.len() <= self.rate.frame() && self.mouth.as_ref().is_some_and(Mouth::has_room)
    }

    /// The call's next frame is to be played.
    pub fn say(&mut self, now: Now, frame: &[i16]) {
        self.fed_at = now;
        if level_dbov(frame) > AUDIBLE_DBOV {
            self.spoke.agent = Some(now);
        }
        // There is room for what was asked for; more is nobody's.
        let room = self.pending.capacity() - self.pending.len();
        self.pending.extend(frame.iter().copied().take(room));
    }

    /// So many times 10 ms went by: keeps the speaker fed where no call does, and its clock in sight. `played_at` is when
    /// its callback was last there.
    pub fn keep_playing(&mut self, now: Now, ticks: u64, played_at: Now) {
        // Before it is written to: so its fill is meant.
        if let Some(mouth) = &mut self.mouth {
            mouth.steer(now.saturating_sub(played_at));
        }
        let piece = self.rate.samples(PIECE_MS);
        let is_fed = now.saturating_sub(self.fed_at) <= UNFED;
        // More than a frame waits where the one before it came late.
        let behind = self.pending.len().saturating_sub(self.rate.frame()) / piece;
        for _ in 0..ticks.min(MOST_TICKS) as usize + behind {
            let has_room = self.mouth.as_ref().is_some_and(Mouth::has_room);
            if self.pending.len() < piece && (is_fed || !has_room) {
                break;
            }
            let mut samples = [0; MAX_PIECE];
            for sample in &mut samples[..piece] {
                *sample = self.pending.pop_front().unwrap_or(0);
            }
            self.feed(now, &mut samples[..piece]);
        }
    }

    fn feed(&mut self, now: Now, piece: &mut [i16]) {
        if self.player.fill(piece) {
            self.toned_at = Some(now);
        }
        match &mut self.echo {
            EchoPath::Open => {}
            EchoPath::HalfDuplex(gate) => gate.played(piece),
            #[cfg(feature = "aec")]
            EchoPath::Cancelled(canceller) => canceller.played(piece),
        }
        if let Some(mouth) = &mut self.mouth {
            mouth.feed(piece);
        }
    }
}

impl Ear {
    fn new(ring: rtrb::Consumer<i16>, hz: u32, rate: Rate) -> Self {
        Self {
            ring,
            elastic: Elastic::new(hz, rate.hz()),
            drift: Drift::new(rate.hz(), rate.samples(SIGHT_MS)),
            piece: [0; MAX_PIECE],
            len: 0,
            made: 0,
            since: None,
            left_out: 0,
            settled: rate.samples(SETTLES_MS) as u64,
            jumps: 0,
        }
    }

    fn jump(&mut self, samples: i64) {
        self.left_out += samples;
        self.jumps += u64::from(self.made > self.settled);
    }

    /// Takes all that is there, and gives what it makes in pieces of 10 ms.
    fn take(&mut self, now: Now, rate: Rate, mut give: impl FnMut(&mut [i16])) {
        let piece = rate.samples(PIECE_MS);
        let mut samples = [0; TAKEN];
        loop {
            let (taken, _) = self.ring.pop_partial_slice(&mut samples);
            if taken.is_empty() {
                break;
            }
            let mut rest: &[i16] = taken;
            loop {
                let progress = self.elastic.process(rest, &mut self.piece[self.len..piece]);
                rest = &rest[progress.consumed..];
                self.len += progress.produced;
                self.made += progress.produced as u64;
                if self.len < piece {
                    break;
                }
                self.len = 0;
                give(&mut self.piece[..piece]);
            }
        }
        self.steer(now, rate);
    }

    /// More than our clock wants is a ring that fills: as if the samples waited in one that is emptied by our clock.
    fn steer(&mut self, now: Now, rate: Rate) {
        let target = rate.samples(SIGHT_MS);
        if self.made == 0 {
            return;
        }
        let since = *self.since.get_or_insert(now);
        let elapsed = now.saturating_sub(since);
        let wanted = (elapsed.as_nanos() * u128::from(rate.hz()) / 1_000_000_000) as i64;
        let ahead = self.made as i64 - self.left_out - wanted;
        match self.drift.update((target as i64 + ahead).max(0) as usize) {
            Correction::Bend(ppm) => self.elastic.bend(ppm),
            // It stood still, or gave what it had kept. That is no clock's doing: it is left out of the count, and
            // the caller's words come as they come.
            Correction::Drop(samples) => self.jump(samples as i64),
            Correction::Insert(samples) => self.jump(-(samples as i64)),
        }
    }
}

impl Mouth {
    fn new(ring: rtrb::Producer<i16>, hz: u32, rate: Rate, period: usize, early: Now) -> Self {
        let target = hz as usize * (MARGIN_MS + early.as_millis() as usize) / 1000;
        let mut this = Self {
            ring,
            elastic: Elastic::new(rate.hz(), hz),
            drift: Drift::new(hz, target),
            period,
            surplus: 0,
            seen: target,
            settling: SETTLES_MS as u32 / 10,
            jumps: 0,
        };
        this.fill_up(period + target);
        this
    }

    fn fill_up(&mut self, samples: usize) {
        let silence = [0; TAKEN];
        let mut left = samples;
        while left > 0 {
            let (pushed, _) = self.ring.push_partial_slice(&silence[..left.min(TAKEN)]);
            if pushed.is_empty() {
                return;
            }
            left -= pushed.len();
        }
    }

    fn waiting(&self) -> usize {
        self.ring.buffer().capacity() - self.ring.slots()
    }

    fn has_room(&self) -> bool {
        self.waiting() < self.period + self.drift.target() + self.elastic.to_hz() as usize * MOST_BEYOND_MS / 1000
    }

    fn feed(&mut self, samples: &[i16]) {
        if self.surplus > 0 && level_dbov(samples) < QUIET_DBOV {
            // 10 ms of near silence: nobody hears that they are missing.
            self.surplus = self.surplus.saturating_sub(self.elastic.max_output(samples.len()));
            return;
        }
        let mut made = [0; TAKEN];
        let mut rest = samples;
        loop {
            let progress = self.elastic.process(rest, &mut made);
            rest = &rest[progress.consumed..];
            // There is room: it holds half a second, and gets nothing when it has so much less.
            let _ = self.ring.push_partial_slice(&made[..progress.produced]);
            if rest.is_empty() && progress.produced < made.len() {
                return;
            }
        }
    }

    fn count_jump(&mut self) {
        self.jumps += u64::from(self.settling == 0);
    }

    fn steer(&mut self, since: Now) {
        self.settling = self.settling.saturating_sub(1);
        let waiting = self.waiting();
        if waiting == 0 {
            // It has run dry, so whoever listens has heard a gap: now there is time again.
            self.fill_up(self.period + self.drift.target());
            self.drift.settle();
            self.count_jump();
            return;
        }
        let taken = (since.as_micros() as u64 * u64::from(self.elastic.to_hz()) / 1_000_000) as usize;
        match self.drift.update(waiting.saturating_sub(taken.min(self.period))) {
            Correction::Bend(ppm) => {
                self.elastic.bend(ppm);
                let (mean, target) = (self.drift.fill(), self.drift.target());
                // Each mean is looked at once. To bend so much back would take minutes.
                if mean != self.seen && mean > target + self.elastic.to_hz() as usize * BEYOND_MS / 1000 {
                    self.surplus = mean - target;
                }
                self.seen = mean;
            }
            Correction::Drop(samples) => {
                self.surplus = samples;
                self.count_jump();
            }
            Correction::Insert(samples) => {
                self.fill_up(samples);
                self.count_jump();
            }
        }
    }
}

/// What the engine works on at a time.
const PIECE_MS: usize = 10;
const MAX_PIECE: usize = 480;
/// Samples that are taken from a ring, or put into it, at a time.
const TAKEN: usize = 1024;
/// What stands for the middle of the microphone's ring: as far as a clock can be off before it jumps.
const SIGHT_MS: usize = 100;
/// How long a card that was opened is given until it runs as it should. PulseAudio takes up to 2 s.
const SETTLES_MS: usize = 4000;
/// What the speaker's ring has beyond what a callback takes: ticks that are 2 ms late, and 8 ms while it is learned how far
/// the clocks are apart ([`Drift::new`]).
const MARGIN_MS: usize = 10;
/// How much more than it should a speaker's ring may hold before the call waits: far more than is left out of pauses.
const MOST_BEYOND_MS: usize = 60;
/// From so much on it is left out of a pause: 10 ms at a time, so less would swing around the target.
const BEYOND_MS: usize = 15;
/// Ticks that are made up for.
const MOST_TICKS: u64 = 5;
/// No frame of a call for so long: there is none, or nothing to be played.
const UNFED: Now = Now::from_millis(30);
/// How long the room echoes what it hears.
const TAIL: Now = Now::from_millis(200);
/// From here on a frame is audible.
const AUDIBLE_DBOV: i8 = -50;
const QUIET_DBOV: i8 = -50;
/// Pauses between words are shorter.
const HANG_OVER: Now = Now::from_millis(500);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use core::f64::consts::TAU;

    use super::*;

    /// A card in virtual time, whose clock is off by some ppm, and whose callbacks bring and take a period at once.
    struct Card {
        hear: rtrb::Producer<i16>,
        play: rtrb::Consumer<i16>,
        hz: u32,
        ppm: f64,
        period: usize,
        callbacks: u64,
        played_at: Now,
        /// What the microphone has heard so far (samples).
        heard: u64,
        played: Vec<i16>,
        starved: usize,
    }

    impl Card {
        fn plug(engine: &mut Engine, hz: u32, ppm: f64, period: usize) -> Self {
            let (hear, heard) = rtrb::RingBuffer::new(hz as usize / 2);
            let (to_play, play) = rtrb::RingBuffer::new(hz as usize / 2);
            engine.set_card((heard, hz), (to_play, hz), period, Now::ZERO);
            Self {
                hear,
                play,
                hz,
                ppm,
                period,
                callbacks: 0,
                played_at: Now::ZERO,
                heard: 0,
                played: Vec::new(),
                starved: 0,
            }
        }

        /// Runs the callbacks that are due until `now`, with this microphone.
        fn run(&mut self, now: Now, mut microphone: impl FnMut(u64) -> i16) {
            let hz = f64::from(self.hz) * (1.0 + self.ppm * 1e-6);
            loop {
                let due = (self.callbacks + 1) as f64 * self.period as f64 / hz;
                if due > now.as_secs_f64() {
                    return;
                }
                self.callbacks += 1;
                self.played_at = Now::from_secs_f64(due);
                for _ in 0..self.period {
                    let _ = self.hear.push(microphone(self.heard));
                    self.heard += 1;
                    let sample = self.play.pop();
                    self.starved += usize::from(sample.is_err());
                    self.played.push(sample.unwrap_or(0));
                }
            }
        }
    }

    fn engine(rate: Rate, echo: Echo) -> Engine {
        let tones = Tones::open(&Default::default(), rate).unwrap();
        Engine::new(EngineSetup { rate, echo, tones, wants_speech: false })
    }

    fn tone(n: u64, hz: u32) -> i16 {
        (8_000.0 * (TAU * 440.0 * n as f64 / f64::from(hz)).sin()) as i16
    }

    /// A call that echoes: what is heard is said again in frames of 20 ms, on every second tick.
    #[derive(Default)]
    struct Mirror {
        heard: Vec<i16>,
        said: usize,
    }

    impl Mirror {
        fn tick(&mut self, engine: &mut Engine, now: Now, number: u64, played_at: Now) {
            engine.hear(now, |samples| self.heard.extend_from_slice(samples));
            let frame = engine.rate.frame();
            if number.is_multiple_of(2) && engine.has_room() {
                let said = self.heard.get(self.said..self.said + frame).map_or(vec![0; frame], <[i16]>::to_vec);
                self.said += usize::from(self.heard.len() >= self.said + frame) * frame;
                engine.say(now, &said);
            }
            engine.keep_playing(now, 1, played_at);
        }
    }

    /// Runs for so many seconds; gives the card and the call.
    fn run(engine: &mut Engine, card: &mut Card, seconds: u64, microphone: impl Fn(u64) -> i16) -> Mirror {
        let mut mirror = Mirror::default();
        for number in 1..=seconds * 100 {
            let now = Now::from_millis(number * 10);
            card.run(now, &microphone);
            mirror.tick(engine, now, number, card.played_at);
        }
        mirror
    }

    #[test]
    fn whatever_a_card_is_like_its_call_gets_what_our_clock_wants_and_its_speaker_never_runs_dry() {
        for (hz, period) in [(48_000, 960), (44_100, 441), (8_000, 107), (96_000, 2048), (16_000, 213)] {
            for ppm in [-300.0, 0.0, 300.0] {
                let mut engine = engine(Rate::Hz16000, Echo::Nothing);
                let mut card = Card::plug(&mut engine, hz, ppm, period);
                let early = run(&mut engine, &mut card, 10, |_| 0).heard.len();
                card.starved = 0;
                let heard = 60 * 16_000;
                let mut mirror = Mirror::default();
                for number in 1001..=7000 {
                    let now = Now::from_millis(number * 10);
                    card.run(now, |n| tone(n, hz));
                    mirror.tick(&mut engine, now, number, card.played_at);
                }
                let off = mirror.heard.len().abs_diff(heard);
                // A clock that is off by 300 ppm would be 288 samples off by then; a period more or less is the card's.
                assert!(off <= 16_000 * period / hz as usize + 170, "{off} of {heard} at {hz} {ppm} ({early})");
                assert_eq!(card.starved, 0, "at {hz} {ppm}");
                let (ear, mouth) = (engine.ear.as_ref().unwrap(), engine.mouth.as_ref().unwrap());
                assert!(ear.drift.ppm().abs() <= 500.0 && mouth.drift.ppm().abs() <= 500.0);
                assert_eq!(engine.jumps(), 0, "at {hz} {ppm}");
            }
        }
    }

    #[test]
    fn a_tone_goes_in_and_comes_out_without_a_step() {
        let mut engine = engine(Rate::Hz16000, Echo::Nothing);
        let mut card = Card::plug(&mut engine, 48_000, 200.0, 960);
        run(&mut engine, &mut card, 20, |n| tone(n, 48_000));
        let out = &card.played[10 * 48_000..];
        let largest = out.windows(2).map(|pair| pair[1].abs_diff(pair[0])).max().unwrap();
        let own = (8_000.0 * TAU * 440.0 / 48_000.0) as u16;
        assert!(largest < own * 3 / 2, "{largest} against {own}");
        assert!(level_dbov(out) >= -16, "{}", level_dbov(out));
    }

    #[test]
    fn a_card_that_stands_still_leaves_the_agents_speech_in_the_call_and_loses_none() {
        let mut engine = engine(Rate::Hz16000, Echo::Nothing);
        let mut card = Card::plug(&mut engine, 48_000, 0.0, 960);
        run(&mut engine, &mut card, 5, |_| 0);
        let mut taken = 0;
        for number in 501..600_u64 {
            let now = Now::from_millis(number * 10);
            if engine.has_room() {
                engine.say(now, &[1000; 320]);
                taken += 1;
            }
            engine.keep_playing(now, 1, card.played_at);
        }
        assert!((1..=6).contains(&taken), "{taken} frames were taken");
    }

    #[test]
    fn without_a_card_the_call_hears_silence() {
        let mut engine = engine(Rate::Hz8000, Echo::Nothing);
        let mut heard = Vec::new();
        for number in 1..=10 {
            engine.hear(Now::from_millis(number * 10), |samples| heard.extend_from_slice(samples));
        }
        assert_eq!(heard, vec![0; 800]);
        assert!(!engine.has_room());
    }

    #[test]
    fn a_tone_is_played_in_place_of_the_agent_and_the_microphone_does_not_hear_it() {
        let mut engine = engine(Rate::Hz16000, Echo::Nothing);
        let mut card = Card::plug(&mut engine, 16_000, 0.0, 320);
        run(&mut engine, &mut card, 3, |n| tone(n, 16_000));
        engine.play(Tone::Lost);
        let mut heard = Vec::new();
        for number in 301..330 {
            let now = Now::from_millis(number * 10);
            card.run(now, |n| tone(n, 16_000));
            engine.hear(now, |samples| heard.push((number, level_dbov(samples))));
            engine.keep_playing(now, 1, card.played_at);
        }
        let toned = &card.played[card.played.len() - 16_000 / 5..];
        assert!(level_dbov(toned) > -40, "{}", level_dbov(toned));
        assert!(heard.iter().skip(8).all(|(_, level)| *level == crate::media::level::SILENCE_DBOV), "{heard:?}");
    }

    #[test]
    fn half_duplex_shuts_the_microphone_while_the_agent_is_heard() {
        let rate = Rate::Hz16000;
        let mut engine = engine(rate, Echo::HalfDuplex);
        let mut card = Card::plug(&mut engine, 16_000, 0.0, 320);
        let mut levels = Vec::new();
        for number in 1..400 {
            let now = Now::from_millis(number * 10);
            card.run(now, |n| tone(n, 16_000));
            engine.hear(now, |samples| levels.push((number, level_dbov(samples))));
            if number % 2 == 0 {
                let level = if (200..300).contains(&number) { 5_000 } else { 0 };
                engine.say(now, &[level; 320]);
            }
            engine.keep_playing(now, 1, card.played_at);
        }
        let of = |from: u64, to: u64| levels.iter().filter(move |(number, _)| (from..to).contains(number));
        assert!(of(100, 195).all(|(_, level)| *level > -30));
        assert!(of(210, 300).all(|(_, level)| *level < -100));
        assert!(of(350, 399).all(|(_, level)| *level > -30));
    }
}
