//! Numbers as text, straight into a buffer: the formatter of the standard library costs several
//! times as much, and every request needs a few. Called for log lines and header values.

/// Of the longest `u64`.
const MAX_DIGITS: usize = 20;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends the number in decimal.
pub fn push_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; MAX_DIGITS];
    let mut at = MAX_DIGITS;
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// The number as 32 hexadecimal digits.
pub fn hex(number: u128) -> [u8; 32] {
    let mut text = [0u8; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(number.to_be_bytes()) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 15)];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn as_the_standard_library_writes_them(small in any::<u64>(), large in any::<u128>()) {
            for number in [small, small >> 40, 0, 9, 10, u64::MAX] {
                let mut out = Vec::new();
                push_decimal(&mut out, number);
                prop_assert_eq!(out, number.to_string().into_bytes());
            }
            prop_assert_eq!(hex(large).to_vec(), format!("{large:032x}").into_bytes());
        }
    }
}
