//! PURE: from a raw spec to values that the later steps need not question.

use crds::conditions::reason;
use crds::names::MAX_GROUP_DEVICES;
use crds::{Determinism, InferenceModelSpec, KvType, PinnedLayers, TolerationOperator};
use placement::{Constraints, KvElement, MAX_REPLICAS, Objective, Pin, Toleration};
use proto::placement::v1 as wire;

use super::status::Why;

/// Rows of one step at most. From 64 rows on llama.cpp computes attention in tiles: prompts at its full speed, but with sums that
/// depend on the shape of the step.
const STEP_ROWS: u32 = 128;
/// Rows of one step at most where numbers must not depend on the shape of the step.
const STRICT_STEP_ROWS: u32 = 63;

/// A spec without nonsense.
#[derive(Debug, Clone, PartialEq)]
pub struct Validated {
    /// What every stage must agree on.
    pub runtime: wire::Runtime,
    /// The cache's element, for the reckoning of memory.
    pub kv_element: KvElement,
    /// Where the model may run.
    pub constraints: Constraints,
    /// What a good placement is.
    pub objective: Objective,
    /// Whole pipelines.
    pub replicas: u32,
}

impl Validated {
    /// Numbers must not depend on the shape of a step.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        self.runtime.max_step_rows <= STRICT_STEP_ROWS
    }
}

/// Checks what the API server checks too: an object may be older than its schema.
pub fn validate(spec: &InferenceModelSpec) -> Result<Validated, Why> {
    let (kv_type, kv_element) = match spec.kv_type {
        KvType::F16 => (wire::KvType::F16, KvElement::F16),
        KvType::F32 => (wire::KvType::F32, KvElement::F32),
        KvType::Q8_0 => (wire::KvType::Q80, KvElement::Q8_0),
    };
    let constraints = &spec.placement;
    Ok(Validated {
        runtime: wire::Runtime {
            context_length: positive("spec.contextLength", spec.context_length)?,
            parallel_sequences: positive("spec.parallelSequences", spec.parallel_sequences)?,
            kv_type: kv_type.into(),
            max_step_rows: match spec.determinism {
                Determinism::Relaxed => STEP_ROWS,
                Determinism::Strict => STRICT_STEP_ROWS,
            },
            kv_cells: spec
                .kv_cache_tokens
                .map_or(Ok(0), |tokens| positive("spec.kvCacheTokens", tokens))?,
            allow_kv_quantisation: spec.memory_pressure.allow_kv_quantisation,
            allow_host_layers: spec.memory_pressure.allow_host_layers,
            prefix_sequences: at_least(0, "spec.prefixCache.maxPrefixes", spec.prefix_cache.max_prefixes)?,
        },
        kv_element,
        constraints: Constraints {
            min_devices: positive("spec.placement.minDevices", constraints.min_devices)?,
            max_devices: constraints
                .max_devices
                .map(|max| positive("spec.placement.maxDevices", max))
                .transpose()?,
            max_group_devices: constraints
                .max_group_devices
                .map_or(Ok(1), |most| positive("spec.placement.maxGroupDevices", most))?
                .min(MAX_GROUP_DEVICES as u32),
            allow_software_devices: constraints.allow_software_devices,
            vendors: constraints.vendors.iter().flatten().cloned().collect(),
            node_selector: constraints.node_selector.clone().unwrap_or_default(),
            token_node_selector: constraints.token_node_selector.clone().unwrap_or_default(),
            min_tokens_per_second: constraints
                .min_tokens_per_second
                .map(|rate| positive("spec.placement.minTokensPerSecond", rate))
                .transpose()?,
            max_link_percent: constraints
                .max_link_percent
                .map(|percent| positive("spec.placement.maxLinkPercent", percent))
                .transpose()?,
            pinned_layers: constraints
                .pinned_layers
                .iter()
                .flatten()
                .map(pin)
                .collect::<Result<_, _>>()?,
            tolerations: constraints.tolerations.iter().flatten().map(toleration).collect(),
        },
        objective: match spec.objective {
            crds::Objective::Latency => Objective::Latency,
            crds::Objective::Throughput => Objective::Throughput,
        },
        replicas: positive("spec.replicas", spec.replicas)?.min(MAX_REPLICAS),
    })
}

fn pin(pin: &PinnedLayers) -> Result<Pin, Why> {
    let layers = |name: &str, value: i32| at_least(0, &format!("spec.placement.pinnedLayers.{name}"), value);
    Ok(Pin {
        backend: pin.backend.clone(),
        node: pin.node.clone(),
        device: pin.device.clone(),
        min_layers: layers("minLayers", pin.min_layers)?,
        max_layers: pin.max_layers.map(|max| layers("maxLayers", max)).transpose()?,
    })
}

fn toleration(toleration: &crds::Toleration) -> Toleration {
    Toleration {
        key: toleration.key.clone(),
        exists: toleration.operator == TolerationOperator::Exists,
        value: toleration.value.clone().unwrap_or_default(),
        effect: toleration.effect.map(Into::into),
    }
}

fn positive(field: &str, value: i32) -> Result<u32, Why> {
    at_least(1, field, value)
}

fn at_least(least: u32, field: &str, value: i32) -> Result<u32, Why> {
    u32::try_from(value)
        .ok()
        .filter(|value| *value >= least)
        .ok_or_else(|| invalid(field, value, least))
}

fn invalid(field: &str, value: i32, least: u32) -> Why {
    Why::new(
        reason::INVALID_SPEC,
        format!("{field} is {value}; it must be at least {least}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixture;

    #[test]
    fn a_sound_spec_becomes_what_the_stages_agree_on() {
        let validated = validate(&fixture::model().spec).unwrap();
        assert_eq!(validated.runtime.kv_type(), wire::KvType::F16);
        assert_eq!(
            (validated.runtime.context_length, validated.runtime.parallel_sequences),
            (256, 2)
        );
        assert_eq!((validated.runtime.kv_cells, validated.runtime.prefix_sequences), (0, 8));
        assert_eq!(validated.constraints.min_devices, 1);
    }

    #[test]
    fn devices_work_as_one_only_where_that_is_asked_for_and_never_more_than_can() {
        let validated = |most| {
            let mut spec = fixture::model().spec;
            spec.placement.max_group_devices = most;
            validate(&spec).map(|validated| validated.constraints.max_group_devices)
        };
        assert_eq!(validated(None), Ok(1));
        assert_eq!((validated(Some(4)), validated(Some(64))), (Ok(4), Ok(8)));
        let why = validated(Some(0)).unwrap_err();
        assert!(
            why.message.starts_with("spec.placement.maxGroupDevices is 0"),
            "{}",
            why.message
        );
    }

    #[test]
    fn nonsense_is_refused_by_the_name_of_its_field() {
        let mut spec = fixture::model().spec;
        spec.context_length = -1;
        let why = validate(&spec).unwrap_err();
        assert_eq!(
            (why.reason.as_str(), why.message.as_str()),
            ("InvalidSpec", "spec.contextLength is -1; it must be at least 1")
        );
        let mut spec = fixture::model().spec;
        let pin = PinnedLayers {
            backend: Some("vulkan".into()),
            node: None,
            device: None,
            min_layers: -2,
            max_layers: None,
        };
        spec.placement.pinned_layers = Some(vec![pin]);
        assert!(validate(&spec).unwrap_err().message.contains("pinnedLayers.minLayers"));
    }
}
