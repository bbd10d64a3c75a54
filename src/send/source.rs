//! Opens what is to be sent, so that it can be read several times: once to check it, once to send it, once for the
//! results. So no file has to be held in memory.

use anyhow::{Context, ensure};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The path that stands for the standard input.
pub const STDIN: &str = "-";

/// Opens a file, or a copy of what is not one: of the standard input, or of a pipe.
pub(super) fn open(path: &Path) -> anyhow::Result<File> {
    if path == Path::new(STDIN) {
        return copy(io::stdin().lock()).context("the standard input cannot be read");
    }
    let open = || -> anyhow::Result<File> {
        let file = File::open(path)?;
        let kind = file.metadata()?.file_type();
        ensure!(!kind.is_dir(), "it is a folder");
        if kind.is_file() { Ok(file) } else { copy(file) }
    };
    open().with_context(|| format!("{} cannot be read", path.display()))
}

/// Copies an input into a file without a name. It ends with the process, and nobody else can open it.
fn copy(mut input: impl Read) -> anyhow::Result<File> {
    let path = std::env::temp_dir().join(format!("earmark-send-{}", uuid::Uuid::new_v4().simple()));
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    io::copy(&mut input, &mut file)?;
    file.rewind()?;
    Ok(file)
}
