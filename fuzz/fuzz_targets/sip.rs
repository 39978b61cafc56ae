//! SIP, as datagrams and as a stream: whatever comes is read, answered or dropped, what was read is written so that it
//! says the same again, and no answer has a line that its request put there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::leg::sip::{
    Headers, Item, MAX_DATAGRAM, MAX_HEADERS, Malformed, Message, NameAddr, Response, Splitter, Uri, Via, field::split,
    parse,
};
use trunkline_fuzz::Steer;

fuzz_target!(|data: &[u8]| {
    let Some((steer, bytes)) = Steer::split(data) else { return };
    match parse(bytes) {
        Ok(message) => {
            assert!(bytes.len() <= MAX_DATAGRAM);
            read(&message);
        }
        Err(malformed) => refused(&malformed, bytes),
    }
    let whole = cut(None, bytes);
    assert_eq!(whole, cut(Some(steer), bytes));
    for item in &whole {
        match item {
            Item::Message(message) => read(message),
            Item::Malformed(malformed) | Item::Lost(malformed) => refused(malformed, bytes),
            Item::Ping => {}
        }
    }
    if let Ok(text) = core::str::from_utf8(bytes) {
        parts(text);
    }
});

fn read(message: &Message) {
    let headers = message.headers();
    assert!(headers.len() <= MAX_HEADERS);
    assert!(headers.via().is_ok() && headers.from().is_ok() && headers.to().is_ok() && headers.cseq().is_ok());
    assert!(headers.call_id().is_some_and(|id| !id.is_empty()));
    let again = written(message);
    // Short names are written in full, and what was not UTF-8 is longer now.
    if again.len() <= MAX_DATAGRAM {
        assert_eq!(parse(&again).as_ref(), Ok(message));
    }
    let Message::Request(request) = message else { return };
    let mut answer = request.answer(200);
    answer.headers.note_source("198.51.100.7:40123".parse().expect("an address"));
    answer.headers.set_to_tag("t");
    assert!(answer.to().is_ok_and(|to| to.tag().is_some()));
    answered(&answer);
    let again = written(&answer.clone().into());
    if again.len() <= MAX_DATAGRAM && answer.headers.iter().all(|(_, value)| value.len() <= 4_000) {
        assert_eq!(parse(&again), Ok(answer.into()));
    }
}

fn refused(malformed: &Malformed, bytes: &[u8]) {
    assert!(!malformed.flaw().words().is_empty());
    let Some(answer) = malformed.response() else { return };
    assert!((400..700).contains(&answer.status) && Some(answer.status) == malformed.status());
    assert!(written(&answer.clone().into()).len() <= bytes.len() * 3 + 1_000, "an answer is no amplifier");
    answered(&answer);
}

/// It has the lines that it should have, and no more.
fn answered(answer: &Response) {
    let out = written(&answer.clone().into());
    assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), answer.headers.len() + 3);
}

fn parts(text: &str) {
    let again = |uri: &Uri| assert_eq!(uri.to_string().parse().as_ref(), Ok(uri));
    if let Ok(uri) = text.parse::<Uri>() {
        again(&uri);
        assert!(uri.is_equivalent(&uri));
        let _ = uri.decoded_user();
    }
    if let Ok(address) = text.parse::<NameAddr>() {
        again(&address.uri);
        // With a line break in it no header would have been read.
        if !text.contains(['\r', '\n']) {
            assert_eq!(address.to_string().parse().as_ref(), Ok(&address));
        }
    }
    if let Ok(via) = text.parse::<Via>() {
        assert_eq!(via.to_string().parse().as_ref(), Ok(&via));
    }
    let values: Vec<&str> = split(text).collect();
    assert!(values.iter().all(|value| !value.is_empty() && value.len() <= text.len()));
    // Whatever we put into a header ends no line.
    let mut headers = Headers::default();
    headers.push(text.into(), text);
    assert!(headers.iter().all(|(_, value)| !value.contains(['\r', '\n'])));
    let user = Uri::sip(text, "192.0.2.1", None);
    assert_eq!(user.decoded_user().as_deref(), Some(text));
    assert!(text.is_empty() || user.to_string().parse() == Ok(user));
}

fn cut(mut steer: Option<Steer>, mut bytes: &[u8]) -> Vec<Item> {
    let mut splitter = Splitter::new();
    let mut items = vec![];
    while !bytes.is_empty() {
        let piece = match &mut steer {
            Some(steer) => steer.piece(&mut { bytes }),
            None => bytes,
        };
        let taken = splitter.feed(piece);
        bytes = &bytes[taken..];
        let before = items.len();
        items.extend(core::iter::from_fn(|| splitter.poll()));
        assert!(taken > 0 || items.len() > before, "no room and nothing to tell is a dead end");
    }
    items
}

fn written(message: &Message) -> Vec<u8> {
    let mut out = vec![];
    message.write(&mut out);
    out
}
