//! A measured part in a separate process.

use std::{
    io::{self, BufRead as _, BufReader, Read as _},
    process::{Child as Process, ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::measure::thread_cpu_times;

/// The longest wait for a line of a process, and for its end. The longest thing that a line tells is that a
/// server has filled its log.
pub const TIMEOUT: Duration = Duration::from_secs(120);

/// The lines that may wait for their reader. A process prints one and then waits for the next command.
const WAITING_LINES: usize = 16;

/// The lines that a process prints.
#[derive(Debug)]
pub struct Lines(Receiver<io::Result<String>>);

impl Lines {
    /// Reads the output of a process, on a thread that ends with it.
    #[must_use]
    pub fn of(output: ChildStdout) -> Self {
        let (lines, receiver) = mpsc::sync_channel(WAITING_LINES);
        // A thread, because a pipe has no deadline.
        thread::spawn(move || {
            let mut output = BufReader::new(output).lines();
            while let Some(line) = output.next()
                && lines.send(line).is_ok()
            {}
        });
        Self(receiver)
    }

    /// Returns the next line, without its end.
    ///
    /// # Errors
    ///
    /// If the process prints none in time, or ends.
    pub fn next(&self, timeout: Duration) -> Result<String> {
        let line = self.0.recv_timeout(timeout);
        Ok(line.with_context(|| format!("the process printed no line in {timeout:?}"))??)
    }
}

/// Waits for the end of a process, and kills it if it does not end in time. Returns its status, or `None` if
/// it was killed.
///
/// # Errors
///
/// If the process cannot be waited for.
pub fn wait_or_kill(process: &mut Process, timeout: Duration) -> io::Result<Option<ExitStatus>> {
    let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
    let ended = pidfd_open(Pid::from_child(process), PidfdFlags::empty())?;
    // Readable once the process has ended.
    if poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&timeout))? > 0 {
        return process.wait().map(Some);
    }
    process.kill()?;
    process.wait()?;
    Ok(None)
}

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
    pub fn start_own<S: AsRef<std::ffi::OsStr>>(
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments);
        Self::start(command)
    }

    /// Starts a program and waits until it is ready.
    ///
    /// # Errors
    ///
    /// As of [`Child::start_own`].
    pub fn start(mut command: Command) -> Result<Self> {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().context("the process has no output")?;
        // From here on, a failure ends the process as well.
        let mut child = Self {
            process,
            ready: String::new(),
        };
        child.ready = Lines::of(output).next(TIMEOUT)?;
        Ok(child)
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
        wait_or_kill(&mut self.process, TIMEOUT).ok();
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
    io::stdin().read_to_end(&mut nothing)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (Process, Lines) {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let lines = Lines::of(process.stdout.take().unwrap());
        (process, lines)
    }

    #[test]
    fn silent_process_fails_a_measurement_in_time() {
        let (mut process, lines) = shell("echo ready; exec sleep 600");
        assert_eq!(lines.next(TIMEOUT).unwrap(), "ready");
        let silent = lines.next(Duration::from_millis(20)).unwrap_err();
        assert!(silent.to_string().contains("no line in 20ms"), "{silent}");
        let ended = wait_or_kill(&mut process, Duration::from_millis(20));
        assert_eq!(ended.unwrap(), None, "it was killed");
    }

    #[test]
    fn process_that_ends_is_not_waited_for() {
        let (mut process, lines) = shell("exit 3");
        lines.next(TIMEOUT).unwrap_err();
        let status = wait_or_kill(&mut process, TIMEOUT).unwrap();
        assert_eq!(status.and_then(|status| status.code()), Some(3));
    }
}
