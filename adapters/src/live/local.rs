//! The live bus of a single process: the one that is kept in memory does all that is promised.

pub use ringforge_ports::memory::live::MemoryLive;
