//! The text of a file as tokens, what stands under `#[cfg(test)]` left out, and what needs no more than those.

/// Names, `::`, quoted strings and single signs; comments, characters and lifetimes are left out.
pub fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let (mut found, mut i) = (Vec::new(), 0);
    while i < chars.len() {
        match at(i) {
            '/' if at(i + 1) == '/' => i += chars[i..].iter().take_while(|c| **c != '\n').count(),
            '/' if at(i + 1) == '*' => i = end_of_comment(&chars, i),
            '"' => {
                let end = end_of_string(&chars, i + 1);
                found.push(chars[i..end].iter().collect());
                i = end;
            }
            '\'' if at(i + 1) == '\\' || at(i + 2) == '\'' => {
                // The escaped character may be a quote itself.
                let behind = i + if at(i + 1) == '\\' { 3 } else { 2 };
                i = behind + chars[behind..].iter().take_while(|c| **c != '\'').count() + 1;
            }
            '\'' => i += 1 + name_at(&chars, i + 1).len(),
            ':' if at(i + 1) == ':' => {
                found.push("::".to_owned());
                i += 2;
            }
            c if c.is_alphanumeric() || c == '_' => {
                let name = name_at(&chars, i);
                i += name.len();
                match raw_string(&chars, i).filter(|_| ["r", "br", "cr"].contains(&&*name)) {
                    Some(end) => i = end,
                    None if at(i) == '"' && ["b", "c"].contains(&&*name) => {}
                    None if at(i) == '\'' && name == "b" => {}
                    None => found.push(name),
                }
            }
            c => {
                if !c.is_whitespace() {
                    found.push(c.to_string());
                }
                i += 1;
            }
        }
    }
    found
}

fn name_at(chars: &[char], i: usize) -> String {
    chars[i..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').collect()
}

fn end_of_comment(chars: &[char], mut i: usize) -> usize {
    let mut depth = 0;
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

/// Behind the quote that closes a string whose text begins at `i`.
fn end_of_string(chars: &[char], mut i: usize) -> usize {
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// Behind the raw string whose hashes or quote stand at `i`, if one does.
fn raw_string(chars: &[char], i: usize) -> Option<usize> {
    let hashes = chars[i..].iter().take_while(|c| **c == '#').count();
    if chars.get(i + hashes) != Some(&'"') {
        return None;
    }
    let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let begin = i + hashes + 1;
    chars[begin..].windows(end.len()).position(|part| part == end).map(|n| begin + n + end.len())
}

/// The same without the items, fields and statements under `#[cfg(test)]`.
pub fn without_tests(tokens: &[String]) -> Vec<String> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let (mut kept, mut i) = (Vec::new(), 0);
    while i < tokens.len() {
        if tokens[i..].iter().take(MARK.len()).eq(MARK.iter()) {
            i = end_of_item(tokens, i + MARK.len());
        } else {
            kept.push(tokens[i].clone());
            i += 1;
        }
    }
    kept
}

const ITEMS: [&str; 10] = ["fn", "mod", "use", "impl", "struct", "enum", "trait", "const", "static", "type"];

fn end_of_item(tokens: &[String], mut i: usize) -> usize {
    while tokens.get(i).is_some_and(|token| token == "#") {
        i = behind_group(tokens, i + 1);
    }
    let (mut is_item, mut is_use) = (false, false);
    while let Some(token) = tokens.get(i) {
        match token.as_str() {
            "{" if is_use => i = behind_group(tokens, i),
            "{" => return behind_group(tokens, i),
            "(" | "[" => i = behind_group(tokens, i),
            ";" => return i + 1,
            "," if !is_item => return i + 1,
            // The last field or statement of a block.
            "}" => return i,
            word => {
                is_item |= ITEMS.contains(&word);
                is_use |= word == "use";
                i += 1;
            }
        }
    }
    i
}

/// Behind the bracket that closes the one at `i`.
fn behind_group(tokens: &[String], mut i: usize) -> usize {
    let mut depth = 0;
    while let Some(token) = tokens.get(i) {
        i += 1;
        match token.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    i
}

/// How many named fields each struct of a file has.
pub fn fields(text: &str) -> Vec<(String, usize)> {
    let tokens = without_tests(&tokens(text));
    let mut found = Vec::new();
    for at in (0..tokens.len()).filter(|&at| tokens[at] == "struct") {
        let body = tokens[at..].iter().position(|token| ["{", "(", ";"].contains(&token.as_str()));
        let Some(open) = body.map(|n| at + n).filter(|&open| tokens[open] == "{") else { continue };
        let (mut depth, mut count) = (0, 0);
        for token in &tokens[open..behind_group(&tokens, open)] {
            match token.as_str() {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                ":" if depth == 1 => count += 1,
                _ => {}
            }
        }
        found.push((tokens[at + 1].clone(), count));
    }
    found
}
