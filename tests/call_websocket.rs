//! The stand-in vendor calls the stand-in agent, in every dialect there is, as two processes over real sockets and TLS.

#![allow(clippy::unwrap_used)]

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use serde_json::Value;
use tempfile::TempDir;
use trunkline::{
    dialect::{self, Coding, Direction, NAMES, Options, Role},
    media::Rate,
};

const BIN: &str = env!("CARGO_BIN_EXE_trunkline");

/// `trunkline agent`, with TLS.
struct Agent {
    child: Child,
    url: String,
    dir: TempDir,
}

impl Agent {
    fn start(dialect: &str, more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(BIN)
            .args(["agent", "--listen", "127.0.0.1:0", "--dialect", dialect, "--tls"])
            .arg(dir.path().join("tls"))
            .args(more)
            .stdout(Stdio::piped())
            .stderr(File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let url = said.split_whitespace().find(|word| word.starts_with("wss://")).unwrap_or_else(|| panic!("{said}"));
        Self { url: url.replace("127.0.0.1", "localhost"), child, dir }
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("tls/ca.pem")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is played and what is heard.
struct Desk(TempDir);

impl Desk {
    /// With a wave that is never silent.
    fn new(rate: Rate, ms: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: rate.hz(),
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut wav = hound::WavWriter::create(dir.path().join("in.wav"), spec).unwrap();
        let step = std::f64::consts::TAU / f64::from(rate.hz());
        for n in 0..rate.samples(ms) {
            // A glide: only at the right place is it like itself.
            let t = n as f64;
            let sample = ((t * step * (300.0 + t * 0.05 * 8000.0 / f64::from(rate.hz()))).sin() * 9000.0) as i16;
            wav.write_sample(sample | 1).unwrap();
        }
        wav.finalize().unwrap();
        Self(dir)
    }

    fn wav(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn samples(&self, name: &str) -> (u32, Vec<i16>) {
        let mut wav = hound::WavReader::open(self.wav(name)).unwrap();
        (wav.spec().sample_rate, wav.samples().map(Result::unwrap).collect())
    }

    /// The last line that the call printed, and all of it.
    fn call(&self, url: &str, ca: &Path, dialect: &str, more: &[&str]) -> (Value, String) {
        let output = Command::new(BIN)
            .args(["call", "--json", "--websocket", url, "--dialect", dialect, "--ca"])
            .arg(ca)
            .arg("--play")
            .arg(self.wav("in.wav"))
            .arg("--record")
            .arg(self.wav("out.wav"))
            .args(more)
            .output()
            .unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let last = said.lines().rfind(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{dialect}: {said}"));
        (serde_json::from_str(last).unwrap(), said)
    }
}

/// Whether a dialect moves samples as they are at this rate, and whether anybody hears the agent.
fn promises(name: &str, rate: Rate) -> (bool, bool) {
    let grammar = dialect::open(name, Role::Vendor, Some(rate), rate, &Options::default()).unwrap();
    let exact = !matches!(grammar.expected().coding, Coding::Mulaw | Coding::Alaw) && grammar.rate() == rate;
    (exact, grammar.direction() == Direction::Both)
}

/// How much the best piece of what was heard is like what was played, 1 at most.
fn likeness(played: &[i16], heard: &[i16]) -> f64 {
    let dot = |a: &[i16], b: &[i16]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let own = dot(played, played);
    let at = |piece: &[i16]| dot(played, piece) / (own * dot(piece, piece).max(1.0)).sqrt();
    heard.windows(played.len()).map(at).fold(0.0, f64::max)
}

fn each(check: impl Fn(&'static str, Rate) + Copy + Send + Sync) {
    thread::scope(|scope| {
        for &name in NAMES {
            for &rate in dialect::rates(name) {
                scope.spawn(move || check(name, rate));
            }
        }
    });
}

#[test]
fn in_every_dialect_and_rate_an_echo_comes_back_sample_for_sample() {
    each(|name, rate| {
        let (exact, both) = promises(name, rate);
        let (agent, desk) = (Agent::start(name, &["--behave", "echo", "--marks"]), Desk::new(rate, 700));
        let hz = rate.hz().to_string();
        let url =
            format!("{}/ws{}", agent.url, if name == "binary" { format!("?sample-rate={hz}") } else { String::new() });
        let mut more =
            vec!["--sample-rate", &hz, "--from", "+919800000001", "--to", "08040001234", "--custom", "lane=7"];
        more.extend(exact.then_some("--marks"));
        let (told, said) = desk.call(&url, &agent.ca(), name, &more);
        let context = format!("{name} at {rate}: {said}\nagent: {}", agent.log());
        assert_eq!((&told["ok"], &told["ended_by"]), (&true.into(), &"caller".into()), "{context}");
        assert_eq!(told["dialect"], name, "{context}");
        let marks = [&told["marks"], &told["marks_told"]].map(|count| count.as_u64().unwrap());
        // The last messages are still to be heard when the caller hangs up.
        assert!(marks[1] <= marks[0] && marks[0] <= marks[1] + 10, "{context}");
        if !both {
            return;
        }
        assert_eq!(told["rate"], rate.hz(), "{context}");
        if exact {
            assert_eq!((&told["bit_exact"], &told["lost"]), (&true.into(), &0.into()), "{context}");
            let p50 = told["delay_ms_p50"].as_f64().unwrap();
            assert!((0.0..600.0).contains(&p50), "{context}");
        } else {
            let (played, heard) = (desk.samples("in.wav").1, desk.samples("out.wav").1);
            let like = likeness(&played[..rate.samples(200)], &heard[..heard.len().min(rate.samples(2000))]);
            assert!(like > 0.99, "{like} {context}");
        }
    });
}

#[test]
fn in_every_dialect_an_agent_that_clears_and_then_hangs_up_is_understood() {
    each(|name, rate| {
        let (_, both) = promises(name, rate);
        if Some(&rate) != dialect::rates(name).first() || !both {
            return;
        }
        let desk = Desk::new(rate, 4000);
        let burst = format!("burst:{}", desk.wav("in.wav").display());
        let agent = Agent::start(name, &["--behave", &burst, "--clear-after", "600", "--hangup-after", "1500"]);
        let hz = rate.hz().to_string();
        let (told, said) = desk.call(&format!("{}/ws", agent.url), &agent.ca(), name, &["--sample-rate", &hz]);
        let context = format!("{name}: {said}\nagent: {}", agent.log());
        assert_eq!((&told["ok"], &told["ended_by"]), (&true.into(), &"server".into()), "{context}");
        let has_no_word = agent.log().contains("no word for clear");
        assert_eq!(told["clears"], u64::from(!has_no_word), "{context}");
        if !has_no_word {
            // Of 4 s 0.6 were heard before the clear.
            let (rate, heard) = desk.samples("out.wav");
            let loud = heard.iter().filter(|&&sample| sample != 0).count() * 1000 / rate as usize;
            assert!((200..1200).contains(&loud), "{loud} ms, {context}");
        }
    });
}

#[test]
fn either_half_of_a_farewell_is_enough_to_end_a_call() {
    for (name, half) in
        [("exotel", "--stop-without-close"), ("exotel", "--close-without-stop"), ("ozonetel", "--stop-without-close")]
    {
        let (agent, desk) = (Agent::start(name, &[]), Desk::new(Rate::Hz8000, 300));
        let (told, said) = desk.call(&format!("{}/ws", agent.url), &agent.ca(), name, &[half, "--hangup-after", "700"]);
        assert_eq!((&told["ok"], &told["ended_by"]), (&true.into(), &"caller".into()), "{name} {half}: {said}");
        let log = agent.log();
        assert!(log.contains("call ended"), "{name} {half}: {log}");
    }
}

#[test]
fn what_cannot_be_called_is_told_with_the_next_step() {
    let desk = Desk::new(Rate::Hz8000, 20);
    let refused = |more: &[&str]| {
        let output = Command::new(BIN)
            .args(["call", "--record", "/dev/null", "--play"])
            .arg(desk.wav("in.wav"))
            .args(more)
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let pair = desk.wav("pair");
    fs::write(&pair, "no colon\n").unwrap();
    let pair = pair.to_str().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = format!("ws://{free}/ws");
    let local = ["--websocket", nobody.as_str(), "--dialect", "exotel"];
    let with =
        |more: &[&'static str]| local.into_iter().chain(more.iter().copied()).map(str::to_owned).collect::<Vec<_>>();
    for (args, words) in [
        (with(&[]), "trunkline agent --listen"),
        (with(&["--sample-rate", "48000"]), "--sample-rate can be 8000, 16000, 24000"),
        (with(&["--header", "Authorization: Bearer hush"]), "--bearer-file"),
        (with(&["--header", "Host: other"]), "the handshake's own"),
        (with(&["--option", "nothing=1"]), "a vendor has no such option"),
        (with(&["--custom", "lane"]), "write KEY=VALUE"),
    ] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let said = refused(&args);
        assert!(said.contains(words) && !said.contains("hush"), "{args:?}: {said}");
    }
    let said = refused(&["--websocket", "ws://192.0.2.1/ws?token=hush", "--dialect", "binary"]);
    assert!(said.contains("--insecure") && !said.contains("hush"), "{said}");
    let said = refused(&[&local[..], &["--basic-file", pair]].concat());
    assert!(said.contains("wanted user:password") && !said.contains("no colon"), "{said}");
    let said = refused(&["--websocket", "ws://127.0.0.1:1/", "--dialect", "nobodys"]);
    assert!(said.contains("binary, ozonetel, exotel"), "{said}");
    let said = refused(&["--websocket", "ws://127.0.0.1:1/"]);
    assert!(said.contains("--dialect <NAME>"), "{said}");
    assert!(refused(&["--dialect", "exotel"]).contains("--websocket"));
}

#[test]
fn an_agent_whose_ca_is_unknown_is_not_called() {
    let (agent, desk) = (Agent::start("exotel", &[]), Desk::new(Rate::Hz8000, 20));
    let output = Command::new(BIN)
        .args(["call", "--websocket", &agent.url, "--dialect", "exotel", "--play"])
        .arg(desk.wav("in.wav"))
        .arg("--record")
        .arg(desk.wav("out.wav"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("TLS handshake failed") && said.contains("--ca"), "{said}");
    assert!(!desk.wav("out.wav").exists());
}
