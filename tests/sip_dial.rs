//! Calls that the daemon places, `trunkline dial`, to a PBX that we did not write: sipp plays whom it calls.

#![allow(clippy::unwrap_used)]

mod sip;
mod site;

use sip::{
    Playing, Site, Trunk, is_installed,
    scenario::{SDP, Scenario, offer},
};
use site::{SOON, field, wait_for};

/// Somebody who is called, and the line that may call.
struct Callee {
    site: Site,
    playing: Playing,
}

impl Callee {
    /// sipp goes through this when it is called. `None`: it is missing.
    fn start(scenario: &Scenario, keys: &str) -> Option<Self> {
        if !is_installed("sipp") {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let playing = sip::Sipp::new(scenario, dir.path(), 9).keeping(dir).start();
        let port = playing.port;
        let dial = format!("[line.pbx.dial]\nplan = [\"2??\"]\nproxy = \"sip:127.0.0.1:{port}\"\n{keys}\n");
        Some(Self { site: Site::open(&[Trunk::Echo], &dial, ""), playing })
    }

    /// The daemon calls, and all goes as the scenario has it. Returns the daemon's closing line.
    #[track_caller]
    fn answers_the_daemon(self) -> String {
        // How it answers is told by the record; an asker may be told sooner or later.
        let _ = self.site.try_ask(&["dial", "pbx", "201"]);
        self.playing.ends_well(2 * SOON);
        let ended = self.site.daemon.process.line(&["call ended"]);
        wait_for("no call is left", || self.site.daemon.metric("trunkline_calls") == 0);
        ended
    }
}

/// A callee that rings and answers.
fn answers() -> Scenario {
    Scenario::callee()
        .awaits("INVITE")
        .header("Contact", "sip:")
        .body("m=audio [1-9][0-9]* RTP/AVP")
        .answer("180 Ringing", "", "")
        .pause(300)
        .answer("200 OK", "", SDP)
        .in_dialog()
        .awaits("ACK")
}

#[test]
fn who_answers_is_in_the_call_and_may_hang_up() {
    let call = answers().pause(700).within("BYE", "", "").expect(200).end();
    let Some(callee) = Callee::start(&call, "") else { return };
    let ended = callee.answers_the_daemon();
    assert_eq!(field(&ended, "end_reason"), "line-hung-up", "{ended}");
}

#[test]
fn early_media_and_reliable_ringing_are_taken_as_they_come() {
    let call = Scenario::callee()
        .awaits("INVITE")
        .header("Supported", "100rel")
        .answer("183 Session Progress", "Require: 100rel\nRSeq: 4711\n", SDP)
        .in_dialog()
        .awaits("PRACK")
        .header("RAck", "4711 [0-9]+ INVITE")
        .answer("200 OK", "", "")
        .pause(300)
        .answer_invite("200 OK", SDP)
        .awaits("ACK")
        .pause(300)
        .within("BYE", "", "")
        .expect(200)
        .end();
    let Some(callee) = Callee::start(&call, "") else { return };
    assert_eq!(field(&callee.answers_the_daemon(), "end_reason"), "line-hung-up");
}

#[test]
fn who_is_busy_or_moved_is_acknowledged_and_not_called_again() {
    for status in ["486 Busy Here", "603 Decline", "302 Moved Temporarily", "404 Not Found"] {
        let call =
            Scenario::callee().awaits("INVITE").answer(status, "", "").in_dialog().awaits("ACK").pause(500).end();
        let Some(callee) = Callee::start(&call, "") else { return };
        let ended = callee.answers_the_daemon();
        assert_ne!(field(&ended, "end_reason"), "bug", "{ended}");
    }
}

#[test]
fn who_does_not_answer_in_time_is_let_go() {
    let call = Scenario::callee()
        .awaits("INVITE")
        .answer("180 Ringing", "", "")
        .awaits("CANCEL")
        .within_ms(9_000)
        .answer("200 OK", "", "")
        .answer_invite("487 Request Terminated", "")
        .in_dialog()
        .awaits("ACK")
        .end();
    let Some(callee) = Callee::start(&call, "answer-timeout-seconds = 5") else { return };
    callee.answers_the_daemon();
}

#[test]
fn who_answers_in_the_moment_of_giving_up_is_acknowledged_and_hung_up() {
    let call = Scenario::callee()
        .awaits("INVITE")
        .answer("180 Ringing", "", "")
        .awaits("CANCEL")
        .within_ms(9_000)
        .answer("200 OK", "", "")
        .answer_invite("200 OK", SDP)
        .in_dialog()
        .awaits("ACK")
        .awaits("BYE")
        .answer("200 OK", "", "")
        .end();
    let Some(callee) = Callee::start(&call, "answer-timeout-seconds = 5") else { return };
    callee.answers_the_daemon();
}

#[test]
fn whom_we_have_called_may_hold_and_resume() {
    let call = answers()
        .within("INVITE", "", &offer(2, None, "a=sendonly"))
        .may(100)
        .expect(200)
        .body("a=recvonly")
        .ack()
        .pause(200)
        .within("INVITE", "", &offer(3, None, "a=sendrecv"))
        .may(100)
        .expect(200)
        .body("a=sendrecv")
        .ack()
        .pause(200)
        .within("BYE", "", "")
        .expect(200)
        .end();
    let Some(callee) = Callee::start(&call, "") else { return };
    assert_eq!(field(&callee.answers_the_daemon(), "end_reason"), "line-hung-up");
}

#[test]
fn nobody_is_called_whom_the_plan_does_not_name() {
    let Some(callee) = Callee::start(&answers().end(), "") else { return };
    for target in ["301", "2011", "sip:201@192.0.2.1", "*21*201#", "tel:+900123456"] {
        let (ok, said) = callee.site.try_ask(&["dial", "pbx", target]);
        assert!(!ok, "{target}: {said}");
    }
    assert!(!callee.playing.has_seen("INVITE"), "nothing was sent");
}
