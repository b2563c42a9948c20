//! Text and trees to context: what stands around a cursor.
