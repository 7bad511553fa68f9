//! `cargo xtask bench SUBJECT [--json]`: measures one part of the project.

mod matcher;
mod parser;
mod proxy;
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
    /// Leave out what takes long: a million subscriptions
    #[arg(long)]
    quick: bool,
    /// Seconds for an agent's answer, of the proxy that is measured
    #[arg(long, default_value_t = 2, hide = true)]
    deadline: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Subject {
    /// Finding the subscriptions of an event
    Matcher,
    /// Reading the text formats
    Parser,
    /// Storing what was read, and reading it back
    Recorder,
    /// A recorder as a process of its own
    #[value(hide = true)]
    RecorderProcess,
    /// A proxy with a thousand agents
    Proxy,
    /// The proxy that is measured, as a process of its own
    #[value(hide = true)]
    ProxyProcess,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let figures = match args.subject {
        Subject::Matcher => matcher::run(args.quick)?,
        Subject::Parser => parser::run(),
        Subject::Recorder => recorder::run()?,
        Subject::RecorderProcess => return recorder::resident::process(),
        Subject::Proxy => proxy::run()?,
        Subject::ProxyProcess => return proxy::process::serve(args.deadline),
    };
    if args.json {
        println!("{}", figure::json(&figures)?);
    } else {
        print!("{}", figure::table(&figures));
    }
    Ok(())
}
