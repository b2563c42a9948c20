(namespace_definition name: (namespace_name)? @name body: (compound_statement) @body) @scope.module
(class_declaration name: (name) @name body: (declaration_list) @body) @scope.class
(interface_declaration name: (name) @name body: (declaration_list) @body) @scope.class
(trait_declaration name: (name) @name body: (declaration_list) @body) @scope.class
(enum_declaration name: (name) @name body: (enum_declaration_list) @body) @scope.class
(function_definition name: (name) @name body: (compound_statement) @body) @scope.function
(method_declaration name: (name) @name body: (compound_statement) @body) @scope.function
(anonymous_function body: (compound_statement) @body) @scope.function
(arrow_function body: (_) @body) @scope.function
(if_statement body: (compound_statement) @body) @scope.block
(else_clause body: (compound_statement) @body) @scope.block
(for_statement body: (compound_statement) @body) @scope.block
(foreach_statement body: (compound_statement) @body) @scope.block
(while_statement body: (compound_statement) @body) @scope.block
(try_statement body: (compound_statement) @body) @scope.block
(catch_clause body: (compound_statement) @body) @scope.block
(switch_statement body: (switch_block) @body) @scope.block
