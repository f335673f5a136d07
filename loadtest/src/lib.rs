//! The load client: knows only the public protocol, measures, and checks what it measured. It may use the domain in its
//! benches, nothing else of the house.

pub mod agent;
pub mod bare;
pub mod check;
pub mod fanout;
pub mod figures;
pub mod idle;
pub mod ingest;
pub mod process;
pub mod replay;
pub mod start;
pub mod wire;
