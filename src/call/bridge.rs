//! The bridge of one call: what one leg hears, the other says. Pure: samples, messages and `now` in, frames and messages
//! out. The shell owns the sockets and the clock, and tells what became of them.

use crate::{
    call::{
        EndReason,
        state::{Event, State},
    },
    dialect::{self, MarksOnClear, Say, StopReason},
    leg::websocket::leg::{Flow, Leg, MAX_CHUNK, Over, Sink, Tally},
    media::{
        Now, Rate,
        frame::MAX_SAMPLES,
        histogram::Histogram,
        level::{SILENCE_DBOV, level_dbov},
        marks::Marks,
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
}

/// The bridge.
pub struct Bridge {
    state: State,
    limits: Limits,
    account: Account,
    uplink: Uplink,
    downlink: Downlink,
    line_rate: Rate,
    trunk: Option<Leg>,
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
    /// The agent was first heard.
    pub first_heard: Option<Now>,
    /// The line was over.
    pub ended: Option<Now>,
}

struct Uplink {
    ring: Ring,
    rate: Rate,
    /// From the line's rate to the ring's, while they differ.
    resampler: Option<Resampler>,
    tally: UplinkTally,
    /// The loudest frame since somebody asked (dBov).
    loudest: i8,
    /// When the oldest message became whole that was not handed to the trunk's socket yet.
    waits_since: Option<Now>,
}

struct Downlink {
    ring: Ring,
    marks: Marks,
    playout: Playout,
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
}

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
                waits_since: None,
            },
            downlink: Downlink {
                ring: Ring::new(rate.samples(limits.downlink_seconds * 1000)),
                marks: Marks::default(),
                playout: Playout::new(rate, limits.cushion),
                resampler: None,
                forget_marks: false,
                deaf: false,
                cleared: None,
                clears: 0,
                marks_heard: 0,
                agent_done: false,
            },
            line_rate: rate,
            trunk: None,
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
        let had_line = self.state.has_line();
        self.state = self.state.handle_event(now, event);
        self.trunk_gone |= matches!(event, Event::TrunkEnded(_) | Event::TrunkClosed);
        if had_line && !self.state.has_line() {
            self.times.ended = Some(now);
            self.downlink.deaf = true;
            let mut queue = Queue { ring: &mut self.downlink.ring, pool: &mut *pool, account: &mut self.account };
            self.downlink.playout.clear(&mut queue);
            self.pump(now, pool);
        }
        let over = self.trunk.as_ref().is_none_or(Leg::is_closed);
        if matches!(self.state, State::Closing { .. }) && (over || self.trunk_gone) {
            self.state = self.state.handle_event(now, Event::TrunkClosed);
        }
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
        leg.set_rate(self.uplink.rate);
        leg.open(now);
        self.times.bridged = Some(now);
        self.trunk = Some(leg);
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
            up.loudest = up.loudest.max(level_dbov(samples));
        }
        up.tally.frames += 1;
        up.tally.samples += samples.len() as u64;
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
        // Samples that do not fill a message yet wait for more of the caller's speech: that is not our delay.
        if let Some(trunk) = &self.trunk
            && up.waits_since.is_none()
            && up.ring.len() >= trunk.chunk()
        {
            up.waits_since = Some(now);
        }
    }

    /// The caller pressed a key.
    pub fn handle_digit(&mut self, now: Now, digit: u8) {
        self.uplink.tally.digits += 1;
        if let Some(trunk) = &mut self.trunk {
            trunk.say(now, Say::Dtmf(digit));
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
        let mut ear = Ear { downlink: &mut self.downlink, account: &mut self.account, pool };
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
        }
        if let Some(round_trip) = trunk.round_trip() {
            self.downlink.playout.set_round_trip(round_trip);
        }
        if core::mem::take(&mut self.downlink.agent_done) {
            self.handle_event(now, Event::AgentDone(EndReason::TrunkHungUp), pool);
        }
        match heard {
            Ok(flow) => flow,
            Err(over) => {
                self.over.get_or_insert(over);
                let event = match over {
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
        let Some(trunk) = &mut self.trunk else { return };
        let up = &mut self.uplink;
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
                up.tally.sent += samples.len() as u64;
            } else {
                up.tally.dropped += samples.len() as u64;
            }
        }
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
        match &mut down.resampler {
            None => down.playout.frame(tick, &mut queue, out),
            Some(resampler) => {
                let mut frame = [0; MAX_SAMPLES];
                let frame = &mut frame[..resampler.from().frame()];
                let heard = down.playout.frame(tick, &mut queue, frame);
                let made = resampler.process(frame, out).produced;
                out[made..].fill(0);
                heard
            }
        }
    }

    /// The frame of [`poll_frame`](Self::poll_frame) is on the line: marks up to it are heard.
    pub fn handle_frame_written(&mut self, now: Now, heard: usize, pool: &mut Pool) {
        if heard > 0 {
            self.times.first_heard.get_or_insert(now);
        }
        let down = &mut self.downlink;
        while let Some(trunk) = &mut self.trunk
            && down.marks.next().is_some_and(|position| position <= down.ring.popped())
            && trunk.has_room()
            && let Some(name) = down.marks.pop(pool, &mut self.account)
        {
            trunk.say(now, Say::Heard(&name));
            down.marks_heard += 1;
        }
        if let State::Finishing { .. } = self.state {
            let dry = heard == 0 && self.downlink.ring.is_empty() && self.downlink.ring.staged() == 0;
            self.handle_event(now, if dry { Event::Dry } else { Event::Heard }, pool);
        }
    }

    /// The line did not take the last frame's bytes in time: this tick goes by without one.
    pub const fn handle_line_blocked(&mut self) {
        self.blocked += 1;
    }

    /// Time passes: deadlines, and the trunk's life.
    pub fn handle_tick(&mut self, now: Now, pool: &mut Pool) {
        self.handle_event(now, Event::Tick, pool);
        let Some(trunk) = &mut self.trunk else { return };
        if !trunk.beat(now) {
            return self.handle_event(now, Event::TrunkEnded(EndReason::TrunkLost), pool);
        }
        // Without room for it the peer does not read; it is asked for again.
        trunk.say_due(now);
        if let Some(overdue) = trunk.overdue(now) {
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
        self.downlink.playout.weather()
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
        self.trunk.as_ref().map(Leg::tally).unwrap_or_default()
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

    /// When things happened.
    #[must_use]
    pub const fn times(&self) -> Times {
        self.times
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
    /// The trunk does not take what we have: beyond the limit the oldest is skipped.
    fn shed(&mut self, limits: &Limits, pool: &mut Pool, account: &mut Account) {
        let excess = self.ring.len().saturating_sub(self.rate.samples(limits.uplink_max_ms));
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
        self.playout.count_flushed(self.ring.len() + self.ring.staged());
    }
}

/// The downlink as the trunk's leg sees it.
struct Ear<'e> {
    downlink: &'e mut Downlink,
    account: &'e mut Account,
    pool: &'e mut Pool,
}

impl Sink for Ear<'_> {
    fn rate(&self) -> Rate {
        self.downlink.playout.rate()
    }

    fn room(&self) -> usize {
        if self.downlink.deaf {
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
        if self.downlink.deaf {
            return self.downlink.playout.count_flushed(samples.len());
        }
        let taken = self.downlink.ring.stage(self.pool, self.account, samples);
        debug_assert_eq!(taken, samples.len(), "room() was asked before");
    }

    fn publish(&mut self, now: Now) {
        let published = self.downlink.ring.publish();
        self.downlink.playout.on_arrival(now, published);
    }

    fn rollback(&mut self) {
        self.downlink.ring.rollback(self.pool, self.account);
    }

    fn event(&mut self, _now: Now, event: dialect::Event<'_>) {
        match event {
            dialect::Event::Clear => {
                self.downlink.clears += 1;
                if self.downlink.forget_marks {
                    self.downlink.marks.clear(self.pool, self.account);
                }
                let mut queue = Queue { ring: &mut self.downlink.ring, pool: self.pool, account: self.account };
                let flushed = self.downlink.playout.clear(&mut queue);
                let unheard_ms = ms(flushed, self.downlink.playout.rate());
                self.downlink.cleared = Some(self.downlink.cleared.unwrap_or(0) + unheard_ms);
            }
            dialect::Event::Mark(_) if self.downlink.deaf => {}
            dialect::Event::Mark(name) => {
                let position = self.downlink.ring.pushed();
                // room() promised a place for it.
                self.downlink.marks.push(self.pool, self.account, position, name);
            }
            dialect::Event::HangUp | dialect::Event::Stop => self.downlink.agent_done = true,
            // A vendor hears nothing else from an agent.
            dialect::Event::None
            | dialect::Event::Unknown
            | dialect::Event::Start
            | dialect::Event::Heard(_)
            | dialect::Event::Dtmf(_)
            | dialect::Event::Transcript { .. }
            | dialect::Event::Fault(_)
            | dialect::Event::Broken(_)
            | dialect::Event::Expiring => {}
        }
    }
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
/// Marks that may wait for each second of audio, and beside that.
const MARKS_A_SECOND: usize = 100;
const MARKS_SPARE: usize = 400;
/// Blocks of the account that the downlink's samples leave alone.
const SPARE_BLOCKS: usize = 2;
/// With less than this the head of a message that fills the ring is published before its end is known (ms).
const LOW_MS: usize = 100;
