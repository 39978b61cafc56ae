//! The times of RFC 3261 17 and the resending that they govern.
//!
//! No timer runs here: a transaction says when it next wants to be asked, and the table keeps those times in order.

use core::time::Duration;

use crate::media::clock::Now;

/// The estimates of RFC 3261 17.1.1.1 that every other timer is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// A round trip: the first interval between two copies.
    pub t1: Duration,
    /// The longest interval between two copies of anything but an INVITE.
    pub t2: Duration,
    /// How long a message may linger in the network.
    pub t4: Duration,
    /// Timer B: an INVITE that nothing answers is given up after this. 64*T1 by the RFC; a site that overflows to
    /// another trunk wants it shorter.
    pub invite_give_up: Duration,
    /// An INVITE without any answer from us gets 100 Trying after this, RFC 3261 17.2.1.
    pub trying_after: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
            invite_give_up: Duration::from_secs(32),
            trying_after: Duration::from_millis(200),
        }
    }
}

impl Timers {
    /// 64*T1: timers F, H, J, L and M, and how long a 2xx waits for its ACK and a reliable 1xx for its PRACK.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.t1 * 64
    }

    /// Timer I or K: how long a finished transaction stays for what may still be under way.
    #[must_use]
    pub fn linger(&self, reliable: bool) -> Duration {
        if reliable { Duration::ZERO } else { self.t4 }
    }

    /// Timer D or J: how long a finished transaction answers copies.
    #[must_use]
    pub fn absorb(&self, reliable: bool) -> Duration {
        if reliable { Duration::ZERO } else { self.patience() }
    }

    /// When a request that is no INVITE is answered 100 for want of anything better: as the client's timer E reaches T2,
    /// RFC 4320 4.1. 3.5 s with the usual values.
    #[must_use]
    pub fn non_invite_trying_after(&self) -> Duration {
        let mut interval = self.t1;
        let mut after = Duration::ZERO;
        while interval < self.t2 && !interval.is_zero() {
            after += interval;
            interval *= 2;
        }
        after
    }
}

/// Copies of one message at doubling intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resend {
    /// When the next copy is due.
    pub(super) at: Now,
    interval: Duration,
    longest: Option<Duration>,
}

impl Resend {
    /// Timers E and G, and the copies of a 2xx: the interval doubles up to T2.
    pub(super) fn capped(now: Now, timers: &Timers) -> Self {
        Self { at: now + timers.t1, interval: timers.t1, longest: Some(timers.t2) }
    }

    /// Timer A, and the copies of a reliable 1xx: the interval doubles for ever. RFC 3262 3 names no T2.
    pub(super) fn doubling(now: Now, timers: &Timers) -> Self {
        Self { at: now + timers.t1, interval: timers.t1, longest: None }
    }

    /// From here on every T2: what timer E becomes once a 1xx came, RFC 3261 17.1.2.2.
    pub(super) fn slowest(&mut self, timers: &Timers) {
        self.interval = timers.t2;
    }

    /// Whether a copy is due; if so the next one is set. Counted from when it was due and not from `now`, so that a late
    /// thread does not shift the schedule; copies that were missed altogether are not made up for.
    pub(super) fn is_due(&mut self, now: Now) -> bool {
        if self.at > now {
            return false;
        }
        let doubled = self.interval.saturating_mul(2);
        self.interval = self.longest.map_or(doubled, |longest| doubled.min(longest));
        self.at = self.at.saturating_add(self.interval);
        if self.at <= now {
            self.at = now.saturating_add(self.interval);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_is_no_invite_is_told_100_after_three_and_a_half_seconds() {
        assert_eq!(Timers::default().non_invite_trying_after(), Duration::from_millis(3500));
    }

    #[test]
    fn a_thread_that_comes_late_sends_one_copy_and_not_those_that_it_missed() {
        let timers = Timers::default();
        let mut resend = Resend::doubling(Now::ZERO, &timers);
        assert!(resend.is_due(Now::from_secs(20)));
        assert!(!resend.is_due(Now::from_secs(20)));
        assert_eq!(resend.at, Now::from_secs(21));
    }
}
