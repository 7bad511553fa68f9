//! The resident memory of a recording process.

use std::process::{Command, id};

use anyhow::{Context as _, Result, ensure};
use steadfast_bench::{figure::Figures, measure::memory_mib};

use super::{BUDGET, Filled, busy::Busy};

/// Records in memory until two parts were evicted, and prints the peak memory of the process.
pub(crate) fn process() -> Result<()> {
    let mut busy = Busy::new();
    let labels = Busy::labels()?;
    let mut fill = Filled::in_memory(&labels)?;
    for time in (1_700_000_000_000..).step_by(1_000) {
        fill.record(time, &busy.scrape())?;
        let stats = fill.recorder.stats();
        ensure!(stats.used <= BUDGET, "the recorder exceeds its budget");
        if stats.evicted_parts == 2 {
            break;
        }
    }
    println!("{}", memory_mib(id(), "VmHWM:")?);
    Ok(())
}

/// Measures the peak memory of such a process against its budget.
pub(super) fn measure(figures: &mut Figures) -> Result<()> {
    let output = Command::new(std::env::current_exe()?)
        .arg("recorder-process")
        .output()?;
    ensure!(output.status.success(), "the recording process failed");
    let text = String::from_utf8(output.stdout)?;
    let peak: f64 = text
        .trim()
        .parse()
        .context("the recording process printed no number")?;
    let budget = BUDGET as f64 / f64::from(1 << 20);
    let name = "busy/resident memory in 64 MiB";
    figures.put_less(name, "MiB", peak, budget);
    Ok(())
}
