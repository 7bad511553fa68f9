//! What pages say of metric families.

use std::collections::BTreeMap;

use crate::{
    fault::Reason,
    format::{Kind, split_suffix},
    limits::Limits,
    sink::FamilyRef,
};

/// Names a family for as long as scrapes speak of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FamilyId(u32);

/// One thing said of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Help,
    Kind,
    Unit,
}

/// A statement, resolved.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Statement<'a> {
    Help(&'a str),
    Kind(Kind),
    Unit(&'a str),
}

impl Statement<'_> {
    pub(crate) fn field(self) -> Field {
        match self {
            Self::Help(_) => Field::Help,
            Self::Kind(_) => Field::Kind,
            Self::Unit(_) => Field::Unit,
        }
    }
}

/// All families that the last finished scrape or the current one speaks of.
#[derive(Debug, Default)]
pub(crate) struct Families {
    by_name: BTreeMap<Box<str>, FamilyId>,
    all: Vec<Option<Family>>,
    free: Vec<FamilyId>,
    /// Families that the current scrape has spoken of, and the bytes of what it said.
    spoken: usize,
    spoken_bytes: usize,
    /// Counts scrapes, from 1.
    scrape: u64,
    /// Whether the current scrape said anything that the one before did not.
    changed: bool,
    /// Whether what families say is what the last finished scrape said. Not so after an abandoned
    /// one that said something else.
    settled: bool,
    /// The sample of which the family was last asked for: those of one name follow each other.
    /// Empty if the answer does not hold any more.
    asked: String,
    answer: Option<FamilyId>,
}

#[derive(Debug, Default)]
struct Family {
    name: Box<str>,
    kind: Option<Kind>,
    help: Option<Box<str>>,
    unit: Option<Box<str>>,
    /// The scrape that last said each field.
    said: [u64; 3],
    created: u64,
    /// An abandoned scrape said something of it that is taken back.
    doubtful: bool,
}

impl Family {
    fn describe(&self) -> FamilyRef<'_> {
        FamilyRef {
            name: &self.name,
            kind: self.kind,
            help: self.help.as_deref(),
            unit: self.unit.as_deref(),
        }
    }

    fn says(&self, statement: Statement<'_>) -> bool {
        match statement {
            Statement::Help(help) => self.help.as_deref() == Some(help),
            Statement::Kind(kind) => self.kind == Some(kind),
            Statement::Unit(unit) => self.unit.as_deref() == Some(unit),
        }
    }

    /// Bytes of texts held for a field.
    fn text_bytes(&self, field: Field) -> usize {
        match field {
            Field::Help => self.help.as_deref().map_or(0, str::len),
            Field::Kind => 0,
            Field::Unit => self.unit.as_deref().map_or(0, str::len),
        }
    }

    fn forget(&mut self, field: Field) -> bool {
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
        self.spoken = 0;
        self.spoken_bytes = 0;
    }

    /// Notes that a remembered line says again what it said. Whether that settles the matter: not
    /// if another line of the scrape spoke of the same, nor after an abandoned scrape.
    pub(crate) fn said_again(&mut self, id: FamilyId, field: Field, limits: &Limits) -> bool {
        let Some(Some(family)) = self.all.get(id.0 as usize) else {
            return false;
        };
        let bytes = family.text_bytes(field);
        self.settled
            && family.said[field as usize] != self.scrape
            && self.speak(Some(id), 0, field, bytes, limits).is_ok()
    }

    /// Takes a statement, and says whether it is news.
    pub(crate) fn state(
        &mut self,
        name: &str,
        statement: Statement<'_>,
        limits: &Limits,
    ) -> Result<(FamilyId, bool), Reason> {
        let field = statement.field();
        let known = self.by_name.get(name).copied();
        let same = known.is_some_and(|id| self.family(id).says(statement));
        if let Some(id) = known
            && self.family(id).said[field as usize] == self.scrape
        {
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
        self.speak(known, name.len(), field, bytes, limits)?;
        if let Some(id) = known
            && same
        {
            return Ok((id, false));
        }
        self.changed = true;
        self.asked.clear();
        let id = known.unwrap_or_else(|| self.create(name, field));
        let family = self.family_mut(id);
        match statement {
            Statement::Help(help) => family.help = Some(help.into()),
            Statement::Kind(kind) => family.kind = Some(kind),
            Statement::Unit(unit) => family.unit = Some(unit.into()),
        }
        Ok((id, true))
    }

    /// Counts a statement of the current scrape against the limits, which know nothing of the
    /// scrapes before, and stamps the family if it is known.
    fn speak(
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
                (!family.said.contains(&self.scrape), family.name.len())
            }
            None => (true, name_bytes),
        };
        let bytes = self.spoken_bytes + text_bytes + if first { name_bytes } else { 0 };
        if first && self.spoken >= limits.families || bytes > limits.metadata_bytes {
            return Err(Reason::TooMuchMetadata);
        }
        self.spoken += usize::from(first);
        self.spoken_bytes = bytes;
        if let Some(id) = known {
            let scrape = self.scrape;
            self.family_mut(id).said[field as usize] = scrape;
        }
        Ok(())
    }

    fn create(&mut self, name: &str, field: Field) -> FamilyId {
        let mut family = Family {
            name: name.into(),
            created: self.scrape,
            ..Family::default()
        };
        family.said[field as usize] = self.scrape;
        let id = if let Some(id) = self.free.pop() {
            self.all[id.0 as usize] = Some(family);
            id
        } else {
            self.all.push(Some(family));
            FamilyId((self.all.len() - 1) as u32)
        };
        self.by_name.insert(name.into(), id);
        id
    }

    fn family(&self, id: FamilyId) -> &Family {
        self.all[id.0 as usize]
            .as_ref()
            .expect("an id is given out for a family that is there, and taken back with it")
    }

    fn family_mut(&mut self, id: FamilyId) -> &mut Family {
        self.all[id.0 as usize]
            .as_mut()
            .expect("an id is given out for a family that is there, and taken back with it")
    }

    pub(crate) fn describe(&self, id: FamilyId) -> FamilyRef<'_> {
        self.family(id).describe()
    }

    /// The family a sample belongs to: the one of its own name, else one whose kind adds the
    /// suffix that the sample has.
    pub(crate) fn of_sample<'a>(&'a mut self, sample: &'a str) -> FamilyRef<'a> {
        if self.asked != sample {
            self.answer = self.find_for(sample);
            self.asked.clear();
            self.asked.push_str(sample);
        }
        self.answer.map_or(
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
        self.by_name.get(sample).copied().or_else(|| {
            let (base, _) = split_suffix(sample)?;
            let id = *self.by_name.get(base)?;
            let kind = self.family(id).kind.unwrap_or_default();
            kind.owns(base, sample).then_some(id)
        })
    }

    /// Forgets what the finished scrape did not say, and shows the families for which that made a
    /// difference.
    pub(crate) fn finish(&mut self, mut show: impl FnMut(&FamilyRef<'_>)) {
        self.asked.clear();
        for index in 0..self.all.len() {
            let Some(family) = &mut self.all[index] else {
                continue;
            };
            let mut lost = std::mem::take(&mut family.doubtful);
            for field in FIELDS {
                if family.said[field as usize] != self.scrape {
                    lost |= family.forget(field);
                }
            }
            if lost {
                show(&family.describe());
            }
            if !family.said.contains(&self.scrape) {
                self.remove(index);
            }
        }
        self.settled = true;
    }

    /// Takes back what the abandoned scrape said, if any of it was new.
    pub(crate) fn abandon(&mut self) {
        if !self.changed {
            return;
        }
        self.settled = false;
        self.asked.clear();
        for index in 0..self.all.len() {
            let Some(family) = &mut self.all[index] else {
                continue;
            };
            if family.created == self.scrape {
                self.remove(index);
                continue;
            }
            for field in FIELDS {
                if family.said[field as usize] == self.scrape {
                    family.doubtful |= family.forget(field);
                }
            }
        }
    }

    fn remove(&mut self, index: usize) {
        if let Some(family) = self.all[index].take() {
            self.by_name.remove(&family.name);
            self.free.push(FamilyId(index as u32));
        }
    }

    /// Bytes held, about.
    pub(crate) fn held_bytes(&self) -> usize {
        // A name stands in the index too, with its id and a share of a tree's node.
        let texts: usize = self
            .all
            .iter()
            .flatten()
            .map(|family| {
                2 * family.name.len()
                    + 64
                    + FIELDS
                        .map(|field| family.text_bytes(field))
                        .iter()
                        .sum::<usize>()
            })
            .sum();
        texts
            + self.asked.capacity()
            + self.all.capacity() * size_of::<Option<Family>>()
            + self.free.capacity() * size_of::<FamilyId>()
    }
}

const FIELDS: [Field; 3] = [Field::Help, Field::Kind, Field::Unit];
