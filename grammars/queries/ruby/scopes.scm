(module name: (_) @name body: (body_statement)? @body) @scope.module
(class name: (_) @name body: (body_statement)? @body) @scope.class
(singleton_class body: (body_statement) @body) @scope.class
(method name: (_) @name body: (_)? @body) @scope.function
(singleton_method name: (_) @name body: (_)? @body) @scope.function
(lambda body: (_) @body) @scope.function
(do_block body: (_) @body) @scope.block
(block body: (_) @body) @scope.block
(if consequence: (_) @body) @scope.block
(unless consequence: (_) @body) @scope.block
(while body: (_) @body) @scope.block
(until body: (_) @body) @scope.block
(for body: (_) @body) @scope.block
(case) @scope.block
(begin) @scope.block
