//! What the transactions want done, until the shell fetches it.

use std::{collections::VecDeque, sync::Arc};

use super::TxId;
use crate::leg::sip::flow::Flow;

/// A message as it goes on the wire. Counted, because it is kept for copies while the shell has it.
pub type Bytes = Arc<[u8]>;

/// One message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to. For datagrams `flow.remote` is the destination, which for an answer may be another port than the request
    /// came from.
    pub flow: Flow,
    /// The whole message.
    pub bytes: Bytes,
}

/// What a transaction tells its user without having been asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing answered our request in time (timers B and F), or nothing final answered our INVITE after its CANCEL. The
    /// user acts as on a 408.
    TimedOut(TxId),
    /// The 2xx to an INVITE was sent for 64*T1 and nobody acknowledged it. RFC 3261 13.3.1.4: the user ends the dialog
    /// with a BYE.
    NoAck(TxId),
    /// A reliable 1xx was sent for 64*T1 without a PRACK. RFC 3262 3: the user refuses the INVITE with a 5xx.
    NoPrack(TxId),
    /// The flow is gone: our request got nowhere, or our answer cannot be sent.
    TransportFailed(TxId),
}

/// Messages and events in the order in which they came to be.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    dropped: u64,
}

impl Outbox {
    pub(super) fn send(&mut self, flow: Flow, bytes: &Bytes) {
        if self.transmits.len() >= TRANSMITS_MAX {
            self.dropped += 1;
            return;
        }
        self.transmits.push_back(Transmit { flow, bytes: Arc::clone(bytes) });
    }

    pub(super) fn tell(&mut self, event: Event) {
        self.events.push_back(event);
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether the shell has so much to fetch that timers had better wait.
    pub(super) fn is_full(&self) -> bool {
        self.transmits.len() >= TRANSMITS_ENOUGH || self.events.len() >= TRANSMITS_ENOUGH
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// From here on no timer is served until the shell has fetched what there is.
const TRANSMITS_ENOUGH: usize = 256;

/// A shell that fetches after every call never has more than `TRANSMITS_ENOUGH` and a few. Beyond this a message counts
/// as lost on the way, which is what its copies are for.
const TRANSMITS_MAX: usize = 1024;
