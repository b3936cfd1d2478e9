//! The running state is made that of the plan.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::fib::{Attachment, EndpointId, Environment, Fib};
use crate::rib::{EndpointPlan, NodePlan};
use crate::sys::netlink::{ErrorKind, Netlink};

use super::endpoint::{self, Attached};
use super::host::{Guarded, HostError};
use super::mtu::{Paths, PodMtu};
use super::sides::Side;
use super::underlay::{Needs, own_prefixes};
use super::{Agent, AgentError, next_hops};

impl Agent {
    /// As [`Self::reconcile`], of a plan that was applied before.
    pub(super) fn settle(&mut self) {
        if let Err(error) = self.reconcile() {
            tracing::error!(%error, "the node is not in the desired state");
        }
    }

    /// Makes the running state that of the plan. Can be repeated at any time.
    pub(super) fn reconcile(&mut self) -> Result<(), AgentError> {
        let needs = needs(&self.plan)?;
        let paths = Paths::ask(&self.plan, needs.uplinks())?;
        let mtu = PodMtu::of(&self.plan, &paths);
        // Compiled first: what the engine cannot do must not be half done.
        Fib::compile(&self.plan, &self.environment(&paths, mtu.bytes))?;

        if needs != *self.underlay.needs() {
            tell_absent(&self.plan, &needs);
            self.underlay = self.opened(needs.clone())?;
            self.lost.remove(&Side::Underlay);
        }
        match self.host.as_mut().map(|host| host.follow(&self.plan, mtu.bytes)) {
            // What it has to follow it will when it is made again.
            Some(Err(HostError::Netlink(error))) if error.kind == ErrorKind::NoDevice => {
                self.miss(Side::Host, &error.to_string());
            }
            other => other.unwrap_or(Ok(()))?,
        }
        if let Some(guard) = &mut self.guard {
            guard.follow(guarded(&self.plan, &needs))?;
        }
        self.underlay.follow(own_prefixes(&self.plan), &next_hops::peers(&self.plan))?;

        self.take_paths(paths, mtu);
        self.detach_old()?;
        self.each_endpoint("the MTU could not be raised", Attached::raise_mtu);
        let new = self.attach_new();
        self.publish()?;
        self.each_endpoint("the MTU could not be lowered", Attached::lower_mtu);
        self.raise(new);
        Ok(())
    }

    /// Tries again what could not be opened or attached. Without success nothing is compiled: a namespace that
    /// never comes must not cost a FIB a second.
    pub(super) fn retry(&mut self) {
        self.reopen();
        if self.failed.is_empty() {
            return;
        }
        let new = self.attach_new();
        if new.is_empty() {
            return;
        }
        match self.publish() {
            Ok(()) => self.raise(new),
            Err(error) => tracing::error!(%error, "the FIB could not be published"),
        }
    }

    /// Lets workloads send whose routes are published.
    fn raise(&mut self, new: Vec<String>) {
        for name in new {
            let Some(attached) = self.endpoints.get_mut(&name) else { continue };
            match attached.raise() {
                Ok(()) => {
                    self.failed.remove(&name);
                    let workload = &attached.plan.workload;
                    tracing::info!(endpoint = %name, %workload, how = %attached.how, "endpoint attached");
                }
                Err(error) => self.release(&name, &error.to_string()),
            }
        }
    }

    /// Endpoints that the plan no longer has, or has otherwise: first their routes go, then they do.
    fn detach_old(&mut self) -> Result<(), AgentError> {
        let wanted: BTreeMap<&str, &EndpointPlan> =
            self.plan.endpoints.iter().map(|endpoint| (endpoint.name.as_str(), endpoint)).collect();
        let is_old = |attached: &Attached| {
            wanted.get(attached.plan.name.as_str()).is_none_or(|plan| !attached.serves(plan))
        };
        let old: Vec<String> = self
            .endpoints
            .iter()
            .filter(|(_, attached)| is_old(attached))
            .map(|(name, _)| name.clone())
            .collect();
        self.failed.retain(|name, _| wanted.contains_key(name.as_str()));
        if old.is_empty() {
            return Ok(());
        }
        let gone: Vec<Attached> = old.iter().filter_map(|name| self.endpoints.remove(name)).collect();
        self.endpoints_changed = true;
        self.publish()?;
        for attached in gone {
            tracing::info!(endpoint = %attached.plan.name, "endpoint detached");
            attached.detach(&self.workers);
        }
        Ok(())
    }

    /// Endpoints that the plan has and the workers do not; says which could be attached.
    fn attach_new(&mut self) -> Vec<String> {
        let mut new = Vec::new();
        let mut used: BTreeSet<u32> = self.endpoints.values().map(|attached| attached.id.0).collect();
        let mut free = 0;
        for plan in &self.plan.endpoints {
            if self.endpoints.contains_key(&plan.name) {
                continue;
            }
            while used.contains(&free) {
                free += 1;
            }
            match endpoint::attach(EndpointId(free), plan, self.mtu.bytes, self.site()) {
                Ok(attached) => {
                    used.insert(free);
                    self.endpoints.insert(plan.name.clone(), attached);
                    self.endpoints_changed = true;
                    new.push(plan.name.clone());
                }
                Err(error) => {
                    let error = error.to_string();
                    // The same again, every second, is not news.
                    if self.failed.get(&plan.name) != Some(&error) {
                        tracing::warn!(endpoint = %plan.name, workload = %plan.workload, %error, "endpoint not attached, will be tried again");
                    }
                    self.failed.insert(plan.name.clone(), error);
                }
            }
        }
        new
    }

    fn take_paths(&mut self, paths: Paths, mtu: PodMtu) {
        if let Some(warning) = paths.warning.clone()
            && self.told.insert(warning.clone())
        {
            tracing::warn!("{warning}");
        }
        if self.mtu != mtu {
            tracing::info!("MTU of endpoints {mtu}");
        }
        (self.paths, self.mtu) = (paths, mtu);
        for attached in self.endpoints.values_mut() {
            attached.want_mtu(self.mtu.bytes);
        }
    }

    pub(super) fn each_endpoint(
        &mut self,
        failure: &str,
        act: impl Fn(&mut Attached) -> Result<(), endpoint::AttachError>,
    ) {
        for attached in self.endpoints.values_mut() {
            if let Err(error) = act(attached) {
                tracing::warn!(endpoint = %attached.plan.name, %error, "{failure}");
            }
        }
    }

    pub(super) fn publish(&mut self) -> Result<(), AgentError> {
        let began = Instant::now();
        let compiled = Fib::compile(&self.plan, &self.environment(&self.paths, self.mtu.bytes));
        self.updates.failed += u64::from(compiled.is_err());
        self.publication.publish(compiled?);
        self.workers.wake();
        self.updates.published += 1;
        self.updates.time += began.elapsed();
        self.captures.follow(self);
        Ok(())
    }

    pub(super) fn environment(&self, paths: &Paths, mtu: u16) -> Environment {
        let attachment = |plan: &EndpointPlan| {
            let attached = self.endpoints.get(&plan.name)?;
            Some(Attachment { id: attached.id, mtu: attached.mtu() })
        };
        Environment {
            endpoints: self.plan.endpoints.iter().map(attachment).collect(),
            peer_mtus: paths.peer_mtus(),
            host_mtu: self.config.host_interface.is_some().then_some(mtu),
            outer_ttl: self.config.outer_ttl,
            icmp_sources: self.config.icmp_sources.clone(),
        }
    }

    /// Endpoints whose workload has ended, or been replaced, while the resource stays.
    pub(super) fn release_orphans(&mut self) {
        let links = LazyCell::new(|| {
            let links = Netlink::open().and_then(|mut netlink| netlink.links()).ok()?;
            Some(links.iter().map(|link| link.index.0).collect::<BTreeSet<u32>>())
        });
        // A list that cannot be had tells nothing.
        let is_there = |index| links.as_ref().is_none_or(|links| links.contains(&index));
        let orphans = self.endpoints.iter().filter(|(_, attached)| attached.is_orphan(is_there));
        let names: Vec<String> = orphans.map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|name| self.release(name, "its network namespace or interface is gone"));
    }

    /// Detaches an endpoint that the plan still has; it will be tried again.
    pub(super) fn release(&mut self, name: &str, reason: &str) {
        let Some(attached) = self.endpoints.remove(name) else { return };
        self.endpoints_changed = true;
        if self.failed.insert(name.to_owned(), reason.to_owned()).as_deref() != Some(reason) {
            tracing::warn!(endpoint = %name, reason, "endpoint detached, will be tried again");
        }
        if let Err(error) = self.publish() {
            tracing::error!(%error, "the FIB could not be published");
        }
        attached.detach(&self.workers);
    }
}

/// What the kernel must leave alone.
pub(super) fn guarded(plan: &NodePlan, needs: &Needs) -> Guarded {
    Guarded {
        interfaces: needs.uplinks().iter().map(|uplink| uplink.interface.name.clone()).collect(),
        prefixes: own_prefixes(plan).into_iter().collect(),
    }
}

/// Says what a family lacks on the underlay, if one does.
pub(super) fn tell_absent(plan: &NodePlan, needs: &Needs) {
    if let Some((family, reason)) = needs.absent(plan) {
        tracing::warn!(%reason, "no other node is reached by {family}");
    }
}

pub(super) fn needs(plan: &NodePlan) -> Result<Needs, AgentError> {
    let link = |name: &str| Netlink::open().and_then(|mut netlink| netlink.link(name)).ok();
    Ok(Needs::of(plan, link)?)
}
