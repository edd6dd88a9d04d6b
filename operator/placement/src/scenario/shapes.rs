//! Published models by name: how many weights each layer has, and what a token leaves in the cache.
//!
//! Counted from the models' published configurations; the tests compare the sums with the sizes that their makers state.
//! Of a mixture of experts every weight counts in memory, and a token reads the experts that it is sent to.

use serde::Deserialize;

/// Equal layers that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub count: u32,
    /// Thousands of weights in each.
    pub thousands: u64,
    /// Of these, what one token reads.
    pub active_thousands: u64,
}

const fn dense(count: u32, thousands: u64) -> Run {
    experts(count, thousands, thousands)
}

const fn experts(count: u32, thousands: u64, active_thousands: u64) -> Run {
    Run {
        count,
        thousands,
        active_thousands,
    }
}

/// The shape of one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub name: &'static str,
    pub layers: &'static [Run],
    pub embedding_length: u64,
    pub vocabulary_size: u64,
    pub kv_elements_per_token_per_layer: u64,
}

impl Shape {
    pub fn layer_count(&self) -> u32 {
        self.layers.iter().map(|run| run.count).sum()
    }

    /// Of the embedding, and as many of the output.
    pub fn embedding_weights(&self) -> u64 {
        self.embedding_length * self.vocabulary_size
    }
}

pub(super) const SHAPES: &[Shape] = &[
    shape("smollm2-135m", &[dense(30, 3_540)], 576, 49_152, 384),
    shape("llama-3.2-1b", &[dense(16, 60_820)], 2_048, 128_256, 1_024),
    shape("llama-3.1-8b", &[dense(32, 218_112)], 4_096, 128_256, 2_048),
    shape("llama-30b", &[dense(60, 535_030)], 6_656, 32_000, 13_312),
    shape("qwen2.5-32b", &[dense(64, 487_660)], 5_120, 152_064, 2_048),
    shape("llama-2-70b", &[dense(80, 855_654)], 8_192, 32_000, 2_048),
    shape("llama-3.1-70b", &[dense(80, 855_654)], 8_192, 128_256, 2_048),
    shape("qwen2.5-72b", &[dense(80, 877_675)], 8_192, 152_064, 2_048),
    // 128 experts of 18,874 thousand weights in each layer, 8 for a token.
    shape(
        "qwen3-235b-a22b",
        &[experts(94, 2_487_755, 222_830)],
        4_096,
        151_936,
        1_024,
    ),
    shape("llama-3.1-405b", &[dense(126, 3_187_704)], 16_384, 128_256, 2_048),
    // Three dense layers first, then 256 experts of 44,040 thousand weights in each, 8 for a token; the cache holds what
    // multi-head latent attention compresses keys and values to.
    shape(
        "deepseek-v3-671b",
        &[dense(3, 583_500), experts(58, 11_507_000, 585_000)],
        7_168,
        129_280,
        576,
    ),
];

const fn shape(
    name: &'static str,
    layers: &'static [Run],
    embedding_length: u64,
    vocabulary_size: u64,
    kv_elements_per_token_per_layer: u64,
) -> Shape {
    Shape {
        name,
        layers,
        embedding_length,
        vocabulary_size,
        kv_elements_per_token_per_layer,
    }
}

/// How weights are kept in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[allow(non_camel_case_types, reason = "as the format names them")]
pub(super) enum Quantisation {
    F16,
    Q8_0,
    Q4_0,
    Q4_K_M,
}

impl Quantisation {
    /// Scales included; of mixes the mean over a large model.
    fn bits_per_hundred_weights(self) -> u64 {
        match self {
            Self::F16 => 1600,
            Self::Q8_0 => 850,
            Self::Q4_0 => 450,
            Self::Q4_K_M => 483,
        }
    }

    pub fn bytes(self, weights: u64) -> u64 {
        let bits = u128::from(weights) * u128::from(self.bits_per_hundred_weights()) / 100;
        u64::try_from(bits.div_ceil(8)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::{Quantisation, SHAPES};

    #[test]
    fn weights_add_up_to_what_the_makers_state() {
        // In millions. Small models use the embedding as output too, which is then counted once.
        let stated = [
            ("smollm2-135m", 134.5, 1),
            ("llama-3.2-1b", 1_236.0, 1),
            ("llama-3.1-8b", 8_030.0, 2),
            ("llama-30b", 32_530.0, 2),
            ("qwen2.5-32b", 32_760.0, 2),
            ("llama-2-70b", 68_980.0, 2),
            ("llama-3.1-70b", 70_550.0, 2),
            ("qwen2.5-72b", 72_710.0, 2),
            ("qwen3-235b-a22b", 235_090.0, 2),
            ("llama-3.1-405b", 405_850.0, 2),
            ("deepseek-v3-671b", 671_030.0, 2),
        ];
        assert_eq!(stated.len(), SHAPES.len());
        for (shape, (name, millions, ends)) in SHAPES.iter().zip(stated) {
            assert_eq!(shape.name, name);
            let layers: u64 = shape
                .layers
                .iter()
                .map(|run| u64::from(run.count) * run.thousands * 1_000)
                .sum();
            let counted = (layers + ends * shape.embedding_weights()) as f64 / 1e6;
            assert!(
                (counted / millions - 1.0).abs() < 0.005,
                "{name}: {counted} of {millions}"
            );
        }
    }

    #[test]
    fn of_a_mixture_of_experts_a_token_reads_what_the_makers_state() {
        // In billions, with what is outside of layers: an embedding and an output.
        for (name, billions) in [("qwen3-235b-a22b", 22.0), ("deepseek-v3-671b", 37.0)] {
            let shape = SHAPES.iter().find(|shape| shape.name == name).unwrap();
            let active = shape
                .layers
                .iter()
                .map(|run| u64::from(run.count) * run.active_thousands);
            let counted = (active.sum::<u64>() * 1_000 + 2 * shape.embedding_weights()) as f64 / 1e9;
            assert!(
                (counted / billions - 1.0).abs() < 0.03,
                "{name}: {counted} of {billions}"
            );
        }
    }

    #[test]
    fn a_quantised_model_is_as_large_as_its_file() {
        // 70B Q4_K_M: 42.5 GB.
        let gb = Quantisation::Q4_K_M.bytes(70_550_000_000) / 1_000_000_000;
        assert_eq!(gb, 42);
        assert_eq!(Quantisation::F16.bytes(3), 6);
    }
}
