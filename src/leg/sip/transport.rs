//! The sockets of a SIP line: UDP, TCP and TLS, on the control thread.
//!
//! ```text
//!   UDP socket    --+                             +--> UDP socket, at once or never
//!   TCP listener  --+--> Received, bounded        |
//!   TLS listener  --+         |                send, connect
//!   connections   --+      the line  ------------>+--> connections, each with a bounded queue
//! ```
//!
//! Nothing that is sent waits. A datagram that the kernel does not take is weather, as one that is lost on the way is: the
//! transactions repeat it. A connection whose peer does not read is closed. What comes in waits in one bounded channel;
//! when that is full, datagrams are dropped and counted, and streams are read later.

use core::{
    cell::{Cell, RefCell},
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};
use std::{collections::HashMap, io, rc::Rc, sync::Arc};

use log::warn;
use rustls::{ClientConfig, pki_types::ServerName};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    sync::{mpsc, oneshot},
    task::{AbortHandle, spawn_local},
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{
    clock,
    leg::{
        sip::{
            MAX_DATAGRAM, Malformed, Message,
            connection::{self, Close, NotQueued, Patience, Queue, Queued, Served},
            flow::{Flow, Transport},
            oversize::{self, Datagrams},
            parse,
        },
        websocket::{certificate::Certificate, tls},
    },
    told::Told,
};

/// What the sockets of a line are made of.
pub struct Setup {
    /// The line's name, for the log.
    pub line: String,
    /// Where datagrams come in; `None`: nowhere.
    pub udp: Option<SocketAddr>,
    /// Where connections come in.
    pub tcp: Option<SocketAddr>,
    /// Where connections in TLS come in, and what is shown there.
    pub tls: Option<(SocketAddr, Rc<Certificate>)>,
    /// Whom we trust where we make connections in TLS: [`tls::client_config`]. `None`: none are made.
    pub trust: Option<Arc<ClientConfig>>,
    /// Whether anything at all is taken from there: asked before a byte of it is read.
    pub is_known: Rc<dyn Fn(IpAddr) -> bool>,
    /// How many connections there may be.
    pub limits: Limits,
    /// How long they may take.
    pub patience: Patience,
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Those that peers made, and once more as many that we made.
    pub connections: usize,
    /// Those that peers made from one address.
    pub per_source: usize,
    /// Messages that wait for the line.
    pub received: usize,
}

impl Default for Limits {
    /// As in service: at most 4 MiB wait for the line, and a PBX has one connection or two.
    fn default() -> Self {
        Self { connections: 128, per_source: 16, received: 256 }
    }
}

/// What came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A message, or one that cannot be read, which may have an answer.
    Message {
        /// Where it came from, and where its answer goes.
        flow: Flow,
        /// What came.
        message: Result<Message, Malformed>,
    },
    /// A connection that the line knows of is over. Nothing that is sent on this flow arrives any more.
    Closed {
        /// Which.
        flow: Flow,
        /// Why.
        why: Close,
    },
}

/// Why something was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// The connection is over.
    Gone,
    /// The peer did not take what it was sent before; its connection is closed now.
    Lagging,
    /// There are as many connections as there may be.
    Full,
    /// The line has no such transport.
    NoTransport,
    /// The kernel knows no way there, or may not go it.
    Kernel(io::ErrorKind),
}

impl fmt::Display for Unsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the connection is over"),
            Self::Lagging => f.write_str("the peer does not take what it is sent"),
            Self::Full => f.write_str("there are as many connections as there may be"),
            Self::NoTransport => f.write_str("the line has no such transport"),
            Self::Kernel(kind) => write!(f, "it cannot be sent: {kind}"),
        }
    }
}

/// What the sockets have counted since they were opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Datagrams that came in, those that cannot be read among them.
    pub received: u64,
    /// Messages that were sent, or wait in a queue to be.
    pub sent: u64,
    /// Datagrams that the kernel did not take.
    pub unsent: u64,
    /// Datagrams that came while the line was busy.
    pub flooded: u64,
    /// Datagrams and connections from sources that are not known.
    pub strangers: u64,
    /// Connections that were one too many.
    pub refused: u64,
    /// Requests that went by TCP because they are long.
    pub oversized: u64,
}

/// The sockets of a line. They are closed when this is dropped.
pub struct Sockets {
    inner: Rc<Inner>,
    tasks: Vec<AbortHandle>,
    addresses: Addresses,
}

/// Where the sockets are bound. [`Flow::local`] counts them in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// For datagrams.
    pub udp: Option<SocketAddr>,
    /// For connections.
    pub tcp: Option<SocketAddr>,
    /// For connections in TLS.
    pub tls: Option<SocketAddr>,
}

struct Inner {
    line: String,
    udp: Option<UdpSocket>,
    /// Connections that we make come from here, so that a PBX knows us by our address.
    source: Option<IpAddr>,
    trust: RefCell<Option<Arc<ClientConfig>>>,
    is_known: Rc<dyn Fn(IpAddr) -> bool>,
    limits: Limits,
    patience: Patience,
    received: mpsc::Sender<Received>,
    connections: RefCell<HashMap<u32, Connection>>,
    last_connection: Cell<u32>,
    datagrams: RefCell<Datagrams>,
    counts: Cell<Counts>,
    told: RefCell<Tolds>,
}

/// What may go on all day.
#[derive(Default)]
struct Tolds {
    refused: Told,
    slow: Told,
    flooded: Told,
    strangers: Told,
}

struct Connection {
    flow: Flow,
    queue: Queue,
    /// The name of the peer that we wanted, where we made it.
    wanted: Option<String>,
    stop: oneshot::Sender<Close>,
}

/// The other ends of what a [`Connection`] has.
struct Ends {
    flow: Flow,
    queue: Queue,
    queued: Queued,
    stop: oneshot::Receiver<Close>,
}

impl Sockets {
    /// Trusts these from the next connection in TLS on that we make.
    pub fn set_trust(&self, trust: &ClientConfig) {
        *self.inner.trust.borrow_mut() = Some(for_sip(trust));
    }

    /// Opens them. Whoever calls this runs in a [`tokio::task::LocalSet`], as all that they do does.
    ///
    /// # Errors
    /// Those of the system, with the socket that they are about, e.g. that the port is taken.
    pub fn open(setup: Setup) -> io::Result<(Self, mpsc::Receiver<Received>)> {
        let Setup { line, udp, tcp, tls, trust, is_known, limits, patience } = setup;
        let udp = udp.map(|address| bind_udp(address).map_err(|error| named("UDP", address, &error))).transpose()?;
        let listener = |what, address| bind_tcp(address).map_err(|error| named(what, address, &error));
        let tcp = tcp.map(|address| listener("TCP", address)).transpose()?;
        let tls = tls.map(|(address, pair)| listener("TLS", address).map(|listener| (listener, pair))).transpose()?;
        let address_of = |listener: &TcpListener| listener.local_addr();
        let addresses = Addresses {
            udp: udp.as_ref().map(UdpSocket::local_addr).transpose()?,
            tcp: tcp.as_ref().map(address_of).transpose()?,
            tls: tls.as_ref().map(|(listener, _)| address_of(listener)).transpose()?,
        };
        let bound = addresses.udp.or(addresses.tcp).or(addresses.tls);
        let source = bound.map(|address| address.ip()).filter(|address| !address.is_unspecified());
        let (received, line_end) = mpsc::channel(limits.received);
        let inner = Rc::new(Inner {
            line,
            udp,
            source,
            trust: RefCell::new(trust.map(|trust| for_sip(&trust))),
            is_known,
            limits,
            patience,
            received,
            connections: RefCell::default(),
            last_connection: Cell::default(),
            datagrams: RefCell::default(),
            counts: Cell::default(),
            told: RefCell::default(),
        });
        let mut tasks = Vec::new();
        if inner.udp.is_some() {
            tasks.push(spawn_local(read_datagrams(Rc::clone(&inner))).abort_handle());
        }
        if let Some(listener) = tcp {
            tasks.push(spawn_local(accept(Rc::clone(&inner), listener, None)).abort_handle());
        }
        if let Some((listener, pair)) = tls {
            tasks.push(spawn_local(accept(Rc::clone(&inner), listener, Some(pair))).abort_handle());
        }
        Ok((Self { inner, tasks, addresses }, line_end))
    }

    /// Where they are bound.
    #[must_use]
    pub const fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// What they have counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.inner.counts.get()
    }

    /// The flow to a peer. For a stream this is the connection that we made to it, if there is one, else a new one, which
    /// comes about while what is sent on it waits; [`Received::Closed`] tells if it does not. `name` is the host as the
    /// config or the URI has it: that of the certificate, where there is one.
    ///
    /// # Errors
    /// [`Unsent`] when there can be no such flow.
    pub fn connect(&self, transport: Transport, remote: SocketAddr, name: &str) -> Result<Flow, Unsent> {
        let remote = canonical(remote);
        match transport {
            Transport::Udp if self.inner.udp.is_some() => Ok(Flow::udp(local(Transport::Udp), remote)),
            Transport::Udp => Err(Unsent::NoTransport),
            Transport::Tls if self.inner.trust.borrow().is_none() => Err(Unsent::NoTransport),
            Transport::Tcp | Transport::Tls => self.inner.connection_to(transport, remote, name),
        }
    }

    /// Sends a message, or drops it. Two line breaks are a message, too: they keep the NAT before us open.
    ///
    /// # Errors
    /// [`Unsent`] when the flow has failed. What the kernel has no room for is no error, see [`Counts::unsent`].
    pub fn send(&self, flow: Flow, bytes: &Arc<[u8]>) -> Result<(), Unsent> {
        match flow.transport {
            Transport::Udp => {
                if let Some(sent) = self.inner.send_oversized(flow.remote, bytes) {
                    return sent;
                }
                self.inner.send_datagram(flow.remote, bytes)
            }
            Transport::Tcp | Transport::Tls => self.inner.enqueue(flow, Arc::clone(bytes)),
        }
    }

    /// Closes a connection, without what waits in its queue.
    pub fn close(&self, flow: Flow) {
        self.inner.stop(flow.connection, Close::Ours);
    }

    /// How many connections there are.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.inner.connections.borrow().len()
    }
}

/// What speaks HTTP is offered by those that the trunks have.
fn for_sip(trust: &ClientConfig) -> Arc<ClientConfig> {
    let mut trust = trust.clone();
    trust.alpn_protocols.clear();
    Arc::new(trust)
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        // Each ends when nobody can stop it any more.
        self.inner.connections.borrow_mut().clear();
    }
}

impl fmt::Debug for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sockets").field("addresses", &self.addresses).field("counts", &self.counts()).finish()
    }
}

/// The address by which a peer reaches us, as the kernel's routes have it now. Sends nothing.
///
/// # Errors
/// Those of the system, e.g. that there is no way there.
pub fn address_towards(remote: SocketAddr) -> io::Result<IpAddr> {
    let any =
        if remote.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { core::net::Ipv6Addr::UNSPECIFIED.into() };
    let socket = std::net::UdpSocket::bind((any, 0))?;
    socket.connect(remote)?;
    Ok(socket.local_addr()?.ip().to_canonical())
}

impl Inner {
    fn count(&self, one_more: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        one_more(&mut counts);
        self.counts.set(counts);
    }

    fn on_stranger(&self, remote: SocketAddr) {
        self.count(|counts| counts.strangers += 1);
        if let Some(times) = self.told.borrow_mut().strangers.count(clock::now()) {
            warn!(line = self.line, peer:% = remote, times; "SIP from outside `allow` is not answered");
        }
    }

    fn send_datagram(&self, remote: SocketAddr, bytes: &[u8]) -> Result<(), Unsent> {
        let Some(socket) = &self.udp else { return Err(Unsent::NoTransport) };
        let is_v6 = socket.local_addr().is_ok_and(|local| local.is_ipv6());
        match socket.try_send_to(bytes, if is_v6 { mapped(remote) } else { remote }) {
            Ok(_) => {
                self.count(|counts| counts.sent += 1);
                Ok(())
            }
            Err(error) => {
                self.count(|counts| counts.unsent += 1);
                match error.kind() {
                    // No room, or no memory.
                    io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => Ok(()),
                    // An ICMP message about an earlier datagram, perhaps another's (udp(7)).
                    io::ErrorKind::ConnectionRefused => Ok(()),
                    kind => Err(Unsent::Kernel(kind)),
                }
            }
        }
    }

    /// Some: it is a request too long for a datagram, and TCP has it.
    fn send_oversized(self: &Rc<Self>, remote: SocketAddr, bytes: &[u8]) -> Option<Result<(), Unsent>> {
        if self.datagrams.borrow().contains(remote) {
            return None;
        }
        let bytes = oversize::by_tcp(bytes)?;
        let flow = self.connection_to(Transport::Tcp, remote, AS_DATAGRAMS).ok()?;
        self.enqueue(flow, bytes.into()).ok()?;
        self.count(|counts| counts.oversized += 1);
        Some(Ok(()))
    }

    fn enqueue(&self, flow: Flow, bytes: Arc<[u8]>) -> Result<(), Unsent> {
        let sent = match self.connections.borrow().get(&flow.connection) {
            None => return Err(Unsent::Gone),
            Some(connection) => connection.queue.push(bytes),
        };
        match sent {
            Ok(()) => {
                self.count(|counts| counts.sent += 1);
                Ok(())
            }
            Err(NotQueued::Full) => {
                self.stop(flow.connection, Close::Lagging);
                Err(Unsent::Lagging)
            }
            Err(NotQueued::Gone) => Err(Unsent::Gone),
        }
    }

    /// The connection ends soon, and is not found any more from now on.
    fn stop(&self, connection: u32, why: Close) {
        if let Some(connection) = self.connections.borrow_mut().remove(&connection) {
            // Gone already: then it has its own reason.
            let _ = connection.stop.send(why);
        }
    }

    fn connection_to(self: &Rc<Self>, transport: Transport, remote: SocketAddr, name: &str) -> Result<Flow, Unsent> {
        let is_it = |connection: &&Connection| {
            let Connection { flow, wanted, .. } = connection;
            flow.transport == transport && flow.remote == remote && wanted.as_deref() == Some(name)
        };
        if let Some(connection) = self.connections.borrow().values().find(is_it) {
            return Ok(connection.flow);
        }
        let ours = self.connections.borrow().values().filter(|connection| connection.wanted.is_some()).count();
        if ours >= self.limits.connections {
            return Err(Unsent::Full);
        }
        let ends = self.begin(transport, remote, Some(name.to_owned()));
        let flow = ends.flow;
        spawn_local(dial(Rc::clone(self), ends, name.to_owned()));
        Ok(flow)
    }

    /// Whether one more connection from there is not one too many.
    fn has_room(&self, source: IpAddr) -> bool {
        let connections = self.connections.borrow();
        let theirs = || connections.values().filter(|connection| connection.wanted.is_none());
        theirs().count() < self.limits.connections
            && theirs().filter(|connection| connection.flow.remote.ip() == source).count() < self.limits.per_source
    }

    fn begin(&self, transport: Transport, remote: SocketAddr, wanted: Option<String>) -> Ends {
        let mut connections = self.connections.borrow_mut();
        let mut id = self.last_connection.get();
        loop {
            id = id.wrapping_add(1).max(1);
            if !connections.contains_key(&id) {
                break;
            }
        }
        self.last_connection.set(id);
        let flow = Flow { transport, local: local(transport), remote, connection: id };
        let (queue, queued) = Queue::new();
        let (stop, stopped) = oneshot::channel();
        connections.insert(id, Connection { flow, queue: queue.clone(), wanted, stop });
        Ends { flow, queue, queued, stop: stopped }
    }

    /// A connection is over. The line is told if it knows of it.
    async fn end(&self, flow: Flow, why: Close, is_known: bool) {
        self.connections.borrow_mut().remove(&flow.connection);
        if matches!(why, Close::Slow | Close::NotSip(_))
            && let Some(connections) = self.told.borrow_mut().slow.count(clock::now())
        {
            warn!(line = self.line, peer:% = flow, connections, why:%; "a connection of SIP was closed");
        }
        if is_known {
            // There is nobody to be told: the line is gone.
            let _ = self.received.send(Received::Closed { flow, why }).await;
        }
    }

    fn served(&self, flow: Flow, is_ours: bool, queue: Queue) -> Served<'_> {
        Served { flow, is_ours, patience: self.patience, queue, received: &self.received }
    }
}

async fn read_datagrams(inner: Rc<Inner>) {
    let Some(socket) = &inner.udp else { return };
    // One more than is read, so that what is longer is known to be.
    let mut bytes = vec![0; MAX_DATAGRAM + 1];
    loop {
        let (len, remote) = match socket.recv_from(&mut bytes).await {
            Ok((len, remote)) => (len, canonical(remote)),
            // An ICMP message about what we sent; the transactions find out by their timers.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => {
                warn!(line = inner.line, error:%; "a datagram could not be read");
                tokio::time::sleep(TRY_AGAIN).await;
                continue;
            }
        };
        if !(inner.is_known)(remote.ip()) {
            inner.on_stranger(remote);
            continue;
        }
        let datagram = &bytes[..len];
        // Peers keep their NAT open with line breaks, or with zeros.
        if datagram.iter().all(|byte| matches!(byte, b'\r' | b'\n' | b' ' | 0)) {
            continue;
        }
        let Ok(place) = inner.received.try_reserve() else {
            inner.count(|counts| counts.flooded += 1);
            if let Some(datagrams) = inner.told.borrow_mut().flooded.count(clock::now()) {
                warn!(line = inner.line, peer:% = remote, datagrams; "SIP comes faster than it can be read");
            }
            continue;
        };
        inner.count(|counts| counts.received += 1);
        place.send(Received::Message { flow: Flow::udp(local(Transport::Udp), remote), message: parse(datagram) });
    }
}

async fn accept(inner: Rc<Inner>, listener: TcpListener, certificate: Option<Rc<Certificate>>) {
    let transport = if certificate.is_some() { Transport::Tls } else { Transport::Tcp };
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok((stream, remote)) => (stream, canonical(remote)),
            Err(error) => {
                if let Some(times) = inner.told.borrow_mut().refused.count(clock::now()) {
                    warn!(
                        line = inner.line, times, error:%;
                        "a connection could not be accepted; see LimitNOFILE of the unit"
                    );
                }
                tokio::time::sleep(TRY_AGAIN).await;
                continue;
            }
        };
        if !(inner.is_known)(remote.ip()) {
            inner.on_stranger(remote);
            continue;
        }
        if !inner.has_room(remote.ip()) {
            inner.count(|counts| counts.refused += 1);
            if let Some(connections) = inner.told.borrow_mut().refused.count(clock::now()) {
                warn!(line = inner.line, peer:% = remote, connections; "there are too many connections of SIP");
            }
            continue;
        }
        let ends = inner.begin(transport, remote, None);
        spawn_local(attend(Rc::clone(&inner), stream, ends, certificate.clone()));
    }
}

/// A connection that a peer has made.
async fn attend(inner: Rc<Inner>, stream: TcpStream, ends: Ends, certificate: Option<Rc<Certificate>>) {
    prepare(&stream);
    let Ends { flow, queue, queued, mut stop } = ends;
    let served = inner.served(flow, false, queue);
    let (why, was_heard) = match certificate {
        None => connection::serve(stream, served, queued, &mut stop).await,
        Some(certificate) => {
            let shaken = async {
                let acceptor = certificate.acceptor().await;
                let mut config = rustls::ServerConfig::clone(acceptor.config());
                config.alpn_protocols.clear();
                TlsAcceptor::from(Arc::new(config)).accept(stream).await
            };
            match timeout_at(Instant::now() + inner.patience.message, shaken).await {
                Err(_) => (Close::Slow, false),
                Ok(Err(error)) => (handshake_failed(&error), false),
                Ok(Ok(stream)) => connection::serve(stream, served, queued, &mut stop).await,
            }
        }
    };
    inner.end(flow, why, was_heard).await;
}

/// Whoever connects and says nothing looks whether somebody is there.
fn handshake_failed(error: &io::Error) -> Close {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Close::Ended,
        _ => Close::NotSip(format!("the TLS handshake failed: {}", tls::explain(error))),
    }
}

/// A connection that we make.
async fn dial(inner: Rc<Inner>, ends: Ends, name: String) {
    let Ends { flow, queue, queued, mut stop } = ends;
    let is_as_datagrams = name == AS_DATAGRAMS;
    let patience = if is_as_datagrams { PATIENCE_AS_DATAGRAMS } else { inner.patience.connect };
    let deadline = Instant::now() + patience.min(inner.patience.connect);
    let connected = tokio::select! {
        connected = reach(&inner, flow, &name, deadline) => connected,
        why = &mut stop => Err(why.unwrap_or(Close::Ours)),
    };
    let served = inner.served(flow, true, queue);
    let why = match connected {
        Ok(Reached::Plain(stream)) => connection::serve(stream, served, queued, &mut stop).await.0,
        Ok(Reached::Tls(stream)) => connection::serve(*stream, served, queued, &mut stop).await.0,
        Err(why) => {
            if is_as_datagrams {
                inner.datagrams.borrow_mut().insert(flow.remote);
                for bytes in queued.into_rest() {
                    let Some(datagram) = oversize::by_udp(&bytes) else { continue };
                    // It is sent again, and what is wrong is found out then.
                    let _ = inner.send_datagram(flow.remote, &datagram);
                }
            }
            why
        }
    };
    inner.end(flow, why, true).await;
}

enum Reached {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

async fn reach(inner: &Inner, flow: Flow, name: &str, deadline: Instant) -> Result<Reached, Close> {
    let unreachable =
        |why: &str| Close::Unreachable(format!("{} cannot be reached by {}: {why}", flow.remote, flow.transport));
    let connected = timeout_at(deadline, connect(flow.remote, inner.source)).await;
    let stream = connected
        .map_err(|_| unreachable("it did not answer in time"))?
        .map_err(|error| unreachable(&error.to_string()))?;
    prepare(&stream);
    let trust = inner.trust.borrow().clone();
    let Some(trust) = trust.filter(|_| flow.transport == Transport::Tls) else {
        return Ok(Reached::Plain(stream));
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']').to_owned();
    let server =
        ServerName::try_from(bare).map_err(|_| unreachable("no certificate can carry the name of its host"))?;
    let shaken = timeout_at(deadline, TlsConnector::from(trust).connect(server, stream)).await;
    let stream = shaken
        .map_err(|_| unreachable("no TLS handshake came about in time"))?
        .map_err(|error| unreachable(&tls::explain(&error)))?;
    Ok(Reached::Tls(Box::new(stream)))
}

async fn connect(remote: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if remote.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(source) = source.filter(|source| source.is_ipv4() == remote.is_ipv4()) {
        socket.bind((source, 0).into())?;
    }
    socket.connect(remote).await
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // A wish: the kernel gives as much as rmem_max allows. What does not fit is sent again, half a second later.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    mark(&SockRef::from(&socket), address.is_ipv6());
    bind(&socket, address)?;
    UdpSocket::from_std(socket.into())
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    bind(&socket, address)?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn bind(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())
}

/// Wishes, not needs: a connection without them works.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_user_timeout(Some(GONE_AFTER));
    let keepalive = socket2::TcpKeepalive::new().with_time(GONE_AFTER).with_interval(GONE_AFTER / 3);
    let _ = socket.set_tcp_keepalive(&keepalive);
    mark(&socket, stream.local_addr().is_ok_and(|address| address.is_ipv6()));
}

/// Marks what is sent as signalling, RFC 4594 4.2. A wish.
fn mark(socket: &SockRef<'_>, is_v6: bool) {
    if is_v6 {
        let _ = socket.set_tclass_v6(CS3);
    }
    // IPv4 that goes through an IPv6 socket has its own.
    let _ = socket.set_tos_v4(CS3);
}

/// Which socket a flow names: as [`Addresses`] lists them.
const fn local(transport: Transport) -> u8 {
    match transport {
        Transport::Udp => 0,
        Transport::Tcp => 1,
        Transport::Tls => 2,
    }
}

fn named(what: &str, address: SocketAddr, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} on {address}: {error}"))
}

/// A socket for IPv6 calls what comes by IPv4 `::ffff:192.0.2.1`.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// DSCP CS3, which is 24, and two bits that are the kernel's.
const CS3: u32 = 24 << 2;
const BACKLOG: i32 = 128;
const RECEIVE_BUFFER: usize = 1 << 20;
/// A peer that acknowledges nothing for so long is gone: about as long as a transaction waits.
const GONE_AFTER: Duration = Duration::from_secs(30);
/// Out of memory or file descriptors one is for a while.
const TRY_AGAIN: Duration = Duration::from_millis(100);
/// The name of a connection that carries what is too long for datagrams: no host's.
const AS_DATAGRAMS: &str = "";
/// The transaction waits meanwhile, 32 s in all.
const PATIENCE_AS_DATAGRAMS: Duration = Duration::from_secs(2);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        task::{LocalSet, yield_now},
        time::timeout,
    };

    use super::*;
    use crate::{config::Pair, leg::sip::Method};

    const OPTIONS: &[u8] = b"OPTIONS sip:trunkline@127.0.0.1 SIP/2.0\r\n\
        Via: SIP/2.0/TCP 127.0.0.1:5060;rport;branch=z9hG4bKPj4d9\r\n\
        From: <sip:asterisk@127.0.0.1>;tag=1b\r\nTo: <sip:trunkline@127.0.0.1>\r\nCall-ID: 7d@127.0.0.1\r\n\
        CSeq: 4711 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n";
    const ANSWER: &[u8] = b"SIP/2.0 200 OK\r\n\
        Via: SIP/2.0/TCP 127.0.0.1:5060;rport=5060;received=127.0.0.1;branch=z9hG4bKPj4d9\r\n\
        From: <sip:asterisk@127.0.0.1>;tag=1b\r\nTo: <sip:trunkline@127.0.0.1>;tag=2c\r\n\
        Call-ID: 7d@127.0.0.1\r\nCSeq: 4711 OPTIONS\r\nContent-Length: 0\r\n\r\n";

    /// Far from what a test takes.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn any() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    fn setup() -> Setup {
        Setup {
            line: "pbx".to_owned(),
            udp: Some(any()),
            tcp: Some(any()),
            tls: None,
            trust: None,
            is_known: Rc::new(|address| address != IpAddr::V4(Ipv4Addr::new(127, 0, 0, 66))),
            limits: Limits::default(),
            patience: Patience {
                message: PATIENCE,
                write: PATIENCE,
                connect: PATIENCE,
                idle: PATIENCE,
                ping: PATIENCE,
            },
        }
    }

    /// Runs a test as the control thread runs a line, and never for ever.
    async fn on_control_thread(test: impl Future<Output = ()>) {
        LocalSet::new().run_until(timeout(PATIENCE, test)).await.unwrap();
    }

    async fn connected(sockets: &Sockets) -> TcpStream {
        TcpStream::connect(sockets.addresses().tcp.unwrap()).await.unwrap()
    }

    /// From another address of this machine.
    async fn connected_from(last: u8, sockets: &Sockets) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
        socket.connect(sockets.addresses().tcp.unwrap()).await.unwrap()
    }

    async fn message(received: &mut mpsc::Receiver<Received>) -> (Flow, Message) {
        match received.recv().await.unwrap() {
            Received::Message { flow, message: Ok(message) } => (flow, message),
            other => panic!("{other:?}"),
        }
    }

    async fn closed(received: &mut mpsc::Receiver<Received>) -> (Flow, Close) {
        match received.recv().await.unwrap() {
            Received::Closed { flow, why } => (flow, why),
            other @ Received::Message { .. } => panic!("{other:?}"),
        }
    }

    async fn is_closed(stream: &mut TcpStream) -> bool {
        // Closed with unread bytes, it is reset.
        !matches!(stream.read(&mut [0; 64]).await, Ok(1..))
    }

    fn method(message: &Message) -> &Method {
        match message {
            Message::Request(request) => &request.method,
            Message::Response(response) => panic!("{response:?}"),
        }
    }

    #[tokio::test]
    async fn a_datagram_comes_in_and_its_answer_goes_back_where_it_came_from() {
        on_control_thread(async {
            let (sockets, mut received) = Sockets::open(setup()).unwrap();
            let peer = UdpSocket::bind(any()).await.unwrap();
            peer.send_to(OPTIONS, sockets.addresses().udp.unwrap()).await.unwrap();
            let (flow, options) = message(&mut received).await;
            assert_eq!(flow, Flow::udp(local(Transport::Udp), peer.local_addr().unwrap()));
            assert_eq!(method(&options), &Method::Options);
            assert_eq!(sockets.send(flow, &ANSWER.into()), Ok(()));
            let mut bytes = [0; 1000];
            let (len, from) = peer.recv_from(&mut bytes).await.unwrap();
            assert_eq!((&bytes[..len], Some(from)), (ANSWER, sockets.addresses().udp));
        })
        .await;
    }

    #[tokio::test]
    async fn keep_alives_and_strangers_do_not_reach_the_line() {
        on_control_thread(async {
            let (sockets, mut received) = Sockets::open(setup()).unwrap();
            let udp = sockets.addresses().udp.unwrap();
            let stranger = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 66), 0)).await.unwrap();
            stranger.send_to(OPTIONS, udp).await.unwrap();
            assert!(is_closed(&mut connected_from(66, &sockets).await).await);
            let peer = UdpSocket::bind(any()).await.unwrap();
            for bytes in [b"\r\n\r\n".as_slice(), b"\0\0\0\0", b"", b"rubbish"] {
                peer.send_to(bytes, udp).await.unwrap();
            }
            let first = received.recv().await.unwrap();
            assert!(matches!(first, Received::Message { message: Err(_), .. }), "the rubbish: {first:?}");
            assert_eq!((sockets.counts().strangers, sockets.connections()), (2, 0));
        })
        .await;
    }

    #[tokio::test]
    async fn a_socket_for_ipv6_speaks_ipv4_as_well() {
        on_control_thread(async {
            let udp = Some((core::net::Ipv6Addr::UNSPECIFIED, 0).into());
            // Some machines have no IPv6, and no such trouble.
            let Ok((sockets, mut received)) = Sockets::open(Setup { udp, ..setup() }) else { return };
            let port = sockets.addresses().udp.unwrap().port();
            let peer = UdpSocket::bind(any()).await.unwrap();
            peer.send_to(OPTIONS, (Ipv4Addr::LOCALHOST, port)).await.unwrap();
            let (flow, _) = message(&mut received).await;
            assert_eq!(flow.remote, peer.local_addr().unwrap());
            assert_eq!(sockets.send(flow, &ANSWER.into()), Ok(()));
            assert_eq!(peer.recv_from(&mut [0; 1000]).await.unwrap().0, ANSWER.len());
        })
        .await;
    }

    #[tokio::test]
    async fn a_flood_of_datagrams_is_dropped_at_the_door_and_counted() {
        on_control_thread(async {
            let limits = Limits { received: 4, ..Limits::default() };
            let (sockets, mut received) = Sockets::open(Setup { limits, ..setup() }).unwrap();
            let peer = UdpSocket::bind(any()).await.unwrap();
            for _ in 0..20 {
                peer.send_to(OPTIONS, sockets.addresses().udp.unwrap()).await.unwrap();
            }
            while sockets.counts().received + sockets.counts().flooded < 20 {
                yield_now().await;
            }
            assert_eq!((sockets.counts().received, sockets.counts().flooded), (4, 16));
            for _ in 0..4 {
                message(&mut received).await;
            }
            assert!(received.try_recv().is_err());
        })
        .await;
    }

    #[tokio::test]
    async fn a_message_that_comes_byte_by_byte_is_one_and_two_in_one_piece_are_two() {
        on_control_thread(async {
            let (sockets, mut received) = Sockets::open(setup()).unwrap();
            let mut peer = connected(&sockets).await;
            peer.set_nodelay(true).unwrap();
            for byte in OPTIONS {
                peer.write_all(&[*byte]).await.unwrap();
                yield_now().await;
            }
            let (flow, _) = message(&mut received).await;
            assert_eq!((flow.transport, flow.remote), (Transport::Tcp, peer.local_addr().unwrap()));
            peer.write_all(&[OPTIONS, b"\r\n", OPTIONS].concat()).await.unwrap();
            assert_eq!(message(&mut received).await.0, flow);
            assert_eq!(message(&mut received).await.0, flow);
            assert_eq!(sockets.send(flow, &ANSWER.into()), Ok(()));
            let mut bytes = vec![0; ANSWER.len()];
            peer.read_exact(&mut bytes).await.unwrap();
            assert_eq!(bytes, ANSWER);
            drop(peer);
            assert_eq!(closed(&mut received).await, (flow, Close::Ended));
            assert_eq!(sockets.send(flow, &ANSWER.into()), Err(Unsent::Gone));
        })
        .await;
    }

    #[tokio::test]
    async fn a_ping_on_a_connection_is_answered_and_an_answer_to_ours_begins_no_message() {
        on_control_thread(async {
            let idle = Duration::from_millis(80);
            let patience = Patience { message: idle / 8, idle, ..setup().patience };
            let (sockets, mut received) = Sockets::open(Setup { patience, ..setup() }).unwrap();
            let mut peer = connected(&sockets).await;
            peer.write_all(&[OPTIONS, b"\r\n\r\n"].concat()).await.unwrap();
            let mut pong = [0; 2];
            peer.read_exact(&mut pong).await.unwrap();
            assert_eq!(&pong, b"\r\n");
            peer.write_all(b"\r\n").await.unwrap();
            let (flow, _) = message(&mut received).await;
            assert_eq!(closed(&mut received).await, (flow, Close::Idle), "and not for a message that does not come");
        })
        .await;
    }

    #[tokio::test]
    async fn who_dribbles_bytes_or_says_nothing_is_not_waited_for() {
        on_control_thread(async {
            let patience = Patience { message: Duration::from_millis(50), ..setup().patience };
            let (sockets, mut received) = Sockets::open(Setup { patience, ..setup() }).unwrap();
            let mut silent = connected(&sockets).await;
            let (mut reader, mut dribbling) = connected(&sockets).await.into_split();
            let dribble = async { while dribbling.write_all(b"\r\n\r\n").await.is_ok() {} };
            let until_closed = async { while matches!(reader.read(&mut [0; 64]).await, Ok(1..)) {} };
            tokio::select! { () = dribble => {}, () = until_closed => {} }
            assert!(is_closed(&mut silent).await);
            assert!(received.try_recv().is_err(), "the line never knew of them");
            while sockets.connections() > 0 {
                yield_now().await;
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_message_that_stops_in_the_middle_ends_its_connection() {
        on_control_thread(async {
            let patience = Patience { message: Duration::from_millis(50), ..setup().patience };
            let (sockets, mut received) = Sockets::open(Setup { patience, ..setup() }).unwrap();
            let mut peer = connected(&sockets).await;
            peer.write_all(&[OPTIONS, b"INVITE sip:42@127.0.0.1 SI"].concat()).await.unwrap();
            let (flow, _) = message(&mut received).await;
            assert_eq!(closed(&mut received).await, (flow, Close::Slow));
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_no_sip_is_told_with_its_answer_and_ends_the_connection() {
        on_control_thread(async {
            let patience = Patience { write: Duration::from_millis(50), ..setup().patience };
            let (sockets, mut received) = Sockets::open(Setup { patience, ..setup() }).unwrap();
            let mut peer = connected(&sockets).await;
            let endless = OPTIONS.split(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"Content-Length"));
            peer.write_all(&endless.collect::<Vec<_>>().join(&b'\n')).await.unwrap();
            let Some(Received::Message { flow, message: Err(malformed) }) = received.recv().await else { panic!() };
            let mut answer = Vec::new();
            malformed.response().unwrap().write(&mut answer);
            assert_eq!(sockets.send(flow, &answer.clone().into()), Ok(()));
            let mut heard = Vec::new();
            peer.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, answer);
            let (_, why) = closed(&mut received).await;
            assert_eq!(why.to_string(), "what came is no SIP: Content-Length is missing");
        })
        .await;
    }

    #[tokio::test]
    async fn one_source_cannot_have_all_connections_and_all_together_have_an_end() {
        on_control_thread(async {
            let limits = Limits { connections: 3, per_source: 2, ..Limits::default() };
            let (sockets, mut received) = Sockets::open(Setup { limits, ..setup() }).unwrap();
            let (mut first, mut second) = (connected(&sockets).await, connected(&sockets).await);
            assert!(is_closed(&mut connected(&sockets).await).await, "the third of one source");
            let mut other = connected_from(2, &sockets).await;
            assert!(is_closed(&mut connected_from(3, &sockets).await).await, "the fourth of all");
            for peer in [&mut first, &mut second, &mut other] {
                peer.write_all(OPTIONS).await.unwrap();
                message(&mut received).await;
            }
            assert_eq!(sockets.counts().refused, 2);
            drop(other);
            closed(&mut received).await;
            let mut late = connected_from(3, &sockets).await;
            late.write_all(OPTIONS).await.unwrap();
            message(&mut received).await;
        })
        .await;
    }

    #[tokio::test]
    async fn a_connection_of_ours_comes_about_while_what_is_sent_waits_and_is_used_again() {
        on_control_thread(async {
            let (sockets, mut received) = Sockets::open(setup()).unwrap();
            let pbx = TcpListener::bind(any()).await.unwrap();
            let address = pbx.local_addr().unwrap();
            let flow = sockets.connect(Transport::Tcp, address, "pbx.example").unwrap();
            assert_eq!(sockets.send(flow, &OPTIONS.into()), Ok(()));
            assert_eq!(sockets.connect(Transport::Tcp, address, "pbx.example"), Ok(flow));
            let (mut peer, _) = pbx.accept().await.unwrap();
            let mut bytes = vec![0; OPTIONS.len()];
            peer.read_exact(&mut bytes).await.unwrap();
            assert_eq!(bytes, OPTIONS);
            peer.write_all(ANSWER).await.unwrap();
            assert!(matches!(message(&mut received).await, (its, Message::Response(_)) if its == flow));
            drop(peer);
            assert_eq!(closed(&mut received).await, (flow, Close::Ended));
            let next = sockets.connect(Transport::Tcp, address, "pbx.example").unwrap();
            assert_ne!(next, flow, "what is meant for the old one does not get there");
        })
        .await;
    }

    #[tokio::test]
    async fn a_connection_of_ours_says_that_it_lives() {
        on_control_thread(async {
            let patience = Patience { ping: Duration::from_millis(10), ..setup().patience };
            let (sockets, _received) = Sockets::open(Setup { patience, ..setup() }).unwrap();
            let pbx = TcpListener::bind(any()).await.unwrap();
            sockets.connect(Transport::Tcp, pbx.local_addr().unwrap(), "pbx.example").unwrap();
            let (mut peer, _) = pbx.accept().await.unwrap();
            let mut bytes = [0; 8];
            peer.read_exact(&mut bytes).await.unwrap();
            assert_eq!(&bytes, b"\r\n\r\n\r\n\r\n");
        })
        .await;
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_is_told_in_words() {
        on_control_thread(async {
            let (sockets, mut received) = Sockets::open(setup()).unwrap();
            let free = TcpListener::bind(any()).await.unwrap().local_addr().unwrap();
            let flow = sockets.connect(Transport::Tcp, free, "pbx.example").unwrap();
            assert_eq!(sockets.send(flow, &OPTIONS.into()), Ok(()));
            let (its, why) = closed(&mut received).await;
            let words = why.to_string();
            assert!(
                its == flow && words.starts_with(&format!("{free} cannot be reached by TCP: Connection refused")),
                "{words}"
            );
            assert_eq!(
                sockets.connect(Transport::Tls, free, "pbx.example"),
                Err(Unsent::NoTransport),
                "nobody is trusted"
            );
        })
        .await;
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_loses_its_connection_and_holds_nobody_up() {
        on_control_thread(async {
            let (sockets, mut received) = Sockets::open(setup()).unwrap();
            let pbx = TcpListener::bind(any()).await.unwrap();
            let flow = sockets.connect(Transport::Tcp, pbx.local_addr().unwrap(), "pbx.example").unwrap();
            let (_peer, _) = pbx.accept().await.unwrap();
            let long: Arc<[u8]> = vec![b'x'; 16_000].into();
            let failed = loop {
                match sockets.send(flow, &long) {
                    Ok(()) => yield_now().await,
                    Err(unsent) => break unsent,
                }
            };
            assert_eq!(failed, Unsent::Lagging);
            assert_eq!(closed(&mut received).await, (flow, Close::Lagging));
            assert_eq!(sockets.send(flow, &long), Err(Unsent::Gone));
        })
        .await;
    }

    #[tokio::test]
    async fn a_request_too_long_for_a_datagram_goes_by_tcp_and_where_there_is_none_as_datagram_after_all() {
        on_control_thread(async {
            let (sockets, mut received) = Sockets::open(setup()).unwrap();
            let head = "INVITE sip:42@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bK7\r\n";
            let long = format!("{head}Subject: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(1300));
            let bytes: Arc<[u8]> = long.as_bytes().into();

            let listener = TcpListener::bind(any()).await.unwrap();
            let both = UdpSocket::bind(listener.local_addr().unwrap()).await.unwrap();
            let flow = sockets.connect(Transport::Udp, both.local_addr().unwrap(), "pbx.example").unwrap();
            assert_eq!(sockets.send(flow, &bytes), Ok(()));
            let (mut peer, _) = listener.accept().await.unwrap();
            let mut heard = vec![0; long.len()];
            peer.read_exact(&mut heard).await.unwrap();
            assert_eq!(String::from_utf8(heard).unwrap(), long.replace("/UDP", "/TCP"));
            peer.write_all(ANSWER).await.unwrap();
            assert!(matches!(message(&mut received).await, (_, Message::Response(_))));

            let datagrams_only = UdpSocket::bind(any()).await.unwrap();
            let flow = sockets.connect(Transport::Udp, datagrams_only.local_addr().unwrap(), "pbx.example").unwrap();
            for _ in 0..2 {
                assert_eq!(sockets.send(flow, &bytes), Ok(()));
                let mut heard = vec![0; 2000];
                let (len, _) = datagrams_only.recv_from(&mut heard).await.unwrap();
                assert_eq!(&heard[..len], long.as_bytes());
            }
            assert_eq!(sockets.counts().oversized, 2, "the second time it is not even tried");
        })
        .await;
    }

    /// A PBX with a certificate for localhost, and whoever trusts its CA.
    fn tls_pair(dir: &Path) -> (Rc<Certificate>, Arc<ClientConfig>) {
        tls::throwaway_ca(dir, &[]).unwrap();
        let pair = Pair { certificate: dir.join("server.pem"), key: dir.join("server-key.pem") };
        let trust = tls::client_config(Some(&dir.join("ca.pem"))).unwrap();
        (Rc::new(Certificate::load("pbx", &pair).unwrap()), trust)
    }

    #[tokio::test]
    async fn in_tls_a_message_arrives_and_another_name_than_the_certificate_has_is_told_in_words() {
        on_control_thread(async {
            let dir = tempfile::tempdir().unwrap();
            let (certificate, trust) = tls_pair(dir.path());
            let pbx = Setup { tls: Some((any(), certificate)), ..setup() };
            let (pbx, mut at_pbx) = Sockets::open(pbx).unwrap();
            let (sockets, mut received) = Sockets::open(Setup { trust: Some(trust), ..setup() }).unwrap();
            let address = pbx.addresses().tls.unwrap();

            let flow = sockets.connect(Transport::Tls, address, "localhost").unwrap();
            assert_eq!(sockets.send(flow, &OPTIONS.into()), Ok(()));
            let (back, _) = message(&mut at_pbx).await;
            assert_eq!(pbx.send(back, &ANSWER.into()), Ok(()));
            assert_eq!(message(&mut received).await.0, flow);

            let other = sockets.connect(Transport::Tls, address, "pbx.example").unwrap();
            assert_ne!(other, flow, "another name is another peer");
            let (its, why) = closed(&mut received).await;
            let words = why.to_string();
            assert_eq!(its, other);
            assert!(
                words.contains("cannot be reached by TLS: its certificate is for localhost")
                    && words.contains("not for pbx.example"),
                "{words}"
            );
        })
        .await;
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        on_control_thread(async {
            let taken = UdpSocket::bind(any()).await.unwrap();
            let address = taken.local_addr().unwrap();
            let error = Sockets::open(Setup { udp: Some(address), ..setup() }).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
            assert!(error.to_string().starts_with(&format!("UDP on {address}: ")), "{error}");
        })
        .await;
    }

    #[tokio::test]
    async fn signalling_is_marked_and_everything_ends_with_the_line() {
        on_control_thread(async {
            let (sockets, mut received) = Sockets::open(setup()).unwrap();
            assert_eq!(SockRef::from(sockets.inner.udp.as_ref().unwrap()).tos_v4().unwrap(), 0x60);
            let mut peer = connected(&sockets).await;
            peer.write_all(OPTIONS).await.unwrap();
            message(&mut received).await;
            drop(sockets);
            assert!(is_closed(&mut peer).await);
        })
        .await;
    }

    #[test]
    fn the_way_to_this_machine_begins_at_its_own_address() {
        let address = |text: &str| address_towards(text.parse().unwrap()).unwrap().to_string();
        assert_eq!(address("127.0.0.1:5060"), "127.0.0.1");
    }
}
