//! A call of a sound line, in the daemon itself: ALSA's callbacks and the media thread count their own allocations.

use std::time::Duration;

use room::{HZ, Room, passes};
use speech::tone;

use crate::site::{SOON, write_wav_at};

#[path = "../sound/room.rs"]
mod room;
#[path = "../sound/speech.rs"]
mod speech;

#[test]
fn the_callbacks_of_a_sound_card_and_its_call_allocate_nothing() {
    let Some(room) = Room::open() else { return };
    // TLS has its own buffers for every record.
    let (_agent, url) = room.plain_agent();
    let desk = room.daemon("input = \"mic\"\noutput = \"spk\"", &url);
    let wav = room.path("tone.wav");
    write_wav_at(&wav, HZ as u32, &tone(600.0, 60.0));
    let (_player, recorder) = (room.play("mic", &wav), room.listen("spk.monitor"));
    let (_, from) = recorder.tone(600.0, 0, SOON);
    // What the first pieces may allocate: a bridged call's are counted from here on.
    let figures = ["media_allocations", "trunk_messages_in", "trunk_messages_out"];
    let count = || figures.map(|what| desk.metric(&format!("trunkline_{what}_total")));
    let before = count();
    passes(Duration::from_secs(4));
    let after = count();
    let [allocations, came, went] = [0, 1, 2].map(|n| after[n] - before[n]);
    // Some 600 callbacks, 400 pieces and 200 frames. tokio's channel between the media thread and the card's has room in
    // blocks of 32, and takes a new one where the last was not given back in time.
    assert!(allocations < 4, "{before:?} -> {after:?}");
    // And it was a call, to the end.
    assert!(came > 150 && went > 150, "{before:?} -> {after:?}");
    recorder.tone(600.0, from + 2 * HZ, SOON);
}
