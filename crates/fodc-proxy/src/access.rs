//! The rights of agents, by the policy file (`docs/protocol-fodc.md`, R-113 to R-115).

use std::sync::Arc;

use steadfast_access::Node;
use steadfast_net::access::{FollowedPeer, KnownPeer, unauthenticated};
use tonic::Status;

use super::{
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

    /// Resolves when the agent of a stream may not have it any more.
    pub(super) async fn withdrawn(
        self: Arc<Self>,
        mut followed: FollowedPeer,
        id: AgentId,
    ) -> Status {
        loop {
            if let Err(cause) = followed.changed().await {
                self.counters.refused_agents.add(cause.label());
                return unauthenticated(&cause);
            }
            let identity = self.agents().identity(&id);
            // Without an agent there is nothing yet, or nothing any more, to be withdrawn.
            if identity.is_some_and(|it| !followed.peer().may_register(&it.node())) {
                self.counters.refused_agents.add("forbidden");
                return Status::permission_denied(NOT_THIS_NODE);
            }
        }
    }
}
