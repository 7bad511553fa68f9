//! The indices of fields and groups within their collection.

/// The index of a field within its collection. It may be given out again once no filter names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct FieldId(u32);

/// The index of a group within its collection. It may be given out again once the group is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GroupId(u32);

/// A group as it stands in a posting or an interval: its id, and whether it has no conditions but
/// those that it is listed under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry(u32);

impl FieldId {
    /// The root of the tree of paths.
    pub(super) const ROOT: Self = Self(0);

    pub(super) fn new(index: usize) -> Self {
        // Each path has a condition, and those fill memory before there are 2^32 of them.
        Self(index as u32)
    }

    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

impl GroupId {
    pub(super) fn new(index: usize) -> Self {
        // The upper bits belong to `Entry` and `Slot`. 2^30 groups have 100 bytes each and fill
        // memory first.
        debug_assert!(index < 1 << 30, "too many groups in one collection");
        Self(index as u32)
    }

    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

impl Entry {
    const SOLE: u32 = 1 << 31;

    /// A bit that no entry has.
    pub(super) const UNUSED: u32 = 1 << 30;

    pub(super) fn new(group: GroupId, sole: bool) -> Self {
        Self(group.0 | if sole { Self::SOLE } else { 0 })
    }

    pub(super) fn bits(self) -> u32 {
        self.0
    }

    pub(super) fn of_bits(bits: u32) -> Self {
        Self(bits)
    }

    pub(super) fn group(self) -> GroupId {
        GroupId(self.0 & !Self::SOLE)
    }

    /// Returns whether whatever satisfies the access satisfies the whole filter.
    pub(super) fn is_sole(self) -> bool {
        self.0 & Self::SOLE != 0
    }

    /// Returns the entry as one whose conditions must be evaluated.
    pub(super) fn uncertain(self) -> Self {
        Self(self.0 & !Self::SOLE)
    }
}

/// The list of a collection that a subscription is in, in 4 bytes: there are as many as subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(u32);

/// What a [`Slot`] stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum SlotKind {
    /// The subscriptions of the whole collection.
    Whole,
    /// The subscriptions of the document with this index.
    Document(usize),
    /// The subscriptions of a group.
    Group(GroupId),
}

impl Slot {
    pub(super) const WHOLE: Self = Self(u32::MAX);
    const DOCUMENT: u32 = 1 << 31;

    pub(super) fn document(index: usize) -> Self {
        debug_assert!(index < 1 << 30, "too many documents in one collection");
        Self(index as u32 | Self::DOCUMENT)
    }

    pub(super) fn group(group: GroupId) -> Self {
        Self(group.0)
    }

    pub(super) fn kind(self) -> SlotKind {
        match self.0 {
            u32::MAX => SlotKind::Whole,
            index if index & Self::DOCUMENT != 0 => {
                SlotKind::Document((index & !Self::DOCUMENT) as usize)
            }
            group => SlotKind::Group(GroupId(group)),
        }
    }
}

impl SlotKind {
    /// Returns the place of this kind among the subscriptions found for an event.
    pub(super) fn rank(self) -> u8 {
        match self {
            Self::Document(_) => 0,
            Self::Whole => 1,
            Self::Group(_) => 2,
        }
    }
}
