//! Every id the map must have a row for.

use std::collections::BTreeSet;

/// Prefix of a family and how many it has, counted from 1.
const FAMILIES: [(&str, usize); 19] = [
    // What is required of the Streamer, of FODC, and beyond both.
    ("req:S", 17),
    ("req:F", 15),
    ("req:X", 14),
    // What must hold of any resilient stream.
    ("inv:I", 29),
    // What the log promises.
    ("log:L", 23),
    // What a link promises of credentials, and of what a person sees.
    ("cred:A", 11),
    // What the JavaScript client promises.
    ("js:J", 16),
    // What `steadfast.v1` and the gateway's HTTP promise.
    ("api:A", 18),
    // What the console promises.
    ("con:C", 9),
    // What an operator of the Streamer meets.
    ("ops:O", 24),
    // What a stranger must not be able to do.
    ("sec:R", 28),
    // Defects found in the Go programs: Streamer server and client, Puller server and client,
    // realtime gateway, TypeScript client.
    ("srv:S", 18),
    ("cli:C", 24),
    ("pul:P", 10),
    ("puc:PC", 5),
    ("gw:G", 14),
    ("ts:T", 8),
    // Defects of FODC: those its authors mended, and those that are open.
    ("fodc:F", 28),
    ("fodc:O", 47),
];

pub(super) fn all() -> BTreeSet<String> {
    FAMILIES
        .iter()
        .flat_map(|(prefix, count)| (1..=*count).map(move |number| format!("{prefix}{number}")))
        .collect()
}
