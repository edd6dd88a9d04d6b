//! What the exact core decides: which units, in which order, with which cuts.

/// Units are one bit each in a machine word.
pub const MAX_UNITS: usize = 64;

/// Positions are counted in 16 bits.
const MAX_LAYERS: usize = 60_000;

/// A time that is never reached; as the cost of a way it forbids the way. Two of them still add up without overflow.
pub const NEVER_NS: u64 = 1 << 62;

/// All times of a problem together stay below this, so that no sum of them, priced or not, comes near [`NEVER_NS`].
pub(crate) const MAX_TOTAL_NS: u64 = 1 << 56;

/// Something that can hold one stage: a device, or a group of devices that work as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Time of the layers before each layer, the total last: a span's time is a difference.
    pub elapsed_ns: Vec<u64>,
    /// For each first layer the largest end of a stage that fits; the first layer itself where none fits.
    /// It never falls from one layer to the next: a stage that begins later holds less.
    pub reach: Vec<usize>,
    /// For each first layer the smallest end that is allowed; past the reach where a stage would be too small. It never falls either.
    pub earliest: Vec<usize>,
    /// Time of any stage besides its layers.
    pub launch_ns: u64,
    /// Time of the output in the last stage.
    pub head_ns: u64,
    /// From the source to a first stage, and from a last stage to the sink. Not part of the stage's own time.
    pub entry_ns: u64,
    pub exit_ns: u64,
    /// Units that may not take part beside this one, one bit each; saying it on one side is enough.
    pub excludes: u64,
}

impl Unit {
    /// A unit of equal layers that holds `capacity` of them wherever its stage begins.
    pub fn uniform(layers: usize, layer_ns: u64, capacity: usize) -> Self {
        Self {
            elapsed_ns: (0_u64..).map(|l| l * layer_ns).take(layers + 1).collect(),
            reach: (0..layers).map(|first| (first + capacity).min(layers)).collect(),
            earliest: (1..=layers).collect(),
            launch_ns: 0,
            head_ns: 0,
            entry_ns: 0,
            exit_ns: 0,
            excludes: 0,
        }
    }
}

/// One placement question, free of devices, bytes and names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub layers: usize,
    pub units: Vec<Unit>,
    /// Cost of one token's way from unit to unit, by row and column; [`NEVER_NS`] where there is none.
    pub way_ns: Vec<Vec<u64>>,
    /// The part of it that keeps the link busy.
    pub carry_ns: Vec<Vec<u64>>,
    /// Layers before which the stages may be cut, in ascending order. The ends need not be named.
    pub cuts: Vec<usize>,
    pub min_stages: usize,
    pub max_stages: usize,
    /// Of the units of each of these sets, at least one takes part.
    pub needed: Vec<u64>,
    /// A plan on exactly these units does not count, nor need one on units that they can be exchanged for.
    pub forbidden: Option<u64>,
    /// Only plans that cost less are of interest: without one the answer is [`super::Answer::Infeasible`]. [`NEVER_NS`]: all are.
    pub below_ns: u64,
}

/// What to minimise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// Entry, stages, ways and exit together, where no stage and no link is busy for longer than the cap.
    Sum { cap_ns: u64 },
    /// The stage or the link that is busy longest.
    Bottleneck,
    /// Nothing: any plan will do. Its cost is the sum.
    Any,
}

impl Objective {
    /// The sum without a cap.
    pub const LATENCY: Self = Self::Sum { cap_ns: NEVER_NS };
}

/// Why a problem is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{units} units are more than {MAX_UNITS}")]
    TooManyUnits { units: usize },
    #[error("a table's length does not match the number of units or layers")]
    Shape,
    #[error("unit {unit} has times or reaches that fall from one layer to the next, or a reach outside the layers")]
    NotMonotone { unit: usize },
    #[error("cuts are not in ascending order or lie outside the layers")]
    Cuts,
    #[error("the times or the layers exceed what sums can hold")]
    TooLarge,
}

impl Problem {
    /// Whether the tables have the promised form.
    pub fn validate(&self) -> Result<(), Refused> {
        let n = self.units.len();
        if n > MAX_UNITS {
            return Err(Refused::TooManyUnits { units: n });
        }
        if self.layers > MAX_LAYERS {
            return Err(Refused::TooLarge);
        }
        let is_square = |table: &Vec<Vec<u64>>| table.len() == n && table.iter().all(|row| row.len() == n);
        let is_long = |u: &Unit| {
            let is_long = |table: &Vec<usize>| table.len() == self.layers;
            u.elapsed_ns.len() == self.layers + 1 && is_long(&u.reach) && is_long(&u.earliest)
        };
        if !is_square(&self.way_ns) || !is_square(&self.carry_ns) || !self.units.iter().all(is_long) {
            return Err(Refused::Shape);
        }
        for (unit, u) in self.units.iter().enumerate() {
            let in_range = u
                .reach
                .iter()
                .enumerate()
                .all(|(a, end)| (a..=self.layers).contains(end));
            let later = u.earliest.iter().enumerate().all(|(a, end)| *end > a);
            let rises = u.reach.is_sorted() && u.earliest.is_sorted() && u.elapsed_ns.is_sorted();
            if !in_range || !later || !rises {
                return Err(Refused::NotMonotone { unit });
            }
        }
        let inside = self.cuts.iter().all(|cut| *cut <= self.layers);
        if !inside || !self.cuts.windows(2).all(|pair| pair[0] < pair[1]) {
            return Err(Refused::Cuts);
        }
        self.total_ns()
            .filter(|total_ns| *total_ns < MAX_TOTAL_NS)
            .map(|_| ())
            .ok_or(Refused::TooLarge)
    }

    /// More than any plan can cost.
    fn total_ns(&self) -> Option<u64> {
        let own_ns = |u: &Unit| {
            let last_ns = *u.elapsed_ns.last()?;
            [last_ns, u.launch_ns, u.head_ns, u.entry_ns, u.exit_ns]
                .into_iter()
                .try_fold(0_u64, u64::checked_add)
        };
        let mut total_ns = 0_u64;
        for (unit, row) in self.units.iter().zip(&self.way_ns) {
            let longest_ns = row.iter().copied().filter(|ns| *ns < NEVER_NS).max();
            total_ns = total_ns
                .checked_add(own_ns(unit)?)?
                .checked_add(longest_ns.unwrap_or(0))?;
        }
        Some(total_ns)
    }
}
