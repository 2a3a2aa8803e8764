//! Faults in how an answer is sent.

use super::wire::{CHAT, Raw, ask, events, numbered, provider, said, streamed, unary, with};
use breakwater::clock;
use breakwater::sim::{FaultKind, Latency, Profile};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

#[test]
fn bytes_can_come_one_by_one() {
    let got = ask(&with(FaultKind::OneBytePackets { gap_ms: None }), &streamed());
    assert_eq!(said(&events(&got.body)), numbered(16));

    let handle = with(FaultKind::OneBytePackets { gap_ms: Some(1) });
    let mut raw = Raw::ask(&handle, CHAT, &unary());
    let (mut all, mut reads) = (Vec::new(), 0_usize);
    let mut piece = [0; 4096];
    while !all.ends_with(b"fp_sim\"}") {
        let got = raw.0.read(&mut piece).unwrap();
        all.extend_from_slice(&piece[..got]);
        reads += 1;
    }
    // Only a reader that is kept from running for long finds many bytes at once.
    assert!(reads > all.len() / 50, "{} bytes in {reads} reads", all.len());
}

#[test]
fn newlines_can_be_mixed() {
    let got = ask(&with(FaultKind::MixedNewlines), &streamed());
    let text = &got.body;
    assert!(text.starts_with("\u{feff}data: "));
    for form in ["}\n\n", "}\r\n\r\n", ": keep-alive\r\n", ",\r\ndata: ", "id: 3\ndata:{"] {
        assert!(text.contains(form), "{form:?} is not in {text}");
    }
    let all = events(text);
    assert_eq!((said(&all), all.last().unwrap().as_str()), (numbered(16), "[DONE]"));
}

#[test]
fn speed_usage_and_finish_reason_can_be_changed() {
    let mut request = streamed();
    request["stream_options"] = json!({"include_usage": true});
    assert!(!ask(&with(FaultKind::NoUsage), &request).body.contains("prompt_tokens"));
    assert!(ask(&with(FaultKind::NoUsage), &unary()).json().get("usage").is_none());
    let filtered = ask(&with(FaultKind::Finish { reason: "content_filter".into() }), &unary()).json();
    assert_eq!(filtered["choices"][0]["finish_reason"], "content_filter");

    for (kind, least) in [
        (FaultKind::SlowFirstByte { ms: 80 }, 80),
        (FaultKind::Latency { latency: Latency::fixed(70.0) }, 70),
        (FaultKind::Trickle { tokens_per_second: 200.0 }, 75),
    ] {
        let handle = with(kind.clone());
        for request in [unary(), streamed()] {
            let begin = clock::now();
            assert_eq!(ask(&handle, &request).status, 200);
            assert!(clock::now().since(begin) >= Duration::from_millis(least), "{kind:?}");
        }
    }
    let slow_error = vec![
        FaultKind::SlowFirstByte { ms: 60 }.into(),
        FaultKind::Status { code: 500, headers: BTreeMap::new(), body: None }.into(),
    ];
    let handle = provider(Profile { faults: slow_error, ..Profile::new("a", &["m"]) });
    let begin = clock::now();
    assert_eq!(ask(&handle, &unary()).status, 500);
    assert!(clock::now().since(begin) >= Duration::from_millis(60));
}
