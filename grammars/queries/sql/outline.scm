(create_table (object_reference) @name (column_definitions)? @body) @definition.table
(create_view (object_reference) @name) @definition.table
(create_materialized_view (object_reference) @name) @definition.table
(create_function (object_reference) @name (function_body)? @body) @definition.function
(create_type (object_reference) @name) @definition.type
(create_trigger . (keyword_create) (keyword_trigger) . (object_reference) @name) @definition.function
(create_index column: (identifier) @name) @definition.key
(cte . (identifier) @name) @definition.table
(column_definition name: (identifier) @name) @definition.field
