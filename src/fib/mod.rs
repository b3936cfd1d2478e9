//! The compiled snapshot that workers read.
