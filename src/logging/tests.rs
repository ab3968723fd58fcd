//! The log as its readers see it. Compiled under `#[cfg(test)]` only.

use std::any::Any;
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::queue::QUEUE_LINES;
use super::text::MESSAGE_BYTES;
use super::*;
use crate::thread;

/// Remembers each write by itself.
#[derive(Clone, Default)]
struct Writes(Arc<Mutex<Vec<String>>>);

impl Writes {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Write for Writes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().push(String::from_utf8(bytes.to_vec()).unwrap());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logger(level: LevelFilter) -> (Writes, Logger<Writes>) {
    styled(LogConfig { level, format: LogFormat::Text, access: false }, LineStyle::Plain)
}

fn styled(config: LogConfig, style: LineStyle) -> (Writes, Logger<Writes>) {
    let writes = Writes::default();
    (writes.clone(), Logger::new(&config, style, writes))
}

fn log_to(logger: &impl Log, level: Level, target: &str, message: fmt::Arguments<'_>) {
    logger.log(&Record::builder().level(level).target(target).args(message).build());
}

#[test]
fn a_record_is_one_write_of_one_line_with_time_level_and_thread() {
    let (writes, logger) = logger(LevelFilter::Info);
    let run = move || log_to(&logger, Level::Info, "chatkeep::cache", format_args!("[CHAT CACHE] {}", 1));
    thread::spawn("http-7", run).unwrap().join().unwrap();
    let written = writes.take();
    assert_eq!(written.len(), 1, "{written:?}");
    let (time, rest) = written[0].split_once(' ').unwrap();
    assert_eq!(rest, "[INFO ] (http-7) [CHAT CACHE] 1\n");
    time::OffsetDateTime::parse(time, &time::format_description::well_known::Rfc3339).unwrap();
    assert!(time.ends_with("+00:00") && time.len() == 32, "{time}");
}

#[test]
fn no_text_can_forge_a_line_or_steer_a_terminal() {
    let (writes, logger) = logger(LevelFilter::Info);
    let text = "a\n2025 [ERROR] forged\r\t\0\x1b[31m\x7f\u{85}\u{9b}\u{2028}\u{202e}é😀\\";
    log_to(&logger, Level::Info, OURS, format_args!("{text}"));
    let written = writes.take().concat();
    let escapes = "a\\n2025 [ERROR] forged\\r\\t\\u{0}\\u{1b}[31m\\u{7f}\\u{85}\\u{9b}\\u{2028}\\u{202e}é😀\\\n";
    assert!(written.ends_with(escapes), "{written}");
    assert_eq!(written.chars().filter(|c| c.is_control()).count(), 1);
}

#[test]
fn a_line_names_its_request_and_under_journald_its_priority() {
    let config = LogConfig { level: LevelFilter::Debug, format: LogFormat::Text, access: false };
    let (writes, logger) = styled(config, LineStyle::Journal);
    let run = move || {
        let entered = enter(Some("1b2c-5".into()));
        for level in [Level::Error, Level::Warn, Level::Info] {
            log_to(&logger, level, OURS, format_args!("a\nb"));
        }
        drop(entered);
        log_to(&logger, Level::Debug, "chatkeep::cache", format_args!("c"));
    };
    thread::spawn("http-7", run).unwrap().join().unwrap();
    let lines = [
        "<3>[ERROR] (http-7) a\\nb (request 1b2c-5)\n",
        "<4>[WARN ] (http-7) a\\nb (request 1b2c-5)\n",
        "<6>[INFO ] (http-7) a\\nb (request 1b2c-5)\n",
        "<7>[DEBUG] (http-7) chatkeep::cache: c\n",
    ];
    assert_eq!(writes.take(), lines);
    assert!(LineStyle::Journal.lost(3).starts_with(b"<4>[WARN ] (log) 3 lines were lost"));
}

#[test]
fn a_line_of_json_is_one_object_that_keeps_the_text_and_steers_nothing() {
    let config = LogConfig { level: LevelFilter::Info, format: LogFormat::Json, access: true };
    let (writes, logger) = styled(config, LineStyle::Json);
    let text = "a\n\"2025\" [ERROR]\r\t\0\x1b[31m\x7f\u{85}\u{9b}\u{2028}\u{202e}é😀\\";
    request::tell_sessions();
    let entered = enter(Some("1b2c-5".into()));
    about_session("s");
    log_to(&logger, Level::Warn, "chatkeep::cache", format_args!("{text}"));
    drop(entered);
    let fields = [("status", log::kv::Value::from(200u16)), ("path", "/\u{7f}".into()), ("ms", 0.5.into())];
    let args = format_args!("done");
    logger.log(&Record::builder().level(Level::Info).target(ACCESS).args(args).key_values(&fields).build());
    let written = writes.take();
    let objects: Vec<serde_json::Value> = written.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &written {
        assert!(line.ends_with('\n') && line.chars().filter(|c| text::forges(*c)).count() == 1, "{line:?}");
    }
    let (warned, access) = (&objects[0], &objects[1]);
    assert_eq!((&warned["message"], &warned["level"]), (&text.into(), &"WARN".into()), "{warned}");
    assert_eq!((&warned["request_id"], &warned["session"]), (&"1b2c-5".into(), &"s".into()), "{warned}");
    assert_eq!(warned["target"], "chatkeep::cache");
    let time = warned["time"].as_str().unwrap();
    time::OffsetDateTime::parse(time, &time::format_description::well_known::Rfc3339).unwrap();
    assert_eq!((&access["status"], &access["ms"], &access["path"]), (&200.into(), &0.5.into(), &"/\u{7f}".into()));
    assert!(access.get("request_id").is_none() && access.get("session").is_none(), "{access}");
    let lost: serde_json::Value = serde_json::from_slice(&LineStyle::Json.lost(3)).unwrap();
    assert!(lost["level"] == "WARN" && lost["message"].as_str().unwrap().starts_with("3 lines"), "{lost}");
}

#[test]
fn the_access_log_is_written_only_where_it_is_wanted() {
    for access in [false, true] {
        let config = LogConfig { level: LevelFilter::Info, format: LogFormat::Text, access };
        let (_, logger) = styled(config, LineStyle::Plain);
        assert_eq!(logger.enabled(&Metadata::builder().level(Level::Info).target(ACCESS).build()), access);
    }
}

#[test]
fn a_long_message_is_cut_and_says_so() {
    let (writes, logger) = logger(LevelFilter::Info);
    log_to(&logger, Level::Info, OURS, format_args!("{}", "é".repeat(MESSAGE_BYTES)));
    let written = writes.take().concat();
    assert!(written.len() < MESSAGE_BYTES + 200);
    assert!(written.ends_with(&format!("é… ({MESSAGE_BYTES} more bytes)\n")));
}

#[test]
fn other_crates_are_heard_from_warn_up_unless_all_is_traced() {
    for (level, at, target, heard) in [
        (LevelFilter::Debug, Level::Debug, "chatkeep::journal", true),
        (LevelFilter::Debug, Level::Trace, "chatkeep", false),
        (LevelFilter::Debug, Level::Debug, "tungstenite::protocol", false),
        (LevelFilter::Debug, Level::Info, "chatkeeper", false),
        (LevelFilter::Info, Level::Warn, "mongodb", true),
        (LevelFilter::Trace, Level::Trace, "tungstenite", true),
        (LevelFilter::Trace, Level::Debug, "ureq_proto::util", false),
        (LevelFilter::Trace, Level::Warn, "ureq_proto", true),
        (LevelFilter::Off, Level::Error, "chatkeep", false),
    ] {
        let (writes, logger) = logger(level);
        log_to(&logger, at, target, format_args!("x"));
        assert_eq!(writes.take().len(), usize::from(heard), "{level} {at} {target}");
    }
}

#[test]
fn a_stderr_that_fails_is_no_fault_and_a_later_line_is_whole() {
    struct FailsOnce(Writes, bool);
    impl Write for FailsOnce {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if std::mem::replace(&mut self.1, true) {
                self.0.write(bytes)
            } else {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let writes = Writes::default();
    let config = LogConfig { level: LevelFilter::Info, format: LogFormat::Text, access: false };
    let logger = Logger::new(&config, LineStyle::Plain, FailsOnce(writes.clone(), false));
    log_to(&logger, Level::Info, OURS, format_args!("lost"));
    log_to(&logger, Level::Info, OURS, format_args!("kept"));
    let written = writes.take().concat();
    assert!(written.ends_with("kept\n") && !written.contains("lost"), "{written}");
}

#[test]
fn a_display_that_fails_or_panics_does_not_break_the_log() {
    struct Bad(bool);
    impl fmt::Display for Bad {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("half")?;
            assert!(!self.0, "a Display that panics");
            Err(fmt::Error)
        }
    }
    let (writes, logger) = logger(LevelFilter::Info);
    log_to(&logger, Level::Info, OURS, format_args!("{}", Bad(false)));
    assert!(writes.take().concat().ends_with("half\n"));
    let panics = std::panic::AssertUnwindSafe(|| log_to(&logger, Level::Info, OURS, format_args!("{}", Bad(true))));
    assert!(std::panic::catch_unwind(panics).is_err());
    log_to(&logger, Level::Info, OURS, format_args!("after"));
    assert!(writes.take().concat().ends_with("after\n"));
}

#[test]
fn a_panic_shows_literals_always_and_formatted_text_at_trace_only() {
    let formatted: Box<dyn Any + Send> = Box::new(String::from("it is inside 'é' of `a client's message`"));
    assert_eq!(panic_text(&"a literal", LevelFilter::Error), "a literal");
    assert!(!panic_text(&*formatted, LevelFilter::Debug).contains("client"));
    assert!(panic_text(&*formatted, LevelFilter::Trace).contains("client"));
    assert_eq!(panic_text(&7, LevelFilter::Trace), "(no text)");
}

const ROLE: &str = "CHATKEEP_TEST_LOGGING_ROLE";

#[test]
fn the_child_of_the_next_test() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    init(&LogConfig { level: LevelFilter::Info, format: LogFormat::Text, access: false }).unwrap();
    let text = String::from("a client's message");
    assert!(thread::spawn("http-9", move || panic!("{text}")).unwrap().join().is_err());
    log::info!("still here\nand whole");
    // Each waits a second at most.
    (0..60).for_each(|_| log::logger().flush());
}

#[test]
fn a_panic_is_one_line_on_stderr_with_its_thread_and_place() {
    let only = ["--exact", "logging::tests::the_child_of_the_next_test", "--nocapture"];
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let output = child.args(only).env(ROLE, "1").env("RUST_BACKTRACE", "1").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{stderr}");
    assert!(lines[0].contains("[ERROR] (http-9) panic at src/logging/tests.rs:"), "{stderr}");
    assert!(lines[1].ends_with("still here\\nand whole") && !stderr.contains("client"), "{stderr}");
    assert!(output.status.success());
}

#[test]
fn a_throttle_admits_a_few_a_second_and_counts_the_rest() {
    let throttle = Throttle::new(2);
    let start = Instant::now();
    let at = |ms: u64| throttle.admit_at(start + Duration::from_millis(ms));
    assert_eq!([at(0), at(1), at(2), at(999)], [Some(0), Some(0), None, None]);
    assert_eq!([at(1000), at(1001), at(1500)], [Some(2), Some(0), None]);
    assert_eq!(at(9000), Some(1));
    // A time that another thread read just before the window began counts as within it.
    assert_eq!([at(8999), at(8999)], [Some(0), None]);
}

#[test]
fn a_reader_that_stops_delays_nobody_and_is_told_how_much_was_lost() {
    let (reader, writer) = io::pipe().unwrap();
    let mut queue = LogQueue::new(writer, LineStyle::Plain);
    let line = vec![b'x'; 1000];
    // More than the pipe and the queue hold: without the queue this would wait for ever.
    (0..4 * QUEUE_LINES).for_each(|_| drop(queue.write(&[&line[..], b"\n"].concat())));
    let mut lines = io::BufRead::lines(io::BufReader::new(reader)).map(Result::unwrap);
    let told = lines.find(|line| line.contains("lines were lost")).unwrap();
    let lost: usize = told.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
    assert!((1..4 * QUEUE_LINES).contains(&lost), "{told}");
    // The queue may be full again, so that this is lost too; then there is more to be read than was lost.
    let mut said_and_read = (0..8 * QUEUE_LINES).map(|_| {
        queue.write_all(b"after\n").unwrap();
        lines.next()
    });
    assert!(said_and_read.any(|line| line.is_some_and(|line| line == "after")));
}

#[test]
fn a_flush_waits_for_what_was_logged() {
    let (mut reader, writer) = io::pipe().unwrap();
    let mut queue = LogQueue::new(writer, LineStyle::Plain);
    queue.write_all(b"one\n").unwrap();
    queue.flush().unwrap();
    let mut read = [0; 4];
    io::Read::read_exact(&mut reader, &mut read).unwrap();
    assert_eq!(&read, b"one\n");
}
