(program . (php_tag) @header)
(declare_statement) @header
(program (namespace_definition !body) @header)
(namespace_use_declaration (namespace_use_clause . (_) @module)) @import
(namespace_use_declaration (namespace_name) @module body: (namespace_use_group)) @import
(expression_statement (require_once_expression (_) @module)) @import
(expression_statement (require_expression (_) @module)) @import
(expression_statement (include_once_expression (_) @module)) @import
(expression_statement (include_expression (_) @module)) @import
