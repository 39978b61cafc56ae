//! Too much of everything, and messages that are none.

use super::*;

fn limited(per_second: u32, burst: u32) -> Bench {
    Bench::with(|setup| {
        setup.admission.invites_per_second = per_second;
        setup.admission.burst = burst;
    })
}

#[test]
fn ten_thousand_invites_too_many_leave_the_tables_as_they_were() {
    let mut bench = limited(10, 5);
    for number in 0..5 {
        bench.receive(&other_invite(number));
    }
    assert_eq!(bench.told(), ["invited"; 5]);
    let (legs, transactions) = (bench.line.len(), bench.line.transactions.len());
    bench.sent.clear();
    for number in 5..10_005 {
        let invite = other_invite(number);
        bench.receive(&invite);
        let (_, _, Message::Response(refusal)) = bench.sent.pop().unwrap() else { panic!("no answer") };
        assert_eq!((refusal.status, header(&refusal.headers, "Retry-After")), (503, "1"));
        assert!(refusal.to().unwrap().tag().is_some());
        // Its ACK is of no interest.
        bench.receive(&invite.replace("INVITE sip", "ACK sip").replace("3424 INVITE", "3424 ACK"));
        assert!(bench.sent.is_empty());
    }
    assert_eq!((bench.line.len(), bench.line.transactions.len()), (legs, transactions));
    assert!(bench.events[bench.heard..].is_empty());
    bench.seen = 0;
    // The others are served meanwhile.
    bench.receive(&other_invite(0));
    let leg = bench.leg();
    bench.accept(leg);
    assert_eq!(bench.answered("INVITE").status, 200);
}

#[test]
fn a_copy_of_what_was_turned_away_gets_the_same_answer() {
    let mut bench = limited(10, 1);
    bench.receive(&other_invite(1));
    for _ in 0..3 {
        bench.receive(&other_invite(2));
    }
    let tags: Vec<_> = bench.sent.iter().map(|(_, _, message)| message.headers().to().unwrap()).collect();
    assert_eq!(bench.said(), ["503 INVITE"; 3]);
    assert!(tags.iter().all(|tag| *tag == tags[0]));
}

#[test]
fn five_thousand_calls_that_nobody_acknowledges_are_never_more_than_allowed_and_all_gone_in_time() {
    let mut bench = limited(1000, 100);
    let (mut taken, mut refused) = (0, 0);
    for number in 0..5_000 {
        bench.receive(&other_invite(number));
        while let Some(event) = bench.events.pop() {
            if let Event::Invited(invitation) = event {
                taken += 1;
                bench.line.ring(bench.now, invitation.leg, rtp());
                bench.accept(invitation.leg);
            }
        }
        refused += bench.sent.drain(..).filter(|(_, _, message)| in_short(message) == "503 INVITE").count();
        assert!(bench.line.transactions.unacked() <= 30);
        assert!(bench.line.len() <= 60, "those whose BYE nobody answers beside those that wait");
        assert!(bench.line.transactions.len() <= 200);
        bench.run(0.02);
    }
    assert_eq!(taken + refused, 5_000);
    assert!(taken >= 90, "{taken}");
    bench.events.clear();
    bench.run(64.5);
    bench.assert_over();
}

#[test]
fn calls_that_rang_together_are_not_answered_together_where_nobody_acknowledges() {
    let mut bench = limited(1000, 100);
    for number in 0..40 {
        bench.receive(&other_invite(number));
    }
    let mut legs = Vec::new();
    while let Some(event) = bench.events.pop() {
        if let Event::Invited(invitation) = event {
            bench.line.ring(bench.now, invitation.leg, rtp());
            legs.push(invitation.leg);
        }
    }
    assert_eq!(legs.len(), 40);
    bench.sent.clear();
    for leg in legs {
        bench.accept(leg);
    }
    let mut answers: Vec<_> = bench.sent.drain(..).map(|(_, _, message)| in_short(&message)).collect();
    answers.sort();
    answers.retain(|answer| !answer.starts_with('1'));
    assert_eq!(answers.iter().filter(|answer| *answer == "200 INVITE").count(), 30, "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| *answer == "503 INVITE").count(), 10, "{answers:?}");
    assert_eq!(bench.line.len(), 30);
}

#[test]
fn calls_that_ring_leave_no_room_for_more() {
    let mut bench = Bench::with(|setup| setup.admission.max_ringing = 3);
    for number in 0..10 {
        bench.receive(&other_invite(number));
    }
    assert_eq!(bench.told(), ["invited"; 3]);
    assert_eq!(bench.said(), ["503 INVITE"; 7]);
    let leg = bench.leg();
    bench.accept(leg);
    bench.receive(&other_invite(10));
    assert_eq!(bench.told(), ["invited"]);
}

/// Does to a message what a bad network, a bad program or a bad person would.
fn mutate(dice: &mut Dice, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len() as u64 + 1) as usize;
        let end = (at + dice.below(40) as usize).min(bytes.len());
        match dice.below(8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.insert(at, dice.roll() as u8),
            3 => bytes.extend_from_within(at..end),
            4 => {
                let from = dice.below(other.len() as u64) as usize;
                let piece = other[from..(from + 60).min(other.len())].to_vec();
                drop(bytes.splice(at..end, piece));
            }
            5 => {
                // A whole line out of the other.
                let lines: Vec<&[u8]> = other.split_inclusive(|byte| *byte == b'\n').collect();
                let line = lines[dice.below(lines.len() as u64) as usize].to_vec();
                let at = bytes[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                drop(bytes.splice(at..at, line));
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << dice.below(8);
                }
            }
        }
    }
}

#[test]
fn twenty_thousand_broken_datagrams_break_nothing_and_leave_nothing() {
    let mut dice = Dice::new(11);
    let mut bench = Bench::with(|setup| setup.credentials = Some(credentials()));
    // One call of theirs that is up, one that rings, and one of ours that does.
    bench.receive(&invite(""));
    let up = bench.leg();
    bench.line.ring(bench.now, up, rtp());
    bench.accept(up);
    bench.ack("");
    bench.receive(&other_invite(1));
    let ringing = bench.leg();
    bench.line.ring(bench.now, ringing, rtp());
    let uri = "sip:6001@192.0.2.10".parse().unwrap();
    let calling = bench.line.call(bench.now, uri, pbx(), rtp()).unwrap();
    bench.line.transfer(bench.now, up, "sip:2000@192.0.2.10".into());
    bench.fetch();
    let (calls, refers) = (bench.asked("INVITE"), bench.asked("REFER"));
    let challenge = "WWW-Authenticate: Digest realm=\"a\", nonce=\"n\", algorithm=SHA-256, qop=\"auth,auth-int\"\r\n";
    let mut corpus = vec![
        invite(""),
        other_invite(1),
        other_invite(1).replace("INVITE sip", "CANCEL sip").replace("3424 INVITE", "3424 CANCEL"),
        answer(&calls, "as1", 183, "Require: 100rel\r\nRSeq: 7\r\n", &speech()),
        answer(&calls, "as1", 401, challenge, ""),
        answer(&calls, "as2", 200, "Session-Expires: 1800;refresher=uac\r\n", &speech()),
        answer(&refers, "as1", 202, "", ""),
    ];
    for (method, headers, body) in [
        ("INVITE", "Supported: timer\r\nSession-Expires: 1800\r\n", speech()),
        ("INVITE", "", String::new()),
        ("ACK", "", speech()),
        ("UPDATE", "", sdp("0.0.0.0", "inactive")),
        ("INFO", "Content-Type: application/dtmf-relay\r\n", "Signal=5\r\nDuration=160\r\n".into()),
        (
            "NOTIFY",
            "Event: refer\r\nSubscription-State: active\r\nContent-Type: message/sipfrag\r\n",
            "SIP/2.0 180 Ringing\r\n".into(),
        ),
        ("PRACK", "RAck: 7 3424 INVITE\r\n", String::new()),
        ("OPTIONS", "", String::new()),
        ("BYE", "", String::new()),
    ] {
        bench.cseq += 1;
        let cseq = bench.cseq;
        corpus.push(bench.request(method, cseq, headers, &body));
    }
    for _ in 0..20_000 {
        let [from, other] = [0, 1].map(|_| corpus[dice.below(corpus.len() as u64) as usize].as_bytes());
        let mut bytes = from.to_vec();
        mutate(&mut dice, &mut bytes, other);
        bench.receive_broken(&bytes);
        assert!(bench.line.len() <= 100, "{}", bench.line.len());
        assert!(bench.line.transactions.unacked() <= 30);
        bench.now += Now::from_millis(dice.below(20));
        bench.line.handle_timeout(bench.now);
    }
    for leg in [up, ringing, calling] {
        bench.line.hang_up(bench.now, leg);
    }
    // Those that were taken for calls ring for three minutes, or are never acknowledged.
    let end = bench.now + secs(2000.0);
    while let Some(at) = bench.line.poll_timeout().filter(|at| *at <= end) {
        bench.now = bench.now.max(at);
        bench.line.handle_timeout(bench.now);
        bench.drop_all();
    }
    assert!(bench.line.is_empty());
    assert!(bench.line.transactions.is_empty());
    // And it still works.
    bench.told();
    bench.receive(&other_invite(2));
    assert_eq!(bench.told(), ["invited"]);
}

impl Bench {
    /// Takes what may be no message. What is said to it may quote it, so that nobody can be sure to read it.
    fn receive_broken(&mut self, bytes: &[u8]) {
        self.line.handle_message(self.now, pbx(), parse(bytes));
        self.drop_all();
    }

    fn drop_all(&mut self) {
        while self.line.poll_transmit().is_some() {}
        while self.line.poll_event().is_some() {}
    }
}
