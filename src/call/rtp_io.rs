//! The sockets of a line that is RTP, and what goes over them: the media thread's half of a SIP call.
//!
//! ```text
//!   INVITE: sockets, nothing goes over them      183: our ringing tone goes out      ACK: both ways
//! ```

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsFd, AsRawFd as _},
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::{
    errno::Errno,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrStorage, cmsg_space, recvmsg, setsockopt, sockopt::ReceiveTimestampns,
    },
};
use rustix::net::SendFlags;
use tokio::io::ReadBuf;

use crate::{
    clock,
    leg::{
        rtp::session::{self, Got, Input, MAX_PACKET, Session},
        sip::sdp::Media,
    },
    media::{Now, codec::Codec, jitter::Bounds, tone::Ringing},
};

/// A line that is RTP, as the control thread hands it over.
#[derive(Debug)]
pub struct NewRtp {
    /// RTP's socket, nonblocking.
    pub rtp: std::net::UdpSocket,
    /// RTCP's, on the port behind it.
    pub rtcp: std::net::UdpSocket,
    /// What will most likely be spoken.
    pub codec: Codec,
    /// What the config says.
    pub setup: RtpSetup,
}

/// What the config says of a call's RTP.
#[derive(Clone, Copy, Debug)]
pub struct RtpSetup {
    /// The peer's audio may come from another address than its description names.
    pub learn: bool,
    /// The agent does not learn which keys are pressed.
    pub mask_dtmf: bool,
    /// Between what the time is kept for which late packets are waited for.
    pub bounds: Bounds,
    /// A call without RTP for so long is over, unless it is on hold.
    pub timeout: Option<Now>,
    /// While the caller is on hold the agent is sent silence; otherwise nothing.
    pub hold_silence: bool,
    /// A call that is on hold for so long is over.
    pub hold_limit: Option<Now>,
    /// Drawn from the kernel.
    pub seed: u64,
}

/// A line that is RTP.
pub(super) struct RtpIo {
    /// Read on the call's tick, because nothing is done with a packet before it, and to be woken for each costs as much as
    /// all the rest (benches/RESULTS.md). When it came the kernel tells, so neither jitter nor delay knows the difference.
    rtp: std::net::UdpSocket,
    /// Read when something comes, once in some seconds.
    rtcp: tokio::net::UdpSocket,
    /// They are for both families, and know IPv4 by its mapped form only.
    maps_v4: bool,
    setup: RtpSetup,
    session: Option<Box<Session>>,
    /// The caller is there.
    is_up: bool,
    /// The control thread has not been told yet that a trunk took the call.
    pub(super) owes_answer: bool,
    ringing: Ringing,
    /// Since when the caller is on hold.
    held_since: Option<Now>,
}

/// Why the audio of a line is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silent {
    /// Nothing came for too long.
    TimedOut,
    /// The caller was on hold for too long.
    HeldTooLong,
}

impl RtpIo {
    pub(super) fn open(new: NewRtp) -> io::Result<Self> {
        let rate = new.codec.rate();
        // Where the kernel does not know when, a packet came on the tick that read it.
        let _ = setsockopt(&new.rtp, ReceiveTimestampns, &true);
        let maps_v4 = new.rtp.local_addr()?.is_ipv6();
        Ok(Self {
            maps_v4,
            rtp: new.rtp,
            rtcp: tokio::net::UdpSocket::from_std(new.rtcp)?,
            setup: new.setup,
            session: None,
            is_up: false,
            owes_answer: false,
            ringing: Ringing::new(rate),
            held_since: None,
        })
    }

    /// The two sides agreed on how the audio goes. With `up` the caller is there; before, only our ringing tone goes out.
    /// Says whether the caller was put on hold by it, or came back.
    pub(super) fn set_media(&mut self, now: Now, media: Media, up: bool) -> Option<bool> {
        let is_held = media.hold;
        match &mut self.session {
            Some(session) => session.renegotiate(now, media),
            None => {
                let RtpSetup { learn, mask_dtmf, bounds, timeout, seed, .. } = self.setup;
                let setup = session::Setup { media, learn, mask_dtmf, bounds, timeout, seed };
                self.session = Some(Box::new(Session::open(now, setup)));
            }
        }
        self.is_up |= up;
        let was_held = self.held_since.is_some();
        self.held_since = is_held.then(|| self.held_since.unwrap_or(now));
        (self.is_up && was_held != is_held).then_some(is_held)
    }

    /// Whether the caller is there, and not on hold: nothing that the agent says is played to nobody.
    pub(super) const fn takes_frames(&self) -> bool {
        self.is_up && self.held_since.is_none()
    }

    /// So many ticks went by without a frame: for the phone they are a gap.
    pub(super) fn skip(&mut self, ticks: usize) {
        if let Some(session) = self.session.as_deref_mut().filter(|_| self.is_up) {
            session.missed(u32::try_from(ticks).unwrap_or(u32::MAX));
        }
    }

    /// A tick on which nothing of the agent goes out: nobody is there to hear it, or the caller is on hold.
    pub(super) fn rest(&mut self) {
        if let Some(session) = self.session.as_deref_mut().filter(|_| self.is_up) {
            session.rest();
        }
    }

    /// Whether the agent is not to learn which keys are pressed.
    pub(super) const fn masks_dtmf(&self) -> bool {
        self.setup.mask_dtmf
    }

    /// What is spoken.
    pub(super) fn codec(&self) -> Option<Codec> {
        self.session.as_deref().map(Session::codec)
    }

    /// What the audio was like so far.
    pub(super) fn tally(&self) -> Option<session::Tally> {
        self.session.as_deref().map(Session::tally)
    }

    /// A key is to be pressed in RTP. `false`: the peer takes none there.
    pub(super) fn press(&mut self, digit: u8) -> bool {
        self.session.as_deref_mut().is_some_and(|session| session.send_digit(digit))
    }

    /// Reads what came since the last tick where RTP comes, and tells of each datagram its size, and what it said beside
    /// the voice.
    pub(super) fn read(&mut self, now: Now, space: &mut [u8], mut tell: impl FnMut(usize, Option<Input>)) {
        let mut clocks = None;
        for _ in 0..MOST_A_TICK {
            let Ok((n, from, stamp)) = receive(&self.rtp, space) else { return };
            let input = match &mut self.session {
                Some(session) => {
                    let (wall, here) = *clocks.get_or_insert_with(|| (wall(), clock::now()));
                    let age = stamp.map_or(Duration::ZERO, |stamp| wall.saturating_sub(stamp));
                    let came = if age < OLDEST { here.saturating_sub(age).min(now) } else { now };
                    session.handle_packet(came, from, &space[..n])
                }
                None => None,
            };
            tell(n, input);
        }
    }

    /// Reads one datagram where RTCP comes; says how many bytes that were.
    pub(super) fn poll_rtcp(&mut self, now: Now, context: &mut Context<'_>, space: &mut [u8]) -> Poll<usize> {
        loop {
            let mut buffer = ReadBuf::new(space);
            match self.rtcp.poll_recv_from(context, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(from)) => {
                    let bytes = buffer.filled();
                    if let Some(session) = &mut self.session {
                        session.handle_rtcp(now, from, bytes);
                    }
                    return Poll::Ready(bytes.len());
                }
                // A peer's port that is closed, as ICMP tells: weather.
                Poll::Ready(Err(_)) => {}
            }
        }
    }

    /// The caller's next 20 ms. `false`: there is nothing to be heard of the caller now.
    pub(super) fn poll_frame(&mut self, now: Now, out: &mut [i16]) -> bool {
        match self.session.as_deref_mut().filter(|_| self.is_up).map(|session| session.poll_frame(now, out)) {
            Some(Got::Held) => self.setup.hold_silence,
            Some(Got::Audio(_) | Got::Masked) => true,
            None => false,
        }
    }

    /// Sends the agent's next 20 ms; says how many bytes that took.
    pub(super) fn write(&mut self, now: Now, frame: &[i16]) -> usize {
        let Some(session) = self.session.as_deref_mut() else { return 0 };
        let mut packet = [0; MAX_PACKET];
        let Some(packet) = session.write_frame(now, frame, &mut packet) else { return 0 };
        let Some(peer) = session.peer() else { return 0 };
        send_to(&self.rtp, packet, peer, self.maps_v4)
    }

    /// A tick without the agent: our ringing tone where there is early media, and reports.
    pub(super) fn tick(&mut self, now: Now, frame: &mut [i16]) -> Option<Silent> {
        if !self.is_up && self.session.is_some() {
            self.ringing.fill(frame);
            self.write(now, frame);
        }
        let session = self.session.as_deref_mut()?;
        let mut report = [0; MAX_PACKET];
        if let Some(report) = session.poll_rtcp(now, &mut report)
            && let Some(peer) = session.rtcp_peer()
        {
            let socket = if session.is_muxed() { self.rtp.as_fd() } else { self.rtcp.as_fd() };
            send_to(socket, report, peer, self.maps_v4);
        }
        if self.held_since.zip(self.setup.hold_limit).is_some_and(|(since, limit)| now.saturating_sub(since) >= limit) {
            return Some(Silent::HeldTooLong);
        }
        (self.is_up && session.is_silent(now)).then_some(Silent::TimedOut)
    }

    /// The last word: RTCP's goodbye.
    pub(super) fn close(&mut self, now: Now) {
        let Some(session) = self.session.as_deref_mut() else { return };
        let mut goodbye = [0; MAX_PACKET];
        if let Some(goodbye) = session.bye(now, &mut goodbye)
            && let Some(peer) = session.rtcp_peer()
        {
            let socket = if session.is_muxed() { self.rtp.as_fd() } else { self.rtcp.as_fd() };
            send_to(socket, goodbye, peer, self.maps_v4);
        }
    }
}

/// Takes a datagram, and when it came by the wall clock.
fn receive(socket: &std::net::UdpSocket, space: &mut [u8]) -> Result<(usize, SocketAddr, Option<Duration>), Errno> {
    let mut told = [0; STAMP];
    let mut slices = [IoSliceMut::new(space)];
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut told), MsgFlags::MSG_DONTWAIT)?;
    let stamp = message.cmsgs().ok().and_then(|mut told| {
        told.find_map(|what| if let ControlMessageOwned::ScmTimestampns(at) = what { Some(at) } else { None })
    });
    let stamp = stamp.and_then(|at| Some(Duration::new(u64::try_from(at.tv_sec()).ok()?, at.tv_nsec() as u32)));
    let from = message.address.as_ref().ok_or(Errno::EAFNOSUPPORT)?;
    let v4 = from.as_sockaddr_in().map(|from| SocketAddrV4::new(from.ip(), from.port()).into());
    let v6 = || from.as_sockaddr_in6().map(|from| SocketAddrV6::new(from.ip(), from.port(), 0, from.scope_id()).into());
    Ok((message.bytes, v4.or_else(v6).ok_or(Errno::EAFNOSUPPORT)?, stamp))
}

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// What the kernel does not take is lost, as a packet may be anywhere.
fn send_to(socket: impl AsFd, bytes: &[u8], mut peer: SocketAddr, maps_v4: bool) -> usize {
    if maps_v4 && let IpAddr::V4(address) = peer.ip() {
        peer.set_ip(address.to_ipv6_mapped().into());
    }
    rustix::net::sendto(socket, bytes, SendFlags::DONTWAIT, &peer).unwrap_or(0)
}

/// Datagrams that a call reads on a tick: more than the jitter buffer keeps. Who sends more does so at the cost of this
/// call alone.
const MOST_A_TICK: usize = 64;

/// Room for what the kernel tells of a datagram.
const STAMP: usize = cmsg_space::<nix::sys::time::TimeSpec>();

/// A packet that waited for longer did not: the wall clock was set.
const OLDEST: Duration = Duration::from_secs(1);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn socket(address: &str) -> std::net::UdpSocket {
        std::net::UdpSocket::bind(address).unwrap()
    }

    #[test]
    fn the_kernel_tells_when_a_packet_came_and_not_when_it_was_read() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            // A machine without IPv6 has half of this.
            let Ok(ours) = std::net::UdpSocket::bind(address) else { continue };
            setsockopt(&ours, ReceiveTimestampns, &true).unwrap();
            let peer = socket(address);
            let mut before = wall();
            // The kernel begins to note times a moment after the first socket asks it to.
            for packet in 0..3_u8 {
                peer.send_to(&[0x80, 0, 0, packet, 9], ours.local_addr().unwrap()).unwrap();
                let sent = wall();
                let mut space = [0; 64];
                let (n, from, stamp) = receive(&ours, &mut space).unwrap();
                assert_eq!((&space[..n], from), (&[0x80, 0, 0, packet, 9][..], peer.local_addr().unwrap()));
                let stamp = stamp.unwrap();
                assert!(before <= stamp, "{before:?} {stamp:?} {sent:?}");
                before = sent;
            }
            assert_eq!(receive(&ours, &mut [0; 64]), Err(Errno::EAGAIN));
        }
    }

    #[test]
    fn a_datagram_of_nothing_is_one_and_a_long_one_is_cut() {
        let (ours, peer) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
        for bytes in [&b""[..], &[7; 100]] {
            peer.send_to(bytes, ours.local_addr().unwrap()).unwrap();
            let (n, _, stamp) = receive(&ours, &mut [0; 64]).unwrap();
            assert_eq!((n, stamp), (bytes.len().min(64), None));
        }
    }
}
