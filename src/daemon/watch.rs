//! Whether the daemon is well: asks every thread that has to turn, feeds systemd's watchdog, and says what is wrong.

use core::time::Duration;
use std::{rc::Rc, sync::Arc};

use log::{info, warn};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    call::vitals::Vitals,
    control::{messages, systemd},
    daemon::calls::Shared,
};

/// Watches until the daemon ends. The watchdog is fed from here, so the control thread has to turn as well.
pub(super) async fn watch(shared: Rc<Shared>) {
    // A watchdog wants to be fed twice in its time.
    let every = systemd::watchdog_interval().map_or(EVERY, |limit| EVERY.min(limit / 4));
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut silent: Vec<String> = Vec::new();
    let (mut is_ready_told, mut told) = (false, String::new());
    loop {
        ticks.tick().await;
        // The service manager may be busy: what it did not take is said again.
        is_ready_told = is_ready_told || systemd::ready().is_ok();
        let now_silent = ask(&shared.vitals);
        if now_silent.is_empty() {
            let _ = systemd::feed_watchdog();
        }
        for thread in now_silent.iter().filter(|thread| !silent.contains(thread)) {
            warn!(message_id = messages::THREAD_SILENT, thread; "a thread does not answer");
        }
        for thread in silent.iter().filter(|thread| !now_silent.contains(thread)) {
            info!(thread; "a thread answers again");
        }
        shared.silent.borrow_mut().clone_from(&now_silent);
        silent = now_silent;
        let status = shared.status_line();
        if status != told && systemd::status(&status).is_ok() {
            told = status;
        }
    }
}

/// Asks each thread; names those that had not answered the question before.
fn ask(vitals: &[(String, Arc<Vitals>)]) -> Vec<String> {
    vitals.iter().filter(|(_, vitals)| !vitals.ask()).map(|(name, _)| name.clone()).collect()
}

/// How often.
const EVERY: Duration = Duration::from_secs(1);
