//! On which line a configuration sets a key: for messages about values that are at fault. Called by
//! both configurations' loaders. Pure.

/// The line on which a key is first set; 1 where it isn't (a default).
#[must_use]
pub fn line_of(text: &str, key: &str) -> usize {
    let (section, leaf) = key.rsplit_once('.').unwrap_or(("", key));
    let mut current = "";
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[') {
            let name = name.trim_start_matches('[').split(']').next();
            current = name.unwrap_or("").trim();
        }
        let name = line.split('=').next().unwrap_or("").trim();
        if current == section && line.contains('=') && name == leaf {
            return number + 1;
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_its_section() {
        let text = "a = 1\n[s]\na = 2\n[[t.u]]\na = 3\nb=4\n";
        let lines = ["a", "s.a", "t.u.a", "t.u.b", "s.b"].map(|key| line_of(text, key));
        assert_eq!(lines, [1, 3, 5, 6, 1]);
    }
}
