(create_table (object_reference) @name (column_definitions) @body) @scope.class
(create_function (object_reference) @name (function_body) @body) @scope.function
(cte . (identifier) @name) @scope.block
(subquery) @scope.block
