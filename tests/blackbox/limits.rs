//! Requests per minute and calls at once.

use crate::support::{Gateway, Reply, Setup, Upstream, chat_body, eventually, ms, scaled, secs};
use std::time::Instant;

#[tokio::test]
async fn requests_per_minute_hold_under_five_times_the_load() {
    // In full: 60 a minute under ten times the load for three minutes, of which at most 190 are served.
    let (rpm, times, lasts) = scaled((600.0, 5.0, secs(6)), (60.0, 10.0, secs(180)));
    let a = Upstream::start();
    a.forget_bodies();
    let setup = Setup::new().endpoint("a", &a, &[&format!("limits: {{rpm: {rpm}, max_wait: 0s}}")]).route(
        "chat",
        "priority",
        &["a"],
        &[],
    );
    let gateway = Gateway::start(&setup).await;
    let (began, overload) = (Instant::now(), rpm / 60.0 * times);
    let (mut sent, mut served, mut refused) = (0_u32, 0_u32, 0_u32);
    while began.elapsed() < lasts {
        if f64::from(sent) > began.elapsed().as_secs_f64() * overload {
            tokio::time::sleep(ms(5)).await;
            continue;
        }
        sent += 1;
        let answer = gateway.chat(&chat_body("chat")).await;
        if answer.status == 200 {
            served += 1;
        } else {
            refused += 1;
            assert!([429, 503].contains(&answer.status), "{}", answer.text());
            assert!(answer.need("retry-after").parse::<u64>().is_ok());
        }
    }
    // The bucket holds ten seconds' worth and refills evenly.
    let allowed = rpm / 6.0 + began.elapsed().as_secs_f64() * rpm / 60.0 + 1.0;
    assert_eq!(a.calls(), served as usize);
    assert!(f64::from(served) <= allowed, "{served} served, {allowed:.0} allowed");
    assert!(f64::from(served) >= allowed * 0.85, "{served} served of {allowed:.0} allowed: the limit is used");
    assert!(served + refused == sent && refused >= 100, "{served} + {refused} of {sent}");
}

#[tokio::test]
async fn a_full_bucket_hands_over_to_the_next_candidate() {
    let (a, b) = (Upstream::start(), Upstream::start());
    let gateway = Gateway::start(&Setup::pair(&a, &b, &["limits: {rpm: 60}"])).await;
    for _ in 0..40 {
        gateway.chat(&chat_body("chat")).await.expect(200);
    }
    assert!((10..=20).contains(&a.calls()), "{} calls at 60 per minute", a.calls());
    assert_eq!(a.calls() + b.calls(), 40);
    let limits = gateway.endpoint("a").await["limits"].clone();
    assert_eq!(limits["rpm"]["limit"], 60, "{limits}");
    assert!(limits["rpm"]["available"].as_f64().is_some_and(|n| n < 2.0), "{limits}");
}

#[tokio::test]
async fn no_more_calls_at_once_than_allowed() {
    let a = Upstream::start_with(Reply::Slow(ms(150)));
    let setup = Setup::new().endpoint("a", &a, &["limits: {concurrency: 3, max_wait: 20s}"]).route(
        "chat",
        "priority",
        &["a"],
        &[],
    );
    let gateway = Gateway::start(&setup).await;
    let body = chat_body("chat");
    let done = std::cell::Cell::new(false);
    let all = async {
        let answers = futures_util::future::join_all((0..30).map(|_| gateway.chat(&body))).await;
        done.set(true);
        answers
    };
    let watch = async {
        let mut most = 0;
        eventually(secs(30), "all are answered", async || {
            most = most.max(a.running());
            done.get()
        })
        .await;
        most
    };
    let (answers, most) = futures_util::future::join(all, watch).await;
    assert!((2..=3).contains(&most), "{most} at once");
    let statuses: Vec<_> = answers.iter().map(|a| a.status).collect();
    assert_eq!(statuses, [200; 30], "they wait for a place");
}

#[tokio::test]
async fn a_full_endpoint_that_may_not_be_waited_for_is_503_at_once() {
    let a = Upstream::start_with(Reply::Hang);
    let setup = Setup::new().endpoint("a", &a, &["limits: {concurrency: 2, max_wait: 0s}"]).route(
        "chat",
        "priority",
        &["a"],
        &[],
    );
    let gateway = Gateway::start(&setup).await;
    let body = chat_body("chat");
    let held = futures_util::future::join(gateway.chat(&body), gateway.chat(&body));
    let probe = async {
        eventually(secs(5), "two calls run", async || a.running() == 2).await;
        let began = Instant::now();
        gateway.chat(&body).await.expect_error(503, "no_endpoint_available");
        assert!(began.elapsed() < secs(1), "{:?}", began.elapsed());
    };
    tokio::select! {
        _ = held => panic!("a hanging upstream answered"),
        () = probe => {}
    }
}

/// A completion whose headers say what is left.
fn left(headers: &[(&'static str, &str)]) -> Reply {
    let headers = headers.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
    Reply::Status { status: 200, headers, body: crate::support::completion().to_string() }
}

#[tokio::test]
async fn what_the_vendor_says_is_left_lowers_the_buckets() {
    let a = Upstream::start();
    let gateway = Gateway::start(&Setup::new().endpoint("a", &a, &["limits: {rpm: 600, tpm: 600000}"])).await;
    let ask = async |reply: Reply| {
        a.set(reply);
        gateway.chat(&chat_body("a")).await.expect(200);
        let limits = gateway.endpoint("a").await["limits"].clone();
        ["rpm", "tpm"].map(|limit| limits[limit]["available"].as_i64().unwrap())
    };
    let [rpm, tpm] = ask(Reply::Completion).await;
    assert!(rpm >= 98 && tpm > 90_000, "{rpm} {tpm}");
    for junk in ["-5", "soon", "1e2", ""] {
        let [rpm, _] = ask(left(&[("x-ratelimit-remaining-requests", junk)])).await;
        assert!(rpm >= 95, "{rpm} after `{junk}`");
    }
    let [rpm, tpm] =
        ask(left(&[("x-ratelimit-remaining-requests", "3"), ("x-ratelimit-remaining-tokens", "1000")])).await;
    // They refill meanwhile: ten requests and ten thousand tokens a second.
    assert!(rpm < 60 && tpm < 60_000, "{rpm} {tpm}");
    let [more, _] = ask(left(&[("anthropic-ratelimit-requests-remaining", "100000")])).await;
    assert!(more < rpm + 40, "{more} after {rpm}: never raised");
}
