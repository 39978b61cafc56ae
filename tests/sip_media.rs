//! The audio of a SIP call on real sockets: what a phone says and hears, and what strangers may put between.

#![allow(clippy::unwrap_used)]

mod sip;
mod site;

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use sip::{
    Site, Trunk, companded, in_three, is_so,
    wire::{FIRST, Packet, SSRC, Voice, Wire, is_silence, share_found},
};
use site::{field, json_field, number, wait_for, write_wav};
use trunkline::media::g711::Law;

/// A call from a phone of this process, under way.
struct Call<'s> {
    site: &'s Site,
    wire: Wire,
    to_tag: String,
    /// Where the line wants its RTP.
    media: SocketAddr,
    /// Where the phone wants its own.
    port: u16,
    voice: Voice,
}

impl<'s> Call<'s> {
    /// Rings, is answered, and says this.
    fn place(site: &'s Site, speech: &[u8]) -> Self {
        let wire = Wire::open(site.address());
        let (socket, port) = Voice::socket();
        wire.send(&wire.invite("media", port));
        let answered = wire.until("SIP/2.0 200");
        let (to_tag, media) = (answered.to_tag().to_owned(), answered.media());
        wire.send(&wire.request("ACK", "media", 1, &to_tag));
        Self { site, wire, to_tag, media, port, voice: Voice::speak(socket, media, speech.to_vec()) }
    }

    /// A re-INVITE of this direction, upon which the line's is to be that.
    #[track_caller]
    fn agrees_again(&self, cseq: u32, ours: &str, theirs: &str) {
        self.wire.send(&self.wire.invite_again("media", cseq, &self.to_tag, self.port, ours));
        let agreed = self.wire.until("SIP/2.0 200");
        // Of both ways it need not be said, RFC 8866 6.7.
        let direction =
            ["sendonly", "recvonly", "inactive"].into_iter().find(|it| agreed.text.contains(&format!("a={it}")));
        assert_eq!(direction.unwrap_or("sendrecv"), theirs, "{}", agreed.text);
        self.wire.send(&self.wire.request("ACK", "media", cseq, &self.to_tag));
    }

    /// Hangs up. Returns the daemon's closing line and what was heard.
    fn hang_up(self) -> (String, sip::wire::Heard) {
        self.wire.send(&self.wire.request("BYE", "media", 9, &self.to_tag));
        self.wire.until("SIP/2.0 200");
        let heard = self.voice.stop();
        (self.site.daemon.process.line(&["call ended"]), heard)
    }
}

fn payloads(heard: &sip::wire::Heard) -> Vec<u8> {
    heard.iter().flat_map(|(_, _, payload)| payload).copied().collect()
}

/// Less the silence in it.
fn voiced(heard: &sip::wire::Heard) -> Vec<u8> {
    payloads(heard).into_iter().filter(|&code| !is_silence(code)).collect()
}

#[test]
fn what_the_phone_says_comes_back_sample_by_sample_on_an_even_clock() {
    in_three(|| {
        let site = Site::open(&[Trunk::Echo], PCMU, "");
        let said = companded(4.0, 1);
        let call = Call::place(&site, &said);
        let began = Instant::now();
        call.voice.hears(said.len() * 98 / 100)?;
        let lasted = began.elapsed();
        let (ended, heard) = call.hang_up();
        let share = share_found(&said, &payloads(&heard));
        is_so(share >= 0.95, || format!("{share} of it came back: {ended}"))?;
        // RFC 3550 5.1: one after the other, 160 apart, whatever is in them; and from the answer on, speech or not.
        for pair in heard.windows(2) {
            let [(before, earlier, _), (after, later, payload)] = pair else { unreachable!() };
            let is_next = (before.wrapping_add(1), earlier.wrapping_add(160)) == (*after, *later);
            is_so(is_next && payload.len() == 160, || format!("{before} {earlier}, {after} {later}: {ended}"))?;
        }
        let due = lasted.as_secs_f64() * 50.0;
        let is_even = (heard.len() as f64 - due).abs() < 15.0;
        is_so(is_even, || format!("{} packets, {due} were due: {ended}", heard.len()))?;
        assert_eq!(field(&ended, "end_reason"), "line-hung-up");
        Ok(())
    });
}

#[test]
fn not_one_sample_of_a_stranger_is_heard_by_the_agent() {
    in_three(strangers_send_audio);
}

fn strangers_send_audio() -> Result<(), String> {
    let site = Site::open(&[Trunk::Echo], PCMU, "");
    let said = companded(5.0, 2);
    // The loudest there is, which noise never reaches.
    assert!(!said.contains(&LOUD) && !said.contains(&(LOUD | 0x80)));
    let call = Call::place(&site, &said);
    call.voice.hears(4_000)?;
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let afar = UdpSocket::bind("127.0.0.2:0").unwrap();
    let loud = [LOUD; 160];
    let began = Instant::now();
    let mut slipped = 0u16;
    while began.elapsed() < Duration::from_secs(3) {
        let (sequence, timestamp) =
            (FIRST.0.wrapping_add(slipped + 30), FIRST.1.wrapping_add(160 * (u32::from(slipped) + 30)));
        let own = Packet { payload_type: 0, sequence, timestamp, ssrc: SSRC, payload: &loud };
        // From elsewhere, as if it were the phone; the same from another machine.
        stranger.send_to(&own.bytes(), call.media).unwrap();
        afar.send_to(&own.bytes(), call.media).unwrap();
        // From the phone's own port: another source, types that were not agreed on, and what is no RTP.
        call.voice.slip_in(call.media, &Packet { ssrc: 0xdead_beef, ..own }.bytes());
        for payload_type in [8, 9, 18, 96, 127] {
            call.voice.slip_in(call.media, &Packet { payload_type, ..own }.bytes());
        }
        let mut other_version = own.bytes();
        other_version[0] = 0x40;
        call.voice.slip_in(call.media, &other_version);
        call.voice.slip_in(call.media, &own.bytes()[..11]);
        slipped += 1;
        thread::sleep(Duration::from_millis(20));
    }
    call.voice.hears(said.len() * 95 / 100)?;
    let (ended, heard) = call.hang_up();
    let heard = payloads(&heard);
    let foreign = heard.iter().filter(|&&code| code | 0x80 == LOUD | 0x80).count();
    assert_eq!(foreign, 0, "{slipped} rounds: {ended}");
    let share = share_found(&said, &heard);
    is_so(share > 0.9, || format!("{share} of the phone's own speech came back: {ended}"))?;
    Ok(())
}

#[test]
fn a_phone_that_sends_no_audio_any_more_is_let_go_but_not_while_it_holds() {
    let site = Site::open(&[Trunk::Echo], &format!("{PCMU}\nmedia-timeout-seconds = 3"), "");
    let wire = Wire::open(site.address());
    let (_socket, port) = Voice::socket();
    let began = Instant::now();
    for call in ["gone", "held"] {
        wire.send(&wire.invite(call, port));
        let answered = wire.until("SIP/2.0 200");
        wire.send(&wire.request("ACK", call, 1, answered.to_tag()));
        if call == "held" {
            wire.send(&wire.invite_again(call, 2, answered.to_tag(), port, "sendonly"));
            let held = wire.until("SIP/2.0 200");
            assert!(held.text.contains("a=recvonly"), "{}", held.text);
            wire.send(&wire.request("ACK", call, 2, held.to_tag()));
        }
    }
    let bye = wire.until("BYE ");
    assert_eq!(bye.header("Call-ID"), "gone");
    assert!((2.5..6.0).contains(&began.elapsed().as_secs_f64()), "{:?}", began.elapsed());
    assert_eq!(field(&site.daemon.process.line(&["call ended"]), "end_reason"), "line-silent");
    while began.elapsed() < Duration::from_secs(8) {
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(site.daemon.metric("trunkline_calls"), 1, "who holds is silent");
}

#[test]
fn what_the_agent_says_while_the_caller_is_on_hold_waits_until_the_caller_is_back() {
    in_three(the_caller_is_on_hold);
}

fn the_caller_is_on_hold() -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let (wav, said) = (dir.path().join("said.wav"), companded(4.0, 3));
    write_wav(&wav, &said.iter().map(|&code| Law::Mu.decode(code)).collect::<Vec<_>>());
    let site = Site::open(&[Trunk::Says(wav)], &format!("{PCMU}\n[records]\ndirectory = {:?}", dir.path()), "");
    let call = Call::place(&site, &[]);
    call.voice.hears(8_000)?;
    call.agrees_again(2, "sendonly", "recvonly");
    // What was sent before it was known is there by now; and then there is nothing, as RFC 3264 8.4 wants it.
    let mut before = call.voice.packets().len();
    let on_hold = Instant::now();
    while on_hold.elapsed() < Duration::from_millis(1_500) {
        thread::sleep(Duration::from_millis(20));
        if on_hold.elapsed() < Duration::from_millis(100) {
            before = call.voice.packets().len();
        }
    }
    let during = call.voice.packets().len() - before;
    is_so(during == 0, || format!("{during} packets while it is on hold"))?;
    call.agrees_again(3, "sendrecv", "sendrecv");
    call.voice.hears(said.len() - 160)?;
    let (ended, heard) = call.hang_up();
    let share = share_found(&said, &voiced(&heard));
    is_so(share > 0.99, || format!("{share} of it was heard: {ended}"))?;
    // One stream all along, which had a gap of the hold's length.
    let gaps: Vec<_> = heard
        .windows(2)
        .map(|pair| (pair[1].0.wrapping_sub(pair[0].0), pair[1].1.wrapping_sub(pair[0].1)))
        .filter(|&step| step != (1, 160))
        .collect();
    is_so(matches!(gaps[..], [(1, 11_000..=16_000)]), || format!("{gaps:?} {ended}"))?;
    let records = dir.path().join("records.jsonl");
    wait_for("a record", || fs::read_to_string(&records).is_ok_and(|text| text.contains("\"held_ms\"")));
    let record = fs::read_to_string(&records).unwrap();
    assert!(json_field(&record, "held_ms").parse().is_ok_and(|ms: u32| (1_300..4_000).contains(&ms)), "{record}");
    assert_eq!(json_field(&record, "holds"), "1", "{record}");
    Ok(())
}

#[test]
fn keys_in_rtp_are_told_once_each_and_are_not_heard() {
    in_three(keys_are_pressed);
}

fn keys_are_pressed() -> Result<(), String> {
    let site = Site::open(&[Trunk::Echo], PCMU, "");
    let said = companded(4.0, 4);
    let call = Call::place(&site, &said);
    call.voice.hears(4_000)?;
    // 5, then #.
    for (key, until) in [(5, 12_000), (11, 20_000)] {
        call.voice.press(key);
        call.voice.hears(until)?;
    }
    call.voice.hears(said.len() * 89 / 100)?;
    let (ended, heard) = call.hang_up();
    assert_eq!(number(&ended, "digits"), 2, "{ended}");
    // All but the two times 160 ms that were never said.
    let share = share_found(&said, &payloads(&heard));
    is_so(share > 0.75, || format!("{share} of it came back: {ended}"))?;
    Ok(())
}

#[test]
fn keys_that_are_counted_apart_from_the_audio_are_told_and_stop_no_audio() {
    in_three(keys_are_counted_apart);
}

fn keys_are_counted_apart() -> Result<(), String> {
    let site = Site::open(&[Trunk::Echo], PCMU, "");
    let said = companded(3.0, 5);
    let call = Call::place(&site, &said);
    call.voice.hears(4_000)?;
    for (n, event) in [5u8, 11].into_iter().enumerate() {
        let timestamp = FIRST.1.wrapping_add(20_000 + 4_000 * n as u32);
        for step in 1u16..=6 {
            let (end, duration) = if step > 3 { (0x80, 1_200) } else { (0, 400 * step) };
            let [high, low] = duration.to_be_bytes();
            let payload = [event, end | 10, high, low];
            let sequence = FIRST.0.wrapping_add(2_000 + 10 * n as u16 + step);
            let marker = if step == 1 { 0x80 } else { 0 };
            let packet = Packet { payload_type: 101 | marker, sequence, timestamp, ssrc: SSRC, payload: &payload };
            call.voice.slip_in(call.media, &packet.bytes());
        }
        call.voice.hears(8_000 * (n + 1))?;
    }
    call.voice.hears(said.len() * 95 / 100)?;
    let (ended, heard) = call.hang_up();
    assert_eq!(number(&ended, "digits"), 2, "{ended}");
    let share = share_found(&said, &payloads(&heard));
    is_so(share > 0.9, || format!("{share} of it came back: {ended}"))?;
    Ok(())
}

#[test]
fn keys_that_are_pressed_here_come_in_rtp_one_after_the_other() {
    let site = Site::open(&[Trunk::Echo], PCMU, "");
    let call = Call::place(&site, &[]);
    let started = site.daemon.process.line(&["call_id="]);
    site.ask(&["digits", field(&started, "call_id"), "1#"]);
    wait_for("two keys", || call.voice.keys().iter().filter(|(_, _, payload)| payload[1] & 0x80 != 0).count() == 6);
    let keys = call.voice.keys();
    call.hang_up();
    let presses: Vec<_> = keys.chunk_by(|one, next| one.1 == next.1).collect();
    let [one, hash] = presses[..] else { panic!("{keys:?}") };
    for (press, code) in [(one, 1), (hash, 11)] {
        // RFC 4733 2.5.1: marked at its beginning, longer and longer, its end three times.
        let marked: Vec<_> = press.iter().map(|(marker, ..)| *marker).collect();
        assert!(marked[0] && !marked[1..].contains(&true), "{press:?}");
        let durations: Vec<_> =
            press.iter().map(|(_, _, payload)| u16::from_be_bytes([payload[2], payload[3]])).collect();
        assert!(durations.is_sorted() && (640..=4_000).contains(durations.last().unwrap()), "{durations:?}");
        let ends = press.iter().rev().take_while(|(_, _, payload)| payload[1] & 0x80 != 0).count();
        assert_eq!(ends, 3, "{press:?}");
        assert!(press.iter().all(|(_, _, payload)| payload[0] == code), "{press:?}");
    }
}

/// The loudest code of mu-law, negative.
const LOUD: u8 = 0x00;

const PCMU: &str = "codecs = [\"pcmu\"]";
