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
