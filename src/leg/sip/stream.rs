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
    /// Up to here there is no end of a head. It is where a line begins.
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
        while let Some(line) = self.bytes[self.scanned..].iter().position(|byte| *byte == b'\n') {
            let is_empty = matches!(&self.bytes[self.scanned..][..line], b"" | b"\r");
            self.scanned += line + 1;
            if is_empty {
                return Some(self.scanned);
            }
        }
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
        Item::Lost(head.refuse(status, flaw))
    }

    fn drop_front(&mut self, len: usize) {
        self.bytes.drain(..len);
        self.scanned = 0;
    }
}
