//! What the daemon says, and that it never waits for whoever should read it.

#![allow(clippy::unwrap_used)]

mod site;

use std::{
    fs,
    io::{ErrorKind, PipeReader, PipeWriter, Read, Write},
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

use site::{SOON, TRUNKLINE, free_ports, http_get};

/// A process that is killed when its handle goes.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Fills what a pipe holds.
fn fill(pipe: &mut PipeWriter) {
    // The flag is the pipe's, not the descriptor's: the process that gets it must find it as usual.
    rustix::io::ioctl_fionbio(&*pipe, true).unwrap();
    let full = std::iter::repeat_with(|| pipe.write(&[b'x'; 512])).find_map(Result::err).unwrap();
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    rustix::io::ioctl_fionbio(&*pipe, false).unwrap();
}

/// A daemon whose only call begins at once, so that whoever is dialled for it knows that it runs.
fn config(dir: &Path, http: u16, trunk: u16) -> std::path::PathBuf {
    let file = dir.join("trunkline.toml");
    let text = format!(
        "[control]\nhttp = \"127.0.0.1:{http}\"\n[line.pipe]\nkind = \"pipe\"\n\
         [trunk.agent]\nurl = \"ws://127.0.0.1:{trunk}/\"\ndialect = \"exotel\"\n\
         [[route]]\nline = \"pipe\"\ntrunks = [\"agent\"]\n"
    );
    fs::write(&file, text).unwrap();
    file
}

fn within<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, done) = mpsc::channel();
    thread::spawn(move || sender.send(work()));
    done.recv_timeout(SOON).expect("it is done in time")
}

#[test]
fn a_daemon_whose_stderr_nobody_reads_serves_and_ends_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let trunk = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let http = free_ports(1)[0];
    let file = config(dir.path(), http, trunk.local_addr().unwrap().port());
    let (_unread, mut stderr): (PipeReader, PipeWriter) = std::io::pipe().unwrap();
    fill(&mut stderr);

    let mut command = Command::new(TRUNKLINE);
    command.arg("run").arg("--config").arg(file).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
    let mut daemon = Killed(command.spawn().unwrap());
    let (dialled, _) = within(move || trunk.accept().unwrap());
    assert!(within(move || http_get(http, "/health")).starts_with("HTTP/1.1 200 "));

    rustix::process::kill_process(rustix::process::Pid::from_child(&daemon.0), rustix::process::Signal::TERM).unwrap();
    within(move || daemon.0.wait().unwrap());
    drop(dialled);
}

/// What `trunkline run` says of a config with two faults, if its environment names this stream as the journal's.
fn refusal(journal_stream: impl FnOnce(&PipeWriter) -> String) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("trunkline.toml");
    fs::write(&file, "acount = 1\n[medai]\n").unwrap();
    let (mut said, stderr) = std::io::pipe().unwrap();
    let mut command = Command::new(TRUNKLINE);
    command.env("JOURNAL_STREAM", journal_stream(&stderr)).env_remove("RUST_LOG").stdout(Stdio::null());
    let mut daemon = Killed(command.arg("run").arg("--config").arg(file).stderr(stderr).spawn().unwrap());
    // It holds the other end of the pipe.
    drop(command);
    let text = within(move || {
        let mut text = String::new();
        said.read_to_string(&mut text).unwrap();
        text
    });
    assert_eq!(daemon.0.wait().unwrap().code(), Some(78), "{text}");
    text
}

#[test]
fn without_a_journal_an_event_is_a_line_and_only_problems_of_the_config_have_more() {
    let text = refusal(|_| "1:2".to_owned());
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].ends_with(" ERROR] the config has to be mended before the daemon can start"), "{text}");
    let time = lines[0].strip_prefix('[').and_then(|line| line.split_once(' ')).unwrap().0;
    assert_eq!((time.len(), &time[19..20], &time[23..]), ("2025-11-21T04:40:00.007Z".len(), ".", "Z"), "{text}");
    assert!(lines[1..].iter().all(|line| line.starts_with("    ")), "{text}");
    assert!(text.contains("acount") && text.contains("medai"), "{text}");
}

#[cfg(not(feature = "systemd"))]
#[test]
fn without_libsystemd_the_journal_is_told_the_priority_of_every_line() {
    let text = refusal(|stderr| {
        let stat = rustix::fs::fstat(stderr).unwrap();
        format!("{}:{}", stat.st_dev, stat.st_ino)
    });
    assert!(text.starts_with("<3>the config has to be mended"), "{text}");
    assert!(text.lines().count() > 1 && text.lines().all(|line| line.starts_with("<3>")), "{text}");
}
