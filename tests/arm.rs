//! A call with the binary for another processor, under an emulator: `cross/aarch64 --quick` builds it. Where that has not run
//! nothing is tested here, unless `CI` is set.

#![allow(clippy::unwrap_used)]

mod site;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use site::{Process, SOON};

const TRIPLE: &str = "aarch64-unknown-linux-gnu";

fn binary() -> Option<PathBuf> {
    let cross = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cross");
    let binary = cross.join(TRIPLE).join(TRIPLE).join("quick/trunkline");
    if binary.exists() {
        return Some(binary);
    }
    let told = "there is no binary for aarch64; run cross/aarch64 --quick";
    assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "{told}");
    println!("not run: {told}");
    None
}

#[test]
fn the_aarch64_binary_makes_a_call_under_an_emulator() {
    let Some(binary) = binary() else { return };
    let bytes = fs::read(&binary).unwrap();
    // elf(5): e_machine, EM_AARCH64.
    assert_eq!(bytes[18..20], 183_u16.to_le_bytes());
    // What it is linked with, from the libraries of that processor.
    for library in ["libsystemd.so.0", "libasound.so.2"] {
        assert!(bytes.windows(library.len()).any(|window| window == library.as_bytes()), "it has no {library}");
    }
    let demo = || {
        let mut demo = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("cross/demo"));
        Process::start(demo.args(["--quick", TRIPLE])).wait(9 * SOON)
    };
    // Unoptimised and emulated it is slow: where the machine was busy as well, delay is given back, and it is tried again.
    let (mut status, mut said) = demo();
    if !status.success() {
        println!("once more, because: {said}");
        (status, said) = demo();
    }
    assert!(status.success(), "{said}");
    let summary = said.lines().rfind(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{said}"));
    println!("{summary}");
    let summary: Value = serde_json::from_str(summary).unwrap();
    assert_eq!(
        (&summary["ok"], &summary["bit_exact"], &summary["lost"]),
        (&true.into(), &true.into(), &0.into()),
        "{summary}"
    );
    assert_eq!(summary["frames_heard"], summary["frames_sent"]);
}
