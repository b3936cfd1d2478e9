//! Routing policy rules: what `ip rule` does.

use std::fmt;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use super::error::Result;
use super::{Netlink, number};
use crate::wire::Family;

/// "What comes in by `iif` is looked up in `table`."
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Which family's packets.
    pub family: Family,
    /// Link that they came in by, by name; all when absent.
    pub iif: Option<String>,
    /// Table that decides: 254 is `main`.
    pub table: u32,
    /// Rules are tried from low to high; `local` is at 0, `main` at 32766.
    pub priority: u32,
    /// Who made it, as for routes.
    pub protocol: u8,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}:", self.priority)?;
        if let Some(iif) = &self.iif {
            write!(f, " iif {iif}")?;
        }
        write!(f, " lookup {}", self.table)
    }
}

impl Netlink {
    /// Adds a rule.
    ///
    /// # Errors
    /// [`super::ErrorKind::Exists`].
    pub fn add_rule(&mut self, rule: &Rule) -> Result<()> {
        self.change(RouteNetlinkMessage::NewRule(message(rule)), NLM_F_CREATE | NLM_F_EXCL)
            .map_err(|cause| cause.during(format!("add {rule}")))
    }

    /// Deletes a rule that has all these values.
    ///
    /// # Errors
    /// [`super::ErrorKind::NotFound`].
    pub fn delete_rule(&mut self, rule: &Rule) -> Result<()> {
        self.change(RouteNetlinkMessage::DelRule(message(rule)), 0)
            .map_err(|cause| cause.during(format!("delete {rule}")))
    }

    /// The rules of a family that look up a table, by priority.
    ///
    /// # Errors
    /// What the kernel answers; needs no privilege.
    pub fn rules(&mut self, family: Family) -> Result<Vec<Rule>> {
        let mut message = RuleMessage::default();
        message.header.family = number(family);
        let answers =
            self.dump(RouteNetlinkMessage::GetRule(message)).map_err(|cause| cause.during("list rules"))?;
        Ok(answers.into_iter().filter_map(|answer| rule_of(answer, family)).collect())
    }
}

fn message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = number(rule.family);
    message.header.action = RuleAction::ToTable;
    // As for routes: the header's table has 8 bits, the attribute has them all.
    message.header.table = u8::try_from(rule.table).unwrap_or(0);
    message.attributes.push(RuleAttribute::Table(rule.table));
    message.attributes.push(RuleAttribute::Priority(rule.priority));
    message.attributes.push(RuleAttribute::Protocol(rule.protocol.into()));
    message.attributes.extend(rule.iif.clone().map(RuleAttribute::Iifname));
    message
}

fn rule_of(answer: RouteNetlinkMessage, family: Family) -> Option<Rule> {
    let RouteNetlinkMessage::NewRule(message) = answer else { return None };
    if message.header.action != RuleAction::ToTable {
        return None;
    }
    let mut rule = Rule { family, iif: None, table: message.header.table.into(), priority: 0, protocol: 0 };
    for attribute in message.attributes {
        match attribute {
            RuleAttribute::Iifname(name) => rule.iif = Some(name),
            RuleAttribute::Table(table) => rule.table = table,
            RuleAttribute::Priority(priority) => rule.priority = priority,
            RuleAttribute::Protocol(protocol) => rule.protocol = protocol.into(),
            _ => {}
        }
    }
    Some(rule)
}
