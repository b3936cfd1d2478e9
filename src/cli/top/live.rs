//! The loop on a terminal: keys, readings and signals, one after the other.

use std::io;
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use crossbeam::select;
use ratatui::crossterm::event::{self, Event};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::rates::Reading;
use super::screen;
use super::state::{State, Wish};
use crate::cli::asking::AskError;
use crate::control::client::{Client, ClientError};

/// Who produces waits for the screen rather than running ahead of it.
const AHEAD: usize = 4;

/// Why it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Who looked has seen enough, or all was printed.
    Wanted,
    /// A signal of this number.
    Signal(u8),
}

/// Shows readings until somebody has seen enough. The terminal is as it was when this returns or panics.
pub(super) fn watch(client: Client, first: Reading, interval: Duration) -> Result<End, AskError> {
    // Before the terminal is changed: from here on a signal is not the process's end.
    let signals = signals().map_err(AskError::System)?;
    let (readings, intervals) = readings(client, interval);
    let _restored = Restored;
    let mut terminal = ratatui::try_init().map_err(AskError::Terminal)?;
    let keys = keys();
    let mut state = State::new(first, interval);
    loop {
        terminal.draw(|frame| screen::draw(frame, &mut state)).map_err(AskError::Terminal)?;
        select! {
            recv(keys) -> event => match event.unwrap_or_else(|_| Err(ended())).map_err(AskError::Terminal)? {
                Event::Key(key) => match state.key(key) {
                    Wish::Nothing => {}
                    Wish::Interval(interval) => intervals.send(interval).map_err(|_| AskError::System(ended()))?,
                    Wish::End => return Ok(End::Wanted),
                },
                // The next drawing asks for the size.
                _ => {}
            },
            recv(readings) -> reading => state.take(reading.map_err(|_| AskError::System(ended()))?),
            recv(signals) -> signal => return Ok(End::Signal(signal.map_err(|_| AskError::System(ended()))?)),
        }
    }
}

/// Gives the terminal back.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// A thread is gone, and has said why.
fn ended() -> io::Error {
    io::Error::other("a thread of this program has ended")
}

/// The signals that end it, as they come.
fn signals() -> io::Result<Receiver<u8>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (sender, receiver) = bounded(AHEAD);
    thread::spawn(move || signals.forever().try_for_each(|signal| sender.send(signal as u8)));
    Ok(receiver)
}

/// What is typed, and changes of the size.
fn keys() -> Receiver<io::Result<Event>> {
    let (sender, receiver) = bounded(AHEAD);
    thread::spawn(move || while sender.send(event::read()).is_ok() {});
    receiver
}

/// A reading each interval, which can be changed.
fn readings(
    client: Client,
    interval: Duration,
) -> (Receiver<Result<Reading, ClientError>>, Sender<Duration>) {
    let (sender, receiver) = bounded(AHEAD);
    // Who draws must not wait for who asks, which may wait to be drawn. Nobody types faster than is asked by much.
    let (intervals, changes) = unbounded();
    thread::spawn(move || ask(&client, interval, &changes, &sender));
    (receiver, intervals)
}

fn ask(
    client: &Client,
    mut interval: Duration,
    changes: &Receiver<Duration>,
    readings: &Sender<Result<Reading, ClientError>>,
) {
    loop {
        match changes.recv_timeout(interval) {
            Ok(change) => interval = change,
            Err(RecvTimeoutError::Timeout) if readings.send(Reading::take(client)).is_ok() => {}
            Err(_) => return,
        }
    }
}
