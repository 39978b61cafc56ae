//! What we ask inside of a call: refreshes, keys, transfers.

use super::*;

const REFER: &str = "sip:2000@192.0.2.10";

/// A call of the PBX's with this session timer.
fn timed(session: &str) -> (Bench, LegId) {
    let invite = invite("").replace("Session-Expires: 1800\r\n", &format!("Session-Expires: {session}\r\n"));
    Bench::up_of(Bench::new(), &invite)
}

fn without_update(invite: &str) -> String {
    invite.replace("UPDATE, ", "")
}

/// A transfer that the PBX tries.
fn referred() -> (Bench, LegId) {
    let (mut bench, leg) = Bench::up();
    assert!(bench.line.transfer(bench.now, leg, REFER.into()));
    bench.fetch();
    assert_eq!(bench.said(), ["REFER"]);
    bench.reply("REFER", 202, "", "");
    assert_eq!(bench.told(), ["transfer tried"]);
    (bench, leg)
}

fn notify(bench: &mut Bench, state: &str, fragment: &str) {
    let headers = format!("Event: refer\r\nSubscription-State: {state}\r\nContent-Type: message/sipfrag\r\n");
    bench.ask("NOTIFY", &headers, fragment);
}

#[test]
fn a_call_is_refreshed_at_half_its_time_by_update_where_the_peer_takes_it() {
    let (mut bench, _) = timed("1800;refresher=uas");
    for _ in 0..3 {
        bench.run(899.0);
        assert!(bench.said().is_empty());
        bench.run(1.0);
        assert_eq!(bench.said(), ["UPDATE"]);
        let update = bench.asked("UPDATE");
        assert_eq!(header(&update.headers, "Session-Expires"), "1800;refresher=uac");
        assert!(update.body.is_empty());
        bench.reply("UPDATE", 200, "Session-Expires: 1800;refresher=uac\r\n", "");
    }
    assert!(bench.told().is_empty());
}

#[test]
fn a_peer_without_update_is_refreshed_by_the_same_description_again() {
    let invite = without_update(&invite("")).replace("Expires: 1800", "Expires: 90;refresher=uas");
    let (mut bench, _) = Bench::up_of(Bench::new(), &invite);
    let before = bench.answered("INVITE").body;
    bench.run(45.0);
    let again = bench.asked("INVITE");
    assert_eq!(line_of(&again.body, "o="), line_of(&before, "o="), "nothing has changed");
    bench.reply("INVITE", 200, "Session-Expires: 90;refresher=uac\r\n", &speech());
    assert_eq!(bench.said(), ["INVITE", "ACK"]);
    assert_eq!(bench.asked("ACK").cseq().unwrap().number, again.cseq().unwrap().number);
    assert!(bench.told().is_empty());
    bench.run(45.0);
    assert_eq!(bench.said(), ["INVITE"]);
}

#[test]
fn the_ack_of_a_reinvite_has_its_credentials() {
    let invite = without_update(&invite("")).replace("Expires: 1800", "Expires: 90;refresher=uas");
    let bench = Bench::with(|setup| setup.credentials = Some(credentials()));
    let (mut bench, _) = Bench::up_of(bench, &invite);
    bench.run(45.0);
    bench.reply("INVITE", 401, "WWW-Authenticate: Digest realm=\"a\", nonce=\"n\", qop=\"auth\"\r\n", "");
    bench.reply("INVITE", 200, "", &speech());
    assert_eq!(bench.said(), ["INVITE", "ACK", "INVITE", "ACK"]);
    let (again, ack) = (bench.asked("INVITE"), bench.asked("ACK"));
    assert!(header(&again.headers, "Authorization").contains("nc=00000001"));
    assert_eq!(header(&again.headers, "Authorization"), header(&ack.headers, "Authorization"));
}

#[test]
fn a_peer_that_should_refresh_and_does_not_is_hung_up_before_its_time_is_over() {
    let (mut bench, _) = timed("90;refresher=uac");
    bench.run(50.0);
    bench.ask("UPDATE", "Supported: timer\r\nSession-Expires: 90;refresher=uac\r\n", "");
    bench.forget();
    bench.run(59.0);
    assert!(bench.said().is_empty());
    bench.run(1.0);
    assert_eq!(bench.said(), ["BYE"]);
    assert_eq!(bench.told(), ["ended: the session timer ran out: the peer is gone"]);
    bench.run(40.0);
    assert!(bench.told().is_empty());
    bench.assert_over();
}

#[test]
fn a_refresh_that_asks_for_too_little_asks_for_more() {
    let (mut bench, _) = timed("90;refresher=uas");
    bench.run(45.0);
    bench.reply("UPDATE", 422, "Min-SE: 600\r\n", "");
    assert_eq!(bench.said(), ["UPDATE", "UPDATE"]);
    assert_eq!(header(&bench.asked("UPDATE").headers, "Session-Expires"), "600;refresher=uac");
    bench.reply("UPDATE", 422, "Min-SE: 600\r\n", "");
    assert!(bench.said().is_empty());
    bench.run(10.0);
    assert_eq!(bench.said(), ["UPDATE"], "there is time for another");
}

#[test]
fn a_peer_that_knows_no_update_after_all_is_refreshed_by_reinvite() {
    let (mut bench, _) = timed("90;refresher=uas");
    bench.run(45.0);
    bench.reply("UPDATE", 405, "", "");
    assert_eq!(bench.said(), ["UPDATE", "INVITE"]);
}

#[test]
fn a_peer_that_has_forgotten_the_call_or_is_gone_ends_it() {
    for answer in [Some(481), Some(408), None] {
        let (mut bench, _) = timed("180;refresher=uas");
        bench.run(90.0);
        match answer {
            Some(status) => drop(bench.reply("UPDATE", status, "", "")),
            None => bench.run(32.0),
        }
        assert_eq!(bench.said().last().unwrap(), "BYE");
        assert_eq!(bench.told().len(), 1);
        bench.reply("BYE", 481, "", "");
        bench.assert_over();
    }
}

#[test]
fn two_that_ask_at_once_both_say_491_and_ask_again() {
    let invite = without_update(&invite("")).replace("Expires: 1800", "Expires: 90;refresher=uas");
    let (mut bench, _) = Bench::up_of(Bench::new(), &invite);
    bench.run(45.0);
    bench.ask("INVITE", "", &sdp("192.0.2.10", "sendonly"));
    assert_eq!(bench.said(), ["INVITE", "491 INVITE"]);
    bench.reply("INVITE", 491, "", "");
    let refused = bench.asked("INVITE").cseq().unwrap().number;
    // The peer made the Call-ID, so it waits longer.
    bench.run(2.0);
    assert_eq!(bench.asked("INVITE").cseq().unwrap().number, refused + 1);
    bench.forget();
    bench.reply("INVITE", 200, "Session-Expires: 90;refresher=uac\r\n", &speech());
    bench.ask("INVITE", "", &sdp("192.0.2.10", "sendonly"));
    bench.ack("");
    assert_eq!(bench.said(), ["ACK", "200 INVITE"]);
    assert_eq!(bench.told(), ["changed RecvOnly held"]);
}

#[test]
fn whoever_made_the_call_waits_longer_after_glare() {
    let (mut bench, _) = Bench::calling();
    bench.reply("INVITE", 200, "Session-Expires: 90;refresher=uac\r\n", &speech());
    bench.forget();
    bench.run(45.0);
    bench.reply("INVITE", 491, "", "");
    bench.run(2.0);
    assert_eq!(bench.said(), ["INVITE", "ACK"]);
    bench.run(2.1);
    assert_eq!(bench.said()[0], "INVITE");
}

#[test]
fn a_reinvite_of_theirs_is_finished_before_ours_begins() {
    let invite = without_update(&invite("")).replace("Expires: 1800", "Expires: 90;refresher=uas");
    let (mut bench, _) = Bench::up_of(Bench::new(), &invite);
    bench.run(44.9);
    bench.ask("INVITE", "Supported: timer\r\nSession-Expires: 90;refresher=uas\r\n", &speech());
    bench.run(31.0);
    assert!(!bench.said().contains(&"INVITE".to_owned()));
    bench.ack("");
    bench.run(14.2);
    assert_eq!(bench.said(), ["INVITE"]);
}

#[test]
fn keys_go_one_after_the_other_and_the_same_twice() {
    let (mut bench, leg) = Bench::up();
    for digit in *b"11#" {
        bench.line.send_digit(bench.now, leg, digit);
    }
    bench.fetch();
    for signal in ["Signal=1\r\nDuration=160\r\n", "Signal=1\r\nDuration=160\r\n", "Signal=#\r\nDuration=160\r\n"] {
        assert_eq!(bench.said(), ["INFO"]);
        let info = bench.asked("INFO");
        assert_eq!(header(&info.headers, "Content-Type"), "application/dtmf-relay");
        assert_eq!(info.body, signal.as_bytes());
        bench.reply("INFO", 200, "", "");
    }
    assert!(bench.said().is_empty());
    bench.line.send_digit(bench.now, leg, b'5');
    bench.fetch();
    bench.reply("INFO", 415, "", "");
    assert!(bench.told().is_empty(), "nothing to end a call for");
}

#[test]
fn keys_that_are_pressed_too_early_wait_for_the_ack() {
    let (mut bench, leg) = Bench::ringing();
    bench.accept(leg);
    bench.line.send_digit(bench.now, leg, b'1');
    bench.fetch();
    assert_eq!(bench.said(), ["200 INVITE"]);
    bench.ack("");
    assert_eq!(bench.said(), ["INFO"]);
}

#[test]
fn a_caller_that_is_passed_on_is_the_pbxs_and_we_hang_up() {
    let (mut bench, leg) = referred();
    let refer = bench.asked("REFER");
    assert_eq!(header(&refer.headers, "Refer-To"), "<sip:2000@192.0.2.10>");
    assert_eq!(header(&refer.headers, "Referred-By"), "<sip:trunkline@192.0.2.20>");
    assert!(!bench.line.transfer(bench.now, leg, REFER.into()), "one at a time");
    notify(&mut bench, "active;expires=60", "SIP/2.0 100 Trying\r\n");
    notify(&mut bench, "active;expires=60", "SIP/2.0 180 Ringing\r\n");
    assert_eq!((bench.said(), bench.told().len()), (vec!["200 NOTIFY".to_owned(); 2], 0));
    notify(&mut bench, "terminated;reason=noresource", "SIP/2.0 200 OK\r\n");
    assert_eq!(bench.said(), ["200 NOTIFY", "BYE"]);
    assert_eq!(bench.told(), ["transfer done", "ended: the caller was passed on"]);
    bench.reply("BYE", 200, "", "");
    bench.assert_over();
}

#[test]
fn word_that_overtakes_the_202_counts() {
    let (mut bench, leg) = Bench::up();
    assert!(bench.line.transfer(bench.now, leg, REFER.into()));
    bench.fetch();
    notify(&mut bench, "terminated", "SIP/2.0 200 OK\r\n");
    bench.reply("REFER", 202, "", "");
    assert_eq!(bench.said(), ["REFER", "200 NOTIFY", "BYE"]);
    assert_eq!(bench.told(), ["transfer done", "ended: the caller was passed on"]);
}

#[test]
fn a_pbx_that_takes_the_caller_and_hangs_up_says_enough() {
    let (mut bench, _) = referred();
    bench.ask("BYE", "", "");
    assert_eq!(bench.told(), ["transfer done", "ended: the caller was passed on"]);
    bench.assert_over();
}

#[test]
fn a_transfer_that_is_refused_busy_or_never_heard_of_again_gives_the_caller_back() {
    for how in 0..5 {
        let (mut bench, leg) = if how == 0 { Bench::up() } else { referred() };
        let status = match how {
            0 => {
                assert!(bench.line.transfer(bench.now, leg, REFER.into()));
                bench.fetch();
                bench.reply("REFER", 403, "", "");
                403
            }
            1 => {
                notify(&mut bench, "terminated", "SIP/2.0 486 Busy Here\r\n");
                486
            }
            2 => {
                notify(&mut bench, "active", "SIP/2.0 503 Service Unavailable\r\n");
                503
            }
            3 => {
                notify(&mut bench, "terminated;reason=timeout", "SIP/2.0 180 Ringing\r\n");
                500
            }
            _ => {
                bench.run(20.0);
                408
            }
        };
        assert_eq!(bench.told(), [format!("transfer failed {status}")]);
        bench.forget();
        // The call goes on, and another may be tried.
        notify(&mut bench, "terminated", "SIP/2.0 200 OK\r\n");
        assert_eq!((bench.said(), bench.told().len()), (vec!["481 NOTIFY".to_owned()], 0));
        assert!(bench.line.transfer(bench.now, leg, REFER.into()));
    }
}

#[test]
fn a_transfer_is_asked_for_again_with_credentials() {
    let bench = Bench::with(|setup| setup.credentials = Some(credentials()));
    let (mut bench, leg) = Bench::up_of(bench, &invite(""));
    assert!(bench.line.transfer(bench.now, leg, REFER.into()));
    bench.fetch();
    bench.reply("REFER", 401, "WWW-Authenticate: Digest realm=\"a\", nonce=\"n\", algorithm=SHA-256\r\n", "");
    assert_eq!(bench.said(), ["REFER", "REFER"]);
    bench.reply("REFER", 202, "", "");
    assert_eq!(bench.told(), ["transfer tried"]);
}

#[test]
fn a_transfer_that_was_given_up_is_not_asked_for_any_more() {
    let (mut bench, leg) = Bench::up();
    bench.line.send_digit(bench.now, leg, b'1');
    assert!(bench.line.transfer(bench.now, leg, REFER.into()));
    bench.run(20.0);
    assert_eq!(bench.told(), ["transfer failed 408"]);
    bench.reply("INFO", 200, "", "");
    assert!(!bench.said().contains(&"REFER".to_owned()));
}

#[test]
fn a_call_that_is_not_up_cannot_be_passed_on() {
    let (mut bench, leg) = Bench::ringing();
    assert!(!bench.line.transfer(bench.now, leg, REFER.into()));
    bench.accept(leg);
    assert!(!bench.line.transfer(bench.now, leg, REFER.into()));
    assert!(!bench.line.transfer(bench.now, LegId(99), REFER.into()));
}

#[test]
fn a_call_that_we_leave_while_it_is_passed_on_tells_nothing_more() {
    let (mut bench, leg) = referred();
    bench.hang_up(leg);
    notify(&mut bench, "terminated", "SIP/2.0 200 OK\r\n");
    bench.ask("BYE", "", "");
    assert_eq!(bench.told(), ["ended: we hung up"]);
    bench.assert_over();
}
