//! AudioSocket, as messages and as a line: however the bytes arrive, they say the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::{
    leg::audiosocket::{
        is_digit,
        line::{Input, Line, MAX_MESSAGE},
        message::{BUFFER, Item, Reader, Violation},
        rate_of,
    },
    media::{Now, Rate, frame::Frame},
};
use trunkline_fuzz::Steer;

fuzz_target!(|data: &[u8]| {
    let Some((steer, bytes)) = Steer::split(data) else { return };
    let whole = read(None, bytes);
    assert_eq!(whole, read(Some(steer.clone()), bytes));

    let by_line = listen(None, steer.clone(), bytes);
    let in_pieces = listen(Some(steer.clone()), steer, bytes);
    // Of a message that is longer than the buffer, the line decides piece by piece what it is.
    if !whole.long {
        assert_eq!(by_line, in_pieces);
    }
});

/// What a reader told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    told: Vec<Told>,
    violation: Option<Violation>,
    unknown: u64,
    empty: u64,
    mid_message: bool,
    /// There was audio that the buffer is too small for.
    long: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Audio { kind: u8, bytes: Vec<u8>, whole: bool },
    Other(String),
}

fn read(mut steer: Option<Steer>, mut bytes: &[u8]) -> Read {
    let mut reader = Reader::new();
    let mut read = Read::default();
    loop {
        loop {
            let seen = reader.peek().ok().flatten().map(|item| place(&item));
            let item = match reader.peek() {
                Ok(Some(item)) => item,
                Ok(None) => break,
                Err(violation) => {
                    assert_eq!(reader.peek(), Err(violation), "once wrong, always wrong");
                    read.violation = Some(violation);
                    // What stands behind it is nobody's business.
                    return read;
                }
            };
            assert_eq!(seen, Some(place(&item)), "the same until it is let go");
            on_item(&mut read, item);
            reader.advance();
        }
        if bytes.is_empty() {
            break;
        }
        assert!(!reader.spare().is_empty(), "no item and no room is a dead end");
        let piece = match &mut steer {
            Some(steer) => steer.piece(&mut { bytes }),
            None => bytes,
        };
        let taken = reader.feed(piece);
        assert!(0 < taken && taken <= piece.len());
        bytes = &bytes[taken..];
    }
    Read { unknown: reader.unknown(), empty: reader.empty(), mid_message: reader.is_mid_message(), ..read }
}

/// Where its bytes stand, which is cheaper to compare than what they are; for all but audio, what it is.
fn place(item: &Item<'_>) -> (*const u8, usize, String) {
    match item {
        Item::Audio { bytes, .. } => (bytes.as_ptr(), bytes.len(), String::new()),
        other => (core::ptr::null(), 0, format!("{other:?}")),
    }
}

fn on_item(read: &mut Read, item: Item<'_>) {
    let Item::Audio { kind, bytes, last, message_len } = item else {
        if let Item::Dtmf(digit) = item {
            assert!(is_digit(digit));
        }
        read.told.push(Told::Other(format!("{item:?}")));
        return;
    };
    assert!(rate_of(kind).is_some() && !bytes.is_empty() && bytes.len() <= BUFFER);
    assert!(last || bytes.len() % 2 == 0, "no sample is cut");
    read.long |= message_len > BUFFER;
    let sum = match read.told.last_mut() {
        Some(Told::Audio { kind: before, bytes: begun, whole }) if !*whole => {
            assert_eq!(kind, *before);
            begun.extend(bytes);
            *whole = last;
            begun.len()
        }
        _ => {
            read.told.push(Told::Audio { kind, bytes: bytes.to_vec(), whole: last });
            bytes.len()
        }
    };
    assert!(if last { sum == message_len } else { sum < message_len });
}

#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Audio(Rate, Vec<i16>),
    Other(String),
}

/// What a line told: audio of one rate in one, and the same complaint once.
fn listen(mut cut: Option<Steer>, mut pace: Steer, mut bytes: &[u8]) -> Vec<Heard> {
    let mut line = Line::new(Reader::new());
    let mut heard: Vec<Heard> = vec![];
    let mut now = Now::from_secs(1);
    let pace = Now::from_millis(pace.up_to(40) as u64);
    loop {
        loop {
            match line.poll(now) {
                Ok(None) => break,
                Ok(Some(Input::Audio(rate, samples))) => {
                    assert!(samples.len() <= BUFFER);
                    match heard.last_mut() {
                        Some(Heard::Audio(before, all)) if *before == rate => all.extend(samples),
                        _ => heard.push(Heard::Audio(rate, samples.to_vec())),
                    }
                }
                Ok(Some(other)) => {
                    let other = Heard::Other(format!("{other:?}"));
                    if heard.last() != Some(&other) {
                        heard.push(other);
                    }
                }
                Err(violation) => {
                    assert_eq!(line.poll(now), Err(violation));
                    return heard;
                }
            }
            // Time goes by what was told, so that it does not depend on the pieces.
            now += pace;
            answer(&line);
        }
        if bytes.is_empty() {
            return heard;
        }
        let piece = match &mut cut {
            Some(steer) => steer.piece(&mut { bytes }),
            None => bytes,
        };
        let taken = line.feed(piece);
        assert!(0 < taken && taken <= piece.len());
        bytes = &bytes[taken..];
    }
}

/// What the line answers is a message of audio that we would read as one.
fn answer(line: &Line) {
    let mut frame = Frame::silence(line.rate());
    frame.iter_mut().zip(1..).for_each(|(sample, i)| *sample = i);
    let mut space = [0; MAX_MESSAGE];
    let message = line.write_frame(&frame, &mut space);
    let mut reader = Reader::new();
    assert_eq!(reader.feed(message), message.len());
    let Ok(Some(Item::Audio { bytes, last: true, .. })) = reader.peek() else { panic!("{message:?}") };
    assert!(bytes.len() == frame.len() || bytes.len() == 2 * frame.len());
}
