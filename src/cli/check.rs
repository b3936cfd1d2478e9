//! `margay check`: are these resources valid, and what would each node route where and how?

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::agent::view::Route;
use crate::cli::routes;
use crate::datastore;
use crate::resource::Resources;
use crate::rib::{NodePlan, Underlay, plan};

/// Validate a directory of resources and print what each node would route where and how
///
/// Reads every *.yaml, *.yml and *.json file of DIR, as `margay run` does, and changes nothing. The
/// tables go to standard output; errors, warnings and notes to standard error. A warning is something
/// that works but is probably not meant, such as two nodes that decide differently under CrossSubnet.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Exit status: 0 if the resources are valid, 1 if something is wrong.")]
pub struct Args {
    /// Directory of Calico resources (projectcalico.org/v3) in YAML or JSON
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Only this node's routes
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
}

/// Whether the resources can be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every node asked for has a plan.
    Valid,
    /// Something is wrong and was said.
    Wrong,
}

/// Runs the command on standard output and standard error.
pub fn run(args: &Args) -> ExitCode {
    match check(args, &mut io::stdout().lock(), &mut io::stderr().lock()) {
        Ok(Verdict::Valid) => ExitCode::SUCCESS,
        Ok(Verdict::Wrong) => ExitCode::FAILURE,
        // The reader had enough (`margay check … | head`).
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("margay check: cannot write the answer: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The command with its two outputs given.
///
/// # Errors
/// An output does not take the text.
pub fn check(args: &Args, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<Verdict> {
    let resources = match datastore::load(&args.directory) {
        Ok(resources) => resources,
        Err(error) => {
            say(err, "error", &error.to_string())?;
            return Ok(Verdict::Wrong);
        }
    };
    writeln!(out, "{}: {}", args.directory.display(), counts(&resources))?;
    for notice in &resources.notices {
        say(err, "note", &notice.to_string())?;
    }
    if resources.nodes.is_empty() && args.node.is_none() {
        say(err, "warning", "there is no Node resource: nothing is routed")?;
    }
    let mut verdict = Verdict::Valid;
    let mut warned = BTreeSet::new();
    for name in nodes(args, &resources, &mut warned, err)? {
        match plan(&resources, &name) {
            Ok(plan) => {
                show(&plan, out)?;
                for warning in plan.warnings {
                    // What concerns a pair of nodes stands in the plans of both.
                    if !warned.contains(&warning) {
                        say(err, "warning", &warning)?;
                        warned.insert(warning);
                    }
                }
            }
            Err(error) => {
                say(err, "error", &error.to_string())?;
                verdict = Verdict::Wrong;
            }
        }
    }
    Ok(verdict)
}

/// The node asked for, or all that can be routed.
fn nodes(
    args: &Args,
    resources: &Resources,
    warned: &mut BTreeSet<String>,
    err: &mut dyn Write,
) -> io::Result<Vec<String>> {
    if let Some(node) = &args.node {
        return Ok(vec![node.clone()]);
    }
    let mut names = Vec::new();
    for node in &resources.nodes {
        let name = node.meta.name.clone();
        if node.ipv4.is_some() || node.ipv6.is_some() {
            names.push(name);
            continue;
        }
        let warning =
            format!("{name} has neither spec.bgp.ipv4Address nor spec.bgp.ipv6Address: it takes no part");
        say(err, "warning", &warning)?;
        warned.insert(warning);
    }
    Ok(names)
}

fn show(plan: &NodePlan, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out)?;
    let underlay = |underlay: &Underlay| format!("{} in {}", underlay.address, underlay.subnet);
    let underlays: Vec<String> = plan.underlays.iter().map(underlay).collect();
    writeln!(out, "{}, {}:", plan.node, underlays.join(" and "))?;
    for line in routes::table(&Route::all(plan)).lines() {
        writeln!(out, "  {line}")?;
    }
    Ok(())
}

fn counts(resources: &Resources) -> String {
    let parts = [
        (resources.nodes.len(), "node"),
        (resources.pools.len(), "pool"),
        (resources.blocks.len(), "block"),
        (resources.endpoints.len(), "endpoint"),
    ];
    let count = |(n, what): (usize, &str)| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    parts.map(count).join(", ")
}

/// Every line with its level in front, so that each can be found and counted.
fn say(err: &mut dyn Write, level: &str, text: &str) -> io::Result<()> {
    text.lines().try_for_each(|line| writeln!(err, "{level}: {line}"))
}
