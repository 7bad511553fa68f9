//! The project's tasks. Each is a module; this file parses the command line.

mod api;
mod bench;
mod chaos;
mod ci;
mod coverage;
mod coverage_map;
mod javascript;
mod mutants;
mod process;
mod proto;
mod python;
mod shim;
mod sim;
mod source;
mod test;
mod tidy;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "The project's tasks: code generation, checks, tests, measurements"
)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run every check that a change must pass; .ci/run calls this
    Ci {
        /// Stop at the first step that fails
        #[arg(long)]
        fail_fast: bool,
    },
    /// Run the quick checks for work in progress: format, clippy, unit tests
    Check,
    /// Run all tests: unit, integration, documentation, the Python peers, the JavaScript client and the console
    Test {
        /// Skip the Python peers, the JavaScript client and the console
        #[arg(long)]
        no_interop: bool,
    },
    /// Generate the protobuf code of `steadfast-wire`
    Proto {
        /// Compare with the code in the repository instead of writing it
        #[arg(long)]
        check: bool,
    },
    /// Run the tests of the JavaScript client, those against the gateway included
    Js,
    /// Write the transitions of the session to docs/session-transitions.json, after a change of its rules
    Transitions,
    /// Check dependencies between crates, lints, sizes, versions, language and import cycles
    Tidy,
    /// Check the spelling with `typos`
    Spelling,
    /// Check licences, bans and sources of the dependencies with `cargo deny`
    Licences,
    /// Check that docs/coverage.md names an existing test for each requirement and defect
    CoverageMap {
        /// Accept rows that are still `TODO`
        #[arg(long)]
        allow_open: bool,
    },
    /// Write the public interface of the libraries to docs/api
    Api {
        /// Compare with docs/api instead of writing it
        #[arg(long)]
        check: bool,
    },
    /// Plant each fault of xtask/mutants in a copy and check that its tests fail
    Mutants {
        /// Only the mutants whose `table/name` contains this text
        #[arg(long)]
        only: Option<String>,
    },
    /// Run seeded fault schedules over the machines in virtual time (--schedules N, --seed N, --json)
    Sim {
        /// Arguments of the simulation; see `cargo xtask sim -- --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Measure a part of the project (recorder|parser|proxy, --json)
    Bench {
        /// Arguments of the measurements; see `cargo xtask bench -- --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run a long test of the shipped binary
    Chaos {
        #[command(subcommand)]
        test: chaos::Test,
    },
    /// Compare remote read with a Prometheus of the system's packages (two minutes)
    RemoteRead {
        /// Arguments of the comparison: --seed N, --queries N, --seconds N, --allow-busy, --keep
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Test the console of the gateway in a Chromium of the system's packages
    Console {
        /// Write the screenshots of docs/screenshots instead
        #[arg(long)]
        screenshots: bool,
    },
    /// Measure the line coverage of the session, the link and the Streamer client
    Coverage {
        /// List the lines that no test reaches
        #[arg(long)]
        uncovered: bool,
    },
}

fn main() -> Result<()> {
    // Cargo calls this program in place of rustc or rustdoc, see `shim`.
    if let Some(exit) = shim::stand_in() {
        std::process::exit(exit?);
    }
    match Args::parse().task {
        Task::Ci { fail_fast } => ci::all(fail_fast),
        Task::Check => ci::quick(),
        Task::Test { no_interop } => {
            let mut counts = test::Counts::default();
            let result = test::run(!no_interop, &mut counts);
            println!("{} passed, {} failed", counts.passed, counts.failed);
            result
        }
        Task::Proto { check } => proto::run(check),
        Task::Js => test::javascript(),
        Task::Transitions => test::write_transitions(),
        Task::Tidy => tidy::run(),
        Task::Spelling => python::spelling(),
        Task::Licences => python::licences(),
        Task::CoverageMap { allow_open } => coverage_map::run(allow_open),
        Task::Api { check } => api::run(check),
        Task::Mutants { only } => mutants::run(only.as_deref()),
        Task::Sim { args } => sim::run(&args),
        Task::Bench { args } => bench::run(&args),
        Task::Chaos { test } => chaos::run(test),
        Task::RemoteRead { args } => test::remote_read(&args),
        Task::Console { screenshots: true } => test::write_screenshots(),
        Task::Console { screenshots: false } => {
            let mut counts = test::Counts::default();
            let result = test::console(&mut counts);
            println!("{} passed, {} failed", counts.passed, counts.failed);
            result
        }
        Task::Coverage { uncovered } => coverage::run(uncovered),
    }
}
