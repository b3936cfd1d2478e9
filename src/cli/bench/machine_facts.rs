//! On what it was measured.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::utsname::uname;
use serde::Serialize;

/// What belongs beside every figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Facts {
    /// Version of margay.
    pub(super) margay: &'static str,
    /// A debug build: its figures mean nothing.
    pub(super) debug_build: bool,
    /// Release of the kernel.
    pub(super) kernel: String,
    /// Model of the processor.
    pub(super) cpu: String,
    /// Cores that everything was kept to.
    pub(super) cores: usize,
    /// When it began, seconds since 1970.
    pub(super) started_unix: u64,
}

impl Facts {
    pub(super) fn gather(cores: usize) -> Self {
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = |text: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        Self {
            margay: env!("CARGO_PKG_VERSION"),
            debug_build: cfg!(debug_assertions),
            kernel: uname()
                .map_or_else(|_| String::new(), |name| name.release().to_string_lossy().into_owned()),
            cpu: model(&processors).unwrap_or_else(|| std::env::consts::ARCH.into()),
            cores,
            started_unix: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
        }
    }
}
