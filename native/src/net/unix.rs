//! Listening on Unix sockets: files that outlive who made them, and abstract names that do not (unix(7)).
#![forbid(unsafe_code)]

use super::addresses::Address;
use super::listen::{self, Listener, StartLock};
use crate::error::{During, SystemError};
use socket2::{Domain, Socket, Type};
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{self, Path, PathBuf};

/// How to bind.
#[derive(Debug, Clone)]
pub struct UnixListenOptions {
    /// A path, or an abstract name behind a zero byte.
    pub name: Vec<u8>,
    /// Length of the accept queue; the kernel caps it (net.core.somaxconn).
    pub backlog: i32,
    /// Permissions of the file; `None`: what the process's umask leaves.
    pub mode: Option<u32>,
}

/// The file of a listener, removed with it unless it is another one's by then.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self { path: path::absolute(path)?, device: found.dev(), inode: found.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = |found: fs::Metadata| found.dev() == self.device && found.ino() == self.inode;
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            // What cannot be removed (any more) is found stale by whoever comes next.
            _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds and listens. A socket file that nobody listens on any more is replaced; any other file, and one that somebody
/// listens on, is EADDRINUSE.
pub fn bind(options: &UnixListenOptions) -> Result<Listener, SystemError> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).during("socket")?;
    socket.set_nonblocking(true).during("fcntl")?; // accepted sockets and polls rely on it
    let file = bind_name(&socket, &options.name, Type::STREAM)?;
    let path = is_path(&options.name).then(|| Path::new(OsStr::from_bytes(&options.name)));
    // Nobody can connect yet, so nobody gets in by what the umask left.
    if let (Some(path), Some(mode)) = (path, options.mode) {
        fs::set_permissions(path, Permissions::from_mode(mode)).during("chmod")?;
    }
    socket.listen(options.backlog).during("listen")?;
    Listener::new(socket, file)
}

/// Binds a socket of this type to a name; its file, if it is a path. One that nobody is bound to any more is replaced.
pub(super) fn bind_name(socket: &Socket, name: &[u8], kind: Type) -> Result<Option<SocketFile>, SystemError> {
    let address = Address::Unix(name.to_vec()).to_kernel().during("bind")?;
    let path = is_path(name).then(|| Path::new(OsStr::from_bytes(name)));
    match (socket.bind(&address), path) {
        (Err(error), Some(path)) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path, kind) => {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).during("unlink"),
                _ => socket.bind(&address).during("bind")?,
            }
        }
        (result, _) => result.during("bind")?,
    }
    path.map(SocketFile::of).transpose().during("lstat")
}

fn is_path(name: &[u8]) -> bool {
    name.first().is_some_and(|&byte| byte != 0)
}

/// Whether it is the file of a socket of this type and nobody is there: its process has ended without removing it.
fn is_stale(path: &Path, kind: Type) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let refused = || -> io::Result<bool> {
        let probe = Socket::new(Domain::UNIX, kind, None)?;
        probe.set_nonblocking(true)?; // a full queue is no reason to wait, but a sign of life
        let result = probe.connect(&Address::Unix(path.as_os_str().as_bytes().to_vec()).to_kernel()?);
        Ok(result.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
    };
    is_socket && refused().unwrap_or(false)
}

/// Held by a process while it binds a name, since two could otherwise both find a file stale, and the later one would
/// remove what the earlier one listens on. `None` while another process holds it.
pub fn start_lock(name: &[u8]) -> Result<Option<StartLock>, SystemError> {
    let mut hasher = DefaultHasher::new(); // the same in every process that runs this build
    if is_path(name) {
        let path = Path::new(OsStr::from_bytes(name));
        path.file_name().hash(&mut hasher);
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        // A directory that is not there fails the bind, which tells it.
        let directory = fs::metadata(parent.unwrap_or(Path::new("."))).ok();
        directory.map(|found| (found.dev(), found.ino())).hash(&mut hasher);
    } else {
        name.hash(&mut hasher);
    }
    listen::lock(&format!("shardloop-start-unix-{:016x}", hasher.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    /// A directory of the test's own, removed with all that is in it.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("shardloop-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn options(&self) -> UnixListenOptions {
            let name = self.0.join("socket").into_os_string().into_encoded_bytes();
            UnixListenOptions { name, backlog: 16, mode: None }
        }

        fn socket(&self) -> PathBuf {
            self.0.join("socket")
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_stale_file_is_replaced_and_the_listeners_own_goes_with_it() {
        let directory = Directory::new("stale");
        drop(UnixListener::bind(directory.socket()).unwrap()); // leaves its file behind
        let listener = bind(&directory.options()).unwrap();
        UnixStream::connect(directory.socket()).unwrap();
        drop(listener);
        assert!(!directory.socket().exists());
    }

    #[test]
    fn neither_a_live_listener_nor_another_kind_of_file_is_replaced() {
        let directory = Directory::new("live");
        let listener = UnixListener::bind(directory.socket()).unwrap();
        assert_eq!(bind(&directory.options()).unwrap_err().errno(), libc::EADDRINUSE);
        UnixStream::connect(directory.socket()).unwrap();
        drop(listener);
        fs::remove_file(directory.socket()).unwrap();
        fs::write(directory.socket(), "precious").unwrap();
        assert_eq!(bind(&directory.options()).unwrap_err().errno(), libc::EADDRINUSE);
        assert_eq!(fs::read(directory.socket()).unwrap(), b"precious");
    }

    #[test]
    fn a_file_that_another_listener_has_made_since_stays() {
        let directory = Directory::new("other");
        let first = bind(&directory.options()).unwrap();
        fs::remove_file(directory.socket()).unwrap();
        let second = bind(&directory.options()).unwrap();
        drop(first);
        UnixStream::connect(directory.socket()).unwrap();
        drop(second);
    }

    #[test]
    fn permissions_are_those_that_were_asked_for() {
        let directory = Directory::new("mode");
        let _listener = bind(&UnixListenOptions { mode: Some(0o640), ..directory.options() }).unwrap();
        assert_eq!(fs::metadata(directory.socket()).unwrap().permissions().mode() & 0o7777, 0o640);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn an_abstract_name_needs_no_file_and_its_lock_is_held_by_one_at_a_time() {
        let name = format!("\0shardloop-test-{}", std::process::id()).into_bytes();
        let options = UnixListenOptions { name: name.clone(), backlog: 1, mode: None };
        let listener = bind(&options).unwrap();
        assert_eq!(*listener.address(), Address::Unix(name.clone()));
        assert_eq!(bind(&options).unwrap_err().errno(), libc::EADDRINUSE);
        let lock = start_lock(&name).unwrap().unwrap();
        assert!(start_lock(&name).unwrap().is_none());
        drop(lock);
        assert!(start_lock(&name).unwrap().is_some());
    }
}
