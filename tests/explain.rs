//! The programs `explain` and `robustness`.

mod common;
