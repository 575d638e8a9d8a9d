//! The fault matrix: each part of a host is broken for real, beside a sidecar of its own, and what is said of it is held to
//! `tests/faults.md`. And the sidecar itself: broken, with everything hung, and for long.

#[path = "../src/collect/fixture/api.rs"]
mod api;
#[path = "faults/disk.rs"]
mod disk;
#[path = "../src/source/docker/fake.rs"]
mod fake_docker;
#[path = "suite/fixture.rs"]
mod fixture;
#[path = "faults/gate.rs"]
mod gate;
#[path = "faults/hung.rs"]
mod hung;
#[path = "faults/lab.rs"]
mod lab;
#[path = "faults/row.rs"]
mod row;
#[path = "faults/sidecar.rs"]
mod sidecar;
#[path = "faults/soak.rs"]
mod soak;
#[path = "faults/vitals.rs"]
mod vitals;
