//! Python environments below `target`.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::process;

/// Returns the `bin` folder of a virtual environment with the packages that pip's arguments name.
pub(crate) fn environment(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let venv = process::target().join(format!("{name}-venv"));
    let bin = venv.join("bin");
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
