//! Requests of several attempts under budgets: a hedge and a continuation reserve of their own and are charged what is true.

use super::*;
use crate::support::ledger::Row;
use crate::support::upstream::{text_event, usage_event};

/// `a` before `b` behind `chat`, with budgets and the route's settings; extra attempts are bounded by budgets alone.
fn several(a: &Upstream, b: &Upstream, budgets: &[&str], route: &[&str]) -> Setup {
    // Slow to open: what is counted here is money.
    let patient = "breaker: {consecutive_failures: 1000, minimum_calls: 1000}";
    Setup::new()
        .endpoint("a", a, &[patient])
        .endpoint("b", b, &[patient])
        .route("chat", "priority", &["a", "b"], route)
        .top(&lines(budgets))
        .top("retry_budget: {ratio: 1, min_per_second: 1000}")
}

const HEDGE: &str = "hedge: {after: 100ms, max_extra: 1}";
const CONTINUE: &str = "recover: continue";

/// The first step of a request's record that is so.
async fn step(gateway: &Gateway, request_id: &str, is: impl Fn(&Value) -> bool) -> Value {
    let record = gateway.admin_get(&format!("/admin/decisions/{request_id}")).await;
    let found = record["steps"].as_array().unwrap().iter().find(|step| is(step)).cloned();
    found.unwrap_or_else(|| panic!("no such step in {record}"))
}

/// What one request of the body reserves, nano-dollars.
async fn reservation(body: &Value) -> i64 {
    let a = Upstream::start_with(Reply::Hang);
    let gateway = Gateway::start(&setup(&a, &["name: all, route: chat, amount: 1"])).await;
    let asked = gateway.chat(body);
    let look = async {
        eventually(secs(5), "the upstream is called", async || a.running() == 1).await;
        nano(&gateway, "all", "reserved").await
    };
    tokio::select! {
        reserved = look => reserved,
        answer = asked => panic!("nobody answers, and yet: {}", answer.text()),
    }
}

fn usd(nano: i64) -> String {
    format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000)
}

/// Fails unless the budget is charged what the rows say, once each, and holds nothing any more.
async fn expect_charged(gateway: &Gateway, name: &str, rows: &[Row]) {
    eventually(secs(5), "nothing is reserved", async || nano(gateway, name, "reserved").await == 0).await;
    let budget = budget(gateway, name).await;
    assert_eq!(budget["spent_nanousd"], cost(rows), "{budget} {rows:#?}");
    assert!(budget["spent_nanousd"].as_i64() <= budget["amount_nanousd"].as_i64(), "{budget}");
    assert_eq!(gateway.admin_get("/admin/budgets").await["overruns"], 0);
}

#[tokio::test]
async fn a_hedge_reserves_of_its_own_and_the_loser_is_charged_what_is_true() {
    // Its head reports the prompt and then nothing comes: that much is owed, whoever answers.
    let (a, b) = (Upstream::start(), Upstream::start_with(Reply::Slow(ms(600))));
    let gateway = Gateway::start(&several(&a, &b, &["name: all, route: chat, amount: 1"], &[HEDGE])).await;
    let mut owed = 0;
    for (body, slow, lost) in
        [(chat_body("chat"), Reply::Hang, 0), (stream_body("chat"), Reply::SilentAfter(usage_event(10, 0)), 10 * 1_000)]
    {
        a.set(slow);
        let body = with_max(body, 100);
        let one = reservation(&body).await;
        let look = async {
            eventually(secs(5), "both are asked", async || (a.running(), b.running()) == (1, 1)).await;
            nano(&gateway, "all", "reserved").await
        };
        let (answer, reserved) = tokio::join!(gateway.chat(&body), look);
        assert_eq!(answer.expect(200).need("x-breakwater-endpoint"), "b");
        assert_eq!(reserved, 2 * one, "each attempt has its own");
        let rows = gateway.rows_of(answer.need("x-breakwater-request-id"), 2).await;
        assert_eq!((rows[0].get("outcome"), rows[0].number("cost_nanousd")), ("cancelled", lost));
        assert_eq!((rows[1].get("outcome"), rows[1].number("cost_nanousd")), ("success", 20_000));
        assert!(rows[1].get("decision").ends_with(";hedge"));
        owed += lost + 20_000;
        assert_eq!(nano(&gateway, "all", "spent").await, owed);
    }
    expect_charged(&gateway, "all", &gateway.wait_rows(4).await).await;
}

#[tokio::test]
async fn a_hedge_that_the_budget_cannot_pay_is_withheld() {
    let (a, b) = (Upstream::start_with(Reply::Slow(ms(400))), Upstream::start());
    let body = with_max(chat_body("chat"), 100);
    // One attempt, and less than the shortest answer of another.
    let amount = reservation(&body).await + 9_000;
    let budgets = [&*format!("name: all, route: chat, amount: {}", usd(amount))];
    let gateway = Gateway::start(&several(&a, &b, &budgets, &[HEDGE])).await;
    let answer = gateway.chat(&body).await;
    assert_eq!((answer.expect(200).need("x-breakwater-endpoint"), b.calls()), ("a", 0));
    let withheld = step(&gateway, answer.need("x-breakwater-request-id"), |s| s["step"] == "not_hedged").await;
    assert_eq!(withheld["why"], "budget_spent", "{withheld}");
    let metrics = gateway.get("/metrics").await.text();
    assert!(metrics.contains("breakwater_hedges_withheld_total{reason=\"budget_spent\"} 1"), "{metrics}");
    expect_charged(&gateway, "all", &gateway.wait_rows(1).await).await;
}

#[tokio::test]
async fn a_hedge_takes_what_is_left_and_does_not_wait_for_more() {
    let slow = Reply::Metered { wish: 1_000, time: ms(1_500) };
    let (a, b) = (Upstream::start_with(slow), Upstream::start_with(Reply::Metered { wish: 1_000, time: ms(0) }));
    let body = with_max(chat_body("chat"), 100);
    let one = reservation(&body).await;
    // What it lacks of a second attempt are 60 of its 100 tokens.
    let budgets = [&*format!("name: all, route: chat, amount: {}", usd(2 * one - 60 * 2_000))];
    let gateway = Gateway::start(&several(&a, &b, &budgets, &[HEDGE])).await;
    let answer = gateway.chat(&body).await;
    assert_eq!(answer.expect(200).need("x-breakwater-endpoint"), "b");
    assert_eq!(answer.need("x-breakwater-max-tokens-lowered"), "40");
    assert_eq!((a.last().json()["max_tokens"].as_u64(), b.last().json()["max_tokens"].as_u64()), (Some(100), Some(40)));
    expect_charged(&gateway, "all", &gateway.wait_rows(2).await).await;
}

#[tokio::test]
async fn hedges_by_the_dozen_never_pass_the_budget() {
    let (a, b) = (
        Upstream::start_with(Reply::Metered { wish: 40, time: ms(60) }),
        Upstream::start_with(Reply::Metered { wish: 40, time: ms(20) }),
    );
    let hedge = "hedge: {after: 20ms, floor: 10ms, max_extra: 1}";
    let budgets = ["name: all, route: chat, amount: 0.006", "name: at-b, endpoint: b, amount: 0.003"];
    let gateway = Gateway::start(&several(&a, &b, &budgets, &[hedge])).await;
    let clients = (0..20).map(async |n| {
        let body = if n % 2 == 0 { chat_body("chat") } else { stream_body("chat") };
        spend_all(&gateway, &with_max(body, 40), "all").await
    });
    let served: usize = futures_util::future::join_all(clients).await.into_iter().sum();
    let hedged = gateway.get("/metrics").await.text();
    let hedged = hedged.lines().find_map(|l| l.strip_prefix("breakwater_hedges_total ")).unwrap().to_owned();
    assert!(hedged.parse::<u64>().unwrap() > 10, "{hedged} hedges");
    assert!(nano(&gateway, "all", "left").await < 60_000, "all of it is spent; {served} answers");
    eventually(secs(5), "every attempt has its row", async || {
        cost(&gateway.rows().await) == nano(&gateway, "all", "spent").await
    })
    .await;
    let rows = gateway.rows().await;
    expect_charged(&gateway, "all", &rows).await;
    let at_b: Vec<_> = rows.into_iter().filter(|row| row.get("endpoint") == "b").collect();
    expect_charged(&gateway, "at-b", &at_b).await;
}

/// A stream of so many words that breaks off.
fn cut(words: usize) -> Reply {
    Reply::CutEvents((0..words).map(|n| text_event(&format!("word{n} "))).collect())
}

#[tokio::test]
async fn a_continuation_reserves_of_its_own_and_each_attempt_is_charged_once() {
    let (a, b) = (Upstream::start_with(cut(6)), Upstream::start_with(Reply::Slow(ms(600))));
    let gateway = Gateway::start(&several(&a, &b, &["name: all, route: chat, amount: 1"], &[CONTINUE])).await;
    let body = with_max(stream_body("chat"), 100);
    let look = async {
        eventually(secs(5), "the second is asked", async || b.running() == 1).await;
        budget(&gateway, "all").await
    };
    let (answer, during) = tokio::join!(gateway.chat(&body), look);
    let sse = answer.expect(200).sse();
    assert_eq!((sse.dones(), sse.error()), (1, None), "{sse:?}");
    let rows = gateway.rows_of(answer.need("x-breakwater-request-id"), 2).await;
    let told: Vec<_> = rows.iter().map(|r| (r.get("outcome"), r.get("usage_source"))).collect();
    assert_eq!(told, [("partial", "estimated"), ("success", "reported")]);
    let broken = rows[0].number("cost_nanousd");
    assert!(broken > 10_000, "a prompt and some words: {broken}");
    // While the second is under way the first is charged already, and only the second holds something.
    assert_eq!(during["spent_nanousd"], broken, "{during}");
    let record = gateway.admin_get(&format!("/admin/decisions/{}", answer.need("x-breakwater-request-id"))).await;
    let reserved = |at: &str| {
        let steps = record["steps"].as_array().unwrap().iter();
        steps.filter(|s| s["what"] == "reserved" && s["endpoint"] == at).map(|s| s["usd"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(reserved("b"), [during["reserved_usd"].clone()], "{record}");
    let first = reserved("a")[0].as_f64().unwrap();
    assert!(during["reserved_usd"].as_f64().unwrap() > first, "its prompt is longer: {record}");
    expect_charged(&gateway, "all", &rows).await;
}

#[tokio::test]
async fn a_continuation_that_the_budget_cannot_pay_ends_the_stream_as_broken() {
    let (a, b) = (Upstream::start_with(cut(6)), Upstream::start());
    let body = with_max(stream_body("chat"), 10);
    // After six words less is left than the longer prompt of a continuation costs.
    let amount = reservation(&body).await + 1_000;
    let budgets = [&*format!("name: all, route: chat, amount: {}", usd(amount))];
    let gateway = Gateway::start(&several(&a, &b, &budgets, &[CONTINUE])).await;
    let answer = gateway.chat(&body).await;
    let sse = answer.expect(200).sse();
    assert_eq!((sse.dones(), b.calls()), (0, 0), "{sse:?}");
    assert_eq!(sse.error().expect("an error event")["code"], "upstream_failed");
    let id = answer.need("x-breakwater-request-id");
    let rows = gateway.rows_of(id, 1).await;
    step(&gateway, id, |s| s["step"] == "not_recovered").await;
    let refused = step(&gateway, id, |s| s["what"] == "refused").await;
    assert_eq!((&refused["budget"], &refused["endpoint"]), (&json!("all"), &json!("b")), "{refused}");
    expect_charged(&gateway, "all", &rows).await;
}

#[tokio::test]
async fn continuations_by_the_dozen_never_pass_the_budget() {
    let (a, b) = (Upstream::start_with(cut(12)), Upstream::start_with(Reply::Metered { wish: 30, time: ms(5) }));
    let gateway = Gateway::start(&several(&a, &b, &["name: all, route: chat, amount: 0.004"], &[CONTINUE])).await;
    let body = with_max(stream_body("chat"), 40);
    let clients = (0..12).map(async |_| {
        let mut whole = 0;
        loop {
            let answer = gateway.chat(&body).await;
            if answer.status != 200 {
                expect_spent(&answer, "all");
                return whole;
            }
            whole += answer.sse().dones();
        }
    });
    let whole: usize = futures_util::future::join_all(clients).await.into_iter().sum();
    assert!(whole > 10, "{whole} were gone on with");
    eventually(secs(5), "every attempt has its row", async || {
        cost(&gateway.rows().await) == nano(&gateway, "all", "spent").await
    })
    .await;
    let rows = gateway.rows().await;
    let mut attempts: Vec<_> = rows.iter().map(|r| (r.get("request_id"), r.get("attempt"))).collect();
    attempts.sort_unstable();
    attempts.dedup();
    assert_eq!(attempts.len(), rows.len(), "one row an attempt");
    expect_charged(&gateway, "all", &rows).await;
}

#[tokio::test]
async fn after_a_failure_a_budgets_no_is_told_as_well() {
    let (a, b) = (Upstream::start_with(Reply::status(500)), Upstream::start());
    let budgets = ["name: b-cap, endpoint: b, amount: 0.000000001"];
    let gateway = Gateway::start(&several(&a, &b, &budgets, &["retry: {max_attempts: 2, backoff: 1ms}"])).await;
    let answer = gateway.chat(&chat_body("chat")).await;
    answer.expect_error(502, "upstream_failed");
    assert!(answer.text().contains("the budget `b-cap` does not pay for this request"), "{}", answer.text());
    assert_eq!(b.calls(), 0);
    let id = answer.need("x-breakwater-request-id");
    let told = gateway.get(&format!("/v1/requests/{id}")).await.expect(200).json()["explanation"].to_string();
    assert!(told.contains("the budget b-cap did not pay for b"), "{told}");
}

#[tokio::test]
async fn waiting_for_money_counts_as_waiting() {
    let a = Upstream::start_with(Reply::Slow(ms(700)));
    let body = chat_body("chat");
    let each = reservation(&body).await;
    // Enough for one reservation at a time; what it does not use is free again.
    let amount = format!("name: all, route: chat, amount: {}", usd(each + each / 2));
    let gateway = Gateway::start(&setup(&a, &[&amount])).await;
    let (one, two) = futures_util::future::join(gateway.chat(&body), gateway.chat(&body)).await;
    let mut waited = vec![];
    for answer in [one, two] {
        let id = answer.expect(200).need("x-breakwater-request-id");
        let told = gateway.get(&format!("/v1/requests/{id}")).await.expect(200).json();
        waited.push(told["time"]["waiting_ms"].as_f64().unwrap());
        assert!(told["time"]["gateway_ms"].as_f64().unwrap() < 400.0, "{told}");
    }
    waited.sort_by(f64::total_cmp);
    assert!(waited[0] < 300.0 && waited[1] > 500.0, "one stood until the other was answered: {waited:?}");
}
