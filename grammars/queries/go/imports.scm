(package_clause) @header
(import_declaration (import_spec path: (_) @module)) @import
(import_declaration (import_spec_list (import_spec path: (_) @module))) @import
