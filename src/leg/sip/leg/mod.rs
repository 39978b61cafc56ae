//! The SIP side of one call: from its INVITE to its BYE, whoever sent which (RFC 3261 13 to 15).
//!
//! ```text
//!   called:   INVITE --> Invited --200--> Answered --ACK--> Up --BYE of theirs-----------> Over
//!                           \--refused, CANCEL               \--BYE of ours--> Leaving --200--^
//!   calling:  Calling --200, ACK--> Up
//!                 \--refused, CANCEL and 487--> Over
//! ```
//!
//! A leg knows nothing of sockets or audio. Requests and responses come in, what they mean for the call goes out as
//! [`Event`]s, and what it says goes through the line's transactions. `called` and `calling` have the two ways into a
//! call, `within` what happens inside of it, `ours` the requests that we make there.

mod called;
mod calling;
mod ours;
mod transfer;
mod within;

use core::fmt;
use std::{collections::VecDeque, net::SocketAddr};

pub use self::transfer::Transferred;
use self::{called::Invited, calling::Calling, ours::Pending, transfer::Transfer};
pub(super) use self::{
    called::{NotTaken, not_allowed},
    calling::Callee,
    within::{bad_event, capabilities},
};
use crate::{
    leg::sip::{
        Flow, Method, Name, NameAddr, Request, Response, Transport, Uri,
        dialog::{Dialog, DialogId},
        digest::{self, Answered, Asker},
        registration,
        sdp::{self, Local, Media},
        session_timer::{Granted, Received, SessionTimer},
        transaction::{Random, Transactions, TxId},
    },
    media::{Now, codec::Codec},
};

/// Names a leg of a line. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LegId(pub(super) u64);

/// What the config and the sockets say about every call of a line.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The user part of our Contact.
    pub user: String,
    /// The host that Contact and Via name: an address that the PBX can reach.
    pub host: String,
    /// The ports that we listen at, by transport: UDP, TCP, TLS. A leg's Contact names that of its flow.
    pub ports: [Option<u16>; 3],
    /// What `User-Agent` and `Server` say; `None`: nothing.
    pub user_agent: Option<String>,
    /// What we can, the best first.
    pub codecs: Vec<Codec>,
    /// Digits go beside the audio where the peer can.
    pub rtp_digits: bool,
    /// We make the ringing tone ourselves.
    pub tone: bool,
    /// `Session-Expires` that we ask for.
    pub session_expires: Now,
    /// `Min-SE` that we insist on.
    pub min_session_expires: Now,
    /// Who does not answer a call of ours for so long is not called any more, and a transferred caller is taken back.
    pub answer_timeout: Now,
    /// From of the calls that we make.
    pub from: NameAddr,
    /// Headers of an INVITE that are told of a call.
    pub told_headers: Vec<Name>,
}

impl Setup {
    /// Where requests inside a dialog are to be sent to us.
    pub(super) fn contact(&self, flow: Flow) -> NameAddr {
        let at = match flow.transport {
            Transport::Udp => 0,
            Transport::Tcp => 1,
            Transport::Tls => 2,
        };
        let mut uri = Uri::sip(&self.user, &self.host, self.ports[at]);
        if flow.transport != Transport::Udp {
            uri.params.set("transport", Some(if at == 1 { "tcp" } else { "tls" }));
        }
        NameAddr::new(uri)
    }
}

/// What a call on a line came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Somebody calls, and hears nothing yet: [`Line::ring`](super::line::Line::ring) or refuse.
    Invited(Box<Invitation>),
    /// Audio may go to the phone before the call is answered.
    Early {
        /// Which leg.
        leg: LegId,
        /// How the audio goes.
        media: Media,
    },
    /// The call is up.
    Up {
        /// Which leg.
        leg: LegId,
        /// How the audio goes.
        media: Media,
    },
    /// The audio goes another way from now on: a hold, another codec, another address.
    Changed {
        /// Which leg.
        leg: LegId,
        /// How.
        media: Media,
    },
    /// A key, by INFO.
    Digit {
        /// Which leg.
        leg: LegId,
        /// One of `0-9*#A-D`.
        digit: u8,
    },
    /// A transfer came on.
    Transfer {
        /// Which leg.
        leg: LegId,
        /// How.
        what: Transferred,
    },
    /// A flow to a registrar is wanted: [`Line::handle_reached`](super::line::Line::handle_reached).
    Reach(registration::Target),
    /// How our registration stands has changed.
    Registration(registration::News),
    /// A call was turned away before there was anything of it.
    NotTaken {
        /// Who sent it.
        source: SocketAddr,
        /// What it was told.
        status: u16,
        /// Why.
        why: String,
    },
    /// It is over, whoever ended it. Told once of each leg that was told of as [`Invited`](Self::Invited) or that
    /// [`Line::call`](super::line::Line::call) gave, and nothing is told of it afterwards.
    Ended {
        /// Which leg.
        leg: LegId,
        /// Why.
        why: Ending,
    },
}

/// Somebody calls.
#[derive(Clone, Debug, PartialEq)]
pub struct Invitation {
    /// Its name.
    pub leg: LegId,
    /// Who sent it.
    pub source: SocketAddr,
    /// SIP's id of the call.
    pub call_id: String,
    /// The caller's number, or user: P-Asserted-Identity's where there is one (RFC 3325), else From's.
    pub from: String,
    /// The name beside it.
    pub name: Option<String>,
    /// The number called: To's.
    pub to: String,
    /// The number that the request came to, where that is neither `to` nor we.
    pub did: String,
    /// Where it was meant to go first, if it was diverted (RFC 5806).
    pub diverted_from: Option<String>,
    /// The headers that the config names, in their order.
    pub headers: Vec<(String, String)>,
    /// What will most likely be spoken.
    pub codec: Codec,
}

/// Why a leg is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The peer hung up; with its words, if it gave a Reason (RFC 3326).
    HungUp(Option<String>),
    /// The peer no longer wants its call.
    Cancelled,
    /// The peer does not want our call: status and reason.
    Refused(u16, String),
    /// Nobody answered our call in time.
    Unanswered,
    /// Our 200 was never acknowledged.
    NoAck,
    /// The peer is gone: no answer, or 481, or the session timer ran out.
    Lost(&'static str),
    /// The peer broke the protocol.
    Protocol(&'static str),
    /// There is no codec in common.
    NoCodec(String),
    /// The caller was passed on.
    Transferred,
    /// We hung up.
    Ours,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HungUp(Some(words)) => write!(f, "the peer hung up: {words}"),
            Self::HungUp(None) => f.write_str("the peer hung up"),
            Self::Cancelled => f.write_str("the peer cancelled its call"),
            Self::Refused(status, reason) => write!(f, "the call was refused: {status} {reason}"),
            Self::Unanswered => f.write_str("nobody answered"),
            Self::NoAck => f.write_str("the answer was never acknowledged"),
            Self::Lost(words) | Self::Protocol(words) => f.write_str(words),
            Self::NoCodec(words) => f.write_str(words),
            Self::Transferred => f.write_str("the caller was passed on"),
            Self::Ours => f.write_str("we hung up"),
        }
    }
}

/// What a leg may use of its line's.
pub(super) struct Parts<'l> {
    pub(super) now: Now,
    pub(super) transactions: &'l mut Transactions,
    pub(super) setup: &'l Setup,
    pub(super) random: &'l mut Random,
    pub(super) digest: Option<&'l mut digest::Client>,
    pub(super) events: &'l mut VecDeque<Event>,
}

impl Parts<'_> {
    /// Sends an answer. One that nobody waits for any more is nobody's loss.
    pub(super) fn respond(&mut self, tx: TxId, mut response: Response) {
        if let Some(server) = &self.setup.user_agent
            && response.status > 100
        {
            response.headers.push(Name::Server, server.as_str());
        }
        let _ = self.transactions.respond(self.now, tx, &response);
    }

    /// A number between the two (ms).
    pub(super) fn between(&mut self, least: u64, most: u64) -> Now {
        Now::from_millis(least + (self.random)() % (most - least))
    }

    /// What a request may say of us.
    pub(super) fn sign(&self, request: &mut Request) {
        if let Some(agent) = &self.setup.user_agent {
            request.headers.set(Name::UserAgent, agent.as_str());
        }
    }

    /// The same, and credentials instead of those that it has. Not for ACK, which has those of its INVITE (RFC 3261 22.1).
    pub(super) fn authorize(&mut self, request: &mut Request) {
        self.sign(request);
        request.headers.remove(&Name::Authorization);
        request.headers.remove(&Name::ProxyAuthorization);
        let Some(digest) = &mut self.digest else { return };
        let (method, uri) = (request.method.as_str().to_owned(), request.uri.to_string());
        let told = digest::Request { method: &method, uri: &uri, body: &request.body };
        for (name, value) in digest.authorize(&told) {
            request.headers.push(Name::from(name), value);
        }
    }

    /// Whether it is worth answering a 401 or 407.
    pub(super) fn learn(&mut self, response: &Response, answered: &mut Answered) -> bool {
        let asker = if response.status == 401 { Asker::Server } else { Asker::Proxy };
        let Some(digest) = &mut self.digest else { return false };
        let name = Name::from(asker.challenge_header());
        let challenged = digest.handle_challenge(asker, response.headers.all(&name), self.random);
        challenged.is_ok_and(|challenged| answered.allows(asker, challenged))
    }
}

/// The SIP side of one call.
pub(super) struct Leg {
    id: LegId,
    /// Where the INVITE came from or went to, and where the rest goes.
    flow: Flow,
    stage: Stage,
    /// Its end was told.
    is_told: bool,
    dialog: Option<Dialog>,
    sdp: Local,
    media: Option<Media>,
    timer: SessionTimer,
    /// The peer called, and asked for answers where it sent from (RFC 3581).
    is_symmetric: bool,
    /// The INVITE of ours that began it, as it was sent.
    called_by: Option<(TxId, Box<Request>)>,
    /// The peer takes UPDATE.
    takes_update: bool,
    /// A re-INVITE of theirs that we took and whose ACK has not come.
    theirs: Option<Taken>,
    /// A request of ours inside the dialog.
    pending: Option<Pending>,
    /// What is to be asked once that is answered.
    wishes: VecDeque<ours::Wish>,
    /// When a refresh that met one of theirs is tried again.
    retry_at: Option<Now>,
    transfer: Option<Transfer>,
}

/// An INVITE that was answered 200 and waits for its ACK.
#[derive(Clone, Copy)]
struct Taken {
    invite: TxId,
    /// Its number, which the ACK has too.
    cseq: u32,
    /// The offer was ours, and the ACK has the answer.
    offered: bool,
}

/// How far a leg is.
enum Stage {
    Invited(Box<Invited>),
    /// Our 200 waits for its ACK.
    Answered {
        taken: Taken,
        /// We hang up as soon as we may.
        leave: bool,
    },
    Calling(Box<Calling>),
    Up,
    /// Our BYE waits for its answer.
    Leaving {
        bye: TxId,
        answered: Answered,
    },
    Over,
}

impl Leg {
    fn new(id: LegId, flow: Flow, stage: Stage, parts: &mut Parts<'_>) -> Self {
        let unknown = SocketAddr::new(flow.remote.ip(), 0);
        let mut sdp = Local::new((parts.random)() as u32, unknown, &parts.setup.codecs);
        sdp.dtmf = parts.setup.rtp_digits;
        Self {
            id,
            flow,
            stage,
            is_told: false,
            dialog: None,
            sdp,
            media: None,
            timer: SessionTimer::new(secs(parts.setup.session_expires), secs(parts.setup.min_session_expires)),
            is_symmetric: true,
            called_by: None,
            takes_update: false,
            theirs: None,
            pending: None,
            wishes: VecDeque::new(),
            retry_at: None,
            transfer: None,
        }
    }

    /// Its name.
    pub(super) const fn id(&self) -> LegId {
        self.id
    }

    /// Where its requests go.
    pub(super) const fn flow(&self) -> Flow {
        self.flow
    }

    /// Nothing more comes of it.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    /// Whether it is a call that nobody has answered yet.
    pub(super) const fn is_unanswered(&self) -> bool {
        matches!(self.stage, Stage::Invited(_))
    }

    /// Whether this INVITE is what it waits for.
    pub(super) fn has_invite(&self, invite: TxId) -> bool {
        match &self.stage {
            Stage::Invited(invited) => invited.invite() == invite,
            Stage::Answered { taken, .. } => taken.invite == invite,
            Stage::Calling(_) | Stage::Up | Stage::Leaving { .. } | Stage::Over => {
                self.theirs.is_some_and(|taken| taken.invite == invite)
            }
        }
    }

    /// Whether it sent this request.
    pub(super) fn has_asked(&self, tx: TxId) -> bool {
        let stage = match &self.stage {
            Stage::Calling(calling) => calling.invite() == tx,
            Stage::Leaving { bye, .. } => *bye == tx,
            Stage::Invited(_) | Stage::Answered { .. } | Stage::Up | Stage::Over => false,
        };
        stage
            || self.pending.as_ref().is_some_and(|pending| pending.tx() == tx)
            || self.called_by.as_ref().is_some_and(|(invite, _)| *invite == tx)
    }

    /// Whether the peer takes keys in RTP.
    pub(super) fn takes_rtp_digits(&self) -> bool {
        self.media.as_ref().is_some_and(|media| media.codec.dtmf_payload_type.is_some())
    }

    /// Our tag.
    pub(super) fn tag(&self) -> Option<&str> {
        self.dialog.as_ref().map(|dialog| dialog.id().local_tag.as_str())
    }

    /// Whether it has this dialog.
    pub(super) fn has_dialog(&self, id: &DialogId) -> bool {
        let early = match &self.stage {
            Stage::Calling(calling) => calling.dialog(id).is_some(),
            Stage::Invited(_) | Stage::Answered { .. } | Stage::Up | Stage::Leaving { .. } | Stage::Over => false,
        };
        early || self.dialog.as_ref().is_some_and(|dialog| dialog.id() == id)
    }

    /// When something is due.
    pub(super) fn poll_timeout(&self) -> Option<Now> {
        let stage = match &self.stage {
            Stage::Calling(calling) => calling.poll_timeout(),
            Stage::Invited(invited) => Some(invited.give_up_at()),
            Stage::Answered { .. } | Stage::Up | Stage::Leaving { .. } | Stage::Over => None,
        };
        let up = matches!(self.stage, Stage::Up);
        let timer = self.timer.poll_timeout().filter(|_| up);
        let transfer = self.transfer.as_ref().filter(|_| up).map(Transfer::give_up_at);
        [stage, timer, transfer, self.retry_at.filter(|_| up)].into_iter().flatten().min()
    }

    /// Something is due.
    pub(super) fn handle_timeout(&mut self, parts: &mut Parts<'_>) {
        match &self.stage {
            Stage::Calling(_) => self.on_calling_timeout(parts),
            Stage::Up => self.on_up_timeout(parts),
            Stage::Invited(_) => self.on_invited_timeout(parts),
            Stage::Answered { .. } | Stage::Leaving { .. } | Stage::Over => {}
        }
    }

    /// Tells what came to be, unless the end was told already: then nobody listens any more.
    fn tell(&self, parts: &mut Parts<'_>, event: Event) {
        if !self.is_told {
            parts.events.push_back(event);
        }
    }

    /// Tells the end; the first reason counts. What is left to say to the peer is said without anybody's help.
    fn tell_end(&mut self, parts: &mut Parts<'_>, why: Ending) {
        self.tell(parts, Event::Ended { leg: self.id, why });
        self.is_told = true;
    }

    /// Nothing more comes of it, and this is why.
    fn end(&mut self, parts: &mut Parts<'_>, why: Ending) {
        self.stage = Stage::Over;
        self.tell_end(parts, why);
    }

    /// The audio goes like this from now on.
    fn set_media(&mut self, parts: &mut Parts<'_>, media: Media) {
        if self.media.as_ref() != Some(&media) {
            self.media = Some(media.clone());
            self.tell(parts, Event::Changed { leg: self.id, media });
        }
    }

    /// It is answered, and acknowledged.
    fn on_up(&mut self, parts: &mut Parts<'_>, media: Media) {
        self.media = Some(media.clone());
        self.tell(parts, Event::Up { leg: self.id, media });
        self.ask_next(parts);
    }

    /// Where requests inside the dialog go. A peer that asked for its answers where it sent from (RFC 3581), or that has
    /// a connection, is found there, through whatever stands between; another at the address that it named.
    fn next_hop(&self) -> Flow {
        let Some(dialog) = &self.dialog else { return self.flow };
        if self.flow.is_reliable() || self.is_symmetric {
            return self.flow;
        }
        let next = dialog.next_hop();
        match next.host.parse() {
            Ok(address) => Flow { remote: SocketAddr::new(address, next.port.unwrap_or(5060)), ..self.flow },
            Err(_) => self.flow,
        }
    }
}

/// The methods that we take, for Allow.
pub(super) const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, PRACK, UPDATE, INFO, REFER, NOTIFY";
/// The extensions that we have, for Supported.
pub(super) const SUPPORTED: &str = "100rel, timer";
/// The only kind of body that tells of audio.
pub(super) const SDP: &str = "application/sdp";

/// The headers that every answer which begins or goes on with a call has.
fn describe(response: &mut Response, contact: &NameAddr) {
    response.headers.push(Name::Contact, contact.to_string());
    response.headers.push(Name::Allow, ALLOW);
    response.headers.push(Name::Supported, SUPPORTED);
}

/// Puts a session description into a message's body.
fn set_sdp(headers: &mut super::Headers, body: &mut Vec<u8>, sdp: String) {
    headers.set(Name::ContentType, SDP);
    *body = sdp.into_bytes();
}

/// The description in a body, if that is what it is. `Err`: the status that says why not.
fn offer_in(request: &Request) -> Result<Option<sdp::Offer>, u16> {
    if request.body.is_empty() {
        return Ok(None);
    }
    match request.content_type() {
        Some(kind) if kind.eq_ignore_ascii_case(SDP) => {}
        // RFC 3261 20.15 wants a type; a body without one is most likely what everybody sends.
        None => {}
        Some(_) => return Err(415),
    }
    if request.headers.get(&Name::ContentEncoding).is_some_and(|coding| !coding.eq_ignore_ascii_case("identity")) {
        return Err(415);
    }
    sdp::Offer::parse(&request.body).map(Some).map_err(|_| 488)
}

/// Extensions that a request demands and that we do not have.
fn unsupported(request: &Request) -> Vec<String> {
    request
        .headers
        .list(&Name::Require)
        .filter(|extension| !["100rel", "timer"].iter().any(|ours| extension.eq_ignore_ascii_case(ours)))
        .map(str::to_owned)
        .collect()
}

/// The answer to a request that demands such (RFC 3261 8.2.2.3).
pub(super) fn bad_extension(request: &Request) -> Option<Response> {
    let missing = unsupported(request);
    if missing.is_empty() {
        return None;
    }
    let mut response = request.answer(420);
    response.headers.push(Name::Unsupported, missing.join(", "));
    Some(response)
}

/// Whether a message says that its sender takes a method.
fn allows(headers: &super::Headers, method: &Method) -> bool {
    headers.list(&Name::Allow).any(|allowed| allowed == method.as_str())
}

/// What a message of the peer's says about the session timer.
fn timer_of(headers: &super::Headers) -> Received<'_> {
    Received {
        session_expires: headers.get(&Name::SessionExpires),
        min_se: headers.get(&Name::MinSe),
        supports_timer: headers.has_token(&Name::Supported, "timer") || headers.has_token(&Name::Require, "timer"),
    }
}

/// What a 200 of ours says about it.
fn grant(headers: &mut super::Headers, granted: Option<Granted>) {
    let Some(Granted { session_expires, require }) = granted else { return };
    headers.push(Name::SessionExpires, session_expires.to_string());
    if require {
        headers.push(Name::Require, "timer");
    }
}

/// What a request of ours says about it.
fn ask_for(headers: &mut super::Headers, timer: &SessionTimer) {
    let asked = timer.ask();
    headers.set(Name::SessionExpires, asked.session_expires.to_string());
    if let Some(min_se) = asked.min_se {
        headers.set(Name::MinSe, min_se.to_string());
    }
}

fn secs(time: Now) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}
