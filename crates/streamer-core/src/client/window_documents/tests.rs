//! Windows against a sorted list, over random items.

use bytes::Bytes;
use proptest::{prelude::*, test_runner::Config};

use super::*;
use crate::{Direction, Epoch, Position, client::LiveDocuments};

const ID: SubscriptionId = SubscriptionId(1);

/// A document `d<id>` with a value, or its departure.
#[derive(Clone, Copy, Debug)]
enum Op {
    Set { id: u8, value: i64 },
    Leave { id: u8 },
    Delete { id: u8 },
}

fn change(id: u8, value: i64, number: u64) -> Change {
    Change {
        position: Some(Position::new(Epoch(1), number)),
        event_id: number.to_string().into(),
        database: "d".into(),
        collection: "c".into(),
        document_id: format!("d{id:03}").into(),
        operation: Operation::Update,
        data: format!(r#"{{"v":{value}}}"#).into(),
        timestamp: 0,
    }
}

/// The server and the collection behind a window, as far as this client needs them.
struct Rig {
    window: Window,
    collection: BTreeMap<u8, (i64, Change)>,
    documents: WindowDocuments,
    /// A list of ids and events that only follows the updates.
    mirror: Vec<(Arc<str>, Arc<str>)>,
    bound: Option<Place>,
    snapshots: u64,
    number: u64,
    refills: u32,
}

impl Rig {
    fn new(window: Window) -> Self {
        Self {
            documents: WindowDocuments::new(window.clone()),
            window,
            collection: BTreeMap::new(),
            mirror: Vec::new(),
            bound: None,
            snapshots: 0,
            number: 0,
            refills: 0,
        }
    }

    fn ordered(&self) -> Vec<&Change> {
        let mut ordered: Vec<_> = self.collection.iter().collect();
        let descending = self.window.direction == Direction::Descending;
        ordered.sort_by_key(|(id, (value, _))| (if descending { -*value } else { *value }, **id));
        ordered.into_iter().map(|(_, (_, change))| change).collect()
    }

    fn snapshot(&mut self) {
        let ordered: Vec<_> = self.ordered().into_iter().cloned().collect();
        let sent = &ordered[..ordered.len().min(self.window.capacity())];
        let is_cut = sent.len() < ordered.len();
        let last = sent.last().filter(|_| is_cut);
        self.bound = last.map(|last| self.documents.place(last));
        self.snapshots += 1;
        let bound = Snapshot::Bound {
            number: self.snapshots,
            bound: self.bound.clone(),
        };
        let documents = sent.iter().cloned().map(Snapshot::Document);
        let at = Position::new(Epoch(1), self.number);
        let end = Snapshot::End(at);
        for item in [Snapshot::Begin { follows: at }, bound]
            .into_iter()
            .chain(documents)
            .chain([end])
        {
            self.apply(Item::Snapshot(item));
        }
    }

    fn op(&mut self, op: Op) {
        self.number += 1;
        let item = match op {
            Op::Set { id, value } => {
                let change = change(id, value, self.number);
                self.collection.insert(id, (value, change.clone()));
                let place = self.documents.place(&change);
                if self.bound.as_ref().is_none_or(|bound| place <= *bound) {
                    Item::Change(change)
                } else {
                    Item::Left(change)
                }
            }
            Op::Leave { id } => {
                self.collection.remove(&id);
                Item::Left(change(id, 0, self.number))
            }
            Op::Delete { id } => {
                self.collection.remove(&id);
                Item::Change(Change {
                    operation: Operation::Delete,
                    ..change(id, 0, self.number)
                })
            }
        };
        self.apply(item);
        match self.documents.take_command(ID) {
            None => {}
            Some(Command::Narrow {
                bound, snapshot, ..
            }) => {
                assert_eq!(snapshot, self.snapshots);
                assert!(self.bound.as_ref().is_none_or(|before| bound < *before));
                self.bound = Some(bound);
            }
            Some(Command::Refill { snapshot, .. }) => {
                assert_eq!(snapshot, self.snapshots);
                assert_eq!(self.documents.take_command(ID), None, "asked for twice");
                assert!(!self.documents.is_whole());
                self.refills += 1;
                self.snapshot();
            }
            Some(other) => panic!("{other:?}"),
        }
        assert!(self.documents.is_whole());
    }

    fn apply(&mut self, item: Item) {
        for update in self.documents.apply(item) {
            // `None` only if a later update removes it again.
            let told = self.documents.document(&update);
            let event = told.map_or_else(Arc::default, |it| Arc::clone(&it.event_id));
            match update {
                WindowUpdate::Entered { id, index } => self.mirror.insert(index, (id, event)),
                WindowUpdate::Changed { id, index } => {
                    assert_eq!(self.mirror[index].0, id);
                    self.mirror[index].1 = event;
                }
                WindowUpdate::Moved { id, from, to } => {
                    assert_eq!(self.mirror.remove(from).0, id);
                    assert_ne!(from, to);
                    self.mirror.insert(to, (id, event));
                }
                WindowUpdate::Left { id, index } => assert_eq!(self.mirror.remove(index).0, id),
                WindowUpdate::Whole => assert!(self.documents.is_whole()),
            }
        }
        let shown: Vec<_> = self
            .documents
            .iter()
            .map(|it| (Arc::clone(&it.document_id), Arc::clone(&it.event_id)))
            .collect();
        assert_eq!(self.mirror, shown, "the updates tell everything");
        if self.documents.is_whole() {
            let ordered = self.ordered();
            let first = &ordered[..ordered.len().min(self.window.limit as usize)];
            assert!(self.documents.iter().eq(first.iter().copied()), "{first:?}");
        }
        let most = self.window.limit + 2 * self.window.reserve.max(1);
        assert!(self.documents.kept() <= most as usize);
        let places = self.documents.held.places.len();
        assert_eq!(places, self.documents.kept(), "a place without a document");
    }
}

proptest! {
    #![proptest_config(Config::with_cases(512))]

    #[test]
    fn a_window_shows_the_first_documents_after_every_item(
        ops in prop::collection::vec(prop_oneof![
            6 => (0..24_u8, 0..9_i64).prop_map(|(id, value)| Op::Set { id, value }),
            2 => (0..24_u8).prop_map(|id| Op::Leave { id }),
            1 => (0..24_u8).prop_map(|id| Op::Delete { id }),
        ], 0..200),
        before in 0..60_usize,
        limit in 1..6_u32,
        reserve in 0..5_u32,
        descending: bool,
    ) {
        let direction = if descending { Direction::Descending } else { Direction::Ascending };
        let mut rig = Rig::new(Window { reserve, ..Window::new("v", direction, limit) });
        for (at, op) in ops.into_iter().enumerate() {
            if at < before {
                if let Op::Set { id, value } = op {
                    rig.number += 1;
                    rig.collection.insert(id, (value, change(id, value, rig.number)));
                }
                continue;
            }
            if rig.snapshots == 0 {
                rig.snapshot();
            }
            rig.op(op);
        }
    }
}

#[test]
fn nothing_is_shown_while_too_few_documents_are_left() {
    let mut rig = Rig::new(Window {
        reserve: 1,
        ..Window::new("v", Direction::Ascending, 2)
    });
    for id in 0..9 {
        rig.collection
            .insert(id, (id.into(), change(id, id.into(), 1)));
    }
    rig.snapshot();
    let shown = |rig: &Rig| {
        rig.documents
            .iter()
            .map(|it| it.document_id.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(shown(&rig), ["d000", "d001"]);
    // The reserve takes the place of the first that leaves.
    let left = |id| Item::Left(change(id, 0, 2));
    rig.collection.remove(&0);
    rig.apply(left(0));
    assert_eq!(shown(&rig), ["d001", "d002"]);
    assert_eq!(rig.documents.take_command(ID), None);
    // The second one leaves nothing to show in its place.
    assert_eq!(rig.documents.apply(left(1)), []);
    assert_eq!(
        shown(&rig),
        ["d001", "d002"],
        "what is shown is of one position"
    );
    assert!(!rig.documents.is_whole());
    let refill = Command::Refill {
        id: ID,
        snapshot: 1,
    };
    assert_eq!(rig.documents.take_command(ID), Some(refill));
}

#[test]
fn kept_documents_do_not_hold_what_was_received() {
    let received = Bytes::from(vec![b' '; 10_000]);
    let change = || Change {
        data: received.slice(..2),
        ..change(1, 1, 1)
    };
    let window = Window::new("v", Direction::Ascending, 3);
    let (mut first, mut all) = (WindowDocuments::new(window), LiveDocuments::default());
    let at = Position::new(Epoch(1), 1);
    for item in [
        Item::Snapshot(Snapshot::Begin { follows: at }),
        Item::Snapshot(Snapshot::Document(change())),
        Item::Change(change()),
        Item::Snapshot(Snapshot::End(at)),
        Item::Change(change()),
    ] {
        first.apply(item.clone());
        all.apply(item);
    }
    assert_eq!((first.kept(), all.len()), (1, 1));
    assert!(received.is_unique());
}
