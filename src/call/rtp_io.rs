//! The sockets of a line that is RTP, and what goes over them: the media thread's half of a SIP call.
//!
//! ```text
//!   INVITE: sockets, nothing goes over them      183: our ringing tone goes out      ACK: both ways
//! ```

use std::{
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    task::{Context, Poll},
};

use socket2::SockRef;
use tokio::{io::ReadBuf, net::UdpSocket};

use crate::{
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
    /// RTP's socket and RTCP's.
    pub(super) sockets: [Rc<UdpSocket>; 2],
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
        let maps_v4 = new.rtp.local_addr()?.is_ipv6();
        Ok(Self {
            maps_v4,
            sockets: [Rc::new(UdpSocket::from_std(new.rtp)?), Rc::new(UdpSocket::from_std(new.rtcp)?)],
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

    /// Reads one datagram of either socket; says how many bytes came, and what they told beside the voice.
    pub(super) fn poll_read(
        &mut self,
        now: Now,
        context: &mut Context<'_>,
        space: &mut [u8],
    ) -> Poll<(usize, Option<Input>)> {
        for (at, socket) in self.sockets.iter().enumerate() {
            let mut buffer = ReadBuf::new(space);
            // An error here is a peer's port that is closed, as ICMP tells: weather.
            let Poll::Ready(Ok(from)) = socket.poll_recv_from(context, &mut buffer) else { continue };
            let bytes = buffer.filled();
            let Some(session) = self.session.as_deref_mut() else { return Poll::Ready((bytes.len(), None)) };
            let input = if at == RTP {
                session.handle_packet(now, from, bytes)
            } else {
                session.handle_rtcp(now, from, bytes);
                None
            };
            return Poll::Ready((bytes.len(), input));
        }
        Poll::Pending
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
        send_to(&self.sockets[RTP], packet, peer, self.maps_v4)
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
            let socket = if session.is_muxed() { &self.sockets[RTP] } else { &self.sockets[RTCP] };
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
            let socket = if session.is_muxed() { &self.sockets[RTP] } else { &self.sockets[RTCP] };
            send_to(socket, goodbye, peer, self.maps_v4);
        }
    }
}

/// What the kernel does not take is lost, as a packet may be anywhere.
fn send_to(socket: &UdpSocket, bytes: &[u8], mut peer: SocketAddr, maps_v4: bool) -> usize {
    if maps_v4 && let IpAddr::V4(address) = peer.ip() {
        peer.set_ip(address.to_ipv6_mapped().into());
    }
    SockRef::from(socket).send_to(bytes, &peer.into()).unwrap_or(0)
}

const RTP: usize = 0;
const RTCP: usize = 1;
