//! Stop strings over a stream of text: what could be the beginning of one is held back until it is decided.

#[cfg(test)]
mod tests;

/// Text that may be sent, and whether a stop string came after it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Never contains a stop string, nor any part of the one that ended it.
    pub text: String,
    /// A stop string was found: nothing may follow.
    pub stopped: bool,
}

/// Cuts a stream of text before the first stop string. Holds back fewer bytes than the longest of them.
#[derive(Debug)]
pub struct StopFilter {
    stops: Vec<String>,
    held: String,
}

impl StopFilter {
    /// Empty strings never stop anything.
    #[must_use]
    pub fn new(stops: Vec<String>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        Self {
            stops,
            held: String::new(),
        }
    }

    /// Takes the next piece of text and gives what is certain to be no part of a stop string.
    pub fn push(&mut self, text: &str) -> Passed {
        self.held.push_str(text);
        if let Some(start) = self.stops.iter().filter_map(|stop| self.held.find(stop)).min() {
            self.held.truncate(start);
            return Passed {
                text: std::mem::take(&mut self.held),
                stopped: true,
            };
        }
        let undecided = self.held.split_off(self.decided_bytes());
        Passed {
            text: std::mem::replace(&mut self.held, undecided),
            stopped: false,
        }
    }

    /// What was held back when the stream ended otherwise: it was no stop string after all.
    #[must_use]
    pub fn finish(self) -> String {
        self.held
    }

    /// Where the longest suffix begins that a stop string begins with.
    fn decided_bytes(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest);
        self.held
            .char_indices()
            .map(|(start, _)| start)
            .filter(|start| *start >= from)
            .find(|start| self.stops.iter().any(|stop| stop.starts_with(&self.held[*start..])))
            .unwrap_or(self.held.len())
    }
}
