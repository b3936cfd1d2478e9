//! One file per kernel facility; the only place for system calls.
#![allow(unsafe_code)]

pub mod netlink;
pub mod netns;
pub mod userns;
