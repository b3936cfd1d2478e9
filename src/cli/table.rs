//! Aligned columns for people.

use std::fmt::Write as _;

/// Rows under a header, two spaces between columns; a column of numbers stands right. The last column is as long as it is.
/// Empty text without rows.
pub(super) fn render<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let is_number =
        |cell: &String| !cell.is_empty() && cell.bytes().all(|byte| b"0123456789.-".contains(&byte));
    let right: [bool; N] =
        std::array::from_fn(|column| rows.iter().all(|row| is_number(&row[column])) && column + 1 < N);
    let header = header.map(str::to_owned);
    let all = || std::iter::once(&header).chain(&rows);
    let widths: [usize; N] =
        std::array::from_fn(|column| all().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in all() {
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            // Writing to a String cannot fail.
            let _ = match (column + 1 == N, right[column]) {
                (true, _) => writeln!(text, "{cell}"),
                (false, true) => write!(text, "{cell:>width$}  "),
                (false, false) => write!(text, "{cell:width$}  "),
            };
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other_and_numbers_right() {
        let rows = vec![["a".into(), "5".into(), "x y".into()], ["bcd".into(), "1400".into(), "z".into()]];
        assert_eq!(render(["N", "MTU", "WHY"], rows), "N     MTU  WHY\na       5  x y\nbcd  1400  z\n");
        assert_eq!(render(["N"], vec![]), "");
    }
}
