//! The JSON of `/pressure-profiles`, in the shape of the original.

use serde::Serialize;
use steadfast_wire::fodc::PressureProfileInfo;

use crate::{go_json, profile_catalog::ListedProfile};

#[derive(Serialize)]
struct ProfileJson<'a> {
    captured_at: String,
    agent_id: String,
    pod_name: &'a str,
    role: &'a str,
    profile_id: &'a str,
    source_endpoint: &'a str,
    profiles: Vec<FileJson<'a>>,
    rss_bytes: u64,
    cgroup_limit_bytes: u64,
    threshold_bytes: u64,
    trigger_percent: u32,
}

#[derive(Serialize)]
struct FileJson<'a> {
    r#type: &'a str,
    filename: &'a str,
    filepath: &'a str,
    format: &'a str,
    size_bytes: i64,
}

/// Returns the page of these captures.
pub(crate) fn page(profiles: &[ListedProfile]) -> Vec<u8> {
    go_json::page(&profiles.iter().map(ProfileJson::new).collect::<Vec<_>>())
}

impl<'a> ProfileJson<'a> {
    fn new(listed: &'a ListedProfile) -> Self {
        let record = &*listed.record;
        Self {
            captured_at: go_json::rfc3339_or_zero(record.captured_at.as_ref()),
            agent_id: listed.agent.to_string(),
            pod_name: &listed.identity.name,
            role: &listed.identity.role,
            profile_id: &record.profile_id,
            source_endpoint: &record.source_endpoint,
            profiles: record.profiles.iter().map(FileJson::new).collect(),
            rss_bytes: record.rss_bytes,
            cgroup_limit_bytes: record.cgroup_limit_bytes,
            threshold_bytes: record.threshold_bytes,
            trigger_percent: record.trigger_percent,
        }
    }
}

impl<'a> FileJson<'a> {
    fn new(file: &'a PressureProfileInfo) -> Self {
        Self {
            r#type: &file.r#type,
            filename: &file.filename,
            filepath: &file.filepath,
            format: &file.format,
            size_bytes: file.size_bytes,
        }
    }
}
