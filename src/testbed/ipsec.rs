//! An IPsec policy, for tests of what heeds them.

use std::io;

use netlink_sys::{Socket, protocols::NETLINK_XFRM};

use crate::sys::ipsec::{HEADER_LEN, XFRM_MSG_NEWPOLICY, message};

/// Adds a policy to the network namespace of the calling thread: what goes out from 192.0.2.0/24 to itself may pass.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN over the namespace; EPROTONOSUPPORT on a kernel without XFRM.
pub fn add_ipsec_policy() -> io::Result<()> {
    // xfrm_userpolicy_info: selector 56, lifetimes 64 and 32, priority, index, direction, action, flags, share.
    let mut policy = [0; 168];
    for address in [0, 16] {
        policy[address..address + 4].copy_from_slice(&[192, 0, 2, 0]);
    }
    policy[40..42].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    policy[42..44].fill(24);
    // No limits in bytes and packets.
    policy[56..88].fill(0xff);
    // Outwards.
    policy[160] = 1;
    let mut socket = Socket::new(NETLINK_XFRM)?;
    socket.bind_auto()?;
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    socket.send(&message(XFRM_MSG_NEWPOLICY, flags, &policy), 0)?;
    let mut answer = Vec::with_capacity(4096);
    socket.recv(&mut answer, 0)?;
    let errno = answer.get(HEADER_LEN..).and_then(|errno| errno.first_chunk());
    match errno.map_or(-libc::EIO, |errno| i32::from_ne_bytes(*errno)) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(-errno)),
    }
}
