//! Properties of every page.

mod support;

use proptest::prelude::*;
use steadfast_exposition::{Format, Limits};
use support::{Page, Reader};

/// Valid and invalid lines of all kinds, from few names, so that they often conflict.
fn line() -> impl Strategy<Value = String> {
    let name = prop_oneof!["[ab]", "[ab]_(total|bucket|sum|count)"];
    let value = prop_oneof![
        4 => "[0-9]{1,3}",
        1 => "-?[0-9]{1,20}(\\.[0-9]{1,18})?(e[-+]?[0-9]{1,3})?",
        1 => prop_oneof![Just("NaN"), Just("+Inf"), Just("x"), Just("1e999"), Just("0x1p3")].prop_map(str::to_owned),
    ];
    let label = prop_oneof![
        5 => "[ab]=\"[xy]?\"",
        1 => "[ab] ?= ?\"(x|\\\\\\\\|\\\\\"|\\\\n|\\\\z|é|\\{|\\}| )*\" ?",
        1 => "\"([ab]|a\\.b|é)\"(=\"x\")?",
        1 => "[ab]",
    ];
    let labels = prop_oneof![
        2 => Just(String::new()),
        5 => proptest::collection::vec(label, 0..4).prop_map(|labels| format!("{{{}}}", labels.join(","))),
        1 => Just("{a=\"x\"".to_owned()),
    ];
    let tail = prop_oneof![
        8 => Just(String::new()),
        1 => " -?[0-9]{1,5}(\\.5)?",
        1 => Just(" # {a=\"x\"} 1".to_owned()),
        1 => Just(" # {a=\"x\"} 1 2.5".to_owned()),
        1 => Just(" z".to_owned()),
    ];
    let blank = prop_oneof![8 => Just(" "), 1 => Just("  "), 1 => Just("\t"), 1 => Just("")];
    let end = prop_oneof![12 => Just("\n"), 1 => Just("\r\n"), 1 => Just(" \n")];
    let sample = (name.clone(), labels, blank, value, tail, end).prop_map(
        |(name, labels, blank, value, tail, end)| {
            format!("{name}{labels}{blank}{value}{tail}{end}")
        },
    );
    let metadata = (
        prop_oneof![Just("HELP"), Just("TYPE"), Just("UNIT"), Just("OTHER")],
        name,
        prop_oneof![
            Just("counter"),
            Just("gauge"),
            Just("histogram"),
            Just("some text"),
            Just("total")
        ],
    )
        .prop_map(|(what, name, text)| format!("# {what} {name} {text}\n"));
    prop_oneof![
        12 => sample,
        4 => metadata,
        1 => Just("\n".to_owned()),
        1 => Just("# EOF\n".to_owned()),
        1 => Just("a very long line that the limits of this test do not let through at all, whatever is on it\n".to_owned()),
    ]
}

fn page() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(line(), 0..24)
}

fn format() -> impl Strategy<Value = Format> {
    prop_oneof![Just(Format::Prometheus), Just(Format::OpenMetrics)]
}

/// Either limits that these pages sometimes reach, or only the limit on a line.
fn limits() -> impl Strategy<Value = Limits> {
    let narrow = Limits {
        line_bytes: 80,
        samples: 6,
        labels_per_series: 2,
        name_bytes: 6,
        label_value_bytes: 4,
        families: 3,
        metadata_bytes: 24,
        remembered_bytes: 3_000,
    };
    let wide = Limits {
        line_bytes: 80,
        ..Limits::default()
    };
    prop_oneof![Just(narrow), Just(wide)]
}

fn pieces<'a>(page: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (page.len() + 1)).collect();
    cuts.sort_unstable();
    let mut pieces = Vec::new();
    let mut from = 0;
    for cut in cuts {
        pieces.push(&page[from..cut]);
        from = cut;
    }
    pieces.push(&page[from..]);
    pieces
}

/// Returns the page with lines inserted, removed, replaced and moved.
fn edited(lines: &[String], edits: &[(u8, usize, String)]) -> Vec<String> {
    let mut lines = lines.to_vec();
    for (what, at, line) in edits {
        let at = at % (lines.len() + 1);
        match what % 4 {
            0 => lines.insert(at, line.clone()),
            _ if at == lines.len() => lines.push(line.clone()),
            1 => drop(lines.remove(at)),
            2 => lines[at].clone_from(line),
            _ => {
                let moved = lines.remove(at);
                lines.insert(lines.len() / 2, moved);
            }
        }
    }
    lines
}

fn fresh(format: Format, limits: Limits, page: &[u8]) -> Page {
    Reader::new(format, limits).scrape([page]).result()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_of_a_page_do_not_change_the_result(
        lines in page(), cuts in proptest::collection::vec(any::<usize>(), 0..8), format in format(), limits in limits(), whole in any::<bool>(),
    ) {
        let mut page = lines.concat();
        if !whole {
            page.truncate(page.trim_end().len());
        }
        let page = page.as_bytes();
        let expected = fresh(format, limits, page);
        let mut reader = Reader::new(format, limits);
        for _ in 0..2 {
            let cut = reader.scrape(pieces(page, &cuts));
            prop_assert_eq!(cut.result(), expected.clone());
        }
        let bytes: Vec<&[u8]> = page.chunks(1).collect();
        prop_assert_eq!(reader.scrape(bytes).result(), expected);
    }

    #[test]
    fn remembered_lines_do_not_change_the_result(
        lines in page(),
        edits in proptest::collection::vec(proptest::collection::vec((any::<u8>(), any::<usize>(), line()), 0..4), 1..5),
        abandon in proptest::collection::vec(proptest::option::of(any::<usize>()), 5),
        format in format(), limits in limits(),
    ) {
        let mut reader = Reader::new(format, limits);
        let mut lines = lines;
        let expected = fresh(format, limits, lines.concat().as_bytes());
        prop_assert_eq!(reader.scrape([lines.concat().as_bytes()]).result(), expected);
        for (edits, abandon) in edits.iter().zip(abandon) {
            lines = edited(&lines, edits);
            let page = lines.concat();
            if let Some(at) = abandon {
                // The sink must drop the new families of an abandoned scrape.
                let before = reader.keeper.page.families.clone();
                reader.begin();
                let at = at % (page.len() + 1);
                reader.parser.push(&page.as_bytes()[..at], &mut reader.keeper);
                reader.parser.abandon();
                reader.keeper.page.families.retain(|name, _| before.contains_key(name));
                lines = edited(&lines, edits);
            }
            let page = lines.concat();
            let expected = fresh(format, limits, page.as_bytes());
            prop_assert_eq!(reader.scrape([page.as_bytes()]).result(), expected);
        }
    }

    #[test]
    fn a_repeated_page_creates_no_series(lines in page(), format in format()) {
        let mut reader = Reader::new(format, Limits::default());
        let page = lines.concat();
        let first = reader.scrape([page.as_bytes()]);
        let asked = reader.keeper.asked;
        let second = reader.scrape([page.as_bytes()]);
        prop_assert_eq!(reader.keeper.asked, asked);
        prop_assert_eq!(second.summary.remembered, first.summary.samples);
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(
        lines in page(), bytes in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..20), format in format(), limits in limits(),
        cuts in proptest::collection::vec(any::<usize>(), 0..4),
    ) {
        let mut page = lines.concat().into_bytes();
        let mut reader = Reader::new(format, limits);
        reader.scrape([page.as_slice()]);
        for (at, byte) in bytes {
            if !page.is_empty() {
                let at = at % page.len();
                page[at] = byte;
            }
        }
        let expected = fresh(format, limits, &page);
        prop_assert_eq!(reader.scrape(pieces(&page, &cuts)).result(), expected);
    }
}
