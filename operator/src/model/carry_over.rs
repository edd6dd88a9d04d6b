//! PURE: pipelines that a new placement leaves as they are go on undisturbed, in the epoch in which they first stood.

use proto::placement::v1::{Pipeline, Placement};

/// Gives every pipeline of `new` that stood in `previous` exactly so the epoch that it has there. The others keep theirs.
///
/// None is carried over where anything differs that all pipelines depend on: the weights, the runtime, or who is denied
/// (streams of somebody who is denied from now on have to end).
pub fn carry_over(previous: &Placement, new: &mut Placement) {
    let alike = previous.model_uid == new.model_uid
        && previous.source == new.source
        && previous.runtime == new.runtime
        && previous.denied == new.denied
        && previous.epoch <= new.epoch;
    if !alike {
        return;
    }
    for pipeline in &mut new.pipelines {
        let stood = |known: &&Pipeline| known.stages == pipeline.stages;
        if let Some(known) = previous.pipelines.iter().find(stood) {
            pipeline.epoch = known.epoch_in(previous);
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::placement::v1::{Runtime, Source, Stage};

    use super::*;

    fn pipeline(nodes: &[&str], epoch: u64) -> Pipeline {
        let stage = |node: &&str| Stage {
            node: node.to_string(),
            device: format!("{node}-cpu0"),
            memory_budget_bytes: 7,
            ..Stage::default()
        };
        Pipeline {
            stages: nodes.iter().map(stage).collect(),
            epoch,
        }
    }

    fn placement(epoch: u64, pipelines: Vec<Pipeline>) -> Placement {
        Placement {
            epoch,
            model_uid: "uid".into(),
            source: Some(Source::default()),
            runtime: Some(Runtime::default()),
            pipelines,
            ..Placement::default()
        }
    }

    fn carried(previous: &Placement, mut new: Placement) -> Vec<u64> {
        carry_over(previous, &mut new);
        new.pipelines.iter().map(|pipeline| pipeline.epoch).collect()
    }

    #[test]
    fn a_pipeline_that_stays_as_it_is_keeps_its_epoch_wherever_it_stands() {
        let previous = placement(4, vec![pipeline(&["a", "b"], 2), pipeline(&["c"], 4)]);
        let new = placement(
            5,
            vec![pipeline(&["c"], 5), pipeline(&["a", "d"], 5), pipeline(&["a", "b"], 5)],
        );
        assert_eq!(carried(&previous, new), [4, 5, 2]);
    }

    #[test]
    fn a_pipeline_without_an_epoch_stood_in_that_of_its_placement() {
        let previous = placement(4, vec![pipeline(&["a"], 0)]);
        assert_eq!(carried(&previous, placement(6, vec![pipeline(&["a"], 6)])), [4]);
    }

    #[test]
    fn another_device_other_layers_or_another_budget_make_another_pipeline() {
        let previous = placement(4, vec![pipeline(&["a", "b"], 4)]);
        let changes: [fn(&mut Stage); 6] = [
            |stage| stage.device.push('1'),
            |stage| stage.backend.push('1'),
            |stage| stage.first_layer += 1,
            |stage| stage.end_layer += 1,
            |stage| stage.weight_root.push(1),
            |stage| stage.memory_budget_bytes += 1,
        ];
        for change in changes {
            let mut new = placement(5, vec![pipeline(&["a", "b"], 5)]);
            change(&mut new.pipelines[0].stages[1]);
            assert_eq!(carried(&previous, new), [5]);
        }
    }

    #[test]
    fn nothing_is_carried_over_where_all_pipelines_change() {
        let previous = placement(4, vec![pipeline(&["a"], 4)]);
        let changes: [fn(&mut Placement); 5] = [
            |new| new.model_uid = "other".into(),
            |new| new.source = None,
            |new| new.runtime.as_mut().unwrap().context_length = 9,
            |new| new.denied.push("spiffe://x".into()),
            |new| new.epoch = 3,
        ];
        for change in changes {
            let mut new = placement(5, vec![pipeline(&["a"], 5)]);
            change(&mut new);
            assert_eq!(carried(&previous, new), [5]);
        }
    }
}
