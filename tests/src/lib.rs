//! What the end-to-end suites share: the client, the fixtures, the property generators.
