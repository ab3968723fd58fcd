//! A real MongoDB for tests: one mongod, or a replica set of three, each in a folder and on a port of its own, killed at the
//! end. `scripts/mongod.sh find` tells where the program is.
//!
//! Looks inside by the driver and not by chatkeep. Only builds with MongoDB have it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use mongodb::bson::{Bson, Document, doc};
use mongodb::error::Result;
use mongodb::options::ClientOptions;
use mongodb::sync::{Client, Collection};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{WAIT_TIMEOUT, free_port, wait_until};

/// The user of servers with authentication.
pub const USER: &str = "keeper";
/// Its password, which no output may hold.
pub const PASSWORD: &str = "hunter2hunter2";

/// How long elections of a test's replica set take, about.
const ELECTION_MS: i32 = 1000;

/// The program.
fn program() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/mongod.sh");
        let output = Command::new(script).arg("find").stderr(Stdio::inherit()).output().expect("the script can be run");
        assert!(output.status.success(), "scripts/mongod.sh find found no mongod");
        PathBuf::from(String::from_utf8(output.stdout).expect("a path in UTF-8").trim())
    })
}

/// One mongod.
pub struct Mongod {
    folder: TempDir,
    port: u16,
    arguments: Vec<String>,
    with_password: bool,
    child: Option<Child>,
}

impl Mongod {
    /// Starts one without authentication.
    #[track_caller]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// One without authentication that tests share, each in a database of its own; nobody may kill it. It ends with the last
    /// of them.
    #[track_caller]
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Mongod>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start());
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// Starts one that knows [`USER`] only.
    #[track_caller]
    pub fn start_with_password() -> Self {
        let mut server = Self::start();
        // The user must be in MongoDB's journal before the process is killed.
        let journal = doc! { "w": 1, "j": true };
        let create = doc! { "createUser": USER, "pwd": PASSWORD, "roles": ["root"], "writeConcern": journal };
        server.client().database("admin").run_command(create).run().expect("a user can be made");
        server.arguments.push("--auth".to_owned());
        server.with_password = true;
        server.restart();
        server
    }

    /// Starts one that can be told to fail, see [`Mongod::fail`].
    #[track_caller]
    pub fn start_fallible() -> Self {
        Self::start_with(&["--setParameter", "enableTestCommands=1"])
    }

    /// Makes commands fail as `data` says, `mode` times or until [`Mongod::work`].
    #[track_caller]
    pub fn fail(&self, mode: impl Into<Bson>, data: Document) {
        let set = doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data };
        self.client().database("admin").run_command(set).run().expect("a fail point can be set");
    }

    /// Ends what [`Mongod::fail`] began.
    #[track_caller]
    pub fn work(&self) {
        let set = doc! { "configureFailPoint": "failCommand", "mode": "off" };
        self.client().database("admin").run_command(set).run().expect("a fail point can be taken off");
    }

    /// Starts one with more arguments.
    #[track_caller]
    pub fn start_with(arguments: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("chatkeep-mongod-").tempdir().expect("a temporary folder");
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut server = Self { folder, port: free_port(), arguments, with_password: false, child: None };
        server.launch();
        server.wait_until_it_answers();
        server
    }

    fn launch(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("log"));
        let mut command = Command::new(program());
        command.arg("--dbpath").arg(self.folder.path()).arg("--unixSocketPrefix").arg(self.folder.path());
        command.args(["--bind_ip", "127.0.0.1", "--wiredTigerCacheSizeGB", "0.25", "--port", &self.port.to_string()]);
        command.args(["--setParameter", "diagnosticDataCollectionEnabled=false"]).args(&self.arguments);
        command.stdin(Stdio::null()).stdout(log.expect("a log can be opened")).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("mongod can be started"));
    }

    #[track_caller]
    fn wait_until_it_answers(&mut self) {
        let client = Client::with_options(direct(self.port, None)).expect("options of a test");
        wait_until("mongod answers", WAIT_TIMEOUT, || {
            let child = self.child.as_mut().expect("it was started");
            assert!(child.try_wait().expect("a child can be asked").is_none(), "mongod has ended, see its log");
            client.database("admin").run_command(doc! { "hello": 1 }).run().is_ok()
        });
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The connection string, with the credentials if it needs some.
    pub fn uri(&self) -> String {
        match self.with_password {
            true => format!("mongodb://{USER}:{PASSWORD}@127.0.0.1:{}/", self.port),
            false => format!("mongodb://127.0.0.1:{}/", self.port),
        }
    }

    /// The driver's own client, straight to this server.
    pub fn client(&self) -> Client {
        let options = ClientOptions::parse(self.uri()).run().expect("a test's own connection string");
        Client::with_options(direct(self.port, options.credential)).expect("options of a test")
    }

    /// The collection chatkeep writes to by default.
    pub fn messages(&self) -> Collection<Document> {
        self.messages_of("oqoqo")
    }

    /// The same in another database.
    pub fn messages_of(&self, database: &str) -> Collection<Document> {
        self.client().database(database).collection("chat_messages")
    }

    /// Kills it as a power switch would kill the process.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again on its data, after a kill if it still runs.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill9();
        self.launch();
        self.wait_until_it_answers();
    }

    /// The same with one more argument and its value.
    #[track_caller]
    pub fn restart_with(&mut self, name: &str, value: &str) {
        self.arguments.extend([name.to_owned(), value.to_owned()]);
        self.restart();
    }

    /// Stops the process where it stands (SIGSTOP): connections stay open and nothing answers. When this returns it stands:
    /// a thread that runs when the signal comes may do some more, an answer even.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.child.as_ref().expect("it runs").id());
        let stands = |stat: String| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'));
        wait_until("every thread of it stands", WAIT_TIMEOUT, || {
            let tasks = fs::read_dir(&tasks).expect("it runs").flatten();
            // A thread that has ended meanwhile has no such file.
            tasks.map(|task| fs::read_to_string(task.path().join("stat"))).all(|stat| stat.map_or(true, stands))
        });
    }

    /// Lets it go on (SIGCONT).
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Holds it still for `pause` while `meanwhile` runs, and longer if that takes longer.
    pub fn stop_cont<T>(&self, pause: Duration, meanwhile: impl FnOnce() -> T) -> T {
        self.freeze();
        let until = Instant::now() + pause;
        let result = meanwhile();
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            std::thread::park_timeout(left);
        }
        self.thaw();
        result
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("a child takes a signal");
    }
}

impl Drop for Mongod {
    fn drop(&mut self) {
        self.kill9();
    }
}

fn direct(port: u16, credential: Option<mongodb::options::Credential>) -> ClientOptions {
    let address = mongodb::options::ServerAddress::Tcp { host: "127.0.0.1".to_owned(), port: Some(port) };
    ClientOptions::builder()
        .hosts(vec![address])
        .direct_connection(true)
        .credential(credential)
        .server_selection_timeout(Duration::from_secs(2))
        .connect_timeout(Duration::from_secs(2))
        .build()
}

/// A document as the message it is, after a look at its form: fields, their order and their types.
#[track_caller]
pub fn message_of(document: &Document) -> serde_json::Value {
    let fields: Vec<&str> = document.keys().map(String::as_str).collect();
    let wanted = ["_id", "session_id", "role", "text", "metadata", "vector_ids", "created_at", "expires_at"];
    assert!(fields == wanted || fields == wanted[..7], "the fields of {document}");
    let text = |field: &str| document.get_str(field).unwrap_or_else(|e| panic!("{field}: {e}: {document}")).to_owned();
    let (id, created_at) = (text("_id"), text("created_at"));
    let time = mongodb::bson::DateTime::parse_rfc3339_str(&created_at).unwrap_or_else(|e| panic!("{e}: {document}"));
    let of_id = i64::from_str_radix(&id[..13].replace('-', ""), 16).unwrap_or_else(|e| panic!("{e}: {document}"));
    assert_eq!(time.timestamp_millis(), of_id, "created_at says what the id says: {document}");
    assert!(created_at.len() == 32 && created_at.ends_with("+00:00"), "microseconds of UTC: {document}");
    assert!(document.get_document("metadata").is_ok() && document.get_array("vector_ids").is_ok(), "{document}");
    if fields.len() == 8 {
        assert!(document.get_datetime("expires_at").is_ok(), "a TTL index looks at dates only: {document}");
    }
    serde_json::json!({"id": id, "session_id": text("session_id"), "role": text("role"), "text": text("text")})
}

/// Three servers, one of them primary.
pub struct ReplicaSet {
    /// The members, in the order of the configuration.
    pub members: Vec<Mongod>,
}

impl ReplicaSet {
    /// Starts three and waits for a primary and two secondaries.
    #[track_caller]
    pub fn start() -> Self {
        let start = || Mongod::start_with(&["--replSet", "rs", "--oplogSize", "64"]);
        let members: Vec<Mongod> = std::thread::scope(|scope| {
            let started: Vec<_> = (0..3).map(|_| scope.spawn(start)).collect();
            started.into_iter().map(|thread| thread.join().expect("mongod starts")).collect()
        });
        let set = Self { members };
        let hosts: Vec<Document> = (0_i32..).zip(&set.members).map(|(n, member)| member_of_set(n, member)).collect();
        let config = doc! { "_id": "rs", "members": hosts, "settings": { "electionTimeoutMillis": ELECTION_MS } };
        let initiate = doc! { "replSetInitiate": config };
        set.members[0].client().database("admin").run_command(initiate).run().expect("the set can be initiated");
        set.wait_until_whole();
        set
    }

    /// Waits for a primary and two secondaries.
    #[track_caller]
    pub fn wait_until_whole(&self) {
        wait_until("a primary and two secondaries", WAIT_TIMEOUT, || {
            self.primary().is_some() && self.members.iter().filter(|m| is(m, "secondary")).count() == 2
        });
    }

    /// The connection string of all three.
    pub fn uri(&self) -> String {
        let hosts: Vec<String> = self.members.iter().map(|m| format!("127.0.0.1:{}", m.port)).collect();
        format!("mongodb://{}/?replicaSet=rs", hosts.join(","))
    }

    /// Which member is primary, if one is.
    pub fn primary(&self) -> Option<usize> {
        self.members.iter().position(|member| member.child.is_some() && is(member, "isWritablePrimary"))
    }

    /// Waits for a primary.
    #[track_caller]
    pub fn wait_for_primary(&self) -> usize {
        wait_until("a primary", WAIT_TIMEOUT, || self.primary().is_some());
        self.primary().expect("there was one just now")
    }

    /// Kills the primary; which one it was.
    #[track_caller]
    pub fn kill_primary(&mut self) -> usize {
        let primary = self.wait_for_primary();
        self.members[primary].kill9();
        primary
    }

    /// Makes the primary step down, so that another is elected.
    #[track_caller]
    pub fn step_down(&self) {
        let primary = self.wait_for_primary();
        let step_down = doc! { "replSetStepDown": 20, "secondaryCatchUpPeriodSecs": 5, "force": true };
        self.members[primary].client().database("admin").run_command(step_down).run().expect("a primary steps down");
    }

    /// All documents of chatkeep's collection, as the primary has them.
    pub fn messages(&self) -> Collection<Document> {
        self.members[self.wait_for_primary()].messages()
    }
}

fn member_of_set(n: i32, member: &Mongod) -> Document {
    doc! { "_id": n, "host": format!("127.0.0.1:{}", member.port) }
}

fn is(member: &Mongod, what: &str) -> bool {
    let hello: Result<Document> = member.client().database("admin").run_command(doc! { "hello": 1 }).run();
    hello.is_ok_and(|hello| hello.get_bool(what).unwrap_or(false))
}
