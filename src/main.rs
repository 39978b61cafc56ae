//! The binary: reads the command line, starts the logger, and says how it ended.

#![forbid(unsafe_code)]

use std::{io::Write, process::ExitCode};

use clap::Parser;
use trunkline::{
    cli::{Cli, Command, agent, call, manual, status, steer},
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
        Command::Check { config } => check(&config),
        Command::Status(args) => done(status::status(&args)),
        Command::Calls(args) => done(status::calls(&args)),
        Command::Dial(args) => done(steer::dial(&args)),
        Command::Press(args) => done(steer::press(&args)),
        Command::Release(args) => done(steer::release(&args)),
        Command::Transfer(args) => done(steer::transfer(&args)),
        Command::Digits(args) => done(steer::digits(&args)),
        Command::Hangup(args) => done(steer::hang_up(&args)),
        Command::Drain(args) => done(steer::drain(&args)),
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

fn check(path: &std::path::Path) -> u8 {
    match config::load(path, &ServiceEnvironment) {
        Ok(config) => {
            let mut out = std::io::stdout().lock();
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

fn done<E: std::fmt::Display>(result: Result<(), E>) -> u8 {
    result.map_or_else(|error| failed(&error), |()| exit::OK)
}

fn failed(error: &dyn std::fmt::Display) -> u8 {
    // What was logged came first.
    log::logger().flush();
    eprintln!("trunkline: {error}");
    exit::FAILED
}
