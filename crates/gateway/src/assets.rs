//! The files that the gateway serves: the console and the JavaScript client, which are part of the program.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use crate::idempotency::hex;

/// A file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asset {
    /// The path of the request.
    pub(crate) path: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) bytes: &'static [u8],
}

const CSS: &str = "text/css; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const TEXT: &str = "text/plain; charset=utf-8";

/// A file of the console, below `/`.
macro_rules! console {
    ($path:literal, $content_type:expr) => {
        console!(concat!("/", $path), $path, $content_type)
    };
    ($path:expr, $file:literal, $content_type:expr) => {
        Asset {
            path: $path,
            content_type: $content_type,
            bytes: include_bytes!(concat!("../console/", $file)),
        }
    };
}

/// The files. Their paths are not those of the API.
pub(crate) const ASSETS: &[Asset] = &[
    console!("/", "index.html", HTML),
    console!("chart.js", JS),
    console!("commands.js", JS),
    console!("connection.js", JS),
    console!("connections.js", JS),
    console!("cut.js", JS),
    console!("dom.js", JS),
    console!("example.js", JS),
    console!("filters.js", JS),
    console!("icon.svg", SVG),
    console!("layout.css", CSS),
    console!("list.js", JS),
    console!("log.js", JS),
    console!("main.js", JS),
    console!("numbers.js", JS),
    console!("publish.js", JS),
    console!("shortcuts.js", JS),
    console!("shown.js", JS),
    console!("status.js", JS),
    console!("style.css", CSS),
    console!("tabs.js", JS),
    console!("theme.js", JS),
    console!("watch.js", JS),
    console!("vendor/uPlot.iife.min.js", JS),
    console!("vendor/uPlot.min.css", CSS),
    console!("vendor/uPlot-LICENSE.txt", TEXT),
    Asset {
        path: "/steadfast.js",
        content_type: JS,
        bytes: include_bytes!("../../../clients/js/steadfast.js"),
    },
];

/// What a page of ours may do: load files of the gateway and talk to it, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// The entity tag of each file.
static TAGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let tag = |asset: &Asset| {
        let hash = digest(&SHA256, asset.bytes);
        let (first, _) = hash.as_ref().split_at(8);
        format!("\"{}\"", hex(first))
    };
    ASSETS.iter().map(tag).collect()
});

/// Returns the response to a request for a path, or `None` if there is no such file.
pub(crate) fn respond<B: From<&'static [u8]>>(
    path: &str,
    headers: &HeaderMap,
) -> Option<Response<B>> {
    let index = ASSETS.iter().position(|asset| asset.path == path)?;
    let (asset, tag) = (&ASSETS[index], &TAGS[index]);
    let known = headers.get_all(header::IF_NONE_MATCH).iter();
    let mut known = known
        .filter_map(|it| it.to_str().ok())
        .flat_map(|it| it.split(','));
    let is_known = known.any(|it| it.trim().trim_start_matches("W/") == tag);
    let mut response = Response::new(B::from(if is_known { b"" } else { asset.bytes }));
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, asset.content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // The tag decides each time, so that a page and its modules are of one version.
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_console_is_served() {
        let console = concat!(env!("CARGO_MANIFEST_DIR"), "/console");
        for folder in ["", "vendor/"] {
            for entry in std::fs::read_dir(format!("{console}/{folder}")).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                let path = match name.as_str() {
                    "index.html" => "/".to_owned(),
                    _ => format!("/{folder}{name}"),
                };
                let is_served = ASSETS.iter().any(|asset| asset.path == path);
                assert!(
                    is_served || entry.path().is_dir(),
                    "{path} is not in ASSETS"
                );
            }
        }
    }

    #[test]
    fn files_have_a_tag_a_type_and_a_strict_policy() {
        let mut paths: Vec<_> = ASSETS.iter().map(|asset| asset.path).collect();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), ASSETS.len(), "each path once");
        for asset in ASSETS {
            let response = respond::<bytes::Bytes>(asset.path, &HeaderMap::new()).unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(**response.body(), *asset.bytes);
            assert_eq!(response.headers()[header::CONTENT_TYPE], asset.content_type);
            let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str();
            let policy = policy.unwrap();
            assert!(policy.starts_with("default-src 'none'"), "{policy}");
            assert!(!policy.contains("unsafe"), "{policy}");
            let mut headers = HeaderMap::new();
            let tag = response.headers()[header::ETAG].clone();
            headers.insert(header::IF_NONE_MATCH, tag);
            let again = respond::<bytes::Bytes>(asset.path, &headers).unwrap();
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
            assert!(again.body().is_empty());
        }
        assert!(respond::<bytes::Bytes>("/../Cargo.toml", &HeaderMap::new()).is_none());
    }
}
