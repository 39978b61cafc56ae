//! WebSocket frames, from either side: however the bytes arrive and however little of a piece is taken at a time, the
//! messages are the same. What was understood is sent on to a second wire, which has to understand the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::leg::websocket::{
    utf8::Utf8Check,
    wire::{In, Kind, MAX_CONTROL, Op, Side, Violation, Wire},
};
use trunkline_fuzz::Steer;

fuzz_target!(|data: &[u8]| {
    let Some((mut steer, bytes)) = Steer::split(data) else { return };
    utf8(steer.clone(), bytes);
    let limit = steer.one_of(&[0, 125, 1_000, 65_536, 1 << 20]);
    for side in [Side::Client, Side::Server] {
        let whole = read(side, limit, None, bytes);
        let pieces = read(side, limit, Some(steer.clone()), bytes);
        assert_eq!(
            (&whole.messages, whole.violation, whole.closed),
            (&pieces.messages, pieces.violation, pieces.closed)
        );
        if whole.violation.is_none() {
            assert_eq!(whole.begun, pieces.begun);
        }
        pass_on(side, &whole.messages, &mut steer);
    }
});

fn utf8(mut steer: Steer, bytes: &[u8]) {
    let mut check = Utf8Check::new();
    let mut rest = bytes;
    let mut good = true;
    while good && !rest.is_empty() {
        good = check.push(steer.piece(&mut rest));
    }
    assert_eq!(good && check.finish(), core::str::from_utf8(bytes).is_ok());
}

#[derive(Debug, PartialEq, Eq)]
enum Message {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

#[derive(Default)]
struct Read {
    messages: Vec<Message>,
    /// What is there of a message whose end never came.
    begun: Option<Vec<u8>>,
    violation: Option<Violation>,
    closed: bool,
}

fn read(side: Side, limit: u64, mut steer: Option<Steer>, mut bytes: &[u8]) -> Read {
    let mut wire = Wire::new(side, limit, entropy);
    let mut read = Read::default();
    loop {
        loop {
            let seen = wire.peek().ok().flatten().map(|input| place(&input));
            let input = match wire.peek() {
                Ok(Some(input)) => input,
                Ok(None) => break,
                Err(violation) => {
                    assert_eq!(wire.peek(), Err(violation), "once broken, always broken");
                    assert!(matches!(violation.code(), 1002 | 1007 | 1009));
                    assert!(wire.feed(bytes) <= bytes.len());
                    read.violation = Some(violation);
                    return read;
                }
            };
            assert_eq!(seen, Some(place(&input)), "the same until it is taken");
            let n = on_input(&mut read, input, steer.as_mut(), limit);
            if matches!(input, In::Ping(_)) {
                assert!(wire.pong().is_ok());
                let n = wire.out().len();
                wire.written(n);
            }
            wire.advance(n);
            read.closed = wire.close_received();
        }
        if bytes.is_empty() || read.closed {
            return read;
        }
        let piece = match &mut steer {
            Some(steer) => steer.piece(&mut { bytes }),
            None => bytes,
        };
        let taken = wire.feed(piece);
        assert!(0 < taken && taken <= piece.len(), "nothing to give and no room is a dead end");
        bytes = &bytes[taken..];
    }
}

/// Where its bytes stand, which is cheaper to compare than what they are, and whether a message ends with them.
fn place(input: &In<'_>) -> (*const u8, usize, bool) {
    match *input {
        In::Text(bytes) | In::Binary(bytes) | In::Ping(bytes) | In::Pong(bytes) => (bytes.as_ptr(), bytes.len(), true),
        In::Piece { bytes, last, .. } => (bytes.as_ptr(), bytes.len(), last),
        In::Close { reason, .. } => (reason.as_ptr(), reason.len(), true),
    }
}

/// Keeps what came; says how much of it is taken.
fn on_input(read: &mut Read, input: In<'_>, steer: Option<&mut Steer>, limit: u64) -> usize {
    match input {
        In::Text(text) => read.messages.push(Message::Text(text.to_vec())),
        In::Binary(bytes) => read.messages.push(Message::Binary(bytes.to_vec())),
        In::Ping(payload) => read.messages.push(Message::Ping(payload.to_vec())),
        In::Pong(payload) => read.messages.push(Message::Pong(payload.to_vec())),
        In::Close { code, reason } => read.messages.push(Message::Close(code, reason.to_owned())),
        In::Piece { kind, bytes, first, last } => {
            assert!(last || !bytes.is_empty());
            assert_eq!(first, read.begun.as_ref().is_none_or(Vec::is_empty));
            let n = steer.map_or(bytes.len(), |steer| steer.up_to(bytes.len()));
            let begun = read.begun.get_or_insert_default();
            begun.extend(&bytes[..n]);
            assert!(begun.len() as u64 <= limit);
            if last && n == bytes.len() {
                let whole = read.begun.take().unwrap_or_default();
                read.messages.push(if kind == Kind::Text { Message::Text(whole) } else { Message::Binary(whole) });
            }
            return n;
        }
    }
    if let Some(Message::Text(text)) = read.messages.last() {
        assert!(core::str::from_utf8(text).is_ok());
    }
    0
}

/// What one side says, the other hears.
fn pass_on(side: Side, messages: &[Message], steer: &mut Steer) {
    let other = if side == Side::Client { Side::Server } else { Side::Client };
    let (mut from, mut to) = (Wire::new(side, 0, entropy), Wire::new(other, u64::MAX, entropy));
    for message in messages {
        let (op, payload) = match message {
            Message::Text(text) => (Op::Text, text),
            Message::Binary(bytes) => (Op::Binary, bytes),
            Message::Ping(payload) => (Op::Ping, payload),
            Message::Pong(payload) => (Op::Pong, payload),
            Message::Close(code, reason) => {
                from.push_close(code.unwrap_or(1005), reason);
                assert!(from.close_sent());
                assert_eq!(hear(&mut from, &mut to, steer), [Message::Close(*code, reason.clone())]);
                assert!(from.push(Op::Text, b"").is_err() && from.out().is_empty(), "nothing after a close");
                return;
            }
        };
        let room = from.room();
        let control = matches!(op, Op::Ping | Op::Pong);
        match from.push(op, payload) {
            Ok(()) => assert!(payload.len() <= room),
            Err(_) => {
                assert!(payload.len() > room || control && payload.len() > MAX_CONTROL);
                assert!(from.out().is_empty());
                continue;
            }
        }
        assert_eq!(hear(&mut from, &mut to, steer), core::slice::from_ref(message));
    }
}

fn hear(from: &mut Wire, to: &mut Wire, steer: &mut Steer) -> Vec<Message> {
    let mut read = Read::default();
    while !from.out().is_empty() {
        let piece = 1 + steer.up_to(from.out().len() - 1);
        let taken = to.feed(&from.out()[..piece]);
        from.written(taken);
        while let Some(input) = to.peek().unwrap_or_else(|violation| panic!("{violation}")) {
            let n = on_input(&mut read, input, None, u64::MAX);
            to.advance(n);
        }
    }
    read.messages
}

fn entropy(block: &mut [u8]) {
    block.iter_mut().zip((0..=u8::MAX).cycle()).for_each(|(byte, value)| *byte = value.wrapping_mul(167));
}
