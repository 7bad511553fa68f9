//! Every check that a change must pass, with the time of each.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::{api, coverage, coverage_map, mutants, process, proto, python, sim, test, tidy};

struct Step {
    name: &'static str,
    run: fn(&mut test::Counts) -> Result<()>,
}

const STEPS: [Step; 13] = [
    Step {
        name: "format",
        run: |_| format(),
    },
    Step {
        name: "proto",
        run: |_| proto::run(true),
    },
    Step {
        name: "tidy",
        run: |_| tidy::run(),
    },
    Step {
        name: "spelling",
        run: |_| python::spelling(),
    },
    Step {
        name: "licences",
        run: |_| python::licences(),
    },
    Step {
        name: "coverage-map",
        run: |_| coverage_map::run(false),
    },
    Step {
        name: "clippy",
        run: |_| clippy(),
    },
    Step {
        name: "docs",
        run: |_| {
            let mut doc = process::cargo();
            doc.args(["doc", "--locked", "--workspace", "--no-deps"]);
            process::run(doc.env("RUSTDOCFLAGS", "-D warnings"))
        },
    },
    Step {
        name: "api",
        run: |_| api::run(true),
    },
    Step {
        name: "test",
        run: |counts| test::run(true, counts),
    },
    Step {
        name: "sim",
        run: |_| sim::thousand(),
    },
    Step {
        name: "mutants",
        // All tables together take longer than all other steps, so they are run by hand.
        run: |_| mutants::run(Some("sim_")),
    },
    Step {
        name: "coverage",
        run: |_| coverage::run(false),
    },
];

/// The checks for work in progress: three minutes with a warm target.
const QUICK_STEPS: [Step; 3] = [
    Step {
        name: "format",
        run: |_| format(),
    },
    Step {
        name: "clippy",
        run: |_| clippy(),
    },
    Step {
        name: "unit tests",
        run: test::unit,
    },
];

fn format() -> Result<()> {
    process::run(process::cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> Result<()> {
    let mut clippy = process::cargo();
    clippy.args(["clippy", "--locked", "--workspace", "--all-targets"]);
    process::run(clippy.args(["--", "-D", "warnings"]))
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
    for step in steps {
        println!("== {}", step.name);
        let began = Instant::now();
        let result = (step.run)(&mut counts);
        if let Err(error) = &result {
            println!("{}: {error:#}", step.name);
        }
        results.push((step.name, began.elapsed(), result.is_ok()));
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
