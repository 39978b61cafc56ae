//! A call that came to us, until it is answered or not.

use std::net::SocketAddr;

use super::{
    ALLOW, Ending, Event, Invitation, Leg, LegId, Parts, SDP, Stage, Taken, describe, grant, offer_in, set_sdp,
    timer_of, unsupported,
};
use crate::{
    leg::sip::{
        Flow, Headers, Method, Name, NameAddr, Request, Response, Uri,
        dialog::Dialog,
        digest::Answered,
        sdp::{Media, NoCodec, Offer},
        session_timer::Granted,
        transaction::TxId,
    },
    media::{Now, codec::Codec},
};

/// An INVITE without a final answer.
pub(super) struct Invited {
    invite: TxId,
    request: Request,
    offer: Option<Offer>,
    tag: String,
    contact: NameAddr,
    /// 1xx go reliably (RFC 3262): the peer demands it.
    reliable: bool,
    /// A reliable 1xx waits for its PRACK.
    awaits_prack: bool,
    /// The call is to be answered as soon as it may be.
    accept: bool,
    /// Nobody waits for longer than that.
    give_up_at: Now,
    /// What the answer says of the session timer.
    granted: Option<Granted>,
    /// Our description, if a 1xx had it.
    described: Option<String>,
}

impl Invited {
    pub(super) const fn invite(&self) -> TxId {
        self.invite
    }

    pub(super) const fn give_up_at(&self) -> Now {
        self.give_up_at
    }

    /// Whether the peer is known to have our answer to its offer, and may make another (RFC 3311 5.1).
    pub(super) const fn has_settled(&self) -> bool {
        self.reliable && !self.awaits_prack && self.described.is_some()
    }

    fn answer(&self, status: u16) -> Response {
        let mut response = self.request.answer(status);
        response.headers.set_to_tag(&self.tag);
        response
    }
}

/// An INVITE that we do not take: the answer, and what it says beside the status.
pub(in crate::leg::sip) struct NotTaken {
    pub(in crate::leg::sip) status: u16,
    pub(in crate::leg::sip) header: Option<(Name, String)>,
    /// For the log.
    pub(in crate::leg::sip) why: String,
}

impl NotTaken {
    fn new(status: u16, why: impl Into<String>) -> Self {
        Self { status, header: None, why: why.into() }
    }

    fn with(status: u16, name: Name, value: impl Into<String>, why: impl Into<String>) -> Self {
        Self { status, header: Some((name, value.into())), why: why.into() }
    }
}

impl Leg {
    /// Somebody calls. What is wrong with the call is found out before there is anything of it (RFC 3261 8.2).
    pub(in crate::leg::sip) fn called(
        parts: &mut Parts<'_>,
        (id, flow, invite): (LegId, Flow, TxId),
        request: Request,
    ) -> Result<Self, NotTaken> {
        let missing = unsupported(&request);
        if !missing.is_empty() {
            let missing = missing.join(", ");
            return Err(NotTaken::with(420, Name::Unsupported, &missing, format!("it demands {missing}")));
        }
        if !takes_sdp(&request) {
            return Err(NotTaken::new(406, "it takes no session description")); // RFC 4475 3.3.15
        }
        let offer = offer_in(&request).map_err(|status| match status {
            415 => {
                let kind = request.content_type().unwrap_or_default().to_owned();
                NotTaken::with(415, Name::Accept, SDP, format!("its body is {kind}"))
            }
            status => NotTaken::new(status, "its session description cannot be read"),
        })?;
        let tag = format!("{:016x}", (parts.random)());
        let contact = parts.setup.contact(flow);
        let dialog =
            Dialog::uas(&request, &tag, contact.clone()).map_err(|flaw| NotTaken::new(400, flaw.to_string()))?;
        let reliable = request.headers.has_token(&Name::Require, "100rel");
        let takes_update = super::allows(&request.headers, &Method::Update);
        let mut leg = Self::new(id, flow, Stage::Over, parts);
        let granted = leg.timer.handle_request(&timer_of(&request.headers)).map_err(|too_small| {
            NotTaken::with(422, Name::MinSe, too_small.min_se.to_string(), "its session timer is too short")
        })?;
        let codec = match &offer {
            Some(offer) => leg.sdp.clone().answer(offer).map(|(_, media)| media.codec.codec),
            None => parts.setup.codecs.first().copied().ok_or(NoCodec::NoAudio),
        };
        let codec = codec.map_err(|why| {
            let warning = format!("304 {} \"{}\"", parts.setup.host, why.to_string().replace(['"', '\\'], ""));
            NotTaken::with(488, Name::Warning, warning, why.to_string())
        })?;
        let invitation = invitation(&request, id, flow, codec, parts);
        leg.dialog = Some(dialog);
        leg.is_symmetric = request.via().is_ok_and(|via| via.params.has("rport"));
        leg.takes_update = takes_update;
        leg.stage = Stage::Invited(Box::new(Invited {
            invite,
            request,
            offer,
            tag,
            contact,
            reliable,
            awaits_prack: false,
            accept: false,
            give_up_at: parts.now + LONGEST_RINGING,
            granted,
            described: None,
        }));
        leg.tell(parts, Event::Invited(Box::new(invitation)));
        Ok(leg)
    }

    /// The phone is to ring; its audio will be at this address of ours.
    pub(in crate::leg::sip) fn ring(&mut self, parts: &mut Parts<'_>, rtp: SocketAddr) {
        self.sdp.address = rtp;
        let Stage::Invited(invited) = &mut self.stage else { return };
        // RFC 3261 13.2.1: the first answer that is acknowledged has to have the offer that the INVITE has not. Its 200 does.
        if invited.reliable && invited.offer.is_none() {
            return;
        }
        // Without an offer there is nothing to answer yet, and so no tone.
        let early = match &invited.offer {
            Some(offer) if parts.setup.tone => self.sdp.answer(offer).ok(),
            Some(_) | None => None,
        };
        let mut response = invited.answer(if early.is_some() { 183 } else { 180 });
        describe(&mut response, &invited.contact);
        let media = early.map(|(sdp, media)| {
            set_sdp(&mut response.headers, &mut response.body, sdp.clone());
            invited.described = Some(sdp);
            media
        });
        if invited.reliable {
            // A second one, while the first is on its way, is not sent; they say the same.
            invited.awaits_prack |= parts.transactions.respond_reliably(parts.now, invited.invite, response).is_ok();
        } else {
            let invite = invited.invite;
            parts.respond(invite, response);
        }
        if let Some(media) = media {
            self.media = Some(media.clone());
            self.tell(parts, Event::Early { leg: self.id, media });
        }
    }

    /// The call is taken.
    pub(in crate::leg::sip) fn accept(&mut self, parts: &mut Parts<'_>) {
        let Stage::Invited(invited) = &mut self.stage else { return };
        // RFC 3262 3 has it so for a 1xx with a description. The others might cross, but a PRACK is on its way already.
        if invited.awaits_prack {
            invited.accept = true;
            return;
        }
        let (sdp, media) = match (&invited.described, &invited.offer) {
            (Some(sdp), _) => (sdp.clone(), self.media.clone()),
            (None, Some(offer)) => match self.sdp.answer(offer) {
                Ok((sdp, media)) => (sdp, Some(media)),
                // It was looked at when the call came; nothing about it can have changed.
                Err(why) => return self.refuse(parts, 488, &[], &Ending::NoCodec(why.to_string())),
            },
            (None, None) => (self.sdp.offer(), None),
        };
        let mut response = invited.answer(200);
        describe(&mut response, &invited.contact);
        grant(&mut response.headers, invited.granted);
        self.timer.handle_answered(invited.granted, parts.now);
        if let Some(dialog) = &mut self.dialog {
            dialog.confirm();
        }
        set_sdp(&mut response.headers, &mut response.body, sdp);
        let (invite, cseq) = (invited.invite, invited.request.cseq().map_or(0, |cseq| cseq.number));
        let taken = Taken { invite, cseq, offered: media.is_none() };
        self.media = media;
        self.stage = Stage::Answered { taken, leave: false };
        parts.respond(invite, response);
    }

    /// The call is not taken.
    pub(in crate::leg::sip) fn refuse(
        &mut self,
        parts: &mut Parts<'_>,
        status: u16,
        headers: &[(Name, String)],
        why: &Ending,
    ) {
        let Stage::Invited(invited) = &self.stage else { return };
        let mut response = invited.answer(status);
        for (name, value) in headers {
            response.headers.push(name.clone(), value.as_str());
        }
        let invite = invited.invite;
        parts.respond(invite, response);
        self.end(parts, why.clone());
    }

    /// The peer no longer wants its INVITE answered.
    pub(in crate::leg::sip) fn handle_cancel(&mut self, parts: &mut Parts<'_>) {
        self.refuse(parts, 487, &[], &Ending::Cancelled);
    }

    /// A new description of the call was agreed before it is answered: the 200 has no other.
    pub(super) fn redescribe(&mut self, sdp: &str) {
        if let Stage::Invited(invited) = &mut self.stage {
            invited.described = Some(sdp.to_owned());
        }
    }

    /// It rang for as long as anybody waits.
    pub(super) fn on_invited_timeout(&mut self, parts: &mut Parts<'_>) {
        self.refuse(parts, 480, &[], &Ending::Unanswered);
    }

    /// Our reliable 1xx arrived.
    pub(super) fn on_prack(&mut self, parts: &mut Parts<'_>, tx: TxId, request: &Request) {
        let Stage::Invited(invited) = &mut self.stage else { return parts.respond(tx, request.answer(481)) };
        let is_ours = request.rack().is_ok_and(|rack| parts.transactions.pracked(invited.invite, &rack));
        if !is_ours {
            return parts.respond(tx, request.answer(481));
        }
        invited.awaits_prack = false;
        let (accept, has_settled) = (invited.accept, invited.has_settled());
        let mut response = request.answer(200);
        // RFC 3262 5: the next offer may come with it.
        let offer = if has_settled { offer_in(request).ok().flatten() } else { None };
        let agreed = offer.and_then(|offer| self.sdp.answer(&offer).ok());
        if let Some((sdp, media)) = agreed {
            self.redescribe(&sdp);
            set_sdp(&mut response.headers, &mut response.body, sdp);
            self.set_media(parts, media);
        }
        parts.respond(tx, response);
        if accept {
            self.accept(parts);
        }
    }

    /// Nobody acknowledged our reliable 1xx (RFC 3262 3).
    pub(in crate::leg::sip) fn handle_no_prack(&mut self, parts: &mut Parts<'_>) {
        self.refuse(parts, 504, &[], &Ending::Lost("a reliable ringing was never acknowledged"));
    }

    /// The ACK of a 200 of ours. One with another number is a copy that comes late, of a call that has moved on.
    pub(in crate::leg::sip) fn handle_ack(&mut self, parts: &mut Parts<'_>, request: &Request) {
        let number = request.cseq().map_or(0, |cseq| cseq.number);
        if let Some(taken) = self.theirs.take_if(|taken| taken.cseq == number) {
            parts.transactions.acked(taken.invite);
            if taken.offered {
                match self.answer_in(request) {
                    Ok(media) => self.set_media(parts, media),
                    Err(why) => return self.break_off(parts, Ending::NoCodec(why.to_string())),
                }
            }
            return self.ask_next(parts);
        }
        let Stage::Answered { taken, leave } = self.stage else { return };
        if taken.cseq != number {
            return;
        }
        let answer = if taken.offered { Some(self.answer_in(request)) } else { None };
        self.on_heard(parts, taken, leave, answer);
    }

    /// The peer has our 200: it acknowledged it, or does what only one can do who has it. `answer` is its answer to our
    /// offer, if the offer was ours.
    fn on_heard(&mut self, parts: &mut Parts<'_>, taken: Taken, leave: bool, answer: Option<Result<Media, NoCodec>>) {
        parts.transactions.acked(taken.invite);
        self.stage = Stage::Up;
        let media = answer.unwrap_or_else(|| self.media.clone().ok_or(NoCodec::NoAudio));
        match media {
            _ if leave => self.send_bye(parts, Answered::default()),
            Ok(media) => self.on_up(parts, media),
            Err(why) => self.break_off(parts, Ending::NoCodec(why.to_string())),
        }
    }

    /// Something came that nobody can send who has not heard our 200, so the ACK was lost or comes later. Where it has the
    /// answer to our offer it is waited for.
    pub(super) fn infer_ack(&mut self, parts: &mut Parts<'_>) {
        if let Some(taken) = self.theirs.take_if(|taken| !taken.offered) {
            parts.transactions.acked(taken.invite);
        }
        if let Stage::Answered { taken, leave } = self.stage
            && !taken.offered
        {
            self.on_heard(parts, taken, leave, None);
        }
    }

    /// The answer to an offer of ours.
    fn answer_in(&mut self, request: &Request) -> Result<Media, NoCodec> {
        let answer = offer_in(request).ok().flatten().ok_or(NoCodec::NoAudio)?;
        self.sdp.read_answer(&answer)
    }

    /// Nobody acknowledged our 200 for 32 s: the dialog is ended all the same (RFC 3261 13.3.1.4, 14.2).
    pub(in crate::leg::sip) fn handle_no_ack(&mut self, parts: &mut Parts<'_>, invite: TxId) {
        let is_theirs = self.theirs.take_if(|taken| taken.invite == invite).is_some();
        if is_theirs || matches!(self.stage, Stage::Answered { .. }) {
            self.break_off(parts, Ending::NoAck);
        }
    }
}

fn invitation(request: &Request, leg: LegId, flow: Flow, codec: Codec, parts: &Parts<'_>) -> Invitation {
    let headers = &request.headers;
    let user = |address: &NameAddr| user_of(&address.uri);
    let asserted: Option<NameAddr> = first_of(headers, &Name::PAssertedIdentity);
    let from = asserted.clone().or_else(|| request.from().ok());
    let to = request.to().ok();
    let came_to = user_of(&request.uri);
    let to_user = to.as_ref().map(user).unwrap_or_default();
    let did = if came_to == to_user || came_to == parts.setup.user { String::new() } else { came_to };
    let told = parts
        .setup
        .told_headers
        .iter()
        .filter_map(|name| headers.get(name).map(|value| (name.as_str().to_owned(), value.to_owned())));
    Invitation {
        leg,
        source: flow.remote,
        call_id: request.call_id().unwrap_or_default().to_owned(),
        name: from.as_ref().and_then(|from| from.display.clone()),
        from: from.as_ref().map(user).unwrap_or_default(),
        to: to_user,
        did,
        diverted_from: first_of(headers, &Name::Diversion).as_ref().map(user),
        headers: told.collect(),
        codec,
    }
}

fn first_of(headers: &Headers, name: &Name) -> Option<NameAddr> {
    headers.list(name).find_map(|value| value.parse().ok())
}

/// The number or user of a URI; without one its host.
fn user_of(uri: &Uri) -> String {
    uri.decoded_user().map_or_else(|| uri.host.clone(), |user| user.split(';').next().unwrap_or_default().to_owned())
}

/// Whether a peer can read what an answer says of the audio.
fn takes_sdp(request: &Request) -> bool {
    let mut kinds = request.headers.list(&Name::Accept).peekable();
    let takes = |kind: &str| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        [SDP, "application/*", "*/*"].iter().any(|taken| kind.eq_ignore_ascii_case(taken))
    };
    // RFC 3261 20.1: who does not say takes that.
    kinds.peek().is_none() || kinds.any(takes)
}

/// The answer to a method that we do not take.
pub(in crate::leg::sip) fn not_allowed(request: &Request) -> Response {
    let mut response = request.answer(405);
    response.headers.push(Name::Allow, ALLOW);
    response
}

/// As long as a proxy waits (timer C, RFC 3261 16.6). The daemon has given up long before.
const LONGEST_RINGING: Now = Now::from_secs(180);
