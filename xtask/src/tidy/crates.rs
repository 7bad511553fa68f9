//! The direction of dependencies between crates, and what the pure crates must never reach.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};
use cargo_metadata::{DependencyKind, Metadata, Package};
use toml::Value;

use crate::process;

/// For each crate, the crates of ours that it may build upon. Nothing builds upon `sim`, `bench`, `cli` or xtask.
const MAY_USE: [(&str, &str); 19] = [
    ("session", ""),
    ("wire", ""),
    ("chaos", ""),
    ("tls", ""),
    ("net", "tls access"),
    ("access", ""),
    ("exposition", ""),
    ("files", ""),
    ("recorder", "exposition files"),
    ("steadfast", "session net tls"),
    ("streamer-core", "session wire"),
    (
        "streamer",
        "session steadfast wire net exposition streamer-core access files",
    ),
    (
        "gateway",
        "session steadfast net exposition streamer access",
    ),
    ("fodc-model", "wire exposition"),
    (
        "fodc-agent",
        "session steadfast wire net access exposition recorder fodc-model files",
    ),
    (
        "fodc-proxy",
        "session wire net exposition fodc-model access",
    ),
    (
        "cli",
        "session steadfast wire net access streamer-core streamer gateway exposition recorder fodc-model fodc-agent fodc-proxy chaos files",
    ),
    ("sim", "session steadfast wire streamer-core streamer chaos"),
    (
        "bench",
        "session wire tls streamer-core streamer exposition recorder fodc-model fodc-agent fodc-proxy",
    ),
];

/// The crates that tests may use on top of that.
const TESTS_MAY_USE: &str = "session steadfast wire chaos net streamer-core fodc-proxy";

/// The crates whose runs replay from their inputs.
const PURE: [&str; 2] = ["session", "streamer-core"];

/// Runtimes, transports, storage and entropy: a pure crate reaches none of them.
const FORBIDDEN_IN_PURE: [&str; 8] = [
    "tokio",
    "tonic",
    "redb",
    "hyper",
    "h2",
    "getrandom",
    "async-std",
    "smol",
];

const FORBIDDEN_FEATURES: [&str; 5] = ["thread_rng", "sys_rng", "os_rng", "getrandom", "default"];

/// Parts of the server: `steadfast-streamer` with the feature `client` alone reaches none of them.
const FORBIDDEN_IN_CLIENT: [&str; 3] = ["redb", "tonic-health", "tonic-reflection"];

/// Calls that a pure crate's `clippy.toml` bans on top of the root's rules.
const BANNED_IN_PURE: [&str; 8] = [
    "std::time::Instant::now",
    "std::time::SystemTime::now",
    "rand::rng",
    "rand::random",
    "std::collections::HashMap",
    "std::collections::HashSet",
    "rand::rngs::ThreadRng",
    "rand::rngs::SysRng",
];

pub(super) fn check(metadata: &Metadata, faults: &mut Vec<String>) -> Result<()> {
    direction(metadata, faults);
    for name in PURE {
        reaches(name, faults)?;
        bans(name, faults)?;
    }
    client_feature(faults)?;
    for package in metadata.workspace_packages() {
        lints(package, faults)?;
    }
    Ok(())
}

fn direction(metadata: &Metadata, faults: &mut Vec<String>) {
    let ours: BTreeMap<&str, String> = metadata
        .workspace_packages()
        .into_iter()
        .map(|package| (package.name.as_str(), folder(metadata, package)))
        .collect();
    for package in metadata.workspace_packages() {
        let name = &ours[package.name.as_str()];
        let Some((_, may_use)) = MAY_USE.iter().find(|(of, _)| of == name) else {
            if package.name.as_str() != "xtask" {
                faults.push(format!(
                    "crates/{name} has no row in MAY_USE of xtask/src/tidy/crates.rs"
                ));
            }
            continue;
        };
        for dependency in &package.dependencies {
            let Some(used) = ours.get(dependency.name.as_str()) else {
                continue;
            };
            let for_tests =
                dependency.kind == DependencyKind::Development && lists(TESTS_MAY_USE, used);
            if !lists(may_use, used) && !for_tests {
                faults.push(format!(
                    "crates/{name} depends on crates/{used}: dependencies point one way, see MAY_USE of xtask/src/tidy/crates.rs"
                ));
            }
        }
    }
}

/// Returns a member's short name: `session` for `steadfast-session` in `crates/session`.
fn folder(metadata: &Metadata, package: &Package) -> String {
    let folder = package
        .manifest_path
        .parent()
        .unwrap_or(&metadata.workspace_root);
    folder
        .strip_prefix(metadata.workspace_root.join("crates"))
        .unwrap_or(folder)
        .to_string()
}

fn lists(crates: &str, name: &str) -> bool {
    crates.split(' ').any(|listed| listed == name)
}

/// Reads what `cargo tree` resolves for the crate alone: `cargo metadata` mixes in the features
/// that other members ask for.
fn reaches(pure: &str, faults: &mut Vec<String>) -> Result<()> {
    let tree = process::output(process::cargo().args([
        "tree",
        "--locked",
        &format!("--package=steadfast-{pure}"),
        "--edges=normal",
        // What only other systems need counts as well.
        "--target=all",
        "--prefix=none",
        "--format={p}|{f}",
    ]))?;
    for line in tree.lines() {
        let (package, features) = line.split_once('|').unwrap_or((line, ""));
        let name = package.split(' ').next().unwrap_or_default();
        if FORBIDDEN_IN_PURE.contains(&name) {
            faults.push(format!(
                "steadfast-{pure} reaches {name}: it has no runtime, transport, storage or entropy"
            ));
        }
        if name == "rand" || name.starts_with("rand_") {
            for feature in features.split(',') {
                let feature = feature.trim_end_matches("(*)").trim();
                if FORBIDDEN_FEATURES.contains(&feature) {
                    faults.push(format!(
                        "steadfast-{pure} enables `{feature}` of {name}: its randomness is seeded by the caller"
                    ));
                }
            }
        }
    }
    Ok(())
}

fn client_feature(faults: &mut Vec<String>) -> Result<()> {
    let tree = process::output(process::cargo().args([
        "tree",
        "--locked",
        "--package=steadfast-streamer",
        "--no-default-features",
        "--features=client",
        "--edges=normal",
        "--prefix=none",
        "--format={lib}",
    ]))?;
    for name in FORBIDDEN_IN_CLIENT {
        let library = name.replace('-', "_");
        if tree.lines().any(|line| line.trim() == library) {
            faults.push(format!(
                "steadfast-streamer with the feature `client` alone reaches {name}"
            ));
        }
    }
    Ok(())
}

fn bans(pure: &str, faults: &mut Vec<String>) -> Result<()> {
    let root = read_toml("clippy.toml")?;
    let path = format!("crates/{pure}/clippy.toml");
    let own = read_toml(&path)?;
    for (key, rule) in &root {
        let repeated = match (rule, own.get(key)) {
            (Value::Array(rules), Some(Value::Array(repeated))) => {
                rules.iter().all(|rule| repeated.contains(rule))
            }
            (rule, repeated) => Some(rule) == repeated,
        };
        if !repeated {
            faults.push(format!(
                "{path} does not repeat `{key}` of the root's, which it replaces"
            ));
        }
    }
    let banned: Vec<&str> = own
        .values()
        .filter_map(Value::as_array)
        .flatten()
        .filter_map(|ban| ban.get("path")?.as_str())
        .collect();
    for call in BANNED_IN_PURE {
        if !banned.contains(&call) {
            faults.push(format!("{path} does not ban {call}"));
        }
    }
    Ok(())
}

/// Lints stand in the workspace table and nowhere else.
fn lints(package: &Package, faults: &mut Vec<String>) -> Result<()> {
    let manifest: toml::Table = toml::from_str(&fs::read_to_string(&package.manifest_path)?)
        .with_context(|| format!("read {}", package.manifest_path))?;
    let expected = toml::Table::from_iter([("workspace".to_owned(), Value::Boolean(true))]);
    if manifest.get("lints") != Some(&Value::Table(expected)) {
        faults.push(format!(
            "{}: `[lints]` is not exactly `workspace = true`",
            package.manifest_path
        ));
    }
    Ok(())
}

fn read_toml(path: &str) -> Result<toml::Table> {
    let text =
        fs::read_to_string(process::root().join(path)).with_context(|| format!("read {path}"))?;
    toml::from_str(&text).with_context(|| format!("read {path}"))
}
