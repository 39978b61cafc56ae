//! The bridge of one call: what one leg hears, the other says. Pure: samples, messages and `now` in, frames and messages
//! out. The shell owns the sockets and the clock, and tells what became of them.

use crate::{
    call::{
        EndReason,
        attention::{Attention, BargeIn, Heard},
        counting,
        overheard::{Frames, Overheard},
        state::{Event, State},
        tap::{Happening, MarkName},
        turns::Turns,
        websocket_line::{LineEar, LineNews, LineSetup, WebsocketLine},
        wishes::{WishFigures, Wishes},
    },
    dialect::{self, Direction, MarksOnClear, Say, Speaker, StopReason, Transfer, Wish},
    leg::websocket::leg::{Flow, Leg, MAX_CHUNK, Over, Sink, Tally},
    media::{
        Now, Rate,
        frame::MAX_SAMPLES,
        histogram::Histogram,
        level::{SILENCE_DBOV, level_dbov},
        marks::Marks,
        pacer::Pacer,
        playout::{Playout, Queue, Tick, Weather},
        pool::{Account, BLOCK, Full, Pool},
        resample::Resampler,
        ring::Ring,
    },
};

/// What the config says about every call.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest that agent's speech may wait (s).
    pub downlink_seconds: usize,
    /// Beyond this much backlog the oldest of the caller's speech is skipped, once bridged (ms).
    pub uplink_max_ms: usize,
    /// The least cushion.
    pub cushion: Now,
}

impl Limits {
    /// Blocks that a call at this rate always has: two seconds, one to begin each of its three queues in, and two
    /// that the samples of its downlink leave to the others.
    #[must_use]
    pub const fn reserve(rate: Rate) -> usize {
        rate.samples(RESERVED_MS).div_ceil(BLOCK) + 3 + SPARE_BLOCKS
    }

    /// Blocks that a call at this rate may have at most.
    #[must_use]
    pub const fn most(&self, rate: Rate) -> usize {
        let audio = rate.samples(self.downlink_seconds * 1000).div_ceil(BLOCK);
        // 100 marks a second, of 23 words with a UUID for a name, are 0.3 times the samples of 8 kHz.
        audio + audio.div_ceil(3) + rate.samples(UPLINK_MS).div_ceil(BLOCK) + Self::reserve(rate)
    }
}

/// What the uplink met, in samples at the line's rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UplinkTally {
    /// Frames that the line sent.
    pub frames: u64,
    /// Samples that the line sent.
    pub samples: u64,
    /// Samples handed to the trunk.
    pub sent: u64,
    /// Samples skipped because the trunk is slow.
    pub dropped: u64,
    /// Digits.
    pub digits: u64,
}

/// How long things took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delays {
    /// From the moment a frame was read from the line to the moment the message that holds it was handed to the kernel.
    pub uplink: Histogram,
    /// How long after it was due a frame left for the line; frames that never left count as late as the one after them.
    pub playout: Histogram,
    /// From the caller's last word to the agent's first: the response delay of each turn.
    pub response: Histogram,
}

/// The bridge.
pub struct Bridge {
    state: State,
    limits: Limits,
    account: Account,
    uplink: Uplink,
    downlink: Downlink,
    direction: Direction,
    attention: Attention,
    barge_in: BargeIn,
    line_rate: Rate,
    /// The line's leg, where it is a WebSocket.
    line: Option<Box<WebsocketLine>>,
    trunk: Option<Leg>,
    /// Keys that were pressed before there was a trunk to be told.
    early_digits: heapless::Vec<u8, 16>,
    /// What the trunks before this one met.
    past: Tally,
    /// Whether another connection to the trunk is wanted.
    redial: Redial,
    /// Since when the trunk has its connection, and when we stop trying to replace one after another.
    connected: Now,
    reconnect_until: Now,
    /// There is no trunk, and there will be none: others listen.
    trunkless: bool,
    /// Its connection is of no more use.
    trunk_gone: bool,
    /// When our stop was said.
    stopped: Option<Now>,
    /// How the trunk's side came to its end.
    over: Option<Over>,
    /// The trunk broke its protocol, and that ended the call.
    trunk_violated: bool,
    /// What the trunk owed and did not do.
    overdue: Option<&'static str>,
    times: Times,
    delays: Delays,
    /// Ticks on which the line took no frame.
    blocked: usize,
}

/// When things happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// The line came up.
    pub started: Now,
    /// A trunk took the call.
    pub bridged: Option<Now>,
    /// The line's first audio came.
    pub first_spoken: Option<Now>,
    /// The first of it went to the agent.
    pub first_sent: Option<Now>,
    /// The agent's first audio came.
    pub first_said: Option<Now>,
    /// The agent was first heard.
    pub first_heard: Option<Now>,
    /// The line was over.
    pub ended: Option<Now>,
}

pub(super) struct Uplink {
    pub(super) ring: Ring,
    pub(super) rate: Rate,
    /// From the line's rate to the ring's, while they differ.
    resampler: Option<Resampler>,
    tally: UplinkTally,
    /// The loudest frame since somebody asked (dBov).
    loudest: i8,
    /// When a frame was last loud enough to be speech.
    loud_at: Now,
    /// When the oldest message became whole that was not handed to the trunk's socket yet.
    waits_since: Option<Now>,
    /// What is left of the speech that waited for a trunk: more than a slow trunk may cost (samples).
    kept: usize,
    /// Whoever listens to the call.
    overheard: Option<Box<Overheard>>,
}

/// Whether another connection to the trunk is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Redial {
    No,
    /// There is none any more.
    Lost {
        /// When we stop trying.
        give_up_at: Now,
        asked: bool,
    },
    /// The one that there is will end soon.
    Expiring {
        /// From then on it is changed in mid-sentence.
        until: Now,
        asked: bool,
    },
}

struct Downlink {
    ring: Ring,
    marks: Marks,
    playout: Playout,
    /// In place of the playout's ticks, where the line's far side has a queue of its own.
    pacer: Option<Pacer>,
    /// Marks up to here were told by a flush.
    flushed_to: u64,
    /// What the line's far side had was flushed, and whoever listens does not know yet.
    flushed_far: bool,
    /// The rest of speech that the caller interrupted may still be on its way.
    discard: Option<Discard>,
    /// The trunk says that it will not go on for long.
    expiring: bool,
    /// From the ring's rate to the line's, while they differ.
    resampler: Option<Resampler>,
    /// What a clear flushes is never told as heard.
    forget_marks: bool,
    /// The line is over: what the agent still says is nobody's.
    deaf: bool,
    /// What a clear flushed that the trunk has not been told of yet (ms).
    cleared: Option<u64>,
    clears: u64,
    marks_heard: u64,
    agent_done: bool,
    /// The agent said in so many words that the call is to end.
    hang_up: bool,
    /// When its first audio came.
    first_said: Option<Now>,
    /// What it asks of the line.
    wishes: Wishes,
    /// What is to be told to whoever keeps it; `None`: nobody does.
    notes: Option<Box<Notes>>,
}

/// Speech of the agent that comes and is not to be heard.
#[derive(Clone, Copy, Debug)]
struct Discard {
    /// When the last of it came.
    last: Now,
    /// From then on everything is heard again.
    until: Now,
}

/// What happened and was not told yet.
type Notes = heapless::Deque<Happening, MAX_NOTES>;

impl Bridge {
    /// A call whose line is up and whose trunk is being dialled until `give_up_at` at the latest.
    ///
    /// # Errors
    /// [`Full`] when the pool cannot promise the call its two seconds.
    pub fn new(now: Now, give_up_at: Now, rate: Rate, limits: Limits, pool: &mut Pool) -> Result<Self, Full> {
        let account = pool.open(Limits::reserve(rate), limits.most(rate))?;
        Ok(Self {
            state: State::Dialing { give_up_at, line_done: false },
            limits,
            account,
            uplink: Uplink {
                ring: Ring::new(rate.samples(UPLINK_MS)),
                rate,
                resampler: None,
                tally: UplinkTally::default(),
                loudest: SILENCE_DBOV,
                loud_at: Now::ZERO,
                waits_since: None,
                kept: 0,
                overheard: None,
            },
            downlink: Downlink {
                ring: Ring::new(rate.samples(limits.downlink_seconds * 1000)),
                marks: Marks::default(),
                playout: Playout::new(rate, limits.cushion),
                pacer: None,
                flushed_to: 0,
                flushed_far: false,
                discard: None,
                expiring: false,
                resampler: None,
                forget_marks: false,
                deaf: false,
                cleared: None,
                clears: 0,
                marks_heard: 0,
                agent_done: false,
                hang_up: false,
                first_said: None,
                wishes: Wishes::default(),
                notes: None,
            },
            direction: Direction::Both,
            attention: Attention::new(rate, BargeIn::Cloud),
            barge_in: BargeIn::Cloud,
            line_rate: rate,
            line: None,
            trunk: None,
            early_digits: heapless::Vec::new(),
            past: Tally::default(),
            redial: Redial::No,
            connected: now,
            reconnect_until: now,
            trunkless: false,
            trunk_gone: false,
            stopped: None,
            over: None,
            trunk_violated: false,
            overdue: None,
            times: Times { started: now, ..Times::default() },
            delays: Delays::default(),
            blocked: 0,
        })
    }

    /// The line is a WebSocket, whose leg this is. Its vendor keeps a queue of its own.
    pub fn set_line(&mut self, now: Now, mut leg: Leg, setup: LineSetup) {
        leg.set_rate(self.uplink.rate);
        leg.open(now);
        if setup.direction == Direction::Uplink || leg.dialect().direction() == Direction::Uplink {
            self.set_uplink_only();
        }
        let lead = Now::from_millis(leg.dialect().lead_ms());
        self.downlink.pacer = Some(Pacer::new(self.line_rate, lead, self.limits.cushion));
        self.line = Some(Box::new(WebsocketLine::new(now, leg, setup)));
    }

    /// Nobody hears an agent: what one says is counted and goes nowhere.
    pub const fn set_uplink_only(&mut self) {
        self.direction = Direction::Uplink;
        self.downlink.deaf = true;
    }

    /// There will be no trunk: what the caller says is for whoever listens.
    pub fn set_trunkless(&mut self, now: Now) {
        self.trunkless = true;
        self.state = State::Bridged;
        self.times.bridged = Some(now);
    }

    /// What is done when the caller speaks while the agent does.
    pub fn set_barge_in(&mut self, barge_in: BargeIn) {
        self.barge_in = barge_in;
        self.attention = Attention::new(self.line_rate, barge_in);
    }

    /// From now on it is to be told what happens, and with `sound` also what is heard.
    pub fn listen(&mut self, sound: bool) {
        self.downlink.notes = Some(Box::default());
        self.uplink.overheard = sound.then(|| Box::new(Overheard::new(self.line_rate)));
    }

    /// What happened, in order.
    pub fn poll_note(&mut self) -> Option<Happening> {
        self.downlink.notes.as_mut()?.pop_front()
    }

    /// One more frame of both sides was heard at the line: on a line that is fed by ticks this one. `tell` is given the
    /// rate, the caller and the agent.
    pub fn overhear(&mut self, heard: Option<&[i16]>, tell: impl FnOnce(Rate, &[i16], &[i16])) {
        let Some(overheard) = &mut self.uplink.overheard else { return };
        let rate = overheard.rate();
        if core::mem::take(&mut self.downlink.flushed_far) {
            overheard.flush_agent();
        }
        if let Some(heard) = heard {
            overheard.on_agent(heard);
        }
        let mut frames: Frames = [[0; MAX_SAMPLES]; 2];
        let [caller, agent] = &mut frames;
        let (caller, agent) = (&mut caller[..rate.frame()], &mut agent[..rate.frame()]);
        overheard.frame(caller, agent);
        tell(rate, caller, agent);
    }

    /// Where the call stands.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// The rate of the uplink and of new samples for the line's ring.
    #[must_use]
    pub const fn rate(&self) -> Rate {
        self.uplink.rate
    }

    /// The rate of the frames that the line wants.
    #[must_use]
    pub const fn line_rate(&self) -> Rate {
        self.line_rate
    }

    /// Something happened to a leg or was ordered.
    pub fn handle_event(&mut self, now: Now, event: Event, pool: &mut Pool) {
        let is_loss = matches!(event, Event::TrunkEnded(_) | Event::TrunkClosed);
        // One that has said that it will end is not mourned: the next connection is being dialled.
        if is_loss && self.state == State::Bridged && self.may_reconnect(now) {
            return self.lose_trunk(pool);
        }
        let had_line = self.state.has_line();
        self.state = self.state.handle_event(now, event);
        self.trunk_gone |= matches!(event, Event::TrunkEnded(_) | Event::TrunkClosed);
        if had_line && !self.state.has_line() {
            self.times.ended = Some(now);
            self.downlink.deaf = true;
            self.downlink.wishes.set_held(now, false);
            self.redial = Redial::No;
            // A vendor that has left needs no word to throw away what it has, and one that by our reckoning has played
            // it all would only lose the last syllable, which is still on its way to the caller.
            let plays = self.downlink.pacer.as_ref().is_some_and(|pacer| !pacer.ahead(now).is_zero());
            let far_side = self.line.as_deref_mut().filter(|_| plays && !matches!(event, Event::LineEnded(_)));
            self.downlink.flush(now, &mut self.account, pool, far_side);
            if let (Some(line), Some(reason)) = (&mut self.line, self.state.reason()) {
                line.hang_up = self.downlink.hang_up;
                line.say_goodbye(now, reason);
            }
            self.pump(now, pool);
        }
        let over = self.trunk.as_ref().is_none_or(Leg::is_closed);
        if matches!(self.state, State::Closing { .. }) && (over || self.trunk_gone) {
            self.state = self.state.handle_event(now, Event::TrunkClosed);
        }
    }

    /// Whether the call goes on over another connection when this one is lost: its platform has it so, or another is on
    /// its way already.
    fn may_reconnect(&mut self, now: Now) -> bool {
        let Some(trunk) = &self.trunk else { return false };
        let is_expiring = self.is_expiring();
        // A peer that takes each connection and drops it at once is not dialled for as long as the caller waits.
        if is_expiring || now.saturating_sub(self.connected) >= RECONNECT {
            self.reconnect_until = now + RECONNECT;
        }
        (is_expiring || trunk.dialect().may_reconnect()) && now < self.reconnect_until
    }

    /// The trunk's connection is lost, and another takes its place.
    fn lose_trunk(&mut self, pool: &mut Pool) {
        let asked = matches!(self.redial, Redial::Expiring { asked: true, .. });
        let Some(trunk) = self.trunk.take() else { return };
        self.past = self.past.and(trunk.tally());
        // The rest of a message that was cut off will not come.
        self.downlink.ring.rollback(pool, &mut self.account);
        // Where it was asked for, the other connection is on its way.
        self.redial = Redial::Lost { give_up_at: self.reconnect_until, asked };
    }

    const fn is_expiring(&self) -> bool {
        matches!(self.redial, Redial::Expiring { .. })
    }

    /// Whether another connection to the trunk is wanted now; said once for each.
    pub fn poll_redial(&mut self) -> bool {
        match &mut self.redial {
            Redial::Lost { asked, .. } | Redial::Expiring { asked, .. } if !*asked => {
                *asked = true;
                true
            }
            Redial::No | Redial::Lost { .. } | Redial::Expiring { .. } => false,
        }
    }

    /// The other connection could not be had. Where the call still has one it goes on with that; it is asked for again.
    pub fn handle_redial_failed(&mut self, now: Now, reason: EndReason, pool: &mut Pool) {
        match &mut self.redial {
            Redial::Lost { give_up_at, .. } if now >= *give_up_at => {
                self.redial = Redial::No;
                self.handle_event(now, Event::TrunkEnded(reason), pool);
            }
            Redial::Lost { asked, .. } | Redial::Expiring { asked, .. } => *asked = false,
            Redial::No => {}
        }
    }

    /// Whether a new connection may take the trunk's place: at once where there is none, else between turns, when neither
    /// side speaks.
    #[must_use]
    pub fn is_ready_to_change(&self, now: Now) -> bool {
        match self.redial {
            Redial::No => false,
            Redial::Lost { .. } => true,
            Redial::Expiring { until, .. } => {
                let down = &self.downlink;
                let silent = down.ring.is_empty()
                    && down.ring.staged() == 0
                    && match &down.pacer {
                        Some(pacer) => pacer.ahead(now).is_zero(),
                        None => down.playout.is_dry(),
                    };
                let caller_silent = now.saturating_sub(self.uplink.loud_at) >= BETWEEN_TURNS;
                now >= until || silent && caller_silent
            }
        }
    }

    /// Whether another connection is on its way or waits for its moment.
    #[must_use]
    pub const fn is_redialing(&self) -> bool {
        !matches!(self.redial, Redial::No)
    }

    /// Another connection takes the trunk's place; gives the leg that it had, if it still had one, to say its goodbye.
    pub fn handle_trunk_changed(&mut self, now: Now, mut leg: Leg, pool: &mut Pool) -> Option<Leg> {
        self.redial = Redial::No;
        let mut old = self.trunk.take();
        if let Some(old) = &mut old {
            old.close(1000, "");
            self.past = self.past.and(old.tally());
        }
        // The new one knows nothing of what the old one asked, nor of what it had not said to its end.
        self.downlink.marks.clear(pool, &mut self.account);
        if let Some(line) = &mut self.line {
            line.flush_asked(now, true);
        }
        self.downlink.ring.rollback(pool, &mut self.account);
        self.downlink.discard = None;
        self.trunk_violated = false;
        self.downlink.forget_marks = leg.dialect().marks_on_clear() == MarksOnClear::Forget;
        self.uplink.kept = self.uplink.ring.len();
        leg.set_rate(self.uplink.rate);
        leg.open(now);
        (self.trunk, self.over, self.trunk_gone, self.overdue) = (Some(leg), None, false, None);
        self.connected = now;
        self.tell_held(now);
        self.downlink.note(|| Happening::Rebridged);
        old
    }

    /// A fault of ours: the call ends as it stands.
    pub const fn handle_bug(&mut self) {
        self.state = State::Ended(EndReason::Bug);
    }

    /// A trunk took the call. What the caller said meanwhile goes out first.
    pub fn handle_trunk_answered(&mut self, now: Now, mut leg: Leg, pool: &mut Pool) {
        self.handle_event(now, Event::TrunkAnswered, pool);
        if !self.state.has_line() {
            return;
        }
        self.downlink.forget_marks = leg.dialect().marks_on_clear() == MarksOnClear::Forget;
        if leg.dialect().direction() == Direction::Uplink {
            self.set_uplink_only();
        }
        self.downlink.note(|| Happening::Bridged);
        self.uplink.kept = self.uplink.ring.len();
        leg.set_rate(self.uplink.rate);
        leg.open(now);
        self.times.bridged = Some(now);
        (self.connected, self.reconnect_until) = (now, now + RECONNECT);
        for digit in core::mem::take(&mut self.early_digits) {
            leg.say(now, Say::Dtmf(digit));
        }
        self.trunk = Some(leg);
        self.tell_held(now);
    }

    /// What the agent asks of the line.
    pub fn poll_wish(&mut self) -> Option<Wish> {
        self.downlink.wishes.pop()
    }

    /// The line put the caller on hold, or took the caller back.
    pub fn handle_hold(&mut self, now: Now, held: bool) {
        if !self.state.has_line() || !self.downlink.wishes.set_held(now, held) {
            return;
        }
        self.downlink.note(|| if held { Happening::Held } else { Happening::Resumed });
        if let Some(trunk) = &mut self.trunk {
            trunk.say(now, Say::Held(held));
        }
    }

    /// A new agent is to know of a hold that it did not see begin.
    fn tell_held(&mut self, now: Now) {
        if let Some(trunk) = &mut self.trunk
            && self.downlink.wishes.is_held()
        {
            trunk.say(now, Say::Held(true));
        }
    }

    /// A transfer that the agent asked for goes on like this.
    pub fn handle_transfer(&mut self, now: Now, transfer: Transfer) {
        self.downlink.wishes.transfer = Some(transfer);
        self.downlink.note(|| Happening::Transfer(transfer));
        if let Some(trunk) = &mut self.trunk {
            trunk.say(now, Say::Transfer(transfer));
        }
    }

    /// From now on [`poll_spoken`](Self::poll_spoken) waits for what the agent has said so far.
    pub fn ask_spoken(&mut self, now: Now) {
        self.downlink.wishes.ask_spoken(now, self.downlink.ring.pushed());
    }

    /// Whether all that the agent had said when it was asked for was written to the line or flushed, or has taken too
    /// long. Said once.
    pub fn poll_spoken(&mut self, now: Now) -> bool {
        let down = &mut self.downlink;
        // What a vendor has in its queue is not heard yet.
        let ahead = down.pacer.as_ref().map_or(Now::ZERO, |pacer| pacer.ahead(now));
        let ahead = down.playout.rate().samples(ahead.as_millis() as usize) as u64;
        let heard = down.ring.popped().saturating_sub(ahead);
        down.wishes.poll_spoken(now, heard)
    }

    /// What was asked of the line, and what became of it.
    #[must_use]
    pub const fn wishes(&self) -> WishFigures {
        self.downlink.wishes.figures()
    }

    /// The line sent samples at this rate. Call [`pump`](Self::pump) afterwards.
    pub fn handle_line_audio(&mut self, now: Now, rate: Rate, samples: &[i16], pool: &mut Pool) {
        if rate != self.line_rate {
            self.on_line_rate(rate, pool);
        }
        self.retune_uplink();
        let up = &mut self.uplink;
        self.times.first_spoken.get_or_insert(now);
        if up.tally.frames.is_multiple_of(LOOKED_AT) {
            up.look_at(now, samples);
        }
        up.tally.frames += 1;
        up.tally.samples += samples.len() as u64;
        if let Some(overheard) = &mut up.overheard {
            overheard.set_rate(rate);
            overheard.on_caller(samples);
        }
        self.attention.set_rate(rate);
        let talk = self.attention.on_caller(now, samples);
        match &mut up.resampler {
            None => up.tally.dropped += push_dropping(&mut up.ring, pool, &mut self.account, samples),
            Some(resampler) => {
                let mut rest = samples;
                let mut converted = [0; MAX_SAMPLES];
                loop {
                    let progress = resampler.process(rest, &mut converted);
                    let made = &converted[..progress.produced];
                    up.tally.dropped += push_dropping(&mut up.ring, pool, &mut self.account, made);
                    rest = &rest[progress.consumed..];
                    if rest.is_empty() && progress.produced < converted.len() {
                        break;
                    }
                }
            }
        }
        self.note_waiting(now);
        if let Some(heard) = talk {
            self.on_talk(now, heard, pool);
        }
    }

    /// The caller began to speak, or stopped.
    fn on_talk(&mut self, now: Now, heard: Heard, pool: &mut Pool) {
        match heard {
            Heard::Started { sure } => {
                self.downlink.note(|| Happening::SpeechStarted(Speaker::Caller));
                if sure {
                    self.on_sure(now, pool);
                }
            }
            Heard::Sure => self.on_sure(now, pool),
            Heard::Stopped { answered_after } => {
                self.downlink.note(|| Happening::SpeechStopped(Speaker::Caller));
                if let Some(delay) = answered_after {
                    self.on_answer(delay);
                }
            }
        }
    }

    /// It is the caller who speaks, and no echo of the agent.
    fn on_sure(&mut self, now: Now, pool: &mut Pool) {
        let agent_speaks = self.attention.turns().is_agent_heard(now) || !self.downlink.ring.is_empty();
        if agent_speaks && self.barge_in != BargeIn::Cloud {
            self.barge_in(now, pool);
        }
    }

    /// The caller speaks while the agent does.
    fn barge_in(&mut self, now: Now, pool: &mut Pool) {
        let Some(trunk) = &mut self.trunk else { return };
        trunk.say(now, Say::BargeIn);
        if self.barge_in == BargeIn::Notify {
            return self.downlink.note(|| Happening::BargeIn { flushed_ms: None });
        }
        let flushed = self.downlink.flush(now, &mut self.account, pool, self.line.as_deref_mut());
        let unheard_ms = ms(flushed, self.downlink.playout.rate());
        trunk.say(now, Say::Cleared { unheard_ms });
        self.attention.on_agent_flushed(now);
        if !trunk.dialect().skips_flushed_speech() {
            self.downlink.discard = Some(Discard { last: now, until: now + DISCARDED });
        }
        self.downlink.note(|| Happening::BargeIn { flushed_ms: Some(unheard_ms) });
    }

    /// The agent answered the caller.
    fn on_answer(&mut self, delay: Now) {
        self.delays.response.record(delay);
        self.downlink.note(|| Happening::Answered { delay });
    }

    /// Samples that do not fill a message yet wait for more of the caller's speech: that is not our delay.
    fn note_waiting(&mut self, now: Now) {
        if let Some(trunk) = &self.trunk
            && self.uplink.waits_since.is_none()
            && self.uplink.ring.len() >= trunk.chunk()
        {
            self.uplink.waits_since = Some(now);
        }
    }

    /// The caller pressed a key.
    pub fn handle_digit(&mut self, now: Now, digit: u8) {
        self.uplink.tally.digits += 1;
        self.downlink.note(|| Happening::Digit(digit));
        match &mut self.trunk {
            Some(trunk) => {
                trunk.say(now, Say::Dtmf(digit));
            }
            // Who presses more before anybody is there has given up on it.
            None => drop(self.early_digits.push(digit)),
        }
    }

    /// Where the trunk's bytes go; `None` when there is no trunk.
    pub fn trunk_mut(&mut self) -> Option<&mut Leg> {
        self.trunk.as_mut()
    }

    /// Makes audio and events of what was read from the trunk. [`Flow::Paused`]: do not read on before a frame was
    /// played.
    pub fn handle_trunk(&mut self, now: Now, pool: &mut Pool) -> Flow {
        let Some(trunk) = &mut self.trunk else { return Flow::Hungry };
        let line = self.line.as_deref_mut();
        self.downlink.end_discard(now);
        let mut ear = Ear { downlink: &mut self.downlink, account: &mut self.account, pool, line, now };
        let heard = loop {
            let flow = trunk.handle(now, &mut ear);
            // One message alone fills the ring: its head has to be heard before its end can be read.
            let low = ear.downlink.ring.len() < ear.downlink.playout.rate().samples(LOW_MS);
            if flow == Ok(Flow::Paused) && low && ear.downlink.ring.staged() > 0 {
                ear.publish(now);
                continue;
            }
            break flow;
        };
        if let Some(unheard_ms) = self.downlink.cleared.take() {
            trunk.say(now, Say::Cleared { unheard_ms });
            self.attention.on_agent_flushed(now);
            self.downlink.note(|| Happening::Cleared { unheard_ms });
        }
        if let Some(round_trip) = trunk.round_trip() {
            self.downlink.playout.set_round_trip(round_trip);
        }
        if core::mem::take(&mut self.downlink.expiring) && self.redial == Redial::No {
            self.redial = Redial::Expiring { until: now + EXPIRING, asked: false };
        }
        if core::mem::take(&mut self.downlink.agent_done) {
            self.handle_event(now, Event::AgentDone(EndReason::TrunkHungUp), pool);
        }
        match heard {
            Ok(flow) => flow,
            Err(over) => {
                self.over.get_or_insert(over);
                let event = match over {
                    // The end that was told of, and not the call's.
                    Over::Closed(_) if self.is_redialing() => Event::TrunkEnded(EndReason::TrunkLost),
                    // 1000 normal, 1001 going away, none given: an orderly end (RFC 6455 7.4.1).
                    Over::Closed(None | Some(1000 | 1001)) => Event::AgentDone(EndReason::TrunkHungUp),
                    Over::Closed(Some(_)) => Event::TrunkEnded(EndReason::TrunkLost),
                    Over::Violation(_) | Over::Grammar(_) => Event::TrunkEnded(EndReason::Protocol),
                };
                let closing = matches!(self.state, State::Closing { .. });
                self.trunk_violated =
                    matches!(over, Over::Violation(_) | Over::Grammar(_)) && self.state.reason().is_none();
                self.handle_event(now, if closing { Event::TrunkClosed } else { event }, pool);
                Flow::Hungry
            }
        }
    }

    /// Writes what the caller said to the trunk's [`Leg::out`], as far as there is room.
    pub fn pump(&mut self, now: Now, pool: &mut Pool) {
        self.retune_uplink();
        let up = &mut self.uplink;
        if self.trunkless {
            up.tally.sent += up.ring.clear(pool, &mut self.account) as u64;
        }
        let Some(trunk) = &mut self.trunk else { return };
        if !trunk.dialect().takes_audio() {
            up.kept = up.ring.len();
        }
        if !trunk.out().is_empty() {
            up.shed(&self.limits, pool, &mut self.account);
            return self.say_goodbye(now, pool);
        }
        let chunk = trunk.chunk();
        // Three events of four bring no whole message, and then its space need not be cleared.
        if up.ring.len() < chunk || !trunk.has_room() {
            return self.say_goodbye(now, pool);
        }
        let mut samples = [0; MAX_CHUNK];
        let samples = &mut samples[..chunk];
        while up.ring.len() >= samples.len() && trunk.has_room() {
            up.ring.pop(pool, &mut self.account, samples);
            if trunk.write_audio(now, samples) {
                self.times.first_sent.get_or_insert(now);
                up.tally.sent += samples.len() as u64;
            } else {
                up.tally.dropped += samples.len() as u64;
            }
        }
        up.kept = up.kept.min(up.ring.len());
        self.say_goodbye(now, pool);
    }

    /// All that [`pump`](Self::pump) wrote is in the kernel's hands since `now`.
    pub fn handle_uplink_sent(&mut self, now: Now) {
        if let Some(since) = self.uplink.waits_since.take() {
            self.delays.uplink.record(now.saturating_sub(since));
        }
    }

    /// Whether a message of the caller's speech was not handed to the trunk's socket yet.
    #[must_use]
    pub const fn is_uplink_waiting(&self) -> bool {
        self.uplink.waits_since.is_some()
    }

    /// Whether a whole message of the caller's speech waits and may be sent. After a close nothing may.
    #[must_use]
    pub fn has_uplink(&self) -> bool {
        self.trunk.as_ref().is_some_and(|trunk| trunk.has_room() && self.uplink.ring.len() >= trunk.chunk())
    }

    /// Fills `out`, one frame at the line's rate, and says how many of its samples are the agent's. When it was
    /// written to the line, tell so by [`handle_frame_written`](Self::handle_frame_written).
    pub fn poll_frame(&mut self, mut tick: Tick, pool: &mut Pool, out: &mut [i16]) -> usize {
        self.delays.playout.record_many(tick.late, 1 + u32::try_from(tick.missed).unwrap_or(u32::MAX - 1));
        tick.missed += core::mem::take(&mut self.blocked);
        let down = &mut self.downlink;
        if down.resampler.is_some() && down.ring.is_empty() && down.ring.staged() == 0 && down.playout.is_dry() {
            // Nothing is left at the old rate.
            down.playout.set_rate(self.line_rate);
            down.ring.set_limit(self.line_rate.samples(self.limits.downlink_seconds * 1000));
            down.resampler = None;
        }
        let mut queue = Queue { ring: &mut down.ring, pool, account: &mut self.account };
        let heard = match &mut down.resampler {
            None => down.playout.frame(tick, &mut queue, out),
            Some(resampler) => {
                let mut frame = [0; MAX_SAMPLES];
                let frame = &mut frame[..resampler.from().frame()];
                let heard = down.playout.frame(tick, &mut queue, frame);
                let made = resampler.process(frame, out).produced;
                out[made..].fill(0);
                heard
            }
        };
        if heard > 0 {
            self.attention.on_played(tick.now, self.line_rate, out);
        }
        heard
    }

    /// The frame of [`poll_frame`](Self::poll_frame) is on the line: marks up to it are heard.
    pub fn handle_frame_written(&mut self, now: Now, heard: usize, pool: &mut Pool) {
        if heard > 0 {
            self.times.first_heard.get_or_insert(now);
            if let Some(delay) = self.attention.on_agent(now, heard, self.downlink.playout.rate()) {
                self.on_answer(delay);
            }
        }
        let down = &mut self.downlink;
        while let Some(trunk) = &mut self.trunk
            && down.marks.next().is_some_and(|position| position <= down.ring.popped())
            && trunk.has_room()
            && let Some(name) = down.marks.pop(pool, &mut self.account)
        {
            down.tell_heard(now, trunk, &name);
        }
        self.note_dryness(now, heard == 0, pool);
    }

    /// What the agent said last was heard, or not yet.
    fn note_dryness(&mut self, now: Now, silent: bool, pool: &mut Pool) {
        if let State::Finishing { .. } = self.state {
            let waits = !self.downlink.ring.is_empty() || self.downlink.ring.staged() > 0;
            match (silent, waits) {
                (false, _) => self.handle_event(now, Event::Heard, pool),
                (true, false) => self.handle_event(now, Event::Dry, pool),
                // A line that takes nothing, or the head of a message whose end will not come: neither is waited for
                // longer than a moment.
                (true, true) => {}
            }
        }
    }

    /// The leg of a line that is a WebSocket: where its bytes go, and what is to be sent to it.
    pub fn line_mut(&mut self) -> Option<&mut Leg> {
        self.line.as_mut().map(|line| &mut line.leg)
    }

    /// Makes audio and events of what was read from a line that is a WebSocket. [`Flow::Paused`]: do not read on before
    /// what it has to be told was sent.
    pub fn handle_line(&mut self, now: Now, pool: &mut Pool) -> Flow {
        let deaf = !self.state.has_line();
        let Some(line) = &mut self.line else { return Flow::Hungry };
        let before = self.uplink.tally.samples;
        let mut news = LineNews::default();
        let (uplink, account, attention) = (&mut self.uplink, &mut self.account, &mut self.attention);
        let mut ear = LineEar { now, uplink, attention, account, pool, news: &mut news, deaf };
        let heard = line.leg.handle(now, &mut ear);
        if self.uplink.tally.samples > before {
            line.on_audio(now);
            self.times.first_spoken.get_or_insert(now);
        }
        // A start may have named another rate than the request.
        line.leg.set_rate(self.uplink.rate);
        for name in &news.heard {
            line.on_heard(now, name);
        }
        self.downlink.tell_all_heard(now, line, self.trunk.as_mut());
        if news.cleared {
            self.uplink.tally.dropped += self.uplink.ring.clear(pool, &mut self.account) as u64;
        }
        if news.stopped {
            line.on_stop(now);
        }
        self.note_waiting(now);
        for &talk in &news.talk {
            self.on_talk(now, talk, pool);
        }
        for &digit in &news.digits {
            self.handle_digit(now, digit);
        }
        let paused = news.digits.is_full() || news.heard.is_full();
        match heard {
            Ok(_) if news.stopped => self.handle_event(now, Event::LineEnded(EndReason::LineHungUp), pool),
            Ok(Flow::Paused) if paused => return self.handle_line(now, pool),
            Ok(flow) => return flow,
            Err(over) => {
                // What answers our own goodbye is no reason of the vendor's.
                if let Some(line) = &mut self.line
                    && !deaf
                {
                    line.on_over(over);
                }
                let reason = match over {
                    _ if news.stopped => EndReason::LineHungUp,
                    // 1000 normal, 1001 going away, none given: an orderly end (RFC 6455 7.4.1).
                    Over::Closed(None | Some(1000 | 1001)) => EndReason::LineHungUp,
                    Over::Closed(Some(_)) => EndReason::LineLost,
                    Over::Violation(_) | Over::Grammar(_) => EndReason::Protocol,
                };
                self.handle_event(now, Event::LineEnded(reason), pool);
            }
        }
        Flow::Hungry
    }

    /// The connection of a line that is a WebSocket is at its end.
    pub fn handle_line_closed(&mut self, now: Now, reason: EndReason, pool: &mut Pool) {
        if let Some(line) = &mut self.line {
            line.on_gone();
        }
        self.handle_event(now, Event::LineEnded(reason), pool);
    }

    /// Writes what the agent said to the leg of a line that is a WebSocket, as far ahead as its dialect allows.
    pub fn pump_line(&mut self, now: Now, pool: &mut Pool) {
        if !self.state.has_line() {
            return;
        }
        let (Some(line), Some(pacer)) = (&mut self.line, &mut self.downlink.pacer) else { return };
        line.say_owed_clear(now);
        let rides = line.leg.dialect().marks_ride_on_audio();
        let mut answers = None;
        while line.has_room() {
            let chunk = line.leg.chunk().min(MAX_CHUNK);
            let n = pacer.due(now, self.downlink.ring.len(), chunk);
            if n == 0 {
                break;
            }
            let mut samples = [0; MAX_CHUNK];
            self.downlink.ring.pop(pool, &mut self.account, &mut samples[..n]);
            let whole = n.next_multiple_of(line.leg.unit()).min(MAX_CHUNK);
            let heard_at = pacer.busy_until().max(now);
            answers = answers.or(self.attention.on_agent(heard_at, n, self.line_rate));
            self.attention.on_played(heard_at, self.line_rate, &samples[..n]);
            pacer.on_sent(now, n, whole);
            let due = pacer.busy_until();
            let reached = self.downlink.ring.popped();
            // Several marks in one message are heard together; the message has room for one name.
            let mut names: heapless::Vec<_, MAX_REACHED> = heapless::Vec::new();
            while self.downlink.marks.next().is_some_and(|position| position <= reached)
                && !names.is_full()
                && let Some(name) = self.downlink.marks.pop(pool, &mut self.account)
            {
                // Fits: it is not full.
                let _ = names.push(name);
            }
            let spoken = rides && names.last().is_some_and(|name| line.leg.say(now, Say::Mark(name)));
            // There was room for it.
            line.leg.write_audio(now, &samples[..whole]);
            for name in names {
                line.ask(now, name, due, spoken);
            }
            if let Some(overheard) = &mut self.uplink.overheard {
                overheard.on_agent(&samples[..whole]);
            }
            self.times.first_heard.get_or_insert(now);
        }
        if let Some(delay) = answers {
            self.on_answer(delay);
        }
        self.ask_reached(now, pool);
    }

    /// Marks behind which there is nothing more to send, and those that a flush has told.
    fn ask_reached(&mut self, now: Now, pool: &mut Pool) {
        let (Some(line), Some(pacer)) = (&mut self.line, &self.downlink.pacer) else { return };
        let (due, busy) = (pacer.busy_until().max(now), !pacer.ahead(now).is_zero());
        self.downlink.tell_all_heard(now, line, self.trunk.as_mut());
        while let Some(trunk) = &mut self.trunk
            && let Some(position) = self.downlink.marks.next()
            && position <= self.downlink.ring.popped()
            && trunk.has_room()
        {
            let flushed = position <= self.downlink.flushed_to || !busy;
            if line.is_asked_full() || !flushed && !line.leg.has_room() {
                break;
            }
            let Some(name) = self.downlink.marks.pop(pool, &mut self.account) else { break };
            if flushed && !line.is_anything_asked() {
                self.downlink.tell_heard(now, trunk, &name);
            } else if flushed || line.leg.dialect().marks_ride_on_audio() {
                // The vendor has the audio already, and a dialect whose marks ride on audio can say no more.
                line.reckon(name, due);
            } else {
                line.ask(now, name, due, false);
            }
        }
    }

    /// Whether the caller could hear the agent.
    #[must_use]
    pub const fn direction(&self) -> Direction {
        self.direction
    }

    /// Whether a line that is a WebSocket has taken its leave; other lines have none to take.
    pub fn is_line_done(&mut self, now: Now) -> bool {
        self.line.as_mut().is_none_or(|line| line.poll_goodbye(now))
    }

    /// Why the call ended, as its record says it.
    #[must_use]
    pub fn reason_of(&self, reason: EndReason) -> EndReason {
        self.line.as_ref().map_or(reason, |line| line.reason(reason))
    }

    /// What the line's leg met, where it is a WebSocket.
    #[must_use]
    pub fn line_tally(&self) -> Option<Tally> {
        self.line.as_ref().map(|line| line.leg.tally())
    }

    /// How a line that is a WebSocket came to its end, and what it owed and did not do.
    #[must_use]
    pub fn line_over(&self) -> (Option<Over>, Option<&'static str>) {
        self.line.as_ref().map_or((None, None), |line| (line.over(), line.overdue()))
    }

    /// The line did not take the last frame's bytes in time: this tick goes by without one.
    pub const fn handle_line_blocked(&mut self) {
        self.blocked += 1;
    }

    /// Time passes: deadlines, and the trunk's life.
    pub fn handle_tick(&mut self, now: Now, pool: &mut Pool) {
        self.handle_event(now, Event::Tick, pool);
        if let Some(line) = &mut self.line {
            if let Some(reason) = line.tick(now) {
                self.handle_event(now, Event::LineEnded(reason), pool);
            }
            self.pump_line(now, pool);
            let silent = self.downlink.pacer.as_ref().is_none_or(|pacer| pacer.ahead(now).is_zero());
            self.note_dryness(now, silent, pool);
        }
        let Some(trunk) = &mut self.trunk else { return };
        if !trunk.beat(now) {
            return self.handle_event(now, Event::TrunkEnded(EndReason::TrunkLost), pool);
        }
        // Without room for it the peer does not read; it is asked for again.
        trunk.say_due(now);
        if self.state.reason().is_none()
            && let Some(overdue) = trunk.overdue(now)
        {
            self.overdue.get_or_insert(overdue);
            self.handle_event(now, Event::TrunkEnded(EndReason::Protocol), pool);
        }
    }

    /// The line is over: everything goes back to the pool. The bridge can only be asked for its outcome then.
    pub fn release(&mut self, pool: &mut Pool) {
        let uplink = self.uplink.ring.len();
        self.uplink.tally.dropped += uplink as u64;
        self.downlink.playout.count_missed(core::mem::take(&mut self.blocked));
        self.downlink.count_rest();
        pool.close(&mut self.account);
    }

    /// What the uplink met.
    #[must_use]
    pub const fn uplink(&self) -> UplinkTally {
        self.uplink.tally
    }

    /// What the downlink met.
    #[must_use]
    pub const fn weather(&self) -> Weather {
        match &self.downlink.pacer {
            Some(pacer) => pacer.weather(),
            None => self.downlink.playout.weather(),
        }
    }

    /// How long things took.
    #[must_use]
    pub const fn delays(&self) -> Delays {
        self.delays
    }

    /// What of the agent's speech waits to be heard (ms).
    #[must_use]
    pub const fn delay_ms(&self) -> u64 {
        ms(self.downlink.ring.len(), self.downlink.playout.rate())
    }

    /// What of the caller's speech waits to be sent (ms).
    #[must_use]
    pub const fn backlog_ms(&self) -> u64 {
        ms(self.uplink.ring.len(), self.uplink.rate)
    }

    /// The loudest frame of the caller and of the agent since this was last asked (dBov).
    pub const fn take_levels(&mut self) -> (i8, i8) {
        (core::mem::replace(&mut self.uplink.loudest, SILENCE_DBOV), self.downlink.playout.take_loudest())
    }

    /// What the trunk's leg met.
    #[must_use]
    pub fn trunk_tally(&self) -> Tally {
        self.past.and(self.trunk.as_ref().map(Leg::tally).unwrap_or_default())
    }

    /// Clears obeyed and marks told as heard.
    #[must_use]
    pub const fn clears_and_marks(&self) -> (u64, u64) {
        (self.downlink.clears, self.downlink.marks_heard)
    }

    /// How the trunk's side came to its end, if it was the trunk that ended it.
    #[must_use]
    pub const fn over(&self) -> Option<Over> {
        self.over
    }

    /// What the trunk owed and did not do, which ended its leg.
    #[must_use]
    pub const fn overdue(&self) -> Option<&'static str> {
        self.overdue
    }

    /// Whether the trunk broke its protocol, and that ended the call.
    #[must_use]
    pub const fn has_trunk_violated(&self) -> bool {
        self.trunk_violated
    }

    /// Who spoke when.
    #[must_use]
    pub const fn turns(&self) -> &Turns {
        self.attention.turns()
    }

    /// When things happened.
    #[must_use]
    pub const fn times(&self) -> Times {
        Times { first_said: self.downlink.first_said, ..self.times }
    }

    /// Our stop, once the last of the caller's speech is on its way (near the end of our patience at once), and then the
    /// WebSocket's goodbye, unless the agent closes first. Both in one breath is too fast for many agents: their library
    /// learns of the close before they have read the stop, and they never do.
    fn say_goodbye(&mut self, now: Now, pool: &mut Pool) {
        let State::Closing { reason, until } = self.state else { return };
        let Some(trunk) = &mut self.trunk else { return };
        if let Some(stopped) = self.stopped {
            if now >= stopped + AGENT_CLOSES {
                trunk.close(1000, "");
            }
            return;
        }
        let up = &mut self.uplink;
        let chunk = trunk.chunk();
        let hurry = now + HURRY >= until;
        if !hurry && (up.ring.len() >= chunk || !trunk.has_room()) {
            return;
        }
        let mut rest = [0; MAX_CHUNK];
        let n = up.ring.pop(pool, &mut self.account, &mut rest[..chunk]);
        if n > 0 && trunk.write_audio(now, &rest[..n]) {
            up.tally.sent += n as u64;
        } else {
            up.tally.dropped += n as u64;
        }
        up.tally.dropped += up.ring.clear(pool, &mut self.account) as u64;
        let stop = Say::Stop(match reason {
            EndReason::LineHungUp | EndReason::LineLost => StopReason::CallerHungUp,
            _ => StopReason::Ended,
        });
        self.stopped = Some(now);
        if !trunk.say(now, stop) {
            // This dialect's stop is the close.
            trunk.close(1000, "");
        }
    }

    /// The line has another rate from now on, as its signalling tells.
    pub fn handle_line_rate(&mut self, rate: Rate, pool: &mut Pool) {
        if rate != self.line_rate {
            self.on_line_rate(rate, pool);
            self.retune_uplink();
        }
    }

    fn on_line_rate(&mut self, rate: Rate, pool: &mut Pool) {
        self.line_rate = rate;
        pool.grow(&mut self.account, Limits::reserve(rate), self.limits.most(rate));
        self.uplink.resampler = Some(Resampler::new(rate, self.uplink.rate));
        self.downlink.resampler = Some(Resampler::new(self.downlink.playout.rate(), rate));
    }

    /// Once nothing waits at the old rate, the uplink goes over to the line's.
    fn retune_uplink(&mut self) {
        let up = &mut self.uplink;
        if up.rate != self.line_rate && up.ring.is_empty() {
            up.rate = self.line_rate;
            up.resampler = None;
            up.ring.set_limit(self.line_rate.samples(UPLINK_MS));
            if let Some(trunk) = &mut self.trunk {
                trunk.set_rate(self.line_rate);
            }
        }
    }
}

impl Uplink {
    /// How loud the caller is.
    fn look_at(&mut self, now: Now, samples: &[i16]) {
        let level = level_dbov(samples);
        self.loudest = self.loudest.max(level);
        if level > LOUD_DBOV {
            self.loud_at = now;
        }
    }

    /// Samples of the caller came that are not to be sent before they are published.
    pub(super) fn stage(&mut self, now: Now, pool: &mut Pool, account: &mut Account, samples: &[i16]) {
        self.look_at(now, samples);
        let mut dropped = 0;
        // The caller is live: the oldest makes room for the latest.
        while self.ring.room(pool, account) < samples.len() && !self.ring.is_empty() {
            dropped += self.ring.skip(pool, account, samples.len());
        }
        dropped += samples.len() - self.ring.stage(pool, account, samples);
        self.tally.dropped += dropped as u64;
        if let Some(overheard) = &mut self.overheard {
            overheard.on_caller(samples);
        }
    }

    /// What was staged is the caller's.
    pub(super) fn publish(&mut self) {
        self.tally.samples += self.ring.publish() as u64;
        self.tally.frames = self.tally.samples / self.rate.frame() as u64;
    }

    /// The trunk does not take what we have: beyond the limit the oldest is skipped.
    fn shed(&mut self, limits: &Limits, pool: &mut Pool, account: &mut Account) {
        // What was said before it took any is none of its slowness.
        let most = self.rate.samples(limits.uplink_max_ms).max(self.kept);
        let excess = self.ring.len().saturating_sub(most);
        self.tally.dropped += self.ring.skip(pool, account, excess) as u64;
    }
}

/// Pushes samples and drops the oldest where there is no room, a block of them where the pool has no other; says how
/// many were dropped.
fn push_dropping(ring: &mut Ring, pool: &mut Pool, account: &mut Account, samples: &[i16]) -> u64 {
    let mut dropped = 0;
    while ring.room(pool, account) < samples.len() && !ring.is_empty() {
        dropped += ring.skip(pool, account, samples.len());
    }
    if ring.push(pool, account, samples).is_err() {
        // The pool has not one block left for us.
        dropped += samples.len();
    }
    dropped as u64
}

impl Downlink {
    /// What is left when the call ends was never heard.
    fn count_rest(&mut self) {
        let rest = self.ring.len() + self.ring.staged();
        match &mut self.pacer {
            Some(pacer) => pacer.count_flushed(rest),
            None => self.playout.count_flushed(rest),
        }
    }

    /// After a pause what comes is new.
    fn end_discard(&mut self, now: Now) {
        let over = |discard: Discard| now >= discard.until || now.saturating_sub(discard.last) >= DISCARD_PAUSE;
        if self.discard.is_some_and(over) {
            self.discard = None;
        }
    }

    /// Samples of the agent were published.
    fn on_arrival(&mut self, now: Now, published: usize) {
        if published > 0 {
            self.first_said.get_or_insert(now);
        }
        match &mut self.pacer {
            Some(pacer) if published > 0 => pacer.on_arrival(now),
            Some(_) => {}
            None => self.playout.on_arrival(now, published),
        }
    }

    /// Throws away what the agent said and was not heard, here and at the line's far side. Says how much that was
    /// (samples).
    fn flush(&mut self, now: Now, account: &mut Account, pool: &mut Pool, line: Option<&mut WebsocketLine>) -> usize {
        let flushed = match &mut self.pacer {
            Some(pacer) => {
                let obeys = line.is_none_or(|line| {
                    line.flush_asked(now, self.forget_marks);
                    line.clear(now)
                });
                self.flushed_far |= obeys;
                let flushed = self.ring.clear(pool, account);
                pacer.clear(now, flushed, obeys)
            }
            None => self.playout.clear(&mut Queue { ring: &mut self.ring, pool, account }),
        };
        self.flushed_to = self.ring.popped();
        flushed
    }

    /// The caller heard the agent up to this mark.
    fn tell_heard(&mut self, now: Now, trunk: &mut Leg, name: &MarkName) {
        trunk.say(now, Say::Heard(name));
        self.marks_heard += 1;
        self.note(|| Happening::Heard(name.clone()));
    }

    /// The same for all that the line's far side has played, as far as the agent takes it: the rest waits.
    fn tell_all_heard(&mut self, now: Now, line: &mut WebsocketLine, trunk: Option<&mut Leg>) {
        let Some(trunk) = trunk else { return };
        while trunk.has_room()
            && let Some(name) = line.poll_heard(now)
        {
            self.tell_heard(now, trunk, &name);
        }
    }

    /// Something happened.
    fn note(&mut self, what: impl FnOnce() -> Happening) {
        if let Some(notes) = &mut self.notes {
            // The media thread takes them on every event; what is beyond that is not worth waiting for.
            let _ = notes.push_back(what());
        }
    }
}

/// The downlink as the trunk's leg sees it.
struct Ear<'e> {
    downlink: &'e mut Downlink,
    account: &'e mut Account,
    pool: &'e mut Pool,
    line: Option<&'e mut WebsocketLine>,
    now: Now,
}

impl Sink for Ear<'_> {
    fn rate(&self) -> Rate {
        self.downlink.playout.rate()
    }

    fn room(&self) -> usize {
        if self.downlink.deaf || self.downlink.discard.is_some() {
            return usize::MAX / 64;
        }
        let seconds = (self.downlink.ring.len() / self.downlink.playout.rate().hz() as usize) + 1;
        if self.downlink.marks.count() >= seconds * MARKS_A_SECOND + MARKS_SPARE {
            return 0;
        }
        // Two blocks stay for the caller and the marks, or a burst of the agent would make the caller inaudible.
        self.downlink.ring.room(self.pool, self.account).saturating_sub(SPARE_BLOCKS * BLOCK)
    }

    fn stage(&mut self, samples: &[i16]) {
        let discarded = match &mut self.downlink.discard {
            Some(discard) => {
                discard.last = self.now;
                true
            }
            None => false,
        };
        if self.downlink.deaf || discarded {
            return match &mut self.downlink.pacer {
                Some(pacer) => pacer.count_flushed(samples.len()),
                None => self.downlink.playout.count_flushed(samples.len()),
            };
        }
        let taken = self.downlink.ring.stage(self.pool, self.account, samples);
        debug_assert_eq!(taken, samples.len(), "room() was asked before");
    }

    fn publish(&mut self, now: Now) {
        let published = self.downlink.ring.publish();
        self.downlink.on_arrival(now, published);
    }

    fn rollback(&mut self) {
        self.downlink.ring.rollback(self.pool, self.account);
    }

    fn event(&mut self, now: Now, event: dialect::Event<'_>) {
        match event {
            dialect::Event::Clear => {
                self.downlink.discard = None;
                self.downlink.clears += 1;
                if self.downlink.forget_marks {
                    self.downlink.marks.clear(self.pool, self.account);
                }
                let flushed = self.downlink.flush(now, self.account, self.pool, self.line.as_deref_mut());
                let unheard_ms = ms(flushed, self.downlink.playout.rate());
                self.downlink.cleared = Some(self.downlink.cleared.unwrap_or(0) + unheard_ms);
            }
            dialect::Event::Mark(_) if self.downlink.deaf => {}
            dialect::Event::Mark(name) => {
                let position = self.downlink.ring.pushed();
                // room() promised a place for it.
                self.downlink.marks.push(self.pool, self.account, position, name);
                self.downlink.note(|| Happening::Mark(name.try_into().unwrap_or_default()));
            }
            dialect::Event::HangUp => {
                self.downlink.agent_done = true;
                self.downlink.hang_up = true;
            }
            dialect::Event::Stop => self.downlink.agent_done = true,
            // Words are for people: rare, and no part of moving audio.
            dialect::Event::Transcript { speaker, text, whole } => {
                self.downlink.note(|| Happening::Said { speaker, text: owned(text), whole });
            }
            dialect::Event::Fault(words) => self.downlink.note(|| Happening::Fault(owned(words))),
            dialect::Event::Wish(asked) => {
                let Some(wish) = asked.wish() else { return };
                self.downlink.note(|| match &wish {
                    Wish::Transfer(_) => Happening::TransferAsked,
                    Wish::Digits(digits) => Happening::DigitsAsked { count: digits.len() },
                });
                self.downlink.wishes.push(wish);
            }
            // A vendor hears nothing else from an agent.
            dialect::Event::None
            | dialect::Event::Unknown
            | dialect::Event::Start
            | dialect::Event::Heard(_)
            | dialect::Event::Dtmf(_)
            | dialect::Event::Broken(_)
            | dialect::Event::Held(_)
            | dialect::Event::Transfer(_) => {}
            dialect::Event::Expiring => self.downlink.expiring = true,
        }
    }
}

/// A copy that lives on, beside the count of what audio takes.
fn owned(text: &str) -> String {
    let mut copy = String::new();
    counting::apart(|| text.clone_into(&mut copy));
    copy
}

const fn ms(samples: usize, rate: Rate) -> u64 {
    samples as u64 * 1000 / rate.hz() as u64
}

/// One frame in so many is looked at for how loud the caller is.
const LOOKED_AT: u64 = 4;
/// How long the agent has to close by itself after our stop.
const AGENT_CLOSES: Now = Now::from_secs(1);
/// So long before the end of our patience the goodbye is said whatever the caller's speech does.
const HURRY: Now = Now::from_secs(2);
/// Reserved for each call, in ms of audio.
const RESERVED_MS: usize = 2000;
/// What the caller said is kept for so long while a trunk is dialled (ms).
const UPLINK_MS: usize = 5000;
/// How long a lost trunk is dialled again; what the caller says meanwhile is kept, up to [`UPLINK_MS`].
const RECONNECT: Now = Now::from_secs(30);
/// So long a trunk that will end is kept for a moment when nobody speaks.
const EXPIRING: Now = Now::from_secs(120);
/// A caller who was silent for so long is not about to finish a sentence.
const BETWEEN_TURNS: Now = Now::from_millis(700);
/// What is louder may be speech.
const LOUD_DBOV: i8 = -45;
/// After so long without any of it, interrupted speech is over; it is not waited for longer than the second.
const DISCARD_PAUSE: Now = Now::from_millis(300);
const DISCARDED: Now = Now::from_secs(5);
/// Notes that may wait to be taken.
const MAX_NOTES: usize = 32;
/// Marks that one message of audio to a vendor reaches at most: 100 a second, in 300 ms.
const MAX_REACHED: usize = 30;
/// Marks that may wait for each second of audio, and beside that.
const MARKS_A_SECOND: usize = 100;
const MARKS_SPARE: usize = 400;
/// Blocks of the account that the downlink's samples leave alone.
const SPARE_BLOCKS: usize = 2;
/// With less than this the head of a message that fills the ring is published before its end is known (ms).
const LOW_MS: usize = 100;
