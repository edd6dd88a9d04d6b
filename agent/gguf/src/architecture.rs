//! Which architectures run, and which of them may be cut.
//!
//! An architecture is splittable only when cuts at every allowed point are shown to give the whole model's tokens;
//! llama.cpp hard-codes rules by layer number in many of them, and a wrong cut gives wrong text without an error.

use thiserror::Error;

/// Where an architecture may be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Division {
    /// Between any two layers.
    BetweenLayers,
    /// Nowhere: all layers run on one device.
    Whole,
}

/// What is known of one architecture.
#[derive(Debug, PartialEq, Eq)]
pub struct Architecture {
    /// The name in `general.architecture`, which also begins the keys of its hyperparameters.
    pub name: &'static str,
    /// Where it may be cut.
    pub division: Division,
    /// Keys, after `<name>.`, that may hold one value per layer and are sliced with the layers.
    pub per_layer_keys: &'static [&'static str],
}

impl Architecture {
    /// Whether a head may look embedding rows up itself and feed them in place of tokens. Where it is not shown that
    /// this gives the same (some scale or add to embeddings only when they come from tokens), tokens are fed.
    pub fn embeds_outside(&self) -> bool {
        self.division == Division::BetweenLayers
    }
}

/// An architecture that does not run at all.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ArchitectureError {
    /// The engine has never heard of it.
    #[error("the architecture `{name}` is unknown to this version; use a model of another architecture, such as llama")]
    Unknown {
        /// The name in the file.
        name: String,
    },
    /// The engine knows it, but it is no language model that answers prompts.
    #[error("the architecture `{name}` does not generate text by itself; use a language model")]
    NoTextGenerator {
        /// The name in the file.
        name: String,
    },
}

const SPLITTABLE: &[Architecture] = &[Architecture {
    name: "llama",
    division: Division::BetweenLayers,
    per_layer_keys: &[
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "expert_used_count",
    ],
}];

const fn whole(name: &'static str) -> Architecture {
    Architecture {
        name,
        division: Division::Whole,
        per_layer_keys: &[],
    }
}

/// Text generators that the engine loads; each runs on one device.
#[rustfmt::skip]
const RUN_WHOLE: &[Architecture] = &[
    whole("llama4"), whole("deci"), whole("falcon"), whole("grok"), whole("gpt2"), whole("gptneox"), whole("mpt"),
    whole("baichuan"), whole("starcoder"), whole("refact"), whole("bloom"), whole("stablelm"), whole("qwen"),
    whole("qwen2"), whole("qwen2moe"), whole("qwen3"), whole("qwen3moe"), whole("qwen3next"), whole("qwen35"),
    whole("qwen35moe"), whole("phi2"), whole("phi3"), whole("phimoe"), whole("plamo"), whole("plamo2"),
    whole("plamo3"), whole("codeshell"), whole("orion"), whole("internlm2"), whole("minicpm"), whole("minicpm3"),
    whole("gemma"), whole("gemma2"), whole("gemma3"), whole("gemma3n"), whole("gemma4"), whole("starcoder2"),
    whole("mamba"), whole("mamba2"), whole("jamba"), whole("falcon-h1"), whole("xverse"), whole("command-r"),
    whole("cohere2"), whole("dbrx"), whole("olmo"), whole("olmo2"), whole("olmoe"), whole("openelm"),
    whole("arctic"), whole("deepseek"), whole("deepseek2"), whole("chatglm"), whole("glm4"), whole("glm4moe"),
    whole("bitnet"), whole("jais"), whole("nemotron"), whole("nemotron_h"), whole("exaone"), whole("exaone4"),
    whole("rwkv6"), whole("rwkv6qwen2"), whole("rwkv7"), whole("arwkv7"), whole("granite"), whole("granitemoe"),
    whole("granitehybrid"), whole("plm"), whole("bailingmoe"), whole("bailingmoe2"), whole("dots1"),
    whole("arcee"), whole("afmoe"), whole("ernie4_5"), whole("ernie4_5-moe"), whole("hunyuan-moe"),
    whole("hunyuan-dense"), whole("smollm3"), whole("gpt-oss"), whole("lfm2"), whole("lfm2moe"),
    whole("smallthinker"), whole("seed_oss"), whole("grovemoe"), whole("apertus"), whole("minimax-m2"),
    whole("mistral3"), whole("mistral4"), whole("mimo2"), whole("step35"), whole("kimi-linear"),
];

/// Known to the engine, but they embed, encode, diffuse, draft, hear or see.
const NO_TEXT_GENERATORS: &[&str] = &[
    "clip",
    "bert",
    "modern-bert",
    "nomic-bert",
    "nomic-bert-moe",
    "neo-bert",
    "jina-bert-v2",
    "jina-bert-v3",
    "eurobert",
    "gemma-embedding",
    "llama-embed",
    "t5",
    "t5encoder",
    "wavtokenizer-dec",
    "dream",
    "llada",
    "llada-moe",
    "rnd1",
    "eagle3",
    "dflash",
    "gemma4-assistant",
    "qwen3tts",
    "pockettts",
];

/// Looks an architecture up by its name in `general.architecture`.
pub fn architecture(name: &str) -> Result<&'static Architecture, ArchitectureError> {
    if let Some(found) = SPLITTABLE.iter().chain(RUN_WHOLE).find(|known| known.name == name) {
        return Ok(found);
    }
    let name = name.to_owned();
    if NO_TEXT_GENERATORS.contains(&name.as_str()) {
        return Err(ArchitectureError::NoTextGenerator { name });
    }
    Err(ArchitectureError::Unknown { name })
}

#[cfg(test)]
mod tests;
