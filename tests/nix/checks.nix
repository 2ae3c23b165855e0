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
  unitNames = lib.attrNames (lib.importJSON ../../agent/host/units.json).installed;
  unitFile = name: "${host.config.systemd.units.${name}.unit}/${name}";
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
      pkgs.curl
      pkgs.fcgiwrap
      pkgs.git
      pkgs.gnupg
      pkgs.nginx
      pkgs.prometheus.cli
      pkgs.nix
      pkgs.openssh
      pkgs.openssl
      pkgs.strace
      pkgs.systemd
    ];
    # The build's user has no shell, so sshd lets nobody in.
    checkFlags = (old.checkFlags or [ ]) ++ [ "--skip=sshd::" ];
  });

  # Evaluates every case but those that must be refused.
  module-eval = pkgs.writeText "pullagent-module-eval.json" (
    builtins.toJSON (removeAttrs cases [ "refused" ])
  );

  # The whole units and the checked configuration, as a NixOS host gets them.
  nixos = pkgs.runCommand "pullagent-nixos" { nativeBuildInputs = [ pkgs.systemd ]; } ''
    for unit in ${lib.concatMapStringsSep " " unitFile unitNames}; do
      cp "$unit" .
    done
    grep -q '^X-StopIfChanged=false$' pullagent.service
    grep -q '^User=pullagent-gateway$' pullagent-gateway.service
    grep -q '^FileDescriptorName=gateway$' pullagent.socket
    systemd-analyze security --offline=true --threshold=15 ./pullagent-gateway.service
    grep -Eq '"hostname": ?"web1"' ${host.config.environment.etc."pullagent/config.json".source}
    touch $out
  '';

  vm-basic = import ../vm/basic.nix { inherit pkgs module package; };
}
