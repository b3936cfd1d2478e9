//! Margay: a userspace vRouter for pods, wire-compatible with Calico.
//!
//! # Layers
//!
//! A module imports only from layers below it, or from its own (`tests/layers.rs` holds this true).
//!
//! | layer | modules | may do |
//! |---|---|---|
//! | 0 pure | [`wire`], [`lpm`], [`verdict`], [`resource`], [`rib`], [`fib`], [`capture`] | no I/O, clock or thread |
//! | 1 machine | [`sys`], [`buf`], [`io`] | system calls; `unsafe` in `sys` and `buf` |
//! | 2 engine | [`dataplane`], [`slowpath`] | no knowledge of files, sockets' names, resources |
//! | 3 daemon | [`agent`], [`datastore`], [`control`], [`cli`], [`testbed`] | everything below |
//!
//! Control plane and data plane meet in one type, the immutable [`fib::Fib`] snapshot: the agent
//! builds and publishes it, a worker picks it up at most once per turn and only reads.

pub mod capture;
pub mod fib;
pub mod lpm;
pub mod resource;
pub mod rib;
pub mod verdict;
pub mod wire;

pub mod buf;
pub mod io;
pub mod sys;

pub mod dataplane;
pub mod slowpath;

pub mod agent;
pub mod cli;
pub mod control;
pub mod datastore;
pub mod testbed;
