//! Calls from and to a phone that is not ours: baresip, across a cable between two networks of this test's own.

#![allow(clippy::unwrap_used)]

mod sip;
mod site;

use std::{
    f64::consts::TAU,
    process::Command,
    time::{Duration, Instant},
};

use sip::{
    in_three, is_so,
    lab::{FAR, Lab, LabSite, NEAR, PHONE},
};
use site::{Process, SOON, TRUNKLINE, field, number, wait_for, write_wav, write_wav_at};
use trunkline::media::g722;

/// Speech, as far as telling two recordings apart goes: a voice of changing pitch and loudness, no two seconds alike.
fn speech(seconds: f64) -> Vec<i16> {
    let mut phase = 0.0;
    let samples = (0..(seconds * 8000.0) as usize).map(|n| {
        let at = n as f64 / 8000.0;
        phase += TAU * (180.0 + 60.0 * (1.7 * at).sin() + 35.0 * (4.1 * at * at / 3.0).sin()) / 8000.0;
        let syllable = 0.15 + 0.85 * (TAU * 1.3 * at).sin().abs();
        let voice = phase.sin() + 0.5 * (2.0 * phase).sin() + 0.3 * (5.0 * phase).sin();
        (voice * syllable * 6_000.0) as i16
    });
    samples.collect()
}

/// The best normalized correlation of a second of `said` with what was heard, and where it was found in it.
fn correlation(said: &[i16], heard: &[i16]) -> (f64, usize) {
    let energy = |samples: &[i16]| samples.iter().map(|&sample| f64::from(sample).powi(2)).sum::<f64>();
    let product = |a: &[i16], b: &[i16]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let own = energy(said);
    let mut best = (0.0, 0);
    for (at, window) in heard.windows(said.len()).enumerate() {
        // Where it is next to silent there is nothing to compare.
        let other = energy(window);
        if other < own / 10.0 {
            continue;
        }
        let found = product(said, window) / (own * other).sqrt();
        if found > best.0 {
            best = (found, at);
        }
    }
    best
}

/// Every second of what was sent came back within a second, sounding the same.
fn is_echoed(sent: &[i16], heard: &[i16], seconds: std::ops::Range<usize>) -> Result<(), String> {
    for second in seconds {
        let start = second * 8_000;
        let near = heard.get(start..heard.len().min(start + 24_000)).unwrap_or_default();
        let (found, at) = correlation(&sent[start..start + 8_000], near);
        is_so(found > 0.98, || format!("second {second} is heard with a correlation of {found}, {at} samples later"))?;
    }
    Ok(())
}

#[test]
fn a_call_from_baresip_is_echoed_held_resumed_and_its_keys_arrive() {
    in_three(a_call_from_baresip);
}

fn a_call_from_baresip() -> Result<(), String> {
    let Some(lab) = Lab::open(&["baresip", "ip", "nsenter", "unshare", "setpriv"]) else { return Ok(()) };
    let site = lab.site("", &["--behave", "echo"]);
    write_wav(&lab.path("voice.wav"), &speech(30.0));
    let phone = lab.baresip(&lab.path("voice.wav"));
    phone.types(&format!("/dial sip:agent@{NEAR}\n"));
    phone.process.line(&["Call established"]);
    passes(Duration::from_secs(5));
    phone.types("5");
    passes(Duration::from_millis(600));
    phone.types("#");
    passes(Duration::from_millis(600));
    // The other way, too.
    let started = site.daemon.line(&["call started"]);
    succeeds(ask(&lab, &["digits", field(&started, "call_id"), "7*"]));
    phone.process.line(&["received event: '7'"]);
    phone.process.line(&["received event: '*'"]);
    phone.types("x");
    phone.process.line(&["call: hold"]);
    passes(Duration::from_secs(1));
    phone.types("X");
    phone.process.line(&["call: resume"]);
    // Two of the spans of 3 s over which it counts what goes and comes.
    passes(Duration::from_millis(6_500));
    phone.hangs_up();
    let ended = site.daemon.line(&["call ended"]);
    assert_eq!((field(&ended, "end_reason"), number(&ended, "digits")), ("line-hung-up", 2), "{ended}");
    is_echoed(&phone.recorded("enc"), &phone.recorded("dec"), 1..4)?;
    // This one records nothing any more after a hold, but it counts.
    let said = phone.ends();
    let last = said.rsplit("audio=").next().unwrap().split(' ').next().unwrap();
    let rates: Vec<u32> = last.split('/').map(|rate| rate.parse().unwrap()).collect();
    let is_whole = rates.iter().all(|rate| (60_000..68_000).contains(rate));
    is_so(is_whole, || format!("bits a second after the hold: {rates:?}"))?;
    site.agent.line(&["call ended"]);
    Ok(())
}

#[test]
fn baresip_is_called_answers_and_is_hung_up_by_either_side() {
    in_three(calls_to_baresip);
}

fn calls_to_baresip() -> Result<(), String> {
    let Some(lab) = Lab::open(&["baresip", "ip", "nsenter", "unshare", "setpriv"]) else { return Ok(()) };
    let dial = format!("[line.pbx.dial]\nplan = [\"2??\"]\nproxy = \"sip:{FAR}\"\n");
    let site = lab.site(&dial, &["--behave", "echo"]);
    write_wav(&lab.path("voice.wav"), &speech(30.0));
    let phone = lab.baresip(&lab.path("voice.wav"));
    succeeds(ask(&lab, &["dial", "pbx", PHONE]));
    phone.process.line(&["Call established"]);
    passes(Duration::from_secs(4));
    phone.hangs_up();
    assert_eq!(field(&site.daemon.line(&["call ended"]), "end_reason"), "line-hung-up");
    is_echoed(&phone.recorded("enc"), &phone.recorded("dec"), 1..3)?;
    // Whom the plan does not name is not called.
    let (status, said) = ask(&lab, &["dial", "pbx", "301"]).wait(SOON);
    assert!(!status.success(), "{said}");
    // The agent's side of it: the daemon goes away, and the phone is told.
    succeeds(ask(&lab, &["dial", "pbx", PHONE]));
    wait_for("it is up again", || phone.process.count(&["Call established"]) == 2);
    site.daemon.terminate();
    phone.process.line(&["session closed"]);
    let LabSite { daemon, .. } = site;
    assert_eq!(daemon.wait(SOON).0.code(), Some(0));
    Ok(())
}

#[test]
fn a_tenth_of_all_packets_lost_on_the_cable_costs_no_call_and_little_of_what_is_heard() {
    in_three(a_call_that_loses_a_tenth);
}

fn a_call_that_loses_a_tenth() -> Result<(), String> {
    let Some(lab) = Lab::open(&["baresip", "ip", "nft", "nsenter", "unshare", "setpriv"]) else { return Ok(()) };
    let site = lab.site("", &["--behave", "echo"]);
    write_wav(&lab.path("voice.wav"), &speech(30.0));
    let phone = lab.baresip(&lab.path("voice.wav"));
    lab.lose(10);
    phone.types(&format!("/dial sip:agent@{NEAR}\n"));
    phone.process.line(&["Call established"]);
    passes(Duration::from_secs(10));
    phone.hangs_up();
    let ended = site.daemon.line(&["call ended"]);
    // 10 s at 50 frames, whatever was lost of them.
    let (frames, lost, concealed) = (number(&ended, "frames_up"), number(&ended, "lost"), number(&ended, "concealed"));
    is_so((450..=560).contains(&frames) && (20..=100).contains(&lost), || ended.clone())?;
    // Of each packet that was lost most was made up; where several in a row were, it faded.
    is_so((lost * 160 / 2..=lost * 160 * 2).contains(&concealed), || ended.clone())?;
    // Lost on the way there and concealed, lost on the way back and left out by this phone.
    let (sent, heard) = (phone.recorded("enc"), phone.recorded("dec"));
    let echoes: Vec<_> = (0..60)
        .map(|n| {
            let start = 8_000 + n * 1_000;
            let near = &heard[start * 8 / 10..heard.len().min(start + 5_000)];
            correlation(&sent[start..start + 480], near).0
        })
        .collect();
    // As much as four packets in a row that go both ways.
    let clear = echoes.iter().filter(|&&echo| echo > 0.97).count();
    is_so(clear * 4 >= echoes.len(), || format!("{echoes:.2?} {ended}"))
}

#[test]
fn a_crowded_cable_costs_delay_and_hardly_any_speech() {
    in_three(a_call_on_a_crowded_cable);
}

fn a_call_on_a_crowded_cable() -> Result<(), String> {
    let Some(lab) = Lab::open(&["baresip", "bash", "ip", "nsenter", "setpriv", "tc", "unshare"]) else { return Ok(()) };
    let site = lab.site("", &["--behave", "echo"]);
    write_wav(&lab.path("voice.wav"), &speech(30.0));
    let phone = lab.baresip(&lab.path("voice.wav"));
    let crowd = lab.crowd();
    phone.types(&format!("/dial sip:agent@{NEAR}\n"));
    phone.process.line(&["Call established"]);
    passes(Duration::from_secs(10));
    phone.hangs_up();
    drop(crowd);
    let ended = site.daemon.line(&["call ended"]);
    is_so((450..=560).contains(&number(&ended, "frames_up")), || ended.clone())?;
    let (sent, heard) = (phone.recorded("enc"), phone.recorded("dec"));
    // Quarters of a second, as the delay changes in the midst of them now and then.
    let echoes: Vec<_> = (6..36)
        .map(|quarter| {
            let start = quarter * 2_000;
            // What came too late for it this phone leaves out, so that the rest is earlier in its recording.
            let near = &heard[start * 8 / 10..heard.len().min(start + 2_000 + 8_000)];
            correlation(&sent[start..start + 2_000], near).0
        })
        .collect();
    let clear = echoes.iter().filter(|&&echo| echo > 0.95).count();
    is_so(clear * 10 >= echoes.len() * 7, || format!("{echoes:.2?} {ended}"))
}

/// Level (dB of full scale) of each of these frequencies in a second at 16 kHz, and of all the rest.
fn levels(samples: &[i16], frequencies: &[f64]) -> (Vec<f64>, f64) {
    assert_eq!(samples.len(), 16_000, "all of them have whole periods in a second");
    let n = samples.len() as f64;
    let db = |power: f64| 10.0 * (power / (32_768.0 * 32_768.0 / 2.0)).log10();
    let powers: Vec<_> = frequencies
        .iter()
        .map(|frequency| {
            let (mut re, mut im) = (0.0, 0.0);
            for (at, &sample) in samples.iter().enumerate() {
                let angle = TAU * frequency * at as f64 / n;
                re += f64::from(sample) * angle.cos();
                im += f64::from(sample) * angle.sin();
            }
            2.0 * (re * re + im * im) / (n * n)
        })
        .collect();
    let all = samples.iter().map(|&sample| f64::from(sample).powi(2)).sum::<f64>() / n;
    let rest = all - powers.iter().sum::<f64>();
    (powers.into_iter().map(db).collect(), db(rest.max(1e-9)))
}

#[test]
fn over_g722_all_that_is_above_the_telephone_band_reaches_the_agent_and_comes_back() {
    in_three(a_call_over_g722);
}

fn a_call_over_g722() -> Result<(), String> {
    let Some(lab) = Lab::open(&["baresip", "ip", "nsenter", "unshare", "setpriv"]) else { return Ok(()) };
    let site = lab.site_in("binary", "", &["--behave", "echo", "--sample-rate", "16000"]);
    let tones = [400.0, 1_300.0, 3_100.0, 4_700.0, 6_200.0];
    let microphone: Vec<_> = (0..16_000 * 12)
        .map(|n| tones.iter().map(|tone| 2_400.0 * (TAU * tone * f64::from(n) / 16_000.0).sin()).sum::<f64>() as i16)
        .collect();
    write_wav_at(&lab.path("tones.wav"), 16_000, &microphone);
    let phone = lab.baresip_with(&lab.path("tones.wav"), "G722/16000/1", 16_000);
    phone.types(&format!("/dial sip:agent@{NEAR}\n"));
    phone.process.line(&["Call established"]);
    passes(Duration::from_secs(5));
    phone.hangs_up();
    let ended = site.daemon.line(&["call ended"]);
    assert_eq!(field(&site.daemon.line(&["call started"]), "codec"), "G722");
    let (sent, heard) = (phone.recorded("enc"), phone.recorded("dec"));
    let of = |samples: &[i16]| levels(&samples[32_000..48_000], &tones);
    let ((sent, _), (heard, noise)) = (of(&sent), of(&heard));
    for ((tone, sent), heard) in tones.iter().zip(&sent).zip(&heard) {
        is_so((sent - heard).abs() < 1.5, || format!("{tone} Hz: {sent} dB go, {heard} dB come: {ended}"))?;
    }
    // No more noise than the codec makes when it is gone through twice.
    let (mut encoder, mut decoder) = (g722::Encoder::new(), g722::Decoder::new());
    let (mut codes, mut twice) = (vec![0; microphone.len() / 2], microphone);
    for _ in 0..2 {
        encoder.encode(&twice, &mut codes);
        decoder.decode(&codes, &mut twice);
        (encoder, decoder) = (g722::Encoder::new(), g722::Decoder::new());
    }
    let (_, codecs) = of(&twice);
    is_so(noise < codecs + 1.0, || format!("{noise} dB of noise, {codecs} dB are the codec's: {ended}"))
}

fn ask(lab: &Lab, args: &[&str]) -> Process {
    let socket = lab.path("control.sock");
    Process::start(Command::new(TRUNKLINE).arg(args[0]).arg("--socket").arg(socket).args(&args[1..]))
}

#[track_caller]
fn succeeds(asked: Process) {
    let (status, said) = asked.wait(SOON);
    assert!(status.success(), "{said}");
}

/// The call goes on for so long.
fn passes(time: Duration) {
    let until = Instant::now() + time;
    std::thread::sleep(until.saturating_duration_since(Instant::now()));
}
