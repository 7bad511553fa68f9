//! The binary as a child process, with bounds on how long anything may take.

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdout, Command},
    time::timeout,
};

/// Longest wait for anything.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The exit code and the output of a process.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn steadfast(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steadfast"));
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Splits a command line into its words.
pub(crate) fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// Runs to the end.
pub(crate) async fn run(args: &[&str], input: Option<&str>) -> Ended {
    let mut command = steadfast(args);
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().unwrap();
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(input.as_bytes()).await.unwrap();
    }
    let output = timeout(LIMIT, child.wait_with_output())
        .await
        .expect("an end in time")
        .unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Publishes lines with these flags, and expects that all are stored.
pub(crate) async fn publish(flags: &str, lines: &str) {
    let ended = run(&words(&format!("streamer publish {flags}")), Some(lines)).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

/// A server, and where it listens.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) addr: SocketAddr,
    /// What it prints after it is ready.
    pub(crate) out: Lines<BufReader<ChildStdout>>,
}

impl Server {
    pub(crate) async fn start(data: &Path, listen: &str) -> Self {
        Self::start_with(data, &["--listen", listen]).await
    }

    pub(crate) async fn start_with(data: &Path, args: &[&str]) -> Self {
        let data = data.to_str().unwrap();
        let mut command = steadfast(&["streamer", "serve", "--data", data]);
        command.args(args);
        Self::spawn(command).await
    }

    /// Starts the server of a command, and returns when it is ready.
    pub(crate) async fn spawn(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::inherit()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = next(&mut out).await.expect("a line when it is ready");
        let addr = ready.strip_prefix("ready ").unwrap().parse().unwrap();
        Self { child, addr, out }
    }
}

/// A subscription that is running.
pub(crate) struct Subscription {
    pub(crate) child: Child,
    pub(crate) out: Lines<BufReader<ChildStdout>>,
    /// Kept open so that the process can write.
    _err: Lines<BufReader<ChildStderr>>,
}

impl Subscription {
    /// Returns when the server has acknowledged it.
    pub(crate) async fn start(args: &[&str]) -> Self {
        let mut child = steadfast(args).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut err = BufReader::new(child.stderr.take().unwrap()).lines();
        while !next(&mut err)
            .await
            .expect("a line when it is subscribed")
            .contains("subscribed")
        {}
        Self {
            child,
            out,
            _err: err,
        }
    }

    /// The lines until the process ends, and its status.
    pub(crate) async fn rest(mut self) -> (Vec<String>, Option<i32>) {
        let mut lines = Vec::new();
        while let Some(line) = next(&mut self.out).await {
            lines.push(line);
        }
        let status = timeout(LIMIT, self.child.wait())
            .await
            .expect("an end in time")
            .unwrap();
        (lines, status.code())
    }
}

pub(crate) async fn next<R: tokio::io::AsyncBufRead + Unpin>(
    lines: &mut Lines<R>,
) -> Option<String> {
    timeout(LIMIT, lines.next_line())
        .await
        .expect("a line in time")
        .unwrap()
}
