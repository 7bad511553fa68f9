//! Log lines on standard error. What peers send is the value of some of their fields.

use std::fmt;

use steadfast::session::OneLine;
use tracing::field::Field;
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt as _,
    fmt::format::{FormatFields, Writer, debug_fn},
};

/// Writes log lines to standard error from now on, those that the text of a filter admits.
pub(crate) fn to_stderr(filter: &str) {
    // h2 warns of each frame that breaks a rule, so that a peer could fill the disk. Connections that end for it
    // are counted.
    let filter = if filter.contains("h2") {
        EnvFilter::new(filter)
    } else {
        EnvFilter::new(format!("h2=error,{filter}"))
    };
    // Log lines follow NO_COLOR and the terminal like all other output.
    let colour = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .fmt_fields(fields())
        .init();
}

/// Formats fields as `name=value`, with control characters and marks of direction escaped.
fn fields() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    debug_fn(field).delimited(" ")
}

fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let text = format!("{value:?}");
    let text = OneLine(&text);
    match field.name() {
        "message" => write!(writer, "{text}"),
        name => write!(writer, "{name}={text}"),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn text_of_peers_cannot_control_the_terminal_or_the_lines() {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .fmt_fields(fields())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let peer = "a\nWARN forged \u{1b}[2J\u{202e}\u{9b}";
            tracing::warn!(name = peer, shown = %peer, count = 3, "refused {peer}");
        });
        let written = written.0.lock().unwrap().clone();
        let text = String::from_utf8(written).unwrap();
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        let obeyed = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(!text.contains(obeyed), "{text:?}");
        assert!(
            text.contains("refused a\\nWARN forged \\u{1b}[2J"),
            "{text}"
        );
        assert!(text.ends_with("count=3\n"), "{text:?}");
    }
}
