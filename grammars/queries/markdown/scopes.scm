(section . (atx_heading heading_content: (inline) @name)) @scope.module
(fenced_code_block) @scope.block
