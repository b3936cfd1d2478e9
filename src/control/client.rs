//! The commands' side: one request, one answer, without a runtime to be seen.

use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
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
    patience: Duration,
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
    #[error("{path}: no answer within {patience:?}: see the daemon's log", path = .path.display())]
    Late {
        /// The socket.
        path: PathBuf,
        /// How long it was waited for.
        patience: Duration,
    },
}

/// Why a stream ended early.
#[derive(Debug)]
pub enum StreamError<E> {
    /// The daemon, or the way to it.
    Client(ClientError),
    /// Who took it.
    Taken(E),
}

impl<E> From<ClientError> for StreamError<E> {
    fn from(error: ClientError) -> Self {
        StreamError::Client(error)
    }
}

impl Client {
    /// For the daemon that listens at `path`; nothing is asked yet.
    ///
    /// # Errors
    /// The system gives no epoll instance.
    pub fn new(path: &Path) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Client { path: path.to_owned(), runtime, patience: PATIENCE })
    }

    /// The same, with an answer that may take no longer than this.
    pub fn with_patience(self, patience: Duration) -> Self {
        Client { patience, ..self }
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

    /// Hands over what `GET path` answers, as it comes, until it ends or nobody wants more.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn stream<E>(
        &self,
        path: &str,
        mut take: impl FnMut(&[u8]) -> Result<ControlFlow<()>, E>,
    ) -> Result<(), StreamError<E>> {
        self.runtime.block_on(async {
            let answer = timeout(self.patience, self.send(Method::GET, path));
            let response = answer.await.map_err(|_| self.late())??;
            let status = response.status();
            let mut body = response.into_body();
            if !status.is_success() {
                let body = body.collect().await.map_err(|error| self.broken(error))?.to_bytes();
                return Err(self.refusal(status, &body).into());
            }
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| self.broken(error))?;
                let Some(bytes) = frame.data_ref() else { continue };
                if take(bytes).map_err(StreamError::Taken)?.is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    fn request<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, ClientError> {
        let exchange = async { timeout(self.patience, self.exchange(method, path)).await };
        let (status, body) = self.runtime.block_on(exchange).map_err(|_| self.late())??;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| self.broken(error));
        }
        Err(self.refusal(status, &body))
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> ClientError {
        match serde_json::from_slice(body) {
            Ok(Failure { error }) => ClientError::Refused { status, error },
            Err(error) => self.broken(error),
        }
    }

    async fn exchange(&self, method: Method, path: &str) -> Result<(StatusCode, Bytes), ClientError> {
        let response = self.send(method, path).await?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| self.broken(error))?;
        Ok((status, body.to_bytes()))
    }

    async fn send(&self, method: Method, path: &str) -> Result<Response<Incoming>, ClientError> {
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
        sender.send_request(request).await.map_err(|error| self.broken(error))
    }

    fn late(&self) -> ClientError {
        ClientError::Late { path: self.path.clone(), patience: self.patience }
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
