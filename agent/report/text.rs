//! The human text of a status: a pure function of the status, the time and the style.
//!
//! One headline with a glyph and words, then facts in two aligned columns, then what the reader can do. Whoever
//! reads it at night has not read the manual.

use super::headline::{self, mark};
use super::old;
use super::status::{
    Bad, BadKind, Commit, DeploymentStatus, Headline, Owed, RemoteStatus, RetryStatus, StageWord,
    StandingWord, Status, System, TestProgressWord, TestStatus,
};
use super::style::{Style, Tone, ago, precise, quoted, safe, span};
use super::{Life, health};
use crate::model::{ENVIRONMENT, INTERRUPTED, NETWORK, Oid, Operation, SUBMODULE_MISSING, UPDATABLE};
use crate::trust::Code;

/// Width of the margin and the label column.
const INDENT: usize = 13;
/// What to do about a system that waits for an answer.
pub(super) const ANSWER: &str = "keep it: pullagent confirm; go back: pullagent reject";
/// How many failed checks are shown.
const DETAILS_MAX: usize = 6;

/// Returns the whole page.
pub fn page(status: &Status, life: Life, now: u64, style: &Style) -> String {
    let mut page = Page { status, now, style, text: String::new() };
    page.head(life);
    page.target();
    page.systems();
    page.deployment();
    page.problem();
    page.reboot();
    page.test();
    page.waiting();
    page.remotes();
    page.hints();
    page.alarms();
    page.trust();
    page.next(life);
    page.text
}

struct Page<'a> {
    status: &'a Status,
    now: u64,
    style: &'a Style,
    text: String,
}

impl Page<'_> {
    /// One fact; `text` wraps below itself.
    fn line(&mut self, label: &str, text: &str) {
        let mut label = label.to_owned();
        for part in self.style.wrap(text, INDENT) {
            let padded = format!("{label:<width$} ", width = INDENT - 3);
            let padded = if label.is_empty() { padded } else { self.style.paint(Tone::Quiet, &padded) };
            self.text.push_str(&format!("  {padded}{part}\n"));
            label.clear();
        }
    }

    fn head(&mut self, life: Life) {
        let (tone, glyph) = mark(self.status, life);
        let host = safe(&self.status.host);
        let sentence = match life {
            Life::Running => headline::sentence(self.status, self.now, self.style),
            Life::Dead => format!("pullagent is not running on {host}"),
            Life::Silent => format!("pullagent on {host} is silent"),
        };
        self.text.push_str(&format!("{} {}\n", self.style.paint(tone, glyph), sentence));
        if life != Life::Running {
            let said = headline::sentence(self.status, self.now, self.style);
            let said = format!(
                "{}: \"{said}\"; all below is as of then",
                ago(self.now, self.status.agent.written_at)
            );
            self.line("last word", &said);
        }
        if let Some(trouble) = &self.status.trouble {
            let code = self.status.trouble_code.as_deref().map(|c| format!("{}: ", safe(c)));
            self.line("reason", &format!("{}{}", code.unwrap_or_default(), safe(trouble)));
        }
        if let Some(s) = self.status.suspension.as_ref().filter(|_| self.status.state != Headline::Suspended)
        {
            let reason = s.reason.as_deref().map(|r| format!(": {}", quoted(r))).unwrap_or_default();
            self.line("suspended", &format!("by {}, {}{reason}", safe(&s.by), ago(self.now, s.at)));
        }
    }

    /// The commit that is on its way but does not run.
    fn target(&mut self) {
        let d = self
            .status
            .deployment
            .as_ref()
            .filter(|d| d.stage == StageWord::Built || !self.runs(&d.toplevel));
        if let Some(d) = d.filter(|d| d.stage != StageWord::RollingBack) {
            let commit = self.commit(&d.commit);
            self.line("target", &format!("{commit}, built {}", ago(self.now, d.built_at)));
            return;
        }
        let Some(act) = self.status.doing.as_ref().filter(|_| self.status.deployment.is_none()) else {
            return;
        };
        let Some(revision) = &act.revision else { return };
        let accepted = self.status.accepted.iter().chain(self.status.test.iter().map(|t| &t.commit));
        let known = accepted.filter(|c| c.revision == *revision).max_by_key(|c| c.at);
        let text = match known {
            Some(commit) => format!("{}, accepted {}", self.commit(commit), ago(self.now, commit.at)),
            None => format!("{}  {}", revision.short(), self.seen_on(revision)),
        };
        self.line("target", text.trim_end());
        let spent = precise(self.now.saturating_sub(act.since));
        match act.action.as_str() {
            "build" => self.line("build", &format!("for {spent} so far")),
            "verify" => {
                self.line("verify", &format!("for {spent}: fetching it and checking every signature"))
            }
            _ => {}
        }
    }

    fn seen_on(&self, revision: &Oid) -> String {
        let names = self.status.remotes.iter().flat_map(|r| {
            r.heads
                .iter()
                .filter(|(_, oid)| *oid == revision)
                .map(|(branch, _)| format!("{} of {}", safe(branch), safe(&r.name)))
        });
        let names: Vec<String> = names.collect();
        if names.is_empty() { String::new() } else { format!("newest on {}", names.join(", ")) }
    }

    fn commit(&self, c: &Commit) -> String {
        let subject = if c.subject.is_empty() { String::new() } else { format!("  {}", quoted(&c.subject)) };
        let signer = c.signer.as_deref().map(|s| format!("signed by {}", safe(s)));
        let signer = signer.unwrap_or_else(|| "pinned by root".to_owned());
        format!("{}{subject}  {signer}", c.revision.short())
    }

    fn runs(&self, toplevel: &crate::model::StorePath) -> bool {
        self.status.running.as_ref().is_some_and(|r| r.toplevel == *toplevel)
    }

    fn systems(&mut self) {
        let Some(running) = &self.status.running else { return };
        let text = format!("{}{}", name(running), self.about_running(running));
        self.line("running", &text);
        let Some(boot) = &self.status.boot else { return };
        if boot.toplevel != running.toplevel {
            self.line("boot", &format!("{}  started by the next boot", name(boot)));
        } else if matches!(self.status.state, Headline::InSync | Headline::RolledBack) {
            self.line("boot", &format!("{}  same", generation(boot)));
        }
    }

    /// What else is worth knowing of the running system: since when, and by whom.
    fn about_running(&self, running: &System) -> String {
        let on_probation = self.status.deployment.as_ref().is_some_and(|d| d.toplevel == running.toplevel);
        let since = running.since;
        let mut notes = Vec::new();
        match self.status.state {
            Headline::Drift | Headline::RollbackFailed => {}
            Headline::RolledBack => {
                let at = self.status.problem.as_ref().map(|b| b.at);
                notes.extend(at.map(|at| format!("restored {}", ago(self.now, at))));
            }
            Headline::Testing => notes.extend(since.map(|at| format!("entered {}", ago(self.now, at)))),
            _ if on_probation => {
                notes.extend(since.map(|at| format!("for {}", precise(self.now.saturating_sub(at)))));
            }
            Headline::Verifying | Headline::Building => notes.push("unchanged so far".to_owned()),
            Headline::Preparing => notes.push("untouched so far".to_owned()),
            Headline::Unreachable => notes.push("keeps running".to_owned()),
            _ => notes.extend(since.map(|at| format!("deployed {}", ago(self.now, at)))),
        }
        notes.extend(running.signer.as_deref().map(|s| format!("signed by {}", safe(s))));
        let subject = running.subject.as_deref().filter(|s| !s.is_empty());
        let subject = subject.map(|s| format!("  {}", quoted(s))).unwrap_or_default();
        let notes = if notes.is_empty() { String::new() } else { format!("  {}", notes.join(", ")) };
        format!("{subject}{notes}")
    }

    fn deployment(&mut self) {
        let Some(d) = &self.status.deployment else {
            return health::fared(self.status).iter().for_each(|said| self.line("health", said));
        };
        match d.stage {
            StageWord::Built | StageWord::Prepared => {}
            StageWord::Rebooting => {
                let old = d.old.as_ref().map(name).unwrap_or_default();
                self.line("roll back", &format!("to {old}  by any boot but the next"));
            }
            StageWord::Armed | StageWord::Activated | StageWord::Soaking | StageWord::BootTrial => {
                self.countdown(d);
                self.checks(d);
            }
            StageWord::AwaitingConfirmation => {
                self.countdown(d);
                self.line("health", &health::faring(self.status, &d.checks));
            }
            StageWord::Confirming => self.line("health", "proven; profile and boot entry follow"),
            StageWord::RollingBack => self.rolling_back(d),
        }
    }

    fn countdown(&mut self, d: &DeploymentStatus) {
        let Some(old) = &d.old else { return };
        let left = d.answer_until.or(d.deadline).map(|at| at.saturating_sub(self.now));
        let text = match left {
            Some(0) => format!("to {}  due now, unless it was confirmed", name(old)),
            Some(secs) => format!("to {}  in {} unless it is confirmed before", name(old), precise(secs)),
            None => format!("to {}  unless it is confirmed in time", name(old)),
        };
        self.line("roll back", &text);
    }

    fn checks(&mut self, d: &DeploymentStatus) {
        let fate = match d.operation {
            Operation::Switch => "then it becomes permanent",
            Operation::Test => "then it stays until the next boot",
        };
        self.line("health", &health::faring(self.status, &d.checks));
        if !d.red_before.is_empty() {
            let names: Vec<String> = d.red_before.iter().map(|c| safe(c)).collect();
            self.line("", &format!("failed before the switch already, does not count: {}", names.join(", ")));
        }
        self.line(
            "confirm",
            &format!("by itself, once healthy for {} in one go; {fate}", precise(d.soak_secs)),
        );
    }

    fn rolling_back(&mut self, d: &DeploymentStatus) {
        let failed = self.commit(&d.commit);
        self.line("failed", &failed);
        if let Some((reason, details)) = d.failures.split_first() {
            self.line("", &safe(reason));
            self.details(details, reason);
        }
        if let Some(old) = &d.old {
            self.line("back to", &name(old));
        }
    }

    fn problem(&mut self) {
        let Some(bad) = &self.status.problem else { return };
        let label = match bad.kind {
            BadKind::Refused => "refused",
            BadKind::BuildFailed | BadKind::RolledBack | BadKind::RollbackFailed => "failed",
            BadKind::CalledOff => "called off",
        };
        self.line(label, &self.bad_name(bad));
        let code = if bad.code.is_empty() { String::new() } else { format!("{}: ", safe(&bad.code)) };
        self.line("", &format!("{code}{}", safe(&bad.text)));
        self.details(&bad.details, &bad.text);
    }

    /// What the checks said, but for what was said already.
    fn details(&mut self, details: &[String], said: &str) {
        let news = |d: &&String| !said.contains(d.split_once(": ").map_or(d.as_str(), |(_, words)| words));
        for text in details.iter().filter(news).take(DETAILS_MAX) {
            self.line("", &safe(text));
        }
    }

    fn bad_name(&self, bad: &Bad) -> String {
        let mut text = bad.revision.short().to_owned();
        if !bad.subject.is_empty() {
            text.push_str(&format!("  {}", quoted(&bad.subject)));
        }
        let mut notes = Vec::new();
        if !bad.branch.is_empty() {
            let of = bad.remote.as_deref().map(|r| format!(" of {}", safe(r))).unwrap_or_default();
            notes.push(format!("{}{of}", safe(&bad.branch)));
        }
        notes.push(ago(self.now, bad.at));
        notes.extend(bad.signer.as_deref().map(|s| format!("signed by {}", safe(s))));
        format!("{text}  {}", notes.join(", "))
    }

    fn test(&mut self) {
        let Some(test) = self.status.test.as_ref().filter(|t| t.on_remote || self.is_entered(t)) else {
            return self.test_refusal();
        };
        let shown = self.status.problem.as_ref().is_some_and(|b| b.revision == test.commit.revision);
        let name = format!("{} at {}", safe(&test.commit.branch), test.commit.revision.short());
        match test.progress {
            TestProgressWord::Accepted => {}
            TestProgressWord::Entered => {
                self.line("test", &format!("{name}  not permanent: a reboot or its deletion ends it"));
            }
            TestProgressWord::Over if shown => {}
            TestProgressWord::Over => {
                let why = test.why.as_deref().map(safe).unwrap_or_default();
                self.line("test", &format!("{name}  over: {why}"));
            }
        }
    }

    fn is_entered(&self, test: &TestStatus) -> bool {
        test.progress == TestProgressWord::Entered
    }

    /// A test tip that was refused for a reason that is no headline: most often the main line went past it.
    fn test_refusal(&mut self) {
        let heads: Vec<&Oid> = self.status.remotes.iter().flat_map(|r| r.heads.values()).collect();
        let overtaken = |b: &&Bad| {
            heads.contains(&&b.revision) && matches!(b.code.as_str(), "not-on-main" | "test-rollback")
        };
        let Some(bad) = self.status.set_aside.iter().rev().find(overtaken) else { return };
        if self.status.problem.as_ref().is_some_and(|p| p.revision == bad.revision) {
            return;
        }
        let name = format!("{} at {}", safe(&bad.branch), bad.revision.short());
        self.line("test", &format!("{name}  not entered: {}", safe(&bad.text)));
    }

    fn waiting(&mut self) {
        for retry in self.status.retries.iter().take(DETAILS_MAX) {
            let text = format!("{}  {}: {}", retry.revision.short(), safe(&retry.code), safe(&retry.text));
            self.line("error", &text);
            let when = match retry.not_before.saturating_sub(self.now) {
                0 => "now".to_owned(),
                secs => format!("in {}", precise(secs)),
            };
            self.line("retrying", &format!("{when}, after {}", tries(retry.tries)));
        }
        let said = matches!(self.status.state, Headline::Waiting | Headline::Verifying | Headline::Building);
        let failing = |r: &Oid| self.status.retries.iter().any(|t| t.revision == *r);
        for p in self.status.pending.iter().filter(|p| !said && !failing(&p.revision)) {
            let subject = p.subject.as_deref().filter(|s| !s.is_empty());
            let subject = subject.map(|s| format!("  {}", quoted(s))).unwrap_or_default();
            let owed = match p.owed {
                Owed::Verify => "not looked at yet",
                Owed::Deploy => "accepted, not deployed yet",
                Owed::Return => "to return to, for the test is over",
            };
            self.line("waiting", &format!("{}{subject}  on {}, {owed}", p.revision.short(), safe(&p.branch)));
        }
    }

    /// What a reboot would change, and why it has not been done.
    fn reboot(&mut self) {
        let Some(r) = &self.status.reboot_pending else { return };
        let reasons: Vec<String> = r.reasons.iter().map(|reason| safe(reason)).collect();
        self.line("reboot", &format!("pending: {}", reasons.join("; ")));
        let when = r.not_before.map(|at| {
            format!(", next on {} (in {})", self.style.clock(at, self.now), span(at.saturating_sub(self.now)))
        });
        self.line("", &format!("not done yet: {}{}", safe(&r.why), when.unwrap_or_default()));
    }

    fn remotes(&mut self) {
        for remote in &self.status.remotes {
            match &remote.trouble {
                Some(_) => self.troubled(remote),
                None => {
                    let names: Vec<String> = remote.heads.keys().map(|b| safe(b)).collect();
                    let heads = if names.is_empty() {
                        "has no branch for this host".to_owned()
                    } else {
                        names.join(", ")
                    };
                    let lag = if remote.standing == StandingWord::Behind { "  lags behind" } else { "" };
                    let text = match remote.checked_at {
                        Some(at) => {
                            let (name, next) = (safe(&remote.name), self.next_poll(remote));
                            format!("{name} {heads}{lag}  checked {}{next}", ago(self.now, at))
                        }
                        None => format!("{}  not asked yet", safe(&remote.name)),
                    };
                    self.line("remote", &text);
                    self.old_protocol(remote);
                }
            }
        }
    }

    fn old_protocol(&mut self, remote: &RemoteStatus) {
        let Some(cost) = remote.old_protocol else { return };
        self.line("", &format!("it {}", old::cost(cost)));
        self.line("", old::REMEDY);
    }

    /// When it is asked again, where that is not within a minute or so.
    fn next_poll(&self, remote: &RemoteStatus) -> String {
        match (remote.next_poll_at, &remote.calendar) {
            (Some(at), _) => format!(", next {}", self.style.clock(at, self.now)),
            (None, Some(_)) => ", not again by its calendar".to_owned(),
            (None, None) => String::new(),
        }
    }

    fn hints(&mut self) {
        for hint in &self.status.hints {
            self.line("hints", &hint.line(self.now));
        }
    }

    fn alarms(&mut self) {
        for alarm in &self.status.alarms {
            self.line("alarm", &format!("{}: {}", safe(&alarm.code), safe(&alarm.text)));
        }
    }

    /// Whose signatures count, where that is not what one would expect.
    fn trust(&mut self) {
        let trust = &self.status.trust;
        if let Some(vouched) = &trust.vouched {
            self.line("accepted", &format!("{}  named by root, comes next", vouched.short()));
        }
        if let Some(revision) = trust.revision.as_ref().filter(|_| trust.differs) {
            let signers: Vec<String> = trust.signers.iter().map(|s| safe(s)).collect();
            let text = format!(
                "the keys of {} count, not those of what runs: {}",
                revision.short(),
                signers.join(", ")
            );
            self.line("trust", &text);
        }
    }

    fn troubled(&mut self, remote: &RemoteStatus) {
        let Some(t) = &remote.trouble else { return };
        let last = match remote.checked_at {
            Some(at) => format!("last answer {}", ago(self.now, at)),
            None => "no answer since the agent started".to_owned(),
        };
        let last = if remote.stale { format!("{last}, stale") } else { last };
        self.line("remote", &format!("{} at {}  {last}", safe(&remote.name), safe(&remote.url)));
        self.line("error", &format!("{}: {}", safe(&t.class), safe(&t.text)));
        self.line("retrying", &format!("by itself; {}, the last {}", tries(t.tries), ago(self.now, t.at)));
    }

    /// What the reader can do.
    fn next(&mut self, life: Life) {
        let text = match life {
            Life::Dead => {
                "systemctl start pullagent   ·   why it stopped: journalctl -u pullagent".to_owned()
            }
            Life::Silent => {
                "systemctl restart pullagent   ·   what it did: journalctl -u pullagent".to_owned()
            }
            Life::Running => match self.advice() {
                Some(text) => text,
                None => return,
            },
        };
        self.line("next", &text);
    }

    fn advice(&self) -> Option<String> {
        let text = match self.status.state {
            Headline::RolledBack
            | Headline::RollbackFailed
            | Headline::Refused
            | Headline::BuildFailed
            | Headline::CalledOff => safe(&self.status.problem.as_ref()?.advice),
            Headline::AwaitingConfirmation => ANSWER.to_owned(),
            Headline::Suspended => "pullagent resume".to_owned(),
            Headline::Unreachable => format!("{}; then: pullagent sync", self.unreachable_advice()),
            Headline::Held => safe(self.status.trouble_advice.as_deref()?),
            Headline::RebootPending => self.reboot_advice()?,
            Headline::Drift => {
                "kept until the main branch moves; push to it to take the host back".to_owned()
            }
            Headline::Testing => {
                let branch = self.status.test.as_ref().map_or("", |t| t.commit.branch.as_str());
                format!("keep it: merge it into main; end it: delete {} or reboot", safe(branch))
            }
            Headline::Retrying => {
                let advice = self.status.retries.first().and_then(retry_advice);
                advice.unwrap_or("wait, or try at once: pullagent sync").to_owned()
            }
            Headline::InSync
            | Headline::Starting
            | Headline::Waiting
            | Headline::Verifying
            | Headline::Building
            | Headline::Preparing
            | Headline::Switching
            | Headline::CheckingHealth
            | Headline::Rebooting
            | Headline::Confirming
            | Headline::RollingBack => return None,
        };
        Some(text)
    }

    fn reboot_advice(&self) -> Option<String> {
        let pending = self.status.reboot_pending.as_ref()?;
        let by_hand = format!(
            "boot it by hand: nix-env -p /nix/var/nix/profiles/system --set {0} && \
             {0}/bin/switch-to-configuration boot && systemctl reboot",
            pending.toplevel
        );
        Some(match pending.not_before {
            Some(_) => "wait for the window".to_owned(),
            None => by_hand,
        })
    }

    /// What to check, by the words of [`crate::wire::Class`]. The first remote is the preferred one.
    fn unreachable_advice(&self) -> &'static str {
        let trouble = self.status.remotes.iter().find_map(|r| r.trouble.as_ref());
        match trouble.map_or("", |t| t.class.as_str()) {
            "auth" => "check the token and what it may read",
            "not-found" => "check the remote's address, and what the token may read",
            "tls" => "check the remote's certificate, 'caFile' and this host's clock",
            "local" => "check this host's files and the gateway ('journalctl -u pullagent-gateway')",
            "protocol" => "check that the address is that of a Git repository",
            _ => "check the network and the remote",
        }
    }
}

/// Returns what helps against a refusal that may pass.
pub(super) fn retry_advice(retry: &RetryStatus) -> Option<&'static str> {
    if retry.code == ENVIRONMENT {
        return Some("mend what the checks ask for; try at once: pullagent retry");
    }
    if retry.code == NETWORK {
        return Some("see whether what the checks ask for can be reached; try at once: pullagent retry");
    }
    if retry.code == INTERRUPTED {
        return Some(
            "see what killed the switch: journalctl -u 'pullagent-switch-*'; try at once: pullagent retry",
        );
    }
    if retry.code == SUBMODULE_MISSING {
        return Some("push the submodule's commit to its repository; try at once: pullagent retry");
    }
    if retry.code == UPDATABLE {
        return Some("see why the new system can't reach its remotes; try at once: pullagent retry");
    }
    Code::ALL.iter().find(|code| code.as_str() == retry.code).map(|code| code.advice())
}

fn tries(n: u32) -> String {
    if n == 1 { "1 try".to_owned() } else { format!("{n} tries") }
}

fn generation(system: &System) -> String {
    system.generation.map_or("unconfirmed".to_owned(), |g| format!("gen {g}"))
}

/// Generation and revision; the store path where the revision is not known.
fn name(system: &System) -> String {
    match &system.revision {
        Some(revision) => format!("{}  {}", generation(system), revision.short()),
        None => format!("{}  {}", generation(system), system.toplevel),
    }
}
