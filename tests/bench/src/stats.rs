//! What samples come to: medians, percentiles, an interval that holds the median. Pure; chance is drawn from a fixed seed, so
//! that the same samples always say the same.

/// How often the samples are drawn again for an interval: its ends then repeat to a third digit.
const RESAMPLES: usize = 4_000;

/// The seed of those draws.
const SEED: u64 = 0x006d_696c_6c72_6163;

/// Where 95 % lie between.
const LOW: f64 = 0.025;
/// Where 95 % lie between.
const HIGH: f64 = 0.975;

/// Two ends of a range, the smaller first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The smaller.
    pub low: f64,
    /// The larger.
    pub high: f64,
}

/// The value in the middle, or between the two in the middle; NaN of nothing.
pub fn median(samples: &[f64]) -> f64 {
    percentile(samples, 0.5)
}

/// The value below which this share of the samples lies, between neighbours where it falls between; NaN of nothing.
pub fn percentile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    of_sorted(&sorted, share)
}

/// As [`percentile`], of samples in order.
pub fn of_sorted(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share.clamp(0.0, 1.0) * last as f64;
    let below = place.floor();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in the samples")]
    let index = below as usize;
    let at = |index: usize| sorted.get(index.min(last)).copied().unwrap_or(f64::NAN);
    at(index) + (at(index + 1) - at(index)) * (place - below)
}

/// The smallest and the largest; NaN of nothing.
pub fn extremes(samples: &[f64]) -> Interval {
    let fold = |pick: fn(f64, f64) -> f64| samples.iter().copied().fold(f64::NAN, pick);
    Interval { low: fold(f64::min), high: fold(f64::max) }
}

/// Where the median lies with 95 % confidence: the samples are drawn again, with replacement, and their medians sorted.
pub fn median_interval(samples: &[f64]) -> Interval {
    let mut state = SEED;
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let drawn: Vec<f64> = (0..samples.len()).filter_map(|_| draw(samples, &mut state)).collect();
            median(&drawn)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    Interval { low: of_sorted(&medians, LOW), high: of_sorted(&medians, HIGH) }
}

fn draw(samples: &[f64], state: &mut u64) -> Option<f64> {
    // SplitMix64's step: one add and a mix.
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let index = usize::try_from((z ^ (z >> 31)) % samples.len() as u64).ok()?;
    samples.get(index).copied()
}

#[cfg(test)]
mod tests {
    use super::{Interval, extremes, median, median_interval, percentile};

    #[test]
    fn a_median_is_the_middle_of_an_odd_count_and_between_two_of_an_even_one() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_percentile_lies_between_its_neighbours() {
        let hundred: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(percentile(&hundred, 0.99), 99.0);
        assert_eq!(percentile(&[10.0, 20.0], 0.25), 12.5);
        assert_eq!(percentile(&[7.0], 0.99), 7.0);
    }

    #[test]
    fn extremes_are_the_least_and_the_most() {
        assert_eq!(extremes(&[2.0, -1.0, 5.0]), Interval { low: -1.0, high: 5.0 });
    }

    #[test]
    fn the_interval_of_a_median_holds_it_narrows_with_samples_and_repeats() {
        let spread = |n: i32| (0..n).map(|i| f64::from(i % 10)).collect::<Vec<_>>();
        let (few, many) = (median_interval(&spread(20)), median_interval(&spread(2_000)));
        assert!(few.low <= 4.5 && 4.5 <= few.high, "{few:?}");
        assert!(many.high - many.low < few.high - few.low, "{many:?} of {few:?}");
        assert_eq!(few, median_interval(&spread(20)));
    }

    #[test]
    fn one_wild_sample_moves_neither_the_median_nor_its_interval() {
        let mut samples = vec![1.0; 15];
        samples.push(1000.0);
        assert_eq!(median_interval(&samples), Interval { low: 1.0, high: 1.0 });
    }
}
