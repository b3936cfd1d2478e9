//! The book's reference is what the program says: the pages are made from it, and compared on every run.
//!
//! `cargo test --test reference -- --ignored` writes them anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use margay::verdict::{Anomaly, DropReason, PuntReason, Sent};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// Each page, and what it should hold.
fn pages() -> [(&'static str, String); 3] {
    [("commands.md", commands()), ("metrics.md", metrics()), ("reasons.md", reasons())]
}

#[test]
fn the_reference_is_current() {
    for (name, wanted) in pages() {
        let found = std::fs::read_to_string(docs().join("reference").join(name)).unwrap_or_default();
        let first = found.lines().zip(wanted.lines()).find(|(found, wanted)| found != wanted);
        assert!(
            found == wanted,
            "docs/reference/{name} is not what the program says, first at {first:?}:\n\
             cargo test --test reference -- --ignored"
        );
    }
}

#[test]
#[ignore = "writes into docs/reference"]
fn write_the_reference() {
    for (name, page) in pages() {
        std::fs::write(docs().join("reference").join(name), page).unwrap();
    }
}

/// What the dashboard shows is a metric that there is.
#[test]
fn the_dashboard_asks_for_metrics_that_there_are() {
    let dashboard = std::fs::read_to_string(docs().join("../contrib/grafana-dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let page = metrics();
    let expressions: Vec<&str> = dashboard["panels"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|panel| {
            panel["targets"].as_array().unwrap().iter().map(|target| target["expr"].as_str().unwrap())
        })
        .collect();
    assert!(expressions.len() > 9);
    for expression in expressions {
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names: Vec<&str> =
            words.filter(|word| word.starts_with("margay_") || word.starts_with("felix_")).collect();
        assert!(!names.is_empty(), "{expression}");
        for name in names {
            let family =
                ["_total", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(page.contains(&format!("| `{family}` |")), "{name} in {expression}");
        }
    }
}

/// A page that the summary does not name is in no book, and a link to no page leads nowhere.
#[test]
fn the_book_has_every_page_and_no_link_leads_nowhere() {
    let mut pages: Vec<PathBuf> = vec![];
    for dir in [docs(), docs().join("reference")] {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        pages.extend(entries.filter(|path| path.extension().is_some_and(|ext| ext == "md")));
    }
    let summary = docs().join("SUMMARY.md");
    let listed: BTreeSet<PathBuf> = links(&summary).into_iter().collect();
    for page in pages.iter().filter(|page| **page != summary) {
        assert!(listed.contains(page), "{} is not in docs/SUMMARY.md", page.display());
    }
    let book = docs().canonicalize().unwrap();
    for page in &pages {
        for target in links(page) {
            let found =
                target.canonicalize().is_ok_and(|target| target.is_file() && target.starts_with(&book));
            assert!(found, "{} links to {}, which the book has not", page.display(), target.display());
        }
    }
    let readme = docs().join("../README.md");
    for target in links(&readme) {
        assert!(target.exists(), "README.md links to {}, which is not there", target.display());
    }
}

/// The files that a page links to.
fn links(page: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(page).unwrap();
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    let own = targets.filter(|target| !target.is_empty() && !target.contains("://"));
    own.map(|target| page.parent().unwrap().join(target)).collect()
}

fn reasons() -> String {
    let mut page = String::from(
        "# Outcomes, punt and drop reasons\n\n\
         Every frame that comes in ends as sent, punted or dropped, by exactly one of these; what the slow path makes of a punted\n\
         frame counts as a frame of its own. The counters of metrics, log and commands have these names.\n",
    );
    let mut list = |title: &str, about: &str, rows: &mut dyn Iterator<Item = (&str, &str)>| {
        let _ =
            write!(page, "\n## {title}\n\n{about}\n\n| name | what happened, and what to do |\n|---|---|\n");
        rows.for_each(|(name, explanation)| {
            let _ = writeln!(page, "| `{name}` | {explanation} |");
        });
    };
    let rows = &mut Sent::ALL.iter().map(|sent| (sent.name(), sent.explanation()));
    list("Sent", "Where the frame went.", rows);
    let rows = &mut PuntReason::ALL.iter().map(|reason| (reason.name(), reason.explanation()));
    list("Punted", "Why the frame left the fast path: no loss.", rows);
    let rows = &mut DropReason::ALL.iter().map(|reason| (reason.name(), reason.explanation()));
    list("Dropped", "Why the frame ended.", rows);
    let rows = &mut Anomaly::ALL.iter().map(|anomaly| (anomaly.name(), anomaly.explanation()));
    list("Noted", "What is wrong with a frame that goes on.", rows);
    page
}

/// The families of an empty scrape: each is described, whether it has samples or not.
fn metrics() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         At `/metrics` of the web address (`--web`, 127.0.0.1:9091 by default), as OpenMetrics text. A counter's samples end in `_total`. A\n\
         super-frame counts as one frame, as on the kernel's interfaces; bytes are those of frames as they stand at the edge: at an endpoint with\n\
         the Ethernet header, `form=\"ipip\"` with the outer IPv4 header, `form=\"vxlan\"` with the VXLAN and inner Ethernet headers.\n\n\
         Names that begin with `felix_` are Felix's, for what Felix counts too. A dashboard for Grafana: `contrib/grafana-dashboard.json`.\n\n\
         | name | type | what |\n|---|---|---|\n",
    );
    let scrape = margay::control::metrics::encode(margay::agent::view::Readings::default());
    let of = |kind: &str, line: &str| {
        let rest = line.strip_prefix(kind)?;
        rest.split_once(' ').map(|(name, text)| (name.to_owned(), text.to_owned()))
    };
    let mut about = String::new();
    for line in scrape.lines() {
        if let Some((_, text)) = of("# HELP ", line) {
            about = text;
        } else if let Some((name, kind)) = of("# TYPE ", line) {
            let _ = writeln!(page, "| `{name}` | {kind} | {about} |");
        }
    }
    page
}

fn commands() -> String {
    let mut page = String::from(
        "# Commands and flags\n\nWhat `margay help COMMAND` says. Most options have a variable in the environment as well.\n",
    );
    let own = help(&[]);
    let _ = write!(page, "\n## margay\n\n```text\n{}\n```\n", own.trim_end());
    let listed = own.split("Commands:\n").nth(1).expect("a list of commands");
    let names = listed.lines().take_while(|line| !line.is_empty());
    let names = names.filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')));
    for name in names.filter_map(|line| line.split(' ').next()).filter(|name| *name != "help") {
        let _ = write!(page, "\n## margay {name}\n\n```text\n{}\n```\n", help(&[name]).trim_end());
    }
    page
}

/// What the program says about a command, on a terminal of the width that it takes at most, in an empty environment.
fn help(command: &[&str]) -> String {
    let program = env!("CARGO_BIN_EXE_margay");
    let output = Command::new(program).args(command).arg("--help").env_clear().env("COLUMNS", "110").output();
    let output = output.expect("margay --help runs");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}
