//! Faults of the disk under the built binary, while it runs and while it does not.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStderr},
    time::timeout,
};

use crate::process::{Ended, LIMIT, Server, next, run, steadfast, words};

pub(crate) const SEGMENT: &str = "00000000000000000001.seg";

/// Lines with the numbers from `first` to `last`, each of about 600 bytes.
pub(crate) fn lines(first: u64, last: u64) -> String {
    let mut text = String::new();
    for n in first..=last {
        let filler = "x".repeat(560);
        writeln!(text, "{{\"id\":\"d{n}\",\"n\":{n},\"text\":\"{filler}\"}}").unwrap();
    }
    text
}

pub(crate) async fn publish(server: &Server, first: u64, last: u64) {
    let publish = format!("streamer publish -d db -c c --addr {}", server.addr);
    let published = run(&words(&publish), Some(&lines(first, last))).await;
    assert_eq!(published.code, Some(0), "{published:?}");
}

/// Starts a publisher, and returns it when it has told why its entries are refused. It goes on trying.
pub(crate) async fn refused(
    server: &Server,
    first: u64,
    last: u64,
    why: &str,
) -> (Child, Lines<BufReader<ChildStderr>>) {
    let publish = format!(
        "streamer publish -d db -c c --initial-backoff 50ms --max-backoff 200ms --addr {}",
        server.addr
    );
    let mut command = steadfast(&words(&publish));
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input
        .write_all(lines(first, last).as_bytes())
        .await
        .unwrap();
    drop(input);
    let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
    while !next(&mut told).await.expect(why).contains(why) {}
    (child, told)
}

/// Returns the directory of a log with 400 events in several segments, whose server was killed.
async fn killed_log() -> TempDir {
    let data = tempfile::tempdir().unwrap();
    let flags = words("--listen 127.0.0.1:0 --retain-size 512KiB");
    let mut server = Server::start_with(data.path(), &flags).await;
    for first in (1..400).step_by(50) {
        publish(&server, first, first + 49).await;
    }
    server.child.kill().await.unwrap();
    assert!(data.path().join("00000000000000000003.seg").exists());
    data
}

pub(crate) async fn log(command: &str, data: &Path) -> Ended {
    let data = data.to_str().unwrap();
    run(
        &words(&format!("streamer log {command} --data {data}")),
        None,
    )
    .await
}

/// Returns the content of every file.
pub(crate) fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    files
        .map(|file| (file.clone(), fs::read(file).unwrap()))
        .collect()
}

/// Copies the files of a log into a new directory.
pub(crate) fn copy(from: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for (file, bytes) in content(from) {
        fs::write(copy.path().join(file.file_name().unwrap()), bytes).unwrap();
    }
    copy
}

#[tokio::test]
async fn verify_and_dump_write_nothing_and_need_no_lock_file() {
    let data = killed_log().await;
    fs::remove_file(data.path().join("lock")).unwrap();
    let before = content(data.path());
    for _ in 0..2 {
        let verified = log("verify", data.path()).await;
        assert_eq!(verified.code, Some(0), "{verified:?}");
        let sound = "400 events are sound, 0 are damaged or missing\n";
        assert_eq!(verified.stdout, sound, "{verified:?}");
        let dumped = log("dump --after 350", data.path()).await;
        assert_eq!(dumped.code, Some(0), "{dumped:?}");
        assert_eq!(dumped.stdout.lines().count(), 50);
    }
    assert!(content(data.path()) == before, "a file changed");

    let server = Server::start(data.path(), "127.0.0.1:0").await;
    for command in ["verify", "dump"] {
        let busy = log(command, data.path()).await;
        assert_eq!(busy.code, Some(1), "{busy:?}");
        assert!(
            busy.stderr.contains("in use by another process"),
            "{busy:?}"
        );
    }
    drop(server);
}

#[tokio::test]
async fn reader_that_leaves_ends_a_dump_quietly() {
    let data = killed_log().await;
    let path = data.path().to_str().unwrap();
    let mut child = steadfast(&["streamer", "log", "dump", "--data", path])
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = timeout(LIMIT, child.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    let ended = (output.status.code(), output.stderr);
    assert_eq!(ended, (Some(0), Vec::new()), "a closed pipe is no error");
}

#[tokio::test]
async fn verify_names_each_damage_its_place_and_a_remedy() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage, &[&str]); 7] = [
        (
            "flipped bit",
            |dir| {
                let file = dir.join(SEGMENT);
                let mut bytes = fs::read(&file).unwrap();
                let at = bytes.windows(7).position(|it| it == b"\"n\":11,").unwrap();
                bytes[at] ^= 1;
                fs::write(file, bytes).unwrap();
            },
            &[
                "00000000000000000001.seg, damaged or missing: 11 to 11: its checksum does not match",
                "get a resync",
                "399 events are sound, 1 are damaged",
            ],
        ),
        (
            "cut file",
            |dir| {
                let file = fs::File::options()
                    .write(true)
                    .open(dir.join(SEGMENT))
                    .unwrap();
                file.set_len(30_000).unwrap();
            },
            &[
                "00000000000000000001.seg, damaged or missing: ",
                "restore the directory",
            ],
        ),
        (
            "empty file",
            |dir| fs::write(dir.join(SEGMENT), "").unwrap(),
            &["00000000000000000001.seg: its header cannot be used: it is truncated"],
        ),
        (
            "swapped files",
            |dir| {
                let [first, second] = [SEGMENT, "00000000000000000002.seg"].map(|it| dir.join(it));
                let aside = dir.join("aside");
                fs::rename(&first, &aside).unwrap();
                fs::rename(&second, &first).unwrap();
                fs::rename(&aside, &second).unwrap();
            },
            &[
                "00000000000000000001.seg: its header cannot be used: its content is invalid",
                "00000000000000000002.seg: its header cannot be used: its content is invalid",
            ],
        ),
        (
            "deleted file",
            |dir| fs::remove_file(dir.join("00000000000000000002.seg")).unwrap(),
            &[
                "00000000000000000001.seg, damaged or missing: ",
                "it is missing",
            ],
        ),
        (
            "broken index",
            |dir| fs::write(dir.join("log.redb"), "no index").unwrap(),
            &[
                "log.redb: ",
                "`steadfast streamer log repair`",
                "400 events are sound, 0",
            ],
        ),
        (
            "deleted index",
            |dir| fs::remove_file(dir.join("log.redb")).unwrap(),
            &[
                "log.redb: it is missing; a server rebuilds it",
                "400 events are sound, 0",
            ],
        ),
    ];
    let data = killed_log().await;
    for (name, damage, told) in cases {
        let copy = copy(data.path());
        damage(copy.path());
        let verified = log("verify", copy.path()).await;
        assert_eq!(verified.code, Some(1), "{name}: {verified:?}");
        for told in told {
            assert!(
                verified.stdout.contains(told),
                "{name}: {told}: {verified:?}"
            );
        }
        // A server starts on everything but a broken index, and keeps what is sound.
        if name != "broken index" {
            let server = Server::start(copy.path(), "127.0.0.1:0").await;
            publish(&server, 401, 410).await;
        }
    }
}

/// Sets the limit on the size of files of a process.
fn limit_files(child: &Child, bytes: Option<u64>) {
    let id = i32::try_from(child.id().unwrap()).unwrap();
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    prlimit(Pid::from_raw(id), Resource::Fsize, limit).unwrap();
}

#[tokio::test]
async fn limit_on_file_size_refuses_entries_until_it_is_raised() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path(), "127.0.0.1:0").await;
    // The segment that the first entry needs does not fit.
    limit_files(&server.child, Some(1 << 20));
    let (mut child, _told) = refused(&server, 1, 3, "the disk accepts no more data").await;
    assert!(
        server.child.try_wait().unwrap().is_none(),
        "the server ended"
    );
    limit_files(&server.child, None);
    let status = timeout(LIMIT, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
    server.child.kill().await.unwrap();
    let verified = log("verify", data.path()).await;
    assert!(
        verified.stdout.contains("3 events are sound, 0"),
        "{verified:?}"
    );
}

#[tokio::test]
async fn index_waits_for_a_limit_on_file_size() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().to_str().unwrap();
    let flags = [
        "streamer",
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--data",
        path,
    ];
    let mut child = steadfast(&flags).spawn().unwrap();
    // A segment fits, and the index as it is. It could not grow.
    limit_files(&child, Some((16 << 20) + (64 << 10)));
    let mut ready = BufReader::new(child.stdout.take().unwrap()).lines();
    let addr = next(&mut ready).await.unwrap();
    let addr = addr.strip_prefix("ready ").unwrap();
    let feed = format!("feed generator --count 6000 --publish db/c --addr {addr}");
    let published = run(&words(&feed), None).await;
    assert_eq!(published.code, Some(0), "{published:?}");
    let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
    let warning = next(&mut told).await.unwrap();
    assert!(
        warning.contains("the index of the log waits for space"),
        "{warning}"
    );
    child.kill().await.unwrap();
    let verified = log("verify", data.path()).await;
    assert!(
        verified.stdout.contains("6000 events are sound, 0"),
        "{verified:?}"
    );
}

#[tokio::test]
async fn file_that_is_cut_while_a_server_writes_stops_it() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path(), "127.0.0.1:0").await;
    publish(&server, 1, 20).await;
    // An orderly stop writes the index, which then knows what is missing.
    let pid = server.child.id().unwrap().to_string();
    let told = std::process::Command::new("kill")
        .args(["-TERM", &pid])
        .status();
    assert!(told.unwrap().success());
    timeout(LIMIT, server.child.wait()).await.unwrap().unwrap();
    let mut server = Server::start(data.path(), "127.0.0.1:0").await;
    let segment = fs::File::options()
        .write(true)
        .open(data.path().join(SEGMENT));
    segment.unwrap().set_len(4_096).unwrap();
    let publish = format!(
        "streamer publish -d db -c c --max-retries 2 --initial-backoff 50ms --addr {}",
        server.addr
    );
    let failed = run(&words(&publish), Some(&lines(21, 22))).await;
    assert_eq!(failed.code, Some(1), "{failed:?}");
    // The server may be gone before it has told the reason, which is in its own last words then.
    let told = failed.stderr.contains("00000000000000000001.seg was cut");
    let unacknowledged = failed.stderr.contains("not acknowledged");
    assert!(told || unacknowledged, "{failed:?}");
    let status = timeout(LIMIT, server.child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(1));
    let verified = log("verify", data.path()).await;
    assert_eq!(verified.code, Some(1), "{verified:?}");
    assert!(
        verified.stdout.contains("damaged or missing: "),
        "{verified:?}"
    );
}

#[tokio::test]
async fn start_without_space_is_not_called_damage() {
    let data = killed_log().await;
    let before = content(data.path());
    for (command, code) in [
        ("streamer serve --listen 127.0.0.1:0", 5),
        ("streamer log repair", 1),
    ] {
        let mut shell = tokio::process::Command::new("sh");
        // In blocks of 512 bytes: no write to the index succeeds.
        shell.args([
            "-c",
            "ulimit -f 1; exec \"$0\" \"$@\"",
            env!("CARGO_BIN_EXE_steadfast"),
        ]);
        shell.args(words(command)).arg("--data").arg(data.path());
        let output = timeout(LIMIT, shell.output()).await.unwrap().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains("File too large"), "{told}");
        assert!(!told.contains("damaged"), "{told}");
    }
    // The index was not replaced.
    assert!(content(data.path()).keys().eq(before.keys()));
    let verified = log("verify", data.path()).await;
    assert_eq!(verified.code, Some(0), "{verified:?}");
}

#[tokio::test]
async fn deferred_syncs_say_what_they_can_lose() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().to_str().unwrap();
    let flags = [
        "streamer",
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--data",
        path,
    ];
    let mut server = steadfast(&[&flags[..], &["--sync", "every=50ms"]].concat())
        .spawn()
        .unwrap();
    let mut ready = BufReader::new(server.stdout.take().unwrap()).lines();
    let addr = next(&mut ready).await.unwrap();
    let mut told = BufReader::new(server.stderr.take().unwrap()).lines();
    let warning = next(&mut told).await.unwrap();
    assert!(warning.contains("a power failure"), "{warning}");
    assert!(warning.contains("50ms"), "{warning}");
    let addr = addr.strip_prefix("ready ").unwrap();
    let publish = format!("streamer publish -d db -c c --addr {addr}");
    let published = run(&words(&publish), Some(&lines(1, 20))).await;
    assert_eq!(published.code, Some(0), "{published:?}");
    let operations = next(&mut ready).await.unwrap();
    let operations = operations.strip_prefix("operations ").unwrap();
    let status = format!("streamer status --operations {operations}");
    let status = run(&words(&status), None).await;
    let warning = "only every 50 ms: a power failure loses";
    assert!(status.stdout.contains(warning), "{status:?}");
    // The end of the process loses nothing, whenever it comes.
    server.kill().await.unwrap();
    let verified = log("verify", data.path()).await;
    assert!(
        verified.stdout.contains("20 events are sound, 0"),
        "{verified:?}"
    );

    for mode in ["often", "every=", "every=0s", "every=1h"] {
        let refused = run(&[&flags[..], &["--sync", mode]].concat(), None).await;
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains("--sync"), "{refused:?}");
    }
}
