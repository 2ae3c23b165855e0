# The package. `nix-build` uses it as it is; the overlay and the module pass their own `pkgs`.
{
  pkgs ? import <nixpkgs> { },
}:

let
  inherit (pkgs) lib;
  manifest = lib.importTOML ./Cargo.toml;
in
pkgs.rustPlatform.buildRustPackage {
  pname = "pullagent";
  inherit (manifest.package) version;

  src = lib.fileset.toSource {
    root = ./.;
    fileset = lib.fileset.unions [
      ./Cargo.toml
      ./Cargo.lock
      ./agent
      # What the tests read; see the flake's checks.
      ./clippy.toml
      ./rustfmt.toml
      ./README.md
      ./CHANGELOG.md
      ./LICENSE-APACHE
      ./LICENSE-MIT
      ./docs
      ./default.nix
      ./flake.lock
      ./flake.nix
      ./module.nix
      ./tests
    ];
  };
  cargoLock.lockFile = ./Cargo.lock;

  # Manual and completions are made by the program itself, so they are never out of date. Cross builds can't run it and go
  # without.
  nativeBuildInputs = [ pkgs.installShellFiles ];
  postInstall = ''
    install -D -m 755 -t $out/share/pullagent/hooks agent/cli/hook/*
  ''
  + lib.optionalString (pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform) ''
    mkdir manual
    $out/bin/pullagent man manual
    installManPage manual/*
    for shell in bash fish zsh; do
      $out/bin/pullagent completions $shell > pullagent.$shell
    done
    installShellCompletion pullagent.{bash,fish,zsh}
  '';

  # The tests want Nix, Git and servers around them; the flake's checks run them.
  doCheck = false;

  meta = {
    inherit (manifest.package) description;
    license = with lib.licenses; [
      mit
      asl20
    ];
    mainProgram = "pullagent";
    platforms = lib.platforms.linux;
  };
}
