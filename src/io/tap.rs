//! TAP and TUN: workloads' interfaces and the host interface. One read a frame, one write a frame or a run of
//! frames that can be joined.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use super::join::{MAX_RUN, Run, Takes, join};
use super::offload::{MAX_HEAD, Outer, SuperFrame, complete_checksum};
use super::{BATCH, PATIENCE, Port, Rx, TxReport, vnet};
use crate::buf::{Frame, Pool, Segmentation, Segments};
use crate::sys::mmsg;
use crate::sys::tun::{Layer, Offloads};
use crate::wire::ethernet;

/// Bytes that are read in one go, about: what was read is to be in the processor's cache still when it is sent.
const BATCH_BYTES: usize = 512 << 10;

/// One queue of an interface, as one worker uses it. Every worker may send; one receives.
#[derive(Debug)]
pub struct TapPort {
    file: Arc<File>,
    layer: Layer,
    offloads: Offloads,
}

impl TapPort {
    /// A port over a queue that [`tun::open`](crate::sys::tun::open) made, of an interface with these offloads.
    pub fn new(file: Arc<File>, layer: Layer, offloads: Offloads) -> Self {
        TapPort { file, layer, offloads }
    }

    /// Bytes in front of the IP packet.
    fn l2(&self) -> usize {
        match self.layer {
            Layer::Tap => ethernet::HEADER_LEN,
            Layer::Tun => 0,
        }
    }

    fn received(&self, pool: &Pool, frame: &mut Frame) {
        if self.offloads.has_header() {
            vnet::receive(pool, frame, self.l2());
        }
    }

    /// What the interface takes whole.
    fn takes(&self) -> Takes {
        Takes { tcp: self.offloads.has_tso(), udp: self.offloads.has_uso() }
    }

    /// One frame as it is, or cut where the interface does not take it whole.
    fn send(&self, pool: &Pool, frame: &Frame, report: &mut TxReport) {
        let bytes = pool.bytes(frame);
        let takes = match frame.offload.segments.map(|segments| segments.kind) {
            None => true,
            Some(Segmentation::Udp) => self.takes().udp,
            Some(_) => self.takes().tcp,
        };
        if !takes {
            return self.cut(bytes, frame.offload.segments, report);
        }
        let ip = bytes.get(self.l2()..).unwrap_or_default();
        let header = vnet::encode(frame.offload, self.l2() as u16, ip);
        self.write(&[self.in_front(&header), IoSlice::new(bytes)], 1, report);
    }

    /// Without a virtio-net header nothing can be left to the kernel.
    fn complete(&self, pool: &mut Pool, frame: &mut Frame) {
        if let Some(ip) = pool.bytes_mut(frame).get_mut(self.l2()..) {
            frame.offload = complete_checksum(ip, frame.offload);
        }
    }

    /// A run of frames as one.
    fn send_run(&self, run: &Run<'_, '_>, report: &mut TxReport) {
        let mut head = [0; MAX_HEAD];
        let (len, offload) = run.write_head(&mut head);
        let header = vnet::encode_head(offload, run.family(), self.l2() as u16, len as u16);
        let mut slices = [IoSlice::new(&[]); MAX_RUN + 2];
        slices[0] = self.in_front(&header);
        slices[1] = IoSlice::new(&head[..len]);
        for (slice, payload) in slices[2..].iter_mut().zip(run.payloads()) {
            *slice = IoSlice::new(payload);
        }
        self.write(&slices[..2 + run.count()], run.count() as u64, report);
    }

    /// A super-frame for an interface that does not know its kind.
    fn cut(&self, bytes: &[u8], segments: Option<Segments>, report: &mut TxReport) {
        let outer = match self.layer {
            Layer::Tap => Outer::Ethernet,
            Layer::Tun => Outer::None,
        };
        let super_frame = segments.and_then(|segments| SuperFrame::parse(bytes, outer, segments));
        let Some(super_frame) = super_frame else { return report.failed += 1 };
        let mut head = [0; MAX_HEAD];
        let mut pieces = TxReport::default();
        for index in 0..super_frame.count() {
            let head = &mut head[..super_frame.head_len()];
            super_frame.write_head(index, head);
            let payload = IoSlice::new(super_frame.payload(index));
            self.write(&[self.in_front(&[0; vnet::LEN]), IoSlice::new(head), payload], 1, &mut pieces);
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

    /// The virtio-net header, or nothing where the interface has none.
    fn in_front<'a>(&self, header: &'a [u8; vnet::LEN]) -> IoSlice<'a> {
        IoSlice::new(if self.offloads.has_header() { header } else { &[] })
    }

    /// A write takes the whole frame or nothing; `frames` is how many it stands for.
    #[expect(clippy::unused_io_amount, reason = "tun(4) has no partial writes")]
    fn write(&self, slices: &[IoSlice<'_>], frames: u64, report: &mut TxReport) {
        match (&*self.file).write_vectored(slices) {
            Ok(_) => report.sent += frames,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                mmsg::wait_writable(self.file.as_fd(), PATIENCE);
                match (&*self.file).write_vectored(slices) {
                    Ok(_) => report.sent += frames,
                    Err(_) => report.full += frames,
                }
            }
            Err(error) => {
                report.failed += frames - 1;
                report.refuse(error);
            }
        }
    }
}

impl Port for TapPort {
    fn rx(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> io::Result<Rx> {
        let mut bytes = 0;
        for _ in 0..BATCH {
            if bytes >= BATCH_BYTES {
                break;
            }
            let Some(mut frame) = pool.take() else { return Ok(Rx::More) };
            match (&*self.file).read(pool.room(&frame)) {
                Ok(len) => {
                    bytes += len;
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
        if !self.offloads.has_header() {
            batch.iter_mut().for_each(|frame| self.complete(pool, frame));
        }
        match batch.len() > 1 && self.offloads.has_tso() {
            true => join(pool, batch, self.l2(), self.takes(), |run| match run.count() {
                1 => self.send(pool, run.first(), &mut report),
                _ => self.send_run(&run, &mut report),
            }),
            false => batch.iter().for_each(|frame| self.send(pool, frame, &mut report)),
        }
        batch.drain(..).for_each(|frame| pool.put(frame));
        report
    }

    fn readiness(&self) -> Option<RawFd> {
        Some(self.file.as_raw_fd())
    }
}
