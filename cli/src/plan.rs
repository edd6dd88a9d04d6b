//! `plan`: where the layers of models run, and how fast that was predicted to be, beside how fast it is.

use std::fmt::Write;

use crds::{InferenceModel, PlacementStatus, StageStatus};
use serde::Serialize;
use serde_json::Value;

use crate::args::{Output, PlanArgs};
use crate::failure::Failure;
use crate::kubectl;

const KIND: &str = "inferencemodels.shardwright.dev";

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    namespace: String,
    name: String,
    placement: Option<PlacementStatus>,
}

/// Shows the placements of all models, or of one.
pub fn run(args: &PlanArgs, output: Output) -> Result<String, Failure> {
    let scope: Vec<&str> = match &args.namespace {
        Some(namespace) => vec!["-n", namespace],
        None => vec!["-A"],
    };
    let listed = kubectl::listed(args.file.as_deref(), KIND, &scope)?;
    let shown = models(&listed, args.model.as_deref())?;
    match output {
        Output::Text => Ok(shown.iter().map(describe).collect::<Vec<_>>().join("\n")),
        Output::Json => serde_json::to_string_pretty(&shown)
            .map(|text| text + "\n")
            .map_err(|error| Failure::BadData(error.to_string())),
    }
}

/// Of a List, or of one object alone.
fn models(listed: &str, wanted: Option<&str>) -> Result<Vec<Shown>, Failure> {
    let bad = |error: serde_json::Error| Failure::BadData(format!("not a List of InferenceModels: {error}"));
    let list: Value = serde_json::from_str(listed).map_err(bad)?;
    let items = match list["items"].as_array() {
        Some(items) => items.clone(),
        None => vec![list],
    };
    let mut shown = Vec::new();
    for item in items {
        let model: InferenceModel = serde_json::from_value(item).map_err(bad)?;
        let name = model.metadata.name.unwrap_or_default();
        if wanted.is_none_or(|wanted| wanted == name) {
            shown.push(Shown {
                namespace: model.metadata.namespace.unwrap_or_default(),
                name,
                placement: model.status.and_then(|status| status.placement),
            });
        }
    }
    match wanted {
        Some(wanted) if shown.is_empty() => Err(Failure::BadData(format!("there is no InferenceModel {wanted}"))),
        _ => Ok(shown),
    }
}

fn describe(shown: &Shown) -> String {
    let Shown {
        namespace,
        name,
        placement,
    } = shown;
    let Some(placement) = placement else {
        return format!("{namespace}/{name}: not placed\n");
    };
    let mut text = format!(
        "{namespace}/{name}: epoch {}, {:?}\n",
        placement.epoch, placement.verdict
    );
    let width = placement
        .stages
        .iter()
        .map(|stage| stage.device.len())
        .max()
        .unwrap_or(0)
        .max(6);
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "  {:<width$} {:>7}  {:>9} {:>9} {:>6}  {:>9}  {:>11} {:>9}",
        "device", "layers", "predicted", "observed", "error", "hop", "1000 prompt", "observed"
    );
    for stage in &placement.stages {
        let _ = writeln!(text, "{}", line(stage, width));
    }
    // For the context that was met, where that is known.
    let predicted = placement
        .expected_us_per_token
        .unwrap_or(placement.predicted_us_per_token);
    let _ = writeln!(
        text,
        "  {:<width$} {:>7}  {:>9} {:>9} {:>6}  {:>9}  {:>11}",
        "token",
        "",
        ms(Some(predicted)),
        ms(placement.observed_us_per_token),
        error(predicted, placement.observed_us_per_token),
        "",
        ms(placement.predicted_prefill_us),
    );
    text
}

fn line(stage: &StageStatus, width: usize) -> String {
    let observed = stage.observed.unwrap_or_default();
    let predicted = observed.expected_us_per_token.unwrap_or(stage.predicted_us_per_token);
    format!(
        "  {:<width$} {:>7}  {:>9} {:>9} {:>6}  {:>9}  {:>11} {:>9}",
        stage.device,
        stage.layers,
        ms(Some(predicted)),
        ms(observed.us_per_token),
        error(predicted, observed.us_per_token),
        ms(stage.hop_us),
        ms(stage.predicted_prefill_us),
        ms(observed.prefill_us),
    )
}

/// What is not known is a dash, never zero.
fn ms(us: Option<i64>) -> String {
    us.map_or_else(|| "-".to_owned(), |us| format!("{:.2} ms", us as f64 / 1000.0))
}

fn error(predicted: i64, observed: Option<i64>) -> String {
    match observed {
        Some(observed) if predicted > 0 => {
            let percent = (observed as f64 / predicted as f64 - 1.0) * 100.0;
            format!("{percent:+.0} %")
        }
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list() -> String {
        let stage = |index: i32, observed: Value| {
            json!({
                "index": index, "node": "n", "device": format!("n-cpu{index}"), "backend": "cpu", "layers": "0-3",
                "firstLayer": 0, "endLayer": 4, "weightBytes": 1, "memoryBytes": 1, "predictedUsPerToken": 2000,
                "phase": "Serving", "observed": observed,
            })
        };
        let model = |name: &str, placement: Value| {
            json!({
                "apiVersion": "shardwright.dev/v1alpha1", "kind": "InferenceModel",
                "metadata": { "name": name, "namespace": "default" },
                "spec": { "source": { "uri": "file:///m.gguf" } },
                "status": { "placement": placement },
            })
        };
        let placement = json!({
            "epoch": 3, "generation": 1, "envelope": "", "verdict": "Optimal", "predictedUsPerToken": 4100,
            "stages": [stage(0, json!({ "usPerToken": 2600, "tokens": 400 })), stage(1, Value::Null)],
        });
        json!({ "items": [model("a", placement), model("b", Value::Null)] }).to_string()
    }

    #[test]
    fn predicted_and_observed_times_stand_side_by_side_and_what_is_unknown_is_a_dash() {
        let shown = models(&list(), None).expect("a list");
        let text = describe(&shown[0]);
        assert!(text.contains("n-cpu0     0-3    2.00 ms   2.60 ms  +30 %"), "{text}");
        assert!(text.contains("n-cpu1     0-3    2.00 ms         -      -"), "{text}");
        assert_eq!(describe(&shown[1]), "default/b: not placed\n");
    }

    #[test]
    fn one_model_is_found_by_its_name_and_a_missing_one_is_said() {
        assert_eq!(models(&list(), Some("b")).expect("a list").len(), 1);
        let missing = models(&list(), Some("c")).expect_err("there is none");
        assert!(missing.to_string().contains("no InferenceModel c"));
        assert!(models("nonsense", None).is_err());
    }
}
