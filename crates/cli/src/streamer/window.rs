//! `steadfast streamer subscribe --order-by`: the first documents of an order, and their changes.

use std::str::FromStr;

use steadfast::session::OneLine;
use steadfast_streamer::{
    Direction, LiveWindow, WindowUpdate,
    client::JsonLines,
    filter::{FieldPath, TextFault},
};
use tokio::select;
use tokio_util::sync::CancellationToken;

use crate::output::{self, STRONG, styled};

/// The order of a window: `FIELD`, `FIELD:asc` or `FIELD:desc`.
#[derive(Clone, Debug)]
pub(crate) struct OrderBy {
    pub(crate) field: FieldPath,
    pub(crate) direction: Direction,
}

impl FromStr for OrderBy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (field, direction) = match text.rsplit_once(':') {
            None => (text, Direction::Ascending),
            Some((field, "asc")) => (field, Direction::Ascending),
            Some((field, "desc")) => (field, Direction::Descending),
            Some((_, other)) => return Err(format!("{other:?} is neither asc nor desc")),
        };
        if field.is_empty() {
            return Err("the field is missing; write FIELD or FIELD:desc".to_owned());
        }
        Ok(Self {
            field: field
                .parse()
                .map_err(|fault: TextFault| fault.to_string())?,
            direction,
        })
    }
}

/// Prints the updates of a window until it is interrupted or the server refuses.
pub(super) async fn print(
    window: &mut LiveWindow,
    as_json: bool,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let update = select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            update = window.next() => update,
        };
        let Some(update) = update.transpose()? else {
            return Ok(());
        };
        if as_json {
            let mut line = String::new();
            let document = window.documents().document(&update);
            let lines = JsonLines::default();
            lines.write_update(&update, document, window.position(), &mut line);
            output::json_line(&line)?;
        } else {
            print_text(&update, window)?;
        }
    }
}

fn print_text(update: &WindowUpdate, window: &LiveWindow) -> anyhow::Result<()> {
    let (what, id, index) = match update {
        WindowUpdate::Entered { id, index } => ("enters", id, index),
        WindowUpdate::Changed { id, index } => ("changes", id, index),
        WindowUpdate::Moved { id, to, .. } => ("moves", id, to),
        WindowUpdate::Left { id, index } => ("leaves", id, index),
        // The prompt for whoever waits for the first state is its documents.
        _ => return Ok(()),
    };
    let data = window
        .documents()
        .document(update)
        .map_or_else(String::new, |change| {
            format!(" {}", OneLine(&String::from_utf8_lossy(&change.data)))
        });
    // People count from 1.
    let place = format!("#{}", index + 1);
    output::line(&format!(
        "{what:<7} {place:<4} {}{data}",
        styled(STRONG, &OneLine(id).to_string())
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_a_field_and_a_direction() {
        for (text, expected) in [
            ("total", Ok(("total", Direction::Ascending))),
            ("a.b:desc", Ok(("a.b", Direction::Descending))),
            ("a:b:asc", Ok(("a:b", Direction::Ascending))),
            (r#""a.b".c:asc"#, Ok((r#""a.b".c"#, Direction::Ascending))),
            ("total:down", Err("\"down\" is neither asc nor desc")),
            (
                ":desc",
                Err("the field is missing; write FIELD or FIELD:desc"),
            ),
        ] {
            let read = text.parse::<OrderBy>();
            let read = read.as_ref().map(|it| (it.field.to_string(), it.direction));
            let expected = expected.map(|(field, direction)| (field.to_owned(), direction));
            assert_eq!(read.map_err(String::as_str), expected, "{text}");
        }
    }
}
