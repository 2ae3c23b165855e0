# The NixOS module. It works with and without flakes: everything it needs comes from `pkgs`.
#
# Everything but the package and the revision is a typed key under `settings`, written once as
# /etc/pullagent/config.json. Keys that are not declared here pass through as JSON, and the agent's own
# `config check` refuses the unknown ones while the system is being built, not on the host.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (lib) mkOption types;

  cfg = config.services.pullagent;
  json = pkgs.formats.json { };

  record =
    options:
    types.submodule {
      freeformType = json.type;
      inherit options;
    };

  # What the agent's duration parser takes, without its rarer spellings.
  duration =
    let
      part = "[0-9]+ ?(ms|s|sec|seconds?|m|min|minutes?|h|hours?|d|days?|w|weeks?)";
    in
    types.strMatching "${part}( ?${part})*"
    // {
      description = "duration such as \"90s\" or \"1h 30m\"";
    };

  calendar = types.strMatching "[A-Za-z0-9*~.,:/_+ -]{1,200}" // {
    description = "calendar expression such as \"hourly\" or \"Mon..Fri 08..18:00/15\"";
  };

  mkDuration =
    default: description:
    mkOption {
      type = duration;
      inherit default description;
    };

  mkNullable =
    type: description:
    mkOption {
      type = types.nullOr type;
      default = null;
      inherit description;
    };

  remote = record remoteOptions;

  # What it is fetched from only; it is never asked for branches.
  submodule = record (
    removeAttrs remoteOptions [
      "name"
      "interval"
      "intervalWhileHinted"
    ]
  );

  # How an HTTPS server is reached and shown who asks, beside its address and the authorities.
  httpsOptions = {
    clientCertFile = mkNullable types.path ''
      PEM file with a certificate that proves this host to the server, and those between it and the authority. It is no
      secret. A certificate that is renewed counts from the next request on.
    '';
    clientKeyFile = mkNullable types.path ''
      PEM file on the host with the private key of {option}`clientCertFile`. It is handed to the gateway as
      {option}`tokenFile` is.
    '';
    proxy = mkNullable types.str ''
      A proxy to go through: `http://host:port` (by `CONNECT`) or `socks5h://host:port`. It looks the server's name up, and
      sees no more than where the connection leads. `null` means none: {option}`networking.proxy` is not used by itself, but
      `config.networking.proxy.httpsProxy` may be given here.
    '';
    proxyCredentialsFile = mkNullable types.path ''
      File on the host with `user:password` for the proxy. It is handed to the gateway as {option}`tokenFile` is.
    '';
  };

  remoteOptions = httpsOptions // {
    name = mkOption {
      type = types.strMatching "[A-Za-z0-9._-]{1,64}";
      example = "origin";
      description = "Name of the remote in status and log. Used once.";
    };
    url = mkOption {
      type = types.str;
      example = "https://git.example.org/me/infra.git";
      description = ''
        Where the repository is: `https://…`, `ssh://user@host/path`, `user@host:path`, `file:///…` or an absolute
        path, which the user `pullagent-gateway` must be able to read and which is not below {file}`/home`,
        {file}`/root` or {file}`/tmp`; `http://` on loopback only. Never with a password in it.
      '';
    };
    interval = mkOption {
      type = types.either duration calendar;
      default = "60s";
      example = "Mon..Fri 08..18:00/15";
      description = ''
        How often the remote is asked for its branches, `1s` or more; or when, as a calendar expression of {manpage}`systemd.time(7)`:
        `hourly`, `*-*-* 04:40:00`, `*:0/10`, `Sat,Sun 02:00 Europe/Berlin`. Without a time zone it goes by the host's
        clock. A poll comes within a minute after its moment, at random. Whatever it says, the remote is also asked when the
        agent starts, after a hint, a webhook or `pullagent sync`, and soon again when it did not answer.
      '';
    };
    intervalWhileHinted = mkNullable duration ''
      How often the remote is asked while a source of {option}`services.pullagent.settings.hints` is connected that is for
      it. `null` means ten times {option}`interval`, and `15m` at most. So much is what a source of hints that lies about
      being there can delay a deployment. With a calendar for {option}`interval`, it must be `null`.
    '';
    username = mkOption {
      type = types.str;
      default = "pullagent";
      description = "User name that is sent along with the token.";
    };
    tokenFile = mkNullable types.path ''
      File on the host that holds an access token for this remote. It is handed to the network gateway by systemd
      (`LoadCredential=`), so only root needs to be able to read it, and it must not lie in the Nix store.
      When the file changes, the agent restarts the gateway with what it holds then.
    '';
    sshKeyFile = mkNullable types.path ''
      File on the host that holds a private key for this SSH remote, without a passphrase and for nothing else (a
      "deploy key" that may only read). It is handed to the gateway as {option}`tokenFile` is. SSH remotes need it.
    '';
    knownHostsFile = mkNullable types.path ''
      File with the host keys of the server of this SSH remote, in the manner of {file}`known_hosts`. It is no secret
      and may lie in the Nix store; {file}`/etc/ssh/ssh_known_hosts` is the one that {option}`programs.ssh.knownHosts`
      makes. SSH remotes need it: nothing is trusted on first use.
    '';
    caFile = mkNullable types.path ''
      PEM file of certificate authorities that this remote may also use, besides the system's own. Like
      {option}`knownHostsFile`, it must be readable by everybody, and not lie in a home directory.
    '';
  };

  hint = record (httpsOptions // {
    name = mkOption {
      type = types.strMatching "[A-Za-z0-9._-]{1,64}";
      example = "nchan";
      description = "Name of the source of hints in status and log. Used once.";
    };
    kind = mkOption {
      type = types.enum [
        "sse"
        "long-poll"
        "exec"
      ];
      description = ''
        How to listen. `sse`: to a stream of server-sent events, as nchan, ntfy and Mercure give it; each message is a hint.
        `long-poll`: by a request that is answered when there is something new. `exec`: to a program that prints a line for
        each hint.
      '';
    };
    url = mkNullable types.str ''
      Where to listen: `https://…`, or `http://` on loopback. Every user of the host can read it, so it must hold no secret.
      Not for `exec`.
    '';
    tokenFile = mkNullable types.path ''
      File on the host that holds an access token for that service, sent as `Authorization: Bearer`. It is handed to the
      gateway as the one of a remote is.
    '';
    caFile = mkNullable types.path ''
      PEM file of certificate authorities that this service may also use, besides the system's own. It must be readable by
      everybody.
    '';
    command = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = lib.literalExpression ''[ "''${pkgs.mosquitto}/bin/mosquitto_sub" "-h" "broker.example.org" "-t" "infra" ]'';
      description = ''
        For `exec`: a program, as an absolute path, and its arguments. It runs in the sandbox of the gateway, which lets it
        reach the network, and read the tokens and keys of the remotes. It is started again when it ends, and once a day.
      '';
    };
    remotes = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "origin" ];
      description = "Names of the remotes that are asked when a hint comes. None means all of them.";
    };
    filter = mkNullable types.str "Text that a hint must contain to count, such as the name of a repository.";
    splay = mkDuration "2s" ''
      The remotes are asked within this time after a hint, at random, so that a fleet does not ask them all at once. `10m` or
      less; for more than a thousand hosts, `30s`.
    '';
    idleTimeout = mkDuration "90s" ''
      How long the service may be silent before its connection counts as dead. Most services say something every 45 s or
      less; nchan has to be told to. Not for `exec`.
    '';
  });

  branch = record {
    pattern = mkOption {
      type = types.str;
      example = "test-{hostname}";
      description = "Name of the branch; `{hostname}` stands for the host's name.";
    };
    operation = mkOption {
      type = types.enum [
        "switch"
        "test"
      ];
      description = ''
        What is done with the branch's tip. `switch`: activate, prove healthy, then make permanent.
        `test`: activate and prove healthy, but never make permanent; a reboot goes back.
      '';
    };
  };

  publicKey = types.strMatching "(ssh-ed25519|sk-ssh-ed25519@openssh\\.com) [A-Za-z0-9+/]+=*( .*)?";

  # A day, or a second of it, in UTC.
  moment = types.strMatching "[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)?";

  windowedKey = record {
    key = mkOption {
      type = publicKey;
      description = "The public key, as in {file}`~/.ssh/id_ed25519.pub`.";
    };
    validFrom = mkNullable moment ''
      When signatures by this key begin to count: `"2027-01-31"` means the first second of that day, UTC;
      `"2027-01-31T12:00:00Z"` is exact. `null` means that they always did.
    '';
    validUntil = mkNullable moment ''
      From when on signatures by this key no longer count, written as {option}`validFrom` is. A deployed commit is held
      against the host's clock, a commit below it against its own commit date, so history that was signed in time
      stays good. `null` means never. For a stolen key use
      {option}`services.pullagent.settings.trust.revokedKeys`: a thief chooses the dates.
    '';
  };

  signer = record {
    keys = mkOption {
      type = types.listOf (types.either publicKey windowedKey);
      example = lib.literalExpression ''
        [
          "ssh-ed25519 AAAAC3Nza… alice@laptop"
          { key = "ssh-ed25519 AAAAC3Nzb… alice@old"; validUntil = "2027-01-31"; }
        ]
      '';
      description = "Public keys, as in {file}`~/.ssh/id_ed25519.pub`; each bare, or with the time in which it counts.";
    };
    roles = mkOption {
      type = types.listOf (
        types.enum [
          "deployer"
          "contributor"
        ]
      );
      default = [ "deployer" ];
      description = ''
        What the signatures are good for. A `deployer` may sign the commit that is deployed, a
        `contributor` only commits below it.
      '';
    };
    testHosts = mkNullable (types.listOf types.str) ''
      The hosts whose test branch this signer may move. `null` means every host's for a `deployer`, none for a
      `contributor`. Whoever may move a host's test branch can run anything on that host.
    '';
  };

  check = record {
    http = mkNullable types.str ''
      Address (`http://` or `https://`) that must answer with a 2xx status. Redirects are not followed.
    '';
    tcp = mkNullable types.str ''
      Address and port that must accept a connection, such as `127.0.0.1:22`.
    '';
    dns = mkNullable types.str "Name that the host must be able to resolve.";
    unit = mkNullable types.str ''
      systemd unit that must be active, by its full name: `postgresql.service`, `boot-complete.target`. One that is
      starting is waited for.
    '';
    command = mkNullable (types.listOf types.str) ''
      Program, as an absolute path, and its arguments. Healthy when it exits with 0; 75 means "not yet".
    '';
    status = mkNullable (types.ints.between 100 599) "For `http`: the status that must come instead of 2xx.";
    expect = mkNullable types.str ''
      For `http`: text that the first MiB of the answer must contain. For `tcp`: how what the other side says first must
      begin, such as `SSH-`.
    '';
    privileged = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether the command runs as root and outside of any sandbox. Otherwise it runs as a user of its own without
        any rights, who sees no processes but its own, no homes and no secrets, and can't speak to systemd.
      '';
    };
    severity = mkOption {
      type = types.enum [
        "hard"
        "soft"
      ];
      default = "hard";
      description = "Whether a failure rolls back (`hard`) or is only reported (`soft`).";
    };
    baseline = mkOption {
      type = types.enum [
        "must-not-regress"
        "require"
      ];
      default = "must-not-regress";
      description = ''
        What it means that the check is red before the switch already, in two of three tries. `must-not-regress`: then it
        is only reported, for the new system did not break it. `require`: it must turn green all the same.
      '';
    };
    timeout = mkDuration "10s" "How long one try may take.";
    interval = mkDuration "5s" "Pause between two tries.";
    startPeriod = mkDuration "30s" "Failures this early after the switch do not count.";
    successThreshold = mkOption {
      type = types.ints.positive;
      default = 1;
      description = "How many successes in a row mean healthy.";
    };
    failureThreshold = mkOption {
      type = types.ints.positive;
      default = 3;
      description = "How many failures in a row mean unhealthy.";
    };
  };

  hook = record {
    kind = mkOption {
      type = types.enum [
        "github"
        "forgejo"
        "gitea"
        "bitbucket"
        "gitlab"
        "standard-webhooks"
        "hmac-sha256"
        "bearer"
        "path"
      ];
      example = "forgejo";
      description = ''
        Who sends the requests, or how they prove themselves. `github`, `forgejo`, `gitea` and `bitbucket` sign the body
        with the secret; so does anybody else with `hmac-sha256`. `standard-webhooks` signs the time, too; GitLab
        calls it a signing token. `gitlab` (its secret token), `bearer` (`Authorization: Bearer …`) and `path`
        (`/hook/<name>/<secret>`) show the secret itself, so they must only be sent over HTTPS.
      '';
    };
    header = mkNullable (types.strMatching "[A-Za-z0-9_-]{1,64}") ''
      For `hmac-sha256`: the header with the signature, in hexadecimal, with or without `sha256=` before it. `null` means
      `X-Hub-Signature-256`.
    '';
    secretFiles = mkOption {
      type = types.listOf types.path;
      example = [ "/etc/pullagent-keys/forgejo-webhook" ];
      description = ''
        Files on the host that hold a secret each, of 16 bytes or more. Any of them will do, so that one can be replaced
        while the other still counts. They are handed to the gateway as
        {option}`services.pullagent.settings.remotes.*.tokenFile` is, and must not lie in the Nix store; but a file that is
        missing costs its webhook only.
      '';
    };
    remotes = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "origin" ];
      description = "Names of the remotes that are asked then; none means all.";
    };
  };

  # All units are described in one file, which the agent and its tests read too; this module adds what only Nix knows.
  described = builtins.fromJSON (builtins.readFile ./agent/host/units.json);
  installed = described.installed // described.optional;
  filled = lib.mapAttrs (
    _: value: if lib.isString value then lib.replaceStrings [ "@program@" ] [ program ] value else value
  );
  # Where NixOS has an option for a key, it is used, so that a host can add to it.
  orders = {
    After = "after";
    PartOf = "partOf";
    Wants = "wants";
  };
  unitOf =
    name:
    let
      unit = installed.${name}.Unit;
      ordered = builtins.intersectAttrs unit orders;
    in
    lib.mapAttrs' (key: option: lib.nameValuePair option (lib.splitString " " unit.${key})) ordered
    // {
      description = unit.Description;
      unitConfig = removeAttrs unit ([ "Description" ] ++ lib.attrNames ordered);
      wantedBy = (installed.${name}.Install or { }).WantedBy or [ ];
    };
  serviceOf =
    name: more:
    unitOf name
    // more
    // {
      serviceConfig = filled installed.${name}.Service // (more.serviceConfig or { });
    };

  ssh = config.services.openssh or { };
  answersSsh = (ssh.enable or false) && (ssh.listenAddresses or [ ]) == [ ];

  # For whoever speaks TLS.
  outside = config.networking.proxy.envVars // {
    NIX_SSL_CERT_FILE = config.security.pki.caBundle;
    SSL_CERT_FILE = config.security.pki.caBundle;
  };

  # Secrets reach the gateway as systemd credentials; the configuration names the copy, not the original.
  credentialKeys = [
    "tokenFile"
    "sshKeyFile"
    "clientKeyFile"
    "proxyCredentialsFile"
  ];
  secretsOf = r: lib.filter (key: (r.${key} or null) != null) credentialKeys;
  # No remote has such a name as the others.
  credentialNames = {
    remotes = r: key: "${r.name}.${key}";
    hints = h: key: "hint@${h.name}.${key}";
  };
  secretsIn =
    list:
    lib.concatMap (
      r:
      map (key: {
        name = credentialNames.${list} r key;
        path = toString r.${key};
        option = "services.pullagent.settings.${list} (${r.name}).${key}";
      }) (secretsOf r)
    ) cfg.settings.${list};
  # A path may have what the name of a credential may not.
  submoduleCredential =
    path: key: "submodule@${builtins.substring 0 32 (builtins.hashString "sha256" path)}.${key}";
  submoduleSecrets = lib.concatMap (
    path:
    let
      submodule = cfg.settings.source.submodules.${path};
    in
    map (key: {
      name = submoduleCredential path key;
      path = toString submodule.${key};
      option = "services.pullagent.settings.source.submodules.\"${path}\".${key}";
    }) (secretsOf submodule)
  ) (lib.attrNames cfg.settings.source.submodules);
  secrets = secretsIn "remotes" ++ secretsIn "hints" ++ submoduleSecrets;
  hookCredentials = lib.mapAttrs (
    name: hook:
    lib.genList (n: {
      name = "webhook.${name}.${toString n}";
      path = toString (lib.elemAt hook.secretFiles n);
      option = "services.pullagent.settings.webhooks.hooks.${name}.secretFiles";
    }) (lib.length hook.secretFiles)
  ) cfg.settings.webhooks.hooks;
  hookSecrets = builtins.concatLists (lib.attrValues hookCredentials);

  inCredentials = name: "/run/credentials/pullagent-gateway.service/${name}";
  rendered =
    cfg.settings
    // lib.genAttrs (lib.attrNames credentialNames) (
      list:
      map (
        r: r // lib.genAttrs (secretsOf r) (key: inCredentials (credentialNames.${list} r key))
      ) cfg.settings.${list}
    )
    // {
      source = cfg.settings.source // {
        submodules = lib.mapAttrs (
          path: s: s // lib.genAttrs (secretsOf s) (key: inCredentials (submoduleCredential path key))
        ) cfg.settings.source.submodules;
      };
      webhooks = cfg.settings.webhooks // {
        hooks = lib.mapAttrs (
          name: hook: hook // { secretFiles = map (s: inCredentials s.name) hookCredentials.${name}; }
        ) cfg.settings.webhooks.hooks;
      };
      # It is restarted when one of them changes.
      copiedSecrets = map (s: s.path) (secrets ++ hookSecrets);
    };
  written = json.generate "pullagent-config.json" rendered;
  program = "${cfg.package}/bin/pullagent";

  # A mistake fails the build and never reaches a host. Cross builds can't run the program and skip this.
  configFile =
    if pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform then
      pkgs.runCommand "pullagent-config-checked.json"
        {
          config = written;
          # A calendar may name a time zone.
          TZDIR = "${pkgs.tzdata}/share/zoneinfo";
        }
        ''
          ${program} config check --config "$config"
          cp "$config" "$out"
        ''
    else
      written;

  # What the gateway may do beyond its unit's own words: listen at one port, write in one directory.
  exporter = if cfg.settings.exporter == null then { } else cfg.settings.exporter;
  listen = exporter.listen or null;
  textfile = exporter.textfile or null;
  listenRule =
    let
      family = if lib.hasPrefix "[" listen then "ipv6" else "ipv4";
    in
    "${family}:tcp:${lib.head (builtins.match ".*:([0-9]+)" listen)}";

  isRevision = text: builtins.match "[0-9a-f]{40}|[0-9a-f]{64}" text != null;
in
{
  options.services.pullagent = {
    enable = lib.mkEnableOption "pullagent, which keeps this host equal to a signed Git repository";

    package = mkOption {
      type = types.package;
      default = pkgs.pullagent or (import ./default.nix { inherit pkgs; });
      defaultText = lib.literalExpression "pkgs.pullagent or (import ./default.nix { inherit pkgs; })";
      description = "The pullagent package to use.";
    };

    revision = mkOption {
      type = types.nullOr (types.strMatching "[0-9a-f]{40}|[0-9a-f]{64}");
      default =
        let
          r = config.system.configurationRevision;
        in
        if r != null && isRevision r then r else null;
      defaultText = lib.literalExpression "config.system.configurationRevision, where that is a full commit id";
      example = lib.literalExpression "self.rev or null";
      description = ''
        The commit that this system is built from. The running system's own revision is where the agent starts
        to trust: every commit from there to the deployed one must be signed. Without it,
        {option}`services.pullagent.settings.trust.introduction` must name a commit.
        It is a file of its own ({file}`/etc/pullagent/revision`) that no unit depends on, so a commit that
        changes nothing else restarts nothing.
      '';
    };

    settings = mkOption {
      description = ''
        The agent's configuration, written as {file}`/etc/pullagent/config.json`. Durations are texts such as
        `"90s"` or `"1h 30m"`. `pullagent config schema` prints every key.
      '';
      example = lib.literalExpression ''
        {
          remotes = [ { name = "origin"; url = "https://git.example.org/me/infra.git"; } ];
          trust.signers.alice.keys = [ "ssh-ed25519 AAAAC3Nza… alice@laptop" ];
          health.checks.web.http = "http://127.0.0.1/healthz";
        }
      '';
      type = record {
        schema = mkOption {
          type = types.enum [ 1 ];
          default = 1;
          description = "Version of the file's layout.";
        };
        hostname = mkOption {
          type = types.str;
          default = config.networking.hostName;
          defaultText = lib.literalExpression "config.networking.hostName";
          description = ''
            The host's name: it selects `nixosConfigurations.<name>` and fills `{hostname}` in branch names.
            The agent never asks the kernel for it.
          '';
        };
        copiedSecrets = mkOption {
          type = types.listOf types.path;
          default = [ ];
          internal = true;
          description = "Where the secrets come from that the gateway has copies of. Filled in by this module.";
        };
        stateDirectory = mkOption {
          type = types.path;
          default = "/var/lib/pullagent";
          readOnly = true;
          description = "Where the agent keeps its journal and its verified history. The unit creates it for root only.";
        };
        expectedMachineId = mkNullable (types.strMatching "[0-9a-f]{32}") ''
          Content of {file}`/etc/machine-id`. Refuses to deploy on other hardware with the same host name.
        '';
        remotes = mkOption {
          type = types.listOf remote;
          default = [ ];
          description = "Git remotes in order of preference; any of them may answer. At least one.";
        };
        hints = mkOption {
          type = types.listOf hint;
          default = [ ];
          example = lib.literalExpression ''
            [ { name = "nchan"; kind = "sse"; url = "https://push.example.org/infra"; } ]
          '';
          description = ''
            Who says that something was pushed, so that a deployment does not wait for the next poll. Eight at most. None of
            them is trusted: a hint has remotes polled, at most once in 5 s and ten times a minute for each source, and
            nothing in it is used for anything else.
          '';
        };
        branches = mkOption {
          type = types.listOf branch;
          default = [
            {
              pattern = "main";
              operation = "switch";
            }
            {
              pattern = "test-{hostname}";
              operation = "test";
            }
          ];
          description = "Which branches are followed: one with `switch`, at most one with `test`.";
        };
        source = {
          kind = mkOption {
            type = types.enum [ "flake" ];
            default = "flake";
            description = "How a commit becomes a system.";
          };
          subdir = mkOption {
            type = types.str;
            default = ".";
            description = "Folder of {file}`flake.nix` in the repository. Another one than its root takes Nix 2.18 or later.";
          };
          attribute = mkNullable types.str ''
            Attribute of the system to build. `null` means
            `nixosConfigurations."<hostname>".config.system.build.toplevel`.
          '';
          submodules = mkOption {
            type = types.attrsOf submodule;
            default = { };
            example = lib.literalExpression ''
              {
                "modules/common" = {
                  url = "https://git.example.org/me/common.git";
                  tokenFile = "/etc/pullagent-keys/common-token";
                };
              }
            '';
            description = ''
              Where the repository's Git submodules are fetched from, by their paths in the repository; one inside another is
              named by its whole path. At most 32. A commit with a submodule that the running system does not name here is
              refused, so name it in one commit, and add it once that runs.

              Which commit of a submodule is deployed, the signed commit says; what is in it need not be signed. The file
              {file}`.gitmodules` is not read. Each submodule comes with its whole history, within the bounds of
              {option}`services.pullagent.settings.fetch`.
            '';
          };
        };
        trust = {
          mode = mkOption {
            type = types.enum [ "static" ];
            default = "static";
            description = "Where the keys come from: `static` means from this configuration, as it runs.";
          };
          introduction = mkNullable (types.strMatching "[0-9a-f]{40}|[0-9a-f]{64}") ''
            Full id of the commit to start from where {option}`services.pullagent.revision` is `null`.
            Nothing is ever trusted on first use.
          '';
          signers = mkOption {
            type = types.attrsOf signer;
            default = { };
            description = "Who may sign, by name. At least one.";
          };
          revokedKeys = mkOption {
            type = types.listOf publicKey;
            default = [ ];
            description = ''
              Public keys that count for nothing, whatever the date of their signatures and whoever lists them. What was
              accepted before stays accepted.
            '';
          };
          refBinding = mkOption {
            type = types.enum [
              "test"
              "strict"
            ];
            default = "test";
            description = ''
              Which tips must name their branch in a line `Deploy-To: <branch>` of the commit message, as
              {command}`git commit --trailer "Deploy-To: test-web1"` writes it: those of the test branch (`test`), or all
              (`strict`). Where a tip has such a line it binds in any case. With `test`, a Git server can show a signed
              commit of another branch as `main`, if it has no such line.
            '';
          };
          merges = mkOption {
            type = types.enum [
              "every"
              "vouch"
            ];
            default = "every";
            description = ''
              Whether the commits that a signed merge brings in must be signed, too (`every`), or the merge vouches for
              them (`vouch`). Then only the line of first parents is verified, and a {command}`git pull` that merges
              without looking vouches for whatever the server had.
            '';
          };
          requireUserVerification = mkOption {
            type = types.bool;
            default = false;
            description = "Asks of FIDO keys a PIN or fingerprint, not just a touch.";
          };
          staleAfter = mkDuration "24h" "After how long without an answer from any remote the host counts as stale.";
        };
        fetch =
          let
            mkMax =
              default: description:
              mkOption {
                type = types.ints.positive;
                inherit default description;
              };
          in
          {
            packBytesMax = mkMax (512 * 1024 * 1024) "Bytes of one pack that a remote may send.";
            objectBytesMax = mkMax (64 * 1024 * 1024) "Bytes of one object; the import may use a little more than four times as much memory.";
            unpackedBytesMax = mkMax (8 * 1024 * 1024 * 1024) "Bytes of all new objects of one pack, unpacked.";
            objectsMax = mkMax 1000000 "Objects in one pack.";
            idleTimeout = mkDuration "30s" "How long a remote may be silent.";
            pollTimeout = mkDuration "60s" "How long asking a remote for its branches may take in all.";
            timeout = mkDuration "20m" "How long a pack may take in all.";
          };
        build = {
          timeout = mkNullable duration "How long a build may take; `null` means as long as it likes.";
          evalTimeout = mkDuration "30m" "How long the evaluation may take.";
          evalMemoryMax = mkNullable types.ints.positive "Bytes of address space that the evaluation may use; `null` means no limit.";
        };
        activation = {
          soak = mkDuration "60s" "How long all hard checks must be green in one go.";
          window = mkDuration "5m" "How long a new system may take to become healthy; longer than the soak time.";
          confirm = mkOption {
            type = types.enum [
              "automatic"
              "manual"
            ];
            default = "automatic";
            description = ''
              Who says that a new system that proved healthy stays: the agent itself, or somebody who says
              {command}`pullagent confirm`. Where nobody does in time, the host goes back, so a system that locks everybody
              out does not stay. Both systems may ask for it, the one that runs and the one that is tried.
            '';
          };
          confirmWithin = mkDuration "15m" "How long an answer is waited for with {option}`confirm` set to `manual`.";
          switchTimeout = mkDuration "15m" "How long {command}`switch-to-configuration` may take.";
          retryNonce = mkOption {
            type = types.str;
            default = "";
            example = "2027-01-15 mirror mended";
            description = ''
              A text without a meaning. Another one than before, in an accepted commit, has every host try again what failed, as
              {command}`pullagent retry` does, and lifts the suspension after too many rollbacks.
            '';
          };
          drift = mkOption {
            type = types.enum [
              "hold"
              "enforce"
            ];
            default = "hold";
            description = ''
              What to do about a system that somebody else switched to: leave it until the branch moves (`hold`),
              or deploy the accepted commit again (`enforce`).
            '';
          };
          activationErrors = mkOption {
            type = types.enum [
              "rollback"
              "tolerate"
            ];
            default = "rollback";
            description = ''
              What to do about a system that runs, but a script of whose activation failed: go back (`rollback`), or say
              so and let its health decide (`tolerate`).
            '';
          };
          allowRemoval = mkOption {
            type = types.bool;
            default = false;
            description = ''
              Whether a system without pullagent may be deployed. Nothing brings such a host back but somebody who
              logs in, so a commit that leaves the agent out is called off unless the running system allows it.
            '';
          };
          reboot = {
            policy = mkOption {
              type = types.enum [
                "never"
                "window"
                "immediate"
              ];
              default = "never";
              description = ''
                What is done about a commit whose kernel, initrd, kernel parameters or the like differ from what was booted.
                `never`: services are updated at once and the rest waits for a reboot by somebody else; until then
                {command}`pullagent status` says so. `window`: the same, until one of
                {option}`services.pullagent.settings.activation.reboot.window` opens. `immediate`: at once.

                The agent never just reboots: it boots the new system once, while the old one stays the default, and makes it
                the default when it has proved healthy. A system that does not come up, or not healthy, falls back to the
                old one. For that the host needs systemd-boot and EFI variables; elsewhere the agent does not reboot, and
                says why.
              '';
            };
            window = mkOption {
              type = types.listOf (
                types.strMatching "(((Mon|Tue|Wed|Thu|Fri|Sat|Sun)(,|\\.\\.))*(Mon|Tue|Wed|Thu|Fri|Sat|Sun) )?[0-2][0-9]:[0-5][0-9]-[0-2][0-9]:[0-5][0-9]"
              );
              default = [ ];
              example = [
                "02:00-05:00"
                "Sat,Sun 22:00-04:00"
              ];
              description = ''
                When the host may be rebooted, by its own clock ({option}`time.timeZone`). A window that ends before it begins
                goes on past midnight; its days are those on which it begins. Without days it is every day.
              '';
            };
            unattendedUnlock = mkOption {
              type = types.bool;
              default = false;
              description = ''
                Whether this host's encrypted disks are unlocked at boot without anybody's hands: by a TPM, a key file or a
                server. Without it the agent never reboots a host that has a disk encrypted by LUKS or BitLocker, not even
                to rescue it, for nobody may be there to type a passphrase.
              '';
            };
          };
          freeBytesMin = mkOption {
            type = types.ints.unsigned;
            default = 64 * 1024 * 1024;
            description = ''
              Bytes that must be free on the file systems of the Nix store and of the state directory before a switch.
            '';
          };
        };
        retention.generations = {
          keep = mkNullable types.ints.positive ''
            How many of the newest generations of the system profile are kept, whatever their age. `null`: {option}`maxAge`
            alone decides; with neither, all are kept. After each deployment that was confirmed, and at no other time, older
            ones are removed with their boot entries, but never what runs, was booted, is booted next, or was permanent
            before. Garbage is not collected: that is for {option}`nix.gc`.
          '';
          maxAge = mkNullable duration ''
            How old a generation must be to be removed. `null`: {option}`keep` alone decides. With both, one is removed only
            if it is older than this and not among the newest.
          '';
        };
        exporter = mkNullable (record {
          listen = mkNullable (types.strMatching "[0-9.]+:[0-9]+|\\[[0-9a-f:.]+]:[0-9]+") ''
            Address and port at which Prometheus may ask for {file}`/metrics`, such as `"127.0.0.1:9175"`, over plain HTTP and
            without a password. Whoever reaches that address can read the revisions, the names of remotes and checks, and
            how the host is. The firewall is left as it is.
          '';
          textfile = mkNullable (types.strMatching "/.+/[^/]+\\.prom") ''
            File that is written anew every half minute, for the textfile collector of node_exporter:
            `"/var/lib/prometheus-node-exporter/pullagent.prom"`. Its directory must exist; the user `pullagent-gateway` is
            given the right to write there (an ACL), so whoever takes over the gateway could write other files of that
            collector, too.
          '';
        }) ''
          Where metrics are shown; `null` means nowhere. The gateway shows them, so they go on while the agent is dead or
          hangs, and say so. Alert rules and a dashboard are in {file}`docs/monitoring`.
        '';
        webhooks = {
          listen = mkOption {
            type = types.strMatching "[0-9.]+:[0-9]+|\\[[0-9a-f:.]+]:[0-9]+";
            default = "127.0.0.1:9176";
            description = ''
              Address and port at which webhooks are heard, over plain HTTP: behind a reverse proxy that speaks HTTPS, or on
              a network that only the forge is in. systemd listens there ({file}`pullagent-webhook.socket`), so the gateway
              needs no right to. The firewall is left as it is.
            '';
          };
          hooks = mkOption {
            type = types.attrsOf hook;
            default = { };
            example = lib.literalExpression ''
              {
                forgejo = {
                  kind = "forgejo";
                  secretFiles = [ "/etc/pullagent-keys/forgejo-webhook" ];
                };
              }
            '';
            description = ''
              Who may say by a request that something was pushed, by name; each is at `/hook/<name>`. All it brings about is
              that the remotes are asked at once instead of at their interval. Nothing in a request is read.
            '';
          };
        };
        health = {
          unitFailures = mkOption {
            type = types.enum [
              "hard"
              "soft"
              "ignore"
            ];
            default = "hard";
            description = ''
              What it means that a unit failed since the switch, is restarted again and again, or ran before and does not
              any more although the new system wants it to: a rollback (`hard`), a line in the report (`soft`), or nothing.
              Units that were failing before the switch do not count.
            '';
          };
          ignoreUnits = mkOption {
            type = types.listOf types.str;
            default = [ ];
            example = [ "backup-*.service" ];
            description = "Units that never count for that, by full name; `*` stands for any text.";
          };
          scriptDirectories = mkOption {
            type = types.listOf types.path;
            default = [ ];
            example = [ "/etc/greenboot/check" ];
            description = ''
              Folders with programs in {file}`required.d` and {file}`wanted.d`, as greenboot has them. Each program is a
              check that runs as root: what is required rolls back when it fails, what is wanted is reported.
            '';
          };
          checks = mkOption {
            type = types.attrsOf check;
            default = { };
            example = lib.literalExpression ''
              {
                web.http = "http://127.0.0.1/healthz";
                database.unit = "postgresql.service";
              }
            '';
            description = ''
              What else healthy means, by name. Each check sets exactly one of `http`, `tcp`, `dns`, `unit` and `command`.
              Where {option}`services.openssh` is enabled and listens on all addresses, there is a check `ssh` already.
            '';
          };
        };
      };
      default = { };
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = !config.system.autoUpgrade.enable;
        message = "services.pullagent and system.autoUpgrade would undo each other's work; enable only one of them.";
      }
      {
        assertion = !(config.services.comin.enable or false);
        message = "services.pullagent and services.comin would undo each other's work; enable only one of them.";
      }
      {
        assertion = config.nix.enable;
        message = "services.pullagent builds with the host's Nix; nix.enable must be true.";
      }
      {
        assertion = cfg.settings.hostname != "";
        message = "services.pullagent needs a host name: set networking.hostName or services.pullagent.settings.hostname.";
      }
      {
        assertion = cfg.settings.remotes != [ ];
        message = "services.pullagent has nothing to follow: services.pullagent.settings.remotes is empty.";
      }
      {
        assertion = lib.any (s: s.keys != [ ] && lib.elem "deployer" s.roles) (
          lib.attrValues cfg.settings.trust.signers
        );
        message = ''
          services.pullagent trusts nobody: services.pullagent.settings.trust.signers needs at least one signer
          with a key and the role "deployer".
        '';
      }
    ]
    ++ map (s: {
      assertion = !(lib.hasPrefix builtins.storeDir s.path);
      message = "${s.option} lies in the Nix store, which every user of the host can read: '${s.path}'.";
    }) (secrets ++ hookSecrets);

    # A host that its administrators can't log in to any more is not healthy.
    services.pullagent.settings.health.checks = lib.mkIf answersSsh {
      ssh = lib.mkDefault {
        tcp = "127.0.0.1:${toString (lib.head ssh.ports)}";
        expect = "SSH-";
      };
    };

    environment.systemPackages = [ cfg.package ];
    environment.etc."pullagent/config.json".source = configFile;
    environment.etc."pullagent/revision" = lib.mkIf (cfg.revision != null) {
      text = "${cfg.revision}\n";
    };

    # Members of pullagent-admin may steer the agent through its control socket. Reading its status takes no group.
    users.groups = lib.genAttrs (described.groups ++ described.users) (_: { });
    users.users = lib.genAttrs described.users (name: {
      isSystemUser = true;
      group = name;
      description = "Network gateway of pullagent";
    });

    # What NixOS does to these units during a switch (all of it set in units.json):
    # - A changed service is restarted at the end (`X-StopIfChanged=false`), with the new definition, rather than
    #   stopped at the beginning. The switch and its guard are units of their own and go on meanwhile. Stopping the
    #   reconciler would also take down its socket, and with it what the gateway is about to say.
    # - `restartIfChanged` stays on: an agent that kept running its old version could not prove that the new one works.
    # - A socket that is changed is left as it is, which is NixOS's rule for all sockets. So what is said of this one
    #   must stay valid; it takes effect at the next boot.
    # - A system without pullagent does not stop the agent that is deploying it (`X-StopOnRemoval=false`), or nobody
    #   would be left to prove that system healthy. It ends with the next boot.
    # - No ordering after network-online.target: a host without a network must still come up with an agent that can be
    #   asked, and polling recovers by itself.
    systemd.sockets.pullagent = unitOf "pullagent.socket" // {
      socketConfig = filled installed."pullagent.socket".Socket;
    };

    # It is opened with the gateway and closed with it, so that another address counts at once.
    systemd.sockets.pullagent-webhook = lib.mkIf (hookSecrets != [ ]) (
      unitOf "pullagent-webhook.socket"
      // {
        socketConfig = filled installed."pullagent-webhook.socket".Socket // {
          ListenStream = cfg.settings.webhooks.listen;
        };
      }
    );

    # Only this directory, and only in addition to what its owner and group may do there.
    systemd.tmpfiles.settings = lib.mkIf (textfile != null) {
      "10-pullagent".${dirOf textfile}."a+".argument = "u:pullagent-gateway:rwx";
    };

    systemd.services.pullagent = serviceOf "pullagent.service" {
      # systemctl, systemd-run and journalctl are in the path of every unit of NixOS.
      path = [
        config.nix.package
        # For evaluations: inputs of flakes that are Git repositories.
        pkgs.gitMinimal
        pkgs.openssh
      ];
      # The reconciler has no network. What is outside is for the evaluations, which get its environment.
      environment = config.nix.envVars // outside;
      # It reads its configuration when it starts. The revision is not among what restarts it.
      restartTriggers = [ configFile ];
    };

    # It is told by the reconciler what to watch, and restarted with it, so it reads anew where to show metrics and who may
    # send to webhooks, too. A change of its own unit restarts nothing else.
    systemd.services.pullagent-gateway = serviceOf "pullagent-gateway.service" {
      # For SSH remotes, and for those that are a path.
      path = [
        pkgs.openssh
        pkgs.gitMinimal
      ];
      environment = outside;
      serviceConfig = {
        LoadCredential = map (s: "${s.name}:${s.path}") (secrets ++ hookSecrets);
      }
      // lib.optionalAttrs (hookSecrets != [ ]) {
        # Which also pulls that socket in, and orders the gateway after it.
        Sockets = "pullagent-webhook.socket";
        # systemd takes these where a file is missing, instead of not starting the gateway. They are too short to be used.
        SetCredential = map (s: "${s.name}:missing") hookSecrets;
      }
      // lib.optionalAttrs (listen != null) {
        SocketBindAllow = listenRule;
        SystemCallFilter = installed."pullagent-gateway.service".Service.SystemCallFilter ++ [ "listen" ];
      }
      # Without its directory there are no metrics; the gateway comes up all the same.
      // lib.optionalAttrs (textfile != null) { ReadWritePaths = [ "-${dirOf textfile}" ]; };
    };
  };
}
