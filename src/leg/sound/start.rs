//! When a call of a sound line starts and ends, and which tone the person in the room hears meanwhile. Pure: what happens
//! comes in, what is to be done is polled.
//!
//! ```text
//!  card, keys, speech ---->         ----> a call begins, ends
//!                            Start
//!  what became of calls -->         ----> tones
//! ```
//!
//! A sound line has one call at a time. Whoever polls [`Action::Begin`] tells what became of it: [`Start::handle_begun`],
//! or [`Start::handle_no_seat`], or [`Start::handle_ended`]. Until then no other begins.

use core::fmt;

use crate::{call::EndReason, leg::sound::tones::Tone, media::Now};

/// What starts a call: `start` of a sound line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// That the sound card is there: there is a call whenever there can be one.
    Always,
    /// That somebody speaks.
    Vad {
        /// So much silence of both sides ends it: `silence-seconds`.
        silence: Now,
    },
    /// `trunkline press`; `trunkline release` ends it.
    Key,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A call begins.
    Begin,
    /// The call ends for this reason.
    End(EndReason),
    /// This tone is heard instead of whatever was. [`Tone::Connecting`] goes on until the next action about tones.
    Play(Tone),
    /// No tone is heard.
    Hush,
}

/// What whoever presses or releases is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Pressed: a call begins.
    Begins,
    /// Released: the call ends.
    Ends,
    /// Pressed, and a call is up.
    AlreadyOn,
    /// Released, and no call is up.
    NotOn,
    /// Calls of this line start otherwise.
    NotByKey,
    /// Pressed, and the sound card is unplugged.
    NoCard,
    /// Pressed, and the daemon takes no new calls.
    Draining,
}

/// Decides for one sound line.
#[derive(Clone, Debug)]
pub struct Start {
    mode: Mode,
    state: State,
    card: Card,
    draining: bool,
    /// Calls in a row that came to nothing.
    failures: u32,
    /// The person in the room has heard that calls fail. A line that tries again by itself does not say so each time.
    told: bool,
    /// When the caller was last heard to speak.
    spoke: Option<Now>,
    /// When either side was last heard, or could be heard again.
    heard: Now,
    /// About a tone, not polled yet.
    tone: Option<Action>,
    /// The tone plays that does not end by itself.
    connecting: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No call, and none begins by itself before this time.
    Idle { not_before: Now, wants: Wants },
    /// A call is to begin. It may be released before anybody knows what became of it.
    Asked { polled: bool, released: bool },
    /// A trunk is being dialled.
    Dialing { tone_at: Now },
    /// A trunk took the call.
    Bridged { since: Now },
    /// The call is to end, and another may wait for that.
    Ending { reason: EndReason, polled: bool, again: bool },
}

/// What begins a call in mode `vad`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wants {
    /// Speech, even one that goes on.
    Speech,
    /// The onset of speech: what goes on was meant for the call that is over.
    Onset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Card {
    There,
    Out { since: Now },
}

/// What the end of a call says about the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// This side wanted it.
    Wanted,
    /// The agent wanted it.
    ByAgent,
    /// No trunk took the call, or something broke.
    Fault,
    /// There was no room for it.
    NoSeat,
}

/// What happens by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Begin,
    End(EndReason),
    Connecting,
}

impl Start {
    /// A line whose card has not been seen yet.
    #[must_use]
    pub const fn new(mode: Mode) -> Self {
        Self {
            mode,
            state: State::Idle { not_before: Now::ZERO, wants: Wants::Speech },
            card: Card::Out { since: Now::ZERO },
            draining: false,
            failures: 0,
            told: false,
            spoke: None,
            heard: Now::ZERO,
            tone: None,
            connecting: false,
        }
    }

    /// The card is there, for the first time or again.
    pub fn handle_card_there(&mut self, now: Now) {
        if self.card != Card::There {
            self.card = Card::There;
            // Nobody could be heard before.
            self.heard = now;
        }
    }

    /// The card is unplugged. A call waits [`CARD_OUT`] for it.
    pub fn handle_card_out(&mut self, now: Now) {
        if self.card == Card::There {
            self.card = Card::Out { since: now };
            // Nobody hears them, and afterwards they would tell of what is over: whoever plays them is to forget them.
            (self.tone, self.connecting) = (Some(Action::Hush), false);
            if let State::Asked { polled: false, .. } = self.state {
                self.state = State::Idle { not_before: now, wants: Wants::Speech };
            }
        }
    }

    /// `trunkline press`.
    pub fn handle_pressed(&mut self) -> Answer {
        if self.mode != Mode::Key {
            return Answer::NotByKey;
        }
        if self.is_on() {
            return Answer::AlreadyOn;
        }
        if self.draining {
            return Answer::Draining;
        }
        if self.card != Card::There {
            return Answer::NoCard;
        }
        // Whatever it still says is about the call before.
        self.tone = Some(Action::Hush);
        match &mut self.state {
            State::Asked { released, .. } => *released = false,
            State::Ending { again, .. } => *again = true,
            State::Idle { .. } | State::Dialing { .. } | State::Bridged { .. } => self.begin(),
        }
        Answer::Begins
    }

    /// `trunkline release`.
    pub fn handle_released(&mut self, now: Now) -> Answer {
        if self.mode != Mode::Key {
            return Answer::NotByKey;
        }
        if !self.is_on() {
            return Answer::NotOn;
        }
        match &mut self.state {
            State::Ending { again, .. } => *again = false,
            State::Asked { polled: true, released } => *released = true,
            State::Asked { .. } | State::Idle { .. } => {
                self.state = State::Idle { not_before: now, wants: Wants::Onset };
            }
            State::Dialing { .. } | State::Bridged { .. } => self.end(EndReason::LineHungUp),
        }
        Answer::Ends
    }

    /// The caller begins to speak.
    pub fn handle_speech_began(&mut self, now: Now) {
        self.on_speech(now, Wants::Onset);
    }

    /// The caller is speaking: told again and again while speech is heard, and not while a detector only waits for more.
    pub fn handle_spoke(&mut self, now: Now) {
        self.on_speech(now, Wants::Speech);
    }

    /// The agent is heard: told again and again while it is.
    pub fn handle_heard(&mut self, now: Now) {
        self.heard = now;
    }

    /// The call that was asked for has begun: its trunk is being dialled.
    pub fn handle_begun(&mut self, now: Now) {
        if let State::Asked { released, .. } = self.state {
            self.state = State::Dialing { tone_at: now + SOON };
            if released {
                self.end(EndReason::LineHungUp);
            }
        }
    }

    /// A trunk took the call.
    pub fn handle_bridged(&mut self, now: Now) {
        if let State::Dialing { .. } = self.state {
            self.state = State::Bridged { since: now };
            self.told = false;
            // The microphone is muted under a tone: whoever speaks is answered by the agent instead.
            let tone = if self.may_interrupt_at() > now { Action::Hush } else { Action::Play(Tone::Connected) };
            self.say(tone);
        }
    }

    /// There was no seat for the call that was asked for.
    pub fn handle_no_seat(&mut self, now: Now) {
        self.on_end(now, End::NoSeat);
    }

    /// The call is over, or could not even begin.
    pub fn handle_ended(&mut self, now: Now, reason: EndReason) {
        self.on_end(now, End::of(reason));
    }

    /// No call begins any more. A live one goes on until the daemon ends it.
    pub fn handle_draining(&mut self, now: Now) {
        self.draining = true;
        match &mut self.state {
            State::Asked { polled: false, .. } => self.state = State::Idle { not_before: now, wants: Wants::Onset },
            State::Ending { again, .. } => *again = false,
            State::Asked { .. } | State::Idle { .. } | State::Dialing { .. } | State::Bridged { .. } => {}
        }
    }

    /// What is to be done now; to be asked until there is nothing more, after whatever was told and at
    /// [`poll_timeout`](Self::poll_timeout).
    pub fn poll_action(&mut self, now: Now) -> Option<Action> {
        match self.due() {
            Some((at, Due::Begin)) if now >= at => self.begin(),
            Some((at, Due::End(reason))) if now >= at => self.end(reason),
            Some((at, Due::Connecting)) if now >= at => self.say(Action::Play(Tone::Connecting)),
            Some(_) | None => {}
        }
        if let State::Ending { reason, polled: polled @ false, .. } = &mut self.state {
            *polled = true;
            return Some(Action::End(*reason));
        }
        if let Some(tone) = self.tone.take() {
            return Some(tone);
        }
        if let State::Asked { polled: polled @ false, .. } = &mut self.state {
            *polled = true;
            return Some(Action::Begin);
        }
        None
    }

    /// When something happens by itself, if nothing else does before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Now> {
        self.due().map(|(at, _)| at)
    }

    /// Whether there is a call, or one begins.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        match self.state {
            State::Idle { .. } => false,
            State::Asked { released, .. } => !released,
            State::Dialing { .. } | State::Bridged { .. } => true,
            State::Ending { again, .. } => again,
        }
    }

    fn due(&self) -> Option<(Now, Due)> {
        match (self.state, self.card) {
            (State::Idle { not_before, .. }, Card::There) => {
                (self.mode == Mode::Always && !self.draining).then_some((not_before, Due::Begin))
            }
            (State::Dialing { tone_at }, Card::There) => {
                let at = tone_at.max(self.may_interrupt_at());
                (!self.connecting && !self.told).then_some((at, Due::Connecting))
            }
            (State::Bridged { since }, Card::There) => match self.mode {
                Mode::Vad { silence } => {
                    let quiet_since = since.max(self.heard).max(self.spoke.unwrap_or_default());
                    Some((quiet_since + silence, Due::End(EndReason::LineHungUp)))
                }
                Mode::Always | Mode::Key => None,
            },
            (State::Dialing { .. } | State::Bridged { .. }, Card::Out { since }) => {
                Some((since + CARD_OUT, Due::End(EndReason::LineLost)))
            }
            (State::Idle { .. }, Card::Out { .. }) | (State::Asked { .. } | State::Ending { .. }, _) => None,
        }
    }

    /// When a tone cuts no word of the caller's. Only speech that started the call is minded: at a key somebody waits.
    fn may_interrupt_at(&self) -> Now {
        match (self.mode, self.spoke) {
            (Mode::Vad { .. }, Some(spoke)) => spoke + SOON,
            (Mode::Vad { .. } | Mode::Always | Mode::Key, _) => Now::ZERO,
        }
    }

    fn on_speech(&mut self, now: Now, kind: Wants) {
        self.spoke = Some(now);
        let Mode::Vad { .. } = self.mode else { return };
        match &mut self.state {
            State::Idle { not_before, wants } => {
                let enough = kind == Wants::Onset || *wants == Wants::Speech;
                if enough && now >= *not_before && self.card == Card::There && !self.draining {
                    self.begin();
                }
            }
            State::Ending { again, .. } => *again |= kind == Wants::Onset && !self.draining,
            State::Dialing { .. } if self.connecting => self.say(Action::Hush),
            State::Asked { .. } | State::Dialing { .. } | State::Bridged { .. } => {}
        }
    }

    fn on_end(&mut self, now: Now, end: End) {
        let (held, again, end) = match self.state {
            State::Idle { .. } => return, // told twice
            State::Asked { released: true, .. } => (Now::ZERO, false, End::Wanted),
            State::Asked { .. } | State::Dialing { .. } => (Now::ZERO, false, end),
            State::Bridged { since } => (now.saturating_sub(since), false, end),
            State::Ending { again, .. } => (Now::ZERO, again, End::Wanted),
        };
        if held >= HOLDS || end == End::Wanted {
            self.failures = 0;
        }
        // An agent that always hangs up at once is as good as none.
        let failed = matches!(end, End::Fault | End::NoSeat) || end == End::ByAgent && held < TOO_SHORT;
        let mut wait = if self.mode == Mode::Always { AFTER_ORDERLY } else { Now::ZERO };
        if failed {
            let doubled = FIRST_WAIT * 2_u32.pow(self.failures.min(DOUBLINGS));
            wait = if end == End::ByAgent { doubled.max(wait) } else { doubled }.min(LONGEST_WAIT);
            self.failures += 1;
        }
        let wants = if matches!(end, End::Fault | End::NoSeat) { Wants::Speech } else { Wants::Onset };
        self.state = State::Idle { not_before: now + wait, wants };

        match end {
            End::Fault => self.say_failed(Tone::Lost),
            End::NoSeat => self.say_failed(Tone::Busy),
            End::Wanted | End::ByAgent if self.connecting => self.say(Action::Hush),
            End::Wanted | End::ByAgent => {}
        }
        if again && self.card == Card::There {
            self.begin();
        }
    }

    fn begin(&mut self) {
        self.state = State::Asked { polled: false, released: false };
    }

    fn end(&mut self, reason: EndReason) {
        self.state = State::Ending { reason, polled: false, again: false };
        if self.connecting {
            self.say(Action::Hush);
        }
    }

    fn say_failed(&mut self, tone: Tone) {
        if !self.told {
            self.say(Action::Play(tone));
        }
        self.connecting = false;
        self.told = self.mode == Mode::Always;
    }

    fn say(&mut self, action: Action) {
        if self.card == Card::There {
            self.tone = Some(action);
        }
        self.connecting = action == Action::Play(Tone::Connecting);
    }
}

impl End {
    const fn of(reason: EndReason) -> Self {
        match reason {
            EndReason::LineHungUp | EndReason::Abandoned | EndReason::Operator | EndReason::Drained => Self::Wanted,
            EndReason::TrunkHungUp | EndReason::HandedBack => Self::ByAgent,
            EndReason::TrunkRefused
            | EndReason::TrunkTimeout
            | EndReason::TrunkLost
            | EndReason::LineLost
            | EndReason::LineSilent
            | EndReason::BadCodec
            | EndReason::Protocol
            | EndReason::Cut
            | EndReason::Bug => Self::Fault,
            EndReason::Overload => Self::NoSeat,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Begins => "a call begins",
            Self::Ends => "the call ends",
            Self::AlreadyOn => "a call is up already",
            Self::NotOn => "no call is up",
            Self::NotByKey => "its calls do not start by key (`start` of the line)",
            Self::NoCard => "its sound card is unplugged",
            Self::Draining => "no new calls are taken: the daemon is going down",
        })
    }
}

/// How long a call waits for its card: somebody who trips over a cable has time to find it and to plug it in.
pub const CARD_OUT: Now = Now::from_secs(30);

/// No tone before: most trunks take a call sooner, and then it would be a click. The pause between two words is shorter.
const SOON: Now = Now::from_millis(300);

/// `always`: the next call after one that ended in order.
const AFTER_ORDERLY: Now = Now::from_secs(1);

/// A call that the agent ends sooner has come to nothing.
const TOO_SHORT: Now = Now::from_secs(5);

/// The next call after one that failed, twice as long after each that fails, up to the longest.
const FIRST_WAIT: Now = Now::from_millis(500);
const LONGEST_WAIT: Now = Now::from_secs(30);
const DOUBLINGS: u32 = 6;

/// After a call that held for so long failures are counted afresh.
const HOLDS: Now = Now::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    const VAD: Mode = Mode::Vad { silence: Now::from_secs(15) };

    fn at(ms: u64) -> Now {
        Now::from_millis(ms)
    }

    /// A line whose card is there.
    fn line(mode: Mode) -> Start {
        let mut start = Start::new(mode);
        start.handle_card_there(at(0));
        start
    }

    /// All that is to be done at this time.
    fn done(start: &mut Start, ms: u64) -> Vec<Action> {
        core::iter::from_fn(|| start.poll_action(at(ms))).collect()
    }

    /// All that happens by itself up to this time, and when (ms).
    fn passes(start: &mut Start, until: u64) -> Vec<(u64, Action)> {
        let mut all = Vec::new();
        while let Some(next) = start.poll_timeout().filter(|&next| next <= at(until)) {
            let ms = next.as_millis() as u64;
            if let Some(before) = ms.checked_sub(1) {
                assert_eq!(done(start, before), [], "before it is due at {ms}");
            }
            all.extend(done(start, ms).into_iter().map(|action| (ms, action)));
        }
        all
    }

    /// A call that a trunk took at this time.
    fn bridged(mode: Mode, ms: u64) -> Start {
        let mut start = line(mode);
        match mode {
            Mode::Always => {}
            Mode::Vad { .. } => start.handle_speech_began(at(0)),
            Mode::Key => assert_eq!(start.handle_pressed(), Answer::Begins),
        }
        assert!(done(&mut start, 0).contains(&Action::Begin));
        start.handle_begun(at(0));
        passes(&mut start, ms);
        start.handle_bridged(at(ms));
        done(&mut start, ms);
        start
    }

    /// Lets the next call fail like this, and tells how long it was waited for (ms).
    fn fails(start: &mut Start, from: u64, reason: EndReason) -> u64 {
        let begins = passes(start, from + 100_000);
        let &[(ms, Action::Begin)] = begins.as_slice() else { panic!("{begins:?}") };
        start.handle_begun(at(ms));
        start.handle_ended(at(ms), reason);
        start.tone = None;
        ms - from
    }

    #[test]
    fn a_line_that_is_always_on_calls_as_soon_as_its_card_is_there() {
        let mut start = Start::new(Mode::Always);
        assert_eq!(done(&mut start, 5000), []);
        start.handle_card_there(at(6000));
        assert_eq!(done(&mut start, 6000), [Action::Begin]);
        assert_eq!(done(&mut start, 60_000), [], "one call at a time");
    }

    #[test]
    fn a_fast_trunk_is_connected_without_a_pip_before() {
        let mut start = line(Mode::Always);
        assert_eq!(done(&mut start, 0), [Action::Begin]);
        start.handle_begun(at(10));
        assert_eq!(done(&mut start, 309), []);
        start.handle_bridged(at(309));
        assert_eq!(done(&mut start, 309), [Action::Play(Tone::Connected)]);
        assert_eq!(start.poll_timeout(), None);
    }

    #[test]
    fn a_slow_trunk_is_waited_for_with_pips() {
        let mut start = line(Mode::Always);
        done(&mut start, 0);
        start.handle_begun(at(10));
        assert_eq!(passes(&mut start, 4000), [(310, Action::Play(Tone::Connecting))]);
        start.handle_bridged(at(4000));
        assert_eq!(done(&mut start, 4000), [Action::Play(Tone::Connected)]);
    }

    #[test]
    fn a_call_that_fails_is_tried_again_ever_more_seldom_and_told_once() {
        let mut start = line(Mode::Always);
        done(&mut start, 0);
        start.handle_begun(at(0));
        assert_eq!(passes(&mut start, 2000), [(300, Action::Play(Tone::Connecting))]);
        start.handle_ended(at(2000), EndReason::TrunkRefused);
        assert_eq!(done(&mut start, 2000), [Action::Play(Tone::Lost)]);

        let (mut now, mut waits) = (2000, Vec::new());
        for _ in 0..9 {
            let begins = passes(&mut start, now + 100_000);
            let &[(ms, Action::Begin)] = begins.as_slice() else { panic!("{begins:?}") };
            waits.push(ms - now);
            start.handle_begun(at(ms));
            now = ms + 1000;
            assert_eq!(passes(&mut start, now), [], "a room that is empty at night is not beeped at");
            start.handle_ended(at(now), EndReason::TrunkRefused);
            assert_eq!(done(&mut start, now), []);
        }
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);

        // Once it is back that is told, and so is the next loss.
        assert_eq!(passes(&mut start, now + 30_000), [(now + 30_000, Action::Begin)]);
        start.handle_begun(at(now + 30_000));
        start.handle_bridged(at(now + 30_100));
        assert_eq!(done(&mut start, now + 30_100), [Action::Play(Tone::Connected)]);
        start.handle_ended(at(now + 40_000), EndReason::TrunkLost);
        assert_eq!(done(&mut start, now + 40_000), [Action::Play(Tone::Lost)]);
        assert_eq!(start.poll_timeout(), Some(at(now + 70_000)), "ten seconds are no sign that all is well");
    }

    #[test]
    fn a_call_that_has_held_makes_the_next_fault_the_first() {
        let mut start = line(Mode::Always);
        let mut now = 0;
        for wait in [0, 500, 1000, 2000] {
            assert_eq!(fails(&mut start, now, EndReason::TrunkTimeout), wait);
            now += wait;
        }
        let begins = now + 4000;
        assert_eq!(passes(&mut start, begins), [(begins, Action::Begin)]);
        start.handle_begun(at(begins));
        start.handle_bridged(at(begins));
        start.handle_ended(at(begins + 30_000), EndReason::TrunkLost);
        assert_eq!(start.poll_timeout(), Some(at(begins + 30_500)));
    }

    #[test]
    fn an_agent_that_hangs_up_is_called_again_after_a_second() {
        let mut start = bridged(Mode::Always, 0);
        start.handle_ended(at(60_000), EndReason::TrunkHungUp);
        assert_eq!(passes(&mut start, 70_000), [(61_000, Action::Begin)], "and no tone says that it was lost");
    }

    #[test]
    fn an_agent_that_hangs_up_at_once_is_not_called_every_second_for_ever() {
        let mut start = line(Mode::Always);
        let (mut now, mut waits) = (0, Vec::new());
        for _ in 0..6 {
            let begins = passes(&mut start, now + 100_000);
            let &[(ms, Action::Begin)] = begins.as_slice() else { panic!("{begins:?}") };
            waits.push(ms - now);
            start.handle_begun(at(ms));
            start.handle_bridged(at(ms));
            now = ms + 200;
            done(&mut start, now);
            start.handle_ended(at(now), EndReason::TrunkHungUp);
        }
        assert_eq!(waits, [0, 1000, 1000, 2000, 4000, 8000]);
    }

    #[test]
    fn without_a_seat_it_is_busy_and_tried_again() {
        for at_once in [true, false] {
            let mut start = line(Mode::Always);
            assert_eq!(done(&mut start, 0), [Action::Begin]);
            if at_once {
                start.handle_no_seat(at(10));
            } else {
                start.handle_ended(at(10), EndReason::Overload);
            }
            assert_eq!(done(&mut start, 10), [Action::Play(Tone::Busy)]);
            assert_eq!(passes(&mut start, 5000), [(510, Action::Begin)]);
        }
    }

    #[test]
    fn a_press_starts_a_call_and_a_release_ends_it() {
        let mut start = line(Mode::Key);
        assert_eq!(done(&mut start, 60_000), []);
        assert_eq!(start.handle_released(at(60_000)), Answer::NotOn);
        assert_eq!(start.handle_pressed(), Answer::Begins);
        assert_eq!(done(&mut start, 60_000), [Action::Hush, Action::Begin]);
        assert_eq!(start.handle_pressed(), Answer::AlreadyOn);
        start.handle_begun(at(60_010));
        assert_eq!(passes(&mut start, 61_000), [(60_310, Action::Play(Tone::Connecting))]);
        start.handle_bridged(at(61_000));
        assert_eq!(done(&mut start, 61_000), [Action::Play(Tone::Connected)]);
        assert_eq!(start.handle_pressed(), Answer::AlreadyOn);

        assert_eq!(start.handle_released(at(90_000)), Answer::Ends);
        assert_eq!(done(&mut start, 90_000), [Action::End(EndReason::LineHungUp)]);
        assert_eq!(start.handle_released(at(90_100)), Answer::NotOn);
        start.handle_ended(at(90_200), EndReason::LineHungUp);
        assert_eq!(passes(&mut start, 900_000), []);
    }

    #[test]
    fn a_call_that_was_released_before_anybody_took_it_goes_without_a_word() {
        // Before it was asked for: there is none.
        let mut start = line(Mode::Key);
        start.handle_pressed();
        assert_eq!(start.handle_released(at(0)), Answer::Ends);
        assert_eq!(done(&mut start, 0), [Action::Hush]);

        // Before it had begun: it ends when it has.
        start.handle_pressed();
        assert_eq!(done(&mut start, 100), [Action::Hush, Action::Begin]);
        assert_eq!(start.handle_released(at(100)), Answer::Ends);
        assert_eq!(start.handle_released(at(100)), Answer::NotOn);
        assert_eq!(done(&mut start, 100), []);
        start.handle_begun(at(110));
        assert_eq!(done(&mut start, 110), [Action::End(EndReason::LineHungUp)]);
        start.handle_ended(at(120), EndReason::Abandoned);
        assert_eq!(done(&mut start, 120), []);

        // While its pips are heard: they stop.
        start.handle_pressed();
        done(&mut start, 200);
        start.handle_begun(at(200));
        passes(&mut start, 600);
        start.handle_released(at(600));
        assert_eq!(done(&mut start, 600), [Action::End(EndReason::LineHungUp), Action::Hush]);
        start.handle_ended(at(601), EndReason::TrunkRefused);
        assert_eq!(done(&mut start, 601), [], "whoever has hung up is told of no fault");
    }

    #[test]
    fn a_call_that_ended_needs_a_new_press_and_is_told_each_time() {
        let mut start = line(Mode::Key);
        for n in 0..3 {
            let ms = n * 10_000;
            assert_eq!(start.handle_pressed(), Answer::Begins, "whatever failed before");
            assert_eq!(done(&mut start, ms), [Action::Hush, Action::Begin]);
            start.handle_begun(at(ms));
            start.handle_ended(at(ms + 50), EndReason::TrunkRefused);
            assert_eq!(done(&mut start, ms + 50), [Action::Play(Tone::Lost)]);
            assert_eq!(passes(&mut start, ms + 9999), []);
        }
    }

    #[test]
    fn a_press_while_the_last_call_says_goodbye_starts_the_next_after_it() {
        let mut start = bridged(Mode::Key, 100);
        start.handle_released(at(9000));
        assert_eq!(done(&mut start, 9000), [Action::End(EndReason::LineHungUp)]);
        assert_eq!(start.handle_pressed(), Answer::Begins);
        assert_eq!(start.handle_pressed(), Answer::AlreadyOn);
        assert_eq!(done(&mut start, 9500), [Action::Hush]);
        start.handle_ended(at(12_000), EndReason::LineHungUp);
        assert_eq!(done(&mut start, 12_000), [Action::Begin]);
    }

    #[test]
    fn speech_starts_a_call_and_the_silence_of_both_sides_ends_it() {
        let mut start = line(VAD);
        assert_eq!(done(&mut start, 60_000), []);
        start.handle_speech_began(at(60_000));
        assert_eq!(done(&mut start, 60_000), [Action::Begin]);
        start.handle_begun(at(60_000));
        start.handle_bridged(at(61_000));
        assert_eq!(done(&mut start, 61_000), [Action::Play(Tone::Connected)]);
        assert_eq!(start.poll_timeout(), Some(at(76_000)));
        start.handle_heard(at(70_000));
        start.handle_spoke(at(65_000));
        assert_eq!(passes(&mut start, 84_999), []);
        start.handle_spoke(at(84_999));
        assert_eq!(passes(&mut start, 200_000), [(99_999, Action::End(EndReason::LineHungUp))]);
    }

    #[test]
    fn no_tone_cuts_the_words_that_started_the_call() {
        let mut start = line(VAD);
        start.handle_speech_began(at(0));
        assert_eq!(done(&mut start, 0), [Action::Begin]);
        start.handle_begun(at(10));
        for ms in (20..=900).step_by(20) {
            start.handle_spoke(at(ms));
            assert_eq!(done(&mut start, ms), []);
        }
        assert_eq!(passes(&mut start, 1300), [(1200, Action::Play(Tone::Connecting))]);
        // Between two pips the caller is heard to go on.
        start.handle_spoke(at(1500));
        assert_eq!(done(&mut start, 1500), [Action::Hush]);
        start.handle_bridged(at(1600));
        assert_eq!(done(&mut start, 1600), [Action::Hush], "the agent answers for itself");
    }

    #[test]
    fn speech_that_goes_on_does_not_call_again_after_an_orderly_end() {
        let mut start = bridged(VAD, 1000);
        start.handle_ended(at(20_000), EndReason::TrunkHungUp);
        for ms in (20_000..40_000).step_by(20) {
            start.handle_spoke(at(ms));
            assert_eq!(done(&mut start, ms), []);
        }
        start.handle_speech_began(at(41_000));
        assert_eq!(done(&mut start, 41_000), [Action::Begin]);
    }

    #[test]
    fn speech_that_goes_on_calls_again_after_a_fault_but_not_at_once() {
        let mut start = line(VAD);
        start.handle_speech_began(at(0));
        let (mut begun, mut now) = (Vec::new(), 0);
        while now < 20_000 {
            start.handle_spoke(at(now));
            for action in done(&mut start, now) {
                match action {
                    Action::Begin => {
                        begun.push(now);
                        start.handle_begun(at(now));
                        start.handle_ended(at(now), EndReason::TrunkRefused);
                    }
                    other => assert_eq!(other, Action::Play(Tone::Lost)),
                }
            }
            now += 20;
        }
        assert_eq!(begun, [0, 500, 1500, 3500, 7500, 15_500]);
    }

    #[test]
    fn speech_while_the_last_call_says_goodbye_starts_the_next_after_it() {
        let mut start = bridged(VAD, 1000);
        assert_eq!(passes(&mut start, 16_000), [(16_000, Action::End(EndReason::LineHungUp))]);
        start.handle_speech_began(at(16_500));
        assert_eq!(done(&mut start, 16_500), []);
        start.handle_ended(at(17_000), EndReason::LineHungUp);
        assert_eq!(done(&mut start, 17_000), [Action::Begin]);
    }

    #[test]
    fn a_card_that_is_back_in_time_has_missed_nothing_but_silence() {
        for mode in [Mode::Always, VAD, Mode::Key] {
            let mut start = bridged(mode, 1000);
            start.handle_card_out(at(10_000));
            assert_eq!(done(&mut start, 10_000), [Action::Hush]);
            start.handle_card_out(at(25_000));
            assert_eq!(done(&mut start, 39_999), [], "it has been out since it was first");
            start.handle_card_there(at(39_999));
            // In `vad` the time in which nobody could be heard is no silence of theirs.
            assert_eq!(passes(&mut start, 54_998), []);
        }
    }

    #[test]
    fn a_card_that_stays_out_ends_the_call_and_the_next_waits_for_it() {
        for mode in [Mode::Always, VAD, Mode::Key] {
            let mut start = bridged(mode, 1000);
            start.handle_card_out(at(10_000));
            assert_eq!(done(&mut start, 10_000), [Action::Hush]);
            assert_eq!(passes(&mut start, 100_000), [(40_000, Action::End(EndReason::LineLost))]);
            start.handle_ended(at(40_010), EndReason::LineLost);
            assert_eq!(passes(&mut start, 100_000), [], "a tone that nobody hears is none");
            start.handle_card_there(at(100_000));
            let begins: &[Action] = if mode == Mode::Always { &[Action::Begin] } else { &[] };
            assert_eq!(done(&mut start, 100_000), begins);
        }
    }

    #[test]
    fn without_a_card_no_press_and_no_tone_is_taken_for_later() {
        let mut start = Start::new(Mode::Key);
        assert_eq!(start.handle_pressed(), Answer::NoCard);
        start.handle_card_there(at(0));
        assert_eq!(done(&mut start, 0), []);
        start.handle_pressed();
        done(&mut start, 0);
        start.handle_begun(at(0));
        start.handle_card_out(at(100));
        start.handle_bridged(at(400));
        start.handle_card_there(at(5000));
        assert_eq!(done(&mut start, 5000), [Action::Hush]);
    }

    #[test]
    fn pips_that_a_card_took_with_it_are_not_heard_in_the_call_when_it_is_back() {
        let mut start = line(Mode::Always);
        done(&mut start, 0);
        start.handle_begun(at(0));
        assert_eq!(passes(&mut start, 500), [(300, Action::Play(Tone::Connecting))]);
        start.handle_card_out(at(600));
        assert_eq!(done(&mut start, 600), [Action::Hush]);
        start.handle_bridged(at(900));
        start.handle_card_there(at(2000));
        assert_eq!(done(&mut start, 2000), []);
    }

    #[test]
    fn pips_go_on_when_the_card_is_back_before_a_trunk() {
        let mut start = line(Mode::Always);
        done(&mut start, 0);
        start.handle_begun(at(0));
        assert_eq!(passes(&mut start, 500), [(300, Action::Play(Tone::Connecting))]);
        start.handle_card_out(at(600));
        assert_eq!(done(&mut start, 600), [Action::Hush]);
        start.handle_card_there(at(2000));
        assert_eq!(done(&mut start, 2000), [Action::Play(Tone::Connecting)]);
    }

    #[test]
    fn a_daemon_that_goes_down_begins_no_call_and_ends_none_here() {
        for mode in [Mode::Always, VAD, Mode::Key] {
            let mut start = bridged(mode, 1000);
            start.handle_draining(at(2000));
            assert_eq!(done(&mut start, 2000), []);
            start.handle_ended(at(9000), EndReason::Drained);
            start.handle_speech_began(at(20_000));
            let answer = if mode == Mode::Key { Answer::Draining } else { Answer::NotByKey };
            assert_eq!(start.handle_pressed(), answer);
            assert_eq!(passes(&mut start, 100_000), []);
            assert_eq!(done(&mut start, 100_000), []);
        }
        // One that was decided and not yet asked for is forgotten.
        let mut start = line(Mode::Key);
        start.handle_pressed();
        start.handle_draining(at(0));
        assert_eq!(done(&mut start, 0), [Action::Hush]);
    }
}
