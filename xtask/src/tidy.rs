//! Rules across crates that no compiler checks.

mod crates;
mod cycles;
mod files;
mod language;

use anyhow::{Context as _, Result, bail};
use cargo_metadata::MetadataCommand;

use crate::process;

/// Runs every check and reports all faults at once.
pub(crate) fn run() -> Result<()> {
    let metadata = MetadataCommand::new()
        .current_dir(process::root())
        .other_options(["--locked".to_owned()])
        .exec()
        .context("read `cargo metadata`")?;
    let mut faults = Vec::new();
    crates::check(&metadata, &mut faults)?;
    files::check(&metadata, &mut faults)?;
    language::check(&mut faults)?;
    cycles::check(&mut faults)?;
    if faults.is_empty() {
        println!(
            "tidy: {} crates are in order",
            metadata.workspace_members.len()
        );
        return Ok(());
    }
    for fault in &faults {
        eprintln!("tidy: {fault}");
    }
    bail!("{} faults", faults.len());
}
