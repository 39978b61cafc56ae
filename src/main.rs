//! The binary: reads the command line, starts the logger, and says how it ended.

#![forbid(unsafe_code)]

use std::{io::Write, process::ExitCode};

use clap::Parser;
use trunkline::{
    cli::{Cli, Command, agent, call, dialplan, doctor, eagi, explain, init, manual, pipe, status, steer},
    config::{self, ServiceEnvironment},
    control::journal,
    daemon, exit,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    // What it still has to write when it is dropped is waited for, for a while.
    let _journal = match journal::start() {
        Ok(journal) => journal,
        Err(error) => return ExitCode::from(failed(&format_args!("the logger did not start: {error}"))),
    };
    let code = match cli.command {
        Command::Run { config } => daemon::run(&config),
        Command::Check { config, effective } => check(&config, effective),
        Command::RouteTest { line, from, to, config } => route_test(&config, &line, from.as_deref(), to.as_deref()),
        Command::Dialplan(args) => match dialplan::dialplan(&args) {
            Ok(()) => exit::OK,
            Err(dialplan::DialplanError::Config(problems)) => {
                eprintln!("{problems}");
                exit::CONFIG
            }
            Err(error) => failed(&error),
        },
        Command::Config(init::ConfigCommand::Init(args)) => done(init::init(&args)),
        Command::Status(args) => done(status::status(&args)),
        Command::Calls(args) => done(status::calls(&args)),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Explain(args) => done(explain::explain(&args)),
        Command::Dial(args) => done(steer::dial(&args)),
        Command::Press(args) => done(steer::press(&args)),
        Command::Release(args) => done(steer::release(&args)),
        Command::Transfer(args) => done(steer::transfer(&args)),
        Command::Digits(args) => done(steer::digits(&args)),
        Command::Hangup(args) => done(steer::hang_up(&args)),
        Command::Reload(args) => done(steer::reload(&args)),
        Command::Drain(args) => done(steer::drain(&args)),
        Command::Pipe(args) => pipe::run(&args).unwrap_or_else(|error| {
            failed(&error);
            error.exit_code()
        }),
        Command::Eagi(args) => done(eagi::run(&args)),
        #[cfg(feature = "sound")]
        Command::Devices(args) => done(trunkline::cli::devices::devices(&args)),
        Command::Agent(args) => done(agent::run(&args)),
        Command::Call(args) => match call::run(&args) {
            Ok(summary) => summary.exit_code(),
            Err(error) => failed(&error),
        },
        Command::Completions(args) => done(manual::completions(&args)),
        Command::Man(args) => done(manual::man(&args)),
    };
    ExitCode::from(code)
}

fn check(path: &std::path::Path, effective: bool) -> u8 {
    match config::load(path, &ServiceEnvironment) {
        Ok(config) => {
            let mut out = std::io::stdout().lock();
            if effective {
                let _ = write!(out, "{}", every_value(path));
            }
            // A closed pipe is the reader's choice.
            for warning in config.warnings() {
                let _ = writeln!(out, "warning: {warning}");
            }
            for ports in config.ports() {
                let _ = writeln!(out, "{ports}");
            }
            let _ = writeln!(out, "{}\n{} is good", config.arithmetic(), path.display());
            exit::OK
        }
        Err(problems) => {
            eprintln!("{problems}");
            exit::CONFIG
        }
    }
}

/// A table and its values, each with where it came from.
fn every_value(path: &std::path::Path) -> String {
    // It was read a moment ago; where it is gone now there is nothing to show.
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let settings = config::effective(path, &text, &ServiceEnvironment);
    let said = |setting: &config::Setting| format!("{} = {}", setting.key, setting.value);
    let wide =
        settings.iter().map(|setting| said(setting).chars().count()).filter(|&wide| wide <= 60).max().unwrap_or(0);
    let (mut shown, mut table) = (String::new(), "");
    for setting in &settings {
        if setting.table != table {
            table = &setting.table;
            shown += &format!("{table}\n");
        }
        shown += &format!("  {:wide$}  {}\n", said(setting), setting.origin.of(path));
    }
    shown + "\n"
}

fn route_test(path: &std::path::Path, line: &str, from: Option<&str>, to: Option<&str>) -> u8 {
    match config::load(path, &ServiceEnvironment) {
        Ok(config) => match config.route_test(line, from, to) {
            Ok(told) => {
                // A closed pipe is the reader's choice.
                let _ = write!(std::io::stdout().lock(), "{told}");
                exit::OK
            }
            Err(words) => failed(&words),
        },
        Err(problems) => {
            eprintln!("{problems}");
            exit::CONFIG
        }
    }
}

fn done<E: std::fmt::Display>(result: Result<(), E>) -> u8 {
    result.map_or_else(|error| failed(&error), |()| exit::OK)
}

fn failed(error: &dyn std::fmt::Display) -> u8 {
    // What was logged came first.
    log::logger().flush();
    eprintln!("trunkline: {error}");
    exit::FAILED
}
