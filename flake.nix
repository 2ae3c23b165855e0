{
  description = "A pull-based GitOps agent for NixOS that trusts keys, never the server";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      forAllSystems =
        f:
        lib.genAttrs [
          "x86_64-linux"
          "aarch64-linux"
        ] (system: f nixpkgs.legacyPackages.${system});
      packageFor = pkgs: import ./default.nix { inherit pkgs; };
    in
    {
      packages = forAllSystems (pkgs: rec {
        pullagent = packageFor pkgs;
        default = pullagent;
      });

      overlays.default = final: _: { pullagent = packageFor final; };

      nixosModules = rec {
        pullagent = ./module.nix;
        default = pullagent;
      };

      checks = forAllSystems (
        pkgs:
        import ./tests/nix/checks.nix {
          inherit pkgs;
          package = packageFor pkgs;
          module = self.nixosModules.default;
          nixosSystem = lib.nixosSystem;
        }
      );

      devShells = forAllSystems (pkgs: {
        default = pkgs.mkShell {
          inputsFrom = [ (packageFor pkgs) ];
          packages = with pkgs; [
            cargo-deny
            clippy
            rust-analyzer
            rustfmt
            fcgiwrap
            git
            gnupg
            nginx
            prometheus.cli
            openssh
            openssl
            strace
          ];
        };
      });

      formatter = forAllSystems (pkgs: pkgs.nixfmt-tree);
    };
}
