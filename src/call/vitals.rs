//! Signs of life of a thread: whether it answers, and whether it keeps up.
//!
//! The control thread asks; the other thread's own loop answers, so an answer proves that the loop turns. Nobody waits
//! for anybody.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::sync::Notify;

/// The signs of one thread.
#[derive(Debug, Default)]
pub struct Vitals {
    asked: AtomicU64,
    answered: AtomicU64,
    question: Notify,
    overloaded: AtomicBool,
}

impl Vitals {
    /// Asks for an answer, and says whether the last question was answered.
    pub fn ask(&self) -> bool {
        let answered = self.is_answered();
        self.asked.fetch_add(1, Relaxed);
        self.question.notify_one();
        answered
    }

    /// Whether the last question was answered.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.answered.load(Relaxed) == self.asked.load(Relaxed)
    }

    /// Answers every question for as long as `is_well` says so.
    pub async fn answer(&self, is_well: impl Fn() -> bool) {
        loop {
            self.question.notified().await;
            if is_well() {
                self.answered.store(self.asked.load(Relaxed), Relaxed);
            }
        }
    }

    /// Says whether the thread keeps up with its calls.
    pub fn set_overloaded(&self, overloaded: bool) {
        self.overloaded.store(overloaded, Relaxed);
    }

    /// Whether it does not.
    #[must_use]
    pub fn is_overloaded(&self) -> bool {
        self.overloaded.load(Relaxed)
    }
}

/// Whether playout keeps up: the 99th percentile of how late frames were in the last 10 s.
#[derive(Clone, Copy, Debug, Default)]
pub struct Punctuality {
    seconds: [Second; SECONDS],
    at: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Second {
    frames: u32,
    too_late: u32,
}

impl Punctuality {
    /// A frame left so late; `missed` before it never left.
    pub fn on_frame(&mut self, late: core::time::Duration, missed: usize) {
        let second = &mut self.seconds[self.at];
        let missed = u32::try_from(missed).unwrap_or(u32::MAX);
        second.frames = second.frames.saturating_add(missed).saturating_add(1);
        second.too_late = second.too_late.saturating_add(missed).saturating_add(u32::from(late > TOO_LATE));
    }

    /// A second is over: whether more than one frame of a hundred was too late in the last ten, and not in one hiccup
    /// only, which is over when the next call comes.
    pub fn turn(&mut self) -> bool {
        let (frames, too_late) = self.seconds.iter().fold((0_u64, 0_u64), |(frames, too_late), second| {
            (frames + u64::from(second.frames), too_late + u64::from(second.too_late))
        });
        let bad_seconds = self.seconds.iter().filter(|second| second.too_late > 0).count();
        self.at = (self.at + 1) % SECONDS;
        self.seconds[self.at] = Second::default();
        too_late * 100 > frames && bad_seconds >= BAD_SECONDS
    }
}

const SECONDS: usize = 10;
/// A stall of the whole machine touches two of them.
const BAD_SECONDS: usize = 3;

/// A frame this late was due together with its successor.
const TOO_LATE: core::time::Duration = core::time::Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    #[test]
    fn a_thread_that_does_not_answer_is_found_out_at_the_next_question() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("no timers, no sockets");
        let vitals = Vitals::default();
        assert!(vitals.ask());
        assert!(!vitals.ask(), "nobody answered");
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = vitals.answer(|| true) => {}
                () = tokio::task::yield_now() => {}
            }
        });
        assert!(vitals.ask(), "its loop turned");
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = vitals.answer(|| false) => {}
                () = tokio::task::yield_now() => {}
            }
        });
        assert!(!vitals.ask(), "its loop turned, but its calls are not served");
    }

    fn second(punctuality: &mut Punctuality, late: u32) -> bool {
        for frame in 0..1000 {
            punctuality.on_frame(Duration::from_millis(if frame < late { 25 } else { 1 }), 0);
        }
        punctuality.turn()
    }

    #[test]
    fn a_machine_that_is_late_again_and_again_is_overloaded_for_ten_seconds() {
        let mut punctuality = Punctuality::default();
        assert!(!second(&mut punctuality, 0));
        assert!(!second(&mut punctuality, 100));
        assert!(!second(&mut punctuality, 100));
        assert!(second(&mut punctuality, 100));
        for _ in 0..7 {
            assert!(second(&mut punctuality, 0));
        }
        assert!(!second(&mut punctuality, 0), "the first of the three is ten seconds ago");
    }

    #[test]
    fn one_stall_is_no_overload_however_long_it_was() {
        let mut punctuality = Punctuality::default();
        assert!(!second(&mut punctuality, 0));
        punctuality.on_frame(Duration::from_millis(990), 49);
        assert!(!punctuality.turn());
        punctuality.on_frame(Duration::from_millis(500), 25);
        assert!(!punctuality.turn());
    }

    #[test]
    fn one_late_frame_of_a_hundred_is_borne() {
        let mut punctuality = Punctuality::default();
        for _ in 0..20 {
            assert!(!second(&mut punctuality, 10));
        }
        assert!(second(&mut punctuality, 200));
    }
}
