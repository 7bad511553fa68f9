//! The package index of a Debian machine: that of `apt-cache`, or the installed packages of `dpkg`.

use std::{io, process::Stdio};

use tokio::{
    fs::File,
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, Command},
};

use super::dumpavail::Parser;
use crate::document::Document;

/// A document per package, read on demand.
pub(crate) struct Packages {
    reader: Box<dyn AsyncBufRead + Send + Unpin>,
    parser: Parser,
    origin: &'static str,
    skipped: u64,
    ended: bool,
    /// The running `apt-cache`; it ends with this value.
    _child: Option<Child>,
}

const INDEX: &str = "apt-cache dumpavail";
const STATUS: &str = "/var/lib/dpkg/status";
/// One byte more than the parser accepts, so that it can reject a longer line.
const READ_MAX: u64 = (1 << 20) + 1;

impl Packages {
    /// Opens the index, or the list of installed packages if the index is absent or empty.
    pub(crate) async fn open() -> io::Result<Self> {
        if let Some((reader, child)) = index().await {
            return Ok(Self::new(reader, INDEX, Some(child)));
        }
        match File::open(STATUS).await {
            Ok(file) => Ok(Self::new(Box::new(BufReader::new(file)), STATUS, None)),
            Err(error) => Err(io::Error::new(
                error.kind(),
                format!(
                    "there is no package index: `{INDEX}` prints nothing and {STATUS} cannot be \
                     read ({error}); use `steadfast feed generator` instead"
                ),
            )),
        }
    }

    fn new(
        reader: Box<dyn AsyncBufRead + Send + Unpin>,
        origin: &'static str,
        child: Option<Child>,
    ) -> Self {
        Self {
            reader,
            parser: Parser::default(),
            origin,
            skipped: 0,
            ended: false,
            _child: child,
        }
    }

    /// Returns the source of the packages.
    pub(crate) fn origin(&self) -> &'static str {
        self.origin
    }

    /// Returns the number of paragraphs skipped because of an invalid line.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Returns the next package. Invalid paragraphs are logged and skipped.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Document>> {
        let mut line = Vec::new();
        while !self.ended {
            line.clear();
            let taken = (&mut self.reader)
                .take(READ_MAX)
                .read_until(b'\n', &mut line)
                .await?;
            let parsed = if taken == 0 {
                self.ended = true;
                self.parser.finish()
            } else {
                self.parser.line(line.strip_suffix(b"\n").unwrap_or(&line))
            };
            match parsed {
                Ok(Some(document)) => return Ok(Some(document)),
                Ok(None) => {}
                Err(error) => {
                    self.skipped += 1;
                    tracing::warn!(origin = self.origin, %error, "an invalid paragraph is skipped");
                }
            }
        }
        Ok(None)
    }
}

/// Starts `apt-cache`; `None` if it is missing or prints nothing.
async fn index() -> Option<(Box<dyn AsyncBufRead + Send + Unpin>, Child)> {
    let mut child = Command::new("apt-cache")
        .arg("dumpavail")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .ok()?;
    let mut reader = BufReader::new(child.stdout.take()?);
    // A machine without package lists has the program as well; it prints nothing.
    let first = reader.fill_buf().await.ok()?;
    if first.is_empty() {
        None
    } else {
        Some((Box::new(reader), child))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_faulty_paragraph_is_counted_and_the_rest_is_read() {
        let text: &[u8] = b"Package: a\n\nrubbish\nPackage: b\n\nPackage: c";
        let mut packages = Packages::new(Box::new(text), "a test", None);
        let mut ids = Vec::new();
        while let Some(document) = packages.next().await.unwrap() {
            ids.push(document.id);
        }
        assert_eq!(
            (ids, packages.skipped()),
            (vec!["a".to_owned(), "c".to_owned()], 1)
        );
    }
}
