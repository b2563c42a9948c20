((element (start_tag (tag_name) @_tag (attribute (attribute_name) @_attribute
    (quoted_attribute_value (attribute_value) @module)))) @import
  (#eq? @_tag "link")
  (#eq? @_attribute "href"))
((script_element (start_tag (attribute (attribute_name) @_attribute
    (quoted_attribute_value (attribute_value) @module)))) @import
  (#eq? @_attribute "src"))
(doctype) @header
