//! A margay daemon as a child process.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{BedError, Workdir};
use crate::sys::netns::Netns;

/// How long a daemon may take to end after SIGTERM.
const PARTING: Duration = Duration::from_secs(5);
/// Name of the control socket in its place.
const SOCKET: &str = "margay.sock";

/// A running daemon; killed when dropped, and when the thread that started it ends.
#[derive(Debug)]
pub struct Daemon {
    node: String,
    child: Child,
    said: Arc<Said>,
    /// A place of its own for its control socket.
    place: Arc<Workdir>,
}

/// What it printed so far.
#[derive(Debug, Default)]
struct Said {
    text: Mutex<Text>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Out,
    Error,
}

#[derive(Debug, Default)]
struct Text {
    all: String,
    ready: bool,
}

impl Said {
    fn lock(&self) -> MutexGuard<'_, Text> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies lines until the daemon closes its end.
    fn listen(&self, from: impl Read, stream: Stream) {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            let mut text = self.lock();
            text.ready |= stream == Stream::Out && line.split_whitespace().any(|word| word == "ready");
            text.all.push_str(&line);
            text.all.push('\n');
            self.changed.notify_all();
        }
    }
}

impl Daemon {
    pub(super) fn start(
        binary: &Path,
        node: &str,
        netns: &Netns,
        resources: &Path,
        arguments: &[&str],
    ) -> Result<Self, BedError> {
        let mut command = netns.command(binary)?;
        command.args(["run", "--node", node, "--resources"]).arg(resources).args(arguments);
        Self::spawn(command, node, Arc::new(Workdir::new()?))
    }

    /// Starts another that takes over from this one, with further `arguments`.
    pub(super) fn succeed(
        &self,
        binary: &Path,
        netns: &Netns,
        resources: &Path,
        arguments: &[&str],
    ) -> Result<Self, BedError> {
        let mut command = netns.command(binary)?;
        command
            .args(["run", "--takeover", "--node", &self.node, "--resources"])
            .arg(resources)
            .args(arguments);
        Self::spawn(command, &self.node, Arc::clone(&self.place))
    }

    fn spawn(mut command: Command, node: &str, place: Arc<Workdir>) -> Result<Self, BedError> {
        let binary = Path::new(command.get_program()).to_owned();
        let mut child = command
            .arg("--control-socket")
            .arg(place.path().join(SOCKET))
            // Ctrl-C at a terminal is for us; we tell the daemon in our own time.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(BedError::io(format!("start {}", binary.display())))?;
        let said = Arc::new(Said::default());
        let (out, error) = (child.stdout.take(), child.stderr.take());
        for (pipe, stream) in [
            (out.map(|pipe| Box::new(pipe) as Box<dyn Read + Send>), Stream::Out),
            (error.map(|pipe| Box::new(pipe) as Box<dyn Read + Send>), Stream::Error),
        ] {
            let said = Arc::clone(&said);
            std::thread::spawn(move || pipe.map(|pipe| said.listen(pipe, stream)));
        }
        Ok(Self { node: node.into(), child, said, place })
    }

    /// Waits for a line on its standard output with the word `ready`.
    ///
    /// # Errors
    /// It ended, or said nothing of the kind in time; with all that it printed.
    pub fn wait_ready(&mut self, patience: Duration) -> Result<(), BedError> {
        let deadline = Instant::now() + patience;
        loop {
            let text = self.said.lock();
            let step = Duration::from_millis(20);
            let (text, _) =
                self.said.changed.wait_timeout(text, step).unwrap_or_else(PoisonError::into_inner);
            if text.ready {
                return Ok(());
            }
            drop(text);
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.failed(format!("ended before it was ready ({status})")));
            }
            if Instant::now() > deadline {
                return Err(self.failed(format!("was not ready after {patience:?}")));
            }
        }
    }

    /// All that it printed so far, both streams.
    pub fn output(&self) -> String {
        self.said.lock().all.clone()
    }

    /// Its control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.place.path().join(SOCKET)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether its process has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> Result<(), BedError> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal)
            .map_err(|e| BedError::io(format!("send {signal} to the daemon of {}", self.node))(e.into()))
    }

    /// SIGTERM, five seconds, SIGKILL.
    ///
    /// # Errors
    /// It ended with a failure, or had to be killed; with all that it printed.
    pub fn stop(mut self) -> Result<(), BedError> {
        self.signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + PARTING;
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break Some(status),
                _ if Instant::now() > deadline => break None,
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        match status {
            Some(status) if ExitStatus::success(&status) => Ok(()),
            Some(status) => Err(self.failed(format!("ended badly after SIGTERM ({status})"))),
            None => Err(self.failed(format!("was still there {PARTING:?} after SIGTERM"))),
        }
    }

    /// An error that quotes all that it printed.
    pub(super) fn failed(&self, reason: String) -> BedError {
        // What it wrote last may still be on its way through the pipe.
        std::thread::sleep(Duration::from_millis(50));
        BedError::Daemon { node: self.node.clone(), reason, output: self.output() }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both are harmless for a child that has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
