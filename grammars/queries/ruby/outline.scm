(module name: (_) @name body: (body_statement)? @body) @definition.module
(class name: (_) @name body: (body_statement)? @body) @definition.class
(method name: (_) @name body: (_)? @body) @definition.function
(singleton_method name: (_) @name body: (_)? @body) @definition.method
(assignment left: (constant) @name) @definition.constant
((call method: (identifier) @_method arguments: (argument_list (simple_symbol) @name)) @definition.field
  (#any-of? @_method "attr_accessor" "attr_reader" "attr_writer"))
