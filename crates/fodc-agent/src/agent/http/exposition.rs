//! Groups the series of several sources into the families of one page.

use std::collections::BTreeMap;

use steadfast_exposition::{Kind, Numbers, Writer};

use super::negotiation::Names;

/// Families sorted by name, each with one type whatever its sources say.
#[derive(Debug, Default)]
pub(super) struct Families {
    by_name: BTreeMap<String, Family>,
    line: Writer,
    names: Names,
}

#[derive(Debug, Default)]
struct Family {
    kind: Kind,
    /// The sources disagree about the kind, so the page states none.
    conflicting: bool,
    help: String,
    lines: String,
}

impl Families {
    pub(super) fn new(names: Names) -> Self {
        Self {
            by_name: BTreeMap::new(),
            line: Writer::new(Numbers::Shortest),
            names,
        }
    }

    /// Adds a sample.
    pub(super) fn add<'a>(
        &mut self,
        (name, kind, help): (&str, Kind, &str),
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        value: f64,
        time_ms: Option<i64>,
    ) {
        let name = &*self.names.metric(name);
        let labels = self.names.labels(labels);
        let labels = labels.iter().map(|(label, value)| (label.as_ref(), *value));
        self.line.sample(name, labels, value, time_ms);
        let line = self.line.take();
        let family = kind.prometheus_family(name);
        // `entry` would allocate the name again for each sample.
        if !self.by_name.contains_key(family) {
            self.by_name.insert(family.to_owned(), Family::default());
        }
        let family = self.by_name.get_mut(family).expect("it was just inserted");
        if family.kind == Kind::Unknown {
            family.kind = kind;
        } else if kind != Kind::Unknown && family.kind != kind {
            family.conflicting = true;
        }
        // A family may have one `# HELP` only: the first source that has a text counts.
        if family.help.is_empty() {
            family.help.push_str(help);
        }
        family.lines.push_str(&line);
    }

    /// Returns the page.
    pub(super) fn write(mut self) -> String {
        self.merge_parts();
        let lines = self.by_name.values().map(|family| family.lines.len());
        let mut page = String::with_capacity(lines.sum());
        let mut head = Writer::new(Numbers::Shortest);
        // Each family is dropped once it is written, so that the page is not held twice.
        for (name, family) in self.by_name {
            let kind = if family.conflicting {
                Kind::Unknown
            } else {
                family.kind
            };
            let help = Some(family.help.as_str()).filter(|help| !help.is_empty());
            head.family(&name, kind, help);
            page.push_str(&head.take());
            page.push_str(&family.lines);
        }
        page
    }

    /// Moves series named like a part of a histogram or summary (`h_count`) into that family, whatever their
    /// own type. Readers refuse a page on which one name belongs to two families.
    fn merge_parts(&mut self) {
        let names = self.by_name.keys();
        let parts: Vec<_> = names
            .filter_map(|name| {
                [Kind::Histogram, Kind::Summary]
                    .into_iter()
                    .find_map(|kind| {
                        let whole = kind.prometheus_family(name);
                        let known = self.by_name.get(whole)?;
                        (whole != name && known.kind == kind)
                            .then(|| (name.clone(), whole.to_owned()))
                    })
            })
            .collect();
        for (part, whole) in parts {
            let lines = self.by_name.remove(&part).map(|family| family.lines);
            if let (Some(lines), Some(whole)) = (lines, self.by_name.get_mut(&whole)) {
                whole.lines.push_str(&lines);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(samples: &[(&str, Kind, &str)]) -> String {
        let mut families = Families::new(Names::default());
        for (number, (name, kind, help)) in samples.iter().enumerate() {
            let source = number.to_string();
            families.add(
                (name, *kind, help),
                [("source", source.as_str())],
                1.0,
                Some(5),
            );
        }
        families.write()
    }

    #[test]
    fn names_are_escaped_for_readers_that_do_not_ask() {
        let page = |accept: &str| {
            let mut families = Families::new(Names::accepted(accept));
            let metric = ("my.metric", Kind::Gauge, "");
            families.add(metric, [("ümlaut", "é"), ("a:b", "c")], 1.0, None);
            families.write()
        };
        let legacy = "# TYPE my_metric gauge\nmy_metric{_mlaut=\"é\",a_b=\"c\"} 1\n";
        assert_eq!(page(""), legacy);
        assert_eq!(
            page("text/plain;version=1.0.0;escaping=allow-utf-8;q=0.6,*/*;q=0.1"),
            "# TYPE \"my.metric\" gauge\n{\"my.metric\",\"ümlaut\"=\"é\",\"a:b\"=\"c\"} 1\n"
        );
    }

    #[test]
    fn family_of_two_sources_has_one_type_and_help() {
        assert_eq!(
            page(&[
                ("b", Kind::Counter, ""),
                ("a", Kind::Gauge, "x"),
                ("b", Kind::Counter, "why")
            ]),
            "# HELP a x\n# TYPE a gauge\na{source=\"1\"} 1 5\n\
             # HELP b why\n# TYPE b counter\nb{source=\"0\"} 1 5\nb{source=\"2\"} 1 5\n"
        );
    }

    #[test]
    fn parts_of_a_histogram_stand_below_its_type() {
        let (kind, help) = (Kind::Histogram, "");
        assert_eq!(
            page(&[
                ("h_bucket", kind, help),
                ("h_sum", kind, help),
                ("h_count", kind, help)
            ]),
            "# TYPE h histogram\nh_bucket{source=\"0\"} 1 5\nh_sum{source=\"1\"} 1 5\n\
             h_count{source=\"2\"} 1 5\n"
        );
    }

    #[test]
    fn name_of_a_part_adds_no_second_family() {
        let folded = page(&[
            ("h_bucket", Kind::Histogram, ""),
            ("h_count", Kind::Unknown, ""),
            ("h_sum", Kind::Gauge, "Typed elsewhere."),
            ("c", Kind::Unknown, ""),
            ("c", Kind::Counter, ""),
            ("alone_count", Kind::Unknown, ""),
        ]);
        let types: Vec<_> = folded
            .lines()
            .filter(|line| line.starts_with("# TYPE"))
            .collect();
        assert_eq!(
            types,
            [
                "# TYPE alone_count untyped",
                "# TYPE c counter",
                "# TYPE h histogram"
            ]
        );
        assert_eq!(
            folded
                .lines()
                .filter(|line| line.contains("source"))
                .count(),
            6
        );
    }

    #[test]
    fn conflicting_kinds_make_a_family_untyped() {
        let page = page(&[
            ("m", Kind::Gauge, ""),
            ("m", Kind::Counter, ""),
            ("m", Kind::Gauge, ""),
        ]);
        assert!(page.starts_with("# TYPE m untyped\n"), "{page}");
    }
}
