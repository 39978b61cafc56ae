//! Calls with peers that are not ours at the other end, over real sockets.
//!
//! | peer | package | plays |
//! |---|---|---|
//! | `peers/agent.py` | PyPI `websockets` | an agent, Ozonetel and Exotel, over wss |
//! | `peers/agent.mjs` | npm `ws` | an agent, binary and Exotel, over wss, permessage-deflate offered |
//! | `peers/vendor.py` | PyPI `websockets` | a vendor that calls `trunkline agent` |
//! | `peers/vendor.mjs` | npm `ws` | the same |
//! | `peers/line.mjs serve` | npm `asterisk-audiosocket` | an AudioSocket server that `trunkline call` calls |
//! | `peers/line.mjs call` | its codec | a PBX that calls `trunkline run` |
//! | `peers/line.py` | the codec of PyPI `asterisk-ai-voice-agent` | the same |
//!
//! `scripts/setup-peers` installs them. Where it has not run nothing is tested here, unless `CI` is set.

#![allow(clippy::unwrap_used)]

mod site;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use site::{
    Daemon, End, Heard, Phone, Process, Route, SOON, TRUNKLINE, assert_same, field, json_field, monotonic_ns, noise,
    number, peers, read_raw, read_wav, voice, write_raw, write_wav,
};

/// The peers' home and a place for one test's recordings.
struct Bench {
    peers: PathBuf,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Option<Self> {
        Some(Self { peers: peers()?, dir: tempfile::tempdir().unwrap() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ca(&self) -> PathBuf {
        self.peers.join("ca")
    }

    fn script(&self, name: &str) -> Command {
        let mut command =
            if name.ends_with(".py") { Command::new(self.peers.join("venv/bin/python")) } else { Command::new("node") };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name);
        command
            .env("PEERS", &self.peers)
            .env("PYTHONIOENCODING", "utf-8")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg(script);
        command
    }

    fn python_agent(&self, speech: &[i16]) -> Agent {
        write_raw(&self.path("speech.raw"), speech);
        let mut command = self.script("agent.py");
        command
            .arg("--ca")
            .arg(self.ca())
            .arg("--speech")
            .arg(self.path("speech.raw"))
            .arg("--out")
            .arg(self.dir.path());
        Agent::start(&mut command)
    }

    fn node_agent(&self, speech: &[i16]) -> Agent {
        write_raw(&self.path("speech.raw"), speech);
        let mut command = self.script("agent.mjs");
        command.arg(self.ca()).arg(self.path("speech.raw")).arg(self.dir.path());
        Agent::start(&mut command)
    }

    /// A daemon whose lines are named after the agent's behaviours, each with a trunk of its own.
    fn daemon(&self, agent: &Agent, dialect: &str, behaviours: &[&str]) -> Daemon {
        let ca = self.ca();
        let route = |&name| Route {
            name,
            url: format!("wss://localhost:{}/{dialect}/{name}", agent.port),
            dialect,
            ca: Some(&ca),
        };
        Daemon::start(&behaviours.iter().map(route).collect::<Vec<_>>())
    }

    /// What an agent heard, less silence.
    fn heard_by_agent(&self, dialect: &str, behaviour: &str) -> Vec<i16> {
        voice(&read_raw(&self.path(&format!("{dialect}-{behaviour}.raw"))))
    }
}

/// An agent that is not ours.
struct Agent {
    process: Process,
    port: u64,
}

impl Agent {
    fn start(command: &mut Command) -> Self {
        let process = Process::start(command);
        let port = number(&process.line(&["listening="]), "listening");
        Self { process, port }
    }

    /// What it says at the end of a call.
    fn ended(&self, path: &str) -> String {
        self.process.line(&[&format!("ended={path} ")])
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A call in which the caller says two seconds of this noise and hears them again.
fn echo(daemon: &Daemon, line: &str, seed: u32) {
    let said = noise(2.0, seed);
    let phone = Phone::dial(daemon.port(line), &said);
    phone.until_voice(said.len());
    let heard = phone.hang_up();
    let ended = daemon.ended(line);
    assert_same(&ended, &heard.voice(), &said);
    assert_eq!(field(&ended, "end_reason"), "line-hung-up");
    assert_eq!(
        (number(&ended, "dropped"), number(&ended, "malformed"), number(&ended, "unknown")),
        (0, 0, 0),
        "{ended}"
    );
}

/// A call in which the agent says something. Gives the daemon's closing line and what was heard.
fn listen(daemon: &Daemon, line: &str, samples: usize) -> (String, Heard) {
    let phone = Phone::dial(daemon.port(line), &[]);
    phone.until_voice(samples);
    let heard = phone.hang_up();
    (daemon.ended(line), heard)
}

// AudioSocket by other hands

#[test]
fn somebody_elses_audiosocket_server_echoes_what_we_play() {
    let Some(bench) = Bench::new() else { return };
    let server = Process::start(bench.script("line.mjs").args(["serve", "echo"]));
    let port = number(&server.line(&["listening="]), "listening");
    let said = noise(2.0, 1);
    let (play, record) = (bench.path("in.wav"), bench.path("out.wav"));
    write_wav(&play, &said);
    let uuid = "40325ec2-5efd-4bd3-805f-53576e581d13";
    let address = format!("127.0.0.1:{port}");
    let call = Process::start(Command::new(TRUNKLINE).args([
        "call",
        "--audiosocket",
        &address,
        "--play",
        path(&play),
        "--record",
        path(&record),
        "--uuid",
        uuid,
        "--json",
    ]));
    let (status, said_by_call) = call.wait(SOON);
    assert!(status.success(), "{said_by_call}");
    let json = said_by_call.lines().find(|line| line.starts_with('{')).unwrap();
    assert_eq!((json_field(json, "bit_exact"), json_field(json, "ended_by")), ("true", "caller"), "{json}");
    assert_eq!(voice(&read_wav(&record)), said);
    assert_eq!(field(&server.line(&["call="]), "call"), uuid);
    let ended = server.line(&["ended=line"]);
    assert!(number(&ended, "frames") >= 100 && number(&ended, "odd") == 0, "{ended}");
    assert_eq!(server.count(&["error="]), 0);
}

#[test]
fn a_hang_up_of_somebody_elses_audiosocket_server_ends_our_call() {
    let Some(bench) = Bench::new() else { return };
    let server = Process::start(bench.script("line.mjs").args(["serve", "hangup"]));
    let port = number(&server.line(&["listening="]), "listening");
    let (play, record) = (bench.path("in.wav"), bench.path("out.wav"));
    write_wav(&play, &noise(5.0, 2));
    let address = format!("127.0.0.1:{port}");
    let call = Process::start(Command::new(TRUNKLINE).args([
        "call",
        "--audiosocket",
        &address,
        "--play",
        path(&play),
        "--record",
        path(&record),
        "--json",
    ]));
    let (status, said) = call.wait(SOON);
    let json = said.lines().find(|line| line.starts_with('{')).unwrap();
    assert!(status.success(), "{said}");
    assert_eq!(json_field(json, "ended_by"), "server", "{json}");
    let seconds: f64 = json_field(json, "seconds").parse().unwrap();
    assert!((0.9..3.0).contains(&seconds), "{json}");
}

#[test]
fn pbxs_by_other_hands_hear_their_echo_and_the_hang_up() {
    let Some(bench) = Bench::new() else { return };
    let agent = bench.python_agent(&noise(1.0, 3));
    let daemon = bench.daemon(&agent, "ozonetel", &["echo", "disconnect"]);
    // 300 ms of silence, because the first ten frames are only looked at; and a second for the way back.
    let said = noise(2.0, 4);
    let played = [&[0; 2400][..], &said, &[0; 8000]].concat();
    write_raw(&bench.path("play.raw"), &played);
    let uuid = "5b0e6d1e-0c1f-4a2b-9a57-2f3f0c9d1a10";
    let callers = [("line.py", ["hangup", "close"].as_slice()), ("line.mjs", &["hangup"])];
    let mut calls = 0;
    for (script, goodbyes) in callers {
        for goodbye in goodbyes {
            for (line, by, samples) in [("echo", "us", &said[..]), ("disconnect", "server", &noise(1.0, 3)[..4000])] {
                let record = bench.path("heard.raw");
                let port = daemon.port(line).to_string();
                let mut command = bench.script(script);
                if script == "line.py" {
                    command.args(["--port", &port, "--uuid", uuid, "--play", path(&bench.path("play.raw"))]);
                    command.args(["--record", path(&record), "--goodbye", goodbye]);
                } else {
                    command.args(["call", &port, uuid, path(&bench.path("play.raw")), path(&record)]);
                }
                let (status, output) = Process::start(&mut command).wait(SOON);
                assert!(status.success(), "{output}");
                let report = output.lines().find(|line| line.starts_with("ended=line")).unwrap();
                let nth = calls / 2;
                let ended = daemon.process.nth_line(nth, &["call ended", &format!("line={line} ")]);
                assert_same(&ended, &voice(&read_raw(&record)), samples);
                if script == "line.py" {
                    assert_eq!(field(report, "by"), by, "{report}");
                    assert!(report.ends_with("lengths=[320]"), "{report}");
                }
                assert_eq!(output.matches("odd=").count() + output.matches("error=").count(), 0, "{output}");
                let (reason, with) =
                    if by == "us" { ("line-hung-up", None) } else { ("trunk-hung-up", Some("hangup")) };
                assert_eq!(field(&ended, "end_reason"), reason);
                assert!(with.is_none_or(|with| field(report, "with") == with), "{report}");
                assert!(daemon.process.said().contains(uuid));
                calls += 1;
            }
        }
    }
    assert_eq!(daemon.metric("trunkline_calls"), 0);
    assert_eq!(daemon.metric("trunkline_calls_ended_total{end_reason=\"line-hung-up\"}"), 3);
    assert_eq!(daemon.metric("trunkline_calls_ended_total{end_reason=\"trunk-hung-up\"}"), 3);
}

// Agents on Python's websockets

#[test]
fn a_python_agent_echoes_in_both_dialects() {
    let Some(bench) = Bench::new() else { return };
    for dialect in ["ozonetel", "exotel"] {
        let agent = bench.python_agent(&[1]);
        let daemon = bench.daemon(&agent, dialect, &["echo"]);
        echo(&daemon, "echo", 5);
        let ended = agent.ended(&format!("/{dialect}/echo"));
        assert_eq!(
            (field(&ended, "wrong"), number(&ended, "stops"), number(&ended, "code")),
            ("none", 1, 1000),
            "{ended}"
        );
        assert_eq!(bench.heard_by_agent(dialect, "echo"), noise(2.0, 5), "what the agent heard");
        assert_eq!(daemon.metric("trunkline_uplink_dropped_samples_total"), 0);
        if dialect == "exotel" {
            // AudioSocket's UUID is Exotel's call_sid.
            let uuid = "07070707-0707-0707-0707-070707070707";
            assert_eq!(field(&agent.process.line(&["started="]), "call_sid"), uuid);
        }
    }
}

#[test]
fn every_packet_of_an_ozonetel_burst_is_heard_and_acknowledged_in_order() {
    let Some(bench) = Bench::new() else { return };
    let speech = noise(3.0, 6);
    let agent = bench.python_agent(&speech);
    let daemon = bench.daemon(&agent, "ozonetel", &["burst"]);
    let (ended, heard) = listen(&daemon, "burst", speech.len());
    assert_same(&ended, &heard.voice(), &speech);
    assert_eq!(
        (number(&ended, "marks"), number(&ended, "underruns"), number(&ended, "flushed")),
        (60, 0, 0),
        "{ended}"
    );
    let ended = agent.ended("/ozonetel/burst");
    let seqids: Vec<_> = (0..60).map(|n| format!("{n:08x}-0000-4000-8000-000000000000")).collect();
    assert_eq!(field(&ended, "marks"), seqids.join(","));
    assert_eq!(field(&ended, "wrong"), "none");
}

#[test]
fn every_mark_of_an_exotel_agent_comes_back_in_order_and_digits_arrive() {
    let Some(bench) = Bench::new() else { return };
    let speech = noise(3.0, 7);
    let agent = bench.python_agent(&speech);
    let daemon = bench.daemon(&agent, "exotel", &["marks"]);
    let phone = Phone::dial(daemon.port("marks"), &[]);
    phone.until_voice(speech.len() / 2);
    phone.press("12#");
    phone.until_voice(speech.len());
    let heard = phone.hang_up();
    let ended = daemon.ended("marks");
    assert_same(&ended, &heard.voice(), &speech);
    assert_eq!((number(&ended, "marks"), number(&ended, "digits")), (15, 3), "{ended}");
    let ended = agent.ended("/exotel/marks");
    let marks: Vec<_> = (0..15).map(|n| format!("m{n}")).collect();
    assert_eq!((field(&ended, "marks"), field(&ended, "digits")), (&*marks.join(","), "12#"));
    assert_eq!(field(&ended, "wrong"), "none");
}

#[test]
fn nothing_of_a_burst_is_heard_a_frame_after_the_clear() {
    let Some(bench) = Bench::new() else { return };
    let speech = noise(10.0, 8);
    for dialect in ["ozonetel", "exotel"] {
        let agent = bench.python_agent(&speech);
        let daemon = bench.daemon(&agent, dialect, &["clear"]);
        let phone = Phone::dial(daemon.port("clear"), &[]);
        phone.until(SOON, |heard| heard.frames.iter().rev().take(10).any(|(_, frame)| frame.contains(&AFTER)));
        agent.process.line(&["after="]);
        let late = phone.late_ns();
        let heard = phone.hang_up();
        let ended = daemon.ended("clear");

        let is_burst = |frame: &[i16]| frame.iter().any(|&sample| sample != 0 && sample != AFTER);
        let (last, _) = heard.frames.iter().rev().find(|(_, frame)| is_burst(frame)).unwrap();
        let cleared = agent.process.line(&["cleared="]);
        let (at, now) = (number(&cleared, "at"), monotonic_ns());
        assert!(number(&cleared, "asked") <= at && at < now, "{cleared}");
        // The frame that fades out, and what this machine adds.
        let allowed = at + 20_000_000 + late + 10_000_000;
        assert!(*last <= allowed, "heard {} ms later; {late} ns late", (*last - at) / 1_000_000);

        let burst: Vec<i16> = heard.voice().into_iter().filter(|&sample| sample != AFTER).collect();
        let whole = burst.len().saturating_sub(FADED);
        assert_eq!(burst[..whole], speech[..whole], "what was heard before the clear");
        assert!((4_000..24_000).contains(&burst.len()), "{} samples", burst.len());
        assert_eq!(heard.samples().iter().filter(|&&sample| sample == AFTER).count(), 800, "what was said after it");

        let (played, flushed) = (number(&ended, "samples_heard"), number(&ended, "flushed"));
        assert_eq!(played + flushed + number(&ended, "repaid"), 80_000 + 800, "{ended}");
        assert_eq!(number(&ended, "clears"), 1, "{ended}");
        let report = agent.ended(&format!("/{dialect}/clear"));
        assert_eq!((field(&report, "wrong"), number(&report, "stops")), ("none", 1), "{report}");
        let marks: Vec<&str> = field(&report, "marks").split(',').collect();
        let (last, told) = marks.split_last().unwrap();
        assert_eq!(*last, "after");
        if dialect == "exotel" {
            assert_eq!(told, ["m0", "m1", "m2"], "a clear tells every mark");
        } else {
            // A packet that was flushed is not acknowledged.
            let wanted: Vec<_> = (0..told.len()).map(|n| format!("{n:08x}-0000-4000-8000-000000000000")).collect();
            assert_eq!(told, wanted);
            let acknowledged = told.len() * 400;
            assert!(
                acknowledged <= burst.len() && burst.len() < acknowledged + 800,
                "{acknowledged} of {}",
                burst.len()
            );
        }
    }
}

#[test]
fn every_shape_that_agents_have_been_seen_to_send_is_understood() {
    let Some(bench) = Bench::new() else { return };
    let speech = noise(4.5, 9);
    let name = "the-\"last\"-\u{e9}";
    for (dialect, malformed, unknown, marks) in
        [("ozonetel", 3, 1, format!("77,{name}")), ("exotel", 2, 1, format!("flat,{name}"))]
    {
        let agent = bench.python_agent(&speech);
        let daemon = bench.daemon(&agent, dialect, &["oddities"]);
        let (ended, heard) = listen(&daemon, "oddities", speech.len());
        assert_same(&ended, &heard.voice(), &speech);
        let counted = (number(&ended, "malformed"), number(&ended, "unknown"), number(&ended, "contradicted"));
        assert_eq!(counted, (malformed, unknown, 0), "{ended}");
        let report = agent.ended(&format!("/{dialect}/oddities"));
        assert_eq!((field(&report, "marks"), field(&report, "wrong")), (&*marks, "none"), "{report}");
        assert!(number(&agent.process.line(&["big="]), "bytes") > 40_000);
    }
}

#[test]
fn however_an_agent_ends_the_caller_goes_back_to_the_dialplan() {
    let Some(bench) = Bench::new() else { return };
    let speech = noise(1.0, 10);
    let agent = bench.python_agent(&speech);
    let daemon = bench.daemon(&agent, "ozonetel", &["disconnect", "close", "fault", "abort"]);
    for (line, reason, code, stops) in [
        ("disconnect", "trunk-hung-up", "1000", 1),
        ("close", "trunk-hung-up", "1000", 0),
        ("fault", "trunk-lost", "1011", 0),
        ("abort", "trunk-lost", "1006", 0),
    ] {
        let heard = Phone::dial(daemon.port(line), &[]).wait();
        let ended = daemon.ended(line);
        assert_eq!((field(&ended, "end_reason"), heard.end), (reason, Some(End::Hangup)), "{line}");
        let report = agent.ended(&format!("/ozonetel/{line}"));
        assert_eq!((field(&report, "code"), number(&report, "stops")), (code, stops), "{report}");
        if reason == "trunk-hung-up" {
            assert_same(&ended, &heard.voice(), &speech[..4000]);
        }
    }
    let ca = bench.ca();
    let daemon = Daemon::start(&[Route {
        name: "refused",
        url: format!("wss://localhost:{}/refuse", agent.port),
        dialect: "ozonetel",
        ca: Some(&ca),
    }]);
    let heard = Phone::dial(daemon.port("refused"), &[]).wait();
    assert_eq!((heard.end, heard.voice().len()), (Some(End::Hangup), 0));
    assert_eq!(field(&daemon.ended("refused"), "end_reason"), "trunk-refused");
    daemon.process.line(&["403", "not on this number"]);
}

#[test]
fn an_agent_whose_certificate_is_not_from_our_ca_gets_no_call() {
    let Some(bench) = Bench::new() else { return };
    let agent = bench.python_agent(&[1]);
    let url = format!("wss://localhost:{}/ozonetel/echo", agent.port);
    let ca = bench.ca();
    // An address that is not in the certificate, and a CA that nobody knows.
    let elsewhere = url.replace("localhost", "127.0.0.2");
    let strange = tempfile::tempdir().unwrap();
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(strange.path().join("ca.pem"), key.cert.pem()).unwrap();
    let daemon = Daemon::start(&[
        Route { name: "good", url: url.clone(), dialect: "ozonetel", ca: Some(&ca) },
        Route { name: "elsewhere", url: elsewhere, dialect: "ozonetel", ca: Some(&ca) },
        Route { name: "strange", url, dialect: "ozonetel", ca: Some(strange.path()) },
    ]);
    for line in ["elsewhere", "strange"] {
        assert_eq!(Phone::dial(daemon.port(line), &[]).wait().end, Some(End::Hangup));
        assert_eq!(field(&daemon.ended(line), "end_reason"), "trunk-refused");
    }
    let said = noise(0.2, 11);
    let phone = Phone::dial(daemon.port("good"), &said);
    phone.until_voice(said.len());
    assert_eq!(phone.hang_up().end, Some(End::Hangup));
    assert_eq!(field(&daemon.ended("good"), "end_reason"), "line-hung-up");
}

// Agents on npm's ws

#[test]
fn a_node_agent_echoes_in_both_dialects_without_compression() {
    let Some(bench) = Bench::new() else { return };
    for dialect in ["binary", "exotel"] {
        let agent = bench.node_agent(&[1]);
        let daemon = bench.daemon(&agent, dialect, &["echo"]);
        echo(&daemon, "echo", 12);
        let ended = agent.ended(&format!("/{dialect}/echo"));
        assert_eq!((field(&ended, "extensions"), number(&ended, "code")), ("none", 1000), "{ended}");
        assert_eq!(number(&ended, "stops"), u64::from(dialect == "exotel"), "binary has no word for it");
        assert_eq!(bench.heard_by_agent(dialect, "echo"), noise(2.0, 12), "what the agent heard");
    }
}

#[test]
fn messages_of_a_node_agent_are_heard_however_they_are_fragmented() {
    let Some(bench) = Bench::new() else { return };
    let speech = noise(4.0, 13);
    for dialect in ["binary", "exotel"] {
        let agent = bench.node_agent(&speech);
        let daemon = bench.daemon(&agent, dialect, &["pieces"]);
        let (ended, heard) = listen(&daemon, "pieces", speech.len());
        assert_same(&ended, &heard.voice(), &speech);
        assert_eq!((number(&ended, "malformed"), number(&ended, "underruns")), (0, 0), "{ended}");
        let report = agent.ended(&format!("/{dialect}/pieces"));
        if dialect == "binary" {
            assert_eq!((number(&report, "pongs"), field(&report, "in_order")), (1, "true"), "{report}");
        } else {
            assert_eq!(field(&report, "marks"), "end");
        }
    }
}

#[test]
fn a_message_of_a_mebibyte_is_taken_and_a_longer_one_ends_the_call() {
    let Some(bench) = Bench::new() else { return };
    let speech = noise(2.0, 14);
    let agent = bench.node_agent(&speech);
    let daemon = bench.daemon(&agent, "binary", &["largest", "too-large"]);
    let (ended, heard) = listen(&daemon, "largest", 8000);
    let voice = heard.voice();
    assert_same(&ended, &voice[..8000], &speech[..8000]);
    let (played, flushed) = (number(&ended, "samples_heard"), number(&ended, "flushed"));
    assert_eq!(played + flushed + number(&ended, "repaid"), 1 << 19, "{ended}");
    assert_eq!(number(&agent.ended("/binary/largest"), "code"), 1000);

    let heard = Phone::dial(daemon.port("too-large"), &[]).wait();
    assert_eq!(heard.end, Some(End::Hangup));
    assert_eq!(field(&daemon.ended("too-large"), "end_reason"), "protocol");
    // RFC 6455 7.4.1: a message that is too big.
    assert_eq!(number(&agent.ended("/binary/too-large"), "code"), 1009);
}

#[test]
fn a_node_agents_pings_are_answered_alike_and_in_order_while_audio_flows() {
    let Some(bench) = Bench::new() else { return };
    let agent = bench.node_agent(&[1]);
    let daemon = bench.daemon(&agent, "binary", &["pings"]);
    echo(&daemon, "pings", 15);
    let report = agent.ended("/binary/pings");
    let (pings, pongs) = (number(&report, "pings"), number(&report, "pongs"));
    // Those that were sent after our close need no answer.
    assert!(pings >= 50 && pongs <= pings && pongs + 5 >= pings, "{report}");
    assert_eq!(field(&report, "in_order"), "true");
}

// Vendors that call our agent

fn our_agent(bench: &Bench, more: &[&str]) -> (Process, String) {
    let mut command = Command::new(TRUNKLINE);
    command
        .args(["agent", "--listen", "127.0.0.1:0", "--behave", "echo", "--tls", path(&bench.path("tls"))])
        .args(more);
    let agent = Process::start(&mut command);
    let greeting = agent.line(&["listening on wss://"]);
    let port = greeting.split("127.0.0.1:").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    (agent, format!("wss://localhost:{port}/"))
}

#[test]
fn vendors_on_pythons_websockets_hear_our_agents_echo() {
    let Some(bench) = Bench::new() else { return };
    let (agent, url) = our_agent(&bench, &["--marks"]);
    let said = noise(1.5, 16);
    write_raw(&bench.path("play.raw"), &said);
    for (n, (dialect, more)) in [("ozonetel", None), ("exotel", None), ("exotel", Some("--binary"))].iter().enumerate()
    {
        let (play, record, ca) = (bench.path("play.raw"), bench.path("heard.raw"), bench.path("tls/ca.pem"));
        let mut command = bench.script("vendor.py");
        command.args(["--url", &url, "--ca", path(&ca), "--dialect", dialect, "--play", path(&play)]);
        command.args(["--record", path(&record)]).args(more.iter());
        let (status, output) = Process::start(&mut command).wait(SOON);
        assert!(status.success(), "{output}");
        let report = output.lines().find(|line| line.starts_with("ended=vendor")).unwrap();
        // The false start at 16 kHz is not echoed.
        assert_eq!(read_raw(&record), said, "{report}");
        let facts = ["code", "other", "multiple", "extensions"].map(|key| field(report, key));
        assert_eq!(facts, ["1000", "none", "True", "0"], "{report}");
        assert!(number(report, "marks") > 0, "{report}");
        let ended = agent.nth_line(n, &["call ended"]);
        assert!(ended.contains("vendor: said stop") && ended.contains("came back in order"), "{ended}");
        assert_eq!((field(&ended, "dialect"), field(&ended, "heard_s")), (*dialect, "1.50"), "{ended}");
    }
}

#[test]
fn vendors_on_nodes_ws_hear_our_agents_echo() {
    let Some(bench) = Bench::new() else { return };
    let (agent, url) = our_agent(&bench, &[]);
    let said = noise(1.5, 17);
    write_raw(&bench.path("play.raw"), &said);
    for (n, (dialect, goodbye)) in
        [("binary", "vendor: closed with 1000"), ("exotel", "vendor: said stop"), ("ozonetel", "vendor: said stop")]
            .iter()
            .enumerate()
    {
        let (play, record, ca) = (bench.path("play.raw"), bench.path("heard.raw"), bench.path("tls/ca.pem"));
        let mut command = bench.script("vendor.mjs");
        command.args([dialect, &*url, path(&ca), path(&play), path(&record)]);
        let (status, output) = Process::start(&mut command).wait(SOON);
        assert!(status.success(), "{output}");
        let report = output.lines().find(|line| line.starts_with("ended=vendor")).unwrap();
        assert_eq!(read_raw(&record), said, "{report}");
        // It offers permessage-deflate, as is its default; we decline.
        assert_eq!((field(report, "code"), field(report, "extensions")), ("1000", "none"), "{output}");
        assert_eq!(output.matches("error=").count(), 0, "{output}");
        let ended = agent.nth_line(n, &["call ended"]);
        assert!(ended.contains(goodbye) && field(&ended, "dialect") == *dialect, "{ended}");
    }
}

/// What agents say after a clear: a sample that noise does not have.
const AFTER: i16 = 4242;
/// The end of what is heard when a clear comes: a frame at most, faded.
const FADED: usize = 160;
