//! Who is let in at a websocket line: whatever the head of a request says, nobody is without what the path wants, and
//! neither log nor client learns a secret or is told anything that a terminal obeys.
#![no_main]

use core::net::IpAddr;
use std::sync::LazyLock;

use base64_simd::STANDARD;
use libfuzzer_sys::fuzz_target;
use trunkline::{
    config::{Access, Cidr, Jwt, Listen, Secret, Url, WebsocketPath},
    dialect::{Direction, NAMES, Options, Parameters, rates},
    leg::websocket::{
        admission::{Decision, decide, source_of},
        jwt::{Algorithm, Verifier},
        sources::Sources,
        upgrade::parse_asked,
    },
    media::Now,
};
use trunkline_fuzz::Steer;

fuzz_target!(|data: &[u8]| {
    let Some((mut steer, head)) = Steer::split(data) else { return };
    let Ok(asked) = parse_asked(head) else { return };
    let listen = &*LISTEN;
    let peer: IpAddr = if steer.one_of(&[false, true]) { [10, 0, 0, 1].into() } else { [203, 0, 113, 9].into() };
    let source = source_of(peer, &asked.request, &listen.trusted_proxies);
    let is_proxy = listen.trusted_proxies[0].contains(peer);
    assert!(is_proxy || source == peer, "a stranger is believed");
    assert_eq!(source, source.to_canonical());

    let decided = || decide(listen, &Sources::new(30), &asked, source, Now::ZERO, NOW_S);
    let decision = decided();
    assert_eq!(decision, decided());
    match decision {
        Decision::Upgrade(admitted) => {
            assert_eq!((asked.upgrade, asked.method.as_str()), (Ok(()), "GET"));
            let path = &listen.paths[admitted.path];
            assert_eq!(path.path, asked.request.path);
            let may = match path.path.as_str() {
                "/open" => true,
                "/ws" => path.access.allow[0].contains(source),
                "/basic" => asked.request.headers.iter().any(|(_, value)| has_password(value)),
                // Nobody signs by this key.
                _ => false,
            };
            assert!(may, "{} is let in at {}", source, path.path);
            assert_eq!(admitted.claims, None);
            assert!(NAMES.contains(&admitted.tie_break));
            let spoken = path.dialect.map_or(&trunkline::media::Rate::ALL[..], rates);
            assert!(admitted.rate.is_none_or(|rate| spoken.contains(&rate)));
            let custom: Vec<_> = admitted.custom.iter().flat_map(|(name, value)| [name, value]).collect();
            assert!(custom.len() <= 2 * Parameters::MAX && custom.concat().len() <= Parameters::MAX_BYTES);
            assert!(!custom.concat().contains(char::is_control));
        }
        Decision::Refuse(refusal) => {
            assert!((400..600).contains(&refusal.status) && !refusal.said.is_empty());
            assert!(!refusal.reason.contains(char::is_control), "{:?}", refusal.reason);
            assert!(!refusal.reason.contains(PASSWORD) && !refusal.reason.contains(KEY), "{:?}", refusal.reason);
        }
        Decision::Health => assert_eq!(asked.request.path, "/health"),
        Decision::Endpoint => assert_eq!(asked.request.path, "/api/ingest/exotel-endpoint"),
    }
});

fn has_password(header: &str) -> bool {
    let credential = header.trim().split_once(' ').map(|(_, credential)| credential.trim()).unwrap_or_default();
    STANDARD.decode_to_vec(credential).is_ok_and(|pair| pair == PASSWORD.as_bytes())
}

static LISTEN: LazyLock<Listen> = LazyLock::new(|| {
    let ranges = |range| vec![Cidr::parse(range).unwrap_or_else(|error| panic!("{error}"))];
    let verifier = Verifier::new(Algorithm::Hs256, &Secret::new(KEY));
    let verifier = verifier.unwrap_or_else(|error| panic!("{error}"));
    let path = |path: &str, dialect, access| WebsocketPath {
        path: path.to_owned(),
        dialect,
        sample_rate: None,
        direction: Direction::Both,
        options: Options::default(),
        access,
    };
    let basic = Some(Secret::new(PASSWORD));
    let jwt = |claims_required| Some(Jwt { verifier: verifier.clone(), claims_required });
    Listen {
        address: ([192, 0, 2, 1], 8443).into(),
        tls: None,
        trusted_proxies: ranges("10.0.0.0/8"),
        max_per_source: 30,
        endpoint: Url::parse("wss://voice.example.com/v1/ingest").ok(),
        paths: vec![
            path("/open", None, Access::default()),
            path("/ws", Some("ozonetel"), Access { allow: ranges("198.51.100.0/24"), ..Access::default() }),
            path("/basic", None, Access { basic, ..Access::default() }),
            path("/jwt", None, Access { jwt: jwt(false), ..Access::default() }),
            path("/strict", Some("rtaa"), Access { jwt: jwt(true), ..Access::default() }),
        ],
    }
});

const NOW_S: u64 = 1_795_000_000;
const PASSWORD: &str = "exotel:s3cret";
const KEY: &str = "thirty-two bytes of shared secret";
