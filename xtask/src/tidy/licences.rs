//! Licences and bans of `deny.toml`, from `cargo metadata` alone.
//!
//! `cargo deny` reads the same file and checks more, but takes minutes to install; this runs with
//! every change.

use std::fs;

use anyhow::{Context as _, Result};
use cargo_metadata::Metadata;
use serde::Deserialize;
use spdx::{Expression, ParseMode};

use crate::process;

#[derive(Deserialize)]
struct Deny {
    licenses: Licences,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licences {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
}

pub(super) fn check(metadata: &Metadata, faults: &mut Vec<String>) -> Result<()> {
    let text = fs::read_to_string(process::root().join("deny.toml")).context("read deny.toml")?;
    let deny: Deny = toml::from_str(&text).context("read deny.toml")?;
    for package in &metadata.packages {
        let name = format!("{} {}", package.name, package.version);
        if deny
            .bans
            .deny
            .iter()
            .any(|ban| ban.name == package.name.as_str())
        {
            faults.push(format!("{name}: banned in deny.toml"));
        }
        let Some(licence) = &package.license else {
            faults.push(format!("{name}: states no licence"));
            continue;
        };
        match Expression::parse_mode(licence, ParseMode::LAX) {
            Ok(expression) => {
                let allowed = expression.evaluate(|requirement| {
                    let wanted = requirement.to_string();
                    deny.licenses.allow.contains(&wanted)
                });
                if !allowed {
                    faults.push(format!(
                        "{name}: licence `{licence}` is not allowed in deny.toml"
                    ));
                }
            }
            Err(error) => faults.push(format!("{name}: licence `{licence}`: {error}")),
        }
    }
    Ok(())
}
