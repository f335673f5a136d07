//! What cannot start says why in one message that names the fix, and ends with a code other than 0.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Output, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use ringforge_adapters::log::embedded::EmbeddedLog;
use ringforge_domain::{ids::Scope, position::Partition};
use ringforge_ports::{
    clock::SystemClock,
    log::{Log as _, Record},
    names,
};

use crate::support::{SOON, Server};

fn start(home: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringforge"));
    command.args(["all", "--json", "--data"]).arg(home.join("data"));
    if !more.contains(&"--port") {
        command.args(["--port", "0"]);
    }
    command.args(more).env("RINGFORGE_LOG", "off");
    output(command, SOON)
}

/// What it says until it ends, as it must within this time.
pub fn output(mut command: Command, within: Duration) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let (id, (done, ended)) = (child.id().to_string(), mpsc::channel());
    thread::spawn(move || done.send(child.wait_with_output()));
    if let Ok(output) = ended.recv_timeout(within) {
        return output.expect("it runs");
    }
    let _ = Command::new("kill").args(["-KILL", &id]).status();
    panic!("it neither starts nor says why not");
}

/// It said `what` and the fix, once, and nothing on stdout.
pub fn refused(output: &Output, what: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code().is_some_and(|code| code != 0), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    for what in what {
        assert!(said.contains(what), "no `{what}` in: {said}");
    }
    assert_eq!(said.matches("ringforge: ").count(), 1, "one message: {said}");
    assert!(!said.contains("panicked") && !said.contains("stack backtrace"), "{said}");
}

#[test]
fn a_busy_port() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    refused(&start(home.path(), &["--port", &port]), &[&port, "in use", "--port"]);
}

#[test]
fn a_locked_directory() {
    let server = Server::plain();
    let home = server.data().parent().expect("a parent").to_owned();
    refused(&start(&home, &[]), &["in use by another process", "--data"]);
}

#[test]
fn a_damaged_log() {
    let mut server = Server::plain();
    assert_eq!(server.terminate(), Some(0));
    fs::write(server.data().join("log.db"), vec![7; 8_192]).expect("it is damaged");
    let home = server.data().parent().expect("a parent").to_owned();
    refused(&start(&home, &[]), &["damaged", "backup", "--data"]);
}

#[tokio::test]
async fn a_log_of_a_newer_build() {
    let mut server = Server::plain();
    assert_eq!(server.terminate(), Some(0));
    let log = EmbeddedLog::open(&server.data().join(names::LOG_FILE), 2, SystemClock::start()).expect("the log opens");
    // Framed as an event, with a schema that nobody knows yet.
    let record = Record { scope: Scope::OPERATOR, bytes: Arc::from([0, 0x7f, 0xff, 0xff, 0xff, 1, 2, 3]) };
    log.append(Partition::DIRECTORY, vec![record]).await.expect("appended");
    log.close().await;
    let home = server.data().parent().expect("a parent").to_owned();
    refused(&start(&home, &[]), &["unknown schema", "newer build"]);
}

#[test]
fn damaged_credentials() {
    let mut server = Server::plain();
    assert_eq!(server.terminate(), Some(0));
    fs::write(server.data().join("credentials.json"), "{").expect("they are damaged");
    let home = server.data().parent().expect("a parent").to_owned();
    refused(&start(&home, &[]), &["credentials.json", "damaged", "backup"]);
}

#[test]
fn bad_settings() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let file = home.path().join("settings.toml");
    let path = file.to_str().expect("text");
    refused(&start(home.path(), &["--config", path]), &["settings.toml", "cannot read"]);
    for (text, named) in [
        ("[server]\nprot = 1\n", "prot"),
        ("[timing]\nauth_timeout_ms = 0\n", "auth_timeout_ms"),
        ("[timing]\nauth_timeout_ms = \"soon\"\n", "auth_timeout_ms"),
        ("no toml", "TOML"),
    ] {
        fs::write(&file, text).expect("it is written");
        refused(&start(home.path(), &["--config", path]), &[named]);
    }
}

#[test]
fn bad_bootstraps() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let file = home.path().join("tenants.toml");
    let path = file.to_str().expect("text");
    refused(&start(home.path(), &["--bootstrap", path]), &["tenants.toml"]);
    for (text, named) in [
        ("", "[[tenant]]"),
        ("[[tenant]]\nfleets = [\"a\"]\n", "name"),
        ("[[tenant]]\nname = \"a b\"\n", "a b"),
        ("[[tenant]]\nname = \"a\"\nfleets = [\"UPPER\"]\n", "UPPER"),
        ("[[tenants]]\nname = \"a\"\n", "[[tenant]]"),
    ] {
        fs::write(&file, text).expect("it is written");
        refused(&start(home.path(), &["--bootstrap", path]), &[named]);
    }
}

#[test]
fn unknown_options_and_log_filters() {
    for arguments in [&["all", "--prot", "1"][..], &["--nope"], &["all", "--port", "70000"], &["al"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_ringforge")).args(arguments).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code().is_some_and(|code| code != 0), "{said}");
        assert!(said.contains("error: ") && said.contains("--help"), "{said}");
    }
    let home = tempfile::tempdir().expect("a temporary directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringforge"));
    command.args(["all", "--port", "0", "--data"]).arg(home.path()).env("RINGFORGE_LOG", "a=b=c");
    refused(&command.output().expect("it runs"), &["RINGFORGE_LOG", "info"]);
}
