//! `trunkline explain`: looks up all that was kept of one call, and tells what became of it.

use core::fmt;
use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::Serialize;
use serde_json::Value;

use crate::{
    config::Places,
    explain::{self, Case, Diagnosis, Finding, LogLine, Material, Step, calls_named, diagnose, story, time_of},
};

/// Tells what became of one call: what happened, which leg is at fault, why, and what to do.
///
/// It reads the call's record, its lines in the journal and in the event log, whatever of them there is: the journal alone is
/// enough. The daemon is not asked and need not run, so a call of last Tuesday can be explained on another machine too, from
/// a saved journal.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ExplainArgs {
    /// Any id of the call: ours (12 letters), the UUID of AudioSocket, a platform's call_sid or stream_sid, an ucid, a
    /// Call-ID of SIP
    #[arg(value_name = "ID")]
    pub id: String,
    /// The folder of records, or one file of them [default: the config's, else /var/lib/trunkline]
    #[arg(long, value_name = "PATH")]
    pub records: Option<PathBuf>,
    /// The folder of the event log [default: the config's]
    #[arg(long, value_name = "DIR")]
    pub events: Option<PathBuf>,
    /// A saved journal, in place of this machine's: what `journalctl -o json` or the daemon's stderr said; - is stdin
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,
    /// The service whose journal is read
    #[arg(long, value_name = "UNIT", default_value = "trunkline", conflicts_with = "journal")]
    pub unit: String,
    /// The config file; only its folders are read, so its secrets need not be readable
    #[arg(long, value_name = "FILE", default_value = "/etc/trunkline/trunkline.toml")]
    pub config: PathBuf,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

const EXAMPLES: &str = "\
A call by our id, or by what the PBX or the platform calls it:
  trunkline explain k3vqd2mxa7re
  trunkline explain 40325ec2-5efd-4bd3-805f-53576e581d13

From what somebody has sent:
  journalctl -u trunkline -o json --since -1d > site.json
  trunkline explain k3vqd2mxa7re --journal site.json
  trunkline explain k3vqd2mxa7re --journal site.json --records records.jsonl --json

The calls that did not end well, to pick from:
  journalctl -u trunkline -o cat END_REASON=trunk-lost --since -7d

What each cause means, and the figures that each goes by: docs/explain.md. Who may read the journal: root, and members of
the groups systemd-journal and adm.";

/// Why nothing is told.
#[derive(Debug)]
pub enum ExplainError {
    /// The saved journal, the records or the events that were named cannot be read.
    Read(PathBuf, io::Error),
    /// Nothing that was read knows the call.
    Unknown {
        /// The id.
        id: String,
        /// What was looked into, and what was found there.
        looked: Vec<String>,
    },
}

impl fmt::Display for ExplainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Unknown { id, looked } => {
                write!(f, "nothing is known of the call {}. Looked into:", visible(id))?;
                for place in looked {
                    write!(f, "\n  {}", visible(place))?;
                }
                f.write_str(
                    "\nA call that was refused has no id of ours: look for `calls are refused`, `a connection did not become \
                     a call` and `a connection from outside` in the journal",
                )
            }
        }
    }
}

impl core::error::Error for ExplainError {}

/// Prints it.
///
/// # Errors
/// The call is not known, or what was named cannot be read.
pub fn explain(args: &ExplainArgs) -> Result<(), ExplainError> {
    let places = Places::of(&args.config);
    let sources = Sources {
        records: args.records.clone().or(places.records).unwrap_or_else(|| RECORDS.into()),
        records_named: args.records.is_some(),
        events: args.events.clone().or(places.events),
        events_named: args.events.is_some(),
        journal: match &args.journal {
            Some(path) => Journal::Saved(saved(path)?, path.clone()),
            None => Journal::Of(args.unit.clone()),
        },
    };
    let id = args.id.trim();
    let mut looked = Vec::new();
    let mut material = sources.read(&[id], &mut looked)?;
    let calls = calls_named(id, &material);
    let Some(call_id) = calls.last() else {
        return Err(ExplainError::Unknown { id: id.to_owned(), looked });
    };
    if call_id != id {
        looked.clear();
        material = sources.read(&[id, call_id], &mut looked)?;
    }
    if let Some(window) = Case::of(call_id, &material).window() {
        material.lines.extend(sources.around(window));
    }
    let case = Case::of(call_id, &material);
    let told = Told {
        call_id,
        ids: ["ucid", "call_sid", "stream_sid"].into_iter().filter_map(|name| Some((name, case.text(name)?))).collect(),
        others: calls.iter().filter(|other| *other != call_id).collect(),
        line: case.text("line"),
        trunk: case.text("trunk"),
        dialect: case.text("dialect"),
        started_ms: case.started_ms(),
        seconds: case.figure("seconds"),
        end_reason: case.text("end_reason"),
        diagnosis: diagnose(&case),
        story: story(&case),
        read: From { record: case.has_record, log_lines: case.lines.len(), events: case.events.len() },
    };
    let text = if args.json {
        serde_json::to_string_pretty(&told).expect("our keys are texts") + "\n"
    } else {
        told.to_string()
    };
    // A closed pipe is the reader's choice.
    let _ = io::stdout().lock().write_all(text.as_bytes());
    Ok(())
}

/// All that is told. Displayed, it is for people.
#[derive(Serialize)]
struct Told<'c> {
    call_id: &'c str,
    ids: std::collections::BTreeMap<&'static str, &'c str>,
    /// Other calls that the id names.
    others: Vec<&'c String>,
    line: Option<&'c str>,
    trunk: Option<&'c str>,
    dialect: Option<&'c str>,
    started_ms: Option<u64>,
    seconds: Option<f64>,
    end_reason: Option<&'c str>,
    #[serde(flatten)]
    diagnosis: Diagnosis,
    story: Vec<Step>,
    read: From,
}

/// What it was told from.
#[derive(Serialize)]
struct From {
    record: bool,
    log_lines: usize,
    events: usize,
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = |value: Option<&str>| visible(value.unwrap_or("-"));
        write!(f, "Call {} on line {}", visible(self.call_id), known(self.line))?;
        match (self.trunk, self.dialect) {
            (Some(trunk), Some(dialect)) => writeln!(f, ", trunk {} ({})", visible(trunk), visible(dialect))?,
            (trunk, _) => writeln!(f, ", trunk {}", known(trunk))?,
        }
        if let Some(started) = self.started_ms {
            write!(f, "{} UTC", time_of(started))?;
            match self.seconds {
                Some(seconds) => writeln!(f, ", {seconds:.1} s, {}", known(self.end_reason))?,
                None => writeln!(f)?,
            }
        }
        for (name, id) in &self.ids {
            writeln!(f, "{name} {}", visible(id))?;
        }
        if !self.others.is_empty() {
            let others: Vec<_> = self.others.iter().map(|id| visible(id)).collect();
            writeln!(f, "This id names other calls too, of which this is the last: {}", others.join(", "))?;
        }
        writeln!(f, "\nWhat happened")?;
        for Step { at_ms, says } in &self.story {
            // The day is in the head.
            let time =
                at_ms.map_or_else(String::new, |ms| time_of(ms).split(' ').nth(1).unwrap_or_default().to_owned());
            writeln!(f, "  {time:12}  {}", visible(says))?;
        }
        writeln!(f)?;
        show(f, "Most likely", &self.diagnosis.main)?;
        for finding in &self.diagnosis.also {
            writeln!(f)?;
            show(f, "Also", finding)?;
        }
        let From { record, log_lines, events } = self.read;
        let record = if record { "its record" } else { "no record" };
        writeln!(f, "\nTold from {record}, {log_lines} lines of the log, {events} events.")
    }
}

fn show(f: &mut fmt::Formatter<'_>, head: &str, finding: &Finding) -> fmt::Result {
    let Finding { fault, symptom, cause, confidence, says, evidence, next } = finding;
    writeln!(f, "{head}: {}", visible(says))?;
    let symptom = symptom.map(|symptom| format!(", {}", symptom.as_str())).unwrap_or_default();
    writeln!(f, "  at fault: {}; cause: {cause}{symptom}; {}", fault.as_str(), confidence.as_str())?;
    for explain::Evidence { what, value } in evidence {
        writeln!(f, "  {what} = {}", visible(value))?;
    }
    if next.is_empty() { Ok(()) } else { writeln!(f, "  Next: {}", visible(next)) }
}

/// Words of others do not move the cursor, nor make up lines.
fn visible(words: &str) -> String {
    let mut text = String::with_capacity(words.len());
    for character in words.chars() {
        if character.is_control() { text.extend(character.escape_default()) } else { text.push(character) }
    }
    text
}

/// Where to look.
struct Sources {
    records: PathBuf,
    records_named: bool,
    events: Option<PathBuf>,
    events_named: bool,
    journal: Journal,
}

enum Journal {
    /// Read already, and where it was.
    Saved(String, PathBuf),
    /// This machine's, of this service.
    Of(String),
}

impl Sources {
    /// What there is of the calls with these ids. A source that was not named may be missing.
    fn read(&self, ids: &[&str], looked: &mut Vec<String>) -> Result<Material, ExplainError> {
        let needles: Vec<String> = ids.iter().flat_map(|id| [needle(id), needle(&id.to_ascii_lowercase())]).collect();
        let mut material = Material::default();
        let mut pass = |outcome: io::Result<(Vec<Value>, String)>, path: &Path, named: bool| match outcome {
            Ok((found, what)) => {
                looked.push(what);
                Ok(found)
            }
            Err(error) if named => Err(ExplainError::Read(path.to_owned(), error)),
            Err(error) => {
                looked.push(format!("{}: {error}", path.display()));
                Ok(Vec::new())
            }
        };
        material.records = pass(records_with(&self.records, &needles), &self.records, self.records_named)?;
        let open = self.records.join("open");
        material.open = pass(open_with(&open, &needles), &open, false)?;
        if let Some(events) = &self.events {
            let is_log = |name: &str| name.starts_with("stream_events_") && name.ends_with(".jsonl");
            material.events = pass(lines_with(events, is_log, &needles), events, self.events_named)?;
        }
        let (lines, what) = match &self.journal {
            Journal::Saved(text, path) => {
                let lines: Vec<_> = text.lines().filter_map(LogLine::parse).collect();
                let what = format!("{}: {} lines", path.display(), lines.len());
                (lines, what)
            }
            Journal::Of(unit) => asked_journal(unit, ids),
        };
        material.lines = lines;
        looked.push(what);
        Ok(material)
    }

    /// What the journal says of the whole daemon in this time. A saved one was read as a whole.
    fn around(&self, (from, to): (u64, u64)) -> Vec<LogLine> {
        let Journal::Of(unit) = &self.journal else { return Vec::new() };
        let mut args = vec![format!("--since=@{}", from / 1000), format!("--until=@{}", to / 1000 + 1)];
        args.extend(explain::AROUND.iter().map(|id| format!("MESSAGE_ID={id}")));
        journalctl(unit, &args).map(|(lines, _)| lines).unwrap_or_default()
    }
}

/// The id as it stands in JSON.
fn needle(id: &str) -> String {
    let quoted = Value::from(id).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

fn saved(path: &Path) -> Result<String, ExplainError> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    read.map_err(|error| ExplainError::Read(path.to_owned(), error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Records that have one of these texts, of a file or of all in a folder that were not compressed.
fn records_with(path: &Path, needles: &[String]) -> io::Result<(Vec<Value>, String)> {
    if path.is_dir() { lines_with(path, is_records, needles) } else { lines_of(path, needles) }
}

/// logrotate gives the old ones an ending.
fn is_records(name: &str) -> bool {
    name.starts_with("records.jsonl") && ![".gz", ".xz", ".zst", ".bz2"].iter().any(|end| name.ends_with(end))
}

fn lines_with(folder: &Path, is_wanted: impl Fn(&str) -> bool, needles: &[String]) -> io::Result<(Vec<Value>, String)> {
    let (mut found, mut files, mut others) = (Vec::new(), 0, 0);
    let mut names: Vec<_> = fs::read_dir(folder)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| {
            others += usize::from(name.starts_with("records.jsonl") && !is_records(name));
            is_wanted(name)
        })
        .collect();
    // `records.jsonl.1` is older than `records.jsonl`; of the others the name is the time.
    names.sort_by_key(|name| (name == "records.jsonl", name.clone()));
    for name in names {
        found.extend(lines_of(&folder.join(name), needles)?.0);
        files += 1;
    }
    let compressed = match others {
        0 => String::new(),
        others => format!("; {others} compressed ones were not looked into (zcat one, and name it with --records)"),
    };
    Ok((found, format!("{}: {files} files{compressed}", folder.display())))
}

fn lines_of(path: &Path, needles: &[String]) -> io::Result<(Vec<Value>, String)> {
    let mut file = BufReader::new(File::open(path)?);
    let (mut found, mut line, mut lines) = (Vec::new(), Vec::new(), 0_u64);
    while file.read_until(b'\n', &mut line)? > 0 {
        lines += 1;
        let text = String::from_utf8_lossy(&line);
        if needles.iter().any(|needle| text.contains(needle))
            && let Ok(value) = serde_json::from_str(&text)
        {
            found.push(value);
        }
        line.clear();
    }
    Ok((found, format!("{}: {lines} lines", path.display())))
}

fn open_with(folder: &Path, needles: &[String]) -> io::Result<(Vec<Value>, String)> {
    lines_with(folder, |name| name.ends_with(".json"), needles)
}

/// Asks journald for the lines of the calls with these ids; and says what came of it.
fn asked_journal(unit: &str, ids: &[&str]) -> (Vec<LogLine>, String) {
    let fields = explain::ALIASES.iter().map(|name| name.to_ascii_uppercase());
    let mut args = Vec::new();
    for matching in fields.flat_map(|field| ids.iter().map(move |id| format!("{field}={id}"))) {
        if !args.is_empty() {
            args.push("+".to_owned());
        }
        args.push(matching);
    }
    let asked = journalctl(unit, &args).and_then(|(lines, said)| {
        // A build without libsystemd has the ids in the text alone.
        let in_text = ids.iter().all(|id| !id.is_empty() && id.bytes().all(|byte| !b"\\^$.|?*+()[]{}".contains(&byte)));
        if lines.is_empty() && in_text {
            journalctl(unit, &[format!("--grep={}", ids.join("|"))])
        } else {
            Ok((lines, said))
        }
    });
    match asked {
        Ok((lines, said)) if said.is_empty() => {
            let what = format!("the journal of {unit}: {} lines of it", lines.len());
            (lines, what)
        }
        Ok((lines, said)) => (lines, format!("the journal of {unit}: {said}")),
        Err(error) => (Vec::new(), format!("the journal of {unit}: journalctl: {error}")),
    }
}

/// Runs journalctl(1). Gives its lines, and what it said on stderr.
fn journalctl(unit: &str, args: &[String]) -> io::Result<(Vec<LogLine>, String)> {
    let output = Command::new("journalctl")
        .args(["--output=json", "--all", "--no-pager", "--unit", unit])
        .args(args)
        .stdin(Stdio::null())
        .output()?;
    let lines = String::from_utf8_lossy(&output.stdout).lines().filter_map(LogLine::parse).collect();
    Ok((lines, String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")))
}

/// Where the service keeps them, `StateDirectory=` of systemd/trunkline.service.
const RECORDS: &str = "/var/lib/trunkline";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn rotated_records_are_read_oldest_first_and_compressed_ones_are_told_of() {
        let folder = tempfile::tempdir().unwrap();
        for (name, seconds) in [("records.jsonl", 2), ("records.jsonl.1", 1)] {
            let text = format!("{{\"call_id\":\"a\",\"n\":{seconds}}}\nbroken a\n{{\"call_id\":\"b\"}}\n");
            fs::write(folder.path().join(name), text).unwrap();
        }
        fs::write(folder.path().join("records.jsonl.2.gz"), "x").unwrap();
        let (found, what) = records_with(folder.path(), &["\"a\"".to_owned()]).unwrap();
        assert_eq!(found.iter().map(|value| value["n"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(2)]);
        assert!(what.contains("2 files; 1 compressed ones"), "{what}");
    }

    #[test]
    fn words_of_others_stay_in_their_line() {
        assert_eq!(visible("no\r\n\x1b[2J"), "no\\r\\n\\u{1b}[2J");
    }

    #[test]
    fn an_id_is_looked_for_as_json_has_it() {
        assert_eq!(needle("a\"b"), "a\\\"b");
    }
}
