//! Writes a model with random weights.

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;
use modelgen::{Experts, Format, Recipe, families};

/// Writes a GGUF model with random weights: its answers mean nothing, its speed and size are real.
#[derive(Debug, Parser)]
struct Args {
    /// The architecture, as GGUF files name it.
    #[arg(long, default_value = "llama")]
    architecture: String,
    /// Number of layers.
    #[arg(long, default_value_t = 16)]
    layers: u32,
    /// Width of the residual stream.
    #[arg(long, default_value_t = 1024)]
    width: u32,
    /// Attention heads.
    #[arg(long, default_value_t = 16)]
    heads: u32,
    /// Key and value heads.
    #[arg(long, default_value_t = 4)]
    kv_heads: u32,
    /// Width of the feed-forward network.
    #[arg(long, default_value_t = 3072)]
    feed_forward: u32,
    /// Experts in each layer; 0 for none.
    #[arg(long, default_value_t = 0)]
    experts: u32,
    /// Experts that a token uses.
    #[arg(long, default_value_t = 2)]
    experts_used: u32,
    /// Tokens of the vocabulary.
    #[arg(long, default_value_t = 32_000)]
    vocabulary: u32,
    /// Format of the matrices: F32, F16, Q8_0 or Q4_0.
    #[arg(long, default_value = "Q4_0")]
    format: String,
    /// Gives the output a matrix of its own.
    #[arg(long)]
    untied: bool,
    /// Chooses the weights.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The file to write.
    out: PathBuf,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let known = || families().collect::<Vec<_>>().join(", ");
    let mut recipe = Recipe::new(&args.architecture)
        .ok_or_else(|| format!("no models of `{}` can be made, only of {}", args.architecture, known()))?;
    recipe.layers = args.layers;
    recipe.width = args.width;
    recipe.heads = args.heads;
    recipe.kv_heads = args.kv_heads;
    recipe.feed_forward = args.feed_forward;
    recipe.vocabulary = args.vocabulary;
    recipe.format =
        Format::named(&args.format).ok_or_else(|| format!("`{}` is none of F32, F16, Q8_0, Q4_0", args.format))?;
    recipe.tied = !args.untied;
    recipe.seed = args.seed;
    if args.experts > 0 {
        recipe.experts = Some(Experts {
            count: args.experts,
            used: args.experts_used,
            feed_forward: args.feed_forward,
            leading_dense: 0,
        });
    }
    if args.vocabulary < modelgen::LEAST_TOKENS {
        return Err(format!("a vocabulary has at least {} tokens", modelgen::LEAST_TOKENS).into());
    }
    recipe.write(&args.out)?;
    Ok(())
}
