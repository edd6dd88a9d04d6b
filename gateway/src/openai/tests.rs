use http::StatusCode;
use serde_json::{Value, json};

use super::chat::ChatRequest;
use super::error::ApiError;
use super::prompt::{Prompt, known, measure, with_bos};
use super::shape::{Choice, Header, Usage};
use super::text::TextRequest;
use super::turn::{Kind, explain};
use crate::generate::GenerateError;
use crate::tokenizer::Vocabulary;

/// A sound chat request with `changes` made to it.
fn chat(changes: &Value) -> Result<ChatRequest, ApiError> {
    let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "Hi" }] });
    for (name, value) in changes.as_object().unwrap() {
        body[name] = value.clone();
    }
    ChatRequest::parse(body.to_string().as_bytes())
}

fn refused(changes: &Value) -> ApiError {
    chat(changes).expect_err(&changes.to_string())
}

#[test]
fn a_minimal_request_gets_openais_defaults() {
    let ChatRequest { parameters, messages } = chat(&json!({})).unwrap();
    assert_eq!(
        (parameters.temperature, parameters.top_p, parameters.max_tokens),
        (1.0, 1.0, None)
    );
    assert!(!parameters.stream && !parameters.include_usage && parameters.stop.is_empty());
    assert_eq!(
        (messages[0].role.as_str(), messages[0].content.as_str()),
        ("user", "Hi")
    );
}

#[test]
fn every_supported_field_is_read() {
    let parameters = chat(&json!({
        "temperature": 0, "top_p": 0.5, "seed": -1, "stop": ["a", "b"], "stream": true, "max_tokens": 9,
        "max_completion_tokens": 7, "stream_options": { "include_usage": true }, "n": 1, "user": "u", "unheard_of": {},
    }))
    .unwrap()
    .parameters;
    assert_eq!(
        (parameters.temperature, parameters.top_p, parameters.max_tokens),
        (0.0, 0.5, Some(7))
    );
    assert_eq!(
        (parameters.seed, parameters.stop.len(), parameters.include_usage),
        (Some(u64::MAX), 2, true)
    );
    assert_eq!(parameters.sampling(5, 0).seed, u64::MAX);
    assert_eq!(chat(&json!({ "stop": "x" })).unwrap().parameters.stop, ["x"]);
    assert_eq!(chat(&json!({})).unwrap().parameters.sampling(5, 0).seed, 5);
}

#[test]
fn every_wrong_field_is_named() {
    for (field, wrong) in [
        ("model", json!("")),
        ("model", json!(7)),
        ("model", Value::Null),
        ("messages", json!([])),
        ("messages", json!("Hi")),
        ("messages", Value::Null),
        ("temperature", json!(-0.1)),
        ("temperature", json!(2.1)),
        ("temperature", json!("hot")),
        ("top_p", json!(0)),
        ("top_p", json!(1.5)),
        ("max_tokens", json!(0)),
        ("max_tokens", json!(-1)),
        ("max_tokens", json!(1.5)),
        ("max_tokens", json!(1e30)),
        ("max_completion_tokens", json!("many")),
        ("seed", json!(0.5)),
        ("stop", json!(["a", "b", "c", "d", "e"])),
        ("stop", json!([1])),
        ("stop", json!([""])),
        ("stop", json!("x".repeat(2000))),
        ("stream", json!("yes")),
        ("stream_options", json!({ "include_usage": true })),
        ("n", json!(0)),
        ("n", json!(9)),
        ("n", json!(1_000_000_000_000_u64)),
    ] {
        let error = refused(&json!({ field: wrong }));
        assert_eq!(
            (error.status, error.param.as_deref()),
            (StatusCode::BAD_REQUEST, Some(field)),
            "{error}"
        );
        assert!(error.message.contains(field.split('_').next().unwrap()), "{error}");
    }
}

#[test]
fn what_is_not_done_here_is_refused_by_name_and_harmless_values_pass() {
    for (field, asks, harmless) in [
        ("tools", json!([{ "type": "function" }]), json!([])),
        ("tool_choice", json!("required"), json!("auto")),
        ("functions", json!([{}]), json!([])),
        ("logprobs", json!(true), json!(false)),
        ("top_logprobs", json!(3), json!(0)),
        (
            "response_format",
            json!({ "type": "json_schema" }),
            json!({ "type": "text" }),
        ),
        ("frequency_penalty", json!(0.5), json!(0)),
        ("presence_penalty", json!(-0.5), json!(0.0)),
        ("logit_bias", json!({ "5": 1 }), json!({})),
        ("modalities", json!(["audio"]), json!(["text"])),
        ("audio", json!({}), Value::Null),
        ("best_of", json!(2), json!(1)),
    ] {
        let error = refused(&json!({ field: asks }));
        assert_eq!(
            (error.param.as_deref(), error.code),
            (Some(field), Some("unsupported_parameter")),
            "{error}"
        );
        assert!(chat(&json!({ field: harmless })).is_ok(), "{field}: {harmless}");
    }
}

#[test]
fn wrong_messages_are_named_by_their_place() {
    for (message, param) in [
        (json!("Hi"), "messages[1]"),
        (json!({ "content": "x" }), "messages[1].role"),
        (json!({ "role": "king", "content": "x" }), "messages[1].role"),
        (json!({ "role": "tool", "content": "x" }), "messages[1].role"),
        (json!({ "role": "user" }), "messages[1].content"),
        (json!({ "role": "user", "content": 5 }), "messages[1].content"),
        (
            json!({ "role": "user", "content": [{ "type": "image_url" }] }),
            "messages[1].content",
        ),
        (
            json!({ "role": "user", "content": [{ "type": "text" }] }),
            "messages[1].content",
        ),
        (
            json!({ "role": "assistant", "content": "x", "tool_calls": [{}] }),
            "messages[1].tool_calls",
        ),
        (json!({ "role": "user", "content": "x", "name": 5 }), "messages[1].name"),
    ] {
        let error = refused(&json!({ "messages": [{ "role": "user", "content": "Hi" }, message] }));
        assert_eq!(error.param.as_deref(), Some(param), "{error}");
    }
}

#[test]
fn content_parts_are_joined_and_developers_are_the_system() {
    let parts = json!([{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }]);
    let messages = chat(&json!({ "messages": [{ "role": "developer", "content": parts }] }))
        .unwrap()
        .messages;
    assert_eq!(
        (messages[0].role.as_str(), messages[0].content.as_str()),
        ("system", "a\nb")
    );
}

#[test]
fn bodies_that_are_no_request_are_refused() {
    let deep = "[".repeat(100_000);
    for body in [
        "",
        "{",
        "[]",
        "\"x\"",
        "{\"model\": \"m\"",
        "{\"temperature\": NaN}",
        deep.as_str(),
    ] {
        let error = ChatRequest::parse(body.as_bytes()).unwrap_err();
        assert_eq!(
            (error.status, error.code),
            (StatusCode::BAD_REQUEST, Some("invalid_json")),
            "{error}"
        );
    }
    assert_eq!(
        ChatRequest::parse(b"{\"model\": \"\xff\"}").unwrap_err().code,
        Some("invalid_json")
    );
}

#[test]
fn text_completions_take_one_prompt_as_text_or_token_ids() {
    let parse = |prompt: Value| TextRequest::parse(json!({ "model": "m", "prompt": prompt }).to_string().as_bytes());
    let text = || Prompt::Text("Once".to_owned());
    assert_eq!(parse(json!("Once")).unwrap().prompt, text());
    assert_eq!(parse(json!(["Once"])).unwrap().prompt, text());
    for ids in [json!([1, 2]), json!([[1, 2]])] {
        assert_eq!(parse(ids).unwrap().prompt, Prompt::Tokens(vec![1, 2]));
    }
    let wrong = [
        json!(""),
        json!(5),
        Value::Null,
        json!([]),
        json!([[]]),
        json!(["a", "b"]),
        json!([[1], [2]]),
        json!([1, "a"]),
        json!([1.5]),
        json!([1_u64 << 40]),
    ];
    for wrong in wrong {
        assert_eq!(
            parse(wrong.clone()).unwrap_err().param.as_deref(),
            Some("prompt"),
            "{wrong}"
        );
    }
}

#[test]
fn token_ids_that_the_vocabulary_has_not_are_refused_by_number() {
    let mut vocabulary = Vocabulary::default();
    for piece in ["a", "b"] {
        vocabulary.pieces.push(piece.as_bytes());
    }
    assert_eq!(known(vec![1, 0, 1], &vocabulary, Kind::Text).unwrap(), [1, 0, 1]);
    for wrong in [2, -1] {
        let error = known(vec![0, wrong], &vocabulary, Kind::Text).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("prompt"));
        assert_eq!(
            error.message,
            format!("token id {wrong} (number 2 of the prompt) is none of this model's, which are 0 to 1")
        );
    }
}

#[test]
fn a_sequence_begins_with_bos_once_or_not_at_all() {
    let vocabulary = |add_bos| Vocabulary {
        bos: Some(1),
        add_bos,
        ..Vocabulary::default()
    };
    assert_eq!(with_bos(vec![5], &vocabulary(true)), [1, 5]);
    assert_eq!(with_bos(vec![1, 5], &vocabulary(true)), [1, 5]);
    assert_eq!(with_bos(vec![5], &vocabulary(false)), [5]);
    assert_eq!(
        with_bos(
            vec![5],
            &Vocabulary {
                add_bos: true,
                ..Vocabulary::default()
            }
        ),
        [5]
    );
}

#[test]
fn an_answer_never_asks_for_more_than_the_context_has_left() {
    let max_tokens = |length, wanted| measure(vec![0; length], 100, wanted, Kind::Chat).unwrap().max_tokens;
    assert_eq!(max_tokens(60, None), 40);
    assert_eq!(max_tokens(60, Some(7)), 7);
    assert_eq!(max_tokens(60, Some(u32::MAX)), 40);
    assert_eq!(max_tokens(99, None), 1);
    assert_eq!(
        measure(vec![0; 10], 100_000, None, Kind::Chat).unwrap().max_tokens,
        super::prompt::DEFAULT_MAX_TOKENS
    );
}

#[test]
fn a_prompt_that_does_not_fit_names_both_numbers() {
    for length in [100, 1234] {
        let error = measure(vec![0; length], 100, None, Kind::Text).unwrap_err();
        assert_eq!(
            (error.code, error.param.as_deref()),
            (Some("context_length_exceeded"), Some("prompt"))
        );
        assert!(
            error.message.contains("100 tokens") && error.message.contains(&length.to_string()),
            "{error}"
        );
    }
    assert!(measure(vec![], 100, None, Kind::Chat).is_err());
}

#[test]
fn every_end_of_a_generation_has_its_status() {
    let waited = std::time::Duration::from_secs(60);
    for (error, status, code, retry) in [
        (
            GenerateError::NotReady {
                message: "loading".into(),
            },
            503,
            Some("model_not_ready"),
            true,
        ),
        (GenerateError::Gone, 404, Some("model_not_found"), false),
        (
            GenerateError::Busy {
                message: "64 of 64 sequences run, 256 requests wait".into(),
                retry_after_s: None,
            },
            429,
            Some("queue_full"),
            true,
        ),
        (GenerateError::Lost, 503, Some("workers_lost"), true),
        (
            GenerateError::Refused {
                message: "too long".into(),
            },
            400,
            None,
            false,
        ),
        (GenerateError::Stalled { waited }, 504, Some("timeout"), true),
        (
            GenerateError::Internal {
                message: "10.0.0.7:9 said no".into(),
            },
            500,
            Some("internal_error"),
            false,
        ),
    ] {
        let explained = explain(&error, "req-1");
        assert_eq!((explained.status.as_u16(), explained.code), (status, code), "{error}");
        assert_eq!(explained.retry_after_s.is_some(), retry, "{error}");
        assert!(
            !explained.message.contains("10.0.0.7"),
            "addresses stay inside: {explained}"
        );
    }
}

#[test]
fn answers_have_openais_shape() {
    let header = |kind| Header {
        kind,
        id: "id".into(),
        created_unix_s: 5,
        model: "m".into(),
        choice: 0,
    };
    let usage = Usage {
        prompt_tokens: 3,
        completion_tokens: 2,
        cached_tokens: None,
    };
    let choice = |text: &str| Choice {
        text: text.into(),
        finish_reason: "stop",
    };
    let whole = header(Kind::Chat).whole(&[choice("Hi"), choice("Ho")], usage);
    assert_eq!(whole["choices"][0]["message"]["content"], "Hi");
    assert_eq!(
        (
            &whole["choices"][1]["index"],
            &whole["choices"][1]["message"]["content"]
        ),
        (&json!(1), &json!("Ho"))
    );
    assert_eq!(
        whole["usage"],
        json!({ "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5 })
    );
    let reused = Usage {
        cached_tokens: Some(2),
        ..usage
    };
    let counted = header(Kind::Chat).usage(reused);
    assert_eq!(counted["usage"]["prompt_tokens_details"], json!({ "cached_tokens": 2 }));
    let chunk = header(Kind::Chat).text("Hi");
    assert_eq!(
        (&chunk["object"], &chunk["choices"][0]["delta"]),
        (&json!("chat.completion.chunk"), &json!({ "content": "Hi" }))
    );
    assert_eq!(
        header(Kind::Chat).closing("length")["choices"][0]["finish_reason"],
        "length"
    );
    assert_eq!(header(Kind::Chat).usage(usage)["choices"], json!([]));
    assert_eq!(header(Kind::Text).text("Hi")["choices"][0]["text"], "Hi");
    assert!(header(Kind::Text).opening().is_none());
}

#[test]
fn a_client_is_told_to_come_back_when_the_head_expects_a_place() {
    for (said, told) in [(Some(17), 17), (None, 1)] {
        let error = GenerateError::Busy {
            message: String::new(),
            retry_after_s: said,
        };
        assert_eq!(explain(&error, "req-1").retry_after_s, Some(told));
    }
}
