//! A bearer token from a command.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use futures_core::future::BoxFuture;
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
    sync::Mutex,
    time::{Instant, timeout},
};

use super::{Credentials, CredentialsError, MAX_TOKEN, bearer};
use crate::metadata::Metadata;

/// Sends the standard output of a command as a bearer token.
///
/// The token is kept for a while, so that a link that reconnects often does not start a process each
/// time; a refused token is replaced at once. The command and the processes it started are killed when
/// it takes too long and when the link closes. Its error output is discarded, because it may contain
/// secrets. Clones share the token.
#[derive(Clone)]
pub struct BearerCommand {
    command: Arc<CommandLine>,
    timeout: Duration,
    max_age: Duration,
    newest: Arc<Mutex<Option<(Metadata, Instant)>>>,
}

struct CommandLine {
    program: OsString,
    arguments: Vec<OsString>,
}

impl BearerCommand {
    /// Runs `program` with `arguments`.
    #[must_use]
    pub fn new<A: Into<OsString>>(
        program: impl Into<OsString>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        let (program, arguments) = (program.into(), arguments.into_iter());
        let command = CommandLine {
            program,
            arguments: arguments.map(Into::into).collect(),
        };
        Self {
            command: Arc::new(command),
            timeout: Duration::from_secs(5),
            max_age: Duration::from_secs(60),
            newest: Arc::default(),
        }
    }

    /// Runs `line` in the shell of the system.
    #[must_use]
    pub fn shell(line: impl Into<OsString>) -> Self {
        if cfg!(windows) {
            Self::new("cmd", [OsString::from("/C"), line.into()])
        } else {
            Self::new("/bin/sh", [OsString::from("-c"), line.into()])
        }
    }

    /// Sets the time after which the command is killed. Default 5 s, half of the session's
    /// `open_timeout`.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how long a token is used for further attempts. Default 60 s.
    #[must_use]
    pub fn with_max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    async fn token(self, refused: bool) -> Result<Metadata, CredentialsError> {
        let asked = Instant::now();
        // Held while the command runs: links that share the token wait for one process.
        let mut newest = self.newest.lock().await;
        if let Some((metadata, obtained)) = &*newest
            // A token that came while this link waited is not the one that was refused.
            && (*obtained > asked || !refused && obtained.elapsed() < self.max_age)
        {
            return Ok(metadata.clone());
        }
        *newest = None;
        let output = self.command.run(self.timeout).await?;
        let metadata = bearer(&output, || format!("token command `{}`", self.command))?;
        *newest = Some((metadata.clone(), Instant::now()));
        Ok(metadata)
    }
}

impl Credentials for BearerCommand {
    fn metadata(&self, refused: bool) -> BoxFuture<'static, Result<Metadata, CredentialsError>> {
        Box::pin(self.clone().token(refused))
    }
}

impl fmt::Debug for BearerCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerCommand")
            .field("program", &self.command.program)
            .finish_non_exhaustive()
    }
}

/// Only the program: an argument may be a secret.
impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.program.display().fmt(f)
    }
}

impl CommandLine {
    /// Returns the output of the command.
    async fn run(&self, limit: Duration) -> Result<Vec<u8>, CredentialsError> {
        let program = || self.to_string();
        let mut process =
            RunningProcess::start(&self.program, &self.arguments).map_err(|source| {
                CredentialsError::Start {
                    program: program(),
                    source,
                }
            })?;
        let output = timeout(limit, process.output()).await;
        let output = output.map_err(|_| CredentialsError::TimedOut {
            program: program(),
            timeout: limit,
        })?;
        let (status, bytes) = output.map_err(|source| CredentialsError::Start {
            program: program(),
            source,
        })?;
        if status.success() {
            Ok(bytes)
        } else {
            Err(CredentialsError::Failed {
                program: program(),
                status,
            })
        }
    }
}

/// A process in a group of its own. Dropping it kills the group.
struct RunningProcess {
    child: Child,
}

impl RunningProcess {
    fn start(program: &OsStr, arguments: &[OsString]) -> std::io::Result<Self> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0);
        let child = command.spawn()?;
        Ok(Self { child })
    }

    /// Waits for the end of the output and of the process.
    async fn output(&mut self) -> std::io::Result<(std::process::ExitStatus, Vec<u8>)> {
        let mut bytes = Vec::new();
        if let Some(output) = self.child.stdout.take() {
            // A longer output is refused as a token, so there is no need to read the rest.
            let mut output = output.take(MAX_TOKEN as u64 * 2);
            output.read_to_end(&mut bytes).await?;
        }
        let status = self.child.wait().await?;
        Ok((status, bytes))
    }
}

#[cfg(unix)]
impl Drop for RunningProcess {
    fn drop(&mut self) {
        // `kill_on_drop` reaches the process but not those that it started, such as the command of a
        // shell. A process that was waited for has no id, so that its number, which another process
        // may have by now, is never used.
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(rustix::process::Pid::from_raw) {
            // Fails only if the whole group has ended.
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
        }
    }
}
