//! Cutting and joining: one is the other's inverse, and the kernel agrees.

mod joining;
mod kernel;
mod streams;
mod taps;
