//! Plants faults and checks that the tests notice them.
//!
//! Each fault of `xtask/mutants` is planted alone, in a copy of the tree below `target`. It is
//! caught when the code still compiles and the named tests fail; a fault that does not compile, or
//! whose tests fail without it too, proves nothing and is an error of the table.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::{process, source};

/// A folder of tables, one file per part of the project.
const TABLES: &str = "xtask/mutants";

/// Longest run of the tests. A fault that makes a test hang counts as caught.
const TEST_TIME_MAX: Duration = Duration::from_secs(180);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default, rename = "mutant")]
    mutants: Vec<Mutant>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    /// Name of the file it stands in.
    #[serde(skip)]
    table: String,
    /// The promise that it removes.
    name: String,
    /// Relative to the root.
    file: String,
    /// Text that occurs exactly once in the file.
    from: String,
    /// The replacement.
    to: String,
    /// Arguments of `cargo test` that must fail with the fault and pass without it.
    test: Vec<String>,
}

enum Verdict {
    Caught,
    CaughtByTimeout,
    Missed,
    DoesNotCompile,
}

/// Plants every fault, or those of whose `table/name` `only` is a part.
pub(crate) fn run(only: Option<&str>) -> Result<()> {
    let all = read_tables()?;
    check(&all)?;
    let mutants: Vec<&Mutant> = all
        .iter()
        .filter(|mutant| only.is_none_or(|part| mutant.full_name().contains(part)))
        .collect();
    if mutants.is_empty() {
        bail!("no mutant of {TABLES} is meant");
    }

    let copy = Copy::make()?;
    copy.tests_pass_without_faults(&mutants)?;
    let mut missed = Vec::new();
    for mutant in &mutants {
        let began = Instant::now();
        let verdict = copy.try_out(mutant)?;
        let word = match verdict {
            Verdict::Caught => "caught",
            Verdict::CaughtByTimeout => "caught (a test hung)",
            Verdict::Missed => "NOT CAUGHT",
            Verdict::DoesNotCompile => "DOES NOT COMPILE",
        };
        println!(
            "mutants: {:<56} {word} ({:.1} s)",
            mutant.full_name(),
            began.elapsed().as_secs_f64()
        );
        if matches!(verdict, Verdict::Missed | Verdict::DoesNotCompile) {
            missed.push(mutant.name.as_str());
        }
    }
    if !missed.is_empty() {
        bail!("not caught: {}", missed.join(", "));
    }
    println!("mutants: {} of {} caught", mutants.len(), mutants.len());
    Ok(())
}

/// Every fault of every table, the names being different.
fn read_tables() -> Result<Vec<Mutant>> {
    let mut mutants: Vec<Mutant> = Vec::new();
    for file in source::files(|path| path.starts_with(TABLES) && source::is(path, "toml"))? {
        let table: Table =
            toml::from_str(&file.text).with_context(|| format!("read {}", file.path))?;
        let stem = Path::new(&file.path).file_stem().unwrap_or_default();
        for mut mutant in table.mutants {
            mutant.table = stem.to_string_lossy().into_owned();
            if mutants.iter().any(|other| other.name == mutant.name) {
                bail!("{}: {} stands twice", file.path, mutant.name);
            }
            mutants.push(mutant);
        }
    }
    Ok(mutants)
}

/// Reports every row that does not fit its file, also those that are not planted now.
fn check(mutants: &[Mutant]) -> Result<()> {
    let mut stale = 0;
    for mutant in mutants {
        let text = fs::read_to_string(process::root().join(&mutant.file)).unwrap_or_default();
        if let Err(error) = mutant.planted(&text) {
            eprintln!("mutants: {error:#}");
            stale += 1;
        }
    }
    if stale > 0 {
        bail!("{stale} rows of {TABLES} do not fit the code any more");
    }
    Ok(())
}

impl Mutant {
    fn full_name(&self) -> String {
        format!("{}/{}", self.table, self.name)
    }

    /// The file's text with the fault in it.
    fn planted(&self, text: &str) -> Result<String> {
        let found = text.matches(&self.from).count();
        if found != 1 {
            bail!(
                "{}: `from` occurs {found} times in {}, not once",
                self.name,
                self.file
            );
        }
        if self.from == self.to {
            bail!("{}: `to` is the same as `from`", self.name);
        }
        Ok(text.replacen(&self.from, &self.to, 1))
    }
}

/// A copy of the tree with a target folder of its own, kept between runs.
struct Copy {
    tree: PathBuf,
    target: PathBuf,
}

impl Copy {
    /// Brings the copy up to date. Files that are the same keep their time, so that cargo compiles
    /// only what changed.
    fn make() -> Result<Self> {
        let folder = process::target().join("mutants");
        let copy = Self {
            tree: folder.join("tree"),
            target: folder.join("target"),
        };
        let paths = source::paths()?;
        for path in &paths {
            let fresh =
                fs::read(process::root().join(path)).with_context(|| format!("read {path}"))?;
            write_if_other(&copy.tree.join(path), &fresh)?;
        }
        remove_others(&copy.tree, &copy.tree, &paths)?;
        Ok(copy)
    }

    fn cargo_test(&self, args: &[String], no_run: bool) -> Command {
        let mut cargo = process::cargo();
        cargo
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.target)
            // A snapshot that differs must leave no new file in the copy.
            .env("INSTA_UPDATE", "no")
            .args(["test", "--quiet", "--locked"]);
        if no_run {
            cargo.arg("--no-run");
        }
        cargo
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        cargo
    }

    fn tests_pass_without_faults(&self, mutants: &[&Mutant]) -> Result<()> {
        let mut tests: Vec<&Vec<String>> = mutants.iter().map(|mutant| &mutant.test).collect();
        tests.sort();
        tests.dedup();
        for test in tests {
            let mut cargo = self.cargo_test(test, false);
            let line = process::line(&cargo);
            eprintln!("$ {line}");
            if !cargo.status()?.success() {
                bail!("`{line}` fails without any fault planted");
            }
        }
        Ok(())
    }

    fn try_out(&self, mutant: &Mutant) -> Result<Verdict> {
        let file = self.tree.join(&mutant.file);
        let sound = fs::read_to_string(&file)?;
        fs::write(&file, mutant.planted(&sound)?)?;
        let verdict = self.verdict(mutant);
        // Before an error is returned: the next fault must be alone in the copy.
        fs::write(&file, sound)?;
        verdict
    }

    fn verdict(&self, mutant: &Mutant) -> Result<Verdict> {
        if !self
            .cargo_test(&build_args(&mutant.test), true)
            .status()?
            .success()
        {
            return Ok(Verdict::DoesNotCompile);
        }
        // In a group of its own, so that a test that hangs ends with the cargo that started it.
        let mut tests = self
            .cargo_test(&mutant.test, false)
            .process_group(0)
            .spawn()?;
        Ok(match wait(&mut tests)? {
            Some(true) => Verdict::Missed,
            Some(false) => Verdict::Caught,
            None => Verdict::CaughtByTimeout,
        })
    }
}

/// Returns the arguments before `--`: those of the build.
fn build_args(test: &[String]) -> Vec<String> {
    test.iter()
        .take_while(|arg| *arg != "--")
        .cloned()
        .collect()
}

/// Waits for the child and returns its success; `None` if it exceeded the time limit.
fn wait(child: &mut Child) -> Result<Option<bool>> {
    let deadline = Instant::now() + TEST_TIME_MAX;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let group = format!("-{}", child.id());
    process::run(Command::new("kill").args(["-KILL", "--", &group]))?;
    child.wait()?;
    Ok(None)
}

fn write_if_other(to: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(to, bytes).with_context(|| format!("write {}", to.display()))
}

/// Removes from the copy what is no longer in the repository.
fn remove_others(tree: &Path, folder: &Path, keep: &[String]) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(tree, &path, keep)?;
            continue;
        }
        let relative = path.strip_prefix(tree)?.to_string_lossy().into_owned();
        if keep.binary_search(&relative).is_err() {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutant(from: &str) -> Mutant {
        Mutant {
            table: "t".into(),
            name: "m".into(),
            file: "f".into(),
            from: from.into(),
            to: "x".into(),
            test: Vec::new(),
        }
    }

    #[test]
    fn a_text_that_is_gone_or_ambiguous_is_an_error() {
        assert_eq!(mutant("b").planted("abc").unwrap(), "axc");
        assert!(mutant("d").planted("abc").is_err());
        assert!(mutant("a").planted("aba").is_err());
    }
}
