//! The Debian package on a machine that is booted for it: what its scripts do at each step of its life.
//!
//! It is made of the binary under test, with all that a release has but its optimisation and the feature `aec`:
//! `scripts/release` makes the same of release builds. `scripts/setup package` and `scripts/setup-systemd` make what is
//! needed; where they have not run nothing is tested here, unless `CI` is set.

#![allow(clippy::unwrap_used)]

#[path = "systemd/machine.rs"]
mod machine;
mod site;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use machine::{Machine, wait_until};
use serde_json::Value;
use site::{Process, SOON, TRUNKLINE};

const CONFIG: &str = r#"
[control]
drain-seconds = 10

[line.pbx]
kind = "audiosocket"

[trunk.agent]
url = "ws://127.0.0.1:8765/"
dialect = "ozonetel"
bearer = { credential = "agent-token" }

[[route]]
line = "pbx"
trunks = ["agent"]
"#;

const PLACE: &str = "/etc/trunkline/trunkline.toml";

const TOKEN: &str = "tok-5fJ2hQ9vXc71";

/// An agent to whom the token says nothing: it shows what it was asked with.
const STRANGER: &str = r#"
import socket
door = socket.create_server(("127.0.0.1", 8765))
print("listening", flush=True)
caller = door.accept()[0]
print(caller.recv(4096).decode(), flush=True)
caller.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 13\r\n\r\nunknown token")
"#;

/// systemd's SD_MESSAGE_UNIT_STOPPING (sd-messages.h), and of docs/operations.md "call ended" and "ready for calls".
const STOPPING: &str = "de5b426a63be47a7b6ac3eaac82e2f6f";
const ENDED: &str = "b5450a14d67944139587dc83c18ea134";
const READY: &str = "e4bff8855298464e8f9205bcd29647b5";

/// Packages of the binary under test, in these versions; `None` where they cannot be made.
fn packages(folder: &Path, versions: [&str; 2]) -> Option<[PathBuf; 2]> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !root.join("target/tools/bin/cargo-deb").exists() {
        let told = "there is nothing to make a package with; run scripts/setup package";
        assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "{told}");
        println!("not run: {told}");
        return None;
    }
    // What debuggers want is nine tenths of it.
    fs::create_dir_all(folder.join("debug")).unwrap();
    let binary = folder.join("debug/trunkline");
    assert!(Command::new("strip").arg("-o").arg(&binary).arg(TRUNKLINE).status().unwrap().success());
    Some(versions.map(|version| {
        let out = folder.join(version);
        let mut package = Command::new(root.join("scripts/package"));
        package.args(["--quick", "--version", version, "--binary"]).arg(&binary).arg("--out").arg(&out);
        let (status, said) = Process::start(&mut package).wait(6 * SOON);
        assert!(status.success(), "{said}");
        let made: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path()).collect();
        let [made] = made.as_slice() else { panic!("{made:?}") };
        made.clone()
    }))
}

/// What an administrator does with packages.
trait Dpkg {
    fn dpkg<const N: usize>(&self, args: [&str; N]) -> (ExitStatus, String);
}

impl Dpkg for Machine {
    fn dpkg<const N: usize>(&self, args: [&str; N]) -> (ExitStatus, String) {
        // Debian's own scripts want to be asked nothing, and an upgrade waits for live calls.
        let env = ["env", "DEBIAN_FRONTEND=noninteractive", "dpkg"];
        self.start(env.into_iter().chain(args)).wait(3 * SOON)
    }
}

/// When the journal's last message of this kind happened (us since the machine booted).
fn last(machine: &Machine, message: &str) -> Option<u64> {
    let entry = machine.journal().into_iter().rfind(|entry| entry["MESSAGE_ID"] == message)?;
    entry["__MONOTONIC_TIMESTAMP"].as_str()?.parse().ok()
}

/// What `trunkline explain` says of a call of that machine, `by` what it looks into beside the journal.
fn explained(machine: &Machine, uuid: &str, by: &[&str]) -> (Value, String) {
    let explain = |more: &[&str]| machine.run(["trunkline", "explain", uuid].iter().chain(by).chain(more));
    (serde_json::from_str(&explain(&["--json"])).unwrap(), explain(&[]))
}

/// The agent is given the secret that root put into the folder, and when it refuses it the site hears of it: from the call's
/// record and the journal, and from this machine's own journal alone.
fn a_secret_reaches_the_agent(machine: &Machine) {
    const UUID: &str = "5e1b3f5c-94ad-4d0e-8c5b-1f2d8a6e7c30";
    let stranger = Process::start(machine.in_network("python3").args(["-c", STRANGER]));
    stranger.line(&["listening"]);
    let refused = machine.call_named(Duration::from_secs(5), Some(UUID)).end();
    stranger.line(&[&format!("Authorization: Bearer {TOKEN}")]);
    assert!(refused.is_none_or(|call| call["frames_heard"] == 0));
    wait_until("the record is written", SOON, || machine.records().len() == 1);
    machine.run(["journalctl", "--sync"]);
    machine.run(["mkdir", "/opt/none"]);
    for by in [&[][..], &["--records", "/opt/none"][..]] {
        let (told, text) = explained(machine, UUID, by);
        let found = [&told["fault"], &told["symptom"], &told["cause"]];
        assert_eq!(found, ["trunk", "refused", "bad-token"], "{told}");
        assert!(text.contains("401 Unauthorized") && text.contains("Next: compare `bearer`"), "{text}");
        let from = if by.is_empty() { "Told from its record, " } else { "Told from no record, " };
        assert!(text.contains(from) && !text.contains(", 0 lines of the log"), "{text}");
        assert!(!text.contains(TOKEN), "{text}");
    }
}

/// A call that comes now brings this secret to the agent.
fn is_asked_with(machine: &Machine, token: &str) {
    let stranger = Process::start(machine.in_network("python3").args(["-c", STRANGER]));
    stranger.line(&["listening"]);
    machine.call(Duration::from_secs(5)).end();
    stranger.line(&[&format!("Authorization: Bearer {token}")]);
}

/// A file that is wrong is told by `check`, nothing happens to the service by its lying there, and a reload refuses it.
fn a_wrong_config_stops_nothing(machine: &Machine) {
    let process = machine.property("MainPID");
    machine.write(PLACE, &CONFIG.replace("dialect", "dialekt"));
    let (status, said) = machine.try_run(["trunkline", "check"]);
    assert!(!status.success() && said.contains("trunkline.toml:10:") && said.contains("did you mean"), "{said}");
    let (status, _) = machine.try_run(["systemctl", "reload", "trunkline.service"]);
    assert!(!status.success());
    machine.serves_a_call();
    machine.assert_properties(&[("ActiveState", "active"), ("MainPID", &process), ("NRestarts", "0")]);
    machine.write(PLACE, CONFIG);
}

/// By `systemctl reload` secrets are changed, added and taken away under a service that runs, which can
/// write to them no more than before.
fn new_secrets_are_handed_to_the_service(machine: &Machine) {
    let reload = || machine.run(["systemctl", "reload", "trunkline.service"]);
    let handed = |name: &str| machine.read(&format!("/run/credentials/trunkline.service/secrets_{name}"));
    machine.write("/etc/trunkline/secrets/agent-token", "tok-new\n");
    machine.write("/etc/trunkline/secrets/another", "more\n");
    assert_eq!((handed("agent-token"), handed("another")), (format!("{TOKEN}\n"), String::new()));
    reload();
    assert_eq!((handed("agent-token"), handed("another")), ("tok-new\n".to_owned(), "more\n".to_owned()));
    is_asked_with(machine, "tok-new");
    machine.write("/etc/trunkline/secrets/agent-token", &format!("{TOKEN}\n"));
    machine.run(["rm", "/etc/trunkline/secrets/another"]);
    reload();
    let folder = "/run/credentials/trunkline.service";
    assert_eq!(machine.run(["ls", "-A", folder]), "secrets_agent-token");
    assert_eq!(machine.run(["stat", "--format=%U %a", &format!("{folder}/secrets_agent-token")]), "trunkline 400");
    // As the service sees it.
    let inside = format!("/proc/{}/root{folder}", machine.property("MainPID"));
    assert_eq!(machine.run(["cat", &format!("{inside}/secrets_agent-token")]), TOKEN);
    let (status, said) = machine.try_run(["touch", &format!("{inside}/more")]);
    assert!(!status.success() && said.contains("Read-only"), "{said}");
}

/// Its line is taken away and comes back under it, and no frame is lost.
fn a_live_call_goes_on_while_the_config_is_read_again(machine: &Machine, agent: &Process) {
    let live = machine.call(Duration::from_secs(3));
    agent.nth_line(2, &["call began"]);
    let other = CONFIG.replace("[line.pbx]\n", "[line.other]\nlisten = \"127.0.0.1:9093\"\n");
    machine.write(PLACE, &other.replace("line = \"pbx\"", "line = \"other\""));
    machine.run(["systemctl", "reload", "trunkline.service"]);
    machine.write(PLACE, CONFIG);
    machine.run(["systemctl", "reload", "trunkline.service"]);
    live.assert_lost_nothing();
}

fn ms(from: u64, to: u64) -> u64 {
    to.checked_sub(from).expect("it happened in this order") / 1000
}

#[test]
fn a_package_is_installed_upgraded_removed_and_purged_around_the_calls_of_its_site() {
    let folder = tempfile::tempdir().unwrap();
    let Some([old, new]) = packages(folder.path(), ["0.1.0-1", "0.1.0-2"]) else { return };
    let Some(machine) = Machine::boot_without() else { return };
    fs::copy(old, machine.path("/opt/old.deb")).unwrap();
    fs::copy(new, machine.path("/opt/new.deb")).unwrap();

    // Installed, it waits for its config.
    let (status, said) = machine.dpkg(["--install", "/opt/old.deb"]);
    assert!(status.success() && said.contains("systemctl enable --now trunkline"), "{said}");
    machine.assert_properties(&[("ActiveState", "inactive"), ("UnitFileState", "disabled")]);
    let (status, said) = machine.try_run(["trunkline", "check"]);
    assert!(!status.success() && said.contains("[line.NAME]"), "{said}");
    let secrets = fs::metadata(machine.path("/etc/trunkline/secrets")).unwrap();
    assert_eq!(secrets.permissions().mode() & 0o777, 0o700);
    assert!(machine.run(["journalctl", "--dump-catalog", READY]).contains("Trunkline takes calls"));
    for file in [
        "/usr/share/man/man1/trunkline.1.gz",
        "/usr/share/man/man1/trunkline-check.1.gz",
        "/usr/share/bash-completion/completions/trunkline",
        "/usr/share/doc/trunkline/examples/sip-trunk.toml",
        "/usr/share/trunkline/trunkline-sound.conf",
    ] {
        assert!(machine.path(file).exists(), "{file}");
    }

    // Configured and enabled, it takes calls.
    machine.write(PLACE, CONFIG);
    let (status, said) = machine.try_run(["trunkline", "check"]);
    assert!(!status.success() && said.contains("no such credential"), "{said}");
    machine.write("/etc/trunkline/secrets/agent-token", &format!("{TOKEN}\n"));
    machine.run(["trunkline", "check"]);
    machine.run(["systemctl", "enable", "--now", "--quiet", "trunkline.service"]);
    machine.assert_properties(&[("ActiveState", "active"), ("UnitFileState", "enabled")]);
    a_secret_reaches_the_agent(&machine);
    new_secrets_are_handed_to_the_service(&machine);
    let agent = machine.agent();
    machine.serves_a_call();
    a_wrong_config_stops_nothing(&machine);
    a_live_call_goes_on_while_the_config_is_read_again(&machine, &agent);

    // A config that the new version does not take: the old one goes on, and the next upgrade mends nothing by itself.
    let process = machine.property("MainPID");
    machine.write(PLACE, &CONFIG.replace("dialect", "dialekt"));
    let (status, said) = machine.dpkg(["--install", "/opt/new.deb"]);
    assert!(status.success(), "{said}");
    assert!(said.contains("did you mean `dialect`?") && said.contains("left alone"), "{said}");
    machine.assert_properties(&[("ActiveState", "active"), ("MainPID", &process)]);
    machine.serves_a_call();

    // Mended, it is upgraded around a live call.
    machine.write(PLACE, CONFIG);
    let live = machine.call(Duration::from_secs(5));
    agent.nth_line(4, &["call began"]);
    let (status, said) = machine.dpkg(["--install", "/opt/new.deb"]);
    assert!(status.success() && said.contains("restarted"), "{said}");
    live.assert_served();
    machine.assert_properties(&[("ActiveState", "active"), ("NRestarts", "0"), ("UnitFileState", "enabled")]);
    assert_ne!(machine.property("MainPID"), process);
    machine.run(["journalctl", "--sync"]);
    let (told, ended) = (last(&machine, STOPPING).unwrap(), last(&machine, ENDED).unwrap());
    let ready = last(&machine, READY).unwrap();
    let (refused, gap) = (ms(told, ready), ms(ended, ready));
    println!("calls were refused for {refused} ms, {gap} ms of that after the last call's end");
    assert!(gap < 5000, "{gap} ms from the last call's end to the next that could come");
    machine.serves_a_call();

    // Without calls it is only the gap itself.
    let (status, said) = machine.dpkg(["--install", "/opt/new.deb"]);
    assert!(status.success(), "{said}");
    machine.run(["journalctl", "--sync"]);
    let refused = ms(last(&machine, STOPPING).unwrap(), last(&machine, READY).unwrap());
    println!("without calls it refused them for {refused} ms");
    assert!(refused < 5000, "{refused} ms");
    machine.serves_a_call();

    // Removed, it leaves its config and records; purged, nothing.
    let (status, said) = machine.dpkg(["--remove", "trunkline"]);
    assert!(status.success(), "{said}");
    assert!(!machine.path("/usr/bin/trunkline").exists());
    machine.assert_properties(&[("ActiveState", "inactive"), ("LoadState", "not-found")]);
    assert_eq!(machine.read(PLACE), CONFIG);
    assert_eq!(machine.records().len(), 9);
    let (status, said) = machine.dpkg(["--purge", "trunkline"]);
    assert!(status.success(), "{said}");
    for file in [
        "/etc/trunkline",
        "/var/lib/trunkline",
        "/usr/lib/trunkline",
        "/usr/share/doc/trunkline",
        "/usr/share/trunkline",
    ] {
        assert!(!machine.path(file).exists(), "{file}");
    }
    let left = machine.run(["find", "/etc/systemd", "/usr/lib/systemd", "/usr/share/man", "-name", "*trunkline*"]);
    assert_eq!(left, "");
}

#[test]
fn the_unit_has_the_parts_that_this_systemd_knows() {
    let root = tempfile::tempdir().unwrap();
    let bin = root.path().join("bin");
    fs::create_dir_all(&bin).unwrap();
    let program = |name: &str, text: &str| {
        fs::write(bin.join(name), format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    };
    program("journalctl", "");
    // dpkg(1), DPKG_ROOT: where a package's scripts are to act.
    let script = |name: &str, argument: &str| {
        let mut command = Command::new("sh");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name)).arg(argument);
        command.env("DPKG_ROOT", root.path()).env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
        let (status, said) = Process::start(&mut command).wait(SOON);
        assert!(status.success(), "{said}");
    };
    let units = root.path().join("usr/lib/systemd/system/trunkline.service.d");
    let parts = || {
        let mut parts: Vec<_> = fs::read_dir(&units).into_iter().flatten().map(|part| part.unwrap().path()).collect();
        parts.sort();
        parts.iter().map(|part| fs::read_link(part).unwrap().display().to_string()).collect::<Vec<_>>()
    };
    let (reload, credentials) = ("/usr/share/trunkline/trunkline-253.conf", "/usr/share/trunkline/trunkline-260.conf");
    for (version, wanted) in [
        ("systemd 252 (252.39-1~deb12u2)", &[][..]),
        ("systemd 257 (257.13-1~deb13u1)", &[reload][..]),
        ("systemd 262 (262.1-1)", &[reload, credentials][..]),
        ("systemd 253 (253-1)", &[reload][..]),
        ("", &[reload][..]),
        ("systemd 260 (260~rc1-1)", &[reload, credentials][..]),
    ] {
        program("systemctl", &format!("echo '{version}'"));
        script("postinst", "triggered");
        assert_eq!(parts(), wanted, "{version}");
    }
    script("postrm", "remove");
    assert!(!units.exists());
}

#[test]
fn an_armv6_board_is_refused_before_anything_is_unpacked() {
    let folder = tempfile::tempdir().unwrap();
    let uname = folder.path().join("uname");
    let preinst = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/preinst");
    let install = |architecture: &str, machine: &str| {
        fs::write(&uname, format!("#!/bin/sh\necho {machine}\n")).unwrap();
        fs::set_permissions(&uname, fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:/usr/bin:/bin", folder.path().display());
        let mut command = Command::new("sh");
        command.arg(&preinst).arg("install").env("PATH", path).env("DPKG_MAINTSCRIPT_ARCH", architecture);
        Process::start(&mut command).wait(SOON)
    };
    let (status, said) = install("armhf", "armv6l");
    assert!(!status.success() && said.contains("this board is an ARMv6"), "{said}");
    for (architecture, machine) in
        [("armhf", "armv7l"), ("armhf", "aarch64"), ("arm64", "aarch64"), ("amd64", "x86_64")]
    {
        assert!(install(architecture, machine).0.success(), "{architecture} on {machine}");
    }
}
