//! Spelling, by the `typos` checker; `typos.toml` holds the words it does not know.

use std::process::Command;

use anyhow::Result;

use crate::{process, python};

pub(crate) fn run() -> Result<()> {
    let bin = python::environment("spelling", &["typos==1.52.0"])?;
    let mut typos = Command::new(bin.join("typos"));
    process::run(
        typos
            .current_dir(process::root())
            .args(["--format", "brief"]),
    )
}
