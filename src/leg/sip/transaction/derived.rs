//! Messages that a transaction makes of others: the ACK of a refusal, a CANCEL, the 100, refusals.

use super::{SentBy, outbox::Bytes};
use crate::leg::sip::{CSeq, Headers, Method, Name, Params, Request, Response, Via, flow::Transport};

/// The ACK of a refusal, RFC 3261 17.1.1.3: in the transaction of the INVITE, so with its Via.
pub(super) fn ack_of_refusal(invite: &Request, refusal: &Response) -> Bytes {
    let mut ack = same_hop(invite, Method::Ack);
    if let Some(to) = refusal.headers.get(&Name::To) {
        ack.headers.set(Name::To, to); // it has the tag
    }
    request_bytes(&ack)
}

/// The CANCEL of an INVITE, RFC 3261 9.1.
pub(super) fn cancel_of(invite: &Request) -> Request {
    same_hop(invite, Method::Cancel)
}

/// The 100 that goes out by itself, RFC 3261 8.2.6.
pub(super) fn trying(request: &Request) -> Bytes {
    response_bytes(&request.answer(100))
}

/// The answer to a request that gets no transaction.
pub(super) fn refusal(request: &Request, status: u16, tag: &str) -> Bytes {
    let mut response = request.answer(status);
    response.headers.set_to_tag(tag);
    if status == 503 {
        response.headers.push(Name::RetryAfter, RETRY_AFTER_SECONDS.to_string());
    }
    response_bytes(&response)
}

/// Makes a 1xx reliable, RFC 3262 3.
pub(super) fn make_reliable(response: &mut Response, rseq: u32) {
    if !response.headers.has_token(&Name::Require, "100rel") {
        response.headers.push(Name::Require, "100rel");
    }
    response.headers.set(Name::RSeq, rseq.to_string());
}

/// Puts our Via on top. `rport` asks for the answer to come back to the port that this came from, RFC 3581 3.
pub(super) fn add_via(request: &mut Request, transport: Transport, sent_by: &SentBy, branch: &str) {
    let mut params = Params::default();
    params.set("branch", Some(branch));
    params.set("rport", None);
    let SentBy { host, port } = sent_by.clone();
    let via = Via { transport: transport.as_str().to_owned(), host, port, params };
    request.headers.insert_front(Name::Via, via.to_string());
}

pub(super) fn request_bytes(request: &Request) -> Bytes {
    let mut bytes = Vec::with_capacity(1024);
    request.write(&mut bytes);
    bytes.into()
}

pub(super) fn response_bytes(response: &Response) -> Bytes {
    let mut bytes = Vec::with_capacity(1024);
    response.write(&mut bytes);
    bytes.into()
}

/// A request that goes where the INVITE went and means it: the same topmost Via, dialog, number and route.
fn same_hop(invite: &Request, method: Method) -> Request {
    let mut headers = Headers::default();
    if let Some(via) = invite.headers.list(&Name::Via).next() {
        headers.push(Name::Via, via);
    }
    headers.push(Name::MaxForwards, "70");
    for name in [Name::Route, Name::From, Name::To, Name::CallId] {
        invite.headers.all(&name).for_each(|value| headers.push(name.clone(), value));
    }
    if let Ok(cseq) = invite.cseq() {
        headers.push(Name::CSeq, CSeq { method: method.clone(), ..cseq }.to_string());
    }
    Request { method, uri: invite.uri.clone(), headers, body: vec![] }
}

/// Transactions end within 32 s; by this time a table that was full has room, unless the flood goes on.
const RETRY_AFTER_SECONDS: u32 = 10;
