//! Reading heads back: what each frame says is put together as the recorder had it.

use crate::{
    bytes::{Input, Malformed},
    error::{Damage, DamageKind},
    frame::{FileKind, Frames, Header},
    options::SOURCES_MAX,
    part::Tracks,
    recorder::{MISSED, NAMES, SCRAPE},
    rows::{Event, GROUP, GroupState, read_row},
    track::{Scraped, Track},
};

/// What a head's file says.
#[derive(Debug)]
pub(crate) struct Replayed {
    pub(crate) header: Header,
    /// How many blocks of the catalog it needs.
    pub(crate) names: u64,
    pub(crate) tracks: Tracks,
    /// Per source, how its groups were at its last scrape that succeeded.
    pub(crate) states: Vec<SourceState>,
    /// Length of what is whole.
    pub(crate) good: u64,
    pub(crate) damage: Option<Damage>,
}

/// One source at the end of a head.
#[derive(Debug, Default)]
pub(crate) struct SourceState {
    pub(crate) groups: Vec<GroupState>,
    pub(crate) stamps: Vec<(u32, i64)>,
}

/// Reads a head's file as far as it is good.
pub(crate) fn read_head(id: u64, bytes: &[u8]) -> Result<Replayed, Damage> {
    let header = Header::read(bytes, FileKind::Head, id).map_err(|kind: DamageKind| Damage {
        file: FileKind::Head.name(id),
        offset: 0,
        kind,
    })?;
    let mut replayed = Replayed {
        header,
        names: 0,
        tracks: Vec::new(),
        states: Vec::new(),
        good: 0,
        damage: None,
    };
    let mut frames = Frames::new(FileKind::Head, id, bytes);
    while let Some(payload) = frames.next() {
        if replayed.apply(payload).is_err() {
            frames.reject(payload);
        }
    }
    (replayed.good, replayed.damage) = (frames.good(), frames.damage());
    Ok(replayed)
}

impl Replayed {
    fn apply(&mut self, payload: &[u8]) -> Result<(), Malformed> {
        let mut input = Input::new(payload);
        let kind = input.byte()?;
        if kind & NAMES != 0 {
            self.names = input.varint()?;
        }
        let source = input.count_up_to(SOURCES_MAX - 1)?;
        let step = input.signed()?;
        if source >= self.tracks.len() {
            self.tracks.resize_with(source + 1, || None);
            self.states.resize_with(source + 1, SourceState::default);
        }
        let (slot, state) = (&mut self.tracks[source], &mut self.states[source]);
        let before = slot
            .as_ref()
            .and_then(|track| track.times.last())
            .unwrap_or_default();
        let time = before.wrapping_add(step);
        match kind & !NAMES {
            SCRAPE => read_scrape(&mut input, slot, state, time)?,
            MISSED => slot
                .get_or_insert_default()
                .push(Scraped { time, missed: true }),
            _ => return Err(Malformed),
        }
        if input.is_empty() {
            Ok(())
        } else {
            Err(Malformed)
        }
    }
}

fn read_scrape(
    input: &mut Input<'_>,
    slot: &mut Option<Track>,
    state: &mut SourceState,
    time: i64,
) -> Result<(), Malformed> {
    let begun = slot.as_ref().map_or(0, Track::groups);
    // A row is a byte at least.
    let groups = input.count_up_to(input.len())?;
    if groups < begun {
        return Err(Malformed);
    }
    state.groups.resize_with(groups, GroupState::default);
    state.stamps.clear();
    let mut rows = Vec::with_capacity(groups);
    for group in 0..groups {
        let start = input.rest();
        let stamps = &mut state.stamps;
        read_row(input, &mut state.groups[group], |event| {
            if let Event::Stamp(at, offset) = event {
                stamps.push(((group * GROUP) as u32 + u32::from(at), offset));
            }
        })?;
        rows.push(&start[..start.len() - input.len()]);
    }
    let track = slot.get_or_insert_default();
    for (group, row) in rows.into_iter().enumerate() {
        track.push_row(group, row);
    }
    track.push(Scraped {
        time,
        missed: false,
    });
    for (_, offset) in &state.stamps {
        track.cover(time.wrapping_add(*offset));
    }
    Ok(())
}
