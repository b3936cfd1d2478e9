//! Endpoints.

use serde::{Deserialize, Serialize};

use super::Account;
use crate::agent::{Agent, counts};
use crate::dataplane::Party;
use crate::resource::Attach;

/// A WorkloadEndpoint of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// `namespace/name` of the resource.
    pub name: String,
    /// `namespace/pod`.
    pub workload: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// `tap` or `veth`.
    pub attach: String,
    /// TAP: the interface in the workload's namespace; veth: the host end.
    pub interface: String,
    /// It is attached: packets reach it.
    pub attached: bool,
    /// How it is attached; or why it is not.
    pub how: String,
    /// IP MTU of its interface, while it is attached.
    pub mtu: Option<u16>,
    /// The workload's network namespace.
    pub netns: Option<String>,
    /// The workload's MAC, where the resource names it.
    pub mac: Option<String>,
    /// What is counted with it.
    #[serde(flatten)]
    pub account: Account,
}

impl Endpoint {
    pub(crate) fn list(agent: &Agent) -> Vec<Self> {
        let by_party = counts::by_party(agent);
        let view = |plan: &crate::rib::EndpointPlan| {
            let attached = agent.endpoints.get(&plan.name);
            let account = attached
                .map(|attached| Account::of(&by_party, Party::Endpoint(attached.id)))
                .unwrap_or_default();
            let missing =
                || agent.failed.get(&plan.name).cloned().unwrap_or_else(|| "not attached yet".into());
            Endpoint {
                name: plan.name.clone(),
                workload: plan.workload.clone(),
                addresses: plan.addresses.iter().map(ToString::to_string).collect(),
                attach: match plan.attach {
                    Attach::Tap => "tap".into(),
                    Attach::Veth => "veth".into(),
                },
                interface: plan.interface.clone(),
                attached: attached.is_some(),
                how: attached.map_or_else(missing, |attached| attached.how.clone()),
                mtu: attached.map(|attached| attached.mtu()),
                netns: plan.netns.as_ref().map(|path| path.display().to_string()),
                mac: plan.mac.map(|mac| mac.to_string()),
                account,
            }
        };
        agent.plan.endpoints.iter().map(view).collect()
    }
}
