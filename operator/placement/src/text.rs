//! Bytes and times as people read them.

/// Bytes with one decimal: "5.3 GiB", "112.0 MiB", "512 B".
pub fn bytes(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (unit, size) in UNITS {
        if bytes >= size {
            // Tenths in whole numbers: the text must not depend on floating rounding.
            let tenths = u128::from(bytes) * 10 / u128::from(size);
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} B")
}

/// Nanoseconds as microseconds, rounded up: a cost is never shown as free.
pub fn us(nanoseconds: u64) -> u64 {
    nanoseconds.div_ceil(1000)
}

/// A half-open range of layers as first and last: "0-9", or "7" for one alone.
pub fn layers(first_layer: u32, end_layer: u32) -> String {
    if end_layer <= first_layer.saturating_add(1) {
        first_layer.to_string()
    } else {
        format!("{first_layer}-{}", end_layer - 1)
    }
}

#[cfg(test)]
mod tests;
