//! Queueing disciplines: what `tc qdisc show` does.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcMessage};

use super::error::Result;
use super::{LinkIndex, Netlink};

impl Netlink {
    /// Whether anything stands between the kernel and the driver of a link: a queueing discipline, or `clsact`, which
    /// has filters for what leaves.
    ///
    /// # Errors
    /// What the kernel answers; needs no privilege.
    pub fn is_queued(&mut self, dev: LinkIndex) -> Result<bool> {
        let answers = self
            .dump(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()))
            .map_err(|cause| cause.during("list queueing disciplines"))?;
        let queues = |answer: &RouteNetlinkMessage| match answer {
            RouteNetlinkMessage::NewQueueDiscipline(message) => {
                let passes = |kind: &str| matches!(kind, "noqueue" | "ingress");
                let is_pass =
                    |attribute: &TcAttribute| matches!(attribute, TcAttribute::Kind(kind) if passes(kind));
                message.header.index as u32 == dev.0 && !message.attributes.iter().any(is_pass)
            }
            _ => false,
        };
        Ok(answers.iter().any(queues))
    }
}
