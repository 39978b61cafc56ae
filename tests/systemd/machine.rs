//! A machine for one test: a minimal Debian under `systemd-nspawn`, with the binary and `systemd/` installed as a package
//! would install them.
//!
//! ```text
//!  setpriv --pdeathsig KILL      ends with the test, however that ends
//!    unshare --pid --mount       its end is everybody's end, and the mounts' end
//!      boot -> systemd-nspawn
//!        systemd                 the leader, whose namespaces are the machine's
//! ```
//!
//! Its network is a loopback of its own, so that ports are always free. Calls are placed and agents played by processes
//! of this side in that network; what an administrator would type runs inside.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::site::{Process, SOON, TRUNKLINE, noise, write_wav};

/// A booted machine with Trunkline installed and not started, or without it.
pub(crate) struct Machine {
    process: Option<Process>,
    /// The first process, as this side counts; `None` until it has booted.
    leader: Option<u32>,
    cgroup: PathBuf,
    _scratch: tempfile::TempDir,
}

impl Machine {
    /// `None`: there is nothing to boot, which is told; in CI it is a failure.
    pub(crate) fn boot(config: &str) -> Option<Self> {
        let machine = Self::boot_with(Path::new(TRUNKLINE))?;
        machine.install(config);
        Some(machine)
    }

    /// The same machine without a trunkline.
    pub(crate) fn boot_without() -> Option<Self> {
        Self::boot_with(Path::new(""))
    }

    fn boot_with(binary: &Path) -> Option<Self> {
        let root = root()?;
        let scratch = tempfile::tempdir().unwrap();
        let number = BOOTED.fetch_add(1, Relaxed);
        let cgroup = cgroups().join(format!("trunkline-test-{}-{number}", std::process::id()));
        let boot = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd/boot");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.arg("sh").args([&boot, &root, binary, scratch.path(), &cgroup]);
        // From here on whatever goes wrong leaves nothing behind.
        let process = Process::start(&mut command);
        let mut machine = Self { process: Some(process), leader: None, cgroup, _scratch: scratch };
        let process = machine.process.as_ref().unwrap();
        process.line(&["Reached target", "multi-user.target"]);
        let nspawn = only_child(process.id());
        machine.leader = Some(only_child(nspawn));
        // A minimal root has none.
        machine.write("/etc/hosts", "127.0.0.1 localhost\n");
        Some(machine)
    }

    /// What a package does.
    fn install(&self, config: &str) {
        let files = Path::new(env!("CARGO_MANIFEST_DIR"));
        let places = [
            ("systemd/trunkline.service", "/usr/lib/systemd/system/trunkline.service"),
            ("systemd/trunkline.sysusers.conf", "/usr/lib/sysusers.d/trunkline.conf"),
            ("systemd/trunkline.tmpfiles.conf", "/usr/lib/tmpfiles.d/trunkline.conf"),
            ("systemd/trunkline.catalog", "/usr/lib/systemd/catalog/trunkline.catalog"),
            ("packaging/renew-credentials", "/usr/lib/trunkline/renew-credentials"),
        ];
        fs::create_dir_all(self.path("/usr/lib/trunkline")).unwrap();
        for (file, place) in places {
            fs::copy(files.join(file), self.path(place)).unwrap();
        }
        self.run(["systemd-sysusers", "trunkline.conf"]);
        self.run(["systemd-tmpfiles", "--create", "trunkline.conf"]);
        self.run(["journalctl", "--update-catalog"]);
        self.run(["systemctl", "daemon-reload"]);
        self.write("/etc/trunkline/trunkline.toml", config);
    }

    fn leader(&self) -> u32 {
        self.leader.expect("a machine is handed out when it has booted")
    }

    /// A file of the machine, as this side sees it.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.leader()))
    }

    pub(crate) fn write(&self, inside: &str, text: &str) {
        fs::write(self.path(inside), text).unwrap();
    }

    /// The text of a file, empty while it is not there.
    pub(crate) fn read(&self, inside: &str) -> String {
        fs::read_to_string(self.path(inside)).unwrap_or_default()
    }

    /// Runs a command inside. Returns how it ended and what it said.
    pub(crate) fn try_run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> (ExitStatus, String) {
        self.start(args).wait(SOON)
    }

    /// Runs a command that has to succeed.
    #[track_caller]
    pub(crate) fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> String {
        let (status, said) = self.try_run(args);
        assert!(status.success(), "{status}: {said}");
        said
    }

    /// Starts a command inside.
    pub(crate) fn start<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Process {
        let leader = self.leader().to_string();
        let mut command = Command::new("nsenter");
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        Process::start(command.args(["--all", "--target", &leader, "--"]).args(args))
    }

    /// A program of this side in the machine's network.
    pub(crate) fn in_network(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.leader().to_string(), "--", program]);
        command
    }

    /// A property of the service.
    pub(crate) fn property(&self, name: &str) -> String {
        self.run(["systemctl", "show", "--value", "--property", name, "trunkline.service"])
    }

    #[track_caller]
    pub(crate) fn assert_properties(&self, wanted: &[(&str, &str)]) {
        for (name, value) in wanted {
            assert_eq!(self.property(name), *value, "{name}");
        }
    }

    /// What the journal has of the service.
    pub(crate) fn journal(&self) -> Vec<Value> {
        let said = self.run(["journalctl", "--unit", "trunkline.service", "--output", "json"]);
        // Less what it says of itself on stderr.
        let entries = said.lines().filter(|line| line.starts_with('{'));
        entries.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The records that have been written.
    pub(crate) fn records(&self) -> Vec<Value> {
        let text = self.read("/var/lib/trunkline/records.jsonl");
        // The last one may be under way.
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The service's thread of this name, as this side counts. The process's own, `trunkline`, comes first of its like.
    pub(crate) fn thread(&self, name: &str) -> u32 {
        let processes = self.cgroup.join("payload/system.slice/trunkline.service/cgroup.procs");
        let process = fs::read_to_string(processes).unwrap();
        let tasks = fs::read_dir(format!("/proc/{}/task", process.trim())).unwrap();
        let mut tasks: Vec<_> = tasks.map(|task| task.unwrap()).collect();
        tasks.sort_by_key(|task| task.file_name().to_str().unwrap().parse::<u32>().unwrap());
        // One that looked up a name may end meanwhile.
        let comm = |task: &fs::DirEntry| fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let named = |task: &&fs::DirEntry| comm(task).trim() == name;
        let task = tasks.iter().find(named).unwrap_or_else(|| panic!("the service has no thread {name}"));
        task.file_name().to_str().unwrap().parse().unwrap()
    }

    /// The process of a unit that has one, as this side counts.
    pub(crate) fn process(&self, unit: &str) -> u32 {
        let processes = self.cgroup.join("payload/system.slice").join(unit).join("cgroup.procs");
        fs::read_to_string(processes).unwrap().trim().parse().unwrap()
    }

    /// An agent that echoes.
    pub(crate) fn agent(&self) -> Process {
        let listen = ["--listen", "127.0.0.1:8765", "--plain"];
        let agent = Process::start(self.in_network(TRUNKLINE).arg("agent").args(listen));
        agent.line(&["127.0.0.1:8765"]);
        agent
    }

    /// Places a call that lasts so long.
    pub(crate) fn call(&self, lasting: Duration) -> Call {
        self.call_named(lasting, None)
    }

    pub(crate) fn call_named(&self, lasting: Duration, uuid: Option<&str>) -> Call {
        let dir = tempfile::tempdir().unwrap();
        let (play, record) = (dir.path().join("said.wav"), dir.path().join("heard.wav"));
        write_wav(&play, &noise(lasting.as_secs_f64(), 1));
        let mut command = self.in_network(TRUNKLINE);
        command.args(["call", "--json", "--audiosocket", "127.0.0.1:9092"]);
        command.args(["--hangup-after", &lasting.as_millis().to_string()]);
        command.arg("--play").arg(play).arg("--record").arg(record);
        if let Some(uuid) = uuid {
            command.args(["--uuid", uuid]);
        }
        Call { process: Process::start(&mut command), _dir: dir }
    }

    /// A short call in which the caller hears the agent.
    #[track_caller]
    pub(crate) fn serves_a_call(&self) {
        self.call(Duration::from_secs(1)).assert_served();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // A panic in here while a test panics would end all the other tests too, with their machines.
        if let Some(leader) = self.leader {
            if thread::panicking() {
                let mut journal = self.start(["journalctl", "--no-pager", "--unit", "trunkline.service"]);
                journal.try_wait(SOON);
                println!("--- the journal:\n{}", journal.said());
            }
            // Then the rest ends in order, and leaves nothing behind.
            let _ = kill(leader, Signal::KILL);
            if let Some(process) = &mut self.process {
                process.try_wait(SOON);
            }
        }
        // One that has not booted is killed here. What it had started ends with it, but a moment later.
        self.process = None;
        let until = Instant::now() + SOON;
        while !remove_cgroup(&self.cgroup) && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// `trunkline call`, under way.
pub(crate) struct Call {
    process: Process,
    _dir: tempfile::TempDir,
}

impl Call {
    /// Waits for its end. Returns its summary; without one nobody answered.
    pub(crate) fn end(self) -> Option<Value> {
        let (_, said) = self.process.wait(3 * SOON);
        said.lines().find(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap())
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.process.count(&["{"]) > 0
    }

    /// It went on to its end, and its caller heard the agent all the while.
    #[track_caller]
    pub(crate) fn assert_served(self) {
        let summary = self.end().expect("nobody answered");
        assert_eq!((&summary["ok"], &summary["ended_by"]), (&Value::Bool(true), &"caller".into()), "{summary}");
    }

    /// The same, and of all that its caller said every sample came back, once and in order. Silence may be between them
    /// where a busy machine was late.
    #[track_caller]
    pub(crate) fn assert_lost_nothing(self) {
        let summary = self.end().expect("nobody answered");
        let wanted = (&true.into(), &"caller".into(), &0.into(), &true.into());
        let is = (&summary["ok"], &summary["ended_by"], &summary["lost"], &summary["bit_exact"]);
        assert_eq!(is, wanted, "{summary}");
    }
}

/// Looks again and again until it holds.
#[track_caller]
pub(crate) fn wait_until(what: &str, at_most: Duration, holds: impl Fn() -> bool) {
    let until = Instant::now() + at_most;
    while !holds() {
        assert!(Instant::now() < until, "not within {at_most:?}: {what}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Sends a signal to a process, as this side counts.
pub(crate) fn kill(process: u32, signal: Signal) -> rustix::io::Result<()> {
    kill_process(Pid::from_raw(process as i32).ok_or(rustix::io::Errno::SRCH)?, signal)
}

/// What `scripts/setup-systemd` has made, where it can be booted.
fn root() -> Option<PathBuf> {
    let mut dirs = Path::new(TRUNKLINE).ancestors().map(|dir| dir.join("systemd/root"));
    let lacking = match dirs.find(|root| root.join("installed").exists()) {
        Some(root) => match lacking(&root) {
            None => return Some(root),
            Some(lacking) => lacking,
        },
        None => "scripts/setup-systemd has not made it".to_owned(),
    };
    let told = format!("there is no machine to boot: {lacking}; run scripts/setup-systemd, and the tests, as root");
    let in_ci = std::env::var_os("CI").is_some_and(|ci| !ci.is_empty());
    assert!(!in_ci, "{told}");
    println!("not run: {told}");
    None
}

/// What this machine lacks for booting another.
fn lacking(root: &Path) -> Option<String> {
    let probe = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd/probe");
    let (status, said) = Process::start(Command::new("sh").args([&probe, root])).wait(SOON);
    (!status.success()).then_some(said)
}

fn only_child(process: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap();
    children.trim().parse().unwrap_or_else(|_| panic!("{process} has the children {children:?}"))
}

/// The second version of control groups, alone or beside the first.
fn cgroups() -> PathBuf {
    let both = Path::new("/sys/fs/cgroup/unified");
    if both.exists() { both.to_owned() } else { PathBuf::from("/sys/fs/cgroup") }
}

/// Whether nothing of it is left. It cannot go before its processes have.
fn remove_cgroup(cgroup: &Path) -> bool {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
    !cgroup.exists()
}

static BOOTED: AtomicU32 = AtomicU32::new(0);
