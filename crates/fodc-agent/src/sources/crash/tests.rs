use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    time::Duration,
};

use super::*;

/// Creates a folder with a record, last changed this many seconds after 1970.
fn crash(directory: &Path, name: &str, record: &str, seconds: u64) {
    let folder = directory.join(name);
    fs::create_dir_all(&folder).unwrap();
    write(&folder.join(RECORD), record.as_bytes(), seconds);
}

fn write(path: &Path, contents: &[u8], seconds: u64) {
    fs::write(path, contents).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds))
        .unwrap();
}

fn read(sources: &CrashSources) -> Vec<StreamCrashDiagnosticsRequest> {
    sources
        .find()
        .iter()
        .filter_map(|crash| crash.read(1_500))
        .collect()
}

fn in_directory(path: &Path) -> CrashSources {
    CrashSources {
        directory: Some(path.to_owned()),
        files: Vec::new(),
    }
}

#[test]
fn folders_with_a_panic_are_crashes_newest_first() {
    let temp = tempfile::tempdir().unwrap();
    crash(temp.path(), "old", r#"{"panicValue":"a"}"#, 1);
    crash(temp.path(), "new", r#"{"panicValue":"b"}"#, 2);
    fs::write(temp.path().join("new/heap.pprof"), "x").unwrap();
    fs::create_dir(temp.path().join("empty")).unwrap();
    fs::write(temp.path().join("panic.json"), "{}").unwrap();
    let crashes = read(&in_directory(temp.path()));
    let names: Vec<_> = crashes.iter().map(|crash| &*crash.artifact_dir).collect();
    assert_eq!(names, ["new", "old"]);
    assert_eq!(crashes[0].files, ["heap.pprof", "panic.json"]);
    let endpoint = format!("file://{}", temp.path().display());
    assert_eq!(crashes[0].source_endpoint, endpoint);
    let fetched = crashes[0].fetched_at.unwrap();
    assert_eq!((fetched.seconds, fetched.nanos), (1, 500_000_000));
}

#[test]
fn half_written_panic_is_read_again() {
    let temp = tempfile::tempdir().unwrap();
    let sources = in_directory(temp.path());
    crash(temp.path(), "c", r#"{"panicValue":"bo"#, 1);
    assert_eq!(read(&sources)[0].panic_record, None);
    crash(temp.path(), "c", r#"{"panicValue":"boom"}"#, 1);
    let record = read(&sources)[0].panic_record.clone().unwrap();
    assert_eq!(record.panic_value, "boom");
}

#[test]
fn crash_outside_the_directory_is_not_read() {
    let temp = tempfile::tempdir().unwrap();
    let inside = temp.path().join("inside");
    fs::create_dir_all(inside.join("linked-record")).unwrap();
    crash(temp.path(), "outside", "{}", 1);
    symlink("../outside", inside.join("linked-folder")).unwrap();
    let record = temp.path().join("outside/panic.json");
    symlink(record, inside.join("linked-record/panic.json")).unwrap();
    assert_eq!(read(&in_directory(&inside)), []);
}

#[test]
fn vanished_crashes_are_left_out() {
    let temp = tempfile::tempdir().unwrap();
    crash(temp.path(), "gone", "{}", 1);
    let sources = in_directory(temp.path());
    let found = sources.find();
    fs::remove_dir_all(temp.path().join("gone")).unwrap();
    assert_eq!(found[0].read(0), None);
    fs::remove_dir_all(temp.path()).unwrap();
    assert!(sources.find().is_empty());
}

#[test]
fn only_the_newest_crashes_are_reported() {
    let temp = tempfile::tempdir().unwrap();
    for number in 0..40 {
        crash(temp.path(), &format!("{number:02}"), "{}", number);
    }
    let crashes = read(&in_directory(temp.path()));
    assert_eq!(crashes.len(), CRASHES_MAX);
    assert_eq!(crashes[0].artifact_dir, "39");
    assert_eq!(crashes[CRASHES_MAX - 1].artifact_dir, "08");
}

#[test]
fn huge_record_is_reported_without_being_read() {
    let temp = tempfile::tempdir().unwrap();
    crash(temp.path(), "huge", "", 1);
    let file = File::options()
        .write(true)
        .open(temp.path().join("huge/panic.json"));
    file.unwrap().set_len(1 << 40).unwrap();
    for number in 0..100 {
        fs::write(temp.path().join(format!("huge/{number}")), "").unwrap();
    }
    let crashes = read(&in_directory(temp.path()));
    let record = crashes[0].panic_record.as_ref().unwrap();
    assert!(
        record.panic_value.contains("1099511627776 bytes"),
        "{record:?}"
    );
    assert_eq!(crashes[0].files.len(), FILES_MAX);
}

#[test]
fn crash_files_of_any_process_are_reported() {
    let temp = tempfile::tempdir().unwrap();
    let text = "\n# A fatal error has been detected\nframe 1\n";
    write(&temp.path().join("hs_err_pid7.log"), text.as_bytes(), 7);
    write(&temp.path().join("core.8"), b"\x7fELF\0\0", 8);
    write(&temp.path().join("notes"), b"-", 9);
    symlink("notes", temp.path().join("core.link")).unwrap();
    let pattern = |name: &str| CrashPattern::new(&format!("{}/{name}", temp.path().display()));
    let sources = CrashSources {
        directory: None,
        // A file that two patterns match is one crash.
        files: ["core.*", "hs_err*", "*.log"]
            .map(|name| pattern(name).unwrap())
            .to_vec(),
    };
    let crashes = read(&sources);
    let seen: Vec<_> = crashes
        .iter()
        .map(|crash| {
            let record = crash.panic_record.as_ref().unwrap();
            let stack = &*record.goroutine_stack;
            (&*crash.artifact_dir, &*record.panic_value, stack)
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("core.8@8", "binary file of 6 bytes", ""),
            (
                "hs_err_pid7.log@7",
                "# A fatal error has been detected",
                text
            ),
        ]
    );
    let facts = &crashes[0].panic_record.as_ref().unwrap().process_metadata;
    assert_eq!(facts["size_bytes"], "6");
}
