//! Reading files that others may have put where we look for them.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;

/// More than any file of ours: tens of thousands of published ports take some megabytes.
pub const MAX_BYTES: u64 = 64 << 20;

/// Opens a file for reading, and nothing else: a named pipe would have us wait for whoever is at its other end, and a device
/// may never end.
///
/// # Errors
///
/// As the operating system says; `it is no file` for what is there and is none.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        // A socket, or a device that nobody has a driver for.
        Err(error) if error.raw_os_error() == Some(nix::libc::ENXIO) => return Err(no_file()),
        outcome => outcome?,
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(no_file()) }
}

/// Reads a file as a whole.
///
/// # Errors
///
/// As [`open`], and for a file of more than [`MAX_BYTES`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let expected = file.metadata()?.len().min(MAX_BYTES);
    let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or_default() + 1);
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_BYTES {
        true => Err(io::Error::new(ErrorKind::FileTooLarge, format!("it is longer than {MAX_BYTES} bytes"))),
        false => Ok(bytes),
    }
}

/// Reads a file of text as a whole.
///
/// # Errors
///
/// As [`read`], and for what is no UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is no UTF-8"))
}

/// Tells whether a file was refused for what it is, and not because it cannot be read.
pub(crate) fn is_refused(error: &io::Error) -> bool {
    error.raw_os_error().is_none()
}

fn no_file() -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, "it is no file")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn what_is_no_file_is_refused_and_nobody_waits() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        nix::unistd::mkfifo(&path("pipe"), Mode::S_IRWXU).unwrap();
        let _listener = UnixListener::bind(path("socket")).unwrap();
        symlink("/dev/zero", path("device")).unwrap();
        symlink(path("pipe"), path("link")).unwrap();
        for name in ["pipe", "socket", "device", "link", "."] {
            let error = read(&path(name)).unwrap_err();
            assert_eq!(error.to_string(), "it is no file", "{name}");
        }
        assert_eq!(read(&path("absent")).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_file_is_read_as_a_whole_and_up_to_a_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        crate::atomic::write(&path, b"all \xff", crate::atomic::Durability::Boot, 0o600).unwrap();
        assert_eq!(read(&path).unwrap(), b"all \xff");
        assert_eq!(read_text(&path).unwrap_err().to_string(), "it is no UTF-8");
        OpenOptions::new().write(true).open(&path).unwrap().set_len(MAX_BYTES + 1).unwrap();
        assert_eq!(read(&path).unwrap_err().to_string(), "it is longer than 67108864 bytes");
    }
}
