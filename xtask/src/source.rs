//! Reading the project's own sources: which files there are, and what stands in them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::process;

/// A text file of the repository.
pub(crate) struct Source {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    /// All of it.
    pub(crate) text: String,
}

/// Paths of every file in the repository or about to be in it, relative to the root, in order.
pub(crate) fn paths() -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.current_dir(process::root()).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let mut paths: Vec<String> = process::output(&mut git)?
        .split_terminator('\0')
        // A file that was deleted and not staged is still in the index.
        .filter(|path| process::root().join(path).is_file())
        .map(str::to_owned)
        .collect();
    paths.sort();
    // A file in conflict is listed once per stage.
    paths.dedup();
    Ok(paths)
}

/// Returns true if the path has that extension.
pub(crate) fn is(path: &str, extension: &str) -> bool {
    Path::new(path)
        .extension()
        .is_some_and(|found| found == extension)
}

/// The files whose path satisfies `wanted`.
pub(crate) fn files(wanted: impl Fn(&str) -> bool) -> Result<Vec<Source>> {
    paths()?
        .into_iter()
        .filter(|path| wanted(path))
        .map(|path| {
            let file: PathBuf = process::root().join(&path);
            let text = fs::read_to_string(&file).with_context(|| format!("read {path}"))?;
            Ok(Source { path, text })
        })
        .collect()
}

impl Source {
    /// The number of the line (from 1) from which on there are only tests, if there is one. Tests
    /// stand last in a file.
    pub(crate) fn tests_from(&self) -> Option<usize> {
        let mut lines = self.text.lines().enumerate().peekable();
        while let Some((number, line)) = lines.next() {
            if line == "#[cfg(test)]"
                && lines.peek().is_some_and(|(_, next)| {
                    next.starts_with("mod ") && next.trim_end().ends_with('{')
                })
            {
                return Some(number + 1);
            }
        }
        None
    }

    /// Lines of code: neither blank, nor a comment, nor below the line where the tests begin.
    pub(crate) fn code_lines(&self) -> usize {
        let end = self.tests_from().unwrap_or(usize::MAX);
        self.text
            .lines()
            .take(end - 1)
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with("//"))
            .count()
    }

    /// Names of the test functions; none in a file that is of no such language.
    pub(crate) fn tests(&self) -> Vec<&str> {
        match self.path.rsplit('.').next() {
            Some("rs") => self.rust_tests(),
            Some("py") => self.python_tests(),
            Some("js") => self.javascript_tests(),
            _ => Vec::new(),
        }
    }

    /// Names of the test functions in a Rust file: those under an attribute that ends in `test`.
    fn rust_tests(&self) -> Vec<&str> {
        let mut tests = Vec::new();
        let mut marked = false;
        for line in self.text.lines().map(str::trim) {
            if let Some(attribute) = line.strip_prefix("#[") {
                let path = attribute.split(['(', ']']).next().unwrap_or_default();
                marked |= path == "test" || path.ends_with("::test");
            } else if let Some(name) = function(line) {
                if marked {
                    tests.push(name);
                }
                marked = false;
            }
        }
        tests
    }

    /// Names of the test functions in a Python file.
    fn python_tests(&self) -> Vec<&str> {
        self.text
            .lines()
            .filter_map(|line| {
                let line = line.trim();
                let line = line.strip_prefix("async ").unwrap_or(line);
                let name = line.strip_prefix("def ")?.split('(').next()?;
                name.starts_with("test_").then_some(name)
            })
            .collect()
    }

    /// Names of the tests in a JavaScript file: `test("closing twice is as closing once", ...`.
    fn javascript_tests(&self) -> Vec<&str> {
        self.text
            .lines()
            .filter_map(|line| line.strip_prefix("test(\"")?.split('"').next())
            .collect()
    }
}

/// The name of the function that begins on this line.
fn function(line: &str) -> Option<&str> {
    let mut rest = line;
    for word in ["pub(crate) ", "pub ", "async "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    let name = rest.strip_prefix("fn ")?;
    name.split(['(', '<']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source {
            path: "x.rs".into(),
            text: text.into(),
        }
    }

    #[test]
    fn finds_tests_behind_other_attributes() {
        let file = source(
            "#[test]\nfn a() {}\nfn b() {}\n#[tokio::test(start_paused = true)]\n#[ignore]\n\
             async fn c() {}\n    #[test]\n    fn d(x in 0..3) {}\n#[derive(Debug)]\nfn e() {}\n",
        );
        assert_eq!(file.rust_tests(), ["a", "c", "d"]);
    }

    #[test]
    fn counts_neither_comments_nor_blanks_nor_the_tests_at_the_end() {
        let file = source("//! Doc.\n\nfn a() {\n    // why\n}\n#[cfg(test)]\nmod tests {\n}\n");
        assert_eq!(file.code_lines(), 2);
        assert_eq!(file.tests_from(), Some(6));
        assert_eq!(
            source("fn a() {}\n#[cfg(test)]\nmod tests;\n").tests_from(),
            None
        );
    }

    #[test]
    fn finds_python_tests() {
        let file = source("def helper():\nasync def test_a(x):\n  def test_b():\n");
        assert_eq!(file.python_tests(), ["test_a", "test_b"]);
    }

    #[test]
    fn finds_javascript_tests() {
        let file = source("test(\"it works\", () => {\n  test(x);\ntest(\"again\", async () =>\n");
        assert_eq!(file.javascript_tests(), ["it works", "again"]);
    }
}
