//! What of a message says which transaction it is of, and where its answer goes.

use core::net::SocketAddr;

use crate::leg::sip::{Headers, Method, Name, Request, Response, Via, flow::Flow};

/// What of a message names its transaction and its dialog.
#[derive(Debug)]
pub(super) struct Identity {
    /// Of the topmost Via; empty where it has none, RFC 2543.
    pub(super) branch: String,
    /// Host and port of the topmost Via, in lower case.
    pub(super) sent_by: String,
    pub(super) method: Method,
    pub(super) cseq: u32,
    pub(super) call_id: String,
    pub(super) from_tag: String,
    pub(super) to_tag: Option<String>,
    /// The Request-URI; empty for an answer.
    pub(super) uri: String,
}

impl Identity {
    pub(super) fn of_request(request: &Request) -> Option<Self> {
        let identity = Self::read(&request.headers)?;
        Some(Self { method: request.method.clone(), uri: request.uri.to_string(), ..identity })
    }

    /// None also for an answer with several Via: it is not for us, RFC 3261 8.1.3.3.
    pub(super) fn of_response(response: &Response) -> Option<Self> {
        let is_ours = response.headers.list(&Name::Via).nth(1).is_none();
        is_ours.then(|| Self::read(&response.headers)).flatten()
    }

    fn read(headers: &Headers) -> Option<Self> {
        let via = headers.via().ok()?;
        let cseq = headers.cseq().ok()?;
        let tag = |tag: Option<&str>| tag.map(str::to_owned);
        Some(Self {
            branch: tag(via.branch()).unwrap_or_default(),
            sent_by: sent_by(&via),
            method: cseq.method,
            cseq: cseq.number,
            call_id: headers.call_id()?.to_owned(),
            from_tag: tag(headers.from().ok()?.tag()).unwrap_or_default(),
            to_tag: tag(headers.to().ok()?.tag()),
            uri: String::new(),
        })
    }
}

/// Notes in the topmost Via where the request came from, and says where its answer goes: RFC 3261 18.2.2, RFC 3581 4. On
/// a connection, back on it. As a datagram to the address that the request came from, whatever the Via says (`maddr` would
/// let anybody aim our answers at others), and to the port that it came from if `rport` asks for that, else to the one
/// that the Via names.
pub(super) fn note_source(request: &mut Request, flow: Flow) -> Option<Flow> {
    let via = request.via().ok()?;
    request.note_source(flow.remote);
    Some(reply_to(&via, flow))
}

/// Where the answer to a request with this topmost Via goes that came by this flow.
pub(super) fn reply_to(via: &Via, flow: Flow) -> Flow {
    if flow.is_reliable() || via.params.has("rport") {
        return flow;
    }
    let mut remote: SocketAddr = flow.remote;
    remote.set_port(via.port.filter(|port| *port != 0).unwrap_or(SIP_PORT));
    Flow { remote, ..flow }
}

fn sent_by(via: &Via) -> String {
    let host = via.host.to_ascii_lowercase();
    via.port.map_or(host.clone(), |port| format!("{host}:{port}"))
}

/// Where a Via without a port is at home, RFC 3261 18.2.2.
const SIP_PORT: u16 = 5060;
