(element (start_tag (tag_name) @name)) @scope.block
(script_element (start_tag (tag_name) @name)) @scope.block
(style_element (start_tag (tag_name) @name)) @scope.block
