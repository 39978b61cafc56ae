//! The daemon is killed a hundred times at seeded moments under load: no finished call's record is lost, no line is torn,
//! and every call that was live is found again as `cut`.

#![allow(clippy::unwrap_used)]

mod site;

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use site::{Process, SOON, TRUNKLINE, audio, free_ports, message};

const KILLS: u64 = 100;
const CALLS_A_ROUND: u64 = 6;

/// Where the daemon listens. Connections on loopback come from 127.0.0.1: none of them can have taken its ports by the
/// time that it is started again, nor can a caller of a dead daemon be connected to itself.
const HOST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A caller who hangs up after so many frames; says how many it heard.
fn call(port: u16, uuid: [u8; 16], frames: usize) -> usize {
    let Ok(mut stream) = TcpStream::connect((HOST, port)) else { return 0 };
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut heard = 0;
    // The daemon may be killed at any moment: then the call is over.
    let mut go = || -> std::io::Result<()> {
        stream.write_all(&message(0x01, &uuid))?;
        loop {
            stream.write_all(&audio(0x12, &[1000; 320]))?;
            let mut head = [0; 3];
            stream.read_exact(&mut head)?;
            let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
            stream.read_exact(&mut payload)?;
            if head[0] == 0x00 {
                return Ok(());
            }
            heard += 1;
            if heard == frames {
                stream.write_all(&message(0x00, &[]))?;
                stream.shutdown(std::net::Shutdown::Write)?;
                stream.read_to_end(&mut payload)?;
                return Ok(());
            }
        }
    };
    let _ = go();
    heard
}

/// The same numbers in every run.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn uuid_of(round: u64, call: u64) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&round.to_be_bytes());
    uuid[8..].copy_from_slice(&call.to_be_bytes());
    uuid
}

fn start(config: &Path) -> (Process, Duration) {
    let since = Instant::now();
    let process = Process::start(Command::new(TRUNKLINE).arg("run").arg("--config").arg(config));
    process.line(&["ready for calls"]);
    (process, since.elapsed())
}

/// The whole lines of the records.
fn whole_lines(records: &Path) -> Vec<u8> {
    let bytes = fs::read(records).unwrap_or_default();
    let end = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    bytes[..end].to_vec()
}

#[test]
fn a_hundred_kills_lose_no_record_and_tear_no_line() {
    // A kill spares what the kernel has, so no disk is needed, and a slow one would only keep calls from their files.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let ports = free_ports(3);
    let (agent_port, line_port, http_port) = (ports[0], ports[1], ports[2]);
    let agent = format!("127.0.0.1:{agent_port}");
    let agent = Process::start(Command::new(TRUNKLINE).args([
        "agent",
        "--listen",
        &agent,
        "--dialect",
        "binary",
        "--behave",
        "echo",
        "--plain",
    ]));
    agent.line(&["listen"]);
    let mut config = format!("[control]\nhttp = \"{HOST}:{http_port}\"\n[records]\ndirectory = \"records\"\n");
    write!(
        config,
        "[line.pbx]\nkind = \"audiosocket\"\nlisten = \"{HOST}:{line_port}\"\n\
         [trunk.agent]\nurl = \"ws://127.0.0.1:{agent_port}/\"\ndialect = \"binary\"\n\
         [[route]]\nline = \"pbx\"\ntrunks = [\"agent\"]\n"
    )
    .unwrap();
    let file = dir.path().join("trunkline.toml");
    fs::write(&file, config).unwrap();
    let records = dir.path().join("records/records.jsonl");

    let mut seeded = Seeded(0x5eed);
    // Calls that lived long enough to be known for sure.
    let mut certain = Vec::new();
    let mut starts = Vec::new();
    let mut kept = Vec::new();
    for round in 0..KILLS {
        let (mut daemon, took) = start(&file);
        starts.push(took);
        let before = whole_lines(&records);
        assert!(before.starts_with(&kept), "round {round}: what was there is there still");
        let callers: Vec<_> = (0..CALLS_A_ROUND)
            .map(|n| {
                let (frames, wait) = (1 + seeded.below(20) as usize, Duration::from_millis(seeded.below(60)));
                thread::spawn(move || {
                    thread::sleep(wait);
                    (uuid_of(round, n), call(line_port, uuid_of(round, n), frames))
                })
            })
            .collect();
        // The moment is what this test is about.
        thread::sleep(Duration::from_millis(20 + seeded.below(400)));
        daemon.kill();
        for caller in callers {
            let (uuid, heard) = caller.join().unwrap();
            if heard >= HEARD_FOR_SURE {
                certain.push(uuid);
            }
        }
        kept = whole_lines(&records);
    }
    let (daemon, _) = start(&file);
    daemon.terminate();
    assert!(daemon.wait(SOON).0.success());

    let text = fs::read_to_string(&records).unwrap();
    assert!(text.ends_with('\n'));
    assert!(text.as_bytes().starts_with(&kept));
    let mut by_uuid: HashMap<String, Vec<String>> = HashMap::new();
    for line in text.lines() {
        let record: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let reason = record["end_reason"].as_str().unwrap_or_else(|| panic!("no end reason: {line}"));
        // Killed between the making of its file and the writing: only its id is known.
        let uuid =
            record["call_sid"].as_str().or(record["call_id"].as_str()).unwrap_or_else(|| panic!("no id: {line}"));
        by_uuid.entry(uuid.to_owned()).or_default().push(reason.to_owned());
    }
    let twice: Vec<_> = by_uuid.iter().filter(|(_, reasons)| reasons.len() > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    for uuid in &certain {
        let uuid = trunkline::leg::audiosocket::Uuid(*uuid).to_string();
        assert!(by_uuid.contains_key(&uuid), "a call left no trace: {uuid}");
    }
    let count = |reason: &str| by_uuid.values().filter(|reasons| reasons[0] == reason).count();
    let (cut, finished) = (count("cut"), count("line-hung-up"));
    assert!(cut >= 20 && finished >= 20, "the load was one-sided: {cut} cut, {finished} finished");
    assert!(fs::read_dir(dir.path().join("records/open")).unwrap().next().is_none(), "nothing is open any more");
    starts.sort();
    let median = starts[starts.len() / 2];
    println!(
        "{} records, {finished} finished, {cut} cut; start: median {median:?}, longest {:?}",
        by_uuid.len(),
        starts.last().unwrap()
    );
    assert!(median < Duration::from_secs(1), "a start takes {median:?}");
}

/// A call that heard so many frames has been there for 200 ms: its file under `open/` is written.
const HEARD_FOR_SURE: usize = 10;
