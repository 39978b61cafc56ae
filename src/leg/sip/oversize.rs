//! Requests that are too long for a datagram.
//!
//! Above 1300 bytes a request goes by TCP, where it cannot fall to pieces on the way, and by UDP after all where TCP
//! does not come about (RFC 3261 18.1.1). Of that only the Via has to know; whoever sent it waits for an answer with its
//! branch, and gets that by either way. A peer that refused TCP is not asked again while it is remembered.
//!
//! Answers stay with the flow of their request, however long they are (RFC 3261 18.2.2).

use core::net::SocketAddr;

/// Up to this many bytes a request is sent as a datagram, RFC 3261 18.1.1: 200 less than the shortest usual packet.
pub(super) const MOST_DATAGRAM: usize = 1300;

/// Peers that take no TCP.
#[derive(Debug, Default)]
pub(super) struct Datagrams(Vec<SocketAddr>);

impl Datagrams {
    /// It takes datagrams only.
    pub(super) fn insert(&mut self, peer: SocketAddr) {
        if self.contains(peer) {
            return;
        }
        if self.0.len() >= MOST_PEERS {
            self.0.remove(0);
        }
        self.0.push(peer);
    }

    pub(super) fn contains(&self, peer: SocketAddr) -> bool {
        self.0.contains(&peer)
    }
}

/// The request as it goes by TCP; `None` where it is short enough, or no request of ours.
pub(super) fn by_tcp(bytes: &[u8]) -> Option<Vec<u8>> {
    if bytes.len() <= MOST_DATAGRAM || bytes.starts_with(b"SIP/2.0 ") {
        return None;
    }
    replaced(bytes, BY_UDP, BY_TCP)
}

/// The same as it goes by UDP after all.
pub(super) fn by_udp(bytes: &[u8]) -> Option<Vec<u8>> {
    replaced(bytes, BY_TCP, BY_UDP)
}

/// Our own Via is the first header that we write.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Option<Vec<u8>> {
    let at = memchr::memmem::find(bytes, from)?;
    let mut bytes = bytes.to_vec();
    bytes.get_mut(at..at + to.len())?.copy_from_slice(to);
    Some(bytes)
}

const BY_UDP: &[u8] = b"\r\nVia: SIP/2.0/UDP ";
const BY_TCP: &[u8] = b"\r\nVia: SIP/2.0/TCP ";
/// A site has one PBX, and a few have some.
const MOST_PEERS: usize = 16;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_the_topmost_via_of_a_long_request_says_tcp() {
        let head = "INVITE sip:42@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.7;branch=z9hG4bK1\r\n";
        let long = format!("{head}Subject: {}\r\n\r\n\r\nVia: SIP/2.0/UDP x", "s".repeat(MOST_DATAGRAM));
        let sent = by_tcp(long.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(sent.clone()).unwrap(), long.replacen("/UDP", "/TCP", 1));
        assert_eq!(by_udp(&sent).unwrap(), long.as_bytes());
    }

    #[test]
    fn what_is_short_and_what_is_an_answer_stays_a_datagram() {
        assert_eq!(by_tcp(b"OPTIONS sip:192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.7\r\n\r\n"), None);
        let answer = format!("SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.1\r\nX: {}\r\n\r\n", "x".repeat(2000));
        assert_eq!(by_tcp(answer.as_bytes()), None);
    }

    #[test]
    fn the_peers_that_are_remembered_are_few() {
        let peer = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let mut datagrams = Datagrams::default();
        (1..=100).for_each(|port| datagrams.insert(peer(port)));
        datagrams.insert(peer(100));
        assert_eq!(datagrams.0.len(), MOST_PEERS);
        assert!(datagrams.contains(peer(100)) && datagrams.contains(peer(85)) && !datagrams.contains(peer(84)));
    }
}
