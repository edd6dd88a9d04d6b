//! Random lives of a schedule over stages that advance each at its own pace.

use proptest::prelude::*;

use super::stages::{Stages, next_token};
use super::*;

/// What users, stages and memory may do to the schedule.
#[derive(Clone, Debug)]
enum Act {
    Admit {
        text: i32,
        alike: usize,
        own: usize,
        max_tokens: u32,
        scope: u8,
    },
    Cancel {
        nth: usize,
    },
    Compose,
    Advance {
        stage: usize,
    },
    Answer,
    Fail {
        stage: usize,
    },
    Measured(RoundTrip),
    Relieve(Relief),
}

fn act() -> impl Strategy<Value = Act> {
    let admit = (0i32..3, 0usize..100, 0usize..30, 1u32..20, 0u8..2);
    let admit = admit.prop_map(|(text, alike, own, max_tokens, scope)| Act::Admit {
        text,
        alike,
        own,
        max_tokens,
        scope,
    });
    let relief = prop_oneof![
        2 => Just(Relief::None),
        1 => Just(Relief::SeatNobody),
        1 => Just(Relief::ForgetPrefixes)
    ];
    let row_us = proptest::option::of(0u64..9);
    let measured =
        (1u64..9, 0u64..30, 0u64..3, row_us).prop_map(|(slowest_us, more_us, slower_us, row_us)| RoundTrip {
            round_us: slowest_us + more_us,
            busy_us: slowest_us + more_us / 2,
            slowest_us,
            crowded_us: slowest_us + slower_us,
            prompt_row_us: row_us,
        });
    prop_oneof![
        4 => admit,
        1 => measured.prop_map(Act::Measured),
        1 => (0usize..16).prop_map(|nth| Act::Cancel { nth }),
        12 => Just(Act::Compose),
        20 => (0usize..4).prop_map(|stage| Act::Advance { stage }),
        12 => Just(Act::Answer),
        1 => (0usize..4).prop_map(|stage| Act::Fail { stage }),
        1 => relief.prop_map(Act::Relieve),
    ]
}

/// A schedule, its stages, and what is expected of them.
struct Life {
    schedule: Schedule,
    stages: Stages,
    count: usize,
    limits: Limits,
    steps: Vec<Step>,
    /// Tokens known of each request that has not ended, and how many of them are the prompt.
    open: BTreeMap<RequestId, (Vec<i32>, usize)>,
    next_id: RequestId,
    now_us: u64,
}

impl Life {
    fn new(limits: Limits, count: usize) -> Self {
        Self {
            schedule: Schedule::new(limits, Tuning::new(count as u32, &limits)),
            stages: Stages::new(count, limits),
            count,
            limits,
            steps: Vec::new(),
            open: BTreeMap::new(),
            next_id: 1,
            now_us: 0,
        }
    }

    fn act(&mut self, act: &Act) {
        self.now_us += 1;
        match act {
            Act::Admit { .. } => self.admit(act),
            Act::Cancel { nth } => {
                if let Some(id) = self.open.keys().nth(*nth).copied() {
                    self.schedule.cancel(id);
                    self.open.remove(&id);
                }
            }
            Act::Compose => {
                self.compose();
            }
            Act::Advance { stage } => {
                self.stages.advance(*stage % self.count);
            }
            Act::Answer => {
                self.answer();
            }
            Act::Fail { stage } => self.fail(*stage % self.count),
            Act::Measured(round_trip) => self.schedule.measured(*round_trip),
            Act::Relieve(relief) => self.schedule.relieve(*relief),
        }
        let cells = self.schedule.cells();
        assert!(cells.reserved <= cells.cells, "{cells:?}");
    }

    fn admit(&mut self, act: &Act) {
        let Act::Admit {
            text,
            alike,
            own,
            max_tokens,
            scope,
        } = *act
        else {
            return;
        };
        let (id, first) = (self.next_id, text * 200);
        self.next_id += 1;
        let mut prompt: Vec<i32> = (first..).take(alike).collect();
        prompt.extend((0..own as i32).map(|at| 1000 + id as i32 * 50 + at));
        let length = prompt.len();
        let request = Request {
            prefix_scope: vec![scope],
            ..asking(id, prompt.clone(), max_tokens)
        };
        if self.schedule.admit(request, self.now_us).is_ok() {
            self.open.insert(id, (prompt, length));
        }
    }

    fn compose(&mut self) -> bool {
        let Some(step) = self.schedule.compose(self.now_us) else {
            return false;
        };
        assert!(self.schedule.in_flight() <= MAX_DEPTH);
        self.stages.submit(step.clone());
        self.steps.push(step);
        true
    }

    fn answer(&mut self) -> bool {
        let Some((number, tokens)) = self.stages.answered() else {
            return false;
        };
        let events = self.schedule.complete(number, &tokens).unwrap();
        self.hear(events);
        true
    }

    fn fail(&mut self, stage: usize) {
        let Some(number) = self.stages.fail(stage) else { return };
        match self.schedule.fail(number, &fault(Reason::Compute)) {
            Failure::Isolated(events) => self.hear(events),
            Failure::Broken => {
                for id in self.schedule.abandon() {
                    assert!(self.open.remove(&id).is_some(), "{id} had ended");
                }
                self.stages = Stages::new(self.count, self.limits);
            }
        }
    }

    fn hear(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Token { id, token, position } => {
                    let (tokens, _) = self.open.get_mut(&id).expect("no event after the last");
                    assert_eq!(
                        (tokens.len() as u32, next_token(tokens)),
                        (position, token),
                        "as if it were alone"
                    );
                    tokens.push(token);
                }
                Event::Finished {
                    id,
                    completion_tokens,
                    cached_tokens,
                    ..
                } => {
                    let (tokens, prompt) = self.open.remove(&id).expect("one last event");
                    assert_eq!(tokens.len(), prompt + completion_tokens as usize);
                    assert!((cached_tokens as usize) < prompt);
                }
                Event::Failed { id, .. } | Event::TimedOut { id, .. } => {
                    assert!(self.open.remove(&id).is_some(), "one last event");
                }
            }
        }
    }

    /// Without further disturbance everything comes to its end.
    fn finish(&mut self) {
        self.schedule.relieve(Relief::None);
        for _ in 0..20_000 {
            let mut moved = self.compose();
            for stage in 0..self.count {
                moved |= self.stages.advance(stage);
            }
            moved |= self.answer();
            if !moved {
                break;
            }
        }
        assert!(self.open.is_empty(), "no request starves: {:?}", self.open.keys());
        assert!(self.schedule.is_idle(), "no slot leaks");
        assert_eq!(self.stages.held(), 0, "the stages hold nothing but prefixes");
    }
}

fn live(acts: &[Act], limits: Limits, count: usize) -> Vec<Step> {
    let mut life = Life::new(limits, count);
    for act in acts {
        life.act(act);
    }
    life.finish();
    life.steps
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_step_can_be_executed_cells_suffice_all_tokens_are_right_and_nothing_starves(
        acts in prop::collection::vec(act(), 0..250),
        parallel_sequences in 1u32..5,
        prefix_sequences in 0u32..4,
        max_step_rows in 2u32..40,
        kv_cells in prop_oneof![Just(0u32), 100u32..300],
        count in 1usize..5,
    ) {
        let limits = Limits { parallel_sequences, context_length: 120, max_step_rows, kv_cells, prefix_sequences };
        let steps = live(&acts, limits, count);
        prop_assert_eq!(steps, live(&acts, limits, count), "the same inputs give the same steps");
    }
}
