//! Frames as a file of pcapng (draft-ietf-opsawg-pcapng): one section, an interface when its first frame comes.

use std::time::Duration;

use super::headers::Link;

/// Block types.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
/// Tells the reader which byte order the file has: the one of this machine.
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// Link types.
const ETHERNET: u16 = 1;
const RAW: u16 = 101;
/// Options of every block, of a section, of an interface, of a packet.
const OPT_COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_DESCRIPTION: u16 = 3;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
const EPB_DROPCOUNT: u16 = 4;
const EPB_PACKETID: u16 = 5;
/// Timestamps are of 10^-9 seconds.
const NANOSECONDS: u8 = 9;
/// Longest text of an option, bytes: what one can hold is 65,535.
const TEXT: usize = 4096;

/// Where frames are seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name: an interface is one name.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// What its frames begin with.
    pub link: Link,
}

/// As the vRouter sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Received.
    In,
    /// To be sent.
    Out,
}

/// A frame as it passed an interface.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// Since the beginning of 1970, UTC.
    pub time: Duration,
    /// Received or sent.
    pub way: Way,
    /// Its first bytes.
    pub bytes: &'a [u8],
    /// How many it has in all.
    pub len: u32,
    /// The same before and after forwarding, and of no other packet.
    pub id: u64,
    /// Packets that were missed before it.
    pub missed: u64,
    /// What became of it.
    pub comment: &'a str,
}

/// A file that is being written into memory, from where the caller takes it bit by bit.
#[derive(Debug)]
pub struct Pcapng {
    bytes: Vec<u8>,
    interfaces: Vec<Interface>,
    /// Bytes of each frame that are kept.
    snap: u32,
}

impl Pcapng {
    /// Begins a file. `snap` is the most bytes that a frame has in it, `comment` is about the whole.
    pub fn new(snap: u32, comment: &str) -> Self {
        let mut file = Pcapng { bytes: Vec::new(), interfaces: Vec::new(), snap };
        file.block(SECTION, |out| {
            out.word(BYTE_ORDER);
            // Version 1.0; how long the section will be is not known.
            out.half(1);
            out.half(0);
            out.long(u64::MAX);
            out.text(SHB_USERAPPL, concat!("margay ", env!("CARGO_PKG_VERSION")));
            out.text(OPT_COMMENT, comment);
            out.end_of_options();
        });
        file
    }

    /// Adds a frame.
    pub fn add(&mut self, interface: &Interface, packet: &Packet<'_>) {
        let interface = self.interface(interface);
        let time = packet.time.as_nanos() as u64;
        self.block(PACKET, |out| {
            out.word(interface);
            out.word((time >> 32) as u32);
            out.word(time as u32);
            out.word(packet.bytes.len() as u32);
            out.word(packet.len);
            out.padded(packet.bytes);
            // Bits 0 and 1: 01 inbound, 10 outbound.
            let direction: u32 = match packet.way {
                Way::In => 1,
                Way::Out => 2,
            };
            out.option(EPB_FLAGS, &direction.to_ne_bytes());
            out.option(EPB_PACKETID, &packet.id.to_ne_bytes());
            if packet.missed > 0 {
                out.option(EPB_DROPCOUNT, &packet.missed.to_ne_bytes());
            }
            out.text(OPT_COMMENT, packet.comment);
            out.end_of_options();
        });
    }

    /// What was written since it was last asked for: the next part of the file.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Bytes that [`Self::take`] would hand over.
    pub fn pending(&self) -> usize {
        self.bytes.len()
    }

    /// Its number in the file, where it is described first if it is new.
    fn interface(&mut self, interface: &Interface) -> u32 {
        if let Some(known) = self.interfaces.iter().position(|known| known == interface) {
            return known as u32;
        }
        let snap = self.snap;
        self.block(INTERFACE, |out| {
            out.half(match interface.link {
                Link::Ethernet => ETHERNET,
                Link::Ip => RAW,
            });
            out.half(0);
            out.word(snap);
            out.text(IF_NAME, &interface.name);
            out.text(IF_DESCRIPTION, &interface.description);
            out.option(IF_TSRESOL, &[NANOSECONDS]);
            out.end_of_options();
        });
        self.interfaces.push(interface.clone());
        self.interfaces.len() as u32 - 1
    }

    /// A block: its length stands in front and at the end.
    fn block(&mut self, kind: u32, body: impl FnOnce(&mut Out<'_>)) {
        let start = self.bytes.len();
        let mut out = Out(&mut self.bytes);
        out.word(kind);
        out.word(0);
        body(&mut out);
        let len = (self.bytes.len() + 4 - start) as u32;
        self.bytes[start + 4..start + 8].copy_from_slice(&len.to_ne_bytes());
        self.bytes.extend(len.to_ne_bytes());
    }
}

/// Numbers of this machine's byte order, and what is filled up to 32 bits.
struct Out<'a>(&'a mut Vec<u8>);

impl Out<'_> {
    fn half(&mut self, number: u16) {
        self.0.extend(number.to_ne_bytes());
    }

    fn word(&mut self, number: u32) {
        self.0.extend(number.to_ne_bytes());
    }

    fn long(&mut self, number: u64) {
        self.0.extend(number.to_ne_bytes());
    }

    fn padded(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        self.0.extend(&[0; 3][..bytes.len().next_multiple_of(4) - bytes.len()]);
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        self.half(code);
        self.half(value.len() as u16);
        self.padded(value);
    }

    /// An option of text, unless there is none.
    fn text(&mut self, code: u16, text: &str) {
        let end = text.char_indices().map(|(at, _)| at).find(|at| *at >= TEXT);
        let text = &text[..end.unwrap_or(text.len())];
        if !text.is_empty() {
            self.option(code, text.as_bytes());
        }
    }

    fn end_of_options(&mut self) {
        self.word(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::DataLink;
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
    use pcap_file::pcapng::{Block, PcapNgReader};

    #[test]
    fn a_file_reads_back_bit_by_bit() {
        let pod = Interface { name: "default/a".into(), description: "pod".into(), link: Link::Ethernet };
        let tunnel = Interface { name: "vxlan".into(), link: Link::Ip, ..pod.clone() };
        let mut file = Pcapng::new(96, "filter: tcp");
        let packet = Packet {
            time: Duration::new(1_700_000_000, 123_456_789),
            way: Way::In,
            bytes: &[1, 2, 3, 4, 5],
            len: 1500,
            id: 7,
            missed: 0,
            comment: "to b",
        };
        let mut bytes = file.take();
        assert_eq!(bytes[..4], [0x0a, 0x0d, 0x0d, 0x0a]);
        file.add(&pod, &packet);
        bytes.extend(file.take());
        let long = "é".repeat(10_000);
        file.add(&tunnel, &Packet { way: Way::Out, missed: 3, comment: &long, ..packet });
        file.add(&pod, &packet);
        bytes.extend(file.take());
        assert_eq!(file.pending(), 0);

        let mut reader = PcapNgReader::new(&bytes[..]).unwrap();
        let mut packets = Vec::new();
        while let Some(block) = reader.next_block() {
            if let Block::EnhancedPacket(packet) = block.unwrap().into_owned() {
                packets.push(packet);
            }
        }
        let links: Vec<DataLink> = reader.interfaces().iter().map(|interface| interface.linktype).collect();
        assert_eq!(links, [DataLink::ETHERNET, DataLink::RAW]);
        let ids: Vec<u32> = packets.iter().map(|packet| packet.interface_id).collect();
        assert_eq!(ids, [0, 1, 0]);
        assert_eq!(packets[0].timestamp, packet.time);
        assert_eq!((packets[0].original_len, &packets[0].data[..]), (1500, packet.bytes));
        assert!(packets[0].options.contains(&EnhancedPacketOption::Flags(1)));
        assert!(packets[0].options.contains(&EnhancedPacketOption::Comment("to b".into())));
        assert!(packets[1].options.contains(&EnhancedPacketOption::DropCount(3)));
    }
}
