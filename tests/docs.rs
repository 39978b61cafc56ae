//! What the README and the docs tell people to paste has to be good.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use clap::{CommandFactory, Parser, error::ErrorKind};
use trunkline::{
    call::EndReason,
    cli::Cli,
    config::{self, Environment},
    control::{journal, messages, metrics::Metrics},
    dialect::{self, Role},
    media::Rate,
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The README and every page of docs/, with what they say.
fn pages() -> Vec<(PathBuf, String)> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = [root().join("README.md")].into_iter().chain(docs);
    pages.map(|page| (page.clone(), fs::read_to_string(page).unwrap())).collect()
}

/// The code blocks of a Markdown file in this language.
fn blocks<'t>(text: &'t str, language: &str) -> Vec<&'t str> {
    text.split(&format!("```{language}\n")).skip(1).filter_map(|rest| rest.split("\n```").next()).collect()
}

/// A service whose credentials are all there.
struct Given(PathBuf);

impl Environment for Given {
    fn var(&self, _: &str) -> Option<String> {
        Some("something".to_owned())
    }

    fn credentials_dir(&self) -> Option<PathBuf> {
        Some(self.0.clone())
    }
}

#[track_caller]
fn assert_good(config: &str, folder: &Path, page: &Path) {
    let path = folder.join("pasted.toml");
    for name in config.split("credential = \"").skip(1).filter_map(|rest| rest.split('"').next()) {
        fs::write(folder.join(name), "something").unwrap();
    }
    fs::write(&path, config).unwrap();
    if let Err(problems) = config::load(&path, &Given(folder.to_owned())) {
        panic!("{}:\n{problems}\n{config}", page.display());
    }
}

#[test]
fn every_config_in_the_readme_and_the_docs_passes_the_check() {
    let folder = tempfile::tempdir().unwrap();
    let (mut whole, mut parts) = (0, 0);
    for (page, text) in pages() {
        for block in blocks(&text, "toml") {
            assert_good(block, folder.path(), &page);
            whole += 1;
        }
        for block in blocks(&text, "toml part") {
            assert_good(&made_whole(block, folder.path()), folder.path(), &page);
            parts += 1;
        }
    }
    assert!(whole > 5 && parts > 5, "{whole} and {parts}");
}

/// A part of a config with whatever else there has to be.
fn made_whole(part: &str, folder: &Path) -> String {
    // A FIFO has to be there.
    for fifo in part.split("/run/site/").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(Command::new("mkfifo").arg(folder.join(fifo)).status().unwrap().success());
    }
    let mut config = part.replace("/run/site/", &format!("{}/", folder.display())) + "\n";
    let has = |config: &str, table: &str| config.lines().any(|line| line.trim_start().starts_with(table));
    if has(&config, "[line.pbx.") && !has(&config, "[line.pbx]") {
        config += "[line.pbx]\nkind = \"sip\"\nlisten = \"127.0.0.1:5070\"\n";
        if has(&config, "[line.pbx.dial]") {
            config += "[line.pbx.register]\nregistrar = \"sip:127.0.0.1\"\nuser = \"201\"\n";
        }
    } else if !has(&config, "[line.") {
        config += "[line.pbx]\nkind = \"audiosocket\"\n";
    }
    if !has(&config, "[trunk.") {
        config += "[trunk.agent]\nurl = \"wss://agent.example.com/ws\"\ndialect = \"ozonetel\"\n";
    }
    if !has(&config, "[[route]]") {
        let name =
            |table: &str| config.split(&format!("[{table}.")).nth(1).and_then(|rest| rest.split(['.', ']']).next());
        let (line, trunk) = (name("line").unwrap(), name("trunk").unwrap());
        config = format!("{config}[[route]]\nline = \"{line}\"\ntrunks = [\"{trunk}\"]\n");
    }
    config
}

/// A heading as the link to it spells it.
fn anchor(heading: &str) -> String {
    let letter = |c: char| match c {
        ' ' => Some('-'),
        _ if c.is_alphanumeric() || matches!(c, '-' | '_') => Some(c.to_ascii_lowercase()),
        _ => None,
    };
    heading.trim_start_matches('#').trim().chars().filter_map(letter).collect()
}

#[test]
fn every_link_leads_to_a_file_and_to_a_heading_of_it() {
    let mut checked = 0;
    for (page, text) in pages() {
        // What stands between fences and backticks is no link.
        let prose: String = text.split("```").step_by(2).flat_map(|text| text.split('`').step_by(2)).collect();
        for target in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, heading) = target.split_once('#').map_or((target, None), |(file, it)| (file, Some(it)));
            let file = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(file.exists(), "{}: {target}", page.display());
            if let Some(heading) = heading {
                let there = fs::read_to_string(&file).unwrap();
                let found = there.lines().any(|line| line.starts_with('#') && anchor(line) == heading);
                assert!(found, "{}: {target}", page.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 50, "{checked}");
}

#[test]
fn every_file_of_ours_that_a_page_or_a_comment_names_is_there() {
    let mut texts = pages();
    let mut files = Vec::new();
    for folder in ["configs", "systemd", "packaging", "src"] {
        sources(&root().join(folder), &mut files);
    }
    texts.extend(files.into_iter().map(|file| (file.clone(), fs::read_to_string(file).unwrap())));
    let folders = ["docs/", "configs/", "systemd/", "tests/", "benches/", "fuzz/", "scripts/", "src/", "cross/"];
    let mut checked = 0;
    for (file, text) in texts {
        let is_code = file.extension().is_some_and(|it| it == "rs");
        // Of code only the pages, and of pages everything: code has paths of others, in tests and in what it cites.
        let folders = if is_code { &folders[..1] } else { &folders[..] };
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | '*' | '$' | ':');
        for word in text.split(|c| !is_part(c)) {
            let word = word.trim_end_matches(['.', ':']);
            if folders.iter().any(|folder| word.starts_with(folder)) && !word.contains('*') {
                assert!(root().join(word).exists(), "{}: {word}", file.display());
                checked += 1;
            }
        }
    }
    assert!(checked > 100, "{checked}");
}

#[test]
fn the_readme_leads_to_every_page() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for page in fs::read_dir(root().join("docs")).unwrap() {
        let name = page.unwrap().file_name().into_string().unwrap();
        assert!(readme.contains(&format!("](docs/{name})")), "{name} is not in the README");
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
    let mut checked = 0;
    for (page, text) in pages() {
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
    section
        .lines()
        .skip_while(|line| !line.starts_with("|---|"))
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .collect()
}

#[test]
fn the_page_for_operations_has_every_field_and_message_and_metric() {
    let page = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let fields: Vec<_> = journal::FIELDS.iter().map(|(name, meaning)| format!("| `{name}` | {meaning} |")).collect();
    assert_eq!(table(&page, "Fields"), fields);
    let messages: Vec<_> = messages::TABLE.iter().map(|(_, id, sentence)| format!("| {sentence} | `{id}` |")).collect();
    assert_eq!(table(&page, "Messages"), messages);
    // The ids that scripts are shown with are those of something.
    for id in page.split("MESSAGE_ID=").skip(1).filter_map(|rest| rest.get(..32)) {
        assert!(messages::TABLE.iter().any(|(_, known, _)| *known == id), "{id}");
    }
    let metrics: Vec<_> =
        metrics().iter().map(|(name, kind, help)| format!("| `{name}` | {kind} | {help} |")).collect();
    assert_eq!(table(&page, "Metrics"), metrics);
}

#[test]
fn the_page_of_clouds_has_what_the_dialects_are() {
    let page = fs::read_to_string(root().join("docs/clouds.md")).unwrap();
    let rows = table(&page, "What holds for every cloud that calls");
    assert_eq!(rows.len(), dialect::NAMES.len());
    for (row, name) in rows.iter().zip(dialect::NAMES) {
        let agent = dialect::open(name, Role::Agent, None, Rate::Hz8000, &dialect::Options::default()).unwrap();
        let rates: Vec<_> = dialect::rates(name).iter().map(|rate| rate.hz().to_string()).collect();
        let (chunk_ms, lead_ms) = (agent.chunk() * 1000 / agent.rate().hz() as usize, agent.lead_ms());
        let close = if agent.close_hands_back() { "handed back" } else { "hung up" };
        let wanted = format!("| `{name}` | {} | {chunk_ms} ms | {lead_ms} ms | {close} | ", rates.join(", "));
        assert!(row.starts_with(&wanted), "{wanted}\n{row}");
    }
}

/// What the page of the config says of each table: its name there and its keys.
fn described() -> BTreeMap<String, BTreeSet<String>> {
    let page = fs::read_to_string(root().join("docs/config.md")).unwrap();
    let mut tables: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut of = Vec::new();
    for row in table(&page, "Every key") {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        if !cells[0].is_empty() {
            of = cells[0].split(", ").map(|name| name.replace('`', "")).collect();
        }
        // `jwt.` `key`: a table that is mostly written in one line.
        let (inner, keys) = match cells[1].split_once(".` ") {
            Some((inner, keys)) => (format!(".{}", inner.trim_start_matches('`')), keys),
            None => (String::new(), cells[1]),
        };
        for name in &of {
            let keys = keys.split(", ").map(|key| key.trim_matches('`').to_owned());
            tables.entry(format!("{name}{inner}")).or_default().extend(keys);
        }
    }
    tables
}

#[test]
fn the_page_of_the_config_has_the_keys_that_the_config_takes_and_no_others() {
    // Whoever is asked for a key that is nobody's says which there are.
    let mut config = String::from(UNKNOWN_KEYS);
    for name in dialect::NAMES.iter().filter(|name| !dialect::Options::known(name).is_empty()) {
        // A trunk plays the vendor, a path the agent, and each refuses what only the other minds.
        let table = format!("dialect = \"{name}\"\n{name} = {{ {NOBODYS} = 1 }}\n");
        config += &format!("[trunk.{name}]\n{table}[[line.paths.path]]\n{table}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.toml");
    fs::write(&path, config).unwrap();
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let problems = config::load(&path, &Given(folder.path().to_owned())).unwrap_err().0;
    for (index, problem) in problems.iter().enumerate() {
        assert!(!problems[..index].contains(problem), "told twice: {problem}");
        if let (Some(label), Some((_, keys))) =
            (problem.key.strip_suffix(NOBODYS), problem.wanted.split_once("there are: "))
        {
            known.entry(label.trim().to_owned()).or_default().extend(keys.split(", ").map(str::to_owned));
        }
    }
    let described = described();
    let pages = |names: &[&str]| -> BTreeSet<String> {
        names.iter().filter_map(|name| described.get(*name)).flatten().cloned().collect()
    };
    let mut checked = BTreeSet::new();
    let mut assert_same = |label: &str, wanted: BTreeSet<String>| {
        assert!(!wanted.is_empty(), "{label}");
        assert_eq!(known.get(label), Some(&wanted), "{label}");
        checked.insert(label.to_owned());
    };
    for (label, names) in SAME {
        assert_same(label, pages(names));
    }
    // What is dialled has the keys of a trunk.
    let mut dialled = pages(&["[trunk.NAME]"]);
    dialled.remove("url");
    dialled.extend(["kind", "dial", "media-timeout-seconds"].map(str::to_owned));
    assert_same("[line.dial]", dialled);
    let only_agents = fs::read_to_string(root().join("docs/config.md")).unwrap();
    let only_agents = table(&only_agents, "What only an agent minds");
    for name in dialect::NAMES.iter().filter(|name| !dialect::Options::known(name).is_empty()) {
        let mut wanted = pages(
            &["[trunk.NAME.{}]", "[line.NAME.{}]", "[line.NAME.path.{}]"]
                .map(|it| it.replace("{}", name))
                .each_ref()
                .map(String::as_str),
        );
        for row in &only_agents {
            let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
            if cells[2].to_lowercase().starts_with(&format!("{name}: ")) {
                wanted.insert(cells[0].replace('`', ""));
            }
        }
        let (trunk, path) = (format!("[trunk.{name}.{name}]"), format!("[line.paths.path.{name}]"));
        let both: BTreeSet<_> =
            [&trunk, &path].into_iter().filter_map(|label| known.get(label)).flatten().cloned().collect();
        assert_eq!(both, wanted, "{name}");
        checked.extend([trunk, path]);
    }
    let unchecked: Vec<_> = known.keys().filter(|label| !checked.contains(*label)).collect();
    assert!(unchecked.is_empty(), "{unchecked:?}");
}

/// Name, kind and meaning of each metric, as `/metrics` tells them.
fn metrics() -> Vec<(String, String, String)> {
    let text = Metrics::default().text();
    let pairs = text.split("# HELP ").skip(1).map(|rest| {
        let mut lines = rest.lines();
        let (name, help) = lines.next().unwrap().split_once(' ').unwrap();
        let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap();
        (name.to_owned(), kind.to_owned(), help.to_owned())
    });
    pairs.collect()
}

#[test]
fn every_end_reason_that_a_page_names_is_one_and_the_page_of_records_has_all() {
    let is_it = |word: &str| EndReason::ALL.iter().any(|reason| reason.as_str() == word);
    let mut checked = 0;
    for (page, text) in pages() {
        let named = text.split("end_reason=").chain(text.split("END_REASON=")).skip(1);
        for word in named.filter_map(|rest| rest.split(|c: char| !c.is_ascii_lowercase() && c != '-').next()) {
            assert!(word.is_empty() || is_it(word), "{}: {word}", page.display());
            checked += usize::from(is_it(word));
        }
    }
    assert!(checked > 10, "{checked}");
    let page = fs::read_to_string(root().join("docs/records.md")).unwrap();
    let (_, list) = page.split_once("\nEnd reasons: ").unwrap();
    let list = list.split("\n\n").next().unwrap();
    let named: Vec<_> = list.split('`').skip(1).step_by(2).filter(|word| is_it(word)).collect();
    assert_eq!(named.len(), EndReason::ALL.len(), "{named:?}");
}

#[test]
fn every_metric_that_a_page_names_is_one() {
    let metrics = metrics();
    let mut checked = 0;
    let catalog = root().join("systemd/trunkline.catalog");
    for (page, text) in pages().into_iter().chain([(catalog.clone(), fs::read_to_string(catalog).unwrap())]) {
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            // What has a digit there is the file of a package.
            if !word.strip_prefix("trunkline_").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase())) {
                continue;
            }
            let is_it = |(name, kind, _): &(String, String, String)| {
                let of_histogram = ["_bucket", "_sum", "_count"].iter().any(|end| word.strip_suffix(end) == Some(name));
                word == name || kind == "histogram" && of_histogram
            };
            assert!(metrics.iter().any(is_it), "{}: {word}", page.display());
            checked += 1;
        }
    }
    assert!(checked > 90, "{checked}");
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
    sources(&root().join("src"), &mut files);
    let mut checked = 0;
    let mut unused: Vec<_> = messages::TABLE.iter().map(|(name, ..)| *name).collect();
    for file in files.into_iter().filter(|file| !file.ends_with("control/messages.rs")) {
        let text = fs::read_to_string(&file).unwrap();
        unused.retain(|name| !text.contains(&format!("messages::{name}")));
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
    assert!(unused.is_empty(), "nothing says {unused:?}");
}

#[test]
fn what_the_page_of_sip_says_that_the_log_says_is_in_the_source() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let source: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let page = fs::read_to_string(root().join("docs/sip.md")).unwrap();
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

/// A key of no table, and like none.
const NOBODYS: &str = "zzzzzzzzzzzzzzzz";

/// The tables of [`UNKNOWN_KEYS`], and how the page calls them.
const SAME: &[(&str, &[&str])] = &[
    ("", &["(top)"]),
    ("[media]", &["[media]"]),
    ("[control]", &["[control]"]),
    ("[records]", &["[records]"]),
    ("[telnyx]", &["[telnyx]"]),
    ("[events]", &["[events]"]),
    ("[call-files]", &["[call-files]"]),
    ("[recordings]", &["[recordings]"]),
    ("[sinks]", &["[sinks]"]),
    ("[line.audiosocket]", &["[line.NAME]", "AudioSocket"]),
    ("[line.pipe]", &["[line.NAME]", "pipe"]),
    ("[line.websocket]", &["[line.NAME]", "websocket"]),
    ("[line.sip]", &["[line.NAME]", "SIP"]),
    ("[line.sip.register]", &["[line.NAME.register]"]),
    ("[line.sip.dial]", &["[line.NAME.dial]"]),
    ("[line.sound]", &["[line.NAME]", "sound"]),
    ("[line.sound.tones]", &["[line.NAME.tones]"]),
    ("[sink.webhook]", &["[sink.NAME]", "webhook"]),
    ("[sink.redis]", &["[sink.NAME]", "Redis"]),
    ("[[line.paths.path]]", &["[[line.NAME.path]]"]),
    ("[[line.paths.path]] basic.", &["[trunk.NAME].basic"]),
    ("[[line.paths.path]] bearer.", &["a secret"]),
    ("[[line.paths.path]] jwt.", &["[[line.NAME.path]].jwt"]),
    ("[trunk.any]", &["[trunk.NAME]"]),
    ("[trunk.any] basic.", &["[trunk.NAME].basic"]),
    ("[trunk.any] bearer.", &["a secret"]),
    ("[trunk.token] jwt.", &["[trunk.NAME].jwt"]),
    ("[[route]]", &["[[route]]"]),
];

/// Every table there is, each with it; those of dialects are added for each.
const UNKNOWN_KEYS: &str = r#"
zzzzzzzzzzzzzzzz = 1
media = { zzzzzzzzzzzzzzzz = 1 }
control = { zzzzzzzzzzzzzzzz = 1 }
records = { zzzzzzzzzzzzzzzz = 1 }
telnyx = { zzzzzzzzzzzzzzzz = 1 }
events = { zzzzzzzzzzzzzzzz = 1 }
call-files = { zzzzzzzzzzzzzzzz = 1 }
recordings = { zzzzzzzzzzzzzzzz = 1 }
sinks = { zzzzzzzzzzzzzzzz = 1 }
line.audiosocket = { kind = "audiosocket", zzzzzzzzzzzzzzzz = 1 }
line.pipe = { kind = "pipe", zzzzzzzzzzzzzzzz = 1 }
line.websocket = { kind = "websocket", zzzzzzzzzzzzzzzz = 1 }
line.sip = { kind = "sip", zzzzzzzzzzzzzzzz = 1, register = { zzzzzzzzzzzzzzzz = 1 }, dial = { zzzzzzzzzzzzzzzz = 1 } }
line.sound = { kind = "sound", zzzzzzzzzzzzzzzz = 1, tones = { zzzzzzzzzzzzzzzz = 1 } }
sink.webhook = { kind = "webhook", zzzzzzzzzzzzzzzz = 1 }
sink.redis = { kind = "redis", zzzzzzzzzzzzzzzz = 1 }
[line.dial]
kind = "websocket"
dial = "wss://vendor.example.com/ws"
dialect = "ozonetel"
zzzzzzzzzzzzzzzz = 1
[line.paths]
kind = "websocket"
[[line.paths.path]]
path = "/"
zzzzzzzzzzzzzzzz = 1
basic = { zzzzzzzzzzzzzzzz = 1 }
bearer = { zzzzzzzzzzzzzzzz = 1 }
jwt = { zzzzzzzzzzzzzzzz = 1 }
[trunk.any]
dialect = "binary"
zzzzzzzzzzzzzzzz = 1
basic = { zzzzzzzzzzzzzzzz = 1 }
bearer = { zzzzzzzzzzzzzzzz = 1 }
[trunk.token]
dialect = "binary"
jwt = { zzzzzzzzzzzzzzzz = 1 }
[[route]]
zzzzzzzzzzzzzzzz = 1
"#;

#[test]
fn systemd_takes_the_catalog() {
    let system = tempfile::tempdir().unwrap();
    let folder = system.path().join("usr/lib/systemd/catalog");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(root().join("systemd/trunkline.catalog"), folder.join("trunkline.catalog")).unwrap();
    let journalctl = |option: &str| {
        Command::new("journalctl").arg(format!("--root={}", system.path().display())).arg(option).output()
    };
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
