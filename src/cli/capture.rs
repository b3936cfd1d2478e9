//! `margay capture`: frames that a daemon forwards or drops, before and after, to look at or to keep.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::asking::{AskError, Whom};
use super::dissect;
use crate::agent::capture::CaptureRequest;
use crate::capture::Way;
use crate::capture::read::{Block, Frame, NotPcapng, Reader};
use crate::control::client::{Client, StreamError};

/// Frames that a daemon forwards or drops, each before and after, with what became of it
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Each frame is shown as it was received, with what became of it, and as it left, with its outer header: one interface for each \
endpoint, \"ipip\", \"vxlan\", \"direct\", \"underlay\", \"host\", \"errors\", and \"slowpath\" for what margay makes itself. \
Super-frames are shown whole, with the size of their segments.\n\n\
FILTER is tcpdump's language: host, net, port and portrange with src and dst; ip, arp, icmp, tcp, udp, sctp, vxlan, ipip, \
ip proto N; and, or, not, parentheses. A test is true when it is true of the outer or of the inner header.\n\n\
  margay capture --endpoint default/web tcp port 80\n  \
margay capture --dropped\n  \
margay capture -w - host 10.65.0.66 | wireshark -k -i -\n  \
margay capture -w /var/tmp/node-a.pcapng --ring 100M/5")]
pub struct Args {
    /// Only from and to this endpoint: its name, or its workload's (namespace/pod)
    #[arg(long, value_name = "NAME")]
    endpoint: Option<String>,
    /// Only from and to this peer: name of its Node, or its address
    #[arg(long, value_name = "NODE")]
    peer: Option<String>,
    /// Only what is dropped
    #[arg(long)]
    dropped: bool,
    /// Bytes of each frame that are kept, 0 for all [default: 256]
    #[arg(short, long, value_name = "BYTES")]
    snaplen: Option<usize>,
    /// End after so many frames; before and after are two
    #[arg(short, long, value_name = "N")]
    count: Option<u64>,
    /// Write pcapng to this file, or to standard output ("-")
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Write FILE.1 and so on, as many as FILES, each up to about SIZE (K, M and G are 2^10 and so on), then begin again
    #[arg(long, value_name = "SIZE/FILES", requires = "write", value_parser = ring)]
    ring: Option<Ring>,
    #[command(flatten)]
    whom: Whom,
    /// In tcpdump's language
    #[arg(value_name = "FILTER", trailing_var_arg = true)]
    filter: Vec<String>,
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ring {
    size: u64,
    files: u32,
}

fn ring(text: &str) -> Result<Ring, String> {
    let wrong = || "want a size and a number of files, such as 100M/5".to_owned();
    let (size, files) = text.split_once('/').ok_or_else(wrong)?;
    let digits = size.trim_end_matches(['K', 'M', 'G', 'k', 'm', 'g']);
    let shift = match &size[digits.len()..] {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        _ => return Err(wrong()),
    };
    let size = digits.parse::<u64>().ok().and_then(|size| size.checked_mul(1 << shift)).ok_or_else(wrong)?;
    match files.parse() {
        Ok(files @ 1..=10_000) if size > 0 => Ok(Ring { size, files }),
        _ => Err(wrong()),
    }
}

/// Runs the command.
///
/// # Errors
/// The daemon refuses, or what it says cannot be written.
pub(super) fn run(args: &Args) -> Result<(), AskError> {
    let request = CaptureRequest {
        endpoint: args.endpoint.clone(),
        peer: args.peer.clone(),
        dropped: args.dropped,
        filter: args.filter.join(" "),
        snaplen: args.snaplen,
        count: args.count,
        steps: false,
    };
    let mut out: Box<Take<'_>> = match &args.write {
        None => Box::new(print),
        Some(path) if path.as_os_str() == "-" => {
            if io::stdout().is_terminal() {
                let why = "pcapng is not for a terminal: pipe it (margay capture -w - | wireshark -k -i -), or leave -w out";
                return Err(AskError::Form(why.into()));
            }
            Box::new(|block| Ok(io::stdout().lock().write_all(&block.raw)?))
        }
        Some(path) => {
            let mut files = Files::new(path, args.ring)?;
            Box::new(move |block| files.write(block))
        }
    };
    follow(&args.whom.client()?, &request, &mut *out)
}

/// What is done with each block of a capture.
pub(super) type Take<'a> = dyn FnMut(&Block) -> Result<(), AskError> + 'a;

/// Hands over each block of a capture.
pub(super) fn follow(client: &Client, request: &CaptureRequest, out: &mut Take<'_>) -> Result<(), AskError> {
    let query = serde_urlencoded::to_string(request).map_err(|error| AskError::Form(error.to_string()))?;
    let mut reader = Reader::default();
    let streamed = client.stream(&format!("/v1/capture?{query}"), |bytes| {
        reader.push(bytes);
        while let Some(block) = reader.block().map_err(strange)? {
            out(&block)?;
        }
        Ok::<_, AskError>(ControlFlow::Continue(()))
    });
    match streamed {
        Ok(()) => Ok(()),
        Err(StreamError::Client(error)) => Err(error.into()),
        Err(StreamError::Taken(error)) => Err(error),
    }
}

fn strange(error: NotPcapng) -> AskError {
    AskError::Form(format!("what the daemon sends is {error}: is it of this version?"))
}

/// A frame as a line for people.
fn print(block: &Block) -> Result<(), AskError> {
    let Some(frame) = &block.frame else { return Ok(()) };
    let text = format!("{}{} → {}\n", missed(frame), line(frame, None), frame.comment);
    let mut out = io::stdout().lock();
    Ok(out.write_all(text.as_bytes()).and_then(|()| out.flush())?)
}

/// What was missed before it, if anything.
pub(super) fn missed(frame: &Frame) -> String {
    match frame.missed {
        0 => String::new(),
        missed => format!("({missed} frames were missed here: more came than were read)\n"),
    }
}

/// When, where, and what.
pub(super) fn line(frame: &Frame, node: Option<&str>) -> String {
    let dissection = dissect::of(frame.link, &frame.bytes);
    let way = match frame.way {
        Way::In => "in",
        Way::Out => "out",
    };
    let node = node.map_or_else(String::new, |node| format!("{node} "));
    format!("{} {node}{} {way}: {dissection}", clock(frame.time), frame.interface)
}

/// Time of day, UTC.
pub(super) fn clock(time: Duration) -> String {
    let seconds = time.as_secs() % 86_400;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}.{:06}", time.subsec_micros())
}

/// A file, or several in turn: each can be read by itself, however the command ends.
struct Files {
    path: PathBuf,
    ring: Option<Ring>,
    /// From 1.
    number: u32,
    file: File,
    size: u64,
    /// What a file begins with: itself and its interfaces.
    head: Vec<u8>,
    frames: u64,
}

impl Files {
    fn new(path: &Path, ring: Option<Ring>) -> Result<Self, AskError> {
        let file = create(path, ring.map(|_| 1))?;
        Ok(Files { path: path.to_owned(), ring, number: 1, file, size: 0, head: Vec::new(), frames: 0 })
    }

    fn write(&mut self, block: &Block) -> Result<(), AskError> {
        let is_full = self.size >= self.ring.map_or(u64::MAX, |ring| ring.size);
        if let Some(ring) = self.ring.filter(|_| is_full) {
            self.number = self.number % ring.files + 1;
            self.file = create(&self.path, Some(self.number))?;
            self.size = 0;
            let head = std::mem::take(&mut self.head);
            self.append(&head)?;
            self.head = head;
        }
        match block.frame {
            Some(_) => self.frames += 1,
            None => self.head.extend_from_slice(&block.raw),
        }
        self.append(&block.raw)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), AskError> {
        self.file.write_all(bytes).map_err(|error| {
            let (path, frames) = (self.path.display(), self.frames);
            AskError::Form(format!("{path}: {error}, after {frames} frames; the daemon is not concerned"))
        })?;
        self.size += bytes.len() as u64;
        Ok(())
    }
}

fn create(path: &Path, number: Option<u32>) -> Result<File, AskError> {
    let mut name = path.as_os_str().to_owned();
    if let Some(number) = number {
        name.push(format!(".{number}"));
    }
    let path = PathBuf::from(name);
    File::create(&path).map_err(|error| AskError::Form(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_has_a_size_and_a_number() {
        assert_eq!(ring("100M/5"), Ok(Ring { size: 100 << 20, files: 5 }));
        assert_eq!(ring("4096/1"), Ok(Ring { size: 4096, files: 1 }));
        for wrong in ["", "5", "0/5", "1M/0", "1T/5", "M/5", "1MM/5", "1M/5/6", "99999999999G/2"] {
            assert!(ring(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_time_of_day_is_utc() {
        assert_eq!(clock(Duration::new(86_400 * 3 + 3_661, 42_000)), "01:01:01.000042");
    }
}
