//! `--name value` pairs, and nothing more.

use std::{collections::BTreeMap, str::FromStr};

/// The options of a command line.
#[derive(Debug)]
pub struct Args {
    options: BTreeMap<String, String>,
}

impl Args {
    /// Reads `--name value` pairs. `known` are the names that may stand there.
    ///
    /// # Errors
    /// The first argument that makes no sense, in words.
    pub fn parse(mut args: impl Iterator<Item = String>, known: &[&str]) -> Result<Self, String> {
        let mut options = BTreeMap::new();
        while let Some(arg) = args.next() {
            let name = arg.strip_prefix("--").filter(|name| known.contains(name));
            let name = name.ok_or_else(|| format!("{arg}: not one of --{}", known.join(", --")))?;
            let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
            options.insert(name.to_owned(), value);
        }
        Ok(Self { options })
    }

    /// The text of an option, if it was given.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    /// The value of an option, or `default` when it was not given.
    ///
    /// # Errors
    /// The value makes no sense.
    pub fn or<T: FromStr>(&self, name: &str, default: T) -> Result<T, String> {
        match self.text(name) {
            Some(text) => text.parse().map_err(|_| format!("--{name} {text}: cannot be read")),
            None => Ok(default),
        }
    }

    /// The value of an option that has to be there.
    ///
    /// # Errors
    /// It is not, or makes no sense.
    pub fn required<T: FromStr>(&self, name: &str) -> Result<T, String> {
        let text = self.text(name).ok_or_else(|| format!("--{name} is missing"))?;
        text.parse().map_err(|_| format!("--{name} {text}: cannot be read"))
    }
}
