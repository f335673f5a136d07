//! The load client: knows only the public protocol, measures, and checks what it measured. It may use the domain in its
//! benches, nothing else of the house.

pub mod agent;
pub mod apart;
pub mod bare;
pub mod bars;
pub mod catch_up;
pub mod check;
pub mod child;
pub mod cpu;
pub mod dialect;
pub mod fanout;
pub mod figures;
pub mod idle;
pub mod ingest;
pub mod join;
pub mod load;
pub mod neighbour;
pub mod pace;
pub mod peak;
pub mod peer;
pub mod process;
pub mod query;
pub mod quiet;
pub mod reader;
pub mod replay;
pub mod socket;
pub mod start;
pub mod storm;
pub mod watch;
pub mod wire;
