//! Data on stdout, everything else on stderr.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anstyle::{AnsiColor, Style};

use crate::config::Faults;

pub(crate) const GOOD: Style = AnsiColor::Green.on_default().bold();
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(crate) const FAINT: Style = Style::new().dimmed();
pub(crate) const STRONG: Style = Style::new().bold();

/// The reader of stdout is gone: a reason to stop, not a failure (`… | head`).
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("nobody reads the output any more")]
pub(crate) struct OutputClosed;

/// Writes a line of data to stdout at once.
pub(crate) fn line(line: &str) -> anyhow::Result<()> {
    text(&format!("{line}\n"))
}

/// Writes data to stdout at once, as it is.
pub(crate) fn text(text: &str) -> anyhow::Result<()> {
    let mut out = anstream::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        other => other.map_err(|error| anyhow::Error::new(error).context("write to stdout")),
    }
}

/// Writes a line for people to stderr. There is nobody to tell when that fails.
pub(crate) fn note(text: &str) {
    writeln!(anstream::stderr(), "{text}").ok();
}

/// Text in a style, for the two functions above, which leave styles out where they do not belong.
pub(crate) fn styled(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Whether people watch stderr, so that a line may be painted over.
pub(crate) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Tells how a command failed and gives the status: 2 for what the caller wrote, else 1.
pub(crate) fn fail(error: &anyhow::Error) -> ExitCode {
    if error.is::<OutputClosed>() {
        return ExitCode::SUCCESS;
    }
    if let Some(faults) = error.downcast_ref::<Faults>() {
        for fault in &faults.0 {
            note(&format!(
                "{} {}: {}",
                styled(BAD, "error:"),
                fault.place,
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
    ExitCode::FAILURE
}

/// What failed and why, without the causes that what they caused repeats.
pub(crate) fn causes(error: &anyhow::Error) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if told.last().is_none_or(|before| !before.ends_with(&cause)) {
            told.push(cause);
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_its_effect_repeats_is_told_once() {
        let root = io::Error::other("disk on fire");
        let error = anyhow::Error::new(root)
            .context("can not open it: disk on fire")
            .context("no start");
        assert_eq!(
            causes(&error),
            ["no start", "can not open it: disk on fire"]
        );
    }
}
