//! Taking a pack into the trusted store: the parent's side asks a short-lived, limited child to verify everything in
//! a quarantine and publishes what the child accepted; the child's side is [`run_child`]. Hostile bytes are parsed in
//! the child only. Must not know where the pack came from.
