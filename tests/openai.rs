//! Dialect `openai` with OpenAI's own SDK at the other end, over real sockets.
//!
//! | peer | package | plays |
//! |---|---|---|
//! | `peers/openai_server.py` | PyPI `websockets`, messages checked by the types of `openai` | the server |
//! | `peers/openai_client.py` | PyPI `openai` | a client that calls `trunkline agent` |
//!
//! `scripts/setup-peers` installs them. Where it has not run nothing is tested here, unless `CI` is set.

#![allow(clippy::unwrap_used)]

mod site;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use site::{
    Daemon, Phone, Process, Route, SOON, TRUNKLINE, assert_same, field, noise, number, peers, voice, write_raw,
    write_wav,
};
use trunkline::media::g711::Law;

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

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn script(&self, name: &str) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name);
        let mut command = Command::new(self.peers.join("venv/bin/python"));
        command.env("PYTHONIOENCODING", "utf-8").env("PYTHONDONTWRITEBYTECODE", "1").arg(script);
        command
    }
}

/// Noise as G.711 has it: what goes over the wire, and what is heard of it. None of it is silence.
fn companded(seconds: f64, seed: u32) -> (Vec<u8>, Vec<i16>) {
    let audible = |sample: i16| if sample.abs() < 64 { 64 } else { sample };
    let coded: Vec<u8> = noise(seconds, seed).into_iter().map(|sample| Law::Mu.encode(audible(sample))).collect();
    let heard = coded.iter().map(|&code| Law::Mu.decode(code)).collect();
    (coded, heard)
}

#[test]
fn a_scripted_conversation_with_the_sdks_types_is_held_to_the_letter() {
    let Some(bench) = Bench::new() else { return };
    let (greeting, expected) = companded(3.0, 21);
    let (speech, after) = (bench.write("speech", &greeting), bench.write("after", &[Law::Mu.encode(AFTER); 800]));
    let late = bench.write("late", &[Law::Mu.encode(LATE); 4_000]);
    let server =
        Process::start(bench.script("openai_server.py").args(["--speech".as_ref(), speech.as_os_str()]).args([
            "--late".as_ref(),
            late.as_os_str(),
            "--after".as_ref(),
            after.as_os_str(),
            "--heard".as_ref(),
            bench.path("heard").as_os_str(),
        ]));
    let port = number(&server.line(&["listening="]), "listening");
    for (n, (api, own)) in [
        (
            "ga",
            r#"{"type":"realtime","instructions":"Answer for the front desk.","audio":{"output":{"voice":"marin"}}}"#,
        ),
        ("beta", r#"{"instructions":"Answer for the front desk.","voice":"alloy"}"#),
    ]
    .into_iter()
    .enumerate()
    {
        let session = bench.write("session.json", own.as_bytes());
        let url = format!("ws://127.0.0.1:{port}/{api}");
        let options = format!(
            "[trunk.{api}.openai]\nmodel = \"marble\"\naudio = \"pcmu\"\napi = \"{api}\"\nsession-file = {session:?}\n"
        );
        let route = Route { name: api, url, dialect: "openai", ca: None };
        let daemon = Daemon::start_with(&[route], "max-calls = 8", "", &options);
        let (_, said) = companded(2.0, 22);
        let phone = Phone::dial(daemon.port(api), &said);
        server.line(&["after=", api]);
        let heard_after = |heard: &[i16]| heard.iter().filter(|&&sample| sample == quantized(AFTER)).count();
        phone.until(SOON, |heard| heard_after(&heard.samples()) >= 800);
        phone.press("5");
        phone.until(SOON, |heard| heard_after(&heard.samples()) >= 1_600);
        let heard = phone.hang_up();
        let ended = daemon.ended(api);

        let session = server.nth_line(n, &["session="]);
        let sound = if api == "ga" { "audio/pcmu" } else { "g711_ulaw" };
        assert_eq!((field(&session, "sound"), field(&session, "instructions")), (sound, "Answer_for_the_front_desk."));
        let report = server.line(&["ended=", api]);
        assert_eq!((field(&report, "wrong"), number(&report, "code")), ("none", 1000), "{report}");

        // What was heard of the greeting is what it was, and as much as the server was told.
        assert!(!heard.samples().contains(&quantized(LATE)), "a late delta was heard");
        let greeting: Vec<i16> = heard.voice().into_iter().filter(|&sample| sample != quantized(AFTER)).collect();
        let whole = greeting.len() - FADED;
        let wrong = greeting[..whole].iter().zip(&expected).position(|(heard, said)| heard != said);
        assert_eq!(wrong, None, "of {whole} samples: {ended}");
        let (told, were) = (number(&server.nth_line(n, &["truncated="]), "truncated"), greeting.len() as u64 / 8);
        assert!((700..1_700).contains(&told) && told.abs_diff(were) <= 40, "{told} ms told, {were} ms heard: {ended}");

        // The caller was sent from the first word on, though the session took a while.
        let uplink: Vec<i16> =
            fs::read(bench.path("heard")).unwrap().iter().map(|&code| Law::Mu.decode(code)).collect();
        assert_same(&ended, &voice(&uplink), &said);
        assert_eq!(field(&ended, "end_reason"), "line-hung-up");
        assert_eq!((number(&ended, "malformed"), number(&ended, "unknown")), (0, 0), "{ended}");
        assert_eq!((number(&ended, "digits"), number(&ended, "clears")), (1, 1), "{ended}");
    }
}

#[test]
fn the_sdks_client_hears_our_agents_echo_in_both_shapes() {
    let Some(bench) = Bench::new() else { return };
    let (coded, heard) = companded(1.5, 23);
    let pcm = bench.path("pcm");
    write_raw(&pcm, &heard);
    for (api, sound, play) in [("ga", "pcmu", bench.write("coded", &coded)), ("beta", "pcm", pcm)] {
        // The first words are the server's, before it can know what a client understands.
        let (agent, url) = our_agent(&["--option", &format!("api={api}")]);
        let report = client(&bench, &url, api, sound, &play, &[]);
        assert_eq!(fs::read(bench.path("record")).unwrap(), fs::read(&play).unwrap(), "{report}");
        let (added, audio) = if api == "ga" {
            ("conversation.item.added", "response.output_audio")
        } else {
            ("conversation.item.created", "response.audio")
        };
        let kinds = format!(
            "session.created,session.updated,response.created,response.output_item.added,{added},\
             response.content_part.added,{audio}.delta,input_audio_buffer.committed,{audio}.done,\
             response.content_part.done,response.output_item.done,response.done,error"
        );
        assert_eq!(field(&report, "kinds"), kinds);
        assert_eq!(field(&report, "statuses"), "completed/none,error:response_cancel_not_active", "{report}");
        let ended = agent.line(&["call ended"]);
        assert!(field(&ended, "dialect") == "openai" && ended.contains("vendor: closed with 1000"), "{ended}");
    }
}

#[test]
fn the_sdks_client_is_told_of_an_interruption_and_its_truncation_is_acknowledged() {
    let Some(bench) = Bench::new() else { return };
    let wav = bench.path("speech.wav");
    write_wav(&wav, &noise(5.0, 24));
    let (_agent, url) = our_agent(&["--behave", &format!("say:{}", wav.display()), "--clear-after", "300"]);
    let play = bench.write("silence", &[0xff; 1_600]);
    let report = client(&bench, &url, "ga", "pcmu", &play, &["--interrupted"]);
    assert_eq!(field(&report, "truncated"), "item_1@20", "{report}");
    assert_eq!(field(&report, "statuses"), "cancelled/turn_detected,error:response_cancel_not_active", "{report}");
    let heard = number(&report, "heard");
    assert!((800..8_000).contains(&heard), "{report}");
}

/// `trunkline agent` for OpenAI's clients, and where it is.
fn our_agent(more: &[&str]) -> (Process, String) {
    let mut command = Command::new(TRUNKLINE);
    command.args(["agent", "--listen", "127.0.0.1:0", "--plain", "--dialect", "openai"]).args(more);
    let agent = Process::start(&mut command);
    let listening = agent.line(&["listening on"]);
    let url = listening.split(' ').next_back().unwrap().to_owned();
    (agent, format!("{url}/v1"))
}

/// Lets the SDK call; gives what it reports.
fn client(bench: &Bench, url: &str, api: &str, sound: &str, play: &Path, more: &[&str]) -> String {
    let mut command = bench.script("openai_client.py");
    command.args(["--url", url, "--api", api, "--sound", sound, "--play"]).arg(play);
    command.arg("--record").arg(bench.path("record")).args(more);
    let (status, output) = Process::start(&mut command).wait(SOON);
    assert!(status.success(), "{output}");
    let report = output.lines().find(|line| line.starts_with("ended=client")).unwrap();
    // Of a session the SDK knows what a client may set; the real server's has these beside.
    let extra = if api == "ga" { "id,object" } else { "object" };
    assert_eq!(field(report, "extra"), extra, "keys that the SDK does not know: {report}");
    report.to_owned()
}

fn quantized(sample: i16) -> i16 {
    Law::Mu.decode(Law::Mu.encode(sample))
}

/// What the server says when it was interrupted, and what nobody may hear; noise has neither.
const AFTER: i16 = 30_000;
const LATE: i16 = -30_000;
/// The end of what is heard when a clear comes: a frame at most, faded.
const FADED: usize = 160;
