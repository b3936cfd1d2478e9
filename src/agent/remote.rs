//! How others ask the agent: it stays the only owner of its state, and answers between two events.

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};

use super::Agent;

/// Requests that wait at most: more are refused at once.
const QUEUE: usize = 16;

/// Something that the agent is to do for somebody.
pub struct Request(pub(super) Box<dyn FnOnce(&mut Agent) + Send>);

/// Reaches the agent from other threads.
#[derive(Debug, Clone)]
pub struct Remote(Sender<Request>);

/// Why the agent was not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// More requests wait than can be expected to be served.
    #[error("the daemon is busy: try again")]
    Busy,
    /// The agent ended.
    #[error("the daemon is ending")]
    Ending,
}

/// A remote, and what [`Agent::run`] takes.
pub fn remote() -> (Remote, Receiver<Request>) {
    let (sender, receiver) = bounded(QUEUE);
    (Remote(sender), receiver)
}

impl Remote {
    /// Has the agent answer a question, and `answer` called in its thread. Returns at once; an agent that ends drops both.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn ask<T>(
        &self,
        question: impl FnOnce(&mut Agent) -> T + Send + 'static,
        answer: impl FnOnce(T) + Send + 'static,
    ) -> Result<(), Refused> {
        let request = Request(Box::new(|agent| answer(question(agent))));
        self.0.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => Refused::Busy,
            TrySendError::Disconnected(_) => Refused::Ending,
        })
    }
}
