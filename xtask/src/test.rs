//! Runs the tests and counts their results.

use std::{ffi::OsStr, path::PathBuf, process::Command};

use anyhow::{Result, bail};

use crate::{javascript, process, python};

const INTEROP: &str = "tests/interop";

/// Compares the agent's remote read with a Prometheus.
const REMOTE_READ: &str = "tests/remote_read/check.py";
/// Uses the console of the gateway in a Chromium.
const CONSOLE: &str = "tests/console";
/// Compares our parser of the text formats with that of another project.
const EXPOSITION: &str = "tests/exposition";

/// Results of tests so far.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
}

/// Runs the tests of the workspace and, with `interop`, those with Python peers, the JavaScript client and the
/// console.
pub(crate) fn run(interop: bool, counts: &mut Counts) -> Result<()> {
    let mut passed = process::watch(
        process::cargo().args(["test", "--locked", "--workspace", "--no-fail-fast"]),
        |line| counts.cargo_test(line),
    )?;
    if interop {
        // After a failure as well, so that one run shows all of them.
        let binary = binary()?;
        passed &= javascript::run(&binary, |line| counts.node(line))?;
        passed &= pytest(INTEROP, ("STEADFAST_BINARY", binary.clone()), counts)?;
        passed &= python_parsers(counts)?;
        passed &= pytest(CONSOLE, ("STEADFAST_BINARY", binary), counts)?;
    }
    judge(passed)
}

fn judge(passed: bool) -> Result<()> {
    if !passed {
        bail!("a test failed");
    }
    Ok(())
}

/// Runs the unit tests of all crates.
pub(crate) fn unit(counts: &mut Counts) -> Result<()> {
    let mut tests = process::cargo();
    tests.args([
        "test",
        "--locked",
        "--workspace",
        "--no-fail-fast",
        "--lib",
        "--bins",
    ]);
    judge(process::watch(&mut tests, |line| counts.cargo_test(line))?)
}

/// Writes the transitions of the session, which its test otherwise compares.
pub(crate) fn write_transitions() -> Result<()> {
    let mut test = process::cargo();
    test.args([
        "test",
        "--locked",
        "--package",
        "steadfast-session",
        "--lib",
    ]);
    process::run(
        test.arg("session::tests::table")
            .env("STEADFAST_WRITE_TRANSITIONS", "1"),
    )
}

/// Runs the tests of the JavaScript client alone.
pub(crate) fn javascript() -> Result<()> {
    judge(javascript::run(&binary()?, |_| ())?)
}

/// Builds the binary and returns its path.
fn binary() -> Result<PathBuf> {
    process::run(process::cargo().args(["build", "--locked", "--package", "steadfast-cli"]))?;
    Ok(process::target().join("debug/steadfast"))
}

/// Tests the console in a Chromium.
pub(crate) fn console(counts: &mut Counts) -> Result<()> {
    judge(pytest(CONSOLE, ("STEADFAST_BINARY", binary()?), counts)?)
}

/// Writes the pictures of the console to `docs/screenshots`.
pub(crate) fn write_screenshots() -> Result<()> {
    let mut write = Command::new(test_environment(CONSOLE)?);
    write.current_dir(process::root());
    write.arg(format!("{CONSOLE}/screenshots.py"));
    process::run(write.env("STEADFAST_BINARY", binary()?))
}

/// Compares the agent's remote read with a Prometheus of the system's packages.
pub(crate) fn remote_read(args: &[impl AsRef<OsStr>]) -> Result<()> {
    let binary = binary()?;
    let mut check = Command::new("python3");
    check
        .current_dir(process::root())
        .arg(REMOTE_READ)
        .args(args);
    process::run(check.env("STEADFAST_BINARY", binary))
}

/// Compares our parser with a Python one, through an example that is built first.
fn python_parsers(counts: &mut Counts) -> Result<bool> {
    let mut build = process::cargo();
    build.args(["build", "--locked", "--package", "steadfast-exposition"]);
    process::run(build.args(["--example", "dump"]))?;
    let dump = process::target().join("debug/examples/dump");
    pytest(EXPOSITION, ("STEADFAST_DUMP", dump), counts)
}

/// Runs the Python tests of a folder. The variable names the program under test.
fn pytest(folder: &str, tested: (&str, PathBuf), counts: &mut Counts) -> Result<bool> {
    process::watch(
        Command::new(test_environment(folder)?)
            .current_dir(process::root())
            // Without the cache and bytecode, the run leaves no files beside the sources.
            // With the reasons of what was skipped: a program may be missing.
            .args([
                "-m",
                "pytest",
                "-q",
                "-rs",
                "-p",
                "no:cacheprovider",
                folder,
            ])
            .env(tested.0, tested.1)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            // Some of the peers are programs of the JavaScript client.
            .env("PATH", javascript::path()?),
        |line| counts.pytest(line),
    )
}

/// Returns the Python that has the packages of a folder of tests.
fn test_environment(folder: &str) -> Result<PathBuf> {
    let name = folder.rsplit('/').next().unwrap_or(folder);
    let requirements = format!("{folder}/requirements.txt");
    let bin = python::environment(name, &["--requirement", &requirements])?;
    Ok(bin.join("python"))
}

impl Counts {
    /// `test result: ok. 3 passed; 0 failed; …`
    fn cargo_test(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.add(result);
        }
    }

    /// `3 passed, 1 failed in 2.31s`, or `3 passed in 92.53s (0:01:32)`
    fn pytest(&mut self, line: &str) {
        if let Some((counts, took)) = line.rsplit_once(" in ")
            && took.starts_with(|first: char| first.is_ascii_digit())
        {
            self.add(counts);
        }
    }

    /// `# pass 76` and `# fail 0`, the last lines of Node's test runner
    fn node(&mut self, line: &str) {
        let count = |word: &str| line.strip_prefix(word)?.parse::<usize>().ok();
        self.passed += count("# pass ").unwrap_or_default();
        self.failed += count("# fail ").unwrap_or_default();
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
    fn results_of_all_test_runners_are_counted() {
        let mut counts = Counts::default();
        counts.cargo_test(
            "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; finished in 0.01s",
        );
        counts.cargo_test("test it_passed ... ok");
        counts.pytest("4 failed, 10 passed, 1 error in 12.30s");
        counts.pytest("140 passed in 92.53s (0:01:32)");
        for line in ["# tests 78", "# pass 76", "# fail 2", "# pass this line"] {
            counts.node(line);
        }
        counts.pytest("bringing up nodes in order");
        assert_eq!((counts.passed, counts.failed), (229, 9));
    }
}
