//! The model inside the program, which this project trained: see `engine/weights/MODEL_CARD.md`.

use crate::weights::WeightSource;

/// The model inside the program, or none if it was built without the feature `embedded-model`.
pub fn embedded_model() -> Option<WeightSource> {
    #[cfg(feature = "embedded-model")]
    return Some(WeightSource::Panels(laid_out()));
    #[cfg(not(feature = "embedded-model"))]
    None
}

/// The file as the build script left it, without the zeros that bring its tensors to the start of cache lines.
#[cfg(feature = "embedded-model")]
fn laid_out() -> &'static [u8] {
    #[repr(C, align(4096))]
    struct WholePages<T: ?Sized>(T);
    static FILE: &WholePages<[u8]> =
        &WholePages(*include_bytes!(concat!(env!("OUT_DIR"), "/surmise.panels")));
    let n_zeros = FILE.0.iter().take_while(|byte| **byte == 0).count();
    &FILE.0[n_zeros..]
}

#[cfg(all(test, feature = "embedded-model"))]
mod tests {
    use crate::{
        embedded_model,
        weights::{GgmlType, Gguf, WeightSource, panels::LINE_BYTES},
    };

    #[test]
    fn it_is_the_file_that_was_trained_and_can_be_read_where_it_stands() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/weights/surmise.gguf");
        let expected = Gguf::open(WeightSource::File(path.into())).unwrap();
        let found = Gguf::open(embedded_model().unwrap()).unwrap();
        assert!(expected.tensors().eq(found.tensors()));
        for info in expected.tensors() {
            let [expected, found] = [&expected, &found].map(|it| it.tensor(&info.name).unwrap());
            assert!(expected.bytes() == found.bytes(), "{}", info.name);
            assert_eq!(
                expected.numbers().unwrap(),
                found.numbers().unwrap(),
                "{}",
                info.name
            );
            if expected.dtype == GgmlType::Q8_0 {
                let (_, panels) = found.panels().expect("all its matrices are in panels");
                assert!(panels.as_ptr().addr().is_multiple_of(LINE_BYTES), "{}", info.name);
            }
        }
    }
}
