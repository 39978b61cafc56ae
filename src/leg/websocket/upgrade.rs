//! The opening handshake, in both roles (RFC 6455 4): heads are made and read here, without a socket.
//!
//! Only [`read_head`] touches one. What it reads past the head is the first of the WebSocket itself: it has to go on to
//! whoever reads frames.

use core::fmt;
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};
use tungstenite::handshake::derive_accept_key;

/// The request of a client. `key` is 16 random bytes in base64; no header may hold a line break.
#[must_use]
pub fn request(
    authority: &str,
    path_and_query: &str,
    key: &str,
    headers: &[(&str, &str)],
    authorization: Option<&str>,
    subprotocol: Option<&str>,
) -> Vec<u8> {
    let mut head = format!(
        "GET {path_and_query} HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
    );
    let mut say = |name: &str, value: &str| {
        head.push_str(name);
        head.push_str(": ");
        head.push_str(value);
        head.push_str("\r\n");
    };
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("user-agent")) {
        say("User-Agent", concat!("trunkline/", env!("CARGO_PKG_VERSION")));
    }
    for (name, value) in headers {
        say(name, value);
    }
    if let Some(value) = authorization {
        say("Authorization", value);
    }
    if let Some(value) = subprotocol {
        say("Sec-WebSocket-Protocol", value);
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// Reads what the server answered to [`request`] with this key and subprotocol. `body` is what is there of the text that
/// a refusal may bring.
///
/// # Errors
/// [`Refusal`] says what it answered instead.
pub fn check_response(head: &[u8], body: &[u8], key: &str, subprotocol: Option<&str>) -> Result<(), Refusal> {
    let mut space = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut space);
    let status = match response.parse(head) {
        Ok(httparse::Status::Complete(_)) => response.code,
        Ok(httparse::Status::Partial) => return Err(Refusal::odd("an answer that breaks off")),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::odd("an answer of more than 64 headers")),
        Err(_) => return Err(Refusal::odd("something that is not HTTP")),
    };
    let Some(status) = status else { return Err(Refusal::odd("something that is not HTTP")) };
    let headers = Headers(response.headers);
    if status != 101 {
        return Err(refusal(status, response.reason.unwrap_or_default(), &headers, body));
    }
    if !headers.has_token("upgrade", "websocket") {
        return Err(Refusal::odd("101, but without `Upgrade: websocket`"));
    }
    if !headers.has_token("connection", "upgrade") {
        return Err(Refusal::odd("101, but without `Connection: Upgrade`"));
    }
    if headers.only("sec-websocket-accept") != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err(Refusal::odd("101, but with a Sec-WebSocket-Accept that does not match our key"));
    }
    if headers.all("sec-websocket-extensions").any(|value| !value.is_empty()) {
        return Err(Refusal::odd("101, but with an extension that was not offered"));
    }
    let mut chosen = headers.all("sec-websocket-protocol");
    match (chosen.next(), chosen.next()) {
        (None, _) => Ok(()),
        (Some(chosen), None) if subprotocol.is_some_and(|offered| offered.as_bytes() == chosen) => Ok(()),
        (Some(chosen), _) => {
            Err(Refusal::odd(&format!("101, but with a subprotocol that was not offered: {}", printable(chosen))))
        }
    }
}

/// How many bytes of a refusal's text are worth waiting for; `None`: its length is not told.
#[must_use]
pub fn body_len(head: &[u8]) -> Option<usize> {
    let mut space = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut space);
    response.parse(head).ok()?;
    let told = core::str::from_utf8(Headers(response.headers).only("content-length")?).ok()?.parse::<usize>().ok()?;
    Some(told.min(MAX_BODY))
}

/// What a server answered that did not take the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its status; `None` when it was not HTTP, or broke the rules of a status of 101.
    pub status: Option<u16>,
    /// What it said, e.g. `401 Unauthorized: token expired`.
    pub words: String,
}

impl Refusal {
    fn odd(words: &str) -> Self {
        Self { status: None, words: words.to_owned() }
    }

    /// What an operator can do about it.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self.status {
            Some(401 | 403) => "check `bearer`, `basic`, `jwt` and `headers`",
            Some(407) => "a proxy stands in between; Trunkline needs a direct way",
            Some(404 | 405 | 410) => "check the path in the url",
            Some(300..=399) => "put the address that it names into the url",
            Some(200..=299) => "a web page or an API lives there; check the path in the url",
            Some(426) => "it wants another version of HTTP or WebSocket; check the path in the url",
            Some(408 | 429 | 500..=599) => "the agent's side is busy or ill; try again later",
            Some(_) => "check the url, the `headers` and the `dialect`",
            None => "check the port in the url; is there a WebSocket server behind it, or a proxy in between?",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

fn refusal(status: u16, reason: &str, headers: &Headers<'_>, body: &[u8]) -> Refusal {
    let mut words = status.to_string();
    let reason = printable(reason.as_bytes());
    if !reason.is_empty() {
        words = format!("{words} {reason}");
    }
    let to = headers.only("location").filter(|_| (300..400).contains(&status));
    if let Some(to) = to {
        // A query may carry a token.
        let bare = to.split(|byte| *byte == b'?').next().unwrap_or_default();
        words = format!("{words}, to {}{}", printable(bare), if bare.len() < to.len() { "?..." } else { "" });
    } else {
        let said = body_words(headers, body);
        if !said.is_empty() {
            words = format!("{words}: {said}");
        }
    }
    Refusal { status: Some(status), words }
}

/// The start of a body, as far as a person would want to read it in one line.
fn body_words(headers: &Headers<'_>, body: &[u8]) -> String {
    if headers.only("content-encoding").is_some_and(|coding| !coding.eq_ignore_ascii_case(b"identity")) {
        return String::new();
    }
    let chunked = headers.has_token("transfer-encoding", "chunked");
    // RFC 9112 7.1: a line with the length stands before the first chunk.
    let skip = if chunked { memchr::memchr(b'\n', body).map_or(body.len(), |at| at + 1) } else { 0 };
    let len = if chunked {
        let line = body.get(..skip).unwrap_or_default();
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let digits = core::str::from_utf8(line.get(..digits).unwrap_or_default()).unwrap_or_default();
        usize::from_str_radix(digits, 16).unwrap_or(0)
    } else {
        MAX_BODY
    };
    let body = body.get(skip..).unwrap_or_default();
    let body = body.get(..len).unwrap_or(body);
    if !body.trim_ascii_start().starts_with(b"<") {
        return printable(body);
    }
    // A web page says what it is about in its title.
    let lower = body.to_ascii_lowercase();
    let title = memchr::memmem::find(&lower, b"<title>").map(|at| at + b"<title>".len()).and_then(|start| {
        let rest = body.get(start..)?;
        rest.get(..memchr::memchr(b'<', rest)?)
    });
    title.map(printable).unwrap_or_default()
}

/// A peer's text in one line of at most 200 characters, and nothing that a terminal would obey.
fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text.get(..MAX_BODY).unwrap_or(text));
    let mut words = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if !words.is_empty() {
            words.push(' ');
        }
        words.push_str(word);
    }
    match words.char_indices().nth(MAX_SHOWN) {
        Some((at, _)) => {
            words.truncate(at);
            words + "..."
        }
        None => words,
    }
}

/// A client's wish to speak WebSocket. Printed, it keeps query and headers, which may hold tokens, to itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// Begins with `/`.
    pub path: String,
    /// What follows the `?`, if there is one.
    pub query: Option<String>,
    /// All of them, as they came; bytes that are not UTF-8 are replaced.
    pub headers: Vec<(String, String)>,
    /// What [`response`] has to answer to.
    pub key: String,
    /// What it offers to speak, in the order that it prefers.
    pub subprotocols: Vec<String>,
}

impl Request {
    /// The value of the first header of this name; upper and lower case are the same.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("path", &self.path).field("subprotocols", &self.subprotocols).finish()
    }
}

/// What a client asks, a WebSocket or something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `GET` and its like.
    pub method: String,
    /// Its target and headers. The key and the subprotocols are empty where it wants no WebSocket.
    pub request: Request,
    /// Why it does not become a WebSocket, if so: the status and the words for [`refuse`].
    pub upgrade: Result<(), (u16, &'static str)>,
}

/// Reads what a client asks (RFC 6455 4.2.1).
///
/// # Errors
/// The status and the words for [`refuse`].
pub fn parse_request(head: &[u8]) -> Result<Request, (u16, &'static str)> {
    let asked = parse_asked(head)?;
    asked.upgrade.map(|()| asked.request)
}

/// Reads what a client asks, where that need not be a WebSocket.
///
/// # Errors
/// As for [`parse_request`], when it is no request of HTTP/1.1.
pub fn parse_asked(head: &[u8]) -> Result<Asked, (u16, &'static str)> {
    let mut space = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut space);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err((400, "the request breaks off")),
        Err(httparse::Error::TooManyHeaders) => return Err((431, "more than 64 headers")),
        Err(_) => return Err((400, "this is not an HTTP/1.1 request")),
    }
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err((400, "this is not an HTTP/1.1 request"));
    };
    let headers = Headers(request.headers);
    let key = websocket_key(method, version, &headers);
    let Some((path, query)) = split_target(target) else {
        return Err(key.err().unwrap_or((400, "the target of the request is not a path")));
    };
    let offered = headers.all("sec-websocket-protocol").flat_map(|value| value.split(|byte| *byte == b','));
    let request = Request {
        path,
        query,
        subprotocols: offered.map(|name| lossy(name.trim_ascii())).filter(|name| !name.is_empty()).collect(),
        key: key.map(lossy).unwrap_or_default(),
        headers: headers.0.iter().map(|header| (header.name.to_owned(), lossy(header.value))).collect(),
    };
    Ok(Asked { method: method.to_owned(), request, upgrade: key.map(drop) })
}

/// The key of a request that keeps to the rules.
fn websocket_key<'h>(method: &str, version: u8, headers: &Headers<'h>) -> Result<&'h [u8], (u16, &'static str)> {
    if method != "GET" {
        return Err((405, "a WebSocket begins with GET"));
    }
    if version < 1 {
        return Err((400, "a WebSocket needs HTTP/1.1"));
    }
    if headers.only("host").is_none() {
        return Err((400, "the request needs one Host"));
    }
    if headers.only("content-length").is_some_and(|value| value != b"0") || headers.has("transfer-encoding") {
        return Err((400, "a WebSocket request has no body"));
    }
    if !headers.has_token("upgrade", "websocket") || !headers.has_token("connection", "upgrade") {
        return Err((426, "this port speaks WebSocket only"));
    }
    if headers.only("sec-websocket-version") != Some(b"13") {
        return Err((426, "this port speaks version 13 of WebSocket only"));
    }
    let key = headers.only("sec-websocket-key").filter(|key| {
        // RFC 6455 4.1: 16 bytes in base64.
        key.len() == 24 && base64_simd::STANDARD.decode_to_vec(key).is_ok_and(|key| key.len() == 16)
    });
    key.ok_or((400, "the Sec-WebSocket-Key is not 16 bytes in base64"))
}

/// RFC 9112 3.2.2: a server takes a whole URL as well as a path.
fn split_target(target: &str) -> Option<(String, Option<String>)> {
    let target = match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['/', '?']) => rest.get(rest.find(['/', '?'])?..)?,
        _ => target,
    };
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    match path {
        "" if query.is_some() => Some(("/".to_owned(), query)),
        _ if path.starts_with('/') => Some((path.to_owned(), query)),
        _ => None,
    }
}

/// The answer to a request that is welcome; `subprotocol` is one of those that it offers.
#[must_use]
pub fn response(request: &Request, subprotocol: Option<&str>) -> Vec<u8> {
    let accept = derive_accept_key(request.key.as_bytes());
    let mut head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n"
    );
    if let Some(subprotocol) = subprotocol {
        head += &format!("Sec-WebSocket-Protocol: {subprotocol}\r\n");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// The answer to a request that is not. The connection ends with it.
#[must_use]
pub fn refuse(status: u16, words: &str) -> Vec<u8> {
    answer(status, "text/plain; charset=utf-8", words)
}

/// An answer of HTTP, with a line end behind its body. The connection ends with it.
#[must_use]
pub fn answer(status: u16, kind: &str, body: &str) -> Vec<u8> {
    let (reason, more) = match status {
        200 => ("OK", "Cache-Control: no-store\r\n"),
        400 => ("Bad Request", ""),
        401 => ("Unauthorized", "WWW-Authenticate: Bearer\r\nWWW-Authenticate: Basic realm=\"trunkline\"\r\n"),
        403 => ("Forbidden", ""),
        404 => ("Not Found", ""),
        405 => ("Method Not Allowed", "Allow: GET\r\n"),
        408 => ("Request Timeout", ""),
        426 => ("Upgrade Required", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"),
        429 => ("Too Many Requests", ""),
        431 => ("Request Header Fields Too Large", ""),
        503 => ("Service Unavailable", ""),
        _ => ("Refused", ""),
    };
    // RFC 9110 7.8: who sends Upgrade lists it in Connection.
    let connection = if status == 426 { "Upgrade, close" } else { "close" };
    format!(
        "HTTP/1.1 {status} {reason}\r\nConnection: {connection}\r\n{more}\
         Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}\n",
        body.len() + 1
    )
    .into_bytes()
}

/// Reads until a head is complete. Gives it with its blank line, and what was read past it.
///
/// # Errors
/// Those of the stream; [`io::ErrorKind::UnexpectedEof`] when it ends before the head does, and
/// [`io::ErrorKind::InvalidData`] when the head is longer than `limit` bytes or cannot be HTTP.
pub async fn read_head<S: AsyncRead + Unpin>(stream: &mut S, limit: usize) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut head = Vec::with_capacity(1024);
    let mut searched: usize = 0;
    loop {
        let from = searched.saturating_sub(3);
        if let Some(at) = head.get(from..).and_then(|tail| memchr::memmem::find(tail, b"\r\n\r\n")) {
            let ahead = head.split_off(from + at + 4);
            if head.len() > limit {
                return Err(too_long(limit));
            }
            return Ok((head, ahead));
        }
        if head.len() >= limit {
            return Err(too_long(limit));
        }
        searched = head.len();
        if stream.read_buf(&mut head).await? == 0 {
            let words = if head.is_empty() { "closed without a word" } else { "closed in the middle of a head" };
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, words));
        }
        match head.first() {
            // RFC 8446 5.1: an alert, or the hello of a client.
            Some(0x15 | 0x16) => return Err(io::Error::new(io::ErrorKind::InvalidData, TLS_INSTEAD)),
            Some(b'\r' | b'\n' | 0x21..=0x7e) | None => {}
            Some(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, NOT_HTTP)),
        }
        if head.capacity() == head.len() {
            head.reserve(1024);
        }
    }
}

fn too_long(limit: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a head of more than {limit} bytes"))
}

/// The headers of a head.
struct Headers<'h>(&'h [httparse::Header<'h>]);

impl<'h> Headers<'h> {
    fn all(&self, name: &'static str) -> impl Iterator<Item = &'h [u8]> + use<'h> {
        let named = move |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case(name);
        self.0.iter().filter(named).map(|header| header.value.trim_ascii())
    }

    fn has(&self, name: &'static str) -> bool {
        self.all(name).next().is_some()
    }

    /// The value of a header that stands there once.
    fn only(&self, name: &'static str) -> Option<&'h [u8]> {
        let mut all = self.all(name);
        all.next().filter(|_| all.next().is_none())
    }

    /// Whether one of the values, as lists, has this word.
    fn has_token(&self, name: &'static str, token: &str) -> bool {
        self.all(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .any(|word| word.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The longest head that either side may send (bytes). Common servers allow 8 or 16 KiB.
pub const MAX_HEAD: usize = 16 * 1024;

/// What of a refusal's text is looked at (bytes).
pub const MAX_BODY: usize = 1024;

const NOT_HTTP: &str = "what answers there does not speak HTTP; check the port";

const TLS_INSTEAD: &str = "it speaks TLS on this port; use wss://";

const MAX_HEADERS: usize = 64;

/// Characters of a peer's text that a message repeats.
const MAX_SHOWN: usize = 200;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// RFC 6455 1.3.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    fn answer(lines: &[&str]) -> Vec<u8> {
        (lines.join("\r\n") + "\r\n\r\n").into_bytes()
    }

    fn welcome(more: &[&str]) -> Vec<u8> {
        let accept = format!("Sec-WebSocket-Accept: {ACCEPT}");
        let head = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade", accept.as_str()];
        answer(&[&head, more].concat())
    }

    fn refused(lines: &[&str], body: &str) -> Refusal {
        check_response(&answer(lines), body.as_bytes(), KEY, None).unwrap_err()
    }

    #[test]
    fn a_request_has_what_the_rfc_wants_and_our_headers() {
        let head = request(
            "agent.example.com:8443",
            "/ws?site=7",
            KEY,
            &[("X-Site", "depot"), ("X-Key", "k3y")],
            Some("Bearer hush"),
            Some("audio"),
        );
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            String::from_utf8(head.clone()).unwrap(),
            format!(
                "GET /ws?site=7 HTTP/1.1\r\nHost: agent.example.com:8443\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\
                 User-Agent: trunkline/{version}\r\nX-Site: depot\r\nX-Key: k3y\r\n\
                 Authorization: Bearer hush\r\nSec-WebSocket-Protocol: audio\r\n\r\n"
            )
        );
        let request = parse_request(&head).unwrap();
        assert_eq!((request.path.as_str(), request.query.as_deref()), ("/ws", Some("site=7")));
        assert_eq!((request.header("AUTHORIZATION"), request.header("x-none")), (Some("Bearer hush"), None));
        assert_eq!(request.subprotocols, ["audio"]);
        assert_eq!(check_response(&response(&request, None), b"", KEY, None), Ok(()));
        assert_eq!(check_response(&response(&request, Some("audio")), b"", KEY, Some("audio")), Ok(()));
        let own = self::request("a", "/", KEY, &[("user-agent", "depot/1")], None, None);
        assert_eq!(String::from_utf8(own).unwrap().matches("ser-").count(), 1, "ours gives way");
    }

    #[test]
    fn an_answer_is_taken_however_it_is_spelled() {
        assert_eq!(check_response(&welcome(&[]), b"", KEY, None), Ok(()));
        let odd = answer(&[
            "HTTP/1.1 101 ",
            "UPGRADE: WebSocket",
            "connection: keep-alive, upgrade",
            &format!("sec-websocket-accept:   {ACCEPT}  "),
            "Server: x",
            "Sec-WebSocket-Extensions: ",
        ]);
        assert_eq!(check_response(&odd, b"", KEY, None), Ok(()));
        let split = answer(&[
            "HTTP/1.1 101 Web Socket Protocol Handshake",
            "Connection: keep-alive",
            "Connection: Upgrade",
            "Upgrade: websocket",
            &format!("Sec-WebSocket-Accept: {ACCEPT}"),
        ]);
        assert_eq!(check_response(&split, b"", KEY, None), Ok(()));
        assert_eq!(check_response(&welcome(&["Sec-WebSocket-Protocol: audio"]), b"", KEY, Some("audio")), Ok(()));
    }

    #[test]
    fn a_101_that_breaks_the_rules_is_refused() {
        let said = |head: &[u8]| check_response(head, b"", KEY, None).unwrap_err();
        let table: [(Vec<u8>, &str); 9] = [
            (
                answer(&["HTTP/1.1 101 x", "Connection: Upgrade", &format!("Sec-WebSocket-Accept: {ACCEPT}")]),
                "101, but without `Upgrade: websocket`",
            ),
            (
                answer(&["HTTP/1.1 101 x", "Upgrade: websocket", &format!("Sec-WebSocket-Accept: {ACCEPT}")]),
                "101, but without `Connection: Upgrade`",
            ),
            (
                answer(&["HTTP/1.1 101 x", "Upgrade: websocket", "Connection: Upgrade"]),
                "101, but with a Sec-WebSocket-Accept that does not match our key",
            ),
            (
                String::from_utf8(welcome(&[])).unwrap().replace("s3pP", "s3pp").into_bytes(),
                "101, but with a Sec-WebSocket-Accept that does not match our key",
            ),
            (
                welcome(&["Sec-WebSocket-Extensions: permessage-deflate"]),
                "101, but with an extension that was not offered",
            ),
            (welcome(&["Sec-WebSocket-Protocol: mqtt"]), "101, but with a subprotocol that was not offered: mqtt"),
            (b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n".to_vec(), "something that is not HTTP"),
            (b"HTTP/1.1 101 x\r\nA: b\r\n".to_vec(), "an answer that breaks off"),
            (welcome(&vec!["A: b"; 64]), "an answer of more than 64 headers"),
        ];
        for (head, words) in table {
            assert_eq!(said(&head), Refusal { status: None, words: words.to_owned() });
        }
        let twice = welcome(&["Sec-WebSocket-Protocol: audio", "Sec-WebSocket-Protocol: audio"]);
        assert!(check_response(&twice, b"", KEY, Some("audio")).is_err());
    }

    #[test]
    fn a_refusal_says_what_the_server_said_and_what_to_do() {
        let text = |status: &str, body: &str| refused(&[&format!("HTTP/1.1 {status}")], body);
        let table: [(Refusal, &str, &str); 9] = [
            (
                text("401 Unauthorized", "token expired\n"),
                "401 Unauthorized: token expired",
                "check `bearer`, `basic`, `jwt` and `headers`",
            ),
            (
                text("403 Forbidden", r#"{"error": "no such tenant"}"#),
                r#"403 Forbidden: {"error": "no such tenant"}"#,
                "check `bearer`, `basic`, `jwt` and `headers`",
            ),
            (text("404 Not Found", ""), "404 Not Found", "check the path in the url"),
            (
                refused(&["HTTP/1.1 302 Found", "Location: https://login.example.com/in?token=hush"], "Moved"),
                "302 Found, to https://login.example.com/in?...",
                "put the address that it names into the url",
            ),
            (
                text("200 OK", "<!doctype html>\n<html><head><TITLE>Welcome to\n nginx!</title></head><body>..."),
                "200 OK: Welcome to nginx!",
                "a web page or an API lives there; check the path in the url",
            ),
            (
                text("400 Bad Request", "<html><body>no title"),
                "400 Bad Request",
                "check the url, the `headers` and the `dialect`",
            ),
            (
                refused(&["HTTP/1.1 503 Service Unavailable", "Retry-After: 7"], ""),
                "503 Service Unavailable",
                "the agent's side is busy or ill; try again later",
            ),
            (
                refused(&["HTTP/1.1 429 Too Many Requests", "Transfer-Encoding: chunked"], "5\r\nslow!\r\n0\r\n\r\n"),
                "429 Too Many Requests: slow!",
                "the agent's side is busy or ill; try again later",
            ),
            (
                refused(&["HTTP/1.1 401 ", "Content-Encoding: gzip"], "\x1f rubbish"),
                "401",
                "check `bearer`, `basic`, `jwt` and `headers`",
            ),
        ];
        for (refusal, words, advice) in &table {
            assert_eq!((refusal.to_string().as_str(), refusal.advice()), (*words, *advice));
        }
        assert_eq!(table[0].0.status, Some(401));
    }

    #[test]
    fn a_refusals_text_cannot_fill_or_paint_the_log() {
        let long = refused(&["HTTP/1.1 500 Oops"], &"€".repeat(900));
        assert_eq!(long.words, format!("500 Oops: {}...", "€".repeat(200)));
        let paint = refused(&["HTTP/1.1 500 Oops"], "a\x1b[31m\r\nERROR\tb\u{85}c\0");
        assert_eq!(paint.words, "500 Oops: a [31m ERROR b c");
        for size in ["ffffffffffffffff\r\nx", "zz\r\nx", "5", "fffffffffffffffffffffffffff\r\n", "\r\n", ""] {
            let odd = refused(&["HTTP/1.1 500 Oops", "Transfer-Encoding: chunked"], size);
            assert!(odd.words.starts_with("500 Oops"), "{odd}");
        }
        assert_eq!(body_len(&answer(&["HTTP/1.1 401 No", "Content-Length: 12"])), Some(12));
        assert_eq!(body_len(&answer(&["HTTP/1.1 401 No", "Content-Length: 99999"])), Some(MAX_BODY));
        assert_eq!(body_len(&answer(&["HTTP/1.1 401 No", "Content-Length: -1"])), None);
        assert_eq!(body_len(b"junk"), None);
    }

    fn ask(lines: &[&str]) -> Result<Request, (u16, &'static str)> {
        parse_request(&answer(lines))
    }

    /// As Python's `websockets` 12 asks.
    const GOOD: [&str; 8] = [
        "GET /ws HTTP/1.1",
        "Host: 127.0.0.1:8080",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        "User-Agent: Python/3.11 websockets/12.0",
    ];

    #[test]
    fn a_good_request_is_understood() {
        let request = ask(&GOOD).unwrap();
        assert_eq!((request.path.as_str(), request.query), ("/ws", None));
        assert_eq!(request.key, KEY);
        assert_eq!(request.headers.len(), 7);
        let mut good = GOOD;
        for (line, path, query) in [
            ("GET / HTTP/1.1", "/", None),
            ("GET /a/b?c=d?e HTTP/1.1", "/a/b", Some("c=d?e")),
            ("GET ws://h:1/a?b HTTP/1.1", "/a", Some("b")),
            ("GET http://h?b HTTP/1.1", "/", Some("b")),
            ("GET /to?u=ws://h/x HTTP/1.1", "/to", Some("u=ws://h/x")),
        ] {
            good[0] = line;
            let request = ask(&good).unwrap();
            assert_eq!((request.path.as_str(), request.query.as_deref()), (path, query), "{line}");
        }
        let offers = [&GOOD[..], &["Sec-WebSocket-Protocol: media, a", "Sec-WebSocket-Protocol:b,,"]].concat();
        assert_eq!(ask(&offers).unwrap().subprotocols, ["media", "a", "b"]);
        let answer = String::from_utf8(response(&ask(&GOOD).unwrap(), None)).unwrap();
        assert!(answer.starts_with("HTTP/1.1 101 "));
        assert!(answer.contains(ACCEPT));
        assert!(!answer.contains("Extensions"), "what was offered is declined");
    }

    #[test]
    fn a_bad_request_is_told_what_is_wrong() {
        let with = |index: usize, line: &'static str| {
            let mut lines = GOOD;
            lines[index] = line;
            ask(&lines).unwrap_err()
        };
        assert_eq!(with(0, "POST /ws HTTP/1.1"), (405, "a WebSocket begins with GET"));
        assert_eq!(with(0, "GET /ws HTTP/1.0"), (400, "a WebSocket needs HTTP/1.1"));
        assert_eq!(with(0, "GET * HTTP/1.1"), (400, "the target of the request is not a path"));
        assert_eq!(with(0, "GET ws://h HTTP/1.1"), (400, "the target of the request is not a path"));
        assert_eq!(with(0, "rubbish"), (400, "this is not an HTTP/1.1 request"));
        assert_eq!(with(1, "X: y"), (400, "the request needs one Host"));
        assert_eq!(with(2, "Upgrade: h2c"), (426, "this port speaks WebSocket only"));
        assert_eq!(with(3, "Connection: close"), (426, "this port speaks WebSocket only"));
        assert_eq!(with(5, "Sec-WebSocket-Version: 8"), (426, "this port speaks version 13 of WebSocket only"));
        let bad_key = (400, "the Sec-WebSocket-Key is not 16 bytes in base64");
        assert_eq!(with(4, "Sec-WebSocket-Key: short"), bad_key);
        assert_eq!(with(4, "Sec-WebSocket-Key: ????????????????????????"), bad_key);
        assert_eq!(with(7, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), bad_key);
        assert_eq!(with(7, "Content-Length: 5"), (400, "a WebSocket request has no body"));
        assert_eq!(with(7, "Transfer-Encoding: chunked"), (400, "a WebSocket request has no body"));
        let many = [&GOOD[..], &["A: b"; 64]].concat();
        assert_eq!(ask(&many).unwrap_err(), (431, "more than 64 headers"));
        assert_eq!(parse_request(b"GET /ws HTTP/1.1\r\nHo"), Err((400, "the request breaks off")));
    }

    #[test]
    fn a_refusal_of_ours_is_one_that_a_client_understands() {
        for status in [400, 401, 403, 404, 405, 408, 426, 429, 431, 503, 418] {
            let bytes = refuse(status, "go away");
            let at = memchr::memmem::find(&bytes, b"\r\n\r\n").unwrap() + 4;
            let refusal = check_response(&bytes[..at], &bytes[at..], KEY, None).unwrap_err();
            assert_eq!(refusal.status, Some(status));
            assert!(refusal.words.ends_with(": go away"), "{refusal}");
            assert_eq!(body_len(&bytes[..at]), Some(bytes.len() - at));
        }
        let upgrade = String::from_utf8(refuse(426, "x")).unwrap();
        assert!(
            upgrade.contains("\r\nSec-WebSocket-Version: 13\r\n") && upgrade.contains("\r\nUpgrade: websocket\r\n")
        );
    }

    /// A stream that gives so many bytes at once.
    struct Drip<'b>(&'b [u8], usize);

    impl AsyncRead for Drip<'_> {
        fn poll_read(
            mut self: core::pin::Pin<&mut Self>,
            _: &mut core::task::Context<'_>,
            into: &mut tokio::io::ReadBuf<'_>,
        ) -> core::task::Poll<io::Result<()>> {
            let n = self.1.min(self.0.len()).min(into.remaining());
            let (now, later) = self.0.split_at(n);
            into.put_slice(now);
            self.0 = later;
            core::task::Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_head_is_found_wherever_the_reads_cut_it() {
        let head = welcome(&["X: \r not \n the \n\r end"]);
        let bytes = [&head[..], b"\x81\x05\r\n\r\nx"].concat();
        for step in 1..=bytes.len() {
            let mut stream = Drip(&bytes, step);
            let (found, mut ahead) = read_head(&mut stream, MAX_HEAD).await.unwrap();
            assert!(found == head, "{step} at a time");
            ahead.extend_from_slice(stream.0);
            assert_eq!(ahead, b"\x81\x05\r\n\r\nx", "{step} at a time");
        }
    }

    #[tokio::test]
    async fn a_head_that_is_too_long_or_none_is_refused() {
        for (bytes, words) in [
            (vec![b'x'; 100_000], "a head of more than 16384 bytes"),
            ([vec![b'x'; 16_381], b"\r\n\r\n".to_vec()].concat(), "a head of more than 16384 bytes"),
            (b"HTTP/1.1 101 x\r\n".to_vec(), "closed in the middle of a head"),
            (b"".to_vec(), "closed without a word"),
            (b"\x15\x03\x01\x00\x02\x02\x46".to_vec(), "it speaks TLS on this port; use wss://"),
            (b"\x16\x03\x01\x02\x00\x01".to_vec(), "it speaks TLS on this port; use wss://"),
            (b"\0\0\0".to_vec(), "what answers there does not speak HTTP; check the port"),
        ] {
            for step in [1, 1000, 100_000] {
                let error = read_head(&mut Drip(&bytes, step), MAX_HEAD).await.unwrap_err();
                assert_eq!(error.to_string(), words, "{step} at a time");
            }
        }
        let most = [vec![b'x'; 16_380], b"\r\n\r\n".to_vec()].concat();
        assert_eq!(read_head(&mut Drip(&most, 777), MAX_HEAD).await.unwrap().0.len(), MAX_HEAD);
    }

    #[test]
    fn spoilt_heads_are_refused_or_taken_but_never_break_us() {
        let mut dice: u64 = 7;
        let mut roll = |below: usize| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (dice >> 33) as usize % below
        };
        let heads = [welcome(&[]), answer(&GOOD), answer(&["HTTP/1.1 302 Found", "Location: /x?y", "Retry-After: 1"])];
        let (mut taken, mut refused) = (0, 0);
        for round in 0..30_000 {
            let mut bytes = heads[round % 3].clone();
            for _ in 0..1 + roll(3) {
                let at = roll(bytes.len());
                match roll(4) {
                    0 => bytes[at] = roll(256) as u8,
                    1 => drop(bytes.remove(at)),
                    2 => bytes.insert(at, roll(256) as u8),
                    _ => bytes.truncate(at.max(10)),
                }
            }
            let body = [roll(256) as u8; 40];
            let fine = parse_request(&bytes).is_ok() | check_response(&bytes, &body, KEY, None).is_ok();
            let _ = body_len(&bytes);
            taken += usize::from(fine);
            refused += usize::from(!fine);
        }
        assert!(taken > 1000 && refused > 10_000, "{taken} taken, {refused} refused");
    }
}
