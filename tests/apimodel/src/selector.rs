//! PURE: which objects a request selects.

use serde_json::Value;

/// Of a list or a watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only in this namespace.
    pub namespace: Option<String>,
    labels: Vec<(String, String)>,
    fields: Vec<(String, String)>,
}

impl Selection {
    /// From the two query parameters; only equality is understood.
    ///
    /// # Errors
    /// The expression that is not.
    pub fn parse(namespace: Option<String>, labels: &str, fields: &str) -> Result<Self, String> {
        Ok(Self {
            namespace,
            labels: pairs(labels)?,
            fields: pairs(fields)?,
        })
    }

    /// Whether an object is among them.
    #[must_use]
    pub fn has(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            Value::Bool(false) => "false".to_owned(),
            other => other.to_string(),
        };
        let field = |(path, wanted): &(String, String)| {
            let value = path.split('.').fold(object, |at, name| &at[name]);
            let value = text(value);
            // A flag that is not there is false.
            value == *wanted || (value.is_empty() && wanted == "false")
        };
        self.namespace
            .as_ref()
            .is_none_or(|namespace| metadata["namespace"] == namespace.as_str())
            && self
                .labels
                .iter()
                .all(|(name, value)| metadata["labels"][name] == value.as_str())
            && self.fields.iter().all(field)
    }
}

fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=').ok_or_else(|| part.to_owned())?;
            if name.ends_with('!') {
                return Err(part.to_owned());
            }
            Ok((name.to_owned(), value.trim_start_matches('=').to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_fields_and_the_namespace_select_together() {
        let select = |labels: &str, fields: &str| Selection::parse(Some("n".into()), labels, fields).unwrap();
        let object = json!({"metadata": {"namespace": "n", "labels": {"a": "1"}}, "spec": {"unschedulable": true}});
        assert!(select("a=1", "spec.unschedulable=true").has(&object));
        assert!(!select("a=2", "").has(&object) && !select("", "spec.unschedulable=false").has(&object));
        let elsewhere = json!({"metadata": {"namespace": "m", "labels": {"a": "1"}}});
        assert!(!select("a=1", "").has(&elsewhere));
        assert!(Selection::parse(None, "a in (b)", "").is_err());
    }
}
