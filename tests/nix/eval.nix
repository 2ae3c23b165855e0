# Evaluates module.nix on made-up hosts. `tests/module.rs` reads the results with the stand-in `lib`; the flake's
# checks read the same ones with the real `lib`.
{
  lib ? import ./lib.nix,
  # A duration, how often to poll, files of secrets and a key to try, for the tables in tests/module.rs.
  duration ? "60s",
  interval ? "60s",
  tokenFile ? "/run/keys/token",
  sshKeyFile ? "/run/keys/deploy",
  hintTokenFile ? "/run/keys/push",
  submoduleTokenFile ? "/run/keys/lib",
  hookSecret ? "/run/keys/forge",
  key ? builtins.head (lib.importJSON ../fixtures/config.json).trust.signers.alice.keys,
}:

let
  # As in a store: another content, another path.
  fakeOf = name: content: {
    type = "derivation";
    inherit name;
    outPath = "${builtins.storeDir}/${builtins.substring 0 32 (builtins.hashString "sha256" content)}-${name}";
  };
  fakePackage = name: fakeOf name "";

  pkgsWhere =
    { native }:
    {
      pullagent = fakePackage "pullagent";
      gitMinimal = fakePackage "git-minimal";
      tzdata = fakePackage "tzdata";
      openssh = fakePackage "openssh";
      stdenv.buildPlatform.canExecute = _: native;
      stdenv.hostPlatform = { };
      formats.json = _: {
        type = lib.types.anything;
        generate = name: value: fakeOf name (builtins.toJSON value) // { inherit value; };
      };
      runCommand =
        name: env: script:
        fakeOf name (builtins.toJSON env + script) // { inherit env script; };
    };

  evaluate =
    {
      native ? true,
      modules,
    }:
    (lib.evalModules {
      modules = [
        ./host.nix
        ../../module.nix
      ]
      ++ modules;
      specialArgs.pkgs = pkgsWhere { inherit native; };
    }).config;

  golden = {
    services.pullagent = {
      enable = true;
      settings = {
        remotes = [
          {
            name = "origin";
            url = "https://git.example.org/me/infra.git";
            inherit interval;
          }
        ];
        trust.signers.alice.keys = [ key ];
        health.checks.web.http = "http://127.0.0.1/healthz";
      };
    };
  };

  settings = more: {
    services.pullagent.settings = more;
  };

  host = modules: evaluate { modules = [ golden ] ++ modules; };
  source = config: config.environment.etc."pullagent/config.json".source;
  rendered = config: (source config).env.config.value;
  failures = config: map (a: a.message) (builtins.filter (a: !a.assertion) config.assertions);
  failuresOf = module: failures (host [ module ]);

  secretsAt =
    tokenFile:
    settings {
      remotes = lib.mkForce [
        {
          name = "origin";
          url = "https://git.example.org/me/infra.git";
          inherit tokenFile;
        }
        {
          name = "mirror";
          url = "/srv/infra.git";
        }
        {
          name = "deploy";
          url = "git@git.example.org:me/infra.git";
          inherit sshKeyFile;
          knownHostsFile = "/etc/ssh/ssh_known_hosts";
        }
      ];
      source.submodules."modules/lib" = {
        url = "https://git.example.org/me/lib.git";
        tokenFile = submoduleTokenFile;
      };
      hints = [
        {
          name = "nchan";
          kind = "sse";
          url = "https://push.example.org/infra";
          tokenFile = hintTokenFile;
        }
        {
          name = "broker";
          kind = "exec";
          command = [ "/bin/mosquitto_sub" ];
          remotes = [ "origin" ];
          splay = "30s";
        }
      ];
    };
  secrets = secretsAt tokenFile;
  withSecret = host [ secrets ];

  changedHost = host [
    (settings {
      branches = [
        {
          pattern = "production";
          operation = "switch";
        }
      ];
      source.subdir = "hosts";
      source.submodules."modules/lib".url = "https://git.example.org/me/lib.git";
      trust.signers.bob = {
        keys = [
          {
            key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGpibaC0QC5rtjWVaBd7AOA6Z0zQ0eZmZEv3Xa5mreHk bob@laptop";
            validUntil = "2027-01-31";
          }
        ];
        roles = [ "contributor" ];
        testHosts = [ "web1" ];
      };
      trust.refBinding = "strict";
      trust.merges = "vouch";
      build.evalMemoryMax = 2147483648;
      activation.soak = duration;
    })
  ];

  # Everything a switch compares.
  unitsOf = config: { inherit (config.systemd) services sockets; };

  revisionOf = modules: (host modules).environment.etc."pullagent/revision".text or null;
  commit = "0123456789abcdef0123456789abcdef01234567";
in
{
  rendered = rendered (host [ ]);
  # What docs/signing.md has `nix eval` print.
  evaluated = (host [ ]).services.pullagent.settings;
  configCheck = (source (host [ ])).script;
  configEnvironment = removeAttrs (source (host [ ])).env [ "config" ];
  units = unitsOf (host [ ]);
  users = { inherit ((host [ ]).users) users groups; };
  installed = (host [ ]).environment.systemPackages;

  # A cross build can't run the program, so the file goes in as it is.
  crossRendered =
    (source (evaluate {
      native = false;
      modules = [ golden ];
    })).value;

  disabled =
    let
      config = evaluate { modules = [ (golden // { services.pullagent.enable = false; }) ]; };
    in
    {
      inherit (config)
        assertions
        ;
      inherit (config.environment) etc systemPackages;
      inherit (config.systemd) services sockets;
      inherit (config.systemd.tmpfiles) settings;
      inherit (config.users) groups users;
    };

  freeform = rendered (host [
    (settings {
      futureKey.deep = [ 1 ];
      activation.typo = "1s";
    })
  ]);

  changed = rendered changedHost;

  ssh =
    let
      with' =
        more:
        rendered (host [
          {
            services.openssh = {
              enable = true;
              ports = [ 2222 ];
            };
          }
          more
        ]);
    in
    {
      usual = with' { };
      own = with' (settings {
        health.checks.ssh.unit = "sshd.service";
      });
      bound = with' { services.openssh.listenAddresses = [ { addr = "10.0.0.1"; } ]; };
    };

  # What a change of the configuration, and one of a secret's place, does to the units.
  before = unitsOf withSecret;
  after = {
    configuration = unitsOf (host [ secrets (settings { activation.soak = "61s"; }) ]);
    secret = unitsOf (host [ (secretsAt "/run/keys/other") ]);
  };

  secret = {
    rendered = rendered withSecret;
    units = unitsOf withSecret;
    failures = failures withSecret;
  };

  revision = {
    unknown = revisionOf [ ];
    fromSystem = revisionOf [ { system.configurationRevision = commit; } ];
    dirtySystem = revisionOf [ { system.configurationRevision = "${commit}-dirty"; } ];
    own = revisionOf [ { services.pullagent.revision = commit; } ];
    # Neither a unit nor what it depends on may change with it.
    unitsAreTheSame = unitsOf (host [ { services.pullagent.revision = commit; } ]) == unitsOf (host [ ]);
  };

  metrics =
    let
      with' =
        exporter:
        let
          config = host [ (settings { inherit exporter; }) ];
        in
        {
          rendered = (rendered config).exporter;
          inherit (config.systemd.services.pullagent-gateway) serviceConfig;
          tmpfiles = config.systemd.tmpfiles.settings;
        };
    in
    {
      none = with' null;
      loopback = with' { listen = "127.0.0.1:9175"; };
      six = with' { listen = "[::1]:9176"; };
      file = with' { textfile = "/var/lib/node/pullagent.prom"; };
    };

  webhooks =
    let
      config = host [
        (settings {
          exporter.listen = "127.0.0.1:9175";
          webhooks.listen = "[::1]:9000";
          webhooks.hooks = {
            forge = {
              kind = "forgejo";
              secretFiles = [
                hookSecret
                "/run/keys/forge-old"
              ];
            };
            other = {
              kind = "hmac-sha256";
              header = "X-Signature";
              secretFiles = [ "/run/keys/other" ];
              remotes = [ "origin" ];
            };
          };
        })
      ];
    in
    {
      rendered = rendered config;
      units = unitsOf config;
      failures = failures config;
    };

  # What a host may add to a unit, beside what the module says.
  extended = unitsOf (host [
    {
      systemd.services.pullagent-gateway = {
        after = [ "unbound.service" ];
        serviceConfig.IPAddressDeny = "10.0.0.0/8";
      };
    }
  ]);

  failures = {
    none = failuresOf { };
    autoUpgrade = failuresOf { system.autoUpgrade.enable = true; };
    comin = failuresOf { services.comin.enable = true; };
    noNix = failuresOf { nix.enable = false; };
    noHostName = failuresOf { networking.hostName = ""; };
    noRemote = failuresOf (settings {
      remotes = lib.mkForce [ ];
    });
    noSigner = failuresOf (settings {
      trust.signers = lib.mkForce { };
    });
    noKey = failuresOf (settings {
      trust.signers.alice.keys = lib.mkForce [ ];
    });
    noDeployer = failuresOf (settings {
      trust.signers.alice.roles = [ "contributor" ];
    });
  };

  # Each of these must be refused when it is read.
  refused = {
    operation = rendered (host [
      (settings {
        branches = [
          {
            pattern = "main";
            operation = "boot";
          }
        ];
      })
    ]);
    stateDirectory = rendered (host [ (settings { stateDirectory = "/tmp"; }) ]);
    machineId = rendered (host [ (settings { expectedMachineId = "web1"; }) ]);
    revision = revisionOf [ { services.pullagent.revision = "main"; } ];
    undeclared = failuresOf { services.pullagent.branch = "main"; };
    textfile = rendered (host [ (settings { exporter.textfile = "/var/lib/node/pullagent.txt"; }) ]);
    listen = rendered (host [ (settings { exporter.listen = "9175"; }) ]);
    hookKind = rendered (host [
      (settings {
        webhooks.hooks.forge = {
          kind = "sourceforge";
          secretFiles = [ "/run/keys/forge" ];
        };
      })
    ]);
    hookWithoutSecret = rendered (host [ (settings { webhooks.hooks.forge.kind = "github"; }) ]);
    remoteWithoutUrl = rendered (host [ (settings { remotes = [ { name = "spare"; } ]; }) ]);
  };
}
