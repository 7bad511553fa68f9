//! Every test there is.

use std::{path::PathBuf, process::Command};

use anyhow::{Result, bail};

use crate::process;

const INTEROP: &str = "tests/interop";

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
    if interop && process::root().join(INTEROP).is_dir() {
        whole &= python_peers(tally)?;
    }
    if !whole {
        bail!("a test failed");
    }
    Ok(())
}

/// Runs the tests with Python peers against the binary, which is built first.
fn python_peers(tally: &mut Tally) -> Result<bool> {
    process::run(process::cargo().args(["build", "--locked", "--package", "steadfast-cli"]))?;
    let python = environment()?;
    process::watch(
        Command::new(python)
            .current_dir(process::root())
            .args(["-m", "pytest", "-q", "-p", "no:cacheprovider", INTEROP])
            .env(
                "STEADFAST_BINARY",
                process::target().join("debug/steadfast"),
            )
            .env("PYTHONDONTWRITEBYTECODE", "1"),
        |line| tally.pytest(line),
    )
}

/// A Python environment below `target` that has what tests/interop/requirements.txt asks for.
fn environment() -> Result<PathBuf> {
    let venv = process::target().join("interop-venv");
    let python = venv.join("bin/python");
    if !python.exists() {
        process::run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    process::run(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--requirement"])
            .arg(process::root().join(INTEROP).join("requirements.txt")),
    )?;
    Ok(python)
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
