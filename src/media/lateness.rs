//! How late packets come, and how long to wait for them.
//!
//! A packet's transit is its arrival less its place in the stream (RFC 3550 6.4.1), which is only known up to a
//! constant. So it is compared with the fastest packet of the last seconds: what a packet came later than that is its
//! lateness, and the most of the last seconds is what playout must allow for. A window forgets by itself: what was a spike is
//! forgiven after it, and the constant may drift.

use crate::media::clock::Now;

/// The transits of the last seconds, in ticks of the RTP clock.
#[derive(Clone, Debug)]
pub struct Lateness {
    spans: [Span; SPANS],
    current: usize,
    turns_at: Now,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    fastest: i64,
    slowest: i64,
}

impl Lateness {
    /// Nothing came yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { spans: [EMPTY; SPANS], current: 0, turns_at: Now::ZERO }
    }

    /// A packet came. Only packets move the window: in a silence nothing is forgotten.
    pub fn on_packet(&mut self, now: Now, transit: i64) {
        if now >= self.turns_at {
            self.turns_at = now + SPAN;
            self.current = (self.current + 1) % SPANS;
            self.spans[self.current] = EMPTY;
        }
        let span = &mut self.spans[self.current];
        span.fastest = span.fastest.min(transit);
        span.slowest = span.slowest.max(transit);
    }

    /// The transit of the fastest packet.
    #[must_use]
    pub fn fastest(&self) -> Option<i64> {
        self.spans.iter().map(|span| span.fastest).min().filter(|&fastest| fastest != EMPTY.fastest)
    }

    /// How much later than the fastest the slowest packet came.
    #[must_use]
    pub fn most(&self) -> i64 {
        let slowest = self.spans.iter().map(|span| span.slowest).max().unwrap_or(EMPTY.slowest);
        self.fastest().map_or(0, |fastest| slowest - fastest)
    }
}

impl Default for Lateness {
    fn default() -> Self {
        Self::new()
    }
}

const EMPTY: Span = Span { fastest: i64::MAX, slowest: i64::MIN };

/// Two seconds and a part: long enough for a hundred packets, so that one late packet in a hundred is allowed for, and
/// short enough that a delay is given back within five seconds after it was needed.
const SPANS: usize = 5;
const SPAN: Now = Now::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_counts_at_once_and_is_forgiven_within_three_seconds() {
        let mut lateness = Lateness::new();
        assert_eq!((lateness.fastest(), lateness.most()), (None, 0));
        let mut most = Vec::new();
        for i in 0..400_u64 {
            lateness.on_packet(Now::from_millis(20 * i), if i == 100 { 1300 } else { 100 });
            most.push(lateness.most());
        }
        assert_eq!(most[99..102], [0, 1200, 1200]);
        assert_eq!((most[199], most[250]), (1200, 0));
        assert_eq!(lateness.fastest(), Some(100));
    }

    #[test]
    fn a_longer_way_is_lateness_first_and_the_new_way_then() {
        let mut lateness = Lateness::new();
        for i in 0..200_u64 {
            lateness.on_packet(Now::from_millis(20 * i), if i < 50 { 0 } else { 400 });
            assert_eq!(lateness.most() == 400, (50..150).contains(&i), "{i}");
        }
        assert_eq!((lateness.fastest(), lateness.most()), (Some(400), 0));
    }

    #[test]
    fn a_silence_forgets_nothing() {
        let mut lateness = Lateness::new();
        lateness.on_packet(Now::ZERO, 5);
        lateness.on_packet(Now::from_secs(60), 25);
        assert_eq!((lateness.fastest(), lateness.most()), (Some(5), 20));
    }
}
