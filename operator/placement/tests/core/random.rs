//! Small random problems of every kind.

use placement::core::{NEVER_NS, Problem, Unit};

/// Numbers that look random and are the same in every run (xorshift64*).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number from `from` to `to`, both included.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        from + (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % (to - from + 1)
    }

    pub fn index(&mut self, from: usize, to: usize) -> usize {
        usize::try_from(self.between(from as u64, to as u64)).expect("a small number")
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.between(1, n) == 1
    }
}

/// Up to six units and ten layers; memory by bytes, with more for the first and the last stage.
pub fn problem(dice: &mut Dice) -> Problem {
    let (n, layers) = (dice.index(1, 6), dice.index(1, 10));
    let alike = dice.one_in(2);
    let layer_bytes: Vec<u64> = (0..layers)
        .map(|_| if alike { 4 } else { dice.between(1, 8) })
        .collect();
    let layer_work: Vec<u64> = (0..layers)
        .map(|_| if alike { 3 } else { dice.between(0, 9) })
        .collect();
    let (front_bytes, back_bytes) = (dice.between(0, 3) * 2, dice.between(0, 3) * 2);
    let twins = dice.one_in(4);
    let tightness = dice.between(1, 3);
    let mut units: Vec<Unit> = Vec::new();
    for u in 0..n {
        if twins && u > 0 && !dice.one_in(3) {
            units.push(units[u - 1].clone());
            continue;
        }
        let memory = dice.between(2, 4 + 40 / tightness);
        let front_bytes = if dice.one_in(3) { front_bytes } else { 0 };
        units.push(unit(dice, memory, front_bytes, back_bytes, (&layer_bytes, &layer_work)));
    }
    let (way_ns, carry_ns) = links(dice, n, twins);
    let cuts = (1..layers).filter(|_| alike && layers < 8 || !dice.one_in(3)).collect();
    let min_stages = if dice.one_in(4) { dice.index(1, 3) } else { 1 };
    let max_stages = if dice.one_in(4) { dice.index(1, 4) } else { n };
    Problem {
        layers,
        units,
        way_ns,
        carry_ns,
        cuts,
        min_stages,
        max_stages,
        needed: (0..dice.index(0, 6) / 5)
            .map(|_| dice.between(1, (1 << n) - 1))
            .collect(),
        forbidden: (!twins && dice.one_in(5)).then(|| dice.between(1, (1 << n) - 1)),
        below_ns: if dice.one_in(5) { dice.between(1, 200) } else { NEVER_NS },
    }
}

fn unit(dice: &mut Dice, memory: u64, front_bytes: u64, back_bytes: u64, layers: (&[u64], &[u64])) -> Unit {
    let (layer_bytes, layer_work) = layers;
    let count = layer_bytes.len();
    let slowness = dice.between(1, 9);
    let mut elapsed_ns = vec![0];
    for work in layer_work {
        elapsed_ns.push(elapsed_ns[elapsed_ns.len() - 1] + work * slowness);
    }
    let bytes = |first: usize, end: usize| {
        layer_bytes[first..end].iter().sum::<u64>()
            + if first == 0 { front_bytes } else { 0 }
            + if end == count { back_bytes } else { 0 }
    };
    let reach = |first: usize| {
        (first + 1..=count)
            .take_while(|end| bytes(first, *end) <= memory)
            .last()
            .unwrap_or(first)
    };
    Unit {
        elapsed_ns,
        reach: (0..count).map(reach).collect(),
        earliest: earliest(dice, count),
        launch_ns: dice.between(0, 10),
        head_ns: dice.between(0, 20),
        entry_ns: dice.between(0, 30),
        exit_ns: dice.between(0, 30),
        excludes: if dice.one_in(5) { 1 << dice.index(0, 5) } else { 0 },
    }
}

/// Mostly any end; else at least two or three layers.
fn earliest(dice: &mut Dice, layers: usize) -> Vec<usize> {
    let least = if dice.one_in(8) { dice.index(2, 3) } else { 1 };
    (0..layers).map(|first| first + least).collect()
}

/// Racks of near units, or links of any length in each direction, some of them missing.
fn links(dice: &mut Dice, n: usize, twins: bool) -> (Vec<Vec<u64>>, Vec<Vec<u64>>) {
    let racks = dice.one_in(2);
    let mut way_ns = vec![vec![0; n]; n];
    let mut carry_ns = way_ns.clone();
    for from in 0..n {
        for to in 0..n {
            let far = if racks && from / 2 == to / 2 { 5 } else { 60 };
            let ns = if twins { far } else { dice.between(0, far) };
            let missing = !twins && dice.one_in(8);
            way_ns[from][to] = if missing { NEVER_NS } else { ns };
            carry_ns[from][to] = ns / 2;
        }
    }
    (way_ns, carry_ns)
}
