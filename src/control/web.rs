//! What anyone may read who reaches the web address: metrics, health, the status page and what it draws.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use socket2::{Domain, Socket, Type};

use super::metrics;
use super::routes::{answer, failure, reading};
use crate::agent::Remote;
use crate::agent::view::{Health, Readings, Status};

/// Where it is unless it is told otherwise: Felix's port for metrics, and nobody else's machine reaches it.
pub const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9091);

/// Connections that wait to be taken.
const BACKLOG: i32 = 32;
/// Nothing from elsewhere, and nothing that is written into a page by what it shows.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'";

/// Listens at `address`.
///
/// # Errors
/// It cannot be listened at; in words.
pub fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    let listen = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        // A daemon that takes over has it before the other one leaves.
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    listen().map_err(|error: io::Error| match error.kind() {
        ErrorKind::AddrInUse => {
            format!("{address}: somebody listens there: choose another (--web ADDRESS:PORT)")
        }
        ErrorKind::AddrNotAvailable => format!("{address}: this network namespace has no such address"),
        _ => format!("{address}: {error}"),
    })
}

/// All paths.
pub(super) fn router(remote: Remote) -> Router {
    reading()
        .route("/", get(async || page("text/html; charset=utf-8", include_str!("page/index.html"))))
        .route("/page.js", get(async || page("text/javascript; charset=utf-8", include_str!("page/page.js"))))
        .route("/page.css", get(async || page("text/css; charset=utf-8", include_str!("page/page.css"))))
        .route("/metrics", get(scrape))
        .route("/liveness", get(liveness))
        .route("/readiness", get(readiness))
        .with_state(remote)
}

fn page(kind: &'static str, text: &'static str) -> Response {
    let headers: [(HeaderName, &str); 3] =
        [(CONTENT_TYPE, kind), (CONTENT_SECURITY_POLICY, POLICY), (CACHE_CONTROL, "no-cache")];
    (headers, text).into_response()
}

async fn scrape(State(remote): State<Remote>, headers: HeaderMap) -> Response {
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let text = match answer(remote, |agent| Readings::of(agent)).await {
        Ok(readings) => metrics::encode(readings),
        Err(failed) => return failed,
    };
    match accepted.contains("application/openmetrics-text") {
        true => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        false => ([(CONTENT_TYPE, metrics::PLAIN_CONTENT_TYPE)], metrics::plain(&text)).into_response(),
    }
}

/// As Felix's: whether the daemon should go on, or be started anew.
async fn liveness(State(remote): State<Remote>) -> Response {
    match answer(remote, |agent| (agent.is_alive(), agent.faults())).await {
        Ok((true, _)) => StatusCode::NO_CONTENT.into_response(),
        Ok((false, faults)) if faults.is_empty() => {
            failure(StatusCode::SERVICE_UNAVAILABLE, "a worker does not turn: see the log".into())
        }
        Ok((false, faults)) => failure(StatusCode::SERVICE_UNAVAILABLE, faults.join("; ")),
        Err(failed) => failed,
    }
}

/// As Felix's: whether all that the resources ask for is there.
async fn readiness(State(remote): State<Remote>) -> Response {
    match answer(remote, |agent| Status::of(agent)).await {
        Ok(Status { health: Health::Good, .. }) => StatusCode::NO_CONTENT.into_response(),
        Ok(Status { problems, .. }) => failure(StatusCode::SERVICE_UNAVAILABLE, problems.join("; ")),
        Err(failed) => failed,
    }
}
