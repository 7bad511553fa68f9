//! `cargo xtask bench SUBJECT [--json]`: measures one part of the project.

mod broadcast;
mod catchup;
mod gateway;
mod live;
mod log;
mod matcher;
mod parser;
mod proxy;
mod recorder;
mod restore;
mod streamer;
mod target;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use steadfast_bench::figure;

#[derive(Parser)]
#[command(name = "cargo xtask bench", about = "Measures one part of the project")]
struct Args {
    /// The part to measure
    subject: Subject,
    /// Print one JSON object: figure name to value, unit, baseline, ratio
    #[arg(long)]
    json: bool,
    /// Leave out the measurements that take long: a million subscriptions, memory, clients
    #[arg(long)]
    quick: bool,
    /// Program of Centrifugo 6, to measure the gateway beside it
    #[arg(long, value_name = "FILE")]
    centrifugo: Option<PathBuf>,
    /// The arguments of a measured server
    #[arg(last = true, hide = true)]
    arguments: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Subject {
    /// Reading what was missed from a Streamer server
    Catchup,
    /// Delivering an event to many, beside raw tonic and raw TCP
    Broadcast,
    /// Sockets of the gateway: memory and CPU time, beside Centrifugo with `--centrifugo`
    Gateway,
    /// Live sets and windows: the cost of a change per touched view, and the rate of a snapshot
    Live,
    /// The log: commits, bytes written, recovery
    Log,
    /// Matching an event with subscriptions
    Matcher,
    /// Memory of the shipped server per connection and subscription, and after they have left
    Memory,
    /// Parsing the text formats
    Parser,
    /// Storing samples and reading them back
    Recorder,
    /// Restoring the subscriptions of a Streamer server that was killed
    Restore,
    /// What TLS costs the shipped server: per delivery, handshake and idle connection
    Tls,
    /// A recorder in a separate process
    #[value(hide = true)]
    RecorderProcess,
    /// A proxy with a thousand agents
    Proxy,
    /// The measured Streamer server in a separate process
    #[value(hide = true)]
    StreamerProcess,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let figures = match args.subject {
        Subject::Catchup => catchup::run(args.quick)?,
        Subject::Broadcast => broadcast::run(args.quick)?,
        Subject::Gateway => gateway::run(args.quick, args.centrifugo.as_deref())?,
        Subject::Live => live::run(args.quick)?,
        Subject::Log => log::run()?,
        Subject::Matcher => matcher::run(args.quick)?,
        Subject::Memory => broadcast::memory::run()?,
        Subject::Parser => parser::run(),
        Subject::Recorder => recorder::run()?,
        Subject::Restore => restore::run(args.quick)?,
        Subject::RecorderProcess => return recorder::resident::process(),
        Subject::Proxy => proxy::run()?,
        Subject::Tls => broadcast::tls::run()?,
        Subject::StreamerProcess => return streamer::serve(&args.arguments),
    };
    if args.json {
        println!("{}", figure::json(&figures)?);
    } else {
        print!("{}", figure::table(&figures));
    }
    Ok(())
}
