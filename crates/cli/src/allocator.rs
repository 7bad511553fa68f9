//! The allocator, and its options.

/// An allocator that gives memory back after most clients have left (docs/decisions/0019). Its threads
/// for that exist on Linux only.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Has the allocator return free pages at once instead of within ten seconds, for a process that keeps to a
/// budget. Replaces the program by itself, in the same process, unless the environment has options of the
/// allocator: it reads them before `main`, and only unsafe code could set them otherwise.
///
/// Returns only if that is not necessary, or the reason why it is not possible.
#[cfg(target_os = "linux")]
pub(crate) fn return_pages_at_once() -> std::io::Result<()> {
    use std::{env, os::unix::process::CommandExt as _, process::Command};

    const OPTIONS: &str = "_RJEM_MALLOC_CONF";
    if env::var_os(OPTIONS).is_some() {
        return Ok(());
    }
    let mut arguments = env::args_os();
    let mut command = Command::new(env::current_exe()?);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let command = command.args(arguments).env(OPTIONS, "dirty_decay_ms:0");
    Err(command.exec())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn return_pages_at_once() -> std::io::Result<()> {
    Ok(())
}
