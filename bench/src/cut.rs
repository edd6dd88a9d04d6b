//! Where to cut a model so that two stages are balanced.
//!
//! The output head costs as much as several layers when it is computed for every row, as in decoding, and nothing in a prefill,
//! where only the last row needs it: no cut balances both.

/// What parts of a model cost in one kind of work; any unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Costs {
    /// One layer.
    pub layer: f64,
    /// What comes after the last layer.
    pub output: f64,
}

impl Costs {
    /// From what two stages took for the same work, cut after layer `cut` of `layers`.
    pub fn from_stages(head: f64, tail: f64, cut: u32, layers: u32) -> Self {
        let layer = head / f64::from(cut);
        Self {
            layer,
            output: (tail - layer * f64::from(layers - cut)).max(0.0),
        }
    }

    /// How many times as fast as one two stages can be at best, when neither waits for the other.
    pub fn ideal(self, layers: u32, cut: u32) -> f64 {
        let head = self.layer * f64::from(cut);
        let tail = self.layer * f64::from(layers - cut) + self.output;
        (head + tail) / head.max(tail)
    }
}

/// The cut among `allowed` whose worst ideal over all kinds of work is best; the earliest of equals. `None` without a cut.
pub fn choose(layers: u32, allowed: &[u32], work: &[Costs]) -> Option<u32> {
    let worst = |cut: u32| {
        let ideals = work.iter().map(|costs| costs.ideal(layers, cut));
        ideals.fold(f64::INFINITY, f64::min)
    };
    let better = |best: u32, cut: u32| if worst(cut) > worst(best) { cut } else { best };
    allowed.iter().copied().reduce(better)
}

#[cfg(test)]
mod tests {
    use super::{Costs, choose};

    const PREFILL: Costs = Costs {
        layer: 1.0,
        output: 0.0,
    };

    #[test]
    fn without_an_output_head_the_middle_is_balanced() {
        let allowed: Vec<u32> = (1..30).collect();
        assert_eq!(choose(30, &allowed, &[PREFILL]), Some(15));
        assert_eq!(PREFILL.ideal(30, 15), 2.0);
    }

    #[test]
    fn the_output_head_moves_layers_to_the_first_stage() {
        let decode = Costs {
            layer: 1.0,
            output: 6.0,
        };
        let allowed: Vec<u32> = (1..30).collect();
        assert_eq!(choose(30, &allowed, &[decode]), Some(18));
        // Neither is left far behind.
        let both = choose(30, &allowed, &[decode, PREFILL]);
        assert_eq!(both, Some(16));
    }

    #[test]
    fn only_allowed_cuts_are_chosen() {
        assert_eq!(choose(30, &[4, 20], &[PREFILL]), Some(20));
        assert_eq!(choose(30, &[], &[PREFILL]), None);
    }

    #[test]
    fn costs_follow_from_what_stages_took() {
        let costs = Costs::from_stages(15.0, 21.0, 15, 30);
        assert_eq!(
            costs,
            Costs {
                layer: 1.0,
                output: 6.0
            }
        );
        assert_eq!(Costs::from_stages(15.0, 14.0, 15, 30).output, 0.0);
    }
}
