//! What can be seen and set: seeds, statistics, hang-ups, control requests.

use super::wire::{CHAT, LONG, QUIET, Raw, ask, call, control_addr, eventually, provider, streamed, unary, with};
use breakwater::clock;
use breakwater::sim::{self, Fault, FaultKind, Latency, On, Profile, Stats};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::time::Duration;

#[test]
fn a_seed_makes_the_same_run_again() {
    let run = |seed| {
        let fault = Fault::from(FaultKind::Status { code: 500, headers: BTreeMap::new(), body: None }).share(0.4);
        let handle = provider(Profile { seed, faults: vec![fault], ..Profile::new("a", &["m"]) });
        let mut raw = Raw::to(handle.addr());
        let mut statuses = Vec::new();
        for _ in 0..100 {
            raw.send(CHAT, &unary());
            statuses.push(raw.answer().status);
        }
        statuses
    };
    let (one, again, other) = (run(1), run(1), run(2));
    assert_eq!(one, again);
    assert_ne!(one, other);
    let failed = one.iter().filter(|status| **status == 500).count();
    assert!((25..=55).contains(&failed), "{failed} of 100");
}

#[test]
fn a_hang_up_is_noticed_while_nothing_is_written() {
    // Before the first token, and between two of them: neither would come within the test's time.
    for (latency, rate, mark, events) in [(60_000.0, None, None, 0), (0.0, Some(0.01), Some("t0\""), 1)] {
        let profile =
            Profile { latency: Latency::fixed(latency), tokens_per_second: rate, ..Profile::new("a", &["m"]) };
        let handle = provider(profile);
        let mut raw = Raw::ask(&handle, CHAT, &streamed());
        match mark {
            Some(mark) => drop(raw.until(mark)),
            None => drop(eventually(&handle, |stats| stats.requests.in_progress == 1 && !stats.last.is_empty())),
        }
        let left = clock::now();
        let left_unix_us = clock::wall().0;
        drop(raw);
        let stats = eventually(&handle, |stats| stats.aborted.total == 1);
        let noticed = clock::now().since(left);
        assert!(noticed < Duration::from_secs(2), "{noticed:?}");
        let abort = stats.aborted.last[0];
        assert_eq!(abort.events, events);
        assert!(abort.at_unix_us >= left_unix_us - 1_000 && abort.after_last_event_us < 10_000_000, "{abort:?}");
        assert_eq!(eventually(&handle, |stats| stats.connections.open == 0).outcomes["aborted"], 1);
    }
}

#[test]
fn a_client_that_does_not_read_blocks_and_is_noticed_too() {
    let handle = with(FaultKind::EndlessBody);
    let raw = Raw::ask(&handle, CHAT, &streamed());
    // Blocked: what has been written stays the same for a while.
    let mut last = 0;
    let mut since = clock::now();
    eventually(&handle, |stats| stats.bytes_out > 0);
    let end = clock::now().plus(LONG);
    while clock::now().since(since) < QUIET {
        let out = handle.stats().bytes_out;
        if out != last {
            (last, since) = (out, clock::now());
        }
        assert!(clock::now() < end, "never blocked");
        std::thread::yield_now();
    }
    // Others are served meanwhile.
    assert_eq!(call(handle.addr(), "GET", "/health", "").status, 200);
    drop(raw);
    eventually(&handle, |stats| stats.aborted.total == 1);
}

#[test]
fn control_over_http_sets_shows_and_resets() {
    let handle = provider(Profile::new("a", &["m"]));
    let addr = handle.addr();
    let set =
        call(addr, "PUT", "/__sim/faults", r#"[{"kind": "status", "code": 500, "count": 2}, {"kind": "no_usage"}]"#);
    assert_eq!(set.status, 200);
    assert_eq!((&set.json()[0]["kind"], &set.json()[0]["hits"]), (&json!("status"), &json!(0)));
    let statuses: Vec<u16> = (0..3).map(|_| ask(&handle, &unary()).status).collect();
    assert_eq!(statuses, [500, 500, 200]);
    let left = call(addr, "GET", "/__sim/faults", "").json();
    assert_eq!(
        (left.as_array().unwrap().len(), &left[0]["kind"], &left[0]["hits"]),
        (1, &json!("no_usage"), &json!(3))
    );

    for bad in
        [r#"[{"kind": "nope"}]"#, r#"[{"kind": "hang", "share": 2}]"#, "{}", r#"[{"kind": "refuse", "count": 1}]"#]
    {
        let refused = call(addr, "POST", "/__sim/faults", bad);
        assert!(refused.status == 400 && refused.json()["error"].is_string(), "{bad}");
    }
    assert_eq!(call(addr, "GET", "/__sim/faults", "").json().as_array().unwrap().len(), 1);
    assert_eq!(call(addr, "DELETE", "/__sim/faults", "").json(), json!([]));

    let stats: Stats = serde_json::from_str(&call(addr, "GET", "/__sim/stats", "").body).unwrap();
    assert_eq!((stats.requests.total, stats.paths[CHAT], stats.outcomes["status"], stats.outcomes["ok"]), (3, 3, 2, 1));
    assert_eq!((stats.faults["status"], stats.faults["no_usage"]), (2, 3));
    let seen = &stats.last[2];
    assert_eq!((seen.n, seen.method.as_str(), seen.path.as_str(), seen.header("HOST")), (2, "POST", CHAT, Some("sim")));
    assert_eq!(seen.body, unary().to_string());

    let profile = call(addr, "PUT", "/__sim/profile", r#"{"output_tokens": 2, "keep_requests": 1}"#).json();
    assert_eq!((&profile["output_tokens"], &profile["name"]), (&json!(2), &json!("a")));
    assert_eq!(ask(&handle, &unary()).json()["choices"][0]["message"]["content"], "t0 t1");
    assert_eq!(call(addr, "PUT", "/__sim/profile", r#"{"name": "b"}"#).status, 400);

    assert_eq!(call(addr, "POST", "/__sim/reset", "").status, 200);
    let stats = handle.stats();
    assert_eq!((stats.requests.total, stats.last.len(), stats.outcomes.len(), stats.bytes_out), (0, 0, 0, 0));
    assert_eq!(call(addr, "PATCH", "/__sim/stats", "").status, 405);
    assert_eq!(call(addr, "GET", "/__sim/nothing", "").status, 404);
    assert_eq!(call(control_addr(&handle), "POST", CHAT, &unary().to_string()).status, 404);
}

#[test]
fn faults_can_be_meant_for_other_paths_and_models() {
    let handle = provider(Profile::new("a", &["m", "n"]));
    let hung = || FaultKind::Status { code: 500, headers: BTreeMap::new(), body: None };
    handle.set_faults(vec![Fault::from(hung()).on(On::Health)]).unwrap();
    assert_eq!((call(handle.addr(), "GET", "/health", "").status, ask(&handle, &unary()).status), (500, 200));
    handle.set_faults(vec![Fault { model: Some("n".into()), ..hung().into() }]).unwrap();
    let other = json!({"model": "n", "messages": [{"role": "user", "content": "x"}]});
    assert_eq!((ask(&handle, &other).status, ask(&handle, &unary()).status), (500, 200));
}

#[test]
fn kept_requests_are_bounded() {
    let handle = provider(Profile { keep_requests: 2, ..Profile::new("a", &["m"]) });
    let mut large = unary();
    large["messages"][0]["content"] = json!("x".repeat(300_000));
    let mut raw = Raw::to(handle.addr());
    for _ in 0..3 {
        raw.send(CHAT, &large);
        assert_eq!(raw.answer().status, 200);
    }
    let stats = handle.stats();
    assert_eq!((stats.last.len(), stats.last[0].n), (2, 1));
    assert!(stats.last[0].truncated && stats.last[0].body_bytes > 300_000 && stats.last[0].body.len() < 100_000);
}

#[test]
fn stopping_frees_the_port_and_a_taken_port_is_an_error() {
    let handle = provider(Profile::new("a", &["m"]));
    let addr = handle.addr();
    let idle = Raw::to(addr);
    let again = Profile { listen: Some(addr), ..Profile::new("b", &[]) };
    assert_eq!(sim::start(again.clone()).err().unwrap().kind(), ErrorKind::AddrInUse);
    handle.stop();
    let second = provider(again);
    assert_eq!((second.addr(), ask(&second, &unary()).status), (addr, 200));
    drop(idle);
}

#[test]
fn the_demo_has_its_four_models() {
    let demo = sim::demo();
    let models: Vec<&str> = demo.iter().flat_map(|profile| profile.models.iter().map(String::as_str)).collect();
    assert_eq!(models, ["deepseek-v3.2", "gemini-2.5-flash", "gpt-4.1", "claude-sonnet-4.5"]);
    let profile = Profile { output_tokens: 2, ..demo[0].clone() };
    assert_eq!(
        Raw::ask(
            &provider(profile),
            CHAT,
            &json!({"model": "deepseek-v3.2", "messages": [{"role": "user", "content": "x"}]})
        )
        .answer()
        .status,
        200
    );
}
