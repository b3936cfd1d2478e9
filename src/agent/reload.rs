//! Resources are read again: a plan, or what is wrong with them.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::datastore;
use crate::rib::{self, NodePlan};

use super::reconcile::needs;
use super::rootless::Rootless;
use super::{Agent, AgentError, Config, RETRY};

/// What came of reading the resources again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reloaded {
    /// They ask for something else than before.
    pub changed: bool,
    /// Routes that there are.
    pub routes: usize,
    /// Endpoints that are attached.
    pub endpoints: usize,
}

/// What was wrong when the resources were read.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) what: String,
    /// When they are to be read again, as it is not the resources but the machine that may be right by then.
    pub(super) again: Option<Instant>,
}

impl Agent {
    /// Reads the resources again and makes the running state theirs; logs how that went.
    ///
    /// # Errors
    /// They are wrong, or the machine does not do what they ask for: the last good state stays.
    pub fn reload(&mut self) -> Result<Reloaded, AgentError> {
        // Whoever asks is told, be it what is known.
        self.wrong = None;
        self.read()
    }

    /// As [`Self::reload`]; what is wrong as before is not logged again.
    pub(super) fn read(&mut self) -> Result<Reloaded, AgentError> {
        self.reloads += 1;
        let began = Instant::now();
        let loaded = load(&self.config, self.rootless.as_ref(), &mut self.told);
        let reloaded = loaded.and_then(|plan| self.apply(plan));
        match &reloaded {
            Ok(Reloaded { changed: false, .. }) => tracing::info!("resources read: nothing to change"),
            Ok(Reloaded { routes, endpoints, .. }) => {
                tracing::info!(routes, endpoints, "resources applied");
            }
            Err(error) => {
                let what = error.to_string();
                if self.wrong.as_ref().is_none_or(|wrong| wrong.what != what) {
                    what.lines().for_each(|line| tracing::error!("{line}"));
                    tracing::error!("resources not applied: the last good state stays");
                }
                // Very many resources, and nothing to be done about it, must not keep a core busy.
                let pause = RETRY.max(began.elapsed() * 20);
                let again = error.may_pass().then(|| Instant::now() + pause);
                self.wrong = Some(Wrong { what, again });
                self.count_descriptors();
            }
        }
        if reloaded.is_ok() {
            (self.read_at, self.wrong) = (Instant::now(), None);
        }
        reloaded
    }

    fn apply(&mut self, plan: NodePlan) -> Result<Reloaded, AgentError> {
        let changed = plan != self.plan;
        if changed {
            // What cannot be begun need not be undone.
            needs(&plan)?;
            let before = std::mem::replace(&mut self.plan, plan);
            if let Err(error) = self.reconcile() {
                self.plan = before;
                self.settle();
                return Err(error);
            }
        }
        Ok(Reloaded { changed, routes: self.plan.routes.len(), endpoints: self.endpoints.len() })
    }
}

pub(super) fn load(
    config: &Config,
    rootless: Option<&Rootless>,
    told: &mut BTreeSet<String>,
) -> Result<NodePlan, AgentError> {
    let mut resources = datastore::load(&config.resources)?;
    resources.felix.push(config.felix.clone());
    for notice in resources.notices.iter().map(ToString::to_string) {
        if told.insert(notice.clone()) {
            tracing::info!("{notice}");
        }
    }
    let plan = rib::plan(&resources, &config.node)?;
    rootless.map_or(Ok(()), |rootless| rootless.check(&plan)).map_err(AgentError::Forbidden)?;
    for warning in &plan.warnings {
        if told.insert(warning.clone()) {
            tracing::warn!("{warning}");
        }
    }
    Ok(plan)
}
