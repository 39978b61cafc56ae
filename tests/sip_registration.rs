//! Our extension at a registrar that is not ours, `peers/registrar.py`, whose digest is Python's hashlib.

#![allow(clippy::unwrap_used)]

mod sip;
mod site;

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use sip::{
    extension::{Extension, PASSWORD, line, line_with, registrar},
    is_installed,
};
use site::{Daemon, SOON, field, free_ports, http_get, number, wait_for};

/// Whether `/health` finds nothing wrong.
fn is_healthy(daemon: &Daemon) -> bool {
    http_get(daemon.http(), "/health").contains("\"status\":\"ok\"")
}

/// Waits until `/health` says what is wrong with the line, and has these words in it.
#[track_caller]
fn is_told(daemon: &Daemon, words: &str) {
    let health = || http_get(daemon.http(), "/health");
    wait_for(words, || health().contains(words));
    let health = health();
    assert!(health.contains("\"status\":\"failing\"") && health.contains("[line.pbx] "), "{health}");
}

#[test]
fn of_two_challenges_the_better_is_answered() {
    let Some(extension) = Extension::start(&["--algorithms", "SHA-256,MD5"]) else { return };
    let requests = extension.until("200");
    let [first, second] = &requests[..] else { panic!("{requests:#?}") };
    assert_eq!((field(first, "status"), field(first, "auth")), ("401", "none"));
    assert_eq!(
        (field(second, "algorithm"), field(second, "qop"), field(second, "nc")),
        ("SHA-256", "auth", "00000001")
    );
    // RFC 3261 10.2: one call, one count, and nobody's user part in the Request-URI.
    assert_eq!(field(first, "call_id"), field(second, "call_id"));
    assert_eq!(number(first, "cseq") + 1, number(second, "cseq"));
    assert!(!field(first, "uri").contains('@'), "{first}");
    assert!(field(first, "to").contains("sip:201@"), "{first}");
    wait_for("it is healthy", || is_healthy(&extension.daemon));
}

#[test]
fn every_digest_that_a_pbx_may_ask_for_is_answered() {
    for (algorithms, qop, chosen) in [
        ("MD5,SHA-256", "auth", "SHA-256"),
        ("MD5", "", "MD5"),
        ("MD5", "auth", "MD5"),
        ("SHA-256", "auth,auth-int", "SHA-256"),
        ("MD5", "auth-int,auth", "MD5"),
        ("SHA-512-256,MD5", "auth", "SHA-512-256"),
    ] {
        let Some(extension) = Extension::start(&["--algorithms", algorithms, "--qop", qop]) else { return };
        let requests = extension.until("200");
        assert_eq!(requests.len(), 2, "{algorithms} {qop}: {requests:#?}");
        assert_eq!(field(&requests[1], "algorithm"), chosen, "{algorithms} {qop}");
        let wanted = if qop.is_empty() { "-" } else { "auth" };
        assert_eq!(field(&requests[1], "qop"), wanted, "{algorithms} {qop}");
    }
}

#[test]
fn a_stale_nonce_is_no_wrong_password() {
    let Some(extension) = Extension::start(&["--stale"]) else { return };
    let requests = extension.until("200");
    let told: Vec<_> = requests.iter().map(|request| (field(request, "status"), field(request, "auth"))).collect();
    assert_eq!(told, [("401", "none"), ("401", "stale"), ("200", "ok")]);
}

#[test]
fn a_registrar_that_wants_longer_gets_it() {
    let Some(extension) = Extension::start_with(&["--min-expires", "900"], PASSWORD, "expires-seconds = 60") else {
        return;
    };
    let requests = extension.until("200");
    let brief = requests.iter().find(|request| field(request, "status") == "423").expect("a 423");
    assert_eq!(number(brief, "expires"), 60);
    assert_eq!(number(requests.last().unwrap(), "expires"), 900);
}

#[test]
fn what_was_granted_is_refreshed_before_it_ends_in_the_same_call() {
    let Some(extension) = Extension::start(&["--grants", "6"]) else { return };
    let first = extension.until("200");
    let (ok, n) = (first.last().unwrap(), first.len());
    let refresh = extension.request(n);
    let after = Duration::from_nanos(number(&refresh, "at") - number(ok, "at"));
    assert!((2.5..6.0).contains(&after.as_secs_f64()), "{after:?}");
    assert_eq!(field(&refresh, "call_id"), field(ok, "call_id"));
    assert_eq!(field(&refresh, "contact"), field(ok, "contact"));
    assert_eq!(number(&refresh, "cseq"), number(ok, "cseq") + 1);
    // The nonce is used again, one further, or is asked for anew.
    assert!(
        matches!((field(&refresh, "auth"), field(&refresh, "nc")), ("ok", "00000002") | ("none", "-")),
        "{refresh}"
    );
}

#[test]
fn an_extension_that_drains_says_goodbye_to_its_registrar() {
    let Some(extension) = Extension::start(&[]) else { return };
    let n = extension.until("200").len();
    extension.daemon.process.terminate();
    let mut requests = vec![extension.request(n)];
    if field(&requests[0], "status") == "401" {
        requests.push(extension.request(n + 1));
    }
    let last = requests.last().unwrap();
    assert_eq!((number(last, "expires"), field(last, "status")), (0, "200"), "{requests:#?}");
    let (status, said) = extension.daemon.process.wait(SOON);
    assert_eq!(status.code(), Some(0), "{said}");
}

#[test]
fn a_call_comes_over_the_way_of_the_registration() {
    let Some(extension) = Extension::start(&["--calls"]) else { return };
    let called = extension.registrar.line(&["called="]);
    assert!(called.ends_with("200,200"), "{called}");
    let ended = extension.daemon.process.line(&["call ended"]);
    assert_eq!(field(&ended, "end_reason"), "line-hung-up", "{ended}");
}

#[test]
fn a_wrong_password_is_told_in_one_clear_line_and_tried_more_and_more_seldom() {
    let Some(extension) = Extension::start_with(&[], "wrong", "") else { return };
    let told = extension.daemon.process.line(&["registr"]);
    let requests = extension.until("403");
    assert!(requests.len() <= 3, "{requests:#?}");
    extension.daemon.process.line(&["403"]);
    is_told(&extension.daemon, "403");
    // It does not come again at once: a PBX that bans who guesses would ban the whole site.
    let until = Instant::now() + Duration::from_secs(5);
    wait_for("5 s pass", || Instant::now() > until);
    let count = extension.registrar.count(&["request="]);
    assert!(count <= requests.len() + 2, "{count} requests in 5 s: {told}");
    let lines = extension.daemon.process.count(&["403"]);
    assert!(lines <= 2, "{lines} lines");
}

#[test]
fn a_password_that_was_mended_is_tried_when_the_config_is_read_again() {
    let Some(extension) = Extension::start_with(&[], "wrong", "") else { return };
    let refused = extension.until("403").len();
    extension.change_password(PASSWORD);
    let told = extension.daemon.reload(str::to_owned);
    assert!(told.ends_with("line pbx changes"), "{told}");
    let requests = extension.until("200");
    assert!(requests.len() <= refused + 2, "{requests:#?}");
    wait_for("it is healthy", || is_healthy(&extension.daemon));
}

#[test]
fn a_line_that_is_taken_from_the_config_says_goodbye_to_its_registrar_and_hello_when_it_is_back() {
    let Some(extension) = Extension::start(&[]) else { return };
    extension.until("200");
    let mut whole = String::new();
    extension.daemon.reload(|config| {
        config.clone_into(&mut whole);
        let (before, rest) = config.split_once("[line.pbx]").unwrap();
        let after = rest.find("[trunk.agent]").unwrap();
        let port = free_ports(1)[0];
        format!("{before}[line.pbx]\nkind = \"audiosocket\"\nlisten = \"127.0.0.1:{port}\"\n{}", &rest[after..])
    });
    extension.registrar.line(&["method=REGISTER", "expires=0 ", "status=200"]);
    wait_for("it is healthy", || is_healthy(&extension.daemon));
    let before = extension.registrar.count(&["method=REGISTER", "status=200"]);
    let told = extension.daemon.reload(|_| whole);
    assert!(told.contains("line pbx opens, line pbx closes"), "{told}");
    extension.registrar.nth_line(before, &["method=REGISTER", "status=200"]);
    wait_for("it is healthy", || is_healthy(&extension.daemon));
}

#[test]
fn a_registrar_that_nobody_knows_is_told_and_tried_again_without_end() {
    // A port that nobody has, and a name that nobody has (RFC 2606 2). Where datagrams go to nobody, only time tells.
    let nobody = format!("127.0.0.1:{}", free_ports(1)[0]);
    for (host, uri) in [
        (nobody.as_str(), format!("sip:{nobody};transport=tcp")),
        ("registrar.invalid", "sip:registrar.invalid".to_owned()),
    ] {
        let (daemon, _agent, _dir) = line(&uri, PASSWORD, "");
        let told = daemon.process.line(&["WARN", "the line is not registered", host]);
        assert!(number(&told, "retry_seconds") > 0, "{told}");
        is_told(&daemon, host);
        // The same is told once, however often it is tried.
        let lines = daemon.process.count(&["WARN", "the line is not registered"]);
        assert_eq!(lines, 1, "{}", daemon.process.said());
    }
    // Once there is somebody, they are asked.
    let (daemon, _agent, _dir) = line(&format!("sip:{nobody};transport=tcp"), PASSWORD, "");
    daemon.process.line(&["WARN", "the line is not registered"]);
    let somebody = TcpListener::bind(&nobody).unwrap();
    somebody.set_nonblocking(true).unwrap();
    wait_for("it is tried again", || somebody.accept().is_ok());
}

#[test]
fn over_tls_a_registrar_is_known_by_its_certificate_or_not_spoken_to() {
    if !is_installed("python3") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    trunkline::leg::websocket::tls::throwaway_ca(dir.path(), &[]).unwrap();
    let trusts = format!("ca-file = {:?}", dir.path().join("ca.pem"));
    // The certificate is for 127.0.0.1.
    for (address, keys, is_known) in
        [("127.0.0.1", &*trusts, true), ("127.0.0.2", &trusts, false), ("127.0.0.1", "", false)]
    {
        let registrar = registrar(&["--address", address, "--tls", dir.path().to_str().unwrap()]);
        let port = number(&registrar.line(&["listening="]), "listening");
        let uri = format!("sip:{address}:{port};transport=tls");
        let (daemon, _agent, _dir) = line_with(&uri, PASSWORD, "", keys);
        if is_known {
            registrar.line(&["method=REGISTER", "status=200"]);
            wait_for("it is healthy", || is_healthy(&daemon));
        } else {
            let told = daemon.process.line(&["WARN", "the line is not registered", "certificate"]);
            assert!(told.contains(address), "{told}");
            registrar.line(&["handshake="]);
            assert_eq!(registrar.count(&["method="]), 0, "nothing was said to it");
            is_told(&daemon, "certificate");
        }
    }
}
