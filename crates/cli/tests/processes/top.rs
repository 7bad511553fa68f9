//! `steadfast top` as a person meets it: variables of a server, interrupts, and a terminal that goes away.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::{io::AsyncReadExt as _, net::TcpListener, process::Command, time::timeout};

use crate::process::{LIMIT, Server, next, steadfast, words};

#[tokio::test]
async fn off_is_no_gateway_to_read_and_no_address() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path(), "127.0.0.1:0").await;
    let operations = next(&mut server.out).await.unwrap();
    let operations = operations.strip_prefix("operations ").unwrap().to_owned();
    for (operations, code, says) in [
        (&*operations, 0, "ready"),
        ("off", 2, "STEADFAST_OPERATIONS: off is for a server"),
    ] {
        let mut command = steadfast(&["top"]);
        // The variables of a server, in the shell of a person.
        command.env("STEADFAST_GATEWAY", "off");
        command.env("STEADFAST_OPERATIONS", operations);
        let output = timeout(LIMIT, command.output()).await.unwrap().unwrap();
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8(told).unwrap();
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert!(told.contains(says), "{told}");
    }
}

#[tokio::test]
async fn interrupt_ends_top_while_it_waits_for_a_report() {
    // It accepts connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let line = format!("top --operations {}", silent.local_addr().unwrap());
    let child = steadfast(&words(&line)).spawn().unwrap();
    let _asked = timeout(LIMIT, silent.accept()).await.unwrap().unwrap();
    send(child.id().unwrap(), Signal::INT);
    let ended = timeout(LIMIT, child.wait_with_output()).await.unwrap();
    // An answer that is missing ends with 1.
    assert_eq!(ended.unwrap().status.code(), Some(130));
}

#[tokio::test]
async fn terminal_is_restored_when_top_is_hung_up() {
    const ENTERED: &str = "\u{1b}[?1049h";
    const LEFT: &str = "\u{1b}[?1049l";
    let binary = env!("CARGO_BIN_EXE_steadfast");
    // The shell tells its process, which `exec` keeps.
    let inner =
        format!("stty rows 24 cols 80; echo $$; exec {binary} top --operations 127.0.0.1:9");
    let mut terminal = Command::new("script")
        .args(["--quiet", "--return", "--command", &inner, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut screen = terminal.stdout.take().unwrap();
    let mut shown = String::new();
    let mut sent = false;
    let reading = async {
        let mut bytes = [0; 4096];
        loop {
            match screen.read(&mut bytes).await.unwrap() {
                0 => return,
                read => shown.push_str(&String::from_utf8_lossy(&bytes[..read])),
            }
            if !sent && shown.contains(ENTERED) {
                let process = shown.lines().next().unwrap().trim().parse().unwrap();
                send(process, Signal::HUP);
                sent = true;
            }
        }
    };
    let end = timeout(LIMIT, reading).await;
    assert!(end.is_ok() && shown.contains(LEFT), "{shown:?}");
    let status = timeout(LIMIT, terminal.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0), "{shown:?}");
}

fn send(process: u32, signal: Signal) {
    let process = Pid::from_raw(process.cast_signed()).unwrap();
    kill_process(process, signal).unwrap();
}
