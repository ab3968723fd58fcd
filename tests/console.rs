//! The console as the real binary serves it: its files to the byte in both codings, their header fields, who gets them, and
//! what a build takes for one.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

#[allow(dead_code, clippy::print_stdout, reason = "what only a build calls")]
#[path = "../build/console.rs"]
mod pack;

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::read::GzDecoder;
use rustix::process::Signal;
use support::server::run;
use support::{Client, Options, Reply, Server, WAIT_TIMEOUT, wait_until};
use tempfile::TempDir;

/// The content security policy, in full: nothing but what the page needs.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
    require-trusted-types-for 'script'; trusted-types 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Each file: where it is served, its name, its content.
fn files() -> Vec<(String, String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/console");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let served_at = if name == "index.html" { "/".to_owned() } else { format!("/console/{name}") };
        found.push((served_at, name, fs::read(path).unwrap()));
    }
    assert!(found.len() >= 3, "the folder is found");
    found
}

fn gzipped(client: &mut Client, method: &str, path: &str) -> Reply {
    client.request(method, path, &[("Accept-Encoding", "gzip, deflate, br")], None)
}

/// Checks the fields that every reply with a file has, or stands for one.
#[track_caller]
fn check_fields(reply: &Reply, name: &str) {
    let content_type = match name.rsplit_once('.').unwrap().1 {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "svg" => "image/svg+xml",
        other => panic!("{other}: what is its type?"),
    };
    for (field, value) in [
        ("content-type", content_type),
        ("content-security-policy", POLICY),
        ("cache-control", "no-cache"),
        ("vary", "Accept-Encoding"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(reply.header(field), Some(value), "{name} {field}: {reply}");
    }
}

#[test]
fn each_file_comes_as_it_stands_in_the_folder_gzipped_or_not() {
    let server = Server::start(Options::default());
    let mut sum = 0;
    for mut client in [server.client(), server.local_client()] {
        for (path, name, content) in files() {
            let plain = client.get(&path);
            assert_eq!((plain.status, &plain.body, plain.header("content-encoding")), (200, &content, None), "{path}");
            check_fields(&plain, &name);
            let packed = gzipped(&mut client, "GET", &path);
            assert_eq!((packed.status, packed.header("content-encoding")), (200, Some("gzip")), "{packed}");
            check_fields(&packed, &name);
            let mut inflated = Vec::new();
            GzDecoder::new(packed.body.as_slice()).read_to_end(&mut inflated).unwrap();
            assert_eq!(inflated, content, "{path}");
            sum += packed.body.len();
            assert_ne!(plain.header("etag"), packed.header("etag"), "each coding has a tag of its own");
            for (method, length) in [("HEAD", packed.body.len()), ("GET", packed.body.len())] {
                let reply = gzipped(&mut client, method, &path);
                assert_eq!(reply.header("content-length"), Some(length.to_string().as_str()), "{method} {reply}");
                assert_eq!(reply.header("etag"), packed.header("etag"), "{method} {reply}");
                assert_eq!(reply.body.is_empty(), method == "HEAD");
            }
            let head = client.request("HEAD", &path, &[], None);
            assert_eq!(head.header("content-length"), Some(content.len().to_string().as_str()), "{head}");
        }
    }
    assert!(sum / 2 <= pack::GZIPPED_BYTES_MAX, "{sum} bytes over both listeners");
}

#[test]
fn a_file_that_the_client_has_is_not_sent_again() {
    let server = Server::start(Options::default());
    for mut client in [server.client(), server.local_client()] {
        for (path, name, content) in files() {
            let (plain, packed) = (client.get(&path), gzipped(&mut client, "GET", &path));
            let (plain, packed) = (plain.header("etag").unwrap(), packed.header("etag").unwrap());
            for (known, coding, status) in [
                (plain, "", 304),
                (packed, "gzip", 304),
                ("*", "gzip", 304),
                (&format!("W/{packed}"), "gzip", 304),
                (&format!("\"other\", W/\"x\" ,{packed}"), "gzip", 304),
                (packed, "", 200),
                (plain, "gzip", 200),
                ("\"other\"", "gzip", 200),
                (plain.trim_matches('"'), "", 200),
                ("", "", 200),
            ] {
                let fields = [("If-None-Match", known), ("Accept-Encoding", coding)];
                let reply = client.request("GET", &path, &fields, None);
                assert_eq!(reply.status, status, "{known} {coding}: {reply}");
                check_fields(&reply, &name);
                assert_eq!(reply.header("etag"), Some(if coding.is_empty() { plain } else { packed }), "{reply}");
                let head = client.request("HEAD", &path, &fields, None);
                assert_eq!((head.status, head.body.len()), (status, 0), "{known} {coding}: {head}");
            }
            assert_eq!(client.get(&path).body, content, "the connection goes on after a 304");
        }
    }
}

#[test]
fn the_page_needs_no_token_and_all_that_it_shows_does() {
    let server = Server::start(Options::default().set("server.auth_token", "of-the-tests"));
    let mut client = server.client();
    for (path, _, content) in files() {
        assert_eq!(client.get(&path).body, content, "{path}");
        let wrong = client.request("GET", &path, &[("Authorization", "Bearer wrong")], None);
        assert_eq!(wrong.status, 200, "{wrong}");
    }
    for path in ["/api/storage/status", "/api/chat/sessions", "/metrics", "/ws/chat", "/console", "/console/x/y.js"] {
        client.get(path).problem(401);
    }
    client.request("POST", "/", &[], None).problem(405);
}

#[test]
fn what_is_no_file_of_the_console_is_404() {
    let server = Server::start(Options::default());
    for mut client in [server.client(), server.local_client()] {
        for path in [
            "/console",
            "/console/",
            "/console/none.js",
            "/console/index.html",
            "/console/main.js.gz",
            "/console/main.js/",
            "/console/../config.yaml",
            "/console/..%2fmain.js",
            "/console/MAIN.JS",
            "//",
        ] {
            client.get(path).problem(404);
        }
        let reply = client.request("DELETE", "/console/main.js", &[], None);
        reply.problem(405);
        assert_eq!(reply.header("allow"), Some("GET, HEAD"));
    }
}

#[test]
fn the_console_can_be_switched_off_and_on_without_a_restart() {
    let mut server = Server::start(Options::default().set("server.console", false));
    for mut client in [server.client(), server.local_client()] {
        for path in ["/", "/console/main.js"] {
            let detail = client.get(path).problem(404);
            assert_eq!(detail, "the console is switched off: server.console is false");
        }
        client.get("/api/storage/status").expect(200);
    }
    for (is_on, status) in [(true, 200), (false, 404)] {
        server.reconfigure(Options::default().set("server.console", is_on));
        server.signal(Signal::HUP);
        wait_until("the console is switched", WAIT_TIMEOUT, || server.client().get("/").status == status);
    }
}

#[test]
fn a_link_from_another_site_leads_to_the_page_and_a_script_there_nowhere() {
    let server = Server::start(Options::default());
    // As browsers send them: a link, a script that fetches, an image, a frame, a form.
    for (site, mode, dest, wanted) in [
        ("none", "navigate", "document", 200),
        ("cross-site", "navigate", "document", 200),
        ("same-site", "navigate", "document", 200),
        ("cross-site", "no-cors", "empty", 403),
        ("cross-site", "no-cors", "image", 403),
        ("cross-site", "no-cors", "script", 403),
        ("cross-site", "navigate", "iframe", 403),
        ("same-site", "cors", "empty", 403),
    ] {
        let fields = [("Sec-Fetch-Site", site), ("Sec-Fetch-Mode", mode), ("Sec-Fetch-Dest", dest)];
        let ask = |path| server.client().request("GET", path, &fields, None).status;
        assert_eq!(ask("/"), wanted, "{site} {mode} {dest}");
        let others = if site == "none" { 200 } else { 403 };
        for path in ["/console/main.js", "/livez", "/api/chat/sessions"] {
            assert_eq!(ask(path), others, "{path} {site} {mode} {dest}");
        }
    }
    let form = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")];
    server.client().request("POST", "/", &form, Some(b"")).problem(403);
    server.client().request("GET", "/", &[("Host", "evil.example"), form[0], form[1], form[2]], None).problem(403);
}

/// A folder with a page and these files, packed; the names in the table, or the fault.
fn packed(files: &[(&str, &[u8])]) -> Result<String, String> {
    let (folder, out) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for (name, content) in [("index.html", &b"page"[..])].iter().chain(files) {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    pack::pack(folder.path(), out.path())?;
    let made = |name: &str| out.path().join(format!("{name}.gz")).exists();
    let is_packed = |name: &&str| !name.starts_with('.');
    assert!(files.iter().map(|(name, _)| *name).filter(is_packed).all(made), "{files:?}");
    Ok(fs::read_to_string(out.path().join("console.rs")).unwrap())
}

#[test]
fn a_build_takes_what_a_browser_can_use_and_names_what_is_wrong() {
    let table = packed(&[("a.js", b"1"), ("b-c_2.css", b"2"), ("d.svg", b""), (".a.js.swp", b"4")]).unwrap();
    let paths = ["\"/\"", "\"/console/a.js\"", "\"/console/b-c_2.css\"", "\"/console/d.svg\""];
    assert!(paths.iter().all(|path| table.contains(path)) && table.lines().count() == 6, "{table}");
    for name in ["README.md", "a.js.orig", "js", "A.js", "a b.js", "é.js", "folder.js/a.js"] {
        let fault = packed(&[(name, b"x")]).unwrap_err();
        let told = "the console takes files named in a-z 0-9 . _ - that end in .css, .html, .js, .svg";
        assert!(fault.contains(name.split('/').next().unwrap()) && fault.ends_with(told), "{fault}");
    }
    let mut random = support::Random::new(1);
    let mut noise = |bytes: usize| -> Vec<u8> { (0..bytes / 8).flat_map(|_| random.next().to_le_bytes()).collect() };
    let (half, more) = (noise(48_000), noise(56_000));
    packed(&[("a.js", &half), ("b.js", &vec![b'x'; 1 << 20])]).unwrap();
    let fault = packed(&[("a.js", &half), ("b.css", &more)]).unwrap_err();
    assert!(fault.contains("all files take 104") && fault.ends_with("at most 100000 are allowed"), "{fault}");
    let (empty, out) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    assert!(pack::pack(empty.path(), out.path()).unwrap_err().ends_with("index.html is missing, the page itself"));
}

#[test]
fn a_package_has_the_files_of_the_console_and_what_packs_them() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["package", "--list", "--allow-dirty", "--offline"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let listed = String::from_utf8(run(&mut cargo).stdout).unwrap();
    let listed: Vec<PathBuf> = listed.lines().map(PathBuf::from).collect();
    let files = files().into_iter().map(|(_, name, _)| Path::new("src/console").join(name));
    for wanted in files.chain(["build.rs", "build/commit.rs", "build/console.rs"].map(PathBuf::from)) {
        assert!(listed.contains(&wanted), "{}", wanted.display());
    }
}
