//! The programs that are measured: the shipped server and its baselines.

use std::{
    fs,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use steadfast_bench::{
    child::{Lines, TIMEOUT, wait_or_kill},
    measure::{memory_mib, thread_cpu_times},
};
use steadfast_tls::client::{Tls, TlsOptions};
use tempfile::TempDir;
use tokio::runtime::{self, Runtime};

/// A server or client process. Dropping it ends the process.
pub(crate) struct Target {
    child: Child,
    lines: Lines,
    address: SocketAddr,
    /// The directory of the server's log and certificates.
    data: Option<TempDir>,
    uses_tls: bool,
}

/// A server's address, and the client's settings of TLS if the server has TLS.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Tls>,
}

/// The name in the certificate of every server.
pub(crate) const HOST: &str = "localhost";

/// The CPU time of a process, in seconds.
#[derive(Clone, Copy, Default)]
pub(crate) struct CpuTime {
    /// All threads but the log's writer.
    pub(crate) delivery: f64,
    /// The thread that writes the log.
    pub(crate) log: f64,
}

/// A free port of this machine.
const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The rights of the clients of a gateway.
const POLICY: &str = r#"
[[grants]]
role = "load"
databases = ["db"]
collections = ["messages"]
actions = ["subscribe", "publish"]

[[members]]
roles = ["load"]
principals = ["token:load"]
"#;

/// The name of the thread that writes the log.
const LOG_THREAD: &str = "log-writer";

impl Target {
    /// Starts the shipped server with an empty log, in memory where the system has such a directory.
    pub(crate) fn product() -> Result<Self> {
        Self::serve(empty_directory()?, LOOPBACK, false)
    }

    /// Starts the shipped server with TLS, as [`Target::product`] does without.
    pub(crate) fn product_with_tls() -> Result<Self> {
        let data = empty_directory()?;
        let mut command = Command::new(beside("steadfast")?);
        command
            .args(["cert", "dev", "--out"])
            .arg(certificates(&data))
            .stdout(Stdio::null());
        match wait_or_kill(&mut command.spawn()?, TIMEOUT)? {
            Some(status) if status.success() => {}
            Some(status) => bail!("cannot make certificates: {status}"),
            None => bail!("no certificates were made in {TIMEOUT:?}"),
        }
        Self::serve(data, LOOPBACK, true)
    }

    fn serve(data: TempDir, address: SocketAddr, uses_tls: bool) -> Result<Self> {
        let mut command = Command::new(beside("steadfast")?);
        command.args(["streamer", "serve", "--listen", &address.to_string()]);
        command
            .arg("--stop-with-stdin")
            .arg("--data")
            .arg(data.path().join("log"));
        if uses_tls {
            let files = certificates(&data);
            command.arg("--tls-cert").arg(files.join("server.pem"));
            command.arg("--tls-key").arg(files.join("server.key"));
        }
        let mut target = Self::spawn(command)?;
        (target.data, target.uses_tls) = (Some(data), uses_tls);
        Ok(target)
    }

    /// Ends the server at once, as `kill -9` does, and starts it again with its log and address.
    pub(crate) fn kill_and_restart(mut self) -> Result<Self> {
        self.child.kill()?;
        self.child.wait()?;
        let data = self.data.take().context("only the server has a log")?;
        Self::serve(data, self.address, self.uses_tls)
    }

    /// Starts a gateway with a policy in front of a Streamer, and returns it with the token of its clients.
    pub(crate) fn gateway(streamer: SocketAddr) -> Result<(Self, String)> {
        let data = empty_directory()?;
        let made = Command::new(beside("steadfast")?)
            .args(["token", "new", "load", "--out"])
            .arg(data.path().join("load.token"))
            .output()?;
        ensure!(made.status.success(), "cannot make a token: {made:?}");
        let policy = data.path().join("access.toml");
        fs::write(&policy, [&made.stdout, POLICY.as_bytes()].concat())?;
        let token = fs::read_to_string(data.path().join("load.token"))?;
        let mut command = Command::new(beside("steadfast")?);
        command.args(["gateway", "--streamer", &streamer.to_string()]);
        command.args(["--listen", &LOOPBACK.to_string(), "--stop-with-stdin"]);
        command.arg("--access").arg(policy);
        let mut target = Self::spawn(command)?;
        target.data = Some(data);
        Ok((target, token.trim().to_owned()))
    }

    /// Starts Centrifugo with anonymous clients. It does not tell when it listens.
    pub(crate) fn centrifugo(program: &Path) -> Result<Self> {
        // It does not tell a port that it chose.
        let address = TcpListener::bind(LOOPBACK)?.local_addr()?;
        let data = empty_directory()?;
        let config = data.path().join("config.json");
        let port = address.port();
        fs::write(
            &config,
            format!(
                r#"{{"http_server":{{"address":"127.0.0.1","port":"{port}"}},"client":{{"insecure":true}},
                "http_api":{{"insecure":true}},"log":{{"level":"error"}}}}"#
            ),
        )?;
        let mut command = Command::new(program);
        command.arg("--config").arg(config);
        let mut target = Self::launch(command)?;
        (target.address, target.data) = (address, Some(data));
        Ok(target)
    }

    /// Starts a role of the program `broadcast-baselines`.
    pub(crate) fn baseline(role: &[&str]) -> Result<Self> {
        let mut command = Command::new(beside("broadcast-baselines")?);
        command.args(role);
        Self::spawn(command)
    }

    /// Starts a process that prints its address once it is ready.
    fn spawn(command: Command) -> Result<Self> {
        let mut target = Self::launch(command)?;
        let line = target.lines.next(TIMEOUT)?;
        let address = line.strip_prefix("ready ");
        target.address = address
            .with_context(|| format!("the process printed {line:?}"))?
            .parse()?;
        Ok(target)
    }

    fn launch(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().context("the process has no output")?;
        Ok(Self {
            child,
            lines: Lines::of(output),
            address: LOOPBACK,
            data: None,
            uses_tls: false,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the address and new settings of TLS, which remember no session to resume.
    pub(crate) fn endpoint(&self) -> Result<Endpoint> {
        let data = self.data.as_ref().filter(|_| self.uses_tls);
        let tls = data.map(|data| {
            let mut options = TlsOptions::default();
            options.ca_file = Some(certificates(data).join("ca.pem"));
            options.load(&[b"h2"])
        });
        Ok(Endpoint {
            address: self.address,
            tls: tls.transpose()?,
        })
    }

    /// Sends a line to a client process and waits for its response.
    pub(crate) fn command(&mut self, line: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("standard input")?;
        writeln!(input, "{line}")?;
        let response = self.lines.next(TIMEOUT)?;
        ensure!(response == "done", "the client printed {response:?}");
        Ok(())
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

/// Creates a directory, in memory where the system has such a file system.
fn empty_directory() -> Result<TempDir> {
    let memory = Path::new("/dev/shm");
    Ok(if memory.is_dir() {
        TempDir::new_in(memory)?
    } else {
        TempDir::new()?
    })
}

/// Returns the directory of a server's certificates.
fn certificates(data: &TempDir) -> PathBuf {
    data.path().join("certificates")
}

/// Returns a runtime for a load. The load runs on its worker, so that the thread that waits for it may wait
/// for a process as well.
pub(crate) fn load_runtime() -> io::Result<Runtime> {
    runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
}

/// Returns the path of a program that was built together with this one.
pub(crate) fn beside(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(
        path.exists(),
        "{} is missing; cargo xtask bench builds it",
        path.display()
    );
    Ok(path)
}
