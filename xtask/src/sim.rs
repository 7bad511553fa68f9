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

/// A thousand schedules, and a thousand of the log alone, as a step of everything that must hold.
pub(crate) fn thousand() -> Result<()> {
    for kind in ["--schedules", "--log-schedules"] {
        run(&[kind.to_owned(), "1000".to_owned()])?;
    }
    Ok(())
}
