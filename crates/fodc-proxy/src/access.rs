//! The rights of agents, by the policy file (`docs/protocol-fodc.md`, R-113 to R-117).

use std::{future::pending, sync::Arc};

use steadfast_access::{Action, Node, Refused};
use steadfast_net::access::{KnownPeer, NotRenewed, unauthenticated};
use steadfast_wire::fodc::RegisterAgentRequest;
use tokio::sync::watch;
use tonic::Status;

use super::{
    credentials::Credentials,
    registry::{AgentId, Identity, NOT_THIS_NODE, UNRESOLVED},
    state::State,
};

impl Identity {
    fn node(&self) -> Node<'_> {
        Node {
            name: &self.name,
            role: (self.role != UNRESOLVED).then_some(&self.role),
            labels: &self.labels,
        }
    }
}

impl State {
    /// Returns true if an agent may be this node by the rules in force. `peer` is `None` if there are none.
    pub(super) fn may_be(&self, peer: Option<&KnownPeer>, identity: &Identity) -> bool {
        let Some(peer) = peer else {
            return true;
        };
        // The peer is as it was when its call began.
        let peer = self.access.recheck(peer.clone());
        peer.is_ok_and(|peer| peer.may_register(&identity.node()))
    }

    /// Returns true if a stream of this peer may be connected with an agent.
    pub(super) fn may_connect(&self, peer: Option<&KnownPeer>, id: &AgentId) -> bool {
        let Some(peer) = peer else {
            return true;
        };
        let is_owned = self.agents().is_owned(id, &peer.principal());
        let identity = self.agents().identity(id);
        // One principal may be many nodes, told apart by the claims of its tokens.
        is_owned && identity.is_some_and(|identity| self.may_be(Some(peer), &identity))
    }

    /// Takes the newer credentials of a heartbeat. Returns false if it has none.
    pub(super) fn renew(
        &self,
        id: &AgentId,
        credentials: &Credentials,
        heartbeat: &RegisterAgentRequest,
    ) -> Result<bool, Status> {
        let profile = heartbeat.profile.as_ref();
        let newer = profile.map_or("", |profile| &profile.authorization);
        if newer.is_empty() {
            return Ok(false);
        }
        let known = match credentials.renewable.with_newer(&self.access, newer) {
            Ok(Some(known)) => known,
            // The policy has ended with the proxy.
            Ok(None) => return Ok(false),
            Err(NotRenewed::Refused(cause)) => return Err(self.refuse(&cause)),
            Err(too_often @ NotRenewed::TooOften) => return Err(too_often.status()),
        };
        let identity = self.agents().identity(id);
        if !known.allows(Action::Register)
            || identity.is_some_and(|it| !known.may_register(&it.node()))
        {
            return Err(self.forbid());
        }
        credentials.renewable.replace(known);
        self.counters.renewals.add(1);
        Ok(true)
    }

    /// Resolves when the agent of a stream may not have it any more. A stream that is a part of a registration
    /// has its credentials, `renewed`, and any other has those of its `peer`.
    pub(super) async fn withdrawn(
        self: Arc<Self>,
        peer: KnownPeer,
        renewed: Option<watch::Receiver<KnownPeer>>,
        id: AgentId,
    ) -> Status {
        let followed = match renewed {
            Some(renewed) => self.access.follow_renewed(renewed),
            None => self.access.follow(peer),
        };
        let Some(mut followed) = followed else {
            return pending().await;
        };
        loop {
            if let Err(cause) = followed.changed().await {
                return self.refuse(&cause);
            }
            let identity = self.agents().identity(&id);
            // Without an agent there is nothing yet, or nothing any more, to be withdrawn.
            if identity.is_some_and(|it| !followed.peer().may_register(&it.node())) {
                return self.forbid();
            }
        }
    }

    /// Counts a stream that ends with its credentials, and returns its status.
    fn refuse(&self, cause: &Refused) -> Status {
        self.counters.refused_agents.add(cause.label());
        unauthenticated(cause)
    }

    /// Counts a stream of an agent that may not be its node, and returns its status.
    pub(super) fn forbid(&self) -> Status {
        self.counters.refused_agents.add("forbidden");
        Status::permission_denied(NOT_THIS_NODE)
    }
}
