//! Goal: whatever way a commit is made on a test branch, it names the branch exactly once and loses nothing.
//! Method: real Git calls the hooks as it would; what counts is the message that ends up in the commit.

use super::desk::Desk;

/// Returns a desk with the hooks installed, on branch `branch`.
fn desk(branch: &str) -> Desk {
    let desk = Desk::new();
    desk.install_hooks("prepare-commit-msg commit-msg");
    desk.git(&["switch", "-q", "-c", branch]);
    desk
}

fn message(desk: &Desk) -> String {
    desk.git(&["log", "-1", "--format=%B"])
}

const LINE: &str = "Deploy-To: test-web1";

/// An editor that writes `text` as its first line, as a person would, and keeps what it was shown.
fn editor(text: &str) -> String {
    format!("sh -c 'cp \"$1\" ~/shown; {{ printf \"%s\" \"{text}\"; cat ~/shown; }} > \"$1\"' -")
}

fn shown(desk: &Desk) -> String {
    std::fs::read_to_string(desk.home.join("shown")).unwrap()
}

#[test]
fn a_message_from_the_command_line_is_bound_to_its_test_branch() {
    let desk = desk("test-web1");
    let cases = [
        ("Subject", format!("Subject\n\n{LINE}")),
        ("Subject\n\nBody.", format!("Subject\n\nBody.\n\n{LINE}")),
        ("Subject\n\nSigned-off-by: A <a@x>", format!("Subject\n\nSigned-off-by: A <a@x>\n{LINE}")),
        ("Subject\n\n#42 is fixed", format!("Subject\n\n#42 is fixed\n\n{LINE}")),
        ("Subject\n\na\n---\nb", format!("Subject\n\na\n---\nb\n\n{LINE}")),
        ("Subject\n\nDeploy-To: test-web1 test-web2", "Subject\n\nDeploy-To: test-web1 test-web2".to_owned()),
        ("Subject\n\ndeploy-to: test-web1\n\nmore", "Subject\n\ndeploy-to: test-web1\n\nmore".to_owned()),
        ("Subject\n\n  Deploy-To: quoted", format!("Subject\n\n  Deploy-To: quoted\n\n{LINE}")),
    ];
    for (given, expected) in cases {
        desk.git(&["commit", "-q", "--allow-empty", "-m", given]);
        assert_eq!(message(&desk), expected);
    }
    assert!(!desk.repo.join(".git/COMMIT_EDITMSG.pullagent").exists());
}

#[test]
fn other_branches_are_left_alone_unless_they_are_listed() {
    let desk = desk("feature");
    desk.git(&["commit", "-q", "--allow-empty", "-m", "One"]);
    assert_eq!(message(&desk), "One");
    desk.git(&["switch", "-q", "main"]);
    desk.git(&["config", "--add", "pullagent.bindBranch", "release"]);
    desk.git(&["commit", "-q", "--allow-empty", "-m", "Two"]);
    assert_eq!(message(&desk), "Two");
    desk.git(&["config", "--add", "pullagent.bindBranch", "main"]);
    desk.git(&["commit", "-q", "--allow-empty", "-m", "Three"]);
    assert_eq!(message(&desk), "Three\n\nDeploy-To: main");
    desk.git(&["switch", "-q", "--detach"]);
    desk.git(&["commit", "-q", "--allow-empty", "-m", "Four"]);
    assert_eq!(message(&desk), "Four");
}

#[test]
fn an_amended_commit_names_its_branch_once() {
    let desk = desk("test-web1");
    desk.git(&["commit", "-q", "--allow-empty", "-m", "Subject"]);
    for _ in 0..2 {
        desk.git(&["commit", "-q", "--amend", "--allow-empty", "--no-edit"]);
        desk.sh("GIT_EDITOR=true git commit -q --amend --allow-empty");
    }
    assert_eq!(message(&desk), format!("Subject\n\n{LINE}"));
    desk.git(&["commit", "-q", "--amend", "--allow-empty", "-m", "Another"]);
    assert_eq!(message(&desk), format!("Another\n\n{LINE}"));
}

#[test]
fn a_line_for_another_branch_is_kept_and_said() {
    let desk = desk("test-web2");
    let ran = desk.try_git(&["commit", "-q", "--allow-empty", "-m", &format!("Subject\n\n{LINE}")]);
    assert!(ran.code == 0 && ran.err.contains("bound to another branch"), "{ran:?}");
    assert_eq!(message(&desk), format!("Subject\n\n{LINE}"));
    let ran = desk.try_git(&["commit", "-q", "--allow-empty", "-m", "Subject\n\nDeploy-To:test-web2,x"]);
    assert!(ran.code == 0 && ran.err.is_empty(), "{ran:?}");
}

#[test]
fn merges_squashes_and_picks_are_bound() {
    let desk = desk("feature");
    desk.sh("echo one > one; git add one; git commit -qm One");
    desk.sh("git switch -q -c test-web1 main; echo two > two; git add two; git commit -qm Two");
    desk.git(&["merge", "-q", "--no-edit", "feature"]);
    assert_eq!(message(&desk), format!("Merge branch 'feature' into test-web1\n\n{LINE}"));
    desk.sh("git reset -q --hard HEAD~; git merge -q --squash feature; GIT_EDITOR=true git commit -q");
    let squashed = message(&desk);
    assert!(squashed.contains("    One\n") && squashed.ends_with(&format!("\n\n{LINE}")), "{squashed}");
    desk.sh("git reset -q --hard HEAD~; git cherry-pick feature");
    assert_eq!(message(&desk), format!("One\n\n{LINE}"));
    desk.sh("git revert --no-edit HEAD");
    assert_eq!(message(&desk).matches(LINE).count(), 1);
}

#[test]
fn a_merge_with_conflicts_is_bound_above_the_comments() {
    let desk = desk("feature");
    desk.sh("echo one > file; git add file; git commit -qm One; git switch -q -c test-web1 main");
    desk.sh("echo two > file; git add file; git commit -qm Two; ! git merge -q feature; echo three > file; git add file");
    desk.sh("GIT_EDITOR='sh -c \"cp \\\"\\$1\\\" ~/shown\" -' git commit -q");
    let shown = shown(&desk);
    assert!(shown.find(LINE).unwrap() < shown.find("# Conflicts").unwrap(), "{shown}");
    assert_eq!(message(&desk), format!("Merge branch 'feature' into test-web1\n\n{LINE}"));
}

#[test]
fn a_rebase_binds_to_the_branch_that_is_rebased() {
    let desk = desk("feature");
    desk.sh(
        "echo one > one; git add one; git commit -qm One; echo two > two; git add two; git commit -qm Two",
    );
    desk.sh("git switch -q main; git commit -q --allow-empty -m Main; git switch -q -c test-web1 feature");
    desk.git(&["rebase", "-q", "main"]);
    assert_eq!(message(&desk), format!("Two\n\n{LINE}"));
    desk.sh("GIT_SEQUENCE_EDITOR='sed -i 2s/pick/squash/' GIT_EDITOR=true git rebase -q -i main");
    let squashed = message(&desk);
    assert!(squashed.contains("One") && squashed.contains("Two") && squashed.contains(LINE), "{squashed}");
    desk.sh("GIT_SEQUENCE_EDITOR='sed -i 1s/pick/reword/' GIT_EDITOR=true git rebase -q -i main");
    assert_eq!(message(&desk), squashed, "what is bound stays as it is");
}

#[test]
fn an_editor_is_shown_the_line_below_room_for_the_text() {
    let desk = desk("test-web1");
    desk.sh("echo one > one; git add one");
    for settings in [&[][..], &["-c", "core.commentChar=;"], &["-c", "core.commentChar=auto"]] {
        let editor = format!("core.editor={}", editor("Subject"));
        let mut command = desk.command("git", &desk.repo);
        command.env_remove("GIT_EDITOR").args(settings).args(["-c", &editor]);
        let done = command.args(["commit", "-q", "-v", "--allow-empty"]).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        assert!(shown(&desk).starts_with(&format!("\n\n{LINE}\n")), "{}", shown(&desk));
        assert_eq!(message(&desk), format!("Subject\n\n{LINE}"), "{settings:?}");
    }
}

#[test]
fn the_line_stays_above_the_scissors_and_the_diff() {
    let desk = desk("test-web1");
    for (number, comment) in ["#", ";", "auto"].into_iter().enumerate() {
        desk.sh(&format!("echo {number} > file; git add file"));
        let setting = format!("core.commentChar={comment}");
        let mut command = desk.command("git", &desk.repo);
        command.env_remove("GIT_EDITOR").args(["-c", &setting, "-c", &format!("core.editor={}", editor(""))]);
        let done = command.args(["commit", "-q", "-v", "-e", "-m", "# Subject\n\nBody"]).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        let (shown, message) = (shown(&desk), message(&desk));
        let at = |what: &str| shown.find(what).unwrap_or_else(|| panic!("no {what} in {shown}"));
        assert!(at(LINE) < at(" >8 ") && at(" >8 ") < at("diff --git"), "{shown}");
        let kept = if comment == "#" { "Body" } else { "# Subject\n\nBody" };
        assert_eq!(message, format!("{kept}\n\n{LINE}"), "{comment}");
    }
}

#[test]
fn a_template_is_completed_and_an_untouched_one_calls_the_commit_off() {
    let desk = desk("test-web1");
    desk.sh("printf 'area: what\\n\\n# Why?\\n' > ~/template; git config commit.template ~/template");
    let before = desk.git(&["rev-parse", "HEAD"]);
    let run = |editor: &str| {
        let mut command = desk.command("git", &desk.repo);
        command.env_remove("GIT_EDITOR").args(["-c", &format!("core.editor={editor}")]);
        command.args(["commit", "-q", "--allow-empty"]).output().unwrap()
    };
    let untouched = run("true");
    assert!(!untouched.status.success(), "{untouched:?}");
    assert!(String::from_utf8_lossy(&untouched.stderr).contains("nothing was written"), "{untouched:?}");
    assert_eq!(desk.git(&["rev-parse", "HEAD"]), before);
    assert!(run("sed -i s/what/nginx/").status.success());
    assert_eq!(message(&desk), format!("area: nginx\n\n{LINE}"));
}

#[test]
fn an_empty_message_calls_the_commit_off_as_ever() {
    let desk = desk("test-web1");
    let before = desk.git(&["rev-parse", "HEAD"]);
    let ran = desk.try_sh("unset GIT_EDITOR; git -c core.editor=true commit -q --allow-empty -s");
    assert!(ran.code != 0 && ran.err.contains("nothing was written"), "{ran:?}");
    assert_eq!(desk.git(&["rev-parse", "HEAD"]), before);
}

#[test]
fn a_worktree_knows_its_own_branch() {
    let desk = desk("feature");
    desk.sh("git worktree add -q ~/other -b test-web1; cd ~/other; git commit -q --allow-empty -m Subject");
    assert_eq!(desk.git(&["log", "-1", "--format=%B", "test-web1"]), format!("Subject\n\n{LINE}"));
}
