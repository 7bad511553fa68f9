use std::os::unix::fs::symlink;

use super::*;

fn store(directory: &Path, artifacts: usize, bytes: u64) -> ProfileStore {
    let mut settings = PressureProfiler::new(6060);
    settings.directory = directory.to_owned();
    settings.max_artifacts = artifacts;
    settings.max_disk_bytes = bytes;
    ProfileStore::new(&settings)
}

fn at(seconds: i64) -> Instant {
    Instant::from_second(1_772_352_000 + seconds).unwrap()
}

fn meta(seconds: i64, rss_bytes: u64) -> Meta {
    Meta {
        profile_id: profile_id(at(seconds)),
        captured_at: at(seconds),
        source_endpoint: "http://localhost:6060".to_owned(),
        rss_bytes,
        cgroup_limit_bytes: 1000,
        trigger_percent: 75,
        threshold_bytes: 750,
    }
}

/// Stores a capture with one profile of this many bytes.
fn capture(store: &ProfileStore, seconds: i64, rss_bytes: u64, size: usize) {
    let meta = meta(seconds, rss_bytes);
    let folder = store.begin(&meta.profile_id).unwrap();
    fs::write(folder.join("heap.pprof"), vec![b'x'; size]).unwrap();
    store.commit(&meta).unwrap();
}

fn listed(store: &ProfileStore) -> Vec<i64> {
    let records = store.list().into_iter();
    records
        .map(|record| record.captured_at.unwrap().seconds - at(0).as_second())
        .collect()
}

#[test]
fn capture_is_listed_with_its_files() {
    let temp = tempfile::tempdir().unwrap();
    let store = store(temp.path(), 16, 1 << 20);
    assert_eq!(store.list(), []);
    capture(&store, 0, 800, 5);
    let records = store.list();
    assert_eq!(records[0].profile_id, "20260301T080000.000000000Z");
    assert_eq!(
        (records[0].rss_bytes, records[0].threshold_bytes),
        (800, 750)
    );
    let [profile] = &records[0].profiles[..] else {
        panic!("{records:?}");
    };
    assert_eq!((profile.r#type.as_str(), profile.size_bytes), ("heap", 5));
    let mut contents = String::new();
    let mut file = store.open(&profile.filepath).unwrap();
    file.read_to_string(&mut contents).unwrap();
    assert_eq!(contents, "xxxxx");
}

#[test]
fn download_never_leaves_the_directory_of_profiles() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("profiles");
    let store = store(&root, 16, 1 << 20);
    capture(&store, 0, 800, 5);
    let id = profile_id(at(0));
    fs::write(temp.path().join("heap.pprof"), "secret").unwrap();
    symlink("../../heap.pprof", root.join(&id).join("goroutine.pprof")).unwrap();
    let linked = profile_id(at(1));
    symlink("..", root.join(&linked)).unwrap();
    let absolute = |rest: &str| format!("{}/{rest}", root.display());
    for (path, escapes) in [
        ("../../etc/passwd".to_owned(), true),
        ("/etc/passwd".to_owned(), true),
        (absolute("../heap.pprof"), true),
        (absolute(&format!("{id}/../../heap.pprof")), true),
        (format!("{}-other/{id}/heap.pprof", root.display()), true),
        (absolute(&format!("{id}/goroutine.pprof")), false),
        (absolute(&format!("{linked}/heap.pprof")), false),
        (absolute(&format!("{id}/meta.json")), false),
        (absolute(""), false),
        (String::new(), false),
        (format!("{id}/heap.pprof/x"), false),
    ] {
        match store.open(&path).unwrap_err() {
            PathRefused::Escapes => assert!(escapes, "{path}"),
            PathRefused::Missing(_) => assert!(!escapes, "{path}"),
        }
    }
    assert!(store.open(&absolute(&format!("{id}/heap.pprof"))).is_ok());
    assert!(store.open(&format!("./{id}/heap.pprof")).is_ok());
}

#[test]
fn directory_may_be_a_relative_path() {
    // In the package, which is where tests run.
    let temp = tempfile::tempdir_in("tests").unwrap();
    let name = temp.path().file_name().unwrap();
    let store = store(&Path::new("tests").join(name), 16, 1 << 20);
    capture(&store, 0, 800, 5);
    let filepath = store.list()[0].profiles[0].filepath.clone();
    assert!(filepath.starts_with("tests/"), "{filepath}");
    assert!(store.open(&filepath).is_ok());
    let parent = format!("tests/{}/../agent_sources.rs", name.display());
    assert!(matches!(store.open(&parent), Err(PathRefused::Escapes)));
}

#[test]
fn eviction_takes_the_least_memory_first() {
    let artifact = |number: u64, rss_bytes, bytes| Artifact {
        id: format!("{number}"),
        rss_bytes,
        bytes,
    };
    let four = vec![
        artifact(1, 30, 10),
        artifact(2, 20, 10),
        artifact(3, 20, 10),
        artifact(4, 10, 10),
    ];
    for (artifacts, bytes, newest, oldest, evicted) in [
        (4, 40, Some("4"), None, vec![]),
        (3, 40, Some("4"), None, vec!["2"]),
        (3, 40, None, None, vec!["4"]),
        (4, 25, Some("4"), None, vec!["2", "3"]),
        // The newest goes only if it does not fit alone.
        (4, 10, Some("4"), None, vec!["2", "3", "1"]),
        (4, 5, Some("4"), None, vec!["2", "3", "1", "4"]),
        (4, 40, Some("4"), Some("3"), vec!["1", "2"]),
        (1, 40, Some("4"), Some("3"), vec!["1", "2", "3"]),
    ] {
        let limits = Limits {
            artifacts,
            bytes,
            age: None,
        };
        assert_eq!(limits.evicted(four.clone(), newest, oldest), evicted);
    }
}

#[test]
fn directory_stays_within_its_limits() {
    let temp = tempfile::tempdir().unwrap();
    let store = store(temp.path(), 3, 10_000);
    for (second, rss) in [(0, 900), (1, 700), (2, 800), (3, 750)] {
        capture(&store, second, rss, 100);
    }
    assert_eq!(listed(&store), [0, 2, 3]);
    capture(&store, 4, 1000, 9_000);
    assert_eq!(listed(&store), [0, 2, 4]);
    capture(&store, 5, 1000, 20_000);
    assert_eq!(listed(&store), [0; 0]);
}

#[test]
fn capture_older_than_the_limit_is_removed() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = store(temp.path(), 16, 1 << 20);
    store.limits.age = Some(Duration::from_secs(60));
    capture(&store, 0, 900, 1);
    capture(&store, 60, 800, 1);
    assert_eq!(listed(&store), [0, 60]);
    store.evict(None, at(61));
    assert_eq!(listed(&store), [60]);
    store.limits.age = Some(Duration::MAX);
    store.evict(None, at(61));
    assert_eq!(listed(&store), [60]);
}

#[test]
fn only_half_written_captures_are_cleaned() {
    let temp = tempfile::tempdir().unwrap();
    let store = store(temp.path(), 16, 1 << 20);
    capture(&store, 0, 900, 1);
    let half = store.begin(&profile_id(at(1))).unwrap();
    fs::write(half.join("heap.pprof"), "x").unwrap();
    // A capture of another program, and folders that are none.
    let foreign = store.begin(&profile_id(at(2))).unwrap();
    fs::write(foreign.join(META), "{}").unwrap();
    for name in ["notes", "20260301T080000", "20260301T080000.Z"] {
        fs::create_dir(temp.path().join(name)).unwrap();
    }
    assert_eq!(listed(&store), [0]);
    store.clean(at(3));
    assert!(!half.exists());
    assert!(foreign.exists());
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 5);
    assert_eq!(listed(&store), [0]);
}

#[test]
fn vanishing_files_are_left_out_of_the_list() {
    let temp = tempfile::tempdir().unwrap();
    let store = store(temp.path(), 16, 1 << 20);
    capture(&store, 0, 900, 1);
    fs::remove_file(temp.path().join(profile_id(at(0))).join("heap.pprof")).unwrap();
    assert_eq!(store.list()[0].profiles, []);
    fs::remove_dir_all(temp.path()).unwrap();
    assert_eq!(store.list(), []);
    store.clean(at(1));
}
