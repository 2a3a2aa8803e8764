//! From samples to figures: medians over the rounds, ratios within each round, the bars, the table and the JSON.
//!
//! A ratio is the median of the rounds' ratios, not the ratio of medians: the two programs of one round ran within seconds
//! of each other, so whatever else the machine did weighs on both.

use crate::peers::Kind;
use crate::script::{EVENTS, Mode};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;

/// One program under one mode of load in one round. Times are seconds unless named otherwise.
#[derive(Clone, Debug)]
pub struct Sample {
    pub kind: Kind,
    pub mode: Mode,
    pub connections: usize,
    pub requests: u64,
    pub elapsed: Duration,
    pub cpu: Duration,
    /// Largest resident memory seen during the load, bytes.
    pub rss: u64,
    /// p50 and p99, µs.
    pub latency: [u64; 2],
    pub first: [u64; 2],
    pub delay: [u64; 2],
}

impl Sample {
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    fn cpu_per_request(&self) -> f64 {
        self.cpu.as_secs_f64() / self.requests as f64
    }

    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    fn per_second(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }
}

/// What was seen of a program besides samples.
#[derive(Clone, Debug)]
pub struct Memory {
    pub kind: Kind,
    pub ready: Duration,
    pub idle: u64,
    /// Bytes per open stream; `None` where it was not measured.
    pub per_stream: Option<f64>,
}

/// Everything of one run.
pub struct Report {
    pub machine: String,
    pub command: Value,
    pub samples: Vec<Sample>,
    pub memory: Vec<Memory>,
}

/// One figure against its bar.
struct Check {
    what: &'static str,
    value: f64,
    /// `None`: for information.
    bar: Option<f64>,
    unit: &'static str,
}

const MIB: f64 = 1024.0 * 1024.0;
const US: f64 = 1e6;

#[allow(clippy::cast_precision_loss, reason = "bytes are far below 2^52")]
impl Report {
    fn of(&self, kind: Kind, mode: Mode) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |s| s.kind == kind && s.mode == mode)
    }

    fn median_of(&self, kind: Kind, mode: Mode, figure: impl Fn(&Sample) -> f64) -> Option<f64> {
        median(self.of(kind, mode).map(figure).collect())
    }

    /// Combines, round by round, a figure of Breakwater with the same figure of another program.
    fn against(
        &self,
        other: Kind,
        mode: Mode,
        figure: impl Fn(&Sample) -> f64,
        combine: impl Fn(f64, f64) -> f64,
    ) -> Option<f64> {
        let pairs = self.of(Kind::Breakwater, mode).zip(self.of(other, mode));
        median(pairs.map(|(ours, theirs)| combine(figure(ours), figure(theirs))).collect())
    }

    fn checks(&self) -> Vec<Check> {
        let ratio = |a: f64, b: f64| a / b;
        let per_event = |s: &Sample| s.cpu_per_request() * US / EVENTS as f64;
        let delay = |s: &Sample| s.delay[1] as f64;
        let memory = |kind: Kind| self.memory.iter().find(move |m| m.kind == kind);
        let idle = memory(Kind::Breakwater);
        let per_stream = |kind: Kind| memory(kind).and_then(|m| m.per_stream).map(|b| b / 1024.0);
        let ours = per_stream(Kind::Breakwater);
        let above = ours.zip(per_stream(Kind::Passthrough)).map(|(ours, theirs)| ours - theirs);
        let cpu = |other, mode| self.against(other, mode, Sample::cpu_per_request, ratio);
        let rows = [
            ("unary: CPU per request, breakwater / passthrough", cpu(Kind::Passthrough, Mode::Unary), Some(1.25), "×"),
            ("unary: CPU per request, breakwater / nginx", cpu(Kind::Nginx, Mode::Unary), Some(2.4), "×"),
            ("burst: CPU per event relayed", self.median_of(Kind::Breakwater, Mode::Burst, per_event), Some(2.0), "µs"),
            ("burst: CPU per stream, breakwater / passthrough", cpu(Kind::Passthrough, Mode::Burst), None, "×"),
            ("paced: CPU per stream, breakwater / passthrough", cpu(Kind::Passthrough, Mode::Paced), None, "×"),
            (
                "paced: CPU per event above passthrough",
                self.against(Kind::Passthrough, Mode::Paced, per_event, |a, b| a - b),
                Some(2.0),
                "µs",
            ),
            (
                "paced: p99 delay of an event above passthrough",
                self.against(Kind::Passthrough, Mode::Paced, delay, |a, b| a - b),
                None,
                "µs",
            ),
            ("memory: idle", idle.map(|m| m.idle as f64 / MIB), Some(40.0), "MiB"),
            ("memory: per open stream", ours, Some(10.0), "KiB"),
            ("memory: per open stream above passthrough", above, Some(10.0), "KiB"),
        ];
        rows.into_iter()
            .filter_map(|(what, value, bar, unit)| value.map(|value| Check { what, value, bar, unit }))
            .collect()
    }

    /// Whether every figure that has a bar is within it.
    pub fn met(&self) -> bool {
        self.checks().iter().all(|c| c.bar.is_none_or(|bar| c.value <= bar))
    }

    pub fn table(&self) -> String {
        let mut out = format!("{}\n{}\n\n", self.machine, self.command);
        let _ = writeln!(
            out,
            "{:<6} {:<12} {:>9} {:>11} {:>9} {:>9} {:>9} {:>9} {:>10} {:>10} {:>9}",
            "mode",
            "proxy",
            "req/s",
            "CPU-s/1000",
            "p50 ms",
            "p99 ms",
            "ttfb p50",
            "ttfb p99",
            "delay p50",
            "delay p99",
            "RSS MiB"
        );
        for mode in Mode::ALL {
            for kind in [Kind::Direct, Kind::Nginx, Kind::Passthrough, Kind::Breakwater] {
                // A figure that doesn't exist (CPU time of no proxy, delays of unpaced events) is zero and shown as a dash.
                let figure = |places: usize, f: &dyn Fn(&Sample) -> f64| match self.median_of(kind, mode, f) {
                    Some(value) if value > 0.0 => format!("{value:.places$}"),
                    _ => "-".into(),
                };
                let Some(rate) = self.median_of(kind, mode, Sample::per_second) else { continue };
                let ms = |us: u64| us as f64 / 1000.0;
                let _ = writeln!(
                    out,
                    "{:<6} {:<12} {rate:>9.0} {:>11} {:>9} {:>9} {:>9} {:>9} {:>10} {:>10} {:>9}",
                    mode.as_str(),
                    kind.as_str(),
                    figure(4, &|s| s.cpu_per_request() * 1000.0),
                    figure(2, &|s| ms(s.latency[0])),
                    figure(2, &|s| ms(s.latency[1])),
                    figure(2, &|s| ms(s.first[0])),
                    figure(2, &|s| ms(s.first[1])),
                    figure(2, &|s| ms(s.delay[0])),
                    figure(2, &|s| ms(s.delay[1])),
                    figure(1, &|s| s.rss as f64 / MIB),
                );
            }
        }
        let _ = writeln!(out, "\n{:<12} {:>9} {:>9} {:>15}", "proxy", "ready ms", "idle MiB", "KiB per stream");
        for m in &self.memory {
            let _ = writeln!(
                out,
                "{:<12} {:>9.0} {:>9.1} {:>15}",
                m.kind.as_str(),
                m.ready.as_secs_f64() * 1000.0,
                m.idle as f64 / MIB,
                m.per_stream.map_or("-".into(), |b| format!("{:.1}", b / 1024.0)),
            );
        }
        out.push('\n');
        for c in self.checks() {
            let verdict = match c.bar {
                Some(bar) if c.value <= bar => format!("bar {bar} {}: met", c.unit),
                Some(bar) => format!("bar {bar} {}: MISSED", c.unit),
                None => "no bar".into(),
            };
            let _ = writeln!(out, "{:<52} {:>9.2} {:<4} {verdict}", c.what, c.value, c.unit);
        }
        out
    }

    pub fn json(&self) -> Value {
        let samples: Vec<Value> = self
            .samples
            .iter()
            .map(|s| {
                json!({
                    "proxy": s.kind.as_str(), "mode": s.mode.as_str(), "connections": s.connections,
                    "requests": s.requests, "seconds": s.elapsed.as_secs_f64(), "cpu_seconds": s.cpu.as_secs_f64(),
                    "requests_per_second": s.per_second(), "cpu_seconds_per_1000": s.cpu_per_request() * 1000.0,
                    "latency_us": {"p50": s.latency[0], "p99": s.latency[1]},
                    "first_byte_us": {"p50": s.first[0], "p99": s.first[1]},
                    "event_delay_us": {"p50": s.delay[0], "p99": s.delay[1]},
                    "rss_bytes": s.rss,
                })
            })
            .collect();
        let memory: Vec<Value> = self
            .memory
            .iter()
            .map(|m| {
                json!({
                    "proxy": m.kind.as_str(), "ready_ms": m.ready.as_secs_f64() * 1000.0, "idle_rss_bytes": m.idle,
                    "bytes_per_stream": m.per_stream,
                })
            })
            .collect();
        let checks: Vec<Value> = self
            .checks()
            .iter()
            .map(|c| {
                json!({"what": c.what, "value": c.value, "unit": c.unit, "bar": c.bar,
                       "met": c.bar.map(|bar| c.value <= bar)})
            })
            .collect();
        json!({
            "machine": self.machine, "command": self.command, "events_per_stream": EVENTS,
            "samples": samples, "memory": memory, "checks": checks,
        })
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.retain(|v| v.is_finite());
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}
