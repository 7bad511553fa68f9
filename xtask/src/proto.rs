//! Generates `crates/wire/src/generated` from `proto/`, without protoc.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, bail};
use prost::Message as _;

use crate::process;

const SOURCES: [&str; 7] = [
    "syntrix/streamer/v1/streamer.proto",
    "syntrix/puller/v1/puller.proto",
    "steadfast/streamer/v1/publisher.proto",
    "banyandb/common/v1/common.proto",
    "banyandb/database/v1/database.proto",
    "banyandb/fodc/v1/rpc.proto",
    "prometheus/remote.proto",
];

/// The pure crates use the messages without tonic, which the services need.
const GRPC: &str = "#[cfg(feature = \"grpc\")]";

const GENERATED: &str = "crates/wire/src/generated";

/// Writes the generated code, or with `check` compares it with what the repository has.
pub(crate) fn run(check: bool) -> Result<()> {
    let generated = process::root().join(GENERATED);
    if !check {
        fs::create_dir_all(&generated)?;
        return generate(&generated);
    }
    let fresh = tempfile::tempdir()?;
    generate(fresh.path())?;
    let (have, want) = (read(&generated)?, read(fresh.path())?);
    let mut names: Vec<_> = have.keys().chain(want.keys()).collect();
    names.sort();
    names.dedup();
    let stale: Vec<_> = names
        .into_iter()
        .filter(|name| have.get(*name) != want.get(*name))
        .cloned()
        .collect();
    if !stale.is_empty() {
        bail!(
            "{GENERATED} is not what proto/ says ({}); run `cargo xtask proto` and commit",
            stale.join(", ")
        );
    }
    println!("proto: {} generated files agree with proto/", want.len());
    Ok(())
}

/// Writes one Rust file per package and one descriptor set for server reflection.
fn generate(out: &Path) -> Result<()> {
    let descriptors =
        protox::compile(SOURCES, [process::root().join("proto")]).context("compile proto/")?;
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .build_transport(false)
        .client_mod_attribute(".", GRPC)
        .server_mod_attribute(".", GRPC)
        .out_dir(out)
        .compile_fds(descriptors)
        .context("generate code")
}

fn read(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    entries
        .map(|entry| {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            Ok((name, fs::read(entry.path())?))
        })
        .collect()
}
