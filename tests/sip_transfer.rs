//! Callers who are passed on: by an agent that asks for it, or by an operator, as far as the dial plan allows.

#![allow(clippy::unwrap_used)]

mod sip;
mod site;

use std::net::SocketAddr;

use sip::{
    Site, Trunk, companded,
    wire::{Voice, Wire},
};
use site::field;

/// A phone in a call, and the tag of its other end.
fn call(site: &Site) -> (Wire, String, Voice) {
    let wire = Wire::open(site.address());
    let (socket, port) = Voice::socket();
    wire.send(&wire.invite("passed", port));
    let answered = wire.until("SIP/2.0 200");
    let (to_tag, media): (_, SocketAddr) = (answered.to_tag().to_owned(), answered.media());
    wire.send(&wire.request("ACK", "passed", 1, &to_tag));
    (wire, to_tag, Voice::speak(socket, media, companded(4.0, 1)))
}

const PLAN: &str = "[line.pbx.dial]\nproxy = \"sip:127.0.0.1\"\nplan = [\"3??\"]\n";

#[test]
fn a_caller_is_passed_on_and_the_call_ends_when_the_other_party_has_answered() {
    let site = Site::open(&[Trunk::Asks(&["--transfer-to", "300", "--transfer-after", "600"])], PLAN, "");
    let (wire, tag, voice) = call(&site);
    let refer = wire.until("REFER ");
    assert_eq!(refer.header("Refer-To"), "<sip:300@127.0.0.1>");
    assert!(refer.find("Referred-By").is_some());
    wire.send(&Wire::answer(&refer, "202 Accepted"));
    wire.send(&wire.notify("passed", 2, &tag, ("active;expires=60", "SIP/2.0 100 Trying")));
    wire.until("SIP/2.0 200");
    wire.send(&wire.notify("passed", 3, &tag, ("terminated;reason=noresource", "SIP/2.0 200 OK")));
    let bye = wire.until("BYE ");
    wire.send(&Wire::answer(&bye, "200 OK"));
    voice.stop();
    let ended = site.daemon.process.line(&["call ended"]);
    assert_eq!(field(&ended, "end_reason"), "handed-back", "{ended}");
}

#[test]
fn a_caller_whom_nobody_answers_is_back_with_the_agent_who_is_told_so() {
    let site = Site::open(&[Trunk::Asks(&["--transfer-to", "300"])], PLAN, "");
    let (wire, tag, voice) = call(&site);
    let refer = wire.until("REFER ");
    wire.send(&Wire::answer(&refer, "202 Accepted"));
    wire.send(&wire.notify("passed", 2, &tag, ("terminated;reason=noresource", "SIP/2.0 486 Busy Here")));
    wire.until("SIP/2.0 200");
    let told = site.agents[0].line(&["the transfer failed"]);
    assert_eq!(field(&told, "status"), "486");
    // The caller is heard as before.
    voice.until_heard(8_000);
    wire.send(&wire.request("BYE", "passed", 9, &tag));
    wire.until("SIP/2.0 200");
    voice.stop();
    let ended = site.daemon.process.line(&["call ended"]);
    assert_eq!(field(&ended, "end_reason"), "line-hung-up", "{ended}");
}

#[test]
fn nobody_is_passed_on_to_whom_the_dial_plan_does_not_allow() {
    let site = Site::open(&[Trunk::Asks(&["--transfer-to", "+4990012345"])], PLAN, "");
    let (wire, tag, voice) = call(&site);
    assert_eq!(field(&site.agents[0].line(&["the transfer failed"]), "status"), "403");
    let warning = site.daemon.process.line(&["what the agent asked for cannot be done"]);
    assert!(!warning.contains("90012345"), "{warning}");
    wire.send(&wire.request("BYE", "passed", 9, &tag));
    // Were there a REFER before it, it would be the next message.
    assert_eq!(wire.next().header("CSeq"), "9 BYE");
    voice.stop();
}

#[test]
fn an_operator_passes_a_caller_on_as_an_agent_may() {
    let site = Site::open(&[Trunk::Echo], PLAN, "");
    let (wire, tag, voice) = call(&site);
    let started = site.daemon.process.line(&["call started"]);
    let id = field(&started, "call_id");
    let (done, said) = site.try_ask(&["transfer", id, "+4990012345"]);
    assert!(!done && said.contains("plan"), "{said}");
    site.ask(&["transfer", id, "311"]);
    let refer = wire.until("REFER ");
    assert_eq!(refer.header("Refer-To"), "<sip:311@127.0.0.1>");
    wire.send(&Wire::answer(&refer, "603 Decline"));
    site.daemon.process.line(&["the caller was not passed on"]);
    wire.send(&wire.request("BYE", "passed", 9, &tag));
    wire.until("SIP/2.0 200");
    voice.stop();
}

#[test]
fn keys_that_an_agent_presses_are_heard_by_the_phone() {
    let site = Site::open(&[Trunk::Asks(&["--send-digits", "42#"])], "", "");
    let (wire, tag, voice) = call(&site);
    site::wait_for("three keys", || voice.keys().iter().filter(|(_, _, payload)| payload[1] & 0x80 != 0).count() >= 9);
    let pressed: Vec<u8> = {
        let mut pressed: Vec<(u32, u8)> = voice.keys().iter().map(|(_, at, payload)| (*at, payload[0])).collect();
        pressed.dedup();
        pressed.into_iter().map(|(_, key)| key).collect()
    };
    assert_eq!(pressed, [4, 2, 11]);
    wire.send(&wire.request("BYE", "passed", 9, &tag));
    wire.until("SIP/2.0 200");
    voice.stop();
}
