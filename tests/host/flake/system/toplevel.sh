# Lays out one generation as NixOS does.
script() {
  sed -e "s|@out@|$out|g" -e "s|@steps@|$steps|g" -e "s|@compareUnits@|$compareUnits|g" -e "s|@readUnit@|$readUnit|g" \
    -e "s|@installBootLoader@|$out/bin/install-boot-loader|g" "$1" > "$out/$2"
  chmod 755 "$out/$2"
}
mkdir -p "$out/bin" "$out/specialisation"
script "$switchToConfiguration" bin/switch-to-configuration
script "$installBootLoader" bin/install-boot-loader
script "$activate" activate
script "$init" init

ln -s "$etc/etc" "$out/etc"
ln -s "$kernel" "$out/kernel"
ln -s "$initrd" "$out/initrd"
ln -s "$inhibitors" "$out/switch-inhibitors"
ln -s "$users" "$out/users"
ln -s "$groups" "$out/groups"
ln -s "$faults" "$out/faults"
# Programs and PID 1 are Debian's.
ln -s /usr "$out/sw"
ln -s /usr "$out/systemd"

printf '26.05.%s' "$label" > "$out/nixos-version"
printf '%s' "$interface" > "$out/init-interface-version"
printf '%s' "$kernelParams" > "$out/kernel-params"
printf '%s' "$system" > "$out/system"

params=
for param in $kernelParams; do params="$params${params:+, }\"$param\""; done
cat > "$out/boot.json" << JSON
{
  "org.nixos.bootspec.v1": {
    "init": "$out/init",
    "initrd": "$initrd",
    "kernel": "$kernel",
    "kernelParams": [$params],
    "label": "NixOS 26.05.$label",
    "system": "$system",
    "toplevel": "$out"
  },
  "org.nixos.specialisation.v1": {}
}
JSON
