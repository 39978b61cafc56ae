//! The door of a `websocket` line over real sockets, as far as the moment at which a call can begin.
//!
//! Clients are written out byte by byte, or are our own dialler. The door runs in this process, on a runtime of its own.

#![allow(clippy::unwrap_used)]

use std::{
    cell::Cell,
    fs,
    future::Future,
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::{LocalSet, spawn_local},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;
use trunkline::{
    call::{EndReason, shard::Order, vitals::Vitals},
    config::{self, Config, Environment, LineKind, Secret},
    control::metrics::{Counter, Metrics},
    dialect::{Direction, Facts},
    leg::websocket::{
        dialer::{self, DialSetup, Opening, Roots},
        door::{self, Arrival, DoorSetup, House},
        jwt::{Algorithm, Claims, Signer},
        outbound::{self, OutboundSetup},
        tls,
        wire::Side,
    },
    media::Rate,
};

const SOON: Duration = Duration::from_secs(20);
const WELL: House = House { accepting: true, draining: false, healthy: true, pubsub: None };
const KEY: &str = "thirty-two bytes of shared secret";

/// Exotel, "Working with the Stream applet".
const EXOTEL: &str = r#"{"event":"start","sequence_number":"1","stream_sid":"s1","start":{"stream_sid":"s1","call_sid":"c1","account_sid":"t-1","media_format":{"encoding":"base64","sample_rate":"8000","bit_rate":"128kbps"}}}"#;
const OZONETEL: &str = r#"{"event":"start","type":"text","ucid":"1767225600","did":"08040001234"}"#;

/// Variables and no credentials.
struct Given(&'static [(&'static str, &'static str)]);

impl Environment for Given {
    fn var(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(given, _)| *given == name).map(|(_, value)| (*value).to_owned())
    }

    fn credentials_dir(&self) -> Option<PathBuf> {
        None
    }
}

/// A config with these keys of its line.
fn config(dir: &Path, keys: &str) -> Arc<Config> {
    let text = format!(
        "[line.clouds]\nkind = \"websocket\"\n{keys}\n[trunk.agent]\nurl = \"ws://127.0.0.1:9/\"\ndialect = \"binary\"\n\
         [[route]]\nline = \"clouds\"\ntrunks = [\"agent\"]\n"
    );
    let path = dir.join("t.toml");
    fs::write(&path, text).unwrap();
    let given = Given(&[("PASSWORD", "s3cret"), ("KEY", KEY)]);
    Arc::new(config::load(&path, &given).unwrap_or_else(|problems| panic!("{problems}")))
}

const PATHS: &str = r#"
[[line.clouds.path]]
path = "/ws"
dialect = "ozonetel"
[[line.clouds.path]]
path = "/v1/ingest"
basic = { user = "exotel", password = { env = "PASSWORD" } }
jwt = { algorithm = "HS256", key = { env = "KEY" } }
[[line.clouds.path]]
path = "/raw"
dialect = "binary"
direction = "uplink"
"#;

/// A door, open.
struct Open {
    address: SocketAddr,
    arrivals: mpsc::Receiver<Arrival>,
    house: watch::Sender<House>,
    metrics: Arc<Metrics>,
    config: watch::Sender<Arc<Config>>,
    closed: CancellationToken,
}

impl Open {
    fn new(config: &Arc<Config>) -> Self {
        Self::within(SOON, config)
    }

    /// With so much patience.
    fn within(patience: Duration, config: &Arc<Config>) -> Self {
        let LineKind::Websocket(line) = &config.lines[0].kind else { panic!("another kind of line") };
        let listener = door::bind(line.listen().unwrap().address).unwrap();
        let address = listener.local_addr().unwrap();
        let (house, told) = watch::channel(WELL);
        let (sender, arrivals) = mpsc::channel(8);
        let metrics = Arc::new(Metrics::default());
        let (config, configs) = watch::channel(Arc::clone(config));
        let closed = CancellationToken::new();
        spawn_local(door::serve(DoorSetup {
            config: configs,
            line: 0,
            listener,
            arrivals: sender,
            house: told,
            metrics: Arc::clone(&metrics),
            patience,
            closed: closed.clone(),
        }));
        Self { address, arrivals, house, metrics, config, closed }
    }

    /// A door without TLS, with [`PATHS`] and these keys.
    fn plain(dir: &Path, keys: &str) -> Self {
        Self::new(&config(dir, &format!("listen = \"127.0.0.1:0\"\nplain = true\n{keys}\n{PATHS}")))
    }

    async fn arrival(&mut self) -> Arrival {
        timeout(SOON, self.arrivals.recv()).await.unwrap().unwrap()
    }

    fn is_quiet(&mut self) -> bool {
        self.arrivals.try_recv().is_err()
    }

    /// What is answered to a request, head and body.
    async fn answer(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        String::from_utf8(answer).unwrap()
    }

    /// The status that is answered to a wish to speak WebSocket.
    async fn status(&self, target: &str, more: &[&str]) -> u16 {
        status(&self.answer(&upgrade(target, more)).await)
    }

    /// A WebSocket in the clear.
    async fn connect(&self, target: &str, more: &[&str]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        ask(&mut stream, target, more).await;
        stream
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { timeout(Duration::from_secs(120), test).await.unwrap() });
}

fn upgrade(target: &str, more: &[&str]) -> String {
    let more: String = more.iter().map(|line| format!("{line}\r\n")).collect();
    format!(
        "GET {target} HTTP/1.1\r\nHost: voice.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Asks for the upgrade and reads its answer, not a byte more.
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, target: &str, more: &[&str]) {
    stream.write_all(upgrade(target, more).as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(SOON, stream.read_u8()).await.unwrap().unwrap());
    }
    assert_eq!(status(&String::from_utf8(head).unwrap()), 101);
}

/// A client's frame, masked with zeros.
fn frame(op: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80 | op];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    frame(1, text.as_bytes())
}

/// The code and the reason of the close frame that comes last.
async fn closed<S: AsyncRead + Unpin>(stream: &mut S) -> (u16, String) {
    let mut bytes = Vec::new();
    // A connection may also be cut once the goodbye was said.
    let _ = timeout(SOON, stream.read_to_end(&mut bytes)).await.unwrap();
    let mut rest = bytes.as_slice();
    while let [head, len, payload @ ..] = rest {
        let (payload, after) = payload.split_at(usize::from(*len));
        if *head == 0x88 {
            return (u16::from_be_bytes([payload[0], payload[1]]), String::from_utf8(payload[2..].to_vec()).unwrap());
        }
        rest = after;
    }
    panic!("no close frame in {bytes:?}");
}

/// What a call's leg will read: everything since the upgrade.
fn reread(arrival: &mut Arrival, len: usize) -> Vec<u8> {
    arrival.stream.set_nonblocking(false).unwrap();
    let (mut heard, mut space, mut wire) = (Vec::new(), [0; 4096], [0; 4096]);
    while heard.len() < len {
        let n = match arrival.link.plaintext(&mut space).unwrap() {
            0 if arrival.link.is_plain() => arrival.stream.read(&mut space).unwrap(),
            0 => {
                let n = arrival.stream.read(&mut wire).unwrap();
                assert_eq!(arrival.link.open(&wire[..n]), Ok(n));
                0
            }
            n => n,
        };
        heard.extend_from_slice(&space[..n]);
    }
    heard
}

fn bearer(claims: &Claims, at: u64) -> String {
    let signer = Signer::new(Algorithm::Hs256, &Secret::new(KEY), 60).unwrap();
    format!("Authorization: Bearer {}", signer.sign(claims, at).unwrap().reveal())
}

fn now_s() -> u64 {
    trunkline::clock::epoch_ms() / 1000
}

fn claims(tenant_id: &str, interaction_id: &str) -> Claims {
    Claims { tenant_id: tenant_id.to_owned(), interaction_id: interaction_id.to_owned() }
}

const BASIC: &str = "Authorization: Basic ZXhvdGVsOnMzY3JldA==";

#[test]
fn a_vendor_that_says_which_call_it_is_arrives_with_every_byte_that_it_said() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut door = Open::plain(dir.path(), "");
        let media = r#"{"event":"media","type":"media","ucid":"1","data":{"samples":[1,2],"sampleRate":8000}}"#;
        let said = [text(OZONETEL), frame(9, b"hi"), text(media)].concat();
        let mut vendor = TcpStream::connect(door.address).await.unwrap();
        // All of it in one packet, the request too.
        vendor.write_all(&[upgrade("/ws?lane=sales", &[]).into_bytes(), said.clone()].concat()).await.unwrap();
        let mut arrival = door.arrival().await;
        assert_eq!((arrival.line, arrival.path, arrival.side), (0, 0, Side::Server));
        assert_eq!((arrival.dialect.name(), arrival.rate, arrival.cipher), ("ozonetel", Rate::Hz8000, None));
        assert_eq!((arrival.facts.ucid.as_str(), arrival.facts.did.as_str()), ("1767225600", "08040001234"));
        assert!(arrival.facts.custom.iter().eq([("lane", "sales")]));
        assert_eq!((arrival.peer, arrival.direction), (vendor.local_addr().unwrap(), Direction::Both));
        assert!(arrival.dialect.facts().is_none(), "its leg hears the start again");
        assert_eq!(reread(&mut arrival, said.len()), said);
        vendor.write_all(b"more").await.unwrap();
        assert_eq!(reread(&mut arrival, 4), b"more");
    });
}

#[test]
fn the_dialect_is_told_from_the_messages_and_its_rate_from_the_start_or_the_query() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut door = Open::plain(dir.path(), "");
        let mut vendor = door.connect("/v1/ingest?sample-rate=8000", &[BASIC]).await;
        vendor.write_all(&text(r#"{"event":"connected"}"#)).await.unwrap();
        vendor.write_all(&text(&EXOTEL.replace("8000", "16000"))).await.unwrap();
        let arrival = door.arrival().await;
        assert_eq!(
            (arrival.dialect.name(), arrival.rate, arrival.dialect.rate()),
            ("exotel", Rate::Hz16000, Rate::Hz16000)
        );
        assert_eq!(arrival.facts.call_sid, "c1");
        // Where there is no start, there is nothing to wait for.
        let _vendor = door.connect("/raw?sample-rate=24000", &[]).await;
        let arrival = door.arrival().await;
        assert_eq!((arrival.dialect.name(), arrival.rate), ("binary", Rate::Hz24000));
        assert_eq!(arrival.direction, Direction::Uplink);
    });
}

#[test]
fn strangers_are_refused_before_the_upgrade() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut door = Open::plain(dir.path(), "max-per-source = 0");
        let good = claims("t-1", "c1");
        let mut forged = bearer(&good, now_s());
        forged.pop();
        for (target, header, wanted) in [
            ("/", "X: y", 404),
            ("/ws/", "X: y", 404),
            ("/v1/ingest", "X: y", 401),
            ("/v1/ingest", "Authorization: Basic ZXhvdGVsOnMzY3JldB==", 401),
            ("/v1/ingest", forged.as_str(), 401),
            ("/v1/ingest", bearer(&good, now_s() - 3600).as_str(), 401),
            ("/ws?sample-rate=0", "X: y", 400),
            ("/raw?sample-rate=1000000000", "X: y", 400),
            ("/ws?a=1&b=2&c=3&d=4", "X: y", 400),
            ("/ws", "Content-Length: 3", 400),
        ] {
            assert_eq!(door.status(target, &[header]).await, wanted, "{target} {header}");
        }
        assert_eq!(status(&door.answer("GET /ws HTTP/1.1\r\nHost: x\r\n\r\n").await), 426);
        assert_eq!(status(&door.answer("rubbish\r\n\r\n").await), 400);
        let long = format!("X-Long: {}", "x".repeat(17_000));
        assert_eq!(door.status("/ws", &[&long]).await, 431);
        assert!(door.answer(&upgrade("/v1/ingest", &[])).await.contains("WWW-Authenticate: Basic realm="));
        assert!(door.is_quiet());
    });
}

#[test]
fn a_door_goes_by_another_config_from_the_next_connection_on() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut door = Open::plain(dir.path(), "");
        let mut before = door.connect("/ws", &[]).await;
        let keys = format!("listen = \"127.0.0.1:0\"\nplain = true\n{}", PATHS.replace("\"/ws\"", "\"/new\""));
        door.config.send_replace(config(dir.path(), &keys));
        wait_until_refused(&door).await;
        drop(door.connect("/new", &[]).await);
        // Whoever had come in by then says which call it is, and is the line's.
        before.write_all(&text(OZONETEL)).await.unwrap();
        let arrival = timeout(SOON, door.arrivals.recv()).await.unwrap().unwrap();
        assert_eq!((arrival.dialect.name(), arrival.line), ("ozonetel", 0));

        let mut late = door.connect("/new", &[]).await;
        door.closed.cancel();
        while TcpStream::connect(door.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        late.write_all(&text(OZONETEL)).await.unwrap();
        timeout(SOON, door.arrivals.recv()).await.unwrap().unwrap();
    });
}

/// Waits until `/ws` is no path any more.
async fn wait_until_refused(door: &Open) {
    loop {
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        stream.write_all(upgrade("/ws", &[]).as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        timeout(SOON, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        if &answer == b"HTTP/1.1 404" {
            return;
        }
    }
}

#[test]
fn a_token_is_for_the_call_that_it_names_and_no_other() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut door = Open::plain(dir.path(), "");
        for (claims, wanted) in [
            (claims("t-1", "c1"), None),
            (claims("", ""), None),
            (claims("t-2", "c1"), Some("the token is for another tenant")),
            (claims("t-1", "../c1"), Some("the token is for another call")),
        ] {
            let mut vendor = door.connect("/v1/ingest", &[&bearer(&claims, now_s())]).await;
            vendor.write_all(&text(EXOTEL)).await.unwrap();
            match wanted {
                None => assert_eq!(door.arrival().await.facts.account, "t-1"),
                Some(words) => assert_eq!(closed(&mut vendor).await, (1008, words.to_owned())),
            }
        }
        assert!(door.is_quiet());
    });
}

#[test]
fn what_is_no_start_ends_the_connection_with_a_code() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut door = Open::plain(dir.path(), "max-per-source = 0");
        let long = [b"{".as_slice(), &b" ".repeat(300_000)].concat();
        for (target, said, code) in [
            ("/ws", frame(1, &long), 1009),
            ("/ws", frame(1, b"\xff"), 1007),
            ("/ws", vec![0x83, 0x80, 0, 0, 0, 0], 1002),
            ("/ws", b"\x81\x01x".to_vec(), 1002),
            ("/ws", text(r#"{"event":"stop","ucid":"1"}"#), 1003),
            ("/v1/ingest", text(r#"{"event":"start","start":{"streamSid":"MZ1"}}"#), 1003),
            ("/ws", frame(8, b"\x03\xe8"), 1000),
        ] {
            let mut vendor = door.connect(target, &[BASIC]).await;
            vendor.write_all(&said).await.unwrap();
            assert_eq!(closed(&mut vendor).await.0, code, "{target} {:?}", &said[..said.len().min(40)]);
        }
        assert!(door.is_quiet());
    });
}

#[test]
fn whoever_says_nothing_is_not_waited_for() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let keys = format!("listen = \"127.0.0.1:0\"\nplain = true\n{PATHS}");
        let mut door = Open::within(Duration::from_millis(50), &config(dir.path(), &keys));
        let mut silent = TcpStream::connect(door.address).await.unwrap();
        let mut rest = Vec::new();
        timeout(SOON, silent.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert!(rest.is_empty());
        let mut vendor = door.connect("/ws", &[]).await;
        vendor.write_all(&text(r#"{"type":"connected"}"#)).await.unwrap();
        assert_eq!(closed(&mut vendor).await, (1002, "no start came in time".to_owned()));
        assert!(door.is_quiet());
    });
}

#[test]
fn a_source_that_is_refused_again_and_again_is_told_429() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        // Behind a proxy a path has to ask for something.
        let keys = r#"
listen = "127.0.0.1:0"
plain = true
max-per-source = 3
trusted-proxies = ["127.0.0.1"]
[[line.clouds.path]]
path = "/v1/ingest"
basic = { user = "exotel", password = { env = "PASSWORD" } }
"#;
        let door = Open::new(&config(dir.path(), keys));
        let from = |client: &str| format!("X-Forwarded-For: {client}");
        for wanted in [401, 401, 401, 429] {
            assert_eq!(door.status("/v1/ingest", &[&from("198.51.100.7")]).await, wanted);
        }
        assert_eq!(door.status("/v1/ingest", &[&from("198.51.100.7"), BASIC]).await, 429);
        assert_eq!(door.status("/v1/ingest", &[&from("198.51.100.8")]).await, 401, "another client of the same proxy");
    });
}

#[test]
fn one_source_that_says_nothing_leaves_room_for_others() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let door = Open::plain(dir.path(), "[media]\nmax-calls = 1");
        let mut silent = Vec::new();
        for _ in 0..32 {
            silent.push(TcpStream::connect(door.address).await.unwrap());
        }
        let mut one_more = TcpStream::connect(door.address).await.unwrap();
        assert_eq!(
            timeout(SOON, one_more.read(&mut [0])).await.unwrap().unwrap_or(0),
            0,
            "half of 65 places are taken"
        );
        assert_eq!(door.metrics.get(Counter::CallsRefused), 1);
        let other = TcpSocket::new_v4().unwrap();
        other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut other = other.connect(door.address).await.unwrap();
        ask(&mut other, "/ws", &[]).await;
    });
}

#[test]
fn an_allow_list_counts_whom_a_trusted_proxy_names() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let keys = |proxies: &str| {
            format!(
                "listen = \"127.0.0.1:0\"\nplain = true\n{proxies}\n[[line.clouds.path]]\npath = \"/ws\"\n\
                 dialect = \"ozonetel\"\nallow = [\"198.51.100.0/24\"]\n"
            )
        };
        let mut door = Open::new(&config(dir.path(), &keys("trusted-proxies = [\"127.0.0.1\"]")));
        let mut vendor = door.connect("/ws", &["X-Forwarded-For: 192.0.2.1, 198.51.100.7"]).await;
        vendor.write_all(&text(OZONETEL)).await.unwrap();
        assert_eq!(door.arrival().await.peer.to_string(), "198.51.100.7:0");
        assert_eq!(door.status("/ws", &["X-Forwarded-For: 198.51.100.7, 192.0.2.1"]).await, 403);
        assert_eq!(door.status("/ws", &[]).await, 403);
        let door = Open::new(&config(dir.path(), &keys("")));
        assert_eq!(door.status("/ws", &["X-Forwarded-For: 198.51.100.7"]).await, 403, "anyone can say so");
    });
}

#[test]
fn health_is_told_to_anyone_and_says_how_it_is() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let door = Open::plain(dir.path(), "");
        let request = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
        let body = |answer: &str| -> serde_json::Value {
            assert_eq!(status(answer), 200);
            serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap()
        };
        let told = body(&door.answer(request).await);
        assert_eq!((told["status"].as_str(), told["service"].as_str()), (Some("healthy"), Some("ingest")));
        assert_eq!((told["pubsub"].as_bool(), told["exotelBridge"].as_str()), (Some(false), Some("enabled")));
        let at = told["timestamp"].as_str().unwrap();
        assert!(at.len() == 24 && at.ends_with('Z') && at.as_bytes()[10] == b'T', "{at}");
        door.house.send_replace(House { accepting: false, pubsub: Some(true), ..WELL });
        let told = body(&door.answer(request).await);
        assert_eq!((told["status"].as_str(), told["pubsub"].as_bool()), (Some("degraded"), Some(true)));
        door.house.send_replace(House { pubsub: Some(false), ..WELL });
        let told = body(&door.answer(request).await);
        assert_eq!((told["status"].as_str(), told["pubsub"].as_bool()), (Some("degraded"), Some(false)));
    });
}

#[test]
fn the_dynamic_endpoint_names_the_url_by_either_method() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let door = Open::plain(dir.path(), "endpoint = \"wss://voice.example.com/v1/ingest?sample-rate=16000\"");
        let path = "/api/ingest/exotel-endpoint";
        for request in [
            format!("GET {path}?CallSid=1&CallFrom=2 HTTP/1.1\r\nHost: x\r\n\r\n"),
            format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nCallSid=1"),
        ] {
            let answer = door.answer(&request).await;
            let body = answer.split("\r\n\r\n").nth(1).unwrap();
            assert_eq!(body, "{\"url\":\"wss://voice.example.com/v1/ingest?sample-rate=16000\"}\n", "{answer}");
            assert!(answer.contains("Content-Type: application/json\r\n"));
        }
        let without = Open::plain(dir.path(), "");
        assert_eq!(without.status(path, &[]).await, 404);
    });
}

#[test]
fn without_a_seat_it_is_503_before_the_upgrade_and_1013_after_it() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut door = Open::plain(dir.path(), "");
        door.house.send_replace(House { accepting: false, ..WELL });
        assert_eq!(door.status("/ws", &[]).await, 503);
        assert_eq!(door.metrics.get(Counter::CallsRefused), 1);
        assert_eq!(door.status("/nowhere", &[]).await, 404, "strangers are told less");
        door.house.send_replace(WELL);
        let mut vendor = door.connect("/ws", &[]).await;
        vendor.write_all(&text(OZONETEL)).await.unwrap();
        let arrival = door.arrival().await;
        let leaving = spawn_local(door::turn_away(arrival, door::TRY_LATER, "no seat"));
        assert_eq!(closed(&mut vendor).await, (1013, "no seat".to_owned()));
        drop(vendor);
        leaving.await.unwrap().unwrap();
    });
}

/// A CA with a certificate for localhost in this folder, and who trusts it.
fn throwaway(dir: &Path) -> Arc<ClientConfig> {
    tls::throwaway_ca(dir, &[]).unwrap();
    tls::client_config(Some(&dir.join("ca.pem"))).unwrap()
}

async fn shake(address: SocketAddr, client: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    timeout(SOON, TlsConnector::from(Arc::clone(client)).connect(name, stream)).await.unwrap()
}

const TLS_KEYS: &str = "listen = \"127.0.0.1:0\"\ncertificate = \"server.pem\"\nkey = \"server-key.pem\"\n";

#[test]
fn a_call_over_tls_arrives_with_all_that_was_said_and_what_comes_later() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let client = throwaway(dir.path());
        let mut door = Open::new(&config(dir.path(), &format!("{TLS_KEYS}{PATHS}")));
        let mut vendor = shake(door.address, &client).await.unwrap();
        let said = [text(r#"{"event":"connected"}"#), text(EXOTEL), text(&"x".repeat(20_000))].concat();
        // In many records, and behind the request in its own.
        vendor.write_all(&[upgrade("/v1/ingest", &[BASIC]).as_bytes(), &said[..40]].concat()).await.unwrap();
        for piece in said[40..].chunks(700) {
            vendor.write_all(piece).await.unwrap();
        }
        vendor.flush().await.unwrap();
        let mut arrival = door.arrival().await;
        assert!(arrival.cipher.unwrap().starts_with("TLS13_"));
        assert_eq!(reread(&mut arrival, said.len()), said);
        // And back: a byte of the call's own.
        assert_eq!(arrival.link.seal(b"\x89\x00"), 2);
        assert!(arrival.link.flush(&mut arrival.stream).unwrap());
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n\x89\x00") {
            head.push(timeout(SOON, vendor.read_u8()).await.unwrap().unwrap());
        }
    });
}

#[test]
fn a_renewed_certificate_is_shown_without_a_restart_and_a_broken_one_is_not() {
    run(async {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (before, after) = (throwaway(dir.path()), throwaway(other.path()));
        let door = Open::new(&config(dir.path(), &format!("{TLS_KEYS}{PATHS}")));
        assert!(shake(door.address, &before).await.is_ok());
        assert!(shake(door.address, &after).await.is_err());
        // The certificate is there, its key is not yet.
        fs::copy(other.path().join("server.pem"), dir.path().join("server.pem")).unwrap();
        assert!(shake(door.address, &before).await.is_ok(), "the old pair serves on");
        fs::copy(other.path().join("server-key.pem"), dir.path().join("server-key.pem")).unwrap();
        assert!(shake(door.address, &after).await.is_ok());
        assert!(shake(door.address, &before).await.is_err());
        fs::write(dir.path().join("server.pem"), "rubbish").unwrap();
        assert!(shake(door.address, &after).await.is_ok());
        fs::remove_file(dir.path().join("server.pem")).unwrap();
        assert!(shake(door.address, &after).await.is_ok());
    });
}

#[test]
fn whoever_speaks_no_tls_where_it_is_spoken_gets_nothing() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        throwaway(dir.path());
        let mut door = Open::new(&config(dir.path(), &format!("{TLS_KEYS}{PATHS}")));
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        stream.write_all(upgrade("/ws", &[]).as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap();
        assert!(!answer.starts_with(b"HTTP"));
        assert!(door.is_quiet());
    });
}

/// A vendor's server, which takes one connection after the other.
async fn vendor(listener: &TcpListener, wanted: &str) -> TcpStream {
    let (mut stream, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(SOON, stream.read_u8()).await.unwrap().unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.contains(wanted), "{head}");
    let key = head.split("Sec-WebSocket-Key: ").nth(1).unwrap().split("\r\n").next().unwrap();
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    stream
}

/// A server's frame.
fn unmasked(op: u8, payload: &str) -> Vec<u8> {
    [&[0x80 | op, payload.len() as u8], payload.as_bytes()].concat()
}

#[test]
fn a_vendor_that_we_dial_hands_over_one_call_after_the_other() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let keys =
            format!("dial = \"ws://{address}/agent\"\ndialect = \"ozonetel\"\nheaders = {{ X-Site = \"depot\" }}\n");
        let (house, told) = watch::channel(WELL);
        let (arrivals, mut arrived) = mpsc::channel(8);
        let closed = CancellationToken::new();
        let config = config(dir.path(), &keys);
        let setup = OutboundSetup { config, line: 0, arrivals, house: told, ids: None, closed };
        let serving = spawn_local(outbound::serve(setup, None));
        for number in 1..=2 {
            let mut stream = vendor(&listener, "GET /agent HTTP/1.1\r\n").await;
            stream.write_all(&unmasked(9, "there?")).await.unwrap();
            let mut pong = [0; 12];
            timeout(SOON, stream.read_exact(&mut pong)).await.unwrap().unwrap();
            assert_eq!(pong[..2], [0x8a, 0x86], "a client masks its pong");
            let start = unmasked(1, &OZONETEL.replace("1767225600", &number.to_string()));
            stream.write_all(&start).await.unwrap();
            let mut arrival = timeout(SOON, arrived.recv()).await.unwrap().unwrap();
            assert_eq!((arrival.side, arrival.facts.ucid.as_str()), (Side::Client, number.to_string().as_str()));
            assert_eq!(reread(&mut arrival, start.len()), start, "the ping is done with");
        }
        // Going down, it says goodbye to the one that waits.
        let mut waiting = vendor(&listener, "X-Site: depot\r\n").await;
        house.send_replace(House { accepting: false, draining: true, ..WELL });
        let mut goodbye = [0; 8];
        timeout(SOON, waiting.read_exact(&mut goodbye)).await.unwrap().unwrap();
        assert_eq!(goodbye[..2], [0x88, 0x82]);
        drop(waiting);
        timeout(SOON, serving).await.unwrap().unwrap();
    });
}

#[test]
fn a_vendor_whose_line_is_closed_is_told_goodbye_and_dialled_no_more() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let keys = format!("dial = \"ws://{}/agent\"\ndialect = \"ozonetel\"\n", listener.local_addr().unwrap());
        let (_house, house) = watch::channel(WELL);
        let (arrivals, _arrived) = mpsc::channel(8);
        let closed = CancellationToken::new();
        let config = config(dir.path(), &keys);
        let setup = OutboundSetup { config, line: 0, arrivals, house, ids: None, closed: closed.clone() };
        let serving = spawn_local(outbound::serve(setup, None));
        let mut waiting = vendor(&listener, "GET /agent HTTP/1.1\r\n").await;
        closed.cancel();
        let mut goodbye = [0; 8];
        timeout(SOON, waiting.read_exact(&mut goodbye)).await.unwrap().unwrap();
        assert_eq!(goodbye[..2], [0x88, 0x82], "a close frame with a code");
        drop(waiting);
        timeout(SOON, serving).await.unwrap().unwrap();
    });
}

/// A server of HTTP that gives these answers, one a connection, and keeps what it was asked.
async fn web(answers: Vec<String>) -> (SocketAddr, Rc<Cell<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Rc::new(Cell::new(Vec::new()));
    let heard = Rc::clone(&asked);
    spawn_local(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let mut all = heard.take();
            all.push(String::from_utf8(head).unwrap());
            heard.set(all);
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    (address, asked)
}

/// What a trunk answers to a call, as the call's media thread is told.
async fn reach(url: &str, dialect: &str, dir: &Path) -> Result<(), EndReason> {
    let text = format!(
        "[line.pbx]\nkind = \"audiosocket\"\n[trunk.agent]\nurl = \"{url}\"\ndialect = \"{dialect}\"\n\
         [[route]]\nline = \"pbx\"\ntrunks = [\"agent\"]\n"
    );
    let path = dir.join("trunk.toml");
    fs::write(&path, text).unwrap();
    let config = Arc::new(config::load(&path, &Given(&[])).unwrap_or_else(|problems| panic!("{problems}")));
    let (requests, mailbox) = mpsc::channel(1);
    let (_openings, doors) = mpsc::channel::<Opening>(1);
    let (news, _told) = mpsc::channel(8);
    let (reply, mut orders) = mpsc::channel(1);
    let (_live, cancelled) = oneshot::channel();
    let facts = Box::new(Facts { call_id: "abcdefghijkl".try_into().unwrap(), ..Facts::default() });
    let (seq, call_id, trunks) = (1, "abcdefghijkl".to_owned(), vec![0]);
    let request = dialer::Request { seq, call_id, trunks, line_rate: Rate::Hz8000, facts, cancelled, reply };
    requests.send(request).await.unwrap();
    let (_roots, roots) = watch::channel(Arc::new(Roots::load(&config).unwrap()));
    let (_config, config) = watch::channel(config);
    let setup = DialSetup { config, roots, requests: mailbox, doors, news, vitals: Arc::new(Vitals::default()) };
    let thread = std::thread::spawn(move || dialer::run(setup));
    let order = timeout(SOON, orders.recv()).await.unwrap().unwrap();
    drop(requests);
    tokio::task::spawn_blocking(move || thread.join().unwrap().unwrap()).await.unwrap();
    let Order::Trunk { result, .. } = order else { panic!("another order") };
    result.map(drop)
}

#[test]
fn a_trunk_whose_server_names_the_url_is_dialled_there() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let agent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = agent.local_addr().unwrap();
        let body = format!("{{\"url\":\"ws://{address}/ws?sample-rate=16000\"}}");
        let good = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let moved = "HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n".to_owned();
        let (web, asked) = web(vec![moved, good]).await;
        let dialled = spawn_local(async move { drop(vendor(&agent, "GET /ws?sample-rate=16000 HTTP/1.1\r\n").await) });
        assert!(reach(&format!("http://{web}/where"), "exotel", dir.path()).await.is_ok());
        dialled.await.unwrap();
        let asked = asked.take();
        let wanted = "GET /where?CallSid=abcdefghijkl&CallFrom=&CallTo=&Direction=incoming HTTP/1.1\r\n";
        assert!(asked[0].starts_with(wanted), "{asked:?}");
        assert!(asked[1].starts_with("GET /there HTTP/1.1\r\n"), "{asked:?}");
    });
}

#[test]
fn a_trunk_whose_server_sends_us_round_and_round_has_refused() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let moved = "HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n".to_owned();
        let (web, asked) = web(vec![moved; 6]).await;
        let reached = reach(&format!("http://{web}/where"), "exotel", dir.path()).await;
        assert_eq!(reached, Err(EndReason::TrunkRefused));
        assert_eq!(asked.take().len(), 4);
    });
}

#[test]
fn an_exotel_vendor_tries_once_more_when_the_handshake_fails_and_others_do_not() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let ill = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_owned();
        let no = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n".to_owned();
        for (dialect, answer, attempts) in [("exotel", &ill, 2), ("ozonetel", &ill, 1), ("exotel", &no, 1)] {
            let (web, asked) = web(vec![answer.clone(); 4]).await;
            let reached = reach(&format!("ws://{web}/ws"), dialect, dir.path()).await;
            assert_eq!(reached, Err(EndReason::TrunkRefused));
            assert_eq!(asked.take().len(), attempts, "{dialect} {answer}");
        }
    });
}
