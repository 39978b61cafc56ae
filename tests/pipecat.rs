//! The dialects of five clouds with Pipecat's own serializers at the other end, over real sockets.
//!
//! | peer | package | plays |
//! |---|---|---|
//! | `peers/pipecat_agent.py` | PyPI `pipecat-ai`, on PyPI `websockets` | an agent that finds out by itself who calls |
//!
//! `scripts/setup-peers` installs it. Where that has not run nothing is tested here, unless `CI` is set.

#![allow(clippy::unwrap_used)]

mod site;

use std::{path::Path, process::Command, thread};

use site::{Daemon, Heard, Phone, Process, Route, SOON, assert_same, field, noise, number, peers, read_raw, voice};
use trunkline::media::g711::Law;

/// The agent, which takes a call of each dialect at once.
fn agent(peers: &Path, out: &Path, voice: usize) -> Process {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/pipecat_agent.py");
    let mut command = Command::new(peers.join("venv/bin/python"));
    command.env("PYTHONIOENCODING", "utf-8").env("PYTHONDONTWRITEBYTECODE", "1").arg(script);
    command.args(["--voice", &voice.to_string(), "--late", &LATE.to_string(), "--after", &AFTER.to_string()]);
    command.arg("--out").arg(out);
    Process::start(&mut command)
}

/// Noise that G.711 leaves as it is, so that all five can be held to the sample. None of it is silence.
fn companded(seconds: f64, seed: u32) -> Vec<i16> {
    let audible = |sample: i16| if sample.abs() < 64 { 64 } else { sample };
    noise(seconds, seed).into_iter().map(|sample| Law::Mu.decode(Law::Mu.encode(audible(sample)))).collect()
}

/// A caller who says this, presses a key meanwhile, and hangs up when the agent has said its last word.
fn call(port: u16, said: &[i16]) -> Heard {
    let phone = Phone::dial(port, said);
    phone.until(SOON, |heard| heard.voice().len() >= said.len() / 2);
    phone.press("5");
    phone.until(SOON, |heard| count(&heard.samples(), AFTER) >= 400);
    phone.hang_up()
}

fn count(samples: &[i16], wanted: i16) -> usize {
    samples.iter().filter(|&&sample| sample == wanted).count()
}

#[test]
fn pipecats_agents_know_each_cloud_and_are_heard_until_they_are_interrupted() {
    let Some(peers) = peers() else { return };
    let out = tempfile::tempdir().unwrap();
    let said = companded(2.0, 31);
    let agent = agent(&peers, out.path(), said.len());
    let port = number(&agent.line(&["listening="]), "listening");
    let route = |&name| Route { name, url: format!("ws://127.0.0.1:{port}/{name}"), dialect: name, ca: None };
    let routes: Vec<_> = CLOUDS.iter().map(route).collect();
    // Vonage's own is 16 kHz, where samples would be others.
    let daemon = Daemon::start_with(&routes, "max-calls = 8", "", "sample-rate = 8000");
    let heard: Vec<_> = thread::scope(|scope| {
        let said = &said;
        let calls: Vec<_> = CLOUDS
            .iter()
            .map(|name| {
                let port = daemon.port(name);
                scope.spawn(move || call(port, said))
            })
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });

    for (name, heard) in CLOUDS.iter().zip(&heard) {
        let ended = daemon.ended(name);
        let report = agent.line(&[&format!("ended={name} ")]);
        // By its first messages the agent knew whom it was talking to.
        assert!(field(&report, "path").starts_with(&format!("/{name}")), "{report}");
        let facts = ["code", "digits", "wrong"].map(|key| field(&report, key));
        assert_eq!(facts, ["1000", "5", "none"], "{report}");
        assert_same(&ended, &voice(&read_raw(&out.path().join(format!("{name}.raw")))), &said);

        // The echo; then some of what was interrupted, and of that nothing once the agent speaks again.
        let samples = heard.samples();
        let mut echo = heard.voice();
        echo.retain(|sample| ![LATE, AFTER].contains(sample));
        let faded = echo.len().saturating_sub(said.len());
        assert!(faded <= FADED + number(&ended, "repaid") as usize, "{faded} samples that nobody said: {ended}");
        echo.truncate(said.len());
        assert_same(&ended, &echo, &said);
        let late = count(&samples, LATE);
        assert!((800..16_000).contains(&late), "{late} of 24000 samples, interrupted after 4000: {ended}");
        let last = samples.iter().rposition(|&sample| sample == LATE);
        let first = samples.iter().position(|&sample| sample == AFTER);
        assert!(last < first, "{name}: {last:?} {first:?}");
        assert!(number(&ended, "clears") == 1 && number(&ended, "flushed") > 8_000, "{ended}");

        assert_eq!((field(&ended, "dialect"), field(&ended, "end_reason")), (*name, "line-hung-up"));
        let counted = ["malformed", "unknown", "contradicted", "dropped"].map(|key| number(&ended, key));
        assert_eq!((counted, number(&ended, "digits")), ([0; 4], 1), "{ended}");
    }
    // Nor has Pipecat seen anything that it does not know.
    assert_eq!(agent.count(&["| WARNING "]) + agent.count(&["| ERROR "]), 0, "{}", agent.said());
}

/// The dialects that Pipecat has a serializer for, as it and we call them.
const CLOUDS: &[&str] = &["twilio", "telnyx", "plivo", "exotel", "vonage"];
/// What the agent says until it is interrupted, and after that. Noise has neither, and mu-law leaves both as they are.
const LATE: i16 = -30_076;
const AFTER: i16 = 30_076;
/// The end of what is heard when a clear comes: a frame at most, faded.
const FADED: usize = 160;
