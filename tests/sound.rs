//! Whole calls of a sound line, through a real sound server: what is said into its microphone comes out of its speaker,
//! whatever becomes of the server meanwhile.

#![cfg(feature = "sound")]
#![allow(clippy::unwrap_used)]

#[path = "sound/room.rs"]
mod room;
mod site;
#[path = "sound/speech.rs"]
mod speech;

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use room::{Desk, HZ, Room, find_tone, once_more, passes};
use site::{Process, SOON, field, read_wav, wait_for, write_wav_at};
use speech::{likeness, speech, tone};

/// Both ways in the room, and no tones.
const DESK: &str = "input = \"mic\"\noutput = \"spk\"\n";
const TONELESS: &str = "[line.desk.tones]\nconnecting = \"\"\nconnected = \"\"\nlost = \"\"\nbusy = \"\"\n";

/// How soon sound is back after whatever took it away is.
const BACK: Duration = Duration::from_secs(2);

/// A file that plays for as long as any test here.
fn endless(room: &Room, hz: f64) -> PathBuf {
    let path = room.path(&format!("{hz}.wav"));
    write_wav_at(&path, HZ as u32, &tone(hz, 60.0));
    path
}

/// What ails a card, as the metrics have it: xruns, samples that a speaker wanted and a microphone lost, jumps.
fn ails(desk: &Desk) -> [u64; 4] {
    ["xruns", "starved_samples", "dropped_samples", "jumps"]
        .map(|what| desk.metric(&format!("trunkline_sound_{what}_total")))
}

#[test]
fn a_minute_of_speech_comes_back_as_it_went_in_and_on_time() {
    let Some(room) = Room::open_as_it_comes() else { return };
    let said = speech(room.dir.path(), 55);
    write_wav_at(&room.path("said.wav"), HZ as u32, &said);
    // A sound server that stands still on a busy machine does so once; whatever else goes wrong is not tried again.
    if let Err(stalled) = a_minute_of_speech(&room, &said) {
        println!("once more, because the sound server stood still: {stalled}");
        a_minute_of_speech(&room, &said).unwrap();
    }
}

/// An error is a sound server that stood still, in the card's own words or by what was heard.
fn a_minute_of_speech(room: &Room, said: &[i16]) -> Result<(), String> {
    let (_agent, url) = room.agent("echo");
    let desk = room.daemon(&format!("{DESK}period-ms = 40\n{TONELESS}"), &url);
    desk.answered();
    desk.process.line(&["the sound card is there"]);
    let recorder = room.listen("spk.monitor");
    // So long a card is let to begin.
    passes(Duration::from_secs(5));
    let (before, from) = (ails(&desk), recorder.len());
    let began = Instant::now();
    let (status, words) = room.play("mic", &room.path("said.wav")).wait(SOON + Duration::from_secs(55));
    assert!(status.success(), "{words}");
    recorder.until("the last of it", SOON, |heard| (heard.samples.len() > from + said.len() + 2 * HZ).then_some(()));
    let seconds = began.elapsed().as_secs_f64();
    let after = ails(&desk);
    // A second before it, too, where whatever is looked for at its very beginning ends.
    let heard = &recorder.samples()[from - HZ..];
    let likeness = likeness(said, heard);
    let what = format!("{likeness:?}; in {seconds:.1} s xruns, starved, dropped, jumps {before:?} -> {after:?}");
    println!("{what}");
    let [xruns, starved, dropped, jumps] = [0, 1, 2, 3].map(|n| after[n] - before[n]);
    assert_eq!(dropped, 0, "the call took all: {what}");
    if xruns + starved + jumps > 0 {
        return Err(what);
    }
    let likeness = likeness.map_err(|_| what.clone())?;
    // A fifth of a second that is all sibilants, or next to silent, is not like itself after two conversions of its rate: 7 are
    // so of this speech, in every run. What a sound server took too late waited in the call, which gave the delay back: more.
    if likeness.correlation < 0.99 || likeness.seams > 10 {
        return Err(what);
    }
    // 0.2 % of real time.
    assert!(likeness.drift.abs() <= 0.002 * said.len() as f64, "{what}");
    // And what was heard came as fast as it was said: the recorder has no more and no less than the clock.
    let pace = (heard.len() - HZ) as f64 / HZ as f64 / seconds;
    assert!((0.99..1.01).contains(&pace), "{pace}: {what}");
    assert_eq!((desk.times("call started"), desk.times("the sound card is out")), (1, 0));
    Ok(())
}

#[test]
fn a_sound_server_that_is_killed_is_heard_again_two_seconds_after_its_return_in_the_same_call() {
    once_more(a_killed_server);
}

fn a_killed_server() {
    let Some(mut room) = Room::open() else { return };
    let (_agent, url) = room.agent("echo");
    let desk = room.daemon(&format!("{DESK}{TONELESS}"), &url);
    let wav = endless(&room, 600.0);
    let (player, recorder) = (room.play("mic", &wav), room.listen("spk.monitor"));
    recorder.tone(600.0, 0, SOON);
    desk.process.line(&["the sound card is there"]);
    room.kill_server();
    let out = desk.process.line(&["WARN", "the sound card is out"]);
    assert!(out.contains("\"mic\" and \"spk\": "), "{out}");
    assert!(desk.health().contains("line desk: its sound card is out"), "{}", desk.health());
    drop((player, recorder));
    room.start_server();
    let back = Instant::now();
    let (_player, recorder) = (room.play("mic", &wav), room.listen("spk.monitor"));
    let (came, _) = recorder.tone(600.0, 0, SOON);
    let took = came - back;
    println!("sound is back after {took:?}");
    assert!(took <= BACK, "{took:?}");
    let there = desk.process.nth_line(1, &["the sound card is there"]);
    assert!(!there.contains("out_seconds=-1"), "{there}");
    // It was one outage of one call.
    let times = ["the sound card is out", "the sound card is there", "call started", "call ended", "WARN"];
    assert_eq!(times.map(|words| desk.times(words)), [1, 2, 1, 0, 1]);
    assert_eq!(desk.metric("trunkline_sound_card_losses_total"), 1);
}

#[test]
fn another_default_is_heard_two_seconds_after_it_was_chosen() {
    once_more(another_default);
}

fn another_default() {
    let Some(room) = Room::open() else { return };
    let (_agent, url) = room.agent("echo");
    let desk = room.daemon(TONELESS, &url);
    let (_first, _second) = (room.play("mic", &endless(&room, 600.0)), room.play("mic2", &endless(&room, 1_100.0)));
    let (speaker, other) = (room.listen("spk.monitor"), room.listen("spk2.monitor"));
    speaker.tone(600.0, 0, SOON);
    let moved = Instant::now();
    room.pactl(&["set-default-sink", "spk2"]);
    let (came, at) = other.tone(600.0, 0, SOON);
    println!("the other speaker is heard after {:?}", came - moved);
    assert!(came - moved <= BACK, "{:?}", came - moved);
    let moved = Instant::now();
    room.pactl(&["set-default-source", "mic2.monitor"]);
    let (came, _) = other.tone(1_100.0, at, SOON);
    println!("the other microphone is heard after {:?}", came - moved);
    assert!(came - moved <= BACK, "{:?}", came - moved);
    // The server moved the streams: nobody was out.
    assert_eq!(["WARN", "call started", "call ended"].map(|words| desk.times(words)), [0, 1, 0]);
}

#[test]
fn a_card_that_is_missing_at_the_start_is_waited_for() {
    once_more(a_missing_card);
}

fn a_missing_card() {
    let Some(mut room) = Room::closed() else { return };
    let (_agent, url) = room.agent("echo");
    let desk = room.daemon(&format!("{DESK}{TONELESS}"), &url);
    desk.process.line(&["WARN", "the sound card is out"]);
    assert!(desk.health().contains("line desk: its sound card is out"), "{}", desk.health());
    // Tried again and again, and told once.
    passes(Duration::from_millis(1_500));
    assert_eq!(["WARN", "call started"].map(|words| desk.times(words)), [1, 0]);
    room.start_server();
    let back = Instant::now();
    let (_player, recorder) = (room.play("mic", &endless(&room, 600.0)), room.listen("spk.monitor"));
    desk.process.line(&["call started"]);
    let started = back.elapsed();
    let (came, _) = recorder.tone(600.0, 0, SOON);
    println!("the call starts after {started:?}, and is heard after {:?}", came - back);
    assert!(started <= BACK && came - back <= BACK, "{started:?}, {:?}", came - back);
    assert_eq!(["WARN", "the sound card is there"].map(|words| desk.times(words)), [1, 1]);
}

/// What the daemon says to such a line before it ends with this code.
fn refused(room: &Room, line: &str, agent: &str) -> (Option<i32>, String) {
    let Desk { process, .. } = room.start_daemon(line, "", agent);
    let (status, said) = process.wait(SOON);
    (status.code(), said)
}

#[test]
fn a_config_that_no_card_can_have_is_refused_in_a_sentence() {
    let Some(room) = Room::open() else { return };
    let (_agent, url) = room.agent("echo");
    for (line, words) in [
        (
            "input = \"headst\"\noutput = \"spk\"",
            "[line.desk] input = \"headst\": there is no such sound device; did you mean \"headset\"? `trunkline devices` \
             shows what this user can open",
        ),
        (
            "input = \"mic\"\noutput = \"turntable\"",
            "[line.desk] output = \"turntable\": there is no such sound device; `trunkline devices` shows what this user \
             can open",
        ),
        (
            "input = \"bell\"\noutput = \"spk\"",
            "[line.desk] input = \"bell\": it has no microphone; `trunkline devices` shows which have one",
        ),
        (
            "input = \"mic\"\noutput = \"cinema\"\ncard-rate = 48000",
            "[line.desk] output = \"cinema\": it does not run at card-rate = 48000 (it has 44100 Hz); leave card-rate out",
        ),
        ("input = \"hw:1\"\noutput = \"spk\"", "wanted the card's name, as `trunkline devices` shows it"),
        ("input = \"mic\"\ncard-rate = 192000", "card-rate"),
        (
            "input = \"mic\"\nhalf-duplex = true\necho-cancel = true",
            "beside `echo-cancel` there is nothing left for it to do; wanted one of them",
        ),
    ] {
        let (code, said) = refused(&room, line, &url);
        assert!(code == Some(78) && said.contains(words), "{line}: {code:?}\n{said}");
        assert!(!said.contains("ready for calls"), "{said}");
    }
}

#[test]
fn a_card_that_is_not_plugged_in_is_told_once_and_waited_for() {
    let Some(room) = Room::open() else { return };
    let (_agent, url) = room.agent("echo");
    let desk = room.daemon("input = \"plughw:CARD=Headset,DEV=0\"", &url);
    let out = desk.process.line(&["WARN", "the sound card is out"]);
    // Where there are other cards they are named; a machine for tests has none.
    let words = ["no sound card is called Headset now (", "this user sees no sound card at all; plug Headset in"];
    assert!(out.contains("input = \"plughw:CARD=Headset,DEV=0\": "), "{out}");
    assert!(words.iter().any(|words| out.contains(words)), "{out}");
    let (code, status) = desk.ask(&["status"]);
    assert!(code == Some(0) && status.contains("out"), "{status}");
    passes(Duration::from_millis(1_200));
    assert_eq!(["WARN", "call started"].map(|words| desk.times(words)), [1, 0]);
}

#[test]
fn a_key_starts_a_call_with_a_tone_and_ends_it() {
    once_more(a_key);
}

fn a_key() {
    let Some(mut room) = Room::open() else { return };
    let (_agent, url) = room.agent("echo");
    let desk = room.daemon(&format!("{DESK}start = \"key\"\n"), &url);
    desk.process.line(&["the sound card is there"]);
    assert_eq!(desk.ask(&["release", "desk"]).0, Some(1));
    assert_eq!(desk.times("call started"), 0);
    let speaker = room.listen("spk.monitor");
    speaker.until("silence", SOON, |heard| (heard.samples.len() > HZ / 10).then_some(()));
    assert_eq!(desk.ask(&["press", "desk"]), (Some(0), "line desk: a call begins".to_owned()));
    // Two, rising.
    let (_, low) = speaker.tone(523.0, 0, SOON);
    speaker.tone(784.0, low, SOON);
    let (code, said) = desk.ask(&["press", "desk"]);
    assert!(code == Some(1) && said.contains("line desk: a call is up already"), "{said}");
    assert_eq!(desk.ask(&["release", "desk"]), (Some(0), "line desk: the call ends".to_owned()));
    assert_eq!(field(&desk.process.line(&["call ended"]), "end_reason"), "line-hung-up");
    drop(speaker);
    room.kill_server();
    desk.process.line(&["the sound card is out"]);
    let (code, said) = desk.ask(&["press", "desk"]);
    assert!(code == Some(1) && said.contains("line desk: its sound card is out: "), "{said}");
    room.start_server();
    desk.process.nth_line(1, &["the sound card is there"]);
    assert_eq!(desk.ask(&["press", "desk"]).0, Some(0));
    desk.process.nth_line(1, &["call started"]);
    assert_eq!(desk.times("call started"), 2);
}

#[test]
fn a_line_that_has_a_call_takes_a_new_config_up_after_it() {
    once_more(a_new_config);
}

fn a_new_config() {
    let Some(room) = Room::open() else { return };
    let (_agent, url) = room.agent("echo");
    let desk = room.daemon(&format!("{DESK}start = \"key\"\n{TONELESS}"), &url);
    desk.process.line(&["the sound card is there"]);
    assert_eq!(desk.ask(&["press", "desk"]).0, Some(0));
    desk.answered();
    let file = room.path("trunkline.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("start = \"key\"", "start = \"always\"")).unwrap();
    assert_eq!(desk.ask(&["reload"]), (Some(0), "the config is read again: line desk changes".to_owned()));
    let (code, said) = desk.ask(&["press", "desk"]);
    assert!(code == Some(1) && said.contains("after the call that it has"), "{said}");
    assert_eq!(["call ended", "the sound card is there"].map(|words| desk.times(words)), [0, 1]);
    assert_eq!(desk.ask(&["release", "desk"]).0, Some(0));
    assert_eq!(field(&desk.process.line(&["call ended"]), "end_reason"), "line-hung-up");
    // The card is opened anew, and calls begin as the new config says.
    desk.process.nth_line(1, &["the sound card is there"]);
    desk.process.nth_line(1, &["trunk answered"]);
    assert_eq!(desk.times("WARN"), 0, "{}", desk.process.said());
}

#[test]
fn speech_starts_a_call_and_silence_ends_it() {
    once_more(speech_and_silence);
}

fn speech_and_silence() {
    let Some(room) = Room::open() else { return };
    let (_agent, url) = room.agent("echo");
    let desk = room.daemon(&format!("{DESK}start = \"vad\"\nsilence-seconds = 2\n{TONELESS}"), &url);
    desk.process.line(&["the sound card is there"]);
    let silence = room.path("silence.wav");
    write_wav_at(&silence, HZ as u32, &[0; HZ]);
    room.play("mic", &silence).wait(SOON);
    assert_eq!(desk.times("call started"), 0);
    let said = speech(room.dir.path(), 4);
    write_wav_at(&room.path("said.wav"), HZ as u32, &said);
    let player = room.play("mic", &room.path("said.wav"));
    desk.process.line(&["call started"]);
    assert_eq!(desk.times("call ended"), 0);
    player.wait(SOON);
    let silent = Instant::now();
    let ended = desk.process.line(&["call ended"]);
    let after = silent.elapsed();
    assert_eq!(field(&ended, "end_reason"), "line-hung-up");
    println!("it ended {after:?} after the last word");
    assert!((Duration::from_millis(1_300)..Duration::from_secs(5)).contains(&after), "{after:?}");
    // Nothing begins by itself.
    assert_eq!(desk.times("call started"), 1);
}

#[test]
fn a_microphone_at_half_duplex_is_shut_while_the_agent_speaks() {
    once_more(half_duplex);
}

fn half_duplex() {
    let Some(room) = Room::open() else { return };
    let says = room.path("says.wav");
    write_wav_at(&says, HZ as u32, &tone(1_100.0, 3.0));
    let (_agent, url) = room.agent(&format!("say:{}", says.display()));
    let _player = room.play("mic", &endless(&room, 600.0));
    let records = room.path("records");
    let desk = room.daemon_with(
        &format!("{DESK}half-duplex = true\nstart = \"key\"\n{TONELESS}"),
        &format!("record = true\n[recordings]\ndirectory = {records:?}"),
        &url,
    );
    desk.process.line(&["the sound card is there"]);
    assert_eq!(desk.ask(&["press", "desk"]).0, Some(0));
    let speaker = room.listen("spk.monitor");
    let (_, from) = speaker.tone(1_100.0, 0, SOON);
    // The agent has said it, and somebody who speaks on is heard again.
    speaker.until("the end of it", SOON, |heard| {
        let rest = heard.samples.get(from + 3 * HZ..)?;
        (rest.len() > HZ && rest[rest.len() - HZ / 2..].iter().all(|&sample| sample == 0)).then_some(())
    });
    assert_eq!(desk.ask(&["release", "desk"]).0, Some(0));
    desk.process.line(&["call ended"]);
    let mut wav = None;
    wait_for("the recording", || {
        wav = fs::read_dir(&records)
            .into_iter()
            .flatten()
            .flatten()
            .map(|file| file.path())
            .find(|path| path.extension().is_some_and(|end| end == "wav"));
        wav.is_some()
    });
    let samples = read_wav(&wav.unwrap());
    let [caller, agent] = [0, 1].map(|side| samples.iter().skip(side).step_by(2).copied().collect::<Vec<i16>>());
    // The agent's words as they were heard, less an edge of each 100 ms that nobody minds.
    let first = find_tone(&agent, 1_100.0).unwrap();
    let len = agent[first..].iter().rposition(|&sample| sample.unsigned_abs() > 500).unwrap();
    assert!(len > 2 * HZ, "{len}");
    let shut = &caller[first + HZ / 10..first + len - HZ / 10];
    let loudest = shut.iter().map(|sample| sample.unsigned_abs()).max();
    assert_eq!(loudest, Some(0), "of {} samples", shut.len());
    assert!(find_tone(&caller[first + len..], 600.0).is_some(), "it opens again");
}

/// Runs the program to its end in this room.
fn run(room: &Room, args: &[&str]) -> (Option<i32>, String) {
    let process: Process = Process::start(room.command(site::TRUNKLINE).args(args));
    let (status, said) = process.wait(SOON);
    (status.code(), said)
}

#[test]
fn devices_shows_what_to_paste_and_tells_what_is_wrong_with_a_microphone() {
    once_more(devices);
}

fn devices() {
    let Some(room) = Room::open() else { return };
    let (code, said) = run(&room, &["devices"]);
    assert_eq!(code, Some(0), "{said}");
    for words in ["mic   The room's microphone\n", "input = \"mic\"\n", "output = \"spk\"\n", "output = \"bell\"\n"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("input = \"bell\"\n"), "{said}");
    let (code, said) = run(&room, &["devices", "--test", "mic", "--output", "spk", "--seconds", "1"]);
    assert!(code == Some(1) && said.contains("the microphone gives digital silence: it is muted"), "{code:?} {said}");
    let (code, said) = run(&room, &["devices", "--test", "loop", "--output", "spk", "--seconds", "2"]);
    assert!(code == Some(0) && said.contains("the microphone works, and hears the speaker: set echo-cancel"), "{said}");
    let (code, said) = run(&room, &["devices", "--test", "headst"]);
    assert!(code == Some(1) && said.contains("\"headst\": there is no such sound device; did you mean"), "{said}");
}
