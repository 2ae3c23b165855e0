# The flake's checks: what needs a real nixpkgs, and what also runs elsewhere through `tests/run`.
{
  pkgs,
  package,
  module,
  nixosSystem,
}:

let
  inherit (pkgs) lib;

  # The cases that tests/module.rs reads, with the real `lib`.
  cases = import ./eval.nix { inherit lib; };

  host = nixosSystem {
    modules = [
      module
      {
        nixpkgs.hostPlatform = pkgs.stdenv.hostPlatform.system;
        networking.hostName = "web1";
        system.stateVersion = lib.trivial.release;
        boot.isContainer = true;
        services.pullagent = {
          enable = true;
          inherit package;
          settings = {
            remotes = [
              {
                name = "origin";
                url = "https://git.example.org/me/infra.git";
              }
            ];
            trust.signers.alice.keys = cases.rendered.trust.signers.alice.keys;
          };
        };
      }
    ];
  };
in
{
  inherit package;

  clippy = package.overrideAttrs (old: {
    pname = "pullagent-clippy";
    nativeBuildInputs = old.nativeBuildInputs ++ [ pkgs.clippy ];
    buildPhase = "cargo clippy --offline --all-targets -- -D warnings";
    installPhase = "touch $out";
    dontFixup = true;
  });

  tests = package.overrideAttrs (old: {
    pname = "pullagent-tests";
    doCheck = true;
    preCheck = ''
      export HOME=$TMPDIR/home NIX_STATE_DIR=$TMPDIR/nix/var NIX_LOG_DIR=$TMPDIR/nix/log
      mkdir -p "$HOME"
    '';
    nativeCheckInputs = (old.nativeCheckInputs or [ ]) ++ [
      pkgs.fcgiwrap
      pkgs.git
      pkgs.nginx
      pkgs.nix
      pkgs.openssh
      pkgs.openssl
      pkgs.strace
    ];
    # The build's user has no shell, so sshd lets nobody in.
    checkFlags = (old.checkFlags or [ ]) ++ [ "--skip=sshd::" ];
  });

  # Evaluates every case but those that must be refused.
  module-eval = pkgs.writeText "pullagent-module-eval.json" (
    builtins.toJSON (removeAttrs cases [ "refused" ])
  );

  # The whole unit and the checked configuration, as a NixOS host gets them.
  nixos = pkgs.runCommand "pullagent-nixos" { } ''
    grep -q '^KillMode=process$' ${host.config.systemd.units."pullagent.service".unit}/pullagent.service
    grep -Eq '"hostname": ?"web1"' ${host.config.environment.etc."pullagent/config.json".source}
    touch $out
  '';

  vm-basic = import ../vm/basic.nix { inherit pkgs module package; };
}
