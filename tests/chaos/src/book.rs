//! What clients ask: few enough requests that each has a reference after half a minute, different enough that no two answers agree.

use crate::history::Request;
use linkemu::random::Random;

const SUBJECTS: [&str; 12] = [
    "Write a long story about a lighthouse keeper.",
    "Describe a market in an old town in great detail.",
    "Explain how bread is made, step by step.",
    "Tell me about the sea, the tides and the moon.",
    "Write a letter from a sailor to his sister.",
    "Describe a walk through a forest in autumn.",
    "Explain why the sky is blue, for a child.",
    "Write a dialogue between a teacher and a pupil about prime numbers.",
    "Tell the story of a lost dog that finds its way home.",
    "Describe the work of a watchmaker.",
    "Write about a train journey over the mountains.",
    "Explain what a computer does when it is started.",
];

/// Most answers run into this: streams shall be under way when a fault strikes.
const TOKENS: (u64, u64) = (60, 120);
/// Every third request samples.
const SAMPLED_EVERY: usize = 3;
/// Every fourth waits for its whole answer.
const WHOLE_EVERY: usize = 4;
/// Every eighth, of those that wait, for two at once.
const TWO_EVERY: usize = 8;

/// The requests of a seed, `count` of them.
pub fn requests(seed: u64, count: usize) -> Vec<Request> {
    let mut random = Random::new(seed);
    (0..count)
        .map(|number| {
            let subject = SUBJECTS[number % SUBJECTS.len()];
            Request {
                // The number keeps prompts apart where subjects repeat.
                prompt: format!("({number}) {subject}"),
                max_tokens: u32::try_from(random.between(TOKENS.0, TOKENS.1)).unwrap_or(u32::MAX),
                temperature: if number % SAMPLED_EVERY == SAMPLED_EVERY - 1 {
                    0.8
                } else {
                    0.0
                },
                // The OpenAI API takes a signed number.
                seed: random.any() >> 1,
                streamed: number % WHOLE_EVERY != WHOLE_EVERY - 1,
                choices: if number % TWO_EVERY == TWO_EVERY - 1 { 2 } else { 1 },
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::requests;

    #[test]
    fn a_book_has_greedy_and_sampled_streamed_and_whole_requests_and_no_prompt_twice() {
        let book = requests(1, 16);
        assert!(book.iter().any(|request| request.temperature > 0.0 && request.streamed));
        assert!(
            book.iter()
                .any(|request| request.temperature == 0.0 && request.streamed)
        );
        assert!(book.iter().any(|request| !request.streamed && request.choices == 1));
        assert!(book.iter().any(|request| !request.streamed && request.choices == 2));
        assert!(book.iter().all(|request| !request.streamed || request.choices == 1));
        let mut prompts: Vec<&str> = book.iter().map(|request| request.prompt.as_str()).collect();
        prompts.sort_unstable();
        prompts.dedup();
        assert_eq!(prompts.len(), 16);
        assert_eq!(requests(1, 16), book);
    }
}
