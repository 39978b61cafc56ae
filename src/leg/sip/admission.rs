//! Who may bring us a request, decided before anything of a dialog exists.
//!
//! ```text
//!   a source that is not known        no answer at all, not even 403: a scanner learns nothing
//!   INVITEs too fast from one source  503 with the moment from which one is taken again
//!   too many ring, or have no ACK     503, so that the PBX overflows
//! ```
//!
//! Known are the ranges of the config and the registrars. Nobody else is, unless the config takes anyone; another process
//! on this machine is no better than another machine.
//!
//! What a datagram says of where it comes from may be made up. So this keeps one moment for each of a fixed number of
//! sources, and what bounds the memory of calls is how many may ring, whoever they come from.

use core::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::{config::Cidr, leg::sip::message::Method, media::Now, told::Told};

/// What is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Where requests may come from, beside the registrars.
    pub allow: Vec<Cidr>,
    /// From anywhere, whatever `allow` says.
    pub takes_anyone: bool,
    /// How many new calls one source may bring in a second, for as long as it likes.
    pub invites_per_second: u32,
    /// How many it may bring at once.
    pub burst: u32,
    /// How many calls may wait for the ACK of our 200.
    pub max_unacked: usize,
    /// How many may ring.
    pub max_ringing: usize,
}

/// The calls there are, as far as it matters to the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Calls that wait for the ACK of our 200.
    pub unacked: usize,
    /// Calls that were not answered yet.
    pub ringing: usize,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is looked at.
    Admit,
    /// It was never there.
    Ignore,
    /// It is answered, and nothing of it is kept.
    Refuse {
        /// The status of the answer.
        status: u16,
        /// When the source may come again, RFC 3261 20.33.
        retry_after_s: u32,
    },
}

/// Why a request was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its source is not one that we know.
    Stranger,
    /// Its source brings too many.
    TooFast,
    /// Too many calls wait for their ACK.
    Unacked,
    /// Too many calls ring.
    Ringing,
}

impl Reason {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Self; 4] = [Self::Stranger, Self::TooFast, Self::Unacked, Self::Ringing];

    /// For metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::TooFast => "too-fast",
            Self::Unacked => "unacked",
            Self::Ringing => "ringing",
        }
    }

    /// For whoever reads the log, with what would help.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Stranger => "it comes from an address that is neither in allow nor a registrar's",
            Self::TooFast => "its source brings more calls in a second than it may; see `invites-per-second`",
            Self::Unacked => "too many calls wait for the ACK of their answer; does our 200 reach the PBX?",
            Self::Ringing => "too many calls ring already",
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Stranger => 0,
            Self::TooFast => 1,
            Self::Unacked => 2,
            Self::Ringing => 3,
        }
    }
}

/// Requests that were not let in, told once a minute for each reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News {
    /// Why.
    pub reason: Reason,
    /// How many since that was last told.
    pub requests: u64,
    /// Whence the last of them came.
    pub source: SocketAddr,
}

/// The gate of a line.
#[derive(Debug)]
pub struct Admission {
    policy: Policy,
    registrars: Vec<IpAddr>,
    sources: Sources,
    refused: [(u64, Told); Reason::ALL.len()],
    news: Option<News>,
}

impl Admission {
    /// Nobody has come yet.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        let sources = Sources::new(policy.invites_per_second, policy.burst);
        Self { policy, registrars: Vec::new(), sources, refused: Default::default(), news: None }
    }

    /// Goes by another policy. What was counted against a source is forgotten where other counts are allowed.
    pub fn set_policy(&mut self, policy: Policy) {
        if (policy.invites_per_second, policy.burst) != (self.policy.invites_per_second, self.policy.burst) {
            self.sources = Sources::new(policy.invites_per_second, policy.burst);
        }
        self.policy = policy;
    }

    /// The addresses of whom we register with, as they are now. What a registrar was before is forgotten.
    pub fn set_registrars(&mut self, addresses: &[IpAddr]) {
        self.registrars.clear();
        self.registrars.extend(addresses.iter().take(MOST_REGISTRARS).map(IpAddr::to_canonical));
    }

    /// Whether anything at all is taken from there: requests, and what belongs to calls that there are.
    #[must_use]
    pub fn is_known(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        self.policy.takes_anyone
            || self.registrars.contains(&source)
            || self.policy.allow.iter().any(|range| range.contains(source))
    }

    /// What becomes of a request that belongs to no transaction and no dialog. Whatever does belong to one is for
    /// [`Self::is_known`] alone: a call that was let in may be held, and has to be able to end.
    pub fn check(&mut self, now: Now, source: SocketAddr, method: &Method, load: Load) -> Verdict {
        let reason = if !self.is_known(source.ip()) {
            Reason::Stranger
        } else if *method != Method::Invite {
            // Its answer keeps nothing, and a PBX that asks by OPTIONS whether we live must not find us dead.
            return Verdict::Admit;
        } else if load.unacked >= self.policy.max_unacked {
            Reason::Unacked
        } else if load.ringing >= self.policy.max_ringing {
            Reason::Ringing
        } else {
            match self.sources.take(source.ip(), now) {
                Ok(()) => return Verdict::Admit,
                Err(wait) => {
                    self.on_refused(now, source, Reason::TooFast);
                    return Verdict::Refuse { status: UNAVAILABLE, retry_after_s: whole_seconds(wait) };
                }
            }
        };
        self.on_refused(now, source, reason);
        match reason {
            Reason::Stranger => Verdict::Ignore,
            Reason::TooFast | Reason::Unacked | Reason::Ringing => {
                Verdict::Refuse { status: UNAVAILABLE, retry_after_s: FULL_FOR_S }
            }
        }
    }

    /// What becomes of a call that has rung and is to be answered, when so many wait for their ACK. More may ring than may
    /// wait, and they may all be answered at once.
    pub fn check_answer(&mut self, now: Now, source: SocketAddr, unacked: usize) -> Verdict {
        if unacked < self.policy.max_unacked {
            return Verdict::Admit;
        }
        self.on_refused(now, source, Reason::Unacked);
        Verdict::Refuse { status: UNAVAILABLE, retry_after_s: FULL_FOR_S }
    }

    /// How many were not let in for this reason since the start.
    #[must_use]
    pub const fn refused(&self, reason: Reason) -> u64 {
        self.refused[reason.index()].0
    }

    /// What the log should be told now; to be asked after each verdict that is not [`Verdict::Admit`].
    pub const fn poll_news(&mut self) -> Option<News> {
        self.news.take()
    }

    fn on_refused(&mut self, now: Now, source: SocketAddr, reason: Reason) {
        let (total, told) = &mut self.refused[reason.index()];
        *total += 1;
        if let Some(requests) = told.count(now) {
            self.news = Some(News { reason, requests, source });
        }
    }
}

/// How many calls each source may still bring: a bucket of tokens, kept as the moment at which it is full again.
#[derive(Debug)]
struct Sources {
    /// What one call costs; `None`: nothing.
    price: Option<Duration>,
    /// What a source may owe and still bring one more.
    credit: Duration,
    full_at: Vec<(IpAddr, Now)>,
}

impl Sources {
    fn new(per_second: u32, burst: u32) -> Self {
        let price = (per_second > 0).then(|| Duration::from_secs(1) / per_second);
        let credit = price.unwrap_or_default() * burst.saturating_sub(1);
        Self { price, credit, full_at: Vec::new() }
    }

    /// Takes a token, or says how long it takes until there is one.
    fn take(&mut self, source: IpAddr, now: Now) -> Result<(), Duration> {
        let Some(price) = self.price else { return Ok(()) };
        let source = source.to_canonical();
        let place = self.place_of(source, now);
        let full_at = &mut self.full_at[place].1;
        let debt = full_at.saturating_sub(now);
        if debt > self.credit {
            return Err(debt - self.credit);
        }
        *full_at = now + debt + price;
        Ok(())
    }

    /// Where it stands in the table. When that is full, the source goes that owes least, which is who brought nothing
    /// for the longest time.
    fn place_of(&mut self, source: IpAddr, now: Now) -> usize {
        if let Some(place) = self.full_at.iter().position(|(known, _)| *known == source) {
            return place;
        }
        if self.full_at.len() < MOST_SOURCES {
            self.full_at.push((source, now));
            return self.full_at.len() - 1;
        }
        let least = self.full_at.iter().enumerate().min_by_key(|(_, (_, full_at))| *full_at);
        let place = least.map_or(0, |(place, _)| place);
        self.full_at[place] = (source, now);
        place
    }
}

fn whole_seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(u32::from(wait.subsec_nanos() > 0)).max(1)
}

/// RFC 3261 21.5.4. Not 486, which says that the one who was called is busy: a PBX sends 503 elsewhere.
const UNAVAILABLE: u16 = 503;
/// What rings is answered or given up in about that time.
const FULL_FOR_S: u32 = 5;
/// About 12 kB. Whoever comes from more addresses than that makes them up.
const MOST_SOURCES: usize = 256;
/// Two registrars with eight addresses each.
const MOST_REGISTRARS: usize = 16;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now::from_millis(ms)
    }

    fn source(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn admission() -> Admission {
        Admission::new(Policy {
            allow: vec![Cidr::parse("192.0.2.0/24").unwrap(), Cidr::parse("2001:db8::/32").unwrap()],
            takes_anyone: false,
            invites_per_second: 10,
            burst: 5,
            max_unacked: 3,
            max_ringing: 8,
        })
    }

    fn invite(admission: &mut Admission, ms: u64, from: &str) -> Verdict {
        admission.check(at(ms), source(from), &Method::Invite, Load::default())
    }

    const PBX: &str = "192.0.2.10:5060";

    #[test]
    fn a_scanner_gets_no_answer_to_anything() {
        let mut admission = admission();
        for method in [Method::Options, Method::Register, Method::Invite, Method::Bye] {
            let verdict = admission.check(at(0), source("198.51.100.66:5071"), &method, Load::default());
            assert_eq!(verdict, Verdict::Ignore);
        }
        assert_eq!(admission.refused(Reason::Stranger), 4);
        assert!(admission.sources.full_at.is_empty(), "nothing is kept of it");
    }

    #[test]
    fn a_pbx_is_known_by_its_range_whatever_its_socket_calls_it() {
        let mut admission = admission();
        for known in [PBX, "[::ffff:192.0.2.10]:5060", "[2001:db8::7]:5060"] {
            assert_eq!(invite(&mut admission, 0, known), Verdict::Admit, "{known}");
        }
    }

    #[test]
    fn a_registrar_may_bring_calls_for_as_long_as_it_is_one() {
        let mut admission = admission();
        let registrar = source("203.0.113.5:5060");
        assert!(!admission.is_known(registrar.ip()));
        admission.set_registrars(&[registrar.ip()]);
        assert!(admission.is_known(registrar.ip()));
        admission.set_registrars(&[source("203.0.113.6:5060").ip()]);
        assert!(!admission.is_known(registrar.ip()));
    }

    #[test]
    fn another_process_on_this_machine_is_no_better_than_another_machine() {
        let policy = Policy { allow: Vec::new(), invites_per_second: 0, ..admission().policy };
        let mut registered = Admission::new(policy.clone());
        for stranger in [PBX, "127.0.0.1:5062", "[::1]:5062"] {
            assert_eq!(invite(&mut registered, 0, stranger), Verdict::Ignore, "{stranger}");
        }
        let mut open = Admission::new(Policy { takes_anyone: true, ..policy });
        assert!((0..1000).all(|_| invite(&mut open, 0, PBX) == Verdict::Admit), "and no rate is no limit");
    }

    #[test]
    fn a_burst_is_taken_and_the_rest_is_told_when_to_come_again() {
        let mut admission = admission();
        let taken = (0..20).filter(|_| invite(&mut admission, 0, PBX) == Verdict::Admit).count();
        assert_eq!(taken, 5);
        assert_eq!(invite(&mut admission, 0, PBX), Verdict::Refuse { status: 503, retry_after_s: 1 });
        assert_eq!(invite(&mut admission, 0, "192.0.2.11:5060"), Verdict::Admit, "another PBX has its own bucket");
        assert_eq!(invite(&mut admission, 100, PBX), Verdict::Admit);
        assert!(matches!(invite(&mut admission, 100, PBX), Verdict::Refuse { .. }));
        let taken = (0..20).filter(|_| invite(&mut admission, 10_000, PBX) == Verdict::Admit).count();
        assert_eq!(taken, 5, "what was not used does not add up");
    }

    #[test]
    fn a_pbx_keeps_its_own_rate_for_ever() {
        let mut admission = admission();
        assert!((0..1000).all(|call| invite(&mut admission, call * 100, PBX) == Verdict::Admit));
    }

    #[test]
    fn another_port_of_the_same_address_is_the_same_source() {
        let mut admission = admission();
        let taken =
            (0..20).filter(|n| invite(&mut admission, 0, &format!("192.0.2.10:{}", 40000 + n)) == Verdict::Admit);
        assert_eq!(taken.count(), 5);
    }

    #[test]
    fn a_flood_of_invites_does_not_keep_a_pbx_from_asking_whether_we_live() {
        let mut admission = admission();
        while invite(&mut admission, 0, PBX) == Verdict::Admit {}
        let full = Load { unacked: 99, ringing: 99 };
        assert_eq!(admission.check(at(0), source(PBX), &Method::Options, full), Verdict::Admit);
    }

    #[test]
    fn calls_that_are_never_acknowledged_and_calls_that_ring_leave_no_room_for_more() {
        let mut admission = admission();
        let mut check = |load| admission.check(at(0), source(PBX), &Method::Invite, load);
        let refused = Verdict::Refuse { status: 503, retry_after_s: 5 };
        assert_eq!(check(Load { unacked: 3, ringing: 0 }), refused);
        assert_eq!(check(Load { unacked: 0, ringing: 8 }), refused);
        assert_eq!(check(Load { unacked: 2, ringing: 7 }), Verdict::Admit);
        assert_eq!((admission.refused(Reason::Unacked), admission.refused(Reason::Ringing)), (1, 1));
        assert_eq!(admission.check_answer(at(0), source(PBX), 2), Verdict::Admit);
        assert_eq!(admission.check_answer(at(0), source(PBX), 3), refused);
    }

    #[test]
    fn ten_thousand_made_up_sources_take_the_memory_of_256() {
        let mut admission = admission();
        for number in 0..10_000_u32 {
            let made_up = SocketAddr::new(
                core::net::Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) | u128::from(number)).into(),
                5060,
            );
            admission.check(at(number.into()), made_up, &Method::Invite, Load::default());
        }
        assert_eq!(admission.sources.full_at.len(), MOST_SOURCES);
        assert!(admission.sources.full_at.capacity() <= MOST_SOURCES);
    }

    #[test]
    fn made_up_sources_do_not_wipe_out_what_a_real_one_owes() {
        let mut admission = admission();
        while invite(&mut admission, 0, PBX) == Verdict::Admit {}
        for number in 0..1000_u128 {
            let made_up = SocketAddr::new(core::net::Ipv6Addr::from_bits((0x2001_0db8 << 96) | number).into(), 5060);
            admission.check(at(1), made_up, &Method::Invite, Load::default());
        }
        assert!(matches!(invite(&mut admission, 1, PBX), Verdict::Refuse { .. }));
    }

    #[test]
    fn each_reason_is_told_once_a_minute_with_how_many_and_whence() {
        let mut admission = admission();
        invite(&mut admission, 0, "198.51.100.66:5071");
        let first = News { reason: Reason::Stranger, requests: 1, source: source("198.51.100.66:5071") };
        assert_eq!(admission.poll_news(), Some(first));
        for second in 1..60 {
            invite(&mut admission, second * 1000, "198.51.100.67:5071");
            assert_eq!(admission.poll_news(), None);
        }
        invite(&mut admission, 60_000, "198.51.100.68:5071");
        let next = News { reason: Reason::Stranger, requests: 60, source: source("198.51.100.68:5071") };
        assert_eq!(admission.poll_news(), Some(next));
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), place, "{}", reason.name());
        }
    }
}
