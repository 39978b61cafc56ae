//! The daemon: starts the threads, takes calls on the lines, and tells the log what became of them.
//!
//! This is the control thread. It reads a line's first message, so that a media thread only ever sees calls.
//!
//! | thread | waits on |
//! |---|---|
//! | control (this one) | listeners, first messages, reports, signals, the control port |
//! | dial | requests, names, handshakes |
//! | media | orders, line and trunk sockets, its ticker |

use std::{
    cell::RefCell, collections::HashMap, io, net::SocketAddr, path::Path, rc::Rc, sync::Arc, thread, time::Duration,
};

use log::{error, info, warn};
use socket2::SockRef;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc, oneshot},
    task::{LocalSet, spawn_local},
};

use crate::{
    call::{
        EndReason, Outcome,
        bridge::Limits,
        outcome::Figures,
        shard::{self, NewCall, NewLine, Order, ShardSetup},
    },
    clock,
    config::{self, Cidr, Config, LineKind, PathOrDash, ProcessEnvironment},
    control::{
        call_info::CallInfo,
        desk::{Desk, Status, TellError},
        http,
        metrics::{Counter, Metrics},
    },
    dialect::{Facts, Text},
    exit,
    leg::{
        audiosocket::{
            Uuid,
            line::Line,
            message::{Item, Reader, write_hangup},
            rate_of,
        },
        pipe,
        websocket::{dialer, tls},
    },
    media::{Now, Rate, pool::BLOCK},
};

/// Runs the daemon with this config until a signal, or until its only line, a pipe, has ended. Returns the exit code.
#[must_use]
pub fn run(path: &Path) -> u8 {
    let _ = clock::now();
    let config = match config::load(path, &ProcessEnvironment) {
        Ok(config) => Arc::new(config),
        Err(problems) => {
            error!("the config has to be mended before the daemon can start\n{problems}");
            return exit::CONFIG;
        }
    };
    info!(config = path.display().to_string(), version = env!("CARGO_PKG_VERSION"); "trunkline starts");
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
        match Daemon::start(config).await {
            Ok(daemon) => daemon.run().await,
            Err(fault) => {
                error!("{}", fault.words);
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
    config: Arc<Config>,
    reports: mpsc::Receiver<Box<Outcome>>,
    shared: Rc<Shared>,
    /// Told by each media thread when it is at its end.
    ended: mpsc::Receiver<()>,
    writers: mpsc::UnboundedReceiver<thread::JoinHandle<()>>,
}

/// What the tasks of the control thread share.
struct Shared {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    media: RefCell<Vec<mpsc::Sender<Order>>>,
    dial: mpsc::Sender<dialer::Request>,
    calls: RefCell<Calls>,
    /// The daemon is going down.
    draining: Notify,
    /// Writers of pipes whose calls have ended.
    writers: mpsc::UnboundedSender<thread::JoinHandle<()>>,
}

/// The calls there are: the only place that knows how many.
#[derive(Default)]
struct Calls {
    live: HashMap<u64, Live>,
    /// Connections whose first message is still to come.
    arriving: usize,
    /// Connections that were turned away and are not closed yet.
    leaving: usize,
    next: u64,
    refused_since_told: u64,
    last_told: Option<Now>,
    draining: bool,
    pipe_failed: bool,
}

/// What the log says of a live call.
struct Live {
    call_id: String,
    line: String,
    media: usize,
    trunk: Option<oneshot::Receiver<(usize, Option<&'static str>)>>,
    writer: Option<thread::JoinHandle<()>>,
}

impl Daemon {
    async fn start(config: Arc<Config>) -> Result<Self, Fault> {
        let metrics = Arc::new(Metrics::default());
        let (dial, requests) = mpsc::channel(config.media.max_calls + 1);
        let roots = start_dialing(&config, requests)?;

        // Every call that ends has room for its report, whatever keeps this thread.
        let (reporter, reports) = mpsc::channel(2 * config.media.max_calls + 64);
        let (at_end, ended) = mpsc::channel(config.media.threads);
        let mut media = Vec::new();
        for number in 0..config.media.threads {
            let (orders, mailbox) = mpsc::channel(2 * config.media.max_calls + 64);
            let (ready, is_ready) = oneshot::channel();
            let setup = ShardSetup {
                blocks: config.media.pool_bytes(config.line_rate()) / (2 * BLOCK) / config.media.threads,
                seats: config.media.max_calls.div_ceil(config.media.threads),
                seat: Limits::reserve(config.line_rate()),
                limits: limits(&config),
                orders: mailbox,
                reports: reporter.clone(),
                metrics: Arc::clone(&metrics),
                ready,
            };
            let at_end = at_end.clone();
            let work = move || {
                if let Err(error) = shard::run(setup) {
                    error!(error:%; "a media thread failed");
                }
                // The daemon is there, or the process is ending anyway.
                let _ = at_end.blocking_send(());
            };
            spawn(&format!("media-{number}"), work)?;
            is_ready
                .await
                .map_err(|_| Fault { code: exit::FAILED, words: "a media thread did not start".to_owned() })?;
            media.push(orders);
        }
        let (writers, writers_to_join) = mpsc::unbounded_channel();

        let shared = Rc::new(Shared {
            config: Arc::clone(&config),
            metrics: Arc::clone(&metrics),
            media: RefCell::new(media),
            dial,
            calls: RefCell::default(),
            draining: Notify::new(),
            writers,
        });
        if let Some(address) = config.control.http {
            let listener = bind(address, "[control] http").await?;
            info!(listen:% = listens_on(&listener, address); "health and metrics are served");
            let (listen, desk) = (listens_on(&listener, address), Rc::new(Watched(Arc::clone(&metrics))));
            spawn_local(http::serve(listener, listen, false, desk));
        }
        roots
            .await
            .map_err(|_| Fault::config("the dial thread ended".to_owned()))?
            .map_err(|error| Fault::config(format!("TLS cannot be set up: {error}")))?;
        for (index, line) in config.lines.iter().enumerate() {
            match &line.kind {
                LineKind::Audiosocket { listen, .. } => {
                    let listener = bind(*listen, &format!("[line.{}] listen", line.name)).await?;
                    info!(line = line.name, listen:% = listens_on(&listener, *listen); "line listens");
                    spawn_local(accept(Rc::clone(&shared), index, listener));
                }
                LineKind::Pipe { input, output, sample_rate } => {
                    let (ends, writer) = pipe::open(path_of(input), path_of(output), *sample_rate)
                        .map_err(|error| Fault::config(format!("[line.{}] {error}", line.name)))?;
                    shared.begin(index, Arrival::Pipe(ends, writer), *sample_rate);
                }
            }
        }
        Ok(Self { config, reports, shared, ended, writers: writers_to_join })
    }

    async fn run(mut self) -> u8 {
        let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
            error!("signals cannot be received");
            return exit::FAILED;
        };
        info!(max_calls = self.config.media.max_calls; "ready for calls");
        let only_pipes = self.config.lines.iter().all(|line| matches!(line.kind, LineKind::Pipe { .. }));
        loop {
            tokio::select! {
                Some(outcome) = self.reports.recv() => self.shared.on_ended(*outcome),
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                Some(()) = self.ended.recv() => {
                    error!("a media thread ended; the daemon ends too, to be started again");
                    return exit::FAILED;
                }
            }
            if only_pipes && self.shared.calls.borrow().live.is_empty() {
                break;
            }
        }
        let failed = tokio::select! {
            failed = self.drain() => failed,
            _ = terminate.recv() => true,
            _ = interrupt.recv() => true,
        };
        info!("trunkline ends");
        if failed { exit::FAILED } else { exit::OK }
    }

    /// Ends live calls in order, and lets every connection close in order. Returns whether a pipe's call had failed.
    async fn drain(self) -> bool {
        let Self { mut reports, shared, mut ended, mut writers, config } = self;
        shared.calls.borrow_mut().draining = true;
        shared.draining.notify_waiters();
        let live = shared.calls.borrow().live.len();
        if live > 0 {
            info!(calls = live; "live calls are ended");
            let media = shared.media.borrow().clone();
            for media in media {
                // A thread that is gone has no calls.
                let _ = media.send(Order::EndAll(EndReason::Drained)).await;
            }
        }
        let calls_end = async {
            while !shared.calls.borrow().live.is_empty()
                && let Some(outcome) = reports.recv().await
            {
                shared.on_ended(*outcome);
            }
        };
        if tokio::time::timeout(DRAIN, calls_end).await.is_err() {
            warn!(calls = shared.calls.borrow().live.len(); "calls did not end in time");
        }
        let failed = shared.calls.borrow().pipe_failed;

        // A pipe's writer writes what it has; one that nobody reads is left.
        let written = async {
            while let Ok(writer) = writers.try_recv() {
                // It panicked: the log has it.
                let _ = tokio::task::spawn_blocking(move || writer.join()).await;
            }
        };
        let _ = tokio::time::timeout(CLOSE, written).await;
        // The media threads end when the last mailbox is closed and the last connection is left.
        let closed = async {
            while shared.calls.borrow().leaving > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let threads = config.media.threads;
            shared.close();
            for _ in 0..threads {
                ended.recv().await;
            }
        };
        // Late or not, the process ends now.
        let _ = tokio::time::timeout(CLOSE, closed).await;
        failed
    }
}

/// What the control port needs while there is nothing to steer.
struct Watched(Arc<Metrics>);

impl Desk for Watched {
    fn status(&self) -> Status {
        unreachable!("the control port does not ask")
    }

    fn problems(&self) -> Vec<String> {
        Vec::new()
    }

    fn metrics(&self) -> &Metrics {
        &self.0
    }

    fn hang_up(&self, _: &str) -> bool {
        false
    }

    fn drain(&self) {}

    fn tell_of_call(&self, _: Uuid, _: CallInfo) -> Result<(), TellError> {
        Err(TellError::Draining)
    }
}

/// A line that has come up.
enum Arrival {
    Audiosocket { stream: std::net::TcpStream, line: Box<Line>, uuid: Uuid, peer: SocketAddr },
    Pipe(pipe::Ends, thread::JoinHandle<()>),
}

impl Shared {
    /// A call begins: its media thread gets the line, the dial thread the route.
    fn begin(self: &Rc<Self>, line_index: usize, arrival: Arrival, line_rate: Rate) {
        let mut calls = self.calls.borrow_mut();
        let seq = calls.next;
        calls.next += 1;
        let line_name = &self.config.lines[line_index].name;
        let route = self.config.routes.iter().find(|route| route.line == line_index);
        let trunks = route.map(|route| route.trunks.clone()).unwrap_or_default();
        let timeouts: Duration = trunks.iter().map(|&trunk| self.config.trunks[trunk].connect_timeout).sum();

        let mut facts = made_up_facts(&self.config.account);
        let (line, writer) = match arrival {
            Arrival::Audiosocket { stream, line, uuid, peer } => {
                // 36 characters fit.
                facts.call_sid = text(&uuid.to_string());
                info!(call_id = facts.call_id.as_str(), line = line_name, uuid:%, peer:%; "call started");
                (NewLine::Audiosocket { stream, line }, None)
            }
            Arrival::Pipe(ends, writer) => {
                info!(call_id = facts.call_id.as_str(), line = line_name; "call started");
                (NewLine::Pipe(ends), Some(writer))
            }
        };
        let (dialing, cancelled) = oneshot::channel();
        let (taken, trunk) = oneshot::channel();
        let call_id = facts.call_id.to_string();
        let media = self.least_busy(&calls);
        let new = NewCall { seq, facts, line, give_up_after: timeouts + Duration::from_secs(1), dialing };
        let live = Live { call_id: call_id.clone(), line: line_name.clone(), media, trunk: Some(trunk), writer };
        calls.live.insert(seq, live);
        self.metrics.call_began();
        let Some(orders) = self.media.borrow().get(media).cloned() else { return };
        let request = dialer::Request { seq, call_id, trunks, line_rate, cancelled, reply: orders.clone(), taken };
        drop(calls);
        if let Err(error) = orders.try_send(Order::Call(Box::new(new))) {
            // So far behind that more calls can only make it worse.
            if let Order::Call(new) = error.into_inner()
                && let NewLine::Audiosocket { stream, .. } = new.line
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                turn_away(self, stream);
            }
            let figures = Figures::default();
            self.on_ended(Outcome { seq, reason: EndReason::Overload, ended: clock::now(), figures, words: None });
        } else if self.dial.try_send(request).is_err() {
            // The media thread has the call, and gives it back.
            let refused = Order::Trunk { seq, result: Err(EndReason::Overload) };
            spawn_local(async move { orders.send(refused).await.is_ok() });
        }
    }

    /// Closes the media threads' mailboxes.
    fn close(&self) {
        self.media.borrow_mut().clear();
    }

    fn least_busy(&self, calls: &Calls) -> usize {
        let load = |media: usize| calls.live.values().filter(|call| call.media == media).count();
        (0..self.media.borrow().len()).min_by_key(|&media| load(media)).unwrap_or(0)
    }

    /// Whether a trunk of this line takes the line's rate, which the first audio tells.
    fn wants_rate(&self, line: usize) -> bool {
        let trunks = self.config.routes.iter().filter(|route| route.line == line).flat_map(|route| &route.trunks);
        trunks
            .map(|&trunk| &self.config.trunks[trunk])
            .any(|trunk| trunk.dialect == "binary" && trunk.sample_rate.is_none())
    }

    /// Whether one more call may come.
    fn has_seat(&self) -> bool {
        let mut calls = self.calls.borrow_mut();
        let most_arriving = self.config.media.max_calls + MOST_ARRIVING;
        if !calls.draining && calls.live.len() < self.config.media.max_calls && calls.arriving < most_arriving {
            return true;
        }
        self.metrics.add(Counter::CallsRefused, 1);
        calls.refused_since_told += 1;
        let now = clock::now();
        if calls.last_told.is_none_or(|told| now - told >= TELL_REFUSALS) {
            let (refused, max_calls) = (calls.refused_since_told, self.config.media.max_calls);
            warn!(refused, max_calls; "calls are refused: all seats are taken, or the daemon is going down");
            calls.refused_since_told = 0;
            calls.last_told = Some(now);
        }
        false
    }

    fn on_ended(&self, outcome: Outcome) {
        let Some(live) = self.calls.borrow_mut().live.remove(&outcome.seq) else { return };
        let Outcome { reason, ended, figures, words, .. } = outcome;
        self.metrics.call_ended(reason);
        let taken = live.trunk.and_then(|mut trunk| trunk.try_recv().ok());
        let trunk = taken.map_or("none", |(index, _)| self.config.trunks[index].name.as_str());
        let (up, down, heard) = (figures.uplink, figures.downlink, figures.trunk);
        let (times, clears, marks) = (figures.times, figures.clears, figures.marks);
        // What never happened is shown as -1, so that the field is a number in every line.
        let ms = |from: Option<Now>| from.map_or(-1, |at| at.saturating_sub(times.started).as_millis() as i64);
        let seconds = (ended.saturating_sub(times.started).as_millis() as f64) / 1000.0;
        info!(
            call_id = live.call_id, line = live.line, trunk, end_reason:% = reason, words = words.as_deref().unwrap_or(""),
            seconds, bridged_ms = ms(times.bridged), first_heard_ms = ms(times.first_heard),
            frames_up = up.frames, frames_down = down.frames, samples_up = up.samples, samples_heard = down.heard,
            dropped = up.dropped, underruns = down.underruns, late = down.late, missed = down.missed,
            flushed = down.flushed, repaid = down.repaid, clears, marks, digits = up.digits,
            messages_in = heard.messages_in, messages_out = heard.messages_out, malformed = heard.malformed,
            unknown = heard.unknown, skipped = heard.skipped, contradicted = heard.contradicted,
            clamped = heard.clamped;
            "call ended"
        );
        if let Some(malformed) = heard.first_malformed {
            warn!(call_id = live.call_id, trunk, count = heard.malformed; "messages of the trunk were dropped: {malformed}");
        }
        if let Some(writer) = live.writer {
            let good = matches!(reason, EndReason::LineHungUp | EndReason::TrunkHungUp | EndReason::Drained);
            self.calls.borrow_mut().pipe_failed |= !good;
            // It writes what it has and ends with the call, and is joined when the daemon ends.
            let _ = self.writers.send(writer);
        }
    }
}

/// Takes connections of PBXs.
async fn accept(shared: Rc<Shared>, line: usize, listener: TcpListener) {
    let allow: &[Cidr] = match &shared.config.lines[line].kind {
        LineKind::Audiosocket { allow, .. } => allow,
        LineKind::Pipe { .. } => &[],
    };
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(line = shared.config.lines[line].name, error:%; "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if !allow.is_empty() && !allow.iter().any(|cidr| cidr.contains(peer.ip())) {
            warn!(line = shared.config.lines[line].name, peer:%; "a connection from outside `allow` was closed");
            continue;
        }
        if !shared.has_seat() {
            turn_away(&shared, stream);
            continue;
        }
        shared.calls.borrow_mut().arriving += 1;
        let shared = Rc::clone(&shared);
        spawn_local(arrive(shared, line, stream, peer));
    }
}

/// Hears which call a connection is, and begins it.
async fn arrive(shared: Rc<Shared>, line: usize, mut stream: TcpStream, peer: SocketAddr) {
    let name = &shared.config.lines[line].name;
    let mut reader = Reader::new();
    let first = tokio::select! {
        first = tokio::time::timeout(FIRST_MESSAGE, first_message(&mut stream, &mut reader)) => Some(first),
        () = shared.draining.notified() => None,
    };
    let line_rate = if shared.wants_rate(line) && matches!(first, Some(Ok(Ok(_)))) {
        first_rate(&mut stream, &mut reader).await
    } else {
        Rate::Hz8000
    };
    shared.calls.borrow_mut().arriving -= 1;
    let uuid = match first {
        None => return turn_away(&shared, stream),
        Some(Err(_)) => {
            shared.metrics.call_never_began(EndReason::LineSilent);
            info!(line = name, peer:%, end_reason:% = EndReason::LineSilent; "a connection named no call in 2 s");
            return;
        }
        Some(Ok(Err(words))) => {
            shared.metrics.call_never_began(EndReason::Protocol);
            warn!(line = name, peer:%, end_reason:% = EndReason::Protocol; "{words}");
            return;
        }
        Some(Ok(Ok(uuid))) => uuid,
    };
    // Between its connection and its name others may have come, or the end of the daemon.
    if !shared.has_seat() {
        return turn_away(&shared, stream);
    }
    match stream.into_std() {
        Ok(stream) => {
            let line_leg = Box::new(Line::new(reader));
            shared.begin(line, Arrival::Audiosocket { stream, line: line_leg, uuid, peer }, line_rate);
        }
        Err(error) => warn!(line = name, peer:%, error:%; "a connection was lost before its call began"),
    }
}

/// Back to the dialplan, which can send the caller elsewhere. The goodbye must not be overtaken by a reset, so the
/// connection stays until the PBX closes it, for a moment; a flood of them does not get that.
fn turn_away(shared: &Rc<Shared>, stream: TcpStream) {
    let _ = stream.try_write(write_hangup(&mut [0; 3]));
    if shared.calls.borrow().leaving >= MOST_LEAVING {
        return;
    }
    shared.calls.borrow_mut().leaving += 1;
    let shared = Rc::clone(shared);
    spawn_local(async move {
        let _ = SockRef::from(&stream).shutdown(std::net::Shutdown::Write);
        let mut stream = stream;
        let mut bytes = [0; 512];
        let rest = async { while matches!(stream.read(&mut bytes).await, Ok(1..)) {} };
        // Late or not, it is closed now.
        let _ = tokio::time::timeout(FIRST_MESSAGE, rest).await;
        shared.calls.borrow_mut().leaving -= 1;
    });
}

/// Reads the message that names the call.
async fn first_message(stream: &mut TcpStream, reader: &mut Reader) -> Result<Uuid, String> {
    let socket = SockRef::from(&*stream);
    // Wishes, not needs: a socket without them works.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_send_buffer_size(LINE_SEND_BUFFER);
    let _ = socket.set_tcp_user_timeout(Some(LINE_USER_TIMEOUT));
    loop {
        let uuid = match reader.peek() {
            Err(violation) => return Err(format!("this is not AudioSocket: {violation}")),
            Ok(Some(Item::Uuid(uuid))) => Some(Uuid(uuid)),
            Ok(Some(_)) => return Err("this is not AudioSocket: its first message names no call".to_owned()),
            Ok(None) => None,
        };
        if let Some(uuid) = uuid {
            reader.advance();
            return Ok(uuid);
        }
        match stream.read(reader.spare()).await {
            Ok(0) => return Err("the connection was closed before it named a call".to_owned()),
            Ok(n) => reader.filled(n),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// The rate of the first audio, for a trunk that takes the line's. A PBX that waits for us to begin has 8 kHz.
async fn first_rate(stream: &mut TcpStream, reader: &mut Reader) -> Rate {
    let heard = async {
        loop {
            match reader.peek() {
                Ok(Some(Item::Audio { kind, .. })) => return rate_of(kind),
                Ok(Some(_)) | Err(_) => return None,
                Ok(None) => {}
            }
            match stream.read(reader.spare()).await {
                Ok(n @ 1..) => reader.filled(n),
                // Whoever takes the call finds out.
                Ok(0) | Err(_) => return None,
            }
        }
    };
    tokio::time::timeout(FIRST_AUDIO, heard).await.ok().flatten().unwrap_or(Rate::Hz8000)
}

type RootsReady = oneshot::Receiver<Result<(), tls::TlsError>>;

fn start_dialing(config: &Arc<Config>, requests: mpsc::Receiver<dialer::Request>) -> Result<RootsReady, Fault> {
    let (ready, roots_ready) = oneshot::channel();
    let config = Arc::clone(config);
    let work = move || {
        let roots = match dialer::Roots::load(&config) {
            Ok(roots) => roots,
            Err(error) => {
                // The daemon that asked is there, or the process is ending anyway.
                let _ = ready.send(Err(error));
                return;
            }
        };
        let _ = ready.send(Ok(()));
        if let Err(error) = dialer::run(config, roots, requests) {
            error!(error:%; "the dial thread ended");
        }
    };
    spawn("dial", work)?;
    Ok(roots_ready)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>, Fault> {
    let builder = thread::Builder::new().name(name.to_owned());
    builder.spawn(work).map_err(|error| Fault::system("a thread could not be started", &error))
}

async fn bind(address: SocketAddr, key: &str) -> Result<TcpListener, Fault> {
    TcpListener::bind(address).await.map_err(|error| {
        let next = match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!("find who has it with `ss -ltnp sport = :{}`, or choose another port", address.port())
            }
            io::ErrorKind::PermissionDenied => {
                "ports under 1024 need a right that the service does not have".to_owned()
            }
            _ => "choose an address of this machine".to_owned(),
        };
        Fault::config(format!("{key} = \"{address}\": {error}; {next}"))
    })
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

fn path_of(path: &PathOrDash) -> Option<&Path> {
    match path {
        PathOrDash::Dash => None,
        PathOrDash::Path(path) => Some(path),
    }
}

/// Ids for a call whose platform gave none.
fn made_up_facts(account: &str) -> Facts {
    let mut random = [0; 16];
    // The kernel's generator does not fail once the machine has booted.
    let _ = getrandom::fill(&mut random);
    let mut call_id = Text::new();
    for byte in &random[..12] {
        // 32 letters, so that no letter is likelier than another; 12 fit.
        let _ = call_id.push(char::from(ALPHABET[usize::from(byte % 32)]));
    }
    let four_digits = u16::from_le_bytes([random[12], random[13]]) % 10_000;
    Facts {
        ucid: text(&format!("{}{four_digits:04}", clock::epoch_ms())),
        stream_sid: call_id.clone(),
        account: text(account),
        call_id,
        ..Facts::default()
    }
}

/// A short text, cut where it is not.
fn text(long: &str) -> Text {
    let mut text = Text::new();
    for character in long.chars() {
        if text.push(character).is_err() {
            break;
        }
    }
    text
}

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// A PBX that has connected has so long to name the call.
const FIRST_MESSAGE: Duration = Duration::from_secs(2);
/// Connections that were turned away and may stay open for a moment.
const MOST_LEAVING: usize = 64;
/// About 400 ms of frames, as the kernel counts them: what hides there a clear cannot reach.
const LINE_SEND_BUFFER: usize = 16 * 1024;
/// A PBX that acknowledges nothing for so long is gone.
const LINE_USER_TIMEOUT: Duration = Duration::from_secs(3);
/// Refusals are told once in so long.
const TELL_REFUSALS: Now = Now::from_secs(60);
/// Connections that may be about to name their calls, beside as many as there are seats.
const MOST_ARRIVING: usize = 64;
/// A line's first audio comes with its first frame, or this late it is not waited for.
const FIRST_AUDIO: Duration = Duration::from_millis(100);
/// How long connections have to close after the last call.
const CLOSE: Duration = Duration::from_millis(2500);
/// How long live calls have at the end: the trunks' goodbye, and one second.
const DRAIN: Duration = Duration::from_secs(6);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_ids_have_their_shape_and_differ() {
        let (first, second) = (made_up_facts("office"), made_up_facts("office"));
        assert_eq!(first.call_id.len(), 12);
        assert!(first.call_id.bytes().all(|byte| ALPHABET.contains(&byte)));
        assert_ne!(first.call_id, second.call_id);
        assert_eq!(first.ucid.len(), 17);
        assert!(first.ucid.bytes().all(|byte| byte.is_ascii_digit()));
        assert_eq!((first.stream_sid.as_str(), first.account.as_str()), (first.call_id.as_str(), "office"));
    }
}
