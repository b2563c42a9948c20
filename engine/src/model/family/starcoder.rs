//! StarCoder 1 and SantaCoder, as GGUF files have them: StarCoder2 with a learned embedding of each position in place of rotated
//! heads, one head of keys and values, and one matrix with a bias for queries, keys and values.

use super::{Family, starcoder2};
use crate::model::rope::RopeScaling;

pub(super) const FAMILY: Family = Family {
    gguf: "starcoder",
    hugging_face: &[],
    learns_positions: true,
    complete: |stated| {
        // Nothing turns.
        stated.rope_scaling = RopeScaling::Proportional {
            share: 0.0,
            factor: 1.0,
        };
    },
    ..starcoder2::FAMILY
};
