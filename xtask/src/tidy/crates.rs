//! Which crate may depend on which, and what the session must never reach.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};
use cargo_metadata::{DependencyKind, Metadata, Package};
use toml::Value;

use super::folder;
use crate::process;

/// For each crate, the crates of ours it may build upon. Nothing builds upon `sim`, `bench`, `cli` or xtask.
const MAY_USE: [(&str, &[&str]); 13] = [
    ("session", &[]),
    ("wire", &[]),
    ("chaos", &[]),
    ("steadfast", &["session"]),
    ("streamer", &["session", "steadfast", "wire"]),
    ("exposition", &[]),
    ("recorder", &[]),
    ("fodc-model", &["wire"]),
    (
        "fodc-agent",
        &[
            "session",
            "steadfast",
            "wire",
            "exposition",
            "recorder",
            "fodc-model",
        ],
    ),
    (
        "fodc-proxy",
        &["session", "wire", "exposition", "fodc-model"],
    ),
    (
        "cli",
        &[
            "session",
            "steadfast",
            "wire",
            "streamer",
            "exposition",
            "recorder",
            "fodc-agent",
            "fodc-proxy",
            "chaos",
        ],
    ),
    (
        "sim",
        &["session", "steadfast", "wire", "streamer", "chaos"],
    ),
    ("bench", &["wire", "exposition", "recorder", "fodc-proxy"]),
];

/// What tests may use on top of that.
const TESTS_MAY_USE: [&str; 5] = ["session", "steadfast", "wire", "chaos", "fodc-proxy"];

/// No runtime, no transport, no entropy: a run of the session replays from its inputs.
const FORBIDDEN_IN_SESSION: [&str; 7] = [
    "tokio",
    "tonic",
    "hyper",
    "h2",
    "getrandom",
    "async-std",
    "smol",
];

const FORBIDDEN_FEATURES: [&str; 5] = ["thread_rng", "sys_rng", "os_rng", "getrandom", "default"];

/// What `crates/session/clippy.toml` bans on top of the root's rules.
const BANNED_IN_SESSION: [&str; 8] = [
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
    session_reaches(faults)?;
    session_bans(faults)?;
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
            let for_tests = dependency.kind == DependencyKind::Development
                && TESTS_MAY_USE.contains(&used.as_str());
            if !may_use.contains(&used.as_str()) && !for_tests {
                faults.push(format!(
                    "crates/{name} depends on crates/{used}: dependencies point one way, session <- steadfast <- streamer <- cli, and none at sim"
                ));
            }
        }
    }
}

/// Reads what `cargo tree` resolves for the session alone: `cargo metadata` mixes in the features
/// that other members ask for.
fn session_reaches(faults: &mut Vec<String>) -> Result<()> {
    let tree = process::output(process::cargo().args([
        "tree",
        "--locked",
        "--package=steadfast-session",
        "--edges=normal",
        "--target=all",
        "--prefix=none",
        "--format={p}|{f}",
    ]))?;
    for line in tree.lines() {
        let (package, features) = line.split_once('|').unwrap_or((line, ""));
        let name = package.split(' ').next().unwrap_or_default();
        if FORBIDDEN_IN_SESSION.contains(&name) {
            faults.push(format!(
                "steadfast-session reaches {name}: it has no runtime, transport or entropy"
            ));
        }
        if name == "rand" || name.starts_with("rand_") {
            for feature in features.split(',') {
                let feature = feature.trim_end_matches("(*)").trim();
                if FORBIDDEN_FEATURES.contains(&feature) {
                    faults.push(format!(
                        "steadfast-session enables `{feature}` of {name}: its randomness is seeded by the caller"
                    ));
                }
            }
        }
    }
    Ok(())
}

fn session_bans(faults: &mut Vec<String>) -> Result<()> {
    let root = read_toml("clippy.toml")?;
    let session = read_toml("crates/session/clippy.toml")?;
    for (key, rule) in &root {
        let repeated = match (rule, session.get(key)) {
            (Value::Array(rules), Some(Value::Array(repeated))) => {
                rules.iter().all(|rule| repeated.contains(rule))
            }
            (rule, repeated) => Some(rule) == repeated,
        };
        if !repeated {
            faults.push(format!(
                "crates/session/clippy.toml does not repeat `{key}` of the root's, which it replaces"
            ));
        }
    }
    let banned: Vec<&str> = session
        .values()
        .filter_map(Value::as_array)
        .flatten()
        .filter_map(|ban| ban.get("path")?.as_str())
        .collect();
    for path in BANNED_IN_SESSION {
        if !banned.contains(&path) {
            faults.push(format!("crates/session/clippy.toml does not ban {path}"));
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
