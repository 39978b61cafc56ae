//! What is turned away, and how.

use super::*;

/// A request outside of any call.
fn ask(bench: &mut Bench, method: &str, headers: &str) -> u16 {
    bench.branches += 1;
    let number = bench.branches;
    bench.receive(&format!(
        "{method} sip:trunkline@192.0.2.20 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;rport;branch=z9hG4bKout{number}\r\n\
         From: <sip:asterisk@192.0.2.10>;tag=a{number}\r\nTo: <sip:trunkline@192.0.2.20>\r\nCall-ID: out{number}\r\n\
         CSeq: 1 {method}\r\n{headers}Content-Length: 0\r\n\r\n"
    ));
    let status = bench.answered(method).status;
    assert!(bench.answered(method).to().unwrap().tag().is_some(), "above 100 all have a tag");
    status
}

fn torture(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/sip/torture/{name}.sip", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).expect("a message of RFC 4475")
}

#[test]
fn a_pbx_that_asks_whether_we_live_hears_what_we_can_or_that_it_should_go_elsewhere() {
    let mut bench = Bench::new();
    assert_eq!(ask(&mut bench, "OPTIONS", ""), 200);
    let answer = bench.answered("OPTIONS");
    assert_eq!(header(&answer.headers, "Accept"), "application/sdp");
    assert_eq!(header(&answer.headers, "Supported"), "100rel, timer");
    assert!(header(&answer.headers, "Allow").contains("INVITE"));
    bench.line.set_closed(Some(("the daemon is going down", 30)));
    assert_eq!(ask(&mut bench, "OPTIONS", ""), 503);
    bench.receive(&invite(""));
    let refusal = bench.answered("INVITE");
    assert_eq!((refusal.status, refusal.reason.as_str()), (503, "the daemon is going down"));
    assert_eq!(header(&refusal.headers, "Retry-After"), "30");
    bench.line.set_closed(None);
    assert_eq!(ask(&mut bench, "OPTIONS", ""), 200);
    assert!(bench.told().is_empty());
}

#[test]
fn a_line_that_closes_keeps_the_calls_that_it_has() {
    let (mut bench, leg) = Bench::ringing();
    bench.line.set_closed(Some(("the daemon is going down", 30)));
    bench.receive(&invite(""));
    assert_eq!(bench.said(), ["180 INVITE"], "a copy");
    bench.accept(leg);
    bench.ack("");
    bench.ask("INVITE", "", &speech());
    assert_eq!(bench.said(), ["200 INVITE", "200 INVITE"]);
}

#[test]
fn what_belongs_to_no_call_is_refused_by_its_kind() {
    let mut bench = Bench::new();
    for (method, headers, status) in [
        ("REGISTER", "", 405),
        ("MESSAGE", "", 405),
        ("PUBLISH", "", 405),
        ("TELEPORT", "", 405),
        ("OPTIONS", "Require: teleport, 100rel\r\n", 420),
        ("BYE", "", 481),
        ("UPDATE", "", 481),
        ("INFO", "", 481),
        ("PRACK", "RAck: 1 1 INVITE\r\n", 481),
        ("CANCEL", "", 481),
        ("SUBSCRIBE", "Event: presence\r\n", 489),
        ("NOTIFY", "Event: presence\r\n", 489),
        ("NOTIFY", "Event: message-summary\r\nSubscription-State: active\r\n", 200),
        ("REFER", "Refer-To: <sip:9@192.0.2.10>\r\n", 603),
    ] {
        assert_eq!(ask(&mut bench, method, headers), status, "{method}");
    }
    assert!(header(&bench.answered("REGISTER").headers, "Allow").contains("INVITE"));
    assert_eq!(header(&bench.answered("OPTIONS").headers, "Unsupported"), "teleport");
    bench.receive(&invite("").replace("<sip:trunkline@192.0.2.20>", "<sip:trunkline@192.0.2.20>;tag=gone"));
    assert_eq!(bench.answered("INVITE").status, 481);
    assert!(bench.told().is_empty());
    bench.run(1.0);
    bench.assert_over();
}

#[test]
fn a_call_that_cannot_be_taken_is_refused_with_what_would_do() {
    let asterisk = invite("");
    let codecs = [("9 0 8 101", "18 101"), ("9 G722", "18 G729"), ("0 PCMU", "18 G729"), ("8 PCMA", "18 G729")];
    let foreign = codecs.iter().fold(asterisk.clone(), |text, (from, to)| text.replacen(from, to, 1));
    let foreign = foreign.replace("Content-Length:   279", "Content-Length:   278");
    for (text, status, name, value) in [
        (invite("Require: teleport\r\n"), 420, "Unsupported", "teleport"),
        (asterisk.replace("application/sdp", "application/isup"), 415, "Accept", "application/sdp"),
        (invite("Accept: text/plain\r\n"), 406, "Accept", ""),
        (foreign, 488, "Warning", "304 192.0.2.20 \"the peer has none of our codecs: G729, G729, G729\""),
        (asterisk.replace("v=0", "v:0"), 488, "Warning", ""),
        (asterisk.replace("Expires: 1800", "Expires: 60"), 422, "Min-SE", "90"),
        (asterisk.replace("INVITE sip:trunkline", "INVITE mailto:trunkline"), 416, "Allow", ""),
        (asterisk.replace("Contact: <sip:asterisk@192.0.2.10:5060>\r\n", ""), 400, "Allow", ""),
    ] {
        let mut bench = Bench::new();
        bench.receive(&text);
        let refusal = bench.answered("INVITE");
        assert_eq!(refusal.status, status);
        if name == "Warning" && !value.is_empty() {
            assert!(header(&refusal.headers, name).starts_with("304 192.0.2.20 \""), "{refusal:?}");
        } else {
            assert_eq!(header(&refusal.headers, name), value);
        }
        let told = bench.told();
        assert!(told.is_empty() || told == [format!("not taken {status}")], "{told:?}");
        assert!(bench.line.is_empty());
    }
}

#[test]
fn a_call_that_came_two_ways_is_a_loop() {
    let (mut bench, _) = Bench::ringing();
    bench.receive(&invite("").replace("z9hG4bKPj", "z9hG4bKother"));
    assert_eq!(bench.said(), ["482 INVITE"]);
    assert_eq!(bench.line.len(), 1);
}

#[test]
fn a_request_that_may_go_no_further_has_arrived() {
    let mut bench = Bench::new();
    assert_eq!(ask(&mut bench, "OPTIONS", "Max-Forwards: 0\r\n"), 200);
    bench.receive(&invite("").replace("Max-Forwards: 70", "Max-Forwards: 0"));
    assert_eq!(bench.told(), ["invited"]);
}

#[test]
fn the_messages_of_rfc_4475_that_a_line_decides_about_are_decided() {
    for (name, said, told) in [
        ("bext01", &["420 OPTIONS"][..], &[][..]),
        ("invut", &["415 INVITE"], &["not taken 415"]),
        ("sdp01", &["406 INVITE"], &["not taken 406"]),
        // RFC 4475 3.3.11: an endpoint does as if there were hops left.
        ("zeromf", &["200 OPTIONS"], &[]),
        ("regaut01", &["405 REGISTER"], &[]),
        ("regescrt", &["405 REGISTER"], &[]),
        ("cparam01", &["405 REGISTER"], &[]),
        ("intmeth", &["405 !interesting-Method0123456789_*+`.%indeed'~"], &[]),
        ("bcast", &[], &[]),
        ("unreason", &[], &[]),
        ("unkscm", &["416 OPTIONS"], &[]),
        ("mpart01", &["405 MESSAGE"], &[]),
        ("wsinv", &["481 INVITE"], &[]),
        // It could be taken for what From says, but a peer that nobody can reach is not one to call from.
        ("inv2543", &["400 INVITE"], &["not taken 400"]),
        ("badbranch", &["200 OPTIONS"], &[]),
        ("dblreq", &["405 REGISTER"], &[]),
    ] {
        let mut bench = Bench::new();
        let bytes = torture(name);
        bench.receive_bytes(pbx(), &bytes);
        assert_eq!(
            (bench.said(), bench.told()),
            (said.iter().map(|&said| said.to_owned()).collect(), told.iter().map(|&told| told.to_owned()).collect()),
            "{name}"
        );
    }
}

#[test]
fn a_version_that_nobody_knows_is_answered_where_it_came_from() {
    let mut bench = Bench::new();
    bench.line.handle_message(bench.now, pbx(), parse(&torture("badvers")));
    let sent = bench.line.poll_transmit().unwrap();
    assert!(sent.bytes.starts_with(b"SIP/2.0 505 "));
    assert_eq!(sent.flow, pbx());
}

#[test]
fn whoever_is_not_known_hears_nothing_even_from_this_machine() {
    let mut bench = Bench::new();
    for source in ["198.51.100.66:5060", "127.0.0.1:5060", "[::1]:5060"] {
        let flow = Flow::udp(0, source.parse().unwrap());
        bench.receive_from(flow, &invite(""));
        bench.receive_from(flow, "OPTIONS sip:100@192.0.2.20 SIP/2.0\r\n\r\n");
        for name in ["badinv01", "zeromf", "regaut01", "invut", "mcl01"] {
            bench.receive_bytes(flow, &torture(name));
        }
    }
    assert!(bench.said().is_empty() && bench.told().is_empty());
    assert!(bench.line.transactions.is_empty());
    assert_eq!(bench.line.admission.refused(admission::Reason::Stranger), 21);
    assert!(bench.line.poll_refusals().is_some());
}

#[test]
fn a_stranger_cannot_end_a_call_that_it_knows_all_about() {
    let (mut bench, _) = Bench::up();
    let bye = bench.request("BYE", 4000, "", "");
    bench.receive_from(Flow::udp(0, "198.51.100.66:5060".parse().unwrap()), &bye);
    assert!(bench.said().is_empty() && bench.told().is_empty());
}

#[test]
fn whom_we_called_is_heard_in_that_call_and_nowhere_else() {
    let mut bench = Bench::with(|setup| setup.admission.allow.clear());
    bench.receive(&invite(""));
    assert!(bench.said().is_empty());
    let (mut bench, _) = Bench::calling_of(bench);
    bench.reply("INVITE", 180, "", "");
    bench.reply("INVITE", 200, "", &speech());
    assert_eq!((bench.said(), bench.told()), (vec!["ACK".to_owned()], vec!["up PCMA SendRecv".to_owned()]));
    bench.receive(&invite(""));
    bench.receive("OPTIONS sip:100@192.0.2.20 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK1\r\n\r\n");
    assert!(bench.said().is_empty());
    let invite = bench.asked("INVITE");
    let bye = format!(
        "BYE sip:trunkline@192.0.2.20 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKb\r\nFrom: {};tag=as1\r\n\
         To: {}\r\nCall-ID: {}\r\nCSeq: 1 BYE\r\n\r\n",
        invite.headers.get(&Name::To).unwrap(),
        invite.headers.get(&Name::From).unwrap(),
        invite.call_id().unwrap()
    );
    bench.receive(&bye);
    assert_eq!((bench.said(), bench.told()), (vec!["200 BYE".to_owned()], vec!["ended: the peer hung up".to_owned()]));
}
