//! Proof that `media` and `dialect` need no standard library.
//!
//! Both folders are built here a second time, by path, in a crate that has none: what compiles cannot take a clock, a
//! lock, a socket or a log line. The only heap is what `dialect::open` and `Jitter::open` box, once a call.
//!
//! `cargo check` proves it on any host, because without `std` in scope nothing of it can be named. Where the target is
//! installed, `cargo check --target thumbv7em-none-eabi` proves it for the dependencies, too.

#![no_std]
#![forbid(unsafe_code)]

#[path = "../../../src/dialect/mod.rs"]
pub mod dialect;
#[path = "../../../src/media/mod.rs"]
pub mod media;
