//! Runs the measurements, optimised as what is shipped.

use anyhow::Result;

use crate::process;

/// Builds and runs them with the arguments of a person.
pub(crate) fn run(args: &[String]) -> Result<()> {
    if args.iter().any(|arg| SPAWNS.contains(&arg.as_str())) {
        let mut cargo = process::cargo();
        cargo.args(["build", "--quiet", "--locked", "--release", "--bins"]);
        cargo.args(["--package", "steadfast-cli", "--package", "steadfast-bench"]);
        process::run(&mut cargo)?;
    }
    let mut cargo = process::cargo();
    cargo.args(["run", "--quiet", "--locked", "--release"]);
    cargo.args(["--package", "steadfast-bench", "--"]);
    process::run(cargo.args(args))
}

/// The measurements of the shipped binary, which run it beside baselines in programs of their own.
const SPAWNS: [&str; 5] = ["broadcast", "memory", "proxy", "restore", "tls"];
