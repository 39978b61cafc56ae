//! Secrets: where they come from, and that nobody sees them.
//!
//! A config file names a secret, it never holds one. What was read here is shown as `***` wherever it is printed.

use core::fmt;
use std::{
    fs,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use subtle::ConstantTimeEq;

use crate::config::{Environment, file::Value};

/// A text that is never printed.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text from being printed.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the wire only.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// How long it takes to find two different tells nothing of them.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Reads the secret that a value names; relative files are sought in `folder`. `None`: the problem was reported.
pub(super) fn read(value: &Value<'_>, environment: &dyn Environment, folder: &Path) -> Option<Secret> {
    read_as(value, environment, folder, char::is_control)
}

/// The same for a key in PEM, which has several lines.
pub(super) fn read_key(value: &Value<'_>, environment: &dyn Environment, folder: &Path) -> Option<Secret> {
    read_as(value, environment, folder, |c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
}

fn read_as(
    value: &Value<'_>,
    environment: &dyn Environment,
    folder: &Path,
    refused: fn(char) -> bool,
) -> Option<Secret> {
    if value.as_table().is_none() {
        value.problem_hidden(format!("a secret is never written down here; wanted {WANTED}"));
        return None;
    }
    let mut section = value.section_in_line()?;
    let sources = [section.get("credential"), section.get("file"), section.get("env")];
    section.finish();
    let [credential, file, variable] = &sources;
    if sources.iter().flatten().count() != 1 {
        // A misspelt source was reported already.
        if section.is_known() {
            value.problem_hidden(format!("wanted one source: {WANTED}"));
        }
        return None;
    }
    // What is found nowhere may be the secret itself, so it is not repeated.
    if let Some(value) = credential {
        let (name, folder) = (value.str()?, environment.credentials_dir());
        let found = from_credential(name, folder.as_deref());
        of(value, found.is_ok(), found, refused)
    } else if let Some(value) = file {
        let path = folder.join(value.str()?);
        of(value, path.exists(), from_file(&path), refused)
    } else if let Some(value) = variable {
        let name = value.str()?;
        if !is_variable(name) {
            value.problem_hidden("wanted the name of an environment variable");
            return None;
        }
        let found = environment.var(name).ok_or_else(|| "this environment variable is not set".to_owned());
        of(value, found.is_ok() || looks_like_variable(name), found, refused)
    } else {
        None
    }
}

/// The credential of this name, if systemd gave one that can be used: for secrets that have a name when they are given
/// none.
pub(super) fn by_name(name: &str, environment: &dyn Environment) -> Option<Secret> {
    let text = from_credential(name, environment.credentials_dir().as_deref()).ok()?;
    let line = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    (!line.is_empty() && !line.contains(char::is_control)).then(|| Secret::new(line))
}

/// `is_name`: what stands in the file names something and can be shown.
fn of(value: &Value<'_>, is_name: bool, found: Result<String, String>, refused: fn(char) -> bool) -> Option<Secret> {
    let checked = found.and_then(|mut text| {
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        match text {
            _ if text.is_empty() => Err("the secret is empty".to_owned()),
            _ if text.contains(refused) => Err("the secret has a line break or control character".to_owned()),
            _ => Ok(Secret(text)),
        }
    });
    checked.map_err(|wanted| if is_name { value.problem(wanted) } else { value.problem_hidden(wanted) }).ok()
}

/// systemd.exec(5): `LoadCredential=NAME:PATH` makes the file NAME; where PATH is a folder, its files become NAME_FILE,
/// so that `LoadCredential=secrets:/etc/trunkline/secrets` serves every secret by one line.
fn from_credential(name: &str, folder: Option<&Path>) -> Result<String, String> {
    let path = credential(name, folder)?;
    contents(&path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

/// The file of a credential.
pub(super) fn credential(name: &str, folder: Option<&Path>) -> Result<PathBuf, String> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err("wanted the name of a credential, not a path".to_owned());
    }
    let Some(folder) = folder else {
        return Err("there are no credentials: $CREDENTIALS_DIRECTORY is not set (systemd: LoadCredential=)".to_owned());
    };
    let places = [folder.join(name), folder.join(format!("secrets_{name}"))];
    let found = places.into_iter().find(|path| path.exists());
    found.ok_or_else(|| format!("no such credential in {} (systemd: LoadCredential=)", folder.display()))
}

fn from_file(path: &Path) -> Result<String, String> {
    let unreadable = |error| format!("cannot be read: {error}");
    let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(format!("mode {mode:04o} lets others at it; run: chmod 600 {}", path.display()));
    }
    contents(path).map_err(unreadable)
}

pub(super) fn contents(path: &Path) -> io::Result<String> {
    // Asked before it is opened: opening a named pipe waits for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("too long for a secret"));
    }
    Ok(text)
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// By custom they are in capitals, and few tokens are (POSIX 8.1).
fn looks_like_variable(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit()) && !name.bytes().any(|byte| byte.is_ascii_lowercase())
}

const WANTED: &str = r#"{ credential = "NAME" }, { file = "PATH" } or { env = "NAME" }"#;

/// A whole request head is rarely allowed more than 8 KiB; a larger secret is the wrong file.
const MAX_BYTES: u64 = 16 << 10;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_as_stars_only() {
        let secret = Secret::new("hush");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** *** Some(***)");
        assert_eq!(secret.reveal(), "hush");
    }

    #[test]
    fn a_credential_is_found_alone_or_in_the_folder_of_secrets() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("alone"), "one").unwrap();
        fs::write(folder.path().join("secrets_shared"), "two").unwrap();
        assert_eq!(from_credential("alone", Some(folder.path())).unwrap(), "one");
        assert_eq!(from_credential("shared", Some(folder.path())).unwrap(), "two");
        for bad in ["", "../alone", ".", "..", "none"] {
            assert!(from_credential(bad, Some(folder.path())).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_or_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, "hush\n").unwrap();
        for (mode, good) in
            [(0o600, true), (0o400, true), (0o700, true), (0o640, false), (0o604, false), (0o620, false)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(from_file(&path).is_ok(), good, "{mode:o}");
        }
    }

    #[test]
    fn a_wrong_file_is_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("video");
        fs::write(&path, vec![b'x'; MAX_BYTES as usize + 1]).unwrap();
        assert!(contents(&path).is_err());
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(contents(&path).is_err());
        assert!(contents(folder.path()).is_err());
    }
}
