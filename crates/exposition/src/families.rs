//! What pages say of metric families.

use crate::{
    fault::Reason,
    format::{Kind, split_suffix},
    index::{self, Index},
    limits::{FAMILY_BYTES, Limits},
    sink::FamilyRef,
};

/// Names a family until a scrape finishes that does not speak of some family.
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

/// The family of samples of one name, for as long as nothing new is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// What was said last when it was asked for; zero if it never was.
    asked_at: u64,
    family: Option<FamilyId>,
}

/// All families that the last finished scrape or the current one speaks of.
#[derive(Debug, Default)]
pub(crate) struct Families {
    all: Vec<Family>,
    names: Index,
    /// Families that found no place in the index, by name.
    crowded: Vec<FamilyId>,
    /// The family that was spoken of last: what is said of one stands together, and so do its
    /// samples.
    latest: Option<FamilyId>,
    /// How many there were when the scrape began.
    before: usize,
    /// Families that the current scrape has spoken of, and the bytes of what it said.
    spoken: usize,
    spoken_bytes: usize,
    /// Counts scrapes, from 1.
    scrape: u32,
    /// Counts what was news, and what was forgotten.
    news: u64,
    /// Whether the current scrape said anything that the one before did not.
    changed: bool,
    /// Whether what families say is what the last finished scrape said. Not so after an abandoned
    /// one that said something else.
    settled: bool,
}

#[derive(Debug)]
struct Family {
    name: Box<str>,
    hash: u32,
    kind: Option<Kind>,
    help: Option<Box<str>>,
    unit: Option<Box<str>>,
    /// The scrape that last said each field.
    said: [u32; 3],
    /// An abandoned scrape said something of it that is taken back.
    doubtful: bool,
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

    fn held_bytes(&self) -> usize {
        let said = FIELDS.map(|field| self.text_bytes(field));
        self.name.len() + said.iter().sum::<usize>()
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
        self.before = self.all.len();
        self.spoken = 0;
        self.spoken_bytes = 0;
        self.latest = None;
    }

    /// Notes that a remembered line says again what it said. Whether that settles the matter: not
    /// if another line of the scrape spoke of the same, nor after an abandoned scrape.
    pub(crate) fn said_again(&mut self, id: FamilyId, field: Field, limits: &Limits) -> bool {
        let Some(family) = self.all.get(id.0 as usize) else {
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
        let (known, hash) = self.known(name);
        self.latest = known;
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
        let id = match known {
            Some(id) => id,
            None => self.create(name, hash, field, limits),
        };
        self.changed = true;
        self.news += 1;
        self.latest = Some(id);
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

    fn create(&mut self, name: &str, hash: u32, field: Field, limits: &Limits) -> FamilyId {
        let id = FamilyId(self.all.len() as u32);
        let mut family = Family {
            name: name.into(),
            hash,
            kind: None,
            help: None,
            unit: None,
            said: [0; 3],
            doubtful: false,
        };
        family.said[field as usize] = self.scrape;
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
            self.add_to_index(id, hash);
        }
        id
    }

    fn build_index(&mut self) {
        self.crowded.clear();
        self.names.reset(self.all.len() + 1);
        for number in 0..self.all.len() {
            let id = FamilyId(number as u32);
            self.add_to_index(id, self.family(id).hash);
        }
    }

    fn add_to_index(&mut self, id: FamilyId, hash: u32) {
        if !self.names.insert(hash, id.0) {
            let place = self.crowded_place(self.name(id));
            self.crowded.insert(place.unwrap_or_else(|free| free), id);
        }
    }

    fn crowded_place(&self, name: &str) -> Result<usize, usize> {
        let crowded = &self.crowded;
        crowded.binary_search_by(|id| self.name(*id).cmp(name))
    }

    /// The family of a name, and the name's hash unless it was not needed.
    fn known(&self, name: &str) -> (Option<FamilyId>, u32) {
        if let Some(id) = self.latest
            && self.name(id) == name
        {
            return (Some(id), 0);
        }
        let hash = index::hash(name.as_bytes());
        let found = self.names.candidates(hash).map(FamilyId);
        let found = found
            .filter(|id| self.family(*id).hash == hash)
            .find(|id| self.name(*id) == name)
            .or_else(|| self.crowded_place(name).ok().map(|at| self.crowded[at]));
        (found, hash)
    }

    fn name(&self, id: FamilyId) -> &str {
        &self.family(id).name
    }

    fn family(&self, id: FamilyId) -> &Family {
        self.all
            .get(id.0 as usize)
            .expect("an id is given out for a family that is there, and taken back with it")
    }

    fn family_mut(&mut self, id: FamilyId) -> &mut Family {
        self.all
            .get_mut(id.0 as usize)
            .expect("an id is given out for a family that is there, and taken back with it")
    }

    pub(crate) fn describe(&self, id: FamilyId) -> FamilyRef<'_> {
        self.family(id).describe()
    }

    /// The family a sample belongs to: the one of its own name, else one whose kind adds the
    /// suffix that the sample has. What was answered for its name before is asked for again only
    /// if something was said since.
    #[inline]
    pub(crate) fn of_sample<'a>(&'a self, sample: &'a str, answer: &mut Answer) -> FamilyRef<'a> {
        if answer.asked_at != self.news + 1 {
            *answer = Answer {
                asked_at: self.news + 1,
                family: self.find_for(sample),
            };
        }
        answer.family.map_or(
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
        self.known(sample).0.or_else(|| {
            let (base, _) = split_suffix(sample)?;
            let id = self.known(base).0?;
            let kind = self.family(id).kind.unwrap_or_default();
            kind.owns(base, sample).then_some(id)
        })
    }

    /// Forgets what the finished scrape did not say, and shows the families for which that made a
    /// difference. If any is not there any more, the others have new ids: what is returned tells
    /// them.
    pub(crate) fn finish(&mut self, mut show: impl FnMut(&FamilyRef<'_>)) -> Option<Renamed> {
        let (mut gone, mut forgot) = (false, false);
        for number in 0..self.all.len() {
            let scrape = self.scrape;
            let Some(family) = self.all.get_mut(number) else {
                break;
            };
            let mut lost = std::mem::take(&mut family.doubtful);
            for field in FIELDS {
                if family.said[field as usize] != scrape {
                    lost |= family.forget(field);
                }
            }
            gone |= !family.said.contains(&scrape);
            if lost {
                forgot = true;
                show(&family.describe());
            }
        }
        self.settled = true;
        self.latest = None;
        let renamed = gone.then(|| self.remove_gone());
        if forgot || gone {
            self.news += 1;
        }
        renamed
    }

    /// Drops the families of which nothing is said any more.
    fn remove_gone(&mut self) -> Renamed {
        let mut ids = Vec::with_capacity(self.all.len());
        let mut kept = 0;
        for number in 0..self.all.len() {
            ids.push(FamilyId(kept as u32));
            if self
                .family(FamilyId(number as u32))
                .said
                .contains(&self.scrape)
            {
                self.all.swap(number, kept);
                kept += 1;
            }
        }
        self.all.truncate(kept);
        self.all.shrink_to_fit();
        self.build_index();
        self.crowded.shrink_to_fit();
        Renamed { ids }
    }

    /// Takes back what the abandoned scrape said, if any of it was new.
    pub(crate) fn abandon(&mut self) {
        self.latest = None;
        if !self.changed {
            return;
        }
        self.settled = false;
        self.news += 1;
        if self.before < self.all.len() {
            self.all.truncate(self.before);
            self.all.shrink_to_fit();
            self.build_index();
        }
        for family in &mut self.all {
            for field in FIELDS {
                if family.said[field as usize] == self.scrape {
                    family.doubtful |= family.forget(field);
                }
            }
        }
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.all.iter().map(Family::held_bytes).sum::<usize>()
            + self.all.capacity() * size_of::<Family>()
            + self.names.held_bytes()
            + self.crowded.capacity() * size_of::<FamilyId>()
    }
}

/// New ids of families.
#[derive(Debug)]
pub(crate) struct Renamed {
    ids: Vec<FamilyId>,
}

impl Renamed {
    pub(crate) fn of(&self, id: FamilyId) -> FamilyId {
        self.ids.get(id.0 as usize).copied().unwrap_or(id)
    }
}

const FIELDS: [Field; 3] = [Field::Help, Field::Kind, Field::Unit];
