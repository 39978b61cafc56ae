//! A config file as it is written: values, their places, and what is wrong with them.
//!
//! A reader that finds a problem reports it and reads on, so that all of them are told at once. A [`Section`] knows a key
//! by having been asked for it: [`Section::finish`] refuses the rest, so no list of keys can go stale.

use core::{cell::RefCell, ops::RangeInclusive};
use std::path::Path;

use toml::de::{DeTable, DeValue};

use crate::{
    config::{Problem, Problems},
    media::Rate,
};

/// The text of a file and what was found wrong with it so far.
pub(super) struct File<'f> {
    path: &'f Path,
    text: &'f str,
    problems: RefCell<Vec<Problem>>,
}

impl<'f> File<'f> {
    pub(super) fn new(path: &'f Path, text: &'f str) -> Self {
        Self { path, text, problems: RefCell::default() }
    }

    /// Reads the text as TOML.
    pub(super) fn parse(&self) -> Option<DeTable<'f>> {
        match DeTable::parse(self.text) {
            Ok(table) => Some(table.into_inner()),
            Err(error) => {
                let offset = error.span().map_or(0, |span| span.start);
                let message = error.message().replace('\n', ", ");
                self.report(offset, String::new(), String::new(), format!("not TOML: {message}"));
                None
            }
        }
    }

    /// The outermost table.
    pub(super) fn root(&'f self, table: &'f DeTable<'f>) -> Section<'f> {
        Section::new(self, String::new(), 0, Some(table))
    }

    /// What is wrong, in the order of the lines.
    pub(super) fn into_problems(self) -> Option<Problems> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.line);
        if problems.is_empty() { None } else { Some(Problems(problems)) }
    }

    /// The line of a place, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
    }

    fn report(&self, offset: usize, key: String, found: String, wanted: String) {
        let problem = Problem { file: self.path.to_owned(), line: self.line(offset), key, found, wanted };
        self.problems.borrow_mut().push(problem);
    }
}

/// One table, header or inline.
pub(super) struct Section<'f> {
    file: &'f File<'f>,
    /// What stands before a key of it in a message, e.g. `[trunk.agent] `.
    prefix: String,
    offset: usize,
    table: Option<&'f DeTable<'f>>,
    known: Vec<&'static str>,
}

impl<'f> Section<'f> {
    fn new(file: &'f File<'f>, prefix: String, offset: usize, table: Option<&'f DeTable<'f>>) -> Self {
        Self { file, prefix, offset, table, known: Vec::new() }
    }

    /// The value of a key, which is known from now on.
    pub(super) fn get(&mut self, key: &'static str) -> Option<Value<'f>> {
        self.known.push(key);
        self.entries().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// Whether a key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries().any(|(name, _)| name == key)
    }

    /// The value of a key that has to be there.
    pub(super) fn require(&mut self, key: &'static str, wanted: &str) -> Option<Value<'f>> {
        let value = self.get(key);
        if value.is_none() {
            self.problem(key, format!("missing; {wanted}"));
        }
        value
    }

    /// A whole number, its range and what it is when nothing is said.
    pub(super) fn whole(&mut self, key: &'static str, range: RangeInclusive<u32>, default: u32) -> u32 {
        self.get(key).and_then(|value| value.whole(range)).unwrap_or(default)
    }

    /// A switch that is off when nothing is said.
    pub(super) fn flag(&mut self, key: &'static str) -> bool {
        let Some(value) = self.get(key) else { return false };
        if let DeValue::Boolean(flag) = value.value {
            return *flag;
        }
        value.problem("wanted true or false");
        false
    }

    /// A sample rate.
    pub(super) fn rate(&mut self, key: &'static str) -> Option<Rate> {
        let value = self.get(key)?;
        let rate = value.integer().and_then(|hz| u32::try_from(hz).ok()).and_then(Rate::from_hz);
        if rate.is_none() {
            value.problem("wanted 8000, 16000, 24000 or 48000");
        }
        rate
    }

    /// The table `[KEY]`, in this one; an empty one when it is not there.
    pub(super) fn table(&mut self, key: &'static str) -> Self {
        let prefix = match self.prefix.trim_end().strip_suffix(']') {
            Some(outer) => format!("{outer}.{key}] "),
            None => format!("[{key}] "),
        };
        let found = self.get(key).and_then(|value| {
            let section = value.section(prefix.clone());
            if section.is_none() {
                value.problem(format!("wanted a table: {}", prefix.trim_end()));
            }
            section
        });
        found.unwrap_or_else(|| Self::new(self.file, prefix, 0, None))
    }

    /// The tables `[KEY.NAME]`, in the file's order; there has to be one.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<(&'f str, Self)> {
        let missing = format!("wanted at least one table [{key}.NAME]");
        let Some(value) = self.require(key, &missing) else { return Vec::new() };
        let Some(all) = value.section(format!("[{key}] ")) else {
            value.problem(format!("wanted tables: [{key}.NAME]"));
            return Vec::new();
        };
        if all.entries().next().is_none() {
            all.problem("", format!("empty; {missing}"));
        }
        let section = |(name, value): (&'f str, Value<'f>)| {
            let Some(section) = value.section(format!("[{key}.{name}] ")) else {
                value.problem(format!("wanted a table: [{key}.NAME]"));
                return None;
            };
            let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            if name.is_empty() || name.len() > 64 || !name.bytes().all(is_letter) {
                self.file.report(
                    section.offset,
                    section.prefix.trim_end().to_owned(),
                    String::new(),
                    "a name is 1 to 64 of a-z, A-Z, 0-9, `-` and `_`".to_owned(),
                );
            }
            Some((name, section))
        };
        all.entries().filter_map(section).collect()
    }

    /// The tables `[KEY.NAME]` where there may be none.
    pub(super) fn tables_if_any(&mut self, key: &'static str) -> Vec<(&'f str, Self)> {
        if self.entries().any(|(name, _)| name == key) {
            return self.tables(key);
        }
        self.known.push(key);
        Vec::new()
    }

    /// The tables `[[KEY]]`.
    pub(super) fn array_of_tables(&mut self, key: &'static str) -> Vec<Self> {
        self.array_of_tables_in("", key)
    }

    /// The tables `[[PARENT.KEY]]`, where `parent` ends with its dot.
    pub(super) fn array_of_tables_in(&mut self, parent: &str, key: &'static str) -> Vec<Self> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let prefix = format!("[[{parent}{key}]] ");
        let elements = value.elements().unwrap_or_default();
        let sections: Vec<_> = elements.iter().filter_map(|element| element.section(prefix.clone())).collect();
        if value.elements().is_none() || sections.len() != elements.len() {
            value.problem(format!("wanted tables, each under its own [[{parent}{key}]]"));
        }
        sections
    }

    /// Every key and its value, in the file's order.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'f str, Value<'f>)> + use<'f> {
        let (file, prefix) = (self.file, self.prefix.clone());
        let mut entries: Vec<_> = self.table.into_iter().flatten().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        entries.into_iter().map(move |(key, value)| {
            let label = format!("{prefix}{}", key.get_ref());
            (key.get_ref().as_ref(), Value { file, label, offset: key.span().start, value: value.get_ref() })
        })
    }

    /// Refuses every key that nobody asked for.
    pub(super) fn finish(&self) {
        for (key, value) in self.entries() {
            if !self.known.contains(&key) {
                let is_table =
                    value.value.is_table() || value.value.get(0).is_some_and(|first| first.get_ref().is_table());
                let kind = if is_table { "table" } else { "key" };
                // The value stays unsaid: it may be a secret under a misspelt key.
                self.problem_at(value.offset, key, no_such(kind, key, &self.known));
            }
        }
    }

    /// Whether every key was asked for.
    pub(super) fn is_known(&self) -> bool {
        self.entries().all(|(key, _)| self.known.contains(&key))
    }

    /// Makes keys known that are of no use here.
    pub(super) fn ignore(&mut self, keys: &[&'static str]) {
        self.known.extend(keys.iter().filter(|key| !self.known.contains(key)).copied().collect::<Vec<_>>());
    }

    /// Reports a key where it stands, else where its table begins; without a key, the table.
    pub(super) fn problem(&self, key: &str, wanted: impl Into<String>) {
        let place = self.entries().find(|(name, _)| *name == key).map_or(self.offset, |(_, value)| value.offset);
        self.problem_at(place, key, wanted.into());
    }

    /// The line of its header.
    pub(super) fn line(&self) -> usize {
        self.file.line(self.offset)
    }

    fn problem_at(&self, offset: usize, key: &str, wanted: String) {
        self.file.report(offset, format!("{}{key}", self.prefix).trim_end().to_owned(), String::new(), wanted);
    }
}

/// One value and its place.
pub(super) struct Value<'f> {
    file: &'f File<'f>,
    label: String,
    offset: usize,
    value: &'f DeValue<'f>,
}

impl<'f> Value<'f> {
    pub(super) fn as_str(&self) -> Option<&'f str> {
        self.value.as_str()
    }

    pub(super) fn as_table(&self) -> Option<&'f DeTable<'f>> {
        self.value.as_table()
    }

    pub(super) fn as_bool(&self) -> Option<bool> {
        self.value.as_bool()
    }

    /// The line of its key, from 1; of an element its own.
    pub(super) fn line(&self) -> usize {
        self.file.line(self.offset)
    }

    /// As a message shows it.
    pub(super) fn shown(&self) -> String {
        show(self.value)
    }

    pub(super) fn integer(&self) -> Option<i64> {
        self.value.as_integer().and_then(|integer| i64::from_str_radix(integer.as_str(), integer.radix()).ok())
    }

    /// A text that is not empty.
    pub(super) fn str(&self) -> Option<&'f str> {
        let text = self.as_str().filter(|text| !text.is_empty());
        if text.is_none() {
            self.problem("wanted a text in quotes");
        }
        text
    }

    /// A whole number of this range.
    pub(super) fn whole(&self, range: RangeInclusive<u32>) -> Option<u32> {
        let number = self.integer().and_then(|number| u32::try_from(number).ok()).filter(|it| range.contains(it));
        if number.is_none() {
            self.problem(format!("wanted a whole number from {} to {}", range.start(), range.end()));
        }
        number
    }

    /// The values of an array.
    pub(super) fn elements(&self) -> Option<Vec<Self>> {
        let element = |value: &'f toml::Spanned<DeValue<'f>>| Self {
            file: self.file,
            label: self.label.clone(),
            offset: value.span().start,
            value: value.get_ref(),
        };
        Some(self.value.as_array()?.iter().map(element).collect())
    }

    /// The texts of an array that has at least one.
    pub(super) fn texts(&self, wanted: &str) -> Vec<(&'f str, Self)> {
        let elements = self.elements().unwrap_or_default();
        if elements.is_empty() {
            self.problem(wanted);
        }
        elements.into_iter().filter_map(|element| Some((element.str()?, element))).collect()
    }

    /// Its table under another prefix.
    pub(super) fn section(&self, prefix: String) -> Option<Section<'f>> {
        Some(Section::new(self.file, prefix, self.offset, Some(self.as_table()?)))
    }

    /// Its table, keys shown as `[trunk.agent] bearer.env`.
    pub(super) fn section_in_line(&self) -> Option<Section<'f>> {
        self.section(format!("{}.", self.label))
    }

    /// Reports what would do instead.
    pub(super) fn problem(&self, wanted: impl Into<String>) {
        self.problem_as(show(self.value), wanted);
    }

    /// The same where the value may be a secret.
    pub(super) fn problem_hidden(&self, wanted: impl Into<String>) {
        self.problem_as("***".to_owned(), wanted);
    }

    /// The same with the value as given here.
    pub(super) fn problem_as(&self, found: String, wanted: impl Into<String>) {
        self.file.report(self.offset, self.label.clone(), found, wanted.into());
    }
}

/// Says that there is no such thing, and which there are.
pub(crate) fn no_such(kind: &str, found: &str, there_are: &[&str]) -> String {
    let all = there_are.join(", ");
    match near_miss(found, there_are) {
        Some(near) => format!("no such {kind}; did you mean `{near}`? ({all})"),
        None if there_are.is_empty() => format!("no such {kind}; there is none"),
        None => format!("no such {kind}; there are: {all}"),
    }
}

/// The name that was most likely meant.
pub(super) fn near_miss<'n>(found: &str, names: &[&'n str]) -> Option<&'n str> {
    let found = found.to_ascii_lowercase().replace('_', "-");
    names
        .iter()
        .map(|name| (strsim::osa_distance(&found, name), *name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// A value as a message shows it.
fn show(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => {
            let cut: String = text.chars().take(MAX_SHOWN).collect();
            if cut.len() < text.len() { format!("{cut:?}...") } else { format!("{cut:?}") }
        }
        DeValue::Integer(integer) => integer.to_string(),
        DeValue::Float(float) => float.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(datetime) => datetime.to_string(),
        DeValue::Array(_) => "[...]".to_owned(),
        DeValue::Table(_) => "{...}".to_owned(),
    }
}

/// Characters of a text that a message repeats.
const MAX_SHOWN: usize = 80;
