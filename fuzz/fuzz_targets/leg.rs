//! A WebSocket leg from end to end, in both roles and all dialects, with a sink whose room varies.
//!
//! Half of the inputs are raw bytes of a peer. The others are messages, one a line, each sent whole to one leg and as the
//! steering bytes say to another: in fragments, as binary, with pings between, in pieces of any size. Where the second
//! leg understands a message, it must hear what the first heard.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::{
    dialect::{self, NAMES, OptionValue, Options, Role, Say, StopReason},
    leg::websocket::{
        leg::{Flow, Leg, Over, Setup, Tally},
        wire::Side,
    },
    media::{Now, Rate},
};
use trunkline_fuzz::{Ears, Steer, facts, frame};

fuzz_target!(|data: &[u8]| {
    let Some((mut steer, rest)) = Steer::split(data) else { return };
    let scene = Scene {
        name: steer.one_of(NAMES),
        role: steer.one_of(&[Role::Vendor, Role::Agent]),
        rate: steer.one_of(&Rate::ALL),
    };
    if steer.up_to(1) == 0 { scene.junk(&mut steer, rest) } else { scene.messages(&mut steer, rest) }
});

struct Scene {
    name: &'static str,
    role: Role,
    /// Of the sink.
    rate: Rate,
}

impl Scene {
    fn leg(&self, role: Role) -> Leg {
        let mut options = Options::default();
        let _ = options.set("ozonetel", "seqid", OptionValue::Bool(true));
        let dialect = dialect::open(self.name, role, None, Rate::Hz8000, &options);
        Leg::new(Setup {
            side: side(role),
            dialect: dialect.unwrap_or_else(|| panic!("{} is a dialect", self.name)),
            facts: facts(),
            rate: self.rate,
            now: Now::ZERO,
            epoch_ms: 1_767_225_600_000,
            ping_every: Now::from_secs(20),
        })
    }

    /// Any bytes at all: nothing but order and room are asked for.
    fn junk(&self, steer: &mut Steer, mut bytes: &[u8]) {
        let mut leg = self.leg(self.role);
        let mut ears = Ears::new(self.rate, steer.up_to(ROOM));
        while !bytes.is_empty() {
            let mut piece = steer.piece(&mut bytes);
            if listen(&mut leg, &mut ears, &mut piece, steer).is_err() {
                assert!(!leg.out().is_empty(), "a close is answered");
                return;
            }
        }
    }

    fn messages(&self, steer: &mut Steer, texts: &[u8]) {
        let (mut plain, mut cut) = (self.leg(self.role), self.leg(self.role));
        let mut by_plain = Ears::new(self.rate, usize::MAX / 2);
        let mut by_cut = Ears::new(self.rate, steer.up_to(ROOM));
        let masked = side(self.role) == Side::Server;
        for text in texts.split(|&byte| byte == b'\n') {
            let opcode = if self.name == "binary" || steer.up_to(3) == 0 { BINARY } else { TEXT };
            let before = [plain.tally(), cut.tally()];
            let mut whole = vec![];
            frame(opcode, true, masked, text, &mut whole);
            let heard = listen(&mut plain, &mut by_plain, &mut &whole[..], &mut steer.clone());

            let mut pieces = fragments(steer, opcode, masked, text);
            let mut rest = &pieces[..];
            let mut also_heard = Ok(());
            while also_heard.is_ok() && !rest.is_empty() {
                also_heard = listen(&mut cut, &mut by_cut, &mut steer.piece(&mut rest), steer);
            }
            pieces.clear();

            if heard != also_heard {
                // RTAA ends a call for text that is no JSON; in pieces it is dropped before the grammar sees it.
                assert!(matches!(heard, Err(Over::Grammar(_))), "{heard:?} and {also_heard:?}");
                return;
            }
            if heard.is_err() {
                return;
            }
            assert_eq!(by_cut.staged(), 0, "between messages nothing is in the balance");
            let after = [plain.tally(), cut.tally()];
            let alike = |get: fn(&Tally) -> u64| get(&after[0]) - get(&before[0]) == get(&after[1]) - get(&before[1]);
            assert!(after[1].malformed - before[1].malformed >= after[0].malformed - before[0].malformed);
            if !alike(|tally| tally.malformed) || !alike(|tally| tally.contradicted) {
                return; // understood in another way, and so will be what follows
            }
            assert_eq!(by_plain.said, by_cut.said);
            assert!(by_plain.heard == by_cut.heard, "{} and {}", by_plain.heard.len(), by_cut.heard.len());
            assert!(alike(|tally| tally.unknown) && alike(|tally| tally.skipped));
        }
        self.answer(cut, steer);
    }

    /// After whatever was heard, the leg speaks so that the other role understands.
    fn answer(&self, mut leg: Leg, steer: &mut Steer) {
        let other = if self.role == Role::Vendor { Role::Agent } else { Role::Vendor };
        let mut peer = self.leg(other);
        let mut ears = Ears::new(self.rate, usize::MAX / 2);
        let mut now = Now::from_secs(1);
        leg.open(now);
        let samples: Vec<i16> = (0..leg.chunk()).map(|i| (i as i16).wrapping_mul(7_919)).collect();
        for turn in 0..6 {
            now += Now::from_millis(20);
            let said = match turn {
                0 => leg.say(now, Say::Mark("m\u{e9}")),
                1 | 3 => leg.write_audio(now, &samples[..samples.len().min(1 + steer.up_to(samples.len()))]),
                2 => leg.say(now, Say::Heard("\\\"")),
                4 => leg.say(now, Say::Clear),
                _ => leg.say(now, Say::Stop(StopReason::CallerHungUp)),
            };
            // OpenAI's vendor is silent until its session is set up, and nobody sets it up here.
            let must = matches!(turn, 1 | 3) && leg.dialect().takes_audio();
            assert!(said || !must, "there is room for audio");
            while !leg.out().is_empty() {
                let n = 1 + steer.up_to(leg.out().len() - 1);
                let bytes = leg.out()[..n].to_vec();
                leg.written(n);
                assert_eq!(listen(&mut peer, &mut ears, &mut &bytes[..], steer), Ok(()));
            }
        }
        assert_eq!(peer.tally().malformed, 0);
        // What the leg answered while it had no room was thrown away by `listen`.
        assert!(peer.tally().messages_in <= leg.tally().messages_out);
    }
}

/// Gives these bytes to the leg. When it pauses, room is made; it may not pause for ever.
fn listen(leg: &mut Leg, ears: &mut Ears, bytes: &mut &[u8], steer: &mut Steer) -> Result<(), Over> {
    let now = Now::from_secs(2);
    loop {
        while leg.handle(now, ears)? == Flow::Paused {
            let n = leg.out().len();
            assert!(n > 0 || ears.room < ENOUGH, "with this much room there is nothing to wait for");
            leg.written(n);
            ears.room = ears.room.saturating_add(steer.up_to(ENOUGH));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let taken = leg.feed(bytes);
        assert!(taken > 0, "hungry, and takes nothing");
        *bytes = &bytes[taken..];
    }
}

/// One message in fragments, some of them empty, with pings between.
fn fragments(steer: &mut Steer, opcode: u8, masked: bool, text: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    let most = steer.one_of(&[1, 5, 100, usize::MAX - 1]);
    let mut opcode = opcode;
    let mut rest = text;
    loop {
        let n = rest.len().min(1 + steer.up_to(most - 1));
        let n = if steer.up_to(9) == 0 { 0 } else { n };
        let last = n == rest.len() && steer.up_to(3) > 0;
        frame(opcode, last, masked, &rest[..n], &mut out);
        rest = &rest[n..];
        opcode = CONTINUATION;
        if last {
            return out;
        }
        if steer.up_to(5) == 0 {
            frame(PING, true, masked, &[b'p'; 125][..steer.up_to(125)], &mut out);
        }
    }
}

const fn side(role: Role) -> Side {
    match role {
        Role::Vendor => Side::Client,
        Role::Agent => Side::Server,
    }
}

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const PING: u8 = 9;

/// The most room that a sink begins with (samples).
const ROOM: usize = 3_000;
/// Room for all that a full buffer can hold at the highest rate: at most a sample for every two bytes, times six.
const ENOUGH: usize = 8 * 1024 / 2 * 6 + 2_000;
