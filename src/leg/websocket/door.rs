//! The door of a `websocket` line, on the dial thread: from the listening socket up to the moment a call can begin.
//!
//! ```text
//!   accept -> TLS -> head -> admission -> 101 -> first messages -> Arrival -> the control thread
//!                              |                    |
//!                              +- 4xx, /health ...  +- close 1002, 1003, 1008 ...
//! ```
//!
//! Each step has a limit of time and of size. What is refused is told to the log with its reason, as long as its source
//! is not refused all the time, and never with what it had for a credential.

use core::{
    cell::{Cell, RefCell},
    fmt,
    net::IpAddr,
    time::Duration,
};
use std::{
    collections::HashMap,
    io::{self, Write},
    net::{SocketAddr, TcpListener as StdTcpListener, TcpStream as StdTcpStream},
    rc::Rc,
    sync::Arc,
};

use jiff::Timestamp;
use log::{error, warn};
use rustls::Connection;
use serde::Serialize;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::spawn_local,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    config::{Config, Listen, Url, WebsocketPath},
    control::{
        messages,
        metrics::{Counter, Metrics},
    },
    dialect::{self, Dialect, Direction, Facts, Role, Text},
    leg::websocket::{
        admission::{self, Admitted, Decision, Refusal},
        certificate::Certificate,
        dial::{RECEIVE_BUFFER, watch as watch_socket},
        dialer::send_buffer,
        jwt::Claims,
        link::{Link, LinkError, MAX_WIRE},
        sources::{Sources, Standing, network},
        tls,
        upgrade::{self, MAX_HEAD},
        welcome::{Expected, Start, Step, Welcome, close_frame},
        wire::Side,
    },
    media::{Now, Rate},
};

/// A call that can begin: its vendor is connected and has said which call it is.
pub struct Arrival {
    /// The line, by its place in the config.
    pub line: usize,
    /// The path of the line, by its place in the config; 0 where we dialled.
    pub path: usize,
    /// The socket; it never blocks and no runtime knows it.
    pub stream: StdTcpStream,
    /// Its TLS, and all that was said since the upgrade, to be read again.
    pub link: Link,
    /// Which of the two ends of the WebSocket we are: the server, unless we dialled.
    pub side: Side,
    /// The grammar, in the agent's role, as it is before the first message.
    pub dialect: Box<dyn Dialect>,
    /// Who and what the call is, as far as it was told. It has no `call_id` yet.
    pub facts: Facts,
    /// The rate of its audio.
    pub rate: Rate,
    /// Which way it flows.
    pub direction: Direction,
    /// Who connected. Behind a trusted proxy this is whom the proxy names, with port 0.
    pub peer: SocketAddr,
    /// The cipher suite; `None`: no TLS.
    pub cipher: Option<&'static str>,
}

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival").field("line", &self.line).field("dialect", &self.dialect.name()).finish()
    }
}

/// How the daemon is, as far as a door has to know. The control thread keeps it up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct House {
    /// There is a seat for one more call.
    pub accepting: bool,
    /// It goes down.
    pub draining: bool,
    /// Nothing is wrong.
    pub healthy: bool,
    /// Whether Redis takes what it is given; `None`: there is no such sink.
    pub pubsub: Option<bool>,
}

/// What a door is made of.
pub struct DoorSetup {
    /// The lines, as they are now.
    pub config: watch::Receiver<Arc<Config>>,
    /// Which of them this is.
    pub line: usize,
    /// Where it listens; from [`bind`].
    pub listener: StdTcpListener,
    /// Where calls go.
    pub arrivals: mpsc::Sender<Arrival>,
    /// How the daemon is.
    pub house: watch::Receiver<House>,
    /// Where calls that find no seat are counted.
    pub metrics: Arc<Metrics>,
    /// How long a vendor may take for TLS and its request, and again for its start. [`PATIENCE`], but in tests.
    pub patience: Duration,
    /// No more calls are wanted.
    pub closed: CancellationToken,
}

/// A listener for a door. Its buffers are sized before it listens, because what a handshake offers as a window follows
/// from them (tcp(7)).
///
/// # Errors
/// Those of the system, e.g. that the port is taken.
pub fn bind(address: SocketAddr) -> io::Result<StdTcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER as usize)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Lets vendors in, until the line is closed.
pub async fn serve(setup: DoorSetup) {
    let DoorSetup { config: mut configs, line, listener, arrivals, house, metrics, patience, closed } = setup;
    let config = Arc::clone(&configs.borrow_and_update());
    let name = config.lines[line].name.clone();
    let Some(listen) = listen(&config, line) else { return };
    let certificate = match listen.tls.as_ref().map(|pair| Certificate::load(&name, pair)).transpose() {
        Ok(certificate) => certificate.map(Rc::new),
        Err(error) => {
            // It was good a moment ago, when the config was read.
            error!(line = name, error:%; "a line takes no calls: its certificate cannot be used");
            return;
        }
    };
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            error!(line = name, error:%; "a line takes no calls");
            return;
        }
    };
    let sources = Rc::new(RefCell::new(Sources::new(listen.max_per_source)));
    let (arriving, full) = Default::default();
    let mut door =
        Rc::new(Door { config, line, name, certificate, sources, arriving, full, arrivals, house, metrics, patience });
    let mut told: Option<Now> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Ok(()) = configs.changed() => {
                // Whoever is coming in goes on through the door as it was.
                let config = Arc::clone(&configs.borrow_and_update());
                door = Rc::new(door.rehung(config));
                continue;
            }
            () = closed.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors one is that for a while.
                let now = clock::now();
                if told.is_none_or(|told| now.saturating_sub(told) >= TELL_EVERY) {
                    told = Some(now);
                    warn!(line = door.name, error:%; "a connection could not be accepted; see LimitNOFILE of the unit");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if door.sources.borrow().standing(peer.ip(), clock::now()) == Standing::Shunned {
            continue;
        }
        let Some(arriving) = door.make_room(peer.ip()) else {
            door.tell_full(TOO_MANY_ARRIVE);
            continue;
        };
        let door = Rc::clone(&door);
        spawn_local(async move {
            door.attend(stream, peer).await;
            drop(arriving);
        });
    }
}

#[derive(Clone)]
struct Door {
    config: Arc<Config>,
    line: usize,
    name: String,
    certificate: Option<Rc<Certificate>>,
    sources: Rc<RefCell<Sources>>,
    /// Connections whose call has not begun, by where they come from.
    arriving: Rc<RefCell<HashMap<IpAddr, usize>>>,
    /// Calls that found no seat since that was last told, and when it was.
    full: Rc<Cell<(u64, Option<Now>)>>,
    arrivals: mpsc::Sender<Arrival>,
    house: watch::Receiver<House>,
    metrics: Arc<Metrics>,
    patience: Duration,
}

/// The place of one connection among those whose call has not begun.
struct Arriving {
    of: Rc<RefCell<HashMap<IpAddr, usize>>>,
    source: IpAddr,
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let mut all = self.of.borrow_mut();
        if let Some(own) = all.get_mut(&self.source) {
            *own -= 1;
            if *own == 0 {
                all.remove(&self.source);
            }
        }
    }
}

/// A connection that was upgraded.
struct Upgraded {
    stream: TcpStream,
    link: Link,
    admitted: Box<Admitted>,
    peer: SocketAddr,
}

/// Why a connection came to nothing.
enum Lost {
    /// It was given an answer, and that was all.
    Answered,
    /// It was opened and closed, as those do that only look whether somebody is there.
    Silent,
    /// It broke.
    Broken(String),
    /// It took too long.
    Late(&'static str),
}

impl Door {
    /// The same door by another config. What cannot be used of it leaves the door as it is.
    fn rehung(&self, config: Arc<Config>) -> Self {
        // It is closed soon, or has become one of the other sort, which is another door.
        let Some(listen) = listen(&config, self.line) else { return self.clone() };
        let certificate = match (&listen.tls, &self.listen().tls) {
            (Some(pair), before) if before.as_ref() != Some(pair) => match Certificate::load(&self.name, pair) {
                Ok(certificate) => Some(Rc::new(certificate)),
                Err(error) => {
                    warn!(
                        message_id = messages::CERTIFICATE_KEPT, line = self.name, error:%;
                        "a new certificate cannot be used: the line goes on as it was"
                    );
                    return self.clone();
                }
            },
            (Some(_), _) => self.certificate.clone(),
            (None, _) => None,
        };
        let is_as_patient = listen.max_per_source == self.listen().max_per_source;
        let sources = if is_as_patient {
            Rc::clone(&self.sources)
        } else {
            Rc::new(RefCell::new(Sources::new(listen.max_per_source)))
        };
        Self { config, certificate, sources, ..self.clone() }
    }

    fn listen(&self) -> &Listen {
        listen(&self.config, self.line).expect("a door is opened for lines that listen only")
    }

    /// A place for one more connection. Half of them at most are for one source, so that somebody who connects and says
    /// nothing keeps nobody else out; a proxy speaks for many.
    fn make_room(&self, peer: IpAddr) -> Option<Arriving> {
        let places = self.config.media.max_calls + MOST_ARRIVING;
        let is_proxy = self.listen().trusted_proxies.iter().any(|range| range.contains(peer));
        let source = network(peer);
        let mut all = self.arriving.borrow_mut();
        let taken: usize = all.values().sum();
        let own = all.get(&source).copied().unwrap_or(0);
        if taken >= places || (own >= places / 2 && !is_proxy) {
            return None;
        }
        all.insert(source, own + 1);
        Some(Arriving { of: Rc::clone(&self.arriving), source })
    }

    /// One connection, from TLS to its call.
    async fn attend(&self, stream: TcpStream, peer: SocketAddr) {
        let deadline = Instant::now() + self.patience;
        match self.let_in(stream, peer, deadline).await {
            Ok(upgraded) => self.welcome(upgraded).await,
            Err(Lost::Answered | Lost::Silent) => {}
            Err(Lost::Broken(reason)) => self.tell(peer.ip(), peer, "", 0, &reason),
            Err(Lost::Late(reason)) => self.tell(peer.ip(), peer, "", 0, reason),
        }
    }

    /// TLS, the request and its answer.
    async fn let_in(&self, stream: TcpStream, peer: SocketAddr, deadline: Instant) -> Result<Upgraded, Lost> {
        let _ = stream.set_nodelay(true);
        let _ = watch_socket(&SockRef::from(&stream));
        let Some(certificate) = &self.certificate else {
            let mut stream = stream;
            let (admitted, peer, ahead) = self.answer(&mut stream, peer, deadline).await?;
            return Ok(Upgraded { stream, link: Link::new(None, ahead), admitted, peer });
        };
        let acceptor = certificate.acceptor().await;
        let mut stream = timeout_at(deadline, acceptor.accept(stream))
            .await
            .map_err(|_| Lost::Late("no TLS handshake came about in time"))?
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Lost::Silent,
                _ => Lost::Broken(format!("the TLS handshake failed: {}", tls::explain(&error))),
            })?;
        let (admitted, peer, ahead) = self.answer(&mut stream, peer, deadline).await?;
        let (stream, connection) = stream.into_inner();
        let link = Link::new(Some(Box::new(Connection::Server(connection))), ahead);
        Ok(Upgraded { stream, link, admitted, peer })
    }

    /// Reads a request and answers it. Gives what was read past it, where it becomes a call.
    async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        peer: SocketAddr,
        deadline: Instant,
    ) -> Result<(Box<Admitted>, SocketAddr, Vec<u8>), Lost> {
        let broken = |error: io::Error| Lost::Broken(error.to_string());
        let late = |_| Lost::Late("no request came in time");
        let (head, ahead) = match timeout_at(deadline, upgrade::read_head(stream, MAX_HEAD)).await.map_err(late)? {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let words = error.to_string();
                say(stream, &upgrade::refuse(431, "the head is too long, or no HTTP")).await;
                return Err(Lost::Broken(words));
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Lost::Silent),
            Err(error) => return Err(broken(error)),
        };
        let asked = match upgrade::parse_asked(&head) {
            Ok(asked) => asked,
            Err((status, words)) => {
                say(stream, &upgrade::refuse(status, words)).await;
                self.tell(peer.ip(), peer, "", status, words);
                return Err(Lost::Answered);
            }
        };
        let source = admission::source_of(peer.ip(), &asked.request, &self.listen().trusted_proxies);
        let peer = if source == peer.ip() { peer } else { SocketAddr::new(source, 0) };
        let (now, now_s) = (clock::now(), clock::epoch_ms() / 1000);
        let decision = admission::decide(self.listen(), &self.sources.borrow(), &asked, source, now, now_s);
        match decision {
            Decision::Upgrade(admitted) => {
                if !self.house.borrow().accepting {
                    // Its own fault it is not: nothing is counted against its source.
                    self.tell_full(NO_SEAT);
                    say(stream, &upgrade::refuse(503, NO_SEAT)).await;
                    return Err(Lost::Answered);
                }
                stream
                    .write_all(&upgrade::response(&asked.request, admitted.subprotocol.as_deref()))
                    .await
                    .map_err(broken)?;
                stream.flush().await.map_err(broken)?;
                Ok((admitted, peer, ahead))
            }
            Decision::Refuse(Refusal { status, said, reason }) => {
                self.tell(source, peer, &asked.request.path, status, &reason);
                say(stream, &upgrade::refuse(status, said)).await;
                Err(Lost::Answered)
            }
            Decision::Health => {
                let body = health(*self.house.borrow(), self.listen(), clock::epoch_ms());
                let mut answer = upgrade::answer(200, "application/json", &body);
                if asked.method == "HEAD" {
                    // RFC 9110 9.3.2: the head alone.
                    answer.truncate(answer.len() - body.len() - 1);
                }
                say(stream, &answer).await;
                Err(Lost::Answered)
            }
            Decision::Endpoint => {
                let url = self.listen().endpoint.as_ref().map(Url::reveal).unwrap_or_default();
                let body = serde_json::json!({ "url": url }).to_string();
                say(stream, &upgrade::answer(200, "application/json", &body)).await;
                Err(Lost::Answered)
            }
        }
    }

    /// Hears which call it is, and hands it over.
    async fn welcome(&self, upgraded: Upgraded) {
        let Upgraded { stream, mut link, admitted, peer } = upgraded;
        let Admitted { path: index, rate, custom, claims, tie_break, dialect, .. } = *admitted;
        let path = &self.listen().paths[index];
        let expected = Expected {
            side: Side::Server,
            dialect: path.dialect.or(dialect),
            tie_break,
            rate: rate.or(path.sample_rate),
            options: &path.options,
            needs_start: claims.is_some(),
        };
        let mut welcome = Welcome::new(&expected);
        let heard = timeout(self.patience, hear_start(&stream, &mut link, &mut welcome)).await;
        let (code, words) = match heard {
            Ok(Ok(Step::Begun(start))) => match checked(*start, custom, claims.as_ref()) {
                Ok(start) => return self.hand_over(stream, link, index, path, peer, start).await,
                Err(words) => (POLICY, words),
            },
            // What says so is in `welcome` already.
            Ok(Ok(Step::Over(end))) => {
                self.tell(peer.ip(), peer, &path.path, 101, &end.to_string());
                return farewell(stream, link, welcome.out()).await;
            }
            Ok(Ok(Step::Wait)) => return,
            Ok(Err(error)) => return self.tell(peer.ip(), peer, &path.path, 101, &error.to_string()),
            Err(_) => (PROTOCOL, "no start came in time"),
        };
        self.tell(peer.ip(), peer, &path.path, 101, words);
        welcome.close(code, words);
        // After a start there is nothing of its own left to say.
        let frame =
            if welcome.out().is_empty() { close_frame(Side::Server, code, words) } else { welcome.out().to_vec() };
        farewell(stream, link, &frame).await;
    }

    async fn hand_over(
        &self,
        stream: TcpStream,
        link: Link,
        index: usize,
        path: &WebsocketPath,
        peer: SocketAddr,
        start: Start,
    ) {
        let place = Place { line: self.line, path: index, side: Side::Server, peer };
        let made = arrival(place, stream, link, start, &path.options, path.direction);
        if let Err(error) = hand_over(&self.arrivals, made).await {
            warn!(line = self.name, peer:%, error:%; "a call was lost before it began");
        }
    }

    fn tell_full(&self, why: &str) {
        self.metrics.add(Counter::CallsRefused, 1);
        let (mut refused, told) = self.full.get();
        let now = clock::now();
        refused += 1;
        if told.is_some_and(|told| now.saturating_sub(told) < TELL_EVERY) {
            return self.full.set((refused, told));
        }
        self.full.set((0, Some(now)));
        let (max_calls, line) = (self.config.media.max_calls, &self.name);
        warn!(message_id = messages::CALLS_REFUSED, line, refused, max_calls, why; "calls are refused");
    }

    /// Counts a refusal and tells it, if it is worth that. `status` is 0 where there was no answer, and 101 where the
    /// refusal came after it.
    fn tell(&self, source: IpAddr, peer: SocketAddr, path: &str, status: u16, reason: &str) {
        // What one of a proxy's clients did is not the proxy's fault, and who it was is not known before its request.
        let is_proxy = self.listen().trusted_proxies.iter().any(|range| range.contains(source));
        let is_news = is_proxy || self.sources.borrow_mut().refused(source, clock::now());
        if is_news {
            let path: String = path.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect();
            warn!(
                message_id = messages::VENDOR_REFUSED, line = self.name, peer:%, path, status, reason;
                "a connection did not become a call"
            );
        }
    }
}

fn listen(config: &Config, line: usize) -> Option<&Listen> {
    config.lines.get(line)?.kind.websocket()?.listen()
}

/// Says it and closes. Closed with something unread, the socket would take our answer back from the client.
async fn say<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, answer: &[u8]) {
    let said = async {
        stream.write_all(answer).await?;
        stream.shutdown().await?;
        let mut rest = [0; 512];
        let mut left = MAX_HEAD;
        while left > 0 {
            let n = stream.read(&mut rest).await?;
            if n == 0 {
                break;
            }
            left = left.saturating_sub(n);
        }
        Ok::<_, io::Error>(())
    };
    // However it ends, the connection is closed now.
    let _ = timeout(GOODBYE_LIMIT, said).await;
}

/// What RTAA's own service says of itself. Always with status 200: whoever watches reads the text.
fn health(house: House, listen: &Listen, epoch_ms: u64) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Health {
        status: &'static str,
        service: &'static str,
        pubsub: bool,
        timestamp: String,
        exotel_bridge: &'static str,
    }
    let takes_exotel = listen.paths.iter().any(|path| path.dialect.is_none_or(|name| name == "exotel"));
    let at = i64::try_from(epoch_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
    let health = Health {
        status: if house.healthy && house.accepting && house.pubsub != Some(false) { "healthy" } else { "degraded" },
        service: "ingest",
        pubsub: house.pubsub == Some(true),
        timestamp: format!("{at:.3}"),
        exotel_bridge: if takes_exotel { "enabled" } else { "disabled" },
    };
    serde_json::to_string(&health).expect("texts and a switch are JSON")
}

/// Adds to what the start told what the query and the token did. A token for another call is none for this one.
fn checked(mut start: Start, custom: dialect::Parameters, claims: Option<&Claims>) -> Result<Start, &'static str> {
    let facts = &mut start.facts;
    for (name, value) in custom.iter() {
        // A PBX names its numbers in the query, where its start has no place for them.
        match name {
            "from" if facts.from.is_empty() => drop(claim(&mut facts.from, value)),
            "to" if facts.to.is_empty() => drop(claim(&mut facts.to, value)),
            // What the start says by the same name counts; and so it does where there is no room for both.
            _ => drop(facts.custom.add(name, value)),
        }
    }
    let Some(Claims { tenant_id, interaction_id }) = claims else { return Ok(start) };
    if !tenant_id.is_empty() && !claim(&mut facts.account, tenant_id) {
        return Err("the token is for another tenant");
    }
    // RTAA names a call without a call_sid by its stream, Ozonetel by its ucid.
    let id = match (facts.call_sid.is_empty(), facts.stream_sid.is_empty(), facts.ucid.is_empty()) {
        (true, false, _) => &mut facts.stream_sid,
        (true, true, false) => &mut facts.ucid,
        (false, ..) | (true, true, true) => &mut facts.call_sid,
    };
    if !interaction_id.is_empty() && !claim(id, interaction_id) {
        return Err("the token is for another call");
    }
    Ok(start)
}

/// Whether a fact is what the token claims. One that the start left open is what it claims.
fn claim(fact: &mut Text, claimed: &str) -> bool {
    if fact.is_empty() {
        for c in claimed.chars().filter(|c| !c.is_control()) {
            if fact.push(c).is_err() {
                break;
            }
        }
        return true;
    }
    fact.as_str() == claimed
}

/// Which connection it is.
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) path: usize,
    pub(super) side: Side,
    pub(super) peer: SocketAddr,
}

/// A call, ready for the control thread.
pub(super) fn arrival(
    place: Place,
    stream: TcpStream,
    mut link: Link,
    start: Start,
    options: &dialect::Options,
    direction: Direction,
) -> io::Result<Arrival> {
    let Place { line, path, side, peer } = place;
    let Start { raw, dialect: name, facts, rate, direction: own } = start;
    let dialect = dialect::open(name, Role::Agent, Some(rate), rate, options)
        .ok_or_else(|| io::Error::other("a dialect that was known is not any more"))?;
    // A wish: what hides in the kernel a clear of ours cannot reach.
    let _ = SockRef::from(&stream).set_send_buffer_size(send_buffer(&*dialect));
    let stream = stream.into_std()?;
    link.put_back(raw);
    let cipher = link.cipher();
    let direction = if own == Direction::Uplink { own } else { direction };
    Ok(Arrival { line, path, stream, link, side, dialect, facts, rate, direction, peer, cipher })
}

/// Gives it to the control thread, or says goodbye to it.
pub(super) async fn hand_over(arrivals: &mpsc::Sender<Arrival>, made: io::Result<Arrival>) -> io::Result<()> {
    let Err(refused) = arrivals.try_send(made?) else { return Ok(()) };
    turn_away(refused.into_inner(), TRY_LATER, NO_SEAT).await
}

/// Closes a call that is not taken. With [`TRY_LATER`] its vendor may try elsewhere or later, with [`POLICY`] it need not.
///
/// # Errors
/// Those of the socket.
pub async fn turn_away(arrival: Arrival, code: u16, reason: &str) -> io::Result<()> {
    let Arrival { stream, link, side, .. } = arrival;
    farewell(TcpStream::from_std(stream)?, link, &close_frame(side, code, reason)).await;
    Ok(())
}

/// Says a last thing and waits a moment for the vendor to close, so that no reset overtakes it.
pub(super) async fn farewell(mut stream: TcpStream, mut link: Link, frame: &[u8]) {
    let said = async {
        write(&stream, &mut link, frame).await?;
        link.close();
        flush(&stream, &mut link).await?;
        stream.shutdown().await?;
        let mut rest = [0; 4096];
        let mut left = MOST_UNREAD;
        while left > 0 {
            let n = stream.read(&mut rest).await?;
            if n == 0 {
                break;
            }
            left = left.saturating_sub(n);
        }
        Ok::<_, io::Error>(())
    };
    // However it ends, the connection is closed now.
    let _ = timeout(GOODBYE_LIMIT, said).await;
}

/// Reads until the call can begin or is over.
pub(super) async fn hear_start(stream: &TcpStream, link: &mut Link, welcome: &mut Welcome) -> io::Result<Step> {
    loop {
        match welcome.handle() {
            Step::Wait => {}
            step => return Ok(step),
        }
        say_what_is_due(stream, link, welcome).await?;
        hear_more(stream, link, welcome).await?;
    }
}

/// Sends what it has to say.
pub(super) async fn say_what_is_due(stream: &TcpStream, link: &mut Link, welcome: &mut Welcome) -> io::Result<()> {
    let n = welcome.out().len();
    if n > 0 {
        write(stream, link, welcome.out()).await?;
        welcome.written(n);
    }
    flush(stream, link).await
}

/// Reads something. Dropped before it is done, nothing is lost.
pub(super) async fn hear_more(stream: &TcpStream, link: &mut Link, welcome: &mut Welcome) -> io::Result<()> {
    let mut wire = [0; MAX_WIRE / 4];
    loop {
        match link.plaintext(welcome.spare()) {
            Ok(0) => {}
            Ok(n) => {
                welcome.filled(n);
                return Ok(());
            }
            Err(LinkError::Closed) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, CLOSED)),
            Err(error @ LinkError::Tls(_)) => {
                let _ = flush(stream, link).await;
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
        flush(stream, link).await?;
        stream.readable().await?;
        let into = if link.is_plain() { welcome.spare() } else { &mut wire[..] };
        match stream.try_read(into) {
            Ok(0) if link.is_plain() => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, CLOSED)),
            Ok(n) if link.is_plain() => {
                welcome.filled(n);
                return Ok(());
            }
            Ok(n) => {
                let opened =
                    link.open(&wire[..n]).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                debug_assert_eq!(opened, n, "the plaintext was fetched before");
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn write(stream: &TcpStream, link: &mut Link, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let n = if link.is_plain() {
            stream.writable().await?;
            match stream.try_write(rest) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                written => written?,
            }
        } else {
            flush(stream, link).await?;
            link.seal(rest)
        };
        rest = &rest[n..];
    }
    flush(stream, link).await
}

async fn flush(stream: &TcpStream, link: &mut Link) -> io::Result<()> {
    while !link.flush(&mut Writes(stream))? {
        stream.writable().await?;
    }
    Ok(())
}

/// A socket that never blocks, for who writes to it.
struct Writes<'s>(&'s TcpStream);

impl Write for Writes<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// For TLS, the request and its answer, and again for the start (Exotel gives a handshake as long).
pub const PATIENCE: Duration = Duration::from_secs(10);
/// That calls find no seat is told once in so long.
const TELL_EVERY: Now = Now::from_secs(60);
const GOODBYE_LIMIT: Duration = Duration::from_secs(2);
/// Connections that may be about to become calls, beside as many as there are seats.
const MOST_ARRIVING: usize = 64;
/// Connections that the kernel holds while we are busy.
const BACKLOG: i32 = 256;
/// Audio may be on its way while a goodbye is.
const MOST_UNREAD: usize = 1 << 20;
/// Characters of a path that the log repeats.
const MAX_SHOWN: usize = 100;

/// RFC 6455 7.4.1: it broke the protocol.
const PROTOCOL: u16 = 1002;
/// The same: it may not have this.
pub const POLICY: u16 = 1008;
/// RFC 6455 11.7: not now, not here.
pub const TRY_LATER: u16 = 1013;

const NO_SEAT: &str = "no seat for one more call";
const TOO_MANY_ARRIVE: &str = "too many connections have not said which call they are";
const CLOSED: &str = "it closed before its call began";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        dialect::Options,
        leg::websocket::wire::{Op, Wire},
    };

    /// What the door makes of this first message.
    fn started(dialect: &'static str, message: &[u8]) -> Start {
        let options = Options::default();
        let (side, rate, dialect) = (Side::Server, None, Some(dialect));
        let mut welcome =
            Welcome::new(&Expected { side, dialect, tie_break: "exotel", rate, options: &options, needs_start: true });
        let mut vendor = Wire::new(Side::Client, 1 << 16, |mask| mask.fill(1));
        vendor.push(Op::Text, message).unwrap();
        let n = vendor.out().len();
        welcome.spare()[..n].copy_from_slice(vendor.out());
        welcome.filled(n);
        let Step::Begun(start) = welcome.handle() else { panic!("it did not begin") };
        *start
    }

    // Exotel, "Working with the Stream applet".
    const EXOTEL: &[u8] = br#"{"event":"start","sequence_number":"1","stream_sid":"s1","start":{"stream_sid":"s1","call_sid":"c1","account_sid":"a1","from":"0990","to":"0800","custom_parameters":{"lane":"sales","desk":"7"},"media_format":{"encoding":"base64","sample_rate":"8000","bit_rate":"128kbps"}}}"#;
    const OZONETEL: &[u8] = br#"{"event":"start","type":"text","ucid":"1767225600","did":"08040001234"}"#;

    #[test]
    fn parameters_of_the_query_and_of_the_start_are_facts_together_and_no_more_than_three() {
        let mut custom = dialect::Parameters::default();
        assert!(custom.add("lane", "night") && custom.add("shift", "2") && custom.add("fourth", "x"));
        let start = checked(started("exotel", EXOTEL), custom, None).unwrap();
        assert!(start.facts.custom.iter().eq([("lane", "sales"), ("desk", "7"), ("shift", "2")]));
    }

    #[test]
    fn a_token_is_compared_with_whatever_id_the_dialect_has() {
        let claims = |id: &str| Claims { tenant_id: String::new(), interaction_id: id.to_owned() };
        for (dialect, message, id) in [("exotel", EXOTEL, "c1"), ("ozonetel", OZONETEL, "1767225600")] {
            let check = |id| checked(started(dialect, message), dialect::Parameters::default(), Some(&claims(id)));
            assert!(check(id).is_ok(), "{dialect}");
            assert_eq!(check("another").err(), Some("the token is for another call"), "{dialect}");
        }
    }
}
