; inherits: ecma
(abstract_class_declaration name: (type_identifier) @name body: (class_body) @body) @scope.class
(interface_declaration name: (type_identifier) @name body: (interface_body) @body) @scope.class
(enum_declaration name: (identifier) @name body: (enum_body) @body) @scope.class
(internal_module name: (_) @name body: (statement_block) @body) @scope.module
(module name: (_) @name body: (statement_block) @body) @scope.module
