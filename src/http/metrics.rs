//! `/metrics`: the process's counters in OpenMetrics text, which Prometheus reads.
//!
//! - Read when scraped, from the atomics that requests bump: nothing is counted twice, nothing on the request's path changes.
//! - Every label comes from a closed set: endpoints by their configured name, outcomes, states, status classes, kinds of tokens.
//!   Nothing that a client sends, and no key, becomes a label.
//! - Counters start at 0 with the process. An endpoint that is removed takes its samples with it.
//! - `breaker_state` is what the gate enforces: a ramping or disabled breaker lets requests through and is `closed` here, a
//!   quarantined endpoint is `forced_open` and also has `endpoint_quarantined` 1.
//!
//! It keeps nothing and decides nothing; who may read it is decided by whoever calls.

mod admission;
mod budgets;
mod chaos;
mod streams;

use crate::actors::board::EndpointCell;
use crate::actors::ledger::LedgerStatus;
use crate::actors::meters::{BOUNDS_S, Buckets, Meters};
use crate::domain::breaker::State;
use crate::domain::gate::Door;
use crate::engine::gateway::Gateway;
use admission::Waits;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use streams::Streams;

/// Of what [`render`] makes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// In the order of [`crate::engine::gateway::Counters::answered`].
const CLASSES: [&str; 4] = ["2xx", "4xx", "5xx", "client_gone"];
/// The states that a door can be in.
const STATES: [State; 4] = [State::Closed, State::Open, State::HalfOpen, State::ForcedOpen];

/// All metrics as they stand now.
#[must_use]
pub fn render(gateway: &Arc<Gateway>) -> String {
    Scrape::of(gateway).into_text()
}

/// What one scrape tells, read once at its start as far as it belongs to no endpoint.
#[derive(Debug)]
struct Scrape {
    answered: [u64; CLASSES.len()],
    in_flight: u32,
    waits: Waits,
    failovers: u64,
    refusals: u64,
    retry_budget_spent: u64,
    streams: Streams,
    money: budgets::Money,
    /// Seconds since 1970.
    started_s: f64,
    ledger: LedgerStatus,
    cells: Vec<Arc<EndpointCell>>,
    injected: chaos::Injected,
}

impl Scrape {
    #[allow(clippy::cast_precision_loss, reason = "seconds since 1970 in microseconds fit")]
    fn of(gateway: &Gateway) -> Self {
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        let counters = &gateway.counters;
        Self {
            answered: counters.answered.each_ref().map(read),
            in_flight: gateway.in_flight(),
            waits: Waits::of(gateway),
            failovers: read(&counters.failovers),
            refusals: read(&counters.refusals),
            retry_budget_spent: read(&counters.retry_budget_spent),
            streams: Streams::of(gateway),
            money: budgets::Money::of(gateway),
            started_s: gateway.started_at.0 as f64 / 1e6,
            ledger: gateway.ledger.status(),
            cells: gateway.board.topology().cells.clone(),
            injected: gateway.chaos.injected(|name| gateway.board.topology().cell(name).is_some()),
        }
    }

    fn into_text(self) -> String {
        let mut registry = Registry::with_prefix("breakwater");
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        // Writing to a string cannot fail. Were it cut short all the same, the missing `# EOF` makes the scraper refuse it.
        let _ = encode(&mut text, &registry);
        text
    }

    fn write_process(&self, to: &mut Families) -> Result {
        let mut requests = to.counter("requests", "Requests answered, by status class")?;
        for (class, n) in CLASSES.iter().zip(self.answered) {
            count(&mut requests, &[("class", *class)], n)?;
        }
        to.one_gauge("requests_in_flight", "Requests being served", i64::from(self.in_flight))?;
        self.waits.write(to)?;
        to.one_counter("failovers", "Attempts on another endpoint after a failed one", self.failovers)?;
        to.one_counter("refusals", "Candidates passed over because their gate refused", self.refusals)?;
        to.one_counter(
            "retry_budget_spent",
            "Requests that ended early because the fleet-wide retry budget was spent",
            self.retry_budget_spent,
        )?;
        self.streams.write(to)?;
        self.money.write(to)?;
        to.descriptor("process_start_time_seconds", "When the gateway started, Unix time", MetricType::Gauge)?
            .encode_gauge(&self.started_s)
    }

    fn write_ledger(&self, to: &mut Families) -> Result {
        let ledger = &self.ledger;
        to.one_gauge("ledger_rows_waiting", "Items queued for the store or being written", whole(ledger.waiting))?;
        to.one_gauge("ledger_durable_seq", "Number of the last ledger row on disk", whole(ledger.durable_seq))?;
        to.one_counter("ledger_commits", "Groups of rows committed", ledger.commits)?;
        to.one_counter("ledger_lost_rows", "Ledger rows that found the queue full", ledger.lost_rows)?;
        let failing = i64::from(ledger.failing.is_some());
        to.one_gauge("ledger_failing", "1 while the store cannot be written", failing)?;
        let low = "1 while the store's disk has less room than store.low_space";
        to.one_gauge("store_disk_low", low, i64::from(ledger.room.low))?;
        if let Some(free) = ledger.room.free {
            to.one_gauge("store_free_bytes", "Room on the store's disk", i64::try_from(free).unwrap_or(i64::MAX))?;
        }
        Ok(())
    }

    fn write_attempts(&self, to: &mut Families) -> Result {
        let mut attempts = to.counter("attempts", "Attempts at upstreams, by how they ended")?;
        for cell in &self.cells {
            for (outcome, n) in cell.meters.attempts() {
                count(&mut attempts, &[("endpoint", &*cell.name), ("outcome", outcome.as_str())], n)?;
            }
        }
        self.histograms(to, "latency_seconds", "From sending an attempt to its end", |m| &m.latency)?;
        let ttft = "From sending an attempt to its first content";
        self.histograms(to, "time_to_first_token_seconds", ttft, |m| &m.ttft)?;
        let mut tokens = to.counter("tokens", "Tokens that upstreams used")?;
        for cell in &self.cells {
            let (prompt, completion) = cell.meters.tokens();
            for (kind, n) in [("prompt", prompt), ("completion", completion)] {
                count(&mut tokens, &[("endpoint", &*cell.name), ("kind", kind)], n)?;
            }
        }
        let mut cost = to.counter("cost_usd", "What attempts cost, in US dollars; without unpriced ones")?;
        for cell in &self.cells {
            let labels = [("endpoint", &*cell.name)];
            let mut sample = cost.encode_family(&labels)?;
            sample.encode_counter::<NoLabelSet, _, f64>(&cell.meters.cost().usd(), None)?;
        }
        let disbelieved =
            "Attempts whose upstream reported a usage that cannot be true; their tokens were counted here";
        self.counters(to, "usage_disbelieved", disbelieved, |m| &m.disbelieved)?;
        self.counters(to, "unpriced_attempts", "Attempts whose price is unknown", |m| &m.unpriced)
    }

    fn write_health(&self, to: &mut Families) -> Result {
        let mut states = to.gauge("breaker_state", "1 for the state that the endpoint's gate enforces, else 0")?;
        for cell in &self.cells {
            let current = state_of(cell.hot.lock().gate.door());
            for state in STATES {
                let labels = [("endpoint", &*cell.name), ("state", state.as_str())];
                states.encode_family(&labels)?.encode_gauge(&i64::from(state == current))?;
            }
        }
        self.counters(to, "breaker_transitions", "Changes of the breaker's state", |m| &m.transitions)?;
        self.gauges(to, "endpoint_in_flight", "Attempts under way", |c| i64::from(c.hot.lock().gate.in_flight()))?;
        let limit = "Attempts that may be under way: as configured, or less where limits.adaptive is on";
        self.gauges(to, "endpoint_concurrency_limit", limit, |c| i64::from(c.hot.lock().gate.concurrency()))?;
        let domain_open = "1 while the endpoint is shut because its failure domain is open";
        self.gauges(to, "endpoint_domain_open", domain_open, |c| i64::from(c.status.lock().held_by.is_some()))?;
        self.counters(to, "domain_holds", "Times that a failure domain shut the endpoint", |m| &m.holds)?;
        self.gauges(to, "endpoint_waiting", "Requests in the endpoint's line", |c| whole(c.line.waiting()))?;
        let quarantined = "1 while the endpoint is out because its actor crashed too often";
        self.gauges(to, "endpoint_quarantined", quarantined, |c| i64::from(c.status.lock().quarantined))?;
        let auth_failed = "1 while the endpoint is out because the vendor refuses our key";
        self.gauges(to, "endpoint_auth_failed", auth_failed, |c| i64::from(c.status.lock().auth_failed.is_some()))?;
        self.counters(to, "actor_restarts", "Deaths of the endpoint's actor", |m| &m.restarts)?;
        self.counters(to, "lost_settles", "Results that found the actor's inbox full", |m| &m.lost_settles)
    }

    /// A counter with one sample per endpoint.
    fn counters(&self, to: &mut Families, name: &str, help: &str, of: impl Fn(&Meters) -> &AtomicU64) -> Result {
        let mut family = to.counter(name, help)?;
        self.cells
            .iter()
            .try_for_each(|cell| count(&mut family, &[("endpoint", &*cell.name)], of(&cell.meters).load(Relaxed)))
    }

    /// A gauge with one sample per endpoint.
    fn gauges(&self, to: &mut Families, name: &str, help: &str, of: impl Fn(&EndpointCell) -> i64) -> Result {
        let mut family = to.gauge(name, help)?;
        self.cells
            .iter()
            .try_for_each(|cell| family.encode_family(&[("endpoint", &*cell.name)])?.encode_gauge(&of(cell)))
    }

    /// A histogram per endpoint.
    fn histograms(&self, to: &mut Families, name: &str, help: &str, of: impl Fn(&Meters) -> &Buckets) -> Result {
        let mut family = to.descriptor(name, help, MetricType::Histogram)?;
        for cell in &self.cells {
            let (sum, counts) = of(&cell.meters).read();
            let bounds = BOUNDS_S.into_iter().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
            // Counted from the buckets, so that it equals the unbounded one even while requests go on.
            let count = buckets.iter().map(|(_, n)| n).sum();
            let labels = [("endpoint", &*cell.name)];
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder) -> Result {
        let mut families = Families(encoder);
        self.write_process(&mut families)?;
        self.write_attempts(&mut families)?;
        self.write_health(&mut families)?;
        chaos::write(&mut families, &self.cells, &self.injected)?;
        self.write_ledger(&mut families)
    }
}

/// Starts families of samples.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn descriptor<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        kind: MetricType,
    ) -> std::result::Result<MetricEncoder<'s>, Error> {
        self.0.encode_descriptor(name, help, None, kind)
    }

    /// The encoder adds `_total` to the name.
    fn counter<'s>(&'s mut self, name: &'s str, help: &str) -> std::result::Result<MetricEncoder<'s>, Error> {
        self.descriptor(name, help, MetricType::Counter)
    }

    fn gauge<'s>(&'s mut self, name: &'s str, help: &str) -> std::result::Result<MetricEncoder<'s>, Error> {
        self.descriptor(name, help, MetricType::Gauge)
    }

    fn one_counter(&mut self, name: &str, help: &str, n: u64) -> Result {
        self.counter(name, help)?.encode_counter::<NoLabelSet, _, u64>(&n, None)
    }

    fn one_gauge(&mut self, name: &str, help: &str, n: i64) -> Result {
        self.gauge(name, help)?.encode_gauge(&n)
    }
}

fn count(family: &mut MetricEncoder, labels: &impl EncodeLabelSet, n: u64) -> Result {
    family.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(&n, None)
}

fn whole(n: impl TryInto<i64>) -> i64 {
    n.try_into().unwrap_or(i64::MAX)
}

fn state_of(door: Door) -> State {
    match door {
        Door::Open { .. } | Door::Ramp { .. } => State::Closed,
        Door::Probing { .. } => State::HalfOpen,
        Door::Shut { operator: true, .. } => State::ForcedOpen,
        Door::Shut { operator: false, .. } => State::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::config::demo;
    use crate::domain::gate::Gate;
    use crate::domain::health::EndpointHealth;
    use crate::domain::money::NanoUsd;
    use crate::domain::outcome::Outcome;
    use crate::domain::time::Ts;
    use crate::domain::usage::Usage;
    use crate::engine::budgets::KeyBudgets;
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    fn cells() -> Vec<Arc<EndpointCell>> {
        let addressed = demo::ENDPOINTS.map(|(name, model)| (name, model, "http://127.0.0.1:4000/v1"));
        let config = demo::demo(&addressed).unwrap();
        let now = clock::now();
        let cell = |(id, endpoint)| {
            let endpoint: &Arc<crate::config::model::EndpointConfig> = endpoint;
            let health = EndpointHealth::new(Arc::new(endpoint.breaker.clone()), now);
            EndpointCell::new(id, Arc::clone(endpoint), Gate::new(&endpoint.limits, now), health, now)
        };
        (0..).zip(&config.endpoints).map(cell).collect()
    }

    fn scrape(cells: Vec<Arc<EndpointCell>>) -> Scrape {
        Scrape {
            answered: [7, 5, 3, 1],
            in_flight: 2,
            waits: Waits { now: 4, given: 14, left: 15, crowded: 16 },
            failovers: 6,
            refusals: 8,
            retry_budget_spent: 9,
            streams: Streams {
                hedges: 21,
                hedges_won: 20,
                recovered: 31,
                not_recovered: 32,
                withheld: [22, 23, 24, 25, 26],
            },
            money: budgets::Money {
                budgets: vec![("team".into(), 1.5, 8.5)],
                keys: KeyBudgets { count: 5, spent: 1, spent_usd: 2.5, left_usd: 7.5 },
                overruns: 27,
                unsecured: 28,
            },
            started_s: 1_795_461_720.25,
            ledger: LedgerStatus {
                waiting: 11,
                durable_seq: 1234,
                lost_rows: 12,
                commits: 13,
                failing: Some("no space left on device".into()),
                room: crate::actors::ledger::Room { free: Some(34), low: true },
            },
            cells,
            injected: vec![("gemini".into(), "status", 17)],
        }
    }

    /// The samples of an exposition by name and labels, every line judged: each is a description, a sample of the family that
    /// was described last, or the end.
    fn parse(text: &str) -> BTreeMap<String, f64> {
        let (mut samples, mut families, mut described) = (BTreeMap::new(), BTreeSet::new(), None::<(String, String)>);
        let body = text.strip_suffix("# EOF\n").expect("the end is marked");
        let mut help = None;
        for line in body.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, words) = rest.split_once(' ').unwrap_or_else(|| panic!("`{line}`"));
                assert!(!words.is_empty() && name.starts_with("breakwater_"), "`{line}`");
                help = Some(name.to_owned());
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap_or_else(|| panic!("`{line}`"));
                assert_eq!(help.take().as_deref(), Some(name), "its help stands before it: `{line}`");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "`{line}`");
                assert!(families.insert(name.to_owned()), "described twice: `{line}`");
                described = Some((name.to_owned(), kind.to_owned()));
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("`{line}`"));
                let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
                assert!(labels.ends_with('}') && labels.matches('"').count() % 2 == 0, "`{line}`");
                let (family, kind) = described.as_ref().expect("a description comes first");
                let suffixes: &[&str] = match kind.as_str() {
                    "counter" => &["_total"],
                    "gauge" => &[""],
                    _ => &["_sum", "_count", "_bucket"],
                };
                assert!(suffixes.iter().any(|s| format!("{family}{s}") == name), "`{line}` under {family}");
                let value: f64 = value.parse().unwrap_or_else(|_| panic!("`{line}`"));
                assert!(samples.insert(series.to_owned(), value).is_none(), "twice: `{line}`");
            }
        }
        samples
    }

    #[test]
    fn every_line_is_well_formed_and_every_endpoint_has_its_sample() {
        let samples = parse(&scrape(cells()).into_text());
        let per_endpoint = [
            "latency_seconds_count",
            "latency_seconds_sum",
            "time_to_first_token_seconds_count",
            "cost_usd_total",
            "unpriced_attempts_total",
            "usage_disbelieved_total",
            "breaker_transitions_total",
            "endpoint_in_flight",
            "endpoint_concurrency_limit",
            "endpoint_domain_open",
            "domain_holds_total",
            "endpoint_waiting",
            "endpoint_quarantined",
            "endpoint_auth_failed",
            "actor_restarts_total",
            "lost_settles_total",
        ];
        for name in per_endpoint {
            let with_labels = format!("breakwater_{name}{{endpoint=\"");
            let found = samples.keys().filter(|s| s.starts_with(&with_labels)).count();
            assert_eq!(found, demo::ENDPOINTS.len(), "{name}");
        }
        let of_process = [
            ("requests_total{class=\"2xx\"}", 7.0),
            ("requests_total{class=\"4xx\"}", 5.0),
            ("requests_total{class=\"5xx\"}", 3.0),
            ("requests_total{class=\"client_gone\"}", 1.0),
            ("requests_in_flight", 2.0),
            ("requests_waiting", 4.0),
            ("waits_given_total", 14.0),
            ("waits_left_total", 15.0),
            ("waits_refused_total", 16.0),
            ("failovers_total", 6.0),
            ("refusals_total", 8.0),
            ("retry_budget_spent_total", 9.0),
            ("hedges_total", 21.0),
            ("hedges_won_total", 20.0),
            ("budget_spent_usd{budget=\"team\"}", 1.5),
            ("budget_left_usd{budget=\"team\"}", 8.5),
            ("key_budgets", 5.0),
            ("key_budgets_spent", 1.0),
            ("key_budgets_spent_usd", 2.5),
            ("key_budgets_left_usd", 7.5),
            ("budget_overruns_total", 27.0),
            ("budget_unsecured_total", 28.0),
            ("hedges_withheld_total{reason=\"retry_budget_under_half\"}", 23.0),
            ("streams_recovered_total", 31.0),
            ("streams_not_recovered_total", 32.0),
            ("store_disk_low", 1.0),
            ("store_free_bytes", 34.0),
            ("process_start_time_seconds", 1_795_461_720.25),
            ("ledger_rows_waiting", 11.0),
            ("ledger_durable_seq", 1234.0),
            ("ledger_lost_rows_total", 12.0),
            ("ledger_commits_total", 13.0),
            ("ledger_failing", 1.0),
        ];
        for (name, value) in of_process {
            assert_eq!(samples.get(&format!("breakwater_{name}")), Some(&value), "{name}");
        }
    }

    #[test]
    fn attempts_show_with_their_outcome_time_tokens_and_cost() {
        let cells = cells();
        let usage = Usage { input: 30, output: 12, ..Usage::default() };
        let meters = &cells[1].meters;
        meters.attempt(Outcome::Success, 40_000, Some(9_000), &usage, Some(NanoUsd(1_250_000)));
        meters.attempt(Outcome::Success, 700_000_000, None, &usage, Some(NanoUsd(250_000)));
        meters.attempt(Outcome::ServerError, 2_000, None, &Usage::default(), None);
        let samples = parse(&scrape(cells).into_text());
        let of = |name: &str, labels: &str| {
            samples.get(&format!("breakwater_{name}{{{labels}endpoint=\"gemini\"}}")).copied()
        };
        let sorted = |name: &str, label: &str| {
            samples.get(&format!("breakwater_{name}{{endpoint=\"gemini\",{label}}}")).copied()
        };
        assert_eq!(sorted("attempts_total", "outcome=\"success\""), Some(2.0));
        assert_eq!(sorted("attempts_total", "outcome=\"server_error\""), Some(1.0));
        assert_eq!(samples.keys().filter(|s| s.contains("attempts_total{") && s.contains("outcome")).count(), 2);
        let buckets = ["0.0025", "0.005", "0.05", "300.0", "+Inf"]
            .map(|le| of("latency_seconds_bucket", &format!("le=\"{le}\",")));
        assert_eq!(buckets, [None, Some(1.0), Some(2.0), Some(2.0), Some(3.0)], "cumulative");
        assert_eq!(of("latency_seconds_count", ""), Some(3.0));
        assert_eq!(of("latency_seconds_sum", ""), Some(700.042));
        assert_eq!(of("time_to_first_token_seconds_count", ""), Some(1.0));
        assert_eq!(sorted("tokens_total", "kind=\"prompt\""), Some(60.0));
        assert_eq!(sorted("tokens_total", "kind=\"completion\""), Some(24.0));
        assert_eq!(of("cost_usd_total", ""), Some(0.0015));
        assert_eq!(of("unpriced_attempts_total", ""), Some(1.0));
    }

    #[test]
    fn exactly_one_state_is_told_for_every_door() {
        let cells = cells();
        let shut = |operator| Door::Shut { epoch: 2, until: None, operator };
        let doors = [
            (shut(false), "open"),
            (Door::Probing { epoch: 2, left: 1, spare: 0 }, "half_open"),
            (shut(true), "forced_open"),
            (Door::Ramp { epoch: 2, since: Ts(0), over: Duration::from_secs(20) }, "closed"),
        ];
        for (cell, (door, _)) in cells.iter().zip(doors) {
            cell.hot.lock().gate.set_door(door);
        }
        cells[0].status.lock().quarantined = true;
        let samples = parse(&scrape(cells).into_text());
        for ((endpoint, _), (_, expected)) in demo::ENDPOINTS.iter().zip(doors) {
            let prefix = format!("breakwater_breaker_state{{endpoint=\"{endpoint}\",state=\"");
            let told: Vec<_> = samples.iter().filter(|(s, _)| s.starts_with(&prefix)).collect();
            assert_eq!(told.len(), STATES.len());
            let ones: Vec<_> = told.iter().filter(|(_, v)| **v != 0.0).map(|(s, v)| (s.as_str(), **v)).collect();
            assert_eq!(ones, [(format!("{prefix}{expected}\"}}").as_str(), 1.0)]);
        }
        assert_eq!(samples["breakwater_endpoint_quarantined{endpoint=\"deepseek\"}"], 1.0);
        assert_eq!(samples["breakwater_endpoint_quarantined{endpoint=\"gemini\"}"], 0.0);
    }
}
