//! Whether the daemon is well: asks every thread that has to turn, feeds systemd's watchdog, and says what is wrong.

use core::time::Duration;
use std::{rc::Rc, sync::Arc};

use log::{info, warn};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    call::vitals::Vitals,
    clock,
    control::{messages, metrics::Counter, systemd},
    daemon::calls::Shared,
    media::Now,
};

/// Watches until the daemon ends. The watchdog is fed from here, so the control thread has to turn as well.
pub(super) async fn watch(shared: Rc<Shared>) {
    // A watchdog wants to be fed twice in its time.
    let every = systemd::watchdog_interval().map_or(EVERY, |limit| EVERY.min(limit / 4));
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut silent: Vec<String> = Vec::new();
    let mut records = Progress::default();
    let mut told = String::new();
    loop {
        ticks.tick().await;
        // The service manager may be busy: what it did not take is said again.
        if !shared.is_ready_told.get() {
            shared.is_ready_told.set(systemd::ready().is_ok());
        }
        // Threads that were told to end need not answer any more.
        let now_silent = if shared.is_closed() { Vec::new() } else { ask(&shared.vitals) };
        if now_silent.is_empty() {
            let _ = systemd::feed_watchdog();
        }
        for thread in now_silent.iter().filter(|thread| !silent.contains(thread)) {
            warn!(message_id = messages::THREAD_SILENT, thread; "a thread does not answer");
        }
        for thread in silent.iter().filter(|thread| !now_silent.contains(thread)) {
            info!(thread; "a thread answers again");
        }
        let (waiting, written) = (shared.metrics.records_waiting(), shared.metrics.get(Counter::RecordsWritten));
        let stuck = records.is_stuck(clock::now(), waiting, written);
        // A disk that fails is told by its thread; one that hangs holds that thread.
        if stuck && !shared.records_stuck.replace(stuck) {
            warn!(
                message_id = messages::RECORDS_FAILING, waiting;
                "records cannot be written: nothing was for ten seconds; they are kept in memory"
            );
        } else if !stuck && shared.records_stuck.replace(stuck) {
            info!(message_id = messages::RECORDS_WRITTEN; "records are written again");
        }
        shared.silent.borrow_mut().clone_from(&now_silent);
        silent = now_silent;
        shared.tell_doors();
        let status = shared.status_line();
        if status != told && systemd::status(&status).is_ok() {
            told = status;
        }
    }
}

/// Whether what waits gets fewer.
#[derive(Default)]
struct Progress {
    written: u64,
    since: Option<Now>,
}

impl Progress {
    /// Whether something waits and nothing was written for [`STUCK_AFTER`].
    fn is_stuck(&mut self, now: Now, waiting: u64, written: u64) -> bool {
        if waiting == 0 || written != self.written {
            (self.written, self.since) = (written, None);
            return false;
        }
        now.saturating_sub(*self.since.get_or_insert(now)) >= STUCK_AFTER
    }
}

/// Asks each thread; names those that had not answered the question before.
fn ask(vitals: &[(String, Arc<Vitals>)]) -> Vec<String> {
    vitals.iter().filter(|(_, vitals)| !vitals.ask()).map(|(name, _)| name.clone()).collect()
}

/// How often.
const EVERY: Duration = Duration::from_secs(1);
/// Records are made safe every two seconds; a disk that takes none for so long is full, or dead.
const STUCK_AFTER: Now = Now::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_stuck_when_they_wait_and_none_is_written_for_ten_seconds() {
        let at = Now::from_secs;
        let mut progress = Progress::default();
        assert!(!progress.is_stuck(at(1), 3, 0));
        assert!(!progress.is_stuck(at(9), 3, 0));
        assert!(!progress.is_stuck(at(10), 2, 1), "one was written");
        assert!(!progress.is_stuck(at(11), 2, 1));
        assert!(progress.is_stuck(at(21), 5, 1));
        assert!(!progress.is_stuck(at(22), 0, 6));
        assert!(!progress.is_stuck(at(99), 1, 6), "a moment ago nothing waited");
    }

    #[test]
    fn the_thread_that_does_not_answer_is_named() {
        let threads = [("dial".to_owned(), Arc::default()), ("media-0".to_owned(), Arc::default())];
        assert!(ask(&threads).is_empty());
        assert_eq!(ask(&threads), ["dial", "media-0"]);
    }
}
