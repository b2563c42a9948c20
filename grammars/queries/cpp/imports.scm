; inherits: c
(translation_unit (using_declaration [(identifier) (qualified_identifier)] @module) @import)
