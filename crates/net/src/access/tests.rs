use std::{fs, num::NonZeroU32, path::PathBuf};

use steadfast_access::{Condition, NewToken};
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::RequestRate;

/// A policy file with these lines.
struct Written {
    _folder: TempDir,
    path: PathBuf,
}

impl Written {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.toml");
        fs::write(&path, text).unwrap();
        Self {
            _folder: folder,
            path,
        }
    }

    fn load(&self) -> (AccessControl, PolicyFile) {
        let source = Source::new(&self.path, |_| Ok(()));
        let (control, file) = AccessControl::load(Some(source)).unwrap();
        (control, file.unwrap())
    }
}

fn peer(control: &AccessControl, token: &NewToken) -> KnownPeer {
    let mut headers = HeaderMap::new();
    let value = format!("Bearer {}", token.reveal());
    headers.insert(AUTHORIZATION, value.parse().unwrap());
    let known = control.identify(&headers, &Extensions::new());
    known.unwrap().unwrap()
}

#[tokio::test]
async fn credentials_expire_also_when_nobody_follows_the_file() {
    let token = NewToken::generate().unwrap();
    let until = jiff::Timestamp::now() + Duration::from_secs(1);
    let written = Written::new(&format!("{}\nexpires = {until}\n", token.entry("feeder")));
    let (control, file) = written.load();
    let mut followed = control.follow(peer(&control, &token)).unwrap();
    drop(file);
    let changed = timeout(Duration::from_secs(60), followed.changed());
    assert_eq!(changed.await.unwrap(), Err(Refused::ExpiredToken));
    // Also for those who ask, although the rules are the same.
    let rechecked = control.recheck(followed.peer().clone());
    assert_eq!(rechecked.unwrap_err(), Refused::ExpiredToken);
}

/// The wall clock stands still while virtual time passes, as after a step backwards.
#[tokio::test(start_paused = true)]
async fn expiry_follows_the_wall_clock_and_no_timer() {
    let token = NewToken::generate().unwrap();
    let until = jiff::Timestamp::now() + Duration::from_secs(600);
    let written = Written::new(&format!("{}\nexpires = {until}\n", token.entry("feeder")));
    let (control, _file) = written.load();
    let mut followed = control.follow(peer(&control, &token)).unwrap();
    timeout(Duration::from_secs(1_200), followed.changed())
        .await
        .unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn rules_are_passed_on_again_when_the_clock_was_set() {
    let (control, file) = Written::new("").load();
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let on_change = move |access| sender.send(access).unwrap();
    let following = tokio::spawn(file.follow(on_change, stop.clone()));
    // Virtual time passes, and the wall clock stands still.
    let again = timeout(Duration::from_secs(5), receiver.recv());
    let again = again.await.unwrap().unwrap();
    let current = control.0.unwrap();
    assert!(Arc::ptr_eq(&again, &current.borrow()));
    // Open calls are woken, and compute their times of expiry again, too.
    assert!(current.has_changed().unwrap());
    stop.cancel();
    following.await.unwrap();
}

#[tokio::test]
async fn strangers_do_not_use_up_the_limits_of_each_other() {
    let members = "[[members]]\nroles = ['guest']\nprincipals = ['anonymous']\n";
    let grants = "[[grants]]\nrole = 'guest'\nactions = ['admin']\n";
    let (control, _file) = Written::new(&format!("{grants}{members}")).load();
    let stranger = |address: &str| {
        let mut extensions = Extensions::new();
        extensions.insert(Peer {
            address: Some(address.parse().unwrap()),
            certificate: None,
        });
        let known = control.identify(&HeaderMap::new(), &extensions);
        let known = known.unwrap().unwrap();
        assert_eq!(known.principal(), "anonymous");
        assert!(!known.shares_limits());
        known
    };
    let limits = PrincipalLimits {
        calls: 1,
        ..PrincipalLimits::default()
    };
    let principals = Principals::new(limits, crate::Refusals::default());
    let _first = principals.admit(&stranger("192.0.2.1:1")).unwrap();
    principals.admit(&stranger("192.0.2.1:2")).unwrap_err();
    let _other = principals.admit(&stranger("192.0.2.2:1")).unwrap();
}

#[tokio::test]
async fn part_of_the_process_is_no_principal_of_a_policy() {
    let local = LocalAccess::generate().unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, local.authorization().parse().unwrap());
    let LocalPeer(part) = local.identify(&headers).unwrap();
    let token = NewToken::generate().unwrap();
    let (control, _file) = Written::new(&token.entry("local")).load();
    let same_name = peer(&control, &token);
    assert_ne!(part.principal(), same_name.principal());
    assert!(!part.shares_limits());
    assert!(same_name.shares_limits());
}

#[tokio::test]
async fn token_cannot_become_another_principal_during_a_call() {
    let token = NewToken::generate().unwrap();
    let written = Written::new(&token.entry("feeder"));
    let (control, file) = written.load();
    let mut followed = control.follow(peer(&control, &token)).unwrap();
    let renamed = token.entry("other");
    let access = Access::parse("p", &renamed, |_| unreachable!(), |_| Ok(())).unwrap();
    file.current.send_replace(Arc::new(access));
    assert_eq!(followed.changed().await, Err(Refused::OtherPrincipal));
}

/// The bound of the promise that a withdrawn right acts within a second. Virtual time: a look at the file
/// takes none of it, however busy the machine is.
#[tokio::test(start_paused = true)]
async fn change_of_the_policy_is_in_force_after_two_looks() {
    let token = NewToken::generate().unwrap();
    let written = Written::new(&token.entry("feeder"));
    let (control, file) = written.load();
    let mut followed = control.follow(peer(&control, &token)).unwrap();
    let stop = CancellationToken::new();
    let following = tokio::spawn(file.follow(|_| {}, stop.clone()));
    // Between two looks, so that the first one is awaited as well.
    sleep(5 * POLL_INTERVAL + POLL_INTERVAL / 10).await;
    fs::write(&written.path, "").unwrap();
    let began = Instant::now();
    assert_eq!(followed.changed().await, Err(Refused::UnknownToken));
    assert!(
        began.elapsed() <= 2 * POLL_INTERVAL,
        "{:?}",
        began.elapsed()
    );
    stop.cancel();
    following.await.unwrap();
}

#[tokio::test]
async fn panic_while_reading_does_not_end_following() {
    let written = Written::new("");
    let understands = |condition: &Condition| {
        assert!(!condition.text.starts_with("panic"), "as the test wants");
        Ok(())
    };
    let (current, mut receiver) = watch::channel(Arc::new(Access::default()));
    let source = Source::new(&written.path, understands);
    let stop = CancellationToken::new();
    let file = PolicyFile { source, current };
    let following = tokio::spawn(file.follow(|_| {}, stop.clone()));
    let grant = |field: &str| {
        format!(
            "[[grants]]\nrole = 'a'\ndatabases = ['a']\ncollections = ['a']\n\
             actions = ['subscribe']\nfilter = ['{field} == 1']\n"
        )
    };
    fs::write(&written.path, grant("panic")).unwrap();
    sleep(4 * POLL_INTERVAL).await;
    assert!(!following.is_finished());
    receiver.mark_unchanged();
    fs::write(&written.path, grant("n")).unwrap();
    let changed = timeout(Duration::from_secs(60), receiver.changed());
    changed.await.unwrap().unwrap();
    stop.cancel();
    following.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn calls_of_one_principal_are_limited() {
    let [alice, same, bob] = [(); 3].map(|()| NewToken::generate().unwrap());
    let entries = [("alice", &alice), ("alice", &same), ("bob", &bob)];
    let entries = entries.map(|(name, token)| token.entry(name) + "\n");
    let written = Written::new(&entries.concat());
    let (control, _file) = written.load();
    let [alice, same, bob] = [alice, same, bob].map(|token| peer(&control, &token));
    let number = |n| NonZeroU32::new(n).unwrap();
    let limits = PrincipalLimits {
        calls: 2,
        rate: RequestRate {
            per_second: number(10),
            burst: number(4),
        },
    };
    let refusals = crate::Refusals::default();
    let principals = Principals::new(limits, refusals.clone());
    let first = principals.admit(&alice).unwrap();
    // Another token of the same principal.
    let _second = principals.admit(&same).unwrap();
    let refused = principals.admit(&alice).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    assert!(
        refused.message().contains("you have 2 open calls"),
        "{refused}"
    );
    let _other = principals.admit(&bob).unwrap();
    drop(first);
    let _third = principals.admit(&alice).unwrap();
    let refused = principals.admit(&alice).unwrap_err();
    let pushback = refused.metadata().get("grpc-retry-pushback-ms").unwrap();
    assert_eq!(pushback, "100");
    assert_eq!(refusals.of(crate::Refusal::PrincipalCalls), 1);
    assert_eq!(refusals.of(crate::Refusal::PrincipalRate), 1);
}

#[test]
fn stop_does_not_wait_for_a_file_that_cannot_be_read() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .max_blocking_threads(1)
        .build()
        .unwrap();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let has_ended = runtime.block_on(async {
        // Takes the only thread that could read the file.
        tokio::task::spawn_blocking(move || released.recv());
        let (_control, file) = Written::new("").load();
        let stop = CancellationToken::new();
        let following = tokio::spawn(file.follow(|_| {}, stop.clone()));
        let let_it_run = async || {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        };
        let_it_run().await;
        tokio::time::advance(POLL_INTERVAL).await;
        let_it_run().await;
        stop.cancel();
        let_it_run().await;
        following.is_finished()
    });
    release.send(()).unwrap();
    assert!(has_ended);
}

#[tokio::test]
async fn newer_credentials_of_a_call_are_followed() {
    let [first, second, bob] = [(); 3].map(|()| NewToken::generate().unwrap());
    let entries = [("alice", &first), ("alice", &second), ("bob", &bob)];
    let entries = entries.map(|(name, token)| token.entry(name) + "\n");
    let until = jiff::Timestamp::now() + Duration::from_secs(1);
    let [alice, others @ ..] = entries;
    let text = format!("{alice}expires = {until}\n{}", others.concat());
    let (control, _file) = Written::new(&text).load();
    let bearer = |token: &NewToken| format!("Bearer {}", token.reveal());
    let renewable = RenewablePeer::new(peer(&control, &first));
    let mut followed = control.follow_renewed(renewable.subscribe()).unwrap();
    assert!((1..=1_000).contains(&followed.peer().expires_in_ms()));
    for (refused, cause) in [
        (bearer(&bob), Refused::OtherPrincipal),
        ("Bearer x".to_owned(), Refused::UnknownToken),
    ] {
        let newer = renewable.with_newer(&control, &refused);
        assert_eq!(newer.unwrap_err(), NotRenewed::Refused(cause));
        assert_eq!(followed.update(), Ok(false));
    }
    // A call that nobody renews any more expires.
    let abandoned = RenewablePeer::new(renewable.peer()).subscribe();
    let mut abandoned = control.follow_renewed(abandoned).unwrap();
    let expired = timeout(Duration::from_secs(60), abandoned.changed());
    assert_eq!(expired.await.unwrap(), Err(Refused::ExpiredToken));
    // Newer ones that arrive just then count first.
    let newer = renewable.with_newer(&control, &bearer(&second));
    renewable.replace(newer.unwrap().unwrap());
    let mut other = followed.clone();
    assert_eq!(other.changed().await, Ok(()));
    assert_eq!(other.update(), Ok(false));
    assert_eq!(
        (followed.update(), followed.update()),
        (Ok(true), Ok(false))
    );
    assert_eq!(followed.peer().expires_in_ms(), 0);
    // The limit is counted on a clock that stands, because it allows another one after a second.
    tokio::time::pause();
    let renewable = RenewablePeer::new(renewable.peer());
    for _ in 0..3 {
        renewable.with_newer(&control, &bearer(&second)).unwrap();
    }
    assert_eq!(
        renewable
            .with_newer(&control, &bearer(&second))
            .unwrap_err(),
        NotRenewed::TooOften
    );
}

#[tokio::test(start_paused = true)]
async fn credentials_that_a_stall_brings_together_are_allowed() {
    let (limit, anything) = (RenewalLimit::default(), AccessControl::default());
    let start = Instant::now();
    for (after_ms, is_allowed) in [
        (0, true),
        (0, true),
        (0, true),
        (0, false),
        (999, false),
        (1000, true),
        (1000, false),
        (9000, true),
        (9000, true),
        (9000, true),
        (9000, false),
    ] {
        let at = start + Duration::from_millis(after_ms);
        tokio::time::advance(at - Instant::now()).await;
        let identified = limit.identify(&anything, "Bearer x");
        assert_eq!(identified.is_ok(), is_allowed, "after {after_ms} ms");
    }
}
