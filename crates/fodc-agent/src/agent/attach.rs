//! The labels of a series as a Prometheus that scraped the endpoint would have them.

use std::{borrow::Cow, collections::BTreeMap};

/// The labels of an endpoint, put on those of a series that its page has.
///
/// The endpoint's win, and a label of the page with the same name moves to `exported_` and its
/// name, again and again until it is free: what Prometheus does without `honor_labels`.
#[derive(Clone, Debug, Default)]
pub(super) struct Attached {
    own: BTreeMap<String, String>,
}

impl Attached {
    pub(super) fn new(labels: &BTreeMap<String, String>) -> Self {
        Self {
            own: labels.clone(),
        }
    }

    /// All labels in the order of their names. `page` are the series' own, `__name__` among them.
    pub(super) fn all<'a>(
        &'a self,
        page: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Vec<(Cow<'a, str>, &'a str)> {
        let (mut moved, mut all) = (Vec::new(), BTreeMap::new());
        for (name, value) in page {
            if value.is_empty() {
                // For Prometheus an empty label and a missing one are the same.
            } else if self.own.contains_key(name) {
                moved.push((name, value));
            } else {
                all.insert(Cow::Borrowed(name), value);
            }
        }
        for (name, value) in &self.own {
            all.insert(Cow::Borrowed(name), value);
        }
        for (name, value) in moved {
            let mut name = format!("exported_{name}");
            while all.contains_key(name.as_str()) {
                name.insert_str(0, "exported_");
            }
            all.insert(Cow::Owned(name), value);
        }
        all.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(own: &[(&str, &str)], page: &[(&str, &str)]) -> Vec<(String, String)> {
        let own = own
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        let attached = Attached::new(&own);
        let all = attached.all(page.iter().copied());
        all.into_iter()
            .map(|(n, v)| (n.into_owned(), v.to_owned()))
            .collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn labels_of_the_endpoint_come_among_those_of_the_series() {
        assert_eq!(
            all(
                &[("instance", "a:1"), ("job", "j")],
                &[("__name__", "m"), ("k", "v"), ("z", "")]
            ),
            pairs(&[
                ("__name__", "m"),
                ("instance", "a:1"),
                ("job", "j"),
                ("k", "v")
            ])
        );
        assert_eq!(all(&[], &[("__name__", "m")]), pairs(&[("__name__", "m")]));
    }

    #[test]
    fn a_label_of_the_page_makes_room() {
        assert_eq!(
            all(&[("job", "j")], &[("job", "own")]),
            pairs(&[("exported_job", "own"), ("job", "j")])
        );
        assert_eq!(
            all(&[("job", "j")], &[("exported_job", "x"), ("job", "own")]),
            pairs(&[
                ("exported_exported_job", "own"),
                ("exported_job", "x"),
                ("job", "j")
            ])
        );
        assert_eq!(all(&[("job", "j")], &[("job", "")]), pairs(&[("job", "j")]));
    }
}
