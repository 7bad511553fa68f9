//! Every check that a change must pass, with the time of each.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::{api, coverage, coverage_map, mutants, process, proto, python, sim, test, tidy};

/// A check with its name in the output.
type Step = (&'static str, fn(&mut test::Counts) -> Result<()>);

const STEPS: [Step; 14] = [
    ("format", |_| format()),
    ("proto", |_| proto::run(true)),
    ("tidy", |_| tidy::run()),
    ("spelling", |_| python::spelling()),
    ("licences", |_| python::licences()),
    ("coverage-map", |_| coverage_map::run(false)),
    ("clippy", |_| clippy()),
    ("docs", |_| docs()),
    ("api", |_| api::run(true)),
    ("test", |counts| test::run(true, counts)),
    ("remote-read", |_| test::remote_read(&REMOTE_READ)),
    ("sim", |_| sim::thousand()),
    // All tables together take longer than all other steps, so they are run by hand.
    ("mutants", |_| mutants::run(Some("sim_"))),
    ("coverage", |_| coverage::run(false)),
];

/// The short form of the comparison, a minute and a half. Only a difference fails it, not a machine that is
/// too busy for a comparison by the second.
const REMOTE_READ: [&str; 5] = ["--queries", "30", "--seconds", "20", "--allow-busy"];

/// The checks for work in progress: three minutes with a warm target.
const QUICK_STEPS: [Step; 3] = [
    ("format", |_| format()),
    ("clippy", |_| clippy()),
    ("unit tests", test::unit),
];

fn format() -> Result<()> {
    process::run(process::cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> Result<()> {
    let mut clippy = process::cargo();
    clippy.args(["clippy", "--locked", "--workspace", "--all-targets"]);
    process::run(clippy.args(["--", "-D", "warnings"]))
}

fn docs() -> Result<()> {
    let mut doc = process::cargo();
    doc.args(["doc", "--locked", "--workspace", "--no-deps"]);
    process::run(doc.env("RUSTDOCFLAGS", "-D warnings"))
}

/// Runs every step.
pub(crate) fn all(fail_fast: bool) -> Result<()> {
    run(&STEPS, fail_fast)
}

/// Runs the steps of the quick profile.
pub(crate) fn quick() -> Result<()> {
    run(&QUICK_STEPS, false)
}

/// Runs the steps. A failed one ends the run only with `fail_fast`, so that one run shows all faults.
fn run(steps: &[Step], fail_fast: bool) -> Result<()> {
    let mut counts = test::Counts::default();
    let mut results: Vec<(&str, Duration, bool)> = Vec::new();
    for (name, check) in steps {
        println!("== {name}");
        let began = Instant::now();
        let result = check(&mut counts);
        if let Err(error) = &result {
            println!("{name}: {error:#}");
        }
        results.push((name, began.elapsed(), result.is_ok()));
        if result.is_err() && fail_fast {
            break;
        }
    }
    println!("== summary");
    for (name, took, passed) in &results {
        let result = if *passed { "ok" } else { "FAILED" };
        println!("{name:<14} {result:<7} {:>7.1} s", took.as_secs_f64());
    }
    let failed = results.iter().filter(|(_, _, passed)| !passed).count();
    println!("{} passed, {} failed", counts.passed, counts.failed);
    if failed > 0 {
        bail!("{failed} of {} steps failed", results.len());
    }
    Ok(())
}
