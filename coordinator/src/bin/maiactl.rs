//! maiactl: the operator's tool. Everything it does is in `maia_coordinator::cli`.

fn main() -> std::process::ExitCode {
    maia_coordinator::cli::main()
}
