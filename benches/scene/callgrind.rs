//! Instructions of a run of this program, counted by valgrind.

use std::process::Command;

/// Valgrind is missing, or said something unexpected.
#[derive(Debug)]
pub(crate) struct NoCount;

/// Instructions that this program takes when it is called with `arguments`.
pub(crate) fn instructions(arguments: &[&str]) -> Result<f64, NoCount> {
    let this = std::env::current_exe().map_err(|_| NoCount)?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(this)
        .args(arguments)
        .output()
        .map_err(|_| NoCount)?;
    let text = String::from_utf8_lossy(&output.stderr);
    // ==123== Collected : 4567
    let collected = text.lines().find_map(|line| line.split_once("Collected :")).ok_or(NoCount)?.1;
    collected.trim().parse().map_err(|_| NoCount)
}
