//! An `https://` URL that is asked which WebSocket to dial for a call (Exotel, "Working with the Stream applet", dynamic
//! endpoints): a GET with the call in its query, answered by `{"url": "wss://..."}`.

use core::fmt;
use std::{io, sync::Arc};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::spawn_local,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    config::{ASK_LIMIT, Secret, Trunk, Url},
    dialect::Facts,
    leg::websocket::tls,
};

/// Asks which WebSocket to dial for this call. `tls` is for `https://`.
///
/// # Errors
/// [`AskError`] says what came instead.
pub async fn ask(trunk: &Trunk, tls: Option<&Arc<ClientConfig>>, facts: &Facts) -> Result<Url, AskError> {
    timeout(ASK_LIMIT, follow(trunk, tls, facts)).await.unwrap_or(Err(AskError::Late))
}

async fn follow(trunk: &Trunk, tls: Option<&Arc<ClientConfig>>, facts: &Facts) -> Result<Url, AskError> {
    let mut url = trunk.url.clone();
    url.path_and_query = with_call(&url.path_and_query, facts);
    for redirects in 0..=MOST_REDIRECTS {
        // Whom somebody else names is not told our secrets.
        let ours = (redirects == 0).then_some(trunk);
        match understand(get(&url, ours, tls).await?, &url, trunk.insecure)? {
            Told::Dial(url) => return Ok(url),
            Told::Ask(next) => url = next,
        }
    }
    Err(AskError::Astray)
}

/// What a server answered.
struct Answer {
    status: u16,
    location: Option<String>,
    body: Vec<u8>,
}

/// What an answer says to do.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Dial(Url),
    Ask(Url),
}

async fn get(url: &Url, trunk: Option<&Trunk>, tls: Option<&Arc<ClientConfig>>) -> Result<Answer, AskError> {
    let stream = TcpStream::connect((url.host.as_str(), url.port)).await.map_err(AskError::Lost)?;
    if !url.secure {
        return request(stream, url, trunk).await;
    }
    let config = tls.ok_or_else(|| AskError::Tls("no certificates to trust were read at the start".to_owned()))?;
    let name = ServerName::try_from(url.host.clone())
        .map_err(|_| AskError::Tls("no certificate can carry the name in the url".to_owned()))?;
    let connector = TlsConnector::from(Arc::clone(config));
    let stream = connector.connect(name, stream).await.map_err(|error| AskError::Tls(tls::explain(&error)))?;
    request(stream, url, trunk).await
}

async fn request<S>(stream: S, url: &Url, trunk: Option<&Trunk>) -> Result<Answer, AskError>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut request = Request::get(&url.path_and_query)
        .header(header::HOST, &url.authority)
        .header(header::ACCEPT, "application/json")
        .header(header::CONNECTION, "close")
        .header(header::USER_AGENT, concat!("trunkline/", env!("CARGO_PKG_VERSION")));
    if let Some(trunk) = trunk {
        for (name, value) in &trunk.headers {
            request = request.header(name, value.reveal());
        }
        if let Some(value) = trunk.authorization.as_ref().map(Secret::reveal) {
            request = request.header(header::AUTHORIZATION, value);
        }
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| AskError::Url)?;
    let http = |error: hyper::Error| AskError::Lost(io::Error::other(error));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    // It ends with the answer.
    let connection = spawn_local(connection);
    let answered = async {
        let response = sender.send_request(request).await.map_err(http)?;
        let status = response.status().as_u16();
        let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let location = location.map(str::to_owned);
        let body = Limited::new(response.into_body(), MOST_BODY).collect().await.map_err(|_| AskError::TooLong)?;
        Ok(Answer { status, location, body: body.to_bytes().to_vec() })
    };
    let answer = answered.await;
    connection.abort();
    answer
}

/// The target with the call in its query.
fn with_call(target: &str, facts: &Facts) -> String {
    let call_sid = if facts.call_sid.is_empty() { &facts.call_id } else { &facts.call_sid };
    let mut target = target.to_owned();
    for (name, value) in
        [("CallSid", call_sid.as_str()), ("CallFrom", &facts.from), ("CallTo", &facts.to), ("Direction", "incoming")]
    {
        target.push(if target.contains('?') { '&' } else { '?' });
        target.push_str(name);
        target.push('=');
        for byte in value.bytes() {
            // RFC 3986 2.3.
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                target.push(char::from(byte));
            } else {
                target.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    target
}

/// What an answer of `asked` says to do. Speech goes in the clear only where the operator says so, or stays on this
/// machine.
fn understand(answer: Answer, asked: &Url, insecure: bool) -> Result<Told, AskError> {
    let is_good = |url: &Url| url.secure || insecure || url.is_loopback();
    match answer.status {
        200..=299 => {
            #[derive(Deserialize)]
            struct Body {
                url: String,
            }
            let body: Body = serde_json::from_slice(&answer.body).map_err(|_| AskError::NoUrl)?;
            let url = Url::parse(body.url.trim()).map_err(|_| AskError::Url)?;
            if is_good(&url) { Ok(Told::Dial(url)) } else { Err(AskError::Plain) }
        }
        301 | 302 | 303 | 307 | 308 => {
            let to = answer.location.ok_or(AskError::Url)?;
            let to = if to.starts_with('/') && !to.starts_with("//") {
                let scheme = if asked.secure { "https" } else { "http" };
                format!("{scheme}://{}{to}", asked.authority)
            } else {
                to
            };
            let url = Url::parse_any(&to).map_err(|_| AskError::Url)?;
            match url.asks {
                false => Err(AskError::Url),
                true if is_good(&url) => Ok(Told::Ask(url)),
                true => Err(AskError::Plain),
            }
        }
        status => Err(AskError::Status(status)),
    }
}

/// Why no WebSocket was named.
#[derive(Debug)]
pub enum AskError {
    /// Nothing came in time.
    Late,
    /// No connection, or it broke.
    Lost(io::Error),
    /// The TLS handshake failed; why and what would help.
    Tls(String),
    /// It answered with this status.
    Status(u16),
    /// The answer is not `{"url": "wss://..."}`.
    NoUrl,
    /// The answer is longer than such an answer can be.
    TooLong,
    /// What it names cannot be dialled or asked.
    Url,
    /// What it names is not encrypted.
    Plain,
    /// It sends us round and round.
    Astray,
}

impl AskError {
    /// Whether nothing came at all.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Late)
    }

    /// Whether nobody was there who could have said no.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Late | Self::Lost(_))
    }
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("asked for the URL to dial, ")?;
        match self {
            Self::Late => write!(f, "it did not answer within {} s", ASK_LIMIT.as_secs()),
            Self::Lost(error) => write!(f, "there was no connection, or it broke: {error}"),
            Self::Tls(why) => write!(f, "it failed in the TLS handshake: {why}"),
            Self::Status(status) => write!(f, "it answered with {status}; check the path in the url"),
            Self::NoUrl => f.write_str("it answered something else than {\"url\": \"wss://...\"}"),
            Self::TooLong => write!(f, "it answered with more than {MOST_BODY} bytes, or broke off"),
            Self::Url => f.write_str("it named none that can be dialled"),
            Self::Plain => f.write_str("it named one without encryption; wanted wss://, or insecure = true"),
            Self::Astray => write!(f, "it sent us elsewhere more than {MOST_REDIRECTS} times"),
        }
    }
}

impl core::error::Error for AskError {}

/// Exotel follows as many.
const MOST_REDIRECTS: usize = 3;
/// An answer is one URL.
const MOST_BODY: usize = 64 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn answer(status: u16, location: Option<&str>, body: &str) -> Answer {
        Answer { status, location: location.map(str::to_owned), body: body.as_bytes().to_vec() }
    }

    fn told(answer: Answer) -> Result<Told, String> {
        let asked = Url::parse_any("https://agent.example.com/where?a=b").unwrap();
        understand(answer, &asked, false).map_err(|error| error.to_string())
    }

    #[test]
    fn the_call_stands_in_the_query_with_its_signs_escaped() {
        let mut facts = Facts { call_id: "abcdefghijkl".try_into().unwrap(), ..Facts::default() };
        facts.from = "+91 98".try_into().unwrap();
        assert_eq!(
            with_call("/where?a=b", &facts),
            "/where?a=b&CallSid=abcdefghijkl&CallFrom=%2B91%2098&CallTo=&Direction=incoming"
        );
        facts.call_sid = "c&1\r\n".try_into().unwrap();
        assert!(with_call("/", &facts).starts_with("/?CallSid=c%261%0D%0A&CallFrom="));
    }

    #[test]
    fn the_url_that_is_named_is_dialled() {
        let wanted = Url::parse("wss://a1.example.com/ws?sample-rate=16000").unwrap();
        let body = r#"{"url":"wss://a1.example.com/ws?sample-rate=16000","ttl":30}"#;
        assert_eq!(told(answer(200, None, body)), Ok(Told::Dial(wanted)));
    }

    #[test]
    fn a_redirect_is_followed_to_where_it_is_as_safe() {
        let asks = |url: &str| Ok(Told::Ask(Url::parse_any(url).unwrap()));
        assert_eq!(told(answer(302, Some("/there"), "")), asks("https://agent.example.com/there"));
        assert_eq!(told(answer(307, Some("https://b.example/x"), "")), asks("https://b.example/x"));
        assert!(told(answer(302, Some("http://b.example/x"), "")).unwrap_err().contains("without encryption"));
        for to in [None, Some("//b.example"), Some("ftp://b"), Some("wss://b.example/")] {
            assert!(told(answer(302, to, "")).unwrap_err().ends_with("it named none that can be dialled"), "{to:?}");
        }
    }

    #[test]
    fn whatever_else_is_answered_is_told_in_words() {
        for (answer, words) in [
            (answer(404, None, ""), "it answered with 404"),
            (answer(200, None, "wss://a.example"), "it answered something else than"),
            (answer(200, None, r#"{"uri":"wss://a.example"}"#), "it answered something else than"),
            (answer(200, None, r#"{"url":"https://a.example"}"#), "it named none that can be dialled"),
            (answer(200, None, r#"{"url":"ws://a.example/"}"#), "it named one without encryption"),
            (answer(200, None, "{\"url\":\"wss://a.example/\\r\\nX: y\"}"), "it named none that can be dialled"),
        ] {
            let said = told(answer).unwrap_err();
            assert!(said.contains(words), "{said}");
        }
        assert!(told(answer(200, None, r#"{"url":"ws://127.0.0.1:9/"}"#)).is_ok());
    }
}
