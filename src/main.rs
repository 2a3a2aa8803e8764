//! The `breakwater` command.

use breakwater::cli::{self, Exit};

/// Chosen by measurement, see docs/benchmarks.md.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> Exit {
    cli::run()
}
