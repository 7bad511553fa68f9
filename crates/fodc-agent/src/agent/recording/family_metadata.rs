//! The metadata of families, which a page may state before, between or after their samples.

use std::collections::HashMap;

use steadfast_exposition::{FamilyRef, Kind};
use steadfast_recorder::Meta;

/// The kind and help text of a family.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Metadata {
    kind: Kind,
    help: Box<str>,
}

/// The metadata of an endpoint's families, from one page to the next. The parser bounds its size.
#[derive(Debug, Default)]
pub(super) struct FamilyMetadata {
    /// The metadata as of the last complete page.
    families: HashMap<Box<str>, Metadata>,
    /// What the current page states differently or for the first time.
    changes: HashMap<Box<str>, Metadata>,
    /// The parser was reset since the last complete page: it states every family of the next one again.
    is_reset: bool,
}

impl FamilyMetadata {
    /// Takes what the current page states about a family.
    pub(super) fn update(&mut self, family: &FamilyRef<'_>) {
        if family.kind.is_none() && family.help.is_none() {
            // The family has lost its metadata, mostly because it is not on the page any more.
            self.changes.remove(family.name);
            self.families.remove(family.name);
            return;
        }
        let metadata = Metadata {
            kind: family.kind.unwrap_or_default(),
            help: family.help.unwrap_or_default().into(),
        };
        self.changes.insert(family.name.into(), metadata);
    }

    /// Notes that the parser was reset, and reports no family any more that is gone from the page.
    pub(super) fn on_reset(&mut self) {
        self.is_reset = true;
    }

    /// Drops what an abandoned page stated.
    pub(super) fn abandon(&mut self) {
        self.changes.clear();
    }

    /// Adopts what a complete page stated, and returns true if series were registered with other
    /// metadata than that. `registered_early` says that some were registered with none.
    pub(super) fn commit(&mut self, registered_early: bool) -> bool {
        let mut outdated = false;
        let mut older = HashMap::new();
        if std::mem::take(&mut self.is_reset) {
            // Only what the page states is kept, or pages with new families each time would fill the memory.
            older = std::mem::take(&mut self.families);
        }
        for (family, metadata) in std::mem::take(&mut self.changes) {
            let older = older.remove(&family);
            let before = self.families.insert(family, metadata.clone()).or(older);
            // First metadata outdates only series that were registered without any.
            outdated |= before.map_or(registered_early, |before| before != metadata);
        }
        outdated
    }

    /// Returns the metadata of a sample by its name.
    pub(super) fn of_sample(&self, sample: &str) -> Meta {
        // A family with the whole name of the sample takes precedence over its suffixes.
        if let Some(metadata) = self.families.get(sample) {
            return meta(metadata.kind, &metadata.help, "");
        }
        // From the right: `a_b_count` belongs to a family `a_b` rather than to `a`.
        let parts = sample
            .rmatch_indices('_')
            .map(|(at, _)| sample.split_at(at));
        for (family, suffix) in parts {
            if let Some(metadata) = self.families.get(family)
                && metadata.kind.owns(family, sample)
            {
                return meta(metadata.kind, &metadata.help, suffix);
            }
        }
        Meta::default()
    }
}

/// Converts the metadata of a family to that of its sample with `suffix`.
pub(super) fn meta(kind: Kind, help: &str, suffix: &str) -> Meta {
    // The time of creation is a gauge whatever the kind of the metric.
    let is_created = suffix == "_created";
    Meta {
        kind: if is_created { Kind::Gauge } else { kind },
        help: help.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(metadata: &mut FamilyMetadata, families: std::ops::Range<usize>) -> bool {
        for n in families {
            metadata.update(&FamilyRef {
                name: &format!("f{n}"),
                kind: Some(Kind::Counter),
                help: None,
                unit: None,
            });
        }
        metadata.commit(true)
    }

    #[test]
    fn families_gone_with_a_reset_of_the_parser_are_dropped() {
        let mut metadata = FamilyMetadata::default();
        for page in 0..50 {
            assert!(
                state(&mut metadata, page * 100..page * 100 + 200),
                "new families"
            );
            metadata.on_reset();
            assert_eq!(metadata.families.len(), 200);
        }
        // What was known before the reset is not new.
        assert!(!state(&mut metadata, 49 * 100..49 * 100 + 200));
        assert_eq!(metadata.of_sample("f4950").kind, Kind::Counter);
        assert_eq!(metadata.of_sample("f0"), Meta::default());
    }
}
