(class_declaration name: (identifier) @name body: (class_body) @body) @scope.class
(record_declaration name: (identifier) @name body: (class_body) @body) @scope.class
(interface_declaration name: (identifier) @name body: (interface_body) @body) @scope.class
(enum_declaration name: (identifier) @name body: (enum_body) @body) @scope.class
(object_creation_expression (class_body) @body) @scope.class
(method_declaration name: (identifier) @name body: (block) @body) @scope.function
(constructor_declaration name: (identifier) @name body: (constructor_body) @body) @scope.function
(lambda_expression body: (_) @body) @scope.function
(if_statement consequence: (block) @body) @scope.block
(for_statement body: (block) @body) @scope.block
(enhanced_for_statement body: (block) @body) @scope.block
(while_statement body: (block) @body) @scope.block
(do_statement body: (block) @body) @scope.block
(try_statement body: (block) @body) @scope.block
(try_with_resources_statement body: (block) @body) @scope.block
(catch_clause body: (block) @body) @scope.block
(finally_clause (block) @body) @scope.block
(switch_expression body: (switch_block) @body) @scope.block
(synchronized_statement body: (block) @body) @scope.block
