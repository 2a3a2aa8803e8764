//! How a time is spread: the distributions that simulated providers and injected faults draw their latencies from.

use serde::{Deserialize, Serialize};

/// How a time in milliseconds is spread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "dist", rename_all = "snake_case", deny_unknown_fields)]
pub enum Latency {
    /// Always `ms`.
    Fixed { ms: f64 },
    /// Evenly between the two.
    Uniform { min_ms: f64, max_ms: f64 },
    /// Log-normal through its median and its 99th percentile.
    Lognormal { median_ms: f64, p99_ms: f64 },
    /// As `of`, but a `share` (0..1) of the requests take `factor` times as long.
    Bimodal { of: Box<Latency>, share: f64, factor: f64 },
}

impl Latency {
    /// The same time for every request, milliseconds.
    #[must_use]
    pub fn fixed(ms: f64) -> Self {
        Self::Fixed { ms }
    }

    /// One time, milliseconds, for three even rolls in 0..1: two make the time, the third says whether it is of the slow share.
    #[must_use]
    pub fn sample_ms(&self, rolls: [f64; 3]) -> f64 {
        /// The standard normal distribution's 99th percentile.
        const Z99: f64 = 2.326_347_874;
        let [first, second, tail] = rolls;
        match self {
            Self::Fixed { ms } => *ms,
            Self::Uniform { min_ms, max_ms } => min_ms + (max_ms - min_ms) * first,
            Self::Lognormal { median_ms, p99_ms } => {
                // Box and Muller: two even rolls make one normal one.
                let radius = (-2.0 * (1.0 - first).ln()).sqrt();
                let z = radius * (std::f64::consts::TAU * second).cos();
                median_ms * ((p99_ms / median_ms).ln() / Z99 * z).exp()
            }
            Self::Bimodal { of, share, factor } => of.sample_ms(rolls) * if tail < *share { *factor } else { 1.0 },
        }
    }

    /// What is wrong with the numbers, if anything.
    ///
    /// # Errors
    /// The number that cannot be used.
    pub fn check(&self) -> Result<(), String> {
        let time = |name: &str, ms: f64| {
            if ms.is_finite() && ms >= 0.0 { Ok(()) } else { Err(format!("{name}: {ms} is no time in milliseconds")) }
        };
        match self {
            Self::Fixed { ms } => time("ms", *ms),
            Self::Uniform { min_ms, max_ms } => {
                time("min_ms", *min_ms)?;
                time("max_ms", *max_ms)?;
                if min_ms <= max_ms { Ok(()) } else { Err(format!("min_ms {min_ms} is over max_ms {max_ms}")) }
            }
            Self::Lognormal { median_ms, p99_ms } => {
                time("median_ms", *median_ms)?;
                time("p99_ms", *p99_ms)?;
                if *median_ms > 0.0 && median_ms <= p99_ms {
                    Ok(())
                } else {
                    Err(format!("median_ms {median_ms} must be over 0 and not over p99_ms {p99_ms}"))
                }
            }
            Self::Bimodal { of, share, factor } => {
                time("factor", *factor)?;
                if !(0.0..=1.0).contains(share) {
                    return Err(format!("share: {share} is not between 0 and 1"));
                }
                if matches!(**of, Self::Bimodal { .. }) {
                    return Err("of: bimodal within bimodal".to_owned());
                }
                of.check()
            }
        }
    }
}
