//! `margay cleanup`: what outlasts the daemon goes.

use crate::agent::{self, AgentError};

/// Remove what margay has left in this network namespace and in its workloads'
///
/// The daemon leaves everything as it is when it ends, so that pods keep their interfaces and addresses until the next
/// one takes over. This is for who wants no next one: it removes the TAPs, the host interface, the rule for the underlay and its
/// table, and gives veths their MAC and MTU back. It refuses while a daemon runs. Needs what the daemon needs, and knows
/// by a remark on each interface (its alias, in ip link) what is margay's.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Carries it out.
///
/// # Errors
/// See [`agent::clean_up`].
pub fn run(Args {}: Args) -> Result<(), AgentError> {
    let removed = agent::clean_up()?;
    if removed.is_empty() {
        println!("nothing of margay's is here");
    }
    removed.iter().for_each(|what| println!("removed: {what}"));
    Ok(())
}
