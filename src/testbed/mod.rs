//! Namespaces for the demo, tests and benches.
