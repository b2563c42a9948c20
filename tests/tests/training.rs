//! The recipe of the embedded model at toy size: `tests/training/run` does the work, this runs it.

use surmise_tests::script::run_if_installed;

#[test]
fn the_recipe_works_at_toy_size() {
    run_if_installed("tests/training/run", &[]);
}
