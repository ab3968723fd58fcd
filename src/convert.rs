//! Files of other systems as lines that can be imported.
//!
//! | format | file | read by |
//! |---|---|---|
//! | `chatkeep` | an export of this server, or transcripts | passed on as it is |
//! | `python` | a document a line: the Python system's, or `mongoexport` of its collection | `documents.rs` |
//! | `langchain` | `mongoexport` of LangChain's message history | `documents.rs` |
//! | `openai` | `{"messages":[…]}`, on a line each or one request's body | `openai.rs` |
//! | `chatgpt` | the ZIP of an export, or `conversations.json` | `chatgpt.rs` |
//! | `openwebui` | the JSON of an export | `openwebui.rs` |
//! | `librechat` | the JSON of an export | `librechat.rs` |
//!
//! A file is read value by value (`source.rs`, `split.rs`); a conversation with branches becomes messages and rewinds
//! (`tree.rs`). The same file gives the same lines every time, with the same ids. Knows nothing of servers.

mod chatgpt;
mod documents;
mod format;
mod librechat;
mod line;
mod openai;
mod openwebui;
mod source;
mod split;
#[cfg(test)]
mod tests;
mod tree;

use std::fs::File;
use std::io::{BufRead, Read, Seek, SeekFrom};

use serde_json::Value;

pub use format::{ConvertError, ImportFormat, UnknownImportFormat};
pub use line::{LineSink, Placing};
pub use source::STACK_BYTES;

use documents::Documents;
use source::ValueSource;
use tree::ForeignConversation;

/// How a ZIP begins.
const ZIP: &[u8] = b"PK\x03\x04";
/// The most values of no known form before the first that tells the file's.
const UNKNOWN_MAX: usize = 100;

/// Converts a file. `from`: its format; without it that is found out by its first value. Needs a stack of [`STACK_BYTES`].
///
/// # Errors
/// See [`ConvertError`].
pub fn convert_file(
    mut file: File,
    from: Option<ImportFormat>,
    placing: &Placing,
    to: &mut dyn LineSink,
) -> Result<(), ConvertError> {
    let mut begin = [0; ZIP.len()];
    // A pipe has no beginning to go back to.
    let is_seekable = file.stream_position().is_ok();
    if is_seekable {
        let mut read = 0;
        while read < begin.len() {
            match file.read(&mut begin[read..]).map_err(ConvertError::Read)? {
                0 => break,
                more => read += more,
            }
        }
        file.seek(SeekFrom::Start(0)).map_err(ConvertError::Read)?;
    }
    if begin == ZIP { convert_zip(file, placing, to) } else { convert(file, from, placing, to) }
}

/// The same for what comes from a pipe.
///
/// # Errors
/// See [`ConvertError`].
pub fn convert(
    from: impl Read,
    format: Option<ImportFormat>,
    placing: &Placing,
    to: &mut dyn LineSink,
) -> Result<(), ConvertError> {
    Converter::new(format, placing, to).read(from)
}

/// The conversations of ChatGPT's ZIP.
fn convert_zip(file: File, placing: &Placing, to: &mut dyn LineSink) -> Result<(), ConvertError> {
    let damaged = |fault: zip::result::ZipError| ConvertError::Damaged(1, format!("the ZIP: {fault}"));
    let mut archive = zip::ZipArchive::new(file).map_err(damaged)?;
    let mut names: Vec<String> = archive
        .file_names()
        .filter_map(|name| Some(name.ok()?.into_owned()))
        .filter(|name| is_conversations(name))
        .collect();
    names.sort();
    if names.is_empty() {
        return Err(ConvertError::Unknown("it is a ZIP without conversations.json".to_owned()));
    }
    let format = Some(ImportFormat::ChatGpt);
    to.is(ImportFormat::ChatGpt);
    let mut converter = Converter::new(format, placing, to);
    for name in names {
        converter.read(archive.by_name(&name).map_err(damaged)?)?;
    }
    Ok(())
}

fn is_conversations(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.starts_with("conversations") && name.ends_with(".json")
}

/// Converts the values of one import.
struct Converter<'a> {
    format: Option<ImportFormat>,
    placing: &'a Placing,
    to: &'a mut dyn LineSink,
    documents: Documents,
    /// Units of the files before.
    before: u64,
    /// Values before the first whose form is known, and what the first of them is.
    unknown: (usize, String),
}

impl<'a> Converter<'a> {
    fn new(format: Option<ImportFormat>, placing: &'a Placing, to: &'a mut dyn LineSink) -> Self {
        let (documents, unknown) = (Documents::default(), (0, String::new()));
        Self { format, placing, to, documents, before: 0, unknown }
    }

    fn read(&mut self, from: impl Read) -> Result<(), ConvertError> {
        let source = ValueSource::open(from)?;
        if let ValueSource::Lines(from, first) = source {
            if self.known(&first) == Some(ImportFormat::Chatkeep) {
                return self.pass_on(from);
            }
            return self.each(ValueSource::Lines(from, first));
        }
        self.each(source)
    }

    fn each(&mut self, source: ValueSource<'_>) -> Result<(), ConvertError> {
        let (before, mut last) = (self.before, 0);
        let read = source.each(&mut |unit, value| {
            last = unit;
            self.value(before + unit, value)
        });
        self.before = before + last;
        match &mut self.unknown {
            (1.., first) if self.format.is_none() && read.is_ok() => Err(ConvertError::Unknown(std::mem::take(first))),
            _ => read,
        }
    }

    /// The format, once a value is there that tells it; told when it was not given.
    fn known(&mut self, value: &Value) -> Option<ImportFormat> {
        if self.format.is_none() {
            self.format = ImportFormat::of(value);
            self.format.into_iter().for_each(|format| self.to.is(format));
        }
        self.format
    }

    /// A value before any that tells the format; of many the file is none of the formats.
    fn unknown(&mut self, unit: u64, value: &Value) -> Result<(), ConvertError> {
        let names: Vec<&str> = value.as_object().into_iter().flatten().map(|(name, _)| &**name).take(8).collect();
        let what = match value {
            Value::Object(_) => format!("has the fields {}", names.join(", ")),
            _ => "is no object".to_owned(),
        };
        match self.unknown.0 {
            0 => self.unknown.1 = format!("its first value {what}"),
            UNKNOWN_MAX.. => return Err(ConvertError::Unknown(std::mem::take(&mut self.unknown.1))),
            _ => {}
        }
        self.unknown.0 += 1;
        self.to.failed(unit, format!("it is of no known form: it {what}")).map_err(ConvertError::Sink)
    }

    fn value(&mut self, unit: u64, value: Result<Value, String>) -> Result<(), ConvertError> {
        let value = match value {
            Ok(value) => value,
            Err(why) => return self.to.failed(unit, why).map_err(ConvertError::Sink),
        };
        let Some(format) = self.known(&value) else { return self.unknown(unit, &value) };
        let placing = self.placing;
        let conversation: Result<ForeignConversation, String> = match format {
            ImportFormat::ChatGpt => chatgpt::conversation(&value),
            ImportFormat::OpenWebUi => openwebui::conversation(&value),
            ImportFormat::LibreChat => librechat::conversation(&value),
            ImportFormat::OpenAi => openai::conversation(&value),
            ImportFormat::LangChain => {
                return self.documents.langchain(unit, &value, placing, self.to).map_err(ConvertError::Sink);
            }
            // An array of our own messages is one of documents.
            ImportFormat::Python | ImportFormat::Chatkeep => {
                return self.documents.message(unit, &value, placing, self.to).map_err(ConvertError::Sink);
            }
        };
        match conversation {
            Ok(conversation) => conversation.write(unit, placing, self.to),
            Err(why) => self.to.failed(unit, why),
        }
        .map_err(ConvertError::Sink)
    }

    fn pass_on(&mut self, mut from: Box<dyn BufRead + '_>) -> Result<(), ConvertError> {
        loop {
            let part = from.fill_buf().map_err(ConvertError::Read)?;
            if part.is_empty() {
                return Ok(());
            }
            self.to.lines(part).map_err(ConvertError::Sink)?;
            let part = part.len();
            from.consume(part);
        }
    }
}
