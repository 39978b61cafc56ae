//! Call control at Telnyx against a stand-in of its REST interface: real sockets, real signatures, bodies as Telnyx's
//! documentation has them.

#![allow(clippy::unwrap_used)]

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    fs,
    future::Future,
    net::SocketAddr,
    path::PathBuf,
    rc::Rc,
    sync::{Mutex, Once},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use log::{Level, Log, Metadata, Record, kv};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{LocalSet, spawn_local, yield_now},
    time::timeout,
};
use trunkline::{
    config::{self, Environment},
    telnyx::{Step, Telnyx, log_step},
};

/// What was logged by this process, by all of its tests: each looks for its own call.
static LOG: Mutex<Vec<(Level, String)>> = Mutex::new(Vec::new());

struct Collector;

impl Log for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("trunkline")
    }

    fn log(&self, record: &Record<'_>) {
        struct Fields(String);
        impl<'kvs> kv::VisitSource<'kvs> for Fields {
            fn visit_pair(&mut self, key: kv::Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
                if key.as_str() != "message_id" {
                    self.0.push_str(&format!(" {key}={value}"));
                }
                Ok(())
            }
        }
        if self.enabled(record.metadata()) && record.level() <= Level::Info {
            let mut fields = Fields(record.args().to_string());
            record.key_values().visit(&mut fields).unwrap();
            LOG.lock().unwrap().push((record.level(), fields.0));
        }
    }

    fn flush(&self) {}
}

fn logged(about: &str) -> Vec<(Level, String)> {
    LOG.lock().unwrap().iter().filter(|(_, text)| text.contains(about)).cloned().collect()
}

struct Given;

impl Environment for Given {
    fn var(&self, name: &str) -> Option<String> {
        (name == "KEY").then(|| "KEY0123_abc".to_owned())
    }

    fn credentials_dir(&self) -> Option<PathBuf> {
        None
    }
}

/// A command that reached the stand-in.
#[derive(Debug)]
struct Command {
    path: String,
    authorization: String,
    body: Value,
}

/// Trunkline's side, and the stand-in of Telnyx.
struct World {
    telnyx: Telnyx,
    webhooks: SocketAddr,
    pair: Ed25519KeyPair,
    commands: mpsc::UnboundedReceiver<Command>,
    /// What the stand-in answers next; nothing: 200. The status 0 is a connection that breaks.
    answers: Rc<RefCell<VecDeque<(u16, String)>>>,
    connections: Rc<Cell<usize>>,
    has_seat: Rc<Cell<bool>>,
    /// The call's id, which no other test has.
    call: &'static str,
}

impl World {
    async fn open(call: &'static str, more: &str) -> Self {
        static LOGGER: Once = Once::new();
        LOGGER.call_once(|| {
            log::set_logger(&Collector).unwrap();
            log::set_max_level(log::LevelFilter::Info);
        });
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let public_key = base64_simd::STANDARD.encode_to_string(pair.public_key().as_ref());

        let (tell, commands) = mpsc::unbounded_channel();
        let (answers, connections) = (Rc::new(RefCell::default()), Rc::new(Cell::new(0)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = listener.local_addr().unwrap();
        spawn_local(stand_in(listener, tell, Rc::clone(&answers), Rc::clone(&connections)));

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("telnyx.toml");
        let text = format!(
            r#"[telnyx]
webhook-listen = "127.0.0.1:0"
public-key = "{public_key}"
api-key = {{ env = "KEY" }}
api-url = "http://{api}"
public-url = "https://voice.example.com"
line = "telnyx"
{more}
[line.telnyx]
kind = "websocket"
plain = true
[[line.telnyx.path]]
path = "/media-stream-ws"
dialect = "telnyx"
[trunk.agent]
url = "wss://agent.example.com/ws"
dialect = "ozonetel"
[[route]]
line = "telnyx"
trunks = ["agent"]
"#
        );
        fs::write(&path, text).unwrap();
        let config = config::load(&path, &Given).unwrap_or_else(|problems| panic!("{problems}")).telnyx.unwrap();
        let listener = TcpListener::bind(config.webhook_listen).await.unwrap();
        let webhooks = listener.local_addr().unwrap();
        let telnyx = Telnyx::open(config).await.unwrap();
        let has_seat = Rc::new(Cell::new(true));
        let seats = Rc::clone(&has_seat);
        spawn_local(telnyx.clone().serve(listener, move || seats.get()));
        Self { telnyx, webhooks, pair, commands, answers, connections, has_seat, call }
    }

    /// A webhook as Telnyx sends it (API reference, "Callbacks").
    fn event(&self, id: &str, name: &str, more: &str) -> String {
        format!(
            r#"{{"data":{{"record_type":"event","event_type":"{name}","id":"{id}-{call}","occurred_at":"2024-03-15T07:41:09.931675Z","payload":{{"call_control_id":"{call}","call_leg_id":"63e33fb6-e29f-11ee-815b-02420a0d0870","call_session_id":"63dcc852-e29f-11ee-ab82-02420a0d0870","client_state":"","connection_id":"2386325531927775048","from":"+15418556816","to":"+12568349765"{more}}}}},"meta":{{"attempt":1,"delivered_to":"https://voice.example.com/telnyx"}}}}"#,
            call = self.call
        )
    }

    fn initiated(&self, id: &str) -> String {
        self.event(id, "call.initiated", r#","direction":"incoming","state":"parked""#)
    }

    fn answered(&self, id: &str) -> String {
        self.event(id, "call.answered", "")
    }

    fn sign(&self, at: u64, body: &str) -> [(&'static str, String); 2] {
        let signature = self.pair.sign(format!("{at}|{body}").as_bytes());
        let signature = base64_simd::STANDARD.encode_to_string(signature.as_ref());
        [("telnyx-signature-ed25519", signature), ("telnyx-timestamp", at.to_string())]
    }

    /// Sends a webhook with these headers, and gives the status and the body of the answer.
    async fn post(&self, headers: &[(&str, String)], body: &str) -> (u16, String) {
        let mut head =
            format!("POST /telnyx HTTP/1.1\r\nHost: voice.example.com\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let mut stream = TcpStream::connect(self.webhooks).await.unwrap();
        stream.write_all(format!("{head}\r\n{body}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon(stream.read_to_string(&mut answer)).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Sends a webhook that is signed now.
    async fn tell(&self, body: &str) {
        assert_eq!(self.post(&self.sign(now(), body), body).await.0, 200, "{body}");
    }

    async fn command(&mut self) -> Command {
        soon(self.commands.recv()).await.unwrap()
    }

    fn path(&self, action: &str) -> String {
        format!("/v2/calls/{}/actions/{action}", self.call)
    }

    fn log(&self) -> Vec<(Level, String)> {
        logged(&format!("={}", self.call))
    }

    /// The log of this call, once it has so many lines.
    async fn log_of(&self, lines: usize) -> Vec<(Level, String)> {
        soon(async {
            while self.log().len() < lines {
                yield_now().await;
            }
        })
        .await;
        self.log()
    }
}

/// Takes commands as Telnyx does.
async fn stand_in(
    listener: TcpListener,
    tell: mpsc::UnboundedSender<Command>,
    answers: Rc<RefCell<VecDeque<(u16, String)>>>,
    connections: Rc<Cell<usize>>,
) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.set(connections.get() + 1);
        let (tell, answers) = (tell.clone(), Rc::clone(&answers));
        let service = service_fn(move |request: Request<Incoming>| {
            let (tell, answers) = (tell.clone(), Rc::clone(&answers));
            async move {
                let path = request.uri().path().to_owned();
                let authorization = request.headers()["authorization"].to_str().unwrap().to_owned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let body = serde_json::from_slice(&body).unwrap();
                tell.send(Command { path, authorization, body }).unwrap();
                let ok = || (200, r#"{"data":{"result":"ok"}}"#.to_owned());
                let (status, body) = answers.borrow_mut().pop_front().unwrap_or_else(ok);
                if status == 0 {
                    return Err("broken");
                }
                Ok(Response::builder().status(status).body(Full::new(Bytes::from(body))).unwrap())
            }
        });
        // Broken on purpose, or by a test that is over.
        spawn_local(async move { http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.is_ok() });
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// What hangs is a failure, not a test without end.
async fn soon<T>(wanted: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), wanted).await.expect("it came to an end")
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn a_call_is_answered_streamed_and_hung_up_and_the_log_has_its_steps_in_order() {
    run(async {
        let mut world = World::open("v3:sequence", "profile = \"telnyx-l16-24k\"").await;
        world.tell(&world.initiated("1")).await;
        let answer = world.command().await;
        assert_eq!(
            (answer.path.as_str(), answer.authorization.as_str()),
            (world.path("answer").as_str(), "Bearer KEY0123_abc")
        );
        assert_eq!(answer.body.as_object().unwrap().keys().collect::<Vec<_>>(), ["command_id"]);

        world.tell(&world.answered("2")).await;
        let streaming = world.command().await;
        assert_eq!(streaming.path, world.path("streaming_start"));
        assert_eq!(
            streaming.body,
            json!({
                "stream_url": "wss://voice.example.com/media-stream-ws?call_id=v3:sequence",
                "stream_track": "both_tracks",
                "stream_bidirectional_mode": "rtp",
                "stream_bidirectional_codec": "L16",
                "stream_bidirectional_sampling_rate": 24000,
                "stream_bidirectional_target_legs": "opposite",
            })
        );
        let is_stranger = |path, call| world.telnyx.is_stranger(0, path, call);
        assert!(!is_stranger(0, world.call) && is_stranger(0, "v3:strange") && is_stranger(0, ""));
        assert!(!is_stranger(1, "v3:strange"), "another path of the line is for whoever asked elsewhere");

        world
            .tell(&world.event("3", "streaming.started", r#","stream_id":"1edb94f9-7ef0-4150-b502-e0ebadfd9491""#))
            .await;
        world.telnyx.socket_connected(world.call, "abcdefghijkl");
        for step in [Step::FirstFromTelnyx, Step::FirstToAgent, Step::FirstFromAgent, Step::FirstToTelnyx] {
            log_step(step, world.call, Some("abcdefghijkl"));
        }

        world.answers.borrow_mut().push_back((
            422,
            // Telnyx, "API error codes".
            r#"{"errors":[{"code":"90018","title":"Call has already ended","detail":"This call is no longer active and can't receive commands."}]}"#.to_owned(),
        ));
        world.telnyx.hangup(world.call);
        assert_eq!(world.command().await.path, world.path("hangup"));
        world
            .tell(&world.event("4", "call.hangup", r#","hangup_cause":"normal_clearing","hangup_source":"callee""#))
            .await;
        // It is over, so nothing is asked for.
        world.telnyx.hangup(world.call);

        let log: Vec<_> = world
            .log()
            .into_iter()
            .map(|(level, text)| (level, text.replace(" call_control_id=v3:sequence", "")))
            .collect();
        let wanted = [
            "a call rings at Telnyx",
            "the call at Telnyx is answered",
            "Telnyx is asked to stream the call",
            "Telnyx's socket is connected call_id=abcdefghijkl",
            "first frame from Telnyx call_id=abcdefghijkl",
            "first frame to the agent call_id=abcdefghijkl",
            "first frame from the agent call_id=abcdefghijkl",
            "first frame to Telnyx call_id=abcdefghijkl",
            "the call at Telnyx is over call_id=abcdefghijkl hangup_cause=normal_clearing hangup_source=callee",
        ];
        assert_eq!(log, wanted.map(|text| (Level::Info, text.to_owned())), "nothing is a warning");
        assert!(world.commands.try_recv().is_err());
        assert_eq!(world.connections.get(), 1, "the connection was used again");
    });
}

#[test]
fn the_default_profile_says_both_codecs_and_has_a_command_id() {
    run(async {
        let mut world = World::open("v3:default", "").await;
        world.tell(&world.initiated("1")).await;
        let answer = world.command().await;
        world.tell(&world.answered("2")).await;
        let mut streaming = world.command().await;
        let id = streaming.body.as_object_mut().unwrap().remove("command_id").unwrap();
        assert!(id != answer.body["command_id"] && id.as_str().unwrap().len() == 36);
        assert_eq!(
            streaming.body,
            json!({
                "stream_url": "wss://voice.example.com/media-stream-ws?call_id=v3:default",
                "stream_track": "inbound_track",
                "stream_bidirectional_mode": "rtp",
                "stream_bidirectional_codec": "PCMU",
                "stream_bidirectional_sampling_rate": 8000,
                "stream_bidirectional_target_legs": "self",
                "stream_codec": "PCMU",
            })
        );
    });
}

#[test]
fn a_webhook_that_telnyx_did_not_sign_now_leads_to_nothing_and_the_log_says_why() {
    run(async {
        let mut world = World::open("v3:stranger", "").await;
        let body = world.initiated("1");
        let other = Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap();
        let good = world.sign(now(), &body);
        let forged =
            base64_simd::STANDARD.encode_to_string(other.sign(format!("{}|{body}", now()).as_bytes()).as_ref());
        let mut by_another = good.clone();
        by_another[0].1 = forged;
        let old = world.sign(now() - 400, &body);
        for (headers, sent, why) in [
            (&by_another[..], body.as_str(), "its signature is not by public-key"),
            (&good[..], &body.replace("incoming", "outgoing"), "its signature is not by public-key"),
            (&good[..1], &body, "it is not signed"),
            (&[], &body, "it is not signed"),
            (
                &[good[0].clone(), ("telnyx-timestamp", "soon".to_owned())],
                &body,
                "its signature or timestamp is malformed",
            ),
            (&old[..], &body, "it is a replay, or this machine's clock is wrong"),
        ] {
            let (status, said) = world.post(headers, sent).await;
            assert_eq!(status, 403, "{why}");
            assert!(said.contains(why), "{said}");
            let told = logged(why);
            assert!(told.iter().all(|(level, text)| *level == Level::Warn && text.contains("a webhook was refused: ")));
            assert!(!told.is_empty(), "{why}");
        }
        assert!(world.commands.try_recv().is_err() && world.log().is_empty());
        // The same event, signed as it should be.
        world.tell(&body).await;
        assert_eq!(world.command().await.path, world.path("answer"));
    });
}

#[test]
fn an_event_that_comes_again_is_taken_and_done_once() {
    run(async {
        let mut world = World::open("v3:again", "").await;
        for _ in 0..3 {
            world.tell(&world.initiated("1")).await;
        }
        world.tell(&world.answered("2")).await;
        world.tell(&world.answered("2")).await;
        assert_eq!(world.command().await.path, world.path("answer"));
        assert_eq!(world.command().await.path, world.path("streaming_start"));
        world.telnyx.hangup(world.call);
        assert_eq!(world.command().await.path, world.path("hangup"), "nothing was asked for twice");
    });
}

#[test]
fn a_refusal_names_the_parameter_and_the_caller_is_not_left_in_silence() {
    run(async {
        let mut world = World::open("v3:refused", "profile = \"telnyx-l16-24k\"").await;
        world.tell(&world.initiated("1")).await;
        world.command().await;
        world.answers.borrow_mut().push_back((
            422,
            r#"{"errors":[{"code":"10032","title":"Invalid enumerated value","detail":"24000 is not one of 8000, 16000","source":{"pointer":"/stream_bidirectional_sampling_rate"}}]}"#.to_owned(),
        ));
        world.tell(&world.answered("2")).await;
        assert_eq!(world.command().await.path, world.path("streaming_start"));
        assert_eq!(world.command().await.path, world.path("hangup"));
        let (level, text) = world.log().pop().unwrap();
        assert_eq!(level, Level::Warn);
        assert_eq!(
            text,
            "Telnyx refused stream_bidirectional_sampling_rate: Invalid enumerated value: 24000 is not one of 8000, \
             16000 call_control_id=v3:refused action=streaming_start status=422 \
             parameter=stream_bidirectional_sampling_rate code=10032"
        );
    });
}

#[test]
fn what_does_not_get_through_is_said_once_more_under_the_same_id() {
    run(async {
        let mut world = World::open("v3:retry", "").await;
        world.answers.borrow_mut().extend([(503, String::new())]);
        world.tell(&world.initiated("1")).await;
        let (first, second) = (world.command().await, world.command().await);
        assert_eq!((first.path.as_str(), &first.body), (second.path.as_str(), &second.body));

        world.answers.borrow_mut().extend([(0, String::new())]);
        world.tell(&world.answered("2")).await;
        let (first, second) = (world.command().await, world.command().await);
        assert_eq!((first.path.as_str(), &first.body), (second.path.as_str(), &second.body));
        assert_eq!(world.log().iter().filter(|(level, _)| *level == Level::Warn).count(), 0);

        world.answers.borrow_mut().extend([(500, String::new()), (502, String::new())]);
        world.telnyx.hangup(world.call);
        let (level, text) = world.log_of(4).await.pop().unwrap();
        assert_eq!(level, Level::Warn);
        assert_eq!(
            text,
            "Telnyx could not be told call_control_id=v3:retry action=hangup words=it answered 502 Bad Gateway"
        );
    });
}

#[test]
fn one_call_more_than_there_are_seats_is_busy() {
    run(async {
        let mut world = World::open("v3:busy", "").await;
        world.has_seat.set(false);
        world.tell(&world.initiated("1")).await;
        let reject = world.command().await;
        assert_eq!((reject.path.as_str(), &reject.body["cause"]), (world.path("reject").as_str(), &"USER_BUSY".into()));
    });
}

#[test]
fn a_stream_that_failed_is_told_once_with_what_to_check() {
    run(async {
        let mut world = World::open("v3:failed", "").await;
        world.tell(&world.initiated("1")).await;
        world.tell(&world.answered("2")).await;
        world.command().await;
        world.command().await;
        let failed = |id| {
            world.event(id, "streaming.failed", r#","failure_reason":"connection_failed","stream_type":"websocket""#)
        };
        world.tell(&failed("3")).await;
        world.tell(&failed("4")).await;
        let warnings: Vec<_> = world.log().into_iter().filter(|(level, _)| *level == Level::Warn).collect();
        assert_eq!(warnings.len(), 1);
        let (_, text) = &warnings[0];
        assert!(text.starts_with("no stream came from Telnyx: check that public-url leads to [line.telnyx]"), "{text}");
        assert!(text.ends_with("why=connection_failed public_url=voice.example.com"), "{text}");
    });
}

#[test]
fn what_is_no_webhook_gets_its_answer() {
    run(async {
        let mut world = World::open("v3:rubbish", "").await;
        for (body, status) in [
            ("{}", 400),
            ("not JSON", 400),
            (r#"{"data":{"event_type":"call.answered","id":"e1","payload":{}}}"#, 400),
            (r#"{"data":{"event_type":"message.received","id":"e2","payload":{}}}"#, 200),
        ] {
            assert_eq!(world.post(&world.sign(now(), body), body).await.0, status, "{body}");
        }
        let long = "x".repeat(70_000);
        assert_eq!(world.post(&world.sign(now(), &long), &long).await.0, 413);
        let mut stream = TcpStream::connect(world.webhooks).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        soon(stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: POST"), "{answer}");
        assert!(world.commands.try_recv().is_err());
    });
}
