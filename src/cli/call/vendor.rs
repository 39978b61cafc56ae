//! A telephony vendor's side of one call on a WebSocket, without its socket.
//!
//! It does what a vendor's media gateway does: opens the stream, sends the caller's voice in the dialect's messages in
//! real time, keeps what the agent sends in a queue of its own and plays it at the pace of speech, flushes that queue on a
//! clear, and says when a mark was heard.
//!
//! ```text
//!   score -> 20 ms each 20 ms -> a message once there is enough for one -------------> out
//!   heard <- 20 ms each 20 ms <- [ queue  m     m ] <- samples, marks, clear <--------- in
//!                                         marks that were reached are told ---------> out
//! ```

use std::collections::VecDeque;

use crate::{
    cli::{
        call::{
            Ending,
            heard::{Heard, Outcome, Sent},
            score::{LEAD_IN, Score},
        },
        connection::Party,
    },
    dialect::{Direction, Event, MarksOnClear, Say, StopReason},
    leg::websocket::{
        leg::{Flow, Leg, Over, Sink},
        wire::NO_STATUS,
    },
    media::{Now, Rate, clock::PTIME, frame::MAX_SAMPLES},
};

/// The call.
pub(super) struct Vendor<'s> {
    leg: Leg,
    score: &'s Score,
    digits: &'s [u8],
    farewell: Farewell,
    ear: Ear,
    /// Spoken, and less than a message.
    spoken: Vec<i16>,
    began: Now,
    /// The number of the next frame, and when it is due.
    n: u64,
    due: Now,
    at: Vec<Now>,
    late: Now,
    paused: bool,
    /// The agent's side of the WebSocket is over.
    over: bool,
    ended: Option<(Ended, Now)>,
}

/// How we take leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    /// The dialect's word, then a close.
    Whole,
    /// The word alone: the agent has to close.
    StopOnly,
    /// A close without a word.
    CloseOnly,
}

/// Why the call is over.
#[derive(Debug, PartialEq)]
enum Ended {
    TimeIsUp,
    Interrupted,
    /// The agent asked for it.
    HungUp,
    Over(Over),
    /// The connection ended without a goodbye.
    Lost,
    /// Two pings went unanswered.
    Silent,
    /// The agent takes no audio any more.
    Stuck,
    /// The agent did not do what its platform promises.
    Overdue(&'static str),
}

impl<'s> Vendor<'s> {
    /// A connection that was upgraded now, by `leg` in the vendor's role.
    pub(super) fn new(mut leg: Leg, score: &'s Score, digits: &'s [u8], farewell: Farewell, now: Now) -> Self {
        leg.open(now);
        let forget = leg.dialect().marks_on_clear() == MarksOnClear::Forget;
        let deaf = leg.dialect().direction() == Direction::Uplink;
        Self {
            ear: Ear::new(score.rate, forget, deaf),
            leg,
            score,
            digits,
            farewell,
            spoken: Vec::new(),
            began: now,
            n: 0,
            due: now + PTIME,
            at: Vec::new(),
            late: Now::ZERO,
            paused: false,
            over: false,
            ended: None,
        }
    }

    /// What came of it.
    pub(super) fn outcome(self) -> Outcome {
        let (ended, at) = self.ended.unwrap_or((Ended::Lost, self.due));
        let dialect = self.leg.dialect().name();
        let (ended_by, mut trouble) = match ended {
            Ended::TimeIsUp => (Ending::Caller, None),
            Ended::Interrupted => (Ending::Interrupted, None),
            // RFC 6455 7.4.1: these two mean that nothing is wrong. Where there is no word to hang up, a close is it.
            Ended::HungUp | Ended::Over(Over::Closed(None | Some(NORMAL | GOING_AWAY | NO_STATUS))) => {
                (Ending::Server, None)
            }
            Ended::Over(Over::Closed(Some(code))) => {
                (Ending::Lost, Some(format!("the agent closed with code {code}; its log says why")))
            }
            Ended::Over(Over::Violation(violation)) => (Ending::Lost, Some(format!("the agent sent {violation}"))),
            Ended::Over(Over::Grammar(words)) | Ended::Overdue(words) => (Ending::Lost, Some(words.to_owned())),
            Ended::Lost => (Ending::Closed, None),
            Ended::Silent => (Ending::Lost, Some("two pings went unanswered".to_owned())),
            Ended::Stuck => (Ending::Lost, Some(format!("the agent took no audio for {} s", STUCK.as_secs()))),
        };
        let tally = self.leg.tally();
        if trouble.is_none() {
            trouble = match (tally.first_malformed, &self.ear.fault) {
                (Some(first), _) => Some(format!("{} messages were not understood: {first}", tally.malformed)),
                (None, Some(words)) => Some(format!("the agent tells of a fault: {words}")),
                (None, None) if self.ear.unsayable => Some(format!("{dialect} has no word for a digit")),
                (None, None) => None,
            };
        }
        // That the call was too short for them would be another reason than this.
        let unsent = if self.ear.unsayable { 0 } else { self.digits.len() };
        let Ear { mut heard, asked, told, clears, deaf, .. } = self.ear;
        heard.bytes = tally.bytes_in;
        Outcome {
            sent: Sent { began: self.began, ended: at, at: self.at, late: self.late, unsent },
            heard,
            ended_by,
            trouble,
            marks: (asked, told),
            clears,
            listen_only: deaf,
        }
    }

    /// 20 ms of the call.
    fn tick(&mut self, now: Now) {
        self.late = self.late.max(now.saturating_sub(self.due));
        self.due += PTIME;
        if self.n >= self.score.end {
            self.end(now, Ended::TimeIsUp);
            return;
        }
        let mut frame = [0; MAX_SAMPLES];
        let place = self.n.checked_sub(LEAD_IN).and_then(|place| usize::try_from(place).ok());
        self.spoken.extend_from_slice(self.score.frame(place.unwrap_or(usize::MAX), &mut frame));
        if place.is_some_and(|place| place < self.score.frames) {
            self.at.push(now);
        }
        self.send(now, self.leg.chunk());
        if self.n >= FIRST_DIGIT
            && (self.n - FIRST_DIGIT).is_multiple_of(DIGIT_FRAMES)
            && let Some((&digit, rest)) = self.digits.split_first()
        {
            if self.leg.say(now, Say::Dtmf(digit)) {
                self.digits = rest;
            } else {
                self.ear.unsayable = true;
            }
        }
        self.ear.play(now);
        self.n += 1;
        self.leg.say_due(now);
        if let Some(words) = self.leg.overdue(now) {
            self.end(now, Ended::Overdue(words));
        } else if !self.leg.beat(now) {
            self.end(now, Ended::Silent);
        } else if self.score.rate.duration(self.spoken.len()) > STUCK {
            self.end(now, Ended::Stuck);
        }
    }

    /// Sends what was spoken in messages of at most a chunk, while there is as much as `least`.
    fn send(&mut self, now: Now, least: usize) {
        let chunk = self.leg.chunk();
        let mut sent = 0;
        while self.spoken.len() - sent >= least.max(1) {
            let message = &self.spoken[sent..self.spoken.len().min(sent + chunk)];
            if !self.leg.write_audio(now, message) {
                break;
            }
            sent += message.len();
        }
        self.spoken.drain(..sent);
    }

    /// Says what the ear has to answer.
    fn answer(&mut self, now: Now) {
        if self.leg.has_room()
            && let Some(unheard_ms) = self.ear.cleared.take()
        {
            self.leg.say(now, Say::Cleared { unheard_ms });
        }
        self.ear.reach();
        while self.leg.has_room()
            && let Some(name) = self.ear.reached.pop_front()
        {
            self.ear.told += u64::from(self.leg.say(now, Say::Heard(&name)));
        }
    }

    fn end(&mut self, now: Now, ended: Ended) {
        if self.ended.is_some() {
            return;
        }
        let reason = match ended {
            Ended::TimeIsUp | Ended::Interrupted => Some(StopReason::CallerHungUp),
            Ended::HungUp | Ended::Silent | Ended::Stuck | Ended::Overdue(_) => Some(StopReason::Ended),
            // There is nobody to tell.
            Ended::Over(_) | Ended::Lost => None,
        };
        self.ended = Some((ended, now));
        let Some(reason) = reason else { return };
        // What is too short for a message is filled up with silence.
        self.spoken.resize(self.spoken.len().next_multiple_of(self.leg.unit()), 0);
        self.send(now, 1);
        if self.farewell != Farewell::CloseOnly {
            // A dialect without a word for it closes; that is all it can.
            self.leg.say(now, Say::Stop(reason));
        }
        if self.farewell != Farewell::StopOnly {
            self.leg.close(NORMAL, "");
        }
    }
}

impl Party for Vendor<'_> {
    fn advance(&mut self, now: Now) {
        if !self.over {
            match self.leg.handle(now, &mut self.ear) {
                Ok(flow) => self.paused = flow == Flow::Paused,
                Err(over) => {
                    self.over = true;
                    self.end(now, Ended::Over(over));
                }
            }
        }
        if self.ear.hang_up {
            self.end(now, Ended::HungUp);
        }
        while self.ended.is_none() && now >= self.due {
            self.tick(now);
        }
        self.answer(now);
    }

    fn wants_read(&self) -> bool {
        !self.over && !self.paused
    }

    fn spare(&mut self) -> &mut [u8] {
        self.leg.spare()
    }

    fn filled(&mut self, n: usize) {
        self.leg.filled(n);
    }

    fn out(&self) -> &[u8] {
        self.leg.out()
    }

    fn written(&mut self, n: usize) {
        self.leg.written(n);
    }

    fn poll_timeout(&self) -> Now {
        self.ended.as_ref().map_or(self.due, |(_, at)| *at + GOODBYE)
    }

    fn is_done(&self, now: Now) -> bool {
        let Some((_, at)) = &self.ended else { return false };
        self.leg.out().is_empty() && (self.over || self.leg.is_closed()) || now >= *at + GOODBYE
    }

    fn lose(&mut self, now: Now) {
        self.over = true;
        self.end(now, Ended::Lost);
        // Nothing is waited for, whatever ended it before.
        if let Some((_, at)) = &mut self.ended {
            *at = (*at).min(now.saturating_sub(GOODBYE));
        }
    }

    fn interrupt(&mut self, now: Now) {
        self.end(now, Ended::Interrupted);
    }
}

/// What the agent sends, on its way to the caller.
struct Ear {
    rate: Rate,
    /// What is to be heard. The last `staged` samples are of a message whose end has not come.
    queue: VecDeque<i16>,
    staged: usize,
    /// Samples that have left the queue, heard or flushed.
    position: u64,
    /// Marks and the positions at which they are reached.
    marks: VecDeque<(u64, String)>,
    /// Those to be told.
    reached: VecDeque<String>,
    /// A clear also takes the marks.
    forget: bool,
    /// Nobody hears an agent.
    deaf: bool,
    /// A clear that is to be answered, and what it flushed (ms).
    cleared: Option<u64>,
    hang_up: bool,
    /// The first fault that was told.
    fault: Option<String>,
    /// A digit could not be said.
    unsayable: bool,
    asked: u64,
    told: u64,
    clears: u64,
    /// Since when a beginning that is shorter than a frame waits for more.
    waiting: Option<Now>,
    playing: bool,
    heard: Heard,
}

impl Ear {
    fn new(rate: Rate, forget: bool, deaf: bool) -> Self {
        Self {
            rate,
            queue: VecDeque::new(),
            staged: 0,
            position: 0,
            marks: VecDeque::new(),
            reached: VecDeque::new(),
            forget,
            deaf,
            cleared: None,
            hang_up: false,
            fault: None,
            unsayable: false,
            asked: 0,
            told: 0,
            clears: 0,
            waiting: None,
            playing: false,
            heard: Heard::default(),
        }
    }

    /// The caller hears 20 ms, of silence where there is nothing else.
    fn play(&mut self, now: Now) {
        let (frame, ready) = (self.rate.frame(), self.queue.len() - self.staged);
        self.playing |= ready >= frame || self.waiting.is_some_and(|since| now >= since + PATIENCE);
        let n = if self.playing { ready.min(frame) } else { 0 };
        self.playing &= n == frame;
        if n > 0 {
            self.waiting = None;
        }
        let played = self.queue.drain(..n).chain(core::iter::repeat_n(0, frame - n));
        if !self.deaf {
            self.heard.on_samples(now, self.rate, played);
        }
        self.position += n as u64;
    }

    /// Finds the marks that were reached.
    fn reach(&mut self) {
        while self.marks.front().is_some_and(|(at, _)| *at <= self.position) {
            self.reached.extend(self.marks.pop_front().map(|(_, name)| name));
        }
    }

    fn clear(&mut self) {
        let flushed = self.queue.len() - self.staged;
        self.queue.drain(..flushed);
        self.position += flushed as u64;
        self.playing = false;
        self.waiting = None;
        if self.forget {
            self.marks.clear();
        }
        self.clears += 1;
        *self.cleared.get_or_insert(0) += self.rate.duration(flushed).as_millis() as u64;
    }
}

impl Sink for Ear {
    fn rate(&self) -> Rate {
        self.rate
    }

    fn room(&self) -> usize {
        let full = self.marks.len() + self.reached.len() >= MOST_MARKS;
        if full { 0 } else { self.rate.samples(MOST_MS).saturating_sub(self.queue.len()) }
    }

    fn stage(&mut self, samples: &[i16]) {
        self.queue.extend(samples);
        self.staged += samples.len();
    }

    fn publish(&mut self, now: Now) {
        if self.staged > 0 {
            self.heard.messages += 1;
            self.heard.on_message(now);
            self.waiting.get_or_insert(now);
        }
        self.staged = 0;
    }

    fn rollback(&mut self) {
        self.queue.truncate(self.queue.len() - self.staged);
        self.staged = 0;
    }

    fn event(&mut self, _now: Now, event: Event<'_>) {
        match event {
            Event::Clear => self.clear(),
            Event::Mark(name) => {
                self.asked += 1;
                self.marks.push_back((self.position + (self.queue.len() - self.staged) as u64, name.to_owned()));
            }
            Event::HangUp => self.hang_up = true,
            Event::Fault(words) => {
                self.fault.get_or_insert_with(|| words.to_owned());
            }
            // The leg sees to the first; the rest is for records, or is what only an agent hears.
            Event::Broken(_)
            | Event::Expiring
            | Event::Transcript { .. }
            | Event::None
            | Event::Unknown
            | Event::Start
            | Event::Heard(_)
            | Event::Dtmf(_)
            | Event::Stop
            | Event::Wish(_)
            | Event::Held(_)
            | Event::Transfer(_) => {}
        }
    }
}

/// RFC 6455 7.4.1.
const NORMAL: u16 = 1000;
const GOING_AWAY: u16 = 1001;

/// How long the agent may take to close after our goodbye.
const GOODBYE: Now = Now::from_secs(1);

/// An agent that takes nothing for so long is given up.
const STUCK: Now = Now::from_secs(2);

/// How long a beginning that is shorter than a frame waits for more before it is heard all the same.
const PATIENCE: Now = Now::from_millis(60);

/// What the queue holds at most; then nothing more is read (ms, and marks).
const MOST_MS: usize = 600_000;
const MOST_MARKS: usize = 10_000;

/// The frame after which the first digit is sent, and from one digit to the next.
const FIRST_DIGIT: u64 = 50;
const DIGIT_FRAMES: u64 = 10;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        dialect::{self, Facts, Options, Role},
        leg::websocket::{leg::Setup, wire::Side},
    };

    /// What an agent hears, as text.
    #[derive(Default)]
    struct Told(Vec<String>, usize);

    impl Sink for Told {
        fn rate(&self) -> Rate {
            Rate::Hz8000
        }
        fn room(&self) -> usize {
            1 << 20
        }
        fn stage(&mut self, samples: &[i16]) {
            self.1 += samples.len();
        }
        fn publish(&mut self, _now: Now) {}
        fn rollback(&mut self) {}
        fn event(&mut self, _now: Now, event: Event<'_>) {
            if event != Event::None {
                self.0.push(format!("{event:?}"));
            }
        }
    }

    /// A vendor and an agent with nothing but time between them.
    struct Pair<'s> {
        vendor: Vendor<'s>,
        agent: Leg,
        told: Told,
        now: Now,
    }

    fn score(ms: usize) -> Score {
        let rate = Rate::Hz8000;
        Score { rate, samples: vec![7; 800], repeat: 1, marks: false, frames: 5, end: (ms / 20) as u64 }
    }

    fn leg(name: &str, role: Role) -> Leg {
        let rate = Rate::Hz8000;
        Leg::new(Setup {
            side: if role == Role::Agent { Side::Server } else { Side::Client },
            dialect: dialect::open(name, role, Some(rate), rate, &Options::default()).unwrap(),
            facts: Facts { call_id: "abcdefghijkl".try_into().unwrap(), ..Facts::default() },
            rate,
            now: Now::ZERO,
            epoch_ms: 1_767_225_600_000,
            ping_every: Now::from_secs(20),
        })
    }

    impl<'s> Pair<'s> {
        fn new(name: &str, score: &'s Score, digits: &'s [u8], farewell: Farewell) -> Self {
            let vendor = Vendor::new(leg(name, Role::Vendor), score, digits, farewell, Now::ZERO);
            Self { vendor, agent: leg(name, Role::Agent), told: Told::default(), now: Now::ZERO }
        }

        /// Lets time go by, 5 ms at a time.
        fn pass(&mut self, ms: u64) {
            for _ in 0..ms / 5 {
                self.now += Now::from_millis(5);
                self.exchange();
            }
        }

        fn exchange(&mut self) {
            self.vendor.advance(self.now);
            while !self.vendor.out().is_empty() {
                let n = self.agent.feed(self.vendor.out());
                self.vendor.written(n);
                let over = self.agent.handle(self.now, &mut self.told).is_err();
                self.vendor.advance(self.now);
                if over {
                    break;
                }
            }
            while !self.agent.out().is_empty() && self.vendor.wants_read() {
                let n = self.agent.out().len().min(self.vendor.spare().len());
                self.vendor.spare()[..n].copy_from_slice(&self.agent.out()[..n]);
                self.vendor.filled(n);
                self.agent.written(n);
                self.vendor.advance(self.now);
            }
        }

        /// The agent says so much at once.
        fn speak(&mut self, ms: usize) {
            for _ in 0..ms / 20 {
                assert!(self.agent.write_audio(self.now, &[500; 160]));
                self.exchange();
            }
        }

        fn loud(&self) -> Vec<usize> {
            let samples = &self.vendor.ear.heard.stretches[0].samples;
            (0..samples.len() / 160).filter(|n| samples[n * 160..][..160].iter().any(|&sample| sample != 0)).collect()
        }
    }

    #[test]
    fn a_burst_is_heard_at_the_pace_of_speech_and_its_mark_at_its_end() {
        let score = score(3000);
        let mut pair = Pair::new("exotel", &score, b"", Farewell::Whole);
        pair.pass(100);
        pair.speak(1000);
        assert!(pair.agent.say(pair.now, Say::Mark("end")));
        pair.pass(980);
        assert!(!pair.told.0.iter().any(|event| event.starts_with("Heard")), "{:?}", pair.told.0);
        pair.pass(40);
        assert_eq!(pair.told.0.iter().filter(|event| *event == "Heard(\"end\")").count(), 1, "{:?}", pair.told.0);
        let loud = pair.loud();
        assert_eq!((loud.len(), loud[49] - loud[0]), (50, 49));
    }

    #[test]
    fn a_clear_silences_the_line_at_once_and_its_marks_are_told_as_the_dialect_has_it() {
        let score = score(3000);
        let mut pair = Pair::new("exotel", &score, b"", Farewell::Whole);
        pair.pass(100);
        pair.speak(1000);
        assert!(pair.agent.say(pair.now, Say::Mark("end")));
        pair.pass(200);
        assert!(pair.agent.say(pair.now, Say::Clear));
        pair.pass(500);
        let loud = pair.loud().len();
        assert!((9..=11).contains(&loud), "{loud} frames");
        let tells = pair.vendor.leg.dialect().marks_on_clear() == MarksOnClear::Tell;
        assert_eq!(pair.told.0.iter().any(|event| event.starts_with("Heard")), tells);
        pair.speak(100);
        pair.pass(200);
        assert_eq!(pair.loud().len(), loud + 5, "what comes after it is heard");
        assert_eq!(pair.vendor.outcome().clears, 1);
    }

    #[test]
    fn a_beginning_shorter_than_a_frame_is_heard_after_a_while() {
        let score = score(3000);
        let mut pair = Pair::new("binary", &score, b"", Farewell::Whole);
        pair.pass(100);
        assert!(pair.agent.write_audio(pair.now, &[500; 80]));
        pair.pass(40);
        assert!(pair.loud().is_empty());
        pair.pass(60);
        assert_eq!(pair.loud().len(), 1);
    }

    #[test]
    fn digits_follow_the_first_second_and_a_dialect_without_them_is_told() {
        let score = score(2000);
        let mut pair = Pair::new("exotel", &score, b"1#", Farewell::Whole);
        pair.pass(1600);
        assert!(pair.told.0.ends_with(&[format!("Dtmf({})", b'1'), format!("Dtmf({})", b'#')]), "{:?}", pair.told.0);
        assert_eq!(pair.vendor.outcome().sent.unsent, 0);
        let mut pair = Pair::new("binary", &score, b"1#", Farewell::Whole);
        pair.pass(1600);
        let outcome = pair.vendor.outcome();
        assert_eq!((outcome.sent.unsent, outcome.trouble.unwrap().as_str()), (0, "binary has no word for a digit"));
    }

    #[test]
    fn a_farewell_is_a_stop_and_a_close_or_one_of_them() {
        for (farewell, stops, closes) in
            [(Farewell::Whole, true, true), (Farewell::StopOnly, true, false), (Farewell::CloseOnly, false, true)]
        {
            let score = score(200);
            let mut pair = Pair::new("exotel", &score, b"", farewell);
            pair.pass(300);
            assert_eq!(
                pair.told.0.last().is_some_and(|event| event == "Stop"),
                stops,
                "{farewell:?} {:?}",
                pair.told.0
            );
            assert_eq!(pair.vendor.leg.is_closed(), closes, "{farewell:?}");
            assert_eq!(pair.vendor.is_done(pair.now), closes, "{farewell:?}");
            pair.pass(1000);
            assert!(pair.vendor.is_done(pair.now), "an agent that does not close is left");
            assert_eq!(pair.vendor.outcome().ended_by, Ending::Caller);
        }
    }

    #[test]
    fn an_agents_close_is_a_hang_up_unless_its_code_says_more() {
        for (code, ended_by, trouble) in
            [(1000, Ending::Server, None), (1001, Ending::Server, None), (1011, Ending::Lost, Some("code 1011"))]
        {
            let score = score(2000);
            let mut pair = Pair::new("binary", &score, b"", Farewell::Whole);
            pair.pass(100);
            pair.agent.close(code, "");
            pair.pass(20);
            assert!(pair.vendor.is_done(pair.now));
            let outcome = pair.vendor.outcome();
            assert_eq!(outcome.ended_by, ended_by);
            assert_eq!(outcome.trouble.is_some(), trouble.is_some());
            assert!(outcome.trouble.unwrap_or_default().contains(trouble.unwrap_or_default()));
        }
    }

    #[test]
    fn an_agent_that_takes_no_audio_is_given_up() {
        let score = score(60_000);
        let mut vendor = Vendor::new(leg("exotel", Role::Vendor), &score, b"", Farewell::Whole, Now::ZERO);
        let mut now = Now::ZERO;
        while vendor.ended.is_none() {
            now += PTIME;
            vendor.advance(now);
            assert!(now < Now::from_secs(10));
        }
        assert!(vendor.outcome().trouble.unwrap().contains("took no audio for 2 s"));
    }

    #[test]
    fn a_connection_that_breaks_is_told_from_a_hang_up() {
        let score = score(2000);
        let mut pair = Pair::new("exotel", &score, b"", Farewell::Whole);
        pair.pass(100);
        pair.vendor.lose(pair.now);
        assert!(pair.vendor.is_done(pair.now));
        assert_eq!(pair.vendor.outcome().ended_by, Ending::Closed);
    }
}
