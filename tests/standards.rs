//! Holds docs/standards.md true: every statement is there, and what a row names as its code and its test exists.

use std::fs;
use std::path::Path;

/// The statements that margay keeps, by their letter: how many there are.
const STATEMENTS: [(char, u32); 9] =
    [('A', 7), ('F', 12), ('T', 9), ('M', 14), ('E', 4), ('I', 12), ('V', 11), ('S', 11), ('N', 18)];

/// What a row says: its statement's ids, and the cells for code and test.
struct Row {
    ids: Vec<String>,
    code: String,
    test: String,
}

fn rows(text: &str) -> Vec<Row> {
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let lines = text.lines().filter(|line| line.starts_with('|')).map(cells);
    let rows = lines
        .filter_map(|cells| <[String; 4]>::try_from(cells).ok())
        .map(|[ids, _, code, test]| Row { ids: ids.split(", ").map(str::to_owned).collect(), code, test });
    rows.collect()
}

/// What stands between backticks in a cell; what has no file of its own belongs to the one before.
fn names(cell: &str) -> Vec<(String, Option<String>)> {
    let mut names: Vec<(String, Option<String>)> = Vec::new();
    for name in cell.split('`').skip(1).step_by(2) {
        match (name.split_once("::"), names.last()) {
            (Some((file, item)), _) if file.ends_with(".rs") => names.push((file.into(), Some(item.into()))),
            (None, _) if name.contains(['/', '.']) => names.push((name.into(), None)),
            (_, Some((file, _))) => names.push((file.clone(), Some(name.into()))),
            (_, None) => names.push((name.into(), None)),
        }
    }
    names
}

/// Whether a file or a directory is there, below the root or below `src`, and in it the item: `TYPE::ITEM`, or
/// `BEGINNING_*` for all that begin so.
fn exists(file: &str, item: Option<&str>) -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = [root.join(file), root.join("src").join(file)].into_iter().find(|path| path.exists());
    let path = path.ok_or_else(|| format!("there is no {file}"))?;
    let Some(item) = item else { return Ok(()) };
    let text = fs::read_to_string(&path).map_err(|error| format!("{file}: {error}"))?;
    let words: Vec<&str> = text.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
    let item = item.rsplit("::").next().unwrap_or(item);
    let is_item = |name: &str| match item.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == item,
    };
    let defines =
        |pair: &[&str]| ["fn", "struct", "enum", "const", "mod"].contains(&pair[0]) && is_item(pair[1]);
    if words.windows(2).any(defines) { Ok(()) } else { Err(format!("{file} defines no {item}")) }
}

#[test]
fn every_statement_names_its_code_and_its_test() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/standards.md")).unwrap();
    let rows = rows(&text);
    let mut wrong = Vec::new();
    for id in STATEMENTS.iter().flat_map(|(letter, count)| (1..=*count).map(move |n| format!("{letter}{n}")))
    {
        let mut of_id = rows.iter().filter(|row| row.ids.contains(&id)).peekable();
        if of_id.peek().is_none() {
            wrong.push(format!("{id}: no row"));
        }
        for Row { code, test, .. } in of_id {
            if code.is_empty() || names(test).is_empty() {
                wrong.push(format!("{id}: names no code, or no test"));
            }
            for (file, item) in names(code).into_iter().chain(names(test)) {
                if let Err(problem) = exists(&file, item.as_deref()) {
                    wrong.push(format!("{id}: {problem}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "docs/standards.md:\n{}", wrong.join("\n"));
}
