# Prints a unit file and its drop-ins, given in this order, as lines of: section, key, value, separated by tabs. As
# for systemd, an empty value forgets the earlier ones. [Install] plays no role once a system is built.
BEGIN { OFS = "\t" }
/^[ \t]*([#;]|$)/ { next }
/^\[/ { section = substr($0, 2, index($0, "]") - 2); next }
section == "Install" || !index($0, "=") { next }
{
  key = substr($0, 1, index($0, "=") - 1)
  value = substr($0, index($0, "=") + 1)
  gsub(/^[ \t]+|[ \t]+$/, "", key)
  gsub(/^[ \t]+|[ \t]+$/, "", value)
  at = section OFS key
  if (!(at in count)) order[++places] = at
  if (value == "") count[at] = 0
  else values[at, ++count[at]] = value
}
END { for (n = 1; n <= places; n++) for (i = 1; i <= count[order[n]]; i++) print order[n], values[order[n], i] }
