//! What the peer asks inside of a call: new audio, holds, keys, its end (RFC 3261 12.2.2, 14.2, 15.1.2; RFC 3311).

use super::{
    ALLOW, Ending, Event, Leg, Parts, SUPPORTED, Stage, Taken, bad_extension, called::not_allowed, describe, grant,
    offer_in, set_sdp, timer_of,
};
use crate::leg::{
    rtp::dtmf::info_digit,
    sip::{
        Method, Name, Request, Response,
        session_timer::{Granted, TooSmall},
        transaction::TxId,
    },
};

impl Leg {
    /// A request inside the dialog.
    pub(in crate::leg::sip) fn handle_request(&mut self, parts: &mut Parts<'_>, tx: TxId, request: &Request) {
        let dialog = match &mut self.stage {
            Stage::Calling(calling) => calling.dialog_mut(request),
            Stage::Invited(_) | Stage::Answered { .. } | Stage::Up | Stage::Leaving { .. } | Stage::Over => {
                self.dialog.as_mut()
            }
        };
        let is_in_order = dialog.is_some_and(|dialog| dialog.handle_request(request).is_ok());
        if !is_in_order {
            return parts.respond(tx, request.answer(500)); // RFC 3261 12.2.2
        }
        if let Some(response) = bad_extension(request) {
            return parts.respond(tx, response);
        }
        // RFC 5407 3.2.2, 3.2.3: after our BYE there is no session to do anything with.
        if matches!(self.stage, Stage::Leaving { .. } | Stage::Over) && request.method != Method::Bye {
            return parts.respond(tx, request.answer(481));
        }
        match request.method {
            Method::Invite => self.on_reinvite(parts, tx, request),
            Method::Update => self.on_update(parts, tx, request),
            Method::Bye => self.on_bye(parts, tx, request),
            Method::Prack => self.on_prack(parts, tx, request),
            Method::Info => self.on_info(parts, tx, request),
            Method::Notify => self.on_notify(parts, tx, request),
            Method::Options => parts.respond(tx, capabilities(request, 200)),
            // Callers are passed on by the agent or by us, not by whoever calls.
            Method::Refer => parts.respond(tx, request.answer(603)),
            Method::Subscribe => parts.respond(tx, bad_event(request)),
            Method::Ack | Method::Cancel => {}
            Method::Register | Method::Message | Method::Publish | Method::Other(_) => {
                parts.respond(tx, not_allowed(request));
            }
        }
    }

    fn on_bye(&mut self, parts: &mut Parts<'_>, tx: TxId, request: &Request) {
        parts.respond(tx, request.answer(200));
        let words = request.headers.get(&Name::Reason).map(str::to_owned);
        match &self.stage {
            // RFC 3261 15.1.2: what still waits for an answer has one now.
            Stage::Invited(_) => self.refuse(parts, 487, &[], &Ending::HungUp(words)),
            Stage::Calling(_) => self.give_up_calling(parts, Ending::HungUp(words)),
            Stage::Answered { .. } | Stage::Up | Stage::Leaving { .. } | Stage::Over => {
                let answered = match self.stage {
                    Stage::Answered { taken, .. } => Some(taken),
                    Stage::Invited(_) | Stage::Calling(_) | Stage::Up | Stage::Leaving { .. } | Stage::Over => None,
                };
                for taken in self.theirs.take().into_iter().chain(answered) {
                    parts.transactions.acked(taken.invite);
                }
                let why = if self.on_taken_over(parts) { Ending::Transferred } else { Ending::HungUp(words) };
                self.end(parts, why);
            }
        }
    }

    fn on_reinvite(&mut self, parts: &mut Parts<'_>, tx: TxId, request: &Request) {
        self.infer_ack(parts);
        match self.stage {
            // RFC 3261 14.2: the first is not answered yet.
            Stage::Invited(_) => {
                let response = later(request, parts);
                return parts.respond(tx, response);
            }
            Stage::Up if self.theirs.is_none() && !self.has_offered() => {}
            // RFC 3261 14.2: an offer of ours waits for its answer, be it in an INVITE or in a 200.
            Stage::Up | Stage::Calling(_) | Stage::Answered { .. } => return parts.respond(tx, request.answer(491)),
            Stage::Leaving { .. } | Stage::Over => return parts.respond(tx, request.answer(481)),
        }
        let granted = match self.timer.handle_request(&timer_of(&request.headers)) {
            Ok(granted) => granted,
            Err(too_small) => return parts.respond(tx, interval_too_small(request, too_small)),
        };
        let offer = match offer_in(request) {
            Ok(offer) => offer,
            Err(status) => return parts.respond(tx, refusal(request, status)),
        };
        let (sdp, media) = match &offer {
            Some(offer) => match self.sdp.answer(offer) {
                Ok((sdp, media)) => (sdp, Some(media)),
                Err(_) => return parts.respond(tx, refusal(request, 488)), // what was agreed still holds
            },
            None => (self.sdp.offer(), None),
        };
        let mut response = self.taken(parts, request, granted);
        set_sdp(&mut response.headers, &mut response.body, sdp);
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        self.theirs = Some(Taken { invite: tx, cseq, offered: media.is_none() });
        parts.respond(tx, response);
        if let Some(media) = media {
            self.set_media(parts, media);
        }
    }

    fn on_update(&mut self, parts: &mut Parts<'_>, tx: TxId, request: &Request) {
        let offer = match offer_in(request) {
            Ok(offer) => offer,
            Err(status) => return parts.respond(tx, refusal(request, status)),
        };
        let may_offer = match &self.stage {
            Stage::Invited(invited) if invited.has_settled() => true,
            // RFC 3311 5.2: an offer of theirs has no answer yet.
            Stage::Invited(_) if offer.is_some() => {
                let response = later(request, parts);
                return parts.respond(tx, response);
            }
            Stage::Up => !self.has_offered() && !self.theirs.is_some_and(|taken| taken.offered),
            Stage::Answered { taken, .. } => !taken.offered,
            Stage::Invited(_) | Stage::Calling(_) | Stage::Leaving { .. } | Stage::Over => false,
        };
        // RFC 3311 5.2: an offer of ours has none.
        if offer.is_some() && !may_offer {
            return parts.respond(tx, request.answer(491));
        }
        let granted = match self.timer.handle_request(&timer_of(&request.headers)) {
            Ok(granted) => granted,
            Err(too_small) => return parts.respond(tx, interval_too_small(request, too_small)),
        };
        let answered = match offer.map(|offer| self.sdp.answer(&offer)) {
            None => None,
            Some(Ok(answered)) => Some(answered),
            Some(Err(_)) => return parts.respond(tx, refusal(request, 488)),
        };
        let mut response = self.taken(parts, request, granted);
        let Some((sdp, media)) = answered else { return parts.respond(tx, response) };
        self.redescribe(&sdp);
        set_sdp(&mut response.headers, &mut response.body, sdp);
        parts.respond(tx, response);
        self.set_media(parts, media);
    }

    fn on_info(&mut self, parts: &mut Parts<'_>, tx: TxId, request: &Request) {
        let digit = info_digit(request.content_type().unwrap_or_default(), &request.body);
        // RFC 6086 4.2.2: an empty one asks whether we are still there.
        let status = if digit.is_some() || request.body.is_empty() { 200 } else { 415 };
        parts.respond(tx, refusal(request, status));
        if let Some(digit) = digit {
            self.tell(parts, Event::Digit { leg: self.id, digit });
        }
    }

    /// The 200 to a request that changes the call.
    fn taken(&mut self, parts: &Parts<'_>, request: &Request, granted: Option<Granted>) -> Response {
        let mut response = request.answer(200);
        describe(&mut response, &parts.setup.contact(self.flow));
        grant(&mut response.headers, granted);
        self.timer.handle_answered(granted, parts.now);
        self.takes_update |= super::allows(&request.headers, &Method::Update);
        response
    }
}

/// An answer that says no more than its status, and what we take instead.
fn refusal(request: &Request, status: u16) -> Response {
    let mut response = request.answer(status);
    if status == 415 {
        response.headers.push(Name::Accept, "application/sdp, application/dtmf-relay, application/dtmf");
    }
    response
}

/// The peer's session timer is shorter than we take.
fn interval_too_small(request: &Request, too_small: TooSmall) -> Response {
    let mut response = request.answer(422);
    response.headers.push(Name::MinSe, too_small.min_se.to_string());
    response
}

/// What we can do, for OPTIONS.
pub(in crate::leg::sip) fn capabilities(request: &Request, status: u16) -> Response {
    let mut response = request.answer(status);
    response.headers.push(Name::Allow, ALLOW);
    response.headers.push(Name::Accept, super::SDP);
    response.headers.push(Name::AcceptEncoding, "identity");
    response.headers.push(Name::Supported, SUPPORTED);
    response
}

/// The answer to word, or to the wish for word, of something that we know nothing of.
pub(in crate::leg::sip) fn bad_event(request: &Request) -> Response {
    let mut response = request.answer(489);
    response.headers.push(Name::AllowEvents, "message-summary, refer"); // RFC 6665 8.2.2
    response
}

/// Not now, but in a moment.
fn later(request: &Request, parts: &mut Parts<'_>) -> Response {
    let mut response = request.answer(500);
    // RFC 3261 14.2: of 0 to 10 s, at random.
    response.headers.push(Name::RetryAfter, ((parts.random)() % 11).to_string());
    response
}
