//! A room without hardware: a PulseAudio server of a test's own, whose null sinks are a microphone and a speaker, and the
//! daemon whose line they are.
//!
//! ```text
//!   paplay -> [ sink mic ] -> monitor -> ALSA's "mic" -> daemon == wss ==> agent
//!   parec  <- monitor <- [ sink spk ] <- ALSA's "spk" <-      <==========
//! ```
//!
//! `scripts/setup test` installs what it takes. Where that has not been run nothing is tested here, unless `CI` is set.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part, and is a crate of its own")]

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::site::{Process, SOON, TRUNKLINE, free_ports, http_get};

/// What the parecs here give, and what lines run at (Hz).
pub(crate) const HZ: usize = 16_000;

pub(crate) struct Room {
    /// HOME, and whatever else a test keeps.
    pub(crate) dir: tempfile::TempDir,
    server: Option<Process>,
    /// One room at a time: each has threads that come before everybody else's, and a few cores are soon all taken.
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

impl Room {
    /// With a server. `None`: there can be none here, which is told; in CI it is a failure.
    pub(crate) fn open() -> Option<Self> {
        let mut room = Self::closed()?;
        room.start_server();
        Some(room)
    }

    /// With sinks as they come, which take what they get in pieces as large as whoever uses them can bear, and give a source
    /// that nobody heard only after 2 s.
    pub(crate) fn open_as_it_comes() -> Option<Self> {
        let mut room = Self::closed()?;
        fs::write(room.path("pulse.pa"), SINKS.replace(" norewinds=1", "")).unwrap();
        room.start_server();
        Some(room)
    }

    /// The same as the first, and its server is not up.
    pub(crate) fn closed() -> Option<Self> {
        if !PROGRAMS.iter().all(|program| is_installed(program)) {
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let room = Self { dir: tempfile::tempdir().unwrap(), server: None, _alone: alone };
        for folder in ["run", ".config/pulse"] {
            fs::create_dir_all(room.path(folder)).unwrap();
        }
        fs::write(room.path(".asoundrc"), ASOUNDRC).unwrap();
        fs::write(room.path(".config/pulse/client.conf"), "autospawn = no\nenable-shm = no\n").unwrap();
        fs::write(room.path("pulse.pa"), SINKS).unwrap();
        Some(room)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A program in this room.
    pub(crate) fn command(&self, program: &str) -> Command {
        self.dressed(Command::new(program))
    }

    /// One that whatever else this machine does keeps from nothing, if that may be had: a compiler beside a test is heard
    /// as gaps, and is no fault of the line's.
    fn prompt(&self, program: &str) -> Command {
        if !may_come_first() {
            return self.command(program);
        }
        // Not SCHED_FIFO: what spins there is worse than a compiler.
        let mut command = Command::new("nice");
        command.args(["-n", "-15", program]);
        self.dressed(command)
    }

    fn dressed(&self, mut command: Command) -> Command {
        command.env("HOME", self.dir.path()).env("XDG_RUNTIME_DIR", self.path("run")).env("LC_ALL", "C");
        for foreign in ["PULSE_SERVER", "PULSE_RUNTIME_PATH", "DBUS_SESSION_BUS_ADDRESS", "XDG_CONFIG_HOME", "DISPLAY"]
        {
            command.env_remove(foreign);
        }
        command
    }

    /// Starts the server and waits until it answers.
    pub(crate) fn start_server(&mut self) {
        // What one that was killed has left.
        let _ = fs::remove_dir_all(self.path("run/pulse"));
        // Before whatever else runs, if that may be had: what it does late is heard as ours. Ends with this process.
        let first: &[&str] = if may_come_first() { &["chrt", "-f", "30"] } else { &[] };
        let words = ["setpriv", "--pdeathsig", "KILL"].iter().chain(first).chain(&["pulseaudio"]);
        let words: Vec<_> = words.copied().collect();
        let mut command = self.command(words[0]);
        command.args(&words[1..]).args(["--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", "-n"]);
        // Shared memory: PulseAudio's issue 824, by which streams stand still.
        command.args(["--disable-shm=1", "--resample-method=speex-float-5", "-F"]).arg(self.path("pulse.pa"));
        self.server = Some(Process::start(&mut command));
        let until = Instant::now() + SOON;
        while !self.is_up() {
            assert!(Instant::now() < until, "PulseAudio does not answer: {}", self.server.as_ref().unwrap().said());
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn is_up(&self) -> bool {
        self.command("pactl").arg("info").output().unwrap().status.success()
    }

    /// Ends the server as `kill -9` does.
    pub(crate) fn kill_server(&mut self) {
        self.server.take().expect("it is up").kill();
    }

    #[track_caller]
    pub(crate) fn pactl(&self, args: &[&str]) {
        let output = self.command("pactl").args(args).output().unwrap();
        assert!(output.status.success(), "pactl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Plays a WAV file into a sink.
    pub(crate) fn play(&self, sink: &str, wav: &Path) -> Process {
        Process::start(self.prompt("paplay").args(["--latency-msec=60", "-d", sink]).arg(wav))
    }

    /// Listens to a source.
    pub(crate) fn listen(&self, source: &str) -> Recorder {
        Recorder::start(self.prompt("parec").args(["-d", source]))
    }

    /// `trunkline agent` on wss in `binary` at 16 kHz, and its URL.
    pub(crate) fn agent(&self, behave: &str) -> (Process, String) {
        self.agent_with(["--behave", behave, "--tls", self.dir.path().to_str().unwrap()].as_slice())
    }

    /// One that echoes, on ws.
    pub(crate) fn plain_agent(&self) -> (Process, String) {
        self.agent_with(&["--plain"])
    }

    fn agent_with(&self, args: &[&str]) -> (Process, String) {
        let mut command = self.prompt(TRUNKLINE);
        command.args(["agent", "--listen", "127.0.0.1:0", "--dialect", "binary", "--sample-rate", "16000"]);
        let agent = Process::start(command.args(args));
        let greeting = agent.line(&["listening on ws"]);
        let url = greeting.split(' ').find(|word| word.starts_with("ws")).unwrap();
        (agent, format!("{}/ws", url.replace("127.0.0.1", "localhost").trim_end_matches('/')))
    }

    /// The daemon with a sound line `desk` of these keys, and this agent's URL; ready for calls.
    pub(crate) fn daemon(&self, line: &str, agent: &str) -> Desk {
        self.daemon_with(line, "", agent)
    }

    /// The same, and these keys under its route; tables may follow them.
    pub(crate) fn daemon_with(&self, line: &str, route: &str, agent: &str) -> Desk {
        let desk = self.start_daemon(line, route, agent);
        desk.process.line(&["ready for calls"]);
        desk
    }

    /// The same, whatever becomes of it.
    pub(crate) fn start_daemon(&self, line: &str, route: &str, agent: &str) -> Desk {
        let [http] = free_ports(1)[..] else { unreachable!() };
        let socket = self.path("control.sock");
        let ca = if agent.starts_with("wss:") { format!("ca-file = {:?}", self.path("ca.pem")) } else { String::new() };
        let config = format!(
            "[control]\nhttp = \"127.0.0.1:{http}\"\nsocket = {socket:?}\ndrain-seconds = 0\n\
             [trunk.agent]\nurl = \"{agent}\"\ndialect = \"binary\"\nsample-rate = 16000\n\
             {ca}\n[line.desk]\nkind = \"sound\"\nsample-rate = 16000\n{line}\n\
             [[route]]\nline = \"desk\"\ntrunks = [\"agent\"]\n{route}\n"
        );
        let file = self.path("trunkline.toml");
        fs::write(&file, config).unwrap();
        let process = Process::start(self.prompt(TRUNKLINE).args(["run", "--config"]).arg(file));
        Desk { process, http, socket }
    }
}

/// The daemon with a sound line.
pub(crate) struct Desk {
    pub(crate) process: Process,
    http: u16,
    socket: PathBuf,
}

impl Desk {
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = http_get(self.http, "/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    pub(crate) fn health(&self) -> String {
        http_get(self.http, "/health")
    }

    /// Asks it by its control socket: the exit code, and what was said.
    pub(crate) fn ask(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(TRUNKLINE).args(args).arg("--socket").arg(&self.socket).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).trim().to_owned())
    }

    /// The call is bridged, for the first time.
    pub(crate) fn answered(&self) {
        self.process.line(&["trunk answered"]);
    }

    /// How often the journal has this.
    pub(crate) fn times(&self, words: &str) -> usize {
        self.process.count(&[words])
    }
}

/// A parec, and all that it has heard.
pub(crate) struct Recorder {
    child: Child,
    heard: Arc<(Mutex<Heard>, Condvar)>,
}

#[derive(Default)]
pub(crate) struct Heard {
    /// At [`HZ`].
    pub(crate) samples: Vec<i16>,
    /// When so many had come.
    came: Vec<(usize, Instant)>,
}

impl Recorder {
    fn start(command: &mut Command) -> Self {
        command.args(["--rate=16000", "--channels=1", "--format=s16le", "--raw", "--latency-msec=20"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut output = child.stdout.take().unwrap();
        let heard: Arc<(Mutex<Heard>, Condvar)> = Arc::default();
        let to = Arc::clone(&heard);
        thread::spawn(move || {
            let (mut bytes, mut len) = ([0; 4096], 0);
            while let Ok(n @ 1..) = output.read(&mut bytes[len..]) {
                let now = Instant::now();
                len += n;
                let mut heard = to.0.lock().unwrap();
                heard.samples.extend(bytes[..len].chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])));
                let count = heard.samples.len();
                heard.came.push((count, now));
                drop(heard);
                to.1.notify_all();
                bytes[0] = bytes[len - 1];
                len %= 2;
            }
        });
        Self { child, heard }
    }

    /// Waits until `found` finds something in what was heard.
    #[track_caller]
    pub(crate) fn until<T>(&self, what: &str, at_most: Duration, found: impl Fn(&Heard) -> Option<T>) -> T {
        let until = Instant::now() + at_most;
        let mut heard = self.heard.0.lock().unwrap();
        loop {
            if let Some(found) = found(&heard) {
                return found;
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what}: not in {at_most:?}, of {} samples", heard.samples.len());
            heard = self.heard.1.wait_timeout(heard, left).unwrap().0;
        }
    }

    /// How much was heard so far.
    pub(crate) fn len(&self) -> usize {
        self.heard.0.lock().unwrap().samples.len()
    }

    /// Waits for a tone of this frequency behind the first `from` samples; says when it came, and where it is.
    #[track_caller]
    pub(crate) fn tone(&self, hz: f64, from: usize, at_most: Duration) -> (Instant, usize) {
        self.until(&format!("a tone of {hz} Hz"), at_most, |heard| {
            let at = find_tone(heard.samples.get(from..)?, hz)? + from;
            Some((heard.came.iter().find(|(count, _)| *count > at)?.1, at))
        })
    }

    pub(crate) fn samples(&self) -> Vec<i16> {
        self.heard.0.lock().unwrap().samples.clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a tone of this frequency ends its first 40 ms, most of which are its own.
pub(crate) fn find_tone(samples: &[i16], hz: f64) -> Option<usize> {
    let piece = HZ / 25;
    samples.chunks_exact(piece).position(|piece| is_tone(piece, hz)).map(|n| (n + 1) * piece)
}

/// Most of this is a tone of this frequency, and it is heard.
fn is_tone(samples: &[i16], hz: f64) -> bool {
    let (mut cos, mut sin, mut energy) = (0.0, 0.0, 0.0);
    for (n, &sample) in samples.iter().enumerate() {
        let (turn, sample) = (std::f64::consts::TAU * hz * n as f64 / HZ as f64, f64::from(sample));
        cos += sample * turn.cos();
        sin += sample * turn.sin();
        energy += sample * sample;
    }
    let tone = 2.0 * (cos * cos + sin * sin) / samples.len() as f64;
    tone > 0.8 * energy && energy > samples.len() as f64 * 300.0_f64.powi(2)
}

/// Runs this, and once more if it fails: PulseAudio stands still on a machine that is busy, for seconds where its buffers
/// are small, and nothing that is listened to then comes in time. It does not do so twice in a row.
pub(crate) fn once_more(attempt: fn()) {
    if std::panic::catch_unwind(attempt).is_err() {
        println!("once more: if that was the sound server, it was the machine");
        attempt();
    }
}

/// Time goes by.
pub(crate) fn passes(time: Duration) {
    let until = Instant::now() + time;
    thread::sleep(until.saturating_duration_since(Instant::now()));
}

/// Whether programs may run before others here.
fn may_come_first() -> bool {
    Command::new("chrt").args(["-f", "30", "true"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Whether this program is here. In CI it has to be.
fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    if !found {
        let in_ci = std::env::var_os("CI").is_some_and(|ci| !ci.is_empty());
        assert!(!in_ci, "{program} is missing: run scripts/setup test");
        println!("not run: {program} is missing, scripts/setup test installs it");
    }
    found
}

const PROGRAMS: [&str; 6] = ["pulseaudio", "pactl", "paplay", "parec", "setpriv", "espeak-ng"];

/// `norewinds`: a null sink then takes its sound 50 ms at a time until somebody wants smaller pieces; without, whoever
/// listens to a sink that nobody heard gets nothing for up to 2 s. No card does that.
const SINKS: &str = "\
load-module module-native-protocol-unix
load-module module-null-sink sink_name=spk rate=48000 channels=1 norewinds=1
load-module module-null-sink sink_name=mic rate=48000 channels=1 norewinds=1
load-module module-null-sink sink_name=spk2 rate=48000 channels=1 norewinds=1
load-module module-null-sink sink_name=mic2 rate=48000 channels=1 norewinds=1
set-default-sink spk
set-default-source mic.monitor
";

const ASOUNDRC: &str = r#"
pcm.mic { type pulse device "mic.monitor" hint { show on description "The room's microphone" } }
pcm.spk { type pulse device "spk" hint { show on description "The room's speaker" } }
pcm.headset { type pulse device "mic.monitor" hint { show on description "A headset" } }
pcm.loop { type pulse device "spk.monitor" hint { show on description "A microphone at the speaker" } }
pcm.bell {
    type asym
    playback.pcm { type pulse device "spk" }
    hint { show on description "A speaker that hears nothing" }
}
pcm.cinema { type a52 slavepcm "spk" rate 44100 channels 2 hint { show on description "A speaker of one rate" } }
pcm.!default { type pulse }
ctl.!default { type pulse }
"#;
