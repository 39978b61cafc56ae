//! A call that we make, until it is answered or not (RFC 3261 13.2, RFC 3262 4).

use std::net::SocketAddr;

use super::{Ending, Event, Leg, LegId, Parts, Stage, ours::introduce, set_sdp};
use crate::{
    leg::sip::{
        CSeq, Flow, Method, Name, NameAddr, Request, Response, Uri,
        dialog::Dialog,
        sdp::{NoCodec, Offer},
        session_timer::SessionTimer,
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
    /// The reliable 1xx that was acknowledged last, of each fork.
    heard: Vec<(String, u32)>,
}

impl Calling {
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
        introduce(&mut request, parts, flow);
        let mut timer = SessionTimer::calling(parts.setup);
        timer.ask(&mut request.headers);
        leg.timer = Some(timer);
        let sdp = leg.sdp.offer();
        set_sdp(&mut request.headers, &mut request.body, sdp);
        let give_up_at = Some(parts.now + parts.setup.answer_timeout);
        leg.invite(parts, Calling { invite: TxId::NONE, request, give_up_at, why: None, tries: 0, heard: vec![] })
            .then_some(leg)
    }

    /// Sends the INVITE, the first or the next. `false`: it could not be.
    fn invite(&mut self, parts: &mut Parts<'_>, mut calling: Calling) -> bool {
        let mut request = calling.request.clone();
        parts.finish(&mut request);
        let Ok(invite) = parts.transactions.request(parts.now, self.flow, request) else { return false };
        calling.invite = invite;
        self.stage = Stage::Calling(Box::new(calling));
        true
    }

    /// Tries again with what the last answer taught.
    fn invite_again(&mut self, parts: &mut Parts<'_>) {
        let Stage::Calling(calling) = core::mem::replace(&mut self.stage, Stage::Over) else { return };
        let mut calling = *calling;
        calling.tries += 1;
        if let Ok(mut cseq) = calling.request.cseq() {
            cseq.number += 1;
            calling.request.headers.set(Name::CSeq, cseq.to_string());
        }
        if let Some(timer) = &mut self.timer {
            timer.ask(&mut calling.request.headers);
        }
        if !self.invite(parts, calling) {
            parts.tell(Event::Ended { leg: self.id, why: Ending::Lost("too many requests are under way") });
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
                if let Some(timer) = &mut self.timer {
                    timer.handle_too_small(&response.headers);
                }
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
        let Ok(mut dialog) = Dialog::calling(&calling.request, response, parts.setup.contact(self.flow)) else { return };
        let tag = response.to().ok().and_then(|to| to.tag().map(str::to_owned)).unwrap_or_default();
        // RFC 3262 4: in order; a copy is not acknowledged again, and one that came too early will come again.
        match calling.heard.iter_mut().find(|(fork, _)| *fork == tag) {
            Some((_, last)) if rseq == *last + 1 => *last = rseq,
            Some(_) => return,
            None if calling.heard.len() < MAX_FORKS => calling.heard.push((tag, rseq)),
            None => return,
        }
        // Each PRACK is a request of its own, and the next request of the dialog comes behind it.
        let prack_number = cseq.number + calling.heard.iter().map(|_| 1).sum::<u32>();
        dialog.set_local_cseq(prack_number.saturating_sub(1));
        let mut prack = dialog.request(Method::Prack);
        prack.headers.push(Name::RAck, format!("{rseq} {} {}", cseq.number, cseq.method));
        parts.finish(&mut prack);
        let _ = parts.transactions.request(parts.now, self.flow, prack);
    }

    fn on_answered(&mut self, parts: &mut Parts<'_>, response: &Response) {
        let Stage::Calling(calling) = core::mem::replace(&mut self.stage, Stage::Over) else { return };
        let dialog = Dialog::calling(&calling.request, response, parts.setup.contact(self.flow));
        let Ok(mut dialog) = dialog else {
            return parts.tell(Event::Ended { leg: self.id, why: Ending::Protocol("the answer to our call has no dialog") });
        };
        dialog.set_local_cseq(dialog.local_cseq() + MAX_PRACKS);
        self.dialog = Some(dialog);
        self.takes_update = super::allows(&response.headers, &Method::Update);
        if let Some(timer) = &mut self.timer {
            timer.handle_answer(parts.now, &response.headers);
        }
        self.acknowledge_call(parts, calling.invite, &calling.request);
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

    fn acknowledge_call(&mut self, parts: &mut Parts<'_>, invite: TxId, request: &Request) {
        let flow = self.next_hop();
        let (Some(dialog), Ok(cseq)) = (&self.dialog, request.cseq()) else { return };
        let mut ack = dialog.ack_of(cseq.number);
        parts.finish(&mut ack);
        parts.transactions.ack(invite, flow, ack);
    }

    /// A 2xx that is not what the call came to: of another fork. Its dialog is ended at once (RFC 3261 13.2.2.4).
    pub(super) fn on_stray_success(&mut self, parts: &mut Parts<'_>, invite: TxId, response: &Response) {
        let is_invite = response.cseq().is_ok_and(|cseq| cseq.method == Method::Invite);
        if !response.is_success() || !is_invite {
            return;
        }
        let request = self.dialog.as_ref().map(|dialog| dialog.as_invite());
        let Some(request) = request else { return };
        let Ok(mut fork) = Dialog::calling(&request, response, parts.setup.contact(self.flow)) else { return };
        let Ok(cseq) = response.cseq() else { return };
        let mut ack = fork.ack_of(cseq.number);
        parts.finish(&mut ack);
        parts.transactions.ack(invite, self.flow, ack);
        if self.dialog.as_ref().is_some_and(|dialog| !dialog.is_same_as(&fork)) {
            let mut bye = fork.request(Method::Bye);
            parts.finish(&mut bye);
            let _ = parts.transactions.request(parts.now, self.flow, bye);
        }
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

/// How often a call is sent again with what an answer taught.
const MAX_TRIES: u8 = 3;
/// Forks whose ringing is acknowledged.
const MAX_FORKS: usize = 8;
/// More numbers than the PRACKs of a call can have used.
const MAX_PRACKS: u32 = 100;
