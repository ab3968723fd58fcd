//! Which file of `src/` needs which other: read from the text, token by token.
//!
//! `mod` declarations and `pub use` make no edge. Every other path does, to the file that defines what it names: names are
//! looked up as the compiler does it, through modules, re-exports and imports. A re-export whose name the same file uses
//! itself is an import. What stands under `#[cfg(test)]` is not looked at. A path into the crate that leads nowhere is a fault
//! of this reader, and told.

use std::collections::{BTreeMap, BTreeSet};

use super::tokens::{tokens, without_tests};

/// What a file says of others.
struct Source {
    name: String,
    module: Vec<String>,
    /// Items of its module.
    defines: BTreeSet<String>,
    uses: Vec<Use>,
    /// Paths outside of imports.
    paths: Vec<Vec<String>>,
    /// Names that stand outside of imports where an item may be meant.
    words: BTreeSet<String>,
    /// Files that stand in for a child module in another build.
    instead: Vec<(String, String)>,
}

struct Use {
    is_public: bool,
    path: Vec<String>,
    /// Under which name; `*` for all.
    name: String,
}

/// What a path names.
enum Found {
    Module(Vec<String>),
    /// An item, and the files that define it: two when a module has two of them, by the build.
    Item(BTreeSet<String>),
    Foreign,
    Nothing,
}

/// The edges between files, and the paths that lead nowhere.
pub struct Graph {
    pub edges: BTreeMap<String, BTreeSet<String>>,
    pub faults: Vec<String>,
}

impl Graph {
    /// Of these files, each by its name below `src/` and its text.
    pub fn read<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut sources: Vec<Source> = files.into_iter().map(|(name, text)| read(name, text)).collect();
        let instead: Vec<(String, Vec<String>)> = sources.iter().flat_map(stand_ins).collect();
        for (file, module) in instead {
            sources
                .iter_mut()
                .filter(|source| source.name == file)
                .for_each(|source| source.module.clone_from(&module));
        }
        let (mut edges, mut faults) = (BTreeMap::new(), Vec::new());
        let names = Names { sources: &sources };
        for source in &sources {
            let imports = source.uses.iter().filter(|import| !import.is_public || source.words.contains(&import.name));
            let mut to = BTreeSet::new();
            for path in imports.map(|import| &import.path).chain(&source.paths) {
                match names.resolve(&source.module, path, 0) {
                    Found::Item(files) => to.extend(files),
                    Found::Nothing => faults.push(format!("{}: {} leads nowhere", source.name, path.join("::"))),
                    Found::Module(_) | Found::Foreign => {}
                }
            }
            to.remove(&source.name);
            edges.insert(source.name.clone(), to);
        }
        Self { edges, faults }
    }

    /// Files each of which needs all others, in one line for each such group.
    pub fn circles(&self) -> Vec<String> {
        let reaches: BTreeMap<&str, BTreeSet<&str>> =
            self.edges.keys().map(|file| (file.as_str(), self.reached_from(file))).collect();
        let mut circles = BTreeSet::new();
        for (file, reached) in &reaches {
            let group: Vec<&str> = reached.iter().filter(|other| reaches[**other].contains(file)).copied().collect();
            if group.len() > 1 {
                circles.insert(group.join(" "));
            }
        }
        circles.into_iter().collect()
    }

    /// Who needs whom in a circle.
    pub fn inside(&self, circle: &str) -> String {
        let files: Vec<&str> = circle.split(' ').collect();
        let line = |file: &&str| {
            let to = self.edges[*file].iter().map(String::as_str).filter(|to| files.contains(to));
            format!("{file} needs {}\n", to.collect::<Vec<_>>().join(", "))
        };
        files.iter().map(line).collect()
    }

    fn reached_from<'a>(&'a self, file: &'a str) -> BTreeSet<&'a str> {
        let (mut reached, mut open) = (BTreeSet::new(), vec![file]);
        while let Some(next) = open.pop() {
            let new = self.edges[next].iter().map(String::as_str).filter(|to| reached.insert(*to));
            open.extend(new.collect::<Vec<_>>());
        }
        reached
    }
}

struct Names<'a> {
    sources: &'a [Source],
}

impl Names<'_> {
    fn of<'a>(&'a self, module: &'a [String]) -> impl Iterator<Item = &'a Source> {
        self.sources.iter().filter(move |source| source.module == module)
    }

    fn resolve(&self, from: &[String], path: &[String], depth: usize) -> Found {
        assert!(depth < 20, "{path:?} in {from:?} is imported in a circle");
        let (mut here, mut inside) = (from.to_vec(), false);
        for (at, name) in path.iter().enumerate() {
            match name.as_str() {
                "crate" | "chatkeep" if at == 0 => (here, inside) = (Vec::new(), true),
                "self" => inside = true,
                "super" => {
                    here.pop();
                    inside = true;
                }
                name => match self.look_up(&here, name, at + 1 == path.len(), depth) {
                    Found::Module(module) => (here, inside) = (module, true),
                    Found::Nothing if !inside => return Found::Foreign,
                    found => return found,
                },
            }
        }
        Found::Module(here)
    }

    fn look_up(&self, module: &[String], name: &str, is_last: bool, depth: usize) -> Found {
        let files: BTreeSet<String> =
            self.of(module).filter(|source| source.defines.contains(name)).map(|source| source.name.clone()).collect();
        let child: Vec<String> = module.iter().cloned().chain([name.to_owned()]).collect();
        if self.of(&child).next().is_some() && (!is_last || files.is_empty()) {
            return Found::Module(child);
        }
        if !files.is_empty() {
            return Found::Item(files);
        }
        let imports = || self.of(module).flat_map(|source| &source.uses);
        if let Some(import) = imports().find(|import| import.name == name) {
            return self.resolve(module, &import.path, depth + 1);
        }
        for all in imports().filter(|import| import.name == "*") {
            if let Found::Module(from) = self.resolve(module, &all.path, depth + 1)
                && let found @ (Found::Item(_) | Found::Module(_)) = self.look_up(&from, name, is_last, depth + 1)
            {
                return found;
            }
        }
        Found::Nothing
    }
}

fn module_of(name: &str) -> Vec<String> {
    name.trim_end_matches(".rs").split('/').filter(|part| *part != "lib").map(str::to_owned).collect()
}

/// The files that stand in for a child of that one, and for which.
fn stand_ins(source: &Source) -> Vec<(String, Vec<String>)> {
    let folder = source.name.rsplit_once('/').map_or("", |(folder, _)| folder);
    let found = source.instead.iter().map(|(file, child)| {
        let name = format!("{folder}/{file}").trim_start_matches('/').to_owned();
        (name, source.module.iter().cloned().chain([child.clone()]).collect())
    });
    found.collect()
}

fn read(name: &str, text: &str) -> Source {
    let tokens = without_tests(&tokens(text));
    let mut source = Source {
        name: name.to_owned(),
        module: module_of(name),
        defines: BTreeSet::new(),
        uses: Vec::new(),
        paths: Vec::new(),
        words: BTreeSet::new(),
        instead: Vec::new(),
    };
    let at = |at: usize| tokens.get(at).map_or("", String::as_str);
    let (mut i, mut depth) = (0, 0);
    while i < tokens.len() {
        let before = if i > 0 { at(i - 1) } else { "" };
        match at(i) {
            "{" => depth += 1,
            "}" => depth -= 1,
            "use" if at(i + 1) != "<" => {
                let is_public = before == "pub" || (before == ")" && i >= 4 && at(i - 4) == "pub");
                i = read_use(&tokens, i + 1, &[], is_public, &mut source.uses);
                continue;
            }
            "fn" | "struct" | "enum" | "union" | "trait" | "type" | "static" | "const" if depth == 0 => {
                let name = [i + 1, i + 2].map(at).into_iter().find(|word| !["mut", "fn", "unsafe"].contains(word));
                source.defines.extend(name.filter(|name| is_name(name)).map(str::to_owned));
            }
            "path" if at(i + 1) == "=" && at(i + 2).starts_with('"') => {
                let of = (i..tokens.len()).find(|&k| at(k) == "mod").map_or("", |k| at(k + 1));
                source.instead.push((at(i + 2).trim_matches('"').to_owned(), of.to_owned()));
            }
            word if is_name(word) && !["::", ".", "$", "fn", "in", "mod"].contains(&before) => {
                let mut path = vec![word.to_owned()];
                while at(i + 1) == "::" && is_name(at(i + 2)) {
                    path.push(at(i + 2).to_owned());
                    i += 2;
                }
                let is_item = path[0].starts_with(char::is_uppercase) || ["::", "(", "!"].contains(&at(i + 1));
                if is_item || path.len() > 1 {
                    source.words.insert(path[0].clone());
                }
                if path.len() > 1 {
                    source.paths.push(path);
                }
            }
            _ => {}
        }
        i += 1;
    }
    source
}

/// Reads a tree of imports from `at` on; returns where it ends.
fn read_use(tokens: &[String], mut at: usize, above: &[String], is_public: bool, to: &mut Vec<Use>) -> usize {
    let mut path = above.to_vec();
    loop {
        match tokens[at].as_str() {
            "::" => {}
            "{" => {
                while tokens[at] != "}" {
                    at += 1;
                    if tokens[at] != "}" {
                        at = read_use(tokens, at, &path, is_public, to);
                    }
                }
                return at + 1;
            }
            "*" => {
                to.push(Use { is_public, path, name: "*".to_owned() });
                return at + 1;
            }
            "as" => {
                to.push(Use { is_public, path, name: tokens[at + 1].clone() });
                return at + 2;
            }
            "," | ";" | "}" => {
                let name = path.iter().rev().find(|part| *part != "self").cloned().unwrap_or_default();
                to.push(Use { is_public, path, name });
                return at;
            }
            name => path.push(name.to_owned()),
        }
        at += 1;
    }
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}
