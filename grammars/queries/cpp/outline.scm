; inherits: c
(namespace_definition name: (_) @name body: (declaration_list) @body) @definition.module
(class_specifier name: (_) @name body: (field_declaration_list) @body) @definition.class
(function_definition declarator: (reference_declarator (function_declarator declarator: (_) @name))
  body: (_) @body) @definition.function
(field_declaration declarator: (function_declarator declarator: (_) @name)) @definition.method
(field_declaration declarator: (pointer_declarator
  declarator: (function_declarator declarator: (_) @name))) @definition.method
(field_declaration declarator: (reference_declarator (function_declarator declarator: (_) @name))) @definition.method
(alias_declaration name: (type_identifier) @name) @definition.type
(concept_definition name: (identifier) @name) @definition.type
(function_definition declarator: (function_declarator declarator: (_) @name)
  [(default_method_clause) (delete_method_clause)]) @definition.function
