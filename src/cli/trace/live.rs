//! Packets that come, at one node or several, as they come.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::far::{self, Identity, Said};
use super::{Args, steps, traced};
use crate::agent::capture::{CaptureRequest, Traced};
use crate::capture::read::Frame;
use crate::cli::asking::{AskError, Format, unsaid};
use crate::cli::capture::{line, missed};

/// How long a frame waits for older ones of other nodes: daemons are asked one by one.
const HOLD: Duration = Duration::from_millis(100);

/// A frame at a node, for programs.
#[derive(Debug, Serialize)]
struct Passed<'a> {
    /// Name of the Node.
    node: &'a str,
    /// When, in seconds since the beginning of 1970, UTC, by that node's clock.
    unix_seconds: f64,
    /// The same before and after forwarding, on one node.
    id: u64,
    /// Frames that were missed before it.
    missed: u64,
    #[serde(flatten)]
    traced: Traced,
}

/// Follows what matches the filter.
pub(super) fn run(args: &Args) -> Result<(), AskError> {
    let request = CaptureRequest { filter: args.filter.join(" "), steps: true, ..CaptureRequest::default() };
    let (out, said) = sync_channel(far::QUEUE);
    let sockets = far::sockets(args.asking.socket(), &args.far);
    for (number, socket) in sockets.iter().enumerate() {
        let client = if number == 0 { args.asking.client()? } else { far::client(socket)? };
        far::listen(number, client, request.clone(), out.clone());
    }
    drop(out);
    let live = Live {
        hold: if sockets.len() > 1 { HOLD } else { Duration::ZERO },
        known: vec![None; sockets.len()],
        awaited: (0..sockets.len()).collect(),
        sockets,
        held: Vec::new(),
        left: args.count.unwrap_or(u64::MAX),
        format: args.asking.format(),
        missing: Vec::new(),
    };
    live.follow(&said)
}

/// What is being followed.
struct Live {
    /// The near one first.
    sockets: Vec<PathBuf>,
    known: Vec<Option<Identity>>,
    /// Who has not begun: until then nobody's frames are of interest, for they lack the others' part.
    awaited: BTreeSet<usize>,
    hold: Duration,
    /// Frames with the node that they are of, and when they were told of.
    held: Vec<(Instant, usize, Frame)>,
    /// Frames that are still wanted.
    left: u64,
    format: Format,
    missing: Vec<String>,
}

impl Live {
    fn follow(mut self, said: &Receiver<(usize, Said)>) -> Result<(), AskError> {
        while self.left > 0 {
            let oldest = self.held.iter().map(|(told, ..)| *told).min();
            let next = match oldest {
                Some(oldest) => {
                    said.recv_timeout((oldest + self.hold).saturating_duration_since(Instant::now()))
                }
                None => said.recv().map_err(RecvTimeoutError::from),
            };
            match next {
                Ok((number, Said::Known(identity))) => self.known[number] = Some(identity),
                Ok((number, Said::Begun)) => drop(self.awaited.remove(&number)),
                Ok((number, Said::Frame(frame))) if self.awaited.is_empty() => {
                    self.held.push((Instant::now(), number, frame));
                }
                Ok((_, Said::Frame(_))) => {}
                Ok((0, Said::Ended(ended))) => {
                    self.show(Duration::ZERO)?;
                    return ended.and_then(|()| far::all_missing(self.missing));
                }
                Ok((number, Said::Ended(ended))) => self.ended(number, ended),
                Err(RecvTimeoutError::Timeout) => self.show(self.hold)?,
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        far::all_missing(self.missing)
    }

    /// The others go on.
    fn ended(&mut self, number: usize, ended: Result<(), AskError>) {
        self.awaited.remove(&number);
        let socket = &self.sockets[number];
        let why = match ended {
            Ok(()) => format!("--far {}: its daemon has ended", socket.display()),
            Err(error) => far::missing(socket, self.known[number].as_ref(), &error),
        };
        eprintln!("margay trace: {why}; the other nodes are followed further");
        self.missing.push(why);
    }

    /// Shows what has been held as long as this, and what is older than that by its time.
    fn show(&mut self, hold: Duration) -> Result<(), AskError> {
        // What is of one time and one node stands as it was told.
        self.held.sort_by_key(|(_, number, frame)| (frame.time, *number));
        let now = Instant::now();
        let is_due = |(told, ..): &(Instant, usize, Frame)| now.saturating_duration_since(*told) >= hold;
        let due = self.held.iter().rposition(is_due).map_or(0, |last| last + 1);
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let mut out = io::stdout().lock();
        for (_, number, frame) in self.held.drain(..due).take(most) {
            self.left -= 1;
            let node = self.known[number].as_ref().map_or("", |identity| &identity.node);
            let named = (self.sockets.len() > 1).then_some(node);
            let text = match self.format {
                Format::Table => {
                    format!("{}{}\n{}", missed(&frame), line(&frame, named), steps(&traced(&frame)))
                }
                Format::Json => serde_json::to_string(&Passed::of(node, &frame)).map_err(unsaid)? + "\n",
                Format::Yaml => {
                    format!("---\n{}", serde_saphyr::to_string(&Passed::of(node, &frame)).map_err(unsaid)?)
                }
            };
            out.write_all(text.as_bytes())?;
        }
        Ok(out.flush()?)
    }
}

impl<'a> Passed<'a> {
    fn of(node: &'a str, frame: &Frame) -> Self {
        let unix_seconds = frame.time.as_secs_f64();
        Passed { node, unix_seconds, id: frame.id, missed: frame.missed, traced: traced(frame) }
    }
}
