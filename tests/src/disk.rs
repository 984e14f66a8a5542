//! A small file system of a test's own, in a file: it can run full, and lose power. Where root may mount
//! one; elsewhere such tests say that they are skipped.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// EXT4_IOC_SHUTDOWN without a flush of the journal: nothing reaches the disk any more, and what was
/// not synced is gone. By perl, which every Debian has: an ioctl from here would be unsafe code.
const CUT: &str =
    "open(F, '<', $ARGV[0]) && ioctl(F, 0x8004587d, my $flag = pack('L', 2)) || die $!";

/// What writers may take between the look at the room and its taking.
const MAX_SLACK_MEGABYTES: u64 = 64;

/// A mounted file system; gone when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    dir: tempfile::TempDir,
}

fn run(program: &str, arguments: &[&OsStr]) -> bool {
    let output = Command::new(program).args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

impl SmallDisk {
    /// None: no right to mount one.
    ///
    /// # Panics
    /// When not even a temporary folder can be made.
    #[must_use]
    pub fn mount(megabytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let disk = Self { dir };
        std::fs::create_dir(disk.path()).expect("a mount point");
        std::fs::File::create(disk.image())
            .and_then(|f| f.set_len(megabytes << 20))
            .expect("an image");
        let quiet = ["-q", "-m", "0"].map(OsStr::new);
        let made = run(
            "mkfs.ext4",
            &[&quiet[..], &[disk.image().as_ref()]].concat(),
        );
        (made && disk.mount_again()).then_some(disk)
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn mount_again(&self) -> bool {
        let (image, path) = (self.image(), self.path());
        let arguments = [
            "-o".as_ref(),
            "loop".as_ref(),
            image.as_ref(),
            path.as_ref(),
        ];
        run("mount", &arguments)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    /// From now on nothing is stored.
    ///
    /// # Panics
    /// When the file system does not know how.
    pub fn cut_power(&self) {
        let path = self.path();
        let arguments = ["-e".as_ref(), CUT.as_ref(), path.as_ref()];
        assert!(run("perl", &arguments), "the shutdown ioctl of ext4");
    }

    /// Mounts it again as a machine does that has power again; no process may use it.
    ///
    /// # Panics
    /// When it is in use, or too damaged to be mounted.
    pub fn power_again(&self) {
        assert!(run("umount", &[self.path().as_ref()]), "nobody uses it");
        assert!(self.mount_again(), "its journal is replayed");
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Takes the room that is left, but for a few megabytes that others may take in this moment.
    ///
    /// # Panics
    /// When the room can't be taken.
    pub fn fill(&self) {
        let filler = self.filler();
        let taken = (0..MAX_SLACK_MEGABYTES).any(|slack| {
            let take = free_bytes(&self.path()).saturating_sub(slack << 20);
            let size = take.to_string();
            let arguments = ["-l".as_ref(), size.as_ref(), filler.as_ref()];
            take == 0 || run("fallocate", &arguments)
        });
        assert!(taken, "a large file");
    }

    /// Gives the room back.
    pub fn make_room(&self) {
        // It may have been full already.
        let _gone = std::fs::remove_file(self.filler());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run("umount", &["-l".as_ref(), self.path().as_ref()]);
    }
}

/// Bytes that are free on the file system of this folder.
///
/// # Panics
/// When df does not say.
#[must_use]
pub fn free_bytes(path: &Path) -> u64 {
    let output = Command::new("df")
        .args(["--output=avail", "-B1"])
        .arg(path)
        .output()
        .expect("df runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text
        .lines()
        .nth(1)
        .and_then(|line| line.trim().parse().ok());
    line.expect("df prints a number")
}
