//! What packages install beside the binary: manual pages and shell completions, made from the command line itself, so
//! that they say what `--help` says.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::Cli;

/// `trunkline completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// `trunkline man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Where the pages go; it is made where it is not there
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Writes a shell's completions to stdout.
///
/// # Errors
/// Stdout takes nothing, for another reason than that nobody reads on.
pub fn completions(args: &CompletionsArgs) -> io::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), NAME, &mut text);
    match io::stdout().lock().write_all(&text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Writes `trunkline.1` and a page for each command that is shown.
///
/// # Errors
/// The folder or a page cannot be written.
pub fn man(args: &ManArgs) -> io::Result<()> {
    fs::create_dir_all(&args.dir)?;
    let mut whole = Cli::command();
    // Gives the commands their full names, for the head of their pages.
    whole.build();
    for command in whole.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        let name = format!("{NAME}-{}", command.get_name());
        write_page(args, &name, command.clone())?;
    }
    write_page(args, NAME, whole)
}

fn write_page(args: &ManArgs, name: &str, command: clap::Command) -> io::Result<()> {
    let mut page = Vec::new();
    let source = concat!("trunkline ", env!("CARGO_PKG_VERSION"));
    // No date: the same source makes the same page.
    Man::new(command).title(name.to_uppercase()).section("1").date("").source(source).render(&mut page)?;
    fs::write(args.dir.join(format!("{name}.1")), page)
}

const NAME: &str = "trunkline";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_is_shown_has_a_page_and_the_others_have_none() {
        let folder = tempfile::tempdir().unwrap();
        man(&ManArgs { dir: folder.path().join("man1") }).unwrap();
        let read = |page: &str| fs::read_to_string(folder.path().join("man1").join(page));
        let whole = read("trunkline.1").unwrap();
        for command in Cli::command().get_subcommands() {
            let page = read(&format!("trunkline-{}.1", command.get_name()));
            assert_eq!(page.is_ok(), !command.is_hide_set(), "{}", command.get_name());
            // As roff spells it.
            let named = format!("\\-{}", command.get_name().replace('-', "\\-"));
            assert!(command.is_hide_set() || whole.contains(&named), "{whole}");
        }
        let run = read("trunkline-run.1").unwrap();
        assert!(run.contains("trunkline\\-run") && run.contains("\\-\\-config"), "{run}");
    }

    #[test]
    fn each_shell_that_packages_serve_completes_commands() {
        for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), NAME, &mut text);
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains("transfer") && text.contains("audiosocket"), "{shell}: {text}");
        }
    }
}
