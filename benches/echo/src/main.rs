//! What echo cancellers leave, and what they cost.
//!
//! `echo hear` takes the rooms of `tests/echo/scene.rs` and prints a Markdown table of what each canceller leaves of them,
//! with either voice in the room. `echo cost CANCELLER RATE PIECES` cleans so many pieces of 10 ms and prints the time;
//! callgrind counts the rest.

use std::{env, hint::black_box, mem::swap, process::ExitCode, time::Instant};

use crate::{
    cancellers::{Canceller, NAMES},
    media::Rate,
    scene::{BOOTH, HALL, Scene, Voices},
};

mod cancellers;
#[path = "../../../src/leg/sound/echo.rs"]
mod echo;
#[path = "../../../src/media/mod.rs"]
pub mod media;
#[path = "../../../tests/echo/scene.rs"]
mod scene;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args[..] {
        ["hear"] => hear(),
        ["cost", name, rate, pieces] => cost(name, rate, pieces),
        _ => Err("usage: echo hear | echo cost CANCELLER RATE PIECES".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("echo: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Every canceller in every room.
fn hear() -> Result<(), String> {
    println!(
        "| rate | room | in the room | canceller | echo quieter by dB | double talk: correlation | its level dB | the person's dB | later ms |\n\
         |---|---|---|---|---|---|---|---|---|"
    );
    for rate in Rate::ALL {
        let mut voices = Voices::at(rate.hz())?;
        for person in ["recorded", "synthetic"] {
            for room in [BOOTH, HALL] {
                let scene = Scene::new(&voices, room);
                for name in ["nothing"].iter().chain(NAMES) {
                    let Some(mut canceller) = Canceller::open(name, rate) else { continue };
                    let verdict = scene.judge(&cleaned(&mut canceller, &scene, rate));
                    println!(
                        "| {} | {} | {person} | {name} | {:.1} | {:.3} | {:+.1} | {:+.1} | {:.1} |",
                        rate.hz() / 1000,
                        room.name,
                        verdict.loss_db,
                        verdict.correlation,
                        verdict.level_db,
                        verdict.person_db,
                        verdict.delay_ms
                    );
                }
            }
            swap(&mut voices.agent, &mut voices.person);
        }
    }
    Ok(())
}

fn cleaned(canceller: &mut Canceller, scene: &Scene, rate: Rate) -> Vec<i16> {
    let piece = rate.samples(10);
    let mut heard = scene.heard.clone();
    for (played, heard) in scene.played.chunks_exact(piece).zip(heard.chunks_exact_mut(piece)) {
        canceller.process(played, heard);
    }
    heard
}

fn cost(name: &str, rate: &str, pieces: &str) -> Result<(), String> {
    let pieces: usize = pieces.parse().map_err(|_| format!("{pieces} is no number"))?;
    let rate = rate.parse().ok().and_then(Rate::from_hz).ok_or_else(|| format!("{rate} is no rate of ours"))?;
    let mut canceller =
        Canceller::open(name, rate).ok_or_else(|| format!("{name} at {rate}: one of {}", NAMES.join(", ")))?;
    let piece = rate.samples(10);
    let scene = Scene::new(&Voices::at(rate.hz())?, BOOTH);
    let mut samples = vec![0; piece];
    let mut ns = Vec::with_capacity(pieces);
    let allocations = allocation_counter::measure(|| {
        let both = scene.played.chunks_exact(piece).zip(scene.heard.chunks_exact(piece));
        for (played, heard) in both.cycle().take(pieces) {
            samples.copy_from_slice(heard);
            let before = Instant::now();
            canceller.process(black_box(played), black_box(&mut samples));
            ns.push(before.elapsed().as_nanos());
        }
    });
    ns.sort_unstable();
    let (median, p99) = (ns[pieces / 2], ns[pieces * 99 / 100]);
    let allocations = allocations.count_total as f64 / pieces as f64;
    println!("{name}: {median} ns, p99 {p99} ns, {allocations:.1} allocations in 10 ms at {rate}");
    Ok(())
}
