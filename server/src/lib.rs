//! The language server and the command line of Surmise, as a library.
