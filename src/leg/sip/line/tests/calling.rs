//! Calls that we make.

use super::*;

const SHA256: &str = "Digest realm=\"asterisk\", nonce=\"n256\", algorithm=SHA-256, qop=\"auth,auth-int\"\r\n";
const MD5: &str = "Digest realm=\"asterisk\", nonce=\"n5\", algorithm=MD5, qop=\"auth\"\r\n";

fn parameter(value: &str, name: &str) -> String {
    let at = value.find(&format!("{name}=")).unwrap_or_else(|| panic!("no {name} in {value}"));
    value[at + name.len() + 1..].split([',', ' ']).next().unwrap().trim_matches('"').to_owned()
}

fn with_credentials() -> Bench {
    Bench::with(|setup| setup.credentials = Some(credentials()))
}

/// A call of ours that is up.
fn up_of(bench: Bench, headers: &str) -> (Bench, LegId) {
    let (mut bench, leg) = Bench::calling_of(bench);
    bench.reply("INVITE", 200, headers, &speech());
    assert_eq!(bench.said(), ["ACK"]);
    assert_eq!(bench.told(), ["up PCMA SendRecv"]);
    (bench, leg)
}

#[test]
fn a_call_of_ours_rings_is_answered_and_hung_up_by_us() {
    let (mut bench, leg) = Bench::calling();
    let invite = bench.asked("INVITE");
    assert_eq!(invite.uri.to_string(), "sip:6001@192.0.2.10");
    assert_eq!(invite.headers.max_forwards(), Some(70));
    assert_eq!(header(&invite.headers, "User-Agent"), "Trunkline/1");
    assert_eq!(header(&invite.headers, "Supported"), "100rel, timer");
    assert_eq!(header(&invite.headers, "Session-Expires"), "1800");
    assert_eq!(header(&invite.headers, "Contact"), "<sip:trunkline@192.0.2.20:5060>");
    assert_eq!(line_of(&invite.body, "m="), "m=audio 30000 RTP/AVP 8 0 101");
    bench.reply("INVITE", 100, "", "");
    bench.reply("INVITE", 180, "", "");
    assert!(bench.said().is_empty() && bench.told().is_empty());
    bench.run(5.0);
    let ok = bench.reply("INVITE", 200, "", &speech());
    let ack = bench.asked("ACK");
    assert_eq!(ack.uri.to_string(), "sip:asterisk@192.0.2.10:5060");
    assert_eq!(ack.cseq().unwrap().number, invite.cseq().unwrap().number);
    assert_eq!(bench.told(), ["up PCMA SendRecv"]);
    // Copies are acknowledged, each by the same.
    bench.receive(&ok);
    bench.receive(&ok);
    assert_eq!(bench.said(), ["ACK", "ACK", "ACK"]);
    assert!(bench.told().is_empty());
    bench.hang_up(leg);
    let bye = bench.asked("BYE");
    assert_eq!(bye.cseq().unwrap().number, invite.cseq().unwrap().number + 1);
    assert_eq!(bye.to().unwrap().tag(), Some("as1"));
    bench.reply("BYE", 200, "", "");
    assert_eq!(bench.told(), ["ended: we hung up"]);
    bench.assert_over();
}

#[test]
fn a_proxy_and_the_pbx_are_both_given_the_best_digest_that_they_ask_for() {
    let (mut bench, _) = Bench::calling_of(with_credentials());
    bench.reply("INVITE", 407, &format!("Proxy-Authenticate: {MD5}"), "");
    assert_eq!(bench.said(), ["ACK", "INVITE"]);
    bench.reply("INVITE", 401, &format!("WWW-Authenticate: {MD5}WWW-Authenticate: {SHA256}"), "");
    assert_eq!(bench.said(), ["ACK", "INVITE"]);
    let invite = bench.asked("INVITE");
    assert_eq!(invite.cseq().unwrap().number, 3);
    let digest = header(&invite.headers, "Authorization").to_owned();
    assert_eq!((parameter(&digest, "algorithm").as_str(), parameter(&digest, "qop").as_str()), ("SHA-256", "auth"));
    assert_eq!(parameter(header(&invite.headers, "Proxy-Authorization"), "nc"), "00000002");
    assert_eq!(invite.headers.all(&Name::ProxyAuthorization).count(), 1);
    assert_eq!(invite.headers.all(&Name::UserAgent).count(), 1);
    bench.reply("INVITE", 200, "", &speech());
    // RFC 3261 22.1
    let ack = bench.asked("ACK");
    for name in [Name::Authorization, Name::ProxyAuthorization] {
        assert!(ack.headers.all(&name).eq(invite.headers.all(&name)), "{name}");
    }
    // What comes next counts on.
    bench.hang_up(LegId(1));
    assert_eq!(parameter(header(&bench.asked("BYE").headers, "Authorization"), "nc"), "00000002");
    assert_eq!(bench.asked("BYE").headers.all(&Name::Authorization).count(), 1);
}

#[test]
fn a_wrong_password_is_tried_once_and_a_stale_nonce_once_more() {
    let (mut bench, _) = Bench::calling_of(with_credentials());
    let challenge = format!("WWW-Authenticate: {SHA256}");
    bench.reply("INVITE", 401, &challenge, "");
    let stale = challenge.replace("n256", "n257").replace("realm", "stale=true, realm");
    bench.reply("INVITE", 401, &stale, "");
    assert_eq!(bench.said(), ["ACK", "INVITE", "ACK", "INVITE"]);
    assert_eq!(parameter(header(&bench.asked("INVITE").headers, "Authorization"), "nonce"), "n257");
    bench.reply("INVITE", 401, &challenge, "");
    assert_eq!(bench.said(), ["ACK"]);
    assert_eq!(bench.told(), ["ended: the call was refused: 401 Unauthorized"]);
    bench.assert_over();
    // The next call asks with what it knows already.
    let (mut bench, _) = Bench::calling_of(bench);
    bench.reply("INVITE", 401, &challenge, "");
    assert_eq!(bench.said(), ["ACK", "INVITE"]);
}

#[test]
fn without_a_password_a_challenge_is_a_refusal() {
    let (mut bench, _) = Bench::calling();
    bench.reply("INVITE", 401, &format!("WWW-Authenticate: {SHA256}"), "");
    assert_eq!(bench.told(), ["ended: the call was refused: 401 Unauthorized"]);
    bench.assert_over();
}

#[test]
fn a_peer_that_wants_a_longer_session_gets_it_and_one_that_never_has_enough_does_not() {
    let (mut bench, _) = Bench::calling();
    bench.reply("INVITE", 422, "Min-SE: 3600\r\n", "");
    let invite = bench.asked("INVITE");
    assert_eq!((header(&invite.headers, "Session-Expires"), header(&invite.headers, "Min-SE")), ("3600", "3600"));
    assert_eq!(bench.said(), ["ACK", "INVITE"]);
    bench.reply("INVITE", 422, "Min-SE: 3600\r\n", "");
    assert_eq!(bench.told(), ["ended: the call was refused: 422 Session Interval Too Small"]);
    bench.assert_over();
}

#[test]
fn reliable_ringing_is_acknowledged_in_order_and_once() {
    let (mut bench, _) = Bench::calling();
    let reliable = |rseq: u32| format!("Require: 100rel\r\nRSeq: {rseq}\r\n");
    let first = bench.reply("INVITE", 183, &reliable(70), &speech());
    assert_eq!(bench.said(), ["PRACK"]);
    let prack = bench.asked("PRACK");
    assert_eq!(header(&prack.headers, "RAck"), "70 1 INVITE");
    assert_eq!((prack.cseq().unwrap().number, prack.to().unwrap().tag()), (2, Some("as1")));
    bench.reply("PRACK", 200, "", "");
    bench.receive(&first);
    bench.reply("INVITE", 180, &reliable(72), "");
    assert!(bench.said().is_empty(), "a copy, and one too early");
    bench.reply("INVITE", 180, &reliable(71), "");
    bench.reply("INVITE", 180, &reliable(72), "");
    assert_eq!(bench.said(), ["PRACK", "PRACK"]);
    // The answer was in the first.
    bench.reply("INVITE", 200, "", "");
    assert_eq!((bench.said(), bench.told()), (vec!["ACK".to_owned()], vec!["up PCMA SendRecv".to_owned()]));
    bench.hang_up(LegId(1));
    assert_eq!(bench.asked("BYE").cseq().unwrap().number, 5);
}

#[test]
fn a_phone_that_rings_may_ask_before_it_answers() {
    let (mut bench, _) = Bench::calling();
    bench.reply("INVITE", 180, "", "");
    let invite = bench.asked("INVITE");
    let ask = |bench: &mut Bench, cseq: u32, method: &str, body: &str| {
        bench.receive(&format!(
            "{method} sip:trunkline@192.0.2.20 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10;rport;branch=z9hG4bKe{cseq}\r\n\
             From: {};tag=as1\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {cseq} {method}\r\n{SDP}Content-Length: {}\r\n\r\n{body}",
            invite.headers.get(&Name::To).unwrap(),
            invite.headers.get(&Name::From).unwrap(),
            invite.call_id().unwrap(),
            body.len()
        ));
    };
    ask(&mut bench, 1, "UPDATE", "");
    ask(&mut bench, 2, "UPDATE", &speech());
    ask(&mut bench, 3, "INVITE", &speech());
    assert_eq!(bench.said(), ["200 UPDATE", "491 UPDATE", "491 INVITE"]);
    bench.reply("INVITE", 200, "", &speech());
    assert_eq!(bench.told(), ["up PCMA SendRecv"]);
    ask(&mut bench, 4, "BYE", "");
    assert_eq!(bench.told(), ["ended: the peer hung up"]);
    bench.assert_over();
}

#[test]
fn a_second_phone_that_answers_is_hung_up_at_once() {
    let (mut bench, _) = Bench::calling();
    bench.reply_as("one", "INVITE", 180, "", "");
    bench.reply_as("two", "INVITE", 180, "", "");
    bench.reply_as("two", "INVITE", 200, "", &speech());
    assert_eq!(bench.said(), ["ACK"]);
    let late = bench.reply_as("one", "INVITE", 200, "", &speech());
    assert_eq!(bench.said(), ["ACK", "BYE"]);
    assert_eq!(bench.asked("BYE").to().unwrap().tag(), Some("one"));
    assert_eq!(bench.asked("ACK").to().unwrap().tag(), Some("one"));
    bench.receive(&late);
    assert_eq!(bench.said(), ["ACK"]);
    assert_eq!(bench.told(), ["up PCMA SendRecv"]);
    bench.reply("BYE", 200, "", "");
    bench.run(40.0);
    assert_eq!(bench.line.len(), 1);
}

#[test]
fn a_call_that_is_not_answered_in_time_is_cancelled_and_told_at_once() {
    let (mut bench, _) = Bench::calling();
    bench.reply("INVITE", 180, "", "");
    bench.run(20.0);
    assert_eq!((bench.said(), bench.told()), (vec!["CANCEL".to_owned()], vec!["ended: nobody answered".to_owned()]));
    bench.reply("CANCEL", 200, "", "");
    bench.reply("INVITE", 487, "", "");
    assert_eq!(bench.said(), ["ACK"]);
    assert!(bench.told().is_empty());
    bench.assert_over();
}

#[test]
fn an_answer_that_crosses_our_cancel_is_acknowledged_and_hung_up() {
    for by_us in [true, false] {
        let (mut bench, leg) = Bench::calling();
        bench.reply("INVITE", 180, "", "");
        if by_us {
            bench.hang_up(leg);
        } else {
            bench.run(20.0);
        }
        bench.reply("INVITE", 200, "", &speech());
        bench.reply("CANCEL", 481, "", "");
        bench.reply("BYE", 200, "", "");
        assert_eq!(bench.said(), ["CANCEL", "ACK", "BYE"]);
        assert_eq!(bench.told(), [if by_us { "ended: we hung up" } else { "ended: nobody answered" }]);
        bench.assert_over();
    }
}

#[test]
fn a_call_that_we_leave_before_anything_came_is_cancelled_when_something_does() {
    let (mut bench, leg) = Bench::calling();
    bench.hang_up(leg);
    assert!(bench.said().is_empty(), "RFC 3261 9.1");
    assert_eq!(bench.told(), ["ended: we hung up"]);
    bench.reply("INVITE", 100, "", "");
    assert_eq!(bench.said(), ["CANCEL"]);
    // And if nothing ever comes of it:
    bench.run(33.0);
    assert!(bench.told().is_empty());
    bench.assert_over();
}

#[test]
fn a_peer_that_says_nothing_is_given_up() {
    let (mut bench, _) = Bench::calling();
    let from = bench.now;
    bench.run(40.0);
    assert_eq!(bench.times(from, "INVITE"), [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]);
    assert_eq!(bench.told(), ["ended: nobody answered"]);
    bench.assert_over();
}

#[test]
fn an_answer_that_comes_when_all_is_over_is_left_to_the_peer() {
    let (mut bench, _) = Bench::calling();
    bench.run(40.0);
    bench.forget();
    bench.reply("INVITE", 200, "", &speech());
    assert!(bench.said().is_empty() && bench.told().is_empty());
    bench.assert_over();
}

#[test]
fn a_refusal_is_told_in_the_pbxs_words_and_a_redirection_is_one() {
    for (status, told) in [
        (486, "ended: the call was refused: 486 Busy Here"),
        (302, "ended: the call was refused: 302 Moved Temporarily"),
        (603, "ended: the call was refused: 603 Decline"),
    ] {
        let (mut bench, _) = Bench::calling();
        bench.reply("INVITE", 180, "", "");
        let refusal = bench.reply("INVITE", status, "Contact: <sip:0900@198.51.100.1>\r\n", "");
        bench.receive(&refusal);
        assert_eq!(bench.said(), ["ACK", "ACK"]);
        assert_eq!(bench.told(), [told]);
        bench.assert_over();
    }
}

#[test]
fn an_answer_without_a_codec_of_ours_is_acknowledged_and_hung_up() {
    for body in [String::new(), speech().replace("RTP/AVP 8 101", "RTP/AVP 18").replace("8 PCMA", "18 G729")] {
        let (mut bench, _) = Bench::calling();
        bench.reply("INVITE", 200, "", &body);
        assert_eq!(bench.said(), ["ACK", "BYE"]);
        assert_eq!(bench.told().len(), 1);
        bench.reply("BYE", 200, "", "");
        bench.assert_over();
    }
}

#[test]
fn a_connection_that_breaks_ends_the_call_that_was_being_made() {
    let mut bench = Bench::new();
    let flow = Flow { transport: crate::leg::sip::Transport::Tcp, connection: 3, local: 1, ..pbx() };
    let uri = "sip:6001@192.0.2.10;transport=tcp".parse().unwrap();
    bench.line.call(bench.now, uri, flow, rtp()).unwrap();
    bench.line.handle_flow_failed(bench.now, flow, "it broke".to_owned());
    bench.fetch();
    assert_eq!(bench.told(), ["ended: the call could not be sent"]);
    assert!(header(&bench.asked("INVITE").headers, "Contact").ends_with(";transport=tcp>"));
    bench.assert_over();
}

#[test]
fn the_peer_of_a_call_of_ours_finds_its_route_again() {
    let route = "Record-Route: <sip:192.0.2.5;lr>\r\nRecord-Route: <sip:192.0.2.6;lr>\r\n";
    let (mut bench, leg) = up_of(Bench::new(), route);
    assert_eq!(header(&bench.asked("ACK").headers, "Route"), "<sip:192.0.2.6;lr>");
    bench.hang_up(leg);
    assert_eq!(bench.asked("BYE").headers.list(&Name::Route).count(), 2);
}
