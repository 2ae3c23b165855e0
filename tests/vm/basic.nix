# A NixOS machine with the module switched on: the unit comes up, shows what it should to whom, refuses an unsigned
# commit, and survives its own restart. Needs a real nixpkgs and KVM; the flake's checks run it.
{
  pkgs,
  module,
  package,
}:

let
  sshKeys = import (pkgs.path + "/nixos/tests/ssh-keys.nix") pkgs;
  # An empty commit with fixed names and dates, so its id is known before the machine exists.
  introduction = "821774b03384f6b574100d22c1b000127898a70c";
in
pkgs.testers.runNixOSTest {
  name = "pullagent-basic";

  nodes.web1 = {
    imports = [ module ];
    environment.systemPackages = [ pkgs.git ];
    users.users.alice.isNormalUser = true;
    users.users.bob = {
      isNormalUser = true;
      extraGroups = [ "pullagent-admin" ];
    };
    services.pullagent = {
      enable = true;
      inherit package;
      settings = {
        remotes = [
          {
            name = "origin";
            url = "file:///srv/infra.git";
            interval = "2s";
          }
        ];
        trust.introduction = introduction;
        trust.signers.alice.keys = [ sshKeys.snakeOilEd25519PublicKey ];
      };
    };
  };

  testScript = ''
    who = " ".join(
        f"GIT_{role}_NAME=alice GIT_{role}_EMAIL=alice@example.org GIT_{role}_DATE='1700000000 +0000'"
        for role in ["AUTHOR", "COMMITTER"]
    )

    web1.start()
    before = web1.succeed("readlink -f /run/current-system").strip()
    web1.succeed(
        "git init -q --bare -b main /srv/infra.git",
        "git clone -q /srv/infra.git /root/infra",
        f"cd /root/infra && {who} git commit -q --allow-empty -m introduction && git push -q origin HEAD:main",
    )
    found = web1.succeed("git -C /root/infra rev-parse HEAD").strip()
    assert found == "${introduction}", found

    with subtest("the unit comes up, with a remote that was missing at first"):
        web1.wait_for_unit("pullagent.service")
        web1.wait_for_unit("pullagent.socket")
        web1.wait_for_unit("pullagent-gateway.service")
        web1.succeed("test $(systemctl show --value -p User pullagent-gateway.service) = pullagent-gateway")
        web1.succeed("test $(stat -c %a /var/lib/pullagent) = 700")
        web1.wait_until_succeeds("test -e /run/pullagent/status.json")

    with subtest("anybody may look, the group may steer"):
        web1.succeed("su - alice -c 'pullagent status'")
        web1.fail("su - alice -c 'pullagent suspend'")
        web1.succeed("su - bob -c 'pullagent suspend'", "su - bob -c 'pullagent resume'")

    with subtest("an unsigned commit is refused"):
        web1.succeed(
            f"cd /root/infra && {who} git commit -q --allow-empty -m unsigned && git push -q origin HEAD:main"
        )
        commit = web1.succeed("git -C /root/infra rev-parse HEAD").strip()
        web1.wait_until_succeeds(f"pullagent explain {commit} | grep -i sign")
        after = web1.succeed("readlink -f /run/current-system").strip()
        assert after == before, after

    with subtest("it survives its own restart"):
        web1.succeed("systemctl restart pullagent.service")
        web1.wait_until_succeeds(f"pullagent explain {commit} | grep -i sign")
  '';
}
