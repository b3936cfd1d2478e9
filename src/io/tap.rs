//! TAP and TUN: workloads' interfaces and the host interface. One read or write a frame.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use super::offload::{MAX_HEAD, Outer, SuperFrame, complete_checksum};
use super::{BATCH, PATIENCE, Port, Rx, TxReport, vnet};
use crate::buf::{Frame, Pool};
use crate::sys::mmsg;
use crate::sys::tun::Layer;
use crate::wire::ethernet;

/// One queue of an interface, as one worker uses it. Every worker may send; one receives.
#[derive(Debug)]
pub struct TapPort {
    file: Arc<File>,
    layer: Layer,
    header: Header,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Header {
    Vnet,
    Plain,
}

impl TapPort {
    /// A port over a queue that [`tun::open`](crate::sys::tun::open) made.
    pub fn new(file: Arc<File>, layer: Layer, has_vnet_header: bool) -> Self {
        let header = if has_vnet_header { Header::Vnet } else { Header::Plain };
        TapPort { file, layer, header }
    }

    /// Bytes in front of the IP packet.
    fn l2(&self) -> usize {
        match self.layer {
            Layer::Tap => ethernet::HEADER_LEN,
            Layer::Tun => 0,
        }
    }

    fn received(&self, pool: &Pool, frame: &mut Frame) {
        if self.header == Header::Vnet {
            match pool.bytes(frame).first_chunk() {
                Some(header) => frame.offload = vnet::decode(header, self.l2() as u16),
                None => frame.truncate(0),
            }
            frame.strip(vnet::LEN);
        }
    }

    fn send(&self, pool: &mut Pool, frame: &mut Frame, report: &mut TxReport) {
        match self.header {
            Header::Vnet => {
                let ip = pool.bytes(frame).get(self.l2()..).unwrap_or_default();
                let header = vnet::encode(frame.offload, self.l2() as u16, ip);
                self.write(&[IoSlice::new(&header), IoSlice::new(pool.bytes(frame))], report);
            }
            Header::Plain if frame.offload.segments.is_some() => self.cut(pool, frame, report),
            Header::Plain => {
                if let Some(ip) = pool.bytes_mut(frame).get_mut(self.l2()..) {
                    frame.offload = complete_checksum(ip, frame.offload);
                }
                self.write(&[IoSlice::new(pool.bytes(frame))], report);
            }
        }
    }

    /// A super-frame for an interface that knows none.
    fn cut(&self, pool: &Pool, frame: &Frame, report: &mut TxReport) {
        let outer = match self.layer {
            Layer::Tap => Outer::Ethernet,
            Layer::Tun => Outer::None,
        };
        let super_frame =
            frame.offload.segments.and_then(|segments| SuperFrame::parse(pool.bytes(frame), outer, segments));
        let Some(super_frame) = super_frame else { return report.failed += 1 };
        let mut head = [0; MAX_HEAD];
        let mut pieces = TxReport::default();
        for index in 0..super_frame.count() {
            let head = &mut head[..super_frame.head_len()];
            super_frame.write_head(index, head);
            self.write(&[IoSlice::new(head), IoSlice::new(super_frame.payload(index))], &mut pieces);
        }
        // One frame came, one outcome goes: the worst.
        match pieces {
            TxReport { failed: 1.., error, .. } => {
                report.failed += 1;
                report.error = error;
            }
            TxReport { full: 1.., .. } => report.full += 1,
            _ => report.sent += 1,
        }
    }

    /// A write takes the whole frame or nothing.
    #[expect(clippy::unused_io_amount, reason = "tun(4) has no partial writes")]
    fn write(&self, slices: &[IoSlice<'_>], report: &mut TxReport) {
        match (&*self.file).write_vectored(slices) {
            Ok(_) => report.sent += 1,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                mmsg::wait_writable(self.file.as_fd(), PATIENCE);
                match (&*self.file).write_vectored(slices) {
                    Ok(_) => report.sent += 1,
                    Err(_) => report.full += 1,
                }
            }
            Err(error) => report.refuse(error),
        }
    }
}

impl Port for TapPort {
    fn rx(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> io::Result<Rx> {
        for _ in 0..BATCH {
            let Some(mut frame) = pool.take() else { return Ok(Rx::More) };
            match (&*self.file).read(pool.room(&frame)) {
                Ok(len) => {
                    pool.filled(&mut frame, len);
                    self.received(pool, &mut frame);
                    batch.push(frame);
                }
                Err(error) => {
                    pool.put(frame);
                    return match error.kind() {
                        io::ErrorKind::WouldBlock => Ok(Rx::Drained),
                        io::ErrorKind::Interrupted => Ok(Rx::More),
                        _ => Err(error),
                    };
                }
            }
        }
        Ok(Rx::More)
    }

    fn tx(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> TxReport {
        let mut report = TxReport::default();
        for mut frame in batch.drain(..) {
            self.send(pool, &mut frame, &mut report);
            pool.put(frame);
        }
        report
    }

    fn readiness(&self) -> Option<RawFd> {
        Some(self.file.as_raw_fd())
    }
}
