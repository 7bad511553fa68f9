//! This program standing in for a tool of the toolchain, when cargo calls it as one.
//!
//! Cargo lets a wrapper see the compiler's command line, but only for members of the workspace, and
//! takes another rustdoc. Both chores that use it thereby share every compiled dependency with the
//! ordinary build; environment variables for the whole of cargo would have all of it built again.

use std::{
    env,
    ffi::OsStr,
    process::{Command, ExitStatus},
};

use anyhow::{Context as _, Result};

const ROLE: &str = "STEADFAST_XTASK_ROLE";

/// The program that xtask stands in for.
#[derive(Clone, Copy)]
pub(crate) enum Role {
    /// The compiler, with coverage counters in what it makes.
    CountingRustc,
    /// The documentation tool, with its JSON output allowed on the stable toolchain.
    JsonRustdoc,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::CountingRustc => "counting-rustc",
            Self::JsonRustdoc => "json-rustdoc",
        }
    }

    /// Has cargo call this program in the role.
    pub(crate) fn assign(self, cargo: &mut Command) -> Result<()> {
        let this = env::current_exe().context("find this program")?;
        let variable = match self {
            Self::CountingRustc => "RUSTC_WORKSPACE_WRAPPER",
            Self::JsonRustdoc => "RUSTDOC",
        };
        cargo.env(variable, this).env(ROLE, self.name());
        Ok(())
    }
}

/// Plays the role this program was called in and returns the exit code, or `None` if it was called
/// by a person.
pub(crate) fn stand_in() -> Option<Result<i32>> {
    let role = env::var(ROLE).ok()?;
    let mut args = env::args_os().skip(1);
    let mut command = match role.as_str() {
        "counting-rustc" => {
            let mut rustc = Command::new(args.next()?);
            rustc.args(args);
            // Build scripts and macros run while compiling; their counters say nothing.
            let compiles_host_code = rustc
                .get_args()
                .any(|arg| arg == OsStr::new("build_script_build"));
            if !compiles_host_code {
                rustc.args(["-C", "instrument-coverage"]);
            }
            rustc
        }
        "json-rustdoc" => {
            let mut rustdoc = Command::new("rustdoc");
            rustdoc.args(args).env("RUSTC_BOOTSTRAP", "1");
            rustdoc
        }
        _ => return None,
    };
    // What the tool itself starts must not take the role as well.
    command.env_remove(ROLE);
    Some(
        command
            .status()
            .with_context(|| format!("start {}", command.get_program().to_string_lossy()))
            .map(|status: ExitStatus| status.code().unwrap_or(101)),
    )
}
