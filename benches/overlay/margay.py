"""Margay as a candidate of the side-by-side benchmark of pod networks: TAP endpoints, a daemon for each node.

    cargo build --release
    PATH=$PWD/target/release:$PATH OVERLAY_CANDIDATES=$PWD/benches/overlay/margay.py .../bench/overlay run \
        margay-vxlan margay-ipip margay-direct kernel-route
"""
import os
from overlay import Candidate

MODES = {
    "vxlan": ("vxlanMode: Always", 1450, "udp port 4789"),
    "ipip": ("ipipMode: Always", 1480, "ip proto 4"),
    "direct": ("vxlanMode: Never", 1500, None),
}

# Two nodes share the machine.
WORKERS = max(1, len(os.sched_getaffinity(0)) // 2)


def resource(kind, name, spec, namespace=None, netns=None):
    meta = f"name: {name}"
    if namespace:
        meta += f", namespace: {namespace}, annotations: {{margay.dev/netns: {netns}}}"
    return f"---\napiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{{meta}}}\nspec: {{{spec}}}\n"


class Margay(Candidate):
    group, needs = "userspace", ("margay",)

    def __init__(self, mode, name=None, options=""):
        self.mode, self.pod_mtu, self.wire = MODES[mode]
        self.name, self.options = f"margay-{name or mode}", options

    def version(self):
        return os.popen("margay --version").read().strip()

    def setup(self, lab):
        directory = f"{lab.tmp}/margay"
        os.makedirs(directory, exist_ok=True)
        text = resource("IPPool", "pods", f"cidr: 10.65.0.0/16, {self.mode}, blockSize: 24")
        for n in lab.nodes:
            text += resource("Node", f"node{n.i}", f"bgp: {{ipv4Address: {n.ip}/24}}")
            text += resource("BlockAffinity", f"block{n.i}", f"cidr: {n.cidr}, node: node{n.i}, state: confirmed")
            for p in n.pods:
                spec = (f"node: node{n.i}, orchestrator: k8s, pod: pod{n.i}x{p.k}, endpoint: eth0, "
                        f"ipNetworks: [{p.ip}/32], mac: '{p.mac}'")
                text += resource("WorkloadEndpoint", f"node{n.i}-k8s-pod{n.i}x{p.k}-eth0", spec, "default",
                                 f"/var/run/netns/{p.ns}")
        with open(f"{directory}/all.yaml", "w") as f:
            f.write(text)
        for n in lab.nodes:
            lab.daemon(n, f"margay run --node node{n.i} --resources {directory} --workers {WORKERS} "
                          f"--control-socket none --web none {self.options}",
                       ready=lambda: all(lab.has_link(p.ns, "eth0") for p in n.pods))


CANDIDATES = [Margay(mode) for mode in MODES] + [Margay("ipip", "ipip-bpf", "--ipip-offload bpf")]
