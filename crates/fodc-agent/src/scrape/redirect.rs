//! Resolves the location of a redirect against the address of the request (RFC 3986, section 5.2).

use http::Uri;

/// Returns the location as an absolute URI, or as a path on the same host. A fragment is dropped.
pub(super) fn resolve(base: &Uri, location: &str) -> String {
    let location = location.split('#').next().unwrap_or_default();
    let has_scheme = location
        .split_once(':')
        .is_some_and(|(scheme, _)| is_scheme(scheme));
    if has_scheme || location.starts_with("//") {
        let scheme = base.scheme_str().unwrap_or("http");
        return match location.strip_prefix("//") {
            Some(rest) => format!("{scheme}://{rest}"),
            None => location.to_owned(),
        };
    }
    let (path, query) = match location.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (location, None),
    };
    let (path, query) = if path.is_empty() {
        // Only an empty path inherits the query.
        (base.path().to_owned(), query.or(base.query()))
    } else if path.starts_with('/') {
        (without_dots(path), query)
    } else {
        let (directory, _) = base.path().rsplit_once('/').unwrap_or_default();
        (without_dots(&format!("{directory}/{path}")), query)
    };
    match query {
        Some(query) => format!("{path}?{query}"),
        None => path,
    }
}

fn is_scheme(text: &str) -> bool {
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(is_scheme)
}

/// Removes the segments `.` and `..` from an absolute path.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved_as_the_standard_says() {
        let base: Uri = "http://host:9100/a/b/metrics?x=1".parse().unwrap();
        for (location, expected) in [
            ("page", "/a/b/page"),
            ("./page", "/a/b/page"),
            ("../page", "/a/page"),
            ("../../../page", "/page"),
            ("../x/./page#frag", "/a/x/page"),
            ("/page", "/page"),
            ("/x/../page?y=2", "/page?y=2"),
            ("?y=2", "/a/b/metrics?y=2"),
            ("", "/a/b/metrics?x=1"),
            ("#top", "/a/b/metrics?x=1"),
            ("x/", "/a/b/x/"),
            ("..", "/a/"),
            ("http://host:9100/p", "http://host:9100/p"),
            ("//other/p", "http://other/p"),
            ("a:b", "a:b"),
        ] {
            assert_eq!(resolve(&base, location), expected, "{location}");
        }
    }
}
