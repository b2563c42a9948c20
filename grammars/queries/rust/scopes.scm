(mod_item name: (identifier) @name body: (declaration_list) @body) @scope.module
(foreign_mod_item body: (declaration_list) @body) @scope.module
(struct_item name: (type_identifier) @name body: (_) @body) @scope.class
(union_item name: (type_identifier) @name body: (_) @body) @scope.class
(enum_item name: (type_identifier) @name body: (_) @body) @scope.class
(trait_item name: (type_identifier) @name body: (declaration_list) @body) @scope.class
(impl_item type: (_) @name body: (declaration_list) @body) @scope.class
(function_item name: (_) @name body: (block) @body) @scope.function
(closure_expression body: (_) @body) @scope.function
(macro_definition name: (identifier) @name) @scope.function
(if_expression consequence: (block) @body) @scope.block
(else_clause (block) @body) @scope.block
(for_expression body: (block) @body) @scope.block
(while_expression body: (block) @body) @scope.block
(loop_expression body: (block) @body) @scope.block
(match_expression body: (match_block) @body) @scope.block
(match_arm value: (_) @body) @scope.block
(unsafe_block (block) @body) @scope.block
(async_block (block) @body) @scope.block
