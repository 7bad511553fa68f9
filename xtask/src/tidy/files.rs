//! Rules for single files: size, lint attributes, stated versions.

use std::fs;

use anyhow::Result;
use cargo_metadata::Metadata;

use crate::{
    process,
    source::{self, Source},
};

/// Code lines a file may have; the aim is 400.
const CODE_LINES_MAX: usize = 600;

const LINT_ATTRIBUTES: [&str; 5] = ["#![allow", "#![warn", "#![deny", "#![forbid", "#![expect"];

pub(super) fn check(metadata: &Metadata, faults: &mut Vec<String>) -> Result<()> {
    let sources = source::files(|path| source::is(path, "rs") && !path.contains("/generated/"))?;
    sizes(&sources, faults);
    // Helpers of an integration test may unwrap; only an attribute for the file can say so.
    for file in sources.iter().filter(|file| !file.path.contains("/tests/")) {
        for (number, line) in file.text.lines().enumerate() {
            if LINT_ATTRIBUTES.iter().any(|lint| line.starts_with(lint)) {
                faults.push(format!(
                    "{}:{}: a lint for a whole file; lints stand in the workspace table",
                    file.path,
                    number + 1
                ));
            }
        }
    }
    versions(metadata, faults)
}

fn sizes(sources: &[Source], faults: &mut Vec<String>) {
    for file in sources {
        let lines = file.code_lines();
        if lines > CODE_LINES_MAX {
            faults.push(format!(
                "{}: {lines} code lines, more than {CODE_LINES_MAX}; split it by concern",
                file.path
            ));
        }
    }
}

/// Each "Rust 1.x" of the README is the version that the manifests state.
fn versions(metadata: &Metadata, faults: &mut Vec<String>) -> Result<()> {
    let stated: Vec<_> = metadata
        .workspace_packages()
        .iter()
        .filter_map(|package| package.rust_version.clone())
        .collect();
    let readme = process::root().join("README.md");
    if !readme.exists() {
        return Ok(());
    }
    let text = fs::read_to_string(readme)?;
    for rest in text.split("Rust 1.").skip(1) {
        let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
        if stated
            .iter()
            .any(|version| version.minor.to_string() != minor)
        {
            faults.push(format!(
                "README.md says Rust 1.{minor}, a manifest says otherwise"
            ));
        }
    }
    Ok(())
}
