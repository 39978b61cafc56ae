//! The control port: `/health` and `/metrics` for whoever watches the box, and `POST /calls/UUID` for the PBX.
//!
//! Nobody is asked for a password, so it listens on loopback unless told otherwise. A browser on the same machine is the
//! one stranger who gets that far: what changes anything here takes JSON, no `Origin` and a `Host` of ours, which no web
//! page can send.

use std::{io, net::SocketAddr, rc::Rc};

use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::{Body, Bytes},
    header::{self, HeaderValue},
};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};

use crate::{
    control::{
        call_info::CallInfo,
        desk::{Desk, TellError},
        server::{self, Answer, BoxError, Door, body, json, only, refuse},
    },
    leg::audiosocket::Uuid,
};

/// Serves for ever. `listen` is where the listener does; `call_info` is the config's key.
pub async fn serve(listener: TcpListener, listen: SocketAddr, call_info: bool, desk: Rc<dyn Desk>) {
    server::serve(Port { listener, answers: Answers { listen, call_info, desk } }).await;
}

struct Port {
    listener: TcpListener,
    answers: Answers,
}

impl Door for Port {
    type Stream = TcpStream;
    type Caller = ();

    async fn accept(&self) -> io::Result<(TcpStream, ())> {
        self.listener.accept().await.map(|(stream, _)| (stream, ()))
    }

    async fn answer<B>(&self, (): &(), request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        self.answers.answer(request).await
    }
}

struct Answers {
    listen: SocketAddr,
    call_info: bool,
    desk: Rc<dyn Desk>,
}

impl Answers {
    async fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let path = request.uri().path();
        if let Some(uuid) = path.strip_prefix("/calls/") {
            let uuid = uuid.parse();
            return match self.tell_of_call(uuid, request).await {
                Ok(answer) | Err(answer) => answer,
            };
        }
        let there = "here are /health, /metrics and POST /calls/UUID; the rest is on the control socket";
        watch(&*self.desk, request.method(), path).unwrap_or_else(|| refuse(StatusCode::NOT_FOUND, there))
    }

    /// `POST /calls/UUID`. Both sides of the result are answers.
    async fn tell_of_call<B>(
        &self,
        uuid: Result<Uuid, impl core::fmt::Display>,
        request: Request<B>,
    ) -> Result<Answer, Answer>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        if !self.call_info {
            let words = "calls to come cannot be told of: the config does not say `call-info = true` in [control]";
            return Err(refuse(StatusCode::FORBIDDEN, words));
        }
        if request.method() != Method::POST {
            return Err(only("POST"));
        }
        if request.headers().contains_key(header::ORIGIN) {
            return Err(refuse(StatusCode::FORBIDDEN, "this is not for web pages: the request has an Origin"));
        }
        if !is_our_host(request.headers(), self.listen) {
            let words = format!("the header Host names somebody else; wanted {}", self.listen);
            return Err(refuse(StatusCode::MISDIRECTED_REQUEST, words));
        }
        let uuid = uuid.map_err(|error| refuse(StatusCode::BAD_REQUEST, format_args!("/calls/UUID: {error}")))?;
        if !is_json(request.headers()) {
            let words = "wanted the header Content-Type: application/json";
            return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, words));
        }
        let info = body(request, MOST_BODY).await?;
        let info = CallInfo::parse(&info).map_err(|error| refuse(StatusCode::BAD_REQUEST, error))?;
        self.desk.tell_of_call(uuid, info).map_err(|error| {
            let mut refused = refuse(StatusCode::SERVICE_UNAVAILABLE, error);
            match error {
                TellError::Full => {
                    refused.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
                }
                TellError::Draining => {}
            }
            refused
        })?;
        Ok(json(StatusCode::ACCEPTED, &Told { uuid: uuid.to_string() }))
    }
}

#[derive(Serialize)]
struct Told {
    uuid: String,
}

/// What the control port and the control socket both have for whoever watches: `/health` and `/metrics`.
pub(super) fn watch(desk: &dyn Desk, method: &Method, path: &str) -> Option<Answer> {
    match (method, path) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            Some(server::answer(StatusCode::OK, "text/plain; version=0.0.4", desk.metrics().text()))
        }
        (&Method::GET | &Method::HEAD, "/health") => Some(health(desk)),
        (_, "/metrics" | "/health") => Some(only("GET")),
        _ => None,
    }
}

fn health(desk: &dyn Desk) -> Answer {
    #[derive(Serialize)]
    struct Health {
        status: &'static str,
        calls: u64,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        problems: Vec<String>,
    }
    let problems = desk.problems();
    let (code, status) =
        if problems.is_empty() { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "failing") };
    json(code, &Health { status, calls: desk.metrics().live(), problems })
}

/// Whether the one `Host` is ours, so that a name which a stranger made to lead here (DNS rebinding) is found out.
fn is_our_host(headers: &HeaderMap, listen: SocketAddr) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(host) = host.to_str() else { return false };
    if let Ok(address) = host.parse::<SocketAddr>() {
        // On all addresses any will do: what a browser was sent to by address came from that address.
        let same = address.ip().to_canonical() == listen.ip().to_canonical();
        return address.port() == listen.port() && (same || listen.ip().is_unspecified());
    }
    let local = listen.ip().to_canonical().is_loopback() || listen.ip().is_unspecified();
    let name = host.strip_suffix(&format!(":{}", listen.port()));
    local && name.is_some_and(|name| LOCAL_NAMES.iter().any(|local| local.eq_ignore_ascii_case(name)))
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    kind.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case("application/json")
}

/// Loopback's names in `/etc/hosts` of Debian and Fedora.
const LOCAL_NAMES: [&str; 4] = ["localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"];
/// Three numbers and three names with their values have 640 bytes, six times that as escapes.
const MOST_BODY: usize = 4096;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;
    use crate::control::desk::tests::FakeDesk;

    const UUID: &str = "40325ec2-5efd-4bd3-805f-53576e581d13";

    fn ask(
        listen: &str,
        call_info: bool,
        desk: &Rc<FakeDesk>,
        request: Request<Full<Bytes>>,
    ) -> (u16, HeaderMap, String) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let answers = Answers { listen: listen.parse().unwrap(), call_info, desk: Rc::clone(desk) as Rc<dyn Desk> };
            let (parts, body) = answers.answer(request).await.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            (parts.status.as_u16(), parts.headers, String::from_utf8(body.to_vec()).unwrap())
        })
    }

    fn get(desk: &Rc<FakeDesk>, method: &str, path: &str) -> (u16, HeaderMap, String) {
        let request = Request::builder().method(method).uri(path).body(Full::default()).unwrap();
        ask("127.0.0.1:9464", true, desk, request)
    }

    /// A telling as a dialplan does it, with other headers in the place of its own where they are given.
    fn tell(headers: &[(&str, &str)], body: &str) -> Request<Full<Bytes>> {
        let mut request = Request::builder().method("POST").uri(format!("/calls/{UUID}"));
        for (name, value) in [("host", "127.0.0.1:9464"), ("content-type", "application/json")] {
            if headers.iter().all(|(given, _)| *given != name) {
                request = request.header(name, value);
            }
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Full::from(body.to_owned())).unwrap()
    }

    fn told(headers: &[(&str, &str)], body: &str) -> (u16, String) {
        let (status, _, text) = ask("127.0.0.1:9464", true, &Rc::default(), tell(headers, body));
        (status, text)
    }

    #[test]
    fn health_says_each_reason() {
        let desk = Rc::new(FakeDesk::default());
        desk.metrics.call_began();
        let (status, headers, text) = get(&desk, "GET", "/health");
        assert_eq!((status, text.as_str()), (200, "{\"status\":\"ok\",\"calls\":1}\n"));
        assert_eq!(headers[header::CONTENT_TYPE], "application/json");
        desk.problems.borrow_mut().extend(["draining".to_owned(), "records cannot be written: \"full\"".to_owned()]);
        let (status, _, text) = get(&desk, "GET", "/health");
        let problems = r#""problems":["draining","records cannot be written: \"full\""]"#;
        assert_eq!((status, text), (503, format!("{{\"status\":\"failing\",\"calls\":1,{problems}}}\n")));
    }

    #[test]
    fn health_and_metrics_are_there_to_read_and_little_else() {
        let desk = Rc::new(FakeDesk::default());
        let (status, headers, text) = get(&desk, "GET", "/metrics");
        assert_eq!((status, &headers[header::CONTENT_TYPE]), (200, &"text/plain; version=0.0.4".parse().unwrap()));
        assert!(text.contains("\ntrunkline_calls 0\n"), "{text}");
        assert_eq!(get(&desk, "HEAD", "/health").0, 200);
        let (status, headers, _) = get(&desk, "POST", "/metrics");
        assert_eq!((status, &headers[header::ALLOW]), (405, &"GET".parse().unwrap()));
        for path in ["/", "/status", "/drain", "/calls", "/health/"] {
            assert_eq!(get(&desk, "GET", path).0, 404, "{path}");
            assert_eq!(get(&desk, "POST", path).0, 404, "{path}");
        }
        assert!(!desk.drained.get());
    }

    #[test]
    fn a_call_to_come_is_told_of() {
        let desk = Rc::new(FakeDesk::default());
        let body = r#"{"from":"+4930123","custom":{"lane":"sales"}}"#;
        let (status, _, text) = ask("127.0.0.1:9464", true, &desk, tell(&[], body));
        assert_eq!((status, text), (202, format!("{{\"uuid\":\"{UUID}\"}}\n")));
        let told = desk.told.borrow();
        let (uuid, info) = &told[0];
        assert_eq!((uuid.to_string().as_str(), info.from.as_str(), told.len()), (UUID, "+4930123", 1));
    }

    #[test]
    fn telling_of_calls_is_off_unless_the_config_says_otherwise() {
        let desk = Rc::new(FakeDesk::default());
        let (status, _, text) = ask("127.0.0.1:9464", false, &desk, tell(&[], "{}"));
        assert_eq!(status, 403);
        assert!(text.contains("`call-info = true` in [control]"), "{text}");
        assert!(desk.told.borrow().is_empty());
    }

    #[test]
    fn what_is_wrong_with_a_telling_is_said() {
        let long = format!(r#"{{"from":"{}"}}"#, " ".repeat(MOST_BODY));
        for (headers, body, status, words) in [
            (&[("content-type", "application/x-www-form-urlencoded")][..], "{}", 415, "application/json"),
            (&[("content-type", "application/jsonp")], "{}", 415, "application/json"),
            (&[("origin", "http://127.0.0.1:9464")], "{}", 403, "Origin"),
            (&[("origin", "null")], "{}", 403, "Origin"),
            (&[("host", "evil.example:9464")], "{}", 421, "wanted 127.0.0.1:9464"),
            (&[], &long, 413, "at most 4096 bytes"),
            (&[], "", 400, "EOF"),
            (&[], r#"{"caller":"1"}"#, 400, "unknown field `caller`"),
            (&[], r#"{"custom":{"a":"","b":"","c":"","d":""}}"#, 400, "`custom` has 4 names; at most 3"),
        ] {
            let (got, text) = told(headers, body);
            assert_eq!(got, status, "{headers:?} {text}");
            assert!(text.contains(words), "{text}");
        }
        let (status, _, text) = get(&Rc::default(), "GET", &format!("/calls/{UUID}"));
        assert_eq!(status, 405, "{text}");
    }

    #[test]
    fn a_path_that_is_no_uuid_is_told_so() {
        let mut request = tell(&[], "{}");
        *request.uri_mut() = "/calls/../health".parse().unwrap();
        let (status, _, text) = ask("127.0.0.1:9464", true, &Rc::default(), request);
        assert_eq!(status, 400);
        assert!(text.contains("32 hexadecimal digits"), "{text}");
    }

    #[test]
    fn json_may_name_its_alphabet() {
        assert_eq!(told(&[("content-type", "Application/JSON; charset=utf-8")], "{}").0, 202);
    }

    #[test]
    fn a_daemon_that_cannot_use_it_says_so() {
        for (refusal, words, retry) in
            [(TellError::Full, "too many", Some("5")), (TellError::Draining, "draining", None)]
        {
            let desk = Rc::new(FakeDesk::default());
            desk.refuses.set(Some(refusal));
            let (status, headers, text) = ask("127.0.0.1:9464", true, &desk, tell(&[], "{}"));
            assert_eq!(status, 503);
            assert!(text.contains(words), "{text}");
            assert_eq!(headers.get(header::RETRY_AFTER).map(|value| value.to_str().unwrap()), retry);
        }
    }

    #[test]
    fn only_our_own_names_are_hosts() {
        let is_ours = |listen: &str, hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, host.parse().unwrap());
            }
            is_our_host(&headers, listen.parse().unwrap())
        };
        for (listen, host, ours) in [
            ("127.0.0.1:9464", "127.0.0.1:9464", true),
            ("127.0.0.1:9464", "localhost:9464", true),
            ("127.0.0.1:9464", "LocalHost:9464", true),
            ("127.0.0.1:9464", "localhost", false),
            ("127.0.0.1:9464", "localhost:80", false),
            ("127.0.0.1:9464", "127.0.0.2:9464", false),
            ("127.0.0.1:9464", "localhost.evil.example:9464", false),
            ("127.0.0.1:9464", "evil.example:9464", false),
            ("127.0.0.1:9464", "", false),
            ("[::1]:9464", "[::1]:9464", true),
            ("[::1]:9464", "ip6-localhost:9464", true),
            ("192.0.2.20:9464", "192.0.2.20:9464", true),
            ("192.0.2.20:9464", "localhost:9464", false),
            ("0.0.0.0:9464", "192.0.2.20:9464", true),
            ("0.0.0.0:9464", "192.0.2.20:80", false),
            ("0.0.0.0:9464", "localhost:9464", true),
            ("0.0.0.0:9464", "evil.example:9464", false),
            ("[::]:9464", "192.0.2.20:9464", true),
        ] {
            assert_eq!(is_ours(listen, &[host]), ours, "{listen} {host}");
        }
        assert!(!is_ours("127.0.0.1:9464", &[]));
        assert!(!is_ours("127.0.0.1:9464", &["127.0.0.1:9464", "127.0.0.1:9464"]));
    }
}
