//! The process's logger: whoever logs puts an entry into a bounded queue, and one thread writes them.
//!
//! journald may be stopped, and stderr may be a pipe that nobody reads: then the thread waits, the queue fills, and
//! what does not fit is counted and told later. Nobody else ever waits.
//!
//! ```text
//!   info!(call_id, ...; "call started") --try_send--> 4,096 entries --> thread "journal" --> journald, or stderr
//! ```
//!
//! The keys of log macros are snake_case; the journal has them in capitals. What the common ones mean is in [`FIELDS`].

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    env,
    io::{self, Write},
    panic::{self, PanicHookInfo},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use env_logger::{Builder, Env, fmt::Formatter};
use log::{Level, LevelFilter, Log, Metadata, Record, error, kv};

use crate::{
    clock,
    control::{entry::Entry, messages},
};

/// The fields that mean the same in every message, as the journal has them. What else a message says by `key=value` is
/// a field of that name too.
pub const FIELDS: [(&str, &str); 12] = [
    ("MESSAGE", "The sentence, and everything in it that varies as `key=value`"),
    ("MESSAGE_ID", "Which sentence it is: the table below, and `journalctl -x`"),
    (
        "PRIORITY",
        "3 somebody has to act now, 4 it cost a caller something, 6 a call's life, 7 for whoever reads the code",
    ),
    ("CALL_ID", "The call: 12 characters, the same in its record and in `trunkline calls`"),
    ("LINE", "The line it came in on, by its name in the config"),
    ("TRUNK", "The trunk it was put on, by its name in the config; `none`: none took it"),
    ("DIALECT", "What is spoken on that trunk"),
    ("LEG", "The side of the call that is meant: `line` or `trunk`"),
    ("PEER", "The other end's address, and port"),
    ("END_REASON", "Why a call ended, spelled as in records and metrics"),
    ("EVENT_TIME", "When it happened, UTC; journald's own time is when it took the message"),
    ("CODE_FILE", "With `CODE_LINE`: the place in the source"),
];

/// The running logger. When it is dropped the last entries are waited for, for two seconds at most.
#[must_use = "the last entries are written when it is dropped"]
pub struct Journal(Arc<Tally>);

impl Journal {
    /// Waits until all that was logged so far is written, but no longer than this. Tells whether it is.
    pub fn flush(&self, at_most: Duration) -> bool {
        self.0.flush(at_most)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.flush(LAST_WORDS);
    }
}

/// Starts the logger of this process, and has panics told by it. `RUST_LOG` says what is logged, else `info` and above.
///
/// # Errors
/// When the thread cannot be started, or there is a logger already.
pub fn start() -> io::Result<Journal> {
    let filter = Builder::from_env(Env::default().default_filter_or("info")).build();
    let level = filter.filter();
    let (logger, journal) = open(filter, outlet())?;
    log::set_boxed_logger(Box::new(logger)).map_err(io::Error::other)?;
    log::set_max_level(level);
    // The default one would wait for a stderr that nobody reads.
    panic::set_hook(Box::new(on_panic));
    Ok(journal)
}

/// Entries of this process that found the queue full.
#[must_use]
pub fn lines_lost() -> u64 {
    LOST.load(Relaxed)
}

static LOST: AtomicU64 = AtomicU64::new(0);

/// A logger that writes by `outlet`, on a thread of its own.
fn open(filter: env_logger::Logger, outlet: impl FnMut(&Entry) + Send + 'static) -> io::Result<(Logger, Journal)> {
    let (sender, entries) = sync_channel(CAPACITY);
    let tally = Arc::new(Tally::default());
    let of_thread = Arc::clone(&tally);
    let work = move || write_entries(&entries, &of_thread, outlet);
    thread::Builder::new().name("journal".to_owned()).spawn(work)?;
    Ok((Logger { filter, sender, tally: Arc::clone(&tally) }, Journal(tally)))
}

/// What `log`'s macros meet: it never waits.
struct Logger {
    /// Only asked what to log; it writes nothing.
    filter: env_logger::Logger,
    sender: SyncSender<Entry>,
    tally: Arc<Tally>,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.filter.matches(record) {
            let entry = Entry::of(record, clock::epoch_ms());
            // Counted before it is sent: a flush that follows waits for it.
            self.tally.logged.fetch_add(1, Relaxed);
            if self.sender.try_send(entry).is_err() {
                self.tally.dropped.fetch_add(1, Relaxed);
                LOST.fetch_add(1, Relaxed);
            }
        }
    }

    fn flush(&self) {
        self.tally.flush(LAST_WORDS);
    }
}

/// How far the thread is.
#[derive(Default)]
struct Tally {
    logged: AtomicU64,
    dropped: AtomicU64,
    written: Mutex<u64>,
    wrote: Condvar,
}

impl Tally {
    fn flush(&self, at_most: Duration) -> bool {
        let logged = self.logged.load(Relaxed);
        let is_behind = |written: &mut u64| *written + self.dropped.load(Relaxed) < logged;
        let waited = self.wrote.wait_timeout_while(self.written(), at_most, is_behind);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn written(&self) -> MutexGuard<'_, u64> {
        // A number is never half written.
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread: writes until there is no logger any more.
fn write_entries(entries: &Receiver<Entry>, tally: &Tally, mut outlet: impl FnMut(&Entry)) {
    let mut told = 0;
    let mut next = entries.recv().ok();
    for number in 1_usize.. {
        let Some(entry) = next else { return };
        outlet(&entry);
        next = entries.try_recv().ok();
        // What was dropped came after all that was waiting; where the queue never empties it is told in between.
        let dropped = tally.dropped.load(Relaxed);
        if dropped > told && (next.is_none() || number.is_multiple_of(CAPACITY)) {
            outlet(&entry_of_dropped(dropped - told));
            told = dropped;
        }
        *tally.written() += 1;
        tally.wrote.notify_all();
        next = next.or_else(|| entries.recv().ok());
    }
}

fn entry_of_dropped(count: u64) -> Entry {
    let fields = [("message_id", kv::Value::from(messages::LINES_DROPPED)), ("dropped", kv::Value::from(count))];
    let record =
        Record::builder().level(Level::Warn).key_values(&fields).args(format_args!("log lines were dropped")).build();
    Entry::of(&record, clock::epoch_ms())
}

/// Where this process's entries go.
fn outlet() -> Box<dyn FnMut(&Entry) + Send> {
    let is_journal = env::var("JOURNAL_STREAM").is_ok_and(|named| is_stderr(&named));
    if is_journal { Box::new(to_journal) } else { Box::new(to_terminal()) }
}

/// Whether this `device:inode` is our stderr's. It may be in the environment of somebody who reads our stderr himself,
/// systemd.exec(5).
fn is_stderr(named: &str) -> bool {
    rustix::fs::fstat(io::stderr()).is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}

fn to_journal(entry: &Entry) {
    if !(cfg!(feature = "systemd") && send(&entry.journal_fields())) {
        // The journal reads it too. Where it does not, nobody is left to be told.
        let _ = io::stderr().lock().write_all(entry.prefixed().as_bytes());
    }
}

#[cfg(feature = "systemd")]
fn send(fields: &[String]) -> bool {
    let fields: Vec<_> = fields.iter().map(String::as_str).collect();
    systemd::journal::send(&fields).is_ok()
}

#[cfg(not(feature = "systemd"))]
fn send(_: &[String]) -> bool {
    false
}

/// As env_logger would print them, but with the time of the event.
fn to_terminal() -> impl FnMut(&Entry) + Send + 'static {
    let style = env::var(env_logger::DEFAULT_WRITE_STYLE_ENV).unwrap_or_default();
    let printer = Builder::new().filter_level(LevelFilter::Trace).parse_write_style(&style).format(print_entry).build();
    move |entry| {
        let text = entry.text().replace('\n', "\n    ");
        let time = [(TIME, entry.time())];
        printer.log(&Record::builder().level(entry.level).key_values(&time).args(format_args!("{text}")).build());
    }
}

fn print_entry(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let (level, style) = (record.level(), out.default_level_style(record.level()));
    let time = record.key_values().get(kv::Key::from_str(TIME)).unwrap_or_else(kv::Value::null);
    writeln!(out, "[{time} {style}{level:<5}{style:#}] {}", record.args())
}

fn on_panic(info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    let words = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref().map(String::as_str));
    let place = info.location().map(ToString::to_string);
    let (words, place) = (words.unwrap_or("without words"), place.as_deref().unwrap_or("unknown"));
    let thread = thread::current();
    // RUST_BACKTRACE says whether there is one.
    let backtrace = Backtrace::capture();
    let steps = match backtrace.status() {
        BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    error!(
        message_id = messages::PANIC, thread = thread.name().unwrap_or("unnamed"), place, words;
        "a thread panicked{steps}"
    );
}

/// Entries that may wait. At four for each call, and about 1 kB each, a thousand calls and a few MB.
const CAPACITY: usize = 4096;
/// How long the end of the process waits for its last entries.
const LAST_WORDS: Duration = Duration::from_secs(2);
const TIME: &str = "time";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;
    use crate::control::entry::field_name;

    /// A logger whose thread waits at each entry for a word in, or the end, of `gate`.
    struct Stuck {
        logger: Logger,
        journal: Journal,
        gate: Sender<()>,
        at_gate: Receiver<()>,
        texts: Receiver<String>,
    }

    fn stuck() -> Stuck {
        let ((gate, wait), (arrive, at_gate), (tell, texts)) = (channel(), channel(), channel());
        let filter = Builder::new().filter_level(LevelFilter::Info).build();
        let outlet = move |entry: &Entry| {
            // Not every test listens to all of it.
            let _ = arrive.send(());
            let _ = wait.recv();
            let _ = tell.send(entry.text());
        };
        let (logger, journal) = open(filter, outlet).unwrap();
        Stuck { logger, journal, gate, at_gate, texts }
    }

    fn log(logger: &Logger, level: Level, number: usize) {
        let fields = [("number", number)];
        logger.log(&Record::builder().level(level).args(format_args!("happened")).key_values(&fields).build());
    }

    #[test]
    fn a_stuck_journal_holds_nobody_up_and_says_later_what_it_missed() {
        let Stuck { logger, journal, gate, at_gate, texts } = stuck();
        log(&logger, Level::Info, 0);
        // It has left the queue, which is empty now.
        at_gate.recv_timeout(SOON).unwrap();
        let (done, is_done) = channel();
        let caller = thread::spawn(move || {
            (1..=CAPACITY + 7).for_each(|number| log(&logger, Level::Info, number));
            done.send(()).unwrap();
            logger
        });
        is_done.recv_timeout(SOON).expect("logging does not wait for the journal");
        let logger = caller.join().unwrap();
        assert!(!journal.flush(Duration::from_millis(1)), "nothing is written yet");

        drop(gate);
        assert!(journal.flush(SOON));
        let texts: Vec<_> = texts.try_iter().collect();
        let (told, happened): (Vec<_>, Vec<_>) = texts.into_iter().partition(|text| text.starts_with("log lines"));
        assert_eq!(told, ["log lines were dropped dropped=7"]);
        let expected: Vec<_> = (0..=CAPACITY).map(|number| format!("happened number={number}")).collect();
        assert!(happened == expected, "the oldest are kept, in order");
        drop(logger);
    }

    #[test]
    fn a_flush_waits_for_what_was_logged_before_it_and_for_nothing_else() {
        let Stuck { logger, journal, gate, texts, .. } = stuck();
        assert!(journal.flush(Duration::ZERO), "nothing was logged");
        log(&logger, Level::Info, 1);
        gate.send(()).unwrap();
        assert!(journal.flush(SOON));
        assert_eq!(texts.try_recv().unwrap(), "happened number=1");
        log(&logger, Level::Info, 2);
        assert!(!journal.flush(Duration::from_millis(1)));
        drop(gate);
    }

    #[test]
    fn what_the_filter_does_not_want_is_not_queued() {
        let Stuck { logger, journal, gate, texts, .. } = stuck();
        drop(gate);
        log(&logger, Level::Debug, 1);
        log(&logger, Level::Error, 2);
        assert!(journal.flush(SOON));
        assert_eq!(texts.try_iter().collect::<Vec<_>>(), ["happened number=2"]);
    }

    #[test]
    fn only_our_own_stderr_is_taken_for_the_journals_stream() {
        let stat = rustix::fs::fstat(io::stderr()).unwrap();
        assert!(is_stderr(&format!("{}:{}", stat.st_dev, stat.st_ino)));
        for other in ["", ":", "nonsense", &format!("{}:{}", stat.st_dev, stat.st_ino + 1), &format!("{}", stat.st_dev)]
        {
            assert!(!is_stderr(other), "{other}");
        }
    }

    #[test]
    fn the_table_has_names_that_the_journal_takes() {
        for (name, _) in FIELDS {
            assert_eq!(field_name(name).as_deref(), Some(name));
        }
    }

    const SOON: Duration = Duration::from_secs(20);
}
