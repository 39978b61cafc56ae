//! A call that we make, until it is answered or not (RFC 3261 13.2, RFC 3262 4).

use std::net::SocketAddr;

use super::{ALLOW, Ending, Leg, LegId, Parts, SUPPORTED, Stage, ask_for, set_sdp};
use crate::{
    leg::sip::{
        CSeq, Flow, Method, Name, NameAddr, Request, Response, Uri,
        dialog::{Dialog, DialogId},
        digest::Answered,
        sdp::{Media, NoCodec, Offer},
        transaction::TxId,
    },
    media::Now,
};

/// An INVITE of ours without a final answer.
pub(super) struct Calling {
    invite: TxId,
    /// As it was sent, credentials and all: the ACK has the same (RFC 3261 22.1).
    request: Request,
    /// When we stop waiting; `None`: we have.
    give_up_at: Option<Now>,
    /// Why it is not wanted any more.
    why: Option<Ending>,
    answered: Answered,
    /// Those who ring.
    early: Vec<Early>,
}

/// Somebody rings.
struct Early {
    dialog: Dialog,
    /// The reliable 1xx that was acknowledged last.
    rseq: Option<u32>,
    /// What a 1xx answered to our offer.
    media: Option<Media>,
}

impl Calling {
    pub(super) const fn invite(&self) -> TxId {
        self.invite
    }

    pub(super) const fn poll_timeout(&self) -> Option<Now> {
        self.give_up_at
    }

    pub(super) fn dialog(&self, id: &DialogId) -> Option<&Dialog> {
        self.early.iter().map(|early| &early.dialog).find(|dialog| dialog.id() == id)
    }

    pub(super) fn dialog_mut(&mut self, request: &Request) -> Option<&mut Dialog> {
        self.early.iter_mut().map(|early| &mut early.dialog).find(|dialog| dialog.matches(request))
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
    /// Calls somebody. `None`: there are too many requests under way.
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
        parts.authorize(&mut request);
        let invite = parts.transactions.request(parts.now, flow, request.clone()).ok()?;
        let (answered, early) = (Answered::default(), vec![]);
        leg.stage = Stage::Calling(Box::new(Calling { invite, request, give_up_at, why: None, answered, early }));
        Some(leg)
    }

    /// Tries again with what the last answer taught.
    fn invite_again(&mut self, parts: &mut Parts<'_>) {
        let Stage::Calling(calling) = &mut self.stage else { return };
        if let Ok(mut cseq) = calling.request.cseq() {
            cseq.number += 1;
            calling.request.headers.set(Name::CSeq, cseq.to_string());
        }
        ask_for(&mut calling.request.headers, &self.timer);
        parts.authorize(&mut calling.request);
        match parts.transactions.request(parts.now, self.flow, calling.request.clone()) {
            Ok(invite) => calling.invite = invite,
            Err(_) => self.end(parts, Ending::Lost("too many requests are under way")),
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
            401 | 407 if calling.why.is_none() && parts.learn(response, &mut calling.answered) => {
                self.invite_again(parts);
            }
            // Each time for more than before, so it ends.
            422 if calling.why.is_none() && self.timer.handle_too_small(response.headers.get(&Name::MinSe)) => {
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
        let at = match calling.early.iter().position(|early| early.dialog.matches_response(response)) {
            Some(at) => at,
            // Of a proxy, or one that cannot be reached before it answers.
            None if calling.early.len() == MAX_FORKS => return,
            None => {
                let Ok(dialog) = Dialog::uac(&calling.request, response) else { return };
                calling.early.push(Early { dialog, rseq: None, media: None });
                calling.early.len() - 1
            }
        };
        let early = &mut calling.early[at];
        let reliable = response.headers.has_token(&Name::Require, "100rel");
        let rack = if reliable { response.headers.number(&Name::RSeq).zip(response.cseq().ok()) } else { None };
        if let Some((rseq, _)) = &rack {
            // RFC 3262 4: in order; a copy is not acknowledged again, and one that came too early will come again.
            if early.rseq.is_some_and(|last| last.checked_add(1) != Some(*rseq)) {
                return;
            }
            early.rseq = Some(*rseq);
        }
        // RFC 3261 13.2.1: the first description is the answer.
        if early.media.is_none()
            && let Ok(answer) = Offer::parse(&response.body)
        {
            early.media = self.sdp.read_answer(&answer).ok();
        }
        let Some((rseq, cseq)) = rack else { return };
        let mut prack = early.dialog.request(Method::Prack);
        prack.headers.push(Name::RAck, format!("{rseq} {cseq}"));
        parts.authorize(&mut prack);
        // Where there are too many requests under way the 504 for want of it tells the rest.
        let _ = parts.transactions.request(parts.now, self.flow, prack);
    }

    fn on_answered(&mut self, parts: &mut Parts<'_>, response: &Response) {
        let Stage::Calling(calling) = &mut self.stage else { return };
        let early = calling.early.iter().position(|early| early.dialog.matches_response(response));
        let (dialog, told) = match early.map(|at| calling.early.swap_remove(at)) {
            Some(early) => (Ok(early.dialog), early.media),
            None => (Dialog::uac(&calling.request, response), None),
        };
        let Ok(mut dialog) = dialog else {
            return self.end(parts, Ending::Protocol("the answer to our call names nobody that could be reached"));
        };
        dialog.handle_response(response);
        let mut ack = dialog.ack(&calling.request);
        let (invite, crossed) = (calling.invite, calling.why.take());
        self.called_by = Some((invite, Box::new(calling.request.clone())));
        self.dialog = Some(dialog);
        self.takes_update = super::allows(&response.headers, &Method::Update);
        self.timer.handle_success(response.headers.get(&Name::SessionExpires), parts.now);
        parts.sign(&mut ack);
        parts.transactions.ack(invite, self.next_hop(), ack);
        self.stage = Stage::Up;
        // The CANCEL and the answer crossed.
        if let Some(why) = crossed {
            return self.break_off(parts, why);
        }
        let agreed = match told {
            // An answer that a 1xx had need not be in the 200 as well.
            Some(media) if response.body.is_empty() => Ok(media),
            Some(_) | None => {
                let answer = Offer::parse(&response.body).map_err(|_| NoCodec::NoAudio);
                answer.and_then(|answer| self.sdp.read_answer(&answer))
            }
        };
        match agreed {
            Ok(media) => self.on_up(parts, media),
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
        parts.sign(&mut ack);
        parts.transactions.ack(invite, self.flow, ack);
        parts.authorize(&mut bye);
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

    /// The call is not wanted any more. The leg lasts until the peer has said so, or has answered all the same.
    pub(super) fn give_up_calling(&mut self, parts: &mut Parts<'_>, why: Ending) {
        if let Stage::Calling(calling) = &mut self.stage {
            calling.give_up_at = None;
            calling.why.get_or_insert_with(|| why.clone());
            parts.transactions.cancel(parts.now, calling.invite);
            self.tell_end(parts, why);
        }
    }
}

/// Forks that are known before one answers.
const MAX_FORKS: usize = 8;
