//! The programs that are measured: the shipped server and its baselines.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use steadfast_bench::measure::{memory_mib, thread_cpu_times};
use tempfile::TempDir;

/// A server or client process. Dropping it ends the process.
pub(crate) struct Target {
    child: Child,
    output: BufReader<ChildStdout>,
    address: SocketAddr,
    data: Option<TempDir>,
}

/// The CPU time of a process, in seconds.
#[derive(Clone, Copy, Default)]
pub(crate) struct CpuTime {
    /// All threads but the log's writer.
    pub(crate) delivery: f64,
    /// The thread that writes the log.
    pub(crate) log: f64,
}

/// The name of the thread that writes the log.
const LOG_THREAD: &str = "log-writer";

impl Target {
    /// Starts the shipped server with an empty log, in memory where the system has such a directory.
    pub(crate) fn product() -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let data = if memory.is_dir() {
            TempDir::new_in(memory)?
        } else {
            TempDir::new()?
        };
        Self::serve(data, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    fn serve(data: TempDir, address: SocketAddr) -> Result<Self> {
        let mut command = Command::new(beside("steadfast")?);
        command.args(["streamer", "serve", "--listen", &address.to_string()]);
        command
            .arg("--stop-with-stdin")
            .arg("--data")
            .arg(data.path());
        Self::spawn(command, Some(data))
    }

    /// Ends the server at once, as `kill -9` does, and starts it again with its log and address.
    pub(crate) fn kill_and_restart(mut self) -> Result<Self> {
        self.child.kill()?;
        self.child.wait()?;
        let data = self.data.take().context("only the server has a log")?;
        Self::serve(data, self.address)
    }

    /// Starts a role of the program `broadcast-baselines`.
    pub(crate) fn baseline(role: &[&str]) -> Result<Self> {
        let mut command = Command::new(beside("broadcast-baselines")?);
        command.args(role);
        Self::spawn(command, None)
    }

    fn spawn(mut command: Command, data: Option<TempDir>) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().context("the process has no output")?;
        let mut target = Self {
            child,
            output: BufReader::new(output),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            data,
        };
        let line = target.read_line()?;
        let address = line.trim().strip_prefix("ready ");
        target.address = address
            .with_context(|| format!("the process printed {line:?}"))?
            .parse()?;
        Ok(target)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a line to a client process and waits for its response.
    pub(crate) fn command(&mut self, line: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("standard input")?;
        writeln!(input, "{line}")?;
        let response = self.read_line()?;
        ensure!(response.trim() == "done", "the client printed {response:?}");
        Ok(())
    }

    fn read_line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line)
    }

    /// Returns the CPU time so far, of the threads that are alive.
    pub(crate) fn cpu_time(&self) -> Result<CpuTime> {
        let mut time = CpuTime::default();
        for (name, seconds) in thread_cpu_times(self.child.id())? {
            if name == LOG_THREAD {
                time.log += seconds;
            } else {
                time.delivery += seconds;
            }
        }
        Ok(time)
    }

    /// Returns the resident memory in bytes.
    pub(crate) fn resident(&self) -> Result<f64> {
        Ok(memory_mib(self.child.id(), "VmRSS:")? * 1_048_576.0)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // At once: nothing that it would still write is needed.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Returns the path of a program that was built together with this one.
fn beside(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(
        path.exists(),
        "{} is missing; cargo xtask bench builds it",
        path.display()
    );
    Ok(path)
}
