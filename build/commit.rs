//! Tells a release which commit it is built from, for `--version` and the first line of the log, unless `CHATKEEP_COMMIT`
//! says it. Other builds are not asked: every commit would build the tests again.

use std::env;
use std::process::Command;

/// Sets `CHATKEEP_COMMIT` for the compiler.
pub fn tell() {
    println!("cargo::rerun-if-env-changed=CHATKEEP_COMMIT");
    if env::var("PROFILE").as_deref() != Ok("release") || env::var_os("CHATKEEP_COMMIT").is_some() {
        return;
    }
    // An unpacked package may lie in a repository of something else.
    let is_ours = git(&["rev-parse", "--show-prefix"]).is_some_and(|below| below.is_empty());
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]).filter(|_| is_ours) else { return };
    println!("cargo::rustc-env=CHATKEEP_COMMIT={commit}");
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
}

/// What git says, without the end of its line; `None` without git or outside of a repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| said.trim_end().to_owned())
}
