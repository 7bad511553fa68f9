//! The metric families of a page and the statements on them.

use crate::{
    fault::Reason,
    format::{Kind, split_suffix},
    index::{self, Index},
    limits::{FAMILY_BYTES, Limits},
    sink::FamilyRef,
};

/// Identifies a family until families are removed at the end of a scrape. The index in the list of
/// families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FamilyId(u32);

/// A field of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Help,
    Kind,
    Unit,
}

/// A statement on a family. Its text is a range of the line first, and then has its escapes resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Statement<T> {
    Help(T),
    Kind(Kind),
    Unit(T),
}

impl<T> Statement<T> {
    pub(crate) fn field(&self) -> Field {
        match self {
            Self::Help(_) => Field::Help,
            Self::Kind(_) => Field::Kind,
            Self::Unit(_) => Field::Unit,
        }
    }
}

/// The families that the last finished scrape or the current one states.
///
/// A field that a scrape states for the first time counts; a contradiction later in the scrape is a
/// fault. When a scrape finishes, fields that it did not state are removed.
#[derive(Debug, Default)]
pub(crate) struct Families {
    all: Vec<Family>,
    names: Index,
    /// The families for which the index has no slot, sorted by name.
    unindexed: Vec<FamilyId>,
    /// The family that was stated or looked up last. Statements and samples of a family are adjacent.
    latest: Option<FamilyId>,
    /// The number of families at the start of the scrape.
    count_before: usize,
    /// The number of families that the current scrape has stated.
    stated: usize,
    /// The bytes of their names and texts.
    stated_bytes: usize,
    /// The number of the current scrape, from 1.
    scrape: u32,
    /// The current scrape has stated something that the one before did not.
    changed: bool,
    /// The families are those of the last finished scrape. False after an abandoned scrape that
    /// stated something else.
    consistent: bool,
}

#[derive(Debug)]
struct Family {
    name: Box<str>,
    kind: Option<Kind>,
    help: Option<Box<str>>,
    unit: Option<Box<str>>,
    /// The last scrape that stated each field.
    stated_in: [u32; 3],
    /// A field that an abandoned scrape stated was removed, and the sink does not know that yet.
    reverted: bool,
}

// A list of families that grows exists twice. Each family also has two slots of the index or one in
// the list of those that have none, and a new id when families are removed.
const _: () = assert!(2 * size_of::<Family>() + 32 <= FAMILY_BYTES);

/// The least capacity of the list of families.
const FAMILIES_MIN: usize = 16;

impl Family {
    fn describe(&self) -> FamilyRef<'_> {
        FamilyRef {
            name: &self.name,
            kind: self.kind,
            help: self.help.as_deref(),
            unit: self.unit.as_deref(),
        }
    }

    fn has(&self, statement: Statement<&str>) -> bool {
        match statement {
            Statement::Help(help) => self.help.as_deref() == Some(help),
            Statement::Kind(kind) => self.kind == Some(kind),
            Statement::Unit(unit) => self.unit.as_deref() == Some(unit),
        }
    }

    /// Returns the bytes of text held for a field.
    fn text_bytes(&self, field: Field) -> usize {
        match field {
            Field::Help => self.help.as_deref().map_or(0, str::len),
            Field::Kind => 0,
            Field::Unit => self.unit.as_deref().map_or(0, str::len),
        }
    }

    fn held_bytes(&self) -> usize {
        let texts = FIELDS.map(|field| self.text_bytes(field));
        self.name.len() + texts.iter().sum::<usize>()
    }

    /// Removes a field. Returns true if it was stated.
    fn remove(&mut self, field: Field) -> bool {
        match field {
            Field::Help => self.help.take().is_some(),
            Field::Kind => self.kind.take().is_some(),
            Field::Unit => self.unit.take().is_some(),
        }
    }
}

impl Families {
    pub(crate) fn begin(&mut self) {
        self.scrape += 1;
        self.changed = false;
        self.count_before = self.all.len();
        self.stated = 0;
        self.stated_bytes = 0;
        self.latest = None;
    }

    /// Notes that a remembered line repeats its statement. Returns false if the line must be parsed
    /// instead: after an abandoned scrape, or if this scrape has already stated the field.
    pub(crate) fn repeat(&mut self, id: FamilyId, field: Field, limits: &Limits) -> bool {
        let family = self.family(id);
        let bytes = family.text_bytes(field);
        self.consistent
            && family.stated_in[field as usize] != self.scrape
            && self.count(Some(id), 0, field, bytes, limits).is_ok()
    }

    /// Applies a statement. Returns the family, and true if the statement changed it.
    ///
    /// # Errors
    ///
    /// The reason for rejecting the line: a contradiction or a limit.
    pub(crate) fn state(
        &mut self,
        name: &str,
        statement: Statement<&str>,
        limits: &Limits,
    ) -> Result<(FamilyId, bool), Reason> {
        let field = statement.field();
        let known = self.known(name);
        self.latest = known;
        let same = known.is_some_and(|id| self.family(id).has(statement));
        if let Some(id) = known
            && self.family(id).stated_in[field as usize] == self.scrape
        {
            // A repetition is harmless. Of two contradicting statements only the first can count.
            return if same {
                Ok((id, false))
            } else {
                Err(Reason::ConflictingMetadata)
            };
        }
        let bytes = match statement {
            Statement::Help(text) | Statement::Unit(text) => text.len(),
            Statement::Kind(_) => 0,
        };
        // Before anything is stored, so that a rejected line holds no memory.
        self.count(known, name.len(), field, bytes, limits)?;
        if let Some(id) = known
            && same
        {
            return Ok((id, false));
        }
        let id = match known {
            Some(id) => id,
            None => self.create(name, field, limits),
        };
        self.changed = true;
        self.latest = Some(id);
        let family = self.family_mut(id);
        match statement {
            Statement::Help(help) => family.help = Some(help.into()),
            Statement::Kind(kind) => family.kind = Some(kind),
            Statement::Unit(unit) => family.unit = Some(unit.into()),
        }
        Ok((id, true))
    }

    /// Counts a statement of the current scrape against the limits, and marks a known family as
    /// stated. Earlier scrapes do not count: what is remembered must not change the result.
    fn count(
        &mut self,
        known: Option<FamilyId>,
        name_bytes: usize,
        field: Field,
        text_bytes: usize,
        limits: &Limits,
    ) -> Result<(), Reason> {
        let (first, name_bytes) = match known {
            Some(id) => {
                let family = self.family(id);
                (!family.stated_in.contains(&self.scrape), family.name.len())
            }
            None => (true, name_bytes),
        };
        let bytes = self.stated_bytes + text_bytes + if first { name_bytes } else { 0 };
        if first && self.stated >= limits.families || bytes > limits.metadata_bytes {
            return Err(Reason::TooMuchMetadata);
        }
        self.stated += usize::from(first);
        self.stated_bytes = bytes;
        if let Some(id) = known {
            self.all[id.0 as usize].stated_in[field as usize] = self.scrape;
        }
        Ok(())
    }

    fn create(&mut self, name: &str, field: Field, limits: &Limits) -> FamilyId {
        let id = FamilyId(self.all.len() as u32);
        let mut family = Family {
            name: name.into(),
            kind: None,
            help: None,
            unit: None,
            stated_in: [0; 3],
            reverted: false,
        };
        family.stated_in[field as usize] = self.scrape;
        if self.all.len() == self.all.capacity() {
            // At most the families of the last scrape and those of this one.
            let most = (2 * limits.families).max(self.all.len() + 1);
            let capacity = (2 * self.all.len()).clamp(FAMILIES_MIN.min(most), most);
            self.all.reserve_exact(capacity - self.all.len());
        }
        self.all.push(family);
        if self.names.is_full(self.all.len()) {
            self.build_index();
        } else {
            self.add_to_index(id);
        }
        id
    }

    fn build_index(&mut self) {
        self.unindexed.clear();
        self.names.reset(self.all.len() + 1);
        for number in 0..self.all.len() {
            self.add_to_index(FamilyId(number as u32));
        }
    }

    fn add_to_index(&mut self, id: FamilyId) {
        if !self
            .names
            .insert(index::hash(self.name(id).as_bytes()), id.0)
        {
            // A linear list would let a page with constructed collisions cost quadratic time.
            let (Ok(position) | Err(position)) = self.unindexed_position(self.name(id));
            self.unindexed.insert(position, id);
        }
    }

    fn unindexed_position(&self, name: &str) -> Result<usize, usize> {
        let unindexed = &self.unindexed;
        unindexed.binary_search_by(|id| self.name(*id).cmp(name))
    }

    /// Finds a family by name.
    fn known(&self, name: &str) -> Option<FamilyId> {
        // Statements and samples of a family mostly follow each other, and need no hash.
        if self.latest.is_some_and(|id| self.name(id) == name) {
            return self.latest;
        }
        let indexed = self.names.candidates(index::hash(name.as_bytes()));
        let found = indexed.map(FamilyId).find(|id| self.name(*id) == name);
        found.or_else(|| {
            let at = self.unindexed_position(name).ok()?;
            Some(self.unindexed[at])
        })
    }

    fn name(&self, id: FamilyId) -> &str {
        &self.family(id).name
    }

    fn family(&self, id: FamilyId) -> &Family {
        &self.all[id.0 as usize]
    }

    fn family_mut(&mut self, id: FamilyId) -> &mut Family {
        &mut self.all[id.0 as usize]
    }

    pub(crate) fn describe(&self, id: FamilyId) -> FamilyRef<'_> {
        self.family(id).describe()
    }

    /// Returns the family of a sample: the family with the sample's name, else the one whose kind
    /// has the sample's suffix.
    pub(crate) fn of_sample<'a>(&'a self, sample: &'a str) -> FamilyRef<'a> {
        self.find_for(sample).map_or(
            FamilyRef {
                name: sample,
                kind: None,
                help: None,
                unit: None,
            },
            |id| self.describe(id),
        )
    }

    fn find_for(&self, sample: &str) -> Option<FamilyId> {
        self.known(sample).or_else(|| {
            let (base, _) = split_suffix(sample)?;
            let id = self.known(base)?;
            let kind = self.family(id).kind.unwrap_or_default();
            kind.owns(base, sample).then_some(id)
        })
    }

    /// Removes the fields that the finished scrape did not state, and reports the families that
    /// changed. Returns the new ids of the families, if any was removed.
    pub(crate) fn finish(&mut self, mut report: impl FnMut(&FamilyRef<'_>)) -> Option<NewIds> {
        let mut any_unstated = false;
        for family in &mut self.all {
            // The sink still has what an abandoned scrape stated.
            let mut lost = std::mem::take(&mut family.reverted);
            for field in FIELDS {
                if family.stated_in[field as usize] != self.scrape {
                    lost |= family.remove(field);
                }
            }
            any_unstated |= !family.stated_in.contains(&self.scrape);
            if lost {
                report(&family.describe());
            }
        }
        self.consistent = true;
        self.latest = None;
        // Most scrapes lose no family, and new ids cost a pass over all remembered lines.
        any_unstated.then(|| self.remove_unstated())
    }

    /// Removes the families that the scrape did not state.
    fn remove_unstated(&mut self) -> NewIds {
        let mut ids = Vec::with_capacity(self.all.len());
        let mut kept = 0;
        for number in 0..self.all.len() {
            ids.push(FamilyId(kept as u32));
            if self.all[number].stated_in.contains(&self.scrape) {
                self.all.swap(number, kept);
                kept += 1;
            }
        }
        self.all.truncate(kept);
        self.all.shrink_to_fit();
        self.build_index();
        self.unindexed.shrink_to_fit();
        NewIds { ids }
    }

    /// Removes the fields that the abandoned scrape stated, if any of them was new.
    ///
    /// The previous values are gone. `consistent` is therefore cleared, which makes the next scrape
    /// parse every statement.
    pub(crate) fn abandon(&mut self) {
        self.latest = None;
        if !self.changed {
            return;
        }
        self.consistent = false;
        // Families that are new in a scrape are the last ones of the list.
        if self.count_before < self.all.len() {
            self.all.truncate(self.count_before);
            self.all.shrink_to_fit();
            self.build_index();
        }
        for family in &mut self.all {
            for field in FIELDS {
                if family.stated_in[field as usize] == self.scrape {
                    family.reverted |= family.remove(field);
                }
            }
        }
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.all.iter().map(Family::held_bytes).sum::<usize>()
            + self.all.capacity() * size_of::<Family>()
            + self.names.held_bytes()
            + self.unindexed.capacity() * size_of::<FamilyId>()
    }
}

/// The new ids of families, by old id.
#[derive(Debug)]
pub(crate) struct NewIds {
    ids: Vec<FamilyId>,
}

impl NewIds {
    pub(crate) fn of(&self, id: FamilyId) -> FamilyId {
        self.ids.get(id.0 as usize).copied().unwrap_or(id)
    }
}

const FIELDS: [Field; 3] = [Field::Help, Field::Kind, Field::Unit];
