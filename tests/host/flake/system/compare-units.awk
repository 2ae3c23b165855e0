# Reads two units as printed by read-unit.awk, the old one first, and prints what their difference asks for: `equal`,
# `reload` or `restart`.
BEGIN {
  FS = "\t"
  split("Description Documentation OnFailure OnSuccess OnFailureJobMode IgnoreOnIsolate StopWhenUnneeded " \
    "RefuseManualStart RefuseManualStop AllowIsolate CollectMode SourcePath", names, " ")
  for (n in names) ignored["Unit" FS names[n]]
}
{ at = $1 FS $2; seen[at]; if (FILENAME == ARGV[1]) old[at] = old[at] "\n" $3; else new[at] = new[at] "\n" $3 }
END {
  result = "equal"
  for (at in seen) {
    if (old[at] == new[at] || at in ignored) continue
    reloadable = at == "Unit" FS "X-Reload-Triggers" || at == "Service" FS "ExecReload"
    # What only says how to reload may go without a trace.
    if (reloadable && new[at] == "") continue
    if (reloadable || (at == "Mount" FS "Options" && old[at] != "" && new[at] != "")) result = "reload"
    else { print "restart"; exit }
  }
  print result
}
