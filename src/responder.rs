//! The responders: one trait, one file for each kind, one match arm to add another.
//!
//! Knows nothing of how messages are recorded or sent.

mod command;
mod echo;
mod excerpt;
mod interface;
mod models;
#[cfg_attr(not(feature = "openai"), path = "responder/openai/without.rs")]
mod openai;
mod output_limit;
mod stop;
#[cfg(test)]
mod testing;
mod utf8;

use crate::config::{ResponderConfig, ResponderKind};

pub use command::CommandResponder;
pub use echo::Echo;
pub use interface::{
    Answer, COMPLETION_ID, ContextLimit, GivenRequest, PassedOn, Question, Responder, ResponderError, without_quotation,
};
pub use models::model_list;
pub use openai::OpenAi;
pub use output_limit::TEXT_BYTES_MAX;
pub use stop::Stop;

/// Why the configured responder cannot answer, as far as that shows before it is asked. A warning: it may be mended by then.
#[must_use]
pub fn warning(config: &ResponderConfig) -> Option<String> {
    let is_asked = config.kind == ResponderKind::Command;
    is_asked.then(|| CommandResponder::new(config).fault()).flatten()
}

/// Makes the configured responder; `None`: messages are only recorded.
#[must_use]
pub fn new(config: &ResponderConfig) -> Option<Box<dyn Responder>> {
    match config.kind {
        ResponderKind::Echo => Some(Box::new(Echo)),
        ResponderKind::Command => Some(Box::new(CommandResponder::new(config))),
        ResponderKind::OpenAi => Some(Box::new(OpenAi::new(&config.openai))),
        ResponderKind::None => None,
    }
}
