//! The project's chores.

mod proto;

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
    /// Generate the protobuf code of `steadfast-wire` anew
    Proto,
}

fn main() -> Result<()> {
    match Args::parse().chore {
        Chore::Proto => proto::generate(),
    }
}
