//! The control port and the control socket over real sockets, with a daemon that only pretends; and the commands that
//! talk to it, as processes.

#![allow(clippy::unwrap_used)]

use std::{
    cell::{Cell, RefCell},
    future::Future,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    process::{Command, Output, Stdio},
    rc::Rc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    sync::oneshot,
    task::{LocalSet, spawn_blocking, spawn_local},
};
use trunkline::{
    control::{
        call_info::{Announcements, CallInfo},
        desk::{
            CallState, CallStatus, CameOf, Desk, LineStatus, Readiness, RecordsStatus, SinksStatus, Status, TellError,
            TrunkStatus,
        },
        http,
        local::Local,
        metrics::Metrics,
        socket,
    },
    leg::audiosocket::Uuid,
    media::Now,
};

const TRUNKLINE: &str = env!("CARGO_BIN_EXE_trunkline");
const UUID: &str = "40325ec2-5efd-4bd3-805f-53576e581d13";
const CALL_ID: &str = "k3vqhm2xw7ab";

/// A daemon with one call.
#[derive(Default)]
struct OneCall {
    metrics: Metrics,
    over: Cell<bool>,
    draining: Cell<bool>,
    /// Line or call, and what was asked of it.
    ordered: RefCell<Vec<(String, String)>>,
    told: RefCell<Announcements>,
    /// What comes of the next reload.
    reload: RefCell<Option<CameOf>>,
}

impl Desk for OneCall {
    fn status(&self) -> Status {
        let call = CallStatus {
            call_id: CALL_ID.to_owned(),
            line: "pbx".to_owned(),
            trunk: Some("agent".to_owned()),
            state: CallState::Bridged,
            seconds: 7,
            level_up_dbov: Some(-30),
            level_down_dbov: None,
            delay_ms: 20,
            uplink_backlog_ms: 0,
            frames_up: 350,
            frames_down: 350,
            dropped: 0,
            underruns: 0,
            late: 0,
            rtp: None,
        };
        let listen = Some("127.0.0.1:9092".to_owned());
        let (name, kind) = ("pbx".to_owned(), "audiosocket".to_owned());
        let url = "wss://agent.example.com/ws".to_owned();
        let (agent, dialect) = ("agent".to_owned(), "ozonetel".to_owned());
        Status {
            version: "9.9.9".to_owned(),
            pid: 42,
            uptime_seconds: 61,
            state: if self.draining.get() { Readiness::Draining } else { Readiness::Ready },
            problems: self.problems(),
            max_calls: 8,
            drain_seconds: 30,
            pool_high_water_bytes: 0,
            lines: vec![LineStatus {
                name,
                kind,
                listen,
                calls: 1,
                last_call_ms_ago: Some(7000),
                registration: None,
                card: None,
            }],
            trunks: vec![TrunkStatus { name: agent, url, dialect, last_handshake: None, last_refusal: None, calls: 1 }],
            calls: if self.over.get() { Vec::new() } else { vec![call] },
            records: RecordsStatus::default(),
            sinks: SinksStatus::default(),
            journal_dropped: 0,
        }
    }

    fn problems(&self) -> Vec<String> {
        if self.draining.get() { vec!["draining".to_owned()] } else { Vec::new() }
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn hang_up(&self, call_id: &str) -> bool {
        call_id == CALL_ID && !self.over.replace(true)
    }

    fn key(self: Rc<Self>, line: &str, pressed: bool) -> Result<String, String> {
        let way = if pressed { "press" } else { "release" };
        self.ordered.borrow_mut().push((line.to_owned(), way.to_owned()));
        if line == "desk" { Ok("a call begins".to_owned()) } else { Err(format!("the line {line} has no key")) }
    }

    fn dial(self: Rc<Self>, line: &str, target: &str) -> Result<String, String> {
        if self.draining.get() {
            return Err("no call can be placed now: the daemon is going down".to_owned());
        }
        self.ordered.borrow_mut().push((line.to_owned(), target.to_owned()));
        Ok("zz5dlo2c3qqe".to_owned())
    }

    fn transfer(&self, call_id: &str, target: &str) -> Result<(), String> {
        self.ordered.borrow_mut().push((call_id.to_owned(), target.to_owned()));
        Err("the dial plan does not allow this number: [line.pbx.dial] plan has 2??".to_owned())
    }

    fn send_digits(self: Rc<Self>, call_id: &str, digits: &str) -> Result<(), String> {
        self.ordered.borrow_mut().push((call_id.to_owned(), digits.to_owned()));
        Ok(())
    }

    fn reload(&self) -> Result<oneshot::Receiver<CameOf>, String> {
        let (answer, came_of_it) = oneshot::channel();
        answer.send(self.reload.take().unwrap_or(Ok("line desk opens".to_owned()))).unwrap();
        Ok(came_of_it)
    }

    fn drain(&self) {
        self.draining.set(true);
    }

    fn tell_of_call(&self, uuid: Uuid, info: CallInfo) -> Result<(), TellError> {
        if self.draining.get() {
            return Err(TellError::Draining);
        }
        self.told.borrow_mut().put(uuid, info, Now::ZERO)
    }
}

/// Runs `work` where local tasks can be spawned, for a minute at most.
fn on_a_control_thread(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(60), work).await.unwrap();
    });
}

/// `trunkline`, with this control socket.
async fn trunkline(socket: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(TRUNKLINE);
    command.args(args).env("TRUNKLINE_SOCKET", socket).env_remove("RUST_LOG");
    spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    core::str::from_utf8(bytes).unwrap()
}

#[test]
fn the_commands_show_and_steer_a_running_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    on_a_control_thread(async {
        let desk = Rc::new(OneCall::default());
        spawn_local(socket::serve(Local::open(&path, "[control] socket").unwrap(), desk.clone()));

        let shown = trunkline(&path, &["status"]).await;
        assert!(shown.status.success());
        assert!(text(&shown.stdout).starts_with("trunkline 9.9.9, process 42, up 1 min: ready\n"));
        assert!(text(&shown.stdout).contains("\nk3vqhm2xw7ab  pbx   agent  bridged  0:07"), "{}", text(&shown.stdout));

        let shown = trunkline(&path, &["status", "--json"]).await;
        assert_eq!(serde_json::from_slice::<Status>(&shown.stdout).unwrap(), desk.status());
        let shown = trunkline(&path, &["calls", "--json"]).await;
        assert_eq!(serde_json::from_slice::<Vec<CallStatus>>(&shown.stdout).unwrap(), desk.status().calls);

        let called = trunkline(&path, &["dial", "pbx", "+49 30 123456"]).await;
        assert_eq!(text(&called.stdout), "+49 30 123456 is being called through the line pbx: call zz5dlo2c3qqe\n");
        let refused = trunkline(&path, &["transfer", CALL_ID, "sip:900@evil.example?x=1"]).await;
        assert_eq!((refused.status.code(), text(&refused.stdout)), (Some(1), ""));
        assert_eq!(
            text(&refused.stderr),
            "trunkline: the dial plan does not allow this number: [line.pbx.dial] plan has 2??\n"
        );
        let keyed = trunkline(&path, &["digits", CALL_ID, "4711#"]).await;
        assert_eq!(text(&keyed.stdout), format!("keys are being pressed in call {CALL_ID}\n"));
        let ordered = desk.ordered.take();
        let ordered: Vec<_> = ordered.iter().map(|(whose, what)| (whose.as_str(), what.as_str())).collect();
        assert_eq!(
            ordered,
            [("pbx", "+49 30 123456"), (CALL_ID, "sip:900@evil.example?x=1"), (CALL_ID, "4711#")],
            "as it was written"
        );

        let nobody = trunkline(&path, &["hangup", "nobody"]).await;
        assert_eq!(nobody.status.code(), Some(1));
        assert_eq!(text(&nobody.stderr), "trunkline: there is no live call nobody; `trunkline calls` names them\n");
        assert!(trunkline(&path, &["hangup", CALL_ID]).await.status.success());
        assert!(desk.over.get());
        assert_eq!(text(&trunkline(&path, &["calls"]).await.stdout), "no calls\n");

        let drained = trunkline(&path, &["drain"]).await;
        assert!(drained.status.success() && desk.draining.get());
        assert_eq!(
            text(&drained.stdout),
            "the daemon (process 42) takes no new calls; no call is live, so it ends now\n"
        );
        let late = trunkline(&path, &["dial", "pbx", "201"]).await;
        assert_eq!(text(&late.stderr), "trunkline: no call can be placed now: the daemon is going down\n");
        let shown = trunkline(&path, &["status"]).await;
        assert!(text(&shown.stdout).contains(": draining\n") && text(&shown.stdout).contains("\nproblem: draining\n"));
    });
}

#[test]
fn without_a_daemon_the_commands_fail_with_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    on_a_control_thread(async {
        for args in [
            &["status"][..],
            &["status", "--watch"],
            &["calls"],
            &["drain"],
            &["hangup", CALL_ID],
            &["dial", "pbx", "201"],
            &["transfer", CALL_ID, "201"],
            &["digits", CALL_ID, "1"],
        ] {
            let failed = trunkline(&path, args).await;
            assert_eq!((failed.status.code(), text(&failed.stdout)), (Some(1), ""), "{args:?}");
            assert!(text(&failed.stderr).contains("is it running? See `systemctl status trunkline`"), "{args:?}");
        }
    });
}

#[test]
fn a_watch_in_a_pipe_goes_on_until_it_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    on_a_control_thread(async {
        spawn_local(socket::serve(Local::open(&path, "[control] socket").unwrap(), Rc::new(OneCall::default())));
        let mut command = Command::new(TRUNKLINE);
        command.args(["status", "--watch", "--socket"]).arg(&path).stdout(Stdio::piped());
        let watched = spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let heads = lines.by_ref().map(Result::unwrap).filter(|line| line.starts_with("trunkline 9.9.9"));
            assert_eq!(heads.take(2).count(), 2);
            kill_process(Pid::from_child(&child), Signal::INT).unwrap();
            assert!(lines.map(Result::unwrap).all(|line| !line.contains('\x1b')), "a pipe is no terminal");
            child.wait().unwrap()
        });
        assert!(watched.await.unwrap().success());
    });
}

#[test]
fn the_control_port_takes_what_a_dialplan_tells_and_keeps_the_rest_out() {
    on_a_control_thread(async {
        let desk = Rc::new(OneCall::default());
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let listen = listener.local_addr().unwrap();
        spawn_local(http::serve(listener, listen, true, desk.clone()));
        let ask = |request: String| async move {
            let answer = spawn_blocking(move || {
                let mut stream = TcpStream::connect(listen).unwrap();
                stream.write_all(request.as_bytes()).unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                answer
            });
            answer.await.unwrap()
        };
        let tell = |host: &str, body: &str| {
            let length = body.len();
            format!(
                "POST /calls/{UUID} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
                 Content-Length: {length}\r\n\r\n{body}"
            )
        };
        let body = r#"{"from":"+4930123","to":"700"}"#;

        let answer = ask(tell(&listen.to_string(), body)).await;
        assert!(answer.starts_with("HTTP/1.1 202 Accepted\r\n"), "{answer}");
        let info = desk.told.borrow_mut().take(UUID.parse().unwrap(), Now::ZERO).unwrap();
        assert_eq!((info.from.as_str(), info.to.as_str()), ("+4930123", "700"));

        let answer = ask(tell("evil.example", body)).await;
        assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
        let answer = ask(tell(&listen.to_string(), &format!("{{\"from\":\"{}\"}}", "9".repeat(100_000)))).await;
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("at most 4096 bytes"), "{answer}");
        assert_eq!(desk.told.borrow_mut().take(UUID.parse().unwrap(), Now::ZERO), None);

        desk.drain();
        let answer = ask(tell(&listen.to_string(), body)).await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("draining"), "{answer}");
        let answer = ask("GET /health HTTP/1.0\r\n\r\n".to_owned()).await;
        assert!(answer.starts_with("HTTP/1.0 503 ") || answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.ends_with("{\"status\":\"failing\",\"calls\":0,\"problems\":[\"draining\"]}\n"), "{answer}");
    });
}
