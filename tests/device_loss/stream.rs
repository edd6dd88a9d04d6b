//! A stream that is under way when its card fails goes on elsewhere: nothing that was sent is changed, repeated or lost, and the rest is
//! what the other node says to it.

use localplane::process::kill;
use localplane::stack::Part;

use super::card::Card;
use super::resumed::{Telling, before_the_pause, rest_again, text};
use super::{Here, LIMIT, MODEL, Told, nodes, on_a_node_with_a_card, people_are_told};

/// More than a renderer says until its card is given up.
const TOKENS: usize = 250;
/// What an agent says of a worker that it ended for what the device computes.
const CONDEMNED: &str = "computes cannot be trusted";

#[test]
fn a_stream_on_a_card_that_its_driver_gives_up_is_ended_there_and_goes_on_elsewhere() {
    on_a_node_with_a_card(
        "stream::a_stream_on_a_card_that_its_driver_gives_up_is_ended_there_and_goes_on_elsewhere",
        |here| here.tells_on_after(Card::lose, &["DeviceSuspect", CONDEMNED, "GPU reset end"], None),
    );
}

#[test]
fn a_stream_on_a_card_whose_memory_lost_data_is_ended_there_and_goes_on_elsewhere() {
    const TOLD: Told = ("Healthy", &["UncorrectableEcc"], "UncorrectableEcc");
    on_a_node_with_a_card(
        "stream::a_stream_on_a_card_whose_memory_lost_data_is_ended_there_and_goes_on_elsewhere",
        |here| {
            let words = &["DeviceSuspect", CONDEMNED, "uncorrectable hardware errors"];
            here.tells_on_after(Card::lose_memory, words, Some(TOLD))
        },
    );
}

#[test]
fn a_stream_whose_card_is_lost_in_the_midst_of_a_computation_goes_on_elsewhere_and_the_worker_s_end_says_why() {
    on_a_node_with_a_card(
        "stream::a_stream_whose_card_is_lost_in_the_midst_of_a_computation_goes_on_elsewhere_and_the_worker_s_end_says_why",
        |here| here.tells_on_after(Card::lose_in_use, &["DeviceLost", "lost under it"], None),
    );
}

impl Here {
    /// The fault comes while a story is told. `words` are then in the agent's log, in one line.
    async fn tells_on_after(mut self, fault: fn(&Card), words: &'static [&'static str], told: Option<Told>) {
        let chat = self.chat();
        let mut telling = Telling::begin(&chat, TOKENS);
        telling.under_way().await;
        fault(&self.card);
        let (answer, pieces) = telling.end().await;
        assert_eq!(answer.error, None);
        assert_eq!(answer.text, text(&pieces));
        let model = self.stack.model("default", MODEL).expect("the model");
        assert_eq!(nodes(&model), ["spare"]);
        let log = self.stack.log(&Part::Agent("with-card".to_owned())).expect("a log");
        let says = |line: &str| words.iter().all(|word| line.contains(word));
        assert!(log.lines().any(says), "no line says {words:?}: {log}");
        if let Some(told) = told {
            people_are_told(&self.stack, told).await.expect("what people are told");
        }

        let sent = before_the_pause(&self.stack, &pieces);
        println!("{} of {} pieces came before the pause", sent.len(), pieces.len());
        // Its caches are empty then.
        self.stack.workers("spare").into_iter().for_each(kill);
        let rest = rest_again(&chat, sent, TOKENS, LIMIT).await.expect("an answer");
        assert_eq!(rest, answer.text[text(sent).len()..]);
        self.stack.check().expect("everything runs");
        self.stack.stop().await.expect("an orderly end");
    }
}
