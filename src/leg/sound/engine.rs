//! What is done to sound between a card and a call. Pure: samples and ticks in, samples out.
//!
//! ```text
//!  heard --> Elastic (bent) --> 10 ms --> canceller or gate --> silence under a tone --> the call, and the detector
//!  to_play <-- Elastic (bent) <-- canceller's reference <-- tone in place of --- the call's frames, or silence
//! ```
//!
//! Whatever the microphone's callback left is taken on the next tick, so that it waits 5 ms on average, and the rate is
//! bent so that as much leaves as our clock wants. The speaker's ring is kept at one period and a margin, because the
//! next callback may come at once and take a whole one.

use crate::{
    leg::sound::{
        duplex::HalfDuplex,
        tones::{Player, Tone, Tones},
    },
    media::{
        Now, Rate,
        drift::{Correction, Drift},
        elastic::Elastic,
        level::level_dbov,
        vad::{Change, Vad},
    },
};

/// What an engine is made of.
pub struct EngineSetup {
    /// The rate of the line.
    pub rate: Rate,
    /// What is done about the speaker beside the microphone.
    pub echo: EchoPath,
    /// What the person in the room hears beside the agent.
    pub tones: Tones,
    /// Somebody wants to know when speech begins.
    pub wants_speech: bool,
}

/// What is done about the speaker beside the microphone.
pub enum EchoPath {
    /// Nothing.
    Open,
    /// While the agent speaks the microphone is silent.
    HalfDuplex(HalfDuplex),
    /// The agent is taken out of what the microphone hears.
    #[cfg(feature = "aec")]
    Cancelled(Box<crate::leg::sound::echo::Canceller>),
}

/// The sound of one line.
pub struct Engine {
    rate: Rate,
    ear: Option<Ear>,
    mouth: Option<Mouth>,
    echo: EchoPath,
    player: Player,
    detector: Option<Box<Vad>>,
    /// When the speaker was last fed by the call.
    fed_at: Now,
    /// When a tone was last heard from it.
    toned_at: Option<Now>,
    /// When the caller was last heard to speak, and the agent.
    spoke: Lives,
}

/// When the two sides were last heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lives {
    /// The caller, where somebody wants to know.
    pub caller: Option<Now>,
    /// The agent.
    pub agent: Option<Now>,
}

/// What the drift of a card needs of us (ppm), and how often that was not enough.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bends {
    /// Of the microphone.
    pub input_ppm: f32,
    /// Of the speaker.
    pub output_ppm: f32,
    /// Times that sound was left out or silence put in, because a card stood still or ran away.
    pub jumps: u64,
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
    /// Samples that are to be left out, as soon as nobody speaks.
    surplus: usize,
    /// The mean fill that was looked at last.
    seen: usize,
    /// Ticks until a card has more than begun: before, what it does counts for nothing.
    settling: u32,
    jumps: u64,
}

impl Engine {
    /// An engine without a card.
    #[must_use]
    pub fn new(setup: EngineSetup) -> Self {
        let EngineSetup { rate, echo, tones, wants_speech } = setup;
        Self {
            rate,
            ear: None,
            mouth: None,
            echo,
            player: Player::new(tones),
            detector: wants_speech.then(|| Box::new(Vad::new(rate, HANG_OVER))),
            fed_at: Now::ZERO,
            toned_at: None,
            spoke: Lives::default(),
        }
    }

    /// A card is there: its rings, the rates of its two sides, and how much sound a callback of the speaker takes.
    pub fn set_card(&mut self, input: (rtrb::Consumer<i16>, u32), output: (rtrb::Producer<i16>, u32), period: usize) {
        self.ear = Some(Ear::new(input.0, input.1, self.rate));
        self.mouth = Some(Mouth::new(output.0, output.1, self.rate, period));
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

    /// How far the card's clock is from ours.
    #[must_use]
    pub fn bends(&self) -> Bends {
        Bends {
            input_ppm: self.ear.as_ref().map_or(0.0, |ear| ear.drift.ppm()),
            output_ppm: self.mouth.as_ref().map_or(0.0, |mouth| mouth.drift.ppm()),
            jumps: self.ear.as_ref().map_or(0, |ear| ear.jumps) + self.mouth.as_ref().map_or(0, |mouth| mouth.jumps),
        }
    }

    /// 10 ms went by: gives what the microphone heard, in pieces of 10 ms; without a card, silence. Says whether speech
    /// began.
    pub fn hear(&mut self, now: Now, mut give: impl FnMut(&[i16])) -> bool {
        let mut began = false;
        let piece = self.rate.samples(PIECE_MS);
        let muted = self.toned_at.is_some_and(|at| now.saturating_sub(at) < TAIL);
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
        self.mouth.as_ref().is_some_and(Mouth::has_room)
    }

    /// The call's next frame is to be played.
    pub fn say(&mut self, now: Now, frame: &[i16]) {
        self.fed_at = now;
        if level_dbov(frame) > AUDIBLE_DBOV {
            self.spoke.agent = Some(now);
        }
        let mut samples = [0; crate::media::frame::MAX_SAMPLES];
        let samples = &mut samples[..frame.len()];
        samples.copy_from_slice(frame);
        self.feed(now, samples);
    }

    /// So many times 10 ms went by: keeps the speaker fed where no call does, and its clock in sight.
    pub fn keep_playing(&mut self, now: Now, ticks: u64) {
        // Before it is written to: so its fill is meant.
        if let Some(mouth) = &mut self.mouth {
            mouth.steer();
        }
        if now.saturating_sub(self.fed_at) > UNFED {
            for _ in 0..ticks.min(MOST_TICKS) {
                if !self.has_room() {
                    break;
                }
                let mut silence = [0; MAX_PIECE];
                let piece = self.rate.samples(PIECE_MS);
                self.feed(now, &mut silence[..piece]);
            }
        }
    }

    fn feed(&mut self, now: Now, samples: &mut [i16]) {
        for piece in samples.chunks_mut(self.rate.samples(PIECE_MS)) {
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
    fn new(ring: rtrb::Producer<i16>, hz: u32, rate: Rate, period: usize) -> Self {
        let target = period + (hz as usize * MARGIN_MS / 1000);
        let mut this = Self {
            ring,
            elastic: Elastic::new(rate.hz(), hz),
            drift: Drift::new(hz, target),
            surplus: 0,
            seen: target,
            settling: SETTLES_MS as u32 / 10,
            jumps: 0,
        };
        this.fill_up(target);
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
        self.waiting() < self.drift.target() + self.elastic.to_hz() as usize * MOST_BEYOND_MS / 1000
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

    fn steer(&mut self) {
        self.settling = self.settling.saturating_sub(1);
        let waiting = self.waiting();
        if waiting == 0 {
            // It has run dry, so whoever listens has heard a gap: now there is time again.
            self.fill_up(self.drift.target());
            self.drift.settle();
            self.count_jump();
            return;
        }
        match self.drift.update(waiting) {
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
/// What the speaker's ring has beyond a period: late ticks.
const MARGIN_MS: usize = 8;
/// How much more than it should a speaker's ring may hold.
const MOST_BEYOND_MS: usize = 20;
/// From so much on it is left out of a pause.
const BEYOND_MS: usize = 6;
/// Ticks that are made up for at once.
const MOST_TICKS: u64 = 5;
/// No frame of a call for so long: there is none, or nothing to be played.
const UNFED: Now = Now::from_millis(30);
/// How long a tone is still on its way to the microphone, by the card and the room.
const TAIL: Now = Now::from_millis(200);
/// From here on a frame is audible.
const AUDIBLE_DBOV: i8 = -50;
const QUIET_DBOV: i8 = -50;
/// Pauses between words are shorter.
const HANG_OVER: Now = Now::from_millis(500);
