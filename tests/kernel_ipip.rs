//! Margay beside the kernel's own IPIP: `tests/kernel-ipip`, which few machines can run (docs/kernel-ipip.md).

use std::path::Path;
use std::process::Command;

/// Needs root, iproute2, ping and busybox, and the `ipip` module or in `IPIP_PEER` a program that boots a machine with it.
/// Half a minute beside an emulated machine.
#[test]
#[ignore = "needs the ipip module, or a virtual machine as the peer: docs/kernel-ipip.md"]
fn margay_and_tunl0_understand_each_other() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernel-ipip");
    let output = Command::new(script).env("MARGAY", env!("CARGO_BIN_EXE_margay")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert!(output.status.success() && said.trim_end().ends_with("RESULT    ok"), "{said}{error}");
}
