//! Every test there is.

use std::{path::PathBuf, process::Command};

use anyhow::{Result, bail};

use crate::{process, python};

const INTEROP: &str = "tests/interop";

/// Where our parser of the text formats is compared with that of another project.
const REMOTE_READ: &str = "tests/remote_read/check.py";
const EXPOSITION: &str = "tests/exposition";

/// What a run of tests counted.
#[derive(Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
}

/// Runs the tests of the workspace and, unless told not to, those with Python peers, and adds them
/// to the tally.
pub(crate) fn run(interop: bool, tally: &mut Tally) -> Result<()> {
    let mut whole = process::watch(
        process::cargo().args(["test", "--locked", "--workspace", "--no-fail-fast"]),
        |line| tally.cargo_test(line),
    )?;
    if interop {
        whole &= python_peers(tally)?;
        whole &= python_parsers(tally)?;
    }
    if !whole {
        bail!("a test failed");
    }
    Ok(())
}

/// Runs the tests inside of the crates.
pub(crate) fn unit(tally: &mut Tally) -> Result<()> {
    let mut tests = process::cargo();
    tests.args([
        "test",
        "--locked",
        "--workspace",
        "--no-fail-fast",
        "--lib",
        "--bins",
    ]);
    if process::watch(&mut tests, |line| tally.cargo_test(line))? {
        return Ok(());
    }
    bail!("a test failed")
}

/// Runs the tests with Python peers against the binary, which is built first.
fn python_peers(tally: &mut Tally) -> Result<bool> {
    process::run(process::cargo().args(["build", "--locked", "--package", "steadfast-cli"]))?;
    let binary = process::target().join("debug/steadfast");
    pytest(INTEROP, ("STEADFAST_BINARY", binary), tally)
}

/// Compares the agent's remote read with a Prometheus of the system's packages.
pub(crate) fn remote_read(args: &[String]) -> Result<()> {
    process::run(process::cargo().args(["build", "--locked", "--package", "steadfast-cli"]))?;
    let binary = process::target().join("debug/steadfast");
    let mut check = Command::new("python3");
    check
        .current_dir(process::root())
        .arg(REMOTE_READ)
        .args(args);
    process::run(check.env("STEADFAST_BINARY", binary))
}

/// Compares our parser with a Python one, through an example that is built first.
fn python_parsers(tally: &mut Tally) -> Result<bool> {
    let mut build = process::cargo();
    build.args(["build", "--locked", "--package", "steadfast-exposition"]);
    process::run(build.args(["--example", "dump"]))?;
    let dump = process::target().join("debug/examples/dump");
    pytest(EXPOSITION, ("STEADFAST_DUMP", dump), tally)
}

/// Runs the Python tests of a folder, which find what they test in a variable.
fn pytest(folder: &str, tested: (&str, PathBuf), tally: &mut Tally) -> Result<bool> {
    let name = folder.rsplit('/').next().unwrap_or(folder);
    let requirements = format!("{folder}/requirements.txt");
    let bin = python::environment(name, &["--requirement", &requirements])?;
    process::watch(
        Command::new(bin.join("python"))
            .current_dir(process::root())
            .args(["-m", "pytest", "-q", "-p", "no:cacheprovider", folder])
            .env(tested.0, tested.1)
            .env("PYTHONDONTWRITEBYTECODE", "1"),
        |line| tally.pytest(line),
    )
}

impl Tally {
    /// `test result: ok. 3 passed; 0 failed; …`
    fn cargo_test(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.add(result);
        }
    }

    /// `3 passed, 1 failed in 2.31s`
    fn pytest(&mut self, line: &str) {
        if line.contains(" in ") && line.ends_with('s') {
            self.add(line);
        }
    }

    fn add(&mut self, counts: &str) {
        let words: Vec<&str> = counts
            .split([' ', ';', ',', '.'])
            .filter(|word| !word.is_empty())
            .collect();
        for pair in words.windows(2) {
            let Ok(count) = pair[0].parse::<usize>() else {
                continue;
            };
            match pair[1] {
                "passed" => self.passed += count,
                "failed" | "error" | "errors" => self.failed += count,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_the_runners_print() {
        let mut tally = Tally::default();
        tally.cargo_test(
            "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; finished in 0.01s",
        );
        tally.cargo_test("test it_passed ... ok");
        tally.pytest("4 failed, 10 passed, 1 error in 12.30s");
        assert_eq!((tally.passed, tally.failed), (13, 7));
    }
}
