//! Holds the table of ARCHITECTURE.md true: who may use whom, and what a layer may do.
//!
//! What it cannot see: an arrow that a macro makes, a method whose type is never named, and what a dependency
//! does inside.

#[path = "layers/paths.rs"]
mod paths;
#[path = "layers/table.rs"]
mod table;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use paths::Source;
use table::Table;

/// Crates whose business is I/O, the kernel or threads: not for layer 0.
const MACHINE_CRATES: [&str; 14] = [
    "libc",
    "mio",
    "netlink_packet_core",
    "netlink_packet_route",
    "netlink_sys",
    "nix",
    "notify",
    "pnet",
    "signal_hook",
    "socket2",
    "tracing_subscriber",
    "tun_tap",
    "clap",
    "tempfile",
];

/// Paths of the standard library that are not for layer 0: I/O, clock, thread. A prefix forbids all below it.
const MACHINE_PATHS: [&str; 12] = [
    "std::env",
    "std::fs",
    "std::io",
    "std::os",
    "std::process",
    "std::thread",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "Instant::now",
    "SystemTime",
];

/// Paths that are not for layer 2: it knows descriptors and addresses, never files.
const FILE_PATHS: [&str; 3] = ["std::env", "std::fs", "std::path"];

/// Modules of layer 0 that layer 2 does not use: the FIB is all it knows of them.
const CONTROL_PLANE: [&str; 2] = ["resource", "rib"];

/// Modules that may hold `unsafe`, with all below them.
const UNSAFE_ALLOWED: [&str; 3] = ["buf", "sys", "wire::checksum"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn architecture() -> Table {
    Table::parse(&fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap())
}

/// Every source file below `src` but the binary's `main.rs`, which stands above all layers.
fn sources() -> Vec<(PathBuf, Source)> {
    let src = root().join("src");
    let mut found = Vec::new();
    let mut left = vec![src.clone()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") && path != src.join("main.rs") {
                let module = paths::module_of(path.strip_prefix(&src).unwrap());
                let source = Source::read(&module, &fs::read_to_string(&path).unwrap());
                found.push((path.strip_prefix(root()).unwrap().to_owned(), source));
            }
        }
    }
    assert!(found.len() > 10, "the sources were not found");
    found
}

/// What is wrong with one file; empty when nothing is.
fn complaints(table: &Table, file: &Path, source: &Source) -> Vec<String> {
    let Some(module) = source.module.first() else { return Vec::new() };
    let say = |line: u32, text: String| format!("{}:{line}: {text}", file.display());
    let mut complaints = Vec::new();
    let Some(layer) = table.layer_of(module) else {
        return vec![say(1, format!("module `{module}` is not in the table"))];
    };
    let path = source.module.join("::");
    let may_be_unsafe = UNSAFE_ALLOWED.iter().any(|allowed| {
        path.strip_prefix(allowed).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    });
    if let Some(line) = source.unsafe_at.first().filter(|_| !may_be_unsafe) {
        complaints.push(say(*line, format!("`unsafe` in `{module}`")));
    }
    for path in &source.paths {
        let text = path.segments.join("::");
        if let [first, used, ..] = &path.segments[..]
            && first == "crate"
        {
            if used == "*" {
                complaints.push(say(path.line, "a glob of the whole crate hides who uses whom".to_owned()));
            } else if table.layer_of(used).is_some() && !table.may_use(module, used) {
                complaints.push(say(path.line, format!("`{module}` must not use `{used}` ({text})")));
            } else if layer == 2 && CONTROL_PLANE.contains(&used.as_str()) {
                complaints.push(say(path.line, format!("`{module}` must not know of `{used}` ({text})")));
            }
        }
        let forbidden = match layer {
            0 => path.is_below(&MACHINE_PATHS) || path.is_below(&MACHINE_CRATES),
            2 => path.is_below(&FILE_PATHS),
            _ => false,
        };
        if forbidden {
            complaints.push(say(path.line, format!("`{module}` must not use {text}")));
        }
    }
    complaints
}

#[test]
fn every_arrow_agrees_with_the_table() {
    let table = architecture();
    let complaints: Vec<String> =
        sources().iter().flat_map(|(file, source)| complaints(&table, file, source)).collect();
    assert!(complaints.is_empty(), "against ARCHITECTURE.md:\n{}", complaints.join("\n"));
}

/// The table names each module of `lib.rs`, and the table in `lib.rs` puts them in the same layers.
#[test]
fn the_table_and_lib_rs_have_the_same_modules() {
    let table = architecture();
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let declared: BTreeSet<&str> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod ")))
        .filter_map(|line| line.strip_suffix(';'))
        .collect();
    assert_eq!(table.modules(), declared);

    let doc: String =
        lib.lines().filter_map(|line| line.strip_prefix("//! ")).map(|l| format!("{l}\n")).collect();
    let short = Table::parse(&doc);
    for module in declared {
        assert_eq!(short.layer_of(module), table.layer_of(module), "{module} in the table of lib.rs");
    }
}

/// A checker that finds nothing proves nothing: each rule, broken on purpose.
mod broken_rules {
    use super::*;

    fn found(module: &str, text: &str) -> Vec<String> {
        let module: Vec<String> = module.split("::").map(str::to_owned).collect();
        complaints(&architecture(), Path::new("x.rs"), &Source::read(&module, text))
    }

    #[track_caller]
    fn broken(module: &str, text: &str, line: u32) {
        let found = found(module, text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(found[0].starts_with(&format!("x.rs:{line}: ")), "{found:?}");
    }

    #[track_caller]
    fn fine(module: &str, text: &str) {
        assert_eq!(found(module, text), Vec::<String>::new(), "{text}");
    }

    #[test]
    fn an_arrow_up_the_layers() {
        broken("wire::arp", "use crate::dataplane::Worker;", 1);
        broken("fib", "\nfn f(x: crate::agent::Agent) {}", 2);
        broken("sys::tun", "use crate::{wire::{MacAddr as Mac, Ecn},\n  io::Port as P, fib::*};", 2);
        fine("io::tap", "use crate::{wire::MacAddr, sys::tun, fib::Fib};");
        fine("cli", "use crate::{agent::Agent, testbed::Lab, datastore, sys::netns};");
    }

    #[test]
    fn an_arrow_against_the_order_within_a_layer() {
        broken("wire", "use crate::lpm::Prefix;", 1);
        broken("lpm", "use crate::rib;", 1);
        broken("rib", "pub use crate::fib::Fib;", 1);
        broken("buf", "use crate::io::Port;", 1);
        broken("agent", "use crate::cli::Args;", 1);
        fine("rib", "use crate::{lpm::Prefix, resource::Node};");
    }

    #[test]
    fn neighbours_that_know_each_other_and_neighbours_that_do_not() {
        fine("dataplane", "use crate::slowpath::Punt;");
        fine("slowpath", "use crate::dataplane::Engine;");
        broken("testbed", "use crate::agent::Agent;", 1);
        broken("agent", "use crate::testbed::Lab;", 1);
    }

    #[test]
    fn the_long_way_round_through_super() {
        broken("wire::flow", "use super::super::fib::Fib;", 1);
        broken("wire", "mod tests { use super::super::fib; }", 1);
        fine("wire::flow", "mod tests { use super::super::Ipv4; use super::*; }");
        fine("wire", "use self::arp::Arp; pub(in crate::wire) fn f() {} pub(crate) struct S;");
    }

    #[test]
    fn words_in_comments_and_strings_are_no_arrows() {
        fine(
            "wire",
            "/* unsafe /* crate::fib */ std::fs */ // use crate::fib;\n/// [`crate::fib::Fib`]\nfn f() {}",
        );
        fine(
            "wire",
            r####"const A: &str = "crate::fib unsafe \" std::fs"; const B: &str = r#"crate::fib "unsafe"#;"####,
        );
        fine("wire", "const C: char = '\"'; fn f<'a>(x: &'a str) -> char { '\\'' } // \" crate::fib");
        broken("wire", "const C: char = '\"'; use crate::fib;", 1);
        broken("wire", "fn f<'a>(x: &'a str) { crate::fib::g(\"\") }", 1);
    }

    #[test]
    fn a_glob_of_the_crate() {
        broken("cli", "use crate::*;", 1);
    }

    #[test]
    fn unsafe_code_where_it_does_not_belong() {
        broken("io", "\n\nfn f() { unsafe { g() } }", 3);
        broken("dataplane", "unsafe impl Send for S {}", 1);
        broken("wire::flow", "fn f() { unsafe { g() } }", 1);
        broken("wire", "fn f() { unsafe { g() } }", 1);
        fine("sys::tun", "fn f() { unsafe { g() } }");
        fine("wire::checksum", "fn f() { unsafe { g() } }");
        fine("io", "#![deny(unsafe_code)] // unsafe");
    }

    #[test]
    fn io_clock_and_threads_in_layer_0() {
        for text in [
            "use std::fs;",
            "use std::{fmt, fs::File};",
            "fn f() { std::thread::spawn(g); }",
            "use std::net::{IpAddr, UdpSocket};",
            "fn f() { let now = Instant::now(); }",
            "fn f() { std::time::Instant::now(); }",
            "use std::time::SystemTime;",
            "use libc::c_int;",
            "fn f() { ::nix::unistd::getpid(); }",
            "use std::io::Write as _;",
        ] {
            broken("rib", text, 1);
        }
        fine(
            "rib",
            "use std::net::{IpAddr, Ipv4Addr}; use std::time::{Duration, Instant}; use std::sync::Arc;",
        );
        fine("sys", "use std::fs; use libc::c_int; fn f() { Instant::now(); }");
    }

    #[test]
    fn files_and_resources_in_layer_2() {
        broken("dataplane", "use crate::resource::Node;", 1);
        broken("slowpath", "use crate::rib::Route;", 1);
        broken("dataplane::worker", "use std::fs::File;", 1);
        fine("dataplane", "use crate::{fib::Fib, io::Port, lpm::Prefix}; use std::time::Instant;");
    }

    #[test]
    fn a_module_that_nobody_put_in_the_table() {
        broken("util", "", 1);
    }
}
