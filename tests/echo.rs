//! The echo canceller of sound lines in two rooms that are made here: a booth, and a hall whose loudspeaker is driven
//! too hard.
//!
//! This is a smoke test. The rooms stand still, the noise is even, the clocks agree and nobody walks about: what it
//! proves is that the canceller is in its place, fed in the right order at every rate, and set to let whoever
//! interrupts be heard. How well it does in a room of yours, only that room can tell.
//!
//! `scripts/setup test` installs the voices. Where they are missing nothing is tested here, unless `CI` is set.

#![cfg(feature = "aec")]

use std::env;

use trunkline::{leg::sound::echo::Canceller, media::Rate};

use crate::scene::{BOOTH, HALL, Room, Scene, Verdict, Voices};

#[path = "echo/scene.rs"]
mod scene;

/// What the canceller leaves of this room at this rate.
fn heard_in(room: Room, rate: Rate) -> Option<Verdict> {
    let voices = match Voices::at(rate.hz()) {
        Ok(voices) => voices,
        Err(why) if env::var_os("CI").is_some() => panic!("{why}: scripts/setup test installs it"),
        Err(why) => {
            println!("not run: {why}, scripts/setup test installs it");
            return None;
        }
    };
    let scene = Scene::new(&voices, room);
    let mut canceller = Canceller::new(rate);
    let mut samples = scene.heard.clone();
    for (played, heard) in scene.played.chunks_exact(rate.samples(10)).zip(samples.chunks_exact_mut(rate.samples(10))) {
        canceller.played(played);
        canceller.clean(heard);
    }
    let verdict = scene.judge(&samples);
    println!("{rate}, {}: {verdict:.2?}", room.name);
    Some(verdict)
}

/// 25 dB less echo after 3 s; of a person who speaks at the same time nine tenths are heard, at a level within 3 dB.
#[track_caller]
fn check(room: Room, rate: Rate) {
    let Some(verdict) = heard_in(room, rate) else { return };
    assert!(verdict.loss_db >= 25.0, "the echo is only {:.1} dB quieter", verdict.loss_db);
    assert!(verdict.correlation >= 0.9, "the person is heard by only {:.3}", verdict.correlation);
    assert!(verdict.level_db.abs() <= 3.0, "it is {:.1} dB louder than the person", verdict.level_db);
    assert!(verdict.person_db.abs() <= 3.0, "the person is {:.1} dB louder than before", verdict.person_db);
    assert!(verdict.delay_ms <= 12.0, "it comes {} ms later", verdict.delay_ms);
}

#[test]
fn an_agent_in_a_booth_does_not_hear_itself_and_can_be_interrupted() {
    check(BOOTH, Rate::Hz16000);
}

#[test]
fn an_agent_in_a_hall_with_a_bad_loudspeaker_does_not_hear_itself_and_can_be_interrupted() {
    check(HALL, Rate::Hz16000);
}

#[test]
fn a_telephone_rate_is_no_worse_in_a_booth() {
    check(BOOTH, Rate::Hz8000);
}

#[test]
fn a_telephone_rate_is_no_worse_in_a_hall() {
    check(HALL, Rate::Hz8000);
}

#[test]
fn a_models_rate_is_no_worse_in_a_booth() {
    check(BOOTH, Rate::Hz24000);
}

#[test]
fn a_sound_cards_rate_is_no_worse_in_a_booth() {
    check(BOOTH, Rate::Hz48000);
}

#[test]
fn a_sound_cards_rate_is_no_worse_in_a_hall() {
    check(HALL, Rate::Hz48000);
}
