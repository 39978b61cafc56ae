//! What the disk thread does, told the time: when what is written, made safe, and tried again.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use log::{info, warn};

use super::{
    Backlog, OnCut, Order, TELL,
    folder::Folder,
    open::{CallId, OpenFolder},
    spool::Spool,
};
use crate::{
    call::record::Record,
    control::{messages, metrics::Metrics},
    media::Now,
};

/// The state of the disk thread.
pub(super) struct Disk {
    spool: Spool,
    open: OpenFolder,
    metrics: Arc<Metrics>,
    backlog: Arc<Backlog>,
    on_cut: OnCut,
    /// Calls that have no file yet.
    starts: HashMap<CallId, Vec<u8>>,
    /// Records that are not safe on the disk. The first `written` of them are in the file.
    queue: VecDeque<Line>,
    written: usize,
    /// Calls of an earlier daemon that have no record yet.
    left: Vec<CallId>,
    found_ms: u64,
    /// When what was written is to be made safe.
    sync_at: Option<Now>,
    /// The disk took nothing: when it is asked again.
    retry_at: Option<Now>,
    /// When the log was last told that the disk takes nothing.
    told: Option<Now>,
}

struct Line {
    id: Option<CallId>,
    bytes: Vec<u8>,
}

impl Disk {
    /// `told`: when the log was last told that the folder could not be opened.
    pub(super) fn new(
        folder: Folder,
        metrics: Arc<Metrics>,
        backlog: Arc<Backlog>,
        on_cut: OnCut,
        told: Option<Now>,
    ) -> Self {
        let Folder { spool, open, left, found_ms } = folder;
        Self {
            spool,
            open,
            metrics,
            backlog,
            on_cut,
            starts: HashMap::new(),
            queue: VecDeque::new(),
            written: 0,
            left,
            found_ms,
            sync_at: None,
            retry_at: None,
            told,
        }
    }

    /// Takes an order; [`work`](Self::work) carries it out.
    pub(super) fn handle(&mut self, order: Order) {
        match order {
            Order::Started(id, bytes) => {
                self.backlog.starts.fetch_sub(1, Relaxed);
                self.starts.insert(id, bytes);
            }
            Order::Ended(id, bytes) => {
                if let Some(id) = &id {
                    // Over before it had a file: it needs none.
                    self.starts.remove(id);
                }
                self.queue.push_back(Line { id, bytes });
            }
        }
    }

    /// When there is something to do without an order.
    pub(super) fn poll_timeout(&self) -> Option<Now> {
        let first = if self.left.is_empty() { None } else { Some(Now::ZERO) };
        self.retry_at.or(first).or(self.sync_at)
    }

    /// Does what is due.
    pub(super) fn work(&mut self, now: Now) {
        for (id, bytes) in self.starts.drain() {
            self.open.write(id, &bytes);
            self.sync_at.get_or_insert(now + BATCH);
        }
        if self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        // As long as there are such calls, none of them waits for a batch of live ones.
        let hurried = !self.left.is_empty();
        self.load_left();
        let appended = self.append(now);
        let due = hurried || self.sync_at.is_some_and(|at| now >= at);
        // A full disk is no reason to leave unsafe what it has taken.
        let synced = if due { self.sync_lines() } else { Ok(()) };
        if due {
            // Nor is it one to keep a list of the files that are not safe.
            self.open.sync();
        }
        if synced.is_ok() && due {
            self.sync_at = None;
        }
        self.retry_at = None;
        match appended.and(synced) {
            Err(error) => self.on_failed(now, &error),
            Ok(()) if self.told.take().is_some() => {
                let path = self.spool.path().display();
                info!(message_id = messages::RECORDS_WRITTEN, path:%; "records are written again");
            }
            Ok(()) => {}
        }
    }

    /// The last work: nothing waits for its time.
    pub(super) fn finish(&mut self, now: Now) {
        loop {
            self.retry_at = None;
            self.sync_at = Some(now);
            self.work(now);
            if self.retry_at.is_some() || self.left.is_empty() && self.queue.is_empty() {
                break;
            }
        }
    }

    /// Makes records of a part of the calls that were cut off, when nothing else waits.
    fn load_left(&mut self) {
        if !self.queue.is_empty() {
            return;
        }
        for id in self.left.drain(self.left.len().saturating_sub(PART)..) {
            let record = Record::cut(self.open.read(&id), self.found_ms);
            (self.on_cut)(&record);
            let bytes = record.line();
            self.metrics.record_waits();
            self.backlog.bytes.fetch_add(bytes.len(), Relaxed);
            self.queue.push_back(Line { id: Some(id), bytes });
        }
    }

    fn append(&mut self, now: Now) -> io::Result<()> {
        if self.written == 0 && !self.queue.is_empty() {
            self.spool.follow()?;
        }
        while let Some(line) = self.queue.get(self.written) {
            self.spool.append(&line.bytes)?;
            self.written += 1;
            self.sync_at.get_or_insert(now + BATCH);
        }
        Ok(())
    }

    /// Makes safe what was written; only then do the calls' files go.
    fn sync_lines(&mut self) -> io::Result<()> {
        if self.written > 0 {
            let bytes: usize = self.queue.iter().take(self.written).map(|line| line.bytes.len()).sum();
            if let Err(error) = self.spool.sync() {
                // Nobody knows what of it is on the disk, and asking again does not tell: it is written again.
                self.spool.take_back(bytes as u64);
                self.written = 0;
                return Err(error);
            }
            for line in self.queue.drain(..self.written) {
                line.id.iter().for_each(|id| self.open.remove(id));
            }
            self.backlog.bytes.fetch_sub(bytes, Relaxed);
            self.metrics.records_written(self.written as u64);
            self.written = 0;
        }
        Ok(())
    }

    fn on_failed(&mut self, now: Now, error: &io::Error) {
        self.retry_at = Some(now + RETRY);
        if self.told.is_none_or(|told| now - told >= TELL) {
            self.told = Some(now);
            let waiting = self.queue.len();
            let path = self.spool.path().display();
            warn!(
                message_id = messages::RECORDS_FAILING, path:%, error:%, waiting;
                "records cannot be written; they are kept in memory"
            );
        }
    }
}

/// An SD card is asked to make things safe once in so long.
const BATCH: Now = Now::from_secs(2);
/// A disk that took nothing is asked again after so long.
const RETRY: Now = Now::from_secs(1);
/// Calls that were cut off are put on record so many at a time.
const PART: usize = 1000;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;
    use crate::{call::record::Started, control::metrics::Counter};

    struct Bench {
        folder: tempfile::TempDir,
        metrics: Arc<Metrics>,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("kept")).unwrap();
            Self { folder, metrics: Arc::default() }
        }

        fn kept(&self) -> PathBuf {
            self.folder.path().join("kept")
        }

        /// The disk as a daemon that starts finds it.
        fn disk(&self) -> Disk {
            let folder = Folder { found_ms: 77, ..Folder::open(&self.kept()).unwrap() };
            Disk::new(folder, Arc::clone(&self.metrics), Arc::default(), Box::new(|_| {}), None)
        }

        fn start(&self, disk: &mut Disk, id: &str) {
            disk.backlog.starts.fetch_add(1, Relaxed);
            disk.handle(Order::Started(CallId::parse(id).unwrap(), started(id).line()));
        }

        fn end(&self, disk: &mut Disk, id: &str) {
            let mut record = Record::cut(started(id), 1);
            record.seconds = Some(1.5);
            disk.backlog.bytes.fetch_add(record.line().len(), Relaxed);
            self.metrics.record_waits();
            disk.handle(Order::Ended(CallId::parse(id), record.line()));
        }

        /// What is on record: id, and whether its end is known.
        fn recorded(&self) -> Vec<(String, bool)> {
            let text = fs::read_to_string(self.kept().join("records.jsonl")).unwrap();
            let record = |line| {
                let record: serde_json::Value = serde_json::from_str(line).unwrap();
                (record["call_id"].as_str().unwrap().to_owned(), !record["seconds"].is_null())
            };
            text.lines().map(record).collect()
        }

        fn open_files(&self) -> usize {
            fs::read_dir(self.kept().join("open")).unwrap().count()
        }

        fn written(&self) -> u64 {
            self.metrics.get(Counter::RecordsWritten)
        }
    }

    fn started(id: &str) -> Started {
        Started { call_id: id.to_owned(), line: Some("pbx".to_owned()), ..Started::default() }
    }

    fn at(ms: u64) -> Now {
        Now::from_millis(ms)
    }

    fn known(id: &str) -> (String, bool) {
        (id.to_owned(), true)
    }

    const A: &str = "aaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbb";
    const C: &str = "cccccccccccc";

    #[test]
    fn a_calls_file_goes_when_its_record_is_safe_and_not_before() {
        let bench = Bench::new();
        let mut disk = bench.disk();
        assert_eq!(disk.poll_timeout(), None);
        bench.start(&mut disk, A);
        disk.work(at(0));
        bench.end(&mut disk, A);
        disk.work(at(1500));
        assert_eq!((bench.recorded(), bench.open_files(), bench.written()), (vec![known(A)], 1, 0));
        assert_eq!(disk.poll_timeout(), Some(at(2000)));
        disk.work(at(2000));
        assert_eq!((bench.recorded(), bench.open_files(), bench.written()), (vec![known(A)], 0, 1));
        assert_eq!((disk.poll_timeout(), bench.metrics.records_waiting()), (None, 0));
        assert_eq!(disk.backlog.bytes.load(Relaxed), 0);
    }

    #[test]
    fn a_call_that_is_over_before_the_thread_looks_gets_no_file() {
        let bench = Bench::new();
        let mut disk = bench.disk();
        bench.start(&mut disk, A);
        bench.end(&mut disk, A);
        bench.start(&mut disk, B);
        disk.work(at(0));
        assert_eq!((bench.recorded(), bench.open_files()), (vec![known(A)], 1));
        assert_eq!(disk.backlog.starts.load(Relaxed), 0);
    }

    #[test]
    fn a_kill_between_a_record_and_the_end_of_its_file_does_not_make_two_records() {
        let bench = Bench::new();
        let mut disk = bench.disk();
        bench.start(&mut disk, A);
        bench.start(&mut disk, B);
        disk.work(at(0));
        bench.end(&mut disk, A);
        disk.work(at(10));
        drop(disk);
        assert_eq!(bench.open_files(), 2);
        let mut disk = bench.disk();
        assert_eq!(disk.poll_timeout(), Some(Now::ZERO));
        disk.work(at(0));
        assert_eq!((bench.recorded(), bench.open_files()), (vec![known(A), (B.to_owned(), false)], 0));
        let last = fs::read_to_string(bench.kept().join("records.jsonl")).unwrap();
        assert!(last.contains("\"line\":\"pbx\"") && last.contains("\"ended_ms\":77,\"seconds\":null"), "{last}");
        drop(disk);
        assert_eq!(bench.disk().poll_timeout(), None);
    }

    #[test]
    fn calls_that_were_cut_off_are_put_on_record_once_and_beside_live_ones() {
        let bench = Bench::new();
        drop(bench.disk());
        let letters: Vec<char> = ('a'..='z').collect();
        for n in 0..2500 {
            let id = format!("cut{}{}{}aaaaaa", letters[n % 26], letters[n / 26 % 26], letters[n / 676]);
            fs::write(bench.kept().join(format!("open/{id}.json")), started(&id).line()).unwrap();
        }
        let mut disk = bench.disk();
        bench.end(&mut disk, A);
        for _ in 0..4 {
            disk.work(at(0));
        }
        assert_eq!(disk.poll_timeout(), None);
        let mut recorded = bench.recorded();
        recorded.sort();
        recorded.dedup();
        assert_eq!((recorded.len(), bench.open_files(), bench.written()), (2501, 0, 2501));
    }

    #[test]
    fn what_a_disk_did_not_take_is_written_later_and_in_order() {
        let bench = Bench::new();
        let mut disk = bench.disk();
        bench.end(&mut disk, A);
        disk.work(at(0));
        disk.work(at(2000));
        // Unmounted.
        let away = bench.folder.path().join("away");
        fs::rename(bench.kept(), &away).unwrap();
        bench.end(&mut disk, B);
        disk.work(at(3000));
        assert_eq!(disk.poll_timeout(), Some(at(4000)));
        bench.end(&mut disk, C);
        disk.work(at(3100));
        disk.work(at(4000));
        assert_eq!((disk.poll_timeout(), bench.metrics.records_waiting()), (Some(at(5000)), 2));
        // And there again; nothing is tried before its time.
        fs::rename(&away, bench.kept()).unwrap();
        disk.work(at(4999));
        assert_eq!(bench.recorded(), [known(A)]);
        disk.work(at(5000));
        assert_eq!(bench.recorded(), [known(A), known(B), known(C)]);
        disk.work(at(7000));
        assert_eq!((bench.written(), bench.metrics.records_waiting(), disk.told), (3, 0, None));
    }

    #[test]
    fn what_a_disk_cannot_make_safe_is_not_remembered_for_ever() {
        let bench = Bench::new();
        // It takes everything and makes nothing safe.
        std::os::unix::fs::symlink("/dev/null", bench.kept().join("records.jsonl")).unwrap();
        let mut disk = bench.disk();
        bench.start(&mut disk, A);
        bench.end(&mut disk, B);
        disk.work(at(0));
        assert!(disk.open.has_fresh());
        disk.work(at(2000));
        assert_eq!((disk.retry_at, bench.metrics.records_waiting()), (Some(at(3000)), 1));
        assert!(!disk.open.has_fresh());
    }

    #[test]
    fn the_end_waits_for_no_batch() {
        let bench = Bench::new();
        let mut disk = bench.disk();
        bench.start(&mut disk, A);
        bench.start(&mut disk, B);
        disk.work(at(0));
        bench.end(&mut disk, A);
        disk.finish(at(10));
        // B is still live: it will be found.
        assert_eq!((bench.recorded(), bench.open_files(), bench.written()), (vec![known(A)], 1, 1));
    }

    #[test]
    fn the_end_comes_although_the_disk_takes_nothing() {
        let bench = Bench::new();
        let mut disk = bench.disk();
        fs::remove_dir_all(bench.kept()).unwrap();
        bench.end(&mut disk, A);
        disk.finish(at(0));
        assert_eq!(bench.metrics.records_waiting(), 1);
    }
}
