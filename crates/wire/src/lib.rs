#![doc = include_str!("../README.md")]
// Everything in `generated` is written by `cargo xtask proto`.

pub mod decoded_size;
pub mod raw_field;

pub use generated::{banyandb, prometheus, publisher, puller, streamer};

/// FODC: the flight recorder's agents and their proxy.
pub mod fodc {
    pub use crate::banyandb::fodc::v1::*;
}

#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    unreachable_pub,
    unused_qualifications
)]
mod generated {
    /// The Streamer: realtime subscriptions.
    pub mod streamer {
        include!("generated/syntrix.streamer.v1.rs");
    }

    /// The Puller: changes of a document store.
    pub mod puller {
        include!("generated/syntrix.puller.v1.rs");
    }

    /// Publishing into a Streamer server.
    pub mod publisher {
        include!("generated/steadfast.streamer.v1.rs");
    }

    /// The packages of `banyandb`, nested as their generated code refers to each other.
    pub mod banyandb {
        pub mod common {
            pub mod v1 {
                include!("generated/banyandb.common.v1.rs");
            }
        }
        pub mod database {
            pub mod v1 {
                include!("generated/banyandb.database.v1.rs");
            }
        }
        pub mod fodc {
            pub mod v1 {
                include!("generated/banyandb.fodc.v1.rs");
            }
        }
    }

    /// Prometheus remote read.
    pub mod prometheus {
        include!("generated/prometheus.rs");
    }
}

/// Descriptors of all packages, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");
