//! How vendors write the names of models.

/// The name without a date at its end: `-20251001` or `-2025-10-01`. `None`: it has none.
#[must_use]
pub fn undated(model: &str) -> Option<&str> {
    ["-dddddddd", "-dddd-dd-dd"].iter().find_map(|shape| {
        let at = model.len().checked_sub(shape.len()).filter(|at| *at > 0)?;
        let (name, date) = (model.get(..at)?, model.get(at..)?);
        let fits = |(s, b): (u8, u8)| if s == b'd' { b.is_ascii_digit() } else { s == b };
        shape.bytes().zip(date.bytes()).all(fits).then_some(name)
    })
}
