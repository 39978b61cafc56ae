#![allow(clippy::unwrap_used)]

use md5::Md5;
use sha2::{Digest, Sha256};

use super::*;
use crate::{
    config::{Secret, SipUri},
    leg::sip::{self, Message, Name, NameAddr},
};

const PASSWORD: &str = "correct horse battery";

fn at(second: u64) -> Now {
    Now::from_secs(second)
}

fn register(registrar: &str, backup: Option<&str>) -> Register {
    Register {
        registrar: SipUri::parse(registrar).unwrap(),
        backup: backup.map(|backup| SipUri::parse(backup).unwrap()),
        user: "200".to_owned(),
        auth_user: "auth200".to_owned(),
        password: Some(Secret::new(PASSWORD)),
        expires: Duration::from_secs(3600),
    }
}

/// What a registrar does with a REGISTER.
enum Answer {
    /// These are its status and headers.
    Says(u16, Vec<(&'static str, String)>),
    /// Nothing, for 32 s.
    Nothing,
    /// It cannot be reached.
    Unreachable,
}

fn says(status: u16, headers: &[(&'static str, &str)]) -> Answer {
    Answer::Says(status, headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect())
}

/// An extension, and all that it sent.
struct Extension {
    registration: Registration,
    now: Now,
    contact: Contact,
    sent: Vec<(Now, String, Request)>,
    news: Vec<(Now, News)>,
}

impl Extension {
    fn new(register: &Register) -> Self {
        // A generator of Marsaglia's, so that every run is the same.
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let random = Box::new(move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        });
        Self {
            registration: Registration::new(at(0), register, Some("Trunkline"), random),
            now: at(0),
            contact: Contact { host: "192.0.2.7".to_owned(), port: 5060 },
            sent: Vec::new(),
            news: Vec::new(),
        }
    }

    /// Lives until then, with these registrars.
    fn run(&mut self, until: Now, mut answer: impl FnMut(&str, &Request) -> Answer) {
        let mut host = String::new();
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps < 10_000, "it runs hot at {:?}", self.now);
            let step = self.registration.poll_step(self.now);
            while let Some(news) = self.registration.poll_news() {
                self.news.push((self.now, news));
            }
            match step {
                Some(Step::Reach(target)) => {
                    host = target.host;
                    self.registration.handle_reached(self.contact.clone());
                }
                Some(Step::Send(request)) => {
                    let request = over_the_wire(&request);
                    self.sent.push((self.now, host.clone(), request.clone()));
                    match answer(&host, &request) {
                        Answer::Says(status, headers) => {
                            let mut response = request.answer(status);
                            for (name, value) in headers {
                                response.headers.push(name.into(), value);
                            }
                            let mut bytes = Vec::new();
                            response.write(&mut bytes);
                            let Ok(Message::Response(response)) = sip::parse(&bytes) else { panic!("{response:?}") };
                            self.registration.handle_response(self.now, &response);
                        }
                        Answer::Nothing => {
                            self.now += Duration::from_secs(32);
                            self.registration.handle_failure(self.now, Failure::NoAnswer);
                        }
                        Answer::Unreachable => {
                            let why = "203.0.113.1:5060 cannot be reached by TCP: Connection refused".to_owned();
                            self.registration.handle_failure(self.now, Failure::Unreachable(why));
                        }
                    }
                }
                None => match self.registration.poll_timeout() {
                    Some(next) if next <= until => self.now = self.now.max(next),
                    Some(_) | None => {
                        self.now = self.now.max(until);
                        return;
                    }
                },
            }
        }
    }

    fn last(&self) -> &Request {
        &self.sent.last().unwrap().2
    }

    fn times(&self) -> Vec<u64> {
        self.sent.iter().map(|(now, ..)| now.as_secs()).collect()
    }

    fn state(&self) -> State {
        self.registration.state(self.now)
    }
}

fn over_the_wire(request: &Request) -> Request {
    let mut bytes = Vec::new();
    // The transactions write it there.
    let mut request = request.clone();
    request.headers.insert_front(Name::Via, "SIP/2.0/UDP 192.0.2.7:5060;branch=z9hG4bK776asdhds");
    request.write(&mut bytes);
    match sip::parse(&bytes) {
        Ok(Message::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

/// Takes everybody for as long as they ask.
fn takes(request: &Request) -> Answer {
    says(200, &[("Contact", request.headers.get(&Name::Contact).unwrap())])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether it has the password, as RFC 7616 3.4 has it.
fn is_authorized(request: &Request, realm: &str, nonce: &str, password: &str) -> bool {
    let Some(value) = request.headers.get(&Name::Authorization) else { return false };
    let parameter = |name: &str| {
        let found =
            value.trim_start_matches("Digest ").split(", ").find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_default().trim_matches('"').to_owned()
    };
    let hash = |text: String| match parameter("algorithm").as_str() {
        "SHA-256" => hex(&Sha256::digest(text.as_bytes())),
        _ => hex(&Md5::digest(text.as_bytes())),
    };
    assert!(!value.contains(password));
    let (count, cnonce) = (parameter("nc"), parameter("cnonce"));
    let one = hash(format!("auth200:{realm}:{password}"));
    let two = hash(format!("REGISTER:{}", request.uri));
    let response = match parameter("qop").as_str() {
        "" => hash(format!("{one}:{nonce}:{two}")),
        qop => hash(format!("{one}:{nonce}:{count}:{cnonce}:{qop}:{two}")),
    };
    parameter("username") == "auth200" && parameter("nonce") == nonce && parameter("response") == response
}

#[test]
fn a_register_is_as_rfc_3261_10_2_has_it() {
    let mut extension = Extension::new(&register("sip:pbx.example:5070", None));
    extension.run(at(0), |_, request| takes(request));
    let sent = extension.last();
    assert_eq!(sent.uri.to_string(), "sip:pbx.example:5070");
    assert_eq!(sent.to().unwrap().to_string(), "<sip:200@pbx.example>");
    assert_eq!(sent.from().unwrap().uri.to_string(), "sip:200@pbx.example");
    assert!(sent.from().unwrap().tag().is_some() && sent.to().unwrap().tag().is_none());
    assert_eq!(sent.headers.get(&Name::Contact), Some("<sip:200@192.0.2.7:5060>;expires=3600"));
    assert_eq!((sent.expires(), sent.max_forwards()), (Some(3600), Some(70)));
    assert_eq!(sent.headers.get(&Name::Authorization), None);
    assert!(extension.state().is_registered());
    assert_eq!(extension.state().to_string(), "registered at sip:pbx.example:5070");
}

#[test]
fn a_contact_names_the_transport_by_which_the_pbx_has_to_come() {
    let contact = |registrar: &str| {
        let mut extension = Extension::new(&register(registrar, None));
        extension.run(at(0), |_, request| takes(request));
        extension.last().headers.get(&Name::Contact).unwrap().replace(";expires=3600", "")
    };
    assert_eq!(contact("sip:pbx.example;transport=tcp"), "<sip:200@192.0.2.7:5060;transport=tcp>");
    assert_eq!(contact("sip:pbx.example;transport=tls"), "<sip:200@192.0.2.7:5060;transport=tls>");
    assert_eq!(contact("sips:pbx.example"), "<sips:200@192.0.2.7:5060>");
}

#[test]
fn a_binding_keeps_its_call_id_and_tag_counts_and_is_refreshed_between_eight_and_nine_tenths() {
    let mut extension = Extension::new(&register("sip:pbx.example", None));
    extension.run(at(5000), |_, request| {
        let contact = request.contact().unwrap().uri;
        says(
            200,
            &[
                ("Contact", &format!("<sip:200@198.51.100.4:5060>;expires=77, <{contact}>;expires=300")),
                ("Expires", "60"),
            ],
        )
    });
    let gaps: Vec<u64> = extension.times().windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.len() > 15 && gaps.iter().all(|gap| (240..=270).contains(gap)), "{gaps:?}");
    assert!(gaps.iter().any(|gap| *gap != gaps[0]), "not all lines of a site come at once");
    let first = &extension.sent[0].2;
    for (number, (_, _, request)) in extension.sent.iter().enumerate() {
        assert_eq!(request.call_id(), first.call_id());
        assert_eq!(request.from().unwrap().tag(), first.from().unwrap().tag());
        assert_eq!(request.cseq().unwrap().number as usize, first.cseq().unwrap().number as usize + number);
    }
    let registered = News::Registered { registrar: "sip:pbx.example".to_owned(), refresh_in: Duration::ZERO };
    assert_eq!(extension.news.len(), 1, "a refresh is no news: {:?}, {registered:?}", extension.news);
}

#[test]
fn how_long_it_was_granted_is_read_where_registrars_write_it() {
    let refreshed_after = |headers: &[(&'static str, &str)]| {
        let mut extension = Extension::new(&register("sip:pbx.example", None));
        extension.run(at(4000), |_, _| says(200, headers));
        extension.times()[1]
    };
    assert!((80..=90).contains(&refreshed_after(&[("Contact", "<sip:200@192.0.2.7:5060>;expires=100")])));
    assert!((80..=90).contains(&refreshed_after(&[("Expires", "100")])));
    let rewritten = [("Contact", "<sip:200@203.0.113.9:41234;ob>;expires=100"), ("Expires", "3600")];
    assert!((80..=90).contains(&refreshed_after(&rewritten)), "behind NAT, as the registrar saw us");
    assert!((2880..=3240).contains(&refreshed_after(&[])), "as we asked");
    assert!((2880..=3240).contains(&refreshed_after(&[("Expires", "4000000000")])), "and no longer");
}

#[test]
fn a_registrar_that_asks_sha_256_first_gets_it_and_the_refresh_needs_no_question() {
    let mut extension = Extension::new(&register("sip:pbx.example", None));
    let nonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v";
    extension.run(at(3300), |_, request| {
        if is_authorized(request, "asterisk", nonce, PASSWORD) {
            assert!(request.headers.get(&Name::Authorization).unwrap().contains("algorithm=SHA-256"));
            return takes(request);
        }
        let sha = format!("Digest realm=\"asterisk\", nonce=\"{nonce}\", algorithm=SHA-256, qop=\"auth\"");
        let md5 = format!("Digest realm=\"asterisk\", nonce=\"{nonce}\", algorithm=MD5, qop=\"auth\"");
        says(401, &[("WWW-Authenticate", &sha), ("WWW-Authenticate", &md5)])
    });
    assert!(extension.state().is_registered());
    assert_eq!(extension.sent.len(), 3, "asked, answered, refreshed: {:?}", extension.times());
    let counts: Vec<bool> = ["nc=00000001", "nc=00000002"]
        .iter()
        .zip(&extension.sent[1..])
        .map(|(count, (_, _, request))| request.headers.get(&Name::Authorization).unwrap().contains(count))
        .collect();
    assert_eq!(counts, [true, true]);
}

#[test]
fn a_registrar_that_lists_auth_and_auth_int_gets_auth() {
    let mut extension = Extension::new(&register("sip:pbx.example", None));
    extension.run(at(0), |_, request| {
        if is_authorized(request, "sip", "5f3c", PASSWORD) {
            assert!(request.headers.get(&Name::Authorization).unwrap().contains("qop=auth,"));
            return takes(request);
        }
        says(401, &[("WWW-Authenticate", "Digest realm=\"sip\", nonce=\"5f3c\", qop=\"auth,auth-int\"")])
    });
    assert!(extension.state().is_registered());
}

#[test]
fn a_stale_nonce_is_answered_with_the_new_one_and_no_password_is_called_wrong() {
    let mut extension = Extension::new(&register("sip:pbx.example", None));
    let mut nonce = 0;
    extension.run(at(20_000), |_, request| {
        if is_authorized(request, "sip", &format!("n{nonce}"), PASSWORD) {
            nonce += 1; // each serves once
            return takes(request);
        }
        let stale = if request.headers.get(&Name::Authorization).is_some() { ", stale=TRUE" } else { "" };
        says(401, &[("WWW-Authenticate", &format!("Digest realm=\"sip\", nonce=\"n{nonce}\", qop=\"auth\"{stale}"))])
    });
    assert!(extension.state().is_registered());
    assert!(nonce > 5 && extension.sent.len() == 2 * nonce);
    assert_eq!(extension.news.len(), 1);
}

#[test]
fn a_registrar_that_calls_every_nonce_stale_is_not_asked_in_a_loop() {
    let mut extension = Extension::new(&register("sip:pbx.example", None));
    extension.run(at(60), |_, _| {
        says(401, &[("WWW-Authenticate", "Digest realm=\"sip\", nonce=\"n\", qop=\"auth\", stale=true")])
    });
    assert!(extension.sent.len() <= 16, "{:?}", extension.times());
    assert_eq!(
        extension.state().to_string(),
        "not registered at sip:pbx.example: it calls each of its own nonces stale"
    );
}

#[test]
fn a_wrong_password_is_said_once_in_clear_words_and_tried_ever_more_seldom() {
    let mut extension = Extension::new(&register("sip:pbx.example", None));
    let mut number = 0;
    extension.run(at(4 * 3600), |_, _| {
        number += 1;
        says(401, &[("WWW-Authenticate", &format!("Digest realm=\"sip\", nonce=\"n{number}\", qop=\"auth\""))])
    });
    let wrong_answers = extension.sent.iter().filter(|(_, _, sent)| sent.headers.get(&Name::Authorization).is_some());
    let times: Vec<u64> = wrong_answers.map(|(now, ..)| now.as_secs()).collect();
    assert!((8..=16).contains(&times.len()), "{times:?}");
    assert!(times[1] - times[0] >= 45, "fail2ban of a PBX counts 5 in 10 minutes: {times:?}");
    assert!(times.iter().filter(|at| **at < 600).count() < 5, "{times:?}");
    assert_eq!(extension.state().name(), "refused");
    let [(_, News::Failed { why, .. })] = extension.news.as_slice() else { panic!("{:?}", extension.news) };
    assert_eq!(*why, Failure::WrongPassword);
    assert!(!format!("{:?} {why}", extension.registration).contains(PASSWORD));
}

#[test]
fn a_password_that_is_asked_for_and_not_there_is_named() {
    let mut extension = Extension::new(&Register { password: None, ..register("sip:pbx.example", None) });
    extension.run(at(0), |_, _| says(401, &[("WWW-Authenticate", "Digest realm=\"sip\", nonce=\"n\"")]));
    assert_eq!(
        extension.state().to_string(),
        "not registered at sip:pbx.example: it asks for a password; set `password`"
    );
}

#[test]
fn a_proxy_on_the_way_and_the_registrar_behind_it_both_get_their_answer() {
    let mut extension = Extension::new(&register("sip:pbx.example", None));
    extension.run(at(0), |_, request| {
        if request.headers.get(&Name::ProxyAuthorization).is_none() {
            return says(407, &[("Proxy-Authenticate", "Digest realm=\"edge\", nonce=\"p\"")]);
        }
        if !is_authorized(request, "sip", "s", PASSWORD) {
            return says(401, &[("WWW-Authenticate", "Digest realm=\"sip\", nonce=\"s\"")]);
        }
        takes(request)
    });
    assert!(extension.state().is_registered());
    assert_eq!(extension.sent.len(), 3);
}

#[test]
fn an_interval_that_is_too_brief_is_made_as_long_as_the_registrar_wants_it() {
    let mut extension =
        Extension::new(&Register { expires: Duration::from_secs(60), ..register("sip:pbx.example", None) });
    extension.run(at(1800), |_, request| {
        if request.expires().unwrap() < 900 { says(423, &[("Min-Expires", "900")]) } else { takes(request) }
    });
    assert!(extension.state().is_registered());
    let asked: Vec<_> = extension.sent.iter().map(|(_, _, request)| request.expires().unwrap()).collect();
    assert_eq!(asked, [60, 900, 900, 900], "it is not asked for 60 again");

    let mut extension = Extension::new(&register("sip:pbx.example", None));
    extension.run(at(600), |_, _| says(423, &[("Min-Expires", "4294967295")]));
    assert!(extension.sent.len() < 6 && extension.state().name() == "refused", "{:?}", extension.times());
}

#[test]
fn an_extension_that_may_not_register_is_tried_after_a_minute_and_then_ever_more_seldom() {
    for (status, words) in [(403, "may this extension register from here?"), (404, "is there such an extension")] {
        let mut extension = Extension::new(&register("sip:pbx.example", None));
        extension.run(at(6 * 3600), |_, _| says(status, &[]));
        let gaps: Vec<u64> = extension.times().windows(2).map(|pair| pair[1] - pair[0]).collect();
        for (gap, whole) in gaps.iter().zip([60, 120, 240, 480, 960, 1800, 1800]) {
            assert!((whole * 3 / 4..=whole * 5 / 4).contains(gap), "{gaps:?}");
        }
        assert!(extension.state().to_string().contains(words), "{}", extension.state());
        assert_eq!(extension.news.len(), 1);
    }
}

#[test]
fn a_registrar_that_is_busy_is_left_alone_for_as_long_as_it_says() {
    let mut extension = Extension::new(&register("sip:pbx.example", None));
    extension.run(at(1000), |_, _| says(503, &[("Retry-After", "120;duration=3600")]));
    let gaps: Vec<u64> = extension.times().windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.len() > 5 && gaps.iter().all(|gap| (120..=150).contains(gap)), "{gaps:?}");
    assert_eq!(extension.state().to_string(), "not registered at sip:pbx.example: it answered 503 Service Unavailable");

    let mut extension = Extension::new(&register("sip:pbx.example", None));
    extension.run(at(7200), |_, _| says(503, &[("Retry-After", "999999")]));
    assert!(extension.sent.len() > 2, "and not for ever");
}

#[test]
fn what_passes_is_tried_after_a_second_and_twice_as_late_each_time_up_to_five_minutes() {
    let failures: [fn() -> Answer; 2] = [|| says(500, &[]), || Answer::Unreachable];
    for failure in failures {
        let mut extension = Extension::new(&register("sip:pbx.example", None));
        extension.run(at(3600), |_, _| failure());
        let gaps: Vec<f64> = extension.sent.windows(2).map(|pair| (pair[1].0 - pair[0].0).as_secs_f64()).collect();
        let wholes = [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300].map(f64::from);
        assert!(gaps.len() >= wholes.len());
        for (gap, whole) in gaps.iter().zip(wholes) {
            assert!((whole * 0.75..=whole * 1.25).contains(gap), "{gaps:?}");
        }
        assert_eq!(extension.news.len(), 1, "told once");
        extension.run(at(4200), |_, request| takes(request));
        assert!(extension.state().is_registered());
        extension.run(at(8000), |_, _| failure());
        assert!(
            matches!(extension.news[2].1, News::Failed { retry_in, .. } if retry_in < Duration::from_secs(2)),
            "anew"
        );
    }
}

#[test]
fn silence_is_told_and_the_extension_stays_known_until_its_time_is_over() {
    let mut extension = Extension::new(&register("sip:pbx.example", None));
    extension.run(at(100), |_, request| takes(request));
    extension.run(at(3300), |_, _| Answer::Nothing);
    assert_eq!(extension.state().to_string(), "registered at sip:pbx.example, but in trouble: it did not answer");
    extension.run(at(3700), |_, _| Answer::Nothing);
    assert_eq!(extension.state().to_string(), "not registered at sip:pbx.example: it did not answer");
    assert_eq!(extension.state().name(), "failing");
}

#[test]
fn the_backup_takes_over_at_once_and_is_told_when_the_first_is_back() {
    let mut extension = Extension::new(&register("sip:one.example", Some("sip:two.example")));
    extension.run(at(600), |host, request| if host == "one.example" { says(503, &[]) } else { takes(request) });
    assert_eq!(extension.sent[1].1, "two.example");
    assert_eq!(extension.sent[1].0, at(0), "nobody waits for the first to get well");
    assert_eq!(
        extension.state().to_string(),
        "registered at sip:two.example, but in trouble: it answered 503 Service Unavailable"
    );
    assert_ne!(extension.sent[0].2.call_id(), extension.sent[1].2.call_id(), "each has its own binding");
    let before = extension.sent.len();
    extension.run(at(1200), |_, request| takes(request));
    let after: Vec<_> =
        extension.sent[before..].iter().map(|(_, host, request)| (host.as_str(), request.expires().unwrap())).collect();
    assert_eq!(after, [("one.example", 3600), ("two.example", 0)]);
    assert_eq!(extension.state().to_string(), "registered at sip:one.example");
    extension
        .run(at(10_000), |host, request| if host == "one.example" { takes(request) } else { panic!("it is idle") });
}

#[test]
fn the_silence_of_the_first_does_not_let_the_entry_at_the_backup_run_out() {
    let mut extension = Extension::new(&register("sip:one.example", Some("sip:two.example")));
    let mut known_until = None;
    let mut now = at(0);
    while now < at(7200) {
        now += Duration::from_secs(1);
        extension
            .run(now, |host, _| if host == "one.example" { Answer::Nothing } else { says(200, &[("Expires", "60")]) });
        now = extension.now;
        let taken = extension.sent.iter().rev().find(|(_, host, _)| host == "two.example").unwrap().0;
        assert!(known_until.is_none_or(|until| taken <= until), "it ran out at {known_until:?}");
        known_until = Some(taken + Duration::from_secs(60));
    }
    assert!(extension.state().is_registered());
}

#[test]
fn two_registrars_that_refuse_are_each_told_once() {
    let mut extension = Extension::new(&register("sip:one.example", Some("sip:two.example")));
    extension.run(at(3600), |host, _| says(if host == "one.example" { 403 } else { 500 }, &[]));
    assert_eq!(extension.news.len(), 2, "{:?}", extension.news);
    assert!(extension.state().to_string().starts_with("not registered at sip:one.example: it answered 403"));
}

#[test]
fn a_drain_unregisters_with_the_digest_that_is_known() {
    let mut extension = Extension::new(&register("sip:pbx.example", None));
    let registrar = |_: &str, request: &Request| {
        if is_authorized(request, "sip", "n", PASSWORD) {
            return says(200, &[]);
        }
        says(401, &[("WWW-Authenticate", "Digest realm=\"sip\", nonce=\"n\", qop=\"auth\"")])
    };
    extension.run(at(10), registrar);
    extension.registration.unregister(at(10), Duration::from_secs(2));
    assert!(!extension.registration.is_over());
    extension.run(at(11), registrar);
    assert!(extension.registration.is_over() && extension.state() == State::Unregistered);
    assert_eq!((extension.sent.len(), extension.last().expires()), (3, Some(0)));
    assert_eq!(extension.last().headers.get(&Name::Contact), Some("<sip:200@192.0.2.7:5060>;expires=0"));
    assert_eq!(extension.registration.poll_timeout(), None);
    assert!(matches!(extension.news.last(), Some((_, News::Unregistered { .. }))));
}

#[test]
fn a_drain_does_not_wait_for_a_registrar_that_says_nothing() {
    let mut extension = Extension::new(&register("sip:pbx.example", None));
    extension.run(at(10), |_, request| takes(request));
    let registration = &mut extension.registration;
    registration.unregister(at(10), Duration::from_secs(2));
    assert!(matches!(registration.poll_step(at(10)), Some(Step::Reach(_))));
    registration.handle_reached(extension.contact.clone());
    assert!(matches!(registration.poll_step(at(10)), Some(Step::Send(_))));
    assert_eq!(registration.poll_timeout(), Some(at(12)));
    assert_eq!(registration.poll_step(at(12)), None);
    assert!(registration.is_over());
}

#[test]
fn a_drain_of_an_extension_that_nobody_knows_says_nothing() {
    let mut extension = Extension::new(&register("sip:pbx.example", None));
    extension.run(at(100), |_, _| says(403, &[]));
    let before = extension.sent.len();
    extension.registration.unregister(at(100), Duration::from_secs(2));
    assert!(extension.registration.is_over());
    extension.run(at(5000), |_, _| panic!("it is over"));
    assert_eq!(extension.sent.len(), before);
}

#[test]
fn another_address_of_ours_is_told_soon_and_the_former_one_taken_back() {
    let mut extension = Extension::new(&register("sip:pbx.example", None));
    extension.run(at(100), |_, request| takes(request));
    extension.contact.host = "192.0.2.99".to_owned();
    extension.registration.renew(at(100));
    extension.run(at(101), |_, request| takes(request));
    let told = extension.last().headers.get(&Name::Contact);
    assert_eq!(told, Some("<sip:200@192.0.2.99:5060>;expires=3600, <sip:200@192.0.2.7:5060>;expires=0"));
    extension.run(at(3600), |_, request| takes(request));
    assert_eq!(extension.last().headers.get(&Name::Contact), Some("<sip:200@192.0.2.99:5060>;expires=3600"));
    assert_eq!(extension.news.len(), 1);
}

#[test]
fn a_registrar_that_closes_each_connection_after_its_answer_is_not_asked_in_a_loop() {
    let mut extension = Extension::new(&register("sip:pbx.example;transport=tcp", None));
    let mut now = at(0);
    while now < at(100) {
        extension.run(now, |_, request| takes(request));
        extension.registration.renew(now);
        now += Duration::from_secs(1);
    }
    assert!((9..=11).contains(&extension.sent.len()), "{:?}", extension.times());
}

#[test]
fn what_changes_while_a_request_is_under_way_is_told_after_it() {
    let mut extension = Extension::new(&register("sip:pbx.example", None));
    let registration = &mut extension.registration;
    assert!(matches!(registration.poll_step(at(0)), Some(Step::Reach(_))));
    registration.handle_reached(extension.contact.clone());
    let Some(Step::Send(request)) = registration.poll_step(at(0)) else { panic!() };
    registration.renew(at(0));
    assert_eq!(registration.poll_step(at(0)), None, "one at a time");
    let mut response = over_the_wire(&request).answer(100);
    registration.handle_response(at(1), &response);
    response.status = 200;
    registration.handle_response(at(1), &response);
    assert_eq!(registration.poll_timeout(), Some(at(11)));
}

#[test]
fn an_answer_to_an_older_request_changes_nothing() {
    let mut extension = Extension::new(&register("sip:pbx.example", None));
    let registration = &mut extension.registration;
    registration.poll_step(at(0));
    registration.handle_reached(extension.contact.clone());
    let Some(Step::Send(request)) = registration.poll_step(at(0)) else { panic!() };
    let mut older = over_the_wire(&request).answer(200);
    older.headers.set(Name::CSeq, "1 REGISTER");
    registration.handle_response(at(1), &older);
    assert_eq!(registration.state(at(1)), State::Trying);
    let contact: NameAddr = request.contact().unwrap();
    assert_eq!(contact.uri.host, "192.0.2.7");
}
