//! Settings from the environment, which a test can set only for another process.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt as _};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
    sync::mpsc,
    time::timeout,
};

use crate::process::{LIMIT, steadfast, words};

/// Returns the places of the faults that a server without a data directory reports.
async fn places(flags: &[&str], env: &[(&str, &OsStr)]) -> Vec<String> {
    let mut command = steadfast(&[&["streamer", "serve"], flags].concat());
    let output = command.envs(env.iter().copied()).output();
    let output = timeout(LIMIT, output)
        .await
        .expect("an end in time")
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    let place = |line: &str| Some(line.strip_prefix("error: ")?.split_once(": ")?.0.to_owned());
    text.lines().filter_map(place).collect()
}

#[tokio::test]
async fn a_flag_beats_the_environment_beats_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s.toml");
    fs::write(&file, "[server]\ndrain = \"file\"\n").unwrap();
    let config = ["--config", file.to_str().unwrap()];
    let line = format!("{}:2 (server.drain)", file.display());
    let env = [("STEADFAST_DRAIN", OsStr::new("variable"))];
    let flag = [&config[..], &["--drain", "flag"]].concat();

    assert_eq!(places(&flag, &env).await, ["--data", "--drain"]);
    assert_eq!(places(&config, &env).await, ["--data", "STEADFAST_DRAIN"]);
    assert_eq!(places(&config, &[]).await, ["--data", &line]);
    assert_eq!(places(&[], &[]).await, ["--data"]);
    let named = [("STEADFAST_CONFIG", file.as_os_str())];
    assert_eq!(places(&[], &named).await, ["--data", &line]);
}

#[tokio::test]
async fn a_variable_that_is_not_utf8_is_a_fault_if_it_is_ours() {
    let text = OsStr::from_bytes(&[0xff]);
    let env = [("STEADFAST_DRAIN", text), ("LS_COLORS", text)];
    assert_eq!(places(&[], &env).await, ["--data", "STEADFAST_DRAIN"]);
}

/// Starts an HTTP proxy that refuses, and returns its URL and the requests that it gets.
async fn refusing_proxy() -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut line = String::new();
            let read = BufReader::new(&mut socket).read_line(&mut line).await;
            if read.is_ok() && sender.send(line).is_ok() {
                let refusal = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n";
                socket.write_all(refusal).await.ok();
            }
        }
    });
    (url, requests)
}

#[tokio::test]
async fn every_client_uses_the_proxy_unless_it_is_direct() {
    // Connecting to it fails at once.
    const SERVER: &str = "255.255.255.255:9";
    let (proxy, mut requests) = refusing_proxy().await;
    let folder = tempfile::tempdir().unwrap();
    let document = folder.path().join("document");
    fs::write(&document, "{\"id\":\"a\"}\n").unwrap();
    let publish = format!("streamer publish {}", document.display());
    for command in [
        "streamer status --operations".to_owned(),
        "streamer subscribe -d db -c c --max-retries 1 --addr".to_owned(),
        format!("{publish} -d db -c c --max-retries 1 --addr"),
    ] {
        for (direct, connects) in [("", true), ("--direct", false)] {
            let line = format!("{command} {SERVER} {direct}");
            let mut command = steadfast(&words(&line));
            command.env_remove("NO_PROXY").env_remove("no_proxy");
            let output = command.env("HTTPS_PROXY", &proxy).output();
            let output = timeout(LIMIT, output).await.expect("an end").unwrap();
            assert!(!output.status.success(), "{line}: {output:?}");
            let connected = requests.try_recv();
            if connects {
                let request = format!("CONNECT {SERVER} HTTP/1.1\r\n");
                assert_eq!(connected, Ok(request), "{line}: {output:?}");
            } else {
                assert!(connected.is_err(), "{line}: {connected:?}");
            }
            while requests.try_recv().is_ok() {}
        }
    }
}
