//! The heads of the opening handshake, as server and as client: whatever comes is taken or refused, what we answer is
//! what we would take, and nothing that a terminal obeys gets into a message for people.
#![no_main]

use core::{
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};
use std::io;

use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, ReadBuf};
use trunkline::leg::websocket::upgrade::{
    MAX_BODY, Refusal, body_len, check_response, parse_request, read_head, refuse, request, response,
};
use trunkline_fuzz::Steer;

fuzz_target!(|data: &[u8]| {
    let Some((mut steer, bytes)) = Steer::split(data) else { return };
    let limit = steer.one_of(&[64, 1_000, 16 * 1024]);
    let whole = head_of(None, bytes, limit);
    let pieces = head_of(Some(steer.clone()), bytes, limit);
    match (&whole, &pieces) {
        (Ok(whole), Ok(pieces)) => assert_eq!(whole, pieces),
        (Err(whole), Err(pieces)) => assert_eq!(whole.kind(), pieces.kind()),
        _ => panic!("{whole:?} at once, {pieces:?} in pieces"),
    }
    let (head, ahead) = match &whole {
        Ok((head, ahead)) => {
            assert!(head.ends_with(b"\r\n\r\n") && head.len() <= limit);
            assert!([&head[..], &ahead[..]].concat() == bytes, "what was read past the head goes on");
            (&head[..], &ahead[..])
        }
        Err(_) => (bytes, &b""[..]),
    };
    server(head);
    client(head, ahead);
});

fn server(head: &[u8]) {
    match parse_request(head) {
        Ok(request) => {
            assert!(request.path.starts_with('/') && !request.path.contains('?'));
            assert!(!request.subprotocols.iter().any(String::is_empty));
            let subprotocol = request.subprotocols.first().map(String::as_str);
            let answer = response(&request, subprotocol);
            let offered = subprotocol.filter(|name| is_token(name));
            if subprotocol == offered {
                assert_eq!(check_response(&answer, b"", &request.key, offered), Ok(()));
                assert!(check_response(&answer, b"", "bm90IHRoZSBzYW1lIGtleSE=", offered).is_err());
            }
        }
        Err((status, words)) => {
            let answer = refuse(status, words);
            let end = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
            let (head, body) = answer.split_at(end);
            assert_eq!(body_len(head), Some(body.len()));
            let refusal = check_response(head, body, KEY, None).err();
            assert!(refusal.is_some_and(|refusal| refusal.status == Some(status) && refusal.words.ends_with(words)));
        }
    }
}

fn client(head: &[u8], body: &[u8]) {
    assert!(body_len(head).is_none_or(|len| len <= MAX_BODY));
    for subprotocol in [None, Some("audio.drachtio.org")] {
        if let Err(refusal) = check_response(head, body, KEY, subprotocol) {
            let Refusal { status, words, .. } = &refusal;
            assert!(!words.contains(char::is_control) && words.len() <= 4_000, "{words:?}");
            assert!(*status != Some(101) && !refusal.advice().is_empty());
        }
    }
    // What we ask for, we would serve.
    if let Ok(text) = core::str::from_utf8(body)
        && is_token(text)
    {
        let path = format!("/{text}");
        let asked = request("agent.example.com", &path, KEY, &[(text, text)], Some(text), Some(text));
        if let Ok(asked) = parse_request(&asked) {
            assert_eq!((asked.path, asked.key.as_str()), (path, KEY));
            assert_eq!(asked.subprotocols, [text]);
        }
    }
}

/// RFC 9110 5.6.2, less what would be read as another part of a head.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn head_of(steer: Option<Steer>, bytes: &[u8], limit: usize) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut stream = Stream { steer, rest: bytes };
    let read = {
        let mut reading = pin!(read_head(&mut stream, limit));
        match reading.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(read) => read,
            Poll::Pending => panic!("the stream is always ready"),
        }
    };
    // What it did not take is still in the stream.
    read.map(|(head, ahead)| (head, [&ahead[..], stream.rest].concat()))
}

/// A stream that is never short of bytes, and gives as few as the steering says.
struct Stream<'d> {
    steer: Option<Steer>,
    rest: &'d [u8],
}

impl AsyncRead for Stream<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { steer, rest } = &mut *self;
        let most = match steer {
            Some(steer) => steer.piece(&mut { *rest }).len(),
            None => rest.len(),
        };
        let (piece, after) = rest.split_at(most.min(into.remaining()));
        into.put_slice(piece);
        *rest = after;
        Poll::Ready(Ok(()))
    }
}
