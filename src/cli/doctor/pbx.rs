//! A PBX, asked: OPTIONS, and a REGISTER that is taken back.
//!
//! It has sockets and transactions of its own, from a free port. So a daemon that runs is not disturbed, and the only
//! contact that is removed is the one that was made here.

use core::{future::Future, net::SocketAddr, time::Duration};
use std::{fs, rc::Rc};

use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{
    Daemon, Site,
    network::{self, Names},
};
use crate::{
    clock,
    config::{Register, SipLine, SipUri},
    control::desk::Readiness,
    dialect::{self, Role},
    doctor::{
        Check, Finding,
        pbx::{self, Asked, Registered},
        port,
    },
    leg::{
        sip::{
            Flow, Message, Method, Name, NameAddr, Request, Transport, Uri,
            random::{random, seed},
            registration::{Contact, Failure, Registration, State, Step},
            resolve::resolve,
            transaction::{Event, Limits, SentBy, Timers, Transactions, TxId},
            transport::{self, Received, Sockets},
        },
        websocket::tls,
    },
    media::{Now, Rate},
};

/// Whom a line speaks to, each once, and as what beside a registrar.
pub(super) fn peers(line: &SipLine) -> impl Iterator<Item = (&'static str, &SipUri)> {
    let register = line.register.iter().flat_map(|register| {
        let backup = register.backup.iter().map(|backup| ("backup", backup));
        [("", &register.registrar)].into_iter().chain(backup)
    });
    let mut known: Vec<(&'static str, &SipUri)> = register.collect();
    let proxy = line.dial.as_ref().map(|dial| &dial.proxy);
    if let Some(proxy) = proxy.filter(|proxy| !known.iter().any(|(_, uri)| uri == proxy)) {
        known.push(("proxy", proxy));
    }
    known.into_iter()
}

/// A line: what it offers, and each of its peers.
pub(super) async fn line(site: &Site, n: usize, names: &Names) -> Vec<Finding> {
    let name = &site.config.lines[n].name;
    let Some(sip) = site.config.lines[n].kind.sip() else { return Vec::new() };
    let mut findings = vec![codecs(site, n, sip)];
    // A registrar, a backup, a proxy: at once, so that silent ones are waited for together.
    let mut peers = peers(sip).map(|known| peer(site, name, sip, names, known));
    let (first, second, third) = tokio::join!(told(peers.next()), told(peers.next()), told(peers.next()));
    findings.extend([first, second, third].into_iter().flatten());
    findings
}

async fn told(look: Option<impl Future<Output = Vec<Finding>>>) -> Vec<Finding> {
    match look {
        Some(look) => look.await,
        None => Vec::new(),
    }
}

async fn peer(
    site: &Site,
    name: &str,
    sip: &SipLine,
    names: &Names,
    (key, uri): (&'static str, &SipUri),
) -> Vec<Finding> {
    let place = format!("[line.{name}]{}", if key.is_empty() { "" } else { " " }) + key;
    if !names.has(&uri.host) {
        return vec![Finding::skip(Check::SipOptions, place, "its name has no address: see the line on DNS")];
    }
    let register = sip.register.as_ref().filter(|_| key != "proxy");
    let in_use = register.and_then(|_| by_daemon(&site.daemon, name, || holder(sip)));
    let asking = register.filter(|_| in_use.is_none()).map(|register| Register {
        registrar: uri.clone(),
        backup: None,
        expires: register.expires.min(SHORT),
        ..register.clone()
    });
    let shaking = async {
        if uri.transport() != Transport::Tls {
            return None;
        }
        let at = (uri.host.as_str(), uri.port());
        network::secure(&format!("{place} TLS"), at, sip.ca_file.as_deref(), false, site.now).await
    };
    let asking = async {
        let (asked, registered) = ask(sip, uri, asking.as_ref()).await;
        match (registered, register, asking) {
            // RFC 3261 10.3: too short. Only as long as the config says, then.
            (Some(Registered::Refused(Failure::Status { status: 423, .. })), Some(register), Some(short))
                if short.expires < register.expires =>
            {
                let long = Register { expires: register.expires, ..short };
                (asked, ask(sip, uri, Some(&long)).await.1)
            }
            (registered, ..) => (asked, registered),
        }
    };
    let (shaken, (asked, registered)) = tokio::join!(shaking, asking);
    let mut findings: Vec<Finding> = shaken.into_iter().collect();
    findings.push(pbx::judge_options(format!("{place} OPTIONS"), &uri.to_string(), &asked));
    if let Some(register) = register {
        let registered = registered.or(in_use).unwrap_or(Registered::Refused(Failure::NoAnswer));
        let user = (register.user.as_str(), register.auth_user.as_str());
        findings.push(pbx::judge_register(format!("{place} REGISTER"), &uri.to_string(), user, &registered));
    }
    findings
}

/// How its registration stands, where a daemon has it or may have it. Where the PBX allows one contact for each
/// extension, ours would take the place of the daemon's. `holder`: which port of the line somebody has.
fn by_daemon(
    daemon: &Daemon,
    line: &str,
    holder: impl FnOnce() -> Option<(&'static str, SocketAddr)>,
) -> Option<Registered> {
    match daemon {
        Daemon::Down => holder().map(|(protocol, address)| {
            Registered::NotAsked(format!(
                "{protocol} {address} is in use, maybe by a daemon that cannot be asked here, and its registration is not \
                 to be disturbed"
            ))
        }),
        Daemon::Unknown => {
            Some(Registered::NotAsked("the daemon may run, and its registration is not to be disturbed".to_owned()))
        }
        Daemon::Runs(status) => {
            let known = status.lines.iter().find(|known| known.name == line);
            let Some(state) = known.and_then(|known| known.registration.clone()) else {
                return Some(Registered::NotAsked(
                    "the daemon runs with another config, in which this line does not register; what it does is not to \
                     be disturbed"
                        .to_owned(),
                ));
            };
            let drains = status.state == Readiness::Draining;
            Some(Registered::ByDaemon { line: line.to_owned(), state, drains })
        }
    }
}

/// Which port of the line somebody has. It is read and not tried, so that a daemon that starts meanwhile gets it.
fn holder(line: &SipLine) -> Option<(&'static str, SocketAddr)> {
    let plain = [("udp", line.udp), ("tcp", line.tcp)].into_iter().filter(|(_, is_on)| *is_on);
    let tls = line.tls.as_ref().map(|tls| ("tcp", tls.address));
    let mut ours = plain.map(|(protocol, _)| (protocol, line.listen)).chain(tls);
    ours.find(|(protocol, address)| {
        address.port() != 0
            && ["", "6"].iter().any(|family| {
                let table = fs::read_to_string(format!("/proc/net/{protocol}{family}")).unwrap_or_default();
                port::listeners(&table, *protocol == "udp").any(|(there, _)| port::is_in_the_way(there, *address))
            })
    })
}

fn codecs(site: &Site, n: usize, sip: &SipLine) -> Finding {
    let name = &site.config.lines[n].name;
    let line_rate = sip.audio.codecs.iter().map(|codec| codec.rate()).max().unwrap_or(Rate::Hz8000);
    let routed = site.config.routes.iter().filter(|route| route.line == n).flat_map(|route| &route.trunks);
    let trunks = routed.filter_map(|&trunk| {
        let trunk = &site.config.trunks[trunk];
        let role = Role::Vendor;
        let grammar = dialect::open(trunk.dialect, role, trunk.sample_rate, line_rate, &trunk.options)?;
        Some((trunk.name.as_str(), grammar.rate()))
    });
    pbx::judge_codecs(&format!("[line.{name}] codecs"), &sip.audio.codecs, &trunks.collect::<Vec<_>>())
}

/// Asks a PBX whether it is there, and whether it takes us.
async fn ask(line: &SipLine, peer: &SipUri, register: Option<&Register>) -> (Asked, Option<Registered>) {
    let mut probe = match Probe::open(line, peer, register).await {
        Ok(probe) => probe,
        Err(words) => {
            let registered = register.map(|_| Registered::Refused(Failure::Unreachable(words.clone())));
            return (Asked::Unreachable(words), registered);
        }
    };
    // However it ends, what is known by then is told.
    let _ = timeout(PATIENCE, probe.run(Probe::is_answered)).await;
    let asked = probe.asked.take().unwrap_or(Asked::Silent(PATIENCE.as_secs()));
    let now = clock::now();
    let registered = probe.registration.as_ref().map(|registration| match registration.state(now) {
        State::Registered { .. } => Registered::Taken,
        State::Failing { why, .. } => Registered::Refused(why),
        State::Trying | State::Unregistered => Registered::Refused(Failure::NoAnswer),
    });
    if let Some(registration) = &mut probe.registration {
        registration.unregister(clock::now(), GOODBYE);
        let _ = timeout(GOODBYE, probe.run(Probe::is_over)).await;
    }
    (asked, registered)
}

/// One PBX and what was asked of it.
struct Probe {
    sockets: Sockets,
    received: mpsc::Receiver<Received>,
    transactions: Transactions,
    flow: Flow,
    contact: Contact,
    began: Now,
    options: Option<TxId>,
    asked: Option<Asked>,
    registration: Option<Registration>,
    register: Option<TxId>,
}

impl Probe {
    async fn open(line: &SipLine, peer: &SipUri, register: Option<&Register>) -> Result<Self, String> {
        let local = line.listen.ip();
        let trust = (peer.transport() == Transport::Tls).then(|| tls::client_config(line.ca_file.as_deref()));
        let setup = transport::Setup {
            line: "doctor".to_owned(),
            udp: Some(SocketAddr::new(local, 0)),
            tcp: None,
            tls: None,
            trust: trust.transpose().map_err(|error| error.to_string())?,
            is_known: Rc::new(|_| true),
            limits: transport::Limits::default(),
            patience: Default::default(),
        };
        let (sockets, received) = Sockets::open(setup).map_err(|error| format!("from {local}: {error}"))?;
        let found = resolve(&peer.host, peer.port, peer.transport(), local).await?;
        let first = *found.first().ok_or_else(|| format!("{} has no address", peer.host))?;
        let flow = sockets.connect(peer.transport(), first, &peer.host).map_err(|unsent| unsent.to_string())?;
        let host = line.public_ip().to_string();
        let port = sockets.addresses().udp.map_or(0, |address| address.port());
        let sent_by = SentBy { host: host.clone(), port: Some(port) };
        // A socket takes datagrams only when the runtime has looked at it once.
        sleep(A_TURN).await;
        let now = clock::now();
        let mut probe = Self {
            sockets,
            received,
            transactions: Transactions::new(Limits::default(), Timers::default(), random(), sent_by),
            flow,
            contact: Contact { host, port },
            began: now,
            options: None,
            asked: None,
            registration: register
                .map(|register| Registration::new(now, register, line.user_agent.as_deref(), random())),
            register: None,
        };
        let request = options(line, peer, &probe.contact);
        probe.options = probe.transactions.request(now, flow, request).ok();
        Ok(probe)
    }

    fn is_answered(&self) -> bool {
        let state = self.registration.as_ref().map(|registration| registration.state(clock::now()));
        self.asked.is_some() && !matches!(state, Some(State::Trying))
    }

    fn is_over(&self) -> bool {
        self.registration.as_ref().is_none_or(Registration::is_over)
    }

    /// Until what is wanted has come about.
    async fn run(&mut self, until: fn(&Self) -> bool) {
        loop {
            self.drive();
            if until(self) {
                return;
            }
            let registration = self.registration.as_ref().and_then(Registration::poll_timeout);
            let due = self.transactions.poll_timeout().into_iter().chain(registration).min();
            let waited = due.map_or(LONGEST, |at| at.saturating_sub(clock::now())).min(LONGEST);
            tokio::select! {
                received = self.received.recv() => match received {
                    Some(Received::Message { flow, message: Ok(Message::Response(response)) }) => {
                        let now = clock::now();
                        let Some(tx) = self.transactions.handle_response(now, flow, &response) else { continue };
                        if self.options == Some(tx) && !response.is_provisional() {
                            let ms = now.saturating_sub(self.began).as_millis() as u64;
                            self.asked.get_or_insert(Asked::Answered(response.status, ms));
                        } else if self.register == Some(tx)
                            && let Some(registration) = &mut self.registration
                        {
                            registration.handle_response(now, &response);
                        }
                    }
                    // What a PBX may want of us is not for us.
                    Some(Received::Message { .. }) => {}
                    Some(Received::Closed { flow, why }) => self.fail(flow, why.to_string()),
                    None => return,
                },
                () = sleep(waited) => self.transactions.handle_timeout(clock::now()),
            }
        }
    }

    /// Does and sends what is due.
    fn drive(&mut self) {
        let now = clock::now();
        while let Some(step) = self.registration.as_mut().and_then(|registration| registration.poll_step(now)) {
            let Some(registration) = &mut self.registration else { return };
            match step {
                Step::Reach(_) => registration.handle_reached(self.contact.clone()),
                Step::Send(request) => match self.transactions.request(now, self.flow, request) {
                    Ok(tx) => self.register = Some(tx),
                    Err(full) => registration.handle_failure(now, Failure::Unreachable(full.to_string())),
                },
            }
        }
        while let Some(transmit) = self.transactions.poll_transmit() {
            if let Err(unsent) = self.sockets.send(transmit.flow, &transmit.bytes) {
                self.fail(transmit.flow, unsent.to_string());
            }
        }
        self.take_events("nothing could be sent there");
    }

    fn fail(&mut self, flow: Flow, why: String) {
        self.transactions.handle_flow_failed(flow);
        self.take_events(&why);
    }

    fn take_events(&mut self, why: &str) {
        while let Some(event) = self.transactions.poll_event() {
            let (tx, is_silent) = match event {
                Event::TimedOut(tx) => (tx, true),
                Event::TransportFailed(tx) => (tx, false),
                Event::NoAck(_) | Event::NoPrack(_) => continue,
            };
            let seconds = clock::now().saturating_sub(self.began).as_secs();
            if self.options == Some(tx) {
                let asked = if is_silent { Asked::Silent(seconds) } else { Asked::Unreachable(why.to_owned()) };
                self.asked.get_or_insert(asked);
            } else if self.register == Some(tx)
                && let Some(registration) = &mut self.registration
            {
                let why = if is_silent { Failure::NoAnswer } else { Failure::Unreachable(why.to_owned()) };
                registration.handle_failure(clock::now(), why);
            }
        }
    }
}

/// RFC 3261 11.1.
fn options(line: &SipLine, peer: &SipUri, contact: &Contact) -> Request {
    let user = line.register.as_ref().map(|register| register.user.as_str());
    let user = user.or(line.dial.as_ref().map(|dial| dial.from.as_str())).unwrap_or("trunkline");
    let uri = Uri::from(peer);
    let own = Uri::sip(user, &contact.host, Some(contact.port));
    let mut from = NameAddr::new(own.clone());
    from.set_tag(&format!("{:016x}", seed()));
    let mut request = Request::new(Method::Options, uri.clone());
    let headers = &mut request.headers;
    headers.push(Name::MaxForwards, "70");
    headers.push(Name::From, from.to_string());
    headers.push(Name::To, NameAddr::new(uri).to_string());
    headers.push(Name::CallId, format!("{:016x}{:016x}", seed(), seed()));
    headers.push(Name::CSeq, "1 OPTIONS");
    headers.push(Name::Contact, NameAddr::new(own).to_string());
    headers.push(Name::Accept, "application/sdp");
    if let Some(user_agent) = &line.user_agent {
        headers.push(Name::UserAgent, user_agent.as_str());
    }
    request
}

/// For all answers. A PBX on site takes milliseconds, and of three datagrams one arrives (RFC 3261 17.1.2.2: after 0.5,
/// 1.5 and 3.5 s they are repeated).
const PATIENCE: Duration = Duration::from_secs(5);

/// Of a registration that is taken back at once: what stays of it where that does not arrive, does not stay long. It is
/// the least that Asterisk and Kamailio take by default (`minimum_expiration`, `min_expires`).
const SHORT: Duration = Duration::from_secs(60);

/// For taking the registration back. What is not taken back runs out by itself.
const GOODBYE: Duration = Duration::from_secs(2);

const A_TURN: Duration = Duration::from_millis(1);

/// Nothing is waited for longer without looking.
const LONGEST: Duration = Duration::from_millis(200);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn running(state: &str, lines: &serde_json::Value) -> Daemon {
        let told = serde_json::json!({
            "version": "0.1.0", "pid": 7, "uptime_seconds": 60, "state": state, "problems": [], "max_calls": 8,
            "drain_seconds": 60, "pool_high_water_bytes": 0, "lines": lines, "trunks": [], "calls": [],
            "records": {"waiting": 0, "lost": 0}, "sinks": {"waiting": 0, "refused": 0, "lost": 0}, "journal_dropped": 0
        });
        Daemon::Runs(Box::new(serde_json::from_value(told).unwrap()))
    }

    #[test]
    fn no_registration_is_made_beside_one_that_a_daemon_has_or_may_have() {
        let of = |daemon: &Daemon| by_daemon(daemon, "pbx", || None);
        let line = |name: &str, registration: Option<&str>| serde_json::json!([{"name": name, "kind": "sip", "calls": 0, "registration": registration}]);
        let has = |state: &str, drains| {
            Some(Registered::ByDaemon { line: "pbx".to_owned(), state: state.to_owned(), drains })
        };
        assert_eq!(of(&running("ready", &line("pbx", Some("registered")))), has("registered", false));
        assert_eq!(of(&running("draining", &line("pbx", Some("unregistered")))), has("unregistered", true));
        // It may be registered as the same extension by a line of another name.
        for daemon in [running("ready", &line("office", Some("registered"))), running("ready", &line("pbx", None))] {
            assert!(matches!(of(&daemon), Some(Registered::NotAsked(why)) if why.contains("another config")));
        }
        assert!(matches!(of(&Daemon::Unknown), Some(Registered::NotAsked(_))));
        assert_eq!(of(&Daemon::Down), None);
        let taken = by_daemon(&Daemon::Down, "pbx", || Some(("udp", "192.0.2.20:5060".parse().unwrap())));
        assert!(matches!(taken, Some(Registered::NotAsked(why)) if why.starts_with("udp 192.0.2.20:5060 is in use")));
    }
}
