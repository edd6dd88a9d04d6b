//! Rates of the engine by itself: llama.cpp's own loop beside one and two stages.
//!
//! `decode_rates <model.gguf> [tokens] [threads] [step rows,…] [prompt lengths,…] [rounds]` prints one JSON object. No network and no other process is
//! involved: what gateway and workers add is measured elsewhere. Every figure is the best of several rounds, in which
//! all contestants take turns: other work on the machine only ever slows a round down. With one thread time is that
//! thread's processor time, so that other work counts even less.

mod pipeline;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engine::reference::{WholeConfig, WholeModel};
use engine::{Device, Runtime, STRICT_STEP_ROWS};
use serde_json::{Value, json};

use pipeline::{Pieces, Pipeline};

const ROUNDS: usize = 5;

/// Positions of each sequence: the longest prompt and some tokens.
const CONTEXT_LENGTH: u32 = 1280;
const MOST_SEQUENCES: u32 = 8;
const SEQUENCES: [usize; 3] = [1, 4, 8];
const PREFILLS: [usize; 2] = [512, 1024];
const USAGE: &str = "usage: decode_rates <model.gguf> [tokens] [threads] [step rows,…] [prompt lengths,…] [rounds]";
const PROMPT: &str = "<|im_start|>user\nTell me about the sea.<|im_end|>\n<|im_start|>assistant\n";

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let model = PathBuf::from(args.next().ok_or(USAGE)?);
    let tokens = args.next().map_or(Ok(64), |count| count.parse())?;
    let threads = args.next().map_or(Ok(2), |count| count.parse())?;
    let step_rows = match args.next() {
        Some(list) => list.split(',').map(str::parse).collect::<Result<_, _>>()?,
        None => vec![STRICT_STEP_ROWS, 128, 256, 512],
    };
    let prefills = match args.next() {
        Some(list) => list.split(',').map(str::parse).collect::<Result<_, _>>()?,
        None => PREFILLS.to_vec(),
    };
    let rounds = args.next().map_or(Ok(ROUNDS), |count| count.parse())?;
    let contest = Contest {
        threads,
        tokens,
        step_rows,
        prefills,
        rounds,
    };
    let device = Device::Cpu { threads };
    let runtime = Runtime::load_for(None, &device)?;
    let folder = std::env::temp_dir().join(format!("decode-rates-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let rates = contest.hold(&runtime, &model, &folder, &device);
    std::fs::remove_dir_all(&folder)?;
    println!("{}", serde_json::to_string_pretty(&rates?)?);
    Ok(())
}

/// Somebody who decodes and reads prompts.
struct Contestant {
    name: String,
    by: By,
    /// Shortest time of a prompt with one token, and with all tokens, by the number of sequences.
    decode: Vec<[Duration; 2]>,
    /// Shortest time to the first token, by the length of the prompt.
    prefill: Vec<Duration>,
}

enum By {
    Whole(Box<WholeModel>),
    Stages(Box<Pipeline>),
}

impl By {
    fn generate(&mut self, prompts: &[Vec<i32>], count: usize) -> Outcome<()> {
        match self {
            Self::Whole(model) => model.greedy_batch(prompts, count).map(drop)?,
            Self::Stages(stages) => stages.generate(prompts, count)?,
        }
        Ok(())
    }
}

impl Contestant {
    fn new(name: impl Into<String>, by: By, contest: &Contest) -> Self {
        Self {
            name: name.into(),
            by,
            decode: vec![[Duration::MAX; 2]; SEQUENCES.len()],
            prefill: vec![Duration::MAX; contest.prefills.len()],
        }
    }

    fn run(&mut self, prompt: &[i32], contest: &Contest) -> Outcome<()> {
        for (sequences, best) in SEQUENCES.into_iter().zip(&mut self.decode) {
            let prompts = vec![prompt.to_vec(); sequences];
            for (count, best) in [1, contest.tokens].into_iter().zip(best) {
                *best = (*best).min(contest.timed(|| self.by.generate(&prompts, count))?);
            }
        }
        for (length, best) in contest.prefills.iter().copied().zip(&mut self.prefill) {
            let long: Vec<i32> = (0i32..).map(|index| 100 + index % 4000).take(length).collect();
            let prompts = [long];
            *best = (*best).min(contest.timed(|| self.by.generate(&prompts, 1))?);
        }
        Ok(())
    }

    fn decode_rates(&self, contest: &Contest) -> Vec<f64> {
        let rate = |(sequences, [first, all]): (usize, &[Duration; 2])| {
            let tokens = sequences * contest.tokens.saturating_sub(1);
            tokens as f64 / all.saturating_sub(*first).as_secs_f64()
        };
        SEQUENCES.into_iter().zip(&self.decode).map(rate).collect()
    }

    fn prefill_rates(&self, contest: &Contest) -> Vec<f64> {
        let rate = |(length, time): (&usize, &Duration)| *length as f64 / time.as_secs_f64();
        contest.prefills.iter().zip(&self.prefill).map(rate).collect()
    }

    fn shown(&self, against: &Self, contest: &Contest) -> Value {
        let ratios = |own: &[f64], other: &[f64]| -> Vec<Value> {
            own.iter().zip(other).map(|(own, other)| rounded(own / other)).collect()
        };
        let all = |rates: &[f64]| -> Vec<Value> { rates.iter().copied().map(rounded).collect() };
        let (decode, prefill) = (self.decode_rates(contest), self.prefill_rates(contest));
        json!({
            "name": self.name,
            "decode_tok_s": all(&decode),
            "decode_ratio": ratios(&decode, &against.decode_rates(contest)),
            "prefill_tok_s": all(&prefill),
            "prefill_ratio": ratios(&prefill, &against.prefill_rates(contest)),
        })
    }
}

fn rounded(value: f64) -> Value {
    json!((value * 1000.0).round() / 1000.0)
}

/// What is measured.
struct Contest {
    threads: u32,
    tokens: usize,
    step_rows: Vec<u32>,
    prefills: Vec<usize>,
    rounds: usize,
}

impl Contest {
    fn timed(&self, work: impl FnOnce() -> Outcome<()>) -> Outcome<Duration> {
        let (started, before) = (Instant::now(), processor_time()?);
        work()?;
        match self.threads {
            1 => Ok(processor_time()?.saturating_sub(before)),
            _ => Ok(started.elapsed()),
        }
    }

    fn hold(&self, runtime: &Runtime, model: &Path, folder: &Path, device: &Device) -> Outcome<Value> {
        let whole = |config: WholeConfig| -> Outcome<WholeModel> {
            let sequences = MOST_SEQUENCES;
            Ok(WholeModel::load(runtime, model, &WholeConfig { sequences, ..config })?)
        };
        let own = whole(WholeConfig::like_llama_cpp(device.clone(), CONTEXT_LENGTH))?;
        let same = whole(WholeConfig::like_a_stage(device.clone(), CONTEXT_LENGTH))?;
        let prompt = own.tokenize(PROMPT)?;
        let layers = own.layers();
        let pieces = Pieces::write(model, folder)?;
        let mut contestants = vec![
            Contestant::new("llama.cpp", By::Whole(Box::new(own)), self),
            Contestant::new("llama.cpp, as a stage computes", By::Whole(Box::new(same)), self),
        ];
        for rows in &self.step_rows {
            let stages = Pipeline::load(runtime, &pieces, device, &[layers], *rows)?;
            let name = format!("one stage, {rows} rows");
            contestants.push(Contestant::new(name, By::Stages(Box::new(stages)), self));
        }
        let stages = Pipeline::load(runtime, &pieces, device, &[layers / 2, layers], STRICT_STEP_ROWS)?;
        let name = format!("two stages in turn, {STRICT_STEP_ROWS} rows");
        contestants.push(Contestant::new(name, By::Stages(Box::new(stages)), self));
        for _ in 0..self.rounds {
            for contestant in &mut contestants {
                contestant.run(&prompt, self)?;
            }
        }
        let shown: Vec<Value> = contestants
            .iter()
            .map(|each| each.shown(&contestants[0], self))
            .collect();
        let overheads = contestants.iter().filter_map(|each| match &each.by {
            By::Stages(stages) => Some(json!({"name": each.name, "per_token_us": stages.overheads_us()})),
            By::Whole(_) => None,
        });
        Ok(json!({
            "device": format!("{device:?}"),
            "sequences": SEQUENCES,
            "prefill_tokens": self.prefills,
            "contestants": shown,
            "outside_the_stages": overheads.collect::<Vec<_>>(),
        }))
    }
}

/// What this thread has had of the processor.
fn processor_time() -> Outcome<Duration> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = stat.split(' ').next().ok_or("schedstat is empty")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}
