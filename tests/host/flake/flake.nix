# A host made without nixpkgs but laid out as NixOS lays it out, so that it can be built, booted and switched on
# the test machine. What it consists of is data, `host.json`; see `System` in tests/common/machine/system.rs.
{
  outputs =
    { self }:
    let
      host = builtins.fromJSON (builtins.readFile ./host.json);

      # What `@name@` stands for in a text: a file of the repository or something that is in the store already.
      file = name: builtins.path { inherit name; path = ./files + "/${name}"; };
      package = path: builtins.appendContext path { ${path} = { path = true; }; };
      named =
        builtins.listToAttrs (map (name: { inherit name; value = file name; }) host.files)
        // builtins.mapAttrs (_: package) host.packages;
      fill =
        text:
        builtins.replaceStrings (map (name: "@${name}@") (builtins.attrNames named)) (builtins.attrValues named) text;

      # Store names take fewer characters than unit names.
      storeName = builtins.replaceStrings [ "@" "\\" "/" ] [ "-" "-" "-" ];
      # What is in the store already, or a text that stands for it.
      image =
        name: content:
        if builtins.substring 0 11 content == "/nix/store/" then package content else text name content;
      text = name: content: builtins.toFile (storeName name) (fill content);

      # A directory of links; `links` is a list of [ place target ].
      tree =
        name: links:
        derivation {
          inherit name;
          inherit (host) system;
          builder = "/bin/sh";
          args = [ "-eu" ./system/tree.sh ];
          links = builtins.concatStringsSep "\n" (map (builtins.concatStringsSep " ") links);
        };

      unitNames = builtins.attrNames host.units;
      targets = builtins.attrNames (builtins.readDir ./system/units);
      units = tree "system-units" (
        map (name: [ name "${./system/units + "/${name}"}" ]) targets
        ++ [ [ "default.target" "multi-user.target" ] ]
        ++ map (name: [ name "${text "unit-${name}" host.units.${name}.text}" ]) unitNames
        ++ builtins.concatMap (
          name: map (target: [ "${target}.wants/${name}" "../${name}" ]) host.units.${name}.wantedBy
        ) unitNames
      );

      revision = if self ? rev then { "pullagent/revision" = "${self.rev}\n"; } else { };
      etcTexts = host.etc // revision;
      etc = tree "etc" (
        [ [ "etc/systemd/system" "${units}" ] ]
        ++ map (name: [ "etc/${name}" "${text "etc-${name}" etcTexts.${name}}" ]) (builtins.attrNames etcTexts)
      );

      lines = builtins.concatStringsSep "\n";
    in
    {
      nixosConfigurations.${host.name}.config.system.build.toplevel = derivation {
        name = "nixos-system-${host.name}-${host.label}";
        inherit (host) system label kernelParams interface;
        builder = "/bin/sh";
        args = [ "-eu" ./system/toplevel.sh ];

        inherit etc;
        activate = ./system/activate;
        init = ./system/init;
        switchToConfiguration = ./system/switch-to-configuration;
        installBootLoader = ./system/install-boot-loader;
        compareUnits = ./system/compare-units.awk;
        readUnit = ./system/read-unit.awk;
        steps = ./system/steps.sh;

        kernel = image "kernel" host.kernel;
        initrd = image "initrd" host.initrd;
        inhibitors = text "switch-inhibitors" (builtins.toJSON host.inhibitors);
        users = text "users" (lines (host.users ++ [ "" ]));
        groups = text "groups" (lines (host.groups ++ [ "" ]));
        faults = text "faults" (lines (host.faults ++ [ "" ]));
      };
    };
}
