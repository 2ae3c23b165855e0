//! Owns how we are told that a file was replaced: by the kernel (inotify(7)), on the file's directory.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::net::unix::pipe::Receiver;

/// How much is read at once, in bytes; an event has some dozen, and the longest name 255.
const BUFFER: usize = 4096;

/// Hears of the files in one directory.
#[derive(Debug)]
pub struct Notice {
    /// An inotify descriptor is read as a pipe is.
    events: Receiver,
}

impl Notice {
    /// Watches the directory of `path`, which must be there. Needs a tokio runtime.
    ///
    /// # Errors
    /// There is no such directory, or the kernel watches enough for this user already.
    pub fn of(path: &Path) -> io::Result<Notice> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let events = WatchFlags::MOVED_TO | WatchFlags::DELETE | WatchFlags::ONLYDIR;
        inotify::add_watch(&fd, super::files::parent(path), events)?;
        Ok(Notice { events: Receiver::from_file_unchecked(File::from(fd))? })
    }

    /// Waits until a file there was replaced or deleted since this was asked last; also when the directory was. It may have
    /// been another file.
    ///
    /// # Errors
    /// The kernel can't tell.
    pub async fn changed(&mut self) -> io::Result<()> {
        self.events.readable().await?;
        let (mut buffer, mut heard) = ([0; BUFFER], false);
        loop {
            match self.events.try_read(&mut buffer) {
                Ok(_) => heard = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && heard => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.events.readable().await?,
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_file_that_is_replaced_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.json");
        let mut notice = Notice::of(&path).unwrap();
        std::fs::write(dir.path().join("new"), "x").unwrap();
        let none = tokio::time::timeout(Duration::from_millis(100), notice.changed()).await;
        assert!(none.is_err(), "{none:?}");
        for replaced in 0..2 {
            std::fs::write(dir.path().join("new"), "x").unwrap();
            std::fs::rename(dir.path().join("new"), &path).unwrap();
            let told = tokio::time::timeout(Duration::from_secs(20), notice.changed()).await;
            assert!(matches!(told, Ok(Ok(()))), "{replaced}: {told:?}");
        }
        drop(dir);
        assert!(notice.changed().await.is_ok(), "the file was deleted");
        assert!(Notice::of(Path::new("/nonexistent/status.json")).is_err());
    }
}
