//! Runs the measurements, optimised as what is shipped.

use anyhow::Result;

use crate::process;

/// Builds and runs them with the arguments of a person.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let mut cargo = process::cargo();
    cargo.args(["run", "--quiet", "--locked", "--release"]);
    cargo.args(["--package", "steadfast-bench", "--"]);
    process::run(cargo.args(args))
}
