//! The torture.
