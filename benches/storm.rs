//! A neighbour in a storm: a typed component is asked every two milliseconds, first alone, then while a thousand calls
//! of another function loop until their time is over.
//!
//! See `benches/README.md`.

#![allow(clippy::print_stdout, reason = "printing figures is what benchmarks do")]

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::{Tripline, median};

/// Calls that loop, and how many are under way at once.
const LOOPS: u32 = 1000;
const AT_ONCE: u32 = 32;
const ROUNDS: usize = 3;
/// How often the neighbour is asked, and how many times while nothing else happens.
const EVERY: Duration = Duration::from_millis(2);
const QUIET: usize = 3000;

const FUNCTIONS: &str = r#"
[functions.echo]
module = "GUESTS/echo.component.wasm"
[[functions.echo.triggers]]
type = "http"
path = "/echo"

[functions.spin]
module = "GUESTS/work.component.wasm"
timeout_seconds = 0.1
concurrency = 32
[[functions.spin.triggers]]
type = "http"
path = "/spin"
"#;

/// A connection that is kept.
struct Client(BufReader<TcpStream>);

impl Client {
    fn new(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the engine listens");
        stream.set_nodelay(true).expect("an option of TCP");
        Self(BufReader::new(stream))
    }

    /// Posts a body and reads the answer; its status.
    fn post(&mut self, path: &str, body: &str) -> u16 {
        let length = body.len();
        let request = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}");
        self.0.get_mut().write_all(request.as_bytes()).expect("a request is sent");
        let (mut line, mut length, mut status) = (String::new(), 0, 0);
        while line != "\r\n" {
            line.clear();
            self.0.read_line(&mut line).expect("a head is read");
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                status = rest[..3].parse().expect("a status");
            } else if let Some(rest) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = rest.trim().parse().expect("a length");
            }
        }
        self.0.read_exact(&mut vec![0; length]).expect("a body is read");
        status
    }
}

/// Asks the neighbour at its moments until `stop`; how long each answer took from its moment, in µs.
fn neighbour(port: u16, stop: impl Fn(usize) -> bool) -> Vec<f64> {
    let (mut client, mut late, mut due) = (Client::new(port), Vec::new(), Instant::now());
    while !stop(late.len()) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        assert_eq!(client.post("/echo", "hello"), 200);
        // From when it should have been asked: an answer that is late makes the next one late too.
        late.push(due.elapsed().as_secs_f64() * 1e6);
        due += EVERY;
    }
    late
}

fn percentile(late: &mut [f64], part: f64) -> f64 {
    late.sort_by(f64::total_cmp);
    late[((late.len() - 1) as f64 * part) as usize]
}

fn main() {
    let tripline = Tripline::start("storm", "store = \"memory\"", FUNCTIONS);
    let port = tripline.public;
    let mut figures = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let mut quiet = neighbour(port, |asked| asked == QUIET);
        let (left, over) = (AtomicU32::new(LOOPS), AtomicBool::new(false));
        let mut stormy = thread::scope(|scope| {
            let storm: Vec<_> = (0..AT_ONCE)
                .map(|_| {
                    scope.spawn(|| {
                        let mut client = Client::new(port);
                        let take =
                            || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
                        while take().is_ok() {
                            assert_eq!(client.post("/spin", "spin"), 504);
                        }
                    })
                })
                .collect();
            let asked = scope.spawn(|| neighbour(port, |_| over.load(Ordering::Relaxed)));
            storm.into_iter().for_each(|one| one.join().expect("it was answered"));
            over.store(true, Ordering::Relaxed);
            asked.join().expect("it was answered")
        });
        for (index, figure) in [
            percentile(&mut quiet, 0.5),
            percentile(&mut quiet, 0.99),
            percentile(&mut stormy, 0.5),
            percentile(&mut stormy, 0.99),
        ]
        .into_iter()
        .enumerate()
        {
            figures[index].push(figure);
        }
    }
    let [quiet, quiet_p99, stormy, stormy_p99] = figures.map(median);
    println!("quiet: median {quiet:.0} µs, p99 {quiet_p99:.0} µs");
    println!("in the storm: median {stormy:.0} µs, p99 {stormy_p99:.0} µs: {:.1} ×", stormy_p99 / quiet_p99);
}
