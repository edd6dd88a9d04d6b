use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{MAX_TEXT_BYTES, Patience, TokenizeError, Tokenizer, TokenizerCommand};

/// A condition that does not come is a failure.
const LIMIT: Duration = Duration::from_secs(30);

struct Fixture {
    tokenizer: Tokenizer,
    restarts: Arc<AtomicUsize>,
    _directory: tempfile::TempDir,
}

fn start_with(executable: PathBuf, patience: Patience) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let vocabulary = directory.path().join("vocabulary.gguf");
    std::fs::write(&vocabulary, b"GGUF").unwrap();
    let restarts = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&restarts);
    let tokenizer = Tokenizer::start(TokenizerCommand { executable, vocabulary }, patience, move || {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    Fixture {
        tokenizer,
        restarts,
        _directory: directory,
    }
}

fn fake() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fakes/tokenizer.py"))
}

fn start() -> Fixture {
    start_with(fake(), Patience::default())
}

/// Tokens of `text` once a child is there.
async fn eventually(tokenizer: &Tokenizer, text: &str) -> Vec<i32> {
    let asked = async {
        loop {
            tokenizer.vocabulary().await.expect("a child");
            if let Ok(tokens) = tokenizer.tokenize(text.to_owned()).await {
                return tokens;
            }
        }
    };
    tokio::time::timeout(LIMIT, asked).await.expect("an answer in time")
}

#[tokio::test]
async fn a_child_says_what_its_vocabulary_is_and_answers() {
    let fixture = start();
    let vocabulary = fixture.tokenizer.vocabulary().await.unwrap();
    assert_eq!(
        (vocabulary.pieces.len(), vocabulary.bos, vocabulary.add_bos),
        (259, Some(256), true)
    );
    assert_eq!(vocabulary.pieces.get(65), Some(&b"A"[..]));
    assert!(vocabulary.end_of_generation.contains(&258));
    assert_eq!(
        fixture.tokenizer.tokenize("A<|im_end|>é\0\n".into()).await.unwrap(),
        [65, 258, 0xc3, 0xa9, 0, 10]
    );
}

#[tokio::test]
async fn a_text_that_has_no_tokens_is_refused_and_the_next_one_is_answered() {
    let fixture = start();
    fixture.tokenizer.vocabulary().await.unwrap();
    let refused = fixture.tokenizer.tokenize("REFUSE".into()).await.unwrap_err();
    assert_eq!(refused, TokenizeError::Refused("no tokens for this".into()));
    assert_eq!(fixture.tokenizer.tokenize("B".into()).await.unwrap(), [66]);
    assert_eq!(fixture.restarts.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_child_that_dies_or_talks_nonsense_fails_its_request_and_is_replaced() {
    for (fault, restarts) in [("CRASH", 1), ("NONSENSE", 1)] {
        let fixture = start();
        fixture.tokenizer.vocabulary().await.unwrap();
        assert_eq!(
            fixture.tokenizer.tokenize(fault.into()).await.unwrap_err(),
            TokenizeError::Unavailable,
            "{fault}"
        );
        assert_eq!(eventually(&fixture.tokenizer, "C").await, [67], "{fault}");
        assert_eq!(fixture.restarts.load(Ordering::Relaxed), restarts, "{fault}");
    }
}

#[tokio::test]
async fn a_hung_child_is_replaced_and_its_askers_do_not_wait_for_ever() {
    let short = Duration::from_millis(200);
    let fixture = start_with(
        fake(),
        Patience {
            answer: short,
            child: 3 * short,
        },
    );
    fixture.tokenizer.vocabulary().await.unwrap();
    let asked = futures::future::join_all((0..super::QUEUE + 2).map(|_| fixture.tokenizer.tokenize("HANG".into())));
    let answers = tokio::time::timeout(LIMIT, asked).await.expect("answers in time");
    assert!(answers.contains(&Err(TokenizeError::Busy)), "the queue has an end");
    assert!(
        answers.contains(&Err(TokenizeError::TimedOut { waited: short })),
        "the wait has an end"
    );
    assert!(answers.iter().all(Result::is_err));
    assert_eq!(eventually(&fixture.tokenizer, "D").await, [68]);
}

#[tokio::test]
async fn a_text_above_the_limit_never_reaches_the_child() {
    let fixture = start();
    fixture.tokenizer.vocabulary().await.unwrap();
    let error = fixture
        .tokenizer
        .tokenize("x".repeat(MAX_TEXT_BYTES + 1))
        .await
        .unwrap_err();
    assert_eq!(
        error,
        TokenizeError::TooLong {
            bytes: MAX_TEXT_BYTES + 1
        }
    );
}

#[tokio::test]
async fn without_an_executable_requests_fail_at_once() {
    let fixture = start_with(PathBuf::from("/nonexistent/tokenizer"), Patience::default());
    assert_eq!(
        fixture.tokenizer.tokenize("x".into()).await.unwrap_err(),
        TokenizeError::Unavailable
    );
}
