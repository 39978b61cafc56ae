//! The config file: whatever stands in it, there is a config or a list of what is wrong, each with its line; and no
//! secret is ever shown.
#![no_main]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use libfuzzer_sys::fuzz_target;
use trunkline::config::{Environment, load};

fuzz_target!(|text: &[u8]| {
    // A secret of the file system's own would be no finding, and fuzzers find every device.
    if text.windows(2).any(|pair| pair == b"..") || text.windows(5).any(|five| five == b"/dev/" || five == b"/proc") {
        return;
    }
    let site = &*SITE;
    let path = site.folder.path().join("trunkline.toml");
    if fs::write(&path, text).is_err() {
        return;
    }
    let shown = match load(&path, site) {
        Ok(config) => {
            let _ = config.line_rate();
            format!("{config:?}\n{}\n{}", config.warnings().join("\n"), config.arithmetic())
        }
        Err(problems) => {
            let lines = text.split(|&byte| byte == b'\n').count();
            assert!(!problems.0.is_empty());
            for problem in &problems.0 {
                assert!((1..=lines).contains(&problem.line), "{problem:?}");
                assert!(problem.file == path && !problem.wanted.is_empty(), "{problem:?}");
                let shown = problem.to_string();
                assert!(!shown.contains(char::is_control), "a problem is one line: {shown:?}");
            }
            assert!(problems.0.is_sorted_by_key(|problem| problem.line), "{problems}");
            assert_eq!(load(&path, site).err().as_ref(), Some(&problems));
            problems.to_string()
        }
    };
    assert!(!shown.contains(SECRET), "{shown}");
});

const SECRET: &str = "s3cret-9f1c27";

static SITE: LazyLock<Site> = LazyLock::new(|| Site::new().unwrap_or_else(|error| panic!("{error}")));

struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> std::io::Result<Self> {
        // In memory, where the machine has such a place: there are thousands a second.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory)? } else { tempfile::tempdir()? };
        for (name, mode) in [("token", 0o600), ("open-token", 0o644)] {
            let path = folder.path().join(name);
            fs::write(&path, format!("{SECRET}\n"))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
        Ok(Self { folder })
    }
}

impl Environment for Site {
    fn var(&self, name: &str) -> Option<String> {
        (name == "AGENT_TOKEN").then(|| SECRET.to_owned())
    }

    fn credentials_dir(&self) -> Option<PathBuf> {
        Some(self.folder.path().to_owned())
    }
}
