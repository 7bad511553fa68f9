use aws_lc_rs::hmac;
use serde_json::{Value as Json, json};

use super::*;
use crate::testing::{
    KEYS, NOW, access, at, claims, encode, key_set, rsa_parts, sign, signed, token,
};

fn rules() -> JwtRules {
    access("[jwt]\nkeys = 'k'\nissuer = 'login'\naudience = 'steadfast'\n")
        .jwt
        .unwrap()
}

fn rs256() -> Json {
    json!({"alg": "RS256", "kid": "r1"})
}

fn verify(token: &str) -> Result<Verified, JwtFault> {
    rules().verify(token, at(NOW))
}

#[test]
fn valid_tokens_are_accepted() {
    let mut lists = claims();
    lists["aud"] = json!(["other", "steadfast"]);
    lists["nbf"] = json!(NOW);
    for (header, claims) in [
        (rs256(), claims()),
        (json!({"alg": "ES256", "kid": "p1"}), claims()),
        (
            json!({"alg": "EdDSA", "kid": "e1", "typ": "JWT"}),
            lists.clone(),
        ),
        // The only key of its algorithm.
        (json!({"alg": "EdDSA", "typ": "at+jwt"}), lists),
    ] {
        let verified = verify(&token(&header, &claims)).unwrap();
        assert_eq!(
            (&*verified.subject, verified.expires_at),
            ("alice", at(NOW + 60)),
            "{header}"
        );
        assert_eq!(Json::Object(verified.claims), claims);
    }
}

/// Returns the token of a row of the table.
fn forged(header: &str, claims_text: &str, signer: &str) -> String {
    let valid = claims();
    let payload = if let Some(whole) = claims_text.strip_prefix('!') {
        whole.to_owned()
    } else {
        let (name, value) = claims_text.split_once('=').unwrap_or((claims_text, ""));
        let others = valid
            .as_object()
            .unwrap()
            .iter()
            .filter(|(key, _)| *key != name);
        let mut members: Vec<_> = others
            .map(|(key, value)| format!("\"{key}\":{value}"))
            .collect();
        if !value.is_empty() {
            members.push(format!("\"{name}\":{value}"));
        }
        format!("{{{}}}", members.join(","))
    };
    let header = match header {
        "-" => rs256().to_string(),
        header => header.to_owned(),
    };
    let text = format!("{}.{}", encode(&header), encode(&payload));
    let with_secret = |secret: &[u8]| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), text.as_bytes())
            .as_ref()
            .to_vec()
    };
    let signature = match signer {
        "nobody" => Vec::new(),
        "zeros" => vec![0; if header.contains("RS256") { 256 } else { 64 }],
        "stranger" => sign(&KEYS.stranger, &text),
        "modulus" => with_secret(rsa_parts(&KEYS.rsa).0.as_bytes()),
        "key set" => with_secret(key_set().to_string().as_bytes()),
        algorithm => return signed(&header, &payload, algorithm),
    };
    format!("{text}.{}", encode(signature))
}

#[test]
fn forged_tokens_are_refused() {
    let rows = include_str!("forged.txt")
        .lines()
        .filter(|it| !it.starts_with('#'));
    let mut count = 0;
    for row in rows {
        let cells: Vec<_> = row.split(" | ").collect();
        let [what, header, claims, signer, fault] = cells[..] else {
            panic!("{row}");
        };
        let refused = verify(&forged(header, claims, signer)).unwrap_err();
        assert_eq!(format!("{refused:?}"), fault, "{what}");
        count += 1;
    }
    assert!(count >= 70, "{count}");
    // What the table builds is accepted unless a row changes it.
    assert!(verify(&forged("-", "-", "RS256")).is_ok());
}

#[test]
fn damaged_tokens_are_refused() {
    let good = token(&rs256(), &claims());
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("{good}");
    };
    // 256 bytes leave four bits of the last letter, which are zero.
    let last = char::from(good.as_bytes()[good.len() - 1] + 1);
    let swapped = if signature.starts_with('A') { "B" } else { "A" };
    let root = encode(claims().to_string().replace("alice", "root"));
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200));
    let long = format!("{{\"a\":\"{}\"}}", "a".repeat(8 << 10));
    let json = |of| JwtFault::Json(of);
    for (token, fault) in [
        (String::new(), JwtFault::Form),
        ("..".to_owned(), json("header")),
        (format!("{header}.{payload}"), JwtFault::Form),
        (format!("{good}."), JwtFault::Form),
        (format!(".{good}"), JwtFault::Form),
        (format!("{good}.a.b"), JwtFault::Form),
        (format!("{good}=="), JwtFault::Form),
        (good.replacen('.', "=.", 1), JwtFault::Form),
        (format!("{header}.{payload}.+/+/"), JwtFault::Form),
        (format!("{good} "), JwtFault::Form),
        (good.replacen('.', "\n.", 1), JwtFault::Form),
        (good.replace('.', "\u{ff0e}"), JwtFault::Form),
        (good.replacen('e', "\u{435}", 1), JwtFault::Form),
        (format!("{}{last}", &good[..good.len() - 1]), JwtFault::Form),
        (good[..good.len() - 2].to_owned(), JwtFault::Signature),
        (
            format!("{header}.{payload}.{swapped}{}", &signature[1..]),
            JwtFault::Signature,
        ),
        (format!("{header}.{root}.{signature}"), JwtFault::Signature),
        (
            signed(&format!("\u{feff}{}", rs256()), "{}", "RS256"),
            json("header"),
        ),
        (
            signed(&rs256().to_string(), &deep, "RS256"),
            json("payload"),
        ),
        (
            signed(&rs256().to_string(), "\u{feff}{}", "RS256"),
            json("payload"),
        ),
    ] {
        assert_eq!(verify(&token).unwrap_err(), fault, "{token:?}");
    }
    let refused = verify(&signed(&rs256().to_string(), &long, "RS256")).unwrap_err();
    assert!(
        matches!(refused, JwtFault::TooLong { limit: 8_192, .. }),
        "{refused}"
    );
}

#[test]
fn leeway_moves_both_ends() {
    let mut rules = rules();
    rules.leeway = Duration::from_secs(5);
    let mut claims = claims();
    claims["nbf"] = json!(NOW);
    let token = token(&rs256(), &claims);
    for (now, fault) in [
        (NOW - 6, Some(JwtFault::NotYet)),
        (NOW - 5, None),
        (NOW + 64, None),
        (NOW + 65, Some(JwtFault::Expired)),
    ] {
        assert_eq!(rules.verify(&token, at(now)).err(), fault, "{now}");
    }
}

#[test]
fn algorithms_can_be_restricted() {
    let mut rules = rules();
    rules.algorithms = vec![Algorithm::Es256];
    let refused = rules.verify(&token(&rs256(), &claims()), at(NOW));
    assert_eq!(refused.err(), Some(JwtFault::Algorithm));
}

#[test]
fn key_sets_with_faults_are_refused() {
    let (n, e) = rsa_parts(&KEYS.rsa);
    for (set, fault) in [
        (json!({}), "missing field `keys`"),
        (json!({"keys": []}), "no key for"),
        (
            json!({"keys": [{"kty": "oct", "k": "AAAA"}]}),
            "private or secret",
        ),
        (
            json!({"keys": [{"kty": "RSA", "n": n, "e": e, "d": "AA"}]}),
            "private or secret",
        ),
        (
            json!({"keys": [{"kty": "RSA", "n": "AQAB", "e": e}]}),
            "2048 bits",
        ),
        (
            json!({"keys": [{"kty": "RSA", "n": format!("{n}="), "e": e}]}),
            "base64url",
        ),
        (json!({"keys": [{"kty": "RSA", "n": n}]}), "missing"),
        (
            json!({"keys": [{"kty": "EC", "crv": "P-256", "x": encode([1; 32]), "y": encode([1; 32])}]}),
            "not a point",
        ),
        (
            json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AA"}]}),
            "32 bytes",
        ),
        (
            json!({"keys": [{"kty": "RSA", "kid": "a", "n": n, "e": e}, {"kty": "RSA", "kid": "a", "n": n, "e": e}]}),
            "two keys",
        ),
        (json!({"keys": vec![json!({}); 65]}), "65 keys"),
        (
            json!({"keys": [1]}),
            "key 1 cannot be used: it is not a JSON Web Key",
        ),
        (
            json!({"keys": [{"kty": "EC", "crv": "P-521"}, {"kty": "RSA", "n": 1, "e": e}]}),
            "key 2 cannot be used: it is not a JSON Web Key",
        ),
        // Keys for something else alone are no keys.
        (
            json!({"keys": [{"kty": "RSA", "use": "enc", "n": n, "e": e}]}),
            "no key for",
        ),
        (
            json!({"keys": [{"kty": "RSA", "alg": "PS256", "n": n, "e": e}]}),
            "no key for",
        ),
        // Leading zeros, of the modulus and of the exponent.
        (
            json!({"keys": [{"kty": "RSA", "n": encode([&[0], &[1; 256][..]].concat()), "e": e}]}),
            "leading zeros",
        ),
        (
            json!({"keys": [{"kty": "RSA", "n": n, "e": encode([0, 1])}]}),
            "leading zeros",
        ),
        (
            json!({"keys": [{"kty": "RSA", "n": n, "e": ""}]}),
            "leading zeros",
        ),
        (
            json!({"keys": [{"kty": "EC", "crv": "P-256", "x": encode([1; 31]), "y": encode([1; 32])}]}),
            "have 32 bytes",
        ),
        (
            json!({"keys": [{"kty": "EC", "crv": "P-256", "x": encode([1; 32]), "y": encode([1; 33])}]}),
            "have 32 bytes",
        ),
        (
            json!({"keys": [{"kty": "EC", "crv": "P-256", "x": encode([1; 32])}]}),
            "missing",
        ),
        (
            json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": encode([1; 33])}]}),
            "32 bytes",
        ),
        (
            json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": encode([1; 32]), "d": "AA"}]}),
            "private or secret",
        ),
    ] {
        let refused = Keys::parse(set.to_string().as_bytes())
            .unwrap_err()
            .to_string();
        assert!(refused.contains(fault), "{refused}");
    }
}

#[test]
fn byte_order_mark_of_a_key_set_is_passed_over() {
    let text = format!("\u{feff}{}", key_set());
    assert_eq!(Keys::parse(text.as_bytes()).map(drop), Ok(()));
    // Nothing else before the set is.
    let text = format!("\u{feff}\u{feff}{}", key_set());
    let refused = Keys::parse(text.as_bytes()).unwrap_err();
    assert!(matches!(refused, KeyFault::Json(_)), "{refused}");
}

#[test]
fn keys_without_a_name_may_be_several() {
    let (n, e) = rsa_parts(&KEYS.rsa);
    let key = json!({"kty": "RSA", "n": n, "e": e});
    let set = json!({"keys": [key, key]}).to_string();
    assert_eq!(Keys::parse(set.as_bytes()).map(drop), Ok(()));
}

#[test]
fn token_without_kid_needs_a_single_key() {
    let mut set = key_set();
    let (n, e) = rsa_parts(&KEYS.stranger);
    let other = json!({"kty": "RSA", "kid": "r2", "n": n, "e": e});
    set["keys"].as_array_mut().unwrap().push(other);
    let mut rules = rules();
    rules.keys = Keys::parse(set.to_string().as_bytes()).unwrap();
    let verify = |header: Json| {
        rules
            .verify(&token(&header, &claims()), at(NOW))
            .map(|it| it.subject)
    };
    assert_eq!(verify(json!({"alg": "RS256"})), Err(JwtFault::UnknownKey));
    assert_eq!(verify(rs256()), Ok("alice".to_owned()));
    // The right name, but the key of somebody else.
    assert_eq!(
        verify(json!({"alg": "RS256", "kid": "r2"})),
        Err(JwtFault::Signature)
    );
}
