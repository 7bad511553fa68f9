//! Patterns of crash files.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// The files of a directory whose names match a pattern: `*` stands for any characters and `?` for
/// one. The directory is taken literally.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashPattern {
    directory: PathBuf,
    name: String,
}

/// The reason why a text is not a pattern of files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no files: write a directory and a name, like /var/crash/core.*")]
pub struct CrashPatternFault(String);

impl CrashPattern {
    /// Creates a pattern from a text like `/var/crash/core.*`.
    ///
    /// # Errors
    ///
    /// If there is no directory before the name, or no name.
    pub fn new(text: &str) -> Result<Self, CrashPatternFault> {
        let fault = || CrashPatternFault(text.to_owned());
        let (directory, name) = text.rsplit_once('/').ok_or_else(fault)?;
        if name.is_empty() || name == "." || name == ".." || directory.contains('*') {
            return Err(fault());
        }
        let directory = if directory.is_empty() { "/" } else { directory };
        Ok(Self {
            directory: directory.into(),
            name: name.to_owned(),
        })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.name.as_bytes(), name.as_bytes());
        let (mut at, mut from) = (0, 0);
        // The last star, and the end of what it covers. Only it ever has to cover more, so the time
        // is at most the product of both lengths.
        let mut star = None;
        while from < name.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    star = Some((at + 1, from));
                    at += 1;
                }
                Some(&byte) if byte == b'?' || byte == name[from] => {
                    at += 1;
                    from += 1;
                }
                _ => match &mut star {
                    Some((after, covered)) => {
                        *covered += 1;
                        (at, from) = (*after, *covered);
                    }
                    None => return false,
                },
            }
        }
        pattern[at..].iter().all(|&byte| byte == b'*')
    }
}

impl fmt::Display for CrashPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.directory.join(&self.name).display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_match_names() {
        for (pattern, name, expected) in [
            ("core.*", "core.17", true),
            ("core.*", "core.", true),
            ("core.*", "score.1", false),
            ("*", "", true),
            ("hs_err_pid*.log", "hs_err_pid7.log", true),
            ("hs_err_pid*.log", "hs_err_pid7.log.gz", false),
            ("*a*b", "xaxxbxb", true),
            ("*a*b", "xaxxbx", false),
            ("core.??", "core.1", false),
            ("core.??", "core.12", true),
            ("core", "core", true),
            ("core", "cor", false),
        ] {
            let found = CrashPattern::new(&format!("/var/{pattern}")).unwrap();
            assert_eq!(found.matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn pattern_needs_a_directory_and_a_name() {
        for text in ["core.*", "", "/var/crash/", "/var/*/core", "/var/.."] {
            assert!(CrashPattern::new(text).is_err(), "{text}");
        }
        let at_root = CrashPattern::new("/core").unwrap();
        assert_eq!(at_root.directory(), Path::new("/"));
        assert_eq!(at_root.to_string(), "/core");
    }
}
