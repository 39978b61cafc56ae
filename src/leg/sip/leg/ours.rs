//! What we ask inside of a call: one request at a time, the rest waits.

use super::{Ending, Leg, Parts, Stage, ask_for, set_sdp};
use crate::{
    leg::sip::{
        Method, Name, NameAddr, Request, Response, digest::Answered, sdp::Offer, session_timer, transaction::TxId,
    },
    media::Now,
};

/// Something to ask of the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Are you still there (RFC 4028)?
    Refresh,
    /// Call somebody else.
    Refer { to: String },
    /// A key was pressed.
    Digit(u8),
}

/// A request of ours that was not answered yet.
pub(super) struct Pending {
    tx: TxId,
    wish: Wish,
    /// As it was sent; a re-INVITE's ACK has the same credentials (RFC 3261 22.1).
    request: Request,
    answered: Answered,
}

impl Pending {
    pub(super) const fn tx(&self) -> TxId {
        self.tx
    }
}

impl Leg {
    /// A key is pressed, by INFO.
    pub(in crate::leg::sip) fn send_digit(&mut self, parts: &mut Parts<'_>, digit: u8) {
        self.wish(parts, Wish::Digit(digit));
    }

    /// Asks as soon as nothing else is being asked.
    pub(super) fn wish(&mut self, parts: &mut Parts<'_>, wish: Wish) {
        // The same key twice is two keys.
        let is_new = matches!(wish, Wish::Digit(_)) || !self.wishes.contains(&wish);
        let is_ending = matches!(self.stage, Stage::Leaving { .. } | Stage::Over);
        // Keys of somebody who presses them for ever are not worth remembering; what is asked once has its place.
        let has_room = self.wishes.len() < MAX_WISHES || !matches!(wish, Wish::Digit(_));
        if is_new && !is_ending && has_room {
            self.wishes.push_back(wish);
        }
        self.ask_next(parts);
    }

    /// What was to be asked need not be any more.
    pub(super) fn forget_refer(&mut self) {
        self.wishes.retain(|wish| !matches!(wish, Wish::Refer { .. }));
    }

    pub(super) fn ask_next(&mut self, parts: &mut Parts<'_>) {
        while matches!(self.stage, Stage::Up)
            && self.pending.is_none()
            && self.retry_at.is_none()
            && let Some(wish) = self.wishes.pop_front()
        {
            self.ask(parts, wish, Answered::default());
        }
    }

    fn ask(&mut self, parts: &mut Parts<'_>, wish: Wish, answered: Answered) {
        let flow = self.next_hop();
        let method = match &wish {
            Wish::Refresh if self.takes_update => Method::Update,
            Wish::Refresh => Method::Invite,
            Wish::Refer { .. } => Method::Refer,
            Wish::Digit(_) => Method::Info,
        };
        // An INVITE of theirs is not over yet (RFC 3261 14.1).
        if method == Method::Invite && self.theirs.is_some() {
            self.wishes.push_front(wish);
            self.retry_at = Some(parts.now + Now::from_secs(1));
            return;
        }
        let Some(dialog) = &mut self.dialog else { return };
        let mut request = dialog.request(method.clone());
        match &wish {
            Wish::Refresh => {
                ask_for(&mut request.headers, &self.timer);
                request.headers.push(Name::Allow, super::ALLOW);
                request.headers.push(Name::Supported, super::SUPPORTED);
                if method == Method::Invite {
                    set_sdp(&mut request.headers, &mut request.body, self.sdp.offer_again());
                }
            }
            Wish::Refer { to } => {
                request.headers.push(Name::ReferTo, format!("<{to}>"));
                let referred_by = NameAddr::new(dialog.local().uri.clone());
                request.headers.push(Name::ReferredBy, referred_by.to_string());
                request.headers.push(Name::Supported, super::SUPPORTED);
            }
            Wish::Digit(digit) => {
                request.headers.push(Name::ContentType, "application/dtmf-relay");
                request.body = format!("Signal={}\r\nDuration=160\r\n", char::from(*digit)).into_bytes();
            }
        }
        parts.authorize(&mut request);
        match parts.transactions.request(parts.now, flow, request.clone()) {
            Ok(tx) => self.pending = Some(Pending { tx, wish, request, answered }),
            // There are thousands under way: a refresh comes again, and a transfer that cannot be asked for fails.
            Err(_) => self.on_refused(parts, &wish, 503, "too many requests are under way"),
        }
    }

    /// Whether an offer of ours waits for its answer.
    pub(super) fn has_offered(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.request.method == Method::Invite)
    }

    /// An answer to a request of ours.
    pub(in crate::leg::sip) fn handle_response(&mut self, parts: &mut Parts<'_>, tx: TxId, response: &Response) {
        if matches!(self.stage, Stage::Calling(_)) {
            return self.on_calling_response(parts, tx, response);
        }
        if let Stage::Leaving { bye, answered } = self.stage
            && bye == tx
        {
            return self.on_bye_response(parts, response, answered);
        }
        if self.pending.as_ref().is_some_and(|pending| pending.tx == tx) {
            return self.on_answer(parts, response);
        }
        // A fork of our call that answered as well, or a copy: it is acknowledged, and another dialog is ended.
        self.on_stray_success(parts, tx, response);
    }

    /// A request of ours got no answer, or could not be sent.
    pub(in crate::leg::sip) fn handle_no_answer(&mut self, parts: &mut Parts<'_>, tx: TxId, status: u16) {
        match &self.stage {
            Stage::Calling(_) => self.on_calling_unanswered(parts, tx, status),
            Stage::Leaving { bye, .. } if *bye == tx => self.end(parts, Ending::Ours),
            Stage::Invited(_) | Stage::Answered { .. } | Stage::Up | Stage::Leaving { .. } | Stage::Over => {
                let Some(pending) = self.pending.take_if(|pending| pending.tx == tx) else { return };
                self.on_refused(parts, &pending.wish, status, "no answer");
                // RFC 3261 12.2.1.2: nobody there is the end of the dialog. One that cannot be reached for a moment is not.
                if status == 408 {
                    return self.break_off(parts, Ending::Lost("the peer does not answer any more"));
                }
                self.ask_next(parts);
            }
        }
    }

    fn on_answer(&mut self, parts: &mut Parts<'_>, response: &Response) {
        if response.is_provisional() {
            return;
        }
        let Some(Pending { tx, wish, request, mut answered }) = self.pending.take() else { return };
        if response.is_success() {
            if let Some(dialog) = &mut self.dialog {
                dialog.handle_response(response);
            }
            if request.method == Method::Invite {
                self.acknowledge(parts, tx, &request);
            }
            self.on_granted(parts, &wish, response);
            return self.ask_next(parts);
        }
        match response.status {
            401 | 407 if parts.learn(response, &mut answered) => self.ask(parts, wish, answered),
            // RFC 3261 14.1, 12.2.1.2
            408 | 481 => {
                self.on_refused(parts, &wish, response.status, &response.reason);
                self.break_off(parts, Ending::Lost("the peer does not know the call any more"));
            }
            422 if wish == Wish::Refresh && self.timer.handle_too_small(response.headers.get(&Name::MinSe)) => {
                self.ask(parts, wish, answered);
            }
            491 => {
                // RFC 3261 14.1: who made the Call-ID waits longer.
                let wait = if self.called_by.is_some() { parts.between(2_100, 4_000) } else { parts.between(0, 2_000) };
                self.retry_at = Some(parts.now + wait);
                self.wishes.push_front(wish);
            }
            405 | 501 if request.method == Method::Update => {
                self.takes_update = false;
                self.ask(parts, wish, answered);
            }
            _ => {
                self.on_refused(parts, &wish, response.status, &response.reason);
                self.ask_next(parts);
            }
        }
    }

    fn on_granted(&mut self, parts: &mut Parts<'_>, wish: &Wish, response: &Response) {
        match wish {
            Wish::Refresh => {
                self.timer.handle_success(response.headers.get(&Name::SessionExpires), parts.now);
                let answer = Offer::parse(&response.body).ok();
                if let Some(Ok(media)) = answer.map(|answer| self.sdp.read_answer(&answer)) {
                    self.set_media(parts, media);
                }
            }
            Wish::Refer { .. } => self.on_refer_taken(parts),
            Wish::Digit(_) => {}
        }
    }

    fn on_refused(&mut self, parts: &mut Parts<'_>, wish: &Wish, status: u16, reason: &str) {
        match wish {
            Wish::Refer { .. } => self.on_transfer_failed(parts, status, reason),
            Wish::Refresh => self.timer.handle_refused(parts.now),
            // Nothing to end a call for.
            Wish::Digit(_) => {}
        }
    }

    /// Sends the ACK of a 200 to a re-INVITE of ours.
    fn acknowledge(&mut self, parts: &mut Parts<'_>, invite: TxId, request: &Request) {
        let flow = self.next_hop();
        let Some(dialog) = &self.dialog else { return };
        let mut ack = dialog.ack(request);
        parts.sign(&mut ack);
        parts.transactions.ack(invite, flow, ack);
    }

    /// Something in the call is due.
    pub(super) fn on_up_timeout(&mut self, parts: &mut Parts<'_>) {
        if self.retry_at.take_if(|at| *at <= parts.now).is_some() {
            self.ask_next(parts);
        }
        let due = self.timer.handle_timeout(parts.now);
        match due {
            Some(session_timer::Due::Refresh) => self.wish(parts, Wish::Refresh),
            Some(session_timer::Due::Expired) => {
                return self.break_off(parts, Ending::Lost("the session timer ran out: the peer is gone"));
            }
            None => {}
        }
        self.on_transfer_timeout(parts);
    }

    /// Ends the call, for a reason of the peer's.
    pub(super) fn break_off(&mut self, parts: &mut Parts<'_>, why: Ending) {
        if matches!(self.stage, Stage::Over | Stage::Leaving { .. }) {
            return;
        }
        self.tell_end(parts, why);
        self.send_bye(parts, Answered::default());
    }

    /// Ends the call, however far it is.
    pub(in crate::leg::sip) fn hang_up(&mut self, parts: &mut Parts<'_>) {
        match &mut self.stage {
            Stage::Invited(_) => self.refuse(parts, 480, &[], &Ending::Ours),
            Stage::Answered { leave, .. } => {
                // RFC 3261 15: not before the ACK, or before it is certain that none will come.
                *leave = true;
                self.tell_end(parts, Ending::Ours);
            }
            Stage::Calling(_) => self.give_up_calling(parts, Ending::Ours),
            Stage::Up => self.break_off(parts, Ending::Ours),
            Stage::Leaving { .. } | Stage::Over => {}
        }
    }

    /// Says that it is over, which was told.
    pub(super) fn send_bye(&mut self, parts: &mut Parts<'_>, answered: Answered) {
        let flow = self.next_hop();
        let bye = self.dialog.as_mut().and_then(|dialog| {
            let mut bye = dialog.request(Method::Bye);
            parts.authorize(&mut bye);
            parts.transactions.request(parts.now, flow, bye).ok()
        });
        self.pending = None;
        self.wishes.clear();
        // Where it cannot be sent the peer finds out by its session timer, or because no audio comes.
        self.stage = bye.map_or(Stage::Over, |bye| Stage::Leaving { bye, answered });
    }

    fn on_bye_response(&mut self, parts: &mut Parts<'_>, response: &Response, mut answered: Answered) {
        if response.is_provisional() {
            return;
        }
        if matches!(response.status, 401 | 407) && parts.learn(response, &mut answered) {
            return self.send_bye(parts, answered);
        }
        self.stage = Stage::Over;
    }
}

/// What may wait to be asked.
const MAX_WISHES: usize = 64;
