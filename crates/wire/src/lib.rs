//! Generated protobuf messages and services. Nothing here is written by hand but this file.

/// The Streamer: realtime subscriptions.
pub mod streamer {
    #![allow(
        missing_docs,
        clippy::all,
        clippy::pedantic,
        unreachable_pub,
        unused_qualifications
    )]
    include!("generated/syntrix.streamer.v1.rs");
}

/// The Puller: changes of a document store.
pub mod puller {
    #![allow(
        missing_docs,
        clippy::all,
        clippy::pedantic,
        unreachable_pub,
        unused_qualifications
    )]
    include!("generated/syntrix.puller.v1.rs");
}

/// Publishing into a Streamer server.
pub mod publisher {
    #![allow(
        missing_docs,
        clippy::all,
        clippy::pedantic,
        unreachable_pub,
        unused_qualifications
    )]
    include!("generated/steadfast.streamer.v1.rs");
}

/// FODC: the flight recorder's agents and their proxy.
pub mod fodc {
    pub use crate::banyandb::fodc::v1::*;
}

/// The packages of `banyandb`, nested as their generated code refers to each other.
pub mod banyandb {
    #![allow(
        missing_docs,
        clippy::all,
        clippy::pedantic,
        unreachable_pub,
        unused_qualifications
    )]
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
    #![allow(
        missing_docs,
        clippy::all,
        clippy::pedantic,
        unreachable_pub,
        unused_qualifications
    )]
    include!("generated/prometheus.rs");
}

/// Descriptors of all packages, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");
