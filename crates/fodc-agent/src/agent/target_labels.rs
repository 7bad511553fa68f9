//! The labels of a series as a Prometheus that scrapes the endpoint has them.

use std::{borrow::Cow, collections::BTreeMap};

/// The labels of an endpoint, which are added to those of each series.
///
/// A label of the page with the name of one of them is renamed: `exported_` is put before its name
/// until the name is free. Prometheus does the same without `honor_labels`.
#[derive(Clone, Debug, Default)]
pub(super) struct TargetLabels {
    own: BTreeMap<String, String>,
}

impl TargetLabels {
    pub(super) fn new(labels: &BTreeMap<String, String>) -> Self {
        Self {
            own: labels.clone(),
        }
    }

    /// Returns the labels of a series sorted by name. `page` are those on the page, including
    /// `__name__`.
    pub(super) fn merge<'a>(
        &'a self,
        page: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Vec<(Cow<'a, str>, &'a str)> {
        let (mut renamed, mut all) = (Vec::new(), BTreeMap::new());
        for (name, value) in page {
            if value.is_empty() {
                // To Prometheus an empty label is a missing one.
            } else if self.own.contains_key(name) {
                renamed.push((name, value));
            } else {
                all.insert(Cow::Borrowed(name), value);
            }
        }
        // Before the renamed ones, which have to avoid all other names.
        for (name, value) in &self.own {
            all.insert(Cow::Borrowed(name), value);
        }
        for (name, value) in renamed {
            let mut name = format!("exported_{name}");
            // The page may have a label `exported_job` beside `job`.
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

    /// Merges labels and returns them as `name=value`, separated by spaces.
    fn merge(own: &[(&str, &str)], page: &[(&str, &str)]) -> String {
        let own = own.iter();
        let own = own.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let labels = TargetLabels::new(&own.collect());
        let all = labels.merge(page.iter().copied()).into_iter();
        let all: Vec<_> = all.map(|(name, value)| format!("{name}={value}")).collect();
        all.join(" ")
    }

    #[test]
    fn endpoint_labels_are_merged_in_order() {
        let own = [("instance", "a:1"), ("job", "j")];
        assert_eq!(
            merge(&own, &[("__name__", "m"), ("k", "v"), ("z", "")]),
            "__name__=m instance=a:1 job=j k=v"
        );
        assert_eq!(merge(&[], &[("__name__", "m")]), "__name__=m");
    }

    #[test]
    fn page_label_is_renamed_when_it_collides() {
        for (page, merged) in [
            (&[("job", "own")][..], "exported_job=own job=j"),
            (
                &[("exported_job", "x"), ("job", "own")],
                "exported_exported_job=own exported_job=x job=j",
            ),
            (&[("job", "")], "job=j"),
        ] {
            assert_eq!(merge(&[("job", "j")], page), merged);
        }
    }
}
