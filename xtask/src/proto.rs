//! Generates `crates/wire/src/generated` from `proto/`, without protoc.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use prost::Message as _;

const SOURCES: [&str; 3] = [
    "syntrix/streamer/v1/streamer.proto",
    "syntrix/puller/v1/puller.proto",
    "steadfast/streamer/v1/publisher.proto",
];

/// Writes one Rust file per package and one descriptor set for server reflection.
pub(crate) fn generate() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let out = root.join("crates/wire/src/generated");
    fs::create_dir_all(&out)?;
    let descriptors = protox::compile(SOURCES, [root.join("proto")]).context("compile proto/")?;
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(false)
        .out_dir(&out)
        .compile_fds(descriptors)
        .context("generate code")
}
