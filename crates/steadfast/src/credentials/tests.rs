//! Tokens from files and commands. Time is real, because a command is a process.

use std::{fs, time::Duration};

use tempfile::TempDir;

use super::*;

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

async fn value(source: &impl Credentials, refused: bool) -> String {
    let metadata = source.metadata(refused).await.unwrap();
    metadata.get("authorization").unwrap().to_owned()
}

#[tokio::test]
async fn token_file_is_read_again_for_every_attempt() {
    let directory = directory();
    let path = directory.path().join("token");
    let source = BearerFile::new(&path);
    fs::write(&path, "first\n").unwrap();
    assert_eq!(value(&source, false).await, "Bearer first");
    fs::write(&path, " second\r\n").unwrap();
    assert_eq!(value(&source, false).await, "Bearer second");
}

#[tokio::test]
async fn unusable_token_file_is_named_without_its_content() {
    let directory = directory();
    let path = directory.path().join("token");
    let source = BearerFile::new(&path);
    let error = source.metadata(false).await.unwrap_err().to_string();
    assert!(error.contains("cannot read the secret in"), "{error}");
    for (content, problem) in [
        (" \n".to_owned(), "empty"),
        ("se cret".to_owned(), "blank"),
        ("se\ncret".to_owned(), "line break"),
        ("sécret".to_owned(), "outside ASCII"),
        ("secret".repeat(10_000), "longer than 16384 bytes"),
    ] {
        fs::write(&path, content).unwrap();
        let error = source.metadata(false).await.unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert!(!error.contains("cret"), "{error}");
    }
    let source = BearerFile::new(directory.path());
    let error = source.metadata(false).await.unwrap_err().to_string();
    assert!(error.ends_with("not a regular file"), "{error}");
}

#[tokio::test]
async fn basic_authentication_takes_the_password_from_its_file() {
    let directory = directory();
    let path = directory.path().join("password");
    let source = BasicFile::new("Aladdin", &path);
    for content in ["open sesame", "open sesame\n", "open sesame\r\n"] {
        fs::write(&path, content).unwrap();
        // The example of RFC 7617.
        assert_eq!(
            value(&source, false).await,
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
        );
    }
    assert!(!format!("{source:?}").contains("sesame"));
}

#[cfg(unix)]
mod commands {
    use super::*;

    const COUNTING: &str = "echo x >> runs; echo token-$(wc -l < runs | tr -d ' ')";

    fn command(directory: &TempDir, line: &str) -> BearerCommand {
        BearerCommand::shell(format!("cd {}; {line}", directory.path().display()))
    }

    #[tokio::test]
    async fn token_of_a_command_is_kept_until_refused_or_old() {
        let directory = directory();
        let source = command(&directory, COUNTING);
        assert_eq!(value(&source, false).await, "Bearer token-1");
        assert_eq!(value(&source.clone(), false).await, "Bearer token-1");
        assert_eq!(value(&source, true).await, "Bearer token-2");
        let other = source.clone();
        let both = tokio::join!(value(&source, true), value(&other, true));
        assert_eq!(both.0, "Bearer token-3");
        assert_eq!(both.1, "Bearer token-3", "one process served both");
        let short = source.clone().with_max_age(Duration::ZERO);
        assert_eq!(value(&short, false).await, "Bearer token-4");
    }

    #[tokio::test]
    async fn failed_command_is_named_without_arguments_or_output() {
        let directory = directory();
        for (source, problem) in [
            (command(&directory, "echo secret; exit 3"), "exit status: 3"),
            (command(&directory, "echo secret >&2"), "the token is empty"),
            (command(&directory, "echo se cret"), "blank"),
            (command(&directory, "yes secret"), "failed ("),
            (BearerCommand::new("/no/such", ["secret"]), "cannot start"),
        ] {
            let error = source.metadata(false).await.unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
            assert!(!error.contains("cret"), "{error}");
            assert!(!format!("{source:?}").contains("cret"));
        }
    }

    /// Waits for the ids of the command and of a process that it started.
    async fn processes(directory: &TempDir) -> Vec<i32> {
        loop {
            let ids = fs::read_to_string(directory.path().join("ids")).unwrap_or_default();
            let ids: Vec<i32> = ids.lines().filter_map(|id| id.parse().ok()).collect();
            if ids.len() == 2 {
                return ids;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn gone(ids: Vec<i32>) {
        let is_running = |id: &i32| {
            let id = rustix::process::Pid::from_raw(*id).unwrap();
            // An orphan that nobody waits for stays in the table after its end.
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            rustix::process::test_kill_process(id).is_ok() && !stat.contains(") Z ")
        };
        let ended = async {
            while ids.iter().any(is_running) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
        ended.expect("both processes are killed");
    }

    const ENDLESS: &str = "sleep 600 & printf '%s\\n%s\\n' $$ $! > ids; wait";

    #[tokio::test]
    async fn slow_command_is_killed_with_what_it_started() {
        let directory = directory();
        let source = command(&directory, ENDLESS).with_timeout(Duration::from_millis(500));
        let error = source.metadata(false).await.unwrap_err();
        assert!(
            matches!(error, CredentialsError::TimedOut { .. }),
            "{error}"
        );
        gone(processes(&directory).await).await;
    }

    #[tokio::test]
    async fn command_is_killed_when_nobody_waits_for_it() {
        let directory = directory();
        let source = command(&directory, ENDLESS).with_timeout(Duration::from_secs(60));
        let ids = tokio::select! {
            _ = source.metadata(false) => unreachable!("the command never ends"),
            ids = processes(&directory) => ids,
        };
        gone(ids).await;
    }
}
