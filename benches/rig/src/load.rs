//! N phones, N agents and one clock.
//!
//! One thread sends the phones' frames on an absolute schedule, one tokio thread does all the reading and the agents'
//! echo, the caller's thread sleeps and reads `/proc`. Times go into plain tables of atomics, so nobody waits for
//! anybody.

use std::{
    error::Error,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    runtime::{Builder, Runtime},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    dialect::Dialect,
    line,
    mark::{Filling, Finder},
    process::{self, CpuTime},
    sip, tls, websocket,
    websocket::{Frame, Inbox},
};

/// One run.
#[derive(Debug)]
pub struct Plan {
    /// What the agents speak.
    pub dialect: Dialect,
    /// Where the system under test takes calls.
    pub line: SocketAddr,
    /// They come by SIP, and this is their audio; without it they come by AudioSocket.
    pub sip: Option<sip::Codec>,
    /// Where the agents listen.
    pub agent: SocketAddr,
    /// The folder with the agents' certificate; without it they speak plain `ws`.
    pub tls: Option<PathBuf>,
    /// Calls at once.
    pub calls: usize,
    /// How long calls run before anything is counted.
    pub warm_up: Duration,
    /// How long it is counted.
    pub window: Duration,
    /// The process under test.
    pub pid: Option<u32>,
    /// Where the process under test serves its counters, if it has some.
    pub metrics: Option<SocketAddr>,
}

/// What happened to each frame: one row a call, one column a frame, nanoseconds since `began`, 0 = never.
struct Ledger {
    began: Instant,
    frames: usize,
    sent: Vec<AtomicU64>,
    at_agent: Vec<AtomicU64>,
    at_phone: Vec<AtomicU64>,
    /// How long after it was due a frame left its phone (ns).
    late: Vec<AtomicU64>,
    agents: AtomicUsize,
    /// Calls that the system under test ended before we did.
    ended: AtomicUsize,
    /// Messages that no agent should have got.
    odd: AtomicUsize,
    /// Packets of a codec that no mark goes through, as they came back.
    unmarked: AtomicUsize,
    over: AtomicBool,
}

impl Ledger {
    fn new(calls: usize, frames: usize) -> Self {
        let table = || (0..calls * frames).map(|_| AtomicU64::new(0)).collect();
        Self {
            began: Instant::now(),
            frames,
            sent: table(),
            at_agent: table(),
            at_phone: table(),
            late: table(),
            agents: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            odd: AtomicUsize::new(0),
            unmarked: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        }
    }

    fn nanos(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// A mark came by; the first time counts.
    fn arrived(&self, table: &[AtomicU64], (call, frame): (usize, usize), now: u64) {
        if frame < self.frames
            && let Some(cell) = table.get(call * self.frames + frame)
            && cell.load(Relaxed) == 0
        {
            cell.store(now, Relaxed);
        }
    }

    /// Every one of these frames was heard at its phone.
    fn is_complete(&self, first: usize, last: usize) -> bool {
        let mut rows = self.at_phone.chunks(self.frames);
        rows.all(|row| row.iter().take(last).skip(first).all(|cell| cell.load(Relaxed) > 0))
    }

    fn call_ended(&self) {
        if !self.over.load(Relaxed) {
            self.ended.fetch_add(1, Relaxed);
        }
    }
}

/// Plays the calls and returns what was measured.
///
/// # Errors
/// The calls did not come up, in words.
pub fn run(plan: &Plan) -> Result<Value, Box<dyn Error>> {
    let frames_in = |time: Duration| (time.as_millis() / PTIME.as_millis()) as usize;
    let frames = frames_in(plan.warm_up + plan.window + TAIL);
    let ledger = Arc::new(Ledger::new(plan.calls, frames));
    let rss_idle = plan.pid.and_then(|pid| process::status_kb(pid, "VmRSS"));

    let runtime = Arc::new(Builder::new_current_thread().enable_io().build()?);
    let listener = runtime.block_on(TcpListener::bind(plan.agent))?;
    let acceptor = plan.tls.as_deref().map(tls::server).transpose()?.map(TlsAcceptor::from);
    runtime.spawn(agents(listener, acceptor, plan.dialect, Arc::clone(&ledger)));
    let turning = Arc::clone(&runtime);
    thread::spawn(move || turning.block_on(std::future::pending::<()>()));

    let mut phones = dial(plan, &runtime, &ledger)?;
    let start = Instant::now() + Duration::from_millis(100);
    let sending = Arc::clone(&ledger);
    let sender = thread::spawn(move || {
        send(&mut phones, start, &sending);
        phones
    });

    let opens = start + plan.warm_up;
    sleep_until(opens);
    let (before, unmarked) = (Reading::take(plan), ledger.unmarked.load(Relaxed));
    sleep_until(opens + plan.window);
    let (after, unmarked) = (Reading::take(plan), ledger.unmarked.load(Relaxed) - unmarked);
    let rss = |row| plan.pid.and_then(|pid| process::status_kb(pid, row));
    let (rss_calls, rss_peak) = (rss("VmRSS"), rss("VmHWM"));
    let phones = sender.join().map_err(|_| "the sender panicked")?;
    let (first, last) = (frames_in(plan.warm_up).max(SILENT), frames_in(plan.warm_up + plan.window));
    let is_marked = plan.sip != Some(sip::Codec::G722);
    let give_up = Instant::now() + PATIENCE;
    while is_marked && !ledger.is_complete(first, last) && Instant::now() < give_up {
        thread::sleep(PTIME);
    }
    ledger.over.store(true, Relaxed);
    for phone in &phones {
        let _ = phone.hang_up(); // one that is gone needs no goodbye
    }
    thread::sleep(GOODBYE);

    let counted = Counted::gather(&ledger, plan.calls, first, last);
    let mut result = counted.json();
    let calls = plan.calls as f64;
    let kb_per_call = rss_calls.zip(rss_idle).map(|(with, idle)| round((with as f64 - idle as f64) / calls, 0));
    let more = json!({
        "calls": plan.calls,
        "seconds": plan.window.as_secs(),
        "cpu_pct_per_call": after.system_pct(&before).map(|pct| round(pct / calls, 4)),
        "rss_idle_kb": rss_idle,
        "rss_calls_kb": rss_calls,
        "rss_peak_kb": rss_peak,
        "rss_kb_per_call": kb_per_call,
        "ended_early": ledger.ended.load(Relaxed),
        "odd_messages": ledger.odd.load(Relaxed),
        "rig_cpu_pct": round(after.rig_pct(&before), 1),
        "other_load_pct": round(after.other_pct(&before), 1),
    });
    if !is_marked {
        result["unmarked"] = unmarked.into();
    }
    if let (Value::Object(result), Value::Object(more)) = (&mut result, more) {
        result.extend(more);
        let counters = after.counters.iter().zip(&before.counters);
        result.extend(counters.map(|(&(name, after), &(_, before))| (name.to_owned(), (after - before).into())));
    }
    Ok(result)
}

/// The caller's end of a call.
enum Phone {
    Audiosocket(TcpStream),
    Sip(sip::Call),
}

impl Phone {
    fn dial(plan: &Plan, number: usize, runtime: &Runtime, ledger: &Arc<Ledger>) -> io::Result<Self> {
        if let Some(codec) = plan.sip {
            let call = sip::Call::place(plan.line, number, codec)?;
            let [audio, signalling] = call.readers()?;
            let (hearing, watching) = (Arc::clone(ledger), Arc::clone(ledger));
            runtime.spawn(async move { listen_rtp(audio, codec, &hearing).await });
            runtime.spawn(async move { watch(signalling, &watching).await });
            return Ok(Self::Sip(call));
        }
        let mut phone = TcpStream::connect_timeout(&plan.line, Duration::from_secs(2))?;
        phone.set_nodelay(true)?;
        let mut hello = [0; line::HEADER + 16];
        hello[..line::HEADER].copy_from_slice(&[line::KIND_UUID, 0, 16]);
        hello[line::HEADER..]
            .copy_from_slice(&(0x7269_6700_0000_4000_8000_0000_0000_0000 + number as u128).to_be_bytes());
        phone.write_all(&hello)?;
        phone.set_nonblocking(true)?;
        let (reading, ledger) = (phone.try_clone()?, Arc::clone(ledger));
        runtime.spawn(async move {
            let listened = listen(reading, &ledger).await;
            ledger.call_ended();
            listened
        });
        Ok(Self::Audiosocket(phone))
    }

    /// Sends a frame; whether it went.
    fn send(&mut self, frame: &[i16; line::FRAME], message: &mut Vec<u8>) -> bool {
        match self {
            Self::Audiosocket(phone) => {
                message.clear();
                line::write_audio(frame, message);
                // A relay that lets a socket fill up for minutes has lost the call.
                matches!(phone.write(message), Ok(written) if written == message.len())
            }
            Self::Sip(call) => call.send(frame).is_ok(),
        }
    }

    fn hang_up(&self) -> io::Result<()> {
        match self {
            Self::Audiosocket(phone) => {
                let mut phone = phone;
                phone.write_all(&[line::KIND_HANG_UP, 0, 0])
            }
            Self::Sip(call) => call.hang_up(),
        }
    }
}

/// Connects the phones and waits until each has its agent.
fn dial(plan: &Plan, runtime: &Runtime, ledger: &Arc<Ledger>) -> Result<Vec<Phone>, Box<dyn Error>> {
    let mut phones = Vec::with_capacity(plan.calls);
    for call in 0..plan.calls {
        phones.push(Phone::dial(plan, call, runtime, ledger)?);
        thread::sleep(DIAL_GAP);
    }
    let give_up = Instant::now() + Duration::from_secs(15);
    while ledger.agents.load(Relaxed) < plan.calls {
        if Instant::now() > give_up {
            return Err(format!("only {} of {} agents were dialled", ledger.agents.load(Relaxed), plan.calls).into());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(phones)
}

/// Sends every frame when it is due, the phones' phases spread over one packet time.
fn send(phones: &mut [Phone], start: Instant, ledger: &Ledger) {
    let mut filling = Filling::default();
    let (mut frame, mut message) = ([0; line::FRAME], Vec::with_capacity(512));
    let mut broken = vec![false; phones.len()];
    let calls = phones.len() as u32;
    for number in 0..ledger.frames {
        for (call, phone) in phones.iter_mut().enumerate() {
            if broken[call] {
                continue;
            }
            if number < SILENT {
                frame.fill(0);
            } else {
                filling.write(call as u16, number as u32, &mut frame);
            }
            let due = start + PTIME * number as u32 + PTIME * call as u32 / calls;
            sleep_until(due);
            let now = ledger.nanos();
            let cell = call * ledger.frames + number;
            ledger.sent[cell].store(now, Relaxed);
            ledger.late[cell].store(now.saturating_sub((due - ledger.began).as_nanos() as u64), Relaxed);
            broken[call] = !phone.send(&frame, &mut message);
        }
    }
}

/// Hears one phone.
async fn listen(socket: TcpStream, ledger: &Ledger) -> io::Result<()> {
    let mut socket = tokio::net::TcpStream::from_std(socket)?;
    let (mut inbox, mut finder) = (Inbox::default(), Finder::default());
    while inbox.fill(&mut socket).await? {
        let now = ledger.nanos();
        let mut used = 0;
        while let Some((kind, payload, len)) = line::parse(&inbox.bytes()[used..]) {
            match kind {
                line::KIND_AUDIO => {
                    for mark in line::samples(payload).filter_map(|sample| finder.push(sample)) {
                        ledger.arrived(&ledger.at_phone, mark, now);
                    }
                }
                line::KIND_HANG_UP => return Ok(()),
                _ => {
                    ledger.odd.fetch_add(1, Relaxed);
                }
            }
            used += len;
        }
        inbox.consume(used);
    }
    Ok(())
}

/// Hears one phone that called by SIP.
async fn listen_rtp(socket: UdpSocket, codec: sip::Codec, ledger: &Ledger) -> io::Result<()> {
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    let (mut packet, mut finder) = ([0; 2048], Finder::default());
    loop {
        let n = socket.recv(&mut packet).await?;
        let now = ledger.nanos();
        match codec {
            sip::Codec::Pcmu => {
                for mark in sip::samples(&packet[..n]).filter_map(|sample| finder.push(sample)) {
                    ledger.arrived(&ledger.at_phone, mark, now);
                }
            }
            sip::Codec::G722 => {
                ledger.unmarked.fetch_add(1, Relaxed);
            }
        }
    }
}

/// Sees a call's end.
async fn watch(socket: UdpSocket, ledger: &Ledger) -> io::Result<()> {
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    let mut message = [0; 4096];
    loop {
        let n = socket.recv(&mut message).await?;
        if message[..n].starts_with(b"BYE ") {
            ledger.call_ended();
            return Ok(());
        }
    }
}

async fn agents(listener: TcpListener, acceptor: Option<TlsAcceptor>, dialect: Dialect, ledger: Arc<Ledger>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let (acceptor, ledger) = (acceptor.clone(), Arc::clone(&ledger));
        tokio::spawn(async move {
            socket.set_nodelay(true)?;
            match acceptor {
                Some(acceptor) => echo(acceptor.accept(socket).await?, dialect, &ledger).await,
                None => echo(socket, dialect, &ledger).await,
            }
        });
    }
}

/// One agent: what comes is stamped and sent back at once, message for message.
async fn echo(mut socket: impl AsyncRead + AsyncWrite + Unpin, dialect: Dialect, ledger: &Ledger) -> io::Result<()> {
    let mut inbox = Inbox::default();
    websocket::accept(&mut socket, &mut inbox).await?;
    ledger.agents.fetch_add(1, Relaxed);
    let (mut finder, mut samples) = (Finder::default(), Vec::new());
    let (mut reply, mut out) = (Vec::new(), Vec::new());
    while inbox.fill(&mut socket).await? {
        let now = ledger.nanos();
        let mut used = 0;
        out.clear();
        while let Some(frame) = Frame::parse(&inbox.bytes()[used..]) {
            let message = &*frame.payload(&mut inbox.bytes()[used..]);
            used += frame.end;
            match frame.opcode {
                opcode if opcode == dialect.opcode() && frame.fin => {
                    let Some(audio) = dialect.audio(message) else { continue };
                    dialect.decode(audio, &mut samples);
                    for mark in samples.iter().filter_map(|&sample| finder.push(sample)) {
                        ledger.arrived(&ledger.at_agent, mark, now);
                    }
                    reply.clear();
                    dialect.write_reply(message, audio, &mut reply);
                    websocket::write_frame(opcode, &reply, None, &mut out);
                }
                websocket::PING => websocket::write_frame(websocket::PONG, message, None, &mut out),
                websocket::PONG => {}
                websocket::CLOSE => return Ok(()),
                _ => {
                    ledger.odd.fetch_add(1, Relaxed);
                }
            }
        }
        inbox.consume(used);
        if !out.is_empty() {
            socket.write_all(&out).await?;
            socket.flush().await?;
        }
    }
    Ok(())
}

/// What is read at each end of the window.
struct Reading {
    at: Instant,
    system: Option<CpuTime>,
    rig: CpuTime,
    machine: Duration,
    /// What the system counts itself, in the order of [`COUNTERS`]; empty where it does not say.
    counters: Vec<(&'static str, f64)>,
}

impl Reading {
    fn take(plan: &Plan) -> Self {
        let counters = plan.metrics.and_then(|addr| scrape(addr).ok()).unwrap_or_default();
        Self {
            at: Instant::now(),
            system: plan.pid.and_then(CpuTime::read),
            rig: CpuTime::read(std::process::id()).unwrap_or_default(),
            machine: process::machine_busy(),
            counters,
        }
    }

    fn pct(&self, before: &Self, spent: Duration) -> f64 {
        100.0 * spent.as_secs_f64() / (self.at - before.at).as_secs_f64()
    }

    fn system_pct(&self, before: &Self) -> Option<f64> {
        let (after, earlier) = self.system.as_ref().zip(before.system.as_ref())?;
        Some(self.pct(before, after.since(earlier)))
    }

    fn rig_pct(&self, before: &Self) -> f64 {
        self.pct(before, self.rig.since(&before.rig))
    }

    /// What the rest of the machine did.
    fn other_pct(&self, before: &Self) -> f64 {
        let ours = self.rig_pct(before) + self.system_pct(before).unwrap_or(0.0);
        (self.pct(before, self.machine.saturating_sub(before.machine)) - ours).max(0.0)
    }
}

/// [`COUNTERS`] from a metrics page.
fn scrape(addr: SocketAddr) -> io::Result<Vec<(&'static str, f64)>> {
    let mut socket = TcpStream::connect_timeout(&addr, Duration::from_secs(2))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(socket, "GET /metrics HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    socket.read_to_string(&mut page)?;
    let counter = |name: &'static str| {
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.trim().parse().ok()).map(|value| (name, value))
    };
    COUNTERS.into_iter().map(|name| counter(name).ok_or_else(|| io::Error::other(name))).collect()
}

/// The frames of the window.
#[derive(Default)]
struct Counted {
    sent: usize,
    uplink: Vec<u64>,
    round_trip: Vec<u64>,
    late: Vec<u64>,
}

impl Counted {
    fn gather(ledger: &Ledger, calls: usize, first: usize, last: usize) -> Self {
        let mut counted = Self::default();
        for cell in (0..calls).flat_map(|call| (first..last).map(move |frame| call * ledger.frames + frame)) {
            let read = |table: &[AtomicU64]| table.get(cell).map_or(0, |cell| cell.load(Relaxed));
            let (sent, at_agent, at_phone) = (read(&ledger.sent), read(&ledger.at_agent), read(&ledger.at_phone));
            if sent == 0 {
                continue;
            }
            counted.sent += 1;
            counted.late.push(read(&ledger.late));
            if at_agent > 0 {
                counted.uplink.push(at_agent.saturating_sub(sent));
            }
            if at_phone > 0 {
                counted.round_trip.push(at_phone.saturating_sub(sent));
            }
        }
        for times in [&mut counted.uplink, &mut counted.round_trip, &mut counted.late] {
            times.sort_unstable();
        }
        counted
    }

    fn json(&self) -> Value {
        json!({
            "frames": self.sent,
            "lost": self.sent - self.round_trip.len(),
            "lost_uplink": self.sent - self.uplink.len(),
            "uplink_p50_ms": quantile_ms(&self.uplink, 0.5),
            "uplink_p99_ms": quantile_ms(&self.uplink, 0.99),
            "uplink_p999_ms": quantile_ms(&self.uplink, 0.999),
            "round_trip_p50_ms": quantile_ms(&self.round_trip, 0.5),
            "round_trip_p99_ms": quantile_ms(&self.round_trip, 0.99),
            "round_trip_p999_ms": quantile_ms(&self.round_trip, 0.999),
            "rig_late_p99_ms": quantile_ms(&self.late, 0.99),
        })
    }
}

/// The nearest-rank quantile of sorted nanoseconds, in ms.
fn quantile_ms(sorted: &[u64], quantile: f64) -> Option<f64> {
    let rank = (quantile * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).map(|&nanos| round(nanos as f64 / 1e6, 3))
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

fn sleep_until(due: Instant) {
    thread::sleep(due.saturating_duration_since(Instant::now()));
}

/// The counters whose growth over the window is reported, under their own names.
const COUNTERS: [&str; 5] = [
    "trunkline_media_allocations_total",
    "trunkline_uplink_frames_total",
    "trunkline_downlink_frames_total",
    "trunkline_downlink_repaid_samples_total",
    "trunkline_uplink_dropped_samples_total",
];
/// Packet time.
const PTIME: Duration = Duration::from_millis(20);
/// The first frames are silence: a PBX's format may be found by what its first ten look like.
const SILENT: usize = 12;
/// Calls go on after the window, so that its last frames are not the calls' last.
const TAIL: Duration = Duration::from_millis(500);
/// How long frames that were not heard yet are waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the system has to hear that the calls are over.
const GOODBYE: Duration = Duration::from_millis(200);
/// Between two calls that begin.
const DIAL_GAP: Duration = Duration::from_millis(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let times: Vec<u64> = (1..=1000).map(|ms| ms * 1_000_000).collect();
        assert_eq!(quantile_ms(&times, 0.5), Some(500.0));
        assert_eq!(quantile_ms(&times, 0.99), Some(990.0));
        assert_eq!(quantile_ms(&times, 0.999), Some(999.0));
        assert_eq!(quantile_ms(&times[..1], 0.999), Some(1.0));
        assert_eq!(quantile_ms(&[], 0.5), None);
    }
}
