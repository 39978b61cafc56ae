//! RTCP: what each side tells the other about what it hears. RFC 3550 6.
//!
//! The reader is tolerant: packets of a kind that we do not know are skipped, and a datagram need not begin with a
//! report (RFC 5506). What does not add up is refused as a whole, before any of it is told.

use core::fmt;

use crate::media::Now;

/// Room for the largest datagram that a [`Report`] makes (bytes).
pub const MAX_REPORT: usize = 4 + SENDER_INFO + BLOCK + 8 + (SDES_ITEM + CNAME + 1).next_multiple_of(4) + 8;

/// Length of the names that we give ourselves (bytes).
pub const CNAME: usize = 24;

/// One thing that a datagram tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'r> {
    /// What the sender of it sent so far.
    Sender {
        /// Who reports.
        ssrc: u32,
        /// What it sent.
        info: SenderInfo,
    },
    /// How somebody hears somebody.
    Block {
        /// Who reports.
        from: u32,
        /// What it says.
        block: Block,
    },
    /// The name behind an SSRC.
    Cname {
        /// Whose name.
        ssrc: u32,
        /// Bytes that should be UTF-8.
        name: &'r [u8],
    },
    /// This SSRC sends no more.
    Bye {
        /// Who leaves.
        ssrc: u32,
    },
}

/// What somebody sent so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderInfo {
    /// When this was written, by the sender's clock; see [`ntp`].
    pub ntp: u64,
    /// The same moment on the clock of its audio.
    pub rtp: u32,
    /// Packets.
    pub packets: u32,
    /// Bytes of payload.
    pub octets: u32,
}

/// How a source is heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// Which source.
    pub ssrc: u32,
    /// Lost since the last report, in 256ths of what was expected.
    pub fraction: u8,
    /// Lost in all, less what came twice. 24 bits on the wire.
    pub lost: i32,
    /// The highest sequence number, extended by how often it wrapped.
    pub highest: u32,
    /// Interarrival jitter in ticks of the source's clock.
    pub jitter: u32,
    /// The middle 32 bits of the NTP time of the source's last report; 0: there was none.
    pub lsr: u32,
    /// Time since that report came, in 65,536ths of a second.
    pub dlsr: u32,
}

/// Why a datagram is no RTCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A packet is shorter than it says, or than its kind has to be.
    Short,
    /// Not version 2, or not a kind of RTCP.
    Kind,
    /// Padding that is more than the packet, or not in the last one.
    Padding,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short => "the report is shorter than its header says",
            Self::Kind => "the report is not RTCP version 2",
            Self::Padding => "the report's padding does not fit in it",
        })
    }
}

impl core::error::Error for Malformed {}

/// Whether a datagram that came where RTP comes is RTCP. RFC 5761 4: nobody gives a payload type from 64 to 95 to audio.
#[must_use]
pub const fn is_rtcp(datagram: &[u8]) -> bool {
    matches!(datagram, [flags, 192..=223, ..] if *flags >> 6 == VERSION)
}

/// This moment as NTP time. There is no wall clock here, and none is needed: what counts is that all reports of one
/// sender agree (RFC 3550 4 lets a sender count from when it was started).
#[must_use]
pub const fn ntp(now: Now) -> u64 {
    let fraction = ((now.subsec_nanos() as u64) << 32) / 1_000_000_000;
    now.as_secs() << 32 | fraction
}

/// How long a packet takes to the other side and back, by a block about what we sent. `None`: it does not say, or what
/// it says cannot be.
#[must_use]
pub fn round_trip(now: Now, block: &Block) -> Option<Now> {
    if block.lsr == 0 {
        return None;
    }
    let here = (ntp(now) >> 16) as u32;
    let ticks = here.wrapping_sub(block.lsr).wrapping_sub(block.dlsr) as i32;
    // Both sides round, so a loopback can be a tick or two below nothing.
    let ticks = if (-ROUNDING..0).contains(&ticks) { 0 } else { ticks };
    (0..LONGEST_TRIP).contains(&ticks).then(|| Now::from_nanos((ticks as u64 * 1_000_000_000) >> 16))
}

/// Reads a datagram and tells what we know of it, in order.
///
/// # Errors
/// [`Malformed`]: it is no RTCP. Then nothing is told.
pub fn read<'r>(datagram: &'r [u8], mut tell: impl FnMut(Part<'r>)) -> Result<(), Malformed> {
    if datagram.is_empty() {
        return Err(Malformed::Short);
    }
    walk(datagram, &mut |_| {})?;
    walk(datagram, &mut tell)
}

fn walk<'r>(mut rest: &'r [u8], tell: &mut impl FnMut(Part<'r>)) -> Result<(), Malformed> {
    while !rest.is_empty() {
        let &[flags, kind, high, low, ..] = rest else { return Err(Malformed::Short) };
        if flags >> 6 != VERSION || !matches!(kind, 192..=223) {
            return Err(Malformed::Kind);
        }
        // In words, and the first is not counted.
        let len = 4 * (usize::from(u16::from_be_bytes([high, low])) + 1);
        let (packet, after) = rest.split_at_checked(len).ok_or(Malformed::Short)?;
        let mut body = &packet[4..];
        if flags & PADDING != 0 {
            let padding = body.last().map_or(0, |&last| usize::from(last));
            if !after.is_empty() || padding == 0 || padding > body.len() {
                return Err(Malformed::Padding);
            }
            body = &body[..body.len() - padding];
        }
        let count = usize::from(flags & COUNT);
        match kind {
            SENDER_REPORT => {
                let (ssrc, body) = word(body)?;
                let (ntp_high, body) = word(body)?;
                let (ntp_low, body) = word(body)?;
                let (rtp, body) = word(body)?;
                let (packets, body) = word(body)?;
                let (octets, body) = word(body)?;
                let ntp = u64::from(ntp_high) << 32 | u64::from(ntp_low);
                tell(Part::Sender { ssrc, info: SenderInfo { ntp, rtp, packets, octets } });
                blocks(ssrc, count, body, tell)?;
            }
            RECEIVER_REPORT => {
                let (ssrc, body) = word(body)?;
                blocks(ssrc, count, body, tell)?;
            }
            DESCRIPTION => descriptions(count, body, tell)?,
            BYE => {
                let mut body = body;
                for _ in 0..count {
                    let (ssrc, after) = word(body)?;
                    tell(Part::Bye { ssrc });
                    body = after;
                }
            }
            // Of an application, feedback, extended reports: nothing that a telephone needs.
            _ => {}
        }
        rest = after;
    }
    Ok(())
}

/// What follows the last block is an extension of somebody's profile.
fn blocks<'r>(from: u32, count: usize, mut body: &'r [u8], tell: &mut impl FnMut(Part<'r>)) -> Result<(), Malformed> {
    for _ in 0..count {
        let (ssrc, rest) = word(body)?;
        let (loss, rest) = word(rest)?;
        let (highest, rest) = word(rest)?;
        let (jitter, rest) = word(rest)?;
        let (lsr, rest) = word(rest)?;
        let (dlsr, rest) = word(rest)?;
        // 24 bits with a sign.
        let lost = (loss << 8) as i32 >> 8;
        let block = Block { ssrc, fraction: (loss >> 24) as u8, lost, highest, jitter, lsr, dlsr };
        tell(Part::Block { from, block });
        body = rest;
    }
    Ok(())
}

/// Chunks of items, each chunk ended by at least one zero and filled up to a word. RFC 3550 6.5
fn descriptions<'r>(count: usize, body: &'r [u8], tell: &mut impl FnMut(Part<'r>)) -> Result<(), Malformed> {
    let mut rest = body;
    for _ in 0..count {
        let (ssrc, mut items) = word(rest)?;
        loop {
            match *items {
                // A last chunk without its zero is met, and harmless.
                [] => break,
                [0, ..] => {
                    let used = body.len() - items.len();
                    items = body.get((used / 4 + 1) * 4..).unwrap_or(&[]);
                    break;
                }
                [item, len, ref after @ ..] => {
                    let (text, after) = after.split_at_checked(usize::from(len)).ok_or(Malformed::Short)?;
                    if item == SDES_CNAME {
                        tell(Part::Cname { ssrc, name: text });
                    }
                    items = after;
                }
                [_] => return Err(Malformed::Short),
            }
        }
        rest = items;
    }
    Ok(())
}

fn word(bytes: &[u8]) -> Result<(u32, &[u8]), Malformed> {
    let (&word, rest) = bytes.split_first_chunk::<4>().ok_or(Malformed::Short)?;
    Ok((u32::from_be_bytes(word), rest))
}

/// What we tell: a sender's report if we sent anything, else a receiver's, and our name.
#[derive(Clone, Copy, Debug)]
pub struct Report<'r> {
    /// Who we are.
    pub ssrc: u32,
    /// What we sent, if anything since the report before.
    pub sender: Option<SenderInfo>,
    /// How we hear the peer, if there is one.
    pub block: Option<Block>,
    /// Our name.
    pub cname: &'r [u8; CNAME],
    /// We are leaving.
    pub bye: bool,
}

impl Report<'_> {
    /// Writes it as one datagram. `None` if it does not fit `out`; [`MAX_REPORT`] always does.
    #[must_use]
    pub fn write<'b>(&self, out: &'b mut [u8]) -> Option<&'b [u8]> {
        let mut writer = Writer { out, len: 0 };
        let start =
            writer.open(if self.sender.is_some() { SENDER_REPORT } else { RECEIVER_REPORT }, self.block.is_some())?;
        writer.word(self.ssrc)?;
        if let Some(info) = self.sender {
            writer.word((info.ntp >> 32) as u32)?;
            writer.word(info.ntp as u32)?;
            writer.word(info.rtp)?;
            writer.word(info.packets)?;
            writer.word(info.octets)?;
        }
        if let Some(block) = self.block {
            writer.word(block.ssrc)?;
            writer.word(u32::from(block.fraction) << 24 | block.lost as u32 & 0xff_ffff)?;
            writer.word(block.highest)?;
            writer.word(block.jitter)?;
            writer.word(block.lsr)?;
            writer.word(block.dlsr)?;
        }
        writer.close(start);

        let start = writer.open(DESCRIPTION, true)?;
        writer.word(self.ssrc)?;
        writer.bytes(&[SDES_CNAME, CNAME as u8])?;
        writer.bytes(self.cname)?;
        writer.bytes(&[0])?;
        while !writer.len.is_multiple_of(4) {
            writer.bytes(&[0])?;
        }
        writer.close(start);

        if self.bye {
            let start = writer.open(BYE, true)?;
            writer.word(self.ssrc)?;
            writer.close(start);
        }
        let Writer { out, len } = writer;
        out.get(..len)
    }
}

struct Writer<'b> {
    out: &'b mut [u8],
    len: usize,
}

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.len + bytes.len();
        self.out.get_mut(self.len..end)?.copy_from_slice(bytes);
        self.len = end;
        Some(())
    }

    fn word(&mut self, word: u32) -> Option<()> {
        self.bytes(&word.to_be_bytes())
    }

    /// Begins a packet about one thing or none.
    fn open(&mut self, kind: u8, one: bool) -> Option<usize> {
        let start = self.len;
        self.bytes(&[VERSION << 6 | u8::from(one), kind, 0, 0])?;
        Some(start)
    }

    /// Fills in the length of the packet that began there.
    fn close(&mut self, start: usize) {
        let words = (self.len - start) / 4 - 1;
        self.out[start + 2..start + 4].copy_from_slice(&(words as u16).to_be_bytes());
    }
}

/// Bits 7 and 6 of a packet's first byte.
const VERSION: u8 = 2;
const PADDING: u8 = 0x20;
/// How many blocks, chunks or sources follow.
const COUNT: u8 = 0x1f;

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const DESCRIPTION: u8 = 202;
const BYE: u8 = 203;

/// The item that names a source.
const SDES_CNAME: u8 = 1;
/// Kind and length before an item's text.
const SDES_ITEM: usize = 2;
/// SSRC and what a sender sent (bytes).
const SENDER_INFO: usize = 24;
/// One block (bytes).
const BLOCK: usize = 24;

/// 1 ms in 65,536ths of a second.
const ROUNDING: i32 = 65;
/// A minute: a call with such a round trip is over, so the report is about another time.
const LONGEST_TRIP: i32 = 60 << 16;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::leg::rtp::{dice::Dice, mutate};

    fn parts(datagram: &[u8]) -> Result<Vec<Part<'_>>, Malformed> {
        let mut parts = vec![];
        read(datagram, |part| parts.push(part)).map(|()| parts)
    }

    /// A sender's report with one block and a name, as a softphone sends it, with the extended report and the goodbye
    /// that some add.
    fn from_softphone() -> Vec<u8> {
        let mut bytes = vec![
            0x81, 0xc8, 0x00, 0x0c, 0x12, 0x34, 0x56, 0x78, // SR, 12 words follow
            0xe9, 0x2a, 0x10, 0x00, 0x80, 0x00, 0x00, 0x00, // NTP
            0x00, 0x00, 0x1f, 0x40, 0x00, 0x00, 0x00, 0x32, 0x00, 0x00, 0x1f,
            0x40, // RTP, 50 packets, 8000 octets
            0xca, 0xfe, 0xba, 0xbe, 0x40, 0xff, 0xff, 0xfe, // of us: a quarter lost, -2 in all
            0x00, 0x01, 0x00, 0x05, 0x00, 0x00, 0x00, 0x50, // highest, jitter
            0x00, 0x02, 0x80, 0x00, 0x00, 0x00, 0x80, 0x00, // LSR 2.5 s, DLSR 0.5 s
        ];
        bytes.extend([0x81, 0xca, 0x00, 0x03, 0x12, 0x34, 0x56, 0x78, 0x01, 0x04, b'a', b'@', b'b', b'c', 0, 0]);
        bytes.extend([0x80, 0xcf, 0x00, 0x01, 0x12, 0x34, 0x56, 0x78]); // XR
        bytes.extend([0x81, 0xcb, 0x00, 0x01, 0x12, 0x34, 0x56, 0x78]);
        bytes
    }

    const OF_US: Block = Block {
        ssrc: 0xcafe_babe,
        fraction: 0x40,
        lost: -2,
        highest: 0x1_0005,
        jitter: 80,
        lsr: 0x0002_8000,
        dlsr: 0x8000,
    };

    #[test]
    fn a_softphones_report_is_understood_and_what_we_do_not_know_is_skipped() {
        let info = SenderInfo { ntp: 0xe92a_1000_8000_0000, rtp: 8_000, packets: 50, octets: 8_000 };
        assert_eq!(
            parts(&from_softphone()).unwrap(),
            [
                Part::Sender { ssrc: 0x1234_5678, info },
                Part::Block { from: 0x1234_5678, block: OF_US },
                Part::Cname { ssrc: 0x1234_5678, name: b"a@bc" },
                Part::Bye { ssrc: 0x1234_5678 },
            ]
        );
    }

    #[test]
    fn the_round_trip_is_what_is_left_of_the_time_since_our_report() {
        // Our report of 2.5 s was kept for 0.5 s; the answer is here at 3.04 s.
        let trip = round_trip(Now::from_millis(3_040), &OF_US).unwrap();
        assert_eq!(trip.as_micros().div_ceil(100), 400);
        assert_eq!(round_trip(Now::from_secs(3), &OF_US), Some(Now::ZERO));
        assert_eq!(round_trip(Now::from_secs(2), &OF_US), None, "it is not in the future");
        assert_eq!(round_trip(Now::from_secs(300), &OF_US), None, "it is not minutes");
        assert_eq!(round_trip(Now::from_secs(3), &Block { lsr: 0, ..OF_US }), None);
    }

    #[test]
    fn what_does_not_add_up_tells_nothing_at_all() {
        let good = from_softphone();
        for len in 1..good.len() {
            if ![52, 68, 76].contains(&len) {
                assert_eq!(parts(&good[..len]), Err(Malformed::Short), "{len}");
            }
        }
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        assert_eq!(parts(&[]), Err(Malformed::Short));
        assert_eq!(parts(&with(0, 0x41)), Err(Malformed::Kind));
        assert_eq!(parts(&with(1, 0x80)), Err(Malformed::Kind));
        assert_eq!(parts(&with(0, 0x82)), Err(Malformed::Short), "a second block is promised");
        assert_eq!(parts(&with(0, 0xa1)), Err(Malformed::Padding), "only the last may be padded");
        assert_eq!(parts(&with(61, 0xff)), Err(Malformed::Short), "a name longer than its packet");
        assert_eq!(parts(&with(76, 0x82)), Err(Malformed::Short), "a second goodbye is promised");
        // An empty report, padded by a word.
        assert_eq!(parts(&[0xa0, 0xc9, 0, 2, 0, 0, 0, 1, 0, 0, 0, 4]), Ok(vec![]));
        assert_eq!(parts(&[0xa0, 0xc9, 0, 2, 0, 0, 0, 1, 0, 0, 0, 9]), Err(Malformed::Padding));
    }

    #[test]
    fn chunks_end_at_a_word_and_the_next_is_found() {
        let two = [
            0x82, 0xca, 0x00, 0x06, // two chunks
            0, 0, 0, 1, 0x01, 0x02, b'h', b'i', 0, 0, 0, 0, // a text that ends at a word: a whole word of zeros
            0, 0, 0, 2, 0x02, 0x01, b'N', 0x01, 0x01, b'x', 0, 0, // a name before the name
        ];
        assert_eq!(parts(&two).unwrap(), [Part::Cname { ssrc: 1, name: b"hi" }, Part::Cname { ssrc: 2, name: b"x" }]);
    }

    #[test]
    fn what_we_write_is_read_and_the_room_is_enough() {
        let cname = b"0123456789abcdef01234567";
        let info = SenderInfo { ntp: ntp(Now::from_millis(1_500)), rtp: 7, packets: 1, octets: 160 };
        let report = Report { ssrc: 9, sender: Some(info), block: Some(OF_US), cname, bye: true };
        let mut space = [0; MAX_REPORT];
        let bytes = report.write(&mut space).unwrap();
        assert_eq!(bytes.len(), MAX_REPORT);
        assert!(is_rtcp(bytes));
        assert_eq!(
            parts(bytes).unwrap(),
            [
                Part::Sender { ssrc: 9, info },
                Part::Block { from: 9, block: OF_US },
                Part::Cname { ssrc: 9, name: cname },
                Part::Bye { ssrc: 9 },
            ]
        );
        assert_eq!(info.ntp, 1 << 32 | 1 << 31);

        let report = Report { sender: None, block: None, bye: false, ..report };
        let bytes = report.write(&mut space).unwrap();
        assert_eq!(bytes[..8], [0x80, 201, 0, 1, 0, 0, 0, 9]);
        for len in 0..bytes.len() {
            assert_eq!(report.write(&mut [0; MAX_REPORT][..len]), None);
        }
    }

    #[test]
    fn on_a_shared_port_rtcp_is_told_by_its_second_byte() {
        assert!(is_rtcp(&from_softphone()));
        assert!(!is_rtcp(&[0x80, 0x80, 0, 1])); // PCMU with a marker
        assert!(!is_rtcp(&[0x80, 0xe5, 0, 1])); // telephone-event 101 with a marker
        assert!(!is_rtcp(&[0x80, 72 - 9, 0, 1]));
        assert!(!is_rtcp(&[0x00, 0xc8, 0, 1])); // STUN
        assert!(!is_rtcp(&[0x80]));
    }

    #[test]
    fn a_mutated_report_is_read_or_refused() {
        let mut dice = Dice::new(21);
        let mut read_ones = 0;
        for _ in 0..20_000 {
            let mut bytes = from_softphone();
            mutate(&mut dice, &mut bytes);
            let mut told = 0;
            let whole = read(&bytes, |_| told += 1);
            assert!(told <= bytes.len());
            match whole {
                Ok(()) => read_ones += 1,
                Err(_) => assert_eq!(told, 0),
            }
        }
        assert!(read_ones > 1_000, "{read_ones}");
    }
}
