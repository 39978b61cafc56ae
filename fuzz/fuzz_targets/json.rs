//! JSON: members lie in the text in order, a text that serde_json takes is taken and says the same, and a long message
//! falls apart alike however it arrives.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::dialect::{
    Carrier, Malformed,
    json::{Key, Members, Run, Splitter, Value},
};
use trunkline_fuzz::Steer;

fuzz_target!(|data: &[u8]| {
    let Some((steer, text)) = Steer::split(data) else { return };
    let walked = Members::object(text).and_then(|members| walk(members, text, 0));
    let known = serde_json::from_slice::<serde_json::Value>(text);
    if let Ok(known @ serde_json::Value::Object(_)) = &known {
        match walked {
            Ok(()) => agree(text, known),
            Err(malformed) => assert_eq!(malformed, Malformed::TooDeep, "serde_json takes it"),
        }
    }

    let whole = part(None, text);
    assert_eq!(whole, part(Some(steer), text));
    if let Ok(parted) = &whole {
        let mut together = parted.text.clone();
        together.splice(parted.at..parted.at, parted.audio.iter().copied());
        assert!(together == text, "nothing is lost and nothing is made up");
        if parted.finished {
            // What is left is as well formed as the text was.
            let left = Members::object(&parted.text).and_then(|members| walk(members, &parted.text, 0));
            assert!(left.is_ok() || walked.is_err(), "{left:?}");
        }
    }
});

/// Every member, and those of objects in it: each lies behind the one before it.
fn walk(mut members: Members<'_>, text: &[u8], depth: usize) -> Result<(), Malformed> {
    let mut at = text.as_ptr();
    loop {
        let (key, value) = match members.next() {
            Ok(Some(member)) => member,
            Ok(None) => {
                assert_eq!(members.next(), Ok(None));
                return Ok(());
            }
            Err(malformed) => {
                assert_eq!(members.next(), Err(malformed));
                return Err(malformed);
            }
        };
        let mut name = heapless_text();
        let _ = (key.is(b"payload"), key.is(b"samples"), key.is("\u{1f4de}".as_bytes()));
        value.text(&mut name);
        assert!(!name.chars().any(char::is_control));
        if let Some(plain) = value.plain() {
            assert!(value.is(plain.as_bytes()));
        }
        let _ = value.uint();
        if let Value::Str(bytes) | Value::Num(bytes) | Value::Object(bytes) | Value::Array(bytes) = value {
            let inside = bytes.as_ptr_range();
            assert!(at <= inside.start && inside.end <= text.as_ptr_range().end);
            at = inside.end;
        }
        if depth < 70
            && let Some(members) = value.object()
        {
            walk(members, text, depth + 1)?;
        }
    }
}

/// What serde_json reads, we read.
fn agree(text: &[u8], known: &serde_json::Value) {
    for (name, known) in known.as_object().into_iter().flatten() {
        // Of members with the same name serde_json shows the last.
        let mut found: Option<Value<'_>> = None;
        let Ok(mut members) = Members::object(text) else { return };
        while let Ok(Some((key, value))) = members.next() {
            if says(&key, name) {
                found = Some(value);
            }
        }
        let Some(found) = found else { panic!("no member {name:?}") };
        match known {
            serde_json::Value::Null => assert_eq!(found, Value::Null),
            serde_json::Value::Bool(known) => assert_eq!(found, Value::Bool(*known)),
            serde_json::Value::Number(number) => {
                assert!(matches!(found, Value::Num(_)));
                if let Some(number) = number.as_u64().filter(|&number| number < 10_u64.pow(19)) {
                    assert_eq!(found.uint(), Some(number));
                }
            }
            serde_json::Value::String(known) => {
                assert!(matches!(found, Value::Str(_)) && found.is(known.as_bytes()));
                let mut text = heapless_text();
                found.text(&mut text);
                let known: String = known.chars().filter(|c| !c.is_control()).collect();
                assert!(known.starts_with(text.as_str()) && (known.len() == text.len() || text.len() > 128 - 4));
            }
            serde_json::Value::Array(_) => assert!(found.array().is_some()),
            serde_json::Value::Object(_) => {
                if let Value::Object(text) = found {
                    agree(text, known);
                } else {
                    panic!("{found:?}");
                }
            }
        }
    }
}

fn says(key: &Key<'_>, name: &str) -> bool {
    key.is(name.as_bytes())
}

fn heapless_text() -> trunkline::dialect::Text {
    trunkline::dialect::Text::new()
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Parted {
    text: Vec<u8>,
    audio: Vec<u8>,
    /// Where in the text the audio was.
    at: usize,
    ends: usize,
    finished: bool,
}

fn part(mut steer: Option<Steer>, mut text: &[u8]) -> Result<Parted, Malformed> {
    let mut splitter = Splitter::new();
    let mut parted = Parted::default();
    while !text.is_empty() {
        let mut piece = match &mut steer {
            Some(steer) => steer.piece(&mut text),
            None => core::mem::take(&mut text),
        };
        while !piece.is_empty() {
            let step = splitter.split(piece, |key, depth| match (key, depth) {
                (b"samples", 2) => Some(Carrier::Array),
                (b"payload", ..=2) => Some(Carrier::Base64),
                _ => None,
            })?;
            let (run, rest) = piece.split_at(step.consumed);
            match step.run {
                Run::Text => {
                    assert!(!run.is_empty());
                    parted.text.extend(run);
                }
                Run::Audio(carrier) => {
                    assert!(!run.is_empty() && parted.ends == 0);
                    assert!(carrier != Carrier::Array || !run.contains(&b']'));
                    if parted.audio.is_empty() {
                        parted.at = parted.text.len();
                    }
                    parted.audio.extend(run);
                }
                Run::AudioEnd => {
                    assert!(run.is_empty());
                    parted.ends += 1;
                }
            }
            piece = rest;
        }
    }
    parted.finished = splitter.finish().is_ok();
    Ok(parted)
}
