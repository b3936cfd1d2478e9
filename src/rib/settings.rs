//! What Felix's configuration says for one node.

use super::Settings;
use crate::resource::{FelixConfiguration, MtuSetting, Resources, Scope};

/// What Felix is told of a field: by its environment, the node's own configuration, `default`, field by field.
pub(super) fn felix<T>(
    resources: &Resources,
    node: &str,
    field: impl Fn(&FelixConfiguration) -> Option<T>,
) -> Option<T> {
    let of = |scope: Scope| resources.felix.iter().find(|felix| felix.scope == scope);
    let layers = [of(Scope::Environment), of(Scope::Node(node.to_owned())), of(Scope::Everywhere)];
    layers.into_iter().flatten().find_map(field)
}

/// The settings of the data plane, with Felix's defaults.
pub(super) fn settings(resources: &Resources, node: &str) -> Settings {
    let bytes = |setting: Option<MtuSetting>| match setting {
        Some(MtuSetting::Bytes(bytes)) => Some(bytes),
        Some(MtuSetting::Auto) | None => None,
    };
    let allowed =
        |field: fn(&FelixConfiguration) -> Option<bool>| felix(resources, node, field).unwrap_or(false);
    Settings {
        vxlan_port: felix(resources, node, |felix| felix.vxlan_port).unwrap_or(4789),
        vxlan_vni: felix(resources, node, |felix| felix.vxlan_vni).unwrap_or(4096),
        vxlan_mtu: bytes(felix(resources, node, |felix| felix.vxlan_mtu)),
        vxlan_mtu_v6: bytes(felix(resources, node, |felix| felix.vxlan_mtu_v6)),
        ipip_mtu: bytes(felix(resources, node, |felix| felix.ipip_mtu)),
        mtu: bytes(felix(resources, node, |felix| felix.mtu)),
        allow_ipip_from_workloads: allowed(|felix| felix.allow_ipip_from_workloads),
        allow_vxlan_from_workloads: allowed(|felix| felix.allow_vxlan_from_workloads),
        mtu_iface_pattern: felix(resources, node, |felix| felix.mtu_iface_pattern.clone()),
    }
}
