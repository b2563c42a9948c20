; `"use strict"` and its like stand before the imports.
(program . (hash_bang_line)? . (comment)* . (expression_statement (string)) @header)
(hash_bang_line) @header
(import_statement source: (string) @module) @import
(export_statement source: (string) @module) @import
((lexical_declaration (variable_declarator value: (call_expression
    function: (identifier) @_function
    arguments: (arguments . (string) @module)))) @import
  (#eq? @_function "require"))
((variable_declaration (variable_declarator value: (call_expression
    function: (identifier) @_function
    arguments: (arguments . (string) @module)))) @import
  (#eq? @_function "require"))
