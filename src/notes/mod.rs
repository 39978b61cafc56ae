//! What live calls tell of themselves, put where somebody can read it: the event log, files of calls and of what was
//! said in them, recordings, and the sinks.
//!
//! ```text
//!   media threads --Taps: notes, sound--+
//!                                       +--> thread "notes" --> stream_events_*.jsonl       one line a note
//!   control: started, ended ------------+                   --> call_*.wav                  while the call lasts
//!            |                                              --> call_*.json, transcripts    when it is over
//!            +-- the record --> sinks <-- what was said, callers' voices --+
//! ```
//!
//! The thread looks into the taps every 50 ms while there are calls. It may hang on a dying disk: then the taps fill up,
//! and what does not fit is counted. A record goes to the sinks from the control thread, so it does not hang with it.

use core::{fmt, time::Duration};
use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
};

use log::warn;

use crate::{
    call::{
        record::{Record, Started},
        tap::Taps,
    },
    config::{Config, Route, SinkKind},
    control::metrics::{Counter, Metrics},
    dialect::{Direction, Facts},
    sinks::{Item, Sinks, Subject},
};

mod call_files;
mod events;
mod files;
mod recording;
mod scribe;
mod transcript;

/// What is kept of one call, and who is told of it.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Whether it is recorded.
    pub record: bool,
    /// The sinks that are told, by their places in the config.
    pub sinks: Vec<usize>,
    /// Who it is, to a sink.
    pub subject: Subject,
    /// Which way its audio flows.
    pub direction: Direction,
}

impl Kept {
    /// As the route of a call that starts has it.
    #[must_use]
    pub fn of(route: &Route, facts: &Facts, direction: Direction) -> Self {
        Self { record: route.record, sinks: route.sinks.clone(), subject: Subject::of(facts), direction }
    }
}

/// The notes, as the control thread has them. Nothing here waits but [`close`](Self::close).
pub struct Notes {
    orders: mpsc::Sender<Order>,
    /// Says nothing, and is closed when the thread is at its end.
    at_end: mpsc::Receiver<()>,
    sinks: Option<Sinks>,
    metrics: Arc<Metrics>,
    /// Orders that were not carried out.
    backlog: Arc<AtomicUsize>,
    /// Live calls, and whether the thread knows of each.
    live: RefCell<HashMap<u64, (Kept, bool)>>,
}

/// What the thread is to do.
enum Order {
    Started {
        seq: u64,
        start: Box<(Started, Kept)>,
    },
    /// `None`: so many orders wait that there was no room for the record.
    Ended {
        seq: u64,
        record: Option<Box<Record>>,
    },
}

/// Why notes cannot be kept.
#[derive(Debug)]
pub struct OpenError {
    /// The key of the folder.
    key: &'static str,
    path: PathBuf,
    error: io::Error,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, path, error } = self;
        let path = path.display();
        write!(
            f,
            "{key} = {path:?}: {error}; let the daemon's user write there, or name another folder",
            path = path.to_string()
        )
    }
}

impl core::error::Error for OpenError {}

impl Notes {
    /// Whether somebody wants to know what calls tell.
    #[must_use]
    pub fn are_wanted(config: &Config) -> bool {
        config.keep.events.is_some()
            || config.keep.call_files.is_some()
            || config.keep.recordings.is_some()
            || !config.sinks.is_empty()
    }

    /// Whether somebody wants to hear the calls of this route.
    #[must_use]
    pub fn want_sound(config: &Config, route: &Route) -> bool {
        let hears = |sink: &usize| matches!(config.sinks[*sink].kind, SinkKind::Redis { audio: true, .. });
        route.record || route.sinks.iter().any(hears)
    }

    /// Starts the thread, which makes the folders where they are not there.
    ///
    /// # Errors
    /// When one of them cannot be written to. A disk that says nothing for five seconds is gone on without.
    pub fn open(
        config: &Config,
        taps: Vec<Taps>,
        sinks: Option<Sinks>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OpenError> {
        let (orders, mailbox) = mpsc::channel();
        let (until_end, at_end) = mpsc::channel();
        let (opened, first) = mpsc::channel();
        let backlog = Arc::<AtomicUsize>::default();
        let (keep, full_numbers) = (config.keep.clone(), config.records.full_numbers);
        let work = {
            let (sinks, metrics, backlog) = (sinks.clone(), Arc::clone(&metrics), Arc::clone(&backlog));
            move || {
                match scribe::Scribe::open(&keep, full_numbers, taps, sinks, metrics, backlog) {
                    Ok(mut scribe) => {
                        // Whoever waited for the disk no longer has gone on.
                        let _ = opened.send(Ok(()));
                        scribe.run(&mailbox);
                    }
                    Err(error) => drop(opened.send(Err(error))),
                }
                drop::<mpsc::Sender<()>>(until_end);
            }
        };
        thread::Builder::new().name("notes".to_owned()).spawn(work).map_err(|error| OpenError {
            key: "a thread for notes",
            path: PathBuf::new(),
            error,
        })?;
        match first.recv_timeout(OPEN_WITHIN) {
            Ok(outcome) => outcome?,
            Err(RecvTimeoutError::Timeout) => warn!("what calls tell is not kept yet: the disk hangs"),
            // It has panicked: the log has it.
            Err(RecvTimeoutError::Disconnected) => {}
        }
        Ok(Self { orders, at_end, sinks, metrics, backlog, live: RefCell::default() })
    }

    /// A call has started; its media thread may not have it before this was told.
    pub fn started(&self, seq: u64, started: &Started, kept: Kept) {
        let has_room = self.backlog.load(Relaxed) < MOST_ORDERS;
        let order = || Order::Started { seq, start: Box::new((started.clone(), kept.clone())) };
        let is_known = has_room && self.send(order());
        if !is_known {
            self.metrics.add(Counter::NotesLost, 1);
        }
        self.live.borrow_mut().insert(seq, (kept, is_known));
    }

    /// A call has ended.
    pub fn ended(&self, seq: u64, record: &Record) {
        let Some((kept, is_known)) = self.live.borrow_mut().remove(&seq) else { return };
        if let Some(sinks) = &self.sinks {
            sinks.tell(&kept.sinks, &Item::call_end(&kept.subject, record));
        }
        if is_known {
            // The end of what the thread knows of always finds room, for there is as much of it as there were starts.
            let has_room = self.backlog.load(Relaxed) < MOST_ORDERS;
            let record = has_room.then(|| Box::new(record.clone()));
            if !self.send(Order::Ended { seq, record }) || !has_room {
                self.metrics.add(Counter::NotesLost, 1);
            }
        }
    }

    /// Has what was told written down and ends the thread, and then the sinks'; returns `at_most` so much later for
    /// each, for a disk may hang.
    pub fn close(self, at_most: Duration) {
        let Self { orders, at_end, sinks, .. } = self;
        drop(orders);
        if at_end.recv_timeout(at_most) == Err(RecvTimeoutError::Timeout) {
            warn!("what calls told could not be written in time");
        }
        if let Some(sinks) = sinks {
            sinks.close(at_most);
        }
    }

    fn send(&self, order: Order) -> bool {
        self.backlog.fetch_add(1, Relaxed);
        // It has panicked: the log has it.
        self.orders.send(order).is_ok()
    }
}

/// Orders that may wait for a disk that hangs.
const MOST_ORDERS: usize = 4096;
/// Starting waits so long for the disk at most.
const OPEN_WITHIN: Duration = Duration::from_secs(5);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{fs, io::Read, path::Path, time::Instant};

    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        call::tap::{Happening, Note, Sound, Tap, tap},
        config::{self, ProcessEnvironment},
        dialect::{Speaker, Transfer},
        media::Rate,
    };

    struct Bench {
        folder: tempfile::TempDir,
        metrics: Arc<Metrics>,
    }

    impl Bench {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap(), metrics: Arc::default() }
        }

        /// With everything switched on.
        fn open(&self) -> (Notes, Tap) {
            let path = self.folder.path().join("trunkline.toml");
            let text = "[events]\ndirectory = \"events\"\n[call-files]\ndirectory = \"kept\"\n[recordings]\ndirectory = \
                        \"sound\"\n[line.pbx]\nkind = \"audiosocket\"\n[trunk.agent]\nurl = \"ws://127.0.0.1:1/\"\n\
                        dialect = \"binary\"\n[[route]]\nline = \"pbx\"\ntrunks = [\"agent\"]\nrecord = true\n";
            fs::write(&path, text).unwrap();
            let config = config::load(&path, &ProcessEnvironment).unwrap();
            let (tap, taps) = tap(64, 64);
            (Notes::open(&config, vec![taps], None, Arc::clone(&self.metrics)).unwrap(), tap)
        }

        fn names(&self, folder: &str) -> Vec<String> {
            let entries = fs::read_dir(self.folder.path().join(folder)).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }

        fn json(&self, path: &str) -> Value {
            serde_json::from_slice(&fs::read(self.folder.path().join(path)).unwrap()).unwrap()
        }
    }

    fn started(id: &str) -> Started {
        Started { call_id: id.to_owned(), started_ms: Some(AT), from: Some("***56".to_owned()), ..Started::default() }
    }

    fn kept() -> Kept {
        Kept { record: true, ..Kept::default() }
    }

    fn note(seq: u64, after_ms: u64, what: Happening) -> Note {
        Note { seq, at_ms: AT + after_ms, what }
    }

    fn said(speaker: Speaker, text: &str, whole: bool) -> Happening {
        Happening::Said { speaker, text: text.to_owned(), whole }
    }

    const AT: u64 = 1_753_428_105_631;
    const ID: &str = "k3vqd2mxa7re";
    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn a_call_leaves_its_events_its_files_and_its_sound() {
        let bench = Bench::new();
        let (notes, mut tap) = bench.open();
        notes.started(7, &started(ID), kept());
        tap.note(note(7, 10, Happening::Bridged));
        tap.note(note(7, 20, said(Speaker::Caller, "Is it \\\"open\\\"?", true)));
        tap.note(note(7, 30, Happening::Digit(b'5')));
        tap.note(note(7, 40, Happening::Held));
        tap.note(note(7, 50, Happening::Resumed));
        tap.note(note(7, 60, Happening::TransferAsked));
        tap.note(note(7, 70, Happening::Transfer(Transfer::Failed { status: 486 })));
        tap.note(note(7, 900, said(Speaker::Agent, "It ", false)));
        tap.sound(Sound::new(7, AT, Rate::Hz8000, &[3; 160], &[4; 160]));
        // Nobody has heard of this call.
        tap.note(note(8, 900, Happening::Bridged));
        tap.note(note(7, 950, said(Speaker::Agent, "is.", false)));
        notes.ended(7, &Record::cut(started(ID), AT + 1000));
        // Its end is told once, whoever tells it again.
        notes.ended(7, &Record::cut(started(ID), AT + 2000));
        notes.close(SOON);

        let stem = format!("call_{ID}_20250725_072145");
        assert_eq!(bench.names("kept/calls"), [format!("{stem}.json")]);
        let call = bench.json(&format!("kept/calls/{stem}.json"));
        assert_eq!(
            (&call["call_id"], &call["end_reason"], &call["from"]),
            (&ID.into(), &"cut".into(), &"***56".into())
        );
        assert_eq!((&call["counts"]["digits"], &call["counts"]["caller_turns"]), (&1.into(), &1.into()));
        assert_eq!((&call["counts"]["holds"], &call["counts"]["transfers"]), (&1.into(), &1.into()));
        assert_eq!(call["recording_file"], format!("{stem}.wav"));
        assert_eq!(call["transcript_file"], format!("{stem}_transcript.json"));
        let said = bench.json(&format!("kept/transcripts/{stem}_transcript.json"));
        let turns = said["conversation"].as_array().unwrap();
        assert_eq!(turns.len(), 2);
        assert_eq!((&turns[0]["who"], &turns[0]["text"]), (&"caller".into(), &"Is it \"open\"?".into()));
        assert_eq!((&turns[1]["text"], &turns[1]["offset_ms"]), (&"It is.".into(), &900.into()));
        assert_eq!(turns[1]["when"], "2025-07-25T07:21:46.531Z");
        let mut wav = hound::WavReader::open(bench.folder.path().join(format!("sound/{stem}.wav"))).unwrap();
        assert_eq!(wav.samples::<i16>().map(Result::unwrap).take(2).collect::<Vec<_>>(), [3, 4]);

        let events = bench.names("events");
        let log = fs::read_to_string(bench.folder.path().join("events").join(&events[0])).unwrap();
        let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let what: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
        let line = ["held", "resumed", "transfer-asked", "transfer"];
        assert_eq!(what[..4], ["call-started", "bridged", "said", "digit"]);
        assert_eq!((&what[4..8], &what[8..]), (&line[..], &["said", "said", "call-ended"][..]));
        assert_eq!(lines[7]["details"], json!({ "state": "failed", "status": 486 }));
        assert!(lines.iter().all(|line| line["call_id"] == ID));
        assert_eq!(
            (&lines[2]["details"]["text"], &lines[3]["details"]["digit"]),
            (&"Is it \"open\"?".into(), &Value::Null)
        );
    }

    #[test]
    fn what_a_lost_trunk_had_begun_to_tell_is_not_mixed_with_what_the_next_one_tells() {
        let bench = Bench::new();
        let (notes, mut tap) = bench.open();
        notes.started(1, &started(ID), kept());
        tap.note(note(1, 10, said(Speaker::Agent, "We are op", false)));
        tap.note(note(1, 20, Happening::Rebridged));
        tap.note(note(1, 30, said(Speaker::Agent, "Hel", false)));
        tap.note(note(1, 40, said(Speaker::Agent, "Hello", true)));
        tap.note(note(1, 50, said(Speaker::Agent, "I can", false)));
        // The cloud was told, and says no more of it.
        tap.note(note(1, 60, Happening::BargeIn { flushed_ms: None }));
        tap.note(note(1, 70, said(Speaker::Agent, "Yes?", true)));
        notes.ended(1, &Record::cut(started(ID), AT + 1000));
        notes.close(SOON);
        let said = bench.json(&format!("kept/transcripts/call_{ID}_20250725_072145_transcript.json"));
        let turns: Vec<_> = said["conversation"].as_array().unwrap().iter().map(|turn| turn["text"].clone()).collect();
        assert_eq!(turns, ["We are op", "Hello", "I can", "Yes?"]);
    }

    #[test]
    fn a_call_without_words_has_no_transcript_and_a_strange_id_no_file() {
        let bench = Bench::new();
        let (notes, mut tap) = bench.open();
        for (seq, id) in [(1, ID), (2, "../../etc/pw"), (3, "a/b")] {
            notes.started(seq, &started(id), kept());
            tap.note(note(seq, 1, Happening::Bridged));
            tap.sound(Sound::new(seq, AT, Rate::Hz8000, &[], &[]));
            notes.ended(seq, &Record::cut(started(id), AT));
        }
        notes.close(SOON);
        assert_eq!(bench.names("kept/transcripts").len(), 0);
        assert_eq!((bench.names("kept/calls").len(), bench.names("sound").len()), (1, 1));
        assert_eq!(bench.names("."), ["events", "kept", "sound", "trunkline.toml"]);
    }

    #[test]
    fn a_call_that_nobody_ended_is_closed_with_the_daemon() {
        let bench = Bench::new();
        let (notes, mut tap) = bench.open();
        notes.started(1, &started(ID), kept());
        tap.sound(Sound::new(1, AT, Rate::Hz8000, &[], &[]));
        tap.note(note(1, 5, said(Speaker::Agent, "Hel", false)));
        notes.close(SOON);
        let stem = format!("call_{ID}_20250725_072145");
        assert_eq!(bench.names("sound"), [format!("{stem}.wav")]);
        assert_eq!(bench.names("kept/transcripts"), [format!("{stem}_transcript.json")]);
    }

    #[test]
    fn a_disk_that_hangs_keeps_nobody_waiting_and_costs_bounded_memory() {
        let bench = Bench::new();
        let (notes, _tap) = bench.open();
        // Whoever opens a pipe for writing hangs until somebody reads.
        let pipe = bench.folder.path().join(format!("kept/calls/.call_{ID}_20250725_072145.json.tmp"));
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        notes.started(0, &started(ID), kept());
        notes.ended(0, &Record::cut(started(ID), AT));
        let patience = Instant::now() + SOON;
        while notes.backlog.load(Relaxed) > 0 && Instant::now() < patience {
            thread::yield_now();
        }
        for seq in 1..=(MOST_ORDERS as u64) {
            notes.started(seq, &started("nameless"), Kept::default());
            notes.ended(seq, &Record::cut(started("nameless"), AT));
        }
        assert!(notes.backlog.load(Relaxed) <= MOST_ORDERS + 1);
        assert!(bench.metrics.get(Counter::NotesLost) >= MOST_ORDERS as u64 / 2);
        assert!(notes.live.borrow().is_empty());
        // It goes on as if nothing had been.
        fs::File::open(&pipe).unwrap().read_to_end(&mut Vec::new()).unwrap();
        notes.close(SOON);
        // Which is a pipe still, and cannot be made safe.
        assert_eq!((bench.names("kept/calls").len(), bench.metrics.get(Counter::CallFilesLost)), (0, 1));
    }

    #[test]
    fn a_recording_that_cannot_be_written_is_stopped_and_nothing_else_is() {
        let bench = Bench::new();
        let (notes, mut tap) = bench.open();
        fs::remove_dir(bench.folder.path().join("sound")).unwrap();
        notes.started(1, &started(ID), kept());
        for n in 0..9 {
            tap.sound(Sound::new(1, AT + n * 20, Rate::Hz8000, &[], &[]));
        }
        notes.ended(1, &Record::cut(started(ID), AT));
        notes.close(SOON);
        assert_eq!(bench.metrics.get(Counter::RecordingsStopped), 1);
        let call = bench.json(&format!("kept/calls/call_{ID}_20250725_072145.json"));
        assert_eq!(call["recording_file"], Value::Null);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named_by_its_key() {
        let bench = Bench::new();
        fs::write(bench.folder.path().join("events"), "").unwrap();
        let path: &Path = &bench.folder.path().join("trunkline.toml");
        fs::write(
            path,
            "[events]\ndirectory = \"events\"\n[line.pbx]\nkind = \"audiosocket\"\n[trunk.agent]\nurl = \
             \"ws://127.0.0.1:1/\"\ndialect = \"binary\"\n[[route]]\nline = \"pbx\"\ntrunks = [\"agent\"]\n",
        )
        .unwrap();
        let config = config::load(path, &ProcessEnvironment).unwrap();
        let words = Notes::open(&config, Vec::new(), None, Arc::default()).err().unwrap().to_string();
        assert!(words.starts_with("[events] directory = \"/") && words.contains("name another folder"), "{words}");
    }
}
