//! What the README and the docs tell people to paste has to be good.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use clap::{CommandFactory, Parser, error::ErrorKind};
use trunkline::{
    cli::Cli,
    config::{self, ProcessEnvironment},
    control::{journal, messages},
};

/// The code blocks of a Markdown file in this language.
fn blocks<'t>(text: &'t str, language: &str) -> Vec<&'t str> {
    text.split(&format!("```{language}\n")).skip(1).filter_map(|rest| rest.split("\n```").next()).collect()
}

#[test]
fn every_config_in_the_readme_and_the_docs_passes_the_check() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let mut checked = 0;
    let mut pages = vec![root.join("README.md")];
    pages.extend(fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    for page in pages {
        for block in blocks(&fs::read_to_string(&page).unwrap(), "toml") {
            let path = folder.path().join("pasted.toml");
            fs::write(&path, block).unwrap();
            if let Err(problems) = config::load(&path, &ProcessEnvironment) {
                panic!("{}:\n{problems}", page.display());
            }
            checked += 1;
        }
    }
    assert!(checked >= 1, "the README has a config");
}

#[test]
fn every_file_that_the_readme_links_to_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    for target in readme.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        assert!(root.join(target).exists(), "{target}");
    }
}

/// The words of a command as a shell has them; what follows a ` #` or a redirection is not its own.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut begun) = (Vec::new(), String::new(), None, false);
    for character in command.chars() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (None, '\'' | '"') => (quote, begun) = (Some(character), true),
            (None, ' ') if begun => {
                words.push(std::mem::take(&mut word));
                begun = false;
            }
            (None, ' ') => {}
            (None, '#' | '<' | '>' | '|' | '&' | ';') if !begun => break,
            _ => {
                word.push(character);
                begun = true;
            }
        }
    }
    words.extend(begun.then_some(word));
    words
}

#[track_caller]
fn assert_understood(command: &str, place: &str) {
    // An id has a shape, which its placeholder has not.
    let filled = command.replace("CALL_ID", "k3vqd2mxa7re").replace("DIGITS", "12");
    if let Err(error) = Cli::try_parse_from(words(&filled)) {
        let is_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
        assert!(is_help, "{place}: {command}\n{error}");
    }
}

/// Commands of ours among these lines; one that ends in a backslash goes on in the next.
fn commands(text: &str) -> Vec<String> {
    let text = text.replace("\\\n", " ");
    let lines = text.lines().map(|line| line.trim().trim_start_matches("sudo ").trim_start_matches("-u trunkline "));
    lines.filter(|line| line.starts_with("trunkline ")).map(str::to_owned).collect()
}

#[test]
fn every_command_in_the_readme_and_the_docs_is_one_that_the_binary_takes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md")];
    pages.extend(fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    let mut checked = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for command in blocks(&text, "sh").into_iter().flat_map(commands) {
            assert_understood(&command, &page.display().to_string());
            checked += 1;
        }
    }
    assert!(checked > 10, "{checked}");
}

#[test]
fn every_example_in_the_help_is_one_that_the_binary_takes() {
    fn check(command: &clap::Command) -> usize {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let own: Vec<_> = commands(&help);
        own.iter().for_each(|example| assert_understood(example, command.get_name()));
        own.len() + command.get_subcommands().map(check).sum::<usize>()
    }
    let checked = check(&Cli::command());
    assert!(checked > 10, "{checked}");
}

/// The rows of the table under this heading, without its head.
fn table<'t>(page: &'t str, heading: &str) -> Vec<&'t str> {
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).unwrap();
    section.lines().skip_while(|line| *line != "|---|---|").skip(1).take_while(|line| line.starts_with('|')).collect()
}

#[test]
fn the_page_for_operations_has_every_field_and_message() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    let fields: Vec<_> = journal::FIELDS.iter().map(|(name, meaning)| format!("| `{name}` | {meaning} |")).collect();
    assert_eq!(table(&page, "Fields"), fields);
    let messages: Vec<_> = messages::TABLE.iter().map(|(_, id, sentence)| format!("| {sentence} | `{id}` |")).collect();
    assert_eq!(table(&page, "Messages"), messages);
    // The ids that scripts are shown with are those of something.
    for id in page.split("MESSAGE_ID=").skip(1).filter_map(|rest| rest.get(..32)) {
        assert!(messages::TABLE.iter().any(|(_, known, _)| *known == id), "{id}");
    }
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { sources(&path, found) } else { found.push(path) }
    }
}

#[test]
fn a_message_is_logged_with_the_sentence_that_the_table_has() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let mut checked = 0;
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for call in text.split("message_id = messages::").skip(1) {
            let name = call.split(|c: char| !c.is_ascii_uppercase() && c != '_').next().unwrap();
            let (_, _, sentence) = messages::TABLE.iter().find(|(known, ..)| *known == name).unwrap();
            // In a log macro the sentence is what follows the semicolon.
            let logged = call.split_once(';').map(|(_, logged)| logged.trim_start()).unwrap();
            assert!(logged.starts_with(&format!("\"{sentence}")), "{}: {name}: {logged:.80}", file.display());
            checked += 1;
        }
    }
    assert!(checked > 10, "{checked}");
}

#[test]
fn what_the_page_of_sip_says_that_the_log_says_is_in_the_source() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    let source: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let page = fs::read_to_string(root.join("docs/sip.md")).unwrap();
    let table = page.split("| what you see |").nth(1).unwrap();
    let mut checked = 0;
    for row in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let said = row.split('|').nth(2).unwrap().replace("``", "\u{1}").replace('`', "\u{2}");
        let said = said.replace('\u{1}', "\u{2}").replace("\u{2}allow\u{2}", "`allow`");
        for sentence in said.split('\u{2}').skip(1).step_by(2).filter(|sentence| !sentence.starts_with("rtp.")) {
            // What varies is left out in both, and what stands behind a colon comes from elsewhere.
            let value = sentence.split_once('=').map_or(sentence, |(_, value)| value);
            for piece in value.split("...").flat_map(|part| part.split(": ")).map(str::trim).filter(|it| it.len() > 3) {
                assert!(source.contains(piece), "{piece:?} of {row}");
                checked += 1;
            }
        }
    }
    assert!(checked > 15, "{checked}");
}

#[test]
fn systemd_takes_the_catalog() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("usr/lib/systemd/catalog");
    fs::create_dir_all(&folder).unwrap();
    let catalog = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/trunkline.catalog");
    fs::copy(catalog, folder.join("trunkline.catalog")).unwrap();
    let journalctl =
        |option: &str| Command::new("journalctl").arg(format!("--root={}", root.path().display())).arg(option).output();
    let Ok(updated) = journalctl("--update-catalog") else {
        println!("not run: journalctl is not installed");
        return;
    };
    let said = String::from_utf8_lossy(&updated.stderr);
    assert!(updated.status.success() && said.trim().is_empty(), "{said}");
    let listed = journalctl("--list-catalog").unwrap().stdout;
    let listed = String::from_utf8_lossy(&listed);
    for (_, id, sentence) in messages::TABLE {
        assert!(listed.contains(&format!("{id} Trunkline: ")), "{sentence}: {listed}");
    }
}
