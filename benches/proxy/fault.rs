//! Why a run cannot give figures. A wrong answer ends the run: an error must never count as speed.

use std::fmt;
use std::io;

#[derive(Debug)]
pub enum Fault {
    /// The system refused something; the text says what was being done.
    Io(&'static str, io::Error),
    /// A measured program didn't start or went away.
    Peer(String),
    /// A measured program gave an answer that is not the one expected.
    Answer(String),
}

impl Fault {
    /// For `map_err`: names what was being done.
    pub fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |e| Self::Io(doing, e)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(doing, e) => write!(f, "{doing}: {e}"),
            Self::Peer(what) | Self::Answer(what) => f.write_str(what),
        }
    }
}
