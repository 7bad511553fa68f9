//! Documents that need no source: a small shop whose stock changes, from a seed.

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::document::Document;

/// An endless feed. The same seed gives the same documents.
#[derive(Debug)]
pub(crate) struct Generator {
    rng: ChaCha8Rng,
    count: u64,
}

/// Documents the feed is about; a later change of the same one is an update.
const ARTICLES: u64 = 2_000;
const CATEGORIES: [&str; 6] = ["books", "games", "garden", "kitchen", "music", "tools"];
const LABELS: [&str; 8] = [
    "bulky", "exported", "fragile", "gift", "new", "organic", "rare", "sale",
];
const CITIES: [&str; 5] = ["Accra", "Lima", "Lyon", "Osaka", "Turku"];
/// One change in this many is a delete.
const DELETE_EVERY: u64 = 50;

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            count: 0,
        }
    }
}

impl Iterator for Generator {
    type Item = Document;

    fn next(&mut self) -> Option<Document> {
        self.count += 1;
        let id = format!("article-{:04}", self.rng.random_range(0..ARTICLES));
        if self.rng.random_range(0..DELETE_EVERY) == 0 {
            return Some(Document::delete(id));
        }
        let mut labels = LABELS.to_vec();
        labels.retain(|_| self.rng.random_range(0..4_u8) == 0);
        // Evaluated in this order, which is part of what a seed stands for.
        let data = json!({
            "change": self.count,
            "category": self.pick(&CATEGORIES),
            "price": self.rng.random_range(100..50_000_u32),
            "rating": f64::from(self.rng.random_range(2..=10_u8)) / 2.0,
            "inStock": self.rng.random_range(0..4) != 0,
            "labels": labels,
            "warehouse": { "city": self.pick(&CITIES), "shelf": self.rng.random_range(1..400_u16) },
        });
        Some(Document::new(
            id,
            data.as_object().cloned().unwrap_or_default(),
        ))
    }
}

impl Generator {
    fn pick(&mut self, from: &[&'static str]) -> &'static str {
        from[self.rng.random_range(0..from.len())]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn lines(seed: u64) -> Vec<String> {
        Generator::new(seed)
            .take(2_000)
            .map(|document| document.to_line())
            .collect()
    }

    #[test]
    fn a_seed_gives_the_same_documents_and_another_others() {
        assert_eq!(lines(7), lines(7));
        assert_ne!(lines(7), lines(8));
    }

    #[test]
    fn the_feed_has_all_operations_and_each_line_parses() {
        let mut seen = BTreeSet::new();
        let (mut inserts, mut updates, mut deletes) = (0, 0, 0);
        for line in lines(1) {
            let document = Document::parse(&line).unwrap();
            match document.op {
                Some(_) => deletes += 1,
                None if seen.insert(document.id.clone()) => inserts += 1,
                None => updates += 1,
            }
        }
        assert!(
            inserts > 500 && updates > 500 && deletes > 10,
            "{inserts} {updates} {deletes}"
        );
    }
}
