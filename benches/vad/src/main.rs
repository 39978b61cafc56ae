//! What voice activity detectors hear, and what they cost.
//!
//! `vad hear FOLDER` takes the WAVs that scripts/bench-vad made (16 kHz, mono; `speech-*` one utterance each, `babble-*`
//! for the noise), lays them out with pauses between, spoils them in several ways, and prints Markdown tables.
//! `vad cost FOLDER DETECTOR FRAMES` listens to so many frames and prints the time; callgrind counts the rest.

use std::{env, hint::black_box, path::Path, process::ExitCode, time::Instant};

use crate::{
    detectors::{Detector, NAMES},
    material::{Material, Track},
    media::{Rate, vad::HANG_OVER},
    score::Score,
};

mod detectors;
mod material;
#[path = "../../../src/media/mod.rs"]
pub mod media;
mod score;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args[..] {
        ["hear", folder] => Material::read(Path::new(folder)).map(|material| hear(&material)),
        ["cost", folder, name, frames] => cost(folder, name, frames),
        _ => Err("usage: vad hear FOLDER | vad cost FOLDER DETECTOR FRAMES".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("vad: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Every detector on every track.
fn hear(material: &Material) {
    println!(
        "| rate | track | detector | speech missed % | pauses taken for speech % | of utterances not heard | false starts | begin late p50 / p95 ms | end off p50 / p95 ms |\n\
         |---|---|---|---|---|---|---|---|---|"
    );
    for rate in [Rate::Hz8000, Rate::Hz16000] {
        for track in material.tracks(rate) {
            for &name in NAMES {
                // The others are here to choose by; once is enough.
                if rate != Rate::Hz8000 && name != "trunkline" {
                    continue;
                }
                let Some(mut detector) = Detector::open(name, rate) else { continue };
                let score = listen(&mut detector, &track, rate);
                println!("| {} | {} | {name} | {score} |", rate.hz() / 1000, track.name);
            }
        }
    }
}

fn listen(detector: &mut Detector, track: &Track, rate: Rate) -> Score {
    let mut score = Score::new(&track.spoken, rate, HANG_OVER);
    for frame in track.samples.chunks(rate.frame()) {
        let change = detector.push(frame);
        score.frame(frame.len(), detector.is_speech(), change, detector.spoken_until());
    }
    score
}

fn cost(folder: &str, name: &str, frames: &str) -> Result<(), String> {
    let frames: usize = frames.parse().map_err(|_| format!("{frames} is no number"))?;
    let rate = Rate::Hz8000;
    let mut detector = Detector::open(name, rate).ok_or_else(|| format!("{name}: one of {}", NAMES.join(", ")))?;
    let material = Material::read(Path::new(folder))?;
    let track = material.tracks(rate).next().ok_or("no track")?;
    let before = Instant::now();
    let mut speech = 0;
    for frame in track.samples.chunks_exact(rate.frame()).cycle().take(frames) {
        black_box(detector.push(black_box(frame)));
        speech += usize::from(detector.is_speech());
    }
    let ns = before.elapsed().as_nanos() as f64 / frames as f64;
    println!("{name}: {ns:.0} ns a frame of 20 ms at {rate}, {speech} of {frames} in speech");
    Ok(())
}
