//! Route netlink.
