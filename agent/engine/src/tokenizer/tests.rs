use super::*;

fn lines(input: &[u8]) -> Vec<Line> {
    let mut reader = io::BufReader::with_capacity(7, input);
    let mut lines = Vec::new();
    loop {
        match read_line(&mut reader).unwrap() {
            Line::End => return lines,
            line => lines.push(line),
        }
    }
}

#[test]
fn lines_are_read_whole_whatever_the_buffer_and_the_last_needs_no_newline() {
    let read: Vec<_> = lines(b"one\n\na longer line than the buffer\nlast")
        .into_iter()
        .map(|line| match line {
            Line::Read(line) => String::from_utf8(line).unwrap(),
            Line::TooLong | Line::End => "?".to_owned(),
        })
        .collect();
    assert_eq!(read, ["one", "", "a longer line than the buffer", "last"]);
}

#[test]
fn a_line_above_the_limit_is_skipped_and_the_next_one_read() {
    let mut input = vec![b'x'; MAX_LINE_BYTES + 1];
    input.extend_from_slice(b"\nnext\n");
    let mut reader = io::BufReader::new(&input[..]);
    assert!(matches!(read_line(&mut reader).unwrap(), Line::TooLong));
    assert!(matches!(read_line(&mut reader).unwrap(), Line::Read(line) if line == b"next"));
    assert!(matches!(read_line(&mut reader).unwrap(), Line::End));
}

#[test]
fn answers_have_the_shape_that_the_protocol_states() {
    let text = |answer: &Answer| serde_json::to_string(answer).unwrap();
    assert_eq!(text(&Answer::tokens(3, vec![1, 2])), r#"{"id":3,"tokens":[1,2]}"#);
    assert_eq!(text(&Answer::error(None, "no".into())), r#"{"id":null,"error":"no"}"#);
    assert_eq!(protocol::id_of(br#"{"id":9,"tokenise":{}}"#), Some(9));
    assert_eq!(protocol::id_of(b"{\"id\":"), None);
}
