//! The `breakwater` command.

use breakwater::cli::{self, Exit};

fn main() -> Exit {
    cli::run()
}
