# Lays out one generation as NixOS does: what the agent reads, and what the demo's web service needs.
mkdir -p "$out/bin" "$out/etc/pullagent" "$out/etc/nginx"

sed "s|@out@|$out|g" "$switchToConfiguration" > "$out/bin/switch-to-configuration"
chmod +x "$out/bin/switch-to-configuration"

cp "$agentConfig" "$out/etc/pullagent/config.json"
[ -z "$revision" ] || printf '%s\n' "$revision" > "$out/etc/pullagent/revision"
sed "s|@out@|$out|g" "$nginxConfig" > "$out/etc/nginx/nginx.conf"
ln -s "$site" "$out/site"

printf '26.05.demo' > "$out/nixos-version"
printf '1' > "$out/init-interface-version"
printf 'quiet' > "$out/kernel-params"
printf '%s' "$system" > "$out/system"
ln -s "$kernel" "$out/kernel"
ln -s "$initrd" "$out/initrd"
printf '#!/bin/sh\nexec "%s/bin/switch-to-configuration" test\n' "$out" > "$out/init"
chmod +x "$out/init"
