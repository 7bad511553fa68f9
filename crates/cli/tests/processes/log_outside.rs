//! What others do to the files of a log: they fill the disk, take away permissions, and remove, cut, swap
//! or restore files, while the server runs and while it does not.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    process::Command,
    time::{sleep, timeout},
};

use crate::{
    log_faults::{SEGMENT, content, copy, lines, log, publish, refused},
    process::{Ended, LIMIT, Server, Subscription, next, run, steadfast, words},
};

/// Segments of 64 KiB.
const SMALL: &[&str] = &["--listen", "127.0.0.1:0", "--retain-size", "512KiB"];
const SECOND: &str = "00000000000000000002.seg";
const DROPPED: u32 = 65_534;

/// Publishes the events 1 to `last`, and returns the position of the first one.
async fn fill(server: &Server, last: u64) -> String {
    let subscribe = format!(
        "streamer subscribe --json -d db -c c --limit 1 --addr {}",
        server.addr
    );
    let subscription = Subscription::start(&words(&subscribe)).await;
    for first in (1..=last).step_by(50) {
        publish(server, first, last.min(first + 49)).await;
    }
    let (lines, _) = subscription.rest().await;
    let first: Value = serde_json::from_str(&lines[0]).unwrap();
    first["position"].as_str().unwrap().to_owned()
}

async fn subscribe(server: &Server, from: &str) -> Subscription {
    let subscribe = format!(
        "streamer subscribe --json -d db -c c --from {from} --addr {}",
        server.addr
    );
    Subscription::start(&words(&subscribe)).await
}

/// Reads changes up to the one with this number. Returns the numbers, or `None` for a resync.
async fn read_to(subscription: &mut Subscription, last: u64) -> Option<Vec<u64>> {
    let mut numbers = Vec::new();
    while numbers.last() != Some(&last) {
        let line = next(&mut subscription.out).await.expect("another item");
        let item: Value = serde_json::from_str(&line).unwrap();
        match item["type"].as_str().unwrap() {
            "change" => numbers.push(item["data"]["n"].as_u64().unwrap()),
            "resync" => return None,
            other => panic!("{other}: {line}"),
        }
    }
    Some(numbers)
}

/// Reads from a position up to a change.
async fn read(server: &Server, from: &str, last: u64) -> Option<Vec<u64>> {
    read_to(&mut subscribe(server, from).await, last).await
}

/// Asserts that a subscriber with this position gets a resync, and then the next change.
async fn check_resync(server: &Server, from: &str, next: u64, name: &str) {
    let mut subscription = subscribe(server, from).await;
    assert_eq!(read_to(&mut subscription, next).await, None, "{name}");
    publish(server, next, next).await;
    let then = read_to(&mut subscription, next).await;
    assert_eq!(then, Some(vec![next]), "{name}");
}

/// Cuts a file in place.
fn cut(file: &Path, length: u64) {
    let file = fs::File::options().write(true).open(file).unwrap();
    file.set_len(length).unwrap();
}

fn swap(first: &Path, second: &Path) {
    let aside = first.with_extension("aside");
    fs::rename(first, &aside).unwrap();
    fs::rename(second, first).unwrap();
    fs::rename(&aside, second).unwrap();
}

async fn ended(server: &mut Server) -> Option<i32> {
    let status = timeout(LIMIT, server.child.wait()).await.unwrap();
    status.unwrap().code()
}

#[tokio::test]
async fn lost_end_of_a_log_is_damage() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 3] = [
        ("deleted", |dir| fs::remove_file(dir.join(SEGMENT)).unwrap()),
        ("emptied", |dir| cut(&dir.join(SEGMENT), 0)),
        ("cut", |dir| cut(&dir.join(SEGMENT), 8_000)),
    ];
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path(), "127.0.0.1:0").await;
    let first = fill(&server, 20).await;
    // Much less than the time after which the index knows of the events.
    sleep(Duration::from_millis(300)).await;
    server.child.kill().await.unwrap();
    for (name, damage) in damages {
        let copy = copy(data.path());
        let sound = log("verify", copy.path()).await;
        assert_eq!(sound.code, Some(0), "{name}: {sound:?}");
        let limit = "the loss of events of its last 0.1 s";
        assert!(sound.stderr.contains(limit), "{name}: {sound:?}");
        damage(copy.path());
        let verified = log("verify", copy.path()).await;
        assert_eq!(verified.code, Some(1), "{name}: {verified:?}");
        assert!(verified.stdout.contains(" to 20: "), "{name}: {verified:?}");
        let server = Server::start(copy.path(), "127.0.0.1:0").await;
        check_resync(&server, &first, 21, name).await;
    }
    // After an orderly stop nothing is left that could not be noticed.
    let mut server = Server::start(data.path(), "127.0.0.1:0").await;
    let id = server.child.id().unwrap().to_string();
    let stopped = std::process::Command::new("kill").arg(id).status();
    assert!(stopped.unwrap().success());
    assert_eq!(ended(&mut server).await, Some(0));
    let Ended { stderr, .. } = log("verify", data.path()).await;
    assert_eq!(stderr, "");
}

#[tokio::test]
async fn restored_copy_is_a_resync_for_who_had_seen_more() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path(), "127.0.0.1:0").await;
    let first = fill(&server, 10).await;
    server.child.kill().await.unwrap();
    let copy = copy(data.path());
    let mut server = Server::start(data.path(), "127.0.0.1:0").await;
    let eleventh = fill(&server, 10).await;
    server.child.kill().await.unwrap();
    // The same offsets, another history.
    let server = Server::start(copy.path(), "127.0.0.1:0").await;
    publish(&server, 11, 25).await;
    check_resync(&server, &eleventh, 26, "the copy").await;
    let all = (2..=26).collect();
    assert_eq!(read(&server, &first, 26).await, Some(all));
}

#[tokio::test]
async fn damage_under_a_running_server_costs_its_events_only() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 3] = [
        ("flipped", |dir| {
            let mut bytes = fs::read(dir.join(SEGMENT)).unwrap();
            let at = bytes.windows(7).position(|it| it == b"\"n\":11,").unwrap();
            bytes[at] ^= 1;
            // In place: another file under this name would be another fault.
            let mut file = fs::File::options()
                .write(true)
                .open(dir.join(SEGMENT))
                .unwrap();
            file.write_all(&bytes).unwrap();
        }),
        ("swapped", |dir| swap(&dir.join(SEGMENT), &dir.join(SECOND))),
        ("cut", |dir| cut(&dir.join(SEGMENT), 8_000)),
    ];
    for (name, damage) in damages {
        let data = tempfile::tempdir().unwrap();
        let mut server = Server::start_with(data.path(), SMALL).await;
        let first = fill(&server, 400).await;
        // A server that wrote the events has them in memory.
        server.child.kill().await.unwrap();
        let mut server = Server::start_with(data.path(), SMALL).await;
        damage(data.path());
        check_resync(&server, &first, 401, name).await;
        assert!(server.child.try_wait().unwrap().is_none(), "{name}");
    }
}

#[tokio::test]
async fn file_that_is_deleted_under_a_server_stops_it() {
    for name in [SEGMENT, SECOND, "log.redb", "head"] {
        let data = tempfile::tempdir().unwrap();
        let mut server = Server::start_with(data.path(), SMALL).await;
        fill(&server, 400).await;
        fs::remove_file(data.path().join(name)).unwrap();
        // At most a second after the last search, with the next entry.
        sleep(Duration::from_millis(1_100)).await;
        let entry = format!(
            "streamer publish -d db -c c --max-retries 2 --initial-backoff 50ms --addr {}",
            server.addr
        );
        // Acknowledged or not: the search follows the commit.
        run(&words(&entry), Some(&lines(401, 401))).await;
        assert_eq!(ended(&mut server).await, Some(1), "{name}");
        let verified = log("verify", data.path()).await;
        // The file of the head is written again, and its absence is told.
        let is_told = verified.code == Some(1) || verified.stderr.contains("`head` is missing");
        assert!(is_told, "{name}: {verified:?}");
        Server::start_with(data.path(), SMALL).await;
    }
}

/// Returns the command of a server on `data` that permissions bind, or `None` if there is no way.
async fn bound_by_permissions(data: &Path) -> Option<Command> {
    let mut command = steadfast(&["streamer", "serve"]);
    command.args(SMALL).arg("--data").arg(data);
    // Permissions do not bind the superuser.
    if rustix::process::geteuid().is_root() {
        let binary = env!("CARGO_BIN_EXE_steadfast");
        let reachable = Command::new(binary).uid(DROPPED).arg("--version").output();
        if reachable.await.is_err() {
            eprintln!("skipped: {binary} cannot be started by another user");
            return None;
        }
        chown(data, Some(DROPPED), Some(DROPPED)).unwrap();
        command.uid(DROPPED).gid(DROPPED);
    }
    Some(command)
}

#[tokio::test]
async fn directory_without_permission_refuses_entries_only() {
    let data = tempfile::tempdir().unwrap();
    let Some(command) = bound_by_permissions(data.path()).await else {
        return;
    };
    let mut server = Server::spawn(command).await;
    let first = fill(&server, 50).await;
    let permit = |mode| fs::set_permissions(data.path(), fs::Permissions::from_mode(mode));
    permit(0o500).unwrap();
    // What is left of the segment is filled; the next one cannot be created.
    let (mut publisher, _told) = refused(&server, 51, 250, "Permission denied").await;
    let all = Some((2..=50).collect());
    assert_eq!(read(&server, &first, 50).await, all, "reading goes on");
    assert!(server.child.try_wait().unwrap().is_none());
    permit(0o700).unwrap();
    let status = timeout(LIMIT, publisher.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
    server.child.kill().await.unwrap();
    let verified = log("verify", data.path()).await;
    let sound = "250 events are sound, 0 are damaged or missing\n";
    assert_eq!(verified.stdout, sound, "{verified:?}");
}

/// Publishes for longer than two of the intervals at which the log searches for events to remove and for files
/// that are gone. Returns the number of the next event.
async fn publish_for_a_while(server: &Server, mut next: u64) -> u64 {
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(2_500) {
        publish(server, next, next).await;
        next += 1;
    }
    next
}

#[tokio::test]
async fn files_without_permission_stop_no_server() {
    let data = tempfile::tempdir().unwrap();
    let Some(command) = bound_by_permissions(data.path()).await else {
        return;
    };
    let mut server = Server::spawn(command).await;
    let first = fill(&server, 400).await;
    // A server that wrote the events has them in memory.
    server.child.kill().await.unwrap();
    let command = bound_by_permissions(data.path()).await.unwrap();
    let mut server = Server::spawn(command).await;
    let permit = |mode| {
        for file in content(data.path()).keys() {
            fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    permit(0o400);
    let next = publish_for_a_while(&server, 401).await;
    let all = Some((2..next).collect());
    assert_eq!(read(&server, &first, next - 1).await, all, "read-only");
    permit(0o000);
    let mut waiting = subscribe(&server, &first).await;
    let next = publish_for_a_while(&server, next).await;
    assert!(server.child.try_wait().unwrap().is_none());
    permit(0o600);
    let all = Some((2..next).collect());
    assert_eq!(read_to(&mut waiting, next - 1).await, all, "no resync");

    // What a start cannot open is named.
    server.child.kill().await.unwrap();
    for name in [SEGMENT, "log.redb", "head", "lock"] {
        let file = data.path().join(name);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
        let mut command = bound_by_permissions(data.path()).await.unwrap();
        let ended = timeout(LIMIT, command.output()).await.unwrap().unwrap();
        assert_eq!(ended.status.code(), Some(5), "{name}: {ended:?}");
        let told = String::from_utf8(ended.stderr).unwrap();
        let expected = format!("cannot open {name}: Permission denied");
        assert!(told.contains(&expected), "{name}: {told}");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

#[tokio::test]
async fn disk_that_others_fill_refuses_entries_only() {
    let data = tempfile::tempdir().unwrap();
    let mounted = "mount -t tmpfs -o size=160m tmpfs \"$0\" && exec \"$@\"";
    let shell = |command: &[&str]| {
        let mut shell = Command::new("unshare");
        shell.args(["--map-root-user", "--mount", "sh", "-c", mounted]);
        shell
            .arg(data.path())
            .args(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        shell
    };
    let possible = shell(&["true"]).status().await;
    if !possible.is_ok_and(|status| status.success()) {
        eprintln!("skipped: this system lets a test mount no file system of its own");
        return;
    }
    let path = data.path().to_str().unwrap();
    let serve = [env!("CARGO_BIN_EXE_steadfast"), "streamer", "serve"];
    let flags = ["--listen", "127.0.0.1:0", "--data", path];
    let mut server = Server::spawn(shell(&[&serve[..], &flags].concat())).await;
    let first = fill(&server, 20).await;
    // The directory as the server sees it.
    let id = server.child.id().unwrap();
    let inside = Path::new("/proc").join(format!("{id}/root{path}"));
    let other = inside.join("of-somebody-else");
    let mut file = fs::File::create(&other).unwrap();
    while file.write_all(&[1; 4_096]).is_ok() {}
    let (mut publisher, _told) = refused(&server, 21, 30, "free space").await;
    // Longer than the ten seconds after which the index is due.
    sleep(Duration::from_secs(12)).await;
    let all = Some((2..=20).collect());
    assert_eq!(read(&server, &first, 20).await, all, "reading goes on");
    assert!(server.child.try_wait().unwrap().is_none());
    drop(file);
    fs::remove_file(&other).unwrap();
    let status = timeout(LIMIT, publisher.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
    let all = Some((2..=30).collect());
    assert_eq!(read(&server, &first, 30).await, all);
}
