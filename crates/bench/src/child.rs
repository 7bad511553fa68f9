//! A measured part in a separate process.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child as Process, Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::measure::thread_cpu_times;

/// The parent's handle of a process. Dropping it ends the process.
#[derive(Debug)]
pub struct Child {
    process: Process,
    /// The line that the process printed when it was ready.
    ready: String,
}

impl Child {
    /// Starts this program with other arguments and waits until it is ready.
    ///
    /// # Errors
    ///
    /// If the process does not start, or ends before it is ready.
    pub fn start<S: AsRef<std::ffi::OsStr>>(
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().context("the process has no output")?;
        let mut ready = String::new();
        BufReader::new(output).read_line(&mut ready)?;
        ready.truncate(ready.trim_end().len());
        Ok(Self { process, ready })
    }

    /// Returns the line that the process printed when it was ready.
    #[must_use]
    pub fn ready_line(&self) -> &str {
        &self.ready
    }

    /// Returns the process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Returns the CPU time of all its threads so far.
    ///
    /// # Errors
    ///
    /// If the process has ended.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let times = thread_cpu_times(self.id())?;
        Ok(times.iter().map(|(_, seconds)| seconds).sum())
    }

    /// Ends the process at once, as `kill -9` does.
    ///
    /// # Errors
    ///
    /// If it has ended before.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // The end of its input ends the process; see `wait_for_end`.
        drop(self.process.stdin.take());
        self.process.wait().ok();
    }
}

/// Tells the parent that this process is ready, and waits until the parent ends it.
///
/// # Errors
///
/// If standard input cannot be read.
pub fn wait_for_end(ready: &str) -> Result<()> {
    println!("{ready}");
    let mut nothing = Vec::new();
    std::io::stdin().read_to_end(&mut nothing)?;
    Ok(())
}
