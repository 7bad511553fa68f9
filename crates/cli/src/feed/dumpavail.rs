//! Debian's control paragraphs (`apt-cache dumpavail`, `/var/lib/dpkg/status`), a line at a time.

use serde_json::{Map, Value};

use crate::document::Document;

/// Longest line taken; the index of Debian stays below 64 KiB.
const LINE_MAX: usize = 1 << 20;

/// Turns paragraphs, line by line, into documents.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: u64,
    fields: Vec<(String, String)>,
    /// The paragraph has an invalid line and is skipped.
    invalid: bool,
}

/// An invalid line. Its paragraph is skipped; the next one is read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub(crate) struct ParseError {
    pub(crate) line: u64,
    pub(crate) what: String,
}

impl Parser {
    /// Parses the next line, without its end. Returns a document at the end of each paragraph.
    pub(crate) fn line(&mut self, line: &[u8]) -> Result<Option<Document>, ParseError> {
        self.line += 1;
        if line.len() > LINE_MAX {
            return Err(self.reject(format!("it is longer than {LINE_MAX} bytes")));
        }
        let text = match std::str::from_utf8(line) {
            Ok(text) => text.trim_end(),
            Err(error) => {
                return Err(self.reject(format!(
                    "it is not UTF-8 after byte {}",
                    error.valid_up_to()
                )));
            }
        };
        if text.is_empty() {
            return self.paragraph();
        }
        if text.starts_with([' ', '\t']) {
            return match self.fields.last_mut() {
                Some((_, value)) => {
                    value.push('\n');
                    value.push_str(text.trim_start());
                    Ok(None)
                }
                // The paragraph is skipped already; its continuations are no further faults.
                None if self.invalid => Ok(None),
                None => Err(self.reject("it continues a field, and there is none".to_owned())),
            };
        }
        match text.split_once(':') {
            Some((name, _)) if name.is_empty() || name.contains(char::is_whitespace) => {
                Err(self.reject(format!("{name:?} is not the name of a field")))
            }
            Some((name, value)) => {
                self.fields
                    .push((name.to_ascii_lowercase(), value.trim().to_owned()));
                Ok(None)
            }
            None => Err(self.reject("it is neither `Name: value` nor a continuation".to_owned())),
        }
    }

    /// Ends the text, and with it the last paragraph.
    pub(crate) fn finish(&mut self) -> Result<Option<Document>, ParseError> {
        self.paragraph()
    }

    fn reject(&mut self, what: String) -> ParseError {
        self.invalid = true;
        self.fields.clear();
        ParseError {
            line: self.line,
            what,
        }
    }

    fn paragraph(&mut self) -> Result<Option<Document>, ParseError> {
        let fields = std::mem::take(&mut self.fields);
        let invalid = std::mem::take(&mut self.invalid);
        if invalid || fields.is_empty() {
            return Ok(None);
        }
        let field = |name: &str| {
            fields
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value.as_str())
        };
        let fault = |what: String| ParseError {
            line: self.line,
            what,
        };
        let package = field("package").filter(|name| !name.is_empty());
        let package = package
            .ok_or_else(|| fault("the paragraph that ends here has no Package".to_owned()))?;
        let mut data = Map::new();
        data.insert("package".to_owned(), package.into());
        for (name, key) in TEXTS {
            if let Some(value) = field(name) {
                // Of a description only the summary is kept, which is its first line.
                let first = value.lines().next().unwrap_or_default();
                data.insert(key.to_owned(), first.into());
            }
        }
        for (name, key) in NUMBERS {
            if let Some(value) = field(name) {
                let number: u64 = value.parse().map_err(|_| {
                    fault(format!(
                        "the {name} of {package} is {value:?}, not a whole number"
                    ))
                })?;
                data.insert(key.to_owned(), number.into());
            }
        }
        for (name, key) in RELATIONS {
            data.insert(key.to_owned(), relations(field(name).unwrap_or_default()));
        }
        data.insert("tags".to_owned(), list(field("tag").unwrap_or_default()));
        Ok(Some(Document::new(package, data)))
    }
}

/// The server sets a field `version` itself, so that of the package has another name.
const TEXTS: [(&str, &str); 7] = [
    ("version", "packageVersion"),
    ("section", "section"),
    ("priority", "priority"),
    ("architecture", "architecture"),
    ("maintainer", "maintainer"),
    ("homepage", "homepage"),
    ("description", "description"),
];
/// `installed-size` is in KiB, `size` in bytes.
const NUMBERS: [(&str, &str); 2] = [("installed-size", "installedSize"), ("size", "size")];
const RELATIONS: [(&str, &str); 2] = [("depends", "depends"), ("recommends", "recommends")];

/// Returns the names in a relation field, each once, without versions and architectures.
fn relations(text: &str) -> Value {
    let mut names: Vec<&str> = Vec::new();
    for item in text.split([',', '|']) {
        let end = item.trim_start().find([' ', '(', ':', '[', '\n']);
        let name = item.trim_start();
        let name = &name[..end.unwrap_or(name.len())];
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names.into()
}

fn list(text: &str) -> Value {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .collect::<Vec<_>>()
        .into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(text: &[u8]) -> (Vec<Document>, Vec<ParseError>) {
        let mut parser = Parser::default();
        let mut documents = Vec::new();
        let mut errors = Vec::new();
        let mut take = |result: Result<Option<Document>, ParseError>| match result {
            Ok(document) => documents.extend(document),
            Err(error) => errors.push(error),
        };
        for line in text.split(|byte| *byte == b'\n') {
            take(parser.line(line));
        }
        take(parser.finish());
        (documents, errors)
    }

    #[test]
    fn a_paragraph_becomes_a_document() {
        let (documents, errors) = parse(
            b"Package: 0ad\nVersion: 0.0.26-3\nInstalled-Size: 28591\nSection: games\n\
              Priority: optional\nArchitecture: amd64\n\
              Depends: 0ad-data (>= 0.0.26), 0ad-data (<= 0.0.26-3), libc6, a | b:any [amd64]\n\
              Tag: game::strategy, role::program,\n x11::application\n\
              Description: Real-time strategy game\n more of it\nSize: 7891488\n",
        );
        assert_eq!(errors, []);
        let expected = json!({
            "package": "0ad", "packageVersion": "0.0.26-3", "installedSize": 28591, "section": "games",
            "priority": "optional", "architecture": "amd64",
            "depends": ["0ad-data", "libc6", "a", "b"], "recommends": [],
            "tags": ["game::strategy", "role::program", "x11::application"],
            "description": "Real-time strategy game", "size": 7_891_488,
        });
        assert_eq!(documents.len(), 1);
        assert_eq!(documents[0].id, "0ad");
        let data: Value = serde_json::from_str(&documents[0].data).unwrap();
        assert_eq!(data, expected);
    }

    #[test]
    fn paragraphs_are_apart_however_many_lines_are_empty() {
        let (documents, errors) = parse(b"\n\nPackage: a\n\n\n \nPackage: b\n\n");
        assert_eq!(errors, []);
        let ids: Vec<_> = documents
            .iter()
            .map(|document| document.id.as_str())
            .collect();
        assert_eq!(ids, ["a", "b"]);
    }

    #[test]
    fn a_faulty_line_is_named_and_costs_its_paragraph_only() {
        for (text, line, what) in [
            (&b"Package: x\nnonsense\nSection: s\n"[..], 2, "neither"),
            (b" continued\n", 1, "continues a field"),
            (b"Package: x\nVersion: \xff\n", 2, "not UTF-8 after byte 9"),
            (b"Section: games\n", 2, "no Package"),
            (b"Package:\n", 2, "no Package"),
            (
                b"Package: x\nInstalled-Size: many\n",
                3,
                "installed-size of x is \"many\"",
            ),
            (b"Package: x\nInstalled-Size: -1\n", 3, "not a whole number"),
            (b": x\n", 1, "not the name of a field"),
        ] {
            let whole = [text, b"\nPackage: good\n"].concat();
            let (documents, errors) = parse(&whole);
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert_eq!(errors[0].line, line, "{errors:?}");
            assert!(errors[0].what.contains(what), "{errors:?}");
            assert_eq!(documents.len(), 1, "{what}");
            assert_eq!(documents[0].id, "good");
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let (documents, errors) = parse(&[&b"Package: "[..], &vec![b'x'; LINE_MAX]].concat());
        assert_eq!((documents.len(), errors.len()), (0, 1));
    }
}
