//! Reading what a process counts, in the text format of `/metrics`.

use std::collections::BTreeMap;

/// One scrape.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Vec<(String, f64)>);

/// A cumulative histogram: upper bound in its unit → observations at or below it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram(BTreeMap<u64, (f64, f64)>);

impl Metrics {
    /// Reads the text format.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        });
        Self(samples.collect())
    }

    /// The sum of all series of this name whose labels contain each of `labels` (`key="value"`).
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        self.series(name)
            .filter(|(series, _)| labels.iter().all(|label| series.contains(label)))
            .map(|(_, value)| value)
            .sum()
    }

    /// The histogram of this name, over all its labels.
    #[must_use]
    pub fn histogram(&self, name: &str) -> Histogram {
        let mut buckets = BTreeMap::new();
        for (series, count) in self.series(&format!("{name}_bucket")) {
            let bound = series
                .split("le=\"")
                .nth(1)
                .and_then(|rest| rest.split('"').next());
            let Some(bound) = bound.and_then(|text| text.replace("+Inf", "inf").parse().ok())
            else {
                continue;
            };
            // Positive floats order as their bits do.
            buckets.entry(f64::to_bits(bound)).or_insert((bound, 0.0)).1 += count;
        }
        Histogram(buckets)
    }

    fn series(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        let name = name.to_owned();
        self.0.iter().filter_map(move |(series, value)| {
            let bare = series.split('{').next().unwrap_or(series);
            (bare == name).then_some((series.as_str(), *value))
        })
    }
}

impl Histogram {
    /// What was observed since `before`.
    #[must_use]
    pub fn since(&self, before: &Histogram) -> Histogram {
        let old = |key: &u64| before.0.get(key).map_or(0.0, |(_, count)| *count);
        let rest = self
            .0
            .iter()
            .map(|(key, (bound, count))| (*key, (*bound, count - old(key))));
        Histogram(rest.collect())
    }

    /// Both together.
    #[must_use]
    pub fn plus(mut self, other: &Histogram) -> Histogram {
        for (key, (bound, count)) in &other.0 {
            self.0.entry(*key).or_insert((*bound, 0.0)).1 += count;
        }
        self
    }

    /// How many observations.
    #[must_use]
    pub fn count(&self) -> f64 {
        self.0.values().next_back().map_or(0.0, |(_, count)| *count)
    }

    /// The upper bound of the bucket in which this share of the observations ends.
    #[must_use]
    pub fn quantile_bound(&self, share: f64) -> f64 {
        let wanted = self.count() * share;
        let bucket = self.0.values().find(|(_, count)| *count >= wanted);
        bucket.map_or(f64::NAN, |(bound, _)| *bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP x y\nx_bucket{le=\"0.01\"} 90\nx_bucket{le=\"0.1\"} 99\n\
        x_bucket{le=\"+Inf\"} 100\nx_count 100\ny{a=\"1\",b=\"2\"} 3\ny{a=\"2\",b=\"2\"} 4\n";

    #[test]
    fn quantiles_are_bucket_bounds_and_differences_forget_the_past() {
        let metrics = Metrics::parse(TEXT);
        let histogram = metrics.histogram("x");
        assert!((histogram.quantile_bound(0.5) - 0.01).abs() < 1e-9);
        assert!((histogram.quantile_bound(0.99) - 0.1).abs() < 1e-9);
        assert!(histogram.quantile_bound(1.0).is_infinite());
        assert!(histogram.since(&histogram).count().abs() < 1e-9);
        assert!((histogram.clone().plus(&histogram).count() - 200.0).abs() < 1e-9);
    }

    #[test]
    fn series_are_summed_over_the_labels_that_are_not_named() {
        let metrics = Metrics::parse(TEXT);
        assert!((metrics.sum("y", &["b=\"2\""]) - 7.0).abs() < 1e-9);
        assert!((metrics.sum("y", &["a=\"1\""]) - 3.0).abs() < 1e-9);
    }
}
