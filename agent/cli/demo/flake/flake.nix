# The repository of the demo: one host, built without nixpkgs, so that nothing is downloaded.
# On a real host `toplevel` comes from nixpkgs' `lib.nixosSystem`; the agent sees the same files.
{
  description = "The host of pullagent's demo";

  outputs = { self }:
    let
      machine = builtins.fromJSON (builtins.readFile ./machine.json);
      # Seconds that the activation script spends on a pretended data migration.
      migrationSeconds = 0;

      fill = file: builtins.replaceStrings
        [ "@root@" "@path@" "@address@" "@nginxUser@" "@migrationSeconds@" ]
        [ machine.root machine.path machine.address machine.nginxUser (toString migrationSeconds) ]
        (builtins.readFile file);
      text = name: content: builtins.toFile name content;
    in
    {
      nixosConfigurations.demo.config.system.build.toplevel = derivation {
        name = "nixos-system-demo";
        system = machine.system;
        builder = "/bin/sh";
        args = [ "-eu" ./system/toplevel.sh ];
        PATH = machine.path;

        # What `services.pullagent.revision` is on a real host; null in a dirty checkout.
        revision = self.rev or "";
        agentConfig = text "config.json" (builtins.toJSON machine.pullagent);
        nginxConfig = text "nginx.conf" (fill ./system/nginx.conf);
        switchToConfiguration = text "switch-to-configuration" (fill ./system/switch-to-configuration);
        kernel = text "kernel" "the kernel of the demo is the kernel of this machine\n";
        initrd = text "initrd" "none\n";
        site = ./site;
      };
    };
}
