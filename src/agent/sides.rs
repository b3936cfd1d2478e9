//! What is lost while the daemon runs: ports, and sides of the node that are opened again.

use crate::dataplane::paths::{Change as PathChange, News};
use crate::dataplane::{Event, PortId};

use super::host::HostInterface;
use super::reconcile::needs;
use super::underlay::{Needs, Underlay, own_prefixes};
use super::{Agent, AgentError, next_hops};

/// A side of the node that is no workload's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Underlay,
    Host,
}

impl Agent {
    pub(super) fn lost(&mut self, event: Event) {
        match event {
            Event::SendRefused { id, error } => {
                tracing::warn!(port = ?id, %error, "the kernel refuses to send")
            }
            Event::PathChanged(change) => self.tell_path(change),
            Event::Noted { anomaly, peer } => {
                tracing::warn!(%anomaly, %peer, "{}", anomaly.explanation())
            }
            Event::PortLost { id: PortId::Endpoint(id), error } => {
                let lost = self.endpoints.iter().find(|(_, attached)| attached.id == id);
                if let Some(name) = lost.map(|(name, _)| name.clone()) {
                    self.release(&name, &error.to_string());
                }
            }
            Event::PortLost { id: PortId::Host, error } => {
                // The other workers still have it.
                self.workers.detach(PortId::Host);
                self.miss(Side::Host, &error.to_string());
                self.reopen();
            }
            Event::PortLost { id, error } => {
                self.miss(Side::Underlay, &format!("{id:?}: {error}"));
                self.reopen();
            }
        }
    }

    fn tell_path(&self, PathChange { peer, news }: PathChange) {
        let known = self.plan.peers.iter().find(|known| known.underlays.have(peer));
        let (node, address) = (known.map_or("?", |known| known.name.as_str()), peer);
        match news {
            News::Mtu(mtu, why) => tracing::info!(node, %address, mtu, %why, "path MTU of a peer"),
            News::MtuExpired => {
                tracing::info!(node, %address, "path MTU of a peer is old: as configured again")
            }
            News::MtuRestored => {
                tracing::info!(node, %address, "path MTU of a peer: probes of the configured size arrive")
            }
            News::Fault(why) => tracing::warn!(node, %address, %why, "the way to a peer is broken"),
            News::FaultOver => tracing::info!(node, %address, "no more errors about the way to a peer"),
        }
    }

    /// Has a side opened again at the next opportunity.
    pub(super) fn miss(&mut self, side: Side, reason: &str) {
        if side == Side::Underlay {
            self.underlay.forget();
        }
        if self.lost.insert(side, reason.to_owned()).as_deref() != Some(reason) {
            tracing::warn!(?side, reason, "a side of the node is lost, will be opened again");
        }
    }

    /// AF_XDP's queue is tried again at the next opportunity; meanwhile frames leave by the packet socket.
    pub(super) fn miss_queue(&mut self) {
        self.lost.insert(Side::Underlay, "AF_XDP's queue is still the other daemon's".into());
    }

    /// Opens again what was lost.
    pub(super) fn reopen(&mut self) {
        for side in self.lost.keys().copied().collect::<Vec<_>>() {
            let opened = match side {
                Side::Host => self.open_host(),
                Side::Underlay => self.open_underlay(),
            };
            match opened {
                Ok(()) => {
                    self.lost.remove(&side);
                    tracing::info!(?side, "opened again");
                }
                Err(error) => self.miss(side, &error.to_string()),
            }
        }
    }

    fn open_host(&mut self) -> Result<(), AgentError> {
        let Some(name) = self.config.host_interface.as_deref() else { return Ok(()) };
        let host = HostInterface::open(name, &self.plan, self.mtu.bytes, self.site())?;
        host.persist();
        self.host = Some(host);
        Ok(())
    }

    fn open_underlay(&mut self) -> Result<(), AgentError> {
        let needs = needs(&self.plan)?;
        if needs != *self.underlay.needs() {
            return self.reconcile();
        }
        self.underlay = self.opened(needs)?;
        Ok(self.underlay.follow(own_prefixes(&self.plan), &next_hops::peers(&self.plan))?)
    }

    /// The underlay anew.
    pub(super) fn opened(&self, needs: Needs) -> Result<Underlay, AgentError> {
        let before = &self.underlay;
        Ok(Underlay::open(needs, self.site(), before.descriptors(), Some(before))?)
    }
}
