//! A vocabulary with a token for each byte.

use gguf::{Array, Value};

/// Tokens of the smallest vocabulary: three special ones and one for each byte.
pub const LEAST_TOKENS: u32 = 3 + 256;

/// Kinds of tokens, numbered as in GGUF files.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const BYTE: i32 = 6;

const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";

/// The entries of a vocabulary of `tokens` tokens, beginning with the special ones and the bytes.
pub(crate) fn entries(tokens: u32) -> Vec<(String, Value)> {
    let mut texts = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    let mut kinds = vec![UNKNOWN, CONTROL, CONTROL];
    texts.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    kinds.resize(texts.len(), BYTE);
    texts.extend((LEAST_TOKENS..tokens).map(|token| format!("<filler {token}>")));
    kinds.resize(texts.len(), NORMAL);
    let scores = (0..texts.len()).map(|place| -(place as f32));
    let entries = [
        ("model", Value::string("llama")),
        ("scores", Value::Array(Array::of_f32(scores))),
        ("token_type", Value::Array(Array::of_i32(kinds))),
        ("tokens", Value::Array(Array::of_strings(texts))),
        ("bos_token_id", Value::U32(1)),
        ("eos_token_id", Value::U32(2)),
        ("unknown_token_id", Value::U32(0)),
        ("add_bos_token", Value::Bool(true)),
    ];
    entries
        .into_iter()
        .map(|(key, value)| (format!("tokenizer.ggml.{key}"), value))
        .chain([("tokenizer.chat_template".to_owned(), Value::string(CHAT_TEMPLATE))])
        .collect()
}
