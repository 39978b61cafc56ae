//! What the peer asks inside of a call: new audio, holds, keys, its end (RFC 3261 12.2.2, 14.2, 15.1.2; RFC 3311).

use super::{ALLOW, Ending, Event, Leg, Parts, SUPPORTED, Stage, called::not_allowed, describe, offer_in, set_sdp, unsupported};
use crate::leg::{
    rtp::dtmf::info_digit,
    sip::{Method, Name, Request, Response, sdp::NoCodec, transaction::TxId},
};

impl Leg {
    /// A request inside the dialog.
    pub(in crate::leg::sip) fn handle_request(&mut self, parts: &mut Parts<'_>, tx: TxId, request: &Request) {
        let in_order = match (&mut self.dialog, request.cseq()) {
            (Some(dialog), Ok(cseq)) => dialog.handle_cseq(cseq.number),
            _ => false,
        };
        if matches!(self.stage, Stage::Over) {
            return parts.respond(tx, request.answer(481));
        }
        if !in_order {
            return parts.respond(tx, request.answer(500)); // RFC 3261 12.2.2
        }
        let missing = unsupported(request);
        if !missing.is_empty() {
            let mut response = request.answer(420);
            response.headers.push(Name::Unsupported, missing.join(", "));
            return parts.respond(tx, response);
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
            Method::Subscribe => parts.respond(tx, request.answer(489)),
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
                if let Some((invite, _)) = self.theirs.take() {
                    parts.transactions.acked(invite);
                }
                if let Stage::Answered { invite, .. } = self.stage {
                    parts.transactions.acked(invite);
                }
                let is_passed_on = self.transfer.as_ref().is_some_and(super::Transfer::is_under_way);
                self.end(parts, if is_passed_on { Ending::Transferred } else { Ending::HungUp(words) });
            }
        }
    }

    fn on_reinvite(&mut self, parts: &mut Parts<'_>, tx: TxId, request: &Request) {
        if self.theirs.is_some() || !matches!(self.stage, Stage::Up) {
            return parts.respond(tx, later(request, parts)); // RFC 3261 14.2
        }
        if self.has_offered() {
            return parts.respond(tx, request.answer(491)); // RFC 3261 14.2
        }
        if let Err(response) = self.refresh(parts, request) {
            return parts.respond(tx, response);
        }
        let offer = match offer_in(request) {
            Ok(offer) => offer,
            Err(status) => return parts.respond(tx, self.refusal(request, status)),
        };
        let (sdp, media) = match &offer {
            Some(offer) => match self.sdp.answer(offer) {
                Ok((sdp, media)) => (sdp, Some(media)),
                Err(_) => return parts.respond(tx, self.refusal(request, 488)), // what was agreed still holds
            },
            None => (self.sdp.offer(), None),
        };
        let mut response = self.taken(parts, request);
        set_sdp(&mut response.headers, &mut response.body, sdp);
        self.theirs = Some((tx, media.is_none()));
        parts.respond(tx, response);
        if let Some(media) = media {
            self.set_media(parts, media);
        }
    }

    fn on_update(&mut self, parts: &mut Parts<'_>, tx: TxId, request: &Request) {
        let offer = match offer_in(request) {
            Ok(offer) => offer,
            Err(status) => return parts.respond(tx, self.refusal(request, status)),
        };
        // RFC 3311 5.2: an offer of theirs that has no answer yet; then one of ours.
        if offer.is_some() && matches!(self.stage, Stage::Invited(_)) {
            return parts.respond(tx, later(request, parts));
        }
        if offer.is_some() && (self.has_offered() || !matches!(self.stage, Stage::Up | Stage::Answered { offered: false, .. })) {
            return parts.respond(tx, request.answer(491));
        }
        if let Err(response) = self.refresh(parts, request) {
            return parts.respond(tx, response);
        }
        let answered = offer.map(|offer| self.sdp.answer(&offer));
        let mut response = self.taken(parts, request);
        match answered {
            Some(Err(_)) => return parts.respond(tx, self.refusal(request, 488)),
            Some(Ok((sdp, media))) => {
                set_sdp(&mut response.headers, &mut response.body, sdp);
                parts.respond(tx, response);
                self.set_media(parts, media);
            }
            None => parts.respond(tx, response),
        }
    }

    /// The answer to an offer of ours that a 200 of a re-INVITE of theirs had.
    pub(super) fn on_late_answer(&mut self, parts: &mut Parts<'_>, request: &Request) {
        let answer = offer_in(request).ok().flatten();
        let agreed = answer.ok_or(NoCodec::NoAudio).and_then(|answer| self.sdp.read_answer(&answer));
        match agreed {
            Ok(media) => self.set_media(parts, media),
            Err(why) => self.break_off(parts, Ending::NoCodec(why.to_string())),
        }
    }

    fn on_info(&mut self, parts: &mut Parts<'_>, tx: TxId, request: &Request) {
        let digit = info_digit(request.content_type().unwrap_or_default(), &request.body);
        // RFC 6086 4.2.2: an empty one asks whether we are still there.
        let status = if digit.is_some() || request.body.is_empty() { 200 } else { 415 };
        parts.respond(tx, self.refusal(request, status));
        if let Some(digit) = digit {
            parts.tell(Event::Digit { leg: self.id, digit });
        }
    }

    /// The session timer and the target of a request that changes the call (RFC 4028 9, RFC 3261 12.2.2).
    fn refresh(&mut self, parts: &mut Parts<'_>, request: &Request) -> Result<(), Response> {
        if let Some(timer) = &mut self.timer
            && let Err(min) = timer.handle_request(parts.now, &request.headers)
        {
            let mut response = request.answer(422);
            response.headers.push(Name::MinSe, min.to_string());
            return Err(response);
        }
        if let (Some(dialog), Some(contact)) = (&mut self.dialog, request.contact()) {
            dialog.set_target(contact.uri);
        }
        if super::allows(&request.headers, &Method::Update) {
            self.takes_update = true;
        }
        Ok(())
    }

    /// The 200 to a request that changes the call.
    fn taken(&mut self, parts: &Parts<'_>, request: &Request) -> Response {
        let mut response = request.answer(200);
        describe(&mut response, &parts.setup.contact(self.flow));
        if let Some(timer) = &mut self.timer {
            timer.describe(parts.now, &mut response.headers);
        }
        response
    }

    /// An answer without a body.
    fn refusal(&self, request: &Request, status: u16) -> Response {
        let mut response = request.answer(status);
        if status == 415 {
            response.headers.push(Name::Accept, "application/sdp, application/dtmf-relay, application/dtmf");
        }
        response
    }
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

/// Not now, but in a moment.
fn later(request: &Request, parts: &mut Parts<'_>) -> Response {
    let mut response = request.answer(500);
    // RFC 3261 14.2: of 0 to 10 s, at random.
    response.headers.push(Name::RetryAfter, ((parts.random)() % 11).to_string());
    response
}
