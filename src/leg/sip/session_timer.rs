//! How a call notices that its far end is gone: it is refreshed at half its time, and ended a little before all of it
//! (RFC 4028).
//!
//! Every INVITE and UPDATE of a call, whoever sends it, says for how long the call is good and who refreshes it; the
//! 2xx to it decides. `uac` and `uas` are the ends of that one request, so the same end is now one, now the other.
//!
//! ```text
//!  2xx                      half                     less a third, at most 32 s     the interval
//!   |------------------------|--------------------------------|--------------------------|
//!                        Refresh, if it is ours            Expired: BYE
//! ```

use core::{fmt, str::FromStr, time::Duration};

use crate::media::Now;

/// Which end of a request refreshes from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresher {
    /// Who sent the request.
    Uac,
    /// Who answered it.
    Uas,
}

/// A `Session-Expires` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionExpires {
    /// How long the call is good without a refresh.
    pub secs: u32,
    /// Who refreshes; a request may leave it open.
    pub refresher: Option<Refresher>,
}

impl FromStr for SessionExpires {
    type Err = Malformed;

    fn from_str(value: &str) -> Result<Self, Malformed> {
        let mut parts = value.split(';');
        let secs = parse_secs(parts.next().unwrap_or_default())?;
        let refresher = parts.find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            if !name.trim_ascii().eq_ignore_ascii_case("refresher") {
                return None;
            }
            match value.trim_ascii().to_ascii_lowercase().as_str() {
                "uac" => Some(Refresher::Uac),
                "uas" => Some(Refresher::Uas),
                _ => None,
            }
        });
        Ok(Self { secs, refresher })
    }
}

impl fmt::Display for SessionExpires {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.secs)?;
        match self.refresher {
            None => Ok(()),
            Some(Refresher::Uac) => f.write_str(";refresher=uac"),
            Some(Refresher::Uas) => f.write_str(";refresher=uas"),
        }
    }
}

/// A value that does not start with seconds, one at least. It counts as if the header were not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the session interval is not in seconds")
    }
}

impl core::error::Error for Malformed {}

/// What a request of ours says, beside `Supported: timer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `Session-Expires`.
    pub session_expires: SessionExpires,
    /// `Min-SE`, where it is more than what everybody assumes.
    pub min_se: Option<u32>,
}

/// What a peer's INVITE or UPDATE says about it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Received<'r> {
    /// `Session-Expires`, or `x`.
    pub session_expires: Option<&'r str>,
    /// `Min-SE`.
    pub min_se: Option<&'r str>,
    /// `timer` is in its `Supported`, or `k`, or in its `Require`.
    pub supports_timer: bool,
}

/// What our 2xx says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// `Session-Expires`, with a refresher.
    pub session_expires: SessionExpires,
    /// `Require: timer`: the peer has its part in it.
    pub require: bool,
}

/// The peer's interval is below ours: 422, with this as `Min-SE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSmall {
    /// The least that we take.
    pub min_se: u32,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// An UPDATE without a description, or a re-INVITE with the one in use.
    Refresh,
    /// Nobody refreshed in time: BYE.
    Expired,
}

/// The session timer of one call.
#[derive(Clone, Debug)]
pub struct SessionTimer {
    wanted_secs: u32,
    min_secs: u32,
    /// The highest `Min-SE` that a 422 of this call had; later requests have to keep to it (RFC 4028 7.4).
    learned_secs: u32,
    state: State,
}

impl SessionTimer {
    /// Before the first 2xx. `wanted_secs` is what we ask for and the most we grant, `min_secs` the least we take.
    #[must_use]
    pub const fn new(wanted_secs: u32, min_secs: u32) -> Self {
        let min_secs = if min_secs < FLOOR_SECS { FLOOR_SECS } else { min_secs };
        let wanted_secs = if wanted_secs < min_secs { min_secs } else { wanted_secs };
        Self { wanted_secs, min_secs, learned_secs: 0, state: State::Off }
    }

    /// For an INVITE or UPDATE of ours: as it is now, if it runs.
    #[must_use]
    pub fn ask(&self) -> Asked {
        let (secs, refresher) = match self.state {
            State::Off => (self.wanted_secs, None), // the far end knows best who of us can
            State::Running { secs, by_us: true, .. } => (secs, Some(Refresher::Uac)),
            State::Running { secs, by_us: false, .. } => (secs, Some(Refresher::Uas)),
        };
        let min = self.min_secs.max(self.learned_secs);
        let session_expires = SessionExpires { secs: secs.max(self.learned_secs), refresher };
        Asked { session_expires, min_se: (min > FLOOR_SECS).then_some(min) }
    }

    /// A 2xx to an INVITE or UPDATE of ours, with its `Session-Expires`. Without one the call no longer expires.
    pub fn handle_success(&mut self, session_expires: Option<&str>, now: Now) {
        self.state = match session_expires.map(str::parse::<SessionExpires>) {
            // Nobody was named: better both refresh than none.
            Some(Ok(granted)) => State::run(granted.secs, granted.refresher != Some(Refresher::Uas), now),
            Some(Err(Malformed)) | None => State::Off,
        };
    }

    /// A 422 to a request of ours, with its `Min-SE`. `true`: send it again, it now asks for more. `false`: it asked
    /// for as much already, and would go on forever.
    #[must_use]
    pub fn handle_too_small(&mut self, min_se: Option<&str>) -> bool {
        let asked = self.ask().session_expires.secs;
        match min_se.map(parse_min_se) {
            Some(Ok(secs)) if secs > asked => {
                self.learned_secs = secs;
                true
            }
            Some(Ok(_) | Err(Malformed)) | None => false,
        }
    }

    /// A refresh of ours was turned down, or crossed one of theirs: again in a while, if there is one left.
    pub fn handle_refused(&mut self, now: Now) {
        if let State::Running { by_us: true, refresh_at, .. } = &mut self.state {
            *refresh_at = Some(now.saturating_add(RETRY));
        }
    }

    /// What to answer to an INVITE or UPDATE of a peer. Nothing runs before [`Self::handle_answered`].
    ///
    /// # Errors
    /// Its interval is too small.
    pub fn handle_request(&self, request: &Received<'_>) -> Result<Option<Granted>, TooSmall> {
        let asked = request.session_expires.and_then(|value| value.parse::<SessionExpires>().ok());
        let min_se = request.min_se.and_then(|value| parse_min_se(value).ok()).unwrap_or(FLOOR_SECS);
        let wanted = self.wanted_secs.max(min_se);
        let asked = match asked {
            Some(asked) if asked.secs >= self.min_secs => asked,
            Some(_) if request.supports_timer => return Err(TooSmall { min_se: self.min_secs }),
            // A proxy put in what the caller would not understand a 422 for.
            Some(_) => return Ok(None),
            None if request.supports_timer => SessionExpires { secs: wanted, refresher: None },
            None => return Ok(None),
        };
        // RFC 4028 9, table 2. Where we may choose, it stays as it is, or is ours: then it does not depend on anyone.
        let refresher = match (request.supports_timer, asked.refresher, &self.state) {
            (false, _, _) => Refresher::Uas,
            (true, Some(refresher), _) => refresher,
            (true, None, State::Running { by_us: false, .. }) => Refresher::Uac,
            (true, None, State::Running { by_us: true, .. } | State::Off) => Refresher::Uas,
        };
        let session_expires = SessionExpires { secs: asked.secs.min(wanted), refresher: Some(refresher) };
        // RFC 4028 9: a must where the peer refreshes, and a should where it waits for us to, and hangs up otherwise. Of a
        // peer without timers nothing is demanded.
        Ok(Some(Granted { session_expires, require: request.supports_timer }))
    }

    /// Our 2xx to a peer's INVITE or UPDATE was sent, with this.
    pub fn handle_answered(&mut self, granted: Option<Granted>, now: Now) {
        self.state = match granted {
            Some(Granted { session_expires: SessionExpires { secs, refresher }, .. }) => {
                State::run(secs, refresher != Some(Refresher::Uac), now)
            }
            None => State::Off,
        };
    }

    /// When [`Self::handle_timeout`] has something to say.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Now> {
        match self.state {
            State::Off => None,
            State::Running { refresh_at, expires_at, .. } => {
                Some(refresh_at.map_or(expires_at, |at| at.min(expires_at)))
            }
        }
    }

    /// Time went on.
    pub fn handle_timeout(&mut self, now: Now) -> Option<Due> {
        let State::Running { refresh_at, expires_at, .. } = &mut self.state else { return None };
        if now >= *expires_at {
            self.state = State::Off;
            return Some(Due::Expired);
        }
        refresh_at.take_if(|at| now >= *at).map(|_| Due::Refresh)
    }
}

#[derive(Clone, Debug)]
enum State {
    /// Nothing was agreed, so the call is good for as long as it lasts.
    Off,
    Running {
        secs: u32,
        by_us: bool,
        /// `None`: it is theirs to do, or ours is on its way.
        refresh_at: Option<Now>,
        /// When we give up.
        expires_at: Now,
    },
}

impl State {
    fn run(secs: u32, by_us: bool, now: Now) -> Self {
        let interval = Duration::from_secs(secs.into());
        // RFC 4028 10: early enough for a BYE to get there before the call is merely forgotten.
        let early = LATEST_BYE.min(interval / 3);
        Self::Running {
            secs,
            by_us,
            refresh_at: by_us.then(|| now.saturating_add(interval / 2)),
            expires_at: now.saturating_add(interval - early),
        }
    }
}

/// `90`; parameters may come to it one day.
fn parse_min_se(value: &str) -> Result<u32, Malformed> {
    parse_secs(value.split(';').next().unwrap_or_default())
}

/// Longer than we can count is as good as the longest that we can.
fn parse_secs(value: &str) -> Result<u32, Malformed> {
    let digits = value.trim_ascii();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Malformed);
    }
    match digits.parse().unwrap_or(u32::MAX) {
        0 => Err(Malformed),
        secs => Ok(secs),
    }
}

/// What a `Min-SE` is that nobody wrote, and the least that one may say (RFC 4028 5).
const FLOOR_SECS: u32 = 90;

/// RFC 4028 10: 32 s, the time that a request takes to fail, or a third.
const LATEST_BYE: Duration = Duration::from_secs(32);

/// Between two refreshes when the first was refused. A glare is over long before (RFC 3261 14.1: 4 s at most).
const RETRY: Duration = Duration::from_secs(10);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const START: Now = Now::from_secs(1_000);

    fn timer() -> SessionTimer {
        SessionTimer::new(1_800, 90)
    }

    fn at(secs: u64) -> Now {
        START + Now::from_secs(secs)
    }

    fn received(session_expires: &str) -> Received<'_> {
        Received { session_expires: Some(session_expires), min_se: None, supports_timer: true }
    }

    fn grant(timer: &mut SessionTimer, request: &Received<'_>, now: Now) -> Option<String> {
        let granted = timer.handle_request(request).unwrap();
        timer.handle_answered(granted, now);
        granted.map(|granted| granted.session_expires.to_string())
    }

    /// What happens until nothing more does, and when.
    fn fate(timer: &mut SessionTimer) -> Vec<(u64, Due)> {
        let mut fate = vec![];
        while let Some(now) = timer.poll_timeout() {
            assert_eq!(timer.handle_timeout(now - Now::from_nanos(1)), None);
            fate.push(((now - START).as_secs(), timer.handle_timeout(now).unwrap()));
        }
        fate
    }

    #[test]
    fn headers_are_read_as_peers_write_them() {
        for (value, secs, refresher, written) in [
            ("1800", 1_800, None, "1800"),
            ("1800;refresher=uac", 1_800, Some(Refresher::Uac), "1800;refresher=uac"),
            (" 90 ; x ; Refresher = UAS", 90, Some(Refresher::Uas), "90;refresher=uas"),
            ("90;refresher=me", 90, None, "90"),
            ("99999999999999999999", u32::MAX, None, "4294967295"),
        ] {
            let read: SessionExpires = value.parse().unwrap();
            assert_eq!((read.secs, read.refresher, &*read.to_string()), (secs, refresher, written), "{value}");
        }
        for value in ["", "0", "-1", "+5", "1.5", "soon", ";refresher=uac"] {
            assert_eq!(value.parse::<SessionExpires>(), Err(Malformed), "{value}");
        }
    }

    #[test]
    fn a_call_that_nobody_limits_lasts() {
        let mut timer = timer();
        assert_eq!(timer.poll_timeout(), None);
        assert_eq!(grant(&mut timer, &Received::default(), START), None);
        timer.handle_success(None, START);
        timer.handle_success(Some("soon"), START);
        assert_eq!((timer.poll_timeout(), timer.handle_timeout(at(1 << 20))), (None, None));
    }

    #[test]
    fn whoever_is_named_refreshes_and_both_give_up_in_time() {
        let mut timer = timer();
        timer.handle_success(Some("1800;refresher=uac"), START);
        assert_eq!(fate(&mut timer), [(900, Due::Refresh), (1_768, Due::Expired)]);
        timer.handle_success(Some("1800;refresher=uas"), START);
        assert_eq!(fate(&mut timer), [(1_768, Due::Expired)]);
        timer.handle_success(Some("90"), START);
        assert_eq!(fate(&mut timer), [(45, Due::Refresh), (60, Due::Expired)]);
        assert_eq!(grant(&mut timer, &received("1800;refresher=uac"), START).as_deref(), Some("1800;refresher=uac"));
        assert_eq!(fate(&mut timer), [(1_768, Due::Expired)]);
        assert_eq!(grant(&mut timer, &received("300;refresher=uas"), START).as_deref(), Some("300;refresher=uas"));
        assert_eq!(fate(&mut timer), [(150, Due::Refresh), (268, Due::Expired)]);
    }

    #[test]
    fn a_call_that_is_refreshed_for_a_day_goes_on() {
        let mut timer = timer();
        timer.handle_success(Some("1800;refresher=uac"), START);
        for round in 1..=96 {
            let now = at(round * 900);
            assert_eq!(timer.poll_timeout(), Some(now));
            assert_eq!(timer.handle_timeout(now), Some(Due::Refresh));
            assert_eq!(timer.handle_timeout(now), None, "it is on its way");
            let asked = timer.ask();
            assert_eq!((asked.session_expires.to_string(), asked.min_se), ("1800;refresher=uac".into(), None));
            timer.handle_success(Some("1800;refresher=uac"), now);
        }
    }

    #[test]
    fn what_is_granted_is_never_more_than_asked_nor_less_than_both_can_take() {
        let grant = |request| {
            timer().handle_request(&request).map(|granted| granted.map(|granted| granted.session_expires.secs))
        };
        assert_eq!(grant(received("3600")), Ok(Some(1_800)));
        assert_eq!(grant(received("600")), Ok(Some(600)));
        assert_eq!(grant(Received { min_se: Some("2400"), ..received("3600") }), Ok(Some(2_400)));
        assert_eq!(grant(Received { min_se: Some("2400"), ..received("1200") }), Ok(Some(1_200)));
        assert_eq!(grant(received("89")), Err(TooSmall { min_se: 90 }));
        assert_eq!(grant(received("soon")), Ok(Some(1_800)));
        let supports = Received { supports_timer: true, min_se: Some("7200"), ..Received::default() };
        assert_eq!(grant(supports), Ok(Some(7_200)));
        let strict = SessionTimer::new(60, 600);
        assert_eq!(strict.handle_request(&received("300")), Err(TooSmall { min_se: 600 }));
        assert_eq!((strict.ask().session_expires.secs, strict.ask().min_se), (600, Some(600)));
    }

    #[test]
    fn a_caller_without_timers_is_never_asked_to_refresh_nor_told_422() {
        let by_proxy = |value| Received { session_expires: Some(value), ..Received::default() };
        let granted = timer().handle_request(&by_proxy("600")).unwrap().unwrap();
        assert_eq!((granted.session_expires.to_string(), granted.require), ("600;refresher=uas".into(), false));
        assert_eq!(timer().handle_request(&by_proxy("60")), Ok(None));
    }

    #[test]
    fn a_peer_that_may_leave_it_to_us_does() {
        let granted = timer().handle_request(&received("600")).unwrap().unwrap();
        assert_eq!((granted.session_expires.refresher, granted.require), (Some(Refresher::Uas), true));
        let granted = timer().handle_request(&received("600;refresher=uac")).unwrap().unwrap();
        assert!(granted.require, "it has to know that it was taken up on it");
    }

    #[test]
    fn the_role_is_kept_through_a_hold_and_changes_when_the_answer_says_so() {
        let mut timer = timer();
        timer.handle_success(Some("1800;refresher=uas"), START);
        // They hold, and say nothing of it: it stays theirs, who are the UAC of this one.
        let hold = Received { supports_timer: true, ..Received::default() };
        assert_eq!(grant(&mut timer, &hold, at(10)).as_deref(), Some("1800;refresher=uac"));
        assert_eq!(timer.poll_timeout(), Some(at(1_778)));
        // Our own re-INVITE leaves it with them as well.
        assert_eq!(timer.ask().session_expires.refresher, Some(Refresher::Uas));
        timer.handle_success(Some("600;refresher=uac"), at(20));
        assert_eq!(timer.poll_timeout(), Some(at(320)), "but now it is ours, and for less");
        assert_eq!(grant(&mut timer, &hold, at(30)).as_deref(), Some("1800;refresher=uas"));
        assert_eq!(grant(&mut timer, &received("600;refresher=uac"), at(40)).as_deref(), Some("600;refresher=uac"));
        assert_eq!(timer.poll_timeout(), Some(at(608)));
        // A re-INVITE by somebody who knows no timers ends it.
        assert_eq!(grant(&mut timer, &Received::default(), at(50)), None);
        assert_eq!(timer.poll_timeout(), None);
    }

    #[test]
    fn a_422_is_met_once_and_kept_to() {
        let mut timer = SessionTimer::new(600, 90);
        assert_eq!(timer.ask(), Asked { session_expires: "600".parse().unwrap(), min_se: None });
        assert!(timer.handle_too_small(Some("1200")));
        assert_eq!(timer.ask(), Asked { session_expires: "1200".parse().unwrap(), min_se: Some(1_200) });
        assert!(!timer.handle_too_small(Some("1200")), "the same again would go on forever");
        assert!(timer.handle_too_small(Some("1800;x=y")), "another proxy wants more");
        assert!(
            !timer.handle_too_small(Some("60")) && !timer.handle_too_small(Some("x")) && !timer.handle_too_small(None)
        );
        timer.handle_success(Some("1800;refresher=uac"), START);
        assert_eq!(timer.handle_timeout(at(900)), Some(Due::Refresh));
        assert_eq!(timer.ask().min_se, Some(1_800));
    }

    #[test]
    fn a_refresh_that_crossed_another_is_tried_again_while_there_is_time() {
        let mut timer = timer();
        timer.handle_success(Some("90;refresher=uac"), START);
        assert_eq!(timer.handle_timeout(at(45)), Some(Due::Refresh));
        timer.handle_refused(at(46));
        assert_eq!(timer.handle_timeout(at(56)), Some(Due::Refresh));
        timer.handle_refused(at(57));
        assert_eq!(fate(&mut timer), [(60, Due::Expired)]);
        timer.handle_refused(at(61));
        assert_eq!(timer.poll_timeout(), None);
    }

    #[test]
    fn the_longest_interval_is_no_overflow() {
        let mut timer = timer();
        timer.handle_success(Some("4294967296"), Now::MAX - Now::from_secs(1));
        assert_eq!(timer.handle_timeout(Now::MAX), Some(Due::Expired));
        assert!(SessionTimer::new(u32::MAX, u32::MAX).handle_request(&received("1")).is_err());
    }
}
