//! A compact, mergeable latency histogram for long-term sums.
//!
//! A bucket is a sixteenth of an octave: every value below 32 has one of its own, a larger value shares its bucket with those
//! that have the same five leading bits. A quantile is answered with the middle of its bucket, hence within 1/32 (3.2 %) of the
//! true value. Buckets are held sparsely: a busy hour of one model takes about forty.
//!
//! It is no substitute for the endpoint's HDR histogram, which decides; this one only reports.

/// Leading bits that tell two values apart.
const SIGNIFICANT: u32 = 5;
const HALF: u64 = 1 << (SIGNIFICANT - 1);

/// Counts of values by bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogHistogram {
    /// Sorted by bucket, counts above zero.
    buckets: Vec<(u16, u64)>,
}

impl LogHistogram {
    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        self.add(bucket_of(value), 1);
    }

    /// Adds everything that `other` has counted.
    pub fn merge(&mut self, other: &Self) {
        self.add_sorted(other.buckets.iter().copied());
    }

    /// Adds counts that come sorted by bucket, without searching for the place of each; returns how many there were.
    pub fn add_sorted(&mut self, counts: impl IntoIterator<Item = (u16, u64)>) -> usize {
        let (mut at, mut added) = (0, 0);
        for (bucket, count) in counts {
            added += 1;
            while self.buckets.get(at).is_some_and(|(b, _)| *b < bucket) {
                at += 1;
            }
            match self.buckets.get_mut(at) {
                Some((b, n)) if *b == bucket => *n = n.saturating_add(count),
                // Not sorted after all, or a bucket of its own.
                _ => self.add(bucket, count),
            }
        }
        added
    }

    /// How many values were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0_u64, |sum, (_, n)| sum.saturating_add(*n))
    }

    /// The value that `q` (0..=1) of all values are at most, to 3.2 %; `None` if nothing was counted.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let count = self.count();
        let rank = ((q.clamp(0.0, 1.0) * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0_u64;
        self.buckets.iter().find_map(|(bucket, n)| {
            seen = seen.saturating_add(*n);
            (seen >= rank).then(|| middle_of(*bucket))
        })
    }

    /// The buckets with their counts, sorted, for storing.
    #[must_use]
    pub fn buckets(&self) -> &[(u16, u64)] {
        &self.buckets
    }

    /// Takes stored buckets in any order.
    #[must_use]
    pub fn from_buckets(buckets: impl IntoIterator<Item = (u16, u64)>) -> Self {
        let mut made = Self::default();
        for (bucket, count) in buckets {
            made.add(bucket, count);
        }
        made
    }

    fn add(&mut self, bucket: u16, count: u64) {
        match self.buckets.binary_search_by_key(&bucket, |(b, _)| *b) {
            Ok(at) => {
                if let Some((_, n)) = self.buckets.get_mut(at) {
                    *n = n.saturating_add(count);
                }
            }
            Err(at) if count > 0 => self.buckets.insert(at, (bucket, count)),
            Err(_) => {}
        }
    }
}

fn bucket_of(value: u64) -> u16 {
    let bits = u64::BITS - value.leading_zeros();
    let shift = bits.saturating_sub(SIGNIFICANT);
    // At most 59 × 16 + 31.
    u16::try_from(u64::from(shift) * HALF + (value >> shift)).unwrap_or(u16::MAX)
}

fn middle_of(bucket: u16) -> u64 {
    let bucket = u64::from(bucket);
    if bucket < 2 * HALF {
        return bucket;
    }
    let shift = bucket / HALF - 1;
    let leading = bucket % HALF + HALF;
    let low = leading.checked_shl(u32::try_from(shift).unwrap_or(u32::MAX)).unwrap_or(u64::MAX);
    low.saturating_add((1_u64.checked_shl(u32::try_from(shift).unwrap_or(u32::MAX)).unwrap_or(0)) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_quantile_is_within_its_bucket_error(mut values in prop::collection::vec(0_u64..1 << 50, 1..200), q in 0.0_f64..1.0) {
            let mut histogram = LogHistogram::default();
            values.iter().for_each(|v| histogram.record(*v));
            values.sort_unstable();
            let rank = ((q * values.len() as f64).ceil() as usize).max(1);
            let exact = values[rank - 1] as f64;
            let told = histogram.quantile(q).unwrap() as f64;
            prop_assert!((told - exact).abs() <= exact / 31.0, "{told} for {exact}");
        }

        #[test]
        fn merging_equals_recording_together(a in prop::collection::vec(any::<u64>(), 0..50), b in prop::collection::vec(any::<u64>(), 0..50)) {
            let of = |values: &[u64]| {
                let mut h = LogHistogram::default();
                values.iter().for_each(|v| h.record(*v));
                h
            };
            let mut merged = of(&a);
            merged.merge(&of(&b));
            prop_assert_eq!(&merged, &of(&[a, b].concat()));
            prop_assert_eq!(LogHistogram::from_buckets(merged.buckets().iter().copied()), merged);
        }
    }

    #[test]
    fn nothing_counted_has_no_quantile() {
        assert_eq!(LogHistogram::default().quantile(0.5), None);
        let mut extreme = LogHistogram::default();
        extreme.record(u64::MAX);
        assert!(extreme.quantile(1.0).unwrap() > u64::MAX / 32 * 31);
    }
}
