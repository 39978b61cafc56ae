//! What an OpenAI trunk has that no other has: a place of its own, a model, and the operator's session in a JSON file.
//!
//! The session is read and checked once, at the start, and becomes the ready text of a `session.update`: on the media
//! path nothing is parsed or put together. The formats of audio in it are replaced, because they are not the model's but
//! the wire's, and two places that name them would sooner or later differ.

use std::{fs, path::Path, sync::Arc};

use serde_json::{Map, Value};

use crate::{
    config::{HeaderValue, Url},
    dialect::openai::{Options, Shape, Sound, Update},
};

/// Where a trunk without a `url` goes.
pub(super) fn default_url() -> Url {
    Url::parse("wss://api.openai.com/v1/realtime").expect("our own constant is a URL")
}

/// Puts the model into the URL, unless that names one, and the word that the beta wants into the headers, unless that is
/// there.
pub(super) fn complete(url: Option<&mut Url>, headers: &mut Vec<(String, HeaderValue)>, options: &Options) {
    if let (Some(url), Some(model)) = (url, options.model()) {
        let query = url.path_and_query.split_once('?').map(|(_, query)| query);
        let names_one = query.is_some_and(|query| query.split('&').any(|pair| pair.split('=').next() == Some("model")));
        if !names_one {
            let sign = if query.is_some() { '&' } else { '?' };
            url.path_and_query.push_str(&format!("{sign}model={}", encoded(model)));
        }
    }
    if options.shape() == Some(Shape::Beta) && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(BETA_HEADER)) {
        headers.push((BETA_HEADER.to_owned(), HeaderValue::Plain("realtime=v1".to_owned())));
    }
}

/// A text as a part of a query (RFC 3986 2.1).
fn encoded(text: &str) -> String {
    let spell = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(spell).collect()
}

/// Reads the file and makes messages of it.
///
/// # Errors
/// Says what would do.
pub(super) fn session(path: &Path, options: &Options) -> Result<Update, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    let facts = fs::metadata(path).map_err(cannot)?;
    // Asked before it is opened: a named pipe would wait for its writer.
    if !facts.is_file() {
        return Err("it is not a file".to_owned());
    }
    if facts.len() > MAX_BYTES {
        return Err(format!("it has {} bytes; a session has at most {MAX_BYTES}", facts.len()));
    }
    update(&fs::read_to_string(path).map_err(cannot)?, options)
}

fn update(text: &str, options: &Options) -> Result<Update, String> {
    let session = match serde_json::from_str(text) {
        Ok(Value::Object(session)) => session,
        Ok(_) => return Err(WANTED.to_owned()),
        Err(error) => return Err(format!("it is not JSON: {error}")),
    };
    match session.get("type") {
        None => {}
        Some(kind) if kind == "realtime" => {}
        Some(kind) if kind == "session.update" => {
            return Err("it is a whole message; wanted only what stands in its `session`".to_owned());
        }
        Some(kind) => return Err(format!("its type is {kind}; a call needs a session of type \"realtime\"")),
    }
    let named = |keys: &[&'static str]| keys.iter().copied().find(|key| session.contains_key(*key));
    let (ga, beta) = (named(GA_KEYS), named(BETA_KEYS));
    match (ga, beta, options.shape()) {
        (Some(ga), Some(beta), _) => {
            return Err(format!("`{ga}` is a key of the GA shape and `{beta}` of the beta shape; wanted one of them"));
        }
        (Some(ga), None, Some(Shape::Beta)) => {
            return Err(format!("`{ga}` is a key of the GA shape, but api = \"beta\""));
        }
        (None, Some(beta), Some(Shape::Ga)) => {
            return Err(format!("`{beta}` is a key of the beta shape, but api = \"ga\""));
        }
        _ => {}
    }
    Ok(Update {
        ga: if beta.is_none() { Some(message(as_ga(session.clone(), options.sound())?)) } else { None },
        beta: if ga.is_none() { Some(message(as_beta(session, options.sound()))) } else { None },
    })
}

fn as_ga(mut session: Map<String, Value>, sound: Sound) -> Result<Map<String, Value>, String> {
    FORMAT_KEYS.iter().for_each(|key| drop(session.remove(*key)));
    session.insert("type".to_owned(), "realtime".into());
    let format: Value = serde_json::from_str(sound.ga()).expect("our own constants are JSON");
    let audio = session.entry("audio").or_insert_with(|| Map::new().into());
    let audio = audio.as_object_mut().ok_or("its `audio` is not an object")?;
    for way in ["input", "output"] {
        let way_of = audio.entry(way).or_insert_with(|| Map::new().into());
        let way_of = way_of.as_object_mut().ok_or_else(|| format!("its `audio.{way}` is not an object"))?;
        way_of.insert("format".to_owned(), format.clone());
    }
    Ok(session)
}

fn as_beta(mut session: Map<String, Value>, sound: Sound) -> Map<String, Value> {
    for key in FORMAT_KEYS {
        session.insert((*key).to_owned(), sound.beta().into());
    }
    session
}

fn message(session: Map<String, Value>) -> Arc<str> {
    format!(r#"{{"type":"session.update","session":{}}}"#, Value::Object(session)).into()
}

/// A client of the beta says so (OpenAI, Python SDK 1.x, `beta.realtime`); of the GA shape none does.
const BETA_HEADER: &str = "OpenAI-Beta";
const WANTED: &str = "wanted a JSON object, the `session` of a session.update";
/// The longest file (bytes). Instructions are a page or two and tools a few; the model's own limit is lower.
const MAX_BYTES: u64 = 256 * 1024;
/// What only a GA session has (OpenAI, "Realtime API reference", session.update).
const GA_KEYS: &[&str] = &["type", "audio", "output_modalities", "max_output_tokens"];
/// What only a beta session has, but for the formats, which are ours.
const BETA_KEYS: &[&str] = &[
    "modalities",
    "voice",
    "speed",
    "temperature",
    "turn_detection",
    "input_audio_transcription",
    "input_audio_noise_reduction",
    "max_response_output_tokens",
];
/// How a beta session names its formats.
const FORMAT_KEYS: &[&str] = &["input_audio_format", "output_audio_format"];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::dialect::OptionValue;

    fn options(set: &[(&str, &str)]) -> Options {
        let mut options = Options::default();
        set.iter().for_each(|(key, value)| options.set(key, OptionValue::Str(value)).unwrap());
        options
    }

    fn parsed(text: Option<Arc<str>>) -> Value {
        serde_json::from_str(&text.unwrap()).unwrap()
    }

    #[test]
    fn a_model_goes_into_the_url_that_names_none() {
        for (url, wanted) in [
            ("wss://api.openai.com/v1/realtime", "/v1/realtime?model=gpt%20%2B-realtime"),
            ("wss://x.example/v1?api-version=1", "/v1?api-version=1&model=gpt%20%2B-realtime"),
            ("wss://x.example/v1?model=other&x=1", "/v1?model=other&x=1"),
            ("wss://x.example/v1?a=1&model", "/v1?a=1&model"),
        ] {
            let mut url = Url::parse(url).unwrap();
            let mut headers = Vec::new();
            complete(Some(&mut url), &mut headers, &options(&[("model", "gpt +-realtime")]));
            assert_eq!(url.path_and_query, wanted);
            assert!(headers.is_empty());
        }
    }

    #[test]
    fn only_a_client_of_the_beta_says_so() {
        for (api, given, wanted) in [
            ("beta", None, Some("realtime=v1")),
            ("beta", Some("realtime=v2"), Some("realtime=v2")),
            ("ga", None, None),
        ] {
            let given = given.map(|value: &str| ("openai-beta".to_owned(), HeaderValue::Plain(value.to_owned())));
            let mut headers = Vec::from_iter(given);
            complete(None, &mut headers, &options(&[("api", api)]));
            assert!(headers.len() < 2);
            assert_eq!(headers.first().map(|(_, value)| value.reveal()), wanted);
        }
    }

    #[test]
    fn a_session_of_either_shape_is_kept_and_its_formats_are_ours() {
        let ga = r#"{"type":"realtime","instructions":"Say \"hi\".","audio":{
            "input":{"format":{"type":"audio/pcm","rate":24000},"transcription":{"model":"whisper-1"}},
            "output":{"voice":"marin"}}}"#;
        let made = update(ga, &options(&[("audio", "pcmu")])).unwrap();
        assert_eq!(made.beta, None);
        let expected = serde_json::json!({"type": "session.update", "session": {
            "type": "realtime", "instructions": "Say \"hi\".", "audio": {
                "input": {"format": {"type": "audio/pcmu"}, "transcription": {"model": "whisper-1"}},
                "output": {"format": {"type": "audio/pcmu"}, "voice": "marin"}}}});
        assert_eq!(parsed(made.ga), expected);

        let beta = r#"{"voice":"alloy","output_audio_format":"pcm16","turn_detection":{"type":"server_vad"}}"#;
        let made = update(beta, &options(&[("audio", "pcma"), ("api", "beta")])).unwrap();
        assert_eq!(made.ga, None);
        let expected = serde_json::json!({"type": "session.update", "session": {
            "voice": "alloy", "turn_detection": {"type": "server_vad"},
            "input_audio_format": "g711_alaw", "output_audio_format": "g711_alaw"}});
        assert_eq!(parsed(made.beta), expected);
    }

    #[test]
    fn a_session_that_could_be_either_is_made_for_both() {
        let made = update(r#"{"instructions":"x","input_audio_format":"pcm16"}"#, &options(&[])).unwrap();
        let format = serde_json::json!({"format": {"type": "audio/pcm", "rate": 24000}});
        let ga =
            serde_json::json!({"type": "realtime", "instructions": "x", "audio": {"input": format, "output": format}});
        assert_eq!(parsed(made.ga)["session"], ga);
        let beta =
            serde_json::json!({"instructions": "x", "input_audio_format": "pcm16", "output_audio_format": "pcm16"});
        assert_eq!(parsed(made.beta)["session"], beta);
    }

    #[test]
    fn what_is_no_session_is_refused_and_says_why() {
        for (text, api, problem) in [
            ("[]", "auto", WANTED),
            ("{", "auto", "it is not JSON: EOF while parsing an object at line 1 column 1"),
            (
                r#"{"type":"transcription"}"#,
                "auto",
                r#"its type is "transcription"; a call needs a session of type "realtime""#,
            ),
            (
                r#"{"type":"session.update","session":{}}"#,
                "auto",
                "it is a whole message; wanted only what stands in its `session`",
            ),
            (
                r#"{"type":"realtime","voice":"alloy"}"#,
                "auto",
                "`type` is a key of the GA shape and `voice` of the beta shape; wanted one of them",
            ),
            (r#"{"audio":{}}"#, "beta", "`audio` is a key of the GA shape, but api = \"beta\""),
            (r#"{"modalities":[]}"#, "ga", "`modalities` is a key of the beta shape, but api = \"ga\""),
            (r#"{"audio":7}"#, "auto", "its `audio` is not an object"),
            (r#"{"audio":{"output":[]}}"#, "auto", "its `audio.output` is not an object"),
        ] {
            assert_eq!(update(text, &options(&[("api", api)])), Err(problem.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_file_that_is_none_or_too_long_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(session(dir.path(), &options(&[])), Err("it is not a file".to_owned()));
        let path = dir.path().join("session.json");
        assert!(session(&path, &options(&[])).unwrap_err().starts_with("cannot be read: "));
        fs::write(&path, " ".repeat(300_000)).unwrap();
        assert_eq!(session(&path, &options(&[])), Err("it has 300000 bytes; a session has at most 262144".to_owned()));
    }
}
