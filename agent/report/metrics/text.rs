//! The text format in which Prometheus reads metrics (version 0.0.4): names, help, types, labels, values. It knows none of
//! ours.

use std::fmt::Write;

/// A page of metrics.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
}

/// One metric on a page.
#[derive(Debug)]
pub(super) struct Family<'p> {
    page: &'p mut Page,
    name: &'static str,
}

impl Page {
    /// Begins a metric that goes up and down.
    pub(super) fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "gauge", help)
    }

    /// Begins a metric that only goes up, until its counter starts anew.
    pub(super) fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "counter", help)
    }

    /// Begins a metric that counts by size.
    pub(super) fn histogram(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "histogram", help)
    }

    /// Returns the page.
    pub(super) fn into_text(self) -> String {
        self.text
    }

    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { page: self, name }
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("writing to a string does not fail");
    }
}

impl Family<'_> {
    /// Gives the metric its only value; nothing where it is not known.
    pub(super) fn is(self, value: impl Into<Option<f64>>) {
        let Some(value) = value.into() else { return };
        self.page.push(format_args!("{} {value}\n", self.name));
    }

    /// Gives the metric a value under labels.
    pub(super) fn with(&mut self, labels: &[(&str, &str)], value: f64) {
        self.sample("", labels, value);
    }

    /// Sets the one of `words` that is `is` to 1 and all others to 0, under the label `label` besides `labels`.
    pub(super) fn one_of(&mut self, labels: &[(&str, &str)], label: &str, words: &[&str], is: Option<&str>) {
        for word in words {
            let all = [labels, &[(label, *word)]].concat();
            self.with(&all, f64::from(u8::from(is == Some(word))));
        }
    }

    /// Gives a histogram under labels: `counts` for each of `bounds_secs` and one more, and the sum.
    pub(super) fn buckets(
        &mut self,
        labels: &[(&str, &str)],
        bounds_secs: &[f64],
        counts: &[u64],
        sum_secs: f64,
    ) {
        let mut total = 0;
        let bounds = bounds_secs.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        for (n, bound) in bounds.enumerate() {
            total += counts.get(n).copied().unwrap_or(0);
            self.sample("_bucket", &[labels, &[("le", &bound)]].concat(), total as f64);
        }
        self.sample("_sum", labels, sum_secs);
        self.sample("_count", labels, total as f64);
    }

    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) {
        let pairs: Vec<String> =
            labels.iter().map(|(name, of)| format!("{name}=\"{}\"", escaped(of))).collect();
        self.page.push(format_args!("{}{suffix}{{{}}} {value}\n", self.name, pairs.join(",")));
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_prometheus_reads() {
        let mut page = Page::default();
        page.gauge("a", "First.").is(1.5);
        page.gauge("b", "Second.").is(None);
        page.counter("c_total", "Third.").with(&[("x", "a\\b\"c\nd")], 1e9);
        page.gauge("d", "Fourth.").one_of(&[("r", "o")], "s", &["on", "off"], Some("off"));
        page.histogram("e", "Fifth.").buckets(&[("p", "q")], &[0.1, 1.0], &[2, 0, 1], 3.25);
        let text = page.into_text();
        let expected = r#"# HELP a First.
# TYPE a gauge
a 1.5
# HELP b Second.
# TYPE b gauge
# HELP c_total Third.
# TYPE c_total counter
c_total{x="a\\b\"c\nd"} 1000000000
# HELP d Fourth.
# TYPE d gauge
d{r="o",s="on"} 0
d{r="o",s="off"} 1
# HELP e Fifth.
# TYPE e histogram
e_bucket{p="q",le="0.1"} 2
e_bucket{p="q",le="1"} 2
e_bucket{p="q",le="+Inf"} 3
e_sum{p="q"} 3.25
e_count{p="q"} 3
"#;
        assert_eq!(text, expected);
    }
}
