//! The disk thread: opens the folder, as often as it takes, and then gives [`Disk`] its orders and the time.

use std::{
    path::Path,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
};

use log::warn;

use super::{
    Backlog, OnCut, Order, TELL,
    disk::Disk,
    folder::{Folder, OpenError},
};
use crate::{
    clock,
    control::{messages, metrics::Metrics},
    media::Now,
};

/// The thread, until nobody is left to give it orders. It says how the first attempt to open the folder went, and ends
/// when only the operator can mend it. Otherwise orders wait, as they do for a disk that is full.
pub(super) fn run(
    directory: &Path,
    metrics: Arc<Metrics>,
    backlog: Arc<Backlog>,
    on_cut: OnCut,
    orders: &mpsc::Receiver<Order>,
    opened: &mpsc::Sender<Result<(), OpenError>>,
) {
    let mut folder = match Folder::open(directory) {
        Err(error) if error.is_operators() => {
            // Whoever waited for the disk no longer has gone on without records.
            let _ = opened.send(Err(error));
            return;
        }
        other => other,
    };
    // Nobody hears it any more: the log was told that the disk hangs.
    let mut told = opened.send(Ok(())).is_err().then(clock::now);
    let mut early = Vec::new();
    let mut is_last = false;
    let folder = loop {
        match folder {
            Ok(folder) => break folder,
            Err(_) if is_last => return,
            Err(error) => on_failed(&error, &metrics, &mut told),
        }
        is_last = !gather(&mut early, orders, clock::now() + REOPEN);
        folder = Folder::open(directory);
    };

    let mut disk = Disk::new(folder, metrics, backlog, on_cut, told);
    early.into_iter().for_each(|order| disk.handle(order));
    disk.work(clock::now());
    loop {
        let order = match disk.poll_timeout() {
            None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => orders.recv_timeout(at.saturating_sub(clock::now())),
        };
        match order {
            Ok(order) => disk.handle(order),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return disk.finish(clock::now()),
        }
        // All at once, so that a call that is over already is not written as a live one, and none waits for a sync that
        // could have been before it.
        while let Ok(order) = orders.try_recv() {
            disk.handle(order);
        }
        disk.work(clock::now());
    }
}

/// Takes orders until then. Says whether more can come.
fn gather(early: &mut Vec<Order>, orders: &mpsc::Receiver<Order>, until: Now) -> bool {
    loop {
        match orders.recv_timeout(until.saturating_sub(clock::now())) {
            // Not carried out, and so still counted: they are bounded as those in the queue are.
            Ok(order) => early.push(order),
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

fn on_failed(error: &OpenError, metrics: &Metrics, told: &mut Option<Now>) {
    let now = clock::now();
    if told.is_none_or(|told| now - told >= TELL) {
        *told = Some(now);
        let (path, error, waiting) = (error.path.display(), &error.error, metrics.records_waiting());
        warn!(
            message_id = messages::RECORDS_FAILING, path:%, error:%, waiting;
            "records cannot be written; they are kept in memory"
        );
    }
}

/// A folder that could not be opened is tried again after so long.
const REOPEN: Now = Now::from_secs(5);
