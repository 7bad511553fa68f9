//! How a tour tells what it does, and how it rests.

use std::time::Duration;

use tokio::{select, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::output::{self, FAINT, STRONG, styled};

/// Tells that a step begins.
pub(crate) fn head(number: u32, what: &str, detail: &str) {
    let title = styled(STRONG, &format!("{number}. {what}:"));
    output::note(&format!("{title} {detail}"));
}

/// Tells what happens within a step.
pub(crate) fn note(text: &str) {
    output::note(&format!("   {}", styled(FAINT, text)));
}

/// Lets time pass; `false` when stopped before the end.
pub(crate) async fn rest(duration: Duration, stop: &CancellationToken) -> bool {
    select! {
        () = stop.cancelled() => false,
        () = sleep(duration) => true,
    }
}
