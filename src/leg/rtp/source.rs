//! Whose packets are played. "RTP bleed" (AST-2017-005, AST-2017-008): whoever guesses a port must not be heard on it.
//!
//! The rule. A *stream* is one address, one SSRC and one run of sequence numbers. Of all that arrives on a call's port
//! one stream is played, the accepted one:
//!
//! - The first packet from the address in the peer's SDP is accepted at once, until something else was.
//! - While that address has sent nothing, another one is accepted after [`PROBATION`] packets in a row, each following
//!   the one before, of one SSRC. It must be another port of the same host, or the config says that the peer may be
//!   behind a NAT (`learn`). The packets before the last of them are never played.
//! - Then the address is locked. What comes from any other is foreign: dropped and counted. Only the SDP's own address
//!   may still take over, by the same probation.
//! - From the locked address a new SSRC, or a jump of the sequence that no loss explains, is accepted by the same
//!   probation, once the accepted stream was silent for [`QUIET`]. So what an attacker who forges the peer's address
//!   slips between its packets is not played.
//! - A re-INVITE that names another address begins all of this anew. One that names the same lets a learned address be
//!   learned again until [`PROBATION`] more packets came from it.
//!
//! We send to the SDP's address. If the peer may be behind a NAT, we send to the accepted one once there is one.

use core::net::SocketAddr;

use crate::media::Now;

/// Packets in a row by which a stream shows that it is one. As many as Asterisk's strict RTP asks for.
pub const PROBATION: u8 = 4;

/// How long the accepted stream must have been silent before another takes its place: as long as probation takes at
/// 20 ms a packet.
pub const QUIET: Now = Now::from_millis(80);

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is of the stream that is played.
    Play,
    /// It is the first of a stream that is played from now on: nothing of what went before counts for it.
    PlayAnew,
    /// It is of a stream that may be accepted later. Not to be played.
    Probation,
    /// It is from the right address and SSRC, and far off the sequence. Not to be played; an event may be believed.
    Stray,
    /// It is not of this call.
    Foreign,
}

/// The sources of one call.
#[derive(Debug)]
pub struct Sources {
    signalled: SocketAddr,
    learn: bool,
    accepted: Option<Stream>,
    /// For so many more packets of the accepted stream, another address may be learned in its place.
    unsettled: u8,
    candidates: [Option<Candidate>; CANDIDATES],
    /// The place of the candidate that came last.
    newest: usize,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    from: SocketAddr,
    ssrc: u32,
    /// The highest sequence number.
    highest: u16,
    last: Now,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    from: SocketAddr,
    ssrc: u32,
    next: u16,
    run: u8,
}

impl Sources {
    /// A peer whose SDP names this address, and which may send from another one if `learn` is set.
    #[must_use]
    pub fn new(signalled: SocketAddr, learn: bool) -> Self {
        Self {
            signalled: canonical(signalled),
            learn,
            accepted: None,
            unsettled: 0,
            candidates: [None; CANDIDATES],
            newest: 0,
        }
    }

    /// The peer's SDP now names this address. None of all (`0.0.0.0`, or port 0) only says that it wants to hear nothing.
    pub fn renegotiate(&mut self, signalled: SocketAddr, learn: bool) {
        self.learn = learn;
        self.candidates = [None; CANDIDATES];
        let signalled = canonical(signalled);
        if is_nowhere(signalled) {
            return;
        }
        if signalled != self.signalled {
            self.signalled = signalled;
            self.accepted = None;
        }
        self.unsettled = if self.accepted.is_some_and(|stream| stream.from != signalled) { PROBATION } else { 0 };
    }

    /// Where RTP is sent to, if the peer wants any.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        let peer = self.accepted.filter(|_| self.learn).map_or(self.signalled, |stream| stream.from);
        (!is_nowhere(peer)).then_some(peer)
    }

    /// Where RTP comes from; before any was accepted, the address that the SDP names.
    #[must_use]
    pub fn source(&self) -> Option<SocketAddr> {
        let source = self.accepted.map_or(self.signalled, |stream| stream.from);
        (!is_nowhere(source)).then_some(source)
    }

    /// Whether this host is the peer's. What it reports about the call is believed.
    #[must_use]
    pub fn is_peer(&self, from: SocketAddr) -> bool {
        let ip = canonical(from).ip();
        ip == self.signalled.ip() || self.accepted.is_some_and(|stream| stream.from.ip() == ip)
    }

    /// The SSRC that is played.
    #[must_use]
    pub fn ssrc(&self) -> Option<u32> {
        self.accepted.map(|stream| stream.ssrc)
    }

    /// A packet came that is of the call by its form. What to do with it. An event far off the sequence says nothing about
    /// where the audio is: some peers count the two apart.
    pub fn admit(&mut self, now: Now, from: SocketAddr, ssrc: u32, sequence: u16, is_event: bool) -> Verdict {
        let from = canonical(from);
        let Some(accepted) = &mut self.accepted else {
            if from == self.signalled {
                return self.accept(now, from, ssrc, sequence);
            }
            if !self.may_learn(from) {
                return Verdict::Foreign;
            }
            return self.examine(now, from, ssrc, sequence);
        };
        if accepted.from == from {
            let is_same = accepted.ssrc == ssrc;
            let most_ahead = if is_event { MOST_AHEAD_OF_AN_EVENT } else { MOST_AHEAD };
            if is_same && !is_jump(accepted.highest, sequence, most_ahead) {
                if sequence.wrapping_sub(accepted.highest) < MOST_AHEAD {
                    accepted.highest = sequence;
                }
                accepted.last = now;
                self.unsettled = self.unsettled.saturating_sub(1);
                self.forget(from);
                return Verdict::Play;
            }
            if is_same && is_event {
                return Verdict::Stray;
            }
            let verdict = self.examine(now, from, ssrc, sequence);
            return if is_same && verdict == Verdict::Probation { Verdict::Stray } else { verdict };
        }
        if from == self.signalled || self.unsettled > 0 && self.may_learn(from) {
            return self.examine(now, from, ssrc, sequence);
        }
        Verdict::Foreign
    }

    fn may_learn(&self, from: SocketAddr) -> bool {
        self.learn || from.ip() == self.signalled.ip()
    }

    /// Whether the SDP's own address takes over from one that was learned: that one may go on as it likes.
    fn is_owner(&self, from: SocketAddr) -> bool {
        from == self.signalled && self.accepted.is_none_or(|stream| stream.from != from)
    }

    fn examine(&mut self, now: Now, from: SocketAddr, ssrc: u32, sequence: u16) -> Verdict {
        let is_quiet = self.accepted.is_none_or(|stream| now.saturating_sub(stream.last) >= QUIET);
        let may_follow = is_quiet || self.is_owner(from);
        let known = self.candidates.iter_mut().flatten().find(|known| known.from == from && known.ssrc == ssrc);
        let run = if let Some(known) = known {
            known.run = if known.next == sequence { known.run.saturating_add(1) } else { 1 };
            known.next = sequence.wrapping_add(1);
            known.run
        } else {
            // The one that came first makes room: whoever floods a port with addresses must go on doing so.
            self.newest = (self.newest + 1) % CANDIDATES;
            self.candidates[self.newest] = Some(Candidate { from, ssrc, next: sequence.wrapping_add(1), run: 1 });
            1
        };
        if run >= PROBATION && may_follow { self.accept(now, from, ssrc, sequence) } else { Verdict::Probation }
    }

    fn accept(&mut self, now: Now, from: SocketAddr, ssrc: u32, sequence: u16) -> Verdict {
        self.accepted = Some(Stream { from, ssrc, highest: sequence, last: now });
        self.candidates = [None; CANDIDATES];
        self.unsettled = 0;
        Verdict::PlayAnew
    }

    /// Whoever sent in the accepted one's name is between its packets, so it begins anew.
    fn forget(&mut self, from: SocketAddr) {
        for candidate in &mut self.candidates {
            if candidate.is_some_and(|candidate| candidate.from == from) {
                *candidate = None;
            }
        }
    }
}

/// Whether loss and reordering cannot explain that this one comes after that one. RFC 3550 A.1
const fn is_jump(highest: u16, sequence: u16, most_ahead: u16) -> bool {
    let ahead = sequence.wrapping_sub(highest);
    ahead >= most_ahead && ahead < MOST_BEHIND.wrapping_neg()
}

/// On a socket for both families, IPv4 comes as IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn is_nowhere(address: SocketAddr) -> bool {
    address.ip().is_unspecified() || address.port() == 0
}

/// MAX_DROPOUT of RFC 3550 A.1: a minute at 20 ms a packet.
const MOST_AHEAD: u16 = 3_000;
/// An event that is further ahead is believed all the same, but is no reason to take the next audio for late: two seconds
/// of loss are rarer than peers that count the two apart.
const MOST_AHEAD_OF_AN_EVENT: u16 = 100;
/// MAX_MISORDER of RFC 3550 A.1.
const MOST_BEHIND: u16 = 100;

/// How many streams are on probation at a time.
const CANDIDATES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Foreign, Play, PlayAnew, Probation, Stray};

    const SDP: &str = "192.0.2.10:4000";
    const NAT: &str = "203.0.113.7:62000";

    /// Sources and a clock that goes on by 20 ms a packet.
    struct Scene {
        sources: Sources,
        now: Now,
    }

    impl Scene {
        fn new(learn: bool) -> Self {
            Self { sources: Sources::new(at(SDP), learn), now: Now::from_secs(1) }
        }

        fn hear(&mut self, from: &str, ssrc: u32, sequences: core::ops::Range<u16>) -> Vec<Verdict> {
            sequences
                .map(|sequence| {
                    self.now += Now::from_millis(20);
                    self.sources.admit(self.now, at(from), ssrc, sequence, false)
                })
                .collect()
        }
    }

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap_or_else(|_| panic!("{address}"))
    }

    #[test]
    fn the_address_of_the_sdp_is_played_from_its_first_packet() {
        let mut scene = Scene::new(false);
        assert_eq!(scene.hear(SDP, 1, 65_534..65_535), [PlayAnew]);
        assert_eq!(scene.hear(SDP, 1, 65_535..65_535), []);
        assert_eq!(scene.sources.admit(scene.now, at(SDP), 1, 2, false), Play);
        assert_eq!(scene.sources.admit(scene.now, at(SDP), 1, 65_535, false), Play, "late, and the buffer's business");
        assert_eq!(scene.sources.admit(scene.now, at("[::ffff:192.0.2.10]:4000"), 1, 3, false), Play);
        assert_eq!(scene.sources.peer(), Some(at(SDP)));
    }

    #[test]
    fn another_host_is_never_played_where_no_nat_is_expected() {
        let mut scene = Scene::new(false);
        assert!(scene.hear(NAT, 1, 0..200).iter().all(|&verdict| verdict == Foreign));
        assert_eq!(scene.hear(SDP, 1, 0..1), [PlayAnew]);
        assert!(scene.hear(NAT, 1, 1..200).iter().all(|&verdict| verdict == Foreign));
    }

    #[test]
    fn a_peer_that_sends_from_another_port_is_played_and_answered_as_its_sdp_says() {
        let mut scene = Scene::new(false);
        assert_eq!(scene.hear("192.0.2.10:4444", 1, 0..6), [Probation, Probation, Probation, PlayAnew, Play, Play]);
        assert_eq!(scene.sources.peer(), Some(at(SDP)));
    }

    #[test]
    fn behind_a_nat_four_packets_in_a_row_lock_the_address_and_we_answer_there() {
        let mut scene = Scene::new(true);
        assert_eq!(scene.hear(NAT, 1, 10..12), [Probation; 2]);
        assert_eq!(scene.hear(NAT, 1, 13..16), [Probation; 3], "one is missing");
        assert_eq!(scene.sources.peer(), Some(at(SDP)));
        assert_eq!(scene.hear(NAT, 1, 16..18), [PlayAnew, Play]);
        assert_eq!(scene.sources.peer(), Some(at(NAT)));
        // Locked: however long it is silent.
        scene.now += Now::from_secs(60);
        assert!(scene.hear("198.51.100.66:4000", 1, 18..400).iter().all(|&verdict| verdict == Foreign));
        assert_eq!(scene.hear(NAT, 1, 18..19), [Play]);
    }

    #[test]
    fn who_sends_beside_the_sdps_address_is_never_learned() {
        let mut scene = Scene::new(true);
        assert_eq!(scene.hear(NAT, 1, 0..3), [Probation; 3]);
        assert_eq!(scene.hear(SDP, 2, 0..1), [PlayAnew]);
        assert_eq!(scene.hear(NAT, 1, 3..10), [Foreign; 7]);
        scene.now += Now::from_secs(60);
        assert_eq!(scene.hear(NAT, 1, 10..17), [Foreign; 7]);
    }

    #[test]
    fn the_sdps_own_address_takes_over_from_a_learned_one() {
        let mut scene = Scene::new(true);
        scene.hear(NAT, 1, 0..10);
        for n in 0..3 {
            assert_eq!(scene.hear(SDP, 2, n..n + 1), [Probation]);
            assert_eq!(scene.hear(NAT, 1, 10 + n..11 + n), [Play]);
        }
        assert_eq!(scene.hear(SDP, 2, 3..5), [PlayAnew, Play]);
        assert_eq!(scene.hear(NAT, 1, 13..20), [Foreign; 7]);
        assert_eq!(scene.sources.peer(), Some(at(SDP)));
    }

    #[test]
    fn a_new_ssrc_is_played_once_the_old_one_is_silent() {
        let mut scene = Scene::new(false);
        scene.hear(SDP, 1, 0..10);
        assert_eq!(scene.hear(SDP, 2, 500..506), [Probation, Probation, Probation, PlayAnew, Play, Play]);
        assert_eq!(scene.sources.ssrc(), Some(2));
        assert_eq!(scene.hear(SDP, 1, 10..12), [Probation; 2], "the old one has no more rights than any other");
    }

    #[test]
    fn what_is_forged_between_the_packets_of_the_peer_is_not_played() {
        let mut scene = Scene::new(true);
        scene.hear(SDP, 1, 0..10);
        for n in 10..60 {
            for forged in 0..20_u16 {
                let verdict = scene.sources.admit(scene.now, at(SDP), 666, n * 20 + forged, false);
                assert_eq!(verdict, Probation);
            }
            assert_eq!(scene.hear(SDP, 1, n..n + 1), [Play]);
        }
    }

    #[test]
    fn a_replay_from_long_ago_is_stray_and_a_sender_that_began_anew_is_not_for_long() {
        let mut scene = Scene::new(false);
        scene.hear(SDP, 1, 0..1_000);
        for n in 0..100 {
            assert_eq!(scene.sources.admit(scene.now, at(SDP), 1, 100 + n, false), Stray);
            assert_eq!(scene.hear(SDP, 1, 1_000 + n..1_001 + n), [Play]);
        }
        assert_eq!(scene.hear(SDP, 1, 30_000..30_005), [Stray, Stray, Stray, PlayAnew, Play]);
        assert_eq!(scene.sources.admit(scene.now, at(SDP), 1, 9, true), Stray, "an event, counted apart");
        // A gap that loss explains is no jump.
        assert_eq!(scene.hear(SDP, 1, 30_005 + 2_900..30_005 + 2_901), [Play]);
    }

    #[test]
    fn an_event_that_is_counted_apart_does_not_make_the_next_audio_late() {
        let mut scene = Scene::new(false);
        scene.hear(SDP, 1, 0..50);
        for n in 0..6 {
            assert_eq!(scene.sources.admit(scene.now, at(SDP), 1, 2_000 + n, true), Stray);
        }
        assert_eq!(scene.hear(SDP, 1, 50..60), [Play; 10]);
        // Behind some loss it is in its place.
        assert_eq!(scene.sources.admit(scene.now, at(SDP), 1, 100, true), Play);
        assert_eq!(scene.hear(SDP, 1, 101..102), [Play]);
    }

    #[test]
    fn a_re_invite_to_another_address_begins_anew_and_hold_does_not() {
        let mut scene = Scene::new(false);
        scene.hear(SDP, 1, 0..10);
        scene.sources.renegotiate(at("0.0.0.0:4000"), false);
        assert_eq!(scene.sources.peer(), Some(at(SDP)));
        scene.sources.renegotiate(at(SDP), false);
        assert_eq!(scene.hear(SDP, 1, 10..11), [Play]);

        scene.sources.renegotiate(at("192.0.2.99:5000"), false);
        assert_eq!(scene.sources.peer(), Some(at("192.0.2.99:5000")));
        assert_eq!(scene.hear(SDP, 1, 11..20), [Foreign; 9]);
        assert_eq!(scene.hear("192.0.2.99:5000", 9, 0..2), [PlayAnew, Play]);
    }

    #[test]
    fn after_a_re_invite_a_nat_may_have_another_port_until_the_old_one_goes_on() {
        const MOVED: &str = "203.0.113.7:62111";
        let mut scene = Scene::new(true);
        scene.hear(NAT, 1, 0..10);
        assert_eq!(scene.hear(MOVED, 1, 10..20), [Foreign; 10]);
        scene.sources.renegotiate(at(SDP), true);
        assert_eq!(scene.hear(MOVED, 1, 10..15), [Probation, Probation, Probation, PlayAnew, Play]);
        assert_eq!(scene.sources.peer(), Some(at(MOVED)));

        scene.sources.renegotiate(at(SDP), true);
        assert_eq!(scene.hear(MOVED, 1, 15..19), [Play; 4]);
        assert_eq!(scene.hear(NAT, 1, 20..30), [Foreign; 10]);
    }

    #[test]
    fn a_flood_of_addresses_keeps_nothing() {
        let mut scene = Scene::new(true);
        for n in 0..10_000_u32 {
            let from = SocketAddr::from((n.to_be_bytes(), 4_000));
            assert_eq!(scene.sources.admit(scene.now, from, n, 1, false), Probation);
        }
        assert_eq!(scene.hear(NAT, 1, 0..4)[3], PlayAnew);
    }
}
