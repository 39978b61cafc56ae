//! The first messages of a vendor, one a line, or any bytes at all: however they arrive, the call that begins is the
//! same, and none of its bytes is lost.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::{
    dialect::{Direction, Facts, NAMES, Options, rates},
    leg::websocket::{
        welcome::{End, Expected, Step, Welcome},
        wire::Side,
    },
    media::Rate,
};
use trunkline_fuzz::{Steer, frame};

fuzz_target!(|data: &[u8]| {
    let Some((mut steer, rest)) = Steer::split(data) else { return };
    let options = Options::default();
    let dialect = if steer.one_of(&[false, true]) { None } else { Some(steer.one_of(NAMES)) };
    let expected = Expected {
        side: Side::Server,
        dialect,
        tie_break: steer.one_of(&["exotel", "rtaa"]),
        rate: None,
        options: &options,
        needs_start: steer.one_of(&[false, true]),
    };
    let mut bytes = vec![];
    if steer.up_to(3) == 0 {
        bytes.extend(rest);
    } else {
        for text in rest.split(|&byte| byte == b'\n') {
            let opcode = if text.starts_with(b"{") { TEXT } else { BINARY };
            frame(opcode, true, true, text, &mut bytes);
        }
    }
    let whole = begin(&expected, None, &bytes);
    assert_eq!(whole, begin(&expected, Some(steer), &bytes));
});

/// What became of it; `None`: it waits for more.
#[derive(Debug, PartialEq, Eq)]
enum Became {
    Call { dialect: &'static str, facts: Facts, rate: Rate, direction: Direction },
    Over(End),
}

fn begin(expected: &Expected<'_>, mut steer: Option<Steer>, bytes: &[u8]) -> Option<Became> {
    let mut welcome = Welcome::new(expected);
    let mut rest = bytes;
    loop {
        match welcome.handle() {
            Step::Wait => {}
            Step::Begun(start) => {
                let read = &bytes[..bytes.len() - rest.len()];
                // Pings that came before the first message are done with.
                assert!(read.ends_with(&start.raw), "what was read goes on");
                assert!(expected.dialect.is_none_or(|name| name == start.dialect));
                assert!(rates(start.dialect).contains(&start.rate), "{:?}", start.rate);
                let (dialect, facts, rate, direction) = (start.dialect, start.facts, start.rate, start.direction);
                return Some(Became::Call { dialect, facts, rate, direction });
            }
            Step::Over(end) => {
                assert!(!welcome.out().is_empty(), "it is told goodbye");
                return Some(Became::Over(end));
            }
        }
        if rest.is_empty() {
            return None;
        }
        let n = welcome.out().len();
        welcome.written(n);
        let spare = welcome.spare();
        assert!(!spare.is_empty(), "it waits, and takes nothing");
        let most = match &mut steer {
            Some(steer) => steer.piece(&mut { rest }).len(),
            None => rest.len(),
        };
        let n = most.min(spare.len());
        spare[..n].copy_from_slice(&rest[..n]);
        welcome.filled(n);
        rest = &rest[n..];
    }
}

const TEXT: u8 = 1;
const BINARY: u8 = 2;
