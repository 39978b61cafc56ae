//! `trunkline config init`: five questions, and a config file that passes `check`.

use core::fmt;
use std::{
    fs::OpenOptions,
    io::{self, BufRead, IsTerminal as _, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use crate::config::{self, ProcessEnvironment};

/// What is done about a config file.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ConfigCommand {
    /// Ask five questions and write a commented config file that passes `check`
    Init(InitArgs),
}

/// Asks five questions and writes a commented config file that passes `check`. A question whose answer is given here is not
/// asked; Enter takes what stands in brackets.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct InitArgs {
    /// What brings calls: audiosocket (Asterisk), sip (any PBX) or sound (a sound card)
    #[arg(long, value_name = "KIND")]
    pub line: Option<String>,
    /// Where the line listens: an address of this machine, and a port; for sound the microphone, as `trunkline devices` has it
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// The PBX's address; for sound the speaker
    #[arg(long, value_name = "ADDRESS")]
    pub pbx: Option<String>,
    /// Where the agent is: wss://HOST/PATH, or ws:// on this machine
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// What is spoken there: ozonetel, exotel, telnyx, twilio, openai, binary ...
    #[arg(long, value_name = "NAME")]
    pub dialect: Option<String>,
    /// Ask nothing: what is not given is as in brackets
    #[arg(long)]
    pub yes: bool,
    /// The file to write; - is stdout
    #[arg(long, value_name = "FILE", default_value = "/etc/trunkline/trunkline.toml")]
    pub output: PathBuf,
    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,
}

const EXAMPLES: &str = "\
  trunkline config init
  trunkline config init --yes --output -
  trunkline config init --yes --line sip --listen 192.0.2.20:5060 --pbx 192.0.2.10 --url wss://agent.example.com/ws \\
      --dialect ozonetel --output trunkline.toml

Then `trunkline check`, and `trunkline dialplan` for the PBX's side.";

/// Why there is no file.
#[derive(Debug)]
pub enum InitError {
    /// An answer that will not do: to which question, and what would.
    Answer(&'static str, String),
    /// A file is there already.
    Exists(PathBuf),
    /// It cannot be written, or nobody can be asked.
    File(PathBuf, io::Error),
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(question, wanted) => write!(f, "--{question}: {wanted}"),
            Self::Exists(path) => write!(f, "{} is there already; --force replaces it", path.display()),
            Self::File(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl core::error::Error for InitError {}

/// Asks, and writes the file.
///
/// # Errors
/// An answer will not do, or the file cannot be written.
pub fn init(args: &InitArgs) -> Result<(), InitError> {
    let to_stdout = args.output == Path::new("-");
    if !to_stdout && !args.force && args.output.exists() {
        return Err(InitError::Exists(args.output.clone()));
    }
    let mut input = io::stdin().lock();
    let text = asked(args, &mut input, &mut io::stderr().lock())?;
    if to_stdout {
        // A closed pipe is the reader's choice.
        let _ = io::stdout().lock().write_all(text.as_bytes());
        return Ok(());
    }
    let failed = |error| InitError::File(args.output.clone(), error);
    let mut open = OpenOptions::new();
    open.write(true).mode(0o640);
    if args.force {
        open.create(true).truncate(true)
    } else {
        open.create_new(true)
    };
    open.open(&args.output).and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed)?;
    let path = args.output.display();
    let _ = writeln!(
        io::stdout().lock(),
        "wrote {path}, which passes the check. Next:\n  trunkline dialplan --config {path}\n  trunkline run --config {path}"
    );
    Ok(())
}

/// The questions, in order.
const QUESTIONS: [&str; 5] = ["line", "listen", "pbx", "url", "dialect"];

/// The answers so far; what was not answered is empty.
#[derive(Clone, Debug, Default)]
struct Answers([String; 5]);

fn asked(args: &InitArgs, input: &mut impl BufRead, output: &mut impl Write) -> Result<String, InitError> {
    let given = [&args.line, &args.listen, &args.pbx, &args.url, &args.dialect];
    let mut answers = Answers::default();
    for (n, given) in given.into_iter().enumerate() {
        let question = QUESTIONS[n];
        let default = answers.default_of(question);
        if let Some(given) = given {
            answers.take(n, given).map_err(|wanted| InitError::Answer(question, wanted))?;
        } else if args.yes {
            answers.take(n, &default).map_err(|wanted| InitError::Answer(question, wanted))?;
        } else {
            ask(&mut answers, n, &default, input, output)?;
        }
    }
    Ok(answers.written())
}

/// Asks until the answer will do. Where nobody answers any more the default is taken.
fn ask(
    answers: &mut Answers,
    n: usize,
    default: &str,
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> Result<(), InitError> {
    let failed = |error| InitError::File("the terminal".into(), error);
    loop {
        write!(output, "{} [{default}]: ", answers.words_of(QUESTIONS[n]))
            .and_then(|()| output.flush())
            .map_err(failed)?;
        let mut line = String::new();
        let is_over = input.read_line(&mut line).map_err(failed)? == 0;
        let said = line.trim();
        match answers.take(n, if said.is_empty() { default } else { said }) {
            Ok(()) => {
                // What was typed has ended the line on a terminal.
                if is_over || !io::stdin().is_terminal() {
                    writeln!(output).map_err(failed)?;
                }
                return Ok(());
            }
            Err(wanted) if is_over => return Err(InitError::Answer(QUESTIONS[n], wanted)),
            Err(wanted) => writeln!(output, "  {wanted}").map_err(failed)?,
        }
    }
}

impl Answers {
    fn of(&self, question: &str) -> &str {
        let place = QUESTIONS.iter().position(|known| *known == question).unwrap_or_default();
        &self.0[place]
    }

    /// What is taken where nothing is said.
    fn default_of(&self, question: &str) -> String {
        let kind = self.of("line");
        match (question, kind) {
            ("line", _) => "audiosocket",
            ("listen", "sip") => "127.0.0.1:5070",
            ("listen" | "pbx", "sound") => "default",
            ("listen", _) => "127.0.0.1:9092",
            ("pbx", _) => "127.0.0.1",
            ("url", _) => "ws://127.0.0.1:8765/ws",
            _ => "ozonetel",
        }
        .to_owned()
    }

    fn words_of(&self, question: &str) -> &'static str {
        match (question, self.of("line")) {
            ("line", _) => "1. What brings calls? audiosocket (Asterisk), sip (any PBX) or sound (a sound card)",
            ("listen", "sound") => "2. Which microphone? `trunkline devices` shows them",
            ("listen", _) => {
                "2. Where shall Trunkline listen? An address of this machine that the PBX reaches, and a port"
            }
            ("pbx", "sound") => "3. Which speaker?",
            ("pbx", _) => "3. Which address does the PBX have?",
            ("url", _) => "4. Where is the agent? wss://HOST/PATH, or ws:// on this machine",
            _ => "5. What does the agent speak? ozonetel, exotel, telnyx, twilio, openai, binary ...",
        }
    }

    /// Takes an answer if a config with it would do.
    fn take(&mut self, n: usize, answer: &str) -> Result<(), String> {
        if n == 0 && !["audiosocket", "sip", "sound"].contains(&answer) {
            return Err("wanted audiosocket, sip or sound".to_owned());
        }
        let mut with = self.clone();
        with.0[n] = answer.to_owned();
        let mut whole = with.clone();
        for (later, question) in QUESTIONS.iter().enumerate().skip(n + 1) {
            whole.0[later] = whole.default_of(question);
            // Whom another machine's address needs comes with the next answer; OpenAI speaks on its own terms.
            if *question == "pbx" && with.of("line") != "sound" {
                whole.0[later] = "192.0.2.10".to_owned();
            }
        }
        match config::parse(Path::new("trunkline.toml"), &whole.written(), &ProcessEnvironment) {
            Ok(_) => {
                *self = with;
                Ok(())
            }
            Err(problems) => {
                let said = problems.0.first().map(|problem| problem.wanted.clone());
                Err(said.unwrap_or_default())
            }
        }
    }

    /// The file.
    fn written(&self) -> String {
        let [kind, listen, pbx, url, dialect] = &self.0;
        let line = match kind.as_str() {
            "sound" => format!(
                "# The microphone and the speaker, as `trunkline devices` has them.\ninput = {listen:?}\noutput = {pbx:?}\n\
                 # What starts a call: \"always\", \"vad\" (somebody speaks) or \"key\" (`trunkline press`).\nstart = \"always\"\n"
            ),
            "sip" => format!(
                "# This machine's address as the PBX reaches it, for SIP and for audio.\nlisten = {listen:?}\n\
                 # The PBX, as a trunk of which we take calls. As an extension of it instead, docs/sip.md:\n\
                 #   [line.pbx.register]\n#   registrar = \"sip:{pbx}\"\n#   user = \"201\"\nallow = [{pbx:?}]\n"
            ),
            _ => format!(
                "# Where Asterisk connects to: AudioSocket(${{UUID()}},{listen}).\nlisten = {listen:?}\n\
                 # Who may connect. AudioSocket knows no password.\nallow = [{pbx:?}]\n"
            ),
        };
        format!(
            "# Written by `trunkline config init`. Every key: docs/config.md.\n\
             #\n\
             # Check it:   trunkline check\n\
             # PBX's side: trunkline dialplan\n\
             # Each value: trunkline check --effective\n\
             \n\
             [media]\n\
             # Live calls at once.\n\
             max-calls = 8\n\
             \n\
             # Where calls come from.\n\
             [line.pbx]\n\
             kind = {kind:?}\n\
             {line}\n\
             # Where the agent is, and what it speaks.\n\
             [trunk.agent]\n\
             url = {url:?}\n\
             dialect = {dialect:?}\n\
             # A token is never written down here: a file /etc/trunkline/secrets/agent-token for the service.\n\
             # bearer = {{ credential = \"agent-token\" }}\n\
             \n\
             # Who takes the calls of which line; more trunks are tried in this order.\n\
             [[route]]\n\
             line = \"pbx\"\n\
             trunks = [\"agent\"]\n"
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: InitArgs,
    }

    fn asked_with(args: &[&str], typed: &str) -> (Result<String, InitError>, String) {
        let args = Only::parse_from([&["init"], args].concat()).args;
        let mut said = Vec::new();
        let text = asked(&args, &mut typed.as_bytes(), &mut said);
        (text, String::from_utf8(said).unwrap())
    }

    #[track_caller]
    fn assert_good(text: &str) {
        if let Err(problems) = config::parse(Path::new("t.toml"), text, &ProcessEnvironment) {
            panic!("{problems}\n{text}");
        }
    }

    #[test]
    fn five_times_enter_makes_a_file_that_passes() {
        let (text, said) = asked_with(&[], "\n\n\n\n\n");
        let text = text.unwrap();
        assert_good(&text);
        assert!(text.contains("kind = \"audiosocket\"\n") && text.contains("listen = \"127.0.0.1:9092\"\n"), "{text}");
        assert_eq!(said.matches("]: ").count(), 5, "{said}");
    }

    #[test]
    fn every_kind_makes_a_file_that_passes_from_flags_alone() {
        let kinds = [
            "audiosocket",
            "sip",
            #[cfg(feature = "sound")]
            "sound",
        ];
        for kind in kinds {
            let (text, said) = asked_with(&["--yes", "--line", kind], "");
            assert_good(&text.unwrap());
            assert_eq!(said, "");
        }
        let away = [
            "--yes",
            "--line",
            "sip",
            "--listen",
            "192.0.2.20:5060",
            "--pbx",
            "192.0.2.10",
            "--url",
            "wss://a.example.com/ws",
        ];
        let text = asked_with(&away, "").0.unwrap();
        assert_good(&text);
        assert!(text.contains("allow = [\"192.0.2.10\"]\n"), "{text}");
    }

    #[test]
    fn an_answer_that_will_not_do_is_asked_for_again_and_says_what_would() {
        let (text, said) = asked_with(
            &["--line", "audiosocket"],
            "nowhere\n192.0.2.20\n192.0.2.10\nhttp:/\nwss://a/\nozontel\nexotel\n",
        );
        let text = text.unwrap();
        assert_good(&text);
        assert!(text.contains("dialect = \"exotel\"\n"), "{text}");
        assert!(said.contains("did you mean `ozonetel`?"), "{said}");
        let (refused, _) = asked_with(&["--yes", "--dialect", "ozontel"], "");
        assert!(refused.unwrap_err().to_string().starts_with("--dialect: no such dialect; did you mean `ozonetel`?"));
        assert!(asked_with(&["--yes", "--line", "fax"], "").0.is_err());
    }
}
