//! What holds across crates and no compiler checks.

mod crates;
mod files;
mod licences;

use anyhow::{Context as _, Result, bail};
use cargo_metadata::{Metadata, MetadataCommand};

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
    licences::check(&metadata, &mut faults)?;
    if faults.is_empty() {
        println!(
            "tidy: {} crates of our own and {} of others are in order",
            metadata.workspace_members.len(),
            metadata.packages.len() - metadata.workspace_members.len(),
        );
        return Ok(());
    }
    for fault in &faults {
        eprintln!("tidy: {fault}");
    }
    bail!("{} faults", faults.len());
}

/// A member's short name: `session` for `steadfast-session` in `crates/session`.
fn folder(metadata: &Metadata, package: &cargo_metadata::Package) -> String {
    let folder = package
        .manifest_path
        .parent()
        .unwrap_or(&metadata.workspace_root);
    folder
        .strip_prefix(metadata.workspace_root.join("crates"))
        .unwrap_or(folder)
        .to_string()
}
