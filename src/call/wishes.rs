//! What an agent asks of the line beside audio, and what it is told of it: wishes, hold, a transfer.
//!
//! The bridge only passes these on. Whoever has the line takes a wish, does as it says where that can be, and tells how
//! it goes. A transfer waits for the agent's last sentence, or the caller would never hear where the call goes:
//!
//! ```text
//!   agent:  "I put you through." {transfer}
//!   ring:   |===================|<-- ask_spoken
//!   line:   ====================>| poll_spoken: now the REFER
//! ```

use heapless::Deque;

use crate::{
    dialect::{Transfer, Wish},
    media::Now,
};

/// What one call's agent asked, and how the line fares.
#[derive(Clone, Debug, Default)]
pub(super) struct Wishes {
    queue: Deque<Wish, MAX_WISHES>,
    hold: Hold,
    pub(super) transfer: Option<Transfer>,
    spoken: Option<Spoken>,
    count: u64,
    dropped: u64,
}

/// What was asked of the line, and what became of it: for the record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WishFigures {
    /// What the agent asked for.
    pub wishes: u64,
    /// Of those, what nobody took in time.
    pub dropped: u64,
    /// How often the caller was put on hold.
    pub holds: u32,
    /// How long that was in all, as of the last time it began or ended.
    pub held: Now,
    /// How the last transfer stands.
    pub transfer: Option<Transfer>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Hold {
    since: Option<Now>,
    count: u32,
    lasted: Now,
}

/// A place in the agent's speech up to which it is to be heard.
#[derive(Clone, Copy, Debug)]
struct Spoken {
    /// In samples of the downlink ring.
    position: u64,
    /// It is not waited for any longer.
    until: Now,
}

impl Wishes {
    /// The agent asks for this.
    pub(super) fn push(&mut self, wish: Wish) {
        self.count += 1;
        if self.queue.push_back(wish).is_err() {
            self.dropped += 1;
        }
    }

    pub(super) fn pop(&mut self) -> Option<Wish> {
        self.queue.pop_front()
    }

    /// The caller is on hold, or is not. Whether that is news.
    pub(super) fn set_held(&mut self, now: Now, held: bool) -> bool {
        let hold = &mut self.hold;
        match (hold.since, held) {
            (None, true) => {
                hold.since = Some(now);
                hold.count += 1;
            }
            (Some(since), false) => {
                hold.since = None;
                hold.lasted += now.saturating_sub(since);
            }
            (None, false) | (Some(_), true) => return false,
        }
        true
    }

    pub(super) const fn is_held(&self) -> bool {
        self.hold.since.is_some()
    }

    /// From now on it is waited for this place to be heard.
    pub(super) fn ask_spoken(&mut self, now: Now, position: u64) {
        self.spoken = Some(Spoken { position, until: now + PATIENCE });
    }

    /// Whether that place was heard now that the line is at `heard`, or is waited for no longer. Said once.
    pub(super) fn poll_spoken(&mut self, now: Now, heard: u64) -> bool {
        self.spoken.take_if(|spoken| heard >= spoken.position || now >= spoken.until).is_some()
    }

    pub(super) const fn figures(&self) -> WishFigures {
        WishFigures {
            wishes: self.count,
            dropped: self.dropped,
            holds: self.hold.count,
            held: self.hold.lasted,
            transfer: self.transfer,
        }
    }
}

/// Wishes that may wait to be taken: the media thread takes them on every event.
const MAX_WISHES: usize = 4;
/// A sentence that is not heard by then, because the agent goes on or the line takes nothing, is not waited for.
const PATIENCE: Now = Now::from_secs(10);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Now {
        Now::from_millis(ms)
    }

    #[test]
    fn hold_counts_once_however_often_it_is_told() {
        let mut wishes = Wishes::default();
        assert!(!wishes.set_held(at(0), false), "a caller who never was on hold");
        assert!(wishes.set_held(at(1000), true));
        assert!(!wishes.set_held(at(2000), true), "a re-INVITE that changes nothing");
        assert!(wishes.set_held(at(5000), false));
        assert!(wishes.set_held(at(9000), true) && wishes.is_held());
        assert!(wishes.set_held(at(9500), false));
        let figures = wishes.figures();
        assert_eq!((figures.holds, figures.held), (2, at(4500)));
    }

    #[test]
    fn a_model_that_asks_without_end_is_heard_in_part_and_the_rest_counted() {
        let mut wishes = Wishes::default();
        for key in "123456".chars() {
            wishes.push(Wish::digits(key.encode_utf8(&mut [0; 4])).unwrap());
        }
        let taken: Vec<_> = core::iter::from_fn(|| wishes.pop()).collect();
        assert_eq!(taken.len(), MAX_WISHES);
        assert_eq!(taken[0], Wish::digits("1").unwrap());
        assert_eq!((wishes.figures().wishes, wishes.figures().dropped), (6, 2));
    }

    #[test]
    fn a_sentence_is_waited_for_until_it_was_heard_and_no_longer_than_ten_seconds() {
        let mut wishes = Wishes::default();
        assert!(!wishes.poll_spoken(at(0), 0), "nobody asked");
        wishes.ask_spoken(at(0), 800);
        assert!(!wishes.poll_spoken(at(80), 640));
        assert!(wishes.poll_spoken(at(100), 800));
        assert!(!wishes.poll_spoken(at(120), 960), "it is said once");
        wishes.ask_spoken(at(200), 80_000);
        assert!(!wishes.poll_spoken(at(10_199), 8_000));
        assert!(wishes.poll_spoken(at(10_200), 8_000));
    }
}
