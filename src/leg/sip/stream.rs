//! Messages out of a stream: each is as long as its Content-Length says (RFC 3261 18.3), and between them peers keep the
//! connection alive (RFC 5626 3.5.1).

use crate::leg::sip::{
    Flaw, MAX_MESSAGE, Malformed, Message,
    parse::{Head, parse_framed},
    phrase,
};

/// What a stream brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A message.
    Message(Message),
    /// A message that cannot be read. The next one can.
    Malformed(Malformed),
    /// The peer asks whether we are there: [`PONG`] is the answer.
    Ping,
    /// Nobody knows where the next message begins. This one is answered where it has an answer; then the connection is
    /// of no more use, and nothing more comes out of here.
    Lost(Malformed),
}

enum Gap {
    Ping,
    /// A message begins.
    Over,
    /// It may still become a ping.
    Open,
}

/// The answer to an [`Item::Ping`].
pub const PONG: &[u8] = b"\r\n";

/// Cuts a stream into messages, however its bytes arrive. Holds no more than the longest message.
#[derive(Debug, Default)]
pub struct Splitter {
    bytes: Vec<u8>,
    /// Where the line begins in which the head may end.
    line: usize,
    /// Up to here it has no end.
    scanned: usize,
    /// How long the message is that has begun, once its head is there.
    len: Option<usize>,
    is_lost: bool,
}

impl Splitter {
    /// One that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes, and says how many; call it again with the rest once [`Self::poll`] has nothing more.
    pub fn feed(&mut self, bytes: &[u8]) -> usize {
        if self.is_lost {
            return bytes.len();
        }
        let taken = bytes.len().min(MAX_MESSAGE - self.bytes.len());
        self.bytes.extend(&bytes[..taken]);
        taken
    }

    /// A message has begun and is not there in full: a peer that stays so is not to be waited for. A lone line break is
    /// none: that is how a peer answers our own ping.
    #[must_use]
    pub fn is_mid_message(&self) -> bool {
        self.bytes.iter().any(|byte| !matches!(byte, b'\r' | b'\n'))
    }

    /// The next thing that came; `None` until more comes.
    pub fn poll(&mut self) -> Option<Item> {
        if self.is_lost {
            return None;
        }
        if self.len.is_none() && self.scanned == 0 {
            match self.skip_breaks() {
                Gap::Over => {}
                Gap::Ping => return Some(Item::Ping),
                Gap::Open => return None,
            }
        }
        let len = match self.len {
            Some(len) => len,
            None => {
                let Some(head) = self.find_head() else {
                    return (self.bytes.len() == MAX_MESSAGE).then(|| self.lose(513, Flaw(phrase(513))));
                };
                match self.message_len(head) {
                    Ok(len) => *self.len.insert(len),
                    Err((status, flaw)) => return Some(self.lose(status, flaw)),
                }
            }
        };
        let message = parse_framed(self.bytes.get(..len)?);
        self.drop_front(len);
        self.len = None;
        Some(message.map_or_else(Item::Malformed, Item::Message))
    }

    /// What stands between two messages.
    fn skip_breaks(&mut self) -> Gap {
        let mut at = 0;
        let gap = loop {
            match &self.bytes[at..] {
                [b'\r', b'\n', b'\r', b'\n', ..] => {
                    at += 4;
                    break Gap::Ping;
                }
                // Half a ping, or none.
                [] | [b'\r'] | [b'\r', b'\n'] | [b'\r', b'\n', b'\r'] => break Gap::Open,
                [b'\r' | b'\n', ..] => at += 1,
                _ => break Gap::Over,
            }
        };
        self.drop_front(at);
        gap
    }

    /// Where the head ends, once it does.
    fn find_head(&mut self) -> Option<usize> {
        while let Some(at) = self.bytes[self.scanned..].iter().position(|byte| *byte == b'\n') {
            let end = self.scanned + at;
            let is_empty = matches!(&self.bytes[self.line..end], b"" | b"\r");
            self.line = end + 1;
            self.scanned = self.line;
            if is_empty {
                return Some(self.line);
            }
        }
        self.scanned = self.bytes.len();
        None
    }

    fn message_len(&self, head_len: usize) -> Result<usize, (u16, Flaw)> {
        let (head, _) = Head::read(&self.bytes[..head_len]);
        // RFC 3261 20.14: on a stream it must be there.
        let len = head.content_length().map_err(|flaw| (400, flaw))?.ok_or((400, Flaw("Content-Length is missing")))?;
        let len = len.saturating_add(head_len);
        if len > MAX_MESSAGE { Err((513, Flaw(phrase(513)))) } else { Ok(len) }
    }

    fn lose(&mut self, status: u16, flaw: Flaw) -> Item {
        let (head, _) = Head::read(&self.bytes);
        self.is_lost = true;
        self.bytes = vec![];
        Item::Lost(head.refuse(status, None, flaw))
    }

    fn drop_front(&mut self, len: usize) {
        self.bytes.drain(..len);
        self.line = 0;
        self.scanned = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds it in pieces of a size, and tells what came out.
    fn cut(stream: &[u8], size: usize) -> Vec<Item> {
        let mut splitter = Splitter::new();
        let mut items = vec![];
        for mut piece in stream.chunks(size) {
            while !piece.is_empty() {
                let taken = splitter.feed(piece);
                piece = &piece[taken..];
                let before = items.len();
                items.extend(core::iter::from_fn(|| splitter.poll()));
                assert!(taken > 0 || items.len() > before, "no room and nothing to tell is a dead end");
            }
        }
        items
    }

    fn each_way(stream: &[u8]) -> Vec<Item> {
        let whole = cut(stream, stream.len());
        for size in [1, 2, 3, 7, 100, 1460] {
            assert_eq!(cut(stream, size), whole, "in pieces of {size}");
        }
        whole
    }

    #[test]
    fn messages_and_keep_alives_are_told_apart_however_they_arrive() {
        let stream = [b"\r\n\r\n", ASTERISK, b"\r\n", BYE, b"\r\n\r\n\r\n\r\n", CISCO, BYE, b"\r\n"].concat();
        let told: Vec<String> = each_way(&stream)
            .into_iter()
            .map(|item| match item {
                Item::Message(Message::Request(request)) => request.method.to_string(),
                Item::Ping => "ping".to_owned(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told, ["ping", "INVITE", "BYE", "ping", "ping", "INVITE", "BYE"]);
    }

    #[test]
    fn a_message_that_cannot_be_read_does_not_take_the_next_one_along() {
        let broken = String::from_utf8_lossy(BYE).replace("From: <sip:a@b>;tag=1", "From: \"a");
        let items = each_way(&[broken.as_bytes(), BYE].concat());
        let [Item::Malformed(malformed), Item::Message(Message::Request(_))] = &items[..] else { panic!("{items:?}") };
        assert_eq!(malformed.status(), Some(400));
    }

    #[test]
    fn without_a_length_nobody_knows_where_the_next_message_begins() {
        for (length, words) in [
            ("", "Content-Length is missing"),
            ("l: -1\r\n", "Content-Length is no number"),
            ("l: 0\r\nContent-Length: 0\r\n", "Content-Length is there twice"),
        ] {
            let broken = String::from_utf8_lossy(BYE).replace("l: 0\r\n", length);
            let items = each_way(&[broken.as_bytes(), BYE].concat());
            let [Item::Lost(malformed)] = &items[..] else { panic!("{items:?}") };
            assert_eq!((malformed.flaw().words(), malformed.status()), (words, Some(400)));
        }
    }

    #[test]
    fn a_stream_holds_no_more_than_the_longest_message() {
        let head = String::from_utf8_lossy(BYE).replace("l: 0", "l: 15000");
        let body = vec![b'x'; 15_000];
        let items = each_way(&[head.as_bytes(), &body, BYE].concat());
        let [Item::Message(Message::Request(long)), Item::Message(_)] = &items[..] else { panic!("{items:?}") };
        assert_eq!(long.body.len(), 15_000);

        // Refused once the head is there, before the body is.
        for length in ["16384", "4294967295", "99999999999999999999"] {
            let head = String::from_utf8_lossy(BYE).replace("l: 0", &format!("l: {length}"));
            let items = each_way(head.as_bytes());
            assert!(matches!(&items[..], [Item::Lost(lost)] if lost.status() == Some(513)), "{items:?}");
        }
        // A head that does not end.
        let endless = [&BYE[..BYE.len() - 2], &b"A: b\r\n".repeat(4_000)].concat();
        let items = each_way(&endless);
        assert!(matches!(&items[..], [Item::Lost(lost)] if lost.status() == Some(513)), "{items:?}");
        // Nothing but line breaks is no message that has begun, and does not pile up.
        assert!(each_way(&vec![b'\n'; 100_000]).is_empty());
    }

    #[test]
    fn what_is_not_sip_is_not_answered() {
        for stream in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], &[0x16; 40_000]] {
            let items = each_way(stream);
            assert!(matches!(&items[..], [Item::Lost(lost)] if lost.status().is_none()), "{items:?}");
        }
    }

    const ASTERISK: &[u8] = include_bytes!("../../../tests/sip/peers/asterisk.sip");
    const CISCO: &[u8] = include_bytes!("../../../tests/sip/peers/cisco.sip");
    const BYE: &[u8] = b"BYE sip:b@c SIP/2.0\r\n\
        Via: SIP/2.0/TCP 192.0.2.1;branch=z9hG4bKa\r\n\
        From: <sip:a@b>;tag=1\r\n\
        To: <sip:b@c>;tag=2\r\n\
        Call-ID: c\r\n\
        CSeq: 2 BYE\r\n\
        l: 0\r\n\r\n";
}
