//! Budgets: never overspent, never withheld, known after every end. Endpoints cost 1 USD per million tokens in and 2 USD out: 1,000
//! and 2,000 nano-dollars a token.

mod attempts;

use crate::support::ledger::cost;
use crate::support::{Answer, Gateway, Reply, Setup, Upstream, chat_body, eventually, ms, secs, stream_body};
use serde_json::{Value, json};
use std::io::Write;
use std::time::Instant;

/// A setup with one endpoint `a`, and budgets below `budgets:`.
fn setup(a: &Upstream, budgets: &[&str]) -> Setup {
    Setup::single(a).top(&lines(budgets))
}

fn lines(budgets: &[&str]) -> String {
    let entries: Vec<_> = budgets.iter().map(|b| format!("  - {{{b}}}\n")).collect();
    format!("budgets:\n{}", entries.concat())
}

async fn budget(gateway: &Gateway, name: &str) -> Value {
    let all = gateway.admin_get("/admin/budgets").await;
    let found = all["budgets"].as_array().unwrap().iter().find(|b| b["name"] == name).cloned();
    found.unwrap_or_else(|| panic!("no budget {name} in {all}"))
}

async fn nano(gateway: &Gateway, name: &str, what: &str) -> i64 {
    budget(gateway, name).await[format!("{what}_nanousd")].as_i64().unwrap()
}

fn with_max(mut body: Value, max_tokens: u64) -> Value {
    body["max_tokens"] = max_tokens.into();
    body
}

#[track_caller]
fn expect_spent(answer: &Answer, name: &str) {
    answer.expect_error(429, "budget_exceeded");
    assert_eq!(answer.need("x-should-retry"), "false");
    let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains(&format!("`{name}`")), "{message}");
}

/// Asks until the budget is spent; how many answers came.
async fn spend_all(gateway: &Gateway, body: &Value, name: &str) -> usize {
    let mut served = 0;
    loop {
        let answer = gateway.chat(body).await;
        if answer.status != 200 {
            expect_spent(&answer, name);
            return served;
        }
        served += 1;
    }
}

#[tokio::test]
async fn fifty_clients_at_once_spend_a_hard_budget_and_not_more() {
    let a = Upstream::start_with(Reply::Metered { wish: 100, time: ms(5) });
    // About 48 requests of 10 tokens in and 100 out.
    let gateway = Gateway::start(&setup(&a, &["name: all, route: chat, amount: 0.01"])).await;
    let clients = (0..50).map(async |n| {
        let body = if n % 2 == 0 { chat_body("chat") } else { stream_body("chat") };
        spend_all(&gateway, &with_max(body, 100), "all").await
    });
    let served: usize = futures_util::future::join_all(clients).await.into_iter().sum();
    let budget = budget(&gateway, "all").await;
    let (spent, left) = (budget["spent_nanousd"].as_i64().unwrap(), budget["left_nanousd"].as_i64().unwrap());
    assert!(spent <= 10_000_000, "{budget}");
    assert!(left < 60_000, "what is left does not pay for one token more: {budget}");
    assert_eq!(budget["reserved_nanousd"], 0, "{budget}");
    assert!(served >= 47, "{served}");
    let rows = gateway.wait_rows(served).await;
    assert_eq!(cost(&rows), spent, "the ledger says the same");
    assert_eq!(gateway.admin_get("/admin/budgets").await["overruns"], 0);
}

#[tokio::test]
async fn streams_without_a_maximum_cannot_run_past_a_small_budget() {
    let a = Upstream::start_with(Reply::Metered { wish: 1_000_000, time: ms(50) });
    let gateway = Gateway::start(&setup(&a, &["name: small, route: chat, amount: 0.03"])).await;
    let body = stream_body("chat");
    let answers = futures_util::future::join_all((0..80).map(|_| gateway.chat(&body))).await;
    let served = answers.iter().filter(|a| a.status == 200).count();
    answers.iter().filter(|a| a.status != 200).for_each(|a| expect_spent(a, "small"));
    assert!((1..80).contains(&served), "{served} of 80");
    for seen in a.seen() {
        let most = seen.json()["max_tokens"].as_u64().expect("the upstream is told a maximum");
        assert!(most <= 4096, "{most}");
    }
    let rows = gateway.wait_rows(served).await;
    assert!(cost(&rows) <= 30_000_000, "{} nano-dollars of 30,000,000", cost(&rows));
    assert_eq!(nano(&gateway, "small", "spent").await, cost(&rows));
}

#[tokio::test]
async fn the_last_money_makes_a_shorter_answer_and_then_a_429() {
    let a = Upstream::start_with(Reply::Metered { wish: 1_000, time: ms(0) });
    let gateway = Gateway::start(&setup(&a, &["name: rest, route: chat, amount: 0.00025, period: day"])).await;
    let answer = gateway.chat(&with_max(chat_body("chat"), 10)).await;
    answer.expect(200);
    assert_eq!(
        (answer.header("x-breakwater-max-tokens"), answer.header("x-breakwater-max-tokens-lowered")),
        (None, None)
    );
    assert_eq!(a.last().json()["max_tokens"], 10);

    let answer = gateway.chat(&with_max(chat_body("chat"), 1_000)).await;
    answer.expect(200);
    let lowered: u64 = answer.need("x-breakwater-max-tokens-lowered").parse().unwrap();
    assert!((50..1_000).contains(&lowered), "{lowered}");
    assert_eq!(a.last().json()["max_tokens"], lowered, "so much is paid for");
    let decision = gateway.admin_get(&format!("/admin/decisions/{}", answer.need("x-breakwater-request-id"))).await;
    assert!(decision["steps"].to_string().contains("lowered"), "{decision}");

    // A default instead of the caller's maximum is said as well.
    let calls = a.calls();
    let mut last = gateway.chat(&chat_body("chat")).await;
    while last.status == 200 {
        assert!(last.header("x-breakwater-max-tokens").is_some());
        last = gateway.chat(&chat_body("chat")).await;
    }
    expect_spent(&last, "rest");
    let end = budget(&gateway, "rest").await["period_end"].as_str().unwrap().to_owned();
    assert!(last.text().contains(&end), "{}", last.text());
    let after = a.calls();
    expect_spent(&gateway.chat(&chat_body("chat")).await, "rest");
    assert_eq!(a.calls(), after, "nothing is sent; {calls} calls before");
}

#[tokio::test]
async fn a_request_waits_for_what_others_have_reserved() {
    let a = Upstream::start_with(Reply::Metered { wish: 5, time: ms(600) });
    let gateway = Gateway::start(&setup(&a, &["name: held, route: chat, amount: 0.0003"])).await;
    let body = with_max(chat_body("chat"), 100);
    let began = Instant::now();
    let (one, two) = tokio::join!(gateway.chat(&body), gateway.chat(&body));
    assert!(began.elapsed() >= ms(1_200), "one after the other: {:?}", began.elapsed());
    for answer in [&one, &two] {
        answer.expect(200);
        assert_eq!(answer.header("x-breakwater-max-tokens-lowered"), None, "the whole length");
    }
    let mut waited = 0;
    for answer in [&one, &two] {
        let id = answer.need("x-breakwater-request-id");
        let steps = gateway.admin_get(&format!("/admin/decisions/{id}")).await["steps"].to_string();
        waited += usize::from(steps.contains("\"what\":\"waited\""));
    }
    assert_eq!((waited, a.calls()), (1, 2));
}

#[tokio::test]
async fn a_wait_has_an_end_and_then_takes_what_is_free() {
    let a = Upstream::start_with(Reply::Metered { wish: 5, time: ms(1_500) });
    let setup = setup(&a, &["name: held, route: chat, amount: 0.0004"]).top("budget_wait: 100ms\n");
    let gateway = Gateway::start(&setup).await;
    let body = with_max(chat_body("chat"), 100);
    let late = async {
        eventually(secs(5), "the first is under way", async || a.running() == 1).await;
        gateway.chat(&body).await
    };
    let (one, two) = tokio::join!(gateway.chat(&body), late);
    one.expect(200);
    two.expect(200);
    assert!(two.need("x-breakwater-max-tokens-lowered").parse::<u64>().unwrap() < 100);
}

#[tokio::test]
async fn a_soft_budget_steers_to_cheaper_endpoints_and_marks_the_row() {
    let (dear, cheap) = (Upstream::start(), Upstream::start());
    let setup = Setup::new()
        .endpoint("dear", &dear, &["price: {input: 10.00, output: 20.00}"])
        .endpoint("cheap", &cheap, &[])
        .route("chat", "priority", &["dear", "cheap"], &[])
        .top(&lines(&["name: team, tag: team=a, amount: 0.0001, mode: soft"]));
    let gateway = Gateway::start(&setup).await;
    let tagged = [("x-breakwater-tag", "team=a")];
    let ask = async |headers: &[(&str, &str)]| {
        let answer = gateway.chat_with(headers, &chat_body("chat")).await;
        answer.expect(200).need("x-breakwater-endpoint").to_owned()
    };
    assert_eq!(ask(&tagged).await, "dear");
    assert_eq!(ask(&tagged).await, "cheap", "spent, but nobody is refused");
    assert_eq!(ask(&[("x-breakwater-tag", "team=b")]).await, "dear", "another team");
    let rows = gateway.wait_rows(3).await;
    let decisions: Vec<_> = rows.iter().map(|r| r.get("decision")).collect();
    assert_eq!(decisions, ["priority/1;soft_budget", "cost_based/1;soft_budget", "priority/1"]);
}

#[tokio::test]
async fn an_endpoints_own_budget_moves_requests_elsewhere() {
    let (a, b) = (Upstream::start(), Upstream::start());
    let gateway = Gateway::start(&Setup::pair(&a, &b, &["budget: {amount: 0.0001, period: total}"])).await;
    let mut by_b = 0;
    for _ in 0..10 {
        let answer = gateway.chat(&with_max(chat_body("chat"), 5)).await;
        by_b += usize::from(answer.expect(200).need("x-breakwater-endpoint") == "b");
    }
    assert!((2..10).contains(&by_b), "{by_b} of 10");
    assert!(nano(&gateway, "endpoint:a", "spent").await <= 100_000);
    expect_spent(&gateway.chat(&with_max(chat_body("a"), 5)).await, "endpoint:a");
}

#[tokio::test]
async fn failed_attempts_and_callers_who_leave_hold_nothing() {
    let (a, b) = (Upstream::start_with(Reply::status(500)), Upstream::start());
    let setup = Setup::pair(&a, &b, &[]).top(&lines(&["name: all, route: chat, amount: 0.001"]));
    let gateway = Gateway::start(&setup).await;
    gateway.chat(&with_max(chat_body("chat"), 5)).await.expect(200);
    assert_eq!(nano(&gateway, "all", "spent").await, 20_000, "only what the ledger says");
    assert_eq!(nano(&gateway, "all", "reserved").await, 0);
    for body in [chat_body("chat"), stream_body("chat")] {
        b.set(Reply::Hang);
        let body = with_max(body, 100);
        let left = tokio::time::timeout(ms(700), gateway.chat(&body));
        assert!(left.await.is_err(), "nobody answers");
        b.set(Reply::Completion);
        eventually(secs(5), "all of it is free again", async || nano(&gateway, "all", "reserved").await == 0).await;
    }
    assert_eq!(nano(&gateway, "all", "spent").await, 20_000);
}

#[tokio::test]
async fn spend_survives_a_restart_and_a_kill_in_the_middle_of_a_request() {
    let a = Upstream::start();
    let budgets = [
        "name: day, route: chat, amount: 0.01, period: day, timezone: Asia/Kolkata",
        "name: ever, tag: team=a, amount: 0.01, period: total",
        "name: at, endpoint: a, amount: 0.01",
    ];
    let mut gateway = Gateway::start(&setup(&a, &budgets)).await;
    let tagged = [("x-breakwater-tag", "team=a")];
    for _ in 0..3 {
        gateway.chat_with(&tagged, &with_max(chat_body("chat"), 5)).await.expect(200);
    }
    let all = async |gateway: &Gateway| {
        let mut all = Vec::new();
        for name in ["day", "ever", "at"] {
            all.push(nano(gateway, name, "spent").await);
        }
        all
    };
    gateway.restart().await;
    assert_eq!(all(&gateway).await, [60_000; 3]);

    a.set(Reply::Hang);
    let body = with_max(chat_body("chat"), 100);
    // Its caller holds on until the kill: one that leaves gives its reservation back.
    let text = body.to_string();
    let mut caller = gateway.connect();
    write!(
        caller,
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nx-breakwater-request-id: killed\r\n\
         x-breakwater-tag: team=a\r\ncontent-length: {}\r\n\r\n{text}",
        text.len()
    )
    .unwrap();
    eventually(secs(10), "the upstream is called", async || a.running() == 1).await;
    let reserved = nano(&gateway, "day", "reserved").await;
    assert!(reserved > 200_000, "{reserved}");
    gateway.kill();
    a.set(Reply::Completion);
    gateway.start_again().await;
    let rows = gateway.rows_of("killed", 1).await;
    assert_eq!((rows[0].get("outcome"), rows[0].number("cost_nanousd")), ("uncertain", reserved));
    assert!(rows[0].get("decision").ends_with(";orphan"));
    assert_eq!(all(&gateway).await, [60_000 + reserved; 3]);
    assert!(gateway.log().contains("were open at the last end"), "{}", gateway.log());
    gateway.kill();
    gateway.start_again().await;
    assert_eq!(all(&gateway).await, [60_000 + reserved; 3], "charged once");
    gateway.kill();
    gateway.run(&["ledger", "verify"]).expect(0);
}

/// What is on disk of an attempt under way is no part of any sum.
#[tokio::test]
async fn reports_are_there_while_attempts_under_hard_budgets_are_under_way() {
    let a = Upstream::start();
    let gateway = Gateway::start(&setup(&a, &["name: all, route: chat, amount: 1"])).await;
    gateway.chat(&with_max(chat_body("chat"), 5)).await.expect(200);
    gateway.wait_rows(1).await;
    a.set(Reply::Slow(ms(1_000)));
    let body = with_max(chat_body("chat"), 5);
    let look = async {
        eventually(secs(5), "the upstream is called", async || a.running() == 1).await;
        for group in ["total", "model", "endpoint", "route", "key", "tag:team", "day", "hour"] {
            let report = gateway.admin_get(&format!("/admin/report?group_by={group}")).await;
            assert_eq!(report["total"]["cost_nanousd"], 20_000, "{group}: {report}");
        }
        assert_eq!(a.running(), 1);
    };
    tokio::join!(gateway.chat(&body), look).0.expect(200);
}

#[tokio::test]
async fn kills_under_load_never_make_a_budget_larger() {
    let a = Upstream::start_with(Reply::Metered { wish: 20, time: ms(3) });
    let mut gateway = Gateway::start(&setup(&a, &["name: all, route: chat, amount: 0.004, period: total"])).await;
    let body = with_max(chat_body("chat"), 20);
    for _ in 0..3 {
        {
            let clients = (0..10).map(async |_| {
                for _ in 0..100 {
                    gateway.chat(&body).await;
                }
            });
            let _ = tokio::time::timeout(ms(150), futures_util::future::join_all(clients)).await;
        }
        gateway.kill();
        gateway.start_again().await;
    }
    spend_all(&gateway, &body, "all").await;
    // What the upstream really answered, whether or not a row of it survived.
    let answered = i64::try_from(a.calls()).unwrap() * (10 * 1_000 + 20 * 2_000);
    assert!(nano(&gateway, "all", "spent").await <= 4_000_000);
    assert!(answered <= 4_000_000 + 50_000, "{answered} nano-dollars for a budget of 4,000,000");
}

#[tokio::test]
async fn an_endpoint_without_a_price_is_no_candidate_under_a_hard_budget() {
    let (bare, priced) = (Upstream::start(), Upstream::start());
    let setup = Setup::new()
        .endpoint("bare", &bare, &["price: null"])
        .endpoint("priced", &priced, &[])
        .route("chat", "priority", &["bare", "priced"], &[])
        .top(&lines(&["name: team, tag: team=a, amount: 1"]));
    let gateway = Gateway::start(&setup).await;
    let tagged = [("x-breakwater-tag", "team=a")];
    let answer = gateway.chat_with(&tagged, &chat_body("chat")).await;
    assert_eq!(answer.expect(200).need("x-breakwater-endpoint"), "priced");
    let explained = gateway.post_with("/v1/explain", &tagged, &chat_body("chat")).await.expect(200).json();
    let removed = explained["removed"].to_string();
    assert!(removed.contains("bare") && removed.contains("unpriced_under_budget"), "{explained}");
    assert_eq!(explained["budgets"][0]["budget"], "team", "{explained}");
    gateway.chat_with(&tagged, &chat_body("bare")).await.expect_error(503, "no_endpoint_available");
    assert_eq!(
        gateway.chat(&chat_body("chat")).await.need("x-breakwater-endpoint"),
        "bare",
        "without a budget it is one"
    );
}

#[tokio::test]
async fn a_reload_adds_changes_and_removes_budgets_and_keeps_their_spend() {
    let a = Upstream::start();
    let gateway = Gateway::start(&Setup::single(&a)).await;
    for _ in 0..4 {
        gateway.chat(&with_max(chat_body("chat"), 5)).await.expect(200);
    }
    let without = std::fs::read_to_string(gateway.config()).unwrap();
    let reload = async |budgets: &[&str]| {
        std::fs::write(gateway.config(), format!("{without}\n{}", lines(budgets))).unwrap();
        gateway.admin("POST", "/admin/reload", None).await.expect(200).json()["changes"].to_string()
    };
    let changes = reload(&["name: all, route: chat, amount: 1"]).await;
    assert!(changes.contains("\"budget\"") && changes.contains("added"), "{changes}");
    assert_eq!(nano(&gateway, "all", "spent").await, 80_000, "also what was spent before");
    reload(&["name: all, route: chat, amount: 0.00011"]).await;
    assert_eq!(nano(&gateway, "all", "spent").await, 80_000);
    assert_eq!(nano(&gateway, "all", "left").await, 30_000);
    expect_spent(&gateway.chat(&with_max(chat_body("chat"), 5)).await, "all");
    reload(&["name: other, tag: a=b, amount: 1"]).await;
    gateway.chat(&with_max(chat_body("chat"), 5)).await.expect(200);
    let bad = format!("{without}\n{}", lines(&["name: all, route: chat, amount: ten"]));
    std::fs::write(gateway.config(), bad).unwrap();
    let refused = gateway.admin("POST", "/admin/reload", None).await;
    refused.expect_error(400, "invalid_request");
    assert!(refused.text().contains("budgets[0].amount"), "{}", refused.text());
    assert_eq!(nano(&gateway, "other", "spent").await, 0);
}

#[tokio::test]
async fn a_keys_budget_is_its_own() {
    let a = Upstream::start();
    let mut gateway = Gateway::start(&Setup::single(&a).auth_required()).await;
    for bad in [
        json!({}),
        json!({"amount_usd": 0}),
        json!({"amount_usd": -1}),
        json!({"amount_usd": "ten"}),
        json!({"amount_usd": 1e300}),
        json!({"amount_usd": "0.0000000001"}),
        json!({"amount_usd": null}),
        json!({"amount_usd": 1, "period": "year"}),
        json!({"amount_usd": 1, "timezone": "Mars/Olympus"}),
        json!({"amount_usd": 1, "mode": "firm"}),
        json!({"amount_usd": 1, "colour": "red"}),
    ] {
        gateway.admin("POST", "/admin/keys", Some(&json!({"name": "x", "budget": bad}))).await.expect(400);
    }
    let told = gateway.admin("POST", "/admin/keys", Some(&json!({"name": "x", "budget": 5}))).await.text();
    assert!(told.contains("expected an object such as") && told.contains("amount_usd"), "{told}");
    let budget = json!({"amount_usd": 0.0001, "period": "month", "timezone": "Europe/Berlin"});
    let made = gateway.admin("POST", "/admin/keys", Some(&json!({"name": "small", "budget": budget}))).await;
    let made = made.expect(201).json();
    let (id, bearer) =
        (made["id"].as_str().unwrap().to_owned(), format!("Bearer {}", made["secret"].as_str().unwrap()));
    let free = gateway.admin("POST", "/admin/keys", Some(&json!({"name": "free"}))).await.expect(201).json();
    let free = format!("Bearer {}", free["secret"].as_str().unwrap());
    let ask = async |gateway: &Gateway, bearer: &str| {
        gateway.chat_with(&[("authorization", bearer)], &with_max(chat_body("chat"), 5)).await
    };
    let name = format!("key:{id}");
    for _ in 0..3 {
        ask(&gateway, &bearer).await.expect(200);
    }
    let shown = gateway.admin_get(&format!("/admin/keys/{id}")).await["budget"].clone();
    assert_eq!((&shown["spent_nanousd"], &shown["timezone"]), (&json!(60_000), &json!("Europe/Berlin")), "{shown}");
    let mut served = 3;
    while served < 20 && ask(&gateway, &bearer).await.status == 200 {
        served += 1;
    }
    expect_spent(&ask(&gateway, &bearer).await, &name);
    ask(&gateway, &free).await.expect(200);
    gateway.restart().await;
    expect_spent(&ask(&gateway, &bearer).await, &name);

    let wanted = [
        "key",
        "create",
        "--name",
        "cli",
        "--budget",
        "5",
        "--period",
        "week",
        "--timezone",
        "Asia/Tokyo",
        "--format",
        "json",
    ];
    let made: Value = serde_json::from_str(&gateway.run_by_url(&wanted).expect(0).stdout).unwrap();
    assert_eq!(made["budget"]["amount_usd"], 5.0, "{made}");
    let listed = gateway.run_by_url(&["key", "list"]).expect(0).stdout;
    assert!(listed.contains("0.0001 usd a month, ") && listed.contains("5 usd a week, 5 left"), "{listed}");
    for bad in ["ten", "-5", "1e3", "$5", "1,000", "0"] {
        let run = gateway.run_by_url(&["key", "create", "--name", "cli", "--budget", bad]).expect(2);
        assert!(run.stderr.contains(&format!("`{bad}`")), "{}", run.stderr);
    }
    gateway.run_by_url(&["key", "create", "--name", "cli", "--period", "week"]).expect(2);
    gateway.terminate();
    gateway.wait_exit(secs(20)).await;
    let made: Value = serde_json::from_str(&gateway.run(&wanted).expect(0).stdout).unwrap();
    assert_eq!((&made["budget"]["period"], &made["budget"]["timezone"]), (&json!("week"), &json!("Asia/Tokyo")));
}

#[tokio::test]
async fn a_budget_for_a_key_that_there_is_not_is_told() {
    let a = Upstream::start();
    let gateway = Gateway::start(&setup(&a, &["name: typo, key: key_nobody, amount: 1"])).await;
    let told = gateway.log();
    assert!(told.contains("a budget is for a key that there is not") && told.contains("key_nobody"), "{told}");
}

#[tokio::test]
async fn a_keys_tag_with_a_budget_cannot_be_replaced_by_its_caller() {
    let a = Upstream::start();
    let setup = setup(&a, &["name: team, tag: team=a, amount: 1"]).auth_required();
    let gateway = Gateway::start(&setup).await;
    let key = json!({"name": "x", "tags": {"team": "a", "app": "one"}});
    let made = gateway.admin("POST", "/admin/keys", Some(&key)).await.expect(201).json();
    let bearer = format!("Bearer {}", made["secret"].as_str().unwrap());
    let headers = [("authorization", &*bearer), ("x-breakwater-tag", "team=z"), ("x-breakwater-tag", "app=two")];
    gateway.chat_with(&headers, &with_max(chat_body("chat"), 5)).await.expect(200);
    assert_eq!(nano(&gateway, "team", "spent").await, 20_000);
    let rows = gateway.wait_rows(1).await;
    let tags = rows[0].get("tags");
    assert!(tags.contains('a') && tags.contains("two") && !tags.contains('z'), "{tags}");
}

#[tokio::test]
async fn budgets_show_in_the_metrics() {
    let a = Upstream::start();
    let gateway = Gateway::start(&setup(&a, &["name: all, route: chat, amount: 0.5"])).await;
    gateway.chat(&with_max(chat_body("chat"), 5)).await.expect(200);
    let metrics = gateway.get("/metrics").await.text();
    for line in
        ["breakwater_budget_spent_usd{budget=\"all\"} 0.00002", "breakwater_budget_left_usd{budget=\"all\"} 0.49998"]
    {
        assert!(metrics.lines().any(|l| l.starts_with(line) || l == line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn keys_budgets_show_in_the_metrics_as_sums() {
    let a = Upstream::start();
    let gateway = Gateway::start(&Setup::single(&a).auth_required()).await;
    let sums = async || {
        let metrics = gateway.get("/metrics").await.text();
        let of = |name: &str| {
            let line = metrics.lines().find_map(|l| l.strip_prefix(&format!("breakwater_key_budgets{name} ")));
            line.unwrap_or_else(|| panic!("{name} in {metrics}")).parse::<f64>().unwrap()
        };
        ["", "_spent", "_spent_usd", "_left_usd"].map(of)
    };
    assert_eq!(sums().await, [0.0; 4]);
    for (amount, mode, asks) in [("0.00002", "soft", 1), ("1", "hard", 2), ("3", "hard", 0)] {
        let key = json!({"name": "x", "budget": {"amount_usd": amount, "period": "total", "mode": mode}});
        let made = gateway.admin("POST", "/admin/keys", Some(&key)).await.expect(201).json();
        let bearer = format!("Bearer {}", made["secret"].as_str().unwrap());
        for _ in 0..asks {
            let asked = gateway.chat_with(&[("authorization", &bearer)], &with_max(chat_body("chat"), 5)).await;
            asked.expect(200);
        }
    }
    let [count, spent, spent_usd, left_usd] = sums().await;
    assert_eq!((count, spent, spent_usd), (3.0, 1.0, 0.00006));
    assert!((left_usd - 3.99996).abs() < 1e-9, "{left_usd}");
    assert!(!gateway.get("/metrics").await.text().contains("key:key_"), "no key becomes a label");
}
