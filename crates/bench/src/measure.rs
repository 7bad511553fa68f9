//! Comparing two operations on a machine that is never idle.

use std::{fs, hint::black_box, time::Duration};

use anyhow::{Context as _, Result};

use rustix::time::{ClockId, clock_gettime};

/// The CPU time of one measurement of either operation.
const SLICE: Duration = Duration::from_millis(8);

/// The largest factor by which a fixed piece of work around a pair may exceed its minimum. Pairs
/// beyond it are discarded.
const DISTURBED: f64 = 1.3;

/// The result of a comparison. Times are those of one call.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    /// The median CPU time of our operation.
    pub ours: Duration,
    /// The median CPU time of the baseline.
    pub baseline: Duration,
    /// The median of the pairs' ratios of the baseline's time to ours.
    pub ratio: f64,
    /// The quartiles of these ratios.
    pub quartiles: (f64, f64),
    /// The number of pairs discarded because the machine was disturbed. At least a third of the pairs
    /// is kept: the least disturbed ones.
    pub discarded: usize,
}

/// Compares two operations in interleaved pairs (ABBA), in CPU time of this thread.
pub fn compare(pairs: usize, mut ours: impl FnMut(), mut baseline: impl FnMut()) -> Comparison {
    let ours_calls = calls_per_slice(&mut ours);
    let baseline_calls = calls_per_slice(&mut baseline);
    let mut taken: Vec<(f64, f64, f64)> = (0..pairs)
        .map(|pair| {
            let before = spin();
            let (a, b);
            if pair % 2 == 0 {
                a = per_call(&mut ours, ours_calls);
                b = per_call(&mut baseline, baseline_calls);
            } else {
                b = per_call(&mut baseline, baseline_calls);
                a = per_call(&mut ours, ours_calls);
            }
            // Before and after the pair: a disturbance in between mostly reaches one of the two.
            (before.max(spin()), a, b)
        })
        .collect();
    taken.sort_by(|one, other| one.0.total_cmp(&other.0));
    let quietest = taken.first().map_or(0.0, |pair| pair.0);
    let quiet = taken
        .iter()
        .take_while(|pair| pair.0 <= quietest * DISTURBED)
        .count();
    taken.truncate(quiet.max(pairs.div_ceil(3)));
    let ratios = sorted(taken.iter().map(|(_, ours, baseline)| baseline / ours));
    Comparison {
        ours: Duration::from_secs_f64(median(taken.iter().map(|pair| pair.1))),
        baseline: Duration::from_secs_f64(median(taken.iter().map(|pair| pair.2))),
        ratio: middle(&ratios),
        quartiles: (ratios[ratios.len() / 4], ratios[ratios.len() * 3 / 4]),
        discarded: pairs - taken.len(),
    }
}

fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values
}

fn middle(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

/// Returns the number of calls that makes a measurement long enough for the clock.
fn calls_per_slice(work: &mut impl FnMut()) -> u32 {
    // These calls also warm the caches.
    let mut calls = 1;
    loop {
        let once = per_call(work, calls);
        // The bound on calls ends the loop for work that costs nothing.
        if once * f64::from(calls) > SLICE.as_secs_f64() / 8.0 || calls >= 1 << 20 {
            let wanted = SLICE.as_secs_f64() / once.max(1e-9);
            return (wanted as u32).clamp(1, 1 << 22);
        }
        calls *= 4;
    }
}

/// Returns the CPU seconds of one call.
fn per_call(work: &mut impl FnMut(), calls: u32) -> f64 {
    let began = cpu_time();
    for _ in 0..calls {
        work();
    }
    (cpu_time() - began) / f64::from(calls)
}

/// Measures a fixed piece of work that touches no memory, and returns its CPU seconds. They grow when
/// the machine is disturbed.
fn spin() -> f64 {
    let began = cpu_time();
    let mut state = 1u64;
    for _ in 0..400_000 {
        state = black_box(state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1));
    }
    cpu_time() - began
}

/// Returns the CPU seconds of this thread so far.
#[must_use]
pub fn cpu_time() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Returns the median, the upper one of two.
///
/// # Panics
///
/// Panics if there are no values.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    middle(&sorted(values))
}

/// Returns the CPU seconds of all threads of this process so far.
#[must_use]
pub fn process_cpu_time() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Returns the name and the CPU seconds of each living thread of a process.
///
/// # Errors
///
/// If the process does not exist.
pub fn thread_cpu_times(process: u32) -> Result<Vec<(String, f64)>> {
    let mut times = Vec::new();
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let thread = thread?.path();
        let read = |file| fs::read_to_string(thread.join(file));
        // A thread may end while it is read.
        let (Ok(name), Ok(statistics)) = (read("comm"), read("schedstat")) else {
            continue;
        };
        let nanos = statistics.split_whitespace().next();
        let nanos: f64 = nanos.context("schedstat is empty")?.parse()?;
        times.push((name.trim().to_owned(), nanos / 1e9));
    }
    Ok(times)
}

/// Returns the threads that ran or waited for a processor in the last minute. Figures that were taken
/// while it exceeded the processors are worth less.
///
/// # Errors
///
/// If `/proc/loadavg` cannot be read.
pub fn load_average() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    let first = text.split_whitespace().next();
    Ok(first.context("/proc/loadavg is empty")?.parse()?)
}

/// Returns a process's memory in MiB. The field is `VmRSS:` or `VmHWM:` of `/proc/PID/status`.
///
/// # Errors
///
/// If the process does not exist or the field is missing.
pub fn memory_mib(process: u32, field: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib
        .context("/proc/PID/status has no such field")?
        .parse::<f64>()?
        / 1_024.0)
}

/// Returns the memory of the buffers of all TCP sockets of this machine, in bytes.
///
/// # Errors
///
/// If the kernel does not tell.
pub fn kernel_socket_bytes() -> Result<f64> {
    let text = fs::read_to_string("/proc/net/sockstat")?;
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"));
    let pages = line.and_then(|line| {
        line.split_whitespace()
            .skip_while(|word| *word != "mem")
            .nth(1)
    });
    let pages: f64 = pages.context("/proc/net/sockstat has no `mem`")?.parse()?;
    Ok(pages * 4_096.0)
}
