//! A disk that can be filled: a tmpfs of 1 MiB.
//!
//! It has to be mounted, which needs root. Where that is not possible nothing is tested on it, unless `CI` is set.

use std::{fs, io::Write, path::Path, process::Command};

/// The file system, for as long as this lives.
pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub(crate) fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(folder.path()).output().unwrap();
        if mounted.status.success() {
            return Some(Self(folder));
        }
        let words = format!("a tmpfs cannot be mounted: {}", String::from_utf8_lossy(&mounted.stderr).trim());
        let in_ci = std::env::var_os("CI").is_some_and(|ci| !ci.is_empty());
        assert!(!in_ci, "{words}");
        println!("not run: {words}");
        None
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all space but so much.
    pub(crate) fn fill(&self, but: usize) {
        let mut file = fs::File::create(self.path().join("filler")).unwrap();
        while file.metadata().unwrap().len() < 2 << 20 && file.write(&[0; 512]).is_ok_and(|n| n > 0) {}
        let length = file.metadata().unwrap().len();
        assert!(length < 2 << 20, "this is not the small disk");
        file.set_len(length - but as u64).unwrap();
    }

    pub(crate) fn free(&self) {
        fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a test that failed may have left something open.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}
