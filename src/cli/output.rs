//! Where a long output goes: stdout, or a file that appears whole or not at all; and a progress line for whoever watches.

use super::say;
use crate::clock;
use crate::domain::time::Ts;
use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

const BUFFER: usize = 256 << 10;

/// Stdout, or a file under another name until it is complete.
pub enum Output {
    Stdout(BufWriter<io::Stdout>),
    File { file: BufWriter<File>, fresh: PathBuf, path: PathBuf },
}

impl Output {
    /// Opens the file, or stdout.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn open(path: Option<&Path>) -> Result<Self, String> {
        let Some(path) = path else { return Ok(Self::Stdout(BufWriter::with_capacity(BUFFER, io::stdout()))) };
        let mut fresh = path.to_owned();
        fresh.set_file_name(format!("{}.part", path.file_name().unwrap_or_default().display()));
        let file = File::create(&fresh).map_err(|e| format!("{}: {e}", fresh.display()))?;
        Ok(Self::File { file: BufWriter::with_capacity(BUFFER, file), fresh, path: path.to_owned() })
    }

    /// Completes the output: the file gets its name.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(mut self) -> Result<(), String> {
        match &mut self {
            Self::Stdout(out) => match out.flush() {
                Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(format!("stdout: {e}")),
                _ => Ok(()),
            },
            Self::File { file, fresh, path } => {
                let done = file.flush().and_then(|()| file.get_ref().sync_data());
                done.and_then(|()| fs::rename(&*fresh, &*path)).map_err(|e| format!("{}: {e}", path.display()))
            }
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Self::File { fresh, .. } = self {
            // Gone already if the output was completed.
            let _ = fs::remove_file(fresh);
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(out) => out.write(bytes),
            Self::File { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.flush(),
            Self::File { file, .. } => file.flush(),
        }
    }
}

/// A line on stderr that shows how far the work is, if stderr is a terminal and the work takes over a second.
pub struct Progress {
    what: &'static str,
    /// 0: not known.
    expected: u64,
    started: Ts,
    shown: Ts,
    visible: bool,
}

impl Progress {
    #[must_use]
    pub fn new(what: &'static str) -> Self {
        let now = clock::now();
        Self { what, expected: 0, started: now, shown: now, visible: false }
    }

    /// How much there is in all: makes the line a bar.
    pub fn expect(&mut self, count: u64) {
        self.expected = count;
    }

    /// Tells how far it is; cheap enough to call every few thousand rows.
    pub fn at(&mut self, count: u64) {
        const PATIENCE: Duration = Duration::from_secs(1);
        const STEP: Duration = Duration::from_millis(200);
        let now = clock::now();
        if now.since(self.started) < PATIENCE || now.since(self.shown) < STEP || !io::stderr().is_terminal() {
            return;
        }
        self.shown = now;
        self.visible = true;
        let line = line(self.what, count, self.expected, now.since(self.started));
        // Over the line before, which may have been longer.
        let _ = write!(io::stderr().lock(), "\r{line}\x1b[K");
    }
}

/// `[############------------------]  42 %, 4200000 of 10000000 rows, 6 s left`
fn line(what: &str, count: u64, expected: u64, passed: Duration) -> String {
    const WIDTH: u64 = 30;
    if expected == 0 {
        return format!("{count} {what}");
    }
    let count = count.min(expected);
    let share = |of: u64| usize::try_from(u128::from(count) * u128::from(of) / u128::from(expected)).unwrap_or(0);
    let (full, percent) = (share(WIDTH), share(100));
    let bar = "#".repeat(full) + &"-".repeat(usize::try_from(WIDTH).unwrap_or(0) - full);
    let left = passed.as_millis().saturating_mul(u128::from(expected - count)) / u128::from(count.max(1)) / 1_000;
    format!("[{bar}] {percent:3} %, {count} of {expected} {what}, {left} s left")
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.visible {
            say("");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_the_work_that_is_done() {
        let passed = Duration::from_secs(6);
        let bar = |full| "#".repeat(full) + &"-".repeat(30 - full);
        assert_eq!(line("rows", 50, 100, passed), format!("[{}]  50 %, 50 of 100 rows, 6 s left", bar(15)));
        assert_eq!(line("rows", 0, 100, passed), format!("[{}]   0 %, 0 of 100 rows, 600 s left", bar(0)));
        assert_eq!(line("rows", 101, 100, passed), format!("[{}] 100 %, 100 of 100 rows, 0 s left", bar(30)));
        assert_eq!(line("bytes", 7, 0, passed), "7 bytes");
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.csv");
        let mut output = Output::open(Some(&path)).unwrap();
        output.write_all(b"half").unwrap();
        drop(output);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let mut output = Output::open(Some(&path)).unwrap();
        output.write_all(b"whole").unwrap();
        assert!(!path.exists());
        output.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(Output::open(Some(&dir.path().join("absent/out.csv"))).is_err());
    }
}
