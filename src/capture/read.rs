//! A file of pcapng as it arrives, block by block: what [`Pcapng`](super::Pcapng) writes on this machine.
//!
//! Contract: any bytes give blocks, an error, or the wish for more; nothing is kept but the block in hand and the
//! interfaces.

use std::time::Duration;

use super::headers::Link;
use super::pcapng::{
    EPB_DROPCOUNT, EPB_FLAGS, EPB_PACKETID, ETHERNET, IF_NAME, INTERFACE, NAMES, OPT_COMMENT, PACKET,
    SECTION, Way,
};

/// Longest block, bytes: a frame with its options is far shorter.
const MAX_BLOCK: usize = 1 << 20;

/// What is read is no pcapng of this machine's byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a file of pcapng as this machine writes it")]
pub struct NotPcapng;

/// A file that arrives.
#[derive(Debug, Default)]
pub struct Reader {
    bytes: Vec<u8>,
    interfaces: Vec<(String, Link)>,
}

/// A block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// All of it, as it stands in the file.
    pub raw: Vec<u8>,
    /// The frame that it has; none of what describes the file and its interfaces.
    pub frame: Option<Frame>,
}

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Name of the interface.
    pub interface: String,
    /// What it begins with.
    pub link: Link,
    /// Since the beginning of 1970, UTC.
    pub time: Duration,
    /// In or out.
    pub way: Way,
    /// The same before and after forwarding.
    pub id: u64,
    /// Frames that were missed before it.
    pub missed: u64,
    /// Its first bytes.
    pub bytes: Vec<u8>,
    /// How many it has.
    pub len: u32,
    /// What became of it.
    pub comment: String,
}

impl Reader {
    /// Takes in what follows.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next block that says something, if all of it is there.
    ///
    /// # Errors
    /// [`NotPcapng`]: nothing can be read from then on.
    pub fn block(&mut self) -> Result<Option<Block>, NotPcapng> {
        loop {
            match self.next()? {
                Some((NAMES, _)) => {}
                other => return Ok(other.map(|(_, block)| block)),
            }
        }
    }

    fn next(&mut self) -> Result<Option<(u32, Block)>, NotPcapng> {
        let Some(len) = self.bytes.get(4..8).map(|bytes| word(bytes, 0).unwrap_or(0) as usize) else {
            return Ok(None);
        };
        if !(12..=MAX_BLOCK).contains(&len) || !len.is_multiple_of(4) {
            return Err(NotPcapng);
        }
        if self.bytes.len() < len {
            return Ok(None);
        }
        let raw: Vec<u8> = self.bytes.drain(..len).collect();
        let body = &raw[8..len - 4];
        let kind = word(&raw, 0).ok_or(NotPcapng)?;
        let frame = match kind {
            NAMES => None,
            INTERFACE => {
                self.interfaces.push(interface(body).ok_or(NotPcapng)?);
                None
            }
            PACKET => Some(self.frame(body).ok_or(NotPcapng)?),
            SECTION if word(body, 0) == Some(super::pcapng::BYTE_ORDER) => None,
            _ => return Err(NotPcapng),
        };
        Ok(Some((kind, Block { raw, frame })))
    }

    fn frame(&self, body: &[u8]) -> Option<Frame> {
        let (interface, link) = self.interfaces.get(word(body, 0)? as usize)?.clone();
        let time = u64::from(word(body, 4)?) << 32 | u64::from(word(body, 8)?);
        let (kept, len) = (word(body, 12)? as usize, word(body, 16)?);
        let bytes = body.get(20..)?.get(..kept)?.to_vec();
        let mut frame = Frame {
            interface,
            link,
            time: Duration::from_nanos(time),
            way: Way::In,
            id: 0,
            missed: 0,
            bytes,
            len,
            comment: String::new(),
        };
        for (code, value) in options(body.get(20 + kept.next_multiple_of(4)..)?) {
            match code {
                EPB_FLAGS if word(value, 0)? & 3 == 2 => frame.way = Way::Out,
                EPB_PACKETID => frame.id = u64::from_ne_bytes(value.try_into().ok()?),
                EPB_DROPCOUNT => frame.missed = u64::from_ne_bytes(value.try_into().ok()?),
                OPT_COMMENT => frame.comment = String::from_utf8_lossy(value).into_owned(),
                _ => {}
            }
        }
        Some(frame)
    }
}

fn interface(body: &[u8]) -> Option<(String, Link)> {
    let link = if half(body, 0)? == ETHERNET { Link::Ethernet } else { Link::Ip };
    let name = options(body.get(8..)?).find(|(code, _)| *code == IF_NAME);
    Some((name.map_or_else(String::new, |(_, name)| String::from_utf8_lossy(name).into_owned()), link))
}

/// Code and value of each, to the end or to what is none.
fn options(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (code, len) = (half(rest, 0)?, usize::from(half(rest, 2)?));
        let value = rest.get(4..)?.get(..len)?;
        rest = rest.get(4 + len.next_multiple_of(4)..).unwrap_or_default();
        (code != 0).then_some((code, value))
    })
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{Interface, Packet, Pcapng};
    use proptest::prelude::*;

    fn file() -> Vec<u8> {
        let mut file = Pcapng::new(96, "all");
        for (name, way) in [("default/a", Way::In), ("vxlan", Way::Out)] {
            let link = if name == "vxlan" { Link::Ip } else { Link::Ethernet };
            let interface = Interface { name: name.into(), description: "é".into(), link };
            let packet = Packet {
                time: Duration::new(1_700_000_000, 5),
                way,
                bytes: &[1, 2, 3],
                len: 9,
                id: 7,
                missed: 2,
                comment: "to b",
            };
            file.add(&interface, &packet);
        }
        file.take()
    }

    #[test]
    fn what_says_nothing_is_passed_over() {
        let mut file = Pcapng::new(96, "all");
        file.beat();
        file.beat();
        let mut reader = Reader::default();
        reader.push(&file.take());
        assert_eq!(blocks(&mut reader).len(), 1);
    }

    fn blocks(reader: &mut Reader) -> Vec<Block> {
        std::iter::from_fn(|| reader.block().unwrap()).collect()
    }

    #[test]
    fn what_is_written_is_read_however_it_is_cut() {
        let file = file();
        for size in [1, 3, 64, 4096] {
            let mut reader = Reader::default();
            let mut found = Vec::new();
            for part in file.chunks(size) {
                reader.push(part);
                found.extend(blocks(&mut reader));
            }
            let raw: Vec<u8> = found.iter().flat_map(|block| block.raw.clone()).collect();
            assert_eq!(raw, file);
            let frames: Vec<Frame> = found.into_iter().filter_map(|block| block.frame).collect();
            assert_eq!(frames.len(), 2);
            let Frame { interface, link, way, id, missed, comment, .. } = &frames[1];
            assert_eq!((interface.as_str(), *link, *way), ("vxlan", Link::Ip, Way::Out));
            assert_eq!((*id, *missed, comment.as_str()), (7, 2, "to b"));
            assert_eq!((&frames[0].bytes[..], frames[0].len), (&[1, 2, 3][..], 9));
            assert_eq!(frames[0].time, Duration::new(1_700_000_000, 5));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_answer(at in 0_usize..400, byte: u8, len in 0_usize..500) {
            let mut bytes = file();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(len);
            let mut reader = Reader::default();
            reader.push(&bytes);
            while let Ok(Some(_)) = reader.block() {}
        }
    }
}
