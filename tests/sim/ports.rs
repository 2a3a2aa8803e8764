//! Faults of the port: refused, unreachable, outages, a certificate that nobody trusts.

use super::wire::{CHAT, QUIET, Raw, ask, call, control_addr, eventually, provider, unary};
use breakwater::clock;
use breakwater::sim::{Fault, FaultKind, Outages, Port, Profile, Schedule, Tls, Window};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::Duration;

#[test]
fn refuse_closes_the_listener_for_its_time_and_ends_idle_connections() {
    let handle = provider(Profile::new("a", &["m"]));
    let mut idle = Raw::ask(&handle, CHAT, &unary());
    assert_eq!(idle.answer().status, 200);
    for _ in 0..3 {
        handle.set_faults(vec![FaultKind::Refuse.into()]).unwrap();
        let refused = TcpStream::connect(handle.addr()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(handle.stats().port, Port::Refusing);
        // The other port is there to end it.
        assert_eq!(call(control_addr(&handle), "DELETE", "/__sim/faults", "").status, 200);
        assert_eq!(ask(&handle, &unary()).status, 200);
    }
    assert_eq!(idle.rest(), (String::new(), None));

    let begin = clock::now();
    handle.set_faults(vec![Fault::from(FaultKind::Refuse).lasting(Duration::from_millis(100))]).unwrap();
    assert!(TcpStream::connect(handle.addr()).is_err());
    eventually(&handle, |stats| stats.port == Port::Open);
    assert!(clock::now().since(begin) >= Duration::from_millis(100));
    assert_eq!(ask(&handle, &unary()).status, 200);
}

#[test]
fn unreachable_lets_connecting_time_out() {
    let handle = provider(Profile::new("a", &["m"]));
    handle.set_faults(vec![FaultKind::Unreachable.into()]).unwrap();
    let failed = TcpStream::connect_timeout(&handle.addr(), QUIET).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::TimedOut);
    handle.set_faults(Vec::new()).unwrap();
    assert_eq!(ask(&handle, &unary()).status, 200);
}

#[tokio::test]
async fn a_self_signed_certificate_is_refused_before_anything_is_said() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let handle = provider(Profile { tls: Some(Tls::SelfSigned), ..Profile::new("a", &["m"]) });
    assert!(handle.base_url().starts_with("https://127.0.0.1:"));
    let ask = |client: reqwest::ClientBuilder| {
        let client = client.no_proxy().build().unwrap();
        client.get(format!("{}/models", handle.base_url())).bearer_auth("a-key").send()
    };
    let roots = rustls::RootCertStore::empty();
    let checking = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let error = ask(reqwest::Client::builder().tls_backend_preconfigured(checking)).await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    let stats = eventually(&handle, |stats| stats.requests.in_progress == 0);
    assert_eq!((stats.outcomes.get("tls_refused"), stats.last.len()), (Some(&1), 0));

    // The certificate is one: a client that checks nothing gets through, and what it says is seen.
    assert!(ask(reqwest::Client::builder().tls_danger_accept_invalid_certs(true)).await.is_err());
    let stats = eventually(&handle, |stats| stats.outcomes.contains_key("tls_accepted"));
    assert_eq!(stats.last[0].header("authorization"), Some("Bearer a-key"));
}

#[test]
fn outages_come_and_go_by_themselves() {
    let when = Schedule::Windows { windows: vec![Window { from_ms: 0, for_ms: 200 }] };
    let outages = Some(Outages { when: when.clone(), fault: FaultKind::Refuse });
    let handle = provider(Profile { outages, ..Profile::new("a", &["m"]) });
    eventually(&handle, |stats| stats.port == Port::Refusing);
    eventually(&handle, |stats| stats.port == Port::Open);
    assert_eq!(ask(&handle, &unary()).status, 200);

    let fault = FaultKind::Status { code: 503, headers: BTreeMap::new(), body: None };
    let when = Schedule::Windows { windows: vec![Window { from_ms: 0, for_ms: 60_000 }] };
    let handle = provider(Profile { outages: Some(Outages { when, fault }), ..Profile::new("a", &["m"]) });
    assert_eq!(ask(&handle, &unary()).status, 503);
    assert_eq!(call(handle.addr(), "GET", "/health", "").status, 503);
}
