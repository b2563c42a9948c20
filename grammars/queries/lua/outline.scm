(function_declaration name: (identifier) @name body: (block)? @body) @definition.function
(function_declaration name: (dot_index_expression) @name body: (block)? @body) @definition.function
(function_declaration name: (method_index_expression) @name body: (block)? @body) @definition.method
(assignment_statement (variable_list . name: (_) @name)
  (expression_list . value: (function_definition body: (block)? @body))) @definition.function
(chunk (variable_declaration (assignment_statement (variable_list name: (identifier) @name))) @definition.variable)
(chunk (assignment_statement (variable_list name: (identifier) @name)) @definition.variable)
