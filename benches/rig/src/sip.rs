//! A phone that calls by SIP and RTP, as far as a benchmark needs it: INVITE, ACK, audio both ways, BYE.
//!
//! RFC 3261, RFC 3550. Nothing is sent again, because loopback loses nothing; nothing is refreshed, because no run lasts
//! for so long.

use std::{
    io::{self, Write},
    net::{SocketAddr, UdpSocket},
    str::FromStr,
    time::Duration,
};

use crate::line::FRAME;

/// What the audio is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// G.711 mu-law.
    Pcmu,
    /// G.722. Nothing is coded here: what a system's decoder costs does not hang on what it hears.
    G722,
}

impl FromStr for Codec {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "pcmu" => Ok(Self::Pcmu),
            "g722" => Ok(Self::G722),
            _ => Err(()),
        }
    }
}

impl Codec {
    /// Payload type and name of RFC 3551. Both have a clock of 8000 Hz and a byte a tick.
    const fn named(self) -> (u8, &'static str) {
        match self {
            Self::Pcmu => (0, "PCMU"),
            Self::G722 => (9, "G722"),
        }
    }
}

/// One call that was answered.
#[derive(Debug)]
pub struct Call {
    codec: Codec,
    rtp: UdpSocket,
    /// Reports are taken and not read.
    _rtcp: UdpSocket,
    signalling: UdpSocket,
    /// What every request in the dialog says: its target, and its headers but Via and CSeq.
    target: String,
    dialog: String,
    via: String,
    sequence: u16,
    timestamp: u32,
    ssrc: u32,
    packet: Vec<u8>,
}

impl Call {
    /// Places the call and waits until it is answered.
    ///
    /// # Errors
    /// It is not, or a socket cannot be had.
    pub fn place(line: SocketAddr, number: usize, codec: Codec) -> io::Result<Self> {
        let open = || UdpSocket::bind("127.0.0.1:0");
        let (signalling, rtp, rtcp) = (open()?, open()?, open()?);
        signalling.connect(line)?;
        signalling.set_read_timeout(Some(Duration::from_secs(10)))?;
        let (here, port, rtcp_port) = (signalling.local_addr()?, rtp.local_addr()?.port(), rtcp.local_addr()?.port());
        let (kind, name) = codec.named();
        let sdp = format!(
            "v=0\r\no=rig 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {port} RTP/AVP {kind}\r\n\
             a=rtpmap:{kind} {name}/8000\r\na=ptime:20\r\na=rtcp:{rtcp_port}\r\na=sendrecv\r\n"
        );
        let via = format!("Via: SIP/2.0/UDP {here};branch=z9hG4bK-rig-{}-{number}", here.port());
        let mut headers = format!(
            "Max-Forwards: 70\r\nFrom: <sip:rig@{here}>;tag=rig{number}\r\nCall-ID: rig-{number}-{}\r\n",
            here.port()
        );
        let called = format!("sip:700@{line}");
        let invite = format!(
            "INVITE {called} SIP/2.0\r\n{via}-1\r\n{headers}To: <{called}>\r\nCSeq: 1 INVITE\r\n\
             Contact: <sip:rig@{here}>\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}",
            sdp.len()
        );
        signalling.send(invite.as_bytes())?;
        let mut space = [0; 4096];
        let answer = loop {
            let n = signalling.recv(&mut space)?;
            let text = String::from_utf8_lossy(&space[..n]);
            match text.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok()) {
                Some(100..200) => {}
                Some(200) => break text.into_owned(),
                _ => return Err(io::Error::other(text.lines().next().unwrap_or_default().to_owned())),
            }
        };
        let odd = |what: &str| io::Error::other(format!("the answer has no {what}"));
        let line_of = |name: &str| answer.lines().find(|line| line.starts_with(name));
        let contact = line_of("Contact:").and_then(|line| line.split(['<', '>']).nth(1));
        let target = contact.ok_or_else(|| odd("Contact"))?.to_owned();
        headers.push_str(line_of("To:").ok_or_else(|| odd("To"))?);
        headers.push_str("\r\n");
        let port = line_of("m=audio ").and_then(|line| line.split(' ').nth(1)?.parse().ok());
        rtp.connect((line.ip(), port.ok_or_else(|| odd("audio"))?))?;
        let call = Self {
            codec,
            rtp,
            _rtcp: rtcp,
            signalling,
            target,
            dialog: headers,
            via,
            sequence: number as u16,
            timestamp: 0,
            ssrc: 0x7269_0000 + number as u32,
            packet: Vec::with_capacity(12 + FRAME),
        };
        call.request("ACK", 1)?;
        call.signalling.set_nonblocking(true)?;
        call.rtp.set_nonblocking(true)?;
        Ok(call)
    }

    /// What its audio is.
    #[must_use]
    pub const fn codec(&self) -> Codec {
        self.codec
    }

    /// Its sockets: audio, and signalling.
    ///
    /// # Errors
    /// There are no more to be had.
    pub fn readers(&self) -> io::Result<[UdpSocket; 2]> {
        Ok([self.rtp.try_clone()?, self.signalling.try_clone()?])
    }

    /// Sends 20 ms.
    ///
    /// # Errors
    /// The socket took none of it.
    pub fn send(&mut self, frame: &[i16; FRAME]) -> io::Result<()> {
        let Self { codec, packet, .. } = self;
        packet.clear();
        packet.extend([0x80, codec.named().0]);
        packet.extend(self.sequence.to_be_bytes());
        packet.extend(self.timestamp.to_be_bytes());
        packet.extend(self.ssrc.to_be_bytes());
        packet.extend(frame.iter().map(|&sample| match codec {
            Codec::Pcmu => encode(sample),
            Codec::G722 => (sample >> 4) as u8,
        }));
        self.sequence = self.sequence.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(FRAME as u32);
        self.rtp.send(packet).map(drop)
    }

    /// Ends the call; whether the other side heard it is not waited for.
    ///
    /// # Errors
    /// The socket did not take it.
    pub fn hang_up(&self) -> io::Result<()> {
        self.request("BYE", 2)
    }

    fn request(&self, method: &str, number: u32) -> io::Result<()> {
        let Self { target, dialog, via, .. } = self;
        let mut text = Vec::with_capacity(512);
        write!(
            text,
            "{method} {target} SIP/2.0\r\n{via}-{method}\r\n{dialog}CSeq: {number} {method}\r\nContent-Length: 0\r\n\r\n"
        )?;
        self.signalling.send(&text).map(drop)
    }
}

/// The samples of an RTP packet of mu-law, without extensions or padding; none of what is none.
pub fn samples(packet: &[u8]) -> impl Iterator<Item = i16> + '_ {
    let payload = match packet.split_at_checked(12) {
        Some((&[0x80, kind, ..], payload)) if kind & 0x7f == 0 => payload,
        Some(_) | None => &[],
    };
    payload.iter().map(|&code| decode(code))
}

/// ITU-T G.711, mu-law.
fn encode(sample: i16) -> u8 {
    let magnitude = i32::from(sample).abs().min(32_635) + BIAS;
    let exponent = magnitude.ilog2() - 7;
    let mantissa = (magnitude >> (exponent + 3)) as u8 & 15;
    !(u8::from(sample < 0) << 7 | (exponent as u8) << 4 | mantissa)
}

fn decode(code: u8) -> i16 {
    let code = !code;
    let magnitude = ((i32::from(code & 15) * 8 + BIAS) << (code >> 4 & 7)) - BIAS;
    (if code < 128 { magnitude } else { -magnitude }) as i16
}

const BIAS: i32 = 132;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mark::{Filling, Finder};

    #[test]
    fn what_mu_law_can_say_stays_what_it_is() {
        for code in (0..=255).filter(|&code| code != 0x7f) {
            assert_eq!(encode(decode(code)), code);
        }
        assert_eq!((decode(0x80), decode(0), decode(0xff)), (32_124, -32_124, 0));
    }

    #[test]
    fn a_mark_goes_through_mu_law() {
        let (mut filling, mut frame) = (Filling::default(), [0; FRAME]);
        for (call, number) in [(0, 0), (49, 8_191), (1_000, 65_535)] {
            filling.write(call, number, &mut frame);
            let packet: Vec<u8> =
                [0x80, 0].into_iter().chain([0; 10]).chain(frame.iter().map(|&sample| encode(sample))).collect();
            let mut finder = Finder::default();
            let found: Vec<_> = samples(&packet).filter_map(|sample| finder.push(sample)).collect();
            assert_eq!(found, [(usize::from(call), number as usize)]);
        }
    }
}
