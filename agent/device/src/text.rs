//! Names that come from drivers and firmware, made fit to be shown.

/// Longer than any real name.
const CHARACTERS_MAX: usize = 128;

/// At most 128 characters, none that moves a terminal's cursor or hides another; spaces at the ends are gone.
pub(crate) fn clean(text: &str) -> String {
    text.trim()
        .chars()
        .take(CHARACTERS_MAX)
        .map(|character| if is_plain(character) { character } else { '?' })
        .collect()
}

/// Whether a character shows itself and nothing else. Direction marks and joiners are no control characters to Unicode, and hide what stands beside them all the same.
pub(crate) fn is_plain(character: char) -> bool {
    let hides =
        matches!(character, '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{2069}' | '\u{FEFF}');
    !character.is_control() && !hides
}

#[cfg(test)]
mod tests;
