//! Token ids back to text, one at a time: a token may end inside a character, which is held back until it is whole.

#[cfg(test)]
mod tests;

/// The bytes of every token of a vocabulary, packed. Tokens that must not be printed have none.
#[derive(Debug, Default)]
pub struct Pieces {
    bytes: Vec<u8>,
    /// End of each token's bytes in `bytes`; it starts where the one before ends.
    ends: Vec<usize>,
    longest_bytes: usize,
}

impl Pieces {
    /// Appends the bytes of the next token id.
    pub fn push(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
        self.ends.push(self.bytes.len());
        self.longest_bytes = self.longest_bytes.max(piece.len());
    }

    /// The bytes of `token`; `None` when the vocabulary has no such token.
    #[must_use]
    pub fn get(&self, token: i32) -> Option<&[u8]> {
        let index = usize::try_from(token).ok()?;
        let end = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        self.bytes.get(start..end)
    }

    /// How many tokens there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of the longest token: `n` bytes of text need at least `n / longest_bytes` tokens.
    #[must_use]
    pub fn longest_bytes(&self) -> usize {
        self.longest_bytes
    }
}

/// Joins tokens' bytes to text. Holds back at most the three bytes of an unfinished character; bytes that can never
/// become one are replaced by U+FFFD.
#[derive(Debug, Default)]
pub struct Detokeniser {
    pending: Vec<u8>,
}

impl Detokeniser {
    /// The text that became whole with these bytes, perhaps empty.
    pub fn push(&mut self, piece: &[u8]) -> String {
        self.pending.extend_from_slice(piece);
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    match error.error_len() {
                        Some(wrong) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &after[wrong..];
                        }
                        None => {
                            rest = after;
                            break;
                        }
                    }
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }

    /// What is left at the end: U+FFFD when a character was never finished.
    #[must_use]
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}
