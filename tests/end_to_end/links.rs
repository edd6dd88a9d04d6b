//! Links between nodes that are cut, lose, delay and swallow, while an answer is on its way over them.
//!
//! Each node is a host of its own, behind emulated links; control plane and gateway are on a further one.

use std::time::{Duration, Instant};

use linkemu::line::Quality;
use linkemu::network::{HERE, Network, possible};

use super::{
    Answer, Here, LIMIT, RECOVERY_LIMIT, Seen, Shape, Story, condition_of, installed, nodes, shape, strict_over_two,
    until,
};

/// What makes a link worse, and no reason to leave it: a fifth of the delay is jitter, of a hundred packets two are lost and two come
/// twice.
const POOR: Quality = Quality {
    delay: Duration::from_millis(10),
    jitter: Duration::from_millis(2),
    lost_per_mille: 20,
    overtaking_per_mille: 20,
    repeated_per_mille: 20,
    ..Quality::PERFECT
};
/// IPv6 promises no more, and IPv4 less.
const SMALL_PACKETS_ONLY: Quality = Quality {
    largest_bytes: Some(1280),
    ..Quality::PERFECT
};

/// A model in two stages on three nodes, and what it says without a fault.
pub(super) struct Apart {
    pub(super) here: Here,
    pub(super) head: String,
    pub(super) tail: String,
    pub(super) epoch: i64,
    undisturbed: String,
}

impl Apart {
    /// `None` where this machine lets us have no hosts.
    pub(super) async fn start() -> Option<Self> {
        if let Err(error) = possible() {
            println!("SKIPPED: {error}");
            return None;
        }
        let three = shape(&["cpu", "cpu", "cpu"]);
        let mut here = installed(&Shape {
            links: Some(1),
            ..three
        })
        .await;
        here.apply("m", &strict_over_two());
        let model = here.ready("m").await;
        let [head, tail]: [String; 2] = nodes(&model).try_into().expect("two stages");
        let epoch = model["status"]["placement"]["epoch"].as_i64().expect("an epoch");
        let chat = here.chat();
        let (undisturbed, _) = Story::begin(&chat).end().await;
        assert_eq!(undisturbed.error, None);
        let undisturbed = undisturbed.text;
        Some(Self {
            here,
            head,
            tail,
            epoch,
            undisturbed,
        })
    }

    pub(super) fn network(&self) -> &Network {
        self.here.stack.network().expect("links")
    }

    /// A story in the midst of which the links become what `fault` makes them.
    async fn story_through(&self, fault: impl FnOnce(&Network)) -> (Answer, Duration) {
        let mut story = Story::begin(&self.here.chat());
        story.under_way().await;
        fault(self.network());
        story.end().await
    }

    pub(super) fn expect(&self, answer: &Answer) {
        assert_eq!((&answer.error, &answer.text), (&None, &self.undisturbed));
    }

    /// A node that was cut off is told what holds, and lets go of what it held.
    async fn holds_nothing(&self, node: &str) {
        let look = || -> localplane::Result<Seen<()>> {
            let workers = self.here.stack.workers(node);
            Ok(if workers.is_empty() {
                Seen::Done(())
            } else {
                Seen::Not(format!("{workers:?}"))
            })
        };
        let what = format!("{node} has no worker");
        until(&what, LIMIT, || std::future::ready(look())).await.expect("none");
    }

    async fn a_node_is_cut_off(self, node: String) {
        let cut = |network: &Network, node: &str| network.set_all_of(node, Quality::CUT).expect("cut");
        self.a_node_is_left(node, cut).await;
    }

    /// Links of a node become what `fault` makes them, in the midst of a story.
    async fn a_node_is_left(mut self, node: String, fault: impl FnOnce(&Network, &str)) {
        let (answer, pause) = self.story_through(|network| fault(network, &node)).await;
        println!("the stream stood still for {pause:?}");
        self.expect(&answer);
        assert!(pause <= RECOVERY_LIMIT, "the stream stood still for {pause:?}");
        let after = self.here.ready_in_epoch_above("m", self.epoch).await;
        assert!(!nodes(&after).contains(&node), "{node} holds nothing");
        self.network().mend();
        self.holds_nothing(&node).await;
    }
}

#[tokio::test]
async fn a_stream_outlives_that_its_tail_is_cut_off_in_silence_and_says_what_it_would_have_said() {
    if let Some(apart) = Apart::start().await {
        let tail = apart.tail.clone();
        apart.a_node_is_cut_off(tail).await;
    }
}

#[tokio::test]
#[ignore = "make test-long"]
async fn a_stream_outlives_that_its_head_is_cut_off_in_silence_and_says_what_it_would_have_said() {
    if let Some(apart) = Apart::start().await {
        let head = apart.head.clone();
        apart.a_node_is_cut_off(head).await;
    }
}

#[tokio::test]
#[ignore = "make test-long"]
async fn a_stream_outlives_that_its_tail_loses_operator_and_api_server_alone_and_says_what_it_would_have_said() {
    if let Some(apart) = Apart::start().await {
        let tail = apart.tail.clone();
        // Head and tail reach each other all the time.
        let cut = |network: &Network, tail: &str| {
            network.set(tail, HERE, Quality::CUT).expect("cut");
            network.set(HERE, tail, Quality::CUT).expect("cut");
        };
        apart.a_node_is_left(tail, cut).await;
    }
}

#[tokio::test]
async fn links_that_lose_delay_and_reorder_change_no_answer_and_no_placement() {
    let Some(apart) = Apart::start().await else { return };
    let (answer, pause) = apart.story_through(|network| network.set_all(POOR)).await;
    println!("the longest time between two tokens was {pause:?}");
    apart.expect(&answer);
    let lost = apart.network().counts(&apart.head, &apart.tail).lost;
    assert!(lost > 0, "the link lost packets");
    let model = apart.here.stack.model("default", "m").expect("the model");
    assert_eq!(model["status"]["placement"]["epoch"].as_i64(), Some(apart.epoch));
}

impl Apart {
    /// What lies between head and tail becomes what `fault` makes it, in the midst of a story: people are told of the link, not of a node,
    /// and the story goes on over another one.
    async fn the_link_is_blamed_and_left(mut self, fault: impl FnOnce(&Network, &str, &str), cause: &str) {
        let mut story = Story::begin(&self.here.chat());
        story.under_way().await;
        let broken = Instant::now();
        fault(self.network(), &self.head, &self.tail);
        let degraded = self
            .here
            .stack
            .wait_for_condition("default", "m", "Degraded", "True", LIMIT)
            .await
            .expect("Degraded");
        let told = condition_of(&degraded, "Degraded");
        println!("after {:?}: {told}", broken.elapsed());
        assert_eq!(told["reason"], "LinkDown", "{told}");
        let expected = format!("the link from {} to {} is down", self.head, self.tail);
        let message = told["message"].as_str().unwrap_or_default();
        assert!(message.starts_with(&expected), "{message}");
        assert!(message.contains(cause), "{message}");
        let (answer, pause) = story.end().await;
        println!("the stream stood still for {pause:?}");
        self.expect(&answer);
        let after = self.here.ready_in_epoch_above("m", self.epoch).await;
        let found = nodes(&after);
        let both = [&self.head, &self.tail].map(|node| found.contains(node));
        assert_ne!(both, [true; 2], "{found:?}");
    }
}

#[tokio::test]
#[ignore = "make test-long"]
async fn a_link_that_is_cut_one_way_is_told_by_both_its_ends_and_left_and_the_stream_goes_on() {
    if let Some(apart) = Apart::start().await {
        let cut = |network: &Network, head: &str, tail: &str| network.set(head, tail, Quality::CUT).expect("cut");
        apart.the_link_is_blamed_and_left(cut, "does not reach").await;
    }
}

#[tokio::test]
#[ignore = "make test-long"]
async fn a_link_that_is_cut_both_ways_is_told_and_left_though_the_operator_hears_of_both_ends_and_the_stream_goes_on() {
    if let Some(apart) = Apart::start().await {
        let cut = |network: &Network, head: &str, tail: &str| {
            network.set(head, tail, Quality::CUT).expect("cut");
            network.set(tail, head, Quality::CUT).expect("cut");
        };
        apart.the_link_is_blamed_and_left(cut, "does not reach").await;
    }
}

#[tokio::test]
#[ignore = "make test-long"]
async fn a_path_that_swallows_large_packets_is_told_by_both_its_ends_and_left_and_the_stream_goes_on() {
    if let Some(apart) = Apart::start().await {
        let swallow = |network: &Network, head: &str, tail: &str| {
            network.set(head, tail, SMALL_PACKETS_ONLY).expect("set");
            network.set(tail, head, SMALL_PACKETS_ONLY).expect("set");
        };
        apart.the_link_is_blamed_and_left(swallow, "check the MTU").await;
    }
}
