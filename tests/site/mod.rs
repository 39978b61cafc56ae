//! A site for tests: the binary and its peers as processes, a phone, and what they said.
//!
//! Everything listens on loopback at a port that was free a moment ago, every wait has an end, and every process is
//! killed by its id when its handle is dropped.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part, and is a crate of its own")]

use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

/// The binary under test.
pub const TRUNKLINE: &str = env!("CARGO_BIN_EXE_trunkline");

/// The longest that anything but playing audio may take.
pub const SOON: Duration = Duration::from_secs(20);

/// Samples of one frame at 8 kHz.
pub const FRAME: usize = 160;

/// Frames of silence that a phone sends first: ten are only looked at, for their format.
pub const LEAD_IN: usize = 15;

/// CLOCK_MONOTONIC, which Python and Node tell too (ns).
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// So many seconds of noise at 8 kHz without a single zero: what is zero in a recording was inserted.
pub fn noise(seconds: f64, seed: u32) -> Vec<i16> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        ((state >> 16) as i16 / 2) | 1
    };
    (0..(seconds * 8000.0) as usize).map(|_| next()).collect()
}

/// A recording less the silence in it.
pub fn voice(samples: &[i16]) -> Vec<i16> {
    samples.iter().copied().filter(|&sample| sample != 0).collect()
}

pub fn write_raw(path: &Path, samples: &[i16]) {
    fs::write(path, samples.iter().flat_map(|sample| sample.to_le_bytes()).collect::<Vec<_>>()).unwrap();
}

pub fn read_raw(path: &Path) -> Vec<i16> {
    pcm(&fs::read(path).unwrap())
}

pub fn write_wav(path: &Path, samples: &[i16]) {
    write_wav_at(path, 8000, samples);
}

pub fn write_wav_at(path: &Path, sample_rate: u32, samples: &[i16]) {
    let sample_format = hound::SampleFormat::Int;
    let spec = hound::WavSpec { channels: 1, sample_rate, bits_per_sample: 16, sample_format };
    let mut wav = hound::WavWriter::create(path, spec).unwrap();
    samples.iter().for_each(|&sample| wav.write_sample(sample).unwrap());
    wav.finalize().unwrap();
}

pub fn read_wav(path: &Path) -> Vec<i16> {
    hound::WavReader::open(path).unwrap().samples().map(Result::unwrap).collect()
}

fn pcm(bytes: &[u8]) -> Vec<i16> {
    bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// The value of `key=value` in a line; up to the next blank.
pub fn field<'l>(line: &'l str, key: &str) -> &'l str {
    let found = line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {key}= in {line:?}"))
}

pub fn number(line: &str, key: &str) -> u64 {
    field(line, key).parse().unwrap_or_else(|_| panic!("{key} is no number in {line:?}"))
}

/// A value of a flat JSON object, as it is spelled.
pub fn json_field<'l>(line: &'l str, key: &str) -> &'l str {
    let start = line.find(&format!("\"{key}\":")).unwrap_or_else(|| panic!("no {key} in {line:?}")) + key.len() + 3;
    line[start..].split([',', '}']).next().unwrap().trim_matches('"')
}

/// A child process and every line that it has said, on whichever output.
pub struct Process {
    name: String,
    child: Child,
    lines: Arc<(Mutex<Vec<String>>, Condvar)>,
    readers: Vec<thread::JoinHandle<()>>,
}

impl Process {
    pub fn start(command: &mut Command) -> Self {
        let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let args: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        let name = format!("{name} {}", args.join(" "));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let lines: Arc<(Mutex<Vec<String>>, Condvar)> = Arc::default();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        let readers = outputs.map(|output| {
            let lines = Arc::clone(&lines);
            thread::spawn(move || {
                let mut output = BufReader::new(output);
                let mut line = Vec::new();
                while output.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                    // A wait that gave up has poisoned it; what is said after that is told all the same.
                    let mut said = lines.0.lock().unwrap_or_else(PoisonError::into_inner);
                    said.push(String::from_utf8_lossy(&line).trim_end().to_owned());
                    drop(said);
                    lines.1.notify_all();
                    line.clear();
                }
                lines.1.notify_all();
            })
        });
        Self { name, child, lines, readers: readers.into() }
    }

    /// Waits for a line that has all of these words, after so many others that have them too.
    pub fn nth_line(&self, n: usize, words: &[&str]) -> String {
        let until = Instant::now() + SOON;
        let mut lines = self.lines.0.lock().unwrap();
        loop {
            let mut fitting = lines.iter().filter(|line| words.iter().all(|word| line.contains(word)));
            if let Some(line) = fitting.nth(n) {
                return line.clone();
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} did not say {words:?} ({n} before it) but:\n{}", self.name, lines.join("\n"));
            lines = self.lines.1.wait_timeout(lines, left).unwrap().0;
        }
    }

    pub fn line(&self, words: &[&str]) -> String {
        self.nth_line(0, words)
    }

    /// Waits for a line that has one of these.
    pub fn any_line(&self, any: &[&str]) -> String {
        let until = Instant::now() + SOON;
        let mut lines = self.lines.0.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().find(|line| any.iter().any(|words| line.contains(words))) {
                return line.clone();
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} did not say any of {any:?} but:\n{}", self.name, lines.join("\n"));
            lines = self.lines.1.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// How many lines so far have all of these words.
    pub fn count(&self, words: &[&str]) -> usize {
        let lines = self.lines.0.lock().unwrap();
        lines.iter().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }

    /// Types this to it.
    pub fn types(&self, keys: &str) {
        let mut input = self.child.stdin.as_ref().expect("it has an input");
        input.write_all(keys.as_bytes()).unwrap();
        input.flush().unwrap();
    }

    /// All that was said so far.
    pub fn said(&self) -> String {
        self.lines.0.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn terminate(&self) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end, and for all that it said.
    #[track_caller]
    pub fn wait(mut self, at_most: Duration) -> (ExitStatus, String) {
        let status = self.try_wait(at_most);
        let status = status.unwrap_or_else(|| panic!("{} does not end; it said:\n{}", self.name, self.said()));
        (status, self.said())
    }

    /// Waits for its end. `None`: it has not ended by then, which is no panic, so that a `Drop` can wait.
    pub fn try_wait(&mut self, at_most: Duration) -> Option<ExitStatus> {
        let (sender, ended) = mpsc::channel();
        let readers = std::mem::take(&mut self.readers);
        // Its outputs close when it ends.
        thread::spawn(move || {
            readers.into_iter().for_each(|reader| reader.join().unwrap());
            let _ = sender.send(());
        });
        ended.recv_timeout(at_most).ok()?;
        self.child.wait().ok()
    }

    /// Resident memory now (kB).
    pub fn rss_kb(&self) -> u64 {
        self.memory_kb("VmRSS:")
    }

    /// The part of it that was asked for, without the program itself, of which more is read in wherever it gets to (kB).
    pub fn anonymous_kb(&self) -> u64 {
        self.memory_kb("RssAnon:")
    }

    fn memory_kb(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            println!("--- {}:\n{}", self.name, self.said());
        }
    }
}

/// Waits until it is so.
#[track_caller]
pub fn wait_for(what: &str, is_so: impl FnMut() -> bool) {
    wait_within(SOON, what, is_so);
}

/// The same for what takes longer, by its nature.
pub fn wait_within(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < until, "{what}: not in {limit:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Ports that nobody has now.
pub fn free_ports(n: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..n).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

/// A line with a trunk of its own.
pub struct Route<'r> {
    /// The name of both.
    pub name: &'r str,
    pub url: String,
    pub dialect: &'r str,
    pub ca: Option<&'r Path>,
}

/// The file of a [`Daemon`]'s config.
const CONFIG: &str = "trunkline.toml";

/// `trunkline run`, ready for calls.
pub struct Daemon {
    pub process: Process,
    ports: Vec<(String, u16)>,
    http: u16,
    dir: tempfile::TempDir,
}

impl Daemon {
    pub fn start(routes: &[Route<'_>]) -> Self {
        Self::start_with(routes, "max-calls = 8", "", "")
    }

    /// With these keys under `[media]`, `[control]` and each trunk; tables may follow the last ones.
    pub fn start_with(routes: &[Route<'_>], media: &str, control: &str, trunk: &str) -> Self {
        // Between our asking and its binding somebody else may take a port.
        for _ in 0..5 {
            if let Some(daemon) = Self::try_start(routes, media, control, trunk) {
                return daemon;
            }
        }
        panic!("no free ports");
    }

    fn try_start(routes: &[Route<'_>], media: &str, control: &str, trunk: &str) -> Option<Self> {
        let names: Vec<_> = routes.iter().map(|route| route.name).collect();
        Self::try_start_of(&names, media, control, |ports| {
            let mut config = String::new();
            for (Route { name, url, dialect, ca }, port) in routes.iter().zip(ports) {
                let ca = ca.map(|ca| format!("ca-file = {:?}", ca.join("ca.pem"))).unwrap_or_default();
                write!(
                    config,
                    "[line.{name}]\nkind = \"audiosocket\"\nlisten = \"127.0.0.1:{port}\"\n\
                     [trunk.{name}]\nurl = \"{url}\"\ndialect = \"{dialect}\"\n{ca}\n{trunk}\n\
                     [[route]]\nline = \"{name}\"\ntrunks = [\"{name}\"]\n"
                )
                .unwrap();
            }
            config
        })
    }

    /// With lines of these names, and the rest of the config as it is made of the port of each.
    pub fn start_of(lines: &[&str], media: &str, control: &str, config: impl Fn(&[u16]) -> String) -> Self {
        (0..5).find_map(|_| Self::try_start_of(lines, media, control, &config)).expect("free ports")
    }

    fn try_start_of(lines: &[&str], media: &str, control: &str, more: impl Fn(&[u16]) -> String) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut ports = free_ports(lines.len() + 1);
        let http = ports.pop().unwrap();
        let grace = if control.contains("drain-seconds") { "" } else { "drain-seconds = 0" };
        let mut config = format!("[media]\n{media}\n[control]\nhttp = \"127.0.0.1:{http}\"\n{grace}\n{control}\n");
        config.push_str(&more(&ports));
        let file = dir.path().join(CONFIG);
        fs::write(&file, config).unwrap();
        let process = Process::start(Command::new(TRUNKLINE).arg("run").arg("--config").arg(&file));
        let until = Instant::now() + SOON;
        let mut said = process.lines.0.lock().unwrap();
        loop {
            if said.iter().any(|line| line.contains("ready for calls")) {
                break;
            }
            if said.iter().any(|line| line.contains("in use")) {
                return None;
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the daemon is not ready:\n{}", said.join("\n"));
            said = process.lines.1.wait_timeout(said, left).unwrap().0;
        }
        drop(said);
        let names = lines.iter().map(|&name| name.to_owned());
        Some(Self { process, ports: names.zip(ports).collect(), http, dir })
    }

    /// Where this line listens.
    pub fn port(&self, line: &str) -> u16 {
        self.ports.iter().find(|(name, _)| name == line).unwrap().1
    }

    /// Changes its config file, and waits until the daemon has said what comes of it; gives that line.
    pub fn reload(&self, change: impl FnOnce(&str) -> String) -> String {
        let file = self.dir.path().join(CONFIG);
        let text = change(&fs::read_to_string(&file).unwrap());
        fs::write(&file, text).unwrap();
        let words = ["the config ", " read again"];
        let before = self.process.count(&words);
        let id = rustix::process::Pid::from_child(&self.process.child);
        rustix::process::kill_process(id, rustix::process::Signal::HUP).unwrap();
        self.process.nth_line(before, &words)
    }

    /// The closing line of this line's first call.
    pub fn ended(&self, line: &str) -> String {
        self.process.line(&["call ended", &format!("line={line} ")])
    }

    /// The port of `/metrics` and `/health`.
    pub fn http(&self) -> u16 {
        self.http
    }

    /// A counter or gauge, with its labels if it has any.
    pub fn metric(&self, name: &str) -> u64 {
        let text = http_get(self.http, "/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }
}

/// The whole answer to a GET of the control port.
pub fn http_get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// One AudioSocket message.
pub fn message(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![kind];
    message.extend((payload.len() as u16).to_be_bytes());
    message.extend(payload);
    message
}

/// A frame of PCM16 under this kind.
pub fn audio(kind: u8, samples: &[i16]) -> Vec<u8> {
    message(kind, &samples.iter().flat_map(|sample| sample.to_le_bytes()).collect::<Vec<_>>())
}

/// What a phone sends first.
pub fn hello() -> Vec<u8> {
    message(0x01, &[7; 16])
}

/// How the other side ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With a hangup message.
    Hangup,
    /// With the connection alone.
    Closed,
    Broken,
}

/// What a phone heard.
#[derive(Default)]
pub struct Heard {
    /// Each frame and when it came (ns).
    pub frames: Vec<(u64, Vec<i16>)>,
    pub end: Option<End>,
}

impl Heard {
    pub fn samples(&self) -> Vec<i16> {
        self.frames.iter().flat_map(|(_, samples)| samples).copied().collect()
    }

    pub fn voice(&self) -> Vec<i16> {
        voice(&self.samples())
    }
}

/// A PBX with one caller: it sends a frame every 20 ms, speech or silence, for as long as the call lives.
pub struct Phone {
    stream: TcpStream,
    heard: Arc<(Mutex<Heard>, Condvar)>,
    stop: mpsc::Sender<()>,
    threads: Vec<thread::JoinHandle<()>>,
    /// The most that a frame was sent after it was due (ns).
    late: Arc<Mutex<u64>>,
}

impl Phone {
    /// Calls this port and says this, after a moment of silence.
    pub fn dial(port: u16, speech: &[i16]) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        let heard: Arc<(Mutex<Heard>, Condvar)> = Arc::default();
        let (stop, stopped) = mpsc::channel();
        let late = Arc::new(Mutex::new(0));
        let speaker = {
            let (stream, speech, late) = (stream.try_clone().unwrap(), speech.to_vec(), Arc::clone(&late));
            thread::spawn(move || speak(stream, &speech, &stopped, &late))
        };
        let listener = {
            let (stream, heard) = (stream.try_clone().unwrap(), Arc::clone(&heard));
            thread::spawn(move || listen(stream, &heard))
        };
        Self { stream, heard, stop, threads: vec![speaker, listener], late }
    }

    /// Waits until what was heard so far is enough.
    pub fn until(&self, at_most: Duration, is_enough: impl Fn(&Heard) -> bool) {
        let until = Instant::now() + at_most;
        let mut heard = self.heard.0.lock().unwrap();
        while !is_enough(&heard) {
            let left = until.saturating_duration_since(Instant::now());
            let (frames, voiced) = (heard.frames.len(), heard.voice().len());
            assert!(!left.is_zero(), "{frames} frames, {voiced} samples of voice: {:?}", heard.end);
            heard = self.heard.1.wait_timeout(heard, left).unwrap().0;
        }
    }

    /// Waits until so many samples that are not silence were heard; or most of them and then nothing for a second, as
    /// happens where delay was given back.
    pub fn until_voice(&self, samples: usize) {
        let at_most = SOON + Duration::from_millis(samples as u64 / 8);
        // Frames looked at, samples of voice in them, silent frames at their end.
        let seen = Mutex::new((0, 0, 0));
        self.until(at_most, |heard| {
            let (frames, voiced, silent) = &mut *seen.lock().unwrap();
            for (_, frame) in &heard.frames[*frames..] {
                let count = voice(frame).len();
                *silent = if count == 0 { *silent + 1 } else { 0 };
                *voiced += count;
            }
            *frames = heard.frames.len();
            *voiced >= samples || (*voiced > samples / 2 && *silent >= 50)
        });
    }

    pub fn press(&self, digits: &str) {
        for digit in digits.bytes() {
            (&self.stream).write_all(&message(0x03, &[digit])).unwrap();
        }
    }

    /// The caller hangs up.
    pub fn hang_up(self) -> Heard {
        let _ = self.stop.send(());
        self.wait()
    }

    /// Waits for the other side's end.
    pub fn wait(self) -> Heard {
        self.until(SOON, |heard| heard.end.is_some());
        drop(self.stop);
        let _ = self.stream.shutdown(Shutdown::Both);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        std::mem::take(&mut self.heard.0.lock().unwrap())
    }

    /// How late this machine was: what a time measured here may be wrong by (ns).
    pub fn late_ns(&self) -> u64 {
        *self.late.lock().unwrap()
    }
}

fn speak(mut stream: TcpStream, speech: &[i16], stopped: &mpsc::Receiver<()>, late: &Mutex<u64>) {
    let mut frames = speech.chunks(FRAME);
    let mut due = Instant::now();
    if stream.write_all(&hello()).is_err() {
        return;
    }
    for n in 0.. {
        due += Duration::from_millis(20);
        match stopped.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Ok(()) => {
                let _ = stream.write_all(&message(0x00, &[]));
                let _ = stream.shutdown(Shutdown::Write);
                return;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        {
            let mut late = late.lock().unwrap();
            *late = (*late).max(due.elapsed().as_nanos() as u64);
        }
        let mut frame = [0; FRAME];
        if n >= LEAD_IN
            && let Some(samples) = frames.next()
        {
            frame[..samples.len()].copy_from_slice(samples);
        }
        if stream.write_all(&audio(0x10, &frame)).is_err() {
            return;
        }
    }
}

fn listen(stream: TcpStream, heard: &(Mutex<Heard>, Condvar)) {
    let mut stream = BufReader::new(stream);
    let end = loop {
        let mut head = [0; 3];
        match stream.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break End::Closed,
            Err(_) => break End::Broken,
        }
        let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
        if stream.read_exact(&mut payload).is_err() {
            break End::Broken;
        }
        match head[0] {
            0x00 => break End::Hangup,
            0x10..=0x18 => heard.0.lock().unwrap().frames.push((monotonic_ns(), pcm(&payload))),
            kind => panic!("a PBX does not know kind {kind:#04x}"),
        }
        heard.1.notify_all();
    };
    heard.0.lock().unwrap().end = Some(end);
    heard.1.notify_all();
}

/// What was heard is what was said: every sample once, in order. Where this machine stood still so long that the daemon
/// gave delay back, as many samples are missing as it says.
#[track_caller]
pub fn assert_same(ended: &str, heard: &[i16], said: &[i16]) {
    let repaid = number(ended, "repaid") as usize;
    if repaid == 0 {
        let wrong = heard.iter().zip(said).position(|(heard, said)| heard != said);
        assert_eq!(wrong, None, "of {} samples heard and {} said: {ended}", heard.len(), said.len());
    } else {
        println!("this machine was busy: {repaid} samples were given back, what was heard is only counted");
    }
    // Where delay was given back two places are cross-faded, and a few of those samples come out as zero: silence.
    let faded = if repaid == 0 { 0 } else { said.len() / 200 };
    assert!(
        heard.len() <= said.len() && heard.len() + repaid + faded >= said.len(),
        "{} heard, {} said: {ended}",
        heard.len(),
        said.len()
    );
}

/// Where `scripts/setup-peers` has put the peers that are not ours. `None`: it has not run, and the test does not run
/// either, which is told; in CI it is a failure.
pub fn peers() -> Option<PathBuf> {
    let found = Path::new(TRUNKLINE).ancestors().map(|dir| dir.join("peers")).find(|dir| {
        let parts = ["venv/installed", "node/installed", "ca/server.pem"];
        parts.iter().all(|part| dir.join(part).exists())
    });
    if found.is_none() {
        let in_ci = std::env::var_os("CI").is_some_and(|ci| !ci.is_empty());
        assert!(!in_ci, "the peers are missing: run scripts/setup-peers");
        println!("not run: the peers are missing, scripts/setup-peers installs them");
    }
    found
}
