//! Calls that come in, until they are up or not.

use super::*;

#[test]
fn a_call_rings_is_answered_and_hung_up_by_the_caller() {
    let mut bench = Bench::new();
    bench.receive(&invite(""));
    assert_eq!(bench.told(), ["invited"]);
    let leg = bench.leg();
    bench.run(0.3);
    assert_eq!(bench.said(), ["100 INVITE"], "the trunk takes longer than 200 ms");
    assert!(bench.answered("INVITE").to().unwrap().tag().is_none());
    bench.line.ring(bench.now, leg, rtp());
    bench.fetch();
    let ringing = bench.answered("INVITE");
    assert_eq!(header(&ringing.headers, "Contact"), "<sip:trunkline@192.0.2.20:5060>");
    assert!(ringing.body.is_empty());
    bench.run(2.0);
    bench.accept(leg);
    assert_eq!(bench.said(), ["180 INVITE", "200 INVITE"]);
    let ok = bench.answered("INVITE");
    assert_eq!(ok.to().unwrap().tag(), ringing.to().unwrap().tag());
    assert_eq!(header(&ok.headers, "Session-Expires"), "1800;refresher=uas");
    assert_eq!(header(&ok.headers, "Server"), "Trunkline/1");
    assert!(header(&ok.headers, "Allow").contains("UPDATE"));
    assert_eq!(line_of(&ok.body, "m="), "m=audio 30000 RTP/AVP 8 101");
    assert!(bench.told().is_empty(), "not up before the ACK");
    bench.ack("");
    assert_eq!(bench.told(), ["up PCMA SendRecv"]);
    bench.ask("BYE", "Reason: Q.850;cause=16\r\n", "");
    assert_eq!(bench.said(), ["200 BYE"]);
    assert_eq!(bench.told(), ["ended: the peer hung up: Q.850;cause=16"]);
    bench.assert_over();
}

#[test]
fn what_a_call_says_of_itself_is_told() {
    let mut bench = Bench::new();
    bench.receive(&invite(""));
    let Some(Event::Invited(invitation)) = bench.events.pop() else { panic!("nobody called") };
    assert_eq!(invitation.call_id, "2fe2b037-4e09-4dbb-9f2a-87984af6a866");
    assert_eq!((invitation.from.as_str(), invitation.name.as_deref()), ("6001", Some("Keller, Ruth")));
    assert_eq!((invitation.to.as_str(), invitation.did.as_str()), ("trunkline", ""));
    assert_eq!(invitation.diverted_from.as_deref(), Some("6009"));
    assert_eq!(invitation.headers, [("X-Queue".to_owned(), "harbour".to_owned())]);
    assert_eq!((invitation.codec, invitation.source), (Codec::Pcma, pbx().remote));
}

#[test]
fn compact_headers_of_a_call_center_with_a_route_of_proxies_are_a_call_like_any_other() {
    const CISCO: &str = include_str!("../../../../../tests/sip/peers/cisco.sip");
    let mut bench = Bench::new();
    let flow = Flow { transport: crate::leg::sip::Transport::Tcp, connection: 7, local: 1, ..pbx() };
    bench.receive_from(flow, CISCO);
    let leg = bench.leg();
    bench.line.ring(bench.now, leg, rtp());
    bench.accept(leg);
    let ok = bench.answered("INVITE");
    assert_eq!(ok.headers.list(&Name::RecordRoute).count(), 3);
    assert_eq!(ok.headers.list(&Name::Via).count(), 3);
    assert_eq!(header(&ok.headers, "Contact"), "<sip:trunkline@192.0.2.20:5060;transport=tcp>");
    // It wants half an hour at least, which is what it gets.
    assert_eq!(header(&ok.headers, "Session-Expires"), "1800;refresher=uas");
    let (_, sent, _) = bench.sent.last().unwrap();
    assert_eq!(sent.flow, flow);
}

#[test]
fn a_line_that_rings_by_itself_answers_the_offer_early() {
    let mut bench = Bench::with(|setup| setup.leg.tone = true);
    bench.receive(&invite(""));
    let leg = bench.leg();
    bench.told();
    bench.line.ring(bench.now, leg, rtp());
    bench.fetch();
    assert_eq!((bench.said(), bench.told()), (vec!["183 INVITE".to_owned()], vec!["early".to_owned()]));
    let early = bench.answered("INVITE").body;
    assert_eq!(line_of(&early, "m="), "m=audio 30000 RTP/AVP 8 101");
    bench.accept(leg);
    assert_eq!(bench.answered("INVITE").body, early, "the same again, and the same version");
    bench.ack("");
    assert_eq!(bench.told(), ["up PCMA SendRecv"]);
}

#[test]
fn an_offer_that_comes_with_the_ack_is_an_answer_to_ours() {
    let (mut bench, leg) = Bench::ringing_of(Bench::new(), &bare_invite());
    assert_eq!(bench.answered("INVITE").status, 180);
    bench.accept(leg);
    let offer = bench.answered("INVITE").body;
    assert_eq!(line_of(&offer, "m="), "m=audio 30000 RTP/AVP 8 0 101");
    bench.ack(&speech().replace("RTP/AVP 8 101", "RTP/AVP 0 101").replace("8 PCMA", "0 PCMU"));
    assert_eq!(bench.told(), ["up PCMU SendRecv"]);
}

#[test]
fn an_ack_that_should_have_an_answer_and_has_none_ends_the_call() {
    let (mut bench, leg) = Bench::ringing_of(Bench::new(), &bare_invite());
    bench.accept(leg);
    bench.forget();
    bench.ack("");
    assert_eq!(bench.said(), ["BYE"]);
    assert_eq!(bench.told().len(), 1);
    bench.reply("BYE", 200, "", "");
    bench.assert_over();
    assert!(bench.told().is_empty());
}

#[test]
fn a_peer_that_demands_it_gets_its_ringing_reliably_and_its_200_after_the_prack() {
    for tone in [false, true] {
        let bench = Bench::with(|setup| setup.leg.tone = tone);
        let (mut bench, leg) = Bench::ringing_of(bench, &invite("Require: 100rel\r\n"));
        let early = bench.answered("INVITE");
        assert_eq!(early.status, if tone { 183 } else { 180 });
        assert_eq!(header(&early.headers, "Require"), "100rel");
        // Once more, while the first is on its way.
        bench.line.ring(bench.now, leg, rtp());
        bench.accept(leg);
        assert!(bench.said().is_empty(), "held back");
        bench.run(0.6);
        assert_eq!(bench.said(), [format!("{} INVITE", early.status)], "sent again");
        let rseq = header(&early.headers, "RSeq");
        bench.ask("PRACK", "RAck: 1 3424 INVITE\r\n", "");
        assert_eq!(bench.said(), ["481 PRACK"]);
        bench.ask("PRACK", &format!("RAck: {rseq} 3424 INVITE\r\n"), "");
        assert_eq!(bench.said(), ["200 PRACK", "200 INVITE"]);
        bench.ack("");
        assert_eq!(bench.told().last().unwrap(), "up PCMA SendRecv");
        bench.run(60.0);
        assert!(bench.said().is_empty());
    }
}

#[test]
fn an_offer_that_comes_with_the_prack_is_answered_with_its_200() {
    let bench = Bench::with(|setup| setup.leg.tone = true);
    let (mut bench, leg) = Bench::ringing_of(bench, &invite("Require: 100rel\r\n"));
    let rseq = header(&bench.answered("INVITE").headers, "RSeq").to_owned();
    bench.ask("PRACK", &format!("RAck: {rseq} 3424 INVITE\r\n"), &sdp("192.0.2.10", "sendonly"));
    assert_eq!(bench.told(), ["changed RecvOnly held"]);
    bench.accept(leg);
    assert_eq!(bench.said(), ["200 PRACK", "200 INVITE"]);
    assert_eq!(bench.answered("PRACK").body, bench.answered("INVITE").body);
}

#[test]
fn a_reliable_ringing_that_nobody_acknowledges_ends_in_504() {
    let (mut bench, leg) = Bench::ringing_of(Bench::new(), &invite("Require: 100rel\r\n"));
    bench.accept(leg);
    bench.run(33.0);
    assert_eq!(bench.said().last().unwrap(), "504 INVITE");
    assert_eq!(bench.told(), ["ended: a reliable ringing was never acknowledged"]);
    bench.ack("");
    bench.assert_over();
}

#[test]
fn a_peer_that_wants_reliable_ringing_and_offers_nothing_is_answered_without_ringing() {
    let invite = bare_invite().replacen("Max-Forwards", "Require: 100rel\r\nMax-Forwards", 1);
    let mut bench = Bench::new();
    bench.receive(&invite);
    let leg = bench.leg();
    bench.line.ring(bench.now, leg, rtp());
    bench.run(1.0);
    assert_eq!(bench.said(), ["100 INVITE"]);
    bench.accept(leg);
    bench.ack(&speech());
    assert_eq!(bench.told(), ["invited", "up PCMA SendRecv"]);
}

#[test]
fn a_caller_that_gives_up_is_told_200_and_487_with_the_tag_of_the_ringing() {
    let (mut bench, leg) = Bench::ringing();
    let invite = invite("");
    let cancel = invite.replace("INVITE sip", "CANCEL sip").replace("3424 INVITE", "3424 CANCEL");
    bench.receive(&cancel);
    assert_eq!(bench.said(), ["200 CANCEL", "487 INVITE"]);
    assert_eq!(bench.answered("CANCEL").to().unwrap(), bench.answered("INVITE").to().unwrap());
    assert_eq!(bench.told(), ["ended: the peer cancelled its call"]);
    // Too late, both of them.
    bench.accept(leg);
    bench.hang_up(leg);
    bench.receive(&invite.replace("INVITE sip", "ACK sip").replace("3424 INVITE", "3424 ACK"));
    assert!(bench.said().is_empty() && bench.told().is_empty());
    bench.assert_over();
}

#[test]
fn a_cancel_that_crosses_the_200_changes_nothing() {
    let (mut bench, leg) = Bench::ringing();
    bench.accept(leg);
    let invite = invite("");
    bench.receive(&invite.replace("INVITE sip", "CANCEL sip").replace("3424 INVITE", "3424 CANCEL"));
    assert_eq!(bench.said(), ["200 INVITE", "200 CANCEL"]);
    bench.ack("");
    assert_eq!(bench.told(), ["up PCMA SendRecv"]);
    bench.ask("BYE", "", "");
    assert_eq!(bench.said(), ["200 BYE"]);
    bench.assert_over();
}

#[test]
fn a_bye_that_comes_before_the_ack_ends_the_call_and_the_copies_of_the_200() {
    let (mut bench, leg) = Bench::ringing();
    bench.accept(leg);
    bench.ask("BYE", "", "");
    assert_eq!(bench.said(), ["200 INVITE", "200 BYE"]);
    assert_eq!(bench.told(), ["ended: the peer hung up"]);
    bench.ack("");
    bench.run(40.0);
    assert!(bench.said().is_empty());
    bench.assert_over();
}

#[test]
fn a_bye_while_it_rings_is_taken_and_the_invite_refused() {
    let (mut bench, _) = Bench::ringing();
    bench.ask("BYE", "", "");
    assert_eq!(bench.said(), ["200 BYE", "487 INVITE"]);
    assert_eq!(bench.told(), ["ended: the peer hung up"]);
    bench.assert_over();
}

#[test]
fn an_answer_that_nobody_acknowledges_is_sent_for_32_seconds_and_then_hung_up() {
    let (mut bench, leg) = Bench::ringing();
    bench.accept(leg);
    let from = bench.now;
    bench.run(32.0);
    let at = [0.0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5];
    assert_eq!(bench.times(from, "200 INVITE"), at);
    assert_eq!(bench.times(from, "BYE"), [32.0]);
    assert_eq!(bench.told(), ["ended: the answer was never acknowledged"]);
    // Nobody answers that either.
    bench.run(40.0);
    assert!(bench.told().is_empty(), "the end is told once");
    bench.assert_over();
}

#[test]
fn a_call_that_we_leave_before_its_ack_is_hung_up_after_it() {
    for is_acknowledged in [true, false] {
        let (mut bench, leg) = Bench::ringing();
        bench.accept(leg);
        bench.hang_up(leg);
        bench.hang_up(leg);
        assert_eq!(bench.said(), ["200 INVITE"]);
        assert_eq!(bench.told(), ["ended: we hung up"]);
        if is_acknowledged {
            bench.ack("");
            assert_eq!(bench.said(), ["BYE"]);
        } else {
            bench.run(32.0);
            assert_eq!(bench.said().last().unwrap(), "BYE");
        }
        bench.reply("BYE", 200, "", "");
        assert!(bench.told().is_empty());
        bench.assert_over();
    }
}

#[test]
fn a_call_that_is_refused_says_what_it_was_given() {
    let (mut bench, leg) = Bench::ringing();
    let retry = [(Name::RetryAfter, "30".to_owned())];
    bench.line.refuse(bench.now, leg, 503, &retry);
    bench.line.refuse(bench.now, leg, 486, &[]);
    bench.fetch();
    assert_eq!(bench.said(), ["503 INVITE"]);
    assert_eq!(header(&bench.answered("INVITE").headers, "Retry-After"), "30");
    assert_eq!(bench.told(), ["ended: we hung up"]);
    bench.assert_over();
}

#[test]
fn a_call_that_nobody_ever_answers_is_not_kept_for_ever() {
    let (mut bench, _) = Bench::ringing();
    bench.run(180.0);
    assert_eq!(
        (bench.said(), bench.told()),
        (vec!["480 INVITE".to_owned()], vec!["ended: nobody answered".to_owned()])
    );
    bench.assert_over();
}

#[test]
fn copies_of_an_invite_are_one_call_and_get_its_latest_answer() {
    let (mut bench, leg) = Bench::ringing();
    bench.receive(&invite(""));
    assert_eq!(bench.said(), ["180 INVITE"]);
    bench.accept(leg);
    bench.receive(&invite(""));
    assert_eq!(bench.said(), ["200 INVITE", "200 INVITE"]);
    assert!(bench.told().is_empty());
    assert_eq!(bench.line.len(), 1);
}

#[test]
fn a_copy_of_the_ack_that_comes_late_acknowledges_no_later_invite() {
    let (mut bench, leg) = Bench::ringing_of(Bench::new(), &bare_invite());
    bench.accept(leg);
    let ack = bench.ack(&speech());
    bench.ask("INVITE", "", "");
    assert_eq!(bench.said().last().unwrap(), "200 INVITE");
    bench.forget();
    // Its answer is to an offer of before.
    bench.receive(&ack.replace("sendrecv", "inactive"));
    assert!(bench.told().is_empty());
    bench.run(0.6);
    assert_eq!(bench.said(), ["200 INVITE"], "it waits for its own");
    bench.ack(&speech());
    bench.run(40.0);
    assert!(bench.said().is_empty());
}

#[test]
fn a_connection_that_breaks_while_it_rings_takes_the_call_with_it() {
    let mut bench = Bench::new();
    let flow = Flow { transport: crate::leg::sip::Transport::Tcp, connection: 7, local: 1, ..pbx() };
    bench.receive_from(flow, &invite("").replace("/UDP", "/TCP"));
    bench.line.handle_flow_failed(bench.now, flow, "it broke".to_owned());
    bench.fetch();
    assert_eq!(bench.told(), ["invited", "ended: the peer cancelled its call"]);
    bench.assert_over();
}
