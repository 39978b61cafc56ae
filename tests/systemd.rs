//! The service from `systemd/` under a real systemd, on a machine that is booted for each test.
//!
//! `scripts/setup-systemd` makes what is booted. Where it has not run nothing is tested here, unless `CI` is set.

#![allow(clippy::unwrap_used)]

#[path = "systemd/machine.rs"]
mod machine;
mod site;

use std::{
    fs,
    io::ErrorKind,
    os::unix::net::UnixDatagram,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use machine::{Machine, kill, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use site::{Process, SOON, monotonic_ns};
use trunkline::control::messages;

const CONFIG: &str = r#"
[control]
drain-seconds = 10

[line.pbx]
kind = "audiosocket"

[trunk.agent]
# A name, because looking it up has to work in there.
url = "ws://localhost:8765/"
dialect = "ozonetel"

[[route]]
line = "pbx"
trunks = ["agent"]
"#;

/// The service on a machine, and an agent for it.
struct Service {
    machine: Machine,
    agent: Process,
}

impl Service {
    fn start(config: &str) -> Option<Self> {
        Self::start_on(Machine::boot(config)?)
    }

    fn start_on(machine: Machine) -> Option<Self> {
        // It comes back when the service is ready.
        machine.run(["systemctl", "enable", "--now", "--quiet", "trunkline.service"]);
        let agent = machine.agent();
        Some(Self { machine, agent })
    }

    /// Places a call and gives what the journal has of it, from its beginning to its end.
    fn told_call(&self) -> Vec<Value> {
        self.machine.serves_a_call();
        let ended = || self.machine.journal().into_iter().find(|line| line.get("END_REASON").is_some());
        wait_until("the journal tells the call's end", SOON, || ended().is_some());
        let call_id = ended().unwrap()["CALL_ID"].clone();
        assert_eq!(call_id.as_str().unwrap().len(), 12);
        self.machine.journal().into_iter().filter(|line| line.get("CALL_ID") == Some(&call_id)).collect()
    }

    /// Holds a thread of the service in these system calls. It stays held for as long as this lives, at most a minute.
    fn hang(&self, thread: &str, calls: &str) -> Process {
        let task = self.machine.thread(thread).to_string();
        let inject = format!("inject={calls}:delay_enter=60s");
        // From outside: SIGSTOP would stop the whole process.
        let tracer = Process::start(
            Command::new("strace")
                .args(["-p", &task, "-o", "/dev/null", "-e"])
                .arg(format!("trace={calls}"))
                .args(["-e", &inject]),
        );
        tracer.line(&["attached"]);
        tracer
    }

    /// The watchdog is fed, by systemd's own clock, two of its periods after this moment (CLOCK_MONOTONIC, ns).
    fn is_fed_long_after(&self, moment: u64) {
        let periods = 2 * WATCHDOG;
        let wanted = u128::from(moment / 1000) + periods.as_micros();
        wait_until("the watchdog is fed for two periods", periods + SOON, || {
            // Where it is restarted there is nothing to wait for.
            self.machine.assert_properties(&[("NRestarts", "0"), ("ActiveState", "active")]);
            self.machine.property("WatchdogTimestampMonotonic").parse::<u128>().unwrap() >= wanted
        });
    }

    /// A thread that calls need is held: the watchdog ends the service, and the next call is served in time.
    fn is_restarted_when_hung(&self, thread: &str) {
        self.machine.serves_a_call();
        let tracer = self.hang(thread, WAITS);
        let hung = Instant::now();
        wait_until("the watchdog ends the service", 2 * WATCHDOG, || self.machine.property("SubState") != "running");
        // A traced thread does not die before its tracer has looked, and this one looks away.
        drop(tracer);
        wait_until("it is started again", SOON, || self.machine.property("NRestarts") == "1");
        wait_until("it is ready", SOON, || self.machine.property("ActiveState") == "active");
        self.machine.serves_a_call();
        let taken = hung.elapsed();
        assert!(taken <= Duration::from_secs(15), "the next call was over after {taken:?}");
        assert!(self.machine.run(["journalctl", "--unit", "trunkline.service"]).contains("Watchdog timeout"));
    }
}

/// `drain-seconds`: long enough for a busy machine to see what happens meanwhile.
const GRACE: Duration = Duration::from_secs(10);

/// `WatchdogSec=` of the unit.
const WATCHDOG: Duration = Duration::from_secs(8);

/// Where an event loop waits; ARM has only the second.
const WAITS: &str = "?epoll_wait,epoll_pwait";

/// What the journal has of the call, beside the peers' addresses.
const FIELDS: [(&str, &str); 4] =
    [("LINE", "pbx"), ("TRUNK", "agent"), ("DIALECT", "ozonetel"), ("END_REASON", "line-hung-up")];

#[test]
fn the_service_says_when_it_is_ready_and_explains_its_calls() {
    let Some(service) = Service::start(CONFIG) else { return };
    let machine = &service.machine;
    machine.assert_properties(&[("Type", "notify"), ("ActiveState", "active"), ("NRestarts", "0")]);
    assert_ne!(machine.property("StatusText"), "");
    // Tenths.
    machine.run(["systemd-analyze", "security", "--threshold=12", "trunkline.service"]);

    let told = service.told_call();
    for (field, value) in FIELDS {
        assert!(told.iter().any(|line| line.get(field) == Some(&value.into())), "no {field} in {told:?}");
    }
    assert!(told.iter().any(|line| line["PEER"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1"))));
    // Its own, not one of systemd's about the unit.
    assert!(told.iter().all(|line| line["_COMM"] == "trunkline" && line["MESSAGE_ID"].as_str().unwrap().len() == 32));
    let explained = machine.run(["journalctl", "--catalog", "--unit", "trunkline.service", "_COMM=trunkline"]);
    assert!(explained.contains("Subject: "), "{explained}");

    wait_until("the record is written", SOON, || machine.records().len() == 1);
    let record = &machine.records()[0];
    assert_eq!((&record["call_id"], &record["end_reason"]), (&told[0]["CALL_ID"], &"line-hung-up".into()));
}

#[test]
fn stopping_the_service_lets_live_calls_have_their_grace() {
    let Some(service) = Service::start(CONFIG) else { return };
    let machine = &service.machine;
    let live = [1, 2].map(|_| machine.call(Duration::from_secs(60)));
    service.agent.nth_line(1, &["call began"]);

    let asked = Instant::now();
    let stop = machine.start(["systemctl", "stop", "trunkline.service"]);
    wait_until("a new call is turned away", GRACE, || {
        let new = machine.call(Duration::from_millis(200)).end();
        new.is_some_and(|call| call["ended_by"] == "server" && call["messages"] == 0)
    });
    assert!(!live.iter().any(machine::Call::has_ended), "live calls were ended with the new one");
    let ends = live.map(|call| call.end().unwrap());
    assert!(asked.elapsed() >= GRACE, "the grace was cut short");
    assert!(ends.iter().all(|call| call["ended_by"] == "server"), "{ends:?}");
    service.agent.nth_line(1, &["call ended", "vendor: said stop"]);

    let (status, said) = stop.wait(SOON);
    assert!(status.success(), "{said}");
    machine.assert_properties(&[
        ("ActiveState", "inactive"),
        ("Result", "success"),
        ("ExecMainStatus", "0"),
        ("NRestarts", "0"),
    ]);
    let reasons: Vec<_> = machine.records().iter().map(|record| record["end_reason"].clone()).collect();
    assert_eq!(reasons.iter().filter(|reason| *reason == "drained").count(), 2, "{reasons:?}");
}

/// What the service may do, tried with all that its unit allows it, a line each: open a sound card, open another device,
/// run in real time.
const PROBE: &str = "exec >/var/lib/trunkline/probe 2>&1
sh -c ': <>/dev/snd/pcmC9D0p'
sh -c ': <>/dev/dsp'
chrt --fifo 20 echo in real time
";

#[test]
fn with_its_drop_in_the_service_has_sound_cards_in_real_time_and_no_other_device() {
    let Some(machine) = Machine::boot(CONFIG) else { return };
    // A card without a driver: whoever may open it is told that it is not there. A kernel without sound has not even its
    // number, which systemd looks up.
    let devices =
        "sed 's/^Character.*/&\\n116 alsa/' /proc/devices >/run/devices && mount --bind /run/devices /proc/devices";
    machine.run(["sh", "-c", devices]);
    machine.run(["mkdir", "/dev/snd"]);
    machine.run(["mknod", "--mode=0660", "/dev/snd/pcmC9D0p", "c", "116", "250"]);
    machine.run(["chgrp", "audio", "/dev/snd/pcmC9D0p"]);
    machine.run(["mknod", "--mode=0666", "/dev/dsp", "c", "14", "3"]);

    machine.write("/opt/probe", PROBE);
    let drop_in = |name: &str, text: &str| {
        machine.run(["mkdir", "-p", "/etc/systemd/system/trunkline.service.d"]);
        machine.write(&format!("/etc/systemd/system/trunkline.service.d/{name}.conf"), text);
    };
    let tried = || {
        machine.run(["systemctl", "daemon-reload"]);
        machine.run(["systemctl", "restart", "trunkline.service"]);
        machine.assert_properties(&[("ActiveState", "active"), ("NRestarts", "0")]);
        let tried = machine.read("/var/lib/trunkline/probe");
        let lines: Vec<_> = tried.lines().map(str::to_owned).collect();
        <[String; 3]>::try_from(lines).unwrap()
    };
    // Where this machine's root has not the right to raise limits, the one booted on it has not either: then a capability
    // stands in for LimitRTPRIO, and what else could be in the way is still tried.
    let probe = "[Service]\nExecStartPre=-sh /opt/probe\n";
    let capable = "PrivateUsers=no\nCapabilityBoundingSet=CAP_SYS_NICE\nAmbientCapabilities=CAP_SYS_NICE\n";
    let raises_limits = machine.try_run(["prlimit", "--rtprio=20:20", "true"]).0.success();

    drop_in("probe", &format!("{probe}{capable}"));
    let [card, other, real_time] = tried();
    assert!(card.contains("nonexistent") && other.contains("Read-only"), "{card}, {other}: they are hidden");
    assert!(real_time.contains("not permitted"), "{real_time}");

    drop_in("sound", &fs::read_to_string("systemd/trunkline-sound.conf").unwrap());
    let [card, other, real_time] = tried();
    assert!(card.contains("No such device") && other.contains("not permitted"), "{card}, {other}");
    assert_eq!(real_time, "in real time");
    machine.assert_properties(&[("LimitRTPRIO", "20")]);

    drop_in("probe", probe);
    let [card, other, real_time] = tried();
    assert!(card.contains("No such device") && other.contains("not permitted"), "{card}, {other}");
    assert!(real_time == "in real time" || !raises_limits, "{real_time}");
    // Tenths.
    machine.run(["systemd-analyze", "security", "--threshold=15", "trunkline.service"]);
}

#[test]
fn a_wrong_config_is_not_tried_again() {
    let Some(machine) = Machine::boot(&CONFIG.replace("dialect", "dialekt")) else { return };
    let (status, _) = machine.try_run(["systemctl", "start", "trunkline.service"]);
    assert!(!status.success());
    // Failed, where one that is to be restarted would be `activating`.
    machine.assert_properties(&[
        ("ActiveState", "failed"),
        ("Result", "exit-code"),
        ("ExecMainStatus", "78"),
        ("NRestarts", "0"),
    ]);
    let journal = machine.run(["journalctl", "--unit", "trunkline.service"]);
    assert!(journal.contains("did you mean `dialect`?"), "{journal}");
}

#[test]
fn a_reload_changes_the_service_around_a_live_call() {
    let Some(service) = Service::start(CONFIG) else { return };
    let machine = &service.machine;
    let process = machine.property("MainPID");
    let live = machine.call(Duration::from_secs(4));
    service.agent.line(&["call began"]);
    // What it came by is gone, and something else is there.
    let other = CONFIG.replace("[line.pbx]\n", "[line.other]\nlisten = \"127.0.0.1:9093\"\n");
    let other = other.replace("line = \"pbx\"", "line = \"other\"");
    machine.write("/etc/trunkline/trunkline.toml", &other);
    machine.run(["systemctl", "reload", "trunkline.service"]);
    let status = machine.run(["trunkline", "status"]);
    assert!(status.contains("127.0.0.1:9093"), "{status}");

    // A file that is wrong fails the reload, in words, and the service goes on.
    machine.write("/etc/trunkline/trunkline.toml", &other.replace("dialect", "dialekt"));
    let (status, _) = machine.try_run(["systemctl", "reload", "trunkline.service"]);
    assert!(!status.success());
    machine.assert_properties(&[("ActiveState", "active"), ("MainPID", &process), ("NRestarts", "0")]);
    let journal = machine.run(["journalctl", "--unit", "trunkline.service"]);
    assert!(journal.contains("trunkline.toml:") && journal.contains("did you mean `dialect`?"), "{journal}");

    machine.write("/etc/trunkline/trunkline.toml", CONFIG);
    machine.run(["systemctl", "reload", "trunkline.service"]);
    live.assert_lost_nothing();
    machine.run(["journalctl", "--sync"]);
    let ended = machine.journal().into_iter().rfind(|entry| entry["MESSAGE_ID"] == messages::CALL_ENDED).unwrap();
    assert_eq!((&ended["LINE"], &ended["DROPPED"]), (&"pbx".into(), &"0".into()), "{ended}");
    machine.serves_a_call();
    machine.assert_properties(&[("ActiveState", "active"), ("MainPID", &process), ("NRestarts", "0")]);
}

#[test]
fn whoever_is_in_the_group_gets_the_status_and_others_hear_how() {
    let Some(service) = Service::start(CONFIG) else { return };
    let machine = &service.machine;
    machine.run(["useradd", "--groups", "trunkline", "engineer"]);
    machine.run(["useradd", "guest"]);
    let status = |user| {
        let to = format!("--reuid={user}");
        let of = format!("--regid={user}");
        machine.try_run(["setpriv", &to, &of, "--init-groups", "trunkline", "status"])
    };
    let (ended, said) = status("engineer");
    assert!(ended.success() && said.contains("pbx") && said.contains("agent"), "{said}");
    let (ended, said) = status("guest");
    assert!(!ended.success() && said.contains("group trunkline"), "{said}");
    // Nor its records, nor its secrets.
    for file in ["/var/lib/trunkline", "/etc/trunkline/secrets"] {
        let (ended, _) = machine.try_run(["setpriv", "--reuid=guest", "--regid=guest", "--clear-groups", "ls", file]);
        assert!(!ended.success(), "{file}");
    }
}

#[test]
fn a_hung_media_thread_ends_in_a_restart() {
    let Some(service) = Service::start(CONFIG) else { return };
    service.is_restarted_when_hung("media-0");
}

#[test]
fn a_hung_control_thread_ends_in_a_restart() {
    let Some(service) = Service::start(CONFIG) else { return };
    service.is_restarted_when_hung("trunkline");
}

#[test]
fn a_hung_disk_ends_in_nothing() {
    let Some(service) = Service::start(CONFIG) else { return };
    let machine = &service.machine;
    machine.serves_a_call();
    wait_until("the record is written", SOON, || machine.records().len() == 1);
    let long = machine.call(Duration::from_secs(20));
    service.agent.nth_line(1, &["call began"]);

    let tracer = service.hang("disk", "write,fsync,fdatasync");
    let hung = monotonic_ns();
    machine.serves_a_call();
    service.is_fed_long_after(hung);
    machine.serves_a_call();
    assert_eq!(machine.records().len(), 1, "the disk thread was not held");
    long.assert_served();

    drop(tracer);
    wait_until("the records are written", SOON, || machine.records().len() == 4);
    machine.assert_properties(&[("NRestarts", "0")]);
}

#[test]
fn a_stopped_journal_ends_in_nothing() {
    let Some(service) = Service::start(CONFIG) else { return };
    let machine = &service.machine;
    machine.serves_a_call();
    let long = machine.call(Duration::from_secs(20));
    service.agent.nth_line(1, &["call began"]);

    let journald = machine.process("systemd-journald.service");
    kill(journald, Signal::STOP).unwrap();
    let state = || fs::read_to_string(format!("/proc/{journald}/stat")).unwrap();
    wait_until("the journal stands still", SOON, || state().contains(") T "));
    fill(&machine.path("/run/systemd/journal/socket"));
    let stopped = monotonic_ns();
    machine.serves_a_call();
    service.is_fed_long_after(stopped);
    machine.serves_a_call();
    long.assert_served();
    wait_until("the records are written", SOON, || machine.records().len() == 4);

    kill(journald, Signal::CONT).unwrap();
    let told = || machine.journal().iter().filter(|line| line.get("END_REASON").is_some()).count();
    wait_until("the journal tells of the calls", SOON, || told() == 4);
    machine.assert_properties(&[("NRestarts", "0")]);
}

/// Sends to the journal's socket until it takes no more, and whoever writes has to wait.
fn fill(socket: &Path) {
    let mut sent = 1;
    // A sender has a limit of its own: the queue is full when a new one cannot send even once.
    while sent > 0 {
        let sender = UnixDatagram::unbound().unwrap();
        sender.connect(socket).unwrap();
        sender.set_nonblocking(true).unwrap();
        sent = 0;
        let error = loop {
            match sender.send(b"MESSAGE=more\n") {
                Ok(_) => sent += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
    }
}

#[test]
fn no_secret_and_no_number_is_told_anywhere() {
    const TOKEN: &str = "tok-5fJ2hQ9vXc71";
    const CALLER: &str = "493055512345";
    const CALLED: &str = "498955567890";
    const UUID: &str = "40325ec2-5efd-4bd3-805f-53576e581d13";
    let config = CONFIG
        .replace("[control]", "[control]\ncall-info = true")
        .replace("ozonetel\"", "exotel\"\nbearer = { credential = \"agent-token\" }");
    let Some(machine) = Machine::boot(&config) else { return };
    machine.write("/etc/trunkline/secrets/agent-token", TOKEN);
    let Some(service) = Service::start_on(machine) else { return };
    let machine = &service.machine;

    let body = format!(r#"{{"from": "+{CALLER}", "to": "+{CALLED}"}}"#);
    let http = "http://127.0.0.1:9464";
    let mut post = machine.in_network("curl");
    post.args(["--silent", "--show-error", "--fail", "--header", "Content-Type: application/json", "--data", &body]);
    let (status, said) = Process::start(post.arg(format!("{http}/calls/{UUID}"))).wait(SOON);
    assert!(status.success(), "{said}");
    let call = machine.call_named(Duration::from_secs(3), Some(UUID));
    service.agent.line(&["call began"]);

    let curl = |path: &str| {
        let mut get = machine.in_network("curl");
        let (status, said) = Process::start(get.args(["--silent", "--fail"]).arg(format!("{http}{path}"))).wait(SOON);
        assert!(status.success(), "{path}: {said}");
        said
    };
    let process = format!("/proc/{}", machine.property("MainPID"));
    let live = [
        ("the live call's file", machine.run(["sh", "-c", "cat /var/lib/trunkline/open/*"])),
        ("status", machine.run(["trunkline", "status", "--json"])),
        ("calls", machine.run(["trunkline", "calls", "--json"])),
        ("metrics", curl("/metrics")),
        ("health", curl("/health")),
        ("the command line", machine.read(&format!("{process}/cmdline"))),
        ("the environment", machine.read(&format!("{process}/environ"))),
        ("systemd's view", machine.run(["systemctl", "show", "trunkline.service"])),
    ];
    call.assert_served();
    wait_until("the record is written", SOON, || machine.records().len() == 1);
    let record = machine.read("/var/lib/trunkline/records.jsonl");
    // The numbers were known, so leaving them out is something.
    assert!(record.contains("45\"") && record.contains("90\""), "{record}");
    machine.run(["journalctl", "--sync"]);
    let after = [("the record", record), ("the journal", machine.run(["journalctl", "--output", "export"]))];

    for (place, text) in live.iter().chain(&after) {
        assert!(!text.is_empty(), "{place} says nothing");
        for secret in [TOKEN, CALLER, CALLED] {
            assert!(!text.contains(secret), "{place} tells {secret}: {text}");
        }
    }
}
