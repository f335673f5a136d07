//! One Rust file taken apart just far enough for the rules: code without comments and literals, the literals, what is
//! only test code. Knows no rule.

/// A string literal and where it stands.
#[derive(Clone, Debug)]
pub struct Literal {
    /// Counted from 1.
    pub line: usize,
    /// Index into the characters of the file.
    pub at: usize,
    /// Between the quotes, escapes as written.
    pub text: String,
}

/// A file, taken apart.
#[derive(Clone, Debug)]
pub struct Source {
    /// The code; comments and the insides of literals are blanks, so that every line and index is where it was.
    pub code: Vec<char>,
    /// The literals, in order.
    pub literals: Vec<Literal>,
    /// Lines of the file, those of test items left out.
    pub lines: usize,
}

impl Source {
    /// The whole file.
    pub fn whole(text: &str) -> Self {
        let mut reader = Reader { text: text.chars().collect(), code: Vec::new(), literals: Vec::new() };
        while reader.code.len() < reader.text.len() {
            reader.step();
        }
        Self { code: reader.code, literals: reader.literals, lines: text.lines().count() }
    }

    /// The file without the items under `#[cfg(test)]`.
    pub fn product(text: &str) -> Self {
        let mut source = Self::whole(text);
        while let Some(from) = find(&source.code, "#[cfg(test)]", 0) {
            let to = item_end(&source.code, from);
            let lines = source.code[from..to].iter().filter(|c| **c == '\n').count() + 1;
            source.lines = source.lines.saturating_sub(lines);
            blank(&mut source.code[from..to]);
            source.literals.retain(|literal| !(from..to).contains(&literal.at));
        }
        source
    }

    /// The code as lines, the first numbered 1.
    pub fn numbered(&self) -> impl Iterator<Item = (usize, String)> {
        self.code.split(|c| *c == '\n').map(|line| line.iter().collect()).enumerate().map(|(n, line)| (n + 1, line))
    }

    /// The code after each `what`, with its line.
    pub fn after(&self, what: &str) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        let mut from = 0;
        while let Some(at) = find(&self.code, what, from) {
            from = at + what.chars().count();
            let rest = self.code[from..].iter().take(2_000).collect();
            found.push((line_of(&self.code, at), rest));
        }
        found
    }

    /// Where each word `word` stands: not as a part of a longer name.
    pub fn word(&self, word: &str) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        let mut from = 0;
        while let Some(at) = find(&self.code, word, from) {
            from = at + word.chars().count();
            let joined = |c: Option<&char>| c.is_some_and(|c| is_name(*c));
            if !joined(at.checked_sub(1).and_then(|before| self.code.get(before))) && !joined(self.code.get(from)) {
                found.push((line_of(&self.code, at), self.code[from..].iter().take(200).collect()));
            }
        }
        found
    }

    /// What stands between the braces after `opening`, as a range of indices.
    pub fn block(&self, opening: &str) -> Option<std::ops::Range<usize>> {
        let from = find(&self.code, opening, 0)?;
        Some(from..item_end(&self.code, from))
    }
}

/// Whether `c` may be a part of a name.
pub fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The name that `text` begins with, blanks apart.
pub fn leading_name(text: &str) -> String {
    text.trim_start().chars().take_while(|c| is_name(*c)).collect()
}

struct Reader {
    text: Vec<char>,
    code: Vec<char>,
    literals: Vec<Literal>,
}

impl Reader {
    /// Takes one comment, literal or character.
    fn step(&mut self) {
        let at = self.code.len();
        let (this, next) = (self.text[at], self.text.get(at + 1).copied());
        match (this, next) {
            ('/', Some('/')) => self.comment_line(),
            ('/', Some('*')) => self.comment_block(),
            ('"', _) => self.string(),
            ('r', Some('"' | '#')) if self.opens_raw(at) => self.raw_string(),
            ('\'', Some('\\')) => self.skip_to(at + 3, |c| c == '\''),
            ('\'', Some(_)) if self.text.get(at + 2) == Some(&'\'') => self.blank_to(at + 3),
            _ => self.code.push(this),
        }
    }

    fn comment_line(&mut self) {
        let end = (self.code.len()..self.text.len()).find(|at| self.text[*at] == '\n').unwrap_or(self.text.len());
        self.blank_to(end);
    }

    fn comment_block(&mut self) {
        let mut depth = 0;
        let mut at = self.code.len();
        while at < self.text.len() {
            match (self.text[at], self.text.get(at + 1)) {
                ('/', Some('*')) => (depth, at) = (depth + 1, at + 1),
                ('*', Some('/')) => (depth, at) = (depth - 1, at + 1),
                _ => {}
            }
            at += 1;
            if depth == 0 {
                break;
            }
        }
        self.blank_to(at);
    }

    fn string(&mut self) {
        let from = self.code.len() + 1;
        let mut to = from;
        while to < self.text.len() && self.text[to] != '"' {
            to += if self.text[to] == '\\' { 2 } else { 1 };
        }
        self.literal(from, to, to + 1);
    }

    /// `r` opens a raw string: no name ends here, and after any number of `#` comes a quote.
    fn opens_raw(&self, at: usize) -> bool {
        let joined = at > 0 && is_name(self.text[at - 1]) && !matches!(self.text[at - 1], 'b' | 'c');
        !joined && self.text[at + 1..].iter().find(|c| **c != '#') == Some(&'"')
    }

    fn raw_string(&mut self) {
        let at = self.code.len() + 1;
        let hashes = self.text[at..].iter().take_while(|c| **c == '#').count();
        let closing = format!("\"{}", "#".repeat(hashes));
        let from = at + hashes + 1;
        let to = find(&self.text, &closing, from).unwrap_or(self.text.len());
        self.literal(from, to, to + 1 + hashes);
    }

    fn literal(&mut self, from: usize, to: usize, end: usize) {
        let to = to.min(self.text.len());
        let text = self.text[from.min(to)..to].iter().collect();
        self.literals.push(Literal { line: line_of(&self.text, from), at: from, text });
        self.blank_to(end);
    }

    fn skip_to(&mut self, from: usize, is_end: impl Fn(char) -> bool) {
        let end = (from..self.text.len()).find(|at| is_end(self.text[*at])).map_or(self.text.len(), |at| at + 1);
        self.blank_to(end);
    }

    fn blank_to(&mut self, end: usize) {
        let mut blanks = self.text[self.code.len()..end.min(self.text.len())].to_vec();
        blank(&mut blanks);
        self.code.extend(blanks);
    }
}

fn blank(part: &mut [char]) {
    for c in part.iter_mut().filter(|c| **c != '\n') {
        *c = ' ';
    }
}

fn line_of(text: &[char], at: usize) -> usize {
    text[..at.min(text.len())].iter().filter(|c| **c == '\n').count() + 1
}

fn find(text: &[char], what: &str, from: usize) -> Option<usize> {
    let what: Vec<char> = what.chars().collect();
    (from..=text.len().checked_sub(what.len())?).find(|at| text[*at..].starts_with(&what))
}

/// Where the item that begins at `from` ends: at its `;`, or with its last brace.
fn item_end(code: &[char], from: usize) -> usize {
    let mut depth = 0;
    for (at, c) in code.iter().enumerate().skip(from) {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

#[test]
fn comments_and_literals_are_taken_out() {
    let text = r##"
let a = "one \" two"; // "three"
/* "four" /* nested */ */ let b = r#"fi"ve"#; let c = ('"', '\'', "six"); fn f<'a>() {}
"##;
    let source = Source::whole(text);
    let texts: Vec<_> = source.literals.iter().map(|literal| literal.text.as_str()).collect();
    assert_eq!(texts, [r#"one \" two"#, "fi\"ve", "six"]);
    assert_eq!(source.code.len(), text.chars().count());
    let code: String = source.code.iter().collect();
    assert!(code.contains("fn f<'a>() {}") && !code.contains("nested"), "{code}");
}

#[test]
fn test_items_are_left_out_wherever_they_stand() {
    let text = "fn a() { \"a\"; }\n#[cfg(test)]\nmod tests {\n    fn b() { \"b\"; }\n}\nfn c() { \"c\"; }\n";
    let source = Source::product(text);
    let texts: Vec<_> = source.literals.iter().map(|literal| literal.text.as_str()).collect();
    assert_eq!(texts, ["a", "c"]);
    assert_eq!(source.lines, 2);
}
