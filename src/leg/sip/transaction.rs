//! Transactions: one request, its answers and their copies, RFC 3261 17 with RFC 4320 and RFC 6026.
//!
//! The table absorbs what datagrams do (copies, losses, crossings), so that its user sees each request and each answer
//! once, with one exception that the user has to decide about: every 2xx of an INVITE comes through until its ACK was
//! given with [`Transactions::ack`].
//!
//! ```text
//!   handle_request, handle_response, handle_flow_failed, handle_timeout     what happened
//!   request, cancel, ack, respond, respond_reliably, acked, pracked         what the user wants
//!   poll_transmit, poll_event, poll_timeout                                 what follows from it
//! ```
//!
//! Nothing here grows with what peers send: transactions are counted and each ends by a timer of its own, what identifies
//! one is kept as a hash, and answers that are kept for copies share one budget of bytes.

mod client;
mod identity;
mod key;
mod outbox;
mod server;
mod timers;

use std::collections::{BTreeSet, HashMap};

use self::{
    client::{Client, Verdict},
    identity::Identity,
    key::{Key, Keys, Kind},
    outbox::Outbox,
    server::{Opening, Server},
};
pub use self::{
    outbox::{Bytes, Event, Transmit},
    timers::Timers,
};
use super::{
    flow::Flow,
    message::{Method, Request, Response},
};
use crate::media::clock::Now;

/// Names a transaction. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxId(u64);

/// Where random numbers come from: the kernel, or a seed.
pub type Random = Box<dyn FnMut() -> u64 + Send>;

/// What a request that came in turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Incoming {
    /// Something new, for the user to answer with [`Transactions::respond`].
    New(TxId),
    /// The ACK of a 2xx, which belongs to a dialog; or one that belongs to nothing, and is then of no interest.
    Ack,
    /// A CANCEL. The user answers it with 200, and the INVITE with 487 unless it is answered already.
    Cancel {
        /// What the peer no longer wants.
        invite: TxId,
        /// The CANCEL itself.
        cancel: TxId,
    },
    /// A copy, or the ACK of a refusal. All is done.
    Absorbed,
    /// Answered here with this status, without a transaction: 481 a CANCEL of nothing, 482 a request that came another
    /// way as well, 503 one too many.
    Refused(u16),
    /// It lacks what every request has, RFC 3261 8.1.1. Nothing was answered.
    Malformed,
}

/// Why an answer was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSent {
    /// The transaction is over.
    Gone,
    /// A final answer was sent already.
    Answered,
    /// The last reliable 1xx has no PRACK yet.
    AwaitsPrack,
    /// RFC 4320: only an INVITE is answered with 1xx, and nothing else with 408.
    Forbidden,
}

impl core::fmt::Display for NotSent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Gone => "the transaction is over",
            Self::Answered => "the request is answered already",
            Self::AwaitsPrack => "the last reliable answer is not acknowledged",
            Self::Forbidden => "this request takes no such answer",
        })
    }
}

/// There are as many requests of ours under way as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl core::fmt::Display for Full {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("too many requests under way")
    }
}

/// How much there may be at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests that came in. The last eighth is kept for requests inside of dialogs and for CANCEL, so that a flood of
    /// new calls does not keep anybody from hanging up.
    pub servers: usize,
    /// Requests of ours. CANCEL comes on top: one for each INVITE at most.
    pub clients: usize,
    /// Bytes of answers that are kept for copies.
    pub kept_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { servers: 4096, clients: 1024, kept_bytes: 8 << 20 }
    }
}

/// All transactions of a line.
pub struct Transactions {
    limits: Limits,
    timers: Timers,
    random: Random,
    keys: Keys,
    /// What our Via says, for each listening socket.
    sent_by: Vec<String>,
    servers: HashMap<TxId, Held<Server>>,
    clients: HashMap<TxId, Held<Client>>,
    by_key: HashMap<Key, TxId>,
    by_merge: HashMap<Key, TxId>,
    due: BTreeSet<(Now, TxId)>,
    last_id: u64,
    kept_bytes: usize,
    unacked: usize,
    out: Outbox,
}

impl Transactions {
    /// An empty table. `sent_by` is the host and port that our Via names, one for each listening socket.
    #[must_use]
    pub fn new(limits: Limits, mut timers: Timers, mut random: Random, sent_by: Vec<String>) -> Self {
        // An interval of nothing would be due again at once, for ever.
        timers.t1 = timers.t1.max(Now::from_millis(1));
        timers.t2 = timers.t2.max(timers.t1);
        let keys = Keys::new([random(), random()]);
        Self {
            limits,
            timers,
            random,
            keys,
            sent_by,
            servers: HashMap::new(),
            clients: HashMap::new(),
            by_key: HashMap::new(),
            by_merge: HashMap::new(),
            due: BTreeSet::new(),
            last_id: 0,
            kept_bytes: 0,
            unacked: 0,
            out: Outbox::default(),
        }
    }

    /// From now on our Via at listening socket `local` names this host and port: an address changed.
    pub fn set_sent_by(&mut self, local: u8, sent_by: String) {
        if let Some(old) = self.sent_by.get_mut(usize::from(local)) {
            *old = sent_by;
        }
    }

    /// Takes a request. Its Via is marked with where it came from (RFC 3261 18.2.1, RFC 3581 4), so that answers made of
    /// it carry that.
    pub fn handle_request(&mut self, now: Now, flow: Flow, request: &mut Request) -> Incoming {
        let reply = identity::mark_via(request, flow);
        let (Some(reply), Some(identity)) = (reply, Identity::of_request(request)) else {
            return Incoming::Malformed;
        };
        let is_ack = request.method == Method::Ack;
        let key = self.server_key(&identity, if is_ack { Method::Invite.as_str() } else { request.method.as_str() });
        if let Some(&id) = self.by_key.get(&key) {
            return self.handle_repeat(now, id, is_ack);
        }
        if is_ack {
            return Incoming::Ack;
        }
        let is_cancel = request.method == Method::Cancel;
        let cancelled = is_cancel.then(|| self.server_key(&identity, Method::Invite.as_str()));
        let cancelled = cancelled.and_then(|key| self.by_key.get(&key).copied());
        if is_cancel && cancelled.is_none() {
            return self.refuse(request, reply, 481);
        }
        let merge = (identity.to_tag.is_none() && !is_cancel).then(|| self.merge_key(&identity, request.method.as_str()));
        // RFC 3261 8.2.2.2: a proxy forked it, and both ends of the fork are we.
        if merge.is_some_and(|merge| self.by_merge.contains_key(&merge)) {
            return self.refuse(request, reply, 482);
        }
        let is_known = identity.to_tag.is_some() || is_cancel;
        let servers_max = if is_known { self.limits.servers } else { self.limits.servers - self.limits.servers / 8 };
        if self.servers.len() >= servers_max || self.kept_bytes >= self.limits.kept_bytes {
            // Answered and not dropped: a PBX overflows to its next trunk at once on 503, and after 32 s on silence. It
            // costs no memory, and the answer is no longer than the request, so that it is no tool against others.
            return self.refuse(request, reply, 503);
        }
        let id = self.next_id();
        let is_invite = request.method == Method::Invite;
        let trying = Some(identity::trying(request).into());
        let opening = Opening { id, flow, reply, key, merge, cseq: identity.cseq, trying, is_invite };
        let server = Server::open(now, &self.timers, opening);
        self.by_key.insert(key, id);
        if let Some(merge) = merge {
            self.by_merge.insert(merge, id);
        }
        self.servers.insert(id, Held::new(server));
        self.settle_server(id);
        match cancelled {
            Some(invite) => Incoming::Cancel { invite, cancel: id },
            None => Incoming::New(id),
        }
    }

    /// Takes an answer. Some: it is news for whoever sent that request.
    pub fn handle_response(&mut self, now: Now, flow: Flow, response: &Response) -> Option<TxId> {
        let identity = Identity::of_response(response)?;
        let key = self.client_key(&identity.branch, &identity.method);
        let fork = self.fork_key(identity.to_tag.as_deref().unwrap_or_default());
        let id = *self.by_key.get(&key)?;
        let client = &mut self.clients.get_mut(&id)?.transaction;
        let verdict = client.handle_response(now, &self.timers, (response.status, fork), &mut self.out);
        match verdict {
            Verdict::Absorb | Verdict::Tell => {}
            Verdict::TellAndAck => {
                if let Some(invite) = &client.invite {
                    let ack = identity::ack_of_refusal(invite, response);
                    client.refused(now, &self.timers, ack.into(), &mut self.out);
                }
            }
            Verdict::TellAndCancel => self.send_cancel(now, id),
        }
        self.settle_client(id);
        (verdict != Verdict::Absorb).then_some(id)
    }

    /// A connection broke, or a datagram was refused: what still needs it ends.
    ///
    /// Looks at every transaction, which is all right for something as rare as this.
    pub fn handle_flow_failed(&mut self, flow: Flow) {
        let servers = self.servers.values().map(|held| (held.transaction.id, held.transaction.flow));
        let clients = self.clients.values().map(|held| (held.transaction.id, held.transaction.flow));
        let hit: Vec<TxId> = servers.chain(clients).filter(|(_, its)| *its == flow).map(|(id, _)| id).collect();
        for id in hit {
            if let Some(held) = self.servers.get_mut(&id) {
                held.transaction.handle_flow_failed(&mut self.out);
                self.settle_server(id);
            } else if let Some(held) = self.clients.get_mut(&id) {
                held.transaction.handle_flow_failed(&mut self.out);
                self.settle_client(id);
            }
        }
    }

    /// Sends a request of ours, which has no Via yet; any but ACK and CANCEL.
    ///
    /// # Errors
    /// As many are under way as there may be.
    pub fn request(&mut self, now: Now, flow: Flow, mut request: Request) -> Result<TxId, Full> {
        if self.clients.len() >= self.limits.clients {
            return Err(Full);
        }
        let branch = self.add_via(flow, &mut request);
        Ok(self.open_client(now, flow, &branch, request, false))
    }

    /// Cancels an INVITE of ours: at once if a 1xx came, else as soon as one comes, RFC 3261 9.1. Nothing happens if it is
    /// answered. What comes of it is the answer to the INVITE: 487, or a 2xx that crossed, whose dialog the user then ends.
    pub fn cancel(&mut self, now: Now, invite: TxId) {
        if self.clients.get_mut(&invite).is_some_and(|held| held.transaction.cancel()) {
            self.send_cancel(now, invite);
            self.settle_client(invite);
        }
    }

    /// Sends the ACK of a 2xx to the INVITE `invite`, without a Via yet, and keeps it: a copy of that 2xx is answered with
    /// it from here on and does not come through any more. `flow` is where the dialog's route leads.
    pub fn ack(&mut self, invite: TxId, flow: Flow, mut ack: Request) {
        self.add_via(flow, &mut ack);
        let bytes: Bytes = ack.to_bytes().into();
        self.out.send(flow, &bytes);
        let fork = self.fork_key(identity::to_tag(&ack).unwrap_or_default().as_str());
        if let Some(held) = self.clients.get_mut(&invite) {
            held.transaction.keep_ack(fork, flow, bytes);
        }
    }

    /// Sends an answer. A 2xx to an INVITE is sent again until [`Self::acked`], or 64*T1 later [`Event::NoAck`].
    ///
    /// # Errors
    /// The request takes no such answer, or no answer any more.
    pub fn respond(&mut self, now: Now, request: TxId, response: &Response) -> Result<(), NotSent> {
        let held = self.servers.get_mut(&request).ok_or(NotSent::Gone)?;
        let bytes = response.to_bytes().into();
        let sent = held.transaction.respond(now, &self.timers, response.status, bytes, &mut self.out);
        self.settle_server(request);
        sent
    }

    /// Sends a 1xx reliably, RFC 3262: with an RSeq of its own and `Require: 100rel`, again and again until
    /// [`Self::pracked`], or 64*T1 later [`Event::NoPrack`].
    ///
    /// # Errors
    /// The request takes no such answer, or the one before waits for its PRACK.
    pub fn respond_reliably(&mut self, now: Now, invite: TxId, mut response: Response) -> Result<(), NotSent> {
        let held = self.servers.get_mut(&invite).ok_or(NotSent::Gone)?;
        held.transaction.may_respond_reliably()?;
        if !(101..200).contains(&response.status) {
            return Err(NotSent::Forbidden); // RFC 3262 3: 100 is never reliable
        }
        // RFC 3262 3: the first is anywhere below 2**31.
        let first = ((self.random)() as u32 >> 1).max(1);
        let rseq = held.transaction.next_rseq(first);
        identity::make_reliable(&mut response, rseq);
        held.transaction.respond_reliably(now, &self.timers, rseq, response.to_bytes().into(), &mut self.out);
        self.settle_server(invite);
        Ok(())
    }

    /// The 2xx to this INVITE was acknowledged.
    pub fn acked(&mut self, invite: TxId) {
        if let Some(held) = self.servers.get_mut(&invite) {
            held.transaction.acked();
            self.settle_server(invite);
        }
    }

    /// A PRACK came in the dialog of this INVITE; `rack` is the value of its RAck. Whether it acknowledges the 1xx that
    /// waits for that: the user answers 200, else 481 (RFC 3262 3).
    #[must_use]
    pub fn pracked(&mut self, invite: TxId, rack: &str) -> bool {
        let Some((rseq, cseq)) = identity::parse_rack(rack) else { return false };
        let Some(held) = self.servers.get_mut(&invite) else { return false };
        let is_good = held.transaction.acknowledge_reliable(rseq, cseq);
        self.settle_server(invite);
        is_good
    }

    /// When [`Self::handle_timeout`] has something to do. May be in the past: then there was more to do than the shell has
    /// fetched of it.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Now> {
        self.due.first().map(|&(at, _)| at)
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(&(at, id)) = self.due.first()
            && at <= now
            && !self.out.is_full()
        {
            if let Some(held) = self.servers.get_mut(&id) {
                held.transaction.handle_timeout(now, &mut self.out);
                self.settle_server(id);
            } else if let Some(held) = self.clients.get_mut(&id) {
                held.transaction.handle_timeout(now, &mut self.out);
                self.settle_client(id);
            } else {
                self.due.pop_first();
            }
        }
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.poll_transmit()
    }

    /// The next thing to know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.out.poll_event()
    }

    /// How many transactions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.servers.len() + self.clients.len()
    }

    /// Whether there is no transaction.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many INVITEs were answered 2xx and not acknowledged yet.
    #[must_use]
    pub fn unacked(&self) -> usize {
        self.unacked
    }

    /// How many messages were not sent because the shell did not fetch them.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.out.dropped()
    }

    fn handle_repeat(&mut self, now: Now, id: TxId, is_ack: bool) -> Incoming {
        let Some(held) = self.servers.get_mut(&id) else { return Incoming::Absorbed };
        let mut incoming = Incoming::Absorbed;
        if !is_ack {
            held.transaction.handle_repeat(&mut self.out);
        } else if held.transaction.handle_ack(now, &self.timers) {
            incoming = Incoming::Ack;
        }
        self.settle_server(id);
        incoming
    }

    /// Answers without a transaction. Each copy of the request gets the same again.
    fn refuse(&mut self, request: &Request, reply: Flow, status: u16) -> Incoming {
        let tag = Identity::of_request(request).map(|identity| {
            let sent_by = identity.sent_by.as_str();
            self.keys.tag(&[&identity.branch, sent_by, &identity.call_id, &identity.from_tag])
        });
        let response = identity::refusal(request, status, &tag.unwrap_or_default());
        self.out.send(reply, &response.into());
        Incoming::Refused(status)
    }

    fn send_cancel(&mut self, now: Now, invite: TxId) {
        let Some(held) = self.clients.get_mut(&invite) else { return };
        let Some(template) = &held.transaction.invite else { return };
        let flow = held.transaction.flow;
        let cancel = identity::cancel_of(template);
        held.transaction.cancelled(now, &self.timers);
        if let Some(branch) = identity::branch(&cancel) {
            self.open_client(now, flow, &branch, cancel, true);
        }
    }

    fn open_client(&mut self, now: Now, flow: Flow, branch: &str, mut request: Request, is_ours: bool) -> TxId {
        let id = self.next_id();
        let key = self.client_key(branch, request.method.as_str());
        let bytes = request.to_bytes().into();
        let invite = (request.method == Method::Invite).then(|| {
            request.body = Vec::new();
            Box::new(request)
        });
        let mut client = Client::open(now, &self.timers, (id, flow, key), invite, bytes, &mut self.out);
        client.is_ours = is_ours;
        self.by_key.insert(key, id);
        self.clients.insert(id, Held::new(client));
        self.settle_client(id);
        id
    }

    /// Puts our Via on top and returns its branch.
    fn add_via(&mut self, flow: Flow, request: &mut Request) -> String {
        let branch = format!("{MAGIC_COOKIE}{:016x}", (self.random)());
        let sent_by = self.sent_by.get(usize::from(flow.local)).or(self.sent_by.first());
        identity::add_via(request, flow.transport, sent_by.map_or("", String::as_str), &branch);
        branch
    }

    fn next_id(&mut self) -> TxId {
        self.last_id += 1;
        TxId(self.last_id)
    }

    /// RFC 3261 17.2.3. A branch without the magic cookie is of an RFC 2543 peer and may be of another request as well.
    fn server_key(&self, identity: &Identity, method: &str) -> Key {
        let Identity { branch, sent_by, uri, from_tag, call_id, cseq, .. } = identity;
        if branch.starts_with(MAGIC_COOKIE) {
            return self.keys.of(Kind::Server, &[method, branch, sent_by]);
        }
        self.keys.of(Kind::Server, &[method, branch, sent_by, uri, from_tag, call_id, &cseq.to_string()])
    }

    fn merge_key(&self, identity: &Identity, method: &str) -> Key {
        let Identity { from_tag, call_id, cseq, .. } = identity;
        self.keys.of(Kind::Merge, &[method, from_tag, call_id, &cseq.to_string()])
    }

    fn client_key(&self, branch: &str, method: &str) -> Key {
        self.keys.of(Kind::Client, &[method, branch])
    }

    fn fork_key(&self, to_tag: &str) -> Key {
        self.keys.of(Kind::Fork, &[to_tag])
    }

    /// Brings the table up to date with one of its transactions, after anything was done to it.
    fn settle_server(&mut self, id: TxId) {
        let Some(held) = self.servers.get_mut(&id) else { return };
        let server = &held.transaction;
        let is_over = server.is_terminated();
        let (kept, unacked) = (server.kept_bytes(), server.is_unacked());
        move_due(&mut self.due, id, &mut held.due, server.poll_timeout());
        self.kept_bytes = self.kept_bytes - held.kept_bytes + kept;
        self.unacked = self.unacked - usize::from(held.unacked) + usize::from(unacked);
        (held.kept_bytes, held.unacked) = (kept, unacked);
        if is_over {
            let (key, merge) = (server.key, server.merge);
            self.by_key.remove(&key);
            if let Some(merge) = merge {
                self.by_merge.remove(&merge);
            }
            self.servers.remove(&id);
        }
    }

    fn settle_client(&mut self, id: TxId) {
        let Some(held) = self.clients.get_mut(&id) else { return };
        move_due(&mut self.due, id, &mut held.due, held.transaction.poll_timeout());
        if held.transaction.is_terminated() {
            let key = held.transaction.key;
            self.by_key.remove(&key);
            self.clients.remove(&id);
        }
    }
}

/// A transaction and what the table has noted down of it.
struct Held<T> {
    transaction: T,
    due: Option<Now>,
    kept_bytes: usize,
    unacked: bool,
}

impl<T> Held<T> {
    fn new(transaction: T) -> Self {
        Self { transaction, due: None, kept_bytes: 0, unacked: false }
    }
}

fn move_due(due: &mut BTreeSet<(Now, TxId)>, id: TxId, old: &mut Option<Now>, new: Option<Now>) {
    if *old == new {
        return;
    }
    if let Some(old) = old.take() {
        due.remove(&(old, id));
    }
    if let Some(new) = new {
        due.insert((new, id));
    }
    *old = new;
}

/// What the branch of every peer since RFC 3261 starts with, 8.1.1.7.
const MAGIC_COOKIE: &str = "z9hG4bK";
