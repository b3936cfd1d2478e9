//! The thread that answers: connections in, bounded in number, size and time.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, oneshot};
use tokio_io_timeout::TimeoutStream;

use super::routes::{self, Connection};
use super::socket::{Name, Socket};
use super::web;
use crate::agent::Remote;
use crate::sys::privileges;

/// Connections that are served at a time; further ones wait.
const CONNECTIONS: usize = 32;
/// How long a client may take for a request, how long a connection may rest between two, and how long a client may take
/// none of an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a request's line and headers.
const REQUEST: usize = 16 * 1024;
/// Until a connection is tried again where the system gives none (EMFILE).
const RECOVERY: Duration = Duration::from_millis(100);

/// A server at work. Dropping it closes every connection and removes the socket.
#[derive(Debug)]
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    name: Option<Name>,
}

impl Server {
    /// Answers on `socket`, and on `web` what anyone may read, with what `remote`'s agent says.
    ///
    /// # Errors
    /// The system gives no thread or epoll instance.
    pub fn start(socket: Option<Socket>, web: Option<TcpListener>, remote: Remote) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let context = runtime.enter();
        let (listener, name) = socket.map(Socket::into_parts).unzip();
        if let Some(listener) = listener {
            listener.set_nonblocking(true)?;
            runtime
                .spawn(accept(tokio::net::UnixListener::from_std(listener)?, routes::router(remote.clone())));
        }
        if let Some(listener) = web {
            listener.set_nonblocking(true)?;
            runtime.spawn(accept(tokio::net::TcpListener::from_std(listener)?, web::router(remote)));
        }
        drop(context);
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("margay-control".into()).spawn(move || {
            // It reads what others send, and opens nothing.
            if let Err(error) = privileges::keep_none() {
                tracing::error!(%error, "the control socket is not served");
                return;
            }
            // Dropped, not sent; what is still in hand ends with the runtime.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Server { stop: Some(stop), thread: Some(thread), name })
    }

    /// Leaves the socket where it is: another daemon answers there.
    pub fn leave(mut self) {
        self.name.take().into_iter().for_each(Name::leave);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic has been told by its message.
            let _ = thread.join();
        }
    }
}

/// Where connections come in.
trait Listen: Send + 'static {
    type Stream: AsyncRead + AsyncWrite + AsFd + Send + 'static;

    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listen for tokio::net::UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn next(&self) -> io::Result<Self::Stream> {
        Ok(self.accept().await?.0)
    }
}

impl Listen for tokio::net::TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn next(&self) -> io::Result<Self::Stream> {
        Ok(self.accept().await?.0)
    }
}

async fn accept(listener: impl Listen, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.next().await {
            Ok(stream) => {
                // For a daemon that takes over, which is then spoken to by another thread.
                let copy = stream.as_fd().try_clone_to_owned().map(Arc::new).ok();
                let router = router.clone().layer(Extension(Connection(copy)));
                tokio::spawn(async move {
                    converse(stream, router).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "no connection could be taken");
                tokio::time::sleep(RECOVERY).await;
            }
        }
    }
}

/// Serves one connection to its end.
async fn converse(stream: impl AsyncRead + AsyncWrite + Send + 'static, router: Router) {
    let mut stream = Box::pin(TimeoutStream::new(stream));
    stream.as_mut().set_write_timeout_pinned(Some(PATIENCE));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(REQUEST)
        // Who has said all may close its side, as nc(1) does, and still gets its answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended badly");
    }
}
