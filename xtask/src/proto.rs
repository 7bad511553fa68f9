//! Generates the code of `crates/wire` from `proto/`, and that of an example, without protoc.

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

/// The generated code of `crates/wire`.
const WIRE: Generated = Generated {
    root: "proto",
    sources: &SOURCES,
    out: "crates/wire/src/generated",
    reflection: true,
};

/// The generated code of the example of `crates/steadfast`, as its user would have it.
const EXAMPLE: Generated = Generated {
    root: "crates/steadfast/examples/resume_watch",
    sources: &["meter.proto"],
    out: "crates/steadfast/examples/resume_watch/generated",
    reflection: false,
};

/// The generated code of the examples that watch other people's services.
const WATCHES: Generated = Generated {
    root: "crates/steadfast/examples/watches",
    sources: &["etcd.proto", "pods.proto"],
    out: "crates/steadfast/examples/watches/generated",
    reflection: false,
};

struct Generated {
    /// The folder of the sources.
    root: &'static str,
    sources: &'static [&'static str],
    out: &'static str,
    /// A descriptor set is written too, for server reflection.
    reflection: bool,
}

/// Writes the generated code, or with `check` compares it with what the repository has.
pub(crate) fn run(check: bool) -> Result<()> {
    WIRE.write_or_check(check)?;
    EXAMPLE.write_or_check(check)?;
    WATCHES.write_or_check(check)
}

impl Generated {
    fn write_or_check(&self, check: bool) -> Result<()> {
        let generated = process::root().join(self.out);
        if !check {
            fs::create_dir_all(&generated)?;
            return self.generate(&generated);
        }
        let fresh = tempfile::tempdir()?;
        self.generate(fresh.path())?;
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
                "{} does not match {} ({}); run `cargo xtask proto` and commit",
                self.out,
                self.root,
                stale.join(", ")
            );
        }
        println!(
            "proto: {} generated files agree with {}",
            want.len(),
            self.root
        );
        Ok(())
    }

    /// Writes one Rust file per package.
    fn generate(&self, out: &Path) -> Result<()> {
        let descriptors = protox::compile(self.sources, [process::root().join(self.root)])
            .with_context(|| format!("compile {}", self.root))?;
        if self.reflection {
            fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
        }
        tonic_prost_build::configure()
            // Payloads are parts of the receive buffer, not copies of it.
            .bytes(".")
            // The order of a hash map differs per process, and runs of the pure crates must replay.
            .btree_map(".")
            // Few subscriptions have a window, and every message would be as large as its request.
            .boxed(".syntrix.streamer.v1.SubscribeRequest.window")
            .boxed(".syntrix.streamer.v1.Credit.bound")
            .boxed(".syntrix.streamer.v1.Snapshot.bound")
            .build_transport(false)
            .client_mod_attribute(".", GRPC)
            .server_mod_attribute(".", GRPC)
            .out_dir(out)
            .compile_fds(descriptors)
            .context("generate code")
    }
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
