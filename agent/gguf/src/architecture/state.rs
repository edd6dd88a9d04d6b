//! Which architectures keep states, of what form, and in which layers.
//!
//! All of it is llama.cpp's: the architectures are those of `llm_arch_is_recurrent` and `llm_arch_is_hybrid`
//! (`src/llama-arch.cpp`) that run, the layers those that `load_arch_hparams` of each marks (`src/models/`) and the
//! filters of `llama_model::create_memory` let through (`src/llama-model.cpp`).

/// A state that layers keep for each sequence, whatever its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct States {
    /// What determines its size.
    pub form: Form,
    /// The layers that keep it.
    pub keepers: Keepers,
    /// Whether equal numbers can be promised on processors; see [`refuses_strict_steps`].
    strict: bool,
}

/// What determines the size of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A convolution's last inputs and a state for each channel: the keys `ssm.…`.
    Scan {
        /// Whether the convolution also sees what goes into the state and out of it, for each group.
        groups: bool,
    },
    /// A convolution's last inputs alone: the key `shortconv.l_cache`.
    Convolution,
    /// Three convolutions and a matrix for each head: the key `kda.head_dim`.
    Delta,
    /// The last tokens and a matrix for each head: the key `wkv.head_size`.
    Wkv,
}

/// The layers that keep a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keepers {
    /// All, and no layer has keys and values.
    All,
    /// All, beside keys and values.
    Beside,
    /// Those without key and value heads.
    WithoutHeads,
    /// Those that have neither key and value heads nor a feed-forward network. What has such a network keeps nothing.
    WithoutHeadsAndWidth,
    /// Those listed, or all but each so-manieth one.
    Listed,
}

/// The period of layers with attention where a model that may list them says nothing.
pub(crate) const USUAL_ATTENTION_PERIOD: u32 = 4;

const fn states(form: Form, keepers: Keepers) -> States {
    States {
        form,
        keepers,
        strict: matches!(keepers, Keepers::All),
    }
}

impl States {
    /// Shown by the engine's test of strict steps.
    const fn strict(mut self) -> Self {
        self.strict = true;
        self
    }
}

const SCAN: Form = Form::Scan { groups: true };

const KNOWN: [(&str, States); 16] = [
    ("mamba", states(Form::Scan { groups: false }, Keepers::All)),
    ("mamba2", states(SCAN, Keepers::All)),
    ("rwkv6", states(Form::Wkv, Keepers::All)),
    ("rwkv6qwen2", states(Form::Wkv, Keepers::All)),
    ("rwkv7", states(Form::Wkv, Keepers::All)),
    ("arwkv7", states(Form::Wkv, Keepers::All)),
    (
        "jamba",
        states(Form::Scan { groups: false }, Keepers::WithoutHeads).strict(),
    ),
    ("falcon-h1", states(SCAN, Keepers::Beside).strict()),
    ("granitehybrid", states(SCAN, Keepers::WithoutHeads).strict()),
    ("nemotron_h", states(SCAN, Keepers::WithoutHeadsAndWidth).strict()),
    ("lfm2", states(Form::Convolution, Keepers::WithoutHeads).strict()),
    ("lfm2moe", states(Form::Convolution, Keepers::WithoutHeads)),
    ("qwen3next", states(SCAN, Keepers::Listed).strict()),
    ("qwen35", states(SCAN, Keepers::Listed).strict()),
    ("qwen35moe", states(SCAN, Keepers::Listed)),
    ("kimi-linear", states(Form::Delta, Keepers::WithoutHeads)),
];

/// The states of an architecture's models; `None` for those with keys and values alone.
pub fn kept_states(architecture: &str) -> Option<States> {
    let mut known = KNOWN.iter();
    known.find(|(name, _)| *name == architecture).map(|(_, states)| *states)
}

/// The architectures whose models keep states.
pub fn stateful() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().map(|(name, _)| *name)
}

/// Whether the engine refuses to promise for models of this architecture that a token's numbers depend on the tokens before it
/// and on nothing else: they keep a state beside attention, and no test has shown that its computation keeps the promise.
pub fn refuses_strict_steps(architecture: &str) -> bool {
    kept_states(architecture).is_some_and(|states| !states.strict)
}

/// The architectures that keep a state beside attention and for which the promise is shown.
pub fn strict_hybrids() -> impl Iterator<Item = &'static str> {
    let hybrid = |states: &States| states.strict && states.keepers != Keepers::All;
    KNOWN
        .iter()
        .filter(move |(_, states)| hybrid(states))
        .map(|(name, _)| *name)
}
