//! Passing a caller on: REFER, and what the PBX tells of it (RFC 3515).

use super::{Event, Leg, Parts, Stage, ours::Wish, within::bad_event};
use crate::{
    leg::sip::{Name, Request, transaction::TxId},
    media::Now,
};

/// How a transfer came on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transferred {
    /// The PBX tries.
    Trying,
    /// The new party answered: the PBX has the caller, and we hang up.
    Done,
    /// It did not come about, and the caller is back with the agent: status and reason.
    Failed(u16, String),
}

/// A transfer under way.
pub(super) struct Transfer {
    /// The PBX said that it will try.
    accepted: bool,
    /// When we stop waiting for word.
    give_up_at: Now,
}

impl Transfer {
    pub(super) const fn give_up_at(&self) -> Now {
        self.give_up_at
    }
}

impl Leg {
    /// Has the PBX call this URI and give it the caller. `false`: not now.
    pub(in crate::leg::sip) fn transfer(&mut self, parts: &mut Parts<'_>, to: String) -> bool {
        if !matches!(self.stage, Stage::Up) || self.transfer.is_some() {
            return false;
        }
        let give_up_at = parts.now + parts.setup.answer_timeout;
        self.transfer = Some(Transfer { accepted: false, give_up_at });
        self.wish(parts, Wish::Refer { to });
        true
    }

    pub(super) fn on_refer_taken(&mut self, parts: &mut Parts<'_>) {
        if let Some(transfer) = &mut self.transfer {
            transfer.accepted = true;
            self.tell(parts, Event::Transfer { leg: self.id, what: Transferred::Trying });
        }
    }

    /// The peer hung up. Whether because it has the caller: there are PBXs that say nothing else of it.
    pub(super) fn on_taken_over(&mut self, parts: &mut Parts<'_>) -> bool {
        let is_taken_over = self.transfer.take().is_some_and(|transfer| transfer.accepted);
        if is_taken_over {
            self.tell(parts, Event::Transfer { leg: self.id, what: Transferred::Done });
        }
        is_taken_over
    }

    pub(super) fn on_transfer_failed(&mut self, parts: &mut Parts<'_>, status: u16, reason: &str) {
        if self.transfer.take().is_some() {
            self.forget_refer();
            let what = Transferred::Failed(status, reason.to_owned());
            self.tell(parts, Event::Transfer { leg: self.id, what });
        }
    }

    pub(super) fn on_transfer_timeout(&mut self, parts: &mut Parts<'_>) {
        if self.transfer.as_ref().is_some_and(|transfer| transfer.give_up_at <= parts.now) {
            self.on_transfer_failed(parts, 408, "the PBX did not say what became of it");
        }
    }

    /// Word of something: of our transfer, or of what we did not ask for.
    pub(super) fn on_notify(&mut self, parts: &mut Parts<'_>, tx: TxId, request: &Request) {
        let event = request.headers.get(&Name::Event).unwrap_or_default();
        let package = event.split(';').next().unwrap_or_default().trim();
        if !package.eq_ignore_ascii_case("refer") {
            let is_mail = package.eq_ignore_ascii_case("message-summary");
            return parts.respond(tx, if is_mail { request.answer(200) } else { bad_event(request) });
        }
        // RFC 3515 2.4.4: after the end of the implicit subscription there is nothing left to tell.
        if self.transfer.is_none() {
            return parts.respond(tx, request.answer(481));
        }
        parts.respond(tx, request.answer(200));
        // The NOTIFY can overtake the 202.
        let over = request.headers.get(&Name::SubscriptionState);
        let over = over.is_some_and(|state| state.trim_start().to_ascii_lowercase().starts_with("terminated"));
        match status_in(&request.body) {
            Some((200..300, _)) => {
                self.transfer = None;
                self.tell(parts, Event::Transfer { leg: self.id, what: Transferred::Done });
                self.break_off(parts, super::Ending::Transferred);
            }
            Some((status @ 300.., reason)) => self.on_transfer_failed(parts, status, &reason),
            Some(_) | None if over => self.on_transfer_failed(parts, 500, "the PBX stopped telling"),
            Some(_) | None => {
                if let Some(transfer) = &mut self.transfer {
                    transfer.accepted = true;
                }
            }
        }
    }
}

/// The status line of a `message/sipfrag` body (RFC 3420).
fn status_in(body: &[u8]) -> Option<(u16, String)> {
    let text = core::str::from_utf8(body.get(..body.len().min(MAX_FRAGMENT))?).ok()?;
    let line = text.trim_start().lines().next()?;
    let rest = line.strip_prefix("SIP/2.0 ")?;
    let (status, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    Some((status.trim().parse().ok().filter(|status| (100..700).contains(status))?, reason.trim().to_owned()))
}

/// What of a fragment is looked at (bytes); only its first line matters.
const MAX_FRAGMENT: usize = 512;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_a_transfer_is_its_fragments_first_line() {
        assert_eq!(status_in(b"SIP/2.0 200 OK\r\n"), Some((200, "OK".into())));
        assert_eq!(status_in(b"SIP/2.0 486 Busy Here"), Some((486, "Busy Here".into())));
        assert_eq!(status_in(b"SIP/2.0 180\r\nTo: x\r\n"), Some((180, String::new())));
        assert_eq!(status_in(b"INVITE sip:a@b SIP/2.0\r\n"), None);
        assert_eq!(status_in(b"SIP/2.0 99999 Odd"), None);
        assert_eq!(status_in(b""), None);
    }
}
