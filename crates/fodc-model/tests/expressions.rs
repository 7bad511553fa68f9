//! Random expressions mean what they mean to Go. The table is written by `expressions/main.go`.
#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

use steadfast_fodc_model::matching::{MatchKind, MatcherSpec, Matchers};

const TABLE: &str = include_str!("expressions/table.tsv");

/// Reads a text as Go quotes it.
fn unquoted(quoted: &str) -> String {
    let text = quoted.strip_prefix('"').unwrap().strip_suffix('"').unwrap();
    let mut chars = text.chars();
    let mut out = String::new();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let code = |digits: usize, chars: &mut std::str::Chars<'_>| {
            let digits: String = chars.take(digits).collect();
            char::from_u32(u32::from_str_radix(&digits, 16).unwrap()).unwrap()
        };
        let escaped = match chars.next().unwrap() {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'v' => '\u{b}',
            'a' => '\u{7}',
            'f' => '\u{c}',
            'b' => '\u{8}',
            'x' => code(2, &mut chars),
            'u' => code(4, &mut chars),
            'U' => code(8, &mut chars),
            other => other,
        };
        out.push(escaped);
    }
    out
}

#[test]
fn random_expressions_mean_what_go_takes_them_for() {
    let mut lines = TABLE.lines();
    let values: Vec<String> = lines.next().unwrap().split('\t').map(unquoted).collect();
    let (mut compiled, mut faults) = (0, Vec::new());
    for line in lines {
        let (quoted, expected) = line.split_once('\t').unwrap();
        let expression = unquoted(quoted);
        let spec = MatcherSpec {
            label: "v",
            kind: Ok(MatchKind::Regex),
            value: &expression,
        };
        let verdict = match Matchers::compile([spec].into_iter()) {
            Err(_) => "!".to_owned(),
            Ok(matchers) => {
                compiled += 1;
                let digit = |value: &String| {
                    if matchers.match_all(|_| value) {
                        '1'
                    } else {
                        '0'
                    }
                };
                values.iter().map(digit).collect()
            }
        };
        if verdict != expected {
            faults.push(format!("{quoted}: {verdict}, but Go {expected}"));
        }
    }
    assert!(compiled > 1_000, "{compiled} are valid");
    assert!(faults.is_empty(), "{}\n{}", faults.len(), faults.join("\n"));
}
