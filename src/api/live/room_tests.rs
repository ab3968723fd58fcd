//! Guests, with a real journal and history below them.
