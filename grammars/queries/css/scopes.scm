(rule_set (selectors) @name (block) @body) @scope.block
(media_statement (block) @body) @scope.block
(supports_statement (block) @body) @scope.block
(keyframes_statement (keyframes_name) @name (keyframe_block_list) @body) @scope.block
