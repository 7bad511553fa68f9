//! The public interface of the libraries, written down so that a change of it is seen in review.

use std::{collections::BTreeSet, fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::{process, shim::Role};

/// The libraries whose interface is kept in docs/api, each with the paths of items in which the
/// transport may be named.
const LIBRARIES: [(&str, &[&str]); 12] = [
    ("steadfast-session", &[]),
    ("steadfast", &["steadfast::grpc::"]),
    ("steadfast-streamer", &["steadfast_streamer::server::"]),
    ("steadfast-streamer-core", &[]),
    ("steadfast-exposition", &[]),
    ("steadfast-recorder", &[]),
    ("steadfast-net", &["steadfast_net::"]),
    ("steadfast-tls", &[]),
    ("steadfast-access", &[]),
    ("steadfast-fodc-model", &[]),
    ("steadfast-fodc-agent", &[]),
    ("steadfast-fodc-proxy", &["steadfast_fodc_proxy::"]),
];

/// tonic is a transport, not our interface.
const TRANSPORT: [&str; 3] = ["tonic::", "tonic_prost::", "hyper::"];

/// Writes docs/api, or with `check` compares it; either way fails where the transport shows.
pub(crate) fn run(check: bool) -> Result<()> {
    let mut faults = Vec::new();
    for (package, transport_in) in LIBRARIES {
        let interface = interface(package)?;
        for line in interface.lines() {
            if names_transport(line, transport_in) {
                faults.push(format!("{package}: the transport shows in `{line}`"));
            }
        }
        let path = format!("docs/api/{package}.txt");
        let file = process::root().join(&path);
        if check {
            let written = fs::read_to_string(&file).with_context(|| format!("read {path}"))?;
            faults.extend(difference(&path, &written, &interface));
        } else {
            fs::write(&file, &interface)?;
        }
        println!(
            "api: {package} has {} public items",
            interface.lines().count()
        );
    }
    for fault in &faults {
        eprintln!("api: {fault}");
    }
    if !faults.is_empty() {
        bail!(
            "the public interface is not the one in docs/api; if that is meant, run `cargo xtask api` and commit"
        );
    }
    Ok(())
}

fn names_transport(line: &str, allowed_in: &[&str]) -> bool {
    let named = TRANSPORT.iter().any(|transport| {
        line.match_indices(transport).any(|(at, _)| {
            // Not within a longer path or name, like `atonic::`.
            let before = line[..at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
        })
    });
    named && !allowed_in.iter().any(|place| line.contains(place))
}

/// Has rustdoc describe the library and lists what is public in it, one line per item,
/// by path.
fn interface(package: &str) -> Result<String> {
    let mut cargo = process::cargo();
    cargo.args(["rustdoc", "--quiet", "--lib", "--package", package]);
    cargo.args(["--", "-Z", "unstable-options", "--output-format", "json"]);
    cargo.args(["--cap-lints", "allow"]);
    Role::JsonRustdoc.assign(&mut cargo)?;
    process::run(&mut cargo)?;
    let json: PathBuf = process::target().join(format!("doc/{}.json", package.replace('-', "_")));
    let api = public_api::Builder::from_rustdoc_json(&json)
        // They are the same for every type and would hide what changes.
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()
        .with_context(|| {
            format!(
                "read {}: a rustc whose JSON has another format version needs another `public-api` in xtask/Cargo.toml",
                json.display()
            )
        })?;
    let mut lines: Vec<String> = api.items().map(ToString::to_string).collect();
    lines.dedup();
    Ok(lines.join("\n") + "\n")
}

/// Returns the lines that only one of the two has, as in a diff.
fn difference(path: &str, written: &str, actual: &str) -> Vec<String> {
    let lines = |text: &str| -> BTreeSet<String> { text.lines().map(str::to_owned).collect() };
    let (before, after) = (lines(written), lines(actual));
    let gone = before
        .difference(&after)
        .map(|line| format!("{path}: - {line}"));
    let new = after
        .difference(&before)
        .map(|line| format!("{path}: + {line}"));
    let mut lines: Vec<String> = gone.chain(new).collect();
    if lines.is_empty() && written != actual {
        lines.push(format!("{path}: the order of the items differs"));
    }
    if lines.len() > SHOWN_MAX {
        let more = lines.len() - SHOWN_MAX;
        lines.truncate(SHOWN_MAX);
        lines.push(format!("{path}: and {more} more"));
    }
    lines
}

/// Lines of a difference that are shown; past that their number is.
const SHOWN_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_what_came_and_what_went() {
        assert_eq!(difference("a", "x\ny\n", "y\nz\n"), ["a: - x", "a: + z"]);
        assert_eq!(difference("a", "x\ny\n", "x\ny\n"), [""; 0]);
        assert_eq!(difference("a", "x\ny\n", "y\nx\n").len(), 1);
    }

    #[test]
    fn the_transport_may_show_in_its_own_module_only() {
        let link = LIBRARIES[1].1;
        for (line, named) in [
            (
                "pub fn steadfast::Link::status(&self) -> tonic::Status",
                true,
            ),
            ("pub fn steadfast::grpc::Grpc::new(tonic::Code)", false),
            ("pub fn steadfast::atonic::Thing::new()", false),
        ] {
            assert_eq!(names_transport(line, link), named, "{line}");
        }
    }
}
