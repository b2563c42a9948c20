((element (start_tag (attribute (attribute_name) @_attribute
    (quoted_attribute_value (attribute_value) @name)))) @definition.element
  (#eq? @_attribute "id"))
((element (start_tag (tag_name) @_tag) (text) @name) @definition.heading
  (#match? @_tag "^([hH][1-6]|[tT][iI][tT][lL][eE])$"))
