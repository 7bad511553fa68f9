//! Checks docs/coverage.md: each requirement, invariant and listed defect names the tests that hold
//! it, and those tests exist.

mod ids;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    process,
    source::{self, Source},
};
use table::{Cover, Row};

const MAP: &str = "docs/coverage.md";

/// Compares the map with the ids there are and the tests there are.
pub(crate) fn run(allow_open: bool) -> Result<()> {
    let text =
        fs::read_to_string(process::root().join(MAP)).with_context(|| format!("read {MAP}"))?;
    let (rows, mut faults) = table::parse(&text);
    let tests = tests()?;
    let summary = compare(&rows, &ids::all(), &tests, &mut faults);
    if !allow_open {
        faults.extend(summary.open.iter().map(|id| format!("{id}: TODO")));
    }
    for fault in &faults {
        eprintln!("coverage-map: {fault}");
    }
    if !faults.is_empty() {
        bail!("{MAP}: {} faults", faults.len());
    }
    println!(
        "coverage-map: {} ids held by {} tests, {} not applicable, {} open",
        summary.held,
        summary.tests.len(),
        summary.excused,
        summary.open.len()
    );
    Ok(())
}

#[derive(Default)]
struct Summary<'a> {
    held: usize,
    excused: usize,
    open: Vec<&'a str>,
    tests: BTreeSet<&'a str>,
}

fn compare<'a>(
    rows: &'a [Row],
    wanted: &BTreeSet<String>,
    tests: &BTreeMap<String, BTreeSet<String>>,
    faults: &mut Vec<String>,
) -> Summary<'a> {
    let mut summary = Summary::default();
    let mut seen = BTreeSet::new();
    for row in rows {
        for id in &row.ids {
            if !wanted.contains(id) {
                faults.push(format!(
                    "line {}: {id} is not an id of xtask's list",
                    row.line
                ));
            }
            if !seen.insert(id) {
                faults.push(format!("line {}: {id} stands twice", row.line));
            }
        }
        match &row.cover {
            Cover::Open => summary.open.extend(row.ids.iter().map(String::as_str)),
            Cover::NotApplicable => summary.excused += row.ids.len(),
            Cover::Tests(named) => {
                summary.held += row.ids.len();
                for test in named {
                    if exists(test, tests) {
                        summary.tests.insert(test);
                    } else {
                        faults.push(format!("line {}: there is no test `{test}`", row.line));
                    }
                }
            }
        }
    }
    let missing = wanted.iter().filter(|id| !seen.contains(id));
    faults.extend(missing.map(|id| format!("{id} has no row")));
    summary
}

/// Returns true if the place (`session`, `streamer/log`, `interop`) contains a test of that name.
fn exists(test: &str, tests: &BTreeMap<String, BTreeSet<String>>) -> bool {
    let Some((place, name)) = test.split_once("::") else {
        return false;
    };
    tests.get(name).is_some_and(|places| {
        // A place is a whole folder or file, not the beginning of its name.
        places.iter().any(|at| {
            at == place
                || at
                    .strip_prefix(place)
                    .is_some_and(|below| below.starts_with('/'))
        })
    })
}

/// Every test by name, with the places that have one of that name.
fn tests() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let sources = source::files(|path| {
        let places = [
            "clients/js/test/",
            "crates/",
            "xtask/src/",
            "tests/interop/",
            "tests/console/",
        ];
        let languages = ["rs", "py", "js"];
        let is_source = languages.iter().any(|language| source::is(path, language));
        is_source && places.iter().any(|place| path.starts_with(place))
    })?;
    let mut tests: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for source in &sources {
        for name in source.tests() {
            let places = tests.entry(name.to_owned()).or_default();
            places.insert(place(source));
        }
    }
    Ok(tests)
}

/// `crates/streamer/src/log/redb.rs` is the place `streamer/log/redb`, and `clients/js/test/session.test.js` is
/// `js/session`.
fn place(source: &Source) -> String {
    let path = source
        .path
        .trim_start_matches("crates/")
        .trim_start_matches("tests/")
        .replace("clients/js/test/", "js/");
    let path = path.trim_end_matches(".rs").trim_end_matches(".py");
    let path = path.trim_end_matches(".test.js");
    path.split('/')
        .filter(|part| *part != "src")
        .collect::<Vec<_>>()
        .join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(map: &str) -> Vec<String> {
        let wanted = BTreeSet::from(["a:A1".to_owned(), "a:A2".to_owned(), "a:A3".to_owned()]);
        let tests = BTreeMap::from([(
            "it_works".to_owned(),
            BTreeSet::from(["streamer/log/redb".to_owned()]),
        )]);
        let (rows, mut faults) = table::parse(map);
        compare(&rows, &wanted, &tests, &mut faults);
        faults
    }

    #[test]
    fn a_whole_map_has_no_fault() {
        assert_eq!(
            check("| `a:A1` | x | `streamer/log::it_works` |\n| `a:A2..A3` | x | n/a: never |\n"),
            [""; 0]
        );
    }

    #[test]
    fn a_missing_id_an_unknown_id_and_a_vanished_test_are_faults() {
        assert_eq!(
            check(
                "| `a:A1` | x | `session::it_works` |\n| `a:A2` | x | TODO |\n| `b:B1` | x | TODO |\n"
            ),
            [
                "line 1: there is no test `session::it_works`",
                "line 3: b:B1 is not an id of xtask's list",
                "a:A3 has no row",
            ]
        );
    }

    #[test]
    fn a_place_is_a_folder_or_file_not_a_beginning_of_its_name() {
        assert_eq!(
            check("| `a:A1` | x | `streamer/lo::it_works` |\n| `a:A2..A3` | x | n/a: no |\n"),
            ["line 1: there is no test `streamer/lo::it_works`"]
        );
    }
}
