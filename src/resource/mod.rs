//! Calico v3 resources, parsed and validated.
