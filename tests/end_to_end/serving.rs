//! A model that serves, what it says without a fault, and which processes serve it.

use std::collections::BTreeMap;

use localplane::stack::Part;

use super::{Answer, Here, LIMIT, PROMPTS, Seen, Story, installation, stages, strict_over_two, until};

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
        Self::on(installation(&vec!["cpu"; nodes]).await).await
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
        assert_eq!((&answer.error, &answer.text), (&None, &self.undisturbed));
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

    /// The workers of every node that has some. A node without a stage may measure with one how fast it is.
    fn all_workers(&self) -> BTreeMap<String, Vec<u32>> {
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
        let look = || -> localplane::Result<Seen<String>> {
            let log = self.here.stack.log(&Part::Operator(0))?;
            let says = |line: &str| words.iter().all(|word| line.contains(word));
            Ok(match log.lines().any(says) {
                true => Seen::Done(log),
                false => Seen::Not(log.lines().last().unwrap_or_default().to_owned()),
            })
        };
        let what = format!("the operator says {words:?}");
        until(&what, LIMIT, || std::future::ready(look())).await.expect("said")
    }

    /// A metric of the operator, by the name and labels that it is served with.
    pub(super) async fn operator_counts(&self, metric: &str) -> f64 {
        let url = self.here.stack.metrics_url(&Part::Operator(0)).expect("a URL");
        let text = self.here.chat().get(&url).await.expect("metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(metric));
        line.map_or(0.0, |value| value.trim().parse().expect("a number"))
    }
}
