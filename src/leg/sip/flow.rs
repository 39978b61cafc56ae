//! Where a message came from and where its answer goes.
//!
//! A flow is a name, not a socket: the transport knows which of its sockets is meant. It is `Copy`, so that whatever
//! has to answer later keeps one instead of a handle that can dangle.

use core::{fmt, net::SocketAddr};

/// What carries the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Datagrams: what is lost is sent again by the transactions.
    Udp,
    /// A byte stream.
    Tcp,
    /// A byte stream inside TLS.
    Tls,
}

impl Transport {
    /// Whether the transport itself repeats what was lost, so that the timers of a transaction need not.
    #[must_use]
    pub fn is_reliable(self) -> bool {
        match self {
            Self::Udp => false,
            Self::Tcp | Self::Tls => true,
        }
    }

    /// Its name in a Via header, RFC 3261 20.42.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One of our sockets and one peer at its other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// What carries it.
    pub transport: Transport,
    /// Which of our listening sockets it belongs to, counted by the transport.
    pub local: u8,
    /// The peer's address, which for a datagram is the address that it is sent to.
    pub remote: SocketAddr,
    /// Which connection, for a stream; 0 for datagrams. Never used twice, so that what is meant for a connection that
    /// is gone does not reach the next one from the same address.
    pub connection: u32,
}

impl Flow {
    /// Datagrams between our socket `local` and `remote`.
    #[must_use]
    pub fn udp(local: u8, remote: SocketAddr) -> Self {
        Self { transport: Transport::Udp, local, remote, connection: 0 }
    }

    /// Whether what is sent on it arrives or the flow fails.
    #[must_use]
    pub fn is_reliable(self) -> bool {
        self.transport.is_reliable()
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.transport, self.remote)
    }
}
