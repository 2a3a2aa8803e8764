//! What a character is to the token estimate and to the search for terms: its script and its folded form.

/// The last character boundary at or before `at`.
pub(super) fn boundary_before(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0)
}

/// The first character boundary at or after `at`.
pub(super) fn boundary_after(text: &str, at: usize) -> usize {
    (at..text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(text.len())
}

/// Letters of Latin script beyond ASCII.
pub(super) fn is_latin(c: char) -> bool {
    matches!(u32::from(c), 0xaa | 0xba | 0xc0..=0xd6 | 0xd8..=0xf6 | 0xf8..=0x24f | 0x1e00..=0x1eff)
}

/// Marks that decomposed text puts behind a letter.
pub(super) fn is_combining(c: char) -> bool {
    matches!(u32::from(c), 0x300..=0x36f)
}

/// Scripts in which a term stands amid others without spaces, or takes particles at its end: Thai to Khmer, Kana, Han, Hangul.
pub(super) fn is_unspaced(c: char) -> bool {
    let c = u32::from(c);
    matches!(c,
            0x3040..=0x30ff | 0x3400..=0x9fff | 0xac00..=0xd7af | 0x0e00..=0x0eff | 0x1000..=0x109f | 0x1100..=0x11ff
            | 0x1780..=0x17ff | 0x3130..=0x318f | 0xf900..=0xfaff | 0x2_0000..=0x3_ffff)
}

/// Whether `c` goes on with a spaced word.
pub(super) fn is_word(c: char) -> bool {
    match u32::from(c) {
        0..=0x7f => c.is_ascii_alphanumeric(),
        // Common letters, without a look into the tables of Unicode.
        0x00d8..=0x00f6 | 0x0300..=0x036f | 0x0400..=0x0481 | 0x0620..=0x064a => true,
        // The tables come last: they are slow.
        _ => !is_unspaced(c) && c.is_alphanumeric(),
    }
}

/// The form in which terms are compared: small, Latin letters without diacritics, full-width forms narrow, white space a space.
pub(super) fn fold(c: char) -> char {
    let moved = |to: u32| char::from_u32(to).unwrap_or(c);
    match u32::from(c) {
        0..=0x7f => {
            if c.is_ascii_whitespace() {
                ' '
            } else {
                c.to_ascii_lowercase()
            }
        }
        0x3040..=0x9fff | 0xac00..=0xd7af => c,
        0xa0 | 0x3000 => ' ',
        // Cyrillic by arithmetic; what has no case, as it is.
        0x0401 | 0x0451 => 'е',
        upper @ 0x0400..=0x040f => moved(upper + 0x50),
        upper @ 0x0410..=0x042f => moved(upper + 0x20),
        0x0430..=0x045f | 0x0590..=0x109f => c,
        // U+FF01..U+FF5E mirror U+0021..U+007E.
        wide @ 0xff01..=0xff5e => moved(wide - 0xfee0).to_ascii_lowercase(),
        _ => bare(c.to_lowercase().next().unwrap_or(c)),
    }
}

fn bare(c: char) -> char {
    match c {
        'à'..='å' | 'ā' | 'ă' | 'ą' => 'a',
        'ç' | 'ć' | 'ĉ' | 'ċ' | 'č' => 'c',
        'ď' | 'đ' => 'd',
        'è'..='ë' | 'ē' | 'ĕ' | 'ė' | 'ę' | 'ě' => 'e',
        'ĝ' | 'ğ' | 'ġ' | 'ģ' => 'g',
        'ì'..='ï' | 'ĩ' | 'ī' | 'ĭ' | 'į' | 'ı' => 'i',
        'ĺ' | 'ļ' | 'ľ' | 'ł' => 'l',
        'ñ' | 'ń' | 'ņ' | 'ň' => 'n',
        'ò'..='ö' | 'ø' | 'ō' | 'ŏ' | 'ő' => 'o',
        'ŕ' | 'ŗ' | 'ř' => 'r',
        'ś' | 'ŝ' | 'ş' | 'š' | 'ș' => 's',
        'ţ' | 'ť' | 'ț' => 't',
        'ù'..='ü' | 'ũ' | 'ū' | 'ŭ' | 'ů' | 'ű' | 'ų' => 'u',
        'ý' | 'ÿ' => 'y',
        'ź' | 'ż' | 'ž' => 'z',
        'ά' => 'α',
        'έ' => 'ε',
        'ή' => 'η',
        'ί' => 'ι',
        'ό' => 'ο',
        'ύ' => 'υ',
        'ώ' => 'ω',
        'ς' => 'σ',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::fold;

    #[test]
    fn folding_ignores_case_diacritics_and_width() {
        let folded = |s: &str| s.chars().map(fold).collect::<String>();
        assert_eq!(folded("Komplexität ÉTÀPE Żółw"), "komplexitat etape zołw".replace('ł', "l"));
        assert_eq!(folded("ＡＰＩ\u{3000}Алгоритм Ёлка"), "api алгоритм елка");
        assert_eq!(folded("Αλγόριθμος"), "αλγοριθμοσ");
        assert_eq!(folded("算法\tx"), "算法 x");
    }
}
