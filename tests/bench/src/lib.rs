//! Measures the mesh against no mesh, and against other proxies, on one machine: real nodes of the lab, real programs.
//!
//! [`figure`], [`stats`] and [`report`] are values and pure functions; [`load`] and [`serve`] are what runs in pods; [`stage`] brings
//! everything up, with [`bare`] as the floor of what any proxy can do; [`rounds`] measures, and [`kernel`], [`cross_node`], [`http`] and [`recorded`] say what.

pub mod args;
pub mod bare;
pub mod catalogue;
pub mod clock;
pub mod console;
pub mod cross_node;
pub mod figure;
pub mod http;
pub mod kernel;
pub mod l7_scale;
pub mod load;
pub mod machine;
pub mod peer;
pub mod poll;
pub mod programs;
pub mod recorded;
pub mod report;
pub mod rounds;
pub mod scale;
pub mod serve;
pub mod stage;
pub mod stats;
