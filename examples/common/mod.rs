//! Common parts of the examples: results on stdout, and one line on stderr and a failing exit status when something is
//! wrong.

use std::{
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
};

use burn::tensor::Device;
use clap::Parser;
use segkiln::{PartialFailure, select_device, warnings};

/// Any error; its text is one line.
pub type Failure = Box<dyn std::error::Error>;

/// Flags that every program has.
#[derive(clap::Args)]
pub struct Machine {
    /// A backend that is built in, such as flex, cuda or vulkan [default: the best one, or BURN_DEVICE]
    #[arg(long)]
    device: Option<String>,
    /// Seed of every random choice
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

impl Machine {
    /// The device, whose random numbers begin with the seed.
    pub fn device(&self) -> Result<Device, Failure> {
        let device = select_device(self.device.as_deref())?;
        device.seed(self.seed);
        Ok(device)
    }
}

/// Reads the flags and runs the program; warnings come once each, at its end.
pub fn main<A: Parser>(run: impl Fn(&A) -> Result<(), Failure>) -> ExitCode {
    let args = match A::try_parse() {
        Ok(args) => args,
        // --help, which is no failure
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => {
            let text = error.to_string();
            let cause = text.split("\n\n").next().unwrap_or_default();
            let words: Vec<&str> = cause.split_whitespace().collect();
            eprintln!("{}; see --help", words.join(" "));
            return ExitCode::FAILURE;
        }
    };
    warnings::collect();
    let code = match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        // The files were named as they failed.
        Err(error) if error.is::<PartialFailure>() => ExitCode::from(2),
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    for warning in warnings::collected() {
        eprintln!("warning: {warning}");
    }
    code
}

/// Writes a line to stdout. That nobody reads it is an error, where `println!` would panic.
pub fn say(line: impl Display) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}
