//! Criterion benches of the workspace live under `benches/`; this library is empty.
