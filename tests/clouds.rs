//! Every cloud there is, from end to end: the stand-in vendor calls a `websocket` line of the daemon, whose trunk is the
//! stand-in agent, each its own process, over real sockets and TLS on both sides. All of them at once, through one daemon.

#![allow(clippy::unwrap_used)]

mod site;

use std::{fmt::Write as _, fs, path::Path, process::Command, thread};

use serde_json::Value;
use site::{Daemon, Process, SOON, TRUNKLINE, field};
use trunkline::{
    dialect::{self, Coding, Direction, NAMES, Options, Role},
    leg::websocket::tls,
    media::Rate,
};

/// What a dialect carries when nobody chooses.
struct Cloud {
    name: &'static str,
    rate: Rate,
    /// Samples arrive as they are.
    exact: bool,
    direction: Direction,
}

fn clouds() -> Vec<Cloud> {
    let cloud = |&name: &&'static str| {
        let vendor = dialect::open(name, Role::Vendor, None, Rate::Hz8000, &Options::default()).unwrap();
        let exact = !matches!(vendor.expected().coding, Coding::Mulaw | Coding::Alaw);
        Cloud { name, rate: vendor.rate(), exact, direction: vendor.direction() }
    };
    NAMES.iter().map(cloud).collect()
}

/// A glide, of which no sample is zero: only at the right place is it like itself.
fn glide(rate: Rate) -> Vec<i16> {
    let hz = f64::from(rate.hz());
    let sample = |n: usize| {
        let t = n as f64 / hz;
        ((t * std::f64::consts::TAU * (300.0 + t * 400.0)).sin() * 9000.0) as i16 | 1
    };
    (0..rate.samples(PLAYED_MS)).map(sample).collect()
}

fn write_wav(path: &Path, rate: Rate, samples: &[i16]) {
    let sample_format = hound::SampleFormat::Int;
    let spec = hound::WavSpec { channels: 1, sample_rate: rate.hz(), bits_per_sample: 16, sample_format };
    let mut wav = hound::WavWriter::create(path, spec).unwrap();
    samples.iter().for_each(|&sample| wav.write_sample(sample).unwrap());
    wav.finalize().unwrap();
}

/// How much the best piece of what was heard is like what was played, 1 at most.
fn likeness(played: &[i16], heard: &[i16]) -> f64 {
    let dot = |a: &[i16], b: &[i16]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let own = dot(played, played);
    let at = |piece: &[i16]| dot(played, piece) / (own * dot(piece, piece).max(1.0)).sqrt();
    heard.windows(played.len()).map(at).fold(0.0, f64::max)
}

/// `trunkline agent` on wss, and where it listens.
fn agent(name: &str, tls: &Path) -> (Process, u16) {
    let mut command = Command::new(TRUNKLINE);
    command.args(["agent", "--listen", "127.0.0.1:0", "--dialect", name, "--behave", "echo", "--tls"]).arg(tls);
    let agent = Process::start(&mut command);
    let greeting = agent.line(&["listening on wss"]);
    let port = greeting.split("127.0.0.1:").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    (agent, port)
}

/// A line for each cloud, and a trunk in the same dialect.
fn config(dir: &Path, agents: &[u16], ports: &[u16]) -> String {
    let mut config = format!("[records]\ndirectory = {:?}\n", dir.join("records"));
    for ((name, agent), port) in NAMES.iter().zip(agents).zip(ports) {
        write!(
            config,
            "[line.{name}]\nkind = \"websocket\"\nlisten = \"127.0.0.1:{port}\"\n\
             certificate = {certificate:?}\nkey = {key:?}\n\
             [[line.{name}.path]]\npath = \"/ws\"\ndialect = \"{name}\"\n\
             [trunk.{name}]\nurl = \"wss://localhost:{agent}/ws\"\ndialect = \"{name}\"\nca-file = {ca:?}\n\
             [[route]]\nline = \"{name}\"\ntrunks = [\"{name}\"]\n",
            certificate = dir.join("line/server.pem"),
            key = dir.join("line/server-key.pem"),
            ca = dir.join("agents/ca.pem"),
        )
        .unwrap();
    }
    config
}

/// `trunkline call` as this cloud. Gives what it printed last, and all of it.
fn call(cloud: &Cloud, dir: &Path, port: u16) -> (Value, String) {
    let play = dir.join(format!("{}.in.wav", cloud.name));
    write_wav(&play, cloud.rate, &glide(cloud.rate));
    let mut command = Command::new(TRUNKLINE);
    command
        .args(["call", "--json", "--websocket", &format!("wss://localhost:{port}/ws"), "--dialect", cloud.name])
        .args(["--from", "+919800000001", "--to", "08040001234", "--ca"])
        .arg(dir.join("line/ca.pem"))
        .arg("--play")
        .arg(play)
        .arg("--record")
        .arg(dir.join(format!("{}.out.wav", cloud.name)));
    let (status, said) = Process::start(&mut command).wait(SOON * 2);
    assert!(status.success(), "{}: {said}", cloud.name);
    let last = said.lines().rfind(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{}: {said}", cloud.name));
    (serde_json::from_str(last).unwrap(), said)
}

#[test]
fn every_cloud_calls_through_the_daemon_over_tls_and_hears_its_echo() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // Two authorities: who is trusted at the one end is nobody at the other.
    for end in ["line", "agents"] {
        fs::create_dir(dir.join(end)).unwrap();
        tls::throwaway_ca(&dir.join(end), &[]).unwrap();
    }
    fs::create_dir(dir.join("records")).unwrap();
    let (agents, agent_ports): (Vec<_>, Vec<_>) = NAMES.iter().map(|name| agent(name, &dir.join("agents"))).unzip();
    let daemon = Daemon::start_of(NAMES, "max-calls = 16", "", |ports| config(dir, &agent_ports, ports));
    let clouds = clouds();
    let told: Vec<_> = thread::scope(|scope| {
        let calls: Vec<_> = clouds
            .iter()
            .map(|cloud| {
                let port = daemon.port(cloud.name);
                scope.spawn(move || call(cloud, dir, port))
            })
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let ended: Vec<_> = clouds.iter().map(|cloud| daemon.ended(cloud.name)).collect();
    daemon.process.terminate();
    let (status, log) = daemon.process.wait(SOON);
    assert!(status.success(), "{log}");
    let records = fs::read_to_string(dir.join("records/records.jsonl")).unwrap();
    let records: Vec<Value> = records.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), clouds.len());

    for (((cloud, (told, said)), agent), ended) in clouds.iter().zip(&told).zip(&agents).zip(&ended) {
        let name = cloud.name;
        let record = records.iter().find(|record| record["line"] == name).unwrap();
        let context = format!("{name}: {said}\ndaemon: {ended}\nrecord: {record}\nagent: {}", agent.said());
        // The vendor.
        assert_eq!((&told["ok"], &told["ended_by"]), (&true.into(), &"caller".into()), "{context}");
        // The record.
        let spoken = ["line_dialect", "dialect"].map(|key| record[key].as_str());
        assert_eq!(spoken, [Some(name); 2], "{context}");
        let reason = ["end_reason", "ended_by"].map(|key| record[key].as_str());
        assert_eq!(reason, [Some("line-hung-up"), Some("line")], "{context}");
        assert_eq!(record["direction"], cloud.direction.as_str(), "{context}");
        assert_eq!(record["rate_hz"], cloud.rate.hz(), "{context}");
        assert_eq!(
            (&record["uplink"]["dropped_samples"], &record["trunk_leg"]["malformed_messages"]),
            (&0.into(), &0.into()),
            "{context}"
        );
        // The agent heard the whole of the caller, and the silence around it.
        let heard_s: f64 = field(&agent.line(&["call ended"]), "heard_s").parse().unwrap();
        let sent_s = told["seconds"].as_f64().unwrap();
        assert!(
            heard_s > PLAYED_MS as f64 / 1000.0 && (heard_s - sent_s).abs() < 0.25,
            "{heard_s} of {sent_s} s, {context}"
        );
        if cloud.direction == Direction::Uplink {
            assert_eq!(record["downlink"]["heard_samples"], 0, "{context}");
            continue;
        }
        // And the vendor its echo.
        assert_eq!(told["rate"], cloud.rate.hz(), "{context}");
        if cloud.exact {
            assert_eq!((&told["bit_exact"], &told["lost"]), (&true.into(), &0.into()), "{context}");
        } else {
            let mut wav = hound::WavReader::open(dir.join(format!("{name}.out.wav"))).unwrap();
            let heard: Vec<i16> = wav.samples().map(Result::unwrap).collect();
            let piece = glide(cloud.rate)[cloud.rate.samples(500)..][..cloud.rate.samples(250)].to_vec();
            let like = likeness(&piece, &heard[..heard.len().min(cloud.rate.samples(2500))]);
            assert!(like > 0.99, "{like} {context}");
        }
        println!(
            "{name}: bridged after {} ms, the agent's first frame on the line after {} ms",
            record["setup"]["total_ms"], record["downlink"]["first_ms"]
        );
    }
}

/// What each caller plays (ms).
const PLAYED_MS: usize = 2000;
