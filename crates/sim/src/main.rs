//! Runs schedules and prints a report.

use std::{collections::BTreeMap, process::ExitCode, sync::Arc};

use clap::Parser;
use steadfast_streamer::log::testing::simulate;

/// Runs seeded fault schedules over the machines of Steadfast in virtual time.
#[derive(Debug, Parser)]
#[command(name = "steadfast-sim")]
struct Args {
    /// Number of schedules
    #[arg(long, default_value_t = 1_000)]
    schedules: u64,
    /// First seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of schedules of disk faults over the log
    #[arg(long, default_value_t = 0)]
    log_schedules: u64,
    /// Stop at the first violation
    #[arg(long)]
    stop: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.log_schedules > 0 {
        return log_schedules(&args);
    }
    let report = steadfast_sim::run_many(args.seed, args.schedules, args.stop);
    if args.json {
        println!("{}", serde_json::json!(report));
    } else {
        let (schedules, violations) = (report.schedules, report.violations);
        let (counts, most) = (report.counts, report.max_steps);
        println!(
            "{schedules} schedules, {violations} violations: {counts:#?}, at most {most} steps"
        );
        for (fault, count) in &report.faults {
            println!("  {fault:16} took effect {count} times");
        }
        if let Some((seed, violation)) = &report.first_violation {
            println!("first failing seed {seed}: {violation}");
            println!("repeat with: cargo xtask sim --seed {seed} --schedules 1");
        }
    }
    // Also with `--json`: a script that only looks at the exit code must see a violation.
    if report.violations == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs schedules of disk faults over the log.
fn log_schedules(args: &Args) -> ExitCode {
    // One for all schedules: a log owns a lock file even where its disk is simulated.
    let lock = match tempfile::tempfile() {
        Ok(lock) => Arc::new(lock),
        Err(error) => {
            eprintln!("cannot create a temporary file: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let mut violations = 0;
    for seed in args.seed..args.seed + args.log_schedules {
        match simulate(seed, &lock) {
            Ok(done) => {
                for (what, count) in done.0 {
                    *counts.entry(what).or_default() += count;
                }
            }
            Err(violation) => {
                violations += 1;
                eprintln!("seed {seed}: {violation}");
                eprintln!("repeat with: cargo xtask sim --seed {seed} --log-schedules 1");
                if args.stop {
                    break;
                }
            }
        }
    }
    let schedules = args.log_schedules;
    if args.json {
        let report = serde_json::json!({
            "schedules": schedules, "violations": violations, "counts": counts,
        });
        println!("{report}");
    } else {
        println!("{schedules} schedules of the log: {violations} violations");
        for (what, count) in counts {
            println!("  {what:18} {count} times");
        }
    }
    if violations == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
