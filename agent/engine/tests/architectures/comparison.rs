//! One model, whole and in slices.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use engine::reference::{WholeConfig, WholeModel};
use engine::sample::greedy;
use engine::{Device, Embedding, KvType, Row, Runtime, STRICT_STEP_ROWS, Stage, StageConfig, StepInput};
use gguf::{Gguf, pieces, prepare_slice, write_piece};
use modelgen::Recipe;

/// Positions of the only sequence: all within 512 cells, up to which one row and many rows go through the same
/// attention kernel.
const CONTEXT_LENGTH: u32 = 128;

/// Longer than any model's sliding window here.
const PROMPT_TOKENS: usize = 40;

/// Greedy tokens compared.
const ANSWER_TOKENS: usize = 25;

/// Which cuts into two slices are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cuts {
    /// All that are allowed.
    Every,
    /// The first, the last, and some between them.
    Spread,
}

impl Cuts {
    fn of(self, allowed: &[u32]) -> Vec<u32> {
        let spread = |place: usize| place == 0 || place + 1 == allowed.len() || place % 11 == 5;
        let chosen = allowed.iter().enumerate();
        chosen
            .filter(|(place, _)| self == Self::Every || spread(*place))
            .map(|(_, cut)| *cut)
            .collect()
    }
}

fn cpu() -> Device {
    Device::Cpu { threads: 1 }
}

/// What the whole model says: its tokens after the prompt, and the logits of every position but the last token's.
struct Expected {
    prompt: Vec<i32>,
    answer: Vec<i32>,
    logits: Vec<Vec<f32>>,
}

impl Expected {
    fn of(runtime: &Runtime, file: &Path, recipe: &Recipe) -> Self {
        let config = WholeConfig::like_a_stage(cpu(), CONTEXT_LENGTH);
        let mut whole = WholeModel::load(runtime, file, &config).unwrap();
        let prompt: Vec<i32> = (0..PROMPT_TOKENS as u32)
            .map(|place| ((place * place * 31 + place * 7 + 5) % recipe.vocabulary) as i32)
            .collect();
        let answer = whole.greedy(&prompt, ANSWER_TOKENS).unwrap().tokens;
        let mut logits = Vec::new();
        let all: Vec<i32> = prompt.iter().chain(&answer[..ANSWER_TOKENS - 1]).copied().collect();
        whole.teacher_forced(&all, |_, row| logits.push(row.to_vec())).unwrap();
        let finite = logits.iter().flatten().all(|value| value.is_finite());
        assert!(finite, "the whole model's own logits are not numbers");
        let choices: BTreeSet<i32> = logits.iter().map(|row| greedy(row)).collect();
        assert!(choices.len() > 1, "a model that chooses among {choices:?} shows little");
        Self { prompt, answer, logits }
    }
}

/// A folder in memory, where there is such a place: headers are written and synced for each cut.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    folder.unwrap()
}

/// A recipe's model as pieces, and what it says when it is whole.
fn prepare(runtime: &Runtime, folder: &Path, recipe: &Recipe) -> (Sliced, Expected) {
    let file = folder.join("whole.gguf");
    recipe.write(&file).unwrap();
    let expected = Expected::of(runtime, &file, recipe);
    (Sliced::write(folder, &file, recipe.layers), expected)
}

/// Fails where any tried cut of the recipe's model gives other numbers than the whole.
pub fn compare(recipe: &Recipe, cuts: Cuts) {
    let folder = folder();
    let runtime = Runtime::load_for(None, &cpu()).unwrap();
    let (model, expected) = prepare(&runtime, folder.path(), recipe);
    let allowed = pieces(&model.gguf).unwrap().allowed_cuts();
    assert!(!allowed.is_empty());
    let tried = cuts.of(&allowed);
    let thirds = [allowed[allowed.len() / 3], allowed[allowed.len() * 2 / 3]];
    let all = tried.iter().map(std::slice::from_ref);
    for cuts in all.chain([&[][..], &thirds]) {
        let difference = model.difference(&runtime, cuts, &expected, |_| {});
        assert_eq!(difference, None, "cut at {cuts:?}");
    }
    println!(
        "{} of {} layers: {} of {} cuts, and {thirds:?}: {} logits rows equal bit for bit",
        recipe.architecture(),
        recipe.layers,
        tried.len(),
        allowed.len(),
        expected.logits.len()
    );
}

/// Fails where it goes unnoticed that the slices behind the head say something else for `key`.
pub fn notice(recipe: &Recipe, cut: u32, key: &str) {
    let folder = folder();
    let runtime = Runtime::load_for(None, &cpu()).unwrap();
    let (model, expected) = prepare(&runtime, folder.path(), recipe);
    assert_eq!(model.difference(&runtime, &[cut], &expected, |_| {}), None);
    let difference = model.difference(&runtime, &[cut], &expected, |header| spoil(header, key));
    assert!(difference.is_some(), "{key} may say what it likes");
}

/// Changes the value of `key`: a 32-bit float to 1.5, an array of truth values in its first one.
fn spoil(header: &Path, key: &str) {
    const FLOAT: u32 = 6;
    let mut bytes = std::fs::read(header).unwrap();
    let place = bytes.windows(key.len()).position(|window| window == key.as_bytes());
    let kind = place.unwrap() + key.len();
    let value = kind + 4;
    if bytes[kind..value] == FLOAT.to_le_bytes() {
        bytes[value..value + 4].copy_from_slice(&1.5f32.to_le_bytes());
    } else {
        // Behind the elements' type and their number.
        bytes[value + 12] ^= 1;
    }
    std::fs::write(header, bytes).unwrap();
}

/// A model's pieces, ready to be made into slices.
struct Sliced {
    folder: PathBuf,
    gguf: Gguf,
    layers: u32,
}

impl Sliced {
    fn write(folder: &Path, file: &Path, layers: u32) -> Self {
        let gguf = Gguf::open(file).unwrap();
        let mut source = File::open(file).unwrap();
        let all = pieces(&gguf).unwrap();
        assert_eq!(all.whole_because(), None);
        for piece in all.all() {
            let path = folder.join(piece.file_name());
            write_piece(&mut source, &all, piece, &path).unwrap();
        }
        drop(all);
        Self {
            folder: folder.to_owned(),
            gguf,
            layers,
        }
    }

    /// Where the slices' numbers differ from the whole's; `alter` may change the headers of all slices but the first.
    fn difference(
        &self,
        runtime: &Runtime,
        cuts: &[u32],
        expected: &Expected,
        alter: impl Fn(&Path),
    ) -> Option<String> {
        let mut pipeline = self.pipeline(runtime, cuts, alter);
        let mut tokens = expected.prompt.clone();
        let mut position = 0;
        for (place, answer) in expected.answer.iter().enumerate() {
            let rows = pipeline.feed(&tokens);
            for row in &rows {
                if *row != expected.logits[position] {
                    return Some(format!("logits at position {position}"));
                }
                position += 1;
            }
            let token = greedy(rows.last().unwrap());
            if token != *answer {
                return Some(format!("token {place}"));
            }
            tokens = vec![token];
        }
        None
    }

    fn pipeline(&self, runtime: &Runtime, cuts: &[u32], alter: impl Fn(&Path)) -> Pipeline {
        let mut first = 0;
        let mut embedding = None;
        let mut stages = Vec::new();
        for end in cuts.iter().copied().chain([self.layers]) {
            let files = prepare_slice(&self.folder, &self.gguf, first, end).unwrap();
            embedding = embedding.or(files.embedding.clone());
            if first > 0 {
                alter(&files.header);
            }
            let config = StageConfig {
                slice_files: files.splits(),
                device: cpu(),
                context_length: CONTEXT_LENGTH,
                parallel_sequences: 1,
                prefix_sequences: 0,
                kv_cells: 0,
                kv_type: KvType::F16,
                max_step_rows: STRICT_STEP_ROWS,
                strict: true,
                first: first == 0,
                last: end == self.layers,
                first_layer: first,
                end_layer: end,
            };
            stages.push(Stage::load(runtime, &config).unwrap());
            first = end;
        }
        let embedding = Embedding::open(&embedding.unwrap()).unwrap();
        Pipeline { embedding, stages }
    }
}

struct Pipeline {
    embedding: Embedding,
    stages: Vec<Stage>,
}

impl Pipeline {
    /// Appends tokens to the only sequence; the logits of each.
    fn feed(&mut self, tokens: &[i32]) -> Vec<Vec<f32>> {
        let first = self.stages[0].sequence_length(0);
        let rows: Vec<Row> = (first..)
            .zip(tokens)
            .map(|(position, token)| Row {
                sequence: 0,
                position,
                token: *token,
            })
            .collect();
        let wants = vec![true; rows.len()];
        let mut activations = self.embedding.rows(tokens).unwrap();
        let mut logits = Vec::new();
        for stage in &mut self.stages {
            let input = StepInput {
                rows: &rows,
                activations: &activations,
                wants: &wants,
            };
            let output = stage.step(&input).unwrap();
            activations = output.activations;
            logits = output.logits.rows().map(<[f32]>::to_vec).collect();
        }
        logits
    }
}
