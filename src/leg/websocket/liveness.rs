//! Whether the other side of a WebSocket still lives.
//!
//! A ping goes out every 20 s. Any byte from the peer proves life, not only a pong: a peer that is busy sending speech
//! may answer late. When two pings in a row met nothing but silence, the peer is dead at the time the third would go.
//!
//! ```text
//!   last byte   ping     ping     dead
//!   ----x--------|--------|--------|
//!                |<-20 s->|<-20 s->|
//! ```
//!
//! While we do not read, silence is our own doing: the count stands still, and a round trip is not measured.

use core::time::Duration;

use crate::media::Now;

/// How many pings in a row may stay without any sign of life.
pub const MISSED_PINGS: u8 = 2;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// Nothing yet.
    Nothing,
    /// A ping with [`Liveness::ping_payload`].
    SendPing,
    /// The peer has been silent for too long.
    Dead,
}

/// The pings of one connection.
#[derive(Clone, Debug)]
pub struct Liveness {
    every: Duration,
    due: Now,
    /// Pings since the last sign of life.
    unanswered: u8,
    suspended_until: Option<Now>,
    /// Pings sent, which is also what the last one says.
    count: u64,
    /// When the last one went out, while its pong would be a true measure.
    timed_from: Option<Now>,
    rtt: Option<Duration>,
}

impl Liveness {
    /// A connection that was opened now; the first ping is due after `every`.
    #[must_use]
    pub const fn new(now: Now, every: Duration) -> Self {
        Self {
            every,
            due: now.saturating_add(every),
            unanswered: 0,
            suspended_until: None,
            count: 0,
            timed_from: None,
            rtt: None,
        }
    }

    /// Bytes came from the peer, of whatever kind.
    pub const fn handle_data(&mut self) {
        self.unanswered = 0;
    }

    /// A pong came. It is a measure of the round trip if it answers the latest ping (RFC 6455 5.5.3: same payload).
    pub fn handle_pong(&mut self, now: Now, payload: &[u8]) {
        self.unanswered = 0;
        if payload == self.ping_payload()
            && let Some(sent) = self.timed_from.take()
        {
            self.rtt = Some(now.saturating_sub(sent));
        }
    }

    /// We do not read, or did not until a moment ago: no silence before `until` counts. A later call replaces an
    /// earlier one, so a pause of unknown length is [`Now::MAX`] until its end is known.
    pub const fn suspend_until(&mut self, until: Now) {
        self.suspended_until = Some(until);
        self.unanswered = 0;
        // Its pong waits behind what we did not read.
        self.timed_from = None;
    }

    /// What is due now. A [`Beat::SendPing`] is given once each time.
    #[must_use]
    pub fn poll(&mut self, now: Now) -> Beat {
        if now < self.due {
            return Beat::Nothing;
        }
        let suspended = self.suspended_until.is_some_and(|until| now < until);
        if suspended {
            self.timed_from = None;
        } else {
            self.suspended_until = None;
            if self.unanswered >= MISSED_PINGS {
                return Beat::Dead;
            }
            self.unanswered += 1;
            self.timed_from = Some(now);
        }
        self.count = self.count.wrapping_add(1);
        // From now and not from when it was due: after a long stop there is one ping, not a volley.
        self.due = now.saturating_add(self.every);
        Beat::SendPing
    }

    /// When [`poll`](Self::poll) has something to say next.
    #[must_use]
    pub const fn poll_timeout(&self) -> Now {
        self.due
    }

    /// What the latest ping says: its number, most significant byte first.
    #[must_use]
    pub const fn ping_payload(&self) -> [u8; 8] {
        self.count.to_be_bytes()
    }

    /// The round trip of the latest ping that was answered while we were reading.
    #[must_use]
    pub const fn rtt(&self) -> Option<Duration> {
        self.rtt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(20);

    fn at(seconds: u64) -> Now {
        Now::from_secs(seconds)
    }

    /// Polls once a second from `from` to `to` inclusive; gives the seconds at which a ping was due, and the death.
    fn run(liveness: &mut Liveness, from: u64, to: u64) -> (Vec<u64>, Option<u64>) {
        let mut pings = Vec::new();
        for second in from..=to {
            match liveness.poll(at(second)) {
                Beat::Nothing => {}
                Beat::SendPing => pings.push(second),
                Beat::Dead => return (pings, Some(second)),
            }
        }
        (pings, None)
    }

    #[test]
    fn a_peer_that_never_answers_is_dead_when_the_third_ping_would_go() {
        let mut liveness = Liveness::new(at(0), EVERY);
        assert_eq!(run(&mut liveness, 0, 100), (vec![20, 40], Some(60)));
        assert_eq!(liveness.poll(at(61)), Beat::Dead, "and stays dead");
    }

    #[test]
    fn a_peer_that_misses_one_pong_and_answers_the_next_lives() {
        let mut liveness = Liveness::new(at(0), EVERY);
        assert_eq!(run(&mut liveness, 0, 41), (vec![20, 40], None));
        liveness.handle_pong(at(42), &liveness.ping_payload());
        assert_eq!(run(&mut liveness, 42, 99), (vec![60, 80], None));
        assert_eq!(liveness.poll(at(100)), Beat::Dead);
    }

    #[test]
    fn speech_without_pongs_is_a_sign_of_life() {
        let mut liveness = Liveness::new(at(0), EVERY);
        for second in 1..=600 {
            assert_ne!(liveness.poll(at(second)), Beat::Dead, "at {second} s");
            if second % 30 == 0 {
                liveness.handle_data();
            }
        }
    }

    #[test]
    fn silence_while_we_do_not_read_is_not_held_against_the_peer() {
        let mut liveness = Liveness::new(at(0), EVERY);
        assert_eq!(run(&mut liveness, 0, 45).0, [20, 40]);
        liveness.suspend_until(Now::MAX);
        assert_eq!(run(&mut liveness, 46, 305).1, None);
        liveness.suspend_until(at(305) + EVERY); // we read again
        let (pings, death) = run(&mut liveness, 306, 500);
        assert_eq!(pings, [320, 340, 360], "one within the grace, two that count");
        assert_eq!(death, Some(380));
    }

    #[test]
    fn a_ping_at_the_very_end_of_the_grace_counts() {
        let mut liveness = Liveness::new(at(0), EVERY);
        liveness.suspend_until(at(20));
        assert_eq!(run(&mut liveness, 0, 100), (vec![20, 40], Some(60)));
    }

    #[test]
    fn pings_still_go_out_while_we_do_not_read() {
        let mut liveness = Liveness::new(at(0), EVERY);
        liveness.suspend_until(Now::MAX);
        assert_eq!(run(&mut liveness, 0, 100).0, [20, 40, 60, 80, 100], "they keep the send side honest");
    }

    #[test]
    fn the_round_trip_is_that_of_the_latest_ping_only() {
        let mut liveness = Liveness::new(at(0), EVERY);
        assert_eq!(liveness.rtt(), None);
        assert_eq!(liveness.poll(at(20)), Beat::SendPing);
        let first = liveness.ping_payload();
        liveness.handle_pong(at(20) + Duration::from_millis(35), &first);
        assert_eq!(liveness.rtt(), Some(Duration::from_millis(35)));
        liveness.handle_pong(at(21), &first);
        assert_eq!(liveness.rtt(), Some(Duration::from_millis(35)), "a pong counts once");
        assert_eq!(liveness.poll(at(40)), Beat::SendPing);
        assert_ne!(liveness.ping_payload(), first);
        liveness.handle_pong(at(41), &first);
        liveness.handle_pong(at(41), b"unsolicited, as RFC 6455 5.5.3 allows");
        liveness.handle_pong(at(41), b"");
        assert_eq!(liveness.rtt(), Some(Duration::from_millis(35)), "an old or foreign pong measures nothing");
    }

    #[test]
    fn a_pong_that_waited_behind_a_pause_does_not_measure_the_line() {
        let mut liveness = Liveness::new(at(0), EVERY);
        assert_eq!(liveness.poll(at(20)), Beat::SendPing);
        liveness.suspend_until(Now::MAX);
        liveness.suspend_until(at(50));
        liveness.handle_pong(at(30), &liveness.ping_payload());
        assert_eq!(liveness.rtt(), None);
        assert_eq!(liveness.poll(at(40)), Beat::SendPing, "within the grace");
        liveness.handle_pong(at(45), &liveness.ping_payload());
        assert_eq!(liveness.rtt(), None);
        assert_eq!(liveness.poll(at(60)), Beat::SendPing);
        liveness.handle_pong(at(61), &liveness.ping_payload());
        assert_eq!(liveness.rtt(), Some(Duration::from_secs(1)));
    }

    #[test]
    fn after_a_long_stop_there_is_one_ping_and_not_a_volley() {
        let mut liveness = Liveness::new(at(0), EVERY);
        assert_eq!(liveness.poll(at(1000)), Beat::SendPing);
        assert_eq!(liveness.poll(at(1000)), Beat::Nothing);
        assert_eq!(liveness.poll_timeout(), at(1020));
    }

    #[test]
    fn the_end_of_time_is_no_trap() {
        let mut liveness = Liveness::new(Now::MAX, EVERY);
        assert_eq!(liveness.poll(Now::MAX), Beat::SendPing);
        liveness.handle_pong(at(0), &liveness.ping_payload());
        assert_eq!(liveness.rtt(), Some(Duration::ZERO));
    }
}
