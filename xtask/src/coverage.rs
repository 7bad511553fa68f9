//! Line coverage of session, steadfast and the Streamer client.
//!
//! The compiler counts (`-C instrument-coverage`), LLVM's own tools read the counts. They come with
//! the toolchain (`rustup component add llvm-tools`) or with the system (`llvm-22` for a rustc on
//! LLVM 22); the format is tied to LLVM's major version, so an older one cannot be used.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use cargo_metadata::Message;

use crate::{
    process,
    shim::Role,
    source::{self, Source},
};

const PERCENT_MIN: f64 = 90.0;

/// Packages whose tests are run. Those of the simulation drive the same machines.
const PACKAGES: [&str; 5] = [
    "steadfast-session",
    "steadfast",
    "steadfast-streamer",
    "steadfast-streamer-core",
    "steadfast-sim",
];

/// The measured parts, and the path prefixes of each.
const PARTS: [(&str, &[&str]); 3] = [
    ("session", &["crates/session/src/"]),
    ("steadfast", &["crates/steadfast/src/"]),
    (
        "Streamer client",
        &[
            "crates/streamer/src/client",
            "crates/streamer-core/src/client",
        ],
    ),
];

/// Runs the tests with counters, prints the coverage, and fails if a part is below the minimum.
pub(crate) fn run(uncovered: bool) -> Result<()> {
    let llvm = Llvm::find()?;
    let folder = process::target().join("coverage");
    if folder.exists() {
        // The counts of earlier runs would be merged with these.
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    // llvm-cov needs the programs beside their counts, and only the build names them.
    let programs = build()?;
    let mut tests = tests(&["--no-fail-fast"]);
    tests.env("LLVM_PROFILE_FILE", folder.join("%p-%8m.profraw"));
    Role::CountingRustc.assign(&mut tests)?;
    if let Err(error) = process::run(&mut tests) {
        // The test step reports failing tests; the counts of executed lines are right all the same.
        println!("coverage: {error:#}");
    }

    let lcov = llvm.lcov(&folder, &programs)?;
    let files = measured(&lcov)?;
    print_files(&files, uncovered);
    let mut low = Vec::new();
    for (part, prefixes) in PARTS {
        let of_part = || files.iter().filter(|file| within(&file.path, prefixes));
        let lines: usize = of_part().map(|file| file.lines).sum();
        let missed: usize = of_part().map(|file| file.missed.len()).sum();
        if lines == 0 {
            bail!("nothing was measured of {part}");
        }
        let percent = percent(lines, missed);
        println!("coverage: {part}: {percent:.1} % of {lines} lines");
        if percent < PERCENT_MIN {
            low.push(part);
        }
    }
    if !low.is_empty() {
        bail!("below {PERCENT_MIN} %: {}", low.join(", "));
    }
    Ok(())
}

/// A file with the lines that no test reached.
struct Measured {
    path: String,
    lines: usize,
    missed: Vec<usize>,
}

fn percent(lines: usize, missed: usize) -> f64 {
    100.0 * (lines - missed) as f64 / lines as f64
}

fn print_files(files: &[Measured], uncovered: bool) {
    for file in files {
        println!(
            "{:>6.1} %  {:>4} of {:>4}  {}",
            percent(file.lines, file.missed.len()),
            file.lines - file.missed.len(),
            file.lines,
            file.path
        );
        if uncovered && !file.missed.is_empty() {
            let missed: Vec<_> = file.missed.iter().map(ToString::to_string).collect();
            println!("            missed: {}", missed.join(" "));
        }
    }
}

fn tests(extra: &[&str]) -> Command {
    let mut cargo = process::cargo();
    cargo.args(["test", "--quiet", "--locked", "--lib", "--tests"]);
    for package in PACKAGES {
        cargo.args(["--package", package]);
    }
    cargo.args(extra);
    cargo
}

/// Builds the tests with counters and returns the programs.
fn build() -> Result<Vec<PathBuf>> {
    let mut cargo = tests(&["--no-run", "--message-format=json-render-diagnostics"]);
    Role::CountingRustc.assign(&mut cargo)?;
    let output = process::output(&mut cargo)?;
    let mut programs = Vec::new();
    for message in Message::parse_stream(output.as_bytes()) {
        if let Message::CompilerArtifact(artifact) = message? {
            programs.extend(artifact.executable.map(PathBuf::from));
        }
    }
    Ok(programs)
}

/// LLVM's tools of the version that the compiler uses.
struct Llvm {
    profdata: PathBuf,
    cov: PathBuf,
}

impl Llvm {
    fn find() -> Result<Self> {
        let version = process::output(Command::new("rustc").arg("-vV"))?;
        let field = |name: &str| {
            version
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .with_context(|| format!("`rustc -vV` says no `{name}`"))
        };
        let major = field("LLVM version: ")?
            .split('.')
            .next()
            .unwrap_or_default();
        let sysroot = process::output(Command::new("rustc").args(["--print", "sysroot"]))?;
        let bundled =
            Path::new(sysroot.trim()).join(format!("lib/rustlib/{}/bin", field("host: ")?));
        let system = PathBuf::from(format!("/usr/lib/llvm-{major}/bin"));
        // The bundled tools come first: they are of exactly the compiler's LLVM.
        for folder in [bundled, system] {
            let llvm = Self {
                profdata: folder.join("llvm-profdata"),
                cov: folder.join("llvm-cov"),
            };
            if llvm.profdata.exists() && llvm.cov.exists() {
                return Ok(llvm);
            }
        }
        bail!(
            "no llvm-cov for LLVM {major}: `apt-get install llvm-{major}`, or `rustup component add llvm-tools`"
        )
    }

    /// The counts as lcov records: `SF:` file, `DA:` line and count.
    fn lcov(&self, folder: &Path, programs: &[PathBuf]) -> Result<String> {
        let counts = folder.join("counts.profdata");
        let mut raw = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "profraw")
            {
                raw.push(path);
            }
        }
        let mut profdata = Command::new(&self.profdata);
        profdata
            .args(["merge", "--sparse", "--output"])
            .arg(&counts)
            .args(raw);
        if !profdata.status().context("start llvm-profdata")?.success() {
            bail!("llvm-profdata failed");
        }
        let mut cov = Command::new(&self.cov);
        cov.args(["export", "--format=lcov", "--instr-profile"])
            .arg(&counts);
        for (at, program) in programs.iter().enumerate() {
            if at > 0 {
                cov.arg("--object");
            }
            cov.arg(program);
        }
        process::output(&mut cov)
    }
}

/// The files of the measured parts, without their tests.
fn measured(lcov: &str) -> Result<Vec<Measured>> {
    let sources = source::files(|path| {
        PARTS.iter().any(|(_, prefixes)| within(path, prefixes)) && !is_test_file(path)
    })?;
    let root = format!("{}/", process::root().display());
    let mut counts: BTreeMap<&str, BTreeMap<usize, u64>> = BTreeMap::new();
    let mut file = None;
    for line in lcov.lines() {
        if let Some(path) = line.strip_prefix("SF:") {
            file = Some(path.strip_prefix(&root).unwrap_or(path));
        } else if let (Some(file), Some((number, count))) = (file, data(line)) {
            // A line may be listed more than once. Any hit counts.
            let most = counts.entry(file).or_default().entry(number).or_default();
            *most = count.max(*most);
        }
    }
    let files = sources
        .iter()
        .filter_map(|source| Some(measure(source, counts.get(source.path.as_str())?)));
    Ok(files.collect())
}

fn measure(source: &Source, counts: &BTreeMap<usize, u64>) -> Measured {
    let end = source.tests_from().unwrap_or(usize::MAX);
    let counted = || counts.range(..end);
    Measured {
        path: source.path.clone(),
        lines: counted().count(),
        missed: counted()
            .filter(|(_, count)| **count == 0)
            .map(|(number, _)| *number)
            .collect(),
    }
}

fn within(path: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| path.starts_with(prefix))
}

fn is_test_file(path: &str) -> bool {
    !source::is(path, "rs") || path.ends_with("/tests.rs") || path.contains("/tests/")
}

/// `DA:12,3`
fn data(line: &str) -> Option<(usize, u64)> {
    let (number, count) = line.strip_prefix("DA:")?.split_once(',')?;
    Some((number.parse().ok()?, count.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_tests_do_not_count() {
        let source = Source {
            path: "x.rs".into(),
            text: "fn a() {\n}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n".into(),
        };
        let measured = measure(&source, &BTreeMap::from([(1, 4), (2, 0), (5, 0)]));
        assert_eq!((measured.lines, measured.missed), (2, vec![2]));
    }

    #[test]
    fn reads_lcov_records() {
        assert_eq!(data("DA:12,3"), Some((12, 3)));
        assert_eq!(data("LF:12"), None);
    }
}
