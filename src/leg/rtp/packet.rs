//! RTP packets, read and written.
//!
//! A [`Packet`] borrows the datagram. What a peer may put around the payload (padding, contributing sources, a header
//! extension) is checked and left out; what does not add up is refused as a whole, because no part of such a datagram
//! can be trusted. RFC 3550 5.1.

use core::fmt;

/// Bytes before the payload of what we write, and the least that a packet has.
pub const HEADER: usize = 12;

/// The largest datagram that is looked at (bytes). The largest that has a reason is 60 ms of 16 kHz L16, 1,920 bytes
/// and its header; what is longer did not come from a telephone.
pub const MAX_DATAGRAM: usize = 2_048;

/// One packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'p> {
    /// What stands in front of the payload.
    pub header: Header,
    /// Without the padding. May be empty.
    pub payload: &'p [u8],
}

/// The fixed part of a packet's header, as far as it differs from packet to packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Audio: the first packet after a silence. Events: the first packet of one.
    pub marker: bool,
    /// 7 bits.
    pub payload_type: u8,
    /// Counts packets, and wraps.
    pub sequence: u16,
    /// Counts samples, and wraps.
    pub timestamp: u32,
    /// Who sends.
    pub ssrc: u32,
}

/// Why a datagram is no RTP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Less than a header, or less than the header promises.
    Short,
    /// More than a telephone sends.
    Long,
    /// Not version 2.
    Version,
    /// More padding than there is, or none where there should be some.
    Padding,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short => "the packet is shorter than its header says",
            Self::Long => "the packet is longer than any telephone's",
            Self::Version => "the packet is not RTP version 2",
            Self::Padding => "the packet's padding does not fit in it",
        })
    }
}

impl core::error::Error for Malformed {}

impl<'p> Packet<'p> {
    /// Reads a datagram.
    ///
    /// # Errors
    /// [`Malformed`]: it is no RTP packet.
    pub fn parse(datagram: &'p [u8]) -> Result<Self, Malformed> {
        if datagram.len() > MAX_DATAGRAM {
            return Err(Malformed::Long);
        }
        let (&[flags, kind, s1, s0, t3, t2, t1, t0, r3, r2, r1, r0], mut rest) =
            datagram.split_first_chunk::<HEADER>().ok_or(Malformed::Short)?;
        if flags >> 6 != VERSION {
            return Err(Malformed::Version);
        }
        rest = rest.get(4 * usize::from(flags & CSRC_COUNT)..).ok_or(Malformed::Short)?;
        if flags & EXTENSION != 0 {
            // Two bytes of whatever the profile likes, then how many words follow. RFC 3550 5.3.1
            let (&[_, _, high, low], after) = rest.split_first_chunk::<4>().ok_or(Malformed::Short)?;
            let words = usize::from(u16::from_be_bytes([high, low]));
            rest = after.get(4 * words..).ok_or(Malformed::Short)?;
        }
        if flags & PADDING != 0 {
            // The last byte counts itself.
            let padding = usize::from(*rest.last().ok_or(Malformed::Padding)?);
            let payload = rest.len().checked_sub(padding).filter(|_| padding > 0).ok_or(Malformed::Padding)?;
            rest = &rest[..payload];
        }
        Ok(Self {
            header: Header {
                marker: kind & MARKER != 0,
                payload_type: kind & !MARKER,
                sequence: u16::from_be_bytes([s1, s0]),
                timestamp: u32::from_be_bytes([t3, t2, t1, t0]),
                ssrc: u32::from_be_bytes([r3, r2, r1, r0]),
            },
            payload: rest,
        })
    }
}

impl Header {
    /// The bytes that stand in front of a payload: no padding, no contributing sources, no extension.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER] {
        let kind = self.payload_type & !MARKER | if self.marker { MARKER } else { 0 };
        let [s1, s0] = self.sequence.to_be_bytes();
        let [t3, t2, t1, t0] = self.timestamp.to_be_bytes();
        let [r3, r2, r1, r0] = self.ssrc.to_be_bytes();
        [VERSION << 6, kind, s1, s0, t3, t2, t1, t0, r3, r2, r1, r0]
    }

    /// Writes a packet whose payload `fill` puts in place and counts. `None` if it does not fit `out`.
    pub fn write(self, out: &mut [u8], fill: impl FnOnce(&mut [u8]) -> Option<usize>) -> Option<&[u8]> {
        let (header, payload) = out.split_first_chunk_mut::<HEADER>()?;
        *header = self.to_bytes();
        let len = HEADER + fill(payload)?;
        out.get(..len)
    }
}

/// Bits 7 and 6 of the first byte.
const VERSION: u8 = 2;
const PADDING: u8 = 0x20;
const EXTENSION: u8 = 0x10;
const CSRC_COUNT: u8 = 0x0f;
/// In the second byte, above the payload type.
const MARKER: u8 = 0x80;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::leg::rtp::{dice::Dice, mutate};

    /// 20 ms of PCMU silence as Asterisk sends it, first of a talk spurt.
    fn from_asterisk() -> Vec<u8> {
        let mut bytes = vec![0x80, 0x80, 0x1f, 0x3b, 0x00, 0x01, 0x42, 0x60, 0x3a, 0x5d, 0x7e, 0x11];
        bytes.extend([0xff; 160]);
        bytes
    }

    #[test]
    fn a_plain_packet_is_twelve_bytes_and_its_payload() {
        let bytes = from_asterisk();
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(
            packet.header,
            Header { marker: true, payload_type: 0, sequence: 0x1f3b, timestamp: 0x14260, ssrc: 0x3a5d_7e11 }
        );
        assert_eq!(packet.payload, [0xff; 160]);
        assert_eq!(packet.header.to_bytes(), bytes[..HEADER]);
    }

    #[test]
    fn contributing_sources_an_extension_and_padding_are_left_out() {
        // Two contributing sources; an extension of one word, as a client with audio levels has it; 4 bytes of padding.
        let bytes = [
            0xb2, 0x08, 0x00, 0x07, 0, 0, 0, 160, 1, 2, 3, 4, // header
            0xaa, 0xaa, 0xaa, 0xaa, 0xbb, 0xbb, 0xbb, 0xbb, // CSRC
            0xbe, 0xde, 0x00, 0x01, 0x10, 0xff, 0x00, 0x00, // RFC 8285
            0xd5, 0xd5, 0xd5, // payload
            0x00, 0x00, 0x00, 0x04, // padding
        ];
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(packet.payload, [0xd5; 3]);
        assert_eq!((packet.header.payload_type, packet.header.ssrc), (8, 0x0102_0304));
    }

    #[test]
    fn what_does_not_add_up_is_refused() {
        let header = |flags: u8| [flags, 0, 0, 1, 0, 0, 0, 160, 1, 2, 3, 4].to_vec();
        let with = |flags: u8, rest: &[u8]| [header(flags), rest.to_vec()].concat();
        for (bytes, wrong) in [
            (vec![], Malformed::Short),
            (header(0x80)[..11].to_vec(), Malformed::Short),
            (header(0x40), Malformed::Version),
            (with(0x00, b"STUN"), Malformed::Version),
            (with(0x82, &[0; 7]), Malformed::Short), // two sources take 8 bytes
            (with(0x90, &[0xbe, 0xde, 0]), Malformed::Short), // half an extension header
            (with(0x90, &[0xbe, 0xde, 0, 1]), Malformed::Short), // a word is promised
            (with(0x90, &[0xbe, 0xde, 0xff, 0xff, 0]), Malformed::Short),
            (header(0xa0), Malformed::Padding),             // nothing to pad
            (with(0xa0, &[1, 2, 0]), Malformed::Padding),   // the count counts itself
            (with(0xa0, &[1, 2, 200]), Malformed::Padding), // more than there is
            (with(0x80, &[0; MAX_DATAGRAM]), Malformed::Long),
        ] {
            assert_eq!(Packet::parse(&bytes), Err(wrong), "{bytes:02x?}");
        }
        // All padding is no payload, and not wrong.
        assert!(Packet::parse(&with(0xa0, &[0, 0, 3])).unwrap().payload.is_empty());
    }

    #[test]
    fn what_is_written_is_read_and_what_does_not_fit_is_not_written() {
        let header = Header { marker: false, payload_type: 101, sequence: 65_535, timestamp: u32::MAX, ssrc: 9 };
        let mut space = [0; 16];
        let bytes = header.write(&mut space, |payload| {
            payload.copy_from_slice(&[5, 0x8a, 1, 0x40]);
            Some(4)
        });
        let packet = Packet::parse(bytes.unwrap()).unwrap();
        assert_eq!((packet.header, packet.payload), (header, &[5, 0x8a, 1, 0x40][..]));
        assert_eq!(header.write(&mut space, |_| Some(5)), None);
        assert_eq!(header.write(&mut space, |_| None), None);
        assert_eq!(header.write(&mut [0; 11], |_| Some(0)), None);
    }

    #[test]
    fn a_mutated_packet_is_read_or_refused() {
        let mut dice = Dice::new(20);
        let mut read = 0;
        for _ in 0..20_000 {
            let mut bytes = from_asterisk();
            mutate(&mut dice, &mut bytes);
            if let Ok(packet) = Packet::parse(&bytes) {
                assert!(packet.payload.len() + HEADER <= bytes.len() && packet.header.payload_type < 128);
                read += 1;
            }
        }
        assert!(read > 1_000, "{read}");
    }
}
