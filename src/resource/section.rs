//! Reading the fields of an object: each access names the field once, and a wrong one is reported with
//! its path.
//!
//! Readers go on after a mistake, so that one pass reports them all; a missing or wrong field reads
//! as `None`, and [`super::Parsed`] throws the resource away if anything was reported.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::{Notice, Origin, ResourceError};
use crate::lpm::Prefix;
use crate::wire::MacAddr;

/// Where the mistakes and notices of one resource go.
pub(super) struct Report<'a> {
    origin: &'a Origin,
    /// Kind and name, as far as known.
    pub(super) subject: String,
    errors: &'a mut Vec<ResourceError>,
    notices: &'a mut BTreeSet<Notice>,
}

impl<'a> Report<'a> {
    pub(super) fn new(
        origin: &'a Origin,
        subject: &str,
        errors: &'a mut Vec<ResourceError>,
        notices: &'a mut BTreeSet<Notice>,
    ) -> Self {
        Report { origin, subject: subject.to_owned(), errors, notices }
    }

    pub(super) fn problem(&mut self, path: &str, problem: impl Into<String>) {
        self.errors.push(ResourceError::Field {
            origin: self.origin.clone(),
            subject: self.subject.clone(),
            path: path.to_owned(),
            problem: problem.into(),
        });
    }

    pub(super) fn missing(&mut self, path: &str, want: &str) {
        self.problem(path, format!("missing: want {want}"));
    }

    pub(super) fn wrong(&mut self, path: &str, found: &Value, want: &str) {
        self.problem(path, format!("{} is not {want}", show(found)));
    }

    pub(super) fn notice(&mut self, notice: Notice) {
        self.notices.insert(notice);
    }
}

/// Longest piece of a text that a message repeats, in characters.
const EXCERPT: usize = 60;

/// A text cut to what a message can hold, with control characters escaped.
pub(super) fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().take(EXCERPT).flat_map(char::escape_debug).collect();
    if text.chars().nth(EXCERPT).is_some() {
        short.push('…');
    }
    short
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => format!("\"{}\"", excerpt(text)),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        Value::Null => "nothing".into(),
        other => other.to_string(),
    }
}

/// An object of the resource, whose fields are taken one after the other.
pub(super) struct Section<'v> {
    path: &'static str,
    fields: Option<&'v Map<String, Value>>,
    taken: Vec<&'static str>,
}

impl<'v> Section<'v> {
    /// The object at `key` of `parent`; absent and null read as empty.
    pub(super) fn of(
        parent: &'v Map<String, Value>,
        key: &'static str,
        path: &'static str,
        report: &mut Report<'_>,
    ) -> Self {
        let fields = match parent.get(key) {
            None | Some(Value::Null) => None,
            Some(Value::Object(fields)) => Some(fields),
            Some(other) => {
                report.wrong(path, other, "an object");
                None
            }
        };
        Section { path, fields, taken: Vec::new() }
    }

    /// The object at `key` of this one.
    pub(super) fn section(&mut self, key: &'static str, path: &'static str, report: &mut Report<'_>) -> Self {
        self.taken.push(key);
        match self.fields {
            Some(fields) => Section::of(fields, key, path, report),
            None => Section { path, fields: None, taken: Vec::new() },
        }
    }

    fn path_of(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    /// The value at `key`, null and the empty text counting as absent, as in Calico.
    pub(super) fn value(&mut self, key: &'static str) -> Option<&'v Value> {
        self.taken.push(key);
        self.fields?.get(key).filter(|value| !value.is_null() && value.as_str() != Some(""))
    }

    /// A text that `read` understands; `want` says what is allowed.
    pub(super) fn text<T>(
        &mut self,
        key: &'static str,
        want: &str,
        report: &mut Report<'_>,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(key)?;
        let read = value.as_str().and_then(read);
        if read.is_none() {
            report.wrong(&self.path_of(key), value, want);
        }
        read
    }

    /// As [`Section::text`], and absence is a mistake.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        want: &str,
        report: &mut Report<'_>,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        if self.value(key).is_none() {
            report.missing(&self.path_of(key), want);
        }
        self.text(key, want, report, read)
    }

    pub(super) fn integer(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        report: &mut Report<'_>,
    ) -> Option<u64> {
        let value = self.value(key)?;
        let read = value.as_u64().filter(|number| range.contains(number));
        if read.is_none() {
            let want = format!("a whole number from {} to {}", range.start(), range.end());
            report.wrong(&self.path_of(key), value, &want);
        }
        read
    }

    pub(super) fn flag(&mut self, key: &'static str, report: &mut Report<'_>) -> Option<bool> {
        let value = self.value(key)?;
        if !value.is_boolean() {
            report.wrong(&self.path_of(key), value, "true or false");
        }
        value.as_bool()
    }

    /// The elements at `key` with their paths.
    pub(super) fn list(&mut self, key: &'static str, report: &mut Report<'_>) -> Vec<(String, &'v Value)> {
        let path = self.path_of(key);
        match self.value(key) {
            None => Vec::new(),
            Some(Value::Array(items)) => {
                items.iter().enumerate().map(|(i, item)| (format!("{path}[{i}]"), item)).collect()
            }
            Some(other) => {
                report.wrong(&path, other, "a list");
                Vec::new()
            }
        }
    }

    /// Notes the fields that nobody asked for.
    pub(super) fn finish(self, kind: &'static str, report: &mut Report<'_>) {
        for key in self.fields.into_iter().flat_map(Map::keys) {
            if !self.taken.contains(&key.as_str()) {
                let path = format!("{}.{}", self.path, excerpt(key));
                report.notice(Notice::UnusedField { kind, path });
            }
        }
    }

    /// Keys of this object that begin with `start`.
    pub(super) fn keys(&self, start: &str) -> impl Iterator<Item = &'v str> {
        self.fields
            .into_iter()
            .flat_map(Map::keys)
            .map(String::as_str)
            .filter(move |key| key.starts_with(start))
    }
}

/// `metadata.name`, after `namespace/` where the kind has namespaces (`default` unless given).
pub(super) fn name(object: &Map<String, Value>, namespaced: bool, report: &mut Report<'_>) -> Option<String> {
    let mut metadata = Section::of(object, "metadata", "metadata", report);
    let name = metadata.required("name", A_NAME, report, resource_name)?;
    if !namespaced {
        return Some(name);
    }
    let namespace = match metadata.value("namespace") {
        None => "default".to_owned(),
        Some(_) => metadata.text("namespace", A_NAME, report, resource_name)?,
    };
    Some(format!("{namespace}/{name}"))
}

pub(super) const A_NAME: &str = "a name (lower-case letters, digits, '-' and '.', at most 253 characters, first and last a letter or digit)";

/// A DNS subdomain (RFC 1123), which is what Calico and Kubernetes allow as a name.
pub(super) fn resource_name(text: &str) -> Option<String> {
    let label = |label: &str| {
        let bytes = label.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
        bytes.iter().all(inner) && bytes.first().is_some_and(|b| *b != b'-') && bytes.last() != Some(&b'-')
    };
    (text.len() <= 253 && text.split('.').all(label)).then(|| text.to_owned())
}

/// A prefix whose host bits are zero.
pub(super) fn canonical_prefix(
    section: &mut Section<'_>,
    key: &'static str,
    example: &str,
    report: &mut Report<'_>,
) -> Option<Prefix> {
    let want = format!("a prefix (e.g. {example})");
    let prefix = section.required(key, &want, report, |text| text.parse::<Prefix>().ok())?;
    if prefix.trunc() == prefix {
        return Some(prefix);
    }
    let path = section.path_of(key);
    report.problem(&path, format!("{prefix} has host bits set (want {})", prefix.trunc()));
    None
}

pub(super) fn ipv4(text: &str) -> Option<Ipv4Addr> {
    text.parse().ok().filter(|address| usable_v4(*address))
}

pub(super) fn ipv6(text: &str) -> Option<Ipv6Addr> {
    text.parse().ok().filter(|address| usable_v6(*address))
}

/// False for what no node or workload can have as its address.
pub(super) fn usable_v4(address: Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_multicast() || address.is_broadcast() || address.is_loopback())
}

/// As [`usable_v4`]. Nor one of a link alone, which no router forwards, nor one that embeds IPv4 in ::/96 or
/// ::ffff:0:0/96 (RFC 4291 2.5.5 and 2.5.6).
pub(super) fn usable_v6(address: Ipv6Addr) -> bool {
    !(address.is_multicast() || address.is_unicast_link_local() || address.to_ipv4().is_some())
}

pub(super) const A_MAC: &str = "a unicast Ethernet address (e.g. 66:f9:37:c3:7e:94)";

/// An address that one station can have.
pub(super) fn unicast_mac(text: &str) -> Option<MacAddr> {
    let mac: MacAddr = text.parse().ok()?;
    (!mac.is_multicast() && mac.0 != [0; 6]).then_some(mac)
}
