//! Simulated providers for the scenarios, and the configurations that use them.

use crate::support::{Answer, Setup};
use breakwater::sim::{self, Fault, FaultKind, Handle, Profile};

/// Says `t0 t1 … t15` and does nothing wrong yet.
pub fn provider(name: &str) -> Handle {
    with_profile(Profile::new(name, &[]))
}

/// Goes wrong from the start.
pub fn faulty(name: &str, fault: FaultKind) -> Handle {
    let provider = provider(name);
    set(&provider, fault);
    provider
}

pub fn with_profile(profile: Profile) -> Handle {
    sim::start(profile).unwrap()
}

/// Every request goes wrong in this way from now on.
pub fn set(provider: &Handle, fault: FaultKind) {
    provider.set_faults(vec![Fault::from(fault)]).unwrap();
}

/// Nothing goes wrong any more.
pub fn heal(provider: &Handle) {
    provider.set_faults(vec![]).unwrap();
}

/// Chat completion requests that have arrived.
pub fn calls(provider: &Handle) -> u64 {
    provider.stats().paths.get("/v1/chat/completions").copied().unwrap_or(0)
}

/// `a` alone, asked for as `chat`.
pub fn alone(a: &Handle, settings: &[&str]) -> Setup {
    Setup::new().endpoint_at("a", &a.base_url(), settings).route("chat", "priority", &["a"], &[])
}

/// `a` with the settings before `b`, asked for as `chat`.
pub fn pair(a: &Handle, b: &Handle, settings_of_a: &[&str]) -> Setup {
    Setup::new().endpoint_at("a", &a.base_url(), settings_of_a).endpoint_at("b", &b.base_url(), &[]).route(
        "chat",
        "priority",
        &["a", "b"],
        &[],
    )
}

/// The text that a provider says when nothing goes wrong.
pub fn whole_text(tokens: usize) -> String {
    (0..tokens).map(|n| format!("t{n}")).collect::<Vec<_>>().join(" ")
}

/// The text of a unary answer or of a stream.
pub fn said(answer: &Answer) -> String {
    if answer.need("content-type").starts_with("text/event-stream") {
        answer.sse().content()
    } else {
        answer.json()["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned()
    }
}
