//! One call of a stand-in agent, from the first byte after the upgrade to the last: without a socket or a clock.
//!
//! ```text
//!   spare, filled --> Greeting --dialect--> Leg --> Ear ----- echo -----> Leg --> out, written
//!                        |                   ^       | events              ^
//!                        +---- every byte ---+       +--> marks     Speech, clear, hang-up: when due
//! ```

use std::{collections::VecDeque, fmt, mem, sync::Arc, time::Duration};

use crate::{
    cli::agent::behave::{Marks, Name, Part, Script, Speech, Style},
    dialect::{self, Dialect, Event, Facts, Role, Say, Transfer},
    leg::websocket::{
        greeting::{Greeting, Verdict},
        leg::{Flow, Leg, Over, Setup, Sink, Tally},
        wire::{Side, Violation},
    },
    media::{Now, Rate},
};

/// Why a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The vendor said that the call is over.
    Stopped,
    /// The vendor closed the WebSocket, with this code if it gave one.
    Closed(Option<u16>),
    /// We hung up when our time was over.
    HungUp,
    /// The vendor broke the protocol.
    Violation(Violation),
    /// The vendor broke the grammar of its dialect.
    Grammar(&'static str),
    /// What the vendor speaks is none of our dialects.
    NoDialect,
    /// The vendor said nothing that tells its dialect.
    Mute,
    /// The vendor began no call.
    NoStart,
    /// The vendor sent no audio any more.
    NoMedia,
    /// The vendor answered no ping.
    Silent,
    /// The connection broke or was closed without a word.
    Lost,
    /// We are to stop.
    Interrupted,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stopped => "vendor: said stop",
            Self::Closed(Some(code)) => return write!(f, "vendor: closed with {code}"),
            Self::Closed(None) => "vendor: closed",
            Self::HungUp => "agent: hung up",
            Self::Violation(violation) => return write!(f, "agent: {violation}"),
            Self::Grammar(reason) => return write!(f, "agent: {reason}"),
            Self::NoDialect => "agent: the first message is of no dialect of ours, see --dialect",
            Self::Mute => "agent: no message told the dialect, see --dialect",
            Self::NoStart => "agent: no start came, see --dialect",
            Self::NoMedia => return write!(f, "agent: no audio came for {} s", DRY.as_secs()),
            Self::Silent => "agent: two pings went unanswered",
            Self::Lost => "nobody: the connection broke",
            Self::Interrupted => "agent: was stopped",
        })
    }
}

/// What is the same for every call, and what the upgrade told of this one.
pub(super) struct Plan {
    /// What to do.
    pub(super) script: Arc<Script>,
    /// The dialect, unless the first message is to tell it.
    pub(super) dialect: Option<&'static str>,
    /// The rate that the request target names.
    pub(super) rate: Option<Rate>,
    /// The time of day at the start (ms since 1970, UTC).
    pub(super) epoch_ms: u64,
    /// Tells this call's marks from another's.
    pub(super) number: u32,
}

/// The call.
pub(super) struct Call {
    plan: Plan,
    opened: Now,
    stage: Stage,
    /// What the greeting read, while the leg has not.
    again: Vec<u8>,
    ending: Option<Ending>,
    /// After our goodbye we wait no longer than this for an answer.
    give_up_at: Option<Now>,
    /// The goodbye was a close, or its equal.
    closed: bool,
}

enum Stage {
    Greeting(Box<Greeting>),
    Talk(Box<Talk>),
}

impl Call {
    /// A connection that was upgraded now.
    pub(super) fn new(plan: Plan, now: Now) -> Self {
        let stage = match plan.dialect.and_then(|name| Talk::new(name, &plan, now)) {
            Some(talk) => Stage::Talk(Box::new(talk)),
            None => Stage::Greeting(Box::new(Greeting::new(MAX_MESSAGE))),
        };
        Self { plan, opened: now, stage, again: Vec::new(), ending: None, give_up_at: None, closed: false }
    }

    /// Where the vendor's bytes go.
    pub(super) fn spare(&mut self) -> &mut [u8] {
        match &mut self.stage {
            Stage::Greeting(greeting) => greeting.spare(),
            Stage::Talk(talk) => talk.leg.spare(),
        }
    }

    /// So many were read into [`spare`](Self::spare). To be followed by [`advance`](Self::advance).
    pub(super) fn filled(&mut self, n: usize) {
        match &mut self.stage {
            Stage::Greeting(greeting) => greeting.filled(n),
            Stage::Talk(talk) => talk.leg.filled(n),
        }
    }

    /// Whether more may be read. If not, it may be when some of [`out`](Self::out) is gone.
    pub(super) fn wants_read(&self) -> bool {
        match &self.stage {
            Stage::Greeting(_) => self.ending.is_none(),
            Stage::Talk(talk) => !talk.over && !talk.paused && self.again.is_empty(),
        }
    }

    /// Bytes to be sent.
    pub(super) fn out(&self) -> &[u8] {
        match &self.stage {
            Stage::Greeting(greeting) => greeting.out(),
            Stage::Talk(talk) => talk.leg.out(),
        }
    }

    /// So many of them were sent. To be followed by [`advance`](Self::advance).
    pub(super) fn written(&mut self, n: usize) {
        match &mut self.stage {
            Stage::Greeting(greeting) => greeting.written(n),
            Stage::Talk(talk) => talk.leg.written(n),
        }
    }

    /// Understands what was read, and does what is due.
    pub(super) fn advance(&mut self, now: Now) {
        if let Stage::Greeting(greeting) = &mut self.stage
            && self.ending.is_none()
        {
            match greeting.handle() {
                Verdict::Wait if now < self.opened + PATIENCE => {}
                Verdict::Wait => {
                    greeting.close(UNHEARD, "no message told the dialect");
                    self.end(now, Ending::Mute);
                }
                Verdict::Unknown => self.end(now, Ending::NoDialect),
                Verdict::Over(Over::Closed(code)) => self.end(now, Ending::Closed(code)),
                Verdict::Over(Over::Violation(violation)) => self.end(now, Ending::Violation(violation)),
                Verdict::Over(Over::Grammar(reason)) => self.end(now, Ending::Grammar(reason)),
                Verdict::Dialect(name) => match Talk::new(name, &self.plan, now) {
                    Some(talk) => {
                        if let Stage::Greeting(greeting) = mem::replace(&mut self.stage, Stage::Talk(Box::new(talk))) {
                            self.again = greeting.into_raw();
                        }
                    }
                    None => self.end(now, Ending::NoDialect),
                },
            }
        }
        self.talk(now);
        if !self.closed && self.give_up_at.is_some_and(|at| now >= at) {
            // The dialect's own word to hang up was not heeded.
            self.close(now, NORMAL);
        }
    }

    fn talk(&mut self, now: Now) {
        let Stage::Talk(talk) = &mut self.stage else { return };
        let script = &self.plan.script;
        let mut ended = talk.advance(now, script, self.ending.is_some());
        let mut read = 0;
        while read < self.again.len() && !talk.paused && !talk.over {
            read += talk.leg.feed(&self.again[read..]);
            ended = ended.or(talk.advance(now, script, self.ending.or(ended).is_some()));
        }
        if read > 0 {
            self.again.drain(..read);
        }
        if let Some(ending) = ended {
            self.end(now, ending);
        }
    }

    /// The connection is gone.
    pub(super) fn lose(&mut self, now: Now) {
        self.end(now, Ending::Lost);
        (self.closed, self.give_up_at) = (true, Some(now));
    }

    /// Says goodbye because we are to stop.
    pub(super) fn interrupt(&mut self, now: Now) {
        self.end(now, Ending::Interrupted);
        self.close(now, GOING_AWAY);
    }

    fn close(&mut self, now: Now, code: u16) {
        match &mut self.stage {
            Stage::Greeting(greeting) => greeting.close(code, ""),
            Stage::Talk(talk) => talk.leg.close(code, ""),
        }
        (self.closed, self.give_up_at) = (true, Some(now + GOODBYE));
    }

    fn end(&mut self, now: Now, ending: Ending) {
        self.closed |= ending != Ending::HungUp;
        self.ending.get_or_insert(ending);
        self.give_up_at.get_or_insert(now + GOODBYE);
    }

    /// Whether the connection can be dropped.
    pub(super) fn is_done(&self, now: Now) -> bool {
        let said = self.out().is_empty()
            && match &self.stage {
                Stage::Greeting(_) => self.ending.is_some(),
                Stage::Talk(talk) => talk.over || talk.leg.is_closed(),
            };
        self.ending.is_some() && (said || self.closed && self.give_up_at.is_some_and(|at| now >= at))
    }

    /// When [`advance`](Self::advance) has something to do, if nothing is read or written before.
    pub(super) fn poll_timeout(&self) -> Now {
        match (&self.stage, self.give_up_at) {
            (_, Some(at)) => at,
            (Stage::Greeting(_), None) => self.opened + PATIENCE,
            (Stage::Talk(talk), None) => talk.poll_timeout(&self.plan.script),
        }
    }

    /// Who called, once the call has begun.
    pub(super) fn began(&self) -> Option<(&dyn Dialect, Option<&Facts>)> {
        match &self.stage {
            Stage::Talk(talk) if talk.ear.started.is_some() => Some((talk.leg.dialect(), talk.leg.dialect().facts())),
            Stage::Talk(_) | Stage::Greeting(_) => None,
        }
    }

    /// What the vendor told of the line, in order.
    pub(super) fn poll_told(&mut self) -> Option<Told> {
        match &mut self.stage {
            Stage::Talk(talk) => talk.ear.told.pop_front(),
            Stage::Greeting(_) => None,
        }
    }

    /// What came of it.
    pub(super) fn report(&self) -> Report<'_> {
        let ending = self.ending.unwrap_or(Ending::Lost);
        let Stage::Talk(talk) = &self.stage else {
            return Report { ending, ..Report::default() };
        };
        Report {
            dialect: talk.leg.dialect().name(),
            heard: talk.ear.heard,
            said: talk.said,
            marks: Some(&talk.ear.marks),
            digits: talk.ear.digits,
            cleared: talk.cleared,
            tally: talk.leg.tally(),
            ending,
        }
    }
}

/// What a vendor told beside audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The caller is on hold, or is back.
    Held(bool),
    /// So the transfer stands that we asked for.
    Transfer(Transfer),
}

/// What came of a call.
pub(super) struct Report<'a> {
    pub(super) dialect: &'static str,
    /// Of the caller.
    pub(super) heard: Duration,
    /// By us.
    pub(super) said: Duration,
    pub(super) marks: Option<&'a Marks>,
    /// Keys that the caller pressed.
    pub(super) digits: u64,
    /// Whether a clear went out; `None`: it was due, and the dialect has no word for it.
    pub(super) cleared: Option<bool>,
    pub(super) tally: Tally,
    pub(super) ending: Ending,
}

impl Default for Report<'_> {
    fn default() -> Self {
        Self {
            dialect: "unknown",
            heard: Duration::ZERO,
            said: Duration::ZERO,
            marks: None,
            digits: 0,
            cleared: Some(false),
            tally: Tally::default(),
            ending: Ending::Lost,
        }
    }
}

/// A call whose dialect is known.
struct Talk {
    leg: Leg,
    ear: Ear,
    speech: Option<Speech>,
    /// An audio message of ours is a multiple of this many samples.
    unit: usize,
    chunk: usize,
    /// A mark for audio that was sent, for which there was no room any more.
    owed: Option<Name>,
    first_said: Option<Now>,
    said: Duration,
    /// `None`: the dialect has no word for it.
    cleared: Option<bool>,
    /// So much of what is to be asked of the line was asked.
    asked: usize,
    next_beat: Now,
    opened: Now,
    /// When we last heard audio, or did not listen.
    alive: Now,
    paused: bool,
    /// The vendor's side of the WebSocket is over.
    over: bool,
    /// A message that had to be padded.
    padded: Vec<i16>,
}

impl Talk {
    fn new(name: &str, plan: &Plan, now: Now) -> Option<Self> {
        // What the platform does not have, its request target does not mean: Ozonetel is 8 kHz whatever it names.
        let rate = plan.rate.filter(|rate| dialect::rates(name).contains(rate));
        let dialect = dialect::open(name, Role::Agent, rate, plan.script.bare_rate, &plan.script.options)?;
        let rate = dialect.rate();
        let style = if dialect.marks_ride_on_audio() { Style::Uuid(plan.number) } else { Style::Short };
        // Bare samples have no word for a start: they start with the connection.
        let started = (dialect.name() == "binary").then_some(now);
        let leg = Leg::new(Setup {
            side: Side::Server,
            dialect,
            facts: Facts::default(),
            rate,
            now,
            epoch_ms: plan.epoch_ms,
            ping_every: PING_EVERY,
        });
        let mut this = Self {
            leg,
            ear: Ear::new(rate, matches!(plan.script.part, Part::Echo), Marks::new(style), started),
            speech: None,
            unit: 1,
            chunk: 1,
            owed: None,
            first_said: None,
            said: Duration::ZERO,
            cleared: Some(false),
            asked: 0,
            next_beat: now + PING_EVERY,
            opened: now,
            alive: now,
            paused: false,
            over: false,
            padded: Vec::new(),
        };
        this.tune();
        this.leg.open(now);
        Some(this)
    }

    /// Takes on what the dialect has learned of its rate.
    fn tune(&mut self) {
        let dialect = self.leg.dialect();
        let rate = dialect.rate();
        self.unit = dialect.unit().min(dialect.chunk());
        self.chunk = dialect.chunk() / self.unit * self.unit;
        if self.ear.rate != rate {
            self.ear.rate = rate;
            self.leg.set_rate(rate);
        }
    }

    fn advance(&mut self, now: Now, script: &Script, ended: bool) -> Option<Ending> {
        let mut ending = None;
        loop {
            ending = ending.or(self.listen(now));
            let ended = ended || ending.is_some();
            if self.over || ended {
                return ending;
            }
            if now >= self.next_beat {
                self.next_beat = now + PING_EVERY;
                if !self.leg.beat(now) {
                    self.over = true;
                    return Some(Ending::Silent);
                }
            }
            if now >= self.give_up_at() {
                let (ending, why) = match self.ear.started {
                    Some(_) => (Ending::NoMedia, (NORMAL, "")),
                    None => (Ending::NoStart, (UNHEARD, "no start came")),
                };
                self.leg.close(why.0, why.1);
                return Some(ending);
            }
            let said = self.leg.tally().messages_out;
            ending = self.act(now, script);
            if ending.is_some() || !self.paused || self.leg.tally().messages_out == said {
                return ending;
            }
            // What was said has made room to hear more.
        }
    }

    /// When a call that goes on like this is over.
    fn give_up_at(&self) -> Now {
        match self.ear.started {
            Some(started) => started.max(self.ear.last).max(self.alive) + DRY,
            None => self.opened + PATIENCE,
        }
    }

    fn listen(&mut self, now: Now) -> Option<Ending> {
        while !self.over {
            match self.leg.handle(now, &mut self.ear) {
                Ok(_) if mem::take(&mut self.ear.held) => self.tune(),
                Ok(flow) => {
                    self.paused = flow == Flow::Paused;
                    if self.paused {
                        self.alive = now;
                    }
                    break;
                }
                Err(over) => {
                    self.over = true;
                    return Some(match over {
                        _ if self.ear.stopped => Ending::Stopped,
                        Over::Closed(code) => Ending::Closed(code),
                        Over::Violation(violation) => Ending::Violation(violation),
                        Over::Grammar(reason) => Ending::Grammar(reason),
                    });
                }
            }
        }
        if self.ear.stopped {
            self.leg.close(NORMAL, "");
            return Some(Ending::Stopped);
        }
        None
    }

    /// Does what is due.
    fn act(&mut self, now: Now, script: &Script) -> Option<Ending> {
        let started = self.ear.started?;
        if let Some(after) = script.hangup_after
            && now >= started + after
        {
            // With a full out buffer the word does not fit, but a close always does.
            if !self.leg.say(now, Say::HangUp) {
                self.leg.close(NORMAL, "");
            }
            return Some(Ending::HungUp);
        }
        if !self.leg.has_room() || !self.settle(now) {
            return None;
        }
        if let Some(at) = self.clear_at(script)
            && now >= at
        {
            self.cleared = self.leg.say(now, Say::Clear).then_some(true);
            self.ear.forget();
            if let Some(speech) = &mut self.speech {
                speech.stop();
            }
        }
        while let Some((after, wish)) = script.asks.get(self.asked)
            && now >= started + *after
            && self.leg.has_room()
        {
            self.leg.say(now, Say::Wish(wish));
            self.asked += 1;
        }
        if self.speech.is_none()
            && let Part::Say(voice) | Part::Burst(voice) = &script.part
        {
            let dialects_own = Now::from_millis(self.leg.dialect().lead_ms());
            let lead = match script.part {
                Part::Say(_) => Some(script.lead.unwrap_or(dialects_own)),
                Part::Burst(_) | Part::Echo | Part::Silent => None,
            };
            self.speech = Some(Speech::new(voice.at(self.ear.rate), self.ear.rate, started, lead));
        }
        while self.speak(now, script.marks) {}
        None
    }

    /// Says one message of audio; `false`: nothing is due, or there is no room.
    fn speak(&mut self, now: Now, marks: bool) -> bool {
        if !self.leg.has_room() || !self.settle(now) {
            return false;
        }
        let samples = match &self.speech {
            Some(speech) => speech.due(now, self.chunk),
            None => self.ear.echo(now, self.unit, self.chunk),
        };
        let n = samples.len();
        if n == 0 {
            return false;
        }
        let name = marks.then(|| self.ear.marks.next());
        let rides = self.leg.dialect().marks_ride_on_audio();
        let rode = rides && name.as_deref().is_some_and(|name| self.leg.say(now, Say::Mark(name)));
        let whole = n.next_multiple_of(self.unit);
        let message = if whole == n {
            samples
        } else {
            self.padded.clear();
            self.padded.extend_from_slice(samples);
            self.padded.resize(whole, 0);
            &self.padded
        };
        if !self.leg.write_audio(now, message) {
            return false;
        }
        self.said += self.ear.rate.duration(n);
        self.first_said.get_or_insert(now);
        match &mut self.speech {
            Some(speech) => speech.said(n),
            None => self.ear.echoed(n),
        }
        if rode {
            self.ear.marks.ask();
        } else if !rides {
            self.owed = name;
        }
        true
    }

    /// Asks for the mark that is owed; `false`: there is no room for it.
    fn settle(&mut self, now: Now) -> bool {
        let Some(name) = &self.owed else { return true };
        if self.leg.say(now, Say::Mark(name)) {
            self.ear.marks.ask();
        } else if !self.leg.has_room() {
            return false;
        }
        self.owed = None; // asked for, or the dialect has no word for it
        true
    }

    fn clear_at(&self, script: &Script) -> Option<Now> {
        let due = self.first_said? + script.clear_after?;
        (self.cleared == Some(false)).then_some(due)
    }

    fn poll_timeout(&self, script: &Script) -> Now {
        let mut next = self.next_beat.min(self.give_up_at());
        if let (Some(started), Some(after)) = (self.ear.started, script.hangup_after) {
            next = next.min(started + after);
        }
        // Without room nothing can be said before something was written.
        if self.leg.has_room() {
            let speech = self.speech.as_ref().and_then(|speech| speech.next(self.chunk));
            let ask = self.ear.started.zip(script.asks.get(self.asked)).map(|(started, (after, _))| started + *after);
            for at in [self.clear_at(script), speech, self.ear.rest_at(), ask].into_iter().flatten() {
                next = next.min(at);
            }
        }
        next
    }
}

/// What was heard.
struct Ear {
    rate: Rate,
    /// Whether samples are kept, to go back.
    keeps: bool,
    samples: Vec<i16>,
    /// Those before this place went back.
    from: usize,
    /// Those from this place on may still turn out to be none.
    published: usize,
    /// When the last of them came.
    last: Now,
    started: Option<Now>,
    /// The call has begun, and the rate may be another from here on: no more is taken before that is settled.
    held: bool,
    stopped: bool,
    heard: Duration,
    digits: u64,
    /// What was told of the line and not taken yet.
    told: VecDeque<Told>,
    marks: Marks,
}

impl Ear {
    const fn new(rate: Rate, keeps: bool, marks: Marks, started: Option<Now>) -> Self {
        Self {
            rate,
            keeps,
            samples: Vec::new(),
            from: 0,
            published: 0,
            last: Now::ZERO,
            started,
            held: false,
            stopped: false,
            heard: Duration::ZERO,
            digits: 0,
            told: VecDeque::new(),
            marks,
        }
    }

    /// Samples to go back in one message: whole units as long as more may come.
    fn echo(&self, now: Now, unit: usize, chunk: usize) -> &[i16] {
        let waiting = &self.samples[self.from..self.published];
        let whole = waiting.len().min(chunk) / unit * unit;
        if whole > 0 || self.rest_at().is_some_and(|at| now < at) { &waiting[..whole] } else { waiting }
    }

    /// When what is left is to go back, though it is less than a unit.
    fn rest_at(&self) -> Option<Now> {
        (self.from < self.published).then_some(self.last + REST)
    }

    fn echoed(&mut self, n: usize) {
        self.from += n;
        if self.from == self.samples.len() {
            self.samples.clear();
            (self.from, self.published) = (0, 0);
        } else if self.from >= CAPACITY / 4 {
            self.samples.drain(..self.from);
            self.published -= self.from;
            self.from = 0;
        }
    }

    /// What did not go back yet will not.
    fn forget(&mut self) {
        self.echoed(self.published - self.from);
    }
}

impl Sink for Ear {
    fn rate(&self) -> Rate {
        self.rate
    }

    fn room(&self) -> usize {
        if self.held { 0 } else { CAPACITY.saturating_sub(self.samples.len() - self.from) }
    }

    fn stage(&mut self, samples: &[i16]) {
        self.samples.extend_from_slice(samples);
    }

    fn publish(&mut self, now: Now) {
        self.heard += self.rate.duration(self.samples.len() - self.published);
        self.published = self.samples.len();
        self.last = now;
        self.started.get_or_insert(now);
        if !self.keeps {
            self.forget();
        }
    }

    fn rollback(&mut self) {
        self.samples.truncate(self.published);
    }

    fn event(&mut self, now: Now, event: Event<'_>) {
        match event {
            Event::Start => {
                self.started.get_or_insert(now);
                self.held = true;
            }
            Event::Clear => self.forget(),
            Event::Heard(name) => self.marks.hear(name),
            Event::Dtmf(_) => self.digits += 1,
            Event::Stop => self.stopped = true,
            Event::Held(held) => self.told.push_back(Told::Held(held)),
            Event::Transfer(transfer) => self.told.push_back(Told::Transfer(transfer)),
            Event::None
            | Event::Unknown
            | Event::Mark(_)
            | Event::HangUp
            | Event::Transcript { .. }
            | Event::Fault(_)
            | Event::Broken(_)
            | Event::Expiring
            | Event::Wish(_) => {}
        }
    }
}

/// The most that one message may have (bytes).
const MAX_MESSAGE: u64 = 1 << 20;
/// What an echo holds back at most (samples): the largest message that comes whole, at 48 kHz, and as much again.
const CAPACITY: usize = 96 * 1024;
/// An echo's rest that makes no whole message waits so long for more.
const REST: Now = Now::from_millis(60);
/// How long we wait for a message that tells the dialect.
const PATIENCE: Now = Now::from_secs(10);
/// A vendor that sends no audio for so long has lost the call without a word.
const DRY: Now = Now::from_secs(60);
/// How long we wait for an answer to our goodbye.
const GOODBYE: Now = Now::from_secs(2);
/// How often a vendor's life is tested.
const PING_EVERY: Now = Now::from_secs(20);
/// RFC 6455 7.4.1: all is done.
const NORMAL: u16 = 1000;
/// RFC 6455 7.4.1: against our policy, for want of a better one.
const UNHEARD: u16 = 1008;
/// RFC 6455 7.4.1: the server goes down.
const GOING_AWAY: u16 = 1001;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        cli::agent::behave::Voice,
        dialect::{OptionValue, Options, StopReason, Wish},
    };

    /// A vendor with a caller, the agent, and the wire between them.
    struct Line {
        vendor: Leg,
        caller: Caller,
        call: Call,
        now: Now,
        /// Bytes that pass to the vendor at a time.
        width: usize,
        obeys: bool,
    }

    /// What the vendor took in.
    struct Caller {
        rate: Rate,
        staged: usize,
        heard: Vec<i16>,
        /// How much was heard when.
        arrivals: Vec<(Now, usize)>,
        marks: Vec<(String, usize)>,
        clears: usize,
        hang_ups: usize,
        /// After so much was heard.
        wishes: Vec<(usize, Wish)>,
        over: Option<Over>,
    }

    impl Sink for Caller {
        fn rate(&self) -> Rate {
            self.rate
        }
        fn room(&self) -> usize {
            1 << 20
        }
        fn stage(&mut self, samples: &[i16]) {
            self.heard.extend_from_slice(samples);
            self.staged += samples.len();
        }
        fn publish(&mut self, now: Now) {
            self.arrivals.push((now, self.heard.len()));
            self.staged = 0;
        }
        fn rollback(&mut self) {
            self.heard.truncate(self.heard.len() - self.staged);
            self.staged = 0;
        }
        fn event(&mut self, _: Now, event: Event<'_>) {
            match event {
                Event::Mark(name) => self.marks.push((name.to_owned(), self.heard.len())),
                Event::Clear => self.clears += 1,
                Event::HangUp => self.hang_ups += 1,
                Event::Wish(asked) => self.wishes.push((self.heard.len(), asked.wish().unwrap())),
                other => panic!("a vendor heard {other:?}"),
            }
        }
    }

    fn script(part: Part) -> Script {
        let (options, bare_rate) = (Options::default(), Rate::Hz8000);
        Script {
            part,
            clear_after: None,
            hangup_after: None,
            lead: None,
            asks: vec![],
            marks: false,
            options,
            bare_rate,
        }
    }

    const fn ms(ms: u64) -> Now {
        Now::from_millis(ms)
    }

    fn noise(len: usize) -> Vec<i16> {
        let mut state = 0x2545_f491_u32;
        (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                state as i16
            })
            .collect()
    }

    fn voice(len: usize) -> Voice {
        Voice::new(Rate::Hz8000, noise(len))
    }

    /// Those that carry samples as they are.
    const DIALECTS: [&str; 4] = ["binary", "ozonetel", "exotel", "vonage"];
    const START: Now = ms(1_000);

    impl Line {
        fn quiet(vendor: &str, rate: Rate, agent: Option<&'static str>, script: Script) -> Self {
            let dialect = dialect::open(vendor, Role::Vendor, Some(rate), rate, &Options::default()).unwrap();
            let facts = Facts {
                ucid: "17672256001231234".try_into().unwrap(),
                stream_sid: "abcdefgh2345".try_into().unwrap(),
                call_sid: "0f8b2c6e-51d4-4f0a-9e37-62a1c4d97b80".try_into().unwrap(),
                account: "harbour".try_into().unwrap(),
                ..Facts::default()
            };
            let (now, epoch_ms) = (START, 1_767_225_600_000);
            let setup =
                Setup { side: Side::Client, dialect, facts, rate, now, epoch_ms, ping_every: Now::from_secs(20) };
            let plan = Plan { script: Arc::new(script), dialect: agent, rate: None, epoch_ms, number: 0xc0ff_ee01 };
            let caller = Caller {
                rate,
                staged: 0,
                heard: Vec::new(),
                arrivals: Vec::new(),
                marks: Vec::new(),
                clears: 0,
                hang_ups: 0,
                wishes: Vec::new(),
                over: None,
            };
            Self { vendor: Leg::new(setup), caller, call: Call::new(plan, now), now, width: usize::MAX, obeys: true }
        }

        /// A call that has begun.
        fn open(vendor: &str, agent: Option<&'static str>, script: Script) -> Self {
            let mut line = Self::quiet(vendor, Rate::Hz8000, agent, script);
            line.vendor.open(line.now);
            line.pass();
            line
        }

        fn give(&mut self, mut bytes: &[u8]) -> usize {
            let all = bytes.len();
            while !bytes.is_empty() && self.call.wants_read() && !self.call.spare().is_empty() {
                let spare = self.call.spare();
                let n = bytes.len().min(spare.len());
                spare[..n].copy_from_slice(&bytes[..n]);
                self.call.filled(n);
                self.call.advance(self.now);
                bytes = &bytes[n..];
            }
            all - bytes.len()
        }

        /// Lets bytes pass until nothing moves, or once each way where the wire is narrow.
        fn pass(&mut self) {
            loop {
                let said = self.vendor.out().to_vec();
                let given = self.give(&said);
                self.vendor.written(given);
                self.call.advance(self.now);
                assert!(self.call.out().len() <= 16 * 1024);
                let n = self.call.out().len().min(self.width);
                let fed = self.vendor.feed(&self.call.out()[..n]);
                self.call.written(fed);
                self.call.advance(self.now);
                if self.caller.over.is_none() {
                    self.caller.over = self.vendor.handle(self.now, &mut self.caller).err();
                }
                if mem::take(&mut self.caller.hang_ups) > 0 && self.obeys {
                    self.vendor.say(self.now, Say::Stop(StopReason::Ended));
                }
                if (given == 0 && fed == 0) || self.width < usize::MAX {
                    return;
                }
            }
        }

        /// The caller says this, in messages of so many samples, all at the present moment.
        fn say(&mut self, samples: &[i16], size: usize) {
            for message in samples.chunks(size) {
                while !self.vendor.write_audio(self.now, message) {
                    self.pass();
                }
            }
            self.pass();
        }

        /// Time passes. The agent is woken only when it asked to be.
        fn run(&mut self, until: Now) {
            let mut wakes = 0;
            loop {
                let at = self.call.poll_timeout();
                if at > until || self.call.is_done(self.now) {
                    break;
                }
                wakes += 1;
                assert!(wakes < 20_000, "woken again and again at {at:?}");
                self.now = self.now.max(at);
                self.pass();
            }
            self.now = until;
            self.pass();
        }
    }

    #[test]
    fn an_echo_gives_every_sample_back_at_the_same_moment() {
        for vendor in DIALECTS {
            for agent in [None, Some(vendor)] {
                let mut line = Line::open(vendor, agent, script(Part::Echo));
                let sent = noise(160 * 100);
                for (i, frame) in sent.chunks(160).enumerate() {
                    line.say(frame, 160);
                    assert_eq!(line.caller.heard.len(), (i + 1) * 160, "{vendor}");
                    line.run(START + ms(20 * (i as u64 + 1)));
                }
                assert_eq!(line.caller.heard, sent, "{vendor} {agent:?}");
                let packets = if vendor == "ozonetel" { 200 } else { 100 };
                assert_eq!(line.caller.arrivals.len(), packets, "{vendor}");
                let report = line.call.report();
                assert_eq!((report.heard, report.said), (ms(2000), ms(2000)));
                assert_eq!(report.dialect, vendor);
            }
        }
    }

    #[test]
    fn an_echo_of_an_uneven_piece_comes_padded_when_no_more_follows() {
        for (vendor, at_once, whole) in [("ozonetel", 400, 480), ("exotel", 320, 480), ("binary", 410, 410)] {
            let mut line = Line::open(vendor, None, script(Part::Echo));
            let sent = noise(410);
            line.say(&sent, 80);
            assert_eq!(line.caller.heard, sent[..at_once], "{vendor}");
            line.run(START + ms(59));
            assert_eq!(line.caller.heard.len(), at_once, "{vendor}");
            line.run(START + ms(60));
            let mut padded = sent;
            padded.resize(whole, 0);
            assert_eq!(line.caller.heard, padded, "{vendor}");
            line.run(START + ms(10_000));
            assert_eq!(line.caller.heard.len(), whole, "{vendor}: once");
        }
    }

    #[test]
    fn an_echo_takes_its_rate_from_the_start_though_audio_follows_at_once() {
        for rate in [Rate::Hz16000, Rate::Hz24000] {
            let mut line = Line::quiet("exotel", rate, None, script(Part::Echo));
            let sent = noise(rate.frame() * 5);
            line.vendor.open(line.now);
            line.say(&sent, rate.frame()); // the start and the first audio are read together
            assert_eq!(line.caller.heard, sent, "{rate}");
            assert_eq!(line.call.report().heard, ms(100));
        }
    }

    #[test]
    fn a_request_target_tells_the_rate_of_bare_samples() {
        let mut line = Line::quiet("binary", Rate::Hz16000, None, script(Part::Echo));
        line.call.plan.rate = Some(Rate::Hz16000);
        line.say(&noise(1600), 320);
        assert_eq!(line.call.report().heard, ms(100));
    }

    #[test]
    fn a_say_is_paced_to_its_lead_and_said_once() {
        for (vendor, own) in [("ozonetel", 200), ("exotel", 400)] {
            for lead in [None, Some(120)] {
                let mut rules = script(Part::Say(voice(8_050)));
                rules.lead = lead.map(ms);
                let mut line = Line::open(vendor, None, rules);
                line.run(START + ms(5_000));
                for &(now, heard) in &line.caller.arrivals {
                    let at_most = (now - START) + ms(lead.unwrap_or(own)) + ms(20); // padding
                    assert!(Rate::Hz8000.duration(heard) <= at_most, "{vendor}: {heard} at {now:?}");
                }
                let mut padded = noise(8_050);
                padded.resize(if vendor == "ozonetel" { 8_080 } else { 8_160 }, 0);
                assert_eq!(line.caller.heard, padded, "{vendor}");
                let last = line.caller.arrivals.last().unwrap().0 - START;
                assert!(last > ms(600), "{vendor}: the last came after {last:?}");
                assert!(line.call.ending.is_none(), "it does not hang up by itself");
            }
        }
    }

    #[test]
    fn a_burst_says_minutes_in_a_moment_and_the_out_buffer_bounds_it() {
        for vendor in DIALECTS {
            let mut line = Line::open(vendor, None, script(Part::Burst(voice(8_000 * 180))));
            if vendor == "binary" {
                line.say(&[0; 160], 160);
            }
            assert!(line.caller.heard == noise(8_000 * 180), "{vendor}");
            assert_eq!(line.now, START);
            assert_eq!(line.call.report().said, ms(180_000));
        }
    }

    #[test]
    fn a_burst_waits_for_a_socket_that_is_full() {
        for vendor in ["ozonetel", "exotel"] {
            let mut line = Line::quiet(vendor, Rate::Hz8000, None, script(Part::Burst(voice(80_000))));
            line.width = 1000;
            line.vendor.open(line.now);
            let mut passes = 0;
            while line.caller.heard.len() < 80_000 {
                line.pass();
                passes += 1;
                assert!(passes < 10_000, "{vendor} stopped at {}", line.caller.heard.len());
                // Without room there is nothing to wake up for: only a write gives it.
                if !line.call.out().is_empty() {
                    assert_eq!(line.call.poll_timeout(), START + ms(20_000), "{vendor}");
                }
            }
            assert!(line.caller.heard == noise(80_000), "{vendor}");
        }
    }

    #[test]
    fn silence_is_silent_and_hears() {
        for vendor in DIALECTS {
            let mut line = Line::open(vendor, None, script(Part::Silent));
            line.say(&noise(16_000), 160);
            line.run(START + ms(15_000));
            assert_eq!(line.caller.heard, [0; 0]);
            assert_eq!(line.call.report().heard, ms(2000), "{vendor}");
            assert_eq!(line.call.report().tally.messages_out, 0, "{vendor}");
        }
    }

    #[test]
    fn a_clear_is_sent_once_in_time_and_nothing_of_the_speech_follows() {
        for vendor in ["ozonetel", "exotel"] {
            let mut rules = script(Part::Say(voice(80_000)));
            rules.clear_after = Some(ms(1500));
            let mut line = Line::open(vendor, None, rules);
            line.run(START + ms(1499));
            assert_eq!(line.caller.clears, 0);
            line.run(START + ms(1500));
            assert_eq!(line.caller.clears, 1, "{vendor}");
            let heard = line.caller.heard.len();
            assert_eq!(line.caller.heard, noise(80_000)[..heard]);
            line.run(START + ms(60_000 - 1));
            assert_eq!((line.caller.clears, line.caller.heard.len()), (1, heard), "{vendor}");
            assert_eq!(line.call.report().cleared, Some(true));
        }
    }

    #[test]
    fn an_echo_goes_on_after_its_clear() {
        let mut rules = script(Part::Echo);
        rules.clear_after = Some(ms(100));
        let mut line = Line::open("exotel", None, rules);
        line.say(&noise(160), 160);
        line.run(START + ms(500));
        line.say(&noise(160), 160);
        assert_eq!((line.caller.clears, line.caller.heard.len()), (1, 320));
    }

    #[test]
    fn a_dialect_without_a_word_for_clear_is_told_in_the_report() {
        let mut rules = script(Part::Echo);
        rules.clear_after = Some(ms(100));
        let mut line = Line::open("binary", None, rules);
        line.say(&noise(160), 160);
        line.run(START + ms(500));
        assert_eq!(line.call.report().cleared, None);
    }

    #[test]
    fn every_message_asks_for_a_mark_at_its_end_and_counts_it_back() {
        for (vendor, chunk, first) in [("ozonetel", 80, "c0ffee01-0000-4000-8000-000000000001"), ("exotel", 1600, "m1")]
        {
            let mut rules = script(Part::Burst(voice(16_000)));
            rules.marks = true;
            let mut line = Line::open(vendor, None, rules);
            let marks = mem::take(&mut line.caller.marks);
            assert_eq!(marks[0].0, first);
            let places: Vec<usize> = marks.iter().map(|mark| mark.1).collect();
            let ends: Vec<usize> = (1..=16_000 / chunk).map(|n| n * chunk).collect();
            assert_eq!(places, ends, "{vendor}");
            for (name, _) in &marks {
                while !line.vendor.say(line.now, Say::Heard(name)) {
                    line.pass();
                }
            }
            line.pass();
            let report = line.call.report();
            let told = report.marks.unwrap();
            let asked = ends.len() as u64;
            assert_eq!((told.asked, told.heard, told.in_order), (asked, asked, true), "{vendor}");
        }
    }

    #[test]
    fn marks_survive_a_socket_that_is_full() {
        for vendor in ["ozonetel", "exotel"] {
            let mut rules = script(Part::Burst(voice(80_000)));
            rules.marks = true;
            let mut line = Line::quiet(vendor, Rate::Hz8000, None, rules);
            line.width = 777;
            line.vendor.open(line.now);
            for _ in 0..3000 {
                line.pass();
            }
            let chunk = if vendor == "ozonetel" { 80 } else { 1600 };
            let places: Vec<usize> = line.caller.marks.iter().map(|mark| mark.1).collect();
            assert!(places == (1..=80_000 / chunk).map(|n| n * chunk).collect::<Vec<_>>(), "{vendor}");
        }
    }

    #[test]
    fn what_is_to_be_asked_of_the_line_is_asked_when_it_is_due_and_the_answer_is_told() {
        for vendor in ["binary", "ozonetel", "exotel", "vonage", "plivo", "twilio", "telnyx"] {
            let mut rules = script(Part::Silent);
            let (digits, transfer) = (Wish::digits("12#").unwrap(), Wish::transfer("sip:300@pbx").unwrap());
            rules.asks = vec![(ms(300), digits.clone()), (ms(700), transfer.clone())];
            let mut line = Line::open(vendor, Some(vendor), rules);
            line.run(START + ms(299));
            assert!(line.caller.wishes.is_empty(), "{vendor}");
            line.run(START + ms(300));
            assert_eq!(line.caller.wishes, [(0, digits.clone())], "{vendor}");
            line.run(START + ms(800));
            assert_eq!(line.caller.wishes, [(0, digits), (0, transfer)], "{vendor}");

            let told = [Told::Held(true), Told::Held(false), Told::Transfer(Transfer::Failed { status: 486 })];
            let says = [Say::Held(true), Say::Held(false), Say::Transfer(Transfer::Failed { status: 486 })];
            let can = says.map(|say| line.vendor.say(line.now, say));
            line.pass();
            let heard: Vec<_> = core::iter::from_fn(|| line.call.poll_told()).collect();
            assert_eq!(can, [vendor != "binary"; 3], "{vendor}");
            assert_eq!(heard, if vendor == "binary" { &[] } else { &told[..] }, "{vendor}");
        }
    }

    #[test]
    fn a_hang_up_is_said_in_the_dialects_own_way() {
        for vendor in DIALECTS {
            let mut rules = script(Part::Silent);
            rules.hangup_after = Some(ms(700));
            let mut line = Line::open(vendor, Some(vendor), rules);
            line.run(START + ms(699));
            assert!(line.call.ending.is_none());
            line.run(START + ms(700));
            assert_eq!(line.call.report().ending, Ending::HungUp, "{vendor}");
            assert_eq!(line.caller.over, Some(Over::Closed(Some(1000))), "{vendor}");
            assert!(line.call.is_done(line.now), "{vendor}");
        }
    }

    #[test]
    fn a_vendor_that_does_not_heed_a_hang_up_is_closed_and_then_dropped() {
        let mut rules = script(Part::Echo);
        rules.hangup_after = Some(ms(700));
        let mut line = Line::open("ozonetel", None, rules);
        line.obeys = false;
        line.run(START + ms(2_699));
        assert_eq!(line.caller.over, None);
        line.run(START + ms(2_700));
        assert_eq!(line.caller.over, Some(Over::Closed(Some(1000))));

        let mut deaf = script(Part::Echo);
        deaf.hangup_after = Some(ms(700));
        let mut line = Line::open("ozonetel", None, deaf);
        line.width = 0;
        line.run(START + ms(4_699));
        assert!(!line.call.is_done(line.now));
        line.run(START + ms(4_700));
        assert!(line.call.is_done(line.now));
    }

    #[test]
    fn a_vendor_that_stops_is_let_go() {
        for vendor in ["ozonetel", "exotel"] {
            let mut line = Line::open(vendor, None, script(Part::Echo));
            line.vendor.say(line.now, Say::Stop(StopReason::CallerHungUp));
            line.pass();
            assert_eq!(line.call.report().ending, Ending::Stopped);
            assert_eq!(line.caller.over, Some(Over::Closed(Some(1000))));
            assert!(line.call.is_done(line.now));
        }
        let mut line = Line::open("exotel", None, script(Part::Echo));
        line.vendor.close(1000, "");
        line.pass();
        assert_eq!(line.call.report().ending, Ending::Closed(Some(1000)));
        assert!(line.vendor.is_closed() && line.call.is_done(line.now));
    }

    #[test]
    fn a_vendor_that_breaks_the_protocol_gets_the_code_for_it() {
        for agent in [None, Some("ozonetel")] {
            let mut line = Line::quiet("ozonetel", Rate::Hz8000, agent, script(Part::Echo));
            line.give(b"\x81\x05hello"); // without a mask
            line.pass();
            assert_eq!(line.caller.over, Some(Over::Closed(Some(1002))));
            assert_eq!(line.call.report().ending.to_string(), "agent: a frame from a client is not masked");
            assert!(line.call.is_done(line.now));
        }
    }

    #[test]
    fn a_connection_that_tells_no_dialect_is_closed_after_ten_seconds() {
        let mut line = Line::quiet("ozonetel", Rate::Hz8000, None, script(Part::Echo));
        line.run(START + ms(9_999));
        assert_eq!(line.caller.over, None);
        line.run(START + ms(10_000));
        assert_eq!(line.caller.over, Some(Over::Closed(Some(1008))));
        assert_eq!(line.call.report().ending, Ending::Mute);
        assert!(line.call.is_done(line.now));
    }

    #[test]
    fn a_dialect_that_was_fixed_waits_for_its_start_no_longer_than_one_that_was_not() {
        for vendor in ["ozonetel", "exotel"] {
            let mut line = Line::quiet(vendor, Rate::Hz8000, Some(vendor), script(Part::Echo));
            line.run(START + ms(9_999));
            assert_eq!(line.caller.over, None);
            line.run(START + ms(10_000));
            assert_eq!(line.caller.over, Some(Over::Closed(Some(1008))));
            assert_eq!(line.call.report().ending, Ending::NoStart);
            assert!(line.call.is_done(line.now));
        }
    }

    #[test]
    fn a_call_without_audio_is_over_after_a_minute() {
        for vendor in DIALECTS {
            let mut line = Line::open(vendor, Some(vendor), script(Part::Echo));
            line.run(START + ms(50_000));
            line.say(&noise(160), 160);
            line.run(START + ms(109_999));
            assert_eq!(line.caller.over, None, "{vendor}");
            line.run(START + ms(110_000));
            assert_eq!(line.caller.over, Some(Over::Closed(Some(1000))), "{vendor}");
            assert_eq!(line.call.report().ending, Ending::NoMedia);
            assert!(line.call.is_done(line.now));
        }
    }

    #[test]
    fn an_option_of_the_dialect_reaches_it() {
        let mut rules = script(Part::Echo);
        rules.options.set("exotel", "chunk-bytes", OptionValue::Int(320)).unwrap();
        let mut line = Line::open("exotel", None, rules);
        line.say(&noise(1600), 1600);
        assert_eq!(line.caller.arrivals.len(), 10);
    }

    #[test]
    fn a_vendor_that_answers_no_ping_is_given_up() {
        let mut line = Line::open("ozonetel", None, script(Part::Silent));
        line.width = 0;
        line.run(START + ms(59_999));
        assert!(line.call.ending.is_none());
        line.run(START + ms(60_000));
        assert_eq!(line.call.report().ending, Ending::Silent);
    }

    #[test]
    fn a_vendor_that_reads_nothing_is_read_no_further_and_loses_nothing() {
        for vendor in DIALECTS {
            let mut line = Line::open(vendor, None, script(Part::Echo));
            let sent = noise(400_000);
            line.width = 0;
            let mut given = 0;
            for frame in sent.chunks(160) {
                if !line.vendor.write_audio(line.now, frame) {
                    break;
                }
                given += 160;
                line.pass();
            }
            assert!(given < 200_000, "{vendor}: {given} samples were taken");
            assert!(!line.call.wants_read());
            line.width = usize::MAX;
            line.pass();
            assert!(line.caller.heard == sent[..given], "{vendor}");
        }
    }

    #[test]
    fn a_clear_from_the_vendor_empties_the_echo() {
        let mut line = Line::open("ozonetel", None, script(Part::Echo));
        line.say(&noise(100), 100);
        line.give(b"\x81\x99\x00\x00\x00\x00{\"command\":\"clearBuffer\"}");
        line.run(START + ms(1000));
        assert_eq!(line.caller.heard.len(), 80, "the rest of 20 samples was forgotten");
    }

    #[test]
    fn an_interrupted_call_is_closed_as_going_away() {
        for agent in [None, Some("exotel")] {
            let mut line = Line::quiet("exotel", Rate::Hz8000, agent, script(Part::Echo));
            line.call.interrupt(line.now);
            line.pass();
            assert_eq!(line.caller.over, Some(Over::Closed(Some(1001))));
            assert_eq!(line.call.report().ending, Ending::Interrupted);
        }
    }
}
