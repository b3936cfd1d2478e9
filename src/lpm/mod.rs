//! Longest prefix match.

/// An IP prefix of either family, in canonical form (host bits zero) wherever margay stores one.
pub type Prefix = ipnet::IpNet;
