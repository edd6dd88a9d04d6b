//! A block that is too long for one allocation is several; which bytes of which part a span is. Pure.

/// Parts of a block, each as long as the first but the last.
pub(super) struct Parts<T> {
    /// Where they are.
    pub(super) device: u32,
    part_bytes: u64,
    parts: Vec<T>,
}

/// Bytes of one part.
pub(super) struct Piece<'a, T> {
    pub(super) part: &'a T,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

impl<T> Parts<T> {
    /// Makes parts of `bytes` in all and at most `part_bytes_max` each.
    ///
    /// # Errors
    /// What `make` said, with the parts that were made before.
    pub(super) fn new<E>(
        bytes: u64,
        part_bytes_max: u64,
        mut make: impl FnMut(u64) -> Result<T, E>,
    ) -> Result<Self, (Vec<T>, E)> {
        let part_bytes = part_bytes_max.max(1);
        let mut parts = Vec::new();
        let mut left = bytes;
        while left > 0 {
            let next = left.min(part_bytes);
            match make(next) {
                Ok(part) => parts.push(part),
                Err(error) => return Err((parts, error)),
            }
            left -= next;
        }
        Ok(Self {
            device: 0,
            part_bytes,
            parts,
        })
    }

    /// The same, on that device.
    pub(super) fn on(mut self, device: u32) -> Self {
        self.device = device;
        self
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, T> {
        self.parts.iter()
    }

    /// The pieces of `bytes` from `offset` on, in order.
    pub(super) fn pieces(&self, offset: u64, bytes: u64) -> impl Iterator<Item = Piece<'_, T>> {
        let end = offset + bytes;
        let mut at = offset;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let part = self.parts.get((at / self.part_bytes) as usize)?;
            let within = at % self.part_bytes;
            let bytes = (end - at).min(self.part_bytes - within);
            at += bytes;
            Some(Piece {
                part,
                offset: within,
                bytes,
            })
        })
    }

    /// Pieces of both, equally long and at most `bytes_max`, in order.
    pub(super) fn pairs<'a>(
        &'a self,
        from: u64,
        other: &'a Self,
        to: u64,
        bytes: u64,
        bytes_max: u64,
    ) -> impl Iterator<Item = [Piece<'a, T>; 2]> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let left = (bytes - done).min(bytes_max);
            let mut one = self.pieces(from + done, left).next()?;
            let mut two = other.pieces(to + done, left).next()?;
            let bytes = one.bytes.min(two.bytes);
            (one.bytes, two.bytes) = (bytes, bytes);
            done += bytes;
            Some([one, two])
        })
    }
}

impl<T> IntoIterator for Parts<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.parts.into_iter()
    }
}

/// Whether two spans of as many bytes of one block share any.
pub(super) fn overlap(from: u64, to: u64, bytes: u64) -> bool {
    from.abs_diff(to) < bytes
}

#[cfg(test)]
mod tests;
