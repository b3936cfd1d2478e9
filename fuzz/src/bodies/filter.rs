//! Filters of captures: any text is a filter or is told where it is wrong, and any packet has an answer.

use margay::capture::read::Reader;
use margay::capture::{Filter, Headers, Link};

/// A text up to the first zero byte, then a frame.
pub(super) fn filter(input: &[u8]) {
    let (text, packet) = match input.iter().position(|byte| *byte == 0) {
        Some(end) => (&input[..end], &input[end + 1..]),
        None => (input, &[][..]),
    };
    let Ok(text) = std::str::from_utf8(text) else { return };
    match text.parse::<Filter>() {
        Ok(filter) => {
            for link in [Link::Ethernet, Link::Ip] {
                answers(text, &filter, &Headers::of(link, packet, 4789));
            }
        }
        Err(error) => {
            let columns = text.chars().count() + 1;
            assert!((1..=columns).contains(&error.column), "{error}");
            assert!(!error.to_string().contains('\n') || text.contains('\n'), "{error}");
        }
    }
}

/// Parentheses change nothing, and "not" everything.
fn answers(text: &str, filter: &Filter, headers: &Headers) {
    let answer = filter.matches(headers);
    if filter.is_empty() {
        return assert!(answer);
    }
    if let Ok(same) = format!("({text})").parse::<Filter>() {
        assert_eq!(same.matches(headers), answer, "({text})");
    }
    if let Ok(not) = format!("not ({text})").parse::<Filter>() {
        assert_ne!(not.matches(headers), answer, "not ({text})");
    }
}

/// A file that somebody sends, in parts.
pub(super) fn pcapng(input: &[u8]) {
    let mut reader = Reader::default();
    let mut whole = Vec::new();
    for part in input.chunks(7) {
        reader.push(part);
        loop {
            match reader.block() {
                Ok(Some(block)) => whole.extend(block.raw),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    assert!(whole.len() <= input.len());
}
