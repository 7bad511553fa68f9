//! Tests of the shipped binary that are too long for every change.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};
use clap::Subcommand;

use crate::process;

#[derive(Subcommand)]
pub(crate) enum Test {
    /// Kill a server under load again and again (--cycles N, --seed N, --json)
    Kill9 {
        /// Arguments of the test; see `cargo xtask chaos kill9 -- --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Kill a gateway and its Streamer in turn under sockets of steadfast.v1
    Gateway {
        /// Sockets
        #[arg(long, default_value_t = 500)]
        sockets: u64,
        /// Kills
        #[arg(long, default_value_t = 24)]
        kills: u64,
        /// Milliseconds between two kills
        #[arg(long, default_value_t = 5_000)]
        pause_ms: u64,
    },
}

/// Builds the binary, optimised as it is shipped, and becomes the test.
pub(crate) fn run(test: Test) -> Result<()> {
    let args = match test {
        Test::Kill9 { args } => args,
        Test::Gateway {
            sockets,
            kills,
            pause_ms,
        } => return gateway([sockets, kills, pause_ms]),
    };
    let mut cargo = process::cargo();
    cargo.args(["build", "--quiet", "--locked", "--release"]);
    process::run(cargo.args(["--package", "steadfast-cli"]))?;
    // Not a child: an interrupt would end this program before the test has cleaned up.
    let mut command = std::process::Command::new(process::target().join("release/steadfast"));
    command.arg("kill9").args(args);
    Err(command.exec()).with_context(|| format!("start `{}`", process::line(&command)))
}

/// Runs the long test of the gateway. Its processes are the program of the test in other roles.
fn gateway([sockets, kills, pause_ms]: [u64; 3]) -> Result<()> {
    let mut cargo = process::cargo();
    cargo.args(["test", "--quiet", "--locked", "--release"]);
    cargo.args(["--package", "steadfast-gateway", "--test", "chaos", "--"]);
    cargo.args(["--exact", "hundreds_of_sockets_survive_kills"]);
    cargo.args(["--ignored", "--nocapture"]);
    for (name, value) in [
        ("SOCKETS", sockets),
        ("KILLS", kills),
        ("PAUSE_MS", pause_ms),
    ] {
        cargo.env(format!("STEADFAST_CHAOS_{name}"), value.to_string());
    }
    process::run(&mut cargo)
}
