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

/// Descriptors of all packages, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");
