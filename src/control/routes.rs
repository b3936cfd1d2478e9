//! What is asked for by which path.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Json, Router};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Failure, capture};
use crate::agent::takeover::{PROTOCOL, TARGET, may_take_over};
use crate::agent::view::{Counters, Drops, Endpoint, Explanation, Node, Peer, Pool, Route, Status, Tunnel};
use crate::agent::{Agent, AgentError, Refused, Remote};

/// How long the agent may take for an answer. It does one thing after the other, and to read very many resources takes
/// seconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// All paths.
pub(super) fn router(remote: Remote) -> Router {
    reading()
        .route("/v1/reload", post(reload))
        .route("/v1/capture", get(capture::capture))
        .route("/v1/trace", post(capture::trace))
        .route("/v1/trace/arrival", post(capture::arrival))
        .route(TARGET, post(takeover))
        .fallback(unknown)
        .method_not_allowed_fallback(not_allowed)
        .with_state(remote)
}

/// The paths that change nothing.
pub(super) fn reading() -> Router<Remote> {
    Router::new()
        .route("/v1/version", get(version))
        .route("/v1/status", view(Status::of))
        .route("/v1/routes", view(Route::list))
        .route("/v1/endpoints", view(Endpoint::list))
        .route("/v1/peers", view(Peer::list))
        .route("/v1/tunnels", view(Tunnel::list))
        .route("/v1/pools", view(Pool::list))
        .route("/v1/nodes", view(Node::list))
        .route("/v1/drops", view(Drops::of))
        .route("/v1/counters", view(Counters::of))
        .route("/v1/explain/{address}", get(explain))
}

/// Answers with a view of the agent.
fn view<T: Serialize + Send + 'static>(of: fn(&Agent) -> T) -> MethodRouter<Remote> {
    get(async move |State(remote): State<Remote>| ask(remote, move |agent| of(agent)).await)
}

async fn explain(State(remote): State<Remote>, Path(address): Path<String>) -> Response {
    match address.parse() {
        Ok(address) => ask(remote, move |agent| Explanation::of(agent, address)).await,
        Err(_) => failure(StatusCode::BAD_REQUEST, format!("{address:?} is no IP address")),
    }
}

async fn version() -> Response {
    json(&Version { version: env!("CARGO_PKG_VERSION").into() })
}

/// Of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Version {
    /// Of the package, as in `margay --version`.
    pub version: String,
}

async fn reload(State(remote): State<Remote>) -> Response {
    match answer(remote, |agent| agent.reload()).await {
        Ok(Ok(reloaded)) => json(&reloaded),
        // What is wrong is in the files, which the caller may correct; else it is the machine.
        Ok(Err(error @ (AgentError::Load(_) | AgentError::Plan(_) | AgentError::Compile(_)))) => {
            failure(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
        }
        Ok(Err(error)) => failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        Err(failed) => failed,
    }
}

/// The connection by which a request came.
#[derive(Debug, Clone)]
pub(super) struct Connection(pub(super) Option<Arc<OwnedFd>>);

/// Leaves the connection to the agent, once it is upgraded.
async fn takeover(
    State(remote): State<Remote>,
    Extension(Connection(connection)): Extension<Connection>,
    mut request: Request,
) -> Response {
    if request.headers().get(UPGRADE).is_none_or(|wanted| wanted != PROTOCOL) {
        return failure(
            StatusCode::UPGRADE_REQUIRED,
            format!("{TARGET} is for margay run --takeover (Upgrade: {PROTOCOL})"),
        );
    }
    let Some(Ok(connection)) = connection.map(|connection| connection.try_clone()) else {
        return failure(StatusCode::SERVICE_UNAVAILABLE, "too many open files".into());
    };
    if !may_take_over(&connection) {
        return failure(StatusCode::FORBIDDEN, "only the daemon's own user and root may take over".into());
    }
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        // Nothing is sent before the answer has arrived, so nothing is lost with what was read ahead.
        if upgraded.await.is_err() {
            return;
        }
        let stream = UnixStream::from(connection);
        if stream.set_nonblocking(false).is_ok() {
            let _ = remote.ask(move |agent| agent.hand_over(stream), drop);
        }
    });
    let headers = [(CONNECTION, "upgrade"), (UPGRADE, PROTOCOL)];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

async fn ask<T: Serialize + Send + 'static>(
    remote: Remote,
    question: impl FnOnce(&mut Agent) -> T + Send + 'static,
) -> Response {
    match answer(remote, question).await {
        Ok(answer) => json(&answer),
        Err(failed) => failed,
    }
}

/// The agent's answer; what is said instead where there is none.
pub(super) async fn answer<T: Send + 'static>(
    remote: Remote,
    question: impl FnOnce(&mut Agent) -> T + Send + 'static,
) -> Result<T, Response> {
    let (sender, receiver) = oneshot::channel();
    // Who asked may be gone when the answer is there.
    let asked = remote.ask(question, |answer| drop(sender.send(answer)));
    asked.map_err(refused)?;
    match timeout(PATIENCE, receiver).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(refused(Refused::Ending)),
        Err(_) => {
            let error =
                format!("the agent has not answered within {PATIENCE:?}, but will go on: see the log");
            Err(failure(StatusCode::GATEWAY_TIMEOUT, error))
        }
    }
}

pub(super) fn refused(refused: Refused) -> Response {
    failure(StatusCode::SERVICE_UNAVAILABLE, refused.to_string())
}

async fn unknown(uri: Uri) -> Response {
    failure(
        StatusCode::NOT_FOUND,
        format!("there is no {}: see docs/control.md for what there is", uri.path()),
    )
}

async fn not_allowed(method: Method, uri: Uri) -> Response {
    failure(StatusCode::METHOD_NOT_ALLOWED, format!("{} does not take {method}", uri.path()))
}

pub(super) fn json(value: &impl Serialize) -> Response {
    Json(value).into_response()
}

pub(super) fn failure(status: StatusCode, error: String) -> Response {
    (status, Json(Failure { error })).into_response()
}
