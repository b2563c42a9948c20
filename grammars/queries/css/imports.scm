(charset_statement) @header
(import_statement (string_value) @module) @import
(import_statement (call_expression (arguments (_) @module))) @import
