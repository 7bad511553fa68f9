//! What holds between two steps, whatever happened.

use super::super::*;

impl Hub {
    /// Checks everything that is kept in two places against each other.
    pub(super) fn audit(&self) {
        let mut subscriptions = 0;
        for (id, stream) in &self.streams {
            subscriptions += stream.ids.len();
            for (name, key) in &stream.ids {
                let subscription = &self.subscriptions[key];
                assert_eq!((subscription.stream, &subscription.id), (*id, name));
                let owns = self.plain.get(name) == Some(key);
                assert_eq!(
                    owns,
                    !stream.peer.is_profile(),
                    "{name} in the plain namespace"
                );
            }
            self.audit_backlog(*id, stream);
            match &stream.peer {
                Peer::Profile(profile) => {
                    assert_eq!(self.sessions[&profile.session].stream, *id);
                }
                Peer::Unknown | Peer::Refused { .. } => assert!(stream.ids.is_empty()),
                Peer::Plain => {}
            }
            let refused = matches!(stream.peer, Peer::Refused { .. });
            assert_eq!(self.refused.contains(id), refused);
            if let Some(due) = stream.deadline(&self.limits) {
                let armed = stream.armed.expect("a deadline without a timer");
                assert!(armed <= due, "a timer after its deadline");
            }
        }
        assert_eq!(subscriptions, self.subscriptions.len());
        let profiles = self.streams.values().filter(|it| it.peer.is_profile());
        assert_eq!(profiles.count(), self.sessions.len());
        let armed = self.streams.values().filter(|it| it.armed.is_some());
        assert_eq!(armed.count(), self.agenda.len());
    }

    fn audit_backlog(&self, id: StreamId, stream: &Stream) {
        for key in stream.backlog.keys() {
            let subscription = &self.subscriptions[&key];
            assert_eq!(subscription.stream, id);
            if subscription.credit.is_open() {
                assert!(stream.backlog.is_ready(key), "credit without a reader");
            }
        }
        if let Some(lowest) = stream.backlog.lowest() {
            assert!(lowest < self.bounds.head, "behind nothing");
        }
        if stream.backlog.ready_count() > 0 && !stream.outbox.is_full() {
            assert_ne!(
                stream.reading,
                Reading::Idle,
                "nobody reads for stream {id:?}"
            );
        }
    }
}
