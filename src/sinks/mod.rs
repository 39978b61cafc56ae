//! Sinks: who is told of calls, with a durable spool in front of each.
//!
//! ```text
//!   control: call ended --+                  thread "sinks"
//!   notes: what was said -+--> queue --> spool on disk --> one at a time --> webhook, Redis   again until it is taken
//!   notes: callers' voices ---> queue in memory, the oldest goes ----------> Redis            once, or never
//! ```
//!
//! Nobody waits for a sink. What is meant for one is bounded everywhere: in memory until the disk has taken it, on disk
//! until the sink has; what finds no room is counted and told. An item has one id for ever, and whoever gets it twice,
//! after a crash of either side, knows it by that.

use core::{fmt, time::Duration};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    thread,
};

use log::{error, warn};
use tokio::{
    sync::{mpsc as async_mpsc, watch},
    task::{LocalSet, spawn_local},
};

use crate::{
    clock,
    config::{Config, Sink, SinkKind},
    control::{
        messages,
        metrics::{Counter, Metrics},
    },
    leg::websocket::tls::TlsError,
    media::Now,
};

pub mod audio;
mod backoff;
mod connect;
pub mod item;
mod lane;
mod live;
mod redis;
pub mod spool;
mod webhook;

pub use self::item::{Item, Subject};
use self::{
    audio::Queue,
    connect::Connector,
    lane::{Carrier, Lane},
    live::Voices,
    redis::Redis,
    webhook::Webhook,
};

/// The sinks, as those have them who tell. Copies are of the same sinks, and nothing here waits but
/// [`close`](Self::close).
#[derive(Clone)]
pub struct Sinks(Arc<Inner>);

struct Inner {
    sinks: Vec<Entrance>,
    metrics: Arc<Metrics>,
    closing: watch::Sender<bool>,
    /// Says nothing, and is closed when the thread is at its end.
    at_end: Mutex<mpsc::Receiver<()>>,
    last_told: Mutex<Option<Now>>,
}

/// Where things go in that are meant for one sink.
struct Entrance {
    name: String,
    transcripts: bool,
    items: async_mpsc::UnboundedSender<Item>,
    /// Bytes that the disk has not taken.
    backlog: Arc<AtomicUsize>,
    audio: Option<Arc<Queue>>,
    is_redis: bool,
    trouble: Arc<Trouble>,
}

/// What of a sink fails, as the log was told.
#[derive(Debug, Default)]
struct Trouble {
    /// Its spool, or the sink when it was last given something out of it.
    items: AtomicBool,
    /// The sink when it was last sent a voice.
    audio: AtomicBool,
}

/// Why an item was not taken.
#[derive(Debug)]
enum Fault {
    /// It may be another time.
    Later {
        /// Why.
        words: String,
        /// When, as the sink says.
        wait: Option<Duration>,
    },
    /// It never will.
    Never(String),
}

/// Why there can be no sinks.
#[derive(Debug)]
pub enum OpenError {
    /// The certificates for this one cannot be read.
    Tls(String, TlsError),
    /// No thread could be started.
    Thread(std::io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(sink, error) => write!(f, "[sink.{sink}] TLS cannot be set up: {error}"),
            Self::Thread(error) => write!(f, "a thread could not be started: {error}"),
        }
    }
}

impl core::error::Error for OpenError {}

impl Sinks {
    /// Starts the thread, which opens the spools as often as it takes. `None`: the config has no sink.
    ///
    /// # Errors
    /// When certificates cannot be read, or there is no thread to be had.
    pub fn open(config: &Config, metrics: &Arc<Metrics>) -> Result<Option<Self>, OpenError> {
        let Some(spools) = config.keep.spools.as_ref().filter(|_| !config.sinks.is_empty()) else { return Ok(None) };
        let (closing, is_closing) = watch::channel(false);
        let (mut sinks, mut lanes, mut voices) = (Vec::new(), Vec::new(), Vec::new());
        for sink in &config.sinks {
            let name = sink.name.clone();
            let failed = |error| OpenError::Tls(sink.name.clone(), error);
            let (items, intake) = async_mpsc::unbounded_channel();
            let backlog = Arc::<AtomicUsize>::default();
            let trouble = Arc::<Trouble>::default();
            let audio = matches!(sink.kind, SinkKind::Redis { audio: true, .. }).then(Arc::<Queue>::default);
            if let Some(queue) = &audio {
                let redis = open_redis(sink).map_err(failed)?;
                voices.push(Voices {
                    name: name.clone(),
                    redis,
                    queue: Arc::clone(queue),
                    trouble: Arc::clone(&trouble),
                });
            }
            lanes.push(Lane {
                name: name.clone(),
                folder: spools.directory.join(&sink.name),
                most_bytes: spools.most_bytes,
                intake,
                backlog: Arc::clone(&backlog),
                carrier: carrier(sink).map_err(failed)?,
                metrics: Arc::clone(metrics),
                closing: is_closing.clone(),
                trouble: Arc::clone(&trouble),
            });
            let is_redis = matches!(sink.kind, SinkKind::Redis { .. });
            sinks.push(Entrance { name, transcripts: sink.transcripts, items, backlog, audio, is_redis, trouble });
        }
        let (until_end, at_end) = mpsc::channel();
        let counted = Arc::clone(metrics);
        let work = move || {
            run(lanes, voices, counted);
            drop::<mpsc::Sender<()>>(until_end);
        };
        thread::Builder::new().name("sinks".to_owned()).spawn(work).map_err(OpenError::Thread)?;
        let inner = Inner {
            sinks,
            metrics: Arc::clone(metrics),
            closing,
            at_end: Mutex::new(at_end),
            last_told: Mutex::default(),
        };
        Ok(Some(Self(Arc::new(inner))))
    }

    /// Tells these sinks that a call is over, or what was said in it.
    pub fn tell(&self, sinks: &[usize], item: &Item) {
        sinks.iter().for_each(|&sink| self.put(sink, item));
    }

    /// Those of these sinks that are told what was said.
    #[must_use]
    pub fn with_transcripts(&self, sinks: &[usize]) -> Vec<usize> {
        let wants = |sink: &usize| self.0.sinks.get(*sink).is_some_and(|sink| sink.transcripts);
        sinks.iter().copied().filter(wants).collect()
    }

    /// Those of these sinks that are sent callers' voices.
    #[must_use]
    pub fn with_audio(&self, sinks: &[usize]) -> Vec<usize> {
        let wants = |sink: &usize| self.0.sinks.get(*sink).is_some_and(|sink| sink.audio.is_some());
        sinks.iter().copied().filter(wants).collect()
    }

    /// Sends these sinks a part of a caller's voice, as [`audio::Voice`] cut it.
    pub fn send_audio(&self, sinks: &[usize], entry: &str) {
        for queue in sinks.iter().filter_map(|&sink| self.0.sinks.get(sink)?.audio.as_ref()) {
            self.0.metrics.add(Counter::SinkAudioDropped, queue.push(entry.to_owned()));
        }
    }

    /// Whether all that Redis was last given it took; `None`: there is no such sink. One that was given nothing yet is
    /// taken to work.
    #[must_use]
    pub fn redis_works(&self) -> Option<bool> {
        let fails = |trouble: &Trouble| trouble.items.load(Relaxed) || trouble.audio.load(Relaxed);
        let mut redis = self.0.sinks.iter().filter(|sink| sink.is_redis).peekable();
        redis.peek()?;
        Some(redis.all(|sink| !fails(&sink.trouble)))
    }

    /// Has what was told put on disk, and ends the thread; returns `at_most` so much later, for the disk may hang. What
    /// no sink took waits for the next start.
    pub fn close(&self, at_most: Duration) {
        // Nobody is there to hear it when the thread has panicked, and the log has that.
        let _ = self.0.closing.send(true);
        let at_end = self.0.at_end.lock().unwrap_or_else(PoisonError::into_inner);
        if at_end.recv_timeout(at_most) == Err(mpsc::RecvTimeoutError::Timeout) {
            warn!("the spools of sinks could not be closed in time");
        }
    }

    fn put(&self, sink: usize, item: &Item) {
        let Some(entrance) = self.0.sinks.get(sink) else { return };
        let bytes = item.body.len();
        if entrance.backlog.load(Relaxed) + bytes > MOST_BACKLOG {
            return self.on_lost(entrance, "the disk takes none, and the memory for them is full");
        }
        entrance.backlog.fetch_add(bytes, Relaxed);
        // Before the lane can say that it is taken.
        self.0.metrics.sink_items_wait(0, 1);
        if entrance.items.send(item.clone()).is_err() {
            self.0.metrics.sink_items_wait(1, 0);
            self.on_lost(entrance, "the thread of the sinks is gone");
        }
    }

    fn on_lost(&self, entrance: &Entrance, why: &str) {
        self.0.metrics.add(Counter::SinkItemsLost, 1);
        let mut told = self.0.last_told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::now();
        if told.is_none_or(|told| now - told >= TELL) {
            *told = Some(now);
            warn!(message_id = messages::SINK_LOST, sink = entrance.name, why; "what was meant for a sink is lost");
        }
    }
}

fn carrier(sink: &Sink) -> Result<Carrier, TlsError> {
    Ok(match &sink.kind {
        SinkKind::Webhook { secret } => {
            Carrier::Webhook(Webhook::new(Connector::new(sink)?, &sink.at.url, secret.as_ref()))
        }
        SinkKind::Redis { .. } => Carrier::Redis(open_redis(sink)?),
    })
}

fn open_redis(sink: &Sink) -> Result<Redis, TlsError> {
    let connector = Connector::new(sink)?;
    Ok(match &sink.kind {
        SinkKind::Redis { user, password, database, most_entries, .. } => {
            Redis::new(connector, *database, user.as_deref(), password.as_ref(), *most_entries)
        }
        SinkKind::Webhook { .. } => Redis::new(connector, 0, None, None, 1),
    })
}

/// The thread, until it is told to close.
fn run(lanes: Vec<Lane>, voices: Vec<Voices>, metrics: Arc<Metrics>) {
    // A disk that hangs holds a thread of this pool for each sink, and nothing else.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(64).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return error!(error:%; "sinks have no event loop"),
    };
    LocalSet::new().block_on(&runtime, async move {
        for voices in voices {
            spawn_local(voices.send(Arc::clone(&metrics)));
        }
        let lanes: Vec<_> = lanes.into_iter().map(|lane| spawn_local(lane.serve())).collect();
        for lane in lanes {
            // It panicked: the log has it.
            let _ = lane.await;
        }
    });
    runtime.shutdown_background();
}

/// What may wait in memory for the disk, for one sink (bytes).
const MOST_BACKLOG: usize = 8 << 20;
/// The log is told once in so long.
const TELL: Now = Now::from_secs(60);
