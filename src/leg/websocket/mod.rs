//! A WebSocket, in either role: how it is dialled and accepted, and what is said over it.
//!
//! [`dial`], [`door`] and [`upgrade`] bring a connection up on the dial thread; [`link`] and [`leg`] carry it on a media
//! thread.

pub mod admission;
pub mod certificate;
pub mod dial;
pub mod dialer;
pub mod door;
pub mod endpoint;
pub mod greeting;
pub mod jwt;
pub mod leg;
pub mod link;
pub mod liveness;
pub mod outbound;
pub mod sources;
pub mod tls;
pub mod upgrade;
pub mod utf8;
pub mod welcome;
pub mod wire;

pub use self::leg::Leg;
