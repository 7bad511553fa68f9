//! Runs schedules and prints a report.

use std::process::ExitCode;

use clap::Parser;

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
    /// Stop at the first violation
    #[arg(long)]
    stop: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let report = steadfast_sim::run_many(args.seed, args.schedules, args.stop);
    if args.json {
        println!("{}", serde_json::json!(report));
    } else {
        println!(
            "{} schedules: {} events, {} changes delivered, {} attempts, {} steps (at most {}), {} violations",
            report.schedules,
            report.events,
            report.delivered,
            report.attempts,
            report.steps,
            report.max_steps,
            report.violations
        );
        for (fault, count) in &report.faults {
            println!("  {fault:16} took effect {count} times");
        }
        if let (Some(seed), Some(violation)) = (report.first_failing_seed, &report.first_violation)
        {
            println!("first failing seed {seed}: {violation}");
            println!("repeat with: cargo xtask sim --seed {seed} --schedules 1");
        }
    }
    if report.violations == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
