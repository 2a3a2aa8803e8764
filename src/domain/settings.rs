//! The settings of the core's state machines, with the defaults of docs/resilience.md. Plain values, already validated.

use std::sync::Arc;
use std::time::Duration;

const fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// When a breaker opens, for how long, and how it closes again.
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerSettings {
    /// Length of the failure window; 30 buckets.
    pub window: Duration,
    /// Calls in the window below which the failure rate decides nothing.
    pub minimum_calls: u32,
    /// Share of failures in the window that opens, 0..=1.
    pub failure_rate: f64,
    /// Failures in a row that open, whatever the window says.
    pub consecutive_failures: u32,
    /// A first byte later than this is a slow call.
    pub slow_call: Duration,
    /// Share of slow calls in the window that opens, 0..=1.
    pub slow_rate: f64,
    /// Calls in the window below which the slow rate decides nothing.
    pub slow_minimum_calls: u32,
    /// First open period; doubles with each re-opening.
    pub open_for: Duration,
    /// Longest open period.
    pub max_open_for: Duration,
    /// Share of random spread on open periods: 0.2 is ± 20 %.
    pub jitter: f64,
    /// Closed for this long forgets earlier re-openings.
    pub forget_after: Duration,
    /// Probes admitted at once while half-open.
    pub half_open_calls: u32,
    /// Successful probes that close.
    pub half_open_successes: u32,
    /// Half-open without a verdict for this long is open again; also the lease of one probe.
    pub half_open_for: Duration,
    /// After closing, traffic comes back over this long in steps of 10, 30, 60 and 100 %; zero: at once.
    pub ramp: Duration,
    /// When every candidate is shut, a request waits this long for one that is about to re-open.
    pub reopen_wait: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            window: secs(30),
            minimum_calls: 10,
            failure_rate: 0.5,
            consecutive_failures: 5,
            slow_call: secs(30),
            slow_rate: 0.8,
            slow_minimum_calls: 20,
            open_for: secs(5),
            max_open_for: secs(300),
            jitter: 0.2,
            forget_after: secs(60),
            half_open_calls: 3,
            half_open_successes: 2,
            half_open_for: secs(60),
            ramp: secs(20),
            reopen_wait: Duration::from_millis(250),
        }
    }
}

/// What an endpoint may be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// Requests per minute.
    pub rpm: Option<u64>,
    /// Tokens per minute.
    pub tpm: Option<u64>,
    /// Requests in flight.
    pub concurrency: u32,
    /// Whether the limit in force moves below `concurrency` with the endpoint's latency.
    pub adaptive: bool,
    /// Longest wait for a free slot when every candidate is full.
    pub max_wait: Duration,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self { rpm: None, tpm: None, concurrency: 256, adaptive: false, max_wait: secs(5) }
    }
}

/// How long each step of an attempt may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutSettings {
    pub connect: Duration,
    /// From sending the request to the answer's first byte.
    pub first_byte: Duration,
    /// Silence within a stream.
    pub idle: Duration,
    pub total: Duration,
}

impl Default for TimeoutSettings {
    fn default() -> Self {
        Self { connect: secs(5), first_byte: secs(60), idle: secs(60), total: secs(600) }
    }
}

/// How often and how quickly a request is tried again.
#[derive(Clone, Debug, PartialEq)]
pub struct RetrySettings {
    /// Attempts in all, the first included.
    pub max_attempts: u32,
    /// Upper bound of the first full-jitter pause before endpoints that failed this request are asked again; doubles.
    pub backoff: Duration,
    pub max_backoff: Duration,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self { max_attempts: 5, backoff: Duration::from_millis(200), max_backoff: secs(5) }
    }
}

/// The fleet-wide bound on extra attempts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudgetSettings {
    /// Extra attempts per request of the last `window`, 0..=1.
    pub ratio: f64,
    /// Extra attempts per second that are always allowed.
    pub min_per_second: f64,
    pub window: Duration,
}

impl Default for RetryBudgetSettings {
    fn default() -> Self {
        Self { ratio: 0.4, min_per_second: 5.0, window: secs(10) }
    }
}

/// How an endpoint is asked for signs of life besides real traffic.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum ProbeSettings {
    #[default]
    Off,
    /// `GET` of a path relative to the provider's origin; any 2xx is healthy.
    Path { path: Arc<str>, interval: Duration },
    /// `GET {base_url}/models`: checks the key as well.
    Models { interval: Duration },
}
