//! The pool behind the real listener, with a lobby that echoes.
