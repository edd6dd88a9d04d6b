//! Which taints of devices do not keep a model away.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::TaintEffect;

/// Taints of devices that do not keep the model away: those that agree in every field given here. In Kubernetes' own words.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.operator == 'Exists' || has(self.key)").message("spec.placement.tolerations[].key must be set; only operator Exists goes without, and tolerates every key").field_path(".key").reason(Reason::FieldValueRequired),
    validation = Rule::new("self.operator == 'Equal' || !has(self.value)").message("spec.placement.tolerations[].value must not be set where operator is Exists, which tolerates every value").field_path(".value"),
    validation = Rule::new("!has(self.key) || self.key.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')").message("spec.placement.tolerations[].key must be a name such as repair or example.com/repair").field_path(".key"),
    validation = Rule::new("!has(self.value) || self.value.matches('^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')").message("spec.placement.tolerations[].value must be letters, digits, '-', '_' and '.', and begin and end with a letter or digit").field_path(".value")
)]
pub struct Toleration {
    /// Of taints with this key. Absent, with operator Exists: of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub key: Option<String>,
    /// Whether the value matters.
    #[serde(default)]
    pub operator: TolerationOperator,
    /// Of taints with this value. Absent, with operator Equal: of those without a value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub value: Option<String>,
    /// Of taints with this effect. Absent: of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
}

/// How a taint's value is compared.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TolerationOperator {
    /// It is the same.
    #[default]
    Equal,
    /// It does not matter.
    Exists,
}
