//! The profiles that agents have listed.

use std::{collections::BTreeMap, sync::Arc};

use prost::Message as _;
use steadfast_wire::fodc::{
    PressureProfileInfo, PressureProfileRecord, StreamPressureProfilesRequest,
    stream_pressure_profiles_request::Payload,
};

use crate::registry::{AgentId, Identity};

/// The last complete list of each agent.
#[derive(Debug, Default)]
pub(super) struct ProfileCatalog(BTreeMap<AgentId, Vec<ListedProfile>>);

/// A capture, and the agent that can send its profiles.
#[derive(Clone, Debug)]
pub(super) struct ListedProfile {
    pub(super) agent: AgentId,
    pub(super) identity: Arc<Identity>,
    pub(super) record: Arc<PressureProfileRecord>,
}

/// The encoded size of one agent's list. An agent of the original keeps 16 captures, of about 500 bytes
/// each.
const LIST_BYTES: usize = 256 << 10;

impl ProfileCatalog {
    /// Replaces the list of an agent, so that evicted captures disappear (F24). Returns false if the
    /// list is too long and was cut.
    pub(super) fn replace(
        &mut self,
        agent: AgentId,
        identity: &Arc<Identity>,
        messages: impl Iterator<Item = StreamPressureProfilesRequest>,
    ) -> bool {
        let records = messages.filter_map(|message| match message.payload {
            Some(Payload::Record(record)) => Some(record),
            Some(Payload::ListComplete(_) | Payload::Chunk(_)) | None => None,
        });
        // By id: a record of an earlier list that was abandoned may be among them.
        let records: BTreeMap<_, _> = records
            .map(|record| (record.profile_id.clone(), record))
            .collect();
        let (total, mut bytes) = (records.len(), 0);
        // Ids are times, so that the newest captures stay.
        let mut kept: Vec<_> = records
            .into_values()
            .rev()
            .take_while(|record| {
                bytes += record.encoded_len();
                bytes <= LIST_BYTES
            })
            .map(|record| ListedProfile {
                agent: agent.clone(),
                identity: Arc::clone(identity),
                record: Arc::new(record),
            })
            .collect();
        kept.reverse();
        let is_whole = kept.len() == total;
        self.0.insert(agent, kept);
        is_whole
    }

    pub(super) fn remove(&mut self, agent: &AgentId) {
        self.0.remove(agent);
    }

    /// Forgets the agents that do not satisfy `keep`.
    pub(super) fn retain(&mut self, keep: impl Fn(&AgentId) -> bool) {
        self.0.retain(|agent, _| keep(agent));
    }

    /// Returns the captures of these agents, by pod and time.
    pub(super) fn select<'a>(
        &self,
        agents: impl Iterator<Item = &'a AgentId>,
    ) -> Vec<ListedProfile> {
        let lists = agents.filter_map(|agent| self.0.get(agent));
        let mut profiles: Vec<_> = lists.flatten().cloned().collect();
        profiles.sort_by(|a, b| a.key().cmp(&b.key()));
        profiles
    }

    /// Returns a profile by the pod's name in any case; of several agents of that name, from any.
    pub(super) fn find(
        &self,
        pod: &str,
        id: &str,
        kind: &str,
    ) -> Option<(ListedProfile, PressureProfileInfo)> {
        let captures = self.0.values().flatten();
        let mut captures = captures.filter(|listed| {
            listed.record.profile_id == id && listed.identity.name.eq_ignore_ascii_case(pod)
        });
        captures.find_map(|listed| {
            let mut profiles = listed.record.profiles.iter();
            let profile = profiles.find(|profile| profile.r#type == kind)?;
            Some((listed.clone(), profile.clone()))
        })
    }
}

impl ListedProfile {
    fn key(&self) -> (&str, &str, &AgentId) {
        (&self.identity.name, &self.record.profile_id, &self.agent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: &str, endpoint: usize) -> StreamPressureProfilesRequest {
        let record = PressureProfileRecord {
            profile_id: id.to_owned(),
            source_endpoint: "x".repeat(endpoint),
            profiles: vec![PressureProfileInfo {
                r#type: "heap".to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        };
        StreamPressureProfilesRequest {
            payload: Some(Payload::Record(record)),
        }
    }

    fn replace(catalog: &mut ProfileCatalog, agent: &str, pod: &str, ids: &[&str]) -> bool {
        let messages = ids.iter().map(|id| message(id, 100_000));
        let identity = Arc::new(Identity::of_pod(pod, "r"));
        catalog.replace(AgentId::new(agent), &identity, messages)
    }

    fn known(catalog: &ProfileCatalog) -> Vec<String> {
        let agents: Vec<_> = catalog.0.keys().cloned().collect();
        let listed = catalog.select(agents.iter()).into_iter();
        listed
            .map(|listed| format!("{}/{}", listed.identity.name, listed.record.profile_id))
            .collect()
    }

    #[test]
    fn list_replaces_the_one_before() {
        let mut catalog = ProfileCatalog::default();
        assert!(replace(&mut catalog, "1", "db-0", &["b", "a", "a"]));
        assert!(replace(&mut catalog, "2", "db-1", &["a"]));
        assert_eq!(known(&catalog), ["db-0/a", "db-0/b", "db-1/a"]);
        assert!(replace(&mut catalog, "1", "db-0", &["c"]));
        assert_eq!(known(&catalog), ["db-0/c", "db-1/a"]);
        assert!(catalog.find("DB-0", "c", "heap").is_some());
        for (pod, id, kind) in [
            ("db-0", "a", "heap"),
            ("db-1", "c", "heap"),
            ("db-0", "c", "x"),
        ] {
            assert!(catalog.find(pod, id, kind).is_none(), "{pod} {id} {kind}");
        }
        catalog.retain(|agent| *agent == AgentId::new("2"));
        assert_eq!(known(&catalog), ["db-1/a"]);
    }

    #[test]
    fn endless_list_is_cut_to_the_newest() {
        let mut catalog = ProfileCatalog::default();
        assert!(!replace(&mut catalog, "1", "p", &["1", "3", "2", "4"]));
        assert_eq!(known(&catalog), ["p/3", "p/4"]);
    }
}
