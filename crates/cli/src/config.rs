//! `steadfast config`: checks of files before a server reads them.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::bail;
use clap::Subcommand;
use steadfast_streamer::server::policy_source;

use crate::{
    output,
    settings::{self, Given, Settings},
};

/// Arguments of `config`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print every fault of a file of settings or of a policy file, each with its line
    #[command(after_help = EXAMPLES)]
    Check {
        /// File of settings (--config), or policy file (--access)
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

const EXAMPLES: &str =
    "Of settings it checks the names, and the policy files that they name; values are checked
when a command starts. docs/access.md describes policy files.

Exit status: 0 without a fault, 1 with one.

Examples:
  steadfast config check steadfast.toml
  steadfast config check access.toml";

pub(crate) fn run<A: clap::Parser>(args: Args) -> anyhow::Result<ExitCode> {
    let Command::Check { file } = args.command;
    // Opening a pipe waits for its writer, and a device may have no end.
    if file.metadata().is_ok_and(|it| !it.is_file()) {
        bail!("{} is not a regular file; name one", file.display());
    }
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let faults = if is_policy(&text) {
        policy_faults(&file)
    } else {
        let checked = settings::check_file::<A>(&file);
        let mut faults = checked
            .faults
            .map_or_else(Vec::new, |it| vec![it.to_string()]);
        faults.extend(
            checked
                .access
                .iter()
                .flat_map(|it| policy_faults(Path::new(it))),
        );
        faults
    };
    for fault in &faults {
        output::line(fault)?;
    }
    if faults.is_empty() {
        output::note(&format!("{} has no faults", file.display()));
    }
    Ok(output::status(faults.is_empty()))
}

/// Tells a policy from settings by the names that only one of them has. The name is enough, so that a table
/// with the wrong brackets has its fault as a part of a policy.
fn is_policy(text: &str) -> bool {
    const NAMES: [&str; 5] = ["grants", "members", "tokens", "jwt", "certificates"];
    text.lines().any(|line| {
        // Some editors begin a file with a byte order mark.
        let line = line.trim_start_matches(['\u{feff}', ' ', '\t', '[']);
        let end = line.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-');
        NAMES.contains(&&line[..end.unwrap_or(line.len())])
    })
}

/// Reads the policy file of a server. Here and not at its start, so that the faults of the file are among
/// those of the settings.
pub(crate) fn policy_file(
    given: Option<Given<String>>,
    settings: &mut Settings,
) -> Option<PathBuf> {
    let path = settings.get(given).map(PathBuf::from)?;
    if let Some(Err(faults)) = policy_source(&path).poll() {
        let faults = faults.0.into_iter();
        faults.for_each(|fault| settings.fault(fault.place(), fault.kind.to_string()));
    }
    Some(path)
}

fn policy_faults(path: &Path) -> Vec<String> {
    match policy_source(path).poll() {
        Some(Err(faults)) => vec![faults.to_string()],
        Some(Ok(_)) | None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_is_told_from_settings_also_after_a_mark() {
        for (text, expected) in [
            ("[[grants]]\n", true),
            ("\u{feff}[[grants]]\n", true),
            ("\u{feff}  tokens = 1\n", true),
            ("\u{feff}# comment\n[jwt]\n", true),
            ("\u{feff}[server]\n", false),
            ("\u{feff}log = \"info\"\n", false),
            ("[grantsome]\n", false),
            ("", false),
        ] {
            assert_eq!(is_policy(text), expected, "{text:?}");
        }
    }
}
