//! Calico's resources, parsed and validated: the desired state.
//!
//! [`parse`] turns one text (YAML with any number of documents, or JSON) into typed resources;
//! [`Resources::build`] puts the texts of a source together and holds them to the rules that span
//! resources (pools do not overlap, an address has one endpoint, …). Both are pure, accept any text
//! without a panic, and report every mistake they find, not the first one only.
//!
//! Read are `Node`, `IPPool`, `BlockAffinity`, `WorkloadEndpoint` and `FelixConfiguration` of
//! `projectcalico.org/v3` (`crd.projectcalico.org/v1` is taken too: the same objects as the
//! Kubernetes API server stores them). Other kinds, and fields that say nothing to a data plane, are
//! accepted and named in a [`Notice`]; a field that margay uses and that is wrong is a
//! [`ResourceError`] with file, document, field path, what was found and what is allowed.
//!
//! What Calico's resources lack stands in annotations:
//!
//! | of a | annotation | value | default |
//! |---|---|---|---|
//! | WorkloadEndpoint | `margay.dev/netns` | absolute path of the workload's network namespace, or a process id | none |
//! | WorkloadEndpoint | `margay.dev/attach` | `tap` or `veth` | `tap` |
//! | WorkloadEndpoint | `margay.dev/queues` | 1 to 16 | 1 |
//! | IPPool | `margay.dev/tcp-mss-clamp` | `off` or `auto` | `off` |

mod block_affinity;
mod endpoint;
mod error;
mod felix;
mod node;
mod pool;
mod section;
mod set;
mod text;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

pub use block_affinity::{BlockAffinity, Claim};
pub use endpoint::{Attach, MAX_QUEUES, WorkloadEndpoint};
pub use error::{Notice, ResourceError};
pub use felix::{FelixConfiguration, MtuSetting, Scope};
pub use node::{Node, vtep_mac_v4, vtep_mac_v6};
pub use pool::{IpPool, Mode, MssClamp, PoolUse};
pub use set::Resources;

use section::Report;

/// Where a resource was read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// Name of the text, normally the file's.
    pub source: Arc<str>,
    /// Document in it, from 1; documents without content are not counted.
    pub document: u32,
    /// Position in the document's `items`, from 1, where the document is a list.
    pub item: Option<u32>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, document {}", self.source, self.document)?;
        match self.item {
            Some(item) => write!(f, ", item {item}"),
            None => Ok(()),
        }
    }
}

/// What every resource has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// `metadata.name`; with the namespace in front (`default/web`) for a namespaced kind.
    pub name: String,
    /// Where it was read.
    pub origin: Origin,
}

/// A resource that margay uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// A node of the cluster.
    Node(Node),
    /// A range of workload addresses and its encapsulation.
    IpPool(IpPool),
    /// A block of addresses that belongs to a node.
    BlockAffinity(BlockAffinity),
    /// A workload's attachment.
    WorkloadEndpoint(WorkloadEndpoint),
    /// Settings.
    FelixConfiguration(FelixConfiguration),
}

/// What one text held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Resources without a mistake in themselves.
    pub resources: Vec<Resource>,
    /// What was accepted without effect, each once.
    pub notices: BTreeSet<Notice>,
    /// Mistakes, in the order of the text.
    pub errors: Vec<ResourceError>,
}

/// Longest text that [`parse`] takes, in bytes: 64 MiB hold more than 100,000 resources.
pub const MAX_TEXT: usize = 64 << 20;

/// Parses one text: JSON if it begins with `{` or `[`, else YAML. `source` is the name that errors
/// give.
pub fn parse(source: &str, text: &str) -> Parsed {
    let source: Arc<str> = source.into();
    let mut parsed = Parsed::default();
    let mut document = 0;
    let outcome = text::documents(text, |value| {
        document += 1;
        let origin = Origin { source: source.clone(), document, item: None };
        parsed.object(origin, &value, None);
    });
    if let Err(problem) = outcome {
        parsed.errors.push(ResourceError::Text { text: source, after: document, problem });
    }
    parsed
}

/// What says which kind an object is.
#[derive(Clone, Copy)]
struct TypeMeta<'a> {
    api_version: &'a str,
    kind: &'a str,
}

/// API groups and versions whose objects are Calico's v3 resources.
const API_VERSIONS: [&str; 2] = ["projectcalico.org/v3", "crd.projectcalico.org/v1"];

const KINDS: [&str; 5] = ["Node", "IPPool", "BlockAffinity", "WorkloadEndpoint", "FelixConfiguration"];

impl Parsed {
    /// Takes one object; `inherited` is the type that a typed list gives items that do not name theirs.
    fn object(&mut self, origin: Origin, value: &Value, inherited: Option<TypeMeta<'_>>) {
        let mut report = Report::new(&origin, "", &mut self.errors, &mut self.notices);
        let Value::Object(object) = value else {
            return report.wrong("", value, "an object with apiVersion, kind, metadata and spec");
        };
        let mut text = |key: &str, fallback: Option<&'_ str>, want: &str| -> Option<String> {
            match (object.get(key), fallback) {
                (Some(Value::String(text)), _) => Some(text.clone()),
                (None, Some(fallback)) => Some(fallback.to_owned()),
                (None, None) => {
                    report.missing(key, want);
                    None
                }
                (Some(other), _) => {
                    report.wrong(key, other, want);
                    None
                }
            }
        };
        let api_version = text("apiVersion", inherited.map(|t| t.api_version), "projectcalico.org/v3");
        let kind = text("kind", inherited.map(|t| t.kind), "a kind such as Node or IPPool");
        let (Some(api_version), Some(kind)) = (api_version, kind) else { return };
        let meta = TypeMeta { api_version: &api_version, kind: &kind };

        if let Some(item_kind) = kind.strip_suffix("List") {
            return self.list(origin, object, TypeMeta { kind: item_kind, ..meta });
        }
        if !API_VERSIONS.contains(&meta.api_version) || !KINDS.contains(&meta.kind) {
            return self.foreign(&origin, meta);
        }
        self.resource(origin, object, meta.kind);
    }

    fn list(&mut self, origin: Origin, object: &Map<String, Value>, item: TypeMeta<'_>) {
        let mut report = Report::new(&origin, "", &mut self.errors, &mut self.notices);
        let items = match object.get("items") {
            Some(Value::Array(items)) => items,
            Some(Value::Null) => return,
            Some(other) => return report.wrong("items", other, "a list of objects"),
            None => return report.missing("items", "a list of objects"),
        };
        // The plain `List` of kubectl says nothing about its items; `IPPoolList` does.
        let inherited = (!item.kind.is_empty()).then_some(item);
        for (index, value) in (1..).zip(items) {
            let nested = value.get("items").is_some();
            let origin = Origin { item: Some(index), ..origin.clone() };
            if nested {
                let mut report = Report::new(&origin, "", &mut self.errors, &mut self.notices);
                report.problem("items", "a list inside a list is not a resource");
            } else {
                self.object(origin, value, inherited);
            }
        }
    }

    /// A kind that margay does not use, unless it is one of Calico's under a version that we do not know.
    fn foreign(&mut self, origin: &Origin, meta: TypeMeta<'_>) {
        let calico = meta.api_version.contains("calico");
        if calico && KINDS.contains(&meta.kind) {
            let mut report = Report::new(origin, meta.kind, &mut self.errors, &mut self.notices);
            return report.wrong(
                "apiVersion",
                &Value::from(meta.api_version),
                "projectcalico.org/v3 or crd.projectcalico.org/v1",
            );
        }
        self.notices.insert(Notice::UnusedKind {
            api_version: section::excerpt(meta.api_version),
            kind: section::excerpt(meta.kind),
        });
    }

    fn resource(&mut self, origin: Origin, object: &Map<String, Value>, kind: &str) {
        let namespaced = kind == "WorkloadEndpoint";
        let found = self.errors.len();
        let mut report = Report::new(&origin, kind, &mut self.errors, &mut self.notices);
        let Some(name) = section::name(object, namespaced, &mut report) else { return };
        report.subject = format!("{kind} {name}");
        let meta = Meta { name, origin: origin.clone() };
        let resource = match kind {
            "Node" => node::read(meta, object, &mut report).map(Resource::Node),
            "IPPool" => pool::read(meta, object, &mut report).map(Resource::IpPool),
            "BlockAffinity" => block_affinity::read(meta, object, &mut report).map(Resource::BlockAffinity),
            "WorkloadEndpoint" => endpoint::read(meta, object, &mut report).map(Resource::WorkloadEndpoint),
            _ => felix::read(meta, object, &mut report).map(Resource::FelixConfiguration),
        };
        // A reader may go on after a mistake to find the next one: only a resource without any counts.
        if self.errors.len() == found {
            self.resources.extend(resource);
        }
    }
}
