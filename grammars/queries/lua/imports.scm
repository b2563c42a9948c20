(hash_bang_line) @header
((variable_declaration (assignment_statement (expression_list value: (function_call
    name: (identifier) @_function
    arguments: (arguments (string) @module))))) @import
  (#eq? @_function "require"))
((function_call name: (identifier) @_function arguments: (arguments (string) @module)) @import
  (#eq? @_function "require"))
