(function_definition name: (word) @name body: (_) @body) @scope.function
(if_statement) @scope.block
(for_statement body: (_) @body) @scope.block
(c_style_for_statement body: (_) @body) @scope.block
(while_statement body: (_) @body) @scope.block
(case_statement) @scope.block
(subshell) @scope.block
