//! Where a config keeps what is told of calls, and nothing else of it.
//!
//! Somebody who asks about a call need not be allowed to read the secrets that the whole config needs, so this reads
//! leniently: what cannot be read is as if nothing was said.

use std::{
    fs,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

/// The folders of a config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// `[records] directory`.
    pub records: Option<PathBuf>,
    /// `[events] directory`.
    pub events: Option<PathBuf>,
}

impl Places {
    /// As this config has them.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let folder = path.parent().unwrap_or(Path::new(""));
        fs::read_to_string(path).map(|text| Self::read(&text, folder)).unwrap_or_default()
    }

    fn read(text: &str, folder: &Path) -> Self {
        let Ok(table) = DeTable::parse(text) else { return Self::default() };
        let table = table.get_ref();
        let directory = |name: &str| {
            let DeValue::Table(section) = table.get(name)?.get_ref() else { return None };
            let DeValue::String(directory) = section.get("directory")?.get_ref() else { return None };
            (directory != "off").then(|| folder.join(directory.as_ref()))
        };
        Self { records: directory("records"), events: directory("events") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_found_whatever_else_is_wrong_with_a_config() {
        let text = "[records]\ndirectory = \"kept\"\n[events]\ndirectory = \"/var/events\"\n[line.x]\nkind = 7";
        let places = Places::read(text, Path::new("/etc/trunkline"));
        assert_eq!(places.records.as_deref(), Some(Path::new("/etc/trunkline/kept")));
        assert_eq!(places.events.as_deref(), Some(Path::new("/var/events")));
        for text in
            ["", "[records]", "[records]\ndirectory = 7", "records = 7", "[[[", "[records]\ndirectory = \"off\""]
        {
            assert_eq!(Places::read(text, Path::new("/etc")), Places::default(), "{text}");
        }
    }
}
