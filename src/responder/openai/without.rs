//! In place of the client in a build without the cargo feature `openai`: every answer fails and says why. The
//! configuration refuses it first.

use crate::config::OpenAiConfig;
use crate::responder::{Answer, Question, Responder, ResponderError};

/// See [`super::OpenAi`].
#[derive(Debug)]
pub struct OpenAi;

impl OpenAi {
    /// See [`super::OpenAi`].
    #[must_use]
    pub fn new(_: &OpenAiConfig) -> Self {
        Self
    }
}

impl Responder for OpenAi {
    fn answer(&self, _: &Question, _: &mut dyn FnMut(&str)) -> Result<Answer, ResponderError> {
        Err(ResponderError::Failed("this build was made without the cargo feature `openai`".into()))
    }
}
