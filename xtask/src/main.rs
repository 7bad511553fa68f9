//! The project's chores. Each is a module; this file only tells them apart.

mod api;
mod bench;
mod ci;
mod coverage;
mod coverage_map;
mod mutants;
mod process;
mod proto;
mod python;
mod shim;
mod sim;
mod source;
mod spelling;
mod test;
mod tidy;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's chores")]
struct Args {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Everything that must hold before a change lands; what .ci/run runs
    Ci {
        /// Stop at the first step that fails
        #[arg(long)]
        fail_fast: bool,
    },
    /// The quick profile while working: format, clippy, unit tests
    Check,
    /// Run every test: unit, integration, documentation, and the Python peers
    Test {
        /// Leave the Python peers out
        #[arg(long)]
        no_interop: bool,
    },
    /// Generate the protobuf code of `steadfast-wire` anew
    Proto {
        /// Write nothing; fail if the code in the repository differs
        #[arg(long)]
        check: bool,
    },
    /// Check what holds across crates: dependencies, licences, lints, sizes, versions
    Tidy {
        /// Print the figures of language and import cycles, and check nothing
        #[arg(long)]
        report: bool,
        /// Print every finding whose text contains this, and check nothing
        #[arg(long, value_name = "TEXT")]
        find: Option<String>,
    },
    /// Check the spelling with `typos`
    Spelling,
    /// Check that docs/coverage.md names an existing test for each requirement and defect
    CoverageMap {
        /// Accept rows that are still `TODO`
        #[arg(long)]
        allow_open: bool,
    },
    /// Write the public interface of the libraries to docs/api
    Api {
        /// Write nothing; fail if docs/api differs
        #[arg(long)]
        check: bool,
    },
    /// Plant each fault of xtask/mutants in a copy and see that its tests fail
    Mutants {
        /// Only the mutants of whose `table/name` this is a part
        #[arg(long)]
        only: Option<String>,
    },
    /// Run seeded fault schedules over the machines in virtual time (--schedules N, --seed N, --json)
    Sim {
        /// What the simulation takes; see `cargo xtask sim -- --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Measure one part of the project (recorder|parser|proxy, --json)
    Bench {
        /// What the measurements take; see `cargo xtask bench -- --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Compare remote read with what a Prometheus scraped for itself; two minutes, needs its packages
    RemoteRead {
        /// What the comparison takes, like --seed N, or --raw for one where both scrape by themselves
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Measure the line coverage of session, link and the Streamer client
    Coverage {
        /// List the lines that no test reached
        #[arg(long)]
        uncovered: bool,
    },
}

fn main() -> Result<()> {
    if let Some(exit) = shim::stand_in() {
        std::process::exit(exit?);
    }
    match Args::parse().chore {
        Chore::Ci { fail_fast } => ci::all(fail_fast),
        Chore::Check => ci::quick(),
        Chore::Test { no_interop } => {
            let mut tally = test::Tally::default();
            let result = test::run(!no_interop, &mut tally);
            println!("{} passed, {} failed", tally.passed, tally.failed);
            result
        }
        Chore::Proto { check } => proto::run(check),
        Chore::Tidy { report: true, .. } => tidy::report(),
        Chore::Tidy {
            find: Some(text), ..
        } => tidy::find(&text),
        Chore::Tidy { .. } => tidy::run(),
        Chore::Spelling => spelling::run(),
        Chore::CoverageMap { allow_open } => coverage_map::run(allow_open),
        Chore::Api { check } => api::run(check),
        Chore::Mutants { only } => mutants::run(only.as_deref()),
        Chore::Sim { args } => sim::run(&args),
        Chore::Bench { args } => bench::run(&args),
        Chore::RemoteRead { args } => test::remote_read(&args),
        Chore::Coverage { uncovered } => coverage::run(uncovered),
    }
}
