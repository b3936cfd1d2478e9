//! Out by AF_XDP: frames are copied to where the kernel takes many of them with one call. What it does not take is
//! left to the packet socket.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::offload::{MAX_HEAD, Outer, SuperFrame};
use super::vnet;
use crate::buf::{Frame, Pool, Segments};
use crate::sys::xdp::{ROOM, Sender};
use crate::wire::ethernet;

/// Largest IP MTU of an interface whose frames all have room.
pub const MAX_MTU: u16 = (ROOM - ethernet::HEADER_LEN) as u16;

/// One worker's sender on one interface. A queue of an interface takes one sender only, so the ports that follow
/// each other share it.
#[derive(Debug, Clone)]
pub struct Express {
    sender: Arc<Mutex<Sender>>,
}

impl Express {
    /// By an interface of [`MAX_MTU`] at most: what is longer than there is room for, is left.
    pub fn new(sender: Arc<Mutex<Sender>>) -> Self {
        Express { sender }
    }

    /// Sends frames of a batch, dressed for a packet socket with an outer IPv4 header; takes the places of those out
    /// of `places`, and says how many they were. Once one has no room those behind it are left as well: their flows
    /// stay in order.
    pub(super) fn send(&self, pool: &Pool, batch: &[Frame], places: &mut Vec<u16>) -> u64 {
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let before = places.len();
        // What an interface that was down or full has kept, goes first.
        let mut has_room = sender.send().is_ok();
        places.retain(|place| {
            let frame = &batch[usize::from(*place)];
            has_room = has_room && self.has_room(&mut sender, frame);
            !(has_room && self.carry(&mut sender, pool.bytes(frame), frame.offload.segments))
        });
        // What stays in the ring leaves with the next batch.
        let _ = sender.send();
        (before - places.len()) as u64
    }

    fn has_room(&self, sender: &mut MutexGuard<'_, Sender>, frame: &Frame) -> bool {
        let most = match frame.offload.segments {
            Some(segments) => frame.len().div_ceil(usize::from(segments.size).max(1)),
            None => 1,
        };
        sender.has_room(most) || (sender.send().is_ok() && sender.has_room(most))
    }

    /// Writes a frame, cut if it is to be; false, and nothing done, if it cannot be, or is longer than there is room.
    fn carry(&self, sender: &mut Sender, bytes: &[u8], segments: Option<Segments>) -> bool {
        let Some(segments) = segments else {
            let frame = bytes.get(vnet::LEN..).unwrap_or_default();
            return frame.len() <= ROOM && write(sender, frame, &[]);
        };
        let Some(whole) = SuperFrame::parse(bytes, Outer::LinkIpip, segments) else { return false };
        let head_len = whole.head_len();
        if head_len - vnet::LEN + whole.payload(0).len() > ROOM {
            return false;
        }
        let mut head = [0; MAX_HEAD];
        (0..whole.count()).all(|index| {
            whole.write_head(index, &mut head[..head_len]);
            write(sender, &head[vnet::LEN..head_len], whole.payload(index))
        })
    }
}

fn write(sender: &mut Sender, head: &[u8], payload: &[u8]) -> bool {
    let Some(out) = sender.frame(head.len() + payload.len()) else { return false };
    let (start, rest) = out.split_at_mut(head.len());
    start.copy_from_slice(head);
    rest.copy_from_slice(payload);
    true
}
