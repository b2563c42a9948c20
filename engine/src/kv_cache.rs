//! Keys and values of every layer, in blocks that sequences share by common prefix.
