//! Desired state to running state.
