//! `leveret ctl` against a running `leveret server`.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

const LEVERET: &str = env!("CARGO_BIN_EXE_leveret");

/// A server; it ends with the test.
struct Server {
    dir: PathBuf,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts one on `folder/data`, with its log in `folder/log`.
    fn start(folder: &Path) -> Server {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(folder.join("log"))
            .unwrap();
        let dir = folder.join("data");
        let child = Command::new(LEVERET)
            .args(["server", "--set", "listeners.tcp.1=127.0.0.1:0"])
            .args([
                "--set",
                "management.tcp=none",
                "--set",
                "prometheus.tcp=none",
            ])
            .arg("--data-dir")
            .arg(&dir)
            .stdout(log)
            .spawn()
            .unwrap();
        let server = Server { dir, child };
        assert_eq!(server.ctl(&["await_startup", "-t", "60"]), done(""));
        server
    }

    /// Runs a command and answers its exit code, standard output and standard error.
    fn ctl(&self, words: &[&str]) -> (i32, String, String) {
        self.ctl_with_input(words, "")
    }

    fn ctl_with_input(&self, words: &[&str], input: &str) -> (i32, String, String) {
        let mut child = Command::new(LEVERET)
            .args(["ctl", "--data-dir"])
            .arg(&self.dir)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that reads nothing may be over by now.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap();
        (code, text(output.stdout), text(output.stderr))
    }

    fn json(&self, words: &[&str]) -> Value {
        let (code, out, err) = self.ctl(&[words, &["--formatter", "json"]].concat());
        assert_eq!((code, err.as_str()), (0, ""), "{words:?}");
        serde_json::from_str(&out).unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("ctl.sock")
    }
}

fn done(out: &str) -> (i32, String, String) {
    (0, out.to_owned(), String::new())
}

#[test]
fn users_and_permissions_survive_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    for line in [
        "-q add_user ann s3cret-password",
        "set_user_tags -q ann administrator monitoring",
        "-q add_vhost v1",
        "set_permissions -q -p v1 ann ^a .* ^$",
        "set_policy -q -p v1 --priority 3 --apply-to queues p ^q {\"max-length\":10}",
        "set_vhost_limits -q -p v1 {\"max-queues\":7}",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(server.ctl(&words), done(""), "{line}");
    }
    drop(server);

    let server = Server::start(folder.path());
    let (code, out, _) = server.ctl(&["list_users"]);
    let users = "Listing users ...\nuser\ttags\nann\t[administrator, monitoring]\n\
                 guest\t[administrator]\n";
    assert_eq!((code, out.as_str()), (0, users));
    let permissions = json!([{"user": "ann", "configure": "^a", "write": ".*", "read": "^$"}]);
    assert_eq!(server.json(&["list_permissions", "-p", "v1"]), permissions);
    let policy = "v1\tp\t^q\tqueues\t{\"max-length\":10}\t3\n";
    let listed = server.ctl(&["list_policies", "--silent", "-p", "v1"]);
    assert_eq!(listed, done(policy));
    let limits = server.ctl(&["list_vhost_limits", "-q", "-p", "v1"]);
    assert_eq!(limits, done("{\"max-queues\":7}\n"));
    let right = server.ctl_with_input(&["authenticate_user", "-q", "ann"], "s3cret-password\n");
    assert_eq!(right, done("Success\n"));
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(log.contains("add_user") && !log.contains("s3cret"), "{log}");
}

#[test]
fn refusals_have_rabbitmqctls_codes_and_words() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    for (line, code, complaint) in [
        (
            "add_user guest x",
            70,
            "Error:\nUser \"guest\" already exists\n",
        ),
        (
            "delete_user eve",
            67,
            "Error:\nUser \"eve\" does not exist\n",
        ),
        (
            "clear_password eve",
            69,
            "Error:\n{:no_such_user, \"eve\"}\n",
        ),
        (
            "authenticate_user guest no",
            65,
            "Error:\nError: failed to authenticate user \"guest\"\nuser 'guest' - invalid \
             credentials\n",
        ),
        (
            "delete_vhost nov",
            65,
            "Virtual host 'nov' does not exist\n",
        ),
        (
            "set_permissions -p nov guest a b c",
            69,
            "Error:\nVirtual host nov does not exist\n",
        ),
        ("clear_policy no", 69, "Error:\nParameter does not exist\n"),
        (
            "set_policy p q {\"bogus\":1}",
            69,
            "Error:\nValidation failed\n\n[{<<\"bogus\">>,1}] are not recognised policy \
             settings\n\n",
        ),
        (
            "set_policy p q nojson",
            69,
            "Error:\nJSON decoding error. Reason: badarg\n",
        ),
        ("delete_queue no", 64, "Error:\nQueue not found\n"),
        ("purge_queue no", 69, "Error:\nnot_found\n"),
    ] {
        let words: Vec<&str> = ["-q"].into_iter().chain(line.split(' ')).collect();
        let expected = (code, String::new(), complaint.to_owned());
        assert_eq!(server.ctl(&words), expected, "{line}");
    }
}

#[test]
fn definitions_go_out_and_in() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let definitions = json!({
        "vhosts": [{"name": "v"}],
        "queues": [{"vhost": "v", "name": "q", "durable": true, "auto_delete": false,
                    "arguments": {"x-max-length": 5}}],
        "exchanges": [],
        "bindings": [{"vhost": "v", "source": "amq.topic", "destination": "q",
                      "destination_type": "queue", "routing_key": "a.#", "arguments": {}}],
    })
    .to_string();
    let imported = server.ctl_with_input(&["import_definitions", "-q", "-"], &definitions);
    assert_eq!(imported, done("Successfully imported definitions.\n"));
    let queues = server.ctl(&["list_queues", "-q", "-p", "v", "name", "type,arguments"]);
    let listed = "name\ttype\targuments\nq\tclassic\t[{\"x-max-length\",5}]\n";
    assert_eq!(queues, done(listed));

    let file = folder.path().join("out.json");
    let written = server.ctl(&["export_definitions", "-q", file.to_str().unwrap()]);
    assert_eq!(written, done(""));
    let exported: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(exported["bindings"][0]["routing_key"], "a.#");
    let deleted = server.ctl(&["delete_queue", "-q", "-p", "v", "q", "--if-empty", "-u"]);
    let text = "Queue was successfully deleted with 0 ready messages\n";
    assert_eq!(deleted, done(text));
}

#[test]
fn alarms_come_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let alarms = || server.json(&["status"])["alarms"].clone();
    let set = |words: &[&str]| assert_eq!(server.ctl(&[&["-q"], words].concat()), done(""));
    set(&["set_disk_free_limit", "0"]);
    assert_eq!(alarms(), json!([]));
    set(&["set_vm_memory_high_watermark", "absolute", "1kB"]);
    assert_eq!(alarms(), json!(["memory"]));
    set(&["set_disk_free_limit", "1000000GB"]);
    assert_eq!(alarms(), json!(["memory", "disk"]));
    set(&["set_vm_memory_high_watermark", "1.0"]);
    set(&["set_disk_free_limit", "0"]);
    assert_eq!(alarms(), json!([]));
}

/// What comes back for a line that no client of ours would write.
fn say(server: &Server, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(server.socket()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    // The node may hang up before it has everything.
    let _ = stream.write_all(bytes);
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

#[test]
fn the_socket_is_the_owners_and_takes_no_nonsense() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mode = std::fs::metadata(server.socket()).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    for (line, complaint) in [
        (&b"nonsense\n"[..], "not a request"),
        (b"{\"v\":99,\"verb\":\"ping\"}\n", "version 99"),
        (b"\xff\xfe\n", "not a request"),
    ] {
        let reply = say(&server, line);
        assert!(reply.contains(complaint), "{reply}");
    }
    let endless = vec![b'x'; leveret::ctl::protocol::REQUEST_BYTES_MAX];
    let reply = say(&server, &endless);
    assert!(reply.contains("longer than"), "{reply}");
    // Others are served meanwhile, and clients that only look do no harm.
    let _silent: Vec<UnixStream> = (0..8)
        .map(|_| UnixStream::connect(server.socket()).unwrap())
        .collect();
    let ping = server.ctl(&["ping", "-q", "-t", "30"]);
    assert_eq!(ping, done("Ping succeeded\n"));
}

#[test]
fn stop_returns_when_the_node_is_down() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    assert_eq!(server.ctl(&["stop", "-q"]), done(""));
    // Its last act was to let go of the connection: the process is over but for the kernel's part.
    let status = server.child.wait().unwrap();
    assert!(status.success(), "{status}");
    assert!(!server.socket().exists());
    let mut log = String::new();
    std::fs::File::open(folder.path().join("log"))
        .unwrap()
        .read_to_string(&mut log)
        .unwrap();
    assert!(log.contains("a control command asks for it"), "{log}");
}

#[test]
fn a_long_path_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("d".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    let server = Server::start(&deep);
    let ping = server.ctl(&["ping", "-q"]);
    assert_eq!(ping, done("Ping succeeded\n"));
}
