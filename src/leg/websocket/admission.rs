//! Who is let in at a `websocket` line, and as what: decided from the head of a request, before the upgrade.
//!
//! ```text
//!   /health, the dynamic endpoint      anyone
//!   a path of the line                 whoever meets one of its allow, basic, bearer and jwt
//!   any other path                     nobody
//! ```
//!
//! What the client is told says little; the reason is for the log, and holds no credential.

use core::net::IpAddr;

use subtle::ConstantTimeEq;

use crate::{
    config::{Access, Cidr, ENDPOINT_PATH, Listen, WebsocketPath, decoded},
    dialect::{self, Parameters},
    leg::websocket::{
        jwt::Claims,
        sources::{Sources, Standing},
        upgrade::{Asked, Request},
    },
    media::{Now, Rate},
};

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It becomes a call.
    Upgrade(Box<Admitted>),
    /// It does not.
    Refuse(Refusal),
    /// How the service is.
    Health,
    /// Where to connect to.
    Endpoint,
}

/// A request that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its status.
    pub status: u16,
    /// What the client is told.
    pub said: &'static str,
    /// What the log is told.
    pub reason: String,
}

/// A request that becomes a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Where it came in, by its place in the config.
    pub path: usize,
    /// The rate that its query names.
    pub rate: Option<Rate>,
    /// What else its query says.
    pub custom: Parameters,
    /// What its token says, where a good one came.
    pub claims: Option<Claims>,
    /// The dialect where the first messages leave it open: the services that one replaces had nothing else to go by.
    pub tie_break: &'static str,
    /// Which of the offered subprotocols is spoken.
    pub subprotocol: Option<String>,
    /// The dialect that it stands for, on a path where the vendor tells.
    pub dialect: Option<&'static str>,
}

/// Whose request it is: the peer or, where that is a proxy that is trusted, the last address in `X-Forwarded-For` that
/// is none.
#[must_use]
pub fn source_of(peer: IpAddr, request: &Request, trusted: &[Cidr]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|range| range.contains(address));
    if !is_trusted(peer) {
        return peer;
    }
    // Each proxy adds whom it saw at the end, so that what stands before may be made up by the client.
    let named = request.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-forwarded-for"));
    let mut source = peer;
    for (_, list) in named.collect::<Vec<_>>().into_iter().rev() {
        for address in list.rsplit(',') {
            let Some(address) = forwarded(address.trim()) else { return source };
            source = address;
            if !is_trusted(address) {
                return source;
            }
        }
    }
    source
}

/// An address, which some proxies write with a port.
fn forwarded(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse().ok().map(|address: core::net::SocketAddr| address.ip());
    bare.parse().ok().or_else(with_port).map(|address: IpAddr| address.to_canonical())
}

/// What becomes of this request of this source. `now_s` is in seconds since 1970, for tokens.
#[must_use]
pub fn decide(listen: &Listen, sources: &Sources, asked: &Asked, source: IpAddr, now: Now, now_s: u64) -> Decision {
    let Asked { method, request, upgrade } = asked;
    if request.path == "/health" {
        return if matches!(method.as_str(), "GET" | "HEAD") { Decision::Health } else { wrong_method() };
    }
    if sources.standing(source, now) != Standing::Good {
        let reason = "this source was refused too often; it may come again in a few minutes".to_owned();
        return Decision::Refuse(Refusal { status: 429, said: "too many requests", reason });
    }
    if listen.endpoint.is_some() && request.path == ENDPOINT_PATH {
        return if matches!(method.as_str(), "GET" | "POST") { Decision::Endpoint } else { wrong_method() };
    }
    let Some(index) = listen.paths.iter().position(|path| path.path == request.path) else {
        return refuse(404, "no such path", NO_PATH.to_owned());
    };
    if let Err((status, words)) = *upgrade {
        return refuse(status, words, words.to_owned());
    }
    let path = &listen.paths[index];
    let claims = match admit(&path.access, request, source, now_s) {
        Ok(claims) => claims,
        Err(reason) => {
            // RFC 9110 15.5.4: a credential would not help where none is asked for.
            let by_address = path.access.basic.is_none() && path.access.bearer.is_none() && path.access.jwt.is_none();
            let (status, said) = if by_address { (403, "not from this address") } else { (401, "not authorized") };
            return refuse(status, said, reason);
        }
    };
    let (rate, custom) = match query(request.query.as_deref().unwrap_or_default(), path.dialect) {
        Ok(query) => query,
        Err(words) => return refuse(400, words, words.to_owned()),
    };
    let is_bearer = authorization(request).is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let tie_break = if is_bearer { "rtaa" } else { "exotel" };
    let Some((subprotocol, dialect)) = chosen(path, &request.subprotocols) else {
        let offered: String = request.subprotocols.join(", ").chars().filter(|c| !c.is_control()).take(100).collect();
        let own = path.dialect.and_then(|name| dialect::subprotocol(name, &path.options)).unwrap_or_default();
        let reason = format!("it offers the subprotocol {offered}, and this path's dialect has {own}");
        return refuse(400, "another subprotocol is spoken here", reason);
    };
    Decision::Upgrade(Box::new(Admitted { path: index, rate, custom, claims, tie_break, subprotocol, dialect }))
}

/// Which of the offered subprotocols is spoken at a path, and the dialect that it stands for where the path leaves it
/// open. `None`: it is another than the path's dialect has.
fn chosen(path: &WebsocketPath, offered: &[String]) -> Option<(Option<String>, Option<&'static str>)> {
    let is_offered = |name: &str| offered.iter().any(|theirs| theirs == name);
    let of = |name: &'static str| dialect::subprotocol(name, &path.options).filter(|own| is_offered(own));
    if let Some(own) = path.dialect.and_then(|name| dialect::subprotocol(name, &path.options)) {
        // Who offers none, as tools do, cares for none.
        let is_content = offered.is_empty() || is_offered(own);
        return is_content.then(|| (Some(own.to_owned()).filter(|_| !offered.is_empty()), None));
    }
    if path.dialect.is_none()
        && let Some((name, own)) = dialect::NAMES.iter().find_map(|name| of(name).map(|own| (*name, own)))
    {
        return Some((Some(own.to_owned()), Some(name)));
    }
    let ours = SUBPROTOCOLS.iter().find(|ours| is_offered(ours));
    Some((ours.map(|ours| (*ours).to_owned()), None))
}

fn refuse(status: u16, said: &'static str, reason: String) -> Decision {
    Decision::Refuse(Refusal { status, said, reason })
}

fn wrong_method() -> Decision {
    refuse(405, "not by this method", "not by this method".to_owned())
}

/// Whether one of the ways in is met; gives what the token says, if a good one came. The reason names each way that was
/// tried.
fn admit(access: &Access, request: &Request, source: IpAddr, now_s: u64) -> Result<Option<Claims>, String> {
    let mut reasons = Vec::new();
    let (scheme, credential) = authorization(request).unwrap_or_default();
    let mut is_in = access.is_open();
    if !access.allow.is_empty() {
        let is_allowed = access.allow.iter().any(|range| range.contains(source));
        is_in |= is_allowed;
        if !is_allowed {
            reasons.push("its address is not in `allow`".to_owned());
        }
    }
    if let Some(pair) = &access.basic {
        if !scheme.eq_ignore_ascii_case("basic") {
            reasons.push("it has no Authorization: Basic".to_owned());
        } else if is_pair(credential, pair.reveal()) {
            is_in = true;
        } else {
            reasons.push("its user or password is wrong".to_owned());
        }
    }
    let is_bearer = scheme.eq_ignore_ascii_case("bearer");
    if !is_bearer && (access.bearer.is_some() || access.jwt.is_some()) {
        reasons.push("it has no Authorization: Bearer".to_owned());
    }
    if let Some(token) = access.bearer.as_ref().filter(|_| is_bearer) {
        if credential.as_bytes().ct_eq(token.reveal().as_bytes()).into() {
            // It is no JWT, and need not be one.
            return Ok(None);
        }
        reasons.push("its token is not `bearer`".to_owned());
    }
    let mut told = None;
    if let Some(jwt) = access.jwt.as_ref().filter(|_| is_bearer) {
        match jwt.verifier.verify(credential, now_s) {
            Ok(claims) if jwt.claims_required && (claims.tenant_id.is_empty() || claims.interaction_id.is_empty()) => {
                reasons.push("the token names no `tenant_id` or no `interaction_id`".to_owned());
            }
            Ok(claims) => {
                is_in = true;
                told = Some(claims);
            }
            Err(refusal) => reasons.push(refusal.to_string()),
        }
    }
    if is_in { Ok(told) } else { Err(reasons.join(", and ")) }
}

/// Scheme and credential of the one header `Authorization` (RFC 9110 11.4).
fn authorization(request: &Request) -> Option<(&str, &str)> {
    let mut all = request.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("authorization"));
    let (_, value) = all.next().filter(|_| all.next().is_none())?;
    let (scheme, credential) = value.trim().split_once(' ')?;
    Some((scheme, credential.trim()))
}

/// How long it takes tells nothing of how much of it was right.
fn is_pair(credential: &str, ours: &str) -> bool {
    let theirs = base64_simd::STANDARD.decode_to_vec(credential).unwrap_or_default();
    theirs.ct_eq(ours.as_bytes()).into()
}

/// The rate, and the parameters of the operator's own, at most three of 256 bytes together (Exotel, "Working with the
/// Stream applet").
fn query(query: &str, dialect: Option<&str>) -> Result<(Option<Rate>, Parameters), &'static str> {
    let (mut rate, mut custom) = (None, Parameters::default());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (plain(name), plain(value));
        if matches!(name.as_str(), "sample-rate" | "sample_rate") {
            let known = value.parse().ok().and_then(Rate::from_hz);
            let spoken = known.filter(|rate| dialect.is_none_or(|name| dialect::rates(name).contains(rate)));
            rate = Some(spoken.ok_or("there is no such sample-rate here")?);
        } else if !custom.add(&name, &value) {
            return Err("at most 3 query parameters, each of its own name, of 256 characters together");
        }
    }
    Ok((rate, custom))
}

/// A part of a query, without what a terminal or a log would obey.
fn plain(text: &str) -> String {
    let mut text = decoded(text);
    text.retain(|c| !c.is_control());
    text
}

/// The path itself is not told: it may be the only secret that a vendor can keep.
const NO_PATH: &str = "there is no such path; wanted exactly the `path` of one of the line's [[line.NAME.path]]";

/// Clients that offer one hang up when none is chosen: OpenAI's, and mod_audio_fork's. Beside theirs they may offer a
/// key, which is no protocol.
const SUBPROTOCOLS: &[&str] = &["realtime", "audio.drachtio.org"];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        config::{Jwt, Secret, Url},
        dialect::{Direction, Options},
        leg::websocket::{
            jwt::{Algorithm, Signer, Verifier},
            upgrade::parse_asked,
        },
    };

    const NOW_S: u64 = 1_795_000_000;
    const KEY: &str = "thirty-two bytes of shared secret";

    fn path(path: &str, dialect: Option<&'static str>, access: Access) -> WebsocketPath {
        let (direction, options) = (Direction::Both, Options::default());
        WebsocketPath { path: path.to_owned(), dialect, sample_rate: None, direction, options, access }
    }

    fn ranges(ranges: &[&str]) -> Vec<Cidr> {
        ranges.iter().map(|range| Cidr::parse(range).unwrap()).collect()
    }

    fn jwt(claims_required: bool) -> Option<Jwt> {
        let verifier = Verifier::new(Algorithm::Hs256, &Secret::new(KEY)).unwrap();
        Some(Jwt { verifier, claims_required })
    }

    fn listen() -> Listen {
        let basic = Some(Secret::new("exotel:s3cret"));
        let bearer = Some(Secret::new("sk-s3cret"));
        Listen {
            address: "192.0.2.1:8443".parse().unwrap(),
            tls: None,
            trusted_proxies: ranges(&["10.0.0.0/8"]),
            max_per_source: 30,
            endpoint: Some(Url::parse("wss://voice.example.com/v1/ingest").unwrap()),
            paths: vec![
                path("/open", None, Access::default()),
                path("/ws", Some("ozonetel"), Access { allow: ranges(&["198.51.100.0/24"]), ..Access::default() }),
                path(
                    "/any",
                    None,
                    Access { allow: ranges(&["198.51.100.7"]), basic, jwt: jwt(false), ..Access::default() },
                ),
                path("/strict", None, Access { jwt: jwt(true), ..Access::default() }),
                path("/pbx", Some("asterisk"), Access::default()),
                path("/openai", Some("openai"), Access { bearer: bearer.clone(), ..Access::default() }),
                path("/two", None, Access { bearer, jwt: jwt(false), ..Access::default() }),
            ],
        }
    }

    fn request(target: &str, more: &[&str]) -> Asked {
        let mut head = format!(
            "GET {target} HTTP/1.1\r\nHost: voice.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        );
        more.iter().for_each(|line| head += &format!("{line}\r\n"));
        parse_asked((head + "\r\n").as_bytes()).unwrap()
    }

    fn decided(from: &str, asked: &Asked) -> Decision {
        decide(&listen(), &Sources::new(30), asked, from.parse().unwrap(), Now::ZERO, NOW_S)
    }

    /// The status, and what the log is told.
    fn refused(from: &str, target: &str, more: &[&str]) -> (u16, String) {
        match decided(from, &request(target, more)) {
            Decision::Refuse(Refusal { status, reason, .. }) => (status, reason),
            other => panic!("{target}: {other:?}"),
        }
    }

    fn admitted(from: &str, target: &str, more: &[&str]) -> Admitted {
        match decided(from, &request(target, more)) {
            Decision::Upgrade(admitted) => *admitted,
            other => panic!("{target}: {other:?}"),
        }
    }

    fn bearer(claims: &Claims, at: u64) -> String {
        let signer = Signer::new(Algorithm::Hs256, &Secret::new(KEY), 60).unwrap();
        format!("Authorization: Bearer {}", signer.sign(claims, at).unwrap().reveal())
    }

    fn claims() -> Claims {
        Claims { tenant_id: "t-1".to_owned(), interaction_id: "int-9".to_owned() }
    }

    #[test]
    fn a_path_is_matched_whole_and_its_query_is_free() {
        assert_eq!(admitted("203.0.113.9", "/open?call_id=7", &[]).path, 0);
        assert_eq!(admitted("198.51.100.9", "/ws", &[]).path, 1);
        for target in ["/", "/open/", "/ope", "/Open", "/%6fpen", "/open;x", "/v1/ingest"] {
            assert_eq!(refused("203.0.113.9", target, &[]), (404, NO_PATH.to_owned()), "{target}");
        }
    }

    #[test]
    fn an_address_outside_the_allow_list_is_refused_where_nothing_else_would_let_it_in() {
        assert_eq!(refused("198.51.101.1", "/ws", &[]), (403, "its address is not in `allow`".to_owned()));
        let basic = "Authorization: Basic ZXhvdGVsOnMzY3JldA==";
        assert_eq!(refused("198.51.101.1", "/ws", &[basic]).0, 403);
    }

    #[test]
    fn any_one_of_the_ways_in_is_enough() {
        let basic = "authorization: basic ZXhvdGVsOnMzY3JldA==";
        assert_eq!(admitted("198.51.100.7", "/any", &["Authorization: Basic bm86bm8="]).claims, None);
        assert_eq!(admitted("203.0.113.9", "/any", &[basic]).tie_break, "exotel");
        let by_token = admitted("203.0.113.9", "/any", &[&bearer(&claims(), NOW_S)]);
        assert_eq!((by_token.claims, by_token.tie_break), (Some(claims()), "rtaa"));
    }

    #[test]
    fn every_way_in_that_failed_is_named_and_no_credential_is() {
        let (status, reason) = refused("203.0.113.9", "/any", &[]);
        let words =
            "its address is not in `allow`, and it has no Authorization: Basic, and it has no Authorization: Bearer";
        assert_eq!((status, reason.as_str()), (401, words));
        let (status, reason) = refused("203.0.113.9", "/any", &["Authorization: Basic ZXhvdGVsOmh1c2g="]);
        assert_eq!(status, 401);
        assert!(reason.contains("its user or password is wrong") && !reason.contains("ZXhv"), "{reason}");
    }

    #[test]
    fn what_is_nearly_the_password_is_not_it() {
        for pair in ["exotel:s3cre", "exotel:s3cret ", "Exotel:s3cret", "exotel", ":", ""] {
            let header = format!("Authorization: Basic {}", base64_simd::STANDARD.encode_to_string(pair));
            assert_eq!(refused("203.0.113.9", "/any", &[&header]).0, 401, "{pair}");
        }
        for header in ["Authorization: Basic", "Authorization: Basic %%%", "Authorization: ZXhvdGVsOnMzY3JldA=="] {
            assert_eq!(refused("203.0.113.9", "/any", &[header]).0, 401, "{header}");
        }
        let twice = "Authorization: Basic ZXhvdGVsOnMzY3JldA==";
        assert_eq!(refused("203.0.113.9", "/any", &[twice, twice]).0, 401, "two of them are none");
    }

    #[test]
    fn a_token_that_is_old_or_wrong_or_says_too_little_is_refused() {
        let strict = |header: &str| refused("203.0.113.9", "/strict", &[header]);
        assert!(strict(&bearer(&claims(), NOW_S - 1000)).1.contains("the token expired"));
        let mut forged = bearer(&claims(), NOW_S);
        forged.truncate(forged.len() - 4);
        assert_eq!(strict(&(forged + "AAAA")), (401, "the token's signature does not match the key".to_owned()));
        assert_eq!(strict("Authorization: Bearer x").1, "the bearer token is not a JWT");
        let nobody = Claims { tenant_id: String::new(), ..claims() };
        assert!(strict(&bearer(&nobody, NOW_S)).1.contains("names no `tenant_id`"));
        assert_eq!(strict("X-Nothing: 1"), (401, "it has no Authorization: Bearer".to_owned()));
    }

    #[test]
    fn a_token_that_is_always_the_same_lets_in_beside_those_that_are_signed() {
        let key = "Authorization: Bearer sk-s3cret";
        for path in ["/openai", "/two"] {
            assert_eq!(admitted("203.0.113.9", path, &[key]).claims, None);
        }
        let signed = bearer(&claims(), NOW_S);
        assert_eq!(admitted("203.0.113.9", "/two", &[&signed]).claims, Some(claims()));
        for wrong in ["Bearer sk-s3cre", "Bearer sk-s3cret2", "Bearer ", "Basic sk-s3cret", &signed[15..]] {
            let (status, reason) = refused("203.0.113.9", "/openai", &[&format!("Authorization: {wrong}")]);
            assert_eq!(status, 401, "{wrong}");
            assert!(!reason.contains("sk-"), "{reason}");
        }
        assert_eq!(refused("203.0.113.9", "/openai", &[]), (401, "it has no Authorization: Bearer".to_owned()));
        let (_, reason) = refused("203.0.113.9", "/two", &["Authorization: Bearer x"]);
        assert_eq!(reason, "its token is not `bearer`, and the bearer token is not a JWT");
    }

    #[test]
    fn the_query_names_a_rate_and_three_parameters_and_no_more() {
        let call = admitted("203.0.113.9", "/open?sample-rate=16000&lane=sales%20desk&x=%1b%5bA&empty", &[]);
        assert_eq!(call.rate, Some(Rate::Hz16000));
        assert!(call.custom.iter().eq([("lane", "sales desk"), ("x", "[A"), ("empty", "")]));
        assert_eq!(admitted("203.0.113.9", "/open?sample_rate=24000", &[]).rate, Some(Rate::Hz24000));
        let long = format!("/open?a={}", "x".repeat(256));
        for target in ["/open?a=1&b=2&c=3&d=4", "/open?a=1&a=2", &long] {
            assert_eq!(refused("203.0.113.9", target, &[]).0, 400, "{target}");
        }
        for rate in ["0", "1000000000", "-8000", "8e3", "", "44100"] {
            let (status, reason) = refused("203.0.113.9", &format!("/open?sample-rate={rate}"), &[]);
            assert_eq!((status, reason.as_str()), (400, "there is no such sample-rate here"), "{rate}");
        }
        assert_eq!(refused("198.51.100.9", "/ws?sample-rate=16000", &[]).0, 400, "Ozonetel has 8000 only");
    }

    #[test]
    fn a_proxy_that_is_trusted_says_who_it_is_and_nobody_else_does() {
        let trusted = ranges(&["10.0.0.0/8", "::1"]);
        let source = |peer: &str, lists: &[&str]| {
            let lines: Vec<_> = lists.iter().map(|list| format!("X-Forwarded-For: {list}")).collect();
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            source_of(peer.parse().unwrap(), &request("/", &lines).request, &trusted).to_string()
        };
        assert_eq!(source("203.0.113.9", &["198.51.100.7"]), "203.0.113.9", "a client that names itself otherwise");
        assert_eq!(source("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(source("10.0.0.1", &["192.0.2.66, 198.51.100.7, 10.9.9.9"]), "198.51.100.7", "the first is made up");
        assert_eq!(source("10.0.0.1", &["192.0.2.66", "198.51.100.7"]), "198.51.100.7", "a list in two lines");
        assert_eq!(source("::1", &["[2001:db8::7]:4711"]), "2001:db8::7");
        assert_eq!(source("::ffff:10.0.0.1", &["198.51.100.7:99"]), "198.51.100.7");
        assert_eq!(source("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(source("10.0.0.1", &["198.51.100.7, rubbish"]), "10.0.0.1");
    }

    #[test]
    fn a_source_that_was_refused_too_often_is_refused_with_the_right_password_too() {
        let mut sources = Sources::new(2);
        let source: IpAddr = "198.51.100.9".parse().unwrap();
        let status = |sources: &Sources| match decide(&listen(), sources, &request("/ws", &[]), source, Now::ZERO, 0) {
            Decision::Refuse(refusal) => refusal.status,
            _ => 101,
        };
        assert_eq!(status(&sources), 101);
        sources.refused(source, Now::ZERO);
        sources.refused(source, Now::ZERO);
        assert_eq!(status(&sources), 429);
        let health = decide(&listen(), &sources, &request("/health", &[]), source, Now::ZERO, 0);
        assert_eq!(health, Decision::Health, "whoever watches does not count");
    }

    #[test]
    fn health_and_endpoint_are_for_anyone_and_by_their_methods_only() {
        let by = |line: &str| {
            let asked = parse_asked(format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
            decided("203.0.113.9", &asked)
        };
        let status = |line: &str| match by(line) {
            Decision::Refuse(refusal) => refusal.status,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(by("GET /health"), Decision::Health);
        assert_eq!(by("GET /api/ingest/exotel-endpoint?CallSid=1"), Decision::Endpoint);
        assert_eq!(by("POST /api/ingest/exotel-endpoint"), Decision::Endpoint);
        assert_eq!((status("POST /health"), status("DELETE /api/ingest/exotel-endpoint")), (405, 405));
        assert_eq!((status("GET /metrics"), status("GET /open"), status("POST /open")), (404, 426, 405));
    }

    #[test]
    fn a_subprotocol_is_spoken_where_it_is_one_of_ours() {
        let offer =
            |value: &str| admitted("203.0.113.9", "/open", &[&format!("Sec-WebSocket-Protocol: {value}")]).subprotocol;
        let openai = offer("realtime, openai-insecure-api-key.sk-1, openai-beta.realtime-v1");
        assert_eq!(openai.as_deref(), Some("realtime"));
        assert_eq!((offer("audio.drachtio.org").as_deref(), offer("chat")), (Some("audio.drachtio.org"), None));
    }

    #[test]
    fn a_subprotocol_tells_the_dialect_where_the_path_leaves_it_open() {
        let told = |more: &[&str]| admitted("203.0.113.9", "/open", more).dialect;
        assert_eq!(told(&["Sec-WebSocket-Protocol: media"]), Some("asterisk"));
        assert_eq!(told(&["Sec-WebSocket-Protocol: audio.drachtio.org"]), Some("audiofork"));
        assert_eq!((told(&["Sec-WebSocket-Protocol: realtime"]), told(&[])), (None, None));
    }

    #[test]
    fn a_path_whose_dialect_has_a_subprotocol_takes_no_other() {
        let offer = |value: &str| request("/pbx", &[&format!("Sec-WebSocket-Protocol: {value}")]);
        let spoken = |asked: &Asked| match decided("203.0.113.9", asked) {
            Decision::Upgrade(admitted) => Ok(admitted.subprotocol),
            Decision::Refuse(refusal) => Err((refusal.status, refusal.reason)),
            other => panic!("{other:?}"),
        };
        assert_eq!(spoken(&offer("chat, media")), Ok(Some("media".to_owned())));
        assert_eq!(spoken(&request("/pbx", &[])), Ok(None), "a tool that offers none");
        let reason = "it offers the subprotocol audio.drachtio.org, and this path's dialect has media".to_owned();
        assert_eq!(spoken(&offer("audio.drachtio.org")), Err((400, reason)));
    }
}
