//! A SIP line: everything that its signalling is, but the sockets and the clock.
//!
//! ```text
//!   handle_message, handle_flow_failed, handle_timeout       what happened
//!   ring, accept, refuse, hang_up, transfer, send_digit      what the daemon wants of a call
//!   call, set_closed, unregister                             and of the line
//!   poll_transmit, poll_event, poll_timeout                  what follows from it
//! ```
//!
//! Whoever is not known is not answered. Whoever is gets an answer to everything, and nothing of a call exists before it
//! was found to be one that we could take.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
};

use crate::{
    leg::sip::{
        Flow, Malformed, Message, Method, Name, Request, Response, Uri,
        admission::{self, Admission, Load, Verdict},
        dialog::DialogId,
        digest,
        leg::{
            Callee, Ending, Event, Leg, LegId, NotTaken, Parts, Setup, bad_event, bad_extension, capabilities,
            not_allowed,
        },
        registration::{self, Contact, Failure, Registration, Step},
        transaction::{self, Incoming, Limits, Random, SentBy, Timers, Transactions, Transmit, TxId},
    },
    media::Now,
};

/// What a line is made of.
pub struct LineSetup {
    /// What is said of every call.
    pub leg: Setup,
    /// Who may bring calls.
    pub admission: admission::Policy,
    /// What proves who we are; `None`: nothing does.
    pub credentials: Option<digest::Credentials>,
    /// What keeps us registered; `None`: we are not.
    pub registration: Option<Registration>,
    /// How long the steps of a transaction take.
    pub timers: Timers,
    /// Where random numbers come from: one source for the transactions, one for the rest.
    pub random: [Random; 2],
}

/// The signalling of a line.
pub struct Line {
    setup: Setup,
    transactions: Transactions,
    legs: BTreeMap<LegId, Leg>,
    admission: Admission,
    digest: Option<digest::Client>,
    registration: Option<Registration>,
    /// Where the registrar is, and the REGISTER that waits for its answer.
    registrar: Option<Flow>,
    register: Option<TxId>,
    /// Why nothing goes where the transactions are being told that nothing does.
    why_failed: Option<String>,
    random: Random,
    events: VecDeque<Event>,
    last_leg: u64,
    /// Why no calls are taken now, and in how many seconds it may be worth asking again.
    closed: Option<(&'static str, u32)>,
}

impl Line {
    /// A line without calls.
    #[must_use]
    pub fn new(setup: LineSetup) -> Self {
        let LineSetup { leg, admission, credentials, registration, timers, random: [ours, random] } = setup;
        let sent_by = SentBy { host: leg.host.clone(), port: leg.ports[0] };
        let mut this = Self {
            transactions: Transactions::new(Limits::default(), timers, ours, sent_by),
            setup: leg.clone(),
            legs: BTreeMap::new(),
            admission: Admission::new(admission),
            digest: credentials.map(digest::Client::new),
            registration,
            registrar: None,
            register: None,
            why_failed: None,
            random,
            events: VecDeque::new(),
            last_leg: 0,
            closed: None,
        };
        this.announce(&leg);
        this
    }

    /// Goes on by another setup; the legs that there are go on by it, too. `timers` and `random` stay, and the registration
    /// does unless `registers_anew`.
    pub fn succeed(&mut self, now: Now, setup: LineSetup, registers_anew: bool) {
        let LineSetup { leg, admission, credentials, registration, timers: _, random: _ } = setup;
        self.announce(&leg);
        self.setup = leg;
        self.admission.set_policy(admission);
        if registers_anew {
            self.digest = credentials.map(digest::Client::new);
            // What is under way would be taken for an answer to the first of the new ones.
            self.register = None;
            self.registration = registration;
            if self.registration.is_none() {
                self.admission.set_registrars(&[]);
            }
            self.register(now);
        }
    }

    /// Names us in Via.
    fn announce(&mut self, setup: &Setup) {
        for (local, port) in (0..).zip(setup.ports) {
            if let Some(port) = port {
                self.transactions.set_sent_by(local, SentBy { host: setup.host.clone(), port: Some(port) });
            }
        }
    }

    /// Takes what came from a peer, read or not.
    pub fn handle_message(&mut self, now: Now, flow: Flow, message: Result<Message, Malformed>) {
        if !self.is_heard(flow.remote.ip(), &message) {
            // For the count; a scanner does not learn that somebody is there.
            let _ = self.admission.check(now, flow.remote, &Method::Options, Load::default());
            return;
        }
        match message {
            Ok(Message::Request(request)) => self.on_request(now, flow, request),
            Ok(Message::Response(response)) => self.on_response(now, flow, &response),
            Err(malformed) => {
                if let Some(response) = malformed.response() {
                    self.transactions.reply(flow, response);
                }
            }
        }
    }

    /// Whether anything is taken from there: it is known, or it is whom we called and what it says belongs to that.
    fn is_heard(&self, source: IpAddr, message: &Result<Message, Malformed>) -> bool {
        let belongs = match message {
            Ok(Message::Request(request)) => request.to().is_ok_and(|to| to.tag().is_some()),
            Ok(Message::Response(_)) => true,
            Err(_) => false,
        };
        self.admission.is_known(source) || (belongs && self.legs.values().any(|leg| leg.flow().remote.ip() == source))
    }

    fn on_request(&mut self, now: Now, flow: Flow, mut request: Request) {
        let is_new_call = request.method == Method::Invite && request.to().is_ok_and(|to| to.tag().is_none());
        if is_new_call && !self.transactions.is_repeat(&request) {
            if let Some((why, retry_after)) = self.closed {
                return self.turn_away(flow, &request, 503, retry_after, why);
            }
            let ringing = self.legs.values().filter(|leg| leg.is_unanswered()).count();
            let load = Load { unacked: self.transactions.unacked(), ringing };
            match self.admission.check(now, flow.remote, &request.method, load) {
                Verdict::Admit => {}
                Verdict::Ignore => return,
                Verdict::Refuse { status, retry_after_s } => {
                    return self.turn_away(flow, &request, status, retry_after_s, "too many calls");
                }
            }
        }
        match self.transactions.handle_request(now, flow, &mut request) {
            Incoming::New(tx) => self.on_new_request(now, flow, tx, request),
            Incoming::Ack => {
                if let Some(id) = self.leg_of(&request) {
                    self.with_leg(now, id, |leg, parts| leg.handle_ack(parts, &request));
                }
            }
            Incoming::Cancel { invite, cancel } => {
                let leg = self.leg_with_invite(invite);
                let mut answer = request.answer(200);
                // RFC 3261 9.2: the tag of the answers to the INVITE. Where it was refused already any will do.
                if let Some(tag) = leg.and_then(|leg| self.legs.get(&leg)).and_then(Leg::tag) {
                    answer.headers.set_to_tag(tag);
                }
                self.answer(now, cancel, answer);
                if let Some(id) = leg {
                    self.with_leg(now, id, Leg::handle_cancel);
                }
            }
            Incoming::Absorbed | Incoming::Refused(_) | Incoming::Malformed => {}
        }
    }

    /// Answers without keeping anything of it.
    fn turn_away(&mut self, flow: Flow, request: &Request, status: u16, retry_after_s: u32, why: &str) {
        let mut response = request.response(status, why);
        response.headers.push(Name::RetryAfter, retry_after_s.to_string());
        self.transactions.reply(flow, response);
    }

    fn on_new_request(&mut self, now: Now, flow: Flow, tx: TxId, request: Request) {
        if request.to().is_ok_and(|to| to.tag().is_some()) {
            return match self.leg_of(&request) {
                Some(id) => self.with_leg(now, id, |leg, parts| leg.handle_request(parts, tx, &request)),
                None => self.answer(now, tx, request.answer(481)),
            };
        }
        if request.method == Method::Invite {
            return self.on_invite(now, flow, tx, request);
        }
        if let Some(response) = bad_extension(&request) {
            return self.answer(now, tx, response);
        }
        let response = match request.method {
            Method::Options => capabilities(&request, if self.closed.is_some() { 503 } else { 200 }),
            Method::Notify => notified(&request),
            Method::Refer => request.answer(603),
            Method::Bye | Method::Update | Method::Info | Method::Prack => request.answer(481),
            Method::Subscribe => bad_event(&request),
            Method::Register | Method::Message | Method::Publish | Method::Other(_) => not_allowed(&request),
            Method::Invite | Method::Ack | Method::Cancel => return,
        };
        self.answer(now, tx, response);
    }

    fn on_invite(&mut self, now: Now, flow: Flow, tx: TxId, request: Request) {
        let id = self.next_leg();
        let refusal = request.clone();
        match self.with(now, |parts| Leg::called(parts, (id, flow, tx), request)) {
            Ok(leg) => {
                self.legs.insert(id, leg);
            }
            Err(NotTaken { status, header, why }) => {
                let mut response = refusal.answer(status);
                if let Some((name, value)) = header {
                    response.headers.push(name, value);
                }
                self.answer(now, tx, response);
                self.events.push_back(Event::NotTaken { source: flow.remote, status, why });
            }
        }
    }

    fn on_response(&mut self, now: Now, flow: Flow, response: &Response) {
        let Some(tx) = self.transactions.handle_response(now, flow, response) else { return };
        if self.register == Some(tx) {
            if let Some(registration) = &mut self.registration {
                registration.handle_response(now, response);
            }
            return self.register(now);
        }
        if let Some(id) = self.leg_that_asked(tx) {
            self.with_leg(now, id, |leg, parts| leg.handle_response(parts, tx, response));
        }
    }

    /// A connection is over or did not come about, or something could not be sent, and why.
    pub fn handle_flow_failed(&mut self, now: Now, flow: Flow, why: String) {
        self.why_failed = Some(why);
        self.transactions.handle_flow_failed(flow);
        self.take_transaction_events(now);
        if flow.is_reliable() && self.registrar == Some(flow) {
            self.registrar = None;
            if let Some(registration) = &mut self.registration {
                registration.renew(now);
            }
            self.register(now);
        }
        self.why_failed = None;
    }

    /// Does what keeps us registered.
    fn register(&mut self, now: Now) {
        let Some(registration) = &mut self.registration else { return };
        while let Some(step) = registration.poll_step(now) {
            match (step, self.registrar) {
                (Step::Reach(target), _) => self.events.push_back(Event::Reach(target)),
                (Step::Send(request), Some(flow)) => match self.transactions.request(now, flow, request) {
                    Ok(tx) => self.register = Some(tx),
                    Err(full) => registration.handle_failure(now, Failure::Unreachable(full.to_string())),
                },
                (Step::Send(_), None) => {
                    registration.handle_failure(now, Failure::Unreachable("its connection is gone".to_owned()));
                }
            }
        }
        while let Some(news) = registration.poll_news() {
            self.events.push_back(Event::Registration(news));
        }
    }

    /// There is a flow to the registrar that [`Event::Reach`] asked for, and this is where it finds us.
    pub fn handle_reached(&mut self, now: Now, flow: Flow, contact: Contact) {
        self.registrar = Some(flow);
        if let Some(registration) = &mut self.registration {
            registration.handle_reached(contact);
        }
        self.register(now);
    }

    /// There is none.
    pub fn handle_unreached(&mut self, now: Now, words: String) {
        if let Some(registration) = &mut self.registration {
            registration.handle_failure(now, Failure::Unreachable(words));
        }
        self.register(now);
    }

    /// Whether this is a registrar of ours, still.
    #[must_use]
    pub fn registers_at(&self, target: &registration::Target) -> bool {
        self.registration.as_ref().is_some_and(|registration| registration.targets().any(|own| own == *target))
    }

    /// How our registration stands, if we register.
    #[must_use]
    pub fn registration(&self, now: Now) -> Option<registration::State> {
        self.registration.as_ref().map(|registration| registration.state(now))
    }

    /// The daemon goes down: the registrar is told, within `limit`.
    pub fn unregister(&mut self, now: Now, limit: Now) {
        if let Some(registration) = &mut self.registration {
            registration.unregister(now, limit);
        }
        self.register(now);
    }

    /// Whether no registrar has to be told any more.
    #[must_use]
    pub fn is_unregistered(&self) -> bool {
        self.registration.as_ref().is_none_or(Registration::is_over)
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Now> {
        let legs = self.legs.values().filter_map(Leg::poll_timeout);
        let registration = self.registration.as_ref().and_then(Registration::poll_timeout);
        legs.chain(self.transactions.poll_timeout()).chain(registration).min()
    }

    /// Time went on.
    pub fn handle_timeout(&mut self, now: Now) {
        self.transactions.handle_timeout(now);
        self.take_transaction_events(now);
        let due: Vec<LegId> = self
            .legs
            .iter()
            .filter(|(_, leg)| leg.poll_timeout().is_some_and(|at| at <= now))
            .map(|(&id, _)| id)
            .collect();
        for id in due {
            self.with_leg(now, id, Leg::handle_timeout);
        }
        self.register(now);
    }

    fn take_transaction_events(&mut self, now: Now) {
        while let Some(event) = self.transactions.poll_event() {
            match event {
                transaction::Event::TimedOut(tx) => self.on_no_answer(now, tx, 408),
                transaction::Event::TransportFailed(tx) => self.on_no_answer(now, tx, 503),
                transaction::Event::NoAck(invite) => {
                    if let Some(id) = self.leg_with_invite(invite) {
                        self.with_leg(now, id, |leg, parts| leg.handle_no_ack(parts, invite));
                    }
                }
                transaction::Event::NoPrack(invite) => {
                    if let Some(id) = self.leg_with_invite(invite) {
                        self.with_leg(now, id, Leg::handle_no_prack);
                    }
                }
            }
        }
    }

    fn on_no_answer(&mut self, now: Now, tx: TxId, status: u16) {
        if self.register == Some(tx) {
            if let Some(registration) = &mut self.registration {
                let why = match (status, &self.why_failed) {
                    (503, Some(why)) => Failure::Unreachable(why.clone()),
                    _ => Failure::NoAnswer,
                };
                registration.handle_failure(now, why);
            }
            self.register(now);
        } else if let Some(id) = self.leg_that_asked(tx) {
            self.with_leg(now, id, |leg, parts| leg.handle_no_answer(parts, tx, status));
        } else if let Some(id) = self.leg_with_invite(tx) {
            // The connection of a call that still rings is gone.
            self.with_leg(now, id, Leg::handle_cancel);
        }
    }

    /// What is to be sent.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transactions.poll_transmit()
    }

    /// What happened to calls.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether anything at all is taken from there.
    #[must_use]
    pub fn is_known(&self, source: IpAddr) -> bool {
        self.admission.is_known(source)
    }

    /// How many requests were not let in for this reason.
    #[must_use]
    pub const fn refused(&self, reason: admission::Reason) -> u64 {
        self.admission.refused(reason)
    }

    /// Requests that were not let in, told once a minute.
    pub fn poll_refusals(&mut self) -> Option<admission::News> {
        self.admission.poll_news()
    }

    /// Whose requests are taken beside those that the config allows: the registrar's.
    pub fn set_registrars(&mut self, addresses: &[IpAddr]) {
        self.admission.set_registrars(addresses);
    }

    /// Why no calls are taken, and in how many seconds one may be again; `None`: they are.
    pub const fn set_closed(&mut self, closed: Option<(&'static str, u32)>) {
        self.closed = closed;
    }

    /// The phone of this leg is to ring; its audio will be at this address of ours.
    pub fn ring(&mut self, now: Now, leg: LegId, rtp: SocketAddr) {
        self.with_leg(now, leg, |leg, parts| leg.ring(parts, rtp));
    }

    /// This call is taken, unless too many that were have no ACK yet.
    pub fn accept(&mut self, now: Now, leg: LegId) {
        let Some(source) = self.legs.get(&leg).map(|leg| leg.flow().remote) else { return };
        match self.admission.check_answer(now, source, self.transactions.unacked()) {
            Verdict::Admit | Verdict::Ignore => self.with_leg(now, leg, Leg::accept),
            Verdict::Refuse { status, retry_after_s } => {
                let headers = [(Name::RetryAfter, retry_after_s.to_string())];
                let why = Ending::Lost("too many calls wait for the ACK of their answer");
                self.with_leg(now, leg, |leg, parts| leg.refuse(parts, status, &headers, &why));
            }
        }
    }

    /// This call is not taken, with headers that say more.
    pub fn refuse(&mut self, now: Now, leg: LegId, status: u16, headers: &[(Name, String)]) {
        self.with_leg(now, leg, |leg, parts| leg.refuse(parts, status, headers, &Ending::Ours));
    }

    /// This call is over, however far it is.
    pub fn hang_up(&mut self, now: Now, leg: LegId) {
        self.with_leg(now, leg, Leg::hang_up);
    }

    /// The caller is passed on to this URI. `false`: there is no such call, it is not up, or a transfer is under way.
    pub fn transfer(&mut self, now: Now, leg: LegId, to: String) -> bool {
        let mut taken = false;
        self.with_leg(now, leg, |leg, parts| taken = leg.transfer(parts, to));
        taken
    }

    /// Whether the peer of this call takes keys in RTP.
    #[must_use]
    pub fn takes_rtp_digits(&self, leg: LegId) -> bool {
        self.legs.get(&leg).is_some_and(Leg::takes_rtp_digits)
    }

    /// A key is pressed, by INFO.
    pub fn send_digit(&mut self, now: Now, leg: LegId, digit: u8) {
        self.with_leg(now, leg, |leg, parts| leg.send_digit(parts, digit));
    }

    /// Calls somebody; our audio will be at `rtp`. `None`: too many requests are under way.
    pub fn call(&mut self, now: Now, uri: Uri, flow: Flow, rtp: SocketAddr) -> Option<LegId> {
        let id = self.next_leg();
        let leg = self.with(now, |parts| Leg::call(parts, id, Callee { uri, flow, rtp }))?;
        self.legs.insert(id, leg);
        Some(id)
    }

    /// Legs that are not over.
    #[must_use]
    pub fn len(&self) -> usize {
        self.legs.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.legs.is_empty()
    }

    fn next_leg(&mut self) -> LegId {
        self.last_leg += 1;
        LegId(self.last_leg)
    }

    fn answer(&mut self, now: Now, tx: TxId, mut response: Response) {
        response.headers.set_to_tag(&format!("{:016x}", (self.random)()));
        self.with(now, |parts| parts.respond(tx, response));
    }

    fn leg_that_asked(&self, tx: TxId) -> Option<LegId> {
        self.legs.values().find(|leg| leg.has_asked(tx)).map(Leg::id)
    }

    fn leg_with_invite(&self, invite: TxId) -> Option<LegId> {
        self.legs.values().find(|leg| leg.has_invite(invite)).map(Leg::id)
    }

    fn leg_of(&self, request: &Request) -> Option<LegId> {
        let id = DialogId::of_request(request)?;
        self.legs.values().find(|leg| leg.has_dialog(&id)).map(Leg::id)
    }

    fn with<T>(&mut self, now: Now, work: impl FnOnce(&mut Parts<'_>) -> T) -> T {
        work(&mut Parts {
            now,
            transactions: &mut self.transactions,
            setup: &self.setup,
            random: &mut self.random,
            digest: self.digest.as_mut(),
            events: &mut self.events,
        })
    }

    fn with_leg(&mut self, now: Now, id: LegId, work: impl FnOnce(&mut Leg, &mut Parts<'_>)) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let mut parts = Parts {
            now,
            transactions: &mut self.transactions,
            setup: &self.setup,
            random: &mut self.random,
            digest: self.digest.as_mut(),
            events: &mut self.events,
        };
        work(leg, &mut parts);
        if leg.is_over() {
            self.legs.remove(&id);
        }
    }
}

/// Word of something that no call of ours asked for: new voice mail is taken note of (RFC 3842), the rest is not ours.
fn notified(request: &Request) -> Response {
    let package = request.headers.get(&Name::Event).unwrap_or_default();
    let is_mail =
        package.split(';').next().is_some_and(|package| package.trim().eq_ignore_ascii_case("message-summary"));
    if is_mail { request.answer(200) } else { bad_event(request) }
}

#[cfg(test)]
mod tests;
