//! The commands' side: one request, one answer, without a runtime to be seen.

use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use nix::unistd::{Gid, Group};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::Failure;

/// How long an answer may take: longer than the daemon waits for its agent.
const PATIENCE: Duration = Duration::from_secs(90);

/// Asks one daemon.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    runtime: Runtime,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no daemon listens at {path}: start one (margay run), or name the socket of the one that runs (--control-socket PATH, or MARGAY_CONTROL_SOCKET)",
        path = .0.display()
    )]
    NoDaemon(PathBuf),
    /// The socket is for others.
    #[error("the socket {path} is not for you: be root, or a member of the group {group}", path = .path.display())]
    Forbidden {
        /// The socket.
        path: PathBuf,
        /// Whose members may connect.
        group: String,
    },
    /// The daemon's own words.
    #[error("{error}")]
    Refused {
        /// Its HTTP status.
        status: StatusCode,
        /// What is wrong.
        error: String,
    },
    /// Something else than a daemon's answer, or the connection broke.
    #[error("{path}: {problem}: is it a margay daemon, and one of this version?", path = .path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// No answer in time.
    #[error("{path}: no answer within {PATIENCE:?}: see the daemon's log", path = .0.display())]
    Late(PathBuf),
}

impl Client {
    /// For the daemon that listens at `path`; nothing is asked yet.
    ///
    /// # Errors
    /// The system gives no epoll instance.
    pub fn new(path: &Path) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Client { path: path.to_owned(), runtime })
    }

    /// What `GET path` answers.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::GET, path)
    }

    /// What `POST path` answers.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::POST, path)
    }

    fn request<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, ClientError> {
        let exchange = async { timeout(PATIENCE, self.exchange(method, path)).await };
        let (status, body) =
            self.runtime.block_on(exchange).map_err(|_| ClientError::Late(self.path.clone()))??;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| self.broken(error));
        }
        let Failure { error } = serde_json::from_slice(&body).map_err(|error| self.broken(error))?;
        Err(ClientError::Refused { status, error })
    }

    async fn exchange(&self, method: Method, path: &str) -> Result<(StatusCode, Bytes), ClientError> {
        let stream = UnixStream::connect(&self.path).await.map_err(|error| self.unconnected(error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(error))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "margay")
            .body(Empty::<Bytes>::new())
            .map_err(|error| self.broken(error))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(error))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| self.broken(error))?;
        Ok((status, body.to_bytes()))
    }

    fn broken(&self, problem: impl ToString) -> ClientError {
        ClientError::Broken { path: self.path.clone(), problem: problem.to_string() }
    }

    fn unconnected(&self, error: io::Error) -> ClientError {
        let path = self.path.clone();
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => ClientError::NoDaemon(path),
            ErrorKind::PermissionDenied => ClientError::Forbidden { group: group_of(&path), path },
            _ => self.broken(error),
        }
    }
}

/// By name where it has one.
fn group_of(path: &Path) -> String {
    let Ok(found) = std::fs::metadata(path) else { return "that its directory is open to".into() };
    let named = Group::from_gid(Gid::from_raw(found.gid())).ok().flatten();
    named.map_or_else(|| found.gid().to_string(), |group| group.name)
}
