//! Runs the simulation, optimised and with every assertion on.

use anyhow::Result;

use crate::process;

/// Builds and runs it with the arguments of a person.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let mut cargo = process::cargo();
    cargo.args(["run", "--quiet", "--locked", "--profile", "sim"]);
    cargo.args(["--package", "steadfast-sim", "--"]);
    process::run(cargo.args(args))
}

/// A thousand schedules, as a step of everything that must hold.
pub(crate) fn thousand() -> Result<()> {
    run(&["--schedules".to_owned(), "1000".to_owned()])
}
