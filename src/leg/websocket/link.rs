//! The narrow seam between a WebSocket and its TLS: bytes are opened, bytes are sealed.
//!
//! It owns no socket. What was read from one goes through [`Link::open`] and comes out of [`Link::plaintext`]; what is
//! to be sent goes through [`Link::seal`] and leaves by [`Link::flush`]. A plain link has none of that: its caller reads
//! and writes the socket itself, after it has taken from [`Link::plaintext`] what the dial read too far.
//!
//! ```text
//!   socket -> open -> plaintext -> wire        wire -> seal -> flush -> socket
//! ```
//!
//! rustls allocates once for each record, in either direction; nothing here does.

use core::fmt;
use std::io::{self, Read, Write};

use rustls::Connection;

use crate::leg::websocket::tls::suite_name;

/// The TLS of one connection, or that it has none.
pub struct Link {
    tls: Option<Box<Connection>>,
    /// Plaintext that was read past the upgrade.
    ahead: Vec<u8>,
    /// Sealed bytes that rustls does not take before its plaintext was fetched. Never grows past [`MAX_WIRE`].
    kept: Vec<u8>,
    /// The socket is at its end.
    ended: bool,
}

impl Link {
    /// A connection that was just upgraded. `ahead` was read past the upgrade; more may wait in `tls`: ask
    /// [`plaintext`](Self::plaintext) before the socket.
    #[must_use]
    pub fn new(mut tls: Option<Box<Connection>>, ahead: Vec<u8>) -> Self {
        if let Some(tls) = &mut tls {
            tls.set_buffer_limit(Some(MAX_SEALED));
        }
        let kept = Vec::with_capacity(if tls.is_some() { MAX_WIRE } else { 0 });
        Self { tls, ahead, kept, ended: false }
    }

    /// Whether there is no TLS.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// Opens bytes from the socket and says how many it took; none at all (`wire` empty) means that the socket is at its
    /// end. Up to [`MAX_WIRE`] bytes are taken whole once [`plaintext`](Self::plaintext) has said 0; who does not ask
    /// it gets no more in, so that a fast sender fills the kernel's buffer and not our memory.
    ///
    /// # Errors
    /// [`LinkError::Tls`] when it is not what TLS expects. The alert that says so goes out by [`flush`](Self::flush).
    pub fn open(&mut self, wire: &[u8]) -> Result<usize, LinkError> {
        let Some(tls) = &mut self.tls else { return Ok(0) };
        self.ended |= wire.is_empty();
        let mut rest = wire;
        if self.kept.is_empty() {
            take(tls, &mut rest)?;
        }
        let keep = rest.len().min(MAX_WIRE.saturating_sub(self.kept.len()));
        let (keep, left) = rest.split_at(keep);
        self.kept.extend_from_slice(keep);
        Ok(wire.len() - left.len())
    }

    /// Hands on what is open; 0 when there is nothing.
    ///
    /// # Errors
    /// [`LinkError::Closed`] when all was handed on and the peer will not send more, [`LinkError::Tls`] as for
    /// [`open`](Self::open).
    pub fn plaintext(&mut self, into: &mut [u8]) -> Result<usize, LinkError> {
        if into.is_empty() {
            return Ok(0);
        }
        if !self.ahead.is_empty() {
            let n = self.ahead.as_slice().read(into).unwrap_or(0);
            self.ahead.drain(..n);
            if self.ahead.is_empty() {
                self.ahead = Vec::new();
            }
            return Ok(n);
        }
        let Some(tls) = &mut self.tls else { return Ok(0) };
        loop {
            match tls.reader().read(into) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(n) => return Ok(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The socket ended without a close_notify (RFC 8446 6.1). A WebSocket has its own way to say that it
                // is over, so nothing can be cut off unnoticed.
                Err(_) => return Err(LinkError::Closed),
            }
            if self.kept.is_empty() {
                // All of it was opened, and none of it was the end of a record.
                return if self.ended { Err(LinkError::Closed) } else { Ok(0) };
            }
            let mut rest = self.kept.as_slice();
            take(tls, &mut rest)?;
            let taken = self.kept.len() - rest.len();
            if taken == 0 {
                return Ok(0);
            }
            self.kept.drain(..taken);
        }
    }

    /// Gives back what [`plaintext`](Self::plaintext) handed on, to be handed on again.
    pub fn put_back(&mut self, mut plaintext: Vec<u8>) {
        plaintext.append(&mut self.ahead);
        self.ahead = plaintext;
    }

    /// The cipher suite in use; `None`: no TLS.
    #[must_use]
    pub fn cipher(&self) -> Option<&'static str> {
        self.tls.as_ref().and_then(|tls| suite_name(tls))
    }

    /// Seals bytes for the socket and says how many: at most one record's worth, and none before the last ones have
    /// left, so that no backlog hides here.
    pub fn seal(&mut self, plaintext: &[u8]) -> usize {
        match &mut self.tls {
            Some(tls) if !tls.wants_write() => tls.writer().write(plaintext).unwrap_or(0),
            _ => 0,
        }
    }

    /// Seals the goodbye. Nothing can be sealed after it.
    pub fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
    }

    /// Whether something sealed waits for the socket. Not all of it comes from [`seal`](Self::seal): TLS has alerts and
    /// new keys of its own to send, so look here after [`open`](Self::open) too.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Writes what was sealed; `false`: the socket is full for now.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn flush(&mut self, socket: &mut impl Write) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else { return Ok(true) };
        while tls.wants_write() {
            match tls.write_tls(socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("plain", &self.is_plain()).field("ahead", &self.ahead.len()).finish()
    }
}

/// Why nothing more comes.
#[derive(Clone, Debug, PartialEq)]
pub enum LinkError {
    /// The peer said goodbye, or its socket ended.
    Closed,
    /// It broke TLS.
    Tls(rustls::Error),
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the connection was closed"),
            Self::Tls(error) => write!(f, "TLS was broken: {error}"),
        }
    }
}

impl core::error::Error for LinkError {}

/// Gives bytes to TLS until there is a good helping of plaintext; none while there is some from before.
fn take(tls: &mut Connection, wire: &mut &[u8]) -> Result<(), LinkError> {
    if !tls.wants_read() {
        return Ok(());
    }
    while !wire.is_empty() {
        match tls.read_tls(wire) {
            // After a close_notify nothing counts.
            Ok(0) => *wire = &[],
            Ok(_) => {}
            Err(error) => return Err(LinkError::Tls(rustls::Error::General(error.to_string()))),
        }
        let state = tls.process_new_packets().map_err(LinkError::Tls)?;
        if state.plaintext_bytes_to_read() >= MAX_PLAINTEXT {
            break;
        }
    }
    Ok(())
}

/// What [`Link::open`] takes at once (bytes).
pub const MAX_WIRE: usize = 16 * 1024;

/// rustls takes no more while it holds more than this (bytes).
const MAX_PLAINTEXT: usize = 16 * 1024;

/// What may be sealed at once (bytes): one full record (RFC 8446 5.1) with its header and tag.
const MAX_SEALED: usize = (1 << 14) + 256;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::leg::websocket::tls::tests::{ca, client, server, shake};

    /// Both ends of one connection.
    fn pair() -> (Link, Link) {
        let dir = tempfile::tempdir().unwrap();
        let (ca, ca_file) = ca(dir.path());
        let (ours, theirs) = shake(&client(&ca_file), &server(Some(&ca), |_| {}), "localhost").unwrap();
        (Link::new(Some(Box::new(ours)), Vec::new()), Link::new(Some(Box::new(theirs)), Vec::new()))
    }

    /// Seals all of it, for a socket that takes everything.
    fn sealed(link: &mut Link, mut plaintext: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        while !plaintext.is_empty() {
            let n = link.seal(plaintext);
            assert!(n > 0);
            plaintext = &plaintext[n..];
            assert!(link.flush(&mut wire).unwrap());
        }
        wire
    }

    fn drain(link: &mut Link, into: &mut Vec<u8>) -> Result<(), LinkError> {
        let mut space = [0; 1000];
        loop {
            match link.plaintext(&mut space)? {
                0 => return Ok(()),
                n => into.extend_from_slice(&space[..n]),
            }
        }
    }

    fn speech(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 31 % 251) as u8).collect()
    }

    /// A socket that takes `room` bytes, at most `step` at once.
    struct Narrow {
        room: usize,
        step: usize,
        took: Vec<u8>,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.step).min(self.room);
            if n == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room -= n;
            self.took.extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_sealed_on_one_side_is_opened_on_the_other_byte_by_byte() {
        let (mut ours, mut theirs) = pair();
        for (from, to) in [(true, "uplink"), (false, "downlink")] {
            let (from, into) = if from { (&mut ours, &mut theirs) } else { (&mut theirs, &mut ours) };
            let wire = sealed(from, to.as_bytes());
            assert!(wire.len() > to.len() + 16, "it is not in the clear");
            let mut heard = Vec::new();
            for byte in &wire {
                assert_eq!(into.open(core::slice::from_ref(byte)), Ok(1));
                drain(into, &mut heard).unwrap();
            }
            assert_eq!(heard, to.as_bytes());
        }
    }

    #[test]
    fn messages_of_100_kb_come_through_in_reads_of_any_size() {
        let message = speech(100_000);
        for step in [1, 7, 333, 4096, 8192, MAX_WIRE] {
            let (mut ours, mut theirs) = pair();
            let wire = sealed(&mut theirs, &message);
            let mut heard = Vec::new();
            for read in wire.chunks(step) {
                assert_eq!(ours.open(read), Ok(read.len()), "taken whole, {step} at a time");
                drain(&mut ours, &mut heard).unwrap();
            }
            assert!(heard == message, "{step} at a time");
        }
    }

    #[test]
    fn twenty_ms_messages_of_one_read_come_out_together() {
        let (mut ours, mut theirs) = pair();
        let mut wire = Vec::new();
        for i in 0..30 {
            wire.extend(sealed(&mut theirs, &[i; 469]));
        }
        assert_eq!(ours.open(&wire), Ok(wire.len()));
        let mut heard = Vec::new();
        drain(&mut ours, &mut heard).unwrap();
        assert!(heard.chunks(469).zip(0..30).all(|(chunk, i)| chunk == [i; 469]));
        assert_eq!(heard.len(), 30 * 469);
    }

    #[test]
    fn who_does_not_listen_gets_no_more_in() {
        let (mut ours, mut theirs) = pair();
        let message = speech(500_000);
        let wire = sealed(&mut theirs, &message);
        let mut taken = 0;
        for _ in 0..100 {
            taken += ours.open(&wire[taken..]).unwrap();
        }
        assert!((MAX_WIRE..4 * MAX_WIRE).contains(&taken), "{taken}");
        // Once it listens, everything is there and in order.
        let mut heard = Vec::new();
        while taken < wire.len() {
            drain(&mut ours, &mut heard).unwrap();
            taken += ours.open(&wire[taken..]).unwrap();
        }
        drain(&mut ours, &mut heard).unwrap();
        assert!(heard == message);
    }

    #[test]
    fn no_backlog_hides_behind_a_full_socket() {
        let (mut ours, mut theirs) = pair();
        let mut socket = Narrow { room: 100, step: 13, took: Vec::new() };
        let message = speech(60_000);
        let mut sent = ours.seal(&message);
        assert!((16_384..=MAX_SEALED).contains(&sent), "{sent}");
        assert!(ours.wants_write());
        assert!(!ours.flush(&mut socket).unwrap());
        assert_eq!(ours.seal(&message[sent..]), 0, "not before the last has left");
        socket.room = usize::MAX;
        assert!(ours.flush(&mut socket).unwrap());
        assert!(!ours.wants_write());
        while sent < message.len() {
            sent += ours.seal(&message[sent..]);
            assert!(ours.flush(&mut socket).unwrap());
        }
        let mut heard = Vec::new();
        for read in socket.took.chunks(MAX_WIRE) {
            theirs.open(read).unwrap();
            drain(&mut theirs, &mut heard).unwrap();
        }
        assert!(heard == message);
    }

    #[test]
    fn what_was_read_past_the_upgrade_comes_first() {
        let (ours, mut theirs) = pair();
        let second = sealed(&mut theirs, b"second ");
        let third = sealed(&mut theirs, b"third");
        let mut tls = ours.tls.unwrap();
        tls.read_tls(&mut second.as_slice()).unwrap();
        tls.process_new_packets().unwrap();
        let mut ours = Link::new(Some(tls), b"first ".to_vec());
        assert!(!ours.is_plain());
        ours.open(&third).unwrap();
        let mut space = [0; 4];
        assert_eq!(ours.plaintext(&mut space), Ok(4));
        assert_eq!(&space, b"firs");
        let mut heard = Vec::new();
        drain(&mut ours, &mut heard).unwrap();
        assert_eq!(heard, b"t second third");
    }

    #[test]
    fn a_plain_link_hands_on_what_was_read_ahead_and_nothing_else() {
        let mut link = Link::new(None, b"\x81\x02hi".to_vec());
        assert!(link.is_plain() && !link.wants_write());
        let mut heard = Vec::new();
        drain(&mut link, &mut heard).unwrap();
        assert_eq!(heard, b"\x81\x02hi");
        assert_eq!((link.open(b"x"), link.seal(b"x"), link.plaintext(&mut [0; 9])), (Ok(0), 0, Ok(0)));
        assert!(link.flush(&mut Vec::new()).unwrap());
    }

    #[test]
    fn a_goodbye_is_heard_after_all_that_was_said() {
        let (mut ours, mut theirs) = pair();
        let mut wire = sealed(&mut theirs, &speech(40_000));
        theirs.close();
        assert_eq!(theirs.seal(b"more"), 0);
        assert!(theirs.flush(&mut wire).unwrap());
        wire.extend_from_slice(b"what follows it does not count");
        let mut heard = Vec::new();
        let mut over = Ok(());
        for read in wire.chunks(MAX_WIRE) {
            assert_eq!(over, Ok(()));
            ours.open(read).unwrap();
            over = drain(&mut ours, &mut heard);
        }
        assert_eq!(over, Err(LinkError::Closed));
        assert!(heard == speech(40_000));
        assert_eq!(ours.plaintext(&mut [0; 9]), Err(LinkError::Closed));
    }

    #[test]
    fn a_socket_that_ends_without_a_goodbye_is_closed_too() {
        let (mut ours, mut theirs) = pair();
        let wire = sealed(&mut theirs, &speech(30_000));
        let (most, _) = wire.split_at(wire.len() - 1);
        let mut heard = Vec::new();
        for read in most.chunks(MAX_WIRE) {
            ours.open(read).unwrap();
            drain(&mut ours, &mut heard).unwrap();
        }
        assert_eq!(ours.open(b""), Ok(0));
        assert_eq!(drain(&mut ours, &mut heard), Err(LinkError::Closed));
        assert!(heard == speech(heard.len()) && heard.len() >= 16_384, "only the broken record is missing");
    }

    #[test]
    fn a_broken_record_is_an_error_and_its_alert_still_goes_out() {
        for spoil in [0, 4, 5, 30] {
            let (mut ours, mut theirs) = pair();
            let mut wire = sealed(&mut theirs, b"hello, caller");
            wire[spoil] ^= 0xff;
            wire.resize(20_000, 0);
            let error = match ours.open(&wire) {
                Ok(_) => drain(&mut ours, &mut Vec::new()),
                Err(error) => Err(error),
            };
            assert!(matches!(error, Err(LinkError::Tls(_))), "byte {spoil}: {error:?}");
            let mut alert = Vec::new();
            assert!(ours.flush(&mut alert).unwrap());
            let told = theirs.open(&alert).unwrap_err();
            assert!(matches!(told, LinkError::Tls(rustls::Error::AlertReceived(_))), "{told:?}");
            assert!(told.to_string().starts_with("TLS was broken: "));
        }
    }

    #[test]
    fn junk_of_every_kind_ends_the_link_and_nothing_else() {
        let mut dice: u64 = 0x9e37_79b9_7f4a_7c15;
        for _ in 0..50 {
            let (mut ours, _) = pair();
            let junk: Vec<u8> = (0..3000)
                .map(|_| {
                    dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (dice >> 56) as u8
                })
                .collect();
            let mut over = false;
            for read in junk.chunks(50) {
                over |= ours.open(read).is_err() || drain(&mut ours, &mut Vec::new()).is_err();
            }
            assert!(over);
        }
    }

    #[cfg(feature = "count-allocs")]
    #[test]
    fn a_record_costs_one_allocation_each_way_and_nothing_of_ours() {
        let (mut ours, mut theirs) = pair();
        let message = [0x31; 469];
        let mut wire = Vec::with_capacity(4096);
        let mut space = vec![0; 8192];
        let mut frame = |counted: &mut [u64; 2]| {
            wire.clear();
            counted[0] += allocation_counter::measure(|| {
                assert_eq!(ours.seal(&message), message.len());
                assert!(ours.flush(&mut wire).unwrap());
            })
            .count_total;
            counted[1] += allocation_counter::measure(|| {
                assert_eq!(theirs.open(&wire), Ok(wire.len()));
                assert_eq!(theirs.plaintext(&mut space), Ok(message.len()));
                assert_eq!(theirs.plaintext(&mut space), Ok(0));
            })
            .count_total;
        };
        for _ in 0..10 {
            frame(&mut [0; 2]);
        }
        let mut counted = [0; 2];
        for _ in 0..1000 {
            frame(&mut counted);
        }
        assert_eq!(counted, [1000, 1000]);
    }
}
