//! Colours for people at a terminal.

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    pub(crate) ghost: &'static str,
    pub(crate) faint: &'static str,
    pub(crate) strong: &'static str,
    pub(crate) added: &'static str,
    pub(crate) removed: &'static str,
    pub(crate) reset: &'static str,
}

impl Style {
    /// Colours if the output is a terminal and `NO_COLOR` is not set.
    pub(crate) fn new(is_terminal: bool) -> Self {
        if is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) {
            Self {
                ghost: "\x1b[3;36m",
                faint: "\x1b[2m",
                strong: "\x1b[1m",
                added: "\x1b[32m",
                removed: "\x1b[31m",
                reset: "\x1b[0m",
            }
        } else {
            Self {
                ghost: "",
                faint: "",
                strong: "",
                added: "",
                removed: "",
                reset: "",
            }
        }
    }
}
