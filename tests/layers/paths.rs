//! The paths that a source file names: a reader of Rust's tokens that knows modules and `use` trees, and no more.

use std::path::Path;

/// A path, in full: `use` groups unfolded, `super` and `self` resolved to `crate::…`.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) segments: Vec<String>,
    pub(crate) line: u32,
}

impl Named {
    /// True when the path is one of `prefixes` or begins with it; `Instant::now` is also found in
    /// `std::time::Instant::now`.
    pub(crate) fn is_below(&self, prefixes: &[&str]) -> bool {
        prefixes.iter().any(|prefix| {
            let prefix: Vec<&str> = prefix.split("::").collect();
            // A crate's name counts at the beginning only, a type's anywhere.
            let rooted = prefix[0].starts_with(char::is_lowercase);
            self.segments
                .windows(prefix.len())
                .enumerate()
                .any(|(at, window)| (at == 0 || !rooted) && window.iter().eq(&prefix))
        })
    }
}

/// What one file says.
pub(crate) struct Source {
    pub(crate) module: Vec<String>,
    pub(crate) paths: Vec<Named>,
    pub(crate) unsafe_at: Vec<u32>,
}

/// `wire/arp.rs` is `wire::arp`, `wire/mod.rs` is `wire`, `lib.rs` is the crate itself.
pub(crate) fn module_of(file: &Path) -> Vec<String> {
    let mut module: Vec<String> =
        file.with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if module.last().is_some_and(|last| last == "mod" || last == "lib") {
        module.pop();
    }
    module
}

impl Source {
    pub(crate) fn read(module: &[String], text: &str) -> Source {
        let tokens = tokens(text);
        let mut source = Source { module: module.to_vec(), paths: Vec::new(), unsafe_at: Vec::new() };
        // Names of the modules that are open, and the depth of braces at which each ends.
        let mut inside: Vec<(String, usize)> = Vec::new();
        let mut depth = 0;
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            match token.text.as_str() {
                "{" => depth += 1,
                "}" => {
                    depth -= 1;
                    inside.retain(|(_, opened)| *opened <= depth);
                }
                "mod" if text_at(&tokens, at + 2) == "{" => {
                    depth += 1;
                    inside.push((tokens[at + 1].text.clone(), depth));
                    at += 3;
                    continue;
                }
                "unsafe" => source.unsafe_at.push(token.line),
                _ => {}
            }
            if !begins_path(&tokens, at) {
                at += 1;
                continue;
            }
            let here: Vec<String> =
                module.iter().cloned().chain(inside.iter().map(|(name, _)| name.clone())).collect();
            let mut unfolded = Vec::new();
            at = unfold(&tokens, at, &mut Vec::new(), &mut unfolded).max(at + 1);
            source.paths.extend(unfolded.into_iter().map(|path| resolve(path, &here)));
        }
        source
    }
}

/// A path: what `use` is followed by, names with `::` between them, and a name that says enough alone.
fn begins_path(tokens: &[Token], at: usize) -> bool {
    let (text, used) = (text_at(tokens, at), text_before(tokens, at) == "use");
    match text {
        "::" => used,
        "SystemTime" => true,
        _ => is_name(text) && (used || text_at(tokens, at + 1) == "::"),
    }
}

/// Reads the path, or the tree of paths in braces, that begins at `at`; returns where it ends.
fn unfold(tokens: &[Token], mut at: usize, before: &mut Vec<String>, out: &mut Vec<Named>) -> usize {
    let length = before.len();
    let line = tokens.get(at).map_or(0, |token| token.line);
    loop {
        match text_at(tokens, at) {
            "::" => at += 1,
            "{" => {
                at += 1;
                loop {
                    at = match text_at(tokens, at) {
                        "}" | "" => break,
                        "," => at + 1,
                        "as" => at + 2,
                        _ => unfold(tokens, at, before, out).max(at + 1),
                    };
                }
                before.truncate(length);
                return at + 1;
            }
            name if name == "*" || is_name(name) => {
                before.push(name.to_owned());
                at += 1;
                if text_at(tokens, at) != "::" {
                    break;
                }
            }
            // `path::<T>`, or whatever is no path.
            _ => break,
        }
    }
    out.push(Named { segments: before.clone(), line });
    before.truncate(length);
    at
}

/// `self` and `super` in terms of the crate.
fn resolve(mut path: Named, here: &[String]) -> Named {
    let segments = &path.segments;
    let supers = segments.iter().take_while(|segment| *segment == "super").count();
    let own = segments.first().is_some_and(|first| first == "self");
    if supers > 0 || own {
        let stay = here.len().saturating_sub(supers);
        let rest = segments[supers + usize::from(own)..].iter().cloned();
        path.segments =
            ["crate".to_owned()].into_iter().chain(here[..stay].iter().cloned()).chain(rest).collect();
    }
    path
}

struct Token {
    text: String,
    line: u32,
}

fn text_at(tokens: &[Token], at: usize) -> &str {
    tokens.get(at).map_or("", |token| &token.text)
}

fn text_before(tokens: &[Token], at: usize) -> &str {
    at.checked_sub(1).map_or("", |before| text_at(tokens, before))
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// Names, `::` and single signs; comments, strings, characters and lifetimes left out.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            _ if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            _ if rest.starts_with("/*") => block_comment(rest),
            '"' => string(rest, 1),
            'r' | 'b' | 'c' if raw_string(rest).is_some() => raw_string(rest).unwrap(),
            '\'' => character_or_lifetime(rest),
            _ if first.is_alphanumeric() || first == '_' => {
                let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                tokens.push(Token { text: rest[..length].to_owned(), line });
                length
            }
            _ if first.is_whitespace() => first.len_utf8(),
            _ => {
                let length = if rest.starts_with("::") { 2 } else { first.len_utf8() };
                tokens.push(Token { text: rest[..length].to_owned(), line });
                length
            }
        };
        line += rest[..length].matches('\n').count() as u32;
        rest = &rest[length..];
    }
    tokens
}

/// Length of a comment, which may hold others.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let step = match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => 1,
            [b'*', b'/', ..] => -1,
            _ => 0,
        };
        depth += step;
        at += if step == 0 { 1 } else { 2 };
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// Length of a string whose text begins at `at`.
fn string(text: &str, at: usize) -> usize {
    let mut escaped = false;
    for (offset, c) in text[at..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + offset + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of `r"…"`, `r#"…"#`, `br…`, `b"…"`, `c"…"`.
fn raw_string(text: &str) -> Option<usize> {
    let prefix = text.find(|c| !matches!(c, 'r' | 'b' | 'c'))?;
    let hashes = text[prefix..].find(|c| c != '#')?;
    let at = prefix + hashes + 1;
    if prefix > 2 || !text[prefix + hashes..].starts_with('"') {
        return None;
    }
    if !text[..prefix].contains('r') {
        return (hashes == 0).then(|| string(text, at));
    }
    let end = format!("\"{}", "#".repeat(hashes));
    Some(text[at..].find(&end).map_or(text.len(), |length| at + length + end.len()))
}

/// Length of `'x'`, `'\n'`, or `'a` alone.
fn character_or_lifetime(text: &str) -> usize {
    if text[1..].starts_with('\\') {
        // The sign after the backslash may be a quote.
        return text[3..].find('\'').map_or(text.len(), |end| end + 4);
    }
    match text[1..].chars().next() {
        Some(c) if text[1 + c.len_utf8()..].starts_with('\'') => 2 + c.len_utf8(),
        _ => 1,
    }
}
