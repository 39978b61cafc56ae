//! Commands to Telnyx by its REST interface: one POST each, tried a second time where it did not get through.
//!
//! A command has a `command_id`, so that Telnyx does it once although it may hear it twice ("Command retries"). What
//! Telnyx refuses is told by the name of the parameter that it minds.

use core::time::Duration;
use std::{cell::RefCell, sync::Arc};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    client::conn::http1::{self, SendRequest},
    header::{self, HeaderValue},
};
use hyper_util::rt::TokioIo;
use log::debug;
use rustls::{ClientConfig, pki_types::ServerName};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::spawn_local,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    clock,
    config::{Secret, Url, percent_encoded},
    leg::websocket::tls,
    media::Now,
    telnyx::stream,
};

/// What a call is told to do.
#[derive(Clone, Debug)]
pub(super) enum Command {
    Answer,
    /// Let the caller hear that the number is busy.
    Reject,
    StartStreaming(stream::Body),
    Hangup,
}

impl Command {
    /// As the path has it.
    pub(super) fn action(&self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Reject => "reject",
            Self::StartStreaming(_) => "streaming_start",
            Self::Hangup => "hangup",
        }
    }

    /// Whether Telnyx would do it twice when it hears it twice.
    fn is_bare(&self) -> bool {
        matches!(self, Self::StartStreaming(body) if body.bare)
    }

    fn body(&self) -> Bytes {
        #[derive(Serialize)]
        struct Identified<'a> {
            #[serde(flatten)]
            stream: Option<&'a stream::Body>,
            #[serde(skip_serializing_if = "Option::is_none")]
            cause: Option<&'static str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            command_id: Option<String>,
        }
        let stream = match self {
            Self::StartStreaming(body) => Some(body),
            Self::Answer | Self::Reject | Self::Hangup => None,
        };
        let cause = matches!(self, Self::Reject).then_some("USER_BUSY");
        let command_id = (!self.is_bare()).then(command_id);
        serde_json::to_vec(&Identified { stream, cause, command_id }).expect("its keys are texts").into()
    }
}

/// Why a command came to nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The call was over already.
    Ended,
    Refused(Refusal),
    /// It did not get through, in words.
    Unreachable(String),
}

impl Failure {
    /// Whether it was certainly not done.
    pub(super) fn is_certain(&self) -> bool {
        match self {
            Self::Ended => true,
            Self::Refused(refusal) => refusal.is_certain,
            Self::Unreachable(_) => false,
        }
    }
}

/// What Telnyx says when it does not do something (Telnyx, "API error codes").
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    /// The parameter that it minds, if it says so.
    pub(super) parameter: Option<String>,
    /// Telnyx's number for it; may be empty.
    pub(super) code: String,
    words: String,
    is_certain: bool,
}

impl Refusal {
    /// The parameter, or else the action, and why.
    pub(super) fn said(&self, action: &str) -> String {
        let hint = if self.status == 401 { "; is api-key right?" } else { "" };
        format!("{}: {}{hint}", self.parameter.as_deref().unwrap_or(action), self.words)
    }

    /// Reads the body of a refusal of this request.
    fn read(status: StatusCode, body: &[u8], request: &[u8]) -> Self {
        let errors = serde_json::from_slice(body).map_or_else(|_| Vec::new(), |Errors { errors }| errors);
        let mut words = match errors.first() {
            Some(Error { title, detail, .. }) if !title.is_empty() && !detail.is_empty() => {
                format!("{title}: {detail}")
            }
            Some(Error { title, detail, .. }) if !(title.is_empty() && detail.is_empty()) => format!("{title}{detail}"),
            Some(_) | None => format!("it answered {status}"),
        };
        if let Some((at, _)) = words.char_indices().nth(MOST_WORDS) {
            words.truncate(at);
        }
        if errors.len() > 1 {
            words.push_str(&format!(" (and {} more)", errors.len() - 1));
        }
        let code = errors.first().map(Error::code).unwrap_or_default();
        let parameter = errors.first().and_then(|error| error.parameter(request));
        Self { status: status.as_u16(), parameter, code, words, is_certain: true }
    }
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<Error>,
}

#[derive(Deserialize)]
struct Error {
    /// A text by the documentation.
    #[serde(default)]
    code: Value,
    #[serde(default)]
    title: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    source: Source,
}

#[derive(Default, Deserialize)]
struct Source {
    /// JSON Pointer (RFC 6901) into the body.
    pointer: Option<String>,
    /// In the query, by JSON:API.
    parameter: Option<String>,
}

impl Error {
    fn code(&self) -> String {
        match &self.code {
            Value::String(code) => code.chars().take(MOST_CODE).collect(),
            Value::Number(code) => code.to_string(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => String::new(),
        }
    }

    /// What the pointer leads to, else what of our own fields the words name.
    fn parameter(&self, request: &[u8]) -> Option<String> {
        let is_name = |name: &&str| {
            name.len() <= MOST_CODE
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                && !name.bytes().all(|byte| byte.is_ascii_digit())
        };
        let pointer = self.source.pointer.as_deref().unwrap_or_default();
        let pointed = pointer.rsplit('/').chain(self.source.parameter.as_deref()).find(is_name);
        if let Some(name) = pointed {
            return Some(name.to_owned());
        }
        let sent: serde_json::Map<String, Value> = serde_json::from_slice(request).unwrap_or_default();
        // The longest: `stream_codec` is no part of another's name, but the next may be.
        let named = sent.into_iter().map(|(name, _)| name);
        named.filter(|name| self.detail.contains(name) || self.title.contains(name)).max_by_key(String::len)
    }
}

/// The client.
pub(super) struct Rest {
    url: Url,
    authorization: HeaderValue,
    tls: Option<Arc<ClientConfig>>,
    /// `streaming_start` follows `answer` within a second or two: the connection is at hand.
    idle: RefCell<Option<(SendRequest<Full<Bytes>>, Now)>>,
}

impl Rest {
    /// A client that connects when there is something to say. `tls` is there where the URL says https.
    pub(super) fn new(url: Url, key: &Secret, tls: Option<Arc<ClientConfig>>) -> Result<Self, &'static str> {
        let authorization = HeaderValue::from_str(&format!("Bearer {}", key.reveal()));
        let mut authorization = authorization.map_err(|_| "no header can hold it")?;
        authorization.set_sensitive(true);
        Ok(Self { url, authorization, tls, idle: RefCell::default() })
    }

    /// Has a call do something.
    pub(super) async fn send(&self, call: &str, command: &Command) -> Result<(), Failure> {
        let base = self.url.path_and_query.trim_end_matches('/');
        let path = format!("{base}/v2/calls/{}/actions/{}", percent_encoded(call), command.action());
        let body = command.body();
        let first = self.try_once(&path, &body).await;
        let failure = match first {
            Err(Failure::Unreachable(words)) => words,
            done => return done,
        };
        debug!(call_control_id = call, action = command.action(), words = failure; "Telnyx is told once more");
        match self.try_once(&path, &body).await {
            // What was refused now may have been done the first time, and be refused for that.
            Err(Failure::Refused(refusal)) => {
                Err(Failure::Refused(Refusal { is_certain: !command.is_bare(), ..refusal }))
            }
            done => done,
        }
    }

    async fn try_once(&self, path: &str, body: &Bytes) -> Result<(), Failure> {
        let posted = timeout(PATIENCE, self.post(path, body)).await;
        let silent = || format!("no answer within {} s", PATIENCE.as_secs());
        let (status, answer) = posted.unwrap_or_else(|_| Err(silent())).map_err(Failure::Unreachable)?;
        if status.is_success() {
            return Ok(());
        }
        if status.is_server_error() {
            return Err(Failure::Unreachable(format!("it answered {status}")));
        }
        let refusal = Refusal::read(status, &answer, body);
        Err(if refusal.code == CALL_ENDED { Failure::Ended } else { Failure::Refused(refusal) })
    }

    async fn post(&self, path: &str, body: &Bytes) -> Result<(StatusCode, Bytes), String> {
        let idle = self.idle.borrow_mut().take();
        let fresh = idle.filter(|(sender, since)| sender.is_ready() && clock::now().saturating_sub(*since) < IDLE);
        let mut sender = match fresh {
            Some((sender, _)) => sender,
            None => self.connect().await?,
        };
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, &self.url.authority)
            .header(header::AUTHORIZATION, &self.authorization)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("trunkline/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body.clone()))
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| format!("the connection broke: {error}"))?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), MOST_ANSWER).collect().await;
        let answer = answer.map_err(|error| format!("the answer broke off: {error}"))?.to_bytes();
        *self.idle.borrow_mut() = Some((sender, clock::now()));
        Ok((status, answer))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let Url { host, port, authority, .. } = &self.url;
        let stream = TcpStream::connect((host.as_str(), *port)).await;
        let stream = stream.map_err(|error| format!("{authority} cannot be reached: {error}"))?;
        // The request is one small packet; where it cannot be set it leaves a little later.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else { return shake_hands(stream).await };
        let name = ServerName::try_from(host.clone()).map_err(|error| format!("{host}: {error}"))?;
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await;
        shake_hands(stream.map_err(|error| format!("{authority}: {}", tls::explain(&error)))?).await
    }
}

async fn shake_hands(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
) -> Result<SendRequest<Full<Bytes>>, String> {
    let made = http1::Builder::new().max_buf_size(MOST_ANSWER).handshake(TokioIo::new(stream)).await;
    let (sender, connection) = made.map_err(|error| error.to_string())?;
    spawn_local(async move {
        if let Err(error) = connection.await {
            debug!(error:%; "a connection to Telnyx broke off");
        }
    });
    Ok(sender)
}

/// A random UUID (RFC 9562 5.4).
fn command_id() -> String {
    let mut random = [0; 16];
    // The kernel's generator does not fail once the machine has booted.
    let _ = getrandom::fill(&mut random);
    let random = (u128::from_be_bytes(random) & !(0xf000_c000 << 48)) | (0x4000_8000 << 48);
    let hex = format!("{random:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// "Call has already ended", with 422.
const CALL_ENDED: &str = "90018";
/// For one attempt, from the name to the last byte of the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection is kept for the next command; servers close idle ones after a minute or so.
const IDLE: Now = Now::from_secs(20);
/// Head, or body, of an answer.
const MOST_ANSWER: usize = 64 * 1024;
/// Characters of Telnyx's words that are repeated.
const MOST_WORDS: usize = 300;
/// Characters of a code, or the name of a parameter.
const MOST_CODE: usize = 64;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::telnyx::stream::PROFILES;

    const REQUEST: &[u8] = br#"{"stream_url":"wss://a/","stream_track":"both_tracks","stream_bidirectional_codec":"L16","stream_bidirectional_sampling_rate":24000}"#;

    fn said(status: u16, body: &str) -> (String, Refusal) {
        let refusal = Refusal::read(StatusCode::from_u16(status).unwrap(), body.as_bytes(), REQUEST);
        (refusal.said("streaming_start"), refusal)
    }

    #[test]
    fn a_refusal_names_the_parameter_that_telnyx_refused() {
        // The shape is that of Telnyx, "API error codes": code, title and detail, and a source that is a JSON pointer.
        let (said, refusal) = said(
            422,
            r#"{"errors":[{"code":"10032","title":"Invalid enumerated value","detail":"The value must be one of 8000, 16000.","source":{"pointer":"/stream_bidirectional_sampling_rate"}}]}"#,
        );
        assert_eq!(
            said,
            "stream_bidirectional_sampling_rate: Invalid enumerated value: The value must be one of 8000, 16000."
        );
        assert_eq!((refusal.status, refusal.code.as_str()), (422, "10032"));
    }

    #[test]
    fn a_parameter_is_found_in_the_words_where_there_is_no_pointer() {
        for (source, detail, parameter) in [
            (r#"{"pointer":"/data/attributes/stream_track/0"}"#, "no", "stream_track"),
            (r#"{"pointer":"","parameter":"stream_url"}"#, "no", "stream_url"),
            ("{}", "stream_bidirectional_codec L16 is not enabled", "stream_bidirectional_codec"),
            (r#"{"pointer":"/../\u001b[31m"}"#, "stream_track is wrong", "stream_track"),
        ] {
            let body = format!(
                r#"{{"errors":[{{"code":10015,"title":"Bad Request","detail":"{detail}","source":{source}}}]}}"#
            );
            let (said, refusal) = said(400, &body);
            assert_eq!(refusal.parameter.as_deref(), Some(parameter), "{body}");
            assert_eq!((said, refusal.code.as_str()), (format!("{parameter}: Bad Request: {detail}"), "10015"));
        }
    }

    #[test]
    fn whatever_the_answer_is_there_are_words_for_it() {
        for body in ["", "<html>", "{}", r#"{"errors":[]}"#, r#"{"errors":[{}]}"#] {
            assert_eq!(said(404, body).0, "streaming_start: it answered 404 Not Found", "{body}");
        }
        let denied = r#"{"errors":[{"code":"10009","title":"Authentication failed","detail":""},{"code":"1"}]}"#;
        assert_eq!(said(401, denied).0, "streaming_start: Authentication failed (and 1 more); is api-key right?");
        let long = format!(r#"{{"errors":[{{"title":"{}"}}]}}"#, "\u{fc}".repeat(5000));
        assert_eq!(said(400, &long).0.chars().count(), "streaming_start: ".len() + MOST_WORDS);
    }

    #[test]
    fn a_command_has_an_id_unless_the_profile_wants_its_fields_alone() {
        let body =
            |command: &Command| -> serde_json::Map<String, Value> { serde_json::from_slice(&command.body()).unwrap() };
        for command in [Command::Answer, Command::Hangup] {
            assert_eq!(body(&command).keys().collect::<Vec<_>>(), ["command_id"]);
        }
        assert_eq!(body(&Command::Reject)["cause"], "USER_BUSY");
        for (name, stream) in PROFILES {
            let body = body(&Command::StartStreaming(stream.body("wss://a/")));
            assert_eq!(body.contains_key("command_id"), name != "telnyx-l16-24k", "{name}");
            assert_eq!(body["stream_url"], "wss://a/");
        }
    }

    #[test]
    fn commands_go_over_tls_to_a_server_that_is_trusted_and_to_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let server = tls::throwaway_ca(folder.path(), &[]).unwrap();
        let trusting = tls::client_config(Some(&folder.path().join("ca.pem"))).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("wss://localhost:{}/proxy/", listener.local_addr().unwrap().port());
            let rest = |tls| Rest::new(Url::parse(&url).unwrap(), &Secret::new("KEY"), Some(tls)).unwrap();
            let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
            let paths = Arc::clone(&asked);
            spawn_local(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&server));
                    // Who does not trust us leaves here.
                    let Ok(stream) = acceptor.accept(stream).await else { continue };
                    let paths = Arc::clone(&paths);
                    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                        paths.lock().unwrap().push(request.uri().path().to_owned());
                        async { Ok::<_, hyper::Error>(hyper::Response::new(Full::new(Bytes::new()))) }
                    });
                    let served = hyper::server::conn::http1::Builder::new();
                    spawn_local(async move { served.serve_connection(TokioIo::new(stream), service).await.is_ok() });
                }
            });
            assert_eq!(rest(trusting).send("v3:a/b", &Command::Hangup).await, Ok(()));
            assert_eq!(*asked.lock().unwrap(), ["/proxy/v2/calls/v3:a%2Fb/actions/hangup"]);
            let elsewhere = tempfile::tempdir().unwrap();
            tls::throwaway_ca(elsewhere.path(), &[]).unwrap();
            let strange = tls::client_config(Some(&elsewhere.path().join("ca.pem"))).unwrap();
            let Err(Failure::Unreachable(words)) = rest(strange).send("v3:a", &Command::Hangup).await else {
                unreachable!()
            };
            assert!(words.contains("its certificate is"), "{words}");
        });
    }

    #[test]
    fn command_ids_are_uuids_and_differ() {
        let (one, other) = (command_id(), command_id());
        assert_ne!(one, other);
        assert_eq!(one.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert_eq!(one.as_bytes()[14], b'4', "{one}");
        assert!(matches!(one.as_bytes()[19], b'8' | b'9' | b'a' | b'b'), "{one}");
    }
}
