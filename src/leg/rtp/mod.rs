//! A call's audio as RTP: everything but the socket.
//!
//! ```text
//!   datagram -> packet -> source -> codec or event -> jitter buffer -> 20 ms a tick     uplink
//!   datagram <- packet <-          codec or event                   <- 20 ms a tick     downlink
//!              \ rtcp: what each side hears of the other, every five seconds /
//! ```
//!
//! [`session::Session`] is one call's and the only part that a media thread needs to know. All of it is told the time,
//! reads and writes bytes that others own, and takes nothing from the heap once it is open.

pub mod dice;
pub mod dtmf;
pub mod packet;
pub mod reception;
pub mod rtcp;
pub mod session;
pub mod source;

/// Does to a datagram what a bad network or a bad person would.
#[cfg(test)]
pub(crate) fn mutate(dice: &mut dice::Dice, bytes: &mut Vec<u8>) {
    for _ in 0..=dice.below(3) {
        let at = dice.below(bytes.len().max(1) as u64) as usize;
        match dice.below(6) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => {
                bytes.remove(at);
            }
            2 => bytes.insert(at.min(bytes.len()), dice.roll() as u8),
            3 => bytes.extend_from_within(at.min(bytes.len())..),
            _ => {
                if let Some(byte) = bytes.get_mut(at % 40) {
                    *byte ^= 1 << dice.below(8);
                }
            }
        }
    }
}
