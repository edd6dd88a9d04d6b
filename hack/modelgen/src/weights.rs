//! Random numbers as tensors.

use std::io::{self, Write};

use gguf::TensorType;

use crate::family::{Fill, TensorSpec};

/// How matrices are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// Blocks of 32 8-bit integers with a scale.
    Q8_0,
    /// Blocks of 32 4-bit integers with a scale.
    Q4_0,
}

impl Format {
    /// The format of this name, as people write it: `F32`, `F16`, `Q8_0`, `Q4_0`.
    pub fn named(name: &str) -> Option<Self> {
        [Self::F32, Self::F16, Self::Q8_0, Self::Q4_0]
            .into_iter()
            .find(|format| format.tensor_type().name().eq_ignore_ascii_case(name))
    }

    pub(crate) fn tensor_type(self) -> TensorType {
        let id = match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q8_0 => 8,
        };
        TensorType::from_id(id).unwrap_or(TensorType::F32)
    }

    /// `general.file_type`.
    pub(crate) fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q8_0 => 7,
        }
    }
}

/// A small, well-mixed generator (SplitMix64): weights need no more.
struct Random(u64);

impl Random {
    fn of(name: &str, seed: u64) -> Self {
        let start = name.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(start)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Evenly from -1 to 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }
}

pub(crate) fn write(tensor: &TensorSpec, seed: u64, file: &mut impl Write) -> io::Result<()> {
    let mut random = Random::of(&tensor.name, seed);
    let (middle, spread) = match tensor.fill {
        Fill::Around { middle, spread } => (middle, spread),
        // A product with such a matrix keeps the size of what goes in.
        Fill::Matrix => {
            let inputs = tensor.dimensions.first().copied().unwrap_or(1).max(1);
            (0.0, (3.0 / inputs as f32).sqrt())
        }
    };
    let elements: u64 = tensor.dimensions.iter().product();
    match tensor.format {
        Format::F32 => {
            for _ in 0..elements {
                file.write_all(&(middle + spread * random.unit()).to_le_bytes())?;
            }
        }
        Format::F16 => {
            for _ in 0..elements {
                file.write_all(&half(middle + spread * random.unit()).to_le_bytes())?;
            }
        }
        Format::Q8_0 => blocks(elements, spread / 127.0, 32, &mut random, file)?,
        Format::Q4_0 => blocks(elements, spread / 8.0, 16, &mut random, file)?,
    }
    Ok(())
}

/// Blocks of a scale and random bytes: all values of a signed or centred integer are as likely.
fn blocks(elements: u64, scale: f32, bytes: usize, random: &mut Random, file: &mut impl Write) -> io::Result<()> {
    let mut block = vec![0u8; 2 + bytes];
    for _ in 0..elements / 32 {
        // Scales differ between blocks, so that no two can be confused.
        let own = scale * (1.0 + 0.25 * random.unit());
        block[..2].copy_from_slice(&half(own).to_le_bytes());
        for word in block[2..].chunks_exact_mut(8) {
            word.copy_from_slice(&random.next().to_le_bytes());
        }
        file.write_all(&block)?;
    }
    Ok(())
}

/// The bits of a 16-bit float near `value`, rounded towards zero; too small ones become 0.
fn half(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let exponent = (bits >> 23 & 0xff) as i32 - 127 + 15;
    match exponent {
        ..=0 => sign,
        1..=30 => sign | (exponent as u16) << 10 | (bits >> 13) as u16 & 0x3ff,
        _ => sign | 0x7bff,
    }
}
