//! What the README and the docs tell people to paste has to be good.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use trunkline::config::{self, ProcessEnvironment};

/// The code blocks of a Markdown file in this language.
fn blocks<'t>(text: &'t str, language: &str) -> Vec<&'t str> {
    text.split(&format!("```{language}\n")).skip(1).filter_map(|rest| rest.split("\n```").next()).collect()
}

#[test]
fn every_config_in_the_readme_and_the_docs_passes_the_check() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let mut checked = 0;
    let mut pages = vec![root.join("README.md")];
    pages.extend(fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    for page in pages {
        for block in blocks(&fs::read_to_string(&page).unwrap(), "toml") {
            let path = folder.path().join("pasted.toml");
            fs::write(&path, block).unwrap();
            if let Err(problems) = config::load(&path, &ProcessEnvironment) {
                panic!("{}:\n{problems}", page.display());
            }
            checked += 1;
        }
    }
    assert!(checked >= 1, "the README has a config");
}

#[test]
fn every_file_that_the_readme_links_to_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    for target in readme.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        assert!(root.join(target).exists(), "{target}");
    }
}
