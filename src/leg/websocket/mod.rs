//! A WebSocket, in either role: how it is dialled and accepted, and what is said over it.
//!
//! [`dial`] and [`upgrade`] bring a connection up on the dial thread; [`link`] and [`leg`] carry it on a media thread.

pub mod dial;
pub mod dialer;
pub mod greeting;
pub mod jwt;
pub mod leg;
pub mod link;
pub mod liveness;
pub mod tls;
pub mod upgrade;
pub mod utf8;
pub mod wire;

pub use self::leg::Leg;
