//! A line that is a vendor's WebSocket: its far side has a queue of its own, and its own word for what was heard.
//!
//! ```text
//!   downlink ring --pacer--> messages --> the vendor's queue --> the caller
//!        marks that are reached: asked ------------------------> told when the vendor says so, or when
//!                                                                 its queue must have played them
//! ```

use core::fmt::Write as _;

use crate::{
    call::{
        EndReason,
        attention::{Attention, Heard},
        bridge::Uplink,
        tap::MarkName,
    },
    dialect::{Direction, Event, MarksOnClear, Say},
    leg::websocket::leg::{Leg, Over, Sink},
    media::{
        Now, Rate,
        pool::{Account, Pool},
    },
};

/// What the config says about the line.
#[derive(Clone, Copy, Debug)]
pub struct LineSetup {
    /// A line that sends no audio for so long is over; `None`: it may be silent.
    pub silent_after: Option<Now>,
    /// [`Direction::Uplink`]: nobody hears an agent on it, though its dialect would have it.
    pub direction: Direction,
}

/// The line leg.
pub(super) struct WebsocketLine {
    pub(super) leg: Leg,
    setup: LineSetup,
    /// Marks that were reached, in order: the vendor has the audio before them.
    asked: heapless::Deque<Asked, MAX_ASKED>,
    /// How many were asked by names of our own.
    named: u64,
    /// What the vendor calls marks whose audio was flushed and that it may still give back.
    stale: heapless::Deque<(MarkName, Now), MAX_ASKED>,
    /// A clear that found no room.
    clear_owed: bool,
    last_audio: Now,
    goodbye: Option<Goodbye>,
    over: Option<Over>,
    /// Its connection is of no more use.
    gone: bool,
    /// What it owed and did not do.
    overdue: Option<&'static str>,
    /// The agent said in so many words that the call is to end.
    pub(super) hang_up: bool,
    /// The vendor was told so.
    hung_up: bool,
}

/// A mark that the vendor's queue has to reach.
struct Asked {
    name: MarkName,
    /// What the vendor knows it by.
    spoken: MarkName,
    /// When its queue must have.
    due: Now,
    /// The vendor was asked and will say so.
    will_tell: bool,
}

/// How far our leave-taking is.
struct Goodbye {
    /// When we close ourselves.
    close_at: Now,
    /// When we stop waiting for the vendor's close.
    until: Now,
    code: u16,
}

/// What became of the line while it was read.
#[derive(Debug, Default)]
pub(super) struct LineNews {
    /// It ended the call in its dialect.
    pub(super) stopped: bool,
    /// Keys that the caller pressed.
    pub(super) digits: heapless::Vec<u8, MAX_DIGITS>,
    /// Marks that were heard.
    pub(super) heard: heapless::Vec<MarkName, MAX_DIGITS>,
    /// When the caller spoke.
    pub(super) talk: heapless::Vec<Heard, 4>,
    /// The vendor flushed what the agent has not heard yet.
    pub(super) cleared: bool,
}

impl WebsocketLine {
    pub(super) fn new(now: Now, leg: Leg, setup: LineSetup) -> Self {
        Self {
            leg,
            setup,
            asked: heapless::Deque::new(),
            named: 0,
            stale: heapless::Deque::new(),
            clear_owed: false,
            last_audio: now,
            goodbye: None,
            over: None,
            gone: false,
            overdue: None,
            hang_up: false,
            hung_up: false,
        }
    }

    /// How it ended, if it did.
    pub(super) const fn over(&self) -> Option<Over> {
        self.over
    }

    /// What it owed and did not do.
    pub(super) const fn overdue(&self) -> Option<&'static str> {
        self.overdue
    }

    /// It was over in this way.
    pub(super) fn on_over(&mut self, over: Over) {
        // Whoever is told goodbye gives our own code back (RFC 6455 5.5.1), which is no word of its own.
        let over = match (&self.goodbye, over) {
            (Some(goodbye), Over::Closed(Some(code))) if code == goodbye.code => Over::Closed(None),
            _ => over,
        };
        self.over.get_or_insert(over);
    }

    /// Its connection is lost or closed.
    pub(super) const fn on_gone(&mut self) {
        self.gone = true;
    }

    /// It sent audio.
    pub(super) const fn on_audio(&mut self, now: Now) {
        self.last_audio = now;
    }

    /// Whether one more message of audio and its marks can be sent.
    pub(super) fn has_room(&self) -> bool {
        !self.clear_owed && self.leg.out().is_empty() && self.leg.has_room() && !self.asked.is_full()
    }

    /// Flushes the vendor's queue. Whether it has a word for that.
    pub(super) fn clear(&mut self, now: Now) -> bool {
        if self.leg.say(now, Say::Clear) {
            return true;
        }
        // No word, or no room: then it is said as soon as there is some.
        self.clear_owed = !self.leg.has_room();
        self.clear_owed
    }

    /// Says the clear that found no room, before any audio that is not to be cleared.
    pub(super) fn say_owed_clear(&mut self, now: Now) {
        if self.clear_owed && self.leg.has_room() {
            self.clear_owed = false;
            self.leg.say(now, Say::Clear);
        }
    }

    /// The audio before the marks that were asked is flushed: they are heard now, or never where they are to be
    /// forgotten. What the vendor still answers to them means nothing any more.
    pub(super) fn flush_asked(&mut self, now: Now, forget: bool) {
        let tells = self.leg.dialect().marks_on_clear() == MarksOnClear::Tell;
        for asked in &mut self.asked {
            if asked.will_tell && tells {
                if self.stale.is_full() {
                    self.stale.pop_front();
                }
                // Fits: one has just made room.
                let _ = self.stale.push_back((asked.spoken.clone(), now + STALE));
            }
            (asked.due, asked.will_tell) = (now, false);
        }
        if forget {
            self.asked.clear();
        }
    }

    /// Asks to be told when what was sent up to here is heard, at `due` at the latest by our own reckoning. `spoken`: the
    /// message of audio has asked already.
    pub(super) fn ask(&mut self, now: Now, name: MarkName, due: Now, spoken: bool) {
        let alias = if self.leg.dialect().marks_are_ours() { self.next_name() } else { name.clone() };
        let will_tell = spoken || self.leg.say(now, Say::Mark(&alias));
        // [`has_room`](Self::has_room) was asked before.
        let _ = self.asked.push_back(Asked { name, spoken: alias, due, will_tell });
    }

    /// The same where the vendor cannot be asked any more.
    pub(super) fn reckon(&mut self, name: MarkName, due: Now) {
        let _ = self.asked.push_back(Asked { spoken: name.clone(), name, due, will_tell: false });
    }

    /// A name that no other mark of this call has.
    fn next_name(&mut self) -> MarkName {
        self.named += 1;
        let mut name = MarkName::new();
        // Fits: a letter and at most 20 digits.
        let _ = write!(name, "m{}", self.named);
        name
    }

    pub(super) fn is_asked_full(&self) -> bool {
        self.asked.is_full()
    }

    pub(super) fn is_anything_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// The vendor says that this was heard, and so was all before it: [`poll_heard`](Self::poll_heard) gives them.
    pub(super) fn on_heard(&mut self, now: Now, name: &str) {
        while self.stale.front().is_some_and(|(_, until)| now >= *until) {
            self.stale.pop_front();
        }
        if self.stale.iter().any(|(stale, _)| stale == name) {
            // The vendor gives them back in order.
            while self.stale.pop_front().is_some_and(|(stale, _)| stale != name) {}
            return;
        }
        // A name may be given twice: what was told already waits for the agent, not for the vendor.
        let Some(last) = self.asked.iter().position(|asked| asked.will_tell && asked.spoken == name) else { return };
        for asked in self.asked.iter_mut().take(last + 1) {
            (asked.due, asked.will_tell) = (now, false);
        }
    }

    /// The next mark that was heard: the vendor has said so, or it must have been by our own reckoning, where the vendor
    /// has no word for it or has forgotten it.
    pub(super) fn poll_heard(&mut self, now: Now) -> Option<MarkName> {
        let first = self.asked.front()?;
        let patience = if first.will_tell { FORGOTTEN } else { Now::ZERO };
        (now >= first.due + patience).then(|| self.asked.pop_front().map(|asked| asked.name))?
    }

    /// Time passes. Why the line is over, if it is.
    pub(super) fn tick(&mut self, now: Now) -> Option<EndReason> {
        if self.gone {
            return None;
        }
        if !self.leg.beat(now) {
            self.gone = true;
            return Some(EndReason::LineLost);
        }
        self.leg.say_due(now);
        // After our goodbye it owes nothing.
        if self.goodbye.is_none()
            && let Some(overdue) = self.leg.overdue(now)
        {
            self.overdue.get_or_insert(overdue);
            return Some(EndReason::Protocol);
        }
        let silent = self.setup.silent_after.is_some_and(|after| now.saturating_sub(self.last_audio) >= after);
        silent.then_some(EndReason::LineSilent)
    }

    /// The call is over for this reason: says so in the dialect where it has a word, and at the WebSocket's level.
    pub(super) fn say_goodbye(&mut self, now: Now, reason: EndReason) {
        if self.goodbye.is_some() {
            return;
        }
        let code = match reason {
            EndReason::Overload => 1013,
            EndReason::Drained => 1001,
            EndReason::Protocol if self.overdue.is_some() => 1002,
            // A bug of ours ends a call without any goodbye.
            EndReason::TrunkRefused | EndReason::TrunkTimeout | EndReason::TrunkLost => 1011,
            _ => 1000,
        };
        self.hung_up = self.hang_up && self.over.is_none() && self.leg.say(now, Say::HangUp);
        // A vendor that was told to hang up says its stop and closes by itself.
        let close_at = if self.hung_up { now + VENDOR_CLOSES } else { now };
        self.goodbye = Some(Goodbye { close_at, until: close_at + GOODBYE, code });
        self.poll_goodbye(now);
    }

    /// Goes on with the leave-taking. Whether it is at its end.
    pub(super) fn poll_goodbye(&mut self, now: Now) -> bool {
        let Some(Goodbye { close_at, until, code }) = self.goodbye else { return false };
        if self.gone {
            return true;
        }
        if now >= close_at {
            self.leg.close(code, "");
        }
        self.leg.is_closed() && self.leg.out().is_empty() || now >= until
    }

    /// The vendor has said its stop: it waits for our close, or closes itself.
    pub(super) fn on_stop(&mut self, now: Now) {
        if let Some(goodbye) = &mut self.goodbye {
            goodbye.close_at = now;
        }
    }

    /// What the record says where the agent ended the call: a vendor that goes on with its own flow after our close has
    /// its caller back.
    pub(super) fn reason(&self, reason: EndReason) -> EndReason {
        let handed_back = reason == EndReason::TrunkHungUp && !self.hung_up && self.leg.dialect().close_hands_back();
        if handed_back { EndReason::HandedBack } else { reason }
    }
}

/// The uplink as the line's leg sees it.
pub(super) struct LineEar<'e> {
    pub(super) uplink: &'e mut Uplink,
    pub(super) attention: &'e mut Attention,
    pub(super) account: &'e mut Account,
    pub(super) pool: &'e mut Pool,
    pub(super) now: Now,
    pub(super) news: &'e mut LineNews,
    /// Nobody takes what the caller says any more.
    pub(super) deaf: bool,
}

impl Sink for LineEar<'_> {
    fn rate(&self) -> Rate {
        self.uplink.rate
    }

    /// The caller is live: there is always room, if need be in place of what was said before.
    fn room(&self) -> usize {
        if self.news.digits.is_full() || self.news.heard.is_full() { 0 } else { usize::MAX / 64 }
    }

    fn stage(&mut self, samples: &[i16]) {
        if !self.deaf {
            if let Some(talk) = self.attention.on_caller(self.now, samples) {
                // A message so long that more happened in it than this is of the past anyway.
                let _ = self.news.talk.push(talk);
            }
            self.uplink.stage(self.now, self.pool, self.account, samples);
        }
    }

    fn publish(&mut self, _: Now) {
        self.uplink.publish();
    }

    fn rollback(&mut self) {
        self.uplink.ring.rollback(self.pool, self.account);
    }

    fn event(&mut self, _: Now, event: Event<'_>) {
        match event {
            // Fits: room() has said so, and one message has one of these.
            Event::Dtmf(digit) => drop(self.news.digits.push(digit)),
            Event::Heard(name) => drop(self.news.heard.push(name.try_into().unwrap_or_default())),
            Event::Clear => self.news.cleared = true,
            Event::Stop => self.news.stopped = true,
            // A vendor's start was read before the call began.
            Event::None
            | Event::Unknown
            | Event::Start
            | Event::Mark(_)
            | Event::HangUp
            | Event::Transcript { .. }
            | Event::Fault(_)
            | Event::Broken(_)
            | Event::Expiring
            | Event::Wish(_)
            | Event::Held(_)
            | Event::Transfer(_) => {}
        }
    }
}

/// Marks that may be on their way through the vendor's queue.
const MAX_ASKED: usize = 32;
/// Digits or marks that one turn takes in.
const MAX_DIGITS: usize = 16;
/// An answer to a mark that was flushed comes within so long, if at all.
const STALE: Now = Now::from_secs(2);
/// A mark that the vendor has not given back so long after its queue must have played it will not come.
const FORGOTTEN: Now = Now::from_secs(5);
/// A vendor that was told to hang up has so long to close.
const VENDOR_CLOSES: Now = Now::from_secs(2);
/// How long we wait for the vendor's close after ours.
const GOODBYE: Now = Now::from_secs(2);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        dialect::{self, Facts, Options, Role},
        leg::websocket::{leg::Setup, wire::Side},
    };

    fn exotel() -> WebsocketLine {
        let (now, rate) = (Now::ZERO, Rate::Hz8000);
        let dialect = dialect::open("exotel", Role::Agent, None, rate, &Options::default()).unwrap();
        let (facts, ping_every) = (Facts::default(), Now::from_secs(20));
        let leg = Leg::new(Setup { side: Side::Server, dialect, facts, rate, now, epoch_ms: 0, ping_every });
        WebsocketLine::new(now, leg, LineSetup { silent_after: None, direction: Direction::Both })
    }

    #[test]
    fn a_clear_that_found_no_room_goes_before_the_speech_that_follows_it() {
        let mut line = exotel();
        line.clear_owed = true;
        assert!(!line.has_room(), "what is said now is not to be cleared");
        line.say_owed_clear(Now::ZERO);
        let said = String::from_utf8_lossy(line.leg.out()).into_owned();
        assert!(said.contains(r#""event":"clear""#), "{said}");
        line.leg.written(line.leg.out().len());
        assert!(line.has_room());
    }
}
