//! Daemons that are listened to at the same time, each by a thread.

use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use serde::Deserialize;

use crate::agent::capture::CaptureRequest;
use crate::capture::read::Frame;
use crate::cli::asking::{AskError, unsaid};
use crate::cli::capture::follow;
use crate::control::DEFAULT_SOCKET;
use crate::control::client::{Client, ClientError};

/// How long a far daemon may take for an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Frames that wait to be shown; then the daemons wait.
pub(super) const QUEUE: usize = 256;

/// What of a daemon's status says who it is, whatever its version.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Identity {
    /// Name of its Node.
    pub(super) node: String,
    /// Of its package.
    pub(super) version: String,
}

/// What a thread tells of the daemon that it listens to.
#[derive(Debug)]
pub(super) enum Said {
    /// Who it is.
    Known(Identity),
    /// What passes from then on is told.
    Begun,
    /// Something passed.
    Frame(Frame),
    /// Nothing more comes.
    Ended(Result<(), AskError>),
}

/// Asks who a daemon is.
pub(super) fn identify(client: &Client) -> Result<Identity, AskError> {
    Ok(client.get("/v1/status")?)
}

/// Asks a far daemon; nobody waits for it long.
pub(super) fn client(socket: &Path) -> Result<Client, AskError> {
    Ok(Client::new(socket).map_err(AskError::System)?.with_patience(PATIENCE))
}

/// Listens to the daemon `number` until it ends, or nobody takes what it says.
pub(super) fn listen(number: usize, client: Client, request: CaptureRequest, out: SyncSender<(usize, Said)>) {
    std::thread::spawn(move || {
        let say = |said| out.send((number, said)).map_err(unsaid);
        let listened = identify(&client).and_then(|identity| {
            say(Said::Known(identity))?;
            follow(&client, &request, &mut |block| match &block.frame {
                Some(frame) => say(Said::Frame(frame.clone())),
                None => say(Said::Begun),
            })
        });
        // Who listened may have gone.
        let _ = say(Said::Ended(listened));
    });
}

/// Why a far node's part is missing, and what to do.
pub(super) fn missing(socket: &Path, identity: Option<&Identity>, error: &AskError) -> String {
    let socket = socket.display();
    let why = match error {
        AskError::Client(ClientError::NoDaemon(_)) => {
            format!(
                "no daemon listens there: forward the other node's socket (ssh -L {socket}:{DEFAULT_SOCKET} NODE), or name another"
            )
        }
        AskError::Client(ClientError::Broken { problem, .. }) => {
            format!(
                "{problem}: look whether a margay daemon runs at its other end, and whether you may connect there"
            )
        }
        other => other.to_string(),
    };
    let version = match identity {
        Some(Identity { version, .. }) if version != env!("CARGO_PKG_VERSION") => {
            format!(
                " (its daemon is margay {version}, this is {}: use the margay of that version)",
                env!("CARGO_PKG_VERSION")
            )
        }
        _ => String::new(),
    };
    format!("--far {socket}: {why}{version}")
}

/// What is told at the end of far nodes that could not be asked.
pub(super) fn all_missing(missing: Vec<String>) -> Result<(), AskError> {
    match missing.is_empty() {
        true => Ok(()),
        false => Err(AskError::Far(missing.join("\n"))),
    }
}

/// Where daemons listen, the near one first.
pub(super) fn sockets(near: &Path, far: &[PathBuf]) -> Vec<PathBuf> {
    [&[near.to_owned()][..], far].concat()
}
