//! More than there is room for: the surplus is told so at once, nobody is hammered, and those who are served notice nothing.

use crate::providers::{calls, faulty, heal, provider, with_profile};
use crate::support::{Answer, Gateway, Setup, chat_body, eventually, ms, scaled, secs};
use breakwater::sim::{FaultKind, Handle, Latency, Profile};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The time that a share of the requests stayed under.
fn quantile(times: &mut [Duration], share: f64) -> Duration {
    times.sort();
    times[((times.len() - 1) as f64 * share) as usize]
}

async fn timed(gateway: &Gateway, model: &str) -> (Answer, Duration) {
    let began = Instant::now();
    let answer = gateway.chat(&chat_body(model)).await;
    (answer, began.elapsed())
}

#[tokio::test]
async fn two_thousand_at_a_cap_of_a_thousand() {
    let slow = Profile { latency: Latency::fixed(12_000.0), keep_requests: 0, ..Profile::new("a", &[]) };
    let a = with_profile(slow);
    let setup = Setup::new().endpoint_at("a", &a.base_url(), &["limits: {concurrency: 5000}"]);
    let gateway = Gateway::start(&setup.route("chat", "priority", &["a"], &[])).await;
    let body = chat_body("chat");
    let first = join_all((0..1_000).map(|_| gateway.chat(&body)));
    let surplus = async {
        eventually(secs(12), "a thousand run", async || a.stats().requests.in_progress == 1_000).await;
        let (mut refused, mut times) = (vec![], vec![]);
        for _ in 0..50 {
            for (answer, took) in join_all((0..20).map(|_| timed(&gateway, "chat"))).await {
                refused.push(answer);
                times.push(took);
            }
        }
        (refused, times)
    };
    let (served, (refused, mut times)) = futures_util::future::join(first, surplus).await;
    assert_eq!(served.iter().filter(|a| a.status == 200).count(), 1_000);
    assert_eq!(refused.len(), 1_000);
    for answer in refused {
        answer.expect_error(503, "no_endpoint_available");
        assert!(answer.need("retry-after").parse::<u64>().is_ok());
    }
    // 20 at once on a machine that also runs a thousand clients and the provider; the answer itself takes under 5 ms.
    let median = quantile(&mut times, 0.5);
    assert!(median < ms(100), "refused within {median:?}");
    assert_eq!(calls(&a), 1_000);
    gateway.wait_rows(1_000).await;
}

#[tokio::test]
async fn all_fail_at_two_hundred_a_second() {
    let failing = || faulty("x", FaultKind::Status { code: 500, headers: Default::default(), body: None });
    let providers: [Handle; 3] = [failing(), failing(), failing()];
    let mut setup = Setup::new();
    for (name, provider) in ["a", "b", "c"].iter().zip(&providers) {
        setup = setup.endpoint_at(name, &provider.base_url(), &[]);
    }
    let gateway = Gateway::start(&setup.route("chat", "round_robin", &["a", "b", "c"], &[])).await;
    let body = chat_body("chat");
    let lasts = scaled(8, 30);
    let (began, mut sent, mut answered) = (Instant::now(), 0_u64, 0_u64);
    let mut tick = tokio::time::interval(ms(50));
    let mut running = FuturesUnordered::new();
    while began.elapsed() < secs(lasts) || !running.is_empty() {
        tokio::select! {
            _ = tick.tick() => {
                if began.elapsed() < secs(lasts) {
                    running.extend((0..10).map(|_| gateway.chat(&body)));
                    sent += 10;
                }
            }
            Some(answer) = running.next() => {
                answered += 1;
                assert!([502, 503].contains(&answer.status), "{} {}", answer.status, answer.text());
            }
        }
    }
    assert_eq!(answered, sent);
    let upstream: u64 = providers.iter().map(calls).sum();
    assert!(sent >= 100 * lasts, "{sent} sent in {lasts} s");
    assert!(upstream * 5 <= sent, "{upstream} upstream calls for {sent} requests");
    providers.iter().for_each(heal);
    eventually(secs(60), "they are served again", async || gateway.chat(&body).await.status == 200).await;
}

/// A client that never gets on with what it sends: a byte now and then.
struct Loris {
    socket: TcpStream,
    rest: std::vec::IntoIter<u8>,
}

impl Loris {
    fn start(gateway: &Gateway, now: &str, rest: &str) -> Self {
        let mut socket = gateway.connect();
        socket.write_all(now.as_bytes()).unwrap();
        Self { socket, rest: rest.as_bytes().to_vec().into_iter() }
    }

    /// The gateway may have hung up: that is what is waited for.
    fn drip(&mut self) {
        if let Some(byte) = self.rest.next() {
            let _ = self.socket.write_all(&[byte]);
        }
    }

    /// What the gateway said, once it has hung up.
    fn told(mut self) -> String {
        let mut text = Vec::new();
        self.socket.set_read_timeout(Some(secs(5))).unwrap();
        // A reset after the answer ends the reading as well.
        let _ = self.socket.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}

#[tokio::test]
async fn slow_loris_heads_and_bodies() {
    const EACH: usize = 250;
    let a = provider("a");
    let setup = Setup::new().endpoint_at("a", &a.base_url(), &[]).route("chat", "priority", &["a"], &[]);
    let gateway = Gateway::start(&setup).await;
    let measure = async |for_s: u64| {
        let (began, mut times) = (Instant::now(), vec![]);
        while began.elapsed() < secs(for_s) {
            let (answer, took) = timed(&gateway, "chat").await;
            answer.expect(200);
            times.push(took);
            tokio::time::sleep(ms(5)).await;
        }
        quantile(&mut times, 0.99)
    };
    let before = measure(2).await;
    let line = "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\n";
    let heads = (0..EACH).map(|_| Loris::start(&gateway, line, &"x-slow: 1\r\n".repeat(100)));
    let bodies =
        (0..EACH).map(|_| Loris::start(&gateway, &format!("{line}content-length: 5000\r\n\r\n{{"), &" ".repeat(4_000)));
    let mut all: Vec<Loris> = heads.chain(bodies).collect();
    let dripping = async {
        let began = Instant::now();
        while began.elapsed() < secs(33) {
            all.iter_mut().for_each(Loris::drip);
            tokio::time::sleep(ms(500)).await;
        }
        all
    };
    let (all, during) = futures_util::future::join(dripping, measure(30)).await;
    assert!(during < before * 2 + ms(250), "others' p99 went from {before:?} to {during:?}");
    assert_eq!(gateway.admin_get("/health/ready").await["in_flight"], 0, "none of them takes a request's place");
    let told: Vec<String> = tokio::task::spawn_blocking(|| all.into_iter().map(Loris::told).collect()).await.unwrap();
    let (heads, bodies) = told.split_at(EACH);
    for text in bodies {
        assert!(text.starts_with("HTTP/1.1 408 ") && text.contains("request_timeout"), "a body: {text:?}");
    }
    for text in heads {
        assert!(text.starts_with("HTTP/1.1 408 "), "a head: {text:?}");
    }
}

#[tokio::test]
async fn admin_reads_beside_traffic_have_no_effect_on_picks() {
    let (a, b) = (provider("a"), provider("b"));
    let setup = Setup::new().endpoint_at("a", &a.base_url(), &[]).endpoint_at("b", &b.base_url(), &[]).route(
        "chat",
        "round_robin",
        &["a", "b"],
        &[],
    );
    let gateway = Gateway::start(&setup).await;
    let body = chat_body("chat");
    // One after the other on one connection: a read that moved the cursor would give every turn to the same endpoint.
    for _ in 0..300 {
        gateway.chat(&body).await.expect(200);
        gateway.post("/v1/explain", &body).await.expect(200);
    }
    let (at_a, at_b) = (calls(&a), calls(&b));
    assert_eq!(at_a + at_b, 300);
    assert!(at_a.abs_diff(at_b) <= 4, "{at_a} to {at_b}");

    let read = Cell::new(false);
    let reads = async {
        // In full: 100,000 reads.
        for _ in 0..scaled(100, 16_667) {
            let paths =
                ["/admin/endpoints", "/admin/report", "/admin/ledger?group_by=model", "/metrics", "/admin/keys"];
            for answer in join_all(paths.iter().map(|p| gateway.admin("GET", p, None))).await {
                answer.expect(200);
            }
            gateway.admin("POST", "/admin/explain", Some(&body)).await.expect(200);
        }
        read.set(true);
    };
    let traffic = async {
        let mut rounds = 0;
        while rounds < 60 || !read.get() {
            rounds += 1;
            for answer in join_all((0..10).map(|_| gateway.chat(&body))).await {
                answer.expect(200);
            }
        }
        rounds
    };
    let ((), rounds) = futures_util::future::join(reads, traffic).await;
    let (at_a, at_b) = (calls(&a), calls(&b));
    assert_eq!(at_a + at_b, 300 + 10 * rounds);
    assert!(at_a.abs_diff(at_b) <= 8 + rounds / 100, "{at_a} to {at_b}");
}
