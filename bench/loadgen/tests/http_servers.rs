//! The load over HTTP against servers that answer well in every way that the protocol allows, and against those that do not.
//! One thread per connection, blocking: these servers are to be right by inspection, not fast.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use loadgen::http::{
    self, HttpOptions,
    arguments::{HttpArguments, Shared},
};
use serde_json::Value;

const HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// What a server does with request number `at`, from 0, of its connection.
type Answer = dyn Fn(&mut TcpStream, usize) -> std::io::Result<Then> + Send + Sync;

#[derive(PartialEq)]
enum Then {
    Next,
    Close,
}

/// A server that reads whole requests, one after the other; how many of all connections is counted.
struct Server {
    port: u16,
    requests: Arc<AtomicU64>,
}

fn serve(answer: impl Fn(&mut TcpStream, usize) -> std::io::Result<Then> + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (answer, requests): (Arc<Answer>, _) = (Arc::new(answer), Arc::new(AtomicU64::new(0)));
    let counter = Arc::clone(&requests);
    // Ends with the test process.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (answer, counter) = (Arc::clone(&answer), Arc::clone(&counter));
            thread::spawn(move || serve_one(stream.unwrap(), &answer, &counter));
        }
    });
    Server { port, requests }
}

fn serve_one(mut stream: TcpStream, answer: &Arc<Answer>, requests: &AtomicU64) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut pending, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    for at in 0.. {
        while !take_request(&mut pending) {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                length => pending.extend_from_slice(&buffer[..length]),
            }
        }
        requests.fetch_add(1, Ordering::Relaxed);
        if answer(&mut stream, at)? == Then::Close {
            // Like a server in good order: unread input must not destroy what was sent.
            stream.shutdown(Shutdown::Write)?;
            while stream.read(&mut buffer)? > 0 {}
            return Ok(());
        }
    }
    Ok(())
}

/// Takes a whole request from the front; panics, so that nothing is answered, when it is none.
fn take_request(pending: &mut Vec<u8>) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = request.parse(pending).unwrap() else { return false };
    let length = request.headers.iter().find(|header| header.name == "Content-Length");
    let body: usize = length.map_or(0, |header| std::str::from_utf8(header.value).unwrap().parse().unwrap());
    if pending.len() < head + body {
        return false;
    }
    assert!(pending[head..head + body].iter().all(|byte| *byte == b'x'));
    pending.drain(..head + body);
    true
}

fn say(stream: &mut TcpStream, text: &str) -> std::io::Result<Then> {
    stream.write_all(text.as_bytes()).map(|()| Then::Next)
}

fn last(stream: &mut TcpStream, text: &str) -> std::io::Result<Then> {
    stream.write_all(text.as_bytes()).map(|()| Then::Close)
}

fn hello() -> Server {
    serve(|stream, _| say(stream, HELLO))
}

fn arguments(port: u16) -> HttpArguments {
    HttpArguments {
        url: format!("http://127.0.0.1:{port}/some/where"),
        path: None,
        conns: 4,
        pipeline: 1,
        new_connection: false,
        rate: None,
        method: "GET".to_owned(),
        headers: Vec::new(),
        body_bytes: 0,
        sources: None,
        out: None,
    }
}

fn options(arguments: HttpArguments) -> HttpOptions {
    let shared = Shared {
        allow_remote: false,
        tolerate: false,
        progress: false,
        window: Duration::from_millis(200),
        warmup: Duration::from_millis(20),
        server_pid: None,
    };
    arguments.options(shared).unwrap()
}

/// Whether the run passed, and its JSON line.
fn load(options: HttpOptions) -> (bool, Value) {
    let outcome = http::run(options).unwrap();
    (outcome.passed(), serde_json::from_str(&outcome.json_line()).unwrap())
}

fn load_port(port: u16) -> (bool, Value) {
    load(options(arguments(port)))
}

fn tolerated(port: u16) -> (bool, Value) {
    load(HttpOptions { tolerate: true, ..options(arguments(port)) })
}

fn count(json: &Value, key: &str) -> u64 {
    json[key].as_u64().unwrap()
}

#[test]
fn a_right_server_is_loaded_with_and_without_pipelining() {
    for pipeline in [1, 16] {
        let server = hello();
        let (passed, json) = load(options(HttpArguments { pipeline, ..arguments(server.port) }));
        assert!(passed, "{json}");
        assert!(count(&json, "requests") > 0, "{json}");
        assert_eq!(json["requests"], json["latencyUs"]["count"], "{json}");
        assert_eq!(json["statuses"]["2xx"], json["requestsTotal"], "{json}");
        assert_eq!(count(&json, "requestsTotal"), server.requests.load(Ordering::Relaxed));
        assert_eq!(count(&json, "connectionsOpened"), 4, "{json}");
    }
}

#[test]
fn responses_in_pieces_of_every_kind_are_understood() {
    let server = serve(|stream, at| match at % 4 {
        0 => {
            for piece in HELLO.as_bytes().chunks(7) {
                stream.write_all(piece)?;
            }
            Ok(Then::Next)
        }
        1 => say(
            stream,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n",
        ),
        2 => say(stream, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"),
        _ => say(stream, "HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"),
    });
    let (passed, json) = load(options(HttpArguments { pipeline: 3, ..arguments(server.port) }));
    assert!(passed, "{json}");
    assert!(json["statuses"]["3xx"].as_u64().unwrap() > 0, "{json}");
}

#[test]
fn a_new_connection_takes_one_request() {
    let server = serve(|stream, at| {
        assert_eq!(at, 0, "a connection has one request");
        last(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
    });
    let (passed, json) = load(options(HttpArguments { new_connection: true, ..arguments(server.port) }));
    assert!(passed && count(&json, "requests") > 0, "{json}");
    assert_eq!(json["connectionsOpened"], json["requestsTotal"], "{json}");
}

#[test]
fn bodies_are_sent_whole_and_head_has_none_to_read() {
    let server = hello();
    let post = HttpArguments {
        method: "POST".to_owned(),
        body_bytes: 300_000,
        pipeline: 2,
        ..arguments(server.port)
    };
    let (passed, json) = load(options(post));
    assert!(passed && count(&json, "requests") > 0, "{json}");
    let server = serve(|stream, _| say(stream, "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"));
    let (passed, json) = load(options(HttpArguments { method: "HEAD".to_owned(), ..arguments(server.port) }));
    assert!(passed && count(&json, "requests") > 0, "{json}");
}

#[test]
fn connections_that_a_response_ends_are_made_again_and_nothing_is_lost() {
    let server = serve(|stream, at| match at {
        4 => last(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"),
        _ => say(stream, HELLO),
    });
    let (passed, json) = load(options(HttpArguments { pipeline: 3, ..arguments(server.port) }));
    assert!(passed, "{json}");
    assert!(count(&json, "closedByResponse") > 0 && count(&json, "resent") > 0, "{json}");
    // What the server has not looked at went out again, and what it has was not.
    assert_eq!(count(&json, "requestsTotal"), server.requests.load(Ordering::Relaxed));
}

#[test]
fn a_body_may_end_with_its_connection() {
    let server = serve(|stream, _| last(stream, "HTTP/1.1 200 OK\r\n\r\nas long as it lasts"));
    let (passed, json) = load_port(server.port);
    assert!(passed && count(&json, "requests") > 0, "{json}");
    assert_eq!(json["closedByResponse"], json["requestsTotal"], "{json}");
}

#[test]
fn connections_that_end_while_nothing_is_out_are_made_again_and_counted() {
    let server = serve(|stream, _| last(stream, HELLO));
    let slow = HttpArguments { conns: 2, rate: Some(10.0), ..arguments(server.port) };
    let (passed, json) = load(HttpOptions { window: Duration::from_millis(800), ..options(slow) });
    assert!(passed, "{json}");
    assert!(count(&json, "closedIdle") > 2, "{json}");
}

#[test]
fn requests_that_are_lost_in_flight_are_errors() {
    let server = serve(|stream, at| if at == 3 { Ok(Then::Close) } else { say(stream, HELLO) });
    let (passed, json) = load_port(server.port);
    assert!(!passed);
    assert_eq!((&json["errors"]["closed"], &json["lostRequests"]), (&1.into(), &1.into()), "{json}");
    let first = json["failures"]["first"].as_str().unwrap();
    assert!(first.contains("was closed with 1 requests in flight"), "{first}");
    let (passed, json) = tolerated(server.port);
    assert!(passed, "{json}");
    // Its four connections were opened again, each.
    assert!(count(&json, "connectionsOpened") > 4 && count(&json, "lostRequests") >= 4, "{json}");
}

#[test]
fn a_response_that_is_cut_short_is_an_error_by_name() {
    for text in ["HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello", "HTTP/1.1 200 O"] {
        let server = serve(|stream, _| last(stream, text));
        let (passed, json) = load_port(server.port);
        assert!(!passed);
        assert_eq!(json["errors"]["cutShort"], 1, "{json}");
        let first = json["failures"]["first"].as_str().unwrap();
        assert!(first.contains(&format!("{} bytes into a response", text.len())), "{first}");
    }
}

#[test]
fn what_is_no_response_ends_the_run_whatever_is_tolerated() {
    let server = serve(|stream, _| say(stream, "HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello"));
    let (passed, json) = tolerated(server.port);
    assert!(!passed);
    assert_eq!(json["errors"]["malformed"], 1, "{json}");
    assert!(json["failures"]["first"].as_str().unwrap().contains("Content-Length is no number"), "{json}");
    let server = serve(|stream, _| say(stream, &HELLO.repeat(2)));
    let (passed, json) = tolerated(server.port);
    assert!(!passed);
    assert_eq!(json["errors"]["unrequested"], 1, "{json}");
}

#[test]
fn an_error_status_is_counted_and_fails_the_run_at_its_end() {
    let server = serve(|stream, at| match at % 2 {
        0 => say(stream, "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"),
        _ => say(stream, HELLO),
    });
    let (passed, json) = load_port(server.port);
    assert!(!passed && json["statuses"]["5xx"].as_u64().unwrap() > 4, "{json}");
    assert_eq!(json["errors"]["status"], json["statuses"]["5xx"], "{json}");
    assert_eq!(json["failures"]["first"], "GET /some/where was answered with status 503", "{json}");
    assert!(tolerated(server.port).0);
}

#[test]
fn a_request_without_a_response_is_seen_at_the_end() {
    let server = serve(|stream, at| if at == 5 { Ok(Then::Next) } else { say(stream, HELLO) });
    let (passed, json) = load_port(server.port);
    assert!(!passed);
    assert_eq!(json["errors"]["unanswered"], 4, "every connection misses one: {json}");
    assert!(json["failures"]["first"].as_str().unwrap().contains("is missing 1 responses"), "{json}");
}

#[test]
fn a_server_that_is_not_there_is_a_failure_by_name() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (passed, json) = load_port(gone);
    assert!(!passed && json["errors"]["connect"].as_u64().unwrap() > 0, "{json}");
    let (passed, json) = tolerated(gone);
    assert!(passed && json["requests"] == 0, "{json}");
    // It is asked again, but not beset: some three times in 220 ms on each connection.
    assert!((8..=16).contains(&json["errors"]["connect"].as_u64().unwrap()), "{json}");
}

#[test]
fn a_schedule_accounts_for_every_request_that_was_due() {
    // Sends only when answers make room: the schedule runs ahead at once.
    let rate = 1_000_000.0;
    let scheduled = HttpArguments { rate: Some(rate), pipeline: 4, ..arguments(hello().port) };
    let (passed, json) = load(HttpOptions { warmup: Duration::ZERO, ..options(scheduled) });
    assert!(passed, "{json}");
    let count = json["latencyUs"]["count"].as_f64().unwrap();
    let due = rate * json["secs"].as_f64().unwrap();
    assert!((count - due).abs() <= 2.0, "{due} requests were due: {json}");
}

#[test]
fn by_schedule_a_stall_counts_for_all_that_wait_behind_it_and_uncorrected_for_one() {
    // One request in twenty takes as long as the twenty behind it are due in.
    let server = serve(|stream, at| {
        if at % 20 == 10 {
            thread::sleep(Duration::from_millis(100));
        }
        say(stream, HELLO)
    });
    let scheduled = HttpArguments { conns: 1, rate: Some(200.0), ..arguments(server.port) };
    let (passed, json) = load(HttpOptions { window: Duration::from_millis(800), ..options(scheduled) });
    assert!(passed, "{json}");
    let p50 = |key: &str| json[key]["p50"].as_f64().unwrap();
    assert!(p50("latencyUs") > 20_000.0, "{json}");
    assert!(p50("uncorrectedUs") < 20_000.0, "{json}");
}

#[test]
fn all_that_a_plot_needs_is_written() {
    let path = std::env::temp_dir().join(format!("loadgen-http-{}.json", std::process::id()));
    let out = Some(path.clone());
    let (passed, json) = load(options(HttpArguments { out, rate: Some(500.0), ..arguments(hello().port) }));
    assert!(passed, "{json}");
    let written: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(written["latencyUs"], json["latencyUs"]);
    for key in ["curve", "uncorrectedCurve"] {
        assert!(written[key].as_array().unwrap().len() > 10, "{written}");
    }
    let seconds = written["seconds"].as_array().unwrap();
    // A window below a quarter of a second has no point.
    assert!(seconds.len() <= 1, "{written}");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn options_that_cannot_be_are_refused_by_name() {
    let refusal = |arguments| http::run(options(arguments)).err().unwrap().to_string();
    let given = || arguments(1);
    assert!(refusal(HttpArguments { conns: 0, ..given() }).starts_with("--conns and --pipeline"));
    assert!(refusal(HttpArguments { rate: Some(-1.0), ..given() }).starts_with("--rate is a number"));
    let both = HttpArguments { new_connection: true, pipeline: 2, ..given() };
    assert!(refusal(both).starts_with("--new-connection and --pipeline contradict"));
}

#[cfg(unix)]
#[test]
fn requests_go_over_a_unix_socket() {
    let path = std::env::temp_dir().join(format!("loadgen-http-{}.sock", std::process::id()));
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || -> std::io::Result<()> {
                let (mut stream, mut pending, mut buffer) = (stream?, Vec::new(), [0; 4096]);
                loop {
                    while !take_request(&mut pending) {
                        match stream.read(&mut buffer)? {
                            0 => return Ok(()),
                            length => pending.extend_from_slice(&buffer[..length]),
                        }
                    }
                    stream.write_all(HELLO.as_bytes())?;
                }
            });
        }
    });
    let url = format!("unix:{}", path.display());
    let (passed, json) = load(options(HttpArguments { url: url.clone(), ..arguments(1) }));
    std::fs::remove_file(&path).unwrap();
    assert!(passed && count(&json, "requests") > 0, "{json}");
    assert_eq!((json["addr"].as_str().unwrap(), json["request"].as_str().unwrap()), (&*url, "GET /"));
}
