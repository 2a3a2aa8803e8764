//! The `breakwater` command.

use breakwater::cli::{self, Exit};

/// Chosen by measurement, see docs/benchmarks.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Exit {
    cli::run()
}
