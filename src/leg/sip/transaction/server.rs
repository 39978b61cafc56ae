//! One request that came to us, until nothing can come of it any more: RFC 3261 17.2 with the Accepted state of RFC 6026.
//!
//! ```text
//!            INVITE                                    any other request
//!   Proceeding --2xx--> Accepted --L------+      Trying --final--> Completed --J--+
//!       |  ^ |             | ^ 2xx again  |        |                              |
//!       +--+ 300-699       +-+ until ACK  |        +--64*T1: nobody answered------+
//!      1xx   v                            v                                       v
//!        Completed --ACK--> Confirmed --I--> gone                                gone
//!            +-----H: no ACK came------------^
//! ```
//!
//! The 2xx is sent again by this side of the transaction and not by its user, as RFC 6026 would have it: the user says
//! only that the ACK came.

use super::{
    Key, NotSent, TxId,
    outbox::{Bytes, Event, Outbox},
    timers::{Resend, Timers},
};
use crate::{
    leg::sip::{CSeq, Method, flow::Flow},
    media::clock::Now,
};

/// A server transaction.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) id: TxId,
    /// Where the request came from.
    pub(super) flow: Flow,
    /// Where answers go, RFC 3261 18.2.2.
    reply: Flow,
    /// How it is found by copies.
    pub(super) key: Key,
    /// How the same request is found that came another way.
    pub(super) merge: Option<Key>,
    /// The number in CSeq, which a PRACK repeats.
    cseq: u32,
    /// The RSeq of the last reliable 1xx, 0 before the first.
    rseq: u32,
    /// The last reliable 1xx has no PRACK yet. Outlives `Proceeding`: a PRACK that crosses the 200 is still good.
    awaits_prack: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    /// An INVITE without a final answer.
    Proceeding {
        trying: Option<Trying>,
        last: Option<Bytes>,
        reliable: Option<Reliable>,
    },
    /// An INVITE that was answered with 2xx.
    Accepted {
        unacked: Option<Unacked>,
        until: Now,
    },
    /// An INVITE that was refused; the ACK is awaited.
    Refused {
        response: Bytes,
        resend: Option<Resend>,
        until: Now,
    },
    /// The ACK of the refusal came; its copies are absorbed.
    Confirmed {
        until: Now,
    },
    /// Any other request without a final answer.
    Open {
        trying: Option<Trying>,
        last: Option<Bytes>,
        until: Now,
    },
    /// Any other request, answered.
    Closed {
        response: Bytes,
        until: Now,
    },
    Terminated,
}

/// The 100 that goes out by itself.
#[derive(Debug)]
struct Trying {
    at: Now,
    response: Bytes,
}

/// A 1xx until its PRACK.
#[derive(Debug)]
struct Reliable {
    response: Bytes,
    resend: Resend,
    give_up_at: Now,
}

/// A 2xx until its ACK.
#[derive(Debug)]
struct Unacked {
    response: Bytes,
    resend: Resend,
}

/// What a new transaction is made of.
pub(super) struct Opening {
    pub(super) id: TxId,
    pub(super) flow: Flow,
    pub(super) reply: Flow,
    pub(super) key: Key,
    pub(super) merge: Option<Key>,
    pub(super) cseq: u32,
    /// 100 Trying, ready to go.
    pub(super) trying: Bytes,
    pub(super) is_invite: bool,
}

impl Server {
    pub(super) fn open(now: Now, timers: &Timers, opening: Opening) -> Self {
        let Opening { id, flow, reply, key, merge, cseq, trying, is_invite } = opening;
        let state = if is_invite {
            let trying = Trying { at: now + timers.trying_after, response: trying };
            State::Proceeding { trying: Some(trying), last: None, reliable: None }
        } else {
            let trying = Trying { at: now + timers.non_invite_trying_after(), response: trying };
            // RFC 4320 4.2: nobody waits for an answer that comes after the client's timer F.
            State::Open { trying: Some(trying), last: None, until: now + timers.patience() }
        };
        Self { id, flow, reply, key, merge, cseq, rseq: 0, awaits_prack: false, state }
    }

    /// Sends an answer of the user's.
    pub(super) fn respond(
        &mut self,
        now: Now,
        timers: &Timers,
        status: u16,
        response: Bytes,
        out: &mut Outbox,
    ) -> Result<(), NotSent> {
        match &mut self.state {
            State::Proceeding { trying, last, .. } if status < 200 => {
                *trying = None;
                out.send(self.reply, &response);
                *last = Some(response);
            }
            State::Proceeding { .. } => {
                out.send(self.reply, &response);
                let until = now + timers.patience();
                self.state = if status < 300 {
                    // Over a stream too: there may be datagrams behind the next hop, RFC 3261 13.3.1.4.
                    let unacked = Some(Unacked { response, resend: Resend::capped(now, timers) });
                    State::Accepted { unacked, until }
                } else {
                    let resend = (!self.reply.is_reliable()).then(|| Resend::capped(now, timers));
                    State::Refused { response, resend, until }
                };
            }
            // RFC 4320 4.1, 4.2: no 1xx but the 100 that goes out by itself, and no 408, which could only come too late.
            State::Open { .. } if status < 200 || status == 408 => return Err(NotSent::Forbidden),
            State::Open { .. } => {
                out.send(self.reply, &response);
                self.state = State::Closed { response, until: now + timers.absorb(self.reply.is_reliable()) };
            }
            State::Accepted { .. } | State::Refused { .. } | State::Confirmed { .. } | State::Closed { .. } => {
                return Err(NotSent::Answered);
            }
            State::Terminated => return Err(NotSent::Gone),
        }
        Ok(())
    }

    /// Whether a reliable 1xx may be sent now.
    pub(super) fn may_respond_reliably(&self) -> Result<(), NotSent> {
        match &self.state {
            // RFC 3262 3: the next one waits until the first is acknowledged.
            State::Proceeding { .. } if self.awaits_prack => Err(NotSent::AwaitsPrack),
            State::Proceeding { .. } => Ok(()),
            State::Open { .. } => Err(NotSent::Forbidden),
            State::Accepted { .. } | State::Refused { .. } | State::Confirmed { .. } | State::Closed { .. } => {
                Err(NotSent::Answered)
            }
            State::Terminated => Err(NotSent::Gone),
        }
    }

    /// The number of the next reliable 1xx: the first is `first`, which is random.
    pub(super) fn next_rseq(&self, first: u32) -> u32 {
        if self.rseq == 0 { first } else { self.rseq + 1 }
    }

    /// Sends a 1xx until its PRACK comes. Only after [`Self::may_respond_reliably`] said so.
    pub(super) fn respond_reliably(&mut self, now: Now, timers: &Timers, rseq: u32, response: Bytes, out: &mut Outbox) {
        if let State::Proceeding { trying, last, reliable } = &mut self.state {
            *trying = None;
            out.send(self.reply, &response);
            *last = Some(response.clone());
            let give_up_at = now + timers.patience();
            *reliable = Some(Reliable { response, resend: Resend::doubling(now, timers), give_up_at });
            self.rseq = rseq;
            self.awaits_prack = true;
        }
    }

    /// Takes a PRACK's RAck. Whether it was for the 1xx that waits for one.
    pub(super) fn acknowledge_reliable(&mut self, rseq: u32, cseq: &CSeq) -> bool {
        if !self.awaits_prack || rseq != self.rseq || cseq.number != self.cseq || cseq.method != Method::Invite {
            return false;
        }
        self.awaits_prack = false;
        if let State::Proceeding { reliable, .. } = &mut self.state {
            *reliable = None;
        }
        true
    }

    /// The same request once more: its answer, if there is one, goes out again.
    pub(super) fn handle_repeat(&self, out: &mut Outbox) {
        match &self.state {
            State::Proceeding { last: Some(response), .. }
            | State::Open { last: Some(response), .. }
            // RFC 6026 would leave this one to the user, who sends the copies; here that is us. The schedule stays.
            | State::Accepted { unacked: Some(Unacked { response, .. }), .. }
            | State::Refused { response, .. }
            | State::Closed { response, .. } => out.send(self.reply, response),
            State::Proceeding { last: None, .. }
            | State::Open { last: None, .. }
            | State::Accepted { unacked: None, .. }
            | State::Confirmed { .. }
            | State::Terminated => {}
        }
    }

    /// An ACK in this transaction. Whether it is the user's: of a 2xx, from a peer that did not give it a branch of its own.
    pub(super) fn handle_ack(&mut self, now: Now, timers: &Timers) -> bool {
        match self.state {
            State::Refused { .. } => {
                self.state = State::Confirmed { until: now + timers.linger(self.reply.is_reliable()) };
                false
            }
            State::Accepted { .. } => true,
            State::Proceeding { .. }
            | State::Confirmed { .. }
            | State::Open { .. }
            | State::Closed { .. }
            | State::Terminated => false,
        }
    }

    /// The user saw the ACK of its 2xx.
    pub(super) fn acked(&mut self) {
        if let State::Accepted { unacked, .. } = &mut self.state {
            *unacked = None;
        }
    }

    /// Whether the INVITE waits for the ACK of its 2xx.
    pub(super) fn is_unacked(&self) -> bool {
        matches!(self.state, State::Accepted { unacked: Some(_), .. })
    }

    pub(super) fn is_terminated(&self) -> bool {
        matches!(self.state, State::Terminated)
    }

    /// The flow of the request is gone.
    pub(super) fn handle_flow_failed(&mut self, out: &mut Outbox) {
        if !self.flow.is_reliable() {
            return;
        }
        match self.state {
            State::Proceeding { .. } | State::Open { .. } => {
                out.tell(Event::TransportFailed(self.id));
                self.state = State::Terminated;
            }
            // The peer may have got it and its ACK may come another way; if not, the wait for it ends the call.
            State::Accepted { .. } => {}
            State::Refused { .. } | State::Confirmed { .. } | State::Closed { .. } => self.state = State::Terminated,
            State::Terminated => {}
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Now> {
        match &self.state {
            State::Proceeding { trying, reliable, .. } => {
                let trying = trying.as_ref().map(|trying| trying.at);
                let reliable = reliable.as_ref().map(|reliable| reliable.resend.at.min(reliable.give_up_at));
                earliest(trying, reliable)
            }
            State::Accepted { unacked, until } => {
                earliest(Some(*until), unacked.as_ref().map(|unacked| unacked.resend.at))
            }
            State::Refused { resend, until, .. } => earliest(Some(*until), resend.map(|resend| resend.at)),
            State::Open { trying, until, .. } => earliest(Some(*until), trying.as_ref().map(|trying| trying.at)),
            State::Confirmed { until } | State::Closed { until, .. } => Some(*until),
            State::Terminated => None,
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Now, out: &mut Outbox) {
        match &mut self.state {
            State::Proceeding { trying, last, reliable } => {
                if let Some(due) = trying.take_if(|trying| trying.at <= now) {
                    out.send(self.reply, &due.response);
                    *last = Some(due.response);
                }
                if let Some(unheard) = reliable {
                    if unheard.give_up_at <= now {
                        *reliable = None;
                        self.awaits_prack = false;
                        out.tell(Event::NoPrack(self.id));
                    } else if unheard.resend.is_due(now) {
                        out.send(self.reply, &unheard.response);
                    }
                }
            }
            State::Accepted { unacked, until } => {
                if *until <= now {
                    if unacked.is_some() {
                        out.tell(Event::NoAck(self.id));
                    }
                    self.state = State::Terminated;
                } else if let Some(unacked) = unacked
                    && unacked.resend.is_due(now)
                {
                    out.send(self.reply, &unacked.response);
                }
            }
            State::Refused { response, resend, until } => {
                // Timer H says nothing: a caller that was refused is gone either way.
                if *until <= now {
                    self.state = State::Terminated;
                } else if let Some(resend) = resend
                    && resend.is_due(now)
                {
                    out.send(self.reply, response);
                }
            }
            State::Open { trying, last, until } => {
                if *until <= now {
                    self.state = State::Terminated;
                } else if let Some(due) = trying.take_if(|trying| trying.at <= now) {
                    out.send(self.reply, &due.response);
                    *last = Some(due.response);
                }
            }
            State::Confirmed { until } | State::Closed { until, .. } => {
                if *until <= now {
                    self.state = State::Terminated;
                }
            }
            State::Terminated => {}
        }
    }

    /// How many bytes of messages it keeps.
    pub(super) fn kept_bytes(&self) -> usize {
        match &self.state {
            State::Proceeding { trying, last, reliable: _ } | State::Open { trying, last, until: _ } => {
                // A reliable 1xx is the last one as well.
                trying.as_ref().map_or(0, |trying| trying.response.len()) + last.as_ref().map_or(0, |last| last.len())
            }
            State::Accepted { unacked, .. } => unacked.as_ref().map_or(0, |unacked| unacked.response.len()),
            State::Refused { response, .. } | State::Closed { response, .. } => response.len(),
            State::Confirmed { .. } | State::Terminated => 0,
        }
    }
}

fn earliest(one: Option<Now>, other: Option<Now>) -> Option<Now> {
    one.into_iter().chain(other).min()
}
