//! `cargo xtask bench SUBJECT [--json]`: measures one part of the project.

mod parser;
mod recorder;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use steadfast_bench::figure;

#[derive(Parser)]
#[command(name = "cargo xtask bench", about = "Measures one part of the project")]
struct Args {
    /// What to measure
    subject: Subject,
    /// Print one JSON object: figure name to value, unit, baseline, ratio
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Subject {
    /// Reading the text formats
    Parser,
    /// Storing what was read, and reading it back
    Recorder,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let figures = match args.subject {
        Subject::Parser => parser::run(),
        Subject::Recorder => recorder::run()?,
    };
    if args.json {
        println!("{}", figure::json(&figures)?);
    } else {
        print!("{}", figure::table(&figures));
    }
    Ok(())
}
