//! A hundred megabytes each way, in every mode, over an underlay that carries super-frames uncut and over one of real
//! 1,500-byte frames, margay to margay and margay to the kernel's vxlan device: what arrives hashes as what was sent.

mod lab;

use lab::{build, margay, moves_tcp};
use margay::rib::Attach;
use margay::testbed::{LabSpec, Mode, NodeKind};

const BYTES: u64 = 100_000_000;

/// On both kinds of underlay.
fn moves_a_lot(spec: impl Fn() -> LabSpec) {
    for real_frames in [false, true] {
        let mut lab = build(spec());
        if real_frames {
            lab.real_frames().unwrap();
        }
        lab.start(margay(), &[]).unwrap_or_else(|error| panic!("{error}"));
        moves_tcp(&lab.nodes[0].pods[0], &lab.nodes[1].pods[0], BYTES);
        lab.stop().unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn by_vxlan() {
    moves_a_lot(|| LabSpec::new(Mode::Vxlan));
}

#[test]
fn by_vxlan_between_veths() {
    moves_a_lot(|| LabSpec { attach: Attach::Veth, ..LabSpec::new(Mode::Vxlan) });
}

#[test]
fn by_ipip() {
    moves_a_lot(|| LabSpec::new(Mode::Ipip));
}

#[test]
fn without_encapsulation() {
    moves_a_lot(|| LabSpec::new(Mode::None));
}

#[test]
fn to_the_kernels_vxlan_device_and_back() {
    moves_a_lot(|| LabSpec { kinds: [NodeKind::Margay, NodeKind::Kernel], ..LabSpec::new(Mode::Vxlan) });
}
