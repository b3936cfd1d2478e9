//! The Debian package on a machine with systemd: `tests/systemd` boots one (docs/testing.md).

use std::path::Path;
use std::process::Command;

/// Needs root, mmdebstrap and systemd-nspawn, the registry of Debian's packages the first time, and the package. Two minutes.
#[test]
#[ignore = "boots a Debian with systemd, and needs the package that packaging/build-deb makes: docs/testing.md"]
fn the_unit_keeps_its_promises() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd");
    let output = Command::new(script).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert!(output.status.success() && said.trim_end().ends_with("RESULT    ok"), "{said}{error}");
}
