//! Archives, read and written: tar, gzip, wheels, `.deb`. Synchronous; knows `layers` alone.

pub mod deb;
pub mod tar;
