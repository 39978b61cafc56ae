//! The daemon as a whole: how it ends, how it is steered, and what a full disk does to its calls.

#![allow(clippy::unwrap_used)]

mod site;
#[path = "site/small_disk.rs"]
mod small_disk;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use site::{Daemon, End, Phone, Process, Route, SOON, TRUNKLINE, assert_same, noise};
use small_disk::SmallDisk;

/// An agent that echoes, and a daemon with these keys under `[control]`, and with these tables.
fn site(control: &str, tables: &str) -> (Process, Daemon) {
    let args = ["agent", "--listen", "127.0.0.1:0", "--dialect", "binary", "--behave", "echo", "--plain"];
    let agent = Process::start(Command::new(TRUNKLINE).args(args));
    let greeting = agent.line(&["listening on ws"]);
    let port = greeting.split("127.0.0.1:").nth(1).unwrap().split(' ').next().unwrap();
    let url = format!("ws://127.0.0.1:{port}/");
    let route = Route { name: "pbx", url, dialect: "binary", ca: None };
    (agent, Daemon::start_with(&[route], "max-calls = 8", control, tables))
}

fn steer(socket: &Path, args: &[&str]) -> Output {
    Command::new(TRUNKLINE).args(args).arg("--socket").arg(socket).output().unwrap()
}

/// A caller who is heard.
fn talking(daemon: &Daemon) -> Phone {
    let phone = Phone::dial(daemon.port("pbx"), &noise(60.0, 1));
    phone.until_voice(800);
    phone
}

/// Somebody who calls now is given back at once, with no frame.
#[track_caller]
fn assert_refused(daemon: &Daemon) {
    let heard = Phone::dial(daemon.port("pbx"), &[]).wait();
    assert_eq!((heard.frames.len(), heard.end), (0, Some(End::Hangup)));
}

#[test]
fn a_drain_lets_live_calls_go_on_and_a_second_signal_ends_them() {
    let (_agent, daemon) = site("drain-seconds = 3600", "");
    let phone = talking(&daemon);
    daemon.process.terminate();
    daemon.process.line(&["live calls may go on for a while"]);
    assert_refused(&daemon);
    phone.until(SOON, |heard| heard.voice().len() > 16_000);
    daemon.process.terminate();
    assert_eq!(phone.wait().end, Some(End::Hangup));
    assert!(daemon.ended("pbx").contains("end_reason=drained"));
    assert!(daemon.process.wait(SOON).0.success());
}

#[test]
fn a_drain_ends_by_itself_when_the_last_caller_has_hung_up() {
    let (_agent, daemon) = site("drain-seconds = 3600", "");
    let phone = talking(&daemon);
    daemon.process.terminate();
    daemon.process.line(&["live calls may go on for a while"]);
    phone.hang_up();
    assert!(daemon.ended("pbx").contains("end_reason=line-hung-up"));
    assert!(daemon.process.wait(SOON).0.success());
}

#[test]
fn one_call_is_hung_up_by_order_and_the_other_goes_on_until_the_drain() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let (_agent, daemon) = site(&format!("drain-seconds = 3600\nsocket = {socket:?}"), "");
    let (first, second) = (talking(&daemon), talking(&daemon));
    let listed = steer(&socket, &["calls", "--json"]).stdout;
    let calls: serde_json::Value = serde_json::from_slice(&listed).unwrap();
    let id = calls[0]["call_id"].as_str().unwrap();
    assert_eq!(calls.as_array().unwrap().len(), 2);
    assert!(steer(&socket, &["hangup", id]).status.success());
    assert_eq!(first.wait().end, Some(End::Hangup), "the oldest is listed first");
    assert!(daemon.process.line(&["call ended", id]).contains("end_reason=operator"));
    let again = steer(&socket, &["hangup", id]);
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains(id));

    assert!(steer(&socket, &["drain"]).status.success());
    assert_refused(&daemon);
    let status = steer(&socket, &["status", "--json"]).stdout;
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    assert_eq!((&status["state"], status["calls"].as_array().unwrap().len()), (&"draining".into(), 1));
    second.hang_up();
    assert!(daemon.process.wait(SOON).0.success());
    assert!(!socket.exists());
}

#[test]
fn a_call_leaves_its_file_and_its_events_though_the_daemon_ends_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (events, files) = (dir.path().join("events"), dir.path().join("files"));
    let tables = format!("[events]\ndirectory = {events:?}\n[call-files]\ndirectory = {files:?}");
    let (_agent, daemon) = site("", &tables);
    let phone = talking(&daemon);
    daemon.process.terminate();
    assert_eq!(phone.wait().end, Some(End::Hangup));
    let ended = daemon.ended("pbx");
    assert!(daemon.process.wait(SOON).0.success());

    let only = |folder: &Path| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let calls = only(&files.join("calls"));
    assert_eq!((calls.len(), only(&files.join("transcripts")).len()), (1, 0));
    let call: serde_json::Value = serde_json::from_slice(&fs::read(&calls[0]).unwrap()).unwrap();
    assert_eq!((&call["call_id"], &call["end_reason"]), (&site::field(&ended, "call_id").into(), &"drained".into()));
    let log = fs::read_to_string(&only(&events)[0]).unwrap();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["event"], &lines[lines.len() - 1]["event"]), (&"call-started".into(), &"call-ended".into()));
}

#[test]
fn a_disk_that_is_full_is_not_heard_and_costs_no_record() {
    let Some(disk) = SmallDisk::mount() else { return };
    let (_agent, daemon) = site("", &format!("[records]\ndirectory = {:?}", disk.path()));
    disk.fill(0);
    let speech = noise(1.0, 2);
    for n in 0..5 {
        let phone = Phone::dial(daemon.port("pbx"), &speech);
        phone.until_voice(speech.len());
        let heard = phone.hang_up();
        let ended = daemon.process.nth_line(n, &["call ended"]);
        assert_same(&ended, &heard.voice(), &speech);
    }
    daemon.process.line(&["records cannot be written; they are kept in memory"]);
    assert_eq!(daemon.metric("trunkline_records_waiting"), 5);
    disk.free();
    daemon.process.line(&["records are written again"]);
    let until = Instant::now() + SOON;
    while daemon.metric("trunkline_records_written_total") < 5 {
        assert!(Instant::now() < until, "{}", daemon.process.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    let records = fs::read_to_string(disk.path().join("records.jsonl")).unwrap();
    let of_log: Vec<_> = (0..5).map(|n| daemon.process.nth_line(n, &["call ended"])).collect();
    assert_eq!(records.lines().count(), 5);
    for (record, ended) in records.lines().zip(of_log) {
        let record: serde_json::Value = serde_json::from_str(record).unwrap();
        assert_eq!(record["call_id"], site::field(&ended, "call_id"), "in the order in which they ended");
    }
}
