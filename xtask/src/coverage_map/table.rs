//! Reads the tables of the map.

/// One row.
pub(super) struct Row {
    /// The line number, from 1.
    pub(super) line: usize,
    /// The ids of the row.
    pub(super) ids: Vec<String>,
    /// The tests, or the reason for none.
    pub(super) cover: Cover,
}

/// The coverage of an id.
pub(super) enum Cover {
    /// These tests, each `place::name`.
    Tests(Vec<String>),
    /// Nothing, for the reason that the row states.
    NotApplicable,
    /// Nothing yet.
    Open,
}

/// Takes every table row whose first cell is an id in backticks; the rest of the file is prose.
pub(super) fn parse(text: &str) -> (Vec<Row>, Vec<String>) {
    let (mut rows, mut faults) = (Vec::new(), Vec::new());
    for (number, text) in text.lines().enumerate() {
        let line = number + 1;
        let Some(cells) = text
            .strip_prefix("| `")
            .and_then(|row| row.strip_suffix(" |"))
        else {
            continue;
        };
        let cells: Vec<&str> = cells.split(" | ").collect();
        let [id, _, cover] = cells[..] else {
            faults.push(format!("line {line}: not three cells"));
            continue;
        };
        match (
            ids(id.trim_end().trim_end_matches('`')),
            covered_by(cover.trim()),
        ) {
            (Some(ids), Some(cover)) => rows.push(Row { line, ids, cover }),
            (None, _) => faults.push(format!(
                "line {line}: `{id} is neither an id nor a range of ids"
            )),
            (_, None) => faults.push(format!(
                "line {line}: `{cover}` is neither tests in backticks, nor `n/a: why`, nor TODO"
            )),
        }
    }
    (rows, faults)
}

/// `gw:G1`, or `gw:G1..G14` for all of them.
fn ids(cell: &str) -> Option<Vec<String>> {
    let (family, names) = cell.split_once(':')?;
    let Some((first, last)) = names.split_once("..") else {
        return Some(vec![cell.to_owned()]);
    };
    let letters = first.trim_end_matches(|c: char| c.is_ascii_digit());
    let from: usize = first.strip_prefix(letters)?.parse().ok()?;
    let to: usize = last.strip_prefix(letters)?.parse().ok()?;
    Some(
        (from..=to)
            .map(|number| format!("{family}:{letters}{number}"))
            .collect(),
    )
}

fn covered_by(cell: &str) -> Option<Cover> {
    if cell == "TODO" {
        return Some(Cover::Open);
    }
    if let Some(why) = cell.strip_prefix("n/a:") {
        return (!why.trim().is_empty()).then_some(Cover::NotApplicable);
    }
    let tests: Option<Vec<String>> = cell
        .split(", ")
        .map(|test| {
            let test = test.trim().strip_prefix('`')?.strip_suffix('`')?;
            test.contains("::").then(|| test.to_owned())
        })
        .collect();
    tests.map(Cover::Tests)
}
