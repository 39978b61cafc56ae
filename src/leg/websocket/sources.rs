//! How often each source was refused. Who is refused too often is asked nothing more for a while.
//!
//! A refusal is paid off with time: each costs a source a part of a minute, and with a whole minute of debt it is
//! limited. What it tries meanwhile costs it more, up to four minutes, so that a password cannot be guessed, and a vendor
//! whose password was put right is back soon.

use core::{net::IpAddr, net::Ipv6Addr, time::Duration};
use std::collections::HashMap;

use crate::media::Now;

/// The debts.
#[derive(Debug)]
pub struct Sources {
    /// What a refusal costs; `None`: nothing.
    price: Option<Duration>,
    paid_off_at: HashMap<IpAddr, Now>,
}

/// How a source stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may ask.
    Good,
    /// It is told that it asks too often.
    Limited,
    /// It is not even told.
    Shunned,
}

impl Sources {
    /// Nobody was refused so far. So many refusals in a minute are too many; 0: none are.
    #[must_use]
    pub fn new(max_per_minute: u32) -> Self {
        let price = (max_per_minute > 0).then(|| MINUTE / max_per_minute);
        Self { price, paid_off_at: HashMap::new() }
    }

    /// How this source stands.
    #[must_use]
    pub fn standing(&self, source: IpAddr, now: Now) -> Standing {
        let debt = self.paid_off_at.get(&network(source)).map_or(Duration::ZERO, |at| at.saturating_sub(now));
        match debt {
            // Division rounds down, and the debt with it.
            _ if debt + Duration::from_millis(1) < MINUTE => Standing::Good,
            _ if debt < SHUNNED_FROM => Standing::Limited,
            _ => Standing::Shunned,
        }
    }

    /// It was refused. Gives whether that is worth telling: once it is limited, only the first one is.
    pub fn refused(&mut self, source: IpAddr, now: Now) -> bool {
        let Some(price) = self.price else { return true };
        let before = self.standing(source, now);
        if self.paid_off_at.len() >= MOST_SOURCES {
            self.forget(now);
        }
        let at = self.paid_off_at.entry(network(source)).or_insert(now);
        *at = ((*at).max(now) + price).min(now + WORST);
        before == Standing::Good
    }

    /// Makes room: whoever owes nothing any more goes, and if that is nobody, who owes least.
    fn forget(&mut self, now: Now) {
        self.paid_off_at.retain(|_, at| *at > now);
        if self.paid_off_at.len() >= MOST_SOURCES
            && let Some(least) = self.paid_off_at.iter().min_by_key(|(_, at)| **at).map(|(source, _)| *source)
        {
            self.paid_off_at.remove(&least);
        }
    }
}

/// Whoever has one address of IPv6 has 2^64 of them (RFC 6177).
pub(super) fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

const MINUTE: Duration = Duration::from_secs(60);
const SHUNNED_FROM: Duration = Duration::from_secs(180);
const WORST: Duration = Duration::from_secs(240);
/// About 200 kB.
const MOST_SOURCES: usize = 4096;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(second: u64) -> Now {
        Now::from_secs(second)
    }

    #[test]
    fn a_source_is_limited_after_so_many_refusals_and_comes_back_with_time() {
        let mut sources = Sources::new(7);
        let source: IpAddr = "192.0.2.1".parse().unwrap();
        for _ in 0..7 {
            assert_eq!(sources.standing(source, at(10)), Standing::Good);
            assert!(sources.refused(source, at(10)));
        }
        assert_eq!(sources.standing(source, at(10)), Standing::Limited);
        assert_eq!(sources.standing("192.0.2.2".parse().unwrap(), at(10)), Standing::Good);
        assert_eq!(sources.standing(source, at(11)), Standing::Good, "one may be tried again after a second");
        assert!(sources.refused(source, at(11)));
        assert!(!sources.refused(source, at(11)), "the log was told");
    }

    #[test]
    fn a_source_that_goes_on_is_shunned_for_four_minutes_at_most() {
        let mut sources = Sources::new(30);
        let source: IpAddr = "2001:db8::1".parse().unwrap();
        for _ in 0..1000 {
            sources.refused(source, at(0));
        }
        assert_eq!(sources.standing("2001:db8::2".parse().unwrap(), at(0)), Standing::Shunned, "the same network");
        assert_eq!(sources.standing(source, at(61)), Standing::Limited);
        assert_eq!(sources.standing(source, at(181)), Standing::Good);
    }

    #[test]
    fn no_limit_limits_nobody_and_a_flood_of_sources_takes_bounded_memory() {
        let mut sources = Sources::new(0);
        let source: IpAddr = "192.0.2.1".parse().unwrap();
        assert!((0..1000).all(|_| sources.refused(source, at(0))));
        assert_eq!(sources.standing(source, at(0)), Standing::Good);

        let mut sources = Sources::new(1);
        for number in 0..10_000_u32 {
            sources.refused(IpAddr::V4(number.into()), at(0));
        }
        assert!(sources.paid_off_at.len() <= MOST_SOURCES);
    }
}
