//! Faulty network and power cuts, in memory.
