(class_declaration name: (_) @name body: (class_body) @body) @scope.class
(class name: (_)? @name body: (class_body) @body) @scope.class
(function_declaration name: (identifier) @name body: (statement_block) @body) @scope.function
(generator_function_declaration name: (identifier) @name body: (statement_block) @body) @scope.function
(method_definition name: (_) @name body: (statement_block) @body) @scope.function
(function_expression name: (identifier)? @name body: (statement_block) @body) @scope.function
(arrow_function body: (_) @body) @scope.function
(if_statement consequence: (statement_block) @body) @scope.block
(else_clause (statement_block) @body) @scope.block
(for_statement body: (statement_block) @body) @scope.block
(for_in_statement body: (statement_block) @body) @scope.block
(while_statement body: (statement_block) @body) @scope.block
(do_statement body: (statement_block) @body) @scope.block
(try_statement body: (statement_block) @body) @scope.block
(catch_clause body: (statement_block) @body) @scope.block
(finally_clause body: (statement_block) @body) @scope.block
(switch_statement body: (switch_body) @body) @scope.block
(switch_case value: (_) @name) @scope.block
