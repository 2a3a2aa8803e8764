//! Faults at an answer's end.

use super::wire::{CHAT, Raw, ask, events, eventually, header, numbered, said, streamed, unary, with};
use breakwater::clock;
use breakwater::sim::FaultKind;
use serde_json::{Value, json};
use std::io::{ErrorKind, Read};
use std::time::Duration;

#[test]
fn a_cut_is_in_the_middle_of_a_chunk() {
    for reset in [false, true] {
        let handle = with(FaultKind::CutAfter { events: 3, reset });
        let (text, end) = Raw::ask(&handle, CHAT, &streamed()).rest();
        assert!(text.contains("t2\"") && !text.contains("t3\"") && !text.contains("[DONE]"), "{text}");
        let broken = text.rsplit("\r\n").next().unwrap();
        assert!(broken.starts_with("data: ") && !broken.ends_with('\n'), "{broken}");
        assert_eq!(end, reset.then_some(ErrorKind::ConnectionReset));

        let (text, end) = Raw::ask(&handle, CHAT, &unary()).rest();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let length: usize = header(head, "content-length").unwrap().parse().unwrap();
        assert_eq!(body.len(), length / 2);
        assert_eq!(end, reset.then_some(ErrorKind::ConnectionReset));
    }
}

#[test]
fn a_stream_can_end_cleanly_without_saying_so() {
    for (given, tokens) in [(Some(2), 2), (None, 16), (Some(0), 0)] {
        let got = ask(&with(FaultKind::EndWithoutDone { events: given }), &streamed());
        let all = events(&got.body);
        assert_eq!(said(&all), numbered(tokens));
        assert!(!got.body.contains("[DONE]") && !got.body.contains(r#""finish_reason":"stop""#));
    }
}

#[test]
fn errors_come_as_events() {
    let got = ask(&with(FaultKind::ErrorEvent { after: 3, body: None }), &streamed());
    let all = events(&got.body);
    assert_eq!(said(&all), numbered(3));
    assert!(all.last().unwrap().starts_with(r#"{"error":{"#) && !got.body.contains("[DONE]"));

    let own = json!({"error": {"type": "overloaded_error"}});
    let got = ask(&with(FaultKind::FirstEventError { body: Some(own.clone()) }), &streamed());
    assert_eq!((got.status, events(&got.body)), (200, vec![own.to_string()]));
}

#[test]
fn silence_lasts_and_ends() {
    let handle = with(FaultKind::SilentAfter { events: 2, ms: None });
    let mut raw = Raw::ask(&handle, CHAT, &streamed());
    raw.until("t1\"");
    raw.until("\n\n\r\n");
    raw.is_silent();
    drop(raw);
    let stats = eventually(&handle, |stats| stats.aborted.total == 1);
    assert_eq!((stats.aborted.last[0].events, stats.outcomes.get("silent_after")), (2, Some(&1)));

    let handle = with(FaultKind::SilentAfter { events: 0, ms: Some(120) });
    let begin = clock::now();
    let mut raw = Raw::ask(&handle, CHAT, &streamed());
    raw.until("\r\n\r\n");
    assert_eq!(said(&events(&raw.until("0\r\n\r\n"))), numbered(16));
    assert!(clock::now().since(begin) >= Duration::from_millis(120));
}

#[test]
fn chunks_json_and_lengths_can_be_wrong() {
    let (text, end) = Raw::ask(&with(FaultKind::BrokenChunk { after: 2 }), CHAT, &streamed()).rest();
    assert!(text.contains("t1\"") && text.ends_with("\r\nzz\r\nno chunk\r\n") && end.is_none(), "{text}");
    let (text, _) = Raw::ask(&with(FaultKind::BrokenChunk { after: 2 }), CHAT, &unary()).rest();
    assert!(text.contains("chunked") && text.ends_with("\r\nzz\r\nno chunk\r\n"), "{text}");

    let all = events(&ask(&with(FaultKind::BrokenJsonEvent { after: 1 }), &streamed()).body);
    let broken: Vec<_> = all.iter().filter(|data| serde_json::from_str::<Value>(data).is_err()).collect();
    assert_eq!((broken.len(), broken[1].as_str()), (2, "[DONE]"));
    assert!(broken[0].starts_with('{'));

    for by in [-5_i64, 5] {
        let (text, end) = Raw::ask(&with(FaultKind::WrongLength { by }), CHAT, &unary()).rest();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let length: i64 = header(head, "content-length").unwrap().parse().unwrap();
        assert_eq!(length - i64::try_from(body.len()).unwrap(), by);
        assert!(end.is_none() && serde_json::from_str::<Value>(body).is_ok());
    }
}

#[test]
fn endless_bodies_do_not_end() {
    const ENOUGH: u64 = 4 * 1024 * 1024;
    for request in [unary(), streamed()] {
        let handle = with(FaultKind::EndlessBody);
        let mut raw = Raw::ask(&handle, CHAT, &request);
        let mut got = 0;
        let mut piece = vec![0; 64 * 1024];
        while got < ENOUGH {
            got += raw.0.read(&mut piece).unwrap() as u64;
        }
        drop(raw);
        let stats = eventually(&handle, |stats| stats.requests.in_progress == 0);
        assert_eq!((stats.outcomes["endless_body"], stats.aborted.total), (1, 1));
        assert!(stats.bytes_out >= ENOUGH);
    }
}
