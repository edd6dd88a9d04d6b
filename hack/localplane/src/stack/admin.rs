//! What the parts serve on their admin ports: metrics, and whether they are ready.

use std::time::Duration;

use super::{Part, Stack};
use crate::chat::explain;
use crate::{Error, Result, file};

/// They are on this machine: what has not answered by then stands still, however much else there is to do.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// What a part counts, in Prometheus' text format.
#[derive(Debug, Clone)]
pub struct Metrics(String);

impl Metrics {
    /// A metric by the name that it is served with, labels included or the sum over all of them; zero where there is none.
    pub fn value(&self, name: &str) -> f64 {
        let values = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with([' ', '{']))?;
            rest.rsplit(' ').next()?.parse::<f64>().ok()
        });
        values.sum()
    }
}

impl Stack {
    /// Where a part serves its metrics; `None` for an agent on a host of its own, which alone reaches that port.
    pub fn metrics_url(&self, part: &Part) -> Option<String> {
        self.admin_url(part, "metrics")
    }

    /// What a part counts now.
    pub async fn metrics(&self, part: &Part) -> Result<Metrics> {
        match self.ask(part, "metrics").await? {
            (200, text) => Ok(Metrics(text)),
            (status, text) => Err(Error::Other(format!("{part} has no metrics: {status} {text}"))),
        }
    }

    /// Whether a part says that it is ready, to a kubelet that asks.
    pub async fn is_ready(&self, part: &Part) -> Result<bool> {
        Ok(self.ask(part, "readyz").await?.0 == 200)
    }

    fn admin_url(&self, part: &Part, path: &str) -> Option<String> {
        let port = match part {
            Part::Operator(replica) => self.ports.operators.get(*replica)?.admin,
            Part::Gateway(replica) => self.ports.gateways.get(*replica)?.admin,
            Part::Agent(_) if self.network().is_some() => return None,
            Part::Agent(node) => *self.ports.agents.get(node)?,
        };
        Some(format!("https://127.0.0.1:{port}/{path}"))
    }

    /// HTTP status and text of what is served to whoever asks.
    async fn ask(&self, part: &Part, path: &str) -> Result<(u16, String)> {
        let url = self.admin_url(part, path);
        let url = url.ok_or_else(|| Error::Other(format!("nobody reaches the admin port of {part}")))?;
        let pem = std::fs::read(&self.bundle).map_err(file(&self.bundle))?;
        let authorities = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| explain(&error))?;
        let http = reqwest::Client::builder()
            .tls_certs_only(authorities)
            // An agent's certificate has its identity, and no name.
            .tls_danger_accept_invalid_hostnames(true)
            .timeout(ANSWER_LIMIT)
            .build()
            .map_err(|error| explain(&error))?;
        let response = http.get(url).send().await.map_err(|error| explain(&error))?;
        let status = response.status().as_u16();
        let text = response.text().await.map_err(|error| explain(&error))?;
        Ok((status, text))
    }
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_is_none_of_a_longer_name() {
        let text = [
            "# TYPE errors_total counter",
            "errors_total{category=\"a b\"} 2",
            "errors_total{category=\"c\"} 3",
            "errors_total_ever 7",
            "leader 1",
        ];
        let metrics = Metrics(text.join("\n"));
        let value = |name: &str| metrics.value(name);
        assert_eq!(value("errors_total"), 5.0);
        assert_eq!(value("errors_total{category=\"c\"}"), 3.0);
        assert_eq!(value("leader"), 1.0);
        assert_eq!(value("unknown"), 0.0);
    }
}
