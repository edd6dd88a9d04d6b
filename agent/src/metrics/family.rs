//! Families of series that are made anew for each scrape: a value that a device does not have is a series that is not
//! there, and a counter is what the device counted, not what was added here.

use prometheus::core::Collector;
use prometheus::{CounterVec, GaugeVec, Opts, Registry};

/// What the numbers of a family are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// Goes up and down.
    Gauge,
    /// Only goes up, but when the device or its driver begins anew.
    Counter,
}

/// One family: a name, a type, what it is for, and the labels of its series.
pub(super) struct Family {
    series: Series,
}

enum Series {
    Gauge(GaugeVec),
    Counter(CounterVec),
}

impl Family {
    /// A family without series, registered under its whole name. Without series it does not show in the scrape.
    ///
    /// # Errors
    /// A name or label is not one, or the name is taken.
    pub fn register(
        registry: &Registry,
        kind: Type,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<Self, prometheus::Error> {
        let opts = Opts::new(name, help);
        let (vec, collector): (Series, Box<dyn Collector>) = match kind {
            Type::Gauge => {
                let vec = GaugeVec::new(opts, labels)?;
                (Series::Gauge(vec.clone()), Box::new(vec))
            }
            Type::Counter => {
                let vec = CounterVec::new(opts, labels)?;
                (Series::Counter(vec.clone()), Box::new(vec))
            }
        };
        registry.register(collector)?;
        Ok(Self { series: vec })
    }

    /// One series with its value; none where there is no value, or one that is no number.
    pub fn set(&self, labels: &[&str], value: Option<f64>) {
        let Some(value) = value.filter(|value| value.is_finite()) else {
            return;
        };
        match &self.series {
            Series::Gauge(vec) => vec.with_label_values(labels).set(value),
            // A counter below zero is a reading that cannot be right.
            Series::Counter(_) if value < 0.0 => {}
            Series::Counter(vec) => {
                let counter = vec.with_label_values(labels);
                // The same series twice would count twice.
                counter.reset();
                counter.inc_by(value);
            }
        }
    }
}
