//! Faults that take an answer's place.

use super::wire::{CHAT, Raw, ask, call, eventually, streamed, unary, with};
use breakwater::sim::{FaultKind, Malformed};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};

#[test]
fn statuses_carry_what_they_are_given() {
    let headers = BTreeMap::from([("retry-after".to_owned(), "Wed, 21 Oct 2026 07:28:00 GMT".to_owned())]);
    let handle = with(FaultKind::Status { code: 503, headers, body: None });
    let got = ask(&handle, &unary());
    assert_eq!((got.status, got.header("retry-after")), (503, Some("Wed, 21 Oct 2026 07:28:00 GMT")));
    assert_eq!(got.json()["error"]["type"], "server_error");

    let status = |code, body| FaultKind::Status { code, headers: BTreeMap::new(), body };
    handle.set_faults(vec![status(400, Some(json!({"error": {"code": "content_filter"}}))).into()]).unwrap();
    assert_eq!(ask(&handle, &streamed()).json()["error"]["code"], "content_filter");
    handle.set_faults(vec![status(500, Some(json!("<plain>"))).into()]).unwrap();
    let got = ask(&handle, &streamed());
    assert_eq!((got.status, got.body.as_str(), got.header("content-type")), (500, "<plain>", Some("text/plain")));
    assert_eq!(call(handle.addr(), "GET", "/health", "").status, 200);
}

#[test]
fn refusals_look_like_the_vendors() {
    let limited = |retry_after: Option<&str>, retry_after_ms: Option<&str>| FaultKind::RateLimited {
        retry_after: retry_after.map(str::to_owned),
        retry_after_ms: retry_after_ms.map(str::to_owned),
    };
    let handle = with(limited(Some("7"), None));
    let got = ask(&handle, &unary());
    assert_eq!((got.status, got.header("retry-after"), got.header("retry-after-ms")), (429, Some("7"), None));
    handle.set_faults(vec![limited(Some("1e30"), Some("-5")).into()]).unwrap();
    let got = ask(&handle, &unary());
    assert_eq!((got.header("retry-after"), got.header("retry-after-ms")), (Some("1e30"), Some("-5")));
    for (kind, status, pointer, value) in [
        (FaultKind::Quota, 429, "/error/code", "insufficient_quota"),
        (FaultKind::AuthFailed, 401, "/error/code", "invalid_api_key"),
        (FaultKind::Overloaded529, 529, "/error/type", "overloaded_error"),
    ] {
        handle.set_faults(vec![kind.into()]).unwrap();
        let got = ask(&handle, &streamed());
        assert_eq!((got.status, got.json().pointer(pointer)), (status, Some(&json!(value))));
    }
}

#[test]
fn hang_reads_the_request_and_says_nothing() {
    let handle = with(FaultKind::Hang);
    let mut raw = Raw::ask(&handle, CHAT, &unary());
    let stats = eventually(&handle, |stats| stats.requests.in_progress == 1 && stats.faults.get("hang") == Some(&1));
    assert_eq!(stats.last[0].body, unary().to_string());
    raw.is_silent();
    drop(raw);
    let stats = eventually(&handle, |stats| stats.requests.in_progress == 0);
    assert_eq!((stats.outcomes["hang"], stats.aborted.total), (1, 1));
}

#[test]
fn resets_come_before_the_body_and_after_it() {
    let handle = with(FaultKind::ResetBeforeHeaders);
    let mut raw = Raw::to(handle.addr());
    write!(raw.0, "POST {CHAT} HTTP/1.1\r\ncontent-length: 1000\r\n\r\n").unwrap();
    assert_eq!(raw.rest(), (String::new(), Some(ErrorKind::ConnectionReset)));

    handle.set_faults(vec![FaultKind::ResetAfterBody.into()]).unwrap();
    let mut raw = Raw::to(handle.addr());
    let body = unary().to_string();
    write!(raw.0, "POST {CHAT} HTTP/1.1\r\ncontent-length: {}\r\n\r\n", body.len()).unwrap();
    raw.is_silent();
    raw.0.write_all(body.as_bytes()).unwrap();
    assert_eq!(raw.rest(), (String::new(), Some(ErrorKind::ConnectionReset)));
    let stats = eventually(&handle, |stats| stats.requests.in_progress == 0);
    assert_eq!((stats.outcomes["reset_before_headers"], stats.outcomes["reset_after_body"]), (1, 1));
    assert_eq!(stats.last.len(), 1);
}

#[test]
fn malformed_answers_are_two_hundreds() {
    for (what, content_type, check) in [
        (Malformed::Html, "text/html", (|text| text.starts_with("<!DOCTYPE html>")) as fn(&str) -> bool),
        (Malformed::HalfJson, "application/json", |text| {
            text.starts_with('{') && serde_json::from_str::<Value>(text).is_err()
        }),
        (Malformed::Empty, "application/json", str::is_empty),
        (Malformed::JsonError200, "application/json", |text| text.starts_with(r#"{"error":{"#)),
        (Malformed::WrongContentType, "text/plain", |text| text.contains("t0 t1")),
    ] {
        let got = ask(&with(FaultKind::Malformed { what }), &unary());
        assert_eq!((got.status, got.header("content-type")), (200, Some(content_type)), "{what:?}");
        assert!(check(&got.body), "{what:?}: {}", got.body);
    }
    let stream = |what| ask(&with(FaultKind::Malformed { what }), &streamed());
    assert_eq!(stream(Malformed::Html).header("content-type"), Some("text/html"));
    assert!(stream(Malformed::HalfJson).json_is_broken());
    let empty = stream(Malformed::Empty);
    assert_eq!((empty.header("content-type"), empty.body.as_str()), (Some("text/event-stream; charset=utf-8"), ""));
    let plain = stream(Malformed::WrongContentType);
    assert_eq!(plain.header("content-type"), Some("text/plain"));
    assert!(plain.body.ends_with("data: [DONE]\n\n"));
}
