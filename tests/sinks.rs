//! Sinks that are killed and started again in mid-run: a real Redis and a webhook's server. Nothing is lost.
//!
//! The rest is about a receiver that refuses, and a disk that is full.
//!
//! `scripts/setup test` installs Redis. Where it is missing nothing is tested here, unless `CI` is set.

#![allow(clippy::unwrap_used)]

#[path = "site/small_disk.rs"]
mod small_disk;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use ring::hmac;
use serde_json::Value;
use small_disk::SmallDisk;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use trunkline::{
    call::{
        record::{Record, Started},
        tap::{self, Happening, Note, Sound, Tap},
    },
    config::{self, Config, Environment},
    control::metrics::{Counter, Metrics},
    dialect::{Direction, Facts, Speaker, Text},
    leg::websocket::tls,
    media::Rate,
    notes::{Kept, Notes},
    sinks::Sinks,
};

const SOON: Duration = Duration::from_secs(20);
const SECRET: &str = "a shared secret";
const PASSWORD: &str = "hush-hush";
const CALLS: u64 = 200;

struct Given;

impl Environment for Given {
    fn var(&self, name: &str) -> Option<String> {
        match name {
            "HOOK_SECRET" => Some(SECRET.to_owned()),
            "REDIS_PASSWORD" => Some(PASSWORD.to_owned()),
            _ => None,
        }
    }

    fn credentials_dir(&self) -> Option<PathBuf> {
        None
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let patience = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < patience, "{what}: not in {SOON:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A Redis that keeps what it has answered for, even when it is killed.
struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    /// `None`: it is not installed.
    fn start(folder: &Path, port: u16) -> Option<Self> {
        Self::start_with(folder, port, &[])
    }

    fn start_with(folder: &Path, port: u16, more: &[&str]) -> Option<Self> {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
        command
            .args(["--port", &port.to_string()])
            .arg("--dir")
            .arg(folder)
            .args(["--requirepass", PASSWORD])
            .args(more);
        let Ok(child) = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
            let in_ci = std::env::var_os("CI").is_some_and(|ci| !ci.is_empty());
            assert!(!in_ci, "redis-server is missing: run scripts/setup test");
            println!("not run: redis-server is missing, scripts/setup test installs it");
            return None;
        };
        let redis = Self { child, port };
        wait_for("Redis", || {
            redis.ask(|connection| redis::cmd("PING").query::<String>(connection)).is_ok_and(|said| said == "PONG")
        });
        Some(redis)
    }

    fn ask<T>(&self, ask: impl FnOnce(&mut redis::Connection) -> redis::RedisResult<T>) -> redis::RedisResult<T> {
        let client = redis::Client::open(format!("redis://:{PASSWORD}@127.0.0.1:{}/", self.port))?;
        ask(&mut client.get_connection()?)
    }

    /// The entries of a stream: each the JSON of its one field.
    fn stream(&self, topic: &str) -> Vec<Value> {
        type Entries = Vec<(String, Vec<(String, String)>)>;
        let entries: Entries =
            self.ask(|connection| redis::cmd("XRANGE").arg(topic).arg("-").arg("+").query(connection)).unwrap();
        let data = |(_, fields): (String, Vec<(String, String)>)| {
            assert_eq!(fields.len(), 1);
            assert_eq!(fields[0].0, "data");
            serde_json::from_str(&fields[0].1).unwrap()
        };
        entries.into_iter().map(data).collect()
    }

    /// As the kernel does it when memory is short.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a receiver got: each id and how often, and every body.
#[derive(Default)]
struct Got {
    ids: Mutex<BTreeMap<String, u32>>,
    bodies: Mutex<Vec<Value>>,
    requests: AtomicU64,
    /// The id that it does not like.
    refuses: Option<&'static str>,
}

/// A receiver of webhooks behind TLS, that checks what it gets as one should.
struct Receiver {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    fn start(address: SocketAddr, tls: &Arc<rustls::ServerConfig>, got: &Arc<Got>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (acceptor, got) = (TlsAcceptor::from(Arc::clone(tls)), Arc::clone(got));
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind(address).await.unwrap();
                let serve = async {
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        let (acceptor, got) = (acceptor.clone(), Arc::clone(&got));
                        tokio::spawn(async move {
                            let Ok(stream) = acceptor.accept(stream).await else { return };
                            let service = service_fn(|request| answer(request, Arc::clone(&got)));
                            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                        });
                    }
                };
                tokio::select! {
                    () = serve => {}
                    _ = stopped => {}
                }
            });
            // With the runtime every connection is gone, whatever was under way.
        });
        wait_for("the receiver", || TcpStream::connect(address).is_ok());
        Self { stop: Some(stop), thread: Some(thread) }
    }

    fn kill(mut self) {
        let _ = self.stop.take().unwrap().send(());
        self.thread.take().unwrap().join().unwrap();
    }
}

async fn answer(request: Request<Incoming>, got: Arc<Got>) -> Result<Response<Full<Bytes>>, Infallible> {
    let said = |status| Ok(Response::builder().status(status).body(Full::default()).unwrap());
    // Each of these costs a second: one is refused for now, another taken without an answer that says so.
    let number = got.requests.fetch_add(1, Relaxed);
    if number % 97 == 40 {
        return said(StatusCode::SERVICE_UNAVAILABLE);
    }
    let (parts, body) = request.into_parts();
    let header = |name: &str| parts.headers[name].to_str().unwrap().to_owned();
    let Ok(body) = body.collect().await else { return said(StatusCode::BAD_REQUEST) };
    let body = body.to_bytes();
    let signed = [header("x-trunkline-timestamp").as_bytes(), b".", &body].concat();
    let signature = header("x-trunkline-signature");
    let hex = signature.strip_prefix("sha256=").unwrap();
    let tag: Vec<u8> = (0..32).map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap()).collect();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    if parts.uri.path() != "/calls" || hmac::verify(&key, &signed, &tag).is_err() {
        return said(StatusCode::UNAUTHORIZED);
    }
    let value: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(value["id"], header("x-trunkline-id"));
    if got.refuses.is_some_and(|id| value["id"] == id) {
        return said(StatusCode::UNPROCESSABLE_ENTITY);
    }
    *got.ids.lock().unwrap().entry(header("x-trunkline-id")).or_default() += 1;
    got.bodies.lock().unwrap().push(value);
    said(if number % 97 == 80 { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK })
}

struct Site {
    folder: tempfile::TempDir,
    config: Config,
    metrics: Arc<Metrics>,
    sinks: RefCell<Option<Sinks>>,
}

impl Site {
    fn new(sinks: &str, names: &str) -> Self {
        Self::with_spools(sinks, names, Path::new("spools"))
    }

    fn with_spools(sinks: &str, names: &str, spools: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let spools = spools.display();
        let text = format!(
            "account = \"depot\"\n[sinks]\ndirectory = \"{spools}\"\n[line.pbx]\nkind = \"audiosocket\"\n[trunk.agent]\n\
             url = \"ws://127.0.0.1:1/\"\ndialect = \"binary\"\n{sinks}\n[[route]]\nline = \"pbx\"\ntrunks = \
             [\"agent\"]\nsinks = [{names}]\n"
        );
        let path = folder.path().join("trunkline.toml");
        fs::write(&path, text).unwrap();
        let config = config::load(&path, &Given).unwrap_or_else(|problems| panic!("{problems}"));
        Self { folder, config, metrics: Arc::default(), sinks: RefCell::default() }
    }

    fn open(&self) -> (Notes, Tap) {
        let sinks = Sinks::open(&self.config, &self.metrics).unwrap();
        assert!(sinks.is_some());
        self.sinks.borrow_mut().clone_from(&sinks);
        let (tap, taps) = tap::tap(4096, 4096);
        (Notes::open(&self.config, vec![taps], sinks, Arc::clone(&self.metrics)).unwrap(), tap)
    }

    fn redis_works(&self) -> Option<bool> {
        self.sinks.borrow().as_ref().unwrap().redis_works()
    }

    fn call(&self, notes: &Notes, tap: &mut Tap, n: u64) {
        let id = call_id(n);
        let facts = Facts {
            call_id: Text::try_from(id.as_str()).unwrap(),
            account: Text::try_from("depot").unwrap(),
            ..Facts::default()
        };
        let started = Started { call_id: id, started_ms: Some(n), ..Started::default() };
        notes.started(n, &started, Kept::of(&self.config.routes[0], &facts, Direction::Both));
        let what = Happening::Said { speaker: Speaker::Agent, text: format!("word {n}"), whole: true };
        tap.note(Note { seq: n, at_ms: n, what });
        notes.ended(n, &Record::cut(started, n));
    }
}

fn call_id(n: u64) -> String {
    let letter = |n: u64| char::from(b'a' + (n % 26) as u8);
    (0..12).map(|place| letter(n / 26_u64.pow(place))).collect()
}

fn ids(kind: &str) -> BTreeSet<String> {
    (0..CALLS).map(|n| format!("{}-{kind}-1", call_id(n))).collect()
}

#[test]
fn sinks_that_are_killed_and_started_again_get_every_record_and_every_word() {
    let state = tempfile::tempdir().unwrap();
    let port = free_port();
    let Some(redis) = Redis::start(state.path(), port) else { return };
    let server = tls::throwaway_ca(state.path(), &[]).unwrap();
    let (hook, got) = (free_port(), Arc::<Got>::default());
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, hook));
    let sinks = format!(
        "[sink.crm]\nkind = \"webhook\"\nurl = \"https://127.0.0.1:{hook}/calls\"\nsecret = {{ env = \"HOOK_SECRET\" }}\n\
         ca-file = {:?}\n[sink.assist]\nkind = \"redis\"\nurl = \"redis://127.0.0.1:{port}\"\n\
         password = {{ env = \"REDIS_PASSWORD\" }}\n",
        state.path().join("ca.pem")
    );
    let site = Site::new(&sinks, "\"crm\", \"assist\"");
    let receiver = Receiver::start(address, &server, &got);

    let (notes, mut tap) = site.open();
    (0..60).for_each(|n| site.call(&notes, &mut tap, n));
    wait_for("some items taken", || site.metrics.get(Counter::SinkItemsSent) > 40);
    assert_eq!(site.redis_works(), Some(true));
    // Both go in the middle of it.
    redis.kill();
    receiver.kill();
    (60..120).for_each(|n| site.call(&notes, &mut tap, n));
    wait_for("both sinks missed", || site.metrics.get(Counter::SinkFailures) >= 2);
    assert!(site.metrics.sink_items_waiting() > 0);
    wait_for("Redis is missed", || site.redis_works() == Some(false));
    // And now the daemon goes, too.
    notes.close(SOON);
    let (notes, mut tap) = site.open();
    (120..160).for_each(|n| site.call(&notes, &mut tap, n));
    let redis = Redis::start(state.path(), port).unwrap();
    let receiver = Receiver::start(address, &server, &got);
    wait_for("sinks took something again", || got.ids.lock().unwrap().len() > 100);
    receiver.kill();
    redis.kill();
    (160..CALLS).for_each(|n| site.call(&notes, &mut tap, n));
    let redis = Redis::start(state.path(), port).unwrap();
    let receiver = Receiver::start(address, &server, &got);
    wait_for("all items taken", || {
        site.metrics.sink_items_waiting() == 0 && got.ids.lock().unwrap().len() as u64 == 2 * CALLS
    });
    assert_eq!(site.redis_works(), Some(true));
    notes.close(SOON);

    let wanted: BTreeSet<String> = ids("call_end").union(&ids("transcript")).cloned().collect();
    let got_ids: BTreeSet<String> = got.ids.lock().unwrap().keys().cloned().collect();
    assert_eq!(got_ids, wanted, "at the webhook");
    let ended = redis.stream("call_end");
    let id = |entry: &Value| entry["id"].as_str().unwrap().to_owned();
    assert_eq!(ended.iter().map(id).collect::<BTreeSet<_>>(), ids("call_end"), "in Redis");
    assert!((0..CALLS).all(|n| {
        redis
            .stream(&format!("transcript.{}", call_id(n)))
            .iter()
            .any(|said| said["text"] == format!("word {n}") && said["tenant_id"] == "depot")
    }));
    let twice = got.ids.lock().unwrap().values().filter(|&&times| times > 1).count();
    println!("{CALLS} calls; sent more than once: {twice} at the webhook, {} in Redis", ended.len() as u64 - CALLS);
    let lost = [Counter::SinkItemsLost, Counter::SinkItemsRefused, Counter::NotesLost].map(|it| site.metrics.get(it));
    assert_eq!(lost, [0; 3]);
    receiver.kill();
}

/// A webhook's receiver and the sink for it.
struct Hook {
    _state: tempfile::TempDir,
    sink: String,
    got: Arc<Got>,
    _receiver: Receiver,
}

impl Hook {
    fn start(refuses: Option<&'static str>) -> Self {
        let state = tempfile::tempdir().unwrap();
        let server = tls::throwaway_ca(state.path(), &[]).unwrap();
        let (port, got) = (free_port(), Arc::new(Got { refuses, ..Got::default() }));
        let sink = format!(
            "[sink.crm]\nkind = \"webhook\"\nurl = \"https://localhost:{port}/calls\"\nsecret = {{ env = \"HOOK_SECRET\" }}\n\
             transcripts = false\nca-file = {:?}\n",
            state.path().join("ca.pem")
        );
        let receiver = Receiver::start(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), &server, &got);
        Self { _state: state, sink, got, _receiver: receiver }
    }

    fn ids(&self) -> usize {
        self.got.ids.lock().unwrap().len()
    }
}

#[test]
fn what_a_receiver_refuses_for_ever_is_put_aside_and_holds_up_nothing() {
    let hook = Hook::start(Some("baaaaaaaaaaa-call_end-1"));
    let site = Site::new(&hook.sink, "\"crm\"");
    let (notes, mut tap) = site.open();
    (0..3).for_each(|n| site.call(&notes, &mut tap, n));
    wait_for("the others", || hook.ids() == 2 && site.metrics.sink_items_waiting() == 0);
    notes.close(SOON);
    let refused = fs::read_to_string(site.folder.path().join("spools/crm/refused")).unwrap();
    assert_eq!((refused.lines().count(), refused.contains("baaaaaaaaaaa-call_end-1")), (1, true));
    let counted = [Counter::SinkItemsSent, Counter::SinkItemsRefused, Counter::SinkItemsLost];
    assert_eq!(counted.map(|counter| site.metrics.get(counter)), [2, 1, 0]);
}

#[test]
fn a_disk_that_is_full_delays_items_and_loses_none() {
    let Some(disk) = SmallDisk::mount() else { return };
    let hook = Hook::start(None);
    let site = Site::with_spools(&hook.sink, "\"crm\"", disk.path());
    let (notes, mut tap) = site.open();
    site.call(&notes, &mut tap, 0);
    wait_for("the first", || hook.ids() == 1);
    disk.fill(100);
    (1..40).for_each(|n| site.call(&notes, &mut tap, n));
    // The control thread has told of them all, and waited for nothing.
    assert!(site.metrics.sink_items_waiting() > 30);
    disk.free();
    wait_for("the rest", || hook.ids() == 40);
    notes.close(SOON);
    assert_eq!(site.metrics.get(Counter::SinkItemsLost), 0);
}

#[test]
fn callers_voices_reach_redis_while_they_speak_and_a_dead_one_costs_nothing_else() {
    let state = tempfile::tempdir().unwrap();
    // By TLS, but for the test's own questions.
    tls::throwaway_ca(state.path(), &[]).unwrap();
    let (port, secure) = (free_port(), free_port());
    let file = |name: &str| state.path().join(name).display().to_string();
    let (ca, certificate, key) = (file("ca.pem"), file("server.pem"), file("server-key.pem"));
    let (listen, files) = (secure.to_string(), ["--tls-ca-cert-file", &ca, "--tls-cert-file", &certificate]);
    let more = [&["--tls-port", &listen, "--tls-auth-clients", "no", "--tls-key-file", &key], &files[..]].concat();
    let Some(redis) = Redis::start_with(state.path(), port, &more) else { return };
    let sinks = format!(
        "[sink.assist]\nkind = \"redis\"\nurl = \"rediss://localhost:{secure}\"\nca-file = {ca:?}\npassword = {{ env = \
         \"REDIS_PASSWORD\" }}\naudio = true\n"
    );
    let site = Site::new(&sinks, "\"assist\"");
    let (notes, mut tap) = site.open();
    let started = Started { call_id: call_id(1), started_ms: Some(0), ..Started::default() };
    let facts = Facts { call_id: Text::try_from(call_id(1).as_str()).unwrap(), ..Facts::default() };
    notes.started(1, &started, Kept::of(&site.config.routes[0], &facts, Direction::Uplink));
    for n in 0..50_u64 {
        tap.sound(Sound::new(1, n * 20, Rate::Hz8000, &[n as i16; 160], &[]));
    }
    wait_for("entries of audio", || site.metrics.get(Counter::SinkAudioSent) == 10);
    let entries = redis.stream("audio_stream");
    let seqs: Vec<_> = entries.iter().map(|entry| entry["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=10).collect::<Vec<_>>());
    assert_eq!((&entries[1]["timestamp_ms"], &entries[1]["encoding"]), (&100.into(), &"pcm16".into()));
    assert_eq!(site.metrics.sinks_failing(), 0);
    redis.kill();
    for n in 50..100_u64 {
        tap.sound(Sound::new(1, n * 20, Rate::Hz8000, &[0; 160], &[]));
    }
    wait_for("audio dropped", || site.metrics.get(Counter::SinkAudioDropped) > 0);
    wait_for("the sink told to fail", || site.metrics.sinks_failing() == 1);
    // Of audio nothing is on disk, and what has to be there waits for Redis.
    notes.ended(1, &Record::cut(started, 0));
    notes.close(SOON);
    let spool = fs::read_to_string(site.folder.path().join("spools/assist/00000000000000000001.jsonl")).unwrap();
    assert_eq!((spool.lines().count(), spool.contains("pcm16")), (1, false));
}
