//! What the PBX asks inside of a call.

use super::*;

#[test]
fn a_hold_is_answered_with_what_is_left_of_the_audio_and_told_once() {
    for (connection, direction, answered, told) in [
        ("192.0.2.10", "sendonly", "a=recvonly", "changed RecvOnly held"),
        ("192.0.2.10", "inactive", "a=inactive", "changed Inactive held"),
        ("0.0.0.0", "sendrecv", "a=recvonly", "changed RecvOnly held"),
        ("0.0.0.0", "inactive", "a=inactive", "changed Inactive held"),
    ] {
        let (mut bench, _) = Bench::up();
        let before = bench.answered("INVITE").body;
        assert!(line_of(&before, "o=").contains(" 1 IN IP4"), "{}", line_of(&before, "o="));
        bench.ask("INVITE", "", &sdp(connection, direction));
        assert_eq!(bench.said(), ["200 INVITE"]);
        let held = bench.answered("INVITE").body;
        assert!(core::str::from_utf8(&held).unwrap().contains(answered), "{connection} {direction}");
        assert!(line_of(&held, "o=").contains(" 2 IN IP4"));
        bench.ack("");
        assert_eq!(bench.told(), [told]);
        // Said once more: nothing is new.
        bench.ask("INVITE", "", &sdp(connection, direction));
        assert_eq!(bench.answered("INVITE").body, held);
        bench.ack("");
        assert!(bench.told().is_empty());
        bench.ask("INVITE", "", &speech());
        bench.ack("");
        let resumed = bench.answered("INVITE").body;
        assert!(core::str::from_utf8(&resumed).unwrap().contains("a=sendrecv"));
        assert!(line_of(&resumed, "o=").contains(" 3 IN IP4"));
        assert_eq!(bench.told(), ["changed SendRecv"]);
    }
}

#[test]
fn a_reinvite_without_an_offer_gets_ours_and_its_ack_the_answer() {
    let (mut bench, _) = Bench::up();
    bench.ask("INVITE", "", "");
    let offer = bench.answered("INVITE").body;
    assert_eq!(line_of(&offer, "m="), "m=audio 30000 RTP/AVP 8 0 101");
    bench.ack(&sdp("192.0.2.10", "sendonly"));
    assert_eq!(bench.told(), ["changed RecvOnly held"]);
    // A call that cannot be agreed on any more is over.
    bench.ask("INVITE", "", "");
    bench.ack(&speech().replace("RTP/AVP 8 101", "RTP/AVP 18").replace("8 PCMA", "18 G729"));
    assert_eq!(bench.said().last().unwrap(), "BYE");
    assert_eq!(bench.told().len(), 1);
}

#[test]
fn an_offer_that_cannot_be_taken_leaves_the_call_as_it_was() {
    let (mut bench, _) = Bench::up();
    bench.ask("INVITE", "", &speech().replace("RTP/AVP 8 101", "RTP/AVP 18").replace("8 PCMA", "18 G729"));
    bench.ask("INVITE", "Content-Type: application/isup\r\n", "x");
    bench.ask("INVITE", "Content-Encoding: gzip\r\n", &speech());
    bench.ask("UPDATE", "", "v=nothing");
    bench.ask("INVITE", "Require: teleport\r\n", &speech());
    bench.ask("INVITE", "Session-Expires: 30\r\nSupported: timer\r\n", &speech());
    let said = ["488 INVITE", "415 INVITE", "415 INVITE", "488 UPDATE", "420 INVITE", "422 INVITE"];
    assert_eq!(bench.said(), said);
    assert_eq!(header(&bench.answered("INVITE").headers, "Min-SE"), "90");
    assert!(bench.told().is_empty());
    bench.ask("BYE", "", "");
    assert_eq!(bench.said(), ["200 BYE"]);
}

#[test]
fn an_update_changes_the_audio_like_a_reinvite_and_needs_no_ack() {
    let (mut bench, _) = Bench::up();
    bench.ask("UPDATE", "", &sdp("192.0.2.10", "sendonly"));
    assert_eq!(bench.said(), ["200 UPDATE"]);
    assert!(core::str::from_utf8(&bench.answered("UPDATE").body).unwrap().contains("a=recvonly"));
    assert_eq!(bench.told(), ["changed RecvOnly held"]);
    bench.ask("UPDATE", "", "");
    assert_eq!(bench.said(), ["200 UPDATE"]);
    assert!(bench.answered("UPDATE").body.is_empty());
    assert_eq!(header(&bench.answered("UPDATE").headers, "Contact"), "<sip:trunkline@192.0.2.20:5060>");
    bench.run(40.0);
    assert!(bench.said().is_empty());
}

#[test]
fn an_update_while_it_rings_is_answered_and_one_with_an_offer_told_to_wait() {
    let (mut bench, _) = Bench::ringing();
    bench.ask("UPDATE", "", "");
    bench.ask("UPDATE", "", &speech());
    assert_eq!(bench.said(), ["200 UPDATE", "500 UPDATE"]);
    assert!(bench.answered("UPDATE").headers.number(&Name::RetryAfter).is_some_and(|after| after <= 10));
}

#[test]
fn an_update_with_an_offer_is_taken_once_the_first_is_answered_and_acknowledged() {
    let bench = Bench::with(|setup| setup.leg.tone = true);
    let (mut bench, leg) = Bench::ringing_of(bench, &invite("Require: 100rel\r\n"));
    bench.ask("UPDATE", "", &speech());
    assert_eq!(bench.said(), ["500 UPDATE"]);
    let rseq = header(&bench.answered("INVITE").headers, "RSeq").to_owned();
    bench.ask("PRACK", &format!("RAck: {rseq} 3424 INVITE\r\n"), "");
    bench.forget();
    bench.ask("UPDATE", "", &sdp("192.0.2.10", "sendonly"));
    assert_eq!((bench.said(), bench.told()), (vec!["200 UPDATE".to_owned()], vec!["changed RecvOnly held".to_owned()]));
    bench.accept(leg);
    assert_eq!(bench.answered("INVITE").body, bench.answered("UPDATE").body, "what was agreed last");
    bench.ack("");
    assert_eq!(bench.told(), ["up PCMA RecvOnly"]);
}

#[test]
fn a_second_invite_before_the_first_is_answered_is_told_to_wait() {
    let (mut bench, _) = Bench::ringing();
    bench.ask("INVITE", "", &speech());
    assert_eq!(bench.said(), ["500 INVITE"]);
    assert!(bench.answered("INVITE").headers.number(&Name::RetryAfter).is_some_and(|after| after <= 10));
    assert!(bench.told().is_empty());
}

#[test]
fn whoever_asks_again_has_heard_the_answer_though_its_ack_was_lost() {
    let (mut bench, leg) = Bench::ringing();
    bench.accept(leg);
    bench.ask("INVITE", "", &sdp("192.0.2.10", "sendonly"));
    bench.ask("INVITE", "", &speech());
    assert_eq!(bench.said(), ["200 INVITE"; 3]);
    assert_eq!(bench.told(), ["up PCMA SendRecv", "changed RecvOnly held", "changed SendRecv"]);
    bench.ack("");
    bench.run(40.0);
    assert!(bench.said().is_empty() && bench.told().is_empty());
}

#[test]
fn an_invite_while_our_offer_waits_for_its_answer_is_glare() {
    let (mut bench, leg) = Bench::ringing_of(Bench::new(), &bare_invite());
    bench.accept(leg);
    bench.forget();
    let first = bench.invite_cseq;
    bench.ask("INVITE", "", &speech());
    bench.ask("UPDATE", "", &speech());
    assert_eq!(bench.said(), ["491 INVITE", "491 UPDATE"]);
    bench.invite_cseq = first;
    bench.ack(&speech());
    assert_eq!(bench.told(), ["up PCMA SendRecv"]);
}

#[test]
fn a_reinvite_whose_200_nobody_acknowledges_ends_the_call() {
    let (mut bench, _) = Bench::up();
    bench.run(1.0);
    bench.ask("INVITE", "", &speech());
    let from = bench.now;
    bench.run(32.0);
    assert_eq!(bench.times(from, "200 INVITE").len(), 11);
    assert_eq!(bench.times(from, "BYE"), [32.0]);
    assert_eq!(bench.told(), ["ended: the answer was never acknowledged"]);
}

#[test]
fn a_request_that_comes_after_a_later_one_is_refused() {
    let (mut bench, _) = Bench::up();
    bench.ask("OPTIONS", "", "");
    bench.cseq -= 2;
    bench.ask("INFO", "", "");
    assert_eq!(bench.said(), ["200 OPTIONS", "500 INFO"]);
}

#[test]
fn keys_by_info_are_told_and_other_bodies_are_not_taken() {
    let (mut bench, _) = Bench::up();
    let relay = "Content-Type: application/dtmf-relay\r\n";
    let text = bench.ask("INFO", relay, "Signal=5\r\nDuration=160\r\n");
    bench.receive(&text);
    bench.ask("INFO", relay, "Signal=#\r\nDuration=160\r\n");
    bench.ask("INFO", "Content-Type: application/dtmf\r\n", "11");
    bench.ask("INFO", "", "");
    bench.ask("INFO", "Content-Type: application/media_control+xml\r\n", "<x/>");
    assert_eq!(bench.said(), ["200 INFO", "200 INFO", "200 INFO", "200 INFO", "200 INFO", "415 INFO"]);
    assert!(header(&bench.answered("INFO").headers, "Accept").contains("application/dtmf-relay"));
    assert_eq!(bench.told(), ["digit 5", "digit #", "digit #"]);
}

#[test]
fn what_we_do_not_take_inside_of_a_call_is_refused_and_the_call_goes_on() {
    let (mut bench, _) = Bench::up();
    bench.ask("REFER", "Refer-To: <sip:9999@192.0.2.10>\r\n", "");
    bench.ask("SUBSCRIBE", "Event: dialog\r\n", "");
    bench.ask("NOTIFY", "Event: dialog\r\nSubscription-State: active\r\n", "");
    bench.ask("NOTIFY", "Event: message-summary\r\nSubscription-State: active\r\n", "");
    bench.ask("NOTIFY", "Event: refer\r\nSubscription-State: active\r\n", "");
    bench.ask("MESSAGE", "", "");
    bench.ask("PRACK", "RAck: 1 3424 INVITE\r\n", "");
    bench.ask("OPTIONS", "", "");
    let said = [
        "603 REFER",
        "489 SUBSCRIBE",
        "489 NOTIFY",
        "200 NOTIFY",
        "481 NOTIFY",
        "405 MESSAGE",
        "481 PRACK",
        "200 OPTIONS",
    ];
    assert_eq!(bench.said(), said);
    assert!(header(&bench.answered("MESSAGE").headers, "Allow").starts_with("INVITE"));
    assert!(bench.told().is_empty());
}

#[test]
fn a_bye_that_crosses_ours_is_taken_and_the_end_told_once() {
    let (mut bench, leg) = Bench::up();
    bench.hang_up(leg);
    assert_eq!(bench.told(), ["ended: we hung up"]);
    bench.ask("BYE", "", "");
    assert_eq!(bench.said(), ["BYE", "200 BYE"]);
    bench.reply("BYE", 200, "", "");
    assert!(bench.told().is_empty());
    bench.assert_over();
}

#[test]
fn after_our_bye_there_is_nothing_left_to_change() {
    let (mut bench, leg) = Bench::up();
    bench.hang_up(leg);
    bench.forget();
    bench.ask("INVITE", "", &sdp("192.0.2.10", "sendonly"));
    bench.ask("INFO", "Content-Type: application/dtmf\r\n", "1");
    assert_eq!(bench.said(), ["481 INVITE", "481 INFO"]);
    assert!(bench.told().is_empty());
    bench.reply("BYE", 481, "", "");
    bench.assert_over();
}

#[test]
fn a_bye_of_ours_that_nobody_answers_is_not_waited_for_for_ever() {
    let (mut bench, leg) = Bench::up();
    bench.hang_up(leg);
    bench.run(32.0);
    assert_eq!(bench.told(), ["ended: we hung up"]);
    bench.assert_over();
}

#[test]
fn a_bye_is_sent_once_more_with_credentials_and_no_more() {
    let bench = Bench::with(|setup| setup.credentials = Some(credentials()));
    let (mut bench, leg) = Bench::up_of(bench, &invite(""));
    bench.hang_up(leg);
    let challenge = "WWW-Authenticate: Digest realm=\"asterisk\", nonce=\"n1\", algorithm=MD5, qop=\"auth\"\r\n";
    bench.reply("BYE", 401, challenge, "");
    assert!(header(&bench.asked("BYE").headers, "Authorization").contains("nonce=\"n1\""));
    bench.reply("BYE", 401, challenge, "");
    assert_eq!(bench.said(), ["BYE", "BYE"]);
    bench.assert_over();
}

#[test]
fn a_peer_that_did_not_ask_for_its_own_port_is_found_where_it_says() {
    const SIPP: &str = include_str!("../../../../../tests/sip/peers/sipp.sip");
    let invite = SIPP.replace("127.0.0.1:25071", "192.0.2.40:25071").replace("127.0.0.1:25061", "192.0.2.20");
    let mut bench = Bench::new();
    let source = Flow::udp(0, "192.0.2.40:40000".parse().unwrap());
    bench.receive_from(source, &invite);
    let leg = bench.leg();
    bench.line.ring(bench.now, leg, rtp());
    bench.accept(leg);
    bench.run(33.0);
    for what in ["180 INVITE", "200 INVITE", "BYE"] {
        let found = bench.sent.iter().find(|(_, _, message)| in_short(message) == what).unwrap();
        assert_eq!(found.1.flow.remote, "192.0.2.40:25071".parse().unwrap(), "{what}");
    }
    assert_eq!(bench.asked("BYE").uri.to_string(), "sip:sipp@192.0.2.40:25071");
}
