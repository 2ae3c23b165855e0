//! `boot-facts`: what is known of the host's boot loader, as JSON; for tests of real boots and for reports of faults.
//! Asks the host only, not the agent, and changes nothing.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};

use super::exit::{Exit, Fail};
use super::{Options, output};
use crate::host::boot::need::{self, Systems};
use crate::host::boot::partitions::{self, Partitions};
use crate::host::boot::predict::{Loader, NextBoot};
use crate::host::boot::{self, Capability};
use crate::host::facts::HostPaths;
use crate::host::manager::Manager;

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A system to compare with the booted one
    #[arg(long, value_name = "TOPLEVEL")]
    candidate: Option<PathBuf>,
}

/// Prints the facts.
pub fn run(options: &Options, args: &Args) -> Result<Exit, Fail> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let facts = runtime.context("failed to start the runtime")?.block_on(facts(&options.root, args))?;
    output::print_json(&facts)?;
    Ok(Exit::Ok)
}

async fn facts(root: &Path, args: &Args) -> anyhow::Result<Value> {
    // Whoever calls this is in no sandbox, and needs no unit.
    let manager = Manager::Alone;
    let capability = boot::capability(root)?;
    let loader = match capability {
        Capability::SystemdBoot { .. } => Some(boot::loader(root, manager).await?),
        Capability::Grub(_) | Capability::None(_) => None,
    };
    let mut facts = json!({ "schema": 1, "capability": capability_json(&capability) });
    if let Some(loader) = &loader {
        facts["nextBoot"] = next_boot_json(&loader.next_boot());
        facts["bootAfter"] = next_boot_json(&loader.boot_after());
        facts["selected"] = json!(loader.variables.selected);
        facts["entries"] = entries_json(loader);
        facts["freeBytes"] = json!(Partitions::find(root, manager).await?.free()?);
    }
    if let Some(candidate) = &args.candidate {
        let paths = HostPaths::under(root);
        let (booted, running) = (paths.booted_system(), paths.current_system());
        facts["rebootNeeded"] =
            json!(need::reasons(Systems { booted: &booted, running: &running, candidate })?);
        let old = need::bootspec(&booted)?;
        let needed = need::bootspec(candidate)?.map(|new| partitions::bytes_needed(&new, old.as_ref()));
        facts["neededBytes"] = json!(needed.transpose()?);
    }
    Ok(facts)
}

fn capability_json(capability: &Capability) -> Value {
    match capability {
        Capability::SystemdBoot { version } => {
            json!({ "kind": "systemd-boot", "version": version.to_string() })
        }
        Capability::Grub(grub) => json!({
            "kind": "grub",
            "oneShot": grub.one_shot.is_some(),
            "environmentWritable": grub.environment.as_ref().is_some_and(|environment| environment.writable),
        }),
        Capability::None(reason) => json!({ "kind": "none", "reason": reason }),
    }
}

fn next_boot_json(next: &NextBoot) -> Value {
    match next {
        NextBoot::Entry(choice) => {
            json!({ "file": choice.file, "toplevel": choice.toplevel, "why": choice.why.to_string() })
        }
        NextBoot::Unknown(reason) => json!({ "unknown": reason }),
    }
}

fn entries_json(loader: &Loader) -> Value {
    let entry = |entry: &boot::entry::Entry| {
        json!({
            "file": entry.file, "name": loader.name_of(entry), "toplevel": entry.toplevel(), "bad": entry.is_bad(),
        })
    };
    loader.entries.iter().map(entry).collect()
}
