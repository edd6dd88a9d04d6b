//! Links that are slow, narrow or lossy, and not broken, while an answer is on its way over them: it says what it would have said.
//!
//! Nothing that answers is given up for being late. Where so much is lost that a packet does not get through in two seconds, its
//! connection is given up, and the answer goes on over another one.

use std::time::Duration;

use linkemu::line::Quality;
use localplane::stack::Part;
use localplane::wait::{Seen, until};
use serde_json::Value;

use super::links::Apart;
use super::{Answer, Story, condition_of, nodes};

/// Of a story: every one of them goes to the tail and back.
const TOKENS: u32 = 100;
/// None is a reason to leave a link: a ping over it is answered within the second and a half that it is waited for.
const SLOWER: [(&str, Quality); 3] = [
    (
        "75 ms, give or take 50",
        Quality {
            delay: Duration::from_millis(25),
            jitter: Duration::from_millis(100),
            ..Quality::PERFECT
        },
    ),
    (
        "200 ms",
        Quality {
            delay: Duration::from_millis(200),
            ..Quality::PERFECT
        },
    ),
    (
        "10 Mbit/s",
        Quality {
            bits_per_second: Some(10_000_000),
            ..Quality::PERFECT
        },
    ),
];
/// As the condition and the event say it.
const LINK_SLOW: &str = "LinkSlow";
/// Of what a link becomes, megabits a second.
const TEN: f64 = 10.0;
/// The first three rounds are twenty to forty seconds apart.
const MEASURED_LIMIT: Duration = Duration::from_secs(180);
/// A link that pipelines use is looked at every thirty to sixty seconds, and three times in a row until it is believed.
const SLOW_LIMIT: Duration = Duration::from_secs(300);

/// One packet in five.
const A_FIFTH_LOST: Quality = Quality {
    lost_per_mille: 200,
    ..Quality::PERFECT
};
/// One packet in two.
const HALF_LOST: Quality = Quality {
    lost_per_mille: 500,
    ..Quality::PERFECT
};
/// Longer than a silent peer is waited for, and than it takes until people are told of a link.
const HALF_LOST_FOR: Duration = Duration::from_secs(5);

/// What the operator says when it hears an agent no more.
const DETACHED: &str = "agent detached";
/// And why it leaves a link that carries nothing.
const LINK_DOWN: &str = "LinkDown";

impl Apart {
    fn short_story(&self) -> Story {
        Story::of(&self.here.chat(), TOKENS)
    }

    /// A short story in the midst of which every link between two nodes becomes like this; with `everywhere`, those to control plane
    /// and gateway too.
    async fn short_story_through(&self, quality: Quality, everywhere: bool) -> (Answer, Duration) {
        let mut story = self.short_story();
        story.under_way().await;
        match everywhere {
            true => self.network().set_all(quality),
            false => self.set_between_nodes(quality),
        }
        story.end().await
    }

    fn set_between_nodes(&self, quality: Quality) {
        let nodes: Vec<String> = self.here.stack.parts().into_iter().filter_map(node).collect();
        for from in &nodes {
            for to in nodes.iter().filter(|to| *to != from) {
                self.network().set(from, to, quality).expect("set");
            }
        }
    }

    fn operator_said(&self, words: &str) -> usize {
        let log = self.here.stack.log(&Part::Operator(0)).expect("a log");
        log.matches(words).count()
    }

    fn epoch_now(&self) -> i64 {
        let model = self.here.stack.model("default", "m").expect("the model");
        model["status"]["placement"]["epoch"].as_i64().expect("an epoch")
    }

    fn lost_on_the_way(&self) -> u64 {
        let (head, tail) = (&self.head, &self.tail);
        let network = self.network();
        network.counts(head, tail).lost + network.counts(tail, head).lost
    }

    /// Once the links are well again the model serves as ever, whichever nodes it is on.
    async fn serves_as_ever(&mut self) {
        let model = self.here.ready("m").await;
        println!(
            "it was on {} and {}, and is on {:?}",
            self.head,
            self.tail,
            nodes(&model)
        );
        let (answer, _) = Story::begin(&self.here.chat()).end().await;
        self.expect(&answer);
    }
}

fn node(part: Part) -> Option<String> {
    match part {
        Part::Agent(node) => Some(node),
        _ => None,
    }
}

#[tokio::test]
#[ignore = "make test-long: 120 s"]
async fn links_of_75_or_200_ms_or_of_10_mbit_change_no_answer_and_no_placement_and_no_agent_counts_as_lost() {
    let Some(apart) = Apart::start().await else { return };
    let (undisturbed, usual) = apart.short_story().end().await;
    assert_eq!(undisturbed.error, None);
    println!("the longest time between two tokens is {usual:?}");
    let detached = apart.operator_said(DETACHED);
    for (name, quality) in SLOWER {
        let (answer, pause) = apart.short_story_through(quality, true).await;
        println!("{name}: the longest time between two tokens was {pause:?}");
        assert_eq!((&answer.error, &answer.text), (&None, &undisturbed.text), "{name}");
        assert_eq!(apart.operator_said(DETACHED), detached, "{name}: an agent was given up");
        assert_eq!(apart.epoch_now(), apart.epoch, "{name}");
        apart.network().mend();
    }
}

#[tokio::test]
#[ignore = "make test-long: 60 s"]
async fn an_answer_is_the_same_where_a_fifth_of_the_packets_between_nodes_is_lost() {
    let Some(mut apart) = Apart::start().await else { return };
    let (undisturbed, _) = apart.short_story().end().await;
    assert_eq!(undisturbed.error, None);
    let (detached, down) = (apart.operator_said(DETACHED), apart.operator_said(LINK_DOWN));
    let (answer, pause) = apart.short_story_through(A_FIFTH_LOST, false).await;
    println!("the longest time between two tokens was {pause:?}");
    assert_eq!((&answer.error, &answer.text), (&None, &undisturbed.text));
    assert!(apart.lost_on_the_way() > 0, "the link lost packets");
    // A packet that is lost five times in a row ends its connection, once in thousands. Only for that may the model have moved.
    let (epoch, told) = (apart.epoch_now(), apart.operator_said(LINK_DOWN) > down);
    println!("epoch {} became {epoch}; a link was down: {told}", apart.epoch);
    assert!(epoch == apart.epoch || told, "moved without a link that was down");
    assert_eq!(apart.operator_said(DETACHED), detached, "no node is blamed");
    apart.network().mend();
    apart.serves_as_ever().await;
}

/// Half of all packets is more than TCP can repeat in time: connections between nodes are given up, and the model may be elsewhere
/// afterwards, in a higher epoch. What is said may not change, and no node may count as lost: the operator hears them all.
#[tokio::test]
#[ignore = "make test-long: 90 s"]
async fn an_answer_is_the_same_where_half_of_the_packets_between_nodes_is_lost_for_seconds() {
    let Some(mut apart) = Apart::start().await else { return };
    let detached = apart.operator_said(DETACHED);
    let mut story = Story::begin(&apart.here.chat());
    story.under_way().await;
    apart.set_between_nodes(HALF_LOST);
    tokio::time::sleep(HALF_LOST_FOR).await;
    apart.network().mend();
    let (answer, pause) = story.end().await;
    println!("the longest time between two tokens was {pause:?}");
    apart.expect(&answer);
    assert!(apart.lost_on_the_way() > 0, "the link lost packets");
    let epoch = apart.epoch_now();
    println!("epoch {} became {epoch}", apart.epoch);
    assert!(epoch >= apart.epoch, "epochs only rise");
    assert_eq!(apart.operator_said(DETACHED), detached, "no node is blamed");
    apart.serves_as_ever().await;
}

impl Apart {
    fn links_of(&self, node: &str) -> localplane::Result<Value> {
        let text = self
            .here
            .stack
            .kubectl(&["get", "nodelinkstates", node, "-o", "json"])?;
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// Waits until what the head's node tells of its links is so, and tells stories meanwhile if asked to: links must be looked at while
    /// their nodes compute.
    async fn until_links(&self, what: &str, limit: Duration, busy: bool, holds: impl Fn(&Value) -> bool) -> Value {
        let chat = self.here.chat();
        let look = async || -> localplane::Result<Seen<Value>> {
            if busy {
                let (answer, _) = Story::begin(&chat).end().await;
                self.expect(&answer);
            }
            let links = self.links_of(&self.head)?;
            Ok(match holds(&links) {
                true => Seen::Done(links),
                false => Seen::Not(links["status"].to_string()),
            })
        };
        until(what, limit, look).await.expect("it comes to pass")
    }
}

/// What is told of the link from a node to another.
fn link_to<'l>(links: &'l Value, peer: &str) -> &'l Value {
    let peers = links["status"]["peers"].as_array();
    let found = peers.into_iter().flatten().find(|link| link["node"] == peer);
    found.unwrap_or(&NOTHING)
}

static NOTHING: Value = Value::Null;

fn is_slow(links: &Value) -> bool {
    condition_of(links, "Slow")["status"] == "True"
}

#[tokio::test]
#[ignore = "make test-long: 300 s"]
async fn a_link_that_becomes_slow_while_it_carries_a_stream_is_told_with_both_figures_and_so_is_that_it_is_well_again()
{
    let Some(apart) = Apart::start().await else { return };
    let (head, tail) = (&apart.head, &apart.tail);
    let known = |links: &Value| link_to(links, tail)["samples"].as_i64() >= Some(3);
    let well = apart
        .until_links("the link is known", MEASURED_LIMIT, false, known)
        .await;
    println!("before: {}", link_to(&well, tail));
    for (from, to) in [(head, tail), (tail, head)] {
        let narrow = Quality {
            bits_per_second: Some(10_000_000),
            ..Quality::PERFECT
        };
        apart.network().set(from, to, narrow).expect("set");
    }
    let slow = apart.until_links("people are told", SLOW_LIMIT, true, is_slow).await;
    let told = condition_of(&slow, "Slow");
    println!("told: {told}");
    assert_eq!(told["reason"], LINK_SLOW);
    let link = link_to(&slow, tail);
    let mbit = |field: &str| link[field].as_f64().map(|rate| rate * 8.0 / 1e6);
    let (now, before) = (mbit("sendBytesPerSecond"), mbit("sendBytesPerSecondBefore"));
    let (now, before) = now.zip(before).expect("both figures");
    assert!(now < 2.0 * TEN, "{now} Mbit/s of {TEN}");
    assert!(before > 4.0 * TEN, "it was {before} Mbit/s");
    let message = told["message"].as_str().unwrap_or_default();
    assert!(
        message.contains(&format!("to {tail}")) && message.contains("Mbit/s (was "),
        "{message}"
    );

    let noted = || -> localplane::Result<Seen<()>> {
        let model = apart.here.stack.model("default", "m")?;
        let placed = condition_of(&model, "Placed")["message"].to_string();
        let events = apart.here.stack.kubectl(&["get", "events", "--namespace", "default"])?;
        let is_told = placed.contains(LINK_SLOW) && placed.contains(&format!("from {head} to {tail}"));
        Ok(match is_told && events.contains(LINK_SLOW) {
            true => Seen::Done(()),
            false => Seen::Not(format!("{placed}\n{events}")),
        })
    };
    let what = "the model and an event tell of it";
    until(what, MEASURED_LIMIT, || std::future::ready(noted()))
        .await
        .expect("told");

    apart.network().mend();
    let is_well = |links: &Value| !is_slow(links);
    apart.until_links("it is well again", SLOW_LIMIT, false, is_well).await;
    assert_eq!(
        apart.epoch_now(),
        apart.epoch,
        "tokens hardly noticed, and the model stayed"
    );
}
