//! Settings of the network namespace in which the calling thread is: `/proc/sys/net`, sysctl(8).
//!
//! They are files, so a name has slashes: `net/ipv6/conf/eth0/disable_ipv6`. An interface's name may have dots.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

use super::door;

/// What a setting says.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] where the kernel does not have it, as all of `net/ipv6` in one without IPv6;
/// [`io::ErrorKind::Unsupported`] inside a namespace that this process may not enter.
pub fn read(name: &str) -> io::Result<String> {
    Ok(fs::read_to_string(path(name)?)?.trim_end().to_owned())
}

/// Makes a setting say `value`. Where it does already nothing is written: `/proc/sys` may be read-only.
///
/// # Errors
/// As [`read`]; EACCES without CAP_NET_ADMIN in the namespace, EROFS where a container has it read-only.
pub fn write(name: &str, value: &str) -> io::Result<()> {
    if read(name)? == value {
        return Ok(());
    }
    // As the sandbox lets it: for reading and writing, and so that no file is made or truncated.
    OpenOptions::new().read(true).write(true).open(path(name)?)?.write_all(value.as_bytes())
}

fn path(name: &str) -> io::Result<PathBuf> {
    if door::is_used() {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "settings of a namespace that may not be entered cannot be reached",
        ));
    }
    Ok(PathBuf::from("/proc/sys").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::netns::Netns;

    #[test]
    fn a_setting_is_that_of_the_namespace() {
        let name = "net/ipv4/ip_forward";
        let [here, there] = [(); 2].map(|()| Netns::create().unwrap());
        here.run(|| write(name, "1")).unwrap().unwrap();
        assert_eq!(here.run(|| read(name)).unwrap().unwrap(), "1");
        there.run(|| write(name, "0")).unwrap().unwrap();
        assert_eq!(here.run(|| read(name)).unwrap().unwrap(), "1");
        let missing = here.run(|| write("net/ipv4/nosuch", "1")).unwrap().unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
