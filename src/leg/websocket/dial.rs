//! Bringing a WebSocket up: name, connection, TLS, upgrade; and the same from the other end.
//!
//! All of it runs on the dial thread, under one time limit. What comes out is a *std* socket that is registered with no
//! runtime, the rustls connection and the bytes that were already read past the upgrade, so that a media thread can
//! take over.

use core::{fmt, future::Future, time::Duration};
use std::{
    io,
    net::{SocketAddr, TcpStream as StdTcpStream},
    sync::Arc,
};

use rustls::{ClientConfig, Connection, pki_types::ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream, lookup_host},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tungstenite::handshake::client::generate_key;

use crate::{
    config::{Secret, Trunk, decoded},
    dialect::{self, asterisk, audiofork},
    leg::websocket::{
        tls,
        upgrade::{self, MAX_BODY, MAX_HEAD, Refusal, Request},
    },
};

/// A trunk that answered.
#[derive(Debug)]
pub struct Dialed {
    /// The socket; it never blocks and no runtime knows it.
    pub stream: StdTcpStream,
    /// Its TLS, for a trunk at `wss://`. It may hold plaintext already.
    pub tls: Option<Box<Connection>>,
    /// Plaintext that was read past the upgrade.
    pub read_ahead: Vec<u8>,
    /// Who answered.
    pub peer: SocketAddr,
    /// The cipher suite that the server picked.
    pub cipher: Option<&'static str>,
    /// What took how long.
    pub stages: Stages,
}

/// How long each stage of a dial took. Zero where there was none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// The name's lookup.
    pub dns: Duration,
    /// All attempts to connect.
    pub connect: Duration,
    /// The TLS handshake.
    pub tls: Duration,
    /// The WebSocket handshake.
    pub upgrade: Duration,
}

/// Dials a trunk within its `connect-timeout-ms`. `tls` is for trunks at `wss://`; `send_buffer` is what the kernel may
/// hold of what we send (bytes).
///
/// # Errors
/// [`DialError`] says at which stage it ended, why, and what would help.
pub async fn dial(trunk: &Trunk, tls: Option<&Arc<ClientConfig>>, send_buffer: usize) -> Result<Dialed, DialError> {
    let dialing = Dialing { deadline: Instant::now() + trunk.connect_timeout, limit: trunk.connect_timeout };
    let dialed = dialing.run(trunk, tls.filter(|_| trunk.url.secure), send_buffer).await;
    dialed.map_err(|failure| DialError::of(&trunk.url.host, trunk.url.port, failure))
}

/// Connects as a dial does, each address of the name with its share of the time, and goes no further.
///
/// # Errors
/// As those of [`dial`].
pub(crate) async fn connect(host: &str, port: u16, limit: Duration) -> Result<TcpStream, DialError> {
    let dialing = Dialing { deadline: Instant::now() + limit, limit };
    let connected = async {
        let addresses = dialing.look_up(host, port).await?;
        dialing.connect(&addresses, PROBE_BUFFER).await
    };
    connected.await.map(|(stream, _)| stream).map_err(|failure| DialError::of(host, port, failure))
}

struct Dialing {
    deadline: Instant,
    limit: Duration,
}

impl Dialing {
    async fn run(&self, trunk: &Trunk, tls: Option<&Arc<ClientConfig>>, send_buffer: usize) -> Result<Dialed, Failure> {
        let url = &trunk.url;
        let mut stages = Stages::default();
        let mut since = Instant::now();
        let mut lap = || core::mem::replace(&mut since, Instant::now()).elapsed();

        let addresses = self.look_up(&url.host, url.port).await?;
        stages.dns = lap();
        let (mut stream, peer) = self.connect(&addresses, send_buffer).await?;
        stages.connect = lap();

        let key = generate_key();
        let headers: Vec<_> = trunk.headers.iter().map(|(name, value)| (name.as_str(), value.reveal())).collect();
        let authorization = trunk.authorization.as_ref().map(Secret::reveal);
        let subprotocol = dialect::subprotocol(trunk.dialect, &trunk.options);
        let request = upgrade::request(&url.authority, &url.path_and_query, &key, &headers, authorization, subprotocol);

        if !url.secure {
            let read_ahead = self.upgrade(&mut stream, &request, &key, trunk).await?;
            stages.upgrade = lap();
            let stream = stream.into_std().map_err(|error| Failure::Lost(Stage::Upgrade, error))?;
            return Ok(Dialed { stream, tls: None, read_ahead, peer, cipher: None, stages });
        }
        let Some(config) = tls else {
            // Reached only when whoever dials did not read the roots that this trunk needs.
            return Err(Failure::Tls("no certificates to trust were read at the start".to_owned()));
        };
        let name = ServerName::try_from(url.host.clone())
            .map_err(|_| Failure::Tls("no certificate can carry the name in the url".to_owned()))?;
        let connector = TlsConnector::from(Arc::clone(config));
        let mut stream = self
            .within(Stage::Tls, connector.connect(name, stream))
            .await?
            .map_err(|error| Failure::Tls(tls::explain(&error)))?;
        stages.tls = lap();
        let read_ahead = self.upgrade(&mut stream, &request, &key, trunk).await?;
        stages.upgrade = lap();
        let (stream, connection) = stream.into_inner();
        let connection = Box::new(Connection::Client(connection));
        let cipher = tls::suite_name(&connection);
        let stream = stream.into_std().map_err(|error| Failure::Lost(Stage::Upgrade, error))?;
        Ok(Dialed { stream, tls: Some(connection), read_ahead, peer, cipher, stages })
    }

    async fn within<F: Future>(&self, stage: Stage, work: F) -> Result<F::Output, Failure> {
        timeout_at(self.deadline, work).await.map_err(|_| Failure::Timeout(stage, self.limit))
    }

    async fn look_up(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Failure> {
        let found = self.within(Stage::Dns, lookup_host((host, port))).await?;
        Ok(found.map_err(Failure::Dns)?.take(MAX_ADDRESSES).collect())
    }

    /// Tries the addresses in the order of RFC 6724, in which the resolver gives them, each with its share of the time.
    async fn connect(&self, addresses: &[SocketAddr], send_buffer: usize) -> Result<(TcpStream, SocketAddr), Failure> {
        let mut tried = Vec::new();
        let mut left = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        for address in addresses {
            let share = self.deadline.saturating_duration_since(Instant::now()) / left.max(1);
            left = left.saturating_sub(1);
            match timeout(share, connect_to(*address, send_buffer)).await {
                Ok(Ok(stream)) => return Ok((stream, *address)),
                Ok(Err(error)) => tried.push((*address, error)),
                Err(_) => tried.push((*address, io::ErrorKind::TimedOut.into())),
            }
        }
        if tried.is_empty() {
            return Err(Failure::Dns(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
        }
        if tried.iter().all(|(_, error)| error.kind() == io::ErrorKind::TimedOut) {
            return Err(Failure::Timeout(Stage::Connect, self.limit));
        }
        Err(Failure::Connect(tried))
    }

    /// Asks for the upgrade; gives what was read past the answer.
    async fn upgrade<S>(&self, stream: &mut S, request: &[u8], key: &str, trunk: &Trunk) -> Result<Vec<u8>, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let asked = self.within(Stage::Upgrade, async {
            stream.write_all(request).await?;
            stream.flush().await?;
            upgrade::read_head(stream, MAX_HEAD).await
        });
        let (head, mut ahead) = asked.await?.map_err(lost)?;
        let offered = dialect::subprotocol(trunk.dialect, &trunk.options);
        let Err(refusal) = upgrade::check_response(&head, &ahead, key, offered) else { return Ok(ahead) };
        if refusal.status.is_some() {
            let until = self.deadline.min(Instant::now() + BODY_WAIT);
            let wanted = upgrade::body_len(&head).unwrap_or(MAX_BODY);
            // However it ends, there is something to tell already.
            let _ = timeout_at(until, read_up_to(stream, &mut ahead, wanted)).await;
        }
        let (head, ahead) = (without_secrets(&head, trunk), without_secrets(&ahead, trunk));
        let told = upgrade::check_response(&head, &ahead, key, offered);
        Err(Failure::Refused(told.err().unwrap_or(refusal)))
    }
}

/// The words of this trunk's agent as they may be shown: without what they repeat of our secrets.
pub(crate) fn shown(words: &str, trunk: &Trunk) -> String {
    String::from_utf8_lossy(&without_secrets(words.as_bytes(), trunk)).into_owned()
}

/// What a server repeats of our secrets is not for the log: some show the request that they refuse, and some what they
/// decoded of it.
fn without_secrets(text: &[u8], trunk: &Trunk) -> Vec<u8> {
    let mut secrets: Vec<String> = trunk.headers.iter().map(|(_, value)| value.reveal().to_owned()).collect();
    let authorization = trunk.authorization.as_ref().map_or("", Secret::reveal);
    let token = authorization.split(' ').next_back().unwrap_or_default();
    if authorization.starts_with("Basic ")
        && let Ok(pair) = base64_simd::STANDARD.decode_to_vec(token)
        && let Some((_, password)) = String::from_utf8_lossy(&pair).split_once(':')
    {
        secrets.push(password.to_owned());
    }
    secrets.push(token.to_owned());
    let query = trunk.url.path_and_query.split_once('?').map_or("", |(_, query)| query);
    for (_, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        secrets.extend([value.to_owned(), decoded(value)]);
    }
    let mut text = String::from_utf8_lossy(text).into_owned();
    for secret in secrets.iter().filter(|secret| secret.len() >= LEAST_SECRET) {
        text = text.replace(secret, "***");
    }
    text.into_bytes()
}

async fn connect_to(address: SocketAddr, send_buffer: usize) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // tcp(7): what the handshake offers as a window follows from the buffer at that time.
    socket.set_send_buffer_size(u32::try_from(send_buffer).unwrap_or(u32::MAX))?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.set_nodelay(true)?;
    watch(&SockRef::from(&socket))?;
    socket.connect(address).await
}

/// Lets the kernel tell when the other side is gone: neither acknowledging nor answering.
pub(super) fn watch(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_user_timeout(Some(GONE_AFTER))?;
    let every = TcpKeepalive::new().with_time(KEEPALIVE_EVERY).with_interval(KEEPALIVE_EVERY);
    socket.set_tcp_keepalive(&every)
}

async fn read_up_to<S: AsyncRead + Unpin>(stream: &mut S, into: &mut Vec<u8>, len: usize) -> io::Result<()> {
    while into.len() < len && stream.read_buf(into).await? > 0 {}
    Ok(())
}

/// Where a dial stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The name's lookup.
    Dns,
    /// TCP.
    Connect,
    /// The TLS handshake.
    Tls,
    /// The WebSocket handshake.
    Upgrade,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dns => "name lookup",
            Self::Connect => "connection",
            Self::Tls => "TLS handshake",
            Self::Upgrade => "WebSocket handshake",
        })
    }
}

/// A trunk that did not answer.
#[derive(Debug)]
pub struct DialError {
    /// Its host and port, from the url.
    pub agent: String,
    /// What went wrong.
    pub failure: Failure,
}

/// What went wrong in a dial.
#[derive(Debug)]
pub enum Failure {
    /// The name was not found.
    Dns(io::Error),
    /// No address took the connection, each for its own reason.
    Connect(Vec<(SocketAddr, io::Error)>),
    /// The TLS handshake failed; why and what would help.
    Tls(String),
    /// The connection broke, or brought something that is not HTTP.
    Lost(Stage, io::Error),
    /// The server answered, but not with a WebSocket.
    Refused(Refusal),
    /// The time ran out, which was so long.
    Timeout(Stage, Duration),
}

impl DialError {
    fn of(host: &str, port: u16, failure: Failure) -> Self {
        Self { agent: format!("{}:{port}", bracketed(host)), failure }
    }

    /// Whether the agent was silent; otherwise it, or something on the way, said no.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self.failure, Failure::Timeout(..))
    }

    /// Whether nobody was there who could have said no.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match &self.failure {
            Failure::Dns(_) | Failure::Connect(_) | Failure::Tls(_) | Failure::Lost(..) | Failure::Timeout(..) => true,
            Failure::Refused(_) => false,
        }
    }

    /// Whether the next attempt may well end otherwise: a handshake that failed, but for one that was answered with a
    /// plain no.
    #[must_use]
    pub fn is_worth_a_retry(&self) -> bool {
        match &self.failure {
            Failure::Tls(_) | Failure::Lost(..) => true,
            Failure::Timeout(stage, _) => matches!(stage, Stage::Tls | Stage::Upgrade),
            Failure::Refused(refusal) => !refusal.status.is_some_and(|status| (300..500).contains(&status)),
            Failure::Dns(_) | Failure::Connect(_) => false,
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { agent, failure } = self;
        match failure {
            Failure::Dns(error) => {
                let host = agent.rsplit_once(':').map_or(agent.as_str(), |(host, _)| host);
                write!(f, "{agent}: {error}; check the url, and this machine's DNS with `getent hosts {host}`")
            }
            Failure::Connect(tried) => {
                write!(f, "{agent}: no connection to ")?;
                for (index, (address, error)) in tried.iter().enumerate() {
                    write!(f, "{}{address}: {}", if index > 0 { ", " } else { "" }, words(error))?;
                }
                f.write_str("; check the port, and the firewalls on the way")
            }
            Failure::Tls(why) => write!(f, "{agent}: the TLS handshake failed: {why}"),
            Failure::Lost(stage, error) => {
                write!(f, "{agent}: the {stage} failed: {}", words(error))?;
                // What makes no sense says so itself.
                let told = error.kind() == io::ErrorKind::InvalidData;
                f.write_str(if told { "" } else { "; check the port and the path in the url" })
            }
            Failure::Refused(refusal) => {
                write!(f, "{agent}: the WebSocket handshake was answered with {refusal}; {}", refusal.advice())
            }
            Failure::Timeout(stage, limit) => {
                let advice = match stage {
                    Stage::Dns => "check this machine's DNS",
                    Stage::Connect => "check the address, and the firewalls on the way",
                    Stage::Tls | Stage::Upgrade => {
                        "something takes connections there but does not answer; check the port"
                    }
                };
                write!(f, "{agent}: no {stage} within {} ms; {advice}", limit.as_millis())
            }
        }
    }
}

impl core::error::Error for DialError {}

/// A server says only after the handshake of TLS 1.3 that it wants a certificate from us (RFC 8446 4.4.2.4).
fn lost(error: io::Error) -> Failure {
    if let Some(inner) = error.get_ref()
        && inner.is::<rustls::Error>()
    {
        Failure::Tls(tls::explain(&error))
    } else {
        Failure::Lost(Stage::Upgrade, error)
    }
}

/// The system's words, without its number for them.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        _ if error.kind() == io::ErrorKind::TimedOut => "no answer".to_owned(),
        Some((text, _)) => text.to_lowercase(),
        None => text,
    }
}

/// IPv6 addresses stand in brackets before a port.
fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// A client that was let in.
#[derive(Debug)]
pub struct Accepted {
    /// The socket; it never blocks and no runtime knows it.
    pub stream: StdTcpStream,
    /// Its TLS, if there is one. It may hold plaintext already.
    pub tls: Option<Box<Connection>>,
    /// Plaintext that was read past the request.
    pub read_ahead: Vec<u8>,
    /// What it asked for. It was answered with 101.
    pub request: Request,
    /// Who it is.
    pub peer: SocketAddr,
}

/// Lets a client in: TLS if `tls` is there, then the upgrade. Takes 10 s at most.
///
/// # Errors
/// [`AcceptError`]; a client that asked for something else was told so.
pub async fn accept(stream: TcpStream, tls: Option<&TlsAcceptor>) -> Result<Accepted, AcceptError> {
    accept_within(ACCEPT_LIMIT, stream, tls).await
}

async fn accept_within(
    limit: Duration,
    mut stream: TcpStream,
    tls: Option<&TlsAcceptor>,
) -> Result<Accepted, AcceptError> {
    let deadline = Instant::now() + limit;
    let late = |stage| move |_| AcceptError::Timeout(stage);
    let lost = |error| AcceptError::Lost(Stage::Upgrade, error);
    let peer = stream.peer_addr().map_err(lost)?;
    stream.set_nodelay(true).map_err(lost)?;
    watch(&SockRef::from(&stream)).map_err(lost)?;
    let Some(acceptor) = tls else {
        let (request, read_ahead) = timeout_at(deadline, greet(&mut stream)).await.map_err(late(Stage::Upgrade))??;
        return Ok(Accepted { stream: stream.into_std().map_err(lost)?, tls: None, read_ahead, request, peer });
    };
    let mut stream = timeout_at(deadline, acceptor.accept(stream))
        .await
        .map_err(late(Stage::Tls))?
        .map_err(|error| AcceptError::Tls(tls::explain(&error)))?;
    let (request, read_ahead) = timeout_at(deadline, greet(&mut stream)).await.map_err(late(Stage::Upgrade))??;
    let (stream, connection) = stream.into_inner();
    let tls = Some(Box::new(Connection::Server(connection)));
    Ok(Accepted { stream: stream.into_std().map_err(lost)?, tls, read_ahead, request, peer })
}

async fn greet<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<(Request, Vec<u8>), AcceptError> {
    let lost = |error| AcceptError::Lost(Stage::Upgrade, error);
    let (head, ahead) = upgrade::read_head(stream, MAX_HEAD).await.map_err(lost)?;
    match upgrade::parse_request(&head) {
        Ok(request) => {
            // Those who offer these hang up where they are not chosen.
            let ours = [asterisk::SUBPROTOCOL, audiofork::SUBPROTOCOL];
            let chosen = ours.into_iter().find(|ours| request.subprotocols.iter().any(|theirs| theirs == ours));
            stream.write_all(&upgrade::response(&request, chosen)).await.map_err(lost)?;
            stream.flush().await.map_err(lost)?;
            Ok((request, ahead))
        }
        Err((status, words)) => {
            let said = async {
                stream.write_all(&upgrade::refuse(status, words)).await?;
                stream.shutdown().await?;
                // Closed with something unread, the socket would take our answer back from the client.
                read_up_to(stream, &mut Vec::new(), MAX_HEAD).await
            };
            let _ = timeout(REFUSAL_WAIT, said).await;
            Err(AcceptError::Refused(status, words))
        }
    }
}

/// A client that was not let in.
#[derive(Debug)]
pub enum AcceptError {
    /// The TLS handshake failed; why and what would help.
    Tls(String),
    /// The connection broke, or brought something that is not HTTP.
    Lost(Stage, io::Error),
    /// It asked for something else, and was told so with this status.
    Refused(u16, &'static str),
    /// It took too long.
    Timeout(Stage),
}

impl fmt::Display for AcceptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(why) => write!(f, "the TLS handshake failed: {why}"),
            Self::Lost(stage, error) => write!(f, "the {stage} failed: {}", words(error)),
            Self::Refused(status, words) => write!(f, "refused with {status}: {words}"),
            Self::Timeout(stage) => write!(f, "no {stage} within {} s", ACCEPT_LIMIT.as_secs()),
        }
    }
}

impl core::error::Error for AcceptError {}

/// Little can hide here ahead of a clear: 4 s of Exotel at 8 kHz (bytes; Linux doubles it for its bookkeeping).
pub(super) const RECEIVE_BUFFER: u32 = 128 * 1024;

/// Of a connection that carries no call (bytes).
const PROBE_BUFFER: usize = 16 * 1024;

/// Unacknowledged for so long, a peer is gone (tcp(7), TCP_USER_TIMEOUT).
const GONE_AFTER: Duration = Duration::from_secs(20);

const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);

/// A name with more addresses than this has enough of them in every answer.
const MAX_ADDRESSES: usize = 8;

/// Shorter than this is a word, not a secret.
const LEAST_SECRET: usize = 6;

/// The text of a refusal mostly comes with its head.
const BODY_WAIT: Duration = Duration::from_millis(250);

const ACCEPT_LIMIT: Duration = Duration::from_secs(10);

const REFUSAL_WAIT: Duration = Duration::from_secs(1);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{
        future::pending,
        io::Read,
        net::{Ipv4Addr, Ipv6Addr},
        path::Path,
    };

    use tokio::net::TcpListener;

    use super::*;
    use crate::{
        config::{HeaderValue, Url},
        dialect,
        leg::websocket::{
            link::Link,
            tls::tests::{ca, client, server},
            upgrade::parse_request,
        },
    };

    fn trunk(url: &str) -> Trunk {
        Trunk {
            name: "agent".to_owned(),
            url: Url::parse(url).unwrap(),
            dialect: "binary",
            sample_rate: None,
            connect_timeout: Duration::from_secs(5),
            headers: Vec::new(),
            authorization: None,
            jwt: None,
            ca_file: None,
            insecure: false,
            options: dialect::Options::default(),
            is_gone: false,
        }
    }

    async fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// A server that lets one client in.
    async fn welcoming(
        tls: Option<TlsAcceptor>,
    ) -> (SocketAddr, tokio::task::JoinHandle<Result<Accepted, AcceptError>>) {
        let (listener, address) = listen().await;
        (address, tokio::spawn(async move { accept(listener.accept().await.unwrap().0, tls.as_ref()).await }))
    }

    /// A server that reads a head, if it is to, says this and waits for the client to go.
    async fn saying(read: bool, answer: Vec<u8>) -> SocketAddr {
        let (listener, address) = listen().await;
        tokio::spawn(async move {
            let mut stream = listener.accept().await.unwrap().0;
            if read {
                upgrade::read_head(&mut stream, MAX_HEAD).await.unwrap();
            }
            stream.write_all(&answer).await.unwrap();
            read_up_to(&mut stream, &mut Vec::new(), usize::MAX).await
        });
        address
    }

    /// Reads until so much plaintext is there.
    fn hear(link: &mut Link, stream: &mut StdTcpStream, len: usize) -> Vec<u8> {
        stream.set_nonblocking(false).unwrap();
        let (mut heard, mut space, mut wire) = (Vec::new(), [0; 4096], [0; 4096]);
        while heard.len() < len {
            match link.plaintext(&mut space).unwrap() {
                0 if link.is_plain() => {
                    let n = stream.read(&mut wire).unwrap();
                    heard.extend_from_slice(&wire[..n]);
                }
                0 => {
                    let n = stream.read(&mut wire).unwrap();
                    assert_eq!(link.open(&wire[..n]), Ok(n));
                }
                n => heard.extend_from_slice(&space[..n]),
            }
        }
        heard
    }

    #[tokio::test]
    async fn a_trunk_in_the_clear_is_dialled_and_accepted() {
        let (address, accepted) = welcoming(None).await;
        let mut trunk = trunk(&format!("ws://{address}/ws?site=7"));
        trunk.headers.push(("X-Key".to_owned(), HeaderValue::Secret(Secret::new("k3y"))));
        trunk.authorization = Some(Secret::new("Bearer hush"));
        let dialed = dial(&trunk, None, 20_000).await.unwrap();
        let accepted = accepted.await.unwrap().unwrap();
        assert_eq!((accepted.request.path.as_str(), accepted.request.query.as_deref()), ("/ws", Some("site=7")));
        assert_eq!(accepted.request.header("authorization"), Some("Bearer hush"));
        assert_eq!(accepted.request.header("x-key"), Some("k3y"));
        assert_eq!(accepted.request.header("host"), Some(address.to_string().as_str()));
        assert_eq!((dialed.peer, dialed.cipher), (address, None));
        assert_eq!(accepted.peer, dialed.stream.local_addr().unwrap());
        assert!(dialed.tls.is_none() && dialed.read_ahead.is_empty());
        assert_eq!(dialed.stages.tls, Duration::ZERO);
        assert!(dialed.stages.upgrade > Duration::ZERO);
        let shown = format!("{dialed:?} {accepted:?}");
        assert!(!shown.contains("k3y") && !shown.contains("hush") && !shown.contains("site=7"), "{shown}");
    }

    #[tokio::test]
    async fn the_socket_is_ready_for_a_media_thread() {
        let (address, accepted) = welcoming(None).await;
        let dialed = dial(&trunk(&format!("ws://{address}/")), None, 20_000).await.unwrap();
        let accepted = accepted.await.unwrap().unwrap();
        for mut stream in [&dialed.stream, &accepted.stream] {
            assert_eq!(stream.read(&mut [0; 9]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            assert!(stream.nodelay().unwrap());
            let socket = SockRef::from(stream);
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(20)));
            assert!(socket.keepalive().unwrap());
        }
        let socket = SockRef::from(&dialed.stream);
        // socket(7): Linux doubles what it is asked for.
        assert_eq!(socket.send_buffer_size().unwrap(), 40_000);
        assert_eq!(socket.recv_buffer_size().unwrap(), 2 * RECEIVE_BUFFER as usize);
    }

    #[tokio::test]
    async fn what_the_agent_says_with_its_answer_is_not_lost() {
        let (listener, address) = listen().await;
        let greeting = tokio::spawn(async move {
            let mut stream = listener.accept().await.unwrap().0;
            let (head, _) = upgrade::read_head(&mut stream, MAX_HEAD).await.unwrap();
            let answer = upgrade::response(&parse_request(&head).unwrap(), None);
            stream.write_all(&[&answer[..], b"\x81\x05hello"].concat()).await.unwrap();
            stream.write_all(b"\x81\x05again").await.unwrap();
            stream
        });
        let dialed = dial(&trunk(&format!("ws://{address}/")), None, 20_000).await.unwrap();
        let _open = greeting.await.unwrap();
        let mut stream = dialed.stream;
        let mut link = Link::new(None, dialed.read_ahead);
        assert_eq!(hear(&mut link, &mut stream, 14), b"\x81\x05hello\x81\x05again");
    }

    #[tokio::test]
    async fn a_trunk_behind_tls_is_dialled_and_speech_goes_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let config = tls::throwaway_ca(dir.path(), &[]).unwrap();
        let (address, accepted) = welcoming(Some(config.into())).await;
        let trusting = tls::client_config(Some(&dir.path().join("ca.pem"))).unwrap();
        let url = format!("wss://localhost:{}/ws", address.port());
        let dialed = dial(&trunk(&url), Some(&trusting), 20_000).await.unwrap();
        let accepted = accepted.await.unwrap().unwrap();
        assert_eq!(dialed.peer, address);
        assert!(dialed.cipher.unwrap().starts_with("TLS13_"));
        assert!(dialed.stages.tls > Duration::ZERO);
        assert!(dialed.tls.is_some() && accepted.tls.is_some());

        let (mut ours, mut theirs) = (dialed.stream, accepted.stream);
        let mut our_link = Link::new(dialed.tls, dialed.read_ahead);
        let mut their_link = Link::new(accepted.tls, accepted.read_ahead);
        for message in [vec![b'u'; 469], vec![b'v'; 16_000]] {
            assert_eq!(our_link.seal(&message), message.len());
            assert!(our_link.flush(&mut ours).unwrap());
            assert!(hear(&mut their_link, &mut theirs, message.len()) == message);
            assert_eq!(their_link.seal(&message), message.len());
            assert!(their_link.flush(&mut theirs).unwrap());
            assert!(hear(&mut our_link, &mut ours, message.len()) == message);
        }
    }

    #[tokio::test]
    async fn what_the_agent_says_with_its_answer_is_not_lost_behind_tls() {
        let dir = tempfile::tempdir().unwrap();
        let acceptor = TlsAcceptor::from(tls::throwaway_ca(dir.path(), &[]).unwrap());
        let (listener, address) = listen().await;
        let greeting = tokio::spawn(async move {
            let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            let (head, _) = upgrade::read_head(&mut stream, MAX_HEAD).await.unwrap();
            let answer = upgrade::response(&parse_request(&head).unwrap(), None);
            // One record that read_head takes in pieces, and one more.
            stream.write_all(&[&answer[..], &[b'a'; 5000]].concat()).await.unwrap();
            stream.write_all(&[b'b'; 5000]).await.unwrap();
            stream.flush().await.unwrap();
            stream
        });
        let trusting = client(&dir.path().join("ca.pem"));
        let dialed = dial(&trunk(&format!("wss://{address}/")), Some(&trusting), 20_000).await.unwrap();
        let _open = greeting.await.unwrap();
        let mut stream = dialed.stream;
        let heard = hear(&mut Link::new(dialed.tls, dialed.read_ahead), &mut stream, 10_000);
        assert!(heard == [[b'a'; 5000], [b'b'; 5000]].concat());
    }

    /// Dials an agent that must not be let through; gives the words, the port taken out, and what the agent met.
    async fn distrusted(host: &str, acceptor: TlsAcceptor, ca_file: &Path) -> (String, String) {
        let (address, accepted) = welcoming(Some(acceptor)).await;
        let url = format!("wss://{host}:{}/", address.port());
        let error = dial(&trunk(&url), Some(&client(ca_file)), 20_000).await.unwrap_err();
        assert!(matches!(error.failure, Failure::Tls(_)), "{error}");
        assert!(!error.is_timeout());
        let met = accepted.await.unwrap().unwrap_err().to_string();
        (error.to_string().replace(&address.port().to_string(), "PORT"), met)
    }

    #[tokio::test]
    async fn a_certificate_that_does_not_hold_ends_the_dial_in_plain_words() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, ca_file) = ca(dir.path());
        let throwaway = tls::throwaway_ca(&dir.path().join("other"), &[]).unwrap();
        let (ours, theirs) = distrusted("localhost", throwaway.into(), &ca_file).await;
        assert_eq!(
            ours,
            "localhost:PORT: the TLS handshake failed: its certificate is from an issuer that is not trusted here; \
             add its CA by ca-file"
        );
        assert_eq!(
            theirs,
            "the TLS handshake failed: it does not accept our certificate; has it been told our ca.pem, and the right \
             name?"
        );
        let good = server(Some(&ca), |params| params.subject_alt_names.truncate(1));
        let (ours, _) = distrusted("127.0.0.1", good.into(), &ca_file).await;
        assert_eq!(
            ours,
            "127.0.0.1:PORT: the TLS handshake failed: its certificate is for localhost, not for 127.0.0.1; \
             is the host in the url right?"
        );
        let expired = server(Some(&ca), |params| params.not_after = rcgen::date_time_ymd(2024, 2, 29));
        let (ours, _) = distrusted("localhost", expired.into(), &ca_file).await;
        assert!(
            ours.contains("the TLS handshake failed: its certificate expired on 2024-02-29, and it is 2"),
            "{ours}"
        );
        let (ours, _) = distrusted("localhost", server(None, |_| {}).into(), &ca_file).await;
        assert!(ours.contains(": its certificate is self-signed; "), "{ours}");
    }

    #[tokio::test]
    async fn whatever_is_not_tls_on_the_tls_port_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let trusting = client(&ca(dir.path()).1);
        for (answer, words) in [
            (
                &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
                "the TLS handshake failed: what answers there does not speak TLS; check the port",
            ),
            (
                b"\x15\x03\x01\x00\x02\x02\x46",
                "the TLS handshake failed: it speaks neither TLS 1.2 nor TLS 1.3; it has to be brought up to date",
            ),
            (
                b"\x15\x03\x03\x00\x02\x02\x28",
                "the TLS handshake failed: the two sides have no cipher, key exchange or signature in common",
            ),
        ] {
            let address = saying(false, answer.to_vec()).await;
            let error = dial(&trunk(&format!("wss://{address}/")), Some(&trusting), 20_000).await.unwrap_err();
            assert_eq!(error.to_string(), format!("{address}: {words}"));
        }
        let (listener, address) = listen().await;
        tokio::spawn(async move { drop(listener.accept().await) });
        let error = dial(&trunk(&format!("wss://{address}/")), Some(&trusting), 20_000).await.unwrap_err();
        assert!(error.to_string().contains("it closed the connection in the middle of the handshake"), "{error}");
        let error = dial(&trunk(&format!("wss://{address}/")), None, 20_000).await.unwrap_err();
        assert!(!error.is_timeout());
    }

    #[tokio::test]
    async fn an_answer_that_is_no_websocket_is_told_with_its_words_and_advice() {
        let shaken = "the WebSocket handshake";
        for (answer, status, words) in [
            (
                "HTTP/1.1 401 Unauthorized\r\nContent-Length: 13\r\n\r\ntoken expired",
                Some(401),
                format!(
                    "{shaken} was answered with 401 Unauthorized: token expired; check `bearer`, `basic`, `jwt` and `headers`"
                ),
            ),
            (
                "HTTP/1.1 403 Forbidden\r\n\r\n",
                Some(403),
                format!("{shaken} was answered with 403 Forbidden; check `bearer`, `basic`, `jwt` and `headers`"),
            ),
            (
                "HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n",
                Some(302),
                format!("{shaken} was answered with 302 Found, to /login; put the address that it names into the url"),
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
                Some(200),
                format!(
                    "{shaken} was answered with 200 OK: hi; a web page or an API lives there; check the path in the url"
                ),
            ),
            (
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
                None,
                format!(
                    "{shaken} was answered with 101, but with a Sec-WebSocket-Accept that does not match our key; \
                     check the port in the url; is there a WebSocket server behind it, or a proxy in between?"
                ),
            ),
            ("\x15\x03\x01\0\x02\x02\x46", None, format!("{shaken} failed: it speaks TLS on this port; use wss://")),
        ] {
            let address = saying(true, answer.into()).await;
            let error = dial(&trunk(&format!("ws://{address}/")), None, 20_000).await.unwrap_err();
            assert_eq!(error.to_string(), format!("{address}: {words}"));
            let refused = if let Failure::Refused(refusal) = &error.failure { refusal.status } else { None };
            assert_eq!((refused, error.is_timeout()), (status, false));
        }
        let address = saying(true, vec![b'x'; 50_000]).await;
        let error = dial(&trunk(&format!("ws://{address}/")), None, 20_000).await.unwrap_err();
        assert_eq!(error.to_string(), format!("{address}: {shaken} failed: a head of more than 16384 bytes"));
    }

    #[tokio::test]
    async fn a_server_that_repeats_our_secrets_does_not_get_them_into_the_log() {
        let echo =
            "you sent GET /?key=from-the-query with Authorization: Bearer from-the-secret and X-Key: from-a-header";
        for said in [
            format!("HTTP/1.1 401 No\r\nContent-Length: {}\r\n\r\n{echo}", echo.len()),
            format!("HTTP/1.1 401 {echo}\r\nContent-Length: 0\r\n\r\n"),
        ] {
            let address = saying(true, said.into_bytes()).await;
            let mut trunk = trunk(&format!("ws://{address}/?key=from-the-query"));
            trunk.authorization = Some(Secret::new("Bearer from-the-secret"));
            trunk.headers = vec![("X-Key".to_owned(), HeaderValue::Plain("from-a-header".to_owned()))];
            let told = dial(&trunk, None, 20_000).await.unwrap_err().to_string();
            assert!(told.contains("Bearer *** and X-Key: ***"), "{told}");
            assert!(!told.contains("from-"), "{told}");
        }
        let echo = "user desk, password open sesame, key a+b/c=d";
        let said = format!("HTTP/1.1 401 No\r\nContent-Length: {}\r\n\r\n{echo}", echo.len());
        let address = saying(true, said.into_bytes()).await;
        let mut trunk = trunk(&format!("ws://{address}/?key=a%2Bb%2Fc%3Dd"));
        trunk.authorization = Some(Secret::new("Basic ZGVzazpvcGVuIHNlc2FtZQ=="));
        let told = dial(&trunk, None, 20_000).await.unwrap_err().to_string();
        assert!(told.contains("user desk, password ***, key ***"), "{told}");
    }

    #[tokio::test]
    async fn the_text_of_a_refusal_is_waited_for_but_not_long() {
        let (listener, address) = listen().await;
        tokio::spawn(async move {
            let mut stream = listener.accept().await.unwrap().0;
            upgrade::read_head(&mut stream, MAX_HEAD).await.unwrap();
            stream.write_all(b"HTTP/1.1 401 No\r\nContent-Length: 13\r\n\r\n").await.unwrap();
            tokio::task::yield_now().await;
            stream.write_all(b"token expired").await.unwrap();
            // More is never said.
            pending::<()>().await;
        });
        let error = dial(&trunk(&format!("ws://{address}/")), None, 20_000).await.unwrap_err();
        assert!(error.to_string().contains("401 No: token expired;"), "{error}");
        let address = saying(true, b"HTTP/1.1 401 No\r\nContent-Length: 13\r\n\r\n".to_vec()).await;
        let asked = Instant::now();
        let error = dial(&trunk(&format!("ws://{address}/")), None, 20_000).await.unwrap_err();
        assert!(error.to_string().contains("401 No; "), "{error}");
        assert!(asked.elapsed() < Duration::from_secs(3));
    }

    #[tokio::test]
    async fn a_head_that_comes_byte_by_byte_is_read() {
        let (listener, address) = listen().await;
        tokio::spawn(async move {
            let mut stream = listener.accept().await.unwrap().0;
            stream.set_nodelay(true).unwrap();
            let (head, _) = upgrade::read_head(&mut stream, MAX_HEAD).await.unwrap();
            for byte in upgrade::response(&parse_request(&head).unwrap(), None) {
                stream.write_all(&[byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            pending::<()>().await;
        });
        dial(&trunk(&format!("ws://{address}/")), None, 20_000).await.unwrap();
    }

    #[tokio::test]
    async fn who_never_answers_is_given_up_in_time_at_any_stage() {
        let dir = tempfile::tempdir().unwrap();
        let trusting = client(&ca(dir.path()).1);
        // The kernel takes the connections, nobody else does.
        let (_listener, address) = listen().await;
        for (scheme, stage) in [("ws", "WebSocket handshake"), ("wss", "TLS handshake")] {
            let mut trunk = trunk(&format!("{scheme}://{address}/"));
            trunk.connect_timeout = Duration::from_millis(300);
            let asked = Instant::now();
            let error = dial(&trunk, Some(&trusting), 20_000).await.unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "{address}: no {stage} within 300 ms; something takes connections there but does not answer; \
                     check the port"
                )
            );
            assert!(error.is_timeout());
            assert!(asked.elapsed() < Duration::from_secs(2));
        }
        // Something came, but never the end of it.
        let (listener, address) = listen().await;
        tokio::spawn(async move {
            let mut stream = listener.accept().await.unwrap().0;
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade:").await.unwrap();
            pending::<()>().await;
        });
        let mut trunk = trunk(&format!("ws://{address}/"));
        trunk.connect_timeout = Duration::from_millis(300);
        assert!(dial(&trunk, None, 20_000).await.unwrap_err().is_timeout());
    }

    #[tokio::test]
    async fn nobody_there_is_told_with_the_address() {
        let (listener, address) = listen().await;
        drop(listener);
        let error = dial(&trunk(&format!("ws://{address}/")), None, 20_000).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "{address}: no connection to {address}: connection refused; check the port, and the firewalls on the way"
            )
        );
        assert!(!error.is_timeout());
    }

    #[tokio::test]
    async fn a_name_that_does_not_exist_is_told() {
        // RFC 6761 6.4: never exists. Without any name server the lookup may take longer than it is given.
        let error = dial(&trunk("wss://no-such-host.invalid/"), None, 20_000).await.unwrap_err();
        let words = error.to_string();
        assert!(words.starts_with("no-such-host.invalid:443: "), "{words}");
        match error.failure {
            Failure::Dns(_) => assert!(
                words.ends_with("; check the url, and this machine's DNS with `getent hosts no-such-host.invalid`")
            ),
            Failure::Timeout(Stage::Dns, _) => assert!(words.ends_with("; check this machine's DNS"), "{words}"),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn every_address_of_a_name_is_tried_in_order_and_in_time() {
        let (_listener, good) = listen().await;
        let (gone, refusing) = listen().await;
        drop(gone);
        let dialing =
            |ms| Dialing { deadline: Instant::now() + Duration::from_millis(ms), limit: Duration::from_millis(ms) };
        let nowhere = SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 443));
        let (_, peer) = dialing(3000).connect(&[refusing, nowhere, good], 20_000).await.unwrap();
        assert_eq!(peer, good);
        assert!(matches!(dialing(100).connect(&[], 20_000).await, Err(Failure::Dns(_))));
        match dialing(3000).connect(&[refusing, refusing], 20_000).await {
            Err(Failure::Connect(tried)) => assert_eq!(tried.len(), 2),
            other => panic!("{other:?}"),
        }
        // A queue of one that is full: further SYNs get no answer.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let full = socket.listen(0).unwrap();
        let silent = full.local_addr().unwrap();
        let _queued = TcpStream::connect(silent).await.unwrap();
        let (_, peer) = dialing(400).connect(&[silent, good], 20_000).await.unwrap();
        assert_eq!(peer, good, "the first had its share only");
        match dialing(200).connect(&[silent, silent], 20_000).await {
            Err(Failure::Timeout(Stage::Connect, _)) => {}
            other => panic!("{other:?}"),
        }
        connect("127.0.0.1", good.port(), Duration::from_secs(3)).await.unwrap();
        let error = connect("127.0.0.1", silent.port(), Duration::from_millis(200)).await.unwrap_err();
        let words = "no connection within 200 ms; check the address, and the firewalls on the way";
        assert_eq!(error.to_string(), format!("{silent}: {words}"));
    }

    #[test]
    fn every_failure_is_told_with_the_agent_the_stage_and_the_next_step() {
        let ms = Duration::from_millis(5000);
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let os = io::Error::from_raw_os_error;
        let table: [(Failure, &str); 9] = [
            (
                Failure::Dns(io::Error::other("failed to lookup address information: Name or service not known")),
                "failed to lookup address information: Name or service not known; check the url, and this machine's DNS \
                 with `getent hosts agent.example.com`",
            ),
            (
                Failure::Connect(vec![
                    (at("[2001:db8::1]:443"), os(101)),
                    (at("192.0.2.1:443"), os(111)),
                    (at("192.0.2.2:443"), io::ErrorKind::TimedOut.into()),
                ]),
                "no connection to [2001:db8::1]:443: network is unreachable, 192.0.2.1:443: connection refused, \
                 192.0.2.2:443: no answer; check the port, and the firewalls on the way",
            ),
            (Failure::Tls("why".to_owned()), "the TLS handshake failed: why"),
            (
                Failure::Lost(Stage::Upgrade, os(104)),
                "the WebSocket handshake failed: connection reset by peer; check the port and the path in the url",
            ),
            (
                Failure::Lost(Stage::Upgrade, io::Error::new(io::ErrorKind::UnexpectedEof, "closed without a word")),
                "the WebSocket handshake failed: closed without a word; check the port and the path in the url",
            ),
            (Failure::Timeout(Stage::Dns, ms), "no name lookup within 5000 ms; check this machine's DNS"),
            (
                Failure::Timeout(Stage::Connect, ms),
                "no connection within 5000 ms; check the address, and the firewalls on the way",
            ),
            (
                Failure::Timeout(Stage::Tls, ms),
                "no TLS handshake within 5000 ms; something takes connections there but does not answer; check the port",
            ),
            (
                lost(io::Error::other(rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired))),
                "the TLS handshake failed: it wants a certificate from us, and Trunkline has none to show",
            ),
        ];
        for (failure, words) in table {
            let error = DialError { agent: "agent.example.com:443".to_owned(), failure };
            assert_eq!(error.to_string(), format!("agent.example.com:443: {words}"));
        }
    }

    /// What a client hears that says this, and why it was not let in.
    async fn turned_away(request: &[u8]) -> (String, String) {
        let (address, accepted) = welcoming(None).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap_or_default();
        drop(stream);
        (heard, accepted.await.unwrap().unwrap_err().to_string())
    }

    #[tokio::test]
    async fn a_client_that_wants_something_else_is_told_so() {
        let (heard, met) = turned_away(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(heard.starts_with("HTTP/1.1 426 Upgrade Required\r\n"), "{heard}");
        assert!(heard.ends_with("\r\n\r\nthis port speaks WebSocket only\n"), "{heard}");
        assert_eq!(met, "refused with 426: this port speaks WebSocket only");
        let body = [&b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\n"[..], &[b'x'; 9999]].concat();
        let (heard, met) = turned_away(&body).await;
        assert!(heard.starts_with("HTTP/1.1 405 "), "with its body unread the answer still arrives: {heard}");
        assert_eq!(met, "refused with 405: a WebSocket begins with GET");
        let (heard, met) = turned_away(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await;
        assert_eq!(heard, "");
        assert_eq!(met, "the WebSocket handshake failed: it speaks TLS on this port; use wss://");
    }

    #[tokio::test]
    async fn a_client_that_dawdles_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let acceptor = TlsAcceptor::from(tls::throwaway_ca(dir.path(), &[]).unwrap());
        for (tls, words) in
            [(None, "no WebSocket handshake within 10 s"), (Some(&acceptor), "no TLS handshake within 10 s")]
        {
            let (listener, address) = listen().await;
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(if tls.is_some() { b"\x16\x03\x01" } else { b"GET" }).await.unwrap();
            let stream = listener.accept().await.unwrap().0;
            let error = accept_within(Duration::from_millis(100), stream, tls).await.unwrap_err();
            assert_eq!(error.to_string(), words);
        }
    }

    #[tokio::test]
    async fn a_client_in_the_clear_on_a_tls_port_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let (address, accepted) = welcoming(Some(tls::throwaway_ca(dir.path(), &[]).unwrap().into())).await;
        let error = dial(&trunk(&format!("ws://{address}/")), None, 20_000).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{address}: the WebSocket handshake failed: it speaks TLS on this port; use wss://")
        );
        let met = accepted.await.unwrap().unwrap_err().to_string();
        assert_eq!(met, "the TLS handshake failed: what answers there does not speak TLS; check the port");
    }
}
