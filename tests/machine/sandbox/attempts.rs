//! The attempts: what each one is, and the shell script that makes it. It succeeds when its script does.

/// An attempt: what it is, and its script.
pub type Attempt = (&'static str, &'static str);

/// What no process of pullagent can do, root or not.
pub const NOBODY: &[Attempt] = &[
    ("read /root", "cat /root/planted"),
    ("read /home", "cat /home/planted"),
    ("read another user's file", "cat /srv/private"),
    ("trace a process", "strace -o /dev/null true"),
    ("share memory with others", "test -e /dev/shm/planted"),
    ("mount a file system", "mount -t tmpfs none /tmp"),
    ("enter a user namespace of its own", "unshare --user true"),
    ("enter a mount namespace of its own", "unshare --mount true"),
    ("enter a network namespace of its own", "unshare --net true"),
    ("change the host's name", "hostname $(hostname)"),
    ("make a device file", "mknod /tmp/null c 1 3"),
    ("make a program set-uid", "cp /bin/true /tmp/set-uid && chmod u+s /tmp/set-uid"),
    ("gain privileges by a program", "grep -q '^NoNewPrivs:.0' /proc/self/status"),
    ("raise its priority", "renice -n -5 $$"),
    ("open a packet socket", "perl -e 'socket(S, 17, 3, 0) or die $!'"),
    ("emulate another kernel", "setarch --uname-2.6 true"),
    ("write to the kernel's settings", "cd /proc/sys/net/ipv4 && cat ip_default_ttl > ip_default_ttl"),
    ("write to the control groups", "mkdir /sys/fs/cgroup/planted && rmdir /sys/fs/cgroup/planted"),
];

/// What nobody in the machine can do, because its kernel is somebody else's; the sandboxes forbid it all the same.
pub const NOT_EVEN_ROOT: &[Attempt] = &[
    ("load a kernel module", "perl -e 'syscall(`uname -m` =~ /x86/ ? 175 : 105, 0, 0, \"\") == 0 or die $!'"),
    ("set the clock", "date -s @1700000000"),
];

/// What would run code that was not there before.
pub const NEW_CODE: &[Attempt] = &[(
    "have memory that is writable and executable",
    "perl -e 'syscall(`uname -m` =~ /x86/ ? 9 : 222, 0, 4096, 7, 0x22, -1, 0) != -1 or die $!'",
)];

/// What processes without privileges can't do.
pub const UNPRIVILEGED: &[Attempt] = &[
    ("be root", "test $(id -u) = 0"),
    ("become root", "setpriv --reuid 0 --clear-groups true"),
    ("have a capability", "grep -q '^CapBnd:.*[1-9a-f]' /proc/self/status"),
    ("see the processes of others", "test -e /proc/1"),
    ("read the arguments of others", "cat /proc/$(cat /srv/root.pid)/cmdline"),
    ("read the state directory", "cat /var/lib/pullagent/planted"),
    ("write to the state directory", "touch /var/lib/pullagent/planted"),
    ("read the host's secrets", "cat /etc/secrets/token"),
    ("read the password hashes", "cat /etc/shadow"),
    ("read another service's credentials", "cat /run/credentials/other.service/secret"),
    ("read the host's log", "journalctl -q -n 1 | grep ."),
    (
        "give the agent orders",
        "perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0) && \
      connect(S, pack_sockaddr_un(\"/run/pullagent/control.sock\")) or die $!'",
    ),
    ("say that it is the agent", "touch /run/pullagent/status.json"),
    ("signal a process of root", "kill -0 $(cat /srv/root.pid)"),
    ("signal a process of another user", "kill -0 $(cat /srv/victim.pid)"),
    ("start a unit", "systemctl start planted.service"),
    ("start a program as a unit", "systemd-run --quiet --wait true"),
    ("change the system profile", "ln -sfn /nix/planted /nix/var/nix/profiles/planted"),
    ("write to the store", "touch /nix/store/planted"),
    (
        "write anywhere but to /tmp",
        "find / \\( -path /proc -o -path /tmp -o -path /var/tmp -o -path /dev \\) -prune -o -type d -writable -print | grep .",
    ),
];

pub const GATEWAY_CANNOT: &[Attempt] = &[
    ("run what it has written", "cp /bin/true /tmp/program && /tmp/program"),
    ("reach the Nix daemon", "NIX_REMOTE=daemon nix-store --query --requisites /run/current-system"),
    ("reach D-Bus", "busctl list"),
    ("open a raw socket", "perl -e 'socket(S, 2, 3, 1) or die $!'"),
    ("open a netlink socket", "perl -e 'socket(S, 16, 3, 0) or die $!'"),
    (
        "listen at a port",
        "perl -MIO::Socket::INET -e 'IO::Socket::INET->new(Listen => 1, LocalPort => 4711) or die $!'",
    ),
];

pub const GATEWAY_CAN: &[Attempt] = &[
    ("resolve a name", "getent hosts git.example.org"),
    ("read its own credentials", "grep -q . /run/credentials/pullagent-gateway.service/origin.tokenFile"),
    (
        "fetch over HTTPS",
        "curl -sSf --cacert /etc/secrets/ca -u pullagent:$(cat $CREDENTIALS_DIRECTORY/origin.tokenFile) \
         'https://git.example.org/infra.git/info/refs?service=git-upload-pack' -o /tmp/refs",
    ),
    (
        "fetch over SSH",
        "printf 0000 | ssh -F none -o BatchMode=yes -o UserKnownHostsFile=/etc/secrets/hosts \
         -i $CREDENTIALS_DIRECTORY/deploy.sshKeyFile git@git.example.org \"git-upload-pack '/srv/repos/infra.git'\"",
    ),
    (
        "fetch from a path that belongs to root",
        "export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'; \
         printf 0000 | git-upload-pack /srv/own.git",
    ),
    (
        "open the reconciler's socket",
        "perl -MSocket -e 'socket(S, AF_UNIX, SOCK_SEQPACKET, 0) && \
         connect(S, pack_sockaddr_un(\"/run/pullagent/gateway.sock\")) or die $!'",
    ),
    ("read the configuration", "grep -q origin /etc/pullagent/config.json"),
    ("write to its own /tmp", "touch /tmp/mine"),
];

pub const RECONCILER_CANNOT: &[Attempt] = &[
    ("open an IPv4 socket", "perl -e 'socket(S, 2, 1, 0) or die $!'"),
    ("open a UDP socket", "perl -e 'socket(S, 2, 2, 0) or die $!'"),
    ("open an IPv6 socket", "perl -e 'socket(S, 10, 1, 0) or die $!'"),
    ("open a netlink socket", "perl -e 'socket(S, 16, 3, 0) or die $!'"),
    ("have a network interface", "grep -q host0 /proc/self/net/dev"),
    ("resolve a name", "getent hosts git.example.org"),
    ("reach the forge", "nc -z 10.80.0.1 443"),
    ("reach this machine's own servers", "curl -sf http://127.0.0.1:8080/config.json"),
    ("read the gateway's credentials", "cat /run/credentials/pullagent-gateway.service/origin.tokenFile"),
    ("become another user", "setpriv --reuid 65534 --clear-groups true"),
    (
        "write anywhere but to its directories",
        "find / \\( -path /proc -o -path /tmp -o -path /var/tmp -o -path /var/lib/pullagent -o -path /run/pullagent \
         -o -path /nix/var/nix/profiles -o -path /dev \\) -prune -o -type d -writable -print | grep .",
    ),
];

pub const RECONCILER_CAN: &[Attempt] = &[
    ("start and stop units", "systemctl start planted.service && systemctl stop planted.service"),
    ("list units", "systemctl list-units | grep -q other.service"),
    ("start a program as a unit", "systemd-run --quiet --wait touch /srv/outside && test -e /srv/outside"),
    (
        "set a timer",
        "systemd-run --quiet --on-boot=1000000 --unit=deadline true && systemctl stop deadline.timer",
    ),
    (
        "ask the Nix daemon",
        "NIX_REMOTE=daemon nix-store --query --requisites /run/current-system | grep -q etc",
    ),
    (
        "realise and protect a path",
        "NIX_REMOTE=daemon nix-store --realise $(readlink -f /run/current-system) --add-root \
         /var/lib/pullagent/roots/one && test -e /var/lib/pullagent/roots/one",
    ),
    (
        "set a profile",
        "NIX_REMOTE=daemon nix-env -p /nix/var/nix/profiles/tried --set $(readlink -f /run/current-system) && \
         test $(readlink -f /nix/var/nix/profiles/tried) = $(readlink -f /run/current-system)",
    ),
    (
        "make the socket for orders",
        "perl -MSocket -e 'unlink \"/run/pullagent/s\"; socket(S, AF_UNIX, SOCK_STREAM, 0) && \
         bind(S, pack_sockaddr_un(\"/run/pullagent/s\")) or die $!' && \
         chown root:pullagent-admin /run/pullagent/s && chmod 660 /run/pullagent/s",
    ),
    ("write to its state", "echo > /var/lib/pullagent/mine && sync /var/lib/pullagent/mine"),
    ("publish its status", "echo > /run/pullagent/new && mv /run/pullagent/new /run/pullagent/status.json"),
    ("read the boot's id", "grep -q . /proc/sys/kernel/random/boot_id"),
    ("read the host's log", "journalctl -q -n 1 | grep ."),
    ("read the boot loader's entries", "grep -q . /boot/loader/loader.conf"),
    (
        "read what runs and what was booted",
        "test -e /run/current-system/init && test -e /run/booted-system/init",
    ),
    ("bound its children", "ulimit -v 4000000 && ulimit -t 100 && ulimit -f 100000 && true"),
    ("have an empty /tmp of its own", "test -z \"$(ls /tmp)\" && touch /tmp/mine"),
];

/// What neither evaluations nor checks can do, besides what nobody can.
pub const TRANSIENT_CANNOT: &[Attempt] = &[
    (
        "reach the gateway's socket",
        "perl -MSocket -e 'socket(S, AF_UNIX, SOCK_SEQPACKET, 0) && \
      connect(S, pack_sockaddr_un(\"/run/pullagent/gateway.sock\")) or die $!'",
    ),
    ("read the gateway's credentials", "cat /run/credentials/pullagent-gateway.service/origin.tokenFile"),
    ("open a raw socket", "perl -e 'socket(S, 2, 3, 1) or die $!'"),
];

pub const TRANSIENT_CAN: &[Attempt] = &[
    ("resolve a name", "getent hosts git.example.org"),
    ("reach servers", "nc -z 10.80.0.1 443"),
    ("ask this machine's own servers", "curl -sf http://127.0.0.1:8080/config.json"),
    ("write to an empty /tmp of its own", "test -z \"$(ls /tmp)\" && touch /tmp/mine"),
    ("use the Nix daemon", "NIX_REMOTE=daemon HOME=/tmp/home nix-store --add /etc/pullagent/config.json"),
];

pub const BUILD_CANNOT: &[Attempt] =
    &[("reach D-Bus", "busctl list"), ("open a netlink socket", "perl -e 'socket(S, 16, 3, 0) or die $!'")];

pub const BUILD_CAN: &[Attempt] = &[(
    "evaluate",
    "export NIX_REMOTE=daemon HOME=/tmp/home; nix-instantiate --eval -E 'toString (1 + 1)' && \
     nix-instantiate -E 'derivation { name = \"n\"; system = builtins.currentSystem; builder = \"/bin/sh\"; }'",
)];

pub const PROBE_CAN: &[Attempt] = &[
    ("look at the network", "ip address show dev host0"),
    ("have shared memory of its own", "touch /dev/shm/mine"),
    ("read the running system", "test -e /run/current-system/init"),
];
