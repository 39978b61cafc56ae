//! SIP lines: sockets and a clock around the pure signalling, and what it has to do with calls.
//!
//! ```text
//!   datagrams, connections --> Line --events--> a call begins, is answered, changes, ends
//!                                ^
//!                                +------------- a trunk took the call; the call is over; somebody calls out
//! ```

use core::{
    cell::{Cell, OnceCell, RefCell},
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use std::{
    collections::BTreeMap,
    io,
    net::UdpSocket,
    rc::{Rc, Weak},
};

use log::{Level, info, log, warn};
use socket2::SockRef;
use tokio::{
    sync::{Notify, mpsc},
    task::spawn_local,
};

use crate::{
    call::{
        EndReason,
        redact::Numbers,
        rtp_io::{NewRtp, RtpSetup},
        shard::{LineOrder, Order},
    },
    clock,
    config::{self, SipUri},
    control::{
        messages,
        metrics::{Counter, Metrics},
    },
    daemon::{
        Fault,
        calls::{Arrival, Shared, made_up_facts, text},
    },
    dialect::{Facts, Transfer, Wish},
    leg::{
        sip::{
            Flow, Name, NameAddr, Transport, Uri,
            admission::{self, Reason},
            connection::Close,
            dial_plan, digest,
            leg::{Ending, Event, Invitation, LegId, Setup, Transferred},
            line::{Line, LineSetup},
            random::{random, seed},
            registration::{self, Contact, News, Registration},
            resolve::resolve,
            sdp::Media,
            transaction::Timers,
            transport::{self, Received, Sockets},
        },
        websocket::{certificate::Certificate, dialer::Roots},
    },
    media::{Now, codec::Codec, jitter::Bounds},
    told::Told,
};

/// A SIP line that is open.
pub(super) struct SipLine {
    /// Its place in the config.
    index: usize,
    name: String,
    /// What the config says of it now.
    config: RefCell<Rc<config::SipLine>>,
    /// How it registers; `None`: not at all.
    registered: RefCell<Option<config::Register>>,
    line: RefCell<Line>,
    sockets: Sockets,
    /// The legs that are calls, or are about to be.
    talks: RefCell<BTreeMap<LegId, Talk>>,
    /// Where the search for a free pair of ports goes on.
    next_port: Cell<usize>,
    /// Something was done that may be due sooner than what is waited for.
    woken: Notify,
    /// No more calls come by it.
    is_retired: Cell<bool>,
    /// And its last call is over.
    is_over: Cell<bool>,
    /// Calls that were not taken, and those that found no port: they may come all day.
    not_taken: RefCell<Told>,
    portless: RefCell<Told>,
    /// What the metrics know.
    told: Cell<[u64; COUNTERS.len()]>,
}

/// What the daemon knows of a leg.
enum Talk {
    /// A call.
    Call {
        /// Its number in this process.
        seq: u64,
        is_answered: bool,
        /// When the last of the keys that are being pressed is.
        keys_until: Now,
    },
    /// We call somebody; there is a call once it is answered.
    Calling { facts: Box<Facts>, rtp: Box<NewRtp>, peer: SocketAddr },
}

/// The audio of a SIP call that has come up, and who calls.
pub(super) struct SipArrival {
    pub(super) facts: Box<Facts>,
    pub(super) rtp: Box<NewRtp>,
    pub(super) peer: SocketAddr,
}

/// The sockets of a SIP line that does not run yet.
pub(super) struct Bound {
    sockets: Sockets,
    received: mpsc::Receiver<Received>,
    /// The line that says who is heard, once it runs. It has the sockets, so they do not have it.
    own: Rc<OnceCell<Weak<SipLine>>>,
}

/// Opens the sockets of a line.
pub(super) fn bind(name: &str, config: &config::SipLine, roots: &Roots) -> Result<Bound, Fault> {
    let certificate = config.tls.as_ref().map(|tls| Certificate::load(name, &tls.pair).map(Rc::new)).transpose();
    let certificate = certificate.map_err(|error| Fault::config(format!("[line.{name}] {error}")))?;
    let own: Rc<OnceCell<Weak<SipLine>>> = Rc::default();
    let gate = Rc::clone(&own);
    let line = move || gate.get().and_then(Weak::upgrade);
    let is_known = move |address: IpAddr| line().is_some_and(|line| line.line.borrow().is_known(address));
    let setup = transport::Setup {
        line: name.to_owned(),
        udp: config.udp.then_some(config.listen),
        tcp: config.tcp.then_some(config.listen),
        tls: config.tls.as_ref().map(|tls| tls.address).zip(certificate),
        trust: roots.of(&config.ca_file).cloned(),
        is_known: Rc::new(is_known),
        limits: transport::Limits::default(),
        patience: Default::default(),
    };
    let (sockets, received) = Sockets::open(setup)
        .map_err(|error| Fault::config(format!("[line.{name}] listen = \"{}\": {error}", config.listen)))?;
    Ok(Bound { sockets, received, own })
}

impl SipLine {
    /// Has the signalling of a line run.
    pub(super) fn start(shared: &Rc<Shared>, index: usize, name: &str, config: &config::SipLine, bound: Bound) {
        let Bound { sockets, received, own } = bound;
        let line = RefCell::new(Line::new(line_setup(config, ports_of(&sockets), shared.config().media.max_calls)));
        let this = Rc::new(Self {
            index,
            name: name.to_owned(),
            config: RefCell::new(Rc::new(config.clone())),
            registered: RefCell::new(config.register.clone()),
            line,
            sockets,
            talks: RefCell::default(),
            next_port: Cell::new(seed() as usize),
            woken: Notify::new(),
            is_retired: Cell::default(),
            is_over: Cell::default(),
            not_taken: RefCell::default(),
            portless: RefCell::default(),
            told: Cell::default(),
        });
        if own.set(Rc::downgrade(&this)).is_err() {
            return; // it was made a moment ago
        }
        let listens_on = this.listens_on();
        if let Some(address) = listens_on {
            info!(line = name, listen:% = address; "line listens");
        }
        shared.lines.borrow_mut()[index].listens_on = listens_on;
        shared.sip.borrow_mut().insert(index, Rc::clone(&this));
        spawn_local(this.serve(Rc::clone(shared), received));
    }

    /// Whether it can go on by this config with the sockets that it has.
    pub(super) fn is_bound_as(&self, config: &config::SipLine) -> bool {
        self.config().has_the_sockets_of(config)
    }

    /// Trusts those whom the config trusts now.
    pub(super) fn trust(&self, roots: &Roots) {
        if let Some(trust) = roots.of(&self.config().ca_file) {
            self.sockets.set_trust(trust);
        }
    }

    /// Where it listens.
    pub(super) fn listens_on(&self) -> Option<SocketAddr> {
        let addresses = self.sockets.addresses();
        addresses.udp.or(addresses.tcp).or(addresses.tls)
    }

    /// No more calls come by it, from now on; [`Self::retire`] does the rest.
    pub(super) fn give_up(&self) {
        self.is_retired.set(true);
    }

    /// It is wanted after all, before its last call was over; [`Self::change`] does the rest.
    pub(super) fn take_up(&self) {
        self.is_retired.set(false);
        *self.registered.borrow_mut() = None;
    }

    /// Goes on by another config with the same sockets, and the calls with it.
    pub(super) async fn change(self: Rc<Self>, shared: Rc<Shared>, to: config::SipLine) {
        let to = Rc::new(to);
        *self.config.borrow_mut() = Rc::clone(&to);
        self.trust(&shared.roots.borrow());
        let from = self.registered.borrow().clone();
        let is_elsewhere = |from: &config::Register, to: &config::Register| {
            (&from.registrar, &from.backup, &from.user) != (&to.registrar, &to.backup, &to.user)
        };
        if let Some(from) = &from
            && to.register.as_ref().is_none_or(|to| is_elsewhere(from, to))
        {
            self.unregister(&shared, Line::is_unregistered).await;
            // Meanwhile it may have been changed again, or given up, or the daemon goes down.
            if !Rc::ptr_eq(&self.config(), &to) || self.is_retired.get() || shared.calls.borrow().draining {
                return;
            }
        }
        let setup = line_setup(&to, ports_of(&self.sockets), shared.config().media.max_calls);
        self.line.borrow_mut().succeed(clock::now(), setup, from != to.register);
        self.registered.borrow_mut().clone_from(&to.register);
        self.drive(&shared);
    }

    /// Says goodbye to the registrar and goes with the last call that it has, unless it is taken up again before.
    pub(super) async fn retire(self: Rc<Self>, shared: Rc<Shared>) {
        self.leave(&shared).await;
        while self.is_retired.get() && !(self.talks.borrow().is_empty() && self.line.borrow().is_empty()) {
            tokio::time::sleep(A_WHILE).await;
        }
        let is_there = shared.sip_line_of(self.index).is_some_and(|line| Rc::ptr_eq(&line, &self));
        if self.is_retired.get() && is_there {
            self.tell_metrics(&shared.metrics);
            shared.sip.borrow_mut().remove(&self.index);
            self.is_over.set(true);
            self.woken.notify_one();
        }
    }

    async fn serve(self: Rc<Self>, shared: Rc<Shared>, mut received: mpsc::Receiver<Received>) {
        self.line.borrow_mut().handle_timeout(clock::now());
        self.drive(&shared);
        while !self.is_over.get() {
            let due = self.line.borrow().poll_timeout();
            let sleep = async {
                match due {
                    Some(at) => tokio::time::sleep(at.saturating_sub(clock::now())).await,
                    None => core::future::pending().await,
                }
            };
            tokio::select! {
                received = received.recv() => match received {
                    Some(Received::Message { flow, message }) => {
                        let now = clock::now();
                        let mut line = self.line.borrow_mut();
                        line.set_closed(shared.why_closed(self.index));
                        line.handle_message(now, flow, message);
                    }
                    Some(Received::Closed { flow, why }) => {
                        // One that did not come about is told by what needed it.
                        let level = if let Close::Unreachable(_) = why { Level::Debug } else { Level::Warn };
                        log!(level, line = self.name, peer:% = flow.remote; "a SIP connection is over: {why}");
                        self.line.borrow_mut().handle_flow_failed(clock::now(), flow, why.to_string());
                    }
                    None => return,
                },
                () = sleep => self.line.borrow_mut().handle_timeout(clock::now()),
                () = self.woken.notified() => continue,
            }
            self.drive(&shared);
        }
    }

    fn config(&self) -> Rc<config::SipLine> {
        Rc::clone(&self.config.borrow())
    }

    /// Sends what is to be sent, and does what is to be done about what happened.
    fn drive(self: &Rc<Self>, shared: &Rc<Shared>) {
        loop {
            self.send();
            let event = self.line.borrow_mut().poll_event();
            let Some(event) = event else { break };
            self.on_event(shared, event);
        }
        let refusals: Vec<_> = core::iter::from_fn(|| self.line.borrow_mut().poll_refusals()).collect();
        for admission::News { reason, requests, source } in refusals {
            let line = &self.name;
            match reason {
                // Its sockets tell.
                Reason::Stranger => {}
                Reason::TooFast | Reason::Unacked | Reason::Ringing => warn!(
                    message_id = messages::CALLS_REFUSED, line, peer:% = source, refused = requests;
                    "calls are refused: {}", reason.words()
                ),
            }
        }
        self.woken.notify_one();
    }

    fn send(&self) {
        let now = clock::now();
        let mut line = self.line.borrow_mut();
        while let Some(transmit) = line.poll_transmit() {
            match self.sockets.send(transmit.flow, &transmit.bytes) {
                Ok(()) => {}
                // A request that went nowhere need not be waited for.
                Err(unsent) => line.handle_flow_failed(now, transmit.flow, unsent.to_string()),
            }
        }
    }

    fn on_event(self: &Rc<Self>, shared: &Rc<Shared>, event: Event) {
        match event {
            Event::Invited(invitation) => self.on_invited(shared, *invitation),
            Event::Early { leg, media } => self.tell(shared, leg, media_order(media, false)),
            Event::Up { leg, media } => self.on_up(shared, leg, media),
            Event::Changed { leg, media } => self.tell(shared, leg, media_order(media, true)),
            Event::Digit { leg, digit } => self.tell(shared, leg, LineOrder::Digit(digit)),
            Event::Transfer { leg, what } => self.on_transfer(shared, leg, what),
            Event::Reach(target) => {
                let (this, shared) = (Rc::clone(self), Rc::clone(shared));
                spawn_local(async move { this.reach(&shared, target).await });
            }
            Event::Registration(news) => self.on_registration(&news),
            Event::NotTaken { source, status, why } => {
                shared.metrics.call_never_began(EndReason::Protocol);
                if let Some(calls) = self.not_taken.borrow_mut().count(clock::now()) {
                    warn!(line = self.name, peer:% = source, status, calls; "a call was not taken: {why}");
                }
            }
            Event::Ended { leg, why } => self.on_ended(shared, leg, &why),
        }
    }

    /// Somebody calls.
    fn on_invited(self: &Rc<Self>, shared: &Rc<Shared>, invitation: Invitation) {
        let leg = invitation.leg;
        if shared.seat(self.index).is_none() {
            // An extension is busy; a trunk that says so would be taken for the callee.
            let status = if self.config().register.is_some() { 486 } else { 503 };
            return self.refuse(leg, status, &[(Name::RetryAfter, BUSY_FOR.to_owned())]);
        }
        let Some((rtp, address)) = self.open_rtp(invitation.codec) else {
            return self.refuse(leg, 503, &[(Name::RetryAfter, BUSY_FOR.to_owned())]);
        };
        self.line.borrow_mut().ring(clock::now(), leg, address);
        self.send();
        let peer = invitation.source;
        let facts = Box::new(facts_of(&shared.config().account, invitation));
        let arrival = SipArrival { facts, rtp: Box::new(rtp), peer };
        self.begin(shared, leg, arrival, false);
    }

    fn begin(self: &Rc<Self>, shared: &Rc<Shared>, leg: LegId, arrival: SipArrival, is_answered: bool) {
        let rate = arrival.rtp.codec.rate();
        let seq = shared.begin(self.index, Arrival::Sip(arrival), rate);
        self.talks.borrow_mut().insert(leg, Talk::Call { seq, is_answered, keys_until: Now::ZERO });
        if !shared.calls.borrow().live.contains_key(&seq) {
            self.on_call_over(shared, seq, EndReason::Overload);
        }
    }

    fn on_up(self: &Rc<Self>, shared: &Rc<Shared>, leg: LegId, media: Media) {
        let talk = self.talks.borrow_mut().remove(&leg);
        match talk {
            Some(Talk::Call { seq, keys_until, .. }) => {
                self.talks.borrow_mut().insert(leg, Talk::Call { seq, is_answered: true, keys_until });
            }
            Some(Talk::Calling { .. }) if shared.calls.borrow().draining => {
                return self.line.borrow_mut().hang_up(clock::now(), leg);
            }
            Some(Talk::Calling { facts, rtp, peer }) => {
                let rtp = Box::new(NewRtp { codec: media.codec.codec, ..*rtp });
                self.begin(shared, leg, SipArrival { facts, rtp, peer }, true);
            }
            // The call was over before its ACK came, and hangs up now.
            None => return self.line.borrow_mut().hang_up(clock::now(), leg),
        }
        self.tell(shared, leg, media_order(media, true));
    }

    /// Tells the media thread that has the call of this leg.
    fn tell(&self, shared: &Shared, leg: LegId, what: LineOrder) {
        if let Some(Talk::Call { seq, .. }) = self.talks.borrow().get(&leg) {
            shared.tell_line(*seq, what);
        }
    }

    fn on_transfer(&self, shared: &Shared, leg: LegId, what: Transferred) {
        let call_id = match self.talks.borrow().get(&leg) {
            Some(Talk::Call { seq, .. }) => shared.call_id_of(*seq),
            Some(Talk::Calling { .. }) | None => None,
        };
        let (call_id, line) = (call_id.as_deref().unwrap_or_default(), &self.name);
        match &what {
            Transferred::Trying => info!(call_id, line; "the PBX passes the caller on"),
            Transferred::Done => info!(call_id, line; "the caller was passed on"),
            Transferred::Failed(status, reason) => {
                warn!(call_id, line, status, reason; "the caller was not passed on, and is back with the agent");
            }
        }
        let what = match what {
            Transferred::Trying => Transfer::Trying,
            Transferred::Done => Transfer::Done,
            Transferred::Failed(status, _) => Transfer::Failed { status },
        };
        self.tell(shared, leg, LineOrder::Transfer(what));
    }

    /// The signalling of a call is over.
    fn on_ended(&self, shared: &Shared, leg: LegId, why: &Ending) {
        let reason = match why {
            Ending::HungUp(_) | Ending::Cancelled | Ending::Ours => EndReason::LineHungUp,
            Ending::Refused(..) | Ending::Unanswered | Ending::NoAck | Ending::Lost(_) => EndReason::LineLost,
            Ending::Protocol(_) => EndReason::Protocol,
            Ending::NoCodec(_) => EndReason::BadCodec,
            Ending::Transferred => EndReason::HandedBack,
        };
        let words = match why {
            Ending::HungUp(None) | Ending::Cancelled | Ending::Ours | Ending::Transferred => None,
            why => Some(why.to_string()),
        };
        let talk = self.talks.borrow_mut().remove(&leg);
        match talk {
            Some(Talk::Call { seq, .. }) => shared.tell_line(seq, LineOrder::Ended { reason, words }),
            Some(Talk::Calling { facts, .. }) => {
                let (call_id, line, to) = (facts.call_id.as_str(), &self.name, shown(shared, &facts.to));
                warn!(call_id, line, to; "the call that was asked for did not come about: {why}");
            }
            None => {}
        }
    }

    /// A trunk took the call: so does the line.
    pub(super) fn on_answered(self: &Rc<Self>, shared: &Rc<Shared>, seq: u64) {
        if let Some(leg) = self.leg_of(seq) {
            self.line.borrow_mut().accept(clock::now(), leg);
            self.drive(shared);
        }
    }

    /// A call is over, and its leg is too. Says by which status it was not taken, if it was not and the PBX did not end it.
    pub(super) fn on_call_over(self: &Rc<Self>, shared: &Rc<Shared>, seq: u64, reason: EndReason) -> Option<u16> {
        let leg = self.leg_of(seq)?;
        let talk = self.talks.borrow_mut().remove(&leg);
        let is_answered = matches!(talk, Some(Talk::Call { is_answered: true, .. }));
        let mut refused = None;
        if is_answered {
            self.line.borrow_mut().hang_up(clock::now(), leg);
        } else {
            let config = self.config();
            let ringing = &config.ringing;
            let retry_after = (Name::RetryAfter, BUSY_FOR.to_owned());
            let (status, header) = match (reason, &ringing.fallback) {
                (EndReason::TrunkRefused | EndReason::TrunkTimeout | EndReason::TrunkLost, Some(fallback)) => {
                    (302, Some((Name::Contact, format!("<{fallback}>"))))
                }
                (EndReason::Overload | EndReason::Drained, _) => (503, Some(retry_after)),
                (EndReason::Operator, _) => (480, None),
                (EndReason::Bug, _) => (500, None),
                _ => (ringing.refuse_status, None),
            };
            self.refuse(leg, status, header.as_slice());
            refused = Some(status);
            // What was answered meanwhile is hung up.
            self.line.borrow_mut().hang_up(clock::now(), leg);
        }
        self.drive(shared);
        refused
    }

    fn refuse(&self, leg: LegId, status: u16, headers: &[(Name, String)]) {
        self.line.borrow_mut().refuse(clock::now(), leg, status, headers);
    }

    fn leg_of(&self, seq: u64) -> Option<LegId> {
        let talks = self.talks.borrow();
        talks.iter().find(|(_, talk)| matches!(talk, Talk::Call { seq: own, .. } if *own == seq)).map(|(&leg, _)| leg)
    }

    /// Presses keys: in RTP where the PBX takes them there, else by INFO.
    fn press(self: &Rc<Self>, shared: &Rc<Shared>, seq: u64, keys: &str) -> Result<(), String> {
        let leg = self.leg_of(seq).ok_or("the call is not up")?;
        let in_rtp = self.line.borrow().takes_rtp_digits(leg);
        if !in_rtp && self.config().audio.dtmf == config::Dtmf::Rtp {
            return Err("the PBX takes no keys in RTP, and `dtmf` allows no other way".to_owned());
        }
        let now = clock::now();
        // Behind those that were asked for before: two orders at once would be pressed in each other.
        let mut waits = Now::ZERO;
        if let Some(Talk::Call { keys_until, .. }) = self.talks.borrow_mut().get_mut(&leg) {
            waits = keys_until.saturating_sub(now);
            if waits > MOST_KEYS_WAIT {
                return Err("keys that were asked for before are still being pressed".to_owned());
            }
            let takes = |key: u8| if key == b'w' { PAUSE } else { KEY };
            *keys_until = now + waits + keys.bytes().map(takes).sum::<Now>();
        }
        let (this, shared, keys) = (Rc::clone(self), Rc::clone(shared), keys.to_owned());
        spawn_local(async move {
            for key in keys.bytes() {
                if key == b'w' {
                    waits += PAUSE;
                    continue;
                }
                // Those before it take a while, too.
                tokio::time::sleep(core::mem::replace(&mut waits, KEY)).await;
                if in_rtp {
                    shared.tell_line(seq, LineOrder::Press(key));
                } else {
                    this.line.borrow_mut().send_digit(clock::now(), leg, key);
                    this.drive(&shared);
                }
            }
        });
        Ok(())
    }

    /// A pair of sockets for a call's audio, and the address that peers are told.
    fn open_rtp(&self, codec: Codec) -> Option<(NewRtp, SocketAddr)> {
        let config = self.config();
        let ports = config.audio.rtp_ports;
        let ip = config.listen.ip();
        let start = self.next_port.get() % ports.pairs().count().max(1);
        let pair =
            ports.pairs().chain(ports.pairs()).enumerate().skip(start).take(PORTS_TRIED).find_map(|(at, port)| {
                let pair =
                    udp(ip, port, config.audio.dscp).and_then(|rtp| Ok((rtp, udp(ip, port + 1, config.audio.dscp)?)));
                self.next_port.set(at + 1);
                pair.ok().map(|pair| (pair, port))
            });
        let Some(((rtp, rtcp), port)) = pair else {
            if let Some(calls) = self.portless.borrow_mut().count(clock::now()) {
                warn!(
                    line = self.name, ports:%, calls;
                    "no port is free for a call's audio; who has them shows `ss -ulnp`, and `rtp-ports` takes others"
                );
            }
            return None;
        };
        let setup = RtpSetup {
            learn: config.audio.nat,
            mask_dtmf: config.audio.mask_dtmf,
            bounds: Bounds { least_ms: ms(config.audio.jitter_min), most_ms: ms(config.audio.jitter_max) },
            timeout: config.audio.timeout,
            hold_silence: config.hold.silence,
            hold_limit: config.hold.limit,
            seed: seed(),
        };
        Some((NewRtp { rtp, rtcp, codec, setup }, SocketAddr::new(config.public_ip(), port)))
    }

    /// Finds a flow to a registrar.
    async fn reach(self: Rc<Self>, shared: &Rc<Shared>, target: registration::Target) {
        let registration::Target { host, port, transport } = &target;
        let (port, transport) = (*port, *transport);
        let flow = self.flow_to(host, Some(port), transport).await;
        // Meanwhile it may have become another's.
        if !self.line.borrow().registers_at(&target) {
            return;
        }
        let now = clock::now();
        let contact_port = self.port_of(transport);
        let config = self.config();
        {
            let mut line = self.line.borrow_mut();
            match flow {
                Ok((flow, addresses)) => {
                    line.set_registrars(&addresses);
                    let host = config.public_ip().to_string();
                    line.handle_reached(now, flow, Contact { host, port: contact_port });
                }
                Err(words) => line.handle_unreached(now, words),
            }
        }
        self.drive(shared);
    }

    async fn flow_to(
        &self,
        host: &str,
        port: Option<u16>,
        transport: Transport,
    ) -> Result<(Flow, Vec<IpAddr>), String> {
        let local = self.config().listen.ip();
        let found = resolve(host, port, transport, local).await?;
        let first = *found.first().ok_or_else(|| format!("{host} has no address"))?;
        let flow = self.sockets.connect(transport, first, host).map_err(|unsent| format!("{host}: {unsent}"))?;
        Ok((flow, found.iter().map(SocketAddr::ip).collect()))
    }

    fn port_of(&self, transport: Transport) -> u16 {
        let addresses = self.sockets.addresses();
        let address = match transport {
            Transport::Udp => addresses.udp,
            Transport::Tcp => addresses.tcp,
            Transport::Tls => addresses.tls,
        };
        address.or(addresses.udp).or(addresses.tcp).map_or(0, |address| address.port())
    }

    fn on_registration(&self, news: &News) {
        let line = &self.name;
        match news {
            News::Registered { registrar, refresh_in } => info!(
                message_id = messages::REGISTERED, line, registrar, refresh_seconds = refresh_in.as_secs();
                "the line is registered"
            ),
            News::Failed { registrar, why, retry_in } => warn!(
                message_id = messages::NOT_REGISTERED, line, registrar, retry_seconds = retry_in.as_secs().max(1);
                "the line is not registered: {why}"
            ),
            News::Unregistered { registrar } => info!(line, registrar; "the line is not registered any more"),
        }
    }

    /// How many are being called. Each has a seat: whoever answers is a call.
    pub(super) fn calling(&self) -> usize {
        self.talks.borrow().values().filter(|talk| matches!(talk, Talk::Calling { .. })).count()
    }

    /// The daemon goes down: whoever is being called need not answer any more.
    pub(super) fn stop_calling(self: &Rc<Self>, shared: &Rc<Shared>) {
        let talks = self.talks.borrow();
        let calling = talks.iter().filter(|(_, talk)| matches!(talk, Talk::Calling { .. }));
        let calling: Vec<LegId> = calling.map(|(&leg, _)| leg).collect();
        drop(talks);
        for leg in calling {
            self.line.borrow_mut().hang_up(clock::now(), leg);
        }
        self.drive(shared);
    }

    /// How it stands, where it is not as it should be.
    pub(super) fn problem(&self) -> Option<String> {
        if self.is_retired.get() {
            return None;
        }
        let state = self.line.borrow().registration(clock::now())?;
        (!state.is_registered()).then(|| format!("[line.{}] {state}", self.name))
    }

    /// How its registration stands, if it has one.
    pub(super) fn registration(&self) -> Option<&'static str> {
        self.line.borrow().registration(clock::now()).map(|state| state.name())
    }

    /// Adds what was counted since this was asked last; says whether the line should be registered and is not.
    pub(super) fn tell_metrics(&self, metrics: &Metrics) -> bool {
        let transport::Counts { received, sent, unsent, flooded, strangers, refused, oversized: _ } =
            self.sockets.counts();
        let line = self.line.borrow();
        let [too_fast, unacked, ringing] =
            [Reason::TooFast, Reason::Unacked, Reason::Ringing].map(|reason| line.refused(reason));
        let counts = [received, sent, unsent, flooded, strangers, refused, too_fast, unacked, ringing];
        for ((counter, before), now) in COUNTERS.into_iter().zip(self.told.replace(counts)).zip(counts) {
            metrics.add(counter, now - before);
        }
        !self.is_retired.get() && line.registration(clock::now()).is_some_and(|state| !state.is_registered())
    }

    /// The daemon goes down: the registrar is told, and what is said is sent.
    pub(super) async fn leave(self: &Rc<Self>, shared: &Rc<Shared>) {
        self.stop_calling(shared);
        self.unregister(shared, |line| line.is_unregistered() && line.is_empty()).await;
    }

    /// Tells the registrar that we are gone, and waits until that is done, within limits.
    async fn unregister(self: &Rc<Self>, shared: &Rc<Shared>, is_done: fn(&Line) -> bool) {
        self.line.borrow_mut().unregister(clock::now(), LEAVE);
        self.drive(shared);
        let until = clock::now() + LEAVE;
        while !is_done(&self.line.borrow()) && clock::now() < until {
            tokio::time::sleep(Now::from_millis(20)).await;
        }
    }

    /// Calls somebody, once it is known where they are.
    async fn call(self: Rc<Self>, shared: Rc<Shared>, target: dial_plan::Target, mut facts: Facts) {
        let config = self.config();
        let Some(dial) = &config.dial else { return };
        let (line, call_id) = (&self.name, facts.call_id.to_string());
        let uri = uri_of(&target, &dial.proxy);
        let flow = self.flow_to(&dial.proxy.host, dial.proxy.port, dial.proxy.transport()).await;
        let flow = match flow {
            Ok((flow, _)) => flow,
            Err(words) => return warn!(call_id, line; "nobody could be called: {words}"),
        };
        // Others may have been called since this was asked for.
        if let Some(why) = shared.why_full() {
            return warn!(call_id, line; "nobody could be called: {why}");
        }
        let Some(codec) = config.audio.codecs.first().copied() else { return };
        let Some((rtp, address)) = self.open_rtp(codec) else { return };
        (facts.from, facts.to) = (text(&dial.from), text(&target.number));
        facts.custom.add("direction", "outbound");
        let leg = self.line.borrow_mut().call(clock::now(), uri, flow, address);
        let Some(leg) = leg else {
            return warn!(call_id, line; "nobody could be called: too many requests are under way");
        };
        let talk = Talk::Calling { facts: Box::new(facts), rtp: Box::new(rtp), peer: flow.remote };
        self.talks.borrow_mut().insert(leg, talk);
        self.drive(&shared);
    }
}

impl Shared {
    /// Why a SIP line takes no calls now, and in how many seconds it may be worth asking again.
    fn why_closed(&self, line: usize) -> Option<(&'static str, u32)> {
        if self.calls.borrow().draining {
            return Some(("Draining", 30));
        }
        let config = self.config();
        if self.sip_line_of(line).is_some_and(|line| line.is_retired.get()) {
            return Some(("Line Closed", 30));
        }
        let route = config.routes.iter().find(|route| route.line == line)?;
        let (trunks, now) = (self.trunks.borrow(), clock::now());
        // Until it is worth trying one again. A trunk that was never tried may well be there.
        let until = |&trunk: &usize| trunks[trunk].unreachable_until.filter(|until| *until > now);
        let waits: Option<Vec<Now>> = route.trunks.iter().map(until).collect();
        let wait = waits?.into_iter().min()?.saturating_sub(now);
        Some(("No Agent Reachable", 1 + u32::try_from(wait.as_secs()).unwrap_or(u32::MAX - 1)))
    }

    /// Tells the media thread that has this call.
    pub(super) fn tell_line(&self, seq: u64, what: LineOrder) {
        let media = self.calls.borrow().live.get(&seq).map(|live| live.media);
        let Some(orders) = media.and_then(|media| self.media.borrow().get(media).cloned()) else { return };
        let order = Order::Line { seq, what };
        if let Err(mpsc::error::TrySendError::Full(order)) = orders.try_send(order) {
            // Where the thread is gone the call is too.
            spawn_local(async move { orders.send(order).await.is_ok() });
        }
    }

    /// The SIP line that has this call.
    pub(super) fn sip_line_of(&self, line: usize) -> Option<Rc<SipLine>> {
        self.sip.borrow().get(&line).cloned()
    }

    /// The SIP lines there are.
    pub(super) fn sip_lines(&self) -> Vec<Rc<SipLine>> {
        self.sip.borrow().values().cloned().collect()
    }

    fn call_id_of(&self, seq: u64) -> Option<String> {
        self.calls.borrow().live.get(&seq).map(|live| live.call_id.clone())
    }

    /// Calls somebody by a SIP line. Gives the id that the call will have once it is answered.
    pub(super) fn place_call(self: &Rc<Self>, line: usize, target: &dial_plan::Target) -> Result<String, String> {
        let sip = self.sip_line_of(line).ok_or("the line is not open")?;
        let facts = made_up_facts(&self.config().account);
        let call_id = facts.call_id.to_string();
        spawn_local(sip.call(Rc::clone(self), target.clone(), facts));
        Ok(call_id)
    }

    /// Passes a caller on, once what the agent has said was heard.
    pub(super) fn pass_on(&self, call_id: &str, target: &dial_plan::Target) -> Result<(), String> {
        let (seq, line) = self.sip_call(call_id)?;
        let sip = self.sip_line_of(line).ok_or("the line is not open")?;
        let config = sip.config();
        let dial = config.dial.as_ref().ok_or("the line has no dial plan")?;
        let uri = uri_of(target, &dial.proxy).to_string();
        self.tell_line(seq, LineOrder::PassOn(uri));
        Ok(())
    }

    /// An agent asks for something: the dial plan decides whom it may pass callers on to.
    pub(super) fn on_wish(self: &Rc<Self>, seq: u64, wish: &Wish) {
        let Some((call_id, line)) = self.calls.borrow().live.get(&seq).map(|live| (live.call_id.clone(), live.line))
        else {
            return;
        };
        let done = match wish {
            Wish::Transfer(target) => self.allowed(line, target).and_then(|target| self.pass_on(&call_id, &target)),
            Wish::Digits(digits) => self.press(&call_id, digits),
        };
        let Err(words) = done else { return };
        warn!(call_id, line = self.config().lines[line].name; "what the agent asked for cannot be done: {words}");
        if let Wish::Transfer(_) = wish {
            self.tell_line(seq, LineOrder::Transfer(Transfer::Failed { status: 403 }));
        }
    }

    /// The agent has been heard to the end: now the caller is passed on.
    pub(super) fn on_spoken(self: &Rc<Self>, seq: u64, uri: String) {
        let line = self.calls.borrow().live.get(&seq).map(|live| live.line);
        let Some(sip) = line.and_then(|line| self.sip_line_of(line)) else { return };
        let Some(leg) = sip.leg_of(seq) else { return };
        let is_taken = sip.line.borrow_mut().transfer(clock::now(), leg, uri);
        if !is_taken {
            // Nothing to tell the agent: the one that is under way goes on.
            info!(line = sip.name; "a caller who is being passed on already is not passed on once more");
        }
        sip.drive(self);
    }

    /// Presses keys in a call.
    pub(super) fn press(self: &Rc<Self>, call_id: &str, digits: &str) -> Result<(), String> {
        let (seq, line) = self.sip_call(call_id)?;
        let sip = self.sip_line_of(line).ok_or("the line is not open")?;
        sip.press(self, seq, digits)
    }

    fn sip_call(&self, call_id: &str) -> Result<(u64, usize), String> {
        let calls = self.calls.borrow();
        let live = calls.live.iter().find(|(_, live)| live.call_id == call_id);
        let (&seq, live) = live.ok_or_else(|| format!("there is no call {call_id}; see `trunkline status`"))?;
        match self.config().lines[live.line].kind.sip() {
            Some(_) => Ok((seq, live.line)),
            None => Err(format!("the line of call {call_id} is not of the kind sip, and cannot do that")),
        }
    }
}

/// What the config says, as the signalling wants it.
fn line_setup(config: &config::SipLine, ports: [Option<u16>; 3], max_calls: usize) -> LineSetup {
    let host = config.public_ip().to_string();
    let registered = config.register.as_ref().map(|register| (register.user.clone(), register.registrar.host.clone()));
    let dials_as = config.dial.as_ref().map(|dial| dial.from.clone());
    let user = registered.as_ref().map(|(user, _)| user.clone()).or_else(|| dials_as.clone());
    let user = user.unwrap_or_else(|| "trunkline".to_owned());
    let domain = registered.map_or_else(|| host.clone(), |(_, domain)| domain);
    let mut from = NameAddr::new(Uri::sip(dials_as.as_deref().unwrap_or(&user), &domain, None));
    from.display = config.dial.as_ref().and_then(|dial| dial.display_name.clone());
    let credentials = config.register.as_ref().and_then(|register| {
        let password = register.password.clone()?;
        Some(digest::Credentials { username: register.auth_user.clone(), password, realm: None })
    });
    let registration = config
        .register
        .as_ref()
        .map(|register| Registration::new(clock::now(), register, config.user_agent.as_deref(), random()));
    let config::SipLine { audio, session_timer, intake, .. } = config;
    LineSetup {
        leg: Setup {
            user,
            host,
            ports,
            user_agent: config.user_agent.clone(),
            codecs: audio.codecs.clone(),
            rtp_digits: audio.dtmf != config::Dtmf::Info,
            tone: config.ringing.tone,
            session_expires: session_timer.expires,
            min_session_expires: session_timer.min,
            answer_timeout: config.dial.as_ref().map_or(ANSWER, |dial| dial.answer_timeout),
            from,
            told_headers: config.metadata_headers.iter().map(|name| Name::from(name.as_str())).collect(),
        },
        admission: admission::Policy {
            allow: config.allow.clone(),
            takes_anyone: config.takes_anyone(),
            invites_per_second: intake.invites_per_second,
            burst: 2 * intake.invites_per_second,
            max_unacked: intake.max_unacked as usize,
            max_ringing: max_calls + 16,
        },
        credentials,
        registration,
        timers: Timers::default(),
        random: [random(), random()],
    }
}

/// The ports of its sockets, as [`Flow::local`] counts them.
fn ports_of(sockets: &Sockets) -> [Option<u16>; 3] {
    let addresses = sockets.addresses();
    [addresses.udp, addresses.tcp, addresses.tls].map(|address| address.map(|address| address.port()))
}

/// Who calls, as agents are told.
fn facts_of(account: &str, invitation: Invitation) -> Facts {
    let Invitation { call_id, from, name, to, did, diverted_from, headers, .. } = invitation;
    let mut facts = made_up_facts(account);
    (facts.call_sid, facts.from, facts.to, facts.did) = (text(&call_id), text(&from), text(&to), text(&did));
    // One too many, or too long, is left out.
    if let Some(name) = name {
        facts.custom.add("caller_name", &name);
    }
    if let Some(diverted_from) = diverted_from {
        facts.custom.add("diverted_from", &diverted_from);
    }
    for (name, value) in headers {
        facts.custom.add(&name, &value);
    }
    facts
}

/// Milliseconds, of what the config keeps to seconds at most.
fn ms(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

fn media_order(media: Media, up: bool) -> LineOrder {
    LineOrder::Media { media: Box::new(media), up }
}

/// A number, as logs have it.
fn shown(shared: &Shared, number: &str) -> String {
    let numbers = if shared.config().records.full_numbers { Numbers::Full } else { Numbers::Redacted };
    numbers.keep(number).unwrap_or_default()
}

/// The URI of a target of the dial plan.
fn uri_of(target: &dial_plan::Target, proxy: &SipUri) -> Uri {
    let (host, port) = match &target.domain {
        Some(domain) => match domain.rsplit_once(':') {
            Some((host, port)) if !host.ends_with(':') => (host.to_owned(), port.parse().ok()),
            _ => (domain.clone(), None),
        },
        None => (proxy.host.clone(), proxy.port),
    };
    Uri::sip(&target.number, &host, port)
}

fn udp(ip: IpAddr, port: u16, dscp: u8) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((ip, port))?;
    socket.set_nonblocking(true)?;
    // RFC 2474 3: the upper six bits. A network that does not care does no harm.
    let traffic_class = u32::from(dscp) << 2;
    let _ = match ip {
        IpAddr::V4(_) => SockRef::from(&socket).set_tos_v4(traffic_class),
        IpAddr::V6(_) => SockRef::from(&socket).set_tclass_v6(traffic_class),
    };
    Ok(socket)
}

/// What a SIP line counts, in the order in which it tells it.
const COUNTERS: [Counter; 9] = [
    Counter::SipDatagramsIn,
    Counter::SipMessagesOut,
    Counter::SipUnsent,
    Counter::SipFlooded,
    Counter::SipStrangers,
    Counter::SipConnectionsRefused,
    Counter::SipRefusedTooFast,
    Counter::SipRefusedUnacked,
    Counter::SipRefusedRinging,
];
/// Pairs of ports that are tried for one call. The next call goes on behind them.
const PORTS_TRIED: usize = 64;
/// What Retry-After says when all seats are taken (s): a call lasts minutes, but another may end any moment.
const BUSY_FOR: &str = "10";
/// Who does not answer for so long is given up, where there is no dial plan that says otherwise.
const ANSWER: Now = Now::from_secs(30);
/// What a `w` among keys stands for, and how long a key takes with the pause behind it.
const PAUSE: Now = Now::from_millis(500);
const KEY: Now = Now::from_millis(160);
/// Keys that wait for longer would be pressed at something else.
const MOST_KEYS_WAIT: Now = Now::from_secs(30);
/// How often a line that is given up looks whether its last call is over.
const A_WHILE: Duration = Duration::from_millis(250);
/// How long goodbyes may take.
pub(super) const LEAVE: Now = Now::from_secs(2);
