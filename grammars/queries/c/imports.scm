((preproc_call directive: (preproc_directive) @_directive) @header
  (#eq? @_directive "#pragma"))
(preproc_include path: (_) @module) @import
