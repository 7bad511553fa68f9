#![doc = include_str!("../README.md")]

mod bytes;
mod catalog;
mod codec;
mod column;
mod disk;
mod error;
mod frame;
mod head_file;
mod labels;
mod options;
mod parity;
mod part;
mod reader;
mod recorder;
mod recorders;
mod repair;
mod rows;
mod segment;
mod selector;
#[cfg(test)]
mod sim_disk;
mod snapshot;
mod source;
mod source_rows;
mod span;
mod stats;

pub use self::{
    error::{Damage, DamageKind, LimitError, OpenError, SyncError, WriteError},
    labels::{HELP_BYTES_MAX, Kind, LABELS_BYTES_MAX, Labels, LabelsError, LabelsRef, Meta, NAME},
    options::{BUDGET_MIN, Options, SOURCES_MAX},
    reader::{Latest, LatestSeries, Reader, Sample, SeriesInfo, SeriesWindow, Windows},
    recorder::{
        Committed, OpenReport, Recorder, Scrape, SeriesId, SetOutcome, SourceId, SyncJob,
        SyncOutcome,
    },
    recorders::{RecorderGuard, RecorderId, Recorders, SyncJobs, SyncOutcomes},
    selector::Selector,
    stats::{Counters, Stats},
};
