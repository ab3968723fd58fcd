//! What a build finds out or makes before the compiler runs.
//!
//! | file | what |
//! |---|---|
//! | `build/commit.rs` | which commit a release is built from |
//! | `build/console.rs` | the console's files, gzipped |

#[path = "build/commit.rs"]
mod commit;
#[path = "build/console.rs"]
mod console;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    commit::tell();
    if let Err(fault) = console::make() {
        println!("cargo::error={fault}");
    }
}
