//! The control socket: how operators speak to a running agent. HTTP and JSON over `<root>/run/pullagent/control.sock`,
//! which the kernel guards: whoever may open it may command. It hands orders on and decides nothing.

pub mod client;

pub mod protocol;

pub mod events;

pub mod server;
