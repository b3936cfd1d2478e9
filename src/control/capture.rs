//! Captures and traces: a file that grows while it is read, and a packet that is followed.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::extract::rejection::QueryRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::{Bytes, Frame};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::routes::{PATIENCE, answer, failure, json, refused};
use crate::agent::capture::{ArrivalRequest, Capture, CaptureError, CaptureRequest, Trace, TraceRequest};
use crate::agent::{Agent, Refused, Remote};

/// How often is looked for frames while there are none: workers wake nobody.
const LOOK: Duration = Duration::from_millis(20);
/// After so many looks without a frame something is sent all the same: a client that has gone shows by that. Nothing else
/// shows it where the socket is forwarded (`ssh -L`): what arrives here then is the end of what the client says, which is also how
/// one looks that has asked and still listens.
const BEAT: u32 = 50;

type Query<T> = Result<axum::extract::Query<T>, QueryRejection>;

/// `GET /v1/capture`: pcapng until the client has gone, or enough frames.
pub(super) async fn capture(State(remote): State<Remote>, request: Query<CaptureRequest>) -> Response {
    let request = match request {
        Ok(request) => request.0,
        Err(wrong) => return failure(StatusCode::BAD_REQUEST, wrong.body_text()),
    };
    match answer(remote, move |agent| agent.capture(&request)).await {
        Ok(Ok(capture)) => {
            let stream = Stream { capture, pause: Box::pin(sleep(Duration::ZERO)), idle: 0 };
            ([(header::CONTENT_TYPE, "application/x-pcapng")], Body::new(stream)).into_response()
        }
        Ok(Err(error)) => refusal(&error),
        Err(failed) => failed,
    }
}

/// `POST /v1/trace`: what becomes of a packet.
pub(super) async fn trace(State(remote): State<Remote>, request: Query<TraceRequest>) -> Response {
    match request {
        Ok(request) => traced(remote, move |agent, tell| agent.trace(&request.0, tell)).await,
        Err(wrong) => failure(StatusCode::BAD_REQUEST, wrong.body_text()),
    }
}

/// `POST /v1/trace/arrival`: what would become of a packet that another node sends.
pub(super) async fn arrival(State(remote): State<Remote>, request: Query<ArrivalRequest>) -> Response {
    match request {
        Ok(request) => traced(remote, move |agent, tell| agent.consider(&request.0, tell)).await,
        Err(wrong) => failure(StatusCode::BAD_REQUEST, wrong.body_text()),
    }
}

type Tell = Box<dyn FnOnce(Result<Trace, CaptureError>) + Send>;

async fn traced(
    remote: Remote,
    begin: impl FnOnce(&Agent, Tell) -> Result<(), CaptureError> + Send + 'static,
) -> Response {
    let (sender, receiver) = oneshot::channel();
    // Who asked may be gone when the answer is there.
    let tell: Tell = Box::new(|trace| drop(sender.send(trace)));
    match answer(remote, move |agent| begin(agent, tell)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return refusal(&error),
        Err(failed) => return failed,
    }
    match timeout(PATIENCE, receiver).await {
        Ok(Ok(Ok(trace))) => json(&trace),
        Ok(Ok(Err(error))) => refusal(&error),
        Ok(Err(_)) => refused(Refused::Ending),
        Err(_) => refused(Refused::Busy),
    }
}

fn refusal(error: &CaptureError) -> Response {
    let status = match error {
        CaptureError::Filter(_) | CaptureError::Packet(_) => StatusCode::BAD_REQUEST,
        CaptureError::NoEndpoint(_) | CaptureError::NoPeer(_) => StatusCode::NOT_FOUND,
        CaptureError::TooMany => StatusCode::TOO_MANY_REQUESTS,
        CaptureError::NoBuffer => StatusCode::SERVICE_UNAVAILABLE,
    };
    failure(status, error.to_string())
}

/// The body: what the workers have copied since it was last asked. Dropped with the connection, and the capture with it.
struct Stream {
    capture: Capture,
    pause: Pin<Box<Sleep>>,
    /// Looks without a frame.
    idle: u32,
}

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Stream { capture, pause, idle } = self.get_mut();
        loop {
            let mut bytes = capture.take();
            if bytes.is_empty() && *idle >= BEAT {
                bytes = capture.beat();
            }
            if !bytes.is_empty() {
                *idle = 0;
                return Poll::Ready(Some(Ok(Frame::data(bytes.into()))));
            }
            if capture.is_over() {
                return Poll::Ready(None);
            }
            ready!(pause.as_mut().poll(context));
            pause.as_mut().reset(Instant::now() + LOOK);
            *idle += 1;
        }
    }
}
