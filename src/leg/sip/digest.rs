//! Digest authentication, as the client of a registrar or a PBX: challenges in, `Authorization` out (RFC 3261 22, RFC
//! 7616, RFC 8760).
//!
//! A challenge is remembered, so the next request is authorised before anyone asks, with the next nonce count. Whether
//! to try again after a challenge is the caller's to say: once for a new one, once more for a stale one.

use core::fmt::{self, Write as _};

use md5::Md5;
use sha2::{Digest, Sha256, Sha512_256};

use crate::config::Secret;

/// Who we say we are, and what proves it.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The name that the peer knows us by here, which may be another than that of the line.
    pub username: String,
    /// Never sent, and never printed.
    pub password: Secret,
    /// The only realm that is answered, if there is one: no other gets to guess at the password.
    pub realm: Option<String>,
}

/// Who asks. They have headers of their own, and one call may have to satisfy both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// The far end, by 401.
    Server,
    /// A proxy on the way, by 407.
    Proxy,
}

impl Asker {
    /// The header of its challenges.
    #[must_use]
    pub const fn challenge_header(self) -> &'static str {
        match self {
            Self::Server => "WWW-Authenticate",
            Self::Proxy => "Proxy-Authenticate",
        }
    }

    /// The header that answers it.
    #[must_use]
    pub const fn header(self) -> &'static str {
        match self {
            Self::Server => "Authorization",
            Self::Proxy => "Proxy-Authorization",
        }
    }
}

/// The request that is authorised.
#[derive(Clone, Copy, Debug)]
pub struct Request<'r> {
    /// `REGISTER`.
    pub method: &'r str,
    /// The Request-URI, letter for letter as it is sent.
    pub uri: &'r str,
    /// Its body; hashed only for those who insist on `auth-int`.
    pub body: &'r [u8],
}

/// What a challenge says about our last try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenged {
    /// Not known here yet. When the request was answering a challenge, the password is wrong.
    New,
    /// Only the nonce was too old, the password is right.
    Stale,
}

/// Why a challenge cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unanswerable {
    /// There is none of scheme Digest.
    NoDigest,
    /// All of them are by other algorithms, or protect what we do not.
    Unsupported(String),
    /// It is for this realm, and our password is not.
    Realm(String),
}

impl fmt::Display for Unanswerable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDigest => f.write_str("the peer asks for no digest"),
            Self::Unsupported(what) => write!(f, "the peer asks for a digest that we do not have: {what}"),
            Self::Realm(realm) => write!(f, "the peer asks for the realm {realm:?}, and the password is for another"),
        }
    }
}

impl core::error::Error for Unanswerable {}

/// What was answered already for one request: each asker once, and a nonce that was too old once more. Whoever asks again
/// does not like the password.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answered {
    server: bool,
    proxy: bool,
    stale: bool,
}

impl Answered {
    /// Whether this challenge may be answered, which it is from here on.
    #[must_use]
    pub const fn allows(&mut self, asker: Asker, challenged: Challenged) -> bool {
        let was_answered = match (challenged, asker) {
            (Challenged::Stale, _) => &mut self.stale,
            (Challenged::New, Asker::Server) => &mut self.server,
            (Challenged::New, Asker::Proxy) => &mut self.proxy,
        };
        !core::mem::replace(was_answered, true)
    }
}

/// Answers challenges for one line.
#[derive(Debug)]
pub struct Client {
    credentials: Credentials,
    /// The latest challenge of each realm, the newest last.
    known: Vec<Known>,
}

impl Client {
    /// Nobody asked yet.
    #[must_use]
    pub const fn new(credentials: Credentials) -> Self {
        Self { credentials, known: vec![] }
    }

    /// A 401 or 407: `values` are those of all its headers by [`Asker::challenge_header`]. The best of each realm is
    /// kept; `random` gives 64 bits a time.
    ///
    /// # Errors
    /// There is none that we could answer. What was known before still is.
    pub fn handle_challenge<'v>(
        &mut self,
        asker: Asker,
        values: impl IntoIterator<Item = &'v str>,
        random: &mut dyn FnMut() -> u64,
    ) -> Result<Challenged, Unanswerable> {
        let mut best: Vec<Challenge> = vec![];
        let mut unanswerable = Unanswerable::NoDigest;
        for value in values.into_iter().take(MAX_HEADERS) {
            for challenge in challenges(value) {
                let challenge = match challenge {
                    Ok(challenge) => challenge,
                    Err(what) => {
                        unanswerable = Unanswerable::Unsupported(what);
                        continue;
                    }
                };
                if self.credentials.realm.as_ref().is_some_and(|realm| *realm != challenge.realm) {
                    unanswerable = Unanswerable::Realm(challenge.realm);
                    continue;
                }
                let rival = best.iter().position(|other| other.realm == challenge.realm);
                match rival {
                    Some(at) if best[at].algorithm.strength() >= challenge.algorithm.strength() => {}
                    Some(at) => best[at] = challenge,
                    None if best.len() < MAX_REALMS => best.push(challenge),
                    None => {}
                }
            }
        }
        if best.is_empty() {
            return Err(unanswerable);
        }
        // One realm that is merely stale beside one that is new: there is something new.
        let is_stale = best.iter().all(|challenge| challenge.stale);
        for challenge in best {
            let is_same = |known: &Known| known.asker == asker && known.challenge.realm == challenge.realm;
            let before = match self.known.iter().position(is_same) {
                Some(at) => Some(self.known.remove(at)),
                None if self.known.len() == MAX_REALMS => {
                    self.known.remove(0);
                    None
                }
                None => None,
            };
            // A nonce that is asked for again goes on counting; from the start it would look like a replay.
            let (cnonce, count) = match before.filter(|known| known.challenge.nonce == challenge.nonce) {
                Some(known) => (known.cnonce, known.count),
                None => (format!("{:016x}{:016x}", random(), random()), 0),
            };
            self.known.push(Known { asker, challenge, cnonce, count });
        }
        Ok(if is_stale { Challenged::Stale } else { Challenged::New })
    }

    /// The headers, name and value, that a request needs as far as is known; none before the first challenge.
    pub fn authorize(&mut self, request: &Request<'_>) -> Vec<(&'static str, String)> {
        let Self { credentials, known } = self;
        known.iter_mut().map(|known| (known.asker.header(), known.authorize(credentials, request))).collect()
    }

    /// Forgets every challenge: the peer was restarted, or is another one now.
    pub fn forget(&mut self) {
        self.known.clear();
    }
}

/// A challenge and how often it was answered.
#[derive(Debug)]
struct Known {
    asker: Asker,
    challenge: Challenge,
    /// The same for as long as the nonce is: so the session key of `-sess` is too, whichever request it is made from
    /// (RFC 7616 3.4.2).
    cnonce: String,
    count: u32,
}

impl Known {
    fn authorize(&mut self, credentials: &Credentials, request: &Request<'_>) -> String {
        self.count = self.count.wrapping_add(1);
        let Self { challenge, cnonce, .. } = self;
        let Challenge { realm, nonce, algorithm, .. } = challenge;
        let hash = |parts: &[&[u8]]| algorithm.hash.of(parts);
        let count = format!("{:08x}", self.count);
        let username = credentials.username.as_bytes();
        let mut a1 = hash(&[username, realm.as_bytes(), credentials.password.reveal().as_bytes()]);
        if algorithm.session {
            a1 = hash(&[a1.as_bytes(), nonce.as_bytes(), cnonce.as_bytes()]);
        }
        let (method, uri) = (request.method.as_bytes(), request.uri.as_bytes());
        let a2 = match challenge.qop {
            Qop::None | Qop::Auth => hash(&[method, uri]),
            Qop::AuthInt => hash(&[method, uri, hash(&[request.body]).as_bytes()]),
        };
        let response = match challenge.qop.name() {
            None => hash(&[a1.as_bytes(), nonce.as_bytes(), a2.as_bytes()]), // as RFC 2069 had it
            Some(qop) => {
                let parts = [&a1, nonce, &count, cnonce, qop, &a2].map(|part: &str| part.as_bytes());
                hash(&parts)
            }
        };
        let mut value = "Digest ".to_owned();
        quoted(&mut value, "username", &credentials.username);
        quoted(&mut value, "realm", realm);
        quoted(&mut value, "nonce", nonce);
        quoted(&mut value, "uri", request.uri);
        quoted(&mut value, "response", &response);
        // Writing to a string cannot fail.
        if let Some(name) = &algorithm.name {
            let _ = write!(value, "algorithm={name}, ");
        }
        match challenge.qop.name() {
            Some(qop) => {
                quoted(&mut value, "cnonce", cnonce);
                let _ = write!(value, "qop={qop}, nc={count}, ");
            }
            None if algorithm.session => quoted(&mut value, "cnonce", cnonce),
            None => {}
        }
        if let Some(opaque) = &challenge.opaque {
            quoted(&mut value, "opaque", opaque);
        }
        value.truncate(value.len() - 2);
        value
    }
}

/// What a peer asks for. Texts are as meant, without the escapes of a quoted string.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Challenge {
    realm: String,
    nonce: String,
    opaque: Option<String>,
    algorithm: Algorithm,
    qop: Qop,
    stale: bool,
}

impl Challenge {
    fn of(parameters: &[(&str, String)]) -> Result<Self, String> {
        let find = |name: &str| {
            let found = parameters.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.as_str())
        };
        let unsupported = |what: &str| what.chars().take(32).collect::<String>();
        let algorithm = find("algorithm");
        let Some(nonce) = find("nonce").filter(|nonce| !nonce.is_empty()) else {
            return Err("one without a nonce".into());
        };
        Ok(Self {
            // It has to be there; who forgot it hashes nothing in its place.
            realm: find("realm").unwrap_or_default().to_owned(),
            nonce: nonce.to_owned(),
            opaque: find("opaque").map(str::to_owned),
            algorithm: Algorithm::parse(algorithm).ok_or_else(|| unsupported(algorithm.unwrap_or_default()))?,
            qop: Qop::parse(find("qop")).ok_or_else(|| unsupported(find("qop").unwrap_or_default()))?,
            stale: find("stale").is_some_and(|stale| stale.eq_ignore_ascii_case("true")),
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Algorithm {
    hash: Hash,
    /// The key is made anew for each nonce.
    session: bool,
    /// As the peer spells it, which is how it is answered. `None`: it did not say, so it is MD5.
    name: Option<String>,
}

impl Algorithm {
    /// `SHA-256`, `sha256`, `MD5-sess`; `SHA-512/256` is what the standard for the hash calls it.
    fn parse(name: Option<&str>) -> Option<Self> {
        let Some(name) = name else { return Some(Self { hash: Hash::Md5, session: false, name: None }) };
        let plain: String = name.chars().filter(|c| !"-_/".contains(*c)).map(|c| c.to_ascii_lowercase()).collect();
        let (plain, session) = match plain.strip_suffix("sess") {
            Some(plain) => (plain, true),
            None => (plain.as_str(), false),
        };
        let hash = match plain {
            "md5" => Hash::Md5,
            "sha256" => Hash::Sha256,
            "sha512256" => Hash::Sha512_256,
            _ => return None,
        };
        Some(Self { hash, session, name: Some(name.to_owned()) })
    }

    /// RFC 8760 2.4 takes the first that the peer lists, and lets a client prefer what it likes. A list can be turned
    /// around on the way, so it is the strongest that counts. SHA-256 goes before SHA-512-256, though not for strength:
    /// RFC 7616 left open what that is. Its own example cuts SHA-512 off, RFC 8760 means FIPS 180-4's, and so peers
    /// differ. Nobody differs on SHA-256.
    const fn strength(&self) -> u8 {
        match self.hash {
            Hash::Md5 => 0,
            Hash::Sha512_256 => 1,
            Hash::Sha256 => 2,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    Md5,
    Sha256,
    /// FIPS 180-4 5.3.6.2: SHA-512 from another start, not merely cut off (RFC 8760 2.1).
    Sha512_256,
}

impl Hash {
    /// The digest of these with colons between, in hexadecimal.
    fn of(self, parts: &[&[u8]]) -> String {
        match self {
            Self::Md5 => digest::<Md5>(parts),
            Self::Sha256 => digest::<Sha256>(parts),
            Self::Sha512_256 => digest::<Sha512_256>(parts),
        }
    }
}

fn digest<D: Digest>(parts: &[&[u8]]) -> String {
    let mut digest = D::new();
    for (n, part) in parts.iter().enumerate() {
        if n > 0 {
            digest.update(b":");
        }
        digest.update(part);
    }
    let mut text = String::new();
    for byte in digest.finalize() {
        let _ = write!(text, "{byte:02x}"); // writing to a string cannot fail
    }
    text
}

/// What is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Qop {
    /// Not said: as it was before there was a choice.
    None,
    /// Method and URI.
    Auth,
    /// The body, too. Only for those who leave no other choice: it breaks wherever something on the way mends a
    /// description's addresses.
    AuthInt,
}

impl Qop {
    /// `None`: only what nobody knows.
    fn parse(list: Option<&str>) -> Option<Self> {
        let list = list.unwrap_or_default();
        let has = |name: &str| list.split([',', ' ', '\t']).any(|qop| qop.eq_ignore_ascii_case(name));
        match () {
            () if list.trim_ascii().is_empty() => Some(Self::None),
            () if has("auth") => Some(Self::Auth),
            () if has("auth-int") => Some(Self::AuthInt),
            () => None,
        }
    }

    const fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Auth => Some("auth"),
            Self::AuthInt => Some("auth-int"),
        }
    }
}

/// The challenges of one header value that are of scheme Digest: read, or what they want that we do not have.
fn challenges(value: &str) -> Vec<Result<Challenge, String>> {
    let mut found = vec![];
    let mut open: Option<Vec<(&str, String)>> = None;
    let mut rest = value;
    while !rest.is_empty() && found.len() < MAX_CHALLENGES {
        let (word, after) = token(rest);
        if word.is_empty() {
            // A comma, a blank, or nothing that belongs here.
            let mut chars = rest.chars();
            chars.next();
            rest = chars.as_str();
            continue;
        }
        let next = after.trim_ascii_start();
        if let Some(value) = next.strip_prefix('=') {
            let (value, after) = parameter(value.trim_ascii_start());
            if let Some(parameters) = open.as_mut().filter(|parameters| parameters.len() < MAX_PARAMETERS) {
                parameters.push((word, value));
            }
            rest = after;
        } else {
            // A scheme has its first parameter behind a blank; any other word is part of a list that lost its quotes.
            if next.len() < after.len() && !token(next).0.is_empty() {
                let digest = word.eq_ignore_ascii_case("Digest").then(Vec::new);
                found.extend(core::mem::replace(&mut open, digest).map(|parameters| Challenge::of(&parameters)));
            }
            rest = after;
        }
    }
    if found.len() < MAX_CHALLENGES {
        found.extend(open.map(|parameters| Challenge::of(&parameters)));
    }
    found
}

/// The token that a text starts with, which may be none, and what is behind it.
fn token(text: &str) -> (&str, &str) {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "-.!%*_+`'~".contains(c);
    text.split_at(text.find(|c| !is_token(c)).unwrap_or(text.len()))
}

/// The value of a parameter, quoted or not. Control characters have no place in either.
fn parameter(text: &str) -> (String, &str) {
    let good = |c: &char| !c.is_control();
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find([',', ' ', '\t']).unwrap_or(text.len()));
        return (value.chars().filter(good).collect(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => value.extend(chars.next().filter(good)),
            c => value.extend(Some(c).filter(good)),
        }
    }
    (value, chars.as_str())
}

fn quoted(into: &mut String, name: &str, value: &str) {
    *into += name;
    *into += "=\"";
    for c in value.chars().filter(|c| !c.is_control()) {
        if matches!(c, '"' | '\\') {
            into.push('\\');
        }
        into.push(c);
    }
    *into += "\", ";
}

/// Headers of challenges in one response; one for each algorithm is four.
const MAX_HEADERS: usize = 16;

/// Challenges in one header.
const MAX_CHALLENGES: usize = 8;

/// Parameters of a challenge; there are nine in all.
const MAX_PARAMETERS: usize = 16;

/// Realms that one call goes through: the far end and a few proxies.
const MAX_REALMS: usize = 4;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn client(username: &str, password: &str) -> Client {
        Client::new(Credentials { username: username.into(), password: Secret::new(password), realm: None })
    }

    fn register() -> Request<'static> {
        Request { method: "REGISTER", uri: "sip:pbx.example.com", body: b"v=0\r\n" }
    }

    fn challenge(client: &mut Client, values: &[&str]) -> Result<Challenged, Unanswerable> {
        let mut random = 0x0011_2233_4455_6677;
        client.handle_challenge(Asker::Server, values.iter().copied(), &mut || {
            random += 1;
            random
        })
    }

    /// What a phone would send back, with this nonce of its own.
    fn answer(client: &mut Client, value: &str, cnonce: &str, request: &Request<'_>) -> String {
        challenge(client, &[value]).unwrap();
        client.known[0].cnonce = cnonce.into();
        client.authorize(request).remove(0).1
    }

    fn field(header: &str, name: &str) -> Option<String> {
        let (_, parameters) = header.split_once(' ').unwrap();
        let mut parameters = parameters.split(", ").map(|parameter| parameter.split_once('=').unwrap());
        parameters.find(|(other, _)| *other == name).map(|(_, value)| value.trim_matches('"').to_owned())
    }

    const GET: Request<'static> = Request { method: "GET", uri: "/dir/index.html", body: b"" };

    #[test]
    fn the_examples_of_rfc_7616_come_out() {
        for (algorithm, response) in [
            ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
            ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ] {
            let value = format!(
                "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm={algorithm}, \
                 nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", \
                 opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\""
            );
            let cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
            let header = answer(&mut client("Mufasa", "Circle of Life"), &value, cnonce, &GET);
            assert_eq!(
                header,
                format!(
                    "Digest username=\"Mufasa\", realm=\"http-auth@example.org\", \
                     nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", uri=\"/dir/index.html\", \
                     response=\"{response}\", algorithm={algorithm}, cnonce=\"{cnonce}\", qop=auth, nc=00000001, \
                     opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\""
                )
            );
        }
    }

    #[test]
    fn the_example_of_rfc_2617_comes_out_and_that_of_rfc_2069_as_it_was_put_right() {
        let nonce = "nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"";
        let value = format!("Digest realm=\"testrealm@host.com\", qop=\"auth,auth-int\", {nonce}");
        let header = answer(&mut client("Mufasa", "Circle Of Life"), &value, "0a4f113b", &GET);
        assert_eq!(field(&header, "response").unwrap(), "6629fae49393a05397450978507c4ef1");
        assert_eq!(field(&header, "algorithm"), None, "nobody named one");
        let value = format!("Digest realm=\"testrealm@host.com\", {nonce}");
        let header = answer(&mut client("Mufasa", "CircleOfLife"), &value, "", &GET);
        assert_eq!(field(&header, "response").unwrap(), "1949323746fe6a43ef61f9606e7febea");
        assert_eq!((field(&header, "qop"), field(&header, "nc"), field(&header, "cnonce")), (None, None, None));
    }

    /// The responses are those of Python's `hashlib`.
    #[test]
    fn every_algorithm_with_every_protection_comes_out_as_elsewhere() {
        for (algorithm, qop, response) in [
            ("MD5", "", "47ccc7493e3a86d11721b52498e2a536"),
            ("MD5-sess", "", "16ff302e234e0a782eec69e44c482370"),
            ("MD5", "auth", "ee2b4e0498c06b0374d29cb8a2bbd506"),
            ("md5-sess", "auth", "2ff6f3a73633d4bb02d245da26a21e95"),
            ("MD5", "auth-int", "2ceee851553127c90faebdf1b599622b"),
            ("MD5-sess", "auth-int", "9bd90c4f07b56b663f1085706afff1ca"),
            ("sha256", "", "25accc47eb5578c4905939b5a8c9499f4194867830ef6bb5ae086f2496eadec4"),
            ("SHA-256-sess", "", "066270ec170d142cf2bf1285cab6f0c4337deff2d56182c18a577d4bb0b5c8c8"),
            ("SHA256", "auth", "7bec5db765994034b6b398c98beaffb3e63ed9834ffa50c2851f95dc3a460f38"),
            ("SHA-256-SESS", "auth", "c603a4c510c2c10a375f8bb9720d177cc7136bd6853731108f38a61cf31e68b9"),
            ("sha-256", "auth-int", "8130caada97156ffcacfb693bed749219c837ed573b6e031d88fdf53be30a40a"),
            ("SHA-256-sess", "auth-int", "54b41dee014c08e717f20fdd1abefc073e6f32577fd504672c26f187f85599d4"),
            ("SHA-512-256", "", "029a12cb31b2f5aa17f8adaeb265019b12cee3b90e674e95126ab6a588d6828e"),
            ("SHA-512-256-sess", "", "2ca69972854b3f3d09a9b6e771660c8fbdb1813a1a32ebc31f3002cbf4a8eb61"),
            ("SHA-512-256", "auth", "44b14dce2e1ffaf92708eb0e16908f0817260d579a6b21889a9678a7e11b616e"),
            ("SHA-512-256-sess", "auth", "92d85103e1dc88bd046f588dba613232ad60b59dd369c7c2865f181dd6ee061a"),
            ("SHA512-256", "auth-int", "519e18313f8136b5acdad3a6d91c04e0b59dc38ab2fb15e469e9a2dd89a9dbd7"),
            ("SHA-512-256-sess", "auth-int", "5b8ba02e7855f4e1ee54e3a0b28e79ae2d104beddbf3135a358b6c908e0a40f1"),
        ] {
            let mut client = client("501", "hush");
            let value =
                format!("digest Realm=\"pbx.example.com\",Nonce=\"5f3e/+=\",ALGORITHM=\"{algorithm}\",qop=\"{qop}\"");
            challenge(&mut client, &[&value]).unwrap();
            client.known[0].cnonce = "0011223344556677".into();
            client.authorize(&register());
            let (name, header) = client.authorize(&register()).remove(0);
            assert_eq!(name, "Authorization");
            assert_eq!(field(&header, "response").as_deref(), Some(response), "{algorithm} {qop}");
            assert_eq!(field(&header, "algorithm").as_deref(), Some(algorithm), "as the peer spells it");
            assert_eq!(field(&header, "nc").as_deref(), (!qop.is_empty()).then_some("00000002"));
            let has_cnonce = !qop.is_empty() || algorithm.ends_with("sess");
            assert_eq!(field(&header, "cnonce").is_some(), has_cnonce, "{algorithm} {qop}");
        }
    }

    #[test]
    fn the_best_of_several_is_answered_wherever_it_stands() {
        let of =
            |algorithm: &str| format!("Digest realm=\"a\", nonce=\"{algorithm}\", algorithm={algorithm}, qop=\"auth\"");
        let [md5, sha256, sha512, none] = ["MD5", "SHA-256", "SHA-512-256", "AKAv1-MD5"].map(of);
        let in_one = format!("Basic realm=\"x, Digest y\", {md5},{none} , {sha256}");
        for (values, best) in [
            (&[&*sha256, &md5][..], "SHA-256"),
            (&[&md5, &sha256], "SHA-256"),
            (&[&md5, &sha512, &sha256], "SHA-256"),
            (&[&sha512, &md5], "SHA-512-256"),
            (&[&none, "Basic realm=\"a\"", &md5], "MD5"),
            (&[&in_one], "SHA-256"),
            (&["Negotiate abc==, NTLM", "Bearer", &sha256], "SHA-256"),
        ] {
            let mut client = client("501", "hush");
            assert_eq!(challenge(&mut client, values), Ok(Challenged::New));
            let headers = client.authorize(&register());
            assert_eq!(headers.len(), 1);
            assert_eq!(field(&headers[0].1, "nonce").as_deref(), Some(best), "{values:?}");
        }
    }

    #[test]
    fn a_list_of_protections_that_lost_its_quotes_is_still_one() {
        let mut client = client("501", "hush");
        for qop in ["qop=auth,auth-int", "qop=\"auth-int, auth\"", "qop=auth", "qop = \"auth\" "] {
            challenge(&mut client, &[&format!("Digest realm=a, {qop}, nonce=b;c, opaque=\"\"")]).unwrap();
            let header = client.authorize(&register()).remove(0).1;
            assert_eq!(field(&header, "qop").as_deref(), Some("auth"), "{qop}");
            assert_eq!(field(&header, "nonce").as_deref(), Some("b;c"));
            assert_eq!(field(&header, "opaque").as_deref(), Some(""), "echoed though it is empty");
        }
    }

    #[test]
    fn a_nonce_is_counted_up_until_there_is_another() {
        let mut client = client("501", "hush");
        assert!(client.authorize(&register()).is_empty(), "nobody asked");
        challenge(&mut client, &["Digest realm=\"a\", nonce=\"one\", qop=\"auth\""]).unwrap();
        let mut counted = vec![];
        for _ in 0..17 {
            counted.push(field(&client.authorize(&register())[0].1, "nc").unwrap());
        }
        assert_eq!((&*counted[0], &*counted[9], &*counted[16]), ("00000001", "0000000a", "00000011"));
        let stale = "Digest realm=\"a\", nonce=\"two\", stale=TRUE, qop=\"auth\"";
        assert_eq!(challenge(&mut client, &[stale]), Ok(Challenged::Stale));
        let header = client.authorize(&register()).remove(0).1;
        assert_eq!(
            (field(&header, "nonce").unwrap(), field(&header, "nc").unwrap()),
            ("two".into(), "00000001".into())
        );
        // The same again is a wrong password, and no reason to start counting again.
        let again = "Digest realm=\"a\", nonce=\"two\", stale=false, qop=\"auth\"";
        assert_eq!(challenge(&mut client, &[again]), Ok(Challenged::New));
        let after = client.authorize(&register()).remove(0).1;
        assert_eq!(field(&after, "nc").as_deref(), Some("00000002"));
        assert_eq!(field(&after, "cnonce"), field(&header, "cnonce"));
        client.forget();
        assert!(client.authorize(&register()).is_empty());
    }

    #[test]
    fn a_proxy_and_the_far_end_are_answered_by_headers_of_their_own() {
        let mut client = client("501", "hush");
        let mut random = || 7;
        let proxy = ["Digest realm=\"edge\", nonce=\"p\""];
        client.handle_challenge(Asker::Proxy, proxy, &mut random).unwrap();
        challenge(&mut client, &["Digest realm=\"pbx\", nonce=\"s\""]).unwrap();
        client.handle_challenge(Asker::Proxy, ["Digest realm=\"edge\", nonce=\"p2\""], &mut random).unwrap();
        let headers = client.authorize(&register());
        let nonces: Vec<_> = headers.iter().map(|(name, value)| (*name, field(value, "nonce").unwrap())).collect();
        assert_eq!(nonces, [("Authorization", "s".to_owned()), ("Proxy-Authorization", "p2".to_owned())]);
        for realm in 0..20 {
            let value = format!("Digest realm=\"r{realm}\", nonce=\"n\"");
            client.handle_challenge(Asker::Proxy, [&*value], &mut random).unwrap();
        }
        assert_eq!(client.authorize(&register()).len(), MAX_REALMS);
    }

    #[test]
    fn quotes_commas_and_foreign_letters_survive_in_a_realm() {
        let mut client = client("anna \"a\"", "hush");
        let value =
            r#"Digest realm="Firma \"M\u{fc}ller\", Digest \\ realm=\"x\"", domain="sip:a, sip:b", nonce="n\=1""#;
        let value = value.replace("\\u{fc}", "\u{fc}");
        challenge(&mut client, &[&value]).unwrap();
        assert_eq!(client.known[0].challenge.realm, "Firma \"M\u{fc}ller\", Digest \\ realm=\"x\"");
        assert_eq!(client.known[0].challenge.nonce, "n=1");
        let header = client.authorize(&register()).remove(0).1;
        let again = challenges(&header).remove(0).unwrap();
        assert_eq!((again.realm, again.nonce), (client.known[0].challenge.realm.clone(), "n=1".into()));
        assert!(header.starts_with(r#"Digest username="anna \"a\"", "#), "{header}");
    }

    #[test]
    fn what_cannot_be_answered_is_told_and_changes_nothing() {
        let mut client = client("501", "hush");
        client.credentials.realm = Some("asterisk".into());
        challenge(&mut client, &["Digest realm=\"asterisk\", nonce=\"a\""]).unwrap();
        for (value, words) in [
            ("Basic realm=\"asterisk\"", "the peer asks for no digest"),
            ("", "the peer asks for no digest"),
            ("Digest", "the peer asks for no digest"),
            (
                "Digest realm=\"asterisk\", nonce=\"b\", algorithm=AKAv1-MD5",
                "the peer asks for a digest that we do not have: AKAv1-MD5",
            ),
            (
                "Digest realm=\"asterisk\", nonce=\"b\", qop=\"auth-conf\"",
                "the peer asks for a digest that we do not have: auth-conf",
            ),
            ("Digest realm=\"asterisk\"", "the peer asks for a digest that we do not have: one without a nonce"),
            (
                "Digest realm=\"trap\", nonce=\"b\"",
                "the peer asks for the realm \"trap\", and the password is for another",
            ),
        ] {
            assert_eq!(challenge(&mut client, &[value]).unwrap_err().to_string(), words, "{value}");
            assert_eq!(field(&client.authorize(&register())[0].1, "nonce").as_deref(), Some("a"));
        }
    }

    #[test]
    fn the_password_is_in_nothing_that_is_sent_or_printed() {
        let mut client = client("501", "open-sesame");
        challenge(&mut client, &["Digest realm=\"a\", nonce=\"n\""]).unwrap();
        let shown = format!("{client:?} {:?}", client.authorize(&register()));
        assert!(!shown.contains("sesame"), "{shown}");
    }

    #[test]
    fn twenty_thousand_broken_challenges_are_answered_by_sound_headers_or_not_at_all() {
        const WORDS: [&str; 14] = [
            "Digest ",
            "Basic ",
            "realm=",
            "nonce=",
            "\"",
            "\\",
            ",",
            " ",
            "=",
            "qop=\"auth\"",
            "algorithm=SHA-256",
            "\u{fc}",
            "\r\n",
            "\0",
        ];
        let seed = "Digest realm=\"pbx.example.com\", nonce=\"1763700000/b1946ac92492d2347c6235b4d2611184\", \
                    opaque=\"6e7d9f\", stale=false, algorithm=MD5, qop=\"auth,auth-int\"";
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut up_to = |most: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 20) as usize % (most + 1)
        };
        let mut client = client("501", "hush");
        let mut answered = 0;
        for _ in 0..20_000 {
            let mut value: Vec<char> = seed.chars().collect();
            for _ in 0..=up_to(6) {
                let at = up_to(value.len());
                let end = (at + up_to(20)).min(value.len());
                match up_to(2) {
                    0 => drop(value.drain(at..end)),
                    1 => drop(value.splice(at..at, WORDS[up_to(13)].chars())),
                    _ => drop(value.splice(at..at, value[at..end].to_vec())),
                }
            }
            let value: String = value.into_iter().collect();
            answered += usize::from(challenge(&mut client, &[&value]).is_ok());
            for (_, header) in client.authorize(&register()) {
                assert!(!header.contains(char::is_control), "{header:?}");
                let read = challenges(&header);
                assert!(read.len() == 1 && read[0].is_ok(), "{header}");
            }
        }
        assert!(answered > 10_000, "{answered}");
    }
}
