//! The opening of a log that a killed process left.

use std::{
    fs::{self, File},
    path::Path,
    time::Instant,
};

use anyhow::Result;
use steadfast_bench::{figure::Figures, measure::median};
use steadfast_streamer::log::Log as _;

use super::{DOCUMENT_BYTES, DOCUMENTS, open, sized_entry};

/// The documents of a log of some gigabytes, and the size of each.
const LARGE: (u64, usize) = (400_000, 6_000);
/// The goal for a log of this size, in milliseconds.
const GOAL: (f64, f64) = (10e9, 1_000.0);

/// Measures the first opening, which replays what the index does not have, and later ones.
pub(super) fn run(dir: &Path, figures: &mut Figures) -> Result<()> {
    let (bytes, times) = reopened(&dir.join("small"), (DOCUMENTS, DOCUMENT_BYTES))?;
    figures.put_less("recovery_200000_documents", "ms", times[0], 20.0);
    figures.put("open_again", "ms", median(times));
    figures.put("log_size_200000_documents", "MB", bytes / 1e6);

    let (bytes, times) = reopened(&dir.join("large"), LARGE)?;
    let (size, limit) = GOAL;
    figures.put("recovery_large_log", "ms", times[0]);
    figures.put("log_size_large_log", "MB", bytes / 1e6);
    // What is replayed does not grow with the log, so that this is more than it would take.
    let scaled = times[0] * size / bytes;
    figures.put_less("recovery_per_10_gigabytes", "ms", scaled, limit);
    Ok(())
}

/// Returns the size of a log of so many documents of a size, and the times of its openings after a kill.
fn reopened(dir: &Path, (documents, size): (u64, usize)) -> Result<(f64, Vec<f64>)> {
    let (original, killed) = (dir.join("original"), dir.join("killed"));
    fs::create_dir_all(&killed)?;
    let mut log = open(&original)?;
    for start in (1..=documents).step_by(1_000) {
        let entries = start..start + 1_000;
        let batch = entries.map(|it| sized_entry("p", it, size)).collect();
        log.append(batch, 1_000)?;
        log.maintain(1_000)?;
    }
    // While it is open: as a kill would leave it.
    let mut bytes = 0;
    for file in fs::read_dir(&original)? {
        let file = file?;
        let target = killed.join(file.file_name());
        bytes += file.metadata()?.len();
        if file.path().extension() == Some("seg".as_ref()) {
            // Not copied: nobody writes to it any more.
            fs::hard_link(file.path(), target)?;
        } else {
            fs::copy(file.path(), &target)?;
            // A log that was killed is synced. Otherwise its opening would wait for the copying.
            File::open(target)?.sync_all()?;
        }
    }
    drop(log);
    let mut times = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        let log = open(&killed)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        drop(log);
    }
    fs::remove_dir_all(dir)?;
    Ok((bytes as f64, times))
}
