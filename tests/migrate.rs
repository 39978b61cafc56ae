//! Each system that Trunkline stands in for or joins, by its file of `configs/`: the daemon as a process, and stand-ins
//! where the vendor, the agent, Redis and Telnyx would be.
//!
//! A file is taken as it is but for addresses and paths of secrets. Of what stands in it as a comment, a test takes in what
//! a machine of its own is needed for: keys and passwords.
//!
//! `scripts/setup test` installs Redis. Where it is missing that one test is not run, unless `CI` is set.

#![allow(clippy::unwrap_used)]

#[path = "sip/mod.rs"]
mod sip;
#[path = "site/mod.rs"]
mod site;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread,
};

use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use serde_json::{Value, json};
use site::{Process, SOON, TRUNKLINE, free_ports, http_get, noise, write_wav};
use tempfile::TempDir;

/// What a file of `configs/` says, with these places changed. Each of them has to be there.
fn adapt(file: &str, changes: &[(&str, String)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(file);
    let mut text = fs::read_to_string(&path).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{file} has no {from}");
        text = text.replace(from, to);
    }
    text
}

/// `trunkline run` with a file of `configs/`, ready for calls.
struct Service {
    process: Process,
    dir: TempDir,
    /// Where its line listens.
    port: u16,
    /// One more port, for what else listens.
    second: u16,
}

impl Service {
    /// `changes` are given the two ports and a folder for secrets.
    fn start(file: &str, changes: impl Fn(u16, u16, &Path) -> Vec<(&'static str, String)>) -> Self {
        // Between our asking and its binding somebody else may take a port.
        for _ in 0..5 {
            let dir = tempfile::tempdir().unwrap();
            let ports = free_ports(3);
            let mut text = adapt(file, &changes(ports[0], ports[1], dir.path()));
            let state = dir.path().join("state");
            fs::create_dir(&state).unwrap();
            if text.contains("\n[control]\n") {
                text = text.replace("127.0.0.1:9464", &format!("127.0.0.1:{}", ports[2]));
            } else {
                text += &format!("\n[control]\nhttp = \"127.0.0.1:{}\"\ndrain-seconds = 0\n", ports[2]);
            }
            text += &format!("\n[records]\ndirectory = {state:?}\n");
            let path = dir.path().join(file);
            fs::write(&path, text).unwrap();
            let process = Process::start(Command::new(TRUNKLINE).arg("run").arg("--config").arg(&path));
            let said = process.any_line(&["ready for calls", "in use"]);
            if said.contains("ready for calls") {
                return Self { process, dir, port: ports[0], second: ports[1] };
            }
        }
        panic!("no free ports");
    }

    /// Where a vendor connects to.
    fn url(&self, target: &str) -> String {
        format!("ws://127.0.0.1:{}{target}", self.port)
    }

    /// Ends it, and gives the records of its calls.
    fn records(self) -> Vec<Value> {
        self.process.line(&["call ended"]);
        self.process.terminate();
        let (status, said) = self.process.wait(SOON);
        assert!(status.success(), "{said}");
        let records = fs::read_to_string(self.dir.path().join("state/records.jsonl")).unwrap();
        records.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The record of its only call.
    fn record(self) -> Value {
        let mut records = self.records();
        assert_eq!(records.len(), 1, "{records:?}");
        records.remove(0)
    }
}

/// `trunkline agent`, and where it is to be called.
fn agent(dialect: &str, more: &[&str]) -> (Process, String) {
    let mut command = Command::new(TRUNKLINE);
    command.args(["agent", "--listen", "127.0.0.1:0", "--dialect", dialect, "--plain"]).args(more);
    let agent = Process::start(&mut command);
    let said = agent.line(&["ws://"]);
    let url = said.split_whitespace().find(|word| word.starts_with("ws://")).unwrap();
    let url = url.trim_end_matches('/').to_owned();
    (agent, url)
}

/// `trunkline call`: whether it went well, what it told at its end, and all that it said.
fn call(dir: &Path, to: &[&str]) -> (bool, Value, String) {
    let wav = dir.join("in.wav");
    write_wav(&wav, &noise(0.6, 7));
    let mut command = Command::new(TRUNKLINE);
    command.args(["call", "--json", "--hangup-after", "1500", "--play"]).arg(&wav);
    command.arg("--record").arg(dir.join("out.wav")).args(to);
    let output = command.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let told = said.lines().rfind(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap());
    (output.status.success(), told.unwrap_or_default(), said)
}

/// A file that only we can read.
fn secret(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// One request to a web server, head and body.
type Asked = (String, Value);

/// A web server that takes whatever it is told.
fn web() -> (String, mpsc::Receiver<Asked>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, asked) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let head = head(&mut stream);
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
            });
            let mut body = vec![0; length.unwrap_or_default()];
            stream.read_exact(&mut body).unwrap();
            let answer = r#"{"data":{"result":"ok"}}"#;
            let length = answer.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{answer}");
            stream.get_mut().write_all(answer.as_bytes()).unwrap();
            if tell.send((head, serde_json::from_slice(&body).unwrap())).is_err() {
                return;
            }
        }
    });
    (url, asked)
}

fn head(stream: &mut BufReader<TcpStream>) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).unwrap(), 0, "{head}");
    }
    head
}

#[track_caller]
fn assert_record(record: &Value, line_dialect: Option<&str>, dialect: Option<&str>, end_reason: &str) {
    assert_eq!(
        (&record["line_dialect"], &record["dialect"], &record["end_reason"]),
        (&json!(line_dialect), &json!(dialect), &json!(end_reason)),
        "{record}"
    );
}

/// A listening line at its test's port.
fn line(port: u16) -> (&'static str, String) {
    (r#"listen = "127.0.0.1:8443""#, format!(r#"listen = "127.0.0.1:{port}""#))
}

fn pbx(port: u16) -> (&'static str, String) {
    (r#"listen = "127.0.0.1:9092""#, format!(r#"listen = "127.0.0.1:{port}""#))
}

#[test]
fn a_pbx_reaches_each_agent_that_a_file_is_there_for() {
    for (file, dialect, from, target) in [
        ("trunkline.toml", "ozonetel", r#"url = "wss://agent.example.com/ws""#, "/ws"),
        ("echo-ws-local.toml", "ozonetel", r#"url = "ws://127.0.0.1:8765/ws""#, "/ws"),
        ("exotel-wss.toml", "exotel", r#"url = "wss://agent.example.com/ws""#, "/ws"),
        (
            "openai-wss.toml",
            "openai",
            r#"# url = "wss://desk.openai.azure.com/openai/v1/realtime""#,
            "/openai/v1/realtime",
        ),
    ] {
        let (_agent, url) = agent(dialect, &[]);
        let service = Service::start(file, |port, _, _| vec![pbx(port), (from, format!("url = \"{url}{target}\""))]);
        let address = format!("127.0.0.1:{}", service.port);
        let (ok, told, said) = call(service.dir.path(), &["--audiosocket", &address]);
        assert!(ok && told["ended_by"] == "caller", "{file}: {said}");
        assert_record(&service.record(), None, Some(dialect), "line-hung-up");
    }
}

#[test]
fn a_vendor_calls_what_was_a_voice_agent_and_openai_answers() {
    let (_agent, url) = agent("openai", &[]);
    let service = Service::start("voice-agent.toml", |port, _, dir| {
        let key = secret(dir, "openai-key", "sk-test");
        vec![
            line(port),
            ("/var/lib/trunkline", dir.display().to_string()),
            (r#"# url = "wss://api.openai.com/v1/realtime""#, format!("url = \"{url}/v1/realtime\"")),
            (r#"# bearer = { credential = "openai-key" }"#, format!("bearer = {{ file = {key:?} }}")),
        ]
    });
    let (ok, _, said) = call(service.dir.path(), &["--websocket", &service.url("/"), "--dialect", "ozonetel"]);
    assert!(!ok && said.contains("404"), "the path is exactly /ws: {said}");
    let (ok, told, said) = call(service.dir.path(), &["--websocket", &service.url("/ws"), "--dialect", "ozonetel"]);
    assert!(ok && told["ended_by"] == "caller" && told["rate"] == 8000, "{said}");
    let files = service.dir.path().join("call-files/calls");
    service.process.line(&["call ended"]);
    site::wait_for("the file of the call", || fs::read_dir(&files).is_ok_and(|files| files.count() == 1));
    assert_record(&service.record(), Some("ozonetel"), Some("openai"), "line-hung-up");
}

#[test]
fn ozonetels_cloud_calls_and_goes_on_with_its_flow_when_the_agent_closes() {
    let (_agent, url) = agent("binary", &["--sample-rate", "16000", "--hangup-after", "1000"]);
    let service = Service::start("ozonetel-line.toml", |port, _, dir| {
        vec![
            line(port),
            ("/var/lib/trunkline", dir.display().to_string()),
            (r#"url = "wss://agent.example.com/voice""#, format!("url = \"{url}/voice\"")),
        ]
    });
    let (ok, told, said) = call(service.dir.path(), &["--websocket", &service.url("/ws"), "--dialect", "ozonetel"]);
    assert!(ok && told["ended_by"] == "server", "{said}");
    let events = fs::read_dir(service.dir.path().join("events")).unwrap().count();
    assert_eq!(events, 1, "stream_events_*.jsonl");
    // A close without a word gives the caller back to Ozonetel's flow.
    assert_record(&service.record(), Some("ozonetel"), Some("binary"), "handed-back");
}

/// A frame of a server, with this text.
fn frame(op: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | op];
    match payload.len() {
        len @ 0..=125 => frame.push(len as u8),
        len => {
            frame.push(126);
            frame.extend((len as u16).to_be_bytes());
        }
    }
    frame.extend(payload);
    frame
}

/// The next frame of a client.
fn read_frame(stream: &mut BufReader<TcpStream>) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    let len = match head[1] & 0x7f {
        126 => {
            let mut len = [0; 2];
            stream.read_exact(&mut len).unwrap();
            usize::from(u16::from_be_bytes(len))
        }
        len => usize::from(len),
    };
    let mut mask = [0; 4];
    stream.read_exact(&mut mask).unwrap();
    let mut payload = vec![0; len];
    stream.read_exact(&mut payload).unwrap();
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    (head[0] & 0xf, payload)
}

#[test]
fn a_vendor_that_is_dialled_places_its_call_on_that_connection() {
    let (_agent, url) = agent("ozonetel", &[]);
    let vendor = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = vendor.local_addr().unwrap();
    let service = Service::start("ozonetel-dial.toml", |_, _, _| {
        vec![
            (r#"dial = "wss://vendor.example.com/stream""#, format!("dial = \"ws://{address}/stream\"")),
            (r#"url = "wss://agent.example.com/ws""#, format!("url = \"{url}/ws\"")),
            (r#"# headers = { X-Site = "depot" }"#, r#"headers = { X-Site = "depot" }"#.to_owned()),
        ]
    });
    let (stream, _) = vendor.accept().unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut stream = BufReader::new(stream);
    let asked = head(&mut stream);
    assert!(asked.starts_with("GET /stream HTTP/1.1\r\n") && asked.contains("X-Site: depot\r\n"), "{asked}");
    let key = asked.split("Sec-WebSocket-Key: ").nth(1).unwrap().split("\r\n").next().unwrap();
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    let mut said = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
    .into_bytes();
    // Half a second of a caller, as KooKoo sends it: 10 ms a packet.
    said.extend(frame(1, br#"{"event":"start","type":"text","ucid":"21990011223344556","did":"08040001234"}"#));
    let voice = noise(0.5, 3);
    for samples in voice.chunks(80) {
        let media = json!({
            "event": "media", "type": "media", "ucid": "21990011223344556",
            "data": {
                "samples": samples, "bitsPerSample": 16, "sampleRate": 8000, "channelCount": 1,
                "numberOfFrames": 80, "type": "data",
            },
        });
        said.extend(frame(1, media.to_string().as_bytes()));
    }
    stream.get_mut().write_all(&said).unwrap();
    let mut heard = Vec::new();
    while heard.len() < voice.len() * 3 / 4 {
        let (op, payload) = read_frame(&mut stream);
        assert_eq!(op, 1, "{}", String::from_utf8_lossy(&payload));
        let message: Value = serde_json::from_slice(&payload).unwrap();
        let samples = message["data"]["samples"].as_array().into_iter().flatten();
        heard.extend(samples.filter_map(Value::as_i64).filter(|&sample| sample != 0).map(|sample| sample as i16));
    }
    assert_eq!(heard[..], voice[..heard.len()], "the echo, sample for sample");
    let stop = br#"{"event":"stop","type":"text","ucid":"21990011223344556","did":"08040001234"}"#;
    stream.get_mut().write_all(&[frame(1, stop), frame(8, &1000_u16.to_be_bytes())].concat()).unwrap();
    let record = service.record();
    assert_eq!(record["ucid"], "21990011223344556");
    assert_record(&record, Some("ozonetel"), Some("ozonetel"), "line-hung-up");
}

#[test]
fn exotels_voicebot_applet_asks_where_to_connect_and_goes_on_with_its_flow_when_the_agent_closes() {
    let (_agent, url) = agent("exotel", &["--hangup-after", "1200"]);
    let service = Service::start("exotel-voicebot.toml", |port, _, dir| {
        let password = secret(dir, "exotel-password", "s3cret");
        vec![
            line(port),
            (r#"url = "wss://agent.example.com/ws""#, format!("url = \"{url}/ws\"")),
            (
                r#"# basic = { user = "exotel", password = { credential = "exotel-password" } }"#,
                format!("basic = {{ user = \"exotel\", password = {{ file = {password:?} }} }}"),
            ),
        ]
    });
    let told = http_get(service.port, "/api/ingest/exotel-endpoint");
    assert!(told.ends_with("{\"url\":\"wss://voice.example.com/voicebot\"}\n"), "{told}");
    let good = secret(service.dir.path(), "good", "exotel:s3cret");
    let bad = secret(service.dir.path(), "bad", "exotel:hush");
    let url = service.url("/voicebot?sample-rate=16000&lane=7");
    let to = |pair: &Path| {
        let arguments = [
            "--websocket",
            &url,
            "--dialect",
            "exotel",
            "--from",
            "+911100000001",
            "--basic-file",
            pair.to_str().unwrap(),
        ];
        call(service.dir.path(), &arguments)
    };
    let (ok, _, said) = to(&bad);
    assert!(!ok && said.contains("401") && !said.contains("hush"), "{said}");
    service.process.line(&["a connection did not become a call", "its user or password is wrong"]);
    let (ok, told, said) = to(&good);
    assert!(ok && told["ended_by"] == "server", "{said}");
    let record = service.record();
    assert_eq!((&record["rate_hz"], &record["from"]), (&json!(16000), &json!("***01")));
    assert_record(&record, Some("exotel"), Some("exotel"), "handed-back");
}

#[test]
fn exotels_stream_applet_is_recorded_and_a_web_service_is_told_of_it() {
    let (crm, told) = web();
    let service = Service::start("exotel-stream.toml", |port, _, dir| {
        vec![line(port), ("/var/lib/trunkline", dir.display().to_string()), ("https://crm.example.com", crm.clone())]
    });
    let arguments = ["--websocket", &service.url("/stream"), "--dialect", "exotel", "--option", "direction=uplink"];
    let (ok, _, said) = call(service.dir.path(), &arguments);
    assert!(ok, "{said}");
    let (head, item) = told.recv_timeout(SOON).unwrap();
    assert!(head.starts_with("POST /calls HTTP/1.1\r\n"), "{head}");
    assert_eq!((&item["kind"], &item["reason"]), (&json!("call_end"), &json!("line-hung-up")));
    let recordings = service.dir.path().join("recordings");
    let recorded: Vec<_> = fs::read_dir(&recordings).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [file] = &recorded[..] else { panic!("{recorded:?}") };
    let samples: Vec<i16> = hound::WavReader::open(file).unwrap().samples().map(Result::unwrap).collect();
    let caller: Vec<i16> = samples.chunks(2).map(|pair| pair[0]).filter(|&sample| sample != 0).collect();
    assert_eq!(caller, noise(0.6, 7), "the caller, left, sample for sample");
    let record = service.record();
    assert_eq!((&record, &record["direction"]), (&item["record"], &json!("uplink")));
    assert_record(&record, Some("exotel"), None, "line-hung-up");
}

/// Redis, with nothing on the disk. `None`: it is not installed.
fn redis(dir: &Path) -> Option<(Process, redis::Connection, u16)> {
    if Command::new("redis-server").arg("--version").output().is_err() {
        let in_ci = std::env::var_os("CI").is_some_and(|ci| !ci.is_empty());
        assert!(!in_ci, "redis-server is missing: run scripts/setup test");
        println!("not run: redis-server is missing, scripts/setup test installs it");
        return None;
    }
    let port = free_ports(1)[0];
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no", "--dir"]);
    let server = Process::start(command.arg(dir));
    server.line(&["eady to accept connections"]);
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).unwrap();
    Some((server, client.get_connection().unwrap(), port))
}

/// The entries of a stream, once there are so many: each the JSON of its one field.
fn entries(redis: &mut redis::Connection, stream: &str, at_least: usize) -> Vec<Value> {
    type Entries = Vec<(String, Vec<(String, String)>)>;
    let mut found = Entries::new();
    site::wait_for(stream, || {
        found = redis::cmd("XRANGE").arg(stream).arg("-").arg("+").query(redis).unwrap();
        found.len() >= at_least
    });
    let data = |(_, fields): (String, Vec<(String, String)>)| {
        assert_eq!((fields.len(), fields[0].0.as_str()), (1, "data"));
        serde_json::from_str(&fields[0].1).unwrap()
    };
    found.into_iter().map(data).collect()
}

#[test]
fn an_rtaa_sender_and_exotel_reach_what_was_the_ingest_and_redis_has_what_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let Some((_server, mut redis, redis_port)) = redis(dir.path()) else { return };
    let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys");
    let ingest = Service::start("rtaa-ingest.toml", |port, _, dir| {
        let password = secret(dir, "exotel-password", "s3cret");
        vec![
            line(port),
            ("/var/lib/trunkline", dir.display().to_string()),
            ("redis://127.0.0.1:6379", format!("redis://127.0.0.1:{redis_port}")),
            ("# jwt = ", "jwt = ".to_owned()),
            ("/etc/trunkline/rtaa-public.pem", keys.join("rsa-public.pem").display().to_string()),
            (
                r#"# basic = { user = "exotel", password = { credential = "exotel-password" } }"#,
                format!("basic = {{ user = \"exotel\", password = {{ file = {password:?} }} }}"),
            ),
        ]
    });
    // rtaafin, services/ingest.
    let health = http_get(ingest.port, "/health");
    let (head, body) = health.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(
        (&body["status"], &body["service"], &body["exotelBridge"]),
        (&json!("healthy"), &json!("ingest"), &json!("enabled"))
    );

    // A PBX, whose calls our own sender of such calls puts on it: the two halves of one key.
    let sender = Service::start("rtaa-trunk.toml", |port, _, dir| {
        let key = secret(dir, "rtaa-key", &fs::read_to_string(keys.join("rsa-private.pem")).unwrap());
        vec![
            pbx(port),
            ("wss://ingest.example.com/v1/ingest", ingest.url("/v1/ingest")),
            ("# jwt = ", "jwt = ".to_owned()),
            (r#"{ credential = "rtaa-key" }"#, format!("{{ file = {key:?} }}")),
        ]
    });
    let uuid = "40325ec2-5efd-4bd3-805f-53576e581d13";
    let address = format!("127.0.0.1:{}", sender.port);
    let (_, told, said) = call(sender.dir.path(), &["--audiosocket", &address, "--uuid", uuid]);
    assert_eq!(told["ended_by"], "caller", "{said}");
    assert_record(&sender.record(), None, Some("rtaa"), "line-hung-up");

    let ended = entries(&mut redis, "call_end", 1);
    assert_eq!(
        (&ended[0]["interaction_id"], &ended[0]["tenant_id"], &ended[0]["reason"]),
        (&json!(uuid), &json!("depot"), &json!("line-hung-up"))
    );
    for key in ["call_sid", "stream_sid"] {
        assert!(ended[0][key].is_string(), "{key}: {ended:?}");
    }
    assert!(ended[0]["timestamp_ms"].is_u64(), "{ended:?}");
    let audio = entries(&mut redis, "audio_stream", 10);
    let mut heard = Vec::new();
    for (entry, seq) in audio.iter().zip(1..) {
        assert_eq!(
            (&entry["interaction_id"], &entry["tenant_id"], &entry["sample_rate"], &entry["encoding"]),
            (&json!(uuid), &json!("depot"), &json!(8000), &json!("pcm16"))
        );
        assert!(entry["seq"] == seq && entry["timestamp_ms"].is_u64(), "{entry}");
        let pcm = base64_simd::STANDARD.decode_to_vec(entry["audio"].as_str().unwrap()).unwrap();
        heard.extend(pcm.chunks(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])));
    }
    assert_eq!(site::voice(&heard), noise(0.6, 7), "the caller, sample for sample");

    // Exotel on the same path: not without a password, which here is the only way in for it.
    let url = ingest.url("/v1/ingest?sample-rate=8000");
    let (ok, _, said) = call(dir.path(), &["--websocket", &url, "--dialect", "exotel"]);
    assert!(!ok && said.contains("401"), "{said}");
    let pair = secret(dir.path(), "pair", "exotel:s3cret");
    let exotel = "0f8b2c6e-51d4-4f0a-9e37-62a1c4d97b80";
    let pair = pair.to_str().unwrap();
    let arguments = [
        "--websocket",
        &url,
        "--dialect",
        "exotel",
        "--basic-file",
        pair,
        "--uuid",
        exotel,
        "--option",
        "direction=uplink",
    ];
    let (ok, _, said) = call(dir.path(), &arguments);
    assert!(ok, "{said}");
    let ended = entries(&mut redis, "call_end", 2);
    assert_eq!((&ended[1]["interaction_id"], &ended[1]["call_sid"]), (&json!(exotel), &json!(exotel)));

    let records = ingest.records();
    assert_record(&records[0], Some("rtaa"), None, "line-hung-up");
    assert_record(&records[1], Some("exotel"), None, "line-hung-up");
}

#[test]
fn a_call_at_telnyx_is_answered_streamed_here_and_hung_up_there() {
    let (_agent, url) = agent("ozonetel", &["--hangup-after", "1200"]);
    let (api, asked) = web();
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    let public_key = base64_simd::STANDARD.encode_to_string(pair.public_key().as_ref());
    let service = Service::start("telnyx.toml", |port, second, dir| {
        let key = secret(dir, "telnyx-api-key", "KEY0123_abc");
        vec![
            line(port),
            ("IbKMHXVpJbj1bLUMczT5OZlMiKjwB0fGm/VtEOSrsLA=", public_key.clone()),
            (
                r#"# api-key = { credential = "telnyx-api-key" }"#,
                format!("api-key = {{ file = {key:?} }}\napi-url = \"{api}\"\nwebhook-listen = \"127.0.0.1:{second}\""),
            ),
            (r#"url = "wss://agent.example.com/ws""#, format!("url = \"{url}/ws\"")),
        ]
    });
    let id = "40325ec2-5efd-4bd3-805f-53576e581d13";
    // Telnyx, "Receiving Webhooks" and API reference, "Callbacks".
    let tell = |event: &str, more: &str| {
        let body = format!(
            r#"{{"data":{{"record_type":"event","event_type":"{event}","id":"{event}-1","payload":{{"call_control_id":"{id}","from":"+15418556816","to":"+12568349765"{more}}}}}}}"#
        );
        let at = trunkline::clock::epoch_ms() / 1000;
        let signature = pair.sign(format!("{at}|{body}").as_bytes());
        let signature = base64_simd::STANDARD.encode_to_string(signature.as_ref());
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, service.second)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let length = body.len();
        let request = format!(
            "POST /telnyx HTTP/1.1\r\nHost: voice.example.com\r\nContent-Length: {length}\r\nConnection: close\r\n\
             telnyx-signature-ed25519: {signature}\r\ntelnyx-timestamp: {at}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    };
    let command = |action: &str| {
        let (head, body) = asked.recv_timeout(SOON).unwrap();
        assert!(head.starts_with(&format!("POST /v2/calls/{id}/actions/{action} ")), "{head}");
        body
    };
    tell("call.initiated", r#","direction":"incoming","state":"parked""#);
    command("answer");
    tell("call.answered", "");
    let streaming = command("streaming_start");
    let wanted = format!("wss://voice.example.com/media-stream-ws?call_id={id}");
    assert_eq!((&streaming["stream_url"], &streaming["stream_codec"]), (&json!(wanted), &json!("PCMU")));

    let target = service.url(&format!("/media-stream-ws?call_id={id}"));
    let (ok, told, said) = call(service.dir.path(), &["--websocket", &target, "--dialect", "telnyx", "--uuid", id]);
    assert!(ok && told["ended_by"] == "server", "{said}");
    command("hangup");
    let steps = [
        "a call rings at Telnyx",
        "the call at Telnyx is answered",
        "Telnyx is asked to stream the call",
        "Telnyx's socket is connected",
        "first frame from Telnyx",
        "first frame to the agent",
        "first frame from the agent",
        "first frame to Telnyx",
    ];
    steps.iter().for_each(|step| drop(service.process.line(&[step, id])));
    let said = service.process.said();
    let at = steps.map(|step| said.find(step).unwrap());
    assert!(at.is_sorted(), "{at:?} in\n{said}");
    assert_record(&service.record(), Some("telnyx"), Some("ozonetel"), "trunk-hung-up");
}

#[test]
fn where_the_agent_is_dead_the_log_names_it_and_the_record_does_not_blame_the_vendor() {
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let service = Service::start("exotel-voicebot.toml", |port, _, _| {
        vec![line(port), (r#"url = "wss://agent.example.com/ws""#, format!("url = \"ws://{nobody}/ws\""))]
    });
    let (ok, _, said) = call(service.dir.path(), &["--websocket", &service.url("/voicebot"), "--dialect", "exotel"]);
    assert!(!ok && said.contains("1011"), "{said}");
    let warned = service.process.line(&["trunk did not take the call", "trunk=agent"]);
    assert!(warned.contains(&nobody.to_string()) && warned.contains("check the port"), "{warned}");
    let record = service.record();
    assert_record(&record, Some("exotel"), None, "trunk-refused");
    assert_eq!(record["words"], Value::Null);
}

#[test]
fn two_vendors_find_their_own_paths_on_one_line() {
    let (_agent, url) = agent("ozonetel", &[]);
    let service = Service::start("websocket-line.toml", |port, _, _| {
        vec![line(port), (r#"url = "wss://agent.example.com/ws""#, format!("url = \"{url}/ws\""))]
    });
    for (target, dialect) in [("/ws", "ozonetel"), ("/v1/ingest", "exotel")] {
        let (ok, _, said) = call(service.dir.path(), &["--websocket", &service.url(target), "--dialect", dialect]);
        assert!(ok, "{said}");
    }
    let records = service.records();
    assert_record(&records[0], Some("ozonetel"), Some("ozonetel"), "line-hung-up");
    assert_record(&records[1], Some("exotel"), Some("ozonetel"), "line-hung-up");
}

/// A phone calls, says something, and hears it again from an agent that echoes.
fn call_by_sip(service: &Service) {
    let wire = sip::wire::Wire::open((Ipv4Addr::LOCALHOST, service.port).into());
    let (socket, port) = sip::wire::Voice::socket();
    wire.send(&wire.invite("driven", port));
    let answered = wire.until("SIP/2.0 200");
    let tag = answered.to_tag();
    wire.send(&wire.request("ACK", "driven", 1, tag));
    let voice = sip::wire::Voice::speak(socket, answered.media(), sip::companded(1.0, 1));
    voice.until_heard(8_000);
    wire.send(&wire.request("BYE", "driven", 2, tag));
    wire.until("SIP/2.0 200");
    let heard = voice.stop();
    assert!(heard.iter().flat_map(|(_, _, payload)| payload).any(|&code| !sip::wire::is_silence(code)));
}

/// The line of a file for SIP, and the agent, on this machine.
fn sip_line(port: u16, agent: &str) -> Vec<(&'static str, String)> {
    vec![
        (r#"listen = "192.0.2.20:5060""#, format!("listen = \"127.0.0.1:{port}\"")),
        (r#"url = "wss://agent.example.com/ws""#, format!("url = \"{agent}/ws\"")),
    ]
}

#[test]
fn a_pbx_brings_calls_by_sip_as_to_a_trunk() {
    let (_agent, url) = agent("ozonetel", &[]);
    let service = Service::start("sip-trunk.toml", |port, _, _| {
        [sip_line(port, &url), vec![(r#"allow = ["192.0.2.10"]"#, "allow = [\"127.0.0.1\"]".to_owned())]].concat()
    });
    call_by_sip(&service);
    assert_record(&service.record(), None, Some("ozonetel"), "line-hung-up");
}

#[test]
fn a_pbx_brings_calls_by_sip_to_its_extension() {
    if !sip::is_installed("python3") {
        return;
    }
    let registrar = sip::extension::registrar(&[]);
    let at = site::number(&registrar.line(&["listening="]), "listening");
    let (_agent, url) = agent("ozonetel", &[]);
    let service = Service::start("sip-extension.toml", |port, _, dir| {
        let password = secret(dir, "pbx-password", sip::extension::PASSWORD);
        let more = vec![
            (r#"registrar = "sip:192.0.2.10""#, format!("registrar = \"sip:127.0.0.1:{at}\"")),
            ("user = \"201\"\n", format!("user = \"201\"\npassword = {{ file = {password:?} }}\n")),
        ];
        [sip_line(port, &url), more].concat()
    });
    service.process.line(&["the line is registered"]);
    call_by_sip(&service);
    assert_record(&service.record(), None, Some("ozonetel"), "line-hung-up");
}

#[test]
fn asterisk_and_freeswitch_connect_to_a_path_of_their_own() {
    let (_agent, url) = agent("vonage", &[]);
    for (file, target, dialect) in [
        ("asterisk-websocket.toml", "/asterisk", "asterisk"),
        ("freeswitch-audiofork.toml", "/freeswitch", "audiofork"),
    ] {
        let service = Service::start(file, |port, _, _| {
            vec![line(port), (r#"url = "wss://agent.example.com/ws""#, format!("url = \"{url}/ws\""))]
        });
        let (ok, _, said) = call(service.dir.path(), &["--websocket", &service.url(target), "--dialect", dialect]);
        assert!(ok, "{file}: {said}");
        assert_record(&service.record(), Some(dialect), Some("vonage"), "line-hung-up");
    }
}

#[test]
fn a_program_talks_over_a_unix_socket_and_eagis_caller_is_listened_to() {
    let (_agent, url) = agent("binary", &[]);
    let service = Service::start("unix-socket.toml", |_, _, dir| {
        vec![
            ("/run/trunkline", dir.display().to_string()),
            (r#"url = "wss://agent.example.com/ws""#, format!("url = \"{url}/ws\"")),
        ]
    });
    let said = noise(0.6, 7);
    let line = r#"TRUNKLINE/1 {"from":"+49301234"}"#;
    let (answer, heard) = through(&service.dir.path().join("desk.sock"), line, &said);
    assert!(answer.contains(r#""sample_rate":16000,"direction":"both""#), "{answer}");
    assert_eq!(site::voice(&heard), said, "the echo, sample for sample");
    let record = service.record();
    assert_eq!((&record["from"], &record["rate_hz"]), (&json!("***34"), &json!(16000)));
    assert_record(&record, None, Some("binary"), "line-hung-up");

    let (_agent, url) = agent("ozonetel", &[]);
    let service = Service::start("eagi.toml", |_, _, dir| {
        vec![
            ("/run/trunkline", dir.display().to_string()),
            (r#"url = "wss://agent.example.com/ws""#, format!("url = \"{url}/ws\"")),
        ]
    });
    // As `trunkline eagi` does, which tests/pipe.rs drives by AGI.
    let (answer, heard) = through(&service.dir.path().join("eagi.sock"), line, &said);
    assert!(answer.contains(r#""sample_rate":8000,"direction":"uplink""#) && heard.is_empty(), "{answer}");
    let record = service.record();
    assert_eq!(record["direction"], "uplink");
    assert_record(&record, None, Some("ozonetel"), "line-hung-up");
}

/// Says a line and speech on a Unix socket. What was answered, and heard.
fn through(socket: &Path, line: &str, speech: &[i16]) -> (String, Vec<i16>) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let speech: Vec<u8> = speech.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    stream.write_all(&[format!("{line}\n").as_bytes(), &speech].concat()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut stream = BufReader::new(stream);
    let mut answer = String::new();
    stream.read_line(&mut answer).unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).unwrap();
    (answer, heard.chunks(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect())
}

#[test]
fn every_file_of_a_system_is_driven_here() {
    let ours = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/migrate.rs")).unwrap();
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("configs")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        // A pipe is no system, nor is a sound card, which tests/sound.rs drives.
        assert!(matches!(name.as_str(), "pipe.toml" | "sound.toml") || ours.contains(&format!("\"{name}\"")), "{name}");
    }
}
