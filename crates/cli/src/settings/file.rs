//! The file of settings.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    path::Path,
};

use toml::de::{DeTable, DeValue};

use super::Fault;

/// Longest file that is read.
const BYTES_MAX: u64 = 1 << 20;

/// The ASCII unit separator. Each item of a list follows one, since clap carries a single text.
const ITEM: char = '\u{1f}';

/// The values of a file of settings.
#[derive(Debug, Default)]
pub(super) struct File {
    entries: BTreeMap<String, Entry>,
    faults: Vec<Fault>,
}

/// The value of one key.
#[derive(Debug)]
pub(super) struct Entry {
    /// File, line and key.
    pub(super) location: String,
    line: String,
    /// The text, or the kind of value that stands there instead.
    pub(super) value: Result<String, &'static str>,
}

/// Splits the text of a list into its items; any other text is not a list.
pub(super) fn items(text: &str) -> Option<Vec<&str>> {
    let mut items = text.split(ITEM);
    let is_list = items.next() == Some("") && text.contains(ITEM);
    is_list.then(|| items.filter(|item| !item.is_empty()).collect())
}

impl File {
    /// Reads the file. What cannot be read or parsed is among its faults.
    pub(super) fn read(path: &Path) -> Self {
        let name = path.display().to_string();
        match text_of(path) {
            Ok(text) => Self::parse(&name, &text),
            Err(error) => {
                let what = format!("cannot be read: {error}");
                let faults = vec![Fault {
                    location: name,
                    what,
                }];
                Self {
                    faults,
                    ..Self::default()
                }
            }
        }
    }

    pub(super) fn parse(path: &str, text: &str) -> Self {
        let location = |at: usize| {
            let line = text[..at.min(text.len())].matches('\n').count() + 1;
            format!("{path}:{line}")
        };
        let mut file = Self::default();
        // Continues after an error, so that one run reports all faults of the file.
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let location = location(error.span().map_or(0, |span| span.start));
            let what = error.message().to_owned();
            file.faults.push(Fault { location, what });
        }
        for (name, value) in table.get_ref() {
            let DeValue::Table(inner) = value.get_ref() else {
                file.add(location(name.span().start), name.get_ref(), value.get_ref());
                continue;
            };
            for (key, value) in inner {
                let key_of = format!("{}.{}", name.get_ref(), key.get_ref());
                file.add(location(key.span().start), &key_of, value.get_ref());
            }
        }
        file
    }

    fn add(&mut self, line: String, key: &str, value: &DeValue<'_>) {
        let value = match value {
            DeValue::Array(items) => items
                .iter()
                .map(|item| Some(format!("{ITEM}{}", text_of_value(item.get_ref()).ok()?)))
                .collect::<Option<String>>()
                .map(|items| {
                    // An empty list must not look like an empty text.
                    if items.is_empty() {
                        ITEM.to_string()
                    } else {
                        items
                    }
                })
                .ok_or("a list of other things than texts, whole numbers and tables"),
            value => text_of_value(value),
        };
        let location = format!("{line} ({key})");
        self.entries.insert(
            key.to_owned(),
            Entry {
                location,
                line,
                value,
            },
        );
    }

    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Returns the faults of the file, keys that are not `known` among them.
    pub(super) fn faults(&self, known: &[String]) -> Vec<Fault> {
        let unknown = self.entries.iter().filter(|(key, _)| !known.contains(key));
        let unknown = unknown.map(|(key, entry)| Fault {
            location: entry.line.clone(),
            what: format!("{key} is not a setting; there are {}", like(key, known)),
        });
        self.faults.iter().cloned().chain(unknown).collect()
    }
}

/// Returns the known keys of the same table, or the tables if there is none of this name.
fn like(key: &str, known: &[String]) -> String {
    let table = |key: &str| key.split_once('.').map(|(table, _)| format!("{table}."));
    let table_of = table(key);
    let mut like: Vec<_> = known
        .iter()
        .filter(|it| table(it) == table_of)
        .cloned()
        .collect();
    if like.is_empty() || table_of.is_none() {
        like = known
            .iter()
            .map(|it| table(it).map_or_else(|| it.clone(), |it| it + "*"))
            .collect();
        like.dedup();
    }
    like.join(", ")
}

/// Returns the text that a flag would have. That of a table is JSON.
fn text_of_value(value: &DeValue<'_>) -> Result<String, &'static str> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => Ok(number.to_string()),
        DeValue::Boolean(value) => Ok(value.to_string()),
        DeValue::Float(_) => Err("a fraction"),
        DeValue::Datetime(_) => Err("a date"),
        DeValue::Array(_) => Err("a list"),
        DeValue::Table(entries) => Ok(json(entries)?.to_string()),
    }
}

/// Returns a table as JSON, with every value as a text.
fn json(entries: &DeTable<'_>) -> Result<serde_json::Value, &'static str> {
    let mut object = serde_json::Map::new();
    for (key, value) in entries {
        let value = match value.get_ref() {
            DeValue::Table(entries) => json(entries)?,
            value => serde_json::Value::String(text_of_value(value)?),
        };
        object.insert(key.get_ref().to_string(), value);
    }
    Ok(serde_json::Value::Object(object))
}

fn text_of(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = fs::File::open(path)?
        // One byte more than allowed, or a longer file would pass as its beginning.
        .take(BYTES_MAX + 1)
        .read_to_string(&mut text)?;
    if read as u64 > BYTES_MAX {
        let what = "it is longer than 1 MiB, which settings are not; name another file";
        return Err(io::Error::other(what));
    }
    Ok(text)
}
