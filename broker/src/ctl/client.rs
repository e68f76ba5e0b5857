//! The client: reads the command line, asks the node, shows what it says.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use leveret_topology::{HashingAlgorithm, PasswordHash};

use super::args::{Invocation, parse};
use super::banner::banner;
use super::columns::columns_of;
use super::dial::{NoReply, SOCKET_VARIABLE, ask, is_told, socket_path};
use super::format::{Format, Style, render};
use super::handlers::known_plugins;
use super::protocol::{Answer, Failure, Output, REQUEST_BYTES_MAX, Reply, Request, VERSION, exit};
use super::thresholds;
use super::tools::Tool;
use super::verbs::{Verb, nearest};

/// How long a command may take if `--timeout` does not say.
const TIMEOUT: Duration = Duration::from_secs(300);
/// How long a start-up may take if `--timeout` does not say.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(300);
/// How often a node that starts is asked.
pub(super) const STARTUP_POLL: Duration = Duration::from_millis(100);
/// How long it is waited for a node that can be spared if `--timeout` does not say.
const SPARE_TIMEOUT: Duration = Duration::from_secs(120);
/// The environment variable that names the node that is meant.
const NODE_VARIABLE: &str = "RABBITMQ_NODENAME";

/// Where a command's results go, so that tests can look at them.
pub struct Console<'a> {
    /// Standard output.
    pub out: &'a mut dyn Write,
    /// Standard error.
    pub err: &'a mut dyn Write,
    /// Standard input.
    pub input: &'a mut dyn Read,
}

impl std::fmt::Debug for Console<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Console")
    }
}

/// Runs a tool with these words.
pub fn main(tool: Tool, words: Vec<String>) -> ExitCode {
    let mut console = Console {
        out: &mut std::io::stdout(),
        err: &mut std::io::stderr(),
        input: &mut std::io::stdin(),
    };
    ExitCode::from(run(tool, words, &mut console))
}

/// Runs a command and answers its exit code.
pub fn run(tool: Tool, words: Vec<String>, console: &mut Console<'_>) -> u8 {
    let given = words.join(" ");
    let invocation = parse(tool, words);
    match execute(tool, &invocation, &given, console) {
        Ok(()) => exit::OK,
        Err(failure) => {
            // The text goes nowhere when nobody listens; the code tells all the same.
            let _ = writeln!(console.err, "{}", failure.text);
            failure.code
        }
    }
}

fn execute(
    tool: Tool,
    invocation: &Invocation,
    given: &str,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    if invocation.name.is_none() && invocation.has("version") {
        return print(console, &format!("{}\n", env!("CARGO_PKG_VERSION")));
    }
    let Some(name) = invocation.name.as_deref() else {
        if invocation.has("help") {
            return print(console, &format!("{}\n", general_help(tool)));
        }
        return Err(Failure::plain(exit::USAGE, general_help(tool)));
    };
    let Some(verb) = invocation.verb else {
        return Err(unknown(tool, name));
    };
    if invocation.has("help") {
        return print(console, &verb_help(tool, verb));
    }
    let line = Line { tool, verb, given };
    let format = check(invocation, &line)?;
    match verb.name {
        "help" => return help(tool, invocation, console),
        "version" => return print(console, &format!("{}\n", env!("CARGO_PKG_VERSION"))),
        "force_boot" => {
            let text =
                "Nothing to force: a node starts without waiting for the one that stopped last";
            return print(console, &format!("{text}\n"));
        }
        _ => {}
    }
    let mut request = Request {
        v: VERSION,
        verb: verb.name.to_owned(),
        args: invocation.args.clone(),
        options: invocation.options.clone(),
    };
    if !request.flag("node")
        && !is_told(invocation)
        && let Ok(name) = std::env::var(NODE_VARIABLE)
    {
        request.options.insert("node".to_owned(), name);
    }
    if verb.takes_password(request.args.len()) {
        let password = read_password(&request, console)?;
        request.args.push(password);
    }
    if verb.name == "hash_password" {
        return hash_password(&request, console);
    }
    if verb.name == "import_definitions" {
        let definitions = read_definitions(&request, &line, console)?;
        request.options.insert("definitions".into(), definitions);
    }
    validate(&request, &line)?;
    let socket = socket_path(tool, invocation);
    let reply = match verb.name {
        "await_startup" => return await_startup(&socket, &request, invocation),
        "wait" => return super::wait::run(&socket, &request, console),
        "report" => return super::report::run(&socket, &request, console),
        "await_online_nodes" => await_reached(&socket, &request, timeout(invocation, TIMEOUT)),
        "await_online_quorum_plus_one" | "await_online_synchronized_mirror" => {
            await_reached(&socket, &request, timeout(invocation, SPARE_TIMEOUT))
        }
        _ => ask(&socket, &request, timeout(invocation, TIMEOUT)),
    };
    show(&request, reply, invocation, format, console)
}

/// A command line that is understood.
struct Line<'a> {
    tool: Tool,
    verb: &'static Verb,
    /// All of its words.
    given: &'a str,
}

/// Refuses switches and arguments that do not fit.
fn check(invocation: &Invocation, line: &Line<'_>) -> Result<Format, Failure> {
    let verb = line.verb;
    let refuse = |what: &str| Err(misuse(line, exit::USAGE, what));
    if !invocation.invalid.is_empty() {
        let mut lines = String::new();
        for (name, value) in &invocation.invalid {
            lines.push_str(&format!("\n{name} : {}", value.as_deref().unwrap_or("")));
        }
        return refuse(&format!("Invalid options for this command:{lines}"));
    }
    if invocation.args.len() < verb.args_min {
        return refuse("not enough arguments.");
    }
    if invocation.args.len() > verb.args_max {
        return refuse("too many arguments.");
    }
    let usual = match verb.name {
        "quorum_status" => "pretty_table",
        _ => "table",
    };
    let name = invocation.option("formatter").unwrap_or(usual);
    match Format::from_name(name) {
        Some(format) => Ok(format),
        None => refuse(&format!("unknown formatter: {name}")),
    }
}

/// Refuses arguments that the node would refuse, with the usage.
fn validate(request: &Request, line: &Line<'_>) -> Result<(), Failure> {
    if let Err(unknown) = columns_of(request) {
        let what = format!("Info key(s) {} are not supported", unknown.join(","));
        return Err(misuse(line, exit::USAGE, &what));
    }
    if let Some(Err(bad)) = thresholds::read(request) {
        return Err(misuse(line, bad.code, &bad.text));
    }
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    match request.verb.as_str() {
        "wait" => match (request.arg(0), request.option("pid")) {
            (None, None) => Err(misuse(line, exit::USAGE, "\"No pid or pidfile specified\"")),
            (Some(_), Some(_)) => Err(misuse(
                line,
                exit::USAGE,
                "\"Cannot specify both pid and pidfile\"",
            )),
            _ => Ok(()),
        },
        "check_port_listener" if !request.arg(0).is_some_and(is_port) => {
            let what = "Bad argument: Argument must be a positive integer";
            Err(misuse(line, exit::DATA_ERROR, what))
        }
        _ => Ok(()),
    }
}

fn usage(tool: Tool, verb: &Verb) -> String {
    let place = match tool {
        Tool::Leveret => "[--data-dir <dir>]",
        _ => "[--node <node>]",
    };
    let usage = format!(
        "{} {place} [--quiet] {} {}",
        tool.name(),
        verb.name,
        verb.usage
    );
    format!("\nUsage\n\n{}", usage.trim_end())
}

/// A command line that is wrong. The words are repeated, but for passwords.
fn misuse(line: &Line<'_>, code: u8, what: &str) -> Failure {
    let given = match line.verb.is_secret() {
        true => String::new(),
        false => format!("Arguments given:\n\t{}\n", line.given),
    };
    let text = format!(
        "Error (argument validation): {what}\n{given}{}",
        usage(line.tool, line.verb)
    );
    Failure::plain(code, text)
}

fn unknown(tool: Tool, name: &str) -> Failure {
    let text = match nearest(name, |verb| tool.has(verb)) {
        Some(nearest) => {
            format!("\nCommand '{name}' not found. \nDid you mean '{nearest}'? \n")
        }
        None => format!("\nCommand '{name}' not found. \n{}", general_help(tool)),
    };
    Failure::plain(exit::USAGE, text)
}

fn general_help(tool: Tool) -> String {
    let name = tool.name();
    let mut out = format!(
        "\nUsage\n\n{name} [--node <node>] [--data-dir <dir> | --socket <path>] [--timeout <timeout>] [--quiet] <command> [<command options>]\n\nAvailable commands:\n\n"
    );
    for verb in tool.verbs() {
        out.push_str(&format!("   {:<30}{}\n", verb.name, verb.about));
    }
    out.push_str(&format!(
        "\nUse '{name} help <command>' to learn more about a specific command"
    ));
    out
}

fn verb_help(tool: Tool, verb: &Verb) -> String {
    const OPTIONS: &str = "
General options

   -n, --node <node>       the node, if it is not the one of the socket, which passes the command on [default: RABBITMQ_NODENAME]
   -q, --quiet             no informational messages
   -s, --silent            no informational messages, no table headers
   -p, --vhost <vhost>     the virtual host, for commands that concern one [default: /]
   -t, --timeout <n>       seconds that the command may take
       --formatter <name>  table, pretty_table, csv or json
       --no-table-headers  no table headers
       --data-dir <dir>    the data directory of the node [default: LEVERET_DATA_DIR, ./leveret-data of leveret ctl, /var/lib/leveret]
       --socket <path>     the socket of the node [default: LEVERET_CTL_SOCKET, ctl.sock in the data directory]
";
    format!("{}\n\n{}\n{OPTIONS}", usage(tool, verb), verb.about)
}

fn help(tool: Tool, invocation: &Invocation, console: &mut Console<'_>) -> Result<(), Failure> {
    match invocation.args.first() {
        None => print(console, &format!("{}\n", general_help(tool))),
        Some(name) => match tool.find(name) {
            Some(verb) => print(console, &verb_help(tool, verb)),
            None => Err(unknown(tool, name)),
        },
    }
}

pub(super) fn print(console: &mut Console<'_>, text: &str) -> Result<(), Failure> {
    let written = console
        .out
        .write_all(text.as_bytes())
        .and_then(|()| console.out.flush());
    match written {
        // `list_queues | head` is no failure.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::new(
            exit::SOFTWARE,
            format!("cannot write to standard output: {error}"),
        )),
        _ => Ok(()),
    }
}

/// One line of standard input. It shows on a terminal: turning that off needs more than the standard library.
fn read_password(request: &Request, console: &mut Console<'_>) -> Result<String, Failure> {
    /// Longest password in bytes.
    const PASSWORD_BYTES_MAX: u64 = 64 << 10;
    if std::io::stdin().is_terminal() {
        let _ = write!(console.err, "Password: ");
        let _ = console.err.flush();
    }
    let mut line = String::new();
    let read = BufReader::new((&mut *console.input).take(PASSWORD_BYTES_MAX)).read_line(&mut line);
    let password = line.trim_end_matches(['\r', '\n']);
    if read.is_err() || password.is_empty() {
        let code = match request.verb.as_str() {
            "add_user" => exit::DATA_ERROR,
            _ => exit::SOFTWARE,
        };
        let text = "Password is not provided via argument or stdin";
        return Err(Failure::new(code, text));
    }
    Ok(password.to_owned())
}

fn hash_password(request: &Request, console: &mut Console<'_>) -> Result<(), Failure> {
    let salt = super::handlers::salt();
    let password = request.arg(0).unwrap_or_default();
    if password.is_empty() {
        return Err(Failure::new(
            exit::DATA_ERROR,
            "password cannot be an empty string",
        ));
    }
    let hash = PasswordHash::new(password, salt, HashingAlgorithm::Sha256);
    print(console, &format!("{}\n", hash.to_base64()))
}

fn read_definitions(
    request: &Request,
    line: &Line<'_>,
    console: &mut Console<'_>,
) -> Result<String, Failure> {
    let most = REQUEST_BYTES_MAX as u64;
    let mut text = String::new();
    let path = request.arg(0).unwrap_or("-");
    let read = if path == "-" {
        (&mut *console.input).take(most).read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(most).read_to_string(&mut text))
    };
    match read {
        Ok(_) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let what = format!("Bad argument: File {path} does not exist");
            Err(misuse(line, exit::DATA_ERROR, &what))
        }
        Err(error) => Err(Failure::new(
            exit::DATA_ERROR,
            format!("cannot read {path}: {error}"),
        )),
    }
}

fn timeout(invocation: &Invocation, default: Duration) -> Duration {
    let seconds = invocation.option("timeout").and_then(|t| t.parse().ok());
    match seconds {
        // RabbitMQ's `infinity` is no number; 0 would be no time at all.
        Some(0) | None => default,
        Some(seconds) => Duration::from_secs(seconds),
    }
}

fn await_startup(socket: &Path, request: &Request, invocation: &Invocation) -> Result<(), Failure> {
    let limit = timeout(invocation, STARTUP_TIMEOUT);
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match ask(socket, request, left.max(Duration::from_millis(1))) {
            Ok(Reply {
                result: Answer::Ok(_),
                ..
            }) => return Ok(()),
            _ if left.is_zero() => {
                let text = format!(
                    "Error: the node did not start within {} s",
                    limit.as_secs_f32()
                );
                return Err(Failure::plain(exit::TEMPORARY, text));
            }
            _ => std::thread::sleep(STARTUP_POLL.min(left)),
        }
    }
}

/// How long an answer may take when the time is up.
const LAST_ANSWER: Duration = Duration::from_secs(10);

/// Asks again while the node says that it is not so yet, or is not there.
fn await_reached(socket: &Path, request: &Request, limit: Duration) -> Result<Reply, NoReply> {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // The last question gets its answer too: it says what is missing.
        let reply = ask(socket, request, left.max(LAST_ANSWER));
        let later = match &reply {
            Ok(reply) => matches!(&reply.result, Answer::Error(f) if f.code == exit::TEMPORARY),
            Err(_) => true,
        };
        if !later || left.is_zero() {
            return reply;
        }
        std::thread::sleep(STARTUP_POLL.min(left));
    }
}

fn show(
    request: &Request,
    reply: Result<Reply, NoReply>,
    invocation: &Invocation,
    format: Format,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let reply = match reply {
        Ok(reply) => reply,
        Err(NoReply::Unreachable(..)) if request.verb == "enable" => {
            // As RabbitMQ's does: what a node that does not run has is known all the same.
            known_plugins(&request.args)?;
            return print(console, "Plugin configuration unchanged.\n");
        }
        Err(no_reply) => return Err(no_answer(request, no_reply)),
    };
    let quiet = invocation.has("quiet") || invocation.has("silent") || format.is_for_programs();
    if let Some(banner) = banner(request, &reply.node).filter(|_| !quiet) {
        print(console, &format!("{banner}\n"))?;
    }
    let mut output = match reply.result {
        Answer::Error(failure) => return Err(shown_failure(request, failure, format, &reply.node)),
        Answer::Ok(output) => output,
    };
    if invocation.has("silent")
        && format == Format::Table
        && SILENT.contains(&request.verb.as_str())
    {
        return Ok(());
    }
    match request.verb.as_str() {
        "export_definitions" if request.arg(0) != Some("-") => {
            write_definitions(request, &output)?;
            output = Output::Done;
        }
        "add_user" if !quiet && output == Output::Done => {
            let text = "Done. Don't forget to grant the user permissions to some virtual hosts! See 'help set_permissions' to learn more.";
            output = Output::Message(text.to_owned());
        }
        _ => {}
    }
    let style = Style {
        format,
        headers: !(invocation.has("silent") || invocation.has("no-table-headers")),
        line_when_empty: !STREAMED.contains(&request.verb.as_str()),
        node: &reply.node,
    };
    print(console, &render(&output, style))
}

/// A refusal as it is shown: what programs read where they asked, and what was waited for in vain in RabbitMQ's words.
fn shown_failure(request: &Request, failure: Failure, format: Format, node: &str) -> Failure {
    if failure.code == exit::TEMPORARY {
        let reason = failure.text.trim_start_matches("Error:\n");
        match request.verb.as_str() {
            "await_online_nodes" => {
                let text = format!(
                    "Error: timed out while waiting. Not enough nodes joined {node}'s cluster: {reason}"
                );
                return Failure::new(exit::SOFTWARE, text);
            }
            "await_online_quorum_plus_one" | "await_online_synchronized_mirror" => {
                let text = format!("time is up, the node cannot be spared: {reason}");
                return Failure::new(exit::UNAVAILABLE, text);
            }
            _ => {}
        }
    }
    match failure.value {
        Some(value) if format == Format::Json => Failure::plain(failure.code, value.to_string()),
        _ => failure,
    }
}

/// Checks that say nothing with `--silent` when they pass.
const SILENT: &[&str] = &[
    "check_local_alarms",
    "check_alarms",
    "check_virtual_hosts",
    "check_if_node_is_quorum_critical",
    "check_if_node_is_mirror_sync_critical",
    "check_if_any_deprecated_features_are_used",
    "check_certificate_expiration",
    "await_online_quorum_plus_one",
    "await_online_synchronized_mirror",
];

/// Lists that are nothing, and not an empty line, when they are empty.
const STREAMED: &[&str] = &[
    "list_queues",
    "list_exchanges",
    "list_bindings",
    "list_connections",
    "list_channels",
    "list_consumers",
    "list_unresponsive_queues",
    "list_deprecated_features",
];

fn write_definitions(request: &Request, output: &Output) -> Result<(), Failure> {
    let path = request.arg(0).unwrap_or_default();
    let text = match output {
        Output::Report { text, .. } => text.as_str(),
        _ => "",
    };
    std::fs::write(path, text).map_err(|error| {
        Failure::new(
            exit::CANNOT_CREATE,
            format!("cannot write to {path}: {error}"),
        )
    })
}

pub(super) fn no_answer(request: &Request, no_reply: NoReply) -> Failure {
    match no_reply {
        NoReply::Unreachable(path, error) => {
            let path = path.display();
            let text = format!(
                "Error: unable to perform an operation on the node at '{path}'. Please see \
                 diagnostics information and suggestions below.\n\n\
                 Most common reasons for this are:\n\n \
                 * Target node is not running\n \
                 * It has another data directory: see --data-dir, --socket and the environment \
                 variable {SOCKET_VARIABLE}\n \
                 * It runs as another user: only the node's own user and root may use its \
                 socket\n\n\
                 DIAGNOSTICS\n===========\n\n{path}: {error}"
            );
            Failure::plain(exit::UNAVAILABLE, text)
        }
        NoReply::Late => {
            let text = format!("operation {} on the node timed out", request.verb);
            Failure::plain(exit::TEMPORARY, format!("Error: {text}"))
        }
        NoReply::Garbled(why) => Failure::new(exit::SOFTWARE, format!("no reply: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(line: &[&str], input: &str) -> (u8, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = Console {
            out: &mut out,
            err: &mut err,
            input: &mut input.as_bytes(),
        };
        let words = line.iter().map(|w| (*w).to_owned()).collect();
        let code = run(Tool::Leveret, words, &mut console);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (code, text(out), text(err))
    }

    #[test]
    fn misuse_is_refused_before_anybody_is_asked() {
        for (line, complaint) in [
            (&["add_vhost"][..], "not enough arguments."),
            (&["list_users", "extra"], "too many arguments."),
            (
                &["list_users", "--bogus"],
                "Invalid options for this command:\n--bogus : \n",
            ),
            (
                &["set_policy", "--priority", "x", "a", "b", "{}"],
                "Invalid options for this command:\n--priority : x\n",
            ),
            (
                &["list_users", "--formatter", "erlang"],
                "unknown formatter",
            ),
            (
                &["list_queues", "name", "bogus"],
                "Info key(s) bogus are not supported\n",
            ),
        ] {
            let (code, out, err) = called(line, "");
            assert_eq!((code, out.as_str()), (exit::USAGE, ""), "{line:?}");
            let start = format!("Error (argument validation): {complaint}");
            assert!(err.starts_with(&start), "{err}");
            assert!(err.contains("Arguments given:\n\t"), "{err}");
        }
    }

    #[test]
    fn passwords_are_not_repeated() {
        let (code, out, err) = called(&["add_user", "ann", "s3cret", "more"], "");
        assert_eq!(code, exit::USAGE);
        assert!(!format!("{out}{err}").contains("s3cret"), "{err}");
    }

    #[test]
    fn a_password_must_come_from_somewhere() {
        let (code, _, err) = called(&["add_user", "ann"], "");
        assert_eq!(code, exit::DATA_ERROR);
        assert_eq!(
            err,
            "Error:\nPassword is not provided via argument or stdin\n"
        );
        let (code, ..) = called(&["change_password", "ann"], "\n");
        assert_eq!(code, exit::SOFTWARE);
    }

    #[test]
    fn hashes_verify() {
        for (line, input) in [
            (&["hash_password", "secret"][..], ""),
            (&["hash_password"], "secret\n"),
        ] {
            let (code, out, _) = called(line, input);
            assert_eq!(code, exit::OK);
            let hash = PasswordHash::from_base64(&out, HashingAlgorithm::Sha256).unwrap();
            assert!(hash.verify(b"secret"));
        }
    }

    #[test]
    fn unknown_commands() {
        let (code, _, err) = called(&["list_userz"], "");
        assert_eq!(code, exit::USAGE);
        assert!(err.contains("Did you mean 'list_users'?"), "{err}");
        let (code, _, err) = called(&["-n", "x"], "");
        assert_eq!(code, exit::USAGE);
        assert!(err.contains("Available commands:"), "{err}");
    }

    #[test]
    fn a_node_that_is_not_there() {
        let dir = std::env::temp_dir().join("leveret-no-such-dir");
        let dir = dir.to_str().unwrap();
        let (code, out, err) = called(&["--data-dir", dir, "list_users"], "");
        assert_eq!((code, out.as_str()), (exit::UNAVAILABLE, ""));
        assert!(err.starts_with("Error: unable to perform an operation on"));
        let (code, ..) = called(&["--data-dir", dir, "await_startup", "-t", "1"], "");
        assert_eq!(code, exit::TEMPORARY);
    }

    #[test]
    fn definitions_that_are_not_there() {
        let (code, _, err) = called(&["import_definitions", "/no/such/file"], "");
        assert_eq!(code, exit::DATA_ERROR);
        assert!(err.contains("Bad argument: File /no/such/file does not exist"));
    }
}
