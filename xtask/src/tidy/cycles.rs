//! Import cycles between the files of a crate.
//!
//! A file depends on another when a path in it (`use` or inline, tests aside) names a module or an
//! item of that file. Two rules keep the usual layouts free of faults:
//! * a path through an ancestor that merely re-exports an item depends on the item's own file;
//! * `pub use child::Item` in a parent is no dependency unless the parent uses `Item` itself.
//!
//! A parent and a child that use each other are a module in several files, as in most Rust code
//! (`impl Hub` in `hub/stream.rs`), so that uses of ancestors do not count.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::source;

/// Item and module names from the crate's root on.
type Path = Vec<String>;

/// The dependencies of each file, with the names that make them.
type Edges<'a> = BTreeMap<&'a str, BTreeMap<&'a str, BTreeSet<String>>>;

/// Adds each cycle that remains when children's uses of their parents are left out.
pub(super) fn check(findings: &mut Vec<String>) -> Result<()> {
    for files in crates()?.values() {
        findings.extend(cycles(&edges(files)));
    }
    Ok(())
}

/// Reads the files of each crate below `crates` and of xtask.
fn crates() -> Result<BTreeMap<String, BTreeMap<Path, File>>> {
    let mut crates: BTreeMap<String, BTreeMap<Path, File>> = BTreeMap::new();
    for source in source::files(|path| source::is(path, "rs") && path.contains("/src/"))? {
        let Some((package, inside)) = source.path.split_once("/src/") else {
            continue;
        };
        if inside.contains("generated/")
            || inside.ends_with("tests.rs")
            || inside.contains("tests/")
        {
            continue;
        }
        let module: Path = inside
            .trim_end_matches(".rs")
            .split('/')
            // These files are the module of their folder.
            .filter(|part| !["lib", "main", "mod"].contains(part))
            .map(str::to_owned)
            .collect();
        let tokens: TokenStream = source
            .text
            .parse()
            .map_err(|error| anyhow::anyhow!("{error}"))
            .with_context(|| format!("read {}", source.path))?;
        let mut file = File {
            path: source.path.clone(),
            ..File::default()
        };
        file.read(tokens, &module);
        crates
            .entry(package.to_owned())
            .or_default()
            .insert(module, file);
    }
    Ok(crates)
}

/// The names in one file.
#[derive(Default)]
struct File {
    path: String,
    /// Modules that it declares as files of their own.
    children: BTreeSet<String>,
    /// Items that it defines.
    defined: BTreeSet<String>,
    /// Names that it imports, with their paths; a glob has the name `*`.
    imported: Vec<(String, Path)>,
    /// Every path in it, with the name that a visible `use` gives it.
    references: Vec<(Path, Option<String>)>,
    /// Identifiers outside of `use`.
    used: BTreeSet<String>,
}

impl File {
    fn read(&mut self, tokens: TokenStream, module: &[String]) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        // First, because a path may begin with a module that is declared further down.
        for three in tokens.windows(3) {
            if is_ident(&three[0], "mod") && is_punct(&three[2], ';') {
                self.children.insert(three[1].to_string());
            }
        }
        let (mut at, mut visible) = (0, false);
        while at < tokens.len() {
            // `pub` holds for the next token only.
            let was_visible = std::mem::take(&mut visible);
            match &tokens[at] {
                TokenTree::Punct(hash) if hash.as_char() == '#' => {
                    at += 1;
                    if let Some(TokenTree::Group(attribute)) = tokens.get(at) {
                        at += 1;
                        if is_for_tests(&attribute.stream().to_string()) {
                            at = end_of_item(&tokens, at);
                        }
                    }
                    continue;
                }
                TokenTree::Group(group) => self.read(group.stream(), module),
                TokenTree::Ident(word) => {
                    let word = word.to_string();
                    let next = tokens.get(at + 1);
                    match (word.as_str(), next) {
                        ("pub", Some(TokenTree::Group(group)))
                            if group.delimiter() == Delimiter::Parenthesis =>
                        {
                            at += 1;
                            visible = true;
                        }
                        ("pub", _) => visible = true,
                        ("use", _) => {
                            at += 1;
                            let mut leaves = Vec::new();
                            at = tree(&tokens, at, &[], &mut leaves);
                            for (path, name) in leaves {
                                if let Some(path) = self.absolute(&path, module) {
                                    let exported = was_visible.then(|| name.clone());
                                    self.references.push((path.clone(), exported));
                                    self.imported.push((name, path));
                                }
                            }
                        }
                        ("mod", Some(name)) => {
                            if let Some(TokenTree::Group(body)) = tokens.get(at + 2) {
                                let inner = [module, &[name.to_string()]].concat();
                                self.read(body.stream(), &inner);
                            }
                            at += 2;
                        }
                        (
                            "fn" | "struct" | "enum" | "union" | "const" | "static" | "trait"
                            | "type",
                            Some(TokenTree::Ident(name)),
                        ) => {
                            self.defined.insert(name.to_string());
                            at += 1;
                        }
                        _ if is_path(&tokens, at) => {
                            self.used.insert(word);
                            let mut leaves = Vec::new();
                            at = tree(&tokens, at, &[], &mut leaves);
                            for (path, _) in leaves {
                                if let Some(path) = self.absolute(&path, module) {
                                    self.references.push((path, None));
                                }
                            }
                            continue;
                        }
                        _ => {
                            self.used.insert(word);
                        }
                    }
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
            at += 1;
        }
    }

    /// Returns the path from the crate's root on, if it begins in this crate.
    fn absolute(&self, path: &[String], module: &[String]) -> Option<Path> {
        let mut base = module.to_vec();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => {
                base.clear();
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|word| word == "super") {
                    base.pop()?;
                    rest = &rest[1..];
                }
            }
            child if self.children.contains(child) => {}
            _ => return None,
        }
        base.extend_from_slice(rest);
        Some(base)
    }
}

/// Reads a path or a tree of paths and returns the index behind it.
fn tree(
    tokens: &[TokenTree],
    mut at: usize,
    prefix: &[String],
    leaves: &mut Vec<(Path, String)>,
) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(at) {
            Some(TokenTree::Ident(word)) => path.push(word.to_string()),
            Some(TokenTree::Punct(star)) if star.as_char() == '*' => {
                leaves.push((path, "*".to_owned()));
                return at + 1;
            }
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                let mut next = 0;
                while next < inner.len() {
                    next = tree(&inner, next, &path, leaves);
                    next += 1;
                }
                return at + 1;
            }
            _ => break,
        }
        at += 1;
        if !is_colons(tokens, at) {
            break;
        }
        at += 2;
    }
    let mut name = path.last().cloned().unwrap_or_default();
    if path.len() > 1 && name == "self" {
        path.pop();
        name = path.last().cloned().unwrap_or_default();
    }
    if tokens.get(at).is_some_and(|word| is_ident(word, "as")) {
        name = tokens
            .get(at + 1)
            .map(ToString::to_string)
            .unwrap_or_default();
        at += 2;
    }
    leaves.push((path, name));
    at
}

fn is_path(tokens: &[TokenTree], at: usize) -> bool {
    is_colons(tokens, at + 1)
        && !(at >= 2 && is_colons(tokens, at - 2))
        && matches!(tokens.get(at + 3), Some(TokenTree::Ident(_)))
}

fn is_colons(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |at: usize| tokens.get(at).is_some_and(|token| is_punct(token, ':'));
    colon(at) && colon(at + 1)
}

fn is_punct(token: &TokenTree, wanted: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == wanted)
}

fn is_ident(token: &TokenTree, wanted: &str) -> bool {
    matches!(token, TokenTree::Ident(word) if word == wanted)
}

fn is_for_tests(attribute: &str) -> bool {
    let attribute: String = attribute.chars().filter(|c| !c.is_whitespace()).collect();
    attribute.starts_with("cfg(test") || attribute.starts_with("cfg(all(test")
}

/// Returns the index behind the item, field or statement that begins here.
fn end_of_item(tokens: &[TokenTree], from: usize) -> usize {
    let end = tokens[from..].iter().position(|token| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        token => is_punct(token, ';') || is_punct(token, ','),
    });
    end.map_or(tokens.len(), |end| from + end + 1)
}

/// Returns who uses whom, without what a file uses of its ancestors.
fn edges(files: &BTreeMap<Path, File>) -> Edges<'_> {
    let mut edges = Edges::new();
    for (module, file) in files {
        for (path, exported) in &file.references {
            let exported_only = exported
                .as_ref()
                .is_some_and(|name| !file.used.contains(name));
            for target in targets(files, module, path, 0) {
                if module.starts_with(target) || exported_only && target.starts_with(module) {
                    continue;
                }
                let label = path.last().map_or("", String::as_str);
                let to = edges.entry(&file.path).or_default();
                to.entry(files[target].path.as_str())
                    .or_default()
                    .insert(label.to_owned());
            }
        }
    }
    edges
}

/// Returns the files that the path leads to: the one it names, and the one that defines the item.
fn targets<'a>(
    files: &'a BTreeMap<Path, File>,
    from: &[String],
    path: &[String],
    depth: usize,
) -> Vec<&'a Path> {
    let Some((named, file)) = (0..=path.len())
        .rev()
        .find_map(|end| files.get_key_value(&path[..end]))
    else {
        return Vec::new();
    };
    let is_ancestor = from.starts_with(named);
    let Some(item) = path.get(named.len()) else {
        // A module by itself (`use super::child`, `use crate::{self}`): its items count where they are used.
        return if is_ancestor { Vec::new() } else { vec![named] };
    };
    let mut found = if is_ancestor { Vec::new() } else { vec![named] };
    let imports = file
        .imported
        .iter()
        .filter(|(name, _)| name == item || name == "*");
    let mut elsewhere = Vec::new();
    // Globs may lead back to this file. The depth ends such a loop.
    if !file.defined.contains(item) && depth < 8 {
        for (name, path) in imports {
            let mut path = path.clone();
            if name == "*" {
                path.push(item.clone());
            }
            let lead = targets(files, from, &path, depth + 1);
            elsewhere.extend(
                lead.into_iter()
                    .filter(|target| name != "*" || files[*target].defined.contains(item)),
            );
        }
    }
    if elsewhere.is_empty() {
        found.push(named);
    }
    found.extend(elsewhere);
    found
}

/// Returns a description of each set of files that reach each other.
fn cycles(edges: &Edges<'_>) -> Vec<String> {
    let reached: BTreeMap<&str, BTreeSet<&str>> = edges
        .keys()
        .map(|from| (*from, reachable(edges, from)))
        .collect();
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for (from, reaches) in &reached {
        if !reaches.contains(from) || !seen.insert(*from) {
            continue;
        }
        let members: BTreeSet<&str> = reaches
            .iter()
            .copied()
            .filter(|to| reached.get(to).is_some_and(|back| back.contains(from)))
            .collect();
        seen.extend(&members);
        let mut lines = vec![format!("import cycle of {} files:", members.len())];
        for from in &members {
            for (to, names) in edges[from].iter().filter(|(to, _)| members.contains(*to)) {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                lines.push(format!("    {from} -> {to} ({})", names.join(", ")));
            }
        }
        found.push(lines.join("\n"));
    }
    found
}

fn reachable<'a>(edges: &Edges<'a>, from: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(next) = open.pop() {
        for to in edges.get(next).into_iter().flat_map(BTreeMap::keys) {
            if reached.insert(*to) {
                open.push(to);
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(sources: &[(&str, &str)]) -> usize {
        let mut files = BTreeMap::new();
        for (module, text) in sources {
            let module: Path = module.split_terminator("::").map(str::to_owned).collect();
            let mut file = File {
                path: module.join("::"),
                ..File::default()
            };
            file.read(text.parse().expect("it is Rust"), &module);
            files.insert(module, file);
        }
        cycles(&edges(&files)).len()
    }

    #[test]
    fn siblings_that_import_each_other_are_a_cycle() {
        let (a, b) = (
            "use crate::b::B; pub struct A;",
            "pub struct B(super::a::A);",
        );
        assert_eq!(found(&[("", "mod a; mod b;"), ("a", a), ("b", b)]), 1);
        let b = "pub struct B; #[cfg(test)] mod tests { use super::super::a::A; }";
        assert_eq!(found(&[("", "mod a; mod b;"), ("a", a), ("b", b)]), 0);
    }

    #[test]
    fn a_re_export_is_followed_to_the_defining_file() {
        let root = "mod a; mod b; pub use a::A; pub use b::B;";
        assert_eq!(
            found(&[
                ("", root),
                ("a", "pub struct A;"),
                ("b", "use crate::A; struct B;")
            ]),
            0
        );
        let a = "use crate::B; pub struct A;";
        assert_eq!(
            found(&[("", root), ("a", a), ("b", "use crate::A; pub struct B;")]),
            1
        );
    }

    #[test]
    fn a_parent_and_its_child_may_use_each_other() {
        let root = "mod c; use c::C; pub struct P; fn f(_: C) {}";
        assert_eq!(found(&[("", root), ("c", "pub struct C(super::P);")]), 0);
    }
}
