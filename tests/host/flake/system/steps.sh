# Sourced by what a switch consists of. Says each step in a log before it is done, and does instead what a fault
# says: one of the system itself (its file `faults`, lines of: verb step fault) or one that was put on this machine
# (`/run/switch-faults`, lines of: toplevel verb step fault), where each line counts for one run.
# Needs `toplevel` and `verb`; `*` stands for any toplevel or verb.
steps_log=/var/log/switch.log
run_faults=/run/switch-faults

say() { echo "$verb: $*" >&2; }

log_step() { echo "$toplevel $verb $*" >> "$steps_log"; }

own_fault() {
  awk -v v="$verb" -v s="$1" '($1 == v || $1 == "*") && $2 == s { print $3; exit }' "$toplevel/faults"
}

put_fault() {
  [ -e "$run_faults" ] || return 0
  awk -v t="$toplevel" -v v="$verb" -v s="$1" -v rest="$run_faults.rest" '
    !hit && ($1 == t || $1 == "*") && ($2 == v || $2 == "*") && $3 == s { print $4; hit = 1; next }
    { print > rest }
    END { printf "" >> rest }' "$run_faults"
  mv "$run_faults.rest" "$run_faults"
}

# The whole switch is killed, also from the activation script that is a child of it; at boot it is that script only.
die() { kill -KILL ${SWITCH_PID-} $$; }

# What hangs must not keep the lock of a switch that is killed.
hang() { sleep infinity 9>&-; }

step() {
  local fault
  fault=$(put_fault "$1")
  [ -n "$fault" ] || fault=$(own_fault "$1")
  log_step "$1" $fault
  case $fault in
    '') ;;
    fail) say "step '$1' fails"; return 1 ;;
    die) die ;;
    hang) hang ;;
    stuck) trap '' HUP INT TERM; hang ;;
    wait:*) sleep "${fault#wait:}" 9>&- ;;
    *) say "unknown fault '$fault'"; exit 70 ;;
  esac
}

# Readers never see a missing link: a new one is renamed over the old one.
point() { ln -s "$1" "$2.new.$$" && mv -T "$2.new.$$" "$2"; }
