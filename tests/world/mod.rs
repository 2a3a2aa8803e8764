//! A world for the whole engine to live in: simulated providers that answer from memory, virtual clients that check each answer's
//! text, and lives of the gateway's process that end well or by a kill. Time is virtual, chance comes from one seed.
//!
//! - [`weather`]: what a provider is like at a moment: up, down, browned out; which fault meets a call.
//! - [`provider`]: the way upstream, in place of sockets; it watches what the engine sends.
//! - [`answer`]: what goes over that way: the simulator's checkable text, as JSON or as a stream, sound or broken.
//! - [`client`]: one request and what became of it.
//! - [`life`]: one process from start to end, on a thread whose time is virtual.

#![allow(dead_code, reason = "shared by a test program and a bench; not every part is needed in each")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test or bench fails by panicking")]

pub mod answer;
pub mod client;
pub mod life;
pub mod provider;
pub mod weather;

use std::cell::RefCell;
use std::rc::Rc;

/// What happened, folded into one number: two runs of one seed must agree on it.
#[derive(Clone, Default)]
pub struct Journal(Rc<RefCell<Noted>>);

struct Noted {
    hash: u64,
    events: u64,
    violations: Vec<String>,
    /// The last lines, for whoever looks at a violation.
    tail: std::collections::VecDeque<String>,
}

impl Default for Noted {
    fn default() -> Self {
        // FNV-1a's offset.
        Self { hash: 0xcbf2_9ce4_8422_2325, events: 0, violations: Vec::new(), tail: std::collections::VecDeque::new() }
    }
}

impl Journal {
    /// Notes an event.
    pub fn note(&self, line: &str) {
        const TAIL: usize = 100_000;
        let mut noted = self.0.borrow_mut();
        for byte in line.bytes() {
            noted.hash = (noted.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        noted.events += 1;
        if noted.tail.len() >= TAIL {
            noted.tail.pop_front();
        }
        noted.tail.push_back(line.to_owned());
    }

    /// Something that must never happen has.
    pub fn violation(&self, what: String) {
        self.note(&what);
        self.0.borrow_mut().violations.push(what);
    }

    pub fn violations(&self) -> Vec<String> {
        self.0.borrow().violations.clone()
    }

    /// The lines that name `what`, or the last ones.
    pub fn lines_about(&self, what: &str) -> Vec<String> {
        let noted = self.0.borrow();
        let about: Vec<_> = noted.tail.iter().filter(|line| line.contains(what)).cloned().collect();
        if about.is_empty() { noted.tail.iter().rev().take(40).rev().cloned().collect() } else { about }
    }

    pub fn hash(&self) -> u64 {
        self.0.borrow().hash
    }

    pub fn events(&self) -> u64 {
        self.0.borrow().events
    }
}
