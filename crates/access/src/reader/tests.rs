use super::*;

const KEYS: &str = include_str!("../../tests/data/ed25519.jwks.json");

/// Understands `field == value` only.
fn understands(condition: &Condition) -> Result<(), String> {
    match condition.text.split_once("==") {
        Some((field, _)) if !field.trim().is_empty() => Ok(()),
        _ => Err(format!("{:?} is no condition", condition.text)),
    }
}

fn parse(text: &str) -> Result<Access, Faults> {
    let keys = |path: &str| match path {
        "keys.json" => Ok(KEYS.to_owned()),
        "secret.json" => Ok(r#"{"keys":[{"kty":"oct","k":"AA"}]}"#.to_owned()),
        _ => Err(io::Error::other("there is none")),
    };
    Access::parse("p.toml", text, keys, understands)
}

#[test]
fn whole_policy_is_read() {
    let access = parse(
        r#"
[jwt]
keys = "keys.json"
issuer = "https://login.example"
audience = "steadfast"
algorithms = ["EdDSA"]
leeway_seconds = 30
max_bytes = 4096

[certificates]
name = ["uri", "common-name"]
revoked = ["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]

[[tokens]]
principal = "feeder"
sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
expires = 2027-01-01T00:00:00Z

[[grants]]
role = "customer"
databases = "shop"
collections = ["orders", "rooms/*/messages"]
actions = "subscribe"
filter = ["owner == $sub", "region == $claim.region"]

[[grants]]
role = "operator"
actions = ["admin", "read", "diagnose"]

[[grants]]
role = "agent"
actions = ["register"]
pods = ["$sub", "db-*"]
node_roles = "ROLE_DATA"
node_labels = { zone = ["a", "$claim.zone"] }

[[members]]
roles = ["customer", "operator"]
principals = ["jwt:**", "certificate:spiffe://prod/*", "token:feeder", "anonymous"]
claims = { groups = "staff", level = 3, active = true }
"#,
    )
    .unwrap();
    let jwt = access.jwt.unwrap();
    assert_eq!(
        (jwt.leeway, jwt.max_bytes),
        (Duration::from_secs(30), 4_096)
    );
    assert_eq!(jwt.algorithms, [Algorithm::EdDsa]);
    let expires = access.tokens[0].expires_at.unwrap();
    assert_eq!(
        expires,
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_798_761_600)
    );
    assert_eq!(
        access.certificates.unwrap().names,
        [CertificateName::Uri, CertificateName::CommonName]
    );
    assert_eq!(
        (
            access.policy.grants.len(),
            access.policy.members[0].principals.len()
        ),
        (3, 4)
    );
    assert_eq!(access.policy.members[0].claims.len(), 3);
}

#[test]
fn every_fault_has_its_line_and_column() {
    let text = r#"
colour = 1
[jwt]
keys = "none.json"
issuer = ""
leeway_seconds = 601
[certificates]
name = ["fax"]
[[tokens]]
principal = "a"
sha256 = "abc"
[[grants]]
role = "r"
databases = ["a*b", 1]
collections = []
actions = ["subscribe", "fly"]
filter = ["owner == '$sub'", "== $sub", "a == 1", "b == $who"]
[[grants]]
role = "w"
databases = ["**"]
collections = ["**"]
actions = ["publish"]
filter = "a == 1"
[[grants]]
[[members]]
roles = ["r", "nobody"]
principals = ["alice", "jwt:", "token:x"]
[[members]]
roles = ["r"]
[[members]]
roles = "r"
claims = { a = [1] }
[[grants]]
role = "n"
actions = ["register"]
node_roles = []
node_labels = { zone = 1, rack = "a*b" }
[[grants]]
role = "o"
actions = ["read"]
pods = ["$who"]
"#;
    let faults = parse(text).unwrap_err();
    let shown = faults.to_string();
    let places: Vec<_> = faults.0.iter().map(|it| (it.line, it.column)).collect();
    assert_eq!(
        places,
        [
            (2, 1),
            (3, 1),
            (4, 8),
            (5, 10),
            (6, 18),
            (8, 9),
            (11, 10),
            (14, 14),
            (14, 21),
            (15, 15),
            (16, 25),
            (17, 11),
            (17, 30),
            (17, 51),
            (23, 10),
            (24, 1),
            (24, 1),
            (24, 1),
            (24, 1),
            (26, 15),
            (27, 15),
            (27, 24),
            (28, 1),
            (32, 10),
            (32, 16),
            (33, 1),
            (36, 14),
            (37, 24),
            (37, 34),
            (41, 8),
            (41, 9),
        ],
        "{shown}"
    );
    for text in [
        "p.toml:2:1: `colour` has no meaning here; there are tokens, jwt, certificates, grants, members",
        "p.toml:3:1: `audience` is missing",
        "p.toml:4:8: the key set none.json cannot be read: there is none",
        "p.toml:17:51: unknown variable `$who`; there are `$sub` and `$claim.NAME`",
        "p.toml:26:15: no grant has the role \"nobody\"",
        "p.toml:33:1: `pods` is missing",
        "p.toml:41:8: only the action `register` concerns nodes",
    ] {
        assert!(shown.contains(text), "{text}\n{shown}");
    }
}

#[test]
fn syntax_faults_do_not_hide_others() {
    let faults =
        parse("a = \n[jwt]\nkeys = 'secret.json'\nissuer = 'i'\naudience = 'a'\n").unwrap_err();
    let shown = faults.to_string();
    assert!(shown.starts_with("p.toml:1:"), "{shown}");
    assert!(
        shown.contains("p.toml:3:8: the key set secret.json cannot be used: key 1"),
        "{shown}"
    );
}

#[test]
fn one_token_cannot_be_two_principals() {
    let entry = "[[tokens]]\nprincipal = 'a'\nsha256 = '0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef'\n";
    let other = entry.replace("'a'", "'b'");
    let faults = parse(&format!("{entry}{other}")).unwrap_err();
    assert_eq!(
        faults.to_string(),
        "p.toml:6:10: another entry has the same token"
    );
}

#[test]
fn byte_order_mark_of_a_policy_is_passed_over() {
    let grant = "[[grants]]\nrole = 'a'\nactions = ['admin']\n";
    let access = parse(&format!("\u{feff}{grant}")).unwrap();
    assert_eq!(access.policy.grants.len(), 1);
    let faults = parse("\u{feff}  colour = 1\n").unwrap_err();
    assert_eq!((faults.0[0].line, faults.0[0].column), (1, 3), "{faults}");
}

/// Returns the place and the text of the only fault.
fn only_fault(text: &str) -> (usize, usize, String) {
    let faults = parse(text).unwrap_err().0;
    assert_eq!(faults.len(), 1, "{faults:?}");
    (faults[0].line, faults[0].column, faults[0].kind.to_string())
}

#[test]
fn tokens_need_a_principal_a_hash_and_a_time_with_a_zone() {
    const HASH: &str =
        "sha256 = '0123456789abcdef0123456789abcdef0123456789abcdef0123456789ABCDEF'";
    let access = parse(&format!("[[tokens]]\nprincipal = 'a'\n{HASH}\n")).unwrap();
    assert_eq!(access.tokens[0].sha256[30..], [0xcd, 0xef]);
    assert_eq!(access.tokens[0].expires_at, None);
    let digits = |digits: &str| format!("principal = 'a'\nsha256 = '{digits}'");
    let expires = |time: &str| format!("principal = 'a'\n{HASH}\nexpires = {time}");
    for (entry, place, text) in [
        (HASH.to_owned(), (1, 1), "`principal` is missing"),
        (format!("principal = ''\n{HASH}"), (2, 13), "not empty"),
        (format!("principal = 1\n{HASH}"), (2, 13), "not empty"),
        ("principal = 'a'".to_owned(), (1, 1), "`sha256` is missing"),
        (digits(&"a".repeat(63)), (3, 10), "64 hexadecimal digits"),
        (digits(&"a".repeat(65)), (3, 10), "64 hexadecimal digits"),
        (digits(&"g".repeat(64)), (3, 10), "64 hexadecimal digits"),
        // 64 bytes, but not of ASCII: a slice within a character would panic.
        (
            digits(&"\u{e4}".repeat(32)),
            (3, 10),
            "64 hexadecimal digits",
        ),
        (
            digits(&format!("+f{}", "a".repeat(62))),
            (3, 10),
            "64 hexadecimal digits",
        ),
        (expires("'2027-01-01T00:00:00Z'"), (4, 11), "without quotes"),
        (expires("2027-01-01T00:00:00"), (4, 11), "with its zone"),
        (expires("2027-01-01"), (4, 11), "with its zone"),
        (
            format!("principal = 'a'\n{HASH}\ncolour = 1"),
            (4, 1),
            "`colour`",
        ),
    ] {
        let (line, column, fault) = only_fault(&format!("[[tokens]]\n{entry}\n"));
        assert_eq!((line, column), place, "{entry}: {fault}");
        assert!(fault.contains(text), "{entry}: {fault}");
    }
    for list in ["tokens = 1", "tokens = ['a']", "[tokens]\nprincipal = 'a'"] {
        let (.., fault) = only_fault(&format!("{list}\n"));
        assert!(fault.contains("begun by [[tokens]]"), "{list}: {fault}");
    }
}

#[test]
fn settings_of_jwts_have_their_kinds_and_limits() {
    let table =
        |more: &str| format!("[jwt]\nkeys = 'keys.json'\nissuer = 'i'\naudience = 'a'\n{more}\n");
    let rules = parse(&table("")).unwrap().jwt.unwrap();
    assert_eq!((rules.leeway, rules.max_bytes), (Duration::ZERO, 8 << 10));
    assert_eq!(rules.algorithms.len(), Algorithm::ALL.len());
    for (ends, leeway, bytes) in [
        ("leeway_seconds = 600\nmax_bytes = 65536", 600, 65_536),
        ("leeway_seconds = 0\nmax_bytes = 256", 0, 256),
    ] {
        let rules = parse(&table(ends)).unwrap().jwt.unwrap();
        assert_eq!((rules.leeway.as_secs(), rules.max_bytes), (leeway, bytes));
    }
    for (more, text) in [
        ("leeway_seconds = 601", "from 0 to 600"),
        ("leeway_seconds = -1", "from 0 to 600"),
        ("leeway_seconds = '5'", "from 0 to 600"),
        ("max_bytes = 255", "from 256 to 65536"),
        ("max_bytes = 65537", "from 256 to 65536"),
        ("algorithms = ['HS256']", "some of RS256, ES256, EdDSA"),
        ("algorithms = []", "at least one"),
        ("algorithms = 1", "at least one"),
        ("colour = 1", "`colour`"),
    ] {
        let (line, _, fault) = only_fault(&table(more));
        assert_eq!(line, 5, "{more}: {fault}");
        assert!(fault.contains(text), "{more}: {fault}");
    }
    for (text, fault) in [
        ("[jwt]\nissuer = 'i'\naudience = 'a'\n", "`keys` is missing"),
        (
            "[jwt]\nkeys = 'none.json'\nissuer = 'i'\naudience = 'a'\n",
            "cannot be read",
        ),
        (
            "[jwt]\nkeys = 'keys.json'\naudience = 'a'\n",
            "`issuer` is missing",
        ),
        ("jwt = 1\n", "a table"),
    ] {
        let (.., found) = only_fault(text);
        assert!(found.contains(fault), "{text}: {found}");
    }
}

#[test]
fn certificates_need_names_and_whole_fingerprints() {
    let fingerprint = "ab".repeat(32);
    let text = format!("[certificates]\nname = 'uri'\nrevoked = '{fingerprint}'\n");
    let rules = parse(&text).unwrap().certificates.unwrap();
    assert_eq!(rules.names, [CertificateName::Uri]);
    assert_eq!(rules.revoked, [[0xab; 32]]);
    for (text, place, fault) in [
        ("[certificates]\n", (1, 1), "`name` is missing"),
        (
            "[certificates]\nname = 'uri'\nrevoked = ['ab']\n",
            (3, 12),
            "64 hexadecimal digits",
        ),
        (
            "[certificates]\nname = 'uri'\nrevoked = []\n",
            (3, 11),
            "at least one",
        ),
        (
            "[certificates]\nname = 'uri'\nrevoked = [1]\n",
            (3, 12),
            "a list of texts",
        ),
        ("[certificates]\nname = []\n", (2, 8), "at least one"),
        ("[certificates]\nname = 'uri'\nca = 'a'\n", (3, 1), "`ca`"),
    ] {
        let (line, column, found) = only_fault(text);
        assert_eq!((line, column), place, "{text}: {found}");
        assert!(found.contains(fault), "{text}: {found}");
    }
}
