//! `trunkline explain` on calls that went wrong: each is placed for real, with the fault in it, and what is told of it
//! afterwards names the leg and the cause, from record and log together and from each alone.

#![allow(clippy::unwrap_used)]

mod sip;
mod site;

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use sip::{
    Site, Trunk, companded,
    wire::{FIRST, Packet, SSRC, Wire},
};
use site::{Daemon, FRAME, Phone, Process, SOON, TRUNKLINE, audio, field, hello, message, noise, wait_for, write_wav};

/// What is to be told.
struct Wanted {
    fault: &'static str,
    symptom: &'static str,
    cause: &'static str,
    /// The same by the record alone, where the log is needed to know more.
    by_record: &'static str,
    /// What a person reads.
    says: &'static [&'static str],
}

impl Wanted {
    const fn new(
        fault: &'static str,
        symptom: &'static str,
        cause: &'static str,
        says: &'static [&'static str],
    ) -> Self {
        Self { fault, symptom, cause, by_record: cause, says }
    }
}

fn explain(id: &str, records: &Path, journal: &Path, more: &[&str]) -> (bool, String) {
    let mut command = Command::new(TRUNKLINE);
    command.args(["explain", id, "--config", "/nonexistent"]).args(more);
    let output = command.arg("--records").arg(records).arg("--journal").arg(journal).output().unwrap();
    let said = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// A call that ended is explained by each id, from all there is, from the log alone and from the record alone.
#[track_caller]
fn assert_told(process: &Process, records: &Path, ids: &[&str], wanted: &Wanted) {
    let ended = process.line(&["call ended"]);
    let call_id = field(&ended, "call_id");
    let file = records.join("records.jsonl");
    wait_for("a record", || fs::read_to_string(&file).is_ok_and(|text| text.contains(call_id)));
    let folder = tempfile::tempdir().unwrap();
    let (log, nothing) = (folder.path().join("log"), folder.path().join("nothing"));
    fs::write(&log, process.said()).unwrap();
    fs::write(&nothing, "").unwrap();
    let none = folder.path();
    for id in ids.iter().chain([&call_id]) {
        for (what, records, log, cause) in [
            ("all", records, log.as_path(), wanted.cause),
            ("the log alone", none, log.as_path(), wanted.cause),
            ("the record alone", records, nothing.as_path(), wanted.by_record),
        ] {
            let (known, json) = explain(id, records, log, &["--json"]);
            assert!(known, "{id} by {what}: {json}");
            let told: Value = serde_json::from_str(&json).unwrap();
            let is = (told["fault"].as_str(), told["symptom"].as_str(), told["cause"].as_str());
            assert_eq!(is, (Some(wanted.fault), Some(wanted.symptom), Some(cause)), "{id} by {what}: {json}\n{ended}");
            assert_eq!(told["call_id"], call_id);
            assert!(!told["evidence"].as_array().unwrap().is_empty(), "{json}");
            let (_, text) = explain(id, records, log, &[]);
            assert!(
                text.contains(&format!("at fault: {}; cause: {cause}, {}", wanted.fault, wanted.symptom)),
                "{text}"
            );
        }
    }
    let (_, text) = explain(call_id, records, &log, &[]);
    for words in wanted.says {
        assert!(text.contains(words), "{words:?} is not in:\n{text}");
    }
    println!("{text}");
}

/// A daemon with one AudioSocket line, whose trunk is at this port, and its folder of records.
struct Office {
    daemon: Daemon,
    records: tempfile::TempDir,
}

impl Office {
    fn open(port: u16, trunk: &str) -> Self {
        let records = tempfile::tempdir().unwrap();
        let directory = records.path().to_owned();
        let daemon = Daemon::start_of(&["pbx"], "max-calls = 8", "", |ports| {
            format!(
                "[records]\ndirectory = {directory:?}\n[line.pbx]\nkind = \"audiosocket\"\nlisten = \"127.0.0.1:{}\"\n\
                 [trunk.agent]\nurl = \"ws://127.0.0.1:{port}/\"\ndialect = \"ozonetel\"\n{trunk}\n\
                 [[route]]\nline = \"pbx\"\ntrunks = [\"agent\"]\n",
                ports[0]
            )
        });
        Self { daemon, records }
    }

    /// A PBX that speaks for so long, and hangs up.
    fn call(&self, seconds: f64) {
        let phone = Phone::dial(self.daemon.port("pbx"), &noise(seconds, 1));
        phone.until(SOON, |heard| heard.frames.len() as f64 >= seconds * 50.0 || heard.end.is_some());
        phone.hang_up();
    }

    #[track_caller]
    fn assert_told(&self, wanted: &Wanted) {
        assert_told(&self.daemon.process, self.records.path(), &[UUID], wanted);
    }
}

/// The UUID of every [`Phone`].
const UUID: &str = "07070707-0707-0707-0707-070707070707";

/// An agent that does this.
fn agent(args: &[&str]) -> (Process, u16) {
    let common = ["agent", "--listen", "127.0.0.1:0", "--dialect", "ozonetel", "--plain"];
    let agent = Process::start(Command::new(TRUNKLINE).args(common).args(args));
    let greeting = agent.line(&["listening on ws"]);
    let port = greeting.split("127.0.0.1:").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    (agent, port)
}

fn says(folder: &Path, seconds: f64) -> String {
    let wav: PathBuf = folder.join("says.wav");
    write_wav(&wav, &noise(seconds, 9));
    format!("say:{}", wav.display())
}

/// Something on the way to an agent: waits before it lets a connection through, and lets what the agent says through in
/// pieces of so many bytes with so much time between them.
fn on_the_way(to: u16, wait: Duration, piece: usize, pace: Duration) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            thread::spawn(move || {
                thread::sleep(wait);
                let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)) else { return };
                let up = (near.try_clone().unwrap(), far.try_clone().unwrap());
                thread::spawn(move || pass(up.0, up.1, 4096, Duration::ZERO));
                pass(far, near, piece, pace);
            });
        }
    });
    port
}

fn pass(mut from: TcpStream, mut to: TcpStream, piece: usize, pace: Duration) {
    let mut bytes = vec![0; piece];
    while let Ok(n @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..n]).is_err() {
            break;
        }
        thread::sleep(pace);
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

#[test]
fn a_bad_token() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 13\r\n\r\nunknown token");
        }
    });
    let site = Office::open(port, "");
    Phone::dial(site.daemon.port("pbx"), &[]).wait();
    let wanted = Wanted::new("trunk", "refused", "bad-token", &["401 Unauthorized", "Next: compare `bearer`"]);
    site.assert_told(&Wanted { by_record: "trunk-refused", ..wanted });
}

#[test]
fn no_audio_from_the_cloud() {
    let (_agent, port) = agent(&["--behave", "silent"]);
    let site = Office::open(port, "");
    site.call(3.0);
    site.assert_told(&Wanted::new(
        "trunk",
        "one-way",
        "no-audio-from-trunk",
        &["the caller heard nothing", "downlink.heard_samples = 0", "by AudioSocket", "trunk agent has the call"],
    ));
}

#[test]
fn no_audio_from_the_pbx() {
    let folder = tempfile::tempdir().unwrap();
    let (_agent, port) = agent(&["--behave", &says(folder.path(), 8.0)]);
    let site = Office::open(port, "");
    let mut pbx = TcpStream::connect((Ipv4Addr::LOCALHOST, site.daemon.port("pbx"))).unwrap();
    pbx.set_read_timeout(Some(SOON)).unwrap();
    pbx.write_all(&hello()).unwrap();
    // It hears the agent for three seconds, and says nothing.
    pbx.read_exact(&mut vec![0; 150 * (3 + 2 * FRAME)]).unwrap();
    pbx.write_all(&message(0x00, &[])).unwrap();
    site.assert_told(&Wanted::new(
        "line",
        "one-way",
        "no-audio-from-line",
        &["the agent heard nothing", "uplink.frames = 0", "Answer() has to come before AudioSocket()"],
    ));
}

#[test]
fn a_wrong_codec() {
    let (_agent, port) = agent(&["--behave", "silent"]);
    let site = Office::open(port, "");
    let mut pbx = TcpStream::connect((Ipv4Addr::LOCALHOST, site.daemon.port("pbx"))).unwrap();
    pbx.write_all(&hello()).unwrap();
    // Opus: frames of no two lengths alike.
    let noise = noise(1.0, 3);
    for len in (0..40).map(|n| 17 + n * 7 % 23) {
        if pbx.write_all(&audio(0x10, &noise[..len])).is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    site.assert_told(&Wanted::new("line", "no-sound", "wrong-codec", &["c(slin16)", "bad-codec"]));
}

#[test]
fn a_cloud_that_is_late_to_take_the_call() {
    let folder = tempfile::tempdir().unwrap();
    let (_agent, port) = agent(&["--behave", &says(folder.path(), 2.0)]);
    let late = on_the_way(port, Duration::from_millis(3300), 4096, Duration::ZERO);
    let site = Office::open(late, "");
    site.call(5.0);
    site.assert_told(&Wanted::new(
        "trunk",
        "slow",
        "slow-setup",
        &["until a trunk had taken the call", "setup.upgrade_ms"],
    ));
}

#[test]
fn a_cloud_whose_speech_comes_late() {
    let folder = tempfile::tempdir().unwrap();
    let (_agent, port) = agent(&["--lead", "0", "--behave", &says(folder.path(), 8.0)]);
    // 10 ms of Ozonetel's numbers are about 600 bytes: this is half of what is spoken.
    let slow = on_the_way(port, Duration::ZERO, 1200, Duration::from_millis(40));
    let site = Office::open(slow, "");
    site.call(6.0);
    site.assert_told(&Wanted::new(
        "trunk",
        "choppy",
        "trunk-stutters",
        &["slower than it is spoken", "downlink.underruns"],
    ));
}

#[test]
fn a_cloud_that_closes_at_once() {
    let (_agent, port) = agent(&["--behave", "silent", "--hangup-after", "300"]);
    let site = Office::open(port, "");
    Phone::dial(site.daemon.port("pbx"), &[]).wait();
    site.assert_told(&Wanted::new(
        "trunk",
        "dropped",
        "trunk-closed-at-once",
        &["closed it before it had said anything"],
    ));
}

#[test]
fn a_cloud_that_dies_in_mid_call() {
    let (mut agent, port) = agent(&["--behave", "echo"]);
    let site = Office::open(port, "");
    let phone = Phone::dial(site.daemon.port("pbx"), &noise(30.0, 5));
    phone.until_voice(8000);
    agent.kill();
    phone.wait();
    site.assert_told(&Wanted::new("trunk", "dropped", "trunk-lost", &["broke off", "trunk-lost"]));
}

#[test]
fn a_caller_who_hangs_up_from_a_good_call() {
    let (_agent, port) = agent(&["--behave", "echo"]);
    let site = Office::open(port, "");
    let phone = Phone::dial(site.daemon.port("pbx"), &noise(1.0, 5));
    phone.until_voice(7000);
    phone.hang_up();
    let ended = site.daemon.ended("pbx");
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    fs::write(&log, site.daemon.process.said()).unwrap();
    let (_, json) = explain(field(&ended, "call_id"), folder.path(), &log, &["--json"]);
    let told: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&told["fault"], &told["cause"], &told["symptom"]),
        (&"nobody".into(), &"nothing-wrong".into(), &Value::Null)
    );
    let (known, said) = explain("aaaaaaaaaaaa", folder.path(), &log, &[]);
    assert!(!known && said.contains("nothing is known of the call aaaaaaaaaaaa"), "{said}");
}

/// A SIP call on which this phone sends its own packets, from this address, and hangs up.
fn sip_call(from: Ipv4Addr, count: u16, packet: impl Fn(u16) -> Option<u8>) -> (Site, tempfile::TempDir) {
    let records = tempfile::tempdir().unwrap();
    let line = format!("codecs = [\"pcmu\"]\n[records]\ndirectory = {:?}", records.path());
    let site = Site::open(&[Trunk::Echo], &line, "");
    let wire = Wire::open(site.address());
    let (named, sends) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind((from, 0)).unwrap());
    let sends = if from == Ipv4Addr::LOCALHOST { named.try_clone().unwrap() } else { sends };
    wire.send(&wire.invite("explained", named.local_addr().unwrap().port()));
    let answered = wire.until("SIP/2.0 200");
    let (to_tag, media) = (answered.to_tag().to_owned(), answered.media());
    wire.send(&wire.request("ACK", "explained", 1, &to_tag));
    let speech = companded(f64::from(count) / 50.0, 1);
    let mut due = Instant::now();
    for (n, payload) in (0..count).zip(speech.chunks_exact(FRAME)) {
        if let Some(payload_type) = packet(n) {
            let (sequence, timestamp) = (FIRST.0.wrapping_add(n), FIRST.1.wrapping_add(160 * u32::from(n)));
            sends.send_to(&Packet { payload_type, sequence, timestamp, ssrc: SSRC, payload }.bytes(), media).unwrap();
        }
        due += Duration::from_millis(20);
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    wire.send(&wire.request("BYE", "explained", 9, &to_tag));
    wire.until("SIP/2.0 200");
    (site, records)
}

#[test]
fn loss_on_rtp() {
    let (site, records) = sip_call(Ipv4Addr::LOCALHOST, 250, |n| (n % 8 != 5).then_some(0));
    assert_told(
        &site.daemon.process,
        records.path(),
        &["explained"],
        &Wanted::new(
            "line",
            "choppy",
            "rtp-loss",
            &["packets were lost on the way to us", "rtp.lost_packets", "by SIP"],
        ),
    );
}

#[test]
fn rtp_of_a_codec_that_was_not_agreed_on() {
    let (site, records) = sip_call(Ipv4Addr::LOCALHOST, 150, |_| Some(18));
    let wanted = Wanted::new("line", "one-way", "wrong-codec", &["payload type", "rtp.bad_packets"]);
    assert_told(&site.daemon.process, records.path(), &["explained"], &wanted);
}

#[test]
fn rtp_from_elsewhere() {
    let (site, records) = sip_call(Ipv4Addr::new(127, 0, 0, 2), 150, |_| Some(0));
    let wanted = Wanted::new("line", "one-way", "audio-from-elsewhere", &["from another address", "set `nat`"]);
    assert_told(&site.daemon.process, records.path(), &["explained"], &wanted);
}

#[test]
fn an_overload_as_it_was_logged() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("site.json");
    // What `journalctl -o json` has of such a call, less journald's own fields.
    let lines = [
        r#"{"MESSAGE_ID":"a578e144532d4e56905295967aa13321","MESSAGE":"calls are refused refused=3 live=8 max_calls=8 why=frames leave late: the machine does not keep up with the calls it has","PRIORITY":"4","EVENT_TIME":"2025-07-25T07:21:45.100Z"}"#,
        r#"{"MESSAGE_ID":"b8f722cc4b0e457b828019519e3dabc1","MESSAGE":"call started call_id=k3vqd2mxa7re line=pbx uuid=40325ec2-5efd-4bd3-805f-53576e581d13 peer=192.0.2.10:51122","PRIORITY":"6","CALL_ID":"k3vqd2mxa7re","LINE":"pbx","UUID":"40325ec2-5efd-4bd3-805f-53576e581d13","PEER":"192.0.2.10:51122","EVENT_TIME":"2025-07-25T07:21:45.631Z"}"#,
        r#"{"MESSAGE_ID":"b5450a14d67944139587dc83c18ea134","MESSAGE":"call ended call_id=k3vqd2mxa7re line=pbx trunk=none end_reason=overload","PRIORITY":"6","CALL_ID":"k3vqd2mxa7re","LINE":"pbx","TRUNK":"none","DIALECT":"none","END_REASON":"overload","ENDED_BY":"daemon","SECONDS":"0.002","BRIDGED_MS":"-1","EVENT_TIME":"2025-07-25T07:21:45.633Z"}"#,
    ];
    fs::write(&log, lines.join("\n")).unwrap();
    let (_, json) = explain("40325ec2-5efd-4bd3-805f-53576e581d13", folder.path(), &log, &["--json"]);
    let told: Value = serde_json::from_str(&json).unwrap();
    let is = (told["fault"].as_str(), told["symptom"].as_str(), told["cause"].as_str());
    assert_eq!(is, (Some("daemon"), Some("refused"), Some("overload")), "{json}");
    let (_, text) = explain("k3vqd2mxa7re", folder.path(), &log, &[]);
    assert!(text.contains("at fault: daemon; cause: overload, refused; certain"), "{text}");
    assert!(text.contains("(all calls) calls are refused refused=3"), "{text}");
}
