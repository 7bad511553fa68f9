//! A flight recorder of metrics: true times, explicit absence, a budget that holds, and a record that
//! survives its process.

mod bytes;
mod catalog;
mod codec;
mod column;
mod disk;
mod error;
mod frame;
mod labels;
mod live;
mod options;
mod part;
mod reader;
mod recorder;
mod recorders;
mod replay;
mod rows;
mod segment;
mod selector;
mod shelf;
#[cfg(test)]
mod sim_disk;
mod stats;
mod track;

pub use self::{
    error::{Damage, DamageKind, LimitError, OpenError, WriteError},
    labels::{HELP_BYTES_MAX, Kind, LABELS_BYTES_MAX, Labels, LabelsError, LabelsRef, Meta, NAME},
    options::{BUDGET_MIN, Options, SOURCES_MAX},
    reader::{Latest, LatestSeries, Reader, Sample, SeriesInfo, SeriesWindow, Windows},
    recorder::{
        Committed, OpenReport, Recorder, Scrape, SealJob, SealOutcome, SeriesId, SetOutcome,
        SourceId, SyncJob, SyncOutcome,
    },
    recorders::{RecorderGuard, RecorderId, Recorders, SyncJobs, SyncOutcomes, open_read_only},
    selector::Selector,
    stats::{Counters, Stats},
};
