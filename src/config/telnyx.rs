//! `[telnyx]`: call control at Telnyx, and which line takes the streams.
//!
//! There is one of it: an account has one public key, by which its webhooks are known.

use core::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::{
    config::{
        Environment, Line, Secret, Url, WebsocketLine,
        file::{Section, Value, no_such},
        is_loopback,
        resolve::{address, is_same_place, shown_url},
        secret,
    },
    telnyx::{
        signature,
        stream::{CODECS, MODES, PROFILES, RATES, STREAM_CODECS, Stream, TARGET_LEGS, TRACKS},
    },
};

/// Call control at Telnyx.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telnyx {
    /// Where webhooks come in.
    pub webhook_listen: SocketAddr,
    /// The account's Ed25519 key, by which they are signed.
    pub public_key: [u8; 32],
    /// What commands are authorized by. `None`: it was named nowhere, and is not where it is sought then; the daemon
    /// does not start so.
    pub api_key: Option<Secret>,
    /// Where commands go; `secure` means https. Its path, if it has one, stands before `/v2`.
    pub api_url: Url,
    /// Where the world reaches this machine; always https.
    pub public_url: Url,
    /// The path of the line that takes the streams; begins with `/`.
    pub stream_path: String,
    /// That line, as an index into [`crate::config::Config::lines`].
    pub line: usize,
    /// Its name.
    pub line_name: String,
    /// The path of it, by its place there.
    pub path: usize,
    /// What is streamed.
    pub stream: Stream,
    /// Calls that ring are answered.
    pub answer: bool,
    /// Calls that the agent ended are hung up.
    pub hangup: bool,
}

impl Telnyx {
    /// Where Telnyx is to connect to for this call.
    #[must_use]
    pub fn stream_url(&self, call_control_id: &str) -> String {
        let (authority, before) = (&self.public_url.authority, self.public_url.path_and_query.trim_end_matches('/'));
        let sign = if self.stream_path.contains('?') { '&' } else { '?' };
        let call = percent_encoded(call_control_id);
        format!("wss://{authority}{before}{}{sign}call_id={call}", self.stream_path)
    }
}

/// Reads the table. `lines` are as they were read, with their names; `taken` is where else the daemon listens.
pub(super) fn read(
    value: &Value<'_>,
    environment: &dyn Environment,
    folder: &Path,
    lines: (&[&str], &[Option<Line>]),
    taken: &[(String, SocketAddr)],
) -> Option<Telnyx> {
    let Some(mut section) = value.section("[telnyx] ".to_owned()) else {
        value.problem("wanted a table: [telnyx]");
        return None;
    };
    let webhook_listen = webhook_listen(&mut section, taken);
    let key = section.require("public-key", "wanted the account's public key, as Telnyx's portal shows it");
    let public_key = key.and_then(|value| signature::public_key(value.str()?).map_err(|it| value.problem(it)).ok());
    let api_key = match section.get("api-key") {
        Some(value) => secret::read(&value, environment, folder).inspect(|key| {
            if !key.reveal().bytes().all(|byte| byte.is_ascii_graphic()) {
                value.problem_hidden("an API key is visible ASCII without blanks");
            }
        }),
        None => secret::by_name(API_KEY, environment),
    };
    let api_url = match section.get("api-url") {
        Some(value) => web_url(&value, "https://api.telnyx.com").filter(|url| {
            let is_safe = url.secure || url.is_loopback();
            if !is_safe {
                value.problem("http:// is for this machine only: the API key would go in the clear; wanted https://");
            }
            is_safe
        }),
        None => Some(Url::parse("wss://api.telnyx.com").expect("it is one")),
    };
    let public_url = section.require("public-url", "wanted how the world reaches this machine, https://HOST");
    let public_url = public_url.and_then(|value| {
        let url = web_url(&value, "https://voice.example.com")?;
        if !url.secure {
            value.problem("Telnyx streams over TLS only; wanted https://");
        }
        Some(url)
    });
    let stream_path = match section.get("stream-path") {
        Some(value) => value.str().filter(|path| {
            let is_path = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
            if !is_path {
                value.problem(format!("wanted a path of the line, e.g. \"{STREAM_PATH}\""));
            }
            is_path
        }),
        None => Some(STREAM_PATH),
    };
    let line = section.require("line", "wanted the name of the line that takes the streams").and_then(|value| {
        let name = value.str()?;
        let index = lines.0.iter().position(|line| *line == name);
        if index.is_none() {
            value.problem(no_such("line", name, lines.0));
        }
        let path = path_of(&value, &section, lines.1.get(index?)?.as_ref()?, stream_path?);
        Some((index?, name.to_owned(), path?))
    });
    let stream = stream(&mut section);
    let answer = switch(&mut section, "answer");
    let hangup = switch(&mut section, "hangup");
    section.finish();
    let (line, line_name, path) = line?;
    Some(Telnyx {
        webhook_listen: webhook_listen?,
        public_key: public_key?,
        api_key,
        api_url: api_url?,
        public_url: public_url?,
        stream_path: stream_path?.to_owned(),
        line,
        line_name,
        path,
        stream,
        answer,
        hangup,
    })
}

/// Which of the line's paths takes the streams. Telnyx would be answered 404 on any other, and the caller hear nothing.
fn path_of(named: &Value<'_>, section: &Section<'_>, line: &Line, stream_path: &str) -> Option<usize> {
    let listen = line.kind.websocket().and_then(WebsocketLine::listen);
    let Some(listen) = listen else {
        named.problem("Telnyx streams over WebSockets; wanted a line of the kind \"websocket\" that listens");
        return None;
    };
    let path = stream_path.split('?').next().unwrap_or_default();
    let Some(index) = listen.paths.iter().position(|own| own.path == path) else {
        let table = &line.name;
        section.problem(
            "stream-path",
            format!("[line.{table}] has no path {path:?}; wanted the `path` of one of its [[line.{table}.path]]"),
        );
        return None;
    };
    if listen.paths[index].dialect.is_some_and(|dialect| dialect != "telnyx") {
        section.problem("stream-path", "another dialect is spoken there; wanted dialect = \"telnyx\" on that path");
        return None;
    }
    Some(index)
}

fn webhook_listen(section: &mut Section<'_>, taken: &[(String, SocketAddr)]) -> Option<SocketAddr> {
    let value = section.get("webhook-listen");
    let anywhere = section.flag("webhook-anywhere");
    let listen = match &value {
        None => SocketAddr::from((Ipv4Addr::LOCALHOST, WEBHOOK_PORT)),
        Some(value) => {
            let listen = address(value, WEBHOOK_PORT, "")?;
            if !anywhere && !is_loopback(listen.ip()) {
                value.problem(
                    "there is no TLS here, and others could read the webhooks; listen on 127.0.0.1 behind a reverse \
                     proxy, or set webhook-anywhere = true",
                );
            }
            listen
        }
    };
    if let Some((other, _)) = taken.iter().find(|(_, other)| is_same_place(*other, listen)) {
        section.problem("webhook-listen", format!("{listen} is taken by {other}; wanted another port"));
    }
    Some(listen)
}

/// The profile, and what is set beside it.
fn stream(section: &mut Section<'_>) -> Stream {
    let names = PROFILES.map(|(name, _)| name);
    let profile = one_of(section, "profile", &names).unwrap_or(PROFILES[0].0);
    let mut stream = PROFILES.iter().find(|(name, _)| *name == profile).unwrap_or(&PROFILES[0]).1;
    let fields = [
        ("stream-track", TRACKS, &mut stream.track),
        ("stream-bidirectional-mode", MODES, &mut stream.mode),
        ("stream-bidirectional-codec", CODECS, &mut stream.codec),
        ("stream-bidirectional-target-legs", TARGET_LEGS, &mut stream.target_legs),
    ];
    for (key, allowed, field) in fields {
        *field = one_of(section, key, allowed).unwrap_or(field);
    }
    stream.stream_codec = one_of(section, "stream-codec", STREAM_CODECS).or(stream.stream_codec);
    if let Some(value) = section.get("stream-bidirectional-sampling-rate") {
        let rate = value.integer().and_then(|hz| u32::try_from(hz).ok()).filter(|hz| RATES.contains(hz));
        if rate.is_none() {
            value.problem("wanted 8000, 16000, 24000 or 48000");
        }
        stream.sampling_rate = rate.unwrap_or(stream.sampling_rate);
    }
    if stream.codec != "L16" && stream.sampling_rate != 8000 {
        let key = if section.has("stream-bidirectional-sampling-rate") {
            "stream-bidirectional-sampling-rate"
        } else {
            "stream-bidirectional-codec"
        };
        section.problem(key, format!("{} at {} Hz: G.711 has 8000 only", stream.codec, stream.sampling_rate));
    }
    stream
}

/// The value of a key that is one of these words.
fn one_of(section: &mut Section<'_>, key: &'static str, words: &[&'static str]) -> Option<&'static str> {
    let value = section.get(key)?;
    let found = value.as_str().unwrap_or_default();
    let word = words.iter().copied().find(|word| *word == found);
    if word.is_none() {
        value.problem(format!("wanted {}", words.join(", ")));
    }
    word
}

/// A switch that is on when nothing is said.
fn switch(section: &mut Section<'_>, key: &'static str) -> bool {
    let Some(value) = section.get(key) else { return true };
    let flag = value.as_bool();
    if flag.is_none() {
        value.problem("wanted true or false");
    }
    flag.unwrap_or(true)
}

/// A URL of the web, without a query; ours are otherwise those of WebSockets.
fn web_url(value: &Value<'_>, example: &str) -> Option<Url> {
    let text = value.str()?;
    let parsed = text.split_once("://").and_then(|(scheme, rest)| match scheme {
        _ if scheme.eq_ignore_ascii_case("https") => Some(Url::parse(&format!("wss://{rest}"))),
        _ if scheme.eq_ignore_ascii_case("http") => Some(Url::parse(&format!("ws://{rest}"))),
        _ => None,
    });
    let problem = match parsed {
        Some(Ok(url)) if !url.path_and_query.contains('?') => return Some(url),
        Some(Ok(_)) => "a query has no place here".to_owned(),
        Some(Err(wanted)) if !wanted.contains("WebSocket URL such") => wanted.to_owned(),
        Some(Err(_)) | None => format!("wanted a URL such as `{example}`"),
    };
    value.problem_as(format!("{:?}", shown_url(text)), problem);
    None
}

/// A text as a part of a path or the value of a query (RFC 3986 2.3, 3.3). The colon that ids of calls have may stay.
pub(crate) fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// The credential that is looked for when `api-key` names none.
const API_KEY: &str = "telnyx-api-key";
const WEBHOOK_PORT: u16 = 9465;
/// Where bridges for Telnyx take streams by custom.
const STREAM_PATH: &str = "/media-stream-ws";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{collections::HashMap, path::PathBuf};

    use super::*;
    use crate::config::{Config, Problems, resolve::resolve};

    /// Its public key is nobody's: the other half was thrown away.
    const GOOD: &str = r#"[telnyx]
public-key = "IbKMHXVpJbj1bLUMczT5OZlMiKjwB0fGm/VtEOSrsLA="
public-url = "https://voice.example.com"
line = "telnyx"
[line.telnyx]
kind = "websocket"
listen = "127.0.0.1:9092"
plain = true
[[line.telnyx.path]]
path = "/media-stream-ws"
dialect = "telnyx"
[[line.telnyx.path]]
path = "/ws"
[[line.telnyx.path]]
path = "/exotel"
dialect = "exotel"
[trunk.agent]
url = "wss://agent.example.com/ws"
dialect = "ozonetel"
[[route]]
line = "telnyx"
trunks = ["agent"]
"#;

    #[derive(Default)]
    struct Given {
        variables: HashMap<&'static str, &'static str>,
        credentials: Option<PathBuf>,
    }

    impl Environment for Given {
        fn var(&self, name: &str) -> Option<String> {
            self.variables.get(name).map(|value| (*value).to_owned())
        }

        fn credentials_dir(&self) -> Option<PathBuf> {
            self.credentials.clone()
        }
    }

    fn read_with(more: &str, given: &Given) -> Result<Config, Problems> {
        resolve(Path::new("t.toml"), &GOOD.replacen("[telnyx]\n", &format!("[telnyx]\n{more}\n"), 1), given)
    }

    fn read(more: &str) -> Telnyx {
        read_with(more, &Given::default()).unwrap().telnyx.unwrap()
    }

    fn problems(more: &str) -> Vec<String> {
        let given = Given { variables: HashMap::from([("BLANK", "a b")]), credentials: None };
        let said = read_with(more, &given).unwrap_err().0;
        said.iter().map(ToString::to_string).map(|said| said.replace("t.toml:2: [telnyx] ", "")).collect()
    }

    #[test]
    fn what_is_not_said_is_as_telnyx_always_works() {
        let telnyx = read("");
        assert_eq!(telnyx.webhook_listen.to_string(), "127.0.0.1:9465");
        assert_eq!((telnyx.line, telnyx.line_name.as_str(), telnyx.path), (0, "telnyx", 0));
        assert_eq!(telnyx.stream, PROFILES[0].1);
        assert!(telnyx.answer && telnyx.hangup && telnyx.api_key.is_none());
        assert_eq!((telnyx.api_url.secure, telnyx.api_url.authority.as_str()), (true, "api.telnyx.com"));
        assert!(resolve(Path::new("t.toml"), &GOOD.replace("[telnyx]", "[telnix]"), &Given::default()).is_err());
    }

    #[test]
    fn the_streams_url_is_the_public_one_with_another_scheme_the_lines_path_and_the_call() {
        let call = "v3:MdI91X4lWFEs7IgbBEOT9M4AigoY08M0WWZFISt1Yw2axZ_IiE4pqg";
        assert_eq!(read("").stream_url(call), format!("wss://voice.example.com/media-stream-ws?call_id={call}"));
        let telnyx = read("stream-path = \"/ws?site=depot\"");
        assert_eq!(telnyx.stream_url("Ag+/=="), "wss://voice.example.com/ws?site=depot&call_id=Ag%2B%2F%3D%3D");
        let text = GOOD.replace("voice.example.com", "Voice.example.com:8443/trunkline/");
        let config = resolve(Path::new("t.toml"), &text, &Given::default()).unwrap();
        let url = config.telnyx.unwrap().stream_url("a");
        assert_eq!(url, "wss://voice.example.com:8443/trunkline/media-stream-ws?call_id=a");
    }

    #[test]
    fn the_key_is_sought_among_the_credentials_when_it_is_not_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secrets_telnyx-api-key"), "KEY0123\n").unwrap();
        let given = Given { credentials: Some(folder.path().to_owned()), ..Given::default() };
        let telnyx = read_with("", &given).unwrap().telnyx.unwrap();
        assert_eq!(telnyx.api_key.as_ref().unwrap().reveal(), "KEY0123");
        assert!(!format!("{telnyx:?}").contains("KEY0123"));
    }

    #[test]
    fn a_profile_is_a_start_and_each_of_its_fields_can_be_set() {
        assert_eq!(read("profile = \"telnyx-l16-24k\"").stream, PROFILES[2].1);
        let stream = read(
            r#"profile = "telnyx-l16-24k"
stream-track = "outbound_track"
stream-bidirectional-mode = "rtp"
stream-bidirectional-codec = "L16"
stream-bidirectional-sampling-rate = 48_000
stream-bidirectional-target-legs = "both"
stream-codec = "default""#,
        )
        .stream;
        let wanted = Stream {
            track: "outbound_track",
            sampling_rate: 48_000,
            target_legs: "both",
            stream_codec: Some("default"),
            ..PROFILES[2].1
        };
        assert_eq!(stream, wanted);
    }

    #[test]
    fn every_way_to_break_it_is_told_with_its_remedy() {
        for (more, wanted) in [
            (
                "webhook-listen = \"0.0.0.0:80\"",
                "webhook-listen = \"0.0.0.0:80\": there is no TLS here, and others could read the webhooks; listen on \
                 127.0.0.1 behind a reverse proxy, or set webhook-anywhere = true",
            ),
            (
                "webhook-listen = \"127.0.0.1:9464\"",
                "webhook-listen: 127.0.0.1:9464 is taken by [control] http; wanted another port",
            ),
            (
                "webhook-listen = \"127.0.0.1:9092\"",
                "webhook-listen: 127.0.0.1:9092 is taken by [line.telnyx] listen; wanted another port",
            ),
            (
                "api-url = \"http://api.telnyx.com\"",
                "api-url = \"http://api.telnyx.com\": http:// is for this machine only: the API key would go in the \
                 clear; wanted https://",
            ),
            (
                "api-url = \"api.telnyx.com\"",
                "api-url = \"api.telnyx.com\": wanted a URL such as `https://api.telnyx.com`",
            ),
            (
                "api-url = \"https://u:hush@a/\"",
                "api-url = \"https://***@a/\": a user and password do not belong into the URL; use `basic`",
            ),
            ("api-url = \"https://a/?x=hush\"", "api-url = \"https://a/?...\": a query has no place here"),
            (
                "api-key = \"hush\"",
                "api-key = ***: a secret is never written down here; wanted { credential = \"NAME\" }, { file = \
                 \"PATH\" } or { env = \"NAME\" }",
            ),
            ("api-key = { env = \"BLANK\" }", "api-key = ***: an API key is visible ASCII without blanks"),
            ("stream-path = \"ws\"", "stream-path = \"ws\": wanted a path of the line, e.g. \"/media-stream-ws\""),
            (
                "profile = \"telnyx-l16\"",
                "profile = \"telnyx-l16\": wanted telnyx-pcmu-8k, telnyx-l16-16k, telnyx-l16-24k",
            ),
            ("stream-track = 5", "stream-track = 5: wanted inbound_track, outbound_track, both_tracks"),
            ("stream-bidirectional-mode = \"mp3\"", "stream-bidirectional-mode = \"mp3\": wanted rtp"),
            ("stream-bidirectional-codec = \"pcmu\"", "stream-bidirectional-codec = \"pcmu\": wanted PCMU, PCMA, L16"),
            (
                "stream-bidirectional-sampling-rate = 22050",
                "stream-bidirectional-sampling-rate = 22050: wanted 8000, 16000, 24000 or 48000",
            ),
            (
                "stream-bidirectional-sampling-rate = 16000",
                "stream-bidirectional-sampling-rate: PCMU at 16000 Hz: G.711 has 8000 only",
            ),
            ("answer = 1", "answer = 1: wanted true or false"),
            (
                "stream-path = \"/elsewhere?site=depot\"",
                "stream-path: [line.telnyx] has no path \"/elsewhere\"; wanted the `path` \
                 of one of its [[line.telnyx.path]]",
            ),
            (
                "stream-path = \"/exotel\"",
                "stream-path: another dialect is spoken there; wanted dialect = \"telnyx\" on that path",
            ),
        ] {
            assert_eq!(problems(more), [wanted], "{more}");
        }
        let codec = "profile = \"telnyx-l16-16k\"\nstream-bidirectional-codec = \"PCMA\"";
        let wanted = "t.toml:3: [telnyx] stream-bidirectional-codec: PCMA at 16000 Hz: G.711 has 8000 only";
        assert_eq!(problems(codec), [wanted]);
    }

    #[test]
    fn what_has_to_be_there_is_missed_and_what_must_not_be_is_refused() {
        for (from, to, wanted) in [
            (
                "public-key = \"IbKMHXVpJbj1bLUMczT5OZlMiKjwB0fGm/VtEOSrsLA=\"",
                "",
                "t.toml:1: [telnyx] public-key: missing; wanted the account's public key, as Telnyx's portal shows it",
            ),
            (
                "IbKMHXVp",
                "",
                "t.toml:2: [telnyx] public-key = \"Jbj1bLUMczT5OZlMiKjwB0fGm/VtEOSrsLA=\": wanted the account's public \
                 key as the portal shows it: 44 characters of base64",
            ),
            (
                "https://voice",
                "http://voice",
                "t.toml:3: [telnyx] public-url = \"http://voice.example.com\": Telnyx streams over TLS only; wanted \
                 https://",
            ),
            (
                "line = \"telnyx\"\n[line",
                "line = \"telnix\"\n[line",
                "t.toml:4: [telnyx] line = \"telnix\": no such line; did you mean `telnyx`? (telnyx)",
            ),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let said = resolve(Path::new("t.toml"), &GOOD.replacen(from, to, 1), &Given::default()).unwrap_err();
            assert_eq!(said.to_string(), wanted);
        }
    }

    #[test]
    fn a_line_that_telnyx_cannot_stream_to_is_told_by_the_check() {
        let (before, after) = GOOD.split_once("kind = ").unwrap();
        let (_, after) = after.split_once("[trunk.agent]").unwrap();
        for kind in [
            "kind = \"audiosocket\"",
            "kind = \"websocket\"\ndial = \"wss://vendor.example.com/ws\"\ndialect = \"ozonetel\"",
        ] {
            let text = format!("{before}{kind}\n[trunk.agent]{after}");
            let said = resolve(Path::new("t.toml"), &text, &Given::default()).unwrap_err();
            assert_eq!(
                said.to_string(),
                "t.toml:4: [telnyx] line = \"telnyx\": Telnyx streams over WebSockets; wanted a line of the kind \
                 \"websocket\" that listens"
            );
        }
    }

    #[test]
    fn who_opens_the_webhooks_to_others_is_warned() {
        let given = Given::default();
        let config = read_with("webhook-listen = \"192.0.2.20\"\nwebhook-anywhere = true", &given).unwrap();
        assert_eq!(config.telnyx.as_ref().unwrap().webhook_listen.to_string(), "192.0.2.20:9465");
        assert_eq!(config.warnings().len(), 1);
    }
}
