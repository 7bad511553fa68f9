//! The part of the house language that a machine can check.

use std::fs;

use anyhow::Result;

use crate::{
    process,
    source::{self, Source},
};

/// First words that make a doc line a riddle: they name a question instead of the thing.
const QUESTION_WORDS: [&str; 9] = [
    "What", "How", "Who", "Whose", "Why", "Whether", "Where", "When", "Which",
];

/// The share of doc lines that may begin with one of them, in per cent.
const QUESTIONS_MAX: f64 = 4.0;

/// Longest name of a test.
const TEST_NAME_MAX: usize = 60;

/// Prefixes of the ids in docs/coverage.md, and the highest number that any of them has.
const ID_PREFIXES: [&str; 9] = ["s", "f", "x", "i", "c", "p", "pc", "g", "o"];
const ID_MAX: u32 = 47;

const GLOSSARY: &str = "docs/glossary.md";

pub(super) fn check(findings: &mut Vec<String>) -> Result<()> {
    let sources = sources()?;
    let per_cent = questions(&sources);
    if per_cent > QUESTIONS_MAX {
        findings.push(format!(
            "{per_cent:.1} % of the doc lines begin with What, How, Who, ...; at most {QUESTIONS_MAX} % may"
        ));
    }
    for file in &sources {
        words(file, findings);
        test_names(file, findings);
    }
    glossary(&sources, findings);
    Ok(())
}

fn sources() -> Result<Vec<Source>> {
    source::files(|path| {
        let text = ["rs", "md", "py", "js", "toml", "proto", "snap"];
        text.iter().any(|extension| source::is(path, extension)) && !path.contains("/generated/")
    })
}

/// Returns the share of the doc lines that begin with a question word, in per cent.
fn questions(sources: &[Source]) -> f64 {
    let (mut lines, mut questions) = (0, 0);
    for file in sources.iter().filter(|file| source::is(&file.path, "rs")) {
        for line in file.text.lines().map(str::trim_start) {
            let doc = line.strip_prefix("///").or(line.strip_prefix("//!"));
            let Some(doc) = doc.map(str::trim).filter(|doc| !doc.is_empty()) else {
                continue;
            };
            let first = doc.split(|c: char| !c.is_alphabetic()).next();
            lines += 1;
            questions += usize::from(first.is_some_and(|first| QUESTION_WORDS.contains(&first)));
        }
    }
    100.0 * f64::from(questions as u32) / f64::from(lines.max(1))
}

fn words(file: &Source, findings: &mut Vec<String>) {
    // In two parts, or this line would be a finding itself.
    let banned = concat!("can", " not");
    for (number, line) in file.text.lines().enumerate() {
        let lower = line.to_lowercase();
        let found = lower.match_indices(banned).any(|(at, _)| {
            let before = lower[..at].chars().next_back();
            let after = &lower[at + banned.len()..];
            !before.is_some_and(char::is_alphanumeric)
                && !after.starts_with(char::is_alphanumeric)
                && !after.starts_with(" only")
        });
        if found {
            findings.push(format!("{}:{}: write `cannot`", file.path, number + 1));
        }
    }
}

fn test_names(file: &Source, findings: &mut Vec<String>) {
    for name in file.tests() {
        if name.len() > TEST_NAME_MAX {
            findings.push(format!(
                "{}: the test name `{name}` has {} characters, more than {TEST_NAME_MAX}",
                file.path,
                name.len()
            ));
        }
        if let Some(id) = id_in(name) {
            findings.push(format!(
                "{}: the test name `{name}` has the id `{id}`; ids stand in docs/coverage.md",
                file.path
            ));
        }
    }
}

/// Returns the id that a test name begins with, or one behind the name of its family.
fn id_in(name: &str) -> Option<&str> {
    let words: Vec<&str> = name
        .strip_prefix("test_")
        .unwrap_or(name)
        .split('_')
        .collect();
    let is_id = |word: &str| {
        ID_PREFIXES.iter().any(|prefix| {
            let number = word.strip_prefix(prefix).map(str::parse::<u32>);
            matches!(number, Some(Ok(1..=ID_MAX)))
        })
    };
    if is_id(words[0]) {
        return Some(words[0]);
    }
    let family = |word: &str| ["req", "inv", "fodc"].contains(&word);
    words
        .windows(2)
        .find(|pair| family(pair[0]) && is_id(pair[1]))
        .map(|pair| pair[1])
}

/// Every row of the glossary names a file, and an item in it if it says `path::Item`.
fn glossary(sources: &[Source], findings: &mut Vec<String>) {
    let Ok(text) = fs::read_to_string(process::root().join(GLOSSARY)) else {
        findings.push(format!("{GLOSSARY}: there is no such file"));
        return;
    };
    let rows = text.lines().filter(|line| line.starts_with("| ")).skip(1);
    for row in rows.filter(|row| !row.starts_with("| -")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [term, _, place] = cells[..] else {
            findings.push(format!("{GLOSSARY}: not three cells: {row}"));
            continue;
        };
        let place = place.trim_matches('`');
        let (path, item) = place.split_once("::").unwrap_or((place, ""));
        match sources.iter().find(|file| file.path == path) {
            None => findings.push(format!("{GLOSSARY}: {term}: there is no file {path}")),
            Some(file) if !defines(file, item) => {
                findings.push(format!("{GLOSSARY}: {term}: {path} defines no `{item}`"));
            }
            Some(_) => {}
        }
    }
}

/// Tells whether the file defines the last part of `item`; every file defines the empty item.
fn defines(file: &Source, item: &str) -> bool {
    let name = item.rsplit("::").next().unwrap_or_default();
    let words = file.text.split(|c: char| !c.is_alphanumeric() && c != '_');
    name.is_empty() || words.into_iter().any(|word| word == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_names_with_ids_are_found_and_types_are_not_ids() {
        for (name, id) in [
            ("req_f3_a_reconnect", Some("f3")),
            ("i23_from_live", Some("i23")),
            ("test_c3_a_hole", Some("c3")),
            ("in_fodc_o1_mode", Some("o1")),
            ("pc5_x", Some("pc5")),
            ("f64_is_printed", None),
            ("reads_i8_values", None),
        ] {
            assert_eq!(id_in(name), id, "{name}");
        }
    }

    #[test]
    fn doc_lines_that_begin_with_a_question_word_are_counted() {
        let text = "/// What it is.\n//! Whatever.\n    /// When.\n///\n// Why\n".to_owned();
        let path = "crates/x/src/a.rs".to_owned();
        let share = questions(&[Source { path, text }]);
        assert!((share - 200.0 / 3.0).abs() < 1e-9, "{share}");
    }
}
