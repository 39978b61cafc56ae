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
//! `cut` at the next start: that is more than nothing. While the thread waits for a sync it carries out no order: if
//! we are killed then, calls that ended meanwhile are `cut`, and calls that started meanwhile leave nothing.

use std::{
    cell::Cell,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError, TryRecvError},
    },
    time::Duration,
};

use log::warn;

use crate::{
    call::record::{Record, Started},
    clock,
    control::{
        messages,
        metrics::{Counter, Metrics},
    },
    media::Now,
};

mod disk;
mod folder;
mod open;
mod spool;
mod thread;

pub use self::folder::OpenError;
pub(crate) use self::open::CallId;

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

/// Who is told of a call that a killed daemon left.
pub type OnCut = Box<dyn Fn(&Record) + Send>;

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
    /// Starts that were not carried out.
    starts: AtomicUsize,
}

impl Records {
    /// Starts the disk thread, which opens the folder, makes it where it is not there, and puts in order what a killed
    /// daemon left: a torn line, and calls that were live, which get a record that says `cut`. While the disk is full,
    /// broken, read-only or hangs, or another daemon has the folder, records wait and the thread tries again.
    ///
    /// # Errors
    /// When the operator has to mend something first, or no thread could be started: see
    /// [`is_operators`](OpenError::is_operators).
    pub fn open(directory: &Path, metrics: Arc<Metrics>) -> Result<Self, OpenError> {
        Self::open_telling(directory, metrics, Box::new(|_| {}))
    }

    /// The same, and `on_cut` is told on the disk thread of each call that a killed daemon left, once.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_telling(directory: &Path, metrics: Arc<Metrics>, on_cut: OnCut) -> Result<Self, OpenError> {
        let backlog = Arc::new(Backlog::default());
        let (orders, mailbox) = mpsc::channel();
        let (until_end, at_end) = mpsc::channel();
        let (opened, first) = mpsc::channel();
        let work = {
            let (directory, metrics, backlog) = (directory.to_owned(), Arc::clone(&metrics), Arc::clone(&backlog));
            move || {
                thread::run(&directory, metrics, backlog, on_cut, &mailbox, &opened);
                drop::<mpsc::Sender<()>>(until_end);
            }
        };
        std::thread::Builder::new()
            .name("disk".to_owned())
            .spawn(work)
            .map_err(|error| OpenError { path: directory.to_owned(), error })?;
        match first.recv_timeout(OPEN_WITHIN) {
            Ok(outcome) => outcome?,
            Err(RecvTimeoutError::Timeout) => warn!(
                message_id = messages::RECORDS_FAILING, path:% = directory.display(), error = "the disk hangs";
                "records cannot be written; they are kept in memory"
            ),
            // It has panicked: the log has it, and records will be counted as lost.
            Err(RecvTimeoutError::Disconnected) => {}
        }
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
        if self.at_end.try_recv() == Err(TryRecvError::Disconnected) {
            return self.on_lost("the disk thread is gone");
        }
        let line = record.line();
        let bytes = self.backlog.bytes.load(Relaxed) + line.len();
        if self.metrics.records_waiting() >= MOST_RECORDS as u64 || bytes > MOST_BYTES {
            return self.on_lost("the disk takes none, and the memory for them is full");
        }
        // Before the thread can say that it is written.
        self.backlog.bytes.fetch_add(line.len(), Relaxed);
        self.metrics.record_waits();
        // The thread has panicked this moment: the record waits for ever, as those before it do.
        let _ = self.orders.send(Order::Ended(CallId::parse(&record.started.call_id), line));
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

    fn on_lost(&self, why: &str) {
        self.metrics.add(Counter::RecordsLost, 1);
        let lost = self.lost_since_told.get() + 1;
        self.lost_since_told.set(lost);
        let now = clock::now();
        if self.last_told.get().is_none_or(|told| now - told >= TELL) {
            warn!(message_id = messages::RECORDS_LOST, lost, why; "records are lost");
            self.lost_since_told.set(0);
            self.last_told.set(Some(now));
        }
    }
}

/// Records that wait for the disk, at most.
pub const MOST_RECORDS: usize = 10_000;
/// Their bytes, at most.
pub const MOST_BYTES: usize = 8 * 1024 * 1024;
/// Starting waits so long for the disk at most.
const OPEN_WITHIN: Duration = Duration::from_secs(5);
/// The log is told once in so long.
const TELL: Now = Now::from_secs(60);

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
            std::thread::yield_now();
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
        let error = Records::open(&directory, Arc::default()).err().unwrap();
        let words = error.to_string();
        assert!(words.contains("taken/open: ") && words.contains("`[records] directory`"), "{words}");
        assert!(error.is_operators());
    }

    #[test]
    fn records_wait_until_another_daemon_leaves_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let other = Records::open(folder.path(), Arc::default()).unwrap();
        other.started(&record("aaaaaaaaaaaa").started);
        let metrics = Arc::<Metrics>::default();
        let records = Records::open(folder.path(), Arc::clone(&metrics)).unwrap();
        records.started(&record("bbbbbbbbbbbb").started);
        records.ended(&record("bbbbbbbbbbbb"));
        other.ended(&record("aaaaaaaaaaaa"));
        assert_eq!((other.close(SOON), lines(folder.path()), metrics.records_waiting()), (0, 1, 1));
        assert_eq!((records.close(SOON), lines(folder.path()), metrics.get(Counter::RecordsWritten)), (0, 2, 1));
    }

    #[test]
    fn the_end_comes_although_the_folder_is_anothers() {
        let folder = tempfile::tempdir().unwrap();
        let _other = Records::open(folder.path(), Arc::default()).unwrap();
        let records = Records::open(folder.path(), Arc::default()).unwrap();
        records.ended(&record("aaaaaaaaaaaa"));
        assert_eq!((records.close(SOON), lines(folder.path())), (1, 0));
    }

    #[test]
    fn a_call_that_was_cut_is_told_once_with_what_was_known_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let killed = Records::open(folder.path(), Arc::default()).unwrap();
        killed.started(&Started { line: Some("pbx".to_owned()), ..record("aaaaaaaaaaaa").started });
        assert_eq!(killed.close(SOON), 0);
        let told = || {
            let (tell, told) = mpsc::channel();
            let on_cut = Box::new(move |record: &Record| tell.send(record.started.line.clone()).unwrap());
            assert_eq!(Records::open_telling(folder.path(), Arc::default(), on_cut).unwrap().close(SOON), 0);
            told.iter().collect::<Vec<_>>()
        };
        assert_eq!(told(), [Some("pbx".to_owned())]);
        assert!(told().is_empty());
    }

    #[test]
    fn a_record_that_finds_no_thread_is_lost_and_does_not_wait() {
        let metrics = Arc::<Metrics>::default();
        let records = Records {
            orders: mpsc::channel().0,
            at_end: mpsc::channel().1,
            metrics: Arc::clone(&metrics),
            backlog: Arc::default(),
            lost_since_told: Cell::new(0),
            last_told: Cell::new(None),
        };
        records.ended(&record("aaaaaaaaaaaa"));
        assert_eq!((metrics.get(Counter::RecordsLost), metrics.records_waiting()), (1, 0));
        assert_eq!(records.backlog.bytes.load(Relaxed), 0);
    }

    const SOON: Duration = Duration::from_secs(20);
}
