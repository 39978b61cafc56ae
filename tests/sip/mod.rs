//! A site with a SIP line for tests: the daemon, the agent that it dials over wss, and sipp, which is not ours, as whoever
//! calls or is called.
//!
//! `scripts/setup test` installs sipp and baresip. Where that has not been run nothing is tested here, unless `CI` is set.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part, and is a crate of its own")]

pub(crate) mod extension;
pub(crate) mod lab;
pub(crate) mod scenario;
pub(crate) mod wire;

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use scenario::Scenario;
use trunkline::media::g711::Law;

use crate::site::{Daemon, Process, SOON, TRUNKLINE, noise};

/// Whether this program is here. In CI it has to be.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    if !found {
        let in_ci = std::env::var_os("CI").is_some_and(|ci| !ci.is_empty());
        assert!(!in_ci, "{program} is missing: run scripts/setup test");
        println!("not run: {program} is missing, scripts/setup test installs it");
    }
    found
}

/// What the line's trunk is.
pub(crate) enum Trunk {
    /// An agent that echoes, over wss.
    Echo,
    /// An agent that says this WAV.
    Says(PathBuf),
    /// An agent that echoes, and hangs up so long after a call began.
    HangsUp(Duration),
    /// An agent that is told by these arguments what to ask for.
    Asks(&'static [&'static str]),
    /// An agent that echoes behind a door that opens so long after a connection was made.
    Late(Duration),
    /// Connections are taken and nobody says anything.
    Silent,
    /// Every upgrade is answered 403.
    Refusing,
    /// Nobody listens there.
    Away,
}

/// One line, its trunks, and what plays them.
pub(crate) struct Site {
    pub(crate) daemon: Daemon,
    /// Of the trunks in their order; those that are no agent have none.
    pub(crate) agents: Vec<Process>,
    doors: Vec<Door>,
    pub(crate) dir: tempfile::TempDir,
}

impl Site {
    /// A line that takes calls from this machine, with an agent that echoes. `None`: sipp is missing.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[Trunk::Echo], "", "")
    }

    /// With these keys more in the line's table, and these in `[media]`.
    pub(crate) fn start_with(trunks: &[Trunk], line: &str, media: &str) -> Option<Self> {
        is_installed("sipp").then(|| Self::open(trunks, line, media))
    }

    /// The same where sipp is not needed.
    pub(crate) fn open(trunks: &[Trunk], line: &str, media: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (mut agents, mut doors, mut tables, mut names) = (Vec::new(), Vec::new(), String::new(), Vec::new());
        for (n, trunk) in trunks.iter().enumerate() {
            let mut url = |door: Door| {
                let url = format!("ws://127.0.0.1:{}/", door.port);
                doors.push(door);
                url
            };
            let (url, more) = match trunk {
                Trunk::Echo => {
                    let (agent, port) = agent(&["--tls", dir.path().to_str().unwrap()]);
                    agents.push(agent);
                    (format!("wss://localhost:{port}/"), format!("ca-file = {:?}\n", dir.path().join("ca.pem")))
                }
                Trunk::HangsUp(after) => {
                    let (agent, port) = agent(&["--plain", "--hangup-after", &after.as_millis().to_string()]);
                    agents.push(agent);
                    (format!("ws://127.0.0.1:{port}/"), String::new())
                }
                Trunk::Asks(args) => {
                    let (agent, port) = agent(&[&["--plain"], *args].concat());
                    agents.push(agent);
                    (format!("ws://127.0.0.1:{port}/"), String::new())
                }
                Trunk::Says(wav) => {
                    let (agent, port) = agent(&["--plain", "--behave", &format!("say:{}", wav.display())]);
                    agents.push(agent);
                    (format!("ws://127.0.0.1:{port}/"), String::new())
                }
                Trunk::Late(after) => {
                    let (agent, port) = agent(&["--plain"]);
                    agents.push(agent);
                    (url(Door::open(Behind::Agent(port, *after))), String::new())
                }
                Trunk::Silent => (url(Door::open(Behind::Nobody)), String::new()),
                Trunk::Refusing => (url(Door::open(Behind::Refusal)), String::new()),
                // tcpmux, which nobody has had for decades, and no port that is handed out.
                Trunk::Away => ("ws://127.0.0.1:1/".to_owned(), String::new()),
            };
            let name = format!("t{n}");
            tables.push_str(&format!("[trunk.{name}]\nurl = \"{url}\"\ndialect = \"ozonetel\"\n{more}"));
            names.push(format!("{name:?}"));
        }
        // Sites that run beside each other keep their audio apart.
        static OPENED: AtomicU16 = AtomicU16::new(0);
        let first = 61_000 + 240 * (OPENED.fetch_add(1, Relaxed) % 12);
        let ports = if line.contains("rtp-ports") {
            String::new()
        } else {
            format!("rtp-ports = \"{first}-{}\"\n", first + 239)
        };
        let media = if media.contains("max-calls") { media.to_owned() } else { format!("max-calls = 8\n{media}") };
        let control = format!("drain-seconds = 30\nsocket = {:?}", dir.path().join("control.sock"));
        let daemon = Daemon::start_of(&["pbx"], &media, &control, |free| {
            let allow = if line.contains("allow") { "" } else { "allow = [\"127.0.0.1\"]\n" };
            format!(
                "[line.pbx]\nkind = \"sip\"\nlisten = \"127.0.0.1:{}\"\n{allow}{ports}{line}\n{tables}\
                 [[route]]\nline = \"pbx\"\ntrunks = [{}]\n",
                free[0],
                names.join(", ")
            )
        });
        Self { daemon, agents, doors, dir }
    }

    pub(crate) fn port(&self) -> u16 {
        self.daemon.port("pbx")
    }

    /// Where the line listens.
    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port()).into()
    }

    /// sipp with this scenario, once, unless more is said.
    pub(crate) fn sipp(&self, scenario: &Scenario) -> Sipp {
        Sipp::new(scenario, self.dir.path(), self.port())
    }

    /// Plays a scenario to its end, in which everything has to come as it says. Returns what it took.
    #[track_caller]
    pub(crate) fn plays(&self, scenario: &Scenario) -> Played {
        self.sipp(scenario).start().ends_well(SOON)
    }

    /// `trunkline NAME ...` over the control socket.
    #[track_caller]
    pub(crate) fn ask(&self, args: &[&str]) -> String {
        let (status, said) = self.try_ask(args);
        assert!(status, "{args:?}: {said}");
        said
    }

    pub(crate) fn try_ask(&self, args: &[&str]) -> (bool, String) {
        let socket = self.dir.path().join("control.sock");
        let mut command = Command::new(TRUNKLINE);
        command.arg(args[0]).arg("--socket").arg(socket).args(&args[1..]);
        let (status, said) = Process::start(&mut command).wait(SOON);
        (status.success(), said)
    }

    /// Connections that the n-th of the trunks that are no `Echo` was given.
    pub(crate) fn knocks(&self, n: usize) -> u16 {
        self.doors[n].knocks.load(Relaxed)
    }

    /// A file of raw PCMU with noise, none of it silent.
    pub(crate) fn noise_file(&self, seconds: f64) -> PathBuf {
        let path = self.dir.path().join("noise.ulaw");
        fs::write(&path, companded(seconds, 1)).unwrap();
        path
    }
}

/// For what goes by the clock: a machine that stood still in one attempt does not in all of them.
#[track_caller]
pub(crate) fn in_three(attempt: impl Fn() -> Result<(), String>) {
    let failed = |_| attempt().inspect_err(|why| println!("{why}")).err();
    let failures: Vec<_> = (0..3).map_while(failed).collect();
    assert!(failures.len() < 3, "{failures:#?}");
}

pub(crate) fn is_so(is_so: bool, otherwise: impl Fn() -> String) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(otherwise()) }
}

/// Noise as mu-law has it, none of it silent.
pub(crate) fn companded(seconds: f64, seed: u32) -> Vec<u8> {
    let audible = |sample: i16| if sample.abs() < 64 { 64 } else { sample };
    noise(seconds, seed).into_iter().map(|sample| Law::Mu.encode(audible(sample))).collect()
}

/// `trunkline agent`, and where it listens.
pub(crate) fn agent(args: &[&str]) -> (Process, u16) {
    let agent = Process::start(Command::new(TRUNKLINE).args(["agent", "--listen", "127.0.0.1:0"]).args(args));
    let greeting = agent.line(&["listening on ws"]);
    let port = greeting.split("127.0.0.1:").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    (agent, port)
}

/// What is behind a door.
#[derive(Clone, Copy)]
enum Behind {
    Agent(u16, Duration),
    Nobody,
    Refusal,
}

/// A trunk as the network may show it.
struct Door {
    port: u16,
    knocks: Arc<AtomicU16>,
    closing: Arc<AtomicBool>,
}

impl Door {
    fn open(behind: Behind) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (knocks, closing) = (Arc::new(AtomicU16::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, closed) = (Arc::clone(&knocks), Arc::clone(&closing));
        thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                if closed.load(Relaxed) {
                    return;
                }
                counted.fetch_add(1, Relaxed);
                let stream = stream.unwrap();
                match behind {
                    Behind::Nobody => held.push(stream),
                    Behind::Refusal => drop(thread::spawn(move || refuse(stream))),
                    Behind::Agent(port, after) => drop(thread::spawn(move || pass(stream, port, after))),
                }
            }
        });
        Self { port, knocks, closing }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.closing.store(true, Relaxed);
        // So that it looks.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn refuse(mut stream: TcpStream) {
    let mut head = [0; 4096];
    // A request that comes in pieces is refused at its first.
    let _ = stream.read(&mut head);
    let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
}

fn pass(near: TcpStream, port: u16, after: Duration) {
    thread::sleep(after);
    let far = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let copy = |mut from: TcpStream, mut to: TcpStream| {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    };
    let (from, to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
    thread::spawn(move || copy(from, to));
    copy(far, near);
}

/// sipp, about to be started.
pub(crate) struct Sipp {
    dir: PathBuf,
    command: Command,
    /// Calls it has to make or take.
    calls: u32,
    kept: Option<tempfile::TempDir>,
    claim: UdpSocket,
}

impl Sipp {
    pub(crate) fn new(scenario: &Scenario, dir: &Path, to: u16) -> Self {
        // A folder for each, as they run beside each other.
        static STARTED: AtomicU16 = AtomicU16::new(0);
        let nth = STARTED.fetch_add(1, Relaxed);
        let dir = dir.join(format!("sipp-{nth}"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("scenario.xml"), scenario.xml()).unwrap();
        let mut command = Command::new("sipp");
        let (media, claim) = claim_ports();
        command
            .current_dir(&dir)
            .args(["-sf", "scenario.xml", "-nostdin", "-s", "agent", "-timeout_error"])
            .args(["-trace_err", "-error_file", "errors", "-trace_logs", "-log_file", "log"])
            .args(["-trace_msg", "-message_file", "messages"])
            .args(["-mi", "127.0.0.1", "-mp", &media.to_string()])
            .arg(format!("127.0.0.1:{to}"));
        Self { dir, command, calls: 1, kept: None, claim }
    }

    /// So many calls in all, and so many a second.
    pub(crate) fn calls(mut self, calls: u32, a_second: u32) -> Self {
        self.calls = calls;
        self.command.args(["-r", &a_second.to_string()]);
        self
    }

    /// Of all that it sends and is sent, so many in a hundred are lost.
    pub(crate) fn loses(mut self, percent: u32) -> Self {
        self.command.args(["-lost", &percent.to_string()]);
        self
    }

    /// The folder goes when it has ended.
    pub(crate) fn keeping(mut self, dir: tempfile::TempDir) -> Self {
        self.kept = Some(dir);
        self
    }

    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn start(self) -> Playing {
        self.start_at(Ipv4Addr::LOCALHOST)
    }

    /// From another address of this machine.
    pub(crate) fn start_at(mut self, address: Ipv4Addr) -> Playing {
        let port = free_udp_port(address);
        self.command.args(["-m", &self.calls.to_string(), "-i", &address.to_string(), "-p", &port.to_string()]);
        let process = Process::start(&mut self.command);
        Playing { port, dir: self.dir, process, began: Instant::now(), _kept: self.kept, _claim: self.claim }
    }
}

/// The first of 250 ports for streams that nobody has now, below those that are handed out, and what keeps every other sipp
/// off them, in whichever process, for as long as it is held.
fn claim_ports() -> (u16, UdpSocket) {
    let claim = |first: u16| {
        let claim = UdpSocket::bind((Ipv4Addr::LOCALHOST, first + 249)).ok()?;
        // Those that sipp insists on.
        let is_free = (first..first + 4).all(|port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok());
        is_free.then_some((first, claim))
    };
    let claimed = (20_000..32_000).step_by(250).find_map(claim);
    claimed.expect("fewer than 48 of them run at once")
}

/// A port that nobody has now.
pub(crate) fn free_udp_port(address: Ipv4Addr) -> u16 {
    UdpSocket::bind((address, 0)).unwrap().local_addr().unwrap().port()
}

/// sipp at work.
pub(crate) struct Playing {
    pub(crate) port: u16,
    dir: PathBuf,
    process: Process,
    began: Instant,
    _kept: Option<tempfile::TempDir>,
    _claim: UdpSocket,
}

impl Playing {
    /// Waits for its end, at which no call has failed.
    #[track_caller]
    pub(crate) fn ends_well(self, at_most: Duration) -> Played {
        let (ok, played) = self.end(at_most);
        assert!(ok, "{}", played.whole());
        played
    }

    /// Waits for its end. Whether no call has failed.
    #[track_caller]
    pub(crate) fn end(mut self, at_most: Duration) -> (bool, Played) {
        let status = self.process.try_wait(at_most);
        let read = |name: &str| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        let played = Played {
            screen: self.process.said(),
            errors: read("errors"),
            log: read("log"),
            messages: read("messages"),
            scenario: read("scenario.xml"),
            took: self.began.elapsed(),
        };
        let status = status.unwrap_or_else(|| panic!("sipp does not end:\n{}", played.whole()));
        (status.success(), played)
    }

    /// Waits until it has sent or seen this.
    #[track_caller]
    pub(crate) fn until_seen(&self, text: &str) {
        crate::site::wait_for(text, || self.has_seen(text));
    }

    pub(crate) fn has_seen(&self, text: &str) -> bool {
        fs::read_to_string(self.dir.join("messages")).unwrap_or_default().contains(text)
    }
}

/// What sipp has seen.
pub(crate) struct Played {
    screen: String,
    errors: String,
    log: String,
    messages: String,
    scenario: String,
    pub(crate) took: Duration,
}

impl Played {
    /// What [`Scenario::take`] took under this name, in its order.
    pub(crate) fn taken(&self, name: &str) -> Vec<&str> {
        self.log.lines().filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix('=')).collect()
    }

    /// Messages that came, each with its time (s, from the first message either way).
    pub(crate) fn came(&self) -> Vec<(f64, &str)> {
        let mut first = None;
        let parts = self.messages.split("----------------------------------------------- ").skip(1);
        let mut came = Vec::new();
        for part in parts {
            let mut lines = part.splitn(3, '\n');
            let (time, what, text) = (lines.next().unwrap(), lines.next().unwrap(), lines.next().unwrap_or_default());
            let time = seconds_of_day(time);
            let first = *first.get_or_insert(time);
            if what.contains("received") {
                came.push((time - first, text.trim_start()));
            }
        }
        came
    }

    /// When each of them came, and its first line.
    pub(crate) fn times(&self) -> Vec<(f64, &str)> {
        self.came().iter().map(|(at, text)| (*at, text.lines().next().unwrap_or_default())).collect()
    }

    /// When the first came that begins like this.
    #[track_caller]
    pub(crate) fn at(&self, start: &str) -> f64 {
        let times = self.times();
        let found = times.iter().find(|(_, line)| line.starts_with(start));
        found.unwrap_or_else(|| panic!("no {start:?} among {times:?}")).0
    }

    /// All there is to know of one that failed.
    pub(crate) fn whole(&self) -> String {
        let Self { screen, errors, messages, scenario, .. } = self;
        let messages: String = messages.chars().take(20_000).collect();
        format!("--- scenario:\n{scenario}\n--- messages:\n{messages}\n--- errors:\n{errors}\n--- sipp:\n{screen}")
    }
}

/// Of a line as `2026-11-28 08:10:52.336342`.
fn seconds_of_day(time: &str) -> f64 {
    let clock = time.trim().split([' ', '\t']).nth(1).unwrap_or_default();
    clock.split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap_or_default())
}
