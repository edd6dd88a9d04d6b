//! `authority`: another certificate authority is asked for, and how far it has come in taking the place of the present one.

use std::time::SystemTime;

use crds::{moment, names};
use serde::Serialize;
use serde_json::Value;

use crate::args::{AuthorityCommand, Output};
use crate::failure::Failure;
use crate::kubectl;

/// What the operator tells of its authority.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    phase: String,
    since: Option<String>,
    waits_for: Option<String>,
    asked_for: Option<String>,
    honoured: Option<String>,
    #[serde(skip)]
    resource_version: String,
}

/// Asks, or shows.
pub fn run(command: &AuthorityCommand, output: Output) -> Result<String, Failure> {
    match command {
        AuthorityCommand::Status(args) => shown(&look(&args.namespace)?, output, describe),
        AuthorityCommand::Rotate(args) => rotate(&args.namespace, output),
    }
}

fn rotate(namespace: &str, output: Output) -> Result<String, Failure> {
    let mut known = look(namespace)?;
    if known.phase != names::AUTHORITY_STEADY {
        return Err(Failure::Unavailable(format!(
            "another authority is taking the place of the present one already; ask again when that is over, if you still want another. {}",
            describe(&known).trim_end()
        )));
    }
    if is_asked(&known) {
        return shown(&known, output, |known| {
            let asked = known.asked_for.as_deref().unwrap_or_default();
            format!("Another authority was asked for at {asked} already; the operator has not begun yet.\n")
        });
    }
    let now = moment::written(SystemTime::now());
    let wish = format!("{}={now}", names::ROTATE_AUTHORITY);
    let version = format!("--resource-version={}", known.resource_version);
    let annotate: [&str; 8] = [
        "annotate",
        "configmap",
        names::TRUST_CONFIG_MAP,
        "-n",
        namespace,
        "--overwrite",
        &version,
        &wish,
    ];
    kubectl::call(&annotate, "do it by hand")?;
    known.asked_for = Some(now);
    shown(&known, output, |_| {
        format!(
            "Another authority is asked for. `kubectl shardwright authority status -n {namespace}` shows how far it is.\n"
        )
    })
}

/// What people asked for and was not honoured yet.
fn is_asked(known: &Shown) -> bool {
    known.asked_for.is_some() && known.asked_for != known.honoured
}

fn look(namespace: &str) -> Result<Shown, Failure> {
    let get = [
        "get",
        "configmap",
        names::TRUST_CONFIG_MAP,
        "-n",
        namespace,
        "-o",
        "json",
    ];
    let map = kubectl::call(&get, "look by hand")?;
    let map: Value = serde_json::from_str(&map)
        .map_err(|error| Failure::BadData(format!("ConfigMap {}: {error}", names::TRUST_CONFIG_MAP)))?;
    let metadata = &map["metadata"];
    let annotation = |name: &str| metadata["annotations"][name].as_str().map(str::to_owned);
    let phase = annotation(names::AUTHORITY_PHASE).ok_or_else(|| {
        Failure::Unavailable(format!(
            "ConfigMap {namespace}/{} tells no phase: its operator is of an older version than this tool, which knows no rotation; upgrade it",
            names::TRUST_CONFIG_MAP
        ))
    })?;
    Ok(Shown {
        phase,
        since: annotation(names::AUTHORITY_SINCE),
        waits_for: annotation(names::AUTHORITY_WAITS_FOR),
        asked_for: annotation(names::ROTATE_AUTHORITY),
        honoured: annotation(names::AUTHORITY_ROTATED_FOR),
        resource_version: metadata["resourceVersion"].as_str().unwrap_or_default().to_owned(),
    })
}

fn shown(known: &Shown, output: Output, text: impl FnOnce(&Shown) -> String) -> Result<String, Failure> {
    match output {
        Output::Text => Ok(text(known)),
        Output::Json => serde_json::to_string_pretty(known)
            .map(|text| text + "\n")
            .map_err(|error| Failure::BadData(error.to_string())),
    }
}

fn describe(known: &Shown) -> String {
    let meaning = match known.phase.as_str() {
        names::AUTHORITY_STEADY => "one authority issues, and it alone is trusted",
        names::AUTHORITY_PREPARED => "the old authority issues, and a new one is being trusted by all",
        names::AUTHORITY_ACTIVE => "the new authority issues, and the old one is trusted still",
        _ => "of a newer version than this tool",
    };
    let since = known.since.as_deref().map(|since| format!(", since {since}"));
    let mut text = format!("{}{}: {meaning}\n", known.phase, since.unwrap_or_default());
    if let Some(waits_for) = &known.waits_for {
        text += &format!("waits for: {waits_for}\n");
    }
    if let Some(asked) = known.asked_for.as_deref().filter(|_| is_asked(known)) {
        text += &format!("asked for another at {asked}, which has not begun\n");
    }
    text
}
