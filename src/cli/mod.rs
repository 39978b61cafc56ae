//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub mod agent;
pub mod ask;
pub mod call;
mod connection;
#[cfg(feature = "sound")]
pub mod devices;
pub mod dialplan;
pub mod doctor;
pub mod eagi;
pub mod explain;
pub mod init;
mod join;
pub mod manual;
pub mod options;
mod panel;
pub mod pipe;
pub mod status;
pub mod steer;
mod wav;

/// Puts any PBX, phone line or sound card on a cloud voice agent.
#[derive(Debug, Parser)]
#[command(name = "trunkline", version, max_term_width = 110, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon: take calls on every line and put them on the trunks
    Run {
        /// The config file
        #[arg(long, value_name = "FILE", default_value = "/etc/trunkline/trunkline.toml")]
        config: PathBuf,
    },
    /// Read a config file, say all that is wrong with it, what a firewall has to let in, and what it takes in memory
    #[command(after_help = CHECK_EXAMPLES)]
    Check {
        /// The config file
        #[arg(long, value_name = "FILE", default_value = "/etc/trunkline/trunkline.toml")]
        config: PathBuf,
        /// Show every value and where it came from: a line of the file, the environment, a credential, or the default.
        /// Secrets are shown as ***
        #[arg(long)]
        effective: bool,
    },
    /// Say which trunk would take a call on a line, in which order they are tried, and why
    #[command(after_help = ROUTE_TEST_EXAMPLES)]
    RouteTest {
        /// The line, by its name in the config
        #[arg(value_name = "LINE")]
        line: String,
        /// The caller's number
        #[arg(long, value_name = "NUMBER")]
        from: Option<String>,
        /// The number called
        #[arg(long, value_name = "NUMBER")]
        to: Option<String>,
        /// The config file
        #[arg(long, value_name = "FILE", default_value = "/etc/trunkline/trunkline.toml")]
        config: PathBuf,
    },
    /// Print what the PBX needs for the config in use: Asterisk's dialplan and endpoints, FreeSWITCH's gateway
    Dialplan(dialplan::DialplanArgs),
    /// Write a config file
    #[command(subcommand)]
    Config(init::ConfigCommand),
    /// Show a running daemon: its lines, trunks and live calls
    Status(status::StatusArgs),
    /// Show the live calls of a running daemon
    Calls(status::CallsArgs),
    /// Say why a site does not work: names, clock, certificates, trunks, PBX, ports, sound and disk, each with what mends it
    Doctor(doctor::DoctorArgs),
    /// Tell what became of one call: its story, the leg at fault and the likely cause, from its record and the journal
    Explain(explain::ExplainArgs),
    /// Call somebody through a SIP line and put them on its trunk, as far as its dial plan allows
    Dial(steer::DialArgs),
    /// Press the key of a sound line: a call begins
    Press(steer::KeyArgs),
    /// Release the key of a sound line: its call ends
    Release(steer::KeyArgs),
    /// Pass the caller of one live call on to somebody whom the dial plan allows
    Transfer(steer::TransferArgs),
    /// Press keys in one live call
    Digits(steer::DigitsArgs),
    /// End one live call; its caller goes on in the dialplan
    Hangup(steer::HangupArgs),
    /// Have the daemon read its config again, while calls go on
    Reload(steer::ReloadArgs),
    /// Take no new calls, let the live ones end, and then end the daemon
    Drain(steer::DrainArgs),
    /// Put standard input and output on a voice agent: one call, without a config file
    Pipe(pipe::PipeArgs),
    /// Let an agent listen to a caller of Asterisk's EAGI(), who hears nothing of it
    Eagi(eagi::EagiArgs),
    /// Show the sound cards that this user can open, or test one of them
    #[cfg(feature = "sound")]
    Devices(devices::DevicesArgs),
    /// Play a voice agent, to hear a line before there is a cloud
    Agent(agent::AgentArgs),
    /// Play a PBX or a telephony vendor: place one call, play a WAV file into it and record what comes back
    Call(call::CallArgs),
    /// Print what a shell needs to complete commands and options at Tab (packages install it)
    Completions(manual::CompletionsArgs),
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man(manual::ManArgs),
}

const CHECK_EXAMPLES: &str = "\
  trunkline check
  trunkline check --config my.toml
  trunkline check --config my.toml --effective

It leaves with 0 when the file is good, and with 78 when the daemon would not start on it. As the service sees it, with its
own credentials and folders: docs/operations.md.";

const ROUTE_TEST_EXAMPLES: &str = "\
  trunkline route-test pbx
  trunkline route-test pbx --from 201 --to 700 --config my.toml

Nothing is dialled: it goes by the config alone. `trunkline status` has how each trunk answered last.";

const EXAMPLES: &str = "\
A whole call on this machine, in three terminals:
  trunkline agent --listen 127.0.0.1:8765 --dialect auto --behave echo --plain
  trunkline run --config configs/echo-ws-local.toml
  trunkline call --audiosocket 127.0.0.1:9092 --play hello.wav --record heard.wav

A vendor's call straight to an agent, or to a daemon's websocket line:
  trunkline call --websocket ws://127.0.0.1:8765/ws --dialect exotel --play hello.wav --record heard.wav

A daemon that runs:
  trunkline status --watch
  trunkline calls
  trunkline explain k3vqd2mxa7re
  trunkline dial pbx 201
  trunkline press desk

Before it runs:
  trunkline config init
  trunkline dialplan
  trunkline route-test pbx
  trunkline devices
  sudo trunkline doctor
  trunkline check --config /etc/trunkline/trunkline.toml

Log lines: RUST_LOG=debug. Health and counters: http://127.0.0.1:9464/health and /metrics.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
