//! Data on stdout, everything else on stderr.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anstyle::{AnsiColor, Style};
use steadfast::session::OneLine;

use crate::settings::Faults;

pub(crate) const GOOD: Style = AnsiColor::Green.on_default().bold();
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(crate) const FAINT: Style = Style::new().dimmed();
pub(crate) const STRONG: Style = Style::new().bold();

/// The reader of stdout is gone. This ends a command without a failure (`… | head`).
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the reader of the output is gone")]
pub(crate) struct OutputClosed;

/// A failure with an exit status of its own.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(crate) struct Failure {
    status: u8,
    #[source]
    error: anyhow::Error,
}

/// Returns the error as one that ends the command with this status.
pub(crate) fn with_status(status: u8, error: impl Into<anyhow::Error>) -> anyhow::Error {
    let error = error.into();
    Failure { status, error }.into()
}

/// Writes a line of data to stdout and flushes it.
pub(crate) fn line(line: &str) -> anyhow::Result<()> {
    text(&format!("{line}\n"))
}

/// Writes JSON as a line to stdout. Peers choose what its strings contain, and a terminal obeys that.
pub(crate) fn json_line(json: &str) -> anyhow::Result<()> {
    line(&OneLine(json).to_json())
}

/// Writes data to stdout and flushes it.
pub(crate) fn text(text: &str) -> anyhow::Result<()> {
    let mut out = anstream::stdout().lock();
    // Whoever reads the pipe must see each change when it happens.
    written(write!(out, "{text}").and_then(|()| out.flush()))
}

/// Returns the result of a write to stdout.
pub(crate) fn written(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        other => other.map_err(|error| anyhow::Error::new(error).context("write to stdout")),
    }
}

/// Writes a line for people to stderr.
pub(crate) fn note(text: &str) {
    // A failure to write to stderr cannot be reported anywhere.
    writeln!(anstream::stderr(), "{text}").ok();
}

/// Returns the text in a style. The functions above drop the style if the stream is not a terminal.
pub(crate) fn styled(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Returns true if stderr is a terminal, where a line may be overwritten.
pub(crate) fn is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Returns the exit status of a check.
pub(crate) fn status(passed: bool) -> ExitCode {
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Prints the error and returns the status: 2 for faults in settings and flags, that of a [`Failure`],
/// else 1.
pub(crate) fn fail(error: &anyhow::Error) -> ExitCode {
    if error.is::<OutputClosed>() {
        return ExitCode::SUCCESS;
    }
    if let Some(faults) = error.downcast_ref::<Faults>() {
        for fault in &faults.0 {
            note(&format!(
                "{} {}: {}",
                styled(BAD, "error:"),
                fault.location,
                fault.what
            ));
        }
        return ExitCode::from(2);
    }
    let mut causes = causes(error).into_iter();
    note(&format!(
        "{} {}",
        styled(BAD, "error:"),
        causes.next().unwrap_or_default()
    ));
    for cause in causes {
        note(&format!("  because: {cause}"));
    }
    match error.downcast_ref::<Failure>() {
        Some(failure) => ExitCode::from(failure.status),
        None => ExitCode::FAILURE,
    }
}

/// Returns the chain of causes without those whose text the one before ends with.
pub(crate) fn causes(error: &anyhow::Error) -> Vec<String> {
    let mut causes: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if causes.last().is_none_or(|before| !before.ends_with(&cause)) {
            causes.push(cause);
        }
    }
    causes
}

/// Returns the error with the name of the setting that mends it, which its own type does not know.
pub(crate) fn advised(error: &anyhow::Error, flag: &str) -> anyhow::Error {
    anyhow::anyhow!("{}; choose another with {flag}", causes(error).join(": "))
}

/// Returns a text of a peer as it can be shown on a terminal.
pub(crate) fn shown(text: &str) -> String {
    // Peers choose ids, and a terminal obeys control characters.
    OneLine(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_its_effect_repeats_is_printed_once() {
        let root = io::Error::other("disk on fire");
        let error = anyhow::Error::new(root)
            .context("cannot open it: disk on fire")
            .context("no start");
        assert_eq!(causes(&error), ["no start", "cannot open it: disk on fire"]);
    }
}
