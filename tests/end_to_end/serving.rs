//! A model that serves, what it says without a fault, and which processes serve it.

use std::collections::BTreeMap;
use std::time::Instant;

use localplane::stack::Part;

use super::{Answer, Here, LIMIT, PROMPTS, Seen, Shape, Story, installed, shape, stages, strict_over_two, until};

/// Operators that lead, the agents and gateways that they hear of, and the agents and gateways that hear of an operator.
const HEARD: [&str; 5] = [
    "shardwright_operator_leader",
    "shardwright_operator_agents_attached",
    "shardwright_operator_gateways_watching",
    "shardwright_agent_attached",
    "shardwright_gateway_operator_connected",
];

/// Model `m` in two stages.
pub(super) struct Serving {
    pub(super) here: Here,
    pub(super) head: String,
    pub(super) tail: String,
    pub(super) epoch: i64,
    undisturbed: String,
}

impl Serving {
    /// On two of so many nodes.
    pub(super) async fn start(nodes: usize) -> Self {
        Self::start_with(nodes, 1).await
    }

    /// The same, with so many replicas of the operator.
    pub(super) async fn start_with(nodes: usize, operators: usize) -> Self {
        let one = shape(&vec!["cpu"; nodes]);
        Self::on(installed(&Shape { operators, ..one }).await).await
    }

    pub(super) async fn on(mut here: Here) -> Self {
        here.apply("m", &strict_over_two());
        let model = here.ready("m").await;
        let node = |stage: usize| stages(&model)[stage]["node"].as_str().expect("a node").to_owned();
        let (head, tail) = (node(0), node(1));
        let epoch = model["status"]["placement"]["epoch"].as_i64().expect("an epoch");
        let (undisturbed, _) = Story::begin(&here.chat()).end().await;
        assert_eq!(undisturbed.error, None);
        Self {
            here,
            head,
            tail,
            epoch,
            undisturbed: undisturbed.text,
        }
    }

    /// A story that is under way.
    pub(super) async fn story(&self) -> Story {
        let mut story = Story::begin(&self.here.chat());
        story.under_way().await;
        story
    }

    /// A story that comes to its end, and says what it says without a fault.
    pub(super) async fn expect(&self, story: Story) {
        let (answer, pause) = story.end().await;
        println!("the longest time between two tokens was {pause:?}");
        self.expect_answer(&answer);
    }

    /// An answer that says what it says without a fault.
    pub(super) fn expect_answer(&self, answer: &Answer) {
        assert_eq!((&answer.error, &answer.text), (&None, &self.undisturbed));
    }

    /// One story after the other until then, and one at least.
    pub(super) async fn tells_stories_until(&self, then: Instant) {
        loop {
            self.expect(self.story().await).await;
            if Instant::now() >= then {
                return;
            }
        }
    }

    /// A story that ended early says the beginning of what it says without a fault.
    pub(super) fn expect_beginning(&self, answer: &Answer) {
        assert!(
            self.undisturbed.starts_with(&answer.text),
            "{:?} is no beginning of {:?}",
            answer.text,
            self.undisturbed
        );
    }

    pub(super) async fn answers(&self) {
        let chat = self.here.chat();
        let answer = chat.stream("m", PROMPTS[0], 32, &mut |_| {}).await;
        let answer = answer.expect("an answer");
        assert!(answer.text.contains("Paris"), "{}", answer.text);
    }

    /// The workers of the nodes with the stages, the head's first.
    pub(super) fn workers(&self) -> [Vec<u32>; 2] {
        [&self.head, &self.tail].map(|node| self.here.stack.workers(node))
    }

    /// These processes serve on. Their nodes may have others beside them, of another model.
    pub(super) fn serve_on(&self, workers: &[Vec<u32>; 2]) {
        let now = self.workers();
        let all = now
            .iter()
            .zip(workers)
            .all(|(now, before)| before.iter().all(|id| now.contains(id)));
        assert!(all, "{now:?} after {workers:?}");
    }

    /// The workers of every node that has some. A node without a stage may measure with one how fast it is.
    pub(super) fn all_workers(&self) -> BTreeMap<String, Vec<u32>> {
        let parts = self.here.stack.parts();
        let of = |part: Part| match part {
            Part::Agent(node) => {
                let workers = self.here.stack.workers(&node);
                Some((node, workers))
            }
            _ => None,
        };
        let all = parts.into_iter().filter_map(of);
        all.filter(|(_, workers)| !workers.is_empty()).collect()
    }

    /// Waits until these nodes have one worker each, and no other has any.
    pub(super) async fn has_workers_on(&self, nodes: &[&str]) {
        let mut wanted: Vec<(&str, usize)> = nodes.iter().map(|node| (*node, 1)).collect();
        wanted.sort_unstable();
        let look = || -> localplane::Result<Seen<()>> {
            let workers = self.all_workers();
            let found: Vec<(&str, usize)> = workers.iter().map(|(node, ids)| (node.as_str(), ids.len())).collect();
            Ok(if found == wanted {
                Seen::Done(())
            } else {
                Seen::Not(format!("{found:?}"))
            })
        };
        let what = format!("workers are on {nodes:?} alone");
        until(&what, LIMIT, || std::future::ready(look()))
            .await
            .expect("workers");
    }

    /// The operator's log, once it says all of this in one line.
    pub(super) async fn operator_says(&self, words: &[&str]) -> String {
        self.says(&Part::Operator(0), words).await
    }

    /// The same of any part.
    pub(super) async fn says(&self, part: &Part, words: &[&str]) -> String {
        let look = || -> localplane::Result<Seen<String>> {
            let log = self.here.stack.log(part)?;
            let says = |line: &str| words.iter().all(|word| line.contains(word));
            Ok(match log.lines().any(says) {
                true => Seen::Done(log),
                false => Seen::Not(log.lines().last().unwrap_or_default().to_owned()),
            })
        };
        let what = format!("{part} says {words:?}");
        until(&what, LIMIT, || std::future::ready(look())).await.expect("said")
    }

    /// A metric of the operator, by the name and labels that it is served with.
    pub(super) async fn operator_counts(&self, metric: &str) -> f64 {
        let metrics = self.here.stack.metrics(&Part::Operator(0)).await;
        metrics.expect("metrics").value(metric)
    }

    /// Who leads and who hears of whom: the sums of [`HEARD`] over all parts.
    async fn heard(&self) -> localplane::Result<[f64; HEARD.len()]> {
        let mut sums = [0.0; HEARD.len()];
        for part in self.here.stack.parts() {
            let metrics = self.here.stack.metrics(&part).await?;
            for (sum, name) in sums.iter_mut().zip(HEARD) {
                *sum += metrics.value(name);
            }
        }
        Ok(sums)
    }

    async fn are_heard(&self, wanted: [f64; HEARD.len()]) {
        let look = async || -> localplane::Result<Seen<()>> {
            Ok(match self.heard().await {
                Ok(heard) if heard == wanted => Seen::Done(()),
                Ok(heard) => Seen::Not(format!("{heard:?}")),
                // A part that has just begun has no certificate yet.
                Err(error) => Seen::Not(error.to_string()),
            })
        };
        let what = format!("{HEARD:?} are {wanted:?}");
        until(&what, LIMIT, look).await.expect("heard");
    }

    /// Waits until one operator leads, and everybody hears of everybody.
    pub(super) async fn everybody_is_heard(&self) {
        let parts = self.here.stack.parts();
        let count = |wanted: fn(&Part) -> bool| parts.iter().filter(|part| wanted(part)).count() as f64;
        let agents = count(|part| matches!(part, Part::Agent(_)));
        let gateways = count(|part| matches!(part, Part::Gateway(_)));
        self.are_heard([1.0, agents, gateways, agents, gateways]).await;
    }

    /// Waits until no operator leads, and nobody hears of anybody.
    pub(super) async fn nobody_is_heard(&self) {
        self.are_heard([0.0; HEARD.len()]).await;
    }
}
