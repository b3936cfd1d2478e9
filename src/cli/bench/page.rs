//! The results as a page that needs nothing from outside.

use std::fmt::Write;
use std::io;

use super::metric::Better;
use super::report::{Report, Row};
use super::{plot, table};

const STYLE: &str = "\
body { font: 16px/1.5 sans-serif; color: #222; background: #fff; max-width: 50em; margin: 2em auto; padding: 0 1em }
svg { max-width: 100%; height: auto }
table { border-collapse: collapse; margin: 0.5em 0 2em }
th, td { padding: 0.15em 0.8em; text-align: right; border-bottom: 1px solid #ddd }
th { font-weight: 600 } th:first-child, td:first-child { text-align: left }
small { color: #666; font-weight: 400 }
";

/// The page.
///
/// # Errors
/// A plot could not be drawn.
pub(super) fn render(report: &Report<'_>) -> io::Result<String> {
    let mut page = String::new();
    let conditions = escape(&table::conditions(report.machine, report.options));
    let debug = "This is a debug build: its figures mean nothing.".to_owned();
    let warnings = report.machine.debug_build.then_some(debug).into_iter().chain(table::disturbance(report));
    let warnings: String =
        warnings.map(|text| format!("<p><strong>{}</strong></p>\n", escape(&text))).collect();
    page += &format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>margay bench</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<h1>margay bench</h1>\n<p>{conditions}</p>\n{warnings}\
         <p>Between pods of two nodes in network namespaces of one machine. A bar is the median of the rounds, a dot \
         one round. The ratio is the median of the ratios within a round. Spread is the largest value less the \
         smallest, in percent of the median. Daemons and machine: seconds of a core for each unit of work; the \
         machine’s include senders, receivers and the kernel. Memory: the most that one daemon had resident.</p>\n"
    );
    for rows in report.by_metric() {
        section(rows, &mut page)?;
    }
    page += "</body>\n</html>\n";
    Ok(page)
}

fn section(rows: &[Row], page: &mut String) -> io::Result<()> {
    let first = &rows[0];
    let better = match first.better {
        Better::Higher => "more is better",
        Better::Lower => "less is better",
    };
    let (title, unit, reference) = (escape(first.title), first.unit, first.reference.name());
    *page += &format!("<h2>{title} <small>{unit}, {better}</small></h2>\n");
    *page += &plot::svg(rows)?;
    let cost = first.cpu_per.map(|work| format!("s/{work}"));
    let heads = [
        String::new(),
        format!("median {unit}"),
        "spread %".into(),
        format!("to {reference}"),
        cost.as_ref().map_or_else(String::new, |cost| format!("daemons {cost}")),
        cost.as_ref().map_or_else(String::new, |cost| format!("machine {cost}")),
        "memory MiB".into(),
    ];
    *page += "\n<table>\n";
    line("th", &heads, page);
    rows.iter().for_each(|row| line("td", &table::cells(row), page));
    *page += "</table>\n";
    Ok(())
}

fn line(tag: &str, cells: &[String], page: &mut String) {
    *page += "<tr>";
    for cell in cells {
        // Writing to a string cannot fail.
        let _ = write!(page, "<{tag}>{}</{tag}>", escape(cell));
    }
    *page += "</tr>\n";
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
