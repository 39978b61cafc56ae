//! Calls that a cloud connects to us, in virtual time.

#![allow(clippy::unwrap_used)]

#[path = "site/virtual_call.rs"]
mod virtual_call;

use trunkline::{
    call::{EndReason, State, attention::BargeIn, state::Event as CallEvent, tap::Happening},
    dialect::{self, Carrier, Direction, OptionValue, Options, Role, Say, StopReason},
    leg::websocket::wire::Side,
    media::{Now, Rate},
};
use virtual_call::{Peer, Plan, Site, options, person, speech, voice};

/// Which vendors exist that play an agent: every dialect that carries linear samples both ways at one rate.
fn linear_vendors() -> Vec<&'static str> {
    dialect::NAMES
        .iter()
        .copied()
        .filter(|name| {
            let dialect = dialect::open(name, Role::Agent, None, Rate::Hz8000, &Options::default()).unwrap();
            let coding = dialect.expected().coding;
            dialect.direction() == Direction::Both
                && !matches!(coding, dialect::Coding::Mulaw | dialect::Coding::Alaw)
                && *name != "openai"
        })
        .collect()
}

#[test]
fn what_the_caller_says_comes_back_sample_for_sample_from_an_echo() {
    for vendor in linear_vendors() {
        let mut site = Site::new(vendor, "exotel");
        let same_rate = site.rate() == Rate::Hz8000;
        site.echoes = true;
        let frame = site.rate().frame();
        let said = speech(frame * 500);
        for caller in said.chunks(frame) {
            site.frame(caller);
        }
        site.frames(60);
        let heard = voice(&site.queue.line);
        if same_rate {
            assert!(heard == said, "{vendor}: {} samples said, {} heard", said.len(), heard.len());
        } else {
            assert!(heard.len() >= said.len() - frame, "{vendor}");
        }
        let (up, weather) = (site.bridge.uplink(), site.bridge.weather());
        assert_eq!((up.dropped, weather.flushed, weather.underruns), (0, 0, 0), "{vendor}");
        assert_eq!(up.samples as usize, site.spoken.len(), "{vendor}");
    }
}

#[test]
fn on_a_path_that_only_listens_nobody_hears_the_agent_who_hears_the_caller() {
    for vendor in linear_vendors() {
        let mut site = Site::of(Plan { direction: Direction::Uplink, ..Plan::new(vendor, "exotel") });
        site.echoes = true;
        let frame = site.rate().frame();
        for caller in speech(frame * 50).chunks(frame) {
            site.frame(caller);
        }
        site.frames(60);
        assert!(voice(&site.queue.line).is_empty(), "{vendor}");
        assert_eq!((site.bridge.direction(), site.bridge.uplink().dropped), (Direction::Uplink, 0), "{vendor}");
        assert!(site.bridge.uplink().samples > 0, "{vendor}");
    }
}

#[test]
fn a_burst_is_paced_and_the_vendors_queue_never_holds_more_than_the_lead() {
    for vendor in linear_vendors() {
        let mut site = Site::new(vendor, "binary");
        let rate = site.rate();
        let lead = site.vendor.leg.dialect();
        let lead_ms =
            dialect::open(lead.name(), Role::Agent, None, Rate::Hz8000, &Options::default()).unwrap().lead_ms();
        let ten_seconds = speech(80_000);
        site.agent_sends(&ten_seconds);
        site.frames(560);
        let most = rate.samples(lead_ms as usize);
        assert!(site.queue.most <= most, "{vendor}: {} samples waited, {most} may", site.queue.most);
        if rate == Rate::Hz8000 {
            assert!(voice(&site.queue.line) == ten_seconds, "{vendor}");
            let start = site.queue.line.iter().position(|&sample| sample != 0).unwrap();
            assert!(site.queue.line[start..start + 80_000].iter().all(|&sample| sample != 0), "{vendor}: no gap");
        }
    }
}

#[test]
fn a_clear_silences_the_line_within_one_frame_and_says_how_much_was_not_heard() {
    for vendor in ["ozonetel", "exotel"] {
        let mut site = Site::new(vendor, "exotel");
        site.agent_sends(&speech(80_000));
        site.frames(50);
        let cleared_before = site.vendor.ears.count("Clear");
        site.agent_says(Say::Clear);
        assert_eq!(site.vendor.ears.count("Clear"), cleared_before + 1, "{vendor}: at once");
        let heard = site.queue.line.len();
        site.frames(50);
        assert!(site.queue.line[heard..].iter().all(|&sample| sample == 0), "{vendor}: silence from the next frame on");
        let weather = site.bridge.weather();
        assert_eq!(weather.heard + weather.flushed, 80_000, "{vendor}");
        let played = voice(&site.queue.line).len() as u64;
        assert!(weather.heard.abs_diff(played) <= 320, "{vendor}: {} counted, {played} heard", weather.heard);
        let notes = site.notes();
        let unheard = notes.iter().find_map(|note| match note {
            Happening::Cleared { unheard_ms } => Some(*unheard_ms),
            _ => None,
        });
        assert_eq!(unheard, Some(weather.flushed / 8), "{vendor}: in ms");
        // It speaks again, and is heard again.
        site.agent_sends(&speech(8000));
        site.frames(80);
        assert_eq!(voice(&site.queue.line).len() as u64, played + 8000, "{vendor}");
    }
}

#[test]
fn a_mark_is_told_when_the_vendor_has_played_it_and_not_before() {
    for vendor in ["ozonetel", "exotel", "binary"] {
        let mut site = Site::new(vendor, "exotel");
        site.agent_sends(&speech(8000));
        site.agent_says(Say::Mark("first"));
        site.agent_sends(&speech(8000));
        site.agent_says(Say::Mark("second"));
        let mut told = [None, None];
        for tick in 0..150 {
            for (name, told) in ["heard first", "heard second"].iter().zip(&mut told) {
                if told.is_none() && site.agent.ears.count(name) > 0 {
                    *told = Some((tick, voice(&site.queue.line).len()));
                }
            }
            site.frames(1);
        }
        let [Some((_, first)), Some((_, second))] = told else { panic!("{vendor}: {told:?}") };
        assert!((8000..8000 + 1700).contains(&first), "{vendor}: {first} samples were heard");
        assert_eq!(second, 16_000, "{vendor}");
        assert_eq!(site.bridge.clears_and_marks().1, 2, "{vendor}");
    }
}

#[test]
fn marks_of_flushed_speech_are_told_once_and_late_answers_of_the_vendor_mean_nothing() {
    let mut site = Site::new("exotel", "exotel");
    for i in 0..5 {
        site.agent_sends(&speech(1600));
        site.agent_says(Say::Mark(&format!("m{i}")));
    }
    site.frames(5);
    site.agent_says(Say::Clear);
    site.frames(2);
    for i in 0..5 {
        assert_eq!(site.agent.ears.count(&format!("heard m{i}")), 1, "m{i}");
    }
    // The same name again is a mark of its own.
    site.agent_sends(&speech(1600));
    site.agent_says(Say::Mark("m4"));
    site.frames(4);
    assert_eq!(site.agent.ears.count("heard m4"), 1, "not yet");
    site.frames(30);
    assert_eq!(site.agent.ears.count("heard m4"), 2);
}

#[test]
fn digits_reach_the_agent() {
    let mut site = Site::new("exotel", "exotel");
    for digit in *b"12#" {
        assert!(site.vendor.leg.say(site.now, Say::Dtmf(digit)));
    }
    site.frames(1);
    let digits: Vec<_> = site.agent.ears.events.iter().filter(|(_, event)| event.starts_with("dtmf")).collect();
    assert_eq!(digits.len(), 3, "{digits:?}");
    assert_eq!(site.bridge.uplink().digits, 3);
}

#[test]
fn a_vendor_that_stops_ends_the_call_and_the_agent_is_told() {
    for vendor in ["ozonetel", "exotel"] {
        let mut site = Site::new(vendor, "exotel");
        site.frames(10);
        assert!(site.vendor.leg.say(site.now, Say::Stop(StopReason::CallerHungUp)));
        site.frames(2);
        assert!(!site.bridge.state().has_line(), "{vendor}");
        assert_eq!(site.agent.ears.count("Stop"), 1, "{vendor}");
        // SIWS-like vendors wait for our close.
        assert!(
            site.bridge.line_mut().unwrap().is_closed() || site.vendor.leg.is_closed() || {
                site.frames(150);
                site.bridge.is_line_done(site.now)
            }
        );
        site.frames(300);
        assert_eq!(site.bridge.state(), State::Ended(EndReason::LineHungUp), "{vendor}");
    }
}

#[test]
fn an_agents_close_hands_the_caller_back_and_its_word_hangs_up() {
    // Exotel has no word to hang up: the next applet runs.
    let mut site = Site::new("exotel", "exotel");
    site.agent_sends(&speech(8000));
    site.agent.leg.close(1000, "");
    site.frames(20);
    assert!(site.bridge.state().has_line(), "what was said is heard first");
    site.frames(400);
    assert_eq!(voice(&site.queue.line).len(), 8000);
    assert_eq!(site.vendor.ears.count("Clear"), 0, "its last syllable may still be on its way to the caller");
    let State::Ended(reason) = site.bridge.state() else { panic!("{:?}", site.bridge.state()) };
    assert_eq!(site.bridge.reason_of(reason), EndReason::HandedBack);
    assert!(site.bridge.is_line_done(site.now));

    // Ozonetel has one, and an Ozonetel agent says it.
    let mut site = Site::new("ozonetel", "ozonetel");
    site.agent_says(Say::HangUp);
    site.frames(400);
    assert_eq!(site.vendor.ears.count("HangUp"), 1);
    let State::Ended(reason) = site.bridge.state() else { panic!("{:?}", site.bridge.state()) };
    assert_eq!(site.bridge.reason_of(reason), EndReason::TrunkHungUp);
    assert!(site.bridge.is_line_done(site.now));
}

#[test]
fn a_vendor_that_sends_no_audio_for_a_minute_has_lost_its_call() {
    let mut site = Site::new("ozonetel", "exotel");
    site.frames(10);
    for _ in 0..2990 {
        site.frame(&[]);
    }
    assert!(site.bridge.state().has_line());
    for _ in 0..30 {
        site.frame(&[]);
    }
    assert_eq!(site.bridge.state().reason(), Some(EndReason::LineSilent));
}

#[test]
fn a_drained_call_says_goodbye_to_both_sides() {
    let mut site = Site::new("exotel", "exotel");
    site.agent_sends(&speech(8000));
    site.frames(10);
    site.bridge.handle_event(site.now, CallEvent::Ordered(EndReason::Drained), &mut site.pool);
    site.exchange();
    site.frames(150);
    assert_eq!(site.agent.ears.count("Stop"), 1);
    assert!(site.bridge.is_line_done(site.now));
}

/// What OpenAI says when a session has lasted for an hour.
const SESSION_EXPIRED: &[u8] = br#"{"type":"error","event_id":"event_1","error":{"type":"invalid_request_error","code":"session_expired","message":"Your session hit the maximum duration of 60 minutes.","param":null,"event_id":null}}"#;

#[test]
fn a_session_that_ran_out_goes_on_over_another_connection_however_its_server_closes() {
    for close in [Some(1000_u16), Some(1001), Some(1011), None] {
        let mut site = Site::new("exotel", "openai");
        site.frames(10);
        site.agent_writes(0x81, SESSION_EXPIRED, SESSION_EXPIRED.len() as u16);
        assert!(site.bridge.poll_redial());
        match close {
            Some(code) => site.agent_writes(0x88, &code.to_be_bytes(), 2),
            None => site.bridge.handle_event(site.now, CallEvent::TrunkClosed, &mut site.pool),
        }
        assert_eq!(site.bridge.state(), State::Bridged, "{close:?}");
        assert!(!site.bridge.poll_redial(), "{close:?}: it is being dialled already");
        assert!(site.bridge.is_ready_to_change(site.now), "{close:?}");
    }
}

#[test]
fn half_a_message_of_a_lost_trunk_is_not_heard_before_what_the_next_one_says() {
    let mut site = Site::new("exotel", "openai");
    site.frames(10);
    site.agent_writes(0x81, SESSION_EXPIRED, SESSION_EXPIRED.len() as u16);
    let mut half =
        br#"{"type":"response.output_audio.delta","response_id":"resp_1","item_id":"item_1","delta":""#.to_vec();
    half.resize(30_000, b'I');
    site.agent_writes(0x81, &half, 60_000);
    site.bridge.handle_event(site.now, CallEvent::TrunkClosed, &mut site.pool);
    site.from_agent.clear();
    site.agent = Peer::new("openai", Role::Agent, Side::Server, None, &Options::default());
    site.agent.leg.open(site.now);
    let trunk = Peer::new("openai", Role::Vendor, Side::Client, None, &Options::default());
    assert!(site.bridge.handle_trunk_changed(site.now, trunk.leg, &mut site.pool).is_none());
    site.exchange();
    site.agent_sends(&speech(2400));
    site.frames(50);
    let heard = voice(&site.queue.line).len();
    assert!((700..900).contains(&heard), "100 ms were said, {heard} samples were heard");
}

#[test]
fn a_trunk_that_cannot_be_had_again_gives_the_vendor_its_line_back() {
    let mut site = Site::new("exotel", "openai");
    site.frames(10);
    site.agent_writes(0x81, SESSION_EXPIRED, SESSION_EXPIRED.len() as u16);
    assert!(site.bridge.poll_redial());
    site.bridge.handle_event(site.now, CallEvent::TrunkClosed, &mut site.pool);
    site.frames(1501);
    assert_eq!(site.bridge.state(), State::Bridged, "it is dialled again");
    site.bridge.handle_redial_failed(site.now, EndReason::TrunkRefused, &mut site.pool);
    assert_eq!(site.bridge.state(), State::Ended(EndReason::TrunkRefused));
    assert_eq!(site.bridge.times().ended, Some(site.now));
    site.exchange();
    assert!(site.bridge.is_line_done(site.now), "both have said goodbye");
    assert!(site.vendor.leg.is_closed());
}

#[test]
fn a_caller_who_hangs_up_while_the_trunk_is_dialled_again_wants_none_any_more() {
    let mut site = Site::new("exotel", "openai");
    site.frames(10);
    site.agent_writes(0x81, SESSION_EXPIRED, SESSION_EXPIRED.len() as u16);
    assert!(site.bridge.poll_redial());
    assert!(site.vendor.leg.say(site.now, Say::Stop(StopReason::CallerHungUp)));
    site.exchange();
    assert!(!site.bridge.is_redialing() && !site.bridge.is_ready_to_change(site.now + Now::from_secs(200)));
}

#[test]
fn a_vendor_that_reads_nothing_does_not_keep_a_call_whose_agent_has_left() {
    let mut site = Site::new("exotel", "exotel");
    site.agent_sends(&speech(80_000));
    site.agent.leg.close(1000, "");
    site.from_agent.extend(site.agent.take_out());
    site.daemon_reads_agent();
    assert!(matches!(site.bridge.state(), State::Finishing { .. }));
    for _ in 0..400 {
        // Its socket takes no byte, and it goes on sending.
        site.now += Now::from_millis(20);
        site.vendor.leg.write_audio(site.now, &[0; 160]);
        site.from_vendor.extend(site.vendor.take_out());
        site.daemon_reads_vendor();
        site.bridge.handle_tick(site.now, &mut site.pool);
    }
    assert!(!site.bridge.state().has_line(), "{:?}", site.bridge.state());
}

#[test]
fn a_mark_that_was_heard_waits_for_an_agent_that_does_not_read() {
    let mut site = Site::new("exotel", "exotel");
    site.agent_sends(&speech(1600));
    site.agent_says(Say::Mark("end"));
    site.frames(1);
    site.queue.marks.clear();
    // The agent's socket takes nothing any more.
    while site.bridge.trunk_mut().unwrap().say(site.now, Say::Dtmf(b'1')) {}
    assert!(site.vendor.leg.say(site.now, Say::Heard("end")));
    site.from_vendor.extend(site.vendor.take_out());
    site.daemon_reads_vendor();
    assert_eq!(site.bridge.clears_and_marks().1, 0);
    site.frames(2);
    assert_eq!((site.agent.ears.count("heard end"), site.bridge.clears_and_marks().1), (1, 1));
}

#[test]
fn a_vendor_that_answers_our_goodbye_is_not_on_record_as_the_one_who_closed() {
    let mut site = Site::new("exotel", "exotel");
    site.frames(10);
    site.bridge.handle_event(site.now, CallEvent::TrunkEnded(EndReason::TrunkLost), &mut site.pool);
    site.frames(5);
    assert!(site.vendor.leg.is_closed() && site.bridge.is_line_done(site.now));
    assert_eq!(site.bridge.line_over(), (None, None), "it only gave our 1011 back");
}

#[test]
fn what_an_agent_owes_after_the_call_is_over_is_not_on_record() {
    let mut site = Site::new("exotel", "openai");
    // A server that has not said `session.created`, and says nothing.
    let silent = Peer::new("openai", Role::Vendor, Side::Client, None, &Options::default());
    site.bridge.handle_trunk_changed(site.now, silent.leg, &mut site.pool);
    site.agent = Peer::new("openai", Role::Agent, Side::Server, None, &Options::default());
    site.frames(350);
    assert!(site.vendor.leg.say(site.now, Say::Stop(StopReason::CallerHungUp)));
    for _ in 0..240 {
        site.now += Now::from_millis(20);
        site.bridge.handle_tick(site.now, &mut site.pool);
        site.from_vendor.extend(site.vendor.take_out());
        site.daemon_reads_vendor();
    }
    assert_eq!((site.bridge.overdue(), site.bridge.state().reason()), (None, Some(EndReason::LineHungUp)));
}

#[test]
fn whoever_listens_hears_both_sides_in_step_with_the_caller() {
    let mut site = Site::new("exotel", "exotel");
    let (mut caller, mut agent) = (Vec::new(), Vec::new());
    site.agent_sends(&speech(8000));
    for said in speech(16_000).chunks(160) {
        site.frame(said);
        site.bridge.overhear(None, |rate, left, right| {
            assert_eq!(rate, Rate::Hz8000);
            caller.extend_from_slice(left);
            agent.extend_from_slice(right);
        });
    }
    assert_eq!(voice(&caller), speech(16_000));
    assert_eq!(voice(&agent), speech(8000));
    let first = agent.iter().position(|&sample| sample != 0).unwrap();
    let heard = site.queue.line.iter().position(|&sample| sample != 0).unwrap();
    assert!(first.abs_diff(heard) <= 320, "recorded at {first}, heard at {heard}");
}

#[test]
fn the_carrier_of_every_dialect_is_one_that_a_line_can_read() {
    for name in dialect::NAMES {
        let dialect = dialect::open(name, Role::Agent, None, Rate::Hz8000, &Options::default()).unwrap();
        assert!(matches!(dialect.expected().carrier, Carrier::Array | Carrier::Base64 | Carrier::Raw));
        assert!(dialect.chunk().is_multiple_of(dialect.unit()), "{name}");
    }
}

/// The agent's response is over by itself after a silence; the caller is silent, too.
fn let_the_turn_end(site: &mut Site) {
    site.frames(150);
}

#[test]
fn a_session_that_is_55_minutes_old_is_replaced_between_turns_and_no_word_is_lost() {
    // At one rate, so that samples can be told from one another.
    let mut site = Site::of(Plan { vendor_rate: Some(Rate::Hz24000), ..Plan::new("exotel", "openai") });
    site.frames(5);
    let younger = Now::from_secs(54 * 60);
    site.now += younger;
    site.frames(1);
    site.agent_sends(&speech(24_000));
    let_the_turn_end(&mut site);
    assert!(!site.bridge.poll_redial(), "54 minutes are no age");

    site.now += Now::from_secs(60);
    site.frames(1);
    site.agent_sends(&speech(24_000));
    site.frames(10);
    assert!(!site.bridge.poll_redial(), "the agent speaks");
    let_the_turn_end(&mut site);
    assert!(site.bridge.poll_redial() && site.bridge.is_redialing());
    assert!(!site.bridge.poll_redial(), "it is asked for once");

    // The other connection is there; whoever speaks is not interrupted for it.
    assert!(site.bridge.is_ready_to_change(site.now));
    let before = site.agent.ears.heard.len();
    let (first, second) = (speech(24_000), speech(24_000 * 5));
    for said in first.chunks(480) {
        site.frame(said);
        assert!(!site.bridge.is_ready_to_change(site.now), "the caller speaks");
    }
    site.frames(20);
    assert!(!site.bridge.is_ready_to_change(site.now), "and may go on after a breath");
    site.frames(20);
    assert!(site.bridge.is_ready_to_change(site.now));
    site.is_agent_slow = true;
    let (old, leg) = site.change_trunk();
    assert!(voice(&old.ears.heard[before..]) == first);
    assert!(leg.unwrap().out().starts_with(&[0x88]), "the old session is closed");
    assert!(site.notes().contains(&Happening::Rebridged));
    assert!(!site.bridge.poll_redial() && !site.bridge.is_redialing(), "the new one is young");

    // The caller speaks before the new session has our formats: that waits for it.
    let (early, late) = second.split_at(24_000 * 4);
    early.chunks(480).for_each(|said| site.frame(said));
    let greeted = site.agent.ears.heard.len();
    site.is_agent_slow = false;
    late.chunks(480).for_each(|said| site.frame(said));
    assert_eq!(greeted, 0);
    assert!(voice(&site.agent.ears.heard) == second);
    let up = site.bridge.uplink();
    assert_eq!((up.dropped, up.sent, up.samples as usize), (0, up.samples, site.spoken.len()));
    assert_eq!(site.bridge.state(), State::Bridged);
}

#[test]
fn a_listener_that_is_lost_is_dialled_again_and_hears_what_was_said_meanwhile() {
    let mut site = Site::of(Plan { agent_rate: Some(Rate::Hz8000), ..Plan::new("ozonetel", "rtaa") });
    let said = speech(8000 * 6);
    let (before, after) = said.split_at(8000 * 2);
    before.chunks(160).for_each(|said| site.frame(said));
    site.bridge.handle_event(site.now, CallEvent::TrunkEnded(EndReason::TrunkLost), &mut site.pool);
    assert_eq!(site.bridge.state(), State::Bridged, "the caller does not notice");
    assert!(site.bridge.poll_redial());
    let (meanwhile, after) = after.split_at(8000 * 3);
    meanwhile.chunks(160).for_each(|said| site.frame(said));
    assert!(site.bridge.is_ready_to_change(site.now));
    let (old, leg) = site.change_trunk();
    assert!(leg.is_none(), "there was nobody to say goodbye to");
    after.chunks(160).for_each(|said| site.frame(said));
    assert_eq!([&old.ears, &site.agent.ears].map(|ears| ears.count("Start")), [1, 1]);
    assert!([&old.ears, &site.agent.ears].map(|ears| &*ears.heard).concat() == said);
    let up = site.bridge.uplink();
    assert_eq!((up.dropped, up.sent), (0, said.len() as u64));
    // Both connections are one call's.
    assert_eq!(site.bridge.trunk_tally().messages_out, 2 + 6 * 5);
}

/// A caller who speaks over an agent who has ten seconds to say, and goes on until it is told to stop. Gives the call, how
/// much the agent said (ms), and the samples that had been sent to the vendor when it was told to flush them.
fn interrupted(agent: &str, barge_in: BargeIn) -> (Site, usize, Option<usize>) {
    let mut site = Site::new("exotel", agent);
    site.bridge.set_barge_in(barge_in);
    let rate = site.agent.ears.rate.unwrap();
    site.frames(20);
    site.agent_sends(&speech(rate.samples(10_000)));
    let (mut said_ms, mut flushed_at) = (10_000, None);
    site.frames(30);
    for said in person(Rate::Hz8000, 1500).chunks(160) {
        if site.agent.ears.count("Clear") == 0 {
            site.agent_sends(&speech(rate.frame()));
            said_ms += 20;
        }
        site.frame(said);
        if site.vendor.ears.count("Clear") > 0 {
            flushed_at.get_or_insert(site.vendor.ears.heard.len());
        }
    }
    (site, said_ms, flushed_at)
}

fn barge_ins(site: &mut Site) -> Vec<Option<u64>> {
    let flushed = |note| match note {
        Happening::BargeIn { flushed_ms } => Some(flushed_ms),
        _ => None,
    };
    site.notes().into_iter().filter_map(flushed).collect()
}

#[test]
fn a_caller_who_speaks_silences_the_agent_where_our_own_ears_may() {
    let (mut site, said_ms, flushed_at) = interrupted("exotel", BargeIn::Flush);
    assert_eq!(Some(site.vendor.ears.heard.len()), flushed_at, "nothing of the old speech was sent after the clear");
    assert_eq!(site.vendor.ears.count("Clear"), 1);
    let weather = site.bridge.weather();
    assert_eq!(weather.heard + weather.flushed, said_ms as u64 * 8);
    let [Some(flushed_ms)] = barge_ins(&mut site)[..] else { panic!("one barge-in, and it flushed") };
    assert!(flushed_ms > 8000 && flushed_ms <= weather.flushed / 8, "{flushed_ms} of {weather:?}");
    // What still comes of it is not heard; after a pause it is new.
    site.frames(20);
    let before = site.vendor.ears.heard.len();
    site.agent_sends(&speech(8000));
    site.frames(80);
    assert_eq!(Some(before), flushed_at);
    assert!(voice(&site.vendor.ears.heard[before..]) == speech(8000));
}

#[test]
fn an_openai_agent_that_the_caller_interrupts_is_cut_short_and_its_next_response_is_heard() {
    let (mut site, _, flushed_at) = interrupted("openai", BargeIn::Flush);
    assert_eq!(Some(site.vendor.ears.heard.len()), flushed_at);
    assert_eq!(site.agent.ears.count("Clear"), 1, "its response is cancelled");
    let before = site.vendor.ears.heard.len();
    site.agent_sends(&speech(24_000));
    site.frames(80);
    assert!(site.vendor.ears.heard.len() - before >= 8000 - 160, "without a pause");
}

#[test]
fn an_agent_that_is_only_told_of_the_caller_is_heard_on() {
    for agent in ["exotel", "openai"] {
        let (mut site, said_ms, flushed_at) = interrupted(agent, BargeIn::Notify);
        assert_eq!((flushed_at, site.vendor.ears.count("Clear")), (None, 0), "{agent}");
        assert_eq!(barge_ins(&mut site), [None], "{agent}");
        // Where the dialect has a word for it, it is said, and it is the agent who stops.
        assert_eq!(site.agent.ears.count("Clear"), usize::from(agent == "openai"), "{agent}");
        site.frames(600);
        let heard = voice(&site.queue.line).len();
        assert!(heard >= said_ms * 8 - 320, "{agent}: {heard} samples of {said_ms} ms");
        assert_eq!(site.bridge.weather().flushed, 0, "{agent}");
    }
}

#[test]
fn on_a_line_that_only_listens_an_agent_is_counted_and_never_sent() {
    let uplink = options("exotel", &[("direction", OptionValue::Str("uplink"))]);
    let listening = [
        // The Stream applet; and the same vendor on a path that says so, which it cannot know.
        Plan { vendor_options: uplink.clone(), ..Plan::new("exotel", "exotel") },
        Plan { line_options: Some(uplink), ..Plan::new("exotel", "exotel") },
    ];
    for plan in listening {
        let mut site = Site::of(plan);
        assert_eq!(site.bridge.direction(), Direction::Uplink);
        site.agent_sends(&speech(16_000));
        site.agent_says(Say::Mark("m"));
        let said = speech(16_000);
        said.chunks(160).for_each(|said| site.frame(said));
        assert!(voice(&site.agent.ears.heard) == said);
        let weather = site.bridge.weather();
        assert_eq!((weather.heard, weather.flushed), (0, 16_000));
        assert_eq!(site.bridge.trunk_tally().samples_in, 16_000);
        assert!(site.vendor.ears.heard.is_empty(), "nobody hears it");
        let of_the_agent = |(_, event): &&(usize, String)| event != "None";
        assert_eq!(site.vendor.ears.events.iter().find(of_the_agent), None);
        assert_eq!(site.bridge.backlog_ms(), 0);
    }
}
