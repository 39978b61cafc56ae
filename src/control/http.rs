//! What is served over HTTP: on the control port `/health`, `/metrics` and, where the config allows it, `POST
//! /calls/UUID`; on the control socket all that `trunkline status` and its like need.

use std::{convert::Infallible, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Bytes},
    header::{self, HeaderMap, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use log::debug;
use serde::Deserialize;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
    task::spawn_local,
};

use crate::{
    control::{
        call_info::CallInfo,
        desk::{Busy, Desk},
    },
    dialect::{Parameters, Text},
    leg::audiosocket::Uuid,
};

/// At which counter a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// The control port: whoever reaches it may watch, and tell of calls where the config allows that.
    Port {
        /// Where it listens.
        address: SocketAddr,
        /// Whether `POST /calls/UUID` is allowed.
        call_info: bool,
    },
    /// The control socket: whoever may open it may steer.
    Socket,
}

/// Serves the control port until the listener fails.
pub async fn serve(listener: TcpListener, address: SocketAddr, call_info: bool, desk: Rc<dyn Desk>) {
    let seats = Seats::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => seats.serve(stream, Counter::Port { address, call_info }, &desk),
            Err(error) => {
                // Out of descriptors: the calls come first, the watcher comes again.
                debug!(error:%; "the control port could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Connections at once, at one counter.
pub struct Seats(Arc<Semaphore>);

impl Default for Seats {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST_CONNECTIONS)))
    }
}

impl Seats {
    /// Serves a connection, unless there are [`MOST_CONNECTIONS`] already.
    pub fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin + 'static, counter: Counter, desk: &Rc<dyn Desk>) {
        let Ok(seat) = Arc::clone(&self.0).try_acquire_owned() else { return };
        let desk = Rc::clone(desk);
        spawn_local(async move {
            let service = service_fn(move |request| {
                let desk = Rc::clone(&desk);
                async move {
                    let answered = tokio::time::timeout(REQUEST_TIMEOUT, handle(request, counter, &*desk)).await;
                    let late = |_| refuse(StatusCode::REQUEST_TIMEOUT, "the request took longer than 5 s");
                    Ok::<_, Infallible>(answered.unwrap_or_else(late))
                }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_TIMEOUT)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                debug!(error:%; "a connection to the daemon's controls broke off");
            }
            drop(seat);
        });
    }
}

type Answer = Response<Full<Bytes>>;

/// Answers one request.
pub async fn handle<B>(request: Request<B>, counter: Counter, desk: &dyn Desk) -> Answer
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let path = request.uri().path().to_owned();
    let parts: Vec<_> = path.trim_start_matches('/').split('/').collect();
    let reading = matches!(*request.method(), Method::GET | Method::HEAD);
    let posting = request.method() == Method::POST;
    match (counter, parts.as_slice()) {
        (_, ["health"]) if reading => health(desk),
        (_, ["metrics"]) if reading => text(StatusCode::OK, "text/plain; version=0.0.4", desk.metrics()),
        (_, ["health" | "metrics"]) => refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET"),
        (Counter::Port { address, call_info }, ["calls", uuid]) => {
            if !posting {
                return refuse(StatusCode::METHOD_NOT_ALLOWED, "only POST");
            }
            if !call_info {
                return refuse(StatusCode::FORBIDDEN, "not allowed: set call-info = true under [control]");
            }
            if let Err((status, words)) = is_own(request.headers(), address) {
                return refuse(status, words);
            }
            let Ok(uuid) = uuid.parse() else {
                return refuse(
                    StatusCode::BAD_REQUEST,
                    "wanted /calls/UUID, 32 hexadecimal digits with or without hyphens",
                );
            };
            tell_of_call(request, uuid, desk).await
        }
        (Counter::Socket, ["status"]) if reading => json(StatusCode::OK, &json!(desk.status())),
        (Counter::Socket, ["calls"]) if reading => json(StatusCode::OK, &json!(desk.status().calls)),
        (Counter::Socket, ["calls", call_id, "hangup"]) if posting => {
            if desk.hang_up(call_id) {
                json(StatusCode::ACCEPTED, &json!({ "call_id": call_id }))
            } else {
                refuse(StatusCode::NOT_FOUND, "there is no live call of that id; `trunkline calls` lists them")
            }
        }
        (Counter::Socket, ["drain"]) if posting => json(StatusCode::ACCEPTED, &json!({ "calls": desk.drain() })),
        (Counter::Socket, ["status" | "calls" | "drain"] | ["calls", _, "hangup"]) => {
            refuse(StatusCode::METHOD_NOT_ALLOWED, "GET /status and /calls; POST /calls/ID/hangup and /drain")
        }
        (Counter::Port { .. }, _) => refuse(StatusCode::NOT_FOUND, "here are /health, /metrics and POST /calls/UUID"),
        (Counter::Socket, _) => {
            refuse(StatusCode::NOT_FOUND, "here are /status, /calls, /calls/ID/hangup, /drain, /health and /metrics")
        }
    }
}

fn health(desk: &dyn Desk) -> Answer {
    let problems = desk.problems();
    if problems.is_empty() {
        json(StatusCode::OK, &json!({ "status": "ok" }))
    } else {
        json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "degraded", "problems": problems }))
    }
}

/// A web page that somebody on this network looks at can make their browser send requests here: it names its origin, or
/// a host that is not ours.
fn is_own(headers: &HeaderMap, address: SocketAddr) -> Result<(), (StatusCode, &'static str)> {
    if headers.contains_key(header::ORIGIN) {
        return Err((StatusCode::FORBIDDEN, "requests of web pages (header Origin) are not taken"));
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port.parse().unwrap_or_default()),
        _ => (host, 80),
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let is_known = name == "localhost"
        || name.parse().is_ok_and(|ip: core::net::IpAddr| {
            ip == address.ip() || address.ip().is_unspecified() || (ip.is_loopback() && address.ip().is_loopback())
        });
    if is_known && port == address.port() {
        Ok(())
    } else {
        Err((
            StatusCode::MISDIRECTED_REQUEST,
            "the header Host names another server; use the address of [control] http",
        ))
    }
}

/// The body of `POST /calls/UUID`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    #[serde(default)]
    from: String,
    #[serde(default)]
    to: String,
    #[serde(default)]
    did: String,
    #[serde(default)]
    custom: serde_json::Map<String, serde_json::Value>,
}

async fn tell_of_call<B>(request: Request<B>, uuid: Uuid, desk: &dyn Desk) -> Answer
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "wanted the header Content-Type: application/json");
    }
    let body = match Limited::new(request.into_body(), MOST_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, "wanted at most 4096 bytes");
        }
        Err(_) => return refuse(StatusCode::BAD_REQUEST, "the body broke off"),
    };
    let info = match serde_json::from_slice::<Told>(&body).map_err(|error| error.to_string()).and_then(info_of) {
        Ok(info) => info,
        Err(words) => return refuse(StatusCode::BAD_REQUEST, &words),
    };
    match desk.tell_of_call(uuid, info) {
        Ok(()) => json(StatusCode::ACCEPTED, &json!({ "uuid": uuid.to_string() })),
        Err(Busy::Draining) => refuse(StatusCode::SERVICE_UNAVAILABLE, "the daemon is going down"),
        Err(Busy::Full) => refuse(StatusCode::SERVICE_UNAVAILABLE, "too many calls were told of and have not come"),
    }
}

fn info_of(told: Told) -> Result<CallInfo, String> {
    let short = |key: &str, text: &str| {
        let fits = || Text::try_from(text).ok().filter(|text| !text.contains(char::is_control));
        fits().ok_or_else(|| format!("{key}: wanted at most 128 bytes without control characters"))
    };
    let mut custom = Parameters::default();
    for (name, value) in &told.custom {
        let serde_json::Value::String(value) = value else { return Err(format!("custom.{name}: wanted a string")) };
        if !custom.add(name, value) {
            let (most, bytes) = (Parameters::MAX, Parameters::MAX_BYTES);
            return Err(format!(
                "custom: wanted at most {most} fields, with {bytes} bytes of names and values together"
            ));
        }
    }
    Ok(CallInfo { from: short("from", &told.from)?, to: short("to", &told.to)?, did: short("did", &told.did)?, custom })
}

fn json(status: StatusCode, value: &serde_json::Value) -> Answer {
    text(status, "application/json", format!("{value}\n"))
}

fn refuse(status: StatusCode, words: &str) -> Answer {
    json(status, &json!({ "error": words }))
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

const MOST_CONNECTIONS: usize = 32;
const MOST_BODY: usize = 4096;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use core::cell::RefCell;

    use super::*;
    use crate::control::desk::Status;

    #[derive(Default)]
    struct Fake {
        problems: Vec<String>,
        busy: Option<Busy>,
        told: RefCell<Vec<(Uuid, CallInfo)>>,
        asked: RefCell<Vec<String>>,
    }

    impl Desk for Fake {
        fn status(&self) -> Status {
            crate::control::desk::tests::status()
        }
        fn problems(&self) -> Vec<String> {
            self.problems.clone()
        }
        fn metrics(&self) -> String {
            "trunkline_calls 0\n".to_owned()
        }
        fn hang_up(&self, call_id: &str) -> bool {
            self.asked.borrow_mut().push(format!("hang up {call_id}"));
            call_id == "abcdefgh2345"
        }
        fn drain(&self) -> usize {
            self.asked.borrow_mut().push("drain".to_owned());
            3
        }
        fn tell_of_call(&self, uuid: Uuid, info: CallInfo) -> Result<(), Busy> {
            self.told.borrow_mut().push((uuid, info));
            self.busy.map_or(Ok(()), Err)
        }
    }

    const PORT: Counter = Counter::Port {
        address: SocketAddr::new(core::net::IpAddr::V4(core::net::Ipv4Addr::LOCALHOST), 9464),
        call_info: true,
    };
    const CALL: &str = "/calls/0f8b2c6e-51d4-4f0a-9e37-62a1c4d97b80";

    /// Status and body of the answer to this; the request has what a good client sends, unless a header says otherwise.
    fn asked(desk: &Fake, counter: Counter, line: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        let (method, path) = line.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in [("host", "localhost:9464"), ("content-type", "application/json")] {
            if headers.iter().all(|(given, _)| *given != name) {
                request = request.header(name, value);
            }
        }
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let answer = handle(request, counter, desk).await;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            (status, String::from_utf8(body.to_vec()).unwrap())
        })
    }

    #[test]
    fn health_is_503_with_every_reason() {
        let mut desk = Fake::default();
        assert_eq!(asked(&desk, PORT, "GET /health", &[], ""), (200, "{\"status\":\"ok\"}\n".to_owned()));
        desk.problems = vec!["one".to_owned(), "two".to_owned()];
        let (status, body) = asked(&desk, PORT, "GET /health", &[], "");
        assert_eq!((status, body.as_str()), (503, "{\"problems\":[\"one\",\"two\"],\"status\":\"degraded\"}\n"));
    }

    #[test]
    fn the_port_watches_and_does_not_steer() {
        let desk = Fake::default();
        assert_eq!(asked(&desk, PORT, "GET /metrics", &[], "").0, 200);
        assert_eq!(asked(&desk, PORT, "POST /metrics", &[], "").0, 405);
        for line in ["GET /status", "POST /drain", "POST /calls/abcdefgh2345/hangup", "GET /", "GET /calls"] {
            assert_eq!(asked(&desk, PORT, line, &[], "").0, 404, "{line}");
        }
        assert!(desk.asked.borrow().is_empty());
    }

    #[test]
    fn the_socket_steers() {
        let desk = Fake::default();
        let socket = |line: &str| asked(&desk, Counter::Socket, line, &[], "");
        let status: Status = serde_json::from_str(&socket("GET /status").1).unwrap();
        assert_eq!(status, desk.status());
        assert_eq!(socket("POST /calls/abcdefgh2345/hangup").0, 202);
        assert_eq!(socket("POST /calls/zzzzzzzz2345/hangup").0, 404);
        assert_eq!(socket("POST /drain"), (202, "{\"calls\":3}\n".to_owned()));
        assert_eq!(socket("GET /drain").0, 405);
        assert_eq!(socket(&format!("POST {CALL}")).0, 404);
        assert_eq!(*desk.asked.borrow(), ["hang up abcdefgh2345", "hang up zzzzzzzz2345", "drain"]);
    }

    #[test]
    fn a_call_is_told_of_with_its_numbers_and_fields() {
        let desk = Fake::default();
        let body = r#"{"from":"+15550100011","to":"+15550100022","custom":{"lane":"sales"}}"#;
        assert_eq!(asked(&desk, PORT, &format!("POST {CALL}"), &[], body).0, 202);
        let told = desk.told.borrow();
        let (uuid, info) = &told[0];
        assert_eq!(format!("/calls/{uuid}"), CALL);
        assert_eq!((info.from.as_str(), info.to.as_str(), info.did.as_str()), ("+15550100011", "+15550100022", ""));
        assert!(info.custom.iter().eq([("lane", "sales")]));
    }

    #[test]
    fn what_is_wrong_with_a_call_that_is_told_of_is_said() {
        let desk = Fake::default();
        let long = format!(r#"{{"from":"{}"}}"#, "1".repeat(129));
        let huge = format!(r#"{{"from":"{}"}}"#, "1".repeat(5000));
        let custom = r#"{"custom":{"a":"1","b":"2","c":"3","d":"4"}}"#;
        let post = format!("POST {CALL}");
        for (line, headers, body, status, words) in [
            (post.as_str(), &[("origin", "http://evil.example")][..], "{}", 403, "Origin"),
            (&post, &[("host", "evil.example:9464")], "{}", 421, "Host"),
            (&post, &[("host", "127.0.0.1:80")], "{}", 421, "Host"),
            (&post, &[("host", "")], "{}", 421, "Host"),
            (&post, &[("content-type", "text/plain")], "{}", 415, "application/json"),
            (&post, &[("content-type", "")], "{}", 415, "application/json"),
            (&post, &[], "{", 400, "EOF"),
            (&post, &[], r#"{"caller":"1"}"#, 400, "unknown field `caller`"),
            (&post, &[], r#"{"from":"1\n2"}"#, 400, "from: wanted"),
            (&post, &[], &long, 400, "from: wanted at most 128 bytes"),
            (&post, &[], &huge, 413, "4096"),
            (&post, &[], custom, 400, "at most 3 fields"),
            (&post, &[], r#"{"custom":{"a":1}}"#, 400, "custom.a: wanted a string"),
            ("POST /calls/not-a-uuid", &[], "{}", 400, "UUID"),
            (&format!("GET {CALL}"), &[], "", 405, "POST"),
        ] {
            let (found, answer) = asked(&desk, PORT, line, headers, body);
            assert!(found == status && answer.contains(words), "{line} {headers:?}: {found} {answer}");
        }
        assert!(desk.told.borrow().is_empty());
    }

    #[test]
    fn nobody_tells_of_calls_where_that_is_not_allowed() {
        let Counter::Port { address, .. } = PORT else { unreachable!() };
        let closed = Counter::Port { address, call_info: false };
        let (status, words) = asked(&Fake::default(), closed, &format!("POST {CALL}"), &[], "{}");
        assert!(status == 403 && words.contains("call-info = true"), "{status} {words}");
    }

    #[test]
    fn a_daemon_that_is_busy_says_why() {
        for (busy, words) in [(Busy::Draining, "going down"), (Busy::Full, "too many")] {
            let desk = Fake { busy: Some(busy), ..Fake::default() };
            let (status, answer) = asked(&desk, PORT, &format!("POST {CALL}"), &[], "{}");
            assert!(status == 503 && answer.contains(words), "{status} {answer}");
        }
    }
}
