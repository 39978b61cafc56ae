//! The daemon: starts the threads, takes calls on the lines, and tells the log what became of them.
//!
//! This is the control thread. It reads a line's first message (the dial thread does where that is a WebSocket's), so
//! that a media thread only ever sees calls.
//!
//! | thread | waits on |
//! |---|---|
//! | control (this one) | listeners, first messages, reports, signals, the control port |
//! | dial | requests, names, handshakes, the doors of websocket lines |
//! | media | orders, line and trunk sockets, its ticker |
//! | sound-LINE | its ticker, the frames of its call, ALSA |
//! | disk | records to write, and the disk |
//! | notes | what calls tell, and the disk |
//! | sinks | what is meant for them, the disk, and their answers |
//! | journal | log lines to write, and journald or stderr |

use core::time::Duration;
use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    path::Path,
    rc::Rc,
    sync::Arc,
    thread,
};

use log::{error, info, warn};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, mpsc, oneshot, watch as tokio_watch},
    task::{LocalSet, spawn_blocking, spawn_local},
};

use crate::{
    call::{
        EndReason, Outcome,
        bridge::Limits,
        record::Record,
        shard::{self, Ask, Order, ShardSetup},
        tap::{self, Taps},
        vitals::Vitals,
    },
    clock,
    config::{self, Config, ProcessEnvironment},
    control::{desk::Desk, http, local::Local, messages, metrics::Metrics, socket, systemd},
    daemon::calls::Shared,
    exit,
    leg::websocket::{
        dialer::{self, DialSetup, News},
        door::{self, House},
    },
    media::{Now, pool::BLOCK},
    notes::Notes,
    records::Records,
    sinks::{Item, Sinks, Subject},
    telnyx::Telnyx,
};

mod accept;
mod arrivals;
mod calls;
mod desk;
mod lines;
mod outgoing;
mod pipes;
mod reload;
mod sip;
mod sound;
mod watch;

/// Runs the daemon with this config until a signal, or until its only line, a pipe, has ended. Returns the exit code.
#[must_use]
pub fn run(path: &Path) -> u8 {
    let _ = clock::now();
    let config = match config::load(path, &ProcessEnvironment) {
        Ok(config) => config,
        Err(problems) => {
            error!(
                message_id = messages::CONFIG_WRONG;
                "the config has to be mended before the daemon can start\n{problems}"
            );
            return exit::CONFIG;
        }
    };
    info!(
        message_id = messages::STARTED, config = path.display().to_string(), version = env!("CARGO_PKG_VERSION");
        "trunkline starts"
    );
    run_with(config, Some(path))
}

/// Runs it with a config that was read already, from this file if it was from one.
#[must_use]
pub fn run_with(config: Config, path: Option<&Path>) -> u8 {
    for warning in config.warnings() {
        warn!("{warning}");
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(error:%; "no event loop could be made");
            return exit::FAILED;
        }
    };
    let code = LocalSet::new().block_on(&runtime, async {
        match Daemon::start(Arc::new(config), path).await {
            Ok(daemon) => daemon.run().await,
            Err(fault) => {
                error!(message_id = messages::CANNOT_START; "the daemon cannot start: {}", fault.words);
                fault.code
            }
        }
    });
    // A thread that hangs in a name look-up, or in a pipe that nobody reads, is not waited for.
    runtime.shutdown_background();
    code
}

/// Why the daemon did not start.
struct Fault {
    code: u8,
    words: String,
}

impl Fault {
    fn config(words: String) -> Self {
        Self { code: exit::CONFIG, words }
    }

    fn system(words: &str, error: &io::Error) -> Self {
        Self { code: exit::FAILED, words: format!("{words}: {error}") }
    }
}

struct Daemon {
    reports: mpsc::Receiver<Box<Outcome>>,
    news: mpsc::Receiver<News>,
    asks: mpsc::Receiver<Ask>,
    /// Calls that come in at the doors of websocket lines.
    arrivals: mpsc::Receiver<door::Arrival>,
    shared: Rc<Shared>,
    /// Told by each media thread when it is at its end.
    ended: mpsc::Receiver<()>,
    writers: mpsc::UnboundedReceiver<thread::JoinHandle<()>>,
}

impl Daemon {
    async fn start(config: Arc<Config>, path: Option<&Path>) -> Result<Self, Fault> {
        let metrics = Arc::new(Metrics::default());
        let (dial, requests) = mpsc::channel(config.media.max_calls + 1);
        let (tell_news, news) = mpsc::channel(4 * config.media.max_calls + 64);
        let (openings, doors) = mpsc::channel(config.lines.len());
        let dial_vitals = Arc::new(Vitals::default());
        let own = Arc::clone(&config);
        let roots_read = spawn_blocking(move || dialer::Roots::load(&own));
        let (configs, roots) = (tokio_watch::Sender::new(Arc::clone(&config)), tokio_watch::Sender::default());
        let vitals = Arc::clone(&dial_vitals);
        let (config_told, roots_told) = (configs.subscribe(), roots.subscribe());
        let dialing = DialSetup { config: config_told, roots: roots_told, requests, doors, news: tell_news, vitals };
        let work = move || {
            if let Err(error) = dialer::run(dialing) {
                error!(error:%; "the dial thread ended");
            }
        };
        spawn("dial", work)?;

        // Every call that ends has room for its report, whatever keeps this thread.
        let (reporter, reports) = mpsc::channel(2 * config.media.max_calls + 64);
        let (ask, asks) = mpsc::channel(8 * config.media.max_calls + 64);
        let (at_end, ended) = mpsc::channel(config.media.threads);
        let (mut media, mut taps) = (Vec::new(), Vec::new());
        let mut vitals = vec![("dial".to_owned(), dial_vitals)];
        for number in 0..config.media.threads {
            let (orders, mailbox) = mpsc::channel(2 * config.media.max_calls + 64);
            let (ready, is_ready) = oneshot::channel();
            let name = format!("media-{number}");
            let own_vitals = Arc::new(Vitals::default());
            vitals.push((name.clone(), Arc::clone(&own_vitals)));
            let tap = Notes::are_wanted(&config).then(|| {
                let (tap, end) = tap::tap(TOLD, heard(&config));
                taps.push(end);
                tap
            });
            let setup = ShardSetup {
                blocks: config.media.pool_bytes(config.line_rate()) / (2 * BLOCK) / config.media.threads,
                seats: config.media.max_calls.div_ceil(config.media.threads),
                seat: Limits::reserve(config.line_rate()),
                limits: limits(&config),
                orders: mailbox,
                reports: reporter.clone(),
                metrics: Arc::clone(&metrics),
                vitals: own_vitals,
                asks: ask.clone(),
                ready,
                tap,
            };
            let at_end = at_end.clone();
            let work = move || {
                if let Err(error) = shard::run(setup) {
                    error!(error:%; "a media thread failed");
                }
                // The daemon is there, or the process is ending anyway.
                let _ = at_end.blocking_send(());
            };
            spawn(&name, work)?;
            is_ready
                .await
                .map_err(|_| Fault { code: exit::FAILED, words: "a media thread did not start".to_owned() })?;
            media.push(orders);
        }
        let (writers, writers_to_join) = mpsc::unbounded_channel();
        let telnyx = match &config.telnyx {
            Some(telnyx) => Some(Telnyx::open(telnyx.clone()).await.map_err(Fault::config)?),
            None => None,
        };
        let sinks = Sinks::open(&config, &metrics).map_err(|error| Fault::config(error.to_string()))?;

        let (arrived, arrivals) = mpsc::channel(config.media.max_calls + 1);
        let (reload, reloads) = mpsc::channel(MOST_RELOADS);
        let shared = Rc::new(Shared {
            config: configs,
            roots,
            reload,
            metrics: Arc::clone(&metrics),
            media: RefCell::new(media),
            vitals,
            dial,
            openings,
            arrived,
            calls: RefCell::default(),
            lines: RefCell::new(config.lines.iter().map(|_| calls::LineNews::default()).collect()),
            telnyx,
            sinks: sinks.clone(),
            records: RefCell::new(open_records(&config, sinks.clone(), &metrics)?),
            notes: RefCell::new(open_notes(&config, taps, sinks, &metrics)?),
            records_stuck: Cell::default(),
            announced: RefCell::default(),
            silent: RefCell::default(),
            trunks: RefCell::new(config.trunks.iter().map(|_| calls::TrunkNews::default()).collect()),
            sip: RefCell::default(),
            sound: RefCell::default(),
            fetches: RefCell::default(),
            is_ready_told: Cell::default(),
            draining: Notify::new(),
            drain: Notify::new(),
            house: tokio_watch::Sender::new(House { accepting: true, draining: false, healthy: true, pubsub: None }),
            writers,
        });
        if let Some(address) = config.control.http {
            let listener = bind(address, "[control] http").await?;
            let address = listens_on(&listener, address);
            info!(listen:% = address; "health and metrics are served");
            let desk: Rc<dyn Desk> = shared.clone();
            spawn_local(http::serve(listener, address, config.control.call_info, desk));
        }
        let read = roots_read.await.map_err(|_| Fault::config("the roots of TLS could not be read".to_owned()))?;
        let read = read.map_err(|error| Fault::config(format!("TLS cannot be set up: {error}")))?;
        shared.roots.send_replace(Arc::new(read));
        for (index, line) in config.lines.iter().enumerate() {
            let bound = lines::bind(line, &shared.roots.borrow())?;
            lines::start(&shared, index, bound).await?;
        }
        // After the lines: whoever is answered has somewhere to be streamed to.
        if let (Some(telnyx), Some(of_config)) = (shared.telnyx.clone(), &config.telnyx) {
            let listener = bind(of_config.webhook_listen, "[telnyx] webhook-listen").await?;
            let shared = Rc::clone(&shared);
            spawn_local(telnyx.serve(listener, move || shared.has_seat()));
        }
        // Last: a second daemon with this config finds its ports taken before it comes here.
        if let Some(path) = &config.control.socket {
            let local = Local::open(path, "[control] socket").map_err(|error| Fault::config(error.to_string()))?;
            info!(socket = path.display().to_string(); "control socket listens");
            let desk: Rc<dyn Desk> = shared.clone();
            spawn_local(socket::serve(local, desk));
        }
        if let Some(path) = path {
            spawn_local(reload::serve(Rc::clone(&shared), path.to_owned(), reloads));
        }
        Ok(Self { reports, news, asks, arrivals, shared, ended, writers: writers_to_join })
    }

    async fn run(mut self) -> u8 {
        let (Ok(mut signals), Ok(mut hangup)) = (Signals::open(), signal(SignalKind::hangup())) else {
            error!("signals cannot be received");
            return exit::FAILED;
        };
        let max_calls = self.shared.config().media.max_calls;
        info!(message_id = messages::READY, max_calls; "ready for calls");
        spawn_local(watch::watch(Rc::clone(&self.shared)));
        loop {
            tokio::select! {
                Some(news) = self.news.recv() => self.shared.on_news(news),
                Some(outcome) = self.reports.recv() => self.on_ended(*outcome),
                Some(ask) = self.asks.recv() => self.shared.on_ask(ask),
                Some(arrival) = self.arrivals.recv() => self.shared.on_arrival(arrival),
                () = signals.recv() => break,
                Some(()) = hangup.recv() => self.shared.reload_by_signal(),
                () = self.shared.drain.notified() => break,
                Some(()) = self.ended.recv() => {
                    error!(
                        message_id = messages::MEDIA_ENDED;
                        "a media thread ended; the daemon ends too, to be started again"
                    );
                    self.end(&mut signals).await;
                    return exit::FAILED;
                }
            }
            if self.shared.calls.borrow().live.is_empty() && self.shared.has_only_pipes() {
                break;
            }
        }
        let failed = self.drain(&mut signals).await;
        info!(message_id = messages::STOPPED; "trunkline ends");
        if failed { exit::FAILED } else { exit::OK }
    }

    fn on_ended(&mut self, outcome: Outcome) {
        // How its trunk answered was told before it ended.
        while let Ok(news) = self.news.try_recv() {
            self.shared.on_news(news);
        }
        self.shared.on_ended(outcome);
    }

    /// Takes calls' ends until there are no more calls.
    async fn calls_end(&mut self) {
        while !self.shared.calls.borrow().live.is_empty() {
            tokio::select! {
                Some(news) = self.news.recv() => self.shared.on_news(news),
                Some(outcome) = self.reports.recv() => self.on_ended(*outcome),
                Some(ask) = self.asks.recv() => self.shared.on_ask(ask),
                // Those that were on their way are given back.
                Some(arrival) = self.arrivals.recv() => self.shared.on_arrival(arrival),
            }
        }
    }

    /// Takes no new calls, lets the live ones go on for a while, ends the rest in order, and lets every connection close
    /// in order. A signal ends the waiting, and a second one everything. Returns whether a pipe's call had failed.
    async fn drain(mut self, signals: &mut Signals) -> bool {
        let shared = Rc::clone(&self.shared);
        shared.begin_draining();
        shared.draining.notify_waiters();
        shared.tell_doors();
        for line in shared.sip_lines() {
            line.stop_calling(&shared);
        }
        let live = shared.calls.borrow().live.len();
        let grace = shared.config().control.drain;
        // What systemd does not hear it does not need: then it waits as long as its unit says.
        let _ = systemd::stopping();
        let _ = systemd::extend_timeout(
            grace + GOODBYES + sip::LEAVE + 2 * CLOSE + LAST_RECORDS + 2 * LAST_NOTES + Duration::from_secs(1),
        );
        if live > 0 && !grace.is_zero() {
            info!(
                message_id = messages::DRAINING, calls = live, grace_s = grace.as_secs();
                "live calls may go on for a while; new ones are refused"
            );
            tokio::select! {
                () = self.calls_end() => {}
                () = tokio::time::sleep(grace) => {}
                () = signals.recv() => {}
            }
        }
        self.end(signals).await
    }

    /// Ends what is still live, and closes every connection in order; a signal cuts that short. Returns whether a pipe's
    /// call had failed.
    async fn end(mut self, signals: &mut Signals) -> bool {
        let shared = Rc::clone(&self.shared);
        shared.begin_draining();
        shared.tell_doors();
        let live = shared.calls.borrow().live.len();
        if live > 0 {
            info!(calls = live; "live calls are ended");
        }
        let goodbyes = async {
            let media = shared.media.borrow().clone();
            for media in media {
                // A thread that is gone has no calls.
                let _ = media.send(Order::EndAll(EndReason::Drained)).await;
            }
            self.calls_end().await;
        };
        let in_time = tokio::select! {
            ended = tokio::time::timeout(GOODBYES, goodbyes) => ended.is_ok(),
            () = signals.recv() => false,
        };
        while let Ok(outcome) = self.reports.try_recv() {
            self.on_ended(*outcome);
        }
        if !in_time {
            warn!(calls = shared.calls.borrow().live.len(); "calls did not end in time");
            shared.end_the_rest();
        }
        // All at once: one whose registrar is gone is no reason for the others to wait.
        let leaving = shared.sip_lines().into_iter().map(|line| {
            let shared = Rc::clone(&shared);
            spawn_local(async move { line.leave(&shared).await })
        });
        let leaving: Vec<_> = leaving.collect();
        for left in leaving {
            // It panicked: the log has it.
            let _ = left.await;
        }
        let Self { mut ended, mut writers, .. } = self;
        let failed = shared.calls.borrow().pipe_failed;
        shared.close_records().await;

        // A pipe's writer writes what it has; one that nobody reads is left.
        let written = async {
            while let Ok(writer) = writers.try_recv() {
                // It panicked: the log has it.
                let _ = spawn_blocking(move || writer.join()).await;
            }
        };
        let _ = tokio::time::timeout(CLOSE, written).await;
        // The media threads end when the last mailbox is closed and the last connection is left.
        let closed = async {
            while shared.has_connections() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let threads = shared.config().media.threads;
            shared.close();
            for _ in 0..threads {
                ended.recv().await;
            }
        };
        // Late or not, the process ends now.
        tokio::select! {
            _ = tokio::time::timeout(CLOSE, closed) => {}
            () = signals.recv() => {}
        }
        failed
    }
}

/// What ends the daemon from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn open() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for one that ends the daemon.
    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn open_records(config: &Arc<Config>, sinks: Option<Sinks>, metrics: &Arc<Metrics>) -> Result<Option<Records>, Fault> {
    let Some(directory) = &config.records.directory else {
        info!("no records of calls are kept: [records] directory is not set, and systemd gave none");
        return Ok(None);
    };
    let known = Arc::clone(config);
    let on_cut = Box::new(move |record: &Record| {
        if let Some(sinks) = &sinks {
            tell_of_cut(&known, sinks, record);
        }
    });
    let records = Records::open_telling(directory, Arc::clone(metrics), on_cut).map_err(|error| {
        let code = if error.is_operators() { exit::CONFIG } else { exit::FAILED };
        Fault { code, words: error.to_string() }
    })?;
    info!(directory = directory.display().to_string(); "records of calls are kept");
    Ok(Some(records))
}

/// Tells the sinks of a call that an earlier daemon did not finish.
fn tell_of_cut(config: &Config, sinks: &Sinks, record: &Record) {
    let line = config.lines.iter().position(|line| Some(&line.name) == record.started.line.as_ref());
    let Some(route) = config.routes.iter().find(|route| Some(route.line) == line) else { return };
    sinks.tell(&route.sinks, &Item::call_end(&Subject::of_cut(&record.started, &config.account), record));
}

fn open_notes(
    config: &Config,
    taps: Vec<Taps>,
    sinks: Option<Sinks>,
    metrics: &Arc<Metrics>,
) -> Result<Option<Notes>, Fault> {
    if taps.is_empty() {
        return Ok(None);
    }
    let notes = Notes::open(config, taps, sinks, Arc::clone(metrics));
    notes.map(Some).map_err(|error| Fault::config(error.to_string()))
}

/// Frames of sound that a media thread's tap holds: one second of its calls.
fn heard(config: &Config) -> usize {
    let seats = config.media.max_calls.div_ceil(config.media.threads);
    if config.routes.iter().any(|route| Notes::want_sound(config, route)) { (seats * 50).min(MOST_HEARD) } else { 1 }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>, Fault> {
    let builder = thread::Builder::new().name(name.to_owned());
    builder.spawn(work).map_err(|error| Fault::system("a thread could not be started", &error))
}

async fn bind(address: SocketAddr, key: &str) -> Result<TcpListener, Fault> {
    TcpListener::bind(address).await.map_err(|error| cannot_listen(address, key, &error))
}

fn cannot_listen(address: SocketAddr, key: &str, error: &io::Error) -> Fault {
    let next = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("find who has it with `ss -ltnp sport = :{}`, or choose another port", address.port())
        }
        io::ErrorKind::PermissionDenied => "ports under 1024 need a right that the service does not have".to_owned(),
        _ => "choose an address of this machine".to_owned(),
    };
    // An address may come up late (DHCP, a VLAN), and then a later start finds it.
    let code = if error.kind() == io::ErrorKind::AddrNotAvailable { exit::FAILED } else { exit::CONFIG };
    Fault { code, words: format!("{key} = \"{address}\": {error}; {next}") }
}

/// Where a listener really listens: the config may leave the choice of the port to the kernel.
fn listens_on(listener: &TcpListener, wanted: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(wanted)
}

fn limits(config: &Config) -> Limits {
    Limits {
        downlink_seconds: config.media.downlink_seconds as usize,
        uplink_max_ms: config.media.uplink_max_ms as usize,
        cushion: Now::from_millis(config.media.cushion_ms.into()),
    }
}

/// How long connections have to close after the last call.
const CLOSE: Duration = Duration::from_millis(2500);
/// How long the disk has for what was not written yet.
const LAST_RECORDS: Duration = Duration::from_secs(2);
/// How long the disk has for what calls told, and again for the spools of the sinks.
const LAST_NOTES: Duration = Duration::from_secs(2);
/// Wishes for a reload that may wait for one that is under way.
const MOST_RELOADS: usize = 8;
/// Things that a media thread's tap holds: a second of many calls.
const TOLD: usize = 4096;
/// Frames that it holds at most: 64 MB, of which only what is used is ever touched.
const MOST_HEARD: usize = 16_384;
/// How long calls that were ended have: the trunks' goodbye, and one second.
const GOODBYES: Duration = Duration::from_secs(6);
