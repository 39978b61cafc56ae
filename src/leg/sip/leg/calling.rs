//! A call that we make, until it is answered or not (RFC 3261 13.2, RFC 3262 4).

use std::net::SocketAddr;

use super::{ALLOW, Ending, Event, Leg, LegId, Parts, SUPPORTED, Stage, ask_for, set_sdp};
use crate::{
    leg::sip::{
        CSeq, Flow, Method, Name, NameAddr, Request, Response, Uri,
        dialog::Dialog,
        sdp::{NoCodec, Offer},
        transaction::TxId,
    },
    media::Now,
};

/// An INVITE of ours without a final answer.
pub(super) struct Calling {
    invite: TxId,
    request: Request,
    /// When we stop waiting; `None`: we have.
    give_up_at: Option<Now>,
    /// Why it is not wanted any more.
    why: Option<Ending>,
    tries: u8,
    /// The dialogs of those who ring, and the reliable 1xx of each that was acknowledged last.
    early: Vec<(Dialog, u32)>,
}

impl Calling {
    pub(super) const fn invite(&self) -> TxId {
        self.invite
    }

    pub(super) const fn poll_timeout(&self) -> Option<Now> {
        self.give_up_at
    }
}

/// Whom we call, and how they are reached.
pub(in crate::leg::sip) struct Callee {
    pub(in crate::leg::sip) uri: Uri,
    pub(in crate::leg::sip) flow: Flow,
    /// Where our audio is.
    pub(in crate::leg::sip) rtp: SocketAddr,
}

impl Leg {
    /// Calls somebody. `Err`: there are too many requests under way.
    pub(in crate::leg::sip) fn call(parts: &mut Parts<'_>, id: LegId, callee: Callee) -> Option<Self> {
        let Callee { uri, flow, rtp } = callee;
        let mut leg = Self::new(id, flow, Stage::Over, parts);
        leg.sdp.address = rtp;
        let mut from = parts.setup.from.clone();
        from.set_tag(&format!("{:016x}", (parts.random)()));
        let mut request = Request::new(Method::Invite, uri.clone());
        request.headers.push(Name::MaxForwards, "70");
        request.headers.push(Name::From, from.to_string());
        request.headers.push(Name::To, NameAddr::new(uri).to_string());
        let call_id = format!("{:016x}{:016x}@{}", (parts.random)(), (parts.random)(), parts.setup.host);
        request.headers.push(Name::CallId, call_id);
        request.headers.push(Name::CSeq, CSeq { number: 1, method: Method::Invite }.to_string());
        request.headers.push(Name::Contact, parts.setup.contact(flow).to_string());
        request.headers.push(Name::Allow, ALLOW);
        request.headers.push(Name::Supported, SUPPORTED);
        ask_for(&mut request.headers, &leg.timer);
        let sdp = leg.sdp.offer();
        set_sdp(&mut request.headers, &mut request.body, sdp);
        let give_up_at = Some(parts.now + parts.setup.answer_timeout);
        let invite = send(parts, flow, &request)?;
        leg.stage =
            Stage::Calling(Box::new(Calling { invite, request, give_up_at, why: None, tries: 0, early: vec![] }));
        Some(leg)
    }

    /// Tries again with what the last answer taught.
    fn invite_again(&mut self, parts: &mut Parts<'_>) {
        let Stage::Calling(calling) = &mut self.stage else { return };
        calling.tries += 1;
        if let Ok(mut cseq) = calling.request.cseq() {
            cseq.number += 1;
            calling.request.headers.set(Name::CSeq, cseq.to_string());
        }
        ask_for(&mut calling.request.headers, &self.timer);
        match send(parts, self.flow, &calling.request) {
            Some(invite) => calling.invite = invite,
            None => self.end(parts, Ending::Lost("too many requests are under way")),
        }
    }

    pub(super) fn on_calling_response(&mut self, parts: &mut Parts<'_>, tx: TxId, response: &Response) {
        let Stage::Calling(calling) = &mut self.stage else { return };
        if calling.invite != tx {
            return; // the answer to a PRACK, or to an INVITE that was sent again since
        }
        match response.status {
            ..=100 => {}
            101..=199 => self.on_progress(parts, response),
            200..=299 => self.on_answered(parts, response),
            401 | 407 if calling.tries < MAX_TRIES && calling.why.is_none() && parts.learn(response) => {
                self.invite_again(parts);
            }
            422 if calling.tries < MAX_TRIES && calling.why.is_none() => {
                // What it asks for no less than that is asked for; who wants still more refuses again, and that counts.
                let _ = self.timer.handle_too_small(response.headers.get(&Name::MinSe));
                self.invite_again(parts);
            }
            // Where a 3xx leads is not in the dial plan's hands: it counts as refused.
            status => {
                let refused = Ending::Refused(status, response.reason.clone());
                let why = calling.why.take().unwrap_or(refused);
                self.end(parts, why);
            }
        }
    }

    /// It rings, or more.
    fn on_progress(&mut self, parts: &mut Parts<'_>, response: &Response) {
        let Stage::Calling(calling) = &mut self.stage else { return };
        if !response.headers.has_token(&Name::Require, "100rel") {
            return;
        }
        let (Some(rseq), Ok(cseq)) = (response.headers.number(&Name::RSeq), response.cseq()) else { return };
        let known = calling.early.iter_mut().find(|(dialog, _)| dialog.matches_response(response));
        // RFC 3262 4: in order; a copy is not acknowledged again, and one that came too early will come again.
        let dialog = match known {
            Some((dialog, last)) if rseq == *last + 1 => {
                *last = rseq;
                dialog
            }
            Some(_) => return,
            None => {
                let Ok(dialog) = Dialog::uac(&calling.request, response) else { return };
                if calling.early.len() == MAX_FORKS {
                    return;
                }
                calling.early.push((dialog, rseq));
                let Some((dialog, _)) = calling.early.last_mut() else { return };
                dialog
            }
        };
        let mut prack = dialog.request(Method::Prack);
        prack.headers.push(Name::RAck, format!("{rseq} {} {}", cseq.number, cseq.method));
        parts.finish(&mut prack);
        // One that is not sent is asked for again by the next copy of the 1xx.
        let _ = parts.transactions.request(parts.now, self.flow, prack);
    }

    fn on_answered(&mut self, parts: &mut Parts<'_>, response: &Response) {
        let Stage::Calling(calling) = core::mem::replace(&mut self.stage, Stage::Over) else { return };
        let mut calling = *calling;
        let early = calling.early.iter().position(|(dialog, _)| dialog.matches_response(response));
        let dialog = match early {
            Some(at) => Ok(calling.early.swap_remove(at).0),
            None => Dialog::uac(&calling.request, response),
        };
        let Ok(mut dialog) = dialog else {
            self.stage = Stage::Calling(Box::new(calling));
            return self.end(parts, Ending::Protocol("the answer to our call names nobody that could be reached"));
        };
        dialog.handle_response(response);
        let mut ack = dialog.ack(&calling.request);
        self.dialog = Some(dialog);
        self.takes_update = super::allows(&response.headers, &Method::Update);
        self.timer.handle_success(response.headers.get(&Name::SessionExpires), parts.now);
        parts.finish(&mut ack);
        parts.transactions.ack(calling.invite, self.next_hop(), ack);
        self.called_by = Some((calling.invite, Box::new(calling.request)));
        self.stage = Stage::Up;
        // The CANCEL and the answer crossed.
        if let Some(why) = calling.why {
            return self.break_off(parts, why);
        }
        let answer = Offer::parse(&response.body).map_err(|_| NoCodec::NoAudio);
        match answer.and_then(|answer| self.sdp.read_answer(&answer)) {
            Ok(media) => {
                self.media = Some(media.clone());
                parts.tell(Event::Up { leg: self.id, media });
            }
            Err(why) => self.break_off(parts, Ending::NoCodec(why.to_string())),
        }
    }

    /// A 2xx that is not what the call came to: of another fork. Its dialog is ended at once (RFC 3261 13.2.2.4).
    pub(super) fn on_stray_success(&mut self, parts: &mut Parts<'_>, invite: TxId, response: &Response) {
        let Some((_, request)) = &self.called_by else { return };
        let is_invite = response.cseq().is_ok_and(|cseq| cseq.method == Method::Invite);
        let is_ours = self.dialog.as_ref().is_some_and(|dialog| dialog.matches_response(response));
        if !response.is_success() || !is_invite || is_ours {
            return;
        }
        let Ok(mut fork) = Dialog::uac(request, response) else { return };
        let (mut ack, mut bye) = (fork.ack(request), fork.request(Method::Bye));
        parts.finish(&mut ack);
        parts.transactions.ack(invite, self.flow, ack);
        parts.finish(&mut bye);
        // Where it cannot be sent the peer's session timer ends what it has.
        let _ = parts.transactions.request(parts.now, self.flow, bye);
    }

    pub(super) fn on_calling_unanswered(&mut self, parts: &mut Parts<'_>, tx: TxId, status: u16) {
        let Stage::Calling(calling) = &mut self.stage else { return };
        if calling.invite == tx {
            let lost = if status == 503 { Ending::Lost("the call could not be sent") } else { Ending::Unanswered };
            let why = calling.why.take().unwrap_or(lost);
            self.end(parts, why);
        }
    }

    pub(super) fn on_calling_timeout(&mut self, parts: &mut Parts<'_>) {
        let Stage::Calling(calling) = &self.stage else { return };
        if calling.give_up_at.is_some_and(|at| at <= parts.now) {
            self.give_up_calling(parts, Ending::Unanswered);
        }
    }

    /// The call is not wanted any more. It is over when the peer has said so, or has answered all the same.
    pub(super) fn give_up_calling(&mut self, parts: &mut Parts<'_>, why: Ending) {
        if let Stage::Calling(calling) = &mut self.stage {
            calling.give_up_at = None;
            calling.why.get_or_insert(why);
            parts.transactions.cancel(parts.now, calling.invite);
        }
    }
}

fn send(parts: &mut Parts<'_>, flow: Flow, request: &Request) -> Option<TxId> {
    let mut request = request.clone();
    parts.finish(&mut request);
    parts.transactions.request(parts.now, flow, request).ok()
}

/// How often a call is sent again with what an answer taught.
const MAX_TRIES: u8 = 3;
/// Forks whose ringing is acknowledged.
const MAX_FORKS: usize = 8;
