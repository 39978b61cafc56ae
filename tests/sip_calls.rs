//! Calls from a PBX that we did not write: sipp plays it, strictly, and whatever it may do to a line.

#![allow(clippy::unwrap_used)]

mod sip;
mod site;

use std::{
    net::{Ipv4Addr, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use sip::{
    Site, Trunk,
    scenario::{SDP, Scenario, offer},
    wire::Wire,
};
use site::{Process, SOON, TRUNKLINE, field, free_ports, number, wait_for, wait_within};

/// A call that is answered, up to its ACK.
fn answered() -> Scenario {
    Scenario::caller().invite("", SDP).may(100).may(180).expect(200).header("Content-Type", "application/sdp").ack()
}

// Many calls

#[test]
fn two_hundred_calls_at_twenty_a_second_are_all_carried_with_their_speech() {
    let Some(site) =
        Site::start_with(&[Trunk::Echo], "invites-per-second = 100\nrtp-ports = \"64000-64999\"", "max-calls = 120")
    else {
        return;
    };
    let noise = site.noise_file(5.0);
    let call = answered().play(noise.to_str().unwrap()).pause(2500).bye();
    let playing = site.sipp(&call).calls(200, 20).start();
    playing.ends_well(Duration::from_secs(60));
    wait_for("200 calls are over", || site.daemon.process.count(&["call ended"]) == 200);
    for n in 0..200 {
        let ended = site.daemon.process.nth_line(n, &["call ended"]);
        assert_eq!(field(&ended, "end_reason"), "line-hung-up", "{ended}");
        // 2.5 s, less what the two ends of the call take.
        assert!(number(&ended, "samples_up") >= 18_000, "{ended}");
        assert!(number(&ended, "samples_heard") >= 16_000, "the caller hears the echo: {ended}");
    }
    assert_eq!(site.daemon.metric("trunkline_calls"), 0);
    assert_eq!(site.daemon.metric("trunkline_calls_refused_total"), 0);
}

#[test]
fn a_tenth_of_all_signalling_that_is_lost_costs_no_call() {
    let Some(site) = Site::start_with(&[Trunk::Echo], "invites-per-second = 100", "max-calls = 100") else { return };
    let playing = site.sipp(&answered().pause(500).bye()).calls(100, 10).loses(10).start();
    playing.ends_well(Duration::from_secs(90));
    // Where the BYE's answer was lost, the call was over all the same. But now and then sipp is content with a call of which
    // neither its ACK nor its BYE came, and then the call is lost 32 s after its answer (RFC 3261 13.3.1.4).
    wait_within(Duration::from_secs(50), "every call is over", || site.daemon.metric("trunkline_calls") == 0);
    site.daemon.process.nth_line(99, &["call ended"]);
    let [well, lost] = ["line-hung-up", "line-lost"]
        .map(|reason| site.daemon.process.count(&["call ended", &format!("end_reason={reason}")]));
    assert!(well >= 95 && well + lost == 100, "{well} ended well and {lost} were lost");
}

#[test]
fn a_call_over_tcp_is_like_any_other() {
    let Some(site) = Site::start() else { return };
    site.sipp(&answered().pause(300).bye()).calls(3, 10).args(&["-t", "t1"]).start().ends_well(SOON);
    site.daemon.process.nth_line(2, &["call ended", "end_reason=line-hung-up"]);
}

#[test]
fn header_names_of_one_letter_are_understood() {
    let Some(site) = Site::start() else { return };
    let call = Scenario::caller().compact().invite("k: timer\n", SDP).may(100).may(180).expect(200);
    site.plays(&call.ack().pause(200).bye());
}

// Before the answer

#[test]
fn a_caller_who_gives_up_while_it_rings_is_told_so_and_costs_nothing() {
    let Some(site) = Site::start_with(&[Trunk::Silent], "", "") else { return };
    let call = Scenario::caller()
        .invite("", SDP)
        .may(100)
        .expect(180)
        .take("tag", "To", ";tag=([^;]+)")
        .pause(300)
        .cancel()
        .expect(200)
        .header("CSeq", "CANCEL")
        .expect(487)
        .header("CSeq", "INVITE")
        .take("tag", "To", ";tag=([^;]+)")
        .ack_refusal()
        .end();
    let played = site.sipp(&call).calls(50, 15).args(&["-l", "6"]).start().ends_well(SOON);
    let mut tags = played.taken("tag");
    assert_eq!(tags.len(), 100);
    tags.sort_unstable();
    tags.dedup();
    assert_eq!(tags.len(), 50, "a call's 487 has the tag of its 180");
    wait_for("no call is left", || site.daemon.metric("trunkline_calls") == 0);
}

#[test]
fn a_repeated_invite_is_answered_as_before_and_is_no_second_call() {
    let Some(site) = Site::start_with(&[Trunk::Late(Duration::from_secs(1))], "", "") else { return };
    let wire = Wire::open(site.address());
    let invite = wire.invite("again", 40_000);
    wire.send(&invite);
    let ringing = wire.until("SIP/2.0 180");
    wire.send(&invite);
    assert_eq!(wire.next().text, ringing.text, "what was said last is said again");
    let answered = wire.until("SIP/2.0 200");
    assert_eq!(answered.to_tag(), ringing.to_tag());
    wire.send(&invite);
    let again = wire.until("SIP/2.0 200");
    assert_eq!(again.text, answered.text);
    wire.send(&wire.request("ACK", "again", 1, answered.to_tag()));
    wire.send(&wire.request("BYE", "again", 2, answered.to_tag()));
    wire.until("SIP/2.0 200");
    site.daemon.process.line(&["call ended"]);
    assert_eq!(site.knocks(0), 1, "the trunk was dialled once");
}

#[test]
fn a_phone_rings_until_the_trunk_is_ready_and_not_a_moment_less() {
    let Some(site) = Site::start_with(&[Trunk::Late(Duration::from_millis(1500))], "", "") else { return };
    let call = Scenario::caller().invite("", SDP).may(100).expect(180).lacks("m=audio").expect(200);
    let played = site.plays(&call.ack().pause(200).bye());
    let (ringing, answered) = (played.at("SIP/2.0 180"), played.at("SIP/2.0 200"));
    // RFC 3261 17.2.1: what is not answered within 200 ms is answered 100 meanwhile.
    assert!(played.times()[0].0 < 0.2 && ringing < 0.5, "{:?}", played.times());
    assert!((1.4..4.0).contains(&answered), "{:?}", played.times());
}

#[test]
fn a_trunk_that_refuses_is_followed_by_the_next_and_the_phone_hears_only_ringing() {
    let Some(site) = Site::start_with(&[Trunk::Refusing, Trunk::Echo], "", "") else { return };
    let call = Scenario::caller().invite("", SDP).may(100).expect(180).expect(200);
    site.plays(&call.ack().pause(200).bye());
    let ended = site.daemon.process.line(&["call ended"]);
    assert_eq!(field(&ended, "trunk"), "t1", "{ended}");
    assert_eq!(site.knocks(0), 1);
}

#[test]
fn a_call_that_no_trunk_takes_is_refused_as_the_config_says() {
    for (line, status) in [("", 503), ("refuse-status = 486", 486), ("fallback = \"sip:300@127.0.0.1\"", 302)] {
        let Some(site) = Site::start_with(&[Trunk::Refusing, Trunk::Refusing], line, "") else { return };
        let call = Scenario::caller().invite("", SDP).may(100).may(180).expect(status);
        let call = if status == 302 { call.header("Contact", "sip:300@127.0.0.1") } else { call };
        site.plays(&call.ack_refusal().end());
        let ended = site.daemon.process.line(&["call ended"]);
        assert_eq!(field(&ended, "end_reason"), "trunk-refused", "{ended}");
        assert_eq!((site.knocks(0), site.knocks(1)), (1, 1));
    }
}

#[test]
fn a_trunk_that_never_answers_makes_way_for_the_next_after_its_time() {
    let Some(site) = Site::start_with(&[Trunk::Silent, Trunk::Echo], "", "") else { return };
    // The 5 s of `connect-timeout-ms`.
    let call = Scenario::caller().invite("", SDP).may(100).expect(180).expect(200).within_ms(15_000);
    let played = site.plays(&call.ack().pause(200).bye());
    assert!((4.8..12.0).contains(&played.at("SIP/2.0 200")), "{:?}", played.times());
}

#[test]
fn a_phone_whose_trunks_never_answer_is_let_go_when_the_ringing_is_over() {
    let Some(site) = Site::start_with(&[Trunk::Silent, Trunk::Silent], "ring-timeout-seconds = 6", "") else { return };
    let call = Scenario::caller().invite("", SDP).may(100).expect(180).expect(503).within_ms(15_000);
    let played = site.plays(&call.ack_refusal().end());
    assert!((5.8..12.0).contains(&played.at("SIP/2.0 503")), "{:?}", played.times());
    assert_eq!(field(&site.daemon.process.line(&["call ended"]), "end_reason"), "trunk-timeout");
}

#[test]
fn a_peer_that_insists_on_reliable_ringing_gets_it() {
    let Some(site) = Site::start_with(&[Trunk::Late(Duration::from_secs(1))], "", "") else { return };
    let call = Scenario::caller()
        .invite("Require: 100rel\n", SDP)
        .may(100)
        .expect(180)
        .header("Require", "100rel")
        .take("rseq", "RSeq", "([0-9]+)")
        .within("PRACK", "RAck: [$rseq] 1 INVITE\n", "")
        .expect(200)
        .header("CSeq", "PRACK")
        .expect(200)
        .header("CSeq", "INVITE");
    site.plays(&call.ack().pause(200).bye());
    // One that does not say PRACK is told again, and again.
    let deaf = Scenario::caller().invite("Require: 100rel\n", SDP).may(100).expect(180).pause(1200).cancel();
    let played = site.plays(&deaf.expect(200).expect(487).ack_refusal().end());
    let ringing: Vec<_> = played.times().into_iter().filter(|(_, line)| line.starts_with("SIP/2.0 180")).collect();
    assert!(ringing.len() >= 2, "{ringing:?}");
}

#[test]
fn an_invite_without_an_offer_is_answered_with_one() {
    let Some(site) = Site::start() else { return };
    let answer = SDP.replace("RTP/AVP 0 101", "RTP/AVP 0").replace("a=rtpmap:101 telephone-event/8000\n", "");
    let answer = answer.replace("a=fmtp:101 0-15\n", "");
    let noise = site.noise_file(5.0);
    let call = Scenario::caller()
        .request("INVITE", "", "")
        .may(100)
        .may(180)
        .expect(200)
        .header("Content-Type", "application/sdp")
        .body("m=audio [1-9][0-9]+ RTP/AVP [0-9 ]*0")
        .body("a=rtpmap:9 G722/8000")
        .ack_with(&answer);
    let played = site.plays(&call.play(noise.to_str().unwrap()).pause(1500).bye());
    let ended = site.daemon.process.line(&["call ended"]);
    assert_eq!(field(&ended, "end_reason"), "line-hung-up", "{ended}");
    assert!(number(&ended, "samples_heard") > 4_000, "{ended} {}", played.whole());
}

// What is refused

#[test]
fn what_cannot_be_served_is_refused_with_the_status_and_the_header_that_say_why() {
    let Some(site) = Site::start() else { return };
    let invite = |headers: &str, body: &str| Scenario::caller().invite(headers, body).may(100);
    let g729 = SDP.replace("RTP/AVP 0 101", "RTP/AVP 18").replace("a=rtpmap:0 PCMU/8000", "a=rtpmap:18 G729/8000");
    let refused = [
        invite("Require: gnusto, 100rel\n", SDP)
            .expect(420)
            .header("Unsupported", "gnusto")
            .lacks("Unsupported:.*100rel"),
        Scenario::caller()
            .request("INVITE", "Content-Type: text/plain\n", "hello\n")
            .may(100)
            .expect(415)
            .header("Accept", "application/sdp"),
        Scenario::caller()
            .request("INVITE", "Content-Type: application/sdp\nContent-Encoding: gzip\n", SDP)
            .may(100)
            .expect(415)
            .lacks("Accept-Encoding:.*gzip"),
        invite("", &g729).expect(488),
        invite("", &SDP.replace("m=audio", "m=video")).expect(488),
        invite("Session-Expires: 10\nSupported: timer\n", SDP).expect(422).header("Min-SE", "90"),
    ];
    for call in refused {
        site.plays(&call.header("To", ";tag=").ack_refusal().end());
    }
    let answered = [
        Scenario::caller().request("SPELL", "", "").expect(405).header("Allow", "INVITE").header("Allow", "BYE"),
        Scenario::caller().request("BYE", "", "").expect(481),
        Scenario::caller().request("CANCEL", "", "").expect(481),
        Scenario::caller().request("PRACK", "RAck: 1 1 INVITE\n", "").expect(481),
        Scenario::caller().request("INFO", "", "").expect(481),
        Scenario::caller().request("REFER", "Refer-To: <sip:300@127.0.0.1>\n", "").expect(603),
    ];
    for exchange in answered {
        site.plays(&exchange.end());
    }
    assert_eq!(site.daemon.process.count(&["call started"]), 0, "none of them was a call");
    site.plays(&answered_briefly());
}

#[test]
fn a_request_that_may_not_be_passed_on_is_answered_by_whom_it_is_for() {
    let Some(site) = Site::start() else { return };
    // RFC 3261 16.3 has 483 for those who pass requests on. We do not.
    let last_hop = "Max-Forwards: 0\n";
    let call = Scenario::caller().invite(last_hop, SDP).may(100).may(180).expect(200);
    site.plays(&call.ack().pause(100).bye());
    site.plays(&Scenario::caller().request("OPTIONS", last_hop, "").expect(200).end());
}

fn answered_briefly() -> Scenario {
    answered().pause(100).bye()
}

#[test]
fn options_say_what_the_line_can_do_and_that_it_is_there() {
    let Some(site) = Site::start() else { return };
    let options = Scenario::caller()
        .request("OPTIONS", "Accept: application/sdp\n", "")
        .expect(200)
        .header("Allow", "INVITE")
        .header("Allow", "UPDATE")
        .header("Accept", "application/sdp")
        .header("Supported", "timer")
        .header("To", ";tag=");
    site.plays(&options.end());
    // In a dialog, too.
    let call = answered().within("OPTIONS", "", "").expect(200).header("Allow", "INVITE");
    site.plays(&call.bye());
}

#[test]
fn a_line_that_is_taken_from_the_config_finishes_its_live_call_and_frees_its_port() {
    let Some(site) = Site::start() else { return };
    let live = site.sipp(&answered().pause(3000).bye()).start();
    live.until_seen("ACK sip:");
    site.daemon.reload(|config| {
        let (before, rest) = config.split_once("[line.pbx]").unwrap();
        let after = rest.find("[trunk.t0]").unwrap();
        let port = free_ports(1)[0];
        format!("{before}[line.pbx]\nkind = \"audiosocket\"\nlisten = \"127.0.0.1:{port}\"\n{}", &rest[after..])
    });
    let refused = Scenario::caller().invite("", SDP).may(100).expect(503).header("Retry-After", "[0-9]");
    site.plays(&refused.ack_refusal().end());
    live.ends_well(SOON);
    let ended = site.daemon.ended("pbx");
    assert_eq!((field(&ended, "end_reason"), number(&ended, "dropped")), ("line-hung-up", 0), "{ended}");
    wait_for("its port is free", || UdpSocket::bind(site.address()).is_ok());
}

#[test]
fn a_line_goes_by_its_new_keys_with_the_sockets_that_it_has() {
    let Some(site) = Site::start() else { return };
    let live = site.sipp(&answered().pause(2000).bye()).start();
    live.until_seen("ACK sip:");
    let told = site.daemon.reload(|config| config.replace("[line.pbx]\n", "[line.pbx]\nuser-agent = \"Depot 7\"\n"));
    assert!(told.ends_with("line pbx changes"), "{told}");
    site.plays(&Scenario::caller().request("OPTIONS", "", "").expect(200).header("Server", "Depot 7").end());
    live.ends_well(SOON);
    let told = site.daemon.reload(|config| config.replace("[line.pbx]\n", "[line.pbx]\ntransports = [\"udp\"]\n"));
    assert!(told.contains("only a restart can change [line.pbx]"), "{told}");
}

#[test]
fn a_line_that_drains_sends_new_calls_elsewhere_and_finishes_the_live_one() {
    let Some(site) = Site::start_with(&[Trunk::Echo], "", "") else { return };
    let live = site.sipp(&answered().pause(3000).bye()).start();
    live.until_seen("ACK sip:");
    let draining = {
        let socket = site.dir.path().join("control.sock");
        Process::start(Command::new(TRUNKLINE).args(["drain", "--socket"]).arg(socket))
    };
    site.daemon.process.line(&["drain"]);
    let options = || Scenario::caller().request("OPTIONS", "", "");
    site.plays(&options().expect(503).end());
    let refused = Scenario::caller().invite("", SDP).may(100).expect(503).header("Retry-After", "[0-9]");
    site.plays(&refused.ack_refusal().end());
    live.ends_well(SOON);
    site.daemon.process.line(&["call ended", "end_reason=line-hung-up"]);
    drop(draining);
}

#[test]
fn a_trunk_that_is_out_of_reach_is_told_by_options_and_one_that_refuses_is_not() {
    let options = |status| Scenario::caller().request("OPTIONS", "", "").expect(status).end();
    let call = || Scenario::caller().invite("", SDP).may(100).may(180).expect(503);
    let Some(site) = Site::start_with(&[Trunk::Away], "", "") else { return };
    site.plays(&options(200));
    site.plays(&call().ack_refusal().end());
    site.plays(&options(503));
    // The PBX overflows at once, with word of when it is worth asking again.
    site.plays(&call().header("Retry-After", "[1-9]").ack_refusal().end());
    assert_eq!(site.daemon.process.count(&["call started"]), 1);
    // One that turns a caller away is there, and may well take the next.
    let Some(site) = Site::start_with(&[Trunk::Refusing], "", "") else { return };
    site.plays(&call().ack_refusal().end());
    site.plays(&options(200));
}

#[test]
fn the_message_waiting_of_a_pbx_is_taken_or_refused_and_never_left_unanswered() {
    let Some(site) = Site::start() else { return };
    let body = "Messages-Waiting: yes\nVoice-Message: 2/8 (0/2)\n";
    let headers =
        "Event: message-summary\nSubscription-State: active\nContent-Type: application/simple-message-summary\n";
    site.plays(&Scenario::caller().request("NOTIFY", headers, body).expect(200).end());
    let unknown = Scenario::caller().request("NOTIFY", "Event: weather\nSubscription-State: active\n", "");
    site.plays(&unknown.expect(489).header("Allow-Events", "message-summary").end());
}

#[test]
fn a_stranger_gets_no_answer_whatever_it_sends() {
    let Some(site) = Site::start() else { return };
    let stranger = Wire::open_at(Ipv4Addr::new(127, 0, 0, 2), site.address());
    for method in ["OPTIONS", "REGISTER", "BYE", "SPELL"] {
        stranger.send(&stranger.request(method, method, 1, ""));
    }
    stranger.send(&stranger.invite("scan", 40_000));
    stranger.send("nonsense\n\n");
    // Whoever is allowed is answered all the while, and after it.
    site.plays(&answered_briefly());
    assert!(stranger.within(Duration::from_millis(300)).is_none());
    assert_eq!(site.daemon.process.count(&["call started"]), 1);
}

#[test]
fn a_source_in_a_hurry_is_told_to_wait_and_served_again_later() {
    let Some(site) = Site::start_with(&[Trunk::Echo], "invites-per-second = 2", "max-calls = 20") else { return };
    let wire = Wire::open(site.address());
    for n in 0..12 {
        wire.send(&wire.invite(&format!("hurry{n}"), 40_000));
    }
    let (mut taken, mut refused) = (0, 0);
    while taken + refused < 12 {
        let answer = wire.next();
        let call = answer.header("Call-ID").to_owned();
        match answer.status() {
            200 if answer.header("CSeq") == "1 INVITE" => {
                taken += 1;
                wire.send(&wire.request("ACK", &call, 1, answer.to_tag()));
                wire.send(&wire.request("BYE", &call, 2, answer.to_tag()));
            }
            503 => {
                refused += 1;
                assert!(answer.header("Retry-After").parse::<u32>().is_ok_and(|after| after > 0));
                wire.send(&wire.refusal_ack(&call, answer.to_tag()));
            }
            100 | 180 | 200 => {}
            _ => panic!("{}", answer.text),
        }
    }
    // Twice as many at once, and those that time brought meanwhile.
    assert!((4..=6).contains(&taken), "{taken} were taken, {refused} refused");
    let again = Instant::now() + SOON;
    loop {
        let (ok, played) = site.sipp(&answered_briefly()).start().end(SOON);
        if ok {
            break;
        }
        assert!(Instant::now() < again, "{}", played.whole());
    }
}

// In the call

#[test]
fn hold_in_each_of_its_ways_is_answered_in_the_other_direction_and_resumed() {
    let Some(site) = Site::start() else { return };
    let version = "o=[^ ]+ [0-9]+ ([0-9]+) IN";
    let again = |call: Scenario, n: u32, connection: Option<&str>, direction: &str, answer: &str| {
        let call = call.within("INVITE", "", &offer(n, connection, direction)).may(100).expect(200).body(answer);
        call.take_body("version", version).take_body("port", "m=audio ([0-9]+) RTP/AVP 0").ack().pause(150)
    };
    let call = Scenario::caller().invite("", SDP).may(100).may(180).expect(200).take_body("version", version);
    let mut call = call.take_body("port", "m=audio ([0-9]+) RTP/AVP 0").ack().pause(150);
    call = again(call, 2, None, "a=sendonly", "a=recvonly");
    // The same again, as a refresh has it.
    call = again(call, 2, None, "a=sendonly", "a=recvonly");
    call = again(call, 3, None, "a=sendrecv", "a=sendrecv");
    call = again(call, 4, None, "a=inactive", "a=inactive");
    call = again(call, 5, None, "a=sendrecv", "a=sendrecv");
    call = again(call, 6, Some("0.0.0.0"), "", "a=(recvonly|inactive)");
    call = again(call, 7, None, "", "m=audio [1-9]");
    // By UPDATE, RFC 3311; and a refresh that has no offer.
    call = call.within("UPDATE", "", &offer(8, None, "a=sendonly")).expect(200).body("a=recvonly");
    call = call.within("UPDATE", "", &offer(9, None, "a=sendrecv")).expect(200).body("a=sendrecv");
    call = call.within("UPDATE", "", "").expect(200).lacks("m=audio");
    let played = site.plays(&call.pause(100).bye());
    let versions: Vec<u64> = played.taken("version").iter().map(|text| text.parse().unwrap()).collect();
    let steps: Vec<_> = versions.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // Of those that were asked for by INVITE: another direction is another version, the same one is not.
    assert_eq!(steps, [1, 0, 1, 1, 1, 1, 1], "{versions:?}");
    let mut ports = played.taken("port");
    ports.dedup();
    assert_eq!(ports.len(), 1, "the port stays");
    let ended = site.daemon.process.line(&["call ended"]);
    assert_eq!(field(&ended, "end_reason"), "line-hung-up", "{ended}");
}

#[test]
fn a_transfer_that_the_peer_asks_for_is_declined_and_the_call_goes_on() {
    let Some(site) = Site::start() else { return };
    let call = answered().within("REFER", "Refer-To: <sip:300@127.0.0.1>\n", "").expect(603).pause(200);
    site.plays(&call.within("OPTIONS", "", "").expect(200).bye());
}

#[test]
fn keys_pressed_by_info_reach_the_call_and_other_info_is_answered() {
    let Some(site) = Site::start_with(&[Trunk::Echo], "dtmf = \"info\"", "") else { return };
    let relay = "Content-Type: application/dtmf-relay\n";
    let call = answered()
        .within("INFO", relay, "Signal=5\nDuration=160\n")
        .expect(200)
        .within("INFO", relay, "Signal=#\nDuration=160\n")
        .expect(200)
        .within("INFO", "Content-Type: text/plain\n", "hello\n")
        .expect(415)
        .within("INFO", "", "")
        .expect(200);
    site.plays(&call.pause(300).bye());
    let ended = site.daemon.process.line(&["call ended"]);
    assert_eq!(number(&ended, "digits"), 2, "{ended}");
}

#[test]
fn a_bye_is_answered_once_for_each_time_it_is_sent_and_ends_one_call() {
    let Some(site) = Site::start() else { return };
    let wire = Wire::open(site.address());
    wire.send(&wire.invite("bye", 40_000));
    let answered = wire.until("SIP/2.0 200");
    wire.send(&wire.request("ACK", "bye", 1, answered.to_tag()));
    let bye = wire.request("BYE", "bye", 2, answered.to_tag());
    let first = {
        wire.send(&bye);
        wire.until("SIP/2.0 200").text
    };
    wire.send(&bye);
    assert_eq!(wire.next().text, first);
    // A request of its own comes too late.
    wire.send(&wire.request("BYE", "bye", 3, answered.to_tag()));
    assert_eq!(wire.next().status(), 481);
    site.daemon.process.line(&["call ended", "end_reason=line-hung-up"]);
}

#[test]
fn an_agent_that_hangs_up_ends_the_call_of_the_phone() {
    let Some(site) = Site::start_with(&[Trunk::HangsUp(Duration::from_secs(1))], "", "") else { return };
    let call = answered().awaits("BYE").answer("200 OK", "", "").end();
    site.plays(&call);
    assert_eq!(field(&site.daemon.process.line(&["call ended"]), "end_reason"), "trunk-hung-up");
}
