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
}

/// Builds the binary, optimised as it is shipped, and becomes the test.
pub(crate) fn run(test: Test) -> Result<()> {
    let Test::Kill9 { args } = test;
    let mut cargo = process::cargo();
    cargo.args(["build", "--quiet", "--locked", "--release"]);
    process::run(cargo.args(["--package", "steadfast-cli"]))?;
    // Not a child: an interrupt would end this program before the test has cleaned up.
    let mut command = std::process::Command::new(process::target().join("release/steadfast"));
    command.arg("kill9").args(args);
    Err(command.exec()).with_context(|| format!("start `{}`", process::line(&command)))
}
