//! Settings from the environment, which a test can set only for another process.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt as _};

use tokio::time::timeout;

use crate::process::{LIMIT, steadfast};

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
