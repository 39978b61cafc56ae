//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub mod agent;
pub mod ask;
pub mod call;
mod connection;
#[cfg(feature = "sound")]
pub mod devices;
pub mod manual;
pub mod options;
mod panel;
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
    Check {
        /// The config file
        #[arg(long, value_name = "FILE", default_value = "/etc/trunkline/trunkline.toml")]
        config: PathBuf,
    },
    /// Show a running daemon: its lines, trunks and live calls
    Status(status::StatusArgs),
    /// Show the live calls of a running daemon
    Calls(status::CallsArgs),
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
    /// Take no new calls, let the live ones end, and then end the daemon
    Drain(steer::DrainArgs),
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
  trunkline dial pbx 201
  trunkline press desk

Before it runs:
  trunkline devices
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
