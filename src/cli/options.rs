//! What the stand-ins' command lines say about a dialect.

use core::fmt;

use crate::{
    dialect::{self, OptionError, OptionValue, Options, Role},
    media::Rate,
};

/// An `--option` that cannot be set, and why.
#[derive(Debug)]
pub struct OptionRefused(pub String, pub String);

impl fmt::Display for OptionRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--option {}: {}", self.0, self.1)
    }
}

/// The rate that a request target names: `sample-rate`, or `sample_rate` as Exotel writes it.
pub(super) fn rate_of(query: &str) -> Option<Rate> {
    let named = query.split('&').filter_map(|pair| pair.split_once('='));
    let mut rates = named.filter(|(key, _)| matches!(*key, "sample-rate" | "sample_rate"));
    Rate::from_hz(rates.next()?.1.parse().ok()?)
}

/// One of our rates, for clap.
pub(super) fn parse_rate(text: &str) -> Result<Rate, String> {
    let rate = text.parse().ok().and_then(Rate::from_hz);
    rate.ok_or_else(|| "8000, 16000, 24000 and 48000 are possible".to_owned())
}

/// What `--option` sets, each for every dialect that may be spoken and has it, in the role that we play.
pub(super) fn options(given: &[String], dialect: Option<&'static str>, role: Role) -> Result<Options, OptionRefused> {
    let player = match role {
        Role::Agent => "an agent",
        Role::Vendor => "a vendor",
    };
    let mut options = Options::default();
    let spoken = || dialect::NAMES.iter().copied().filter(|&name| dialect.is_none_or(|only| only == name));
    for text in given {
        let refused = |words: String| OptionRefused(text.clone(), words);
        let (key, value) = text.split_once('=').ok_or_else(|| refused("write KEY=VALUE".to_owned()))?;
        let value = match (value.parse(), value.parse()) {
            (Ok(flag), _) => OptionValue::Bool(flag),
            (_, Ok(number)) => OptionValue::Int(number),
            (Err(_), Err(_)) => OptionValue::Str(value),
        };
        // What only the other role minds would do nothing here.
        let ours = |name| Options::known(name).iter().filter(|info| info.role.is_none_or(|only| only == role));
        let mut names = spoken().filter(|&name| ours(name).any(|info| info.key == key)).peekable();
        if names.peek().is_none() {
            let all: Vec<_> = spoken().flat_map(ours).map(|info| info.key).collect();
            let there_are = if all.is_empty() { "is none".to_owned() } else { format!("are: {}", all.join(", ")) };
            return Err(refused(format!("{player} has no such option; there {there_are}")));
        }
        for name in names {
            options.set(name, key, value).map_err(|error| match error {
                OptionError::Unknown => refused("there is no such option".to_owned()),
                OptionError::Expected(wanted) => refused(format!("wanted {wanted}")),
            })?;
        }
    }
    Ok(options)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn options_are_set_for_every_dialect_that_has_them() {
        let set = |given: &[&str], dialect, role| {
            let given: Vec<_> = given.iter().map(|&text| text.to_owned()).collect();
            options(&given, dialect, role).map_err(|error| error.to_string())
        };
        let all = set(&["seqid=false", "chunk-bytes=320", "agent-style=minimal"], None, Role::Agent).unwrap();
        let mut wanted = Options::default();
        wanted.set("ozonetel", "seqid", OptionValue::Bool(false)).unwrap();
        wanted.set("exotel", "chunk-bytes", OptionValue::Int(320)).unwrap();
        wanted.set("exotel", "agent-style", OptionValue::Str("minimal")).unwrap();
        assert_eq!((all.ozonetel, all.exotel), (wanted.ozonetel, wanted.exotel));
        for (text, dialect, words) in [
            ("seqid", None, "write KEY=VALUE"),
            ("seqid=1", None, "wanted true or false"),
            (
                "seqid=true",
                Some("exotel"),
                "an agent has no such option; there are: numbers, chunk-bytes, agent-style, direction",
            ),
            (
                "key-style=camel",
                Some("exotel"),
                "an agent has no such option; there are: numbers, chunk-bytes, agent-style, direction",
            ),
            ("x=1", Some("binary"), "an agent has no such option; there is none"),
        ] {
            assert_eq!(set(&[text], dialect, Role::Agent).unwrap_err(), format!("--option {text}: {words}"));
        }
        let vendor = set(&["key-style=camel"], Some("exotel"), Role::Vendor).unwrap();
        assert_ne!(vendor.exotel, Options::default().exotel);
        let refused = set(&["agent-style=minimal"], Some("exotel"), Role::Vendor).unwrap_err();
        assert!(refused.contains("a vendor has no such option; there are: key-style"), "{refused}");
    }
}
