//! The tokenizer executable, as its parent sees it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use engine::tokenizer::{Tokenizer, TokenizerError, serve};
use gguf::encode::HeaderBuilder;
use gguf::{Gguf, vocabulary};
use serde_json::{Value, json};

struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(vocabulary: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_shardwright-tokenizer"))
            .arg("--vocabulary")
            .arg(vocabulary)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    fn say(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(line.as_bytes()).unwrap();
        input.write_all(b"\n").unwrap();
        input.flush().unwrap();
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn ask(&mut self, line: &str) -> Value {
        self.say(line);
        self.hear()
    }
}

#[test]
fn a_vocabulary_without_weights_is_served_until_the_input_ends() {
    let Some(model) = support::model_file() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vocabulary.gguf");
    std::fs::write(&file, vocabulary(&Gguf::open(&model).unwrap()).unwrap()).unwrap();
    let mut process = Process::start(&file);

    let ready = process.hear()["ready"].take();
    let pieces = ready["pieces_base64"].as_array().unwrap();
    assert_eq!(pieces.len(), 49_152);
    assert_eq!((&ready["bos"], &ready["eos"]), (&json!(1), &json!(2)));
    assert!(ready["eog"].as_array().unwrap().contains(&json!(2)));
    assert_eq!(ready["add_bos"], json!(false));

    let answer =
        process.ask(r#"{"id":7,"tokenize":{"text":"<|im_start|>user\nHi","parse_special":true,"add_special":false}}"#);
    assert_eq!(answer["id"], json!(7));
    let tokens = answer["tokens"].as_array().unwrap();
    assert_eq!(tokens[0], json!(1));
    let text = |token: &Value| {
        use base64::Engine as _;
        let piece = pieces[token.as_u64().unwrap() as usize].as_str().unwrap();
        base64::engine::general_purpose::STANDARD.decode(piece).unwrap()
    };
    // The control token stands for nothing.
    assert_eq!(tokens.iter().flat_map(text).collect::<Vec<u8>>(), b"user\nHi");
    let plain = process.ask(r#"{"id":8,"tokenize":{"text":"<|im_start|>"}}"#);
    assert!(plain["tokens"].as_array().unwrap().len() > 1);

    drop(process.input.take());
    assert!(process.child.wait().unwrap().success());
}

#[test]
fn a_bad_line_is_answered_with_an_error_and_the_next_one_as_if_nothing_was() {
    let Some(model) = support::model_file() else { return };
    let mut process = Process::start(&model);
    assert!(process.hear()["ready"].is_object());
    for (line, id) in [
        ("not json", Value::Null),
        (r#"{"id":3}"#, json!(3)),
        (r#"{"id":4,"tokenize":{"text":5}}"#, json!(4)),
        (r#"{"id":5,"tokenize":{"text":"a","speed":"high"}}"#, json!(5)),
        (r#"{"id":-1,"tokenize":{"text":"a"}}"#, Value::Null),
        ("\u{0}\u{1}[[[[", Value::Null),
    ] {
        let answer = process.ask(line);
        assert_eq!(answer["id"], id, "{line}");
        assert!(answer["error"].is_string(), "{line}: {answer}");
    }
    let long = format!(
        r#"{{"id":6,"tokenize":{{"text":"{}"}}}}"#,
        "a".repeat(4 * 1024 * 1024 + 1)
    );
    assert!(process.ask(&long)["error"].as_str().unwrap().contains("4194304"));
    let unusual = process.ask(r#"{"id":9,"tokenize":{"text":"\u0000 \ud83d\ude80 \uffff"}}"#);
    assert!(unusual["tokens"].is_array(), "{unusual}");
    let empty = process.ask(r#"{"id":10,"tokenize":{"text":""}}"#);
    assert_eq!(empty, json!({"id": 10, "tokens": []}));
}

#[test]
fn a_file_that_is_no_vocabulary_ends_the_process_with_a_data_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vocabulary.gguf");
    std::fs::write(&file, b"GGUF but not really").unwrap();
    let mut process = Process::start(&file);
    assert_eq!(process.child.wait().unwrap().code(), Some(65));
}

#[test]
fn a_vocabulary_that_cannot_serve_is_refused_by_its_path_and_why() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vocabulary.gguf");
    let refused = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        let code = Process::start(&file).child.wait().unwrap().code();
        assert_eq!(code, Some(65));
        Tokenizer::open(&file).unwrap_err()
    };
    let error = refused(b"GGUF but not really");
    assert!(matches!(error, TokenizerError::LoadRefused { .. }), "{error}");
    let named = format!("cannot load the vocabulary {}: ", file.display());
    assert!(error.to_string().starts_with(&named), "{error}");

    let mut mute = HeaderBuilder::new();
    mute.entry("general.architecture", &gguf::Value::string("llama"))
        .entry("tokenizer.ggml.model", &gguf::Value::string("none"));
    let error = refused(&mute.finish());
    assert!(matches!(error, TokenizerError::Unusable { .. }), "{error}");
    let said = format!(
        "{}: it has no tokenizer; give a model file with its tokenizer",
        file.display()
    );
    assert_eq!(error.to_string(), said);
}

#[test]
fn where_nobody_takes_its_answers_the_process_ends_and_it_is_no_data_error() {
    let Some(model) = support::model_file() else { return };
    let tokenizer = Tokenizer::open(&model).unwrap();
    let error = serve(&tokenizer, &b""[..], &mut [0u8; 8][..]).unwrap_err();
    assert!(matches!(error, TokenizerError::Stream(_)), "{error}");
    assert!(
        error.to_string().starts_with("the tokenizer's stream failed: "),
        "{error}"
    );

    let Process {
        mut child,
        input,
        output,
    } = Process::start(&model);
    // Of what it says first, more than a pipe holds.
    drop(output);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    drop(input);
}

#[test]
fn tokens_and_pieces_give_the_text_back() {
    let Some(model) = support::model_file() else { return };
    let tokenizer = Tokenizer::open(&model).unwrap();
    for text in [
        "plain",
        " leading space",
        "naïve café — 東京 🚀",
        "tabs\tand\nnewlines\r\n",
        "",
    ] {
        let tokens = tokenizer.tokenize(text, false, false).unwrap();
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| tokenizer.piece(*token)).collect();
        assert_eq!(String::from_utf8(bytes).unwrap(), text);
    }
    assert!(tokenizer.piece(-1).is_empty());
    assert!(tokenizer.piece(i32::MAX).is_empty());
}
