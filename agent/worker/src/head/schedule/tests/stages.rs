//! The stages as the contract describes them: slots with positions, cells under them, and steps in order. They know nothing else,
//! and panic at whatever a stage would refuse.

use std::collections::BTreeSet;

use super::*;

/// The token that the simulated model goes on with: a function of all tokens before it, and mostly that of three before.
pub(super) fn next_token(tokens: &[i32]) -> i32 {
    if let [.., again, _, _] = tokens
        && !tokens.len().is_multiple_of(11)
    {
        return *again;
    }
    let mixed = tokens.iter().fold(17u32, |sum, token| {
        sum.wrapping_mul(1_000_003).wrapping_add(token.unsigned_abs())
    });
    (mixed >> 8) as i32 % 500
}

/// Positions of a slot: their tokens, and the cells that hold them.
#[derive(Clone, Default)]
struct Held {
    tokens: Vec<i32>,
    cells: Vec<u64>,
    /// A rollback left it in a state that depends on the stage: it must be forgotten before anything else is done with it.
    torn: bool,
}

struct Stage {
    slots: Vec<Held>,
    next: u64,
    next_cell: u64,
    /// Executed and not answered.
    executed: VecDeque<Step>,
    /// Answers to these.
    answers: VecDeque<Vec<Sampled>>,
}

/// A pipeline of several stages, each as far as it is.
pub(super) struct Stages {
    limits: Limits,
    stages: Vec<Stage>,
    /// Composed and not answered, oldest first.
    steps: VecDeque<Step>,
}

impl Stages {
    pub(super) fn new(count: usize, limits: Limits) -> Self {
        let stage = || Stage {
            slots: vec![Held::default(); limits.slots()],
            next: 1,
            next_cell: 0,
            executed: VecDeque::new(),
            answers: VecDeque::new(),
        };
        Self {
            limits,
            stages: (0..count).map(|_| stage()).collect(),
            steps: VecDeque::new(),
        }
    }

    pub(super) fn submit(&mut self, step: Step) {
        let follows = self.steps.back().map_or(self.stages[0].next, |last| last.number + 1);
        assert_eq!(step.number, follows, "numbers count up by one");
        self.steps.push_back(step);
    }

    /// The step that a stage executes next, if the stage before it has.
    fn due(&self, stage: usize) -> Option<&Step> {
        let next = self.stages[stage].next;
        let arrived = stage == 0 || self.stages[stage - 1].next > next;
        self.steps.iter().find(|step| arrived && step.number == next)
    }

    /// Has a stage execute its next step; whether there was one.
    pub(super) fn advance(&mut self, stage: usize) -> bool {
        let Some(step) = self.due(stage).cloned() else {
            return false;
        };
        let limits = self.limits;
        self.stages[stage].execute(step, &limits);
        true
    }

    /// The oldest step and what was sampled in it, once it is through.
    pub(super) fn answered(&mut self) -> Option<(u64, Vec<Sampled>)> {
        let answer = self.stages.last_mut()?.answers.pop_front()?;
        for stage in &mut self.stages {
            stage.executed.pop_front();
        }
        let step = self.steps.pop_front()?;
        Some((step.number, answer))
    }

    /// A stage fails in the oldest step, if it has not executed it: all stages roll back to before it. The number of that step.
    pub(super) fn fail(&mut self, stage: usize) -> Option<u64> {
        let number = self.steps.front()?.number;
        if self.stages[stage].next != number || self.due(stage).is_none() {
            return None;
        }
        // What it does before the rows may have been done where it failed.
        let failed = self.steps.front()?.clone();
        self.stages[stage].tear(&failed);
        for stage in &mut self.stages {
            stage.roll_back(number);
        }
        self.steps.clear();
        Some(number)
    }

    /// Positions held in the slots of sequences.
    pub(super) fn held(&self) -> usize {
        let parallel = self.limits.parallel_sequences as usize;
        let slots = self.stages.iter().flat_map(|stage| &stage.slots[..parallel]);
        slots.map(|held| held.tokens.len()).sum()
    }
}

impl Stage {
    fn execute(&mut self, step: Step, limits: &Limits) {
        assert!(step.rows.len() <= limits.max_step_rows as usize);
        assert!(step.operations.len() <= crate::step::MAX_OPERATIONS_PER_SLOT * limits.slots());
        for operation in &step.operations {
            self.operate(operation);
        }
        let mut answer = Vec::new();
        for row in &step.rows {
            assert!(row.sequence < limits.parallel_sequences && row.position < limits.context_length);
            let held = &mut self.slots[row.sequence as usize];
            assert!(!held.torn, "rows after what is torn");
            assert_eq!(held.tokens.len() as u32, row.position, "positions follow without a gap");
            held.tokens.push(row.token);
            held.cells.push(self.next_cell);
            self.next_cell += 1;
            if row.sample.is_some() {
                answer.push(Sampled {
                    sequence: row.sequence,
                    position: row.position + 1,
                    token: next_token(&held.tokens),
                });
            }
        }
        let filled: BTreeSet<u64> = self.slots.iter().flat_map(|held| held.cells.iter().copied()).collect();
        assert!(filled.len() as u64 <= limits.cells(), "more cells than there are");
        self.next = step.number + 1;
        self.executed.push_back(step);
        self.answers.push_back(answer);
    }

    fn operate(&mut self, operation: &KvOperation) {
        match *operation {
            KvOperation::Remove(removal) => {
                assert_eq!(removal.end, None);
                let held = &mut self.slots[removal.sequence as usize];
                if removal.from == 0 {
                    *held = Held::default();
                }
                assert!(!held.torn, "what is torn is forgotten whole");
                assert!(removal.from as usize <= held.tokens.len(), "what is kept is held");
                held.tokens.truncate(removal.from as usize);
                held.cells.truncate(removal.from as usize);
            }
            KvOperation::Copy(PrefixCopy { from, to, end }) => {
                let source = &self.slots[from as usize];
                assert!(!source.torn, "what is torn is not shared");
                assert!(
                    (1..=source.tokens.len()).contains(&(end as usize)),
                    "the prefix is held"
                );
                let shared = Held {
                    tokens: source.tokens[..end as usize].to_vec(),
                    cells: source.cells[..end as usize].to_vec(),
                    torn: false,
                };
                let target = &mut self.slots[to as usize];
                assert!(
                    target.tokens.is_empty() && !target.torn,
                    "a prefix is given to an empty slot"
                );
                *target = shared;
            }
        }
    }

    /// Nobody can say what the slots hold that a void step's operations changed; one that cut a sequence back has, or has not.
    fn tear(&mut self, step: &Step) {
        for operation in &step.operations {
            let slot = match operation {
                KvOperation::Remove(removal) if removal.from > 0 => continue,
                KvOperation::Remove(removal) => removal.sequence,
                KvOperation::Copy(copy) => copy.to,
            };
            self.slots[slot as usize].torn = true;
        }
    }

    fn roll_back(&mut self, number: u64) {
        while let Some(step) = self.executed.pop_back_if(|step| step.number >= number) {
            self.answers.pop_back();
            for row in &step.rows {
                let held = &mut self.slots[row.sequence as usize];
                held.tokens.truncate(row.position as usize);
                held.cells.truncate(row.position as usize);
            }
            self.tear(&step);
        }
        self.next = self.next.min(number);
    }
}
