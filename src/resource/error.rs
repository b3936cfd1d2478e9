//! What is wrong with a text or a resource, and what is merely without effect.

use std::fmt;
use std::sync::Arc;

use super::Origin;

/// A mistake in the desired state. Its text says where, what was found and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    /// The text is neither YAML nor JSON, or is beyond a limit.
    #[error("{text}, document {}: {problem}", after + 1)]
    Text {
        /// Name of the text.
        text: Arc<str>,
        /// Documents that could be read before the mistake.
        after: u32,
        /// The parser's words.
        problem: String,
    },
    /// A field is missing, wrong, or in conflict with another resource.
    #[error("{origin}: {}{problem}", subject_and_path(subject, path))]
    Field {
        /// Where the resource was read.
        origin: Origin,
        /// Kind and name, empty where they could not be read.
        subject: String,
        /// The field, as `spec.bgp.ipv4Address`.
        path: String,
        /// What was found and what is allowed.
        problem: String,
    },
}

fn subject_and_path(subject: &str, path: &str) -> String {
    [subject, path].iter().filter(|part| !part.is_empty()).map(|part| format!("{part}: ")).collect()
}

/// Something accepted that has no effect. Each is reported once, however often it stands in the texts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notice {
    /// A kind of resource that margay does not use.
    UnusedKind {
        /// `apiVersion`.
        api_version: String,
        /// `kind`.
        kind: String,
    },
    /// A field that margay does not use.
    UnusedField {
        /// Kind of the resource.
        kind: &'static str,
        /// Field, as `spec.nodeSelector`.
        path: String,
    },
    /// A FelixConfiguration that is neither `default` nor `node.<name>`.
    UnusedFelixConfiguration {
        /// Its name.
        name: String,
    },
    /// A block that belongs to no node but to a load balancer (`spec.type: virtual`).
    VirtualBlock,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::UnusedKind { api_version, kind } => {
                write!(f, "kind {kind} ({api_version}) is not used")
            }
            Notice::UnusedField { kind, path } => write!(f, "{kind} {path} is not used"),
            Notice::UnusedFelixConfiguration { name } => {
                write!(f, "FelixConfiguration {name} is not used: only `default` and `node.<name>` are")
            }
            Notice::VirtualBlock => {
                write!(f, "BlockAffinity of type virtual is not used: no node holds its addresses")
            }
        }
    }
}
