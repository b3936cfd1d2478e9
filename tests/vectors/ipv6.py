#!/usr/bin/env python3
"""Writes the IPv6 vectors anew from the running kernel: as root, with iproute2 and ethtool.

Three namespaces: a node that forwards as Calico sets it up, a pod behind a veth, and a host on the underlay. What is sent into
the node by the pod or the host, and what the node's kernel makes of it, is one vector.
"""

import ctypes, ipaddress, json, os, socket, struct, subprocess, sys, time

NODE, POD, PEER = "margay-v6-node", "margay-v6-pod", "margay-v6-peer"
POD_MAC, GW_MAC = bytes.fromhex("02420a41080a"), b"\xee" * 6
NODE_MAC, PEER_MAC = bytes.fromhex("020000000002"), bytes.fromhex("020000000001")
VTEP, PEER_VTEP = bytes.fromhex("66f937c37e94"), bytes.fromhex("662dbf44a68b")
NODE_IP, PEER_IP, STRANGER_IP = "fd00:78::2", "fd00:78::1", "fd00:78::50"
POD_IP, POD_LINK, POD_V4 = "fd00:10:65::a", "fe80::42:aff:fe41:80a", "10.65.0.10"
GW = "fe80::ecee:eeff:feee:eeee"
REMOTE_IP, REMOTE_TUNNEL, REMOTE_V4, REMOTE_TUNNEL_V4 = "fd00:10:65:1::14", "fd00:10:65:1::", "10.65.1.20", "10.65.1.0"
LATER = "fd00:10:65::b"

libc = ctypes.CDLL(None, use_errno=True)


def sh(line):
    subprocess.run(line.split(), check=True, stderr=subprocess.DEVNULL if " del " in line else None)


def within(name):
    with open(f"/run/netns/{name}") as file:
        if libc.setns(file.fileno(), 0x40000000):
            raise OSError(ctypes.get_errno(), name)


def tap(name, interface):
    """A packet socket that sends and receives whole frames."""
    within(name)
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    s.bind((interface, 3))
    s.settimeout(0.05)
    return s


def ip(address):
    return ipaddress.ip_address(address).packed


def checksum(data):
    data += b"\0" * (len(data) % 2)
    s = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while s >> 16:
        s = (s & 0xFFFF) + (s >> 16)
    return s ^ 0xFFFF


def ipv6(src, dst, next_header, payload, hops=64, tc=0, label=0):
    first = 6 << 28 | tc << 20 | label
    return struct.pack("!IHBB", first, len(payload), next_header, hops) + ip(src) + ip(dst) + payload


def ipv4(src, dst, protocol, payload, ttl=64, tos=0):
    header = struct.pack("!BBHHHBBH", 0x45, tos, 20 + len(payload), 1, 0x4000, ttl, protocol, 0) + ip(src) + ip(dst)
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def l4(src, dst, protocol, data, at):
    """Fills in the checksum at `at`."""
    src, dst = ip(src), ip(dst)
    pseudo = src + dst + struct.pack("!II", len(data), protocol)
    value = checksum(pseudo + data[:at] + b"\0\0" + data[at + 2 :])
    if protocol == 17 and value == 0:
        value = 0xFFFF
    return data[:at] + struct.pack("!H", value) + data[at + 2 :]


def udp(src, dst, data, ports=(40000, 53)):
    return l4(src, dst, 17, struct.pack("!HHHH", *ports, 8 + len(data), 0) + data, 6)


def icmp(src, dst, kind, code, rest, data=b""):
    return l4(src, dst, 58, struct.pack("!BBHI", kind, code, 0, rest) + data, 2)


def ns(target, *options, src=POD_IP, dst=None, hops=255, code=0, broken=0, wrap=None):
    group = ipaddress.ip_address(ip("ff02::1:ff00:0")[:13] + ip(target)[13:])
    dst = dst or str(group)
    message = icmp(src, dst, 135, code, 0, ip(target) + b"".join(options))
    message = message[:2] + struct.pack("!H", struct.unpack("!H", message[2:4])[0] ^ broken) + message[4:]
    packet = wrap(src, dst, message) if wrap else ipv6(src, dst, 58, message, hops)
    mac = b"\x33\x33" + ip(dst)[12:] if ip(dst)[0] == 0xFF else GW_MAC
    return mac + POD_MAC + b"\x86\xdd" + packet


def vxlan(inner, ethertype, src=PEER_IP, dst=NODE_IP, tc=0, vni=4096, flags=0x08, dst_mac=VTEP, csum="right"):
    frame = dst_mac + PEER_VTEP + ethertype + inner
    body = struct.pack("!BBHI", flags, 0, 0, vni << 8) + frame
    datagram = udp(src, dst, body, (50000, 4789))
    if csum == "zero":
        datagram = datagram[:6] + b"\0\0" + datagram[8:]
    if csum == "wrong":
        datagram = datagram[:6] + bytes([datagram[6] ^ 1]) + datagram[7:]
    return ipv6(src, dst, 17, datagram, tc=tc)


def build():
    for name in (NODE, POD, PEER):
        subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)
        sh(f"ip netns add {name}")
        sh(f"ip -n {name} link set lo up")
    sh(f"ip -n {NODE} link add cali0 address ee:ee:ee:ee:ee:ee type veth peer name eth0 netns {POD} address {POD_MAC.hex(':')}")
    sh(f"ip -n {NODE} link add eth0 address {NODE_MAC.hex(':')} type veth peer name eth0 netns {PEER} address {PEER_MAC.hex(':')}")
    for name, interface in ((NODE, "cali0"), (NODE, "eth0"), (POD, "eth0"), (PEER, "eth0")):
        subprocess.run(["ip", "netns", "exec", name, "ethtool", "-K", interface, "tx", "off", "tso", "off", "gso", "off", "gro", "off"],
                       check=True, stdout=subprocess.DEVNULL)
    def sysctl(name, line):
        subprocess.run(["ip", "netns", "exec", name, "sysctl", "-qw", line], check=True)
    for line in ("net.ipv6.conf.all.forwarding=1", "net.ipv4.ip_forward=1", "net.ipv6.conf.cali0.proxy_ndp=1",
                 "net.ipv6.conf.cali0.accept_ra=0", "net.ipv6.neigh.cali0.proxy_delay=0", "net.ipv4.conf.cali0.proxy_arp=1",
                 "net.ipv6.icmp.ratelimit=0", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.cali0.rp_filter=0"):
        sysctl(NODE, line)
    sysctl(POD, "net.ipv6.conf.eth0.accept_ra=0")
    sh(f"ip -n {NODE} link set eth0 up")
    sh(f"ip -n {PEER} link set eth0 up")
    sh(f"ip -n {NODE} addr add {NODE_IP}/64 dev eth0 nodad")
    sh(f"ip -n {PEER} addr add {PEER_IP}/64 dev eth0 nodad")
    sh(f"ip -n {NODE} link set cali0 up")
    sh(f"ip -n {POD} link set eth0 up")
    sh(f"ip -n {POD} addr add {POD_IP}/128 dev eth0 nodad")
    sh(f"ip -n {POD} route add {GW} dev eth0")
    sh(f"ip -n {POD} route add default via {GW} dev eth0")
    sh(f"ip -n {NODE} route add {POD_IP}/128 dev cali0")
    sh(f"ip -n {NODE} route add {POD_V4}/32 dev cali0")
    tunnel_device()
    sh(f"ip -n {NODE} neigh replace {PEER_IP} lladdr {PEER_MAC.hex(':')} dev eth0 nud permanent")
    sh(f"ip -n {NODE} route add blackhole fd00:10:65::/122")
    sh(f"ip -n {NODE} route add prohibit fd00:bad::/64")


def tunnel_device(*options):
    """`vxlan-v6.calico` as Calico makes it, and the peer behind it with a block of each family."""
    device = "vxlan-v6.calico"
    subprocess.run(["ip", "-n", NODE, "link", "del", device], stderr=subprocess.DEVNULL)
    sh(f"ip -n {NODE} link add {device} address {VTEP.hex(':')} mtu 1430 type vxlan id 4096 local {NODE_IP} dev eth0 dstport 4789 nolearning {' '.join(options)}")
    sh(f"ip -n {NODE} addr add fd00:10:65::/128 dev {device} nodad")
    sh(f"ip -n {NODE} addr add 10.65.0.0/32 dev {device}")
    sh(f"ip -n {NODE} link set {device} up")
    for tunnel, block in ((REMOTE_TUNNEL, "fd00:10:65:1::/122"), (REMOTE_TUNNEL_V4, "10.65.1.0/26")):
        sh(f"ip -n {NODE} neigh replace {tunnel} lladdr {PEER_VTEP.hex(':')} dev {device} nud permanent")
        sh(f"ip -n {NODE} route add {block} via {tunnel} dev {device} onlink")
    sh(f"ip netns exec {NODE} bridge fdb add {PEER_VTEP.hex(':')} dev {device} dst {PEER_IP}")
    time.sleep(0.3)


def main():
    build()
    pod, underlay = tap(POD, "eth0"), tap(PEER, "eth0")
    time.sleep(2.5)

    def drain(sock, wait=0.12):
        got, end = [], time.monotonic() + wait
        while time.monotonic() < end:
            try:
                frame, (_, _, kind, _, _) = sock.recvfrom(65536)
            except TimeoutError:
                continue
            if kind != 4 and frame[12:14] in (b"\x86\xdd", b"\x08\x00"):
                got.append(frame)
        return got

    def quiet(frame):
        """Neither router solicitations nor listener reports, which come when they like."""
        return not (frame[12:14] == b"\x86\xdd" and (frame[20] == 0 or (frame[20] == 58 and frame[54] in (133, 134, 143))))

    def settle():
        sh(f"ip -n {NODE} neigh replace {POD_IP} lladdr {POD_MAC.hex(':')} dev cali0 nud permanent")
        sh(f"ip -n {NODE} neigh replace {POD_LINK} lladdr {POD_MAC.hex(':')} dev cali0 nud permanent")
        sh(f"ip -n {NODE} neigh replace {POD_V4} lladdr {POD_MAC.hex(':')} dev cali0 nud permanent")

    def send(sock, frame):
        drain(pod, 0.02), drain(underlay, 0.02)
        sock.send(frame)
        return [f for f in drain(pod) if quiet(f)], [f for f in drain(underlay) if quiet(f)]

    discovery, packets, tunnel = [], [], []

    # What kernels say to each other by themselves: the pod asks for its gateway, then takes an address.
    sh(f"ip -n {POD} neigh flush all")
    sh(f"ip -n {NODE} neigh flush dev cali0")
    within(POD)
    watch = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    watch.bind(("eth0", 3))
    watch.settimeout(0.05)

    def talk(wait):
        got, end = [], time.monotonic() + wait
        while time.monotonic() < end:
            try:
                got.append(watch.recvfrom(65536)[0])
            except TimeoutError:
                pass
        return [f for f in got if quiet(f)]

    talk(0.05)
    subprocess.run(["ip", "netns", "exec", POD, "ping", "-6", "-c1", "-s8", "-W1", f"{GW}%eth0"], stdout=subprocess.DEVNULL, check=True)
    ping = talk(0.2)
    kinds = [f[54] for f in ping]
    assert 135 in kinds and 136 in kinds and 128 in kinds and 129 in kinds, kinds
    for asked, answered, name in ((135, 136, "the pod's kernel asks for its gateway"), (128, 129, "the pod's kernel pings its gateway")):
        question = next(f for f in ping if f[54] == asked and f[6:12] == POD_MAC)
        answer = next(f for f in ping if f[54] == answered and f[6:12] == GW_MAC)
        discovery.append({"name": name, "in_frame": question.hex(), "out_frame": [answer.hex()]})
    talk(0.05)
    sh(f"ip -n {POD} addr add {LATER}/128 dev eth0")
    probes = [f for f in talk(2.5) if f[54] == 135 and f[22:38] == bytes(16)]
    assert probes
    discovery.append({"name": "the pod's kernel probes an address that is free", "in_frame": probes[0].hex(), "out_frame": []})
    sh(f"ip -n {POD} addr del {LATER}/128 dev eth0")
    talk(0.1)
    # The node's kernel asks for a pod whose MAC it does not know: the pod's packet to itself by way of the node.
    subprocess.run(["ip", "-n", NODE, "neigh", "del", POD_IP, "dev", "cali0"], stderr=subprocess.DEVNULL)
    underlay.send(NODE_MAC + PEER_MAC + b"\x86\xdd" + ipv6(PEER_IP, POD_IP, 17, udp(PEER_IP, POD_IP, b"who?")))
    asked = talk(0.3)
    question = next(f for f in asked if f[54] == 135 and f[6:12] == GW_MAC)
    answer = next(f for f in asked if f[54] == 136 and f[6:12] == POD_MAC)
    discovery.append({"name": "the node's kernel asks for the pod", "in_frame": question.hex(), "out_frame": [answer.hex()]})
    # A datagram that the pod's kernel makes fragments of, which the node's forwards one by one.
    sh(f"ip -n {POD} link set eth0 mtu 1430")
    drain(underlay, 0.05)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
        sender.bind((POD_IP, 40000))
        sender.sendto(bytes(range(250)) * 12, (REMOTE_IP, 53))
    pieces = [f for f in talk(0.2) if f[20] == 44]
    sent = [f for f in drain(underlay) if f[20] == 17]
    assert len(pieces) == len(sent) == 3, (len(pieces), len(sent))
    for number, (piece, frame) in enumerate(zip(pieces, sent)):
        tunnel.append({"name": f"encap, fragment {number} of a kernel's", "in_ip": piece[14:].hex(), "out_ip": [frame[14:].hex()]})
    sh(f"ip -n {POD} link set eth0 mtu 1500")
    watch.close()

    # Everything else with the pod's own kernel silent.
    sh(f"ip -n {POD} addr flush dev eth0")
    settle()
    sh(f"ip -n {NODE} neigh add proxy {LATER} dev cali0")
    slla = b"\x01\x01" + POD_MAC
    nonce = b"\x0e\x01abcdef"
    unspecified = "::"
    fragment = struct.pack("!BBHI", 58, 0, 0, 7)
    for name, frame in (
        ("gateway, from the link-local address", ns(GW, slla, src=POD_LINK)),
        ("gateway, from the pod's address", ns(GW, slla)),
        ("gateway, unicast", ns(GW, slla, src=POD_LINK, dst=GW)),
        ("gateway, unicast without link-layer address", ns(GW, src=POD_LINK, dst=GW)),
        ("gateway, with a nonce and an unknown option", ns(GW, nonce, b"\xfd\x02" + bytes(14), slla, src=POD_LINK)),
        ("gateway, two link-layer addresses", ns(GW, slla, b"\x01\x01\x02\0\0\0\0\x77", src=POD_LINK)),
        ("gateway, probed by a pod that wants it", ns(GW, src=unspecified)),
        ("gateway, probed with a nonce", ns(GW, nonce, src=unspecified)),
        ("another address, proxied", ns(LATER, slla)),
        ("another address, not proxied", ns("fd00:10:65::c", slla)),
        ("hop limit 254", ns(GW, slla, hops=254)),
        ("code 1", ns(GW, slla, code=1)),
        ("checksum wrong", ns(GW, slla, broken=1)),
        ("option of length 0", ns(GW, b"\xfd\0" + bytes(6))),
        ("option cut short", ns(GW, b"\x01\x02" + POD_MAC)),
        ("link-layer address of 14 bytes", ns(GW, b"\x01\x02" + POD_MAC + bytes(8))),
        ("target is a group", ns("ff02::1", slla, dst="ff02::1")),
        ("probe with a link-layer address", ns(GW, slla, src=unspecified)),
        ("probe to the address itself", ns(GW, src=unspecified, dst=GW)),
        ("cut within the target", GW_MAC + POD_MAC + b"\x86\xdd" + ipv6(POD_LINK, GW, 58, icmp(POD_LINK, GW, 135, 0, 0, ip(GW)[:12]), 255)),
        ("in a single fragment", ns(GW, slla, src=POD_LINK, wrap=lambda s, d, m: ipv6(s, d, 44, fragment + m, 255))),
        ("router solicitation", b"\x33\x33\0\0\0\x02" + POD_MAC + b"\x86\xdd" + ipv6(POD_LINK, "ff02::2", 58, icmp(POD_LINK, "ff02::2", 133, 0, 0, slla), 255)),
    ):
        answers, _ = send(pod, frame)
        settle()
        discovery.append({"name": name, "in_frame": frame.hex(), "out_frame": [f.hex() for f in answers if f[54] == 136]})

    def from_pod(packet, ethertype=b"\x86\xdd"):
        return GW_MAC + POD_MAC + ethertype + packet

    def to_node(packet):
        return NODE_MAC + PEER_MAC + b"\x86\xdd" + packet

    def entry(name, into, packet, frames):
        into.append({"name": name, "in_ip": packet.hex(), "out_ip": [f[14:].hex() for f in frames]})

    hop_by_hop = bytes([0, 0, 5, 2, 0, 0, 1, 0])
    def chain(*headers, last):
        """Extension headers as (number, bytes with any next header), and what comes last."""
        numbers = [number for number, _ in headers][1:] + [last]
        return b"".join(bytes([number]) + header[1:] for number, (_, header) in zip(numbers, headers))
    options, routing = bytes([0, 0, 1, 4, 0, 0, 0, 0]), bytes([0, 2, 4, 0, 0, 0, 0, 0]) + ip(REMOTE_IP)
    ah = bytes([0, 4, 0, 0]) + bytes(20)
    first, later = struct.pack("!BBHI", 0, 0, 1, 0xDEADBEEF), struct.pack("!BBHI", 0, 0, 0x28 << 3, 0xDEADBEEF)
    d = udp(POD_IP, REMOTE_IP, b"data")
    big = udp(POD_IP, REMOTE_IP, (bytes(range(256)) * 6)[: 1500 - 48])
    exact = udp(POD_IP, REMOTE_IP, bytes(1430 - 48))
    one_more = udp(POD_IP, REMOTE_IP, bytes(1431 - 48))

    # The pod's packets, and the errors that they cause.
    for name, packet in (
        ("ping the gateway", ipv6(POD_LINK, GW, 58, icmp(POD_LINK, GW, 128, 0, 0x12340005, b"abcd"))),
        ("hop limit 1", ipv6(POD_IP, REMOTE_IP, 17, d, hops=1)),
        ("hop limit 0", ipv6(POD_IP, REMOTE_IP, 17, d, hops=0)),
        ("no route", ipv6(POD_IP, "2001:db8::1", 17, udp(POD_IP, "2001:db8::1", b"data"))),
        ("in the node's block, no pod", ipv6(POD_IP, "fd00:10:65::3f", 17, udp(POD_IP, "fd00:10:65::3f", b"data"))),
        ("prohibited", ipv6(POD_IP, "fd00:bad::1", 17, udp(POD_IP, "fd00:bad::1", b"data"))),
        ("too big, 1500", ipv6(POD_IP, REMOTE_IP, 17, big)),
        ("too big, 1431", ipv6(POD_IP, REMOTE_IP, 17, one_more)),
        ("too big, an error", ipv6(POD_IP, REMOTE_IP, 58, icmp(POD_IP, REMOTE_IP, 1, 4, 0, bytes(1400)))),
        ("too big, an echo", ipv6(POD_IP, REMOTE_IP, 58, icmp(POD_IP, REMOTE_IP, 128, 0, 1, bytes(1400)))),
        ("hop limit 1, a redirect", ipv6(POD_IP, REMOTE_IP, 58, icmp(POD_IP, REMOTE_IP, 137, 0, 0, bytes(32)), hops=1)),
        ("hop limit 1, a later fragment", ipv6(POD_IP, REMOTE_IP, 44, chain((44, later), last=17) + bytes(16), hops=1)),
        ("hop limit 1, behind options", ipv6(POD_IP, REMOTE_IP, 60, chain((60, options), last=17) + d, hops=1)),
        ("node's port that nobody has", ipv6(POD_IP, NODE_IP, 17, udp(POD_IP, NODE_IP, b"data"))),
        ("node's protocol that nobody knows", ipv6(POD_IP, NODE_IP, 200, b"data")),
        ("node gets an option that it must tell of", ipv6(POD_IP, NODE_IP, 60, bytes([17, 0, 0x9E, 4, 0, 0, 0, 0]) + udp(POD_IP, NODE_IP, b"data"))),
    ):
        answers, _ = send(pod, from_pod(packet))
        entry(name, packets, packet, answers)

    # The pod's packets into the tunnel.
    for name, packet, ethertype in (
        *((f"tc {tc:#04x}", ipv6(POD_IP, REMOTE_IP, 17, d, tc=tc), b"\x86\xdd") for tc in (0, 1, 2, 3, 0xB8, 0xB9)),
        ("hop limit 2", ipv6(POD_IP, REMOTE_IP, 17, d, hops=2), b"\x86\xdd"),
        ("hop limit 255", ipv6(POD_IP, REMOTE_IP, 17, d, hops=255), b"\x86\xdd"),
        ("with a flow label", ipv6(POD_IP, REMOTE_IP, 17, d, label=0x12345), b"\x86\xdd"),
        ("as large as goes", ipv6(POD_IP, REMOTE_IP, 17, exact), b"\x86\xdd"),
        ("echo", ipv6(POD_IP, REMOTE_IP, 58, icmp(POD_IP, REMOTE_IP, 128, 0, 1, b"abcd")), b"\x86\xdd"),
        ("no next header", ipv6(POD_IP, REMOTE_IP, 59, b""), b"\x86\xdd"),
        ("hop-by-hop options", ipv6(POD_IP, REMOTE_IP, 0, chain((0, options), last=17) + d), b"\x86\xdd"),
        ("destination options", ipv6(POD_IP, REMOTE_IP, 60, chain((60, options), last=17) + d), b"\x86\xdd"),
        ("routing header, nothing left", ipv6(POD_IP, REMOTE_IP, 43, chain((43, routing), last=17) + d), b"\x86\xdd"),
        ("authentication header", ipv6(POD_IP, REMOTE_IP, 51, chain((51, ah), last=17) + d), b"\x86\xdd"),
        ("every extension header", ipv6(POD_IP, REMOTE_IP, 0, chain((0, options), (60, options), (43, routing), (51, ah), (60, options), last=17) + d), b"\x86\xdd"),
        ("first fragment", ipv6(POD_IP, REMOTE_IP, 44, chain((44, first), last=17) + d + bytes(4)), b"\x86\xdd"),
        ("later fragment", ipv6(POD_IP, REMOTE_IP, 44, chain((44, later), last=17) + bytes(16)), b"\x86\xdd"),
        ("single fragment", ipv6(POD_IP, REMOTE_IP, 44, chain((44, struct.pack("!BBHI", 0, 0, 0, 7)), last=17) + d), b"\x86\xdd"),
        ("ipv4", ipv4(POD_V4, REMOTE_V4, 17, udp4(POD_V4, REMOTE_V4, b"data")), b"\x08\x00"),
        ("ipv4 tos 0xb9", ipv4(POD_V4, REMOTE_V4, 17, udp4(POD_V4, REMOTE_V4, b"data"), tos=0xB9), b"\x08\x00"),
    ):
        _, sent = send(pod, from_pod(packet, ethertype))
        entry(f"encap, {name}", tunnel, packet, sent)

    # The peer's packets out of the tunnel.
    back = udp(REMOTE_IP, POD_IP, b"data")
    inner = lambda tc=0, hops=64: ipv6(REMOTE_IP, POD_IP, 17, back, hops=hops, tc=tc)
    inner4 = ipv4(REMOTE_V4, POD_V4, 17, udp4(REMOTE_V4, POD_V4, b"data"))
    six, four = b"\x86\xdd", b"\x08\x00"
    cases = [(f"outer ecn {outer} inner ecn {i}", vxlan(inner(i), six, tc=outer)) for outer in range(4) for i in range(4)]
    cases += [
        ("inner tc 0xb8 outer tc 0", vxlan(inner(0xB8), six)),
        ("inner tc 0 outer tc 0xb8", vxlan(inner(), six, tc=0xB8)),
        ("inner hop limit 1", vxlan(inner(hops=1), six)),
        ("inner hop limit 2", vxlan(inner(hops=2), six)),
        ("inner ipv4", vxlan(inner4, four)),
        ("inner ipv4 says ipv6", vxlan(inner4, six)),
        ("inner cut short", vxlan(inner()[:44], six)),
        ("checksum zero", vxlan(inner(), six, csum="zero")),
        ("checksum wrong", vxlan(inner(), six, csum="wrong")),
        ("vni 4097", vxlan(inner(), six, vni=4097)),
        ("no I flag", vxlan(inner(), six, flags=0)),
        ("inner mac another's", vxlan(inner(), six, dst_mac=PEER_VTEP)),
        ("from a stranger", vxlan(inner(), six, src=STRANGER_IP)),
        ("to another address", vxlan(inner(), six, dst="fd00:78::9")),
        ("behind destination options", None),
    ]
    whole = vxlan(inner(), six)
    cases[-1] = ("behind destination options", ipv6(PEER_IP, NODE_IP, 60, chain((60, options), last=17) + whole[40:]))
    for name, packet in cases:
        received, _ = send(underlay, to_node(packet))
        entry(f"decap, {name}", tunnel, packet, received)
    tunnel_device("udp6zerocsumrx")
    packet = vxlan(inner(), six, csum="zero")
    received, _ = send(underlay, to_node(packet))
    entry("decap, checksum zero where it is let in", tunnel, packet, received)

    here = os.path.dirname(os.path.abspath(__file__))
    release = ".".join(os.uname().release.split(".")[:2])
    for name, vectors in (("ndp", discovery), ("icmpv6", packets), ("vxlan-v6", tunnel)):
        with open(f"{here}/{name}-kernel-{release}-vectors.jsonl", "w") as file:
            file.writelines(json.dumps(vector) + "\n" for vector in vectors)
        print(name, len(vectors), "vectors,", sum(not (v.get("out_frame") or v.get("out_ip")) for v in vectors), "of them dropped")
    for name in (NODE, POD, PEER):
        sh(f"ip netns del {name}")


def udp4(src, dst, data):
    segment = struct.pack("!HHHH", 40000, 53, 8 + len(data), 0) + data
    value = checksum(ip(src) + ip(dst) + struct.pack("!HH", 17, len(segment)) + segment)
    return segment[:6] + struct.pack("!H", value) + segment[8:]


main()
