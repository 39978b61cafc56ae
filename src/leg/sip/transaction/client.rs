//! One request of ours, until nothing can come of it any more: RFC 3261 17.1 with the Accepted state of RFC 6026.
//!
//! ```text
//!             our INVITE                                    our any other request
//!   Calling --1xx--> Proceeding --2xx--> Accepted --M-->      Trying --final--> Done --K--> gone
//!      |  +--2xx--------|--------------------^                  | |
//!      |                +--300-699: ACK--> Completed --D-->     +-+ E
//!      +--B: nothing came--> gone                               +--F: nothing came--> gone
//! ```

use super::{
    Key, TxId,
    outbox::{Bytes, Event, Outbox},
    timers::{Resend, Timers},
};
use crate::{
    leg::sip::{Request, flow::Flow},
    media::clock::Now,
};

/// A client transaction.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: TxId,
    pub(super) flow: Flow,
    /// How it is found by answers.
    pub(super) key: Key,
    /// The INVITE without its body, which its CANCEL and the ACK of a refusal are made of. Gone once neither can come.
    pub(super) invite: Option<Box<Request>>,
    /// Its user does not know of it: the CANCEL of an INVITE.
    pub(super) is_ours: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    /// An INVITE that nothing answered yet. `cancelled`: its CANCEL follows the first 1xx.
    Calling {
        request: Bytes,
        resend: Option<Resend>,
        until: Now,
        cancelled: bool,
    },
    /// An INVITE that rings. With `until` it was cancelled and should end soon.
    Proceeding {
        until: Option<Now>,
    },
    /// An INVITE that was answered, maybe by several; the ACK of each is kept for copies of its 2xx.
    Accepted {
        acks: Vec<KeptAck>,
        until: Now,
    },
    /// An INVITE that was refused; the ACK is kept for copies of the refusal.
    Completed {
        ack: Bytes,
        until: Now,
    },
    /// Any other request.
    Trying {
        request: Bytes,
        resend: Option<Resend>,
        until: Now,
    },
    /// Any other request, answered.
    Done {
        until: Now,
    },
    Terminated,
}

/// The ACK of one 2xx.
#[derive(Debug)]
struct KeptAck {
    /// Made of the tag in the To of the 2xx, which tells forks apart.
    fork: Key,
    flow: Flow,
    bytes: Bytes,
}

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing new.
    Absorb,
    /// For the user.
    Tell,
    /// For the user, and the CANCEL that waited for it may go.
    TellAndCancel,
    /// A refusal of an INVITE: for the user, once [`Client::refused`] has the ACK.
    TellAndAck,
}

impl Client {
    /// Sends the request.
    pub(super) fn open(
        now: Now,
        timers: &Timers,
        (id, flow, key): (TxId, Flow, Key),
        invite: Option<Box<Request>>,
        request: Bytes,
        out: &mut Outbox,
    ) -> Self {
        out.send(flow, &request);
        let if_lossy = |resend: Resend| (!flow.is_reliable()).then_some(resend);
        let state = if invite.is_some() {
            let until = now + timers.invite_give_up;
            State::Calling { request, resend: if_lossy(Resend::doubling(now, timers)), until, cancelled: false }
        } else {
            let until = now + timers.patience();
            State::Trying { request, resend: if_lossy(Resend::capped(now, timers)), until }
        };
        Self { id, flow, key, invite, is_ours: false, state }
    }

    /// Takes the status of an answer. `fork` is made of its To tag.
    pub(super) fn handle_response(
        &mut self,
        now: Now,
        timers: &Timers,
        (status, fork): (u16, Key),
        out: &mut Outbox,
    ) -> Verdict {
        match &mut self.state {
            State::Calling { cancelled, .. } if status < 200 => {
                let cancelled = *cancelled;
                self.state = State::Proceeding { until: None };
                if cancelled { Verdict::TellAndCancel } else { Verdict::Tell }
            }
            State::Proceeding { .. } if status < 200 => Verdict::Tell,
            State::Calling { .. } | State::Proceeding { .. } if status < 300 => {
                self.invite = None;
                self.state = State::Accepted { acks: Vec::new(), until: now + timers.patience() };
                Verdict::Tell
            }
            State::Calling { .. } | State::Proceeding { .. } => Verdict::TellAndAck,
            State::Accepted { acks, .. } if (200..300).contains(&status) => {
                match acks.iter().find(|kept| kept.fork == fork) {
                    Some(kept) => {
                        out.send(kept.flow, &kept.bytes);
                        Verdict::Absorb
                    }
                    None => Verdict::Tell,
                }
            }
            State::Completed { ack, .. } if status >= 300 => {
                out.send(self.flow, ack);
                Verdict::Absorb
            }
            State::Trying { resend, .. } if status < 200 => {
                if let Some(resend) = resend {
                    resend.slowest(timers);
                }
                self.tell_user()
            }
            State::Trying { .. } => {
                self.state = State::Done { until: now + timers.linger(self.flow.is_reliable()) };
                self.tell_user()
            }
            State::Accepted { .. } | State::Completed { .. } | State::Done { .. } | State::Terminated => {
                Verdict::Absorb
            }
        }
    }

    /// Sends the ACK of a refusal and keeps it.
    pub(super) fn refused(&mut self, now: Now, timers: &Timers, ack: Bytes, out: &mut Outbox) {
        out.send(self.flow, &ack);
        self.invite = None;
        self.state = State::Completed { ack, until: now + timers.absorb(self.flow.is_reliable()) };
    }

    /// Keeps the ACK of a 2xx, instead of an older one for the same fork.
    pub(super) fn keep_ack(&mut self, fork: Key, flow: Flow, bytes: Bytes) {
        if let State::Accepted { acks, .. } = &mut self.state {
            acks.retain(|kept| kept.fork != fork);
            if acks.len() < FORKS_MAX {
                acks.push(KeptAck { fork, flow, bytes });
            }
        }
    }

    /// The user wants its INVITE cancelled. Whether the CANCEL may go now; RFC 3261 9.1: not before a 1xx.
    pub(super) fn cancel(&mut self) -> bool {
        match &mut self.state {
            State::Calling { cancelled, .. } => {
                *cancelled = true;
                false
            }
            State::Proceeding { until } => until.is_none(),
            State::Accepted { .. }
            | State::Completed { .. }
            | State::Trying { .. }
            | State::Done { .. }
            | State::Terminated => false,
        }
    }

    /// The CANCEL went out: if nothing final comes of it, the INVITE is given up, RFC 3261 9.1.
    pub(super) fn cancelled(&mut self, now: Now, timers: &Timers) {
        if let State::Proceeding { until } = &mut self.state {
            *until = Some(now + timers.patience());
        }
    }

    pub(super) fn is_terminated(&self) -> bool {
        matches!(self.state, State::Terminated)
    }

    /// The flow of the request is gone.
    pub(super) fn handle_flow_failed(&mut self, out: &mut Outbox) {
        match self.state {
            State::Calling { .. } | State::Proceeding { .. } | State::Trying { .. } => {
                self.end(Event::TransportFailed(self.id), out);
            }
            // What is left to do here is to acknowledge copies, which may come on another connection.
            State::Accepted { .. } => {}
            State::Completed { .. } | State::Done { .. } => self.state = State::Terminated,
            State::Terminated => {}
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Now> {
        match &self.state {
            State::Calling { resend, until, .. } | State::Trying { resend, until, .. } => {
                Some(resend.map_or(*until, |resend| resend.at.min(*until)))
            }
            State::Proceeding { until } => *until,
            State::Accepted { until, .. } | State::Completed { until, .. } | State::Done { until } => Some(*until),
            State::Terminated => None,
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Now, out: &mut Outbox) {
        match &mut self.state {
            State::Calling { request, resend, until, .. } | State::Trying { request, resend, until } => {
                if *until <= now {
                    self.end(Event::TimedOut(self.id), out);
                } else if let Some(resend) = resend
                    && resend.is_due(now)
                {
                    out.send(self.flow, request);
                }
            }
            State::Proceeding { until } => {
                if until.is_some_and(|until| until <= now) {
                    self.end(Event::TimedOut(self.id), out);
                }
            }
            State::Accepted { until, .. } | State::Completed { until, .. } | State::Done { until } => {
                if *until <= now {
                    self.state = State::Terminated;
                }
            }
            State::Terminated => {}
        }
    }

    fn tell_user(&self) -> Verdict {
        if self.is_ours { Verdict::Absorb } else { Verdict::Tell }
    }

    fn end(&mut self, event: Event, out: &mut Outbox) {
        if !self.is_ours {
            out.tell(event);
        }
        self.state = State::Terminated;
    }
}

/// How many answers to one INVITE have their ACK kept. A PBX that rings several phones still lets one answer; what comes
/// beyond is acknowledged by the user alone, copy for copy.
const FORKS_MAX: usize = 8;
