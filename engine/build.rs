//! Lays the matrices of the model inside the program out as the kernels read them, so that they can be used where they stand.

use std::{env, fs, path::Path};

#[path = "src/weights/panels.rs"]
#[expect(dead_code, reason = "nothing is read here")]
mod panels;

use panels::{LINE_BYTES, PanelShape, rows_of_panel};

const MODEL: &str = "weights/surmise.gguf";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/weights/panels.rs");
    if env::var_os("CARGO_FEATURE_EMBEDDED_MODEL").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed={MODEL}");
    let mut file = fs::read(MODEL).unwrap_or_else(|err| panic!("{MODEL}: {err}"));
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo says what it builds for");
    let (tensors, data_start) = read_header(&file);
    for tensor in tensors {
        lay_out(&tensor, &mut file[data_start..], rows_of_panel(&arch));
    }
    // Zeros before the file bring its tensors to the start of cache lines.
    let n_zeros = data_start.next_multiple_of(LINE_BYTES) - data_start;
    file.splice(0..0, vec![0; n_zeros]);
    let out = env::var_os("OUT_DIR").expect("cargo says where to");
    fs::write(Path::new(&out).join("surmise.panels"), file).expect("the folder is cargo's own");
}

/// A tensor's entry: extents innermost first, as the file has them, and where its blocks are in the tensor data.
struct Entry {
    extents: Vec<u64>,
    dtype: u32,
    offset: u64,
}

/// Does what `Gguf` expects of this file: other types stay as they are, and so do matrices that would take more in panels.
fn lay_out(tensor: &Entry, data: &mut [u8], n_rows: usize) {
    const Q8_0: u32 = 8;
    let [n_cols, n_matrix_rows] = tensor.extents[..] else {
        return;
    };
    let [n_cols, n_matrix_rows] = [n_cols, n_matrix_rows].map(|it| it as usize);
    let shape = PanelShape::of_embedded(n_matrix_rows, n_cols, n_rows);
    let Some(shape) = shape.filter(|_| tensor.dtype == Q8_0) else {
        return;
    };
    let panels = &mut data[tensor.offset as usize..][..n_matrix_rows / n_rows * shape.n_bytes()];
    for panel in panels.chunks_exact_mut(shape.n_bytes()) {
        let rows = panel.to_vec();
        // Nobody looks at the scales again: half precision has no infinity and no NaN but with all ones in the exponent.
        shape.lay_out(&rows, panel, |block| {
            assert!(block[1] & 0x7c != 0x7c, "{MODEL}: a scale is no number");
        });
    }
}

/// The tensors, and where their data begins. The engine's own reader trusts no file; this is one of ours.
fn read_header(file: &[u8]) -> (Vec<Entry>, usize) {
    let mut alignment = 32;
    let mut reader = Reader { file, position: 8 };
    let (n_tensors, n_pairs) = (reader.u64(), reader.u64());
    for _ in 0..n_pairs {
        let (key, value_type) = (reader.string(), reader.u32());
        if key == "general.alignment" {
            alignment = reader.u32() as usize;
        } else {
            reader.skip_value(value_type);
        }
    }
    let entry = |reader: &mut Reader<'_>| {
        reader.string();
        Entry {
            extents: (0..reader.u32()).map(|_| reader.u64()).collect(),
            dtype: reader.u32(),
            offset: reader.u64(),
        }
    };
    let tensors = (0..n_tensors).map(|_| entry(&mut reader)).collect();
    (tensors, reader.position.next_multiple_of(alignment))
}

struct Reader<'a> {
    file: &'a [u8],
    position: usize,
}

impl Reader<'_> {
    fn take(&mut self, n_bytes: usize) -> &[u8] {
        self.position += n_bytes;
        &self.file[self.position - n_bytes..self.position]
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().expect("four bytes"))
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().expect("eight bytes"))
    }

    fn string(&mut self) -> String {
        let n_bytes = self.u64() as usize;
        String::from_utf8_lossy(self.take(n_bytes)).into_owned()
    }

    fn skip_value(&mut self, value_type: u32) {
        match value_type {
            0 | 1 | 7 => self.position += 1,
            2 | 3 => self.position += 2,
            4..=6 => self.position += 4,
            10..=12 => self.position += 8,
            8 => drop(self.string()),
            9 => {
                let (item_type, n_items) = (self.u32(), self.u64());
                (0..n_items).for_each(|_| self.skip_value(item_type));
            }
            _ => panic!("{MODEL}: unknown type of value {value_type}"),
        }
    }
}
