; Inner attributes and doc comments open a file, before any `use`.
(source_file (inner_attribute_item) @header)
(source_file (line_comment inner: (inner_doc_comment_marker)) @header)
(shebang) @header
(use_declaration argument: (_) @module) @import
(extern_crate_declaration name: (identifier) @module) @import
