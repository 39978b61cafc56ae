//! What is kept of calls: the file `records.jsonl`, one line a call, and the folder `open/`, one file a live call.
//!
//! ```text
//!   call starts            call ends               2 s later, for all since then
//!   open/ID.json written   line appended           fdatasync of the lines, then open/ID.json removed
//!        |                      |                       |
//!        |  killed: cut         |  killed: the line is  |
//!        |  from its file       |  there, the file goes |  the record is safe
//!        |                      |  at the next start    |
//!        +- power cut: the same, but for files and lines of the last 2 s, which nobody made safe
//! ```
//!
//! Only the thread `disk` touches the disk, and it may hang for ever: [`Records`] counts what waits for it, and beyond
//! [`MOST_RECORDS`] or [`MOST_BYTES`] new records are lost and counted. A lost record's call keeps its file, and is
//! `cut` at the next start: that is more than nothing.

use core::fmt;
use std::{
    cell::Cell,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use log::{info, warn};

use crate::{
    call::record::{Record, Started},
    clock,
    control::metrics::{Counter, Metrics},
    media::Now,
};

mod disk;
mod open;
mod spool;

use self::{
    disk::{Disk, sort_out},
    open::{CallId, OpenFolder},
    spool::Spool,
};

/// The records, as the control thread has them. Nothing here waits but [`close`](Self::close).
pub struct Records {
    orders: mpsc::Sender<Order>,
    /// Says nothing, and is closed when the disk thread is at its end.
    at_end: mpsc::Receiver<()>,
    metrics: Arc<Metrics>,
    backlog: Arc<Backlog>,
    lost_since_told: Cell<u64>,
    last_told: Cell<Option<Now>>,
}

/// What the disk thread is to do.
enum Order {
    Started(CallId, Vec<u8>),
    Ended(Option<CallId>, Vec<u8>),
}

/// What the disk thread has not done yet; the metrics know how many records.
#[derive(Default)]
struct Backlog {
    /// Of records that are not safe.
    bytes: AtomicUsize,
    /// Starts in the queue of orders.
    starts: AtomicUsize,
}

/// Why there can be no records.
#[derive(Debug)]
pub struct OpenError {
    path: PathBuf,
    error: io::Error,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "records cannot be kept in {}: {}; let the daemon's user write there, or set `[records] directory` to \
             another folder or to \"off\"",
            self.path.display(),
            self.error
        )
    }
}

impl std::error::Error for OpenError {}

impl Records {
    /// Opens the folder, makes it where it is not there, and starts the disk thread. What a killed daemon left is put
    /// in order: a torn line, and calls that were live, which get a record that says `cut`.
    ///
    /// # Errors
    /// When the folder cannot be made or written to.
    pub fn open(directory: &Path, metrics: Arc<Metrics>) -> Result<Self, OpenError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            |error| OpenError { path, error }
        };
        let (open_path, spool_path) = (directory.join("open"), directory.join("records.jsonl"));
        let (mut open, left) = OpenFolder::open(&open_path).map_err(failed(&open_path))?;
        let spool = Spool::open(&spool_path).map_err(failed(&spool_path))?;
        let left = sort_out(&spool, &mut open, left).map_err(failed(&spool_path))?;
        if !left.is_empty() {
            info!(calls = left.len(); "calls were cut off when the daemon last ended; they are put on record");
        }

        let backlog = Arc::new(Backlog::default());
        let (orders, mailbox) = mpsc::channel();
        let (until_end, at_end) = mpsc::channel();
        let disk = Disk::new(spool, open, left, clock::epoch_ms(), Arc::clone(&metrics), Arc::clone(&backlog));
        let work = move || {
            run(disk, &mailbox);
            drop::<mpsc::Sender<()>>(until_end);
        };
        thread::Builder::new().name("disk".to_owned()).spawn(work).map_err(failed(directory))?;
        Ok(Self { orders, at_end, metrics, backlog, lost_since_told: Cell::new(0), last_told: Cell::new(None) })
    }

    /// A call has started.
    pub fn started(&self, started: &Started) {
        // A disk that is so far behind: the call can do without a file.
        if let Some(id) = CallId::parse(&started.call_id)
            && self.backlog.starts.load(Relaxed) < MOST_RECORDS
        {
            self.backlog.starts.fetch_add(1, Relaxed);
            // The thread has panicked: the log has it, and the record will be counted as lost.
            let _ = self.orders.send(Order::Started(id, started.line()));
        }
    }

    /// A call has ended.
    pub fn ended(&self, record: &Record) {
        let line = record.line();
        let bytes = self.backlog.bytes.load(Relaxed) + line.len();
        if self.metrics.records_waiting() >= MOST_RECORDS as u64 || bytes > MOST_BYTES {
            return self.on_lost();
        }
        self.backlog.bytes.fetch_add(line.len(), Relaxed);
        self.metrics.record_waits();
        if self.orders.send(Order::Ended(CallId::parse(&record.started.call_id), line)).is_err() {
            self.on_lost();
        }
    }

    /// Writes what waits and ends the thread, but returns `at_most` so much later, for the disk may hang. Says how many
    /// records are not safe.
    pub fn close(self, at_most: Duration) -> usize {
        let Self { orders, at_end, metrics, .. } = self;
        drop(orders);
        let in_time = at_end.recv_timeout(at_most) != Err(RecvTimeoutError::Timeout);
        let waiting = metrics.records_waiting() as usize;
        if waiting > 0 {
            warn!(records = waiting, in_time; "records could not be written before the end");
        }
        waiting
    }

    fn on_lost(&self) {
        self.metrics.add(Counter::RecordsLost, 1);
        let lost = self.lost_since_told.get() + 1;
        self.lost_since_told.set(lost);
        let now = clock::now();
        if self.last_told.get().is_none_or(|told| now - told >= TELL_LOST) {
            warn!(lost; "records are lost: the disk takes none and the memory for them is full");
            self.lost_since_told.set(0);
            self.last_told.set(Some(now));
        }
    }
}

/// The disk thread, until nobody is left to give it orders.
fn run(mut disk: Disk, orders: &mpsc::Receiver<Order>) {
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
        // All at once, so that a call that is over already is not written as a live one.
        while let Ok(order) = orders.try_recv() {
            disk.handle(order);
        }
        disk.work(clock::now());
    }
}

/// Records that wait for the disk, at most.
pub const MOST_RECORDS: usize = 10_000;
/// Their bytes, at most.
pub const MOST_BYTES: usize = 8 * 1024 * 1024;
/// Losses are told once in so long.
const TELL_LOST: Now = Now::from_secs(60);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{fs, io::Read};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn record(id: &str) -> Record {
        Record::cut(Started { call_id: id.to_owned(), ..Started::default() }, 1)
    }

    fn lines(folder: &Path) -> usize {
        fs::read_to_string(folder.join("records.jsonl")).unwrap().lines().count()
    }

    #[test]
    fn records_are_there_after_the_end_and_the_folder_was_made() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("state/calls");
        let metrics = Arc::<Metrics>::default();
        let records = Records::open(&directory, Arc::clone(&metrics)).unwrap();
        let first = record("aaaaaaaaaaaa");
        records.started(&first.started);
        records.ended(&first);
        records.ended(&record("not an id"));
        assert_eq!(records.close(SOON), 0);
        assert_eq!((lines(&directory), metrics.get(Counter::RecordsWritten)), (2, 2));
        assert_eq!(fs::read_dir(directory.join("open")).unwrap().count(), 0);
    }

    #[test]
    fn a_disk_that_hangs_keeps_nobody_waiting_and_costs_bounded_memory() {
        let folder = tempfile::tempdir().unwrap();
        let metrics = Arc::<Metrics>::default();
        let records = Records::open(folder.path(), Arc::clone(&metrics)).unwrap();
        // Whoever opens a pipe for writing hangs until somebody reads.
        let pipe = folder.path().join("open/aaaaaaaaaaaa.json");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        records.started(&record("aaaaaaaaaaaa").started);
        while records.backlog.starts.load(Relaxed) > 0 {
            thread::yield_now();
        }
        records.ended(&record("aaaaaaaaaaaa"));
        for _ in 1..MOST_RECORDS + 5 {
            records.started(&record("bbbbbbbbbbbb").started);
            records.ended(&record("bbbbbbbbbbbb"));
        }
        assert_eq!(metrics.get(Counter::RecordsLost), 5);
        assert!(records.backlog.starts.load(Relaxed) <= MOST_RECORDS);
        assert!(records.backlog.bytes.load(Relaxed) <= MOST_BYTES);
        let Records { orders, at_end, .. } = records;
        drop(orders);
        assert_eq!(at_end.recv_timeout(Duration::from_millis(1)), Err(RecvTimeoutError::Timeout));
        // It goes on as if nothing had been.
        let mut said = Vec::new();
        fs::File::open(&pipe).unwrap().read_to_end(&mut said).unwrap();
        assert_eq!(at_end.recv_timeout(SOON), Err(RecvTimeoutError::Disconnected));
        assert_eq!((lines(folder.path()), metrics.get(Counter::RecordsWritten)), (MOST_RECORDS, MOST_RECORDS as u64));
    }

    #[test]
    fn long_records_are_bounded_by_their_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let metrics = Arc::<Metrics>::default();
        let records = Records::open(folder.path(), Arc::clone(&metrics)).unwrap();
        let mut long = record("aaaaaaaaaaaa");
        long.words = Some("x".repeat(MOST_BYTES));
        records.ended(&long);
        records.ended(&record("bbbbbbbbbbbb"));
        assert_eq!((records.close(SOON), metrics.get(Counter::RecordsLost), lines(folder.path())), (0, 1, 1));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named_with_what_would_do() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("taken"), "").unwrap();
        let directory = folder.path().join("taken");
        let words = Records::open(&directory, Arc::default()).err().unwrap().to_string();
        assert!(words.contains("taken/open: ") && words.contains("`[records] directory`"), "{words}");
    }

    const SOON: Duration = Duration::from_secs(20);
}
