//! The table of architectures.

use super::{Architecture, Condition, Division, InputScale, OutputLayer, Windows};
use Condition::{FewerLayersThan, LacksKey, States};

const fn whole(name: &'static str) -> Architecture {
    Architecture {
        name,
        division: Division::Whole,
        input_scale: InputScale::None,
        output: OutputLayer {
            norm_bias: false,
            separate: false,
            bias: false,
        },
        windows: Windows::Never,
        reserved_lengths: &[],
        stated: &[],
        conditions: &[],
        // Not shown for any. Of some llama.cpp itself refuses it, and where attention has a slope for each head (ALiBi) every device
        // would count its heads from the first slope on.
        splits_tensors: false,
    }
}

const fn split(name: &'static str) -> Architecture {
    Architecture {
        division: Division::BetweenLayers,
        splits_tensors: true,
        ..whole(name)
    }
}

impl Architecture {
    const fn every(mut self, layers: u32) -> Self {
        self.division = Division::Every(layers);
        self
    }

    const fn scaled(mut self, scale: InputScale) -> Self {
        self.input_scale = scale;
        self
    }

    const fn windowed(mut self, windows: Windows) -> Self {
        self.windows = windows;
        self
    }

    /// A slice without output has one row in its place, which llama.cpp cannot divide: it ends the process.
    const fn with_separate_output(mut self) -> Self {
        self.output.separate = true;
        self.splits_tensors = false;
        self
    }

    const fn with_norm_bias(mut self) -> Self {
        self.output.norm_bias = true;
        self
    }

    const fn with_output_bias(mut self) -> Self {
        self.output.bias = true;
        self
    }

    const fn without_lengths(mut self, lengths: &'static [u32]) -> Self {
        self.reserved_lengths = lengths;
        self
    }

    const fn stating(mut self, numbers: &'static [(&'static str, u32)]) -> Self {
        self.stated = numbers;
        self
    }

    /// Of those that `llm_arch_supports_sm_tensor` (`src/llama-arch.cpp` of llama.cpp) leaves out: keys and values that are compressed
    /// together.
    const fn with_whole_tensors(mut self) -> Self {
        self.splits_tensors = false;
        self
    }

    const fn when(mut self, conditions: &'static [Condition]) -> Self {
        self.conditions = conditions;
        self
    }
}

/// Rotary positions of several dimensions are laid out otherwise for looked-up rows.
const PLAIN_POSITIONS: Condition = LacksKey("rope.dimension_sections");

/// Each is proved by a case in the engine's `architectures` test.
pub(super) const SPLITTABLE: &[Architecture] = &[
    split("llama"),
    split("mistral3"),
    split("qwen2"),
    split("qwen2moe").with_separate_output(),
    split("qwen3"),
    split("qwen3moe"),
    split("gemma").scaled(InputScale::Always),
    // The 27B size has another attention scale, chosen by its 46 layers.
    split("gemma2")
        .scaled(InputScale::Always)
        .windowed(Windows::Always { period: 2 })
        .when(&[FewerLayersThan(46)]),
    // As above, with 62 layers.
    split("gemma3")
        .scaled(InputScale::LookedUp)
        .windowed(Windows::Stated { period: 6 })
        .when(&[FewerLayersThan(62)]),
    split("phi2").with_separate_output().with_norm_bias().with_output_bias(),
    split("phi3"),
    split("phimoe")
        .with_separate_output()
        .with_norm_bias()
        .with_output_bias(),
    // Vision models inject further inputs at layers by number.
    split("granite")
        .scaled(InputScale::Key)
        .when(&[LacksKey("deepstack_mapping")]),
    split("granitemoe").scaled(InputScale::Key),
    split("minicpm")
        .scaled(InputScale::Key)
        .when(&[States("residual_scale"), States("embedding_scale")]),
    split("olmo2")
        .with_separate_output()
        .windowed(Windows::Stated { period: 4 }),
    split("olmoe").with_separate_output(),
    // Every fourth layer has no rotary positions, counted from the slice's own first layer.
    split("smollm3").every(4),
    split("starcoder2").with_norm_bias(),
    split("stablelm").with_separate_output().with_norm_bias(),
    split("internlm2").with_separate_output(),
    // From 64 layers on, keys and queries have norms.
    split("command-r").when(&[FewerLayersThan(64)]),
    split("cohere2").windowed(Windows::Always { period: 4 }),
    split("exaone"),
    // Of 64 layers, some have sliding windows.
    split("exaone4").when(&[FewerLayersThan(64)]),
    split("nemotron").with_separate_output().with_norm_bias(),
    split("arcee"),
    split("seed_oss"),
    split("ernie4_5").when(&[PLAIN_POSITIONS]),
    split("hunyuan-dense").when(&[PLAIN_POSITIONS]),
    split("deepseek"),
    // Models of 26 and 27 layers are taken for lite ones, whose queries are not compressed.
    split("deepseek2")
        .with_whole_tensors()
        .without_lengths(&[26, 27])
        .stating(&[("attention.q_lora_rank", 0)])
        .when(&[States("expert_gating_func")]),
    split("dots1").with_separate_output(),
    split("minimax-m2").with_separate_output(),
    split("gpt-oss")
        .with_separate_output()
        .windowed(Windows::Always { period: 2 }),
];

/// Text generators that the engine loads; each runs on one device.
#[rustfmt::skip]
pub(super) const RUN_WHOLE: &[Architecture] = &[
    whole("llama4"), whole("deci"), whole("falcon"), whole("grok"), whole("gpt2"), whole("gptneox"), whole("mpt"),
    whole("baichuan"), whole("starcoder"), whole("refact"), whole("bloom"), whole("qwen"), whole("qwen3next"),
    whole("qwen35"), whole("qwen35moe"), whole("plamo"), whole("plamo3"), whole("codeshell"),
    whole("orion"), whole("minicpm3"), whole("gemma3n"), whole("gemma4"), whole("mamba"), whole("mamba2"),
    whole("jamba"), whole("falcon-h1"), whole("xverse"), whole("dbrx"), whole("olmo"), whole("openelm"),
    whole("arctic"), whole("chatglm"), whole("glm4"), whole("glm4moe"), whole("bitnet"),
    whole("jais"), whole("nemotron_h"), whole("rwkv6"), whole("rwkv6qwen2"), whole("rwkv7"), whole("arwkv7"),
    whole("granitehybrid"), whole("plm"), whole("bailingmoe"), whole("bailingmoe2"), whole("afmoe"),
    whole("ernie4_5-moe"), whole("hunyuan-moe"), whole("lfm2"), whole("lfm2moe"), whole("smallthinker"),
    whole("grovemoe"), whole("apertus"), whole("mistral4"), whole("mimo2"), whole("step35"),
    whole("kimi-linear"),
];

/// Known to the engine, but it mixes up several sequences that it computes together, without an error.
pub(super) const MISCOMPUTED: &[&str] = &[
    // In `src/models/plamo2.cpp` of llama.cpp, `build_plamo2_mamba_layer` stores the states of a step's sequences after
    // `kv_head * n_seqs` others, where `mamba-base.cpp` has `kv_head`: sequences lose their own, and others' are
    // overwritten. And what is projected is ordered by token, but read as ordered by sequence.
    "plamo2",
];

/// Known to the engine, but they embed, encode, diffuse, draft, hear or see.
pub(super) const NO_TEXT_GENERATORS: &[&str] = &[
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
