; The docstring of a module stands before its imports.
(module . (comment)* . (expression_statement (string)) @header)
(future_import_statement) @import
(import_statement name: (dotted_name) @module) @import
(import_statement name: (aliased_import name: (dotted_name) @module)) @import
(import_from_statement module_name: (_) @module) @import
