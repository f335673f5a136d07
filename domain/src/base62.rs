//! Base62 of 64-bit words, 11 digits each, in order: ids and event ids are made of such words. A word at a time is many
//! times faster than the division of 128-bit numbers, and every record carries several ids.

/// Digits of a word.
pub const DIGITS: usize = 11;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Digits of a group, and the numbers that it can be: groups do not wait for each other's divisions.
const GROUP: usize = 5;
const GROUP_NUMBERS: u64 = 62u64.pow(5);

/// A word as digits; greater words have greater texts.
pub fn write(word: u64) -> [u8; DIGITS] {
    let mut digits = [b'0'; DIGITS];
    let (high, low) = (word / GROUP_NUMBERS, word % GROUP_NUMBERS);
    digits[0] = ALPHABET[usize::try_from(high / GROUP_NUMBERS).expect("below 62")];
    write_group(high % GROUP_NUMBERS, &mut digits[1..=GROUP]);
    write_group(low, &mut digits[1 + GROUP..]);
    digits
}

fn write_group(number: u64, digits: &mut [u8]) {
    let mut number = u32::try_from(number).expect("below 62^5");
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[usize::try_from(number % 62).expect("below 62")];
        number /= 62;
    }
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
        let (low, high) = (GROUP_NUMBERS, GROUP_NUMBERS.pow(2));
        let words = [
            0,
            1,
            61,
            62,
            low - 1,
            low,
            low + 1,
            u64::from(u32::MAX),
            high - 1,
            high,
            high + 1,
            u64::MAX - 1,
            u64::MAX,
        ];
        assert!(words.is_sorted() && words.map(write).is_sorted());
        assert_eq!((&write(61), &write(low), &write(high)), (b"0000000000z", b"00000100000", b"10000000000"));
        for word in words {
            assert_eq!(read(&write(word)), Some(word));
        }
        for text in ["", "0", "0000000000!", "zzzzzzzzzzz", "000000000000"] {
            assert_eq!(read(text.as_bytes()), None, "{text}");
        }
    }
}
