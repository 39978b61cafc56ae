//! Two lines that call each other through a network that loses, doubles and reorders.

use std::collections::BTreeMap;

use super::*;
use crate::leg::sip::leg::Transferred;

/// Two lines, a network between them, and somebody at each who does what a daemon would.
struct Network {
    sides: [Side; 2],
    /// What is under way: when it arrives, its number, to whom, and what.
    under_way: BTreeMap<(Now, u64), (usize, Vec<u8>)>,
    dice: Dice,
    now: Now,
    sent: u64,
    /// In a hundred.
    lost: u64,
    doubled: u64,
    /// The longest delay (ms); the shortest is 1.
    delay: u64,
}

struct Side {
    line: Line,
    ups: usize,
    digits: Vec<u8>,
    /// The end of each leg.
    ends: BTreeMap<LegId, String>,
    legs: Vec<LegId>,
    /// When the phone that rings is picked up.
    accept: BTreeMap<LegId, Now>,
    rings_for: Now,
}

const ADDRESSES: [&str; 2] = ["192.0.2.20:5060", "192.0.2.30:5060"];

impl Network {
    fn new(seed: u64, change: impl Fn(&mut LineSetup)) -> Self {
        let side = |host: &str, seed| {
            let mut setup = setup(host, seed);
            change(&mut setup);
            let line = Line::new(setup);
            let (ends, accept) = (BTreeMap::new(), BTreeMap::new());
            Side { line, ups: 0, digits: vec![], ends, legs: vec![], accept, rings_for: secs(1.0) }
        };
        Self {
            sides: [side("192.0.2.20", seed), side("192.0.2.30", seed + 7)],
            under_way: BTreeMap::new(),
            dice: Dice::new(seed),
            now: secs(1.0),
            sent: 0,
            lost: 10,
            doubled: 5,
            delay: 120,
        }
    }

    fn flow_to(side: usize) -> Flow {
        Flow::udp(0, ADDRESSES[side].parse().expect("an address"))
    }

    fn call(&mut self) -> LegId {
        let uri = "sip:trunkline@192.0.2.30".parse().expect("a URI");
        let leg = self.sides[0].line.call(self.now, uri, Self::flow_to(1), rtp()).expect("there is room");
        self.sides[0].legs.push(leg);
        self.settle();
        leg
    }

    fn run(&mut self, for_secs: f64) {
        let end = self.now + secs(for_secs);
        loop {
            let arrives = self.under_way.first_key_value().map(|(&(at, _), _)| at);
            let due = self
                .sides
                .iter()
                .flat_map(|side| side.line.poll_timeout().into_iter().chain(side.accept.values().copied()));
            let Some(at) = due.chain(arrives).min().filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            while let Some(entry) = self.under_way.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let (to, bytes) = entry.remove();
                self.sides[to].line.handle_message(self.now, Self::flow_to(1 - to), parse(&bytes));
                self.settle();
            }
            for side in &mut self.sides {
                let ready: Vec<LegId> =
                    side.accept.iter().filter(|(_, at)| **at <= self.now).map(|(leg, _)| *leg).collect();
                for leg in ready {
                    side.accept.remove(&leg);
                    side.line.accept(self.now, leg);
                }
                side.line.handle_timeout(self.now);
            }
            self.settle();
        }
        self.now = end;
    }

    /// Fetches what both have to say and to tell.
    fn settle(&mut self) {
        for from in 0..2 {
            while let Some(event) = self.sides[from].line.poll_event() {
                self.sides[from].on_event(self.now, event);
            }
            while let Some(transmit) = self.sides[from].line.poll_transmit() {
                assert_eq!(transmit.flow.remote, Self::flow_to(1 - from).remote);
                let copies =
                    u64::from(self.dice.below(100) >= self.lost) + u64::from(self.dice.below(100) < self.doubled);
                for _ in 0..copies {
                    self.sent += 1;
                    let at = self.now + Now::from_millis(1 + self.dice.below(self.delay));
                    self.under_way.insert((at, self.sent), (1 - from, transmit.bytes.to_vec()));
                }
            }
        }
    }

    fn hang_up(&mut self, side: usize) {
        for leg in self.sides[side].legs.clone() {
            self.sides[side].line.hang_up(self.now, leg);
        }
        self.settle();
    }

    /// All is over on both sides, and each leg was told so once.
    fn assert_over(&mut self, seed: u64) {
        self.run(400.0);
        for side in &self.sides {
            assert!(side.line.is_empty(), "seed {seed}");
            assert!(side.line.transactions.is_empty(), "seed {seed}");
            assert!(side.legs.iter().all(|leg| side.ends.contains_key(leg)), "seed {seed}: {:?}", side.ends);
        }
    }
}

impl Side {
    fn on_event(&mut self, now: Now, event: Event) {
        let leg = match &event {
            Event::Invited(invitation) => invitation.leg,
            Event::NotTaken { .. } | Event::Reach(_) | Event::Registration(_) => return,
            Event::Early { leg, .. }
            | Event::Up { leg, .. }
            | Event::Changed { leg, .. }
            | Event::Digit { leg, .. }
            | Event::Transfer { leg, .. }
            | Event::Ended { leg, .. } => *leg,
        };
        assert!(!self.ends.contains_key(&leg), "{event:?} after {:?}", self.ends);
        match event {
            Event::Invited(_) => {
                self.legs.push(leg);
                self.line.ring(now, leg, rtp());
                self.accept.insert(leg, now + self.rings_for);
            }
            Event::Up { .. } => self.ups += 1,
            Event::Digit { digit, .. } => self.digits.push(digit),
            Event::Ended { why, .. } => {
                self.accept.remove(&leg);
                self.ends.insert(leg, why.to_string());
            }
            Event::Transfer { what: Transferred::Trying | Transferred::Done | Transferred::Failed(..), .. }
            | Event::Early { .. }
            | Event::Changed { .. }
            | Event::NotTaken { .. }
            | Event::Reach(_)
            | Event::Registration(_) => {}
        }
    }
}

#[test]
fn a_network_that_loses_a_tenth_loses_no_call() {
    for seed in 0..200 {
        let mut network = Network::new(seed, |_| {});
        network.call();
        network.run(40.0);
        assert_eq!(network.sides.each_ref().map(|side| side.ups), [1, 1], "seed {seed}");
        network.hang_up((seed % 2) as usize);
        network.assert_over(seed);
        let ends = network.sides.each_ref().map(|side| side.ends.values().next().cloned().unwrap_or_default());
        let (ours, theirs) = ((seed % 2) as usize, 1 - (seed % 2) as usize);
        assert_eq!((ends[ours].as_str(), ends[theirs].as_str()), ("we hung up", "the peer hung up"), "seed {seed}");
    }
}

#[test]
fn keys_arrive_in_order_and_once_however_bad_the_network() {
    for seed in 0..50 {
        let mut network = Network::new(seed, |_| {});
        let leg = network.call();
        network.run(40.0);
        for digit in *b"1123*4#" {
            network.sides[0].line.send_digit(network.now, leg, digit);
        }
        network.run(120.0);
        assert_eq!(network.sides[1].digits, b"1123*4#", "seed {seed}");
    }
}

#[test]
fn both_hang_up_at_once() {
    for seed in 0..100 {
        let mut network = Network::new(seed, |_| {});
        network.call();
        network.run(40.0);
        network.hang_up(0);
        network.hang_up(1);
        network.assert_over(seed);
        assert!(network.sides.iter().all(|side| side.ends.values().all(|why| why == "we hung up")), "seed {seed}");
    }
}

#[test]
fn a_call_that_is_refreshed_every_minute_lasts_half_an_hour_of_bad_network() {
    for seed in 0..20 {
        let mut network = Network::new(seed, |setup| setup.leg.session_expires = secs(180.0));
        network.call();
        network.run(1800.0);
        assert!(network.sides.iter().all(|side| side.ends.is_empty()), "seed {seed}");
        network.hang_up(1);
        network.assert_over(seed);
    }
}

#[test]
fn a_call_whose_far_end_vanishes_is_over_on_both_sides_in_time() {
    for seed in 0..20 {
        let mut network = Network::new(seed, |setup| setup.leg.session_expires = secs(180.0));
        network.call();
        network.run(40.0);
        network.lost = 100;
        network.doubled = 0;
        network.assert_over(seed);
    }
}

#[test]
fn a_caller_that_gives_up_at_any_moment_leaves_nothing_behind() {
    for seed in 0..400 {
        let mut network = Network::new(seed, |_| {});
        network.lost = seed % 40;
        network.call();
        // Before, while and after the phone is picked up.
        network.run(seed as f64 * 0.007);
        network.hang_up(0);
        network.assert_over(seed);
    }
}

#[test]
fn a_phone_that_nobody_picks_up_in_time_is_one_call_less_on_both_sides() {
    for seed in 0..50 {
        let mut network = Network::new(seed, |_| {});
        // As the caller gives up.
        network.sides[1].rings_for = secs(19.8);
        network.call();
        network.run(30.0);
        // Where the phone was the faster.
        network.hang_up(0);
        network.assert_over(seed);
    }
}

#[test]
fn a_network_that_loses_half_ends_every_call_and_tells_it_once() {
    for seed in 0..200 {
        let mut network = Network::new(seed, |setup| setup.leg.session_expires = secs(90.0));
        network.lost = 50;
        network.delay = 3000;
        for _ in 0..3 {
            let leg = network.call();
            network.run(7.0);
            network.sides[0].line.transfer(network.now, leg, "sip:2000@192.0.2.30".into());
            network.sides[0].line.send_digit(network.now, leg, b'5');
            network.run(30.0);
        }
        network.hang_up((seed % 2) as usize);
        network.run(10.0);
        network.hang_up(1 - (seed % 2) as usize);
        network.assert_over(seed);
    }
}
