(package_declaration) @header
(import_declaration [(identifier) (scoped_identifier)] @module) @import
