//! Base62 of 64-bit words, 11 digits each, in order: ids and event ids are made of such words. A word at a time is many
//! times faster than the division of 128-bit numbers, and every record carries several ids.

/// Digits of a word.
pub const DIGITS: usize = 11;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A word as digits; greater words have greater texts.
pub fn write(mut word: u64) -> [u8; DIGITS] {
    let mut digits = [b'0'; DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[usize::try_from(word % 62).expect("below 62")];
        word /= 62;
    }
    digits
}

/// The word behind exactly 11 digits.
pub fn read(digits: &[u8]) -> Option<u64> {
    if digits.len() != DIGITS {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'Z' => Some(digit - b'A' + 10),
        b'a'..=b'z' => Some(digit - b'a' + 36),
        _ => None,
    };
    digits.iter().try_fold(0u64, |word, digit| word.checked_mul(62)?.checked_add(u64::from(value(*digit)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back_and_keep_their_order() {
        let words = [0, 1, 61, 62, u64::from(u32::MAX), u64::MAX - 1, u64::MAX];
        assert!(words.map(write).is_sorted());
        for word in words {
            assert_eq!(read(&write(word)), Some(word));
        }
        for text in ["", "0", "0000000000!", "zzzzzzzzzzz", "000000000000"] {
            assert_eq!(read(text.as_bytes()), None, "{text}");
        }
    }
}
