//! What the language server takes while nobody asks it for anything: no processor time, and little memory of its own.
#![cfg(target_os = "linux")]

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use surmise_tests::{Client, ClientOptions, fixtures::cursor};

const URI: &str = "file:///project/sum.rs";

/// What it may still do after an answer: parse the whole file, and measure what steps cost.
const LONGEST_WORK: Duration = Duration::from_secs(120);

/// The program's share of the model, 48 MB, is the file's pages, which all that run it have in common.
const MOST_OWN_MEMORY: usize = 40 << 20;

/// A server with its embedded model that has answered once.
fn answered() -> Client {
    let mut client = Client::start(ClientOptions::default());
    client.wait_until_ready();
    let (text, line, character) = cursor("fn add(a: i32, b: i32) -> i32 {\n    aˇ\n}\n");
    client.open(URI, "rust", &text);
    let params = Client::inline_params(URI, line, character, 1);
    client.request("textDocument/inlineCompletion", params);
    client
}

/// Processor time that a process has used so far, in hundredths of a second: fields 14 and 15 of proc(5)'s `stat`.
fn ticks(process: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    let (_, after_name) = stat.rsplit_once(')').expect("a name");
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    [fields[11], fields[12]]
        .iter()
        .map(|it| it.parse::<u64>().expect("a number"))
        .sum()
}

/// Memory that a process shares with no file and no other process.
fn own_bytes(process: u32) -> usize {
    let memory = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).expect("it runs");
    let line = memory.lines().find_map(|line| line.strip_prefix("Anonymous:"));
    let kibibytes = line.and_then(|it| it.trim().strip_suffix("kB")).expect("a size");
    kibibytes.trim().parse::<usize>().expect("a number") << 10
}

#[test]
fn it_sleeps_between_requests() {
    let client = answered();
    let process = client.process_id().expect("a process");
    let start = Instant::now();
    loop {
        let before = ticks(process);
        thread::sleep(Duration::from_secs(3));
        let used = ticks(process) - before;
        // A hundredth of a second may be counted whole for a moment of it.
        if used <= 1 {
            break;
        }
        assert!(
            start.elapsed() < LONGEST_WORK,
            "{used} hundredths of a second in 3 s"
        );
    }
    let own = own_bytes(process);
    assert!(own < MOST_OWN_MEMORY, "{own} bytes of its own");
    assert_eq!(client.exit(true), 0);
}
