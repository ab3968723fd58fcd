//! `GET /metrics` of the real binary, and what stands on it: the alerts, the dashboard and the example under
//! `packaging/prometheus/`. With MongoDB: `tests/metrics_mongo.rs`.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use chatkeep::metrics::{Family, FamilyKind, family};
use serde_json::{Value, json};
use support::metrics::{Scrape, promtool};
use support::socket::Socket;
use support::{Connection, Options, Server, WAIT_TIMEOUT, wait_until};

/// The names that are promised, whatever the table says.
const PROMISED: &str = "chatkeep_build_info chatkeep_http_requests_total chatkeep_http_request_seconds \
    chatkeep_journal_sync_seconds chatkeep_journal_batch_records chatkeep_journal_bytes \
    chatkeep_journal_append_failures_total chatkeep_messages_recorded_total chatkeep_flush_seconds \
    chatkeep_flushed_messages_total chatkeep_flush_failures_total chatkeep_skipped_writes_total \
    chatkeep_dead_letters_total chatkeep_pending_messages chatkeep_oldest_pending_seconds chatkeep_mongo_up \
    chatkeep_cache_hits_total chatkeep_cache_misses_total chatkeep_cache_evictions_total chatkeep_cache_bytes \
    chatkeep_websocket_connections chatkeep_feed_streams chatkeep_event_streams chatkeep_responder_seconds \
    chatkeep_responder_running chatkeep_erasures_pending chatkeep_warnings process_cpu_seconds_total process_resident_memory_bytes \
    process_open_fds process_max_fds process_start_time_seconds";

const RULES: &str = "packaging/prometheus/chatkeep.rules.yml";
const RULE_TESTS: &str = "packaging/prometheus/chatkeep.rules.test.yml";
const DASHBOARD: &str = "packaging/prometheus/grafana-dashboard.json";
const EXAMPLE: &str = "packaging/prometheus/prometheus.yml";

fn start() -> Server {
    Server::start(Options::default())
}

fn scrape(server: &Server) -> Scrape {
    Scrape::of(&mut server.client())
}

fn recorded(role: &str, transport: &str) -> String {
    format!("chatkeep_messages_recorded_total{{role=\"{role}\",transport=\"{transport}\"}}")
}

fn answered(route: &str, method: &str, code: u16) -> String {
    format!("chatkeep_http_requests_total{{route=\"{route}\",method=\"{method}\",code=\"{code}\"}}")
}

fn took(route: &str) -> String {
    format!("chatkeep_http_request_seconds_count{{route=\"{route}\"}}")
}

#[test]
fn without_mongodb_every_family_is_there_but_whether_it_is_up() {
    let server = start();
    let found = scrape(&server);
    let kinds: BTreeMap<&str, &str> = family::ALL.iter().map(|family| (family.name, family.kind.as_str())).collect();
    assert_eq!(PROMISED.split_whitespace().collect::<BTreeSet<_>>(), kinds.keys().copied().collect());
    let told: BTreeMap<&str, &str> = found.kinds.iter().map(|(name, kind)| (&**name, &**kind)).collect();
    let missing: Vec<_> = kinds.iter().filter(|(name, kind)| told.get(*name) != Some(*kind)).collect();
    assert_eq!(missing, [(&"chatkeep_mongo_up", &"gauge")], "{}", found.text);
    assert_eq!(told.len() + 1, kinds.len());
    assert_eq!(found.sum("chatkeep_flush"), 0.0);
    assert!(found.series.contains_key("chatkeep_skipped_writes_total"), "{}", found.text);
    assert!(found.value("process_resident_memory_bytes") > 1e6 && found.value("process_open_fds") > 5.0);
    let since_1970 = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let started = found.value("process_start_time_seconds");
    assert!(started <= since_1970 && started > since_1970 - 600.0, "{started}");
    let cpu = found.value("process_cpu_seconds_total");
    assert!(cpu > 0.0 && scrape(&server).value("process_cpu_seconds_total") > cpu);
    let build = format!("chatkeep_build_info{{version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert_eq!(found.sum(&build), 1.0, "{}", found.text);
    assert!(found.text.len() < 64 << 10, "{} bytes", found.text.len());
}

#[test]
fn promtool_has_nothing_to_say_about_the_text() {
    let server = start();
    server.client().chat("s", "hi");
    server.client().get("/nowhere");
    let (is_content, said) = promtool(&["check", "metrics"], &scrape(&server).text);
    assert!(is_content && said.trim().is_empty(), "{said}");
    let (is_content, _) = promtool(&["check", "metrics"], "chatkeep_x{ 1\n");
    assert!(!is_content, "it can fail");
}

#[test]
fn messages_and_requests_of_every_transport_are_counted_exactly() {
    let server = start();
    let before = scrape(&server);
    let (mut tcp, mut local) = (server.client(), server.local_client());
    (0..3).for_each(|n| _ = tcp.chat("s", &format!("tcp {n}")));
    (0..2).for_each(|n| _ = local.chat("s", &format!("unix {n}")));
    let mut socket = Socket::open(&server, "session_id=s");
    for n in 0..4 {
        socket.send(&json!({"message": format!("socket {n}")}));
        socket.next_of("response");
    }
    let roles = ["user", "tool", "assistant", "narrator", "critic", "system"];
    let many: Vec<Value> = roles.iter().map(|role| json!({"session_id": "s", "role": role, "text": "x"})).collect();
    local.post("/api/chat/messages", &many.into()).expect(201);
    // The same again is recorded once, and with other content refused.
    let keyed = |text: &str| json!({"session_id": "s", "message": text, "message_id": "k"});
    tcp.post("/api/chat", &keyed("once")).expect(200);
    tcp.post("/api/chat", &keyed("once")).expect(200);
    tcp.post("/api/chat", &keyed("other")).problem(409);
    tcp.chat("s", "/clear");
    tcp.post("/api/chat", &json!({})).problem(422);
    tcp.get("/nowhere").problem(404);
    local.get("/nowhere").problem(404);
    tcp.request("PUT", "/api/chat", &[], None).problem(405);
    tcp.request("HEAD", "/api/storage/status", &[], None);
    let after = scrape(&server);
    let wanted = [
        (recorded("user", "tcp"), 4.0),
        (recorded("assistant", "tcp"), 4.0),
        (recorded("system", "tcp"), 1.0),
        (recorded("user", "unix"), 3.0),
        (recorded("assistant", "unix"), 3.0),
        (recorded("tool", "unix"), 1.0),
        (recorded("system", "unix"), 1.0),
        (recorded("other", "unix"), 2.0),
        (recorded("user", "websocket"), 4.0),
        (recorded("assistant", "websocket"), 4.0),
    ];
    assert_eq!(after.since(&before, "chatkeep_messages_recorded_total"), wanted.into());
    let wanted = [
        (answered("/api/chat", "POST", 200), 8.0),
        (answered("/api/chat", "POST", 409), 1.0),
        (answered("/api/chat", "POST", 422), 1.0),
        (answered("/api/chat/messages", "POST", 201), 1.0),
        (answered("/ws/chat", "GET", 101), 1.0),
        (answered("/api/storage/status", "HEAD", 200), 1.0),
        (answered("/metrics", "GET", 200), 1.0),
        (answered("other", "GET", 404), 2.0),
        (answered("other", "other", 405), 1.0),
    ];
    assert_eq!(after.since(&before, "chatkeep_http_requests_total"), wanted.into());
    let wanted = [
        (took("/api/chat"), 10.0),
        (took("/api/chat/messages"), 1.0),
        (took("/api/storage/status"), 1.0),
        (took("/metrics"), 1.0),
    ];
    assert_eq!(after.since(&before, "chatkeep_http_request_seconds_count"), wanted.into());
    let rose = |series: &str| after.value(series) - before.value(series);
    assert_eq!(rose("chatkeep_journal_append_failures_total{reason=\"key_conflict\"}"), 1.0);
    assert_eq!(rose("chatkeep_journal_batch_records_sum"), 27.0, "every record is in one batch");
    let syncs = rose("chatkeep_journal_sync_seconds_count");
    assert!((1.0..=rose("chatkeep_journal_batch_records_count") + 4.0).contains(&syncs), "{syncs}");
    // `/clear` is answered by no responder, a repeated request by the first one's answer.
    assert_eq!(rose("chatkeep_responder_seconds_count{kind=\"echo\",status=\"completed\"}"), 10.0);
    assert_eq!(after.value("chatkeep_websocket_connections"), 1.0);
}

#[test]
fn a_stream_that_the_unix_socket_refuses_counts_as_refused() {
    let server = start();
    let before = scrape(&server);
    let mut kept = Connection::unix(&server.data().join("chatkeep.sock")).unwrap();
    kept.send(b"GET /api/chat/feed HTTP/1.0\r\nConnection: keep-alive\r\nAccept: text/event-stream\r\n\r\n").unwrap();
    assert!(kept.until("\r\n\r\n").unwrap().contains(" 505 "));
    let counted = scrape(&server).since(&before, "chatkeep_http_requests_total{route=\"/api/chat/feed\"");
    assert_eq!(counted, [(answered("/api/chat/feed", "GET", 505), 1.0)].into());
}

#[test]
fn what_lasts_as_long_as_its_client_stays_is_in_no_histogram() {
    let server = start();
    let mut client = server.client();
    client.chat("s", "hi");
    let before = scrape(&server);
    let next = client.get("/api/chat/feed").expect(200)["next"].as_str().unwrap().to_owned();
    client.get(&format!("/api/chat/feed?after={next}&wait=1")).expect(200);
    let mut stream = server.connect();
    stream.send(b"GET /api/chat/feed HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n").unwrap();
    assert!(stream.until("\r\n\r\n").unwrap().contains(" 200 "));
    let after = scrape(&server);
    let feed = "/api/chat/feed";
    assert_eq!(after.value(&answered(feed, "GET", 200)), 3.0);
    assert_eq!(after.value(&took(feed)) - before.value(&took(feed)), 1.0);
    let mut follower = server.connect();
    follower.send(b"GET /api/chat/sessions/s/events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert!(follower.until("\r\n\r\n").unwrap().contains(" 200 "));
    let open = |name: &str| scrape(&server).value(name);
    assert_eq!((open("chatkeep_feed_streams"), open("chatkeep_event_streams")), (1.0, 1.0));
    drop(stream);
    wait_until("the reader of the feed is gone", WAIT_TIMEOUT, || open("chatkeep_feed_streams") == 0.0);
    assert_eq!(open("chatkeep_event_streams"), 1.0);
    drop(follower);
    wait_until("the follower is gone", WAIT_TIMEOUT, || open("chatkeep_event_streams") == 0.0);
}

#[test]
fn the_route_answers_head_refuses_other_methods_and_asks_for_the_token() {
    let options = Options::default().set("server.auth_token", "s3cret");
    let server = Server::start(options);
    server.client().get("/metrics").problem(401);
    let mut client = server.client().with_header("Authorization", "Bearer s3cret");
    assert!(Scrape::of(&mut client).value(&answered("other", "GET", 401)) == 1.0, "no route was looked for");
    let head = client.request("HEAD", "/metrics", &[], None);
    assert_eq!((head.status, head.body.len()), (200, 0));
    let refused = client.post("/metrics", &json!({}));
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")), "{refused}");
    // The Unix socket needs none.
    Scrape::of(&mut server.local_client());
}

#[test]
fn a_history_from_memory_is_a_hit_and_one_from_disk_a_miss() {
    let mut server = start();
    server.client().chat("s", "hi");
    server.client().history("s", "");
    let found = scrape(&server);
    assert_eq!((found.value("chatkeep_cache_hits_total"), found.value("chatkeep_cache_misses_total")), (1.0, 0.0));
    assert!(found.value("chatkeep_cache_bytes") > 100.0);
    server.sigterm_and_wait();
    server.start_again();
    (0..3).for_each(|_| _ = server.client().history("s", ""));
    let found = scrape(&server);
    assert_eq!((found.value("chatkeep_cache_hits_total"), found.value("chatkeep_cache_misses_total")), (2.0, 1.0));
}

#[test]
fn a_scrape_opens_no_file_but_those_of_the_kernel() {
    let server = start();
    server.client().chat("s", "hi");
    // What else may open files comes when nothing is asked: the worker's checkpoint has been stored by then.
    wait_until("nothing is pending", WAIT_TIMEOUT, || scrape(&server).value("chatkeep_pending_messages") == 0.0);
    let mut strace = Command::new("strace");
    strace.args(["-f", "-e", "trace=openat,open,statfs,fstatfs,fsync,fdatasync,stat,newfstatat,statx", "-p"]);
    let mut child = strace.arg(server.pid().to_string()).stderr(Stdio::piped()).spawn().unwrap();
    let limit = support::Limit::on(&child);
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    said.by_ref().find(|line| line.contains("attached")).unwrap();
    let mut client = server.client();
    let scrapes = 20;
    (0..scrapes).for_each(|_| _ = Scrape::of(&mut client));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    let calls: Vec<String> = said.filter(|line| line.contains('(')).collect();
    child.wait().unwrap();
    drop(limit);
    // Those of the thread of the connection: which one it is, the files of the kernel tell.
    let thread = |line: &str| line.split(']').next().unwrap_or_default().to_owned();
    let scraping: BTreeSet<String> =
        calls.iter().filter(|line| line.contains("/proc/self/statm")).map(|line| thread(line)).collect();
    assert_eq!(scraping.len(), 1, "{calls:#?}");
    let theirs: Vec<_> = calls.iter().filter(|line| scraping.contains(&thread(line))).collect();
    assert!(theirs.len() >= 2 * scrapes, "{calls:#?}");
    let others: Vec<_> =
        theirs.iter().filter(|line| !line.contains("\"/proc/self/") && !line.contains("AT_EMPTY_PATH")).collect();
    assert!(others.is_empty(), "{others:#?}");
}

/// The families that PromQL names, each with the labels it is asked for.
fn named(query: &str) -> Vec<(String, Vec<String>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    for prefix in ["chatkeep_", "process_"] {
        for (at, _) in query.match_indices(prefix) {
            if query[..at].ends_with(is_name) {
                continue;
            }
            let end = query[at..].find(|c| !is_name(c)).map_or(query.len(), |length| at + length);
            let selector = query[end..].strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or_default();
            let labels = selector.split(['=', '!']).filter_map(|part| part.rsplit([',', '"', ' ']).next());
            let labels = labels.filter(|label| !label.is_empty() && label.chars().all(is_name)).map(str::to_owned);
            found.push((query[at..end].to_owned(), labels.collect()));
        }
    }
    found
}

/// Why a query asks for what there is not.
fn fault_of(query: &str) -> Option<String> {
    let common = ["job", "instance", "le"];
    for (name, labels) in named(query) {
        let of_histogram = |family: &Family| {
            let ends = ["_bucket", "_sum", "_count"];
            family.kind == FamilyKind::Histogram && ends.iter().any(|end| name == format!("{}{end}", family.name))
        };
        let is_it =
            |family: &&Family| (family.kind != FamilyKind::Histogram && family.name == name) || of_histogram(family);
        let Some(family) = family::ALL.iter().find(is_it) else { return Some(format!("{name}: {query}")) };
        let unknown = labels.iter().find(|label| !common.contains(&&***label) && !family.labels.contains(&&***label));
        if let Some(label) = unknown {
            return Some(format!("{name} has no label {label}: {query}"));
        }
    }
    named(query).is_empty().then(|| format!("names no family: {query}"))
}

/// All values below a key of that name, anywhere.
fn values_of<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, inner)| match inner {
            Value::String(text) if name == key => found.push(text),
            inner => values_of(inner, key, found),
        }),
        Value::Array(items) => items.iter().for_each(|inner| values_of(inner, key, found)),
        _ => {}
    }
}

#[test]
fn a_query_that_names_what_there_is_not_is_found() {
    assert_eq!(fault_of(r#"sum by (le) (rate(chatkeep_flush_seconds_bucket{instance=~"$i"}[5m]))"#), None);
    assert_eq!(fault_of(r#"chatkeep_warnings{kind="lost", job="x"} == 1"#), None);
    for wrong in [
        "rate(chatkeep_flushes_total[5m])",
        "chatkeep_flush_seconds",
        "chatkeep_mongo_up_count",
        r#"chatkeep_warnings{kind="a",type="lost"}"#,
        "up",
    ] {
        assert!(fault_of(wrong).is_some(), "{wrong}");
    }
}

#[test]
fn every_query_of_the_dashboard_names_metrics_that_exist_and_can_be_parsed() {
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(DASHBOARD).unwrap()).unwrap();
    let mut queries = Vec::new();
    values_of(&dashboard, "expr", &mut queries);
    assert!(queries.len() > 20, "{queries:?}");
    let faults: Vec<_> = queries.iter().filter(|query| !query.starts_with("up{")).filter_map(|q| fault_of(q)).collect();
    assert!(faults.is_empty(), "{faults:#?}");
    // Everything but what says nothing over time is shown.
    let shown: BTreeSet<String> = queries.iter().flat_map(|query| named(query)).map(|(name, _)| name).collect();
    let is_shown = |family: &&Family| shown.iter().any(|name| name.starts_with(family.name));
    let hidden: Vec<&str> = family::ALL.iter().filter(|f| !is_shown(f)).map(|family| family.name).collect();
    assert!(hidden.is_empty(), "not on the dashboard: {hidden:?}");
    let rules = queries.iter().enumerate().map(|(n, query)| {
        let query = query.replace("$__rate_interval", "5m");
        json!({"record": format!("q:{n}"), "expr": query})
    });
    let rules = json!({"groups": [{"name": "dashboard", "rules": rules.collect::<Vec<_>>()}]});
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queries.yml");
    fs::write(&path, rules.to_string()).unwrap();
    let (is_content, said) = promtool(&["check", "rules", path.to_str().unwrap()], "");
    assert!(is_content, "{said}");
}

/// The value of every line `KEY: VALUE` of a YAML file.
fn lines_of(path: &str, key: &str) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let key = format!("{key}: ");
    let lines = text.lines().map(|line| line.trim_start().trim_start_matches("- "));
    lines.filter_map(|line| line.strip_prefix(&key)).map(|value| value.trim().to_owned()).collect()
}

#[test]
fn the_alerts_name_what_exists_and_each_is_tested_both_ways() {
    let (is_content, said) = promtool(&["check", "rules", RULES], "");
    assert!(is_content, "{said}");
    let (is_content, said) = promtool(&["test", "rules", RULE_TESTS], "");
    assert!(is_content, "{said}");
    let queries = lines_of(RULES, "expr");
    assert!(queries.len() > 10, "{queries:?}");
    let faults: Vec<_> = queries.iter().filter(|query| !query.starts_with("up{")).filter_map(|q| fault_of(q)).collect();
    assert!(faults.is_empty(), "{faults:#?}");
    let alerts: BTreeSet<String> = lines_of(RULES, "alert").into_iter().collect();
    assert_eq!(alerts.len(), queries.len(), "each alert has a query on one line");
    let firing: BTreeSet<String> = lines_of(RULE_TESTS, "alertname").into_iter().collect();
    assert_eq!(alerts, firing);
    let text = fs::read_to_string(RULE_TESTS).unwrap();
    for alert in &alerts {
        let (fires, silent) = (
            format!("alertname: {alert}\n        exp_alerts:\n"),
            format!("alertname: {alert}\n        exp_alerts: []"),
        );
        assert!(text.contains(&fires) && text.contains(&silent), "{alert} is tested firing and silent");
    }
}

#[test]
fn the_values_of_labels_that_alerts_ask_for_exist() {
    let server = start();
    let found = scrape(&server);
    let queries = lines_of(RULES, "expr").join("\n");
    let mut checked = 0;
    for (family, label) in [("chatkeep_warnings", "kind"), ("chatkeep_journal_append_failures_total", "reason")] {
        for (at, _) in queries.match_indices(&format!("{family}{{")) {
            let selector = queries[at..].split('}').next().unwrap();
            let values = selector.split_once(&format!("{label}=")).unwrap().1.trim_start_matches('~');
            for value in values.split('"').nth(1).unwrap().split('|') {
                found.value(&format!("{family}{{{label}=\"{value}\"}}"));
                checked += 1;
            }
        }
    }
    assert!(checked > 6, "{checked}");
}

/// The warnings of the status, and those of the metrics.
fn warnings(server: &Server) -> (BTreeSet<String>, BTreeSet<String>) {
    let status = server.local_client().get("/api/storage/status").expect(200);
    let of_status = serde_json::from_value(status["warnings"].clone()).unwrap();
    let found = scrape(server);
    let series = found.series.iter().filter(|(name, value)| name.starts_with("chatkeep_warnings{") && **value == 1.0);
    (of_status, series.map(|(name, _)| name.split('"').nth(1).unwrap().to_owned()).collect())
}

#[test]
fn status_and_metrics_warn_of_the_same() {
    let mut server = start();
    server.client().chat("s", "hi");
    let document = server.client().get("/openapi.json").expect(200);
    let kinds = &document["components"]["schemas"]["Status"]["properties"]["warnings"]["items"]["enum"];
    let series = |kind: &Value| format!("chatkeep_warnings{{kind=\"{}\"}}", kind.as_str().unwrap());
    let named: BTreeSet<String> = kinds.as_array().unwrap().iter().map(series).collect();
    let found = scrape(&server);
    let told = found.series.keys().filter(|name| name.starts_with("chatkeep_warnings{")).cloned();
    assert_eq!(told.collect::<BTreeSet<_>>(), named);
    // The transcripts' folder goes while the server is stopped, an old transcript comes, and then the journal goes.
    server.sigterm_and_wait();
    fs::remove_dir_all(server.data().join("cache")).unwrap();
    fs::create_dir_all(server.data().join("cache/chat_sessions")).unwrap();
    let old = json!({
        "id": "019385d7-5e00-7000-8000-000000000001", "session_id": "old", "role": "user", "text": "long ago",
        "metadata": {}, "vector_ids": [], "created_at": "2024-12-02T06:27:08.672000+00:00",
    });
    fs::write(server.transcript_path("old"), format!("{old}\n")).unwrap();
    server.start_again();
    wait_until("the removal is announced", WAIT_TIMEOUT, || warnings(&server).0.contains("first_sweep_due"));
    fs::rename(server.data().join("journal"), server.data().join("elsewhere")).unwrap();
    // The disk of the tests may be nearly full.
    let wanted = ["first_sweep_due", "folder_is_new", "journal_error"];
    wait_until("both warn of all three", WAIT_TIMEOUT, || {
        let (of_status, of_metrics) = warnings(&server);
        of_status == of_metrics && wanted.iter().all(|kind| of_status.contains(*kind))
    });
    let (all, _) = warnings(&server);
    let others: Vec<_> = all.iter().filter(|kind| !wanted.contains(&kind.as_str()) && *kind != "disk_low").collect();
    assert!(others.iter().all(|kind| *kind == "stale"), "{others:?}");
}

#[test]
fn the_example_for_prometheus_is_valid() {
    let (is_content, said) = promtool(&["check", "config", "--syntax-only", EXAMPLE], "");
    assert!(is_content, "{said}");
}

#[test]
#[ignore = "needs a Prometheus: scripts/check --long"]
fn a_real_prometheus_scrapes_it_and_evaluates_the_alerts() {
    let server = Server::start(Options::default().set("server.auth_token", "s3cret"));
    let mut client = server.client().with_header("Authorization", "Bearer s3cret");
    (0..20).for_each(|n| _ = client.chat("s", &n.to_string()));
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "s3cret").unwrap();
    // The example as it is shipped, but for the address, the token's file and the pace.
    let example = fs::read_to_string(EXAMPLE).unwrap();
    let config = example
        .replace("127.0.0.1:8000", &server.address().to_string())
        .replace("/etc/prometheus/chatkeep.token", token.to_str().unwrap())
        .replace("/etc/prometheus/chatkeep.rules.yml", fs::canonicalize(RULES).unwrap().to_str().unwrap())
        .replace("15s", "1s");
    let path = folder.path().join("prometheus.yml");
    fs::write(&path, config).unwrap();
    // Port 0 is told nowhere, so one that was free is taken.
    let port = support::free_port();
    let mut prometheus = Command::new("prometheus");
    prometheus.arg(format!("--config.file={}", path.display()));
    prometheus.arg(format!("--storage.tsdb.path={}", folder.path().join("tsdb").display()));
    prometheus.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let log = fs::File::create(folder.path().join("log")).unwrap();
    let mut child = prometheus.stdout(Stdio::null()).stderr(log).spawn().expect("Debian: prometheus");
    let limit = support::Limit::on(&child);
    let base = format!("http://127.0.0.1:{port}/api/v1");
    let ask = |path: &str, query: &str| -> Option<Value> {
        let mut curl = Command::new("curl");
        curl.args(["-sf", "-G", &format!("{base}{path}"), "--data-urlencode", &format!("query={query}")]);
        serde_json::from_slice(&curl.output().unwrap().stdout).ok()
    };
    let number = |query: &str| -> Option<f64> {
        let found = ask("/query", query)?;
        found["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    };
    wait_until("it has scraped twice", 2 * WAIT_TIMEOUT, || {
        number("count_over_time(up{job=\"chatkeep\"}[1m])") >= Some(3.0)
    });
    wait_until("its last scrape was in time", WAIT_TIMEOUT, || number("up{job=\"chatkeep\"}") == Some(1.0));
    assert_eq!(number("sum(chatkeep_messages_recorded_total{transport=\"tcp\"})"), Some(40.0));
    let median =
        number("histogram_quantile(0.5, sum by (le) (chatkeep_http_request_seconds_bucket{route=\"/api/chat\"}))");
    assert!(median.is_some_and(|median| median > 0.0 && median < 10.0), "{median:?}");
    for family in family::ALL.iter().filter(|family| family.name != "chatkeep_mongo_up") {
        let of_histogram = if family.kind == FamilyKind::Histogram { "_count" } else { "" };
        assert!(number(&format!("count({}{of_histogram})", family.name)) >= Some(1.0), "{}", family.name);
    }
    let rules = ask("/rules", "").unwrap();
    let mut health = Vec::new();
    values_of(&rules, "health", &mut health);
    assert!(health.len() > 10 && health.iter().all(|health| ["ok", "unknown"].contains(health)), "{rules}");
    child.kill().unwrap();
    child.wait().unwrap();
    drop(limit);
}
