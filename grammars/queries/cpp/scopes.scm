; inherits: c
(namespace_definition name: (_)? @name body: (declaration_list) @body) @scope.module
(class_specifier name: (_)? @name body: (field_declaration_list) @body) @scope.class
(function_definition declarator: (reference_declarator (function_declarator declarator: (_) @name))
  body: (_) @body) @scope.function
(lambda_expression body: (compound_statement) @body) @scope.function
(for_range_loop body: (compound_statement) @body) @scope.block
(try_statement body: (compound_statement) @body) @scope.block
(catch_clause body: (compound_statement) @body) @scope.block
