//! Owns the answer to "what will the machine boot next?" where systemd-boot chooses. Pure.
//!
//! Follows `config_select_default_entry` and what surrounds it (systemd: src/boot/boot.c of 252.39, 257.13 and 259; for
//! `preferred` docs/BOOT_LOADER_INTERFACE.md). An answer that may be wrong is none: where loaders differ and it is not
//! known which one this is, all rules that it may follow must agree.

use std::cmp::Ordering;
use std::fmt;

use super::efivars::Variables;
use super::entry::Entry;
use super::loader_conf::{LoaderConf, Menu, menu};
use super::order;
use super::pattern;
use super::version::{Rules, Version};
use crate::model::StorePath;

/// Ids of entries that the loader makes up itself, as patterns; whether it does depends on the machine.
const OWN_ENTRIES: [&str; 8] = [
    "auto-osx",
    "auto-windows",
    "auto-efi-shell",
    "auto-efi-default",
    "auto-reboot-to-firmware-setup",
    "auto-poweroff",
    "auto-reboot",
    "secure-boot-keys-auto",
];

/// All that systemd-boot looks at to choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loader {
    /// Its version.
    pub version: Version,
    /// The EFI variables.
    pub variables: Variables,
    /// `loader.conf`.
    pub conf: LoaderConf,
    /// The entries, in the order in which the loader finds them.
    pub entries: Vec<Entry>,
}

/// What the machine will boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextBoot {
    /// This entry.
    Entry(Choice),
    /// It can't be told, for this reason.
    Unknown(String),
}

/// An entry that will be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The name of the entry's file.
    pub file: String,
    /// The system that it boots, if it is one.
    pub toplevel: Option<StorePath>,
    /// What made the loader choose it.
    pub why: Why,
}

/// What makes the loader choose an entry, in the order in which it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// `LoaderEntryOneShot` names it.
    OneShot,
    /// `LoaderEntryPreferred` names it.
    EfiPreferred,
    /// `preferred` in `loader.conf` names it.
    Preferred,
    /// `LoaderEntryDefault` names it.
    EfiDefault,
    /// `default` in `loader.conf` names it.
    Default,
    /// It is the first of all.
    First,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::OneShot => "the EFI variable LoaderEntryOneShot names it",
            Why::EfiPreferred => "the EFI variable LoaderEntryPreferred names it",
            Why::Preferred => "'preferred' in loader.conf names it",
            Why::EfiDefault => "the EFI variable LoaderEntryDefault names it",
            Why::Default => "'default' in loader.conf names it",
            Why::First => "nothing names an entry and it is the first",
        })
    }
}

impl NextBoot {
    /// Returns the system that will be booted, if that can be told.
    pub fn toplevel(&self) -> Option<&StorePath> {
        match self {
            NextBoot::Entry(choice) => choice.toplevel.as_ref(),
            NextBoot::Unknown(_) => None,
        }
    }
}

impl Loader {
    /// Returns what the next boot will be.
    pub fn next_boot(&self) -> NextBoot {
        self.predict(self.variables.one_shot.as_deref(), self.variables.timeout_one_shot.as_deref())
    }

    /// Returns what the boots will be that come after the next one, if nobody changes anything: what a machine falls
    /// back to whose one-shot entry was tried.
    pub fn boot_after(&self) -> NextBoot {
        // A one-shot boot is kept out of `LoaderEntryLastBooted` only if the variable is exactly the entry's id
        // (systemd: `save_selected_entry`), so a pattern would make the entry on trial the saved one.
        let is_pattern = self.variables.one_shot.as_deref().is_some_and(|name| !pattern::is_literal(name));
        if is_pattern && self.uses_last_booted() {
            return unknown(
                "the default is '@saved', and the one-shot entry is named by a pattern: it may be saved",
            );
        }
        self.predict(None, None)
    }

    /// Returns what is booted whatever an installer makes the default: NixOS's writes `loader.conf` anew and leaves the
    /// variables alone (nixpkgs: systemd-boot-builder.py). Where `default` is a pattern, whoever wrote that sets the
    /// variable as well.
    pub fn fixed(&self) -> Option<Choice> {
        let NextBoot::Entry(choice) = self.boot_after() else { return None };
        let by_installer = self.conf.default.as_deref().is_some_and(|default| !pattern::is_literal(default));
        let fixed = match choice.why {
            Why::EfiPreferred => true,
            Why::EfiDefault => !by_installer,
            Why::OneShot | Why::Preferred | Why::Default | Why::First => false,
        };
        fixed.then_some(choice)
    }

    /// Returns a pattern that names `wanted` and no other entry to this loader, for `LoaderEntryOneShot`; the exact name
    /// where there is one. `None` if no pattern does.
    pub fn name_of(&self, wanted: &Entry) -> Option<String> {
        let name = wanted.name_without_tries();
        let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
        // An entry with a counter has another id in some loaders than in others; both patterns fit both.
        let mut names = vec![format!("{}[+.]*", pattern::literal(stem))];
        if wanted.tries.is_none() {
            names.insert(0, pattern::literal(&name));
        }
        let rules = self.version.rules().ok()?;
        names.into_iter().find(|name| {
            let fits = |entry: &Entry, rules: &Rules| pattern::matches(&fold(name), &id(entry, *rules));
            rules.iter().all(|rules| self.entries.iter().all(|entry| fits(entry, rules) == (entry == wanted)))
        })
    }

    /// Returns the entries that boot `toplevel`.
    pub fn entries_of(&self, toplevel: &StorePath) -> Vec<&Entry> {
        self.entries.iter().filter(|entry| entry.toplevel().as_ref() == Some(toplevel)).collect()
    }

    /// Returns the entries in the order of the menu of a loader that follows `rules`.
    pub fn menu(&self, rules: Rules) -> Vec<&Entry> {
        self.sorted(rules).into_iter().map(|(entry, _)| entry).collect()
    }

    fn predict(&self, one_shot: Option<&str>, timeout_once: Option<&str>) -> NextBoot {
        if let Some(reason) = self.menu_waits(timeout_once) {
            return unknown(reason);
        }
        let rules = match self.version.rules() {
            Ok(rules) => rules,
            Err(e) => return NextBoot::Unknown(e.to_string()),
        };
        let mut answers: Vec<Result<Choice, String>> = Vec::new();
        for rules in rules {
            let answer = self.choose(one_shot, rules);
            if !answers.iter().any(|known| same(known, &answer)) {
                answers.push(answer);
            }
        }
        match answers.as_slice() {
            [Ok(choice)] => NextBoot::Entry(choice.clone()),
            [Err(reason)] => NextBoot::Unknown(reason.clone()),
            _ => NextBoot::Unknown(format!(
                "whether systemd-boot {} counts '+3' in a name as part of the entry's id decides, and is not known",
                self.version
            )),
        }
    }

    /// Chooses as one loader does.
    fn choose(&self, one_shot: Option<&str>, rules: Rules) -> Result<Choice, String> {
        let menu = MenuOf { entries: self.sorted(rules) };
        let (variables, conf) = (&self.variables, &self.conf);
        let preferred = |name: &Option<String>| name.clone().filter(|_| rules.preferred);
        let efi_default = self.saved_or(variables.default.as_deref());
        let default = match self.saved_or(conf.default.as_deref()) {
            // The saved entry was looked for already.
            _ if is_saved(&conf.default) && is_saved(&variables.default) => None,
            other => other,
        };
        let steps = [
            (Why::OneShot, one_shot.map(str::to_owned), false),
            (Why::EfiPreferred, preferred(&variables.preferred), true),
            (Why::Preferred, preferred(&conf.preferred), true),
            (Why::EfiDefault, efi_default, false),
            (Why::Default, default, false),
        ];
        let mut found = None;
        for (why, name, good_only) in steps {
            let Some(name) = name else { continue };
            if let Some(entry) = menu.find(&name, good_only)? {
                found = Some((entry, why));
                break;
            }
        }
        let (at, why) = match found {
            Some(found) => found,
            None => (menu.first()?, Why::First),
        };
        let choice = menu.choice(at, why)?;
        self.check_sysfail(&menu, rules, &choice)?;
        Ok(choice)
    }

    /// A reported failure comes before everything else, and nobody knows of it before.
    fn check_sysfail(&self, menu: &MenuOf<'_>, rules: Rules, choice: &Choice) -> Result<(), String> {
        let Some(name) = self.variables.sysfail.as_deref().filter(|_| rules.sysfail) else { return Ok(()) };
        match menu.find(name, false)? {
            Some(at) if menu.entries[at].0.file != choice.file => Err(format!(
                "the EFI variable LoaderEntrySysFail names '{name}', which is booted if the firmware reports a failure"
            )),
            _ => Ok(()),
        }
    }

    /// Returns the entries and their ids as the loader's menu has them.
    fn sorted(&self, rules: Rules) -> Vec<(&Entry, String)> {
        let mut entries: Vec<(&Entry, String)> =
            self.entries.iter().map(|entry| (entry, id(entry, rules))).collect();
        entries.sort_by(|(a, a_id), (b, b_id)| order::compare((a, a_id), (b, b_id)));
        entries
    }

    /// Says what keeps the menu on the screen until a person comes, if anything does.
    fn menu_waits(&self, once: Option<&str>) -> Option<&'static str> {
        // The one-shot timeout shows the menu in any case, and only a number of seconds ends it.
        match once.and_then(|timeout| Some((timeout, menu(timeout)?))) {
            Some((timeout, Menu::GoesOn)) if timeout.parse().is_ok_and(|seconds: u32| seconds > 0) => {
                return None;
            }
            Some(_) => {
                return Some("the EFI variable LoaderConfigTimeoutOneShot makes the menu wait for a person");
            }
            None => {}
        }
        match self.variables.timeout.as_deref().and_then(menu) {
            Some(Menu::Waits) => {
                Some("the EFI variable LoaderConfigTimeout makes the menu wait for a person")
            }
            None if self.conf.menu == Menu::Waits => {
                Some("'timeout' in loader.conf makes the menu wait for a person")
            }
            Some(Menu::GoesOn) | None => None,
        }
    }

    fn uses_last_booted(&self) -> bool {
        is_saved(&self.variables.default) || is_saved(&self.conf.default)
    }

    fn saved_or(&self, name: Option<&str>) -> Option<String> {
        match name {
            Some(name) if name.eq_ignore_ascii_case("@saved") => self.variables.last_booted.clone(),
            name => name.map(str::to_owned),
        }
    }
}

/// The menu as one loader sorts it.
struct MenuOf<'a> {
    entries: Vec<(&'a Entry, String)>,
}

impl MenuOf<'_> {
    /// Returns the place of the first entry that `name` matches.
    fn find(&self, name: &str, good_only: bool) -> Result<Option<usize>, String> {
        let name = fold(name);
        if good_only && name.starts_with('@') {
            return Err(format!("what '{name}' stands for as the preferred entry is not known"));
        }
        let fits =
            |(entry, id): &(&Entry, String)| pattern::matches(&name, id) && !(good_only && entry.is_bad());
        let Some(at) = self.entries.iter().position(fits) else {
            return match OWN_ENTRIES.iter().find(|own| pattern::matches(&name, own)) {
                Some(own) => Err(format!("'{name}' names the loader's own entry '{own}'")),
                None => Ok(None),
            };
        };
        let ties = |other: &(&Entry, String)| self.ties(at, other) && fits(other);
        match self.entries[at + 1..].iter().find(|other| ties(other)) {
            Some(other) => Err(self.undecided(at, other)),
            None => Ok(Some(at)),
        }
    }

    fn first(&self) -> Result<usize, String> {
        let Some(rest) = self.entries.get(1..) else { return Err("there is no entry".to_owned()) };
        match rest.iter().find(|other| self.ties(0, other)) {
            Some(other) => Err(self.undecided(0, other)),
            None => Ok(0),
        }
    }

    /// Says whether only the order of the files in their directory tells two entries apart, and it matters.
    fn ties(&self, at: usize, (other, other_id): &(&Entry, String)) -> bool {
        let (entry, id) = &self.entries[at];
        order::compare((entry, id), (other, other_id)) == Ordering::Equal && entry.options != other.options
    }

    fn undecided(&self, at: usize, other: &(&Entry, String)) -> String {
        format!("'{}' and '{}' are equal to the loader", self.entries[at].0.file, other.0.file)
    }

    fn choice(&self, at: usize, why: Why) -> Result<Choice, String> {
        let entry = self.entries[at].0;
        match entry.doubt {
            Some(doubt) => Err(format!("'{}' would be booted, and {doubt}", entry.file)),
            None => Ok(Choice { file: entry.file.clone(), toplevel: entry.toplevel(), why }),
        }
    }
}

/// Says whether two answers are the same for whoever asked; why an entry is chosen makes no difference.
fn same(a: &Result<Choice, String>, b: &Result<Choice, String>) -> bool {
    match (a, b) {
        (Ok(a), Ok(b)) => a.file == b.file,
        (a, b) => a == b,
    }
}

/// Returns the id that a loader gives an entry.
fn id(entry: &Entry, rules: Rules) -> String {
    match entry.tries {
        Some(_) if rules.strips_counter && rules.folds_stripped => fold(&entry.name_without_tries()),
        Some(_) if rules.strips_counter => entry.name_without_tries(),
        _ => fold(&entry.file),
    }
}

/// Folds as the loader does: ASCII only (systemd: `strtolower16`).
fn fold(text: &str) -> String {
    text.to_ascii_lowercase()
}

fn is_saved(name: &Option<String>) -> bool {
    name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case("@saved"))
}

fn unknown(reason: &str) -> NextBoot {
    NextBoot::Unknown(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::boot::entry::parse_type1;

    const OLD: &str = "nixos-generation-1.conf";
    const NEW: &str = "nixos-generation-2.conf";

    /// An entry as NixOS writes it; the letter of its system is that of its number.
    fn entry(file: &str) -> Entry {
        let number: u8 = file.bytes().find(u8::is_ascii_digit).map_or(0, |digit| digit - b'0');
        let letter = char::from(b'a' + number).to_string().repeat(32);
        let text = format!(
            "sort-key nixos\nversion Generation {number} NixOS\nlinux /a\noptions init=/nix/store/{letter}-nixos/init\n"
        );
        parse_type1(file, &text).unwrap()
    }

    fn loader(version: &str, conf: &str, files: &[&str]) -> Loader {
        Loader {
            version: format!("systemd-boot {version}").parse().unwrap(),
            variables: Variables::default(),
            conf: LoaderConf::parse(conf),
            entries: files.iter().map(|file| entry(file)).collect(),
        }
    }

    /// What is booted and why, or the reason why that is not known.
    fn told(next: NextBoot) -> (String, Option<Why>) {
        match next {
            NextBoot::Entry(choice) => (choice.file, Some(choice.why)),
            NextBoot::Unknown(reason) => (reason, None),
        }
    }

    #[test]
    fn variables_come_before_the_file_and_the_file_before_the_order() {
        for version in ["252.39", "255.4", "257.13", "262.1"] {
            let mut loader = loader(version, "default nixos-generation-1.conf", &[NEW, OLD, "other-3.conf"]);
            let next = |loader: &Loader| told(loader.next_boot());
            assert_eq!(next(&loader), (OLD.into(), Some(Why::Default)));
            loader.variables.default = Some("other-*".into());
            assert_eq!(next(&loader), ("other-3.conf".into(), Some(Why::EfiDefault)));
            assert_eq!(loader.fixed().map(|choice| choice.file), Some("other-3.conf".into()));
            let written = loader.conf.default.replace("nixos-*".into());
            assert_eq!(loader.fixed(), None, "the installer is one that sets the variable");
            loader.conf.default = written;
            loader.variables.default = Some("gone.conf".into());
            assert_eq!(next(&loader), (OLD.into(), Some(Why::Default)), "a stale variable names nothing");
            assert_eq!(loader.fixed(), None);
            loader.variables.one_shot = Some(NEW.to_uppercase());
            assert_eq!(next(&loader), (NEW.into(), Some(Why::OneShot)));
            assert_eq!(told(loader.boot_after()), (OLD.into(), Some(Why::Default)), "once");
            loader.variables.one_shot = None;
            loader.conf.default = Some("gone".into());
            // The third has the highest version of those with the same sort key.
            assert_eq!(next(&loader), ("other-3.conf".into(), Some(Why::First)));
        }
    }

    #[test]
    fn counters_count_as_the_version_has_it() {
        let (good, bad) = ("nixos-generation-2+2-1.conf", "nixos-generation-2+0-3.conf");
        let table = [
            // An exact default does not fit what has a counter, unless the counter is left out.
            ("252.39", "default nixos-generation-2.conf", bad, Some(OLD)),
            ("257.7", "default nixos-generation-2.conf", bad, Some(OLD)),
            ("257.13", "default nixos-generation-2.conf", bad, Some(bad)),
            ("258.3", "default nixos-generation-2.conf", bad, Some(bad)),
            ("257.9", "default nixos-generation-2.conf", bad, None),
            ("252.39", "default nixos-generation-2.conf", good, Some(good)),
            ("257.13", "default nixos-generation-2.conf", good, Some(good)),
            // A pattern fits both; the bad one is sorted last.
            ("252.39", "default nixos-*", bad, Some(OLD)),
            ("257.9", "default nixos-*", bad, Some(OLD)),
            ("262.1", "default nixos-*", bad, Some(OLD)),
            ("262.1", "default nixos-*", good, Some(good)),
            // What is preferred is not bad; older loaders do not know the word.
            ("262.1", "preferred nixos-generation-2.conf", good, Some(good)),
            ("262.1", "preferred nixos-generation-2.conf", bad, Some(OLD)),
            ("262.1", "preferred nixos-generation-2.conf\ndefault nixos-generation-2.conf", bad, Some(bad)),
            ("262.1", "preferred nixos-generation-1.conf\ndefault nixos-generation-2.conf", bad, Some(OLD)),
            ("259", "preferred nixos-generation-1.conf", good, Some(good)),
        ];
        for (version, conf, file, expected) in table {
            let next = told(loader(version, conf, &[file, OLD]).next_boot());
            match expected {
                Some(expected) => assert_eq!(next.0, expected, "{version}: {conf}, {file}"),
                None => assert_eq!(next.1, None, "{version}: {conf}, {file}: {}", next.0),
            }
        }
    }

    #[test]
    fn what_cannot_be_told_is_unknown() {
        let check = |why: &str, change: &dyn Fn(&mut Loader), expected: &str| {
            let mut loader = loader("258.3", "default nixos-generation-1.conf", &[OLD, NEW]);
            change(&mut loader);
            let (reason, told) = told(loader.next_boot());
            assert!(told.is_none() && reason.contains(expected), "{why}: {reason}");
        };
        let set = |field: fn(&mut Variables) -> &mut Option<String>, value: &str| {
            let value = value.to_owned();
            move |loader: &mut Loader| *field(&mut loader.variables) = Some(value.clone())
        };
        check("no entries", &|loader| loader.entries.clear(), "no entry");
        check("an own entry", &set(|v| &mut v.default, "auto-win*"), "'auto-windows'");
        check("a menu", &|loader| loader.conf.menu = Menu::Waits, "wait for a person");
        check("a menu by EFI", &set(|v| &mut v.timeout, "menu-force"), "LoaderConfigTimeout makes");
        check("a menu once", &set(|v| &mut v.timeout_one_shot, "0"), "LoaderConfigTimeoutOneShot");
        check("a failure", &set(|v| &mut v.sysfail, NEW), "LoaderEntrySysFail");
        check("an initrd", &|loader| loader.entries[0].doubt = Some("an initrd is missing"), "an initrd");
        check("an old loader", &|loader| loader.version.major = 249, "older than 252");
        check(
            "a tie",
            &|loader| {
                loader.entries = vec![entry(NEW), entry("nixos-generation-2+3.conf")];
                loader.entries[1].options.push('x');
                loader.conf.default = None;
            },
            "equal to the loader",
        );
    }

    #[test]
    fn timeouts_that_end_change_nothing() {
        let mut loader = loader("257.13", "timeout menu-force", &[OLD]);
        loader.variables.timeout = Some("3".into());
        assert_eq!(told(loader.next_boot()).1, Some(Why::First));
        loader.variables.timeout_one_shot = Some("7".into());
        assert_eq!(told(loader.next_boot()).1, Some(Why::First));
        loader.variables.timeout_one_shot = Some("0".into());
        assert_eq!(told(loader.next_boot()).1, None);
        assert_eq!(told(loader.boot_after()).1, Some(Why::First), "that menu is shown once");
    }

    #[test]
    fn the_saved_entry_is_the_one_booted_last() {
        let mut loader = loader("257.13", "default @saved", &[OLD, NEW]);
        assert_eq!(told(loader.next_boot()), (NEW.into(), Some(Why::First)));
        loader.variables.last_booted = Some(OLD.into());
        assert_eq!(told(loader.next_boot()), (OLD.into(), Some(Why::Default)));
        loader.variables.default = Some("@saved".into());
        assert_eq!(told(loader.next_boot()), (OLD.into(), Some(Why::EfiDefault)));
        loader.variables.one_shot = Some(NEW.into());
        assert_eq!(told(loader.boot_after()).0, OLD);
        loader.variables.one_shot = Some("nixos-generation-2*".into());
        assert_eq!(told(loader.boot_after()).1, None, "it may be saved");
    }

    #[test]
    fn an_entry_gets_a_name_that_is_its_own() {
        for version in ["252.39", "255.4", "257.13", "262.1"] {
            let files =
                [NEW, "nixos-generation-20.conf", "nixos-generation-3+2.conf", "nixos-generation-3+1.conf"];
            let mut loader = loader(version, "", &files);
            let name = |loader: &Loader, n: usize| loader.name_of(&loader.entries[n]);
            assert_eq!(name(&loader, 0).as_deref(), Some(NEW), "{version}");
            assert_eq!(name(&loader, 2), None, "{version}: two of one name");
            loader.entries.pop();
            assert_eq!(name(&loader, 2).as_deref(), Some("nixos-generation-3[+.]*"), "{version}");
            loader.variables.one_shot = name(&loader, 2);
            assert_eq!(told(loader.next_boot()), ("nixos-generation-3+2.conf".into(), Some(Why::OneShot)));
        }
    }

    #[test]
    fn entries_are_found_by_what_they_boot() {
        let loader = loader("257.13", "", &[OLD, NEW]);
        let wanted = entry(NEW).toplevel().unwrap();
        let found = loader.entries_of(&wanted);
        assert_eq!((found.len(), found[0].file.as_str()), (1, NEW));
        assert_eq!(loader.next_boot().toplevel(), Some(&wanted));
    }
}
