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
mod derived;
mod identity;
mod key;
mod outbox;
mod server;
mod timers;

use std::collections::{BTreeMap, BTreeSet, HashMap};

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
use crate::{
    leg::sip::{Method, Name, NameAddr, RAck, Request, Response, Via, flow::Flow},
    media::clock::Now,
};

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

/// The host and port that our Via names, RFC 3261 18.1.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentBy {
    /// A name or an address, an IPv6 address without its brackets.
    pub host: String,
    /// The port that we listen at.
    pub port: Option<u16>,
}

/// How much there may be at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests that came in. Of this and of the bytes the last eighth is kept for requests inside of dialogs and for
    /// CANCEL, so that a flood of new calls does not keep anybody from hanging up.
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
    /// What our Via says, unless its listening socket has a name of its own.
    sent_by: SentBy,
    sent_by_socket: BTreeMap<u8, SentBy>,
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
    /// An empty table. `sent_by` is what our Via names.
    #[must_use]
    pub fn new(limits: Limits, mut timers: Timers, mut random: Random, sent_by: SentBy) -> Self {
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
            sent_by_socket: BTreeMap::new(),
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

    /// From now on our Via names this at listening socket `local`: there are several, or an address changed.
    pub fn set_sent_by(&mut self, local: u8, sent_by: SentBy) {
        self.sent_by_socket.insert(local, sent_by);
    }

    /// Takes a request. Its Via is marked with where it came from (RFC 3261 18.2.1, RFC 3581 4), so that answers made of
    /// it carry that.
    pub fn handle_request(&mut self, now: Now, flow: Flow, request: &mut Request) -> Incoming {
        let reply = identity::note_source(request, flow);
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
        let merge =
            (identity.to_tag.is_none() && !is_cancel).then(|| self.merge_key(&identity, request.method.as_str()));
        // RFC 3261 8.2.2.2: a proxy forked it, and both ends of the fork are we.
        if merge.is_some_and(|merge| self.by_merge.contains_key(&merge)) {
            return self.refuse(request, reply, 482);
        }
        let is_known = identity.to_tag.is_some() || is_cancel;
        let share = |limit: usize| if is_known { limit } else { limit - limit / 8 };
        if self.servers.len() >= share(self.limits.servers) || self.kept_bytes >= share(self.limits.kept_bytes) {
            // Answered and not dropped: a PBX overflows to its next trunk at once on 503, and after 32 s on silence. It
            // costs no memory, and the answer is hardly longer than the request, so that it is no tool against others.
            return self.refuse(request, reply, 503);
        }
        let id = self.next_id();
        let is_invite = request.method == Method::Invite;
        let trying = derived::trying(request);
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
        let key = self.client_key(&identity.branch, identity.method.as_str());
        let fork = self.fork_key(identity.to_tag.as_deref().unwrap_or_default());
        let id = *self.by_key.get(&key)?;
        let client = &mut self.clients.get_mut(&id)?.transaction;
        // From another address, maybe: a PBX may have several. Another transport is somebody else.
        if client.flow.transport != flow.transport {
            return None;
        }
        let verdict = client.handle_response(now, &self.timers, (response.status, fork), &mut self.out);
        match verdict {
            Verdict::Absorb | Verdict::Tell => {}
            Verdict::TellAndAck => {
                if let Some(invite) = &client.invite {
                    let ack = derived::ack_of_refusal(invite, response);
                    client.refused(now, &self.timers, ack, &mut self.out);
                }
            }
            Verdict::TellAndCancel => self.send_cancel(now, id),
        }
        self.settle_client(id);
        (verdict != Verdict::Absorb).then_some(id)
    }

    /// A connection broke, or a datagram was refused (ICMP says so): what still needs it ends. A peer that calls by
    /// datagrams and is away for a moment keeps its calls: copies of our answers will find it.
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
        let bytes = derived::request_bytes(&ack);
        self.out.send(flow, &bytes);
        let to = ack.to().ok();
        let fork = self.fork_key(to.as_ref().and_then(NameAddr::tag).unwrap_or_default());
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
        let bytes = derived::response_bytes(response);
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
        derived::make_reliable(&mut response, rseq);
        let bytes = derived::response_bytes(&response);
        held.transaction.respond_reliably(now, &self.timers, rseq, bytes, &mut self.out);
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

    /// A PRACK came in the dialog of this INVITE; `rack` is its RAck. Whether it acknowledges the 1xx that waits for
    /// that: the user answers 200, else 481 (RFC 3262 3).
    #[must_use]
    pub fn pracked(&mut self, invite: TxId, rack: &RAck) -> bool {
        let Some(held) = self.servers.get_mut(&invite) else { return false };
        let is_good = held.transaction.acknowledge_reliable(rack.response, &rack.cseq);
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

    /// Whether this request came before, and its transaction remembers.
    #[must_use]
    pub fn is_repeat(&self, request: &Request) -> bool {
        let identity = Identity::of_request(request);
        identity.is_some_and(|it| self.by_key.contains_key(&self.server_key(&it, request.method.as_str())))
    }

    /// Sends an answer of which nothing is kept, to a request that was never given to
    /// [`handle_request`](Self::handle_request).
    pub fn reply(&mut self, flow: Flow, mut response: Response) {
        // A Via of SIP/7.0 is not read, and its request answered where it came from all the same (RFC 4475 3.1.2.16).
        let reply = response.headers.via().map_or(flow, |via| identity::reply_to(&via, flow));
        response.headers.note_source(flow.remote);
        let text = |name: &Name| response.headers.get(name).unwrap_or_default();
        let tag = self.keys.tag(&[text(&Name::Via), text(&Name::CallId), text(&Name::From)]);
        response.headers.set_to_tag(&tag);
        let bytes = derived::response_bytes(&response);
        self.out.send(reply, &bytes);
    }

    /// Answers without a transaction. Each copy of the request gets the same again.
    fn refuse(&mut self, request: &Request, reply: Flow, status: u16) -> Incoming {
        let tag = Identity::of_request(request).map(|identity| {
            let sent_by = identity.sent_by.as_str();
            self.keys.tag(&[&identity.branch, sent_by, &identity.call_id, &identity.from_tag])
        });
        let response = derived::refusal(request, status, &tag.unwrap_or_default());
        self.out.send(reply, &response);
        Incoming::Refused(status)
    }

    fn send_cancel(&mut self, now: Now, invite: TxId) {
        let Some(held) = self.clients.get_mut(&invite) else { return };
        let Some(template) = &held.transaction.invite else { return };
        let flow = held.transaction.flow;
        let cancel = derived::cancel_of(template);
        held.transaction.cancelled(now, &self.timers);
        if let Some(branch) = cancel.via().ok().as_ref().and_then(Via::branch) {
            self.open_client(now, flow, branch, cancel, true);
        }
    }

    fn open_client(&mut self, now: Now, flow: Flow, branch: &str, mut request: Request, is_ours: bool) -> TxId {
        let id = self.next_id();
        let key = self.client_key(branch, request.method.as_str());
        let bytes = derived::request_bytes(&request);
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
        let sent_by = self.sent_by_socket.get(&flow.local).unwrap_or(&self.sent_by);
        derived::add_via(request, flow.transport, sent_by, &branch);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leg::sip::{Message, Name, Transport, parse};

    #[test]
    fn a_200_that_nobody_acknowledges_is_sent_for_32_seconds_and_then_told() {
        for flow in [udp(), tcp()] {
            let mut bench = Bench::new();
            let (invite, request) = bench.receive_new(flow, INVITE);
            bench.table.respond(bench.now, invite, &answer(&request, 200)).expect("an INVITE takes a 200");
            bench.run_until(secs(40.0));
            let at = [0.0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5].map(secs);
            assert_eq!(bench.times_of("SIP/2.0 200"), at);
            assert_eq!(bench.events, [(secs(32.0), Event::NoAck(invite))]);
            assert!(bench.table.is_empty());
        }
    }

    #[test]
    fn a_200_that_was_acknowledged_is_not_sent_again() {
        let mut bench = Bench::new();
        let (invite, request) = bench.receive_new(udp(), INVITE);
        bench.table.respond(bench.now, invite, &answer(&request, 200)).expect("an INVITE takes a 200");
        assert_eq!(bench.table.unacked(), 1);
        bench.run_until(secs(1.0));
        let ack = text(INVITE).replace("INVITE", "ACK").replace("z9hG4bKPj1", "z9hG4bKPj2");
        assert_eq!(bench.receive(udp(), ack.as_bytes()).0, Incoming::Ack);
        bench.table.acked(invite);
        assert_eq!((bench.table.unacked(), bench.table.kept_bytes), (0, 0));
        // A copy of the INVITE that was late is no new call, and wants nothing any more.
        assert_eq!(bench.receive(udp(), INVITE).0, Incoming::Absorbed);
        bench.run_until(secs(40.0));
        assert_eq!(bench.times_of("SIP/2.0 200"), [0.0, 0.5].map(secs));
        assert!(bench.events.is_empty(), "{:?}", bench.events);
        assert!(bench.table.is_empty());
    }

    #[test]
    fn an_invite_of_ours_that_nothing_answers_is_sent_seven_times_over_udp_and_once_over_tcp() {
        for (flow, at) in [(udp(), &[0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5][..]), (tcp(), &[0.0])] {
            let mut bench = Bench::new();
            let invite = bench.table.request(bench.now, flow, own(Method::Invite)).expect("there is room");
            bench.run_until(secs(40.0));
            let at: Vec<Now> = at.iter().copied().map(secs).collect();
            assert_eq!(bench.times_of("INVITE"), at);
            assert_eq!(bench.events, [(secs(32.0), Event::TimedOut(invite))]);
            assert!(bench.sent.iter().all(|(_, transmit)| transmit.bytes == bench.sent[0].1.bytes));
            assert!(bench.table.is_empty());
        }
    }

    #[test]
    fn an_invite_is_given_up_when_the_config_says() {
        let mut bench = Bench::with(Limits::default(), Timers { invite_give_up: secs(5.0), ..Timers::default() });
        let invite = bench.table.request(bench.now, udp(), own(Method::Invite)).expect("there is room");
        bench.run_until(secs(40.0));
        assert_eq!(bench.times_of("INVITE"), [0.0, 0.5, 1.5, 3.5].map(secs));
        assert_eq!(bench.events, [(secs(5.0), Event::TimedOut(invite))]);
    }

    #[test]
    fn a_bye_of_ours_that_nothing_answers_is_sent_eleven_times_and_slower_after_a_100() {
        let mut bench = Bench::new();
        let bye = bench.table.request(bench.now, udp(), own(Method::Bye)).expect("there is room");
        bench.run_until(secs(40.0));
        let at = [0.0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5].map(secs);
        assert_eq!(bench.times_of("BYE"), at);
        assert_eq!(bench.events, [(secs(32.0), Event::TimedOut(bye))]);

        let mut bench = Bench::new();
        bench.table.request(bench.now, udp(), own(Method::Bye)).expect("there is room");
        bench.run_until(secs(0.2));
        bench.answer_last("BYE", 100, "");
        bench.run_until(secs(9.0));
        assert_eq!(bench.times_of("BYE"), [0.0, 0.5, 4.5, 8.5].map(secs));
        assert!(bench.answer_last("BYE", 200, "x").is_some());
        assert!(bench.answer_last("BYE", 200, "x").is_none());
        bench.run_until(secs(14.0));
        assert!(bench.table.is_empty());
    }

    #[test]
    fn a_via_of_ours_asks_for_the_port_and_has_a_branch_of_its_own() {
        let mut bench = Bench::new();
        let local = SentBy { host: "2001:db8::1".into(), port: Some(5062) };
        bench.table.set_sent_by(1, local);
        for local in [0, 1] {
            let flow = Flow { local, ..udp() };
            bench.table.request(bench.now, flow, own(Method::Options)).expect("there is room");
        }
        bench.run_until(bench.now);
        let vias: Vec<Via> = bench.sent.iter().map(|(_, sent)| via(&sent.bytes)).collect();
        assert_eq!((vias[0].host.as_str(), vias[0].port), ("192.0.2.10", Some(5060)));
        assert_eq!((vias[1].host.as_str(), vias[1].port), ("2001:db8::1", Some(5062)));
        assert!(vias.iter().all(|via| via.params.has("rport") && via.transport == "UDP"));
        assert!(vias.iter().all(|via| via.branch().is_some_and(|branch| branch.starts_with(MAGIC_COOKIE))));
        assert_ne!(vias[0].branch(), vias[1].branch());
    }

    #[test]
    fn a_cancel_waits_for_the_first_1xx() {
        let mut bench = Bench::new();
        let invite = bench.table.request(bench.now, udp(), own(Method::Invite)).expect("there is room");
        bench.table.cancel(bench.now, invite);
        bench.run_until(secs(0.3));
        assert!(bench.times_of("CANCEL").is_empty());
        assert_eq!(bench.answer_last("INVITE", 180, "x"), Some(invite));
        bench.run_until(secs(0.4));
        assert_eq!(bench.times_of("CANCEL"), [secs(0.3)]);
        let (invite_sent, cancel_sent) = (bench.last("INVITE"), bench.last("CANCEL"));
        assert_eq!(via(&invite_sent.bytes), via(&cancel_sent.bytes));
        assert_eq!(text(&cancel_sent.bytes).matches("Via:").count(), 1);
        assert!(text(&cancel_sent.bytes).contains("CSeq: 7 CANCEL"));
        // Its answer is nobody's business; what counts is the 487.
        assert_eq!(bench.answer_last("CANCEL", 200, "x"), None);
        assert_eq!(bench.answer_last("INVITE", 487, "x"), Some(invite));
        bench.run_until(secs(0.5));
        assert_eq!(bench.times_of("ACK"), [secs(0.4)]);
        bench.run_until(secs(40.0));
        assert!(bench.events.is_empty(), "{:?}", bench.events);
        assert!(bench.table.is_empty());
    }

    #[test]
    fn a_cancel_after_a_1xx_goes_at_once_and_once_and_gives_up_when_nothing_comes_of_it() {
        let mut bench = Bench::new();
        let invite = bench.table.request(bench.now, tcp(), own(Method::Invite)).expect("there is room");
        bench.run_until(secs(1.0));
        bench.answer_last("INVITE", 180, "x");
        bench.run_until(secs(60.0));
        bench.table.cancel(bench.now, invite);
        bench.table.cancel(bench.now, invite);
        bench.run_until(secs(61.0));
        assert_eq!(bench.times_of("CANCEL"), [secs(60.0)]);
        bench.run_until(secs(100.0));
        assert_eq!(bench.events, [(secs(92.0), Event::TimedOut(invite))]);
        assert!(bench.table.is_empty());
    }

    #[test]
    fn a_200_that_crosses_our_cancel_still_comes_through() {
        let mut bench = Bench::new();
        let invite = bench.table.request(bench.now, udp(), own(Method::Invite)).expect("there is room");
        bench.run_until(secs(0.1));
        bench.answer_last("INVITE", 180, "x");
        bench.table.cancel(bench.now, invite);
        bench.run_until(secs(0.2));
        assert_eq!(bench.answer_last("INVITE", 200, "x"), Some(invite));
        assert_eq!(bench.answer_last("CANCEL", 481, "x"), None);
        bench.table.cancel(bench.now, invite);
        bench.run_until(secs(40.0));
        assert_eq!(bench.times_of("CANCEL"), [secs(0.1)]);
        assert!(bench.events.is_empty(), "{:?}", bench.events);
        assert!(bench.table.is_empty());
    }

    #[test]
    fn a_cancel_finds_its_invite_and_one_that_crosses_the_200_changes_nothing() {
        let cancel = text(INVITE).replace("INVITE", "CANCEL");
        let mut bench = Bench::new();
        let (invite, request) = bench.receive_new(udp(), INVITE);
        let (incoming, cancel_request) = bench.receive(udp(), cancel.as_bytes());
        let Incoming::Cancel { invite: its, cancel: cancel_id } = incoming else { panic!("{incoming:?}") };
        assert_eq!(its, invite);
        assert_eq!(bench.table.respond(bench.now, cancel_id, &answer(&cancel_request, 200)), Ok(()));
        assert_eq!(bench.table.respond(bench.now, invite, &answer(&request, 487)), Ok(()));
        // A copy of the CANCEL gets its 200 again.
        assert_eq!(bench.receive(udp(), cancel.as_bytes()).0, Incoming::Absorbed);
        bench.run_until(secs(0.1));
        assert_eq!(bench.statuses(), [200, 487, 200]);

        let mut bench = Bench::new();
        let (invite, request) = bench.receive_new(udp(), INVITE);
        assert_eq!(bench.table.respond(bench.now, invite, &answer(&request, 200)), Ok(()));
        let (incoming, _) = bench.receive(udp(), cancel.as_bytes());
        assert!(matches!(incoming, Incoming::Cancel { invite: its, .. } if its == invite), "{incoming:?}");
        assert_eq!(bench.table.respond(bench.now, invite, &answer(&request, 487)), Err(NotSent::Answered));
    }

    #[test]
    fn a_cancel_of_nothing_is_answered_481_each_time_with_the_same_tag() {
        let mut bench = Bench::new();
        let cancel = text(INVITE).replace("INVITE", "CANCEL");
        for _ in 0..2 {
            assert_eq!(bench.receive(udp(), cancel.as_bytes()).0, Incoming::Refused(481));
        }
        bench.run_until(secs(0.1));
        assert_eq!(bench.statuses(), [481, 481]);
        assert_eq!(bench.sent[0].1.bytes, bench.sent[1].1.bytes);
        assert!(text(&bench.sent[0].1.bytes).contains("To: <sip:trunkline@192.0.2.10>;tag="));
        assert!(bench.table.is_empty());
    }

    #[test]
    fn a_refusal_is_sent_until_its_ack_and_the_ack_is_not_for_the_user() {
        let ack = text(INVITE).replace("INVITE", "ACK");
        let mut bench = Bench::new();
        let (invite, request) = bench.receive_new(udp(), INVITE);
        bench.table.respond(bench.now, invite, &answer(&request, 486)).expect("an INVITE takes a 486");
        bench.run_until(secs(2.0));
        assert_eq!(bench.times_of("SIP/2.0 486"), [0.0, 0.5, 1.5].map(secs));
        for _ in 0..2 {
            assert_eq!(bench.receive(udp(), ack.as_bytes()).0, Incoming::Absorbed);
        }
        bench.run_until(secs(6.9));
        assert!(!bench.table.is_empty());
        bench.run_until(secs(7.0)); // timer I: 5 s
        assert!(bench.table.is_empty());
        assert_eq!(bench.times_of("SIP/2.0 486").len(), 3);

        let mut bench = Bench::new();
        let (invite, request) = bench.receive_new(udp(), INVITE);
        bench.table.respond(bench.now, invite, &answer(&request, 486)).expect("an INVITE takes a 486");
        bench.run_until(secs(32.0)); // timer H
        assert!(bench.events.is_empty(), "{:?}", bench.events);
        assert!(bench.table.is_empty());
    }

    #[test]
    fn a_copy_of_a_refusal_gets_the_same_ack() {
        let mut bench = Bench::new();
        let invite = bench.table.request(bench.now, udp(), own(Method::Invite)).expect("there is room");
        bench.run_until(secs(0.1));
        assert_eq!(bench.answer_last("INVITE", 486, "busy"), Some(invite));
        for at in [0.6, 1.6, 3.6] {
            bench.run_until(secs(at));
            assert_eq!(bench.answer_last("INVITE", 486, "busy"), None);
        }
        bench.run_until(secs(33.0));
        assert_eq!(bench.times_of("INVITE"), [secs(0.0)]);
        assert_eq!(bench.times_of("ACK"), [0.1, 0.6, 1.6, 3.6].map(secs));
        let ack = bench.last("ACK");
        assert_eq!(ack.bytes, bench.sent[1].1.bytes);
        assert_eq!(via(&ack.bytes), via(&bench.last("INVITE").bytes));
        let ack = text(&ack.bytes);
        assert!(
            ack.contains(";tag=busy") && ack.contains("CSeq: 7 ACK") && ack.contains("Route: <sip:proxy;lr>"),
            "{ack}"
        );
        assert!(ack.ends_with("Content-Length: 0\r\n\r\n"), "{ack}");
        assert!(bench.table.is_empty()); // timer D: 32 s
    }

    #[test]
    fn each_2xx_comes_through_until_its_ack_was_given_which_then_answers_copies() {
        let mut bench = Bench::new();
        let invite = bench.table.request(bench.now, udp(), own(Method::Invite)).expect("there is room");
        bench.run_until(secs(0.1));
        assert_eq!(bench.answer_last("INVITE", 200, "one"), Some(invite));
        assert_eq!(bench.answer_last("INVITE", 200, "one"), Some(invite));
        let mut ack = own(Method::Ack);
        ack.headers.set_to_tag("one");
        let elsewhere = Flow { remote: "192.0.2.7:5070".parse().expect("an address"), ..udp() };
        bench.table.ack(invite, elsewhere, ack);
        bench.run_until(secs(0.5));
        assert_eq!(bench.answer_last("INVITE", 200, "one"), None);
        // Another phone of the same ring group answered as well.
        assert_eq!(bench.answer_last("INVITE", 200, "two"), Some(invite));
        bench.run_until(secs(0.6));
        assert_eq!(bench.times_of("ACK"), [0.1, 0.5].map(secs));
        let acks: Vec<_> = bench.sent.iter().filter(|(_, sent)| sent.bytes.starts_with(b"ACK")).collect();
        assert_eq!(acks[0].1, acks[1].1);
        assert_eq!(acks[0].1.flow, elsewhere);
        assert_ne!(via(&acks[0].1.bytes).branch(), via(&bench.last("INVITE").bytes).branch());
        bench.run_until(secs(32.1)); // timer M
        assert!(bench.table.is_empty());
        assert_eq!(bench.answer_last("INVITE", 200, "one"), None);
    }

    #[test]
    fn a_copy_of_an_invite_gets_the_same_bytes_as_the_first() {
        let mut bench = Bench::new();
        let (invite, mut request) = bench.receive_new(udp(), INVITE);
        assert_eq!(bench.receive(udp(), INVITE).0, Incoming::Absorbed);
        bench.run_until(secs(0.05));
        assert!(bench.statuses().is_empty());
        request.headers.set_to_tag("ours");
        for status in [180, 200] {
            bench.sent.clear();
            bench.table.respond(bench.now, invite, &answer(&request, status)).expect("an INVITE takes it");
            assert_eq!(bench.receive(udp(), INVITE).0, Incoming::Absorbed);
            bench.run_until(bench.now);
            assert_eq!(bench.statuses(), [status, status]);
            assert_eq!(bench.sent[0].1, bench.sent[1].1);
        }
    }

    #[test]
    fn an_invite_without_an_answer_gets_100_after_200_ms_and_one_with_an_answer_none() {
        let mut bench = Bench::new();
        bench.receive_new(udp(), INVITE);
        bench.run_until(secs(1.0));
        assert_eq!(bench.times_of("SIP/2.0 100"), [secs(0.2)]);
        assert!(!text(&bench.last("SIP/2.0 100").bytes).contains("<sip:trunkline@192.0.2.10>;tag"));

        let mut bench = Bench::new();
        let (invite, request) = bench.receive_new(udp(), INVITE);
        bench.run_until(secs(0.1));
        bench.table.respond(bench.now, invite, &answer(&request, 180)).expect("an INVITE takes a 180");
        bench.run_until(secs(10.0));
        assert_eq!(bench.statuses(), [180]);
    }

    #[test]
    fn an_options_that_takes_long_gets_100_and_neither_another_1xx_nor_408() {
        let options = text(INVITE).replace("INVITE", "OPTIONS");
        let mut bench = Bench::new();
        let (id, request) = bench.receive_new(udp(), options.as_bytes());
        for status in [100, 180, 408] {
            assert_eq!(bench.table.respond(bench.now, id, &answer(&request, status)), Err(NotSent::Forbidden));
        }
        bench.run_until(secs(5.0));
        assert_eq!(bench.times_of("SIP/2.0 100"), [secs(3.5)]);
        bench.table.respond(bench.now, id, &answer(&request, 200)).expect("it is not over yet");
        assert_eq!(bench.receive(udp(), options.as_bytes()).0, Incoming::Absorbed);
        bench.run_until(secs(36.9));
        assert_eq!(bench.times_of("SIP/2.0 200"), [5.0, 5.0].map(secs));
        bench.run_until(secs(37.0)); // timer J
        assert!(bench.table.is_empty());

        // Nobody answers it at all: it goes by itself.
        let mut bench = Bench::new();
        let (id, request) = bench.receive_new(udp(), options.as_bytes());
        bench.run_until(secs(32.0));
        assert!(bench.table.is_empty());
        assert_eq!(bench.table.respond(bench.now, id, &answer(&request, 200)), Err(NotSent::Gone));
    }

    #[test]
    fn a_reliable_183_is_sent_until_its_prack() {
        let mut bench = Bench::new();
        let (invite, request) = bench.receive_new(udp(), INVITE);
        assert_eq!(bench.table.respond_reliably(bench.now, invite, answer(&request, 183)), Ok(()));
        let again = bench.table.respond_reliably(bench.now, invite, answer(&request, 180));
        assert_eq!(again, Err(NotSent::AwaitsPrack));
        bench.run_until(secs(4.0));
        assert_eq!(bench.times_of("SIP/2.0 183"), [0.0, 0.5, 1.5, 3.5].map(secs));
        let rseq = |bench: &Bench, start: &str| {
            let Ok(Message::Response(response)) = parse(&bench.last(start).bytes) else { panic!("no response") };
            assert!(response.headers.has_token(&Name::Require, "100rel"));
            response.headers.number(&Name::RSeq).expect("a reliable answer has an RSeq")
        };
        let first = rseq(&bench, "SIP/2.0 183");
        let rack = |rseq: u32, cseq: &str| format!("{rseq} {cseq}").parse().expect("a RAck");
        for wrong in [rack(first + 1, "7613 INVITE"), rack(first, "7614 INVITE"), rack(first, "7613 UPDATE")] {
            assert!(!bench.table.pracked(invite, &wrong));
        }
        assert!(bench.table.pracked(invite, &rack(first, "7613 INVITE")));
        assert!(!bench.table.pracked(invite, &rack(first, "7613 INVITE")));
        bench.run_until(secs(60.0));
        assert_eq!(bench.times_of("SIP/2.0 183").len(), 4);
        assert!(bench.events.is_empty(), "{:?}", bench.events);
        assert_eq!(bench.table.respond_reliably(bench.now, invite, answer(&request, 180)), Ok(()));
        bench.run_until(bench.now);
        assert_eq!(rseq(&bench, "SIP/2.0 180"), first + 1);
        // The answer goes before the PRACK comes, which is then still good.
        bench.table.respond(bench.now, invite, &answer(&request, 200)).expect("an INVITE takes a 200");
        assert!(bench.table.pracked(invite, &rack(first + 1, "7613 INVITE")));
    }

    #[test]
    fn a_reliable_183_without_a_prack_is_told_after_32_seconds() {
        let mut bench = Bench::new();
        let (invite, request) = bench.receive_new(tcp(), INVITE);
        bench.table.respond_reliably(bench.now, invite, answer(&request, 183)).expect("nothing waits for a PRACK");
        bench.run_until(secs(100.0));
        assert_eq!(bench.times_of("SIP/2.0 183"), [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5].map(secs));
        assert_eq!(bench.events, [(secs(32.0), Event::NoPrack(invite))]);
        assert_eq!(bench.table.respond(bench.now, invite, &answer(&request, 504)), Ok(()));
    }

    #[test]
    fn a_request_that_came_two_ways_is_answered_482_on_the_second() {
        let mut bench = Bench::new();
        bench.receive_new(udp(), INVITE);
        let second = text(INVITE).replace("z9hG4bKPj1", "z9hG4bKfork");
        assert_eq!(bench.receive(udp(), second.as_bytes()).0, Incoming::Refused(482));
        // The ACK of the 482 finds nothing and is harmless.
        let ack = second.replace("INVITE", "ACK");
        assert_eq!(bench.receive(udp(), ack.as_bytes()).0, Incoming::Ack);
        // The same call once more, with the password that was asked for, is not the same request.
        let next = second.replace("7613", "7614");
        assert!(matches!(bench.receive(udp(), next.as_bytes()).0, Incoming::New(_)));
        bench.run_until(secs(0.1));
        assert_eq!(bench.statuses(), [482]);
        assert_eq!(via(&bench.sent[0].1.bytes).branch(), Some("z9hG4bKfork"));
    }

    #[test]
    fn a_peer_of_rfc_2543_may_use_a_branch_twice() {
        let old = text(INVITE).replace("z9hG4bKPj1", "1");
        let mut bench = Bench::new();
        let (invite, request) = bench.receive_new(udp(), old.as_bytes());
        assert_eq!(bench.receive(udp(), old.as_bytes()).0, Incoming::Absorbed);
        let other = old.replace("5f0c", "5f0d");
        assert!(matches!(bench.receive(udp(), other.as_bytes()).0, Incoming::New(_)));
        bench.table.respond(bench.now, invite, &answer(&request, 404)).expect("an INVITE takes a 404");
        let ack = old
            .replace("INVITE", "ACK")
            .replace("To: <sip:trunkline@192.0.2.10>", "To: <sip:trunkline@192.0.2.10>;tag=a");
        assert_eq!(bench.receive(udp(), ack.as_bytes()).0, Incoming::Absorbed);
    }

    #[test]
    fn an_answer_goes_where_the_request_came_from() {
        let from = |flow: Flow, bytes: &str| {
            let mut bench = Bench::new();
            let (id, request) = bench.receive_new(flow, bytes.as_bytes());
            bench.table.respond(bench.now, id, &answer(&request, 486)).expect("an INVITE takes a 486");
            bench.run_until(bench.now);
            (bench.sent[0].1.flow, via(&bench.sent[0].1.bytes))
        };
        let plain = text(INVITE).replace(";rport", "");
        let nat = Flow::udp(0, "198.51.100.9:40001".parse().expect("an address"));

        let (flow, via) = from(nat, &text(INVITE));
        assert_eq!((flow, via.received(), via.rport()), (nat, Some("198.51.100.9"), Some(40001)));

        let (flow, via) = from(nat, &plain);
        assert_eq!(flow.remote.to_string(), "198.51.100.9:5080");
        assert_eq!((via.received(), via.rport()), (Some("198.51.100.9"), None));

        let (flow, _) = from(nat, &plain.replace("192.0.2.1:5080", "192.0.2.1;maddr=203.0.113.1"));
        assert_eq!(flow.remote.to_string(), "198.51.100.9:5060");

        let (flow, _) = from(tcp(), &plain);
        assert_eq!(flow, tcp());
    }

    #[test]
    fn a_full_table_refuses_calls_and_still_lets_anybody_hang_up() {
        let limits = Limits { servers: 16, ..Limits::default() };
        let mut bench = Bench::with(limits, Timers::default());
        for n in 0..14 {
            bench.receive_new(udp(), numbered(n).as_bytes());
        }
        assert_eq!(bench.receive(udp(), numbered(14).as_bytes()).0, Incoming::Refused(503));
        assert_eq!(bench.receive(udp(), numbered(0).as_bytes()).0, Incoming::Absorbed);
        assert_eq!(bench.receive(udp(), numbered(14).replace("INVITE", "ACK").as_bytes()).0, Incoming::Ack);
        let cancel = numbered(3).replace("INVITE", "CANCEL");
        assert!(matches!(bench.receive(udp(), cancel.as_bytes()).0, Incoming::Cancel { .. }));
        let bye = numbered(14).replace("INVITE", "BYE").replace("10>\r\n", "10>;tag=ours\r\n");
        assert!(matches!(bench.receive(udp(), bye.as_bytes()).0, Incoming::New(_)));
        assert_eq!(bench.receive(udp(), bye.replace("_14", "_15").as_bytes()).0, Incoming::Refused(503));
        bench.run_until(secs(0.1));
        assert_eq!(bench.statuses(), [503, 503]);
        let refusal = text(&bench.sent[0].1.bytes);
        assert!(refusal.contains("Retry-After: 10\r\n") && refusal.contains(";tag="), "{refusal}");

        let mut bench = Bench::with(Limits { kept_bytes: 1000, ..Limits::default() }, Timers::default());
        let refused = (0..10).find(|n| bench.receive(udp(), numbered(*n).as_bytes()).0 == Incoming::Refused(503));
        assert!(refused.is_some_and(|n| (2..6).contains(&n)), "{refused:?}");

        let mut bench = Bench::with(Limits { clients: 1, ..Limits::default() }, Timers::default());
        assert!(bench.table.request(bench.now, udp(), own(Method::Options)).is_ok());
        assert_eq!(bench.table.request(bench.now, udp(), own(Method::Options)), Err(Full));
    }

    #[test]
    fn ten_thousand_requests_come_and_go() {
        let limits = Limits { servers: 12_000, clients: 10, kept_bytes: 64 << 20 };
        let mut bench = Bench::with(limits, Timers::default());
        for n in 0..10_000 {
            bench.now = Now::from_micros(100 * n);
            let (id, request) = bench.receive_new(udp(), numbered(n).as_bytes());
            let status = [200, 486, 180, 200][n as usize % 4];
            bench.table.respond(bench.now, id, &answer(&request, status)).expect("an INVITE takes it");
            if status == 180 {
                bench.table.respond(bench.now, id, &answer(&request, 603)).expect("an INVITE takes a 603");
            }
            if n % 8 == 0 {
                bench.table.acked(id);
            }
            bench.drain();
        }
        assert_eq!(bench.table.len(), 10_000);
        assert!(bench.table.unacked() == 3750 && bench.table.kept_bytes > 1 << 20);
        bench.sent.clear();
        bench.run_until(secs(40.0));
        assert_eq!(bench.events.len(), 3750);
        assert_eq!(bench.times_of("SIP/2.0 200").len(), 3750 * 10);
        let table = &bench.table;
        assert!(table.is_empty() && table.by_key.is_empty() && table.by_merge.is_empty() && table.due.is_empty());
        assert_eq!((table.kept_bytes, table.unacked(), table.dropped()), (0, 0, 0));
    }

    #[test]
    fn what_a_broken_connection_carried_ends_and_what_can_go_another_way_stays() {
        let mut bench = Bench::new();
        let calling = bench.table.request(bench.now, tcp(), own(Method::Invite)).expect("there is room");
        let (ringing, _) = bench.receive_new(tcp(), numbered(1).as_bytes());
        let (answered, request) = bench.receive_new(tcp(), numbered(2).as_bytes());
        bench.table.respond(bench.now, answered, &answer(&request, 200)).expect("an INVITE takes a 200");
        bench.receive_new(udp(), numbered(3).as_bytes());
        bench.table.handle_flow_failed(Flow { connection: 2, ..tcp() });
        bench.drain();
        assert!(bench.events.is_empty(), "{:?}", bench.events);
        bench.table.handle_flow_failed(tcp());
        bench.drain();
        let told: Vec<Event> = bench.events.iter().map(|(_, event)| *event).collect();
        assert!(told.len() == 2 && told.contains(&Event::TransportFailed(calling)), "{told:?}");
        assert!(told.contains(&Event::TransportFailed(ringing)), "{told:?}");
        assert_eq!(bench.table.len(), 2);
        bench.run_until(secs(32.0));
        assert_eq!(bench.events.last(), Some(&(secs(32.0), Event::NoAck(answered))));

        // A PBX that restarts refuses datagrams for a moment: what we asked of it failed, what it asked of us did not.
        let mut bench = Bench::new();
        let asked = bench.table.request(bench.now, udp(), own(Method::Options)).expect("there is room");
        let (ringing, request) = bench.receive_new(udp(), INVITE);
        bench.table.handle_flow_failed(udp());
        bench.drain();
        assert_eq!(bench.events, [(secs(0.0), Event::TransportFailed(asked))]);
        assert_eq!(bench.table.respond(bench.now, ringing, &answer(&request, 200)), Ok(()));
    }

    #[test]
    fn an_answer_to_nothing_or_by_another_way_is_not_heard() {
        let mut bench = Bench::new();
        let invite = bench.table.request(bench.now, tcp(), own(Method::Invite)).expect("there is room");
        bench.run_until(bench.now);
        let response = bench.response_to("INVITE", 200, "x");
        assert_eq!(bench.table.handle_response(bench.now, udp(), &response), None);
        let mut foreign = response.clone();
        foreign.headers.push(Name::Via, "SIP/2.0/TCP 192.0.2.9;branch=z9hG4bKother");
        assert_eq!(bench.table.handle_response(bench.now, tcp(), &foreign), None);
        let mut other = response.clone();
        other.headers.set(Name::CSeq, "7 BYE");
        assert_eq!(bench.table.handle_response(bench.now, tcp(), &other), None);
        assert_eq!(bench.table.handle_response(bench.now, tcp(), &response), Some(invite));
    }

    #[test]
    fn nothing_that_happens_in_any_order_breaks_the_table() {
        for seed in 1..=16 {
            let mut dice = seeded(seed);
            let limits = Limits { servers: 24, clients: 12, kept_bytes: 20_000 };
            let mut bench = Bench::with(limits, Timers::default());
            let mut known = vec![TxId(0)];
            let mut requests = vec![(TxId(0), own(Method::Invite))];
            for _ in 0..2000 {
                let mut roll = |below: usize| (dice() % below as u64) as usize;
                let flow = [udp(), tcp(), Flow { connection: 2, ..tcp() }][roll(3)];
                let (id, request) = requests[roll(requests.len())].clone();
                let some_id = known[roll(known.len())];
                let status = [100, 180, 183, 200, 202, 302, 401, 408, 486, 487, 503, 603][roll(12)];
                match roll(12) {
                    0..=2 => {
                        let method = ["INVITE", "ACK", "CANCEL", "BYE", "PRACK", "OPTIONS"][roll(6)];
                        let mut bytes = numbered(roll(20) as u64).replace("INVITE", method);
                        if roll(4) == 0 {
                            bytes = bytes.replace("z9hG4bKPj1", ["1", "z9hG4bK", "z9hG4bKother"][roll(3)]);
                        }
                        let (incoming, request) = bench.receive(flow, bytes.as_bytes());
                        if let Incoming::New(id) | Incoming::Cancel { cancel: id, .. } = incoming {
                            known.push(id);
                            requests.push((id, request));
                        }
                    }
                    3 => {
                        let method = [Method::Invite, Method::Bye, Method::Options, Method::Ack][roll(4)].clone();
                        known.extend(bench.table.request(bench.now, flow, own(method)).ok());
                    }
                    4 => drop(bench.table.respond(bench.now, id, &answer(&request, status))),
                    5 => drop(bench.table.respond_reliably(bench.now, id, answer(&request, status))),
                    6 => bench.table.cancel(bench.now, some_id),
                    7 => bench.table.acked(some_id),
                    8 => bench.table.ack(some_id, flow, own(Method::Ack)),
                    9 => {
                        let sent = bench.sent.len().saturating_sub(1 + roll(8));
                        if let Some(Ok(Message::Request(sent))) =
                            bench.sent.get(sent).map(|(_, sent)| parse(&sent.bytes))
                        {
                            let mut response = sent.answer(status);
                            response.headers.set_to_tag(["a", "b", "c"][roll(3)]);
                            bench.table.handle_response(bench.now, flow, &response);
                        }
                    }
                    10 if roll(20) == 0 => bench.table.handle_flow_failed(flow),
                    _ => {
                        let step = [0, 1, 200, 500, 4000, 40_000][roll(6)];
                        bench.run_until(bench.now + Now::from_millis(step));
                        bench.sent.drain(..bench.sent.len().saturating_sub(20));
                    }
                }
                // CANCELs of ours and of INVITEs come on top.
                assert!(bench.table.servers.len() <= 24 && bench.table.clients.len() <= 24);
                assert!(bench.table.due.len() <= bench.table.len());
            }
            for (id, request) in &requests {
                let _ = bench.table.respond(bench.now, *id, &answer(request, 603));
            }
            for id in &known {
                bench.table.cancel(bench.now, *id);
            }
            for flow in [udp(), tcp(), Flow { connection: 2, ..tcp() }] {
                bench.table.handle_flow_failed(flow);
            }
            bench.run_until(bench.now + secs(65.0));
            assert!(bench.table.is_empty() && bench.table.by_key.is_empty() && bench.table.by_merge.is_empty());
            assert_eq!((bench.table.kept_bytes, bench.table.unacked(), bench.table.poll_timeout()), (0, 0, None));
        }
    }

    /// A table, what it sent and told, and when.
    struct Bench {
        table: Transactions,
        now: Now,
        sent: Vec<(Now, Transmit)>,
        events: Vec<(Now, Event)>,
    }

    impl Bench {
        fn new() -> Self {
            Self::with(Limits::default(), Timers::default())
        }

        fn with(limits: Limits, timers: Timers) -> Self {
            let sent_by = SentBy { host: "192.0.2.10".into(), port: Some(5060) };
            let table = Transactions::new(limits, timers, Box::new(seeded(7)), sent_by);
            Self { table, now: Now::ZERO, sent: vec![], events: vec![] }
        }

        fn receive(&mut self, flow: Flow, bytes: &[u8]) -> (Incoming, Request) {
            let Ok(Message::Request(mut request)) = parse(bytes) else { panic!("{}", text(bytes)) };
            (self.table.handle_request(self.now, flow, &mut request), request)
        }

        fn receive_new(&mut self, flow: Flow, bytes: &[u8]) -> (TxId, Request) {
            match self.receive(flow, bytes) {
                (Incoming::New(id), request) => (id, request),
                (other, _) => panic!("{other:?}"),
            }
        }

        /// Fetches what there is.
        fn drain(&mut self) {
            while let Some(transmit) = self.table.poll_transmit() {
                self.sent.push((self.now, transmit));
            }
            while let Some(event) = self.table.poll_event() {
                self.events.push((self.now, event));
            }
        }

        /// Serves every timer when it is due.
        fn run_until(&mut self, until: Now) {
            self.drain();
            while let Some(at) = self.table.poll_timeout().filter(|at| *at <= until) {
                self.now = self.now.max(at);
                self.table.handle_timeout(self.now);
                self.drain();
            }
            self.now = self.now.max(until);
        }

        fn times_of(&self, start: &str) -> Vec<Now> {
            let sent = self.sent.iter().filter(|(_, sent)| sent.bytes.starts_with(start.as_bytes()));
            sent.map(|(at, _)| *at).collect()
        }

        fn statuses(&self) -> Vec<u16> {
            let status = |bytes: &[u8]| match parse(bytes) {
                Ok(Message::Response(response)) => Some(response.status),
                _ => None,
            };
            self.sent.iter().filter_map(|(_, sent)| status(&sent.bytes)).collect()
        }

        fn last(&self, start: &str) -> Transmit {
            let mut sent = self.sent.iter().rev().map(|(_, sent)| sent);
            sent.find(|sent| sent.bytes.starts_with(start.as_bytes())).expect("it was sent").clone()
        }

        fn response_to(&self, start: &str, status: u16, tag: &str) -> Response {
            let Ok(Message::Request(request)) = parse(&self.last(start).bytes) else { panic!("no request") };
            let mut response = request.answer(status);
            response.headers.set_to_tag(tag);
            response
        }

        /// The peer answers the last request that begins like this.
        fn answer_last(&mut self, start: &str, status: u16, tag: &str) -> Option<TxId> {
            let flow = self.last(start).flow;
            let response = self.response_to(start, status, tag);
            self.table.handle_response(self.now, flow, &response)
        }
    }

    fn answer(request: &Request, status: u16) -> Response {
        let mut response = request.answer(status);
        response.headers.set_to_tag("ours");
        response
    }

    fn own(method: Method) -> Request {
        let mut request = Request::new(method, "sip:6001@192.0.2.1".parse().expect("a URI"));
        let headers = &mut request.headers;
        headers.push(Name::Route, "<sip:proxy;lr>");
        headers.push(Name::From, "<sip:trunkline@192.0.2.10>;tag=me");
        headers.push(Name::To, "<sip:6001@192.0.2.1>");
        headers.push(Name::CallId, "ours");
        headers.push(Name::CSeq, format!("7 {}", request.method));
        request.body = b"v=0\r\n".to_vec();
        request
    }

    /// The INVITE as call number `n`.
    fn numbered(n: u64) -> String {
        text(INVITE).replace("z9hG4bKPj1", &format!("z9hG4bKPj1_{n}")).replace("5f0c", &format!("5f0c{n}"))
    }

    fn via(bytes: &[u8]) -> Via {
        parse(bytes).expect("what is sent can be read").headers().via().expect("it has a Via")
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    fn secs(secs: f64) -> Now {
        Now::from_secs_f64(secs)
    }

    fn udp() -> Flow {
        Flow::udp(0, "192.0.2.1:5080".parse().expect("an address"))
    }

    fn tcp() -> Flow {
        Flow { transport: Transport::Tcp, connection: 1, ..udp() }
    }

    fn seeded(seed: u64) -> impl FnMut() -> u64 + Send {
        let mut state = seed;
        move || {
            // splitmix64
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        }
    }

    const INVITE: &[u8] = b"INVITE sip:trunkline@192.0.2.10 SIP/2.0\r\n\
        Via: SIP/2.0/UDP 192.0.2.1:5080;rport;branch=z9hG4bKPj1\r\n\
        From: \"Reception\" <sip:6001@192.0.2.1>;tag=ab\r\n\
        To: <sip:trunkline@192.0.2.10>\r\n\
        Contact: <sip:asterisk@192.0.2.1:5080>\r\n\
        Call-ID: 5f0c\r\n\
        CSeq: 7613 INVITE\r\n\
        Allow: MESSAGE, REFER\r\n\
        Supported: 100rel, timer, replaces, norefersub, histinfo\r\n\
        Max-Forwards: 70\r\n\
        User-Agent: Asterisk PBX 20.6.0\r\n\
        Content-Length: 0\r\n\r\n";
}
