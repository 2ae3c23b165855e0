# Declares the NixOS options that module.nix reads or writes, with loose types, and pretends to be `pkgs`: just
# enough of a host to look at what the module makes of it. Works with the stand-in `lib` and with the real one.
{ lib, ... }:

let
  inherit (lib) mkOption types;
  option =
    type: default:
    mkOption {
      inherit type default;
    };
  some = types.anything;
  # Where definitions of a host and of the module add up.
  unit = types.submodule {
    freeformType = some;
    options = lib.genAttrs [ "after" "partOf" "wants" "wantedBy" ] (_: option (types.listOf types.str) [ ]);
  };
in
{
  options = {
    assertions = option (types.listOf some) [ ];
    environment.etc = option (types.attrsOf some) { };
    environment.systemPackages = option (types.listOf some) [ ];
    networking.hostName = option types.str "web1";
    networking.proxy.envVars = option some { https_proxy = "http://proxy.example.org:3128"; };
    nix.enable = option types.bool true;
    nix.envVars = option some { NIX_REMOTE = "daemon"; };
    nix.package = option some "the host's nix";
    security.pki.caBundle = option types.str "/etc/ssl/certs/ca-certificates.crt";
    services.comin.enable = option types.bool false;
    services.openssh = option some { };
    system.autoUpgrade.enable = option types.bool false;
    system.configurationRevision = option (types.nullOr types.str) null;
    systemd.services = option (types.attrsOf unit) { };
    systemd.sockets = option (types.attrsOf unit) { };
    systemd.tmpfiles.settings = option (types.attrsOf some) { };
    users.groups = option (types.attrsOf some) { };
    users.users = option (types.attrsOf some) { };
  };
}
