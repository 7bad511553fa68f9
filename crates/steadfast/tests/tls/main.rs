//! TLS: the certificates that are accepted, and files that change. Over pipes in memory.
#[path = "../support/pki.rs"]
mod pki;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::ExtendedKeyUsagePurpose as Usage;
use rustls::{HandshakeKind, ServerConfig};
use steadfast::tls::{Tls, TlsError, TlsOptions, TlsStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_rustls::TlsAcceptor;

use self::pki::{Authority, Certificate, Files, VALID, server_config};

const H2: &[u8] = b"h2";
const NAME: &str = "db.example";

/// Connects to a server of `config` that sends one byte after the handshake, and reads that byte: a
/// refusal of the client's certificate arrives only then.
async fn exchange(
    tls: &Tls,
    host: &str,
    config: Arc<ServerConfig>,
) -> Result<TlsStream<DuplexStream>, String> {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    tokio::spawn(async move {
        if let Ok(mut stream) = TlsAcceptor::from(config).accept(theirs).await {
            stream.write_all(b"!").await.ok();
            // Held until the client ends.
            stream.read_u8().await.ok();
        }
    });
    let mut stream = tls
        .connect(host, ours)
        .await
        .map_err(|error| error.to_string())?;
    stream.read_u8().await.map_err(|error| error.to_string())?;
    Ok(stream)
}

#[tokio::test]
async fn certificates_of_servers_are_judged() {
    let authority = Authority::new("ours");
    let stranger = Authority::new("stranger");
    let tls = Files::new(&authority).options().load(&[H2]).unwrap();
    let signed = |years, usage| authority.sign(NAME, years, usage);
    let cases: [(&str, Certificate, Result<(), &str>); 8] = [
        ("good", authority.server(NAME), Ok(())),
        (
            "wrong CA",
            stranger.server(NAME),
            Err("give the CA file of its authority"),
        ),
        (
            "CA of the same name",
            Authority::new("ours").server(NAME),
            Err("give the CA file of its authority"),
        ),
        (
            "expired",
            signed((2020, 2021), Usage::ServerAuth),
            Err("has expired"),
        ),
        (
            "not yet valid",
            signed((2080, 2090), Usage::ServerAuth),
            Err("not valid yet"),
        ),
        (
            "wrong usage",
            signed(VALID, Usage::ClientAuth),
            Err("not one for servers"),
        ),
        (
            "wrong name",
            authority.server("other.example"),
            Err("for another name"),
        ),
        (
            "IP address for a name",
            authority.server("127.0.0.1"),
            Err("for another name"),
        ),
    ];
    for (case, certificate, expected) in cases {
        let result = exchange(&tls, NAME, server_config(&certificate, None)).await;
        match expected {
            Ok(()) => {
                let stream = result.unwrap();
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(H2), "{case}");
            }
            Err(text) => {
                let error = result.map(|_| ()).unwrap_err();
                assert!(error.contains(text), "{case}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn revoked_certificates_are_refused_as_lists_change() {
    let authority = Authority::new("ours");
    let files = Files::new(&authority);
    let (revoked, kept) = (authority.server(NAME), authority.server(NAME));
    let list = |years, revoked: &[&Certificate]| authority.revocation_list(years, revoked);
    files.write_crl(&list(VALID, &[]));
    let tls = files.options_with_crl().load(&[H2]).unwrap();
    let judge = async |certificate: &Certificate| {
        let result = exchange(&tls, NAME, server_config(certificate, None)).await;
        result.map(|_| ())
    };
    judge(&revoked).await.unwrap();
    let stranger = Authority::new("stranger").revocation_list(VALID, &[]);
    let namesake = Authority::new("ours").revocation_list(VALID, &[]);
    for (case, lists, expected) in [
        (
            "revoked",
            list(VALID, &[&revoked]),
            "has revoked the server's certificate",
        ),
        (
            "expired list",
            list((2020, 2021), &[]),
            "the revocation list has expired",
        ),
        (
            "list of another authority",
            stranger.clone(),
            "do not cover the server's certificate",
        ),
        (
            "list of a namesake",
            namesake,
            "of another authority with the same name",
        ),
        (
            "revoked in the second list",
            stranger + &list(VALID, &[&revoked]),
            "has revoked the server's certificate",
        ),
    ] {
        files.write_crl(&lists);
        let error = judge(&revoked).await.unwrap_err();
        assert!(error.contains(expected), "{case}: {error}");
    }
    // The last lists are in use, and those that cannot be used do not replace them.
    judge(&kept).await.unwrap();
    for text in ["nothing", &authority.pem] {
        files.write_crl(text);
        judge(&revoked).await.unwrap_err();
        judge(&kept).await.unwrap();
    }
    assert_eq!(
        (tls.counters().reloads, tls.counters().failed_reloads),
        (5, 2)
    );
}

#[tokio::test]
async fn expired_list_refuses_a_server_accepted_before() {
    let authority = Authority::new("ours");
    let files = Files::new(&authority);
    // Keeps its sessions, so that a client can resume them.
    let server = server_config(&authority.server(NAME), None);
    let kind_of_second = async |tls: &Tls| {
        let connect = async || exchange(tls, NAME, Arc::clone(&server)).await;
        connect().await?;
        Ok::<_, String>(connect().await?.get_ref().1.handshake_kind().unwrap())
    };
    let unchecked = files.options().load(&[H2]).unwrap();
    let kind = kind_of_second(&unchecked).await.unwrap();
    assert_eq!(kind, HandshakeKind::Resumed);

    // Certificates have the clock of the system, which no test can move.
    let end = SystemTime::now() + Duration::from_secs(4);
    files.write_crl(&authority.revocation_list_until(end));
    let checked = files.options_with_crl().load(&[H2]).unwrap();
    let kind = kind_of_second(&checked).await.unwrap();
    assert_eq!(kind, HandshakeKind::Full);
    tokio::time::sleep(end.duration_since(SystemTime::now()).unwrap_or_default()).await;
    let error = kind_of_second(&checked).await.unwrap_err();
    assert!(error.contains("the revocation list has expired"), "{error}");
}

#[tokio::test]
async fn large_revocation_list_is_used_and_its_size_limited() {
    let authority = Authority::new("ours");
    let files = Files::new(&authority);
    let revoked = authority.server(NAME);
    let list = authority.revocation_list(VALID, &vec![&revoked; 40_000]);
    assert!(list.len() > 1 << 20, "{}", list.len());
    files.write_crl(&list);
    let tls = files.options_with_crl().load(&[H2]).unwrap();
    let refused = exchange(&tls, NAME, server_config(&revoked, None)).await;
    let error = refused.map(|_| ()).unwrap_err();
    assert!(
        error.contains("has revoked the server's certificate"),
        "{error}"
    );

    for (name, mib) in [("crl.pem", 64), ("ca.pem", 1)] {
        let file = std::fs::File::create(files.path(name)).unwrap();
        file.set_len((mib << 20) + 1).unwrap();
        let error = files
            .options_with_crl()
            .load(&[H2])
            .unwrap_err()
            .to_string();
        let expected = format!("{name}: larger than {mib} MiB");
        assert!(error.ends_with(&expected), "{error}");
    }
}

#[tokio::test]
async fn server_name_and_ip_addresses_are_checked() {
    let authority = Authority::new("ours");
    let files = Files::new(&authority);
    let mut named = files.options();
    named.server_name = Some(NAME.to_owned());
    let (named, plain) = (
        named.load(&[H2]).unwrap(),
        files.options().load(&[H2]).unwrap(),
    );
    for (tls, host, certificate) in [
        (&named, "10.1.2.3", NAME),
        (&plain, "10.1.2.3", "10.1.2.3"),
        (&plain, "::1", "::1"),
    ] {
        let config = server_config(&authority.server(certificate), None);
        exchange(tls, host, config)
            .await
            .unwrap_or_else(|error| panic!("{host}: {error}"));
    }
}

#[tokio::test]
async fn certificates_of_clients_are_sent_and_refusals_explained() {
    let authority = Authority::new("ours");
    let files = Files::new(&authority);
    let config = server_config(&authority.server(NAME), Some(&authority));
    let anonymous = files.options().load(&[H2]).unwrap();
    let refused = exchange(&anonymous, NAME, Arc::clone(&config))
        .await
        .map(|_| ())
        .unwrap_err();
    assert!(refused.contains("CertificateRequired"), "{refused}");
    files.write_identity(&authority.client("me"));
    let known = files.options_with_identity().load(&[H2]).unwrap();
    exchange(&known, NAME, Arc::clone(&config)).await.unwrap();
    files.write_identity(&Authority::new("stranger").client("me"));
    let refused = exchange(&known, NAME, config)
        .await
        .map(|_| ())
        .unwrap_err();
    assert!(refused.contains("UnknownCA"), "{refused}");
}

#[tokio::test]
async fn changed_files_are_used_by_the_next_handshake() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let files = Files::new(&old);
    let tls = files.options().load(&[H2]).unwrap();
    let (of_old, of_new) = (old.server(NAME), new.server(NAME));
    let mut first = exchange(&tls, NAME, server_config(&of_old, None))
        .await
        .unwrap();
    files.write_ca(&new.pem);
    exchange(&tls, NAME, server_config(&of_new, None))
        .await
        .unwrap();
    exchange(&tls, NAME, server_config(&of_old, None))
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(
        (tls.counters().reloads, tls.counters().failed_reloads),
        (1, 0)
    );
    // The stream of before the change is still open.
    first.write_u8(1).await.unwrap();
}

#[tokio::test]
async fn unusable_new_files_keep_the_old_ones_in_use() {
    let authority = Authority::new("ours");
    let files = Files::new(&authority);
    files.write_identity(&authority.client("me"));
    let tls = files.options_with_identity().load(&[H2]).unwrap();
    let config = server_config(&authority.server(NAME), Some(&authority));
    let other = authority.client("me");
    let good_ca = authority.pem.clone();
    let write = |name: &str, text: &str| std::fs::write(files.path(name), text).unwrap();
    let faults: [(&str, &dyn Fn()); 5] = [
        ("half of a rotation", &|| write("client.pem", &other.pem)),
        ("no PEM", &|| write("ca.pem", "nothing")),
        ("cut in the middle", &|| {
            write("ca.pem", &good_ca[..good_ca.len() / 2]);
        }),
        ("too large", &|| write("ca.pem", &" ".repeat((1 << 20) + 1))),
        ("gone", &|| {
            std::fs::remove_file(files.path("ca.pem")).unwrap();
        }),
    ];
    for (number, (fault, damage)) in faults.into_iter().enumerate() {
        damage();
        // Twice: the same fault counts once.
        for _ in 0..2 {
            let result = exchange(&tls, NAME, Arc::clone(&config)).await;
            result.unwrap_or_else(|error| panic!("{fault}: {error}"));
        }
        assert_eq!(tls.counters().failed_reloads, number as u64 + 1, "{fault}");
        assert_eq!(tls.counters().reloads, number as u64, "{fault}");
        // A usable change, so that the next fault is a change as well.
        files.write_ca(&good_ca.repeat(number + 2));
        files.write_identity(&other);
        exchange(&tls, NAME, Arc::clone(&config)).await.unwrap();
    }
}

#[test]
fn unusable_options_fail_at_once_and_name_the_file() {
    let authority = Authority::new("ours");
    let files = Files::new(&authority);
    files.write_identity(&authority.client("me"));
    let with = |change: &dyn Fn(&mut TlsOptions)| {
        let mut options = files.options_with_identity();
        change(&mut options);
        options.load(&[H2]).map(|_| ()).unwrap_err()
    };
    let missing = with(&|options| options.ca_file = Some(files.path("none.pem")));
    assert!(matches!(&missing, TlsError::Read { path, .. } if path.ends_with("none.pem")));
    #[cfg(unix)]
    {
        let made = std::process::Command::new("mkfifo")
            .arg(files.path("pipe"))
            .status();
        assert!(made.unwrap().success());
        // Opening it would wait for ever.
        let pipe = with(&|options| options.ca_file = Some(files.path("pipe")));
        assert!(
            pipe.to_string().ends_with("pipe: not a regular file"),
            "{pipe}"
        );
    }
    let half = with(&|options| options.key_file = None);
    assert!(matches!(half, TlsError::HalfIdentity), "{half}");
    let swapped = with(&|options| options.cert_file = Some(files.path("client.key")));
    assert!(matches!(swapped, TlsError::NoCertificate(_)), "{swapped}");
    let no_key = with(&|options| options.key_file = Some(files.path("client.pem")));
    assert!(matches!(no_key, TlsError::Malformed { .. }), "{no_key}");
    let other = with(&|options| options.cert_file = Some(files.path("ca.pem")));
    assert!(matches!(other, TlsError::Unusable { .. }), "{other}");
    let list = with(&|options| options.crl_file = Some(files.path("ca.pem")));
    assert!(matches!(list, TlsError::Malformed { .. }), "{list}");
    let name = with(&|options| options.server_name = Some("two words".to_owned()));
    assert!(matches!(name, TlsError::ServerName(_)), "{name}");
}

#[cfg(feature = "grpc")]
#[test]
fn servers_elsewhere_without_encryption_are_known() {
    let tls = Files::new(&Authority::new("ours")).options().load(&[H2]);
    let tls = tls.unwrap();
    for (servers, by_default, with_tls) in [
        ("db:1", Some("db:1"), None),
        ("http://db:1", Some("http://db:1"), Some("http://db:1")),
        ("https://db", None, None),
        ("localhost:1", None, None),
        ("localhost.:1", None, None),
        ("http://127.0.0.1:1", None, None),
        ("[::1]:1", None, None),
        ("unix:/run/a.sock", None, None),
        ("localhost:1,192.0.2.1:1", Some("192.0.2.1:1"), None),
    ] {
        let dialer: steadfast::dial::Dialer = servers.parse().unwrap();
        let dialers = [dialer.clone(), dialer.tls(tls.clone())];
        let found = dialers.map(|dialer| dialer.unencrypted_server().map(ToString::to_string));
        let expected = [by_default, with_tls].map(|server| server.map(str::to_owned));
        assert_eq!(found, expected, "{servers}");
    }
}

#[test]
fn debug_output_has_no_key() {
    let authority = Authority::new("ours");
    let files = Files::new(&authority);
    let identity = authority.client("me");
    files.write_identity(&identity);
    let tls = files.options_with_identity().load(&[H2]).unwrap();
    let shown = format!("{tls:?}");
    assert!(shown.contains("client.key"), "{shown}");
    let secret = identity.key.lines().nth(1).unwrap();
    assert!(!shown.contains(secret), "{shown}");
}
