((program . (comment) @header)
  (#match? @header "^#!"))
((command name: (command_name) @_command . argument: (_) @module) @import
  (#any-of? @_command "source" "."))
